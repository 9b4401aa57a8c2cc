// Package ratelog limits how often one kind of event is logged, so that a flood of false requests does not become a flood
// of log lines. It knows neither Caddy nor a platform.
package ratelog

import (
	"sync"
	"time"

	"go.uber.org/zap"
)

// Limiter lets a limited number of events a minute through for each reason, and counts the others. Reasons must be from a
// bounded set of constants, because the limiter never forgets one. Make a Limiter with New; the zero value is not usable.
type Limiter struct {
	limit int
	now   func() time.Time

	mu      sync.Mutex
	reasons map[string]*window
}

type window struct {
	start      time.Time
	count      int
	suppressed int
}

// New returns a Limiter that lets limit events a minute through for each reason.
func New(limit int) *Limiter {
	return &Limiter{limit: limit, now: time.Now, reasons: make(map[string]*window)}
}

// Allow reports whether an event with this reason may be logged now. suppressed is the number of events that were not
// logged since the last one that was; the caller writes it into the log line.
func (l *Limiter) Allow(reason string) (suppressed int, ok bool) {
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.reasons[reason]
	if w == nil {
		w = &window{start: now}
		l.reasons[reason] = w
	}
	if now.Sub(w.start) >= time.Minute || now.Before(w.start) {
		w.start, w.count = now, 0
	}
	if w.count >= l.limit {
		w.suppressed++
		return 0, false
	}
	w.count++
	suppressed, w.suppressed = w.suppressed, 0
	return suppressed, true
}

// Log logs an event if it may be logged now, with how many were suppressed since the last one that was.
func (l *Limiter) Log(reason string, log func(text string, fields ...zap.Field), text string, fields ...zap.Field) {
	if suppressed, ok := l.Allow(reason); ok {
		log(text, append(fields, zap.Int("suppressed", suppressed))...)
	}
}
