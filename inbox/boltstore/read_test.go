package boltstore

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
)

// readable makes a file of so many messages, of which the first is delivered, the second dead and the third waits.
func readable(t *testing.T, count int, change func(b *batch) error) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "inbox.db")
	store, err := openStore(path, storetestSettings, zap.NewNop(), testOptions())
	if err != nil {
		t.Fatal(err)
	}
	for i := range count {
		if _, err := store.Put(t.Context(), &inbox.Message{ID: fmt.Sprint("e", i+1), Subject: fmt.Sprint("order-", i+1), Request: requestOf(i + 1)}); err != nil {
			t.Fatal(err)
		}
	}
	for _, outcome := range []inbox.Outcome{{Result: inbox.Delivered}, {Result: inbox.Dead}, {Result: inbox.Pending, Delay: time.Hour}} {
		m, err := store.Lease(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := store.Settle(t.Context(), m, outcome); err != nil {
			t.Fatal(err)
		}
	}
	if change != nil {
		if err := store.do(t.Context(), &operation{apply: func(b *batch) error {
			b.changed = true
			return b.fail(change(b))
		}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func requestOf(number int) []byte {
	return append(fmt.Appendf(nil, "the request of %04d", number), bytes.Repeat([]byte("."), 500)...)
}

// readWhole reads a file, and checks that it stays as it is.
func readWhole(t *testing.T, path string) (messages []*inbox.Message, skipped []string, err error) {
	t.Helper()
	before, _ := os.ReadFile(path)
	err = new(Provider).ReadFile(path, func(m *inbox.Message) error {
		if len(messages) > 0 && messages[len(messages)-1].Seq >= m.Seq {
			t.Errorf("%d comes after %d", m.Seq, messages[len(messages)-1].Seq)
		}
		if !bytes.Equal(m.Request, requestOf(int(m.Seq))) || m.ID != fmt.Sprint("e", m.Seq) || m.Subject != fmt.Sprint("order-", m.Seq) {
			t.Errorf("%d is read as %q, %q, %q", m.Seq, m.ID, m.Subject, m.Request)
		}
		messages = append(messages, m)
		return nil
	}, func(what string) { skipped = append(skipped, what) })
	if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
		t.Error("the file was changed")
	}
	return messages, skipped, err
}

// TestReadFile: every message, with what became of it.
func TestReadFile(t *testing.T) {
	path := readable(t, 300, nil)
	messages, skipped, err := readWhole(t, path)
	if err != nil || len(messages) != 300 || len(skipped) > 0 {
		t.Fatalf("%d messages, skipped %q, %v", len(messages), skipped, err)
	}
	for i, want := range []inbox.State{inbox.Delivered, inbox.Dead, inbox.Pending, inbox.Pending} {
		if messages[i].State != want {
			t.Errorf("%d is %s, want %s", i+1, messages[i].State, want)
		}
	}
	enough := errors.New("enough")
	if err := new(Provider).ReadFile(path, func(*inbox.Message) error { return enough }, nil); !errors.Is(err, enough) {
		t.Errorf("%v, want the error of who takes them", err)
	}
}

// TestReadFileRefused: what is open, is no inbox's, or is not there.
func TestReadFileRefused(t *testing.T) {
	path := readable(t, 3, nil)
	missing := filepath.Join(t.TempDir(), "missing.db")
	foreign := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(foreign, bytes.Repeat([]byte("some text\n"), 5000), 0o600); err != nil {
		t.Fatal(err)
	}
	older := readable(t, 3, func(b *batch) error { return b.bucket(inMeta).Put(keyFormat, []byte("caddy inbox 2")) })
	store, err := Open(path, storetestSettings, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	for path, want := range map[string]string{
		path: "is open: stop that Caddy", missing: "no such file", foreign: "is not an inbox's file", older: "older version",
	} {
		if messages, _, err := readWhole(t, path); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) || len(messages) > 0 {
			t.Errorf("%d messages, %v, want %s", len(messages), err, want)
		}
	}
	if _, err := os.Stat(missing); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file was made: %v", err)
	}
}

// TestReadFileDamaged: what is damaged is left out and said, and nothing else is.
func TestReadFileDamaged(t *testing.T) {
	const count = 300
	seqs := func(messages []*inbox.Message) (all []uint64) {
		for _, m := range messages {
			all = append(all, m.Seq)
		}
		return all
	}
	// hit damages the page that has the request of a message.
	hit := func(t *testing.T, path string, number int, damage func(page []byte)) {
		t.Helper()
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		// There are copies on pages that are free: all of them are damaged.
		for at, from := 0, 0; ; from = at + 1 {
			next := bytes.Index(content[from:], requestOf(number))
			if next < 0 {
				break
			}
			at = from + next
			page := os.Getpagesize()
			damage(content[at/page*page : at/page*page+page])
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, damage := range map[string]func(page []byte){
		"zeros":            func(page []byte) { clear(page) },
		"another page":     func(page []byte) { copy(page, bytes.Repeat([]byte{0x17}, len(page))) },
		"lengths that lie": func(page []byte) { copy(page[16:200], bytes.Repeat([]byte{0xff}, 184)) },
	} {
		t.Run(name, func(t *testing.T) {
			path := readable(t, count, nil)
			hit(t, path, 150, damage)
			messages, skipped, err := readWhole(t, path)
			if err != nil || len(skipped) == 0 {
				t.Fatalf("skipped %q, %v", skipped, err)
			}
			got := seqs(messages)
			if slices.Contains(got, 150) || len(got) < count-20 || got[0] != 1 || got[len(got)-1] != count {
				t.Errorf("read %d messages: %v\nskipped %q", len(got), got, skipped)
			}
			if !strings.Contains(strings.Join(skipped, "\n"), "nothing can be read") && !strings.Contains(strings.Join(skipped, "\n"), "message 150 is left out") {
				t.Errorf("skipped %q", skipped)
			}
		})
	}
	t.Run("its end is missing", func(t *testing.T) {
		path := readable(t, count, nil)
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, info.Size()/4); err != nil {
			t.Fatal(err)
		}
		_, skipped, err := readWhole(t, path)
		if err == nil && len(skipped) == 0 {
			t.Error("it is not said")
		}
	})
	t.Run("one record", func(t *testing.T) {
		path := readable(t, count, func(b *batch) error { return b.bucket(inRequests).Put(seqKey(150), []byte{9}) })
		messages, skipped, err := readWhole(t, path)
		if err != nil || len(messages) != count-1 || len(skipped) != 1 || !strings.HasPrefix(skipped[0], "message 150 is left out: ") {
			t.Errorf("%d messages, skipped %q, %v", len(messages), skipped, err)
		}
	})
	t.Run("what became of one", func(t *testing.T) {
		path := readable(t, count, func(b *batch) error { return b.bucket(inDelivered).Put(seqKey(1), []byte{9}) })
		messages, skipped, err := readWhole(t, path)
		if err != nil || len(messages) != count || messages[0].State != inbox.Unknown || messages[1].State != inbox.Dead ||
			len(skipped) != 1 || !strings.HasPrefix(skipped[0], "message 1: what became of it cannot be read: ") {
			t.Errorf("%d messages, skipped %q, %v", len(messages), skipped, err)
		}
	})
	t.Run("the counters", func(t *testing.T) {
		path := readable(t, count, nil)
		store, err := openStore(path, storetestSettings, zap.NewNop(), testOptions())
		if err != nil {
			t.Fatal(err)
		}
		tx, err := store.db.Begin(true)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(tx.Bucket(buckets[inMeta]).Put(keyCounters, []byte{9}), tx.Commit(), store.Close()); err != nil {
			t.Fatal(err)
		}
		messages, skipped, err := readWhole(t, path)
		if err != nil || len(messages) != count || len(skipped) != 1 || !strings.HasPrefix(skipped[0], "the file's counters cannot be read") {
			t.Errorf("%d messages, skipped %q, %v", len(messages), skipped, err)
		}
	})
}
