package natsstore

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
	"github.com/caddy-chinaums/caddy-chinaums/inbox/storetest"
	"github.com/caddy-chinaums/caddy-chinaums/internal/natstest"
)

// TestStore holds the store to the contract, with one server. Each test has an inbox of its own.
func TestStore(t *testing.T) {
	t.Parallel()
	conform(t, natstest.Run(t, ""), 1)
}

func conform(t *testing.T, s *natstest.Server, replicas int) {
	t.Helper()
	var number atomic.Int64
	storetest.Run(t, func(t *testing.T) *storetest.Backend {
		name := fmt.Sprintf("test.%d", number.Add(1))
		n := provider(t, func(n *Nats) { n.Replicas = replicas }, s.URL())
		return &storetest.Backend{
			Open: func(t *testing.T, settings inbox.Settings) inbox.Store { return openStore(t, n, name, settings) },
			Abandon: func(_ *testing.T, opened inbox.Store) {
				opened.(*store).abandon()
			},
			Await: func(t *testing.T, opened inbox.Store) {
				t.Helper()
				removed(t, opened.(*store))
			},
			Moves:    true,
			TooLarge: 1 << 20,
		}
	})
}

// abandon leaves the store as a process does that is killed: its connection ends, and nothing is said any more.
func (s *store) abandon() {
	s.connection.Close()
	s.cancel()
	s.work.Wait()
}

// removed waits until what was moved is gone from its old places, and the consumers have noticed that.
func removed(t *testing.T, s *store) {
	t.Helper()
	natstest.Eventually(t, "every message is at one place", func() bool {
		if s.ctx.Err() != nil {
			return true
		}
		info, err := s.messages.Info(t.Context(), jetstream.WithSubjectFilter(s.names.of("*", "*")))
		if err != nil {
			return false
		}
		digests := map[string]bool{}
		for subject := range info.State.Subjects {
			digests[subject[strings.LastIndex(subject, ".")+1:]] = true
		}
		stats, err := s.counts(t.Context())
		number := stats.Pending + stats.Delivered + stats.Dead
		return err == nil && len(digests) == len(info.State.Subjects) && number == int64(len(digests))
	})
}
