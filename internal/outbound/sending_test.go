package outbound

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// TestOneSending: whatever stands between a guard and what sends, a call of the guard is sent once, nobody is told `not_sent`
// about one that was sent, or is sent later, and who was told anything but the answer has not heard it.
func TestOneSending(t *testing.T) {
	// chain is what is behind a guard: a transport, and another guard, which sends as well. Each waits for its key first.
	type chain struct {
		w         http.ResponseWriter
		attempt   func(dial string, meanwhile func()) error
		behind    func(w http.ResponseWriter, meanwhile func())
		unwatched func(w http.ResponseWriter)
	}
	const before, answered, notSent = "before /v1/x {}", `after answered OK {"errCode":"OK"}`, "after not_sent other "
	late := func(w http.ResponseWriter) error {
		_, err := w.Write([]byte("the platform is slow"))
		return err
	}
	own := testAccount{}.Endpoint().Dial
	for name, test := range map[string]struct {
		handler func(c chain) error
		told    []string
		outcome string
		sent    int
	}{
		// A transport with two upstreams: the second attempt, which goes elsewhere, was answered not_sent.
		"a second attempt goes elsewhere": {func(c chain) error {
			_ = c.attempt(own, func() {})
			return c.attempt("elsewhere:443", func() {})
		}, []string{before, answered, "heard false"}, "unknown", 1},
		// A handler that limits the time answers while the call waits for its key, and is then sent.
		"answered before it is sent": {func(c chain) error {
			_ = c.attempt(own, func() { c.w.WriteHeader(http.StatusServiceUnavailable) })
			return late(c.w)
		}, []string{before, answered, "heard false"}, "unknown", 1},
		"answered before it is sent from behind": {func(c chain) error {
			c.behind(httptest.NewRecorder(), func() { c.w.WriteHeader(http.StatusServiceUnavailable) })
			return late(c.w)
		}, []string{before, answered, "heard false"}, "unknown", 1},
		"sent after the answer": {func(c chain) error {
			c.w.WriteHeader(http.StatusServiceUnavailable)
			_ = c.attempt(own, func() {})
			return late(c.w)
		}, []string{before, notSent, "heard true"}, "not_sent", 0},
		"sent from behind after the answer": {func(c chain) error {
			c.w.WriteHeader(http.StatusServiceUnavailable)
			c.behind(httptest.NewRecorder(), func() {})
			return late(c.w)
		}, []string{before, notSent, "heard true"}, "not_sent", 0},
		// A handler that sends what it gets to two at once.
		"two attempts at once": {func(c chain) error {
			return c.attempt(own, func() { _ = c.attempt(own, func() {}) })
		}, []string{before, answered, "heard false"}, "unknown", 1},
		// A handler that gives another answer than the one it has got.
		"another answer": {func(c chain) error {
			c.behind(httptest.NewRecorder(), func() {})
			return late(c.w)
		}, []string{before, answered, "heard false"}, "unknown", 1},
		"the guard behind has no watch": {func(c chain) error {
			c.unwatched(httptest.NewRecorder())
			return nil
		}, []string{before, "after unknown GATEWAY_INTERNAL ", "heard false"}, "unknown", 1},
	} {
		t.Run(name, func(t *testing.T) {
			client := httptest.NewRecorder()
			watch, sent := &recorder{client: client}, 0
			guard := watchedGuard(t, watch)
			account := func() Account { return testAccount{} }
			next := roundTripper(func(*http.Request) (*http.Response, error) {
				sent++
				return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(`{"errCode":"OK"}`)), ContentLength: 16}, nil
			})
			r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/x", strings.NewReader("{}"))
			r.Header.Set("Content-Type", "application/json")
			err := guard.Serve(client, r, account, caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
				again := func() *http.Request {
					r := r.WithContext(r.Context())
					r.Body = io.NopCloser(strings.NewReader("{}"))
					return r
				}
				return test.handler(chain{w: w,
					attempt: func(dial string, meanwhile func()) error {
						r := again()
						r = r.WithContext(context.WithValue(r.Context(), caddy.CtxKey("reverse_proxy.dial_info"), reverseproxy.DialInfo{Address: dial}))
						if _, err := RoundTrip(r, guard.platform, testAccount{}, waitingSigner{meanwhile}, next); err != nil {
							return err
						}
						return errors.New("the answer is lost")
					},
					behind: func(w http.ResponseWriter, meanwhile func()) {
						p := &Proxy{Guard: *guard, sender: Through(next)}
						_ = p.Forward(w, again(), account, func(Account) Signer { return waitingSigner{meanwhile} })
					},
					unwatched: func(w http.ResponseWriter) {
						p := &Proxy{Guard: *guard, sender: Through(next)}
						p.Watch = nil
						_ = p.Forward(w, again(), account, func(Account) Signer { return waitingSigner{func() {}} })
					},
				})
			}))
			if err != nil || !slices.Equal(watch.told, test.told) {
				t.Errorf("%v, the watch was told %q, not %q", err, watch.told, test.told)
			}
			if got := client.Header().Values(OutcomeHeader); sent != test.sent || !slices.Equal(got, []string{test.outcome}) {
				t.Errorf("sent %d times, %d %q %s", sent, client.Code, got, client.Body)
			}
		})
	}
}

// hearing is a watch that wants to know of each call who has heard its answer.
type hearing struct{ heard []bool }

func (h *hearing) Before(*http.Request, http.Header, *Call) (After, *Error) {
	return func(Outcome, string, int, []byte) func(bool) {
		return func(heard bool) { h.heard = append(h.heard, heard) }
	}, nil
}

// TestHeardOfAnotherSending: what a guard behind has asked about by itself, because it is sent for the second time, its client has
// heard only with the answer of the guard in front. A handler that repeats a call keeps the answer, and may not pass it on; the
// guard behind took that handler for the client.
func TestHeardOfAnotherSending(t *testing.T) {
	for name, test := range map[string]struct {
		pass  bool
		heard []bool
	}{
		"passed on": {true, []bool{false, true}},
		"dropped":   {false, []bool{false, false}},
	} {
		t.Run(name, func(t *testing.T) {
			watch, client := new(hearing), httptest.NewRecorder()
			guard := watchedGuard(t, watch)
			account := func() Account { return testAccount{} }
			r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/x", strings.NewReader("{}"))
			r.Header.Set("Content-Type", "application/json")
			err := guard.Serve(client, r, account, caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
				var kept *httptest.ResponseRecorder
				for range 2 {
					kept = httptest.NewRecorder()
					r.Body = io.NopCloser(strings.NewReader("{}"))
					serve(guard, "proxy", kept, r, func(*http.Request) (*http.Response, error) {
						return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(`{"errCode":"OK"}`)), ContentLength: 16}, nil
					}, nil)
				}
				if !test.pass {
					return errors.New("the answer is lost")
				}
				w.Header()[OutcomeHeader] = kept.Header()[OutcomeHeader]
				_, err := w.Write(kept.Body.Bytes())
				return err
			}))
			if err != nil || !slices.Equal(watch.heard, test.heard) {
				t.Errorf("%v, heard %v, not %v", err, watch.heard, test.heard)
			}
		})
	}
}
