package boltstore

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
	"github.com/caddy-chinaums/caddy-chinaums/internal/syntax"
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
type Provider struct {
	// The file. Placeholders are resolved when the configuration loads. Default: `inbox/<name>.db` under Caddy's data
	// directory.
	Path string `json:"path,omitempty"`

	path string
}

// CaddyModule returns the Caddy module information.
func (Provider) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "inbox.stores.bolt",
		New: func() caddy.Module { return new(Provider) },
	}
}

// Provision resolves the path.
func (p *Provider) Provision(caddy.Context) (err error) {
	if p.path, err = caddy.NewReplacer().ReplaceOrErr(p.Path, true, true); err != nil {
		return fmt.Errorf("path: %w", err)
	}
	return nil
}

// file is the file of an inbox, as an absolute path whose directory is real as far as it exists.
func (p *Provider) file(name string) string {
	path := p.path
	if path == "" {
		path = filepath.Join(caddy.AppDataDir(), "inbox", name+".db")
	}
	if absolute, err := filepath.Abs(path); err == nil {
		path = absolute
	}
	return filepath.Join(realDirectory(filepath.Dir(path)), filepath.Base(path))
}

// realDirectory resolves the symbolic links of a path as far as it exists, so that it stays the same when the rest of it
// is made: the next configuration is to find the store of this one.
func realDirectory(path string) string {
	if resolved, err := filepath.EvalSymlinks(path); err == nil {
		return resolved
	}
	parent := filepath.Dir(path)
	if parent == path {
		return path
	}
	return filepath.Join(realDirectory(parent), filepath.Base(path))
}

// Key implements inbox.Provider.
func (p *Provider) Key(name string) string { return "bolt:" + p.file(name) }

// Open implements inbox.Provider.
func (p *Provider) Open(_ context.Context, name string, settings inbox.Settings, logger *zap.Logger) (inbox.Store, error) {
	return Open(p.file(name), settings, logger)
}

// Ordered implements inbox.Provider: the order of a key is kept.
func (p *Provider) Ordered() error { return nil }

// UnmarshalCaddyfile parses the store of an inbox: store bolt { path <file> }.
func (p *Provider) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	if d.Next(); d.NextArg() { // behind the store's name
		return d.Errf("store bolt: surplus argument %q", d.Val())
	}
	o := syntax.Options{D: d, Of: "store bolt"}
	for d.NextBlock(0) {
		if d.Val() != "path" {
			return o.Unknown()
		}
		if err := o.One(&p.Path); err != nil {
			return err
		}
	}
	return nil
}

// Interface guards
var (
	_ caddy.Provisioner     = (*Provider)(nil)
	_ caddyfile.Unmarshaler = (*Provider)(nil)
	_ inbox.Provider        = (*Provider)(nil)
	_ inbox.FileReader      = (*Provider)(nil)
)
