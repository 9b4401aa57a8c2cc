package natsstore

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
	"github.com/caddy-chinaums/caddy-chinaums/internal/natsconn"
)

// How long things take at most. All of them are bounds, not costs.
const (
	storeTimeout = 5 * time.Second  // all tries of one Put or of one claim
	setupTimeout = 20 * time.Second // making the streams, once
	pullTime     = 30 * time.Second // one question for the next messages
	heartbeat    = 2 * time.Second  // of a server that is asked, and has nothing
	linger       = time.Second / 2  // how long a message that nobody waits for any more is kept for the next who asks
	firstPause   = 20 * time.Millisecond
	longestPause = 500 * time.Millisecond // between tries
)

type store struct {
	config     *Nats
	names      names
	logger     *zap.Logger
	connection *natsconn.Conn
	js         jetstream.JetStream
	clock      func() time.Time

	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	work    sync.WaitGroup // what runs in the background
	closing sync.Once

	applies sync.Mutex    // one apply at a time
	ready   chan struct{} // closed when apply has succeeded; then the next two are set
	// The streams and, as in queues, the consumers.
	messages, claims jetstream.Stream
	consumers        []jetstream.Consumer

	stir    chan struct{} // asks for a look whether everything is in place
	ackWait atomic.Int64  // of the consumers, in nanoseconds

	mu       sync.Mutex
	settings inbox.Settings
	problem  error     // why it is not ready
	used     int64     // bytes, as last read and counted since
	usedAt   time.Time // when they were read

	want   atomic.Int64     // callers of Lease that wait
	wanted [2]chan struct{} // of new ones and of retries: somebody waits
	handed chan jetstream.Msg
	room   chan struct{} // held by who makes room

	handedAt atomic.Int64  // when a caller of Lease got something, in Unix nanoseconds
	turns    chan struct{} // held by who puts while deliveries lag behind
}

// open connects, and tries for a while to make everything. Otherwise that goes on in the background, unless the error is one
// that will not pass by itself.
func open(ctx context.Context, config *Nats, name string, settings inbox.Settings, logger *zap.Logger) (*store, error) {
	s := &store{
		config: config, names: newNames(name), logger: logger, settings: settings, clock: config.clock,
		ready: make(chan struct{}), stir: make(chan struct{}, 1), handed: make(chan jetstream.Msg), room: make(chan struct{}, 1),
		turns:   make(chan struct{}, putsAtOnce),
		problem: errors.New("not connected yet"),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	var err error
	if s.connection, err = config.Connect("inbox", name, logger, func() { signal(s.stir) }); err != nil {
		s.cancel()
		return nil, err
	}
	s.js = s.connection.JetStream
	if err := s.connection.Start(ctx, "requests", s.apply); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.work.Go(s.lookAfter)
	for i := range s.wanted {
		s.wanted[i] = make(chan struct{}, 1)
		s.work.Go(func() { s.pull(i) })
	}
	return s, nil
}

// signal wakes whoever waits for it, now or the next time.
func signal(waiting chan<- struct{}) {
	select {
	case waiting <- struct{}{}:
	default:
	}
}

// lookAfter makes what is missing, now and then and whenever it is asked to, and looks whether the consumers know what the stream
// has.
func (s *store) lookAfter() {
	differs := make([]int, len(queues))
	pause, wait := s.config.patience/6, firstPause
	if !s.isReady() {
		pause = 0
	}
	for {
		inTime := false
		select {
		case <-s.ctx.Done():
			return
		case <-s.stir:
		case <-time.After(pause):
			inTime = true
		}
		ctx, cancel := context.WithTimeout(s.ctx, setupTimeout)
		err := s.apply(ctx)
		switch {
		case err != nil:
			pause, wait = wait, min(2*wait, 5*time.Second)
			if s.ctx.Err() == nil && natsconn.IsUnfit(err) {
				s.logger.Error("inbox cannot use NATS", s.config.Error(err))
			} else {
				s.logger.Debug("inbox not ready yet", s.config.Error(err))
			}
		case inTime && s.agree(ctx, differs):
			pause, wait = s.config.patience, firstPause
		default:
			pause, wait = s.config.patience/6, firstPause
		}
		cancel()
	}
}

// agree compares what each consumer knows with what the stream has, and makes one again that is wrong.
func (s *store) agree(ctx context.Context, differs []int) bool {
	all, whole := true, s.whole(ctx)
	for i, queue := range queues {
		what, err := s.differs(ctx, i, whole)
		if err == nil && what == "" {
			differs[i] = 0
			continue
		}
		all = false
		if err == nil {
			differs[i]++
		}
		if differs[i] >= 3 { // an inbox that is busy may differ once
			differs[i] = 0
			s.logger.Warn("a consumer of the inbox is wrong; it is made again", zap.String("consumer", queue[0]), zap.String("problem", what))
			err = s.js.DeleteConsumer(ctx, s.names.messages, queue[0])
			signal(s.stir)
		}
		if err != nil {
			s.logger.Debug("inbox could not look after a consumer", s.config.Error(err))
		}
	}
	return all
}

// whole reports whether the consumers together know as many messages as the stream has, which is cheap to ask.
func (s *store) whole(ctx context.Context) bool {
	for range 5 { // an inbox that is busy may differ
		before, err := s.counts(ctx)
		messages, _, failed := s.usage(ctx)
		after, failedToo := s.counts(ctx)
		a, b := before.Pending+before.Delivered+before.Dead, after.Pending+after.Delivered+after.Dead
		if errors.Join(err, failed, failedToo) == nil && min(a, b) <= messages && messages <= max(a, b) {
			return true
		}
	}
	return false
}

// differs says what is wrong with a consumer: it has forgotten something, or counts what is no more, or does not hand out what has
// been due for long, though somebody waits for it.
func (s *store) differs(ctx context.Context, i int, whole bool) (string, error) {
	before, err := s.known(ctx, i)
	if err != nil {
		return "", err
	}
	waits := s.want.Load() > 0 && i < len(s.wanted) && before > 0
	if whole && !waits {
		return "", nil
	}
	page, read, overdue := 1, 0, false
	if waits {
		page = 100
	}
	there, err := s.each(ctx, queues[i], 0, page, func(m *inbox.Message) bool {
		due := m.Received
		if m.Due.After(due) {
			due = m.Due
		}
		read++
		overdue = waits && s.clock().Sub(due) > time.Duration(s.ackWait.Load())+s.config.patience
		return waits && !overdue && read < 1000
	})
	if err != nil {
		return "", err
	}
	known, err := s.known(ctx, i)
	switch {
	case err != nil:
		return "", err
	case there < min(before, known) || there > max(before, known): // it may change meanwhile
		return fmt.Sprintf("it knows %d messages of %d", known, there), nil
	case overdue:
		return "it does not hand out what is due", nil
	}
	return "", nil
}

// known is how many messages a consumer has still to hand out, or has handed out.
func (s *store) known(ctx context.Context, i int) (number int64, err error) {
	err = s.ask(ctx, func(ctx context.Context) error {
		info, err := s.consumers[i].Info(ctx)
		if err == nil {
			number = int64(info.NumPending) + int64(info.NumAckPending)
		}
		return err
	})
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		signal(s.stir)
	}
	return number, err
}

// apply makes the streams and the consumers where they are absent, checks them where they are there, and sets what the
// settings say.
func (s *store) apply(ctx context.Context) (err error) {
	s.applies.Lock()
	defer s.applies.Unlock()
	s.mu.Lock()
	settings := s.settings
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.problem = err
	}()
	if !s.connection.IsConnected() {
		return errors.New("not connected")
	}
	if err := natsconn.CheckVersion(s.connection.ConnectedServerVersion()); err != nil {
		return err
	}
	messages, err := s.ensureStream(ctx, s.stream(s.names.messages, "requests that the app has taken, or is still to take", s.names.filters(statesOf[""])...))
	if err != nil {
		return err
	}
	claims, err := s.ensureStream(ctx, s.stream(s.names.claims, "who delivers what at this moment", s.names.subject+"claim.*.*"))
	if err != nil {
		return err
	}
	var consumers []jetstream.Consumer
	var wait time.Duration
	for _, queue := range queues {
		consumer, effective, err := s.ensureConsumer(ctx, queue, settings.Lease+s.config.slack)
		if err != nil {
			return err
		}
		consumers, wait = append(consumers, consumer), max(wait, effective)
	}
	s.ackWait.Store(int64(wait))
	if !s.isReady() {
		s.messages, s.claims, s.consumers = messages, claims, consumers
		close(s.ready)
	}
	return nil
}

func (s *store) isReady() bool {
	select {
	case <-s.ready:
		return true
	default:
		return false
	}
}

// queues are the consumers. The first two hand out what is to be delivered: two, as a server hands out what it hands out again
// before all that is new, and many retries would keep first deliveries waiting. The others only count.
var queues = [][]string{{stateNew}, {stateRetry}, {stateDelivered, stateDropped}, {stateDead}}

func (s *store) stream(name, description string, subjects ...string) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: name, Description: "caddy inbox: " + description, Subjects: subjects,
		Retention: jetstream.LimitsPolicy, Storage: jetstream.FileStorage, Replicas: s.config.Replicas,
		Discard: jetstream.DiscardNew, MaxMsgs: -1, MaxBytes: -1, MaxMsgsPerSubject: 1,
		MaxMsgSize: -1, MaxConsumers: -1, AllowMsgTTL: true,
	}
}

// ensureStream makes a stream, or checks the one that is there.
func (s *store) ensureStream(ctx context.Context, want jetstream.StreamConfig) (jetstream.Stream, error) {
	existing, err := s.js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		existing, err = s.js.CreateStream(ctx, want)
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // another gateway was faster
			existing, err = s.js.Stream(ctx, want.Name)
		} else if err == nil {
			s.logger.Info("inbox made a stream", zap.String("stream", want.Name), zap.Int("replicas", want.Replicas))
		}
	}
	switch {
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		return nil, fmt.Errorf("nats: JetStream is not enabled, on the server or for the account: %w", err)
	case err != nil:
		return nil, fmt.Errorf("nats: stream %s: %w", want.Name, err)
	}
	have := existing.CachedInfo().Config
	if problem := otherwise(have, want, "subjects", "retention", "storage", "discard", "discard_new_per_subject", "max_msgs", "max_bytes",
		"max_msgs_per_subject", "max_age", "allow_msg_ttl", "allow_direct", "no_ack", "sealed", "deny_delete", "deny_purge", "mirror", "sources"); problem != "" {
		return nil, natsconn.Unfitf("nats: the stream %s is not as the inbox needs it: %s", want.Name, problem)
	}
	if have.Replicas != want.Replicas && !s.isReady() {
		s.logger.Warn("inbox stream has another number of replicas; change it with `nats stream edit`, or the configuration",
			zap.String("stream", want.Name), zap.Int("has", have.Replicas), zap.Int("configured", want.Replicas))
	}
	return existing, nil
}

// otherwise says which of some settings, by their names in JSON, are not as they must be.
func otherwise(have, want any, names ...string) string {
	var settings [2]map[string]json.RawMessage
	for i, config := range []any{have, want} {
		var encoded bytes.Buffer
		encoder := json.NewEncoder(&encoded)
		encoder.SetEscapeHTML(false)
		_ = encoder.Encode(config) // it always can be
		_ = json.Unmarshal(encoded.Bytes(), &settings[i])
	}
	var differ []string
	for _, name := range names {
		if is, must := settings[0][name], settings[1][name]; !bytes.Equal(is, must) {
			differ = append(differ, fmt.Sprintf("%s is %s, must be %s", name, cmp.Or(string(is), "not set"), cmp.Or(string(must), "not set")))
		}
	}
	return strings.Join(differ, "; ")
}

// ensureConsumer makes a consumer, or checks the one that is there, and returns its AckWait. That only grows: gateways with
// different timeouts may share it.
func (s *store) ensureConsumer(ctx context.Context, queue []string, ackWait time.Duration) (jetstream.Consumer, time.Duration, error) {
	want := jetstream.ConsumerConfig{
		Durable: queue[0], Description: "caddy inbox", DeliverPolicy: jetstream.DeliverAllPolicy, AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: ackWait, MaxDeliver: -1, MaxAckPending: -1, ReplayPolicy: jetstream.ReplayInstantPolicy,
	}
	if filters := s.names.filters(queue); len(filters) == 1 {
		want.FilterSubject = filters[0]
	} else {
		want.FilterSubjects = filters
	}
	existing, err := s.js.Consumer(ctx, s.names.messages, want.Durable)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		existing, err = s.js.CreateConsumer(ctx, s.names.messages, want)
		if errors.Is(err, jetstream.ErrConsumerExists) {
			existing, err = s.js.Consumer(ctx, s.names.messages, want.Durable)
		}
	}
	if err != nil {
		return nil, 0, fmt.Errorf("nats: consumer %s of %s: %w", want.Durable, s.names.messages, err)
	}
	have := existing.CachedInfo().Config
	if problem := otherwise(have, want, "filter_subject", "filter_subjects", "deliver_policy", "deliver_subject", "ack_policy", "max_deliver",
		"max_ack_pending", "headers_only", "pause_until", "backoff"); problem != "" {
		return nil, 0, natsconn.Unfitf("nats: the consumer %s of the stream %s is not as the inbox needs it: %s; delete it, and it is made anew",
			want.Durable, s.names.messages, problem)
	}
	if have.AckWait >= ackWait {
		return existing, have.AckWait, nil
	}
	have.AckWait = ackWait
	if existing, err = s.js.UpdateConsumer(ctx, s.names.messages, have); err != nil {
		return nil, 0, fmt.Errorf("nats: consumer %s of %s: %w", want.Durable, s.names.messages, err)
	}
	return existing, ackWait, nil
}

// Configure changes the settings. Where the server is out of reach they are set once it is back.
func (s *store) Configure(settings inbox.Settings) error {
	if s.ctx.Err() != nil {
		return inbox.ErrClosed
	}
	s.mu.Lock()
	s.settings = settings
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(s.ctx, storeTimeout)
	defer cancel()
	err := s.apply(ctx)
	if err != nil && !natsconn.IsUnfit(err) {
		s.logger.Warn("inbox settings wait for NATS", s.config.Error(err))
		signal(s.stir)
		return nil
	}
	return err
}

// usable returns why nothing can be stored or read now.
func (s *store) usable() error {
	s.mu.Lock()
	problem := s.problem
	s.mu.Unlock()
	switch {
	case s.ctx.Err() != nil:
		return inbox.ErrClosed
	case !s.isReady():
		return fmt.Errorf("NATS JetStream is not ready: %s", s.config.Redact(problem))
	}
	return nil
}

// sleep waits, and reports false where ctx or the store ends.
func (s *store) sleep(ctx context.Context, pause time.Duration) bool {
	select {
	case <-time.After(pause):
		return true
	case <-ctx.Done():
		return false
	case <-s.ctx.Done():
		return false
	}
}

// Close ends all that waits and runs, and the connection.
func (s *store) Close() error {
	s.closing.Do(func() {
		s.cancel()
		s.work.Wait()
		// What was given back without waiting is with the server before the connection ends.
		if s.connection.IsConnected() {
			_ = s.connection.FlushTimeout(natsconn.RequestTimeout)
		}
		s.connection.Close()
	})
	return nil
}
