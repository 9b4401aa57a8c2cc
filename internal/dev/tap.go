package dev

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-chinaums/caddy-chinaums/internal/text"
)

// tap is a handler that tells what passes at its place in the chain. It changes nothing.
type tap struct {
	// At is the place: call, in front of the way out; notify, in front of the way in; app, in front of the app.
	At string `json:"at"`
}

// registerTap makes the handler known, in this process only: no other gateway has it.
var registerTap = sync.OnceFunc(func() {
	caddy.RegisterModule(tap{})
	httpcaddyfile.RegisterHandlerDirective("chinaums_dev", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		t := new(tap)
		return t, t.UnmarshalCaddyfile(h.Dispenser)
	})
})

// current is where the taps of the run that is under way print. Caddy, too, is there once in a process.
var current atomic.Pointer[printer]

// CaddyModule returns the Caddy module information.
func (tap) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.chinaums_dev", New: func() caddy.Module { return new(tap) }}
}

// UnmarshalCaddyfile reads `chinaums_dev call|notify|app`.
func (t *tap) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.Args(&t.At) || d.NextArg() || t.At != "call" && t.At != "notify" && t.At != "app" {
		return d.ArgErr()
	}
	return nil
}

// exchange is a notification on its way through the gateway.
type exchange struct {
	mu     sync.Mutex
	event  bool // it has come as far as the app
	status int  // the app's; 0 if it has not answered
}

type exchangeKey struct{}

// ServeHTTP passes the request on and prints.
func (t *tap) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	p := current.Load()
	if p == nil {
		return next.ServeHTTP(w, r)
	}
	answer := &listener{ResponseWriter: w}
	switch t.At {
	case "call":
		err := next.ServeHTTP(answer, r)
		p.call(r, answer.Header().Get("Gateway-Outcome"), answer.statusOr(err), answer.start)
		return err
	case "notify":
		x := new(exchange)
		err := next.ServeHTTP(answer, r.WithContext(context.WithValue(r.Context(), exchangeKey{}, x)))
		x.mu.Lock()
		defer x.mu.Unlock()
		status, word, reason := answer.statusOr(err), string(answer.start), placeholder(r, "reason")
		switch {
		case x.event:
			p.told(x.status, word, reason)
		case status < 300 && reason == "":
			p.stored(word)
		default:
			p.rejected(status, word, reason)
		}
		return err
	default:
		x, _ := r.Context().Value(exchangeKey{}).(*exchange)
		content, err := io.ReadAll(io.LimitReader(r.Body, maxKept))
		if err != nil {
			return err
		}
		r.Body = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(bytes.NewReader(content), r.Body), r.Body}
		if x != nil {
			x.mu.Lock()
			x.event = true
			x.mu.Unlock()
		}
		p.event(r.Header, content)
		err = next.ServeHTTP(answer, r)
		if x != nil {
			x.mu.Lock()
			if x.status = answer.status; x.status == 0 && err == nil {
				x.status = http.StatusOK
			}
			x.mu.Unlock()
		} else {
			p.line("<-- "+p.replied, answer.statusOr(err)) // the inbox decides what to make of it
		}
		return err
	}
}

// placeholder is what a platform's handler says of a request.
func placeholder(r *http.Request, name string) string {
	repl, _ := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if repl == nil {
		return ""
	}
	for _, platform := range []string{ChinaUMS, Shouqianba} {
		if value, ok := repl.GetString("http." + platform + "." + name); ok && value != "" {
			return value
		}
	}
	return ""
}

// maxKept is how much of a body is looked at, in bytes.
const maxKept = 64 << 10

// listener keeps an answer's status and the start of its body.
type listener struct {
	http.ResponseWriter
	status int
	start  []byte
}

// WriteHeader keeps the status.
func (l *listener) WriteHeader(status int) {
	if l.status == 0 && status >= 200 {
		l.status = status
	}
	l.ResponseWriter.WriteHeader(status)
}

// Write keeps the start.
func (l *listener) Write(p []byte) (int, error) {
	if l.status == 0 {
		l.status = http.StatusOK
	}
	l.start = append(l.start, p[:min(len(p), maxKept-len(l.start))]...)
	return l.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController.
func (l *listener) Unwrap() http.ResponseWriter { return l.ResponseWriter }

// statusOr is the answer's status, or the one that Caddy makes of an error.
func (l *listener) statusOr(err error) int {
	var failed caddyhttp.HandlerError
	switch {
	case l.status != 0:
		return l.status
	case errors.As(err, &failed) && failed.StatusCode != 0:
		return failed.StatusCode
	case err != nil:
		return http.StatusInternalServerError
	}
	return http.StatusOK
}

// printer prints what happens, one line each.
type printer struct {
	texts
	mu sync.Mutex
	w  io.Writer
}

func (p *printer) line(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, _ = fmt.Fprintf(p.w, time.Now().Format(time.TimeOnly)+"  "+format+"\n", args...)
}

// call prints a call and its outcome.
func (p *printer) call(r *http.Request, outcome string, status int, answer []byte) {
	var said struct {
		ErrCode    string `json:"errCode"`
		ResultCode string `json:"result_code"`
		ErrorCode  string `json:"error_code"`
		Business   struct {
			ResultCode string `json:"result_code"`
			ErrorCode  string `json:"error_code"`
		} `json:"biz_response"`
	}
	_ = json.Unmarshal(answer, &said) // what is no JSON has no codes
	words := []string{fmt.Sprint(status)}
	for _, word := range []string{outcome, said.ErrCode, said.ResultCode, said.ErrorCode, said.Business.ResultCode, said.Business.ErrorCode} {
		if word != "" {
			words = append(words, clean(word))
		}
	}
	p.line("%s %s %s  %s", p.texts.call, clean(r.Method), clean(r.URL.Path), strings.Join(words, " "))
}

// event prints an event that goes to the app.
func (p *printer) event(header http.Header, content []byte) {
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.UseNumber()
	var said map[string]any
	_ = decoder.Decode(&said)
	kind, amount := header.Get("Ce-Type"), ""
	names := []string{"totalAmount", "total_amount"}
	if strings.Contains(kind, ".refund.") {
		names = []string{"refundAmount", "refund_amount"}
	}
	for _, name := range names {
		if value, found := said[name]; found {
			amount = " " + yuan(fmt.Sprint(value))
		}
	}
	found := ""
	if header.Get("Ce-Evidence") == "query" {
		found = "  " + p.found
	}
	p.line("--> %s %s%s  %s%s", clean(kind), clean(header.Get("Ce-Subject")), amount, clean(header.Get("Ce-Id")), found)
}

// stored prints what the platform hears of a notification that the inbox has, or that the app has had.
func (p *printer) stored(word string) { p.line("<-- "+p.kept, clean(word)) }

// told prints what the app made of an event, and the word that the platform got.
func (p *printer) told(status int, word, reason string) {
	switch {
	case reason == "":
		p.line("<-- "+p.took, status, clean(word))
	case status == 0:
		p.line("<-- "+p.silent, clean(reason), clean(word))
	default:
		p.line("<-- "+p.refused, status, clean(reason), clean(word))
	}
}

// rejected prints a notification that is not believed.
func (p *printer) rejected(status int, word, reason string) {
	p.line("x-- "+p.forged, status, clean(reason), clean(word))
}

// clean is a stranger's text as a terminal may have it: short, and without control characters.
func clean(said string) string {
	plain := !strings.ContainsFunc(said, func(r rune) bool { return r <= ' ' || r > '~' })
	if plain && len(said) <= maxShown {
		return said
	}
	return text.ASCII(said, maxShown)
}

// maxShown is how much of a stranger's text is shown, in bytes.
const maxShown = 80

// yuan writes an amount, which is in fen.
func yuan(fen string) string {
	if fen == "" || len(fen) > 15 || strings.Trim(fen, "0123456789") != "" {
		return clean(fen)
	}
	fen = strings.Repeat("0", max(0, 3-len(fen))) + fen
	return fen[:len(fen)-2] + "." + fen[len(fen)-2:]
}

// Interface guards
var (
	_ caddyhttp.MiddlewareHandler = (*tap)(nil)
	_ caddyfile.Unmarshaler       = (*tap)(nil)
)
