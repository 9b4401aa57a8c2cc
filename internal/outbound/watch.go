package outbound

import (
	"bytes"
	"errors"
	"net/http"
	"sync/atomic"
)

// Watch follows a platform's calls. A guard without one asks nobody.
type Watch interface {
	// Before is asked about every call that a guard lets pass, before anything of it is sent. Of guards one behind another only
	// the first one asks, unless the call is changed or sent twice between them. It may take its time, as long as
	// r's context lasts; it may set headers of the answer; and it may refuse the call with an answer of its own, whose
	// outcome is NotSent. After is told of what became of the call that passed, once. A call of chinaums_h5 is asked about
	// too: it ends as NotSent, because nobody is called.
	Before(r *http.Request, header http.Header, call *Call) (after After, refusal *Error)
}

// After takes what became of a call, before its client is told: the outcome, the platform's error code or the gateway's
// own, and the answer as it came. answer is nil where there was none, and must not be kept. nil: the call is not followed.
// What it returns is called once the client has that answer, or can no longer get it. nil: nobody wants to know.
type After func(outcome Outcome, errCode string, status int, answer []byte) (told func(heard bool))

// Path is the platform's interface that is called.
func (c *Call) Path() string { return c.path }

// ticket is what a watch has given for a call. Guards that stand one behind another share it, so that the watch does not take
// one call for two.
type ticket struct {
	watch Watch
	after After                            // nil: the call is not followed
	hear  atomic.Pointer[func(heard bool)] // nil: nobody wants to know
	over  atomic.Bool                      // it has been said what became of the call
}

// ask asks the watch whether a call may be sent, unless a guard in front has asked it about the same one. front is the call that
// this guard has put into the request's context, where nobody else can put one. A ticket is for one sending of one call: where
// that has begun, this is another sending, and the client does not get the answer to the first one.
func (g *Guard) ask(w http.ResponseWriter, r *http.Request, call, front *Call) *Error {
	if call.front = front; front != nil {
		switch {
		case front.take():
			call.holds = true
			if t := front.ticket; t != nil && t.watch == g.Watch && front.Account == call.Account && front.path == call.path && bytes.Equal(front.Body, call.Body) {
				call.ticket = t
				return nil
			}
		case front.way.Load() == closed:
			return errForbidden.because("repeat", errors.New("the client was told that the call is not sent"))
		default:
			front.heard(nil)
		}
	}
	if g.Watch == nil {
		return nil
	}
	after, refusal := g.Watch.Before(r, w.Header(), call)
	if refusal == nil {
		call.ticket = &ticket{watch: g.Watch, after: after}
	}
	return refusal
}

// settle tells the watch what became of the call. What it is told first is what is true.
func (c *Call) settle(outcome Outcome, errCode string, status int, answer []byte) {
	if c == nil {
		return
	}
	if front := c.front; c.holds && outcome == NotSent {
		c.holds = false
		if front.ticket == c.ticket && errCode != "" { // no link: another handler may still send it, which the guard in front knows
			c.ticket = nil
		}
		front.leave()
	}
	t := c.ticket
	if t == nil || t.after == nil || !t.over.CompareAndSwap(false, true) {
		return
	}
	if hear := t.after(outcome, errCode, status, answer); hear != nil {
		t.tells(&hear)
	}
	if c.clientHasGone() { // later it may, with the answer
		c.heard(nil)
	}
}

// tells lets one more know whether the client has been given the answer.
func (t *ticket) tells(hear *func(heard bool)) {
	for hear != nil {
		before, all := t.hear.Load(), hear
		if before != nil {
			both := func(heard bool) {
				(*before)(heard)
				(*hear)(heard)
			}
			all = &both
		}
		if t.hear.CompareAndSwap(before, all) {
			return
		}
	}
}

// awaited reports whether the watch waits to be told that the client has the answer.
func (c *Call) awaited() bool { return c != nil && c.ticket != nil && c.ticket.hear.Load() != nil }

// heard tells the watch whether the client has been given the answer. w has all of it; nil: it was cut, or is another one.
func (c *Call) heard(w http.ResponseWriter) {
	if !c.awaited() {
		return
	}
	for front := c.front; front != nil && w != nil; front = front.front {
		if t := front.ticket; t != nil { // the guard in front tells, which is nearer to the client
			if t != c.ticket {
				t.tells(c.ticket.hear.Swap(nil))
			}
			c.ticket = nil
			return
		}
	}
	hear, heard := c.ticket.hear.Swap(nil), false
	if hear == nil {
		return
	}
	defer func() { (*hear)(heard) }()
	if w != nil {
		err := http.NewResponseController(w).Flush() // a small answer is still in a buffer
		heard = err == nil || errors.Is(err, http.ErrNotSupported)
	}
}
