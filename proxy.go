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
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-chinaums/caddy-chinaums/internal/locale"
	"github.com/caddy-chinaums/caddy-chinaums/internal/outbound"
)

func init() {
	caddy.RegisterModule(Transport{})
	caddy.RegisterModule(Upstreams{})
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

	merchant merchantRef
	tokens   map[*merchant]*tokens // with access_token
	clock    *clockGuard
	now      func() time.Time
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
	if err != nil {
		return err
	}
	if t.merchant, err = app.merchants.Ref(t.Merchant, needsAppKey); err != nil {
		return locale.Errorf("transport chinaums: %w", err)
	}
	if t.Auth != "" && t.Auth != authBodySig && t.Auth != authAccessToken {
		return locale.Errorf("transport chinaums: auth: %q is neither %s nor %s", t.Auth, authBodySig, authAccessToken)
	}
	remote := ""
	for _, m := range t.merchant.Reachable() {
		if !m.loopback {
			remote = "merchant " + m.name
			break
		}
	}
	if err = outbound.SetUp(ctx, &t.HTTPTransport, remote); err != nil {
		return locale.Errorf("transport chinaums: %w", err)
	}
	t.now, t.clock = time.Now, app.clock
	if t.Auth != authAccessToken {
		return nil
	}
	t.tokens = make(map[*merchant]*tokens)
	for _, m := range t.merchant.Reachable() {
		if t.tokens[m], err = newTokens(m, &t.HTTPTransport, ctx.Storage(), ctx.Logger(), t.now); err != nil {
			delete(t.tokens, m)
			return locale.Errorf("transport chinaums: merchant %s: auth: %w", m.name, err)
		}
	}
	return nil
}

// Cleanup implements caddy.CleanerUpper.
func (t *Transport) Cleanup() error {
	var released []error
	for _, tokens := range t.tokens {
		released = append(released, tokens.release())
	}
	// t.tokens stays: a reload cleans up while requests are still on their way to RoundTrip.
	return errors.Join(append(released, t.HTTPTransport.Cleanup())...)
}

// RequestHeaderOps keeps the HTTP transport from setting Host to host:port; RoundTrip sets it.
func (t *Transport) RequestHeaderOps() *headers.HeaderOps { return nil }

// RoundTrip implements http.RoundTripper: one signed attempt.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	m := t.merchant.Resolve(replacer(req))
	var signer outbound.Signer = t
	if t.Auth == authAccessToken {
		signer = &tokenSigner{Transport: t, tokens: t.tokens[m]}
	}
	return outbound.RoundTrip(req, &outward, account(m), signer, &t.HTTPTransport)
}

// Authorize implements outbound.Signer.
func (t *Transport) Authorize(_ context.Context, account outbound.Account, body []byte) (string, error) {
	return account.(*merchant).signer.authorization(t.now(), newNonce(), body), nil
}

// VerifyAnswer implements outbound.Signer (GAP-07: whether answers are signed is in no document; SDKs verify them).
func (t *Transport) VerifyAnswer(account outbound.Account, authorization string, body []byte) (signed bool, err error) {
	if scheme, _, _ := strings.Cut(strings.TrimSpace(authorization), " "); !strings.EqualFold(scheme, "OPEN-BODY-SIG") {
		return false, nil
	}
	return true, account.(*merchant).signer.verify(authorization, body)
}

// Answered implements outbound.Listener.
func (t *Transport) Answered(account outbound.Account, answer *http.Response, errCode string, received time.Time) {
	t.clock.answered(account.Name(), answer.Header.Get("Date"), errCode, received)
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
	_ caddy.Provisioner                      = (*Transport)(nil)
	_ http.RoundTripper                      = (*Transport)(nil)
	_ reverseproxy.TLSTransport              = (*Transport)(nil)
	_ reverseproxy.RequestHeaderOpsTransport = (*Transport)(nil)
	_ caddy.CleanerUpper                     = (*Transport)(nil)
	_ outbound.Signer                        = (*Transport)(nil)
	_ outbound.Listener                      = (*Transport)(nil)
	_ caddy.Provisioner                      = (*Upstreams)(nil)
	_ reverseproxy.UpstreamSource            = (*Upstreams)(nil)
)
