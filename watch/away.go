package watch

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// What becomes of changes while the store is away: nobody waits for it in vain twice, and what can be is written down later.

// breaker keeps others from waiting for a store that somebody has waited for in vain a moment ago.
type breaker struct{ until atomic.Pointer[time.Time] }

const (
	longWait   = 500 * time.Millisecond // a store that fails sooner is tried again by everybody
	breakPause = time.Second            // before one tries it again
)

var errAway = errors.New("the watch's store did not answer a moment ago")

// lets reports whether the store may be tried: after the pause by one at a time.
func (b *breaker) lets(now time.Time) bool {
	until := b.until.Load()
	if until == nil {
		return true
	}
	next := now.Add(storeTimeout + breakPause)
	return !now.Before(*until) && b.until.CompareAndSwap(until, &next)
}

// learn takes how a try has ended. A caller that has hung up says nothing about the store.
func (b *breaker) learn(err error, begun, now time.Time) {
	answered := err == nil || errors.Is(err, ErrConflict) || errors.Is(err, errFormat) || now.Sub(begun) < longWait
	switch {
	case errors.Is(err, context.Canceled):
	case !answered:
		until := now.Add(breakPause)
		b.until.Store(&until)
	case b.until.Load() != nil:
		b.until.Store(nil)
	}
}

// overdue are the changes that are to be made as soon as the store lets them.
type overdue struct {
	mu   sync.Mutex
	list []duty
	wake chan struct{}
}

type duty struct {
	merchant, number string
	flight           string // that it lands; empty: none
	edit             func(o *Order, now int64) bool
}

// maxOverdue bounds what waits for a store that is away. What is more is found again as calls without an outcome.
const maxOverdue = 100_000

func (w *Watch) later(merchant, number, flight string, edit func(o *Order, now int64) bool) {
	w.overdue.mu.Lock()
	full := len(w.overdue.list) >= maxOverdue
	if !full {
		w.overdue.list = append(w.overdue.list, duty{merchant, number, flight, edit})
	}
	w.overdue.mu.Unlock()
	if full {
		w.open.Delete(flight)
		w.count("unwritten", "overdue")
		return
	}
	w.overdue.signal()
}

// catchUp makes overdue changes, those of one order in their order. They gather for a moment, and share a commit: a call that
// is to be written down before it is sent does not wait behind each of them.
func (w *Watch) catchUp() {
	pause := gather
	for {
		select {
		case <-w.overdue.wake:
		case <-w.ctx.Done():
			w.makeOverdue()
			return
		}
		select {
		case <-w.clock.After(pause):
		case <-w.ctx.Done():
		}
		if pause = gather; w.makeOverdue() > 0 {
			pause = time.Second
			w.overdue.signal()
		}
	}
}

// long reports whether so much waits that a caller should make its own change at once.
func (d *overdue) long() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.list) >= 1024
}

func (d *overdue) signal() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// makeOverdue makes what it can, and returns how much is left.
func (w *Watch) makeOverdue() int {
	w.overdue.mu.Lock()
	list := w.overdue.list
	w.overdue.list = nil
	w.overdue.mu.Unlock()
	orders := map[string][]duty{}
	var keys []string
	for _, d := range list {
		key := rowKey(d.merchant, d.number)
		if orders[key] == nil {
			keys = append(keys, key)
		}
		orders[key] = append(orders[key], d)
	}
	var (
		left  []duty
		mu    sync.Mutex
		away  atomic.Bool
		group sync.WaitGroup
		slots = make(chan struct{}, 64) // what is written at once shares a commit
	)
	for _, key := range keys {
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			all := orders[key]
			ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
			defer cancel()
			if !away.Load() {
				_, err := w.change(ctx, all[0].merchant, all[0].number, func(o *Order, now int64) (changed bool) {
					for _, d := range all {
						changed = d.edit(o, now) || changed
					}
					return changed
				})
				damaged := errors.Is(err, errFormat) // no time mends it
				if damaged {
					w.config.Load().Logger.Error("the watch cannot read a row", zap.String("key", clip(key)), zap.Error(err))
				}
				if err == nil || damaged {
					for _, d := range all {
						w.open.Delete(d.flight)
					}
					return
				}
				away.Store(!errors.Is(err, ErrConflict))
			}
			mu.Lock()
			left = append(left, all...)
			mu.Unlock()
		})
	}
	group.Wait()
	if len(left) == 0 {
		return 0
	}
	w.overdue.mu.Lock()
	defer w.overdue.mu.Unlock()
	w.overdue.list = append(left, w.overdue.list...)
	return len(left)
}
