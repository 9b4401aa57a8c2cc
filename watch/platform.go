package watch

import (
	"context"
	"time"
)

// Kind says what a call does.
type Kind string

// The kinds of calls that are watched.
const (
	KindOrder   Kind = "order"   // it makes an order
	KindLink    Kind = "link"    // it makes a link; there is no order before the buyer opens it
	KindRefund  Kind = "refund"  // it gives money back, in part or, as a cancel does, all of it
	KindCapture Kind = "capture" // it takes money that was reserved
	KindClose   Kind = "close"   // it closes an unpaid order
)

// order reports whether a call of this kind makes an order; the others are about one.
func (k Kind) order() bool { return k == KindOrder || k == KindLink }

// Money reports whether a call of this kind moves money of an order.
func (k Kind) Money() bool { return k == KindRefund || k == KindCapture }

// Call is what a platform reads out of a call's path and body.
type Call struct {
	Kind Kind

	// Order is the order's number in the watch: for the same order always the same text, whoever names it.
	Order string

	// Number tells a refund, capture or close from others of the order. Empty: the platform gives such a call no number, so
	// that each is another one. A cancel, of which there is one only, has a constant.
	Number string

	// Amount is in fen. 0: none is named. Whole says that the call gives back all there is, whatever Amount says.
	Amount int64
	Whole  bool

	// Expires is when the order does. Zero: 30 minutes after it was sent.
	Expires time.Time

	// Notify is host and path of the order's own notifyUrl, as `host/path`.
	Notify string

	// Mid is the merchant's number, which a notify has to have, too.
	Mid string

	// Path is the call's.
	Path string

	// Invalid names what of a money call cannot be relied on: a field, `path` or `body`. The guard does not let it pass, as
	// nobody could say what it pays back, nor of which order. The rest of the call may be empty then, but for Kind.
	Invalid string

	// Fields is what a query needs to know, by the platform's names, and no buyer's data.
	Fields map[string]string
}

// Outcome is what is known of a call: that of the header Gateway-Outcome.
type Outcome string

// The outcomes.
const (
	Answered Outcome = "answered"
	NotSent  Outcome = "not_sent"
	Unknown  Outcome = "unknown"
)

// Fact is what an answer or a notify says about an order or a call.
type Fact string

// What a platform says. Of an order:
const (
	Nothing        Fact = ""         // it proves nothing
	IsOpen         Fact = "open"     // it is there, and not paid
	IsPaid         Fact = "paid"     // and nothing is given back
	IsPartRefunded Fact = "part"     // some of it is given back
	IsRefunded     Fact = "refunded" // all of it is
	IsClosed       Fact = "closed"   // it ended unpaid
	IsRefused      Fact = "refused"  // nothing was done, and nothing will be
	IsAbsent       Fact = "absent"   // the platform does not know it: this proves nothing, either
)

// Of another call, beside IsRefused and IsAbsent:
const (
	HasSucceeded Fact = "succeeded"
	HasFailed    Fact = "failed"
	IsPending    Fact = "pending" // it is known, and its end is not
)

// What the watch itself adds:
const (
	isSent   Fact = "sent"     // a call is about to go out
	isLost   Fact = "lost"     // its outcome is unknown
	isUnseen Fact = "unseen"   // absent ten minutes after its expiry, twice
	isStuck  Fact = "given up" // its end was not to be had
)

// Finding is what one answer or notify says.
type Finding struct {
	// Word is the platform's own, such as an errCode or a status, for the timeline.
	Word string

	// Order is what it says about the order; Amount what the order's is, Refunded how much of it was given back, both in
	// fen (0: not said); Mid whose it is. Amount and Mid are held against what was ordered: what tells of a refund only leaves
	// Amount out.
	Order            Fact
	Amount, Refunded int64
	Mid              string

	// Sum says that Refunded is what all refunds together have given back. It may hold what one of them gives back whose end is
	// not known: it counts only where there is none.
	Sum bool

	// Also is another number of the order, by which calls and notifies may name it. What comes under it from now on is the
	// order's.
	Also string

	// Bill says that the order's amount and mid are not the ones that were ordered, and need not be.
	Bill bool

	// Call is what it says about the call that was asked about, or the one of this Number where a notify or an answer tells
	// of another one; CallAmount is that one's, in fen.
	Call       Fact
	Number     string
	CallAmount int64

	// Kind is that call's, where the watch has not seen it. Default: KindRefund.
	Kind Kind

	// Wait says that the platform is busy with the order: it is not asked again within 60 s.
	Wait bool

	// Event is what a notify of it would have become. Nil: nobody is told.
	Event *Event
}

// id is the event's, if there is one.
func (f *Finding) id() string {
	if f.Event == nil {
		return ""
	}
	return f.Event.ID
}

// Event is what the app is told.
type Event struct {
	ID, Type string

	// Ordered is set by the watch: true, differs or unseen, as a notify's Ce-Ordered.
	Ordered string

	// Again is set where somebody asked for it to be told again: the same id is no reason not to.
	Again bool

	// Order is set by the watch: what is known of the order, such as the host and path of its notifyUrl.
	Order *Order

	// Content is for the platform and its Teller; the watch does not look into it, nor keep it.
	Content any
}

// Query is one question for the platform.
type Query struct {
	Path string
	Body []byte
}

// Platform is what the watch has to know of one. Its methods keep nothing of what they are given.
type Platform interface {
	// Classify says what a call is; false: one that is not watched. A call that may be a money call, and is not clearly one,
	// is Invalid.
	Classify(path string, body []byte) (Call, bool)

	// Answered says what the platform's own answer to a call means. The zero Finding: nothing is certain.
	Answered(call Call, code string, answer []byte) Finding

	// Ask returns the queries about an order, or about one of its calls where that is not nil. The second one is sent only
	// where the first one has found nothing or could not be used.
	Ask(order *Order, call *Track) []Query

	// Read says what the answer to a query means. An error: it is no answer, or one about another order.
	Read(order *Order, call *Track, query Query, answer []byte) (Finding, error)

	// NotFound is the event that tells that the platform does not know a refund an hour after it was sent; nil: none.
	NotFound(order *Order, call *Track) *Event
}

// Sender signs and sends a query for a merchant, and returns the answer's body.
type Sender func(ctx context.Context, merchant string, query Query) ([]byte, error)

// Teller takes an event so that it reaches the app, as an inbox does. It returns nil when it can no longer be lost. An id
// that it has had is no error.
type Teller interface {
	Tell(ctx context.Context, merchant string, event *Event) error
}
