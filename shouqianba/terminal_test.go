package shouqianba

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-chinaums/caddy-chinaums/internal/normalize"
	"github.com/caddy-chinaums/caddy-chinaums/internal/outbound"
	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
	"github.com/caddy-chinaums/caddy-chinaums/internal/seal"
	"github.com/caddy-chinaums/caddy-chinaums/internal/testutil"
)

// memory is a storage in memory that several servers share, and that fails where it is told to.
type memory struct {
	mu     sync.Mutex
	values map[string][]byte
	locks  map[string]chan struct{}
	loads  int

	// beforeStore is asked before each value is stored; an error is what a full disk is.
	beforeStore func(stores int) error
	stores      int

	unbounded int // loads and stores that would wait for ever for a storage that hangs
}

func newMemory() *memory {
	return &memory{values: make(map[string][]byte), locks: make(map[string]chan struct{})}
}

// bounded counts a call that has no deadline. m.mu is held.
func (m *memory) bounded(ctx context.Context) {
	if _, ok := ctx.Deadline(); !ok {
		m.unbounded++
	}
}

func (m *memory) Load(ctx context.Context, key string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.bounded(ctx)
	m.loads++
	value, ok := m.values[key]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return bytes.Clone(value), nil
}

func (m *memory) Store(ctx context.Context, key string, value []byte) error {
	m.mu.Lock()
	m.bounded(ctx)
	m.stores++
	stores, before := m.stores, m.beforeStore
	m.mu.Unlock()
	if before != nil {
		if err := before(stores); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.values[key] = bytes.Clone(value)
	return nil
}

func (m *memory) lock(name string) chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.locks[name] == nil {
		m.locks[name] = make(chan struct{}, 1)
	}
	return m.locks[name]
}

func (m *memory) Lock(ctx context.Context, name string) error {
	select {
	case m.lock(name) <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (m *memory) Unlock(_ context.Context, name string) error {
	<-m.lock(name)
	return nil
}

func (m *memory) failing(beforeStore func(stores int) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stores, m.beforeStore = 0, beforeStore
}

// clock is a clock that stands until it is set.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// set takes Beijing time.
func (c *clock) set(text string) {
	now, err := time.ParseInLocation(time.DateTime, text, normalize.Beijing)
	if err != nil {
		panic(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = now
}

// played is a platform and the servers that use one of its terminals.
type played struct {
	t        testing.TB
	platform *sandbox.Shouqianba
	server   *httptest.Server
	between  atomic.Pointer[func(http.ResponseWriter, *http.Request)] // what a test puts between the server and the platform
	clock    *clock
	logged   *observer.ObservedLogs
	logger   *zap.Logger
}

func play(t testing.TB, options sandbox.ShouqianbaOptions) *played {
	t.Helper()
	p := &played{t: t, clock: new(clock)}
	p.clock.set("2026-11-24 12:00:00")
	options.Now = p.clock.Now
	if options.PrivateKey == nil {
		options.PrivateKey = testKey()
	}
	var err error
	if p.platform, err = sandbox.NewShouqianba(options); err != nil {
		t.Fatal(err)
	}
	p.server = serveAt(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if between := p.between.Load(); between != nil {
			(*between)(w, r)
			return
		}
		p.platform.ServeHTTP(w, r)
	}), freeAddress(t))
	t.Cleanup(p.platform.Close)
	core, logs := observer.New(zapcore.DebugLevel)
	p.logger, p.logged = zap.New(core), logs
	return p
}

func (p *played) owner(storage seal.Storage) *owner {
	p.t.Helper()
	o := p.platform.Options()
	endpoint, _, err := outbound.ParseEndpoint(p.server.URL)
	if err != nil {
		p.t.Fatal(err)
	}
	owned, err := newOwner("till", identity{o.VendorSN, o.AppID, "till-1", o.ActivationCode}, o.VendorKey, endpoint, p.logger)
	if err != nil {
		p.t.Fatal(err)
	}
	owned.slot.Storage = storage
	return owned
}

// start starts a server that shares storage.
func (p *played) start(storage seal.Storage) *keeper {
	p.t.Helper()
	k := newKeeper()
	k.now, k.spread = p.clock.Now, 30*time.Second
	k.adopt(p.owner(storage))
	p.t.Cleanup(func() { _ = k.Destruct() })
	return k
}

func (p *played) credential(k *keeper) *credential {
	p.t.Helper()
	c, err := k.credential(p.t.Context())
	if err != nil {
		p.t.Fatalf("credential: %v", err)
	}
	return c
}

// newest asks that a credential is the platform's newest key.
func (p *played) newest(c *credential) {
	p.t.Helper()
	if current, _ := p.platform.Keys("till-1"); c.key != current || c.sn != p.platform.Terminal("till-1") {
		p.t.Errorf("the call is signed with %q of %q, which is not the platform's newest key", c.key, c.sn)
	}
}

func (p *played) counts(activations, checkins int) {
	p.t.Helper()
	if a, c := p.platform.Activations(), p.platform.Checkins(); a != activations || c != checkins {
		p.t.Errorf("%d activations and %d check-ins, want %d and %d", a, c, activations, checkins)
	}
}

// calls counts the calls of an interface that came in.
func (p *played) calls(path string) (count int) {
	for _, call := range p.platform.Calls() {
		if call.Path == path {
			count++
		}
	}
	return count
}

// stored reads the record.
func (p *played) stored(storage seal.Storage) record {
	p.t.Helper()
	r, err := p.owner(storage).load(context.Background())
	if err != nil {
		p.t.Fatal(err)
	}
	return r
}

// eventually waits for what another goroutine does.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	testutil.Eventually(t, what, done)
}

func TestOneActivationForTwoServers(t *testing.T) {
	p := play(t, sandbox.ShouqianbaOptions{})
	root := t.TempDir()
	servers := []*keeper{p.start(&certmagic.FileStorage{Path: root}), p.start(&certmagic.FileStorage{Path: root})}
	var group sync.WaitGroup
	for i := range 50 {
		group.Go(func() {
			c, err := servers[i%2].credential(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			p.newest(c)
		})
	}
	group.Wait()
	p.counts(1, 0)
	if calls := p.calls(activatePath); calls != 1 {
		t.Errorf("%d activations were sent", calls)
	}
}

func TestMidnight(t *testing.T) {
	p := play(t, sandbox.ShouqianbaOptions{})
	p.clock.set("2026-11-24 23:59:58")
	k := p.start(newMemory())
	first := p.credential(k)
	p.newest(first)

	p.clock.set("2026-11-24 23:59:59")
	if c := p.credential(k); c.key != first.key {
		t.Error("the key changed before midnight")
	}
	p.counts(1, 0)

	p.clock.set("2026-11-25 00:00:01")
	second := p.credential(k)
	p.newest(second)
	if second.key == first.key {
		t.Error("the first call of the day is signed with yesterday's key")
	}
	p.counts(1, 1)
	if c := p.credential(k); c != second {
		t.Error("the second call of the day has another key")
	}
	p.counts(1, 1)
}

// TestMidnightWithoutCalls: nobody calls, and the terminal checks in all the same, half a minute after midnight here.
func TestMidnightWithoutCalls(t *testing.T) {
	p := play(t, sandbox.ShouqianbaOptions{})
	p.clock.set("2026-11-24 23:59:59")
	storage := newMemory()
	k := p.start(storage)
	p.credential(k)

	p.clock.set("2026-11-25 00:00:29")
	if wait := k.tick(); wait > time.Second {
		t.Errorf("looks again in %v, want within the second that is left", wait)
	}
	p.counts(1, 0)
	storage.mu.Lock()
	if storage.unbounded != 0 {
		t.Errorf("%d uses of the storage have no deadline: one that hangs would hold up a reload for ever", storage.unbounded)
	}
	storage.mu.Unlock()
	p.clock.set("2026-11-25 00:00:30")
	k.tick()
	eventually(t, "the check-in", func() bool { return p.stored(storage).Day == "2026-11-25" })
	p.counts(1, 1)
	eventually(t, "the end of the run", func() bool { return k.current.Load().day == "2026-11-25" })
	p.newest(k.current.Load())
	if wait := k.tick(); wait != time.Minute {
		t.Errorf("looks again in %v, want a minute", wait)
	}
	p.counts(1, 1)
}

func TestOneCheckinForTwoServers(t *testing.T) {
	p := play(t, sandbox.ShouqianbaOptions{})
	root := t.TempDir()
	servers := []*keeper{p.start(&certmagic.FileStorage{Path: root}), p.start(&certmagic.FileStorage{Path: root})}
	for _, k := range servers {
		p.credential(k)
	}
	for _, day := range []string{"2026-11-25", "2026-11-26", "2026-11-27"} {
		p.clock.set(day + " 00:00:01")
		var group sync.WaitGroup
		for i := range 50 {
			group.Go(func() {
				c, err := servers[i%2].credential(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				p.newest(c)
			})
		}
		group.Wait()
	}
	p.counts(1, 3)
	if calls := p.calls(checkinPath); calls != 3 {
		t.Errorf("%d check-ins were sent", calls)
	}
}

// TestRestart: another process finds the key; nothing is activated or checked in.
func TestRestart(t *testing.T) {
	p := play(t, sandbox.ShouqianbaOptions{})
	storage := newMemory()
	first := p.start(storage)
	key := p.credential(first).key
	if err := first.Destruct(); err != nil {
		t.Fatal(err)
	}
	if c := p.credential(p.start(storage)); c.key != key {
		t.Error("the new process has another key")
	}
	p.counts(1, 0)
}

func TestLostAnswer(t *testing.T) {
	for _, test := range []struct {
		name  string
		fault sandbox.FaultKind
	}{
		{"executed, and cut", sandbox.CutExecuted},
		{"executed, and cut in the middle of the answer", sandbox.CutBody},
		{"cut, not executed", sandbox.Cut},
		{"an error page", sandbox.ServerError},
		{"another page", sandbox.NotJSON},
		{"endless", sandbox.TooLarge},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := play(t, sandbox.ShouqianbaOptions{})
			storage := newMemory()
			k := p.start(storage)
			old := p.credential(k)
			p.clock.set("2026-11-25 08:00:00")
			p.platform.Break(sandbox.Fault{Kind: test.fault, Path: checkinPath})
			c := p.credential(k)
			p.newest(c)
			if calls := p.calls(checkinPath); calls != 2 {
				t.Errorf("%d check-ins were sent, want the first and its repetition", calls)
			}
			for _, call := range p.platform.Calls() {
				if call.Path == checkinPath && call.Header.Get("Authorization") != authorization(old.sn, old.key, call.Body) {
					t.Errorf("a check-in is not signed with the old key: %s", call.Header.Get("Authorization"))
				}
			}
			if r := p.stored(storage); r.Unseen != 0 || r.Key != c.key || r.Day != "2026-11-25" {
				t.Errorf("stored: unseen %d, of %s", r.Unseen, r.Day)
			}
		})
	}
}

// TestTwoLostAnswers is what the protocol cannot mend. The gateway says so, calls go on with the key that there is, and
// no third check-in follows at once.
func TestTwoLostAnswers(t *testing.T) {
	p := play(t, sandbox.ShouqianbaOptions{})
	storage := newMemory()
	k := p.start(storage)
	old := p.credential(k)
	p.clock.set("2026-11-25 08:00:00")
	p.platform.Break(sandbox.Fault{Kind: sandbox.CutExecuted, Path: checkinPath, Times: 2})
	if c := p.credential(k); c.key != old.key {
		t.Error("the call is signed with a key that nobody has seen")
	}
	if r := p.stored(storage); r.Unseen != 2 || r.Key != old.key {
		t.Errorf("stored: unseen %d", r.Unseen)
	}
	for range 10 {
		p.credential(k)
	}
	if calls := p.calls(checkinPath); calls != 2 {
		t.Errorf("%d check-ins were sent, want 2", calls)
	}
	if p.logged.FilterMessage("there is no key of today; calls are signed with the one that there is").Len() != 1 {
		t.Error("it is not logged that there is no key of today")
	}

	// Later it is tried again, and the platform refuses: both keys that it knows are others.
	p.clock.set("2026-11-25 08:00:11")
	k.wakeUp()
	eventually(t, "the third check-in", func() bool { return p.calls(checkinPath) == 3 })
	eventually(t, "the hint", func() bool {
		for _, entry := range p.logged.FilterField(zap.String("terminal", "till")).All() {
			if text, _ := entry.ContextMap()["error"].(string); strings.Contains(text, "2 earlier answers were lost") {
				return true
			}
		}
		return false
	})
}

func TestPlatformDownAtMidnight(t *testing.T) {
	p := play(t, sandbox.ShouqianbaOptions{})
	storage := newMemory()
	k := p.start(storage)
	old := p.credential(k)
	p.clock.set("2026-11-25 00:00:01")
	address := p.server.Listener.Addr().String()
	p.server.Close()
	for range 3 {
		if c := p.credential(k); c.key != old.key {
			t.Error("another key, although nobody has answered")
		}
	}
	if r := p.stored(storage); r.Unseen != 0 {
		t.Errorf("a check-in that was never sent counts as unseen: %d", r.Unseen)
	}

	// It comes back, and the terminal checks in without any call.
	p.server = serveAt(t, p.platform, address)
	p.clock.set("2026-11-25 00:00:41")
	k.wakeUp()
	eventually(t, "the check-in", func() bool { return p.platform.Checkins() == 1 })
	eventually(t, "the new key", func() bool { return k.current.Load().day == "2026-11-25" })
	p.newest(p.credential(k))
}

// serveAt serves at an address, where a test can serve again.
func serveAt(t testing.TB, handler http.Handler, address string) *httptest.Server {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(handler)
	server.Listener.Close()
	server.Listener = listener
	server.Start()
	t.Cleanup(server.Close)
	return server
}

// dying is the storage as a process sees it that dies after some writes: what it does then reaches nobody.
type dying struct {
	*memory
	mu     sync.Mutex
	writes int
}

func (d *dying) Store(ctx context.Context, key string, value []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.writes == 0 {
		return errors.New("dead")
	}
	d.writes--
	return d.memory.Store(ctx, key, value)
}

// TestCrash ends a process at each of its writes, and goes on with another one.
func TestCrash(t *testing.T) {
	for _, test := range []struct {
		name                  string
		writes                int // how many writes of the check-in (or activation) still happen
		activated             bool
		activations, checkins int // in the end
	}{
		{"before the check-in is noted", 0, true, 1, 1},
		{"after the check-in, before the new key is stored", 1, true, 1, 2},
		{"after the new key is stored", 2, true, 1, 1},
		{"before the activation is noted", 0, false, 1, 0},
		{"after the activation, before the key is stored", 1, false, 2, 0},
		{"after the first key is stored", 2, false, 1, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := play(t, sandbox.ShouqianbaOptions{Activations: 2})
			storage := newMemory()
			if test.activated {
				k := p.start(storage)
				p.credential(k)
				if err := k.Destruct(); err != nil {
					t.Fatal(err)
				}
				p.clock.set("2026-11-25 08:00:00")
			}
			k := p.start(&dying{memory: storage, writes: test.writes})
			_, _ = k.credential(t.Context())
			_ = k.Destruct()

			c := p.credential(p.start(storage))
			p.counts(test.activations, test.checkins)
			if current, _ := p.platform.Keys(c.sn); c.key != current {
				t.Error("the key is not the platform's newest one")
			}
			if r := p.stored(storage); r.Unseen != 0 || r.Key != c.key {
				t.Errorf("stored: unseen %d", r.Unseen)
			}
		})
	}
}

// TestStopStoresTheKey: the key that the storage would not take is stored when the server is stopped, if it can be then.
func TestStopStoresTheKey(t *testing.T) {
	p := play(t, sandbox.ShouqianbaOptions{})
	storage := newMemory()
	o, k := p.owner(storage), newKeeper()
	k.now = p.clock.Now
	k.adopt(o)
	p.credential(k)
	p.clock.set("2026-11-25 08:00:00")
	storage.failing(func(stores int) error {
		if stores > 1 {
			return errors.New("disk full")
		}
		return nil
	})
	p.credential(k)
	storage.failing(nil)
	k.release(o)
	if err := k.Destruct(); err != nil {
		t.Fatal(err)
	}
	current, _ := p.platform.Keys("till-1")
	if r := p.stored(storage); r.Key != current || r.Unseen != 0 {
		t.Error("stopping has lost the newest key")
	}
	p.counts(1, 1)
}

// TestNotUsedBeforeStored: the disk fills up between the check-in and the new key.
func TestNotUsedBeforeStored(t *testing.T) {
	p := play(t, sandbox.ShouqianbaOptions{})
	storage := newMemory()
	k := p.start(storage)
	old := p.credential(k)
	p.clock.set("2026-11-25 08:00:00")
	storage.failing(func(stores int) error {
		if stores > 1 {
			return errors.New("disk full")
		}
		return nil
	})
	if c := p.credential(k); c.key != old.key {
		t.Error("a key is used that is not stored")
	}
	if logged := p.logged.FilterMessageSnippet("there is no key of today").Len(); logged != 1 {
		t.Errorf("logged %d times", logged)
	}
	storage.failing(nil)
	p.clock.set("2026-11-25 08:00:11")
	k.wakeUp()
	eventually(t, "the new key", func() bool { return k.current.Load().day == "2026-11-25" })
	p.newest(p.credential(k))
	p.counts(1, 1)
	if r := p.stored(storage); r.Key != k.current.Load().key || r.Unseen != 0 {
		t.Errorf("stored: unseen %d, of %s", r.Unseen, r.Day)
	}
}

// TestUnsavedKeyIsOutdated: while one server could not store its key, another has checked in.
func TestUnsavedKeyIsOutdated(t *testing.T) {
	p := play(t, sandbox.ShouqianbaOptions{})
	storage := newMemory()
	k := p.start(storage)
	p.credential(k)
	p.clock.set("2026-11-25 08:00:00")
	storage.failing(func(stores int) error {
		if stores > 1 {
			return errors.New("disk full")
		}
		return nil
	})
	p.credential(k)
	storage.failing(nil)
	other := p.credential(p.start(storage))
	p.newest(other)
	p.clock.set("2026-11-25 08:00:11")
	k.wakeUp()
	eventually(t, "the other server's key", func() bool { return k.current.Load().key == other.key })
	p.counts(1, 2)
}

func TestRefusedSignature(t *testing.T) {
	p := play(t, sandbox.ShouqianbaOptions{})
	storage := newMemory()
	k := p.start(storage)
	mine := p.credential(k)

	// Another server checks in, whose clock is ahead.
	ahead := newKeeper()
	ahead.now = func() time.Time { return p.clock.Now().Add(13 * time.Hour) }
	ahead.adopt(p.owner(storage))
	t.Cleanup(func() { _ = ahead.Destruct() })
	theirs := p.credential(ahead)
	if theirs.key == mine.key {
		t.Fatal("the other server did not check in")
	}
	if c := p.credential(k); c != mine {
		t.Fatal("the key changed without a reason to look")
	}
	k.refused(mine)
	if c := p.credential(k); c.key != theirs.key {
		t.Error("the next call is not signed with the stored key")
	}
	for _, message := range []string{
		"the platform refuses the terminal's signature; the stored key is read again for the next call, this one is not repeated",
		"another server has checked the terminal in; the next call uses its key",
	} {
		if p.logged.FilterMessage(message).Len() != 1 {
			t.Errorf("not logged once: %s", message)
		}
	}

	// The stored key is refused too: it is read again once, not at each call.
	storage.mu.Lock()
	storage.loads = 0
	storage.mu.Unlock()
	for range 5 {
		k.refused(p.credential(k))
	}
	storage.mu.Lock()
	loads := storage.loads
	storage.mu.Unlock()
	if loads != 1 {
		t.Errorf("the storage was read %d times", loads)
	}
	if p.logged.FilterMessageSnippet("refuses the newest key that is stored").Len() != 1 {
		t.Error("not logged that the newest key is refused")
	}
	p.counts(1, 1)
	k.refused(mine) // an old call's late answer changes nothing
	if k.current.Load().until == 0 {
		t.Error("a late answer to a call with an old key makes the new one suspect")
	}
}

func TestActivationRefused(t *testing.T) {
	p := play(t, sandbox.ShouqianbaOptions{Activations: 1})
	p.credential(p.start(newMemory())) // uses the code up
	storage := newMemory()
	k := p.start(storage)
	for range 5 {
		_, err := k.credential(t.Context())
		if err == nil || !strings.Contains(err.Error(), "INVALID_PARAMS") || !strings.Contains(err.Error(), "激活码已经被使用") {
			t.Fatalf("credential: %v", err)
		}
	}
	if calls := p.calls(activatePath); calls != 2 {
		t.Errorf("%d activations were sent: a refused one is repeated at each call", calls)
	}
	if r := p.stored(storage); r.Unseen != 0 || r.Key != "" {
		t.Errorf("stored: %+v", r)
	}
}

func TestAnotherVendorKey(t *testing.T) {
	p := play(t, sandbox.ShouqianbaOptions{})
	storage := newMemory()
	p.credential(p.start(storage))
	o := p.owner(storage)
	box, err := seal.New("another key", "shouqianba terminal")
	if err != nil {
		t.Fatal(err)
	}
	o.slot.Box = box
	k := newKeeper()
	k.now = p.clock.Now
	k.adopt(o)
	t.Cleanup(func() { _ = k.Destruct() })
	if _, err := k.credential(t.Context()); !errors.Is(err, seal.ErrCannotOpen) || !strings.Contains(err.Error(), "vendor_key") {
		t.Errorf("credential: %v", err)
	}
	p.counts(1, 0)
	if r := p.stored(storage); r.Key == "" {
		t.Error("the stored key has been lost")
	}
}

// TestConfigurationsShareTheKeeper: a reload brings another owner, and takes the first one away.
func TestConfigurationsShareTheKeeper(t *testing.T) {
	p := play(t, sandbox.ShouqianbaOptions{})
	storage := newMemory()
	first, second := p.owner(storage), p.owner(storage)
	k := newKeeper()
	k.now = p.clock.Now
	if _, err := k.credential(t.Context()); !errors.Is(err, errNotStarted) {
		t.Errorf("before the start: %v", err)
	}
	k.adopt(first)
	t.Cleanup(func() { _ = k.Destruct() })
	key := p.credential(k).key
	k.adopt(second)
	k.release(first)
	if k.owner() != second || p.credential(k).key != key {
		t.Error("the second configuration does not look after the same terminal")
	}
	p.clock.set("2026-11-25 08:00:00")
	p.newest(p.credential(k))
	k.release(second)
	if p.credential(k).key == key { // calls that are still under way
		t.Error("the key is gone with the configuration")
	}
	p.counts(1, 1)
}

// TestStopWaitsForTheAnswer: the answer that is on its way is the newest key.
func TestStopWaitsForTheAnswer(t *testing.T) {
	p := play(t, sandbox.ShouqianbaOptions{})
	storage := newMemory()
	k := p.start(storage)
	p.credential(k)
	p.clock.set("2026-11-25 08:00:00")
	p.platform.Break(sandbox.Fault{Kind: sandbox.Slow, For: 300 * time.Millisecond, Path: checkinPath})
	k.wakeUp()
	eventually(t, "the check-in", func() bool { return p.calls(checkinPath) == 1 })
	if err := k.Destruct(); err != nil {
		t.Fatal(err)
	}
	current, _ := p.platform.Keys("till-1")
	if r := p.stored(storage); r.Key != current || r.Unseen != 0 {
		t.Error("stopping has lost the newest key")
	}
}

// TestSecretsStaySecret: in no log line, and in the storage only sealed.
func TestSecretsStaySecret(t *testing.T) {
	p := play(t, sandbox.ShouqianbaOptions{})
	storage := newMemory()
	k := p.start(storage)
	keys := []string{p.platform.Options().VendorKey, p.platform.Options().ActivationCode, p.credential(k).key}
	p.clock.set("2026-11-25 08:00:00")
	p.platform.Break(sandbox.Fault{Kind: sandbox.CutBody, Path: checkinPath}, sandbox.Fault{Kind: sandbox.NotJSON, Path: checkinPath})
	keys = append(keys, p.credential(k).key)
	p.clock.set("2026-11-25 08:10:00")
	k.wakeUp()
	eventually(t, "the new key", func() bool { return k.current.Load().day == "2026-11-25" })
	keys = append(keys, p.credential(k).key)
	current, previous := p.platform.Keys("till-1")
	keys = append(keys, current, previous)

	var seen strings.Builder
	encoder := zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig())
	for _, entry := range p.logged.All() {
		line, err := encoder.EncodeEntry(entry.Entry, entry.Context)
		if err != nil {
			t.Fatal(err)
		}
		seen.Write(line.Bytes())
	}
	for name, value := range storage.values {
		seen.WriteString(name)
		seen.Write(value)
	}
	if seen.Len() == 0 {
		t.Fatal("nothing was logged or stored")
	}
	for _, key := range keys {
		if strings.Contains(seen.String(), key) {
			t.Errorf("a secret shows in:\n%s", seen.String())
		}
	}
}

// TestMalformedAnswersAreNotQuoted: net/http's errors show the line that they stumble over, and a key may stand in it.
func TestMalformedAnswersAreNotQuoted(t *testing.T) {
	for name, answer := range map[string]string{
		"no status line": `{"result_code":"200","biz_response":{"terminal_sn":"1","terminal_key":"SECRET"}}` + "\r\n\r\n",
		"no empty line":  "HTTP/1.1 200 OK\r\n" + `{"biz_response" {"terminal_key" "SECRET"}}` + "\r\n\r\n",
		"length":         "HTTP/1.1 200 OK\r\nContent-Length: SECRET\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			go func() {
				connection, err := listener.Accept()
				if err != nil {
					return
				}
				defer connection.Close()
				if req, err := http.ReadRequest(bufio.NewReader(connection)); err == nil {
					_, _ = io.Copy(io.Discard, req.Body)
				}
				_, _ = io.WriteString(connection, answer)
			}()
			endpoint, _, err := outbound.ParseEndpoint("http://" + listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			owned, err := newOwner("till", identity{"1", "2", "till-1", "3"}, "vendor key", endpoint, zap.NewNop())
			if err != nil {
				t.Fatal(err)
			}
			_, err = owned.send(t.Context(), new(record))
			if err == nil || strings.Contains(err.Error(), "SECRET") {
				t.Errorf("error: %v", err)
			}
			if failed, ok := errors.AsType[*exchangeError](err); !ok || !failed.unseen {
				t.Errorf("the key may be lost, and %v does not say so", err)
			}
		})
	}
}

func TestReadKey(t *testing.T) {
	for _, test := range []struct {
		name, answer string
		key          string
		unseen       bool
		err          string
	}{
		{"a key", `{"result_code":"200","biz_response":{"terminal_sn":"1","terminal_key":"k"}}`, "k", false, ""},
		{"a numeric code", `{"result_code":200,"biz_response":{"terminal_sn":"1","terminal_key":"k"}}`, "k", false, ""},
		{"refused", `{"result_code":"400","error_code":"ILLEGAL_SIGN","error_message":"签名错误"}`, "", false, "ILLEGAL_SIGN"},
		{"refused by the business", `{"result_code":"200","biz_response":{"result_code":"FAIL","error_code":"X","error_message":"y"}}`, "", false, `"X"`},
		{"an error of the platform", `{"result_code":"500","error_code":"UNKNOWN_SYSTEM_ERROR"}`, "", true, "UNKNOWN_SYSTEM_ERROR"},
		{"no key", `{"result_code":"200","biz_response":{"terminal_sn":"1"}}`, "", true, ""},
		{"a key that cannot be right", `{"result_code":"200","biz_response":{"terminal_sn":"1","terminal_key":"a b"}}`, "", true, "character"},
		{"no JSON", `<html>`, "", true, "no JSON"},
		{"nothing", ``, "", true, "no JSON"},
		{"half an answer", `{"result_code":"200","biz_response":{"terminal_key":"secr`, "", true, "no JSON"},
		// The activation code stood in the log.
		{"the code repeated", `{"result_code":"400","error_code":"INVALID_PARAMS","error_message":"激活码12345678不存在"}`, "", false, `"激活码…不存在"`},
		{"the code repeated by the business", `{"result_code":"200","biz_response":{"result_code":"FAIL","error_code":"X","error_message":"12345678"}}`, "", false, `"X" ("…")`},
		{"long words", `{"result_code":"400","error_code":"` + strings.Repeat("x", 1000) + `"}`, "", false, "xxx"},
	} {
		t.Run(test.name, func(t *testing.T) {
			given, unseen, err := readKey(http.StatusOK, []byte(test.answer), "12345678")
			switch {
			case given.Key != test.key || unseen != test.unseen || (err == nil) != (test.key != ""):
				t.Errorf("readKey: %v, %v, %v", given.Key, unseen, err)
			case err != nil && (!strings.Contains(err.Error(), test.err) || strings.Contains(err.Error(), "secr") || strings.Contains(err.Error(), "12345678") || len(err.Error()) > 400):
				t.Errorf("readKey: %v", err)
			}
		})
	}
}

func TestIdentity(t *testing.T) {
	base := identity{"vendor", "app", "device", "code"}
	keys := map[string]bool{base.slotKey(): true}
	for _, other := range []identity{
		{"vendo", "rapp", "device", "code"}, {"vendor", "app", "devic", "ecode"}, {"vendor", "app", "device", "code2"},
		{"vendor", "app", "device2", "code"}, {"vendor", "app2", "device", "code"}, {"vendor2", "app", "device", "code"},
	} {
		if keys[other.slotKey()] {
			t.Errorf("%+v has the slot of another terminal", other)
		}
		keys[other.slotKey()] = true
	}
	if key := base.slotKey(); strings.Contains(key, "code") || certmagic.StorageKeys.Safe(strings.ReplaceAll(key, "/", "")) != strings.ReplaceAll(key, "/", "") {
		t.Errorf("slot key %s", key)
	}
}

func TestRecordStaysReadable(t *testing.T) {
	// What version 1 has stored must be read by every later one.
	var r record
	if err := json.Unmarshal([]byte(`{"terminal_sn":"1","terminal_key":"k","day":"2026-11-24","unseen":1}`), &r); err != nil ||
		r != (record{SN: "1", Key: "k", Day: "2026-11-24", Unseen: 1}) {
		t.Errorf("%+v, %v", r, err)
	}
}
