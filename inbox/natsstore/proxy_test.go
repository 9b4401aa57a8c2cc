package natsstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
)

// proxy stands between a gateway and its server. The next thing sent to the server in which an armed word stands goes to hold
// instead, which may change it, keep it for later, or lose it.
type proxy struct {
	listener net.Listener
	server   *server
	word     atomic.Pointer[string]
	hold     func(client, server net.Conn, data []byte)
}

func newProxy(t *testing.T, server *server, hold func(client, server net.Conn, data []byte)) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	p := &proxy{listener: listener, server: server, hold: hold}
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go p.serve(client)
		}
	}()
	return p
}

// serve ends with the client. Its connection to the server stays open then: something may be on its way there still.
func (p *proxy) serve(client net.Conn) {
	server, err := net.Dial("tcp", p.server.url()[len("nats://"):])
	if err != nil {
		_ = client.Close()
		return
	}
	go func() {
		_, _ = io.Copy(client, server)
		_ = client.Close()
	}()
	buffer := make([]byte, 1<<16)
	for {
		n, err := client.Read(buffer)
		if err != nil {
			return
		}
		data := buffer[:n]
		if word := p.word.Load(); word != nil && bytes.Contains(data, []byte(*word)) && p.word.CompareAndSwap(word, nil) {
			p.hold(client, server, bytes.Clone(data))
		} else if _, err := server.Write(data); err != nil {
			return
		}
	}
}

func (p *proxy) arm(word string) { p.word.Store(&word) }

// sprung reports whether what was armed has come.
func (p *proxy) sprung() bool { return p.word.Load() == nil }

func (p *proxy) url() string { return "nats://" + p.listener.Addr().String() }

// broken holds what breaks the gateway's connection, and sends it on when late is closed.
func broken(late <-chan struct{}) func(client, server net.Conn, data []byte) {
	return func(client, server net.Conn, data []byte) {
		_ = client.Close()
		go func() {
			<-late
			_, _ = server.Write(data)
		}()
	}
}

// patient is a gateway behind a proxy, or in front of a server, that does not look by itself for what is missed.
func patient(t *testing.T, url, name string, clock *changingClock) *store {
	t.Helper()
	return openStore(t, provider(t, func(n *Nats) { n.patience, n.clock = time.Hour, clock.now }, url), name, defaults())
}

// TestLate: what was sent over a connection that has broken arrives all the same, long after. The tests share a server.
func TestLate(t *testing.T) {
	t.Parallel()
	shared := oneServer(t, "")
	t.Run("removal", func(t *testing.T) {
		t.Parallel()
		testLateRemoval(t, shared)
	})
	t.Run("revival", func(t *testing.T) {
		t.Parallel()
		testLateRevival(t, shared)
	})
}

// A forgotten message is to be removed, and one with its id is stored before that is done: the new one stays.
func testLateRemoval(t *testing.T, server *server) {
	late, clocks := make(chan struct{}), [2]*changingClock{{}, {}}
	p := newProxy(t, server, broken(late))
	one, two := patient(t, p.url(), "late.removal", clocks[0]), patient(t, server.url(), "late.removal", clocks[1])
	put(t, two, message("a"), inbox.Stored)
	m := take(t, two)
	settle(t, two, m, isDelivered)
	p.arm("STREAM.MSG.DELETE." + one.names.messages)
	clocks[0].jump(2 * time.Hour) // one looks first
	one.wakeJanitor()
	eventually(t, "the removal is under way", p.sprung)
	clocks[1].jump(2 * time.Hour)
	// The claim of who removes it ends a minute later at the earliest; here at once.
	if err := two.purge(t.Context(), two.names.leases, two.names.of("claim", m.Lease.(*lease).of.key)); err != nil {
		t.Fatal(err)
	}
	put(t, two, message("a"), inbox.Stored)
	close(late)
	time.Sleep(500 * time.Millisecond) // it arrives
	if m := take(t, two); m.ID != "a" || string(m.Request) != "request of a" {
		t.Errorf("leased %+v", m)
	}
}

// A dead message is revived, and what came of it is not known: nobody else replaces it until it must have arrived.
func testLateRevival(t *testing.T, server *server) {
	late := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	p := newProxy(t, server, func(_, server net.Conn, data []byte) {
		cancel() // it is on its way, and who has sent it waits no more
		go func() {
			<-late
			_, _ = server.Write(data)
		}()
	})
	one, two := patient(t, p.url(), "late.revival", new(changingClock)), patient(t, server.url(), "late.revival", new(changingClock))
	put(t, two, message("a"), inbox.Stored)
	m := take(t, two)
	settle(t, two, m, isDead)
	p.arm(jetstream.ExpectedLastSubjSeqHeader + ": 1") // not 0, as that of a claim
	if receipt, err := one.Put(ctx, message("a")); err == nil || !p.sprung() {
		t.Fatalf("receipt %d, error %v", receipt, err)
	}
	for range 10 { // what would be tidied up is
		if _, err := two.getLast(t.Context(), two.names.leases, two.names.of("claim", m.Lease.(*lease).of.key)); err != nil {
			t.Fatalf("the claim to it: %v", err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	close(late)
	eventually(t, "it has arrived", func() bool {
		receipt, err := two.Put(t.Context(), message("a"))
		return err == nil && receipt == inbox.Repeated
	})
	if m := take(t, two); m.ID != "a" {
		t.Errorf("leased %+v", m)
	}
}

// TestFalseAnswer: a server says once that something is not there, as servers do of any error of their disk.
func TestFalseAnswer(t *testing.T) {
	t.Parallel()
	shared := oneServer(t, "")
	for name, test := range map[string]func(t *testing.T, server *server){
		"message":         testMessageNotFound,
		"record":          testRecordNotFound,
		"record, audited": testRecordNotFoundAudited,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, shared)
		})
	}
}

// notFound is a gateway to whom the server says of one thing of a kind, once it is armed, that it is not there: the first time
// that it is asked for, or always.
func notFound(t *testing.T, server *server, name, kind string, always bool) (s *store, arm func(), told func() bool) {
	t.Helper()
	asked := `"last_by_subj":"inbox.` + name + "." + kind + "."
	var p *proxy
	var times atomic.Int64
	p = newProxy(t, server, func(_, server net.Conn, data []byte) {
		times.Add(1)
		if always {
			p.arm(asked)
		}
		_, _ = server.Write(bytes.ReplaceAll(data, []byte(asked), []byte(strings.Replace(asked, "inbox", "nobox", 1))))
	})
	s = patient(t, p.url(), name, new(changingClock))
	return s, func() { p.arm(asked) }, func() bool { return times.Load() > 0 }
}

// Nothing is removed for it: the message is looked for again, and delivered.
func testMessageNotFound(t *testing.T, server *server) {
	s, arm, told := notFound(t, server, "nomessage", "message", false)
	put(t, s, message("a"), inbox.Stored)
	settle(t, s, take(t, s), retryIn(2*time.Second))
	time.Sleep(time.Second)                        // it waits for its time
	s.ackWait.Store(int64(100 * time.Millisecond)) // what is younger is not believed to be gone anyway
	arm()
	m := take(t, s)
	if !told() {
		t.Error("the answer was true")
	}
	if m.ID != "a" || m.Attempts != 1 {
		t.Errorf("leased %s with %d attempts", m.ID, m.Attempts)
	}
	settle(t, s, m, isDelivered)
}

// What was delivered by another holder is not taken for pending.
func testRecordNotFound(t *testing.T, server *server) {
	s, arm, told := notFound(t, server, "norecord", "delivered", true) // others ask for it too
	put(t, s, message("a"), inbox.Stored)
	first := handedOut(t, server, s.names.messages, 1)[0]
	holder, err := s.takeNew(t.Context(), first)
	if err != nil || holder == nil {
		t.Fatalf("leased %v, error %v", holder, err)
	}
	if err := first.Nak(); err != nil {
		t.Fatal(err)
	}
	again := handedOut(t, server, s.names.messages, 1)[0]
	settle(t, s, holder, isDelivered)
	// The lease has run out.
	claim := &nats.Msg{Subject: holder.Lease.(*lease).claim, Data: []byte("x 1ms")}
	if err := s.persist(t.Context(), s.names.leases, claim, -1); err != nil {
		t.Fatal(err)
	}
	s.ackWait.Store(int64(time.Millisecond))
	time.Sleep(10 * time.Millisecond)
	arm()
	// It may be declined before it is looked up, while the claim to it is not yet seen to have run out. It is never leased.
	eventually(t, "the record is looked up", func() bool {
		m, err := s.takeNew(t.Context(), again)
		if m != nil || err != nil && !errors.Is(err, errUnreadable) {
			t.Fatalf("leased %v, error %v", m, err)
		}
		return err != nil && told()
	})
}

// Nor by the audit.
func testRecordNotFoundAudited(t *testing.T, server *server) {
	s, arm, told := notFound(t, server, "noaudit", "delivered", false)
	put(t, s, message("a"), inbox.Stored)
	m := take(t, s)
	settle(t, s, m, isDelivered)
	if err := s.purge(t.Context(), s.names.leases, s.names.of("lease", m.Lease.(*lease).of.key)+".>"); err != nil { // long ago
		t.Fatal(err)
	}
	arm()
	if got, err := s.bringBack(t.Context(), suspect{of: m.Lease.(*lease).of}); got != notMissed || err != nil || !told() {
		t.Errorf("result %d, error %v", got, err)
	}
}

// TestSilentRead: the server stands still, for longer than the client waits, when it is asked for what there is. Then nothing was
// read, which is not the same as that there is nothing.
func TestSilentRead(t *testing.T) {
	t.Parallel()
	server := oneServer(t, "")
	p := newProxy(t, server, func(_, server net.Conn, data []byte) {
		time.Sleep(1500 * time.Millisecond)
		_, _ = server.Write(data)
	})
	s := patient(t, p.url(), "silent", new(changingClock))
	for i := range 3 {
		put(t, s, message(fmt.Sprint(i)), inbox.Stored)
	}
	// The audit reads them all, or knows that it has not.
	acknowledge(t, handedOut(t, server, s.names.messages, 3))
	book := newLedger()
	for _, silent := range []bool{true, false} {
		if silent {
			p.arm("$JS.API.CONSUMER.MSG.NEXT." + s.names.messages)
		}
		s.doubt()
		book.compared = time.Time{} // it may be done again at once
		_, err := s.look(t.Context(), book)
		if silent != (err != nil) || silent != book.from.IsZero() || silent == (len(book.suspects) == 3) {
			t.Errorf("silent %v: %d are missed, what is older than %v is not read again, error %v", silent, len(book.suspects), book.from, err)
		}
	}
}

// TestLeftOfReplaced: who revives a dead message ends before its record is removed. The numbers are right all the same, once the
// message is handed out.
func TestLeftOfReplaced(t *testing.T) {
	t.Parallel()
	server := oneServer(t, "")
	p := newProxy(t, server, func(net.Conn, net.Conn, []byte) {}) // what is held is lost
	first := quiet(t, server, "replaced")
	put(t, first, message("a"), inbox.Stored)
	settle(t, first, take(t, first), isDead)
	_ = first.Close()
	s := patient(t, p.url(), "replaced", new(changingClock))
	p.arm("STREAM.PURGE." + s.names.dead)
	put(t, s, message("a"), inbox.Revived)
	if stats, err := s.Stats(t.Context()); err != nil || stats.Dead != 1 || !p.sprung() {
		t.Fatalf("the record is gone: %+v, error %v", stats, err)
	}
	m := take(t, s)
	eventually(t, "what is left is removed", func() bool {
		stats, err := s.Stats(t.Context())
		return err == nil && stats.Pending == 1 && stats.Dead == 0
	})
	settle(t, s, m, isDelivered)
}

// TestPutWaits: a server says that there is a message of an id, and that there is none. Who puts one tries again, and not all the
// time.
func TestPutWaits(t *testing.T) {
	t.Parallel()
	const asked, other = `"last_by_subj":"inbox.waits.message.`, `"last_by_subj":"inbox.waits.nothing.`
	var p *proxy
	p = newProxy(t, oneServer(t, ""), func(_, server net.Conn, data []byte) {
		_, _ = server.Write(bytes.ReplaceAll(data, []byte(asked), []byte(other)))
		p.arm(asked)
	})
	s := patient(t, p.url(), "waits", new(changingClock))
	put(t, s, message("a"), inbox.Stored)
	p.arm(asked)
	before := s.connection.Stats().OutMsgs
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if receipt, err := s.Put(ctx, message("a")); err == nil {
		t.Errorf("receipt %d", receipt)
	}
	if sent := s.connection.Stats().OutMsgs - before; sent > 100 {
		t.Errorf("%d questions in a second", sent)
	}
}
