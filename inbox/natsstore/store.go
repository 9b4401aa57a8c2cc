package natsstore

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
)

// How long things take at most. All of them are bounds, not costs.
const (
	requestTimeout = 2 * time.Second  // one question to a server, before it is asked again
	storeTimeout   = 5 * time.Second  // all tries of one Put or of one claim
	openTimeout    = 5 * time.Second  // before Open returns with a server that is not there yet
	setupTimeout   = 20 * time.Second // making the streams, once
	pullTime       = 30 * time.Second // one question for the next messages
	heartbeat      = 2 * time.Second  // of a server that is asked, and has nothing
	linger         = time.Second / 2  // how long a message that nobody waits for any more is kept for the next who asks
	firstPause     = 20 * time.Millisecond
	longestPause   = 500 * time.Millisecond // between tries
)

// minimum is the oldest server that will do: it has per-message TTLs, and compares expected sequences for subjects with wildcards.
var minimum = [2]int{2, 11}

// unfit is an error that does not pass by itself.
type unfit struct{ error }

func (u unfit) Unwrap() error { return u.error }

func unfitf(format string, args ...any) error { return unfit{fmt.Errorf(format, args...)} }

type store struct {
	config     *Nats
	names      names
	logger     *zap.Logger
	connection *nats.Conn
	js         jetstream.JetStream
	clock      func() time.Time

	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	work    sync.WaitGroup // what runs in the background
	closing sync.Once

	kick    chan struct{} // asks for apply
	applies sync.Mutex    // one apply at a time
	ready   chan struct{} // closed when apply has succeeded
	ackWait atomic.Int64  // of the consumers, in nanoseconds
	silent  atomic.Int32  // questions in a row that the server has not answered
	asking  atomic.Bool   // whether it is being looked up if the server answers at all

	mu        sync.Mutex
	settings  inbox.Settings
	problem   error // why it is not ready
	isReady   bool
	want      int // callers of Lease that wait
	streams   map[string]jetstream.Stream
	consumers []jetstream.Consumer // as in queues
	used      int64                // bytes, as last read and counted since
	usedAt    time.Time            // when they were read

	connected  context.Context // ends when the connection does
	disconnect context.CancelFunc

	wanted [2]chan struct{} // of new ones and of retries: somebody waits
	handed chan jetstream.Msg
	room   chan struct{} // held by who makes room

	troubled chan struct{} // asks for a look at the consumers
}

// open connects, waits a while until everything is made, and otherwise goes on in the background. Errors that will not pass
// by themselves are returned if they show in that while.
func open(ctx context.Context, config *Nats, name string, settings inbox.Settings, logger *zap.Logger) (*store, error) {
	s := &store{
		config: config, names: newNames(name), logger: logger, settings: settings, clock: config.clock,
		kick: make(chan struct{}, 1), ready: make(chan struct{}), handed: make(chan jetstream.Msg), room: make(chan struct{}, 1), troubled: make(chan struct{}, 1),
		problem: errors.New("not connected yet"),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.connected, s.disconnect = context.WithCancel(s.ctx)
	if err := s.connect(name); err != nil {
		s.cancel()
		return nil, err
	}
	found := make(chan error, 1)
	s.work.Go(func() { s.keepReady(found) })
	s.work.Go(s.watch)
	for i := range s.wanted {
		s.wanted[i] = make(chan struct{}, 1)
		s.work.Go(func() { s.pull(i) })
	}

	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	select {
	case <-s.ready:
		return s, nil
	case err := <-found:
		_ = s.Close()
		return nil, err
	case <-ctx.Done():
		if err := s.connection.LastError(); refused(err) && !s.connection.IsConnected() {
			_ = s.Close()
			return nil, fmt.Errorf("nats: the servers refuse the connection: %s", config.redact(err))
		}
		s.logger.Warn("inbox not ready: NATS JetStream is not reachable; requests are answered 503 until it is",
			zap.Strings("servers", config.hosts()), zap.String("error", s.whyNot()))
		return s, nil
	}
}

// refused reports whether a server was reached, and did not accept the credentials.
func refused(err error) bool {
	return errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired) || errors.Is(err, nats.ErrAuthRevoked) ||
		errors.Is(err, nats.ErrAccountAuthExpired)
}

func (s *store) connect(name string) error {
	settings := nats.GetDefaultOptions()
	settings.Servers = s.config.servers // one by one: nats.Connect takes them in one text, and a comma of a password would end one
	options := []nats.Option{
		nats.Name("caddy inbox " + name),
		nats.MaxReconnects(-1),
		nats.RetryOnFailedConnect(true),
		nats.IgnoreAuthErrorAbort(), // credentials may be mended on the server's side
		nats.ReconnectWait(500 * time.Millisecond),
		nats.ReconnectJitter(250*time.Millisecond, 500*time.Millisecond),
		nats.ReconnectBufSize(-1), // what cannot be sent now has failed: it must not be sent behind the caller's back later
		nats.PingInterval(10 * time.Second),
		nats.MaxPingsOutstanding(2),
		nats.Timeout(2 * time.Second),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err == nil || s.ctx.Err() != nil {
				return
			}
			s.logger.Warn("inbox disconnected from NATS", zap.String("error", s.config.redact(err)))
		}),
		nats.ConnectHandler(func(c *nats.Conn) { s.greet(c, "inbox connected to NATS") }),
		nats.ReconnectHandler(func(c *nats.Conn) { s.greet(c, "inbox connected to NATS again") }),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) {
			s.logger.Debug("inbox cannot connect to NATS", zap.String("error", s.config.redact(err)))
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			s.logger.Warn("NATS reports an error", zap.String("error", s.config.redact(err)))
		}),
	}
	if s.config.Creds != "" {
		options = append(options, nats.UserCredentials(s.config.Creds))
	}
	if s.config.CA != "" {
		options = append(options, nats.RootCAs(s.config.CA))
	}
	if s.config.CertFile != "" {
		options = append(options, nats.ClientCert(s.config.CertFile, s.config.KeyFile))
	}
	for _, option := range options {
		if err := option(&settings); err != nil {
			return fmt.Errorf("nats: cannot connect: %s", s.config.redact(err))
		}
	}
	connection, err := settings.Connect()
	if err != nil {
		return fmt.Errorf("nats: cannot connect: %s", s.config.redact(err))
	}
	s.connection = connection
	if s.js, err = jetstream.New(connection); err != nil {
		connection.Close()
		return fmt.Errorf("nats: %s", s.config.redact(err))
	}
	return nil
}

// greet is called with each new connection.
func (s *store) greet(c *nats.Conn, words string) {
	s.mu.Lock()
	s.disconnect()
	s.connected, s.disconnect = context.WithCancel(s.ctx)
	s.mu.Unlock()
	s.silent.Store(0)
	version := c.ConnectedServerVersion()
	s.logger.Info(words, zap.String("server", address(c.ConnectedUrl())), zap.String("version", version))
	s.wake()
	signal(s.troubled)
}

// address is a server's URL without user, password and token.
func address(server string) string {
	parsed, err := url.Parse(server)
	if err != nil || parsed.Host == "" {
		return ""
	}
	return parsed.Scheme + "://" + parsed.Host
}

// wake asks for a look whether everything is in place.
func (s *store) wake() { signal(s.kick) }

// signal wakes whoever waits for it, now or the next time.
func signal(waiting chan<- struct{}) {
	select {
	case waiting <- struct{}{}:
	default:
	}
}

// keepReady makes what is missing, at first and whenever it is asked to. What does not pass by itself goes to found.
func (s *store) keepReady(found chan<- error) {
	wait := 100 * time.Millisecond
	for {
		ctx, cancel := context.WithTimeout(s.ctx, setupTimeout)
		err := s.apply(ctx)
		cancel()
		if s.ctx.Err() != nil {
			return
		}
		var permanent unfit
		switch {
		case err == nil:
			wait = 100 * time.Millisecond
		case errors.As(err, &permanent):
			select {
			case found <- err: // Open still waits, or never asks
			default:
			}
			s.logger.Error("inbox cannot use NATS", zap.String("error", s.config.redact(err)))
			wait = max(wait, 5*time.Second)
		default:
			s.logger.Debug("inbox not ready yet", zap.String("error", s.config.redact(err)))
		}
		pause := time.Duration(0)
		if err != nil {
			pause = wait
			wait = min(2*wait, 5*time.Second)
		}
		if !s.await(pause, s.kick) {
			return
		}
		if err == nil && !s.sleep(s.ctx, 50*time.Millisecond) { // a server that has just come back may need a moment
			return
		}
	}
}

// await waits for a signal, or a time at most if it is not 0; false where the store ends.
func (s *store) await(wait time.Duration, signal <-chan struct{}) bool {
	var ends <-chan time.Time
	if wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		ends = timer.C
	}
	select {
	case <-ends:
	case <-signal:
	case <-s.ctx.Done():
		return false
	}
	return true
}

// whyNot says why the store is not ready, without secrets.
func (s *store) whyNot() string {
	if err := s.connection.LastError(); err != nil && !s.connection.IsConnected() {
		return s.config.redact(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.problem == nil {
		return ""
	}
	return s.config.redact(s.problem)
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
		if err == nil && !s.isReady {
			s.isReady = true
			close(s.ready)
		}
	}()
	if !s.connection.IsConnected() {
		return errors.New("not connected")
	}
	if err := checkVersion(s.connection.ConnectedServerVersion()); err != nil {
		return err
	}
	streams := map[string]jetstream.Stream{}
	for _, want := range []jetstream.StreamConfig{
		s.stream(s.names.messages, "requests that the app has taken, or is still to take", s.names.filters(statesOf[""])...),
		s.stream(s.names.claims, "who delivers what at this moment", s.names.subject+"claim.*.*"),
	} {
		stream, err := s.ensureStream(ctx, want)
		if err != nil {
			return err
		}
		streams[want.Name] = stream
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
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams, s.consumers = streams, consumers
	return nil
}

// queues are the consumers. The first two hand out what is to be delivered: two, as a server hands out what it hands out again
// before all that is new, and many retries would keep first deliveries waiting. The others only count.
var queues = [][]string{{stateNew}, {stateRetry}, {stateDelivered, stateDropped}, {stateDead}}

func checkVersion(version string) error {
	var major, minor int
	if _, err := fmt.Sscanf(version, "%d.%d", &major, &minor); err != nil {
		return unfitf("nats: the server's version %.32q cannot be read; it must be %d.%d or later", version, minimum[0], minimum[1])
	}
	if major < minimum[0] || major == minimum[0] && minor < minimum[1] {
		return unfitf("nats: the server's version is %.32s; it must be %d.%d or later", version, minimum[0], minimum[1])
	}
	return nil
}

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
	var differs []string
	differ := func(what string, have, want any) {
		if fmt.Sprint(have) != fmt.Sprint(want) {
			differs = append(differs, fmt.Sprintf("%s is %v, must be %v", what, have, want))
		}
	}
	differ("subjects", have.Subjects, want.Subjects)
	differ("retention", have.Retention, want.Retention)
	differ("storage", have.Storage, want.Storage)
	differ("discard", have.Discard, want.Discard)
	differ("max_msgs", have.MaxMsgs, want.MaxMsgs)
	differ("max_bytes", have.MaxBytes, want.MaxBytes)
	differ("max_msgs_per_subject", have.MaxMsgsPerSubject, want.MaxMsgsPerSubject)
	differ("discard_new_per_subject", have.DiscardNewPerSubject, false)
	differ("allow_direct", have.AllowDirect, false)
	differ("no_ack", have.NoAck, false)
	differ("sealed", have.Sealed, false)
	differ("deny_delete", have.DenyDelete, false)
	differ("deny_purge", have.DenyPurge, false)
	differ("mirror", have.Mirror != nil, false)
	differ("sources", len(have.Sources), 0)
	differ("max_age", have.MaxAge, want.MaxAge)
	differ("allow_msg_ttl", have.AllowMsgTTL, true)
	if len(differs) > 0 {
		return nil, unfitf("nats: the stream %s is not as the inbox needs it: %s", want.Name, strings.Join(differs, "; "))
	}
	if have.Replicas != want.Replicas {
		s.logger.Warn("inbox stream has another number of replicas; change it with `nats stream edit`, or the configuration",
			zap.String("stream", want.Name), zap.Int("has", have.Replicas), zap.Int("configured", want.Replicas))
	}
	return existing, nil
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
	if have.AckPolicy != want.AckPolicy || have.DeliverPolicy != want.DeliverPolicy || have.MaxDeliver > 0 || have.MaxAckPending > 0 ||
		have.FilterSubject != want.FilterSubject || !slices.Equal(have.FilterSubjects, want.FilterSubjects) || have.DeliverSubject != "" ||
		have.HeadersOnly || have.PauseUntil != nil || len(have.BackOff) > 0 {
		return nil, 0, unfitf("nats: the consumer %s of the stream %s is not as the inbox needs it: a pull consumer of %s with explicit acks, "+
			"deliver policy all, and no limit of deliveries or of pending acks; delete it, and it is made anew",
			want.Durable, s.names.messages, strings.Join(s.names.filters(queue), " and "))
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
	ready := s.isReady
	s.mu.Unlock()
	if !ready {
		s.wake()
		return nil
	}
	ctx, cancel := context.WithTimeout(s.ctx, openTimeout)
	defer cancel()
	err := s.apply(ctx)
	var permanent unfit
	if errors.As(err, &permanent) {
		return err
	}
	if err != nil {
		s.logger.Warn("inbox settings wait for NATS", zap.String("error", s.config.redact(err)))
		s.wake()
	}
	return nil
}

// handle is for questions about a stream.
func (s *store) handle(stream string) jetstream.Stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.streams[stream]
}

// usable returns why nothing can be stored or read now.
func (s *store) usable() error {
	s.mu.Lock()
	ready, problem := s.isReady, s.problem
	s.mu.Unlock()
	switch {
	case s.ctx.Err() != nil:
		return inbox.ErrClosed
	case !ready:
		return fmt.Errorf("NATS JetStream is not ready: %s", s.config.redact(problem))
	}
	return nil
}

// sleep waits, and reports false where ctx or the store ends.
func (s *store) sleep(ctx context.Context, pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	case <-s.ctx.Done():
		return false
	}
}

// heard notes whether the server answers. One that has hung closes no connection: after two questions in vain it is asked for a
// sign of life, and if there is none, another server is taken.
func (s *store) heard(ctx context.Context, err error) {
	if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, nats.ErrTimeout) && !errors.Is(err, jetstream.ErrNoHeartbeat) {
		s.silent.Store(0)
		return
	}
	if ctx.Err() != nil || s.silent.Add(1) < 2 || !s.asking.CompareAndSwap(false, true) {
		return
	}
	go func() {
		defer s.asking.Store(false)
		s.silent.Store(0)
		if !s.connection.IsConnected() || s.connection.FlushTimeout(requestTimeout/2) == nil {
			return // it lives; perhaps another one leads, and does not
		}
		s.logger.Warn("the NATS server does not answer; the inbox takes another", zap.String("server", address(s.connection.ConnectedUrl())))
		if err := s.connection.ForceReconnect(); err != nil && s.ctx.Err() == nil {
			s.logger.Warn("inbox cannot reconnect to NATS", s.zapError(err))
		}
	}()
}

func (s *store) zapError(err error) zap.Field { return zap.String("error", s.config.redact(err)) }

// watch looks now and then whether the consumers know what the stream has, and sooner after trouble. One that has forgotten
// something, or counts what is no more, is deleted and made again: it then hands out everything that is to be delivered, and
// claims keep apart what is in flight.
func (s *store) watch() {
	differs := make([]int, len(queues))
	for pause := s.config.patience; s.await(pause, s.troubled); {
		if pause = s.config.patience; s.usable() != nil {
			continue
		}
		for i, queue := range queues {
			known, there, err := s.compare(i)
			if err != nil { // trouble still
				pause = s.config.patience / 6
			} else if known == there {
				differs[i] = 0
			} else if differs[i]++; differs[i] < 3 { // an inbox that is busy may differ once
				pause = s.config.patience / 6
			} else {
				s.logger.Warn("a consumer of the inbox differs from its stream; it is made again", zap.String("consumer", queue[0]),
					zap.Int64("knows", known), zap.Int64("stored", there))
				err = s.js.DeleteConsumer(s.ctx, s.names.messages, queue[0])
				differs[i] = 0
				s.wake()
			}
			if err != nil && s.ctx.Err() == nil {
				s.logger.Debug("inbox could not look after a consumer", s.zapError(err))
			}
		}
	}
}

// compare counts what a consumer knows and what there is. They are the same where what there is lies between what the consumer
// knew before and after that.
func (s *store) compare(i int) (known, there int64, err error) {
	ctx, cancel := context.WithTimeout(s.ctx, setupTimeout)
	defer cancel()
	before, err := s.known(ctx, i)
	if err != nil {
		return 0, 0, err
	}
	reader, err := s.reader(ctx, queues[i], 1)
	if err != nil {
		return 0, 0, err
	}
	there = int64(reader.CachedInfo().NumPending)
	s.discard(reader)
	known, err = s.known(ctx, i)
	if min(before, known) <= there && there <= max(before, known) {
		known = there
	}
	return known, there, err
}

// known is how many messages a consumer has still to hand out, or has handed out.
func (s *store) known(ctx context.Context, i int) (int64, error) {
	s.mu.Lock()
	consumer := s.consumers[i]
	s.mu.Unlock()
	var number int64
	err := s.ask(ctx, func(ctx context.Context) error {
		info, err := consumer.Info(ctx)
		if err == nil {
			number = int64(info.NumPending) + int64(info.NumAckPending)
		}
		return err
	})
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		s.wake()
	}
	return number, err
}

// Close ends all that waits and runs, and the connection.
func (s *store) Close() error {
	s.closing.Do(func() {
		s.cancel()
		s.work.Wait()
		// What was given back without waiting is with the server before the connection ends.
		if s.connection.IsConnected() {
			_ = s.connection.FlushTimeout(requestTimeout)
		}
		s.connection.Close()
	})
	return nil
}
