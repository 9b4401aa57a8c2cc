package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
	"github.com/caddy-chinaums/caddy-chinaums/internal/testutil"
)

// testClose: those who wait are told, and whatever is asked of a closed store, it says that it is closed.
func testClose(t *testing.T, store *opened) {
	puts(t, store, "dead", "a", "b")
	settle(t, store, leaseID(t, store, "dead"), dead)
	first, second := lease(t, store), lease(t, store)
	seq := seqOf(t, store, "dead")
	ended := make(chan error, 4)
	for range cap(ended) {
		go func() {
			_, err := store.Lease(bounded(t))
			ended <- err
		}()
	}
	nothing(t, store) // the others wait by now, or will find it closed
	store.close(t)
	for range cap(ended) {
		if err := <-ended; !errors.Is(err, inbox.ErrClosed) {
			t.Errorf("a waiting lease got %v, want %v", err, inbox.ErrClosed)
		}
	}
	ctx := context.Background()
	for name, call := range map[string]func() error{
		"Configure":        func() error { return store.Configure(Defaults()) },
		"Put":              func() error { return errorOf(store.Put(ctx, message("c"))) },
		"Lease":            func() error { return errorOf(store.Lease(ctx)) },
		"Settle":           func() error { return store.Settle(ctx, first, delivered) },
		"Settle, released": func() error { return store.Settle(ctx, second, released) },
		"List":             func() error { return errorOf(store.List(ctx, inbox.Query{Limit: 1})) },
		"Get":              func() error { return errorOf(store.Get(ctx, seq)) },
		"Redeliver":        func() error { return errorOf(store.Redeliver(ctx, seq, true)) },
		"Delete":           func() error { return store.Delete(ctx, seq, true) },
		"DeleteDead":       func() error { return errorOf(store.DeleteDead(ctx, time.Time{})) },
		"Stats":            func() error { return errorOf(store.Stats(ctx)) },
	} {
		if err := call(); !errors.Is(err, inbox.ErrClosed) {
			t.Errorf("%s: %v, want %v", name, err, inbox.ErrClosed)
		}
	}
	store.close(t) // again
}

func errorOf[T any](_ T, err error) error { return err }

// states fills a store with a message of every state. Each is put when the one before has been leased: their order is not sure.
func states(t *testing.T, store inbox.Store) {
	t.Helper()
	settle(t, store, leaseNew(t, store, "delivered"), delivered)
	settle(t, store, leaseNew(t, store, "dead"), dead)
	settle(t, store, leaseNew(t, store, "retrying"), retryIn(30*time.Minute))
	due, rel := leaseNew(t, store, "due"), leaseNew(t, store, "released")
	settle(t, store, due, retryIn(0))
	settle(t, store, rel, released)
	puts(t, store, "fresh")
}

// checkStates checks what states has made, in a store that was opened again, and settles it.
func checkStates(t *testing.T, store inbox.Store) {
	t.Helper()
	counts(t, store, 4, 1, 1)
	repeats(t, store, "delivered", "retrying", "due", "released", "fresh")
	attempts := map[string]int{}
	for range 3 {
		m := lease(t, store)
		sameMessage(t, m, message(m.ID))
		attempts[m.ID] = m.Attempts
		settle(t, store, m, delivered)
	}
	if want := map[string]int{"due": 1, "fresh": 0, "released": 0}; !maps.Equal(attempts, want) {
		t.Errorf("leased with the attempts %v, want %v", attempts, want)
	}
	nothing(t, store)
	is(t, get(t, store, seqOf(t, store, "retrying")), inbox.Pending, 1, retryIn(0).Answer)
	is(t, get(t, store, seqOf(t, store, "dead")), inbox.Dead, 1, dead.Answer)
	put(t, store, message("dead"), inbox.Revived)
	settle(t, store, leaseID(t, store, "dead"), delivered)
	counts(t, store, 1, 5, 0)
}

func testReopen(t *testing.T, store *opened) {
	states(t, store)
	bytes := counts(t, store, 4, 1, 1).Bytes
	for range 3 {
		store.reopen(t)
	}
	if again := counts(t, store, 4, 1, 1).Bytes; again != bytes {
		t.Errorf("%d bytes, before it was closed %d", again, bytes)
	}
	checkStates(t, store)
}

func testReopenOrder(t *testing.T, store *opened) {
	putKeyed(t, store, "x", "x1", "x2", "x3")
	settle(t, store, leaseID(t, store, "x1"), retryIn(30*time.Minute))
	store.reopen(t)
	nothing(t, store)
	redeliver(t, store, seqOf(t, store, "x1"), false, nil)
	settle(t, store, leaseID(t, store, "x1"), delivered)
	settle(t, store, leaseID(t, store, "x2"), released)
	store.crash(t)
	settle(t, store, leaseID(t, store, "x2"), dead)
	settle(t, store, leaseID(t, store, "x3"), delivered)
	nothing(t, store)
}

func testCrash(t *testing.T, store *opened) {
	states(t, store)
	store.crash(t)
	// What is in flight at a crash is leased again.
	m := lease(t, store)
	store.settings.Lease *= 2
	store.crash(t)
	settle(t, store, leaseUntil(t, store, m.ID), released)
	checkStates(t, store)
}

// load is what became of messages that many callers put and deliver at once.
type load struct {
	lock      sync.Mutex
	acked     map[string]bool // Put said that it is safe
	delivered map[string]int  // Settle said that it is settled
	doubtful  map[string]bool // Settle was cut off: settled or not
}

// run puts and delivers until ctx ends.
func (l *load) run(ctx context.Context, t *testing.T, store inbox.Store, round int) *sync.WaitGroup {
	t.Helper()
	var all sync.WaitGroup
	for sender := range 8 {
		all.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				id := fmt.Sprintf("%d/%d/%d", round, sender, i)
				if _, err := store.Put(ctx, message(id)); err == nil {
					l.lock.Lock()
					l.acked[id] = true
					l.lock.Unlock()
				}
			}
		})
	}
	for range 4 {
		all.Go(func() {
			for ctx.Err() == nil {
				m, err := store.Lease(ctx)
				if err != nil {
					return
				}
				outcome := []inbox.Outcome{delivered, delivered, retryIn(time.Millisecond), released}[rand.IntN(4)]
				if err = store.Settle(ctx, m, outcome); outcome.Result != inbox.Delivered {
					continue
				}
				l.lock.Lock()
				if err == nil {
					l.delivered[m.ID]++
				} else {
					l.doubtful[m.ID] = true
				}
				l.lock.Unlock()
			}
		})
	}
	return &all
}

func testCrashUnderLoad(t *testing.T, store *opened) {
	l := &load{acked: map[string]bool{}, delivered: map[string]int{}, doubtful: map[string]bool{}}
	for round := range 4 {
		ctx, stop := context.WithCancel(t.Context())
		all := l.run(ctx, t, store, round)
		testutil.Eventually(t, "50 more are delivered", func() bool {
			l.lock.Lock()
			defer l.lock.Unlock()
			return len(l.delivered) >= 50*(round+1)
		})
		stop()
		if round%2 == 0 {
			store.doubtful = true
			store.Abandon(t, store.Store)
			all.Wait()
		} else {
			all.Wait()
			store.close(t)
		}
		store.open(t)
	}
	limit := bounded(t)
	for {
		stats, err := store.Stats(bounded(t))
		if err != nil {
			t.Fatalf("stats: %v", err)
		}
		if stats.Pending == 0 {
			break
		}
		// What was settled at a crash may count as pending until it is removed: then nothing comes.
		ctx, cancel := context.WithTimeout(limit, time.Second)
		m, err := store.Lease(ctx)
		cancel()
		if err != nil {
			if limit.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("%d pending: %v", stats.Pending, err)
			}
			continue
		}
		l.delivered[m.ID]++
		settle(t, store, m, delivered)
		limit = bounded(t)
	}
	for id := range l.acked {
		if l.delivered[id] == 0 && !l.doubtful[id] {
			t.Errorf("%s was acknowledged and not delivered", id)
		}
	}
	// Settled means settled: nothing of it comes again, however the store was left.
	for id, times := range l.delivered {
		if times > 1 {
			t.Errorf("%s was settled %d times", id, times)
		}
	}
}

func testManyAtOnce(t *testing.T, store *opened) {
	const senders, each, holders = 32, 40, 8
	var lock sync.Mutex
	settled := map[string]inbox.State{}
	all := leaseAtOnce(t, store, holders, func(m *inbox.Message) bool {
		outcome := []inbox.Outcome{delivered, delivered, dead, retryIn(time.Millisecond), released}[rand.IntN(5)]
		settle(t, store, m, outcome)
		lock.Lock()
		defer lock.Unlock()
		if outcome.Result == inbox.Delivered || outcome.Result == inbox.Dead {
			if before, ok := settled[m.ID]; ok {
				t.Errorf("%s was settled twice: %s, then %s", m.ID, before, outcome.Result)
			}
			settled[m.ID] = outcome.Result
		}
		return len(settled) < senders*each
	})
	putFrom(t, store, senders, each, func(sender, i int) *inbox.Message { return message(fmt.Sprintf("%d/%d", sender, i)) })
	all.Wait()
	if len(settled) != senders*each {
		t.Fatalf("%d settled, want %d", len(settled), senders*each)
	}
	of := map[inbox.State]int64{}
	for _, state := range settled {
		of[state]++
	}
	counts(t, store, 0, of[inbox.Delivered], of[inbox.Dead])
}
