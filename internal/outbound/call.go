package outbound

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-chinaums/caddy-chinaums/internal/body"
	"github.com/caddy-chinaums/caddy-chinaums/internal/fields"
	"github.com/caddy-chinaums/caddy-chinaums/internal/tracing"
	"github.com/caddy-chinaums/caddy-chinaums/internal/wire"
)

// Account is the merchant or terminal whose keys sign a call. It is asked for its key at each attempt, because a key
// may change while the server runs.
type Account interface {
	// Name is the configured name: safe as a metric label.
	Name() string
	// Endpoint is where its platform is.
	Endpoint() Endpoint
}

// Endpoint is a platform's address.
type Endpoint struct {
	Scheme string // http or https
	Dial   string // host:port
	Host   string // the Host header: without the scheme's default port
}

// Platform is what differs between the platforms on the way out. It is fixed per platform.
type Platform struct {
	// Name is the Caddy app's name, and the prefix of placeholders and events.
	Name string
	// Envelope renders the gateway's own answer in the platform's shape.
	Envelope func(e *Error) []byte
	// DeniedPaths are refused where the user names no paths.
	DeniedPaths []string
	// ErrCode finds the platform's error code in an answer, for metrics and logs: a word from a bounded set, or "other".
	ErrCode func(body []byte) string
	// Words finds what the platform says in an answer with this error code, for logs: its own words (errMsg) about a call
	// that it refused, "" where it has done what was asked. Only such words are meant, never a buyer's data.
	Words func(errCode string, body []byte) string
	// Advice says what an operator may do about such a code, and whether somebody has to look at it. It may be nil.
	Advice func(errCode string) (text string, alarm bool)
	// Order finds the merchant's order number in a call's body, for logs; "" where there is none.
	Order func(body []byte) string
	// LikeNotify reports whether a request that was refused for this reason may be one of the platform's notifies, which came
	// to the wrong path. It may be nil.
	LikeNotify func(r *http.Request, reason string) bool
	// NotifyURL is the name of the field in which an order says where its notify goes, or "".
	NotifyURL string
	// Numbers finds the merchant's numbers of the order and of the refund in a call's body, for the console; nil where there
	// are none. They are parts of the body, of which it gets the first 64 KiB. It may be nil.
	Numbers func(body []byte) (order, refund []byte)
	// Validate says what does not fit the documents' tables about a body that is called at a path. It is nil where there
	// are no tables.
	Validate func(path string, body []byte) []fields.Error
}

// The ways of a call. Only one at a time may send it, and nobody once the client was told that it is not sent.
const (
	free  int32 = iota
	taken       // somebody sends it, or has sent it: an attempt of a transport, or a guard behind
	closed
)

type callKey struct{}

// Call is one call that a guard has let pass. It travels in the request's context, where only this package can put it:
// a request without one is never signed.
type Call struct {
	Account Account
	Body    []byte // what the guard read: signed and sent byte for byte

	platform    *Platform
	path        string // as it was allowed
	paths       *paths
	maxResponse int64
	timeout     time.Duration
	client      context.Context // the client's own request's

	// sent is set when a connection was there for the call: from then on it may have been executed.
	sent atomic.Bool
	// answered is set when the platform's answer has been read whole and found good.
	answered atomic.Bool
	errCode  string
	words    string // of a refusal, fit for a log line

	offered bool // the placeholders are the call's own
	told    told
	ticket  *ticket      // nil: no watch was asked about the call
	front   *Call        // the call at the guard in front; nil: there is none
	holds   bool         // it has taken the way of the one in front
	way     atomic.Int32 // who may send the call: free, taken or closed

	// What a Proxy uses, here so that it need not be made: the body's and the answer's buffers, the request's head, the
	// answer's own headers.
	body, answer body.Pooled
	room         [8]wire.Field
	own          [2]string
	patience     patience
}

// release gives the buffers back. What of them is needed later has been copied.
func (c *Call) release() {
	c.Body = nil
	c.body.Release()
	c.answer.Release()
}

// told is what the client was told in the end; before that, it is zero.
type told struct {
	outcome Outcome
	errCode string
}

func callFrom(ctx context.Context) *Call {
	call, _ := ctx.Value(callKey{}).(*Call)
	return call
}

func withCall(r *http.Request, call *Call) *http.Request {
	// A client that goes away must not cut a call that has been sent, so the chain's context does not end with the
	// client; each attempt has a timeout of its own.
	ctx := context.WithValue(context.WithoutCancel(r.Context()), callKey{}, call)
	return r.WithContext(ctx)
}

// merchant is the account's name, "" where a request was refused before it had one.
func (c *Call) merchant() string {
	if c == nil {
		return ""
	}
	return c.Account.Name()
}

// placeholders tells what is known so far, for whatever runs behind the guard: header_down, handle_response.
func (c *Call) placeholders(r *http.Request) {
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return
	}
	c.offered = true
	repl.Map(func(key string) (any, bool) {
		name, ok := strings.CutPrefix(key, "http."+c.platform.Name+".")
		if !ok {
			return nil, false
		}
		now := c.told
		if now.outcome == "" {
			now = told{c.outcome(), c.errCode}
		}
		switch name {
		case "merchant":
			return c.merchant(), true
		case "outcome":
			return string(now.outcome), true
		case "err_code":
			return now.errCode, true
		}
		return nil, false
	})
}

func (c *Call) outcome() Outcome {
	switch {
	case c.answered.Load():
		return Answered
	case c.sent.Load(), c.way.Load() == taken:
		return Unknown
	default:
		return NotSent
	}
}

// take takes the way, and reports whether nobody sends the call, or has sent it.
func (c *Call) take() bool { return c.outcome() == NotSent && c.way.CompareAndSwap(free, taken) }

// leave gives the way back: what has taken it did not send the call.
func (c *Call) leave() { c.way.CompareAndSwap(taken, free) }

// conclude returns the outcome that the client is told. Where it is NotSent, nobody sends the call any more.
func (c *Call) conclude() Outcome {
	c.way.CompareAndSwap(free, closed)
	return c.outcome()
}

// madeBehind takes over the outcome that an answer has from a guard or a gateway behind this call's guard. A call that was
// not sent from here may have been sent from there.
func (c *Call) madeBehind(said []string) {
	if c.sent.Load() || c.answered.Load() {
		return
	}
	unknown := slices.Contains(said, string(Unknown))
	answered := slices.Contains(said, string(Answered))
	if unknown || answered || c.way.Load() == taken {
		c.sent.Store(true)
	}
	if answered && !unknown {
		c.answered.Store(true)
	}
}

func (c *Call) clientHasGone() bool { return c.client.Err() != nil }

// span begins the span of an attempt, if ctx has one already.
func (c *Call) span(ctx context.Context) tracing.Span {
	to := c.Account.Endpoint()
	return tracing.Call(ctx, c.platform.Name, c.Account.Name(), to.Scheme, to.Host, c.path)
}

// endSpan ends it with what became of the attempt.
func (c *Call) endSpan(span tracing.Span, answer *http.Response, failure *Error) {
	if failure != nil {
		span.EndCall(string(failure.Outcome), failure.Code, failure.Code, 0)
		return
	}
	status := 0
	if answer != nil {
		status = answer.StatusCode
	}
	span.EndCall(string(c.outcome()), c.errCode, "", status)
}
