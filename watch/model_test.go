package watch_test

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/caddy-chinaums/caddy-chinaums/watch"
	"github.com/caddy-chinaums/caddy-chinaums/watch/storetest"
)

// TestTables: no fact leads from paid back to unpaid, nor from succeeded to anything else, and none that comes by time alone
// leads to closed or failed. Nothing but an answer makes a stuck one pass for ended.
func TestTables(t *testing.T) {
	paid := []watch.State{watch.Paid, watch.PartRefunded, watch.Refunded}
	for from, row := range watch.OrderStates {
		for fact, to := range row {
			if i := slices.Index(paid, from); i >= 0 && slices.Index(paid, to) < i {
				t.Errorf("an order: %s by %s to %s", from, fact, to)
			}
			if slices.Contains(watch.ByTime, fact) && to != watch.Unseen && to != watch.Stuck {
				t.Errorf("an order: %s by %s to %s", from, fact, to)
			}
		}
	}
	for from, row := range watch.CallStates {
		for fact, to := range row {
			if from == watch.Succeeded && to != from || slices.Contains(watch.ByTime, fact) && to != watch.Unresolved && to != watch.Stuck {
				t.Errorf("a call: %s by %s to %s", from, fact, to)
			}
		}
	}
}

// TestGuardTable: every answer of the guard, and that the first reason counts.
func TestGuardTable(t *testing.T) {
	type calls = []*watch.Track
	r := func(number string, amount int64, state watch.State) *watch.Track {
		return &watch.Track{Kind: watch.KindRefund, Number: number, Amount: amount, State: state}
	}
	onItsWay := func(c *watch.Track) *watch.Track { c.Flight = "a.1"; return c }
	whole := func(c *watch.Track) *watch.Track { c.Whole = true; return c }
	capture := func(c *watch.Track) *watch.Track { c.Kind = watch.KindCapture; return c }
	closing := func(c *watch.Track) *watch.Track { c.Kind = watch.KindClose; return c }
	for name, test := range map[string]struct {
		order watch.State
		paid  int64
		calls calls
		call  watch.Call
		want  string
	}{
		"the first":                          {watch.Paid, 100, nil, watch.Call{Number: "R1", Amount: 100}, ""},
		"of an order that nobody has seen":   {"", 0, nil, watch.Call{Number: "R1", Amount: 100}, ""},
		"not known to be paid":               {watch.Open, 0, nil, watch.Call{Number: "R1", Amount: 100}, ""},
		"another is on its way":              {watch.Paid, 100, calls{onItsWay(r("R1", 10, watch.Sent))}, watch.Call{Number: "R2", Amount: 10}, "409 GATEWAY_BUSY R1"},
		"itself is on its way":               {watch.Paid, 100, calls{onItsWay(r("R1", 10, watch.Sent))}, watch.Call{Number: "R1", Amount: 10}, "409 GATEWAY_BUSY R1"},
		"a capture is on its way":            {watch.Paid, 100, calls{onItsWay(capture(r("C1", 10, watch.Sent)))}, watch.Call{Number: "R1", Amount: 10}, "409 GATEWAY_BUSY C1"},
		"a close is on its way":              {watch.Paid, 100, calls{onItsWay(closing(r("C1", 0, watch.Sent)))}, watch.Call{Number: "R1", Amount: 10}, ""},
		"the same, unresolved":               {watch.Paid, 100, calls{r("R1", 10, watch.Unresolved)}, watch.Call{Number: "R1", Amount: 10}, ""},
		"the same, succeeded":                {watch.Refunded, 100, calls{r("R1", 100, watch.Succeeded)}, watch.Call{Number: "R1", Amount: 100}, ""},
		"the same, with another amount":      {watch.Paid, 100, calls{r("R1", 10, watch.Succeeded)}, watch.Call{Number: "R1", Amount: 11}, "422 GATEWAY_INVALID R1"},
		"the same, of the whole now":         {watch.Paid, 100, calls{r("R1", 0, watch.Succeeded)}, watch.Call{Number: "R1", Whole: true}, "422 GATEWAY_INVALID R1"},
		"the same, failed":                   {watch.Paid, 100, calls{r("R1", 10, watch.Failed)}, watch.Call{Number: "R1", Amount: 10}, ""},
		"the same, failed, and repeated":     {watch.Refunded, 100, calls{r("R1", 100, watch.Failed), r("R2", 100, watch.Succeeded)}, watch.Call{Number: "R1", Amount: 100}, "422 GATEWAY_INVALID A1"},
		"the same, failed, another open":     {watch.Paid, 100, calls{r("R1", 10, watch.Failed), r("R2", 10, watch.Unresolved)}, watch.Call{Number: "R1", Amount: 10}, "409 GATEWAY_REFUND_UNRESOLVED R2"},
		"the same, and another open":         {watch.Paid, 100, calls{r("R1", 10, watch.Unresolved), r("R2", 10, watch.Unresolved)}, watch.Call{Number: "R1", Amount: 10}, ""},
		"another is unresolved":              {watch.Paid, 100, calls{r("R1", 10, watch.Unresolved)}, watch.Call{Number: "R2", Amount: 10}, "409 GATEWAY_REFUND_UNRESOLVED R1"},
		"another is stuck":                   {watch.Paid, 100, calls{r("R1", 10, watch.Stuck)}, watch.Call{Number: "R2", Amount: 10}, "409 GATEWAY_REFUND_UNRESOLVED R1"},
		"another has failed":                 {watch.Paid, 100, calls{r("R1", 10, watch.Failed)}, watch.Call{Number: "R2", Amount: 100}, ""},
		"another capture is unresolved":      {watch.Paid, 100, calls{capture(r("C1", 10, watch.Unresolved))}, watch.Call{Number: "R2", Amount: 10}, ""},
		"without a number, one is open":      {watch.Paid, 100, calls{r("#1", 10, watch.Unresolved)}, watch.Call{Amount: 10}, "409 GATEWAY_REFUND_UNRESOLVED #1"},
		"more than was paid":                 {watch.Paid, 100, nil, watch.Call{Number: "R1", Amount: 101}, "422 GATEWAY_INVALID A1"},
		"all that is left":                   {watch.PartRefunded, 100, calls{r("R1", 30, watch.Succeeded)}, watch.Call{Number: "R2", Amount: 70}, ""},
		"more than is left":                  {watch.PartRefunded, 100, calls{r("R1", 30, watch.Succeeded)}, watch.Call{Number: "R2", Amount: 71}, "422 GATEWAY_INVALID A1"},
		"the rest, whatever it is":           {watch.PartRefunded, 100, calls{r("R1", 30, watch.Succeeded)}, watch.Call{Number: "cancel", Whole: true}, ""},
		"nothing is left":                    {watch.Refunded, 100, calls{whole(r("cancel", 0, watch.Succeeded))}, watch.Call{Number: "R1", Amount: 1}, "422 GATEWAY_INVALID A1"},
		"paid, and the platform has no sum":  {watch.Paid, 0, nil, watch.Call{Number: "R1", Amount: 101}, ""},
		"the platform says what is refunded": {watch.PartRefunded, 90, nil, watch.Call{Number: "R1", Amount: 90}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			o := &watch.Order{ID: "A1", Track: watch.Track{State: test.order}, Paid: test.paid, Calls: test.calls}
			test.call.Kind = watch.KindRefund
			got := ""
			if refusal := o.Guard(test.call); refusal != nil {
				got = fmt.Sprint(refusal.Status, " ", refusal.Code, " ", refusal.Number)
			}
			if got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

// TestOverride and warn let a call pass that is in the way of another one, and the number has to be the right one.
func TestOverride(t *testing.T) {
	for name, test := range map[string]struct {
		refunds, override string
		passes            bool
	}{
		"enforce":                  {watch.Enforce, "", false},
		"enforce, the right one":   {watch.Enforce, "R1", true},
		"enforce, another one":     {watch.Enforce, "R2", false},
		"warn":                     {watch.Warn, "", true},
		"off":                      {watch.Off, "", true},
		"off, and what is written": {watch.Off, "R7", true},
	} {
		t.Run(name, func(t *testing.T) {
			inTime(t, func(s *watch.Settings) { s.Refunds = test.refunds }, func(t *testing.T, g *gateway) {
				g.paidAndTold("A1", 100)
				g.call("/refund", request{Order: "A1", Number: "R1", Amount: 60}, watch.Unknown, "")
				ticket, refusal := g.Before(t.Context(), "shop", "/refund", request{Order: "A1", Number: "R2", Amount: 60}.body(), test.override)
				if (refusal == nil) != test.passes || (ticket != nil) != test.passes {
					t.Fatalf("%+v", refusal)
				}
				g.After(ticket, watch.Unknown, "", nil)
				if test.passes != (g.refundState("A1", "R2") == watch.Unresolved) {
					t.Errorf("%s", g.refundState("A1", "R2"))
				}
			})
		})
	}
}

// TestOverrideOfOne: the number in the way that was named let everything else pass as well: another refund that is open, and more
// than was paid. A refund that an app gives a number of the watch's own, or of another kind of call, passed for its repetition.
func TestOverrideOfOne(t *testing.T) {
	inTime(t, nil, func(t *testing.T, g *gateway) {
		g.paidAndTold("A1", 100)
		g.call("/capture", request{Order: "A1", Number: "capture", Amount: 50}, watch.Answered, "SUCCESS")
		g.call("/refund", request{Order: "A1", Amount: 10}, watch.Unknown, "")
		send := func(number string, amount int64, override string) string {
			ticket, refusal := g.Before(t.Context(), "shop", "/refund", request{Order: "A1", Number: number, Amount: amount}.body(), override)
			g.After(ticket, watch.Unknown, "", nil)
			if refusal == nil {
				return ""
			}
			return fmt.Sprint(refusal.Status, " ", refusal.Number)
		}
		for _, test := range []struct {
			number         string
			amount         int64
			override, want string
		}{
			{"R1", 101, "#1", "422 A1"},
			{"R1", 10, "#1", ""},
			{"R2", 10, "#1", "409 R1"},
			{"R2", 10, "R1", "409 #1"},
			{"R1", 11, "R1", "409 #1"},
			{"#1", 10, "", "422 "},
			{"#1", 10, "#1", "422 "},
			{"capture", 50, "", "422 capture"},
			{"R2", 10, "#1, R1", ""},
		} {
			if got := send(test.number, test.amount, test.override); got != test.want {
				t.Errorf("%s, %d, override %q: %q, want %q", test.number, test.amount, test.override, got, test.want)
			}
		}
	})
}

// TestInvalid: a money call of which nobody can say what it does passed without a word, whatever was on its way.
func TestInvalid(t *testing.T) {
	for name, test := range map[string]struct {
		refunds, invalid, override string
		passes                     bool
	}{
		"enforce":                       {watch.Enforce, "refundAmount", "", false},
		"enforce, overridden":           {watch.Enforce, "refundAmount", "refundAmount", false},
		"enforce, a path":               {watch.Enforce, "path", "", false},
		"enforce, a path that is meant": {watch.Enforce, "path", "/refund", true},
		"warn":                          {watch.Warn, "refundAmount", "", true},
		"off":                           {watch.Off, "body", "", true},
	} {
		t.Run(name, func(t *testing.T) {
			inTime(t, func(s *watch.Settings) { s.Refunds = test.refunds }, func(t *testing.T, g *gateway) {
				r := request{Order: "A1", Number: "R1", Amount: 60, Invalid: test.invalid}
				ticket, refusal := g.Before(t.Context(), "shop", "/refund", r.body(), test.override)
				if (refusal == nil) != test.passes || ticket != nil {
					t.Fatalf("%+v, %+v", ticket, refusal)
				}
				if refusal != nil && (refusal.Status != 422 || refusal.Code != watch.CodeInvalid || !strings.Contains(refusal.English, test.invalid)) {
					t.Errorf("%+v", refusal)
				}
			})
		})
	}
}

// model is an order as it is told to a person: what is true at the platform, and what the watch must make of it in the end.
type model struct {
	executed map[string]bool // refunds that the platform has executed
	meant    map[string]bool // refunds that the app may have meant to be executed: they were let pass
	heard    map[string]bool // refunds of which the last that the app heard is that they have succeeded or are under way
	failed   map[string]bool // refunds that have failed, as an answer said which the app did not get
	sent     map[string]int  // how often each refund was sent
	paid     bool            // the platform has said so
}

// wrong is what the random walk has found.
type wrong string

func fail(format string, args ...any) { panic(wrong(fmt.Sprintf(format, args...))) }

// TestRandomWalk: no sequence of answers, refusals, notifies, silence and restarts makes paid unpaid, tells an event twice, ends in
// failure by time, or lets a second refund pass while the first one is open. In the end the watch knows what is true. It takes the same
// hundred walks each time, in two seconds. Others, and more of them, take
//
//	go test -run TestRandomWalk ./watch -rapid.checks 10000 -rapid.seed $RANDOM
func TestRandomWalk(t *testing.T) {
	if seed := flag.Lookup("rapid.seed"); seed.Value.String() == "0" { // which stands for a random one
		if err := seed.Value.Set("1"); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = seed.Value.Set("0") }()
	}
	rapid.Check(t, func(r *rapid.T) {
		var thrown any // how rapid ends a run: it is caught where it looks for it
		synctest.Test(t, func(t *testing.T) {
			defer func() { thrown = recover() }()
			b, m, store := newBank(), newMailbox(), storetest.NewMemory(nil)
			store.Alone = !rapid.Bool().Draw(r, "two gateways")
			starts := 1
			g := join(t, store, b, m, "process 1", nil)
			defer func() { g.Close() }()
			other := g
			if !store.Alone {
				other = join(t, store, b, m, "process 2", nil)
				defer func() { other.Close() }()
				starts++
			}
			down := away(store)
			is := model{executed: map[string]bool{}, meant: map[string]bool{}, heard: map[string]bool{}, failed: map[string]bool{}, sent: map[string]int{}}
			type flight struct {
				at     *gateway
				ticket *watch.Ticket
			}
			var flights []flight
			type answered struct {
				number string
				sent   int // it was sent so often
				word   string
				told   func(heard bool)
			}
			var answers []answered // of which the app has nothing yet
			pass := func(heard bool) {
				for _, a := range answers {
					a.told(heard)
					switch last := is.sent[a.number] == a.sent; {
					case a.word == "FAIL":
						is.failed[a.number] = last && !heard
					case heard && (last || a.word == "SUCCESS"):
						is.heard[a.number] = true
					}
				}
				answers = nil
			}
			end := func() {
				for _, f := range flights {
					f.at.After(f.ticket, watch.Unknown, "", nil)
				}
				flights = nil
			}
			b.order("A1", watch.IsOpen, 100)
			g.call("/order", request{Order: "A1", Amount: 100, Mid: "898"}, rapid.SampledFrom([]watch.Outcome{watch.Answered, watch.Unknown}).Draw(r, "outcome"), "SUCCESS")
			numbers := rapid.SampledFrom([]string{"R1", "R2", "R3"})
			r.Repeat(map[string]func(*rapid.T){
				"pay": func(r *rapid.T) {
					if !is.paid {
						b.order("A1", watch.IsPaid, 100)
						is.paid = true
					}
				},
				"close": func(r *rapid.T) {
					if !is.paid {
						b.order("A1", watch.IsClosed, 100)
					}
				},
				"notify": func(r *rapid.T) {
					if is.paid {
						g.notify("A1", answer{Order: watch.IsPaid, Amount: 100, Mid: "898"}, rapid.Bool().Draw(r, "taken"))
					} else {
						g.notify("A1", answer{Order: rapid.SampledFrom([]watch.Fact{watch.IsOpen, watch.IsClosed}).Draw(r, "fact")}, true)
					}
				},
				"stale notify": func(r *rapid.T) {
					g.notify("A1", answer{Order: rapid.SampledFrom([]watch.Fact{watch.IsOpen, watch.IsClosed}).Draw(r, "fact")}, rapid.Bool().Draw(r, "taken"))
				},
				"stale answers": func(r *rapid.T) { // a server of the platform's lags behind
					paid, succeeded := g.known()
					b.set(func() {
						clear(b.saying)
						for _, number := range rapid.SliceOfNDistinct(numbers, 0, 3, rapid.ID).Draw(r, "numbers") {
							known, there := b.orders["A1"].refunds[number]
							if there && known.Call == watch.HasSucceeded && succeeded[number] {
								b.saying["A1/"+number] = answer{Call: rapid.SampledFrom([]watch.Fact{watch.IsPending, watch.IsAbsent, watch.HasFailed}).Draw(r, "stale"), CallAmount: 40}
							}
						}
						if paid && rapid.Bool().Draw(r, "order") {
							b.saying["A1"] = answer{Order: rapid.SampledFrom([]watch.Fact{watch.IsOpen, watch.IsClosed, watch.IsAbsent}).Draw(r, "stale")}
						}
					})
				},
				"refund": func(r *rapid.T) {
					if !is.paid {
						r.Skip("not paid")
					}
					after(time.Millisecond) // two sendings are never at one time
					number := numbers.Draw(r, "number")
					before := g.refundState("A1", number)
					ticket, refusal := g.Before(t.Context(), "shop", "/refund", request{Order: "A1", Number: number, Amount: 40}.body(), "")
					if refusal != nil {
						return
					}
					for other := range is.meant {
						if !is.meant[number] && !is.executed[other] && g.refundState("A1", other) != watch.Failed {
							fail("%s was sent while %s is open", number, other)
						}
						if other != number && !is.meant[number] && is.executed[other] && !is.heard[other] && !g.toldLongAgo("A1", other, "refund.succeeded") {
							fail("%s was sent though the app knows nothing of %s", number, other)
						}
					}
					if g.row("A1").Paid != 0 && g.given("A1", number)+40 > 100 && (before == "" || before == watch.Failed) {
						fail("%s was sent though no more than %d of 100 are left", number, 100-g.given("A1", number))
					}
					knew := is.heard[number]
					is.meant[number] = true
					is.heard[number], is.failed[number] = false, false
					is.sent[number]++
					flights = append(flights, flight{g, ticket})
					known, isThere := b.executed("A1", number)
					switch what := rapid.SampledFrom([]string{"executed", "lost", "answer lost", "processing", "in flight", "answered", "answered processing", "failed", "answered failed", "refused", "not sent"}).Draw(r, "what"); what {
					case "executed", "answer lost":
						if !isThere || known.Call != watch.HasSucceeded {
							b.refund("A1", number, 40, watch.HasSucceeded)
						}
						is.executed[number] = true
						is.heard[number] = what == "executed"
						g.After(ticket, map[string]watch.Outcome{"executed": watch.Answered, "answer lost": watch.Unknown}[what], "SUCCESS", nil)
						flights = flights[:len(flights)-1]
					case "lost":
						g.After(ticket, watch.Unknown, "", nil)
						flights = flights[:len(flights)-1]
					case "failed": // it gives back the one that it has
						word := "FAIL"
						switch {
						case isThere && known.Call == watch.HasSucceeded:
							word, is.heard[number] = "SUCCESS", true
						case isThere && known.Call == watch.IsPending:
							word, is.heard[number] = "PROCESSING", true
						default:
							b.refund("A1", number, 40, watch.HasFailed)
						}
						g.After(ticket, watch.Answered, word, nil)
						flights = flights[:len(flights)-1]
					case "answered failed":
						if isThere && known.Call != watch.HasFailed {
							g.After(ticket, watch.Unknown, "", nil)
						} else {
							b.refund("A1", number, 40, watch.HasFailed)
							is.failed[number] = true
							answers = append(answers, answered{number, is.sent[number], "FAIL", g.Watch.After(ticket, watch.Answered, "FAIL", nil)})
						}
						flights = flights[:len(flights)-1]
					case "refused":
						g.After(ticket, watch.Answered, "BAD_SIGN", nil)
						flights = flights[:len(flights)-1]
					case "not sent":
						is.sent[number]--
						is.heard[number] = knew
						if is.sent[number] == 0 {
							delete(is.meant, number)
						}
						g.After(ticket, watch.NotSent, "", nil)
						flights = flights[:len(flights)-1]
					case "processing":
						if !isThere || known.Call == watch.HasFailed {
							b.refund("A1", number, 40, watch.IsPending)
						}
						is.heard[number] = true
						g.After(ticket, watch.Answered, "PROCESSING", nil)
						flights = flights[:len(flights)-1]
					case "answered":
						if !isThere || known.Call != watch.HasSucceeded {
							b.refund("A1", number, 40, watch.HasSucceeded)
						}
						is.executed[number] = true
						answers = append(answers, answered{number, is.sent[number], "SUCCESS", g.Watch.After(ticket, watch.Answered, "SUCCESS", nil)})
						flights = flights[:len(flights)-1]
					case "answered processing":
						if !isThere || known.Call == watch.HasFailed {
							b.refund("A1", number, 40, watch.IsPending)
						}
						answers = append(answers, answered{number, is.sent[number], "PROCESSING", g.Watch.After(ticket, watch.Answered, "PROCESSING", nil)})
						flights = flights[:len(flights)-1]
					}
				},
				"the app has its answer": func(*rapid.T) { pass(true) },
				"the app is gone":        func(*rapid.T) { pass(false) },
				"the store is away": func(r *rapid.T) { // when the app has its answer, or is gone
					down.Store(true)
					pass(rapid.Bool().Draw(r, "heard"))
					after(time.Duration(rapid.IntRange(0, 300).Draw(r, "seconds")) * time.Second)
					down.Store(false)
					after(5 * time.Second)
				},
				"the other gateway": func(*rapid.T) { g, other = other, g },
				"a refund ends": func(r *rapid.T) {
					number := numbers.Draw(r, "number")
					if known, _ := b.executed("A1", number); known.Call != watch.IsPending {
						r.Skip("none")
					}
					end := rapid.SampledFrom([]watch.Fact{watch.HasSucceeded, watch.HasFailed}).Draw(r, "end")
					b.refund("A1", number, 40, end)
					is.executed[number] = end == watch.HasSucceeded
					if rapid.Bool().Draw(r, "notify") {
						g.notify("A1", answer{Call: end, Number: number, CallAmount: 40}, rapid.Bool().Draw(r, "taken"))
					}
				},
				"a late failure": func(r *rapid.T) {
					number := numbers.Draw(r, "number")
					if known, _ := b.executed("A1", number); is.sent[number] < 2 || known.Call == "" || !g.repeated("A1", number) {
						r.Skip("it was sent once")
					}
					if n := g.notify("A1", answer{Call: watch.HasFailed, Number: number, CallAmount: 40}, rapid.Bool().Draw(r, "taken")); !n.Told && !n.Busy {
						is.heard[number] = false
					}
				},
				"inbox": func(r *rapid.T) {
					m.failing(map[bool]error{true: errors.New("full")}[rapid.Bool().Draw(r, "full")])
				},
				"silence": func(r *rapid.T) {
					b.set(func() {
						b.deaf = map[bool]func(watch.Query) error{true: func(watch.Query) error { return errors.New("down") }}[rapid.Bool().Draw(r, "deaf")]
					})
				},
				"time": func(r *rapid.T) {
					after(time.Duration(rapid.IntRange(0, 100_000).Draw(r, "seconds")) * time.Second)
				},
				"restart": func(r *rapid.T) {
					if rapid.Bool().Draw(r, "before its time") { // what was on its way is never answered
						flights, answers = nil, nil
					}
					down.Store(rapid.Bool().Draw(r, "the store is away"))
					pass(rapid.Bool().Draw(r, "heard"))
					end()
					g.Close()
					down.Store(false)
					starts++
					alone := other == g
					g = join(t, store, b, m, fmt.Sprint("process ", starts), nil)
					if alone {
						other = g
					}
				},
				"": func(r *rapid.T) {
					synctest.Wait()
					o := g.row("A1")
					if is.paid && m.times("A1 paid") > 0 && !slices.Contains([]watch.State{watch.Paid, watch.PartRefunded, watch.Refunded}, o.State) {
						fail("a paid order is %s", o.State)
					}
					for _, c := range o.Calls {
						if known, _ := b.executed("A1", c.Number); c.State == watch.Failed && (known.Call == watch.HasSucceeded || known.Call == watch.IsPending) {
							fail("the refund %s has failed by itself", c.Number)
						}
						if c.State == watch.Succeeded && !is.executed[c.Number] {
							fail("the refund %s has succeeded by itself", c.Number)
						}
					}
					for id, times := range m.all() {
						if times > 1 {
							fail("%s was told %d times", id, times)
						}
					}
					if got, want := g.Stats(), g.Recount(); !maps.Equal(got.States, want.States) || got.Oldest != want.Oldest {
						fail("%+v is counted, and there is %+v", got, want)
					}
				},
			})
			// In the end.
			pass(true)
			end()
			b.set(func() {
				b.deaf = nil
				clear(b.saying)
			})
			m.failing(nil)
			after(49 * time.Hour)
			o := g.row("A1")
			if paid, _ := g.known(); is.paid && paid && o.State != watch.Refunded && m.times("A1 paid") == 0 && !g.stuckTelling("A1") {
				fail("nobody was told of the payment")
			}
			for number := range is.failed {
				if is.failed[number] && g.refundState("A1", number) == watch.Failed && m.times("A1 "+number+" failed") == 0 && !g.stuckTelling("A1") {
					fail("nobody was told that %s has failed", number)
				}
			}
			for number := range is.executed {
				if o := g.refundState("A1", number); is.executed[number] && o == watch.Succeeded && !is.heard[number] && m.times("A1 "+number+" succeeded") == 0 && !g.stuckTelling("A1") {
					fail("nobody was told that %s has succeeded", number)
				}
			}
			if is.paid && !slices.Contains([]watch.State{watch.Paid, watch.PartRefunded, watch.Refunded}, o.State) && o.State != watch.Stuck && o.State != watch.Closed {
				fail("a paid order is %s", o.State)
			}
			for number := range is.meant {
				state := g.refundState("A1", number)
				if is.executed[number] && state != watch.Succeeded && state != watch.Stuck {
					fail("the refund %s was executed, and is %s", number, state)
				}
			}
		})
		if words, ok := thrown.(wrong); ok {
			r.Fatal(words)
		}
		if thrown != nil {
			panic(thrown)
		}
	})
}

// TestKilledAnywhere: from the store's content at every write on, another process finds out what is true, and tells it.
func TestKilledAnywhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, m, store := newBank(), newMailbox(), storetest.NewMemory(nil)
		store.Alone = true
		snapshots := []map[string]watch.Entry{}
		store.Written = func(rows map[string]watch.Entry) { snapshots = append(snapshots, rows) }
		g := join(t, store, b, m, "process 1", nil)
		g.ordered("A1", 100) // found by a query
		g.ordered("A2", 100) // told by a notify
		after(90 * time.Second)
		b.order("A1", watch.IsPaid, 100)
		b.order("A2", watch.IsPaid, 100)
		g.notify("A2", answer{Order: watch.IsPaid, Amount: 100}, true)
		after(time.Minute)
		b.refund("A2", "R1", 30, watch.IsPending)
		g.call("/refund", request{Order: "A2", Number: "R1", Amount: 30}, watch.Unknown, "")
		after(time.Minute)
		b.refund("A2", "R1", 30, watch.HasSucceeded)
		after(5 * time.Minute)
		b.refund("A2", "R2", 70, watch.HasSucceeded)
		g.call("/refund", request{Order: "A2", Number: "R2", Amount: 70}, watch.Answered, "SUCCESS")
		after(time.Minute)
		g.Close()
		if len(snapshots) < 15 || g.state("A1") != watch.Paid || g.state("A2") != watch.Refunded {
			t.Fatalf("%d writes, %s, %s", len(snapshots), g.state("A1"), g.state("A2"))
		}
		for n, rows := range snapshots {
			inbox := newMailbox() // with what the notify handler told by itself
			inbox.handed["A2 paid"] = 1
			later := storetest.NewMemory(rows)
			later.Alone = true
			g := join(t, later, b, inbox, "process 2", nil)
			after(25 * time.Hour)
			for order, want := range map[string]watch.State{"A1": watch.Paid, "A2": watch.Refunded} {
				if _, there := rows["shop/"+order]; there && order == "A1" && g.state(order) != want {
					t.Errorf("write %d: %s is %s", n, order, g.state(order))
				}
			}
			for _, number := range []string{"R1", "R2"} {
				if state := g.refundState("A2", number); state != "" && state != watch.Succeeded {
					t.Errorf("write %d: the refund %s is %s", n, number, state)
				}
			}
			if _, there := rows["shop/A1"]; there && inbox.times("A1 paid") == 0 {
				if o, err := g.Order(t.Context(), "shop", "A1"); err != nil || len(o.Told) == 0 || o.Told[0].Taken == 0 {
					t.Errorf("write %d: A1 was not told", n)
				}
			}
			g.Close()
		}
	})
}

// TestEveryCallFails: whichever call of the store fails, once, all is known and told in the end, and nothing twice.
func TestEveryCallFails(t *testing.T) {
	step := int32(1)
	if testing.Short() {
		step = 7
	}
	for at := int32(1); at < 60; at += step {
		for _, lost := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				store := storetest.NewMemory(nil)
				var calls atomic.Int32
				fail := func(string, string) error {
					if calls.Add(1) == at {
						return storetest.ErrDown
					}
					return nil
				}
				if lost {
					store.Lost = fail
				} else {
					store.Fail(fail)
				}
				g := join(t, store, newBank(), newMailbox(), "one", nil)
				defer g.Close()
				g.ordered("A1", 100)
				after(90 * time.Second)
				g.bank.order("A1", watch.IsPaid, 100)
				after(time.Hour)
				g.bank.refund("A1", "R1", 30, watch.IsPending)
				sent := g.call("/refund", request{Order: "A1", Number: "R1", Amount: 30}, watch.Unknown, "") == nil
				after(time.Minute)
				g.bank.refund("A1", "R1", 30, watch.HasSucceeded)
				after(25 * time.Hour)
				calls.Store(1000)
				if !slices.Contains([]watch.State{watch.Paid, watch.PartRefunded}, g.state("A1")) || g.mailbox.times("A1 paid") == 0 {
					t.Errorf("call %d, lost %v: %s, told %v", at, lost, g.state("A1"), g.mailbox.all())
				}
				if is := g.refundState("A1", "R1"); sent && is != watch.Succeeded || !sent && is != "" {
					t.Errorf("call %d, lost %v: sent %v, and the refund is %s", at, lost, sent, is)
				}
			})
		}
	}
}

// TestStats: however rows come, change and go, what is counted is what a count of them all says. It was a count of them all,
// with everybody who reads or changes rows waiting: each scrape of a gateway with a million open orders held back its start.
func TestStats(t *testing.T) {
	type change struct {
		row        string
		gone       bool
		state      watch.State
		due, since time.Duration // from now on, and before now; 0: none
	}
	seconds := func(most int) *rapid.Generator[time.Duration] {
		return rapid.Map(rapid.IntRange(0, most), func(n int) time.Duration { return time.Duration(n) * time.Second })
	}
	changes := rapid.SliceOfN(rapid.Custom(func(r *rapid.T) change {
		c := change{row: rapid.SampledFrom(strings.Split("ABCDEFGH", "")).Draw(r, "row"), gone: rapid.IntRange(0, 4).Draw(r, "gone") == 4,
			state: rapid.SampledFrom(append(watch.States(), "")).Draw(r, "state"), due: time.Hour * seconds(1).Draw(r, "due") / time.Second}
		if c.state == watch.Unresolved || c.state == watch.Stuck {
			c.since = seconds(20).Draw(r, "since")
		}
		return c
	}), 1, 60)
	rapid.Check(t, func(r *rapid.T) {
		all := changes.Draw(r, "changes")
		var got, want watch.Stats
		synctest.Test(t, func(t *testing.T) {
			store := storetest.NewMemory(nil)
			g := join(t, store, newBank(), newMailbox(), "one", nil)
			defer g.Close()
			<-g.Ready()
			rows, now := map[string]change{}, time.Now()
			for _, c := range all {
				key := "shop/" + c.row
				revision := store.Rows()[key].Revision
				if c.gone {
					if _, there := rows[c.row]; there && store.Delete(t.Context(), key, revision) != nil {
						t.Error("not deleted")
					}
					delete(rows, c.row)
					continue
				}
				o := &watch.Order{Merchant: "shop", ID: c.row, Track: watch.Track{State: c.state}}
				if c.due != 0 {
					o.Next, o.Class = now.Add(c.due).UnixMilli(), watch.Due
				}
				if c.since != 0 {
					o.Since = now.Add(-c.since).UnixMilli()
				}
				value, err := o.Encoded()
				if err == nil {
					_, err = store.Put(t.Context(), key, value, revision)
				}
				if err != nil {
					t.Error(err)
				}
				rows[c.row] = c
			}
			want.States = map[watch.State]int{}
			for _, c := range rows {
				if c.due == 0 && c.state != watch.Stuck {
					continue // it is not followed
				}
				want.States[c.state]++
				if since := now.Add(-c.since); c.since != 0 && (want.Oldest.IsZero() || since.Before(want.Oldest)) {
					want.Oldest = since
				}
			}
			synctest.Wait()
			got = g.StatsAlone()
		})
		if !maps.Equal(got.States, want.States) || !got.Oldest.Equal(want.Oldest) {
			r.Fatalf("%+v, want %+v", got, want)
		}
	})
}

// TestBudget: 100,000 abandoned orders do not make more queries than the rate allows, and an unresolved refund is asked about
// on time all the same.
func TestBudget(t *testing.T) {
	orders := 100_000
	if testing.Short() {
		orders = 1_000
	}
	synctest.Test(t, func(t *testing.T) {
		b, rows := newBank(), map[string]watch.Entry{}
		now := time.Now().UnixMilli()
		for i := range orders {
			o := &watch.Order{Merchant: "shop", ID: fmt.Sprintf("A%06d", i), Seen: true, Expires: now + 30*60_000,
				Track: watch.Track{State: watch.Open, Kind: watch.KindOrder, Amount: 100, Sent: now, Next: now + 60_000, Class: watch.Early}}
			value, err := o.Encoded()
			if err != nil {
				t.Fatal(err)
			}
			rows["shop/"+o.ID] = watch.Entry{Key: "shop/" + o.ID, Value: value, Revision: uint64(i + 1)}
			b.orders[o.ID] = &account{state: watch.IsOpen, amount: 100}
		}
		store := storetest.NewMemory(rows)
		rate := 2.0
		g := join(t, store, b, newMailbox(), "one", nil)
		defer g.Close()
		<-g.Ready()
		if g.Followed() != orders {
			t.Fatalf("%d are followed", g.Followed())
		}
		after(2 * time.Minute) // the early looks have begun
		g.paidAndTold("paid", 100)
		b.refund("paid", "R1", 10, watch.IsPending)
		g.call("/refund", request{Order: "paid", Number: "R1", Amount: 10}, watch.Unknown, "")
		sent := time.Since(b.began)
		after(2 * time.Hour)
		for i, want := range []time.Duration{5 * time.Second, 30 * time.Second, time.Minute, 3 * time.Minute, 5 * time.Minute, 10 * time.Minute, 30 * time.Minute, time.Hour} {
			asked := b.questions("paid/R1")
			if len(asked) <= i || asked[i]-sent > want+want/10+2*time.Second {
				t.Errorf("look %d at the refund, of %v", i, asked)
			}
		}
		b.mu.Lock()
		asked := b.asked
		b.mu.Unlock()
		for i := range asked { // in no minute more than the rate, what it may save, and what did not wait for its turn
			if j := i + int(60*rate) + 10; j < len(asked) && asked[j].at-asked[i].at < time.Minute {
				t.Fatalf("%d queries in %v", j-i, asked[j].at-asked[i].at)
			}
		}
		late := 0
		for _, q := range asked {
			if q.at > 33*time.Minute && q.at < 93*time.Minute && strings.HasPrefix(q.key, "A") {
				late++
			}
		}
		if want := min(orders, int(60*60*rate*0.95)); late < want { // the whole budget, if there is so much to ask
			t.Errorf("%d looks after the expiry in an hour, want %d", late, want)
		}
	})
}

// TestTwoGateways: of two refund numbers at once one passes; and what one gateway leaves the other follows up.
func TestTwoGateways(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, m, store := newBank(), newMailbox(), storetest.NewMemory(nil)
		one, two := join(t, store, b, m, "one", nil), join(t, store, b, m, "two", nil)
		defer two.Close()
		one.paidAndTold("A1", 100)
		two.ordered("A2", 100)
		b.order("A2", watch.IsPaid, 100)
		ticket, refusal := one.Before(t.Context(), "shop", "/refund", request{Order: "A1", Number: "R1", Amount: 10}.body(), "")
		if ticket == nil || refusal != nil {
			t.Fatalf("%+v", refusal)
		}
		if _, refusal := two.Before(t.Context(), "shop", "/refund", request{Order: "A1", Number: "R2", Amount: 10}.body(), ""); refusal == nil || refusal.Code != watch.CodeBusy {
			t.Errorf("%+v", refusal)
		}
		b.refund("A1", "R1", 10, watch.HasSucceeded)
		one.Close() // it never says what became of the call
		after(5 * time.Minute)
		if two.refundState("A1", "R1") != watch.Succeeded || m.times("A1 R1 succeeded") != 1 || m.times("A2 paid") != 1 {
			t.Errorf("%s, %v", two.refundState("A1", "R1"), m.all())
		}
	})
}

// TestLooksAreShared: two gateways do not ask twice.
func TestLooksAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, m, store := newBank(), newMailbox(), storetest.NewMemory(nil)
		one, two := join(t, store, b, m, "one", nil), join(t, store, b, m, "two", nil)
		defer one.Close()
		defer two.Close()
		one.ordered("A1", 100)
		after(25 * time.Hour)
		if asked := b.questions("A1"); len(asked) != 9 {
			t.Errorf("asked at %v", asked)
		}
	})
}

// TestRestart: a call that was on its way when the process ended is asked about at once by the next one, for nobody else has
// the store; the guard says nothing of a call on its way.
func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, m, store := newBank(), newMailbox(), storetest.NewMemory(nil)
		store.Alone = true
		one := join(t, store, b, m, "process 1", nil)
		one.paidAndTold("A1", 100)
		after(time.Second)
		if _, refusal := one.Before(t.Context(), "shop", "/refund", request{Order: "A1", Number: "R1", Amount: 10}.body(), ""); refusal != nil {
			t.Fatalf("%+v", refusal)
		}
		b.refund("A1", "R1", 10, watch.IsPending)
		one.paidAndTold("A2", 100)
		if _, refusal := one.Before(t.Context(), "shop", "/refund", request{Order: "A2", Number: "R1", Amount: 10}.body(), ""); refusal != nil {
			t.Fatalf("%+v", refusal)
		}
		b.refund("A2", "R1", 10, watch.HasSucceeded)
		one.Close()
		two := join(t, store, b, m, "process 2", nil)
		defer two.Close()
		if refusal := two.call("/refund", request{Order: "A1", Number: "R2", Amount: 10}, watch.Answered, "SUCCESS"); refusal == nil || refusal.Code != watch.CodeUnresolved {
			t.Errorf("%+v", refusal)
		}
		b.refund("A1", "R1", 10, watch.HasSucceeded)
		after(10 * time.Second)
		if two.refundState("A2", "R1") != watch.Succeeded || two.refundState("A1", "R1") != watch.Succeeded || m.times("A1 R1 succeeded") != 1 {
			t.Errorf("%s", two.refundState("A1", "R1"))
		}
	})
}
