package natsstore

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
)

// wakeJanitor tells it that the settings have changed.
func (s *store) wakeJanitor() { signal(s.janitor) }

// clean removes messages that were delivered long ago, in the order of their delivery. It waits for the first of them to
// become old enough; where nothing was delivered, for something to be. Several gateways do it side by side: what one has
// removed is gone for the others.
func (s *store) clean() {
	select {
	case <-s.ready:
	case <-s.ctx.Done():
		return
	}
	for {
		wait, err := s.cleanOnce(s.ctx)
		if s.ctx.Err() != nil {
			return
		}
		if err != nil {
			s.logger.Debug("inbox could not remove what is old", zapError(s.config, err))
			wait = 30 * time.Second
		}
		// What is delivered while something older is there is of no interest yet.
		var delivered <-chan struct{}
		if wait == 0 {
			delivered = s.delivered
		}
		if !s.await(wait, s.janitor, delivered) {
			return
		}
	}
}

// cleanOnce removes what is old, and returns how long it is until the next is; 0 where there is none.
func (s *store) cleanOnce(ctx context.Context) (time.Duration, error) {
	if time.Now().After(s.afresh) { // what could not be read was the server's trouble, perhaps
		s.passed, s.afresh = 0, time.Now().Add(time.Hour)
	}
	for {
		first, err := s.getNext(ctx, s.names.delivered, everything, s.passed+1)
		if errors.Is(err, inbox.ErrNotFound) {
			return 0, nil
		}
		if err != nil {
			return 0, err
		}
		r, err := parseRecord(first.Data)
		if err == nil && !s.forgotten(r) {
			s.mu.Lock()
			left := r.Time.Add(s.settings.Remember).Sub(s.clock())
			s.mu.Unlock()
			// Not at the moment: there are more soon after it, and other gateways.
			return min(max(left, 0)+time.Minute+rand.N(time.Minute), time.Hour), nil
		}
		done, begun := false, time.Now()
		if err == nil {
			done, err = s.removeDelivered(ctx, s.names.referred(first.Subject, first.header), r)
		}
		switch {
		case errors.Is(err, errUnreadable): // it is kept, and keeps nothing else
			s.logger.Warn("inbox cannot remove what is old; it passes by", zap.String("record", first.Subject), zapError(s.config, err))
			s.passed = first.Sequence
		case err != nil || !done:
			return time.Minute, err
		}
		// Servers before 2.10.20 go through all that is stored for it, and nothing is stored meanwhile: others have their turn.
		if took := time.Since(begun); took > 100*time.Millisecond && !s.sleep(ctx, 10*took) {
			return 0, ctx.Err()
		}
	}
}

// removeDelivered removes a message, and then what is recorded of it; false where somebody replaces it at this moment. Of a
// cluster it removes by subjects: a seq may be another message's on another server.
//
// The claim ends by itself, also after an error: what was asked for may be under way still.
func (s *store) removeDelivered(ctx context.Context, of reference, r *record) (bool, error) {
	kept, err := s.find(ctx, of)
	if err != nil && !errors.Is(err, inbox.ErrNotFound) {
		return false, err
	}
	if err == nil {
		// Who replaces it claims it as well: what is removed under the subject is this one.
		claim := s.names.of("claim", of.key)
		if ok, err := s.claim(ctx, claim); err != nil || !ok {
			return false, err
		}
		if kept, err = s.find(ctx, of); err == nil {
			err = s.removeStored(ctx, kept)
		}
		if err != nil && !errors.Is(err, inbox.ErrNotFound) {
			return false, err
		}
	}
	// One holder may have given it up while another delivered it.
	if err := s.purge(ctx, s.names.dead, s.names.of("dead", of.key)); err != nil {
		return false, err
	}
	if err := s.purge(ctx, s.names.delivered, s.names.of("delivered", of.key)); err != nil {
		return false, err
	}
	if r.Attempts > 0 || r.Entry != "" {
		return true, s.purge(ctx, s.names.retry, s.names.retrying(of.key))
	}
	return true, nil
}

// removeStored removes a message. When that arrives late, nothing goes that was stored later.
func (s *store) removeStored(ctx context.Context, kept *raw) error {
	bounded, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	stream, err := s.js.Stream(bounded, s.names.messages)
	if err != nil {
		return err
	}
	if info := stream.CachedInfo(); info.Config.Replicas > 1 {
		return s.removeReplicated(ctx, kept, max(info.State.LastSeq, kept.Sequence))
	}
	return s.ask(ctx, "STREAM.MSG.DELETE."+s.names.messages, map[string]any{"seq": kept.Sequence, "no_erase": true})
}

// removeReplicated removes a message by its subject. Up to its own seq would be less than that on a server of an old cluster
// where it has a higher one.
//
// The wildcard matches nothing else. Server 2.9, when it removes what matches a consumer's filter, makes the consumer forget all
// that it has in hand, and all that is stored; with a wildcard where the filter has none, it does not take it for a match.
func (s *store) removeReplicated(ctx context.Context, kept *raw, upto uint64) error {
	_, rest, _ := strings.Cut(kept.Subject, ".")
	_, rest, _ = strings.Cut(rest, ".")
	return s.ask(ctx, "STREAM.PURGE."+s.names.messages, map[string]any{"filter": "inbox.*." + rest, "seq": upto + 1})
}
