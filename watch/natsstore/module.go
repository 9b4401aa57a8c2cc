package natsstore

import (
	"context"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/internal/natsconn"
	"github.com/caddy-chinaums/caddy-chinaums/watch"
)

func init() { caddy.RegisterModule(new(Nats)) }

// Nats keeps a watch in a key-value bucket of an existing NATS JetStream, from server 2.11 on, which several gateways share.
// It makes the bucket where it is absent, and never changes one that is there.
//
// In a Caddyfile:
//
//	{
//		chinaums {
//			merchant shop {
//				app_id {env.UMS_APP_ID}
//				app_key {env.UMS_APP_KEY}
//			}
//			watch {
//				store nats nats://127.0.0.1:4222 {
//					replicas 3
//				}
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
type Nats struct{ natsconn.Options }

// CaddyModule returns the Caddy module information.
func (*Nats) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "watch.stores.nats", New: func() caddy.Module { return new(Nats) }}
}

// Key names the servers and the bucket.
func (n *Nats) Key(name string) string { return n.StoreKey(name) }

// Open connects and makes what is missing. Where the servers cannot be reached it returns all the same, after a while, and
// goes on in the background.
func (n *Nats) Open(ctx context.Context, name string, logger *zap.Logger) (watch.Store, error) {
	return open(ctx, n, name, logger)
}

// Interface guards.
var (
	_ caddy.Provisioner     = (*Nats)(nil)
	_ caddyfile.Unmarshaler = (*Nats)(nil)
	_ watch.Provider        = (*Nats)(nil)
)
