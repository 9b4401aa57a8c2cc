package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/watch"
)

// Opener opens a store. Opened again, it has what it had when it was closed.
type Opener func(t *testing.T) watch.Store

// Run holds a store to the contract. fresh returns how the store of one test is opened.
func Run(t *testing.T, fresh func(t *testing.T) Opener) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, open Opener)
	}{
		{"compare and set", compareAndSet},
		{"one of many writes", oneWrites},
		{"all is there again", reopened},
		{"values and keys of every kind", kinds},
		{"changes and all miss nothing", feed},
		{"the feed ends with its context", feedEnds},
		{"closed", closed},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, fresh(t)) })
	}
}

// kept is an entry that may be kept.
func kept(e watch.Entry) watch.Entry {
	e.Value = bytes.Clone(e.Value)
	return e
}

func put(t *testing.T, s watch.Store, key, value string, revision uint64) uint64 {
	t.Helper()
	is, err := s.Put(t.Context(), key, []byte(value), revision)
	if err != nil {
		t.Fatalf("Put %q at %d: %v", key, revision, err)
	}
	return is
}

func compareAndSet(t *testing.T, open Opener) {
	s := open(t)
	defer s.Close()
	ctx := t.Context()
	if _, err := s.Get(ctx, "shop/1"); !errors.Is(err, watch.ErrNotFound) {
		t.Fatalf("Get of nothing: %v", err)
	}
	if err := s.Delete(ctx, "shop/1", 0); !errors.Is(err, watch.ErrConflict) {
		t.Fatalf("Delete of nothing: %v", err)
	}
	if err := s.Delete(ctx, "shop/1", 7); !errors.Is(err, watch.ErrConflict) {
		t.Fatalf("Delete of nothing: %v", err)
	}
	if _, err := s.Put(ctx, "shop/1", []byte("a"), 7); !errors.Is(err, watch.ErrConflict) {
		t.Fatalf("Put at a revision that never was: %v", err)
	}
	first := put(t, s, "shop/1", "a", 0)
	if _, err := s.Put(ctx, "shop/1", []byte("b"), 0); !errors.Is(err, watch.ErrConflict) {
		t.Fatalf("a second Put as if new: %v", err)
	}
	second := put(t, s, "shop/1", "b", first)
	if first == 0 || second <= first {
		t.Fatalf("revisions %d, %d", first, second)
	}
	if err := s.Delete(ctx, "shop/1", first); !errors.Is(err, watch.ErrConflict) {
		t.Fatalf("Delete of an old revision: %v", err)
	}
	if e, err := s.Get(ctx, "shop/1"); err != nil || e.Key != "shop/1" || string(e.Value) != "b" || e.Revision != second {
		t.Fatalf("Get: %+v, %v", e, err)
	}
	if err := s.Delete(ctx, "shop/1", second); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(ctx, "shop/1"); !errors.Is(err, watch.ErrNotFound) {
		t.Fatalf("Get of what was deleted: %v", err)
	}
	if _, err := s.Put(ctx, "shop/1", []byte("c"), second); !errors.Is(err, watch.ErrConflict) {
		t.Fatalf("Put at a deleted revision: %v", err)
	}
	if third := put(t, s, "shop/1", "c", 0); third <= second {
		t.Fatalf("revision %d after %d", third, second)
	}
}

func oneWrites(t *testing.T, open Opener) {
	s := open(t)
	defer s.Close()
	revision := uint64(0)
	for round := range 20 {
		var wrote atomic.Int32
		var next atomic.Uint64
		var group sync.WaitGroup
		for i := range 16 {
			group.Go(func() {
				is, err := s.Put(t.Context(), "shop/1", fmt.Appendf(nil, "%d %d", round, i), revision)
				switch {
				case err == nil:
					wrote.Add(1)
					next.Store(is)
				case !errors.Is(err, watch.ErrConflict):
					t.Error(err)
				}
			})
		}
		group.Wait()
		if wrote.Load() != 1 {
			t.Fatalf("%d have written at once", wrote.Load())
		}
		revision = next.Load()
	}
}

func reopened(t *testing.T, open Opener) {
	s := open(t)
	var group sync.WaitGroup
	revisions := make([]uint64, 64)
	for i := range revisions {
		group.Go(func() { revisions[i] = put(t, s, fmt.Sprintf("shop/%d", i), fmt.Sprint("value ", i), 0) })
	}
	group.Wait()
	if err := s.Delete(t.Context(), "shop/0", revisions[0]); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t)
	defer s.Close()
	found := map[string]watch.Entry{}
	if err := s.All(t.Context(), func(e watch.Entry) error { found[e.Key] = kept(e); return nil }); err != nil {
		t.Fatal(err)
	}
	if len(found) != 63 {
		t.Fatalf("%d rows", len(found))
	}
	for i := 1; i < 64; i++ {
		e := found[fmt.Sprintf("shop/%d", i)]
		if string(e.Value) != fmt.Sprint("value ", i) || e.Revision != revisions[i] {
			t.Errorf("row %d: %q at %d, want %d", i, e.Value, e.Revision, revisions[i])
		}
	}
	if is := put(t, s, "shop/0", "again", 0); is <= revisions[0] {
		t.Errorf("a revision went back from %d to %d", revisions[0], is)
	}
	enough := errors.New("enough")
	seen := 0
	if err := s.All(t.Context(), func(watch.Entry) error { seen++; return enough }); !errors.Is(err, enough) || seen != 1 {
		t.Errorf("All went on after %d rows, and ended with %v", seen, err)
	}
}

func kinds(t *testing.T, open Opener) {
	s := open(t)
	defer s.Close()
	for _, key := range []string{"a", "shop/1001*>. /\\", "店/订单号", strings.Repeat("k", 200), "shop/a\x00b"} {
		for _, value := range [][]byte{{0}, bytes.Repeat([]byte("v"), 512<<10)} {
			e, err := s.Get(t.Context(), key)
			if err != nil && !errors.Is(err, watch.ErrNotFound) {
				t.Fatal(err)
			}
			put(t, s, key, string(value), e.Revision)
			if e, err = s.Get(t.Context(), key); err != nil || !bytes.Equal(e.Value, value) || e.Key != key {
				t.Fatalf("%q: %d bytes, %v", key, len(e.Value), err)
			}
		}
	}
}

// feed: whatever is written while Changes and All begin is known from one of them, and the last word about each key is right.
func feed(t *testing.T, open Opener) {
	s := open(t)
	defer s.Close()
	const keys, rounds = 20, 10
	var group sync.WaitGroup
	half := make(chan struct{})
	for k := range keys {
		group.Go(func() {
			revision := uint64(0)
			for round := range rounds {
				if round == rounds/2 && k == 0 {
					close(half)
				}
				revision = put(t, s, fmt.Sprint("shop/", k), fmt.Sprint(round), revision)
			}
			if k%2 == 0 {
				if err := s.Delete(t.Context(), fmt.Sprint("shop/", k), revision); err != nil {
					t.Error(err)
				}
			}
		})
	}
	<-half
	var mu sync.Mutex
	known, told := map[string]watch.Entry{}, make(chan struct{}, 1)
	take := func(e watch.Entry) {
		mu.Lock()
		if e.Revision >= known[e.Key].Revision {
			known[e.Key] = kept(e)
		}
		mu.Unlock()
		select {
		case told <- struct{}{}:
		default:
		}
	}
	if err := s.Changes(t.Context(), take); err != nil {
		t.Fatal(err)
	}
	if err := s.All(t.Context(), func(e watch.Entry) error { take(e); return nil }); err != nil {
		t.Fatal(err)
	}
	group.Wait()
	want := map[string]watch.Entry{}
	if err := s.All(t.Context(), func(e watch.Entry) error { want[e.Key] = kept(e); return nil }); err != nil {
		t.Fatal(err)
	}
	right := func() bool {
		mu.Lock()
		defer mu.Unlock()
		for k := range keys {
			key := fmt.Sprint("shop/", k)
			if string(known[key].Value) != string(want[key].Value) || len(want[key].Value) != 0 && known[key].Revision != want[key].Revision {
				return false
			}
		}
		return true
	}
	for !right() {
		select {
		case <-told:
		case <-time.After(3 * time.Minute): // of a busy machine
			t.Fatalf("the feed says %v, there is %v", known, want)
		}
	}
}

func feedEnds(t *testing.T, open Opener) {
	s := open(t)
	defer s.Close()
	ended, end := context.WithCancel(t.Context())
	first, second := make(chan watch.Entry, 10), make(chan watch.Entry, 10)
	if err := errors.Join(s.Changes(ended, func(e watch.Entry) { first <- kept(e) }), s.Changes(t.Context(), func(e watch.Entry) { second <- kept(e) })); err != nil {
		t.Fatal(err)
	}
	revision := put(t, s, "shop/1", "a", 0)
	if a, b := <-first, <-second; a.Revision != revision || string(b.Value) != "a" {
		t.Fatalf("the feeds said %v and %v", a, b)
	}
	end()
	for { // it ends soon
		revision = put(t, s, "shop/1", "b", revision)
		<-second
		select {
		case <-first:
			continue
		case <-time.After(100 * time.Millisecond): // if that is too short, the test can only pass
		}
		return
	}
}

func closed(t *testing.T, open Opener) {
	s := open(t)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_, get := s.Get(t.Context(), "shop/1")
	_, write := s.Put(t.Context(), "shop/1", []byte("a"), 0)
	for name, err := range map[string]error{
		"Get": get, "Put": write, "Delete": s.Delete(t.Context(), "shop/1", 1),
		"All": s.All(t.Context(), func(watch.Entry) error { return nil }), "Changes": s.Changes(t.Context(), func(watch.Entry) {}),
	} {
		if !errors.Is(err, watch.ErrClosed) {
			t.Errorf("%s after Close: %v", name, err)
		}
	}
	_ = s.Close()
}
