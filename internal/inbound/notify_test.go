package inbound

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/internal/ratelog"
	"github.com/caddy-chinaums/caddy-chinaums/internal/verdict"
)

type testAccount struct{}

func (testAccount) Name() string { return "shop" }

type testFlights struct{}

func (testFlights) Begin() {}
func (testFlights) End()   {}

// countedFlights are the flights that have begun and not ended.
type countedFlights int

func (f *countedFlights) Begin() { *f++ }
func (f *countedFlights) End()   { *f-- }

// TestReloadWaitsForVerify: a verification may ask the platform before it believes a notify. With Shouqianba a configuration used
// to be put away meanwhile, and with it the terminal's key, so that the true notify was answered 503.
func TestReloadWaitsForVerify(t *testing.T) {
	flights := new(countedFlights)
	n := &Notify{
		Format: FormatJSON, Ack: verdict.AckWord, MaxSize: 1000, Timeout: caddy.Duration(time.Minute), platform: &testPlatform,
		flights: flights, logger: zap.NewNop(), refusals: ratelog.New(10),
	}
	verify := func([]byte, http.Header) (*Event, *Rejection) {
		if *flights != 1 {
			t.Errorf("%d flights while the notify is verified", *flights)
		}
		return &Event{Data: "{}", Word: func(string) (string, bool) { return "", false }}, nil
	}
	app := caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
		if *flights != 1 {
			t.Errorf("%d flights while the app has it", *flights)
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	})
	w := httptest.NewRecorder()
	if err := n.Serve(w, httptest.NewRequest("POST", "/", strings.NewReader("{}")), testAccount{}, verify, app); err != nil {
		t.Fatal(err)
	}
	if w.Body.String() != "YES" || *flights != 0 {
		t.Errorf("answer %q, %d flights left", w.Body, *flights)
	}
}

var testPlatform = Platform{Name: "test", Success: "YES", Failed: "NO", ContentTypes: []string{"application/json"}}

// TestPanicsOfOurOwn: a bug in the handler itself must not leave the platform without its word; under observe the app
// must not notice it.
func TestPanicsOfOurOwn(t *testing.T) {
	for name, test := range map[string]struct {
		verify Verify
		status int
	}{
		"before the answer": {func([]byte, http.Header) (*Event, *Rejection) { panic("secret") }, 500},
		"after the answer":  {func([]byte, http.Header) (*Event, *Rejection) { return nil, &Rejection{Status: 403, Reason: "x"} }, 403}, // there is no events app to tell
	} {
		t.Run(name, func(t *testing.T) {
			n := &Notify{
				Format: FormatJSON, Ack: verdict.AckWord, MaxSize: 1000, Timeout: caddy.Duration(time.Second), platform: &testPlatform,
				flights: testFlights{}, logger: zap.NewNop(), refusals: ratelog.New(10),
			}
			app := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
				content, err := io.ReadAll(r.Body)
				w.WriteHeader(201)
				w.Write(content)
				return err
			})
			request := func() *http.Request { return httptest.NewRequest("POST", "/", strings.NewReader("{}")) }
			w := httptest.NewRecorder()
			if err := n.Serve(w, request(), testAccount{}, test.verify, app); err != nil {
				t.Fatal(err)
			}
			if w.Code != test.status || w.Body.String() != "NO" || w.Header().Get("Content-Type") != "text/plain; charset=utf-8" {
				t.Errorf("answer: %d %q %v", w.Code, w.Body, w.Header())
			}
			n.Observe = true
			w = httptest.NewRecorder()
			if err := n.Serve(w, request(), testAccount{}, test.verify, app); err != nil || w.Code != 201 || w.Body.String() != "{}" {
				t.Errorf("observe: %v, %d %q", err, w.Code, w.Body)
			}
		})
	}
}
