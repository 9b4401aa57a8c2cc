package chinaums

import (
	"encoding/json"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
)

func vectorTime(t testing.TB, timestamp string) time.Time {
	t.Helper()
	at, err := time.ParseInLocation("20060102150405", timestamp, time.FixedZone("", 8*3600))
	if err != nil {
		t.Fatal(err)
	}
	return at.UTC()
}

func TestLinkVectors(t *testing.T) {
	var vectors []struct {
		Name, Timestamp, Nonce, Content, Query string
		AppID                                  string `json:"app_id"`
		AppKey                                 string `json:"app_key"`
	}
	readVectors(t, "open-form-param.json", &vectors)
	if len(vectors) == 0 {
		t.Fatal("no vectors")
	}
	for _, v := range vectors {
		got := newBodySigner(v.AppID, v.AppKey).link(vectorTime(t, v.Timestamp), v.Nonce, []byte(v.Content))
		if got != v.Query {
			t.Errorf("%s:\n%s\nnot\n%s", v.Name, got, v.Query)
		}
	}
}

// checkLink checks a link over the content that it should have, and returns its query.
func checkLink(t testing.TB, link, prefix, content string) url.Values {
	t.Helper()
	u, err := url.Parse(link)
	if err != nil || u.Scheme+"://"+u.Host+u.Path != prefix {
		t.Fatalf("link %s: %v", link, err)
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		t.Fatal(err)
	}
	names := make([]string, 0, 6)
	for pair := range strings.SplitSeq(u.RawQuery, "&") {
		name, _, _ := strings.Cut(pair, "=")
		names = append(names, name)
	}
	if !slices.Equal(names, []string{"authorization", "appId", "timestamp", "nonce", "content", "signature"}) {
		t.Errorf("parameters %v", names)
	}
	if query.Get("authorization") != "OPEN-FORM-PARAM" || query.Get("appId") != testAppID || query.Get("content") != content {
		t.Errorf("query %v", query)
	}
	header := testAuthorization(query.Get("timestamp"), query.Get("nonce"), content)
	if !strings.Contains(header, `Signature="`+query.Get("signature")+`"`) {
		t.Errorf("the signature is wrong: %v", query)
	}
	if time.Since(vectorTime(t, query.Get("timestamp"))).Abs() > time.Minute || len(query.Get("nonce")) != 32 {
		t.Errorf("timestamp %s, nonce %s", query.Get("timestamp"), query.Get("nonce"))
	}
	return query
}

func TestH5(t *testing.T) {
	platform := newRawPlatform(t, func(x *exchange) bool { t.Errorf("the platform was called: %s", x.path()); return false })
	g := startGateway(t, []string{"shop " + platform.url, "live https://api-mop.chinaums.com 898"}, "", `
handle_path /live/* {
	chinaums_h5 live
}
handle_path /own/* {
	chinaums_h5 shop {
		paths /v1/own/*
		token {env.UMS_NOTIFY_KEY}
		max_size 20B
	}
}
handle {
	chinaums_h5 shop
}`, nil)
	link := func(t *testing.T, a answer) string {
		t.Helper()
		var said map[string]string
		if a.status != 200 || json.Unmarshal([]byte(a.body), &said) != nil || len(said) != 1 {
			t.Fatalf("%+v", a)
		}
		if a.header.Get("Gateway-Outcome") != "not_sent" || a.header.Get("Cache-Control") != "no-store" || a.header.Get("Content-Type") != "application/json; charset=utf-8" {
			t.Errorf("headers %v", a.header)
		}
		return said["url"]
	}
	t.Run("five pages", func(t *testing.T) {
		nonces := map[string]bool{}
		for _, page := range []string{"/v1/netpay/trade/h5-pay", "/v1/netpay/wxpay/h5-pay", "/v1/netpay/wxpay/h5-to-minipay", "/v1/netpay/uac/order", "/v1/netpay/webpay/pay"} {
			body := "{ \"merOrderId\":\"327M1\",\n\"orderDesc\":\"测试 a+b/c=d&e<>\\u0041\", \"attachedData\":{\"refundAmount\":1} }\r\n"
			query := checkLink(t, link(t, g.post(t, page, body)), platform.url+page, body)
			if nonces[query.Get("nonce")] {
				t.Error("a nonce comes twice")
			}
			nonces[query.Get("nonce")] = true
		}
		checkLink(t, link(t, g.post(t, "/live/v1/netpay/uac/order?x=y", "{}")), "https://api-mop.chinaums.com/v1/netpay/uac/order", "{}")
		checkLink(t, link(t, g.post(t, "/own/v1/own/./page", `{"a":1}`, "Authorization: Bearer "+testNotifyKey)), platform.url+"/v1/own/page", `{"a":1}`)
	})
	refused := func(name, path, body string, status int, errCode string, headers ...string) {
		t.Run(name, func(t *testing.T) {
			checkGatewayAnswer(t, g.post(t, path, body, headers...), status, errCode, "not_sent")
		})
	}
	refused("another path", "/v1/netpay/refund", "{}", 403, "GATEWAY_FORBIDDEN")
	refused("a page that is not listed", "/own/v1/netpay/uac/order", "{}", 403, "GATEWAY_FORBIDDEN", "Authorization: Bearer "+testNotifyKey)
	refused("no token", "/own/v1/own/page", "{}", 403, "GATEWAY_FORBIDDEN")
	refused("too large", "/own/v1/own/page", `{"a":"123456789012345"}`, 413, "GATEWAY_BAD_REQUEST", "Authorization: Bearer "+testNotifyKey)
	refused("a browser", "/v1/netpay/uac/order", "{}", 403, "GATEWAY_FORBIDDEN", "Origin: https://shop.example")
	refused("empty", "/v1/netpay/uac/order", "", 400, "GATEWAY_BAD_REQUEST")

	for name, body := range map[string]string{
		"no JSON":                    "merOrderId=1",
		"an array":                   "[{}]",
		"a string":                   `"{}"`,
		"null":                       "null",
		"cut":                        `{"a":1`,
		"cut after a name":           `{"a"`,
		"two objects":                "{}{}",
		"something behind":           "{} x",
		"a byte order mark":          "\ufeff{}",
		"not UTF-8":                  "{\"a\":\"\xff\"}",
		"a comment":                  "{/**/}",
		"a comma too many":           `{"a":1,}`,
		"no comma":                   `{"a":1 "b":2}`,
		"a name without quotes":      `{refundAmount:1}`,
		"single quotes":              `{'refundAmount':1}`,
		"nothing but space":          " ",
		"refundAmount":               `{"a":{},"refundAmount":1}`,
		"refundOrderId":              `{"refundOrderId":""}`,
		"completedAmount":            `{"completedAmount":null}`,
		"escaped":                    `{"\u0072efundAmount":1}`,
		"escaped throughout":         `{"\u0063\u006f\u006d\u0070\u006c\u0065\u0074\u0065\u0064\u0041\u006d\u006f\u0075\u006e\u0074":1}`,
		"letter case":                `{"REFUNDamount":1}`,
		"underscores, small letters": `{"refund_order_id":1}`,
		"underscores":                `{"refund_amount":1}`,
		"hyphens":                    `{"Refund-Amount":1}`,
		"behind its own repetition":  `{"a":1,"a":{"refundAmount":2},"b":[1,{"c":"}"}],"refundAmount":3}`,
		"compressed":                 "\x1f\x8b\x08",
	} {
		t.Run("422: "+name, func(t *testing.T) {
			a := g.post(t, "/v1/netpay/uac/order", body)
			var said struct {
				ErrCode, Outcome string
				Fields           []map[string]string
			}
			if err := json.Unmarshal([]byte(a.body), &said); err != nil || a.status != 422 || said.ErrCode != "GATEWAY_INVALID" || said.Outcome != "not_sent" ||
				a.header.Get("Gateway-Outcome") != "not_sent" || len(said.Fields) != 1 {
				t.Errorf("%+v", a)
			}
		})
	}
	if log := g.log.String(); strings.Contains(log, "signature=") || strings.Contains(log, "OPEN-FORM-PARAM") {
		t.Error("the log holds a link")
	}
}

// TestH5Refused: options that make no sense here are refused at load.
func TestH5Refused(t *testing.T) {
	setKeys(t)
	for site, want := range map[string]string{
		"chinaums_h5 {\n max_response 1MiB\n}":   "max_response",
		"chinaums_h5 {\n paths\n}":               "paths",
		"chinaums_h5 {\n paths /a\n paths /b\n}": "twice",
		"chinaums_h5 shop second":                "surplus",
		"chinaums_h5 other":                      "other",
		"chinaums_h5 {\n allow nowhere\n}":       "allow",
		"chinaums_h5 shop":                       "",
	} {
		err := loadError(t, merchantOptions("http://127.0.0.1:1")+"http://127.0.0.1:0 {\n"+site+"\n}\n")
		if (want == "") != (err == "") || !strings.Contains(err, want) {
			t.Errorf("%s: %s", site, err)
		}
	}
}

// TestH5EndToEnd: the platform's own code takes the link, and sends the browser to the cashier.
func TestH5EndToEnd(t *testing.T) {
	platform, err := sandbox.New(sandbox.Options{AppID: testAppID, AppKey: testAppKey})
	if err != nil {
		t.Fatal(err)
	}
	defer platform.Close()
	server := httptest.NewServer(platform)
	defer server.Close()
	keys := platform.Options()
	g := startGateway(t, []string{"shop " + server.URL}, "", "chinaums_h5", nil)
	order := `{"requestTimestamp":"` + time.Now().In(time.FixedZone("", 8*3600)).Format(time.DateTime) + `","merOrderId":"` + keys.SourceCode +
		`202601010001","mid":"` + keys.MID + `","tid":"` + keys.TID + `","instMid":"H5DEFAULT","totalAmount":1,"orderDesc":"一 a+b/c=d&e"}`
	var said map[string]string
	a := g.post(t, "/v1/netpay/trade/h5-pay", order)
	if err = json.Unmarshal([]byte(a.body), &said); err != nil {
		t.Fatalf("%+v", a)
	}
	browser := do(t, newRequest(t, "GET", said["url"], ""))
	if browser.status != 302 || browser.header.Get("Location") == "" {
		t.Fatalf("%+v", browser)
	}
	// Whoever changes a byte gets nowhere.
	if changed := do(t, newRequest(t, "GET", strings.Replace(said["url"], "totalAmount%22%3A1", "totalAmount%22%3A2", 1), "")); changed.status == 302 {
		t.Errorf("%+v", changed)
	}
}

// TestAccessLogFilter is the README's way to keep a link out of the access log where the app sends the browser on
// through the same Caddy: the answer's Location would have it.
func TestAccessLogFilter(t *testing.T) {
	lines := newLogged(t)
	address := freeAddress(t)
	startCaddy(t, "{\n}\nhttp://"+address+` {
	bind 127.0.0.1
	log {
		output test_log `+lines.id+`
		format filter {
			wrap json
			fields {
				request>uri query {
					replace signature REDACTED
					replace content REDACTED
				}
				request>headers>Referer regexp (signature|content)=[^&]* $1=REDACTED
				resp_headers>Location regexp (signature|content)=[^&]* $1=REDACTED
			}
		}
	}
	redir https://api-mop.chinaums.com/v1/netpay/uac/order?authorization=OPEN-FORM-PARAM&content=SECRETCONTENT&signature=SECRETSIGNATURE 302
}`)
	a := do(t, newRequest(t, "GET", "http://"+address+"/?signature=SECRETQUERY&x=1", "", "Referer: http://x.example/?content=SECRETREFERER&y=2"))
	if a.status != 302 || !strings.HasSuffix(a.header.Get("Location"), "signature=SECRETSIGNATURE") {
		t.Fatalf("%+v", a)
	}
	eventually(t, "the access log line", func() bool { return len(lines.lines("handled request")) == 1 })
	if log := lines.String(); strings.Contains(log, "SECRET") || strings.Count(log, "signature=REDACTED") != 2 || strings.Count(log, "content=REDACTED") != 2 {
		t.Errorf("%s", log)
	}
}

// FuzzLinkContent: what passes is an object without a forbidden name for encoding/json too, whose matching ignores
// letter case.
func FuzzLinkContent(f *testing.F) {
	for _, seed := range []string{`{"a":1}`, `{"refundAmount":1}`, `{"\u0072efundAmount":1}`, "[]", `{"a":{"b":[]}}`, `{} {}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, content string) {
		refusal := checkLinkContent([]byte(content))
		var object map[string]json.RawMessage
		var names struct{ RefundAmount, RefundOrderID, CompletedAmount json.RawMessage }
		err := json.Unmarshal([]byte(content), &object)
		if refusal == nil && (err != nil || object == nil) {
			t.Errorf("%q passes: %v", content, err)
		}
		if err = json.Unmarshal([]byte(content), &names); refusal == nil && (err != nil || names.RefundAmount != nil || names.RefundOrderID != nil || names.CompletedAmount != nil) {
			t.Errorf("%q passes: %v, %v", content, err, names)
		}
	})
}
