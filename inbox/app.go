// Package inbox keeps requests safe until the app has taken them: a handler that answers 202 once a request is stored
// durably, and delivers it through other handlers until it is taken, across restarts, reloads and crashes. It is useful
// behind any webhook and knows no platform.
//
// The way of a message: handler.go encodes the request (message.go) → Store.Put → 202; deliver.go leases it, decodes it,
// runs the `deliver` handlers, and settles it. The app owns the stores, which outlive a configuration (shared.go); a
// handler owns how its inbox's messages are delivered.
package inbox

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/internal/accounts"
	"github.com/caddy-chinaums/caddy-chinaums/internal/locale"
	"github.com/caddy-chinaums/caddy-chinaums/internal/routes"
)

func init() {
	caddy.RegisterModule(new(App))
}

// Defaults of an inbox.
const (
	defaultName     = "default"
	defaultMaxStore = 10 << 30
	defaultRemember = 30 * 24 * time.Hour
)

// App is the `inbox` app: the inboxes and where they keep their messages. A handler names its inbox; the inbox `default`
// exists even where no app is configured.
//
// In a Caddyfile:
//
//	{
//		inbox {
//			store bolt
//			max_store 10GiB
//			remember 30d
//		}
//	}
//
// In JSON:
//
//	{
//		"inboxes": {
//			"default": {
//				"store": {"store": "bolt"},
//				"max_store": 10737418240,
//				"remember": "30d"
//			}
//		}
//	}
type App struct {
	// The inboxes by name. A name is made of letters, digits, `.`, `_` and `-`, and begins with a letter or digit.
	Inboxes map[string]*Inbox `json:"inboxes,omitempty"`

	// The lock guards boxes: a handler may add the default inbox while the metrics are being scraped. What the
	// configuration's own life cycle calls reads them without it.
	lock  sync.RWMutex
	boxes map[string]*box

	metrics *metrics
	events  *caddyevents.App
	ctx     caddy.Context
	logger  *zap.Logger
}

// Inbox is one inbox.
type Inbox struct {
	// Where messages are kept. Default: `bolt`, a file under Caddy's data directory.
	StoreRaw json.RawMessage `json:"store,omitempty" caddy:"namespace=inbox.stores inline_key=store"`

	// How many bytes the messages may have in all, delivered and dead ones included; when it is full, requests of
	// delivered messages are dropped, then new requests are answered 503. Default: 10 GiB.
	MaxStore int64 `json:"max_store,omitempty"`

	// How long a delivered id is known, and answered 202 without a second delivery. Default: 30d.
	Remember caddy.Duration `json:"remember,omitempty"`
}

// box is an inbox of one configuration.
type box struct {
	name     string
	provider Provider
	key      storeKey
	settings Settings
	logger   *zap.Logger // with the inbox's name
	delivery *delivery   // nil: no handler delivers its messages
	intake   *Handler    // the first that takes requests into it; nil: none does

	// The store, from Start on. It stays when the configuration is put away: requests may still be under way then, and
	// the store itself knows whether it is closed.
	store  atomic.Pointer[shared]
	opened chan struct{} // closed when it is there
	held   bool          // whether this configuration has a reference to the store
}

// CaddyModule returns the Caddy module information.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "inbox",
		New: func() caddy.Module { return new(App) },
	}
}

// Provision loads the inboxes' stores, which are opened at the start only.
func (a *App) Provision(ctx caddy.Context) error {
	a.ctx, a.logger, a.boxes = ctx, ctx.Logger(), make(map[string]*box)
	events, err := ctx.App("events")
	if err != nil {
		return locale.Errorf("getting events app: %w", err)
	}
	a.events = events.(*caddyevents.App)
	for _, name := range slices.Sorted(maps.Keys(a.Inboxes)) {
		if err := a.add(name, a.Inboxes[name]); err != nil {
			return locale.Errorf("inbox %s: %w", name, err)
		}
	}
	if a.metrics, err = newMetrics(ctx.GetMetricsRegistry(), a); err != nil {
		return locale.Errorf("registering metrics: %w", err)
	}
	return nil
}

func (a *App) add(name string, config *Inbox) error {
	if err := accounts.CheckName(name); err != nil {
		return err
	}
	if config == nil {
		config = new(Inbox)
	}
	switch {
	case config.MaxStore < 0:
		return locale.Errorf("max_store: must be positive")
	case config.Remember < 0:
		return locale.Errorf("remember: must be positive")
	}
	if len(config.StoreRaw) == 0 {
		config.StoreRaw = json.RawMessage(`{"store":"bolt"}`)
	}
	module, err := a.ctx.LoadModule(config, "StoreRaw")
	if err != nil {
		return locale.Errorf("store: %w", err)
	}
	provider, ok := module.(Provider)
	if !ok {
		return fmt.Errorf("store: %T keeps no messages", module)
	}
	b := &box{
		name: name, provider: provider, key: storeKey{string(module.(caddy.Module).CaddyModule().ID), provider.Key(name)},
		logger: a.logger.With(zap.String("inbox", name)), opened: make(chan struct{}),
		settings: Settings{
			MaxBytes: cmp.Or(config.MaxStore, defaultMaxStore), Remember: cmp.Or(time.Duration(config.Remember), defaultRemember),
			Lease: defaultTimeout, MaxDelay: time.Hour,
		},
	}
	for _, other := range a.boxes {
		if other.key == b.key {
			return locale.Errorf("store: it is the same as that of inbox %s (%s); each needs its own", other.name, b.key.name)
		}
	}
	a.lock.Lock()
	a.boxes[name] = b
	a.lock.Unlock()
	return nil
}

// claim returns the inbox that a handler names.
func (a *App) claim(name string) (*box, error) {
	if a.boxes[name] == nil {
		if name != defaultName {
			return nil, locale.Errorf("there is no inbox %s; add `inbox %s { … }` to the global options", name, name)
		}
		if err := a.add(name, nil); err != nil {
			return nil, locale.Errorf("inbox %s: %w", name, err)
		}
	}
	return a.boxes[name], nil
}

// box returns an inbox, or nil. Others than the configuration's own life cycle ask it.
func (a *App) box(name string) *box {
	a.lock.RLock()
	defer a.lock.RUnlock()
	return a.boxes[name]
}

// Names are the names of the inboxes, in order.
func (a *App) Names() []string {
	a.lock.RLock()
	defer a.lock.RUnlock()
	return slices.Sorted(maps.Keys(a.boxes))
}

// Lookup returns the store of an inbox; it is not there before the start, unless another configuration has it open.
func (a *App) Lookup(name string) (Store, bool) {
	if b := a.box(name); b != nil {
		if store := b.current(); store != nil {
			return store, true
		}
	}
	return nil, false
}

// lookAround warns of a webhook_signature in front of an inbox: it would sign once, when the request is stored, and an app
// refuses what was signed long ago.
func (a *App) lookAround() {
	routes.Walk(a.ctx, func(_ *caddyhttp.Server, way []routes.Step) {
		last := way[len(way)-1]
		h, ok := last.Handler.(*Handler)
		if !ok || h.signs {
			return
		}
		for _, step := range way[:len(way)-1] {
			module, ok := step.Handler.(caddy.Module)
			if ok && module.CaddyModule().ID == "http.handlers.webhook_signature" && (len(step.Matchers) == 0 || reflect.DeepEqual(step.Matchers, last.Matchers)) {
				a.logger.Warn("webhook_signature stands in front of inbox, so that it signs once: an app refuses later deliveries as too old; move it into deliver",
					zap.String("inbox", h.Inbox))
				return
			}
		}
	})
}

// Start opens the stores, or takes them over from the configuration before, and begins to deliver.
func (a *App) Start() error {
	a.lookAround()
	for _, name := range a.Names() {
		if err := a.boxes[name].open(); err != nil {
			return locale.Errorf("inbox %s: %w", name, err)
		}
	}
	for _, name := range a.Names() {
		b := a.boxes[name]
		if b.delivery == nil {
			b.logger.Warn("no handler delivers this inbox's messages; they wait")
			continue
		}
		b.delivery.start(a, b)
	}
	return nil
}

// Stop ends the deliveries: those in flight are waited for.
func (a *App) Stop() error {
	grace := time.Duration(0)
	if app, err := a.ctx.AppIfConfigured("http"); err == nil {
		grace = time.Duration(app.(*caddyhttp.App).GracePeriod)
	}
	a.halt(grace)
	return nil
}

func (a *App) halt(grace time.Duration) {
	var all sync.WaitGroup
	for _, b := range a.boxes {
		if b.delivery != nil {
			all.Go(func() { b.delivery.stop(grace) })
		}
	}
	all.Wait()
}

// Cleanup gives the stores back; the last configuration that had one closes it. It also runs after a Start that failed.
func (a *App) Cleanup() error {
	a.halt(0)
	var failed []error
	for _, name := range a.Names() {
		if err := a.boxes[name].release(); err != nil {
			failed = append(failed, fmt.Errorf("inbox %s: closing: %w", name, err))
		}
	}
	return errors.Join(failed...)
}

// emit tells the rest of Caddy.
func (a *App) emit(event string, data map[string]any) {
	ctx := a.ctx
	ctx.Context = context.WithoutCancel(ctx.Context) // it ends before the deliveries that a reload waits for
	a.events.Emit(ctx, event, data)
}

// Interface guards
var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
)
