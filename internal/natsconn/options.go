// Package natsconn holds what all stores in an existing NATS JetStream have in common: the options of `store nats`, the
// connection, and what of them is never shown.
package natsconn

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/internal/secret"
	"github.com/caddy-chinaums/caddy-chinaums/internal/syntax"
)

// Options say how a store reaches its servers. They are embedded in the store's module.
type Options struct {
	// The servers: `nats://host:4222`, or `tls://…`; several of one cluster, for the first connection. A user and password,
	// or a token, may be in them, with %2C for a comma, %2F for a slash and so on; placeholders, resolved when the config
	// loads, keep them out of it.
	URLs []string `json:"urls,omitempty"`

	// How many servers keep what is stored: 1, 3 or 5. A stream or a bucket that exists keeps what it has. Default: 1.
	Replicas int `json:"replicas,omitempty"`

	// A credentials file (JWT and NKey). It is read again at each connection.
	Creds string `json:"creds,omitempty"`

	// A PEM file with the certificate authorities of the servers. Default: the system's.
	CA string `json:"ca,omitempty"`

	// A client certificate and its key, as PEM files.
	CertFile string `json:"cert,omitempty"`
	KeyFile  string `json:"key,omitempty"`

	servers []string // what URLs stand for
	secrets []string // what of them never appears in an error, in every spelling
	hidden  *strings.Replacer
}

// replicaNumbers are what makes sense: an even number survives no more servers than the one below it.
var replicaNumbers = []int{1, 3, 5}

var errNoURL = errors.New("nats: the URL of a server is missing, such as nats://127.0.0.1:4222")

// Provision resolves the placeholders and checks what can be checked without a connection.
func (o *Options) Provision(ctx caddy.Context) error {
	if o.Replicas == 0 {
		o.Replicas = 1
	}
	switch {
	case !slices.Contains(replicaNumbers, o.Replicas):
		return fmt.Errorf("nats: replicas must be 1, 3 or 5, not %d", o.Replicas)
	case len(o.URLs) == 0:
		return errNoURL
	case (o.CertFile == "") != (o.KeyFile == ""):
		return errors.New("nats: cert needs a certificate file and a key file")
	}
	o.servers, o.secrets = nil, nil
	shown := false
	for i, raw := range o.URLs {
		value, _, err := secret.Resolve(raw)
		if err != nil {
			return fmt.Errorf("nats: URL %d: %w", i+1, err)
		}
		for j, server := range strings.Split(value, ",") { // a comma of a password is written %2C
			server = strings.TrimSpace(server)
			if j > 0 && strings.Contains(server, "@") && !strings.Contains(server, "://") {
				return fmt.Errorf("nats: URL %d: behind a comma, a server with a password or token must begin with nats:// or tls://%s", i+1, marks)
			}
			if err := o.addServer(i, server); err != nil {
				return err
			}
			shown = shown || writtenOut(raw, server)
		}
	}
	if shown {
		ctx.Logger().Warn("a password or token is written out in a NATS URL in the configuration, where the config API and autosave.json show it; " +
			"use {env.…} or {file.…}")
	}
	slices.SortStableFunc(o.secrets, func(a, b string) int { return len(b) - len(a) })
	var pairs []string
	for _, s := range o.secrets {
		pairs = append(pairs, s, "[redacted]")
	}
	o.hidden = strings.NewReplacer(pairs...)
	for _, file := range []struct {
		option string
		path   *string
	}{{"creds", &o.Creds}, {"ca", &o.CA}, {"cert", &o.CertFile}, {"key", &o.KeyFile}} {
		if *file.path == "" {
			continue
		}
		value, _, err := secret.Resolve(*file.path)
		if err != nil {
			return fmt.Errorf("nats: %s: %w", file.option, err)
		}
		*file.path = value
	}
	return nil
}

// marks says how a password is written that does not fit into a URL as it is.
const marks = "; in a user, password or token write %2C for a comma, %2F for a slash, %3F for ?, %23 for #, %40 for @, %25 for %"

// addServer takes the URL of a server. Its errors show nothing of it: a password may be there.
func (o *Options) addServer(i int, server string) error {
	if !strings.Contains(server, "://") {
		server = "nats://" + server
	}
	parsed, err := url.Parse(server)
	if err != nil {
		return fmt.Errorf("nats: URL %d is no URL (it is not shown, for it may hold a password)%s", i+1, marks)
	}
	if !slices.Contains([]string{"nats", "tls", "ws", "wss"}, parsed.Scheme) || parsed.Hostname() == "" {
		return fmt.Errorf("nats: URL %d must be like nats://host:4222 or tls://host:4222", i+1)
	}
	if strings.Contains(parsed.Path+parsed.RawQuery+parsed.Fragment, "@") { // what stands before it is no server
		return fmt.Errorf("nats: URL %d holds an @ behind the server (it is not shown, for it may hold a password)%s", i+1, marks)
	}
	if parsed.Port() == "" && (parsed.Scheme == "nats" || parsed.Scheme == "tls") {
		parsed.Host = net.JoinHostPort(parsed.Hostname(), "4222")
	}
	if parsed.User != nil {
		if password, ok := parsed.User.Password(); ok {
			o.addSecret(password)
		} else {
			o.addSecret(parsed.User.Username()) // a token
		}
	}
	o.servers = append(o.servers, parsed.String())
	return nil
}

// addSecret takes a secret in all the ways in which an error may spell it.
func (o *Options) addSecret(value string) {
	if value == "" {
		return
	}
	quoted, encoded := strconv.Quote(value), caddyconfig.JSON(value, nil)
	inURL := strings.TrimPrefix(url.UserPassword("", value).String(), ":")
	o.secrets = append(o.secrets, value, inURL, strings.ReplaceAll(inURL, ",", "%2C"), url.User(value).String(),
		url.QueryEscape(value), url.PathEscape(value), quoted[1:len(quoted)-1], string(encoded[1:len(encoded)-1]))
}

// writtenOut reports whether the password or token of a server stands in the configured URL as it is.
func writtenOut(raw, server string) bool {
	_, behind, found := strings.Cut(server, "://")
	if !found {
		behind = server
	}
	at := strings.LastIndex(behind, "@")
	if at < 0 {
		return false
	}
	secret := behind[:at]
	if _, password, ok := strings.Cut(secret, ":"); ok {
		secret = password
	}
	return secret != "" && strings.Contains(raw, secret+"@")
}

// Redact takes the secrets out of an error's words.
func (o *Options) Redact(err error) string { return o.hidden.Replace(err.Error()) }

// Redacted is an error without secrets. Where it has none it stays what it is.
func (o *Options) Redacted(err error) error {
	if err == nil || o.Redact(err) == err.Error() {
		return err
	}
	return errors.New(o.Redact(err))
}

// Error is an error in the log.
func (o *Options) Error(err error) zap.Field { return zap.String("error", o.Redact(err)) }

// StoreKey names the servers and what a store has there. A configuration with other credentials has a key, and a connection, of
// its own: for a while the two are as two gateways are.
func (o *Options) StoreKey(what string) string {
	return "nats:" + strings.Join(o.hosts(), ",") + " " + o.access() + " " + what
}

// hosts are the servers without what is secret, sorted.
func (o *Options) hosts() []string {
	var hosts []string
	for _, server := range o.servers {
		hosts = append(hosts, address(server))
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// address is a server's URL without user, password and token.
func address(server string) string {
	parsed, err := url.Parse(server)
	if err != nil || parsed.Host == "" {
		return ""
	}
	return parsed.Scheme + "://" + parsed.Host
}

// keySecret keeps a password from being guessed by its digest.
var keySecret = func() []byte {
	secret := make([]byte, sha256.Size)
	_, _ = rand.Read(secret) // never fails
	return secret
}()

// access is a digest of how the servers are reached, and as whom. It shows nothing of it.
func (o *Options) access() string {
	digest := hmac.New(sha256.New, keySecret)
	// JSON keeps one list from looking like another.
	digest.Write(caddyconfig.JSON([]any{slices.Sorted(slices.Values(o.servers)), o.Creds, o.CA, o.CertFile, o.KeyFile}, nil))
	return hex.EncodeToString(digest.Sum(nil))[:16]
}

// UnmarshalCaddyfile parses a store. No error shows a URL.
//
//	store nats <url…> {
//		replicas <n>
//		creds    <file>
//		ca       <file>
//		cert     <file> <key file>
//	}
func (o *Options) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the store's name
	o.URLs = d.RemainingArgs()
	if len(o.URLs) == 0 {
		return d.WrapErr(errNoURL)
	}
	block := syntax.Options{D: d, Of: "store nats"}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		var err error
		switch d.Val() {
		case "replicas":
			var text string
			if err = block.One(&text); err == nil {
				if o.Replicas, err = strconv.Atoi(text); err != nil || !slices.Contains(replicaNumbers, o.Replicas) {
					err = d.Errf("store nats: replicas must be 1, 3 or 5, not %.64q", text)
				}
			}
		case "creds":
			err = block.One(&o.Creds)
		case "ca":
			err = block.One(&o.CA)
		case "cert":
			var files []string
			if err = block.List(&files); err == nil && len(files) != 2 {
				err = d.Err("store nats: cert takes a certificate file and a key file")
			} else if err == nil {
				o.CertFile, o.KeyFile = files[0], files[1]
			}
		default:
			err = block.Unknown("replicas", "creds", "ca", "cert")
		}
		if err != nil {
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
