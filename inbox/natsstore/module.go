package natsstore

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
	"github.com/caddy-chinaums/caddy-chinaums/internal/secret"
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
	// The servers: `nats://host:4222`, or `tls://…`; several of one cluster, for the first connection. A user and password,
	// or a token, may be in them, with %2C for a comma, %2F for a slash and so on; placeholders, resolved when the config
	// loads, keep them out of it.
	URLs []string `json:"urls,omitempty"`

	// How many servers keep each message: 1, 3 or 5. A stream that exists keeps what it has, with a WARN. Default: 1.
	Replicas int `json:"replicas,omitempty"`

	// A credentials file (JWT and NKey). It is read again at each connection.
	Creds string `json:"creds,omitempty"`

	// A PEM file with the certificate authorities of the servers. Default: the system's.
	CA string `json:"ca,omitempty"`

	// A client certificate and its key, as PEM files.
	CertFile string `json:"cert,omitempty"`
	KeyFile  string `json:"key,omitempty"`

	servers []string // what URLs stand for
	secrets []string // what of them never appears in an error, in every spelling, the longest first
	shown   bool     // whether a secret is written out in URLs

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
	if n.slack == 0 {
		n.slack = 30 * time.Second
	}
	if n.patience == 0 {
		n.patience = 30 * time.Second
	}
	if n.clock == nil {
		n.clock = time.Now
	}
	if n.Replicas == 0 {
		n.Replicas = 1
	}
	if !slices.Contains(replicaNumbers, n.Replicas) {
		return fmt.Errorf("nats: replicas must be 1, 3 or 5, not %d", n.Replicas)
	}
	if len(n.URLs) == 0 {
		return errors.New("nats: the URL of a server is missing, such as nats://127.0.0.1:4222")
	}
	if (n.CertFile == "") != (n.KeyFile == "") {
		return errors.New("nats: cert needs a certificate file and a key file")
	}
	n.servers, n.secrets, n.shown = nil, nil, false
	for i, raw := range n.URLs {
		value, _, err := secret.Resolve(raw)
		if err != nil {
			return fmt.Errorf("nats: URL %d: %w", i+1, err)
		}
		for j, server := range strings.Split(value, ",") { // a comma of a password is written %2C
			server = strings.TrimSpace(server)
			if j > 0 && strings.Contains(server, "@") && !strings.Contains(server, "://") {
				return fmt.Errorf("nats: URL %d: behind a comma, a server with a password or token must begin with nats:// or tls://%s", i+1, marks)
			}
			if err := n.addServer(i, server); err != nil {
				return err
			}
			n.shown = n.shown || writtenOut(raw, server)
		}
	}
	if n.shown {
		ctx.Logger().Warn("a password or token is written out in a NATS URL in the configuration, where the config API and autosave.json show it; " +
			"use {env.…} or {file.…}")
	}
	slices.SortStableFunc(n.secrets, func(a, b string) int { return len(b) - len(a) })
	for _, file := range []struct {
		option string
		path   *string
	}{{"creds", &n.Creds}, {"ca", &n.CA}, {"cert", &n.CertFile}, {"key", &n.KeyFile}} {
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

// replicaNumbers are what makes sense: an even number survives no more servers than the one below it.
var replicaNumbers = []int{1, 3, 5}

// marks says how a password is written that does not fit into a URL as it is.
const marks = "; in a user, password or token write %2C for a comma, %2F for a slash, %3F for ?, %23 for #, %40 for @, %25 for %"

// addServer takes the URL of a server. Its errors show nothing of it: a password may be there.
func (n *Nats) addServer(i int, server string) error {
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
			n.addSecret(password)
		} else {
			n.addSecret(parsed.User.Username()) // a token
		}
	}
	n.servers = append(n.servers, parsed.String())
	return nil
}

// addSecret takes a secret in all the ways in which an error may spell it.
func (n *Nats) addSecret(value string) {
	if value == "" {
		return
	}
	quoted, encoded := strconv.Quote(value), caddyconfig.JSON(value, nil)
	inURL := strings.TrimPrefix(url.UserPassword("", value).String(), ":")
	n.secrets = append(n.secrets, value, inURL, strings.ReplaceAll(inURL, ",", "%2C"), url.User(value).String(),
		url.QueryEscape(value), url.PathEscape(value), quoted[1:len(quoted)-1], string(encoded[1:len(encoded)-1]))
}

// hosts are the servers without what is secret, sorted.
func (n *Nats) hosts() []string {
	var hosts []string
	for _, server := range n.servers {
		hosts = append(hosts, address(server))
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// redact takes the secrets out of an error's words.
func (n *Nats) redact(err error) string {
	var pairs []string
	for _, s := range n.secrets {
		pairs = append(pairs, s, "[redacted]")
	}
	return strings.NewReplacer(pairs...).Replace(err.Error())
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

// Key names the servers and the stream. A configuration with other credentials has a key, and a connection, of its own: for
// a while the two are as two gateways are.
func (n *Nats) Key(name string) string {
	return "nats:" + strings.Join(n.hosts(), ",") + " " + n.access() + " " + newNames(name).messages
}

// keySecret keeps a password from being guessed by its digest.
var keySecret = func() []byte {
	secret := make([]byte, sha256.Size)
	_, _ = rand.Read(secret) // never fails
	return secret
}()

// access is a digest of how the servers are reached, and as whom. It shows nothing of it.
func (n *Nats) access() string {
	digest := hmac.New(sha256.New, keySecret)
	// JSON, for one list is not to look like another.
	digest.Write(caddyconfig.JSON([]any{slices.Sorted(slices.Values(n.servers)), n.Creds, n.CA, n.CertFile, n.KeyFile}, nil))
	return hex.EncodeToString(digest.Sum(nil))[:16]
}

// Ordered returns why an order cannot be kept: JetStream redelivers message by message, and has no notion of a key.
func (*Nats) Ordered() error {
	return errors.New("a nats store cannot keep the order of a key: JetStream hands out messages one by one, to several gateways at once, " +
		"and another message of the key would go while one waits for a retry; use a bolt store, or let the app look at the event's time")
}

// Open connects and makes what is missing. Where the server cannot be reached it returns all the same, after a while, and
// goes on in the background.
func (n *Nats) Open(ctx context.Context, name string, settings inbox.Settings, logger *zap.Logger) (inbox.Store, error) {
	for _, file := range []string{n.Creds, n.CA, n.CertFile, n.KeyFile} {
		if file == "" {
			continue
		}
		if _, err := os.Stat(file); err != nil {
			return nil, fmt.Errorf("nats: %w", err)
		}
	}
	return open(ctx, n, name, settings, logger)
}

// Interface guards.
var (
	_ inbox.Provider    = (*Nats)(nil)
	_ caddy.Provisioner = (*Nats)(nil)
)
