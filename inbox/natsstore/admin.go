package natsstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
	"github.com/caddy-chinaums/caddy-chinaums/internal/natsconn"
)

// each calls do with each message in some states above a seq, without its request, until do returns false. It returns how many
// there were at the beginning.
func (s *store) each(ctx context.Context, states []string, after uint64, page int, do func(*inbox.Message) bool) (number int64, err error) {
	if after == 1<<64-1 {
		return 0, nil
	}
	reader, err := s.js.CreateConsumer(ctx, s.names.messages, jetstream.ConsumerConfig{
		Description: "caddy inbox: a list", FilterSubjects: s.names.filters(states), DeliverPolicy: jetstream.DeliverByStartSequencePolicy,
		OptStartSeq: after + 1, AckPolicy: jetstream.AckNonePolicy, HeadersOnly: true, MemoryStorage: true, Replicas: 1, InactiveThreshold: 30 * time.Second,
	})
	if err != nil {
		return 0, err
	}
	defer func() { // what is missed goes by itself
		_ = s.connection.Publish("$JS.API.CONSUMER.DELETE."+s.names.messages+"."+reader.CachedInfo().Name, nil)
	}()
	number = int64(reader.CachedInfo().NumPending)
	received, begun := uint64(0), time.Now()
	for left := int(number); left > 0; {
		asked, got := min(left, page), 0
		batch, err := reader.Fetch(asked, jetstream.FetchMaxWait(natsconn.RequestTimeout))
		if err != nil {
			return 0, err
		}
		for message := range batch.Messages() {
			got++
			meta, err := message.Metadata()
			if err != nil {
				return 0, err
			}
			k := newKept(message.Subject(), meta.Sequence.Stream, message.Headers(), nil)
			if k.decode() != nil { // the others are listed
				continue
			}
			k.message.Request = nil
			if !do(k.message) {
				return number, nil
			}
		}
		received += uint64(got)
		if left -= got; got == asked {
			continue
		}
		// Something was removed meanwhile; or the reader has only just been made; or it was sent, and has not come.
		info, err := reader.Info(ctx)
		if err == nil {
			left = int(info.NumPending)
		}
		if ctx.Err() != nil || err == nil && info.Delivered.Consumer != received || time.Since(begun) > storeTimeout {
			return 0, errors.Join(errors.New("the server has not sent all that it has"), err)
		}
		if got == 0 && !s.sleep(ctx, firstPause) {
			return 0, ctx.Err()
		}
	}
	return number, nil
}

// List lists messages. What was moved a moment ago may be at its old place too; in a page the new one counts.
func (s *store) List(ctx context.Context, query inbox.Query) ([]*inbox.Message, error) {
	if err := s.usable(); err != nil {
		return nil, err
	}
	page := query.Limit
	if query.Search != "" {
		page = 1000
	}
	var found []*inbox.Message
	_, err := s.each(ctx, statesOf[query.State], query.After, page, func(m *inbox.Message) bool {
		if query.Search == "" || query.Matches(m) {
			found = append(slices.DeleteFunc(found, func(old *inbox.Message) bool { return old.ID == m.ID }), m)
		}
		return len(found) < query.Limit
	})
	return found, s.config.Redacted(err)
}

// current reads the message of a seq, if that is the last one of its id.
func (s *store) current(ctx context.Context, seq uint64) (*kept, error) {
	if err := s.usable(); err != nil {
		return nil, err
	}
	if seq == 0 {
		return nil, inbox.ErrNotFound
	}
	k, err := s.at(ctx, seq)
	var last *kept
	if err == nil && k != nil {
		last, err = s.lastOf(ctx, k.digest)
	}
	switch {
	case err != nil:
		return nil, s.config.Redacted(err)
	case last.seq() != seq:
		return nil, inbox.ErrNotFound
	}
	err = k.decode()
	return k, err
}

// Get returns a message.
func (s *store) Get(ctx context.Context, seq uint64) (*inbox.Message, error) {
	k, err := s.current(ctx, seq)
	if err != nil {
		return nil, err
	}
	return k.message, nil
}

// Redeliver makes a message due. What is settled, or waits, is moved and gets another seq.
func (s *store) Redeliver(ctx context.Context, seq uint64, force bool) (uint64, error) {
	k, err := s.current(ctx, seq)
	switch {
	case err != nil:
		return 0, err
	case k.message.State == inbox.Delivered && !force:
		return 0, inbox.ErrDelivered
	case k.state == stateDropped:
		return 0, inbox.ErrNoRequest
	}
	var moved *nats.Msg
	if k.message.State == inbox.Pending {
		if err := s.hold(ctx, k); err != nil {
			return 0, err
		}
		r := k.record
		r.Due, r.Delay = s.clock(), 0
		moved = s.names.message(stateRetry, k.digest, k.header, r, k.Data)
	} else {
		moved = s.names.message(stateNew, k.digest, k.header, record{}, k.Data)
		moved.Header.Set(headerReplaces, strconv.FormatUint(seq, 10))
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	again, _, err := s.moveMessage(ctx, moved, seq)
	switch {
	case errors.Is(err, errMoved): // somebody was faster
		return 0, inbox.ErrNotFound
	case err != nil:
		return 0, fmt.Errorf("not redelivered: %s", s.config.Redact(err))
	}
	s.count(size(moved))
	if moved.Subject != k.Subject {
		s.drop(s.names.messages, seq)
	}
	return again, nil
}

// hold claims a pending message, so that nobody delivers it at this moment.
func (s *store) hold(ctx context.Context, k *kept) error {
	claim, err := s.claim(ctx, k)
	if err == nil && claim == 0 {
		err = inbox.ErrLeased
	}
	return s.config.Redacted(err)
}

// Delete removes a message.
func (s *store) Delete(ctx context.Context, seq uint64, force bool) error {
	k, err := s.current(ctx, seq)
	if err != nil {
		return err
	}
	if k.message.State == inbox.Pending {
		if !force {
			return inbox.ErrPending
		}
		if err := s.hold(ctx, k); err != nil {
			return err
		}
	}
	return s.config.Redacted(s.remove(ctx, seq))
}

// DeleteDead removes dead messages.
func (s *store) DeleteDead(ctx context.Context, before time.Time) (int, error) {
	if err := s.usable(); err != nil {
		return 0, err
	}
	removed := 0
	var failed error
	_, err := s.each(ctx, statesOf[inbox.Dead], 0, 500, func(m *inbox.Message) bool {
		if !before.IsZero() && !m.Settled.Before(before) {
			return true
		}
		switch err := s.remove(ctx, m.Seq); {
		case err == nil:
			removed++
		case !errors.Is(err, inbox.ErrNotFound):
			failed = err
		}
		return failed == nil
	})
	return removed, s.config.Redacted(errors.Join(failed, err))
}

// Stats asks the consumers, which may be a moment behind the stream: until two answers are the same, a few times.
//
// Oldest is of the two messages that wait first, a new one and one that has failed.
func (s *store) Stats(ctx context.Context) (inbox.Stats, error) {
	if err := s.usable(); err != nil {
		return inbox.Stats{}, err
	}
	var stats inbox.Stats
	for i := range 5 {
		if i > 0 && !s.sleep(ctx, time.Duration(i)*2*time.Millisecond) {
			break
		}
		before := stats
		var err error
		if stats, err = s.counts(ctx); err != nil {
			return inbox.Stats{}, s.config.Redacted(err)
		}
		if i > 0 && stats == before {
			break
		}
	}
	return stats, nil
}

func (s *store) counts(ctx context.Context) (inbox.Stats, error) {
	var counts [4]int64
	var oldest [2]time.Time
	var bytes int64
	var errs [7]error
	var all sync.WaitGroup
	for i := range oldest { // first, so that what was removed a moment ago is not counted: they are answered after that
		all.Go(func() {
			first, err := s.first(ctx, queues[i][0])
			if errs[4+i] = err; first != nil {
				oldest[i], _ = time.Parse(time.RFC3339Nano, first.header.Get(headerReceived))
			}
		})
	}
	all.Wait()
	for i := range counts {
		all.Go(func() { counts[i], errs[i] = s.known(ctx, i) })
	}
	all.Go(func() { _, bytes, errs[6] = s.usage(ctx) })
	all.Wait()
	stats := inbox.Stats{Pending: counts[0] + counts[1], Delivered: counts[2], Dead: counts[3], Bytes: bytes}
	for _, received := range oldest {
		if stats.Pending > 0 && !received.IsZero() && (stats.Oldest.IsZero() || received.Before(stats.Oldest)) {
			stats.Oldest = received
		}
	}
	return stats, errors.Join(errs[:]...)
}

// Interface guard.
var _ inbox.Store = (*store)(nil)
