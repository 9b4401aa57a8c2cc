package natsstore

import (
	"context"
	"errors"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
)

// Delete removes a message. That one is being delivered is known of this process's deliveries only.
func (s *store) Delete(ctx context.Context, seq uint64, force bool) error {
	return s.delete(ctx, seq, func(m *inbox.Message) error {
		if m.State == inbox.Pending && !force {
			return inbox.ErrPending
		}
		return nil
	})
}

func (s *store) delete(ctx context.Context, seq uint64, allow func(m *inbox.Message) error) error {
	if err := s.usable(); err != nil {
		return err
	}
	kept, err := s.getSeq(ctx, s.names.messages, seq)
	if err != nil {
		return err
	}
	m, err := s.read(ctx, kept)
	if err != nil {
		return err
	}
	of := referenceOf(kept.Subject, kept.Sequence, kept.header)
	s.mu.Lock()
	held := s.held[of.key]
	s.mu.Unlock()
	if held != nil && time.Now().Before(held.until) {
		return inbox.ErrLeased
	}
	if err := allow(m); err != nil {
		return err
	}
	s.removes.Store(true)
	done, err := s.removeDelivered(ctx, of, &record{Attempts: 1})
	if err == nil && !done {
		err = errors.New("another request with this id is being stored")
	}
	return err
}

// DeleteDead removes dead messages, one after the other.
func (s *store) DeleteDead(ctx context.Context, before time.Time) (int, error) {
	old := func(m *inbox.Message) bool {
		return m.State == inbox.Dead && (before.IsZero() || m.Settled.Before(before))
	}
	for removed, after := 0, uint64(0); ; {
		page, err := s.List(ctx, inbox.Query{State: inbox.Dead, After: after, Limit: 256})
		if err != nil || len(page) == 0 {
			return removed, err
		}
		for _, m := range page {
			after = m.Seq
			err := s.delete(ctx, m.Seq, func(now *inbox.Message) error {
				if !old(now) {
					return inbox.ErrNotFound
				}
				return nil
			})
			switch {
			case err == nil:
				removed++
			case !errors.Is(err, inbox.ErrNotFound) && !errors.Is(err, inbox.ErrLeased):
				return removed, err
			}
		}
	}
}
