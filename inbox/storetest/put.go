package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
	"github.com/caddy-chinaums/caddy-chinaums/internal/testutil"
)

func testPutAndLease(t *testing.T, store *opened) {
	want := message("first")
	put(t, store, want, inbox.Stored)
	got := lease(t, store)
	sameMessage(t, got, want)
	is(t, got, inbox.Pending, 0, inbox.Answer{})
	if got.Seq == 0 {
		t.Error("its seq is 0; want one from 1")
	}
	nothing(t, store)
	settle(t, store, got, delivered)
	done(t, store, 1, 0)
	after := get(t, store, got.Seq)
	sameMessage(t, after, want)
	is(t, after, inbox.Delivered, 0, delivered.Answer)
}

func testRequests(t *testing.T, store *opened) {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	requests := map[string][]byte{
		"empty": {}, "nil": nil, "every byte": all, "zeros": make([]byte, 5000),
		"a page": bytes.Repeat([]byte("x"), 4096), "512 KiB": bytes.Repeat(all, 2048),
	}
	for id, request := range requests {
		m := message(id)
		m.Request = request
		put(t, store, m, inbox.Stored)
	}
	for range requests {
		m := lease(t, store)
		if !bytes.Equal(m.Request, requests[m.ID]) {
			t.Errorf("%s: %s", m.ID, brief(m.Request))
		}
		if again := get(t, store, m.Seq); !bytes.Equal(again.Request, requests[m.ID]) {
			t.Errorf("get %s: %s", m.ID, brief(again.Request))
		}
		// What the store handed out is the caller's.
		clear(m.Request)
		settle(t, store, m, released)
	}
	for range requests {
		m := lease(t, store)
		if !bytes.Equal(m.Request, requests[m.ID]) {
			t.Errorf("%s, after the caller has written on it: %s", m.ID, brief(m.Request))
		}
		settle(t, store, m, delivered)
	}
}

func testIDs(t *testing.T, store *opened) {
	all := []string{
		"a", "A", "a ", " a", "a\x00", "a\x00b", "ab", "é", "e\u0301", "\xff\xfe", "a/b", "a.b", "a*", ">", "a\r\nb",
		"https://pay.example/a#订单1", strings.Repeat("k", 1000), strings.Repeat("k", 1001), strings.Repeat("k", 8000),
	}
	puts(t, store, all...)
	repeats(t, store, all...)
	seen := map[string]bool{}
	for range all {
		m := lease(t, store)
		seen[m.ID] = true
		sameMessage(t, m, message(m.ID))
		settle(t, store, m, delivered)
	}
	if len(seen) != len(all) {
		t.Errorf("%d different ids leased, want %d", len(seen), len(all))
	}
}

func testRepeated(t *testing.T, store *opened) {
	puts(t, store, "a")
	other := message("a")
	other.Request, other.Key = []byte("another"), "key"
	put(t, store, other, inbox.Repeated) // pending
	m := lease(t, store)
	sameMessage(t, m, message("a"))
	put(t, store, other, inbox.Repeated) // in flight
	settle(t, store, m, retryIn(10*time.Millisecond))
	put(t, store, other, inbox.Repeated) // waiting for a retry, or due
	m = lease(t, store)
	sameMessage(t, m, message("a"))
	settle(t, store, m, delivered)
	put(t, store, other, inbox.Repeated) // delivered
	done(t, store, 1, 0)
}

func testRepeatedAtOnce(t *testing.T, store *opened) {
	const senders, rounds = 16, 10
	for round := range rounds {
		id := fmt.Sprint("id ", round)
		if got := putAtOnce(t, store, id, senders); got[inbox.Stored] != 1 || got[inbox.Repeated] != senders-1 {
			t.Fatalf("stored %d times, repeated %d times", got[inbox.Stored], got[inbox.Repeated])
		}
		settle(t, store, leaseID(t, store, id), delivered)
	}
	done(t, store, rounds, 0)
}

func testRevived(t *testing.T, store *opened) {
	settle(t, store, leaseNew(t, store, "a"), retryIn(0))
	settle(t, store, lease(t, store), dead)
	done(t, store, 0, 1)

	again := message("a")
	again.Request, again.Received = []byte("another"), received.Add(time.Hour)
	put(t, store, again, inbox.Revived)
	counts(t, store, 1, 0, 0)
	m := lease(t, store)
	sameMessage(t, m, again)
	is(t, m, inbox.Pending, 0, inbox.Answer{}) // as if new
	put(t, store, again, inbox.Repeated)
	settle(t, store, m, delivered)
	put(t, store, again, inbox.Repeated)
	done(t, store, 1, 0)
	finds(t, store, inbox.Query{}, "a")
}

func testRevivedAtOnce(t *testing.T, store *opened) {
	settle(t, store, leaseNew(t, store, "a"), dead)
	if got := putAtOnce(t, store, "a", 16); got[inbox.Revived] != 1 {
		t.Errorf("revived %d times", got[inbox.Revived])
	}
	deliver(t, store, 1)
	nothing(t, store)
}

// A caller that is gone gets its context's error; whether its message was stored is open, but nothing in between.
func testPutCancelled(t *testing.T, store *opened) {
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := store.Put(gone, message("gone")); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v, want the context's", err)
	}
	for i := range 50 {
		ctx, cancel := context.WithCancel(t.Context())
		go cancel()
		id := fmt.Sprint(i)
		receipt, err := store.Put(ctx, message(id))
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Fatalf("put: %v", err)
		}
		again, err2 := store.Put(bounded(t), message(id))
		if err2 != nil {
			t.Fatalf("put again: %v", err2)
		}
		if err == nil && (receipt != inbox.Stored || again != inbox.Repeated) {
			t.Fatalf("receipts %d and %d", receipt, again)
		}
		settle(t, store, leaseUntil(t, store, id), delivered)
	}
	if got := ids(list(t, store, inbox.Query{State: inbox.Pending, Limit: 10})); len(got) > 0 && !slices.Equal(got, []string{"gone"}) {
		t.Errorf("pending: %q", got)
	}
}

func testTooLarge(t *testing.T, store *opened) {
	m := message("large")
	m.Request = make([]byte, store.TooLarge)
	if _, err := store.Put(bounded(t), m); !errors.Is(err, inbox.ErrTooLarge) {
		t.Fatalf("error %v, want %v", err, inbox.ErrTooLarge)
	}
	settle(t, store, leaseNew(t, store, "small"), delivered)
	counts(t, store, 0, 1, 0)
}

// large is a message of 4 KiB.
func large(id string) *inbox.Message {
	m := message(id)
	m.Request = bytes.Repeat([]byte("x"), 4096)
	return m
}

// fill puts messages of 4 KiB until the store is full, and returns how many it took.
func fill(t *testing.T, store inbox.Store, prefix string) int {
	t.Helper()
	for i := range 1000 {
		_, err := store.Put(bounded(t), large(fmt.Sprint(prefix, i)))
		if errors.Is(err, inbox.ErrFull) {
			return i
		}
		if err != nil {
			t.Fatalf("put: %v", err)
		}
	}
	t.Fatal("the store is never full")
	return 0
}

func testFull(t *testing.T, store *opened) {
	took := fill(t, store, "a")
	if took < 16 || took > 64 {
		t.Fatalf("took %d messages of 4 KiB, with room for 256 KiB", took)
	}
	if stats := counts(t, store, int64(took), 0, 0); stats.Bytes <= 0 || stats.Bytes > 256<<10 {
		t.Errorf("%d bytes", stats.Bytes)
	}
	put(t, store, message("a0"), inbox.Repeated) // which needs no room
	deliver(t, store, took)
	// The requests of what was delivered give way, the oldest first, and their ids stay known.
	for i := range took / 2 {
		put(t, store, large(fmt.Sprint("b", i)), inbox.Stored)
	}
	for i := range took {
		put(t, store, message(fmt.Sprint("a", i)), inbox.Repeated)
	}
	oldest := get(t, store, seqOf(t, store, "a0"))
	if oldest.State != inbox.Delivered || len(oldest.Request) != 0 {
		t.Errorf("the oldest: state %q, request of %d bytes, want it dropped", oldest.State, len(oldest.Request))
	}
	if _, err := store.Redeliver(bounded(t), oldest.Seq, true); !errors.Is(err, inbox.ErrNoRequest) {
		t.Errorf("redeliver: %v, want %v", err, inbox.ErrNoRequest)
	}
	newest := get(t, store, seqOf(t, store, fmt.Sprint("a", took-1)))
	if len(newest.Request) != 4096 {
		t.Errorf("the newest: request of %d bytes, want it kept", len(newest.Request))
	}
	for range took / 2 {
		m := lease(t, store)
		if len(m.Request) != 4096 {
			t.Errorf("leased %q with %d bytes", m.ID, len(m.Request))
		}
		settle(t, store, m, delivered)
	}
	counts(t, store, 0, int64(took+took/2), 0)
}

// What nobody has settled is never removed, and what is dead neither.
func testFullPending(t *testing.T, store *opened) {
	took := fill(t, store, "a")
	settle(t, store, leaseID(t, store, "a0"), dead)
	if again := fill(t, store, "b"); again != 0 {
		t.Errorf("a full store took %d more", again)
	}
	counts(t, store, int64(took-1), 0, 1)
	if m := get(t, store, seqOf(t, store, "a0")); len(m.Request) != 4096 {
		t.Errorf("the dead one's request has %d bytes", len(m.Request))
	}
	deliver(t, store, took-1)
	puts(t, store, "b")
}

func testConfigure(t *testing.T, store *opened) {
	took := fill(t, store, "a")
	settings := Defaults()
	settings.MaxBytes = 256 << 10
	if err := store.Configure(settings); err != nil {
		t.Fatalf("configure: %v", err)
	}
	more := fill(t, store, "b")
	if more < 8 {
		t.Errorf("twice the room took %d more after %d", more, took)
	}
	settings.MaxBytes = 0
	if err := store.Configure(settings); err != nil {
		t.Fatalf("configure: %v", err)
	}
	for i := range 100 {
		put(t, store, large(fmt.Sprint("c", i)), inbox.Stored)
	}
	counts(t, store, int64(took+more+100), 0, 0)
}

func testRemember(t *testing.T, store *opened) {
	settle(t, store, leaseNew(t, store, "delivered"), delivered)
	settle(t, store, leaseNew(t, store, "dead"), dead)
	puts(t, store, "pending")
	store.Jump(59 * time.Minute)
	put(t, store, message("delivered"), inbox.Repeated)
	store.Jump(2 * time.Minute)
	put(t, store, message("pending"), inbox.Repeated)
	puts(t, store, "delivered")
	put(t, store, message("dead"), inbox.Revived)
	deliver(t, store, 3)
	done(t, store, 3, 0)

	// Delivered ones go after a while, with what else is done.
	store.Jump(2 * time.Hour)
	puts(t, store, "new")
	testutil.Eventually(t, "only the new one is left", func() bool {
		if _, err := store.Put(bounded(t), message("new")); err != nil {
			t.Fatalf("put: %v", err)
		}
		return len(list(t, store, inbox.Query{Limit: 10})) == 1
	})
	counts(t, store, 1, 0, 0)
}
