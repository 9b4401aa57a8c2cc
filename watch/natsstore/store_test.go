package natsstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-chinaums/caddy-chinaums/internal/natsconn"
	"github.com/caddy-chinaums/caddy-chinaums/internal/natstest"
	"github.com/caddy-chinaums/caddy-chinaums/watch"
	"github.com/caddy-chinaums/caddy-chinaums/watch/storetest"
)

func TestStore(t *testing.T) {
	server, n := natstest.Run(t, ""), 0
	storetest.Run(t, func(*testing.T) storetest.Opener {
		n++
		name := fmt.Sprint("watch of ", n)
		return func(*testing.T) watch.Store { return openStore(t, server, name) }
	})
}

// TestServerGoesAway: while the server is away each call fails at once, and afterwards the feed has left nothing out.
func TestServerGoesAway(t *testing.T) {
	server := natstest.Run(t, "")
	here, there := openStore(t, server, "chinaums"), openStore(t, server, "chinaums")
	defer here.Close()
	defer there.Close()
	told := make(chan watch.Entry, 1000)
	if err := here.Changes(t.Context(), func(e watch.Entry) { told <- watch.Entry{Value: bytes.Clone(e.Value)} }); err != nil {
		t.Fatal(err)
	}
	first, err := there.Put(t.Context(), "shop/1", []byte("a"), 0)
	if err != nil {
		t.Fatal(err)
	}
	server.Kill()
	if _, err := there.Put(t.Context(), "shop/1", []byte("b"), first); err == nil || errors.Is(err, watch.ErrConflict) {
		t.Fatalf("a Put without a server: %v", err)
	}
	server.Start()
	natstest.Eventually(t, "a change is written", func() bool { // a Put that failed may have been written: it is read again
		e, err := there.Get(t.Context(), "shop/1")
		if err == nil {
			_, err = there.Put(t.Context(), "shop/1", []byte("c"), e.Revision)
		}
		return err == nil
	})
	for {
		select {
		case e := <-told:
			if string(e.Value) == "c" {
				return
			}
		case <-time.After(3 * time.Minute):
			t.Fatal("the feed has left a change out")
		}
	}
}

// TestWithoutServer: a gateway starts while NATS is out of reach, and says so when it is asked.
func TestWithoutServer(t *testing.T) {
	n := provider(t, "nats://gateway:secret@127.0.0.1:1")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s, err := n.Open(ctx, "chinaums", zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Put(t.Context(), "shop/1", []byte("a"), 0); !errors.Is(err, errAway) {
		t.Errorf("a Put: %v", err)
	}
}

// TestBucketOfAnOperator: one that forgets rows by itself is refused; with it, a refund that was sent months ago could be sent again.
func TestBucketOfAnOperator(t *testing.T) {
	server := natstest.Run(t, "")
	connection, err := nats.Connect(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	stream, err := jetstream.New(connection)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		ttl   time.Duration
		wrong string // what the error says
	}{{0, ""}, {time.Hour, "forgets after 1h0m0s"}} {
		name := fmt.Sprint("of an operator ", test.ttl)
		if _, err := stream.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "caddy_watch_" + encode(name), TTL: test.ttl}); err != nil {
			t.Fatal(err)
		}
		store, err := provider(t, server.URL()).Open(t.Context(), name, zap.NewNop())
		if err == nil {
			_ = store.Close()
		}
		if test.wrong == "" && err != nil || test.wrong != "" && (err == nil || !strings.Contains(err.Error(), test.wrong)) {
			t.Errorf("ttl %s: %v", test.ttl, err)
		}
	}
}

func TestTwoGateways(t *testing.T) {
	server := natstest.Run(t, "")
	one, two := openStore(t, server, "chinaums"), openStore(t, server, "chinaums")
	t.Cleanup(func() { _, _ = one.Close(), two.Close() })
	storetest.TwoGateways(t, one, two)
	storetest.Alike(t, one, two)
}

func TestCutOff(t *testing.T) {
	server := natstest.Run(t, "")
	s := openStore(t, server, "chinaums")
	t.Cleanup(func() { _ = s.Close() })
	storetest.CutOff(t, s, server.Kill, func() { server.Start(); server.Usable() })
}

// TestHung: the server of the connection stands still and closes nothing. Another one is taken, as by the inbox. That took half a
// minute, in which every refund was refused.
func TestHung(t *testing.T) {
	server := natstest.Run(t, "")
	hung := [2]atomic.Bool{}
	var ways []string
	for i := range hung {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = listener.Close() })
		ways = append(ways, "nats://"+listener.Addr().String())
		pass := func(to, from net.Conn) {
			defer to.Close()
			buffer := make([]byte, 1<<16)
			for {
				n, err := from.Read(buffer)
				if err != nil {
					return
				}
				if !hung[i].Load() {
					_, _ = to.Write(buffer[:n])
				}
			}
		}
		go func() {
			for {
				client, err := listener.Accept()
				if err != nil {
					return
				}
				there, err := net.Dial("tcp", server.URL()[len("nats://"):])
				if err != nil {
					_ = client.Close()
					return
				}
				go pass(client, there)
				go pass(there, client)
			}
		}()
	}
	n := provider(t, ways...)
	core, logs := observer.New(zapcore.WarnLevel)
	s, err := n.Open(t.Context(), "chinaums", zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Put(t.Context(), "shop/1", []byte("a"), 0); err != nil {
		t.Fatal(err)
	}
	used := s.(*store).connection.ConnectedUrl()
	hung[slices.Index(ways, used)].Store(true)
	begun := time.Now()
	natstest.Eventually(t, "it is read", func() bool {
		_, err := s.Get(t.Context(), "shop/1")
		return err == nil
	})
	t.Logf("it took %s", time.Since(begun)) // 6 s, where the machine is not busy
	if logs.FilterMessageSnippet("the NATS server does not answer").Len() == 0 {
		t.Errorf("only the client's pings told: %v", logs.All())
	}
}

func openStore(t *testing.T, s *natstest.Server, name string) watch.Store {
	t.Helper()
	n := provider(t, s.URL())
	opened, err := n.Open(t.Context(), name, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	return opened
}

func provider(t *testing.T, urls ...string) *Nats {
	t.Helper()
	n := &Nats{Options: natsconn.Options{URLs: urls}}
	if err := n.Provision(caddy.Context{Context: t.Context()}); err != nil {
		t.Fatal(err)
	}
	return n
}
