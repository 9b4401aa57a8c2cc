package storetest

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
)

func putKeyed(t *testing.T, store inbox.Store, key string, ids ...string) {
	t.Helper()
	for _, id := range ids {
		put(t, store, keyed(id, key), inbox.Stored)
	}
}

func testOrder(t *testing.T, store *opened) {
	for _, m := range []*inbox.Message{
		keyed("x1", "x"), keyed("x2", "x"), keyed("y1", "y"), keyed("x3", "x"), message("none1"), message("none2"), keyed("y2", "y"),
	} {
		put(t, store, m, inbox.Stored)
	}
	x1, y1 := leaseID(t, store, "x1"), leaseID(t, store, "y1")
	none1, none2 := leaseID(t, store, "none1"), leaseID(t, store, "none2")
	nothing(t, store)
	settle(t, store, y1, delivered)
	y2 := leaseID(t, store, "y2")
	nothing(t, store)
	settle(t, store, x1, dead) // given up: the next one's turn
	x2 := leaseID(t, store, "x2")
	nothing(t, store)
	settle(t, store, x2, released)
	x2 = leaseID(t, store, "x2")
	nothing(t, store)
	settle(t, store, x2, delivered)
	settle(t, store, leaseID(t, store, "x3"), delivered)
	for _, m := range []*inbox.Message{y2, none1, none2} {
		settle(t, store, m, delivered)
	}
	done(t, store, 6, 1)
}

func testOrderRetry(t *testing.T, store *opened) {
	putKeyed(t, store, "x", "x1", "x2")
	x1 := leaseID(t, store, "x1")
	settle(t, store, x1, retryIn(20*time.Minute))
	nothing(t, store) // x2 waits for x1, which waits for its retry
	put(t, store, keyed("y1", "y"), inbox.Stored)
	settle(t, store, leaseID(t, store, "y1"), delivered)
	put(t, store, keyed("x3", "x"), inbox.Stored)
	nothing(t, store)
	redeliver(t, store, x1.Seq, false, nil)
	for _, id := range []string{"x1", "x2", "x3"} {
		m := leaseID(t, store, id)
		nothing(t, store)
		settle(t, store, m, retryIn(0))
		settle(t, store, leaseID(t, store, id), delivered)
	}
	nothing(t, store)
}

// What comes back takes its place among the pending of its key, and what is in flight is not interrupted.
func testOrderRedelivered(t *testing.T, store *opened) {
	putKeyed(t, store, "x", "x1", "x2", "x3")
	x1 := leaseID(t, store, "x1")
	settle(t, store, x1, dead)
	x2 := leaseID(t, store, "x2")
	redeliver(t, store, x1.Seq, false, nil)
	nothing(t, store) // x2 is in flight
	settle(t, store, x2, delivered)
	var last []string
	for range 2 {
		m := lease(t, store)
		nothing(t, store)
		last = append(last, m.ID)
		settle(t, store, m, delivered)
	}
	if slices.Sort(last); !slices.Equal(last, []string{"x1", "x3"}) {
		t.Errorf("then %q", last)
	}
	nothing(t, store)

	// A dead one revived by its sender waits for the one before it.
	putKeyed(t, store, "z", "z1", "z2")
	settle(t, store, leaseID(t, store, "z1"), dead)
	z2 := leaseID(t, store, "z2")
	put(t, store, keyed("z1", "z"), inbox.Revived)
	nothing(t, store)
	settle(t, store, z2, delivered)
	settle(t, store, leaseID(t, store, "z1"), delivered)
	counts(t, store, 0, 5, 0)
}

func testOrderAtOnce(t *testing.T, store *opened) {
	const keys, each, holders = 8, 25, 12
	var lock sync.Mutex
	flying, settled, order := map[string]string{}, 0, map[string][]string{}
	all := leaseAtOnce(t, store, holders, func(m *inbox.Message) bool {
		outcome := delivered
		if m.Attempts == 0 && m.Seq%3 == 0 {
			outcome = retryIn(time.Millisecond)
		}
		lock.Lock()
		if other, ok := flying[m.Key]; ok {
			t.Errorf("%s was leased while %s was in flight", m.ID, other)
		}
		flying[m.Key] = m.ID
		lock.Unlock()
		runtime.Gosched() // others may lease in between
		lock.Lock()
		delete(flying, m.Key)
		if outcome.Result == inbox.Delivered {
			order[m.Key] = append(order[m.Key], m.ID)
			settled++
		}
		more := settled < keys*each
		lock.Unlock()
		settle(t, store, m, outcome)
		return more
	})
	putFrom(t, store, keys, each, func(k, i int) *inbox.Message {
		return keyed(fmt.Sprintf("%d-%03d", k, i), fmt.Sprint("key ", k))
	})
	all.Wait()
	if settled != keys*each {
		t.Fatalf("%d settled, want %d", settled, keys*each)
	}
	for key, got := range order {
		if !slices.IsSorted(got) {
			t.Errorf("%s: %q", key, got)
		}
	}
}
