package boltstore

import (
	"context"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
)

// TestOutlived: a message whose holder never settles it is leased again, to a caller that waits too, whether it was tried
// before or not; then the first holder has no say.
func TestOutlived(t *testing.T) {
	o := testOptions()
	o.grace = 100 * time.Millisecond
	settings := storetestSettings
	settings.Lease = time.Millisecond
	store, err := openStore(filepath.Join(t.TempDir(), "inbox.db"), settings, zap.NewNop(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close() //nolint:errcheck // nothing of it is kept
	if _, err := store.Put(t.Context(), &inbox.Message{ID: "a", Request: []byte("request")}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	lease := func() *inbox.Message {
		t.Helper()
		m, err := store.Lease(ctx)
		if err != nil || m.ID != "a" {
			t.Fatalf("leased %+v: %v", m, err)
		}
		return m
	}
	settle := func(m *inbox.Message, outcome inbox.Outcome, want inbox.Stats) {
		t.Helper()
		if err := store.Settle(ctx, m, outcome); err != nil {
			t.Fatal(err)
		}
		got, err := store.Stats(ctx)
		if err != nil || got.Pending != want.Pending || got.Delivered != want.Delivered {
			t.Fatalf("stats %+v, %v; want %+v", got, err, want)
		}
	}
	first := lease()
	second := lease()
	settle(first, inbox.Outcome{Result: inbox.Dead}, inbox.Stats{Pending: 1})
	settle(second, inbox.Outcome{Result: inbox.Pending, Delay: time.Millisecond}, inbox.Stats{Pending: 1})
	third := lease()
	fourth := lease()
	if fourth.Attempts != 1 {
		t.Errorf("%d attempts, want 1", fourth.Attempts)
	}
	settle(third, inbox.Outcome{Result: inbox.Dead}, inbox.Stats{Pending: 1})
	settle(fourth, inbox.Outcome{Result: inbox.Delivered}, inbox.Stats{Delivered: 1})
}

// TestNotOutlived: a lease is its holder's while a commit settles it, however long the disk takes.
func TestNotOutlived(t *testing.T) {
	store, err := openStore(filepath.Join(t.TempDir(), "inbox.db"), storetestSettings, zap.NewNop(), testOptions())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close() //nolint:errcheck // nothing of it is kept
	if _, err := store.Put(t.Context(), &inbox.Message{ID: "a"}); err != nil {
		t.Fatal(err)
	}
	m, err := store.Lease(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	held := m.Lease.(*lease)
	for _, settling := range []bool{true, false} {
		store.lock.Lock()
		held.given, held.settling = held.given.Add(-time.Hour), settling
		store.lapse()
		holds := store.queue.leases[held.seq] == held
		store.lock.Unlock()
		if holds != settling {
			t.Errorf("settling %t: an hour later it is held: %t", settling, holds)
		}
	}
}

// TestLapseTimer: a timer runs for a lease only while there is one and somebody waits.
func TestLapseTimer(t *testing.T) {
	store, err := openStore(filepath.Join(t.TempDir(), "inbox.db"), storetestSettings, zap.NewNop(), testOptions())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close() //nolint:errcheck // nothing of it is kept
	runs := func() bool {
		store.lock.Lock()
		defer store.lock.Unlock()
		return store.queue.lapse != nil
	}
	if _, err := store.Put(t.Context(), &inbox.Message{ID: "a"}); err != nil {
		t.Fatal(err)
	}
	m, err := store.Lease(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if runs() {
		t.Error("a timer runs while nobody waits")
	}
	waiting, cancel := context.WithCancel(t.Context())
	defer cancel()
	var all sync.WaitGroup
	all.Go(func() { _, _ = store.Lease(waiting) })
	waitingIs(t, store, 1)
	if !runs() {
		t.Error("no timer runs for the lease that may be outlived")
	}
	if err := store.Settle(t.Context(), m, inbox.Outcome{Result: inbox.Delivered}); err != nil {
		t.Fatal(err)
	}
	if runs() {
		t.Error("a timer runs when nothing is leased any more")
	}
	cancel()
	all.Wait()
}
