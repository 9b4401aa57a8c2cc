package watch_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/watch"
	"github.com/caddy-chinaums/caddy-chinaums/watch/storetest"
)

// TestStaleFailure: a notify has told that a refund succeeded, and a query, which is answered by a server that lags behind, says that
// it has failed. The app was told so: it made the refund again with another number, which was let pass. Where it had not taken the
// notify, it was never told of the success.
func TestStaleFailure(t *testing.T) {
	for _, what := range []string{"not taken", "at once", "asked by hand"} {
		t.Run(what, func(t *testing.T) {
			inTime(t, nil, func(t *testing.T, g *gateway) {
				g.paidAndTold("A1", 100)
				g.bank.refund("A1", "R1", 30, watch.IsPending)
				g.call("/refund", request{Order: "A1", Number: "R1", Amount: 30}, watch.Unknown, "")
				late := make(chan struct{})
				g.bank.set(func() {
					g.bank.saying["A1/R1"] = answer{Call: watch.HasFailed, CallAmount: 30}
					if what == "at once" {
						g.bank.slow = late
					}
				})
				if what == "at once" {
					after(7 * time.Second) // the first look is on its way
				}
				g.mailbox.failing(errors.New("the inbox is full"))
				g.notify("A1", answer{Call: watch.HasSucceeded, Number: "R1", CallAmount: 30, Mid: "898"}, what != "not taken")
				g.mailbox.failing(nil)
				g.bank.set(func() { g.bank.slow = nil })
				close(late)
				after(time.Minute)
				if what == "asked by hand" {
					if _, err := g.Resend(t.Context(), "shop", "A1"); err != nil {
						t.Fatal(err)
					}
				}
				if is, times := g.refundState("A1", "R1"), g.mailbox.times("A1 R1 failed"); is != watch.Succeeded || times != 0 {
					t.Errorf("R1 is %s, told of a failure %d times", is, times)
				}
				g.bank.set(func() { delete(g.bank.saying, "A1/R1") })
				g.bank.refund("A1", "R1", 30, watch.HasSucceeded)
				after(time.Hour)
				if times := g.mailbox.times("A1 R1 succeeded"); times != 1 {
					t.Errorf("told of the success %d times", times)
				}
			})
		})
	}
}

// TestStaleClose: a query finds an order closed, and a notify tells that it is paid before that is written down. The app was told that
// the order is closed after it was told of the payment.
func TestStaleClose(t *testing.T) {
	inTime(t, nil, func(t *testing.T, g *gateway) {
		g.bank.order("A1", watch.IsClosed, 100)
		g.call("/order", request{Order: "A1", Amount: 100, Mid: "898"}, watch.Unknown, "")
		late := make(chan struct{})
		g.bank.set(func() { g.bank.slow = late })
		after(7 * time.Second) // the first look is on its way
		g.notify("A1", answer{Order: watch.IsPaid, Amount: 100, Mid: "898"}, true)
		g.bank.set(func() { g.bank.slow = nil })
		close(late)
		after(time.Minute)
		if is, times := g.state("A1"), g.mailbox.times("A1 closed"); is != watch.Paid || times != 0 {
			t.Errorf("A1 is %s, told that it is closed %d times", is, times)
		}
		if asked := g.bank.questions("A1"); len(asked) != 2 { // once more, as it may have been canceled since
			t.Errorf("asked at %v", asked)
		}
	})
}

// TestStaleCloseDiffers: and what it says has another mid than the order. Nobody was told of that.
func TestStaleCloseDiffers(t *testing.T) {
	inTime(t, nil, func(t *testing.T, g *gateway) {
		g.bank.order("A1", watch.IsClosed, 100)
		g.bank.set(func() { g.bank.saying["A1"] = answer{Order: watch.IsClosed, Mid: "899"} })
		g.call("/order", request{Order: "A1", Amount: 100, Mid: "898"}, watch.Unknown, "")
		late := make(chan struct{})
		g.bank.set(func() { g.bank.slow = late })
		after(7 * time.Second) // the first look is on its way
		g.notify("A1", answer{Order: watch.IsPaid, Amount: 100, Mid: "898"}, true)
		g.bank.set(func() { g.bank.slow = nil })
		close(late)
		after(time.Minute)
		if cried := g.cried(); cried != "[order_differs A1]" {
			t.Error(cried)
		}
	})
}

// TestStaleNotify: the app is down when an order is paid. A notify about the same order that comes out of its turn and says less, which
// the app takes, took the payment's place: nobody told the app any more.
func TestStaleNotify(t *testing.T) {
	for name, stale := range map[string]watch.Finding{
		"closed":                              {Order: watch.IsClosed, Event: &watch.Event{ID: "A1 closed", Type: "payment.closed"}},
		"a refund without a number has begun": {Event: &watch.Event{ID: "A1 processing", Type: "refund.processing"}},
	} {
		t.Run(name, func(t *testing.T) {
			inTime(t, nil, func(t *testing.T, g *gateway) {
				g.ordered("A1", 100)
				g.bank.order("A1", watch.IsPaid, 100)
				g.mailbox.failing(errors.New("the app is down"))
				g.notify("A1", answer{Order: watch.IsPaid, Amount: 100, Mid: "898"}, false)
				after(time.Minute)
				g.mailbox.failing(nil)
				if _, err := g.Notified(t.Context(), "shop", "A1", stale); err != nil {
					t.Fatal(err)
				}
				g.Taken("shop", "A1", stale.Event.ID, true)
				after(time.Hour)
				if times := g.mailbox.times("A1 paid"); times != 1 {
					t.Errorf("told of the payment %d times", times)
				}
			})
		})
	}
}

// TestRepeatedAfterSuccess: an app has the answer that a refund succeeded, ends before it has written that down, and sends the refund
// again, as it should. The answer to that is lost. The refund was known to have succeeded, so that nobody told the app, and another one
// of the same amount was refused for ever; or, where it had been told of an earlier failure, let pass at once.
func TestRepeatedAfterSuccess(t *testing.T) {
	for _, failed := range []bool{false, true} {
		for outcome, code := range map[watch.Outcome]string{watch.Unknown: "", watch.Answered: "BAD_SIGN"} {
			t.Run(fmt.Sprint("failed before=", failed, ", then ", outcome), func(t *testing.T) {
				alike(t, func(t *testing.T, g, other *gateway, _ *storetest.Memory) {
					r1 := request{Order: "A1", Number: "R1", Amount: 30}
					if failed {
						g.bank.refund("A1", "R1", 30, watch.HasFailed)
						g.call("/refund", r1, watch.Unknown, "")
						after(2 * time.Hour)
					}
					g.answered("R1")(true)
					after(time.Second)
					if is := other.again("R2"); is != "" {
						t.Errorf("the app knows: %q", is)
					}
					g.call("/refund", r1, outcome, code)
					after(time.Second)
					if is := other.again("R2"); is != unresolved {
						t.Errorf("it does not: %q", is)
					}
					after(time.Minute)
					if times := g.mailbox.times("A1 R1 succeeded"); times != 1 {
						t.Errorf("told %d times", times)
					}
					if is := other.again("R2"); is != unresolved {
						t.Errorf("told a moment ago: %q", is)
					}
					after(time.Hour)
					if is := other.again("R2"); is != "" {
						t.Errorf("told an hour ago: %q", is)
					}
				})
			})
		}
	}
}

// TestLateFailureIsHeard: a refund is repeated, and the app has an answer to that. Then the notify comes that the first sending had
// failed. The app, which has heard of a failure last, makes the refund with another number: it counted as one that knows.
func TestLateFailureIsHeard(t *testing.T) {
	for _, code := range []string{"PROCESSING", "SUCCESS"} {
		t.Run(code, func(t *testing.T) {
			alike(t, func(t *testing.T, g, other *gateway, _ *storetest.Memory) {
				r1 := request{Order: "A1", Number: "R1", Amount: 30}
				g.call("/refund", r1, watch.Unknown, "")
				after(time.Second)
				g.bank.refund("A1", "R1", 30, map[string]watch.Fact{"PROCESSING": watch.IsPending, "SUCCESS": watch.HasSucceeded}[code])
				g.call("/refund", r1, watch.Answered, code)
				after(time.Millisecond) // before it is written down that the app has the answer
				g.notify("A1", answer{Call: watch.HasFailed, Number: "R1", CallAmount: 30, Mid: "898"}, true)
				after(time.Second)
				if is := other.again("R2"); is != unresolved {
					t.Errorf("another number: %q", is)
				}
				g.bank.refund("A1", "R1", 30, watch.HasSucceeded)
				if is := other.again("R2"); is != unresolved {
					t.Errorf("another number, when the first one has succeeded: %q", is)
				}
				after(time.Hour)
				if times := g.mailbox.times("A1 R1 succeeded"); times != 1 {
					t.Errorf("told of the success %d times", times)
				}
				after(time.Hour)
				if is := other.again("R2"); is != "" {
					t.Errorf("told an hour ago: %q", is)
				}
			})
		})
	}
}

// TestRefundedBeforeTold: somebody gives back a part at the platform's own page, and the notify of that, which names no refund, is the
// first that tells of the payment. The order was known to be refunded in part, so that nobody asked, and the app was never told that it
// is paid.
func TestRefundedBeforeTold(t *testing.T) {
	for _, looks := range []bool{true, false} { // without looks at unpaid orders nobody else tells of the refund
		orders := func(s *watch.Settings) {
			if !looks {
				s.Orders = nil
			}
		}
		inTime(t, orders, func(t *testing.T, g *gateway) {
			g.ordered("A1", 100)
			after(time.Second)
			g.bank.order("A1", watch.IsPartRefunded, 100)
			refund := watch.Finding{Order: watch.IsPartRefunded, Refunded: 30, Event: &watch.Event{ID: "A1 part", Type: "refund.succeeded"}}
			if _, err := g.Notified(t.Context(), "shop", "A1", refund); err != nil {
				t.Fatal(err)
			}
			g.Taken("shop", "A1", "A1 part", true)
			after(time.Hour)
			if is, times := g.state("A1"), g.mailbox.times("A1 paid"); is != watch.PartRefunded || (times == 1) != looks {
				t.Errorf("looks %t: the order is %s, told of the payment %d times", looks, is, times)
			}
		})
	}
}

// TestOrderRepeatedAfterPaid: the same with an order that was paid at once, such as that of a customer's code in a shop. The app has the
// answer, ends before it has written that down, and sends the order again. Nobody told it of the payment.
func TestOrderRepeatedAfterPaid(t *testing.T) {
	inTime(t, nil, func(t *testing.T, g *gateway) {
		r := request{Order: "A1", Amount: 100, Mid: "898"}
		g.bank.order("A1", watch.IsPaid, 100)
		g.call("/order", r, watch.Answered, "PAID")
		after(time.Minute)
		if is, times := g.state("A1"), g.mailbox.times("A1 paid"); is != watch.Paid || times != 0 {
			t.Fatalf("the order is %s, told %d times", is, times)
		}
		g.call("/order", r, watch.Unknown, "")
		after(time.Minute)
		if is, times := g.state("A1"), g.mailbox.times("A1 paid"); is != watch.Paid || times != 1 {
			t.Errorf("the order is %s, told %d times", is, times)
		}
		if after(time.Hour); g.Followed() != 0 {
			t.Error("it is still followed")
		}
	})
}

// TestToldAboutTheOrder: a cancel whose answer was lost, and a notify that tells the same as a query of it would. The app has the event:
// the cancel is not asked about any more, though the event was told about the order.
func TestToldAboutTheOrder(t *testing.T) {
	inTime(t, nil, func(t *testing.T, g *gateway) {
		g.paidAndTold("A1", 100)
		g.bank.refund("A1", "cancel", 100, watch.HasSucceeded)
		g.call("/refund", request{Order: "A1", Number: "cancel", Whole: true}, watch.Unknown, "")
		canceled := watch.Finding{Order: watch.IsRefunded, Event: &watch.Event{ID: "A1 cancel succeeded", Type: "payment.closed"}}
		if _, err := g.Notified(t.Context(), "shop", "A1", canceled); err != nil {
			t.Fatal(err)
		}
		g.Taken("shop", "A1", "A1 cancel succeeded", true)
		after(day)
		if asked := g.bank.questions("A1/cancel"); len(asked) != 1 || g.Followed() != 0 || g.refundState("A1", "cancel") != watch.Succeeded {
			t.Errorf("asked at %v, %d followed, the cancel is %s", asked, g.Followed(), g.refundState("A1", "cancel"))
		}
	})
}

// TestToldAfterProcessing: an app has heard that a refund is under way, and then that it has failed, or was not found. When the platform
// says after all that it has succeeded, the app counted as one that knows: another number was let pass.
func TestToldAfterProcessing(t *testing.T) {
	for what, says := range map[string]watch.Fact{"failed": watch.HasFailed, "not_found": watch.IsAbsent} {
		t.Run(what, func(t *testing.T) {
			alike(t, func(t *testing.T, g, other *gateway, _ *storetest.Memory) {
				g.bank.refund("A1", "R1", 30, watch.IsPending)
				g.call("/refund", request{Order: "A1", Number: "R1", Amount: 30}, watch.Answered, "PROCESSING")
				g.bank.set(func() { g.bank.saying["A1/R1"] = answer{Call: says, CallAmount: 30} })
				after(2 * time.Hour)
				if times := g.mailbox.times("A1 R1 " + what); times != 1 {
					t.Fatalf("told %v", g.mailbox.all())
				}
				g.bank.set(func() { delete(g.bank.saying, "A1/R1") })
				g.bank.refund("A1", "R1", 30, watch.HasSucceeded)
				if what == "failed" {
					g.notify("A1", answer{Call: watch.HasSucceeded, Number: "R1", CallAmount: 30, Mid: "898"}, true)
				}
				if is := other.again("R2"); is != unresolved {
					t.Errorf("another number: %q", is)
				}
				after(2 * time.Hour)
				if is := other.again("R2"); is != "" {
					t.Errorf("told an hour ago: %q", is)
				}
			})
		})
	}
}

// TestCanceledIsClosed: the platform calls an order closed whose money was given back by a cancel, and does not say that it was paid, as
// the query of a guarantee that was canceled. That was taken for what a server says that lags behind: the app was never told of the cancel.
func TestCanceledIsClosed(t *testing.T) {
	inTime(t, nil, func(t *testing.T, g *gateway) {
		g.paidAndTold("A1", 100)
		g.call("/refund", request{Order: "A1", Number: "cancel", Whole: true}, watch.Unknown, "")
		g.bank.set(func() { g.bank.saying["A1/cancel"] = answer{Order: watch.IsClosed, Call: watch.HasSucceeded} })
		after(day)
		if is, times := g.refundState("A1", "cancel"), g.mailbox.times("A1 cancel succeeded"); is != watch.Succeeded || times != 1 {
			t.Errorf("the cancel is %s, told %d times", is, times)
		}
		if asked := g.bank.questions("A1/cancel"); len(asked) != 1 || g.Followed() != 0 {
			t.Errorf("asked at %v, %d followed", asked, g.Followed())
		}
	})
}

// TestToldAboutAnother: a query of a cancel that is under way says that the order is paid, which the app knows. That counted as an event
// that says less, so that the order was asked about again and again, too.
func TestToldAboutAnother(t *testing.T) {
	inTime(t, nil, func(t *testing.T, g *gateway) {
		g.bank.order("A1", watch.IsPaid, 100)
		g.call("/order", request{Order: "A1", Amount: 100, Mid: "898"}, watch.Unknown, "")
		g.notify("A1", answer{Order: watch.IsPaid, Amount: 100, Mid: "898"}, true)
		g.bank.set(func() { g.bank.saying["A1/cancel"] = answer{Order: watch.IsPaid, Call: watch.IsPending, Amount: 100} })
		g.call("/refund", request{Order: "A1", Number: "cancel", Whole: true}, watch.Unknown, "")
		after(day)
		if asked := g.bank.questions("A1"); len(asked) != 0 {
			t.Errorf("asked at %v", asked)
		}
	})
}
