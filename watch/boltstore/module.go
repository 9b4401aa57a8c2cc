package boltstore

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/internal/syntax"
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
type Provider struct {
	// The file. Placeholders are resolved when the configuration loads. Default: `watch/<platform>.db` under Caddy's data
	// directory.
	Path string `json:"path,omitempty"`

	path string
}

// CaddyModule returns the Caddy module information.
func (Provider) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "watch.stores.bolt", New: func() caddy.Module { return new(Provider) }}
}

// Provision resolves the path.
func (p *Provider) Provision(caddy.Context) (err error) {
	if p.path, err = caddy.NewReplacer().ReplaceOrErr(p.Path, true, true); err != nil {
		return fmt.Errorf("path: %w", err)
	}
	return nil
}

func (p *Provider) file(name string) string {
	path := p.path
	if path == "" {
		path = filepath.Join(caddy.AppDataDir(), "watch", name+".db")
	}
	if absolute, err := filepath.Abs(path); err == nil {
		path = absolute
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	return path
}

// Key implements watch.Provider.
func (p *Provider) Key(name string) string { return "bolt:" + p.file(name) }

// Open implements watch.Provider.
func (p *Provider) Open(_ context.Context, name string, _ *zap.Logger) (watch.Store, error) {
	return Open(p.file(name))
}

// UnmarshalCaddyfile parses the store of a watch:
//
//	store bolt {
//		path <file>
//	}
func (p *Provider) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the store's name
	if d.NextArg() {
		return d.Errf("store bolt: surplus argument %q", d.Val())
	}
	o := syntax.Options{D: d, Of: "store bolt"}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		err := o.Unknown()
		if d.Val() == "path" {
			err = o.One(&p.Path)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Interface guards
var (
	_ caddy.Provisioner     = (*Provider)(nil)
	_ caddyfile.Unmarshaler = (*Provider)(nil)
	_ watch.Provider        = (*Provider)(nil)
)
