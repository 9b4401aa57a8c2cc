package watch

import (
	"hash/fnv"
	"io"
	"slices"
	"strconv"
	"time"
)

// Settings are a watch's.
type Settings struct {
	// Orders are the ages at which an order that is not yet paid is asked about, before it expires. Empty: unpaid orders are
	// not asked about at all.
	Orders []time.Duration

	// Unknown are the times after an unknown outcome at which it is asked about; then daily.
	Unknown []time.Duration

	// GiveUp is how long something is asked about before it is stuck.
	GiveUp time.Duration

	// Rate is how many queries a second this gateway sends for one merchant.
	Rate float64

	// Refunds is enforce, warn or off; Amounts is warn, reject or off.
	Refunds, Amounts string

	// Keep is how long what has ended is kept.
	Keep time.Duration

	// Flight is when a call without an outcome is taken for lost, though its gateway may live. Default: 2 minutes.
	Flight time.Duration
}

// The words of Settings.
const (
	Enforce = "enforce"
	Warn    = "warn"
	Reject  = "reject"
	Off     = "off"
)

// What no setting says.
const (
	defaultExpiry = 30 * time.Minute // of an order that names none
	defaultFlight = 2 * time.Minute
	unseenAfter   = 10 * time.Minute // after its expiry, an order that the platform does not know counts
	absentAfter   = time.Hour        // after its sending, the app is told that the platform does not know a refund
	busyPause     = time.Minute      // after the platform has said that it is busy with an order
	daily         = 24 * time.Hour
	maxJitter     = 10 * time.Minute
)

// Class says which look goes first where the rate does not allow all.
type Class uint8

// The classes.
const (
	Never  Class = iota
	Urgent       // money calls whose end is not known: they wait for nothing else
	Owed         // what the app was not told
	Due          // other calls of unknown outcome, and looks after the expiry
	Early        // looks at orders that may still be paid: they give way
)

// The schedule: what is asked about, from when on, at which ages, whether daily from then on, and how urgently. Of the lines
// that apply the earliest look counts. The looks after the expiry of an order that lives longer than 30 minutes are counted
// as if it had been made 30 minutes before it expires. A look after the expiry is never early, nor is the one that tells the app
// that a refund was not found. Any other is early or late by 10 % at most, and by 10 minutes.
var schedule = []struct {
	what  string
	holds func(o *Order, t *Track) bool
	from  func(o *Order, t *Track) int64
	ages  func(s *Settings) []time.Duration
	daily bool
	class Class
	late  bool // the jitter only delays it
}{
	{"an order that may still be paid", (*Order).payable, sent, (*Settings).orders, false, Early, false},
	{"an order that has expired", (*Order).unpaid, expiry, (*Settings).afterExpiry, false, Due, true},
	{"an order long after that", (*Order).unpaid, lateFrom, (*Settings).lateAges, true, Due, true},
	{"an order of unknown outcome", (*Order).uncertain, since, (*Settings).unknown, true, Due, false},
	{"a money call of unknown outcome", (*Order).unresolvedMoney, since, (*Settings).unknown, true, Urgent, false},
	{"a refund that may not have arrived", (*Order).unresolvedRefund, sent, (*Settings).absent, false, Urgent, true},
	{"a close of unknown outcome", (*Order).unresolved, since, (*Settings).unknown, true, Due, false},
	{"what the app was not told", (*Order).owed, owedSince, (*Settings).unknown, true, Owed, false},
	{"a success that the app does not know of", (*Order).succeededUnheard, since, (*Settings).unknown, true, Owed, false},
}

func (o *Order) payable(t *Track) bool   { return t == &o.Track && o.Seen && o.State == Open }
func (o *Order) uncertain(t *Track) bool { return t == &o.Track && o.Seen && o.State == Sent }
func (o *Order) unpaid(t *Track) bool    { return o.payable(t) || o.uncertain(t) }
func (o *Order) unresolved(t *Track) bool {
	return t != &o.Track && (t.State == Unresolved || t.State == Sent)
}
func (o *Order) unresolvedMoney(t *Track) bool  { return o.unresolved(t) && t.Kind.Money() }
func (o *Order) unresolvedRefund(t *Track) bool { return o.unresolved(t) && t.Kind == KindRefund }
func (o *Order) owed(t *Track) bool             { return o.untold(o.name(t)) != nil }

// succeededUnheard reports whether a call has succeeded, or the order is paid, and the app, which has sent it again since, has neither
// an answer nor an event that says so.
func (o *Order) succeededUnheard(t *Track) bool {
	says := func(e *Told) bool { return e.About == o.name(t) && e.Says == Nothing }
	return (t.State == Succeeded || t.State.paid()) && t.Unheard && !slices.ContainsFunc(o.Told, says)
}

func sent(_ *Order, t *Track) int64      { return t.Sent }
func since(_ *Order, t *Track) int64     { return max(t.Since, t.Sent) }
func expiry(o *Order, _ *Track) int64    { return o.Expires }
func lateFrom(o *Order, t *Track) int64  { return max(t.Sent, o.Expires-defaultExpiry.Milliseconds()) }
func owedSince(o *Order, t *Track) int64 { return o.untold(o.name(t)).At }

func (s *Settings) orders() []time.Duration  { return s.Orders }
func (s *Settings) unknown() []time.Duration { return s.Unknown }
func (s *Settings) afterExpiry() []time.Duration {
	return s.unlessOff(time.Minute, 10*time.Minute)
}
func (s *Settings) lateAges() []time.Duration {
	return s.unlessOff(2*time.Hour, 24*time.Hour+30*time.Minute)
}

// absent is when a refund that the platform does not know is told as not found.
func (*Settings) absent() []time.Duration { return []time.Duration{absentAfter} }

func (s *Settings) unlessOff(ages ...time.Duration) []time.Duration {
	if len(s.Orders) == 0 {
		return nil
	}
	return ages
}

// next is when a call is asked about after a time, and how urgently; 0: not any more. The last look is the one at the end of
// the time after which it is given up.
func (s *Settings) next(o *Order, t *Track, after int64) (due int64, class Class) {
	if t.Flight != "" && t.Kind.Money() {
		return t.Lands, Urgent
	} else if t.Flight != "" {
		return t.Lands, Due
	}
	last := Never
	for i := range schedule {
		line := &schedule[i]
		ages := line.ages(s)
		if len(ages) == 0 || !line.holds(o, t) {
			continue
		}
		from := line.from(o, t)
		end := s.end(o, t, from)
		for n := 0; ; n++ {
			age := ages[min(n, len(ages)-1)]
			if n >= len(ages) {
				if !line.daily {
					break
				}
				age += time.Duration(n-len(ages)+1) * daily
			}
			at := min(from+jitter(o, t, n, age, line.late).Milliseconds(), end)
			if at > after && (due == 0 || at < due || at == due && line.class < class) {
				due, class = at, line.class
			}
			if at > after || at == end {
				break
			}
		}
		if last == Never || line.class < last {
			last = line.class
		}
	}
	if due == 0 && last != Never && (s.over(o, t, after) || s.abandons(o, t, after)) {
		due, class = after+lease.Milliseconds(), last // the last look came to nothing: nobody has given it up
	}
	if due != 0 {
		due = max(due, min(t.Hold, after+busyPause.Milliseconds()))
	}
	return due, class
}

// end is when a call is given up that is in doubt since a time. An order is not, before it could be asked about for as long.
func (s *Settings) end(o *Order, t *Track, from int64) int64 {
	if o.unpaid(t) {
		from = max(from, lateFrom(o, t))
	}
	return max(from, t.Sent) + s.GiveUp.Milliseconds()
}

// over reports whether a call's time is up.
func (s *Settings) over(o *Order, t *Track, now int64) bool {
	return (o.unpaid(t) || o.unresolved(t)) && t.Flight == "" && now >= s.end(o, t, t.Since)
}

// abandons reports whether there is something that the app was not told for so long that a person has to look.
func (s *Settings) abandons(o *Order, t *Track, now int64) bool {
	e := o.untold(o.name(t))
	return e != nil && now >= s.end(o, t, e.At)
}

// abandon marks what the app was not told for so long, unless somebody is at it, and reports whether there is such a thing. A notify
// tells it all the same, and whoever has it told again.
func (s *Settings) abandon(o *Order, t *Track, now int64) bool {
	e := o.untold(o.name(t))
	if !s.abandons(o, t, now) || e.telling(now) {
		return false
	}
	e.Stuck = now
	o.note(now, "time", e.About, "not told: "+e.Type)
	return true
}

// plan sets the next look of each call; one that is due stays due.
func (s *Settings) plan(o *Order, now int64) {
	for _, t := range o.tracks() {
		if due, class := s.next(o, t, now); due == 0 || t.Next == 0 || t.Next > now {
			t.Next, t.Class = due, class
		}
	}
}

// jitter keeps looks at many orders apart. It is the same for every gateway and after every start.
func jitter(o *Order, t *Track, n int, age time.Duration, late bool) time.Duration {
	h := fnv.New32a()
	_, _ = io.WriteString(h, o.Merchant+"/"+o.ID+"/"+t.Number+"/"+strconv.Itoa(n)) // it never fails
	share := time.Duration(h.Sum32()%2001) - 1000                                  // of age, in ten thousandths: ±10 %
	if late {
		share = (share + 1000) / 2
	}
	return age + max(min(age/10000*share, maxJitter), -maxJitter)
}
