package storetest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
)

func remove(t *testing.T, store inbox.Store, seq uint64, force bool, want error) {
	t.Helper()
	if err := store.Delete(bounded(t), seq, force); !errors.Is(err, want) {
		t.Fatalf("delete %d (force %t): %v, want %v", seq, force, err, want)
	}
}

func removeDead(t *testing.T, store inbox.Store, before time.Time, want int) {
	t.Helper()
	if removed, err := store.DeleteDead(bounded(t), before); err != nil || removed != want {
		t.Fatalf("deleted %d dead ones before %s, %v; want %d", removed, before, err, want)
	}
}

// testDelete: what is deleted is not listed, leased, or counted any more, and its id is unknown.
func testDelete(t *testing.T, store *opened) {
	remove(t, store, 1, true, inbox.ErrNotFound)
	states(t, store)
	empty := int64(0)
	for i, id := range []string{"delivered", "dead", "retrying", "due", "released", "fresh"} {
		seq := seqOf(t, store, id)
		pending := i >= 2
		if pending {
			remove(t, store, seq, false, inbox.ErrPending)
		}
		remove(t, store, seq, pending, nil)
		remove(t, store, seq, true, inbox.ErrNotFound)
		if _, err := store.Get(bounded(t), seq); !errors.Is(err, inbox.ErrNotFound) {
			t.Errorf("get %s: %v, want %v", id, err, inbox.ErrNotFound)
		}
		left := list(t, store, inbox.Query{Limit: 10})
		if len(left) != 5-i || slices.Contains(ids(left), id) {
			t.Errorf("after %s was deleted, listed %q", id, ids(left))
		}
		stats, err := store.Stats(bounded(t))
		if err != nil || stats.Pending+stats.Delivered+stats.Dead != int64(5-i) {
			t.Errorf("after %s was deleted: %+v, %v", id, stats, err)
		}
		empty = stats.Bytes
	}
	done(t, store, 0, 0)
	if store.Abandon != nil {
		store.reopen(t)
		done(t, store, 0, 0)
	}
	puts(t, store, "delivered", "dead", "retrying", "due", "released", "fresh")
	if full := counts(t, store, 6, 0, 0).Bytes; full <= empty {
		t.Errorf("%d bytes with six messages, %d without", full, empty)
	}
	if got := deliver(t, store, 6); !slices.Equal(got, []string{"dead", "delivered", "due", "fresh", "released", "retrying"}) {
		t.Errorf("leased %q", got)
	}
	nothing(t, store)
}

// testDeleteLeased: a message that is being delivered stays, and is settled as if nothing had been asked.
func testDeleteLeased(t *testing.T, store *opened) {
	m := leaseNew(t, store, "a")
	remove(t, store, m.Seq, true, inbox.ErrLeased)
	settle(t, store, m, retryIn(0))
	m = lease(t, store)
	remove(t, store, m.Seq, true, inbox.ErrLeased)
	settle(t, store, m, delivered)
	counts(t, store, 0, 1, 0)
	put(t, store, message("a"), inbox.Repeated)
	remove(t, store, seqOf(t, store, "a"), false, nil)
	settle(t, store, leaseNew(t, store, "a"), delivered)
}

// testDeleteOrder: the next one of a key does not wait for one that was deleted.
func testDeleteOrder(t *testing.T, store *opened) {
	putKeyed(t, store, "x", "x1", "x2", "x3", "x4")
	settle(t, store, leaseID(t, store, "x1"), retryIn(30*time.Minute))
	nothing(t, store)
	remove(t, store, seqOf(t, store, "x3"), true, nil) // not its turn yet: the first still holds up the others
	nothing(t, store)
	remove(t, store, seqOf(t, store, "x1"), true, nil)
	x2 := leaseID(t, store, "x2")
	nothing(t, store)
	settle(t, store, x2, delivered)
	settle(t, store, leaseID(t, store, "x4"), delivered)
	done(t, store, 2, 0)
}

// testDeleteDead: only dead ones go, and with a time only those that were given up before it.
func testDeleteDead(t *testing.T, store *opened) {
	removeDead(t, store, time.Time{}, 0)
	states(t, store)
	first := get(t, store, seqOf(t, store, "dead"))
	settle(t, store, leaseUntil(t, store, "fresh"), delivered)
	last := first
	for i := 0; i < 20 || !last.Settled.After(first.Settled); i++ {
		id := fmt.Sprint("dead", i)
		puts(t, store, id)
		settle(t, store, leaseUntil(t, store, id), dead)
		last = get(t, store, seqOf(t, store, id))
	}
	all := list(t, store, inbox.Query{State: inbox.Dead, Limit: 1000})
	left := slices.DeleteFunc(slices.Clone(all), func(m *inbox.Message) bool { return m.Settled.Before(last.Settled) })
	removeDead(t, store, first.Settled, 0)
	removeDead(t, store, last.Settled, len(all)-len(left))
	if got := ids(list(t, store, inbox.Query{State: inbox.Dead, Limit: 1000})); !slices.Equal(got, ids(left)) {
		t.Errorf("%q are left, want %q", got, ids(left))
	}
	puts(t, store, "dead")
	removeDead(t, store, time.Time{}, len(left))
	removeDead(t, store, time.Time{}, 0)
	counts(t, store, 4, 2, 0)
	repeats(t, store, "delivered", "retrying", "due", "released", "fresh", "dead")
}

// leaseUntil leases the message of an id, and gives back the others that come first.
func leaseUntil(t *testing.T, store inbox.Store, id string) *inbox.Message {
	t.Helper()
	var others []*inbox.Message
	m := lease(t, store)
	for ; m.ID != id; m = lease(t, store) {
		others = append(others, m)
	}
	for _, other := range others {
		settle(t, store, other, released)
	}
	return m
}

// testSubject: a message's subject comes back, and a message is found by a part of it or of its id.
func testSubject(t *testing.T, store *opened) {
	about := func(id, subject string) *inbox.Message {
		m := message(id)
		m.Subject = subject
		return m
	}
	long := strings.Repeat("9", 256)
	for _, test := range []struct {
		id, subject string
		outcome     inbox.Outcome // none: it is not leased
	}{
		{"e1", "3194-0001", dead}, {"e2", "3194-0002", delivered}, {"of 0001", "", retryIn(30 * time.Minute)}, {"e4", "订单-0001", inbox.Outcome{}},
		{"e5", long, inbox.Outcome{}},
	} {
		if put(t, store, about(test.id, test.subject), inbox.Stored); test.outcome.Result != "" {
			settle(t, store, leaseID(t, store, test.id), test.outcome)
		}
	}
	if store.Abandon != nil {
		store.reopen(t)
	}
	for _, test := range []struct {
		query inbox.Query
		want  []string
	}{
		{inbox.Query{}, []string{"e1", "e2", "of 0001", "e4", "e5"}},
		{inbox.Query{Search: "0001"}, []string{"e1", "of 0001", "e4"}},
		{inbox.Query{Search: "3194-0002"}, []string{"e2"}},
		{inbox.Query{Search: "e"}, []string{"e1", "e2", "e4", "e5"}},
		{inbox.Query{Search: "订"}, []string{"e4"}},
		{inbox.Query{Search: "E1"}, nil},
		{inbox.Query{Search: "31940001"}, nil},
		{inbox.Query{Search: "request"}, nil}, // what is in it is not looked at
		{inbox.Query{Search: long}, []string{"e5"}},
		{inbox.Query{Search: "0001", State: inbox.Dead}, []string{"e1"}},
		{inbox.Query{Search: "0001", State: inbox.Delivered}, nil},
		{inbox.Query{Search: "0002", State: inbox.Delivered}, []string{"e2"}},
		{inbox.Query{Search: "0001", State: inbox.Pending}, []string{"of 0001", "e4"}},
	} {
		finds(t, store, test.query, test.want...)
	}
	for id, want := range map[string]string{"e1": "3194-0001", "of 0001": "", "e4": "订单-0001", "e5": long} {
		if m := get(t, store, seqOf(t, store, id)); m.Subject != want {
			t.Errorf("the subject of %s is %q, want %q", id, m.Subject, want)
		}
	}
	if m := leaseUntil(t, store, "e4"); m.Subject != "订单-0001" {
		t.Errorf("leased with the subject %q", m.Subject)
	}
	put(t, store, about("e1", "3194-0003"), inbox.Revived)
	if m := get(t, store, seqOf(t, store, "e1")); m.Subject != "3194-0003" {
		t.Errorf("revived with the subject %q", m.Subject)
	}
}
