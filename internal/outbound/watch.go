package outbound

import (
	"errors"
	"net/http"
)

// Watch follows a platform's calls. A guard without one asks nobody.
type Watch interface {
	// Before is asked about every call that a guard lets pass, before anything of it is sent. It may take its time, as long as
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

// settle tells the watch what became of the call. What it is told first is what is true.
func (c *Call) settle(outcome Outcome, errCode string, status int, answer []byte) {
	if c == nil || c.after == nil {
		return
	}
	after := c.after
	c.after = nil
	c.hear = after(outcome, errCode, status, answer)
	if c.clientHasGone() { // later it may, with the answer
		c.heard(nil)
	}
}

// heard tells the watch whether the client has been given the answer. w has all of it; nil: it was cut, or is another one.
func (c *Call) heard(w http.ResponseWriter) {
	if c == nil || c.hear == nil {
		return
	}
	hear, heard := c.hear, false
	c.hear = nil
	defer func() { hear(heard) }()
	if w != nil {
		err := http.NewResponseController(w).Flush() // a small answer is still in a buffer
		heard = err == nil || errors.Is(err, http.ErrNotSupported)
	}
}
