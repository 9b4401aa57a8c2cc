package webhook

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/requestbody"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/google/uuid"
)

// provision makes a ready handler whose clock stands at the example's time.
func provision(t testing.TB, handler *Handler) *Handler {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	t.Cleanup(cancel)
	handler.now = func() time.Time { return time.Unix(exampleTimestamp, 0) }
	if err := handler.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	return handler
}

// seen is what the next handler got.
type seen struct {
	calls   int
	header  http.Header
	body    []byte
	length  int64
	trailer http.Header
}

func (s *seen) ServeHTTP(_ http.ResponseWriter, r *http.Request) error {
	s.calls++
	s.header, s.length, s.trailer = r.Header, r.ContentLength, r.Trailer
	var err error
	s.body, err = io.ReadAll(r.Body)
	return err
}

func serve(handler *Handler, r *http.Request, next caddyhttp.Handler) error {
	w := httptest.NewRecorder()
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, new(caddyhttp.Server))
	return handler.ServeHTTP(w, r, next)
}

func post(body string) *http.Request {
	return httptest.NewRequest(http.MethodPost, "/paid", strings.NewReader(body))
}

func TestHandlerSigns(t *testing.T) {
	t.Setenv("WEBHOOK_TEST_SECRET", exampleSecret)
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte("from a file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	timestamp := strconv.Itoa(exampleTimestamp)
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(exampleSecret, "whsec_"))
	if err != nil {
		t.Fatal(err)
	}

	for _, test := range []struct {
		name    string
		secrets []string
		keys    []string
	}{
		{"one literal", []string{"plain"}, []string{"plain"}},
		{"base64", []string{exampleSecret}, []string{string(key)}},
		{"from the environment", []string{"{env.WEBHOOK_TEST_SECRET}"}, []string{string(key)}},
		{"from a file, without its line break", []string{"{file." + file + "}"}, []string{"from a file"}},
		{"placeholder in a text", []string{"a-{file." + file + "}-z"}, []string{"a-from a file-z"}},
		{"white space, which is part of it", []string{" spaced\t"}, []string{" spaced\t"}},
		{"braces of its own", []string{"a{b}c"}, []string{"a{b}c"}},
		{"rotation", []string{"new", "{env.WEBHOOK_TEST_SECRET}", "oldest"}, []string{"new", string(key), "oldest"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			handler := provision(t, &Handler{Secrets: test.secrets})
			r := post(exampleBody)
			r.Header.Set("Ce-Id", exampleID)
			var next seen
			if err := serve(handler, r, &next); err != nil {
				t.Fatal(err)
			}

			var want []string
			for _, key := range test.keys {
				want = append(want, independentSignature([]byte(key), exampleID, timestamp, exampleBody))
			}
			for name, value := range map[string]string{
				"Webhook-Id":        exampleID,
				"Webhook-Timestamp": timestamp,
				"Webhook-Signature": strings.Join(want, " "),
				"Content-Length":    strconv.Itoa(len(exampleBody)),
				"Ce-Id":             exampleID,
			} {
				if got := next.header.Values(name); len(got) != 1 || got[0] != value {
					t.Errorf("%s: got %q, want %q once", name, got, value)
				}
			}
			if string(next.body) != exampleBody || next.length != int64(len(exampleBody)) {
				t.Errorf("next got %q of length %d", next.body, next.length)
			}

			encoded, err := json.Marshal(handler)
			if err != nil {
				t.Fatal(err)
			}
			var config struct{ Secrets []string }
			if err := json.Unmarshal(encoded, &config); err != nil {
				t.Fatal(err)
			}
			if fmt.Sprint(config.Secrets) != fmt.Sprint(test.secrets) {
				t.Errorf("the configuration shows %q", config.Secrets)
			}
		})
	}
}

func TestHandlerTimeIsFreshAtEachDelivery(t *testing.T) {
	handler := provision(t, &Handler{Secrets: []string{"plain"}})
	for i := range int64(3) {
		handler.now = func() time.Time { return time.Unix(exampleTimestamp+100*i, 0) }
		r := post("x")
		r.Header.Set("Ce-Id", "same")
		var next seen
		if err := serve(handler, r, &next); err != nil {
			t.Fatal(err)
		}
		if err := Verify("plain", next.header, next.body, time.Unix(exampleTimestamp+100*i, 0), 0); err != nil {
			t.Errorf("delivery %d: %v", i, err)
		}
	}
}

func TestHandlerMakesAnID(t *testing.T) {
	handler := provision(t, &Handler{Secrets: []string{"plain"}})
	for _, test := range []struct {
		name   string
		header http.Header
	}{
		{"no Ce-Id", http.Header{}},
		{"empty Ce-Id", http.Header{"Ce-Id": {""}}},
		{"only another spelling", http.Header{"Ce_id": {"forged"}}},
		{"only a longer name", http.Header{"Ce-Id-Extra": {"other"}}},
		{"only the client's own id", http.Header{"Webhook-Id": {"forged"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			ids := map[string]bool{}
			for range 2 {
				r := post("x")
				r.Header = test.header.Clone()
				var next seen
				if err := serve(handler, r, &next); err != nil {
					t.Fatal(err)
				}
				id := next.header.Get("Webhook-Id")
				if _, err := uuid.Parse(id); err != nil {
					t.Errorf("id %q: %v", id, err)
				}
				if err := Verify("plain", next.header, next.body, time.Unix(exampleTimestamp, 0), 0); err != nil {
					t.Error(err)
				}
				ids[id] = true
			}
			if len(ids) != 2 {
				t.Errorf("two requests, ids %v", ids)
			}
		})
	}
}

// A CGI application sees Webhook_Signature and Webhook-Signature as the same
// variable, and may get the client's instead of ours.
func TestHandlerDropsSmuggledHeaders(t *testing.T) {
	handler := provision(t, &Handler{Secrets: []string{"plain"}})
	r := post("x")
	r.Header = http.Header{"Ce-Id": {"1"}, "Webhookish": {"kept"}, "X-Webhook-Id": {"kept"}, "Webhook": {"kept"}}
	for _, name := range []string{
		"Webhook-Id", "webhook-id", "WEBHOOK-ID", "Webhook_Id", "Webhook_id", "webhook.id", "Webhook.Id", "wEbHoOk_sIgNaTuRe",
		"Webhook-Signature", "Webhook_Signature", "Webhook.Signature", "Webhook-Timestamp", "Webhook_Timestamp",
		"Webhook-", "Webhook_", "Webhook-Anything", "webhook_anything",
	} {
		r.Header[name] = []string{"forged", "forged again"}
	}
	var next seen
	if err := serve(handler, r, &next); err != nil {
		t.Fatal(err)
	}
	for name, values := range next.header {
		for _, value := range values {
			if strings.HasPrefix(value, "forged") {
				t.Errorf("%s: %s came through", name, value)
			}
		}
	}
	for _, name := range []string{"Webhookish", "X-Webhook-Id", "Webhook"} {
		if next.header.Get(name) != "kept" {
			t.Errorf("%s was dropped", name)
		}
	}
	if err := Verify("plain", next.header, next.body, time.Unix(exampleTimestamp, 0), 0); err != nil {
		t.Error(err)
	}

	// The three values share one array: adding to one must not touch another.
	next.header.Add("Webhook-Id", "added")
	if got := next.header.Get("Webhook-Timestamp"); got != strconv.Itoa(exampleTimestamp) {
		t.Errorf("adding an id changed the timestamp to %q", got)
	}
}

func TestHandlerRefusesSeveralIDs(t *testing.T) {
	handler := provision(t, &Handler{Secrets: []string{"plain"}})
	for name, header := range map[string]http.Header{
		"twice":              {"Ce-Id": {"1", "2"}},
		"twice the same":     {"Ce-Id": {"1", "1"}},
		"another spelling":   {"Ce-Id": {"1"}, "Ce_id": {"2"}},
		"two odd spellings":  {"Ce_Id": {"1"}, "Ce.id": {"2"}},
		"not canonical form": {"Ce-Id": {"1"}, "ce-id": {"2"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := post("x")
			r.Header = header
			var next seen
			wantStatus(t, serve(handler, r, &next), http.StatusBadRequest)
			if next.calls != 0 {
				t.Error("the next handler ran")
			}
		})
	}
}

func wantStatus(t *testing.T, err error, status int) {
	t.Helper()
	handlerError, ok := errors.AsType[caddyhttp.HandlerError](err)
	if !ok || handlerError.StatusCode != status {
		t.Errorf("got %v, want status %d", err, status)
	}
}

type lateError struct{}

func (lateError) Error() string { return "late" }
func (lateError) Timeout() bool { return true }

func TestHandlerBody(t *testing.T) {
	handler := provision(t, &Handler{Secrets: []string{"plain"}, MaxSize: 1000})
	read := io.NopCloser
	for _, test := range []struct {
		name   string
		body   io.ReadCloser
		length int64
		want   string
		status int
	}{
		{name: "none", body: nil},
		{name: "no body", body: http.NoBody},
		{name: "known length", body: read(strings.NewReader("abc")), length: 3, want: "abc"},
		{name: "unknown length", body: read(strings.NewReader("abc")), length: -1, want: "abc"},
		{name: "length left at zero by a handler", body: read(strings.NewReader("abc")), want: "abc"},
		{name: "byte by byte", body: read(iotest.OneByteReader(strings.NewReader(strings.Repeat("a", 700)))), length: -1, want: strings.Repeat("a", 700)},
		{name: "end together with the data", body: read(iotest.DataErrReader(strings.NewReader("abc"))), length: 3, want: "abc"},
		{name: "exactly the limit", body: read(strings.NewReader(strings.Repeat("a", 1000))), length: 1000, want: strings.Repeat("a", 1000)},
		{name: "exactly the limit, unknown length", body: read(strings.NewReader(strings.Repeat("a", 1000))), length: -1, want: strings.Repeat("a", 1000)},

		{name: "too large, says so", body: read(iotest.ErrReader(errors.New("must not be read"))), length: 1001, status: 413},
		{name: "too large", body: read(strings.NewReader(strings.Repeat("a", 1001))), length: -1, status: 413},
		{name: "far too large", body: read(strings.NewReader(strings.Repeat("a", 100_000))), length: -1, status: 413},
		{name: "limit of another handler", body: http.MaxBytesReader(nil, read(strings.NewReader("abcdef")), 3), length: 6, status: 413},
		{name: "status of another handler", body: read(iotest.ErrReader(caddyhttp.Error(http.StatusTeapot, io.EOF))), length: 6, status: 418},
		{name: "already read by another handler", body: read(strings.NewReader("")), length: 3, status: 400},
		{name: "already read and no body left", body: nil, length: 3, status: 400},
		{name: "shorter than it says", body: read(strings.NewReader("ab")), length: 3, status: 400},
		{name: "longer than it says", body: read(strings.NewReader("abcd")), length: 3, status: 400},
		{name: "cut", body: read(io.MultiReader(strings.NewReader("ab"), iotest.ErrReader(io.ErrUnexpectedEOF))), length: 3, status: 400},
		{name: "late", body: read(iotest.ErrReader(lateError{})), length: 3, status: 408},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodPost, "/", nil)
			r.Body, r.ContentLength = test.body, test.length
			r.TransferEncoding = []string{"chunked"}
			r.Header.Set("Transfer-Encoding", "chunked")
			r.Header.Set("Content-Length", "77")
			r.Trailer = http.Header{"Webhook-Signature": {"forged"}}
			var next seen
			err := serve(handler, r, &next)
			if test.status != 0 {
				wantStatus(t, err, test.status)
				if next.calls != 0 {
					t.Error("the next handler ran")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if string(next.body) != test.want || next.length != int64(len(test.want)) {
				t.Errorf("next got %d bytes, length %d, want %d", len(next.body), next.length, len(test.want))
			}
			if got := next.header.Get("Content-Length"); got != strconv.Itoa(len(test.want)) {
				t.Errorf("Content-Length is %s", got)
			}
			if next.header.Get("Transfer-Encoding") != "" || next.trailer != nil {
				t.Errorf("Transfer-Encoding %q and trailers %v are left", next.header.Get("Transfer-Encoding"), next.trailer)
			}
			if err := Verify("plain", next.header, next.body, time.Unix(exampleTimestamp, 0), 0); err != nil {
				t.Error(err)
			}
		})
	}

	t.Run("default limit", func(t *testing.T) {
		handler := provision(t, &Handler{Secrets: []string{"plain"}})
		var next seen
		if err := serve(handler, post(strings.Repeat("a", 1<<20)), &next); err != nil {
			t.Error(err)
		}
		wantStatus(t, serve(handler, post(strings.Repeat("a", 1<<20+1)), &next), http.StatusRequestEntityTooLarge)
	})
	t.Run("behind request_body", func(t *testing.T) {
		var next seen
		limit := requestbody.RequestBody{MaxSize: 3}
		r := post("abcd")
		r.ContentLength = -1
		err := limit.ServeHTTP(httptest.NewRecorder(), r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
			return handler.ServeHTTP(w, r, &next)
		}))
		wantStatus(t, err, http.StatusRequestEntityTooLarge)
	})
	t.Run("the error of the next handler is passed on", func(t *testing.T) {
		want := errors.New("broken application")
		got := serve(handler, post("x"), caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return want }))
		if !errors.Is(got, want) {
			t.Errorf("got %v", got)
		}
	})
}

// TestStalledBodies: a body has a time to arrive in. Before, it had none of its own: 150 connections that announced a body
// and sent none were held for as long as the server liked.
func TestStalledBodies(t *testing.T) {
	handler := provision(t, &Handler{Secrets: []string{"plain"}, patience: 100 * time.Millisecond})
	gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, new(caddyhttp.Server))
		err := handler.ServeHTTP(w, r, caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error {
			t.Error("the next handler ran")
			return nil
		}))
		if failed, ok := errors.AsType[caddyhttp.HandlerError](err); ok {
			w.WriteHeader(failed.StatusCode)
		}
	}))
	defer gateway.Close()
	var clients sync.WaitGroup
	for i := range 150 {
		clients.Go(func() {
			connection, err := net.Dial("tcp", gateway.Listener.Addr().String())
			if err != nil {
				t.Error(err)
				return
			}
			defer connection.Close()
			_ = connection.SetDeadline(time.Now().Add(30 * time.Second))
			fmt.Fprint(connection, "POST / HTTP/1.1\r\nHost: a\r\n", []string{"Content-Length: 100", "Transfer-Encoding: chunked"}[i%2], "\r\n\r\n")
			got, err := io.ReadAll(connection)
			if !strings.HasPrefix(string(got), "HTTP/1.1 408 ") || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
	clients.Wait()
}

// deadlines is a connection's writer that notes the deadlines which are set.
type deadlines struct {
	http.ResponseWriter
	set []time.Time
}

func (d *deadlines) SetReadDeadline(at time.Time) error {
	d.set = append(d.set, at)
	return nil
}

func TestBodyDeadline(t *testing.T) {
	handler := provision(t, &Handler{Secrets: []string{"plain"}})
	for name, test := range map[string]struct {
		body   io.Reader
		status int
	}{
		"read":   {strings.NewReader("abc"), 0},
		"late":   {iotest.ErrReader(os.ErrDeadlineExceeded), 408},
		"broken": {iotest.ErrReader(io.ErrUnexpectedEOF), 400},
	} {
		t.Run(name, func(t *testing.T) {
			w := &deadlines{ResponseWriter: httptest.NewRecorder()}
			r := httptest.NewRequest(http.MethodPost, "/", test.body)
			before := time.Now()
			var next seen
			err := handler.ServeHTTP(w, r, &next)
			if len(w.set) != 2 || w.set[0].Before(before.Add(9*time.Second)) || w.set[0].After(time.Now().Add(10*time.Second)) {
				t.Fatalf("deadlines %v", w.set)
			}
			if closes := w.Header().Get("Connection") == "close"; closes != (test.status != 0) || w.set[1].IsZero() != (test.status == 0) {
				t.Errorf("the connection closes: %t; then the deadline %v", closes, w.set[1])
			}
			if test.status != 0 {
				wantStatus(t, err, test.status)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
}

func TestProvisionRefuses(t *testing.T) {
	t.Setenv("WEBHOOK_TEST_EMPTY", "")
	t.Setenv("WEBHOOK_TEST_BROKEN", "whsec_leaked*")
	for _, test := range []struct {
		name    string
		handler Handler
		want    string
	}{
		{"no secrets", Handler{}, "secrets: at least one"},
		{"empty", Handler{Secrets: []string{"fine", ""}}, "secrets[1]: webhook secret: empty"},
		{"unset variable", Handler{Secrets: []string{"{env.WEBHOOK_TEST_UNSET}"}}, `secrets[0]: "{env.WEBHOOK_TEST_UNSET}" is empty or cannot be read`},
		{"empty variable", Handler{Secrets: []string{"fine", "{env.WEBHOOK_TEST_EMPTY}"}}, `secrets[1]: "{env.WEBHOOK_TEST_EMPTY}" is empty`},
		{"no such file", Handler{Secrets: []string{"{file./nonexistent/leak}"}}, `secrets[0]: "{file./nonexistent/leak}" is empty`},
		{"unset variable in a text", Handler{Secrets: []string{"leaked{env.WEBHOOK_TEST_UNSET}"}}, "secrets[0]: holds a placeholder that is empty or unknown"},
		{"unknown placeholder", Handler{Secrets: []string{"{leaked}"}}, "secrets[0]: holds a placeholder"},
		{"request placeholder", Handler{Secrets: []string{"{http.request.host}"}}, "secrets[0]: holds a placeholder"},
		{"unclosed placeholder", Handler{Secrets: []string{"{env.WEBHOOK_TEST_EMPTY"}}, "secrets[0]: holds a placeholder without its closing brace"},
		{"broken base64", Handler{Secrets: []string{"whsec_leaked*"}}, "secrets[0]: webhook secret: what follows whsec_"},
		{"broken base64 from outside", Handler{Secrets: []string{"{env.WEBHOOK_TEST_BROKEN}"}}, "secrets[0]: webhook secret: what follows whsec_"},
		{"nothing after the prefix", Handler{Secrets: []string{"whsec_"}}, "secrets[0]: webhook secret: nothing follows"},
		{"negative size", Handler{Secrets: []string{"fine"}, MaxSize: -1}, "max_size"},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
			defer cancel()
			err := test.handler.Provision(ctx)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got %v, want %q in it", err, test.want)
			}
			if strings.Contains(err.Error(), "leaked") {
				t.Errorf("the error shows the secret: %v", err)
			}
		})
	}
}

// loadWithLog provisions a configuration whose default log is a file, and
// returns what was logged.
func loadWithLog(t *testing.T, secrets ...string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "log")
	encoded, err := json.Marshal(map[string]any{
		"admin":   map[string]any{"disabled": true},
		"logging": map[string]any{"logs": map[string]any{"default": map[string]any{"writer": map[string]any{"output": "file", "filename": file}}}},
		"apps": map[string]any{"http": map[string]any{"servers": map[string]any{"test": map[string]any{
			"listen": []string{"127.0.0.1:0"},
			"routes": []any{map[string]any{"handle": []any{map[string]any{"handler": "webhook_signature", "secrets": secrets}}}},
		}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	var config caddy.Config
	if err := json.Unmarshal(encoded, &config); err != nil {
		t.Fatal(err)
	}
	if err := caddy.Validate(&config); err != nil {
		t.Fatal(err)
	}
	logged, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return string(logged)
}

func TestLiteralSecretIsAWarning(t *testing.T) {
	t.Setenv("WEBHOOK_TEST_SECRET", "never shown")
	const warning = "a secret is written in the configuration"

	logged := loadWithLog(t, "{env.WEBHOOK_TEST_SECRET}", "literal-never-shown", exampleSecret)
	if got := strings.Count(logged, warning); got != 2 {
		t.Errorf("%d warnings, want 2:\n%s", got, logged)
	}
	for _, want := range []string{`"secrets[1]"`, `"secrets[2]"`, `"warn"`} {
		if !strings.Contains(logged, want) {
			t.Errorf("no %s in the log:\n%s", want, logged)
		}
	}
	if strings.Contains(logged, "never") || strings.Contains(logged, exampleSecret) {
		t.Errorf("the log shows a secret:\n%s", logged)
	}
	if logged := loadWithLog(t, "{env.WEBHOOK_TEST_SECRET}"); strings.Contains(logged, warning) {
		t.Errorf("a placeholder was warned about:\n%s", logged)
	}
}

// The whole way: a real server, this handler, Caddy's own proxy, and an
// application that verifies.
func TestThroughReverseProxy(t *testing.T) {
	type delivery struct {
		err     error
		body    []byte
		length  int64
		chunked bool
	}
	deliveries := make(chan delivery, 1)
	application := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = Verify(exampleSecret, r.Header, body, time.Unix(exampleTimestamp, 0), 0)
		}
		deliveries <- delivery{err, body, r.ContentLength, len(r.TransferEncoding) > 0}
	}))
	defer application.Close()

	ctx, err := caddy.ProvisionContext(&caddy.Config{Admin: &caddy.AdminConfig{Disabled: true}})
	if err != nil {
		t.Fatal(err)
	}
	proxy := &reverseproxy.Handler{Upstreams: reverseproxy.UpstreamPool{{Dial: application.Listener.Addr().String()}}}
	if err := proxy.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := proxy.Cleanup(); err != nil {
			t.Error(err)
		}
	}()
	handler := provision(t, &Handler{Secrets: []string{"another", exampleSecret}})
	gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, new(caddyhttp.Server))
		err := handler.ServeHTTP(w, r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
			return proxy.ServeHTTP(w, r, caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil }))
		}))
		if err != nil {
			t.Error(err)
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	defer gateway.Close()

	for _, test := range []struct {
		name   string
		method string
		body   io.Reader
		want   string
	}{
		{"known length", http.MethodPost, strings.NewReader(exampleBody), exampleBody},
		{"chunked, with a forged trailer", http.MethodPost, io.MultiReader(strings.NewReader(exampleBody)), exampleBody},
		{"empty", http.MethodPost, nil, ""},
		{"GET", http.MethodGet, nil, ""},
		{"large", http.MethodPut, strings.NewReader(strings.Repeat("0123456789", 50_000)), strings.Repeat("0123456789", 50_000)},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, err := http.NewRequestWithContext(t.Context(), test.method, gateway.URL, test.body)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Webhook-Signature", "v1,forged")
			if r.ContentLength < 0 || r.Body != nil && r.ContentLength == 0 {
				r.Trailer = http.Header{"Webhook-Signature": {"v1,forged"}}
			}
			response, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			response.Body.Close()
			if response.StatusCode != http.StatusOK {
				t.Fatal(response.Status)
			}
			got := <-deliveries
			if got.err != nil {
				t.Error(got.err)
			}
			if string(got.body) != test.want || got.length != int64(len(test.want)) || got.chunked {
				t.Errorf("the application got %d bytes, length %d, chunked %t", len(got.body), got.length, got.chunked)
			}
		})
	}
}

func TestHandlerConcurrently(t *testing.T) {
	handler := provision(t, &Handler{Secrets: []string{"plain", exampleSecret}})
	var group sync.WaitGroup
	for worker := range 8 {
		group.Go(func() {
			for i := range 50 {
				body := strings.Repeat("x", worker) + strconv.Itoa(i)
				r := post(body)
				r.Header.Set("Ce-Id", fmt.Sprintf("%d-%d", worker, i))
				var next seen
				if err := serve(handler, r, &next); err != nil {
					t.Error(err)
				}
				for _, secret := range []string{"plain", exampleSecret} {
					if err := Verify(secret, next.header, []byte(body), time.Unix(exampleTimestamp, 0), 0); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	group.Wait()
}

func BenchmarkHandler(b *testing.B) {
	for _, secrets := range [][]string{{"plain"}, {"plain", exampleSecret}} {
		b.Run(fmt.Sprintf("secrets=%d", len(secrets)), func(b *testing.B) {
			handler := provision(b, &Handler{Secrets: secrets})
			next := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })
			body := bytes.Repeat([]byte("x"), 1500)
			reader := bytes.NewReader(body)
			r := post("").WithContext(context.Background())
			r.Header.Set("Ce-Id", exampleID)
			b.ReportAllocs()
			for b.Loop() {
				reader.Reset(body)
				r.Body, r.ContentLength = io.NopCloser(reader), int64(len(body))
				if err := handler.ServeHTTP(nil, r, next); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
