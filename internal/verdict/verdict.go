// Package verdict runs a chain of handlers and says whether the app behind it has taken what it was sent. It knows no
// platform.
package verdict

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"unicode"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/internal/ratelog"
)

// Verdict is what the app made of an event.
type Verdict struct {
	Taken    bool
	TimedOut bool
	Late     bool   // timed out, but then the app answered all the same, whole, and had taken it
	Status   int    // the app's; 0 where it gave none
	Encoded  bool   // a 2xx whose body, having a Content-Encoding, could not be read
	Answer   []byte // the beginning of the app's answer
	Err      error
}

// Acks are the ways to say that an event was taken.
const (
	// In either way, a body with a Content-Encoding, which cannot be read, does not say that the event was taken.

	// AckWord asks for a 2xx whose body is empty or says SUCCESS or OK.
	AckWord = "word"
	// Ack2xx asks for any 2xx but one whose body says FAILED or FAIL.
	Ack2xx = "2xx"
)

// ErrNoHandler says that nobody was there to take an event.
var ErrNoHandler = errors.New("no handler answered: is there a reverse_proxy, php_fastcgi or other handler behind?")

// Deliver runs the rest of the chain and judges its answer, of which nothing reaches whoever sent the request.
func Deliver(r *http.Request, next caddyhttp.Handler, ack string, logger *zap.Logger) Verdict {
	answer := answerWriter{header: make(http.Header)}
	err := run(&answer, r, next, logger)
	verdict := Verdict{Status: answer.status, Answer: answer.kept, Err: err}
	if answer.unreadable() {
		verdict.Answer = nil
		verdict.Encoded = err == nil && answer.status <= 299
	}
	switch {
	case r.Context().Err() != nil, isTimeout(err):
		verdict.TimedOut = true
		verdict.Late = err == nil && answer.taken(ack)
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
			LogPanic(logger, "panic in a handler on the way to the app", v)
			err = fmt.Errorf("a handler panicked (%T)", v)
		}
	}()
	return next.ServeHTTP(w, r)
}

// LogPanic must be called while the panic is being recovered from. The value may hold anything: its type and the stack
// tell enough. It logs each message, which is a constant, at most ten times a minute: a handler may panic at every retry.
func LogPanic(logger *zap.Logger, message string, v any) {
	if suppressed, ok := panics.Allow(message); ok {
		logger.Error(message, zap.String("type", fmt.Sprintf("%T", v)), zap.ByteString("stack", debug.Stack()), zap.Int("suppressed", suppressed))
	}
}

var panics = ratelog.New(10)

// answerKept is how much of the app's answer is kept: more than any word, and enough for a log line.
const answerKept = 512

// answerWriter takes the app's answer and lets nothing of it through. It has its own header map and no Unwrap, so that
// nothing behind it reaches the real writer.
type answerWriter struct {
	header http.Header
	status int
	coded  bool   // it has a Content-Encoding
	kept   []byte // without white space in front
	more   bool   // there was more than was kept, other than white space
}

func (w *answerWriter) Header() http.Header { return w.header }

func (w *answerWriter) WriteHeader(status int) {
	if status >= 200 && w.status == 0 {
		w.status = status
		w.coded = encoded(w.header)
	}
}

// encoded reports whether a body is not as the app wrote it. Some apps take the header for the charset's.
func encoded(header http.Header) bool {
	for _, value := range header["Content-Encoding"] {
		for coding := range strings.SplitSeq(value, ",") {
			switch strings.ToLower(strings.TrimSpace(coding)) {
			case "", "identity", "utf-8", "utf8":
			default:
				return true
			}
		}
	}
	return false
}

// words are those that an answer may be.
var words = []string{"SUCCESS", "OK", "FAILED", "FAIL"}

// unreadable reports whether there is a body that may say anything. What says a word as it stands can be read all the same.
func (w *answerWriter) unreadable() bool {
	return w.coded && (len(w.kept) > 0 || w.more) && !w.says(words...)
}

// says reports whether the whole body is one of these words.
func (w *answerWriter) says(words ...string) bool {
	word := bytes.TrimFunc(w.kept, unicode.IsSpace)
	return !w.more && slices.ContainsFunc(words, func(s string) bool { return strings.EqualFold(s, string(word)) })
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
	if w.status < 200 || w.status > 299 || w.unreadable() {
		return false
	}
	if ack == Ack2xx {
		return !w.says("FAILED", "FAIL")
	}
	return w.says("", "SUCCESS", "OK")
}

// Interface guards
var (
	_ http.ResponseWriter = (*answerWriter)(nil)
	_ http.Flusher        = (*answerWriter)(nil)
)
