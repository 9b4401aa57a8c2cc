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
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

type otherAccount struct{ testAccount }

// TestTicket: guards that stand one behind another ask the watch once about one call, which is told once what became of it, and
// whether the client of the guard in front has the answer. The guard behind asked it again, and the watch took the same refund for
// another one on its way: each was answered 409.
func TestTicket(t *testing.T) {
	const before, answered, notSent = "before /v1/x {}", `after answered OK {"errCode":"OK"}`, "after not_sent other "
	once := []string{before, answered, "heard true"}
	unheard := []string{before, answered, "heard false"}

	// chain is what stands between the client and the platform: a guard in front, and whatever send is called with.
	type chain struct {
		guard  *Guard
		hangUp context.CancelFunc
		sent   *int // how often the platform has got the call
		send   func(w http.ResponseWriter, r *http.Request, reached bool)
	}
	again := func(r *http.Request) *http.Request { // a handler that sends a body twice has kept it
		r = r.WithContext(r.Context())
		r.Body = io.NopCloser(strings.NewReader("{}"))
		return r
	}
	for name, test := range map[string]struct {
		behind  func(c chain, w http.ResponseWriter, r *http.Request) error
		told    []string
		outcome string
		sent    int
	}{
		"one call": {func(c chain, w http.ResponseWriter, r *http.Request) error {
			c.send(w, r, true)
			return nil
		}, once, "answered", 1},
		"three guards": {func(c chain, w http.ResponseWriter, r *http.Request) error {
			return c.guard.Serve(w, r, func() Account { return testAccount{} }, caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
				c.send(w, r, true)
				return nil
			}))
		}, once, "answered", 1},
		"not sent": {func(c chain, w http.ResponseWriter, r *http.Request) error {
			c.send(w, r, false)
			return nil
		}, []string{before, notSent, "heard true"}, "not_sent", 0},
		"not sent, then sent": {func(c chain, w http.ResponseWriter, r *http.Request) error {
			c.send(httptest.NewRecorder(), r, false)
			c.send(w, again(r), true)
			return nil
		}, once, "answered", 1},
		"sent, and sent again": {func(c chain, w http.ResponseWriter, r *http.Request) error {
			c.send(httptest.NewRecorder(), r, true)
			c.send(w, again(r), true)
			return nil
		}, append(slices.Clone(unheard), once...), "answered", 2},
		"sent, and sent again by the guard in front": {func(c chain, _ http.ResponseWriter, r *http.Request) error {
			c.send(httptest.NewRecorder(), r, true)
			dial := reverseproxy.DialInfo{Address: testAccount{}.Endpoint().Dial}
			r = again(r).WithContext(context.WithValue(r.Context(), caddy.CtxKey("reverse_proxy.dial_info"), dial))
			_, err := RoundTrip(r, c.guard.platform, testAccount{}, waitingSigner{func() {}}, roundTripper(func(*http.Request) (*http.Response, error) {
				*c.sent++
				return nil, errors.New("sent")
			}))
			return err
		}, unheard, "unknown", 1},
		"the answer is kept for a while": {func(c chain, w http.ResponseWriter, r *http.Request) error {
			answer := httptest.NewRecorder()
			c.send(answer, r, true)
			w.Header().Set(OutcomeHeader, answer.Header().Get(OutcomeHeader))
			w.WriteHeader(answer.Code)
			_, err := w.Write(answer.Body.Bytes())
			return err
		}, once, "answered", 1},
		"the answer is dropped": {func(c chain, _ http.ResponseWriter, r *http.Request) error {
			c.send(httptest.NewRecorder(), r, true)
			return nil
		}, unheard, "unknown", 1},
		"somebody panics with the answer": {func(c chain, _ http.ResponseWriter, r *http.Request) error {
			c.send(httptest.NewRecorder(), r, true)
			panic("between")
		}, unheard, "unknown", 1},
		"the client goes before it is sent": {func(c chain, w http.ResponseWriter, r *http.Request) error {
			c.hangUp()
			c.send(w, r, true)
			return nil
		}, []string{before, notSent, "heard false"}, "not_sent", 0},
		"the client goes with the answer on its way": {func(c chain, w http.ResponseWriter, r *http.Request) error {
			answer := httptest.NewRecorder()
			c.send(answer, r, true)
			c.hangUp()
			w.WriteHeader(answer.Code)
			_, err := w.Write(answer.Body.Bytes())
			return err
		}, unheard, "unknown", 1},
	} {
		for _, form := range []string{"proxy", "long form"} {
			t.Run(name+", "+form, func(t *testing.T) {
				ctx, hangUp := context.WithCancel(t.Context())
				defer hangUp()
				client := httptest.NewRecorder()
				watch, sent := &recorder{client: client}, 0
				guard := watchedGuard(t, watch)
				c := chain{guard, hangUp, &sent, func(w http.ResponseWriter, r *http.Request, reached bool) {
					serve(guard, form, w, r, func(*http.Request) (*http.Response, error) {
						if !reached {
							return nil, errors.New("refused")
						}
						sent++
						return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(`{"errCode":"OK"}`)), ContentLength: 16}, nil
					}, func(w http.ResponseWriter) http.ResponseWriter { return w })
				}}
				r := httptest.NewRequestWithContext(ctx, http.MethodPost, "/v1/x", strings.NewReader("{}"))
				r.Header.Set("Content-Type", "application/json")
				err := guard.Serve(client, r, func() Account { return testAccount{} }, caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
					return test.behind(c, w, r)
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
}

// TestTicketOfAnotherCall: a ticket is for one call of one merchant at one watch. A guard behind asks about any other one, and no
// header makes it believe that a guard in front has.
func TestTicketOfAnotherCall(t *testing.T) {
	for name, test := range map[string]struct {
		account Account
		change  func(r *http.Request)
		other   bool // watch
		told    int
	}{
		"the same":        {testAccount{}, func(*http.Request) {}, false, 1},
		"another account": {otherAccount{}, func(*http.Request) {}, false, 2},
		"another path":    {testAccount{}, func(r *http.Request) { r.URL.Path = "/v1/y" }, false, 2},
		"another body":    {testAccount{}, func(r *http.Request) { r.Body, r.ContentLength = io.NopCloser(strings.NewReader("[]")), 2 }, false, 2},
		"another watch":   {testAccount{}, func(*http.Request) {}, true, 1},
		"another request": {testAccount{}, func(r *http.Request) {
			*r = *r.WithContext(context.Background())
			r.Header.Set("Gateway-Guard", "passed")
			r.Header.Set(OutcomeHeader, "answered")
		}, false, 2},
	} {
		t.Run(name, func(t *testing.T) {
			front, behind := &recorder{client: httptest.NewRecorder()}, &recorder{client: httptest.NewRecorder()}
			asked := front
			if test.other {
				asked = behind
			}
			r := httptest.NewRequest(http.MethodPost, "/v1/x", strings.NewReader("{}"))
			r.Header.Set("Content-Type", "application/json")
			r, _, refusal := watchedGuard(t, front).Admit(httptest.NewRecorder(), r, func() Account { return testAccount{} })
			if refusal != nil {
				t.Fatal(refusal)
			}
			test.change(r)
			if _, _, refusal = watchedGuard(t, asked).Admit(httptest.NewRecorder(), r, func() Account { return test.account }); refusal != nil {
				t.Fatal(refusal)
			}
			if len(asked.told) != test.told {
				t.Errorf("the watch was told %q", asked.told)
			}
		})
	}
}

func watchedGuard(t *testing.T, watch Watch) *Guard {
	guard := newGuard(t, []string{"all"}, nil, nil)
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	t.Cleanup(cancel)
	guard.ctx, guard.events = ctx, new(caddyevents.App)
	if err := guard.events.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	guard.Watch = watch
	platform := testPlatform
	platform.ErrCode = func([]byte) string { return "OK" }
	platform.Words = func(string, []byte) string { return "" }
	guard.platform = &platform
	return guard
}
