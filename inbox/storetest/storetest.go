// Package storetest holds every store of the inbox to the contract of inbox.Store.
package storetest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
)

// Backend is one place where a store keeps its messages: empty at first, and it outlives the stores that are opened on
// it one after the other.
type Backend struct {
	// Open opens the store. It fails the test if it cannot.
	Open func(t *testing.T, settings inbox.Settings) inbox.Store

	// Abandon leaves an open store as a process does that is killed: nothing is released or settled or written any more.
	// What it held may be freed. Nil for a store that does not outlive its process: then reopening is not tested either.
	Abandon func(t *testing.T, store inbox.Store)

	// Jump sets the clock that the store goes by forward or, if negative, back. Nil where it is not the store's own.
	Jump func(change time.Duration)

	// Moves says that a message gets another seq when it is settled.
	Moves bool

	// Await waits until List and Stats know all that was settled; nil where they always do. It is not called any more once a store
	// was abandoned in the midst of its work.
	Await func(t *testing.T, store inbox.Store)

	// Ordered says that the store keeps the order of a key.
	Ordered bool

	// TooLarge is the size of a request that the store can never take; 0 if there is no such size.
	TooLarge int
}

// Defaults are the settings of the tests that do not look into one.
func Defaults() inbox.Settings {
	return inbox.Settings{Remember: 24 * time.Hour, Lease: 20 * time.Second, MaxDelay: time.Hour}
}

// The patience of the tests: how long something may take that must happen, and for how long they watch that something
// does not.
const (
	patience = time.Minute
	quiet    = 150 * time.Millisecond
)

// opened is a store that is open on a backend.
type opened struct {
	inbox.Store
	*Backend
	settings inbox.Settings
	t        *testing.T
	doubtful bool // it was abandoned in the midst of its work: what was settled then is known after its lease only
}

func (o *opened) await() {
	if o.Await != nil && !o.doubtful {
		o.Await(o.t, o.Store)
	}
}

// List lists what there is once that is known.
func (o *opened) List(ctx context.Context, query inbox.Query) ([]*inbox.Message, error) {
	o.await()
	return o.Store.List(ctx, query)
}

// Stats counts what there is once that is known.
func (o *opened) Stats(ctx context.Context) (inbox.Stats, error) {
	o.await()
	return o.Store.Stats(ctx)
}

// open opens a store that is closed at the test's end, unless the test has done that.
func (o *opened) open(t *testing.T) {
	t.Helper()
	store := o.Open(t, o.settings)
	o.Store = store
	t.Cleanup(func() { _ = store.Close() })
}

func (o *opened) close(t *testing.T) {
	t.Helper()
	o.await()
	if err := o.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
}

func (o *opened) reopen(t *testing.T) {
	t.Helper()
	o.close(t)
	o.open(t)
}

func (o *opened) crash(t *testing.T) {
	t.Helper()
	o.await()
	o.Abandon(t, o.Store)
	o.open(t)
}

// What some tests need of a backend.
func ordered(b *Backend) bool { return b.Ordered }
func clocked(b *Backend) bool { return b.Jump != nil }
func durable(b *Backend) bool { return b.Abandon != nil }
func limited(b *Backend) bool { return b.TooLarge > 0 }
func both(b *Backend) bool    { return durable(b) && ordered(b) }

// Run holds the stores of a backend to the contract. Each test has a backend of its own.
func Run(t *testing.T, backend func(t *testing.T) *Backend) {
	t.Helper()
	var usual inbox.Settings
	for _, test := range []struct {
		name     string
		run      func(t *testing.T, store *opened)
		needs    func(b *Backend) bool // nil: nothing
		settings inbox.Settings        // those that are not the defaults
	}{
		{"put and lease", testPutAndLease, nil, usual},
		{"requests are kept byte for byte", testRequests, nil, usual},
		{"ids are compared byte for byte", testIDs, nil, usual},
		{"repeated", testRepeated, nil, usual},
		{"repeated at once", testRepeatedAtOnce, nil, usual},
		{"revived", testRevived, nil, usual},
		{"revived at once", testRevivedAtOnce, nil, usual},
		{"put of a caller that is gone", testPutCancelled, nil, usual},
		{"too large", testTooLarge, limited, usual},
		{"lease waits for a put", testLeaseWaits, nil, usual},
		{"lease of a caller that is gone", testLeaseCancelled, nil, usual},
		{"lease handed on from a caller that is gone", testLeaseHandedOn, nil, usual},
		{"one lease at a time", testExclusive, nil, usual},
		{"first deliveries in order", testFirstInFirstOut, nil, usual},
		{"released", testReleased, nil, usual},
		{"retry", testRetry, nil, usual},
		{"retry wakes a waiting lease", testRetryWakes, nil, usual},
		{"the shorter retry first", testShorterRetry, nil, usual},
		{"settled twice", testSettledTwice, nil, usual},
		{"settled by a former holder", testFormerHolder, nil, usual},
		{"redeliver", testRedeliver, nil, usual},
		{"redeliver what waits for a retry", testRedeliverRetrying, nil, usual},
		{"list", testList, nil, usual},
		{"get", testGet, nil, usual},
		{"delete", testDelete, nil, usual},
		{"delete what is leased", testDeleteLeased, nil, usual},
		{"delete what holds up its key", testDeleteOrder, ordered, usual},
		{"delete dead ones", testDeleteDead, nil, usual},
		{"subject and search", testSubject, nil, usual},
		{"stats", testStats, nil, usual},
		{"poison blocks nobody", testPoison, nil, usual},
		{"retries do not starve new ones", testRetriesDoNotStarve, nil, usual},
		{"new ones do not starve retries", testNewDoNotStarve, nil, usual},
		{"order", testOrder, ordered, usual},
		{"order with a retry", testOrderRetry, ordered, usual},
		{"order of what is redelivered", testOrderRedelivered, ordered, usual},
		{"order at once", testOrderAtOnce, ordered, usual},
		{"full", testFull, nil, inbox.Settings{MaxBytes: 256 << 10}},
		{"full of pending ones", testFullPending, nil, inbox.Settings{MaxBytes: 128 << 10}},
		{"configure", testConfigure, nil, inbox.Settings{MaxBytes: 128 << 10}},
		{"remember", testRemember, clocked, inbox.Settings{Remember: time.Hour}},
		{"clock set forward", testClockForward, clocked, usual},
		{"clock set back", testClockBack, clocked, usual},
		{"close", testClose, nil, usual},
		{"reopen", testReopen, durable, usual},
		{"reopen keeps order", testReopenOrder, both, usual},
		{"crash", testCrash, durable, inbox.Settings{Lease: 5 * time.Second}},
		// What was in flight at a crash comes again after the lease; it is long enough that a busy machine settles in time.
		{"crash under load", testCrashUnderLoad, durable, inbox.Settings{Lease: 10 * time.Second}},
		{"many at once", testManyAtOnce, nil, usual},
	} {
		t.Run(test.name, func(t *testing.T) {
			store := &opened{Backend: backend(t), settings: Defaults(), t: t}
			of := &store.settings
			of.MaxBytes = test.settings.MaxBytes
			of.Remember, of.Lease = cmp.Or(test.settings.Remember, of.Remember), cmp.Or(test.settings.Lease, of.Lease)
			if test.needs != nil && !test.needs(store.Backend) {
				t.Skip("this kind of store does not do that")
			}
			store.open(t)
			test.run(t, store)
		})
	}
}

// bounded returns a context of the test's patience.
func bounded(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// received is when the tests' messages were received: whole milliseconds, which every store must keep.
var received = time.Date(2026, 3, 1, 12, 30, 15, 123_000_000, time.UTC)

func message(id string) *inbox.Message {
	return &inbox.Message{ID: id, Received: received, Request: []byte("request of " + id)}
}

func keyed(id, key string) *inbox.Message {
	m := message(id)
	m.Key = key
	return m
}

func put(t *testing.T, store inbox.Store, m *inbox.Message, want inbox.Receipt) {
	t.Helper()
	got, err := store.Put(bounded(t), m)
	if err != nil {
		t.Fatalf("put %q: %v", m.ID, err)
	}
	if got != want {
		t.Fatalf("put %q: receipt %d, want %d", m.ID, got, want)
	}
}

func puts(t *testing.T, store inbox.Store, ids ...string) {
	t.Helper()
	putKeyed(t, store, "", ids...)
}

// repeats puts messages that are there.
func repeats(t *testing.T, store inbox.Store, ids ...string) {
	t.Helper()
	for _, id := range ids {
		put(t, store, message(id), inbox.Repeated)
	}
}

func numbered(n int) (ids []string) {
	for i := range n {
		ids = append(ids, fmt.Sprint(i))
	}
	return ids
}

// putFrom puts new messages from many senders at once.
func putFrom(t *testing.T, store inbox.Store, senders, each int, message func(sender, i int) *inbox.Message) {
	t.Helper()
	var all sync.WaitGroup
	for sender := range senders {
		all.Go(func() {
			for i := range each {
				receipt, err := store.Put(bounded(t), message(sender, i))
				if err != nil || receipt != inbox.Stored {
					t.Errorf("put %d of sender %d: receipt %d, error %v", i, sender, receipt, err)
				}
			}
		})
	}
	all.Wait()
}

// putAtOnce puts one message from many callers, and counts the receipts.
func putAtOnce(t *testing.T, store inbox.Store, id string, callers int) map[inbox.Receipt]int {
	t.Helper()
	receipts := make(chan inbox.Receipt, callers)
	for range callers {
		go func() {
			receipt, err := store.Put(bounded(t), message(id))
			if err != nil {
				t.Errorf("put: %v", err)
			}
			receipts <- receipt
		}()
	}
	counted := map[inbox.Receipt]int{}
	for range callers {
		counted[<-receipts]++
	}
	return counted
}

func lease(t *testing.T, store inbox.Store) *inbox.Message {
	t.Helper()
	m, err := store.Lease(bounded(t))
	if err != nil {
		t.Fatalf("lease: %v", err)
	}
	if m.State != inbox.Pending {
		t.Fatalf("leased %q in the state %q", m.ID, m.State)
	}
	return m
}

func leaseID(t *testing.T, store inbox.Store, id string) *inbox.Message {
	t.Helper()
	m := lease(t, store)
	if m.ID != id {
		t.Fatalf("leased %q, want %q", m.ID, id)
	}
	return m
}

func leaseNew(t *testing.T, store inbox.Store, id string) *inbox.Message {
	t.Helper()
	puts(t, store, id)
	return leaseID(t, store, id)
}

// leaseLater leases in another goroutine, and returns what waits for that.
func leaseLater(t *testing.T, store inbox.Store) (leased func() *inbox.Message) {
	t.Helper()
	var m *inbox.Message
	var err error
	ended := make(chan struct{})
	go func() {
		m, err = store.Lease(bounded(t))
		close(ended)
	}()
	return func() *inbox.Message {
		t.Helper()
		if <-ended; err != nil {
			t.Fatalf("lease: %v", err)
		}
		return m
	}
}

// deliver delivers so many messages, and returns their ids, sorted.
func deliver(t *testing.T, store inbox.Store, n int) (ids []string) {
	t.Helper()
	for range n {
		m := lease(t, store)
		ids = append(ids, m.ID)
		settle(t, store, m, delivered)
	}
	slices.Sort(ids)
	return ids
}

// leaseAtOnce leases in many goroutines, one message after the other, while take returns true for each.
func leaseAtOnce(t *testing.T, store inbox.Store, holders int, take func(m *inbox.Message) (more bool)) *sync.WaitGroup {
	t.Helper()
	ctx, done := context.WithCancel(bounded(t))
	t.Cleanup(done)
	all := new(sync.WaitGroup)
	for range holders {
		all.Go(func() {
			for {
				m, err := store.Lease(ctx)
				if err != nil {
					return
				}
				if !take(m) {
					done()
				}
			}
		})
	}
	return all
}

// nothing checks that nothing is to be leased now.
func nothing(t *testing.T, store inbox.Store) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), quiet)
	defer cancel()
	m, err := store.Lease(ctx)
	if err == nil {
		t.Fatalf("leased %q (seq %d, attempts %d), want nothing", m.ID, m.Seq, m.Attempts)
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("lease: %v, want the context's error", err)
	}
}

func settle(t *testing.T, store inbox.Store, m *inbox.Message, outcome inbox.Outcome) {
	t.Helper()
	if err := store.Settle(bounded(t), m, outcome); err != nil {
		t.Fatalf("settle %q: %v", m.ID, err)
	}
}

var (
	delivered = inbox.Outcome{Result: inbox.Delivered, Answer: inbox.Answer{Status: 200, Body: "SUCCESS"}}
	dead      = inbox.Outcome{Result: inbox.Dead, Answer: inbox.Answer{Status: 500, Body: "no", Error: "status"}}
	released  = inbox.Outcome{Released: true}
)

func retryIn(delay time.Duration) inbox.Outcome {
	return inbox.Outcome{Result: inbox.Pending, Delay: delay, Answer: inbox.Answer{Status: 503, Body: "later", Error: "status"}}
}

func get(t *testing.T, store inbox.Store, seq uint64) *inbox.Message {
	t.Helper()
	m, err := store.Get(bounded(t), seq)
	if err != nil {
		t.Fatalf("get %d: %v", seq, err)
	}
	return m
}

func list(t *testing.T, store inbox.Store, query inbox.Query) []*inbox.Message {
	t.Helper()
	messages, err := store.List(bounded(t), query)
	if err != nil {
		t.Fatalf("list %+v: %v", query, err)
	}
	return messages
}

// pages lists all that a query selects, page after page.
func pages(t *testing.T, store inbox.Store, query inbox.Query) (all []*inbox.Message) {
	t.Helper()
	for {
		page := list(t, store, query)
		if len(page) == 0 {
			return all
		}
		if len(page) > query.Limit {
			t.Fatalf("%d listed, with the limit %d", len(page), query.Limit)
		}
		for _, m := range page {
			if m.Seq <= query.After {
				t.Fatalf("seq %d after %d", m.Seq, query.After)
			}
			query.After = m.Seq
		}
		all = append(all, page...)
	}
}

// finds checks what a query selects, in pages of several sizes, and returns what it got in all of them.
func finds(t *testing.T, store *opened, query inbox.Query, want ...string) (all []*inbox.Message) {
	t.Helper()
	for _, query.Limit = range []int{1, 2, 9, 100} {
		messages := pages(t, store, query)
		all = append(all, messages...)
		got := ids(messages)
		if store.Moves { // it is by seq, and settling has changed that
			slices.Sort(got)
			slices.Sort(want)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%+v: %q, want %q", query, got, want)
		}
	}
	return all
}

func ids(messages []*inbox.Message) []string {
	var all []string
	for _, m := range messages {
		all = append(all, m.ID)
	}
	return all
}

// seqOf finds a message by its id.
func seqOf(t *testing.T, store inbox.Store, id string) uint64 {
	t.Helper()
	all := pages(t, store, inbox.Query{Limit: 100})
	at := slices.Index(ids(all), id)
	if at < 0 {
		t.Fatalf("%q is not in the list", id)
	}
	return all[at].Seq
}

func counts(t *testing.T, store inbox.Store, pending, delivered, dead int64) inbox.Stats {
	t.Helper()
	stats, err := store.Stats(bounded(t))
	if err != nil {
		t.Fatalf("stats: %v", err)
	}
	if stats.Pending != pending || stats.Delivered != delivered || stats.Dead != dead {
		t.Fatalf("pending %d, delivered %d, dead %d; want %d, %d, %d",
			stats.Pending, stats.Delivered, stats.Dead, pending, delivered, dead)
	}
	return stats
}

// done checks that nothing is pending, and nothing is to be leased.
func done(t *testing.T, store inbox.Store, delivered, dead int64) {
	t.Helper()
	nothing(t, store)
	counts(t, store, 0, delivered, dead)
}

// is checks what has become of a message.
func is(t *testing.T, m *inbox.Message, state inbox.State, attempts int, answer inbox.Answer) {
	t.Helper()
	if m.State != state || m.Attempts != attempts || m.Answer != answer || m.Settled.IsZero() != (state == inbox.Pending) {
		t.Errorf("%s: state %q, attempts %d, answer %+v, settled %s; want %q, %d, %+v",
			m.ID, m.State, m.Attempts, m.Answer, m.Settled, state, attempts, answer)
	}
}

func sameMessage(t *testing.T, got, want *inbox.Message) {
	t.Helper()
	if got.ID != want.ID || got.Key != want.Key || got.Subject != want.Subject || !got.Received.Equal(want.Received) || !bytes.Equal(got.Request, want.Request) {
		t.Fatalf("got id %q, key %q, received %s, request %s;\nwant id %q, key %q, received %s, request %s",
			got.ID, got.Key, got.Received, brief(got.Request), want.ID, want.Key, want.Received, brief(want.Request))
	}
}

func brief(request []byte) string {
	if len(request) > 64 {
		return fmt.Sprintf("%q… (%d bytes)", request[:64], len(request))
	}
	return fmt.Sprintf("%q", request)
}
