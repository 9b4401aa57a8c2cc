package chinaums

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
	"github.com/caddy-chinaums/caddy-chinaums/internal/testutil"
	"github.com/caddy-chinaums/caddy-chinaums/watch"
)

// watchedGateway is a gateway with a watch and an inbox, between a merchant's app and a sandbox.
type watchedGateway struct {
	t        *testing.T
	platform *sandbox.ChinaUMS
	keys     sandbox.Options
	app      *merchantApp
	address  string
	url      string
	config   string
	log      *logged
	numbers  int
}

// startWatched starts one. Nobody has to wait long for a look; options are further ones of the watch.
func startWatched(t *testing.T, options string) *watchedGateway {
	t.Helper()
	return startWatchedNotify(t, options, "")
}

// startWatchedNotify starts one whose chinaums_notify has options, too.
func startWatchedNotify(t *testing.T, options, notify string) *watchedGateway {
	t.Helper()
	platform, upstream := startSandbox(t, sandbox.Options{Manual: true})
	address, directory := freeAddress(t), t.TempDir()
	g := &watchedGateway{t: t, platform: platform, keys: platform.Options(), app: newMerchantApp(t, nil), address: address, url: "http://" + address}
	unknown := "50ms 100ms 200ms 400ms 800ms 1600ms 3s 6s 12s 24s 48s 96s"
	if strings.Contains(options, "unknown") {
		unknown = ""
	} else {
		unknown = "unknown " + unknown
	}
	orders := "orders 50ms 100ms 200ms 400ms 800ms 1600ms 3s 6s 12s 24s 48s 96s"
	if strings.Contains(options, "orders") {
		orders = ""
	}
	global := strings.Replace(merchantOptions(upstream), "\t\t}\n\t}\n", "\t\t}\n\t\twatch {\n\t\t\tstore bolt {\n\t\t\t\tpath "+
		filepath.Join(testutil.Memory(t), "watch.db")+"\n\t\t\t}\n\t\t\trate 500\n\t\t\t"+orders+"\n\t\t\t"+unknown+"\n\t\t\t"+options+"\n\t\t}\n\t}\n\tinbox {\n\t\tstore bolt {\n\t\t\tpath "+
		filepath.Join(directory, "inbox.db")+"\n\t\t}\n\t}\n", 1)
	g.config = global + notifySite(address, `@h5 path /v1/netpay/trade/h5-pay
	chinaums_h5 @h5
	handle_path /long/* {
		chinaums_guard
		reverse_proxy {
			dynamic chinaums
			transport chinaums
		}
	}
	handle_path /twice/* {
		route {
			chinaums_guard
			chinaums_proxy
		}
	}
	handle_path /within/* {
		route {
			chinaums_guard
			route {
				chinaums_guard
				reverse_proxy {
					dynamic chinaums
					transport chinaums
				}
			}
		}
	}
	chinaums_proxy /v1/netpay/*
	chinaums_notify /notify {
		`+notify+`
	}
	inbox /notify {
		retry 20ms
		deliver {
			reverse_proxy `+g.app.URL+`
		}
	}`)
	g.log = startCaddy(t, g.config)
	return g
}

func (g *watchedGateway) number() string {
	g.numbers++
	return fmt.Sprintf("%s20261129%05d", g.keys.SourceCode, g.numbers)
}

// call calls an interface, or its long form at /long.
func (g *watchedGateway) call(path string, fields map[string]any, headers ...string) answer {
	g.t.Helper()
	all := map[string]any{"requestTimestamp": time.Now().In(beijing).Format(time.DateTime), "mid": g.keys.MID, "tid": g.keys.TID, "instMid": "APPDEFAULT"}
	maps.Copy(all, fields)
	content, _ := json.Marshal(all)
	return do(g.t, newRequest(g.t, "POST", g.url+path, string(content), append(headers, "Content-Type: application/json")...))
}

// want checks what a call became: status, errCode and outcome.
func (g *watchedGateway) want(a answer, status int, code, outcome string) {
	g.t.Helper()
	var body struct{ ErrCode string }
	_ = json.Unmarshal([]byte(a.body), &body)
	if a.status != status || code != "" && body.ErrCode != code || a.header.Get("Gateway-Outcome") != outcome {
		g.t.Errorf("%d %s, %s; want %d %s, %s", a.status, a.body, a.header.Get("Gateway-Outcome"), status, code, outcome)
	}
}

// order makes an order of 10 yuan.
func (g *watchedGateway) order(more map[string]any) string {
	g.t.Helper()
	number := g.number()
	fields := map[string]any{"merOrderId": number, "totalAmount": 1000, "notifyUrl": g.url + "/notify"}
	maps.Copy(fields, more)
	g.want(g.call("/v1/netpay/trade/precreate", fields), 200, "SUCCESS", "answered")
	return number
}

// paid makes an order, has it paid, and waits until the app was told.
func (g *watchedGateway) paid() string {
	g.t.Helper()
	number := g.order(nil)
	if err := g.platform.Pay(number); err != nil {
		g.t.Fatal(err)
	}
	g.told("payment.succeeded", number)
	return number
}

func (g *watchedGateway) refund(order, refund string, amount int, headers ...string) answer {
	g.t.Helper()
	return g.call("/v1/netpay/refund", map[string]any{"merOrderId": order, "refundOrderId": refund, "refundAmount": amount}, headers...)
}

// told waits for the next event that the app gets, which has to be this one.
func (g *watchedGateway) told(eventType, order string) received {
	g.t.Helper()
	var got []received
	eventually(g.t, eventType+" of "+order, func() bool {
		got = append(got, g.app.seen()...)
		return len(got) > 0
	})
	if len(got) != 1 || got[0].header.Get("Ce-Type") != "com.chinaums."+eventType || got[0].header.Get("Ce-Subject") != order {
		g.t.Fatalf("the app was told %+v, want one %s of %s", got, eventType, order)
	}
	g.settled()
	return got[0]
}

// settled waits until it is written down what became of all that was to be told: by the watch, lest a notify of the same be answered
// 503, and by the inbox, lest what is told again be taken for what is being delivered.
func (g *watchedGateway) settled() {
	g.t.Helper()
	app, err := caddy.ActiveContext().App("inbox")
	if err != nil {
		g.t.Fatal(err)
	}
	eventually(g.t, "nothing is being told any more", func() bool {
		rows, err := g.watch().List(g.t.Context(), watch.Select{Limit: 100})
		return err == nil && !slices.ContainsFunc(rows, func(o *watch.Order) bool {
			return slices.ContainsFunc(o.Told, func(e *watch.Told) bool { return e.Until != 0 })
		})
	})
	eventually(g.t, "nothing is being delivered any more", func() bool {
		store, open := app.(*inbox.App).Lookup("default")
		if !open {
			return false
		}
		stats, err := store.Stats(g.t.Context())
		return err == nil && stats.Pending == 0
	})
}

// watch is the one of the running configuration.
func (g *watchedGateway) watch() *watch.Watch {
	g.t.Helper()
	active, err := activeWatch()
	if err != nil {
		g.t.Fatal(err)
	}
	return active.Watch()
}

// returned is how often money went back for an order, by the platform's own books.
func (g *watchedGateway) returned(order string) (times int) {
	g.t.Helper()
	for _, o := range g.platform.Orders() {
		if o.MerOrderID == order || o.BillNo == order {
			times += len(o.Returns)
		}
	}
	return times
}

// notify has the platform send a notify: as platforms do, again after a 503, which says that the app is being told at this moment. It is
// until the watch has written down that the app was told.
func (g *watchedGateway) notify(number string, kind sandbox.Kind, status int) {
	g.t.Helper()
	var delivery sandbox.Delivery
	eventually(g.t, "nobody tells the app of "+number+" at this moment", func() (ended bool) {
		var err error
		if delivery, err = g.platform.Notify(g.t.Context(), number, kind, sandbox.Genuine); err != nil {
			g.t.Fatal(err)
		}
		return delivery.Status != http.StatusServiceUnavailable
	})
	if delivery.Status != status {
		g.t.Fatalf("%+v, want status %d", delivery, status)
	}
}

// TestWatchNotifyNeverSent: a payment whose notify never comes reaches the app all the same, as what the notify would have
// become; when it comes after all it is acknowledged, and the app is not told twice.
func TestWatchNotifyNeverSent(t *testing.T) {
	g := startWatched(t, "")
	number := g.order(nil)
	if err := g.platform.Pay(number); err != nil {
		t.Fatal(err)
	}
	got := g.told("payment.succeeded", number)
	id := sha256Lines("v1\n/chinaums/shop\ncom.chinaums.payment.succeeded\nmid=" + g.keys.MID + "\nmerOrderId=" + number + "\nstatus=TRADE_SUCCESS\ntotalAmount=1000\n")
	for name, want := range map[string]string{
		"Ce-Id": id, "Ce-Source": "/chinaums/shop", "Ce-Evidence": "query", "Ce-Ordered": "true", "Content-Type": "application/json; charset=utf-8",
	} {
		if got.header.Get(name) != want {
			t.Errorf("%s is %q, want %q", name, got.header.Get(name), want)
		}
	}
	if got.method != "POST" || got.uri != "/notify" || "http://"+got.host != g.url {
		t.Errorf("%s %s at %s", got.method, got.uri, got.host)
	}
	var event map[string]any
	if err := json.Unmarshal([]byte(got.body), &event); err != nil || event["totalAmount"] != 1000.0 || event["merOrderId"] != number ||
		event["mid"] != g.keys.MID || event["errCode"] != nil || event["status"] != "TRADE_SUCCESS" {
		t.Errorf("%v: %s", err, got.body)
	}
	g.notify(number, sandbox.KindPayment, 200)
	if metricValue(t, "caddy_chinaums_notifies_total", map[string]string{
		"merchant": "shop", "type": "com.chinaums.payment.succeeded", "result": "repeated", "reason": "",
	}) != 1 {
		t.Error("the late notify was not told as repeated")
	}
	found := func() float64 {
		return metricValue(t, "caddy_chinaums_watch_found_total", map[string]string{"type": "com.chinaums.payment.succeeded"})
	}
	eventually(t, "the find is counted", func() bool { return found() > 0 }) // when the inbox has it, which may already deliver it
	if n := found(); n != 1 {
		t.Errorf("found %v", n)
	}
	second := g.order(nil) // the platform's notify comes first
	if err := g.platform.Pay(second); err != nil {
		t.Fatal(err)
	}
	g.told("payment.succeeded", second)
	if seen := g.app.seen(); len(seen) != 0 {
		t.Errorf("told again: %+v", seen)
	}
}

// TestWatchFormat: what a query has found has the format of the notifies. It once was JSON without an envelope, whatever they were.
func TestWatchFormat(t *testing.T) {
	g := startWatchedNotify(t, "", "format cloudevents\n\t\tjson attachedData")
	g.platform.Break(sandbox.Fault{Kind: sandbox.Lie, Path: "/v1/netpay/query", Fields: map[string]any{"attachedData": `{"room":7}`}, Times: -1})
	number := g.order(nil)
	if err := g.platform.Pay(number); err != nil {
		t.Fatal(err)
	}
	got := g.told("payment.succeeded", number)
	var event struct {
		SpecVersion, ID, Source, Type, Subject, Evidence, Ordered, DataContentType string

		Data struct {
			MerOrderID   string
			AttachedData struct{ Room int }
		}
	}
	if err := json.Unmarshal([]byte(got.body), &event); err != nil {
		t.Fatalf("%v: %s", err, got.body)
	}
	if got.header.Get("Content-Type") != "application/cloudevents+json" || event.SpecVersion != "1.0" || event.ID != got.header.Get("Ce-Id") ||
		event.Source != "/chinaums/shop" || event.Type != "com.chinaums.payment.succeeded" || event.Subject != number || event.Evidence != "query" ||
		event.Ordered != "true" || event.DataContentType != "application/json" || event.Data.MerOrderID != number || event.Data.AttachedData.Room != 7 {
		t.Errorf("%v\n%s", got.header, got.body)
	}
}

// TestWatchNotify: what comes by a notify says so, and is not told by a query.
func TestWatchNotify(t *testing.T) {
	g := startWatched(t, "orders off")
	number := g.order(nil)
	if err := g.platform.Pay(number); err != nil {
		t.Fatal(err)
	}
	g.notify(number, sandbox.KindPayment, 200)
	if got := g.told("payment.succeeded", number); got.header.Get("Ce-Evidence") != "notify" || got.header.Get("Ce-Ordered") != "true" {
		t.Errorf("%v", got.header)
	}
	g.notify(number, sandbox.KindPayment, 200)
	foreign := g.number() // no gateway has seen it
	if err := g.platform.Deduct(sandbox.Deduction{MerOrderID: foreign, TotalAmount: 5, NotifyURL: g.url + "/notify"}); err != nil {
		t.Fatal(err)
	}
	g.notify(foreign, sandbox.KindDeduction, 200)
	if got := g.told("deduction.succeeded", foreign); got.header.Get("Ce-Ordered") != "unseen" {
		t.Errorf("%v", got.header)
	}
}

// TestWatchLostRefund: the answer to a refund is lost. A second one with another number is refused while its fate is open; then
// the platform says that it has succeeded, and the app is told. What could not be sent twice is sent once.
func TestWatchLostRefund(t *testing.T) {
	for _, long := range []string{"", "/long"} {
		t.Run("by"+long, func(t *testing.T) {
			g := startWatched(t, "")
			number := g.paid()
			first, second := g.number(), g.number()
			g.platform.Break(sandbox.Fault{Kind: sandbox.Processing, Path: "/v1/netpay/refund", Queries: 1000},
				sandbox.Fault{Kind: sandbox.CutExecuted, Path: "/v1/netpay/refund"})
			fields := map[string]any{"merOrderId": number, "refundOrderId": first, "refundAmount": 600}
			g.want(g.call(long+"/v1/netpay/refund", fields), 502, "GATEWAY_BAD_RESPONSE", "unknown")
			a := g.refund(number, second, 600)
			g.want(a, 409, "GATEWAY_REFUND_UNRESOLVED", "not_sent")
			if !strings.Contains(a.body, first) {
				t.Errorf("%s does not name what is in the way", a.body)
			}
			g.want(g.refund(number, first, 500), 422, "GATEWAY_INVALID", "not_sent")
			g.want(g.refund(number, first, 600), 200, "SUCCESS", "answered") // the same again is no second one
			if err := g.platform.FinishRefund(first, "SUCCESS"); err != nil {
				t.Fatal(err)
			}
			got := g.told("refund.succeeded", number)
			id := sha256Lines("v1\n/chinaums/shop\ncom.chinaums.refund.succeeded\nmid=" + g.keys.MID + "\nmerOrderId=" + number +
				"\nrefundStatus=SUCCESS\nrefundOrderId=" + first + "\n")
			if got.header.Get("Ce-Id") != id || got.header.Get("Ce-Evidence") != "query" {
				t.Errorf("%v", got.header)
			}
			g.notify(first, sandbox.KindRefund, 200)
			if seen := g.app.seen(); len(seen) != 0 {
				t.Errorf("told again: %+v", seen)
			}
			g.want(g.refund(number, second, 600), 422, "GATEWAY_INVALID", "not_sent") // more than is left
			g.want(g.refund(number, second, 400), 200, "SUCCESS", "answered")
			if n := g.returned(number); n != 2 {
				t.Errorf("money went back %d times", n)
			}
		})
	}
}

// TestWatchInvalidCalls: while the first refund is open, no second one gets past the guard in another wrapping. Each of these went
// to the platform.
func TestWatchInvalidCalls(t *testing.T) {
	g := startWatched(t, "unknown 1h")
	order := g.paid()
	g.platform.Break(sandbox.Fault{Kind: sandbox.CutExecuted, Path: "/v1/netpay/refund"})
	g.want(g.refund(order, g.number(), 100), 502, "GATEWAY_BAD_RESPONSE", "unknown")
	body := func(order, amount string) string {
		return `{"mid":"` + g.keys.MID + `","tid":"` + g.keys.TID + `","instMid":"APPDEFAULT","merOrderId":` + order + `,"refundOrderId":"` + g.number() + `","refundAmount":` + amount + `}`
	}
	quoted := `"` + order + `"`
	for _, path := range []string{"refund;x=1", "refund%3Bx", "refund%252F", "refund%00", "%2e/refund//"} {
		g.want(do(t, newRequest(t, "POST", g.url+"/v1/netpay/"+path, body(quoted, "100"), "Content-Type: application/json")), 403, "GATEWAY_FORBIDDEN", "not_sent")
	}
	for _, test := range []struct{ path, body, field string }{
		{"/v1/netpay/Refund", body(quoted, "100"), "Refund"},
		{"/v1/netpay/refund.json", body(quoted, "100"), "refund.json"},
		{"/v1/netpay/refund", body(quoted, `"100.0"`), "refundAmount"},
		{"/v1/netpay/refund", body(quoted, "1e2"), "refundAmount"},
		{"/v1/netpay/refund", body(quoted, `" 100"`), "refundAmount"},
		{"/v1/netpay/refund", body(quoted, "-100"), "refundAmount"},
		{"/v1/netpay/refund", body(`" `+order+`"`, "100"), "merOrderId"},
		{"/v1/netpay/refund", body(`"x","merOrderId":`+quoted, "100"), "merOrderId"},
		{"/v1/netpay/refund", "\xef\xbb\xbf" + body(quoted, "100"), "body"},
		{"/v1/netpay/refund", "merOrderId=" + order, "body"},
	} {
		for _, form := range []string{"", "/long"} {
			a := do(t, newRequest(t, "POST", g.url+form+test.path, test.body, "Content-Type: application/json"))
			g.want(a, 422, "GATEWAY_INVALID", "not_sent")
			if !strings.Contains(a.body, test.field) {
				t.Errorf("%s%s %s: %s", form, test.path, test.body, a.body)
			}
		}
	}
	if n := g.returned(order); n != 1 {
		t.Errorf("money went back %d times", n)
	}
}

// TestWatchOverride: who names the number in the way gets through, and the platform never sees the header.
func TestWatchOverride(t *testing.T) {
	g := startWatched(t, "")
	number := g.paid()
	first, second := g.number(), g.number()
	g.platform.Break(sandbox.Fault{Kind: sandbox.Processing, Path: "/v1/netpay/refund", Queries: 1000})
	g.want(g.refund(number, first, 100), 200, "SUCCESS", "answered")
	g.want(g.refund(number, second, 100, "Gateway-Guard-Override: "+second), 409, "GATEWAY_REFUND_UNRESOLVED", "not_sent")
	g.want(g.refund(number, second, 100, "Gateway-Guard-Override: "+first), 200, "SUCCESS", "answered")
	if len(g.log.lines("the guard of refunds was overridden", first)) != 1 {
		t.Error("it is not logged")
	}
	if a := g.refund(g.number(), g.number(), 5); a.header.Get("Gateway-Guard") != "unseen" {
		t.Errorf("%v", a.header)
	}
}

// TestWatchBusy: while a refund is on its way no other one of the order is sent, whatever its number. The platform sees nothing of
// the guard's headers.
func TestWatchBusy(t *testing.T) {
	arrived, release := make(chan http.Header), make(chan struct{})
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if r.URL.Path == "/v1/netpay/refund" {
			arrived <- r.Header
			<-release
		}
		_, _ = io.WriteString(w, `{"errCode":"SUCCESS","refundStatus":"SUCCESS"}`)
	}))
	defer upstream.Close()
	setKeys(t)
	address := freeAddress(t)
	startCaddy(t, strings.Replace(merchantOptions(upstream.URL), "\t\t}\n\t}\n", "\t\t}\n\t\twatch {\n\t\t\tstore bolt {\n\t\t\t\tpath "+
		filepath.Join(testutil.Memory(t), "watch.db")+"\n\t\t\t}\n\t\t}\n\t}\n\tinbox {\n\t\tstore bolt {\n\t\t\tpath "+filepath.Join(t.TempDir(), "inbox.db")+
		"\n\t\t}\n\t}\n", 1)+notifySite(address, "chinaums_proxy /v1/netpay/* {\n\t\theader_up X-A b\n\t}"))
	g := &watchedGateway{t: t, url: "http://" + address}
	first := make(chan answer)
	go func() { first <- g.refund("O1", "R1", 5, "Gateway-Guard-Override: x") }()
	header := <-arrived
	for _, refund := range []string{"R2", "R1"} {
		a := g.refund("O1", refund, 5)
		g.want(a, 409, "GATEWAY_BUSY", "not_sent")
		if a.header.Get("Retry-After") != "5" {
			t.Errorf("%v", a.header)
		}
	}
	close(release)
	a := <-first
	g.want(a, 200, "SUCCESS", "answered")
	if a.header.Get("Gateway-Guard") != "unseen" || header.Get("Gateway-Guard-Override") != "" || header.Get("X-A") != "b" {
		t.Errorf("%v, %v", a.header, header)
	}
	go func() { <-arrived }()
	g.want(g.refund("O1", "R2", 5), 200, "SUCCESS", "answered")
}

// TestWatchGuardBehindGuard: where two guards stand in one chain, the guard behind took the refund of the one in front for another one
// on its way: each was answered 409 GATEWAY_BUSY or, with warn, sent with a warning, and its answer was not understood.
func TestWatchGuardBehindGuard(t *testing.T) {
	for _, refunds := range []string{watch.Enforce, watch.Warn} {
		t.Run(refunds, func(t *testing.T) {
			g := startWatched(t, "unknown 1h\n\t\t\trefunds "+refunds)
			for _, way := range []string{"/twice", "/within"} {
				order := g.paid()
				refund := func(number string, amount int, headers ...string) answer {
					t.Helper()
					return g.call(way+"/v1/netpay/refund", map[string]any{"merOrderId": order, "refundOrderId": number, "refundAmount": amount}, headers...)
				}
				becomes := func(want string) {
					t.Helper()
					eventually(t, "the order is "+want, func() bool {
						active, err := activeWatch()
						if err != nil {
							t.Fatal(err)
						}
						o, err := active.Watch().Order(t.Context(), "shop", order)
						if err != nil {
							t.Fatal(err)
						}
						states := string(o.State)
						for _, c := range o.Calls {
							states += " " + c.Number + " " + string(c.State)
						}
						return states == want
					})
				}
				first, lost := g.number(), g.number()
				g.want(refund(first, 300), 200, "SUCCESS", "answered")
				becomes("refunded_part " + first + " succeeded")
				g.want(refund(first, 300), 200, "SUCCESS", "answered") // the same again
				g.platform.Break(sandbox.Fault{Kind: sandbox.Processing, Path: "/v1/netpay/refund", Queries: 1000},
					sandbox.Fault{Kind: sandbox.CutExecuted, Path: "/v1/netpay/refund"})
				g.want(refund(lost, 400), 502, "GATEWAY_BAD_RESPONSE", "unknown")
				if lines := g.log.lines("the watch would refuse this refund"); len(lines) != 0 {
					t.Errorf("%q", lines)
				}
				becomes("refunded_part " + first + " succeeded " + lost + " unresolved")
				if refunds == watch.Enforce {
					g.want(refund(g.number(), 300), 409, "GATEWAY_REFUND_UNRESOLVED", "not_sent")
					g.want(refund(g.number(), 300, "Gateway-Guard-Override: "+lost), 200, "SUCCESS", "answered")
				}
			}
		})
	}
}

// TestWatchAmounts: a notify that does not say what was ordered.
func TestWatchAmounts(t *testing.T) {
	for option, want := range map[string]struct {
		status  int
		ordered string
	}{"amounts warn": {200, "differs"}, "amounts reject": {409, ""}, "amounts off": {200, "true"}} {
		t.Run(option, func(t *testing.T) {
			g := startWatched(t, option+"\n\t\t\torders off")
			number := g.order(nil)
			message, err := sandbox.Notify{Key: g.keys.NotifyKey, Fields: map[string]string{"merOrderId": number, "mid": g.keys.MID, "totalAmount": "1"}}.Build()
			if err != nil {
				t.Fatal(err)
			}
			a := do(t, newRequest(t, "POST", g.url+"/notify", string(message.Body), "Content-Type: "+message.ContentType))
			if a.status != want.status {
				t.Fatalf("answered %d %s", a.status, a.body)
			}
			if want.status != 200 {
				if a.body != "FAILED" || len(g.log.lines(`"reason":"order"`)) == 0 || len(g.app.seen()) != 0 {
					t.Errorf("%s", a.body)
				}
				return
			}
			if got := g.told("payment.succeeded", number); got.header.Get("Ce-Ordered") != want.ordered {
				t.Errorf("%v", got.header)
			}
		})
	}
}

// TestWatchLink: a link is followed, though nobody was called; NO_ORDER proves nothing before the buyer opens it.
func TestWatchLink(t *testing.T) {
	g := startWatched(t, "")
	number := g.number()
	a := g.call("/v1/netpay/trade/h5-pay", map[string]any{"merOrderId": number, "totalAmount": 700, "notifyUrl": g.url + "/notify"})
	g.want(a, 200, "", "not_sent")
	var link struct{ URL string }
	if err := json.Unmarshal([]byte(a.body), &link); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the platform was asked", func() bool {
		return metricValue(t, "caddy_chinaums_watch_queries_total", map[string]string{"result": "absent"}) > 0
	})
	do(t, newRequest(t, "GET", link.URL, ""))
	if err := g.platform.Pay(number); err != nil {
		t.Fatal(err)
	}
	if got := g.told("payment.succeeded", number); got.header.Get("Ce-Evidence") != "query" || got.header.Get("Ce-Ordered") != "true" {
		t.Errorf("%v", got.header)
	}
}

// TestWatchOutlivesReload: what went out under one configuration is followed under the next, which has other settings.
func TestWatchOutlivesReload(t *testing.T) {
	g := startWatched(t, "unknown 1h")
	number := g.paid()
	first := g.number()
	g.platform.Break(sandbox.Fault{Kind: sandbox.CutExecuted, Path: "/v1/netpay/refund"}, sandbox.Fault{Kind: sandbox.NoOrder, Times: -1})
	g.want(g.refund(number, first, 600), 502, "GATEWAY_BAD_RESPONSE", "unknown")
	g.want(g.refund(number, g.number(), 600), 409, "GATEWAY_REFUND_UNRESOLVED", "not_sent")
	g.platform.Heal()
	next := strings.Replace(strings.Replace(g.config, "unknown 1h", "unknown 50ms 100ms 1s 2s 4s 8s 16s 32s", 1), "{\n", "{\n\tadmin off\n", 1)
	if err := caddy.Load(adapt(t, next), true); err != nil {
		t.Fatal(err)
	}
	// The row's next look is an hour away; the guard asks, once a second at most, and finds it.
	eventually(t, "the guard knows", func() bool { return g.refundAfterReload(number, g.number(), 600).status == 422 })
	g.told("refund.succeeded", number)
	if n := g.returned(number); n != 1 {
		t.Errorf("money went back %d times", n)
	}
}

func (g *watchedGateway) refundRequest(order, refund string, amount int) *http.Request {
	g.t.Helper()
	content, _ := json.Marshal(map[string]any{
		"requestTimestamp": time.Now().In(beijing).Format(time.DateTime), "mid": g.keys.MID, "tid": g.keys.TID, "instMid": "APPDEFAULT",
		"merOrderId": order, "refundOrderId": refund, "refundAmount": amount,
	})
	return newRequest(g.t, "POST", g.url+"/v1/netpay/refund", string(content), "Content-Type: application/json")
}

func (g *watchedGateway) refundAfterReload(order, refund string, amount int) answer {
	g.t.Helper()
	return doAfterReload(g.t, func() *http.Request { return g.refundRequest(order, refund, amount) })
}

// TestWatchRestart: the gateway ends between the line and the answer. What was written down and has no outcome is unknown at the
// next start, and is followed.
func TestWatchRestart(t *testing.T) {
	g := startWatched(t, "")
	number := g.paid()
	first := g.number()
	g.platform.Break(sandbox.Fault{Kind: sandbox.CutExecuted, Path: "/v1/netpay/refund"}, sandbox.Fault{Kind: sandbox.NoOrder, Times: -1})
	g.want(g.refund(number, first, 300), 502, "GATEWAY_BAD_RESPONSE", "unknown")
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	g.platform.Heal()
	if err := caddy.Load(adapt(t, strings.Replace(g.config, "{\n", "{\n\tadmin off\n", 1)), true); err != nil {
		t.Fatal(err)
	}
	g.told("refund.succeeded", number)
}

// dying copies a file at the first byte of an answer, and lets the answer go no further.
type dying struct {
	http.ResponseWriter
	file    string
	content []byte
	err     error
}

func (d *dying) WriteHeader(int) {
	d.content, d.err = os.ReadFile(d.file)
	panic(http.ErrAbortHandler)
}

// TestWatchAnswerThatDidNotGoOut: a gateway ends when it has the platform's answer to a refund, and the app has nothing of it. It had
// written down that the refund has succeeded, so that the same again with another number was let pass as if the app knew of the first.
func TestWatchAnswerThatDidNotGoOut(t *testing.T) {
	g := startWatched(t, "unknown 1h\n\t\t\torders off")
	number, first, second := g.order(nil), g.number(), g.number()
	if err := g.platform.Pay(number); err != nil {
		t.Fatal(err)
	}
	g.notify(number, sandbox.KindPayment, 200)
	g.told("payment.succeeded", number)
	eventually(t, "the telling is written down", func() bool {
		o, err := g.watch().Order(t.Context(), "shop", number)
		return err == nil && o.State == watch.Paid && o.Outcome == watch.Answered && len(o.Told) == 1 && o.Told[0].Taken != 0
	})
	_, block, _ := strings.Cut(g.config, "watch {")
	last := &dying{file: strings.Fields(block)[4]}
	line := handleBy(t, func(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
		last.ResponseWriter = w
		return next.ServeHTTP(last, r)
	})
	stop := func() {
		if err := caddy.Stop(); err != nil {
			t.Fatal(err)
		}
		testutil.Released(t, g.address)
	}
	load := func(config string) {
		if err := caddy.Load(adapt(t, strings.Replace(config, "{\n", "{\n\tadmin off\n", 1)), true); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	load(strings.Replace(g.config, "chinaums_proxy /v1/netpay/*", "handle /v1/netpay/* {\n\t\troute {\n\t\t\t"+line+"\n\t\t\tchinaums_proxy\n\t\t}\n\t}", 1))
	if res, err := testClient.Do(g.refundRequest(number, first, 300)); err == nil {
		t.Fatalf("an answer that did not go out: %v", res)
	}
	if stop(); last.err != nil || g.returned(number) != 1 {
		t.Fatalf("%v, money went back %d times", last.err, g.returned(number))
	}
	other := regexp.MustCompile(`"flight":"[A-Z2-7]{12}`).ReplaceAll(last.content, []byte(`"flight":"ANOTHERPROCE`)) // this one goes on
	if err := os.WriteFile(last.file, other, 0o600); err != nil {
		t.Fatal(err)
	}
	load(g.config)
	g.want(g.refund(number, second, 300), 409, "GATEWAY_REFUND_UNRESOLVED", "not_sent")
	g.told("refund.succeeded", number)
	g.want(g.refund(number, second, 300), 409, "GATEWAY_REFUND_UNRESOLVED", "not_sent")
	g.want(g.refund(number, first, 300), 200, "SUCCESS", "answered")
	if n := g.returned(number); n != 1 {
		t.Errorf("money went back %d times", n)
	}
	g.want(g.refund(number, second, 300), 200, "SUCCESS", "answered") // now the app knows of the first
}

// TestWatchBill: a bill is paid and paid back, with lost notifies and a lost answer.
func TestWatchBill(t *testing.T) {
	g := startWatched(t, "unknown 1h\n\t\t\torders off") // a look at the bill that is under way may tell of the refund, too
	bill, day := g.number(), time.Now().In(beijing).Format(time.DateOnly)
	g.want(g.call("/v1/netpay/bills/get-qrcode", map[string]any{
		"instMid": "QRPAYDEFAULT", "billNo": bill, "billDate": day, "totalAmount": 2100, "notifyUrl": g.url + "/notify",
	}), 200, "SUCCESS", "answered")
	if err := g.platform.Pay(bill); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a query finds the payment", func() bool {
		o, err := g.watch().Query(t.Context(), "shop", bill+"@"+day)
		return err == nil && o.State == watch.Paid
	})
	got := g.told("bill.paid", bill)
	id := sha256Lines("v1\n/chinaums/shop\ncom.chinaums.bill.paid\nmid=" + g.keys.MID + "\nbillNo=" + bill + "\nbillDate=" + day + "\nbillStatus=PAID\n")
	if got.header.Get("Ce-Id") != id || got.header.Get("Ce-Time") == "" {
		t.Errorf("%v", got.header)
	}
	g.notify(bill, sandbox.KindBill, 200)
	refund := g.number()
	fields := map[string]any{"instMid": "QRPAYDEFAULT", "billNo": bill, "billDate": day, "refundOrderId": refund, "refundAmount": 100}
	g.platform.Break(sandbox.Fault{Kind: sandbox.CutExecuted, Path: "/v1/netpay/bills/refund"})
	g.want(g.call("/v1/netpay/bills/refund", fields), 502, "GATEWAY_BAD_RESPONSE", "unknown")
	fields["refundOrderId"], fields["refundAmount"] = g.number(), 2100
	eventually(t, "the guard asks, and knows what is left", func() bool {
		a := g.call("/v1/netpay/bills/refund", fields)
		if a.status != 422 {
			g.want(a, 409, "GATEWAY_REFUND_UNRESOLVED", "not_sent")
			return false
		}
		g.want(a, 422, "GATEWAY_INVALID", "not_sent")
		return true
	})
	g.told("refund.succeeded", bill+"0")
	g.notify(refund, sandbox.KindRefund, 200)
	if seen := g.app.seen(); len(seen) != 0 {
		t.Errorf("told again: %+v", seen)
	}
	// By the number of its payment it was another order, of which nothing was known.
	delete(fields, "billNo")
	delete(fields, "billDate")
	fields["merOrderId"] = bill + "0"
	g.want(g.call("/v1/netpay/bills/refund", fields), 422, "GATEWAY_INVALID", "not_sent")
}

// TestWatchGuarantee: the answer to a completion is lost; what is found is what the platform's notify says. Nothing can be paid back
// before, as the completion's end is not known.
func TestWatchGuarantee(t *testing.T) {
	g := startWatched(t, "")
	number := g.order(map[string]any{"secureTransaction": "true"})
	if err := g.platform.Pay(number); err != nil {
		t.Fatal(err)
	}
	g.told("guarantee.uncompleted", number)
	g.platform.Break(sandbox.Fault{Kind: sandbox.CutExecuted, Path: "/v1/netpay/secure-complete"})
	g.want(g.call("/v1/netpay/secure-complete", map[string]any{"merOrderId": number, "completedAmount": 600}), 502, "GATEWAY_BAD_RESPONSE", "unknown")
	got := g.told("guarantee.partly_completed", number)
	id := sha256Lines("v1\n/chinaums/shop\ncom.chinaums.guarantee.partly_completed\nmid=" + g.keys.MID + "\nmerOrderId=" + number +
		"\nsecureStatus=PARTLY_COMPLETED\ncompleteAmount=600\n")
	if got.header.Get("Ce-Id") != id {
		t.Errorf("%v", got.header)
	}
	g.notify(number, sandbox.KindGuarantee, 200)

	canceled := g.order(map[string]any{"secureTransaction": "true"})
	if err := g.platform.Pay(canceled); err != nil {
		t.Fatal(err)
	}
	g.told("guarantee.uncompleted", canceled)
	g.platform.Break(sandbox.Fault{Kind: sandbox.CutExecuted, Path: "/v1/netpay/secure-cancel"})
	g.want(g.call("/v1/netpay/secure-cancel", map[string]any{"merOrderId": canceled}), 502, "GATEWAY_BAD_RESPONSE", "unknown")
	g.told("guarantee.canceled", canceled)
	if n := g.returned(canceled); n != 1 {
		t.Errorf("money went back %d times", n)
	}
}

// TestWatchGuaranteeByNotify: the documents' query answers do not say what became of held money. A completion whose answer was lost
// stayed open until it was stuck, though its notify had told.
func TestWatchGuaranteeByNotify(t *testing.T) {
	for _, end := range []struct {
		path   string
		amount any
		told   string
	}{{"secure-complete", 600, "guarantee.partly_completed"}, {"secure-cancel", nil, "guarantee.canceled"}} {
		g := startWatched(t, "")
		g.platform.Break(sandbox.Fault{Kind: sandbox.Lie, Path: "/v1/netpay/query", Times: -1, Fields: map[string]any{"secureStatus": ""}})
		number := g.order(map[string]any{"secureTransaction": "true"})
		if err := g.platform.Pay(number); err != nil {
			t.Fatal(err)
		}
		g.platform.Break(sandbox.Fault{Kind: sandbox.CutExecuted, Path: "/v1/netpay/" + end.path})
		g.want(g.call("/v1/netpay/"+end.path, map[string]any{"merOrderId": number, "completedAmount": end.amount}), 502, "GATEWAY_BAD_RESPONSE", "unknown")
		unresolved := func() float64 {
			return metricValue(t, "caddy_chinaums_watch_oldest_unresolved_seconds", nil)
		}
		if end.amount != nil && unresolved() == 0 { // a closed order that was paid has been canceled
			t.Error("the completion's end was known before anybody told")
		}
		g.notify(number, sandbox.KindGuarantee, 200)
		g.told(end.told, number)
		eventually(t, end.path+" is resolved", func() bool { return unresolved() == 0 })
	}
}

// TestWatchPlaceholders: an inbox's id and order_by have the same value for what a query has found as for its notify. Those of the
// event were empty: the notify that came later was another message.
func TestWatchPlaceholders(t *testing.T) {
	g := startWatched(t, "")
	const option = "retry 20ms\n\t\t"
	with := func(id, order string) []byte {
		return adapt(t, strings.Replace(strings.Replace(g.config, option, option+"id "+id+"\n\t\torder_by "+order+"\n\t\t", 1), "{\n", "{\n\tadmin off\n\tlog {\n\t\toutput test_log "+g.log.id+"\n\t\tformat json\n\t\tlevel DEBUG\n\t}\n", 1))
	}
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	testutil.Released(t, g.address)
	if err := caddy.Load(with("{http.chinaums.merchant}-{http.chinaums.event_type}-{http.chinaums.status}-{http.chinaums.mer_order_id}-{http.chinaums.total_amount}",
		"{http.chinaums.mer_order_id}"), true); err != nil {
		t.Fatal(err)
	}
	number := g.order(nil)
	if err := g.platform.Pay(number); err != nil {
		t.Fatal(err)
	}
	if got := g.told("payment.succeeded", number); got.header.Get("Ce-Evidence") != "query" {
		t.Errorf("%v", got.header)
	}
	id := "shop-com.chinaums.payment.succeeded-TRADE_SUCCESS-" + number + "-1000"
	eventually(t, "a message has the id "+id, func() bool { return len(g.log.lines("request of this process stored", id)) == 1 })
	for _, bad := range []string{"{http.request.uri.query.id}", "{http.request.header.X-Request-Id}", "{http.request.body}", "{http.vars.tenant}"} {
		err := caddy.Load(with("{http.request.header.Ce-Id}"+bad, "{http.request.header.Ce-Subject}"), true)
		if err == nil || !strings.Contains(err.Error(), bad) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// TestWatchLatePaid: an order that the platform had called closed is paid after all. It is told as paid, and somebody is called.
func TestWatchLatePaid(t *testing.T) {
	g := startWatched(t, "orders off") // what a look has found before the close may be written down after it
	number := g.order(nil)
	is := func(state watch.State) func() bool {
		return func() bool {
			o, err := g.watch().Order(t.Context(), "shop", number)
			return err == nil && o.State == state
		}
	}
	eventually(t, "the order's answer is written down", is(watch.Open))
	g.want(g.call("/v1/netpay/close", map[string]any{"merOrderId": number}), 200, "SUCCESS", "answered")
	eventually(t, "the close's answer is written down", is(watch.Closed))
	if err := g.platform.PayClosed(number); err != nil {
		t.Fatal(err)
	}
	g.notify(number, sandbox.KindPayment, 200)
	g.told("payment.succeeded", number)
	if len(g.log.lines(`"level":"error"`, "had called closed was paid", number)) != 1 {
		t.Error("nobody is called")
	}
}

// TestWatchUnavailable: where a line cannot be written, refunds and captures are refused, and orders go on and are counted.
func TestWatchUnavailable(t *testing.T) {
	platform, upstream := startSandbox(t, sandbox.Options{Manual: true})
	keys, address := platform.Options(), freeAddress(t)
	log := startCaddy(t, strings.Replace(merchantOptions(upstream), "\t\t}\n\t}\n", "\t\t}\n\t\twatch {\n\t\t\tstore test_broken\n\t\t}\n\t}\n\tinbox {\n\t\tstore bolt {\n\t\t\tpath "+
		filepath.Join(t.TempDir(), "inbox.db")+"\n\t\t}\n\t}\n", 1)+
		notifySite(address, "chinaums_proxy /v1/netpay/*"))
	g := &watchedGateway{t: t, platform: platform, keys: keys, url: "http://" + address}
	number := g.order(nil)
	for path, code := range map[string]string{
		"/v1/netpay/refund": "GATEWAY_WATCH_UNAVAILABLE", "/v1/netpay/secure-complete": "GATEWAY_WATCH_UNAVAILABLE", "/v1/netpay/secure-cancel": "GATEWAY_WATCH_UNAVAILABLE",
	} {
		a := g.call(path, map[string]any{"merOrderId": number, "refundOrderId": g.number(), "refundAmount": 5, "completedAmount": 5})
		g.want(a, 503, code, "not_sent")
		if a.header.Get("Retry-After") == "" {
			t.Errorf("%s: %v", path, a.header)
		}
	}
	g.want(g.call("/v1/netpay/close", map[string]any{"merOrderId": number}), 200, "SUCCESS", "answered")
	if n := metricValue(t, "caddy_chinaums_watch_unwritten_total", map[string]string{"kind": "order"}); n < 1 {
		t.Errorf("%v orders counted", n)
	}
	if len(log.lines("the watch cannot write a call down", number)) == 0 {
		t.Error("it is not logged")
	}
}

// brokenStore is a store on a full disk.
type brokenStore struct{}

func init() { caddy.RegisterModule(brokenStore{}) }

func (brokenStore) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "watch.stores.test_broken", New: func() caddy.Module { return new(brokenStore) }}
}

func (brokenStore) UnmarshalCaddyfile(*caddyfile.Dispenser) error { return nil }
func (brokenStore) Key(name string) string                        { return name }
func (brokenStore) Open(context.Context, string, *zap.Logger) (watch.Store, error) {
	return brokenStore{}, nil
}
func (brokenStore) Get(context.Context, string) (e watch.Entry, err error) {
	return e, watch.ErrNotFound
}
func (brokenStore) Put(context.Context, string, []byte, uint64) (uint64, error) {
	return 0, errors.New("no space left on device")
}
func (brokenStore) Delete(context.Context, string, uint64) error       { return watch.ErrConflict }
func (brokenStore) All(context.Context, func(watch.Entry) error) error { return nil }
func (brokenStore) Changes(context.Context, func(watch.Entry)) error   { return nil }
func (brokenStore) Shared() bool                                       { return false }
func (brokenStore) Close() error                                       { return nil }

// TestWatchJSON: what only JSON can say wrongly.
func TestWatchJSON(t *testing.T) {
	setKeys(t)
	config := func(watch string) string {
		return `{"admin":{"disabled":true},"apps":{"chinaums":{"merchants":{"shop":{"notify_key":["k"]}},"watch":` + watch + `}}}`
	}
	for watch, want := range map[string]string{
		`{"rat":1}`: `unknown field "rat"`, `{"orders":"of"}`: "orders", `{"orders":[-1]}`: "orders", `{"unknown":[]}`: "unknown", `{"rate":-1}`: "rate",
		`{"refunds":"on"}`: "refunds", `{"amounts":"on"}`: "amounts", `{"store":{"store":"none"}}`: "store", `{"give_up":-5}`: "give_up", `{"keep":-5}`: "keep",
	} {
		if got := loadJSONError(t, config(watch)); !strings.Contains(got, "watch: ") || !strings.Contains(got, want) {
			t.Errorf("%s: %q does not say %q", watch, got, want)
		}
	}
	for _, watch := range []string{"null", "{}", `{"orders":"off"}`, `{"orders":["1m"]}`} {
		if got := loadJSONError(t, config(watch)); got != "" {
			t.Errorf("%s: %s", watch, got)
		}
	}
}

// TestWatchNeedsADelivery: what nobody delivers is not told. A query's event waited in the inbox for ever, and the notify that
// came later was answered SUCCESS without the app.
func TestWatchNeedsADelivery(t *testing.T) {
	platform, upstream := startSandbox(t, sandbox.Options{Manual: true})
	keys, address, directory := platform.Options(), freeAddress(t), t.TempDir()
	app := newMerchantApp(t, func(http.ResponseWriter, *http.Request) {})
	log := startCaddy(t, strings.Replace(merchantOptions(upstream), "\t\t}\n\t}\n", "\t\t}\n\t\twatch {\n\t\t\tstore bolt {\n\t\t\t\tpath "+
		filepath.Join(testutil.Memory(t), "watch.db")+"\n\t\t\t}\n\t\t\trate 500\n\t\t\tunknown 1h\n\t\t\torders 50ms 100ms 200ms 400ms 800ms 1600ms 3s 6s 12s 24s 48s 96s\n\t\t}\n\t}\n\tinbox {\n\t\tstore bolt {\n\t\t\tpath "+
		filepath.Join(directory, "inbox.db")+"\n\t\t}\n\t}\n", 1)+
		notifySite(address, "chinaums_proxy /v1/netpay/*\n\tchinaums_notify /notify\n\treverse_proxy /notify "+app.URL))
	g := &watchedGateway{t: t, platform: platform, keys: keys, url: "http://" + address, app: app, log: log}
	number := g.order(nil)
	if err := platform.Pay(number); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a query finds the payment", func() bool { return len(log.lines("no handler delivers from this inbox")) > 0 })
	g.settled()
	g.notify(number, sandbox.KindPayment, 200)
	if got := app.seen(); len(got) != 1 {
		t.Errorf("the app got %d events", len(got))
	}
}
