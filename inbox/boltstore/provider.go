package boltstore

import (
	"context"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
	"github.com/caddy-chinaums/caddy-chinaums/internal/boltfile"
)

func init() {
	caddy.RegisterModule(Provider{})
}

// Provider keeps an inbox in one file of this machine, synced to the disk before a request is acknowledged. One process
// at a time has the file. It must be on a local disk: in memory (tmpfs) it is refused.
//
// In a Caddyfile:
//
//	{
//		inbox {
//			store bolt {
//				path /var/lib/caddy/inbox.db
//			}
//		}
//	}
//
// In JSON:
//
//	{
//		"store": "bolt",
//		"path": "/var/lib/caddy/inbox.db"
//	}
type Provider struct{ boltfile.Options }

// CaddyModule returns the Caddy module information.
func (Provider) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "inbox.stores.bolt",
		New: func() caddy.Module { return new(Provider) },
	}
}

// Key implements inbox.Provider.
func (p *Provider) Key(name string) string { return "bolt:" + p.File("inbox", name) }

// Open implements inbox.Provider.
func (p *Provider) Open(_ context.Context, name string, settings inbox.Settings, logger *zap.Logger) (inbox.Store, error) {
	return Open(p.File("inbox", name), settings, logger)
}

// Ordered implements inbox.Provider: the order of a key is kept.
func (p *Provider) Ordered() error { return nil }

// Interface guards
var (
	_ caddy.Provisioner     = (*Provider)(nil)
	_ caddyfile.Unmarshaler = (*Provider)(nil)
	_ inbox.Provider        = (*Provider)(nil)
	_ inbox.FileReader      = (*Provider)(nil)
)
