package boltstore

import (
	"context"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/internal/boltfile"
	"github.com/caddy-chinaums/caddy-chinaums/watch"
)

func init() { caddy.RegisterModule(Provider{}) }

// Provider keeps a watch in one file of this machine, synced to the disk before a call is sent. One process at a time has
// the file. It must be on a local disk.
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
//				store bolt {
//					path /var/lib/caddy/watch.db
//				}
//			}
//		}
//	}
//
// In JSON:
//
//	{
//		"store": "bolt",
//		"path": "/var/lib/caddy/watch.db"
//	}
type Provider struct{ boltfile.Options }

// CaddyModule returns the Caddy module information.
func (Provider) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "watch.stores.bolt", New: func() caddy.Module { return new(Provider) }}
}

// Key implements watch.Provider.
func (p *Provider) Key(name string) string { return "bolt:" + p.File("watch", name) }

// Open implements watch.Provider.
func (p *Provider) Open(_ context.Context, name string, _ *zap.Logger) (watch.Store, error) {
	return Open(p.File("watch", name))
}

// Interface guards
var (
	_ caddy.Provisioner     = (*Provider)(nil)
	_ caddyfile.Unmarshaler = (*Provider)(nil)
	_ watch.Provider        = (*Provider)(nil)
)
