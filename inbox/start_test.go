package inbox_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-chinaums/caddy-chinaums/internal/testutil"
)

// arrivingBody is a request's body that tells when it has been read, which the handler does before it asks for the store.
type arrivingBody struct{ arrived chan<- struct{} }

func (b arrivingBody) Read([]byte) (int, error) {
	b.arrived <- struct{}{}
	return 0, io.EOF
}

// arriving is a request that tells when it has been read.
func arriving(id string) (*http.Request, <-chan struct{}) {
	arrived := make(chan struct{}, 1)
	r := webhookRequest(id, "")
	setBody(r, arrivingBody{arrived}, -1)
	return r, arrived
}

// TestServingBeforeTheStart: Caddy starts apps in any order, so that the http app may serve before the inbox has been
// opened. Requests that came then were answered 503, each with a line in the log, and behind a notify handler with two.
// They wait.
func TestServingBeforeTheStart(t *testing.T) {
	got, app := appOf(nil)
	g := provision(t, options{app: app})
	const senders = 16
	var group sync.WaitGroup
	for i := range senders {
		r, arrived := arriving(string(rune('a' + i)))
		group.Go(func() {
			if w := g.serve(r); w.Code != http.StatusAccepted {
				t.Errorf("answered %d", w.Code)
			}
		})
		testutil.Receive(t, "the request", arrived)
	}
	if err := g.app.Start(); err != nil {
		t.Fatal(err)
	}
	group.Wait()
	for range senders {
		testutil.Receive(t, "a delivery", got)
	}
	if lines := g.log.lines(`"level":"error"`); len(lines) != 0 {
		t.Errorf("logged: %s", lines)
	}
}

// TestWaitingForTheStartEnds: with the request, and with a configuration whose start has failed.
func TestWaitingForTheStartEnds(t *testing.T) {
	t.Run("the request", func(t *testing.T) {
		g := provision(t, options{})
		r, arrived := arriving("1")
		ctx, cancel := context.WithCancel(t.Context())
		answered := make(chan int, 1)
		go func() { answered <- g.serve(r.WithContext(ctx)).Code }()
		testutil.Receive(t, "the request", arrived)
		cancel()
		if status := testutil.Receive(t, "the answer", answered); status != http.StatusServiceUnavailable {
			t.Errorf("answered %d", status)
		}
		if lines := g.log.lines("request not stored", `"reason":"not_ready"`); len(lines) != 1 {
			t.Errorf("%d lines", len(lines))
		}
	})
	t.Run("the configuration", func(t *testing.T) {
		g := provision(t, options{})
		ctx, end := caddy.NewContext(g.ctx)
		module, err := ctx.LoadModuleByID("http.handlers.inbox", json.RawMessage(
			`{"id":"{http.request.header.Id}","retry":["1ms"],"deliver":{"handler":"subroute","routes":[{"handle":[{"handler":"inbox_test_app","name":"`+g.name+`"}]}]}}`))
		if err != nil {
			t.Fatal(err)
		}
		r, arrived := arriving("1")
		w := httptest.NewRecorder()
		answered := make(chan error, 1)
		go func() {
			answered <- module.(caddyhttp.MiddlewareHandler).ServeHTTP(w, caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, g.server), nil)
		}()
		testutil.Receive(t, "the request", arrived)
		end()
		if err := testutil.Receive(t, "the answer", answered); err != nil || w.Code != http.StatusServiceUnavailable {
			t.Errorf("answered %d, %v", w.Code, err)
		}
	})
}
