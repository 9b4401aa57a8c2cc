package natsstore

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
)

// What a stream takes of headers, and what settling a message may add to them.
const (
	maxHeader = 64_000
	reserve   = 6_000
)

// putsAtOnce is how many put at the same time while deliveries lag behind.
const putsAtOnce = 4

// Put stores a message. That there is no message of its id, or the dead one that was looked at, is a condition of the publishing
// itself: of all who put one id at once, through whatever gateway, one stores it.
func (s *store) Put(ctx context.Context, message *inbox.Message) (inbox.Receipt, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if err := s.usable(); err != nil {
		return 0, err
	}
	m := s.names.message(stateNew, digestOf(message.ID), identity(message), record{}, message.Request)
	if header := headerSize(m.Header) + reserve; header > maxHeader || int64(header+len(m.Data)) > s.connection.MaxPayload() {
		return 0, fmt.Errorf("%w: the server's max_payload is %d bytes", inbox.ErrTooLarge, s.connection.MaxPayload())
	}
	bounded, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if s.lags() { // else the deliveries, of which there are few at once, would get one answer of the server in many
		select {
		case s.turns <- struct{}{}:
			defer func() { <-s.turns }()
		case <-bounded.Done():
		}
	}
	receipt, err := s.put(bounded, m)
	switch {
	case err == nil, errors.Is(err, inbox.ErrFull), errors.Is(err, inbox.ErrTooLarge):
		return receipt, err
	case ctx.Err() != nil:
		return 0, ctx.Err()
	case s.ctx.Err() != nil:
		return 0, inbox.ErrClosed
	}
	return 0, fmt.Errorf("not stored in time: %s", s.config.Redact(err))
}

// lags reports whether messages wait for callers of Lease, and not the other way round.
func (s *store) lags() bool {
	return s.want.Load() == 0 && time.Since(time.Unix(0, s.handedAt.Load())) < time.Second
}

func (s *store) put(ctx context.Context, m *nats.Msg) (inbox.Receipt, error) {
	digest := m.Subject[len(s.names.of(stateNew, "")):]
	receipt, from, need := inbox.Stored, uint64(0), size(m)
	// decide says by the last message of the id whether this one is to be stored.
	decide := func(last *kept) bool {
		receipt, from, need = inbox.Stored, last.seq(), size(m)
		switch {
		case last == nil:
			delete(m.Header, headerReplaces)
		case last.state == stateDead:
			receipt, need = inbox.Revived, need-last.size()
			m.Header.Set(headerReplaces, strconv.FormatUint(from, 10))
		default:
			receipt = inbox.Repeated
		}
		return receipt != inbox.Repeated
	}
	for pause, looked := firstPause, false; ; pause = min(2*pause, longestPause) {
		full, err := s.full(ctx, need)
		var last *kept
		switch {
		case err == nil && full && !looked: // nothing gives way to what is there already
			if last, err = s.lastOf(ctx, digest); err == nil {
				looked = true
				if !decide(last) {
					return receipt, nil
				}
				continue
			}
		case err == nil && full:
			err = s.makeRoom(ctx, need)
		}
		if err == nil {
			_, last, err = s.moveMessage(ctx, m, from)
		}
		switch {
		case err == nil:
			s.count(need)
			if from != 0 {
				s.drop(s.names.messages, from)
			}
			return receipt, nil
		case errors.Is(err, inbox.ErrFull), errors.Is(err, inbox.ErrTooLarge):
			return 0, err
		case errors.Is(err, errMoved) && !decide(last):
			return receipt, nil
		}
		if !s.sleep(ctx, pause) {
			return 0, err
		}
	}
}

// full reports whether there is no room for so many bytes. What other gateways have put in the last second may be missing.
func (s *store) full(ctx context.Context, need int64) (bool, error) {
	s.mu.Lock()
	limit, used, age := s.settings.MaxBytes, s.used, time.Since(s.usedAt)
	s.mu.Unlock()
	switch {
	case limit == 0:
		return false, nil
	case age < time.Second && used+need <= limit:
		return false, nil
	}
	_, used, err := s.usage(ctx)
	return used+need > limit, err
}

// usage is what the stream holds.
func (s *store) usage(ctx context.Context) (messages, bytes int64, err error) {
	err = s.ask(ctx, func(ctx context.Context) error {
		info, err := s.messages.Info(ctx)
		if err == nil {
			messages, bytes = int64(info.State.Msgs), int64(info.State.Bytes)
		}
		return err
	})
	if err == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.used, s.usedAt = bytes, time.Now()
	}
	return messages, bytes, err
}

func (s *store) count(bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used += bytes
}

// makeRoom drops requests of delivered messages, the oldest first, until there is room for so many bytes.
func (s *store) makeRoom(ctx context.Context, need int64) error {
	select {
	case s.room <- struct{}{}:
		defer func() { <-s.room }()
	case <-ctx.Done():
		return ctx.Err()
	}
	for {
		full, err := s.full(ctx, need)
		if err != nil || !full {
			return err
		}
		oldest, err := s.first(ctx, stateDelivered)
		if err != nil {
			return err
		}
		if oldest == nil {
			return inbox.ErrFull
		}
		if err := oldest.decode(); err != nil {
			return err
		}
		s.mu.Lock()
		remember := s.settings.Remember
		s.mu.Unlock()
		m := s.names.message(stateDropped, oldest.digest, oldest.header, oldest.record, nil)
		m.Header.Set(headerTTL, ttl(min(oldest.record.Settled.Add(remember).Sub(s.clock()), remember)))
		if _, _, err := s.moveMessage(ctx, m, oldest.Sequence); err != nil && !errors.Is(err, errMoved) {
			return err
		}
		if err := s.remove(ctx, oldest.Sequence); err != nil && !errors.Is(err, inbox.ErrNotFound) {
			return err
		}
		s.count(size(m) - oldest.size())
	}
}
