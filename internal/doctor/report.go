package doctor

import (
	"bytes"
	"cmp"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/caddy-chinaums/caddy-chinaums/internal/jsontext"
)

// Gateway is what the gateway knows about a merchant, and what it would do with a capture.
type Gateway struct {
	Merchant   string // its name
	AppID      string
	NotifyKeys int   // how many it has
	Calls      error // why it can sign no calls; nil if it can
	Notifies   error // why it can verify no notifies; nil if it can
	Keys       []Key // all that are configured, the merchant's own first

	// MaxFields is how many parameters a notify may have.
	MaxFields int

	// DigestSize is the size of the digest that a signType names, 0 if it names none.
	DigestSize func(signType string) int

	// Signature parses an Authorization header.
	Signature func(header string) (Signature, error)

	// Verify judges a notify as the handler does.
	Verify func(content []byte, header http.Header) Verdict

	// Advice explains an error code, if the capture is the platform's answer to a call instead of a notify. It has no cause
	// where the code is unknown.
	Advice func(content []byte, chinese bool) (Advice, bool)
}

// Verdict is what the handler says about a notify.
type Verdict struct {
	Reason string // the word for why it is refused; "" if it is taken
	Detail error
	Beside bool // no mistake in signing explains the refusal: the signature is right, or missing

	// Of a notify that is taken.
	Type, ID, Subject string
	ReadsOtherwise    error // what an app's own parser may find in it instead
}

// Advice is what the documents say of an error code.
type Advice struct{ Code, Cause, Remedy string }

// Report writes what the doctor finds, in one language.
type Report struct {
	W       io.Writer
	Chinese bool
	Show    bool  // values are shown; otherwise only how long they are
	Err     error // of W
}

// Say looks a text up in the report's language.
func (r *Report) Say(key string) string {
	texts, ok := Texts[key]
	switch {
	case !ok:
		return key
	case r.Chinese:
		return texts.Chinese
	}
	return texts.English
}

// Line writes a line with a label.
func (r *Report) Line(key, format string, args ...any) {
	label := r.Say(key) + ":"
	// Chinese characters are two columns wide.
	width := 0
	for _, c := range label {
		if width++; c > 0x2e80 {
			width++
		}
	}
	r.bare(fmt.Sprintf("%s%s %s", label, strings.Repeat(" ", max(0, 11-width)), fmt.Sprintf(format, args...)))
}

// bare writes a text that has no label.
func (r *Report) bare(text string) {
	_, err := fmt.Fprintln(r.W, text)
	r.Err = errors.Join(r.Err, err)
}

// Examine reports on whatever was captured. Its error is the verdict, where that is bad.
func (r *Report) Examine(g *Gateway, c *Capture) error {
	if c.cut {
		r.Line("note", "%s", r.Say("note_length"))
	}
	authorization := c.Header.Get("Authorization")
	if scheme, _, _ := strings.Cut(authorization, " "); strings.EqualFold(scheme, "OPEN-BODY-SIG") {
		sig, err := g.Signature(authorization)
		if err != nil {
			return fmt.Errorf("%s: %w", r.Say("not_a_signature"), err)
		}
		return r.call(g, "input_call", sig, c.Content)
	}
	if c.Method == http.MethodGet {
		if query, err := url.ParseQuery(string(c.Content)); err == nil && query.Get("authorization") == "OPEN-FORM-PARAM" {
			sig := Signature{query.Get("appId"), query.Get("timestamp"), query.Get("nonce"), query.Get("signature")}
			return r.call(g, "input_link", sig, []byte(query.Get("content")))
		}
	}
	return r.notify(g, c)
}

// notify reports on a notify or a return page. It explains the platform's answer to a call, if that is what was saved.
func (r *Report) notify(g *Gateway, c *Capture) error {
	start := jsontext.SkipSpace(c.Content, 0)
	isJSON := start < len(c.Content) && c.Content[start] == '{'
	if isJSON && !bytes.Contains(c.Content, []byte(`"sign"`)) {
		if advice, ok := g.Advice(c.Content, r.Chinese); ok {
			return r.answer(advice)
		}
	}
	if g.Notifies != nil {
		return g.Notifies
	}
	pairs, err := Parse(c.Content, isJSON, g.MaxFields)
	if err != nil {
		return fmt.Errorf("%s: %w", r.Say("not_a_notify"), err)
	}
	kind := "input_form"
	switch {
	case isJSON:
		kind = "input_json"
	case c.Method == http.MethodGet:
		kind = "input_return"
	}
	r.Line("input", r.Say(kind), len(pairs))
	r.Line("merchant", r.Say("merchant_keys"), g.Merchant, g.NotifyKeys)

	verdict := g.Verify(c.Content, c.Header)
	signed := documented.choose(pairs)
	text := joined(signed)
	r.Line("signed", "%s", r.Say("signed_what"))
	r.bare(r.masked(signed, text))
	sign, signType := Value(pairs, "sign"), Value(pairs, "signType")
	if sign != "" {
		r.Line("sign", "%s (signType %s)", Printable(sign), cmp.Or(Printable(signType), "–"))
	}
	for _, k := range g.Keys {
		if k.Mistake == "" {
			r.Line("SHA256", "%x (%s)", sha256.Sum256(append([]byte(text), k.Key...)), k.Label)
			r.Line("MD5", "%x (%s)", md5.Sum(append([]byte(text), k.Key...)), k.Label)
		}
	}
	if verdict.Reason == "" {
		r.Line("result", "%s", r.Say("verifies"))
		want, _ := hex.DecodeString(sign) // verified
		for _, k := range g.Keys {
			if k.Mistake == "" && equalDigest(want, append([]byte(text), k.Key...)) {
				r.Line("key", "%s", k.Label)
			}
		}
		r.Line("type", "%s", verdict.Type)
		r.Line("id", "%s", verdict.ID) // a digest: it shows nothing, and the inbox finds the event by it
		r.Line("subject", "%s", r.maskedValue(verdict.Subject))
		if err := verdict.ReadsOtherwise; err != nil && c.Method != http.MethodGet {
			r.Line("note", "%s (%s)", r.Say("reason_reads_otherwise"), Printable(err.Error()))
		}
		return r.Err
	}

	reason := r.Say("reason_" + verdict.Reason)
	if verdict.Detail != nil {
		reason += " (" + Printable(verdict.Detail.Error()) + ")"
	}
	r.Line("result", "%s: %s", r.Say("does_not_verify"), reason)
	if !verdict.Beside {
		r.mistakes(Diagnose(pairs, isJSON, g.DigestSize(signType), g.Keys), text)
	}
	return errors.Join(r.Err, fmt.Errorf("%s (%s)", r.Say("does_not_verify"), verdict.Reason))
}

// mistakes reports the diagnosis. text is what should have been signed.
func (r *Report) mistakes(d *Diagnosis, text string) {
	if d == nil {
		r.Line("mistake", "%s", r.Say("no_mistake"))
		return
	}
	if len(d.Findings) == 0 {
		r.Line("note", "%s", r.Say("note_right_all_the_same"))
		return
	}
	for _, f := range d.Findings {
		detail := ""
		if f.Detail != "" && f.Detail != string(f.Mistake) {
			detail = " [" + Printable(f.Detail) + "]"
		}
		r.Line("mistake", "%s%s: %s", f.Mistake, detail, r.Say("mistake_"+string(f.Mistake)))
	}
	if d.Signed != nil && d.Text != text {
		r.Line("instead", r.Say("instead_what"), d.Key)
		r.bare(r.masked(d.Signed, d.Text))
	}
}

// Signatures of calls carry the time in Beijing.
const timestampLayout = "20060102150405"

var beijing = time.FixedZone("CST", 8*60*60)

// call reports on a call or a link: what OPEN-BODY-SIG covers.
func (r *Report) call(g *Gateway, kind string, sig Signature, body []byte) error {
	if g.Calls != nil {
		return g.Calls
	}
	r.Line("input", r.Say(kind), len(body))
	r.Line("merchant", "%s", g.Merchant)
	r.Line("signed", "AppId=%s Timestamp=%s Nonce=%s", Printable(sig.AppID), Printable(sig.Timestamp), Printable(sig.Nonce))
	r.Line("SHA256", "%x (%s)", sha256.Sum256(body), r.Say("of_body"))
	if at, err := time.ParseInLocation(timestampLayout, sig.Timestamp, beijing); err != nil {
		r.Line("note", "%s", r.Say("note_timestamp"))
	} else {
		r.Line("note", "%s %s", r.Say("note_time"), at.Format(time.RFC3339))
	}
	// Which key is the right one is the other way round than for notifies.
	calls := make([]Key, 0, len(g.Keys))
	for _, k := range g.Keys {
		switch k.Mistake {
		case AppKey:
			k.Mistake = ""
		case "":
			k.Mistake = NotifyKey
		}
		calls = append(calls, k)
	}
	d := DiagnoseCall(sig, body, calls, g.AppID)
	if d != nil && len(d.Findings) == 0 {
		if sig.AppID == g.AppID {
			r.Line("result", "%s", r.Say("verifies"))
			return r.Err
		}
		d.Findings = []Finding{{OtherAppID, ""}}
	}
	r.Line("result", "%s", r.Say("does_not_verify"))
	r.mistakes(d, "")
	return errors.Join(r.Err, fmt.Errorf("%s (signature)", r.Say("does_not_verify")))
}

// answer explains the error code of an answer.
func (r *Report) answer(advice Advice) error {
	if advice.Cause == "" {
		return fmt.Errorf("%s: errCode %s", r.Say("not_a_notify"), Printable(advice.Code))
	}
	r.Line("input", "%s", r.Say("input_answer"))
	r.Line("errCode", "%s", advice.Code)
	r.Line("cause", "%s", advice.Cause)
	r.Line("remedy", "%s", advice.Remedy)
	return r.Err
}

// masked shows what is signed: the text, or the names and how long each value is.
func (r *Report) masked(signed []Pair, text string) string {
	if r.Show {
		return Printable(text)
	}
	parts := make([]string, len(signed))
	for i, p := range signed {
		parts[i] = fmt.Sprintf("%s=<%d>", Printable(p.Name), len(p.Value))
	}
	return strings.Join(parts, "&")
}

func (r *Report) maskedValue(value string) string {
	if r.Show {
		return Printable(value)
	}
	return fmt.Sprintf("<%d>", len(value))
}

// Printable escapes what could move a terminal's cursor, or is no UTF-8.
func Printable(text string) string {
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
