package inbox_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
	"github.com/caddy-chinaums/caddy-chinaums/internal/testutil"
)

// TestReload: the new configuration runs before the old one has ended, on the same store.
func TestReload(t *testing.T) {
	release := make(chan struct{})
	got, app := appOf(func(w http.ResponseWriter, _ *http.Request) error {
		<-release
		w.WriteHeader(200)
		return nil
	})
	former := start(t, options{app: app, handler: map[string]any{"concurrency": 1}})
	memory := former.memory()
	former.accepted("in flight", "1")
	testutil.Receive(t, "the first delivery", got)
	former.accepted("waits", "2")

	next := start(t, options{handler: map[string]any{"concurrency": 1, "timeout": "7s", "retry": []string{"20s"}}, inbox: map[string]any{"max_store": 1 << 20}})
	if next.memory() != memory {
		t.Fatal("another store was opened")
	}
	if s := memory.Settings(); s.Lease != 7*time.Second || s.MaxDelay != 22*time.Second || s.MaxBytes != 1<<20 || s.Remember != 30*24*time.Hour {
		t.Errorf("settings %+v", s)
	}
	testutil.Receive(t, "the second delivery, by the new one", got)
	ended := make(chan struct{})
	go func() {
		former.end()
		close(ended)
	}()
	next.accepted("meanwhile", "3")
	release <- struct{}{}
	release <- struct{}{}
	<-ended
	if memory.Closed() {
		t.Fatal("the old configuration has closed the store")
	}
	release <- struct{}{}
	for _, id := range []string{"in flight", "waits", "meanwhile"} {
		next.becomes(id, inbox.Delivered)
	}
	if testutil.Receive(t, "the third delivery", got); len(got) != 0 {
		t.Error("something was delivered twice")
	}

	// A request that the old server took before it ended may still be stored.
	former.accepted("late", "4")
	release <- struct{}{}
	next.becomes("late", inbox.Delivered)
	next.end()
	if !memory.Closed() {
		t.Error("the store is open though nobody has it")
	}
	if w := former.post("too late", "5"); w.Code != 503 {
		t.Errorf("answered %d", w.Code)
	}
}

// TestReloadThatFails: the old configuration gets its settings back.
func TestReloadThatFails(t *testing.T) {
	got, app := appOf(nil)
	former := start(t, options{app: app, inbox: map[string]any{"max_store": 1000000, "remember": "1h"}})
	next := start(t, options{inbox: map[string]any{"max_store": 2000000, "remember": "2h"}})
	if s := former.memory().Settings(); s.MaxBytes != 2000000 || s.Remember != 2*time.Hour {
		t.Errorf("settings %+v", s)
	}
	next.end()
	if s := former.memory().Settings(); s.MaxBytes != 1000000 || s.Remember != time.Hour {
		t.Errorf("settings %+v", s)
	}
	former.accepted("1", "x")
	testutil.Receive(t, "the delivery", got)
}

// TestStartThatFails: an inbox that cannot be opened leaves nothing behind of those that could.
func TestStartThatFails(t *testing.T) {
	former := start(t, options{})
	memory := former.memory()
	memory.Fail("Configure", fmt.Errorf("no such setting"))
	next := provision(t, options{})
	if err := next.app.Start(); err == nil {
		t.Fatal("no error")
	}
	next.end()
	memory.Fail("Configure", nil)
	if memory.Closed() {
		t.Fatal("the running gateway's store is closed")
	}
	former.end()
	if !memory.Closed() {
		t.Error("the store is still open")
	}
}

// TestStopWaits: what is in flight comes to its end, and is settled.
func TestStopWaits(t *testing.T) {
	release := make(chan struct{})
	got, app := appOf(func(w http.ResponseWriter, r *http.Request) error {
		select {
		case <-release:
			w.WriteHeader(200)
		case <-r.Context().Done():
		}
		return r.Context().Err()
	})
	g := start(t, options{app: app})
	g.accepted("1", "x")
	testutil.Receive(t, "the delivery", got)
	stopped := make(chan error)
	go func() { stopped <- g.app.Stop() }()
	select {
	case err := <-stopped:
		t.Fatalf("stopped with a delivery in flight: %v", err)
	case <-time.After(50 * time.Millisecond): // gives a stop that does not wait its time; however short it is, the right one passes
	}
	close(release)
	if err := testutil.Receive(t, "the stop", stopped); err != nil {
		t.Fatal(err)
	}
	if message := g.message("1"); message.State != inbox.Delivered {
		t.Errorf("%+v", message)
	}
	g.accepted("2", "x")
	if len(got) != 0 {
		t.Error("delivered after the stop")
	}
}

// TestStopCuts: a delivery that would outlast the grace period is cut and given back, without blame.
func TestStopCuts(t *testing.T) {
	got, app := appOf(func(_ http.ResponseWriter, r *http.Request) error {
		<-r.Context().Done()
		return r.Context().Err()
	})
	g := start(t, options{app: app, http: map[string]any{"grace_period": "1ms"}})
	g.accepted("1", "x")
	testutil.Receive(t, "the delivery", got)
	if err := g.app.Stop(); err != nil {
		t.Fatal(err)
	}
	message := g.message("1")
	if message.State != inbox.Pending || message.Attempts != 0 || message.Answer != (inbox.Answer{}) {
		t.Errorf("%+v", message)
	}
	if _, err := g.memory().Lease(t.Context()); err != nil {
		t.Errorf("it is still leased: %v", err)
	}
}

// TestStopAbandons: a handler that watches neither time nor context does not hold up the stop for ever.
func TestStopAbandons(t *testing.T) {
	release := make(chan struct{})
	got, app := appOf(func(w http.ResponseWriter, _ *http.Request) error {
		<-release
		w.WriteHeader(200)
		return nil
	})
	g := start(t, options{app: app, handler: map[string]any{"timeout": "1ms"}})
	g.accepted("1", "x")
	testutil.Receive(t, "the delivery", got)
	next := start(t, options{}) // which has the store still
	g.end()
	if lines := g.log.lines("does not end at its time limit"); len(lines) != 1 {
		t.Errorf("it is waited for, and that is said, %d times, want once", len(lines))
	}
	close(release)
	next.becomes("1", inbox.Delivered)
}

// TestNamesWhileProvisioning: the metrics are asked for while handlers still add the default inbox; a map that is read
// and written at once ends the process.
func TestNamesWhileProvisioning(t *testing.T) {
	// The store of the default inbox is never opened here.
	var config caddy.Config
	if err := json.Unmarshal([]byte(`{"admin": {"disabled": true, "config": {"persist": false}}, "apps": {"inbox": {}}}`), &config); err != nil {
		t.Fatal(err)
	}
	ctx, err := caddy.ProvisionContext(&config)
	if err != nil {
		t.Fatal(err)
	}
	module, err := ctx.App("inbox")
	if err != nil {
		t.Fatal(err)
	}
	app := module.(*inbox.App)
	asking, asked := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(asked)
		for first := true; ; first = false {
			names := app.Names()
			_, open := app.Lookup("default")
			if first {
				close(asking)
			}
			if open {
				t.Error("a store is open before the start")
			}
			if len(names) == 1 {
				return
			}
		}
	}()
	<-asking
	if err := app.Claim("default"); err != nil {
		t.Fatal(err)
	}
	<-asked
}

// TestIdleInbox: messages of an inbox that no handler delivers wait, and that is said.
func TestIdleInbox(t *testing.T) {
	g := start(t, options{idle: true})
	if len(g.log.lines(`"level":"warn"`, "no handler delivers", `"inbox":"default"`)) != 1 {
		t.Error("nothing is said of it")
	}
	if s := g.memory().Settings(); s.Lease <= 0 || s.MaxDelay <= 0 {
		t.Errorf("settings %+v", s)
	}
}

// TestReloadServesBeforeTheStart: Caddy starts the apps of a new configuration in any order, so that requests may come
// before this one has started. They are stored all the same, as the store of the configuration before is open. (They were
// answered 503, one in some thousands where a gateway was reloaded all the time.)
func TestReloadServesBeforeTheStart(t *testing.T) {
	got, app := appOf(nil)
	former := start(t, options{app: app})
	next := provision(t, options{handler: map[string]any{"timeout": "7s"}})
	// Caddy serves the metrics of the newest configuration, even when that could not be started: they were gone then.
	if _, ok := next.app.Lookup("default"); !ok {
		t.Error("the store that is open is not found")
	}
	next.accepted("1", "x")
	testutil.Receive(t, "the delivery", got)
	former.becomes("1", inbox.Delivered)
	if err := next.app.Start(); err != nil {
		t.Fatal(err)
	}
	former.end()
	next.accepted("1", "x")
	next.accepted("2", "y")
	testutil.Receive(t, "the delivery after the start", got)
	next.end()
	if w := next.post("3", "z"); w.Code != http.StatusServiceUnavailable {
		t.Errorf("after the end: %d", w.Code)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if w := provision(t, options{}).serve(webhookRequest("4", "z").WithContext(gone)); w.Code != http.StatusServiceUnavailable {
		t.Errorf("before the next start: %d", w.Code)
	}
}

func TestLookup(t *testing.T) {
	g := provision(t, options{})
	if !slices.Equal(g.app.Names(), []string{"default"}) {
		t.Errorf("names %q", g.app.Names())
	}
	if store, ok := g.app.Lookup("default"); ok || store != nil {
		t.Error("a store before the start")
	}
	if err := g.app.Start(); err != nil {
		t.Fatal(err)
	}
	store, ok := g.app.Lookup("default")
	if !ok {
		t.Fatal("no store")
	}
	if _, ok := g.app.Lookup("other"); ok {
		t.Error("a store of no inbox")
	}
	if _, err := store.List(t.Context(), inbox.Query{Limit: 1}); err != nil {
		t.Error(err)
	}
	g.end()
	for name, call := range map[string]func() error{
		"Put":        func() error { _, err := store.Put(t.Context(), &inbox.Message{ID: "1"}); return err },
		"Lease":      func() error { _, err := store.Lease(t.Context()); return err },
		"Settle":     func() error { return store.Settle(t.Context(), &inbox.Message{}, inbox.Outcome{}) },
		"List":       func() error { _, err := store.List(t.Context(), inbox.Query{Limit: 1}); return err },
		"Get":        func() error { _, err := store.Get(t.Context(), 1); return err },
		"Redeliver":  func() error { _, err := store.Redeliver(t.Context(), 1, true); return err },
		"Delete":     func() error { return store.Delete(t.Context(), 1, true) },
		"DeleteDead": func() error { _, err := store.DeleteDead(t.Context(), time.Time{}); return err },
		"Stats":      func() error { _, err := store.Stats(t.Context()); return err },
		"Configure":  func() error { return store.Configure(inbox.Settings{}) },
	} {
		if err := call(); err != inbox.ErrClosed { //nolint:errorlint // the very error, as callers may compare
			t.Errorf("%s after the end: %v", name, err)
		}
	}
}

// TestRecoveryAcrossReload: since when the app has been failing is known to the next configuration, and what a killed
// process had seen fail is told by the message itself.
func TestRecoveryAcrossReload(t *testing.T) {
	var healthy atomic.Bool
	got, app := appOf(func(w http.ResponseWriter, _ *http.Request) error {
		w.WriteHeader(map[bool]int{false: 500, true: 200}[healthy.Load()])
		return nil
	})
	former := start(t, options{app: app, handler: map[string]any{"retry": []string{"1ms", "1ms", "1h"}}})
	former.accepted("1", "x")
	for range 3 {
		testutil.Receive(t, "a delivery that fails", got)
	}
	testutil.Eventually(t, "it has failed three times", func() bool { return former.message("1").Attempts == 3 })
	next := start(t, options{handler: map[string]any{"retry": []string{"1ms", "1ms", "1h"}}})
	former.end()
	healthy.Store(true)
	if _, err := next.memory().Redeliver(t.Context(), former.message("1").Seq, false); err != nil {
		t.Fatal(err)
	}
	if event := next.event("inbox.recovered"); event["failures"] != 3 {
		t.Errorf("event %v", event)
	}
	next.noEvent()

	t.Run("of another process", func(t *testing.T) {
		got, app := appOf(nil)
		g := provision(t, options{app: app})
		if err := g.app.Start(); err != nil {
			t.Fatal(err)
		}
		_ = g.app.Stop()
		since := time.Now().Add(-time.Hour)
		for _, id := range []string{"a", "b"} {
			if _, err := g.memory().Put(t.Context(), &inbox.Message{ID: id, Received: since, Request: inbox.RequestOf("POST", "/", "")}); err != nil {
				t.Fatal(err)
			}
		}
		var leased []*inbox.Message
		for range 2 {
			message, err := g.memory().Lease(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			leased = append(leased, message)
		}
		for _, message := range leased {
			if err := g.memory().Settle(t.Context(), message, inbox.Outcome{Result: inbox.Pending, Answer: inbox.Answer{Status: 500}}); err != nil {
				t.Fatal(err)
			}
		}
		next := start(t, options{})
		testutil.Receive(t, "one delivery", got)
		testutil.Receive(t, "the other", got)
		if event := next.event("inbox.recovered"); event["failures"] != 1 || !event["since"].(time.Time).Equal(since) {
			t.Errorf("event %v", event)
		}
		next.becomes("a", inbox.Delivered)
		next.becomes("b", inbox.Delivered)
		next.noEvent()
	})
}

// TestReloadsUnderLoad: no message is lost or delivered twice, and none waits for ever, however often the configuration
// changes under it.
func TestReloadsUnderLoad(t *testing.T) {
	const reloads, senders = 15, 8
	var mu sync.Mutex
	times := make(map[string]int)
	var delivered [senders]chan struct{}
	for s := range delivered {
		delivered[s] = make(chan struct{}, 1)
	}
	app := func(w http.ResponseWriter, r *http.Request) error {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return err
		}
		id := r.Header.Get("Id")
		mu.Lock()
		times[id]++
		mu.Unlock()
		w.WriteHeader(200)
		select {
		case delivered[id[0]-'0'] <- struct{}{}:
		default:
		}
		return nil
	}
	var current atomic.Pointer[gateway]
	current.Store(start(t, options{app: app}))
	var all sync.WaitGroup
	var sent atomic.Int64
	reloaded := make(chan struct{})
	for s := range senders {
		all.Go(func() {
			for i := 0; ; i++ {
				if w := current.Load().post(fmt.Sprint(s, "-", i), "x"); w.Code != 202 {
					t.Errorf("answered %d", w.Code)
				}
				sent.Add(1)
				select {
				case <-delivered[s]:
				case <-reloaded:
					return
				}
			}
		})
	}
	for range reloads {
		former := current.Load()
		current.Store(start(t, options{}))
		former.end()
	}
	close(reloaded)
	all.Wait()
	testutil.Eventually(t, "all are delivered", func() bool {
		stats, err := current.Load().memory().Stats(t.Context())
		return err == nil && stats.Pending == 0
	})
	mu.Lock()
	defer mu.Unlock()
	if int64(len(times)) != sent.Load() {
		t.Errorf("%d messages delivered, want %d", len(times), sent.Load())
	}
	for id, n := range times {
		if n != 1 {
			t.Errorf("%s was delivered %d times", id, n)
		}
	}
}

// TestTwoInboxes: each has its own store, and two must not have one.
func TestTwoInboxes(t *testing.T) {
	config := options{name: nameOf(t)}.document(t)
	config.AppsRaw["inbox"] = []byte(`{"inboxes":{"default":{"store":{"store":"memory","name":"a"}},"other":{"store":{"store":"memory","name":"a"}}}}`)
	if err := validateConfig(t, config); !strings.HasSuffix(err, "inbox other: store: it is the same as that of inbox default (a); each needs its own") {
		t.Errorf("error %q", err)
	}
	config = options{name: nameOf(t)}.document(t)
	config.AppsRaw["inbox"] = []byte(`{"inboxes":{"default":{"store":{"store":"memory","name":"a"}},"other":{"store":{"store":"memory","name":"b"}}}}`)
	if err := validateConfig(t, config); err != "" {
		t.Errorf("error %q", err)
	}
}
