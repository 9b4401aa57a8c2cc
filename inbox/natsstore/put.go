package natsstore

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
)

// maxHeader is what a stream takes of headers, less some room.
const maxHeader = 60_000

// Put stores a message. That no message of its id is there is a condition of the publishing itself, so of all who put one
// id at once, through whatever gateway, one stores it. A try whose answer was lost is repeated with the same condition; if
// it has stored the message after all, the message there says that it is ours.
func (s *store) Put(ctx context.Context, message *inbox.Message) (inbox.Receipt, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if err := s.usable(); err != nil {
		return 0, err
	}
	subject := s.names.message(message.ID)
	put := rand.Text()
	wire := encode(subject, message, put)
	if err := s.fits(wire); err != nil {
		return 0, err
	}
	bounded, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	receipt, _, err := s.replace(bounded, wire, put, func(_ uint64, st standing) (inbox.Receipt, error) {
		switch {
		case st.state == inbox.Dead:
			return inbox.Revived, nil
		case st.state == inbox.Delivered && s.forgotten(st.record):
			return inbox.Stored, nil
		}
		return inbox.Repeated, nil
	})
	if err != nil && ctx.Err() != nil {
		return 0, ctx.Err()
	}
	if err != nil && s.ctx.Err() != nil {
		return 0, inbox.ErrClosed
	}
	return receipt, err
}

// fits checks a message's size against what the server takes.
func (s *store) fits(wire *nats.Msg) error {
	header := headerSize(wire.Header)
	const expectations = 384 // what replace and publish add to the header
	if header > maxHeader || int64(header+len(wire.Data)+expectations) > s.connection.MaxPayload() {
		return fmt.Errorf("%w: the server's max_payload is %d bytes", inbox.ErrTooLarge, s.connection.MaxPayload())
	}
	return nil
}

// forgotten reports whether a delivery is too long ago to be known.
func (s *store) forgotten(r *record) bool {
	s.mu.Lock()
	remember := s.settings.Remember
	s.mu.Unlock()
	return s.clock().Sub(r.Time) > remember
}

// replace publishes a message as the last one of its subject, and returns its seq. Where there is one already, decide says
// what is done with it: Repeated leaves it, anything else replaces it and is the result.
//
// What is replaced is claimed first. If a stream is replicated, servers before 2.11 compare the expected seq with the real
// one when a message is proposed, and not when it is stored, unless the seq is 0: two at once might both replace it.
func (s *store) replace(ctx context.Context, wire *nats.Msg, put string, decide func(seq uint64, st standing) (inbox.Receipt, error)) (inbox.Receipt, uint64, error) {
	receipt, expect, claimed, replaces := inbox.Stored, uint64(0), "", ""
	known := true // what came of the last try
	defer func() {
		if claimed != "" && known { // else it may be under way still: the claim ends by itself
			s.tidy(func(ctx context.Context) error { return s.purge(ctx, s.names.leases, s.names.of("claim", claimed)) })
		}
	}()
	replaced := func(seq uint64) (inbox.Receipt, uint64, error) {
		if expect != 0 {
			s.forget(replaces)
		}
		return receipt, seq, nil
	}
	makeRoom := func(pause time.Duration) error {
		freed, err := s.makeRoom(ctx, size(wire))
		if err == nil && freed == 0 && !s.sleep(ctx, pause) {
			err = errors.New("not stored in time: no room could be made")
		}
		return err
	}
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		full, err := s.full(ctx, size(wire))
		if err == nil && !full {
			var seq uint64
			seq, err = s.publish(ctx, s.names.messages, wire, int64(expect))
			known = err == nil || errors.Is(err, errMoved) || errors.Is(err, inbox.ErrTooLarge)
			if err == nil {
				s.count(size(wire))
				s.stir()
				return replaced(seq)
			}
		}
		switch {
		case errors.Is(err, inbox.ErrTooLarge):
			return 0, 0, err
		case err != nil && !errors.Is(err, errMoved):
			if !s.sleep(ctx, pause) {
				return 0, 0, fmt.Errorf("not stored in time: %s", s.config.redact(err))
			}
			continue
		}
		last, err := s.getLast(ctx, s.names.messages, wire.Subject)
		if errors.Is(err, inbox.ErrNotFound) {
			if full {
				if err := makeRoom(pause); err != nil {
					return 0, 0, err
				}
			} else if !s.sleep(ctx, pause) { // it may be said again that there is one, and that there is none
				return 0, 0, errors.New("not stored in time: a message of its id comes and goes")
			}
			expect = 0
			continue
		}
		if err == nil && last.header.Get(headerPut) == put {
			return replaced(last.Sequence)
		}
		var st standing
		key := ""
		if err == nil {
			key = keyOf(last.Sequence, last.header)
			st, err = s.standing(ctx, key, last.header)
		}
		if err != nil {
			if !s.sleep(ctx, pause) {
				return 0, 0, fmt.Errorf("not stored in time: %s", s.config.redact(err))
			}
			continue
		}
		if receipt, err = decide(last.Sequence, st); err != nil || receipt == inbox.Repeated {
			return receipt, last.Sequence, err
		}
		if claimed != key {
			ok, err := s.claim(ctx, s.names.of("claim", key))
			if err != nil || !ok { // another one replaces it now: the next look finds what came of it
				if !s.sleep(ctx, pause) {
					return 0, 0, errors.New("not stored in time: another request with this id is being stored")
				}
				expect = 0
				continue
			}
			claimed = key
		}
		expect, replaces = last.Sequence, key
		wire.Header[headerReplaces] = []string{key}
		if full {
			if err := makeRoom(pause); err != nil {
				return 0, 0, err
			}
		}
	}
}

// size is about what a message takes in the stream, with the conditions that publish adds to its headers.
func size(wire *nats.Msg) int {
	const expectations, record = 160, 34
	return record + len(wire.Subject) + headerSize(wire.Header) + expectations + len(wire.Data)
}

// usage is how full the stream is: what the server has said, and what this process has stored since.
type usage struct {
	bytes int64
	said  time.Time
}

// full reports whether there is no room for a message of a size.
//
// The limit is kept here, and not by the stream's own max_bytes: servers that look at it (2.9.10 is one) compare without a
// message's own overhead, find afterwards that there is too much, and remove the oldest message, whatever its policy.
// Several gateways may therefore exceed the limit a little together.
func (s *store) full(ctx context.Context, size int) (bool, error) {
	const trusted = 2 * time.Second
	s.mu.Lock()
	limit, used := s.settings.MaxBytes, s.usage
	s.mu.Unlock()
	if limit <= 0 {
		return false, nil
	}
	if time.Since(used.said) < trusted && used.bytes+int64(size) <= limit {
		return false, nil
	}
	begun := time.Now()
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	stream, err := s.js.Stream(ctx, s.names.messages)
	if err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	bytes := int64(stream.CachedInfo().State.Bytes)
	s.usage = usage{bytes, begun}
	return bytes+int64(size) > limit, nil
}

// count notes what was stored.
func (s *store) count(size int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.usage.bytes += int64(size)
}

// forget removes what is known of a message that is no more.
func (s *store) forget(key string) {
	// Not in the background: else the numbers would be wrong for a moment.
	ctx, cancel := context.WithTimeout(s.ctx, storeTimeout)
	defer cancel()
	for _, left := range []struct{ stream, subject string }{
		{s.names.delivered, s.names.of("delivered", key)}, {s.names.dead, s.names.of("dead", key)}, {s.names.retry, s.names.retrying(key)},
	} {
		if err := s.purge(ctx, left.stream, left.subject); err != nil {
			s.logger.Debug("inbox could not tidy up", zapError(s.config, err))
		}
	}
}

// forgetReplaced removes what is left of the message that another one has replaced: whoever has replaced it may have ended before
// that, and what is recorded of a message that is no more makes the numbers wrong.
func (s *store) forgetReplaced(by nats.Header) {
	if key := by.Get(headerReplaces); isWord(key) {
		s.tidy(func(context.Context) error {
			s.forget(key)
			return nil
		})
	}
}

// makeRoom drops requests of delivered messages, the oldest first, until about need bytes are free, and returns how many are,
// which may be none yet. Their ids stay: in place of the message a small one is put, with the same headers and no request.
func (s *store) makeRoom(ctx context.Context, need int) (freed int, err error) {
	s.room.Lock()
	defer s.room.Unlock()
	const most = 1024 // looks, of one call
	after, again := s.dropped, false
	for range most {
		next, err := s.getNext(ctx, s.names.delivered, everything, after+1)
		if errors.Is(err, inbox.ErrNotFound) {
			if freed > 0 {
				return freed, nil
			}
			if s.unread > 0 { // the server's trouble may be over next time
				s.dropped, s.unread = s.unread-1, 0
			}
			return 0, inbox.ErrFull
		}
		if err != nil {
			return freed, fmt.Errorf("no room could be made: %s", s.config.redact(err))
		}
		size, err := s.drop(ctx, next)
		switch {
		case errors.Is(err, errMoved): // the next call looks at it again
			again = true
		case errors.Is(err, errUnreadable): // the janitor warns of it
			if s.unread == 0 {
				s.unread = next.Sequence
			}
		case err != nil:
			return freed, fmt.Errorf("no room could be made: %s", s.config.redact(err))
		}
		if after = next.Sequence; !again {
			s.dropped = after
		}
		// Half of it may be enough, for there may have been some room; if not, the caller comes again.
		if freed += size; freed > 0 && freed >= need/2 {
			return freed, nil
		}
	}
	return freed, nil
}

// drop drops the request of a delivered message, and returns how many bytes that has freed. The error is errMoved where
// somebody else replaces the message at this moment.
func (s *store) drop(ctx context.Context, delivery *raw) (int, error) {
	r, err := parseRecord(delivery.Data)
	if err != nil || r.Dropped {
		return 0, err
	}
	of := s.names.referred(delivery.Subject, delivery.header)
	old, err := s.find(ctx, of)
	if errors.Is(err, inbox.ErrNotFound) {
		return 0, s.purge(ctx, s.names.delivered, delivery.Subject)
	}
	if err != nil {
		return 0, err
	}
	if len(old.Data) == 0 {
		return 0, nil
	}
	r.Dropped = true
	kept, err := json.Marshal(r)
	if err != nil {
		return 0, err
	}
	header := nats.Header{headerDropped: {string(kept)}}
	for _, name := range []string{headerID, headerKey, headerSubject, headerReceived, headerPut} {
		if value, ok := old.header[name]; ok {
			header[name] = value
		}
	}
	wire := &nats.Msg{Subject: old.Subject, Header: header}
	if headerSize(header) >= headerSize(old.header)+len(old.Data) {
		return 0, nil
	}
	if ok, err := s.claim(ctx, s.names.of("claim", of.key)); err != nil {
		return 0, err
	} else if !ok {
		return 0, errMoved
	}
	if err := s.persist(ctx, s.names.messages, wire, int64(old.Sequence)); err != nil && !errors.Is(err, errMoved) {
		return 0, err
	}
	last, err := s.getLast(ctx, s.names.messages, old.Subject)
	if err != nil {
		return 0, err
	}
	if last.header.Get(headerDropped) == "" { // it is pending again
		return 0, nil
	}
	now := referenceOf(last.Subject, last.Sequence, last.header)
	if err := s.persist(ctx, s.names.delivered, s.names.about(now, s.names.of("delivered", now.key), kept), -1); err != nil {
		return 0, err
	}
	if now.key != of.key {
		s.forget(of.key)
	}
	return max(len(old.Data)-len(kept), 0), nil
}

// recordDropped records the delivery of a message whose request was dropped, if that is not recorded.
func (s *store) recordDropped(ctx context.Context, of reference, kept []byte) error {
	err := s.persist(ctx, s.names.delivered, s.names.about(of, s.names.of("delivered", of.key), kept), 0)
	if errors.Is(err, errMoved) {
		return nil
	}
	return err
}
