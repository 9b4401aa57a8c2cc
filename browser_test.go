package chinaums

import (
	"bytes"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
)

// browser is a headless Chromium, driven over WebDriver.
type browser struct {
	t       testing.TB
	session string
}

func startBrowser(t *testing.T) *browser {
	t.Helper()
	chromium := findTool(t, "chromium", "chromium", "chromium-browser", "google-chrome")
	driver := findTool(t, "chromedriver", "chromedriver")
	address := freeAddress(t)
	command := exec.Command(driver, "--port="+address[strings.LastIndex(address, ":")+1:])
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
	})
	profile, err := os.MkdirTemp("", "chromium") // not the test's own: what Chromium leaves behind may still write there
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(profile) })
	b := &browser{t: t, session: "http://" + address}
	eventually(t, "chromedriver", func() bool {
		res, err := testClient.Get(b.session + "/status")
		if err == nil {
			res.Body.Close()
		}
		return err == nil
	})
	var session struct{ SessionID string }
	b.do("POST", "/session", map[string]any{"capabilities": map[string]any{"alwaysMatch": map[string]any{
		"browserName": "chrome",
		"timeouts":    map[string]int{"implicit": 60_000, "pageLoad": 120_000},
		"goog:chromeOptions": map[string]any{"binary": chromium, "args": []string{
			"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
			"--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--user-data-dir=" + profile,
		}},
	}}}, &session)
	b.session += "/session/" + session.SessionID
	t.Cleanup(func() { b.do("DELETE", "", nil, nil) }) // ends Chromium
	return b
}

// do sends one command.
func (b *browser) do(method, path string, body, into any) {
	b.t.Helper()
	var content io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			b.t.Fatal(err)
		}
		content = bytes.NewReader(encoded)
	}
	req, err := http.NewRequest(method, b.session+path, content)
	if err != nil {
		b.t.Fatal(err)
	}
	client := *testClient
	client.Timeout = 2 * time.Minute // a machine under load starts a browser slowly
	res, err := client.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer res.Body.Close()
	answer, _ := io.ReadAll(res.Body)
	if res.StatusCode != 200 {
		b.t.Fatalf("webdriver %s %s: %d %s", method, path, res.StatusCode, answer)
	}
	if into != nil {
		var value struct{ Value json.RawMessage }
		err := json.Unmarshal(answer, &value)
		if err == nil {
			err = json.Unmarshal(value.Value, into)
		}
		if err != nil {
			b.t.Fatalf("webdriver %s %s: %v in %s", method, path, err, answer)
		}
	}
}

func (b *browser) open(url string) {
	b.t.Helper()
	b.do("POST", "/url", map[string]string{"url": url}, nil)
}

func (b *browser) url() (url string) {
	b.t.Helper()
	b.do("GET", "/url", nil, &url)
	return url
}

func (b *browser) element(id string) string {
	b.t.Helper()
	found := map[string]string{}
	b.do("POST", "/element", map[string]string{"using": "css selector", "value": "#" + id}, &found)
	for _, reference := range found {
		return "/element/" + reference
	}
	b.t.Fatalf("there is no element %s", id)
	return ""
}

func (b *browser) text(id string) (text string) {
	b.t.Helper()
	b.do("GET", b.element(id)+"/text", nil, &text)
	return text
}

func (b *browser) click(id string) {
	b.t.Helper()
	b.do("POST", b.element(id)+"/click", map[string]any{}, nil)
}

// TestH5InABrowser is the whole H5 way: the app asks the gateway for a link, the buyer's browser follows it to the
// cashier, pays, and comes back to the return page, which the gateway has verified; the notify arrives, confirmed.
func TestH5InABrowser(t *testing.T) {
	b := startBrowser(t)
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
	b.open(order(paid))
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
	b.open(strings.Replace(returned, "totalAmount=1234", "totalAmount=1", 1))
	if got := b.text("sorry"); got != "403" {
		t.Errorf("a false return page shows %s", got)
	}

	// Another buyer goes back without paying: the page is true, and says so.
	unpaid := keys.SourceCode + "202611240000002"
	b.open(order(unpaid))
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
