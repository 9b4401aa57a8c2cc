package shouqianba

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-chinaums/caddy-chinaums/internal/locale"
	"github.com/caddy-chinaums/caddy-chinaums/internal/outbound"
)

func init() {
	caddy.RegisterModule(Transport{})
	caddy.RegisterModule(Upstreams{})
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
	remote := ""
	for _, terminal := range t.terminal.Reachable() {
		if !terminal.loopback {
			remote = "terminal " + terminal.name
		}
	}
	if err = outbound.SetUp(ctx, &t.HTTPTransport, remote); err != nil {
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
	_ caddy.Provisioner                      = (*Transport)(nil)
	_ http.RoundTripper                      = (*Transport)(nil)
	_ reverseproxy.TLSTransport              = (*Transport)(nil)
	_ reverseproxy.RequestHeaderOpsTransport = (*Transport)(nil)
	_ outbound.Signer                        = (*attempt)(nil)
	_ outbound.Listener                      = (*attempt)(nil)
	_ caddy.Provisioner                      = (*Upstreams)(nil)
	_ reverseproxy.UpstreamSource            = (*Upstreams)(nil)
)
