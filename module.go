// Package chinaums is the payment edge for merchants of ChinaUMS (银联商务 天满) as a Caddy plugin.
//
// On the way out, the merchant's app calls the gateway in plain JSON, and the gateway signs the call and proxies it to
// the platform: [Guard] (who may, what may) → reverse_proxy with [Upstreams] and [Transport] (which signs each attempt).
// On the way in, [Notify] verifies the platform's notify, normalizes it to JSON, hands it to the rest of the handler
// chain, and answers SUCCESS only when the app has really taken it.
//
// The files: module.go the app and its merchants; caddyfile.go every Caddyfile form; signer.go and event.go the
// protocol, without Caddy; guard.go, proxy.go, token.go and h5.go the way out; notify.go, confirm.go and return.go the
// way in; command*.go and doctor.go the commands. What other platforms do alike is in internal.
package chinaums

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/internal/accounts"
	"github.com/caddy-chinaums/caddy-chinaums/internal/inbound"
	"github.com/caddy-chinaums/caddy-chinaums/internal/locale"
	"github.com/caddy-chinaums/caddy-chinaums/internal/outbound"
	"github.com/caddy-chinaums/caddy-chinaums/internal/secret"
)

func init() {
	caddy.RegisterModule(App{})
}

// The platform's hosts (checklist SYS-01, X-26).
const (
	productionUpstream = "https://api-mop.chinaums.com"
	testUpstream       = "https://test-api-open.chinaums.com"
)

// App holds the merchants whose keys the handlers use. It is configured once, as a global option; the handlers name a
// merchant, or leave the name out where there is exactly one.
//
// In a Caddyfile:
//
//	{
//		chinaums {
//			merchant shop {
//				app_id {env.UMS_APP_ID}
//				app_key {env.UMS_APP_KEY}
//				notify_key {env.UMS_NOTIFY_KEY}
//				mid {env.UMS_MID}
//				environment test
//			}
//		}
//	}
//
// In JSON:
//
//	{
//		"merchants": {
//			"shop": {
//				"app_id": "{env.UMS_APP_ID}",
//				"app_key": "{env.UMS_APP_KEY}",
//				"notify_key": ["{env.UMS_NOTIFY_KEY}"],
//				"mid": ["{env.UMS_MID}"],
//				"environment": "test"
//			}
//		}
//	}
type App struct {
	// The merchants, by a name of the user's own: letters, digits, `.`, `_` and `-`, beginning with a letter or digit.
	Merchants map[string]*Merchant `json:"merchants,omitempty"`

	merchants accounts.Directory[*merchant]
	calls     *outbound.Metrics
	notifies  *inbound.Metrics
	clock     *clockGuard
	flights   *outbound.Flights
	patience  time.Duration // how long Cleanup waits for calls under way
	ctx       caddy.Context
	logger    *zap.Logger
}

// Merchant is one merchant's identity at the platform. Every value may be a placeholder, such as `{env.UMS_APP_KEY}` or
// `{file./run/secrets/ums}`, which is resolved when the configuration loads, so that the config API shows the
// placeholder and never the key.
type Merchant struct {
	// The developer's ID (开发者ID), given out by the platform. Needed for calls.
	AppID string `json:"app_id,omitempty"`

	// The developer's secret (开发者秘钥) that signs calls. Needed for calls.
	AppKey string `json:"app_key,omitempty"`

	// The communication key (通讯密钥) that notifies are signed with, and previous ones: any one may verify, so that a
	// key can be changed without downtime. Needed for notifies.
	NotifyKey []string `json:"notify_key,omitempty"`

	// The digests accepted on a notify: `sha256`, `md5`. Default: both.
	SignTypes []string `json:"sign_types,omitempty"`

	// Merchant numbers (商户号). Where given, a verified notify must carry one of them, and the merchant can be reached
	// by a name that is a placeholder.
	MID []string `json:"mid,omitempty"`

	// The platform's environment: `production` (https://api-mop.chinaums.com) or `test`
	// (https://test-api-open.chinaums.com). Default: production.
	Environment string `json:"environment,omitempty"`

	// The platform's address as scheme://host[:port], instead of environment: an older test host, a sandbox.
	Upstream string `json:"upstream,omitempty"`
}

// merchant is a Merchant with its placeholders resolved. The keys are reachable from here only.
type merchant struct {
	outbound.Line
	name       string
	endpoint   outbound.Endpoint
	loopback   bool // the endpoint is on this machine
	signer     *bodySigner
	notifyKeys [][]byte
	accept     digestSet
	mids       map[string]bool
}

// Name implements outbound.Account.
func (m *merchant) Name() string { return m.name }

// Endpoint implements outbound.Account.
func (m *merchant) Endpoint() outbound.Endpoint { return m.endpoint }

// Told implements accounts.Account: a notify says itself whose it is, by its mid.
func (m *merchant) Told() bool { return len(m.mids) > 0 }

// hasMID reports whether a notify of this mid is the merchant's.
func (m *merchant) hasMID(mid []byte) bool {
	return len(m.mids) == 0 || m.mids[string(mid)]
}

// CaddyModule returns the Caddy module information.
func (App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "chinaums",
		New: func() caddy.Module { return new(App) },
	}
}

// UnmarshalJSON reads the configuration. Caddy refuses an unknown field by itself, but could not say of which merchant.
func (a *App) UnmarshalJSON(data []byte) error {
	var document struct {
		Merchants map[string]json.RawMessage `json:"merchants"`
	}
	if err := unmarshalStrict(data, &document); err != nil {
		return err
	}
	a.Merchants = make(map[string]*Merchant, len(document.Merchants))
	for _, name := range slices.Sorted(maps.Keys(document.Merchants)) {
		merchant := new(Merchant)
		if err := unmarshalStrict(document.Merchants[name], merchant); err != nil {
			return locale.Errorf("merchant %s: %w", name, err)
		}
		a.Merchants[name] = merchant
	}
	return nil
}

func unmarshalStrict(data []byte, target any) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	return decoder.Decode(target)
}

// Provision resolves every merchant's keys and refuses what could sign or verify wrongly.
func (a *App) Provision(ctx caddy.Context) error {
	a.ctx, a.logger, a.flights = ctx, ctx.Logger(), new(outbound.Flights)
	a.merchants = accounts.Directory[*merchant]{App: "chinaums", Kind: "merchant", Mark: "mid"}
	for _, name := range slices.Sorted(maps.Keys(a.Merchants)) {
		m, err := a.resolve(name, a.Merchants[name])
		if err != nil {
			return locale.Errorf("merchant %s: %w", name, err)
		}
		a.merchants.Add(m)
	}
	if err := checkSharedNotifyKeys(a.merchants.All()); err != nil {
		return err
	}
	var err error
	if a.calls, err = outbound.NewMetrics(ctx.GetMetricsRegistry(), "chinaums"); err != nil {
		return locale.Errorf("registering metrics: %w", err)
	}
	if a.notifies, err = inbound.NewMetrics(ctx.GetMetricsRegistry(), "chinaums"); err != nil {
		return locale.Errorf("registering metrics: %w", err)
	}
	if a.clock, err = newClockGuard(ctx.GetMetricsRegistry(), a.logger); err != nil {
		return locale.Errorf("registering metrics: %w", err)
	}
	return nil
}

func (a *App) resolve(name string, config *Merchant) (*merchant, error) {
	if err := accounts.CheckName(name); err != nil {
		return nil, err
	}
	if config == nil {
		config = new(Merchant)
	}
	m := &merchant{name: name}

	if config.AppID == "" != (config.AppKey == "") {
		missing := "app_id"
		if config.AppKey == "" {
			missing = "app_key"
		}
		return nil, locale.Errorf("%s is missing: app_id and app_key belong together", missing)
	}
	if config.AppID == "" && len(config.NotifyKey) == 0 {
		return nil, locale.Errorf("there is neither app_id and app_key (for calls) nor notify_key (for notifies)")
	}
	if config.AppID != "" {
		appID, _, err := secret.Resolve(config.AppID)
		if err != nil {
			return nil, locale.Errorf("app_id %w", err)
		}
		if strings.ContainsFunc(appID, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '"' || r == '\\' }) {
			return nil, locale.Errorf("app_id holds a character that cannot stand in a header")
		}
		appKey, err := a.key(name, "app_key", config.AppKey)
		if err != nil {
			return nil, err
		}
		m.signer = newBodySigner(appID, appKey)
	}
	for _, raw := range config.NotifyKey {
		key, err := a.key(name, "notify_key", raw)
		if err != nil {
			return nil, err
		}
		m.notifyKeys = append(m.notifyKeys, []byte(key))
	}

	m.accept = digestMD5 | digestSHA256
	if len(config.SignTypes) > 0 {
		m.accept = 0
		for _, raw := range config.SignTypes {
			signType, _, err := secret.Resolve(raw)
			if err != nil {
				return nil, locale.Errorf("sign_types %w", err)
			}
			digest, ok := map[string]digestSet{"sha256": digestSHA256, "md5": digestMD5}[strings.ToLower(signType)]
			if !ok {
				return nil, locale.Errorf("sign_types: %q is neither sha256 nor md5", signType)
			}
			if m.accept&digest != 0 {
				return nil, locale.Errorf("sign_types: %s is named twice", signType)
			}
			m.accept |= digest
		}
	}

	for _, raw := range config.MID {
		mid, _, err := secret.Resolve(raw)
		if err != nil {
			return nil, locale.Errorf("mid %w", err)
		}
		if m.mids == nil {
			m.mids = make(map[string]bool, len(config.MID))
		}
		if m.mids[mid] {
			return nil, locale.Errorf("mid: %s is named twice", mid)
		}
		m.mids[mid] = true
	}

	upstream := config.Upstream
	switch {
	case upstream != "" && config.Environment != "":
		return nil, locale.Errorf("environment and upstream exclude each other; keep one")
	case upstream != "":
		var err error
		if upstream, _, err = secret.Resolve(upstream); err != nil {
			return nil, locale.Errorf("upstream %w", err)
		}
	default:
		environment := "production"
		if config.Environment != "" {
			var err error
			if environment, _, err = secret.Resolve(config.Environment); err != nil {
				return nil, locale.Errorf("environment %w", err)
			}
		}
		switch environment {
		case "production":
			upstream = productionUpstream
		case "test":
			upstream = testUpstream
		default:
			return nil, locale.Errorf("environment: %q is neither production nor test", environment)
		}
	}
	var err error
	if m.endpoint, m.loopback, err = outbound.ParseEndpoint(upstream); err != nil {
		return nil, locale.Errorf("upstream: %w", err)
	}
	if m.endpoint.Scheme == "http" && !m.loopback {
		a.logger.Warn("calls go out without TLS: whoever listens on the way can repeat them",
			zap.String("merchant", name), zap.String("option", "upstream"))
	}
	return m, nil
}

// key resolves a key and warns where it stands in the configuration itself.
func (a *App) key(merchant, option, raw string) (string, error) {
	key, literal, err := secret.Resolve(raw)
	if err != nil {
		return "", locale.Errorf("%s %w", option, err)
	}
	if literal {
		a.logger.Warn("a key is written out in the configuration, where the config API and autosave.json show it; use {env.…} or {file.…}",
			zap.String("merchant", merchant), zap.String("option", option))
	}
	return key, nil
}

// checkSharedNotifyKeys refuses merchants that a notify could not be told apart by: one's notify would verify as the
// other's.
func checkSharedNotifyKeys(merchants []*merchant) error {
	type sharers struct {
		first *merchant
		byMID map[string]*merchant
	}
	owners := make(map[string]*sharers)
	for _, m := range merchants {
		seen := make(map[string]bool, len(m.notifyKeys))
		for _, raw := range m.notifyKeys {
			key := string(raw)
			if seen[key] {
				return locale.Errorf("merchant %s: notify_key: the same key is named twice", m.name)
			}
			seen[key] = true
			owner := owners[key]
			if owner == nil {
				owner = &sharers{first: m, byMID: make(map[string]*merchant, len(m.mids))}
				owners[key] = owner
			} else if len(m.mids) == 0 || len(owner.byMID) == 0 {
				return locale.Errorf("merchants %s and %s: both have the same notify_key, so both need a mid", owner.first.name, m.name)
			}
			for mid := range m.mids {
				if other := owner.byMID[mid]; other != nil {
					return locale.Errorf("merchants %s and %s: both have the same notify_key and mid %s", other.name, m.name, mid)
				}
				owner.byMID[mid] = m
			}
		}
	}
	return nil
}

// Start implements caddy.App.
func (a *App) Start() error { return nil }

// Stop implements caddy.App. It learns how long Cleanup may wait: the http app still takes and ends requests now.
func (a *App) Stop() error {
	if app, err := a.ctx.AppIfConfigured("http"); err == nil {
		if grace := time.Duration(app.(*caddyhttp.App).GracePeriod); grace > 0 {
			a.patience = min(a.patience, grace)
		}
	}
	return nil
}

// Cleanup waits for the calls that have been sent, so that neither stop nor reload cuts a payment.
func (a *App) Cleanup() error {
	if a.flights == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), a.patience)
	defer cancel()
	if !a.flights.Wait(ctx) {
		a.logger.Warn("calls were still under way when the configuration was put away; their outcome is unknown")
	}
	return nil
}

// merchantRef is a directive's merchant: a fixed one, or a name that each request tells.
type merchantRef = accounts.Ref[*merchant]

// loadApp returns the chinaums app of the configuration that ctx provisions.
func loadApp(ctx caddy.Context) (*App, error) {
	app, err := ctx.App("chinaums")
	if err != nil {
		return nil, locale.Errorf("loading the chinaums app: %w", err)
	}
	return app.(*App), nil
}

func needsAppKey(m *merchant) error {
	if m.signer == nil {
		return locale.Errorf("app_id and app_key are missing; calls are signed with them")
	}
	return nil
}

func needsNotifyKey(m *merchant) error {
	if len(m.notifyKeys) == 0 {
		return locale.Errorf("notify_key is missing; notifies are verified with it")
	}
	return nil
}

// Interface guards
var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
	_ json.Unmarshaler   = (*App)(nil)
	_ outbound.Account   = (*merchant)(nil)
)
