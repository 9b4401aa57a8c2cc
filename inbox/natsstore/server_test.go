package natsstore

import (
	"context"
	"os"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
	"github.com/caddy-chinaums/caddy-chinaums/internal/natsconn"
)

// patience is how long something may take on a busy machine that must happen.
const patience = time.Minute

// provider is a provisioned configuration.
func provider(t testing.TB, change func(*Nats), urls ...string) *Nats {
	t.Helper()
	n := &Nats{Options: natsconn.Options{URLs: urls}, slack: 500 * time.Millisecond}
	if change != nil {
		change(n)
	}
	if err := n.Provision(caddy.Context{}); err != nil {
		t.Fatal(err)
	}
	return n
}

func testLogger(t testing.TB) *zap.Logger {
	if testing.Verbose() && os.Getenv("INBOX_TEST_LOG") != "" {
		return zaptest.NewLogger(t)
	}
	return zap.NewNop()
}

func openStore(t testing.TB, n *Nats, name string, settings inbox.Settings) *store {
	t.Helper()
	return openLogging(t, n, name, settings, testLogger(t))
}

func openLogging(t testing.TB, n *Nats, name string, settings inbox.Settings, logger *zap.Logger) *store {
	t.Helper()
	opened, err := n.Open(context.Background(), name, settings, logger)
	if err != nil {
		t.Fatal(err)
	}
	s := opened.(*store)
	t.Cleanup(func() { _ = s.Close() })
	select {
	case <-s.ready: // Open does not wait for ever
	case <-time.After(patience):
		t.Fatalf("the inbox %s is not ready", name)
	}
	return s
}
