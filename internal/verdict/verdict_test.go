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

// TestDeliverKeepsLittle: the app's answer takes no memory.
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
