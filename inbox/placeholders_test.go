package inbox_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
	"github.com/caddy-chinaums/caddy-chinaums/internal/testutil"
)

// wrapping is the handler `inbox_test_wrapping`, which puts another body into a request of its own.
type wrapping struct{}

func init() { caddy.RegisterModule(wrapping{}) }

func (wrapping) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.inbox_test_wrapping", New: func() caddy.Module { return new(wrapping) }}
}

func (wrapping) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	content, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	content = append([]byte("wrapped "), content...)
	inner := r.WithContext(r.Context())
	inner.Body, inner.ContentLength = io.NopCloser(bytes.NewReader(content)), int64(len(content))
	return next.ServeHTTP(w, inner)
}

// TestIDOfBody: an id of the body's placeholders is made of the body that is stored. They were empty, for the body had been
// read: each repetition was delivered as a request of its own.
func TestIDOfBody(t *testing.T) {
	for name, test := range map[string]struct {
		id   string
		ids  [2]string // of "one" and "two"
		wrap bool
	}{
		"body":                   {"{http.request.body}", [2]string{"one", "two"}, false},
		"base64":                 {"b-{http.request.body_base64}", [2]string{"b-b25l", "b-dHdv"}, false},
		"behind another handler": {"{http.request.body}", [2]string{"wrapped one", "wrapped two"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			got, app := appOf(nil)
			o := options{app: app, handler: map[string]any{"id": test.id, "order_by": test.id}}
			if test.wrap {
				o.front = map[string]any{"handler": "inbox_test_wrapping"}
			}
			g := start(t, o)
			for _, content := range []string{"one", "two", "one", "two"} {
				g.accepted("", content)
			}
			for _, id := range test.ids {
				if m := g.becomes(id, inbox.Delivered); m.Key != id {
					t.Errorf("%s: the key of its order is %q", id, m.Key)
				}
			}
			seen := map[string]int{}
			for len(got) > 0 {
				seen[(<-got).content]++
			}
			if len(seen) != 2 {
				t.Errorf("delivered %v", seen)
			}
			for content, times := range seen {
				if times != 1 {
					t.Errorf("%s: delivered %d times", content, times)
				}
			}
			if lines := g.log.lines(`"receipt":"repeated"`); len(lines) != 2 {
				t.Errorf("%d repetitions, want 2", len(lines))
			}
		})
	}
}

// TestLocalAddress: a placeholder of the server's address in `deliver` says that there is none. It panicked.
func TestLocalAddress(t *testing.T) {
	values := make(chan string, 10)
	g := start(t, options{app: func(w http.ResponseWriter, r *http.Request) error {
		repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
		values <- repl.ReplaceAll("{http.request.local} {http.request.local.host} {http.request.local.port}", "-")
		w.WriteHeader(http.StatusOK)
		return nil
	}})
	g.accepted("1", "x")
	if got := testutil.Receive(t, "the values", values); got != ":0 - 0" {
		t.Errorf("values %q", got)
	}
	g.becomes("1", inbox.Delivered)
}

// TestNoAccessLogNoFields: a server that writes no access log is given nothing to write there.
func TestNoAccessLogNoFields(t *testing.T) {
	for _, logged := range []bool{true, false} {
		t.Run(fmt.Sprint(logged), func(t *testing.T) {
			got, app := appOf(nil)
			o := options{app: app, front: map[string]any{"handler": "inbox_test_fields"}}
			g := provision(t, o)
			if !logged {
				g.server.Logs = nil
			}
			if err := g.app.Start(); err != nil {
				t.Fatal(err)
			}
			r := webhookRequest("1", "x")
			extra := new(fieldsSeen)
			r = r.WithContext(extra.in(r.Context()))
			if w := g.serve(r); w.Code != http.StatusAccepted {
				t.Fatalf("answered %d", w.Code)
			}
			testutil.Receive(t, "the delivery", got)
			if want := map[bool]int{true: 1, false: 0}[logged]; extra.count != want {
				t.Errorf("%d fields were added, want %d", extra.count, want)
			}
		})
	}
}

// fieldsSeen counts the fields of the access log that the handlers behind inbox_test_fields have added.
type fieldsSeen struct{ count int }

type fieldsSeenKey struct{}

func (f *fieldsSeen) in(ctx context.Context) context.Context {
	return context.WithValue(ctx, fieldsSeenKey{}, f)
}

// fieldsCounter is the handler `inbox_test_fields`.
type fieldsCounter struct{}

func init() { caddy.RegisterModule(fieldsCounter{}) }

func (fieldsCounter) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.inbox_test_fields", New: func() caddy.Module { return new(fieldsCounter) }}
}

func (fieldsCounter) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	extra := r.Context().Value(caddyhttp.ExtraLogFieldsCtxKey)
	fields := reflect.ValueOf(extra).Elem().FieldByName("fields")
	before := fields.Len()
	err := next.ServeHTTP(w, r)
	if seen, ok := r.Context().Value(fieldsSeenKey{}).(*fieldsSeen); ok {
		seen.count = fields.Len() - before
	}
	return err
}
