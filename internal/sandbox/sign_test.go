package sandbox

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// vectors reads a file of published and independently computed signatures.
func vectors[T any](t *testing.T, name string) []T {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("..", "..", "testdata", "vectors", name))
	if err != nil {
		t.Fatal(err)
	}
	var all []T
	if err := json.Unmarshal(content, &all); err != nil {
		t.Fatal(err)
	}
	if len(all) == 0 {
		t.Fatalf("%s is empty", name)
	}
	return all
}

func TestBodySignatureVectors(t *testing.T) {
	for _, v := range vectors[struct {
		Name, Timestamp, Nonce, Body, Signature string
		AppID                                   string `json:"app_id"`
		AppKey                                  string `json:"app_key"`
	}](t, "open-body-sig.json") {
		if got := bodySignature(v.AppID, v.AppKey, v.Timestamp, v.Nonce, []byte(v.Body)); got != v.Signature {
			t.Errorf("%s: %s, not %s", v.Name, got, v.Signature)
		}
	}
}

func TestFormParamVectors(t *testing.T) {
	for _, v := range vectors[struct {
		Name, Timestamp, Nonce, Content, Signature, Query string
		AppID                                             string `json:"app_id"`
		AppKey                                            string `json:"app_key"`
	}](t, "open-form-param.json") {
		if got := bodySignature(v.AppID, v.AppKey, v.Timestamp, v.Nonce, []byte(v.Content)); got != v.Signature {
			t.Errorf("%s: %s, not %s", v.Name, got, v.Signature)
		}
	}
}

func TestTokenVectors(t *testing.T) {
	for _, v := range vectors[struct {
		Timestamp, Nonce, Signature string
		AppID                       string `json:"app_id"`
		AppKey                      string `json:"app_key"`
	}](t, "access-token.json") {
		if got := tokenSignature("SHA256", v.AppID, v.AppKey, v.Timestamp, v.Nonce); got != v.Signature {
			t.Errorf("%s, not %s", got, v.Signature)
		}
	}
}

func TestNotifyVectors(t *testing.T) {
	for _, v := range vectors[struct {
		Name, Key, Digest, Sign string
		Form                    *string
		Text                    string `json:"string_to_sign"`
		Valid                   bool
	}](t, "notify.json") {
		t.Run(v.Name, func(t *testing.T) {
			text, sign := v.Text, v.Sign
			if v.Form != nil {
				values, err := url.ParseQuery(*v.Form)
				if err != nil {
					t.Fatal(err)
				}
				var params []param
				for name := range values {
					params = append(params, param{name, values.Get(name)})
				}
				if text = stringToSign(params); v.Text != "" && text != v.Text {
					t.Errorf("signed\n%s, not\n%s", text, v.Text)
				}
				sign = values.Get("sign")
			}
			got := notifySign(Digest(v.Digest), text, v.Key)
			if got != strings.ToUpper(got) {
				t.Errorf("%s is not in capitals, as the published examples are", got)
			}
			// The sandbox only signs: that a receiver must not take an unknown signType is none of its business.
			if valid := strings.EqualFold(got, sign); valid != v.Valid && v.Name != "unknown signType" {
				t.Errorf("%s and %s: valid is %t", got, sign, valid)
			}
		})
	}
}

// independent is the four signatures in another language, from protocol.md's formulas.
const independent = `
import sys, json, hashlib, hmac, base64
from urllib.parse import quote_plus
def scheme(v):
    digest = hashlib.sha256(v['content'].encode()).hexdigest()
    message = v['app_id'] + v['timestamp'] + v['nonce'] + digest
    return base64.b64encode(hmac.new(v['app_key'].encode(), message.encode(), hashlib.sha256).digest()).decode()
for v in json.load(sys.stdin):
    pairs = sorted((k.encode(), w.encode()) for k, w in v['fields'].items() if k != 'sign' and w != '')
    text = b'&'.join(k + b'=' + w for k, w in pairs) + v['app_key'].encode()
    print(json.dumps({
        'body': scheme(v),
        'token': hashlib.sha256((v['app_id'] + v['timestamp'] + v['nonce'] + v['app_key']).encode()).hexdigest(),
        'md5': hashlib.md5(text).hexdigest().upper(),
        'sha256': hashlib.sha256(text).hexdigest().upper(),
        'query': 'authorization=OPEN-FORM-PARAM&' + '&'.join(k + '=' + quote_plus(w) for k, w in
            [('appId', v['app_id']), ('timestamp', v['timestamp']), ('nonce', v['nonce']), ('content', v['content']), ('signature', scheme(v))]),
    }))
`

// TestSignaturesAgainstPython compares with a third implementation, on inputs that no vector has.
func TestSignaturesAgainstPython(t *testing.T) {
	type input struct {
		AppID     string            `json:"app_id"`
		AppKey    string            `json:"app_key"`
		Timestamp string            `json:"timestamp"`
		Nonce     string            `json:"nonce"`
		Content   string            `json:"content"`
		Fields    map[string]string `json:"fields"`
	}
	random := rand.New(rand.NewPCG(1, 2))
	alphabet := []rune("aZ09 +&=%/?\"'{}[]\\\n\t_-~*.测试元\u00e9\u20ac\U0001f375")
	text := func(n int) string {
		var out strings.Builder
		for range random.IntN(n) {
			out.WriteRune(alphabet[random.IntN(len(alphabet))])
		}
		return out.String()
	}
	var inputs []input
	for i := range 200 {
		v := input{randomHex(16), text(40), time.Unix(int64(1.7e9)+int64(i), 0).In(zone).Format(stampLayout), randomHex(16), text(300), map[string]string{}}
		for range random.IntN(30) {
			v.Fields["n"+text(8)] = text(30)
		}
		v.Fields["sign"], v.Fields["Status"], v.Fields["status"], v.Fields["empty"] = "x", "A", "b", ""
		inputs = append(inputs, v)
	}
	stdin, err := json.Marshal(inputs)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(python(t, independent, string(stdin)), "\n")
	if len(lines) != len(inputs) {
		t.Fatalf("%d answers to %d questions", len(lines), len(inputs))
	}
	for i, v := range inputs {
		var params []param
		for name, value := range v.Fields {
			params = append(params, param{name, value})
		}
		signed := stringToSign(params)
		got := map[string]string{
			"body":   bodySignature(v.AppID, v.AppKey, v.Timestamp, v.Nonce, []byte(v.Content)),
			"token":  tokenSignature("SHA256", v.AppID, v.AppKey, v.Timestamp, v.Nonce),
			"md5":    notifySign(MD5, signed, v.AppKey),
			"sha256": notifySign(SHA256, signed, v.AppKey),
		}
		var want map[string]string
		if err := json.Unmarshal([]byte(lines[i]), &want); err != nil {
			t.Fatal(err)
		}
		for name, value := range got {
			if value != want[name] {
				t.Errorf("%s of %+v: %s, Python says %s", name, v, value, want[name])
			}
		}
		link, err := parseLink(want["query"])
		if err != nil || link["content"] != v.Content || link["signature"] != got["body"] || link["authorization"] != "OPEN-FORM-PARAM" ||
			link["appId"] != v.AppID || link["timestamp"] != v.Timestamp || link["nonce"] != v.Nonce {
			t.Errorf("%s is read as %v, %v", want["query"], link, err)
		}
	}
}

func TestGBKAgainstPython(t *testing.T) {
	text := "amount 1 " + level1
	for r := range punctuation {
		text += string(r)
	}
	want := python(t, "import sys\nsys.stdout.write(sys.stdin.buffer.read().decode().encode('gbk').hex())", text)
	if got := fmt.Sprintf("%x", gbk(text)); got != want {
		t.Error("another GBK than Python's")
	}
	if got := gbk("茶\U0001f375"); got != "\xb2\xe8?" {
		t.Errorf("%q", got)
	}
}

func TestParseAuthorization(t *testing.T) {
	for name, test := range map[string]struct {
		header string
		want   map[string]string // nil: refused
	}{
		"with spaces":       {`OPEN-BODY-SIG AppId="a", Timestamp="1", Nonce="n", Signature="s+/="`, map[string]string{"AppId": "a", "Timestamp": "1", "Nonce": "n", "Signature": "s+/="}},
		"without":           {`OPEN-BODY-SIG AppId="a",Timestamp="1",Nonce="n",Signature="s+/="`, map[string]string{"AppId": "a", "Timestamp": "1", "Nonce": "n", "Signature": "s+/="}},
		"token, bare":       {`OPEN-ACCESS-TOKEN AccessToken=tok`, map[string]string{"AccessToken": "tok"}},
		"token, quoted":     {`OPEN-ACCESS-TOKEN AccessToken="tok", AppId="a"`, map[string]string{"AccessToken": "tok", "AppId": "a"}},
		"repeated":          {`OPEN-BODY-SIG AppId="a", AppId="b"`, nil},
		"no comma":          {`OPEN-BODY-SIG AppId="a" Timestamp="1"`, nil},
		"a comma too much":  {`OPEN-BODY-SIG AppId="a",`, nil},
		"an open quote":     {`OPEN-BODY-SIG AppId="a`, nil},
		"no name":           {`OPEN-BODY-SIG ="a"`, nil},
		"a tab in a name":   {"OPEN-BODY-SIG AppId=\"a\",\tNonce=\"n\"", nil},
		"not a word's name": {"OPEN-BODY-SIG App\x80Id=\"a\"", nil},
		"no value":          {`OPEN-BODY-SIG AppId`, nil},
		"many":              {"X a=1,b=1,c=1,d=1,e=1,f=1,g=1,h=1,i=1", nil},
		"two commas":        {`OPEN-BODY-SIG AppId="a",,Nonce="n"`, nil},
		"nothing but words": {`Bearer abc`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseAuthorization(test.header)
			if (err == nil) != (test.want != nil) {
				t.Fatalf("%v, %v", got, err)
			}
			if test.want != nil && fmt.Sprint(got.values) != fmt.Sprint(test.want) {
				t.Errorf("%v", got.values)
			}
		})
	}
}

func TestNonces(t *testing.T) {
	var n nonces
	now := time.Unix(1_700_000_000, 0)
	if !n.use("a", now, time.Minute) || n.use("a", now.Add(59*time.Second), time.Minute) {
		t.Error("a nonce within the time")
	}
	if !n.use("a", now.Add(2*time.Minute), time.Minute) {
		t.Error("a nonce whose timestamp is no longer valid is still kept")
	}
	for i := range maxNonces + 10 {
		n.use(fmt.Sprint(i), now.Add(2*time.Minute), time.Minute)
	}
	if len(n.seen) > maxNonces || len(n.order) > maxNonces {
		t.Errorf("%d nonces kept", len(n.seen))
	}
}
