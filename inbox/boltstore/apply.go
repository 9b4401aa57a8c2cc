package boltstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
)

// batch is what one commit does. An error of the file's ends the batch (err); the answer to one caller does not.
type batch struct {
	*views
	store    *Store
	now      time.Time
	settings inbox.Settings
	counters counters
	room     error // why nothing may be added, if so

	seen     int   // how many delivered messages were looked at to make room
	short    int64 // so many bytes cannot be dropped, if it is not 0
	err      error
	changed  bool
	settled  []*lease // they end with the commit
	reserved []*lease // those that it takes itself
}

// fail ends the batch.
func (b *batch) fail(errs ...error) error {
	if err := errors.Join(errs...); err != nil {
		b.err = err
	}
	return b.err
}

// sortedBy is the bucket that sorts the messages of another by their time.
var sortedBy = map[int]int{inRetrying: inDue, inDelivered: inExpiry}

func (b *batch) enter(seq uint64, in int, p progress) error {
	b.changed = true
	b.counters.Count[in]++
	err := b.fail(b.bucket(in).Put(seqKey(seq), p.encode()))
	if sorted := sortedBy[in]; sorted != 0 {
		err = b.fail(err, b.bucket(sorted).Put(momentOf(p.when, seq).key(), nil))
	}
	return err
}

// leave takes a message out of the bucket that has what became of it, and returns which that was and what it said. Where
// that is damaged it says nothing, and its place by time is looked for among all.
func (b *batch) leave(seq uint64) (in int, p progress, err error) {
	k := seqKey(seq)
	in, b.changed = b.standing(k), true
	if b.counters.Count[in]--; in == inRequests {
		return in, p, nil
	}
	p, damaged := decodeProgress(b.bucket(in).Get(k))
	if sorted := sortedBy[in]; sorted != 0 {
		place := momentOf(p.when, seq).key()
		if damaged != nil {
			c := b.bucket(sorted).Cursor()
			for place, _ = c.First(); place != nil && (len(place) != 16 || decodeSeq(place[8:]) != seq); place, _ = c.Next() {
			}
		}
		err = b.fail(b.bucket(sorted).Delete(bytes.Clone(place)))
	}
	return in, p, b.fail(err, b.bucket(in).Delete(k))
}

func (b *batch) put(raw []byte) (inbox.Receipt, error) {
	r, err := decodeRecord(raw)
	if err != nil {
		return 0, err
	}
	d := digestOf(r.id)
	k := bytes.Clone(b.bucket(inIDs).Get(d[:]))
	old := b.bucket(inRequests).Get(k)
	receipt, more := inbox.Stored, len(raw)+overhead
	if known, err := decodeRecord(old); old != nil && err != nil {
		return 0, err
	} else if old != nil && bytes.Equal(known.id, r.id) {
		switch b.standing(k) {
		case inDead:
			receipt, more = inbox.Revived, len(raw)-len(old)
		case inDelivered:
			p, err := decodeProgress(b.bucket(inDelivered).Get(k))
			if err != nil {
				return 0, err
			}
			if !b.expired(p.when) {
				return inbox.Repeated, nil
			}
		default:
			return inbox.Repeated, nil
		}
	}
	err = b.makeRoom(more)
	if err == nil && receipt == inbox.Revived {
		err = b.remove(decodeSeq(k))
	}
	if err != nil {
		return 0, err
	}
	_, err = b.add(raw, r)
	return receipt, err
}

func (b *batch) expired(settled time.Time) bool { return b.now.Sub(settled) >= b.settings.Remember }

func (b *batch) add(raw []byte, r record) (uint64, error) {
	b.changed = true
	b.counters.Last++
	b.counters.Count[inRequests]++
	b.counters.Bytes += int64(len(raw) + overhead)
	seq, d := b.counters.Last, digestOf(r.id)
	err := b.fail(b.bucket(inRequests).Put(seqKey(seq), raw), b.bucket(inIDs).Put(d[:], seqKey(seq)))
	if len(r.key) > 0 {
		err = b.fail(err, b.bucket(inOrder).Put(orderKey(digestOf(r.key), seq), nil))
	}
	return seq, err
}

// remove removes messages, and every trace of them that can be found where one is damaged.
func (b *batch) remove(seqs ...uint64) error {
	for _, seq := range seqs {
		raw := b.bucket(inRequests).Get(seqKey(seq))
		in, _, err := b.leave(seq)
		b.counters.Bytes -= int64(len(raw) + overhead)
		r, damaged := decodeRecord(raw)
		if d := digestOf(r.id); damaged == nil && decodeSeq(b.bucket(inIDs).Get(d[:])) == seq {
			err = b.fail(err, b.bucket(inIDs).Delete(d[:]))
		}
		if stateOf[in] == inbox.Pending && (damaged != nil || len(r.key) > 0) {
			err = b.fail(err, b.leaveOrder(seq, r.key))
		}
		if b.fail(err, b.bucket(inRequests).Delete(seqKey(seq))) != nil {
			break
		}
	}
	return b.err
}

// maxSeen is how many delivered messages one commit looks at to make room; the next goes on.
const maxSeen = 4096

// makeRoom lets so many bytes more be stored, at the cost of requests of delivered messages.
func (b *batch) makeRoom(more int) error {
	if b.room != nil && more > 0 {
		return b.room
	}
	limit := b.settings.MaxBytes
	over := b.counters.Bytes + int64(more) - limit
	switch {
	case limit <= 0 || more <= 0 || over <= 0:
		return nil
	case int64(more) > limit || b.counters.Count[inDelivered] == 0 || b.short > 0 && over >= b.short:
		return inbox.ErrFull
	}
	upTo, freed := b.counters.Dropped, int64(0)
	stubs := make(map[uint64][]byte)
	c := b.bucket(inExpiry).Cursor()
	k, _ := c.Seek(moment{upTo.At, upTo.Seq + 1}.key())
	for ; k != nil && freed < over && b.seen < b.store.options.maxSeen; k, _ = c.Next() {
		m, err := decodeMoment(k)
		if err != nil {
			return b.fail(err)
		}
		upTo = m
		b.seen++
		raw := b.bucket(inRequests).Get(seqKey(m.Seq))
		if r, err := decodeRecord(raw); err == nil && !r.dropped && len(r.request) > 0 {
			stubs[m.Seq] = stub(raw, r)
			freed += int64(len(r.request))
		}
	}
	if k == nil && freed < over {
		b.short = over // all that could be dropped would not do
		return inbox.ErrFull
	}
	b.changed = true
	b.counters.Dropped = upTo
	b.counters.Bytes -= freed
	for seq, short := range stubs {
		if err := b.fail(b.bucket(inRequests).Put(seqKey(seq), short)); err != nil {
			return err
		}
	}
	if freed < over {
		return inbox.ErrFull
	}
	return nil
}

// expire removes delivered messages whose ids need not be known any more, so many at most.
func (b *batch) expire(limit int) error {
	var old []uint64
	c := b.bucket(inExpiry).Cursor()
	for k, _ := c.First(); k != nil && len(old) < limit; k, _ = c.Next() {
		m, err := decodeMoment(k)
		if err != nil {
			return b.fail(err)
		}
		if !b.expired(m.time()) {
			break
		}
		old = append(old, m.Seq)
	}
	return b.remove(old...)
}

// settle writes an outcome: the message comes to stand in another bucket.
func (b *batch) settle(held *lease, in int, outcome inbox.Outcome) error {
	b.store.lock.Lock()
	holds := b.store.queue.holds(held)
	b.store.lock.Unlock()
	if !holds || slices.Contains(b.settled, held) { // its caller has tried again before this batch began
		return nil
	}
	raw := b.bucket(inRequests).Get(seqKey(held.seq))
	r, err := decodeRecord(raw)
	done := raw == nil || stateOf[b.standing(seqKey(held.seq))] != inbox.Pending // by a commit that was said to have failed
	if err != nil && !done {
		return err
	}
	if b.settled, b.changed = append(b.settled, held), true; done {
		return nil
	}
	_, p, err := b.leave(held.seq)
	if err != nil {
		return err
	}
	p = progress{attempts: p.attempts + 1, when: b.now.Truncate(time.Microsecond), answer: outcome.Answer}
	switch in {
	case inRetrying:
		p.when = b.now.Add(outcome.Delay + time.Microsecond).Truncate(time.Microsecond)
		return b.enter(held.seq, in, p)
	case inDelivered:
		p.attempts--
		b.short = 0
		if at := momentOf(p.when, held.seq); at.compare(b.counters.Dropped) <= 0 { // the clock was set back
			b.counters.Dropped = moment{At: at.At - 1}
		}
	}
	err = b.enter(held.seq, in, p)
	if len(r.key) > 0 {
		err = b.fail(err, b.leaveOrder(held.seq, r.key))
	}
	return err
}

// leaveOrder takes a message out of those of its key; a damaged one is looked for among all. If it was the first, the next
// may be leased. As that may have been passed over, it is found as if it were due for a retry.
func (b *batch) leaveOrder(seq uint64, key []byte) error {
	c := b.bucket(inOrder).Cursor()
	place := orderKey(digestOf(key), seq)
	if len(key) == 0 {
		for place, _ = c.First(); place != nil && !bytes.HasSuffix(place, seqKey(seq)); place, _ = c.Next() {
		}
		if place = bytes.Clone(place); place == nil {
			return nil
		}
	}
	first, _ := c.Seek(place[:len(digest{})])
	was := bytes.Equal(first, place)
	if err := b.fail(b.bucket(inOrder).Delete(place)); err != nil || !was {
		return err
	}
	k, _ := b.bucket(inOrder).Cursor().Seek(place[:len(digest{})])
	if !bytes.HasPrefix(k, place[:len(digest{})]) {
		return nil
	}
	next := binary.BigEndian.Uint64(k[len(digest{}):])
	if b.standing(seqKey(next)) != inRequests {
		return nil
	}
	b.counters.Count[inRequests]--
	return b.enter(next, inRetrying, progress{when: b.now.Truncate(time.Microsecond)})
}

func (b *batch) redeliver(seq uint64, force bool) (uint64, error) {
	k := seqKey(seq)
	in, raw := b.standing(k), bytes.Clone(b.bucket(inRequests).Get(k))
	if raw == nil {
		return 0, inbox.ErrNotFound
	}
	r, err := decodeRecord(raw)
	switch {
	case err != nil:
		return 0, err
	case in == inDelivered && !force:
		return 0, inbox.ErrDelivered
	case in == inDelivered && r.dropped:
		return 0, inbox.ErrNoRequest
	case stateOf[in] != inbox.Pending:
		if err := b.remove(seq); err != nil {
			return 0, err
		}
		return b.add(raw, r)
	}
	if err = b.reserve(seq, in); err != nil || in == inRequests {
		return seq, err
	}
	_, p, err := b.leave(seq)
	p.attempts, p.when = 0, b.now.Truncate(time.Microsecond)
	return seq, b.fail(err, b.enter(seq, in, p))
}

// reserve takes the lease of a pending message until the batch ends, so that nobody gets it meanwhile.
func (b *batch) reserve(seq uint64, in int) error {
	s := b.store
	s.lock.Lock()
	defer s.lock.Unlock()
	if s.queue.leases[seq] != nil {
		return inbox.ErrLeased
	}
	held := &lease{seq: seq, fresh: in == inRequests}
	s.queue.leases[seq] = held
	b.reserved = append(b.reserved, held)
	return nil
}

func (b *batch) delete(seq uint64, force bool) error {
	k := seqKey(seq)
	switch in := b.standing(k); {
	case in == inRequests && b.bucket(inRequests).Get(k) == nil:
		return inbox.ErrNotFound
	case stateOf[in] != inbox.Pending:
	case !force:
		return inbox.ErrPending
	default:
		if err := b.reserve(seq, in); err != nil {
			return err
		}
	}
	return b.remove(seq)
}

// deleted is what one part of DeleteDead has done, and where to go on, 0 at the end.
type deleted struct {
	count int
	next  uint64
}

// deleteDead removes the dead messages from a seq on that were given up before a time. It looks at so many that the commit
// stays short.
func (b *batch) deleteDead(from uint64, before time.Time) (deleted, error) {
	var seqs []uint64
	c := b.bucket(inDead).Cursor()
	k, raw := c.Seek(seqKey(from))
	for step := 0; k != nil && step < b.store.options.step; step++ {
		// When a damaged one was given up is not known; without a time it goes.
		if p, err := decodeProgress(raw); before.IsZero() || err == nil && p.when.Before(before) {
			seqs = append(seqs, decodeSeq(k))
		}
		k, raw = c.Next()
	}
	done := deleted{len(seqs), decodeSeq(k)}
	return done, b.remove(seqs...)
}
