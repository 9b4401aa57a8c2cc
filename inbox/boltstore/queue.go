package boltstore

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
)

const (
	tick      = 30 * time.Second // after it, a caller that waits looks again: the clock may have jumped
	maxPassed = 1000             // messages that a caller passes by at once, so that nobody waits for it for long
)

// queue is what must be remembered to say which message is leased next; the file has the rest. The store's lock guards it.
type queue struct {
	leases   map[uint64]*lease
	cursor   uint64              // messages before it that were never tried are leased, returned, or held up by their key
	returned []uint64            // messages that were never tried, before the cursor, which were given back
	damaged  map[uint64]struct{} // they are passed by, and told once
	retries  bool                // whose turn it was: messages that wait for a retry, or those that were never tried
	longest  time.Duration       // the longest delay that was asked for

	// One of the callers of Lease has the turn, and waits for a change; the others wait for the turn.
	turn    chan struct{}
	changed signal
}

// lease is one delivery.
type lease struct {
	seq   uint64
	fresh bool // the message was never tried
}

// reset is for a file that was just opened. Leases stay, unless it is another file than before.
func (q *queue) reset(c counters, another bool) {
	if another {
		q.cursor, q.returned = 0, nil
		clear(q.leases)
	}
	q.cursor = max(q.cursor, c.Low, 1)
	clear(q.damaged)
	q.changed.give()
}

func (q *queue) holds(held *lease) bool { return held != nil && q.leases[held.seq] == held }

// giveBack ends a lease as if it had never been.
func (q *queue) giveBack(held *lease) {
	if !q.holds(held) {
		return
	}
	delete(q.leases, held.seq)
	if held.fresh && held.seq < q.cursor {
		at, _ := slices.BinarySearch(q.returned, held.seq)
		q.returned = slices.Insert(q.returned, at, held.seq)
	}
	q.changed.give()
}

// lowest returns the first message that may never have been tried.
func (q *queue) lowest() uint64 {
	low := q.cursor
	if len(q.returned) > 0 {
		low = min(low, q.returned[0])
	}
	for seq, held := range q.leases {
		if held.fresh {
			low = min(low, seq)
		}
	}
	return low
}

// behind reports whether messages wait that were never tried, the last one being known.
func (q *queue) behind(last uint64) bool { return q.cursor <= last || len(q.returned) > 0 }

// Lease implements inbox.Store.
func (s *Store) Lease(ctx context.Context) (*inbox.Message, error) {
	q := &s.queue
	select {
	case q.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-q.turn }()
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		m, wait, err := s.pick()
		if errors.Is(err, errUnavailable) {
			// There may be no Put that lets the file be opened again. If the store is closed, the caller learns it the next time.
			_ = s.submit(&operation{apply: func(*batch) error { return nil }})
		}
		if m != nil || err != nil {
			return m, err
		}
		select {
		case <-q.changed:
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

// pick leases the message that is next, or says when to look again. Those that wait for a retry and those that were never
// tried take turns, so that neither starve.
func (s *Store) pick() (m *inbox.Message, wait time.Duration, err error) {
	s.lock.Lock()
	defer s.lock.Unlock()
	if s.closed.Load() {
		return nil, 0, inbox.ErrClosed
	}
	err = s.view(func(v *views) error {
		var again time.Duration
		if s.queue.retries = !s.queue.retries; s.queue.retries {
			if m, wait = s.retry(v); m == nil {
				m, again = s.fresh(v)
			}
		} else if m, wait = s.fresh(v); m == nil {
			m, again = s.retry(v)
		}
		wait = min(wait, again)
		return nil
	})
	return m, wait, err
}

// retry leases the first message that is due for a retry. One that is due later than the longest delay, its jitter and
// some drift of the clock is due: the clock was set back.
func (s *Store) retry(v *views) (*inbox.Message, time.Duration) {
	now := s.options.now()
	longest := max(s.settings.MaxDelay, s.queue.longest)
	far := momentOf(now.Add(longest+longest/5+time.Minute), 0)
	c := v.bucket(inDue).Cursor()
	for k, _ := c.Last(); k != nil; k, _ = c.Prev() {
		due, _ := decodeMoment(k) // what is damaged is before all, and of no message
		if due.compare(far) <= 0 {
			break
		}
		if m := s.lease(v, due.Seq, inRetrying); m != nil {
			return m, 0
		}
	}
	for k, _ := c.First(); k != nil; k, _ = c.Next() {
		due, _ := decodeMoment(k)
		if wait := due.time().Sub(now); wait > 0 {
			return nil, min(wait, tick)
		}
		if m := s.lease(v, due.Seq, inRetrying); m != nil {
			return m, 0
		}
	}
	return nil, tick
}

// fresh leases the first message that was never tried. What is in the file beyond the counters is not yet synced.
func (s *Store) fresh(v *views) (*inbox.Message, time.Duration) {
	q := &s.queue
	for len(q.returned) > 0 {
		seq := q.returned[0]
		q.returned = q.returned[1:]
		if m := s.lease(v, seq, inRequests); m != nil {
			return m, 0
		}
	}
	passed := 0
	c := v.bucket(inRequests).Cursor()
	for k, _ := c.Seek(seqKey(q.cursor)); k != nil && decodeSeq(k) <= s.counters.Last; k, _ = c.Next() {
		if passed++; passed > maxPassed {
			return nil, 0
		}
		q.cursor = decodeSeq(k) + 1
		if m := s.lease(v, decodeSeq(k), inRequests); m != nil {
			return m, 0
		}
	}
	q.cursor = max(q.cursor, s.counters.Last+1)
	return nil, tick
}

// lease reads a message and leases it, unless somebody has it, or what became of it stands in another bucket.
func (s *Store) lease(v *views, seq uint64, in int) *inbox.Message {
	q := &s.queue
	k := seqKey(seq)
	raw := v.bucket(inRequests).Get(k)
	if _, damaged := q.damaged[seq]; damaged || q.leases[seq] != nil || raw == nil || v.standing(k) != in {
		return nil
	}
	m, r, err := v.message(seq, raw)
	if err != nil {
		// It is there for whoever can mend it, but holds up nobody.
		q.damaged[seq] = struct{}{}
		s.logger.Error("a message of the inbox is damaged and is not delivered", zap.String("path", s.path), zap.Error(err))
		return nil
	}
	if in == inRequests && len(r.key) > 0 {
		place := orderKey(digestOf(m.Key), seq)
		if first, _ := v.bucket(inOrder).Cursor().Seek(place[:len(digest{})]); !bytes.Equal(first, place) {
			return nil // when the one before it is settled, it is due
		}
	}
	m.Request = bytes.Clone(r.request)
	held := &lease{seq: seq, fresh: in == inRequests}
	m.Lease, q.leases[seq] = held, held
	return m
}
