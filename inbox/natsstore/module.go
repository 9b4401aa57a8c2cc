package natsstore

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
	"github.com/caddy-chinaums/caddy-chinaums/internal/natsconn"
)

func init() { caddy.RegisterModule(new(Nats)) }

// Nats keeps an inbox's messages in an existing NATS JetStream, from server 2.11 on, which several gateways share. It makes
// the streams and consumers that it needs where they are absent, and never changes what an operator has set, but for the
// room (max_store) and for a consumer's AckWait, which grows with the handlers' timeout.
//
// A gateway starts while NATS is out of reach: until it is there, requests are answered 503.
//
// In a Caddyfile:
//
//	{
//		inbox {
//			store nats nats://127.0.0.1:4222 {
//				replicas 3
//			}
//		}
//	}
//
// In JSON:
//
//	{
//		"store": "nats",
//		"urls": ["nats://127.0.0.1:4222"],
//		"replicas": 3
//	}
type Nats struct {
	natsconn.Options

	slack    time.Duration    // how much longer than a delivery's timeout a lease is: what settling it may take
	patience time.Duration    // between two looks whether the consumers know what there is
	clock    func() time.Time // they are set by tests
}

// CaddyModule returns the Caddy module information.
func (*Nats) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "inbox.stores.nats", New: func() caddy.Module { return new(Nats) }}
}

// Provision resolves the placeholders and checks what can be checked without a connection.
func (n *Nats) Provision(ctx caddy.Context) error {
	n.slack, n.patience = cmp.Or(n.slack, 30*time.Second), cmp.Or(n.patience, 30*time.Second)
	if n.clock == nil {
		n.clock = time.Now
	}
	return n.Options.Provision(ctx)
}

// Key names the servers and the stream.
func (n *Nats) Key(name string) string { return n.StoreKey(newNames(name).messages) }

// Ordered returns why an order cannot be kept: JetStream redelivers message by message, and has no notion of a key.
func (*Nats) Ordered() error {
	return errors.New("a nats store cannot keep the order of a key: JetStream hands out messages one by one, to several gateways at once, " +
		"and another message of the key would go while one waits for a retry; use a bolt store, or let the app look at the event's time")
}

// Open connects and makes what is missing. Where the server cannot be reached it returns all the same, after a while, and
// goes on in the background.
func (n *Nats) Open(ctx context.Context, name string, settings inbox.Settings, logger *zap.Logger) (inbox.Store, error) {
	return open(ctx, n, name, settings, logger)
}

// Interface guards.
var (
	_ inbox.Provider        = (*Nats)(nil)
	_ caddy.Provisioner     = (*Nats)(nil)
	_ caddyfile.Unmarshaler = (*Nats)(nil)
)
