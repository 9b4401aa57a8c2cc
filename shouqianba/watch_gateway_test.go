package shouqianba

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
	_ "github.com/caddy-chinaums/caddy-chinaums/inbox/boltstore"
	"github.com/caddy-chinaums/caddy-chinaums/internal/normalize"
	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
	"github.com/caddy-chinaums/caddy-chinaums/internal/testutil"
	"github.com/caddy-chinaums/caddy-chinaums/watch"
	_ "github.com/caddy-chinaums/caddy-chinaums/watch/boltstore"
)

// watchedGateway is a gateway with a watch and an inbox, between a merchant's app and a played platform.
type watchedGateway struct {
	*gateway
	t      *testing.T
	config string

	mu   sync.Mutex
	seen []told
}

// told is an event that the app got.
type told struct {
	header    http.Header
	host, uri string
	body      string
}

const often = "50ms 100ms 200ms 400ms 800ms 1600ms 3s 6s 12s 24s 48s 96s"

// startWatched starts one. Nobody has to wait long for a look; options are further ones of the watch.
func startWatched(t *testing.T, options string) *watchedGateway {
	t.Helper()
	return startWatchedNotify(t, options, "")
}

// startWatchedNotify starts one whose shouqianba_notify has options, too.
func startWatchedNotify(t *testing.T, options, notify string) *watchedGateway {
	t.Helper()
	// The platform sends no notify by itself, and its orders live as long as the test.
	g := &watchedGateway{gateway: startPlatform(t, sandbox.ShouqianbaOptions{OrderLifetime: time.Hour}), t: t}
	g.platform.Break(sandbox.Fault{Kind: sandbox.NoNotify, Times: -1})
	app := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		content, _ := io.ReadAll(r.Body)
		g.mu.Lock()
		defer g.mu.Unlock()
		g.seen = append(g.seen, told{r.Header, r.Host, r.URL.RequestURI(), string(content)})
	}))
	t.Cleanup(app.Close)
	for _, name := range []string{"orders", "unknown"} {
		if !strings.Contains(options, name) {
			options += "\n\t\t\t" + name + " " + often
		}
	}
	directory := t.TempDir()
	block := "\t\twatch {\n\t\t\tstore bolt {\n\t\t\t\tpath " + filepath.Join(testutil.Memory(t), "watch.db") + "\n\t\t\t}\n\t\t\trate 500\n\t\t\t" + options + "\n\t\t}\n"
	config := g.gateway.config(t, g.fixed(), `
	handle_path /long/* {
		shouqianba_guard
		reverse_proxy {
			dynamic shouqianba
			transport shouqianba
		}
	}
	handle_path /twice/* {
		route {
			shouqianba_guard
			shouqianba_proxy
		}
	}
	handle /upay/* {
		shouqianba_proxy
	}
	handle /notify/* {
		shouqianba_notify {
			`+notify+`
		}
		inbox {
			retry 20ms
			deliver {
				reverse_proxy `+app.Listener.Addr().String()+`
			}
		}
	}`)
	g.config = strings.Replace(config, "\t\t}\n\t}\n}\n", "\t\t}\n"+block+"\t}\n\tinbox {\n\t\tstore bolt {\n\t\t\tpath "+filepath.Join(directory, "inbox.db")+
		"\n\t\t}\n\t}\n}\n", 1)
	start(t, g.config)
	return g
}

// call calls an interface with the terminal's number.
func (g *watchedGateway) call(path string, fields map[string]string, headers ...string) answer {
	g.t.Helper()
	all := map[string]string{"terminal_sn": g.options.TerminalSN, "operator": "Obama"}
	for name, value := range fields {
		all[name] = value
	}
	content, _ := json.Marshal(all)
	return post(g.t, g.url(path), string(content), headers...)
}

// want checks what a call became: status, code (the error's, or the business result's) and outcome.
func (g *watchedGateway) want(a answer, status int, code, outcome string) {
	g.t.Helper()
	if a.status != status || !strings.Contains(a.body, `"`+code+`"`) || a.header.Get("Gateway-Outcome") != outcome {
		g.t.Errorf("%d %s, %s; want %d %s, %s", a.status, a.body, a.header.Get("Gateway-Outcome"), status, code, outcome)
	}
}

// order makes an order of 10 yuan.
func (g *watchedGateway) order(number string) {
	g.t.Helper()
	g.want(g.call("/upay/v2/precreate", map[string]string{
		"client_sn": number, "total_amount": "1000", "payway": "3", "subject": "Pizza", "notify_url": g.url("/notify/till"),
	}), 200, "PRECREATE_SUCCESS", "answered")
}

// paid makes an order, has it paid, and waits until the app was told. It returns the platform's number.
func (g *watchedGateway) paid(number string) (sn string) {
	g.t.Helper()
	g.order(number)
	if err := g.platform.Pay(number); err != nil {
		g.t.Fatal(err)
	}
	g.told("payment.succeeded", number)
	return g.books(number).SN
}

// books are what the platform knows of an order.
func (g *watchedGateway) books(number string) sandbox.Order {
	g.t.Helper()
	for _, o := range g.platform.Orders() {
		if o.MerOrderID == number {
			return o
		}
	}
	g.t.Fatalf("the platform has no order %s", number)
	return sandbox.Order{}
}

func (g *watchedGateway) refund(order, refund, amount string, headers ...string) answer {
	g.t.Helper()
	return g.call("/upay/v2/refund", map[string]string{"client_sn": order, "refund_request_no": refund, "refund_amount": amount}, headers...)
}

func (g *watchedGateway) take() []told {
	g.mu.Lock()
	defer g.mu.Unlock()
	seen := g.seen
	g.seen = nil
	return seen
}

// told waits for the next event that the app gets, which has to be this one.
func (g *watchedGateway) told(eventType, order string) told {
	g.t.Helper()
	var got []told
	eventually(g.t, eventType+" of "+order, func() bool {
		got = append(got, g.take()...)
		return len(got) > 0
	})
	if len(got) != 1 || got[0].header.Get("Ce-Type") != "com.shouqianba."+eventType || got[0].header.Get("Ce-Subject") != order {
		g.t.Fatalf("the app was told %+v, want one %s of %s", got, eventType, order)
	}
	eventually(g.t, "it is written down that the app has it", func() bool {
		return !slices.ContainsFunc(g.row(order).Told, func(e *watch.Told) bool { return e.Until != 0 })
	})
	app, err := caddy.ActiveContext().App("inbox")
	if err != nil {
		g.t.Fatal(err)
	}
	eventually(g.t, "it is written down that it is delivered", func() bool { // lest what is told again be taken for what is being delivered
		store, open := app.(*inbox.App).Lookup("default")
		if !open {
			return false
		}
		stats, err := store.Stats(g.t.Context())
		return err == nil && stats.Pending == 0
	})
	return got[0]
}

// notify has the platform send a notify.
func (g *watchedGateway) notify(number string, kind sandbox.Kind, status int) {
	g.t.Helper()
	delivery, err := g.platform.Notify(g.t.Context(), number, kind, sandbox.Genuine)
	if err != nil || delivery.Status != status {
		g.t.Fatalf("%v, %+v, want status %d", err, delivery, status)
	}
}

// silent checks that the app was told nothing more.
func (g *watchedGateway) silent() {
	g.t.Helper()
	if seen := g.take(); len(seen) != 0 {
		g.t.Errorf("told again: %+v", seen)
	}
}

// row is what the watch knows of an order; of one that it does not know nothing.
func (g *watchedGateway) row(number string) *watch.Order {
	g.t.Helper()
	watched, err := activeWatch()
	if err != nil {
		g.t.Fatal(err)
	}
	o, err := watched.Watch().Order(g.t.Context(), "till", number)
	if err != nil && !errors.Is(err, watch.ErrNotFound) {
		g.t.Fatal(err)
	}
	return o
}

// state is an order's state, and those of its calls.
func (g *watchedGateway) state(number string) string {
	g.t.Helper()
	o := g.row(number)
	states := string(o.State)
	for _, c := range o.Calls {
		states += " " + c.Number + "=" + string(c.State)
	}
	return states
}

// finds waits until a query about a call has found a word.
func (g *watchedGateway) finds(number, about, word string) {
	g.t.Helper()
	eventually(g.t, word+" of "+about, func() bool {
		return slices.ContainsFunc(g.row(number).Lines, func(l watch.Line) bool { return l.What == "query" && l.About == about && l.Word == word })
	})
}

// becomes waits until the watch knows this of an order.
func (g *watchedGateway) becomes(number, states string) {
	g.t.Helper()
	eventually(g.t, number+" is "+states, func() bool { return g.state(number) == states })
}

// TestWatchFormat: what a query has found has the format of the notifies.
func TestWatchFormat(t *testing.T) {
	g := startWatchedNotify(t, "", "format cloudevents\n\t\t\tjson subject")
	g.want(g.call("/upay/v2/precreate", map[string]string{
		"client_sn": "A1", "total_amount": "1000", "payway": "3", "subject": `{"room":7}`, "notify_url": g.url("/notify/till"),
	}), 200, "PRECREATE_SUCCESS", "answered")
	if err := g.platform.Pay("A1"); err != nil {
		t.Fatal(err)
	}
	got := g.told("payment.succeeded", "A1")
	var event struct {
		ID, Evidence string

		Data struct {
			Subject struct{ Room int }
		}
	}
	err := json.Unmarshal([]byte(got.body), &event)
	if err != nil || got.header.Get("Content-Type") != "application/cloudevents+json" || event.ID != got.header.Get("Ce-Id") || event.Evidence != "query" ||
		event.Data.Subject.Room != 7 {
		t.Errorf("%v %v\n%s", err, got.header, got.body)
	}
}

// TestWatchNotifyNeverSent: a payment whose notify never comes reaches the app all the same, as what the notify would have
// become; when it comes after all it is acknowledged, and the app is not told twice.
func TestWatchNotifyNeverSent(t *testing.T) {
	g := startWatched(t, "")
	g.order("A1")
	if err := g.platform.Pay("A1"); err != nil {
		t.Fatal(err)
	}
	got := g.told("payment.succeeded", "A1")
	id := factID("payment.succeeded", "sn="+g.books("A1").SN, "client_sn=A1", "order_status=PAID", "total_amount=1000")
	for name, want := range map[string]string{
		"Ce-Id": id, "Ce-Source": "/shouqianba/till", "Ce-Evidence": "query", "Ce-Ordered": "true", "Content-Type": "application/json; charset=utf-8",
	} {
		if got.header.Get(name) != want {
			t.Errorf("%s is %q, want %q", name, got.header.Get(name), want)
		}
	}
	if got.uri != "/notify/till" || got.host != g.address {
		t.Errorf("%s at %s", got.uri, got.host)
	}
	var found, notified map[string]any
	if err := json.Unmarshal([]byte(got.body), &found); err != nil || found["total_amount"] != 1000.0 || found["order_status"] != "PAID" || found["result_code"] != nil {
		t.Errorf("%v: %s", err, got.body)
	}
	g.notify("A1", sandbox.KindPayment, 200)
	g.silent()

	g.order("A2") // the notify comes, and nobody asks
	if err := g.platform.Pay("A2"); err != nil {
		t.Fatal(err)
	}
	g.told("payment.succeeded", "A2")

	notifyOnly := startWatched(t, "orders off")
	notifyOnly.order("A1")
	if err := notifyOnly.platform.Pay("A1"); err != nil {
		t.Fatal(err)
	}
	notifyOnly.notify("A1", sandbox.KindPayment, 200)
	got = notifyOnly.told("payment.succeeded", "A1")
	if got.header.Get("Ce-Evidence") != "notify" || got.header.Get("Ce-Ordered") != "true" {
		t.Errorf("%v", got.header)
	}
	if err := json.Unmarshal([]byte(got.body), &notified); err != nil || len(notified) != len(found) {
		t.Errorf("a notify has %v, a query %v", notified, found)
	}
}

// TestWatchLostRefund: the answer to a refund is lost. A second one with another number is refused while its fate is open; then
// the first turns out to have succeeded, and the app is told. Money goes back once for each refund that was meant.
func TestWatchLostRefund(t *testing.T) {
	for _, long := range []string{"", "/long"} {
		t.Run("by"+long, func(t *testing.T) {
			g := startWatched(t, "")
			sn := g.paid("A1")
			g.platform.Break(sandbox.Fault{Kind: sandbox.Processing, Path: "/upay/v2/refund", Queries: 1000},
				sandbox.Fault{Kind: sandbox.CutExecuted, Path: "/upay/v2/refund"})
			first := map[string]string{"client_sn": "A1", "refund_request_no": "R1", "refund_amount": "600"}
			g.want(g.call(long+"/upay/v2/refund", first), 502, "GATEWAY_BAD_RESPONSE", "unknown")
			a := g.refund("A1", "R2", "600")
			g.want(a, 409, "GATEWAY_REFUND_UNRESOLVED", "not_sent")
			if !strings.Contains(a.body, "R1") {
				t.Errorf("%s does not name what is in the way", a.body)
			}
			// It is no other order where it is called by its other number.
			bySN := map[string]string{"sn": sn, "refund_request_no": "R2", "refund_amount": "600"}
			g.want(g.call(long+"/upay/v2/refund", bySN), 409, "GATEWAY_REFUND_UNRESOLVED", "not_sent")
			bySN["client_sn"] = "another"
			g.want(g.call(long+"/upay/v2/refund/", bySN), 409, "GATEWAY_REFUND_UNRESOLVED", "not_sent")
			for _, path := range []string{"/upay/v2/Refund", "/UPAY/v2/refund", "/upay/v2/refund.json", "/upay/v3/refund", "/upay/v2/re_fund"} {
				g.want(g.call(long+path, bySN), 422, "GATEWAY_INVALID", "not_sent")
			}
			g.want(g.call(long+"/upay/v2/cancel", map[string]string{"client_sn": "A1"}), 409, "GATEWAY_REFUND_UNRESOLVED", "not_sent")
			g.want(g.refund("A1", "R1", "500"), 422, "GATEWAY_INVALID", "not_sent")
			g.want(g.refund("A1", "R1", "600"), 200, "REFUND_ERROR", "answered") // the same again is no second one
			g.silent()
			if err := g.platform.FinishRefund("A1", "SUCCESS"); err != nil {
				t.Fatal(err)
			}
			got := g.told("refund.succeeded", "A1")
			id := factID("refund.succeeded", "sn="+sn, "client_sn=A1", "order_status=PARTIAL_REFUNDED", "refund_request_no=R1")
			if got.header.Get("Ce-Id") != id || got.header.Get("Ce-Evidence") != "query" || !strings.Contains(got.body, `"settlement_amount":600`) {
				t.Errorf("%v %s", got.header, got.body)
			}
			g.notify("A1", sandbox.KindRefund, 200)
			g.silent()
			g.want(g.refund("A1", "R2", "600"), 422, "GATEWAY_INVALID", "not_sent") // more than is left
			g.want(g.refund("A1", "R2", "400"), 200, "REFUND_SUCCESS", "answered")
			g.want(g.call("/upay/v2/revoke", map[string]string{"client_sn": "A1"}), 422, "GATEWAY_INVALID", "not_sent")
			if back := g.books("A1").Returns; len(back) != 2 {
				t.Errorf("money went back %d times: %v", len(back), back)
			}
			g.becomes("A1", "refunded R1=succeeded R2=succeeded")
		})
	}
}

// TestWatchRefusedAndExecuted: the platform says that it has refused a refund, and has made it. Nor is a refund of before the one
// whose answer was lost taken for it.
func TestWatchRefusedAndExecuted(t *testing.T) {
	g := startWatched(t, "")
	g.paid("A1")
	g.platform.Break(sandbox.Fault{Kind: sandbox.RefuseExecuted, Path: "/upay/v2/refund"})
	g.want(g.refund("A1", "R1", "300"), 200, "UNEXPECTED_PROVIDER_ERROR", "answered")
	g.told("refund.succeeded", "A1")
	g.becomes("A1", "refunded_part R1=succeeded")
	g.want(g.refund("A1", "R2", "900"), 422, "GATEWAY_INVALID", "not_sent")

	g.platform.Break(sandbox.Fault{Kind: sandbox.Down, For: time.Hour})
	g.want(g.refund("A1", "R2", "250"), 502, "GATEWAY_BAD_RESPONSE", "unknown")
	g.want(g.refund("A1", "R3", "300"), 409, "GATEWAY_REFUND_UNRESOLVED", "not_sent")
	g.platform.Heal(sandbox.Down)
	g.finds("A1", "R2", "PARTIAL_REFUNDED")
	g.becomes("A1", "refunded_part R1=succeeded R2=unresolved")
	g.want(g.refund("A1", "R3", "200"), 409, "GATEWAY_REFUND_UNRESOLVED", "not_sent")
	g.want(g.refund("A1", "R3", "200", "Gateway-Guard-Override: R2"), 200, "REFUND_SUCCESS", "answered")
	g.silent()
}

// TestWatchFailedRefund: the platform began with a refund and gave it up. Only then another one may go out. The app is told, as
// nothing differs from what was ordered: with amounts reject it once was not.
func TestWatchFailedRefund(t *testing.T) {
	g := startWatched(t, "amounts reject")
	g.paid("A1")
	g.platform.Break(sandbox.Fault{Kind: sandbox.Processing, Path: "/upay/v2/refund", Queries: 1000})
	g.want(g.refund("A1", "R1", "600"), 200, "REFUND_ERROR", "answered")
	g.want(g.refund("A1", "R2", "600"), 409, "GATEWAY_REFUND_UNRESOLVED", "not_sent")
	g.finds("A1", "R1", "REFUND_ERROR")
	if err := g.platform.FinishRefund("A1", "FAIL"); err != nil {
		t.Fatal(err)
	}
	if got := g.told("refund.failed", "A1"); got.header.Get("Ce-Evidence") != "query" || got.header.Get("Ce-Ordered") != "true" || !strings.Contains(got.body, `"R1"`) {
		t.Errorf("%v %s", got.header, got.body)
	}
	g.want(g.refund("A1", "R2", "600"), 200, "REFUND_SUCCESS", "answered")
	if back := g.books("A1").Returns; len(back) != 1 {
		t.Errorf("money went back %d times", len(back))
	}
}

// TestWatchRefundNeverArrived: a refund that the platform shows no sign of is not taken for failed, however often it is asked. Nor
// does an answer that says that the order is still paid differ from what was ordered: an ERROR once said so.
func TestWatchRefundNeverArrived(t *testing.T) {
	g := startWatched(t, "")
	g.paid("A1")
	g.platform.Break(sandbox.Fault{Kind: sandbox.Cut, Path: "/upay/v2/refund"})
	g.want(g.refund("A1", "R1", "600"), 502, "GATEWAY_BAD_RESPONSE", "unknown")
	asked := len(g.platform.Calls())
	eventually(t, "the platform was asked three times", func() bool { return len(g.platform.Calls()) >= asked+3 })
	g.want(g.refund("A1", "R2", "600"), 409, "GATEWAY_REFUND_UNRESOLVED", "not_sent")
	g.becomes("A1", "paid R1=unresolved")
	if g.row("A1").Differs {
		t.Error("the order differs from what was ordered")
	}
	g.want(g.refund("A1", "R1", "600"), 200, "REFUND_SUCCESS", "answered") // with the same number it may go
	g.becomes("A1", "refunded_part R1=succeeded")
}

// TestWatchRefundElsewhere: somebody gives money back at the platform's own page, just as much. It is not taken for the refund
// whose answer was lost, once it is known.
func TestWatchRefundElsewhere(t *testing.T) {
	g := startWatched(t, "")
	g.paid("A1")
	own, err := g.platform.Refund("A1", 300)
	if err != nil {
		t.Fatal(err)
	}
	g.notify("A1", sandbox.KindRefund, 200)
	g.told("refund.succeeded", "A1")
	g.platform.Break(sandbox.Fault{Kind: sandbox.Cut, Path: "/upay/v2/refund"})
	g.want(g.refund("A1", "R1", "300"), 502, "GATEWAY_BAD_RESPONSE", "unknown")
	g.want(g.refund("A1", "R2", "300"), 409, "GATEWAY_REFUND_UNRESOLVED", "not_sent")
	g.becomes("A1", "refunded_part "+own+"=succeeded R1=unresolved")
	g.silent()
}

// TestWatchRefundWithoutNumber: a notify tells of a refund and does not say of which. What is left of the order was not known, so that
// more was sent, and the refund made elsewhere was taken for the one of that amount whose answer was lost: the app was told that it had
// succeeded.
func TestWatchRefundWithoutNumber(t *testing.T) {
	g := startWatched(t, "unknown 1h")
	notify := func(number, sn, net string) {
		t.Helper()
		body := `{"sn":"` + sn + `","client_sn":"` + number + `","client_tsn":"` + number + `-1","status":"SUCCESS","order_status":"PARTIAL_REFUNDED",` +
			`"total_amount":"1000","net_amount":"` + net + `","terminal_sn":"` + g.options.TerminalSN + `"}`
		if a := post(t, g.url("/notify/till"), body, "Authorization: "+signed(t, body)); a.status != 200 || a.body != "success" {
			t.Fatalf("%d %s", a.status, a.body)
		}
		if got := g.told("refund.succeeded", number); got.header.Get("Ce-Evidence") != "notify" {
			t.Errorf("%v", got.header)
		}
	}
	sn := g.paid("A1")
	if _, err := g.platform.Refund("A1", 300); err != nil {
		t.Fatal(err)
	}
	notify("A1", sn, "700")
	g.want(g.refund("A1", "R0", "701"), 422, "GATEWAY_INVALID", "not_sent")
	g.platform.Break(sandbox.Fault{Kind: sandbox.Cut, Path: "/upay/v2/refund"})
	g.want(g.refund("A1", "R1", "300"), 502, "GATEWAY_BAD_RESPONSE", "unknown")
	g.want(g.refund("A1", "R2", "300"), 409, "GATEWAY_REFUND_UNRESOLVED", "not_sent")
	g.becomes("A1", "refunded_part R1=unresolved")
	g.silent()

	// While a refund of the app's own is open, it may be the one that the notify tells of. The platform says so when it is asked.
	sn = g.paid("A2")
	g.platform.Break(sandbox.Fault{Kind: sandbox.CutExecuted, Path: "/upay/v2/refund"})
	g.want(g.refund("A2", "R1", "600"), 502, "GATEWAY_BAD_RESPONSE", "unknown")
	notify("A2", sn, "400")
	g.becomes("A2", "refunded_part R1=unresolved")
	eventually(t, "R1 is known, and R2 is more than is left", func() bool { return g.refund("A2", "R2", "500").status == 422 })
	if got := g.told("refund.succeeded", "A2"); got.header.Get("Ce-Evidence") != "query" || !strings.Contains(got.body, `"R1"`) {
		t.Errorf("%v %s", got.header, got.body)
	}
	g.becomes("A2", "refunded_part R1=succeeded")
}

// TestWatchGuardBehindGuard: where two guards stand in one chain, the guard behind took the refund of the one in front for another one
// on its way, and each was answered 409 GATEWAY_BUSY.
func TestWatchGuardBehindGuard(t *testing.T) {
	g := startWatched(t, "unknown 1h")
	sn := g.paid("A1")
	first := map[string]string{"sn": sn, "refund_request_no": "R1", "refund_amount": "300"}
	g.want(g.call("/twice/upay/v2/refund", first), 200, "REFUND_SUCCESS", "answered")
	g.becomes("A1", "refunded_part R1=succeeded")
	g.platform.Break(sandbox.Fault{Kind: sandbox.CutExecuted, Path: "/upay/v2/refund"})
	second := map[string]string{"client_sn": "A1", "refund_request_no": "R2", "refund_amount": "300"}
	g.want(g.call("/twice/upay/v2/refund", second), 502, "GATEWAY_BAD_RESPONSE", "unknown")
	g.becomes("A1", "refunded_part R1=succeeded R2=unresolved")
	if back := g.books("A1").Returns; len(back) != 2 {
		t.Errorf("money went back %d times", len(back))
	}
}

// TestWatchResend: the app is told again of a payment and its refunds, as they were. A refund that was known to have succeeded was
// told as failed, because it counted among what had been given back before it.
func TestWatchResend(t *testing.T) {
	g := startWatched(t, "")
	sn := g.paid("A1")
	g.platform.Break(sandbox.Fault{Kind: sandbox.Processing, Path: "/upay/v2/refund", Queries: 1000})
	g.want(g.refund("A1", "R1", "600"), 200, "REFUND_ERROR", "answered")
	g.finds("A1", "R1", "REFUND_ERROR")
	if err := g.platform.FinishRefund("A1", "SUCCESS"); err != nil {
		t.Fatal(err)
	}
	first := g.told("refund.succeeded", "A1").header.Get("Ce-Id")
	g.want(g.refund("A1", "R2", "400"), 200, "REFUND_SUCCESS", "answered")
	g.becomes("A1", "refunded R1=succeeded R2=succeeded")
	watched, err := activeWatch()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watched.Watch().Resend(t.Context(), "till", "A1"); err != nil {
		t.Fatal(err)
	}
	ids := map[string]string{
		factID("refund.succeeded", "sn="+sn, "client_sn=A1", "order_status=PARTIAL_REFUNDED", "refund_request_no=R1"): "R1",
		factID("refund.succeeded", "sn="+sn, "client_sn=A1", "order_status=REFUNDED", "refund_request_no=R2"):         "R2",
	}
	if ids[first] != "R1" {
		t.Errorf("R1 was told as %s", first)
	}
	var got []told
	eventually(t, "both refunds are told", func() bool {
		got = append(got, g.take()...)
		return len(got) >= len(ids)
	})
	for _, e := range got {
		if number := ids[e.header.Get("Ce-Id")]; number == "" || !strings.Contains(e.body, `"`+number+`"`) {
			t.Errorf("told %v %s", e.header, e.body)
		}
		delete(ids, e.header.Get("Ce-Id"))
	}
	if len(ids) != 0 {
		t.Errorf("not told: %v", ids)
	}
	g.becomes("A1", "refunded R1=succeeded R2=succeeded")
}

// TestWatchCancel: a cancel gives back a paid order, so that it counts as a refund of the whole, also where its answer is lost.
func TestWatchCancel(t *testing.T) {
	g := startWatched(t, "")
	for number, path := range map[string]string{"A1": "/upay/v2/cancel", "A2": "/upay/v2/revoke"} {
		sn := g.paid(number)
		g.platform.Break(sandbox.Fault{Kind: sandbox.Processing, Path: path, Queries: 1000}, sandbox.Fault{Kind: sandbox.CutExecuted, Path: path})
		g.want(g.call(path, map[string]string{"client_sn": number}), 502, "GATEWAY_BAD_RESPONSE", "unknown")
		g.want(g.refund(number, "R1", "100"), 409, "GATEWAY_REFUND_UNRESOLVED", "not_sent")
		if err := g.platform.FinishRefund(number, "SUCCESS"); err != nil {
			t.Fatal(err)
		}
		got := g.told("payment.closed", number)
		if got.header.Get("Ce-Id") != factID("payment.closed", "sn="+sn, "client_sn="+number, "order_status=CANCELED", "total_amount=1000") {
			t.Errorf("%v", got.header)
		}
		g.want(g.refund(number, "R1", "100"), 422, "GATEWAY_INVALID", "not_sent")
		g.becomes(number, "refunded "+strings.TrimPrefix(path, "/upay/v2/")+"=succeeded")
		if back := g.books(number).Returns; len(back) != 1 || back[0].Amount != 1000 {
			t.Errorf("%s: %v", number, back)
		}
	}
	g.paid("A3") // one that fails gives nothing back
	g.platform.Break(sandbox.Fault{Kind: sandbox.Processing, Path: "/upay/v2/cancel", Queries: 1000})
	g.want(g.call("/upay/v2/cancel", map[string]string{"client_sn": "A3"}), 200, "CANCEL_ERROR", "answered")
	g.want(g.refund("A3", "R1", "100"), 409, "GATEWAY_REFUND_UNRESOLVED", "not_sent")
	g.finds("A3", "cancel", "CANCEL_ERROR")
	if err := g.platform.FinishRefund("A3", "FAIL"); err != nil {
		t.Fatal(err)
	}
	g.becomes("A3", "paid cancel=failed")
	g.want(g.refund("A3", "R1", "100"), 200, "REFUND_SUCCESS", "answered")

	g.order("A4") // unpaid: it is closed, and the app has the answer
	g.becomes("A4", "open")
	g.want(g.call("/upay/v2/cancel", map[string]string{"client_sn": "A4"}), 200, "CANCEL_SUCCESS", "answered")
	g.becomes("A4", "closed cancel=succeeded")
	g.silent()
	if err := g.platform.PayClosed("A4"); err != nil {
		t.Fatal(err)
	}
	g.notify("A4", sandbox.KindPayment, 200)
	g.told("payment.succeeded", "A4")
	if len(log.lines(`"level":"error"`, "had called closed was paid", "A4")) != 1 {
		t.Error("nobody is called")
	}
}

// TestWatchPayError: PAY_ERROR is no end. The order is paid after all, or the platform says at last that it is canceled; the app,
// which could not know, is told.
func TestWatchPayError(t *testing.T) {
	g := startWatched(t, "")
	for number, status := range map[string]string{"B1": "SUCCESS", "B2": "FAIL"} {
		pay := map[string]string{"client_sn": number, "total_amount": "500", "dynamic_id": "13", "subject": "s", "notify_url": g.url("/notify/till")}
		g.platform.Break(sandbox.Fault{Kind: sandbox.Processing, Path: "/upay/v2/pay", Queries: 1000})
		g.want(g.call("/upay/v2/pay", pay), 200, "PAY_FAIL_ERROR", "answered")
		asked := len(g.platform.Calls())
		eventually(t, "the platform was asked", func() bool { return len(g.platform.Calls()) > asked })
		g.becomes(number, "sent")
		if err := g.platform.FinishRefund(number, status); err != nil {
			t.Fatal(err)
		}
		if status == "SUCCESS" {
			g.told("payment.succeeded", number)
			g.becomes(number, "paid")
		} else {
			g.told("payment.closed", number)
			g.becomes(number, "closed")
		}
	}
	// The answer is lost, and the payment was made.
	g.platform.Break(sandbox.Fault{Kind: sandbox.CutExecuted, Path: "/upay/v2/pay"})
	g.want(g.call("/upay/v2/pay", map[string]string{"client_sn": "B3", "total_amount": "500", "dynamic_id": "13", "subject": "s"}), 502, "GATEWAY_BAD_RESPONSE", "unknown")
	if got := g.told("payment.succeeded", "B3"); got.uri != "/notify" {
		t.Errorf("told at %s", got.uri)
	}
}

// TestWatchRestart: the gateway ends between the line and the answer. What was written down and has no outcome is unknown at the
// next start, and is followed.
func TestWatchRestart(t *testing.T) {
	g := startWatched(t, "")
	g.paid("A1")
	g.platform.Break(sandbox.Fault{Kind: sandbox.OtherOrder, Times: -1}, sandbox.Fault{Kind: sandbox.CutExecuted, Path: "/upay/v2/refund"})
	g.want(g.refund("A1", "R1", "300"), 502, "GATEWAY_BAD_RESPONSE", "unknown")
	g.want(g.refund("A1", "R2", "300"), 409, "GATEWAY_REFUND_UNRESOLVED", "not_sent")
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	g.platform.Heal(sandbox.OtherOrder)
	load(t, g.config)
	g.told("refund.succeeded", "A1")
	g.becomes("A1", "refunded_part R1=succeeded")
}

// TestWatchGuardReadsForCertain: what a money call is about has to be plain. Each of these could be a second refund that the guard
// does not see.
func TestWatchGuardReadsForCertain(t *testing.T) {
	sn := `"terminal_sn":"%s","operator":"o",`
	bodies := map[string]string{
		"no object": `["client_sn"]`, "broken": `{` + sn + `"client_sn":"A1","refund_request_no":"R2","refund_amount":"100"`,
		"a float":                `{` + sn + `"client_sn":"A1","refund_request_no":"R2","refund_amount":"100.0"}`,
		"a float number":         `{` + sn + `"client_sn":"A1","refund_request_no":"R2","refund_amount":100.0}`,
		"an exponent":            `{` + sn + `"client_sn":"A1","refund_request_no":"R2","refund_amount":1e2}`,
		"a sign":                 `{` + sn + `"client_sn":"A1","refund_request_no":"R2","refund_amount":"+100"}`,
		"a space":                `{` + sn + `"client_sn":"A1 ","refund_request_no":"R2","refund_amount":"100"}`,
		"nothing":                `{` + sn + `"client_sn":"A1","refund_request_no":"R2","refund_amount":"0"}`,
		"no amount":              `{` + sn + `"client_sn":"A1","refund_request_no":"R2"}`,
		"no number":              `{` + sn + `"client_sn":"A1","refund_amount":"100"}`,
		"an empty number":        `{` + sn + `"client_sn":"A1","refund_request_no":"","refund_amount":"100"}`,
		"no order":               `{` + sn + `"refund_request_no":"R2","refund_amount":"100"}`,
		"an order that is null":  `{` + sn + `"client_sn":null,"refund_request_no":"R2","refund_amount":"100"}`,
		"an order in an array":   `{` + sn + `"client_sn":["A1"],"refund_request_no":"R2","refund_amount":"100"}`,
		"two orders":             `{` + sn + `"client_sn":"A2","client_sn":"A1","refund_request_no":"R2","refund_amount":"100"}`,
		"a name in capitals":     `{` + sn + `"client_sn":"A1","refund_request_no":"R2","Refund_Amount":"100"}`,
		"two names for a number": `{` + sn + `"client_sn":"A1","refund_request_no":"R1","REFUND_REQUEST_NO":"R2","refund_amount":"100"}`,
		"the watch's own name":   `{` + sn + `"client_sn":"sn:1","refund_request_no":"R2","refund_amount":"100"}`, // it was followed as the order of that sn
		"an sn nobody knows":     `{` + sn + `"sn":"1","refund_request_no":"R2","refund_amount":"100"}`,
	}
	g := startWatched(t, "")
	g.paid("A1")
	for name, body := range bodies {
		if strings.Contains(body, "%s") {
			body = fmt.Sprintf(body, g.options.TerminalSN)
		}
		a := post(t, g.url("/upay/v2/refund"), body)
		if a.status != 422 || !strings.Contains(a.body, "GATEWAY_INVALID") || a.header.Get("Gateway-Outcome") != "not_sent" {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	for _, c := range g.platform.Calls() {
		if c.Path == "/upay/v2/refund" {
			t.Errorf("the platform got %s", c.Body)
		}
	}
	g.platform.Break(sandbox.Fault{Kind: sandbox.Cut, Path: queryPath, Times: -1})
	// The platform cannot be asked which order it is: nothing goes out, and the same call may go later.
	g.want(g.call("/upay/v2/refund", map[string]string{"sn": "123", "refund_request_no": "R2", "refund_amount": "100"}), 503, "GATEWAY_WATCH_UNAVAILABLE", "not_sent")

	warned := startWatched(t, "refunds warn")
	a := post(t, warned.url("/upay/v2/refund"), fmt.Sprintf(bodies["a float"], warned.options.TerminalSN))
	if a.header.Get("Gateway-Outcome") != "answered" || len(log.lines("the watch would refuse this refund", "refund_amount of this money call")) != 1 {
		t.Errorf("%d %s", a.status, a.body)
	}
}

// TestWatchOrdered: an order that nobody here has seen, and a notify that does not say what was ordered.
func TestWatchOrdered(t *testing.T) {
	g := startWatched(t, "orders off")
	notify := func(number, total string) {
		t.Helper()
		body := `{"client_sn":"` + number + `","order_status":"PAID","status":"SUCCESS","total_amount":"` + total + `","terminal_sn":"` + g.options.TerminalSN + `"}`
		if a := post(t, g.url("/notify/till"), body, "Authorization: "+signed(t, body)); a.status != 200 {
			t.Errorf("%d %s", a.status, a.body)
		}
	}
	g.order("A1")
	for number, want := range map[string]string{"A1": "differs", "A9": "unseen"} {
		notify(number, "1")
		if got := g.told("payment.succeeded", number); got.header.Get("Ce-Ordered") != want {
			t.Errorf("%s: %v", number, got.header)
		}
	}
	if a := g.refund("A8", "R1", "5"); a.header.Get("Gateway-Guard") != "unseen" {
		t.Errorf("%v", a.header)
	}
}

// TestWatchAdmin: the orders are found where those of the other platform are.
func TestWatchAdmin(t *testing.T) {
	g := startWatched(t, "")
	address := freeAddress(t)
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	testutil.Released(t, g.address)
	adapted, err := adaptOrError(strings.Replace(withTestLog(g.config), "admin off", "admin "+address, 1))
	if err != nil {
		t.Fatal(err)
	}
	if err := caddy.Load(adapted, true); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { load(t, g.config) }) // the other tests' Caddys have no admin API
	g.paid("A1")
	for path, want := range map[string]string{
		"/shouqianba/orders": `"order":"A1"`, "/shouqianba/orders/till/A1": `"state":"paid"`, "/shouqianba/orders/till/A2": "404",
		"/shouqianba/": "404", "/shouqianba/orders?state=x": "400",
		"/shouqianba/reconcile?day=" + time.UnixMilli(g.row("A1").PaidAt).In(normalize.Beijing).Format(time.DateOnly): `"paid_without_notify":1`,
	} {
		if a := send(t, http.MethodGet, "http://"+address+path, ""); !strings.Contains(fmt.Sprint(a.status, a.body), want) {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	if a := send(t, http.MethodPost, "http://"+address+"/shouqianba/orders/till/A1/resend", ""); a.status != 200 {
		t.Errorf("%d %s", a.status, a.body)
	}
	g.told("payment.succeeded", "A1")
}

// TestWatchGuardAtOnce: many refunds of one order come at once, under both of its numbers and with numbers of their own. The platform
// gets one of them before its end is known.
func TestWatchGuardAtOnce(t *testing.T) {
	g := startWatched(t, "")
	sn := g.paid("A1")
	g.platform.Break(sandbox.Fault{Kind: sandbox.Processing, Path: "/upay/v2/refund", Queries: 1000})
	var group sync.WaitGroup
	for i := range 12 {
		group.Go(func() {
			fields := map[string]string{"refund_request_no": fmt.Sprintf("R%d", i), "refund_amount": "300"}
			if i%3 != 0 {
				fields["sn"] = sn
			}
			if i%3 != 1 {
				fields["client_sn"] = "A1"
			}
			g.call([]string{"/upay/v2/refund", "/long/upay/v2/refund", "/upay/v2/refund"}[i%3], fields)
		})
	}
	group.Wait()
	sent := 0
	for _, c := range g.platform.Calls() {
		if strings.Contains(c.Path, "refund") {
			sent++
		}
	}
	if o := g.row("A1"); sent != 1 || len(o.Calls) != 1 {
		t.Errorf("%d refunds were sent: %+v", sent, o.Calls)
	}
}

// TestWatchPathOfCall: a path that was longer than it had to be stood in the row as it came, up to a megabyte for each refund.
func TestWatchPathOfCall(t *testing.T) {
	g := startWatched(t, "")
	g.paid("A1")
	g.call("/upay/v2/"+strings.Repeat("./", 10_000)+"refund", map[string]string{"client_sn": "A1", "refund_request_no": "R1", "refund_amount": "300"})
	var calls []string
	for _, c := range g.row("A1").Calls {
		calls = append(calls, c.Path)
	}
	if len(calls) != 1 || calls[0] != "/upay/v2/refund" {
		t.Errorf("%.400v", calls)
	}
}
