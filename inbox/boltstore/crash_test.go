package boltstore

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
	"github.com/caddy-chinaums/caddy-chinaums/internal/testutil"
)

// crashFile names the file that a copy of this test program works on until it is killed.
const crashFile = "CHINAUMS_TEST_CRASH_FILE"

func TestMain(m *testing.M) {
	_ = os.Setenv("LC_ALL", "C") // messages are in English, whatever this machine speaks
	if path := os.Getenv(crashFile); path != "" {
		if err := workUntilKilled(path, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
	testutil.TempOnDisk()
	os.Exit(m.Run())
}

// workUntilKilled puts and settles for ever, and says what is done in lines: "put <id>" when the store has acknowledged it,
// "settled <id>" when it has settled it as delivered.
func workUntilKilled(path string, out io.Writer) error {
	store, err := openStore(path, storetestSettings, zap.NewNop(), testOptions())
	if err != nil {
		return err
	}
	var lock sync.Mutex
	say := func(line string) { // one write: it is there as a whole or not at all
		lock.Lock()
		defer lock.Unlock()
		_, _ = io.WriteString(out, line+"\n")
	}
	ctx := context.Background()
	prefix := fmt.Sprint(time.Now().UnixNano())
	failed := make(chan error)
	for sender := range 8 {
		go func() {
			for i := 0; ; i++ {
				id := fmt.Sprintf("%s-%d-%d", prefix, sender, i)
				m := &inbox.Message{ID: id, Received: time.Now(), Request: []byte("request of " + id)}
				if sender%4 == 0 {
					m.Key = fmt.Sprint("key ", sender)
				}
				if _, err := store.Put(ctx, m); err != nil {
					failed <- err
				}
				say("put " + id)
			}
		}()
	}
	for range 6 {
		go func() {
			for {
				m, err := store.Lease(ctx)
				if err != nil {
					failed <- err
				}
				outcome := inbox.Outcome{Result: inbox.Delivered}
				switch rand.IntN(5) {
				case 0:
					outcome = inbox.Outcome{Result: inbox.Pending, Delay: 2 * time.Millisecond}
				case 1:
					outcome = inbox.Outcome{Released: true}
				}
				if string(m.Request) != "request of "+m.ID {
					failed <- fmt.Errorf("%s has the request %q", m.ID, m.Request)
				}
				if err := store.Settle(ctx, m, outcome); err != nil {
					failed <- err
				}
				if outcome.Result == inbox.Delivered {
					say("settled " + m.ID)
				}
			}
		}()
	}
	say("open")
	return <-failed
}

var storetestSettings = inbox.Settings{Remember: time.Hour, Lease: time.Minute, MaxDelay: time.Hour}

// TestKilled kills a process in the middle of its work, again and again: what it was told is safe is there, and what is
// settled is never delivered again.
func TestKilled(t *testing.T) {
	kills := 10
	if testing.Short() {
		kills = 2
	}
	path := filepath.Join(t.TempDir(), "inbox.db")
	put, settled := map[string]bool{}, map[string]bool{}
	for kill := range kills {
		command := exec.CommandContext(t.Context(), os.Args[0])
		command.Env = append(os.Environ(), crashFile+"="+path)
		var stderr strings.Builder
		command.Stderr = &stderr
		out, err := command.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n, most := 0, 100+rand.IntN(400); n < most && lines.Scan(); n++ {
			note(lines.Text(), put, settled)
		}
		if err := command.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for lines.Scan() { // what it had said before it was killed
			note(lines.Text(), put, settled)
		}
		if err := command.Wait(); err == nil || stderr.Len() > 0 {
			t.Fatalf("kill %d: the process ended with %v: %s", kill, err, stderr.String())
		}
	}
	store, err := openStore(path, storetestSettings, zap.NewNop(), testOptions())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	found := map[string]inbox.State{}
	var counted inbox.Stats
	for after := uint64(0); ; {
		page, err := store.List(t.Context(), inbox.Query{After: after, Limit: 500})
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, m := range page {
			if _, ok := found[m.ID]; ok {
				t.Errorf("%s is there twice", m.ID)
			}
			found[m.ID], after = m.State, m.Seq
			switch m.State {
			case inbox.Pending:
				counted.Pending++
			case inbox.Delivered:
				counted.Delivered++
			}
		}
	}
	lost := 0
	for id := range put {
		if found[id] == "" {
			lost++
		}
	}
	for id := range settled {
		if found[id] != inbox.Delivered {
			t.Errorf("%s was settled and is %q", id, found[id])
		}
	}
	stats, err := store.Stats(t.Context())
	if err != nil || stats.Pending != counted.Pending || stats.Delivered != counted.Delivered || stats.Dead != 0 {
		t.Errorf("counters %+v, counted %+v (%v)", stats, counted, err)
	}
	again := 0
	for left := stats.Pending; left > 0; left-- {
		m, err := store.Lease(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if settled[m.ID] {
			again++
		}
		if err := store.Settle(t.Context(), m, inbox.Outcome{Result: inbox.Delivered}); err != nil {
			t.Fatal(err)
		}
	}
	for id := range put {
		if receipt, err := store.Put(t.Context(), &inbox.Message{ID: id}); err != nil || receipt != inbox.Repeated {
			t.Fatalf("%s again: receipt %d, error %v", id, receipt, err)
		}
	}
	t.Logf("%d kills: %d acknowledged, %d lost; %d settled, %d of them delivered again", kills, len(put), lost, len(settled), again)
	if lost > 0 || again > 0 || len(put) < 20*kills || len(settled) < 10*kills {
		t.Errorf("%d acknowledged, %d lost; %d settled, %d delivered again", len(put), lost, len(settled), again)
	}
}

func note(line string, put, settled map[string]bool) {
	if id, ok := strings.CutPrefix(line, "put "); ok {
		put[id] = true
	}
	if id, ok := strings.CutPrefix(line, "settled "); ok {
		settled[id] = true
	}
}

// TestHeldByAnotherProcess: the error says what to do, and does not take long.
func TestHeldByAnotherProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "inbox.db")
	command := exec.CommandContext(t.Context(), os.Args[0])
	command.Env = append(os.Environ(), crashFile+"="+path)
	out, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = command.Process.Kill()
		_ = command.Wait()
	}()
	if lines := bufio.NewScanner(out); !lines.Scan() {
		t.Fatal("the other process says nothing")
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	_, err = Open(path, storetestSettings, zap.NewNop())
	if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "held by another process") {
		t.Fatalf("error %v", err)
	}
	if err := command.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = command.Wait()
	store, err := Open(path, storetestSettings, zap.NewNop())
	if err != nil {
		t.Fatalf("after the other was killed: %v", err)
	}
	if err := store.Close(); err != nil {
		t.Error(err)
	}
}

// TestFailedCommit: every caller of a commit that failed learns it, nothing of it has happened, and the next commit works.
func TestFailedCommit(t *testing.T) {
	store, err := openStore(filepath.Join(t.TempDir(), "inbox.db"), storetestSettings, zap.NewNop(), testOptions())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	for i := range 20 {
		if _, err := store.Put(t.Context(), &inbox.Message{ID: fmt.Sprint(i), Request: make([]byte, 1000)}); err != nil {
			t.Fatal(err)
		}
	}
	held, err := store.Lease(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for round := range 3 {
		before, err := store.Stats(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		// The file must not grow: so writing it fails, as on a full disk.
		store.file.RLock()
		store.db.MaxSize = 1
		store.file.RUnlock()
		id := fmt.Sprint("large ", round)
		large := &inbox.Message{ID: id, Request: make([]byte, 600<<10)}
		if receipt, err := store.Put(t.Context(), large); err == nil {
			t.Fatalf("receipt %d from a file that cannot grow", receipt)
		}
		after, err := store.Stats(t.Context())
		if err != nil || after != before {
			t.Errorf("stats %+v (%v), before the failure %+v", after, err, before)
		}
		if receipt, err := store.Put(t.Context(), large); err != nil || receipt != inbox.Stored {
			t.Fatalf("after it: receipt %d, error %v", receipt, err)
		}
	}
	// Leases outlive it: nobody else gets the message, and its holder can settle it.
	if err := store.Settle(t.Context(), held, inbox.Outcome{Result: inbox.Delivered}); err != nil {
		t.Fatal(err)
	}
	for range 22 {
		m, err := store.Lease(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if m.ID == held.ID {
			t.Errorf("%s was leased twice", m.ID)
		}
		if err := store.Settle(t.Context(), m, inbox.Outcome{Result: inbox.Delivered}); err != nil {
			t.Fatal(err)
		}
	}
	if stats, err := store.Stats(t.Context()); err != nil || stats.Pending != 0 || stats.Delivered != 23 {
		t.Errorf("stats %+v, %v", stats, err)
	}
}

// TestUnavailable: a file that could not be opened again is, once it can be, though nobody puts anything.
func TestUnavailable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "inbox.db")
	store, err := openStore(path, storetestSettings, zap.NewNop(), testOptions())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if _, err := store.Put(t.Context(), &inbox.Message{ID: "a", Request: []byte("request")}); err != nil {
		t.Fatal(err)
	}
	// In the midst of a commit, when nobody else writes: the file is closed and cannot be opened.
	if err := store.do(t.Context(), &operation{apply: func(*batch) error {
		return errors.Join(os.Rename(path, path+".away"), os.WriteFile(path, []byte("something else"), 0o600))
	}}); err != nil {
		t.Fatal(err)
	}
	store.file.RLock()
	store.db.MaxSize = 1
	store.file.RUnlock()
	for range 2 {
		if _, err := store.Put(t.Context(), &inbox.Message{ID: "large", Request: make([]byte, 600<<10)}); err == nil {
			t.Fatal("it was stored in a file that is not open")
		}
	}
	if _, err := store.Lease(t.Context()); !errors.Is(err, errUnavailable) {
		t.Fatalf("lease: error %v", err)
	}
	// At once, for where there is no file a new one is made.
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(time.Minute)
	for {
		m, err := store.Lease(t.Context())
		if err == nil {
			if m.ID != "a" {
				t.Errorf("leased %q", m.ID)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// TestDamaged: a message that cannot be read holds up nobody.
func TestDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "inbox.db")
	store, err := openStore(path, storetestSettings, zap.NewNop(), testOptions())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	for _, id := range []string{"a", "b", "c"} {
		if _, err := store.Put(t.Context(), &inbox.Message{ID: id, Request: []byte("request")}); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.do(t.Context(), &operation{apply: func(b *batch) error {
		b.changed = true
		return b.fail(b.bucket(inRequests).Put(seqKey(1), []byte{9}))
	}}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"b", "c"} {
		m, err := store.Lease(t.Context())
		if err != nil || m.ID != want {
			t.Fatalf("leased %+v (%v), want %s", m, err, want)
		}
		if err := store.Settle(t.Context(), m, inbox.Outcome{Result: inbox.Delivered}); err != nil {
			t.Fatal(err)
		}
		if want == "b" {
			if err := store.Close(); err != nil {
				t.Fatal(err)
			}
			if store, err = openStore(path, storetestSettings, zap.NewNop(), testOptions()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := store.Get(t.Context(), 1); !errors.Is(err, errDamaged) {
		t.Errorf("get: %v", err)
	}
	if stats, err := store.Stats(t.Context()); err != nil || stats.Pending != 1 {
		t.Errorf("stats %+v, %v", stats, err)
	}
	for state, want := range map[inbox.State]int{"": 3, inbox.Delivered: 2} {
		all, err := store.List(t.Context(), inbox.Query{State: state, Limit: 10})
		if err != nil || len(all) != want {
			t.Errorf("list %q: %d messages, %v; want %d", state, len(all), err, want)
			continue
		}
		if first := all[0]; state != inbox.Delivered &&
			(first.Seq != 1 || first.State != inbox.Pending || first.Answer.Error != "damaged") {
			t.Errorf("list %q: %+v, want it to say that it is damaged", state, first)
		}
	}
}

// TestDamagedRetry: what is damaged of a message that waits for a retry keeps nothing from being written.
func TestDamagedRetry(t *testing.T) {
	o := testOptions()
	var jump atomic.Int64
	o.now = func() time.Time { return time.Now().Add(time.Duration(jump.Load())) }
	store, err := openStore(filepath.Join(t.TempDir(), "inbox.db"), storetestSettings, zap.NewNop(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	for _, id := range []string{"a", "b"} {
		if _, err := store.Put(t.Context(), &inbox.Message{ID: id}); err != nil {
			t.Fatal(err)
		}
		m, err := store.Lease(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := store.Settle(t.Context(), m, inbox.Outcome{Result: inbox.Pending, Delay: time.Minute}); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.do(t.Context(), &operation{apply: func(b *batch) error {
		b.changed = true
		return b.fail(b.bucket(inRetrying).Put(seqKey(1), []byte{9}))
	}}); err != nil {
		t.Fatal(err)
	}
	jump.Store(int64(-1000 * time.Hour)) // both are due too late
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if m, err := store.Lease(ctx); err != nil || m.ID != "b" {
		t.Fatalf("leased %+v, %v; want b", m, err)
	}
}

// TestGroupCommit: while a commit is under way the next one's operations gather, and one whose caller has gone before it
// began is not done.
func TestGroupCommit(t *testing.T) {
	store, err := openStore(filepath.Join(t.TempDir(), "inbox.db"), storetestSettings, zap.NewNop(), testOptions())
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
	gone, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := store.Put(gone, &inbox.Message{ID: "gone"})
		ended <- err
	}()
	queueIs(t, store, 1)
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v while the commit is under way", err)
	}
	const senders = 64
	var all sync.WaitGroup
	for i := range senders {
		all.Go(func() {
			if _, err := store.Put(t.Context(), &inbox.Message{ID: fmt.Sprint(i)}); err != nil {
				t.Error(err)
			}
		})
	}
	queueIs(t, store, senders)
	store.file.RLock()
	before := store.db.Stats().TxStats
	store.file.RUnlock()
	close(goOn)
	all.Wait()
	store.file.RLock()
	after := store.db.Stats().TxStats
	store.file.RUnlock()
	if writes := after.GetWrite() - before.GetWrite(); writes > 40 {
		t.Errorf("%d pages were written for %d messages: they did not share a commit", writes, senders)
	}
	if stats, err := store.Stats(t.Context()); err != nil || stats.Pending != senders {
		t.Errorf("stats %+v, %v: want %d pending", stats, err, senders)
	}
}

func queueIs(t *testing.T, store *Store, want int) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		store.writer.lock.Lock()
		got := len(store.writer.puts)
		store.writer.lock.Unlock()
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d operations are queued, want %d", got, want)
		}
		time.Sleep(time.Millisecond)
	}
}
