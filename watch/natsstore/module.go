package natsstore

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/internal/secret"
	"github.com/caddy-chinaums/caddy-chinaums/internal/syntax"
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
type Nats struct {
	// The servers: `nats://host:4222`, or `tls://…`; several of one cluster, for the first connection. A user and password,
	// or a token, may be in them, with %2C for a comma, %2F for a slash and so on; placeholders, resolved when the config
	// loads, keep them out of it.
	URLs []string `json:"urls,omitempty"`

	// How many servers keep each row: 1, 3 or 5. A bucket that exists keeps what it has. Default: 1.
	Replicas int `json:"replicas,omitempty"`

	// A credentials file (JWT and NKey). It is read again at each connection.
	Creds string `json:"creds,omitempty"`

	// A PEM file with the certificate authorities of the servers. Default: the system's.
	CA string `json:"ca,omitempty"`

	// A client certificate and its key, as PEM files.
	CertFile string `json:"cert,omitempty"`
	KeyFile  string `json:"key,omitempty"`

	servers []string // what URLs stand for
	secrets []string // what of them never appears in an error
}

// CaddyModule returns the Caddy module information.
func (*Nats) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "watch.stores.nats", New: func() caddy.Module { return new(Nats) }}
}

// Provision resolves the placeholders and checks what can be checked without a connection.
func (n *Nats) Provision(ctx caddy.Context) error {
	n.Replicas = max(n.Replicas, 1)
	switch {
	case n.Replicas != 1 && n.Replicas != 3 && n.Replicas != 5:
		return fmt.Errorf("nats: replicas must be 1, 3 or 5, not %d", n.Replicas)
	case len(n.URLs) == 0:
		return errors.New("nats: the URL of a server is missing, such as nats://127.0.0.1:4222")
	case (n.CertFile == "") != (n.KeyFile == ""):
		return errors.New("nats: cert needs a certificate file and a key file")
	}
	n.servers, n.secrets = nil, nil
	for i, raw := range n.URLs {
		value, _, err := secret.Resolve(raw)
		if err != nil {
			return fmt.Errorf("nats: URL %d: %w", i+1, err)
		}
		for server := range strings.SplitSeq(value, ",") {
			if err := n.addServer(strings.TrimSpace(server), raw == value, ctx); err != nil {
				return fmt.Errorf("nats: URL %d: %w", i+1, err)
			}
		}
	}
	for _, file := range []*string{&n.Creds, &n.CA, &n.CertFile, &n.KeyFile} {
		if *file == "" {
			continue
		}
		path, _, err := secret.Resolve(*file)
		if err != nil {
			return fmt.Errorf("nats: %w", err)
		}
		*file = path
	}
	return nil
}

// addServer takes the URL of a server. Its errors show nothing of it: a password may be there.
func (n *Nats) addServer(server string, literal bool, ctx caddy.Context) error {
	if !strings.Contains(server, "://") {
		server = "nats://" + server
	}
	parsed, err := url.Parse(server)
	if err != nil || parsed.Hostname() == "" || !slices.Contains([]string{"nats", "tls", "ws", "wss"}, parsed.Scheme) ||
		strings.Contains(parsed.Path+parsed.RawQuery+parsed.Fragment, "@") {
		return errors.New("it must be like nats://host:4222 or tls://host:4222 (it is not shown, for it may hold a password); " +
			"in a password write %2C for a comma, %2F for a slash, %3F for ?, %23 for #, %40 for @, %25 for %")
	}
	if parsed.User != nil {
		word, ok := parsed.User.Password()
		if !ok {
			word = parsed.User.Username() // a token
		}
		if word != "" {
			n.secrets = append(n.secrets, parsed.User.String(), url.QueryEscape(word), url.PathEscape(word), word)
		}
		if literal {
			ctx.Logger().Warn("a password or token is written out in a NATS URL in the configuration, where the config API and autosave.json show it; " +
				"use {env.…} or {file.…}")
		}
	}
	n.servers = append(n.servers, parsed.String())
	return nil
}

// Key names the servers and the bucket.
func (n *Nats) Key(name string) string {
	hosts := make([]string, len(n.servers))
	for i, server := range n.servers {
		if parsed, err := url.Parse(server); err == nil {
			hosts[i] = parsed.Host
		}
	}
	slices.Sort(hosts)
	return "nats:" + strings.Join(hosts, ",") + " " + name
}

// Open connects and makes what is missing. Where the servers cannot be reached it returns all the same, after a while, and
// goes on in the background.
func (n *Nats) Open(ctx context.Context, name string, logger *zap.Logger) (watch.Store, error) {
	for _, file := range []string{n.Creds, n.CA, n.CertFile, n.KeyFile} {
		if file == "" {
			continue
		}
		if _, err := os.Stat(file); err != nil {
			return nil, fmt.Errorf("nats: %w", err)
		}
	}
	s, err := open(ctx, n, name, logger)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// UnmarshalCaddyfile parses the store of a watch. No error shows a URL.
//
//	store nats <url…> {
//		replicas <n>
//		creds    <file>
//		ca       <file>
//		cert     <file> <key file>
//	}
func (n *Nats) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the store's name
	n.URLs = d.RemainingArgs()
	if len(n.URLs) == 0 {
		return d.Err("nats: the URL of a server is missing, such as nats://127.0.0.1:4222")
	}
	o := syntax.Options{D: d, Of: "store nats"}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		var err error
		switch d.Val() {
		case "replicas":
			var text string
			if err = o.One(&text); err == nil {
				if n.Replicas, err = strconv.Atoi(text); err != nil {
					err = d.Errf("store nats: replicas must be 1, 3 or 5, not %.64q", text)
				}
			}
		case "creds":
			err = o.One(&n.Creds)
		case "ca":
			err = o.One(&n.CA)
		case "cert":
			var files []string
			if err = o.List(&files); err == nil && len(files) != 2 {
				err = d.Err("store nats: cert takes a certificate file and a key file")
			} else if err == nil {
				n.CertFile, n.KeyFile = files[0], files[1]
			}
		default:
			err = o.Unknown()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Interface guards.
var (
	_ caddy.Provisioner     = (*Nats)(nil)
	_ caddyfile.Unmarshaler = (*Nats)(nil)
	_ watch.Provider        = (*Nats)(nil)
)
