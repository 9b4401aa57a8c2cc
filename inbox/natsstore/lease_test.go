package natsstore

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
	"github.com/caddy-chinaums/caddy-chinaums/internal/natstest"
)

// handedOut takes what a consumer of the store has to hand out, as a gateway does, and does nothing with it.
func handedOut(t *testing.T, server *natstest.Server, s *store, queue string, number int) []jetstream.Msg {
	t.Helper()
	consumer, err := jetStream(t, server).Consumer(t.Context(), s.names.messages, queue)
	if err != nil {
		t.Fatal(err)
	}
	var all []jetstream.Msg
	natstest.Eventually(t, "the consumer hands out", func() bool {
		batch, err := consumer.Fetch(number-len(all), jetstream.FetchMaxWait(time.Second))
		if err != nil {
			t.Fatal(err)
		}
		for m := range batch.Messages() {
			all = append(all, m)
		}
		return len(all) == number
	})
	return all
}

// TestHandedOutAgain: a server hands out what is in flight, or sends late what it should have sent before. Nobody delivers it
// a second time.
func TestHandedOutAgain(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t, "")
	for queue, prepare := range map[string]func(t *testing.T, s *store){
		stateNew:   func(*testing.T, *store) {},
		stateRetry: func(t *testing.T, s *store) { settle(t, s, take(t, s), retryIn(0)) },
	} {
		begin := func(t *testing.T, name string) (s *store, lease func(jetstream.Msg) *inbox.Message) {
			s = patient(t, server.URL(), name+"_"+queue)
			put(t, s, message("a"), inbox.Stored)
			prepare(t, s)
			return s, func(m jetstream.Msg) *inbox.Message {
				t.Helper()
				got, err := s.take(m)
				if err != nil {
					t.Fatal(err)
				}
				return got
			}
		}
		again := func(t *testing.T, m jetstream.Msg) {
			t.Helper()
			if err := m.Nak(); err != nil {
				t.Fatal(err)
			}
		}
		t.Run(queue+", while it is in flight", func(t *testing.T) {
			t.Parallel()
			s, lease := begin(t, "flight")
			first := handedOut(t, server, s, queue, 1)[0]
			holder := lease(first)
			if holder == nil {
				t.Fatal("not leased")
			}
			again(t, first)
			if m := lease(handedOut(t, server, s, queue, 1)[0]); m != nil {
				t.Error("leased by two at once")
			}
			settle(t, s, holder, isDelivered)
			never(t, 2*time.Second, s)
		})
		t.Run(queue+", the first of them late", func(t *testing.T) {
			t.Parallel()
			s, lease := begin(t, "late")
			first := handedOut(t, server, s, queue, 1)[0]
			again(t, first)
			holder := lease(handedOut(t, server, s, queue, 1)[0])
			if holder == nil {
				t.Fatal("not leased")
			}
			if m := lease(first); m != nil {
				t.Error("leased by two at once")
			}
			settle(t, s, holder, isDelivered)
			if m := lease(first); m != nil {
				t.Error("leased after it was delivered")
			}
		})
		t.Run(queue+", given back", func(t *testing.T) {
			t.Parallel()
			s, lease := begin(t, "back")
			settle(t, s, lease(handedOut(t, server, s, queue, 1)[0]), inbox.Outcome{Released: true})
			// The claim is taken back by and by; until then, the message is given back once more.
			var m *inbox.Message
			natstest.Eventually(t, "what was given back is leased again", func() bool {
				m = lease(handedOut(t, server, s, queue, 1)[0])
				return m != nil
			})
			settle(t, s, m, isDelivered)
		})
	}
}

// TestLongerTimeoutElsewhere: of two gateways the later one has longer timeouts. The other one does not take its leases for
// over after a time that it was told of itself.
func TestLongerTimeoutElsewhere(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t, "")
	n, settings := provider(t, func(n *Nats) { n.patience = time.Hour }, server.URL()), defaults()
	settings.Lease = 500 * time.Millisecond
	short := openStore(t, n, "timeouts", settings)
	settings.Lease = time.Minute
	long := openStore(t, n, "timeouts", settings)
	put(t, long, message("a"), inbox.Stored)
	first := handedOut(t, server, long, stateNew, 1)[0]
	holder, err := long.take(first)
	if err != nil || holder == nil {
		t.Fatalf("leased %v, error %v", holder, err)
	}
	time.Sleep(2 * time.Second) // the shorter lease, and more; if it has not run out, the test can only pass
	if err := first.Nak(); err != nil {
		t.Fatal(err)
	}
	if m, err := short.take(handedOut(t, server, long, stateNew, 1)[0]); m != nil || err != nil {
		t.Errorf("leased by two at once: %v, error %v", m, err)
	}
	settle(t, long, holder, isDelivered)
}

// TestForgotten: a consumer takes for acknowledged what nobody has taken, of two gateways. It is delivered all the same, and
// once; what was in flight meanwhile is not delivered again.
func TestForgotten(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t, "")
	for _, queue := range []string{stateNew, stateRetry} {
		t.Run(queue, func(t *testing.T) {
			t.Parallel()
			n, settings := provider(t, func(n *Nats) { n.patience = 300 * time.Millisecond }, server.URL()), defaults()
			settings.Lease = 10 * patience // what is in flight stays so, however long the rest takes
			stores := []*store{openStore(t, n, "forgotten_"+queue, settings), openStore(t, n, "forgotten_"+queue, settings)}
			put(t, stores[0], message("in flight"), inbox.Stored)
			held := take(t, stores[1])
			const forgotten, others = 40, 10
			for i := range forgotten {
				put(t, stores[i%2], message(fmt.Sprint(i)), inbox.Stored)
			}
			if queue == stateRetry {
				var failed []*inbox.Message
				for range forgotten {
					failed = append(failed, take(t, stores[0]))
				}
				for _, m := range failed {
					settle(t, stores[0], m, retryIn(0))
				}
			}
			for _, m := range handedOut(t, server, stores[0], queue, forgotten) {
				if err := m.DoubleAck(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			for i := range others {
				put(t, stores[i%2], message(fmt.Sprint("other ", i)), inbox.Stored)
			}
			taken, _ := takeAll(t, forgotten+others, stores...)
			once(t, taken, forgotten+others)
			never(t, time.Second, stores...)
			settle(t, stores[1], held, isDelivered)
			counted(t, stores[0], 0, forgotten+others+1, 0)
		})
	}
}

// TestStuck: a consumer knows all that there is, and does not hand out what it has handed out once. (Server 2.11.12, killed under
// load and started again, never went back to nine messages whose time had come.) It is delivered all the same.
func TestStuck(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t, "")
	settings := defaults()
	settings.Lease = time.Second
	s := openStore(t, provider(t, func(n *Nats) { n.patience = 300 * time.Millisecond }, server.URL()), "stuck", settings)
	put(t, s, message("a"), inbox.Stored)
	settle(t, s, take(t, s), retryIn(2*time.Second)) // whatever has asked for it puts it back until then
	stuck := handedOut(t, server, s, stateRetry, 1)[0]
	ctx, cancel := context.WithCancel(t.Context())
	var holding sync.WaitGroup
	defer holding.Wait()
	defer cancel()
	holding.Go(func() {
		for ctx.Err() == nil {
			_ = stuck.InProgress() // for the consumer it is still in good hands
			time.Sleep(200 * time.Millisecond)
		}
	})
	settle(t, s, take(t, s), isDelivered)
	counted(t, s, 0, 1, 0)
}

// TestOldServer: a server before 2.11 is refused at start.
func TestOldServer(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = connection.Close() }()
				_, _ = fmt.Fprint(connection, "INFO {\"server_id\":\"old\",\"version\":\"2.10.29\",\"proto\":1,\"headers\":true,\"max_payload\":1048576,\"jetstream\":true}\r\n")
				for lines := bufio.NewScanner(connection); lines.Scan(); {
					if strings.HasPrefix(lines.Text(), "PING") {
						_, _ = fmt.Fprint(connection, "PONG\r\n")
					}
				}
			}()
		}
	}()
	opened, err := provider(t, nil, "nats://"+listener.Addr().String()).Open(t.Context(), "old", defaults(), zap.NewNop())
	if err == nil {
		_ = opened.Close()
		t.Fatal("opened")
	}
	if !strings.Contains(err.Error(), "2.10.29") || !strings.Contains(err.Error(), "2.11 or later") {
		t.Errorf("error %v", err)
	}
}
