package chinaums

import (
	"fmt"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-chinaums/caddy-chinaums/internal/outbound"
)

func init() {
	caddy.RegisterModule(Guard{})
}

// Guard is the handler in front of a reverse_proxy that signs: it decides who may use the merchant's keys and for what,
// and answers for the gateway. It looks, in this order, at the connection's own peer, the addresses that the request
// names, the marks of a browser, the token, the merchant, the path, the method, TLS early data, the content type and
// the body's size. What it refuses, it answers itself; whatever answer comes from behind it carries the header
// `Gateway-Outcome`: `answered`, `not_sent` or `unknown`.
//
// It sets the placeholders `{http.chinaums.merchant}`, `{http.chinaums.outcome}`, `{http.chinaums.err_code}` and, where
// the gateway answers itself, `{http.chinaums.reason}`.
//
// Guard, signing and sending in one is `chinaums_proxy`; this is for who wants more of reverse_proxy.
//
// In a Caddyfile:
//
//	chinaums_guard {
//		allow 10.0.0.0/24
//		token {env.GATEWAY_TOKEN}
//		paths /v1/netpay/query /v1/netpay/refund
//	}
//	reverse_proxy {
//		dynamic chinaums
//		transport chinaums
//	}
//
// In JSON:
//
//	{
//		"handler": "chinaums_guard",
//		"allow": ["10.0.0.0/24"],
//		"token": ["{env.GATEWAY_TOKEN}"],
//		"paths": ["/v1/netpay/query", "/v1/netpay/refund"]
//	}
type Guard struct {
	// The merchant whose keys are used: a name of the chinaums app, or a placeholder that reaches merchants with `mid`.
	// May be empty where there is exactly one merchant.
	Merchant string `json:"merchant,omitempty"`

	outbound.Guard

	merchant merchantRef
}

// CaddyModule returns the Caddy module information.
func (Guard) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.chinaums_guard",
		New: func() caddy.Module { return new(Guard) },
	}
}

// Provision finds the merchant and reads the lists.
func (g *Guard) Provision(ctx caddy.Context) error {
	app, err := loadApp(ctx)
	if err != nil {
		return err
	}
	if g.merchant, err = app.merchants.Ref(g.Merchant, needsAppKey); err != nil {
		return fmt.Errorf("chinaums_guard: %w", err)
	}
	g.Watch = app.watched.Calls()
	if err = g.Guard.Provision(ctx, &outward, app.calls, app.flights); err != nil {
		return fmt.Errorf("chinaums_guard: %w", err)
	}
	app.patience = max(app.patience, time.Duration(g.Timeout))
	return nil
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (g *Guard) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	return g.Serve(w, r, func() outbound.Account { return account(g.merchant.Resolve(replacer(r))) }, next)
}

// account keeps a nil merchant from becoming an interface that is not nil.
func account(m *merchant) outbound.Account {
	if m == nil {
		return nil
	}
	return m
}

func replacer(r *http.Request) *caddy.Replacer {
	repl, _ := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	return repl
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Guard)(nil)
	_ caddyhttp.MiddlewareHandler = (*Guard)(nil)
)
