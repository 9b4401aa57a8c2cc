// Package watch follows orders and refunds until their end is known and the app was told of it. It knows no platform: one
// says by the interface Platform what its calls and answers mean.
//
// The watch only asks. It never orders, repeats, closes or refunds. Time alone never makes a failure, and what was paid stays
// paid. The states are the table in states.go, the looks the list in schedule.go, and what may be refunded is one function in
// guard.go. What is kept is an Order in a Store, one row for each, with compare-and-set as its only lock.
package watch

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// Clock is where the time comes from. The zero value is the system's.
type Clock struct {
	Now   func() time.Time
	After func(time.Duration) <-chan time.Time
}

// Parts are what a watch works with. A new configuration may bring others.
type Parts struct {
	Platform Platform
	Send     Sender
	Teller   Teller
	Logger   *zap.Logger

	// Count counts what happened: `query` by its result (found, absent, busy, unanswered, unreadable), `found` by the type of
	// an event that no notify had told, `unwritten` by the kind of a call that could not be written down. Nil: nobody counts.
	Count func(what, label string)

	// Emit reports late_paid, refund_stuck and order_differs. Nil: nobody is told.
	Emit func(what string, order *Order)
}

type config struct {
	Parts
	Settings
}

// Watch follows the orders of one store.
type Watch struct {
	store    Store
	clock    Clock
	instance string   // what tells its flights from those of others
	open     sync.Map // flights of this watch whose outcome is not written down yet, and their stage
	config   atomic.Pointer[config]
	index    index
	overdue  overdue
	away     breaker
	cries    chan func()

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	work   sync.WaitGroup
	ready  chan struct{}
}

// stage is how far a call on its way is.
type stage struct {
	answered int64 // when its answer came, in milliseconds since 1970; 0: none has
	given    bool  // its app has it, or will never have it
}

// process tells the flights of this process from those of others, and flights numbers them: no two have one name.
var (
	process = rand.Text()[:12]
	flights atomic.Uint64
)

// How long things take at most.
const (
	storeTimeout = 3 * time.Second // one change of a row, with its repetitions
	queryTimeout = 10 * time.Second
	tellTimeout  = 30 * time.Second
	hearTimeout  = 15 * time.Second // giving an app its answer, as other gateways see it
	gather       = 50 * time.Millisecond
	maxTries     = 30 // of a compare-and-set
)

// Start starts to follow what is in a store. It does not wait until everything is read: what has come due since is asked
// about then.
func Start(store Store, clock Clock, settings Settings, parts Parts) *Watch {
	return start(store, clock, process, settings, parts)
}

func start(store Store, clock Clock, instance string, settings Settings, parts Parts) *Watch {
	if clock.Now == nil {
		clock.Now = time.Now
	}
	if clock.After == nil {
		clock.After = time.After
	}
	w := &Watch{store: store, clock: clock, instance: instance, ready: make(chan struct{}), cries: make(chan func(), maxCries)}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	w.index.w = w
	w.index.rate = settings.Rate
	w.index.items, w.index.lanes = map[string]*item{}, map[string]*lane{}
	w.index.counts, w.index.doubtful.by = make([]int, len(allStates)), bySince
	w.overdue.wake = make(chan struct{}, 1)
	w.Configure(settings, parts)
	w.work.Go(w.follow)
	w.work.Go(w.catchUp)
	w.work.Go(w.sweep)
	w.work.Go(w.cry)
	return w
}

// Configure changes the settings of a watch, and what it works with.
func (w *Watch) Configure(settings Settings, parts Parts) {
	if settings.Flight == 0 {
		settings.Flight = defaultFlight
	}
	if parts.Logger == nil {
		parts.Logger = zap.NewNop()
	}
	w.config.Store(&config{parts, settings})
	w.index.configure(settings.Rate)
}

// Ready is closed when the watch has read what there is in its store.
func (w *Watch) Ready() <-chan struct{} { return w.ready }

// Close ends the watch, after the calls and notifies that it was told of. What it could not write is found again as a call
// without an outcome. The store stays open.
func (w *Watch) Close() {
	w.index.mu.Lock()
	w.index.closed = true
	w.index.mu.Unlock()
	w.cancel()
	w.work.Wait()
}

// spawn does something beside its caller, unless the watch is being closed.
func (w *Watch) spawn(do func()) bool {
	w.index.mu.Lock()
	defer w.index.mu.Unlock()
	if w.index.closed {
		return false
	}
	w.work.Go(func() {
		defer w.caught()
		do()
	})
	return true
}

// caught ends a panic, such as one of a platform that cannot read an answer: it must neither end the process nor leave an
// order locked. Its value may hold anything, a key included; its type and the stack tell enough.
func (w *Watch) caught() {
	if v := recover(); v != nil {
		w.config.Load().Logger.Error("panic in the watch", zap.String("type", fmt.Sprintf("%T", v)), zap.ByteString("stack", debug.Stack()))
	}
}

func (w *Watch) now() int64 { return w.clock.Now().UnixMilli() }

func (w *Watch) count(what, label string) {
	if count := w.config.Load().Count; count != nil {
		count(what, label)
	}
}

// gone reports whether nobody will tell a flight's outcome any more: it is one of an earlier process, or its time is up.
func (w *Watch) gone(flight string, lands, now int64) bool {
	most := w.config.Load().Flight.Milliseconds()
	over := func(lands int64) bool { return lands <= now || lands > now+2*most } // the clock was set back
	if !strings.HasPrefix(flight, w.instance+".") {
		return !w.store.Shared() || over(lands)
	}
	if s, open := w.stage(flight); open {
		return s.answered != 0 && !s.given && over(s.answered+most) // an app that has not taken its answer until then has not heard it
	}
	return over(lands)
}

// stage is how far a flight of this watch is, if it is open.
func (w *Watch) stage(flight string) (s stage, open bool) {
	v, open := w.open.Load(flight)
	s, _ = v.(stage)
	return s, open
}

// change changes a row, and makes it where there is none. It calls edit with what is there, again if somebody else was
// faster; edit reports whether there is something to write. The row as it is now is returned. While the store is away it fails
// at once.
func (w *Watch) change(ctx context.Context, merchant, number string, edit func(o *Order, now int64) bool) (*Order, error) {
	begun := w.clock.Now()
	if !w.away.lets(begun) {
		return nil, errAway
	}
	o, err := w.tryChange(ctx, merchant, number, edit)
	w.away.learn(err, begun, w.clock.Now())
	return o, err
}

func (w *Watch) tryChange(ctx context.Context, merchant, number string, edit func(o *Order, now int64) bool) (*Order, error) {
	for try := range maxTries {
		if try > 1 { // others are at it, or the server that is read from lags behind
			select {
			case <-w.clock.After(time.Duration(try) * 2 * time.Millisecond):
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		o, err := w.get(ctx, merchant, number)
		if err != nil {
			return nil, err
		}
		now, key := w.now(), o.key()
		landed := o.land(now, w.gone)
		if !edit(o, now) && !landed {
			return o, nil
		}
		if o.blank() {
			if o.revision != 0 {
				err = w.store.Delete(ctx, key, o.revision)
			}
			if err == nil {
				w.index.drop(key, o.revision)
				return o, nil
			}
		} else {
			o.fold()
			o.Changed = now
			w.config.Load().plan(o, now)
			var value []byte
			if value, err = o.encode(); err != nil {
				return nil, err
			}
			leads := o.also == "" || o.also == o.ID || w.alias(ctx, o) // before the row: who has learnt it does not learn it again
			var revision uint64
			if revision, err = w.store.Put(ctx, key, value, o.revision); err == nil {
				o.revision = revision
				w.index.set(key, o.header(), revision)
				if also := o.also; !leads {
					w.later(merchant, o.ID, "", func(o *Order, _ int64) bool { o.also = also; return true })
				}
				return o, nil
			}
		}
		if !errors.Is(err, ErrConflict) {
			return nil, err
		}
	}
	return nil, ErrConflict
}

// get reads a row, if need be the one that it leads to; one that is not there is empty.
func (w *Watch) get(ctx context.Context, merchant, number string) (*Order, error) {
	for leads := 0; ; leads++ {
		entry, err := w.store.Get(ctx, rowKey(merchant, number))
		if errors.Is(err, ErrNotFound) {
			return &Order{Merchant: merchant, ID: number}, nil
		}
		if err != nil {
			return nil, err
		}
		o, err := decode(entry)
		if err != nil || o.Same == "" {
			return o, err
		}
		if number = o.Same; leads > 0 {
			return nil, errFormat // a row that leads to another has no other that leads to it
		}
	}
}

// alias lets another number of an order lead to its row, unless something is known under it already. False: it could not be written.
func (w *Watch) alias(ctx context.Context, o *Order) bool {
	lead := &Order{Same: o.ID, Changed: o.Changed}
	value, err := lead.encode()
	if err == nil {
		_, err = w.store.Put(ctx, rowKey(o.Merchant, o.also), value, 0)
	}
	if err == nil || errors.Is(err, ErrConflict) {
		return true
	}
	w.config.Load().Logger.Warn("the watch cannot write down another number of an order", zap.String("merchant", o.Merchant), zap.String("order", clip(o.ID)), zap.Error(err))
	return false
}

// Ticket is a call that was written down, between Before and After.
type Ticket struct {
	// Guard is what the header Gateway-Guard says: `unseen`, or nothing.
	Guard string

	// Unheard is set before After where the app has gone before the answer came.
	Unheard bool

	merchant string
	call     Call
	flight   string
	lands    int64

	// What the call's state was and became, so that a call that was not sent leaves no trace.
	before, begun State
	was           Track  // of a call that is not an order's: as it was sent before
	ordered       *Order // the terms of an order
	seen, written bool
	number        string // what the row calls it, also where the call has none
	sent          int64  // when it was sent, as the row has it
	warned        bool   // the guard's refusal was logged, and is no more than that
}

// Before writes down that a call is about to be sent. Nil and nil: it is not watched. With a Refusal it must not be sent;
// else After must be called with the ticket, whatever becomes of the call. override is the header Gateway-Guard-Override.
func (w *Watch) Before(ctx context.Context, merchant, path string, body []byte, override string) (*Ticket, *Refusal) {
	c := w.config.Load()
	call, ok := c.Platform.Classify(path, body)
	if !ok {
		return nil, nil
	}
	call.Path = path
	if call.Kind.Money() && strings.HasPrefix(call.Number, "#") { // the watch's own, of refunds without a number
		call.Invalid = "number " + call.Number
	}
	if call.Invalid != "" {
		return nil, w.judge(c, merchant, call, override)
	}
	t := &Ticket{merchant: merchant, call: call, flight: w.instance + "." + strconv.FormatUint(flights.Add(1), 36),
		lands: w.now() + c.Flight.Milliseconds()}
	w.open.Store(t.flight, stage{})
	goes := false
	defer func() {
		if !goes { // also where somebody panics: the order must not stay locked
			w.open.Delete(t.flight)
		}
	}()
	refusal, err := w.write(ctx, c, t, override)
	if refusal != nil && refusal.Code == CodeUnresolved && !refusal.known { // it may be resolved by now
		w.askAbout(ctx, merchant, call.Order, refusal.Number)
		refusal, err = w.write(ctx, c, t, override)
	}
	for refusal != nil && c.Refunds == Warn {
		c.Logger.Warn("the watch would refuse this refund", w.fields(t, zap.String("err_code", refusal.Code), zap.String("in_the_way", clip(refusal.Number)))...)
		t.warned = true
		refusal, err = w.write(ctx, c, t, override)
	}
	if err != nil {
		w.count("unwritten", string(call.Kind))
		c.Logger.Error("the watch cannot write a call down", w.fields(t, zap.Error(err))...)
		if call.Kind.Money() && c.Refunds != Off {
			goes = true
			w.later(merchant, call.Order, t.flight, t.land(NotSent, "", nil)) // it may have been written after all
			return nil, Unavailable()
		}
	}
	if refusal != nil {
		return nil, refusal
	}
	goes = true
	return t, nil
}

// judge says what becomes of a money call that cannot be written down, because nobody knows what it does. It is not followed.
func (w *Watch) judge(c *config, merchant string, call Call, override string) *Refusal {
	if c.Refunds == Off {
		return nil
	}
	refusal := invalid(call)
	overridden := names(override, refusal.Number)
	if c.Refunds == Enforce && !overridden {
		return refusal
	}
	c.Logger.Warn("the watch lets a money call pass that it cannot follow", zap.String("merchant", merchant), zap.String("path", clip(call.Path)),
		zap.String("invalid", call.Invalid), zap.Bool("overridden", overridden))
	return nil
}

// write writes the row of intent, if the guard lets the call pass. An app that has its answer may call again before that is written
// down. So what is in the way, and whose app is given its answer at this moment, is waited for: 3 s at most. That an app has heard of
// a refund which was under way is written down with others: that is waited for once.
func (w *Watch) write(ctx context.Context, c *config, t *Ticket, override string) (refusal *Refusal, err error) {
	looked, waited, end := false, false, w.clock.Now().Add(storeTimeout)
	for try := time.Duration(1); ; try++ {
		refusal, err = w.tryWrite(ctx, c, t, override)
		if refusal != nil && refusal.known && !waited {
			waited = true
			select {
			case <-w.clock.After(2 * gather):
				continue
			case <-ctx.Done():
				return refusal, err
			}
		}
		if refusal == nil || refusal.flight == "" || try > 34 || !w.clock.Now().Before(end) {
			return refusal, err
		}
		s, open := w.stage(refusal.flight)
		answered := refusal.answered || s.answered != 0
		if !answered && (open || looked) {
			return refusal, err
		}
		looked = !answered // it may have been written down after it was read
		select {
		case <-w.clock.After(try * 5 * time.Millisecond):
		case <-ctx.Done():
			return refusal, err
		}
	}
}

func (w *Watch) tryWrite(ctx context.Context, c *config, t *Ticket, override string) (refusal *Refusal, err error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	overridden := ""
	_, err = w.change(ctx, t.merchant, t.call.Order, func(o *Order, now int64) bool {
		refusal, overridden = nil, ""
		if o.flown(t.flight) != nil {
			return false // a write that was in doubt
		}
		if t.call.Kind == KindRefund && c.Refunds != Off && !t.warned {
			for _, why := range o.guard(t.call, now) {
				if !names(override, why.Number) {
					refusal = why
					return false
				}
				overridden = override
			}
			if overridden != "" {
				o.note(now, "override", t.call.Number, overridden)
			}
		}
		t.begin(o, now)
		return true
	})
	if overridden != "" && err == nil && refusal == nil {
		c.Logger.Warn("the guard of refunds was overridden", w.fields(t, zap.String("in_the_way", clip(overridden)))...)
	}
	t.written = t.written || err == nil && refusal == nil
	return refusal, err
}

func (t *Ticket) begin(o *Order, now int64) *Track {
	t.before, t.was, t.seen = "", Track{}, o.Seen
	if t.call.Kind.order() {
		was := *o
		t.before, t.ordered = o.State, &was
	} else if c := o.call(t.call.Number); c != nil {
		t.before, t.was = c.State, *c
	}
	if !o.Seen && !t.call.Kind.order() {
		t.Guard = "unseen"
	}
	track := o.begin(t.call, t.flight, now, t.lands)
	t.begun, t.number, t.sent = track.State, track.Number, track.Sent
	return track
}

// After says what became of a call, before its app is told. The outcome of an order may be written down later; what of a money
// call that is not is found again as a call without an outcome. That a money call has succeeded or failed, and that an order is paid,
// is written down only after its app was told, so that a gateway which ends before leaves such a call; that one is under way is written
// down at once, as an answer that its app does not have. To this end, the function that After returns must be called once, as soon as
// the app was given the answer (heard) or can no longer be. Nil: there is nothing to call.
func (w *Watch) After(t *Ticket, outcome Outcome, code string, answer []byte) (told func(heard bool)) {
	if t == nil {
		return nil
	}
	f := w.meaning(t.call, outcome, code, answer)
	edit := t.land(outcome, code, f)
	if t.call.Kind.order() && !t.Unheard && f != nil && f.Order == IsPaid {
		return func(heard bool) {
			t.Unheard = !heard
			w.later(t.merchant, t.call.Order, t.flight, edit)
		}
	}
	if !t.call.Kind.Money() && !w.overdue.long() {
		w.later(t.merchant, t.call.Order, t.flight, edit)
		return nil
	}
	write := func(edit func(o *Order, now int64) bool) error {
		ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
		defer cancel()
		_, err := w.change(ctx, t.merchant, t.call.Order, edit)
		return err
	}
	land := func() {
		waits := false
		defer func() {
			if !waits { // also where somebody panics: the order must not stay locked
				w.open.Delete(t.flight)
			}
		}()
		if waits = write(edit) != nil; waits {
			w.later(t.merchant, t.call.Order, t.flight, edit)
		}
	}
	switch {
	case t.call.Kind.Money() && !t.Unheard && f != nil && f.Call == IsPending:
		t.Unheard = true // until its app has the answer
		land()
		return func(heard bool) {
			if at := w.now(); heard {
				w.later(t.merchant, t.call.Order, "", func(o *Order, _ int64) bool { return t.heard(o, at) })
			}
		}
	case !t.call.Kind.Money() || t.Unheard || f == nil || f.Call != HasSucceeded && f.Call != HasFailed:
		land()
		return nil
	}
	answered := stage{answered: w.now()}
	w.open.Store(t.flight, answered)
	if w.store.Shared() {
		_ = write(t.answered) // without it other gateways refuse what they need not
	}
	return func(heard bool) {
		t.Unheard = !heard
		answered.given = true
		w.open.Store(t.flight, answered)
		if !w.spawn(land) {
			land()
		}
	}
}

// answered lets other gateways know that the app is given its answer.
func (t *Ticket) answered(o *Order, now int64) bool {
	track := o.flown(t.flight)
	if track == nil {
		return false
	}
	track.Answered, track.Lands = true, now+hearTimeout.Milliseconds()
	return true
}

// heard notes that the app was given an answer at a time, which was written down before, unless it has sent the call again since, or
// was told since that it has failed, or was not found.
func (t *Ticket) heard(o *Order, at int64) bool {
	track := o.call(t.number)
	since := func(e *Told) bool { return e.About == t.number && e.denies() && max(e.At, e.Taken) >= at }
	if track == nil || track.Sent != t.sent || !track.Unheard || slices.ContainsFunc(o.Told, since) {
		return false
	}
	track.Unheard = false
	return true
}

// meaning is what the platform's own answer says; nil: there is none, or nobody can read it.
func (w *Watch) meaning(call Call, outcome Outcome, code string, answer []byte) (f *Finding) {
	if outcome != Answered {
		return nil
	}
	defer w.caught()
	found := w.config.Load().Platform.Answered(call, code, answer)
	return &found
}

// land is the change that a call's outcome makes.
func (t *Ticket) land(outcome Outcome, code string, f *Finding) func(o *Order, now int64) bool {
	return func(o *Order, now int64) bool {
		track := o.flown(t.flight)
		if track == nil {
			switch {
			case outcome == NotSent:
				return false
			case !t.written: // it could not be written before
				track = t.begin(o, now)
			case t.call.Kind.order():
				track = &o.Track
			default:
				track = o.call(t.number)
			}
			if track == nil {
				return false
			}
		}
		if track.Flight == t.flight || track.Flight == "" {
			track.Flight, track.Lands, track.Answered = "", 0, false
		}
		if outcome == NotSent {
			o.note(now, "answer", o.name(track), string(outcome))
			if track.State == t.begun {
				track.State = t.before
			}
			if track.Kind == KindCapture && track.Amount == 0 && track.Sent == t.sent {
				track.Amount = t.was.Amount
			}
			if track != &o.Track && track.Sent == t.sent && t.was.Sent != 0 {
				track.Sent, track.First, track.Again = t.was.Sent, t.was.First, t.was.Again
			}
			if track == &o.Track {
				o.Seen = t.seen
				if t.seen && o.Sent == t.sent {
					o.restore(t.ordered)
				}
			} else if track.State == "" {
				o.Calls = without(o.Calls, track)
			}
			return true
		}
		// An app that has heard of a failure only has not heard of an earlier sending that succeeds.
		said := f != nil && (track == &o.Track || f.Call != Nothing && f.Call != IsRefused && f.Call != HasFailed)
		track.Outcome, track.Code, track.Unheard = outcome, code, t.Unheard || !said
		if f == nil {
			o.note(now, "answer", o.name(track), string(outcome))
			o.become(track, isLost, now)
			return true
		}
		f := *f
		if f.Word == "" {
			f.Word = code
		}
		failed := (f.Call == HasFailed || f.Call == IsRefused) && track.State != Failed // and nobody has said so yet
		switch {
		case track == &o.Track:
		case f.Call == Nothing, f.Call == IsAbsent, t.Unheard && (f.Call == HasSucceeded || f.Call == HasFailed && failed): // the app is to be told
			f.Call = IsPending
		case track.Sent != t.sent && failed: // it was sent again since
			f.Call = IsPending
		}
		if track == &o.Track && f.Order == IsPaid && t.Unheard { // a query finds it, and tells
			f.Order = Nothing
		}
		if track == &o.Track && f.Order == IsRefused && t.seen && o.Sent == t.sent {
			o.restore(t.ordered)
		}
		if track == &o.Track && f.Order == IsOpen && !o.State.paid() {
			o.terms(t.call, now)
		}
		o.learn(track, &f, "answer", now)
		return true
	}
}

func without(all []*Track, one *Track) []*Track {
	var left []*Track
	for _, t := range all {
		if t != one {
			left = append(left, t)
		}
	}
	return left
}

// Notice is what a notify is to the watch.
type Notice struct {
	// Ordered is for the header Ce-Ordered: true, differs or unseen.
	Ordered string

	// Told says that the app has this event already: it is acknowledged, and not delivered again. Busy says that it is being
	// told at this moment: the platform is to repeat the notify.
	Told, Busy bool
}

// The words of Notice.Ordered.
const (
	OrderedTrue    = "true"
	OrderedDiffers = "differs"
	OrderedUnseen  = "unseen"
)

// Notified takes what a verified notify says, before the app gets it. It tells of f.Event, if there is one; after it Taken is
// called, unless the notice says that the app is not to get it. With an error the row could not be written, and the notify
// goes its way: it is written down later.
func (w *Watch) Notified(ctx context.Context, merchant, order string, f Finding) (Notice, error) {
	c := w.config.Load()
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	for tries := 0; ; tries++ {
		var l lesson
		var n Notice
		edit := func(o *Order, now int64) bool {
			l, n = lesson{}, Notice{Ordered: o.ordered(&f, c.Amounts)}
			if told := o.event(f.id()); told != nil && told.Type != "" {
				n.Told, n.Busy = told.Taken != 0, told.Taken == 0 && told.telling(now)
				if n.Told || n.Busy {
					return false
				}
			}
			means := f
			if c := o.call(f.Number); f.Call == HasFailed && c != nil && c.Again && c.State != Failed {
				means.Call = IsPending // it may be about an earlier sending: a query tells
			}
			if f.Order == IsPartRefunded && o.unpaid(&o.Track) && o.Next != 0 {
				means.Order = Nothing // the order's own looks tell of the payment, which this one does not
			}
			l = o.learn(&o.Track, &means, "notify", now)
			o.Notified = o.Notified || o.State.paid() && f.Order != Nothing
			if rejected := n.Ordered == OrderedDiffers && c.Amounts == Reject; f.Event != nil && !rejected {
				o.owe(o.track(f.Number), &f, "notify", now, now+tellTimeout.Milliseconds())
			}
			return true
		}
		o, err := w.change(ctx, merchant, order, edit)
		if err != nil {
			w.count("unwritten", "notify")
			c.Logger.Error("the watch cannot write a notify down", zap.String("merchant", merchant), zap.String("order", clip(order)), zap.Error(err))
			w.later(merchant, order, "", edit)
			return Notice{Ordered: OrderedUnseen}, err
		}
		if n.Busy && tries < 20 { // the inbox takes no longer, mostly
			select {
			case <-w.clock.After(50 * time.Millisecond):
				continue
			case <-ctx.Done():
			}
		}
		w.report(o, l)
		return n, nil
	}
}

// Taken says whether the app took the event of a notify.
func (w *Watch) Taken(merchant, order, id string, taken bool) {
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	w.taken(ctx, merchant, order, id, taken)
}

func (w *Watch) taken(ctx context.Context, merchant, order, id string, taken bool) {
	stuck, c := false, w.config.Load()
	edit := func(o *Order, now int64) bool {
		told := o.event(id)
		if told == nil { // the notify is still to be written down
			told = &Told{ID: id, By: "notify", At: now}
			o.Told = append(o.Told, told)
		}
		told.Until = 0
		word := "not taken"
		if taken {
			told.Taken, told.Stuck, word = now, 0, told.Type
		}
		o.note(now, "told", told.About, word)
		t := o.track(told.About)
		stuck = t != nil && c.abandon(o, t, now)
		return true
	}
	o, err := w.change(ctx, merchant, order, edit)
	if err != nil {
		w.later(merchant, order, "", edit)
		return
	}
	w.cannotTell(stuck, o)
}

func (w *Watch) fields(t *Ticket, more ...zap.Field) []zap.Field {
	return append([]zap.Field{zap.String("merchant", t.merchant), zap.String("order", clip(t.call.Order)),
		zap.String("number", clip(t.call.Number)), zap.String("kind", string(t.call.Kind))}, more...)
}

// report logs and emits what somebody wants to know.
func (w *Watch) report(o *Order, l lesson) {
	w.say(l.late, "late_paid", "an order that the platform had called closed was paid", o)
	w.say(l.differs && w.config.Load().Amounts != Off, "order_differs", "amount or mid is not what was ordered", o)
}

// maxCries is how many wait for whoever is slow to hear them. What is more is in the log.
const maxCries = 1024

// cry tells the rest of the gateway: beside those who have found it out, lest a slow listener hold back what the app is to get.
func (w *Watch) cry() {
	aloud := func(emit func()) {
		defer w.caught()
		emit()
	}
	for {
		select {
		case emit := <-w.cries:
			aloud(emit)
		case <-w.ctx.Done():
			for len(w.cries) > 0 {
				aloud(<-w.cries)
			}
			return
		}
	}
}

func (w *Watch) say(so bool, what, words string, o *Order) {
	if !so {
		return
	}
	c := w.config.Load()
	c.Logger.Error(words, zap.String("merchant", o.Merchant), zap.String("order", clip(o.ID)), zap.Int64("ordered", o.Amount), zap.Int64("paid", o.Paid))
	if c.Emit == nil {
		return
	}
	select {
	case w.cries <- func() { c.Emit(what, o) }:
	default:
	}
}

// cannotTell reports what the app could not be told of for as long as it was tried.
func (w *Watch) cannotTell(so bool, o *Order) {
	if so {
		w.config.Load().Logger.Error("the app could not be told of an event; a person has to look", zap.String("merchant", o.Merchant), zap.String("order", clip(o.ID)))
	}
}
