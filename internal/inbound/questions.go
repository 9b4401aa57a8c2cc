package inbound

import (
	"context"
	"errors"
	"sync"
	"time"
)

const (
	// maxQuestions bounds the answers that are remembered.
	maxQuestions = 10_000
	// questionInterval is how long the same event is not asked about again: a replay must not burn the merchant's quota.
	questionInterval = time.Minute
)

// Questions asks the platform about events: about the same one at most once a minute, and once for all who ask at a time.
// The zero value is ready. Key tells one state of one order from another.
type Questions[Key comparable, Answer any] struct {
	mu    sync.Mutex
	asked map[Key]*question[Answer]
	order []Key // the oldest first
}

// question is one question and, when done is closed, its answer.
type question[Answer any] struct {
	at     time.Time
	done   chan struct{}
	answer Answer
	err    error
}

// Ask returns the platform's answer, or the one that it has given before. ask has patience to get it.
func (q *Questions[Key, Answer]) Ask(now time.Time, key Key, patience time.Duration, ask func(context.Context) (Answer, error)) (Answer, error) {
	q.mu.Lock()
	entry := q.asked[key]
	if entry != nil && entry.counts(now) {
		q.mu.Unlock()
		select {
		case <-entry.done:
			return entry.answer, entry.err
		case <-time.After(patience):
			var none Answer
			return none, errors.New("the query that another notify of this event has started takes too long")
		}
	}
	q.forget(now)
	entry = &question[Answer]{at: now, done: make(chan struct{})}
	if q.asked == nil {
		q.asked = make(map[Key]*question[Answer])
	}
	q.asked[key] = entry
	q.order = append(q.order, key)
	q.mu.Unlock()

	// Not with the sender's context: others wait for this answer too.
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	defer close(entry.done)
	entry.err = errors.New("the query broke off") // what the others get if this panics
	entry.answer, entry.err = ask(ctx)
	return entry.answer, entry.err
}

func (e *question[Answer]) counts(now time.Time) bool {
	return now.Sub(e.at) < questionInterval && !now.Before(e.at)
}

// forget makes room: what is too old to count goes, and of too many the oldest. The lock is held.
func (q *Questions[Key, Answer]) forget(now time.Time) {
	for len(q.order) > 0 {
		key := q.order[0]
		if entry := q.asked[key]; len(q.order) < maxQuestions && entry != nil && entry.counts(now) {
			return
		}
		q.order = q.order[1:]
		delete(q.asked, key)
	}
	q.order = nil // and the array that it was cut from
}
