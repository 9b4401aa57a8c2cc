package watch_test

import (
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

// answered sends a refund of 30 that succeeds, up to where its app is given the answer.
func (g *gateway) answered(number string) (told func(heard bool)) {
	g.t.Helper()
	ticket, refusal := g.Before(g.t.Context(), "shop", "/refund", request{Order: "A1", Number: number, Amount: 30}.body(), "")
	if refusal != nil {
		g.t.Fatalf("%s: %+v", number, refusal)
	}
	g.bank.refund("A1", number, 30, watch.HasSucceeded)
	if told = g.Watch.After(ticket, watch.Answered, "SUCCESS", nil); told == nil {
		g.t.Fatal("nobody wants to know whether the app has heard")
	}
	return told
}

// again is what the guard says to a refund of 30 with this number: `503 CODE number`, or nothing. It is not sent.
func (g *gateway) again(number string) string {
	g.t.Helper()
	ticket, refusal := g.Before(g.t.Context(), "shop", "/refund", request{Order: "A1", Number: number, Amount: 30}.body(), "")
	g.After(ticket, watch.NotSent, "", nil)
	if refusal == nil {
		return ""
	}
	return fmt.Sprint(refusal.Status, " ", refusal.Code, " ", refusal.Number)
}

const (
	busy       = "409 GATEWAY_BUSY R1"
	unresolved = "409 GATEWAY_REFUND_UNRESOLVED R1"
)

// alike runs a test with the gateway alone, and with two on one store, of which the second one is asked for the second refund.
func alike(t *testing.T, run func(t *testing.T, g, other *gateway, store *storetest.Memory)) {
	for _, alone := range []bool{true, false} {
		t.Run(fmt.Sprint("alone=", alone), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := storetest.NewMemory(nil)
				store.Alone = alone
				g := join(t, store, newBank(), newMailbox(), "one", nil)
				defer g.Close()
				other := g
				if !alone {
					other = join(t, store, g.bank, g.mailbox, "two", nil)
					defer other.Close()
				}
				g.paidAndTold("A1", 100)
				after(time.Second)
				run(t, g, other, store)
			})
		})
	}
}

// TestAnswerIsNotOut: the gateway ends when it has the answer to a refund, before the app has it. The refund counted as one that
// the app knew of, so that the same again with another number was let pass.
func TestAnswerIsNotOut(t *testing.T) {
	alike(t, func(t *testing.T, g, other *gateway, store *storetest.Memory) {
		g.answered("R1") // and nobody says what became of the answer
		g.Close()
		next := other
		if other == g {
			next = join(t, store, g.bank, g.mailbox, "process 2", nil)
			defer next.Close()
		} else { // it may live, and the app be given its answer
			if is := next.again("R2"); is != busy {
				t.Errorf("at once: %q", is)
			}
			after(15 * time.Second)
		}
		for range 2 {
			if is := next.again("R2"); is != unresolved {
				t.Errorf("%q", is)
			}
		}
		after(time.Minute)
		if times := g.mailbox.times("A1 R1 succeeded"); times != 1 {
			t.Errorf("told %d times", times)
		}
		if is := next.again("R2"); is != unresolved {
			t.Errorf("told a moment ago: %q", is)
		}
		if refusal := next.call("/refund", request{Order: "A1", Number: "R1", Amount: 30}, watch.Answered, "SUCCESS"); refusal != nil {
			t.Errorf("the same again: %+v", refusal)
		}
		if is := next.again("R2"); is != "" {
			t.Errorf("after that: %q", is)
		}
	})
}

// TestAnswerGoesOut: an app that has its answer, and at once makes another refund like it, is not refused because the gateway is
// not done with the first one: neither while it is slow to notice that the answer is out, nor while that is being written down.
func TestAnswerGoesOut(t *testing.T) {
	for heard, want := range map[bool]string{true: "", false: unresolved} {
		alike(t, func(t *testing.T, g, other *gateway, store *storetest.Memory) {
			var slow atomic.Bool
			store.Fail(func(method, _ string) error {
				if method == "Put" && slow.CompareAndSwap(true, false) {
					time.Sleep(time.Second)
				}
				return nil
			})
			told := g.answered("R1")
			slow.Store(true)
			var second atomic.Pointer[string]
			go func() {
				is := other.again("R2")
				second.Store(&is)
			}()
			after(100 * time.Millisecond)
			if is := second.Load(); is != nil {
				t.Fatalf("before the first answer is out: %q", *is)
			}
			told(heard)
			after(5 * time.Second)
			if is := second.Load(); is == nil || *is != want {
				t.Errorf("heard %t: %v", heard, is)
			}
		})
	}
}

// TestManyAlike: refunds like each other, one after the other, each at another gateway and as soon as the app has the answer to
// the one before.
func TestManyAlike(t *testing.T) {
	alike(t, func(t *testing.T, g, other *gateway, _ *storetest.Memory) {
		g.answered("R1")(true)
		other.answered("R2")(true)
		g.answered("R3")(true)
		synctest.Wait()
		for number, want := range map[string]watch.State{"R1": watch.Succeeded, "R2": watch.Succeeded, "R3": watch.Succeeded} {
			if is := other.refundState("A1", number); is != want {
				t.Errorf("%s is %s", number, is)
			}
		}
		after(25 * time.Hour)
		if told := g.mailbox.all(); len(told) != 1 { // the payment
			t.Errorf("told again: %v", told)
		}
	})
}

// TestOnItsWayIsNotWaitedFor: two clicks are not two refunds. Whoever comes while the platform has the first one is refused at once,
// and does not wait until it has ended and there is room for a second one.
func TestOnItsWayIsNotWaitedFor(t *testing.T) {
	alike(t, func(t *testing.T, g, other *gateway, _ *storetest.Memory) {
		if _, refusal := g.Before(t.Context(), "shop", "/refund", request{Order: "A1", Number: "R1", Amount: 30}.body(), ""); refusal != nil {
			t.Fatalf("%+v", refusal)
		}
		begin := time.Now()
		if is := other.again("R2"); is != busy || time.Since(begin) > 10*time.Millisecond {
			t.Errorf("%q after %v", is, time.Since(begin))
		}
	})
}

// TestSlowToHear: an app that does not take its answer holds up another refund for 3 s at most, and in the end has not heard it. If
// it takes it after all, it has.
func TestSlowToHear(t *testing.T) {
	alike(t, func(t *testing.T, g, other *gateway, _ *storetest.Memory) {
		told := g.answered("R1")
		begin := time.Now()
		if is, took := other.again("R2"), time.Since(begin); is != busy || took < 2*time.Second || took > 3500*time.Millisecond {
			t.Errorf("%q after %v", is, took)
		}
		after(3 * time.Minute)
		if is, times := other.again("R2"), g.mailbox.times("A1 R1 succeeded"); is != unresolved || times != 1 {
			t.Errorf("%q, told %d times", is, times)
		}
		told(true)
		synctest.Wait()
		if is := other.again("R2"); is != "" {
			t.Errorf("after all: %q", is)
		}
	})
}

// TestHeardIsLost: that the app has its answer cannot be written down while the store is away. The app does not wait for that, and
// afterwards it is as if it had been written at once.
func TestHeardIsLost(t *testing.T) {
	alike(t, func(t *testing.T, g, other *gateway, store *storetest.Memory) {
		down := away(store)
		told := g.answered("R1")
		down.Store(true)
		begin := time.Now()
		told(true)
		if took := time.Since(begin); took != 0 {
			t.Errorf("the app waits for %v", took)
		}
		if is := other.again("R2"); !strings.HasPrefix(is, "503 ") {
			t.Errorf("without a store: %q", is)
		}
		after(10 * time.Second)
		down.Store(false)
		after(5 * time.Second)
		if is := other.again("R2"); is != "" {
			t.Errorf("with it again: %q", is)
		}
	})
}

// TestProcessingIsNotOut: the gateway ends when it has the answer PROCESSING to a refund, and the app has nothing of it. The refund
// counted as one that the app knew of: as soon as it had succeeded, the same again with another number was let pass.
func TestProcessingIsNotOut(t *testing.T) {
	for out, want := range map[string]string{"the app has it": "", "the app is gone": unresolved, "the gateway has ended": unresolved} {
		t.Run(out, func(t *testing.T) {
			alike(t, func(t *testing.T, g, other *gateway, store *storetest.Memory) {
				ticket, refusal := g.Before(t.Context(), "shop", "/refund", request{Order: "A1", Number: "R1", Amount: 30}.body(), "")
				if refusal != nil {
					t.Fatalf("%+v", refusal)
				}
				g.bank.refund("A1", "R1", 30, watch.IsPending)
				told := g.Watch.After(ticket, watch.Answered, "PROCESSING", nil)
				next := other
				switch {
				case out == "the gateway has ended":
					if g.Close(); other == g {
						next = join(t, store, g.bank, g.mailbox, "process 2", nil)
						defer next.Close()
					}
				case told == nil:
					t.Fatal("nobody wants to know whether the app has heard")
				default:
					told(out == "the app has it")
				}
				after(2 * time.Second)
				if is := next.again("R2"); is != unresolved {
					t.Errorf("while it is under way: %q", is)
				}
				g.bank.refund("A1", "R1", 30, watch.HasSucceeded)
				if is := next.again("R2"); is != want {
					t.Errorf("%q", is)
				}
				if is := next.refundState("A1", "R1"); is != watch.Succeeded {
					t.Errorf("R1 is %s", is)
				}
			})
		})
	}
}

// TestRefusedRepetition: a refund whose answer was lost is repeated, and the platform refuses the repetition. That says nothing about
// the first sending, which has succeeded: the app, which has heard of a failure only, makes the refund with another number. It counted
// as one that has heard of the first one, and the money went back twice.
func TestRefusedRepetition(t *testing.T) {
	for _, known := range []bool{true, false} {
		for _, code := range []string{"BAD_SIGN", "FAIL"} {
			if code == "FAIL" && !known {
				continue // the refund has failed then, as a whole
			}
			t.Run(fmt.Sprint(code, ", known before=", known), func(t *testing.T) {
				alike(t, func(t *testing.T, g, other *gateway, _ *storetest.Memory) {
					r1 := request{Order: "A1", Number: "R1", Amount: 30}
					g.bank.refund("A1", "R1", 30, watch.IsPending)
					g.call("/refund", r1, watch.Unknown, "")
					if known {
						g.bank.refund("A1", "R1", 30, watch.HasSucceeded)
						after(time.Minute)
						if is := g.refundState("A1", "R1"); is != watch.Succeeded {
							t.Fatalf("R1 is %s", is)
						}
					}
					g.call("/refund", r1, watch.Answered, code)
					after(2 * time.Second)
					if !known {
						g.bank.refund("A1", "R1", 30, watch.HasSucceeded)
					}
					if is := other.again("R2"); is != unresolved {
						t.Errorf("another number: %q", is)
					}
				})
			})
		}
	}
}

// TestProcessingIsOut: an app has the answer PROCESSING, and at once makes another refund like it, when the platform is done with the
// first one. It was refused because it was not written down yet that the app has the answer.
func TestProcessingIsOut(t *testing.T) {
	alike(t, func(t *testing.T, g, other *gateway, _ *storetest.Memory) {
		ticket, refusal := g.Before(t.Context(), "shop", "/refund", request{Order: "A1", Number: "R1", Amount: 30}.body(), "")
		if refusal != nil {
			t.Fatalf("%+v", refusal)
		}
		g.bank.refund("A1", "R1", 30, watch.HasSucceeded)
		g.Watch.After(ticket, watch.Answered, "PROCESSING", nil)(true)
		if is := other.again("R2"); is != "" {
			t.Errorf("%q", is)
		}
	})
}

// TestToldOfSomethingElse: an app that was told long ago that a refund has failed, or was not found, sends it again, or not, and has no
// answer. What it was told counted as if it had been told of the success that the guard's query finds: another number was let pass.
func TestToldOfSomethingElse(t *testing.T) {
	for _, what := range []string{"failed", "not_found"} {
		t.Run(what, func(t *testing.T) {
			alike(t, func(t *testing.T, g, other *gateway, _ *storetest.Memory) {
				r1 := request{Order: "A1", Number: "R1", Amount: 30}
				if what == "failed" {
					g.bank.refund("A1", "R1", 30, watch.HasFailed)
				}
				g.call("/refund", r1, watch.Unknown, "")
				after(4 * time.Hour)
				if times := g.mailbox.times("A1 R1 " + what); times != 1 {
					t.Fatalf("told %d times: %v", times, g.mailbox.all())
				}
				if what == "failed" {
					g.bank.refund("A1", "R1", 30, watch.IsPending)
					g.call("/refund", r1, watch.Unknown, "")
				}
				g.bank.refund("A1", "R1", 30, watch.HasSucceeded)
				g.mailbox.failing(errors.New("the inbox is full"))
				if is := other.again("R2"); is != unresolved {
					t.Errorf("another number: %q", is)
				}
				if is := g.refundState("A1", "R1"); is != watch.Succeeded {
					t.Errorf("R1 is %s", is)
				}
				g.mailbox.failing(nil)
				after(4 * time.Hour)
				if is := other.again("R2"); is != "" {
					t.Errorf("told two hours ago: %q", is)
				}
			})
		})
	}
}

// TestTakenBeforeItIsWritten: the store is away for a moment when a notify tells of a refund whose answer was lost. That the app took it
// was written down before what it is about, so that the app counted for ever as one that was not told.
func TestTakenBeforeItIsWritten(t *testing.T) {
	alike(t, func(t *testing.T, g, other *gateway, store *storetest.Memory) {
		g.bank.refund("A1", "R1", 30, watch.IsPending)
		g.call("/refund", request{Order: "A1", Number: "R1", Amount: 30}, watch.Unknown, "")
		g.bank.refund("A1", "R1", 30, watch.HasSucceeded)
		down := away(store)
		down.Store(true)
		f := answer{Call: watch.HasSucceeded, Number: "R1", CallAmount: 30}.finding("A1", "")
		if _, err := g.Notified(t.Context(), "shop", "A1", f); err == nil {
			t.Fatal("it was written down")
		}
		down.Store(false)
		g.Taken("shop", "A1", f.Event.ID, true)
		after(2 * time.Hour)
		if is := other.again("R2"); is != "" {
			t.Errorf("told two hours ago: %q", is)
		}
	})
}

// TestPaidIsNotOut: the answer to an order says that it is paid, as that of a customer's code in a shop does, and the app is gone before
// it has the answer, or the gateway is. The order was paid, and nobody told the app: no look at it was left.
func TestPaidIsNotOut(t *testing.T) {
	for _, what := range []string{"gone before", "gone meanwhile", "the gateway ends", "heard"} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, m, store := newBank(), newMailbox(), storetest.NewMemory(nil)
				store.Alone = true
				g := join(t, store, b, m, "process 1", nil)
				defer func() { g.Close() }()
				b.order("A1", watch.IsPaid, 100)
				ticket, refusal := g.Before(t.Context(), "shop", "/order", request{Order: "A1", Amount: 100, Mid: "898"}.body(), "")
				if refusal != nil {
					t.Fatalf("%+v", refusal)
				}
				ticket.Unheard = what == "gone before"
				told := g.Watch.After(ticket, watch.Answered, "PAID", nil)
				if what == "the gateway ends" {
					g.Close()
					g = join(t, store, b, m, "process 2", nil)
				} else if told != nil {
					told(what == "heard")
				}
				after(10 * time.Minute)
				want := 1
				if what == "heard" {
					want = 0
				}
				if is, times := g.state("A1"), m.times("A1 paid"); is != watch.Paid || times != want {
					t.Errorf("%s, told %d times, want %d", is, times, want)
				}
			})
		})
	}
}

// TestFailureIsNotOut: the platform answers that a refund has failed, and the app is gone before it has the answer, or the gateway is.
// The refund counted as one that has failed, and nobody told the app.
func TestFailureIsNotOut(t *testing.T) {
	for _, what := range []string{"gone before", "gone meanwhile", "the gateway ends", "heard"} {
		t.Run(what, func(t *testing.T) {
			alike(t, func(t *testing.T, g, other *gateway, store *storetest.Memory) {
				ticket, refusal := g.Before(t.Context(), "shop", "/refund", request{Order: "A1", Number: "R1", Amount: 30}.body(), "")
				if refusal != nil {
					t.Fatalf("%+v", refusal)
				}
				g.bank.refund("A1", "R1", 30, watch.HasFailed)
				ticket.Unheard = what == "gone before"
				told, next, want := g.Watch.After(ticket, watch.Answered, "FAIL", nil), other, 1
				switch {
				case what == "the gateway ends":
					if g.Close(); other == g {
						next = join(t, store, g.bank, g.mailbox, "process 2", nil)
						defer next.Close()
					}
				case told != nil:
					told(what == "heard")
				}
				if what == "heard" {
					want = 0
					if is := next.again("R2"); is != "" {
						t.Errorf("another one at once: %q", is)
					}
				}
				after(10 * time.Minute)
				if is, times := next.refundState("A1", "R1"), g.mailbox.times("A1 R1 failed"); is != watch.Failed || times != want {
					t.Errorf("R1 is %s, told %d times, want %d", is, times, want)
				}
				if is := next.again("R2"); is != "" {
					t.Errorf("another one: %q", is)
				}
			})
		})
	}
}

// TestFailureWasTold: the notify that a refund has failed comes before the answer that says so, and the app, which takes the notify, is
// gone before the answer. The refund was in doubt again, and others were refused: for good where no query says that one has failed.
func TestFailureWasTold(t *testing.T) {
	alike(t, func(t *testing.T, g, other *gateway, _ *storetest.Memory) {
		ticket, refusal := g.Before(t.Context(), "shop", "/refund", request{Order: "A1", Number: "R1", Amount: 30}.body(), "")
		if refusal != nil {
			t.Fatalf("%+v", refusal)
		}
		g.bank.refund("A1", "R1", 30, watch.IsPending)
		g.notify("A1", answer{Call: watch.HasFailed, Number: "R1", CallAmount: 30, Mid: "898"}, true)
		ticket.Unheard = true
		g.After(ticket, watch.Answered, "FAIL", nil)
		after(time.Minute)
		if is := g.refundState("A1", "R1"); is != watch.Failed {
			t.Errorf("R1 is %s", is)
		}
		if is := other.again("R2"); is != "" {
			t.Errorf("another one: %q", is)
		}
	})
}

// TestToldThatItIsUnderWay: an app has the answer PROCESSING, and at once takes the notify that says the same. It counted as one that does
// not know of the refund: when that had succeeded, another one of the same amount was refused for an hour.
func TestToldThatItIsUnderWay(t *testing.T) {
	alike(t, func(t *testing.T, g, other *gateway, _ *storetest.Memory) {
		g.bank.refund("A1", "R1", 30, watch.IsPending)
		g.call("/refund", request{Order: "A1", Number: "R1", Amount: 30}, watch.Answered, "PROCESSING")
		after(time.Millisecond) // before it is written down that the app has the answer
		f := answer{Call: watch.IsPending, Number: "R1", CallAmount: 30, Mid: "898"}.finding("A1", "")
		f.Event = &watch.Event{ID: "A1 R1 processing", Type: "refund.processing"}
		if _, err := g.Notified(t.Context(), "shop", "A1", f); err != nil {
			t.Fatal(err)
		}
		g.Taken("shop", "A1", f.Event.ID, true)
		after(time.Second)
		g.bank.refund("A1", "R1", 30, watch.HasSucceeded)
		g.notify("A1", answer{Call: watch.HasSucceeded, Number: "R1", CallAmount: 30, Mid: "898"}, true)
		if is := other.again("R2"); is != "" {
			t.Errorf("another one: %q", is)
		}
	})
}
