package boltstore

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
)

// TestReplaced: where the file was removed or replaced nothing is acknowledged, and the file that is there is not
// written to; the next write opens what is there then.
func TestReplaced(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("an open file cannot be renamed")
	}
	path := filepath.Join(t.TempDir(), "inbox.db")
	store, err := openStore(path, storetestSettings, zap.NewNop(), testOptions())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	put := func(id string) error {
		receipt, err := store.Put(t.Context(), &inbox.Message{ID: id})
		if err == nil && receipt != inbox.Stored {
			t.Fatalf("%s: receipt %d", id, receipt)
		}
		return err
	}
	for _, id := range []string{"a", "b", "c"} {
		if err := put(id); err != nil {
			t.Fatal(err)
		}
	}
	old, err := store.Lease(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// In the midst of a commit: what comes after it does not write to the other file.
	const other = "another program's"
	if err := store.do(t.Context(), &operation{apply: func(b *batch) error {
		b.changed = true
		return errors.Join(os.Rename(path, path+".away"), os.WriteFile(path, []byte(other), 0o600))
	}}); err != nil {
		t.Fatal(err)
	}
	isOther := func() {
		t.Helper()
		if b, err := os.ReadFile(path); err != nil || string(b) != other {
			t.Fatalf("the other file was written to: %d bytes (%v)", len(b), err)
		}
	}
	isOther()
	if err := put("d"); !errors.Is(err, errReplaced) {
		t.Fatalf("put: %v", err)
	}
	if err := put("d"); !errors.Is(err, errUnavailable) {
		t.Fatalf("put: %v", err)
	}
	isOther()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"a", "d"} {
		if err := put(id); err != nil {
			t.Fatal(err)
		}
		m, err := store.Lease(t.Context())
		if err != nil || m.ID != id {
			t.Fatalf("leased %+v (%v), want %s", m, err, id)
		}
	}
	if err := store.Settle(t.Context(), old, inbox.Outcome{Result: inbox.Delivered}); err != nil {
		t.Fatal(err)
	}
	if stats, err := store.Stats(t.Context()); err != nil || stats.Pending != 2 || stats.Delivered != 0 {
		t.Errorf("stats %+v, %v: a lease of the other file's has settled a message of this one's", stats, err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := put("e"); !errors.Is(err, errReplaced) {
		t.Errorf("put into a file that was removed: %v", err)
	}
}

// TestWideMode: a file that others may open is left as it is, and said.
func TestWideMode(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("modes are Unix's")
	}
	path := filepath.Join(t.TempDir(), "inbox.db")
	for _, mode := range []os.FileMode{0, 0o600, 0o400, 0o640} {
		if mode != 0 {
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
		}
		if mode == 0o400 && os.Getuid() != 0 {
			continue // it cannot be opened
		}
		core, logs := observer.New(zapcore.WarnLevel)
		store, err := Open(path, storetestSettings, zap.New(core))
		if err != nil {
			t.Fatal(err)
		}
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
		warnings := logs.FilterField(zap.String("mode", "0640")).Len()
		if want := map[bool]int{true: 1}[mode == 0o640]; warnings != want || logs.FilterFieldKey("mode").Len() != want {
			t.Errorf("mode %o: %d warnings, want %d", mode, warnings, want)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("%v, %v: the mode was changed", info.Mode(), err)
	}
}
