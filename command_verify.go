package chinaums

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"
	encoding "golang.org/x/text/encoding/unicode"
	"golang.org/x/text/transform"

	"github.com/caddy-chinaums/caddy-chinaums/internal/locale"
	"github.com/caddy-chinaums/caddy-chinaums/internal/outbound"
	"github.com/caddy-chinaums/caddy-chinaums/internal/secret"
)

func verifyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify [--config <path> [--adapter <name>] [--merchant <name>]] [--show] [<file>]",
		Short: "Says whether a saved notify verifies and, if not, which mistake explains it",
		Long: `
The signature doctor. Reads from the file, or from standard input, one of

  - a notify's body, a form or JSON, as it arrived;
  - a whole HTTP request: request line, headers, an empty line, the body;
  - the address of a return page or of an H5 link;
  - a call's request with its header Authorization: OPEN-BODY-SIG ...

and says whether the signature is right with the merchant's keys, what exactly was
signed, the digests, and if it is wrong, which known mistake gives just this
signature: another digest, another configured key, '+' kept, decoded twice, not
decoded, empty values in, values re-serialized, GBK, '&key=', the app_key instead of
the communication key, sorted regardless of case, and so on.

It exits with 1 if the signature is wrong. It speaks Chinese where LC_ALL,
LC_MESSAGES or LANG says zh. Values are masked unless --show is given: they may be a
buyer's.`,
		Args: cobra.MaximumNArgs(1),
		Example: `  caddy chinaums verify --config Caddyfile --merchant shop notify.txt
  UMS_NOTIFY_KEY=... caddy chinaums verify < notify.txt`,
	}
	keys := addKeyFlags(cmd)
	show := cmd.Flags().Bool("show", false, "Show values")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		name, merchants, err := keys.load(func(env func(string) string) *Merchant {
			merchant := &Merchant{AppID: env("UMS_APP_ID"), AppKey: env("UMS_APP_KEY")}
			if key := env("UMS_NOTIFY_KEY"); key != "" {
				merchant.NotifyKey = []string{key}
			}
			return merchant
		})
		if err != nil {
			return err
		}
		m, err := keys.resolve(name, merchants[name])
		if forNotifies, notifyErr := keys.resolve(name, onlyNotifies(merchants[name])); err != nil && notifyErr == nil {
			// The keys for calls may be out of reach in this shell.
			m, err = forNotifies, nil
		}
		if err != nil {
			return err
		}
		content, err := readInput(cmd, args)
		if err != nil {
			return err
		}
		captured, err := readCapture(content)
		if err != nil {
			return err
		}
		r := &report{w: cmd.OutOrStdout(), chinese: locale.Chinese(), show: *show}
		return r.examine(m, captured, doctorKeys(name, merchants))
	}
	return cmd
}

// onlyNotifies is the merchant without the keys for calls.
func onlyNotifies(config *Merchant) *Merchant {
	if config == nil {
		return nil
	}
	without := *config
	without.AppID, without.AppKey = "", ""
	return &without
}

// doctorKeys are all keys of the configuration, the merchant's own first. Those of other merchants that cannot be
// resolved here are left out.
func doctorKeys(name string, merchants map[string]*Merchant) (keys []doctorKey) {
	add := func(owner, option string, index int, raw string, m mistake) {
		value, _, err := secret.Resolve(raw)
		if err != nil {
			return
		}
		label := option
		if index > 0 {
			label += " " + strconv.Itoa(index+1)
		}
		if owner != name {
			label += " of " + owner
		}
		keys = append(keys, doctorKey{label, []byte(value), m})
	}
	for _, owner := range append([]string{name}, slices.DeleteFunc(slices.Sorted(maps.Keys(merchants)), func(n string) bool { return n == name })...) {
		config := merchants[owner]
		if config == nil {
			continue
		}
		for i, raw := range config.NotifyKey {
			m := mistake("")
			if owner != name {
				m = mistakeAnotherKey
			}
			add(owner, "notify_key", i, raw, m)
		}
		if config.AppKey != "" {
			m := mistakeAppKey
			if owner != name {
				m = mistakeAnotherKey
			}
			add(owner, "app_key", 0, config.AppKey, m)
		}
	}
	return keys
}

// capture is what somebody saved.
type capture struct {
	method  string      // "" where only a body was saved
	target  *url.URL    // likewise
	header  http.Header // likewise
	content []byte      // the body or, of a GET, the query
	notes   []string    // keys of doctorTexts
}

var requestLine = regexp.MustCompile(`^([A-Z]+) (\S+) HTTP/1\.[01]\r?\n`)

// readCapture tells what it was given.
func readCapture(content []byte) (*capture, error) {
	// A byte order mark is an editor's; after one, PowerShell's redirection is UTF-16. Anything else stays as it is.
	if plain, _, err := transform.Bytes(encoding.BOMOverride(transform.Nop), content); err == nil {
		content = plain
	}
	text := bytes.TrimLeft(content, " \t\r\n")
	if match := requestLine.FindSubmatch(text); match != nil {
		return readRequest(text, string(match[1]))
	}
	trimmed := string(bytes.TrimSpace(text))
	if rest, ok := strings.CutPrefix(trimmed, "?"); ok {
		trimmed = rest
	}
	if strings.HasPrefix(trimmed, "http://") || strings.HasPrefix(trimmed, "https://") {
		u, err := url.Parse(trimmed)
		if err != nil {
			return nil, errors.New("the address cannot be read")
		}
		return &capture{method: http.MethodGet, target: u, content: []byte(u.RawQuery)}, nil
	}
	// An editor or a shell ends a file with a newline; the platform sends none.
	if bytes.HasPrefix(text, []byte("?")) {
		text = text[1:]
	}
	return &capture{content: bytes.TrimRight(text, "\r\n")}, nil
}

func readRequest(text []byte, method string) (*capture, error) {
	head, body, _ := bytes.Cut(text, []byte("\r\n\r\n"))
	if bare, rest, ok := bytes.Cut(text, []byte("\n\n")); ok && len(bare) < len(head) {
		head, body = bare, rest
	}
	lines := strings.Split(strings.TrimRight(string(head), "\r\n"), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], "\r")
	}
	wire := strings.Join(lines, "\r\n") + "\r\n\r\n"
	req, err := http.ReadRequest(bufio.NewReader(strings.NewReader(wire)))
	if err != nil {
		return nil, fmt.Errorf("this begins like an HTTP request, but its head cannot be read: %w", err)
	}
	c := &capture{method: method, target: req.URL, header: req.Header, content: body}
	switch declared := req.ContentLength; {
	case slices.Contains(req.TransferEncoding, "chunked"):
		chunked, err := http.ReadRequest(bufio.NewReader(io.MultiReader(strings.NewReader(wire), bytes.NewReader(body))))
		if err == nil {
			c.content, err = io.ReadAll(chunked.Body)
		}
		if err != nil {
			// Many tools save a body without its chunks.
			c.content = bytes.TrimRight(body, "\r\n")
		}
	case declared > 0 && int64(len(body)) < declared, declared > 0 && int64(len(bytes.TrimRight(body, "\r\n"))) > declared:
		c.notes = append(c.notes, "note_length")
		c.content = bytes.TrimRight(body, "\r\n")
	case declared > 0:
		c.content = body[:declared]
	default:
		c.content = bytes.TrimRight(body, "\r\n")
	}
	if method == http.MethodGet {
		c.content = []byte(req.URL.RawQuery)
	}
	return c, nil
}

// report writes what the doctor finds, in one language.
type report struct {
	w       io.Writer
	chinese bool
	show    bool
	err     error
}

// say looks a text up in the report's language.
func (r *report) say(key string) string {
	texts, ok := doctorTexts[key]
	if !ok {
		return key
	}
	if r.chinese {
		return texts.chinese
	}
	return texts.english
}

func (r *report) line(key, format string, args ...any) {
	label := r.say(key) + ":"
	// Chinese characters are two columns wide.
	width := 0
	for _, c := range label {
		if width++; c > 0x2e80 {
			width++
		}
	}
	_, err := fmt.Fprintf(r.w, "%s%s %s\n", label, strings.Repeat(" ", max(0, 11-width)), fmt.Sprintf(format, args...))
	r.err = errors.Join(r.err, err)
}

// bare writes a text that has no label.
func (r *report) bare(text string) {
	_, err := fmt.Fprintln(r.w, text)
	r.err = errors.Join(r.err, err)
}

// examine reports on whatever was captured. Its error is the verdict, where that is bad.
func (r *report) examine(m *merchant, c *capture, keys []doctorKey) error {
	for _, note := range c.notes {
		r.line("note", "%s", r.say(note))
	}
	authorization := c.header.Get("Authorization")
	if scheme, _, _ := strings.Cut(authorization, " "); strings.EqualFold(scheme, "OPEN-BODY-SIG") {
		sig, err := parseBodySig(authorization)
		if err != nil {
			return fmt.Errorf("%s: %w", r.say("not_a_signature"), err)
		}
		return r.call(m, "input_call", sig, c.content, keys)
	}
	if c.method == http.MethodGet {
		if query, err := url.ParseQuery(string(c.content)); err == nil && query.Get("authorization") == "OPEN-FORM-PARAM" {
			sig := bodySig{query.Get("appId"), query.Get("timestamp"), query.Get("nonce"), query.Get("signature")}
			return r.call(m, "input_link", sig, []byte(query.Get("content")), keys)
		}
	}
	return r.notify(m, c, keys)
}

// notify reports on a notify or a return page.
func (r *report) notify(m *merchant, c *capture, keys []doctorKey) error {
	if code := string(outbound.TextMember(c.content, "errCode")); code != "" && isJSONObject(c.content) && !bytes.Contains(c.content, []byte(`"sign"`)) {
		return r.answer(code)
	}
	if err := needsNotifyKey(m); err != nil {
		return explained(m.name, err)
	}
	pairs, isJSON, err := parseLeniently(c.content)
	if err != nil {
		return fmt.Errorf("%s: %w", r.say("not_a_notify"), err)
	}
	kind := "input_form"
	switch {
	case isJSON:
		kind = "input_json"
	case c.method == http.MethodGet:
		kind = "input_return"
	}
	r.line("input", r.say(kind), len(pairs))
	r.line("merchant", r.say("merchant_keys"), m.name, len(m.notifyKeys))

	fields := acquireFields()
	defer fields.release()
	rejected := m.verify(fields, c.content, c.header)
	if reason := headerReason(c.header); reason != "" {
		rejected = &rejection{http.StatusUnsupportedMediaType, reason, nil}
	}

	signed := selections()[0].choose(pairs)
	text := joinPairs(signed)
	r.line("signed", "%s", r.say("signed_what"))
	r.bare(r.masked(signed, text))
	if sign := valueOf(pairs, "sign"); sign != "" {
		r.line("sign", "%s (signType %s)", printable(sign), cmp.Or(printable(valueOf(pairs, "signType")), "–"))
	}
	for _, k := range keys {
		if k.mistake != "" {
			continue
		}
		r.line("SHA256", "%x (%s)", sha256.Sum256(append([]byte(text), k.key...)), k.label)
		r.line("MD5", "%x (%s)", md5.Sum(append([]byte(text), k.key...)), k.label)
	}
	if rejected == nil {
		r.line("result", "%s", r.say("verifies"))
		want, _ := hex.DecodeString(valueOf(pairs, "sign")) // verified
		for _, k := range keys {
			if k.mistake == "" && equalDigest(want, append([]byte(text), k.key...)) {
				r.line("key", "%s", k.label)
			}
		}
		event := fields.event(nil, m.source())
		r.line("type", "%s", event.Type)
		r.line("id", "%s", event.ID) // a digest: it shows nothing, and the inbox finds the event by it
		r.line("subject", "%s", r.maskedValue(event.Subject))
		if err := readsOtherwise(c.content); err != nil && c.method != http.MethodGet {
			r.line("note", "%s (%s)", r.say("reason_"+reasonReadsOtherwise), printable(err.Error()))
		}
		return r.err
	}

	reason := r.say("reason_" + rejected.reason)
	if rejected.detail != nil {
		reason += " (" + printable(rejected.detail.Error()) + ")"
	}
	r.line("result", "%s: %s", r.say("does_not_verify"), reason)
	switch rejected.reason {
	case reasonMissingSignature, reasonAmbiguous, reasonMixed, "foreign_mid":
	default:
		r.mistakes(diagnose(pairs, isJSON, keys), text)
	}
	return errors.Join(r.err, fmt.Errorf("%s (%s)", r.say("does_not_verify"), rejected.reason))
}

// headerReason is why chinaums_notify would not even look at a body with this header, or "".
func headerReason(header http.Header) string {
	for _, contentType := range header["Content-Type"] {
		mediaType, _, _ := strings.Cut(contentType, ";")
		if mediaType = strings.ToLower(strings.TrimSpace(mediaType)); mediaType != "" && !slices.Contains(inward.ContentTypes, mediaType) {
			return "content_type"
		}
	}
	for _, encoding := range header["Content-Encoding"] {
		if encoding != "" && !strings.EqualFold(encoding, "identity") {
			return "content_encoding"
		}
	}
	return ""
}

// mistakes reports the diagnosis. text is what should have been signed.
func (r *report) mistakes(d *diagnosis, text string) {
	if d == nil {
		r.line("mistake", "%s", r.say("no_mistake"))
		return
	}
	if len(d.mistakes) == 0 {
		r.line("note", "%s", r.say("note_right_all_the_same"))
		return
	}
	for i, m := range d.mistakes {
		detail := ""
		if d.detail[i] != "" && d.detail[i] != string(m) {
			detail = " [" + printable(d.detail[i]) + "]"
		}
		r.line("mistake", "%s%s: %s", m, detail, r.say("mistake_"+string(m)))
	}
	if d.signed != nil && d.text != text {
		r.line("instead", "%s", fmt.Sprintf(r.say("instead_what"), d.key))
		r.bare(r.masked(d.signed, d.text))
	}
}

// call reports on a call or a link: what OPEN-BODY-SIG covers.
func (r *report) call(m *merchant, kind string, sig bodySig, body []byte, keys []doctorKey) error {
	if err := needsAppKey(m); err != nil {
		return explained(m.name, err)
	}
	r.line("input", r.say(kind), len(body))
	r.line("merchant", "%s", m.name)
	digest := sha256.Sum256(body)
	r.line("signed", "AppId=%s Timestamp=%s Nonce=%s", printable(sig.AppID), printable(sig.Timestamp), printable(sig.Nonce))
	r.line("SHA256", "%x (%s)", digest, r.say("of_body"))
	if at, err := time.ParseInLocation(bodySigTimeLayout, sig.Timestamp, beijing); err != nil {
		r.line("note", "%s", r.say("note_timestamp"))
	} else {
		r.line("note", "%s %s", r.say("note_time"), at.Format(time.RFC3339))
	}
	// Which key is the right one is the other way round than for notifies.
	calls := make([]doctorKey, 0, len(keys))
	for _, k := range keys {
		switch k.mistake {
		case mistakeAppKey:
			k.mistake = ""
		case "":
			k.mistake = mistakeNotifyKey
		}
		calls = append(calls, k)
	}
	d := diagnoseCall(sig, body, calls, map[string]string{"app_key": m.signer.appID})
	switch {
	case d != nil && len(d.mistakes) == 0 && sig.AppID == m.signer.appID:
		r.line("result", "%s", r.say("verifies"))
		return r.err
	case d != nil && len(d.mistakes) == 0:
		d.mistakes, d.detail = []mistake{mistakeOtherAppID}, []string{""}
	}
	r.line("result", "%s", r.say("does_not_verify"))
	r.mistakes(d, "")
	return errors.Join(r.err, fmt.Errorf("%s (%s)", r.say("does_not_verify"), reasonSignature))
}

// answer explains the error code of an answer.
func (r *report) answer(code string) error {
	known, ok := platformErrorByCode[cmp.Or(errCodeAliases[code], code)]
	if !ok {
		return fmt.Errorf("%s: errCode %s", r.say("not_a_notify"), printable(code))
	}
	cause, remedy := known.causeEnglish, known.remedyEnglish
	if r.chinese {
		cause, remedy = known.causeChinese, known.remedyChinese
	}
	r.line("input", "%s", r.say("input_answer"))
	r.line("errCode", "%s", known.code)
	r.line("cause", "%s", cause)
	r.line("remedy", "%s", remedy)
	return r.err
}

// masked shows what is signed: the text, or the names and how long each value is.
func (r *report) masked(signed []pair, text string) string {
	if r.show {
		return printable(text)
	}
	parts := make([]string, len(signed))
	for i, p := range signed {
		parts[i] = fmt.Sprintf("%s=<%d>", printable(p.name), len(p.value))
	}
	return strings.Join(parts, "&")
}

func (r *report) maskedValue(value string) string {
	if r.show {
		return printable(value)
	}
	return fmt.Sprintf("<%d>", len(value))
}

// printable escapes what could move a terminal's cursor, or is no UTF-8.
func printable(text string) string {
	var b strings.Builder
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRuneInString(text[i:])
		if r == utf8.RuneError && size < 2 || !unicode.IsPrint(r) {
			for _, c := range []byte(text[i : i+size]) {
				fmt.Fprintf(&b, `\x%02x`, c)
			}
		} else {
			b.WriteRune(r)
		}
		i += size
	}
	return b.String()
}

// doctorTexts are what the doctor says. Those that begin with reason_ and mistake_ are made of the words in the code.
var doctorTexts = map[string]struct{ english, chinese string }{
	"input":         {"input", "输入"},
	"merchant":      {"merchant", "商户"},
	"signed":        {"signed", "待签名串"},
	"sign":          {"sign", "签名"},
	"result":        {"result", "结论"},
	"mistake":       {"mistake", "原因"},
	"key":           {"key", "密钥"},
	"instead":       {"instead", "实际签名"},
	"note":          {"note", "说明"},
	"cause":         {"cause", "原因"},
	"remedy":        {"remedy", "怎么办"},
	"type":          {"type", "事件类型"},
	"id":            {"id", "事件标识"},
	"subject":       {"subject", "订单"},
	"order":         {"order", "订单号"},
	"status":        {"status", "状态码"},
	"answer":        {"answer", "返回"},
	"took":          {"took", "用时"},
	"redirected":    {"redirected: the platform follows no redirect, the notify would be lost; give it the final address", "返回的是重定向：平台不会跟随，通知会丢失；请直接配置最终地址"},
	"not_taken":     {"not taken: the platform would send it again", "没有收下：平台会重发"},
	"wrongly_taken": {"a false notify was taken: whoever answers here does not verify", "伪造的通知被收下了：对方没有验签"},
	"input_form":    {"a form of %d parameters", "表单，%d 个参数"},
	"input_json":    {"a JSON object of %d members", "JSON 对象，%d 个成员"},
	"input_return":  {"the query of a return page, %d parameters", "返回页的查询串，%d 个参数"},
	"input_call":    {"a call, OPEN-BODY-SIG over %d bytes", "接口请求，OPEN-BODY-SIG，报文 %d 字节"},
	"input_link":    {"an H5 link, OPEN-FORM-PARAM over %d bytes of content", "H5 链接，OPEN-FORM-PARAM，content %d 字节"},
	"input_answer":  {"an answer of the platform; it carries no signature", "平台的返回，不含签名"},
	"merchant_keys": {"%s (notify keys: %d)", "%s（通讯密钥 %d 个）"},
	"signed_what":   {"this, and the communication key (notify_key) right behind it", "以下文本，其后直接拼接通讯密钥 (notify_key)"},
	"of_body":       {"of the body", "报文摘要"},
	"verifies":      {"verifies", "验签通过"},

	"does_not_verify":         {"does not verify", "验签失败"},
	"not_a_notify":            {"not a notify", "不是通知报文"},
	"not_a_signature":         {"not a signature", "不是签名"},
	"instead_what":            {"this was signed, with %s", "实际被签名的文本，密钥为 %s"},
	"no_mistake":              {"none of the known ones explains it: a value was changed after it was signed, the capture is not complete, or the key is not in this configuration", "没有已知错误能解释：签名后参数被改动、报文保存不完整，或密钥不在此配置中"},
	"note_length":             {"the body is not as long as Content-Length says: was it cut or edited when it was saved?", "报文长度与 Content-Length 不符：保存时是否被截断或编辑？"},
	"note_timestamp":          {"the timestamp is not of the form yyyyMMddHHmmss", "时间戳不是 yyyyMMddHHmmss 格式"},
	"note_time":               {"signed at", "签名时间"},
	"note_right_all_the_same": {"the signature itself is right", "签名本身正确"},

	"reason_missing_signature":  {"there is no sign parameter", "没有 sign 参数"},
	"reason_sign_type":          {"the signType is neither MD5 nor SHA256", "signType 既不是 MD5 也不是 SHA256"},
	"reason_digest":             {"the merchant's sign_types do not accept this digest", "商户的 sign_types 不接受此算法"},
	"reason_signature":          {"the signature is not that of these values with this key", "签名与参数及密钥不符"},
	"reason_ambiguous":          {"the signature is right, but the same signed text can be cut into another payment: do not trust it", "签名正确，但同一待签名串可被拆成另一笔支付，不可信任"},
	"reason_mixed":              {"the signature is right, but no genuine notify has these words together: they come out of a text that was cut into parameters", "签名正确，但真实通知不会同时带有这些参数：它们是从某个文本中拆出来的"},
	"reason_reads_otherwise":    {"format original refuses this one: an app's own parser may read it otherwise than what was verified", "format original 会拒绝此通知：应用自己的解析结果可能与验签内容不一致"},
	"reason_foreign_mid":        {"the signature is right, but the mid is not one of the merchant's", "签名正确，但 mid 不属于此商户"},
	"reason_content_type":       {"the Content-Type is neither a form's nor JSON's", "Content-Type 既不是表单也不是 JSON"},
	"reason_content_encoding":   {"the body has a Content-Encoding", "报文带有 Content-Encoding"},
	"reason_repeated_parameter": {"a parameter is repeated", "参数重复"},
	"reason_encoding":           {"broken percent-encoding", "百分号编码有误"},
	"reason_json":               {"the JSON is broken, nested or no object", "JSON 有误、有嵌套或不是对象"},
	"reason_too_many":           {"there are too many parameters", "参数过多"},
	"reason_malformed":          {"it cannot be read", "无法解析"},

	"mistake_other_digest":          {"signed with another digest than signType names", "签名所用算法与 signType 不一致"},
	"mistake_another_key":           {"signed with another configured key: does this notify belong to that merchant?", "用的是配置中另一把密钥：此通知是否属于那个商户？"},
	"mistake_app_key":               {"signed with app_key instead of the communication key (notify_key)", "用了 app_key（开发者密钥），应使用 notify_key（通讯密钥）"},
	"mistake_plus_kept":             {"'+' was taken for a plus; in a form it is a space (a plus is %2B)", "把 '+' 当作加号；表单中 '+' 是空格，加号为 %2B"},
	"mistake_undecoded":             {"the values were signed percent-encoded; decode them first", "对未解码的值签名；应先做 URL 解码"},
	"mistake_decoded_twice":         {"the values were decoded twice", "值被解码了两次"},
	"mistake_empty_values":          {"parameters with an empty value were signed; leave them out", "空值参数参与了签名；应剔除"},
	"mistake_reserialized":          {"nested JSON was read and written again; sign the text as it came", "嵌套的 JSON 被解析后重新序列化；应使用原文"},
	"mistake_gbk":                   {"the text was signed in another encoding; the platform signs UTF-8", "签名时字符编码不同；平台使用 UTF-8"},
	"mistake_key_pair":              {"the key was joined like a parameter; append it with nothing between", "密钥像参数一样拼接；应直接接在末尾，中间不加任何字符"},
	"mistake_key_first":             {"the key was put in front; append it", "密钥放在了最前；应接在末尾"},
	"mistake_case_insensitive_sort": {"sorted regardless of letter case; sort by bytes, capitals first", "排序时忽略了大小写；应按字节排序，大写在前"},
	"mistake_unsorted":              {"not sorted; sort by name", "未排序；应按参数名排序"},
	"mistake_trimmed":               {"white space around values was cut off", "去掉了值首尾的空白"},
	"mistake_left_out":              {"this parameter was not signed; all but sign are, unknown ones and signType included", "此参数未参与签名；除 sign 外全部参与，包括未知参数与 signType"},
	"mistake_hmac":                  {"an HMAC was made of it; it is a plain digest of text and key", "用了 HMAC；应为文本加密钥的普通摘要"},
	"mistake_notify_key":            {"signed with the communication key instead of app_key", "用了通讯密钥，而应使用 appKey"},
	"mistake_upper_digest":          {"the body's digest was written in capitals", "报文摘要用了大写十六进制"},
	"mistake_other_app_id":          {"the AppId in the header is not the merchant's app_id", "头部的 AppId 与商户的 app_id 不符"},
	"mistake_line_break":            {"the body was signed with, or without, a line break at its end", "签名时报文末尾多了或少了换行"},
	"mistake_hex_signature":         {"the signature is in hex; it must be base64", "签名为十六进制；应为 base64"},
}
