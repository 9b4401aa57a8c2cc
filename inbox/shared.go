package inbox

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// stores are the open stores of all configurations: at a reload the new one runs before the old one has ended.
var stores = caddy.NewUsagePool()

// opened finds an open store by its key, without a reference to it: UsagePool has no way to do that.
var opened sync.Map // of storeKey to *shared

// storeKey names what is exclusive: the kind of store and, say, its file.
type storeKey struct{ module, name string }

// openTimeout bounds how long a store may take to open.
const openTimeout = time.Minute

// shared is an open store, which outlives the configurations that use it, and what must outlive them with it. Once it is
// closed, it answers ErrClosed to requests of a configuration that has gone.
type shared struct {
	Store
	key storeKey
	log atomic.Pointer[zap.Logger] // of the newest configuration

	mu    sync.Mutex
	users []*box // of each configuration, oldest first

	// Whether the app takes messages, requests can be stored, and messages can be leased and settled.
	taking, storing, leasing condition

	// The ids of messages given up, the last ones at least: they come back as if they were new.
	deadMu sync.Mutex
	dead   map[string]struct{}
}

func (b *box) open() error {
	value, _, err := stores.LoadOrNew(b.key, func() (caddy.Destructor, error) {
		s := &shared{key: b.key}
		s.log.Store(b.logger)
		ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
		defer cancel()
		core := currentCore{func() zapcore.Core { return s.log.Load().Core() }}
		store, err := b.provider.Open(ctx, b.name, b.settings, zap.New(core).Named("inbox"))
		if err != nil {
			return nil, err
		}
		s.Store = store
		opened.Store(b.key, s)
		return s, nil
	})
	if err != nil {
		return err
	}
	s := value.(*shared)
	if err := s.use(b); err != nil {
		_, _ = stores.Delete(b.key)
		return err
	}
	b.held = true
	b.store.Store(s)
	close(b.opened)
	return nil
}

// current is the store, nil if it is not open. Before a new configuration starts, it is the store of the former one, which
// is closed only after that start.
func (b *box) current() *shared {
	if s := b.store.Load(); s != nil {
		return s
	}
	if s, ok := opened.Load(b.key); ok {
		return s.(*shared)
	}
	return nil
}

// await waits until the store is open: Caddy starts apps in any order, so that the http app may serve before this one has
// started. It returns nil after putPatience, or if ctx or the configuration ends before.
func (b *box) await(ctx context.Context, ended <-chan struct{}) *shared {
	if s := b.current(); s != nil {
		return s
	}
	ctx, cancel := context.WithTimeout(ctx, putPatience)
	defer cancel()
	select {
	case <-b.opened:
	case <-ctx.Done():
	case <-ended: // an app could not be started
	}
	return b.store.Load()
}

func (b *box) release() error {
	if !b.held {
		return nil
	}
	b.held = false
	b.store.Load().leave(b)
	_, err := stores.Delete(b.key)
	return err
}

// use makes b's settings those of the store.
func (s *shared) use(b *box) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.users) > 0 {
		if err := s.Configure(b.settings); err != nil {
			return err
		}
	}
	s.users = append(s.users, b)
	s.log.Store(b.logger)
	return nil
}

// leave gives the store the settings of the configuration that remains: the old one, if the new one failed to start.
func (s *shared) leave(b *box) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users = slices.DeleteFunc(s.users, func(other *box) bool { return other == b })
	if len(s.users) == 0 {
		return
	}
	newest := s.users[len(s.users)-1]
	s.log.Store(newest.logger)
	if err := s.Configure(newest.settings); err != nil {
		newest.logger.Error("the inbox's settings could not be taken back", zap.Error(err))
	}
}

// Destruct implements caddy.Destructor.
func (s *shared) Destruct() error {
	opened.CompareAndDelete(s.key, s)
	return s.Close()
}

// mostDead is how many ids of dead messages are remembered.
const mostDead = 1000

func (s *shared) died(id string) {
	s.deadMu.Lock()
	defer s.deadMu.Unlock()
	if s.dead == nil || len(s.dead) >= mostDead {
		s.dead = make(map[string]struct{})
	}
	s.dead[id] = struct{}{}
}

// wasDead reports whether a message was given up, once.
func (s *shared) wasDead(id string) bool {
	s.deadMu.Lock()
	defer s.deadMu.Unlock()
	_, was := s.dead[id]
	delete(s.dead, id)
	return was
}

// failing is what is known of something that has been failing.
type failing struct {
	since time.Time // zero: it has not
	times int
}

// ended tells the log, and the rest of Caddy, that it does so no more.
func (f failing) ended(inbox, text string, logger *zap.Logger, emit func(event string, data map[string]any)) {
	if !f.since.IsZero() {
		logger.Info(text, zap.Time("since", f.since), zap.Int("failures", f.times))
		emit("inbox.recovered", map[string]any{"inbox": inbox, "since": f.since, "failures": f.times})
	}
}

// condition remembers since when something has been failing.
type condition struct {
	mu    sync.Mutex
	known bool // whether it has passed or failed yet
	now   failing
}

func (c *condition) failed(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now.since.IsZero() {
		c.now = failing{since: now}
	}
	c.known = true
	c.now.times++
}

// passed says that it works, and returns how it has been failing before.
func (c *condition) passed() failing { return c.passedAfter(time.Time{}, 0) }

// passedAfter does the same for what is known to have failed before, maybe before this process began.
func (c *condition) passedAfter(since time.Time, times int) failing {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := failing{since, times}
	if c.known {
		before = c.now
	}
	c.known, c.now = true, failing{}
	return before
}

// currentCore logs to the newest configuration's logger: a store outlives the one that it was opened by, and that one's
// log files.
type currentCore struct{ current func() zapcore.Core }

// Enabled implements zapcore.LevelEnabler.
func (c currentCore) Enabled(level zapcore.Level) bool { return c.current().Enabled(level) }

// With implements zapcore.Core.
func (c currentCore) With(fields []zap.Field) zapcore.Core {
	return currentCore{func() zapcore.Core { return c.current().With(fields) }}
}

// Check implements zapcore.Core: the current one writes.
func (c currentCore) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	return c.current().Check(entry, checked)
}

// Write implements zapcore.Core.
func (c currentCore) Write(entry zapcore.Entry, fields []zap.Field) error {
	return c.current().Write(entry, fields)
}

// Sync implements zapcore.Core.
func (c currentCore) Sync() error { return c.current().Sync() }

// Interface guards
var (
	_ Store            = (*shared)(nil)
	_ caddy.Destructor = (*shared)(nil)
	_ zapcore.Core     = currentCore{}
)
