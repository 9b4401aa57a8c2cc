package natsstore

import (
	"bytes"
	"net"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
)

// TestHandedOutAgain: a server hands out what is in flight, or sends late what it should have sent before. Nobody delivers it
// a second time.
func TestHandedOutAgain(t *testing.T) {
	t.Parallel()
	server := oneServer(t, "")
	for name, prepare := range map[string]func(t *testing.T, s *store){
		"new":     func(*testing.T, *store) {},
		"waiting": func(t *testing.T, s *store) { settle(t, s, take(t, s), retryIn(0)) },
	} {
		begin := func(t *testing.T, inboxName string) (s *store, stream string, lease func(jetstream.Msg) *inbox.Message) {
			s = quiet(t, server, inboxName+"."+name)
			put(t, s, message("a"), inbox.Stored)
			prepare(t, s)
			stream, kind := s.names.messages, s.takeNew
			if name == "waiting" {
				stream, kind = s.names.retry, s.takeRetry
			}
			return s, stream, func(m jetstream.Msg) *inbox.Message {
				t.Helper()
				got, err := kind(t.Context(), m)
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
		t.Run(name+", while it is in flight", func(t *testing.T) {
			t.Parallel()
			s, stream, lease := begin(t, "flight")
			first := handedOut(t, server, stream, 1)[0]
			holder := lease(first)
			if holder == nil {
				t.Fatal("not leased")
			}
			again(t, first)
			if m := lease(handedOut(t, server, stream, 1)[0]); m != nil {
				t.Error("leased by two at once")
			}
			settle(t, s, holder, isDelivered)
			never(t, time.Second, s)
		})
		t.Run(name+", the first of them late", func(t *testing.T) {
			t.Parallel()
			s, stream, lease := begin(t, "late")
			first := handedOut(t, server, stream, 1)[0]
			again(t, first)
			second := handedOut(t, server, stream, 1)[0]
			holder := lease(second)
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
		t.Run(name+", given back", func(t *testing.T) {
			t.Parallel()
			s, stream, lease := begin(t, "back")
			settle(t, s, lease(handedOut(t, server, stream, 1)[0]), inbox.Outcome{Released: true})
			m := lease(handedOut(t, server, stream, 1)[0])
			if m == nil {
				t.Fatal("what was given back is kept from the next")
			}
			settle(t, s, m, isDelivered)
		})
	}
}

// TestLongerTimeoutElsewhere: of two gateways the later one has longer timeouts. The other one does not take its leases for
// over after a time that it was told of itself.
func TestLongerTimeoutElsewhere(t *testing.T) {
	t.Parallel()
	server := oneServer(t, "")
	n, settings := provider(t, func(n *Nats) { n.patience = time.Hour }, server.url()), defaults()
	settings.Lease = 500 * time.Millisecond
	short := openStore(t, n, "timeouts", settings)
	settings.Lease = time.Minute
	long := openStore(t, n, "timeouts", settings)
	put(t, long, message("a"), inbox.Stored)
	first := handedOut(t, server, long.names.messages, 1)[0]
	holder, err := long.takeNew(t.Context(), first)
	if err != nil || holder == nil {
		t.Fatalf("leased %v, error %v", holder, err)
	}
	time.Sleep(1500 * time.Millisecond) // the shorter lease, and more
	if err := first.Nak(); err != nil {
		t.Fatal(err)
	}
	short.ackWait.Store(int64(500*time.Millisecond + n.slack)) // what it was told; it may have asked again as it began
	if m, err := short.takeNew(t.Context(), handedOut(t, server, long.names.messages, 1)[0]); m != nil || err != nil {
		t.Errorf("leased by two at once: %v, error %v", m, err)
	}
	if _, err := short.census(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := time.Duration(short.ackWait.Load()); got != time.Minute+n.slack {
		t.Errorf("it goes by %s", got)
	}
	settle(t, long, holder, isDelivered)
}

// TestClaimsOfAnother: what a server says of the claims to a message is believed only if it knows all there are.
func TestClaimsOfAnother(t *testing.T) {
	t.Parallel()
	server := oneServer(t, "")
	p := newProxy(t, server, func(_, server net.Conn, data []byte) {
		_, _ = server.Write(bytes.Replace(data, []byte(`:"inbox.claims.lease.`), []byte(`:"nobox.claims.lease.`), 1))
	})
	s := patient(t, p.url(), "claims", new(changingClock))
	other, mine := s.names.firstClaim("key", 1), s.names.firstClaim("key", 2)
	for _, claim := range []string{other, mine} {
		if ok, err := s.claim(t.Context(), claim); err != nil || !ok {
			t.Fatal(ok, err)
		}
	}
	look := func(word string) (time.Duration, error) {
		t.Helper()
		p.arm(word)
		left, _, err := s.claimedElsewhere(t.Context(), "key", mine, 0)
		if !p.sprung() {
			t.Fatalf("%s was not asked", word)
		}
		return left, err
	}
	if left, err := look("STREAM.INFO." + s.names.leases); err == nil {
		t.Errorf("a server that knows of no claim is believed: %v", left)
	}
	if left, err := look(`"last_by_subj":"` + other + `"`); err == nil {
		t.Errorf("a claim that is listed and not found is no claim: %v", left)
	}
	s.unfound[other] = time.Now().Add(-time.Hour)
	if left, err := look(`"last_by_subj":"` + other + `"`); err != nil || left != 0 {
		t.Errorf("a claim that only the index has holds for ever: %v, error %v", left, err)
	}
	if left, _, err := s.claimedElsewhere(t.Context(), "key", mine, 0); err != nil || left <= 0 {
		t.Errorf("left %v, error %v", left, err)
	}
}

// TestReplacedEntry: an entry of the queue of retries is handed out after another has replaced it. Who gets it keeps nobody from
// the new one.
func TestReplacedEntry(t *testing.T) {
	t.Parallel()
	server := oneServer(t, "")
	s := quiet(t, server, "entry")
	put(t, s, message("a"), inbox.Stored)
	m := take(t, s)
	settle(t, s, m, retryIn(0))
	old := handedOut(t, server, s.names.retry, 1)[0]
	of := m.Lease.(*lease).of
	note, err := s.names.noting(of, &record{Time: time.Now(), Attempts: 1, Entry: "another"})
	if err != nil {
		t.Fatal(err)
	}
	for _, wire := range []*nats.Msg{note, s.names.entering(of, "another", m.Received)} {
		if err := s.persist(t.Context(), s.names.retry, wire, -1); err != nil {
			t.Fatal(err)
		}
	}
	if m, err := s.takeRetry(t.Context(), old); m != nil || err != nil {
		t.Fatalf("leased %v, error %v", m, err)
	}
	m, err = s.takeRetry(t.Context(), handedOut(t, server, s.names.retry, 1)[0])
	if m == nil || err != nil {
		t.Fatalf("not leased: error %v", err)
	}
	settle(t, s, m, isDelivered)
}
