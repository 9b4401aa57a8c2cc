package boltstore

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
)

// TestDeleteDamaged: a damaged message at the head of its key held up the others of the key for ever, and nothing could
// remove it.
func TestDeleteDamaged(t *testing.T) {
	for name, damage := range map[string]func(b *batch) error{
		"its request":            func(b *batch) error { return b.bucket(inRequests).Put(seqKey(1), []byte{9}) },
		"its request, not there": func(b *batch) error { return b.bucket(inRequests).Delete(seqKey(1)) },
		"its progress":           func(b *batch) error { return b.bucket(inRetrying).Put(seqKey(1), []byte{9}) },
		"its request and progress": func(b *batch) error {
			return errors.Join(b.bucket(inRequests).Put(seqKey(1), []byte{9}), b.bucket(inRetrying).Put(seqKey(1), []byte{9}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			store, err := openStore(filepath.Join(t.TempDir(), "inbox.db"), storetestSettings, zap.NewNop(), testOptions())
			if err != nil {
				t.Fatal(err)
			}
			defer store.Close()
			for _, m := range []inbox.Message{{ID: "x1", Key: "x"}, {ID: "y1", Key: "y"}, {ID: "x2", Key: "x"}} {
				if _, err := store.Put(t.Context(), &m); err != nil {
					t.Fatal(err)
				}
			}
			leaseOf := func(want string) *inbox.Message {
				t.Helper()
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				m, err := store.Lease(ctx)
				if err != nil || m.ID != want {
					t.Fatalf("leased %+v, %v; want %s", m, err, want)
				}
				return m
			}
			if err := store.Settle(t.Context(), leaseOf("x1"), inbox.Outcome{Result: inbox.Pending, Delay: time.Hour}); err != nil {
				t.Fatal(err)
			}
			y1 := leaseOf("y1")
			if err := store.do(t.Context(), &operation{apply: func(b *batch) error {
				b.changed = true
				return b.fail(damage(b))
			}}); err != nil {
				t.Fatal(err)
			}
			if err := store.Delete(t.Context(), 1, false); !errors.Is(err, inbox.ErrPending) {
				t.Errorf("without force: %v", err)
			}
			if err := store.Delete(t.Context(), 1, true); err != nil {
				t.Fatal(err)
			}
			if err := store.Settle(t.Context(), leaseOf("x2"), inbox.Outcome{Result: inbox.Delivered}); err != nil {
				t.Fatal(err)
			}
			if err := store.Settle(t.Context(), y1, inbox.Outcome{Result: inbox.Delivered}); err != nil {
				t.Fatal(err)
			}
			onlyRequestsOf(t, store, 2, 1)
		})
	}
}

// onlyRequestsOf checks that every bucket has so many delivered messages, and nothing of others; among the ids, so many may
// be of messages whose record was damaged.
func onlyRequestsOf(t *testing.T, store *Store, want, damaged int) {
	t.Helper()
	if err := store.view(func(v *views) error {
		for number, name := range buckets {
			got, want := v.tx.Bucket(name).Stats().KeyN, want
			switch number {
			case inRequests, inDelivered, inExpiry:
			case inIDs:
				if got > want && got <= want+damaged {
					got = want
				}
			case inMeta:
				continue
			default:
				want = 0
			}
			if got != want {
				t.Errorf("%s has %d entries, want %d", name, got, want)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// TestDeleteLeavesNothing: of what was deleted, in whatever state, nothing is left in the file.
func TestDeleteLeavesNothing(t *testing.T) {
	store, err := openStore(filepath.Join(t.TempDir(), "inbox.db"), storetestSettings, zap.NewNop(), testOptions())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	outcomes := []inbox.Outcome{{Result: inbox.Delivered}, {Result: inbox.Dead}, {Result: inbox.Pending, Delay: time.Hour}, {Released: true}}
	for i, outcome := range outcomes {
		if _, err := store.Put(t.Context(), &inbox.Message{ID: fmt.Sprint(i), Key: fmt.Sprint(i), Request: []byte("request")}); err != nil {
			t.Fatal(err)
		}
		m, err := store.Lease(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := store.Settle(t.Context(), m, outcome); err != nil {
			t.Fatal(err)
		}
	}
	for seq := range uint64(len(outcomes)) {
		if err := store.Delete(t.Context(), seq+1, true); err != nil {
			t.Fatal(err)
		}
	}
	if stats, err := store.Stats(t.Context()); err != nil || stats != (inbox.Stats{}) {
		t.Errorf("%+v, %v", stats, err)
	}
	onlyRequestsOf(t, store, 0, 0)
}

// TestDeleteFails: where the commit of a deletion fails, the message is delivered as before, once.
func TestDeleteFails(t *testing.T) {
	store, err := openStore(filepath.Join(t.TempDir(), "inbox.db"), storetestSettings, zap.NewNop(), testOptions())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	for _, id := range []string{"a", "b"} {
		if _, err := store.Put(t.Context(), &inbox.Message{ID: id}); err != nil {
			t.Fatal(err)
		}
	}
	broken := errors.New("broken")
	if err := store.do(t.Context(), &operation{apply: func(b *batch) error {
		return errors.Join(b.delete(1, true), b.fail(broken))
	}}); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	got := map[string]int{}
	for range 2 {
		m, err := store.Lease(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got[m.ID]++
	}
	if got["a"] != 1 || got["b"] != 1 {
		t.Errorf("leased %v", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if m, err := store.Lease(ctx); err == nil {
		t.Errorf("%s is leased again", m.ID)
	}
}
