package chinaums

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"
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

// Proxy sends the app's calls to the platform: it decides who may use the merchant's keys and for what, signs the call,
// sends it, and passes the answer on. It is a guard (see [Guard], whose rules, answers and placeholders it has), upstream
// and signing transport in one, with a client of HTTP/1.1 made for it: a kept connection is looked at before the first
// byte is written, and whether a byte was written is known, not guessed. Where that client cannot serve (a forward proxy,
// another version of HTTP, an operating system without such a look) Caddy's own does, and a line at INFO says so.
//
// Who wants more of reverse_proxy writes [Guard] and a reverse_proxy with [Transport] instead.
//
// In a Caddyfile:
//
//	chinaums_proxy {
//		allow 10.0.0.0/24
//		token {env.GATEWAY_TOKEN}
//		auth access_token
//		dial_timeout 3s
//	}
//
// In JSON:
//
//	{
//		"handler": "chinaums_proxy",
//		"allow": ["10.0.0.0/24"],
//		"token": ["{env.GATEWAY_TOKEN}"],
//		"auth": "access_token",
//		"transport": {"dial_timeout": "3s"}
//	}
type Proxy struct {
	// The merchant who calls: a name of the chinaums app, or a placeholder that reaches merchants with `mid`. May be empty
	// where there is exactly one merchant.
	Merchant string `json:"merchant,omitempty"`

	// How a call is authorized: `body_sig` or `access_token`, as in the transport. Default: body_sig.
	Auth string `json:"auth,omitempty"`

	outbound.Proxy
	signing
}

// CaddyModule returns the Caddy module information.
func (Proxy) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.chinaums_proxy",
		New: func() caddy.Module { return new(Proxy) },
	}
}

// Provision finds the merchant, and sets up what judges, signs and sends.
func (p *Proxy) Provision(ctx caddy.Context) error {
	app, err := loadApp(ctx)
	if err == nil {
		err = p.find(app, p.Merchant)
	}
	if err == nil {
		var endpoints []outbound.Endpoint
		p.Watch = app.watched.Calls()
		for _, m := range p.merchant.Reachable() {
			endpoints = append(endpoints, m.endpoint)
		}
		err = p.Proxy.Provision(ctx, &outward, app.calls, app.flights, p.remote(), endpoints)
	}
	if err == nil {
		err = p.authorize(ctx, p.Auth, p.Sender())
	}
	if err != nil {
		return locale.Errorf("chinaums_proxy: %w", err)
	}
	for _, m := range p.merchant.Reachable() {
		m.Use(p.Sender())
	}
	app.patience = max(app.patience, time.Duration(p.Timeout))
	return nil
}

// Cleanup implements caddy.CleanerUpper.
func (p *Proxy) Cleanup() error { return errors.Join(p.release(), p.Proxy.Cleanup()) }

// ServeHTTP implements caddyhttp.MiddlewareHandler. It ends the chain.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	return p.Forward(w, r, func() outbound.Account { return account(p.merchant.Resolve(replacer(r))) }, p.signer)
}

// Transport is the reverse_proxy transport that signs: each attempt of a call that a [Guard] has let pass gets a new
// timestamp and nonce and an `Authorization` header over exactly the bytes that are sent. It refuses a request that no
// guard has passed, and a host that is not its merchant's. It takes all options of the `http` transport but those that
// would repeat, rewrite or re-encode a call; HTTP/1.1 is the default.
//
// In a Caddyfile:
//
//	chinaums_guard
//	reverse_proxy {
//		dynamic chinaums
//		transport chinaums {
//			auth access_token
//			dial_timeout 3s
//		}
//	}
//
// In JSON:
//
//	{
//		"protocol": "chinaums",
//		"auth": "access_token",
//		"dial_timeout": "3s"
//	}
type Transport struct {
	reverseproxy.HTTPTransport

	// The merchant who signs: a name of the chinaums app, or a placeholder that reaches merchants with `mid`. May be
	// empty where there is exactly one merchant. It must be the guard's.
	Merchant string `json:"merchant,omitempty"`

	// How a call is authorized: `body_sig` (OPEN-BODY-SIG), or `access_token` (OPEN-ACCESS-TOKEN: one token for many calls,
	// fetched when it is needed, renewed ahead of its end, and shared by a fleet in Caddy's storage). Default: body_sig.
	Auth string `json:"auth,omitempty"`

	signing
}

const (
	authBodySig     = "body_sig"
	authAccessToken = "access_token"
)

// CaddyModule returns the Caddy module information.
func (Transport) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.reverse_proxy.transport.chinaums",
		New: func() caddy.Module { return new(Transport) },
	}
}

// Provision finds the merchant, refuses what would break a call, and sets up the HTTP transport.
func (t *Transport) Provision(ctx caddy.Context) error {
	app, err := loadApp(ctx)
	if err == nil {
		err = t.find(app, t.Merchant)
	}
	if err == nil {
		err = outbound.SetUp(ctx, &t.HTTPTransport, t.remote())
	}
	if err == nil {
		err = t.authorize(ctx, t.Auth, outbound.Through(&t.HTTPTransport))
	}
	if err != nil {
		return locale.Errorf("transport chinaums: %w", err)
	}
	return nil
}

// Cleanup implements caddy.CleanerUpper.
func (t *Transport) Cleanup() error { return errors.Join(t.release(), t.HTTPTransport.Cleanup()) }

// RequestHeaderOps keeps the HTTP transport from setting Host to host:port; RoundTrip sets it.
func (t *Transport) RequestHeaderOps() *headers.HeaderOps { return nil }

// RoundTrip implements http.RoundTripper: one signed attempt.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	m := t.merchant.Resolve(replacer(req))
	return outbound.RoundTrip(req, &outward, account(m), t.signer(account(m)), &t.HTTPTransport)
}

// signing authorizes calls, for the proxy and for the transport.
type signing struct {
	merchant merchantRef
	tokens   map[*merchant]*tokens // with access_token
	clock    *clockGuard
	now      func() time.Time
}

// find finds the merchant.
func (s *signing) find(app *App, name string) (err error) {
	s.now, s.clock = time.Now, app.clock
	s.merchant, err = app.merchants.Ref(name, needsAppKey)
	return err
}

// remote names a merchant whose platform is not on this machine, or is empty.
func (s *signing) remote() string {
	for _, m := range s.merchant.Reachable() {
		if !m.loopback {
			return "merchant " + m.name
		}
	}
	return ""
}

// authorize sets up how calls are authorized. sender fetches tokens.
func (s *signing) authorize(ctx caddy.Context, auth string, sender *outbound.Sender) (err error) {
	switch auth {
	case "", authBodySig:
		return nil
	case authAccessToken:
	default:
		return locale.Errorf("auth: %q is neither %s nor %s", auth, authBodySig, authAccessToken)
	}
	s.tokens = make(map[*merchant]*tokens)
	for _, m := range s.merchant.Reachable() {
		if s.tokens[m], err = newTokens(m, sender, ctx.Storage(), ctx.Logger(), s.now); err != nil {
			delete(s.tokens, m)
			return locale.Errorf("merchant %s: auth: %w", m.name, err)
		}
	}
	return nil
}

// release lets go of the tokens. s.tokens stays: a reload cleans up while requests are still on their way.
func (s *signing) release() error {
	var released []error
	for _, tokens := range s.tokens {
		released = append(released, tokens.release())
	}
	return errors.Join(released...)
}

// signer returns what authorizes one call.
func (s *signing) signer(account outbound.Account) outbound.Signer {
	if s.tokens == nil {
		return s
	}
	m, _ := account.(*merchant)
	return &tokenSigner{signing: s, tokens: s.tokens[m]}
}

// Authorize implements outbound.Signer.
func (s *signing) Authorize(_ context.Context, account outbound.Account, body []byte) (string, error) {
	return account.(*merchant).signer.authorization(s.now(), newNonce(), body), nil
}

// VerifyAnswer implements outbound.Signer (GAP-07: whether answers are signed is in no document; SDKs verify them).
func (s *signing) VerifyAnswer(account outbound.Account, authorization string, body []byte) (signed bool, err error) {
	if scheme, _, _ := strings.Cut(strings.TrimSpace(authorization), " "); !strings.EqualFold(scheme, "OPEN-BODY-SIG") {
		return false, nil
	}
	return true, account.(*merchant).signer.verify(authorization, body)
}

// Answered implements outbound.Listener.
func (s *signing) Answered(account outbound.Account, answer *http.Response, errCode string, received time.Time) {
	s.clock.answered(account.Name(), answer.Header.Get("Date"), errCode, received)
}

// newNonce makes 32 lowercase hex digits, as is the custom.
func newNonce() string {
	var random [16]byte
	_, _ = rand.Read(random[:]) // does not fail
	return hex.EncodeToString(random[:])
}

// Upstreams is the reverse_proxy's source of upstreams that names the merchant's platform at request time.
//
// In a Caddyfile:
//
//	chinaums_guard shop
//	reverse_proxy {
//		dynamic chinaums shop
//		transport chinaums shop
//	}
//
// In JSON:
//
//	{
//		"source": "chinaums",
//		"merchant": "shop"
//	}
type Upstreams struct {
	// The merchant whose platform is called, as in the transport.
	Merchant string `json:"merchant,omitempty"`

	merchant merchantRef
}

// CaddyModule returns the Caddy module information.
func (Upstreams) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.reverse_proxy.upstreams.chinaums",
		New: func() caddy.Module { return new(Upstreams) },
	}
}

// Provision finds the merchant.
func (u *Upstreams) Provision(ctx caddy.Context) error {
	app, err := loadApp(ctx)
	if err != nil {
		return err
	}
	if u.merchant, err = app.merchants.Ref(u.Merchant, needsAppKey); err != nil {
		return locale.Errorf("dynamic chinaums: %w", err)
	}
	return nil
}

// GetUpstreams implements reverseproxy.UpstreamSource.
func (u *Upstreams) GetUpstreams(r *http.Request) ([]*reverseproxy.Upstream, error) {
	m := u.merchant.Resolve(replacer(r))
	if m == nil {
		return nil, fmt.Errorf("there is no such merchant")
	}
	return []*reverseproxy.Upstream{{Dial: m.endpoint.Dial}}, nil
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
	_ caddy.CleanerUpper                     = (*Transport)(nil)
	_ outbound.Signer                        = (*signing)(nil)
	_ outbound.Listener                      = (*signing)(nil)
	_ caddy.Provisioner                      = (*Upstreams)(nil)
	_ reverseproxy.UpstreamSource            = (*Upstreams)(nil)
)
