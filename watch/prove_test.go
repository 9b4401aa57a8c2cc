package watch_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/watch"
)

// TestGuardUnheard: the answer to a refund is lost, and the app takes another number. The guard asks, finds that the first
// one has succeeded, and let the second one pass as there was money left: so an app that retries wrongly had its refund twice,
// by the very question that was to protect it. Now it is refused until the app has repeated the first one, names it, or was told
// of it an hour ago.
func TestGuardUnheard(t *testing.T) {
	t.Run("lost", func(t *testing.T) { guardUnheard(t, watch.Unknown, "") })
	t.Run("refused, and executed", func(t *testing.T) { guardUnheard(t, watch.Answered, "TARGET_FAIL") })
}

func guardUnheard(t *testing.T, outcome watch.Outcome, code string) {
	inTime(t, nil, func(t *testing.T, g *gateway) {
		g.paidAndTold("A1", 100)
		g.bank.refund("A1", "R1", 30, watch.HasSucceeded)
		g.call("/refund", request{Order: "A1", Number: "R1", Amount: 30}, outcome, code)
		after(time.Second)
		second := request{Order: "A1", Number: "R2", Amount: 30}
		for range 3 {
			if refusal := g.call("/refund", second, watch.Answered, "SUCCESS"); refusal == nil || refusal.Code != watch.CodeUnresolved || refusal.Number != "R1" {
				t.Fatalf("%+v", refusal)
			}
			after(5 * time.Second)
		}
		if is, times := g.refundState("A1", "R1"), g.mailbox.times("A1 R1 succeeded"); is != watch.Succeeded || times != 1 {
			t.Errorf("%s, told %d times", is, times)
		}
		if asked := g.bank.questions("A1/R1"); len(asked) != 1 {
			t.Errorf("asked at %v about what is known", asked)
		}
		if refusal := g.call("/refund", request{Order: "A1", Number: "R3", Amount: 20}, watch.Answered, "SUCCESS"); refusal != nil {
			t.Errorf("another amount: %+v", refusal)
		}
		if refusal := g.call("/refund", request{Order: "A1", Number: "R1", Amount: 30}, watch.Answered, "SUCCESS"); refusal != nil {
			t.Errorf("repeated: %+v", refusal)
		}
		if refusal := g.call("/refund", second, watch.Answered, "SUCCESS"); refusal != nil {
			t.Errorf("after that: %+v", refusal)
		}
	})
	inTime(t, nil, func(t *testing.T, g *gateway) { // an app that does nothing, and was told
		g.paidAndTold("A1", 100)
		g.bank.refund("A1", "R1", 30, watch.HasSucceeded)
		g.call("/refund", request{Order: "A1", Number: "R1", Amount: 30}, outcome, code)
		after(61 * time.Minute)
		if refusal := g.call("/refund", request{Order: "A1", Number: "R2", Amount: 30}, watch.Answered, "SUCCESS"); refusal != nil {
			t.Errorf("%+v", refusal)
		}
	})
}

// TestAppIsGone: an app gives up before the answer to its refund comes. Whoever is not there has heard nothing, so that it is told
// by an event, and no refund with another number is sent before.
func TestAppIsGone(t *testing.T) {
	inTime(t, nil, func(t *testing.T, g *gateway) {
		g.paidAndTold("A1", 100)
		ticket, refusal := g.Before(t.Context(), "shop", "/refund", request{Order: "A1", Number: "R1", Amount: 30}.body(), "")
		if refusal != nil {
			t.Fatalf("%+v", refusal)
		}
		g.bank.refund("A1", "R1", 30, watch.HasSucceeded)
		ticket.Unheard = true
		g.After(ticket, watch.Answered, "SUCCESS", nil)
		if refusal := g.call("/refund", request{Order: "A1", Number: "R2", Amount: 30}, watch.Answered, "SUCCESS"); refusal == nil || refusal.Code != watch.CodeUnresolved || refusal.Number != "R1" {
			t.Errorf("%+v", refusal)
		}
		after(time.Minute)
		if is, times := g.refundState("A1", "R1"), g.mailbox.times("A1 R1 succeeded"); is != watch.Succeeded || times != 1 {
			t.Errorf("%s, told %d times", is, times)
		}
	})
}

// TestRefundedBeforePaid: the answer of a refund comes before the payment's own notify, or the query that finds it. The order
// stayed paid, as if nothing had been given back.
func TestRefundedBeforePaid(t *testing.T) {
	for name, test := range map[string]struct {
		amount int64
		whole  bool
		want   watch.State
	}{"a part": {30, false, watch.PartRefunded}, "all": {100, false, watch.Refunded}, "a cancel": {0, true, watch.Refunded}} {
		t.Run(name, func(t *testing.T) {
			inTime(t, nil, func(t *testing.T, g *gateway) {
				g.ordered("A1", 100)
				g.call("/refund", request{Order: "A1", Number: "R1", Amount: test.amount, Whole: test.whole}, watch.Answered, "SUCCESS")
				g.notify("A1", answer{Order: watch.IsPaid, Amount: 100, Mid: "898"}, true)
				if is := g.state("A1"); is != test.want {
					t.Errorf("the order is %s, want %s", is, test.want)
				}
			})
		})
	}
}

// TestNobodyUntold: of a thousand orders, of which the buyers pay nine in ten at any time before they expire, one notify in five
// is never sent, and others come at the very moment of a look. By the schedule and the rate of every day, 25 hours later each
// payment was told once.
func TestNobodyUntold(t *testing.T) {
	orders := 1000
	if testing.Short() {
		orders = 100
	}
	inTime(t, nil, func(t *testing.T, g *gateway) {
		chance := rand.New(rand.NewPCG(1, uint64(orders)))
		var group sync.WaitGroup
		never, told := 0, map[string]bool{}
		for i := range orders {
			number := fmt.Sprintf("A%04d", i)
			made, pays := time.Duration(chance.Int64N(int64(time.Hour))), time.Duration(chance.Int64N(int64(29*time.Minute+50*time.Second)))
			abandoned, lost, late := i%10 == 0, chance.IntN(5) == 0, time.Duration(chance.Int64N(int64(20*time.Second)))
			if !abandoned {
				told[number] = true
			}
			if lost && !abandoned {
				never++
			}
			group.Go(func() {
				time.Sleep(made)
				g.ordered(number, 100)
				if abandoned {
					return
				}
				time.Sleep(pays)
				g.bank.order(number, watch.IsPaid, 100)
				if !lost {
					time.Sleep(late)
					g.notify(number, answer{Order: watch.IsPaid, Amount: 100, Mid: "898"}, true)
				}
			})
		}
		group.Wait()
		after(25 * time.Hour)
		untold, twice := 0, 0
		for number := range told {
			switch g.mailbox.times(number + " paid") {
			case 0:
				untold++
			case 1:
			default:
				twice++
			}
			if is := g.state(number); is != watch.Paid {
				t.Errorf("%s is %s", number, is)
			}
		}
		t.Logf("%d orders, %d paid, %d notifies never sent: after 25 hours %d untold, %d told twice; %d queries", orders, len(told), never, untold, twice, g.count("query found"))
		if untold != 0 || twice != 0 || len(g.mailbox.all()) != len(told) {
			t.Errorf("%d untold, %d told twice, %d events", untold, twice, len(g.mailbox.all()))
		}
	})
}

// TestManyCalls: of an order with more calls than a row keeps, the oldest was forgotten first, whether or not its app had heard of it.
// The same refund with another number was let pass then.
func TestManyCalls(t *testing.T) {
	inTime(t, nil, func(t *testing.T, g *gateway) {
		g.paidAndTold("A1", 1000)
		g.bank.refund("A1", "R1", 30, watch.HasSucceeded)
		g.call("/refund", request{Order: "A1", Number: "R1", Amount: 30}, watch.Unknown, "")
		g.mailbox.failing(errors.New("the inbox is full"))
		after(10 * time.Second)
		for i := range 210 {
			if refusal := g.call("/refund", request{Order: "A1", Number: fmt.Sprint("part ", i), Amount: 1}, watch.Answered, "SUCCESS"); refusal != nil {
				t.Fatalf("%d: %+v", i, refusal)
			}
		}
		if is := g.again("R2"); is != unresolved {
			t.Errorf("another number: %q", is)
		}
		if o := g.row("A1"); len(o.Calls) != 200 || o.Folded != 11 {
			t.Errorf("%d calls, %d folded", len(o.Calls), o.Folded)
		}
		g.mailbox.failing(nil)
		after(time.Hour)
		if times := g.mailbox.times("A1 R1 succeeded"); times != 1 {
			t.Errorf("told of the success %d times", times)
		}
	})
}

// TestManyFailures: an app that has heard of more failed refunds of an order than a row keeps. They were kept, and each one that succeeded
// was forgotten at the next one; its notify made it another one, so that as much again could not be refunded any more.
func TestManyFailures(t *testing.T) {
	inTime(t, nil, func(t *testing.T, g *gateway) {
		g.paidAndTold("A1", 1000)
		send := func(number string, amount int64, code string) {
			t.Helper()
			if refusal := g.call("/refund", request{Order: "A1", Number: number, Amount: amount}, watch.Answered, code); refusal != nil {
				t.Fatalf("%s: %+v", number, refusal)
			}
		}
		for i := range 210 {
			send(fmt.Sprint("failed ", i), 30, "FAIL")
		}
		send("R1", 30, "SUCCESS")
		send("R2", 30, "SUCCESS")
		g.notify("A1", answer{Call: watch.HasSucceeded, Number: "R1", CallAmount: 30, Mid: "898"}, true)
		send("R3", 940, "SUCCESS")
	})
}

// TestManyNotFound: a refund that the platform never knows is repeated each time that the app is told so. After a hundred times it was
// forgotten that the app had been told of the payment, and a notify that came again was delivered again.
func TestManyNotFound(t *testing.T) {
	inTime(t, nil, func(t *testing.T, g *gateway) {
		g.paidAndTold("A1", 100)
		g.bank.set(func() { g.bank.news = true })
		for range 110 {
			g.call("/refund", request{Order: "A1", Number: "R1", Amount: 60}, watch.Unknown, "")
			after(2 * time.Hour)
		}
		if told := len(g.mailbox.all()); told != 111 {
			t.Fatalf("told %d events", told)
		}
		if n := g.notify("A1", answer{Order: watch.IsPaid, Amount: 100, Mid: "898"}, true); !n.Told {
			t.Errorf("%+v", n)
		}
	})
}
