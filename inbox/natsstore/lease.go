package natsstore

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
)

// lease is what a leased message's Lease is.
type lease struct {
	mu     sync.Mutex
	of     *kept
	handed jetstream.Msg
	claim  uint64    // its seq in the stream of claims
	step   string    // of all tries to settle it
	until  time.Time // when it ends
	done   bool
}

// Lease waits for a message.
func (s *store) Lease(ctx context.Context) (*inbox.Message, error) {
	for {
		handed, err := s.next(ctx)
		if err != nil {
			return nil, err
		}
		if m, err := s.take(handed); m != nil {
			return m, nil
		} else if err != nil {
			if s.ctx.Err() == nil {
				s.logger.Warn("inbox could not take a message; it comes again", s.config.Error(err))
			}
			s.putBack(handed, time.Second)
		}
	}
}

func (s *store) next(ctx context.Context) (jetstream.Msg, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if s.ctx.Err() != nil {
		return nil, inbox.ErrClosed
	}
	s.want.Add(1)
	defer s.want.Add(-1)
	for _, wanted := range s.wanted {
		signal(wanted)
	}
	select {
	case handed := <-s.handed:
		s.handedAt.Store(time.Now().UnixNano())
		return handed, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-s.ctx.Done():
		return nil, inbox.ErrClosed
	}
}

// pull asks one consumer for as many messages as callers wait for, and hands them on. Where they soon come for more, it asks for
// more than that.
func (s *store) pull(i int) {
	for failures, ahead := time.Duration(0), 0; s.ctx.Err() == nil; {
		want := int(s.want.Load())
		if want == 0 || !s.isReady() {
			select {
			case <-s.wanted[i]:
				select {
				case <-s.ready:
				case <-s.ctx.Done():
				}
			case <-s.ctx.Done():
			}
			continue
		}
		taken, err := s.fetch(s.consumers[i], min(want+ahead, 256))
		if ahead = min(2*ahead+1, 32); err != nil || !taken {
			ahead = 0
		}
		if err == nil || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) {
			failures = 0
			continue
		}
		s.logger.Debug("inbox could not ask for messages", s.config.Error(err))
		s.connection.Heard(s.ctx, err)
		if failures++; failures > 1 { // perhaps the consumer is gone
			signal(s.stir)
		}
		s.sleep(s.ctx, min(failures*100*time.Millisecond, 2*time.Second))
	}
}

// fetch asks once, and says whether callers have taken everything that came. The server answers when there are messages, or after
// a while that there are none. That another server has become the leader, and knows nothing of the question, is known by the
// heartbeats.
func (s *store) fetch(consumer jetstream.Consumer, number int) (taken bool, err error) {
	ctx, cancel := context.WithTimeout(s.ctx, pullTime)
	defer cancel()
	batch, err := consumer.Fetch(number, jetstream.FetchContext(ctx), jetstream.FetchHeartbeat(heartbeat))
	if err != nil {
		return false, err
	}
	patience := linger
	for handed := range batch.Messages() {
		select {
		case s.handed <- handed:
			patience = linger
		case <-time.After(patience): // nor is what comes with it kept for long
			patience = firstPause
			s.putBack(handed, 0)
		case <-s.ctx.Done():
			s.putBack(handed, 0)
		}
	}
	return patience == linger, batch.Error()
}

// take leases what a server has handed out; nil where it is not to be delivered now.
//
// That nobody else has it is not the consumer's word: a new leader hands out again what the old one has, before a lease has run
// out. So a delivery is claimed, in a stream whose word has a quorum. What may have been settled so long ago that the claim to it
// has ended is looked up besides: old messages, and all that is handed out again. That comes last: a server that was frozen while
// it led hands out what it knew then, and would say so; until the claim has got its quorum, it mostly has heard of its successor.
func (s *store) take(handed jetstream.Msg) (*inbox.Message, error) {
	ctx, cancel := context.WithTimeout(s.ctx, 2*storeTimeout)
	defer cancel()
	meta, err := handed.Metadata()
	if err != nil {
		return nil, err
	}
	k := newKept(handed.Subject(), meta.Sequence.Stream, handed.Headers(), handed.Data())
	if err := k.decode(); err != nil {
		s.logger.Error("inbox found a message that is none", zap.Error(err), zap.String("stream", s.names.messages))
		s.putBack(handed, time.Hour)
		return nil, nil
	}
	if left := s.left(k.record); left > 0 {
		s.putBack(handed, left)
		return nil, nil
	}
	wait, begun := time.Duration(s.ackWait.Load()), time.Now()
	claim, err := s.claim(ctx, k)
	if err == nil && claim == 0 {
		s.putBack(handed, min(time.Second, wait))
	}
	if err != nil || claim == 0 {
		return nil, err
	}
	if meta.NumDelivered > 1 || time.Since(meta.Timestamp).Abs() > wait/2 {
		last, err := s.lastOf(ctx, k.digest)
		if err != nil || last.seq() != k.Sequence {
			s.drop(s.names.claims, claim)
		}
		switch {
		case err != nil:
			return nil, err
		case last.seq() > k.Sequence: // it was settled, and is still to be removed
			s.drop(s.names.messages, k.Sequence)
			return nil, nil
		case last.seq() < k.Sequence: // it was deleted; or the server knows less than it has handed out
			s.putBack(handed, time.Second)
			return nil, nil
		}
	}
	if replaced, err := strconv.ParseUint(k.header.Get(headerReplaces), 10, 64); err == nil {
		s.drop(s.names.messages, replaced) // whoever has replaced it may have ended before
	}
	k.message.Request = bytes.Clone(k.Data)
	k.message.Lease = &lease{of: k, handed: handed, claim: claim, step: rand.Text(), until: begun.Add(wait)}
	return k.message, nil
}

// left is how long a message has still to wait. What is due later than the delay it was given, counted from now, is due: a
// clock was set back since.
func (s *store) left(r record) time.Duration {
	if r.Due.IsZero() {
		return 0
	}
	left := r.Due.Sub(s.clock())
	if left > r.Delay {
		return 0
	}
	return left
}

// putBack gives back what is not delivered. The server's word is not waited for: what is lost comes again after the lease.
func (s *store) putBack(handed jetstream.Msg, delay time.Duration) {
	var err error
	if delay > 0 {
		err = handed.NakWithDelay(delay)
	} else {
		err = handed.Nak()
	}
	if err != nil && s.ctx.Err() == nil {
		s.logger.Debug("inbox could not give back a message", s.config.Error(err))
	}
}

// Settle moves a message to what became of it. Whose move fails as somebody else has moved it since has nothing to say.
func (s *store) Settle(ctx context.Context, message *inbox.Message, outcome inbox.Outcome) error {
	held, ok := message.Lease.(*lease)
	if !ok {
		return errors.New("the message is not leased")
	}
	if s.ctx.Err() != nil {
		return inbox.ErrClosed
	}
	held.mu.Lock()
	defer held.mu.Unlock()
	if held.done {
		return nil
	}
	late := time.Now().After(held.until)
	if outcome.Released || late && outcome.Result != inbox.Delivered { // late, the app's taking it is worth to be known
		if !late {
			s.drop(s.names.claims, held.claim)
			s.putBack(held.handed, 0)
		}
		held.done = true
		return nil
	}
	now := s.clock()
	r, state := record{Attempts: held.of.record.Attempts, Answer: outcome.Answer}, ""
	switch outcome.Result {
	case inbox.Delivered:
		state, r.Settled = stateDelivered, now
	case inbox.Dead:
		state, r.Settled = stateDead, now
		r.Attempts++
	case inbox.Pending:
		state, r.Due, r.Delay = stateRetry, now.Add(outcome.Delay), outcome.Delay
		r.Attempts++
	default:
		return fmt.Errorf("unknown outcome %q", outcome.Result)
	}
	m := s.names.message(state, held.of.digest, held.of.header, r, held.of.Data)
	m.Header.Set(headerStep, held.step)
	if state == stateDelivered {
		s.mu.Lock()
		m.Header.Set(headerTTL, ttl(s.settings.Remember))
		s.mu.Unlock()
	}
	seq, _, err := s.moveMessage(ctx, m, held.of.Sequence)
	if errors.Is(err, inbox.ErrTooLarge) && state == stateDelivered { // the servers take less than they did
		m.Subject, m.Data = s.names.of(stateDropped, held.of.digest), nil
		seq, _, err = s.moveMessage(ctx, m, held.of.Sequence)
	}
	switch {
	case err == nil:
		message.Seq = seq
		s.count(size(m))
		if m.Subject != held.of.Subject { // else the server has removed it: a subject has one message
			s.drop(s.names.messages, held.of.Sequence)
		}
		s.count(-held.of.size())
	case errors.Is(err, errBehind) && time.Now().After(held.until): // it was deleted: nobody can before
	case !errors.Is(err, errMoved):
		return fmt.Errorf("not recorded: %s", s.config.Redact(err))
	}
	held.done = true
	return nil
}
