package watch

import "time"

// StartAs starts a watch as another process would, whose clock may be wrong.
func StartAs(instance string, store Store, ahead time.Duration, settings Settings, parts Parts) *Watch {
	return start(store, Clock{Now: func() time.Time { return time.Now().Add(ahead) }}, instance, settings, parts)
}

// Followed is how many rows are in memory.
func (w *Watch) Followed() int {
	w.index.mu.Lock()
	defer w.index.mu.Unlock()
	return len(w.index.items)
}

// StatsAlone are the stats, where whoever visits a row that is followed panics. The oldest doubtful one is no secret.
func (w *Watch) StatsAlone() Stats {
	w.index.mu.Lock()
	rows := w.index.items
	w.index.items = map[string]*item{"": nil}
	w.index.mu.Unlock()
	defer func() {
		w.index.mu.Lock()
		w.index.items = rows
		w.index.mu.Unlock()
	}()
	return w.Stats()
}

// Recount counts what is in memory, row by row.
func (w *Watch) Recount() Stats {
	s := Stats{States: map[State]int{}}
	w.index.mu.Lock()
	defer w.index.mu.Unlock()
	for _, i := range w.index.items {
		s.States[allStates[i.state]]++
		if at := time.Unix(int64(i.since), 0); i.since != 0 && (s.Oldest.IsZero() || at.Before(s.Oldest)) {
			s.Oldest = at
		}
	}
	return s
}

// Guard is what is said first about a call.
func (o *Order) Guard(call Call) *Refusal {
	for _, first := range o.guard(call, time.Now().UnixMilli()) {
		return first
	}
	return nil
}

// RemoveOld removes what has not changed since a time.
func (w *Watch) RemoveOld(before time.Time) (int, error) {
	return w.removeOld(w.ctx, before.UnixMilli())
}

// The tables of the states.
var (
	OrderStates = orderStates
	CallStates  = callStates
)

// Facts that only the watch itself adds.
const (
	FactSent   = isSent
	FactLost   = isLost
	FactUnseen = isUnseen
	FactStuck  = isStuck
)

// ByTime are the facts that come by time alone.
var ByTime = []Fact{isLost, isUnseen, isStuck}

// Encoded is what of an order is written.
func (o *Order) Encoded() ([]byte, error) { return o.encode() }

// Overdue is how many changes wait for the store.
func (w *Watch) Overdue() int {
	w.overdue.mu.Lock()
	defer w.overdue.mu.Unlock()
	return len(w.overdue.list)
}
