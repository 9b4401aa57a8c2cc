package watched

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/internal/inbound"
	"github.com/caddy-chinaums/caddy-chinaums/internal/locale"
	"github.com/caddy-chinaums/caddy-chinaums/internal/outbound"
	"github.com/caddy-chinaums/caddy-chinaums/watch"
)

// Headers of the guard.
const (
	GuardHeader    = "Gateway-Guard"
	OverrideHeader = "Gateway-Guard-Override"
)

// What takes its time.
const (
	openTimeout = time.Minute      // for a store to open
	patience    = 10 * time.Second // for whoever comes before it is open: Caddy starts apps in any order
)

// Parts are what differs between platforms.
type Parts struct {
	Name     string              // of the app, which is the watch's
	Orders   []caddy.Duration    // default of the option orders
	Platform watch.Platform      // what its calls and answers mean
	Send     watch.Sender        // sends a query
	Label    func(string) string // an event's type as a label of metrics, from a bounded set

	// Prepare returns what Classify reads in place of a call's body, so that an order which calls may name in several ways has
	// one number, or why the call must not be sent. With `refunds` warn or off such a call is sent all the same, and what is
	// returned with the refusal is read; nil: nothing. A nil Prepare: Classify reads the body.
	Prepare func(ctx context.Context, call *outbound.Call) ([]byte, *watch.Refusal)
}

// Watched is the watch of one configuration's app. Its methods may be called on nil: then nobody follows anything.
type Watched struct {
	config   *Config
	parts    Parts
	provider watch.Provider
	key      storeKey
	intake   Intake
	names    func() []string // placeholders by which the inbox tells messages apart
	ctx      caddy.Context
	events   *caddyevents.App
	logger   *zap.Logger
	metrics  *metrics

	structured, otherwise bool // some notify handlers give the app structured CloudEvents, some do not

	opened chan struct{} // closed when shared is there
	shared atomic.Pointer[shared]
	held   bool
}

// storeKey names what is exclusive: the kind of store and, say, its file.
type storeKey struct{ module, name string }

// shared is a watch that outlives the configurations that use it.
type shared struct {
	*watch.Watch
	key   storeKey
	name  string // of the app whose orders these are
	store watch.Store

	mu    sync.Mutex
	users []*Watched // of each configuration, oldest first
}

// watches are the open ones of all configurations: at a reload the new one runs before the old one has ended.
var watches = caddy.NewUsagePool()

// open finds one by its key, without a reference to it.
var open sync.Map // of storeKey to *shared

// New checks the options, and finds the store and the inbox. Nil and nil: there is no watch.
func New(ctx caddy.Context, config *Config, parts Parts) (*Watched, error) {
	if config == nil {
		return nil, nil
	}
	w := &Watched{config: config, parts: parts, ctx: ctx, logger: ctx.Logger().Named("watch"), opened: make(chan struct{})}
	config.setDefaults(parts.Orders)
	if err := config.check(); err != nil {
		return nil, locale.Errorf("watch: %w", err)
	}
	if len(config.StoreRaw) == 0 {
		config.StoreRaw = json.RawMessage(`{"store":"bolt"}`)
	}
	module, err := ctx.LoadModule(config, "StoreRaw")
	if err != nil {
		return nil, locale.Errorf("watch: store: %w", err)
	}
	provider, ok := module.(watch.Provider)
	if !ok {
		return nil, fmt.Errorf("watch: store: %T keeps no orders", module)
	}
	w.provider, w.key = provider, storeKey{string(module.(caddy.Module).CaddyModule().ID), provider.Key(parts.Name)}
	app, err := ctx.App("inbox")
	if err != nil {
		return nil, locale.Errorf("watch: inbox: %w", err)
	}
	inbox, ok := app.(interface {
		Intake(name string) (func(ctx context.Context, r *http.Request, content []byte, again bool) error, error)
		Placeholders(name string) []string
	})
	if !ok {
		return nil, fmt.Errorf("watch: inbox: %T takes no events", app)
	}
	if w.intake, err = inbox.Intake(config.Inbox); err != nil {
		return nil, locale.Errorf("watch: inbox: %w", err)
	}
	w.names = func() []string { return inbox.Placeholders(config.Inbox) }
	events, err := ctx.App("events")
	if err != nil {
		return nil, locale.Errorf("getting events app: %w", err)
	}
	w.events = events.(*caddyevents.App)
	if w.metrics, err = newMetrics(ctx.GetMetricsRegistry(), w); err != nil {
		return nil, locale.Errorf("registering metrics: %w", err)
	}
	return w, nil
}

// Notifies says in which format a notify handler gives the app its events, while the configuration is loaded. Where each of them
// has cloudevents, so has what a query has found; else it is JSON.
func (w *Watched) Notifies(format string) {
	switch {
	case w == nil:
	case format == inbound.FormatCloudEvents:
		w.structured = true
	default:
		w.otherwise = true
	}
	if w != nil && format == inbound.FormatOriginal {
		w.logger.Warn("what a query has found has no original: the app gets it as JSON, not as a form with a signature", zap.String("option", "format original"))
	}
}

// Start opens the store, or takes it over from the configuration before.
func (w *Watched) Start() error {
	if w == nil {
		return nil
	}
	if err := checkNames(w.parts.Name, w.names()); err != nil { // the inbox's handlers are provisioned by now
		return locale.Errorf("watch: inbox: %w", err)
	}
	value, loaded, err := watches.LoadOrNew(w.key, func() (caddy.Destructor, error) {
		ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
		defer cancel()
		store, err := w.provider.Open(ctx, w.parts.Name, w.logger)
		if err != nil {
			return nil, err
		}
		s := &shared{key: w.key, name: w.parts.Name, store: store, Watch: watch.Start(store, watch.Clock{}, w.config.settings(), w.watchParts())}
		open.Store(w.key, s)
		return s, nil
	})
	if err != nil {
		return locale.Errorf("watch: %w", err)
	}
	s := value.(*shared)
	if s.name != w.parts.Name {
		_, _ = watches.Delete(w.key) // the other platform's app has it still
		return locale.Errorf("watch: store: %s has its orders there; give each platform a store of its own", s.name)
	}
	s.mu.Lock()
	if loaded {
		s.Configure(w.config.settings(), w.watchParts())
	}
	s.users = append(s.users, w)
	s.mu.Unlock()
	w.held = true
	w.shared.Store(s)
	close(w.opened)
	if !s.store.Shared() {
		w.logger.Debug("the guard knows what went through this gateway only; a fleet needs a store that is shared")
	}
	return nil
}

func (w *Watched) watchParts() watch.Parts {
	return watch.Parts{
		Platform: w.parts.Platform, Send: w.parts.Send, Teller: (*teller)(w), Logger: w.logger, Count: w.metrics.count, Emit: w.emit,
	}
}

// Cleanup gives the watch back; the last configuration that had it closes it. It also runs after a Start that failed: then the
// configuration before goes on with its own settings.
func (w *Watched) Cleanup() error {
	if w == nil || !w.held {
		return nil
	}
	w.held = false
	s := w.shared.Load()
	s.mu.Lock()
	s.users = slices.DeleteFunc(s.users, func(other *Watched) bool { return other == w })
	if n := len(s.users); n > 0 {
		newest := s.users[n-1]
		s.Configure(newest.config.settings(), newest.watchParts())
	}
	s.mu.Unlock()
	_, err := watches.Delete(w.key)
	return err
}

// Destruct implements caddy.Destructor.
func (s *shared) Destruct() error {
	open.CompareAndDelete(s.key, s)
	s.Watch.Close()
	return s.store.Close()
}

// Watch is the watch, nil if it is not open.
func (w *Watched) Watch() *watch.Watch {
	if s := w.current(); s != nil {
		return s.Watch
	}
	return nil
}

// current is the open watch. Before a new configuration starts, it is that of the former one; if it has another platform's orders,
// the new one will not start.
func (w *Watched) current() *shared {
	if s := w.shared.Load(); s != nil {
		return s
	}
	if value, ok := open.Load(w.key); ok {
		if s := value.(*shared); s.name == w.parts.Name {
			return s
		}
	}
	return nil
}

// await waits until the watch is open; nil: it is not.
func (w *Watched) await(ctx context.Context) *shared {
	if s := w.current(); s != nil {
		return s
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case <-w.opened:
	case <-ctx.Done():
	case <-w.ctx.Done(): // an app could not be started
	}
	return w.shared.Load()
}

// emit tells the rest of Caddy.
func (w *Watched) emit(what string, order *watch.Order) {
	ctx := w.ctx
	ctx.Context = context.WithoutCancel(ctx.Context) // it ends before the calls that a reload waits for
	w.events.Emit(ctx, w.parts.Name+"."+what, map[string]any{
		"merchant": order.Merchant, "order": order.ID, "state": string(order.State), "ordered": order.Amount, "paid": order.Paid,
	})
}

// Calls is what a guard tells of its calls; nil where there is no watch.
func (w *Watched) Calls() outbound.Watch {
	if w == nil {
		return nil
	}
	return w
}

// The words for the guard's refusals.
const (
	reasonBusy        = "busy"
	reasonUnresolved  = "refund_unresolved"
	reasonRefund      = "refund"
	reasonUnavailable = "watch_unavailable"
)

var reasons = map[string]string{
	watch.CodeBusy: reasonBusy, watch.CodeUnresolved: reasonUnresolved, watch.CodeInvalid: reasonRefund, watch.CodeUnavailable: reasonUnavailable,
}

// Before implements outbound.Watch.
func (w *Watched) Before(r *http.Request, header http.Header, call *outbound.Call) (outbound.After, *outbound.Error) {
	content, refusal := w.prepare(r.Context(), call)
	if refusal != nil {
		return nil, refused(header, refusal)
	}
	s := w.current()
	if s == nil {
		as, ok := w.parts.Platform.Classify(call.Path(), content)
		if !ok {
			return nil, nil
		}
		if s = w.await(r.Context()); s == nil {
			w.metrics.count("unwritten", string(as.Kind))
			if w.config.Refunds != watch.Off && as.Kind.Money() {
				return nil, refused(header, watch.Unavailable())
			}
			return nil, nil
		}
	}
	ticket, refusal := s.Watch.Before(r.Context(), call.Account.Name(), path.Clean(call.Path()), content, r.Header.Get(OverrideHeader))
	if refusal != nil {
		return nil, refused(header, refusal)
	}
	if ticket == nil {
		return nil, nil
	}
	if ticket.Guard != "" {
		header.Set(GuardHeader, ticket.Guard)
	}
	return func(outcome outbound.Outcome, errCode string, status int, answer []byte) (told func(heard bool)) {
		became := watch.Outcome(outcome)
		if outcome == outbound.NotSent && errCode == "" { // a link: there was nobody to call
			became = watch.Answered
		}
		if status != http.StatusOK {
			answer = nil // whatever it says, it is not the interface's own answer
		}
		ticket.Unheard = r.Context().Err() != nil
		return s.After(ticket, became, errCode, answer)
	}, nil
}

// prepare returns what Classify reads, or why the call must not be sent.
func (w *Watched) prepare(ctx context.Context, call *outbound.Call) ([]byte, *watch.Refusal) {
	if w.parts.Prepare == nil {
		return call.Body, nil
	}
	content, refusal := w.parts.Prepare(ctx, call)
	if refusal == nil || w.config.Refunds == watch.Enforce {
		return content, refusal
	}
	if w.config.Refunds == watch.Warn {
		w.logger.Warn("the watch would refuse this refund", zap.String("merchant", call.Account.Name()), zap.String("path", call.Path()),
			zap.String("err_code", refusal.Code), zap.String("why", refusal.English))
	}
	return content, nil
}

func refused(header http.Header, why *watch.Refusal) *outbound.Error {
	if why.RetryAfter > 0 {
		header.Set("Retry-After", strconv.Itoa(int(why.RetryAfter/time.Second)))
	}
	return &outbound.Error{
		Status: why.Status, Code: why.Code, Outcome: outbound.NotSent, Reason: reasons[why.Code], Chinese: why.Chinese, English: why.English,
	}
}

// Interface guards
var (
	_ caddy.Destructor = (*shared)(nil)
	_ outbound.Watch   = (*Watched)(nil)
)
