// Package doctor tells which known mistake explains a ChinaUMS signature that does not verify. It makes each mistake
// itself, alone and together with others, and looks whether that gives the signature. It reads more leniently than the
// handlers do, because what it is given may be what made the signature fail.
//
// capture.go reads what somebody saved, doctor.go finds the mistake, and report.go says it in English or Chinese.
package doctor

import (
	"bytes"
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"sort"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/encoding/simplifiedchinese"

	"github.com/caddy-chinaums/caddy-chinaums/internal/normalize"
)

// Mistake is the name of a known mistake; the report's texts say what it means.
type Mistake string

// The mistakes.
const (
	OtherDigest     Mistake = "other_digest"
	AnotherKey      Mistake = "another_key"
	AppKey          Mistake = "app_key"
	PlusKept        Mistake = "plus_kept"
	Undecoded       Mistake = "undecoded"
	DecodedTwice    Mistake = "decoded_twice"
	EmptyValues     Mistake = "empty_values"
	Reserialized    Mistake = "reserialized"
	GBK             Mistake = "gbk"
	KeyPair         Mistake = "key_pair"
	KeyFirst        Mistake = "key_first"
	CaseInsensitive Mistake = "case_insensitive_sort"
	Unsorted        Mistake = "unsorted"
	Trimmed         Mistake = "trimmed"
	LeftOut         Mistake = "left_out"
	HMAC            Mistake = "hmac"
	KeyCase         Mistake = "key_case"

	NotifyKey    Mistake = "notify_key"
	UpperDigest  Mistake = "upper_digest"
	OtherAppID   Mistake = "other_app_id"
	BodyNewline  Mistake = "line_break"
	HexSignature Mistake = "hex_signature"
)

// Key is a configured key and whose it is.
type Key struct {
	Label   string // such as "notify_key 2 of shop"
	Key     []byte
	Mistake Mistake // why this is not the right key for a notify; "" if it is
}

// Pair is a parameter: decoded, and its value as it came.
type Pair struct {
	Name, Value string

	raw  string          // of a form
	json json.RawMessage // of a JSON notify
}

// Finding is a mistake, with a detail where there are several kinds of it.
type Finding struct {
	Mistake Mistake
	Detail  string
}

// Diagnosis is an explanation of a signature.
type Diagnosis struct {
	Findings []Finding // none: the signature is right
	Key      string    // the label of the key
	Signed   []Pair    // what was signed, in order
	Text     string
}

// maxKeys is up to how many keys all combinations of mistakes are tried; with more, other merchants' keys are tried
// with a single further mistake only.
const maxKeys = 40

// Parse reads a form or a JSON object as pairs in the order in which they came, at most limit of them.
func Parse(content []byte, isJSON bool, limit int) (pairs []Pair, err error) {
	if isJSON {
		return parseJSON(content, limit)
	}
	for raw := range strings.SplitSeq(string(content), "&") {
		if raw == "" {
			continue
		}
		name, value, _ := strings.Cut(raw, "=")
		pairs = append(pairs, Pair{Name: unescape(name, true), Value: unescape(value, true), raw: value})
		if len(pairs) > limit {
			return nil, fmt.Errorf("more than %d parameters", limit)
		}
	}
	return pairs, nil
}

func parseJSON(content []byte, limit int) (pairs []Pair, err error) {
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
		p := Pair{Name: name.(string), Value: string(value), json: value}
		switch {
		case string(value) == "null":
			p.Value = ""
		case value[0] == '"':
			if err := json.Unmarshal(value, &p.Value); err != nil {
				return nil, err
			}
		}
		pairs = append(pairs, p)
		if len(pairs) > limit {
			return nil, fmt.Errorf("more than %d parameters", limit)
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
			continue
		case s[i] == '%' && i+2 < len(s):
			if decoded, err := hex.DecodeString(s[i+1 : i+3]); err == nil {
				b.Write(decoded)
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// Value is the value of the first parameter of a name, "" without one.
func Value(pairs []Pair, name string) string {
	for _, p := range pairs {
		if p.Name == name {
			return p.Value
		}
	}
	return ""
}

// reading is one way to read the values.
type reading struct {
	Finding
	value func(Pair) string
}

func readings(isJSON, quick bool) []reading {
	all := []reading{{Finding{}, func(p Pair) string { return p.Value }}}
	if !isJSON {
		all = append(all,
			reading{Finding{PlusKept, ""}, func(p Pair) string { return unescape(p.raw, false) }},
			reading{Finding{Undecoded, ""}, func(p Pair) string { return p.raw }})
	}
	all = append(all,
		reading{Finding{DecodedTwice, ""}, func(p Pair) string { return unescape(p.Value, true) }},
		reading{Finding{DecodedTwice, ""}, func(p Pair) string { return unescape(p.Value, false) }},
		reading{Finding{GBK, toGBK}, func(p Pair) string {
			if text, err := simplifiedchinese.GB18030.NewEncoder().String(p.Value); err == nil && utf8.ValidString(p.Value) {
				return text
			}
			return p.Value
		}},
		reading{Finding{GBK, fromGBK}, func(p Pair) string { return string(normalize.ToUTF8([]byte(p.Value))) }},
		reading{Finding{Trimmed, ""}, func(p Pair) string { return strings.TrimSpace(p.Value) }})
	if quick {
		return all // to write JSON again takes most of the time
	}
	for _, style := range jsonStyles() {
		all = append(all, reading{Finding{Reserialized, style.String()}, func(p Pair) string {
			text := p.Value
			if p.json != nil && p.json[0] != '"' && string(p.json) != "null" {
				text = string(p.json)
			} else if text == "" || text[0] != '{' && text[0] != '[' {
				return p.Value
			}
			if written, err := style.rewrite(text); err == nil {
				return written
			}
			return p.Value
		}})
	}
	return all
}

const (
	toGBK   = "UTF-8 → GBK"
	fromGBK = "GBK → UTF-8"
)

// selection is one way to choose and order the parameters.
type selection struct {
	findings []Finding
	keep     func(Pair) bool
	less     func(a, b Pair) bool // nil: in the order in which they came
}

func (s selection) choose(pairs []Pair) []Pair {
	chosen := make([]Pair, 0, len(pairs))
	for _, p := range pairs {
		if p.Name != "sign" && s.keep(p) {
			chosen = append(chosen, p)
		}
	}
	if s.less != nil {
		sort.SliceStable(chosen, func(i, j int) bool { return s.less(chosen[i], chosen[j]) })
	}
	return chosen
}

// documented is the selection that the platform's documents ask for: what is not empty, in the order of bytes.
var documented = selection{
	keep: func(p Pair) bool { return p.Value != "" },
	less: func(a, b Pair) bool { return a.Name < b.Name },
}

func selections() (all []selection) {
	folded := func(a, b Pair) bool { return strings.ToLower(a.Name) < strings.ToLower(b.Name) }
	for _, order := range []struct {
		mistake Mistake
		less    func(a, b Pair) bool
	}{{"", documented.less}, {CaseInsensitive, folded}, {Unsorted, nil}} {
		for _, keep := range []struct {
			mistake Mistake
			keep    func(Pair) bool
		}{{"", documented.keep}, {EmptyValues, func(Pair) bool { return true }}} {
			all = append(all, selection{with(nil, Finding{keep.mistake, ""}, Finding{order.mistake, ""}), keep.keep, order.less})
		}
	}
	return all
}

// with adds those findings that name a mistake, and one that is not there yet.
func with(findings []Finding, more ...Finding) []Finding {
	all := slices.Clone(findings)
	for _, f := range more {
		if f.Mistake != "" && !slices.ContainsFunc(all, func(other Finding) bool { return other.Mistake == f.Mistake }) {
			all = append(all, f)
		}
	}
	return all
}

// joins are the ways to put the key to the text.
var joins = []struct {
	Finding
	join func(text string, key []byte) []byte
}{
	{Finding{}, func(text string, key []byte) []byte { return append([]byte(text), key...) }},
	{Finding{KeyPair, "&key="}, func(text string, key []byte) []byte { return append([]byte(text+"&key="), key...) }},
	{Finding{KeyPair, "&"}, func(text string, key []byte) []byte { return append([]byte(text+"&"), key...) }},
	{Finding{KeyFirst, ""}, func(text string, key []byte) []byte { return append(slices.Clone(key), text...) }},
}

// better replaces an explanation by one with fewer mistakes.
func better(best **Diagnosis, d Diagnosis) {
	if *best == nil || len(d.Findings) < len((*best).Findings) {
		*best = &d
	}
}

// Diagnose explains the signature of a notify or return page by as few mistakes as possible. named is the size of the
// digest that signType names, 0 if it names none. Diagnose returns nil if no known mistake explains the signature.
func Diagnose(pairs []Pair, isJSON bool, named int, keys []Key) (best *Diagnosis) {
	return diagnose(pairs, isJSON, false, named, keys)
}

// diagnose is Diagnose. With quick, values are not written again as JSON.
func diagnose(pairs []Pair, isJSON, quick bool, named int, keys []Key) (best *Diagnosis) {
	want, err := hex.DecodeString(Value(pairs, "sign"))
	if err != nil || len(want) != md5.Size && len(want) != sha256.Size {
		return nil
	}
	var digest Finding
	if named != 0 && named != len(want) {
		digest.Mistake = OtherDigest
	}
	// try looks whether a text gives the signature with any key. Without plain, other merchants' keys are left out where
	// there are many.
	try := func(text string, signed []Pair, findings []Finding, plain bool) {
		for _, k := range keys {
			if len(keys) > maxKeys && k.Mistake == AnotherKey && !plain {
				continue
			}
			found := func(more ...Finding) {
				better(&best, Diagnosis{Findings: with(findings, more...), Key: k.Label, Signed: signed, Text: text})
			}
			for _, join := range joins {
				if equalDigest(want, join.join(text, k.Key)) {
					found(join.Finding, Finding{k.Mistake, k.Label}, digest)
				}
			}
			if len(want) == sha256.Size && hmac.Equal(macOf(k.Key, text), want) {
				found(Finding{HMAC, ""}, Finding{k.Mistake, ""}, digest)
			}
		}
	}

	tried := make(map[string]bool)
	for _, reading := range readings(isJSON, quick) {
		read := slices.Clone(pairs)
		for i := range read {
			if read[i].Value != "" || read[i].raw != "" {
				read[i].Value = reading.value(read[i])
			}
		}
		for _, selection := range selections() {
			signed := selection.choose(read)
			text := joined(signed)
			if tried[text] {
				continue
			}
			tried[text] = true
			findings := with(with(nil, reading.Finding), selection.findings...)
			try(text, signed, findings, len(findings) == 0)
		}
	}
	// The key in capitals or small letters only, as some consoles and forms make of it.
	signed := documented.choose(pairs)
	right := joined(signed)
	for _, k := range keys {
		for _, other := range [][]byte{bytes.ToLower(k.Key), bytes.ToUpper(k.Key)} {
			if k.Mistake == "" && !bytes.Equal(other, k.Key) && equalDigest(want, append([]byte(right), other...)) {
				better(&best, Diagnosis{Findings: with(nil, Finding{KeyCase, ""}, digest), Key: k.Label, Signed: signed, Text: right})
			}
		}
	}
	// One parameter that the signer did not know: a proxy's own, the random one, signType.
	for i := range signed {
		without := slices.Delete(slices.Clone(signed), i, i+1)
		if text := joined(without); !tried[text] {
			try(text, without, []Finding{{LeftOut, signed[i].Name}}, false)
		}
	}
	return best
}

// What bounds a quick diagnosis: the content's length times the number of keys, and how many parameters there are. A real
// notify has about 2 KiB and 50 of them.
const (
	maxQuick      = 16 << 10
	maxQuickPairs = 60
)

// Quick is Diagnose for a log line that strangers can cause: it says in one line, in English, what explains a wrong
// signature, knows all mistakes but JSON that was written again, and does no more than a fixed amount of work. It returns "" where that would be too little.
func Quick(content []byte, isJSON bool, digestSize func(signType string) int, keys []Key) string {
	if len(content)*len(keys) > maxQuick {
		return ""
	}
	pairs, err := Parse(content, isJSON, maxQuickPairs)
	if err != nil {
		return ""
	}
	d := diagnose(pairs, isJSON, true, digestSize(Value(pairs, "signType")), keys)
	if d == nil {
		return "none that is known at once; the command knows more"
	}
	said := make([]string, len(d.Findings))
	for i, f := range d.Findings {
		said[i] = string(f.Mistake)
		if f.Detail != "" && f.Detail != said[i] {
			said[i] += " [" + Printable(f.Detail[:min(len(f.Detail), 64)]) + "]"
		}
		said[i] += ": " + Texts["mistake_"+string(f.Mistake)].English
	}
	return strings.Join(said, "; ")
}

func equalDigest(want, text []byte) bool {
	if len(want) == md5.Size {
		sum := md5.Sum(text)
		return subtle.ConstantTimeCompare(sum[:], want) == 1
	}
	sum := sha256.Sum256(text)
	return subtle.ConstantTimeCompare(sum[:], want) == 1
}

func macOf(key []byte, text string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}

func joined(pairs []Pair) string {
	parts := make([]string, len(pairs))
	for i, p := range pairs {
		parts[i] = p.Name + "=" + p.Value
	}
	return strings.Join(parts, "&")
}

// Signature is what an OPEN-BODY-SIG header holds.
type Signature struct{ AppID, Timestamp, Nonce, Signature string }

// DiagnoseCall explains the signature of a call, or of an H5 link's content. appID is the merchant's own.
func DiagnoseCall(sig Signature, body []byte, keys []Key, appID string) (best *Diagnosis) {
	want, err := base64.StdEncoding.DecodeString(sig.Signature)
	hexSignature := Finding{}
	if err != nil || len(want) != sha256.Size {
		if want, err = hex.DecodeString(sig.Signature); err != nil || len(want) != sha256.Size {
			return nil
		}
		hexSignature.Mistake = HexSignature
	}
	// option is one way to take a part of what is signed.
	type option struct {
		Finding
		text string
	}
	text := string(body)
	bodies := []option{{Finding{}, text}}
	if trimmed := strings.TrimRight(text, "\r\n"); trimmed != text {
		bodies = append(bodies, option{Finding{BodyNewline, ""}, trimmed})
	} else {
		bodies = append(bodies, option{Finding{BodyNewline, ""}, text + "\n"}, option{Finding{BodyNewline, ""}, text + "\r\n"})
	}
	for _, style := range jsonStyles() {
		if written, err := style.rewrite(text); err == nil && written != text {
			bodies = append(bodies, option{Finding{Reserialized, style.String()}, written})
		}
	}
	if encoded, err := simplifiedchinese.GB18030.NewEncoder().String(text); err == nil && encoded != text {
		bodies = append(bodies, option{Finding{GBK, toGBK}, encoded})
	}
	if decoded := string(normalize.ToUTF8(body)); decoded != text {
		bodies = append(bodies, option{Finding{GBK, fromGBK}, decoded})
	}
	for _, b := range bodies {
		sum := fmt.Sprintf("%x", sha256.Sum256([]byte(b.text)))
		for _, digest := range []option{{Finding{}, sum}, {Finding{UpperDigest, ""}, strings.ToUpper(sum)}} {
			for _, k := range keys {
				ids := []option{{Finding{}, sig.AppID}}
				if k.Label == "app_key" && appID != "" && appID != sig.AppID {
					ids = append(ids, option{Finding{OtherAppID, ""}, appID})
				}
				for _, id := range ids {
					signed := id.text + sig.Timestamp + sig.Nonce + digest.text
					if hmac.Equal(macOf(k.Key, signed), want) {
						findings := with(nil, b.Finding, digest.Finding, Finding{k.Mistake, k.Label}, id.Finding, hexSignature)
						better(&best, Diagnosis{Findings: findings, Key: k.Label, Text: signed})
					}
				}
			}
		}
	}
	return best
}
