package boltstore

import (
	"bytes"
	"container/list"
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"go.etcd.io/bbolt"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
)

// queue says which message is leased next. It is in memory, of bounded size, and guarded by the store's lock: a cursor
// over the messages that were never tried, and the first few of those that wait for a retry.
type queue struct {
	leases map[uint64]*lease
	given  *list.List // of the leases, the one given first in front

	cursor   uint64   // the next message that was never tried
	checked  uint64   // up to here such a message may have been settled before the file was opened
	returned []uint64 // messages that were never tried, before the cursor, which were given back

	// due has the messages that wait for a retry, are not leased and are due at `bound` or before, sorted.
	due   []moment
	bound moment

	retries  bool          // whose turn it is
	longest  time.Duration // the longest delay that was asked for
	seen     time.Time     // the time when it was last looked at
	checkFar bool          // whether the clock may have been set back since

	waiting []chan struct{} // the callers of Lease that wait
	timer   *time.Timer     // runs while callers wait and something is due later
	armed   time.Time

	lapse *time.Timer // runs while callers wait and there are leases that may be outlived
}

// maxDue is how many of those that wait for a retry are in memory.
const maxDue = 128

// lease is one delivery.
type lease struct {
	seq      uint64
	due      moment // its place in the bucket due
	retrying bool   // it was leased from there
	moved    bool   // it has come there, or to another place there, since it was leased
	settling bool   // it is settled in the commit under way

	// Since when the holder has it; every Settle is a sign of life. By the monotonic clock: the other may jump.
	given time.Time
	place *list.Element
}

// A lease is outlived after so many times Settings.Lease and the grace: by then its holder is gone, or has forgotten it.
const (
	outlivedLeases = 3
	outlivedGrace  = 5 * time.Minute
)

func (q *queue) init() {
	q.leases, q.given = make(map[uint64]*lease), list.New()
	q.reset(0, 0)
}

// hold gives a lease.
func (q *queue) hold(held *lease) {
	held.given = time.Now()
	held.place = q.given.PushBack(held)
	q.leases[held.seq] = held
}

// drop ends a lease, if it has not ended. It reports whether it did.
func (q *queue) drop(held *lease) bool {
	if q.leases[held.seq] != held {
		return false
	}
	delete(q.leases, held.seq)
	if q.given.Remove(held.place); len(q.leases) == 0 {
		q.stopLapse()
	}
	return true
}

// alive notes a sign of life of a lease's holder. It reports whether the lease is still its own.
func (q *queue) alive(held *lease) bool {
	if q.leases[held.seq] != held {
		return false
	}
	held.given = time.Now()
	q.given.MoveToBack(held.place)
	return true
}

// reset is for a file that was just opened. Leases stay.
func (q *queue) reset(low, last uint64) {
	q.cursor, q.checked = max(q.cursor, low, 1), last
	q.due, q.bound = nil, moment{}
	q.checkFar = true
}

// forget is for a file that is another one than before: nothing of the old one's is leased from it.
func (q *queue) forget() {
	for held := range maps.Values(q.leases) {
		q.drop(held)
	}
	q.cursor, q.returned = 0, nil
}

// lowest returns the first message that may never have been tried.
func (s *Store) lowest() uint64 {
	q := &s.queue
	low := q.cursor
	for _, seq := range q.returned {
		low = min(low, seq)
	}
	for seq, held := range q.leases {
		if !held.retrying {
			low = min(low, seq)
		}
	}
	return low
}

// Lease implements inbox.Store.
func (s *Store) Lease(ctx context.Context) (*inbox.Message, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		s.lock.Lock()
		if s.closed {
			s.lock.Unlock()
			return nil, inbox.ErrClosed
		}
		held, err := s.pick()
		if err != nil {
			s.lock.Unlock()
			return nil, s.revive(err)
		}
		if held == nil {
			wake := make(chan struct{})
			s.queue.waiting = append(s.queue.waiting, wake)
			s.arm()
			s.lock.Unlock()
			select {
			case <-wake:
			case <-ctx.Done():
				s.leave(wake)
				return nil, ctx.Err()
			}
			continue
		}
		s.lock.Unlock()
		m, err := s.take(held)
		if err != nil {
			s.lock.Lock()
			s.giveBack(held)
			s.lock.Unlock()
			return nil, s.revive(err)
		}
		if m != nil {
			return m, nil
		}
	}
}

// revive lets the file be opened again, if that is what an error is about: there may be no Put that does it.
func (s *Store) revive(err error) error {
	if errors.Is(err, errUnavailable) {
		s.submit(&operation{apply: func(*batch) error { return nil }})
	}
	return err
}

// leave ends a wait. If the caller was woken at the same moment, another is woken for it.
func (s *Store) leave(wake chan struct{}) {
	s.lock.Lock()
	defer s.lock.Unlock()
	if at := slices.Index(s.queue.waiting, wake); at >= 0 {
		s.queue.waiting = slices.Delete(s.queue.waiting, at, at+1)
		s.arm()
		return
	}
	s.wake(1)
}

// wake wakes so many callers that wait.
func (s *Store) wake(n int) {
	q := &s.queue
	n = min(n, len(q.waiting))
	for _, wake := range q.waiting[:n] {
		close(wake)
	}
	if q.waiting = q.waiting[n:]; len(q.waiting) == 0 {
		q.waiting = nil
	}
}

// pick leases a message by what is in memory, nil if there is none; take has the last word. The messages that wait for a
// retry and those that were never tried take turns, so that neither starve.
func (s *Store) pick() (*lease, error) {
	q := &s.queue
	s.lapse()
	now := s.options.now()
	if now.Before(q.seen.Add(-time.Second)) {
		q.checkFar = true
	}
	q.seen = now
	if q.checkFar {
		if err := s.lookFar(now); err != nil {
			return nil, err
		}
		q.checkFar = false
	}
	if len(q.due) == 0 && q.bound != never {
		if err := s.fill(); err != nil {
			return nil, err
		}
	}
	var held *lease
	for range 2 {
		q.retries = !q.retries
		switch {
		case q.retries && len(q.due) > 0 && !q.due[0].time().After(now):
			held = &lease{seq: q.due[0].seq, due: q.due[0], retrying: true}
			q.due = q.due[1:]
		case !q.retries && len(q.returned) > 0:
			held = &lease{seq: q.returned[0]}
			q.returned = q.returned[1:]
		case !q.retries && q.cursor <= s.counters.Last:
			held = &lease{seq: q.cursor}
			q.cursor++
		default:
			continue
		}
		break
	}
	if held == nil {
		return nil, nil
	}
	if other := q.leases[held.seq]; other != nil {
		// The other holder is just finding out that it must not have it, if this one is in the right.
		if held.retrying {
			other.due, other.moved = held.due, true
		}
		return s.pick()
	}
	q.hold(held)
	s.armLapse()
	if len(q.returned) > 0 || q.cursor <= s.counters.Last || len(q.due) > 0 && !q.due[0].time().After(now) || len(q.due) == 0 && q.bound != never {
		s.wake(1) // there is more
	}
	return held, nil
}

// take reads a leased message. If it turns out that it must not be leased, it returns nil, and the lease is ended.
func (s *Store) take(held *lease) (m *inbox.Message, err error) {
	s.lock.Lock()
	check := held.seq <= s.queue.checked
	s.lock.Unlock()
	pass := false
	err = s.view(func(tx *bbolt.Tx) error {
		v := viewOf(tx)
		k := seqKey(held.seq)
		raw := v.requests().Get(k)
		if raw == nil || (check || held.retrying) && (v.delivered().Get(k) != nil || v.dead().Get(k) != nil) {
			pass = true
			return nil
		}
		var r record
		if m, r, err = v.message(held.seq, raw); err != nil {
			return err
		}
		if !held.retrying && !m.Due.IsZero() || held.retrying && m.Due.IsZero() {
			pass = true // it is the other kind's turn
			return nil
		}
		if !held.retrying && len(r.key) > 0 {
			key := digestOf(m.Key)
			if first, _ := v.order().Cursor().Seek(key[:]); !bytes.Equal(first, orderKey(key, held.seq)) {
				pass = true // when the one before it is settled, it is due
				return nil
			}
		}
		m.Request = bytes.Clone(r.request)
		return nil
	})
	if errors.Is(err, errDamaged) {
		// It is there for whoever can mend it, but holds up nobody.
		s.logger.Error("a message of the inbox is damaged and is not delivered", zap.String("path", s.path),
			zap.Uint64("seq", held.seq), zap.Error(err))
		pass, err = true, nil
	}
	if err != nil {
		return nil, err
	}
	if pass {
		s.lock.Lock()
		defer s.lock.Unlock()
		s.pass(held)
		return nil, nil
	}
	m.Lease = held
	return m, nil
}

// pass ends a lease that was none. If the message has become due for a retry meanwhile, it is found there.
func (s *Store) pass(held *lease) {
	if s.queue.drop(held) && held.moved {
		s.addDue(held.due)
	}
}

// giveBack ends a lease as if it had never been.
func (s *Store) giveBack(held *lease) {
	q := &s.queue
	if !q.drop(held) {
		return
	}
	if held.retrying || held.moved {
		s.addDue(held.due)
		return
	}
	at, _ := slices.BinarySearch(q.returned, held.seq)
	q.returned = slices.Insert(q.returned, at, held.seq)
	s.wake(1)
}

// endLease ends the lease of a message that was settled.
func (s *Store) endLease(held *lease) { s.queue.drop(held) }

// outlived is after what time a lease is.
func (s *Store) outlived() time.Duration { return outlivedLeases*s.settings.Lease + s.options.grace }

// lapse gives back the messages of leases that are outlived: whoever settles one of them later changes nothing.
func (s *Store) lapse() {
	q := &s.queue
	for first := q.given.Front(); first != nil; first = q.given.Front() {
		held := first.Value.(*lease)
		if time.Since(held.given) < s.outlived() {
			return
		}
		if held.settling {
			q.alive(held) // the disk hangs, not the holder
			continue
		}
		s.logger.Error("a delivery was never settled; its message is delivered again", zap.String("path", s.path),
			zap.Uint64("seq", held.seq))
		s.giveBack(held)
	}
}

// addDue takes in a message that waits for a retry.
func (s *Store) addDue(m moment) {
	q := &s.queue
	if held := q.leases[m.seq]; held != nil {
		held.due, held.moved = m, true
		return
	}
	if m.compare(q.bound) > 0 {
		s.arm()
		if len(q.due) == 0 {
			s.wake(1) // who has to read on in the file
		}
		return
	}
	at, found := slices.BinarySearchFunc(q.due, m, moment.compare)
	if found {
		return
	}
	if q.due = slices.Insert(q.due, at, m); len(q.due) > maxDue {
		q.due = q.due[:maxDue]
		q.bound = q.due[maxDue-1]
	}
	if !m.time().After(s.options.now()) {
		s.wake(1)
	}
	s.arm()
}

// dropDue takes out a message that is due at another time now.
func (s *Store) dropDue(m moment) {
	q := &s.queue
	if at, found := slices.BinarySearchFunc(q.due, m, moment.compare); found {
		q.due = slices.Delete(q.due, at, at+1)
	}
}

// fill reads the next messages that wait for a retry.
func (s *Store) fill() error {
	q := &s.queue
	from := q.bound
	from.seq++
	return s.view(func(tx *bbolt.Tx) error {
		c := tx.Bucket(bucketDue).Cursor()
		bound, due := never, []moment(nil)
		for k, _ := c.Seek(from.key()); k != nil; k, _ = c.Next() {
			m, err := decodeMoment(k)
			if err != nil {
				return err
			}
			if q.leases[m.seq] != nil {
				continue
			}
			if due = append(due, m); len(due) == maxDue {
				bound = m
				break
			}
		}
		q.due, q.bound = due, bound
		return nil
	})
}

// farAway is how long after now nothing can be due: a retry's longest delay, its jitter, and some clock drift.
func (s *Store) farAway() time.Duration {
	longest := max(s.settings.MaxDelay, s.queue.longest)
	return longest + longest/5 + time.Minute
}

// lookFar lets the writer make due now what is due later than that.
func (s *Store) lookFar(now time.Time) error {
	far, longest := false, s.farAway()
	err := s.view(func(tx *bbolt.Tx) error {
		if k, _ := tx.Bucket(bucketDue).Cursor().Last(); k != nil {
			m, err := decodeMoment(k)
			far = m.time().After(now.Add(longest))
			return err
		}
		return nil
	})
	if far {
		s.submitFar(longest)
	}
	return err
}

func (s *Store) submitFar(longest time.Duration) {
	s.submit(&operation{apply: func(b *batch) error {
		more, err := b.nearFar(longest, 1000)
		if more && err == nil {
			b.after(func() { s.submitFar(longest) })
		}
		return err
	}})
}

// armLapse lets a timer wake a caller that waits when the first lease may be outlived. It may come early, if that lease has
// ended meanwhile; then it is armed for the next.
func (s *Store) armLapse() {
	q := &s.queue
	if len(q.waiting) == 0 || len(q.leases) == 0 || s.closed {
		q.stopLapse()
		return
	}
	if q.lapse != nil {
		return
	}
	first := q.given.Front().Value.(*lease)
	var timer *time.Timer
	timer = time.AfterFunc(max(time.Until(first.given.Add(s.outlived())), 0), func() {
		s.lock.Lock()
		defer s.lock.Unlock()
		if q.lapse != timer {
			return
		}
		q.lapse = nil
		s.wake(1)
	})
	q.lapse = timer
}

func (q *queue) stopLapse() {
	if q.lapse != nil {
		q.lapse.Stop()
		q.lapse = nil
	}
}

// arm lets the timer wake a caller when the next retry is due. There is none while nobody waits or nothing does.
func (s *Store) arm() {
	q := &s.queue
	s.armLapse()
	if len(q.waiting) == 0 || len(q.due) == 0 || s.closed {
		q.stopTimer()
		return
	}
	due := q.due[0].time()
	if q.timer != nil && due.Equal(q.armed) {
		return
	}
	q.stopTimer()
	q.armed = due
	q.timer = time.AfterFunc(max(s.wait(due), 0), func() {
		s.lock.Lock()
		defer s.lock.Unlock()
		if !q.armed.Equal(due) {
			return
		}
		q.timer, q.armed = nil, time.Time{}
		s.wake(1)
	})
}

func (q *queue) stopTimer() {
	if q.timer != nil {
		q.timer.Stop()
		q.timer, q.armed = nil, time.Time{}
	}
}
