package shouqianba

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

// Guard is the handler in front of a reverse_proxy that signs: it decides who may use the terminal's key and for what,
// and answers for the gateway. It looks, in this order, at the connection's own peer, the addresses that the request
// names, the marks of a browser, the token, the terminal, the path, the method, TLS early data, the content type and the
// body's size. What it refuses, it answers itself; whatever answer comes from behind it carries the header
// `Gateway-Outcome`: `answered`, `not_sent` or `unknown`.
//
// Unless `paths` names them, activation and check-in are refused: they give out keys. Of a terminal that the gateway owns
// they always are: a check-in past the gateway would end its key.
//
// It sets the placeholders `{http.shouqianba.merchant}` (the terminal's name), `{http.shouqianba.outcome}`,
// `{http.shouqianba.err_code}` and, where the gateway answers itself, `{http.shouqianba.reason}`.
//
// Guard, signing and sending in one is `shouqianba_proxy`; this is for who wants more of reverse_proxy.
//
// In a Caddyfile:
//
//	shouqianba_guard {
//		allow 10.0.0.0/24
//		token {env.GATEWAY_TOKEN}
//		paths /upay/v2/*
//	}
//	reverse_proxy {
//		dynamic shouqianba
//		transport shouqianba
//	}
//
// In JSON:
//
//	{
//		"handler": "shouqianba_guard",
//		"allow": ["10.0.0.0/24"],
//		"token": ["{env.GATEWAY_TOKEN}"],
//		"paths": ["/upay/v2/*"]
//	}
type Guard struct {
	// The terminal whose key is used: a name of the shouqianba app, or a placeholder that reaches terminals that have a
	// key. May be empty where there is exactly one terminal.
	Terminal string `json:"terminal,omitempty"`

	outbound.Guard

	terminal terminalRef
}

// CaddyModule returns the Caddy module information.
func (Guard) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.shouqianba_guard",
		New: func() caddy.Module { return new(Guard) },
	}
}

// Provision finds the terminal and reads the lists.
func (g *Guard) Provision(ctx caddy.Context) error {
	app, err := loadApp(ctx)
	if err != nil {
		return err
	}
	if g.terminal, err = app.terminals.Ref(g.Terminal, needsKey); err != nil {
		return fmt.Errorf("shouqianba_guard: %w", err)
	}
	g.Watch = app.watched.Calls()
	if err = g.Guard.Provision(ctx, &outward, app.calls, app.flights); err != nil {
		return fmt.Errorf("shouqianba_guard: %w", err)
	}
	if err = keepOwned(&g.Guard, g.terminal); err != nil {
		return fmt.Errorf("shouqianba_guard: %w", err)
	}
	app.patience = max(app.patience, time.Duration(g.Timeout))
	return nil
}

// keepOwned refuses paths that give out the key of a terminal that the gateway owns.
func keepOwned(g *outbound.Guard, ref terminalRef) error {
	for _, t := range ref.Reachable() {
		for _, path := range []string{activatePath, checkinPath} {
			if t.owner != nil && g.Names(path) {
				return fmt.Errorf("paths: %s is within reach, but gives out keys of terminal %s, which the gateway owns", path, t.name)
			}
		}
	}
	return nil
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (g *Guard) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	return g.Serve(w, r, func() outbound.Account { return account(g.terminal.Resolve(replacer(r))) }, next)
}

// account keeps a nil terminal from becoming an interface that is not nil.
func account(t *terminal) outbound.Account {
	if t == nil {
		return nil
	}
	return t
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
