package watch_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/watch"
	"github.com/caddy-chinaums/caddy-chinaums/watch/storetest"
)

// settings are the defaults of the documents.
func settings() watch.Settings {
	m, h := time.Minute, time.Hour
	return watch.Settings{
		Orders:  []time.Duration{m, 2 * m, 5 * m, 10 * m, 20 * m},
		Unknown: []time.Duration{5 * time.Second, 30 * time.Second, m, 3 * m, 5 * m, 10 * m, 30 * m, h, 2 * h, 6 * h, 24 * h},
		GiveUp:  7 * 24 * h, Rate: 2, Refunds: watch.Enforce, Amounts: watch.Warn, Keep: 400 * 24 * h,
	}
}

// bank plays a platform: what it has executed, and how it answers. Its words are the watch's own, so that a test reads as
// what happens.
type bank struct {
	mu      sync.Mutex
	orders  map[string]*account
	asked   []question
	deaf    func(q watch.Query) error // why a query is not answered
	saying  map[string]answer         // what it answers about an order or a refund, whatever is true
	refunds int                       // executed
	began   time.Time
	slow    chan struct{} // closed: it answers queries again; nil: it does
	news    bool          // each repetition that is not found has an id of its own
	panics  string        // what it panics in: "Answered", "Read", "Ask" or "Classify"
}

// trip panics, if somebody wants it to.
func (b *bank) trip(in string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.panics == in {
		panic("the platform's code has a mistake")
	}
}

type account struct {
	state          watch.Fact
	amount         int64
	refunds        map[string]answer // by their numbers
	refundedAmount int64
}

type question struct {
	at  time.Duration
	key string
}

// answer is what the bank says.
type answer struct {
	Order, Call                  watch.Fact
	Amount, Refunded, CallAmount int64
	Number, Mid                  string
	Wait                         bool
}

func newBank() *bank {
	return &bank{orders: map[string]*account{}, saying: map[string]answer{}, began: time.Now()}
}

// request is a call of the app.
type request struct {
	Order, Number, Mid, Notify string
	Amount                     int64
	Whole                      bool
	Expires                    time.Duration
	Invalid                    string
}

func (r request) body() []byte {
	body, err := json.Marshal(r)
	if err != nil {
		panic(err)
	}
	return body
}

// Classify implements watch.Platform.
func (b *bank) Classify(path string, body []byte) (watch.Call, bool) {
	b.trip("Classify")
	var r request
	if json.Unmarshal(body, &r) != nil || r.Order == "" {
		return watch.Call{}, false
	}
	call := watch.Call{Kind: watch.Kind(strings.TrimPrefix(path, "/")), Order: r.Order, Number: r.Number, Amount: r.Amount, Whole: r.Whole, Mid: r.Mid,
		Notify: r.Notify, Invalid: r.Invalid, Fields: map[string]string{"mid": r.Mid}}
	if r.Expires != 0 {
		call.Expires = time.Now().Add(r.Expires)
	}
	return call, slices.Contains([]watch.Kind{watch.KindOrder, watch.KindLink, watch.KindRefund, watch.KindCapture, watch.KindClose}, call.Kind)
}

// Answered implements watch.Platform. An answer says what it says, and its code nothing.
func (b *bank) Answered(call watch.Call, code string, content []byte) watch.Finding {
	b.trip("Answered")
	f := watch.Finding{Word: code}
	if content != nil {
		var a answer
		if err := json.Unmarshal(content, &a); err != nil {
			return watch.Finding{}
		}
		return a.finding(call.Order, call.Number)
	}
	order := call.Kind == watch.KindOrder || call.Kind == watch.KindLink
	switch {
	case code == "SUCCESS" && order:
		f.Order = watch.IsOpen
	case code == "SUCCESS":
		f.Call, f.CallAmount = watch.HasSucceeded, call.Amount
	case code == "PAID" && order:
		f.Order, f.Amount = watch.IsPaid, call.Amount
	case code == "PROCESSING":
		f.Call = watch.IsPending
	case code == "FAIL":
		f.Call = watch.HasFailed
	case code == "BAD_SIGN" && order:
		f.Order = watch.IsRefused
	case code == "BAD_SIGN":
		f.Call = watch.IsRefused
	}
	return f
}

// Ask implements watch.Platform. A refund is asked for in two ways, of which the first never finds anything.
func (b *bank) Ask(o *watch.Order, call *watch.Track) []watch.Query {
	b.trip("Ask")
	if call == nil {
		return []watch.Query{{Path: "/query", Body: []byte(o.ID)}}
	}
	return []watch.Query{{Path: "/by-order", Body: []byte(o.ID)}, {Path: "/refund-query", Body: []byte(o.ID + "/" + call.Number)}}
}

// send implements watch.Sender.
func (b *bank) send(ctx context.Context, _ string, q watch.Query) ([]byte, error) {
	b.mu.Lock()
	slow := b.slow
	b.mu.Unlock()
	if slow != nil {
		select {
		case <-slow:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	key := string(q.Body)
	if q.Path == "/by-order" {
		return json.Marshal(answer{Call: watch.IsAbsent})
	}
	b.asked = append(b.asked, question{time.Since(b.began), key})
	if b.deaf != nil {
		if err := b.deaf(q); err != nil {
			return nil, err
		}
	}
	if said, ok := b.saying[key]; ok {
		return json.Marshal(said)
	}
	order, number, refund := strings.Cut(key, "/")
	a := b.orders[order]
	switch {
	case a == nil && refund:
		return json.Marshal(answer{Call: watch.IsAbsent})
	case a == nil:
		return json.Marshal(answer{Order: watch.IsAbsent})
	case refund:
		said, ok := a.refunds[number]
		if !ok {
			said = answer{Call: watch.IsAbsent}
		}
		return json.Marshal(said)
	}
	return json.Marshal(answer{Order: a.state, Amount: a.amount, Refunded: a.refundedAmount})
}

// Read implements watch.Platform.
func (b *bank) Read(o *watch.Order, call *watch.Track, _ watch.Query, content []byte) (watch.Finding, error) {
	b.trip("Read")
	var a answer
	if err := json.Unmarshal(content, &a); err != nil {
		return watch.Finding{}, err
	}
	number := ""
	if call != nil {
		number = call.Number
	}
	return a.finding(o.ID, number), nil
}

func (a answer) body() []byte {
	body, err := json.Marshal(a)
	if err != nil {
		panic(err)
	}
	return body
}

// finding is what an answer or a notify says. An id names the fact.
func (a answer) finding(order, number string) watch.Finding {
	f := watch.Finding{Word: string(a.Order + a.Call), Order: a.Order, Call: a.Call, Amount: a.Amount, Refunded: a.Refunded, CallAmount: a.CallAmount,
		Number: a.Number, Mid: a.Mid, Wait: a.Wait}
	if a.Number != "" {
		number = a.Number
	}
	switch {
	case a.Call == watch.HasSucceeded || a.Call == watch.HasFailed:
		f.Event = &watch.Event{ID: fmt.Sprint(order, " ", number, " ", a.Call), Type: "refund." + string(a.Call)}
	case a.Order == watch.IsPartRefunded: // as the payment's own notify had it
		f.Event = &watch.Event{ID: fmt.Sprint(order, " ", watch.IsPaid), Type: "payment." + string(watch.IsPaid)}
	case a.Order == watch.IsPaid || a.Order == watch.IsClosed:
		f.Event = &watch.Event{ID: fmt.Sprint(order, " ", a.Order), Type: "payment." + string(a.Order)}
	}
	return f
}

// NotFound implements watch.Platform.
func (b *bank) NotFound(o *watch.Order, call *watch.Track) *watch.Event {
	b.mu.Lock()
	defer b.mu.Unlock()
	id := o.ID + " " + call.Number + " not_found"
	switch {
	case call.First != 0 && b.news:
		id += fmt.Sprint(" ", call.Sent)
	case call.First != 0:
		id += " again"
	}
	return &watch.Event{ID: id, Type: "refund.not_found"}
}

// set changes what is true.
func (b *bank) set(change func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change()
}

func (b *bank) order(number string, state watch.Fact, amount int64) {
	b.set(func() {
		if b.orders[number] == nil {
			b.orders[number] = &account{refunds: map[string]answer{}}
		}
		b.orders[number].state, b.orders[number].amount = state, amount
	})
}

// refund executes a refund, or has its end.
func (b *bank) refund(order, number string, amount int64, is watch.Fact) {
	b.set(func() {
		a := b.orders[order]
		if _, again := a.refunds[number]; !again {
			b.refunds++
		}
		a.refunds[number] = answer{Call: is, CallAmount: amount, Amount: a.amount}
		if is == watch.HasSucceeded {
			if a.refundedAmount += amount; a.refundedAmount >= a.amount {
				a.state = watch.IsRefunded
			} else {
				a.state = watch.IsPartRefunded
			}
		}
	})
}

// executed is what is true of a refund.
func (b *bank) executed(order, number string) (a answer, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a, ok = b.orders[order].refunds[number]
	return a, ok
}

func (b *bank) questions(key string) (at []time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, q := range b.asked {
		if q.key == key {
			at = append(at, q.at)
		}
	}
	return at
}

// mailbox takes events as an inbox does: one of an id once.
type mailbox struct {
	mu     sync.Mutex
	handed map[string]int // how often, by id
	first  map[string]*watch.Event
	fail   error
	slow   chan struct{} // closed: it takes events again; nil: it does
}

func newMailbox() *mailbox {
	return &mailbox{handed: map[string]int{}, first: map[string]*watch.Event{}}
}

// Tell implements watch.Teller.
func (m *mailbox) Tell(ctx context.Context, _ string, e *watch.Event) error {
	m.mu.Lock()
	slow := m.slow
	m.mu.Unlock()
	if slow != nil {
		select {
		case <-slow:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	m.handed[e.ID]++
	if m.first[e.ID] == nil {
		m.first[e.ID] = e
	}
	return nil
}

// all is how often each event was handed over.
func (m *mailbox) all() map[string]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.handed)
}

// got is the event of an id, as it came first.
func (m *mailbox) got(id string) *watch.Event {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.first[id]
}

// failing lets it take nothing, or with nil everything again.
func (m *mailbox) failing(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = err
}

func (m *mailbox) times(id string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.handed[id]
}

// gateway is a watch with its platform and its app.
type gateway struct {
	*watch.Watch
	t       testing.TB
	bank    *bank
	mailbox *mailbox
	store   *storetest.Memory

	mu     sync.Mutex
	counts map[string]int
	cries  []string
	deaf   chan struct{} // closed: whoever hears the cries has time again; nil: he does
}

func newGateway(t testing.TB, change func(*watch.Settings)) *gateway {
	return join(t, storetest.NewMemory(nil), newBank(), newMailbox(), "one", change)
}

// join starts a gateway on a store, with a platform and an app that others may have, too.
func join(t testing.TB, store *storetest.Memory, b *bank, m *mailbox, instance string, change func(*watch.Settings)) *gateway {
	g := joinStore(t, store, b, m, instance, change)
	g.store = store
	return g
}

func joinStore(t testing.TB, store watch.Store, b *bank, m *mailbox, instance string, change func(*watch.Settings)) *gateway {
	return joinAt(t, store, b, m, instance, 0, change)
}

// joinAt starts a gateway whose clock is wrong.
func joinAt(t testing.TB, store watch.Store, b *bank, m *mailbox, instance string, ahead time.Duration, change func(*watch.Settings)) *gateway {
	g := &gateway{t: t, bank: b, mailbox: m, counts: map[string]int{}}
	s := settings()
	if change != nil {
		change(&s)
	}
	g.Watch = watch.StartAs(instance, store, ahead, s, watch.Parts{
		Platform: b, Send: b.send, Teller: m,
		Count: func(what, label string) {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.counts[what+" "+label]++
		},
		Emit: func(what string, o *watch.Order) {
			g.mu.Lock()
			deaf := g.deaf
			g.mu.Unlock()
			if deaf != nil {
				<-deaf
			}
			g.mu.Lock()
			defer g.mu.Unlock()
			g.cries = append(g.cries, what+" "+o.ID)
		},
	})
	return g
}

// cried is what was reported.
func (g *gateway) cried() string {
	synctest.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	return fmt.Sprint(g.cries)
}

func (g *gateway) count(what string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.counts[what]
}

// After says what became of a call whose app is given its answer, and waits until that is written down.
func (g *gateway) After(ticket *watch.Ticket, outcome watch.Outcome, code string, answer []byte) {
	if told := g.Watch.After(ticket, outcome, code, answer); told != nil {
		told(true)
		synctest.Wait()
	}
}

// call sends a call to its end: what the platform does, and what is known of it.
func (g *gateway) call(path string, r request, outcome watch.Outcome, code string) *watch.Refusal {
	g.t.Helper()
	ticket, refusal := g.Before(g.t.Context(), "shop", path, r.body(), "")
	if refusal == nil {
		g.After(ticket, outcome, code, nil)
	}
	return refusal
}

// ordered makes an order that is open at the platform.
func (g *gateway) ordered(number string, amount int64) {
	g.t.Helper()
	g.bank.order(number, watch.IsOpen, amount)
	if refusal := g.call("/order", request{Order: number, Amount: amount, Mid: "898"}, watch.Answered, "SUCCESS"); refusal != nil {
		g.t.Fatalf("an order was refused: %+v", refusal)
	}
}

// paidAndTold makes an order that is paid, and whose notify the app took.
func (g *gateway) paidAndTold(number string, amount int64) {
	g.t.Helper()
	g.ordered(number, amount)
	g.bank.order(number, watch.IsPaid, amount)
	if n := g.notify(number, answer{Order: watch.IsPaid, Amount: amount, Mid: "898"}, true); n.Ordered != "true" {
		g.t.Fatalf("the notify of an order: %+v", n)
	}
}

// notify is a notify that comes, and what the app says to it.
func (g *gateway) notify(order string, a answer, taken bool) watch.Notice {
	g.t.Helper()
	f := a.finding(order, "")
	n, err := g.Notified(g.t.Context(), "shop", order, f)
	if err != nil {
		g.t.Fatal(err)
	}
	if f.Event != nil && !n.Told && !n.Busy {
		g.Taken("shop", order, f.Event.ID, taken)
		if taken {
			g.mailbox.mu.Lock()
			g.mailbox.handed[f.Event.ID]++
			g.mailbox.mu.Unlock()
		}
	}
	return n
}

// row is what is known of an order.
func (g *gateway) row(number string) *watch.Order {
	g.t.Helper()
	o, err := g.Order(g.t.Context(), "shop", number)
	if err != nil && !errors.Is(err, watch.ErrNotFound) {
		g.t.Fatal(err)
	}
	return o
}

func (g *gateway) state(number string) watch.State { return g.row(number).State }

// toldLongAgo reports whether the app took an event about a refund an hour ago.
func (g *gateway) toldLongAgo(order, number, what string) bool {
	for _, told := range g.row(order).Told {
		if told.About == number && told.Type == what && told.Taken != 0 && time.Since(time.UnixMilli(told.Taken)) >= time.Hour {
			return true
		}
	}
	return false
}

// refundState is what is known of a refund.
func (g *gateway) refundState(order, number string) watch.State {
	for _, c := range g.row(order).Calls {
		if c.Number == number {
			return c.State
		}
	}
	return ""
}

// given is what the refunds but one have given back, as far as the watch knows.
func (g *gateway) given(order, but string) (sum int64) {
	for _, c := range g.row(order).Calls {
		if c.Kind == watch.KindRefund && c.State == watch.Succeeded && c.Number != but {
			sum += c.Amount
		}
	}
	return sum
}

// known is whether the watch knows that A1 is paid, and which of its refunds have succeeded.
func (g *gateway) known() (paid bool, succeeded map[string]bool) {
	o := g.row("A1")
	succeeded = map[string]bool{}
	for _, c := range o.Calls {
		succeeded[c.Number] = c.State == watch.Succeeded
	}
	return slices.Contains([]watch.State{watch.Paid, watch.PartRefunded, watch.Refunded}, o.State), succeeded
}

// repeated reports whether a refund was sent more than once.
func (g *gateway) repeated(order, number string) bool {
	for _, c := range g.row(order).Calls {
		if c.Number == number {
			return c.Again
		}
	}
	return false
}

// stuckTelling reports whether it was given up to tell the app something.
func (g *gateway) stuckTelling(order string) bool {
	for _, told := range g.row(order).Told {
		if told.Stuck != 0 {
			return true
		}
	}
	return false
}
