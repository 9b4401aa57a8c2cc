package natsstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
	"github.com/caddy-chinaums/caddy-chinaums/internal/natstest"
)

func defaults() inbox.Settings {
	return inbox.Settings{Remember: time.Hour, Lease: 20 * time.Second, MaxDelay: time.Hour}
}

func message(id string) *inbox.Message {
	return &inbox.Message{ID: id, Received: time.Now(), Request: []byte("request of " + id)}
}

func put(t testing.TB, s *store, m *inbox.Message, want inbox.Receipt) {
	t.Helper()
	got, err := s.Put(t.Context(), m)
	if err != nil || got != want {
		t.Fatalf("put %s: receipt %d, error %v; want %d", m.ID, got, err, want)
	}
}

func take(t testing.TB, s *store) *inbox.Message {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	m, err := s.Lease(ctx)
	if err != nil {
		t.Fatalf("lease: %v", err)
	}
	return m
}

func settle(t testing.TB, s *store, m *inbox.Message, outcome inbox.Outcome) {
	t.Helper()
	if err := s.Settle(t.Context(), m, outcome); err != nil {
		t.Fatalf("settle %s: %v", m.ID, err)
	}
}

func nothing(t testing.TB, s *store) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if m, err := s.Lease(ctx); err == nil {
		t.Fatalf("leased %s", m.ID)
	}
}

var (
	isDelivered = inbox.Outcome{Result: inbox.Delivered, Answer: inbox.Answer{Status: 200}}
	isDead      = inbox.Outcome{Result: inbox.Dead, Answer: inbox.Answer{Status: 500}}
)

func retryIn(delay time.Duration) inbox.Outcome {
	return inbox.Outcome{Result: inbox.Pending, Delay: delay, Answer: inbox.Answer{Status: 503}}
}

// changingClock is a clock that can be set.
type changingClock struct{ change atomic.Int64 }

func (c *changingClock) now() time.Time { return time.Now().Add(time.Duration(c.change.Load())) }

func (c *changingClock) jump(change time.Duration) { c.change.Add(int64(change)) }

// TestServer holds the store to what only this one has to prove; the tests share a server.
func TestServer(t *testing.T) {
	t.Parallel()
	shared := natstest.Run(t, "")
	for name, test := range map[string]func(t *testing.T, server *natstest.Server){
		"many poisoned ones":        testPoison,
		"remember":                  testRemember,
		"clock":                     testClock,
		"two gateways":              testTwoGateways,
		"consumers deleted":         testConsumersDeleted,
		"streams of others":         testForeignStream,
		"consumer of others":        testForeignConsumer,
		"fewer replicas":            testReplicas,
		"wait grows":                testWaitGrows,
		"revived through two":       testRevivedThroughTwo,
		"names":                     testNames,
		"put back when nobody asks": testPutBack,
		"foreign message":           testForeignMessage,
		"delivered and given up":    testDeliveredAndDead,
		"listed once":               testListedOnce,
	} {
		t.Run(name, func(t *testing.T) { test(t, shared) })
	}
}

// Thousands that fail and wait keep nobody waiting, and each comes again when it is due.
func testPoison(t *testing.T, server *natstest.Server) {
	s := openStore(t, provider(t, nil, server.URL()), "poison", defaults())
	const poisoned = 2500
	var all sync.WaitGroup
	for sender := range 16 {
		all.Go(func() {
			for i := sender; i < poisoned; i += 16 {
				if _, err := s.Put(t.Context(), message(fmt.Sprint("poison ", i))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 16 {
		all.Go(func() {
			for range poisoned / 16 {
				m, err := s.Lease(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				if err := s.Settle(t.Context(), m, retryIn(time.Hour)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	for range poisoned % 16 {
		settle(t, s, take(t, s), retryIn(time.Hour))
	}
	nothing(t, s) // parks them all
	put(t, s, message("good"), inbox.Stored)
	begun := time.Now()
	m := take(t, s)
	if m.ID != "good" {
		t.Fatalf("leased %s", m.ID)
	}
	t.Logf("with %d that wait for a retry, a new one is leased after %s", poisoned, time.Since(begun))
	settle(t, s, m, isDelivered)
	removed(t, s)
	stats, err := s.Stats(t.Context())
	if err != nil || stats.Pending != poisoned || stats.Delivered != 1 {
		t.Fatalf("stats %+v, error %v", stats, err)
	}
	page, err := s.List(t.Context(), inbox.Query{State: inbox.Pending, After: 100, Limit: 50})
	if err != nil || len(page) != 50 {
		t.Fatalf("%d listed, error %v", len(page), err)
	}
	if _, err := s.Redeliver(t.Context(), page[7].Seq, false); err != nil {
		t.Fatal(err)
	}
	if m := take(t, s); m.ID != page[7].ID || m.Attempts != 1 {
		t.Fatalf("leased %s with %d attempts, want %s", m.ID, m.Attempts, page[7].ID)
	}
}

// What was delivered is forgotten after its time, what is dead or pending is not.
func testRemember(t *testing.T, server *natstest.Server) {
	settings := defaults()
	s := openStore(t, provider(t, nil, server.URL()), "remember", settings)
	put(t, s, message("for an hour"), inbox.Stored)
	settle(t, s, take(t, s), isDelivered)
	settings.Remember = time.Second
	if err := s.Configure(settings); err != nil {
		t.Fatal(err)
	}
	put(t, s, message("old"), inbox.Stored)
	settle(t, s, take(t, s), isDelivered)
	put(t, s, message("dead"), inbox.Stored)
	settle(t, s, take(t, s), isDead)
	put(t, s, message("pending"), inbox.Stored)
	natstest.Eventually(t, "what was delivered is removed", func() bool {
		stats, err := s.Stats(t.Context())
		return err == nil && stats.Delivered == 1 && stats.Dead == 1 && stats.Pending == 1
	})
	put(t, s, message("for an hour"), inbox.Repeated)
	put(t, s, message("old"), inbox.Stored) // as if new
	put(t, s, message("dead"), inbox.Revived)
	put(t, s, message("pending"), inbox.Repeated)
	for range 3 {
		settle(t, s, take(t, s), isDelivered)
	}
	nothing(t, s)
}

// A clock that is set back makes due what is due later than any delay was.
func testClock(t *testing.T, server *natstest.Server) {
	clock := new(changingClock)
	s := openStore(t, provider(t, func(n *Nats) { n.clock = clock.now }, server.URL()), "clock", defaults())
	put(t, s, message("a"), inbox.Stored)
	settle(t, s, take(t, s), retryIn(2*time.Second))
	clock.jump(-10 * 365 * 24 * time.Hour)
	settle(t, s, take(t, s), isDelivered)
	put(t, s, message("a"), inbox.Repeated)
	clock.jump(20 * 365 * 24 * time.Hour)
	put(t, s, message("b"), inbox.Stored)
	settle(t, s, take(t, s), isDelivered)
	nothing(t, s)
}

// never fails if one of the stores hands out anything within a time. If that is too short, a test can only pass.
func never(t *testing.T, within time.Duration, stores ...*store) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	var all sync.WaitGroup
	for _, s := range stores {
		all.Go(func() {
			if m, err := s.Lease(ctx); err == nil {
				t.Errorf("leased %s", m.ID)
			}
		})
	}
	all.Wait()
}

func once(t *testing.T, taken map[string]int, number int) {
	t.Helper()
	if len(taken) != number {
		t.Errorf("%d of %d were delivered", len(taken), number)
	}
	for id, times := range taken {
		if times != 1 {
			t.Errorf("%s was delivered %d times", id, times)
		}
	}
}

// takeAll delivers what stores hand out until each of a number of messages has come, and returns how often each has, and how
// many came from each store.
func takeAll(t *testing.T, number int, stores ...*store) (taken map[string]int, from []int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	var lock sync.Mutex
	taken, from = map[string]int{}, make([]int, len(stores))
	var all sync.WaitGroup
	for i, s := range stores {
		for range 4 {
			all.Go(func() {
				for {
					m, err := s.Lease(ctx)
					if err != nil {
						return
					}
					lock.Lock()
					taken[m.ID]++
					from[i]++
					if len(taken) == number {
						cancel()
					}
					lock.Unlock()
					if err := s.Settle(t.Context(), m, isDelivered); err != nil {
						t.Errorf("settle: %v", err)
					}
				}
			})
		}
	}
	all.Wait()
	return taken, from
}

// Two gateways share an inbox: each message goes to one of them, once.
func testTwoGateways(t *testing.T, server *natstest.Server) {
	n := provider(t, nil, server.URL())
	stores := []*store{openStore(t, n, "two", defaults()), openStore(t, n, "two", defaults())}
	const messages = 300
	var stored, repeated [2]atomic.Int64
	var all sync.WaitGroup
	for i, s := range stores { // the platform sends each to both
		for sender := range 4 {
			all.Go(func() {
				for j := sender; j < messages; j += 4 {
					receipt, err := s.Put(t.Context(), message(fmt.Sprint(j)))
					switch {
					case err != nil:
						t.Error(err)
					case receipt == inbox.Stored:
						stored[i].Add(1)
					default:
						repeated[i].Add(1)
					}
				}
			})
		}
	}
	taken, leased := takeAll(t, messages, stores...)
	all.Wait()
	once(t, taken, messages)
	if total := stored[0].Load() + stored[1].Load(); total != messages || repeated[0].Load()+repeated[1].Load() != messages {
		t.Errorf("%d stored, %d repeated; want %d each", total, repeated[0].Load()+repeated[1].Load(), messages)
	}
	if leased[0] == 0 || leased[1] == 0 {
		t.Errorf("one of them got all: %v", leased)
	}
	for _, s := range stores {
		nothing(t, s)
	}
}

// An operator deletes the consumers: what was settled is not delivered again, what waits for a retry is not forgotten.
func testConsumersDeleted(t *testing.T, server *natstest.Server) {
	s := openStore(t, provider(t, nil, server.URL()), "deleted", defaults())
	for _, test := range []struct {
		id      string
		outcome inbox.Outcome
	}{{"delivered", isDelivered}, {"dead", isDead}, {"waits", retryIn(3 * time.Second)}} {
		put(t, s, message(test.id), inbox.Stored)
		settle(t, s, take(t, s), test.outcome)
	}
	put(t, s, message("new"), inbox.Stored)
	counted(t, s, 2, 1, 1) // what was moved is gone from its old places
	_ = s.Close()
	connection, err := nats.Connect(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	js, err := jetstream.New(connection)
	if err != nil {
		t.Fatal(err)
	}
	for _, queue := range queues {
		if err := js.DeleteConsumer(t.Context(), s.names.messages, queue[0]); err != nil {
			t.Fatal(err)
		}
	}
	// The claims are long forgotten.
	if stream, err := js.Stream(t.Context(), s.names.claims); err != nil || stream.Purge(t.Context()) != nil {
		t.Fatal(err)
	}
	s = openStore(t, provider(t, nil, server.URL()), "deleted", defaults())
	taken := map[string]int{}
	for range 2 {
		m := take(t, s)
		taken[m.ID]++
		settle(t, s, m, isDelivered)
	}
	if taken["new"] != 1 || taken["waits"] != 1 {
		t.Errorf("leased %v", taken)
	}
	nothing(t, s)
	for _, queue := range queues { // also of a store that is open
		if err := js.DeleteConsumer(t.Context(), s.names.messages, queue[0]); err != nil {
			t.Fatal(err)
		}
	}
	counted(t, s, 0, 3, 1)
	put(t, s, message("later"), inbox.Stored)
	settle(t, s, take(t, s), isDelivered)
	counted(t, s, 0, 4, 1)
}

func jetStream(t *testing.T, server *natstest.Server) jetstream.JetStream {
	t.Helper()
	connection, err := nats.Connect(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(connection.Close)
	js, err := jetstream.New(connection)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func testForeignStream(t *testing.T, server *natstest.Server) {
	for name, test := range map[string]struct {
		config jetstream.StreamConfig
		want   []string
	}{
		"memory, other subjects": {
			jetstream.StreamConfig{Name: "INBOX_foreign1", Subjects: []string{"foreign1.>"}, Storage: jetstream.MemoryStorage},
			[]string{"INBOX_foreign1", `subjects is ["foreign1.>"]`, `storage is "memory", must be "file"`, `discard is "old", must be "new"`, "allow_msg_ttl is not set, must be true"},
		},
		"limits": {
			jetstream.StreamConfig{
				Name: "INBOX_foreign2", Subjects: []string{"inbox.foreign2.new.*"}, Discard: jetstream.DiscardNew,
				MaxMsgsPerSubject: 1, MaxBytes: 1 << 20, MaxAge: time.Hour, MaxMsgs: 10,
			},
			[]string{"max_bytes is 1048576, must be -1", "max_age is 3600000000000, must be 0", "max_msgs is 10, must be -1"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := jetStream(t, server).CreateStream(t.Context(), test.config); err != nil {
				t.Fatal(err)
			}
			_, err := provider(t, nil, server.URL()).Open(t.Context(), test.config.Name[len("INBOX_"):], defaults(), zap.NewNop())
			if err == nil {
				t.Fatal("opened")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
		})
	}
}

func testForeignConsumer(t *testing.T, server *natstest.Server) {
	s := openStore(t, provider(t, nil, server.URL()), "consumer", defaults())
	_ = s.Close()
	js := jetStream(t, server)
	if err := js.DeleteConsumer(t.Context(), s.names.messages, stateNew); err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateConsumer(t.Context(), s.names.messages, jetstream.ConsumerConfig{
		Durable: stateNew, AckPolicy: jetstream.AckExplicitPolicy, MaxDeliver: 3,
	}); err != nil {
		t.Fatal(err)
	}
	_, err := provider(t, nil, server.URL()).Open(t.Context(), "consumer", defaults(), zap.NewNop())
	if err == nil || !strings.Contains(err.Error(), "delete it, and it is made anew") {
		t.Errorf("error %v", err)
	}
}

func testReplicas(t *testing.T, server *natstest.Server) {
	_ = openStore(t, provider(t, nil, server.URL()), "replicas", defaults()).Close()
	core, logs := observer.New(zapcore.WarnLevel)
	opened, err := provider(t, func(n *Nats) { n.Replicas = 3 }, server.URL()).Open(t.Context(), "replicas", defaults(), zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = opened.Close() }()
	if found := logs.FilterMessageSnippet("another number of replicas").Len(); found != 2 {
		t.Errorf("%d warnings: %v", found, logs.All())
	}
}

func testWaitGrows(t *testing.T, server *natstest.Server) {
	settings := defaults()
	settings.Lease = time.Second
	s := openStore(t, provider(t, nil, server.URL()), "grows", settings)
	wait := func() (waits [2]time.Duration) {
		for i := range waits {
			consumer, err := s.js.Consumer(t.Context(), s.names.messages, queues[i][0])
			if err != nil {
				t.Fatal(err)
			}
			waits[i] = consumer.CachedInfo().Config.AckWait
		}
		return waits
	}
	for _, test := range []struct{ lease, want time.Duration }{
		{5 * time.Second, 5500 * time.Millisecond}, {time.Minute, 60500 * time.Millisecond}, {time.Second, 60500 * time.Millisecond},
	} {
		settings.Lease = test.lease
		if err := s.Configure(settings); err != nil {
			t.Fatal(err)
		}
		if waits := wait(); waits != [2]time.Duration{test.want, test.want} {
			t.Errorf("with %s: wait %s", test.lease, waits)
		}
		if got := time.Duration(s.ackWait.Load()); got != test.want {
			t.Errorf("with %s: it goes by %s", test.lease, got)
		}
	}
}

// A dead message is put through two gateways at once, and redelivered besides: it becomes pending once.
func testRevivedThroughTwo(t *testing.T, server *natstest.Server) {
	n := provider(t, nil, server.URL())
	stores := []*store{openStore(t, n, "revived", defaults()), openStore(t, n, "revived", defaults())}
	for round := range 5 {
		id := fmt.Sprint(round)
		put(t, stores[0], message(id), inbox.Stored)
		m := take(t, stores[0])
		settle(t, stores[0], m, isDead)
		var revived atomic.Int64
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() {
				if i == 0 {
					if seq, err := stores[1].Redeliver(t.Context(), m.Seq, false); err == nil && seq != m.Seq {
						return
					} else if err != nil && !errors.Is(err, inbox.ErrNotFound) {
						t.Errorf("redeliver: %v", err)
					}
					return
				}
				receipt, err := stores[i%2].Put(t.Context(), message(id))
				if err != nil {
					t.Errorf("put: %v", err)
				}
				if receipt == inbox.Revived {
					revived.Add(1)
				}
			})
		}
		all.Wait()
		if revived.Load() > 1 {
			t.Errorf("revived %d times", revived.Load())
		}
		settle(t, stores[1], take(t, stores[1]), isDelivered)
		nothing(t, stores[0])
	}
}

// Names that are alike have streams of their own.
func testNames(t *testing.T, server *natstest.Server) {
	n := provider(t, nil, server.URL())
	all := []string{"a", "a.b", "a_b", "a-b", "A", "new", "CLAIMS_x"}
	seen := map[string]string{}
	for _, name := range all {
		names := newNames(name)
		for _, stream := range []string{names.messages, names.claims} {
			if other, ok := seen[stream]; ok {
				t.Errorf("%s and %s share the stream %s", name, other, stream)
			}
			seen[stream] = name
		}
		s := openStore(t, n, name, defaults())
		put(t, s, message("the same id"), inbox.Stored)
		if m := take(t, s); m.Seq != 1 {
			t.Errorf("%s: seq %d", name, m.Seq)
		}
		if key := n.Key(name); !strings.Contains(key, server.URL()) || !strings.HasSuffix(key, " "+names.messages) {
			t.Errorf("key %q", key)
		}
	}
}

// What was asked for, and comes when nobody waits for it any more, goes back at once, to whoever asks, from this gateway or
// another.
func testPutBack(t *testing.T, server *natstest.Server) {
	n, settings := provider(t, nil, server.URL()), defaults()
	settings.Lease = 10 * patience // it would come after that otherwise
	s, other := openStore(t, n, "back", settings), openStore(t, n, "back", settings)
	nothing(t, s) // has asked, and waits no more
	put(t, other, message("a"), inbox.Stored)
	m := take(t, other)
	if m.Attempts != 0 {
		t.Errorf("%d attempts", m.Attempts)
	}
	settle(t, other, m, isDelivered)
}

// A message that somebody else has put into the stream is an error in the log, and holds up nothing.
func testForeignMessage(t *testing.T, server *natstest.Server) {
	core, logs := observer.New(zapcore.ErrorLevel)
	opened, err := provider(t, nil, server.URL()).Open(t.Context(), "strange", defaults(), zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	s := opened.(*store)
	defer func() { _ = s.Close() }()
	if _, err := s.js.Publish(t.Context(), s.names.of(stateNew, "x"), []byte("hello")); err != nil {
		t.Fatal(err)
	}
	put(t, s, message("a"), inbox.Stored)
	settle(t, s, take(t, s), isDelivered)
	if logs.FilterMessage("inbox found a message that is none").Len() == 0 {
		t.Error("nothing in the log")
	}
}

// One holder gives a message up, and another one, who was faster, has delivered it.
func testDeliveredAndDead(t *testing.T, server *natstest.Server) {
	s := openStore(t, provider(t, nil, server.URL()), "both", defaults())
	put(t, s, message("a"), inbox.Stored)
	m := take(t, s)
	held := m.Lease.(*lease)
	other := &lease{of: held.of, handed: held.handed, claim: held.claim, step: "another", until: held.until}
	settle(t, s, m, isDelivered)
	m.Lease = other
	settle(t, s, m, isDead)
	put(t, s, message("a"), inbox.Repeated)
	removed(t, s)
	stats, err := s.Stats(t.Context())
	if err != nil || stats.Pending != 0 || stats.Delivered != 1 || stats.Dead != 0 {
		t.Errorf("stats %+v, error %v", stats, err)
	}
}

// A message that was moved, and is still to be removed from its old place, was listed twice.
func testListedOnce(t *testing.T, server *natstest.Server) {
	s := openStore(t, provider(t, nil, server.URL()), "once", defaults())
	for _, id := range []string{"a", "b", "c"} {
		put(t, s, message(id), inbox.Stored)
	}
	m := take(t, s)
	of := m.Lease.(*lease).of
	moved := s.names.message(stateRetry, of.digest, of.header, record{Attempts: 1}, of.Data)
	if _, _, err := s.moveMessage(t.Context(), moved, m.Seq); err != nil {
		t.Fatal(err)
	}
	all, err := s.List(t.Context(), inbox.Query{Limit: 4})
	if err != nil {
		t.Fatal(err)
	}
	var listed []string
	for _, m := range all {
		listed = append(listed, fmt.Sprint(m.ID, " ", m.Attempts))
	}
	if want := []string{"b 0", "c 0", "a 1"}; !slices.Equal(listed, want) {
		t.Errorf("listed %q, want %q", listed, want)
	}
}

// TestServerIsDown opens the store while there is no server: requests are refused, and taken once there is one.
func TestServerIsDown(t *testing.T) {
	t.Parallel()
	server := natstest.New(t, natstest.Ports(t, 1)[0], "")
	core, logs := observer.New(zapcore.WarnLevel)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	opened, err := provider(t, nil, server.URL()).Open(ctx, "down", defaults(), zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	s := opened.(*store)
	defer func() { _ = s.Close() }()
	if logs.FilterMessageSnippet("inbox not ready").Len() != 1 {
		t.Errorf("log: %v", logs.All())
	}
	if _, err := s.Put(t.Context(), message("a")); err == nil || !strings.Contains(err.Error(), "not ready") {
		t.Errorf("put: %v", err)
	}
	if _, err := s.Stats(t.Context()); err == nil {
		t.Error("stats, from nowhere")
	}
	settings := defaults()
	settings.Lease = time.Minute
	if err := s.Configure(settings); err != nil {
		t.Errorf("configure: %v", err)
	}
	leased := make(chan *inbox.Message, 1)
	go func() {
		m, err := s.Lease(t.Context())
		if err != nil {
			t.Errorf("lease: %v", err)
		}
		leased <- m
	}()
	server.Start()
	natstest.Eventually(t, "it is stored", func() bool {
		_, err := s.Put(t.Context(), message("a"))
		return err == nil
	})
	m := <-leased
	if m == nil || m.ID != "a" {
		t.Fatalf("leased %+v", m)
	}
	settle(t, s, m, isDelivered)
	if got := time.Duration(s.ackWait.Load()); got != time.Minute+500*time.Millisecond {
		t.Errorf("it goes by %s", got)
	}
}

// TestAccess: the ways to be known to the server; and no password shows.
func TestAccess(t *testing.T) {
	t.Parallel()
	const password, user = "a+very/secret%password", "gateway"
	server := natstest.New(t, natstest.Ports(t, 1)[0], fmt.Sprintf("authorization { user: %q, password: %q }", user, password))
	server.Start()
	good := fmt.Sprintf("nats://%s:%s@127.0.0.1:%d", user, "a%2Bvery%2Fsecret%25password", server.Port)
	natstest.Eventually(t, "the server is up", func() bool {
		connection, err := nats.Connect(good)
		if err == nil {
			connection.Close()
		}
		return err == nil
	})
	core, logs := observer.New(zapcore.DebugLevel)
	n := provider(t, nil, good)
	opened, err := n.Open(t.Context(), "access", defaults(), zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	put(t, opened.(*store), message("a"), inbox.Stored)
	_ = opened.Close()

	wrong := provider(t, nil, strings.Replace(good, "very", "hardly", 1))
	opened, err = wrong.Open(t.Context(), "access", defaults(), zap.New(core))
	if err == nil {
		_ = opened.Close()
		t.Error("opened with a wrong password")
	} else if !strings.Contains(strings.ToLower(err.Error()), "authorization") {
		t.Errorf("error %v", err)
	}
	said := fmt.Sprint(err, n.Key("access"), wrong.Key("access"))
	for _, entry := range logs.All() {
		said += fmt.Sprint(entry.Message, entry.ContextMap())
	}
	for _, secret := range []string{password, "a%2Bvery", "a+hardly", "a%2Bhardly"} {
		if strings.Contains(said, secret) {
			t.Errorf("the password shows: %s", said)
		}
	}
}

// TestDeletedMeanwhile: what an operator has deleted after its lease is settled by doing nothing. Else who delivers it would try
// for ever.
func TestDeletedMeanwhile(t *testing.T) {
	t.Parallel()
	settings := defaults()
	settings.Lease = 500 * time.Millisecond
	s := openStore(t, provider(t, func(n *Nats) { n.patience = time.Hour }, natstest.Run(t, "").URL()), "deleted", settings)
	put(t, s, message("a"), inbox.Stored)
	m := take(t, s)
	if err := s.messages.DeleteMsg(t.Context(), m.Seq); err != nil {
		t.Fatal(err)
	}
	attempt := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		return s.Settle(ctx, m, isDelivered)
	}
	natstest.Eventually(t, "it is settled", func() bool { return attempt() == nil })
	if left := time.Until(m.Lease.(*lease).until); left > 0 {
		t.Errorf("that nobody has it was believed %v before the end of the lease", left)
	}
}

// TestNotOrdered: who wants an order is refused, and told why.
func TestNotOrdered(t *testing.T) {
	if err := new(Nats).Ordered(); err == nil || !strings.Contains(err.Error(), "order") {
		t.Errorf("ordered: %v", err)
	}
}
