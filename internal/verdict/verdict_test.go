package verdict

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-chinaums/caddy-chinaums/internal/ratelog"
)

func TestDeliver(t *testing.T) {
	for name, test := range map[string]struct {
		handler func(http.ResponseWriter, *http.Request) error
		want    Verdict
		err     string
	}{
		"taken": {func(w http.ResponseWriter, _ *http.Request) error {
			w.Header().Set("Set-Cookie", "a=b")
			w.WriteHeader(201)
			_, err := io.WriteString(w, " ok ")
			return err
		}, Verdict{Taken: true, Status: 201}, ""},
		"the first status counts": {func(w http.ResponseWriter, _ *http.Request) error {
			w.WriteHeader(500)
			w.WriteHeader(200)
			return nil
		}, Verdict{Status: 500}, ""},
		"informational ones do not": {func(w http.ResponseWriter, _ *http.Request) error {
			w.WriteHeader(103)
			return nil
		}, Verdict{}, "no handler answered"},
		"flushed":       {func(w http.ResponseWriter, _ *http.Request) error { return http.NewResponseController(w).Flush() }, Verdict{Taken: true, Status: 200}, ""},
		"error":         {func(http.ResponseWriter, *http.Request) error { return errors.New("broken") }, Verdict{}, "broken"},
		"gateway error": {func(http.ResponseWriter, *http.Request) error { return caddyhttp.Error(504, errors.New("late")) }, Verdict{TimedOut: true}, "late"},
		"too late": {func(w http.ResponseWriter, r *http.Request) error {
			<-r.Context().Done()
			return r.Context().Err()
		}, Verdict{TimedOut: true}, "canceled"},
		"an answer that came too late": {func(w http.ResponseWriter, r *http.Request) error {
			<-r.Context().Done()
			w.WriteHeader(204)
			return nil
		}, Verdict{TimedOut: true, Late: true, Status: 204}, ""},
		"a refusal that came too late": {func(w http.ResponseWriter, r *http.Request) error {
			<-r.Context().Done()
			w.WriteHeader(500)
			return nil
		}, Verdict{TimedOut: true, Status: 500}, ""},
		"an answer that came too late and broke off": {func(w http.ResponseWriter, r *http.Request) error {
			<-r.Context().Done()
			w.WriteHeader(200)
			panic(http.ErrAbortHandler)
		}, Verdict{TimedOut: true, Status: 200}, "abort"},
		"panic": {func(http.ResponseWriter, *http.Request) error { panic("secret") }, Verdict{}, "a handler panicked (string)"},
		"abort": {func(http.ResponseWriter, *http.Request) error { panic(http.ErrAbortHandler) }, Verdict{}, "abort"},
	} {
		t.Run(name, func(t *testing.T) {
			panics = ratelog.New(10)
			core, logs := observer.New(zapcore.DebugLevel)
			handler := caddyhttp.HandlerFunc(test.handler)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if strings.Contains(name, "too late") {
				cancel()
			}
			got := Deliver(httptest.NewRequest("POST", "/", nil).WithContext(ctx), handler, AckWord, zap.New(core))
			if got.Taken != test.want.Taken || got.TimedOut != test.want.TimedOut || got.Late != test.want.Late || got.Status != test.want.Status {
				t.Errorf("verdict %+v", got)
			}
			if (got.Err == nil) != (test.err == "") || got.Err != nil && !strings.Contains(got.Err.Error(), test.err) {
				t.Errorf("error %v, want %q", got.Err, test.err)
			}
			for _, entry := range logs.All() {
				for _, field := range entry.Context {
					if field.String == "secret" {
						t.Error("the value of a panic is logged")
					}
				}
			}
			if want := name == "panic"; (logs.Len() == 1) != want {
				t.Errorf("%d lines", logs.Len())
			}
		})
	}
}

// TestDeliverKeepsLittle: only the beginning of a large answer is kept in memory.
func TestDeliverKeepsLittle(t *testing.T) {
	handler := caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
		for range 1000 {
			if n, err := w.Write(make([]byte, 1<<10)); n != 1<<10 || err != nil {
				t.Errorf("wrote %d, %v", n, err)
			}
		}
		return nil
	})
	got := Deliver(httptest.NewRequest("POST", "/", nil), handler, Ack2xx, zap.NewNop())
	if !got.Taken || len(got.Answer) != answerKept || cap(got.Answer) > 4*answerKept {
		t.Errorf("kept %d of %d bytes", len(got.Answer), cap(got.Answer))
	}
}

// TestDeliverEncoded: a compressed answer does not count as taken, because it may be a refusal.
func TestDeliverEncoded(t *testing.T) {
	const gzipped = "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x73\x73\xf4\xf4\x71\x75\x01\x00\xb5\x3c\x1c\x9f\x06\x00\x00\x00"
	for name, test := range map[string]struct {
		status         int
		encoding, body string
		ack            string
		taken, encoded bool
	}{
		"gzip":                {200, "gzip", gzipped, AckWord, false, true},
		"gzip, 2xx":           {200, "gzip", gzipped, Ack2xx, false, true},
		"br, 2xx":             {201, "BR", "\x0b\x02\x80FAILED\x03", Ack2xx, false, true},
		"two, 2xx":            {200, "identity, gzip", gzipped, Ack2xx, false, true},
		"gzip that failed":    {500, "gzip", gzipped, Ack2xx, false, false},
		"gzip of nothing":     {204, "gzip", "", AckWord, true, false},
		"identity":            {200, "identity", "SUCCESS", AckWord, true, false},
		"identity, 2xx":       {200, "Identity", "{}", Ack2xx, true, false},
		"empty, 2xx":          {200, "", "{}", Ack2xx, true, false},
		"a charset, 2xx":      {200, "UTF-8", "{}", Ack2xx, true, false},
		"a charset, FAILED":   {200, "utf-8", "FAILED", Ack2xx, false, false},
		"a word all the same": {200, "gzip", "SUCCESS", AckWord, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			handler := caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
				w.Header().Set("Content-Encoding", test.encoding)
				w.WriteHeader(test.status)
				_, err := io.WriteString(w, test.body)
				return err
			})
			got := Deliver(httptest.NewRequest("POST", "/", nil), handler, test.ack, zap.NewNop())
			if got.Taken != test.taken || got.Encoded != test.encoded || got.Err != nil {
				t.Errorf("verdict %+v", got)
			}
			if got.Encoded && len(got.Answer) > 0 {
				t.Errorf("%q is kept for people to read", got.Answer)
			}
		})
	}
}

// TestPanicsAreLoggedAtTimes: a handler that panics at each retry does not flood the log.
func TestPanicsAreLoggedAtTimes(t *testing.T) {
	panics = ratelog.New(10)
	core, logs := observer.New(zapcore.DebugLevel)
	handler := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { panic("again") })
	for range 100 {
		if got := Deliver(httptest.NewRequest("POST", "/", nil), handler, AckWord, zap.New(core)); got.Err == nil {
			t.Fatalf("verdict %+v", got)
		}
	}
	if logs.Len() != 10 {
		t.Errorf("%d lines in a minute, want 10", logs.Len())
	}
}
