package boltstore

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
)

// TestDiskHangs: while a commit hangs, what callers have given up is let go of, and what waits is bounded.
func TestDiskHangs(t *testing.T) {
	o := testOptions()
	o.maxQueued = 100 << 10
	store, err := openStore(filepath.Join(t.TempDir(), "inbox.db"), storetestSettings, zap.NewNop(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	begun, goOn := make(chan struct{}), make(chan struct{})
	_ = store.submit(&operation{apply: func(*batch) error {
		close(begun)
		<-goOn
		return nil
	}})
	<-begun
	large := func(ctx context.Context, i int) error {
		_, err := store.Put(ctx, &inbox.Message{ID: fmt.Sprint("large", i), Request: make([]byte, 60<<10)})
		return err
	}
	for i := range 1000 {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- large(ctx, i) }()
		sizeIs(t, store, 60<<10)
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Fatalf("put %d: %v", i, err)
		}
		store.writer.lock.Lock()
		if length := len(store.writer.puts); length > 0 {
			t.Errorf("%d operations that were withdrawn are in the queue", length)
		}
		store.writer.lock.Unlock()
		if t.Failed() {
			break
		}
	}
	var all sync.WaitGroup
	all.Go(func() {
		if err := large(t.Context(), 0); err != nil {
			t.Error(err)
		}
	})
	sizeIs(t, store, 60<<10)
	if err := large(t.Context(), 1); !errors.Is(err, errBehind) {
		t.Errorf("more than may wait: error %v", err)
	}
	close(goOn)
	all.Wait()
	if err := large(t.Context(), 2); err != nil {
		t.Error(err)
	}
	sizeIs(t, store, 0)
	if stats, err := store.Stats(t.Context()); err != nil || stats.Pending != 2 {
		t.Errorf("stats %+v, %v: want 2 pending", stats, err)
	}
}

// sizeIs waits until so many bytes are queued, and not much more.
func sizeIs(t *testing.T, store *Store, want int) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		store.writer.lock.Lock()
		got := store.writer.size
		store.writer.lock.Unlock()
		if got >= want && got <= want+200 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes are queued, want %d", got, want)
		}
		time.Sleep(100 * time.Microsecond)
	}
}

// TestMakeRoom: requests of delivered messages are dropped only where that makes room, and so many in one commit at most.
func TestMakeRoom(t *testing.T) {
	o := testOptions()
	o.maxSeen = 8
	settings := storetestSettings
	settings.MaxBytes = 128 << 10
	store, err := openStore(filepath.Join(t.TempDir(), "inbox.db"), settings, zap.NewNop(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	put := func(id string, size int) error {
		_, err := store.Put(t.Context(), &inbox.Message{ID: id, Request: make([]byte, size)})
		return err
	}
	deliver := func(ids ...string) {
		t.Helper()
		for _, id := range ids {
			if err := put(id, 1<<10); err != nil {
				t.Fatal(err)
			}
			m, err := store.Lease(t.Context())
			if err != nil || m.ID != id {
				t.Fatalf("leased %+v: %v", m, err)
			}
			if err := store.Settle(t.Context(), m, inbox.Outcome{Result: inbox.Delivered}); err != nil {
				t.Fatal(err)
			}
		}
	}
	kept := func() (kept int) {
		t.Helper()
		all, err := store.List(t.Context(), inbox.Query{State: inbox.Delivered, Limit: 100})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range all {
			if m, err = store.Get(t.Context(), m.Seq); err != nil {
				t.Fatal(err)
			}
			if len(m.Request) > 0 {
				kept++
			}
		}
		return kept
	}
	deliver("a", "b", "c", "d")
	if err := put("pending", 100<<10); err != nil {
		t.Fatal(err)
	}
	if err := put("too much", 60<<10); !errors.Is(err, inbox.ErrFull) {
		t.Fatalf("error %v, want it to be full", err)
	}
	if got := kept(); got != 4 {
		t.Errorf("%d requests are there; dropping the others has made no room", got)
	}
	m, err := store.Lease(t.Context())
	if err != nil || m.ID != "pending" {
		t.Fatalf("leased %+v: %v", m, err)
	}
	if err := store.Settle(t.Context(), m, inbox.Outcome{Result: inbox.Dead}); err != nil {
		t.Fatal(err)
	}
	for i := range 16 {
		deliver(fmt.Sprint(i))
	}
	// About 4 KiB are free, and 20 of 1 KiB can be dropped: 8 at once.
	for _, want := range []int{12, 4} {
		if err := put("large", 21<<10); !errors.Is(err, inbox.ErrFull) {
			t.Fatalf("error %v, want it to be full", err)
		}
		if got := kept(); got != want {
			t.Errorf("%d requests are there, want %d", got, want)
		}
	}
	if err := put("large", 21<<10); err != nil {
		t.Errorf("with room made: %v", err)
	}
}
