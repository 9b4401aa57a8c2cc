// Package boltstore keeps an inbox's messages in one file of this machine, by bbolt: synced to the disk before anything
// is acknowledged. One process at a time has the file.
//
// The files: store.go the store as its callers see it; writer.go the one goroutine that writes, a commit for all who wait;
// apply.go what a commit does; queue.go which message is leased next; index.go where an id is; record.go the bytes;
// file.go opening, and what is refused; delete.go; read.go reading a file
// that no Caddy has open, damaged or not; provider.go the Caddy module.
//
// # What stands where
//
// Buckets, by key:
//
//   - requests: seq → the message as it was put. A message that is in no other bucket and not before the mark `low` was
//     never tried: a Put writes to this bucket only.
//   - retrying: seq → attempts, the last answer, when it is due; due: the time and the seq again, to find the next.
//   - delivered, dead: seq → attempts, the last answer, when it was settled.
//   - expiry: the time of settlement and the seq of delivered ones, to find the oldest.
//   - order: the digest of the key and the seq of pending ones that have a key.
//   - index: see index.go.
//   - meta: the version of the file, and the counters.
//
// A message that is revived or redelivered after it was settled gets a new seq, and so stands behind the others.
package boltstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
)

// maxRecord is how large a stored message may be.
const maxRecord = 64 << 20

// overhead is what a message counts against MaxBytes beside its bytes, about what it takes in the file.
const overhead = 128

// Store implements inbox.Store.
type Store struct {
	path    string
	logger  *zap.Logger
	options options

	// file guards db, which is closed and opened again after a failed commit. A goroutine that has a transaction open
	// never takes lock.
	file sync.RWMutex
	db   *bbolt.DB // nil after a failed commit, until it can be opened again

	writer writer
	queue  queue

	// These belong to whoever writes.
	index  index
	oldest moment // of the delivered ones: not after the first of them
	filled int64  // see prefill

	// The open file, which db closes, and which one it is.
	handle   *os.File
	identity os.FileInfo

	lock     sync.Mutex // guards the rest
	settings inbox.Settings
	counters counters
	closed   bool
}

// options are for tests.
type options struct {
	now       func() time.Time
	maxRecord int
	maxQueued int
	maxSeen   int
	step      int // how many messages one transaction of List or DeleteDead looks at, so that it never holds up the writer for long
	index     indexLimits
	grace     time.Duration // see outlivedGrace
	anywhere  bool          // the file may be in memory
	noSync    bool          // for comparison only
	reserve   uint64        // see room
}

func defaultOptions() options {
	return options{now: time.Now, maxRecord: maxRecord, maxQueued: maxQueued, maxSeen: maxSeen, step: 2000, index: defaultIndexLimits, reserve: 4 << 20, grace: outlivedGrace}
}

// Open opens the file, and makes it where there is none.
func Open(path string, settings inbox.Settings, logger *zap.Logger) (*Store, error) {
	return openStore(path, settings, logger, defaultOptions())
}

func openStore(path string, settings inbox.Settings, logger *zap.Logger, options options) (*Store, error) {
	s := &Store{path: path, logger: logger, options: options, settings: settings}
	s.index.limits = options.index
	s.queue.init()
	if err := s.prepare(); err != nil {
		return nil, err
	}
	if err := s.openFile(); err != nil {
		return nil, err
	}
	s.warnMode()
	s.writer.init()
	go s.write()
	s.submit(&operation{apply: func(b *batch) error { return b.expire(1000) }})
	return s, nil
}

// Configure implements inbox.Store.
func (s *Store) Configure(settings inbox.Settings) error {
	s.lock.Lock()
	defer s.lock.Unlock()
	if s.closed {
		return inbox.ErrClosed
	}
	s.settings = settings
	s.queue.longest = 0
	s.queue.checkFar = true
	s.queue.stopLapse() // the time may have changed; whoever is woken arms it again
	s.wake(1)
	return nil
}

// Put implements inbox.Store.
func (s *Store) Put(ctx context.Context, m *inbox.Message) (inbox.Receipt, error) {
	if len(m.ID)+len(m.Key)+len(m.Subject)+len(m.Request) > s.options.maxRecord {
		return 0, inbox.ErrTooLarge
	}
	p := &putting{raw: encodeRecord(m), id: []byte(m.ID), digest: digestOf(m.ID)}
	if m.Key != "" {
		p.ordered, p.key = true, digestOf(m.Key)
	}
	o := &operation{size: len(p.raw), apply: func(b *batch) (err error) {
		p.receipt, err = b.put(p)
		return err
	}}
	if err := s.do(ctx, o); err != nil {
		return 0, err
	}
	return p.receipt, nil
}

// Settle implements inbox.Store.
func (s *Store) Settle(ctx context.Context, m *inbox.Message, outcome inbox.Outcome) error {
	held, _ := m.Lease.(*lease)
	switch outcome.Result {
	case inbox.Pending, inbox.Delivered, inbox.Dead:
	default:
		if !outcome.Released {
			return fmt.Errorf("a message cannot be settled as %q", outcome.Result)
		}
	}
	s.lock.Lock()
	closed := s.closed
	holds := held != nil && s.queue.alive(held)
	if holds && outcome.Released {
		s.giveBack(held)
	}
	s.lock.Unlock()
	switch {
	case closed:
		return inbox.ErrClosed
	case !holds, outcome.Released:
		return nil
	}
	return s.do(ctx, &operation{apply: func(b *batch) error { return b.settle(held, outcome) }})
}

// Redeliver implements inbox.Store. A settled message gets a new seq.
func (s *Store) Redeliver(ctx context.Context, seq uint64, force bool) (uint64, error) {
	var fresh uint64
	err := s.do(ctx, &operation{apply: func(b *batch) (err error) {
		fresh, err = b.redeliver(seq, force)
		return err
	}})
	if err != nil {
		return 0, err
	}
	return fresh, nil
}

// Stats implements inbox.Store.
func (s *Store) Stats(ctx context.Context) (inbox.Stats, error) {
	if err := ctx.Err(); err != nil {
		return inbox.Stats{}, err
	}
	s.lock.Lock()
	c, closed := s.counters, s.closed
	first := s.lowest()
	s.lock.Unlock()
	if closed {
		return inbox.Stats{}, inbox.ErrClosed
	}
	stats := inbox.Stats{Pending: c.Pending, Delivered: c.Delivered, Dead: c.Dead, Bytes: c.Bytes}
	if stats.Pending == 0 {
		return stats, nil
	}
	err := s.view(func(tx *bbolt.Tx) error {
		v := viewOf(tx)
		if k, _ := v.retrying().Cursor().First(); k != nil {
			first = min(first, decodeSeq(k))
		}
		// A message before the first may be the last that was settled, of which the file does not yet say that it is.
		c := v.requests().Cursor()
		for k, raw := c.Seek(seqKey(first)); k != nil; k, raw = c.Next() {
			if v.delivered().Get(k) != nil || v.dead().Get(k) != nil {
				continue
			}
			if r, err := decodeRecord(raw); err == nil {
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
	err := s.view(func(tx *bbolt.Tx) (err error) {
		v := viewOf(tx)
		raw := v.requests().Get(seqKey(seq))
		if raw == nil {
			return inbox.ErrNotFound
		}
		var r record
		if m, r, err = v.message(seq, raw); err == nil {
			m.Request = bytes.Clone(r.request)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return m, nil
}

// List implements inbox.Store.
func (s *Store) List(ctx context.Context, query inbox.Query) ([]*inbox.Message, error) {
	var all []*inbox.Message
	next := query.After + 1
	if next == 0 {
		return nil, nil
	}
	for more := true; more && len(all) < max(query.Limit, 1); {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		err := s.view(func(tx *bbolt.Tx) error {
			more = false
			v := viewOf(tx)
			walk := v.walk(query.State, next)
			for steps := 0; ; steps++ {
				seq := walk.seq()
				if seq == 0 {
					return nil
				}
				if next = seq; steps == s.options.step || len(all) == max(query.Limit, 1) {
					more = true
					return nil
				}
				next = seq + 1
				k := seqKey(seq)
				if query.State == inbox.Pending && (v.delivered().Get(k) != nil || v.dead().Get(k) != nil) {
					walk.next()
					continue
				}
				m, _, err := v.message(seq, v.requests().Get(k))
				if err != nil {
					m = v.damaged(seq)
				}
				if query.Matches(m) {
					all = append(all, m)
				}
				walk.next()
			}
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// Close implements inbox.Store.
func (s *Store) Close() error { return s.close(false) }

func (s *Store) close(abandon bool) error {
	s.lock.Lock()
	if s.closed {
		s.lock.Unlock()
		s.writer.stop(false)
		return nil
	}
	s.closed = true
	s.queue.stopTimer()
	s.queue.stopLapse()
	s.wake(len(s.queue.waiting))
	s.lock.Unlock()
	s.writer.stop(abandon)

	s.file.Lock()
	defer s.file.Unlock()
	if s.db == nil {
		return nil
	}
	var err error
	if !abandon {
		err = s.syncFreelist()
	}
	err = errors.Join(err, s.db.Close())
	s.db = nil
	return err
}

// view runs a read transaction.
func (s *Store) view(read func(tx *bbolt.Tx) error) (err error) {
	s.file.RLock()
	defer s.file.RUnlock()
	if s.db == nil {
		if s.writer.closed() {
			return inbox.ErrClosed
		}
		return errUnavailable
	}
	return guard(func() error { return s.db.View(read) })
}

// views are the buckets of a transaction, each opened when it is first asked for.
type views struct {
	tx   *bbolt.Tx
	open [len(buckets)]*bbolt.Bucket
}

func (v *views) bucket(number int) *bbolt.Bucket {
	if v.open[number] == nil {
		v.open[number] = v.tx.Bucket(buckets[number])
		if number != numberOrder {
			v.open[number].FillPercent = 1 // they grow at their end, more or less
		}
	}
	return v.open[number]
}

func (v *views) requests() *bbolt.Bucket  { return v.bucket(numberRequests) }
func (v *views) retrying() *bbolt.Bucket  { return v.bucket(numberRetrying) }
func (v *views) due() *bbolt.Bucket       { return v.bucket(numberDue) }
func (v *views) delivered() *bbolt.Bucket { return v.bucket(numberDelivered) }
func (v *views) dead() *bbolt.Bucket      { return v.bucket(numberDead) }
func (v *views) expiry() *bbolt.Bucket    { return v.bucket(numberExpiry) }
func (v *views) order() *bbolt.Bucket     { return v.bucket(numberOrder) }
func (v *views) index() *bbolt.Bucket     { return v.bucket(numberIndex) }
func (v *views) meta() *bbolt.Bucket      { return v.bucket(numberMeta) }

func viewOf(tx *bbolt.Tx) *views { return &views{tx: tx} }

// message makes a message of what stands in the file, without its request.
func (v *views) message(seq uint64, raw []byte) (*inbox.Message, record, error) {
	r, err := decodeRecord(raw)
	if err != nil {
		return nil, r, fmt.Errorf("message %d: %w", seq, err)
	}
	m := &inbox.Message{Seq: seq, ID: string(r.id), Key: string(r.key), Subject: string(r.subject), Received: r.received, State: inbox.Pending}
	k := seqKey(seq)
	var p progress
	if raw := v.retrying().Get(k); raw != nil {
		p, err = decodeProgress(raw)
		m.Due = p.when
	} else if raw := v.delivered().Get(k); raw != nil {
		p, err = decodeProgress(raw)
		m.State, m.Settled = inbox.Delivered, p.when
	} else if raw := v.dead().Get(k); raw != nil {
		p, err = decodeProgress(raw)
		m.State, m.Settled = inbox.Dead, p.when
	}
	m.Attempts, m.Answer = p.attempts, p.answer
	if err != nil {
		return nil, r, fmt.Errorf("message %d: %w", seq, err)
	}
	return m, r, nil
}

// damaged stands for a message that cannot be read.
func (v *views) damaged(seq uint64) *inbox.Message {
	m := &inbox.Message{Seq: seq, State: inbox.Pending, Answer: inbox.Answer{Error: "damaged"}}
	switch k := seqKey(seq); {
	case v.delivered().Get(k) != nil:
		m.State = inbox.Delivered
	case v.dead().Get(k) != nil:
		m.State = inbox.Dead
	}
	return m
}

// walker goes over the messages of a state in the order of seq; pending ones may be mixed with others.
type walker struct {
	cursor *bbolt.Cursor
	key    []byte
	then   *bbolt.Cursor // after the first cursor's
	from   uint64        // from here
}

func (v *views) walk(state inbox.State, from uint64) *walker {
	w := &walker{}
	switch state {
	case inbox.Delivered:
		w.cursor = v.delivered().Cursor()
	case inbox.Dead:
		w.cursor = v.dead().Cursor()
	case inbox.Pending:
		c, err := decodeCounters(v.meta().Get(keyCounters))
		if k, _ := v.order().Cursor().First(); k == nil && err == nil {
			// Before the mark, only those that wait for a retry are pending, not one of a million delivered ones.
			w.cursor, w.then, w.from = v.retrying().Cursor(), v.requests().Cursor(), max(c.Low, from)
			break
		}
		w.cursor = v.requests().Cursor()
	default:
		w.cursor = v.requests().Cursor()
	}
	w.key, _ = w.cursor.Seek(seqKey(from))
	w.advance()
	return w
}

func (w *walker) next() {
	w.key, _ = w.cursor.Next()
	w.advance()
}

func (w *walker) advance() {
	if w.then != nil && (w.key == nil || decodeSeq(w.key) >= w.from) {
		w.cursor, w.then = w.then, nil
		w.key, _ = w.cursor.Seek(seqKey(w.from))
	}
}

// seq is 0 at the end.
func (w *walker) seq() uint64 { return decodeSeq(w.key) }

// Interface guards
var _ inbox.Store = (*Store)(nil)
