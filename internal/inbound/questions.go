package inbound

import (
	"context"
	"errors"
	"sync"
	"time"
)

const (
	// questionInterval is how long the same order is not asked about again, so that replays cannot use up the merchant's
	// quota.
	questionInterval = time.Minute
	// questionsPerSecond is how many orders of one account are asked about within a second.
	questionsPerSecond = 5
)

// Topic is what the platform is asked about. Nothing that a sender can choose in a notify may change it.
type Topic struct {
	// Account is the merchant at a platform whose quota is used.
	Account string
	// Order identifies the order, bill or refund: the interface that is called and the numbers in the call.
	Order string
	// Ambiguous says that the sender may have chosen the numbers and what else goes into the question, in a notify that can
	// be cut in two ways. Such a question has one turn in a second, and its answer is not taken for the order's own.
	Ambiguous bool
}

// Questions asks the platform about orders: about one order at most once a minute, and for one account at most five times
// a second. Callers that ask about the same order at the same time share one question. The zero value is ready to use.
//
// An answer is kept for a minute and is never evicted earlier: the limits bound how many there are. A question that exceeds
// them is not asked.
type Questions[Answer any] struct {
	mu       sync.Mutex
	asked    map[Topic]*question[Answer]
	order    []*question[Answer] // the oldest first
	accounts map[string]*turns
}

// question is one question. When done is closed, it has its answer.
type question[Answer any] struct {
	topic  Topic
	at     time.Time
	done   chan struct{}
	answer Answer
	err    error
}

// turns are the times at which an account's questions are asked.
type turns struct {
	last      [questionsPerSecond]time.Time // a ring
	next      int                           // the oldest in it
	ambiguous time.Time                     // the last ambiguous one
	kept      int                           // how many answers are kept
}

var (
	errNoTurn    = errors.New("the platform is asked about too many of this merchant's orders at a time")
	errSlowQuery = errors.New("the query that another notify of this order has started takes too long")
)

// Ask returns the platform's answer. If the platform has answered about this topic within the last minute, Ask returns that
// answer; otherwise it calls ask, and fresh is true. All of it takes at most patience, and waiting for a turn at most half
// of it.
func (q *Questions[Answer]) Ask(now time.Time, topic Topic, patience time.Duration, ask func(context.Context) (Answer, error)) (answer Answer, fresh bool, err error) {
	// The sender's context is not used, because others may wait for this answer too.
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	q.mu.Lock()
	q.forget(now)
	entry := q.current(now, topic)
	if entry == nil && topic.Ambiguous {
		entry = q.current(now, Topic{Account: topic.Account, Order: topic.Order})
	}
	if entry != nil {
		q.mu.Unlock()
		select {
		case <-entry.done:
			return entry.answer, false, entry.err
		case <-ctx.Done():
			return answer, false, errSlowQuery
		}
	}
	at, ok := q.turn(now, topic, patience/2)
	if !ok {
		q.mu.Unlock()
		return answer, false, errNoTurn
	}
	entry = &question[Answer]{topic: topic, at: at, done: make(chan struct{})}
	q.keep(entry)
	q.mu.Unlock()

	defer close(entry.done)
	entry.err = errors.New("the query broke off") // what the others get if this panics
	time.Sleep(at.Sub(now))
	entry.answer, entry.err = ask(ctx)
	return entry.answer, true, entry.err
}

// Known returns the answer that the platform has given about a topic within the last minute, and false if there is none or
// it was an error. It does not ask the platform.
func (q *Questions[Answer]) Known(now time.Time, topic Topic) (answer Answer, ok bool) {
	q.mu.Lock()
	entry := q.current(now, topic)
	q.mu.Unlock()
	if entry == nil {
		return answer, false
	}
	select {
	case <-entry.done:
		return entry.answer, entry.err == nil
	default:
		return answer, false
	}
}

func (q *question[Answer]) counts(now time.Time) bool { return now.Sub(q.at) < questionInterval }

// current returns the question about a topic that was asked within the last minute, or nil. The lock is held.
func (q *Questions[Answer]) current(now time.Time, topic Topic) *question[Answer] {
	if entry := q.asked[topic]; entry != nil && entry.counts(now) {
		return entry
	}
	return nil
}

// turn returns when a question may be asked. It reports false if that is later than patience allows. The lock is held.
func (q *Questions[Answer]) turn(now time.Time, topic Topic, patience time.Duration) (at time.Time, ok bool) {
	account := q.accounts[topic.Account]
	if account == nil {
		if q.accounts == nil {
			q.accounts = make(map[string]*turns)
		}
		account = new(turns)
		q.accounts[topic.Account] = account
	}
	at = now
	if free := account.last[account.next].Add(time.Second); free.After(now) {
		at = free
	}
	if topic.Ambiguous {
		if at != now || account.ambiguous.Add(time.Second).After(now) {
			return at, false
		}
		account.ambiguous = now
	}
	if at.Sub(now) > patience {
		return at, false
	}
	account.last[account.next] = at
	account.next = (account.next + 1) % questionsPerSecond
	return at, true
}

// keep remembers a question. The lock is held.
func (q *Questions[Answer]) keep(entry *question[Answer]) {
	if q.asked == nil {
		q.asked = make(map[Topic]*question[Answer])
	}
	q.asked[entry.topic] = entry
	q.order = append(q.order, entry)
	q.accounts[entry.topic.Account].kept++
}

// forget removes questions that are older than a minute. The lock is held.
func (q *Questions[Answer]) forget(now time.Time) {
	for len(q.order) > 0 && !q.order[0].counts(now) {
		entry := q.order[0]
		q.order[0], q.order = nil, q.order[1:]
		if q.asked[entry.topic] == entry {
			delete(q.asked, entry.topic)
		}
		account := q.accounts[entry.topic.Account]
		if account.kept--; account.kept == 0 {
			delete(q.accounts, entry.topic.Account)
		}
	}
}
