package natsstore

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
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

	applies sync.Mutex    // one apply at a time
	ready   chan struct{} // closed when apply has succeeded; then the next two are set
	// The streams and, as in queues, the consumers.
	messages, claims jetstream.Stream
	consumers        []jetstream.Consumer

	stir    chan struct{} // asks for a look whether everything is in place
	ackWait atomic.Int64  // of the consumers, in nanoseconds
	silent  atomic.Int32  // questions in a row that the server has not answered
	asking  atomic.Bool   // whether it is being looked up if the server answers at all

	mu       sync.Mutex
	settings inbox.Settings
	problem  error     // why it is not ready
	want     int       // callers of Lease that wait
	used     int64     // bytes, as last read and counted since
	usedAt   time.Time // when they were read

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
	if err := s.connect(name); err != nil {
		s.cancel()
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	err := s.apply(ctx)
	for permanent := (unfit{}); err != nil && s.sleep(ctx, 100*time.Millisecond); err = s.apply(ctx) {
		if errors.As(err, &permanent) {
			_ = s.Close()
			return nil, err
		}
	}
	if err != nil {
		last := s.connection.LastError()
		switch {
		case s.connection.IsConnected() || last == nil:
		case refused(last):
			_ = s.Close()
			return nil, fmt.Errorf("nats: the servers refuse the connection: %s", config.redact(last))
		default:
			err = last
		}
		s.logger.Warn("inbox not ready: NATS JetStream is not reachable; requests are answered 503 until it is",
			zap.Strings("servers", config.hosts()), s.zapError(err))
	}
	s.work.Go(s.lookAfter)
	for i := range s.wanted {
		s.wanted[i] = make(chan struct{}, 1)
		s.work.Go(func() { s.pull(i) })
	}
	return s, nil
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
			s.logger.Warn("inbox disconnected from NATS", s.zapError(err))
		}),
		nats.ConnectHandler(func(c *nats.Conn) { s.greet(c, "inbox connected to NATS") }),
		nats.ReconnectHandler(func(c *nats.Conn) { s.greet(c, "inbox connected to NATS again") }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			s.logger.Warn("NATS reports an error", s.zapError(err))
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
	s.silent.Store(0)
	s.logger.Info(words, zap.String("server", address(c.ConnectedUrl())), zap.String("version", c.ConnectedServerVersion()))
	signal(s.stir)
}

// address is a server's URL without user, password and token.
func address(server string) string {
	parsed, err := url.Parse(server)
	if err != nil || parsed.Host == "" {
		return ""
	}
	return parsed.Scheme + "://" + parsed.Host
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
		timer := time.NewTimer(pause)
		inTime := false
		select {
		case <-s.ctx.Done():
			return
		case <-s.stir:
		case <-timer.C:
			inTime = true
		}
		ctx, cancel := context.WithTimeout(s.ctx, setupTimeout)
		err := s.apply(ctx)
		switch permanent := (unfit{}); {
		case err != nil:
			pause, wait = wait, min(2*wait, 5*time.Second)
			if s.ctx.Err() == nil && errors.As(err, &permanent) {
				s.logger.Error("inbox cannot use NATS", s.zapError(err))
			} else {
				s.logger.Debug("inbox not ready yet", s.zapError(err))
			}
		case inTime && s.agree(ctx, differs):
			pause, wait = s.config.patience, firstPause
		default:
			pause, wait = s.config.patience/6, firstPause
		}
		cancel()
	}
}

// agree compares what each consumer knows with what the stream has. One that differs for three looks is deleted and made again: it
// then hands out everything that is to be delivered, and claims keep apart what is in flight.
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
			s.logger.Debug("inbox could not look after a consumer", s.zapError(err))
		}
	}
	return all
}

// whole reports whether the consumers together know as many messages as the stream has. What each of them should know the server
// has to count one by one.
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
	s.mu.Lock()
	waits := s.want > 0 && i < len(s.wanted) && before > 0
	s.mu.Unlock()
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
	if err := checkVersion(s.connection.ConnectedServerVersion()); err != nil {
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

// checkVersion refuses an old server.
func checkVersion(version string) error {
	var major, minor int
	_, err := fmt.Sscanf(version, "%d.%d", &major, &minor)
	if err != nil || major < minimum[0] || major == minimum[0] && minor < minimum[1] {
		return unfitf("nats: the server's version is %.32q; the inbox needs %d.%d or later: update the servers, or use a bolt store",
			version, minimum[0], minimum[1])
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
	if problem := otherwise(have, want, "subjects", "retention", "storage", "discard", "discard_new_per_subject", "max_msgs", "max_bytes",
		"max_msgs_per_subject", "max_age", "allow_msg_ttl", "allow_direct", "no_ack", "sealed", "deny_delete", "deny_purge", "mirror", "sources"); problem != "" {
		return nil, unfitf("nats: the stream %s is not as the inbox needs it: %s", want.Name, problem)
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
		return nil, 0, unfitf("nats: the consumer %s of the stream %s is not as the inbox needs it: %s; delete it, and it is made anew",
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
	ctx, cancel := context.WithTimeout(s.ctx, openTimeout)
	defer cancel()
	err := s.apply(ctx)
	var permanent unfit
	if err != nil && !errors.As(err, &permanent) {
		s.logger.Warn("inbox settings wait for NATS", s.zapError(err))
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
