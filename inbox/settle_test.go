package inbox

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-chinaums/caddy-chinaums/internal/ratelog"
)

// deafStore cannot store what became of a message, but takes leases back.
type deafStore struct {
	Store

	mu       sync.Mutex
	err      error
	tries    int
	tried    func(tries int)
	outcomes []Outcome // that it took
}

func (s *deafStore) Settle(_ context.Context, _ *Message, outcome Outcome) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if outcome.Released || s.err == nil {
		s.outcomes = append(s.outcomes, outcome)
		return nil
	}
	s.tries++
	if s.tried != nil {
		s.tried(s.tries)
	}
	return s.err
}

// settling is a delivery that has to settle in store, and its log.
func settling(store Store) (*delivery, *observer.ObservedLogs) {
	core, logs := observer.New(zapcore.DebugLevel)
	d := &delivery{notes: ratelog.New(10), logger: zap.New(core), now: time.Now, store: &shared{Store: store}}
	d.running, d.cut = context.WithCancel(context.Background())
	return d, logs
}

// TestLeaseIsGivenBack: what cannot be settled is not kept from being delivered.
func TestLeaseIsGivenBack(t *testing.T) {
	for _, outcome := range []Outcome{{Result: Pending, Delay: time.Second}, {Result: Dead}, {Result: Delivered}} {
		t.Run(string(outcome.Result)+" when the gateway stops", func(t *testing.T) {
			store := &deafStore{err: errors.New("disk full")}
			d, logs := settling(store)
			d.cut()
			if d.settle(new(Message), outcome) {
				t.Error("settled")
			}
			if len(store.outcomes) != 1 || !store.outcomes[0].Released {
				t.Errorf("the store took %+v, want the lease", store.outcomes)
			}
			if logs.FilterMessageSnippet("it will be delivered again").Len() != 1 {
				t.Errorf("log %v", logs.All())
			}
		})
	}
	t.Run("when it takes too long", func(t *testing.T) {
		store := &deafStore{err: errors.New("disk full")}
		d, _ := settling(store)
		defer d.cut()
		d.schedule.timeout = -settlePatience
		if d.settle(new(Message), Outcome{Result: Dead}) {
			t.Error("settled")
		}
		if len(store.outcomes) != 1 || !store.outcomes[0].Released {
			t.Errorf("the store took %+v, want the lease", store.outcomes)
		}
	})
}

// TestTakenIsKept: a message that the app has is not delivered twice because the store was away for long.
func TestTakenIsKept(t *testing.T) {
	store := &deafStore{err: errors.New("disk full")}
	d, _ := settling(store)
	d.schedule.timeout = -settlePatience
	store.tried = func(tries int) {
		if len(store.outcomes) > 0 {
			t.Errorf("the lease was given back before try %d", tries)
		}
		if tries == 3 {
			d.cut()
		}
	}
	if d.settle(new(Message), Outcome{Result: Delivered}) {
		t.Error("settled")
	}
	if store.tries != 3 || len(store.outcomes) != 1 || !store.outcomes[0].Released {
		t.Errorf("%d tries; the store took %+v", store.tries, store.outcomes)
	}
}

// TestUnsettledIsLoggedAtTimes: many messages that cannot be settled flood no log.
func TestUnsettledIsLoggedAtTimes(t *testing.T) {
	d, logs := settling(&deafStore{err: errors.New("disk full")})
	d.cut()
	for range 50 {
		d.settle(&Message{ID: strings.Repeat("x", 10)}, Outcome{Result: Dead})
	}
	if n := logs.FilterMessageSnippet("it will be delivered again").Len(); n != 10 {
		t.Errorf("%d lines in a minute, want 10", n)
	}
}
