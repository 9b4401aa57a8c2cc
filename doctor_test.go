package chinaums

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/internal/doctor"
)

// What follows signs as people do who have misread the documents. It shares no code with what is under test.

// param is a parameter with its value as the platform means it.
type param struct{ name, value string }

// doctorParams are the parameters of a notify in which every mistake makes a difference.
var doctorParams = []param{
	{"mid", "898340149000005"}, {"merOrderId", "327M1"}, {"totalAmount", "1234"}, {"status", "TRADE_SUCCESS"},
	{"orderDesc", "一杯茶 a+b 100%25"}, {"attachedData", ""}, {"buyerName", " Zhang San "},
	{"subOrders", `{"z":1, "payTime":"2026-01-01 00:00:00","name":"茶<b>","url":"https:\/\/a\/b"}`},
	{"Xk", "abcd"}, {"signType", "SHA256"},
}

func sumSHA256(text string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(text))) }
func sumMD5(text string) string    { return fmt.Sprintf("%X", md5.Sum([]byte(text))) }

// honest is the string to sign of the documents.
func honest(params []param) string {
	return joined(params, func(a, b string) bool { return a < b }, func(v string) string { return v }, false)
}

func joined(params []param, less func(a, b string) bool, value func(string) string, empties bool) string {
	var kept []param
	for _, p := range params {
		if p.value != "" || empties {
			kept = append(kept, p)
		}
	}
	if less != nil {
		sort.SliceStable(kept, func(i, j int) bool { return less(kept[i].name, kept[j].name) })
	}
	var parts []string
	for _, p := range kept {
		parts = append(parts, p.name+"="+value(p.value))
	}
	return strings.Join(parts, "&")
}

func asForm(params []param, sign string) string {
	var parts []string
	for _, p := range append(params[:len(params):len(params)], param{"sign", sign}) {
		parts = append(parts, url.QueryEscape(p.name)+"="+url.QueryEscape(p.value))
	}
	return strings.Join(parts, "&")
}

func withoutParam(params []param, name string) (rest []param) {
	for _, p := range params {
		if p.name != name {
			rest = append(rest, p)
		}
	}
	return rest
}

func withParam(params []param, name, value string) []param {
	return append(withoutParam(params, name), param{name, value})
}

const doctorConfig = `{
	chinaums {
		merchant shop {
			app_id     {env.UMS_APP_ID}
			app_key    {env.UMS_APP_KEY}
			notify_key {env.UMS_NOTIFY_KEY} previous-example-key
			mid        898340149000005
		}
		merchant other {
			app_id     2
			app_key    other-app-key
			notify_key another-example-key
		}
		merchant elsewhere {
			notify_key {env.CHINAUMS_TEST_NONE}
		}
	}
}
`

// TestDoctor: for each known mistake, the doctor names it, and it alone, in both languages.
func TestDoctor(t *testing.T) {
	setKeys(t)
	config := writeFile(t, "Caddyfile", doctorConfig)
	bytewise := func(a, b string) bool { return a < b }
	same := func(v string) string { return v }
	good := honest(doctorParams)

	rewritten := func(write func(any) string) string {
		return honest(withParam(doctorParams, "subOrders", write(map[string]any{
			"z": json.Number("1"), "payTime": "2026-01-01 00:00:00", "name": "茶<b>", "url": "https://a/b",
		})))
	}
	goMarshal := func(v any) string {
		out, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	const gbkTea = "\xd2\xbb\xb1\xad\xb2\xe8" // 一杯茶

	for _, test := range []struct {
		name   string
		params []param // nil: doctorParams
		sign   string
		want   []string // what stands behind "mistake:"
	}{
		{"md5 under signType SHA256", nil, sumMD5(good + testNotifyKey), []string{"other_digest"}},
		{"sha256 under signType MD5", withParam(doctorParams, "signType", "MD5"), sumSHA256(honest(withParam(doctorParams, "signType", "MD5")) + testNotifyKey), []string{"other_digest"}},
		{"another merchant's key", nil, sumSHA256(good + "another-example-key"), []string{"another_key [notify_key of other]"}},
		{"another merchant's app key", nil, sumSHA256(good + "other-app-key"), []string{"another_key [app_key of other]"}},
		{"the app key", nil, sumSHA256(good + testAppKey), []string{"app_key"}},
		{"the key in small letters", nil, sumSHA256(good + strings.ToLower(testNotifyKey)), []string{"key_case"}},
		{"the key in capitals, by MD5", nil, sumMD5(good + strings.ToUpper(testNotifyKey)), []string{"key_case", "other_digest"}},
		{"plus kept", nil, sumSHA256(joined(doctorParams, bytewise, func(v string) string {
			return strings.ReplaceAll(v, " ", "+")
		}, false) + testNotifyKey), []string{"plus_kept"}},
		{"not decoded", nil, sumSHA256(joined(doctorParams, bytewise, url.QueryEscape, false) + testNotifyKey), []string{"undecoded"}},
		{"decoded twice", nil, sumSHA256(joined(doctorParams, bytewise, func(v string) string {
			return strings.NewReplacer("+", " ", "%25", "%").Replace(v)
		}, false) + testNotifyKey), []string{"decoded_twice"}},
		{"decoded twice, by percent only", nil, sumSHA256(joined(doctorParams, bytewise, func(v string) string {
			return strings.ReplaceAll(v, "%25", "%")
		}, false) + testNotifyKey), []string{"decoded_twice"}},
		{"empty values in", nil, sumSHA256(joined(doctorParams, bytewise, same, true) + testNotifyKey), []string{"empty_values"}},
		{"re-serialized by Go", nil, sumSHA256(rewritten(goMarshal) + testNotifyKey), []string{"reserialized"}},
		{"re-serialized by PHP", nil, sumSHA256(honest(withParam(doctorParams, "subOrders",
			`{"z":1,"payTime":"2026-01-01 00:00:00","name":"\u8336<b>","url":"https:\/\/a\/b"}`)) + testNotifyKey), []string{"reserialized"}},
		{"re-serialized by Python", nil, sumSHA256(honest(withParam(doctorParams, "subOrders",
			`{"z": 1, "payTime": "2026-01-01 00:00:00", "name": "\u8336<b>", "url": "https://a/b"}`)) + testNotifyKey), []string{"reserialized"}},
		{"re-serialized by JavaScript", nil, sumSHA256(honest(withParam(doctorParams, "subOrders",
			`{"z":1,"payTime":"2026-01-01 00:00:00","name":"茶<b>","url":"https://a/b"}`)) + testNotifyKey), []string{"reserialized"}},
		{"signed as GBK", withoutParam(doctorParams, "subOrders"), sumSHA256(strings.ReplaceAll(honest(withoutParam(doctorParams, "subOrders")), "一杯茶", gbkTea) + testNotifyKey), []string{"gbk"}},
		{"sent as GBK, signed as UTF-8", withParam(doctorParams, "orderDesc", gbkTea), sumSHA256(honest(withParam(doctorParams, "orderDesc", "一杯茶")) + testNotifyKey), []string{"gbk"}},
		{"&key=", nil, sumSHA256(good + "&key=" + testNotifyKey), []string{"key_pair [&key=]"}},
		{"a bare &", nil, sumSHA256(good + "&" + testNotifyKey), []string{"key_pair [&]"}},
		{"the key in front", nil, sumSHA256(testNotifyKey + good), []string{"key_first"}},
		{"sorted regardless of case", nil, sumSHA256(joined(doctorParams, func(a, b string) bool {
			return strings.ToUpper(a) < strings.ToUpper(b)
		}, same, false) + testNotifyKey), []string{"case_insensitive_sort"}},
		{"not sorted", nil, sumSHA256(joined(doctorParams, nil, same, false) + testNotifyKey), []string{"unsorted"}},
		{"white space cut off", nil, sumSHA256(joined(doctorParams, bytewise, strings.TrimSpace, false) + testNotifyKey), []string{"trimmed"}},
		{"signType not signed", nil, sumSHA256(honest(withoutParam(doctorParams, "signType")) + testNotifyKey), []string{"left_out [signType]"}},
		{"an unknown parameter dropped", nil, sumSHA256(honest(withoutParam(doctorParams, "Xk")) + testNotifyKey), []string{"left_out [Xk]"}},
		{"an HMAC", nil, func() string {
			mac := hmac.New(sha256.New, []byte(testNotifyKey))
			mac.Write([]byte(good))
			return hex.EncodeToString(mac.Sum(nil))
		}(), []string{"hmac"}},
		{"a previous key is a right one, the digest is not", nil, sumMD5(good + "previous-example-key"), []string{"other_digest"}},
		{"three at once", nil, sumMD5(joined(doctorParams, bytewise, same, true) + "&key=" + testAppKey),
			[]string{"empty_values", "key_pair [&key=]", "app_key", "other_digest"}},
		{"a changed amount", nil, sumSHA256(honest(withParam(doctorParams, "totalAmount", "1")) + testNotifyKey), []string{"none of the known ones"}},
		{"a key of nobody's", nil, sumSHA256(good + "nobody"), []string{"none of the known ones"}},
		{"no hex", nil, "signature", []string{"none of the known ones"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.params == nil {
				test.params = doctorParams
			}
			form := asForm(test.params, test.sign)
			t.Setenv("LC_ALL", "en_US.UTF-8")
			out, err := runCommand(verifyCommand(), form, "--config", config, "--merchant", "shop")
			if err == nil || err.Error() != "does not verify (signature)" {
				t.Errorf("error %v", err)
			}
			if got := mistakesIn(out, "mistake:"); !prefixed(got, test.want) {
				t.Errorf("mistakes %q, want %q\n%s", got, test.want, out)
			}
			for _, secret := range []string{testNotifyKey, testAppKey, "another-example-key", "previous-example-key", "327M1", "Zhang San", "898340149000005"} {
				if strings.Contains(out, secret) {
					t.Errorf("%s is shown:\n%s", secret, out)
				}
			}
			t.Setenv("LC_ALL", "zh_CN.UTF-8")
			chinese, err := runCommand(verifyCommand(), form, "--config", config, "--merchant", "shop", "--show")
			if err == nil || err.Error() != "验签失败 (signature)" {
				t.Errorf("error %v", err)
			}
			if got := mistakesIn(chinese, "原因:"); len(got) != len(test.want) || !strings.ContainsFunc(strings.Join(got, ""), func(r rune) bool { return r > 0x4e00 }) {
				t.Errorf("in Chinese: %q\n%s", got, chinese)
			}
			if !strings.Contains(chinese, "Zhang San") {
				t.Errorf("--show shows no values:\n%s", chinese)
			}
		})
	}
}

func mistakesIn(out, label string) (mistakes []string) {
	for line := range strings.Lines(out) {
		if rest, ok := strings.CutPrefix(line, label); ok {
			mistakes = append(mistakes, strings.TrimSpace(rest))
		}
	}
	return mistakes
}

func prefixed(got, want []string) bool {
	if len(got) != len(want) {
		return false
	}
	for i := range got {
		rest, ok := strings.CutPrefix(got[i], want[i])
		if !ok || rest != "" && !strings.ContainsAny(rest[:1], ": ") {
			return false
		}
	}
	return true
}

// TestDoctorKnowsLanguages: nested JSON that was read and written again by the languages themselves.
func TestDoctorKnowsLanguages(t *testing.T) {
	setKeys(t)
	t.Setenv("LC_ALL", "C")
	nested := withParam(doctorParams, "subOrders", `{"z" : "\u8336 \u2028 <b> & 'q' \"w\" \\ \t😀", "a":[1,{"y":null,"x":true}], "url":"https:\/\/a\/b", "e":{}}`)
	for _, language := range []struct{ name, program, flag, code string }{
		{"Python", "python3", "-c", "import json,sys; sys.stdout.write(json.dumps(json.load(sys.stdin)))"},
		{"Python, sorted", "python3", "-c", "import json,sys; sys.stdout.write(json.dumps(json.load(sys.stdin), sort_keys=True))"},
		{"Python, as UTF-8", "python3", "-c", "import json,sys; sys.stdout.buffer.write(json.dumps(json.loads(sys.stdin.buffer.read()), ensure_ascii=False).encode())"},
		{"Node", "node", "-e", "process.stdout.write(JSON.stringify(JSON.parse(require('fs').readFileSync(0))))"},
		{"PHP", "php", "-r", "echo json_encode(json_decode(file_get_contents('php://stdin')));"},
		{"PHP, as UTF-8", "php", "-r", "echo json_encode(json_decode(file_get_contents('php://stdin')), JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_LINE_TERMINATORS);"},
		{"PHP, as UTF-8 with its slashes", "php", "-r", "echo json_encode(json_decode(file_get_contents('php://stdin')), JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES);"},
	} {
		t.Run(language.name, func(t *testing.T) {
			program, err := exec.LookPath(language.program)
			if err != nil {
				if os.Getenv("CHINAUMS_E2E") == "1" {
					t.Fatalf("%s is missing, and CHINAUMS_E2E=1 asks for it", language.program)
				}
				t.Skipf("needs %s", language.program)
			}
			cmd := exec.CommandContext(t.Context(), program, language.flag, language.code)
			for _, p := range nested {
				if p.name == "subOrders" {
					cmd.Stdin = strings.NewReader(p.value)
				}
			}
			rewritten, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			form := asForm(nested, sumSHA256(honest(withParam(nested, "subOrders", string(rewritten)))+testNotifyKey))
			out, err := runCommand(verifyCommand(), form)
			if got := mistakesIn(out, "mistake:"); err == nil || !prefixed(got, []string{"reserialized"}) {
				t.Errorf("%q of %s\n%v\n%s", got, rewritten, err, out)
			}
		})
	}
}

// TestDoctorReads: what may be given to it.
func TestDoctorReads(t *testing.T) {
	setKeys(t)
	t.Setenv("LC_ALL", "C")
	config := writeFile(t, "Caddyfile", doctorConfig)
	params := withParam(doctorParams, "payTime", "2026-01-01 00:00:00")
	sign := sumSHA256(honest(params) + testNotifyKey)
	form := asForm(params, sign)
	members := []string{}
	for _, p := range append(params[:len(params):len(params)], param{"sign", sign}) {
		text, err := json.Marshal(p.value)
		if err != nil {
			t.Fatal(err)
		}
		if p.name == "totalAmount" {
			text = []byte(p.value)
		}
		if p.name == "attachedData" {
			text = []byte("null")
		}
		members = append(members, `"`+p.name+`":`+string(text))
	}
	object := "{" + strings.Join(members, ",") + "}"
	floatJSON := strings.Replace(object, `"totalAmount":1234`, `"totalAmount":1234.0`, 1)

	for _, test := range []struct {
		name, input string
		want        []string // in what is printed
		err         string
	}{
		{"a form", form, []string{"a form of 12 parameters", "verifies"}, ""},
		{"the key of now", form, []string{"key:        notify_key\n"}, ""},
		{"a previous key", asForm(params, sumSHA256(honest(params)+"previous-example-key")), []string{"verifies", "key:        notify_key 2\n"}, ""},
		{"a form with a line break", form + "\r\n", []string{"verifies"}, ""},
		{"JSON", object, []string{"a JSON object of 12 members", "verifies"}, ""},
		{"JSON whose number was rewritten", floatJSON, []string{"does not verify"}, "signature"},
		{"a request", "POST /notify HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded\r\n\r\n" + form, []string{"verifies"}, ""},
		{"a request with bare line feeds", "POST /notify HTTP/1.1\nHost: a\nContent-Type: application/x-www-form-urlencoded\n\n" + form + "\n", []string{"verifies"}, ""},
		{"a request with its length, and a line break of the editor's", fmt.Sprintf("POST /notify HTTP/1.1\nHost: a\nContent-Length: %d\n\n%s\n", len(form), form), []string{"verifies"}, ""},
		{"a request that was cut", fmt.Sprintf("POST /notify HTTP/1.1\nHost: a\nContent-Length: %d\n\n%s", len(form)+5, form), []string{"not as long as Content-Length says", "verifies"}, ""},
		{"a chunked request", fmt.Sprintf("POST /notify HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(form), form), []string{"verifies"}, ""},
		{"a chunked request without its chunks", "POST /notify HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + form, []string{"verifies"}, ""},
		{"a request of another type", "POST /notify HTTP/1.1\nHost: a\nContent-Type: text/plain\n\n" + form, []string{"neither a form's nor JSON's", "the signature itself is right"}, "content_type"},
		{"a compressed request", "POST /notify HTTP/1.1\nHost: a\nContent-Encoding: gzip\n\n" + form, []string{"has a Content-Encoding"}, "content_encoding"},
		{"a return page", "GET /paid?" + form + " HTTP/1.1\r\nHost: a\r\n\r\n", []string{"the query of a return page", "verifies"}, ""},
		{"a return page's address", "https://shop.example.com/paid?" + form + "\n", []string{"the query of a return page", "verifies"}, ""},
		{"a query", "?" + form, []string{"verifies"}, ""},
		{"cut in two ways", asForm(withParam(params, "orderDesc", "a&status=TRADE_SUCCESS"), sumSHA256(honest(withParam(params, "orderDesc", "a&status=TRADE_SUCCESS"))+testNotifyKey)), []string{"can be cut into another payment"}, "ambiguous"},
		{"another's mid", asForm(withParam(params, "mid", "1"), sumSHA256(honest(withParam(params, "mid", "1"))+testNotifyKey)), []string{"the mid is not one of the merchant's"}, "foreign_mid"},
		{"control characters", asForm(withParam(params, "orderDesc", "\x1b[2J\u202e"), "00"), []string{"does not verify"}, "signature"},
		{"too many parameters", strings.Repeat("a=b&", 1001), nil, "more than 1000 parameters"},
		{"too many members", "{" + strings.Repeat(`"a":1,`, 1001) + `"b":1}`, nil, "more than 1000 parameters"},
		{"an answer of the platform", `{"errCode":"ABNORMAL_REQUEST_TIME","errMsg":"请求时间异常"}`, []string{"The request's time is off", "Check this server's clock"}, ""},
		{"an answer with a code in the other spelling", `{"errCode":"INVALID_MERCHANT_CONFIG"}`, []string{"INVLID_MERCHANT_CONFIG", "account manager"}, ""},
		{"an answer with an unknown code", `{"errCode":"NEW_CODE"}`, nil, "errCode NEW_CODE"},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, err := runCommand(verifyCommand(), test.input, "--config", config, "--merchant", "shop", "--show")
			if test.err == "" && err != nil || test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
				t.Errorf("error %v, want %q\n%s", err, test.err, out)
			}
			for _, want := range test.want {
				if !strings.Contains(out, want) {
					t.Errorf("no %q in\n%s", want, out)
				}
			}
			if strings.ContainsAny(out, "\x1b\u202e") {
				t.Errorf("control characters reach the terminal: %q", out)
			}
		})
	}
	t.Run("keys for calls that this shell does not have", func(t *testing.T) {
		t.Setenv("UMS_APP_KEY", "")
		if out, err := runCommand(verifyCommand(), form, "--config", config, "--merchant", "shop"); err != nil || strings.Contains(out, "327M1") {
			t.Errorf("%v\n%s", err, out)
		}
		if out, err := runCommand(notifyCommand(), "", "--config", config, "--merchant", "shop", "--print"); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	})
	t.Run("an answer of the platform, in Chinese", func(t *testing.T) {
		t.Setenv("LC_ALL", "zh_CN")
		out, err := runCommand(verifyCommand(), `{"errCode":"DENIED_IP"}`, "--config", config, "--merchant", "shop")
		if err != nil || !strings.Contains(out, "IP不在白名单中") {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

// TestDoctorOfCalls: requests with OPEN-BODY-SIG, and H5 links, whose signature is the same.
func TestDoctorOfCalls(t *testing.T) {
	setKeys(t)
	t.Setenv("LC_ALL", "C")
	config := writeFile(t, "Caddyfile", doctorConfig)
	const body = `{"merOrderId":"327M1","b":"茶 a/b","a":1}`
	const stamp, nonce = "20260101000000", "0123456789abcdef0123456789abcdef"
	signature := func(appID, key, digest string) []byte {
		mac := hmac.New(sha256.New, []byte(key))
		mac.Write([]byte(appID + stamp + nonce + digest))
		return mac.Sum(nil)
	}
	base := func(sum []byte) string { return base64.StdEncoding.EncodeToString(sum) }
	for _, test := range []struct {
		name, appID, signature string
		want                   []string // nil: it verifies
	}{
		{"right", testAppID, base(signature(testAppID, testAppKey, sumSHA256(body))), nil},
		{"the communication key", testAppID, base(signature(testAppID, testNotifyKey, sumSHA256(body))), []string{"notify_key"}},
		{"another merchant's key", testAppID, base(signature(testAppID, "other-app-key", sumSHA256(body))), []string{"another_key [app_key of other]"}},
		{"a digest in capitals", testAppID, base(signature(testAppID, testAppKey, strings.ToUpper(sumSHA256(body)))), []string{"upper_digest"}},
		{"a signature in hex", testAppID, hex.EncodeToString(signature(testAppID, testAppKey, sumSHA256(body))), []string{"hex_signature"}},
		{"with a line break", testAppID, base(signature(testAppID, testAppKey, sumSHA256(body+"\n"))), []string{"line_break"}},
		{"re-serialized", testAppID, base(signature(testAppID, testAppKey, sumSHA256(`{"a": 1, "b": "\u8336 a/b", "merOrderId": "327M1"}`))), []string{"reserialized"}},
		{"as GBK", testAppID, base(signature(testAppID, testAppKey, sumSHA256(strings.ReplaceAll(body, "茶", "\xb2\xe8")))), []string{"gbk"}},
		{"another AppId in the header", "1", base(signature(testAppID, testAppKey, sumSHA256(body))), []string{"other_app_id"}},
		{"another AppId, signed too", "1", base(signature("1", testAppKey, sumSHA256(body))), []string{"other_app_id"}},
		{"another body", testAppID, base(signature(testAppID, testAppKey, sumSHA256("{}"))), []string{"none of the known ones"}},
		{"nonsense", testAppID, "c2lnbmF0dXJl", []string{"none of the known ones"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			link := url.Values{"authorization": {"OPEN-FORM-PARAM"}, "appId": {test.appID}, "timestamp": {stamp}, "nonce": {nonce}, "content": {body}, "signature": {test.signature}}
			for form, input := range map[string]string{
				"call": fmt.Sprintf("POST /v1/netpay/query HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nAuthorization: OPEN-BODY-SIG AppId=\"%s\", Timestamp=\"%s\", Nonce=\"%s\", Signature=\"%s\"\r\n\r\n%s",
					len(body), test.appID, stamp, nonce, test.signature, body),
				"link": "https://api-mop.chinaums.com/v1/netpay/trade/h5-pay?" + link.Encode(),
			} {
				out, err := runCommand(verifyCommand(), input, "--config", config, "--merchant", "shop")
				if (err == nil) != (test.want == nil) {
					t.Errorf("%s: error %v\n%s", form, err, out)
				}
				if got := mistakesIn(out, "mistake:"); !prefixed(got, test.want) {
					t.Errorf("%s: mistakes %q, want %q\n%s", form, got, test.want, out)
				}
				if !strings.Contains(out, "2026-01-01T00:00:00+08:00") || strings.Contains(out, "327M1") {
					t.Errorf("%s: %s", form, out)
				}
			}
		})
	}
	for name, test := range map[string]struct{ input, merchant, want string }{
		"a broken header":             {"POST / HTTP/1.1\nHost: a\nAuthorization: OPEN-BODY-SIG AppId\n\n{}", "shop", "not a signature"},
		"a merchant without app_key":  {"POST / HTTP/1.1\nHost: a\nAuthorization: OPEN-BODY-SIG AppId=\"1\",Timestamp=\"1\",Nonce=\"1\",Signature=\"1\"\n\n{}", "elsewhere", "notify_key cannot be resolved"},
		"a timestamp of another form": {"POST / HTTP/1.1\nHost: a\nAuthorization: OPEN-BODY-SIG AppId=\"1\",Timestamp=\"1\",Nonce=\"1\",Signature=\"1\"\n\n{}", "shop", "does not verify"},
	} {
		if out, err := runCommand(verifyCommand(), test.input, "--config", config, "--merchant", test.merchant); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

// TestDoctorTexts: every word that the code can say has a text in both languages.
func TestDoctorTexts(t *testing.T) {
	var r doctor.Report
	for _, m := range []doctor.Mistake{
		doctor.OtherDigest, doctor.AnotherKey, doctor.AppKey, doctor.PlusKept, doctor.Undecoded, doctor.DecodedTwice, doctor.EmptyValues,
		doctor.Reserialized, doctor.GBK, doctor.KeyPair, doctor.KeyFirst, doctor.CaseInsensitive, doctor.Unsorted, doctor.Trimmed,
		doctor.LeftOut, doctor.HMAC, doctor.NotifyKey, doctor.UpperDigest, doctor.OtherAppID, doctor.BodyNewline, doctor.HexSignature,
	} {
		if key := "mistake_" + string(m); r.Say(key) == key {
			t.Errorf("no text for %s", key)
		}
	}
	for _, reason := range []string{
		reasonMissingSignature, reasonSignType, reasonDigest, reasonSignature, reasonAmbiguous, reasonMixed, reasonReadsOtherwise, reasonRepeated, reasonEncoding, reasonJSON, reasonTooMany,
		"foreign_mid", "malformed", "content_type", "content_encoding",
	} {
		if key := "reason_" + reason; r.Say(key) == key {
			t.Errorf("no text for %s", key)
		}
	}
	for key, texts := range doctor.Texts {
		if texts.English == "" || texts.Chinese == "" || strings.Count(texts.English, "%") != strings.Count(texts.Chinese, "%") {
			t.Errorf("%s: %q, %q", key, texts.English, texts.Chinese)
		}
	}
}

// TestDoctorBounded: ten thousand merchants and the largest notify do not keep the operator waiting for minutes.
func TestDoctorBounded(t *testing.T) {
	merchants := map[string]*Merchant{"shop": {NotifyKey: []string{"own"}}}
	for i := range 10_000 {
		merchants[fmt.Sprintf("m%d", i)] = &Merchant{NotifyKey: []string{fmt.Sprintf("key %d", i)}}
	}
	keys := doctorKeys("shop", merchants)
	if keys[0].Label != "notify_key" || len(keys) != 10_001 {
		t.Fatalf("%d keys, the first %s", len(keys), keys[0].Label)
	}
	params := []param{{"text", strings.Repeat("x", 2000)}}
	for i := range 60 {
		params = append(params, param{fmt.Sprintf("p%d", i), "value"})
	}
	pairs, err := doctor.Parse([]byte(asForm(params, sumSHA256(honest(params)+"key 9999"))), false, maxNotifyFields)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	d := doctor.Diagnose(pairs, false, 0, keys)
	if d == nil || len(d.Findings) != 1 || d.Findings[0].Mistake != doctor.AnotherKey || d.Key != "notify_key of m9999" {
		t.Errorf("%+v", d)
	}
	t.Logf("took %s", time.Since(start))
}

// FuzzDoctor: whatever is saved, the doctor says something and does not fall over, nor say "verifies" of what the handler
// refuses.
func FuzzDoctor(f *testing.F) {
	good := asForm(doctorParams, sumSHA256(honest(doctorParams)+testNotifyKey))
	f.Add([]byte(good))
	f.Add([]byte("POST /notify HTTP/1.1\nHost: a\nContent-Length: 3\n\n" + good))
	f.Add([]byte(`{"a":null,"sign":"00","b":[1]}`))
	f.Add([]byte("https://a/?authorization=OPEN-FORM-PARAM&appId=1&timestamp=1&nonce=1&content=%7B%7D&signature=AAAA"))
	merchants := map[string]*Merchant{"shop": {AppID: testAppID, AppKey: testAppKey, NotifyKey: []string{testNotifyKey}}}
	m, err := resolveMerchant("shop", merchants["shop"])
	if err != nil {
		f.Fatal(err)
	}
	keys := doctorKeys("shop", merchants)
	f.Fuzz(func(t *testing.T, content []byte) {
		if len(content) > 4<<10 {
			return
		}
		c, err := doctor.ReadCapture(content)
		if err != nil {
			return
		}
		var out strings.Builder
		r := doctor.Report{W: &out, Show: true}
		err = r.Examine(forDoctor(m, keys), c)
		if strings.Contains(out.String(), testNotifyKey) || strings.Contains(out.String(), testAppKey) {
			t.Fatalf("a key is shown: %s", out.String())
		}
		fields := acquireFields()
		defer fields.release()
		if err == nil && strings.Contains(out.String(), "a form of") && m.verify(fields, c.Content, c.Header) != nil {
			t.Fatalf("verified: %s", out.String())
		}
	})
}
