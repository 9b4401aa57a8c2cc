package recent

import (
	"cmp"
	"slices"
	"strings"
)

func compare(a, b string) int { return strings.Compare(a, b) }

// Entry is what calls and notifies have in common. Texts are cut to 64 bytes.
type Entry struct {
	Number   uint64 `json:"number"`            // rises with each call and notify of this process; the first has 1
	At       int64  `json:"at"`                // when it ended, in milliseconds since 1970
	Platform string `json:"platform"`          // chinaums or shouqianba
	Account  string `json:"account,omitempty"` // the merchant's or terminal's name in the configuration; empty: it was refused before it had one
	Order    string `json:"order,omitempty"`   // the merchant's number; of a refused notify what it claims, unverified; empty: not known
	Reason   string `json:"reason,omitempty"`  // a word for why the gateway answered a call itself, refused a notify or did not deliver it; empty: it did not
}

// CallEntry is a call that is kept.
type CallEntry struct {
	Entry
	Path    string  `json:"path"`             // that the app called, without the query
	Refund  string  `json:"refund,omitempty"` // the merchant's number of the refund; empty: the call names none
	Outcome string  `json:"outcome"`          // answered, not_sent or unknown, as in the header Gateway-Outcome; signed: a link for the buyer's browser
	Code    string  `json:"code"`             // the platform's code or the gateway's own GATEWAY_…; `other` for one that the gateway does not know; empty of a link
	Words   string  `json:"words,omitempty"`  // what the platform says of a call that it refused, cut to 128 bytes; empty: nothing
	Sent    bool    `json:"sent,omitempty"`   // the platform may have received it; default: it did not
	Took    float64 `json:"took"`             // in milliseconds, until the answer to the app was written
}

// NotifyEntry is a notify that is kept.
type NotifyEntry struct {
	Entry
	Type      string `json:"type,omitempty"`       // of the event, as in Ce-Type; empty: it was refused
	ID        string `json:"id,omitempty"`         // of the event, as in Ce-Id; empty: it was refused
	Trade     string `json:"trade,omitempty"`      // the platform's number; empty: not known
	Channel   string `json:"channel,omitempty"`    // the payment channel's number; empty: not known
	Result    string `json:"result"`               // taken, repeated, failed, rejected or observed
	Remote    string `json:"remote,omitempty"`     // the address that a refused one came from, without the port
	Status    int    `json:"status,omitempty"`     // the HTTP status that it was answered, or would have been if it was only observed and refused; 0: another handler answered
	AppStatus int    `json:"app_status,omitempty"` // the HTTP status that the app answered; 0: it did not
	Explained bool   `json:"explained,omitempty"`  // why it was refused can be explained, as long as its content is kept; default: it cannot
}

// Select selects what is read.
type Select struct {
	After  uint64 // only those with a higher number
	Search string // only those with a number of the order or refund, or an id, that contains it; of notifies also the platform's and the channel's numbers; empty: all
	Limit  int    // at most so many, the newest
}

// Last is the number of the last entry; 0: there is none yet.
func (l *Log) Last() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

// Calls returns calls, the newest first.
func (l *Log) Calls(q Select) []CallEntry {
	all := read(l, &l.calls, q, func(c *call) *entry { return &c.entry }, func(c *call) bool {
		return c.order.holds(q.Search) || c.refund.holds(q.Search)
	})
	calls := make([]CallEntry, 0, len(all))
	for i := range all {
		c := &all[i]
		// Together before they are made valid: a character may stand in both.
		words := strings.ToValidUTF8(string(c.words[0].text[:c.words[0].size])+string(c.words[1].text[:c.words[1].size]), "")
		calls = append(calls, CallEntry{
			Entry: c.read(&c.order, c.reason), Path: c.path.String(), Refund: c.refund.String(), Outcome: c.outcome, Code: c.code, Words: words,
			Sent: c.sent, Took: float64(c.took.Microseconds()) / 1000,
		})
	}
	return calls
}

// Notifies returns notifies, the newest first.
func (l *Log) Notifies(q Select) []NotifyEntry {
	all := read(l, &l.notifies, q, func(n *notify) *entry { return &n.entry }, func(n *notify) bool {
		return n.order.holds(q.Search) || n.id.holds(q.Search) || n.trade.holds(q.Search) || n.channel.holds(q.Search)
	})
	notifies := make([]NotifyEntry, 0, len(all))
	for i := range all {
		n := &all[i]
		notifies = append(notifies, NotifyEntry{
			Entry: n.read(&n.order, n.reason), Type: n.kind, ID: n.id.String(), Trade: n.trade.String(), Channel: n.channel.String(), Result: n.result, Remote: n.remote.String(),
			Status: n.status, AppStatus: n.appStatus, Explained: n.explained,
		})
	}
	return notifies
}

func (e *entry) read(order *word, reason string) Entry {
	return Entry{e.number, e.at, e.platform, e.account, order.String(), reason}
}

// read copies what is selected, the newest first. It makes nothing of it yet: whoever records waits meanwhile.
func read[T any](l *Log, rings *[2]ring[T], q Select, of func(*T) *entry, matches func(*T) bool) []T {
	var all []T
	l.mu.Lock()
	for r := range rings {
		for i := range rings[r].entries {
			if e := &rings[r].entries[i]; of(e).number > q.After && (q.Search == "" || matches(e)) {
				all = append(all, *e)
			}
		}
	}
	l.mu.Unlock()
	slices.SortFunc(all, func(a, b T) int { return cmp.Compare(of(&b).number, of(&a).number) })
	return all[:min(len(all), q.Limit)]
}

// Capture is the content of a refused notify.
type Capture struct {
	Platform, Account    string
	Content              []byte
	ContentType, Signing string
}

// Capture returns the content of a refused notify, and whether it is still there.
func (l *Log) Capture(number uint64) (*Capture, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := slices.IndexFunc(l.captured.entries, func(c capture) bool { return c.number == number })
	if at < 0 {
		return nil, false
	}
	c := &l.captured.entries[at]
	found := &Capture{Content: slices.Clone(c.content), ContentType: c.contentType, Signing: c.signing}
	for r := range l.notifies {
		for i := range l.notifies[r].entries {
			if n := &l.notifies[r].entries[i]; n.number == number {
				found.Platform, found.Account = n.platform, n.account
				return found, true
			}
		}
	}
	return nil, false // the notify itself is not kept any more
}
