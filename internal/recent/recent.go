// Package recent keeps in memory what the last calls and notifies were, and counts those of the last 24 hours, for the page
// of whoever is on duty. It belongs to the process, so that a reload loses nothing. Everything in it is bounded: so many
// entries, each of a fixed size, and so many accounts. To record a call or a notify allocates nothing, but for an account's
// first.
package recent

import (
	"strings"
	"sync"
	"time"
)

// How much is kept.
const (
	kept        = 1000 // calls, and likewise notifies
	keptForeign = 250  // of each, those that belong to no account or were refused: strangers can cause any number of them
	captures    = 32   // contents of refused notifies
	captureSize = 8 << 10
	signingSize = 3 << 10 // longer than any signature that is read
	maxAccounts = 200
)

// Call is a call to a platform, as it ended. Texts are cut to 64 bytes, Words to 128.
type Call struct {
	Platform, Account string // Account is empty where the call was refused before it had one
	Path              string
	Order, Refund     []byte // the merchant's numbers, as far as the body tells them
	Outcome, Code     string // Outcome is that of the call, or Signed
	Reason            string // why the gateway answered itself; empty: the platform did
	Words             string // what the platform says of a call that it refused
	Sent              bool   // the platform may have received it
	Took              time.Duration
}

// Notify is a notify, as it ended. Texts are cut to 64 bytes.
type Notify struct {
	Platform, Account    string
	Type, ID, Order      string // Type and ID are empty of a refused one, and Order is what it claims
	Trade, Channel       string // the numbers that the platform and the payment channel give it, or empty
	Result, Reason       string
	Remote               string // who sent a refused one
	Status, AppStatus    int    // what the platform was answered, and what the app did; 0: it did not
	Content              []byte // of a refused one that can be explained; longer than 8 KiB: it is not kept
	ContentType, Signing string // its headers Content-Type and, where the signature is there, Authorization
}

// Log keeps calls and notifies. Its methods may be called by any goroutine.
type Log struct {
	mu       sync.Mutex
	now      func() time.Time
	since    time.Time
	last     uint64 // the number of the last entry
	calls    [2]ring[call]
	notifies [2]ring[notify]
	captured ring[capture]
	accounts map[key]*account
}

// Default is the log of this process.
var Default = New(time.Now)

// New makes an empty log.
func New(now func() time.Time) *Log {
	return &Log{
		now: now, since: now(), accounts: make(map[key]*account),
		calls:    [2]ring[call]{{size: kept}, {size: keptForeign}},
		notifies: [2]ring[notify]{{size: kept}, {size: keptForeign}},
		captured: ring[capture]{size: captures},
	}
}

// ring keeps the last entries. Its memory is taken as it fills.
type ring[T any] struct {
	size, next int
	entries    []T
}

// add returns the entry to write: a new one, or the oldest.
func (r *ring[T]) add() *T {
	if len(r.entries) < r.size {
		if cap(r.entries) == 0 {
			r.entries = make([]T, 0, r.size)
		}
		r.entries = r.entries[:len(r.entries)+1]
	}
	entry := &r.entries[r.next]
	r.next = (r.next + 1) % r.size
	return entry
}

// word is a short text in a fixed place.
type word struct {
	size uint8
	text [64]byte
}

func (w *word) set(text string)        { w.size = uint8(copy(w.text[:], text)) }
func (w *word) setBytes(text []byte)   { w.size = uint8(copy(w.text[:], text)) }
func (w *word) String() string         { return strings.ToValidUTF8(string(w.text[:w.size]), "") }
func (w *word) holds(text string) bool { return strings.Contains(string(w.text[:w.size]), text) }

type entry struct {
	number            uint64
	at                int64  // milliseconds since 1970
	platform, account string // of the configuration
}

type call struct {
	entry
	outcome, code, reason string // from bounded sets: constants
	path, order, refund   word
	words                 [2]word
	took                  time.Duration
	sent                  bool
}

type notify struct {
	entry
	kind, result, reason string // likewise
	id, order, remote    word
	trade, channel       word
	status, appStatus    int
	explained            bool
}

type capture struct {
	number               uint64
	content              []byte
	contentType, signing string
}

// Called records a call.
func (l *Log) Called(c *Call) {
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	which := 0
	if c.Account == "" {
		which = 1
	}
	l.last++
	e := l.calls[which].add()
	e.entry = entry{l.last, now.UnixMilli(), c.Platform, c.Account}
	e.outcome, e.code, e.reason, e.took, e.sent = c.Outcome, c.Code, c.Reason, c.Took, c.Sent
	e.path.set(c.Path)
	e.order.setBytes(c.Order)
	e.refund.setBytes(c.Refund)
	e.words[0].set(c.Words)
	e.words[1].set(c.Words[min(len(c.Words), len(e.words[0].text)):])
	if c.Outcome == Signed {
		return
	}
	a := l.account(c.Platform, c.Account)
	a.slot(now).calls[index(outcomes[:], c.Outcome)]++
	if c.Sent {
		a.hour(now).add(c.Took)
	}
}

// Notified records a notify.
func (l *Log) Notified(n *Notify) {
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	which := 0
	if n.Type == "" || n.Account == "" {
		which = 1
	}
	l.last++
	e := l.notifies[which].add()
	e.entry = entry{l.last, now.UnixMilli(), n.Platform, n.Account}
	e.kind, e.result, e.reason, e.status, e.appStatus = n.Type, n.Result, n.Reason, n.Status, n.AppStatus
	e.id.set(n.ID)
	e.order.set(n.Order)
	e.trade.set(n.Trade)
	e.channel.set(n.Channel)
	e.remote.set(n.Remote)
	if e.explained = len(n.Content) > 0 && len(n.Content) <= captureSize; e.explained {
		c := l.captured.add()
		c.number, c.content = l.last, append(c.content[:0], n.Content...)
		c.contentType, c.signing = strings.Clone(head(n.ContentType, 128)), strings.Clone(head(n.Signing, signingSize))
	}
	a := l.account(n.Platform, n.Account)
	a.slot(now).notifies[index(results[:], n.Result)]++
	switch at := now.UnixMilli(); {
	case n.Result == Taken:
		a.verified, a.taken = at, at
	case n.Result == Failed:
		a.verified, a.failed, a.failure = at, at, n.Reason
	case n.Result != Rejected && n.Reason == "":
		a.verified = at
	}
}

// Skewed records how far this machine's clock is ahead of the platform's.
func (l *Log) Skewed(platform, account string, skew time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.account(platform, account)
	a.skew, a.skewed = skew, true
}

func head(text string, limit int) string { return text[:min(len(text), limit)] }
