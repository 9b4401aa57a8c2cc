package watch

import (
	"cmp"
	"slices"
	"strings"
)

// State is what has become of an order, or of another call.
type State string

// The states of an order; Sent and Stuck are states of other calls, too. An order that only refunds or notifies have told
// of has none until a notify says what it is.
const (
	Sent         State = "sent"          // the call went out; what became of it is not certain
	Open         State = "open"          // it can be paid
	Paid         State = "paid"          //
	PartRefunded State = "refunded_part" //
	Refunded     State = "refunded"      //
	Closed       State = "closed"        // it ended unpaid, or was never made
	Unseen       State = "unseen"        // the platform does not know it ten minutes after its expiry, twice
	Stuck        State = "stuck"         // its end was not to be had for so long that a person has to look
)

// The other states of another call.
const (
	Unresolved State = "unresolved" // it may have been executed
	Succeeded  State = "succeeded"
	Failed     State = "failed"
)

var allStates = []State{"", Sent, Open, Paid, PartRefunded, Refunded, Closed, Unseen, Stuck, Unresolved, Succeeded, Failed}

// States are the states of orders and other calls.
func States() []State { return slices.Clone(allStates[1:]) }

// The table of the states: what becomes of one by a fact. What does not stand here changes nothing. So nothing leads from
// paid back to unpaid, nor from succeeded to anything; and time, by which alone lost, unseen and stuck come, leads neither to
// closed nor to failed.
var (
	orderStates = map[State]map[Fact]State{
		"":           {isSent: Sent, IsOpen: Open, IsPaid: Paid, IsPartRefunded: PartRefunded, IsRefunded: Refunded, IsClosed: Closed},
		Sent:         {IsOpen: Open, IsPaid: Paid, IsPartRefunded: PartRefunded, IsRefunded: Refunded, IsClosed: Closed, IsRefused: Closed, isUnseen: Unseen, isStuck: Stuck},
		Open:         {IsPaid: Paid, IsPartRefunded: PartRefunded, IsRefunded: Refunded, IsClosed: Closed, isUnseen: Unseen, isStuck: Stuck},
		Paid:         {IsPartRefunded: PartRefunded, IsRefunded: Refunded},
		PartRefunded: {IsRefunded: Refunded},
		Refunded:     {},
		Closed:       {isSent: Sent, IsOpen: Open, IsPaid: Paid, IsPartRefunded: PartRefunded, IsRefunded: Refunded},
		Unseen:       {isSent: Sent, IsOpen: Open, IsPaid: Paid, IsPartRefunded: PartRefunded, IsRefunded: Refunded, IsClosed: Closed},
		Stuck:        {isSent: Sent, IsPaid: Paid, IsPartRefunded: PartRefunded, IsRefunded: Refunded, IsClosed: Closed},
	}
	callStates = map[State]map[Fact]State{
		"":         {isSent: Sent, IsPending: Unresolved, HasSucceeded: Succeeded, HasFailed: Failed},
		Sent:       {isLost: Unresolved, IsPending: Unresolved, IsAbsent: Unresolved, HasSucceeded: Succeeded, HasFailed: Failed, IsRefused: Failed, isStuck: Stuck},
		Unresolved: {HasSucceeded: Succeeded, HasFailed: Failed, isStuck: Stuck}, // a repetition that is refused says nothing about the first one
		Succeeded:  {},
		Failed:     {isSent: Sent, isLost: Unresolved, IsPending: Unresolved, HasSucceeded: Succeeded}, // lost: a repetition, while an earlier sending had failed
		Stuck:      {isSent: Unresolved, HasSucceeded: Succeeded, HasFailed: Failed},
	}
)

// paid reports whether an order in this state has been paid.
func (s State) paid() bool { return s == Paid || s == PartRefunded || s == Refunded }

// ended reports whether a call in this state has come to its end.
func (s State) ended() bool { return s == Succeeded || s == Failed }

// become changes a state by a fact.
func (o *Order) become(t *Track, fact Fact, now int64) {
	table := callStates
	if t == &o.Track {
		table = orderStates
		if fact == IsRefused && t.Since != 0 {
			return // an earlier sending of the same order may have been executed
		}
	}
	to, ok := table[t.State][fact]
	if !ok {
		to = t.State
	}
	if t == &o.Track && to.paid() && !t.State.paid() {
		o.PaidAt = now
		o.Late = o.Late || t.State == Closed
	}
	if to != t.State {
		o.turn(now, o.name(t), to)
		t.State = to
	}
	doubtful := to == Unresolved || to == Stuck || to == Sent && fact != isSent
	switch {
	case !doubtful && to != Sent:
		t.Since = 0
	case doubtful && t.Since == 0:
		t.Since = now
	}
}

// lesson is what was learnt that somebody wants to know.
type lesson struct {
	late, differs bool
}

// learn takes what an answer or a notify says: t is the call that it answers, or was asked about, and by is the timeline's
// word for how it came.
func (o *Order) learn(t *Track, f *Finding, by string, now int64) (l lesson) {
	o.note(now, by, o.name(t), f.Word)
	o.also = cmp.Or(f.Also, o.also)
	if f.Wait {
		t.Hold = now + busyPause.Milliseconds()
	}
	if o.differs(f) {
		l.differs, o.Differs = !o.Differs, true
	}
	late := o.Late
	fact := f.Order
	switch fact {
	case Nothing:
	case IsAbsent:
		fact = Nothing
		if o.Seen && now >= o.Expires+unseenAfter.Milliseconds() {
			if o.Absent++; o.Absent >= 2 {
				fact = isUnseen
			}
		}
	default:
		o.Absent = 0
	}
	if fact == IsPaid || fact == IsPartRefunded || fact == IsRefunded {
		if f.Amount != 0 {
			o.Paid = f.Amount
		}
		if !f.Sum || o.settled() {
			o.Refunded = max(o.Refunded, f.Refunded)
		}
	}
	o.become(&o.Track, fact, now)
	if f.Number != "" && f.Number != t.Number { // of another call than the one that was asked about
		t = o.called(t, f, now)
	}
	if t != &o.Track {
		if f.CallAmount != 0 {
			t.Amount = f.CallAmount
		}
		o.become(t, f.Call, now)
	}
	for _, c := range o.Calls { // some succeed before the payment is known
		if c.Kind == KindRefund && c.State == Succeeded && o.State.paid() {
			whole := c.Whole || o.Paid != 0 && o.refunded() >= o.Paid
			o.become(&o.Track, map[bool]Fact{true: IsRefunded, false: IsPartRefunded}[whole], now)
		}
	}
	l.late = o.Late && !late
	return l
}

// since is what a finding still says of a row, where asked is the row that it was asked about. That a call has failed says nothing
// about one that was sent again meanwhile, nor that an order is open about one that was closed meanwhile. What is known to be paid,
// or to have succeeded, is so, whatever a server says that lags behind: the app is not told otherwise. Only who has canceled a paid
// order is told that this has succeeded, by whatever name the platform calls the order then.
func (f *Finding) since(asked, o *Order, number string) *Finding {
	if f == nil {
		return nil
	}
	still := *f
	number = cmp.Or(f.Number, number)
	is := o.call(number)
	switch {
	case f.Order == IsOpen && o.State == Closed && asked.State != Closed:
		still.Order = Nothing
	case f.Order == IsClosed && o.State.paid():
		still.Order = Nothing
		if canceled := f.Call == HasSucceeded && is != nil && is.Kind.Money(); !canceled || !asked.State.paid() {
			still.Event = nil
		}
	}
	if f.Call == HasFailed && is != nil {
		before := asked.call(number)
		if before == nil || before.Sent != is.Sent || is.Kind.Money() && is.State == Succeeded {
			still.Call, still.Event = Nothing, nil
		}
	}
	return &still
}

// differs reports whether amount or mid is not what was ordered. Who says that an order is paid has to say how much; what tells
// of a refund is compared by its mid only, as it has no amount of the order.
func (o *Order) differs(f *Finding) bool {
	if f.Bill || !o.Seen {
		return false
	}
	comparable := o.Amount != 0 && (f.Amount != 0 || f.Order == IsPaid)
	return comparable && f.Amount != o.Amount || f.Mid != "" && o.Mid != "" && f.Mid != o.Mid
}

// ordered is what Ce-Ordered says of a finding. Where nobody could read what was ordered, it was not seen either.
func (o *Order) ordered(f *Finding, amounts string) string {
	switch {
	case !o.Seen:
		return OrderedUnseen
	case amounts != Off && o.differs(f):
		return OrderedDiffers
	case f.Order == IsPaid && o.Amount == 0 && !f.Bill:
		return OrderedUnseen
	}
	return OrderedTrue
}

// called returns the call of a number that the platform names: one that is known by it, one that was sent without a number, or a new
// one, which was made elsewhere. One without a number is the one that was asked about, or has this amount and was not refused: the
// platform has not given that one a number.
func (o *Order) called(asked *Track, f *Finding, now int64) *Track {
	if t := o.call(f.Number); t != nil {
		return t
	}
	for _, t := range append([]*Track{asked}, o.Calls...) {
		if strings.HasPrefix(t.Number, "#") && t.Alias == "" && (t == asked || t.State != Failed && t.Amount == f.CallAmount) {
			t.Alias = f.Number
			return t
		}
	}
	return o.add(&Track{Kind: cmp.Or(f.Kind, KindRefund), Number: f.Number, Sent: now})
}

// owe writes down that the app is to be told an event, which a finding has, and reports whether the caller is to tell it now. What
// an older event about the same call said, and nobody has taken, is superseded.
func (o *Order) owe(t *Track, f *Finding, by string, now, until int64) bool {
	e, about := f.Event, o.name(t)
	told := o.event(e.ID)
	if told == nil {
		if o.supersedes(t, f, by) {
			o.Told = slices.DeleteFunc(o.Told, func(other *Told) bool {
				return other.About == about && other.Taken == 0 && !other.telling(now)
			})
		}
		told = &Told{ID: e.ID, About: about, By: by, At: now}
		o.Told = append(o.Told, told)
	}
	if told.Type == "" { // it was taken before this could be written down
		told.About = about
	}
	told.Type = e.Type
	says := Nothing
	if t != &o.Track && f.Call != HasSucceeded {
		says = cmp.Or(f.Call, IsPending)
	}
	switch {
	case told.About == about:
		told.Says = says
		t.Unheard = t.Unheard || told.denies() // it hears last that there is none
	case told.Taken != 0 && says == Nothing: // such as of a cancel: it was told about the order
		t.Unheard = false
	}
	if !e.Again && (told.Taken != 0 || told.telling(now)) {
		return false
	}
	told.Until = until
	return true
}

// supersedes reports whether what a finding says takes the place of what the app was to be told before. What says less than is known
// does not: that a call which has succeeded has failed, or is under way, or that an order which is paid is not. Nor does the notify
// that a part was given back: a query still tells of the payment.
func (o *Order) supersedes(t *Track, f *Finding, by string) bool {
	if t != &o.Track {
		return t.State != Succeeded || f.Call == HasSucceeded
	}
	return !o.State.paid() || f.Order == IsPaid || f.Order == IsRefunded || f.Order == IsPartRefunded && by == "query"
}
