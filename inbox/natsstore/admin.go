package natsstore

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
)

// Get returns one message.
func (s *store) Get(ctx context.Context, seq uint64) (*inbox.Message, error) {
	if err := s.usable(); err != nil {
		return nil, err
	}
	kept, err := s.getSeq(ctx, s.names.messages, seq)
	if err != nil {
		return nil, err
	}
	return s.read(ctx, kept)
}

// read decodes a message and reads what has become of it.
func (s *store) read(ctx context.Context, kept *raw) (*inbox.Message, error) {
	m, err := decode(kept.Sequence, kept.header, kept.Data)
	if err != nil {
		return nil, err
	}
	st, err := s.standing(ctx, keyOf(kept.Sequence, kept.header), kept.header)
	if err != nil {
		return nil, err
	}
	st.fill(m)
	return m, nil
}

// enough is how many records are read to find those with the lowest seqs, before the messages themselves are looked through.
const enough = 10_000

// List returns messages in the order of seq. Dead ones, those that wait for a retry, and delivered ones where they are few
// are found by their records; all others by looking through the messages. What lies before the first that was not
// acknowledged cannot be pending, unless it waits for a retry.
//
// For a search, messages are listed page after page, and those that do not match are left out.
func (s *store) List(ctx context.Context, query inbox.Query) ([]*inbox.Message, error) {
	limit := max(query.Limit, 1)
	if query.Search == "" {
		return s.list(ctx, query)
	}
	query.Limit = 256
	for found := []*inbox.Message(nil); ; {
		page, err := s.list(ctx, query)
		if err != nil || len(page) == 0 {
			return found, err
		}
		for _, m := range page {
			if query.After = m.Seq; query.Matches(m) {
				if found = append(found, m); len(found) == limit {
					return found, nil
				}
			}
		}
	}
}

func (s *store) list(ctx context.Context, query inbox.Query) ([]*inbox.Message, error) {
	if err := s.usable(); err != nil {
		return nil, err
	}
	limit := max(query.Limit, 1)
	switch query.State {
	case "":
		return s.scan(ctx, "", query.After, limit)
	case inbox.Dead:
		return s.listRecorded(ctx, inbox.Dead, s.names.dead, "dead.*", query.After, limit)
	case inbox.Delivered:
		info, err := s.js.Stream(ctx, s.names.delivered)
		if err != nil {
			return nil, err
		}
		if info.CachedInfo().State.Msgs <= enough {
			return s.listRecorded(ctx, inbox.Delivered, s.names.delivered, "delivered.*", query.After, limit)
		}
		return s.scan(ctx, inbox.Delivered, query.After, limit)
	case inbox.Pending:
		waiting, err := s.listRecorded(ctx, inbox.Pending, s.names.retry, "retry.*.entry", query.After, limit)
		if err != nil {
			return nil, err
		}
		floor, err := s.floor(ctx, 0)
		if err != nil {
			return nil, err
		}
		others, err := s.scan(ctx, inbox.Pending, max(query.After, floor), limit)
		if err != nil {
			return nil, err
		}
		all := append(waiting, others...)
		slices.SortFunc(all, func(a, b *inbox.Message) int { return cmp.Compare(a.Seq, b.Seq) })
		all = slices.CompactFunc(all, func(a, b *inbox.Message) bool { return a.Seq == b.Seq })
		return all[:min(len(all), limit)], nil
	}
	return nil, fmt.Errorf("unknown state %q", query.State)
}

// floor is the seq up to which everything of a source was acknowledged.
func (s *store) floor(ctx context.Context, i int) (uint64, error) {
	s.mu.Lock()
	consumer := s.sources[i].consumer
	s.mu.Unlock()
	info, err := consumer.Info(ctx)
	if err != nil {
		return 0, err
	}
	return info.AckFloor.Stream, nil
}

// headers goes through the headers of a stream's messages from a seq on, until take says that it is enough.
func (s *store) headers(ctx context.Context, stream, filter string, from uint64, batch int, take func([]jetstream.Msg) (more bool, err error)) error {
	return s.headersOf(ctx, stream, jetstream.ConsumerConfig{
		FilterSubject: filter, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: max(from, 1),
	}, batch, take)
}

// headersOf does it where a configuration says it to begin.
//
// The client waits for a second, and then says of a server that was silent what it says of one that has nothing. What comes
// later it throws away, and the server has no more of it. So what is read is counted.
func (s *store) headersOf(ctx context.Context, stream string, config jetstream.ConsumerConfig, batch int, take func([]jetstream.Msg) (more bool, err error)) error {
	config.Description, config.AckPolicy, config.HeadersOnly = "caddy inbox: a list", jetstream.AckNonePolicy, true
	config.InactiveThreshold, config.MemoryStorage, config.Replicas = 10*time.Second, true, 1
	consumer, err := s.js.CreateConsumer(ctx, stream, config)
	if err != nil {
		return err
	}
	defer s.tidy(func(ctx context.Context) error { return s.js.DeleteConsumer(ctx, stream, consumer.CachedInfo().Name) })
	read, left := uint64(0), consumer.CachedInfo().NumPending
	for begun := time.Now(); ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		fetched, err := consumer.FetchNoWait(batch)
		if err != nil {
			return err
		}
		var messages []jetstream.Msg
		for m := range fetched.Messages() {
			meta, err := m.Metadata()
			if err != nil {
				return err
			}
			if read++; meta.Sequence.Consumer != read {
				return fmt.Errorf("of %s, something was not read", stream)
			}
			left = meta.NumPending
			messages = append(messages, m)
		}
		if len(messages) == 0 {
			err := fetched.Error()
			// The other servers of a cluster need a moment until they know where the consumer is.
			if errors.Is(err, nats.ErrNoResponders) && time.Since(begun) < requestTimeout && s.sleep(ctx, 20*time.Millisecond) {
				continue
			}
			if err != nil || left == 0 {
				return err
			}
			info, err := consumer.Info(ctx) // it may have been removed meanwhile
			if err == nil && (info.NumPending > 0 || info.Delivered.Consumer > read) {
				err = fmt.Errorf("of %s, %d were not read", stream, left)
			}
			return err
		}
		more, err := take(messages)
		if err != nil || !more {
			return err
		}
	}
}

// parallel runs do for each index, a few at a time.
func parallel(number int, do func(i int) error) error {
	var all sync.WaitGroup
	errs := make([]error, number)
	slots := make(chan struct{}, 16)
	for i := range number {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			errs[i] = do(i)
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// scan looks through the messages for those of a state (empty: any).
func (s *store) scan(ctx context.Context, state inbox.State, after uint64, limit int) ([]*inbox.Message, error) {
	var found []*inbox.Message
	err := s.headers(ctx, s.names.messages, s.names.subject+"message.*", after+1, min(limit, 256), func(messages []jetstream.Msg) (bool, error) {
		page := make([]*inbox.Message, len(messages))
		err := parallel(len(messages), func(i int) error {
			meta, err := messages[i].Metadata()
			if err != nil {
				return err
			}
			m, err := decode(meta.Sequence.Stream, messages[i].Headers(), nil)
			if err != nil {
				return nil // not ours
			}
			st, err := s.standing(ctx, keyOf(m.Seq, messages[i].Headers()), messages[i].Headers())
			if err != nil {
				return err
			}
			st.fill(m)
			if state == "" || m.State == state {
				page[i] = m
			}
			return nil
		})
		for _, m := range page {
			if m != nil && len(found) < limit {
				found = append(found, m)
			}
		}
		return len(found) < limit, err
	})
	return found, err
}

// listRecorded lists the messages of which there is a record in a stream.
func (s *store) listRecorded(ctx context.Context, state inbox.State, stream, kind string, after uint64, limit int) ([]*inbox.Message, error) {
	var found []*inbox.Message
	first := after
	for len(found) < limit {
		recorded, err := s.lowest(ctx, stream, s.names.subject+kind, after, limit)
		if err != nil || len(recorded) == 0 {
			return found, err
		}
		page := make([]*inbox.Message, len(recorded))
		err = parallel(len(recorded), func(i int) error {
			kept, err := s.find(ctx, recorded[i].reference)
			if errors.Is(err, inbox.ErrNotFound) { // what is left of one that is no more; unless the server does not know it yet
				if time.Since(recorded[i].since) > time.Minute {
					s.forget(recorded[i].key)
				}
				return nil
			}
			if errors.Is(err, errUnreadable) { // the others are listed
				return nil
			}
			if err != nil {
				return err
			}
			m, err := s.read(ctx, kept)
			if err == nil && m.State == state && m.Seq > first {
				m.Request = nil
				page[i] = m
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		for _, m := range page {
			if m != nil && len(found) < limit {
				found = append(found, m)
			}
		}
		after = recorded[len(recorded)-1].seq
	}
	slices.SortStableFunc(found, func(a, b *inbox.Message) int { return cmp.Compare(a.Seq, b.Seq) }) // some may have moved
	return found, nil
}

// listed is a record that was found.
type listed struct {
	reference
	since time.Time
}

// lowest returns the records of a stream that are of the messages with the lowest seqs above one.
func (s *store) lowest(ctx context.Context, stream, filter string, after uint64, limit int) ([]listed, error) {
	var all []listed
	best := func() {
		slices.SortFunc(all, func(a, b listed) int { return cmp.Or(cmp.Compare(a.seq, b.seq), strings.Compare(a.key, b.key)) })
		all = slices.CompactFunc(all, func(a, b listed) bool { return a.key == b.key })
		end := min(len(all), limit)
		for end > 0 && end < len(all) && all[end].seq == all[end-1].seq { // the next page begins behind this seq
			end++
		}
		all = all[:end]
	}
	err := s.headers(ctx, stream, filter, 1, 1000, func(messages []jetstream.Msg) (bool, error) {
		for _, m := range messages {
			of := s.names.referred(m.Subject(), m.Headers())
			if of.seq <= after {
				continue
			}
			meta, err := m.Metadata()
			if err != nil {
				return false, err
			}
			all = append(all, listed{of, meta.Timestamp})
		}
		if len(all) > 4*limit {
			best()
		}
		return true, nil
	})
	best()
	return all, err
}

// soon is how near the next try must be for Redeliver to leave it alone: it may be handed out at this moment.
const soon = 2 * time.Second

// Redeliver makes a message due. A settled one is stored anew, with another seq. That one is being delivered is known of
// this process's deliveries only; another gateway's is left alone, as it is pending anyway.
func (s *store) Redeliver(ctx context.Context, seq uint64, force bool) (uint64, error) {
	if err := s.usable(); err != nil {
		return 0, err
	}
	kept, err := s.getSeq(ctx, s.names.messages, seq)
	if err != nil {
		return 0, err
	}
	m, err := s.read(ctx, kept)
	if err != nil {
		return 0, err
	}
	of := referenceOf(kept.Subject, kept.Sequence, kept.header)
	s.mu.Lock()
	held := s.held[of.key]
	s.mu.Unlock()
	switch {
	case held != nil && time.Now().Before(held.until):
		return 0, inbox.ErrLeased
	case m.State == inbox.Pending:
		return seq, s.hurry(ctx, of, m.Received)
	case m.State == inbox.Delivered && !force:
		return 0, inbox.ErrDelivered
	case kept.header.Get(headerDropped) != "":
		return 0, inbox.ErrNoRequest
	}
	put := rand.Text()
	wire := encode(kept.Subject, m, put)
	wire.Data = kept.Data
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	_, again, err := s.replace(ctx, wire, put, func(last uint64, st standing) (inbox.Receipt, error) {
		switch {
		case last == seq:
			return inbox.Revived, nil
		case st.state == inbox.Pending: // somebody was faster
			return inbox.Repeated, nil
		}
		return 0, inbox.ErrNotFound
	})
	return again, err
}

// hurry ends a message's wait for its retry. Its place in the queue is given up for a new one.
func (s *store) hurry(ctx context.Context, of reference, received time.Time) error {
	r, err := s.getRecord(ctx, s.names.retry, s.names.note(of.key))
	if err != nil || r == nil || s.left(r) < soon {
		return err
	}
	entry := rand.Text()
	r.Due, r.Delay, r.Entry = s.clock(), 0, entry
	note, err := s.names.noting(of, r)
	if err != nil {
		return err
	}
	if err := s.persist(ctx, s.names.retry, note, -1); err != nil {
		return err
	}
	old, err := s.getLast(ctx, s.names.retry, s.names.entry(of.key))
	if err != nil && !errors.Is(err, inbox.ErrNotFound) {
		return err
	}
	if err := s.persist(ctx, s.names.retry, s.names.entering(of, entry, received), -1); err != nil {
		return err
	}
	if old != nil {
		s.abolish(ctx, old)
	}
	return nil
}

// abolish tells the server that an entry which another has replaced is not to be handed out: it would look for it again and
// again. It takes an acknowledgment of whatever it has handed out.
func (s *store) abolish(ctx context.Context, old *raw) {
	s.mu.Lock()
	consumer := s.sources[1].consumer
	s.mu.Unlock()
	if info, err := consumer.Info(ctx); err == nil {
		s.ack(fmt.Sprintf("$JS.ACK.%s.%s.1.%d.%d.%d.0", s.names.retry, consumerName, old.Sequence, info.Delivered.Consumer, old.Time.UnixNano()))
	}
}

// oldest is what was found last for Stats.
type oldest struct {
	floor    uint64
	received time.Time
}

// Stats counts: a message is in one stream, and its record in another if it is settled.
func (s *store) Stats(ctx context.Context) (inbox.Stats, error) {
	if err := s.usable(); err != nil {
		return inbox.Stats{}, err
	}
	var states [3]jetstream.StreamState
	err := parallel(3, func(i int) error {
		stream, err := s.js.Stream(ctx, []string{s.names.messages, s.names.delivered, s.names.dead}[i])
		if err == nil {
			states[i] = stream.CachedInfo().State
		}
		return err
	})
	if err != nil {
		return inbox.Stats{}, err
	}
	stats := inbox.Stats{
		Delivered: int64(states[1].Msgs), Dead: int64(states[2].Msgs), Bytes: int64(states[0].Bytes),
		Pending: max(int64(states[0].Msgs)-int64(states[1].Msgs)-int64(states[2].Msgs), 0),
	}
	if stats.Pending == 0 {
		return stats, nil
	}
	for i := range 2 {
		received, err := s.oldestOf(ctx, i)
		if err != nil {
			return inbox.Stats{}, err
		}
		if !received.IsZero() && (stats.Oldest.IsZero() || received.Before(stats.Oldest)) {
			stats.Oldest = received
		}
	}
	return stats, nil
}

// oldestOf returns when the first message of a source that was not acknowledged was received. While the server's floor stands
// still, it is the same message.
func (s *store) oldestOf(ctx context.Context, i int) (time.Time, error) {
	floor, err := s.floor(ctx, i)
	if err != nil {
		return time.Time{}, err
	}
	s.mu.Lock()
	last := s.oldest[i]
	s.mu.Unlock()
	if last.floor == floor && !last.received.IsZero() {
		return last.received, nil
	}
	stream, filter := s.names.messages, everything
	if i == 1 {
		stream, filter = s.names.retry, s.names.subject+"retry.*.entry"
	}
	from := floor + 1
	for range 16 { // what is settled, and its acknowledgment on its way
		next, err := s.getNext(ctx, stream, filter, from)
		if errors.Is(err, inbox.ErrNotFound) {
			return time.Time{}, nil
		}
		if err != nil {
			return time.Time{}, err
		}
		from = next.Sequence + 1
		key := keyOf(next.Sequence, next.header)
		if i == 1 {
			key = s.names.referred(next.Subject, next.header).key
		}
		st, err := s.standing(ctx, key, next.header)
		if err != nil {
			return time.Time{}, err
		}
		received, err := time.Parse(time.RFC3339Nano, next.header.Get(headerReceived))
		if err != nil || st.state != inbox.Pending {
			continue
		}
		s.mu.Lock()
		s.oldest[i] = oldest{floor, received}
		s.mu.Unlock()
		return received, nil
	}
	return time.Time{}, nil
}

// Interface guard.
var _ inbox.Store = (*store)(nil)
