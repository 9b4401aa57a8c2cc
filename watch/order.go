package watch

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Track is what is known of one call: the one that made an order, or one that is about it. Times are in milliseconds since
// 1970; 0: never.
type Track struct {
	State  State             `json:"state,omitempty"`
	Kind   Kind              `json:"kind,omitempty"`
	Number string            `json:"number,omitempty"` // of a refund, capture or close; `#1`, `#2`, … where the platform gives none
	Alias  string            `json:"alias,omitempty"`  // the platform's own number of such a call
	Path   string            `json:"path,omitempty"`
	Amount int64             `json:"amount,omitempty"` // in fen; 0: none was named
	Whole  bool              `json:"whole,omitempty"`  // it gives back all there is
	Fields map[string]string `json:"fields,omitempty"` // what a query needs

	Sent    int64   `json:"sent,omitempty"`    // when it was last sent
	Since   int64   `json:"since,omitempty"`   // when its outcome became doubtful
	Outcome Outcome `json:"outcome,omitempty"` // of the last sending; empty: none yet
	Code    string  `json:"code,omitempty"`    // errCode of its answer
	Unheard bool    `json:"unheard,omitempty"` // the last that its app heard of it was neither success nor that it is under way
	Again   bool    `json:"again,omitempty"`   // it was sent more than once
	First   int64   `json:"first,omitempty"`   // when it was first sent, if it was sent again and had not failed before

	Flight   string `json:"flight,omitempty"`   // which gateway's call is on its way; empty: none is
	Lands    int64  `json:"lands,omitempty"`    // when it is taken for lost
	Answered bool   `json:"answered,omitempty"` // its answer has come, and the app is given it: a gateway that ends now leaves it lost

	Next   int64 `json:"next,omitempty"`   // when it is asked about next
	Class  Class `json:"class,omitempty"`  // how urgently: 1 urgent, 2 owed, 3 due, 4 gives way
	Asked  int64 `json:"asked,omitempty"`  // when it was last
	Hold   int64 `json:"hold,omitempty"`   // not before this
	Absent int   `json:"absent,omitempty"` // how often an expired order was not known
}

// Order is a row: an order, and what was done about it. Times are in milliseconds since 1970.
type Order struct {
	Merchant string `json:"-"`
	ID       string `json:"-"` // the order's number

	Track         // of the call that made it
	Seen     bool `json:"seen,omitempty"`     // an order call or a link of it went through a gateway
	Late     bool `json:"late,omitempty"`     // it was paid after the platform had called it closed
	Differs  bool `json:"differs,omitempty"`  // mid or amount is not what was ordered
	Notified bool `json:"notified,omitempty"` // a notify told of its payment

	Mid      string `json:"mid,omitempty"`
	Expires  int64  `json:"expires,omitempty"`
	Notify   string `json:"notify,omitempty"`   // host and path of its own notifyUrl
	Paid     int64  `json:"paid,omitempty"`     // in fen, as the platform says; 0: it did not say
	PaidAt   int64  `json:"paid_at,omitempty"`  // when this became known
	Refunded int64  `json:"refunded,omitempty"` // in fen, as the platform says
	Folded   int64  `json:"folded,omitempty"`   // in fen: successful refunds that are no longer among Calls

	Calls   []*Track `json:"calls,omitempty"`
	Told    []*Told  `json:"told,omitempty"`
	Lines   []Line   `json:"lines,omitempty"` // the timeline
	Numbers int      `json:"numbers,omitempty"`
	Same    string   `json:"same,omitempty"` // nothing else stands in the row: the order is kept under this number
	Changed int64    `json:"changed,omitempty"`

	revision uint64
	also     string // another number of the order that was learnt, and is to lead to its row
}

// Told is an event that the app was told, or is to be. Times are in milliseconds since 1970.
type Told struct {
	ID    string `json:"id"`
	Type  string `json:"type,omitempty"`
	About string `json:"about,omitempty"` // the number of the call; empty: the order
	By    string `json:"by,omitempty"`    // `notify` or `query`
	Says  Fact   `json:"says,omitempty"`  // of the call; empty: that it has succeeded, or nothing of a call
	At    int64  `json:"at,omitempty"`    // when it became known
	Until int64  `json:"until,omitempty"` // somebody is telling it, until then
	Taken int64  `json:"taken,omitempty"` // when the app, or the inbox, took it
	Stuck int64  `json:"stuck,omitempty"` // when it was given up: a person has to look, and may have it told again
}

// telling reports whether somebody is at it. One who set out later than any clock allows is not: the clock was set back.
func (e *Told) telling(now int64) bool {
	return e.Until > now && e.Until <= now+tellTimeout.Milliseconds()
}

// denies reports whether it says of a call neither that it has succeeded nor that it is under way.
func (e *Told) denies() bool { return e.Says != Nothing && e.Says != IsPending }

// Line is one entry of a timeline.
type Line struct {
	At    int64  `json:"at"`              // when, or when last
	What  string `json:"what"`            // `sent`, `answer`, `query`, `notify`, `told`, `override` or `time`
	About string `json:"about,omitempty"` // the number of the call; empty: the order
	Word  string `json:"word,omitempty"`
	State State  `json:"state,omitempty"` // what became of it by this
	Times int    `json:"times,omitempty"` // how often, where more than once
}

// How much of one order is kept.
const (
	maxLines = 40
	maxCalls = 200
	maxTold  = 100
	maxWord  = 64
)

// rowKey is where a row is kept. No merchant's name has a slash.
func rowKey(merchant, number string) string { return merchant + "/" + number }

func splitKey(key string) (merchant, number string) {
	merchant, number, _ = strings.Cut(key, "/")
	return merchant, number
}

func (o *Order) key() string { return rowKey(o.Merchant, o.ID) }

// turn adds a new state to the timeline: to the line that tells what brought it, or to one of its own.
func (o *Order) turn(now int64, about string, to State) {
	last := len(o.Lines) - 1
	if last < 0 || o.Lines[last].At != now || o.Lines[last].About != about || o.Lines[last].State != "" {
		o.note(now, "time", about, "")
		last = len(o.Lines) - 1
	}
	o.Lines[last].State = to
}

// note adds to the timeline. The same again only counts, and the middle of a long one is dropped.
func (o *Order) note(now int64, what, about, word string) {
	if len(word) > maxWord {
		word = strings.ToValidUTF8(word[:maxWord], "")
	}
	if last := len(o.Lines) - 1; last >= 0 && o.Lines[last].What == what && o.Lines[last].About == about && o.Lines[last].Word == word && what != "sent" {
		o.Lines[last].At = now
		o.Lines[last].Times = max(o.Lines[last].Times, 1) + 1
		return
	}
	if len(o.Lines) == maxLines {
		o.Lines = slices.Delete(o.Lines, maxLines/2, maxLines/2+1)
	}
	o.Lines = append(o.Lines, Line{At: now, What: what, About: about, Word: word})
}

// call returns the call of a number, or nil.
func (o *Order) call(number string) *Track {
	for _, c := range o.Calls {
		if c.Number == number || c.Alias != "" && c.Alias == number {
			return c
		}
	}
	return nil
}

// track is what is known of the order's own call, or of the one with this number.
func (o *Order) track(number string) *Track {
	if number == "" {
		return &o.Track
	}
	return o.call(number)
}

// tracks are the order's own and those of its calls.
func (o *Order) tracks() []*Track { return append([]*Track{&o.Track}, o.Calls...) }

// event returns the event of an id, or nil.
func (o *Order) event(id string) *Told {
	for _, e := range o.Told {
		if e.ID == id {
			return e
		}
	}
	return nil
}

// untold is the oldest event about a call, or the order, that nobody has taken and that is not given up.
func (o *Order) untold(about string) *Told {
	for _, e := range o.Told {
		if e.About == about && e.Taken == 0 && e.Stuck == 0 {
			return e
		}
	}
	return nil
}

// tellingStuck reports whether it was given up to tell the app something.
func (o *Order) tellingStuck() bool {
	return slices.ContainsFunc(o.Told, func(e *Told) bool { return e.Stuck != 0 })
}

// refunded is how much was given back, as far as it is known.
func (o *Order) refunded() int64 {
	sum := o.Folded
	for _, c := range o.Calls {
		if c.Kind != KindRefund || c.State != Succeeded {
			continue
		}
		if c.Whole {
			return max(o.Paid, sum)
		}
		sum += c.Amount
	}
	return max(sum, o.Refunded)
}

// settled reports whether the end of each refund is known.
func (o *Order) settled() bool {
	return !slices.ContainsFunc(o.Calls, func(c *Track) bool { return c.Kind == KindRefund && !c.State.ended() })
}

// blank reports whether nothing is known of the order that would be worth a row.
func (o *Order) blank() bool {
	return o.State == "" && !o.Seen && len(o.Calls) == 0 && len(o.Told) == 0
}

// fold bounds what is kept of calls and events that are over. A success that the app does not know of, and what it is still to be told
// of, goes last. Of the events that were taken, those that deny a call go first.
func (o *Order) fold() {
	over := func(c *Track) bool { return c.State.ended() && c.Flight == "" }
	known := func(c *Track) bool { return over(c) && !(c.State == Succeeded && c.Unheard) && !o.owed(c) }
	for len(o.Calls) > maxCalls {
		i := slices.IndexFunc(o.Calls, known)
		if i < 0 {
			i = slices.IndexFunc(o.Calls, over)
		}
		if i < 0 {
			return
		}
		if c := o.Calls[i]; c.Kind == KindRefund && c.State == Succeeded {
			o.Folded += c.Amount
		}
		o.Calls = slices.Delete(o.Calls, i, i+1)
	}
	for len(o.Told) > maxTold {
		i := slices.IndexFunc(o.Told, func(e *Told) bool { return e.Taken != 0 && e.denies() })
		if i < 0 {
			i = max(slices.IndexFunc(o.Told, func(e *Told) bool { return e.Taken != 0 }), 0)
		}
		o.Told = slices.Delete(o.Told, i, i+1)
	}
}

// add makes a new call.
func (o *Order) add(c *Track) *Track {
	if c.Number == "" {
		o.Numbers++
		c.Number = "#" + strconv.Itoa(o.Numbers)
	}
	o.Calls = append(o.Calls, c)
	return c
}

// A row's value begins with what is to be known of each when a gateway starts: the format, the class of the next look, the
// state, whether a call is on its way, when the next look is due, and since when something is unresolved. JSON follows.
const (
	format     = 1
	headerSize = 20
)

type header struct {
	class  Class
	state  State
	flight bool
	due    int64 // milliseconds; 0: never
	since  int64 // milliseconds; 0: nothing is unresolved
}

var errFormat = errors.New("the row is damaged, or was written by another version of the watch")

func (o *Order) header() (h header) {
	h.state = o.State
	if o.tellingStuck() {
		h.state = Stuck
	}
	for _, t := range o.tracks() {
		h.flight = h.flight || t.Flight != ""
		if t.Next != 0 {
			if h.due == 0 || t.Next < h.due {
				h.due = t.Next
			}
			if h.class == Never || t.Class < h.class {
				h.class = t.Class
			}
		}
		if since := o.unresolvedSince(t); since != 0 && (h.since == 0 || since < h.since) {
			h.since = since
		}
		if t != &o.Track && t.State == Stuck {
			h.state = Stuck
		}
	}
	return h
}

// unresolvedSince is when the outcome of a call became doubtful, if it still is.
func (o *Order) unresolvedSince(t *Track) int64 {
	if t.Flight == "" && (t.State == Unresolved || t.State == Sent && t.Outcome != "" || t.State == Stuck) {
		return t.Since
	}
	return 0
}

func (o *Order) encode() ([]byte, error) {
	h := o.header()
	content, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	value := make([]byte, headerSize, headerSize+len(content))
	value[0], value[1], value[2] = format, byte(h.class), byte(slices.Index(allStates, h.state))
	if h.flight {
		value[3] = 1
	}
	binary.BigEndian.PutUint64(value[4:], uint64(h.due))
	binary.BigEndian.PutUint64(value[12:], uint64(h.since))
	return append(value, content...), nil
}

func readHeader(value []byte) (h header, err error) {
	if len(value) < headerSize || value[0] != format || value[1] > byte(Early) || int(value[2]) >= len(allStates) {
		return h, errFormat
	}
	return header{
		class: Class(value[1]), state: allStates[value[2]], flight: value[3] == 1,
		due: int64(binary.BigEndian.Uint64(value[4:])), since: int64(binary.BigEndian.Uint64(value[12:])),
	}, nil
}

func decode(e Entry) (*Order, error) {
	if _, err := readHeader(e.Value); err != nil {
		return nil, err
	}
	o := &Order{revision: e.Revision}
	if err := json.Unmarshal(e.Value[headerSize:], o); err != nil {
		return nil, fmt.Errorf("%w: %w", errFormat, err)
	}
	o.Merchant, o.ID = splitKey(e.Key)
	return o, nil
}

// begin writes down that a call is about to be sent, and returns what is known of it.
func (o *Order) begin(call Call, flight string, now, lands int64) *Track {
	t := &o.Track
	if call.Kind.order() {
		if settled := o.State != "" && o.State != Sent && o.State != Closed && o.State != Unseen; !settled {
			o.terms(call, now)
		}
		o.Seen = true
	} else if t = o.call(call.Number); t == nil || call.Number == "" {
		t = o.add(&Track{Kind: call.Kind, Number: call.Number, Path: call.Path, Amount: call.Amount, Whole: call.Whole, Fields: maps.Clone(call.Fields)})
	} else if t.Kind == KindCapture && t.Amount != call.Amount && (t.State == Unresolved || t.State == Sent) {
		t.Amount = 0 // nobody knows which of the two is captured
	} else if t.State == Failed || t.State == Sent {
		t.Kind, t.Path, t.Amount, t.Whole, t.Fields = call.Kind, call.Path, call.Amount, call.Whole, maps.Clone(call.Fields)
	}
	o.note(now, "sent", o.name(t), call.Path)
	if t.First = cmp.Or(t.First, t.Sent); t.State == Failed {
		t.First = 0
	}
	if t.Flight != "" { // an earlier sending is still on its way: no refusal of this one says anything about it
		o.become(t, isLost, now)
	}
	o.become(t, isSent, now)
	t.Again = t != &o.Track && t.Sent != 0
	t.Flight, t.Lands, t.Answered, t.Sent = flight, lands, false, now
	return t
}

// terms takes over what was ordered last: the platform takes it over with an order of the same number.
func (o *Order) terms(call Call, now int64) {
	o.Kind, o.Amount, o.Mid, o.Notify, o.Path = call.Kind, call.Amount, call.Mid, call.Notify, call.Path
	o.Expires = now + defaultExpiry.Milliseconds()
	if at := call.Expires.UnixMilli(); at > now { // a clock may be wrong
		o.Expires = at
	}
	o.Fields, o.Absent, o.Differs = maps.Clone(call.Fields), 0, false
}

// restore takes back the terms of an order call that was not sent, or refused.
func (o *Order) restore(was *Order) {
	o.Kind, o.Amount, o.Mid, o.Notify, o.Path = was.Kind, was.Amount, was.Mid, was.Notify, was.Path
	o.Expires, o.Fields, o.Absent, o.Differs = was.Expires, was.Fields, was.Absent, was.Differs
}

// flown returns the call that a flight belongs to, or nil.
func (o *Order) flown(flight string) *Track {
	for _, t := range o.tracks() {
		if t.Flight == flight {
			return t
		}
	}
	return nil
}

// land settles calls whose outcome nobody will tell any more.
func (o *Order) land(now int64, gone func(flight string, lands, now int64) bool) (changed bool) {
	for _, t := range o.tracks() {
		if t.Flight != "" && gone(t.Flight, t.Lands, now) {
			t.Flight, t.Lands, t.Answered, t.Outcome, t.Code, t.Unheard = "", 0, false, Unknown, "", true
			o.note(now, "answer", o.name(t), "no outcome")
			o.become(t, isLost, now)
			changed = true
		}
	}
	return changed
}

// name is how events and lines call a call: by its number, the order's own by none.
func (o *Order) name(t *Track) string {
	if t == &o.Track {
		return ""
	}
	return t.Number
}
