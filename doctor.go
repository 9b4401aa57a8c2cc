package chinaums

import (
	"bytes"
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/text/encoding/simplifiedchinese"

	"github.com/caddy-chinaums/caddy-chinaums/internal/normalize"
)

// The signature doctor tells which known mistake explains a signature that does not verify: it makes each mistake
// itself, alone and together with others, and looks whether that gives the signature. It reads more leniently than the
// handlers do, because what it is given may be what made the signature fail.

// mistake is the name of a known mistake; mistakeTexts says what it means.
type mistake string

const (
	mistakeOtherDigest     mistake = "other_digest"
	mistakeAnotherKey      mistake = "another_key"
	mistakeAppKey          mistake = "app_key"
	mistakePlusKept        mistake = "plus_kept"
	mistakeUndecoded       mistake = "undecoded"
	mistakeDecodedTwice    mistake = "decoded_twice"
	mistakeEmptyValues     mistake = "empty_values"
	mistakeReserialized    mistake = "reserialized"
	mistakeGBK             mistake = "gbk"
	mistakeKeyPair         mistake = "key_pair"
	mistakeKeyFirst        mistake = "key_first"
	mistakeCaseInsensitive mistake = "case_insensitive_sort"
	mistakeUnsorted        mistake = "unsorted"
	mistakeTrimmed         mistake = "trimmed"
	mistakeLeftOut         mistake = "left_out"
	mistakeHMAC            mistake = "hmac"

	mistakeNotifyKey    mistake = "notify_key"
	mistakeUpperDigest  mistake = "upper_digest"
	mistakeOtherAppID   mistake = "other_app_id"
	mistakeBodyNewline  mistake = "line_break"
	mistakeHexSignature mistake = "hex_signature"
)

// doctorKey is a configured key and whose it is.
type doctorKey struct {
	label   string // such as "notify_key 2 of shop"
	key     []byte
	mistake mistake // why this is not the right one; "" if it is
}

// pair is a parameter as it came and decoded.
type pair struct {
	rawName, rawValue string // "" raw where the notify is JSON
	name, value       string
	json              json.RawMessage // the value of a JSON notify, as it came
}

// maxDoctorKeys is up to how many keys all combinations of mistakes are tried; with more, other merchants' keys are
// tried with a single further mistake only.
const maxDoctorKeys = 40

// diagnosis is an explanation of a signature.
type diagnosis struct {
	mistakes []mistake
	detail   []string // of the mistake at the same place
	key      string   // label
	signed   []pair   // what was signed, in order
	text     string
}

// parseLeniently reads a form or a JSON object as pairs in the order in which they came.
func parseLeniently(content []byte) (pairs []pair, isJSON bool, err error) {
	if isJSONObject(content) {
		pairs, err = parseJSONPairs(content)
		return pairs, true, err
	}
	for raw := range strings.SplitSeq(string(content), "&") {
		if raw == "" {
			continue
		}
		name, value, _ := strings.Cut(raw, "=")
		pairs = append(pairs, pair{rawName: name, rawValue: value, name: unescape(name, true), value: unescape(value, true)})
		if len(pairs) > maxNotifyFields {
			return nil, false, fmt.Errorf("more than %d parameters", maxNotifyFields)
		}
	}
	return pairs, false, nil
}

func parseJSONPairs(content []byte) (pairs []pair, err error) {
	decoder := json.NewDecoder(bytes.NewReader(content))
	if _, err = decoder.Token(); err != nil {
		return nil, err
	}
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return nil, err
		}
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return nil, err
		}
		p := pair{name: name.(string), value: string(value), json: value}
		switch {
		case string(value) == "null":
			p.value = ""
		case value[0] == '"':
			if err := json.Unmarshal(value, &p.value); err != nil {
				return nil, err
			}
		}
		pairs = append(pairs, p)
		if len(pairs) > maxNotifyFields {
			return nil, fmt.Errorf("more than %d parameters", maxNotifyFields)
		}
	}
	if _, err = decoder.Token(); err != nil {
		return nil, err
	}
	return pairs, nil
}

// unescape decodes percent-encoding and, with plus, plus signs; what is broken stays as it is.
func unescape(s string, plus bool) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '+' && plus:
			b.WriteByte(' ')
		case s[i] == '%' && i+2 < len(s) && hexValues[s[i+1]]|hexValues[s[i+2]] < 16:
			b.WriteByte(hexValues[s[i+1]]<<4 | hexValues[s[i+2]])
			i += 2
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

func valueOf(pairs []pair, name string) string {
	for _, p := range pairs {
		if p.name == name {
			return p.value
		}
	}
	return ""
}

// reading is one way to take the values.
type reading struct {
	mistake mistake
	detail  string
	value   func(pair) string
}

func readings(isJSON bool) []reading {
	all := []reading{{"", "", func(p pair) string { return p.value }}}
	if !isJSON {
		all = append(all,
			reading{mistakePlusKept, "", func(p pair) string { return unescape(p.rawValue, false) }},
			reading{mistakeUndecoded, "", func(p pair) string { return p.rawValue }})
	}
	all = append(all,
		reading{mistakeDecodedTwice, "", func(p pair) string { return unescape(p.value, true) }},
		reading{mistakeDecodedTwice, "", func(p pair) string { return unescape(p.value, false) }},
		reading{mistakeGBK, "UTF-8 → GBK", func(p pair) string {
			if text, err := simplifiedchinese.GB18030.NewEncoder().String(p.value); err == nil && utf8.ValidString(p.value) {
				return text
			}
			return p.value
		}},
		reading{mistakeGBK, "GBK → UTF-8", func(p pair) string { return string(normalize.ToUTF8([]byte(p.value))) }},
		reading{mistakeTrimmed, "", func(p pair) string { return strings.TrimSpace(p.value) }})
	for _, style := range jsonStyles() {
		all = append(all, reading{mistakeReserialized, style.String(), func(p pair) string {
			text := p.value
			if p.json != nil && p.json[0] != '"' && string(p.json) != "null" {
				text = string(p.json)
			} else if text == "" || text[0] != '{' && text[0] != '[' {
				return p.value
			}
			if written, err := style.rewrite(text); err == nil {
				return written
			}
			return p.value
		}})
	}
	return all
}

// selection is one way to choose and order the parameters.
type selection struct {
	mistakes []mistake
	details  []string
	choose   func([]pair) []pair
}

func selections() []selection {
	with := func(keep func(pair) bool, order func(a, b pair) bool) func([]pair) []pair {
		return func(pairs []pair) []pair {
			chosen := make([]pair, 0, len(pairs))
			for _, p := range pairs {
				if p.name != "sign" && keep(p) {
					chosen = append(chosen, p)
				}
			}
			if order != nil {
				sort.SliceStable(chosen, func(i, j int) bool { return order(chosen[i], chosen[j]) })
			}
			return chosen
		}
	}
	present := func(p pair) bool { return p.value != "" }
	everything := func(pair) bool { return true }
	bytewise := func(a, b pair) bool { return a.name < b.name }
	folded := func(a, b pair) bool { return strings.ToLower(a.name) < strings.ToLower(b.name) }
	var all []selection
	for _, order := range []struct {
		mistake mistake
		less    func(a, b pair) bool
	}{{"", bytewise}, {mistakeCaseInsensitive, folded}, {mistakeUnsorted, nil}} {
		for _, keep := range []struct {
			mistake mistake
			keep    func(pair) bool
		}{{"", present}, {mistakeEmptyValues, everything}} {
			s := selection{choose: with(keep.keep, order.less)}
			for _, m := range []mistake{keep.mistake, order.mistake} {
				if m != "" {
					s.mistakes, s.details = append(s.mistakes, m), append(s.details, "")
				}
			}
			all = append(all, s)
		}
	}
	return all
}

// joins are the ways to put the key to the text.
var joins = []struct {
	mistake mistake
	detail  string
	join    func(text string, key []byte) []byte
}{
	{"", "", func(text string, key []byte) []byte { return append([]byte(text), key...) }},
	{mistakeKeyPair, "&key=", func(text string, key []byte) []byte { return append([]byte(text+"&key="), key...) }},
	{mistakeKeyPair, "&", func(text string, key []byte) []byte { return append([]byte(text+"&"), key...) }},
	{mistakeKeyFirst, "", func(text string, key []byte) []byte { return append(slices.Clone(key), text...) }},
}

// diagnose explains the signature of a notify or return page by as few mistakes as possible. It returns nil if none of
// the known ones does.
func diagnose(pairs []pair, isJSON bool, keys []doctorKey) *diagnosis {
	want, err := hex.DecodeString(valueOf(pairs, "sign"))
	if err != nil || len(want) != md5.Size && len(want) != sha256.Size {
		return nil
	}
	digestMistake := mistake("")
	if digest := digestOf([]byte(valueOf(pairs, "signType"))); digest == digestMD5 && len(want) != md5.Size || digest == digestSHA256 && len(want) != sha256.Size {
		digestMistake = mistakeOtherDigest
	}

	var best *diagnosis
	consider := func(d diagnosis, mistakes ...mistake) {
		for _, m := range mistakes {
			if m != "" && !slices.Contains(d.mistakes, m) {
				d.mistakes, d.detail = append(d.mistakes, m), append(d.detail, "")
			}
		}
		if best == nil || len(d.mistakes) < len(best.mistakes) {
			best = &d
		}
	}
	// try looks whether a text gives the signature with any key. single keeps other merchants' keys to the plain join.
	try := func(d diagnosis, plain bool) {
		for _, k := range keys {
			if len(keys) > maxDoctorKeys && k.mistake == mistakeAnotherKey && !plain {
				continue
			}
			for _, join := range joins {
				if equalDigest(want, join.join(d.text, k.key)) {
					found := d
					found.key = k.label
					found.mistakes, found.detail = slices.Clone(d.mistakes), slices.Clone(d.detail)
					if join.mistake != "" {
						found.mistakes, found.detail = append(found.mistakes, join.mistake), append(found.detail, join.detail)
					}
					if k.mistake != "" {
						found.mistakes, found.detail = append(found.mistakes, k.mistake), append(found.detail, k.label)
					}
					consider(found, digestMistake)
				}
			}
			if mac := hmac.New(sha256.New, k.key); len(want) == sha256.Size {
				mac.Write([]byte(d.text))
				if hmac.Equal(mac.Sum(nil), want) {
					found := d
					found.key, found.mistakes, found.detail = k.label, slices.Clone(d.mistakes), slices.Clone(d.detail)
					consider(found, mistakeHMAC, k.mistake, digestMistake)
				}
			}
		}
	}

	tried := make(map[string]bool)
	for _, reading := range readings(isJSON) {
		read := slices.Clone(pairs)
		for i := range read {
			if read[i].value != "" || read[i].rawValue != "" {
				read[i].value = reading.value(read[i])
			}
		}
		for _, selection := range selections() {
			d := diagnosis{signed: selection.choose(read)}
			if d.text = joinPairs(d.signed); tried[d.text] {
				continue
			}
			tried[d.text] = true
			if reading.mistake != "" {
				d.mistakes, d.detail = append(d.mistakes, reading.mistake), append(d.detail, reading.detail)
			}
			d.mistakes, d.detail = append(d.mistakes, selection.mistakes...), append(d.detail, selection.details...)
			try(d, len(d.mistakes) == 0)
		}
	}
	// One parameter that the signer did not know: a proxy's own, the random one, signType.
	signed := selections()[0].choose(pairs)
	for i := range signed {
		without := slices.Delete(slices.Clone(signed), i, i+1)
		d := diagnosis{signed: without, text: joinPairs(without), mistakes: []mistake{mistakeLeftOut}, detail: []string{signed[i].name}}
		if !tried[d.text] {
			try(d, false)
		}
	}
	return best
}

func equalDigest(want, text []byte) bool {
	if len(want) == md5.Size {
		sum := md5.Sum(text)
		return subtle.ConstantTimeCompare(sum[:], want) == 1
	}
	sum := sha256.Sum256(text)
	return subtle.ConstantTimeCompare(sum[:], want) == 1
}

func joinPairs(pairs []pair) string {
	var b strings.Builder
	for i, p := range pairs {
		if i > 0 {
			b.WriteByte('&')
		}
		b.WriteString(p.name)
		b.WriteByte('=')
		b.WriteString(p.value)
	}
	return b.String()
}

// diagnoseCall explains the signature of a call, or of an H5 link's content.
func diagnoseCall(authorization bodySig, body []byte, keys []doctorKey, appIDs map[string]string) *diagnosis {
	want, err := base64.StdEncoding.DecodeString(authorization.Signature)
	hexSignature := false
	if err != nil || len(want) != sha256.Size {
		if want, err = hex.DecodeString(authorization.Signature); err != nil || len(want) != sha256.Size {
			return nil
		}
		hexSignature = true
	}
	type variant struct {
		mistake mistake
		detail  string
		body    string
	}
	text := string(body)
	variants := []variant{{"", "", text}}
	if trimmed := strings.TrimRight(text, "\r\n"); trimmed != text {
		variants = append(variants, variant{mistakeBodyNewline, "", trimmed})
	} else {
		variants = append(variants, variant{mistakeBodyNewline, "", text + "\n"}, variant{mistakeBodyNewline, "", text + "\r\n"})
	}
	for _, style := range jsonStyles() {
		if written, err := style.rewrite(text); err == nil && written != text {
			variants = append(variants, variant{mistakeReserialized, style.String(), written})
		}
	}
	if encoded, err := simplifiedchinese.GB18030.NewEncoder().String(text); err == nil && encoded != text {
		variants = append(variants, variant{mistakeGBK, "UTF-8 → GBK", encoded})
	}
	if decoded := string(normalize.ToUTF8(body)); decoded != text {
		variants = append(variants, variant{mistakeGBK, "GBK → UTF-8", decoded})
	}
	var best *diagnosis
	for _, v := range variants {
		sum := sha256.Sum256([]byte(v.body))
		digest := hex.EncodeToString(sum[:])
		for upper, digest := range []string{digest, strings.ToUpper(digest)} {
			for _, k := range keys {
				ids := []string{authorization.AppID}
				if id := appIDs[k.label]; id != "" && id != authorization.AppID {
					ids = append(ids, id)
				}
				for other, id := range ids {
					signed := id + authorization.Timestamp + authorization.Nonce + digest
					mac := hmac.New(sha256.New, k.key)
					mac.Write([]byte(signed))
					if !hmac.Equal(mac.Sum(nil), want) {
						continue
					}
					d := diagnosis{key: k.label, text: signed}
					add := func(is bool, m mistake, detail string) {
						if is {
							d.mistakes, d.detail = append(d.mistakes, m), append(d.detail, detail)
						}
					}
					add(v.mistake != "", v.mistake, v.detail)
					add(upper == 1, mistakeUpperDigest, "")
					add(k.mistake != "", k.mistake, k.label)
					add(other == 1, mistakeOtherAppID, "")
					add(hexSignature, mistakeHexSignature, "")
					if best == nil || len(d.mistakes) < len(best.mistakes) {
						best = &d
					}
				}
			}
		}
	}
	return best
}

// jsonStyle is a way to write JSON that a language has by default or on demand.
type jsonStyle struct{ sorted, spaced, slashes, ascii, html, separators bool }

func jsonStyles() []jsonStyle {
	var all []jsonStyle
	for i := range 64 {
		all = append(all, jsonStyle{i&1 != 0, i&2 != 0, i&4 != 0, i&8 != 0, i&16 != 0, i&32 != 0})
	}
	return all
}

// String names the style by what it does.
func (s jsonStyle) String() string {
	words := []string{}
	for _, option := range []struct {
		on   bool
		word string
	}{{s.sorted, "sorted keys"}, {s.spaced, `", " and ": "`}, {s.slashes, `\/`}, {s.ascii, `\u4e2d`}, {s.html, `\u003c`}, {s.separators, `\u2028`}} {
		if option.on {
			words = append(words, option.word)
		}
	}
	if len(words) == 0 {
		return "compact"
	}
	return strings.Join(words, ", ")
}

// rewrite reads a JSON text and writes it in the style; numbers keep their literals.
func (s jsonStyle) rewrite(text string) (string, error) {
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	var b strings.Builder
	if err := s.write(&b, decoder, 0); err != nil {
		return "", err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return "", errors.New("data after the JSON text")
	}
	return b.String(), nil
}

func (s jsonStyle) write(b *strings.Builder, decoder *json.Decoder, depth int) error {
	token, err := decoder.Token()
	if err != nil {
		return err
	}
	if depth > 32 {
		return errors.New("nested too deep")
	}
	comma, colon := ",", ":"
	if s.spaced {
		comma, colon = ", ", ": "
	}
	switch token := token.(type) {
	case json.Delim:
		type member struct{ name, value string }
		var members []member
		for decoder.More() {
			var m member
			if token == '{' {
				name, err := decoder.Token()
				if err != nil {
					return err
				}
				m.name = name.(string)
			}
			var value strings.Builder
			if err := s.write(&value, decoder, depth+1); err != nil {
				return err
			}
			m.value = value.String()
			members = append(members, m)
		}
		end, err := decoder.Token()
		if err != nil {
			return err
		}
		if s.sorted && token == '{' {
			sort.SliceStable(members, func(i, j int) bool { return members[i].name < members[j].name })
		}
		b.WriteString(token.String())
		for i, m := range members {
			if i > 0 {
				b.WriteString(comma)
			}
			if token == '{' {
				s.writeString(b, m.name)
				b.WriteString(colon)
			}
			b.WriteString(m.value)
		}
		b.WriteString(end.(json.Delim).String())
	case string:
		s.writeString(b, token)
	case nil:
		b.WriteString("null")
	default:
		fmt.Fprint(b, token)
	}
	return nil
}

func (s jsonStyle) writeString(b *strings.Builder, text string) {
	b.WriteByte('"')
	for _, r := range text {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '/' && s.slashes:
			b.WriteString(`\/`)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == '\b':
			b.WriteString(`\b`)
		case r == '\f':
			b.WriteString(`\f`)
		case r < ' ', s.html && (r == '<' || r == '>' || r == '&'), s.separators && (r == '\u2028' || r == '\u2029'):
			fmt.Fprintf(b, `\u%04x`, r)
		case r >= 0x7f && s.ascii:
			for _, unit := range utf16.Encode([]rune{r}) {
				fmt.Fprintf(b, `\u%04x`, unit)
			}
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
}
