package chinaums

import (
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
	"github.com/caddy-chinaums/caddy-chinaums/internal/testutil/webdriver"
)

// browser is a browser at the cashier, who asks for elements by their id and waits for them.
type browser struct{ *webdriver.Page }

func (b browser) url() (url string) {
	b.Do("GET", "/url", nil, &url)
	return url
}

func (b browser) element(id string) string {
	found := map[string]string{}
	b.Do("POST", "/element", map[string]string{"using": "css selector", "value": "#" + id}, &found)
	for _, reference := range found {
		return "/element/" + reference
	}
	return ""
}

func (b browser) text(id string) (text string) {
	b.Do("GET", b.element(id)+"/text", nil, &text)
	return text
}

func (b browser) click(id string) { b.Do("POST", b.element(id)+"/click", map[string]any{}, nil) }

// TestH5InABrowser is the whole H5 way: the app asks the gateway for a link, the buyer's browser follows it to the
// cashier, pays, and comes back to the return page, which the gateway has verified; the notify arrives, confirmed.
func TestH5InABrowser(t *testing.T) {
	b := browser{webdriver.Browse(t, "zh-CN", "about:blank", 1000, false)}
	platform, platformURL := startSandbox(t, sandbox.Options{Schedule: []time.Duration{100 * time.Millisecond, 100 * time.Millisecond}})
	keys := platform.Options()

	app := newMerchantApp(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != "GET" {
			return // a notify, taken
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprintf(w, `<!DOCTYPE html><p id="order">%s</p><p id="said">%s</p><p id="theme">%s</p>`,
			html.EscapeString(r.Header.Get("X-Order")), html.EscapeString(r.Header.Get("X-Status")), html.EscapeString(r.URL.Query().Get("theme")))
	})
	address := freeAddress(t)
	log := startCaddy(t, merchantOptions(platformURL)+notifySite(address, `chinaums_h5 /v1/netpay/*
	chinaums_notify /notify {
		confirm
	}
	chinaums_return /return {
		ignore theme
	}
	reverse_proxy `+app.URL+` {
		header_up X-Order {http.chinaums.mer_order_id}
		header_up X-Status {http.chinaums.status}
	}
	handle_errors {
		header Content-Type "text/html; charset=utf-8"
		respond "<!DOCTYPE html><p id=sorry>{err.status_code}</p>"
	}`))
	gateway := "http://" + address

	order := func(number string) (link string) {
		t.Helper()
		content, _ := json.Marshal(map[string]any{
			"requestTimestamp": time.Now().In(beijing).Format(time.DateTime), "mid": keys.MID, "tid": keys.TID, "instMid": "H5DEFAULT",
			"merOrderId": number, "totalAmount": 1234, "orderDesc": "一杯茶", "notifyUrl": gateway + "/notify", "returnUrl": gateway + "/return?theme=dark",
		})
		a := do(t, newRequest(t, "POST", gateway+"/v1/netpay/trade/h5-pay", string(content), "Content-Type: application/json"))
		var answer struct{ URL string }
		if err := json.Unmarshal([]byte(a.body), &answer); err != nil || a.status != 200 || !strings.HasPrefix(answer.URL, platformURL+"/v1/netpay/trade/h5-pay?") {
			t.Fatalf("%d %s", a.status, a.body)
		}
		return answer.URL
	}

	paid := keys.SourceCode + "202611240000001"
	b.Open(order(paid))
	if got := b.text("order"); got != paid || b.text("amount") != "12.34元" {
		t.Fatalf("the cashier shows %s, %s", got, b.text("amount"))
	}
	b.click("pay")
	eventually(t, "the way back to the shop", func() bool { return strings.HasPrefix(b.url(), gateway+"/return?") })
	if b.text("order") != paid || b.text("said") != "TRADE_SUCCESS" || b.text("theme") != "dark" {
		t.Errorf("the return page shows %s, %s, %s", b.text("order"), b.text("said"), b.text("theme"))
	}
	returned := b.url()
	ctx := t.Context()
	if err := platform.WaitDelivered(ctx, paid, sandbox.KindPayment); err != nil {
		t.Fatal(err)
	}
	var event received
	for _, got := range app.seen() {
		if got.method == "POST" {
			event = got
		}
	}
	if event.header.Get("Ce-Subject") != paid || event.header.Get("Ce-Confirmed") != "true" || event.header.Get("Ce-Type") != "com.chinaums.payment.succeeded" {
		t.Errorf("the notify: %v %s", event.header, event.body)
	}

	// The buyer plays with the address line.
	if !strings.Contains(returned, "totalAmount=1234") {
		t.Fatalf("the browser is at %s", returned)
	}
	b.Open(strings.Replace(returned, "totalAmount=1234", "totalAmount=1", 1))
	if got := b.text("sorry"); got != "403" {
		t.Errorf("a false return page shows %s", got)
	}

	// Another buyer goes back without paying: the page is true, and says so.
	unpaid := keys.SourceCode + "202611240000002"
	b.Open(order(unpaid))
	b.click("back")
	eventually(t, "the way back to the shop", func() bool { return strings.HasPrefix(b.url(), gateway+"/return?") })
	if b.text("order") != unpaid || b.text("said") == "TRADE_SUCCESS" {
		t.Errorf("the return page shows %s, %s", b.text("order"), b.text("said"))
	}
	own := strings.Join(append(log.lines(`"logger":"http.handlers.chinaums`), log.lines(`"logger":"http.log.access`)...), "")
	if strings.Contains(own, "sign=") || strings.Contains(own, keys.NotifyKey) || strings.Contains(own, keys.AppKey) {
		t.Error("a return page's query or a key is in the access log or the gateway's own lines")
	}
}
