package boltstore

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
)

const (
	maxOperations = 1024      // of one commit, so that nobody waits for the others for long
	maxBatchBytes = 16 << 20  // of its puts, unless one has more
	maxQueued     = 256 << 20 // bytes that wait to be written: more only gather where the disk hangs
)

var (
	errBehind      = errors.New("the disk does not keep up: too much waits to be written")
	errUnavailable = errors.New("the store's file is not open since a write to it failed") // the next commit opens it again
)

// turn is how long puts wait for deliveries. The two take turns where messages wait that were never tried: each delivery that
// is settled lets one put by. Else the deliveries of a few workers, each of which waits for its commit, would fall behind the
// puts of many senders. Where nothing is settled for so long, the app is what is slow, and puts wait for nobody.
const turn = 5 * time.Millisecond

// operation is what one caller wants written.
type operation struct {
	// apply changes what is to be committed, and returns the answer to the caller if the commit succeeds. It runs at most
	// once.
	apply func(b *batch) error

	size int // of what a Put writes, about; 0: it is no Put
	err  error
	done chan struct{} // nil: nobody waits
}

// writer is the queue of what is to be written. While a commit is under way the next one's operations gather.
type writer struct {
	moving bool // deliveries are being settled; it is the goroutine's own, as the next one is
	by     int  // how many puts may go before another delivery is settled

	lock      sync.Mutex   // guards the rest
	settles   []*operation // and whatever else is no Put: done first
	puts      []*operation
	size      int  // of the puts
	stopped   bool // nothing more comes
	abandoned bool // what is queued is not written

	kick  signal // there is something to do
	ended chan struct{}
}

// signal tells one who waits that something has changed.
type signal chan struct{}

func (s signal) give() {
	select {
	case s <- struct{}{}:
	default:
	}
}

func (s *Store) submit(o *operation) error {
	w := &s.writer
	w.lock.Lock()
	defer w.lock.Unlock()
	switch {
	case w.stopped:
		return inbox.ErrClosed
	case o.size == 0:
		w.settles = append(w.settles, o)
	case w.size > 0 && w.size+o.size > s.options.maxQueued:
		return errBehind
	default:
		w.puts = append(w.puts, o)
		w.size += o.size
	}
	w.kick.give()
	return nil
}

// do queues an operation and waits until it is committed. If ctx ends before the operation has begun, it never begins.
func (s *Store) do(ctx context.Context, o *operation) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	o.done = make(chan struct{})
	if err := s.submit(o); err != nil {
		return err
	}
	select {
	case <-o.done:
		return o.err
	case <-ctx.Done():
		s.writer.withdraw(o)
		return ctx.Err()
	}
}

// ask does what do does, and returns an answer.
func ask[T any](ctx context.Context, s *Store, size int, apply func(b *batch) (T, error)) (T, error) {
	var answer, none T
	if err := s.do(ctx, &operation{size: size, apply: func(b *batch) (err error) {
		answer, err = apply(b)
		return err
	}}); err != nil {
		return none, err // the answer may be written meanwhile
	}
	return answer, nil
}

// withdraw lets go of an operation that has not begun, and of what it would have written.
func (w *writer) withdraw(o *operation) {
	w.lock.Lock()
	defer w.lock.Unlock()
	for _, queue := range []*[]*operation{&w.settles, &w.puts} {
		if at := slices.Index(*queue, o); at >= 0 {
			*queue = slices.Delete(*queue, at, at+1)
			w.size -= o.size
		}
	}
}

func (s *Store) write() {
	defer close(s.writer.ended)
	for last := 0; ; {
		s.writer.gather(last)
		operations := s.next()
		if last = len(operations); last == 0 {
			return
		}
		s.commit(operations)
	}
}

// gather lets those run who were answered by a commit that served many, and are about to come again: so that they share
// the next commit rather than every other one. A lone caller is not waited for.
func (w *writer) gather(last int) {
	for range 2 * last {
		w.lock.Lock()
		gathered := len(w.settles) + len(w.puts)
		w.lock.Unlock()
		if last == 1 || gathered >= last {
			return
		}
		runtime.Gosched()
	}
}

// next waits for what the next commit does, and returns nothing when nothing more comes.
func (s *Store) next() []*operation {
	w := &s.writer
	var over <-chan time.Time // the turn of the deliveries
	for {
		s.lock.Lock()
		behind := s.queue.behind(s.counters.Last)
		s.lock.Unlock()
		w.lock.Lock()
		if w.abandoned {
			answer(slices.Concat(w.settles, w.puts), inbox.ErrClosed)
			w.settles, w.puts, w.size = nil, nil, 0
		}
		operations := w.take(behind && !w.stopped)
		stopped, held := w.stopped, len(w.puts) > 0
		w.lock.Unlock()
		if len(operations) > 0 || stopped {
			return operations
		}
		if held && over == nil {
			over = time.After(s.options.turn)
		}
		select {
		case <-w.kick:
		case <-over:
			w.moving = false
		}
	}
}

// take takes what the next commit does: all that is settled, and of the puts those whose turn it is.
func (w *writer) take(behind bool) (operations []*operation) {
	if n := min(len(w.settles), maxOperations); n > 0 {
		w.moving, w.by = true, n
		operations, w.settles = slices.Clone(w.settles[:n]), slices.Delete(w.settles, 0, n)
	}
	limit := maxOperations
	if behind && w.moving {
		limit = w.by
	}
	n, size := 0, 0
	for n < min(len(w.puts), limit) && (n == 0 || size+w.puts[n].size <= maxBatchBytes) {
		size += w.puts[n].size
		n++
	}
	operations = append(operations, w.puts[:n]...)
	w.puts, w.size, w.by = slices.Delete(w.puts, 0, n), w.size-size, max(w.by-n, 0)
	return operations
}

func answer(operations []*operation, err error) {
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
	if s.db == nil { // it is written by this goroutine, and by close, which waits for it
		if err := s.openFile(); err != nil {
			answer(operations, fmt.Errorf("%w: %w", errUnavailable, err))
			return
		}
		s.logger.Info("the inbox's file is open again", zap.String("path", s.path))
	}
	b := &batch{store: s, now: s.options.now()}
	s.lock.Lock()
	b.settings, b.counters = s.settings, s.counters
	b.counters.Low = max(b.counters.Low, min(s.queue.lowest(), s.counters.Last+1))
	s.lock.Unlock()
	err := s.inPlace()
	if err == nil {
		err = guard(func() error { return s.transact(b, operations) })
	}
	if err != nil {
		err = fmt.Errorf("writing to the inbox's file: %w", err)
		s.logger.Error("the inbox's file is opened again", zap.String("path", s.path), zap.Error(err))
		s.shut() // what a failed sync has left in memory is not to be trusted
		if err := s.openFile(); err != nil {
			s.logger.Error("opening the inbox's file again failed; the next write tries again", zap.String("path", s.path), zap.Error(err))
		}
	} else {
		s.watchFreelist()
	}
	s.lock.Lock()
	if err == nil && b.changed {
		s.counters = b.counters
		for _, held := range b.settled {
			if s.queue.holds(held) {
				delete(s.queue.leases, held.seq)
			}
		}
	}
	for _, held := range b.reserved {
		s.queue.giveBack(held) // of a message that is gone, nothing is found
	}
	s.queue.changed.give()
	s.lock.Unlock()
	answer(operations, err)
}

// transact applies the operations and commits. Nothing is committed if nothing was changed.
func (s *Store) transact(b *batch, operations []*operation) (err error) {
	tx, err := s.db.Begin(true)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // after a commit, or one that failed, there is nothing to roll back
	b.views = &views{tx: tx}
	b.room = s.room(operations)
	for _, o := range operations {
		if o.err = o.apply(b); errors.Is(o.err, errDamaged) {
			// The caller learns it, and the others are not to suffer from it.
			s.logger.Error("a message of the inbox is damaged", zap.String("path", s.path), zap.Error(o.err))
		}
		if b.err != nil {
			return b.err
		}
	}
	if err := b.expire(max(64, 2*len(operations))); err != nil || !b.changed {
		return err
	}
	if err := b.bucket(inMeta).Put(keyCounters, b.counters.encode()); err != nil {
		return err
	}
	return tx.Commit()
}

// guard makes an error of a panic: bbolt panics where the file is damaged, and so does reading a part of it that is gone.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the file is damaged, or its end is missing: %v", p)
		}
	}()
	return f()
}

// shut closes the file, which is open.
func (s *Store) shut() {
	s.file.Lock()
	db := s.db
	s.db = nil
	s.file.Unlock()
	if err := guard(db.Close); err != nil {
		s.logger.Error("closing the inbox's file", zap.String("path", s.path), zap.Error(err))
	}
	forget(s.path)
}

// room says why nothing may be added, if the disk is nearly full: then what is left is for settling what there is.
func (s *Store) room(operations []*operation) error {
	need := uint64(0)
	for _, o := range operations {
		need += uint64(o.size + o.size/2)
	}
	free, known := freeSpace(s.path)
	inFile := uint64(s.db.Stats().FreePageN) * uint64(s.db.Info().PageSize)
	if need == 0 || !known || free > need+s.options.reserve || inFile > 2*need+1<<20 {
		return nil
	}
	return fmt.Errorf("the disk of the inbox's file is nearly full: %w", syscall.ENOSPC)
}

// watchFreelist lets the list of free pages be written with every commit, so that opening the file takes no time. Where it
// is long, that would cost more than everything else: then it is written only when the store is closed, and opening the
// file after a crash has to look at every page.
func (s *Store) watchFreelist() {
	switch size := s.db.Stats().FreelistInuse; {
	case size > 16<<10:
		s.db.NoFreelistSync = true
	case size < 8<<10:
		s.db.NoFreelistSync = false
	}
}
