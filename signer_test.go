package chinaums

import (
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/caddy-chinaums/caddy-chinaums/internal/testutil"
)

// A second implementation, after the documents and nothing else

type referenceField struct{ name, value string }

type referenceFields []referenceField

// readReference reads a form as net/url does. It returns nil for a form that net/url refuses.
func readReference(form string) url.Values {
	values, err := url.ParseQuery(strings.ReplaceAll(form, ";", "%3B")) // net/url refuses a bare ';'
	if err != nil {
		return nil
	}
	return values
}

func referenceString(values url.Values) string {
	var pairs []string
	for name := range values {
		if name != "sign" && values.Get(name) != "" {
			pairs = append(pairs, name)
		}
	}
	sort.Strings(pairs)
	for i, name := range pairs {
		pairs[i] = name + "=" + values.Get(name)
	}
	return strings.Join(pairs, "&")
}

func referenceDigest(text, key string, digest digestSet) string {
	if digest == digestMD5 {
		return fmt.Sprintf("%X", md5.Sum([]byte(text+key)))
	}
	return fmt.Sprintf("%x", sha256.Sum256([]byte(text+key)))
}

func (fields referenceFields) stringToSign() string {
	values := url.Values{}
	for _, field := range fields {
		values.Add(field.name, field.value)
	}
	return referenceString(values)
}

func (fields referenceFields) form() string {
	var form strings.Builder
	for i, field := range fields {
		if i > 0 {
			form.WriteByte('&')
		}
		form.WriteString(url.QueryEscape(field.name) + "=" + url.QueryEscape(field.value))
	}
	return form.String()
}

// signedForm returns the form with its signature.
func (fields referenceFields) signedForm(key string, digest digestSet) string {
	return fields.form() + "&sign=" + referenceDigest(fields.stringToSign(), key, digest)
}

// referenceVerifies applies the documents' rules to a form without repeated parameters.
func referenceVerifies(values url.Values, key string) bool {
	sign := values.Get("sign")
	switch strings.ReplaceAll(strings.ToLower(values.Get("signType")), "-", "") {
	case "md5":
		if len(sign) != 32 {
			return false
		}
	case "sha256":
		if len(sign) != 64 {
			return false
		}
	case "":
	default:
		return false
	}
	text := referenceString(values)
	switch len(sign) {
	case 32:
		return strings.EqualFold(sign, referenceDigest(text, key, digestMD5))
	case 64:
		return strings.EqualFold(sign, referenceDigest(text, key, digestSHA256))
	}
	return false
}

// referenceFold writes a text so that two are the same if strings.EqualFold says so.
func referenceFold(text string) string {
	return strings.Map(func(r rune) rune {
		least := r
		for next := unicode.SimpleFold(r); next != r; next = unicode.SimpleFold(next) {
			least = min(least, next)
		}
		return least
	}, text)
}

// referencePlain leaves out of a name what fastjson overlooks.
func referencePlain(name string) string { return strings.NewReplacer("_", "", "-", "").Replace(name) }

// referenceAmbiguous applies the contract's three rules with copies of everything; and a name that decides does not stand
// beside another that fastjson takes for it.
func referenceAmbiguous(values url.Values) bool {
	folded := map[string]bool{}
	for name, list := range values {
		if strings.Join(list, "") == "" {
			continue
		}
		if name == "" || strings.ContainsAny(name, "&=") || !utf8.ValidString(name) || folded[referenceFold(name)] {
			return true
		}
		folded[referenceFold(name)] = true
	}
	deciding := strings.Fields(decidingByContract)
	spellings := map[string]int{}
	for name, list := range values {
		for _, d := range deciding {
			if strings.Join(list, "") != "" && strings.EqualFold(referencePlain(name), d) {
				if spellings[d]++; spellings[d] > 1 {
					return true
				}
			}
		}
	}
	for name, list := range values {
		for _, value := range list {
			for i, part := range strings.Split(value, "&") {
				pair, _, isPair := strings.Cut(part, "=")
				if i == 0 || !isPair {
					continue
				}
				if slices.Contains(deciding, name) || slices.ContainsFunc(deciding, func(d string) bool { return strings.EqualFold(d, referencePlain(pair)) }) {
					return true
				}
			}
		}
	}
	return false
}

// referenceMixed applies the contract's rule about words that no genuine notify has together. Of a notify that is not
// ambiguous: no name is there in two spellings.
func referenceMixed(values url.Values) bool {
	word := func(name string) string {
		for other, list := range values {
			if value := strings.Join(list, ""); strings.EqualFold(name, referencePlain(other)) && value != "" {
				return value
			}
		}
		return ""
	}
	status := word("status")
	paid := slices.Contains([]string{"TRADE_SUCCESS", "SUCCESS", "success"}, status)
	switch {
	case word("billNo")+word("billDate")+word("billStatus")+word("billPayment") != "" && word("merOrderId")+status != "",
		slices.Contains([]string{"PARTLY_COMPLETED", "ALL_COMPLETED"}, strings.ToUpper(word("secureStatus"))) && status != "" && !paid && status != "TRADE_REFUND":
		return true
	case status == "NEW_ORDER" || status == "WAIT_BUYER_PAY":
		return word("refundStatus")+word("refundOrderId")+word("refundExtOrderId")+word("refundTargetOrderId")+word("refundPayTime") != "" ||
			word("refundAmount") != "" && word("refundAmount") != "0"
	}
	return false
}

// referenceReason is "ambiguous", "mixed" or "" of a notify whose signature is right.
func referenceReason(values url.Values) string {
	switch {
	case referenceAmbiguous(values):
		return reasonAmbiguous
	case referenceMixed(values):
		return reasonMixed
	}
	return ""
}

const testKey = "fcAmtnx7MwismjWNhNKdHC44mNXtnEQeJkRrhKJwyrW2ysRR"

// testFields returns parsed fields that live as long as the test.
func testFields(t testing.TB, body string) *notifyFields {
	t.Helper()
	f := acquireFields()
	if err := f.parse([]byte(body)); err != nil {
		t.Fatalf("parse: %v", err)
	}
	t.Cleanup(f.release)
	return f
}

// testReason parses a body and returns the reason why it is no true notify.
func testReason(body string, accept digestSet, keys ...string) string {
	f := acquireFields()
	defer f.release()
	if err := f.parse([]byte(body)); err != nil {
		var broken *parseError
		if !errors.As(err, &broken) {
			return "not a *parseError: " + err.Error()
		}
		return broken.Reason
	}
	raw := make([][]byte, len(keys))
	for i, key := range keys {
		raw[i] = []byte(key)
	}
	return f.verify(raw, accept)
}

func readVectors(t testing.TB, name string, into any) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", "vectors", name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		t.Fatal(err)
	}
}

// Outbound

type bodySigVector struct {
	Name      string
	AppID     string `json:"app_id"`
	AppKey    string `json:"app_key"`
	Timestamp string
	Nonce     string
	Body      string
	Signature string
}

func TestAuthorizationVectors(t *testing.T) {
	var vectors []bodySigVector
	readVectors(t, "open-body-sig.json", &vectors)
	if len(vectors) == 0 {
		t.Fatal("no vectors")
	}
	for _, vector := range vectors {
		t.Run(vector.Name, func(t *testing.T) {
			now, err := time.ParseInLocation(bodySigTimeLayout, vector.Timestamp, time.FixedZone("", 8*3600))
			if err != nil {
				t.Fatal(err)
			}
			signer := newBodySigner(vector.AppID, vector.AppKey)
			want := fmt.Sprintf(`OPEN-BODY-SIG AppId="%s", Timestamp="%s", Nonce="%s", Signature="%s"`,
				vector.AppID, vector.Timestamp, vector.Nonce, vector.Signature)
			for range 3 { // the pooled state signs again
				if got := signer.authorization(now.UTC(), vector.Nonce, []byte(vector.Body)); got != want {
					t.Fatalf("authorization\n got %s\nwant %s", got, want)
				}
				if err := signer.verify(want, []byte(vector.Body)); err != nil {
					t.Fatalf("verify: %v", err)
				}
			}
			if err := signer.verify(want, []byte(vector.Body+" ")); !errors.Is(err, errBodySigSignature) {
				t.Fatalf("verify of a changed body: %v", err)
			}
		})
	}
}

func TestAuthorizationClock(t *testing.T) {
	signer := newBodySigner("id", "key")
	// An hour before midnight in London is next morning in Beijing.
	now := time.Date(2024, time.December, 31, 23, 0, 0, 0, time.UTC)
	for _, zone := range []*time.Location{time.UTC, time.FixedZone("west", -11*3600), time.FixedZone("east", 14*3600)} {
		sig, err := parseBodySig(signer.authorization(now.In(zone), "n", nil))
		if err != nil {
			t.Fatal(err)
		}
		if sig.Timestamp != "20250101070000" {
			t.Errorf("%s: timestamp %s", zone, sig.Timestamp)
		}
	}
}

func TestBodySignerConcurrently(t *testing.T) {
	signer := newBodySigner("id", "key")
	now := time.Now()
	var group sync.WaitGroup
	for worker := range 8 {
		group.Go(func() {
			for i := range 200 {
				body := fmt.Appendf(nil, "%d/%d", worker, i)
				if err := signer.verify(signer.authorization(now, "nonce", body), body); err != nil {
					t.Errorf("%s: %v", body, err)
				}
			}
		})
	}
	group.Wait()
}

func TestBodySignerVerify(t *testing.T) {
	signer := newBodySigner("id", "key")
	body := []byte(`{"errCode":"SUCCESS"}`)
	good := signer.authorization(time.Now(), "nonce", body)
	sig, err := parseBodySig(good)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		header string
		ok     bool
	}{
		"as sent":             {good, true},
		"comma without space": {strings.ReplaceAll(good, ", ", ","), true},
		"another order": {fmt.Sprintf(`OPEN-BODY-SIG Signature="%s",Nonce="%s", AppId="%s",Timestamp="%s"`,
			sig.Signature, sig.Nonce, sig.AppID, sig.Timestamp), true},
		"another app":       {newBodySigner("other", "key").authorization(time.Now(), "nonce", body), false},
		"another key":       {newBodySigner("id", "other").authorization(time.Now(), "nonce", body), false},
		"another nonce":     {strings.Replace(good, `"nonce"`, `"nonc"`, 1), false},
		"another timestamp": {strings.Replace(good, sig.Timestamp, "20000101000000", 1), false},
		"cut signature":     {strings.Replace(good, sig.Signature, sig.Signature[:20], 1), false},
		"empty":             {"", false},
	} {
		t.Run(name, func(t *testing.T) {
			if err := signer.verify(test.header, body); (err == nil) != test.ok {
				t.Errorf("verify: %v", err)
			}
		})
	}
}

func TestParseBodySig(t *testing.T) {
	const all = `AppId="a", Timestamp="20240101000000", Nonce="n", Signature="s="`
	for name, test := range map[string]struct{ header, message string }{
		"whole":               {"OPEN-BODY-SIG " + all, ""},
		"scheme in small":     {"open-body-sig " + all, ""},
		"no scheme":           {all, "scheme"},
		"another scheme":      {"OPEN-ACCESS-TOKEN " + all, "scheme"},
		"scheme alone":        {"OPEN-BODY-SIG", "scheme"},
		"nothing behind":      {"OPEN-BODY-SIG ", `name="value"`},
		"repeated":            {"OPEN-BODY-SIG " + all + `, Nonce="n"`, "repeated parameter Nonce"},
		"unknown":             {"OPEN-BODY-SIG " + all + `, Extra="n"`, `unknown parameter "Extra"`},
		"missing":             {`OPEN-BODY-SIG AppId="a", Timestamp="1", Signature="s"`, "Nonce is missing"},
		"without quotes":      {`OPEN-BODY-SIG AppId=a, Timestamp=1, Nonce=n, Signature=s`, `name="value"`},
		"quote not closed":    {`OPEN-BODY-SIG AppId="a`, "no closing quote"},
		"empty value":         {`OPEN-BODY-SIG AppId=""`, "is empty"},
		"control character":   {"OPEN-BODY-SIG AppId=\"a\n\"", "not allowed"},
		"backslash":           {`OPEN-BODY-SIG AppId="a\"`, "not allowed"},
		"no comma":            {strings.Replace("OPEN-BODY-SIG "+all, ", ", " ", 1), "expected a comma after AppId"},
		"comma at the end":    {"OPEN-BODY-SIG " + all + ",", `name="value"`},
		"two spaces":          {strings.Replace("OPEN-BODY-SIG "+all, ", ", ",  ", 1), "unknown parameter"},
		"too long":            {"OPEN-BODY-SIG " + strings.Replace(all, "n", strings.Repeat("n", 1024), 1), "longer than 1024"},
		"long unknown quoted": {"OPEN-BODY-SIG " + strings.Repeat("x", 500) + `="1"`, `unknown parameter "` + strings.Repeat("x", 64) + `"…`},
	} {
		t.Run(name, func(t *testing.T) {
			sig, err := parseBodySig(test.header)
			if test.message == "" {
				if want := (bodySig{"a", "20240101000000", "n", "s="}); err != nil || sig != want {
					t.Fatalf("got %+v, %v", sig, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.message) {
				t.Fatalf("got error %v, want %q", err, test.message)
			}
			if sig != (bodySig{}) {
				t.Errorf("a broken header gives %+v", sig)
			}
		})
	}
}

// Inbound

type notifyVector struct {
	Name         string
	Key          string
	Form         *string
	StringToSign string `json:"string_to_sign"`
	Digest       string
	Sign         string
	Valid        bool
}

func TestNotifyVectors(t *testing.T) {
	var vectors []notifyVector
	readVectors(t, "notify.json", &vectors)
	if len(vectors) == 0 {
		t.Fatal("no vectors")
	}
	digests := map[string]digestSet{"MD5": digestMD5, "SHA256": digestSHA256}
	for _, vector := range vectors {
		t.Run(vector.Name, func(t *testing.T) {
			digest := digests[vector.Digest]
			form := vector.StringToSign
			if vector.Form != nil {
				form = *vector.Form
			} else { // the digest alone: a form made of the published string
				var fields referenceFields
				for pair := range strings.SplitSeq(form, "&") {
					name, value, _ := strings.Cut(pair, "=")
					fields = append(fields, referenceField{name, value})
				}
				form = fields.form() + "&sign=" + vector.Sign
			}
			f := testFields(t, form)
			if got := string(f.appendStringToSign([]byte("before:"))); got != "before:"+vector.StringToSign {
				t.Errorf("string to sign\n got %s\nwant %s", got, vector.StringToSign)
			}
			reason := testReason(form, digestMD5|digestSHA256, vector.Key)
			if (reason == "") != vector.Valid {
				t.Errorf("reason %q, valid %v", reason, vector.Valid)
			}
			if !vector.Valid {
				return
			}
			if got := testReason(form, digest, "previous", vector.Key); got != "" {
				t.Errorf("with its digest alone and a second key: %q", got)
			}
			if got := testReason(form, (digestMD5|digestSHA256)&^digest, vector.Key); got != reasonDigest {
				t.Errorf("with the other digest alone: %q", got)
			}
			if got := testReason(form, digest, vector.Key+"x", ""); got != reasonSignature {
				t.Errorf("with another key: %q", got)
			}
		})
	}
}

func TestParse(t *testing.T) {
	type pairs = []referenceField
	long := strings.Repeat("n", 100)
	for name, test := range map[string]struct {
		body   string
		want   pairs
		reason string
		text   string // part of the error
	}{
		"plain":                        {body: "a=1&b=2", want: pairs{{"a", "1"}, {"b", "2"}}},
		"order of arrival":             {body: "b=2&a=1", want: pairs{{"b", "2"}, {"a", "1"}}},
		"semicolon is text":            {body: "a=1;b=2", want: pairs{{"a", "1;b=2"}}},
		"plus and percent":             {body: "a+b=c+%2B%e5%A5%bd", want: pairs{{"a b", "c +好"}}},
		"decoded once":                 {body: "a=%252B", want: pairs{{"a", "%2B"}}},
		"equals sign in a value":       {body: "a=b=c", want: pairs{{"a", "b=c"}}},
		"empty pairs":                  {body: "&&a=1&&", want: pairs{{"a", "1"}}},
		"no equals sign":               {body: "a&b=2", want: pairs{{"b", "2"}}},
		"empty value":                  {body: "a=&b=2", want: pairs{{"b", "2"}}},
		"empty name":                   {body: "=1", want: pairs{{"", "1"}}},
		"empty name and value":         {body: "=&a=1", want: pairs{{"a", "1"}}},
		"empty body":                   {body: ""},
		"bytes that are not UTF-8":     {body: "a=%c4%E3\xff", want: pairs{{"a", "\xc4\xe3\xff"}}},
		"nul":                          {body: "a=%00", want: pairs{{"a", "\x00"}}},
		"text after escapes":           {body: "a=%31&b=2&c=+3", want: pairs{{"a", "1"}, {"b", "2"}, {"c", " 3"}}},
		"repeated":                     {body: "a=1&b=2&a=1", reason: reasonRepeated, text: `parameter "a" is repeated`},
		"repeated after decoding":      {body: "a=1&%61=1", reason: reasonRepeated, text: `"a"`},
		"repeated sign":                {body: "sign=1&sign=2", reason: reasonRepeated, text: `"sign"`},
		"repeated long name":           {body: long + "=1&" + long + "=2", reason: reasonRepeated, text: `"` + long[:64] + `"…`},
		"repeated, first empty":        {body: "a=&a=1", want: pairs{{"a", "1"}}},
		"repeated, second empty":       {body: "a=1&a", want: pairs{{"a", "1"}}},
		"names alike in eight bytes":   {body: "refundAmountB=1&refundAmountA=2&refundAm=3", want: pairs{{"refundAmountB", "1"}, {"refundAmountA", "2"}, {"refundAm", "3"}}},
		"percent at the end":           {body: "a=1%", reason: reasonEncoding, text: `parameter "a"`},
		"percent and one digit":        {body: "a=1%2", reason: reasonEncoding},
		"percent and no digit":         {body: "a=%zz", reason: reasonEncoding},
		"percent cut by the pair":      {body: "a=%2&b=1", reason: reasonEncoding},
		"broken name":                  {body: "a%=1", reason: reasonEncoding, text: `parameter name "a%"`},
		"broken name of an empty pair": {body: "a%=", reason: reasonEncoding},
		"broken without equals sign":   {body: "a%g0", reason: reasonEncoding},

		"json":                         {body: " \r\n\t{\"a\":\"1\",\"b\":2, \"c\" : true }\n", want: pairs{{"a", "1"}, {"b", "2"}, {"c", "true"}}},
		"json, empty object":           {body: "{ }"},
		"json, null and empty":         {body: `{"a":null,"b":"","c":"1"}`, want: pairs{{"c", "1"}}},
		"json, escapes":                {body: `{"\u0061":"\"\\\/\b\f\n\r\t\u597d\uD83d\ude00"}`, want: pairs{{"a", "\"\\/\b\f\n\r\t好😀"}}},
		"json, number literals":        {body: `{"a":-0,"b":1.50,"c":1E+2,"d":123456789012345678901234567890}`, want: pairs{{"a", "-0"}, {"b", "1.50"}, {"c", "1E+2"}, {"d", "123456789012345678901234567890"}}},
		"json, bytes not UTF-8":        {body: "{\"a\":\"\xc4\xe3\"}", want: pairs{{"a", "\xc4\xe3"}}},
		"json, plus stays":             {body: `{"a":"1+%2B"}`, want: pairs{{"a", "1+%2B"}}},
		"json, ampersand in a name":    {body: `{"a&b=c":"1"}`, want: pairs{{"a&b=c", "1"}}},
		"json, repeated":               {body: `{"a":"1","\u0061":1}`, reason: reasonRepeated, text: `"a"`},
		"json, repeated null":          {body: `{"a":null,"a":1,"a":""}`, want: pairs{{"a", "1"}}},
		"json, nested object":          {body: `{"goods":{}}`, reason: reasonJSON, text: `field "goods": nested`},
		"json, nested array":           {body: `{"goods":[]}`, reason: reasonJSON, text: "nested"},
		"json, data behind":            {body: `{"a":"1"}x`, reason: reasonJSON, text: "after the JSON object"},
		"json, second object":          {body: `{}{}`, reason: reasonJSON},
		"json, lone high surrogate":    {body: `{"a":"\ud83d"}`, reason: reasonJSON, text: `field "a"`},
		"json, high surrogate twice":   {body: `{"a":"\ud83d\ud83d"}`, reason: reasonJSON},
		"json, lone low surrogate":     {body: `{"a":"\ude00"}`, reason: reasonJSON},
		"json, surrogate in a name":    {body: `{"\ude00":"1"}`, reason: reasonJSON},
		"json, invalid escape":         {body: `{"a":"\x"}`, reason: reasonJSON},
		"json, escape of three digits": {body: `{"a":"\u00g1"}`, reason: reasonJSON},
		"json, escape cut":             {body: `{"a":"\u00`, reason: reasonJSON},
		"json, backslash at the end":   {body: `{"a":"\`, reason: reasonJSON},
		"json, control character":      {body: "{\"a\":\"1\n\"}", reason: reasonJSON},
		"json, string cut":             {body: `{"a":"1`, reason: reasonJSON},
		"json, object cut":             {body: `{"a":"1"`, reason: reasonJSON, text: "ends early"},
		"json, brace alone":            {body: `{`, reason: reasonJSON},
		"json, no colon":               {body: `{"a" 1}`, reason: reasonJSON, text: "colon"},
		"json, no value":               {body: `{"a":`, reason: reasonJSON, text: "missing"},
		"json, no comma":               {body: `{"a":1 "b":2}`, reason: reasonJSON, text: "comma"},
		"json, comma at the end":       {body: `{"a":1,}`, reason: reasonJSON},
		"json, name without quotes":    {body: `{a:1}`, reason: reasonJSON},
		"json, leading zero":           {body: `{"a":01}`, reason: reasonJSON},
		"json, negative leading zero":  {body: `{"a":-01}`, reason: reasonJSON},
		"json, plus sign":              {body: `{"a":+1}`, reason: reasonJSON},
		"json, minus alone":            {body: `{"a":-}`, reason: reasonJSON},
		"json, point at the end":       {body: `{"a":1.}`, reason: reasonJSON},
		"json, point at the start":     {body: `{"a":.1}`, reason: reasonJSON},
		"json, empty exponent":         {body: `{"a":1e+}`, reason: reasonJSON},
		"json, infinity":               {body: `{"a":Infinity}`, reason: reasonJSON},
		"json, word cut":               {body: `{"a":tru}`, reason: reasonJSON},
		"json, word too long":          {body: `{"a":nulls}`, reason: reasonJSON},
	} {
		t.Run(name, func(t *testing.T) {
			f := acquireFields()
			defer f.release()
			err := f.parse([]byte(test.body))
			if test.reason != "" {
				var broken *parseError
				if !errors.As(err, &broken) || broken.Reason != test.reason || !strings.Contains(err.Error(), test.text) {
					t.Fatalf("got %v, want %s with %q", err, test.reason, test.text)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got pairs
			for _, field := range f.fields {
				got = append(got, referenceField{string(f.name(&field)), string(f.value(&field))})
			}
			if fmt.Sprint(got) != fmt.Sprint(test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
			for _, pair := range test.want {
				if value, ok := f.get(pair.name); !ok || string(value) != pair.value {
					t.Errorf("get(%q) is %q, %v", pair.name, value, ok)
				}
			}
			if value, ok := f.get("absent"); ok {
				t.Errorf("an absent parameter is %q", value)
			}
		})
	}
}

func TestParseJSONRefusesOthers(t *testing.T) {
	for _, body := range []string{"", " ", `[{"a":"1"}]`, "a=1", `"a"`} {
		f := acquireFields()
		err := f.parseJSON([]byte(body))
		var broken *parseError
		if !errors.As(err, &broken) || broken.Reason != reasonJSON {
			t.Errorf("%q: %v", body, err)
		}
		f.release()
	}
}

func TestParseBounds(t *testing.T) {
	many := func(count int, pair, between string) string {
		pairs := make([]string, count)
		for i := range pairs {
			pairs[i] = fmt.Sprintf(pair, i)
		}
		return strings.Join(pairs, between)
	}
	for name, test := range map[string]struct {
		body   string
		fields int
		reason string
	}{
		"a thousand":            {many(1000, "n%d=1", "&"), 1000, ""},
		"a thousand and one":    {many(1001, "n%d=1", "&"), 0, reasonTooMany},
		"thirty thousand":       {many(30000, "n%d=1", "&"), 0, reasonTooMany},
		"thirty thousand empty": {many(30000, "n%d=", "&") + "&a=1", 1, ""},
		"a million ampersands":  {strings.Repeat("&", 1_000_000) + "a=1", 1, ""},
		"a long name":           {strings.Repeat("n", 64<<10) + "=1", 1, ""},
		"a long escaped name":   {strings.Repeat("%6e", 64<<10) + "=1", 1, ""},
		"json, a thousand":      {"{" + many(1000, `"n%d":1`, ",") + "}", 1000, ""},
		"json, one more":        {"{" + many(1001, `"n%d":1`, ",") + "}", 0, reasonTooMany},
		"json, many nulls":      {"{" + many(30000, `"n%d":null`, ",") + "}", 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := acquireFields()
			defer f.release()
			err := f.parse([]byte(test.body))
			var broken *parseError
			if errors.As(err, &broken) {
				if broken.Reason != test.reason {
					t.Fatalf("reason %s, want %s", broken.Reason, test.reason)
				}
				return
			}
			if err != nil || test.reason != "" || len(f.fields) != test.fields {
				t.Fatalf("%d fields, %v", len(f.fields), err)
			}
		})
	}
}

func TestSortedByRawBytes(t *testing.T) {
	for _, count := range []int{2, 10, 64, 65, 300} {
		random := rand.New(rand.NewPCG(1, uint64(count)))
		seen := map[string]bool{}
		var fields referenceFields
		for len(fields) < count {
			name := make([]byte, 1+random.IntN(12))
			for i := range name {
				name[i] = []byte("aAbB_0\x00\xff&")[random.IntN(9)]
			}
			if !seen[string(name)] {
				seen[string(name)] = true
				fields = append(fields, referenceField{string(name), "v"})
			}
		}
		f := testFields(t, fields.form())
		if got, want := string(f.appendStringToSign(nil)), fields.stringToSign(); got != want {
			t.Errorf("%d fields\n got %q\nwant %q", count, got, want)
		}
	}
}

func TestVerify(t *testing.T) {
	const both = digestMD5 | digestSHA256
	base := referenceFields{{"merOrderId", "1"}, {"status", "TRADE_SUCCESS"}, {"totalAmount", "1"}}
	with := func(pairs ...string) referenceFields {
		fields := append(referenceFields{}, base...)
		for i := 0; i < len(pairs); i += 2 {
			fields = append(fields, referenceField{pairs[i], pairs[i+1]})
		}
		return fields
	}
	md5Form := func(pairs ...string) string { return with(pairs...).signedForm(testKey, digestMD5) }
	shaForm := func(pairs ...string) string { return with(pairs...).signedForm(testKey, digestSHA256) }
	sum := func(text string) string { return referenceDigest(text, testKey, digestSHA256) }
	one := []string{testKey}

	for name, test := range map[string]struct {
		body   string
		accept digestSet
		keys   []string
		want   string
	}{
		"MD5 by length":                 {md5Form(), both, one, ""},
		"SHA-256 by length":             {shaForm(), both, one, ""},
		"capital hex":                   {strings.ToUpper(sum("a=1")) + "&a=1", both, one, reasonMissingSignature},
		"signType sha256":               {shaForm("signType", "sha256"), both, one, ""},
		"signType SHA-256":              {shaForm("signType", "SHA-256"), both, one, ""},
		"signType Sha256":               {shaForm("signType", "Sha256"), both, one, ""},
		"signType md5":                  {md5Form("signType", "md5"), both, one, ""},
		"signType MD-5":                 {md5Form("signType", "MD-5"), both, one, ""},
		"signType SHA1":                 {shaForm("signType", "SHA1"), both, one, reasonSignType},
		"signType with a space":         {shaForm("signType", "SHA256 "), both, one, reasonSignType},
		"signType empty":                {base.form() + "&signType=&sign=" + sum(base.stringToSign()), both, one, ""},
		"signtype is any parameter":     {shaForm("signtype", "x"), both, one, ""},
		"signType SHA256, MD5 digits":   {md5Form("signType", "SHA256"), both, one, reasonSignature},
		"signType MD5, SHA-256 digits":  {shaForm("signType", "MD5"), both, one, reasonSignature},
		"MD5 not accepted":              {md5Form(), digestSHA256, one, reasonDigest},
		"MD5 not accepted by signType":  {md5Form("signType", "MD5"), digestSHA256, one, reasonDigest},
		"SHA-256 not accepted":          {shaForm("signType", "SHA256"), digestMD5, one, reasonDigest},
		"nothing accepted":              {shaForm(), 0, one, reasonDigest},
		"no sign":                       {base.form(), both, one, reasonMissingSignature},
		"empty sign":                    {base.form() + "&sign=", both, one, reasonMissingSignature},
		"empty body":                    {"", both, one, reasonMissingSignature},
		"Sign is not sign":              {strings.Replace(shaForm(), "sign=", "Sign=", 1), both, one, reasonMissingSignature},
		"sign alone":                    {"sign=" + sum(""), both, one, ""},
		"sign cut":                      {shaForm()[:len(shaForm())-2], both, one, reasonSignature},
		"sign with more":                {shaForm() + "00", both, one, reasonSignature},
		"sign odd":                      {shaForm()[:len(shaForm())-1], both, one, reasonSignature},
		"sign no hex":                   {shaForm()[:len(shaForm())-1] + "g", both, one, reasonSignature},
		"sign of a megabyte":            {"sign=" + strings.Repeat("0", 1<<20), both, one, reasonSignature},
		"two keys, the second":          {shaForm(), both, []string{"other", testKey}, ""},
		"two keys, the first":           {shaForm(), both, []string{testKey, "other"}, ""},
		"two keys, none":                {shaForm(), both, []string{"other", "another"}, reasonSignature},
		"no key":                        {shaForm(), both, nil, reasonSignature},
		"an empty key never verifies":   {with().signedForm("", digestSHA256), both, []string{""}, reasonSignature},
		"an empty key beside a good":    {shaForm(), both, []string{"", testKey}, ""},
		"&key= before the key":          {with().signedForm("&key="+testKey, digestSHA256), both, one, reasonSignature},
		"empty values are not signed":   {shaForm() + "&refId=&bankInfo", both, one, ""},
		"empty values signed":           {base.form() + "&refId=&sign=" + sum(base.stringToSign()+"&refId="), both, one, reasonSignature},
		"unknown parameters are signed": {shaForm("rnd", "x8Jq"), both, one, ""},
		"unknown parameter added":       {shaForm() + "&rnd=x8Jq", both, one, reasonSignature},
		"plus kept":                     {"a=b+c&sign=" + sum("a=b+c"), both, one, reasonSignature},
		"plus is a space":               {"a=b+c&sign=" + sum("a=b c"), both, one, ""},
		"signed before decoding":        {"a=b%20c&sign=" + sum("a=b%20c"), both, one, reasonSignature},
		"decoded twice":                 {"a=%252B&sign=" + sum("a=+"), both, one, reasonSignature},
		"sorted by bytes":               {"b=1&Z=1&a=1&sign=" + sum("Z=1&a=1&b=1"), both, one, ""},
		"sorted without case":           {"B=1&a=1&sign=" + sum("a=1&B=1"), both, one, reasonSignature},
		"GBK bytes as they came":        {"a=%C4%E3&sign=" + sum("a=\xc4\xe3"), both, one, ""},
		"json":                          {`{"totalAmount":1,"paid":true,"x":null,"y":"","sign":"` + sum("paid=true&totalAmount=1") + `"}`, both, one, ""},
		"json, number re-written":       {`{"totalAmount":1.0,"sign":"` + sum("totalAmount=1") + `"}`, both, one, reasonSignature},
		"json, nested text":             {`{"goods":"[{\"a\":1}]","sign":"` + sum(`goods=[{"a":1}]`) + `"}`, both, one, ""},
		"json, sign is a number":        {`{"a":"1","sign":12345678901234567890123456789012}`, both, one, reasonSignature},

		"ambiguous: status in a value":        {shaForm("orderDesc", "tea&status=TRADE_SUCCESS"), both, one, reasonAmbiguous},
		"ambiguous: in any letter case":       {shaForm("orderDesc", "tea&STATUS=x"), both, one, reasonAmbiguous},
		"ambiguous: at the start":             {shaForm("orderDesc", "&mid=1"), both, one, reasonAmbiguous},
		"ambiguous: empty in the text":        {shaForm("orderDesc", "&totalAmount="), both, one, reasonAmbiguous},
		"ambiguous: the second ampersand":     {shaForm("orderDesc", "a&b&&seqId=1"), both, one, reasonAmbiguous},
		"ambiguous: sign in a value":          {shaForm("orderDesc", "&sign=1"), both, one, reasonAmbiguous},
		"ambiguous: signType in a value":      {shaForm("orderDesc", "&signType=1"), both, one, reasonAmbiguous},
		"ambiguous: in a name":                {shaForm("a&b", "1"), both, one, reasonAmbiguous},
		"ambiguous: equals sign in a name":    {shaForm("a=b", "1"), both, one, reasonAmbiguous},
		"ambiguous: empty name":               {shaForm("", "1"), both, one, reasonAmbiguous},
		"ambiguous: json":                     {`{"a&b":"1","sign":"` + sum("a&b=1") + `"}`, both, one, reasonAmbiguous},
		"ambiguous: false comes first":        {shaForm("orderDesc", "&status=1") + "&x=1", both, one, reasonSignature},
		"ambiguous: status and statuS":        {shaForm("statuS", "TRADE_SUCCESS"), both, one, reasonAmbiguous},
		"ambiguous: status and long s":        {shaForm("\u017ftatus", "TRADE_SUCCESS"), both, one, reasonAmbiguous},
		"true: Mid where no mid is":           {shaForm("Mid", "1"), both, one, ""},
		"true: ampersand and any word":        {shaForm("orderDesc", "a&b=c&d"), both, one, ""},
		"true: no equals sign behind":         {shaForm("orderDesc", "a&status"), both, one, ""},
		"true: longer word":                   {shaForm("orderDesc", "a&status2=1&xmid=2"), both, one, ""},
		"true: space before the word":         {shaForm("orderDesc", "a& status=1"), both, one, ""},
		"true: no ampersand before the word":  {shaForm("orderDesc", "status=1"), both, one, ""},
		"true: ampersand at the end":          {shaForm("orderDesc", "a&"), both, one, ""},
		"true: settleDate decides nothing":    {shaForm("orderDesc", "a&settleDate=1"), both, one, ""},
		"ambiguous: long s in a value":        {shaForm("orderDesc", "a&\u017ftatus=1"), both, one, reasonAmbiguous},
		"ambiguous: a number with a pair":     {shaForm("seqId", "1&settleDate=2"), both, one, reasonAmbiguous},
		"ambiguous: a pair without a name":    {shaForm("seqId", "1&=2"), both, one, reasonAmbiguous},
		"ambiguous: a pair without a value":   {shaForm("mid", "1&x&y="), both, one, reasonAmbiguous},
		"ambiguous: names of other letters":   {shaForm("abc", "1", "aBc", "2"), both, one, reasonAmbiguous},
		"ambiguous: a name in GBK":            {shaForm("\xc4\xe3", "1"), both, one, reasonAmbiguous},
		"true: no = behind the ampersand":     {shaForm("mid", "1=2&x&y"), both, one, ""},
		"mixed: a bill's number":              {shaForm("billNo", "1"), both, one, reasonMixed},
		"mixed: a bill's date beside status":  {referenceFields{{"status", "1"}, {"billDate", "1"}}.signedForm(testKey, digestSHA256), both, one, reasonMixed},
		"mixed: a payment beside merOrderId":  {referenceFields{{"merOrderId", "1"}, {"billPayment", "{}"}}.signedForm(testKey, digestSHA256), both, one, reasonMixed},
		"mixed: in other letters":             {shaForm("BILLSTATUS", "PAID"), both, one, reasonMixed},
		"mixed: in other letters, the status": {referenceFields{{"STATUS", "1"}, {"billDate", "1"}}.signedForm(testKey, digestSHA256), both, one, reasonMixed},
		"true: a bill":                        {referenceFields{{"billNo", "1"}, {"billDate", "1"}, {"billPayment", "{}"}, {"billStatus", "PAID"}}.signedForm(testKey, digestSHA256), both, one, ""},
		"true: a bill's funds":                {shaForm("billFunds", "1", "billDesc", "1", "billQRCode", "1"), both, one, ""},
		"true: a completed guarantee":         {shaForm("secureStatus", "ALL_COMPLETED"), both, one, ""},
		"true: only a decoded ampersand cuts": {shaForm("orderDesc", "a%26status=1"), both, one, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := testReason(test.body, test.accept, test.keys...); got != test.want {
				t.Errorf("reason %q, want %q", got, test.want)
			}
		})
	}
	for _, known := range fieldTable[:decidingFields] {
		name := known.name
		t.Run("ambiguous: "+name, func(t *testing.T) {
			for _, spelling := range []string{name, strings.ToUpper(name), strings.ToLower(name)} {
				if got := testReason(shaForm("orderDesc", "x&"+spelling+"=1"), both, testKey); got != reasonAmbiguous {
					t.Errorf("%s: %q", spelling, got)
				}
			}
		})
	}
}

// TestVerifyCutInTwoWays plays the attack that the rule is there for: the signed string of a closed order, cut
// elsewhere, is the string of a paid one.
func TestVerifyCutInTwoWays(t *testing.T) {
	closed := referenceFields{
		{"merOrderId", "42"}, {"orderDesc", "tea&payTime=2024-01-01 00:00:00&status=TRADE_SUCCESS&totalAmount=99900&z="},
		{"status", "TRADE_CLOSED"}, {"totalAmount", "1"},
	}
	forged := referenceFields{
		{"merOrderId", "42"}, {"orderDesc", "tea"}, {"payTime", "2024-01-01 00:00:00"}, {"status", "TRADE_SUCCESS"},
		{"totalAmount", "99900"}, {"z", "&status=TRADE_CLOSED&totalAmount=1"},
	}
	if closed.stringToSign() != forged.stringToSign() {
		t.Fatalf("not the same string:\n%s\n%s", closed.stringToSign(), forged.stringToSign())
	}
	for _, form := range []string{
		closed.signedForm(testKey, digestSHA256),
		forged.form() + "&sign=" + referenceDigest(closed.stringToSign(), testKey, digestSHA256),
	} {
		if !referenceVerifies(readReference(form), testKey) {
			t.Fatal("the published rules do not verify it")
		}
		if got := testReason(form, digestSHA256, testKey); got != reasonAmbiguous {
			t.Errorf("reason %q for %s", got, form)
		}
	}
}

// randomFields returns fields as a hostile platform might send them.
func randomFields(random *rand.Rand) referenceFields {
	names := []string{"mid", "status", "totalAmount", "orderDesc", "goods", "Status", "a&b", "", "payTime", "名字", "signType", "billDate"}
	values := []string{"", "1", "TRADE_SUCCESS", "a b+c", "x&status=1", "&", "中文", "\xc4\xe3", `[{"totalAmount":"1"}]`, "SHA256", "sha-256", "%", ";"}
	seen := map[string]bool{}
	var fields referenceFields
	for range random.IntN(100) {
		name := names[random.IntN(len(names))]
		if random.IntN(3) > 0 {
			name = fmt.Sprintf("n%d", random.IntN(200))
		}
		if seen[name] {
			continue
		}
		seen[name] = true
		value := values[random.IntN(len(values))]
		if name == "signType" && random.IntN(4) > 0 {
			value = "SHA256"
		}
		fields = append(fields, referenceField{name, value})
	}
	return fields
}

func TestVerifyLikeReference(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 11))
	outcomes := map[string]int{}
	for range 3000 {
		fields := randomFields(random)
		form := fields.signedForm(testKey, digestMD5<<random.IntN(2))
		if random.IntN(5) == 0 {
			form += "&rnd=1"
		}
		values := readReference(form)
		if values == nil {
			t.Fatalf("the reference cannot read %q", form)
		}
		f := acquireFields()
		if err := f.parse([]byte(form)); err != nil {
			t.Fatalf("%q: %v", form, err)
		}
		if got, want := string(f.appendStringToSign(nil)), referenceString(values); got != want {
			t.Fatalf("string to sign\n got %q\nwant %q", got, want)
		}
		f.release()
		got := testReason(form, digestMD5|digestSHA256, testKey)
		switch valid := referenceVerifies(values, testKey); {
		case valid && got != referenceReason(values), !valid && (got == "" || got == reasonAmbiguous || got == reasonMixed):
			t.Fatalf("%q: reason %q, reference %v", form, got, valid)
		}
		outcomes[got]++
	}
	for _, reason := range []string{"", reasonSignature, reasonSignType, reasonAmbiguous, reasonMixed} {
		if outcomes[reason] == 0 {
			t.Errorf("no random notify ended as %q: %v", reason, outcomes)
		}
	}
}

func TestFieldsForgetEverything(t *testing.T) {
	f := new(notifyFields)
	first := referenceFields{{"merOrderId", "1"}, {"secret", "a b"}, {"goods", `{"a":"b"}`}}
	if err := f.parse([]byte(first.signedForm(testKey, digestSHA256))); err != nil {
		t.Fatal(err)
	}
	if reason := f.verify([][]byte{[]byte("much longer than the other key: " + testKey), []byte(testKey)}, digestSHA256); reason != "" {
		t.Fatal(reason)
	}
	if kept := string(f.signed[:cap(f.signed)]); strings.Contains(kept, testKey[:16]) {
		t.Error("a key stays in the buffer")
	}
	f.event(nil, "/chinaums/shop")
	if err := f.parse([]byte("b=2")); err != nil {
		t.Fatal(err)
	}
	if got := string(f.appendStringToSign(nil)); got != "b=2" {
		t.Errorf("string to sign is %q", got)
	}
	if got := f.event(nil, "/chinaums/shop").Data; got != `{"b":"2"}` {
		t.Errorf("event is %s", got)
	}
	if reason := f.verify([][]byte{[]byte(testKey)}, digestSHA256); reason != reasonMissingSignature {
		t.Errorf("reason %q: the first signature is still there", reason)
	}
	f.release()
	if len(f.fields)+len(f.sorted)+len(f.text)+len(f.signed)+len(f.writer.Out)+len(f.writer.words) != 0 {
		t.Error("released fields are not empty")
	}
}

func TestLargeBuffersAreDropped(t *testing.T) {
	f := new(notifyFields)
	large := strings.Repeat("x+", maxPooledBuffer)
	if err := f.parse([]byte(referenceFields{{"a", large}}.signedForm(testKey, digestSHA256))); err != nil {
		t.Fatal(err)
	}
	if reason := f.verify([][]byte{[]byte(testKey)}, digestSHA256); reason != "" {
		t.Fatal(reason)
	}
	f.event(nil, "/chinaums/shop")
	f.release()
	for name, buffer := range map[string][]byte{
		"text": f.text, "signed": f.signed, "out": f.writer.Out, "words": f.writer.words,
	} {
		if cap(buffer) > maxPooledBuffer {
			t.Errorf("%s keeps %d bytes", name, cap(buffer))
		}
	}
}

func TestAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("a pool drops objects at random under the race detector")
	}
	signer := newBodySigner("f0ec96ad2c3848b5b810e7aadf369e2f", "00112233445566778899aabbccddeeff")
	now, body := time.Now(), make([]byte, 1024)
	if got := testutil.Allocations(200, func() { signer.authorization(now, "99930a147f5353dd8a8f29a5329f37e9", body) }); got != 1 {
		t.Errorf("authorization: %v allocations, want 1", got)
	}
	form := []byte(paymentForm().signedForm(testKey, digestSHA256))
	keys, rules := [][]byte{[]byte(testKey)}, newRules(nil)
	if got := testutil.Allocations(200, func() {
		f := acquireFields()
		if f.parse(form) != nil || f.verify(keys, digestSHA256) != "" {
			t.Error("the notify is not true")
		}
		f.event(rules, "/chinaums/shop")
		f.release()
	}); got != 1 {
		t.Errorf("notify: %v allocations, want 1: the JSON and, behind it, the attributes", got)
	}
}

func TestHexValues(t *testing.T) {
	for c := range 256 {
		decoded, err := hex.DecodeString(string([]byte{'0', byte(c)}))
		if want := byte(255); err != nil && hexValues[c] != want || err == nil && hexValues[c] != decoded[0] {
			t.Errorf("byte %#x is %d", c, hexValues[c])
		}
	}
}

// referenceJSON reads a flat JSON object with encoding/json. It knows nothing of bytes that are not UTF-8: they are
// replaced on the way in, by marks of the private use area, and put back.
func referenceJSON(body []byte) (referenceFields, bool) {
	var marked []byte
	for rest := body; len(rest) > 0; {
		r, size := utf8.DecodeRune(rest)
		switch {
		case r == utf8.RuneError && size == 1:
			marked = utf8.AppendRune(marked, 0xF0000+rune(rest[0]))
		case 0xF0000 <= r && r <= 0xF00FF:
			for _, c := range rest[:size] {
				marked = utf8.AppendRune(marked, 0xF0000+rune(c))
			}
		default:
			marked = append(marked, rest[:size]...)
		}
		rest = rest[size:]
	}
	unmark := func(text string) string {
		var raw []byte
		for _, r := range text {
			if 0xF0000 <= r && r <= 0xF00FF {
				raw = append(raw, byte(r))
			} else {
				raw = utf8.AppendRune(raw, r)
			}
		}
		return string(raw)
	}
	if !json.Valid(marked) || loneSurrogate.Match(withoutPairs(marked)) {
		return nil, false
	}
	decoder := json.NewDecoder(strings.NewReader(string(marked)))
	decoder.UseNumber()
	object, ok := readTree(decoder).(referenceObject)
	if !ok {
		return nil, false
	}
	var fields referenceFields
	seen := map[string]bool{}
	for _, member := range object {
		field := referenceField{name: unmark(member.name)}
		switch value := member.value.(type) {
		case string:
			field.value = unmark(value)
		case json.Number, bool:
			field.value = fmt.Sprint(value)
		case nil:
		default:
			return nil, false
		}
		if field.value == "" {
			continue
		}
		if seen[field.name] || len(fields) == maxNotifyFields {
			return nil, false
		}
		seen[field.name] = true
		fields = append(fields, field)
	}
	return fields, true
}

var (
	escapedPair   = regexp.MustCompile(`(?i)\\u(d[89ab][0-9a-f]{2})\\u(d[c-f][0-9a-f]{2})`)
	loneSurrogate = regexp.MustCompile(`(?i)\\ud[89a-f][0-9a-f]{2}`)
)

// withoutPairs takes escaped backslashes and whole surrogate pairs out of JSON text.
func withoutPairs(text []byte) []byte {
	text = []byte(strings.ReplaceAll(string(text), `\\`, "  "))
	return escapedPair.ReplaceAll(text, nil)
}
