package boltstore

import (
	"bytes"
	"errors"
	"time"

	"go.etcd.io/bbolt"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
)

// batch is what one commit does. An error of the file's ends the batch (err); the answer to one caller does not.
type batch struct {
	*views
	store    *Store
	now      time.Time
	settings inbox.Settings
	counters counters
	oldest   moment // of the delivered ones: not after the first of them
	room     error  // why nothing may be added, if so
	bytes    int

	seen    int   // how many delivered messages were looked at to make room
	dropped int64 // the bytes of them that were dropped
	short   int64 // so many bytes cannot be dropped, if it is not 0

	err     error
	changed bool
	cleanup []*lease // those that are settled in this batch
	undo    []*lease // those of messages that it deletes
	stored  int      // messages added
	fresh   int      // of them, those that may be leased now
	then    []func() // what is done after the commit, under the store's lock
}

// fail ends the batch.
func (b *batch) fail(errs ...error) error {
	if err := errors.Join(errs...); err != nil {
		b.err = err
	}
	return b.err
}

func (b *batch) after(then func()) { b.then = append(b.then, then) }

// putting is one Put.
type putting struct {
	raw     []byte
	id      []byte
	digest  digest
	ordered bool
	key     digest
	receipt inbox.Receipt
}

func (b *batch) put(p *putting) (inbox.Receipt, error) {
	receipt := inbox.Stored
	if seq := b.store.index.find(b.index(), p.digest); seq != 0 {
		k := seqKey(seq)
		raw := b.requests().Get(k)
		known, err := b.known(k, raw, p.id)
		if err != nil {
			return 0, err
		}
		if known {
			if b.dead().Get(k) == nil {
				return inbox.Repeated, nil
			}
			receipt = inbox.Revived
			if err := b.makeRoom(len(p.raw) - len(raw)); err != nil {
				return 0, err
			}
			if err := b.removeDead(k, raw); err != nil {
				return 0, err
			}
		}
	}
	if receipt == inbox.Stored {
		if err := b.makeRoom(len(p.raw) + overhead); err != nil {
			return 0, err
		}
	}
	_, err := b.add(p.raw, p.digest, p.ordered, p.key)
	return receipt, err
}

// known says whether a message is the one of the id, and its id is still to be known.
func (b *batch) known(k, raw, id []byte) (bool, error) {
	if raw == nil {
		return false, nil
	}
	r, err := decodeRecord(raw)
	if err != nil || !bytes.Equal(r.id, id) {
		return false, err
	}
	settled := b.delivered().Get(k)
	if settled == nil {
		return true, nil
	}
	p, err := decodeProgress(settled)
	return err == nil && !b.expired(p.when), err
}

func (b *batch) expired(settled time.Time) bool { return b.now.Sub(settled) >= b.settings.Remember }

// add adds a message as new.
func (b *batch) add(raw []byte, d digest, ordered bool, key digest) (uint64, error) {
	b.counters.Last++
	seq := b.counters.Last
	if err := b.requests().Put(seqKey(seq), raw); err != nil {
		return 0, b.fail(err)
	}
	if ordered {
		if err := b.order().Put(orderKey(key, seq), nil); err != nil {
			return 0, b.fail(err)
		}
	}
	b.store.index.add(d, seq)
	b.counters.Pending++
	b.counters.Bytes += int64(len(raw) + overhead)
	b.changed = true
	b.stored++
	b.fresh++
	return seq, nil
}

// How many delivered messages one commit looks at to make room, and how many bytes it drops; the next goes on.
const (
	maxSeen    = 4096
	maxDropped = maxRecord
)

// makeRoom lets so many bytes more be stored, at the cost of requests of delivered messages.
func (b *batch) makeRoom(bytes int) error {
	if b.room != nil && bytes > 0 {
		return b.room
	}
	limit := b.settings.MaxBytes
	if limit <= 0 || bytes <= 0 || b.counters.Bytes+int64(bytes) <= limit {
		return nil
	}
	over := b.counters.Bytes + int64(bytes) - limit
	if int64(bytes) > limit || b.counters.Delivered == 0 || b.short > 0 && over >= b.short {
		return inbox.ErrFull
	}
	c := b.expiry().Cursor()
	upTo, drop, freed := b.counters.Dropped, []uint64(nil), int64(0)
	from := upTo
	from.seq++
	k, _ := c.Seek(from.key())
	for ; k != nil && freed < over && b.seen < b.store.options.maxSeen && b.dropped+freed < maxDropped; k, _ = c.Next() {
		m, err := decodeMoment(k)
		if err != nil {
			return b.fail(err)
		}
		upTo = m
		b.seen++
		r, err := decodeRecord(b.requests().Get(seqKey(m.seq)))
		if err != nil || r.dropped || len(r.request) == 0 {
			continue
		}
		drop = append(drop, m.seq)
		freed += int64(len(r.request))
	}
	if k == nil && freed < over {
		// All that could be dropped would not do.
		b.short = over
		return inbox.ErrFull
	}
	if upTo != b.counters.Dropped {
		b.counters.Dropped, b.changed = upTo, true
	}
	b.dropped += freed
	b.counters.Bytes -= freed
	for _, seq := range drop {
		k := seqKey(seq)
		raw := b.requests().Get(k)
		r, err := decodeRecord(raw)
		if err != nil {
			return b.fail(err)
		}
		if err := b.requests().Put(k, stub(raw, r)); err != nil {
			return b.fail(err)
		}
	}
	if freed < over {
		return inbox.ErrFull
	}
	return nil
}

// removeDead removes a dead message, which is stored anew.
func (b *batch) removeDead(k, raw []byte) error {
	b.counters.Dead--
	b.counters.Bytes -= int64(len(raw) + overhead)
	b.changed = true
	return b.fail(b.dead().Delete(k), b.requests().Delete(k))
}

// removeDelivered removes a delivered message.
func (b *batch) removeDelivered(k, raw []byte, settled time.Time) error {
	b.counters.Delivered--
	b.counters.Bytes -= int64(len(raw) + overhead)
	b.changed = true
	return b.fail(b.delivered().Delete(k), b.requests().Delete(k), b.expiry().Delete(momentOf(settled, decodeSeq(k)).key()))
}

// expire removes delivered messages whose ids need not be known any more, so many at most.
func (b *batch) expire(limit int) error {
	if !b.expired(b.oldest.time()) {
		return nil // without a look into the file, for every commit does this
	}
	c := b.expiry().Cursor()
	var old []moment
	b.oldest = never
	for k, _ := c.First(); k != nil; k, _ = c.Next() {
		m, err := decodeMoment(k)
		if err != nil {
			return b.fail(err)
		}
		if len(old) == limit || !b.expired(m.time()) {
			b.oldest = m
			break
		}
		old = append(old, m)
	}
	for _, m := range old {
		k := seqKey(m.seq)
		if err := b.removeDelivered(k, b.requests().Get(k), m.time()); err != nil {
			return err
		}
	}
	return nil
}

// goneFor tells the index which messages are gone for sure: those before every delivered and pending one that are not
// dead.
func (b *batch) goneFor() func(seq uint64) bool {
	floor := uint64(0)
	return func(seq uint64) bool {
		if floor == 0 {
			floor = b.counters.Low
			for _, bucket := range []*bbolt.Bucket{b.delivered(), b.retrying()} {
				if k, _ := bucket.Cursor().First(); k != nil {
					floor = min(floor, decodeSeq(k))
				}
			}
		}
		return seq < floor && b.dead().Get(seqKey(seq)) == nil
	}
}

func (b *batch) settle(held *lease, outcome inbox.Outcome) error {
	s := b.store
	s.lock.Lock()
	holds := s.queue.leases[held.seq] == held
	s.lock.Unlock()
	if !holds || held.settling {
		return nil
	}
	k := seqKey(held.seq)
	raw := b.requests().Get(k)
	if raw == nil || b.delivered().Get(k) != nil || b.dead().Get(k) != nil {
		// A commit that was said to have failed has succeeded after all.
		b.after(func() { s.endLease(held) })
		b.changed = true
		return nil
	}
	r, err := decodeRecord(raw)
	if err != nil {
		return err
	}
	p := progress{answer: outcome.Answer}
	if old := b.retrying().Get(k); old != nil {
		before, err := decodeProgress(old)
		if err != nil {
			return err
		}
		p.attempts = before.attempts
		if err := b.fail(b.retrying().Delete(k), b.due().Delete(momentOf(before.when, held.seq).key())); err != nil {
			return err
		}
	}
	b.changed = true
	s.lock.Lock()
	held.settling = true // once a batch, and again if the batch fails
	s.lock.Unlock()
	b.cleanup = append(b.cleanup, held)
	if outcome.Result != inbox.Delivered {
		p.attempts++
	}
	if outcome.Result == inbox.Pending {
		p.when = b.now.Add(outcome.Delay + time.Microsecond).Truncate(time.Microsecond)
		due := momentOf(p.when, held.seq)
		b.after(func() {
			s.queue.longest = max(s.queue.longest, outcome.Delay)
			s.endLease(held)
			s.addDue(due)
		})
		return b.fail(b.retrying().Put(k, p.encode()), b.due().Put(due.key(), nil))
	}
	p.when = b.now.Truncate(time.Microsecond)
	b.after(func() { s.endLease(held) })
	b.counters.Pending--
	if outcome.Result == inbox.Dead {
		b.counters.Dead++
		err = b.fail(b.dead().Put(k, p.encode()))
	} else {
		b.counters.Delivered++
		b.short = 0
		settled := momentOf(p.when, held.seq)
		if settled.compare(b.oldest) < 0 {
			b.oldest = settled
		}
		if settled.compare(b.counters.Dropped) <= 0 { // the clock was set back
			b.counters.Dropped = moment{at: settled.at - 1}
		}
		err = b.fail(b.delivered().Put(k, p.encode()), b.expiry().Put(settled.key(), nil))
	}
	if err != nil || len(r.key) == 0 {
		return err
	}
	return b.nextOfKey(digestOf(string(r.key)), held.seq)
}

// nextOfKey lets the next message of a key be leased after one was settled. It may have been passed over, so it is found
// as if it were due for a retry.
func (b *batch) nextOfKey(key digest, seq uint64) error {
	if err := b.fail(b.order().Delete(orderKey(key, seq))); err != nil {
		return err
	}
	k, _ := b.order().Cursor().Seek(key[:])
	if len(k) != 24 || !bytes.Equal(k[:16], key[:]) {
		return nil
	}
	next := bytes.Clone(k[16:])
	if b.retrying().Get(next) != nil {
		return nil
	}
	p := progress{when: b.now.Truncate(time.Microsecond)}
	due := momentOf(p.when, decodeSeq(next))
	b.after(func() { b.store.addDue(due) })
	return b.fail(b.retrying().Put(next, p.encode()), b.due().Put(due.key(), nil))
}

func (b *batch) redeliver(seq uint64, force bool) (uint64, error) {
	k := seqKey(seq)
	raw := b.requests().Get(k)
	if raw == nil {
		return 0, inbox.ErrNotFound
	}
	r, err := decodeRecord(raw)
	if err != nil {
		return 0, err
	}
	settled := b.delivered().Get(k)
	switch {
	case settled != nil:
		if !force {
			return 0, inbox.ErrDelivered
		}
		if r.dropped {
			return 0, inbox.ErrNoRequest
		}
		p, err := decodeProgress(settled)
		if err != nil {
			return 0, err
		}
		raw = bytes.Clone(raw)
		if err := b.removeDelivered(k, raw, p.when); err != nil {
			return 0, err
		}
	case b.dead().Get(k) != nil:
		raw = bytes.Clone(raw)
		if err := b.removeDead(k, raw); err != nil {
			return 0, err
		}
	default:
		return seq, b.hurry(seq)
	}
	if r, err = decodeRecord(raw); err != nil {
		return 0, err
	}
	return b.add(raw, digestOf(string(r.id)), len(r.key) > 0, digestOf(string(r.key)))
}

// hurry makes a pending message due now.
func (b *batch) hurry(seq uint64) error {
	s := b.store
	s.lock.Lock()
	held := s.queue.leases[seq]
	s.lock.Unlock()
	if held != nil {
		return inbox.ErrLeased
	}
	raw := b.retrying().Get(seqKey(seq))
	if raw == nil {
		return nil // it was never tried, and is due
	}
	p, err := decodeProgress(raw)
	if err != nil {
		return err
	}
	p.attempts = 0
	return b.moveDue(seq, p)
}

// moveDue makes a message that waits for a retry due now.
func (b *batch) moveDue(seq uint64, p progress) error {
	old := momentOf(p.when, seq)
	p.when = b.now.Truncate(time.Microsecond)
	due := momentOf(p.when, seq)
	b.changed = true
	b.after(func() {
		b.store.dropDue(old)
		b.store.addDue(due)
	})
	return b.fail(b.due().Delete(old.key()), b.due().Put(due.key(), nil), b.retrying().Put(seqKey(seq), p.encode()))
}

// nearFar makes due now what is due later than any delay can be, because the clock was set back: so many at most.
func (b *batch) nearFar(longest time.Duration, limit int) (more bool, err error) {
	c := b.due().Cursor()
	bound := momentOf(b.now.Add(longest), 0)
	var far []moment
	for k, _ := c.Last(); k != nil; k, _ = c.Prev() {
		m, err := decodeMoment(k)
		if err != nil {
			return false, b.fail(err)
		}
		if m.compare(bound) <= 0 {
			break
		}
		if len(far) == limit {
			more = true
			break
		}
		far = append(far, m)
	}
	for _, m := range far {
		p, err := decodeProgress(b.retrying().Get(seqKey(m.seq)))
		if err != nil {
			// It stays where it is: the others are not to suffer from it.
			b.store.logger.Error("a message of the inbox is damaged", zap.String("path", b.store.path),
				zap.Uint64("seq", m.seq), zap.Error(err))
			continue
		}
		if err := b.moveDue(m.seq, p); err != nil {
			return false, err
		}
	}
	return more, nil
}
