package shouqianba

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/internal/inbound"
	"github.com/caddy-chinaums/caddy-chinaums/internal/outbound"
	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
)

// stopClock stops the clock by which orders are asked about once a minute, and returns what moves it.
func stopClock(t testing.TB) (pass func(time.Duration)) {
	t.Helper()
	var passed atomic.Int64
	now := time.Now()
	confirming.now = func() time.Time { return now.Add(time.Duration(passed.Load())) }
	t.Cleanup(func() { confirming.now = time.Now })
	return func(d time.Duration) { passed.Add(int64(d)) }
}

// TestConfirm: what a rightly signed notify says, and what the platform says when it is asked.
func TestConfirm(t *testing.T) {
	g := startPlatform(t, sandbox.ShouqianbaOptions{})
	var confirmed string
	pass := stopClock(t)
	app := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { confirmed = r.Header.Get("Ce-Confirmed") }))
	t.Cleanup(app.Close)
	start(t, g.config(t, g.fixed(), "handle /notify {\nshouqianba_notify {\nconfirm\ntimeout 5s\n}\nreverse_proxy "+app.Listener.Addr().String()+"\n}\nhandle {\nshouqianba_proxy\n}"))

	asked := func() (count int) {
		for _, c := range g.platform.Calls() {
			if c.Path == queryPath {
				count++
			}
		}
		return count
	}
	for _, number := range []string{"new", "paid", "refunded"} {
		if a := post(t, g.url("/upay/v2/precreate"), call(g.options.TerminalSN, fmt.Sprintf(order, number))); !strings.Contains(a.body, "PRECREATE_SUCCESS") {
			t.Fatalf("precreate: %s", a.body)
		}
	}
	for _, number := range []string{"paid", "refunded"} {
		if err := g.platform.Pay(number); err != nil {
			t.Fatal(err)
		}
	}
	for i, amount := range []string{"30", "50"} {
		a := post(t, g.url("/upay/v2/refund"), call(g.options.TerminalSN, fmt.Sprintf(`"client_sn":"refunded","refund_request_no":"%d","operator":"o","refund_amount":"%s"`, i, amount)))
		if !strings.Contains(a.body, "REFUND_SUCCESS") {
			t.Fatalf("refund: %s", a.body)
		}
	}
	notify := func(number, status, total, net string) string {
		return fmt.Sprintf(`{"client_sn":"%s","order_status":"%s","status":"SUCCESS","total_amount":"%s","net_amount":"%s"}`, number, status, total, net)
	}
	for _, test := range []struct {
		name, body string
		fault      *sandbox.Fault
		status     int
		confirmed  string
		reason     string
	}{
		{name: "as it is", body: notify("paid", "PAID", "100", "100"), status: 200, confirmed: "true"},
		{name: "a refund as it is", body: notify("refunded", "PARTIAL_REFUNDED", "100", "20"), status: 200, confirmed: "true"},
		{name: "an earlier state", body: notify("refunded", "PAID", "100", "100"), status: 200, confirmed: "superseded"},
		{name: "an earlier part", body: notify("refunded", "PARTIAL_REFUNDED", "100", "70"), status: 200, confirmed: "superseded"},
		{name: "a part that was not refunded", body: notify("refunded", "PARTIAL_REFUNDED", "100", "10"), status: 409, reason: inbound.ReasonContradicted},
		{name: "paid, but it is not", body: notify("new", "PAID", "100", "100"), status: 409, reason: inbound.ReasonContradicted},
		{name: "refunded, but it is not", body: notify("paid", "REFUNDED", "100", "0"), status: 409, reason: inbound.ReasonContradicted},
		{name: "another amount", body: notify("paid", "PAID", "1", "1"), status: 409, reason: inbound.ReasonContradicted},
		{name: "another net amount", body: notify("paid", "PAID", "100", "99"), status: 409, reason: inbound.ReasonContradicted},
		{name: "another merchant's order", body: notify("theirs", "PAID", "100", "100"), status: 409, reason: inbound.ReasonContradicted},
		{name: "another sn", body: strings.Replace(notify("paid", "PAID", "100", "100"), "{", `{"sn":"1",`, 1), status: 409, reason: inbound.ReasonContradicted},
		{name: "no number", body: `{"order_status":"PAID","total_amount":"100"}`, status: 503, reason: inbound.ReasonNotComparable},
		{name: "no amount", body: `{"client_sn":"paid","order_status":"PAID"}`, status: 503, reason: inbound.ReasonNotComparable},
		{name: "no state", body: `{"client_sn":"paid","total_amount":"100"}`, status: 503, reason: inbound.ReasonNotComparable},
		{name: "cut", body: notify("paid", "PAID", "100", ""), fault: &sandbox.Fault{Kind: sandbox.Cut}, status: 503, reason: inbound.ReasonNotAnswered},
		{name: "an error page", body: `{"client_sn":"paid","order_status":"PAID","total_amount":"100","refund_request_no":"1"}`, fault: &sandbox.Fault{Kind: sandbox.ServerError}, status: 503, reason: inbound.ReasonNotAnswered},
		{name: "refused", body: `{"client_sn":"paid","order_status":"PAID","total_amount":"100","refund_request_no":"2"}`, fault: &sandbox.Fault{Kind: sandbox.Refuse}, status: 503, reason: inbound.ReasonNotAnswered},
	} {
		t.Run(test.name, func(t *testing.T) {
			confirmed = ""
			pass(time.Minute) // a question of its own
			if test.fault != nil {
				g.platform.Break(*test.fault)
			}
			a := post(t, g.url("/notify"), test.body, "Authorization: "+signed(t, test.body))
			if a.status != test.status || a.body != map[bool]string{true: "success", false: "fail"}[test.status == 200] || confirmed != test.confirmed {
				t.Errorf("answer: %d %s, confirmed %q", a.status, a.body, confirmed)
			}
			if test.reason != "" && len(log.lines("notify rejected", `"reason":"`+test.reason+`"`)) == 0 {
				t.Errorf("the reason %s is not logged", test.reason)
			}
		})
	}

	send := func(body string, status int) {
		t.Helper()
		if a := post(t, g.url("/notify"), body, "Authorization: "+signed(t, body)); a.status != status {
			t.Errorf("answer: %d, want %d", a.status, status)
		}
	}
	t.Run("asked once a minute", func(t *testing.T) {
		pass(time.Minute)
		before := asked()
		send(notify("paid", "PAID", "100", "100"), 200)
		for i := range 5 { // the same order, whatever else is said of it
			send(strings.Replace(notify("paid", "PAID", "100", ""), "{", fmt.Sprintf(`{"client_tsn":"%d",`, i), 1), 200)
		}
		if n := asked() - before; n != 1 {
			t.Errorf("asked %d times, want 1", n)
		}
	})
	t.Run("what has happened since", func(t *testing.T) {
		// The answer is older than the notify: that is no contradiction.
		a := post(t, g.url("/upay/v2/refund"), call(g.options.TerminalSN, `"client_sn":"paid","refund_request_no":"9","operator":"o","refund_amount":"100"`))
		if !strings.Contains(a.body, "REFUND_SUCCESS") {
			t.Fatalf("refund: %s", a.body)
		}
		before := asked()
		refunded := notify("paid", "REFUNDED", "100", "0")
		send(refunded, 503)
		if asked() != before || len(log.lines(`"reason":"not_answered"`, "is not asked again within a minute")) != 1 {
			t.Errorf("asked %d times", asked()-before)
		}
		pass(time.Minute)
		send(refunded, 200)
		pass(time.Minute)
		send(notify("paid", "PARTIAL_REFUNDED", "100", "0"), 200)
		if asked() != before+2 {
			t.Errorf("asked %d times", asked()-before)
		}
	})
	t.Run("five in a second", func(t *testing.T) {
		pass(time.Minute)
		before := asked()
		for i := range 5 {
			send(notify(fmt.Sprint("none", i), "PAID", "100", "100"), 409)
		}
		if n := asked() - before; n != 5 {
			t.Errorf("asked %d times", n)
		}
		event := mustEvent(t, notify("none5", "PAID", "100", "100"))
		till := &terminal{name: "till", endpoint: outbound.Endpoint{Scheme: "http", Host: g.upstream.Listener.Addr().String()}}
		if _, rejected := confirming.confirm(till, &event, time.Second); rejected == nil || rejected.Reason != inbound.ReasonNotAnswered || asked() != before+5 {
			t.Errorf("a sixth: %+v, asked %d times", rejected, asked()-before)
		}
	})
	t.Run("a false one is not asked about", func(t *testing.T) {
		before := asked()
		if a := post(t, g.url("/notify"), notify("new", "PAID", "5", "5"), "Authorization: x"); a.status != 403 || asked() != before {
			t.Errorf("answer: %d, asked %d times", a.status, asked()-before)
		}
	})
}

// TestAnswerWithoutTheNumber: an answer that does not say which order it is about contradicts nothing. It was taken for the
// answer about another order: 409 instead of 503.
func TestAnswerWithoutTheNumber(t *testing.T) {
	event := mustEvent(t, `{"sn":"7890","client_sn":"paid","order_status":"PAID","total_amount":"100"}`)
	for _, missing := range []string{"sn", "client_sn"} {
		answer, err := readAnswer([]byte(`{"result_code":"200","biz_response":{"result_code":"SUCCESS","data":{
			"sn":"7890","client_sn":"paid","order_status":"PAID","total_amount":"100"}}}`))
		if err != nil {
			t.Fatal(err)
		}
		delete(answer.data, missing)
		if _, err := answer.compare(&event); !errors.Is(err, inbound.ErrNotComparable) || !strings.Contains(err.Error(), missing+" is missing") {
			t.Errorf("without %s: %v", missing, err)
		}
	}
}

func TestConfirmNeedsAKey(t *testing.T) {
	g := startPlatform(t, sandbox.ShouqianbaOptions{})
	got := loadError(t, "{\nshouqianba {\nterminal till {\npublic_key {env.SQB_PUBLIC_KEY}\n}\n}\n}\nhttp://"+g.address+" {\nshouqianba_notify {\nconfirm\n}\n}\n")
	if !strings.Contains(got, "terminal till: terminal_sn and terminal_key are missing") {
		t.Errorf("error: %s", got)
	}
}

// TestConfirmAsksOnce: many notifies of one event at a time are one question, and a minute later it is asked again.
func TestConfirmAsksOnce(t *testing.T) {
	p := play(t, sandbox.ShouqianbaOptions{})
	till := &terminal{name: "till", endpoint: p.owner(nil).endpoint, fixed: &credential{sn: p.platform.Options().TerminalSN, key: p.platform.Options().TerminalKey}}
	c := newConfirmer()
	c.now = p.clock.Now
	event := mustEvent(t, `{"client_sn":"none","order_status":"PAID","total_amount":"1"}`)
	var fresh atomic.Int32
	for _, minute := range []string{"12:00:00", "12:00:59", "12:01:00"} {
		p.clock.set("2026-11-24 " + minute)
		var group sync.WaitGroup
		for range 20 {
			group.Go(func() {
				_, rejected := c.confirm(till, &event, time.Minute)
				switch {
				case rejected != nil && rejected.Reason == inbound.ReasonContradicted:
					fresh.Add(1)
				case rejected == nil || rejected.Reason != inbound.ReasonNotAnswered:
					t.Errorf("rejected: %+v", rejected)
				}
			})
		}
		group.Wait()
	}
	if asked := p.calls(queryPath); asked != 2 || fresh.Load() != 2 {
		t.Errorf("asked %d times, want 2; contradicted %d", asked, fresh.Load())
	}
}
