package inbox_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
	"github.com/caddy-chinaums/caddy-chinaums/inbox/storetest"
	"github.com/caddy-chinaums/caddy-chinaums/internal/testutil"
)

// A gateway in this process, without a listener: the http app's server is asked directly. Its app, its store and what
// it emits are here too; each belongs to the test that names it.

func init() {
	testutil.TempOnDisk()
	caddy.RegisterModule(memoryStores{})
	caddy.RegisterModule(testApp{})
	caddy.RegisterModule(testEvents{})
	caddy.RegisterModule(testLog{})
}

var things struct {
	sync.Mutex
	memories map[string]*storetest.Memory
	apps     map[string]func(http.ResponseWriter, *http.Request) error
	events   map[string]chan caddy.Event
	logs     map[string]*logged
	open     map[string]error // why a store cannot be opened
	wraps    map[string]func(inbox.Store) inbox.Store
	clocks   map[string]func() time.Time
}

// names are what the tests' things are called: another at each run of one, since Caddy keeps its logs open.
var names sync.Map // of testing.TB to string

var namesGiven atomic.Int64

func nameOf(t testing.TB) string {
	name, known := names.LoadOrStore(t, fmt.Sprint(t.Name(), " ", namesGiven.Add(1)))
	if !known {
		t.Cleanup(func() {
			forget(name.(string))
			names.Delete(t)
		})
	}
	return name.(string)
}

// forget removes what belongs to a test.
func forget(name string) {
	things.Lock()
	defer things.Unlock()
	delete(things.memories, name)
	delete(things.apps, name)
	delete(things.events, name)
	delete(things.logs, name)
	delete(things.open, name)
	delete(things.wraps, name)
	delete(things.clocks, name)
}

func remember[T any](where *map[string]T, name string, thing T) {
	things.Lock()
	defer things.Unlock()
	if *where == nil {
		*where = make(map[string]T)
	}
	(*where)[name] = thing
}

func recall[T any](where *map[string]T, name string) (T, bool) {
	things.Lock()
	defer things.Unlock()
	thing, ok := (*where)[name]
	return thing, ok
}

// memoryStores is `store memory`.
type memoryStores struct {
	Name string `json:"name,omitempty"`
}

func (memoryStores) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "inbox.stores.memory", New: func() caddy.Module { return new(memoryStores) }}
}

func (s *memoryStores) Key(string) string { return s.Name }
func (s *memoryStores) Ordered() error    { return nil }

func (s *memoryStores) Open(ctx context.Context, _ string, settings inbox.Settings, logger *zap.Logger) (inbox.Store, error) {
	if err, ok := recall(&things.open, s.Name); ok {
		return nil, err
	}
	if _, ok := ctx.Deadline(); !ok {
		return nil, errors.New("a store may take for ever to open")
	}
	now, ok := recall(&things.clocks, s.Name)
	if !ok {
		now = time.Now
	}
	logger.Info("store opened")
	memory := storetest.NewMemory(settings, now)
	remember(&things.memories, s.Name, memory)
	if wrap, ok := recall(&things.wraps, s.Name); ok {
		return wrap(memory), nil
	}
	return memory, nil
}

// testApp is the handler `inbox_test_app`, which plays the app.
type testApp struct {
	Name string `json:"name,omitempty"`
}

func (testApp) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.inbox_test_app", New: func() caddy.Module { return new(testApp) }}
}

func (a *testApp) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	app, ok := recall(&things.apps, a.Name)
	if !ok {
		return next.ServeHTTP(w, r)
	}
	return app(w, r)
}

// testEvents hands events to a channel.
type testEvents struct {
	Name string `json:"name,omitempty"`
}

func (testEvents) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.inbox_test_events", New: func() caddy.Module { return new(testEvents) }}
}

func (e *testEvents) Handle(_ context.Context, event caddy.Event) error {
	if events, ok := recall(&things.events, e.Name); ok {
		events <- event
	}
	return nil
}

// testLog is a log output that a test can read.
type testLog struct {
	Name string `json:"name,omitempty"`
}

func (testLog) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.logging.writers.inbox_test_log", New: func() caddy.Module { return new(testLog) }}
}

func (l testLog) String() string    { return "inbox_test_log " + l.Name }
func (l testLog) WriterKey() string { return l.String() }
func (l testLog) OpenWriter() (io.WriteCloser, error) {
	log, _ := recall(&things.logs, l.Name)
	return log, nil
}

type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) Close() error { return nil }

// lines returns the lines so far that hold all of the words.
func (l *logged) lines(words ...string) (found []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.b.String()) {
		all := true
		for _, word := range words {
			all = all && strings.Contains(line, word)
		}
		if all {
			found = append(found, line)
		}
	}
	return found
}

// gateway is one configuration.
type gateway struct {
	t      testing.TB
	name   string
	app    *inbox.App
	server *caddyhttp.Server
	ctx    caddy.Context
	log    *logged
	events chan caddy.Event
	ended  bool
}

// options are a test's configuration.
type options struct {
	name    string         // of the store and the app; default: the test's
	handler map[string]any // of the inbox handler, beside id and deliver
	inbox   map[string]any // of the inbox app's inbox `default`, beside the store
	http    map[string]any // of the http app, beside the servers
	second  map[string]any // another handler, behind /second
	idle    bool           // no handler
	front   map[string]any // a handler in front of the inbox handler
	clock   func() time.Time
	app     func(http.ResponseWriter, *http.Request) error
}

func (o options) document(t testing.TB) *caddy.Config {
	t.Helper()
	handler := func(options map[string]any) map[string]any {
		all := map[string]any{
			"handler": "inbox", "id": "{http.request.header.Id}", "retry": []string{"1ms"},
			"deliver": map[string]any{"handler": "subroute", "routes": []any{map[string]any{
				"handle": []any{map[string]any{"handler": "inbox_test_app", "name": o.name}},
			}}},
		}
		for name, value := range options {
			all[name] = value
			if value == nil {
				delete(all, name)
			}
		}
		return all
	}
	box := map[string]any{"store": map[string]any{"store": "memory", "name": o.name}}
	for name, value := range o.inbox {
		box[name] = value
	}
	routes := []any{map[string]any{"handle": []any{handler(o.handler)}}}
	if o.second != nil {
		routes = append([]any{map[string]any{"match": []any{map[string]any{"path": []string{"/second"}}}, "handle": []any{handler(o.second)}, "terminal": true}}, routes...)
	}
	if o.front != nil {
		routes = append([]any{map[string]any{"handle": []any{o.front}}}, routes...)
	}
	if o.idle {
		routes = nil
	}
	httpApp := map[string]any{"servers": map[string]any{"srv": map[string]any{
		"listen": []string{"127.0.0.1:0"}, "automatic_https": map[string]any{"disable": true}, "logs": map[string]any{}, "routes": routes,
	}}}
	for name, value := range o.http {
		httpApp[name] = value
	}
	document, err := json.Marshal(map[string]any{
		"admin": map[string]any{"disabled": true, "config": map[string]any{"persist": false}},
		"logging": map[string]any{"logs": map[string]any{"default": map[string]any{
			"writer": map[string]any{"output": "inbox_test_log", "name": o.name}, "level": "DEBUG", "encoder": map[string]any{"format": "json"},
		}}},
		"apps": map[string]any{
			"inbox": map[string]any{"inboxes": map[string]any{"default": box}},
			"http":  httpApp,
			"events": map[string]any{"subscriptions": []any{map[string]any{
				"events": []string{"inbox.dead_letter", "inbox.recovered"}, "handlers": []any{map[string]any{"handler": "inbox_test_events", "name": o.name}},
			}}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	config := new(caddy.Config)
	if err := json.Unmarshal(document, config); err != nil {
		t.Fatal(err)
	}
	return config
}

// provision makes a gateway that has not been started.
func provision(t testing.TB, o options) *gateway {
	t.Helper()
	if o.name == "" {
		o.name = nameOf(t)
	}
	g := &gateway{t: t, name: o.name}
	var ok bool
	if g.log, ok = recall(&things.logs, o.name); !ok {
		g.log, g.events = new(logged), make(chan caddy.Event, 1000)
		remember(&things.logs, o.name, g.log)
		remember(&things.events, o.name, g.events)
	}
	g.events, _ = recall(&things.events, o.name)
	if o.clock != nil {
		remember(&things.clocks, o.name, o.clock)
	}
	if o.app != nil {
		remember(&things.apps, o.name, o.app)
	}
	ctx, err := caddy.ProvisionContext(o.document(t))
	if err != nil {
		t.Fatalf("provisioning: %v", err)
	}
	g.ctx = ctx
	module, err := ctx.App("inbox")
	if err != nil {
		t.Fatal(err)
	}
	g.app = module.(*inbox.App)
	if module, err = ctx.App("events"); err != nil {
		t.Fatal(err)
	}
	if err := module.(caddy.App).Start(); err != nil { // which is when it learns who wants to hear
		t.Fatal(err)
	}
	module, err = ctx.App("http")
	if err != nil {
		t.Fatal(err)
	}
	g.server = module.(*caddyhttp.App).Servers["srv"]
	if o.clock != nil {
		g.app.SetClock(o.clock)
	}
	t.Cleanup(g.end)
	return g
}

// start makes a gateway and starts it.
func start(t testing.TB, o options) *gateway {
	t.Helper()
	g := provision(t, o)
	if err := g.app.Start(); err != nil {
		t.Fatalf("starting: %v", err)
	}
	return g
}

// end stops a gateway and puts it away.
func (g *gateway) end() {
	if g.ended {
		return
	}
	g.ended = true
	if err := g.app.Stop(); err != nil {
		g.t.Errorf("stopping: %v", err)
	}
	if err := g.app.Cleanup(); err != nil {
		g.t.Errorf("cleaning up: %v", err)
	}
}

// memory is the gateway's store.
func (g *gateway) memory() *storetest.Memory {
	g.t.Helper()
	memory, ok := recall(&things.memories, g.name)
	if !ok {
		g.t.Fatal("the store has not been opened")
	}
	return memory
}

// serve sends a request through the server.
func (g *gateway) serve(r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	g.server.ServeHTTP(w, r)
	return w
}

// post sends a webhook of this id.
func (g *gateway) post(id, content string, headers ...string) *httptest.ResponseRecorder {
	return g.serve(webhookRequest(id, content, headers...))
}

func webhookRequest(id, content string, headers ...string) *http.Request {
	r := httptest.NewRequest("POST", "http://shop.example/hook?a=1", strings.NewReader(content))
	if id != "" {
		r.Header.Set("Id", id)
	}
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		r.Header.Add(name, value)
	}
	return r
}

// accepted posts and wants 202.
func (g *gateway) accepted(id, content string, headers ...string) {
	g.t.Helper()
	if w := g.post(id, content, headers...); w.Code != http.StatusAccepted || w.Body.Len() != 0 {
		g.t.Fatalf("%s: answered %d %q, want 202 and nothing", id, w.Code, w.Body)
	}
}

// message returns the stored message of an id, or nil.
func (g *gateway) message(id string) *inbox.Message {
	g.t.Helper()
	all, err := g.memory().List(g.t.Context(), inbox.Query{Limit: 1 << 20})
	if err != nil {
		g.t.Fatal(err)
	}
	for _, message := range all {
		if message.ID == id {
			return message
		}
	}
	return nil
}

// becomes waits until the message of an id is in this state.
func (g *gateway) becomes(id string, state inbox.State) *inbox.Message {
	g.t.Helper()
	var message *inbox.Message
	testutil.Eventually(g.t, fmt.Sprintf("%s is %s", id, state), func() bool {
		message = g.message(id)
		return message != nil && message.State == state
	})
	return message
}

// event waits for the next event of this name.
func (g *gateway) event(name string) map[string]any {
	g.t.Helper()
	event := testutil.Receive(g.t, "the event "+name, g.events)
	if event.Name() != name {
		g.t.Fatalf("event %s %v, want %s", event.Name(), event.Data, name)
	}
	return event.Data
}

func (g *gateway) noEvent() {
	g.t.Helper()
	select {
	case event := <-g.events:
		g.t.Errorf("event %s %v, want none", event.Name(), event.Data)
	default:
	}
}

// loadError is why a configuration is refused, or "".
func loadError(t testing.TB, o options) string {
	t.Helper()
	if o.name == "" {
		o.name = nameOf(t)
	}
	return validateConfig(t, o.document(t))
}

// validateConfig is why a configuration of this test is refused, or "".
func validateConfig(t testing.TB, config *caddy.Config) string {
	t.Helper()
	remember(&things.logs, nameOf(t), new(logged))
	if err := caddy.Validate(config); err != nil {
		return err.Error()
	}
	return ""
}

// clock is a clock that only a test moves.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) jump(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}
