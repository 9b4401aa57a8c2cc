package boltstore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
)

// smallDisk mounts a file system with so little room.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	directory := t.TempDir()
	if err := syscall.Mount("tmpfs", directory, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("mounting a small file system: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(directory, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmounting: %v", err)
		}
	})
	return directory
}

// TestDiskFull: on a full disk nothing is acknowledged, what is there can be settled, and it works again by itself once
// there is room. With a reserve it does not come to a failing write; without one it does.
func TestDiskFull(t *testing.T) {
	for _, test := range []struct {
		name    string
		reserve uint64
	}{{"reserve", 4 << 20}, {"no reserve", 0}} {
		t.Run(test.name, func(t *testing.T) {
			directory := smallDisk(t, "24m")
			o := testOptions()
			o.anywhere, o.reserve = true, test.reserve
			path := filepath.Join(directory, "inbox.db")
			store, err := openStore(path, storetestSettings, zap.NewNop(), o)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = store.Close() }()
			other := filepath.Join(directory, "other")
			if err := os.WriteFile(other, make([]byte, 8<<20), 0o600); err != nil {
				t.Fatal(err)
			}
			acked := map[string]bool{}
			put := func(i int) error {
				id := fmt.Sprint(i)
				receipt, err := store.Put(t.Context(), &inbox.Message{ID: id, Request: make([]byte, 200<<10)})
				if err == nil && receipt != inbox.Stored {
					t.Fatalf("receipt %d", receipt)
				}
				if err == nil {
					acked[id] = true
				}
				return err
			}
			n := 0
			for ; n < 200; n++ {
				if err = put(n); err != nil {
					break
				}
			}
			if !errors.Is(err, syscall.ENOSPC) {
				t.Fatalf("after %d messages: error %v, want the disk to be full", n, err)
			}
			if n < 20 {
				t.Fatalf("the disk is full after %d messages", n)
			}
			for range 5 {
				// One may still find room in the file that another has left.
				if err := put(n); err != nil && !errors.Is(err, syscall.ENOSPC) {
					t.Fatalf("on a full disk: %v", err)
				}
				n++
			}
			full := len(acked)
			if stats, err := store.Stats(t.Context()); err != nil || stats.Pending != int64(full) {
				t.Fatalf("stats %+v, %v: want %d pending", stats, err, full)
			}
			// What is there is delivered and settled all the same.
			settledOnFull := 0
			for range 3 {
				m, err := store.Lease(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				err = store.Settle(t.Context(), m, inbox.Outcome{Result: inbox.Delivered})
				if err != nil && (test.reserve > 0 || !errors.Is(err, syscall.ENOSPC)) {
					t.Fatalf("settle on a full disk: %v", err)
				}
				if err == nil {
					settledOnFull++
					continue
				}
				if err := store.Settle(t.Context(), m, inbox.Outcome{Released: true}); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Remove(other); err != nil {
				t.Fatal(err)
			}
			for range 20 {
				if err := put(n); err != nil {
					t.Fatalf("with room again: %v", err)
				}
				n++
			}
			if err := store.Close(); err != nil {
				t.Fatal(err)
			}
			if store, err = openStore(path, storetestSettings, zap.NewNop(), o); err != nil {
				t.Fatal(err)
			}
			if stats, err := store.Stats(t.Context()); err != nil || stats.Pending+stats.Delivered != int64(len(acked)) {
				t.Errorf("stats %+v, %v: want %d in all", stats, err, len(acked))
			}
			for id := range acked {
				receipt, err := store.Put(t.Context(), &inbox.Message{ID: id})
				if err != nil || receipt != inbox.Repeated {
					t.Errorf("%s was acknowledged; put again: receipt %d, error %v", id, receipt, err)
				}
			}
			t.Logf("%d stored until the disk was full, %d settled on the full disk, %d after it", full, settledOnFull, len(acked)-full)
		})
	}
}
