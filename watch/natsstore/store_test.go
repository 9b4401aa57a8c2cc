package natsstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-chinaums/caddy-chinaums/watch"
	"github.com/caddy-chinaums/caddy-chinaums/watch/storetest"
)

func TestStore(t *testing.T) {
	server, n := newServer(t), 0
	storetest.Run(t, func(*testing.T) storetest.Opener {
		n++
		name := fmt.Sprint("watch of ", n)
		return func(*testing.T) watch.Store { return server.open(name) }
	})
}

// TestServerGoesAway: while the server is away each call fails at once, and afterwards the feed has left nothing out.
func TestServerGoesAway(t *testing.T) {
	server := newServer(t)
	here, there := server.open("chinaums"), server.open("chinaums")
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
	server.kill()
	if _, err := there.Put(t.Context(), "shop/1", []byte("b"), first); err == nil || errors.Is(err, watch.ErrConflict) {
		t.Fatalf("a Put without a server: %v", err)
	}
	server.start()
	deadline := time.Now().Add(3 * time.Minute)
	for { // a Put that failed may have been written: it is read again
		e, err := there.Get(t.Context(), "shop/1")
		if err == nil {
			if _, err = there.Put(t.Context(), "shop/1", []byte("c"), e.Revision); err == nil {
				break
			}
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
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
	n := &Nats{URLs: []string{"nats://gateway:secret@127.0.0.1:1"}}
	if err := n.Provision(caddy.Context{Context: t.Context()}); err != nil {
		t.Fatal(err)
	}
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

func TestProvision(t *testing.T) {
	for name, test := range map[string]struct {
		config Nats
		want   string
	}{
		"no server":         {Nats{}, "the URL of a server is missing"},
		"replicas":          {Nats{URLs: []string{"nats://h"}, Replicas: 2}, "replicas must be 1, 3 or 5"},
		"a key is missing":  {Nats{URLs: []string{"nats://h"}, CertFile: "c"}, "a key file"},
		"no URL":            {Nats{URLs: []string{"nats://user:hunter2@h:4222/@x"}}, "must be like"},
		"another protocol":  {Nats{URLs: []string{"http://user:hunter2@h"}}, "must be like"},
		"a slash, unquoted": {Nats{URLs: []string{"nats://user:hunter2/@h"}}, "must be like"},
	} {
		t.Run(name, func(t *testing.T) {
			err := test.config.Provision(caddy.Context{Context: t.Context()})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("it shows the password: %v", err)
			}
		})
	}
}

// TestRedact: no error shows a password, however it is written.
func TestRedact(t *testing.T) {
	n := &Nats{URLs: []string{"nats://user:a%2Fb%20c@h:4222,nats://token-x@h2"}}
	if err := n.Provision(caddy.Context{Context: t.Context()}); err != nil {
		t.Fatal(err)
	}
	for _, words := range []string{"dial nats://user:a%2Fb%20c@h:4222", "password a/b c", "nats://token-x@h2"} {
		if shown := n.redact(errors.New(words)); strings.Contains(shown, "a%2Fb") || strings.Contains(shown, "a/b c") || strings.Contains(shown, "token-x") {
			t.Errorf("%q is shown as %q", words, shown)
		}
	}
}

func TestTwoGateways(t *testing.T) {
	server := newServer(t)
	one, two := server.open("chinaums"), server.open("chinaums")
	t.Cleanup(func() { _, _ = one.Close(), two.Close() })
	storetest.TwoGateways(t, one, two)
}

func TestCutOff(t *testing.T) {
	server := newServer(t)
	s := server.open("chinaums")
	t.Cleanup(func() { _ = s.Close() })
	storetest.CutOff(t, s, server.kill, server.start)
}
