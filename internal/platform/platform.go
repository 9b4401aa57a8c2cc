// Package platform holds what the apps of all payment platforms do alike: they read their merchants or terminals
// strictly, resolve keys and addresses, and outlive the calls under way. It knows no platform.
package platform

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/internal/accounts"
	"github.com/caddy-chinaums/caddy-chinaums/internal/inbound"
	"github.com/caddy-chinaums/caddy-chinaums/internal/locale"
	"github.com/caddy-chinaums/caddy-chinaums/internal/outbound"
	"github.com/caddy-chinaums/caddy-chinaums/internal/routes"
	"github.com/caddy-chinaums/caddy-chinaums/internal/secret"
)

// UnmarshalStrict reads JSON and refuses an unknown field.
func UnmarshalStrict(data []byte, target any) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	return decoder.Decode(target)
}

// UnmarshalAccounts reads each of an app's accounts strictly. Caddy refuses an unknown field by itself, but could not say
// in which account it is. of names the account that an error is of.
func UnmarshalAccounts[Config any](documents map[string]json.RawMessage, of func(name string, err error) error) (map[string]*Config, error) {
	configs := make(map[string]*Config, len(documents))
	for _, name := range slices.Sorted(maps.Keys(documents)) {
		configs[name] = new(Config)
		if err := UnmarshalStrict(documents[name], configs[name]); err != nil {
			return nil, of(name, err)
		}
	}
	return configs, nil
}

// ResolveAccounts resolves each of an app's accounts, in the order of their names. A missing configuration counts as an
// empty one. of names the account that an error is of.
func ResolveAccounts[Config any, A accounts.Account](directory *accounts.Directory[A], configs map[string]*Config,
	resolve func(name string, config *Config) (A, error), of func(name string, err error) error) error {
	for _, name := range slices.Sorted(maps.Keys(configs)) {
		if err := accounts.CheckName(name); err != nil {
			return of(name, err)
		}
		config := configs[name]
		if config == nil {
			config = new(Config)
		}
		account, err := resolve(name, config)
		if err != nil {
			return of(name, err)
		}
		directory.Add(account)
	}
	return nil
}

// Options resolves the options of one account, and warns of what is better configured otherwise.
type Options struct {
	Kind   string // "merchant" or "terminal", for the log
	Name   string
	Logger *zap.Logger
}

// Value resolves an option's placeholders.
func (o Options) Value(option, raw string) (string, error) {
	value, _, err := secret.Resolve(raw)
	if err != nil {
		return "", locale.Errorf("%s %w", option, err)
	}
	o.warnOfShell(option, raw)
	return value, nil
}

// warnOfShell warns of a value that somebody took a Caddyfile for a shell script to write.
func (o Options) warnOfShell(option, raw string) bool {
	shell := secret.ShellVariable(raw)
	if shell {
		o.Warn(ShellVariable, zap.String("option", option))
	}
	return shell
}

// ShellVariable is the warning of a value such as $NAME.
const ShellVariable = "a value has the form of a shell's variable, which Caddy does not replace: write {env.NAME} instead of $NAME"

// Key resolves a key, and warns where it stands in the configuration itself.
func (o Options) Key(option, raw string) (string, error) {
	key, literal, err := secret.Resolve(raw)
	if err != nil {
		return "", locale.Errorf("%s %w", option, err)
	}
	if !o.warnOfShell(option, raw) && literal {
		o.Warn("a key is written out in the configuration, where the config API and autosave.json show it; use {env.…} or {file.…}",
			zap.String("option", option))
	}
	return key, nil
}

// Endpoint reads the platform's address, and warns where calls to it can be read on their way. loopback tells that it is
// on this machine.
func (o Options) Endpoint(upstream string) (endpoint outbound.Endpoint, loopback bool, err error) {
	if endpoint, loopback, err = outbound.ParseEndpoint(upstream); err != nil {
		return endpoint, false, locale.Errorf("upstream: %w", err)
	}
	if endpoint.Scheme == "http" && !loopback {
		o.Warn("calls go out without TLS: whoever listens on the way can repeat them", zap.String("option", "upstream"))
	}
	return endpoint, loopback, nil
}

// Warn logs a warning about the account.
func (o Options) Warn(message string, fields ...zap.Field) {
	o.Logger.Warn(message, append([]zap.Field{zap.String(o.Kind, o.Name)}, fields...)...)
}

// LookAround warns, when an app starts, of what is configured in a way that somebody has hardly meant, and tells the handlers
// of calls where the platform's notifies are served: it returns those paths. name is the app's; isNotify recognizes its handlers of notifies.
func LookAround(ctx caddy.Context, name string, logger *zap.Logger, isNotify func(caddyhttp.MiddlewareHandler) bool) (paths []string) {
	var guards []*outbound.Guard
	open := make(map[*caddyhttp.Server]bool)
	routes.Walk(ctx, func(server *caddyhttp.Server, way []routes.Step) {
		handler := way[len(way)-1].Handler
		if isNotify(handler) {
			served := routes.Paths(way)
			if served == nil {
				served = []string{"*"}
			}
			paths = append(paths, served...)
			return
		}
		signing, ok := handler.(interface{ Signing() *outbound.Guard })
		if !ok || signing.Signing().Platform() != name {
			return
		}
		guard := signing.Signing()
		guards = append(guards, guard)
		if len(guard.Token) == 0 && !open[server] && routes.Open(server) {
			open[server] = true
			logger.Warn("a site that signs calls listens on every address of this machine, and asks for no token: write bind 127.0.0.1 into it, or set token",
				zap.Strings("listen", server.Listen))
		}
	})
	slices.Sort(paths)
	paths = slices.Compact(paths)
	for _, guard := range guards {
		guard.Serves(paths)
	}
	return paths
}

// NewMetrics registers the metrics of a platform's calls and notifies.
func NewMetrics(ctx caddy.Context, name string) (calls *outbound.Metrics, notifies *inbound.Metrics, err error) {
	if calls, err = outbound.NewMetrics(ctx.GetMetricsRegistry(), name); err == nil {
		notifies, err = inbound.NewMetrics(ctx.GetMetricsRegistry(), name)
	}
	if err != nil {
		return nil, nil, locale.Errorf("registering metrics: %w", err)
	}
	return calls, notifies, nil
}

// Load returns the app of this name in the configuration that ctx provisions.
func Load[App caddy.App](ctx caddy.Context, name string) (app App, err error) {
	loaded, err := ctx.App(name)
	if err != nil {
		return app, locale.Errorf("loading the %s app: %w", name, err)
	}
	return loaded.(App), nil
}

// Grace bounds how long an app waits for calls under way, by the grace period of the http app. An app learns it in Stop,
// when the http app still takes and ends requests.
func Grace(ctx caddy.Context, patience time.Duration) time.Duration {
	if app, err := ctx.AppIfConfigured("http"); err == nil {
		if grace := time.Duration(app.(*caddyhttp.App).GracePeriod); grace > 0 {
			return min(patience, grace)
		}
	}
	return patience
}

// Land waits for the calls that have been sent, so that neither stop nor reload cuts a payment. flights may be nil.
func Land(flights *outbound.Flights, patience time.Duration, logger *zap.Logger) {
	if flights == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if !flights.Wait(ctx) {
		logger.Warn("calls were still under way when the configuration was put away; their outcome is unknown")
	}
}
