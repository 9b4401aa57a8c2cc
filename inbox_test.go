package chinaums

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// inboxOptions is the global block of the merchants shop and kiosk, of one key and different mids, with an inbox in
// this file.
func inboxOptions(file string) string {
	return `{
	chinaums {
		merchant shop {
			notify_key {env.UMS_NOTIFY_KEY}
			mid        898201612345678
		}
		merchant kiosk {
			notify_key {env.UMS_NOTIFY_KEY}
			mid        898201612345679
		}
	}
	inbox {
		store bolt {
			path ` + file + `
		}
	}
}
`
}

// inboxSite sends each merchant's notifies through the inbox to the app.
func inboxSite(address, app, options string) string {
	return notifySite(address, `chinaums_notify /notify/shop shop
	chinaums_notify /notify/kiosk kiosk
	inbox {
		retry 20ms
		`+options+`
		deliver {
			webhook_signature {env.APP_SECRET}
			`+app+`
		}
	}`)
}

// TestInboxBehindNotify is a notify from the platform through the inbox to an app that is down at first.
func TestInboxBehindNotify(t *testing.T) {
	setKeys(t)
	t.Setenv("APP_SECRET", "the secret between gateway and app")
	var down atomic.Bool
	down.Store(true)
	app := newMerchantApp(t, func(w http.ResponseWriter, _ *http.Request) {
		if down.Load() {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		_, _ = w.Write([]byte("SUCCESS"))
	})
	address, file := freeAddress(t), filepath.Join(t.TempDir(), "inbox.db")
	log := startCaddy(t, inboxOptions(file)+inboxSite(address, "reverse_proxy "+app.URL, ""))
	shop, kiosk := "http://"+address+"/notify/shop", "http://"+address+"/notify/kiosk"
	state := func(name string) float64 {
		return metricValue(t, "caddy_inbox_messages", map[string]string{"inbox": "default", "state": name})
	}

	wantWord(t, postNotify(t, shop, signedPayment()), 200)
	wantWord(t, postNotify(t, shop, signedPayment()), 200)
	// The same order's refund, and another merchant's event that happens to have the same notifyId.
	wantWord(t, postNotify(t, shop, signedPayment(referenceField{"status", "TRADE_REFUND"}, referenceField{"refundOrderId", "R1"})), 200)
	wantWord(t, postNotify(t, kiosk, signedPayment(referenceField{"mid", "898201612345679"})), 200)
	wantWord(t, postNotify(t, shop, signedPayment()+"x"), 403)
	if state("pending") != 3 || state("delivered") != 0 {
		t.Errorf("%v pending, %v delivered", state("pending"), state("delivered"))
	}
	eventually(t, "the app has refused each", func() bool {
		return metricValue(t, "caddy_inbox_deliveries_total", map[string]string{"inbox": "default", "result": "failed"}) >= 6
	})
	down.Store(false)
	eventually(t, "all are delivered", func() bool { return state("delivered") == 3 })

	taken := map[string]received{}
	for _, got := range app.seen() {
		taken[got.header.Get("Ce-Source")+" "+got.header.Get("Ce-Id")] = got // the last is the one that was taken
	}
	if len(taken) != 3 {
		t.Fatalf("%d events: %v", len(taken), taken)
	}
	got := taken["/chinaums/shop "+paymentID]
	if got.method != "POST" || got.uri != "/notify/shop" || got.header.Get("Ce-Type") != "com.chinaums.payment.succeeded" ||
		got.header.Get("Content-Type") != "application/json; charset=utf-8" || int(got.contentLength) != len(got.body) {
		t.Errorf("%+v", got)
	}
	var event map[string]any
	if err := json.Unmarshal([]byte(got.body), &event); err != nil || event["totalAmount"] != 1.0 || event["sign"] != nil {
		t.Errorf("%v: %s", err, got.body)
	}
	if got.header.Get("Webhook-Id") != paymentID || !strings.HasPrefix(got.header.Get("Webhook-Signature"), "v1,") {
		t.Errorf("not signed: %v", got.header)
	}
	refundID := sha256Lines("v1\n/chinaums/shop\ncom.chinaums.refund.unknown\nmid=898201612345678\nmerOrderId=90012018092009395265848826440\nrefundOrderId=R1\n")
	if other := taken["/chinaums/shop "+refundID]; other.header.Get("Ce-Type") != "com.chinaums.refund.unknown" {
		t.Errorf("the refund: %v", other.header)
	}
	kioskID := sha256Lines("v1\n/chinaums/kiosk\ncom.chinaums.payment.succeeded\nmid=898201612345679\nmerOrderId=90012018092009395265848826440\nstatus=TRADE_SUCCESS\ntotalAmount=1\n")
	if _, ok := taken["/chinaums/kiosk "+kioskID]; !ok {
		t.Errorf("the kiosk's event is missing: %v", taken)
	}
	wantWord(t, postNotify(t, shop, signedPayment()), 200)
	if state("delivered") != 3 || state("pending") != 0 || len(app.seen()) != 0 {
		t.Error("a delivered event was delivered again")
	}
	if text := log.String(); strings.Contains(text, testNotifyKey) || cardNumber.MatchString(text) || strings.Contains(text, "the secret between") {
		t.Error("a secret or a card number is logged")
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// TestInboxVectors: the documents' own notifies, with their keys, reach the app once each.
func TestInboxVectors(t *testing.T) {
	raw, err := os.ReadFile("testdata/vectors/notify.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct {
		Name, Key, Form string
		Valid           bool
	}
	if err := json.Unmarshal(raw, &vectors); err != nil {
		t.Fatal(err)
	}
	t.Setenv("APP_SECRET", "s")
	for i, vector := range vectors {
		if vector.Form == "" {
			continue
		}
		t.Run(vector.Name, func(t *testing.T) {
			t.Setenv("VECTOR_KEY", vector.Key)
			app := newMerchantApp(t, nil)
			address, file := freeAddress(t), filepath.Join(t.TempDir(), "inbox.db")
			startCaddy(t, "{\n\tchinaums {\n\t\tmerchant v {\n\t\t\tnotify_key {env.VECTOR_KEY}\n\t\t}\n\t}\n\tinbox v"+fmt.Sprint(i)+" {\n\t\tstore bolt {\n\t\t\tpath "+file+"\n\t\t}\n\t}\n}\n"+
				notifySite(address, "chinaums_notify\n\tinbox v"+fmt.Sprint(i)+" {\n\t\tdeliver {\n\t\t\treverse_proxy "+app.URL+"\n\t\t}\n\t}"))
			a := postNotify(t, "http://"+address+"/", vector.Form)
			if !vector.Valid {
				if a.status == 200 || a.body != "FAILED" {
					t.Errorf("answered %d %q", a.status, a.body)
				}
				return
			}
			wantWord(t, a, 200)
			wantWord(t, postNotify(t, "http://"+address+"/", vector.Form), 200)
			eventually(t, "it is delivered", func() bool {
				return metricValue(t, "caddy_inbox_messages", map[string]string{"inbox": "v" + fmt.Sprint(i), "state": "delivered"}) == 1
			})
			app.one(t)
		})
	}
}

// TestInboxSurvivesRestart: the platform hears SUCCESS although the app is down; the app gets each event once, when it
// is up again, from another Caddy.
func TestInboxSurvivesRestart(t *testing.T) {
	setKeys(t)
	t.Setenv("APP_SECRET", "s")
	file := filepath.Join(t.TempDir(), "inbox.db")
	config := func(app string) (string, string) {
		address := freeAddress(t)
		return "http://" + address + "/notify/shop", inboxOptions(file) + inboxSite(address, app, "")
	}
	t.Run("the app is down", func(t *testing.T) {
		url, text := config("reverse_proxy " + freeAddress(t))
		startCaddy(t, text)
		for i := range 50 {
			wantWord(t, postNotify(t, url, signedPayment(referenceField{"merOrderId", fmt.Sprint("n-", i)})), 200)
		}
	})
	t.Run("the app is up", func(t *testing.T) {
		app := newMerchantApp(t, nil)
		url, text := config("reverse_proxy " + app.URL)
		startCaddy(t, text)
		wantWord(t, postNotify(t, url, signedPayment(referenceField{"merOrderId", "n-7"}, referenceField{"notifyId", "another"})), 200)
		eventually(t, "all are delivered", func() bool {
			return metricValue(t, "caddy_inbox_messages", map[string]string{"inbox": "default", "state": "delivered"}) == 50
		})
		times := map[string]int{}
		for _, got := range app.seen() {
			times[got.header.Get("Ce-Subject")]++
		}
		for i := range 50 {
			if id := fmt.Sprint("n-", i); times[id] != 1 {
				t.Errorf("%s was delivered %d times", id, times[id])
			}
		}
	})
}

// TestInboxReloads: configurations come and go under load; no event is lost, and none is delivered twice.
func TestInboxReloads(t *testing.T) {
	setKeys(t)
	t.Setenv("APP_SECRET", "s")
	app := newMerchantApp(t, nil)
	file, address := filepath.Join(t.TempDir(), "inbox.db"), freeAddress(t)
	config := func(i int) string {
		return inboxOptions(file) + inboxSite(address, "reverse_proxy "+app.URL, fmt.Sprintf("timeout %ds", 20+i))
	}
	startCaddy(t, config(0))
	url := "http://" + address + "/notify/shop"
	const senders, each, reloads = 4, 50, 8
	var all sync.WaitGroup
	for s := range senders {
		all.Go(func() {
			for i := range each {
				form := signedPayment(referenceField{"merOrderId", fmt.Sprintf("n-%d-%d", s, i)})
				a := doAfterReload(t, func() *http.Request { return newRequest(t, "POST", url, form, formType) })
				if a.status != 200 || a.body != "SUCCESS" {
					t.Errorf("answered %d %q", a.status, a.body)
				}
			}
		})
	}
	for i := range reloads {
		text := strings.Replace(config(i+1), "{\n", "{\n\tadmin off\n", 1)
		if err := caddy.Load(adapt(t, text), true); err != nil {
			t.Fatal(err)
		}
	}
	all.Wait()
	eventually(t, "all are delivered", func() bool {
		return metricValue(t, "caddy_inbox_messages", map[string]string{"inbox": "default", "state": "delivered"}) == senders*each
	})
	times := map[string]int{}
	for _, got := range app.seen() {
		times[got.header.Get("Ce-Id")]++
	}
	if len(times) != senders*each {
		t.Errorf("%d events, want %d", len(times), senders*each)
	}
	for id, n := range times {
		if n != 1 {
			t.Errorf("%s was delivered %d times", id, n)
		}
	}
	if metricValue(t, "caddy_inbox_deliveries_total", map[string]string{"inbox": "default", "result": "delivered"}) < senders*each {
		t.Error("a reload has set the counters back")
	}
}

// TestInboxToPHP: what was stored is what php_fastcgi needs.
func TestInboxToPHP(t *testing.T) {
	setKeys(t)
	directory, err := os.MkdirTemp("", "fpm") // a short path: a socket's may have 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(directory) })
	seen, web := filepath.Join(directory, "seen.json"), filepath.Join(directory, "web")
	t.Setenv("APP_SECRET", "the secret between gateway and app")
	t.Setenv("APP_SEEN", seen)
	socket := startFPM(t, directory)
	if err := os.MkdirAll(web, 0o700); err != nil {
		t.Fatal(err)
	}
	writeText(t, filepath.Join(web, "notify.php"), phpApp)
	address := freeAddress(t)
	startCaddy(t, inboxOptions(filepath.Join(directory, "inbox.db"))+inboxSite(address, `rewrite /notify.php
			root `+web+`
			php_fastcgi unix/`+socket+` {
				read_timeout 20s
			}`, ""))
	wantWord(t, postNotify(t, "http://"+address+"/notify/shop", signedPayment(), "User-Agent: UMS/1.0"), 200)
	eventually(t, "PHP has taken it", func() bool {
		return metricValue(t, "caddy_inbox_messages", map[string]string{"inbox": "default", "state": "delivered"}) == 1
	})
	content, err := os.ReadFile(seen)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Server map[string]any
		Body   string
	}
	if err := json.Unmarshal(content, &got); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"REQUEST_METHOD": "POST", "CONTENT_TYPE": "application/json; charset=utf-8", "HTTP_CE_ID": paymentID,
		"HTTP_CE_SOURCE": "/chinaums/shop", "HTTP_USER_AGENT": "UMS/1.0", "HTTP_HOST": address, "REMOTE_ADDR": "127.0.0.1",
		"CONTENT_LENGTH": fmt.Sprint(len(got.Body)), "SERVER_PROTOCOL": "HTTP/1.1",
	} {
		if got.Server[name] != value {
			t.Errorf("%s is %v, want %s", name, got.Server[name], value)
		}
	}
	if !strings.Contains(got.Body, `"totalAmount":1,`) {
		t.Errorf("body %s", got.Body)
	}
}
