package inbox

import (
	"context"
	"errors"
	"strings"
	"time"

	"go.uber.org/zap"
)

// Store keeps the messages of one inbox, durably, and says which is to be delivered next.
//
// The words. A message is one request that somebody wanted delivered. Its id tells it from others: whoever made the
// request says what is one event. Its seq is its number in the store. It is pending until it is settled: delivered (the
// app has taken it) or dead (given up). A pending message is leased while a delivery of it is in flight.
//
// What a store guarantees:
//
//   - Safe before said. Put returns Stored or Revived only when the message would survive the loss of power; Settle
//     returns nil only when the same is true of the outcome. What returns an error has either not happened at all or has
//     happened wholly; in doubt the caller repeats, and the id makes that harmless.
//   - One message an id. While a message of an id is pending, or was delivered within Settings.Remember, Put of the same
//     id returns Repeated and changes nothing, however many callers put it at once. If it is dead, Put makes it pending
//     again, as if new, with the request of this Put: Revived. An id is compared byte for byte.
//   - Leased to one caller. A message is leased until it is settled or released, or until the lease has run out, at
//     Settings.Lease at the earliest: its holder is gone, or could not record an outcome for so long. A failover of the
//     store's servers may lease it to a second caller.
//   - At least once. A message is delivered twice only where its lease ran out, or the store failed over, between the
//     app's taking it and the end of Settle. Then it is twice for each such delivery that was in flight, and for no
//     other. It is never lost.
//   - Nothing is lost and nothing starves: every pending message that is due is leased in the end, however many there
//     are, and messages that wait for a retry never keep others from being leased. First deliveries are in the order of
//     seq, roughly.
//   - With order (Ordered): of the messages with one non-empty Key, only the one with the lowest seq among the pending
//     is leased; the others wait until it is settled.
//   - A message that nobody has settled is never removed. Delivered ones go after Settings.Remember, dead ones stay.
//     Where Settings.MaxBytes would be exceeded, requests of delivered messages are dropped first, oldest first, while
//     their ids stay known; then Put returns ErrFull.
//   - Clocks may jump. A message whose retry is due later than the longest delay it was given, counted from now, is due.
//   - Its costs (time to open, memory, time of Put, Lease and Settle) grow with the number of messages as a logarithm
//     does, at most. While nothing is to be done it wakes up every 30 seconds at most.
//
// What the caller owes: every lease is settled or released, soon after Settings.Lease at the latest. All methods may be
// called at the same time from many goroutines. After Close each returns ErrClosed, but Close.
type Store interface {
	// Configure changes the settings of an open store: a new configuration shares the store of the old one.
	Configure(settings Settings) error

	// Put stores a message: ID, Key, Subject, Received and Request count, the rest is the store's. It returns ErrFull,
	// ErrTooLarge (larger than this store could ever take), ctx's error, or why the store cannot store now; then the
	// message is not acknowledged.
	Put(ctx context.Context, message *Message) (Receipt, error)

	// Lease waits until a message is due and nobody has it, and hands it out. It returns ctx's error when that ends, and
	// ErrClosed. Any other error is about the store's state, may pass, and says that nothing was leased.
	Lease(ctx context.Context) (*Message, error)

	// Settle says what became of a leased message. It is repeated by the caller until it succeeds or the lease has run
	// out, and beyond that where the app has taken it, as nobody else may have got it yet. Settling a message that was
	// settled or re-leased meanwhile does nothing. The seq of a message may change; then message.Seq is the new one.
	Settle(ctx context.Context, message *Message, outcome Outcome) error

	// List returns messages in the order of seq, without Request. It may be a moment behind what was just settled, as Stats may.
	List(ctx context.Context, query Query) ([]*Message, error)

	// Get returns one message, with its Request unless that was dropped for want of room. ErrNotFound.
	Get(ctx context.Context, seq uint64) (*Message, error)

	// Redeliver makes a settled message pending and due now with no attempts behind it, and a pending one due now. The
	// seq may change: it returns the new one. ErrNotFound, ErrDelivered (a delivered one needs force), ErrNoRequest (its
	// request was dropped), ErrLeased (it is being delivered at this moment).
	Redeliver(ctx context.Context, seq uint64, force bool) (uint64, error)

	// Delete removes a settled message for good, and with force a pending one; its id is then unknown. ErrNotFound,
	// ErrPending (a pending one needs force), ErrLeased (it is being delivered at this moment).
	Delete(ctx context.Context, seq uint64, force bool) error

	// DeleteDead removes the dead messages that were given up before a time, or all for the zero time, and returns how
	// many it has removed, also where it ends with an error.
	DeleteDead(ctx context.Context, before time.Time) (int, error)

	// Stats counts, cheaply enough for every scrape.
	Stats(ctx context.Context) (Stats, error)

	// Close returns when nothing is being written any more. Waiting calls return ErrClosed.
	Close() error
}

// Errors of a Store.
var (
	ErrFull      = errors.New("the inbox is full (max_store)")
	ErrTooLarge  = errors.New("the message is larger than the store takes")
	ErrClosed    = errors.New("the inbox is closed")
	ErrNotFound  = errors.New("no such message")
	ErrDelivered = errors.New("the message was delivered; force delivers it again")
	ErrNoRequest = errors.New("the message's request was dropped, to make room, after it had been delivered")
	ErrLeased    = errors.New("the message is being delivered at this moment")
	ErrPending   = errors.New("the message is still to be delivered; force deletes it all the same")
)

// Provider is a Caddy module of the namespace inbox.stores: how an inbox's messages are kept.
type Provider interface {
	// Key names what the store of the inbox `name` has for itself, such as a file: two configurations with one key share
	// one store, and two inboxes must not have one key. It is called after Provision.
	Key(name string) string

	// Open opens the store of the inbox `name`, and makes it where there is none. It is called at start, never while a
	// configuration is only validated. The error names what to do.
	Open(ctx context.Context, name string, settings Settings, logger *zap.Logger) (Store, error)

	// Ordered returns nil if the stores keep the order of a key, else the reason why they cannot.
	Ordered() error
}

// Settings are an inbox's.
type Settings struct {
	// How many bytes the messages may have in all. 0: no limit.
	MaxBytes int64

	// How long the id of a delivered message is known.
	Remember time.Duration

	// How long a lease is meant to last at most: the timeout of a delivery.
	Lease time.Duration

	// The longest delay before a retry.
	MaxDelay time.Duration
}

// State is what has become of a message.
type State string

// The states.
const (
	Pending   State = "pending"
	Delivered State = "delivered"
	Dead      State = "dead"
)

// Message is one stored request.
type Message struct {
	Seq      uint64    // its number in the store, from 1
	ID       string    // what tells it from others
	Key      string    // messages of one key are delivered one after the other; empty: no order
	Subject  string    // what it is about, for lists and searches: a notify's order; at most 256 bytes
	Received time.Time // when it was put
	Request  []byte    // the encoded request: the store does not look into it

	State    State
	Attempts int       // deliveries that have failed, since it was put or last revived
	Due      time.Time // of a pending one that has failed: its next delivery
	Settled  time.Time // of the others: when
	Answer   Answer    // the app's last

	// Lease is for the store: what it needs to know again when the message is settled.
	Lease any
}

// Answer is what came of the last delivery that failed, or of the one that did not.
type Answer struct {
	Status int    `json:"status,omitempty"` // 0: none
	Body   string `json:"body,omitempty"`   // its beginning, at most 256 bytes, valid UTF-8
	Error  string `json:"error,omitempty"`  // a word for what failed, at most 256 bytes
}

// Outcome is what became of one delivery.
type Outcome struct {
	// Result is Delivered, Dead, or Pending for another try after Delay; Released gives the lease back as if the
	// delivery had never begun.
	Result   State
	Released bool
	Delay    time.Duration
	Answer   Answer
}

// Receipt is what Put did.
type Receipt int

// The receipts.
const (
	Stored   Receipt = iota + 1 // it is new
	Repeated                    // one with its id is pending or was delivered: nothing changed
	Revived                     // one with its id was dead and is pending again, with this request
)

// Query selects messages.
type Query struct {
	State  State  // empty: all
	Search string // only those whose id or subject contains it; empty: all
	After  uint64 // only those with a higher seq
	Limit  int    // at most so many; at least 1
}

// Matches reports whether a message is one that Search asks for.
func (q Query) Matches(message *Message) bool {
	return strings.Contains(message.ID, q.Search) || strings.Contains(message.Subject, q.Search)
}

// Stats are the numbers of an inbox.
type Stats struct {
	Pending, Delivered, Dead int64

	// Oldest is when the oldest pending message was received, zero if there is none.
	Oldest time.Time

	// Bytes is what counts against MaxBytes.
	Bytes int64
}
