package boltstore

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
)

// What one commit takes at most. The bytes are a bound for memory and for how long the others wait; one message may be
// larger.
const (
	maxOperations = 1024
	maxBatchBytes = 16 << 20
)

// errUnavailable says that the file could not be opened again after it had failed; the next commit tries again.
var errUnavailable = errors.New("the store's file is not open since a write to it failed")

// operation is what one caller wants written.
type operation struct {
	// apply changes what is to be committed, and returns the answer to the caller if the commit succeeds. It runs at most
	// once.
	apply func(b *batch) error

	size  int // of what it writes, about
	state atomic.Int32
	err   error
	done  chan struct{} // nil: nobody waits
}

// The states of an operation: who is first to change it from queued has it.
const (
	queued int32 = iota
	begun
	withdrawn
)

// writer is the queue of the one goroutine that writes. While a commit is under way the next one's operations gather, and
// that is all the delay there is: a lone caller never waits for others.
type writer struct {
	lock    sync.Mutex
	queue   []*operation
	stopped bool

	kick    chan struct{}
	closing chan struct{}
	abandon atomic.Bool
	ended   chan struct{}
	last    int // how many operations the last commit had
}

func (w *writer) init() {
	w.kick, w.closing, w.ended = make(chan struct{}, 1), make(chan struct{}), make(chan struct{})
}

// stop lets the writer end: after what is queued, or at once if the store is abandoned.
func (w *writer) stop(abandon bool) {
	w.abandon.Store(abandon)
	w.lock.Lock()
	w.stopped = true
	w.lock.Unlock()
	close(w.closing)
}

// submit queues an operation.
func (s *Store) submit(o *operation) bool {
	w := &s.writer
	w.lock.Lock()
	if w.stopped {
		w.lock.Unlock()
		return false
	}
	w.queue = append(w.queue, o)
	w.lock.Unlock()
	select {
	case w.kick <- struct{}{}:
	default:
	}
	return true
}

// do submits an operation and waits until it is committed. If ctx ends before the operation has begun, it never begins.
func (s *Store) do(ctx context.Context, o *operation) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	o.done = make(chan struct{})
	if !s.submit(o) {
		return inbox.ErrClosed
	}
	select {
	case <-o.done:
		return o.err
	case <-ctx.Done():
		o.state.CompareAndSwap(queued, withdrawn)
		return ctx.Err()
	}
}

// write is the writer's goroutine.
func (s *Store) write() {
	w := &s.writer
	defer close(w.ended)
	for {
		select {
		case <-w.kick:
		case <-w.closing:
		}
		for {
			if w.abandon.Load() {
				s.answer(w.takeAll(), inbox.ErrClosed)
				return
			}
			operations, stopped := w.take()
			if len(operations) > 0 {
				s.commit(operations)
				continue
			}
			if stopped {
				return
			}
			break
		}
	}
}

// take takes what the next commit does. After a commit that served many, those who were answered are about to come
// again: they are let run first, so that they share the next commit rather than every other one.
func (w *writer) take() (operations []*operation, stopped bool) {
	for range 2 * w.last {
		w.lock.Lock()
		gathered := len(w.queue)
		w.lock.Unlock()
		if gathered >= w.last {
			break
		}
		runtime.Gosched()
	}
	w.lock.Lock()
	defer w.lock.Unlock()
	size, n := 0, 0
	for n < len(w.queue) && n < maxOperations && (n == 0 || size+w.queue[n].size <= maxBatchBytes) {
		size += w.queue[n].size
		n++
	}
	if n == len(w.queue) {
		operations, w.queue = w.queue, nil
	} else {
		operations, w.queue = w.queue[:n:n], w.queue[n:]
	}
	if w.last = n; n == 1 {
		w.last = 0
	}
	return operations, w.stopped && n == 0
}

func (w *writer) takeAll() []*operation {
	w.lock.Lock()
	defer w.lock.Unlock()
	all := w.queue
	w.queue = nil
	return all
}

func (s *Store) answer(operations []*operation, err error) {
	for _, o := range operations {
		if err != nil {
			o.err = err
		}
		if o.done != nil {
			close(o.done)
		}
	}
}

// commit does the operations in one transaction and answers their callers.
func (s *Store) commit(operations []*operation) {
	live := operations[:0]
	for _, o := range operations {
		if o.state.CompareAndSwap(queued, begun) {
			live = append(live, o)
		}
	}
	if len(live) == 0 {
		return
	}
	if s.db == nil { // only this goroutine writes it, but for close, which waits for it
		if err := s.openFile(); err != nil {
			s.answer(live, fmt.Errorf("%w: %w", errUnavailable, err))
			return
		}
		s.logger.Info("the inbox's file is open again", zap.String("path", s.path))
	}
	b := &batch{store: s, now: s.options.now()}
	s.lock.Lock()
	b.settings, b.counters = s.settings, s.counters
	b.counters.Low = max(b.counters.Low, min(s.lowest(), s.counters.Last+1))
	s.lock.Unlock()
	for _, o := range live {
		b.bytes += o.size
	}
	err := guard(func() error { return s.transact(b, live) })
	for _, held := range b.cleanup {
		held.settling = false
	}
	if err != nil {
		s.logger.Error("writing to the inbox's file failed; it is opened again", zap.String("path", s.path), zap.Error(err))
		s.reopen()
		s.answer(live, fmt.Errorf("writing to the inbox's file: %w", err))
		return
	}
	if b.changed {
		s.lock.Lock()
		s.counters = b.counters
		for _, then := range b.then {
			then()
		}
		s.wake(b.fresh)
		s.lock.Unlock()
		s.watchFreelist()
	}
	s.answer(live, nil)
}

// transact applies the operations and commits. Nothing is committed if nothing was changed.
func (s *Store) transact(b *batch, operations []*operation) (err error) {
	tx, err := s.db.Begin(true)
	if err != nil {
		return err
	}
	defer func() {
		// After a commit, or one that failed, there is nothing to roll back, and this returns an error.
		_ = tx.Rollback()
	}()
	b.views = viewOf(tx)
	b.room = s.room(b.bytes)
	for _, o := range operations {
		if o.err = o.apply(b); errors.Is(o.err, errDamaged) {
			// The caller learns it, and the others are not to suffer from it.
			s.logger.Error("a message of the inbox is damaged", zap.String("path", s.path), zap.Error(o.err))
		}
		if b.err != nil {
			return b.err
		}
	}
	if err := b.expire(max(64, 2*len(operations))); err != nil {
		return err
	}
	if !b.changed {
		return nil
	}
	last := b.counters.Last
	flushed, err := s.index.step(b.index, b.stored, b.goneFor())
	if err != nil {
		return err
	}
	if flushed {
		b.counters.Indexed = last
	}
	if err := b.meta.Put(keyCounters, b.counters.encode()); err != nil {
		return err
	}
	return tx.Commit()
}

// guard makes an error of a panic: bbolt panics where the file is damaged, and so does reading a part of it that is gone.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the file is damaged: %v", p)
		}
	}()
	return f()
}

// reopen closes the file after a failed commit and opens it again: what a failed sync has left in memory is not to be
// trusted. It may fail; the next commit tries again.
func (s *Store) reopen() {
	s.file.Lock()
	db := s.db
	s.db = nil
	s.file.Unlock()
	if db != nil {
		if err := guard(db.Close); err != nil {
			s.logger.Error("closing the inbox's file", zap.String("path", s.path), zap.Error(err))
		}
		forget(s.path)
	}
	if err := s.openFile(); err != nil {
		s.logger.Error("opening the inbox's file again failed; the next write tries again", zap.String("path", s.path), zap.Error(err))
	}
}

// room says why nothing may be added, if the disk is nearly full: then what is left is for settling what there is.
func (s *Store) room(bytes int) error {
	if bytes == 0 {
		return nil
	}
	free, known := freeSpace(s.path)
	need := uint64(bytes) + uint64(bytes)/2
	if !known || free > need+s.options.reserve {
		return nil
	}
	if inFile := uint64(s.db.Stats().FreePageN) * uint64(s.db.Info().PageSize); inFile > 2*need+1<<20 {
		return nil
	}
	return fmt.Errorf("the disk of the inbox's file is nearly full: %w", syscall.ENOSPC)
}

// The list of free pages is written with every commit, so that opening the file takes no time; where it is long, that
// would cost more than everything else. Then it is written only when the store is closed, and opening the file after a
// crash has to look at every page.
const (
	longFreelist  = 16 << 10
	shortFreelist = 8 << 10
)

func (s *Store) watchFreelist() {
	switch size := s.db.Stats().FreelistInuse; {
	case size > longFreelist:
		s.db.NoFreelistSync = true
	case size < shortFreelist:
		s.db.NoFreelistSync = false
	}
}

// syncFreelist writes the list of free pages before the file is closed.
func (s *Store) syncFreelist() error {
	if !s.db.NoFreelistSync {
		return nil
	}
	return guard(func() error {
		s.db.NoFreelistSync = false
		return s.db.Update(func(*bbolt.Tx) error { return nil })
	})
}

// tidy does what is left to do when the file is opened.
func (s *Store) tidy(b *batch) error { return b.expire(1000) }

// wait is how long from now until the time, by the store's clock.
func (s *Store) wait(until time.Time) time.Duration { return until.Sub(s.options.now()) }
