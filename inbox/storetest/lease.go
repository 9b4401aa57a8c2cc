package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
)

func testLeaseWaits(t *testing.T, store *opened) {
	const waiting = 4
	var leased []func() *inbox.Message
	for range waiting {
		leased = append(leased, leaseLater(t, store))
	}
	puts(t, store, numbered(waiting)...)
	seen := map[string]bool{}
	for _, one := range leased {
		m := one()
		seen[m.ID] = true
		settle(t, store, m, delivered)
	}
	if len(seen) != waiting {
		t.Errorf("leased %v", seen)
	}
}

// What wakes a caller that is gone by then must wake another.
func testLeaseHandedOn(t *testing.T, store *opened) {
	for i := range 200 {
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		leased := make(chan *inbox.Message, 2)
		lease := func(ctx context.Context) {
			if m, err := store.Lease(ctx); err == nil {
				leased <- m
			}
		}
		all.Go(func() { lease(ctx) })
		other, stop := context.WithTimeout(t.Context(), patience)
		all.Go(func() { lease(other) })
		all.Go(cancel)
		puts(t, store, fmt.Sprint(i))
		select {
		case m := <-leased:
			settle(t, store, m, delivered)
		case <-other.Done():
			t.Errorf("message %d was leased to nobody while somebody waited", i)
		}
		stop()
		all.Wait()
		if t.Failed() {
			return
		}
	}
}

// A message must not vanish with a caller whose context ends while it is handed out.
func testLeaseCancelled(t *testing.T, store *opened) {
	for i := range 50 {
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan *inbox.Message, 1)
		go func() {
			m, err := store.Lease(ctx)
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("lease: %v", err)
			}
			result <- m
		}()
		id := fmt.Sprint(i)
		go cancel()
		puts(t, store, id)
		m := <-result
		if m == nil {
			m = leaseID(t, store, id)
		}
		settle(t, store, m, delivered)
	}
	counts(t, store, 0, 50, 0)
}

func testExclusive(t *testing.T, store *opened) {
	const messages, holders = 200, 16
	puts(t, store, numbered(messages)...)
	var lock sync.Mutex
	seen := map[string]int{}
	leaseAtOnce(t, store, holders, func(m *inbox.Message) bool {
		lock.Lock()
		defer lock.Unlock()
		seen[m.ID]++
		return len(seen) < messages
	}).Wait()
	if len(seen) != messages {
		t.Fatalf("%d messages leased, want %d", len(seen), messages)
	}
	for id, times := range seen {
		if times != 1 {
			t.Errorf("%s was leased %d times", id, times)
		}
	}
	nothing(t, store)
}

// The order is by seq, roughly: none overtakes many.
func testFirstInFirstOut(t *testing.T, store *opened) {
	const messages, roughly = 300, 100
	puts(t, store, numbered(messages)...)
	for i := range messages {
		m := lease(t, store)
		var number int
		if _, err := fmt.Sscan(m.ID, &number); err != nil {
			t.Fatal(err)
		}
		if number > i+roughly || number < i-roughly {
			t.Errorf("message %d was leased as number %d", number, i)
		}
		settle(t, store, m, delivered)
	}
}

func testReleased(t *testing.T, store *opened) {
	settle(t, store, leaseNew(t, store, "a"), released)
	m := leaseID(t, store, "a")
	is(t, m, inbox.Pending, 0, inbox.Answer{})
	settle(t, store, m, retryIn(0))
	settle(t, store, leaseID(t, store, "a"), released)
	m = leaseID(t, store, "a")
	is(t, m, inbox.Pending, 1, retryIn(0).Answer)
	settle(t, store, m, delivered)
}

func testRetry(t *testing.T, store *opened) {
	puts(t, store, "a", "b")
	m := leaseID(t, store, "a")
	settle(t, store, m, retryIn(20*time.Minute))
	settle(t, store, leaseID(t, store, "b"), delivered) // which it does not hold up
	nothing(t, store)
	kept := get(t, store, m.Seq)
	if is(t, kept, inbox.Pending, 1, retryIn(0).Answer); kept.Due.IsZero() {
		t.Error("when it is due is not known")
	}
	sameMessage(t, kept, message("a"))
	counts(t, store, 1, 1, 0)
}

func testRetryWakes(t *testing.T, store *opened) {
	puts(t, store, "a")
	for attempts := 1; attempts <= 3; attempts++ {
		m := leaseID(t, store, "a")
		begun := time.Now()
		settle(t, store, m, retryIn(200*time.Millisecond))
		m = leaseID(t, store, "a")
		if waited := time.Since(begun); waited < 150*time.Millisecond { // a busy machine can only take longer
			t.Errorf("leased again after %s, want 200ms", waited)
		}
		is(t, m, inbox.Pending, attempts, retryIn(0).Answer)
		settle(t, store, m, released)
	}
}

func testShorterRetry(t *testing.T, store *opened) {
	puts(t, store, "long", "short")
	settle(t, store, leaseID(t, store, "long"), retryIn(30*time.Minute))
	short := leaseID(t, store, "short")
	leased := leaseLater(t, store) // it waits for the long one, and must take the short one into account
	settle(t, store, short, retryIn(50*time.Millisecond))
	if m := leased(); m.ID != "short" {
		t.Fatalf("leased %q, want the short one", m.ID)
	}
}

func testSettledTwice(t *testing.T, store *opened) {
	m := leaseNew(t, store, "a")
	settle(t, store, m, delivered)
	settle(t, store, m, dead)
	settle(t, store, m, retryIn(0))
	settle(t, store, m, released)
	done(t, store, 1, 0)
	is(t, get(t, store, m.Seq), inbox.Delivered, 0, delivered.Answer)
}

func testFormerHolder(t *testing.T, store *opened) {
	former := leaseNew(t, store, "a")
	settle(t, store, former, released)
	m := leaseID(t, store, "a")
	settle(t, store, former, dead)
	counts(t, store, 1, 0, 0)
	nothing(t, store)
	settle(t, store, former, released)
	nothing(t, store)
	settle(t, store, m, delivered)
	counts(t, store, 0, 1, 0)
}

func redeliver(t *testing.T, store inbox.Store, seq uint64, force bool, want error) uint64 {
	t.Helper()
	got, err := store.Redeliver(bounded(t), seq, force)
	if !errors.Is(err, want) {
		t.Fatalf("redeliver %d: error %v, want %v", seq, err, want)
	}
	if err == nil && got == 0 {
		t.Fatalf("redeliver %d: no seq", seq)
	}
	return got
}

func testRedeliver(t *testing.T, store *opened) {
	redeliver(t, store, 1, true, inbox.ErrNotFound)
	puts(t, store, "a")
	redeliver(t, store, 1<<40, true, inbox.ErrNotFound)
	m := lease(t, store)
	redeliver(t, store, m.Seq, true, inbox.ErrLeased)
	settle(t, store, m, retryIn(0))
	m = lease(t, store)
	settle(t, store, m, dead)
	nothing(t, store)

	seq := redeliver(t, store, m.Seq, false, nil)
	counts(t, store, 1, 0, 0)
	put(t, store, message("a"), inbox.Repeated)
	m = leaseID(t, store, "a")
	sameMessage(t, m, message("a"))
	if m.Attempts != 0 || m.Seq != seq {
		t.Errorf("attempts %d, seq %d; want 0, %d", m.Attempts, m.Seq, seq)
	}
	settle(t, store, m, delivered)

	redeliver(t, store, m.Seq, false, inbox.ErrDelivered)
	nothing(t, store)
	redeliver(t, store, m.Seq, true, nil)
	m = leaseID(t, store, "a")
	sameMessage(t, m, message("a"))
	settle(t, store, m, delivered)
	done(t, store, 1, 0)
	finds(t, store, inbox.Query{}, "a")
}

func testRedeliverRetrying(t *testing.T, store *opened) {
	m := leaseNew(t, store, "a")
	settle(t, store, m, retryIn(30*time.Minute))
	leased := leaseLater(t, store)
	redeliver(t, store, m.Seq, false, nil)
	settle(t, store, leased(), delivered)
	nothing(t, store)

	// One that is due anyway stays so, once.
	puts(t, store, "b")
	redeliver(t, store, seqOf(t, store, "b"), false, nil)
	settle(t, store, leaseID(t, store, "b"), delivered)
	done(t, store, 2, 0)
}

func testList(t *testing.T, store *opened) {
	if got := list(t, store, inbox.Query{Limit: 10}); len(got) != 0 {
		t.Fatalf("an empty store lists %q", ids(got))
	}
	for i, id := range numbered(6) {
		outcome := []inbox.Outcome{delivered, dead, retryIn(30 * time.Minute)}[i%3]
		settle(t, store, leaseNew(t, store, id), outcome)
	}
	puts(t, store, "6", "7", "8")
	for _, test := range []struct {
		state inbox.State
		want  []string
	}{
		{"", []string{"0", "1", "2", "3", "4", "5", "6", "7", "8"}},
		{inbox.Pending, []string{"2", "5", "6", "7", "8"}},
		{inbox.Delivered, []string{"0", "3"}},
		{inbox.Dead, []string{"1", "4"}},
	} {
		for _, m := range finds(t, store, inbox.Query{State: test.state}, test.want...) {
			switch m.ID {
			case "0", "3":
				is(t, m, inbox.Delivered, 0, delivered.Answer)
			case "1", "4":
				is(t, m, inbox.Dead, 1, dead.Answer)
			case "2", "5":
				is(t, m, inbox.Pending, 1, retryIn(0).Answer)
			default:
				is(t, m, inbox.Pending, 0, inbox.Answer{})
			}
			if len(m.Request) != 0 || !m.Received.Equal(received) {
				t.Errorf("listed %s: received %s, %d bytes of request", m.ID, m.Received, len(m.Request))
			}
		}
	}
}

func testGet(t *testing.T, store *opened) {
	put(t, store, keyed("a", ""), inbox.Stored)
	seq := seqOf(t, store, "a")
	sameMessage(t, get(t, store, seq), message("a"))
	for _, other := range []uint64{0, seq + 1, 1 << 63} {
		if _, err := store.Get(bounded(t), other); !errors.Is(err, inbox.ErrNotFound) {
			t.Errorf("get %d: %v, want %v", other, err, inbox.ErrNotFound)
		}
	}
	m := lease(t, store)
	settle(t, store, m, dead)
	if m.Seq != seq && !store.Moves {
		t.Errorf("settled, it has the seq %d instead of %d", m.Seq, seq)
	}
	is(t, get(t, store, m.Seq), inbox.Dead, 1, dead.Answer)
}

func testStats(t *testing.T, store *opened) {
	if stats := counts(t, store, 0, 0, 0); !stats.Oldest.IsZero() || stats.Bytes < 0 {
		t.Errorf("empty: oldest %s, %d bytes", stats.Oldest, stats.Bytes)
	}
	for i, id := range []string{"a", "b", "c"} {
		m := message(id)
		m.Received = received.Add(time.Duration(i) * time.Minute)
		put(t, store, m, inbox.Stored)
	}
	three := func(when string) {
		stats := counts(t, store, 3, 0, 0)
		if !stats.Oldest.Equal(received) || stats.Bytes < 3*int64(len("request of a")) {
			t.Errorf("%d bytes, oldest %s %s, want %s", stats.Bytes, stats.Oldest, when, received)
		}
	}
	three("while it is new")
	a := leaseID(t, store, "a")
	three("while it is in flight")
	settle(t, store, a, retryIn(30*time.Minute))
	three("while it waits for a retry")
	redeliver(t, store, a.Seq, false, nil)
	for range 2 {
		m := lease(t, store)
		if m.ID == "c" {
			settle(t, store, m, dead)
		} else {
			settle(t, store, m, delivered)
		}
	}
	counts(t, store, 1, counted(t, store, inbox.Delivered), counted(t, store, inbox.Dead))
	settle(t, store, lease(t, store), delivered)
	if stats := counts(t, store, 0, counted(t, store, inbox.Delivered), counted(t, store, inbox.Dead)); !stats.Oldest.IsZero() {
		t.Errorf("oldest %s, with nothing pending", stats.Oldest)
	}
}

func counted(t *testing.T, store inbox.Store, state inbox.State) int64 {
	t.Helper()
	return int64(len(list(t, store, inbox.Query{State: state, Limit: 1000})))
}

func testPoison(t *testing.T, store *opened) {
	puts(t, store, "poison")
	const good = 50
	puts(t, store, numbered(good)...)
	failures := 0
	for done := 0; done < good; {
		m := lease(t, store)
		if m.ID == "poison" {
			if failures++; failures > 20*good {
				t.Fatalf("%d failures of the one, %d deliveries of the others", failures, done)
			}
			settle(t, store, m, retryIn(0))
			continue
		}
		done++
		settle(t, store, m, delivered)
	}
	m := leaseID(t, store, "poison")
	is(t, m, inbox.Pending, failures, retryIn(0).Answer)
	settle(t, store, m, dead)
	counts(t, store, 0, good, 1)
}

func testRetriesDoNotStarve(t *testing.T, store *opened) {
	const flood = 100
	for i := range flood {
		puts(t, store, fmt.Sprint("old ", i))
	}
	for range flood {
		settle(t, store, lease(t, store), retryIn(0))
	}
	puts(t, store, "new")
	for i := 0; ; i++ {
		m := lease(t, store)
		if m.ID == "new" {
			break
		}
		if i > 4*flood {
			t.Fatalf("%d retries before the new one", i)
		}
		settle(t, store, m, retryIn(0))
	}
}

func testNewDoNotStarve(t *testing.T, store *opened) {
	const flood = 100
	settle(t, store, leaseNew(t, store, "old"), retryIn(0))
	puts(t, store, numbered(flood)...)
	for i := 0; ; i++ {
		m := lease(t, store)
		settle(t, store, m, delivered)
		if m.ID == "old" {
			break
		}
		if i > 4*flood {
			t.Fatalf("%d new ones before the retry", i)
		}
		puts(t, store, fmt.Sprint("more ", i))
	}
}

func testClockForward(t *testing.T, store *opened) {
	settle(t, store, leaseNew(t, store, "a"), retryIn(30*time.Minute))
	nothing(t, store)
	store.Jump(29 * time.Minute)
	nothing(t, store)
	store.Jump(2 * time.Minute)
	m := leaseID(t, store, "a")
	store.Jump(10 * 365 * 24 * time.Hour)
	nothing(t, store) // it is in flight however late it is
	settle(t, store, m, delivered)
	counts(t, store, 0, 1, 0)
}

func testClockBack(t *testing.T, store *opened) {
	puts(t, store, "a", "b", "done")
	for range 2 {
		settle(t, store, lease(t, store), retryIn(30*time.Minute))
	}
	settle(t, store, leaseID(t, store, "done"), delivered)
	store.Jump(-10 * 365 * 24 * time.Hour)
	// Both are due in ten years, later than any delay was.
	for range 2 {
		m := lease(t, store)
		if m.ID == "done" {
			t.Fatal("a delivered one was leased")
		}
		settle(t, store, m, delivered)
	}
	put(t, store, message("done"), inbox.Repeated) // settled in the future, and known
	settle(t, store, leaseNew(t, store, "new"), retryIn(30*time.Minute))
	nothing(t, store)
	store.Jump(31 * time.Minute)
	settle(t, store, leaseID(t, store, "new"), delivered)
}
