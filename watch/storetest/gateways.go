package storetest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/watch"
)

// platform is the least that a watch can work with: `order 100` and `refund R1 10` about the order in the path, of which it
// knows every refund.
type platform struct{}

func (platform) Classify(path string, body []byte) (watch.Call, bool) {
	words := strings.Fields(string(body))
	call := watch.Call{Kind: watch.Kind(words[0]), Order: strings.TrimPrefix(path, "/")}
	if call.Kind == watch.KindRefund {
		call.Number = words[1]
	}
	_, err := fmt.Sscan(words[len(words)-1], &call.Amount)
	return call, err == nil
}

func (platform) Answered(call watch.Call, code string, _ []byte) watch.Finding {
	if call.Kind == watch.KindOrder {
		return watch.Finding{Word: code, Order: watch.IsOpen}
	}
	return watch.Finding{Word: code, Call: watch.HasSucceeded, CallAmount: call.Amount}
}

func (platform) Ask(o *watch.Order, call *watch.Track) []watch.Query {
	if call != nil {
		return []watch.Query{{Path: "/refund", Body: []byte(call.Number)}}
	}
	return []watch.Query{{Path: "/order", Body: []byte(o.ID)}}
}

func (platform) Read(o *watch.Order, call *watch.Track, _ watch.Query, _ []byte) (watch.Finding, error) {
	if call != nil {
		return watch.Finding{Word: "SUCCESS", Call: watch.HasSucceeded, Event: &watch.Event{ID: o.ID + call.Number, Type: "refund"}}, nil
	}
	return watch.Finding{Word: "SUCCESS", Order: watch.IsPaid, Amount: o.Amount, Event: &watch.Event{ID: o.ID, Type: "payment"}}, nil
}

func (platform) NotFound(*watch.Order, *watch.Track) *watch.Event { return nil }

// teller counts what is told.
type teller struct {
	mu   sync.Mutex
	told map[string]int
	news chan string
}

func (t *teller) Tell(_ context.Context, _ string, e *watch.Event) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.told[e.ID]++
	t.news <- e.ID
	return nil
}

func gateways(t *testing.T, stores ...watch.Store) ([]*watch.Watch, *teller) {
	t.Helper()
	told := &teller{told: map[string]int{}, news: make(chan string, 1000)}
	var all []*watch.Watch
	for _, s := range stores {
		w := watch.Start(s, watch.Clock{}, watch.Settings{
			// There is a look left when a store that was away is slow to answer again.
			Orders: []time.Duration{time.Hour}, Unknown: []time.Duration{100 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second,
				8 * time.Second, 16 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute},
			GiveUp: time.Hour, Rate: 1000, Refunds: watch.Enforce, Amounts: watch.Warn, Keep: time.Hour,
		}, watch.Parts{
			Platform: platform{}, Teller: told,
			Send: func(context.Context, string, watch.Query) ([]byte, error) { return nil, nil },
		})
		t.Cleanup(w.Close)
		all = append(all, w)
		<-w.Ready()
	}
	return all, told
}

// TwoGateways shows: of two refund numbers at once for one order one passes, whichever gateway it comes to; and what one of them
// could not end is found by one look, and told once.
func TwoGateways(t *testing.T, one, two watch.Store) {
	w, told := gateways(t, one, two)
	for round := range 20 {
		order := fmt.Sprint("/A", round)
		ticket, refusal := w[0].Before(t.Context(), "shop", order, []byte("order 100"), "")
		if refusal != nil {
			t.Fatalf("an order: %+v", refusal)
		}
		w[0].After(ticket, watch.Answered, "SUCCESS", nil)
		tickets, codes := make([]*watch.Ticket, 6), make([]string, 6)
		var group sync.WaitGroup
		for i := range 6 {
			group.Go(func() {
				ticket, refusal := w[i%2].Before(t.Context(), "shop", order, fmt.Appendf(nil, "refund R%d 10", i), "")
				if tickets[i] = ticket; refusal != nil {
					codes[i] = refusal.Code
				}
			})
		}
		group.Wait()
		passed := -1
		for i := range tickets {
			switch {
			case tickets[i] != nil && passed >= 0:
				t.Fatalf("round %d: two refunds have passed", round)
			case tickets[i] != nil:
				passed = i
			case codes[i] != watch.CodeBusy:
				t.Errorf("round %d: refund %d was refused with %q", round, i, codes[i])
			}
		}
		if passed < 0 {
			t.Fatalf("round %d: no refund has passed: %v", round, codes)
		}
		w[passed%2].After(tickets[passed], watch.Unknown, "", nil)
		select {
		case id := <-told.news:
			if want := fmt.Sprintf("A%dR%d", round, passed); id != want {
				t.Errorf("told %s, want %s", id, want)
			}
		case <-time.After(3 * time.Minute): // of a busy machine
			t.Fatalf("round %d: the refund was not followed up", round)
		}
	}
	told.mu.Lock()
	defer told.mu.Unlock()
	for id, times := range told.told {
		if times != 1 {
			t.Errorf("%s was told %d times", id, times)
		}
	}
}

// Alike makes refunds like each other, one after the other, each at the other gateway and as soon as the app has the answer to the one
// before. None is refused because a gateway does not know yet that the app has that answer.
func Alike(t *testing.T, one, two watch.Store) {
	w, _ := gateways(t, one, two)
	for i := range 40 {
		ticket, refusal := w[i%2].Before(t.Context(), "shop", "/B1", fmt.Appendf(nil, "refund R%d 10", i), "")
		if refusal != nil {
			t.Fatalf("refund %d: %+v", i, refusal)
		}
		w[i%2].After(ticket, watch.Answered, "SUCCESS", nil)(true)
	}
}

// CutOff shows: without the store orders pass and refunds do not; afterwards all is there.
func CutOff(t *testing.T, s watch.Store, cut, mend func()) {
	all, told := gateways(t, s)
	w := all[0]
	first, _ := w.Before(t.Context(), "shop", "/A1", []byte("order 100"), "")
	w.After(first, watch.Answered, "SUCCESS", nil)
	flying, refusal := w.Before(t.Context(), "shop", "/A1", []byte("refund R1 10"), "")
	if refusal != nil {
		t.Fatalf("%+v", refusal)
	}
	cut()
	w.After(flying, watch.Unknown, "", nil)
	if ticket, refusal := w.Before(t.Context(), "shop", "/A1", []byte("refund R2 10"), ""); ticket != nil || refusal == nil || refusal.Code != watch.CodeUnavailable || refusal.Status != 503 {
		t.Errorf("a refund: %+v", refusal)
	}
	second, refusal := w.Before(t.Context(), "shop", "/A2", []byte("order 100"), "")
	if refusal != nil {
		t.Errorf("an order: %+v", refusal)
	}
	w.After(second, watch.Unknown, "", nil)
	mend()
	heard := map[string]bool{}
	for !heard["A1R1"] || !heard["A2"] {
		select {
		case id := <-told.news:
			heard[id] = true
		case <-time.After(3 * time.Minute): // of a busy machine
			t.Fatalf("told only %v", heard)
		}
	}
	o, err := w.Order(t.Context(), "shop", "A1")
	if err != nil || len(o.Calls) != 1 || o.Calls[0].State != watch.Succeeded {
		t.Errorf("%+v, %v", o, err)
	}
}
