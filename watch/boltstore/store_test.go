package boltstore

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-chinaums/caddy-chinaums/internal/testutil"
	"github.com/caddy-chinaums/caddy-chinaums/watch"
	"github.com/caddy-chinaums/caddy-chinaums/watch/storetest"
)

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Opener {
		path := filepath.Join(t.TempDir(), "deep", "watch.db")
		return func(t *testing.T) watch.Store {
			s, err := Open(path)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
	})
}

func TestOneProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "watch.db")
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := Open(path); err == nil || !strings.Contains(err.Error(), "held by another process") {
		t.Errorf("a second one: %v", err)
	}
}

// TestForeignFile: what another program wrote is neither read nor changed.
func TestForeignFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "inbox.db")
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(func(tx *bbolt.Tx) error { _, err := tx.CreateBucket([]byte("requests")); return err }); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); err == nil || !strings.Contains(err.Error(), "another program") {
		t.Errorf("opened: %v", err)
	}
}

// TestCommitsAreShared: Puts that wait together are one commit. bbolt counts them.
func TestCommitsAreShared(t *testing.T) {
	opened, err := Open(filepath.Join(t.TempDir(), "watch.db"))
	if err != nil {
		t.Fatal(err)
	}
	s := opened.(*store)
	defer s.Close()
	// While a transaction is open no other one begins, so that Puts gather behind the one that waits.
	tx, err := s.db.Begin(true)
	if err != nil {
		t.Fatal(err)
	}
	before := tx.ID()
	var all []*write
	for i := range 65 {
		w := &write{entry: watch.Entry{Key: fmt.Sprint("shop/", i), Value: []byte("value")}, done: make(chan struct{})}
		all = append(all, w)
		s.writes <- w
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	for _, w := range all {
		if <-w.done; w.err != nil {
			t.Fatal(w.err)
		}
	}
	if tx, err = s.db.Begin(true); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	if commits := tx.ID() - before; commits > 3 {
		t.Errorf("%d commits for 65 Puts", commits)
	}
}

// sharedStore is one that several gateways write to, as those of one process do.
type sharedStore struct{ watch.Store }

func (sharedStore) Shared() bool { return true }

func TestTwoGateways(t *testing.T) {
	s, err := Open(filepath.Join(testutil.Memory(t), "watch.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	storetest.TwoGateways(t, sharedStore{s}, sharedStore{s})
	storetest.Alike(t, sharedStore{s}, sharedStore{s})
}

// TestKeyOfLink: in a directory behind a symbolic link, a watch's key stays what it is when the file is made. It used to change,
// so the next configuration opened the file a second time, and the reload failed.
func TestKeyOfLink(t *testing.T) {
	folder := t.TempDir()
	link := filepath.Join(folder, "link")
	if err := os.Mkdir(filepath.Join(folder, "real"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(folder, "real"), link); err != nil {
		t.Skip(err) // no links here
	}
	var p Provider
	p.Path = filepath.Join(link, "watch", "chinaums.db")
	if err := p.Provision(caddy.Context{}); err != nil {
		t.Fatal(err)
	}
	before := p.Key("chinaums")
	s, err := p.Open(t.Context(), "chinaums", zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if after := p.Key("chinaums"); after != before {
		t.Errorf("the key was %s, and is %s", before, after)
	}
}
