package boltstore

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"runtime/debug"
	"slices"
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

// maxQueued is how many bytes wait to be written at most: more only gather where the disk hangs.
const maxQueued = 256 << 20

var errBehind = errors.New("the disk does not keep up: too much waits to be written")

// errUnavailable says that the file could not be opened again after it had failed; the next commit tries again.
var errUnavailable = errors.New("the store's file is not open since a write to it failed")

// operation is what one caller wants written.
type operation struct {
	// apply changes what is to be committed, and returns the answer to the caller if the commit succeeds. It runs at most
	// once. It belongs to whoever has the operation.
	apply func(b *batch) error

	size  int // of what it writes, about
	state atomic.Int32
	waits bool // it is in the queue; the writer's lock guards this
	err   error
	done  chan struct{} // nil: nobody waits
}

// The states of an operation: who is first to change it from queued has it.
const (
	queued int32 = iota
	begun
	withdrawn
)

// writer is the queue of what is to be written. Whoever finds nobody writing writes himself: so a lone caller waits for
// nothing but the disk. While a commit is under way the next one's operations gather, and the writer's goroutine commits
// them, for as long as there are any.
type writer struct {
	lock    sync.Mutex
	queue   []*operation
	size    int  // of those in the queue that are not withdrawn
	gone    int  // how many in the queue are withdrawn
	busy    bool // somebody writes; so long nobody else does
	stopped bool
	abandon bool
	idle    sync.Cond // busy has become false

	kick chan struct{} // the goroutine is to take over; closed: to end
	last int           // how many operations the last commit had
}

func (w *writer) init() {
	w.kick = make(chan struct{}, 1)
	w.idle.L = &w.lock
}

// stop returns when nobody writes any more: after what is queued, or, if the store is abandoned, after the commit under
// way.
func (w *writer) stop(abandon bool) {
	w.lock.Lock()
	defer w.lock.Unlock()
	first := !w.stopped
	w.stopped, w.abandon = true, w.abandon || abandon
	for w.busy {
		w.idle.Wait()
	}
	if first {
		close(w.kick)
	}
}

func (w *writer) closed() bool {
	w.lock.Lock()
	defer w.lock.Unlock()
	return w.stopped
}

// submit queues an operation that nobody waits for.
func (s *Store) submit(o *operation) {
	w := &s.writer
	w.lock.Lock()
	defer w.lock.Unlock()
	if w.stopped {
		return
	}
	if w.queue = append(w.queue, o); !w.busy {
		w.busy = true
		w.kick <- struct{}{}
	}
}

// do queues an operation and waits until it is committed. If ctx ends before the operation has begun, it never begins.
func (s *Store) do(ctx context.Context, o *operation) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	o.done = make(chan struct{})
	w := &s.writer
	w.lock.Lock()
	if w.stopped {
		w.lock.Unlock()
		return inbox.ErrClosed
	}
	if o.size > 0 && w.size > 0 && w.size+o.size > s.options.maxQueued {
		w.lock.Unlock()
		return errBehind
	}
	w.queue = append(w.queue, o)
	w.size += o.size
	o.waits = true
	lead := !w.busy
	w.busy = true
	w.lock.Unlock()
	if lead {
		s.drive(1)
	}
	select {
	case <-o.done:
		return o.err
	case <-ctx.Done():
		w.withdraw(o)
		return ctx.Err()
	}
}

// withdraw lets go of an operation that has not begun, and of what it would have written.
func (w *writer) withdraw(o *operation) {
	w.lock.Lock()
	defer w.lock.Unlock()
	if !o.state.CompareAndSwap(queued, withdrawn) {
		return
	}
	o.apply = nil
	if !o.waits {
		return
	}
	w.size -= o.size
	if w.gone++; w.gone > 100 && w.gone > len(w.queue)/2 {
		w.queue = slices.DeleteFunc(w.queue, func(o *operation) bool { return o.state.Load() == withdrawn })
		w.gone = 0
	}
}

// write is the writer's goroutine.
func (s *Store) write() {
	for range s.writer.kick {
		s.drive(math.MaxInt)
	}
}

// drive commits what is queued, with so many commits at most; then the goroutine goes on.
func (s *Store) drive(commits int) {
	w := &s.writer
	for ; ; commits-- {
		w.gather()
		w.lock.Lock()
		if w.abandon {
			s.answer(w.queue, inbox.ErrClosed)
			w.queue, w.size, w.gone = nil, 0, 0
		}
		if len(w.queue) == 0 {
			w.busy = false
			w.idle.Broadcast()
			w.lock.Unlock()
			return
		}
		if commits == 0 {
			w.kick <- struct{}{} // there is room: only one at a time is busy
			w.lock.Unlock()
			return
		}
		operations := w.take()
		w.lock.Unlock()
		s.commit(operations)
	}
}

// gather lets those run who were answered by a commit that served many, and are about to come again: so that they share
// the next commit rather than every other one. A lone caller is not waited for.
func (w *writer) gather() {
	for range 2 * w.last {
		w.lock.Lock()
		gathered := len(w.queue)
		w.lock.Unlock()
		if gathered >= w.last {
			return
		}
		runtime.Gosched()
	}
}

// take takes what the next commit does.
func (w *writer) take() (operations []*operation) {
	size, n := 0, 0
	for n < len(w.queue) && n < maxOperations && (n == 0 || size+w.queue[n].size <= maxBatchBytes) {
		o := w.queue[n]
		size += o.size
		if o.waits = false; o.state.Load() == withdrawn {
			w.gone--
		} else {
			w.size -= o.size
		}
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
	return operations
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
	if s.db == nil { // it is written by whoever writes, and by close, which waits for them
		if err := s.openFile(); err != nil {
			s.answer(live, fmt.Errorf("%w: %w", errUnavailable, err))
			return
		}
		s.logger.Info("the inbox's file is open again", zap.String("path", s.path))
	}
	if err := s.inPlace(); err != nil {
		s.logger.Error("nothing is written to the inbox's file; the next write opens the one that is there then",
			zap.String("path", s.path), zap.Error(err))
		s.shut()
		s.answer(live, fmt.Errorf("writing to the inbox's file: %w", err))
		return
	}
	b := &batch{store: s, now: s.options.now(), oldest: s.oldest}
	s.lock.Lock()
	b.settings, b.counters = s.settings, s.counters
	b.counters.Low = max(b.counters.Low, min(s.lowest(), s.counters.Last+1))
	s.lock.Unlock()
	for _, o := range live {
		b.bytes += o.size
	}
	err := guard(func() error { return s.transact(b, live) })
	if err != nil {
		s.settled(b)
		s.logger.Error("writing to the inbox's file failed; it is opened again", zap.String("path", s.path), zap.Error(err))
		s.reopen()
		s.answer(live, fmt.Errorf("writing to the inbox's file: %w", err))
		return
	}
	s.oldest = b.oldest
	if b.changed {
		s.lock.Lock()
		s.counters = b.counters
		for _, then := range b.then {
			then()
		}
		for _, held := range b.cleanup {
			held.settling = false
		}
		s.wake(b.fresh)
		s.lock.Unlock()
		s.watchFreelist()
	}
	s.answer(live, nil)
	if b.changed && len(live) <= 4 {
		s.prefill()
	}
}

// settled ends the settling of a batch that has failed, and gives back what it would have deleted.
func (s *Store) settled(b *batch) {
	s.lock.Lock()
	defer s.lock.Unlock()
	for _, held := range b.cleanup {
		held.settling = false
	}
	for _, held := range b.undo {
		s.giveBack(held)
	}
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
	flushed, err := s.index.step(b.index(), b.stored, b.goneFor())
	if err != nil {
		return err
	}
	if flushed {
		b.counters.Indexed = b.counters.Last
	}
	if err := b.meta().Put(keyCounters, b.counters.encode()); err != nil {
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
	s.shut()
	if err := s.openFile(); err != nil {
		s.logger.Error("opening the inbox's file again failed; the next write tries again", zap.String("path", s.path), zap.Error(err))
	}
}

// shut closes the file.
func (s *Store) shut() {
	s.file.Lock()
	db := s.db
	s.db = nil
	s.file.Unlock()
	if db == nil {
		return
	}
	if err := guard(db.Close); err != nil {
		s.logger.Error("closing the inbox's file", zap.String("path", s.path), zap.Error(err))
	}
	forget(s.path)
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

// prefill writes zeros behind the end of what is used, so that the next commits find the disk's blocks allotted: syncing
// new ones takes longer. It is done for callers who come one by one; where many share a commit, there is less to gain.
// Nobody else writes meanwhile, and bbolt never makes a file shorter.
func (s *Store) prefill() {
	const step = 1 << 20
	end := int64(0)
	if err := s.db.View(func(tx *bbolt.Tx) error {
		end = tx.Size()
		return nil
	}); err != nil || end+step/4 <= s.filled {
		return
	}
	free, known := freeSpace(s.path)
	if !known || free < step+2*s.options.reserve {
		return
	}
	// If it fails, the next commits take what they need themselves. It is never written by path: another file may be there.
	_, _ = s.handle.WriteAt(make([]byte, step), end)
	s.filled = end + step
}

// wait is how long from now until the time, by the store's clock.
func (s *Store) wait(until time.Time) time.Duration { return until.Sub(s.options.now()) }
