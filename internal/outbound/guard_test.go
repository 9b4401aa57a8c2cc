package outbound

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-chinaums/caddy-chinaums/internal/ratelog"
)

var testPlatform = Platform{
	Name:        "test",
	Envelope:    func(e *Error) []byte { b, _ := json.Marshal(map[string]string{"code": e.Code}); return b },
	DeniedPaths: []string{"/v1/token/*"},
	ErrCode:     func([]byte) string { return "other" },
	Order:       func([]byte) string { return "" },
}

type testAccount struct{}

func (testAccount) Name() string { return "shop" }
func (testAccount) Endpoint() Endpoint {
	return Endpoint{"https", "platform.example:443", "platform.example"}
}

func newGuard(t testing.TB, allow, tokens, allowedPaths []string) *Guard {
	g := &Guard{
		MaxSize: 100, MaxResponse: 1000, platform: &testPlatform, flights: new(Flights), logger: zap.NewNop(), refusals: ratelog.New(10),
	}
	err := g.Timeout.UnmarshalJSON([]byte(`"5s"`))
	if err != nil {
		t.Fatal(err)
	}
	if g.access, err = newAccess(allow, tokens); err != nil {
		t.Fatal(err)
	}
	if g.paths, err = newPaths(allowedPaths, testPlatform.DeniedPaths); err != nil {
		t.Fatal(err)
	}
	return g
}

// TestOrderOfTheChecks begins with a request that has every fault and mends one after the other: each time the next
// check must be the one that refuses.
func TestOrderOfTheChecks(t *testing.T) {
	g := newGuard(t, nil, []string{"the-token"}, nil)
	r := httptest.NewRequest("GET", "/v1/token/access", strings.NewReader(strings.Repeat("x", 101)))
	r.RemoteAddr = "203.0.113.7:1"
	r.TLS = &tls.ConnectionState{HandshakeComplete: false}
	r.Header = header("X-Forwarded-For: 203.0.113.7", "Origin: https://x.example", "Content-Type: text/plain")
	var account Account

	steps := []struct {
		reason string
		status int
		mend   func()
	}{
		{"allow", 403, func() { r.RemoteAddr = "127.0.0.1:1" }},
		{"named_address", 403, func() { r.Header.Del("X-Forwarded-For") }},
		{"browser", 403, func() { r.Header.Del("Origin") }},
		{"token", 403, func() { r.Header.Set("Authorization", "Bearer the-token") }},
		{"no_merchant", 404, func() { account = testAccount{} }},
		{"path", 403, func() { r.URL.Path = "/v1/netpay/query" }},
		{"method", 405, func() { r.Method = "POST" }},
		{"early_data", 425, func() { r.TLS.HandshakeComplete = true }},
		{"content_type", 415, func() { r.Header.Set("Content-Type", "application/json") }},
		{"too_large", 413, func() { r.Body, r.ContentLength = io.NopCloser(strings.NewReader("")), 0 }},
		{"empty_body", 400, func() { r.Body, r.ContentLength = io.NopCloser(strings.NewReader("{}")), 2 }},
	}
	for _, step := range steps {
		w := httptest.NewRecorder()
		_, _, refusal := g.Admit(w, r, func() Account { return account })
		if refusal == nil || refusal.Reason != step.reason || refusal.Status != step.status || refusal.Outcome != NotSent {
			t.Fatalf("%s: %+v", step.reason, refusal)
		}
		if allow := w.Header().Get("Allow"); (allow == "POST") != (step.status == 405) {
			t.Errorf("%s: Allow: %q", step.reason, allow)
		}
		step.mend()
	}
	out, call, refusal := g.Admit(httptest.NewRecorder(), r, func() Account { return account })
	if refusal != nil || string(call.Body) != "{}" || out.Header.Get("Authorization") != "" {
		t.Fatalf("mended: %+v, %+v", refusal, out)
	}
}

// TestRefusalsSayWhy: every 403 had the same words, "the gateway refuses this request". An SDK's exception shows nothing
// else, so nobody could tell a slash at the end of its base URL from a missing token.
func TestRefusalsSayWhy(t *testing.T) {
	open, listed := newGuard(t, nil, nil, nil), newGuard(t, nil, []string{"the-token"}, []string{"/v1/netpay/query"})
	bearer := "Authorization: Bearer the-token"
	for _, test := range []struct {
		guard                    *Guard
		peer, path               string
		headers                  []string
		reason, chinese, english string
	}{
		{open, "203.0.113.7:1", "/v1/x", nil, "allow", "调用方的地址不在 allow 中", "the caller's address is not in allow"},
		{open, "127.0.0.1:1", "/v1/x", []string{"X-Forwarded-For: 203.0.113.7"}, "named_address", "有不在 allow 中的地址", "X-Forwarded-For"},
		{open, "127.0.0.1:1", "/v1/x", []string{"Origin: https://x.example"}, "browser", "浏览器", "Sec-Fetch"},
		{listed, "127.0.0.1:1", "/v1/x", []string{`Authorization: OPEN-BODY-SIG AppId="1"`}, "token", "令牌", "Authorization: Bearer"},
		{open, "127.0.0.1:1", "//v1/netpay/query", nil, "path", "不要以斜杠结尾", "base URL without a slash at its end"},
		{listed, "127.0.0.1:1", "//v1/netpay/query", []string{bearer}, "path", "不要以斜杠结尾", "base URL without a slash at its end"},
		{open, "127.0.0.1:1", "/v1/../v1/x", nil, "path", "..", "the path has .."},
		{open, "127.0.0.1:1", "/v1/token/access", nil, "path", "令牌或密钥", "gives out a token or a key"},
		{listed, "127.0.0.1:1", "/v1/netpay/refund", []string{bearer}, "path", "不在 paths 中", "not in paths"},
	} {
		r := httptest.NewRequest("POST", "/", strings.NewReader("{}"))
		r.RemoteAddr, r.URL.Path, r.Header = test.peer, test.path, header(append(test.headers, "Content-Type: application/json")...)
		_, _, refusal := test.guard.Admit(httptest.NewRecorder(), r, func() Account { return testAccount{} })
		if refusal == nil || refusal.Status != 403 || refusal.Code != "GATEWAY_FORBIDDEN" || refusal.Outcome != NotSent || refusal.Reason != test.reason {
			t.Errorf("%s %s: %+v", test.path, test.headers, refusal)
			continue
		}
		chinese, english, _ := strings.Cut(refusal.Message(), " / ")
		if !strings.Contains(chinese, test.chinese) || !strings.Contains(english, test.english) || strings.Contains(english, " / ") {
			t.Errorf("%s %s: it says %q", test.path, test.headers, refusal.Message())
		}
	}
}

func TestContentTypes(t *testing.T) {
	for value, want := range map[string]bool{
		"application/json":                        true,
		"application/json; charset=utf-8":         true,
		"application/json;charset=GBK;x=y":        true,
		"APPLICATION/JSON":                        true,
		"application/json;":                       true,
		"":                                        false,
		"text/json":                               false,
		"application/jsonp":                       false,
		"application/json+x":                      false,
		"application/problem+json":                false,
		"application/x-www-form-urlencoded":       false,
		"application/json, text/plain":            false,
		"text/plain; x=application/json":          false,
		"multipart/form-data; b=application/json": false,
		"application/json\x00":                    false,
		"application/json|application/json":       false,
		"text/plain|application/json":             false,
	} {
		lines := strings.Split(value, "|")
		if value == "" {
			lines = nil
		}
		if got := isJSON(lines); got != want {
			t.Errorf("%q is JSON: %v", value, got)
		}
	}
}

func TestEarlyData(t *testing.T) {
	g := newGuard(t, nil, nil, nil)
	for _, lines := range [][]string{{"1"}, {"0"}, {"0", "1"}, {""}, {"x"}} {
		r := httptest.NewRequest("POST", "/v1/x", strings.NewReader("{}"))
		r.RemoteAddr = "127.0.0.1:1"
		r.Header = http.Header{"Content-Type": {"application/json"}, "Early-Data": lines}
		if _, _, refusal := g.Admit(httptest.NewRecorder(), r, func() Account { return testAccount{} }); refusal == nil || refusal.Status != 425 {
			t.Errorf("Early-Data: %q: %+v", lines, refusal)
		}
	}
}

func TestClientBodies(t *testing.T) {
	type reader = io.Reader
	cases := []struct {
		name   string
		body   reader
		length int64
		status int
		reason string
	}{
		{"exactly max_size", strings.NewReader(strings.Repeat("x", 100)), 100, 0, ""},
		{"exactly max_size, of unknown length", strings.NewReader(strings.Repeat("x", 100)), -1, 0, ""},
		{"announced as too large", iotest.ErrReader(io.ErrNoProgress), 101, 413, "too_large"},
		{"too large, of unknown length", strings.NewReader(strings.Repeat("x", 101)), -1, 413, "too_large"},
		{"limited by a handler in front", http.MaxBytesReader(nil, io.NopCloser(strings.NewReader("12345")), 4), 5, 413, "too_large"},
		{"cut", strings.NewReader("{"), 2, 400, "broken_body"},
		{"broken", iotest.ErrReader(io.ErrNoProgress), -1, 400, "broken_body"},
		{"empty", strings.NewReader(""), 0, 400, "empty_body"},
		{"empty, of unknown length", strings.NewReader(""), -1, 400, "empty_body"},
		{"none", nil, 0, 400, "empty_body"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequest("POST", "/v1/x", c.body)
			r.ContentLength, r.RemoteAddr = c.length, "127.0.0.1:1"
			r.Header.Set("Content-Type", "application/json")
			_, call, refusal := newGuard(t, nil, nil, nil).Admit(httptest.NewRecorder(), r, func() Account { return testAccount{} })
			switch {
			case c.status == 0 && (refusal != nil || len(call.Body) != 100):
				t.Errorf("%+v", refusal)
			case c.status != 0 && (refusal == nil || refusal.Status != c.status || refusal.Reason != c.reason || refusal.Code != "GATEWAY_BAD_REQUEST"):
				t.Errorf("%+v", refusal)
			}
		})
	}
}

func TestScrub(t *testing.T) {
	in := header("Content-Type: a", "Content-Encoding: b", "Accept: c", "User-Agent: d", "Cookie: e", "Authorization: f", "Transfer-Encoding: g",
		"Connection: close", "Te: trailers", "Upgrade: websocket", "Idempotency-Key: h", "Expect: 100-continue", "Content_Type: i", "Via: j",
		"X-Forwarded-For: k", "Traceparent: l", "Host: m", "Trailer: n", "Accept-Encoding: gzip", "Range: bytes=0-1", "Incremental: ?1")
	out := scrub(in)
	for name := range out {
		switch name {
		case "Content-Type", "Content-Encoding", "Accept", "User-Agent":
		default:
			t.Errorf("%s passes", name)
		}
	}
	if len(out) != 4 {
		t.Errorf("%v", out)
	}
}

// TestOutcomeWriter: whoever writes behind the guard, the first byte carries the guard's own outcome.
func TestOutcomeWriter(t *testing.T) {
	sent := new(Call)
	sent.sent.Store(true)
	ways := map[string]func(w *outcomeWriter){
		"WriteHeader": func(w *outcomeWriter) { w.WriteHeader(200) },
		"Write":       func(w *outcomeWriter) { _, _ = w.Write([]byte("x")) },
		"ReadFrom":    func(w *outcomeWriter) { _, _ = w.ReadFrom(strings.NewReader("x")) },
		"flush":       func(w *outcomeWriter) { _ = http.NewResponseController(w).Flush() },
		"interim":     func(w *outcomeWriter) { w.WriteHeader(103); w.WriteHeader(200) },
	}
	for name, way := range ways {
		recorder := httptest.NewRecorder()
		w := newOutcomeWriter(recorder, sent)
		w.Header().Set(OutcomeHeader, "answered")
		way(w)
		if recorder.Code != 200 || recorder.Header().Get(OutcomeHeader) != "unknown" {
			t.Errorf("%s: %d, %v", name, recorder.Code, recorder.Header())
		}
	}
}

func TestFlightsWait(t *testing.T) {
	flights := new(Flights)
	if !flights.Wait(t.Context()) {
		t.Error("nothing to wait for, but it does")
	}
	flights.Begin()
	flights.Begin()
	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if flights.Wait(short) {
		t.Error("two calls are under way, but it does not wait")
	}
	waited := make(chan bool)
	for range 2 {
		go func() { waited <- flights.Wait(t.Context()) }()
	}
	flights.End()
	flights.End()
	if first, second := <-waited, <-waited; !first || !second {
		t.Error("it does not see the end")
	}
	flights.Begin()
	flights.End()
	if !flights.Wait(t.Context()) {
		t.Error("it does not see the end of a later call")
	}
}

func TestErrorsNameNothing(t *testing.T) {
	cause := &netTimeout{}
	call := new(Call)
	call.sent.Store(true)
	if e := failed(call, cause); e.Code != "GATEWAY_TIMEOUT" || e.Outcome != Unknown || !e.Timeout() {
		t.Errorf("%+v", e)
	}
	e := failed(call, &malformed{})
	if e.Code != "GATEWAY_BAD_RESPONSE" || strings.Contains(e.Error(), "SECRET") || !strings.Contains(e.Error(), "malformed HTTP response") {
		t.Errorf("%v", e)
	}
}

type netTimeout struct{}

func (*netTimeout) Error() string   { return "i/o timeout" }
func (*netTimeout) Timeout() bool   { return true }
func (*netTimeout) Temporary() bool { return true }

type malformed struct{}

func (*malformed) Error() string { return `net/http: malformed HTTP response "SECRET"` }

// TestPanicBeforeTheChain: also where the guard itself fails, the app is told honestly that nothing was sent.
func TestPanicBeforeTheChain(t *testing.T) {
	logs, observed := observer.New(zap.DebugLevel)
	g := newGuard(t, nil, nil, nil)
	g.logger = zap.New(logs)
	r := httptest.NewRequest("POST", "/v1/x", strings.NewReader("{}"))
	r.RemoteAddr = "127.0.0.1:1"
	w := httptest.NewRecorder()
	if err := g.Serve(w, r, func() Account { panic("the key is SECRET") }, nil); err != nil {
		t.Fatal(err)
	}
	if w.Code != 500 || w.Header().Get(OutcomeHeader) != "not_sent" || !strings.Contains(w.Body.String(), "GATEWAY_INTERNAL") {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
	for _, entry := range observed.All() {
		if strings.Contains(fmt.Sprint(entry.Message, entry.ContextMap()), "SECRET") {
			t.Errorf("%v", entry)
		}
	}
	if observed.Len() != 2 {
		t.Errorf("%d log lines", observed.Len())
	}
}

// TestWatchOfAnotherAnswer: the answer of a page for maintenance, say, was told without a code, as that of a link is. The
// watch took the refund for one that had been answered, and let no other pass until it knew more.
func TestWatchOfAnotherAnswer(t *testing.T) {
	g := newGuard(t, nil, nil, nil)
	watch := &recorder{client: httptest.NewRecorder()}
	g.Watch = watch
	r := httptest.NewRequest(http.MethodPost, "/v1/x", strings.NewReader("{}"))
	r.RemoteAddr = "127.0.0.1:1"
	r.Header.Set("Content-Type", "application/json")
	err := g.Serve(watch.client, r, func() Account { return testAccount{} }, caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
		w.WriteHeader(http.StatusServiceUnavailable)
		return nil
	}))
	if want := []string{"before /v1/x {}", "after not_sent other "}; err != nil || len(watch.told) != 3 || !slices.Equal(watch.told[:2], want) {
		t.Errorf("%v, told %q", err, watch.told)
	}
}

// TestOpaque: a request line such as `POST a:b HTTP/1.1` leaves the path empty. A rewrite in front then gave it one, which was
// judged, but what went out was the b.
func TestOpaque(t *testing.T) {
	guard := newGuard(t, []string{"all"}, nil, []string{"/v1/netpay/query"})
	r := httptest.NewRequest(http.MethodPost, "/v1/netpay/query", strings.NewReader("{}"))
	r.Header.Set("Content-Type", "application/json")
	r.URL.Opaque = "@evil.example/v1/netpay/refund"
	_, _, refusal := guard.Admit(httptest.NewRecorder(), r, func() Account { return testAccount{} })
	if refusal == nil || refusal.Status != http.StatusForbidden || refusal.Reason != "path" {
		t.Errorf("%v", refusal)
	}
}
