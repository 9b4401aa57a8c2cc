package boltstore

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
)

func TestFileMode(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("modes are Unix's")
	}
	path := filepath.Join(t.TempDir(), "a", "b", "inbox.db")
	store, err := Open(path, storetestSettings, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): 0o700, filepath.Dir(filepath.Dir(path)): 0o700} {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has the mode %o, want %o", name, got, want)
		}
	}
}

// TestForeignFiles: what is not an inbox's file of this version is refused, with a reason, and left as it is.
func TestForeignFiles(t *testing.T) {
	directory := t.TempDir()
	bolt := func(name string, fill func(tx *bbolt.Tx) error) string {
		path := filepath.Join(directory, name)
		db, err := bbolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Update(fill); err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		return path
	}
	raw := func(name string, content []byte) string {
		path := filepath.Join(directory, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := filepath.Join(directory, "good.db")
	store, err := Open(good, storetestSettings, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		if _, err := store.Put(t.Context(), &inbox.Message{ID: fmt.Sprint(i), Request: make([]byte, 2000)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ name, path, want string }{
		{"not bolt", raw("text", bytes.Repeat([]byte("some text\n"), 5000)), "is not an inbox's file, or damaged"},
		{"short", raw("short", []byte("x")), "is not an inbox's file, or damaged"},
		{"another program's", bolt("other", func(tx *bbolt.Tx) error {
			_, err := tx.CreateBucket([]byte("acme"))
			return err
		}), "belongs to another program"},
		{"another program's with a bucket of that name", bolt("other2", func(tx *bbolt.Tx) error {
			_, err := tx.CreateBucket(buckets[inMeta])
			return err
		}), "belongs to another program"},
		{"newer", bolt("newer", func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucket(buckets[inMeta])
			if err != nil {
				return err
			}
			return b.Put(keyFormat, []byte("caddy inbox 4"))
		}), "newer version"},
		{"cut off", raw("cut", content[:len(content)/8]), "its end is missing"},
		{"a directory", directory, "directory"},
		{"older", bolt("older", func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucket(buckets[inMeta])
			if err != nil {
				return err
			}
			return b.Put(keyFormat, []byte("caddy inbox 2"))
		}), "older version"},
	} {
		t.Run(test.name, func(t *testing.T) {
			before, _ := os.ReadFile(test.path)
			store, err := Open(test.path, storetestSettings, zap.NewNop())
			if err == nil {
				_ = store.Close()
				t.Fatal("it was opened")
			}
			if !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), test.path) {
				t.Errorf("error %q, want it to say %q, and the file", err, test.want)
			}
			if after, _ := os.ReadFile(test.path); !bytes.Equal(before, after) {
				t.Error("the file was changed")
			}
		})
	}
}

// TestEmptyFile: a file of no bytes, or one whose making was cut off, becomes an inbox's.
func TestEmptyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "inbox.db")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	store, err := Open(path, storetestSettings, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "bolt.db")
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if store, err = Open(path, storetestSettings, zap.NewNop()); err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestFileSystems: a file in memory is refused; one on a file system that may lose what it syncs is not, but told.
func TestFileSystems(t *testing.T) {
	if _, volatile := fileSystem("/dev/shm"); !volatile {
		t.Skip("/dev/shm is no tmpfs here")
	}
	directory, err := os.MkdirTemp("/dev/shm", "inbox")
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(directory) })
	path := filepath.Join(directory, "inbox.db")
	_, err = Open(path, storetestSettings, zap.NewNop())
	if err == nil || !strings.Contains(err.Error(), "tmpfs") || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("the file was made all the same")
	}
}

// TestLongFreelist: a long list of free pages is not written with every commit, but when the store is closed.
func TestLongFreelist(t *testing.T) {
	path := filepath.Join(t.TempDir(), "inbox.db")
	now := time.Now()
	o := defaultOptions()
	o.now = func() time.Time { return now }
	o.noSync = true
	settings := storetestSettings
	settings.Remember = time.Minute
	core, logs := observer.New(zapcore.WarnLevel)
	store, err := openStore(path, settings, zap.New(core), o)
	if err != nil {
		t.Fatal(err)
	}
	const messages = 1000
	for i := range messages {
		if _, err := store.Put(t.Context(), &inbox.Message{ID: fmt.Sprint(i), Request: make([]byte, 16<<10)}); err != nil {
			t.Fatal(err)
		}
		m, err := store.Lease(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := store.Settle(t.Context(), m, inbox.Outcome{Result: inbox.Delivered}); err != nil {
			t.Fatal(err)
		}
	}
	unsynced := func() bool {
		store.file.RLock()
		defer store.file.RUnlock()
		return store.db.NoFreelistSync
	}
	if unsynced() {
		t.Error("the list is not written though it is short")
	}
	now = now.Add(time.Hour) // everything expires, so many with each commit
	for i := range messages {
		if _, err := store.Put(t.Context(), &inbox.Message{ID: fmt.Sprint("more ", i)}); err != nil {
			t.Fatal(err)
		}
	}
	if stats, err := store.Stats(t.Context()); err != nil || stats.Delivered != 0 {
		t.Fatalf("stats %+v, %v", stats, err)
	}
	if !unsynced() {
		t.Error("the list is written with every commit though it is long")
	}
	if err := store.close(true); err != nil {
		t.Fatal(err)
	}
	reopened := func() {
		t.Helper()
		store, err = openStore(path, settings, zap.New(core), o)
		if err != nil {
			t.Fatal(err)
		}
		if stats, err := store.Stats(t.Context()); err != nil || stats.Pending != messages {
			t.Errorf("stats %+v, %v", stats, err)
		}
	}
	reopened() // after a crash
	if _, err := store.Put(t.Context(), &inbox.Message{ID: "one more"}); err != nil {
		t.Fatal(err)
	}
	if !unsynced() {
		t.Error("the list is written with every commit though it is long")
	}
	m, err := store.Lease(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Settle(t.Context(), m, inbox.Outcome{Result: inbox.Dead}); err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, PreLoadFreelist: true})
	if err != nil {
		t.Fatal(err)
	}
	if pages := db.Stats().FreePageN; pages < 2000 {
		t.Errorf("after closing, the file's list has %d free pages", pages)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	reopened()
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	if logs.Len() > 0 {
		t.Errorf("logged: %v", logs.All())
	}
}
