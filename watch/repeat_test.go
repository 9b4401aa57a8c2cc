package watch_test

import (
	"errors"
	"testing"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/watch"
)

// TestFailureOfEarlierSending: a refund is repeated with its number, as it should be, and only then it becomes known that the first
// sending had failed. That the repetition was lost changed nothing in a refund that had failed, so another number was let pass, though
// the repetition had given the money back.
func TestFailureOfEarlierSending(t *testing.T) {
	first, second := request{Order: "A1", Number: "R1", Amount: 30}, request{Order: "A1", Number: "R2", Amount: 30}
	t.Run("a notify while the repetition is on its way", func(t *testing.T) {
		inTime(t, nil, func(t *testing.T, g *gateway) {
			g.paidAndTold("A1", 100)
			g.call("/refund", first, watch.Unknown, "")
			ticket, refusal := g.Before(t.Context(), "shop", "/refund", first.body(), "")
			if refusal != nil {
				t.Fatalf("%+v", refusal)
			}
			g.notify("A1", answer{Call: watch.HasFailed, Number: "R1", CallAmount: 30, Mid: "898"}, true)
			g.bank.refund("A1", "R1", 30, watch.HasSucceeded)
			g.After(ticket, watch.Unknown, "", nil)
			if refusal := g.call("/refund", second, watch.Answered, "SUCCESS"); refusal == nil || refusal.Code != watch.CodeUnresolved {
				t.Errorf("another number: %+v", refusal)
			}
		})
	})
	t.Run("a notify after the repetition", func(t *testing.T) {
		inTime(t, nil, func(t *testing.T, g *gateway) {
			g.paidAndTold("A1", 100)
			for range 2 {
				g.call("/refund", first, watch.Unknown, "")
				after(time.Second)
			}
			g.notify("A1", answer{Call: watch.HasFailed, Number: "R1", CallAmount: 30, Mid: "898"}, true)
			if refusal := g.call("/refund", second, watch.Answered, "SUCCESS"); refusal == nil || refusal.Code != watch.CodeUnresolved {
				t.Errorf("another number: %+v", refusal)
			}
			g.bank.refund("A1", "R1", 30, watch.HasFailed)
			after(time.Minute)
			if refusal := g.call("/refund", second, watch.Answered, "SUCCESS"); refusal != nil {
				t.Errorf("after the platform's word: %+v", refusal)
			}
		})
	})
	t.Run("an answer after it", func(t *testing.T) {
		inTime(t, nil, func(t *testing.T, g *gateway) {
			g.paidAndTold("A1", 100)
			slow, refusal := g.Before(t.Context(), "shop", "/refund", first.body(), "")
			if refusal != nil {
				t.Fatalf("%+v", refusal)
			}
			other := join(t, g.store, g.bank, g.mailbox, "two", nil)
			defer other.Close()
			after(3 * time.Minute) // the other gateway takes it for lost
			other.call("/refund", first, watch.Unknown, "")
			g.After(slow, watch.Answered, "FAIL", nil)
			g.bank.refund("A1", "R1", 30, watch.IsPending)
			if refusal := other.call("/refund", second, watch.Answered, "SUCCESS"); refusal == nil || refusal.Code != watch.CodeUnresolved {
				t.Errorf("another number: %+v", refusal)
			}
		})
	})
	t.Run("an answer after both have failed", func(t *testing.T) { // the refund was in doubt again, for good where no query tells
		inTime(t, nil, func(t *testing.T, g *gateway) {
			g.paidAndTold("A1", 100)
			slow, refusal := g.Before(t.Context(), "shop", "/refund", first.body(), "")
			if refusal != nil {
				t.Fatalf("%+v", refusal)
			}
			other := join(t, g.store, g.bank, g.mailbox, "two", nil)
			defer other.Close()
			after(3 * time.Minute) // the other gateway takes it for lost
			g.bank.refund("A1", "R1", 30, watch.IsPending)
			other.call("/refund", first, watch.Answered, "FAIL")
			g.After(slow, watch.Answered, "FAIL", nil)
			if is := other.refundState("A1", "R1"); is != watch.Failed {
				t.Errorf("R1 is %s", is)
			}
			if refusal := other.call("/refund", second, watch.Answered, "SUCCESS"); refusal != nil {
				t.Errorf("another number: %+v", refusal)
			}
		})
	})
	t.Run("a query from before it", func(t *testing.T) {
		inTime(t, nil, func(t *testing.T, g *gateway) {
			g.paidAndTold("A1", 100)
			g.bank.refund("A1", "R1", 30, watch.HasFailed)
			g.call("/refund", first, watch.Unknown, "")
			late := make(chan struct{})
			g.bank.set(func() {
				g.bank.slow, g.bank.saying["A1/R1"] = late, answer{Call: watch.HasFailed, CallAmount: 30}
			})
			after(7 * time.Second) // the first look is on its way
			g.call("/refund", first, watch.Unknown, "")
			g.bank.refund("A1", "R1", 30, watch.HasSucceeded)
			g.bank.set(func() { g.bank.slow = nil })
			close(late)
			after(0)
			if is := g.refundState("A1", "R1"); is != watch.Unresolved {
				t.Errorf("the refund is %s", is)
			}
			g.bank.set(func() { delete(g.bank.saying, "A1/R1") })
			if refusal := g.call("/refund", second, watch.Answered, "SUCCESS"); refusal == nil || refusal.Code != watch.CodeUnresolved {
				t.Errorf("another number: %+v", refusal)
			}
		})
	})
}

// TestFirstSending: when a call was sent first, as long as it may be the one that the platform has executed.
func TestFirstSending(t *testing.T) {
	inTime(t, nil, func(t *testing.T, g *gateway) {
		g.paidAndTold("A1", 100)
		began := time.Now().UnixMilli()
		first := func() int64 { return g.row("A1").Calls[0].First }
		send := func(outcome watch.Outcome, code string) {
			t.Helper()
			if refusal := g.call("/refund", request{Order: "A1", Number: "R1", Amount: 30}, outcome, code); refusal != nil {
				t.Fatalf("%+v", refusal)
			}
			after(time.Minute)
		}
		send(watch.Unknown, "")
		if is := first(); is != 0 {
			t.Errorf("sent once: %d", is)
		}
		send(watch.Unknown, "")
		send(watch.NotSent, "")
		if is := first(); is != began {
			t.Errorf("sent again: %d, want %d", is, began)
		}
		send(watch.Answered, "FAIL")
		send(watch.Unknown, "")
		if is := first(); is != 0 {
			t.Errorf("sent after it had failed: %d", is)
		}
	})
}

// TestOpenBeforeItWasClosed: a query finds an order open, and the order is closed before that is written down. It was open again, so
// that nobody was called when it was paid all the same.
func TestOpenBeforeItWasClosed(t *testing.T) {
	inTime(t, nil, func(t *testing.T, g *gateway) {
		g.ordered("A1", 100)
		late := make(chan struct{})
		g.bank.set(func() { g.bank.slow, g.bank.saying["A1"] = late, answer{Order: watch.IsOpen} })
		after(67 * time.Second) // the first look is on its way
		g.notify("A1", answer{Order: watch.IsClosed}, true)
		g.bank.set(func() { g.bank.slow = nil })
		close(late)
		after(0)
		if asked := g.bank.questions("A1"); len(asked) != 1 {
			t.Fatalf("asked at %v", asked)
		}
		if is := g.state("A1"); is != watch.Closed {
			t.Errorf("it is %s", is)
		}
		g.notify("A1", answer{Order: watch.IsPaid, Amount: 100}, true)
		if g.cried() != "[late_paid A1]" {
			t.Error(g.cried())
		}
	})
}

// TestCaptureOfAnotherAmount: a capture whose answer was lost is repeated with another amount. The row kept the first one, and an event
// of a query that named none told it, whichever was captured.
func TestCaptureOfAnotherAmount(t *testing.T) {
	inTime(t, nil, func(t *testing.T, g *gateway) {
		g.paidAndTold("A1", 100)
		for _, amount := range []int64{100, 100, 80, 80} {
			g.call("/capture", request{Order: "A1", Number: "C1", Amount: amount}, watch.Unknown, "")
			want := int64(100)
			if amount == 80 {
				want = 0
			}
			if got := g.row("A1").Calls[0].Amount; got != want {
				t.Errorf("after a capture of %d: %d, want %d", amount, got, want)
			}
			after(time.Second)
		}
	})
}

// TestCaptureOfAnotherAmountNotSent: a repetition with another amount that was not sent took the amount away all the same. The event of
// a query that named none had another id than the notify's then.
func TestCaptureOfAnotherAmountNotSent(t *testing.T) {
	inTime(t, nil, func(t *testing.T, g *gateway) {
		g.paidAndTold("A1", 100)
		g.call("/capture", request{Order: "A1", Number: "C1", Amount: 100}, watch.Unknown, "")
		after(time.Second)
		g.call("/capture", request{Order: "A1", Number: "C1", Amount: 80}, watch.NotSent, "")
		if got := g.row("A1").Calls[0].Amount; got != 100 {
			t.Errorf("the amount is %d, want 100", got)
		}
	})
}

// TestRefundTellsOfNoPayment: the app was down when it was to be told of a payment. The notify of a refund that names no number is about
// the order, too: it took the payment's place, and the app, which took it, was never told that the order is paid.
func TestRefundTellsOfNoPayment(t *testing.T) {
	inTime(t, nil, func(t *testing.T, g *gateway) {
		g.ordered("A1", 100)
		g.bank.order("A1", watch.IsPaid, 100)
		g.mailbox.failing(errors.New("the app is down"))
		g.notify("A1", answer{Order: watch.IsPaid, Amount: 100, Mid: "898"}, false)
		after(time.Minute)
		g.mailbox.failing(nil)
		refund := watch.Finding{Order: watch.IsPartRefunded, Refunded: 30, Event: &watch.Event{ID: "A1 part", Type: "refund.succeeded"}}
		if _, err := g.Notified(t.Context(), "shop", "A1", refund); err != nil {
			t.Fatal(err)
		}
		g.Taken("shop", "A1", "A1 part", true)
		after(time.Hour)
		if times := g.mailbox.times("A1 paid"); times != 1 {
			t.Errorf("told of the payment %d times", times)
		}
		if is := g.row("A1").State; is != watch.PartRefunded || g.Followed() != 0 {
			t.Errorf("the order is %s, %d followed", is, g.Followed())
		}
	})
}

// TestOrderOfAnotherAmount: an order whose answer was lost is repeated with other terms, which is not sent, or refused. The row had those
// terms all the same: the payment differed from what was ordered and, with amounts reject, its notify was refused for good.
func TestOrderOfAnotherAmount(t *testing.T) {
	for code, outcome := range map[string]watch.Outcome{"": watch.NotSent, "BAD_SIGN": watch.Answered} {
		t.Run(string(outcome), func(t *testing.T) {
			inTime(t, func(s *watch.Settings) { s.Amounts = watch.Reject }, func(t *testing.T, g *gateway) {
				g.bank.order("A1", watch.IsOpen, 100)
				g.call("/order", request{Order: "A1", Amount: 100, Mid: "898", Notify: "shop/a", Expires: time.Hour}, watch.Unknown, "")
				after(time.Second)
				before := g.row("A1")
				g.call("/order", request{Order: "A1", Amount: 80, Mid: "899", Notify: "shop/b", Expires: 2 * time.Hour}, outcome, code)
				after(time.Second)
				if is := g.row("A1"); is.Amount != 100 || is.Mid != "898" || is.Notify != "shop/a" || is.Expires != before.Expires || is.Fields["mid"] != "898" {
					t.Errorf("%d, %s, %s, %d, %v", is.Amount, is.Mid, is.Notify, is.Expires, is.Fields)
				}
				if n := g.notify("A1", answer{Order: watch.IsPaid, Amount: 100, Mid: "898"}, true); n.Ordered != watch.OrderedTrue {
					t.Errorf("%+v", n)
				}
			})
		})
	}
}

// TestFailureAfterSuccess: a refund failed, was repeated and succeeded. The notify of the failure came last: it took the place of the
// success, of which the app was never told, and an hour later a refund with another number was let pass.
func TestFailureAfterSuccess(t *testing.T) {
	inTime(t, nil, func(t *testing.T, g *gateway) {
		first, second := request{Order: "A1", Number: "R1", Amount: 30}, request{Order: "A1", Number: "R2", Amount: 30}
		g.paidAndTold("A1", 100)
		for range 2 {
			g.call("/refund", first, watch.Unknown, "")
			after(time.Second)
		}
		g.bank.refund("A1", "R1", 30, watch.HasSucceeded)
		g.mailbox.failing(errors.New("the inbox is full"))
		after(2 * time.Minute)
		if is := g.refundState("A1", "R1"); is != watch.Succeeded {
			t.Fatalf("R1 is %s", is)
		}
		g.notify("A1", answer{Call: watch.HasFailed, Number: "R1", CallAmount: 30, Mid: "898"}, true)
		after(2 * time.Hour)
		if refusal := g.call("/refund", second, watch.Answered, "SUCCESS"); refusal == nil || refusal.Code != watch.CodeUnresolved {
			t.Errorf("another number: %+v", refusal)
		}
		g.mailbox.failing(nil)
		after(24 * time.Hour)
		if times := g.mailbox.times("A1 R1 succeeded"); times != 1 {
			t.Errorf("told of the success %d times", times)
		}
	})
}

// TestWithoutNumberRefused: a refund without a number is refused, such as NO_CROSS_DAY_TRADING, and made again. The number that the
// platform then gave to the second one was taken for the first one's, which had succeeded all at once. Of the second one no end was ever
// known: each further refund of the order was refused, and a person had to look.
func TestWithoutNumberRefused(t *testing.T) {
	for _, how := range []string{"its answer", "a query", "a notify"} {
		t.Run(how, func(t *testing.T) {
			inTime(t, nil, func(t *testing.T, g *gateway) {
				g.paidAndTold("A1", 100)
				r := request{Order: "A1", Amount: 30}
				g.call("/refund", r, watch.Answered, "BAD_SIGN")
				succeeded := answer{Call: watch.HasSucceeded, Number: "X1", CallAmount: 30}
				ticket, refusal := g.Before(t.Context(), "shop", "/refund", r.body(), "")
				if refusal != nil {
					t.Fatalf("%+v", refusal)
				}
				switch how {
				case "its answer":
					g.After(ticket, watch.Answered, "SUCCESS", succeeded.body())
				case "a query":
					g.After(ticket, watch.Unknown, "", nil)
					g.bank.set(func() { g.bank.saying["A1/#2"] = succeeded })
					after(time.Minute)
				case "a notify":
					g.After(ticket, watch.Unknown, "", nil)
					g.notify("A1", succeeded, true)
				}
				for number, want := range map[string]watch.State{"#1": watch.Failed, "#2": watch.Succeeded} {
					if is := g.refundState("A1", number); is != want {
						t.Errorf("%s is %s, want %s", number, is, want)
					}
				}
				after(2 * time.Hour)
				if refusal := g.call("/refund", request{Order: "A1", Number: "R2", Amount: 40}, watch.Answered, "SUCCESS"); refusal != nil {
					t.Errorf("another refund: %+v", refusal)
				}
			})
		})
	}
}

// TestWithoutNumberAnswered: the answer to a refund without a number names the platform's, and no amount, as it need not. That was taken
// for another refund, made elsewhere: of this one no end was ever known.
func TestWithoutNumberAnswered(t *testing.T) {
	inTime(t, nil, func(t *testing.T, g *gateway) {
		g.paidAndTold("A1", 100)
		ticket, refusal := g.Before(t.Context(), "shop", "/refund", request{Order: "A1", Amount: 30}.body(), "")
		if refusal != nil {
			t.Fatalf("%+v", refusal)
		}
		g.After(ticket, watch.Answered, "SUCCESS", answer{Call: watch.HasSucceeded, Number: "X1"}.body())
		if calls := g.row("A1").Calls; len(calls) != 1 || calls[0].State != watch.Succeeded || calls[0].Alias != "X1" || calls[0].Amount != 30 {
			t.Errorf("%+v", calls)
		}
		if refusal := g.call("/refund", request{Order: "A1", Number: "R2", Amount: 70}, watch.Answered, "SUCCESS"); refusal != nil {
			t.Errorf("another refund: %+v", refusal)
		}
	})
}
