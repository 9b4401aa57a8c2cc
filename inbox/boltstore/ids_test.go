package boltstore

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
)

// TestIDs compares the index of ids with what was done: after puts, outcomes, deletions, redeliveries, expiry and
// reopenings it has the newest message of each id that is known, and no other.
func TestIDs(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	path := filepath.Join(t.TempDir(), "inbox.db")
	o := testOptions()
	o.noSync = true
	now := time.Now()
	o.now = func() time.Time { return now }
	open := func() *Store {
		store, err := openStore(path, storetestSettings, zap.NewNop(), o)
		if err != nil {
			t.Fatal(err)
		}
		return store
	}
	store := open()
	defer func() { _ = store.Close() }()
	states := map[string]inbox.State{} // by id; those that are not known are not in it
	settledAt := map[string]time.Time{}
	for range 4000 {
		id := fmt.Sprint(random.IntN(60))
		want := inbox.Stored
		switch states[id] {
		case inbox.Pending, inbox.Delivered:
			want = inbox.Repeated
		case inbox.Dead:
			want = inbox.Revived
		}
		receipt, err := store.Put(t.Context(), &inbox.Message{ID: id, Request: []byte(id)})
		if err != nil || receipt != want {
			t.Fatalf("%s, which is %q: receipt %d, %v; want %d", id, states[id], receipt, err, want)
		}
		if want != inbox.Repeated {
			states[id] = inbox.Pending
			m, err := store.Lease(t.Context())
			if err != nil || m.ID != id {
				t.Fatalf("leased %+v, %v; want %s", m, err, id)
			}
			outcome := inbox.Outcome{Result: []inbox.State{inbox.Delivered, inbox.Delivered, inbox.Dead}[random.IntN(3)]}
			if err := store.Settle(t.Context(), m, outcome); err != nil {
				t.Fatal(err)
			}
			states[id], settledAt[id] = outcome.Result, now
			switch random.IntN(8) {
			case 0:
				if err := store.Delete(t.Context(), m.Seq, false); err != nil {
					t.Fatal(err)
				}
				delete(states, id)
			case 1:
				if _, err := store.Redeliver(t.Context(), m.Seq, true); err != nil {
					t.Fatal(err)
				}
				if m, err = store.Lease(t.Context()); err != nil || m.ID != id {
					t.Fatalf("leased %+v, %v; want %s", m, err, id)
				}
				if err := store.Settle(t.Context(), m, inbox.Outcome{Result: inbox.Delivered}); err != nil {
					t.Fatal(err)
				}
				states[id] = inbox.Delivered
			}
		}
		now = now.Add(time.Duration(random.IntN(200)) * time.Second)
		for id, state := range states {
			if state == inbox.Delivered && now.Sub(settledAt[id]) >= storetestSettings.Remember {
				delete(states, id)
			}
		}
		if random.IntN(100) == 0 {
			if err := store.Close(); err != nil {
				t.Fatal(err)
			}
			store = open()
		}
	}
	if err := store.do(t.Context(), &operation{apply: func(b *batch) error { return b.expire(1000) }}); err != nil {
		t.Fatal(err)
	}
	if err := store.view(func(v *views) error {
		if got := v.bucket(inIDs).Stats().KeyN; got != len(states) {
			t.Errorf("%d ids are in the index, and %d are known", got, len(states))
		}
		for id := range states {
			d := digestOf(id)
			r, err := decodeRecord(v.bucket(inRequests).Get(v.bucket(inIDs).Get(d[:])))
			if err != nil || string(r.id) != id {
				t.Errorf("under %s there is %q, %v", id, r.id, err)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}
