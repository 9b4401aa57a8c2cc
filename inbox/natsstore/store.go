package natsstore

import (
	"context"
	"crypto/rand"
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
	storeTimeout   = 5 * time.Second  // all tries of one Put or of one record
	openTimeout    = 5 * time.Second  // before Open returns with a server that is not there yet
	setupTimeout   = 20 * time.Second // making the streams, once
	pullTime       = 30 * time.Second // one question for the next message
	heartbeat      = 2 * time.Second  // of a server that is asked, and has nothing
	linger         = time.Second / 2  // how long a message that nobody waits for any more is kept for the next who asks
)

// minimum is the oldest server that will do: it has the named consumers that the client makes.
var minimum = [2]int{2, 9}

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

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	begun  time.Time
	work   sync.WaitGroup // what runs in the background

	kick    chan struct{} // asks for apply
	applies sync.Mutex    // one apply at a time
	ready   chan struct{} // closed when apply has succeeded
	ackWait atomic.Int64  // of the consumers, in nanoseconds
	young   time.Duration // of messages that are younger, no claim can have been forgotten; set by tests

	mu       sync.Mutex
	settings inbox.Settings
	problem  error // why it is not ready
	isReady  bool
	closed   bool
	want     int                  // callers of Lease that wait
	sources  [2]*source           // of messages that are new, and of those that wait for another try
	unfound  map[string]time.Time // claims that are listed and not found, since when; made when it is needed
	held     map[string]*lease    // leases of this process, by the messages' keys
	oldest   [2]oldest            // likewise of the sources
	usage    usage

	connected  context.Context // ends when the connection does
	disconnect context.CancelFunc

	handed  chan *inbox.Message
	removes atomic.Bool // something was deleted: what is in hand may be gone

	room    sync.Mutex // one at a time drops requests
	dropped uint64     // records of deliveries up to this one need no look when room is sought
	unread  uint64     // the first of them that could not be read; 0: all could

	janitor   chan struct{} // wakes it
	delivered chan struct{} // wakes it where nothing had been delivered
	passed    uint64        // for it alone: records of deliveries up to this one are gone, or cannot be read
	afresh    time.Time     // for it alone: when it passes by nothing any more
	auditor   chan struct{} // wakes it
	doubts    atomic.Int32  // how often everything is to be compared whatever the numbers say

	background chan struct{} // bounds what is tidied up in the background
}

// open connects, waits a while until everything is made, and otherwise goes on in the background. Errors that will not pass
// by themselves are returned if they show in that while.
func open(ctx context.Context, config *Nats, name string, settings inbox.Settings, logger *zap.Logger) (*store, error) {
	s := &store{
		config: config, names: newNames(name), logger: logger, settings: settings,
		clock: config.clock, young: leaseAge(0) / 2, begun: time.Now(), kick: make(chan struct{}, 1), ready: make(chan struct{}),
		held: map[string]*lease{}, handed: make(chan *inbox.Message),
		janitor: make(chan struct{}, 1), delivered: make(chan struct{}, 1), auditor: make(chan struct{}, 1), background: make(chan struct{}, 16),
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
	s.work.Go(s.clean)
	s.work.Go(s.audit)

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
	s.doubt()
	version := c.ConnectedServerVersion()
	s.logger.Info(words, zap.String("server", address(c.ConnectedUrl())), zap.String("version", version))
	if s.config.Replicas > 1 && strings.HasPrefix(version, "2.9.") {
		s.logger.Warn("nats: replicated streams of server 2.9 may lose acknowledged messages when a server dies under load; use a later one",
			zap.String("version", version))
	}
	s.wake()
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
		if !s.await(pause, s.kick, nil) {
			return
		}
		if err == nil && !s.sleep(s.ctx, 50*time.Millisecond) { // a server that has just come back may need a moment
			return
		}
	}
}

// await waits for one of two signals, or a time at most if it is not 0; false where the store ends.
func (s *store) await(wait time.Duration, signal, another <-chan struct{}) bool {
	var ends <-chan time.Time
	if wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		ends = timer.C
	}
	select {
	case <-ends:
	case <-signal:
	case <-another:
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
		if err == nil && !s.isReady && !s.closed {
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
	n := s.names
	ackWait := settings.Lease + s.config.slack
	streams := []jetstream.StreamConfig{
		s.stream(n.messages, "requests that the app has taken, or is still to take", n.subject+"message.*", 0),
		s.stream(n.delivered, "which requests were delivered, and when", n.subject+"delivered.*", 0),
		s.stream(n.dead, "which requests were given up, and why", n.subject+"dead.*", 0),
		s.stream(n.retry, "which requests wait for another try", n.subject+"retry.*.*", 0),
	}
	for _, config := range streams {
		if err := s.ensureStream(ctx, config); err != nil {
			return err
		}
	}
	var wait time.Duration
	var consumers [2]jetstream.Consumer
	for i, stream := range []string{n.messages, n.retry} {
		filter := n.subject + "message.*"
		if stream == n.retry {
			filter = n.subject + "retry.*.entry"
		}
		consumer, effective, err := s.ensureConsumer(ctx, stream, filter, ackWait)
		if err != nil {
			return err
		}
		consumers[i], wait = consumer, max(wait, effective)
	}
	leases := s.stream(n.leases, "who delivers what at this moment", n.subject+"lease.>", leaseAge(wait))
	leases.Subjects = append(leases.Subjects, n.subject+"claim.*")
	if err := s.ensureStream(ctx, leases); err != nil {
		return err
	}
	s.ackWait.Store(int64(wait))
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.sources {
		if s.sources[i] == nil {
			s.sources[i] = &source{retry: i == 1}
		}
		s.sources[i].consumer = consumers[i]
	}
	s.pull()
	return nil
}

// leaseAge is how long a claim is kept: longer than two leases may last that follow each other. Where timeouts were raised, older
// claims were kept for as long as was right for the shorter ones, but never for less than leaseAge(0).
func leaseAge(ackWait time.Duration) time.Duration { return 2*ackWait + time.Minute }

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

func (s *store) stream(name, description, subject string, maxAge time.Duration) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: name, Description: "caddy inbox: " + description, Subjects: []string{subject},
		Retention: jetstream.LimitsPolicy, Storage: jetstream.FileStorage, Replicas: s.config.Replicas,
		Discard: jetstream.DiscardNew, MaxMsgs: -1, MaxBytes: -1, MaxAge: maxAge, MaxMsgsPerSubject: 1,
		MaxMsgSize: -1, MaxConsumers: -1,
	}
}

// ensureStream makes a stream, or checks the one that is there.
func (s *store) ensureStream(ctx context.Context, want jetstream.StreamConfig) error {
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
		return fmt.Errorf("nats: JetStream is not enabled, on the server or for the account: %w", err)
	case err != nil:
		return fmt.Errorf("nats: stream %s: %w", want.Name, err)
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
	differ("no_ack", have.NoAck, false)
	differ("sealed", have.Sealed, false)
	differ("deny_delete", have.DenyDelete, false)
	differ("deny_purge", have.DenyPurge, false)
	differ("mirror", have.Mirror != nil, false)
	differ("sources", len(have.Sources), 0)
	if want.MaxAge == 0 {
		differ("max_age", have.MaxAge, want.MaxAge)
	}
	if len(differs) > 0 {
		return unfitf("nats: the stream %s is not as the inbox needs it: %s", want.Name, strings.Join(differs, "; "))
	}
	if have.Replicas != want.Replicas {
		s.logger.Warn("inbox stream has another number of replicas; change it with `nats stream edit`, or the configuration",
			zap.String("stream", want.Name), zap.Int("has", have.Replicas), zap.Int("configured", want.Replicas))
	}
	if have.MaxAge >= want.MaxAge {
		return nil
	}
	have.MaxAge = want.MaxAge
	if _, err := s.js.UpdateStream(ctx, have); err != nil {
		return fmt.Errorf("nats: stream %s: %w", want.Name, err)
	}
	return nil
}

// consumerName is the name of the consumers: there is one in a stream.
const consumerName = "inbox"

// ensureConsumer makes a consumer, or checks the one that is there, and returns its AckWait. That only grows: gateways with
// different timeouts may share it.
func (s *store) ensureConsumer(ctx context.Context, stream, filter string, ackWait time.Duration) (jetstream.Consumer, time.Duration, error) {
	want := jetstream.ConsumerConfig{
		Durable: consumerName, Description: "caddy inbox", FilterSubject: filter,
		DeliverPolicy: jetstream.DeliverAllPolicy, AckPolicy: jetstream.AckExplicitPolicy, AckWait: ackWait,
		MaxDeliver: -1, MaxAckPending: -1, ReplayPolicy: jetstream.ReplayInstantPolicy,
	}
	existing, err := s.js.Consumer(ctx, stream, consumerName)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		existing, err = s.js.CreateConsumer(ctx, stream, want)
		if errors.Is(err, jetstream.ErrConsumerExists) {
			existing, err = s.js.Consumer(ctx, stream, consumerName)
		}
	}
	if err != nil {
		return nil, 0, fmt.Errorf("nats: consumer of %s: %w", stream, err)
	}
	have := existing.CachedInfo().Config
	if have.AckPolicy != want.AckPolicy || have.DeliverPolicy != want.DeliverPolicy || have.MaxDeliver > 0 ||
		have.MaxAckPending > 0 || have.FilterSubject != want.FilterSubject || have.DeliverSubject != "" || len(have.BackOff) > 0 {
		return nil, 0, unfitf("nats: the consumer %s of the stream %s is not as the inbox needs it: a pull consumer of %s with explicit acks, "+
			"deliver policy all, and no limit of deliveries or of pending acks; delete it, and it is made anew", consumerName, stream, filter)
	}
	if have.AckWait >= ackWait {
		return existing, have.AckWait, nil
	}
	have.AckWait = ackWait
	if existing, err = s.js.UpdateConsumer(ctx, stream, have); err != nil {
		return nil, 0, fmt.Errorf("nats: consumer of %s: %w", stream, err)
	}
	return existing, ackWait, nil
}

// Configure changes the settings. Where the server is out of reach they are set once it is back.
func (s *store) Configure(settings inbox.Settings) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return inbox.ErrClosed
	}
	s.settings = settings
	ready := s.isReady
	s.mu.Unlock()
	s.wakeJanitor()
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

// usable returns why nothing can be stored or read now.
func (s *store) usable() error {
	s.mu.Lock()
	closed, ready, problem := s.closed, s.isReady, s.problem
	s.mu.Unlock()
	switch {
	case closed:
		return inbox.ErrClosed
	case !ready:
		return fmt.Errorf("NATS JetStream is not ready: %s", s.config.redact(problem))
	}
	return nil
}

// errMoved is an error of publish that means something.
var errMoved = errors.New("the subject's last message is another one")

// publish stores one message and waits for the server's word that it is stored. expect is the seq of the message that must
// be the subject's last one, 0: none, negative: any.
func (s *store) publish(ctx context.Context, stream string, message *nats.Msg, expect int64) (uint64, error) {
	options := []jetstream.PublishOpt{jetstream.WithExpectStream(stream), jetstream.WithRetryAttempts(0)}
	if expect >= 0 {
		options = append(options, jetstream.WithExpectLastSequencePerSubject(uint64(expect)))
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	stored, err := s.js.PublishMsg(ctx, message, options...)
	var api *jetstream.APIError
	switch {
	case err == nil:
		return stored.Sequence, nil
	case errors.Is(err, nats.ErrMaxPayload):
		return 0, inbox.ErrTooLarge
	case errors.As(err, &api):
		switch {
		case api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence, api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant:
			return 0, errMoved
		case api.ErrorCode == jetstream.JSErrCodeStreamMessageExceedsMaximum:
			return 0, inbox.ErrTooLarge
		}
	}
	return 0, err
}

// persist stores a record, and tries until it is stored or ctx or the time for it ends.
func (s *store) persist(ctx context.Context, stream string, message *nats.Msg, expect int64) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		_, err := s.publish(ctx, stream, message, expect)
		if err == nil || errors.Is(err, errMoved) || errors.Is(err, inbox.ErrTooLarge) {
			return err
		}
		if !s.sleep(ctx, pause) {
			return err
		}
	}
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

// claim takes a subject of the leases for this caller; false where another has it. Of all who try, one gets it: the stream
// takes the first.
//
// A claim says how long it lasts, for others may have been told of shorter leases.
func (s *store) claim(ctx context.Context, subject string) (bool, error) {
	return s.claimAs(ctx, subject, rand.Text()+" "+time.Duration(s.ackWait.Load()).String())
}

// claimLasts is what a claim says.
func claimLasts(token []byte) time.Duration {
	_, said, _ := strings.Cut(string(token), " ")
	lasts, _ := time.ParseDuration(said) // 0: nothing, as those of older gateways
	return lasts
}

func (s *store) claimAs(ctx context.Context, subject, token string) (bool, error) {
	err := s.persist(ctx, s.names.leases, &nats.Msg{Subject: subject, Data: []byte(token)}, 0)
	if err == nil {
		return true, nil
	}
	if !errors.Is(err, errMoved) {
		return false, err
	}
	// It may be our own, of a try whose answer was lost.
	last, err := s.getLast(ctx, s.names.leases, subject)
	if err != nil && !errors.Is(err, inbox.ErrNotFound) {
		return false, err
	}
	return err == nil && string(last.Data) == token, nil
}

// tidy runs what need not be waited for, and may fail.
func (s *store) tidy(do func(ctx context.Context) error) {
	run := func() {
		ctx, cancel := context.WithTimeout(s.ctx, storeTimeout)
		defer cancel()
		if err := do(ctx); err != nil && s.ctx.Err() == nil {
			s.logger.Debug("inbox could not tidy up", zap.String("error", s.config.redact(err)))
		}
	}
	select {
	case s.background <- struct{}{}:
		s.work.Go(func() {
			defer func() { <-s.background }()
			run()
		})
	default:
		run()
	}
}

// purge removes what is under a subject.
func (s *store) purge(ctx context.Context, stream, subject string) error {
	return s.ask(ctx, "STREAM.PURGE."+stream, map[string]any{"filter": subject})
}

// ask asks for something that is done or not.
func (s *store) ask(ctx context.Context, what string, request map[string]any) error {
	var decoded struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := s.call(ctx, what, request, &decoded); err != nil {
		return err
	}
	if decoded.Error != nil {
		return decoded.Error
	}
	return nil
}

// call asks a server once, and reads what it answers, which may be an error of its own.
func (s *store) call(ctx context.Context, what string, request map[string]any, answer any) error {
	body, err := json.Marshal(request)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	answered, err := s.connection.RequestWithContext(ctx, jetstream.DefaultAPIPrefix+what, body)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(answered.Data, answer); err != nil {
		return fmt.Errorf("the server's answer cannot be read: %w", err)
	}
	return nil
}

// Close ends all that waits and runs, and the connection.
func (s *store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.work.Wait()
	// What was acknowledged without waiting is with the server before the connection ends.
	if s.connection.IsConnected() {
		_ = s.connection.FlushTimeout(requestTimeout)
	}
	s.connection.Close()
	return nil
}
