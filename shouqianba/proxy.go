package shouqianba

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-chinaums/caddy-chinaums/internal/locale"
	"github.com/caddy-chinaums/caddy-chinaums/internal/outbound"
)

func init() {
	caddy.RegisterModule(Proxy{})
	caddy.RegisterModule(Transport{})
	caddy.RegisterModule(Upstreams{})
}

// Proxy sends the app's calls to the platform: it decides who may use the terminal's key and for what, signs the call, sends
// it, and passes the answer on. It is a guard (see [Guard], whose rules, answers and placeholders it has), upstream and
// signing transport in one, with a client of HTTP/1.1 made for it: a kept connection is looked at before the first byte is
// written, and whether a byte was written is known, not guessed. Where that client cannot serve (a forward proxy, another
// version of HTTP, an operating system without such a look) Caddy's own does, and a line at INFO says so.
//
// Who wants more of reverse_proxy writes [Guard] and a reverse_proxy with [Transport] instead.
//
// In a Caddyfile:
//
//	shouqianba_proxy {
//		allow 10.0.0.0/24
//		token {env.GATEWAY_TOKEN}
//		dial_timeout 3s
//	}
//
// In JSON:
//
//	{
//		"handler": "shouqianba_proxy",
//		"allow": ["10.0.0.0/24"],
//		"token": ["{env.GATEWAY_TOKEN}"],
//		"transport": {"dial_timeout": "3s"}
//	}
type Proxy struct {
	// The terminal that calls: a name of the shouqianba app, or a placeholder that reaches terminals that have a key. May be
	// empty where there is exactly one terminal.
	Terminal string `json:"terminal,omitempty"`

	outbound.Proxy

	terminal terminalRef
}

// CaddyModule returns the Caddy module information.
func (Proxy) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.shouqianba_proxy",
		New: func() caddy.Module { return new(Proxy) },
	}
}

// Provision finds the terminal, and sets up what judges and sends.
func (p *Proxy) Provision(ctx caddy.Context) error {
	app, err := loadApp(ctx)
	if err == nil {
		p.terminal, err = app.terminals.Ref(p.Terminal, needsKey)
	}
	if err == nil {
		var endpoints []outbound.Endpoint
		for _, t := range p.terminal.Reachable() {
			endpoints = append(endpoints, t.endpoint)
		}
		p.Watch = app.watched.Calls()
		err = p.Proxy.Provision(ctx, &outward, app.calls, app.flights, remote(p.terminal), endpoints)
	}
	if err == nil {
		err = keepOwned(&p.Guard, p.terminal)
	}
	if err != nil {
		return locale.Errorf("shouqianba_proxy: %w", err)
	}
	for _, t := range p.terminal.Reachable() {
		t.Use(p.Sender())
	}
	app.patience = max(app.patience, time.Duration(p.Timeout))
	return nil
}

// ServeHTTP implements caddyhttp.MiddlewareHandler. It ends the chain.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	return p.Forward(w, r, func() outbound.Account { return account(p.terminal.Resolve(replacer(r))) },
		func(account outbound.Account) outbound.Signer { return &attempt{terminal: account.(*terminal)} })
}

// remote names a terminal whose platform is not on this machine, or is empty.
func remote(ref terminalRef) string {
	for _, terminal := range ref.Reachable() {
		if !terminal.loopback {
			return "terminal " + terminal.name
		}
	}
	return ""
}

// Transport is the reverse_proxy transport that signs: each attempt of a call that a [Guard] has let pass gets an
// `Authorization` header over exactly the bytes that are sent, with the key that the terminal has then. It refuses a
// request that no guard has passed, and a host that is not its terminal's. It takes all options of the `http` transport
// but those that would repeat, rewrite or re-encode a call; HTTP/1.1 is the default.
//
// In a Caddyfile:
//
//	shouqianba_guard
//	reverse_proxy {
//		dynamic shouqianba
//		transport shouqianba {
//			dial_timeout 3s
//		}
//	}
//
// In JSON:
//
//	{
//		"protocol": "shouqianba",
//		"dial_timeout": "3s"
//	}
type Transport struct {
	reverseproxy.HTTPTransport

	// The terminal that signs: a name of the shouqianba app, or a placeholder that reaches terminals that have a key. May
	// be empty where there is exactly one terminal. It must be the guard's.
	Terminal string `json:"terminal,omitempty"`

	terminal terminalRef
}

// CaddyModule returns the Caddy module information.
func (Transport) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.reverse_proxy.transport.shouqianba",
		New: func() caddy.Module { return new(Transport) },
	}
}

// Provision finds the terminal, refuses what would break a call, and sets up the HTTP transport.
func (t *Transport) Provision(ctx caddy.Context) error {
	app, err := loadApp(ctx)
	if err != nil {
		return err
	}
	if t.terminal, err = app.terminals.Ref(t.Terminal, needsKey); err != nil {
		return locale.Errorf("transport shouqianba: %w", err)
	}
	if err = outbound.SetUp(ctx, &t.HTTPTransport, remote(t.terminal)); err != nil {
		return locale.Errorf("transport shouqianba: %w", err)
	}
	return nil
}

// RequestHeaderOps keeps the HTTP transport from setting Host to host:port; RoundTrip sets it.
func (t *Transport) RequestHeaderOps() *headers.HeaderOps { return nil }

// RoundTrip implements http.RoundTripper: one signed attempt.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	terminal := t.terminal.Resolve(replacer(req))
	return outbound.RoundTrip(req, &outward, account(terminal), &attempt{terminal: terminal}, &t.HTTPTransport)
}

// attempt signs one attempt, and remembers with what.
type attempt struct {
	terminal *terminal
	signed   *credential
}

// Authorize implements outbound.Signer.
func (a *attempt) Authorize(ctx context.Context, _ outbound.Account, body []byte) (string, error) {
	var err error
	if a.signed, err = a.terminal.credential(ctx); err != nil {
		return "", err
	}
	return authorization(a.signed.sn, a.signed.key, body), nil
}

// VerifyAnswer implements outbound.Signer: the platform does not sign its answers.
func (a *attempt) VerifyAnswer(outbound.Account, string, []byte) (signed bool, err error) {
	return false, nil
}

// Answered implements outbound.Listener.
func (a *attempt) Answered(_ outbound.Account, _ *http.Response, errCode string, _ time.Time) {
	if errCode == illegalSign && a.terminal.keeper != nil {
		a.terminal.keeper.refused(a.signed)
	}
}

// Upstreams is the reverse_proxy's source of upstreams that names the terminal's platform at request time.
//
// In a Caddyfile:
//
//	shouqianba_guard till
//	reverse_proxy {
//		dynamic shouqianba till
//		transport shouqianba till
//	}
//
// In JSON:
//
//	{
//		"source": "shouqianba",
//		"terminal": "till"
//	}
type Upstreams struct {
	// The terminal whose platform is called, as in the transport.
	Terminal string `json:"terminal,omitempty"`

	terminal terminalRef
}

// CaddyModule returns the Caddy module information.
func (Upstreams) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.reverse_proxy.upstreams.shouqianba",
		New: func() caddy.Module { return new(Upstreams) },
	}
}

// Provision finds the terminal.
func (u *Upstreams) Provision(ctx caddy.Context) error {
	app, err := loadApp(ctx)
	if err != nil {
		return err
	}
	if u.terminal, err = app.terminals.Ref(u.Terminal, needsKey); err != nil {
		return locale.Errorf("dynamic shouqianba: %w", err)
	}
	return nil
}

// GetUpstreams implements reverseproxy.UpstreamSource.
func (u *Upstreams) GetUpstreams(r *http.Request) ([]*reverseproxy.Upstream, error) {
	t := u.terminal.Resolve(replacer(r))
	if t == nil {
		return nil, fmt.Errorf("there is no such terminal")
	}
	return []*reverseproxy.Upstream{{Dial: t.endpoint.Dial}}, nil
}

// Interface guards
var (
	_ caddy.Provisioner                      = (*Proxy)(nil)
	_ caddy.CleanerUpper                     = (*Proxy)(nil)
	_ caddyhttp.MiddlewareHandler            = (*Proxy)(nil)
	_ caddy.Provisioner                      = (*Transport)(nil)
	_ http.RoundTripper                      = (*Transport)(nil)
	_ reverseproxy.TLSTransport              = (*Transport)(nil)
	_ reverseproxy.RequestHeaderOpsTransport = (*Transport)(nil)
	_ outbound.Signer                        = (*attempt)(nil)
	_ outbound.Listener                      = (*attempt)(nil)
	_ caddy.Provisioner                      = (*Upstreams)(nil)
	_ reverseproxy.UpstreamSource            = (*Upstreams)(nil)
)
