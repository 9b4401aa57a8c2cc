package natsstore

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
	"github.com/caddy-chinaums/caddy-chinaums/internal/natsconn"
	"github.com/caddy-chinaums/caddy-chinaums/internal/natstest"
)

// proxy stands between a gateway and its server. The next thing sent to the server in which an armed word stands goes to hold
// instead, which may change it, keep it for later, or lose it.
type proxy struct {
	listener net.Listener
	server   *natstest.Server
	word     atomic.Pointer[string]
	hold     func(client, server net.Conn, data []byte)
	lost     time.Duration // if not 0: what was armed is sent on, and for so long nothing of what the server says
	muted    atomic.Int64  // until when, in Unix nanoseconds
	hung     atomic.Bool   // nothing is sent on any more, either way
}

func newProxy(t *testing.T, server *natstest.Server, hold func(client, server net.Conn, data []byte)) *proxy {
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
	server, err := net.Dial("tcp", p.server.URL()[len("nats://"):])
	if err != nil {
		_ = client.Close()
		return
	}
	spoiled := new(atomic.Bool) // something is missing in it: it cannot go on
	go func() {
		defer func() { _ = client.Close() }()
		buffer := make([]byte, 1<<16)
		for {
			n, err := server.Read(buffer)
			if err != nil || spoiled.Load() && !p.hung.Load() {
				return
			}
			if p.hung.Load() {
				spoiled.Store(true)
				continue
			}
			if time.Now().UnixNano() < p.muted.Load() {
				continue
			}
			if _, err := client.Write(buffer[:n]); err != nil {
				return
			}
		}
	}()
	buffer := make([]byte, 1<<16)
	for {
		n, err := client.Read(buffer)
		if err != nil {
			return
		}
		data := buffer[:n]
		if p.hung.Load() {
			spoiled.Store(true)
			continue
		}
		if spoiled.Load() {
			_, _ = client.Close(), server.Close()
			return
		}
		if word := p.word.Load(); word != nil && bytes.Contains(data, []byte(*word)) && p.word.CompareAndSwap(word, nil) {
			if p.lost > 0 {
				p.muted.Store(time.Now().Add(p.lost).UnixNano())
				_, _ = server.Write(data)
				continue
			}
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

// patient is a gateway that does not look by itself for what a consumer has forgotten.
func patient(t *testing.T, url, name string) *store {
	t.Helper()
	return openStore(t, provider(t, func(n *Nats) { n.patience = time.Hour }, url), name, defaults())
}

// TestProxied: answers are lost, late or wrong. The tests share a server.
func TestProxied(t *testing.T) {
	t.Parallel()
	shared := natstest.Run(t, "")
	for name, test := range map[string]func(t *testing.T, server *natstest.Server){
		"late removal":      testLateRemoval,
		"late revival":      testLateRevival,
		"lost answers":      testLostAnswers,
		"server behind":     testServerBehind,
		"looked up last":    testLookedUpLast,
		"lost removal":      testLostRemoval,
		"message not found": testMessageNotFound,
		"silent read":       testSilentRead,
		"left of replaced":  testLeftOfReplaced,
		"put waits":         testPutWaits,
		"hung":              testHung,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, shared)
		})
	}
}

// A dead message is to be removed as it was revived, and one with its id is stored before that is done: the new one stays.
func testLateRemoval(t *testing.T, server *natstest.Server) {
	late := make(chan struct{})
	p := newProxy(t, server, broken(late))
	one, two := patient(t, p.url(), "late_removal"), patient(t, server.URL(), "late_removal")
	put(t, two, message("a"), inbox.Stored)
	settle(t, two, take(t, two), isDead)
	p.arm("STREAM.MSG.DELETE." + one.names.messages)
	put(t, one, message("a"), inbox.Revived)
	natstest.Eventually(t, "something is to be removed", p.sprung)
	settle(t, two, take(t, two), isDead)
	put(t, two, message("a"), inbox.Revived)
	close(late)
	time.Sleep(500 * time.Millisecond) // for it to arrive; if it comes later, the test can only pass
	m := take(t, two)
	if m.ID != "a" || string(m.Request) != "request of a" {
		t.Errorf("leased %+v", m)
	}
	settle(t, two, m, isDelivered)
	counted(t, two, 0, 1, 0)
}

// counted fails if there are other numbers of messages after a while.
func counted(t *testing.T, s *store, pending, delivered, dead int64) {
	t.Helper()
	natstest.Eventually(t, fmt.Sprintf("%d are pending, %d delivered, %d dead", pending, delivered, dead), func() bool {
		stats, err := s.Stats(t.Context())
		return err == nil && stats.Pending == pending && stats.Delivered == delivered && stats.Dead == dead
	})
}

// A dead message is revived, and that arrives after it was revived, delivered, and given up again: it changes nothing.
func testLateRevival(t *testing.T, server *natstest.Server) {
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
	one, two := patient(t, p.url(), "late_revival"), patient(t, server.URL(), "late_revival")
	put(t, two, message("a"), inbox.Stored)
	m := take(t, two)
	settle(t, two, m, isDead)
	p.arm(fmt.Sprintf("%s: %d", jetstream.ExpectedLastSubjSeqHeader, m.Seq))
	if receipt, err := one.Put(ctx, message("a")); err == nil || !p.sprung() {
		t.Fatalf("receipt %d, error %v", receipt, err)
	}
	put(t, two, message("a"), inbox.Revived)
	settle(t, two, take(t, two), isDead)
	close(late)
	never(t, time.Second, two)
	counted(t, two, 0, 0, 1)
}

// The answers to a put, to a claim and to an outcome are lost. Each is known again when it is repeated.
func testLostAnswers(t *testing.T, server *natstest.Server) {
	p := newProxy(t, server, nil)
	p.lost = 500 * time.Millisecond // what the server says then is lost, so the question is asked again later
	s := patient(t, p.url(), "lost_answers")
	arm := func(word string) { p.arm("inbox.lost_answers." + word + ".") }
	arm(stateNew)
	put(t, s, message("a"), inbox.Stored)
	if !p.sprung() {
		t.Error("no answer to a put was lost")
	}
	arm("claim")
	m := take(t, s)
	if !p.sprung() {
		t.Error("no answer to a claim was lost")
	}
	arm(stateDelivered)
	seq := m.Seq
	settle(t, s, m, isDelivered)
	if !p.sprung() || m.Seq == seq {
		t.Errorf("no answer to an outcome was lost, or it is not known; seq %d", m.Seq)
	}
	counted(t, s, 0, 1, 0)
}

// What became of a message comes to a server that led until it was frozen, and does not know yet that it leads no more, nor what
// was stored meanwhile: it answers that the compare has failed, and that the message is not there. That was taken for somebody
// else's move: Settle returned nil, nothing was recorded, and what the app had taken came again after the lease.
func testServerBehind(t *testing.T, server *natstest.Server) {
	const asked, other = `"last_by_subj":"inbox.behind.*.`, `"last_by_subj":"nobox.behind.*.`
	var p *proxy
	p = newProxy(t, server, func(_, server net.Conn, data []byte) {
		if bytes.Contains(data, []byte(asked)) {
			_, _ = server.Write(bytes.ReplaceAll(data, []byte(asked), []byte(other)))
			return
		}
		p.arm(asked)
		expected := jetstream.ExpectedLastSubjSeqHeader + ": "
		_, _ = server.Write(bytes.ReplaceAll(data, []byte(expected+"1\r\n"), []byte(expected+"9\r\n")))
	})
	s := patient(t, p.url(), "behind")
	put(t, s, message("a"), inbox.Stored)
	m := take(t, s)
	p.arm(jetstream.ExpectedLastSubjSeqHeader + ": 1\r\n")
	settle(t, s, m, isDelivered)
	if !p.sprung() {
		t.Error("it was not looked up why the compare has failed")
	}
	if m.Seq == 1 {
		t.Fatal("nothing is recorded")
	}
	counted(t, s, 0, 1, 0)
}

// A message that was handed out before is looked up once it is claimed. It was at the same time: a server that had been frozen
// while it led, and handed out what it knew then, answered by that too, and what was settled meanwhile was delivered again.
func testLookedUpLast(t *testing.T, server *natstest.Server) {
	const asked = `"last_by_subj":"inbox.looked_up.*.`
	two := patient(t, server.URL(), "looked_up")
	claims := make(chan uint64, 1)
	p := newProxy(t, server, func(_, server net.Conn, data []byte) {
		info, err := two.claims.Info(t.Context())
		if err != nil {
			t.Error(err)
		}
		claims <- info.State.Msgs
		_, _ = server.Write(data)
	})
	one := patient(t, p.url(), "looked_up")
	put(t, two, message("a"), inbox.Stored)
	if err := handedOut(t, server, two, stateNew, 1)[0].Nak(); err != nil {
		t.Fatal(err)
	}
	p.arm(asked)
	settle(t, one, take(t, one), isDelivered)
	if got := <-claims; got != 1 {
		t.Errorf("looked up with %d claims", got)
	}
}

// A message was moved, and the former one is still there, as its removal was lost: it is not delivered, and goes.
func testLostRemoval(t *testing.T, server *natstest.Server) {
	p := newProxy(t, server, func(net.Conn, net.Conn, []byte) {}) // what is held is lost
	settings := defaults()
	settings.Lease = 500 * time.Millisecond
	s := openStore(t, provider(t, func(n *Nats) { n.patience = time.Hour }, p.url()), "lost_removal", settings)
	put(t, s, message("a"), inbox.Stored)
	m := take(t, s)
	p.arm("STREAM.MSG.DELETE." + s.names.messages)
	settle(t, s, m, isDelivered)
	natstest.Eventually(t, "something is to be removed", p.sprung)
	put(t, s, message("a"), inbox.Repeated)
	never(t, 3*time.Second, s) // longer than the lease
	counted(t, s, 0, 1, 0)
}

// A server says once that a message is not there, as servers do of any error of their disk. It is delivered all the same.
func testMessageNotFound(t *testing.T, server *natstest.Server) {
	const asked = `"last_by_subj":"inbox.not_found.*.`
	p := newProxy(t, server, func(_, server net.Conn, data []byte) {
		_, _ = server.Write(bytes.ReplaceAll(data, []byte(asked), []byte(strings.Replace(asked, "inbox", "nobox", 1))))
	})
	s := patient(t, p.url(), "not_found")
	put(t, s, message("a"), inbox.Stored)
	settle(t, s, take(t, s), inbox.Outcome{Released: true})
	p.arm(asked)
	m := take(t, s) // handed out for the second time: it is looked up
	if !p.sprung() {
		t.Error("the answer was true")
	}
	settle(t, s, m, isDelivered)
	counted(t, s, 0, 1, 0)
}

// The server stands still, for longer than the client waits, when it is asked for what there is. Then nothing was read, which is
// not the same as that there is nothing.
func testSilentRead(t *testing.T, server *natstest.Server) {
	p := newProxy(t, server, func(_, server net.Conn, data []byte) {
		time.Sleep(natsconn.RequestTimeout + time.Second)
		_, _ = server.Write(data)
	})
	s := patient(t, p.url(), "silent")
	for i := range 3 {
		put(t, s, message(fmt.Sprint(i)), inbox.Stored)
	}
	p.arm("$JS.API.CONSUMER.MSG.NEXT." + s.names.messages)
	if all, err := s.List(t.Context(), inbox.Query{Limit: 10}); err == nil && len(all) != 3 || !p.sprung() {
		t.Errorf("%d listed", len(all))
	}
	natstest.Eventually(t, "all are listed", func() bool {
		all, err := s.List(t.Context(), inbox.Query{Limit: 10})
		return err == nil && len(all) == 3
	})
}

// Who revives a dead message ends before the dead one is removed. It is, once the message is handed out.
func testLeftOfReplaced(t *testing.T, server *natstest.Server) {
	p := newProxy(t, server, func(net.Conn, net.Conn, []byte) {}) // what is held is lost
	s := patient(t, p.url(), "replaced")
	put(t, s, message("a"), inbox.Stored)
	settle(t, s, take(t, s), isDead)
	counted(t, s, 0, 0, 1)
	p.arm("STREAM.MSG.DELETE." + s.names.messages)
	put(t, s, message("a"), inbox.Revived)
	natstest.Eventually(t, "something is to be removed", p.sprung)
	if stats, err := s.Stats(t.Context()); err != nil || stats.Dead != 1 {
		t.Fatalf("the dead one is gone: %+v, error %v", stats, err)
	}
	m := take(t, s)
	counted(t, s, 1, 0, 0)
	settle(t, s, m, isDelivered)
}

// A server says that there is a message of an id, and that there is none. Who puts one tries again, and not all the time.
func testPutWaits(t *testing.T, server *natstest.Server) {
	const asked, other = `"last_by_subj":"inbox.waits.*.`, `"last_by_subj":"nobox.waits.*.`
	var p *proxy
	p = newProxy(t, server, func(_, server net.Conn, data []byte) {
		_, _ = server.Write(bytes.ReplaceAll(data, []byte(asked), []byte(other)))
		p.arm(asked)
	})
	s := patient(t, p.url(), "waits")
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

// The server of the connection stands still and closes nothing: another one is taken, long before the client's pings would tell.
// That took 24 s, in which everything that came was refused.
func testHung(t *testing.T, server *natstest.Server) {
	proxies := []*proxy{newProxy(t, server, nil), newProxy(t, server, nil)}
	core, logs := observer.New(zapcore.WarnLevel)
	s := openLogging(t, provider(t, nil, proxies[0].url(), proxies[1].url()), "hung", defaults(), zap.New(core))
	put(t, s, message("before"), inbox.Stored)
	for _, p := range proxies {
		if p.url() == s.connection.ConnectedUrl() {
			p.hung.Store(true)
		}
	}
	begun := time.Now()
	natstest.Eventually(t, "something is stored", func() bool {
		_, err := s.Put(t.Context(), message("after"))
		return err == nil
	})
	t.Logf("it took %s", time.Since(begun)) // 6 s, where the machine is not busy
	if logs.FilterMessageSnippet("the NATS server does not answer").Len() == 0 {
		t.Errorf("only the client's pings told: %v", logs.All())
	}
	for range 2 {
		settle(t, s, take(t, s), isDelivered)
	}
}
