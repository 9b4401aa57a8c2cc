package natsstore

import (
	"context"
	"encoding/json"
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

// source is one of the two queues: of messages that nobody has tried yet, and of those that wait for another try. They are
// two because a server hands out what it hands out again before all that is new: many retries would keep first deliveries
// waiting. Each Lease asks both, and takes what comes first.
type source struct {
	consumer jetstream.Consumer
	retry    bool
	asked    int // messages that the server was asked for, and that have not come
	failures int // in a row
}

// lease is what a leased message's Lease is.
type lease struct {
	mu       sync.Mutex
	ack      string // where it is acknowledged
	retry    bool   // it came out of the queue of retries
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
	select {
	case m := <-s.handed:
		s.hold(m)
		return m, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-s.ctx.Done():
		return nil, inbox.ErrClosed
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
		s.putBack(message.Reply(), time.Second)
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
		s.release(m, held)
	case <-s.ctx.Done():
		s.release(m, held)
	}
}

// hold notes that this process delivers a message.
func (s *store) hold(m *inbox.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for seq, other := range s.held { // few; what has outlived its lease goes
		if time.Now().After(other.until) {
			delete(s.held, seq)
		}
	}
	s.held[m.Seq] = m.Lease.(*lease)
}

// takeNew leases a message of the first queue; nil where it is not to be delivered.
//
// The server's word alone is not enough for that. One that has just lost its leadership, or its last moments, may hand out
// what another has handed out too. So a lease is claimed, in a stream whose word has a quorum. The claim fails where
// somebody has the message or had it; only then, or where a claim may have been forgotten, is it looked up what became of it.
func (s *store) takeNew(ctx context.Context, message jetstream.Msg) (*inbox.Message, error) {
	meta, err := message.Metadata()
	if err != nil {
		return nil, err
	}
	seq, header := meta.Sequence.Stream, message.Headers()
	if dropped := header.Get(headerDropped); dropped != "" {
		if err := s.recordDropped(ctx, seq, []byte(dropped)); err != nil {
			return nil, err
		}
		s.ack(message.Reply())
		return nil, nil
	}
	m, err := decode(seq, header, message.Data())
	if err != nil {
		s.logger.Error("inbox found a message that is none", zap.Error(err), zap.String("stream", s.names.messages))
		s.putBack(message.Reply(), time.Hour)
		return nil, nil
	}
	lease := s.lease(message, false)
	subject := s.names.of("lease", seq) + ".new." + strconv.FormatUint(meta.NumDelivered, 10)
	ackWait := time.Duration(s.ackWait.Load())
	fresh := meta.NumDelivered == 1 && time.Since(meta.Timestamp).Abs() < leaseAge(ackWait)/2
	if fresh {
		claimed, err := s.claim(ctx, subject)
		if err != nil {
			return nil, err
		}
		if claimed {
			m.Lease = lease
			return m, nil
		}
	}
	st, err := s.standing(ctx, seq, header)
	switch {
	case err != nil:
		return nil, err
	case st.state != inbox.Pending:
		s.ack(message.Reply())
		return nil, nil
	case st.record != nil: // it waits for another try
		if err := s.enqueue(ctx, m); err != nil {
			return nil, err
		}
		s.ack(message.Reply())
		return nil, nil
	}
	claimed := false
	if !fresh {
		if claimed, err = s.claim(ctx, subject); err != nil {
			return nil, err
		}
	}
	if !claimed { // somebody has it
		s.putBack(message.Reply(), ackWait)
		return nil, nil
	}
	m.Lease = lease
	return m, nil
}

// takeRetry leases a message of the queue of retries; nil where it is not to be delivered now.
func (s *store) takeRetry(ctx context.Context, message jetstream.Msg) (*inbox.Message, error) {
	meta, err := message.Metadata()
	if err != nil {
		return nil, err
	}
	lease := s.lease(message, true)
	seq := s.names.seqOf(message.Subject())
	kept, err := s.getSeq(ctx, s.names.messages, seq)
	if errors.Is(err, inbox.ErrNotFound) {
		s.ack(message.Reply())
		s.tidy(func(ctx context.Context) error { return s.purge(ctx, s.names.retry, s.names.retrying(seq)) })
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	st, err := s.standing(ctx, seq, kept.header)
	if err != nil {
		return nil, err
	}
	if st.state != inbox.Pending {
		s.ack(message.Reply())
		s.tidy(func(ctx context.Context) error { return s.purge(ctx, s.names.retry, s.names.retrying(seq)) })
		return nil, nil
	}
	m, err := decode(seq, kept.header, kept.Data)
	if err != nil {
		return nil, err
	}
	st.fill(m)
	if left := s.left(st.record); left > 0 {
		s.putBack(message.Reply(), left)
		return nil, nil
	}
	claimed, err := s.claim(ctx, fmt.Sprintf("%s.retry.%d.%d", s.names.of("lease", seq), meta.Sequence.Stream, meta.NumDelivered))
	if err != nil {
		return nil, err
	}
	if !claimed {
		s.putBack(message.Reply(), time.Duration(s.ackWait.Load()))
		return nil, nil
	}
	lease.attempts = m.Attempts
	m.Lease = lease
	return m, nil
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

func (s *store) lease(message jetstream.Msg, retry bool) *lease {
	return &lease{ack: message.Reply(), retry: retry, until: time.Now().Add(time.Duration(s.ackWait.Load()))}
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
func (s *store) release(m *inbox.Message, held *lease) {
	held.mu.Lock()
	defer held.mu.Unlock()
	if held.done {
		return
	}
	s.putBack(held.ack, 0)
	s.end(m, held)
}

// end ends a lease. held.mu is held.
func (s *store) end(m *inbox.Message, held *lease) {
	held.done = true
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[m.Seq] == held {
		delete(s.held, m.Seq)
	}
}

// Settle records what became of a message, and then acknowledges it.
func (s *store) Settle(ctx context.Context, message *inbox.Message, outcome inbox.Outcome) error {
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
			s.putBack(held.ack, 0)
		}
		s.end(message, held)
		return nil
	case late:
		// The app has taken it: that is worth to be known, unless another holder was faster.
		st, err := s.standing(ctx, message.Seq, nil)
		if err != nil {
			return err
		}
		if _, err := s.getSeq(ctx, s.names.messages, message.Seq); st.state != inbox.Pending || errors.Is(err, inbox.ErrNotFound) {
			s.end(message, held)
			return nil
		}
	}
	now := s.clock()
	r := record{Time: now, Attempts: held.attempts, Answer: outcome.Answer}
	stream, subject := s.names.delivered, s.names.of("delivered", message.Seq)
	switch outcome.Result {
	case inbox.Delivered:
	case inbox.Dead:
		r.Attempts++
		stream, subject = s.names.dead, s.names.of("dead", message.Seq)
	case inbox.Pending:
		r.Attempts++
		r.Delay, r.Due = outcome.Delay, now.Add(outcome.Delay)
		stream, subject = s.names.retry, s.names.note(message.Seq)
	default:
		return fmt.Errorf("unknown outcome %q", outcome.Result)
	}
	body, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := s.persist(ctx, stream, &nats.Msg{Subject: subject, Data: body}, -1); err != nil {
		return fmt.Errorf("not recorded: %s", s.config.redact(err))
	}
	if outcome.Result == inbox.Pending {
		if held.retry {
			s.putBack(held.ack, outcome.Delay)
		} else {
			if err := s.enqueue(ctx, message); err != nil {
				return fmt.Errorf("not recorded: %s", s.config.redact(err))
			}
			s.ack(held.ack)
		}
		s.end(message, held)
		return nil
	}
	s.ack(held.ack)
	s.end(message, held)
	if held.retry {
		seq := message.Seq
		s.tidy(func(ctx context.Context) error { return s.purge(ctx, s.names.retry, s.names.retrying(seq)) })
	}
	if outcome.Result == inbox.Delivered {
		s.wakeJanitor()
	}
	return nil
}

// enqueue puts a message into the queue of retries, once.
func (s *store) enqueue(ctx context.Context, m *inbox.Message) error {
	wire := &nats.Msg{Subject: s.names.entry(m.Seq), Header: nats.Header{headerReceived: {m.Received.UTC().Format(time.RFC3339Nano)}}}
	if err := s.persist(ctx, s.names.retry, wire, 0); err != nil && !errors.Is(err, errMoved) {
		return err
	}
	return nil
}

func zapError(config *Nats, err error) zap.Field { return zap.String("error", config.redact(err)) }
