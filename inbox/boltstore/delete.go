package boltstore

import (
	"bytes"
	"context"
	"time"

	"go.etcd.io/bbolt"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
)

// Delete implements inbox.Store. It removes a damaged message too, as far as anything of it is there.
func (s *Store) Delete(ctx context.Context, seq uint64, force bool) error {
	return s.do(ctx, &operation{apply: func(b *batch) error { return b.delete(seq, force) }})
}

// DeleteDead implements inbox.Store: a bounded part in each commit, up to the last message that there is when it begins.
func (s *Store) DeleteDead(ctx context.Context, before time.Time) (int, error) {
	s.lock.Lock()
	from, last := uint64(1), s.counters.Last
	s.lock.Unlock()
	for removed := 0; ; {
		done, next := 0, uint64(0)
		if err := s.do(ctx, &operation{apply: func(b *batch) (err error) {
			done, next, err = b.deleteDead(from, last, before)
			return err
		}}); err != nil {
			return removed, err
		}
		if removed += done; next == 0 {
			return removed, nil
		}
		from = next
	}
}

func (b *batch) delete(seq uint64, force bool) error {
	k := seqKey(seq)
	raw := b.requests().Get(k)
	if raw == nil && b.dead().Get(k) == nil && b.delivered().Get(k) == nil && b.retrying().Get(k) == nil {
		return inbox.ErrNotFound
	}
	if b.dead().Get(k) != nil {
		return b.removeDead(k, raw)
	}
	if settled := b.delivered().Get(k); settled != nil {
		when, err := placeOf(b.expiry(), seq, settled)
		if err != nil {
			return b.fail(err)
		}
		return b.removeDelivered(k, raw, when.time())
	}
	if !force {
		return inbox.ErrPending
	}
	held := b.reserve(seq)
	if held == nil {
		return inbox.ErrLeased
	}
	b.counters.Pending--
	b.counters.Bytes -= int64(len(raw) + overhead)
	b.changed = true
	place, found := b.orderOf(seq, raw)
	if waits := b.retrying().Get(k); waits != nil {
		due, err := placeOf(b.due(), seq, waits)
		if err != nil {
			return b.fail(err)
		}
		held.due, held.retrying = due, true
		b.after(func() { b.store.dropDue(due) })
		if err := b.fail(b.retrying().Delete(k), b.due().Delete(due.key())); err != nil {
			return err
		}
	}
	if err := b.fail(b.requests().Delete(k)); err != nil || !found {
		return err
	}
	first, _ := b.order().Cursor().Seek(place[:len(digest{})])
	if bytes.Equal(first, place) {
		return b.nextOfKey(digest(place), seq)
	}
	return b.fail(b.order().Delete(place))
}

// reserve takes the lease of a pending message for as long as the batch lasts, so that nobody is given what is being
// deleted. It returns nil if somebody has it.
func (b *batch) reserve(seq uint64) *lease {
	s := b.store
	s.lock.Lock()
	defer s.lock.Unlock()
	if s.queue.leases[seq] != nil {
		return nil
	}
	held := &lease{seq: seq, settling: true}
	s.queue.hold(held)
	b.cleanup = append(b.cleanup, held)
	b.undo = append(b.undo, held)
	b.after(func() { s.endLease(held) })
	return held
}

// orderOf finds a pending message's place among those of its key. Where its record is damaged it looks through all of
// them: the others of the key would wait for it for ever.
func (b *batch) orderOf(seq uint64, raw []byte) (place []byte, found bool) {
	if r, err := decodeRecord(raw); err == nil {
		return orderKey(digestOf(string(r.key)), seq), len(r.key) > 0
	}
	c := b.order().Cursor()
	for k, _ := c.First(); k != nil; k, _ = c.Next() {
		if len(k) == len(digest{})+8 && decodeSeq(k[len(digest{}):]) == seq {
			return bytes.Clone(k), true
		}
	}
	return nil, false
}

// placeOf is the place of a message in a bucket that is sorted by time, the time being in its progress. Where that is
// damaged it looks through all of them.
func placeOf(bucket *bbolt.Bucket, seq uint64, raw []byte) (moment, error) {
	if p, err := decodeProgress(raw); err == nil {
		return momentOf(p.when, seq), nil
	}
	c := bucket.Cursor()
	for k, _ := c.First(); k != nil; k, _ = c.Next() {
		if m, err := decodeMoment(k); err != nil || m.seq == seq {
			return m, err
		}
	}
	return moment{seq: seq}, nil // there is none to remove
}

// deleteDead removes the dead messages from one seq to another that were given up before a time. It looks at so many that
// the commit stays short, and returns where to go on, 0 at the end.
func (b *batch) deleteDead(from, last uint64, before time.Time) (removed int, next uint64, err error) {
	var seqs []uint64
	c := b.dead().Cursor()
	seen := 0
	for k, raw := c.Seek(seqKey(from)); k != nil && decodeSeq(k) <= last; k, raw = c.Next() {
		if seen++; seen > b.store.options.step {
			next = decodeSeq(k)
			break
		}
		if !before.IsZero() {
			if p, err := decodeProgress(raw); err != nil || !p.when.Before(before) {
				continue // of a damaged one it is not known; without a time it goes
			}
		}
		seqs = append(seqs, decodeSeq(k))
	}
	for _, seq := range seqs {
		k := seqKey(seq)
		if err := b.removeDead(k, b.requests().Get(k)); err != nil {
			return 0, 0, err
		}
	}
	return len(seqs), next, nil
}
