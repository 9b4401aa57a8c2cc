package inbound

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/internal/body"
)

// Context holds the CloudEvents 1.0 context attributes of one event, un-encoded. Empty ones are absent.
type Context struct {
	ID, Source, Type, Subject, Time string

	// Confirmed is an extension: what the platform said when it was asked about the event.
	Confirmed string
}

// Headers appends the attributes as HTTP headers to header, values percent-encoded as the CloudEvents HTTP binding says
// (3.1.3.2).
func (c *Context) Headers(header http.Header) {
	values := make([]string, 0, 7) // one array for all of them
	set := func(name, value string) {
		if value != "" {
			values = append(values, value)
			header[name] = values[len(values)-1 : len(values) : len(values)]
		}
	}
	set("Ce-Specversion", "1.0")
	set("Ce-Id", percentEncode(c.ID))
	set("Ce-Source", percentEncode(c.Source))
	set("Ce-Type", percentEncode(c.Type))
	set("Ce-Subject", percentEncode(c.Subject))
	set("Ce-Time", c.Time)
	set("Ce-Confirmed", c.Confirmed)
}

func percentEncode(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '"' || r == '%' }) < 0 {
		return s
	}
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '"' || c == '%' {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// Prepare makes of the sender's request the one that the app gets: the sender's headers but for a few taken off, the
// query gone, content in the place of the body, and a context that ends by the timeout but not with the sender. The
// header map and the URL are changed in place, so that Caddy's placeholders tell the same as the request.
func Prepare(r *http.Request, content []byte, contentType string, attributes *Context, timeout time.Duration) (*http.Request, context.CancelFunc) {
	for name := range r.Header {
		switch name {
		case "User-Agent", "Traceparent", "Tracestate":
		default:
			if !strings.HasPrefix(name, "X-Forwarded-") {
				delete(r.Header, name)
			}
		}
	}
	r.Header["Content-Type"] = []string{contentType}
	r.Header["Content-Length"] = []string{strconv.Itoa(len(content))}
	attributes.Headers(r.Header)

	ctx := context.WithoutCancel(r.Context())
	if r.URL.RawQuery != "" || r.URL.ForceQuery {
		r.URL.RawQuery, r.URL.ForceQuery = "", false
		// FastCGI tells the app the URI as it first was.
		if original, ok := ctx.Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok && original.URL != nil {
			u := *original.URL
			u.RawQuery, u.ForceQuery = "", false
			original.URL, original.RequestURI = &u, u.RequestURI()
			ctx = context.WithValue(ctx, caddyhttp.OriginalRequestCtxKey, original)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	body.Set(r, content)
	out := r.WithContext(ctx)
	out.RequestURI = r.URL.RequestURI()
	out.Form, out.PostForm, out.MultipartForm = nil, nil, nil
	return out, cancel
}

// Verdict is what the app made of an event.
type Verdict struct {
	Taken    bool
	TimedOut bool
	Status   int    // the app's; 0 where it gave none
	Answer   []byte // the beginning of the app's answer
	Err      error
}

// Acks are the ways to say that an event was taken.
const (
	// AckWord asks for a 2xx whose body is empty or says SUCCESS or OK.
	AckWord = "word"
	// Ack2xx asks for any 2xx but one whose body says FAILED or FAIL.
	Ack2xx = "2xx"
)

// ErrNoHandler says that nobody was there to take an event.
var ErrNoHandler = errors.New("no handler answered: is there a reverse_proxy, php_fastcgi or other handler behind?")

// Deliver runs the rest of the chain and judges its answer, of which nothing reaches the platform.
func Deliver(r *http.Request, next caddyhttp.Handler, ack string, logger *zap.Logger) Verdict {
	answer := answerWriter{header: make(http.Header)}
	err := run(&answer, r, next, logger)
	verdict := Verdict{Status: answer.status, Answer: answer.kept, Err: err}
	switch {
	case r.Context().Err() != nil, isTimeout(err):
		verdict.TimedOut = true
	case err != nil:
	case answer.status == 0:
		verdict.Err = ErrNoHandler
	default:
		verdict.Taken = answer.taken(ack)
	}
	return verdict
}

// isTimeout reports whether a handler gave up waiting by a time limit of its own, such as php_fastcgi's read_timeout.
func isTimeout(err error) bool {
	failed, ok := errors.AsType[caddyhttp.HandlerError](err)
	return ok && failed.StatusCode == http.StatusGatewayTimeout
}

func run(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, logger *zap.Logger) (err error) {
	defer func() {
		if v := recover(); v != nil {
			if v == http.ErrAbortHandler {
				// reverse_proxy's way to say that the app's answer broke off
				err = http.ErrAbortHandler
				return
			}
			LogPanic(logger, "panic in a handler behind the notify", v)
			err = fmt.Errorf("a handler panicked (%T)", v)
		}
	}()
	return next.ServeHTTP(w, r)
}

// LogPanic must be called while the panic is being recovered from. The value may hold anything: its type and the stack
// tell enough.
func LogPanic(logger *zap.Logger, message string, v any) {
	logger.Error(message, zap.String("type", fmt.Sprintf("%T", v)), zap.ByteString("stack", debug.Stack()))
}

// Recovering runs handle. Should it panic before it has answered, the platform gets 500 and word.
func Recovering(w http.ResponseWriter, word string, logger *zap.Logger, handle func(http.ResponseWriter)) {
	answer := &startedWriter{ResponseWriter: w}
	defer func() {
		if v := recover(); v != nil {
			LogPanic(logger, "panic in the handler of notifies", v)
			if !answer.started {
				_ = Say(w, http.StatusInternalServerError, word)
			}
		}
	}()
	handle(answer)
}

// startedWriter knows whether an answer has been begun.
type startedWriter struct {
	http.ResponseWriter
	started bool
}

func (w *startedWriter) WriteHeader(status int) {
	w.started = w.started || status >= 200
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach the deadlines.
func (w *startedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// answerKept is how much of the app's answer is kept: more than any word, and enough for a log line.
const answerKept = 512

// answerWriter takes the app's answer and lets nothing of it through. It has its own header map and no Unwrap, so that
// nothing behind it reaches the real writer.
type answerWriter struct {
	header http.Header
	status int
	kept   []byte // without white space in front
	more   bool   // there was more than was kept, other than white space
}

func (w *answerWriter) Header() http.Header { return w.header }

func (w *answerWriter) WriteHeader(status int) {
	if status >= 200 && w.status == 0 {
		w.status = status
	}
}

func (w *answerWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	text := p
	if len(w.kept) == 0 {
		text = bytes.TrimLeft(text, " \t\r\n")
	}
	n := min(len(text), answerKept-len(w.kept))
	w.kept = append(w.kept, text[:n]...)
	if !w.more {
		w.more = len(bytes.TrimFunc(text[n:], unicode.IsSpace)) > 0
	}
	return len(p), nil
}

// Flush lets handlers that flush believe that they have.
func (w *answerWriter) Flush() { w.WriteHeader(http.StatusOK) }

func (w *answerWriter) taken(ack string) bool {
	if w.status < 200 || w.status > 299 {
		return false
	}
	word := bytes.TrimFunc(w.kept, unicode.IsSpace)
	says := func(words ...string) bool {
		return !w.more && slices.ContainsFunc(words, func(s string) bool { return strings.EqualFold(s, string(word)) })
	}
	if ack == Ack2xx {
		return !says("FAILED", "FAIL")
	}
	return says("", "SUCCESS", "OK")
}

// Say answers the platform with its word.
func Say(w http.ResponseWriter, status int, word string) error {
	header := w.Header()
	header.Set("Content-Type", "text/plain; charset=utf-8")
	header.Set("Content-Length", strconv.Itoa(len(word)))
	w.WriteHeader(status)
	_, err := w.Write([]byte(word))
	return err
}

// Quote makes unverified text fit for a log line: at most limit bytes.
func Quote(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit]
	}
	return strconv.QuoteToASCII(s)
}

// Interface guards
var (
	_ http.ResponseWriter = (*answerWriter)(nil)
	_ http.Flusher        = (*answerWriter)(nil)
)
