package watch_test

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/watch"
	"github.com/caddy-chinaums/caddy-chinaums/watch/storetest"
)

const day = 24 * time.Hour

// inTime runs a test with time that passes as soon as nobody has anything to do.
func inTime(t *testing.T, change func(*watch.Settings), run func(t *testing.T, g *gateway)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		g := newGateway(t, change)
		defer g.Close()
		run(t, g)
	})
}

// after lets time pass, until nothing of what it brings is going on.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// TestNotifyNeverComes: a payment whose notify is lost reaches the app at the next look, once, and nobody asks again.
func TestNotifyNeverComes(t *testing.T) {
	inTime(t, nil, func(t *testing.T, g *gateway) {
		g.ordered("A1", 100)
		after(90 * time.Second)
		g.bank.order("A1", watch.IsPaid, 100)
		after(45 * time.Second)
		if g.state("A1") != watch.Paid || g.mailbox.times("A1 paid") != 1 || g.count("found payment.paid") != 1 {
			t.Fatalf("%s, told %d times", g.state("A1"), g.mailbox.times("A1 paid"))
		}
		if e := g.mailbox.got("A1 paid"); e.Ordered != watch.OrderedTrue || e.Order == nil || e.Order.ID != "A1" {
			t.Errorf("the event: %+v", e)
		}
		asked := len(g.bank.questions("A1"))
		after(8 * day)
		if more := len(g.bank.questions("A1")); more != asked || g.Followed() != 0 {
			t.Errorf("%d questions after the end, %d rows in memory", more-asked, g.Followed())
		}
		// The platform's notify comes after all.
		if n := g.notify("A1", answer{Order: watch.IsPaid, Amount: 100}, true); !n.Told || n.Ordered != watch.OrderedTrue {
			t.Errorf("the late notify: %+v", n)
		}
	})
}

// TestNotifyAndQueryAtOnce: whoever comes second sees that the app is being told.
func TestNotifyAndQueryAtOnce(t *testing.T) {
	inTime(t, nil, func(t *testing.T, g *gateway) {
		g.ordered("A1", 100)
		g.bank.order("A1", watch.IsPaid, 100)
		f := answer{Order: watch.IsPaid, Amount: 100}.finding("A1", "")
		after(50 * time.Second)
		if n, err := g.Notified(t.Context(), "shop", "A1", f); err != nil || n.Told || n.Busy {
			t.Fatalf("%+v, %v", n, err)
		}
		if _, err := g.Query(t.Context(), "shop", "A1"); err != nil {
			t.Fatal(err)
		}
		if n, err := g.Notified(t.Context(), "shop", "A1", f); err != nil || !n.Busy {
			t.Errorf("a second notify meanwhile: %+v, %v", n, err)
		}
		if g.mailbox.times("A1 paid") != 0 {
			t.Error("the app was told twice")
		}
		g.Taken("shop", "A1", f.Event.ID, false) // it could not take it: the watch tells it then
		after(time.Minute)
		if g.mailbox.times("A1 paid") != 1 {
			t.Errorf("told %d times", g.mailbox.times("A1 paid"))
		}
	})
}

// TestInboxIsFull: an event is handed over again until it is taken.
func TestInboxIsFull(t *testing.T) {
	inTime(t, nil, func(t *testing.T, g *gateway) {
		g.mailbox.failing(errors.New("the inbox is full"))
		g.ordered("A1", 100)
		g.bank.order("A1", watch.IsPaid, 100)
		after(3 * time.Hour)
		if g.state("A1") != watch.Paid || g.mailbox.times("A1 paid") != 0 {
			t.Fatalf("%s", g.state("A1"))
		}
		g.mailbox.failing(nil)
		after(5 * time.Hour)
		if g.mailbox.times("A1 paid") != 1 {
			t.Errorf("told %d times", g.mailbox.times("A1 paid"))
		}
	})
}

// TestAbandoned: when an order that nobody pays is asked about, and that it ends as unseen or stuck, never as closed.
func TestAbandoned(t *testing.T) {
	m, h := time.Minute, time.Hour
	for name, test := range map[string]struct {
		expires time.Duration
		says    watch.Fact
		want    []time.Duration
		ends    watch.State
	}{
		"open to the end": {0, watch.IsOpen,
			[]time.Duration{m, 2 * m, 5 * m, 10 * m, 20 * m, 31 * m, 40 * m, 2 * h, 24*h + 30*m, 48*h + 30*m, 72*h + 30*m, 96*h + 30*m, 120*h + 30*m, 144*h + 30*m, 168 * h}, watch.Stuck},
		"not known": {0, watch.IsAbsent,
			[]time.Duration{m, 2 * m, 5 * m, 10 * m, 20 * m, 31 * m, 40 * m, 2 * h}, watch.Unseen},
		"not known, and lives long": {50 * h, watch.IsAbsent,
			[]time.Duration{m, 2 * m, 5 * m, 10 * m, 20 * m, 50*h + m, 50*h + 10*m, 51*h + 30*m}, watch.Unseen},
		"closed": {0, watch.IsClosed, []time.Duration{m}, watch.Closed},
	} {
		t.Run(name, func(t *testing.T) {
			inTime(t, nil, func(t *testing.T, g *gateway) {
				if test.says != watch.IsAbsent {
					g.bank.order("A1", test.says, 100)
				}
				g.call("/order", request{Order: "A1", Amount: 100, Expires: test.expires}, watch.Answered, "SUCCESS")
				after(12 * day)
				got := g.bank.questions("A1")
				if len(got) != len(test.want) || g.state("A1") != test.ends {
					t.Fatalf("asked at %v, and then it is %s; want %v, %s", got, g.state("A1"), test.want, test.ends)
				}
				for i, at := range got {
					if want := test.want[i]; at < want-want/10 || at > want+want/10+time.Second || i >= 5 && i < 7 && at < want {
						t.Errorf("look %d at %v, want %v", i, at, want)
					}
				}
			})
		})
	}
}

// TestOrdersOff: with `orders off` only what is unresolved is asked about.
func TestOrdersOff(t *testing.T) {
	inTime(t, func(s *watch.Settings) { s.Orders = nil }, func(t *testing.T, g *gateway) {
		g.ordered("A1", 100)
		g.call("/order", request{Order: "A2", Amount: 100}, watch.Unknown, "")
		after(day)
		if len(g.bank.questions("A1")) != 0 || len(g.bank.questions("A2")) == 0 {
			t.Errorf("asked %v and %v", g.bank.questions("A1"), g.bank.questions("A2"))
		}
	})
}

// TestRefundOfUnknownOutcome: it is followed through PROCESSING to its end, which is told; until then no other one goes.
func TestRefundOfUnknownOutcome(t *testing.T) {
	inTime(t, nil, func(t *testing.T, g *gateway) {
		g.paidAndTold("A1", 100)
		g.bank.refund("A1", "R1", 60, watch.IsPending)
		if refusal := g.call("/refund", request{Order: "A1", Number: "R1", Amount: 60}, watch.Unknown, ""); refusal != nil {
			t.Fatalf("%+v", refusal)
		}
		if refusal := g.call("/refund", request{Order: "A1", Number: "R2", Amount: 60}, watch.Answered, "SUCCESS"); refusal == nil || refusal.Status != 409 ||
			refusal.Code != watch.CodeUnresolved || refusal.Number != "R1" {
			t.Fatalf("a second one: %+v", refusal)
		}
		after(4 * time.Minute)
		g.bank.refund("A1", "R1", 60, watch.HasSucceeded)
		after(2 * time.Minute)
		if g.refundState("A1", "R1") != watch.Succeeded || g.state("A1") != watch.PartRefunded || g.mailbox.times("A1 R1 succeeded") != 1 {
			t.Fatalf("%s, %s", g.refundState("A1", "R1"), g.state("A1"))
		}
		if refusal := g.call("/refund", request{Order: "A1", Number: "R2", Amount: 60}, watch.Answered, "SUCCESS"); refusal == nil || refusal.Status != 422 {
			t.Errorf("more than is left: %+v", refusal)
		}
		if refusal := g.call("/refund", request{Order: "A1", Number: "R2", Amount: 40}, watch.Answered, "SUCCESS"); refusal != nil {
			t.Errorf("the rest: %+v", refusal)
		}
		if g.state("A1") != watch.Refunded {
			t.Errorf("%s", g.state("A1"))
		}
		want := []time.Duration{0, 5 * time.Second, 30 * time.Second, time.Minute, 3 * time.Minute, 5 * time.Minute}
		got := g.bank.questions("A1/R1")
		if len(got) != len(want) {
			t.Fatalf("asked at %v, want %v", got, want)
		}
		for i, at := range got {
			if at < want[i]-want[i]/10 || at > want[i]+want[i]/10+time.Second {
				t.Errorf("look %d at %v, want %v", i, at, want[i])
			}
		}
	})
}

// TestGuardAsks: a refund in the way that has ended meanwhile is in nobody's way.
func TestGuardAsks(t *testing.T) {
	inTime(t, nil, func(t *testing.T, g *gateway) {
		g.paidAndTold("A1", 100)
		g.bank.refund("A1", "R1", 60, watch.HasFailed)
		g.call("/refund", request{Order: "A1", Number: "R1", Amount: 60}, watch.Unknown, "")
		if refusal := g.call("/refund", request{Order: "A1", Number: "R2", Amount: 60}, watch.Answered, "SUCCESS"); refusal != nil {
			t.Fatalf("%+v", refusal)
		}
		if g.mailbox.times("A1 R1 failed") != 1 {
			t.Error("the app does not know that the first one failed")
		}
	})
}

// TestGuardAsksAgain: the platform was asked a moment ago, and the refund in the way has ended since. The guard once answered 409
// without asking, for a second.
func TestGuardAsksAgain(t *testing.T) {
	inTime(t, nil, func(t *testing.T, g *gateway) {
		g.paidAndTold("A1", 100)
		g.bank.refund("A1", "R1", 60, watch.IsPending)
		g.call("/refund", request{Order: "A1", Number: "R1", Amount: 60}, watch.Unknown, "")
		if refusal := g.call("/refund", request{Order: "A1", Number: "R2", Amount: 60}, watch.Answered, "SUCCESS"); refusal == nil {
			t.Fatal("it went")
		}
		g.bank.refund("A1", "R1", 60, watch.HasFailed)
		begin := time.Now()
		if refusal := g.call("/refund", request{Order: "A1", Number: "R2", Amount: 60}, watch.Answered, "SUCCESS"); refusal != nil {
			t.Errorf("%+v", refusal)
		}
		if asked, took := len(g.bank.questions("A1/R1")), time.Since(begin); asked != 2 || took > time.Second {
			t.Errorf("asked %d times, in %v", asked, took)
		}
	})
}

// TestGuardWaits: the platform's word is waited for 3 seconds, and an app that hammers does not become queries.
func TestGuardWaits(t *testing.T) {
	inTime(t, nil, func(t *testing.T, g *gateway) {
		g.paidAndTold("A1", 100)
		g.bank.refund("A1", "R1", 60, watch.IsPending)
		g.call("/refund", request{Order: "A1", Number: "R1", Amount: 60}, watch.Unknown, "")
		g.bank.set(func() { g.bank.saying["A1/R1"] = answer{Call: watch.IsPending, Wait: true} })
		begin := time.Now()
		for range 100 {
			if refusal := g.call("/refund", request{Order: "A1", Number: "R2", Amount: 60}, watch.Answered, "SUCCESS"); refusal == nil {
				t.Fatal("it went")
			}
		}
		if asked := len(g.bank.questions("A1/R1")); asked != 1 || time.Since(begin) > time.Second {
			t.Errorf("asked %d times, in %v", asked, time.Since(begin))
		}
		after(55 * time.Second) // the platform is busy with the order
		if asked := g.bank.questions("A1/R1"); len(asked) != 1 {
			t.Errorf("asked at %v", asked)
		}
	})
}

// TestNotSent: a call that was not sent leaves no trace.
func TestNotSent(t *testing.T) {
	inTime(t, nil, func(t *testing.T, g *gateway) {
		g.call("/order", request{Order: "A1", Amount: 100}, watch.NotSent, "")
		g.call("/refund", request{Order: "A2", Number: "R1", Amount: 100}, watch.NotSent, "")
		g.paidAndTold("A3", 100)
		g.call("/refund", request{Order: "A3", Number: "R1", Amount: 100}, watch.NotSent, "")
		g.call("/order", request{Order: "A3", Amount: 100}, watch.NotSent, "")
		after(time.Second)
		if rows := g.store.Rows(); len(rows) != 1 || g.Followed() != 0 {
			t.Errorf("%d rows, %d followed", len(rows), g.Followed())
		}
		if o := g.row("A3"); len(o.Calls) != 0 || o.State != watch.Paid {
			t.Errorf("%+v", o)
		}
	})
}

// TestRepetitionIsRefused: the first sending's end is as open as before.
func TestRepetitionIsRefused(t *testing.T) {
	inTime(t, nil, func(t *testing.T, g *gateway) {
		g.paidAndTold("A1", 100)
		g.call("/refund", request{Order: "A1", Number: "R1", Amount: 60}, watch.Unknown, "")
		g.call("/refund", request{Order: "A1", Number: "R1", Amount: 60}, watch.Answered, "BAD_SIGN")
		if is := g.refundState("A1", "R1"); is != watch.Unresolved {
			t.Errorf("the refund is %s", is)
		}
		g.call("/refund", request{Order: "A1", Number: "R1", Amount: 60}, watch.NotSent, "")
		if is := g.refundState("A1", "R1"); is != watch.Unresolved {
			t.Errorf("the refund is %s", is)
		}
		g.call("/order", request{Order: "A2", Amount: 100}, watch.Unknown, "")
		g.call("/order", request{Order: "A2", Amount: 100}, watch.Answered, "BAD_SIGN")
		after(time.Second)
		if is := g.state("A2"); is != watch.Sent {
			t.Errorf("the order is %s", is)
		}
		g.call("/order", request{Order: "A3", Amount: 100}, watch.Answered, "BAD_SIGN")
		after(time.Second)
		if is := g.state("A3"); is != watch.Closed {
			t.Errorf("an order that was never made is %s", is)
		}
	})
}

// TestNotFound: a refund that the platform does not know is told after an hour, once, and stays unresolved to be stuck.
func TestNotFound(t *testing.T) {
	inTime(t, nil, func(t *testing.T, g *gateway) {
		g.paidAndTold("A1", 100)
		g.call("/refund", request{Order: "A1", Number: "R1", Amount: 60}, watch.Unknown, "")
		after(50 * time.Minute)
		if g.mailbox.times("A1 R1 not_found") != 0 {
			t.Error("told too early")
		}
		after(17 * time.Minute) // the look at the age of an hour may be some minutes early, and once it was the next one that told
		if g.mailbox.times("A1 R1 not_found") != 1 || g.refundState("A1", "R1") != watch.Unresolved {
			t.Errorf("told %d times, %s", g.mailbox.times("A1 R1 not_found"), g.refundState("A1", "R1"))
		}
		after(8 * day)
		if g.mailbox.times("A1 R1 not_found") != 1 || g.refundState("A1", "R1") != watch.Stuck || g.cried() != "[refund_stuck A1]" {
			t.Errorf("told %d times, %s, %v", g.mailbox.times("A1 R1 not_found"), g.refundState("A1", "R1"), g.cried())
		}
		if s := g.Stats(); s.States[watch.Stuck] != 1 || s.Oldest.IsZero() {
			t.Errorf("%+v", s)
		}
		// What a person asks about may have an end after all.
		g.bank.refund("A1", "R1", 60, watch.HasSucceeded)
		if _, err := g.Query(t.Context(), "shop", "A1"); err != nil {
			t.Fatal(err)
		}
		if g.refundState("A1", "R1") != watch.Succeeded || g.mailbox.times("A1 R1 succeeded") != 1 || g.Followed() != 0 {
			t.Errorf("%s, %d followed", g.refundState("A1", "R1"), g.Followed())
		}
	})
}

// TestNotFoundAgain: a refund that was not found is repeated, as the app was told, and does not arrive again: it is told again.
func TestNotFoundAgain(t *testing.T) {
	inTime(t, nil, func(t *testing.T, g *gateway) {
		g.paidAndTold("A1", 100)
		for range 2 {
			g.call("/refund", request{Order: "A1", Number: "R1", Amount: 60}, watch.Unknown, "")
			after(2 * time.Hour)
		}
		if told := g.mailbox.all(); told["A1 R1 not_found"] != 1 || told["A1 R1 not_found again"] != 1 {
			t.Errorf("told %v", told)
		}
	})
}

// TestNotFoundAndNotSent: a refund that was not found is repeated, and the repetition is not sent. That is no other refund that has not
// arrived: the app was told twice of one.
func TestNotFoundAndNotSent(t *testing.T) {
	inTime(t, nil, func(t *testing.T, g *gateway) {
		g.paidAndTold("A1", 100)
		g.call("/refund", request{Order: "A1", Number: "R1", Amount: 60}, watch.Unknown, "")
		after(2 * time.Hour)
		g.call("/refund", request{Order: "A1", Number: "R1", Amount: 60}, watch.NotSent, "")
		after(day)
		if told := g.mailbox.all(); told["A1 R1 not_found"] != 1 || told["A1 R1 not_found again"] != 0 {
			t.Errorf("told %v", told)
		}
	})
}

// TestClosedThenPaid: told as paid, with a cry.
func TestClosedThenPaid(t *testing.T) {
	inTime(t, nil, func(t *testing.T, g *gateway) {
		g.ordered("A1", 100)
		g.bank.order("A1", watch.IsClosed, 100)
		after(2 * time.Hour)
		if n := g.notify("A1", answer{Order: watch.IsPaid, Amount: 100}, true); n.Told || g.state("A1") != watch.Paid || g.cried() != "[late_paid A1]" {
			t.Errorf("%+v, %s, %v", n, g.state("A1"), g.cried())
		}
		g.notify("A1", answer{Order: watch.IsClosed}, true)
		if g.state("A1") != watch.Paid {
			t.Errorf("a later closed made it %s", g.state("A1"))
		}
	})
}

// TestAmounts: what differs is said, and with reject not told.
func TestAmounts(t *testing.T) {
	for name, test := range map[string]struct {
		amounts string
		notify  answer
		want    string
		told    int
	}{
		"the same":          {watch.Warn, answer{Order: watch.IsPaid, Amount: 100, Mid: "898"}, watch.OrderedTrue, 1},
		"another amount":    {watch.Warn, answer{Order: watch.IsPaid, Amount: 1, Mid: "898"}, watch.OrderedDiffers, 1},
		"another mid":       {watch.Warn, answer{Order: watch.IsPaid, Amount: 100, Mid: "899"}, watch.OrderedDiffers, 1},
		"reject":            {watch.Reject, answer{Order: watch.IsPaid, Amount: 1, Mid: "898"}, watch.OrderedDiffers, 0},
		"off":               {watch.Off, answer{Order: watch.IsPaid, Amount: 1, Mid: "898"}, watch.OrderedTrue, 1},
		"no amount":         {watch.Warn, answer{Order: watch.IsPaid, Mid: "898"}, watch.OrderedDiffers, 1}, // was true: whoever hides the sum proves nothing
		"no amount, reject": {watch.Reject, answer{Order: watch.IsPaid, Mid: "898"}, watch.OrderedDiffers, 0},
		"no mid":            {watch.Warn, answer{Order: watch.IsPaid, Amount: 100}, watch.OrderedTrue, 1},
	} {
		t.Run(name, func(t *testing.T) {
			inTime(t, func(s *watch.Settings) { s.Amounts = test.amounts }, func(t *testing.T, g *gateway) {
				g.ordered("A1", 100)
				after(time.Second)
				g.bank.order("A1", watch.IsPaid, test.notify.Amount)
				n, err := g.Notified(t.Context(), "shop", "A1", test.notify.finding("A1", ""))
				if err != nil || n.Ordered != test.want {
					t.Fatalf("%+v, %v", n, err)
				}
				if n.Ordered != watch.OrderedDiffers || test.amounts != watch.Reject {
					g.Taken("shop", "A1", "A1 paid", false)
				}
				after(2 * day)
				if g.mailbox.times("A1 paid") != test.told {
					t.Errorf("told %d times", g.mailbox.times("A1 paid"))
				}
				if differs := test.want == watch.OrderedDiffers; differs != (g.cried() == "[order_differs A1]") {
					t.Errorf("%v", g.cried())
				}
			})
		})
	}
}

// TestUnseen: what did not go through this gateway is known from its notify.
func TestUnseen(t *testing.T) {
	inTime(t, nil, func(t *testing.T, g *gateway) {
		if n := g.notify("A1", answer{Order: watch.IsPaid, Amount: 100}, true); n.Ordered != watch.OrderedUnseen {
			t.Errorf("%+v", n)
		}
		ticket, refusal := g.Before(t.Context(), "shop", "/refund", request{Order: "A1", Number: "R1", Amount: 100}.body(), "")
		if refusal != nil || ticket.Guard != "unseen" {
			t.Errorf("%+v, %+v", ticket, refusal)
		}
		g.After(ticket, watch.Answered, "SUCCESS", nil)
		if g.state("A1") != watch.Refunded {
			t.Errorf("%s", g.state("A1"))
		}
	})
}

// TestElsewhere: a refund that was made at the platform's page counts as soon as somebody tells of it.
func TestElsewhere(t *testing.T) {
	inTime(t, nil, func(t *testing.T, g *gateway) {
		g.paidAndTold("A1", 100)
		g.notify("A1", answer{Order: watch.IsPartRefunded, Amount: 100, Call: watch.HasSucceeded, Number: "P9", CallAmount: 70}, true)
		if refusal := g.call("/refund", request{Order: "A1", Number: "R1", Amount: 40}, watch.Answered, "SUCCESS"); refusal == nil || refusal.Status != 422 {
			t.Errorf("%+v", refusal)
		}
		g.notify("A1", answer{Order: watch.IsPartRefunded, Amount: 100, Call: watch.IsPending, Number: "P10", CallAmount: 5}, true)
	})
}

// TestRefundWithoutNumber: each is another one, and what the platform calls it does not make it two.
func TestRefundWithoutNumber(t *testing.T) {
	inTime(t, nil, func(t *testing.T, g *gateway) {
		g.paidAndTold("A1", 100)
		g.call("/refund", request{Order: "A1", Amount: 60}, watch.Unknown, "")
		if refusal := g.call("/refund", request{Order: "A1", Amount: 60}, watch.Unknown, ""); refusal == nil || refusal.Code != watch.CodeUnresolved || refusal.Number != "#1" {
			t.Fatalf("%+v", refusal)
		}
		g.notify("A1", answer{Order: watch.IsPartRefunded, Amount: 100, Call: watch.HasSucceeded, Number: "P9", CallAmount: 60}, true)
		if g.refundState("A1", "#1") != watch.Succeeded || len(g.row("A1").Calls) != 1 {
			t.Errorf("%+v", g.row("A1").Calls)
		}
		if refusal := g.call("/refund", request{Order: "A1", Amount: 40}, watch.Answered, "SUCCESS"); refusal != nil {
			t.Errorf("%+v", refusal)
		}
	})
}

// TestPlatformIsDown: what was paid while the platform was silent for an hour is found afterwards.
func TestPlatformIsDown(t *testing.T) {
	inTime(t, nil, func(t *testing.T, g *gateway) {
		g.ordered("A1", 100)
		g.bank.order("A1", watch.IsPaid, 100)
		g.bank.set(func() { g.bank.deaf = func(watch.Query) error { return errors.New("down") } })
		after(time.Hour)
		if g.state("A1") != watch.Open || g.count("query unanswered") == 0 {
			t.Errorf("%s", g.state("A1"))
		}
		g.bank.set(func() { g.bank.deaf = nil })
		after(2 * time.Hour)
		if g.state("A1") != watch.Paid || g.mailbox.times("A1 paid") != 1 {
			t.Errorf("%s", g.state("A1"))
		}
	})
}

// TestStoreIsDown: orders go on and are written down later, refunds are refused.
func TestStoreIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := storetest.NewMemory(nil)
		var down atomic.Bool
		store.Fail(func(string, string) error {
			if down.Load() {
				return storetest.ErrDown
			}
			return nil
		})
		g := join(t, store, newBank(), newMailbox(), "one", nil)
		defer g.Close()
		g.paidAndTold("A1", 100)
		after(time.Second)
		down.Store(true)
		g.ordered("A2", 100)
		refusal := g.call("/refund", request{Order: "A1", Number: "R1", Amount: 60}, watch.Answered, "SUCCESS")
		if refusal == nil || refusal.Status != 503 || refusal.Code != watch.CodeUnavailable {
			t.Fatalf("%+v", refusal)
		}
		f := answer{Order: watch.IsPaid, Amount: 100}.finding("A2", "")
		if _, err := g.Notified(t.Context(), "shop", "A2", f); err == nil {
			t.Error("a notify was written down")
		}
		g.Taken("shop", "A2", f.Event.ID, true)
		after(time.Minute)
		if g.count("unwritten order") != 1 || g.count("unwritten refund") != 1 || g.count("unwritten notify") != 1 {
			t.Errorf("the counts are wrong")
		}
		down.Store(false)
		after(time.Minute)
		if g.state("A2") != watch.Paid || !g.row("A2").Seen || len(g.row("A1").Calls) != 0 {
			t.Errorf("%+v, %+v", g.row("A2"), g.row("A1").Calls)
		}
		after(8 * day)
		if g.mailbox.times("A2 paid") != 0 || g.Followed() != 0 {
			t.Errorf("the app was told again, %d followed", g.Followed())
		}
	})
}

// TestInDoubt: a write that was reported as failed, and was made, neither blocks a refund for ever nor lets two pass.
func TestInDoubt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := storetest.NewMemory(nil)
		var doubt atomic.Bool
		store.Lost = func(string, string) error {
			if doubt.CompareAndSwap(true, false) {
				return storetest.ErrDown
			}
			return nil
		}
		g := join(t, store, newBank(), newMailbox(), "one", nil)
		defer g.Close()
		g.paidAndTold("A1", 100)
		after(time.Second)
		doubt.Store(true)
		if refusal := g.call("/refund", request{Order: "A1", Number: "R1", Amount: 60}, watch.Answered, "SUCCESS"); refusal == nil || refusal.Status != 503 {
			t.Fatalf("%+v", refusal)
		}
		after(2 * time.Second)
		if refusal := g.call("/refund", request{Order: "A1", Number: "R2", Amount: 60}, watch.Answered, "SUCCESS"); refusal != nil {
			t.Errorf("%+v", refusal)
		}
		if len(g.row("A1").Calls) != 1 {
			t.Errorf("%+v", g.row("A1").Calls)
		}
	})
}

// TestResend: the app is told again, with the same id.
func TestResend(t *testing.T) {
	inTime(t, nil, func(t *testing.T, g *gateway) {
		g.paidAndTold("A1", 100)
		after(time.Second)
		if _, err := g.Resend(t.Context(), "shop", "A1"); err != nil {
			t.Fatal(err)
		}
		if e := g.mailbox.got("A1 paid"); e == nil || !e.Again || g.mailbox.times("A1 paid") != 2 {
			t.Errorf("%+v", e)
		}
		if _, err := g.Resend(t.Context(), "shop", "B1"); !errors.Is(err, watch.ErrNotFound) {
			t.Errorf("an order that nobody knows: %v", err)
		}
	})
}

func TestListAndKeep(t *testing.T) {
	inTime(t, nil, func(t *testing.T, g *gateway) {
		for i := range 25 {
			g.ordered(fmt.Sprintf("A%02d", i), 100)
		}
		g.paidAndTold("B1", 100)
		g.bank.refund("B1", "R77", 10, watch.IsPending)
		g.call("/refund", request{Order: "B1", Number: "R77", Amount: 10}, watch.Unknown, "")
		after(time.Second)
		list := func(q watch.Select) (numbers []string) {
			all, err := g.List(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range all {
				numbers = append(numbers, o.ID)
			}
			return numbers
		}
		for name, test := range map[string]struct {
			q    watch.Select
			want string
		}{
			"the first":             {watch.Select{Limit: 3}, "[A00 A01 A02]"},
			"the next":              {watch.Select{Limit: 2, After: "shop/A02"}, "[A03 A04]"},
			"by state":              {watch.Select{Limit: 9, State: watch.Paid}, "[B1]"},
			"by a refund's state":   {watch.Select{Limit: 9, State: watch.Unresolved}, "[B1]"},
			"by a refund's number":  {watch.Select{Limit: 9, Search: "77"}, "[B1]"},
			"by the order's number": {watch.Select{Limit: 9, Search: "A1", After: "shop/A17"}, "[A18 A19]"},
			"of another merchant":   {watch.Select{Limit: 9, Merchant: "other"}, "[]"},
		} {
			if got := fmt.Sprint(list(test.q)); got != test.want {
				t.Errorf("%s: %s, want %s", name, got, test.want)
			}
		}
		after(20 * day)
		rows := len(g.store.Rows())
		if removed, err := g.RemoveOld(time.Now().Add(-day)); err != nil || rows != 26 || removed != 0 {
			t.Errorf("%d of %d removed, %v: stuck ones stay", removed, rows, err)
		}
		for i := range 25 {
			g.notify(fmt.Sprintf("A%02d", i), answer{Order: watch.IsClosed}, true)
		}
		after(500 * day)
		if rows := len(g.store.Rows()); rows != 1 {
			t.Errorf("%d rows are left", rows)
		}
	})
}

func TestReconcile(t *testing.T) {
	inTime(t, nil, func(t *testing.T, g *gateway) {
		shanghai := time.FixedZone("", 8*60*60)
		// The bubble's clock begins at midnight UTC, which is 8 o'clock in Shanghai.
		today := time.Now().In(shanghai).Format(time.DateOnly)
		g.paidAndTold("matched", 100)
		g.ordered("silent", 100)
		g.bank.order("silent", watch.IsPaid, 100)
		g.ordered("differs", 100)
		g.notify("differs", answer{Order: watch.IsPaid, Amount: 7}, true)
		g.ordered("late", 100)
		g.notify("late", answer{Order: watch.IsClosed}, true)
		g.notify("late", answer{Order: watch.IsPaid, Amount: 100}, true)
		g.notify("=cmd()", answer{Order: watch.IsPaid, Amount: 100}, true)
		g.paidAndTold("refund", 100)
		g.call("/refund", request{Order: "refund", Number: "R1", Amount: 10}, watch.Unknown, "")
		after(time.Hour)
		g.mailbox.failing(errors.New("full"))
		g.ordered("untold", 100)
		g.notify("untold", answer{Order: watch.IsPaid, Amount: 100}, false)
		g.bank.order("untold", watch.IsPaid, 100)
		after(15*time.Hour + time.Minute) // the next day begins at 16 o'clock
		g.mailbox.failing(nil)
		g.paidAndTold("tomorrow", 100)

		r, err := g.Reconcile(t.Context(), today)
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]watch.Verdict{}
		for _, record := range r.Records {
			got[record.Order+record.Refund] = record.Verdict
		}
		want := map[string]watch.Verdict{"matched": watch.Matched, "silent": watch.PaidWithoutNotify, "differs": watch.AmountDiffers, "late": watch.LatePaid,
			"=cmd()": watch.NotifyWithoutOrder, "refund": watch.Matched, "refundR1": watch.RefundUnresolved, "untold": watch.AppNotTold}
		if fmt.Sprint(got) != fmt.Sprint(want) || r.Counts[watch.Matched] != 2 || r.Notice == "" {
			t.Errorf("%v, want %v", got, want)
		}
		var file bytes.Buffer
		if err := r.WriteCSV(&file); err != nil {
			t.Fatal(err)
		}
		text, found := strings.CutPrefix(file.String(), "\xef\xbb\xbf")
		if !found {
			t.Error("no byte order mark")
		}
		lines, err := csv.NewReader(strings.NewReader(text)).ReadAll() // each line has as many fields, or it fails
		if err != nil || len(lines) != 10 || lines[0][0] != today || !strings.Contains(lines[0][1], "不是清算对账单") || lines[2][2] != "\t=cmd()" || lines[2][3] != "" {
			t.Errorf("%v, %q", err, lines)
		}
		if _, err := g.Reconcile(t.Context(), "2026-13-01"); err == nil {
			t.Error("no such day")
		}
	})
}

// TestOrderedAgain: an order or link of the same number that is made again has its own amount and expiry. The first ones
// stayed, so that the notify of the old price was `true`, and that of the new one `differs`.
func TestOrderedAgain(t *testing.T) {
	inTime(t, func(s *watch.Settings) { s.Amounts = watch.Reject }, func(t *testing.T, g *gateway) {
		g.ordered("A1", 100)
		after(20 * time.Minute)
		g.call("/link", request{Order: "A1", Amount: 90, Mid: "898", Expires: -8 * time.Hour}, watch.Answered, "SUCCESS")
		after(time.Second)
		if o := g.row("A1"); o.Amount != 90 || time.UnixMilli(o.Expires).Before(time.Now().Add(20*time.Minute)) {
			t.Errorf("amount %d, expires %v", o.Amount, time.UnixMilli(o.Expires))
		}
		if n := g.notify("A1", answer{Order: watch.IsPaid, Amount: 90, Mid: "898"}, true); n.Ordered != watch.OrderedTrue {
			t.Errorf("the notify of the new price is %s", n.Ordered)
		}
	})
}

// TestTwoAtOnce: of two calls of one number at once the second is refused, and the first one's answer is lost. The refusal
// ended both, so that nobody asked any more.
func TestTwoAtOnce(t *testing.T) {
	inTime(t, nil, func(t *testing.T, g *gateway) {
		first, _ := g.Before(t.Context(), "shop", "/order", request{Order: "A1", Amount: 100}.body(), "")
		g.call("/order", request{Order: "A1", Amount: 100}, watch.Answered, "BAD_SIGN")
		after(time.Second)
		g.After(first, watch.Unknown, "", nil)
		after(time.Second)
		if is := g.state("A1"); is != watch.Sent {
			t.Errorf("the order is %s", is)
		}
		g.bank.order("A1", watch.IsPaid, 100)
		after(time.Hour)
		if is := g.state("A1"); is != watch.Paid {
			t.Errorf("the order is %s", is)
		}
	})
}
