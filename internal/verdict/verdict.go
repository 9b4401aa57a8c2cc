// Package verdict runs a chain of handlers and reports whether the app behind it has taken the event. It knows no platform.
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

// Verdict is the result of handing an event to the app.
type Verdict struct {
	Taken    bool
	TimedOut bool
	Late     bool   // it timed out, but then the app answered completely after all, and had taken it
	Status   int    // the app's; 0 if it gave none
	Encoded  bool   // a 2xx whose body could not be read, because it has a Content-Encoding
	Answer   []byte // the beginning of the app's answer
	Err      error
}

// The ways in which an app can say that it has taken an event.
const (
	// In both, a body with a Content-Encoding does not count as taken, because it cannot be read.

	// AckWord requires a 2xx whose body is empty, SUCCESS or OK.
	AckWord = "word"
	// Ack2xx requires any 2xx, unless its body is FAILED or FAIL.
	Ack2xx = "2xx"
)

// ErrNoHandler is the error of a chain in which no handler answers.
var ErrNoHandler = errors.New("no handler answered: is there a reverse_proxy, php_fastcgi or other handler behind?")

// Deliver runs the rest of the chain and judges its answer. Nothing of the answer reaches the sender of the request.
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

// isTimeout reports whether a handler stopped waiting at a time limit of its own, such as php_fastcgi's read_timeout.
func isTimeout(err error) bool {
	failed, ok := errors.AsType[caddyhttp.HandlerError](err)
	return ok && failed.StatusCode == http.StatusGatewayTimeout
}

func run(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, logger *zap.Logger) (err error) {
	defer func() {
		if v := recover(); v != nil {
			if v == http.ErrAbortHandler {
				// reverse_proxy panics with this value if the app's answer breaks off.
				err = http.ErrAbortHandler
				return
			}
			LogPanic(logger, "panic in a handler on the way to the app", v)
			err = fmt.Errorf("a handler panicked (%T)", v)
		}
	}()
	return next.ServeHTTP(w, r)
}

// LogPanic logs a panic. It must be called by the deferred function that recovers. It logs the type of the value and the
// stack, but not the value, which may hold anything. message must be a constant. Each message is logged at most ten times
// a minute, because a handler may panic at every retry.
func LogPanic(logger *zap.Logger, message string, v any) {
	if suppressed, ok := panics.Allow(message); ok {
		logger.Error(message, zap.String("type", fmt.Sprintf("%T", v)), zap.ByteString("stack", debug.Stack()), zap.Int("suppressed", suppressed))
	}
}

var panics = ratelog.New(10)

// answerKept is how many bytes of the app's answer are kept: more than any word has, and enough for a log line.
const answerKept = 512

// answerWriter records the app's answer and passes nothing on. It has its own header map and no Unwrap method, so that no
// handler can reach the real writer.
type answerWriter struct {
	header http.Header
	status int
	coded  bool   // it has a Content-Encoding
	kept   []byte // without leading white space
	more   bool   // more followed than was kept, other than white space
}

func (w *answerWriter) Header() http.Header { return w.header }

func (w *answerWriter) WriteHeader(status int) {
	if status >= 200 && w.status == 0 {
		w.status = status
		w.coded = encoded(w.header)
	}
}

// encoded reports whether a Content-Encoding has changed the body. Some apps write a charset into this header.
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

// words are the answers that have a meaning.
var words = []string{"SUCCESS", "OK", "FAILED", "FAIL"}

// unreadable reports whether the answer has a body that cannot be read. A body that is one of the words as it stands can be
// read, whatever its Content-Encoding says.
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

// Flush exists for handlers that need a Flusher. There is nothing to flush.
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
