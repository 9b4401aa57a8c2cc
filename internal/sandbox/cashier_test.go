package sandbox

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// link is a browser's link to a payment, with the parameters changed that are given.
func (b *bench) link(path string, fields map[string]any, pairs ...string) string {
	b.t.Helper()
	content, err := json.Marshal(fields)
	if err != nil {
		b.t.Fatal(err)
	}
	timestamp, nonce := b.clock().In(zone).Format(stampLayout), randomHex(16)
	values := url.Values{
		"authorization": {"OPEN-FORM-PARAM"}, "appId": {b.keys.AppID}, "timestamp": {timestamp}, "nonce": {nonce}, "content": {string(content)},
		"signature": {bodySignature(b.keys.AppID, b.keys.AppKey, timestamp, nonce, content)},
	}
	for i := 0; i < len(pairs); i += 2 {
		values.Set(pairs[i], pairs[i+1])
	}
	return b.url + path + "?" + values.Encode()
}

// browser follows no redirect by itself.
func browser() *http.Client {
	jar, _ := cookiejar.New(nil)
	return &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func read(t *testing.T, res *http.Response, err error) (*http.Response, string) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	content, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(content)
}

// TestClickThrough is the buyer's way: the link, the cashier, the payment, the shop's return page.
func TestClickThrough(t *testing.T) {
	for path, system := range links {
		t.Run(path, func(t *testing.T) {
			b := newBench(t, Options{})
			address := b.merchant()
			var returned string
			shop := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { returned = r.URL.RawQuery }))
			defer shop.Close()
			number, client := b.fresh(), browser()
			order := b.request("merOrderId", number, "totalAmount", 1234, "orderDesc", `茶 <b>&"tea"`, "notifyUrl", address,
				"returnUrl", shop.URL+"/back?own=1")

			res, _ := read(t, must(client.Get(b.link(path, order))), nil)
			location, err := res.Location()
			if res.StatusCode != http.StatusFound || err != nil || !strings.HasPrefix(location.Path, "/cashier/") {
				t.Fatal(res.StatusCode, location, err)
			}
			if got, _ := b.Order(number); got.Status != "NEW_ORDER" {
				t.Error(got.Status)
			}
			res, page := read(t, must(client.Get(location.String())), nil)
			if res.StatusCode != 200 || !strings.Contains(page, "12.34元") || !strings.Contains(page, "茶 &lt;b&gt;&amp;&#34;tea&#34;") ||
				!strings.Contains(page, `value="pay"`) || res.Header.Get("Cache-Control") != "no-store" {
				t.Error(res.StatusCode, page)
			}
			if got, _ := b.Order(number); got.Status != "WAIT_BUYER_PAY" {
				t.Error(got.Status)
			}

			// Back without having paid.
			res, _ = read(t, must(client.PostForm(location.String(), url.Values{"do": {"back"}})), nil)
			back, err := res.Location()
			if res.StatusCode != http.StatusSeeOther || err != nil || back.Query().Get("status") != "WAIT_BUYER_PAY" {
				t.Error(res.StatusCode, back, err)
			}
			own, signed, _ := strings.Cut(back.RawQuery, "&")
			if own != "own=1" || !verify(t, signed, b.keys.NotifyKey) {
				t.Error(back.RawQuery)
			}

			// Another site's form, then the buyer's own.
			req, _ := http.NewRequest(http.MethodPost, location.String(), strings.NewReader("do=pay"))
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			req.Header.Set("Origin", "https://attacker.example")
			if res, _ = read(t, must(client.Do(req)), nil); res.StatusCode != http.StatusForbidden {
				t.Error(res.StatusCode)
			}
			res, _ = read(t, must(client.PostForm(location.String(), url.Values{"do": {"pay"}})), nil)
			if res.StatusCode != http.StatusSeeOther {
				t.Fatal(res.StatusCode)
			}
			read(t, must(client.Get(res.Header.Get("Location"))), nil)
			own, signed, _ = strings.Cut(returned, "&")
			form, _ := url.ParseQuery(signed)
			if own != "own=1" || form.Get("status") != "TRADE_SUCCESS" || form.Get("merOrderId") != number || form.Get("totalAmount") != "1234" ||
				form.Get("targetSys") != system || !verify(t, signed, b.keys.NotifyKey) {
				t.Error(returned)
			}
			b.delivered(number, KindPayment)

			if res, _ = read(t, must(client.PostForm(location.String(), url.Values{"do": {"pay"}})), nil); res.StatusCode != http.StatusConflict {
				t.Errorf("paid twice: %d", res.StatusCode)
			}
			if _, page = read(t, must(client.Get(location.String())), nil); strings.Contains(page, `value="pay"`) || !strings.Contains(page, "TRADE_SUCCESS") {
				t.Error(page)
			}
		})
	}
}

func location(t *testing.T, res *http.Response) string {
	t.Helper()
	u, err := res.Location()
	if err != nil {
		t.Fatal(err)
	}
	return u.String()
}

func must(res *http.Response, err error) *http.Response {
	if err != nil {
		panic(err)
	}
	return res
}

// TestLinkVector: the published link is verified (its time is long past, and its content is no whole order).
func TestLinkVector(t *testing.T) {
	for _, v := range vectors[struct {
		Timestamp, Query string
		AppID            string `json:"app_id"`
		AppKey           string `json:"app_key"`
	}](t, "open-form-param.json") {
		b := newBench(t, Options{AppID: v.AppID, AppKey: v.AppKey})
		_, answer := read(t, must(browser().Get(b.url+"/v1/netpay/trade/h5-pay?"+v.Query)), nil)
		want(t, decode(t, []byte(answer)), "errCode", "ABNORMAL_REQUEST_TIME")
		b.pass(parseStamp(t, v.Timestamp).Sub(b.clock()))
		_, answer = read(t, must(browser().Get(b.url+"/v1/netpay/trade/h5-pay?"+v.Query)), nil)
		want(t, decode(t, []byte(answer)), "errCode", "BAD_REQUEST", "errMsg", "缺少requestTimestamp") // past the signature
	}
}

func TestLinksRefused(t *testing.T) {
	b := newBench(t, Options{})
	const path = "/v1/netpay/trade/h5-pay"
	order := func() map[string]any { return b.request("merOrderId", b.fresh(), "totalAmount", 1) }
	good := b.link(path, order())
	read(t, must(browser().Get(good)), nil)
	for _, test := range []struct{ name, link, code string }{
		{"used before", good, "BAD_SIGN"},
		{"a false signature", b.link(path, order(), "signature", "AAAA"), "BAD_SIGN"},
		{"another content", b.link(path, order(), "content", "{}"), "BAD_SIGN"},
		{"another nonce", b.link(path, order(), "nonce", "x"), "BAD_SIGN"},
		{"another appId", b.link(path, order(), "appId", "x"), "INVALID_MSGSRC"},
		{"an old timestamp", b.link(path, order(), "timestamp", "20200101000000"), "ABNORMAL_REQUEST_TIME"},
		{"another scheme", b.link(path, order(), "authorization", "OPEN-BODY-SIG"), "BAD_SIGN"},
		{"no query", b.url + path, "BAD_SIGN"},
		{"a repeated parameter", b.link(path, order()) + "&content=%7B%7D", "BAD_REQUEST"},
		{"broken encoding", b.link(path, order()) + "&x=%zz", "BAD_REQUEST"},
		{"no amount", b.link(path, b.request("merOrderId", b.fresh())), "BAD_REQUEST"},
		{"another merchant", b.link(path, b.request("merOrderId", b.fresh(), "totalAmount", 1, "mid", "898000000000000")), "NO_MERCHANT"},
	} {
		t.Run(test.name, func(t *testing.T) {
			res, answer := read(t, must(browser().Get(test.link)), nil)
			if res.Header.Get("Location") != "" {
				t.Error("sent on")
			}
			want(t, decode(t, []byte(answer)), "errCode", test.code)
		})
	}
	if got := len(b.Orders()); got != 1 {
		t.Errorf("%d orders", got)
	}
	if res, _ := read(t, must(browser().Get(b.url+"/cashier/x")), nil); res.StatusCode != 404 {
		t.Error(res.StatusCode)
	}
	// With the header's signature over a body these interfaces are none.
	res, answer, err := b.post(path, b.header([]byte("{}")), []byte("{}"))
	if err != nil || res.StatusCode != 200 {
		t.Fatal(res, err)
	}
	want(t, decode(t, answer), "errCode", "NO_SERVICE")
}

// TestReturnsHere: no browser is sent to another machine.
func TestReturnsHere(t *testing.T) {
	b := newBench(t, Options{})
	for address, allowed := range map[string]bool{
		"http://127.0.0.1:8080/x": true, "http://[::1]/": true, "http://localhost/": true, "http://shop.localhost:1/": true,
		"http://192.0.2.1/": false, "https://shop.example/": false, "http://localhost.example/": false, "": false,
	} {
		number := b.ordered("returnUrl", address)
		if got, err := b.ReturnURL(number); (err == nil) != allowed || allowed && !strings.HasPrefix(got, address+"?") {
			t.Errorf("%s: %q, %v", address, got, err)
		}
	}
	remote := newBench(t, Options{AllowRemote: true})
	if _, err := remote.ReturnURL(remote.ordered("returnUrl", "https://shop.example/")); err != nil {
		t.Error(err)
	}
	if _, err := b.ReturnURL(b.fresh()); err == nil {
		t.Error("an unknown order")
	}

	// Without a way back the cashier shows the order.
	number, client := b.fresh(), browser()
	res, _ := read(t, must(client.Get(b.link("/v1/netpay/uac/order", b.request("merOrderId", number, "totalAmount", 1)))), nil)
	location, _ := res.Location()
	res, page := read(t, must(client.PostForm(location.String(), url.Values{"do": {"pay"}})), nil)
	if res.StatusCode != 200 || !strings.Contains(page, "TRADE_SUCCESS") {
		t.Error(res.StatusCode, page)
	}
	req, _ := http.NewRequest(http.MethodDelete, location.String(), nil)
	if res, _ = read(t, must(client.Do(req)), nil); res.StatusCode != 405 {
		t.Error(res.StatusCode)
	}
}

func TestUI(t *testing.T) {
	b := newBench(t, Options{UI: true})
	client := browser()
	if res, page := read(t, must(client.Get(b.url+"/")), nil); !strings.Contains(page, `src="sandbox/page.js"`) ||
		!strings.Contains(res.Header.Get("Content-Security-Policy"), "script-src 'self'") {
		t.Error(res.Header, page)
	}
	for path, media := range map[string]string{"page.js": "text/javascript", "page.css": "text/css"} {
		if res, content := read(t, must(client.Get(b.url+"/sandbox/"+path)), nil); res.StatusCode != 200 || content == "" ||
			!strings.HasPrefix(res.Header.Get("Content-Type"), media) {
			t.Error(path, res.StatusCode, res.Header)
		}
	}
	address := b.merchant()
	first, second := b.ordered("notifyUrl", address), b.ordered()
	_, page := read(t, must(client.Get(b.url+"/sandbox/view")), nil)
	if !strings.Contains(page, first) || !strings.Contains(page, "NEW_ORDER") || strings.Count(page, `"payable":true`) != 2 || !strings.Contains(page, `"totalAmount":1234`) {
		t.Error(page)
	}
	for _, secret := range []string{b.keys.AppKey, b.keys.NotifyKey} {
		if strings.Contains(page, secret) {
			t.Error("a key is on the page")
		}
	}

	// Another site's form; another site's name for this machine.
	for name, change := range map[string]func(*http.Request){
		"another origin": func(r *http.Request) { r.Header.Set("Origin", "https://attacker.example") },
		"cross-site":     func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") },
		"another name":   func(r *http.Request) { r.Host = "attacker.example" },
	} {
		req, _ := http.NewRequest(http.MethodPost, b.url+"/pay", strings.NewReader("order="+first))
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		change(req)
		if res, _ := read(t, must(client.Do(req)), nil); res.StatusCode != http.StatusForbidden {
			t.Errorf("%s: %d", name, res.StatusCode)
		}
	}
	if order, _ := b.Order(first); order.Status != "NEW_ORDER" {
		t.Error(order.Status)
	}

	res, _ := read(t, must(client.PostForm(b.url+"/pay", url.Values{"order": {first}})), nil)
	if res.StatusCode != http.StatusSeeOther || location(t, res) != b.url+"/" {
		t.Error(res.StatusCode, res.Header.Get("Location"))
	}
	b.delivered(first, KindPayment)
	refund := b.fresh()
	b.call("/v1/netpay/refund", b.request("merOrderId", first, "refundAmount", 234, "refundOrderId", refund))
	b.delivered(first, KindRefund)
	_, page = read(t, must(client.Get(b.url+"/sandbox/view")), nil)
	for _, text := range []string{"TRADE_REFUND", refund, `"amount":234`, `"Kind":"payment","Variant":"genuine"`, `"Answer":"SUCCESS"`, address} {
		if !strings.Contains(page, text) {
			t.Errorf("no %s: %s", text, page)
		}
	}
	if strings.Count(page, `"payable":true`) != 1 || strings.Index(page, `"merOrderId":"`+second) > strings.Index(page, `"merOrderId":"`+first) {
		t.Error("the newest first, and only what can be paid can be paid")
	}
	if res, _ := read(t, must(client.PostForm(b.url+"/pay", url.Values{"order": {first}})), nil); res.StatusCode != http.StatusConflict {
		t.Error(res.StatusCode)
	}
	for _, path := range []string{"/x", "/pay"} {
		if res, _ := read(t, must(client.Get(b.url+path)), nil); res.StatusCode != 404 && res.StatusCode != 405 {
			t.Error(path, res.StatusCode)
		}
	}

	without := newBench(t, Options{})
	if res, _ := read(t, must(client.Get(without.url+"/")), nil); res.StatusCode != 404 {
		t.Error(res.StatusCode)
	}
	remote := newBench(t, Options{UI: true, AllowRemote: true})
	req, _ := http.NewRequest(http.MethodGet, remote.url+"/", nil)
	req.Host = "sandbox.example"
	if res, _ := read(t, must(client.Do(req)), nil); res.StatusCode != 200 {
		t.Error(res.StatusCode)
	}
}

func TestUIShowsAtMost(t *testing.T) {
	b := newBench(t, Options{UI: true})
	for i := range shownOrders + 5 {
		if err := b.Deduct(Deduction{MerOrderID: fmt.Sprintf("%s%08d", b.keys.SourceCode, i), TotalAmount: 1}); err != nil {
			t.Fatal(err)
		}
	}
	_, page := read(t, must(http.Get(b.url+"/sandbox/view")), nil)
	if got := strings.Count(page, `"merOrderId":`); got != shownOrders {
		t.Errorf("%d orders shown", got)
	}
}
