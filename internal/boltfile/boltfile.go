// Package boltfile holds what all stores in one file of this machine have in common: the options of `store bolt`.
package boltfile

import (
	"fmt"
	"path/filepath"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-chinaums/caddy-chinaums/internal/syntax"
)

// Options say which file a store has. They are embedded in the store's module.
type Options struct {
	// The file. Placeholders are resolved when the configuration loads. Default: under Caddy's data directory, `inbox/<name>.db`
	// or `watch/<platform>.db`.
	Path string `json:"path,omitempty"`

	path string
}

// Provision resolves the path.
func (o *Options) Provision(caddy.Context) (err error) {
	if o.path, err = caddy.NewReplacer().ReplaceOrErr(o.Path, true, true); err != nil {
		return fmt.Errorf("path: %w", err)
	}
	return nil
}

// File is the file of the store `name`, by default in a folder under Caddy's data directory. It is an absolute path whose
// directory is real as far as it exists.
func (o *Options) File(folder, name string) string {
	path := o.path
	if path == "" {
		path = filepath.Join(caddy.AppDataDir(), folder, name+".db")
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

// UnmarshalCaddyfile parses a store: store bolt { path <file> }.
func (o *Options) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	if d.Next(); d.NextArg() { // behind the store's name
		return d.Errf("store bolt: surplus argument %q", d.Val())
	}
	block := syntax.Options{D: d, Of: "store bolt"}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if d.Val() != "path" {
			return block.Unknown("path")
		}
		if err := block.One(&o.Path); err != nil {
			return err
		}
	}
	return nil
}

// Interface guards.
var (
	_ caddy.Provisioner     = (*Options)(nil)
	_ caddyfile.Unmarshaler = (*Options)(nil)
)
