package boltstore

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
)

// TestTurns: with 64 senders, 8 workers and an app that takes everything at once, deliveries fell behind: one for eight
// puts, for each commit had a put of every sender and a delivery of every worker.
func TestTurns(t *testing.T) {
	o := testOptions()
	o.noSync, o.turn = true, time.Hour // what the machine is busy with does not end the deliveries' turn
	store, err := openStore(filepath.Join(t.TempDir(), "inbox.db"), storetestSettings, zap.NewNop(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	const senders, workers, messages = 64, 8, 4000
	var left, settled atomic.Int64
	left.Store(messages)
	var putters, all sync.WaitGroup
	ctx, done := context.WithCancel(t.Context())
	defer done()
	for range workers {
		all.Go(func() {
			for {
				m, err := store.Lease(ctx)
				if err != nil {
					return
				}
				if err := store.Settle(context.Background(), m, inbox.Outcome{Result: inbox.Delivered}); err != nil {
					t.Error(err)
				}
				settled.Add(1)
			}
		})
	}
	for range senders {
		putters.Go(func() {
			for n := left.Add(-1); n >= 0; n = left.Add(-1) {
				if _, err := store.Put(t.Context(), &inbox.Message{ID: fmt.Sprint(n), Request: []byte("request")}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	putters.Wait()
	meanwhile := settled.Load()
	done()
	all.Wait()
	t.Logf("%d of %d were delivered meanwhile", meanwhile, messages)
	if meanwhile < messages*3/4-2*senders {
		t.Errorf("%d of %d messages were delivered while they were put, want nearly all", meanwhile, messages)
	}
}

// TestNoTurns: where the app is slow, puts wait for no delivery.
func TestNoTurns(t *testing.T) {
	o := testOptions()
	o.turn = time.Millisecond
	store, err := openStore(filepath.Join(t.TempDir(), "inbox.db"), storetestSettings, zap.NewNop(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	put := func(id string) {
		t.Helper()
		if receipt, err := store.Put(t.Context(), &inbox.Message{ID: id}); err != nil || receipt != inbox.Stored {
			t.Fatalf("receipt %d, error %v", receipt, err)
		}
	}
	put("a")
	m, err := store.Lease(t.Context()) // it is never settled
	if err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		put(fmt.Sprint(i))
	}
	if err := store.Settle(t.Context(), m, inbox.Outcome{Result: inbox.Delivered}); err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		put(fmt.Sprint("more ", i))
	}
}

// TestNotYetSynced: what the file has beyond the counters may yet be lost, and so its sender was told nothing. It is not
// leased.
func TestNotYetSynced(t *testing.T) {
	store, err := openStore(filepath.Join(t.TempDir(), "inbox.db"), storetestSettings, zap.NewNop(), testOptions())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if _, err := store.Put(t.Context(), &inbox.Message{ID: "1"}); err != nil {
		t.Fatal(err)
	}
	if err := store.db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket(buckets[inRequests]).Put(seqKey(2), encodeRecord(&inbox.Message{ID: "2"}))
	}); err != nil {
		t.Fatal(err)
	}
	if m, _, err := store.pick(); err != nil || m == nil || m.ID != "1" {
		t.Fatalf("leased %+v, %v; want 1", m, err)
	}
	if m, _, err := store.pick(); err != nil || m != nil {
		t.Fatalf("leased %+v, %v; want nothing", m, err)
	}
	if _, err := store.Put(t.Context(), &inbox.Message{ID: "real 2"}); err != nil {
		t.Fatal(err)
	}
	if m, _, err := store.pick(); err != nil || m == nil || m.ID != "real 2" {
		t.Fatalf("leased %+v, %v; want the one that is synced", m, err)
	}
}
