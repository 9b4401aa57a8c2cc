package sandbox

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// FaultKind is what goes wrong.
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
	FalseSignature                  // executed; the answer's signature is wrong; ChinaUMS only
	SkewedDate                      // executed; the header Date is off by Fault.For; ChinaUMS only
	Refuse                          // a business error, Fault.Code, not executed
	Lie                             // executed; Fault.Fields replace those of the answer; ChinaUMS only
	RefuseExecuted                  // executed; the answer is a business error all the same, Fault.Code
	NoOrder                         // a query knows nothing of what is younger than Fault.For
	OtherOrder                      // a query answers with the data of another order, which is paid and refunded
	Processing                      // an operation is open for Fault.Queries queries, then ends as Fault.Status
	NoNotify                        // a notify is never sent
	Down                            // every call is cut and no notify sent for Fault.For, then all is as before
)

var faultNames = []string{
	"hang", "hang-executed", "slow", "cut", "cut-executed", "cut-body", "too-large", "server-error", "not-json",
	"unauthorized", "false-signature", "skewed-date", "refuse", "lie", "refuse-executed", "no-order", "other-order",
	"processing", "no-notify", "down",
}

func (k FaultKind) String() string { return nameOf(int(k), faultNames) }

// MarshalText writes a kind's name.
func (k FaultKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads a kind's name.
func (k *FaultKind) UnmarshalText(name []byte) error {
	i := slices.Index(faultNames, string(name))
	if i < 0 {
		return fmt.Errorf("no fault is called %.64q; there are %s", name, strings.Join(faultNames, ", "))
	}
	*k = FaultKind(i)
	return nil
}

// Fault makes calls and notifies fail.
type Fault struct {
	Kind FaultKind `json:"kind"`

	// Path is the interface; empty: any. Processing applies to refunds (Shouqianba: pay, refund, cancel and revoke),
	// NoOrder and OtherOrder to queries; of NoNotify Path is the kind of the notify, such as refund.
	Path string `json:"path,omitempty"`

	// Order is the number of an order, bill or refund that the fault is for; empty: any.
	Order string `json:"order,omitempty"`

	// Share is how likely the fault is each time that it could happen, 0.2 being one time in five. 0: always.
	Share float64 `json:"share,omitempty"`

	// Times is how often it happens; 0: once, negative: until Heal. A NoOrder with For happens until Heal, too.
	Times int `json:"times,omitempty"`

	// For is how long; of Slow, SkewedDate, NoOrder and Down, where 0 is without end. In JSON text such as 1h30m.
	For time.Duration `json:"-"`

	// Size of TooLarge, in bytes. Default: 8 MiB.
	Size int `json:"size,omitempty"`

	// Code of Refuse and RefuseExecuted. Default: INTERNAL_ERROR and TARGET_FAIL; Shouqianba: UNEXPECTED_PROVIDER_ERROR.
	Code string `json:"code,omitempty"`

	// Queries is how many queries Processing outlasts, and Status how it ends, SUCCESS or FAIL. Default: 0, SUCCESS.
	Queries int    `json:"queries,omitempty"`
	Status  string `json:"status,omitempty"`

	// Fields of Lie; nil takes one out of the answer.
	Fields map[string]any `json:"fields,omitempty"`

	until time.Time // of Down
}

// plainFault is a Fault without its methods.
type plainFault Fault

// faultJSON is a Fault whose duration is text.
type faultJSON struct {
	plainFault
	For string `json:"for,omitempty"`
}

// MarshalJSON writes the duration as text.
func (f Fault) MarshalJSON() ([]byte, error) {
	written := faultJSON{plainFault: plainFault(f)}
	if f.For != 0 {
		written.For = f.For.String()
	}
	return json.Marshal(written)
}

// UnmarshalJSON reads what MarshalJSON writes; typos do not pass.
func (f *Fault) UnmarshalJSON(text []byte) error {
	var read faultJSON
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&read); err != nil {
		return err
	}
	*f = Fault(read.plainFault)
	if read.For != "" {
		var err error
		if f.For, err = time.ParseDuration(read.For); err != nil {
			return err
		}
	}
	switch {
	case f.Share < 0 || f.Share > 1:
		return errors.New("share must be between 0 and 1")
	case f.Status != "" && f.Status != refundSuccess && f.Status != refundFail:
		return fmt.Errorf("status must be %s or %s", refundSuccess, refundFail)
	case f.Queries < 0 || f.Size < 0:
		return errors.New("queries and size must not be negative")
	}
	return nil
}

// maxFaults bounds the faults waiting.
const maxFaults = 1000

// stage is where a fault strikes.
type stage int

const (
	atCall stage = iota
	atExecution
	atNotify
)

func (k FaultKind) stage() stage {
	switch k {
	case Processing:
		return atExecution
	case NoNotify:
		return atNotify
	}
	return atCall
}

// subject is what a fault could strike.
type subject struct {
	stage   stage
	path    string
	numbers []string      // of the order, the bill and the refund
	query   bool          // it is a query
	age     time.Duration // of what a query asks about
}

// trouble is a platform's clock and what goes wrong on it.
type trouble struct {
	base func() time.Time // Options.Now

	mu      sync.Mutex
	ahead   time.Duration // what Pass has added
	moved   chan struct{} // closed and replaced by Pass and Heal
	waiting []*Fault      // in the order given
}

func newTrouble(now func() time.Time) *trouble {
	return &trouble{base: now, moved: make(chan struct{})}
}

// now is the platform's time.
func (t *trouble) now() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.base().Add(t.ahead)
}

// Pass lets time go by: orders grow old, outages end, and notifies are repeated that are due by then. The timestamps of
// signatures stay on Options.Now, so that a caller whose own clock has not moved is still understood.
func (t *trouble) Pass(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ahead += max(d, 0)
	close(t.moved)
	t.moved = make(chan struct{})
}

// Break lets calls and notifies fail. Of the faults that could strike, the one given first does.
func (t *trouble) Break(more ...Fault) {
	now := t.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, fault := range more {
		if fault.Times == 0 {
			fault.Times = 1
			if fault.Kind == NoOrder && fault.For > 0 || fault.Kind == Down {
				fault.Times = -1
			}
		}
		if fault.Kind == Down && fault.For > 0 {
			fault.until = now.Add(fault.For)
		}
		fault.Size = cmp.Or(fault.Size, 8<<20)
		fault.Status = cmp.Or(fault.Status, refundSuccess)
		fault.Fields = maps.Clone(fault.Fields)
		if len(t.waiting) < maxFaults {
			t.waiting = append(t.waiting, &fault)
		}
	}
}

// Heal takes back all faults, or those of the kinds given. What an earlier fault has left open stays open.
func (t *trouble) Heal(kinds ...FaultKind) {
	t.mu.Lock()
	t.waiting = slices.DeleteFunc(t.waiting, func(f *Fault) bool { return len(kinds) == 0 || slices.Contains(kinds, f.Kind) })
	t.mu.Unlock()
	t.Pass(0) // notifies may be waiting for the end of an outage
}

// Faults returns those that wait.
func (t *trouble) Faults() []Fault {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]Fault, len(t.waiting))
	for i, fault := range t.waiting {
		all[i] = *fault
	}
	return all
}

// healthy reports whether no fault waits.
func (t *trouble) healthy() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.waiting) == 0
}

// take takes the fault that strikes, nil if none does.
func (t *trouble) take(s subject) *Fault {
	now := t.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiting = slices.DeleteFunc(t.waiting, func(f *Fault) bool { return !f.until.IsZero() && !now.Before(f.until) })
	for i, fault := range t.waiting {
		switch {
		case fault.Kind.stage() != s.stage, fault.Path != "" && fault.Path != s.path,
			fault.Order != "" && !slices.Contains(s.numbers, fault.Order),
			(fault.Kind == NoOrder || fault.Kind == OtherOrder) && !s.query,
			fault.Kind == NoOrder && fault.For > 0 && s.age >= fault.For,
			fault.Share > 0 && rand.Float64() >= fault.Share:
			continue
		}
		taken := *fault
		if fault.Times > 0 {
			if fault.Times--; fault.Times == 0 {
				t.waiting = slices.Delete(t.waiting, i, i+1)
			}
		}
		return &taken
	}
	return nil
}

// due is a moment to come. A test's Options.Now may stand still: the schedule runs on real time, and on Pass.
type due struct {
	at      time.Time     // on the platform's clock
	started time.Time     // in real time
	target  time.Duration // what Pass and the real time since then have to add
}

// in returns the moment that comes after so long.
func (t *trouble) in(delay time.Duration) due {
	t.mu.Lock()
	defer t.mu.Unlock()
	return due{t.base().Add(t.ahead + delay), time.Now(), t.ahead + delay}
}

// pause waits until something is due, and then for the end of an outage; it reports whether it came to that before the
// context or the channel ended.
func (t *trouble) pause(ctx context.Context, ended <-chan struct{}, d due) bool {
	for {
		t.mu.Lock()
		left, now, moved := d.target-t.ahead-time.Since(d.started), t.base().Add(t.ahead), t.moved
		for _, fault := range t.waiting {
			if fault.Kind != Down {
				continue
			}
			rest := time.Hour // Heal, or Pass, wakes it
			if !fault.until.IsZero() {
				rest = fault.until.Sub(now)
			}
			left = max(left, rest)
		}
		t.mu.Unlock()
		if left <= 0 {
			select {
			case <-ended:
				return false
			default:
				return ctx.Err() == nil
			}
		}
		timer := time.NewTimer(left)
		select {
		case <-ctx.Done():
		case <-ended:
		case <-timer.C:
		case <-moved:
		}
		timer.Stop()
		select {
		case <-ctx.Done():
			return false
		case <-ended:
			return false
		default:
		}
	}
}

// instead is what a fault answers to a call that is not executed; ok is false where it is.
func (f *Fault) instead(ctx context.Context, closed <-chan struct{}) (status int, page []byte, ok bool) {
	switch f.Kind {
	case Hang:
		hang(ctx, closed, nil)
	case Cut, Down:
		panic(http.ErrAbortHandler)
	case ServerError:
		status = http.StatusInternalServerError
	case NotJSON:
		status = http.StatusOK
	case Unauthorized:
		status = http.StatusUnauthorized
	default:
		return 0, nil, false
	}
	return status, []byte("<html><body><h1>" + http.StatusText(status) + "</h1></body></html>\n"), true
}

// lose is what a fault does to the answer of a call that was executed, as both platforms have it; write writes the first
// bytes of the answer.
func (f *Fault) lose(ctx context.Context, closed <-chan struct{}, answer []byte, write func(answer []byte, bytes int)) []byte {
	switch f.Kind {
	case HangExecuted:
		hang(ctx, closed, nil)
	case Slow:
		timer := time.NewTimer(f.For)
		defer timer.Stop()
		hang(ctx, closed, timer.C)
	case CutExecuted:
		panic(http.ErrAbortHandler)
	case CutBody:
		write(answer, len(answer)/2)
		panic(http.ErrAbortHandler)
	case TooLarge:
		if missing := f.Size - len(answer); missing > 0 { // still JSON: only its length is wrong
			answer = append(answer, bytes.Repeat([]byte{' '}, missing)...)
		}
	}
	return answer
}

// hang keeps the client waiting; it returns only if the time has come before the client or the sandbox has gone.
func hang(ctx context.Context, closed <-chan struct{}, until <-chan time.Time) {
	select {
	case <-until:
		return
	case <-ctx.Done():
	case <-closed:
	}
	panic(http.ErrAbortHandler)
}

// lie replaces fields of the answer before it is signed.
func (f *Fault) lie(out *reply) {
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
