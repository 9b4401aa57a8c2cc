package natsstore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
)

// source is one of the two queues: of messages that nobody has tried yet, and of those that wait for another try. They are
// two because a server hands out what it hands out again before all that is new: many retries would keep first deliveries
// waiting. Each Lease asks both, and takes what comes first.
type source struct {
	consumer jetstream.Consumer
	retry    bool
	asked    int       // messages that the server was asked for, and that have not come
	failures int       // in a row
	waits    time.Time // since when it owes a message, and has sent none
}

// lease is what a leased message's Lease is.
type lease struct {
	mu       sync.Mutex
	of       reference
	ack      string // where it is acknowledged
	claim    string // its subject in the stream of leases
	retry    bool   // it came out of the queue of retries
	entry    string // then: which entry
	attempts int
	until    time.Time // when the server takes it back
	done     bool
}

// Lease waits for a message.
func (s *store) Lease(ctx context.Context) (*inbox.Message, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, inbox.ErrClosed
	}
	s.want++
	s.pull()
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.want--
		s.mu.Unlock()
	}()
	for {
		select {
		case m := <-s.handed:
			if s.removes.Load() {
				held := m.Lease.(*lease)
				if _, err := s.find(ctx, held.of); errors.Is(err, inbox.ErrNotFound) {
					s.ack(held.ack)
					continue
				}
			}
			s.hold(m)
			return m, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-s.ctx.Done():
			return nil, inbox.ErrClosed
		}
	}
}

// pull asks for as many messages as callers wait for. s.mu is held.
func (s *store) pull() {
	if s.closed {
		return
	}
	for _, src := range s.sources {
		if src == nil {
			continue
		}
		if missing := min(s.want-src.asked, 256); missing > 0 {
			if src.asked == 0 {
				src.waits = time.Now()
			}
			src.asked += missing
			consumer := src.consumer // apply may set another one
			s.work.Go(func() { s.fetch(src, consumer, missing) })
		}
	}
}

// fetch asks once for a number of messages. The server answers when there are some, or says after a while that there are
// none. All questions of a source end at the same moments, so that those of an idle gateway become one; and all end when the
// connection does, for then the server has forgotten them. That it has forgotten them without that (another server has become
// the leader) is known by its heartbeats.
func (s *store) fetch(src *source, consumer jetstream.Consumer, number int) {
	s.mu.Lock()
	parent := s.connected
	s.mu.Unlock()
	left := pullTime - time.Since(s.begun)%pullTime
	if left < 3*heartbeat {
		left += pullTime
	}
	ctx, cancel := context.WithTimeout(parent, left)
	defer cancel()
	batch, err := consumer.Fetch(number, jetstream.FetchContext(ctx), jetstream.FetchHeartbeat(heartbeat))
	received := 0
	if err == nil {
		for message := range batch.Messages() {
			received++
			s.work.Go(func() {
				s.handle(src, message)
				s.mu.Lock()
				defer s.mu.Unlock()
				src.asked--
				src.waits = time.Now()
				s.pull()
			})
		}
		err = batch.Error()
	}
	failed := err != nil && parent.Err() == nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, nats.ErrTimeout)
	pause := time.Duration(0)
	s.mu.Lock()
	src.asked -= number - received
	switch {
	case failed:
		src.failures++
		pause = min(time.Duration(src.failures)*100*time.Millisecond, 2*time.Second)
	case received == 0:
		src.failures = 0
		pause = 20 * time.Millisecond // until the others have ended too
	default:
		src.failures = 0
	}
	failures := src.failures
	s.mu.Unlock()
	if failed {
		s.logger.Debug("inbox could not ask for messages", zapError(s.config, err))
		s.doubt()
	}
	if failures > 1 { // perhaps the consumer is gone
		s.wake()
	}
	if pause > 0 && !s.sleep(s.ctx, pause) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pull()
}

// handle gives a message that the server has handed out to somebody who waits, if it is to be delivered now.
func (s *store) handle(src *source, message jetstream.Msg) {
	s.stir()
	ctx, cancel := context.WithTimeout(s.ctx, 2*storeTimeout)
	defer cancel()
	var m *inbox.Message
	var err error
	if src.retry {
		m, err = s.takeRetry(ctx, message)
	} else {
		m, err = s.takeNew(ctx, message)
	}
	if err != nil {
		if s.ctx.Err() == nil {
			s.logger.Warn("inbox could not take a message; it comes again", zapError(s.config, err))
		}
		delay := time.Second
		if errors.Is(err, errUnreadable) { // that will be so for a while
			delay = time.Minute
		}
		s.putBack(message.Reply(), delay)
		return
	}
	if m == nil {
		return
	}
	held := m.Lease.(*lease)
	select {
	case s.handed <- m:
		return
	default:
	}
	timer := time.NewTimer(linger)
	defer timer.Stop()
	select {
	case s.handed <- m:
	case <-timer.C:
		s.release(held)
	case <-s.ctx.Done():
		s.release(held)
	}
}

// hold notes that this process delivers a message.
func (s *store) hold(m *inbox.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, other := range s.held { // few; what has outlived its lease goes
		if time.Now().After(other.until) {
			delete(s.held, key)
		}
	}
	held := m.Lease.(*lease)
	s.held[held.of.key] = held
}

// takeNew leases a message of the first queue; nil where it is not to be delivered.
//
// A claim is of one handing out. That there is no other one of the message at the same time is not the server's word either:
// one that stood still sends late what it was about to send, and a new leader hands out again before a lease has run out. So
// all but the first look for the claims of others; and see to it that the first, should it come after them, looks too.
//
// The server's word alone is not enough for that. One that has just lost its leadership, or its last moments, may hand out
// what another has handed out too. So a lease is claimed, in a stream whose word has a quorum. The claim fails where
// somebody has the message or had it; only then, or where a claim may have been forgotten, is it looked up what became of it.
func (s *store) takeNew(ctx context.Context, message jetstream.Msg) (m *inbox.Message, err error) {
	meta, err := message.Metadata()
	if err != nil {
		return nil, err
	}
	seq, header := meta.Sequence.Stream, message.Headers()
	of := referenceOf(message.Subject(), seq, header)
	if dropped := header.Get(headerDropped); dropped != "" {
		if err := s.recordDropped(ctx, of, []byte(dropped)); err != nil {
			return nil, err
		}
		s.ack(message.Reply())
		return nil, nil
	}
	decoded, err := decode(seq, header, message.Data())
	if err != nil {
		s.logger.Error("inbox found a message that is none", zap.Error(err), zap.String("stream", s.names.messages))
		s.putBack(message.Reply(), time.Hour)
		return nil, nil
	}
	s.forgetReplaced(header)
	lease := s.lease(message, of, s.names.firstClaim(of.key, meta.NumDelivered))
	fresh := meta.NumDelivered == 1 && time.Since(meta.Timestamp).Abs() < s.young
	if meta.NumDelivered > 1 {
		if err := s.bar(ctx, of.key); err != nil {
			return nil, err
		}
	}
	// What is looked up is looked up under the claim: an audit that brings it back first leaves word, and then looks for claims.
	claimed, err := s.claim(ctx, lease.claim)
	if err != nil {
		return nil, err
	}
	if fresh && claimed {
		decoded.Lease = lease
		return decoded, nil
	}
	defer func() {
		if err != nil && claimed {
			s.unclaim(ctx, lease)
		}
	}()
	st, err := s.standing(ctx, of.key, header)
	switch {
	case err != nil:
		return nil, err
	case st.state != inbox.Pending:
		s.ack(message.Reply())
		return nil, nil
	case st.record != nil: // it waits for another try
		if claimed {
			s.unclaim(ctx, lease)
		}
		if err := s.enqueue(ctx, of, decoded.Received); err != nil {
			return nil, err
		}
		s.ack(message.Reply())
		return nil, nil
	}
	left, err := s.occupied(ctx, lease, claimed)
	if err != nil {
		return nil, err
	}
	if left > 0 {
		s.decline(ctx, lease, claimed, left)
		return nil, nil
	}
	decoded.Lease = lease
	return decoded, nil
}

// occupied says how long somebody else may have a message that was to be leased; 0: nobody has it.
func (s *store) occupied(ctx context.Context, held *lease, claimed bool) (time.Duration, error) {
	if !claimed {
		return time.Duration(s.ackWait.Load()), nil
	}
	left, others, err := s.claimedElsewhere(ctx, held.of.key, held.claim, 0)
	if err == nil && left == 0 && others { // one of them may have settled it
		err = s.unsettled(ctx, held.of.key)
	}
	return left, err
}

// decline gives back what is not delivered, and first the claim to it, which would keep others from it.
func (s *store) decline(ctx context.Context, held *lease, claimed bool, delay time.Duration) {
	if claimed {
		s.unclaim(ctx, held)
	}
	s.putBack(held.ack, delay)
}

// bar claims a message's first handing out for nobody.
func (s *store) bar(ctx context.Context, key string) error {
	_, err := s.claimAs(ctx, s.names.firstClaim(key, 1), noDelivery+rand.Text())
	return err
}

// noDelivery is what the claims begin with of those who do not deliver.
const noDelivery = "none "

// unclaim ends a claim before its time. It is not removed: the same may be handed out again as if for the first time, by a
// server that has forgotten. If it fails, others wait until the claim has run out.
func (s *store) unclaim(ctx context.Context, held *lease) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout) // also of a store that is being closed
	defer cancel()
	if _, err := s.publish(ctx, s.names.leases, &nats.Msg{Subject: held.claim, Data: []byte(noDelivery)}, -1); err != nil {
		s.logger.Debug("inbox could not end a claim; it runs out by itself", zapError(s.config, err))
	}
}

// takeRetry leases a message of the queue of retries; nil where it is not to be delivered now.
func (s *store) takeRetry(ctx context.Context, message jetstream.Msg) (m *inbox.Message, err error) {
	meta, err := message.Metadata()
	if err != nil {
		return nil, err
	}
	of := s.names.referred(message.Subject(), message.Headers())
	over := func() (*inbox.Message, error) {
		s.ack(message.Reply())
		s.tidy(func(ctx context.Context) error { return s.purge(ctx, s.names.retry, s.names.retrying(of.key)) })
		return nil, nil
	}
	kept, err := s.find(ctx, of)
	wait := time.Duration(s.ackWait.Load())
	switch {
	case errors.Is(err, inbox.ErrNotFound) && time.Since(meta.Timestamp) < wait:
		s.putBack(message.Reply(), wait) // a server that stood does not know what is new, or the one that was replaced
		return nil, nil
	case errors.Is(err, inbox.ErrNotFound):
		return over()
	case err != nil:
		return nil, err
	}
	of = referenceOf(kept.Subject, kept.Sequence, kept.header)
	entry := entryOf(meta.Sequence.Stream, message.Headers())
	lease := s.lease(message, of, s.names.retryClaim(of.key, entry, meta.NumDelivered))
	lease.retry, lease.entry = true, entry
	// What is looked up is looked up under the claim, as in takeNew.
	claimed, err := s.claim(ctx, lease.claim)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil && claimed {
			s.unclaim(ctx, lease)
		}
	}()
	st, err := s.standing(ctx, of.key, kept.header)
	if err != nil {
		return nil, err
	}
	if st.state != inbox.Pending {
		return over()
	}
	if st.record != nil && st.record.Entry != "" && st.record.Entry != lease.entry {
		current, err := s.getLast(ctx, s.names.retry, s.names.entry(of.key))
		if err != nil && !errors.Is(err, inbox.ErrNotFound) {
			return nil, err
		}
		if err == nil && entryOf(current.Sequence, current.header) != lease.entry { // it was replaced
			if claimed {
				s.unclaim(ctx, lease)
			}
			s.ack(message.Reply())
			return nil, nil
		}
	}
	decoded, err := decode(kept.Sequence, kept.header, kept.Data)
	if err != nil {
		return nil, err
	}
	st.fill(decoded)
	left := s.left(st.record)
	if left <= 0 {
		if left, err = s.occupied(ctx, lease, claimed); err != nil {
			return nil, err
		}
	}
	if left > 0 {
		s.decline(ctx, lease, claimed, left)
		return nil, nil
	}
	lease.attempts = decoded.Attempts
	decoded.Lease = lease
	return decoded, nil
}

// left is how long a message has still to wait. What is due later than the delay it was given, or than any may be, counted
// from now, is due: a clock was set back since.
func (s *store) left(r *record) time.Duration {
	if r == nil || r.Due.IsZero() {
		return 0
	}
	left := r.Due.Sub(s.clock())
	if left > r.Delay {
		return 0
	}
	return left
}

func (s *store) lease(message jetstream.Msg, of reference, claim string) *lease {
	return &lease{of: of, ack: message.Reply(), claim: claim, until: time.Now().Add(time.Duration(s.ackWait.Load()))}
}

// ack, putBack: the server's word is not waited for. What is lost here comes again after the lease, and then the record
// says what became of it.
func (s *store) ack(subject string) { s.send(subject, "+ACK") }

func (s *store) putBack(subject string, delay time.Duration) {
	if delay <= 0 {
		s.send(subject, "-NAK")
		return
	}
	s.send(subject, fmt.Sprintf(`-NAK {"delay": %d}`, delay.Nanoseconds()))
}

func (s *store) send(subject, words string) {
	if err := s.connection.Publish(subject, []byte(words)); err != nil && s.ctx.Err() == nil {
		s.logger.Debug("inbox could not acknowledge", zapError(s.config, err))
	}
}

// release gives a lease back.
func (s *store) release(held *lease) {
	held.mu.Lock()
	defer held.mu.Unlock()
	if held.done {
		return
	}
	s.decline(s.ctx, held, true, 0)
	s.end(held)
}

// end ends a lease. held.mu is held.
func (s *store) end(held *lease) {
	held.done = true
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[held.of.key] == held {
		delete(s.held, held.of.key)
	}
}

// Settle records what became of a message, and then acknowledges it.
func (s *store) Settle(ctx context.Context, message *inbox.Message, outcome inbox.Outcome) error {
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if closed {
		return inbox.ErrClosed
	}
	held, ok := message.Lease.(*lease)
	if !ok {
		return errors.New("the message is not leased")
	}
	held.mu.Lock()
	defer held.mu.Unlock()
	if held.done {
		return nil
	}
	late := time.Now().After(held.until)
	switch {
	case outcome.Released, late && outcome.Result != inbox.Delivered:
		if !late {
			s.decline(ctx, held, true, 0)
		}
		s.end(held)
		return nil
	case late:
		// The app has taken it: that is worth to be known, unless another holder was faster.
		st, err := s.standing(ctx, held.of.key, nil)
		if err != nil {
			return err
		}
		if _, err := s.find(ctx, held.of); st.state != inbox.Pending || errors.Is(err, inbox.ErrNotFound) {
			s.end(held)
			return nil
		}
	}
	now := s.clock()
	r := &record{Time: now, Attempts: held.attempts, Answer: outcome.Answer, Entry: held.entry}
	stream, subject := s.names.delivered, s.names.of("delivered", held.of.key)
	switch outcome.Result {
	case inbox.Delivered:
	case inbox.Dead:
		r.Attempts++
		stream, subject = s.names.dead, s.names.of("dead", held.of.key)
	case inbox.Pending:
		r.Attempts++
		r.Delay, r.Due = outcome.Delay, now.Add(outcome.Delay)
		stream, subject = s.names.retry, s.names.note(held.of.key)
	default:
		return fmt.Errorf("unknown outcome %q", outcome.Result)
	}
	wire, err := s.names.recording(held.of, subject, r)
	if err != nil {
		return err
	}
	if err := s.persist(ctx, stream, wire, -1); err != nil {
		return fmt.Errorf("not recorded: %s", s.config.redact(err))
	}
	if outcome.Result == inbox.Pending {
		if held.retry {
			s.decline(ctx, held, true, outcome.Delay)
		} else {
			s.unclaim(ctx, held)
			if err := s.enqueue(ctx, held.of, message.Received); err != nil {
				return fmt.Errorf("not recorded: %s", s.config.redact(err))
			}
			s.ack(held.ack)
		}
		s.end(held)
		return nil
	}
	s.ack(held.ack)
	s.end(held)
	if held.retry {
		s.tidy(func(ctx context.Context) error { return s.purge(ctx, s.names.retry, s.names.retrying(held.of.key)) })
	}
	if outcome.Result == inbox.Delivered {
		signal(s.delivered)
	}
	return nil
}

// enqueue puts a message into the queue of retries, once.
func (s *store) enqueue(ctx context.Context, of reference, received time.Time) error {
	if err := s.persist(ctx, s.names.retry, s.names.entering(of, rand.Text(), received), 0); err != nil && !errors.Is(err, errMoved) {
		return err
	}
	return nil
}

func zapError(config *Nats, err error) zap.Field { return zap.String("error", config.redact(err)) }
