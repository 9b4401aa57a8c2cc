package outbound

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// recorder is a Watch that writes down what it is told.
type recorder struct {
	told   []string
	refuse *Error
	client *httptest.ResponseRecorder // what the client has got when After is called
}

func (w *recorder) Before(_ *http.Request, header http.Header, call *Call) (After, *Error) {
	w.told = append(w.told, "before "+call.Path()+" "+string(call.Body))
	header.Set("Gateway-Guard", "unseen")
	if w.refuse != nil {
		return nil, w.refuse
	}
	return func(outcome Outcome, errCode string, status int, answer []byte) (told func(heard bool)) {
		if w.client.Body.Len() > 0 {
			w.told = append(w.told, "too late")
		}
		w.told = append(w.told, "after "+string(outcome)+" "+errCode+" "+string(answer))
		return func(heard bool) {
			w.told = append(w.told, fmt.Sprint("heard ", heard && w.client.Body.Len() > 0 && w.client.Flushed))
		}
	}, nil
}

// TestWatch: in every form a watch is asked before anything is sent, may refuse, and is told once what became of the call,
// before the client is, and once when the answer is out.
func TestWatch(t *testing.T) {
	answering := roundTripper(func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(`{"errCode":"OK"}`)), ContentLength: 16}, nil
	})
	dead := roundTripper(func(*http.Request) (*http.Response, error) { return nil, errors.New("refused") })
	for _, c := range []struct {
		name    string
		next    roundTripper
		refuse  *Error
		status  int
		outcome string
		told    []string
	}{
		{"answered", answering, nil, 200, "answered", []string{"before /v1/x {}", `after answered OK {"errCode":"OK"}`, "heard true"}},
		{"not sent", dead, nil, 502, "not_sent", []string{"before /v1/x {}", "after not_sent GATEWAY_UNREACHABLE ", "heard true"}},
		{"refused", nil, errInvalid.status(409).because("busy", nil), 409, "not_sent", []string{"before /v1/x {}"}},
	} {
		for _, form := range []string{"proxy", "long form"} {
			t.Run(c.name+", "+form, func(t *testing.T) {
				client := httptest.NewRecorder()
				watch := &recorder{refuse: c.refuse, client: client}
				guard := newGuard(t, []string{"all"}, nil, nil)
				guard.Watch = watch
				platform := testPlatform
				platform.ErrCode = func([]byte) string { return "OK" }
				platform.Words = func(string, []byte) string { return "" }
				guard.platform = &platform
				r := httptest.NewRequest(http.MethodPost, "/v1/x", strings.NewReader("{}"))
				r.Header.Set("Content-Type", "application/json")
				serve(guard, form, client, r, c.next, func(w http.ResponseWriter) http.ResponseWriter { return w })
				if client.Code != c.status || client.Header().Get(OutcomeHeader) != c.outcome || client.Header().Get("Gateway-Guard") != "unseen" {
					t.Errorf("%d %v %s", client.Code, client.Header(), client.Body)
				}
				if !slices.Equal(watch.told, c.told) {
					t.Errorf("the watch was told %q, not %q", watch.told, c.told)
				}
			})
		}
	}
}

// serve has a call served, in one form or the other. Between the guard and what sends stands between.
func serve(guard *Guard, form string, client http.ResponseWriter, r *http.Request, next roundTripper, between func(w http.ResponseWriter) http.ResponseWriter) {
	resolve := func() Account { return testAccount{} }
	signer := waitingSigner{func() {}}
	if form == "proxy" {
		p := &Proxy{Guard: *guard, sender: Through(next)}
		_ = p.Forward(client, r, resolve, func(Account) Signer { return signer })
		return
	}
	_ = guard.Serve(client, r, resolve, caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		r = r.WithContext(context.WithValue(r.Context(), caddy.CtxKey("reverse_proxy.dial_info"), reverseproxy.DialInfo{Address: testAccount{}.Endpoint().Dial}))
		res, err := RoundTrip(r, guard.platform, testAccount{}, signer, next)
		if err != nil {
			return err
		}
		if w = between(w); w == nil {
			return nil
		}
		w.WriteHeader(res.StatusCode)
		_, err = io.Copy(w, res.Body)
		return err
	}))
}

// failing is a client's connection that breaks at some point.
type failing struct {
	*httptest.ResponseRecorder
	write, flush func() error
}

func (f *failing) Write(p []byte) (int, error) {
	if err := f.write(); err != nil {
		return 0, err
	}
	return f.ResponseRecorder.Write(p)
}

func (f *failing) FlushError() error {
	f.Flush()
	return f.flush()
}

// TestHeard: who was not given the platform's answer, or not all of it, has not heard of it. The watch is told so once, whatever
// happens. It used to take everybody who had waited for the answer for one who has it. Who hangs up as soon as he has it, has it.
func TestHeard(t *testing.T) {
	broken := errors.New("broken pipe")
	fine := func() error { return nil }
	for name, c := range map[string]struct {
		write, flush func() error
		hangsUp      string // before: while the platform has the call; between: while other handlers have the answer; after: as soon as it has the answer
		drops        bool   // a handler between
		form         string
		want         string
	}{
		"it has it":                {fine, fine, "", false, "", "heard true"},
		"a writer without a flush": {fine, func() error { return http.ErrNotSupported }, "", false, "", "heard true"},
		"it is not flushed":        {fine, func() error { return broken }, "", false, "", "heard false"},
		"it is not written":        {func() error { return broken }, fine, "", false, "", "heard false"},
		"somebody panics":          {func() error { panic(http.ErrAbortHandler) }, fine, "", false, "", "heard false"},
		"somebody panics, later":   {fine, func() error { panic(http.ErrAbortHandler) }, "", false, "", "heard false"},
		"it hangs up":              {fine, fine, "before", false, "", "heard false"},
		"it has it, and hangs up":  {fine, fine, "after", false, "", "heard true"},
		"it leaves in between":     {fine, fine, "between", false, "long form", "heard false"},
		"another handler drops it": {fine, fine, "", true, "long form", "heard false"},
	} {
		for _, form := range []string{"proxy", "long form"} {
			if c.form != "" && c.form != form {
				continue
			}
			t.Run(name+", "+form, func(t *testing.T) {
				ctx, hangUp := context.WithCancel(t.Context())
				defer hangUp()
				client := &failing{httptest.NewRecorder(), c.write, func() error {
					if c.hangsUp == "after" {
						hangUp()
					}
					return c.flush()
				}}
				answering := roundTripper(func(r *http.Request) (*http.Response, error) {
					if c.hangsUp == "before" {
						hangUp()
					}
					return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(`{"errCode":"OK"}`)), ContentLength: 16}, nil
				})
				watch := &recorder{client: client.ResponseRecorder}
				guard := newGuard(t, []string{"all"}, nil, nil)
				guard.Watch = watch
				platform := testPlatform
				platform.ErrCode = func([]byte) string { return "OK" }
				platform.Words = func(string, []byte) string { return "" }
				guard.platform = &platform
				r := httptest.NewRequestWithContext(ctx, http.MethodPost, "/v1/x", strings.NewReader("{}"))
				r.Header.Set("Content-Type", "application/json")
				func() {
					defer func() { _ = recover() }() // as net/http does
					serve(guard, form, client, r, answering, func(w http.ResponseWriter) http.ResponseWriter {
						if c.drops {
							return nil
						}
						if c.hangsUp == "between" {
							hangUp()
						}
						return w
					})
				}()
				if len(watch.told) != 3 || watch.told[2] != c.want {
					t.Errorf("the watch was told %q", watch.told)
				}
			})
		}
	}
}

// TestUnfit: what the lean client cannot do goes through net/http's, and so does what the environment has a proxy for.
func TestUnfit(t *testing.T) {
	transport := func(change func(t *reverseproxy.HTTPTransport)) *reverseproxy.HTTPTransport {
		h := &reverseproxy.HTTPTransport{Versions: []string{"1.1"}, Transport: new(http.Transport)}
		change(h)
		return h
	}
	for want, change := range map[string]func(t *reverseproxy.HTTPTransport){
		"":                        func(*reverseproxy.HTTPTransport) {},
		"versions":                func(t *reverseproxy.HTTPTransport) { t.Versions = []string{"1.1", "2"} },
		"forward_proxy_url":       func(t *reverseproxy.HTTPTransport) { t.ForwardProxyURL = "http://127.0.0.1:1" },
		"read_timeout":            func(t *reverseproxy.HTTPTransport) { t.ReadTimeout = 1 },
		"write_timeout":           func(t *reverseproxy.HTTPTransport) { t.WriteTimeout = 1 },
		"response_header_timeout": func(t *reverseproxy.HTTPTransport) { t.ResponseHeaderTimeout = 1 },
		"max_conns_per_host":      func(t *reverseproxy.HTTPTransport) { t.MaxConnsPerHost = 1 },
		"tls_server_name": func(t *reverseproxy.HTTPTransport) {
			t.Transport.DialTLSContext = func(context.Context, string, string) (net.Conn, error) { return nil, nil }
		},
	} {
		if got := unfit(transport(change)); got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
	s := standardFor(func(r *http.Request) (*url.URL, error) {
		if r.URL.Host == "proxied.example:443" {
			return url.Parse("http://127.0.0.1:1")
		}
		return nil, nil
	})
	if client, why := s.client(Endpoint{"https", "proxied.example:443", "proxied.example"}); client != nil || why == "" {
		t.Error("past the environment's proxy")
	}
	client, _ := s.client(Endpoint{"https", "direct.example:443", "direct.example"})
	if client == nil || client.TLS == nil || client.TLS.ServerName != "direct.example" || client.MaxHead != maxHead {
		t.Errorf("%+v", client)
	}
}

func standardFor(proxy func(*http.Request) (*url.URL, error)) *Sender {
	return &Sender{unfit: unfitSystem(), proxy: proxy}
}

// TestHeaderUp: what header_up makes goes out, and never what is the gateway's own or one connection's.
func TestHeaderUp(t *testing.T) {
	p := &Proxy{HeaderUp: &headers.HeaderOps{Set: http.Header{
		"X-Added": {"a"}, "Authorization": {"x"}, "Accept-Encoding": {"gzip"}, "Content-Length": {"1"}, "Transfer-Encoding": {"chunked"},
		"Connection": {"close"}, "Host": {"evil"}, "Idempotency-Key": {"k"}, "Te": {"trailers"}, "Expect": {"100-continue"},
	}, Delete: []string{"User-Agent"}, Replace: map[string][]headers.Replacement{"Accept": {{Search: "app", Replace: "a secret"}}}}}
	r := httptest.NewRequest(http.MethodPost, "/v1/x", nil)
	r = r.WithContext(context.WithValue(r.Context(), caddy.ReplacerCtxKey, caddy.NewReplacer()))
	r.Header = http.Header{"User-Agent": {"app"}, "Accept": {"app"}, "Content-Type": {"application/json"}, "Cookie": {"c"}}
	var got []string
	for _, field := range p.fields(r, new(Call), "signed") {
		got = append(got, field.Name+": "+field.Value)
	}
	slices.Sort(got)
	if want := []string{"Accept-Encoding: identity", "Accept: a secret", "Authorization: signed", "Content-Type: application/json", "X-Added: a"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if r.Host != "example.com" || r.Header.Get("User-Agent") != "app" || r.Header.Get("Accept") != "app" {
		t.Errorf("the client's request has changed: %s %v", r.Host, r.Header)
	}
}

// TestPatience: a call's context makes a timer only for who waits.
func TestPatience(t *testing.T) {
	p := &patience{Context: t.Context(), until: time.Now().Add(time.Hour)}
	if at, ok := p.Deadline(); !ok || at != p.until || p.made != nil {
		t.Error("a timer for nothing")
	}
	if p.Err() != nil {
		t.Error(p.Err())
	}
	over := &patience{Context: t.Context(), until: time.Now().Add(-time.Second)}
	<-over.Done()
	if !errors.Is(over.Err(), context.DeadlineExceeded) {
		t.Error(over.Err())
	}
	p.end()
	over.end()
}
