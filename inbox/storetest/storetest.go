// Package storetest holds every store of the inbox to the contract of inbox.Store.
package storetest

import (
	"bytes"
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

	// Ordered says that the store keeps the order of a key.
	Ordered bool

	// TooLarge is the size of a request that the store can never take; 0 if there is no such size.
	TooLarge int
}

// Defaults are the settings of the tests that do not look into one.
func Defaults() inbox.Settings {
	return inbox.Settings{Remember: 24 * time.Hour, Lease: 5 * time.Second, MaxDelay: time.Hour}
}

// The patience of the tests: how long something may take that must happen, and for how long they watch that something
// does not.
const (
	patience = time.Minute
	quiet    = 150 * time.Millisecond
)

// Run holds the stores of a backend to the contract. Each test has a backend of its own.
func Run(t *testing.T, backend func(t *testing.T) *Backend) {
	t.Helper()
	for _, test := range []struct {
		name string
		run  func(t *testing.T, b *Backend)
	}{
		{"put and lease", testPutAndLease},
		{"requests are kept byte for byte", testRequests},
		{"ids are compared byte for byte", testIDs},
		{"repeated", testRepeated},
		{"repeated at once", testRepeatedAtOnce},
		{"revived", testRevived},
		{"revived at once", testRevivedAtOnce},
		{"put of a caller that is gone", testPutCancelled},
		{"too large", testTooLarge},
		{"lease waits for a put", testLeaseWaits},
		{"lease of a caller that is gone", testLeaseCancelled},
		{"lease handed on from a caller that is gone", testLeaseHandedOn},
		{"one lease at a time", testExclusive},
		{"first deliveries in order", testFirstInFirstOut},
		{"released", testReleased},
		{"retry", testRetry},
		{"retry wakes a waiting lease", testRetryWakes},
		{"the shorter retry first", testShorterRetry},
		{"settled twice", testSettledTwice},
		{"settled by a former holder", testFormerHolder},
		{"redeliver", testRedeliver},
		{"redeliver what waits for a retry", testRedeliverRetrying},
		{"list", testList},
		{"get", testGet},
		{"delete", testDelete},
		{"delete what is leased", testDeleteLeased},
		{"delete what holds up its key", testDeleteOrder},
		{"delete dead ones", testDeleteDead},
		{"subject and search", testSubject},
		{"stats", testStats},
		{"poison blocks nobody", testPoison},
		{"retries do not starve new ones", testRetriesDoNotStarve},
		{"new ones do not starve retries", testNewDoNotStarve},
		{"order", testOrder},
		{"order with a retry", testOrderRetry},
		{"order of what is redelivered", testOrderRedelivered},
		{"order at once", testOrderAtOnce},
		{"full", testFull},
		{"full of pending ones", testFullPending},
		{"configure", testConfigure},
		{"remember", testRemember},
		{"clock set forward", testClockForward},
		{"clock set back", testClockBack},
		{"close", testClose},
		{"reopen", testReopen},
		{"reopen keeps order", testReopenOrder},
		{"crash", testCrash},
		{"crash under load", testCrashUnderLoad},
		{"many at once", testManyAtOnce},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, backend(t)) })
	}
}

// context returns a context of the test's patience.
func bounded(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// open opens a store that is closed at the test's end, unless the test has done that.
func open(t *testing.T, b *Backend, change ...func(*inbox.Settings)) inbox.Store {
	t.Helper()
	settings := Defaults()
	for _, c := range change {
		c(&settings)
	}
	store := b.Open(t, settings)
	t.Cleanup(func() { _ = store.Close() })
	return store
}

// clocked skips a test that sets the store's clock, where that cannot be done.
func clocked(t *testing.T, b *Backend) {
	t.Helper()
	if b.Jump == nil {
		t.Skip("the clock is not the store's own")
	}
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

// puts puts new messages.
func puts(t *testing.T, store inbox.Store, ids ...string) {
	t.Helper()
	for _, id := range ids {
		put(t, store, message(id), inbox.Stored)
	}
}

func numbered(n int) (ids []string) {
	for i := range n {
		ids = append(ids, fmt.Sprint(i))
	}
	return ids
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

// leaseLater leases in another goroutine; nil says that it has failed.
func leaseLater(t *testing.T, store inbox.Store) <-chan *inbox.Message {
	t.Helper()
	leased := make(chan *inbox.Message, 1)
	go func() {
		m, err := store.Lease(bounded(t))
		if err != nil {
			t.Errorf("lease: %v", err)
		}
		leased <- m
	}()
	return leased
}

// deliver delivers so many messages.
func deliver(t *testing.T, store inbox.Store, n int) {
	t.Helper()
	for range n {
		settle(t, store, lease(t, store), delivered)
	}
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
