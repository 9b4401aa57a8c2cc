package sandbox

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"time"
)

// FaultKind is what goes wrong with a call.
type FaultKind int

// The faults. Where it says "executed" the platform has done what it was asked for, and only its answer fails: the
// outcome that the caller does not know.
const (
	Hang           FaultKind = iota // no answer, not executed
	HangExecuted                    // no answer, executed
	Slow                            // executed; the answer comes after Fault.For
	Cut                             // the connection is cut once the request is read, not executed
	CutExecuted                     // executed; cut before the answer's first byte
	CutBody                         // executed; cut in the middle of the answer's body
	TooLarge                        // executed; the answer has Fault.Size bytes
	ServerError                     // 500 with a page of HTML, not executed
	NotJSON                         // 200 with a page of HTML, not executed
	Unauthorized                    // 401, not executed
	FalseSignature                  // executed; the answer's signature is wrong
	SkewedDate                      // executed; the header Date is off by Fault.For
	Refuse                          // a business error, Fault.Code, not executed
	Lie                             // executed; Fault.Fields replace those of the answer
)

// Fault makes calls fail.
type Fault struct {
	Kind  FaultKind
	Path  string        // the interface; empty: any
	Times int           // how many calls; 0: one, negative: until Heal
	For   time.Duration // of Slow and SkewedDate
	Size  int           // of TooLarge; default 8 MiB
	Code  string        // of Refuse; default INTERNAL_ERROR

	// Fields of Lie; nil takes one out of the answer.
	Fields map[string]any
}

// maxFaults bounds the faults waiting.
const maxFaults = 1000

// faults are those that wait, in the order given.
type faults []*Fault

func (f *faults) add(more []Fault) {
	for _, fault := range more {
		if fault.Times == 0 {
			fault.Times = 1
		}
		if fault.Size == 0 {
			fault.Size = 8 << 20
		}
		if fault.Code == "" {
			fault.Code = "INTERNAL_ERROR"
		}
		fault.Fields = maps.Clone(fault.Fields)
		if len(*f) < maxFaults {
			*f = append(*f, &fault)
		}
	}
}

// take takes the next fault of a path, nil if there is none.
func (f *faults) take(path string) *Fault {
	for i, fault := range *f {
		if fault.Path != "" && fault.Path != path {
			continue
		}
		taken := *fault
		if fault.Times > 0 {
			if fault.Times--; fault.Times == 0 {
				*f = slices.Delete(*f, i, i+1)
			}
		}
		return &taken
	}
	return nil
}

// Break lets the next calls fail. Faults of one path are used up in the order given.
func (c *ChinaUMS) Break(faults ...Fault) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults.add(faults)
}

// Heal takes back all faults.
func (c *ChinaUMS) Heal() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = nil
}

// before is what a fault does instead of executing the call; done says that this is the answer.
func (f *Fault) before(c *ChinaUMS, r *http.Request) (instead reply, done bool) {
	page := func(status int) reply {
		return reply{
			status: status, body: []byte("<html><body><h1>" + http.StatusText(status) + "</h1></body></html>\n"),
			header: http.Header{"Content-Type": {"text/html; charset=utf-8"}},
		}
	}
	switch f.Kind {
	case Hang:
		c.hang(r, nil)
	case Cut:
		panic(http.ErrAbortHandler)
	case ServerError:
		return page(http.StatusInternalServerError), true
	case NotJSON:
		return page(http.StatusOK), true
	case Refuse:
		return c.refuse(http.StatusOK, fail(f.Code, "沙箱按要求拒绝"), nil), true
	case Unauthorized:
		return c.refuse(http.StatusUnauthorized, fail("INVALID_TOKEN", "accessToken无效或已过期"), nil), true
	}
	return reply{}, false
}

// rewrite is what a fault does to the answer before it is signed.
func (f *Fault) rewrite(out *reply) {
	if f.Kind != Lie {
		return
	}
	object, err := parseFields(out.body)
	if err != nil { // a link's answer is no JSON
		return
	}
	for name, value := range f.Fields {
		if value == nil {
			delete(object, name)
			continue
		}
		object[name] = value
	}
	if body, err := json.Marshal(object); err == nil {
		out.body = body
	}
}

// after is what a fault does to the answer of a call that was executed.
func (f *Fault) after(c *ChinaUMS, w http.ResponseWriter, r *http.Request, out *reply) {
	switch f.Kind {
	case HangExecuted:
		c.hang(r, nil)
	case Slow:
		timer := time.NewTimer(f.For)
		defer timer.Stop()
		c.hang(r, timer.C)
	case CutExecuted:
		panic(http.ErrAbortHandler)
	case CutBody:
		c.write(w, reply{status: out.status, header: out.header, body: out.body}, len(out.body)/2)
		panic(http.ErrAbortHandler)
	case TooLarge:
		if missing := f.Size - len(out.body); missing > 0 { // still JSON: only its length is wrong
			out.body = append(out.body, bytes.Repeat([]byte{' '}, missing)...)
		}
	case FalseSignature:
		c.sign(out.header, AnswersFalselySigned, out.body)
	case SkewedDate:
		out.header.Set("Date", c.options.Now().Add(f.For).UTC().Format(http.TimeFormat))
	}
}

// hang keeps the client waiting; it returns only if the time has come before the client or the sandbox has gone.
func (c *ChinaUMS) hang(r *http.Request, until <-chan time.Time) {
	select {
	case <-until:
		return
	case <-r.Context().Done():
	case <-c.ctx.Done():
	}
	panic(http.ErrAbortHandler)
}
