// Package boltstore keeps an inbox's messages in one file of this machine, by bbolt: synced to the disk before anything
// is acknowledged. One process at a time has the file.
//
// # What stands where
//
// A message has a number, its seq. What was put stands in one bucket, what became of it in at most one other:
//
//	requests   seq → the message as it was put
//	retrying   seq → attempts, the last answer, when it is due
//	delivered  seq → attempts, the last answer, since when
//	dead       seq → attempts, the last answer, since when
//
// A message that stands in requests only was never tried: so a Put writes there, and into ids. The other buckets find
// messages:
//
//	ids     digest of the id → seq of the newest message that has it
//	due     time, seq of those in retrying
//	expiry  time, seq of those in delivered
//	order   digest of the key, seq of the pending ones that have a key
//	meta    the version of the file, and the counters
//
// Among the counters is a mark, Low: no message before it is one that was never tried, unless an earlier one of its key
// holds it up. A message that is revived or redelivered after it was settled gets a new seq, and so stands behind the
// others. Leases are in memory only: who had one has died with the process, or settles it.
//
// # How a call goes
//
// Put and Settle hand an operation (apply.go) to the one goroutine that writes (writer.go), which does those of all
// callers in one transaction. Lease (queue.go) reads the file, and remembers what it has given out. record.go has the
// bytes, file.go what is opened and what is refused. read.go reads a file that no Caddy has open, damaged or not.
package boltstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
)

const (
	maxRecord = 64 << 20 // how large a stored message may be
	overhead  = 128      // what it counts against MaxBytes beside its bytes: about what it takes in the file
)

// Store implements inbox.Store.
type Store struct {
	path    string
	logger  *zap.Logger
	options options
	writer  writer
	closed  atomic.Bool

	// file guards db, which is closed and opened again after a failed commit. A goroutine that has a transaction open to
	// read never takes lock.
	file     sync.RWMutex
	db       *bbolt.DB   // nil after a failed commit, until it can be opened again
	identity os.FileInfo // of the open file; it belongs to the writer

	lock     sync.Mutex // guards the rest
	settings inbox.Settings
	counters counters // of what is committed
	queue    queue
}

// options are for tests.
type options struct {
	now       func() time.Time
	maxRecord int
	maxQueued int
	maxSeen   int
	step      int // of List and DeleteDead: how many messages one transaction looks at, so that nobody waits for it for long
	turn      time.Duration
	anywhere  bool   // the file may be in memory
	noSync    bool   // for comparison only
	reserve   uint64 // see room
}

func defaultOptions() options {
	return options{now: time.Now, maxRecord: maxRecord, maxQueued: maxQueued, maxSeen: maxSeen, step: 2000, turn: turn, reserve: 4 << 20}
}

// Open opens the file, and makes it where there is none.
func Open(path string, settings inbox.Settings, logger *zap.Logger) (*Store, error) {
	return openStore(path, settings, logger, defaultOptions())
}

func openStore(path string, settings inbox.Settings, logger *zap.Logger, options options) (*Store, error) {
	s := &Store{
		path: path, logger: logger, options: options, settings: settings,
		writer: writer{kick: make(signal, 1), ended: make(chan struct{})},
		queue: queue{
			leases: make(map[uint64]*lease), damaged: make(map[uint64]struct{}),
			turn: make(chan struct{}, 1), changed: make(signal, 1),
		},
	}
	if err := s.prepare(); err != nil {
		return nil, err
	}
	if err := s.openFile(); err != nil {
		return nil, err
	}
	s.warnMode()
	go s.write()
	_ = s.submit(&operation{apply: func(b *batch) error { return b.expire(1000) }})
	return s, nil
}

// Configure implements inbox.Store.
func (s *Store) Configure(settings inbox.Settings) error {
	if s.closed.Load() {
		return inbox.ErrClosed
	}
	s.lock.Lock()
	defer s.lock.Unlock()
	s.settings, s.queue.longest = settings, 0
	s.queue.changed.give()
	return nil
}

// Put implements inbox.Store.
func (s *Store) Put(ctx context.Context, m *inbox.Message) (inbox.Receipt, error) {
	if len(m.ID)+len(m.Key)+len(m.Subject)+len(m.Request) > s.options.maxRecord {
		return 0, inbox.ErrTooLarge
	}
	raw := encodeRecord(m)
	return ask(ctx, s, len(raw), func(b *batch) (inbox.Receipt, error) { return b.put(raw) })
}

// Settle implements inbox.Store.
func (s *Store) Settle(ctx context.Context, m *inbox.Message, outcome inbox.Outcome) error {
	held, _ := m.Lease.(*lease)
	in, valid := map[inbox.State]int{inbox.Pending: inRetrying, inbox.Delivered: inDelivered, inbox.Dead: inDead}[outcome.Result]
	if !valid && !outcome.Released {
		return fmt.Errorf("a message cannot be settled as %q", outcome.Result)
	}
	s.lock.Lock()
	holds := s.queue.holds(held)
	if holds && outcome.Released {
		s.queue.giveBack(held)
	}
	s.queue.longest = max(s.queue.longest, outcome.Delay)
	s.lock.Unlock()
	if s.closed.Load() {
		return inbox.ErrClosed
	}
	if !holds || outcome.Released {
		return nil
	}
	return s.do(ctx, &operation{apply: func(b *batch) error { return b.settle(held, in, outcome) }})
}

// Redeliver implements inbox.Store. A settled message gets a new seq.
func (s *Store) Redeliver(ctx context.Context, seq uint64, force bool) (uint64, error) {
	return ask(ctx, s, 0, func(b *batch) (uint64, error) { return b.redeliver(seq, force) })
}

// Delete implements inbox.Store. It removes a damaged message too, as far as anything of it is there.
func (s *Store) Delete(ctx context.Context, seq uint64, force bool) error {
	return s.do(ctx, &operation{apply: func(b *batch) error { return b.delete(seq, force) }})
}

// DeleteDead implements inbox.Store: a bounded part in each commit.
func (s *Store) DeleteDead(ctx context.Context, before time.Time) (removed int, err error) {
	for from := uint64(1); from != 0; {
		done, err := ask(ctx, s, 0, func(b *batch) (deleted, error) { return b.deleteDead(from, before) })
		if err != nil {
			return removed, err
		}
		removed, from = removed+done.count, done.next
	}
	return removed, nil
}

// Stats implements inbox.Store.
func (s *Store) Stats(ctx context.Context) (inbox.Stats, error) {
	if err := ctx.Err(); err != nil {
		return inbox.Stats{}, err
	}
	s.lock.Lock()
	c, low := s.counters, s.queue.lowest()
	s.lock.Unlock()
	if s.closed.Load() {
		return inbox.Stats{}, inbox.ErrClosed
	}
	stats := inbox.Stats{
		Pending: c.Count[inRequests] + c.Count[inRetrying], Delivered: c.Count[inDelivered], Dead: c.Count[inDead], Bytes: c.Bytes,
	}
	if stats.Pending == 0 {
		return stats, nil
	}
	err := s.view(func(v *views) error {
		for seq := v.next(inbox.Pending, 1, low); seq != 0; seq = v.next(inbox.Pending, seq+1, low) {
			k := seqKey(seq) // it may be settled, of which the counters do not yet say that it is
			if r, err := decodeRecord(v.bucket(inRequests).Get(k)); err == nil && stateOf[v.standing(k)] == inbox.Pending {
				stats.Oldest = r.received
				return nil
			}
		}
		return nil
	})
	return stats, err
}

// Get implements inbox.Store.
func (s *Store) Get(ctx context.Context, seq uint64) (*inbox.Message, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var m *inbox.Message
	err := s.view(func(v *views) (err error) {
		raw := v.bucket(inRequests).Get(seqKey(seq))
		if raw == nil {
			return inbox.ErrNotFound
		}
		var r record
		if m, r, err = v.message(seq, raw); err == nil {
			m.Request = bytes.Clone(r.request)
		}
		return err
	})
	return m, err
}

// List implements inbox.Store.
func (s *Store) List(ctx context.Context, query inbox.Query) ([]*inbox.Message, error) {
	var all []*inbox.Message
	s.lock.Lock()
	low := s.queue.lowest()
	s.lock.Unlock()
	for seq, more := query.After, true; more; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := s.view(func(v *views) error {
			if k, _ := v.bucket(inOrder).Cursor().First(); k != nil {
				low = 0 // there may be others that wait
			}
			for range s.options.step {
				if seq = v.next(query.State, seq+1, low); seq == 0 || len(all) == max(query.Limit, 1) {
					more = false
					return nil
				}
				state := stateOf[v.standing(seqKey(seq))]
				if query.State != "" && state != query.State {
					continue
				}
				m, _, err := v.message(seq, v.bucket(inRequests).Get(seqKey(seq)))
				if err != nil {
					m = &inbox.Message{Seq: seq, State: state, Answer: inbox.Answer{Error: "damaged"}}
				}
				if query.Matches(m) {
					all = append(all, m)
				}
			}
			return nil
		}); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// Close implements inbox.Store.
func (s *Store) Close() error { return s.close(false) }

// close returns when nobody writes any more: after what is queued, or, if the store is abandoned, after the commit under way.
func (s *Store) close(abandon bool) error {
	s.closed.Store(true)
	s.queue.changed.give()
	w := &s.writer
	w.lock.Lock()
	w.stopped, w.abandoned = true, w.abandoned || abandon
	w.kick.give()
	w.lock.Unlock()
	<-w.ended

	s.file.Lock()
	defer s.file.Unlock()
	if s.db == nil {
		return nil
	}
	var err error
	if s.db.NoFreelistSync && !abandon {
		s.db.NoFreelistSync = false
		err = guard(func() error { return s.db.Update(func(*bbolt.Tx) error { return nil }) })
	}
	err = errors.Join(err, s.db.Close())
	s.db = nil
	return err
}

func (s *Store) view(read func(v *views) error) error {
	s.file.RLock()
	defer s.file.RUnlock()
	if s.db == nil {
		if s.closed.Load() {
			return inbox.ErrClosed
		}
		return errUnavailable
	}
	return guard(func() error {
		return s.db.View(func(tx *bbolt.Tx) error { return read(&views{tx: tx}) })
	})
}

// views are the buckets of a transaction, each opened when it is first asked for.
type views struct {
	tx   *bbolt.Tx
	open [len(buckets)]*bbolt.Bucket
}

func (v *views) bucket(number int) *bbolt.Bucket {
	if v.open[number] == nil {
		v.open[number] = v.tx.Bucket(buckets[number])
		if number != inOrder && number != inIDs {
			v.open[number].FillPercent = 1 // they grow at their end, more or less
		}
	}
	return v.open[number]
}

// stateOf is the state of the messages of a bucket: of those in requests that are in no other.
var stateOf = [...]inbox.State{inRequests: inbox.Pending, inRetrying: inbox.Pending, inDelivered: inbox.Delivered, inDead: inbox.Dead}

// standing says in which bucket it stands what became of a message; inRequests, if it was never tried.
func (v *views) standing(k []byte) int {
	for _, number := range [...]int{inRetrying, inDelivered, inDead} {
		if v.bucket(number).Get(k) != nil {
			return number
		}
	}
	return inRequests
}

// message makes a message of what stands in the file, without its request.
func (v *views) message(seq uint64, raw []byte) (*inbox.Message, record, error) {
	r, err := decodeRecord(raw)
	if err != nil {
		return nil, r, fmt.Errorf("message %d: %w", seq, err)
	}
	k := seqKey(seq)
	in := v.standing(k)
	m := r.message(seq, stateOf[in])
	if in == inRequests {
		return m, r, nil
	}
	p, err := decodeProgress(v.bucket(in).Get(k))
	if err != nil {
		return nil, r, fmt.Errorf("message %d: %w", seq, err)
	}
	m.Attempts, m.Answer, m.Settled = p.attempts, p.answer, p.when
	if in == inRetrying {
		m.Due, m.Settled = p.when, time.Time{}
	}
	return m, r, nil
}

// next returns the first seq of a state from another on, 0 at the end. Before low only those are pending that wait for a
// retry, so that it does not look at a million delivered ones; behind it, it may return others.
func (v *views) next(state inbox.State, from, low uint64) uint64 {
	in := inRequests
	switch {
	case from == 0: // behind the last that there can be
		return 0
	case state == inbox.Delivered:
		in = inDelivered
	case state == inbox.Dead:
		in = inDead
	case state == inbox.Pending && from < low:
		if k, _ := v.bucket(inRetrying).Cursor().Seek(seqKey(from)); k != nil && decodeSeq(k) < low {
			return decodeSeq(k)
		}
		from = low
	}
	k, _ := v.bucket(in).Cursor().Seek(seqKey(from))
	return decodeSeq(k)
}
