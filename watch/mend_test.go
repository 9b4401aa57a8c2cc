package watch_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/watch"
	"github.com/caddy-chinaums/caddy-chinaums/watch/storetest"
)

// TestNeverTold: what the app could not be told of was forgotten after give_up without a word. It is stuck, and is told all the same
// when somebody asks for it; the order stays paid.
func TestNeverTold(t *testing.T) {
	for _, way := range []string{"the inbox is full", "the platform is silent"} {
		t.Run(way, func(t *testing.T) {
			inTime(t, nil, func(t *testing.T, g *gateway) {
				g.ordered("A1", 100)
				g.bank.order("A1", watch.IsPaid, 100)
				g.mailbox.failing(errors.New("the inbox is full"))
				after(2 * time.Hour)
				if way == "the platform is silent" {
					g.bank.set(func() { g.bank.deaf = func(watch.Query) error { return errors.New("down") } })
				}
				after(8 * day)
				stuck, err := g.List(t.Context(), watch.Select{State: watch.Stuck, Limit: 10})
				if err != nil || len(stuck) != 1 || stuck[0].State != watch.Paid || stuck[0].Told[0].Stuck == 0 {
					t.Fatalf("%+v, %v", stuck, err)
				}
				if s := g.Stats(); s.States[watch.Stuck] != 1 {
					t.Errorf("%v", s.States)
				}
				asked := len(g.bank.questions("A1"))
				after(30 * day)
				if more := len(g.bank.questions("A1")) - asked; more != 0 || g.cried() != "[]" {
					t.Errorf("%d more questions, %s", more, g.cried())
				}
				if removed, err := g.RemoveOld(time.Now()); removed != 0 || err != nil {
					t.Errorf("removed %d, %v", removed, err)
				}
				g.bank.set(func() { g.bank.deaf = nil })
				g.mailbox.failing(nil)
				if _, err := g.Resend(t.Context(), "shop", "A1"); err != nil {
					t.Fatal(err)
				}
				if s := g.Stats(); g.mailbox.times("A1 paid") != 1 || s.States[watch.Stuck] != 0 || g.Followed() != 0 {
					t.Errorf("told %d times, %v", g.mailbox.times("A1 paid"), s.States)
				}
			})
		})
	}
}

// TestBacklog: unresolved refunds stood in one queue with what the app was not told: with an inbox that was full for an hour nobody
// looked at them for hours.
func TestBacklog(t *testing.T) {
	inTime(t, func(s *watch.Settings) { s.Rate = 1 }, func(t *testing.T, g *gateway) {
		g.mailbox.failing(errors.New("the inbox is full"))
		for i := range 5000 {
			number := fmt.Sprintf("B%d", i)
			g.bank.order(number, watch.IsPaid, 100)
			g.notify(number, answer{Order: watch.IsPaid, Amount: 100}, false)
		}
		after(time.Minute)
		g.paidAndTold("A1", 100)
		g.bank.refund("A1", "R1", 60, watch.IsPending)
		sent := time.Since(g.bank.began)
		g.call("/refund", request{Order: "A1", Number: "R1", Amount: 60}, watch.Unknown, "")
		after(11 * time.Minute)
		looks := g.bank.questions("A1/R1")
		for n, age := range []time.Duration{5 * time.Second, 30 * time.Second, time.Minute, 3 * time.Minute, 5 * time.Minute, 10 * time.Minute} {
			if n >= len(looks) || looks[n]-sent > age+age/10+5*time.Second {
				t.Fatalf("looked at %v after %v; want look %d at %v", looks, sent, n, age)
			}
		}
		if all := len(g.bank.asked); all > 12*60+10 {
			t.Errorf("%d questions", all)
		}
	})
}

// TestGuardIsBound: the 3 s bounded only the query. An app waited 30 s more while the app was told of what it had found.
func TestGuardIsBound(t *testing.T) {
	for _, slow := range []string{"the platform", "the inbox"} {
		t.Run(slow, func(t *testing.T) {
			inTime(t, nil, func(t *testing.T, g *gateway) {
				g.paidAndTold("A1", 100)
				g.bank.refund("A1", "R1", 60, watch.HasFailed)
				g.call("/refund", request{Order: "A1", Number: "R1", Amount: 60}, watch.Unknown, "")
				open := make(chan struct{})
				if slow == "the platform" {
					g.bank.set(func() { g.bank.slow = open })
				} else {
					g.mailbox.mu.Lock()
					g.mailbox.slow = open
					g.mailbox.mu.Unlock()
				}
				begin := time.Now()
				refusal := g.call("/refund", request{Order: "A1", Number: "R2", Amount: 60}, watch.Answered, "SUCCESS")
				bound := map[string]time.Duration{"the platform": 3 * time.Second, "the inbox": 0}[slow]
				if took := time.Since(begin); took > bound || (refusal == nil) != (slow == "the inbox") {
					t.Errorf("%v, %+v", took, refusal)
				}
				close(open)
				after(time.Second)
				if g.refundState("A1", "R1") != watch.Failed || g.mailbox.times("A1 R1 failed") != 1 {
					t.Errorf("what came later is lost: %s, told %d times", g.refundState("A1", "R1"), g.mailbox.times("A1 R1 failed"))
				}
			})
		})
	}
}

// TestSlowListener: whoever listened to order_differs or late_paid, and took his time, held back the notify.
func TestSlowListener(t *testing.T) {
	inTime(t, nil, func(t *testing.T, g *gateway) {
		deaf := make(chan struct{})
		g.mu.Lock()
		g.deaf = deaf
		g.mu.Unlock()
		begin := time.Now()
		for _, number := range []string{"A1", "A2", "A3"} {
			g.ordered(number, 100)
			if n := g.notify(number, answer{Order: watch.IsPaid, Amount: 1}, true); n.Ordered != watch.OrderedDiffers {
				t.Errorf("%+v", n)
			}
		}
		if took := time.Since(begin); took != 0 {
			t.Errorf("the notifies took %v", took)
		}
		close(deaf)
		synctest.Wait()
		if g.cried() != "[order_differs A1 order_differs A2 order_differs A3]" {
			t.Error(g.cried())
		}
	})
}

// hanging is a store that does not answer, as one does that is cut off.
type hanging struct {
	*storetest.Memory
	hangs atomic.Bool
	tried atomic.Int64
}

func (h *hanging) Get(ctx context.Context, key string) (watch.Entry, error) {
	if h.hangs.Load() {
		h.tried.Add(1)
		<-ctx.Done()
		return watch.Entry{}, ctx.Err()
	}
	return h.Memory.Get(ctx, key)
}

// TestStoreHangs: with the store cut off each notify waited 3 s for it, twice. Now one does, and the others go on at once.
func TestStoreHangs(t *testing.T) {
	for _, refunds := range []string{watch.Enforce, watch.Warn, watch.Off} {
		t.Run(refunds, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, store := newBank(), &hanging{Memory: storetest.NewMemory(nil)}
				g := joinStore(t, store, b, newMailbox(), "one", func(s *watch.Settings) { s.Refunds = refunds })
				defer g.Close()
				g.paidAndTold("A1", 100)
				after(time.Second)
				store.hangs.Store(true)
				begin := time.Now()
				for i := range 100 {
					number := fmt.Sprintf("B%d", i)
					g.ordered(number, 100)
					f := answer{Order: watch.IsPaid, Amount: 100, Mid: "898"}.finding(number, "")
					if n, err := g.Notified(t.Context(), "shop", number, f); err == nil || n.Told || n.Busy || n.Ordered != watch.OrderedUnseen {
						t.Fatalf("%+v, %v", n, err)
					}
					g.Taken("shop", number, f.Event.ID, true)
				}
				refusal := g.call("/refund", request{Order: "A1", Number: "R1", Amount: 60}, watch.Answered, "SUCCESS")
				if refused := refusal != nil && refusal.Status == 503 && refusal.Code == watch.CodeUnavailable; refused != (refunds != watch.Off) {
					t.Errorf("%+v", refusal)
				}
				if took := time.Since(begin); took > 4*time.Second {
					t.Errorf("all of it took %v", took)
				}
				after(20 * time.Second)
				if tried := store.tried.Load(); tried > 10 {
					t.Errorf("the store was tried %d times", tried)
				}
				store.hangs.Store(false)
				after(10 * time.Second)
				for i := range 100 {
					if o := g.row(fmt.Sprintf("B%d", i)); o.State != watch.Paid || !o.Seen || o.Told[0].Taken == 0 {
						t.Fatalf("%+v", o)
					}
				}
				if refusal := g.call("/refund", request{Order: "A1", Number: "R2", Amount: 40}, watch.Answered, "SUCCESS"); refusal != nil {
					t.Errorf("%+v", refusal)
				}
			})
		})
	}
}

// TestPanics: a mistake in a platform's code left the order locked until the next start, or ended the process.
func TestPanics(t *testing.T) {
	inTime(t, nil, func(t *testing.T, g *gateway) {
		panics := func(in string) { g.bank.set(func() { g.bank.panics = in }) }
		g.paidAndTold("A1", 100)
		g.bank.refund("A1", "R1", 60, watch.HasSucceeded)
		panics("Answered")
		g.call("/refund", request{Order: "A1", Number: "R1", Amount: 60}, watch.Answered, "SUCCESS")
		if is := g.refundState("A1", "R1"); is != watch.Unresolved {
			t.Errorf("it is %s", is)
		}
		for _, in := range []string{"Ask", "Read"} {
			panics(in)
			after(2 * time.Second)
			if refusal := g.call("/refund", request{Order: "A1", Number: "R2", Amount: 60}, watch.Answered, "SUCCESS"); refusal == nil || refusal.Code != watch.CodeUnresolved {
				t.Errorf("%s: %+v", in, refusal)
			}
			after(time.Minute)
		}
		panics("")
		after(2 * time.Second)
		if refusal := g.call("/refund", request{Order: "A1", Number: "R2", Amount: 40}, watch.Answered, "SUCCESS"); refusal != nil {
			t.Errorf("%+v", refusal)
		}
		if g.refundState("A1", "R1") != watch.Succeeded || g.count("query unreadable") < 2 {
			t.Errorf("%s", g.refundState("A1", "R1"))
		}
	})
}

// TestQueryNow: a person's query neither disturbs a platform that is busy with the order, nor says that it was asked when it was not.
func TestQueryNow(t *testing.T) {
	inTime(t, nil, func(t *testing.T, g *gateway) {
		g.ordered("A1", 100)
		after(2 * time.Second)
		query := func() time.Duration {
			t.Helper()
			var not *watch.NotNow
			if _, err := g.Query(t.Context(), "shop", "A1"); err != nil && !errors.As(err, &not) {
				t.Fatal(err)
			} else if err != nil {
				return not.Wait
			}
			return 0
		}
		g.bank.set(func() { g.bank.saying["A1"] = answer{Wait: true} })
		if wait := query(); wait != 0 || len(g.bank.questions("A1")) != 1 {
			t.Errorf("the first has to wait for %v", wait)
		}
		for _, passes := range []time.Duration{0, 10 * time.Second, 40 * time.Second} {
			after(passes)
			if wait := query(); wait < 5*time.Second || wait > time.Minute || len(g.bank.questions("A1")) != 1 {
				t.Errorf("to wait for %v, asked at %v", wait, g.bank.questions("A1"))
			}
		}
		after(11 * time.Second)
		if wait := query(); wait != 0 && len(g.bank.questions("A1")) < 2 {
			t.Errorf("a minute later: %v", wait)
		}
	})
}

// TestRefundOfDiffering: with `amounts reject` no refund of an order was told whose amount was not what was ordered: the app never
// heard that the money is back.
func TestRefundOfDiffering(t *testing.T) {
	inTime(t, func(s *watch.Settings) { s.Amounts = watch.Reject }, func(t *testing.T, g *gateway) {
		g.ordered("A1", 100)
		g.bank.order("A1", watch.IsPaid, 1)
		if n := g.notify("A1", answer{Order: watch.IsPaid, Amount: 1, Mid: "898"}, true); n.Ordered != watch.OrderedDiffers {
			t.Errorf("%+v", n)
		}
		if n := g.notify("A1", answer{Call: watch.HasSucceeded, Number: "P9", CallAmount: 1, Mid: "898"}, true); n.Ordered != watch.OrderedTrue {
			t.Errorf("its refund: %+v", n)
		}
		if n := g.notify("A1", answer{Call: watch.HasSucceeded, Number: "P8", CallAmount: 1, Mid: "899"}, true); n.Ordered != watch.OrderedDiffers {
			t.Errorf("somebody else's: %+v", n)
		}
		g.bank.refund("A1", "R1", 1, watch.HasSucceeded)
		g.call("/refund", request{Order: "A1", Number: "R1", Amount: 1}, watch.Unknown, "")
		after(time.Minute)
		if g.mailbox.times("A1 R1 succeeded") > 1 || g.mailbox.times("A1 paid") > 1 {
			t.Errorf("%v", g.mailbox.all())
		}
	})
}

// TestAlso: what came under another number of an order, such as that of a bill's payment, was another order: with it a second refund got
// past the guard.
func TestAlso(t *testing.T) {
	inTime(t, nil, func(t *testing.T, g *gateway) {
		g.ordered("bill", 100)
		f := answer{Order: watch.IsPaid, Amount: 100}.finding("bill", "")
		f.Also = "payment"
		if _, err := g.Notified(t.Context(), "shop", "bill", f); err != nil {
			t.Fatal(err)
		}
		g.Taken("shop", "bill", f.Event.ID, true)
		g.call("/refund", request{Order: "bill", Number: "R1", Amount: 60}, watch.Unknown, "")
		if refusal := g.call("/refund", request{Order: "payment", Number: "R2", Amount: 60}, watch.Answered, "SUCCESS"); refusal == nil || refusal.Code != watch.CodeUnresolved {
			t.Errorf("%+v", refusal)
		}
		g.notify("payment", answer{Call: watch.HasSucceeded, Number: "R1", CallAmount: 60}, true)
		if g.refundState("bill", "R1") != watch.Succeeded {
			t.Errorf("the refund is %s", g.refundState("bill", "R1"))
		}
		all, err := g.List(t.Context(), watch.Select{Limit: 10})
		if o := g.row("payment"); err != nil || len(all) != 1 || o.ID != "bill" || o.State != watch.PartRefunded {
			t.Errorf("%d orders, %v, %+v", len(all), err, o)
		}
		after(10 * time.Minute)
		if g.Followed() != 0 || g.mailbox.times("bill paid") != 0 {
			t.Errorf("%d followed, told %v", g.Followed(), g.mailbox.all())
		}
	})
}

// TestAlsoIsWritten: the store was away when the other number of an order was to be written down. It was not known any more: by that
// number the guard knew nothing of the order's refunds.
func TestAlsoIsWritten(t *testing.T) {
	inTime(t, nil, func(t *testing.T, g *gateway) {
		g.ordered("bill", 100)
		var away atomic.Int32
		g.store.Fail(func(method, key string) error {
			if key == "shop/payment" && method == "Put" && away.Add(1) == 1 {
				return storetest.ErrDown
			}
			return nil
		})
		f := answer{Order: watch.IsPaid, Amount: 100}.finding("bill", "")
		f.Also = "payment"
		if _, err := g.Notified(t.Context(), "shop", "bill", f); err != nil {
			t.Fatal(err)
		}
		g.Taken("shop", "bill", f.Event.ID, true)
		after(5 * time.Second)
		g.call("/refund", request{Order: "bill", Number: "R1", Amount: 60}, watch.Unknown, "")
		if refusal := g.call("/refund", request{Order: "payment", Number: "R2", Amount: 60}, watch.Answered, "SUCCESS"); refusal == nil || refusal.Code != watch.CodeUnresolved {
			t.Errorf("%+v", refusal)
		}
	})
}

// TestAlsoIsFirst: the gateway ended after an order's row was written, and before the other number was that leads to it. The number led
// nowhere.
func TestAlsoIsFirst(t *testing.T) {
	inTime(t, nil, func(t *testing.T, g *gateway) {
		g.ordered("bill", 100)
		paid := false
		g.store.Fail(func(method, key string) error {
			if _, leads := g.store.Rows()["shop/payment"]; key == "shop/bill" && method == "Put" && !leads {
				paid = true
			}
			return nil
		})
		f := answer{Order: watch.IsPaid, Amount: 100}.finding("bill", "")
		f.Also = "payment"
		if _, err := g.Notified(t.Context(), "shop", "bill", f); err != nil {
			t.Fatal(err)
		}
		if paid {
			t.Error("the row was written first")
		}
	})
}

// TestAlsoIsKept: the other number of an order was forgotten `keep` after it was learnt, however young the order's row was. By that
// number the guard knew nothing of the order's refunds.
func TestAlsoIsKept(t *testing.T) {
	inTime(t, nil, func(t *testing.T, g *gateway) {
		g.ordered("bill", 100)
		f := answer{Order: watch.IsPaid, Amount: 100}.finding("bill", "")
		f.Also = "payment"
		if _, err := g.Notified(t.Context(), "shop", "bill", f); err != nil {
			t.Fatal(err)
		}
		g.Taken("shop", "bill", f.Event.ID, true)
		after(time.Hour)
		keep := func(since time.Time) {
			t.Helper()
			if _, err := g.RemoveOld(since); err != nil {
				t.Fatal(err)
			}
		}
		between := time.Now()
		g.call("/refund", request{Order: "bill", Number: "R1", Amount: 60}, watch.Answered, "SUCCESS")
		keep(between)
		if refusal := g.call("/refund", request{Order: "payment", Number: "R2", Amount: 60}, watch.Answered, "SUCCESS"); refusal == nil || refusal.Code != watch.CodeInvalid {
			t.Errorf("%+v", refusal)
		}
		after(time.Hour)
		keep(time.Now())
		keep(time.Now()) // the row may go after the number that leads to it
		if rows := g.store.Rows(); len(rows) != 0 {
			t.Errorf("%d rows are left", len(rows))
		}
	})
}

// TestSumOfRefunds: what a platform has given back in all counts, as long as it cannot hold a refund whose end is not known. Counted with
// such a one, the refund itself would be taken for one made elsewhere.
func TestSumOfRefunds(t *testing.T) {
	inTime(t, nil, func(t *testing.T, g *gateway) {
		sum := func(order string, back int64) {
			t.Helper()
			f := watch.Finding{Word: "part", Order: watch.IsPartRefunded, Refunded: back, Sum: true}
			if _, err := g.Notified(t.Context(), "shop", order, f); err != nil {
				t.Fatal(err)
			}
		}
		refund := func(order, number string, amount int64) string {
			t.Helper()
			if refusal := g.call("/refund", request{Order: order, Number: number, Amount: amount}, watch.Unknown, ""); refusal != nil {
				return refusal.Code
			}
			return ""
		}
		g.paidAndTold("A1", 100)
		sum("A1", 30)
		if code := refund("A1", "R1", 71); code != watch.CodeInvalid {
			t.Errorf("more than is left: %q", code)
		}
		if code := refund("A1", "R1", 70); code != "" {
			t.Errorf("what is left: %q", code)
		}
		g.paidAndTold("A2", 100)
		if code := refund("A2", "R1", 60); code != "" {
			t.Error(code)
		}
		sum("A2", 60)
		if o := g.row("A2"); o.Refunded != 0 || o.State != watch.PartRefunded {
			t.Errorf("%s, %d are refunded", o.State, o.Refunded)
		}
	})
}

// TestClockIsSetBack: neither does a call stay on its way, nor an event being told, until the clock has caught up.
func TestClockIsSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, m, store := newBank(), newMailbox(), storetest.NewMemory(nil)
		b.order("A1", watch.IsPaid, 100)
		ahead := joinAt(t, store, b, m, "one", 24*time.Hour, nil)
		ahead.call("/order", request{Order: "A1", Amount: 100}, watch.Answered, "SUCCESS")
		if _, refusal := ahead.Before(t.Context(), "shop", "/refund", request{Order: "A1", Number: "R1", Amount: 60}.body(), ""); refusal != nil {
			t.Fatalf("%+v", refusal)
		}
		f := answer{Order: watch.IsPaid, Amount: 100}.finding("A1", "")
		if _, err := ahead.Notified(t.Context(), "shop", "A1", f); err != nil {
			t.Fatal(err)
		}
		ahead.Close()
		g := join(t, store, b, m, "two", nil)
		defer g.Close()
		if n, err := g.Notified(t.Context(), "shop", "A1", f); err != nil || n.Busy {
			t.Errorf("%+v, %v", n, err)
		}
		if refusal := g.call("/refund", request{Order: "A1", Number: "R2", Amount: 60}, watch.Answered, "SUCCESS"); refusal == nil || refusal.Code != watch.CodeUnresolved {
			t.Errorf("%+v", refusal)
		}
	})
}

// TestLastLook: the store is away when what the last look found is to be written down, or the gateway ends then. No look was left, but
// nobody had given up either: the refund was unresolved for good, and nobody knew that a person has to look.
func TestLastLook(t *testing.T) {
	for _, what := range []string{"a refund", "an order", "an event"} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := storetest.NewMemory(nil)
				store.Alone = true
				g := join(t, store, newBank(), newMailbox(), "one", nil)
				defer g.Close()
				down := away(store)
				switch what {
				case "a refund":
					g.paidAndTold("A1", 100)
					g.call("/refund", request{Order: "A1", Number: "R1", Amount: 30}, watch.Unknown, "")
				case "an order":
					g.call("/order", request{Order: "A1", Amount: 100, Mid: "898"}, watch.Unknown, "")
				case "an event":
					g.ordered("A1", 100)
					g.bank.order("A1", watch.IsPaid, 100)
					g.mailbox.failing(errors.New("the inbox is full"))
				}
				began := time.Now()
				g.bank.set(func() {
					g.bank.saying["A1"] = answer{}
					if what == "an event" {
						delete(g.bank.saying, "A1")
					}
					g.bank.deaf = func(watch.Query) error {
						if time.Since(began) > 7*24*time.Hour-time.Minute {
							down.Store(true)
						}
						return nil
					}
				})
				after(7*24*time.Hour + 10*time.Minute)
				if !down.Load() {
					t.Fatal("there was no last look")
				}
				g.bank.set(func() { g.bank.deaf = nil })
				down.Store(false)
				after(10 * time.Minute)
				if list, err := g.List(t.Context(), watch.Select{State: watch.Stuck, Limit: 9}); err != nil || len(list) != 1 {
					t.Errorf("%d are stuck, %v; A1 is %s, R1 %s", len(list), err, g.state("A1"), g.refundState("A1", "R1"))
				}
				if g.Followed() != 1 || g.Stats().States[watch.Stuck] != 1 {
					t.Errorf("counted: %+v", g.Stats())
				}
			})
		})
	}
}

// TestAlsoIsWrittenOnce: nothing can be written for a while, such as to a full disk, when the other number of an order was learnt. At each
// try another change was left for later, until there was no room for those of other orders.
func TestAlsoIsWrittenOnce(t *testing.T) {
	inTime(t, nil, func(t *testing.T, g *gateway) {
		g.ordered("bill", 100)
		after(time.Second)
		var full atomic.Bool
		var tries atomic.Int32
		full.Store(true)
		g.store.Fail(func(method, key string) error {
			if method != "Put" || !full.Load() {
				return nil
			}
			if key == "shop/payment" {
				tries.Add(1)
			}
			return storetest.ErrDown
		})
		f := answer{Order: watch.IsPaid, Amount: 100}.finding("bill", "")
		f.Also = "payment"
		if _, err := g.Notified(t.Context(), "shop", "bill", f); err == nil {
			t.Fatal("it was written")
		}
		after(time.Minute)
		if is := g.Overdue(); is != 1 {
			t.Errorf("%d changes wait after %d tries", is, tries.Load())
		}
		full.Store(false)
		after(5 * time.Second)
		if _, leads := g.store.Rows()["shop/payment"]; !leads || g.Overdue() != 0 {
			t.Errorf("the number leads there: %t; %d changes wait", leads, g.Overdue())
		}
	})
}

// TestAlsoOfSeveral: two changes of an order are made up for at once, of which the first one has learnt another number of the order. The
// second one, which had not, took it away.
func TestAlsoOfSeveral(t *testing.T) {
	inTime(t, nil, func(t *testing.T, g *gateway) {
		g.ordered("bill", 100)
		after(time.Second)
		ticket, refusal := g.Before(t.Context(), "shop", "/close", request{Order: "bill", Number: "close"}.body(), "")
		if refusal != nil {
			t.Fatalf("%+v", refusal)
		}
		var tries atomic.Int32
		g.store.Fail(func(method, key string) error {
			if key == "shop/payment" && method == "Put" && tries.Add(1) == 1 {
				return storetest.ErrDown
			}
			return nil
		})
		f := answer{Order: watch.IsPaid, Amount: 100}.finding("bill", "")
		f.Also = "payment"
		if _, err := g.Notified(t.Context(), "shop", "bill", f); err != nil {
			t.Fatal(err)
		}
		g.After(ticket, watch.Answered, "FAIL", nil)
		after(5 * time.Second)
		if _, leads := g.store.Rows()["shop/payment"]; !leads {
			t.Error("the number leads nowhere")
		}
	})
}

// sortedStore goes through its rows by their keys, as a file does.
type sortedStore struct{ *storetest.Memory }

func (s sortedStore) All(ctx context.Context, each func(watch.Entry) error) error {
	rows := s.Rows()
	for _, key := range slices.Sorted(maps.Keys(rows)) {
		if err := each(rows[key]); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// TestManyAlsoAreKept: ten thousand other numbers lead to orders that are still young. They took the places of all old orders behind them,
// which were never removed.
func TestManyAlsoAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := storetest.NewMemory(nil)
		g := joinStore(t, sortedStore{store}, newBank(), newMailbox(), "one", nil)
		defer g.Close()
		put := func(number string, o watch.Order) {
			t.Helper()
			value, err := o.Encoded()
			if err == nil {
				_, err = store.Put(t.Context(), "shop/"+number, value, 0)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		for i := range 10_000 {
			put(fmt.Sprint("payment ", i), watch.Order{Same: "young", Changed: 1})
		}
		put("young", watch.Order{Track: watch.Track{State: watch.Paid}, Seen: true, Changed: time.Now().UnixMilli()})
		put("z old", watch.Order{Track: watch.Track{State: watch.Paid}, Seen: true, Changed: 1})
		if removed, err := g.RemoveOld(time.Now()); removed != 1 || err != nil {
			t.Errorf("removed %d, %v", removed, err)
		}
	})
}

// TestLastLookDoesNotGiveWay: what the last look at an order found could not be written down. The look after it counted as one at an order
// that may still be paid: where the rate does not allow all, it would have been left out.
func TestLastLookDoesNotGiveWay(t *testing.T) {
	inTime(t, nil, func(t *testing.T, g *gateway) {
		down := away(g.store)
		g.ordered("A1", 100)
		began := time.Now()
		g.bank.set(func() {
			g.bank.deaf = func(watch.Query) error {
				if time.Since(began) > 7*24*time.Hour-time.Minute {
					down.Store(true)
				}
				return errors.New("the platform is silent")
			}
		})
		after(7*24*time.Hour + 10*time.Minute)
		if !down.Load() {
			t.Fatal("there was no last look")
		}
		down.Store(false)
		if o := g.row("A1"); o.Next == 0 || o.Class != watch.Due {
			t.Errorf("the next look is at %d, of the class %d", o.Next, o.Class)
		}
	})
}
