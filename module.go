// Package chinaums is the payment edge for merchants of ChinaUMS (银联商务 天满) as a Caddy plugin.
//
// On the way out, the merchant's app calls the gateway in plain JSON, and the gateway signs the call and proxies it to
// the platform: [Guard] (who may, what may) → reverse_proxy with [Upstreams] and [Transport] (which signs each attempt).
// On the way in, [Notify] verifies the platform's notify, normalizes it to JSON, hands it to the rest of the handler
// chain, and answers SUCCESS only when the app has really taken it.
//
// The files: module.go the app and its merchants; caddyfile.go every Caddyfile form; names.go, signer.go, fields.go and
// event.go the protocol, without Caddy; guard.go, proxy.go, token.go and h5.go the way out; notify.go, confirm.go and
// return.go the way in; watch*.go what the watch has to know; admin.go and command*.go the admin API and the commands. What other platforms do alike is in internal.
package chinaums

import (
	"crypto/subtle"
	"encoding/json"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/internal/accounts"
	"github.com/caddy-chinaums/caddy-chinaums/internal/inbound"
	"github.com/caddy-chinaums/caddy-chinaums/internal/locale"
	"github.com/caddy-chinaums/caddy-chinaums/internal/outbound"
	"github.com/caddy-chinaums/caddy-chinaums/internal/platform"
	"github.com/caddy-chinaums/caddy-chinaums/internal/text"
	"github.com/caddy-chinaums/caddy-chinaums/internal/watched"
)

func init() {
	caddy.RegisterModule(new(App))
}

// The platform's hosts (checklist SYS-01, X-26).
const (
	productionUpstream = "https://api-mop.chinaums.com"
	testUpstream       = "https://test-api-open.chinaums.com"
)

// midLength is how long every mid in the documents is.
const midLength = 15

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
//			watch {
//				refunds enforce
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
//		},
//		"watch": {"refunds": "enforce"}
//	}
type App struct {
	// The merchants, by a name of the user's own: letters, digits, `.`, `_` and `-`, beginning with a letter or digit.
	Merchants map[string]*Merchant `json:"merchants,omitempty"`

	// Follow orders and refunds until their end is known and the app was told. Default: nobody does.
	Watch *watched.Config `json:"watch,omitempty"`

	watched   *watched.Watched // nil: nobody does
	watching  *watching
	merchants accounts.Directory[*merchant]
	calls     *outbound.Metrics
	notifies  *inbound.Metrics
	clock     *clockGuard
	flights   *outbound.Flights
	patience  time.Duration // how long Cleanup waits for calls under way
	ctx       caddy.Context
	logger    *zap.Logger

	notifyPaths *atomic.Pointer[[]string] // where notifies are taken; it holds nil before the start
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

// SaysItself implements accounts.Account: a notify says itself whose it is, by its mid.
func (m *merchant) SaysItself() bool { return len(m.mids) > 0 }

// hasMID reports whether a notify of this mid is the merchant's.
func (m *merchant) hasMID(mid []byte) bool {
	return len(m.mids) == 0 || m.mids[string(mid)]
}

// CaddyModule returns the Caddy module information. It takes a pointer, lest each event copy the app while Stop writes into it.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "chinaums",
		New: func() caddy.Module { return new(App) },
	}
}

// UnmarshalJSON reads the configuration strictly.
func (a *App) UnmarshalJSON(data []byte) (err error) {
	var document struct {
		Merchants map[string]json.RawMessage `json:"merchants"`
		Watch     json.RawMessage            `json:"watch"`
	}
	if err = platform.UnmarshalStrict(data, &document); err == nil {
		a.Merchants, err = platform.UnmarshalAccounts[Merchant](document.Merchants, ofMerchant)
	}
	if err == nil && len(document.Watch) > 0 && string(document.Watch) != "null" {
		a.Watch = new(watched.Config)
		if err = platform.UnmarshalStrict(document.Watch, a.Watch); err != nil {
			return locale.Errorf("watch: %w", err)
		}
	}
	return err
}

func ofMerchant(name string, err error) error { return locale.Errorf("merchant %s: %w", name, err) }

// Provision resolves every merchant's keys and refuses what could sign or verify wrongly.
func (a *App) Provision(ctx caddy.Context) (err error) {
	a.ctx, a.logger, a.flights, a.notifyPaths = ctx, ctx.Logger(), new(outbound.Flights), new(atomic.Pointer[[]string])
	a.merchants = accounts.Directory[*merchant]{App: "chinaums", Kind: "merchant", Mark: "mid"}
	if err := platform.ResolveAccounts(&a.merchants, a.Merchants, a.resolve, ofMerchant); err != nil {
		return err
	}
	if err := checkSharedNotifyKeys(a.merchants.All()); err != nil {
		return err
	}
	if a.calls, a.notifies, err = platform.NewMetrics(ctx, "chinaums"); err != nil {
		return err
	}
	if a.clock, err = newClockGuard(ctx.GetMetricsRegistry(), a.logger); err != nil {
		return locale.Errorf("registering metrics: %w", err)
	}
	a.watching = &watching{now: time.Now}
	a.watched, err = watched.New(ctx, a.Watch, watched.Parts{
		Name: "chinaums", Orders: watchedAges, Platform: a.watching, Send: a.sendQuery, Label: watchLabel,
	})
	a.checkSharedMIDs()
	return err
}

func (a *App) resolve(name string, config *Merchant) (*merchant, error) {
	o := platform.Options{Kind: "merchant", Name: name, Logger: a.logger}
	m := &merchant{name: name}
	missing := ""
	switch {
	case config.AppID == "" && config.AppKey != "":
		missing = "app_id"
	case config.AppID != "" && config.AppKey == "":
		missing = "app_key"
	case config.AppID == "" && len(config.NotifyKey) == 0:
		return nil, locale.Errorf("there is neither app_id and app_key (for calls) nor notify_key (for notifies)")
	}
	if missing != "" {
		return nil, locale.Errorf("%s is missing: app_id and app_key belong together", missing)
	}
	if config.AppID != "" {
		appID, err := o.Value("app_id", config.AppID)
		if err != nil {
			return nil, err
		}
		if strings.ContainsFunc(appID, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '"' || r == '\\' }) {
			return nil, locale.Errorf("app_id holds a character that cannot stand in a header")
		}
		appKey, err := o.Key("app_key", config.AppKey)
		if err != nil {
			return nil, err
		}
		m.signer = newBodySigner(appID, appKey)
	}
	for _, raw := range config.NotifyKey {
		key, err := o.Key("notify_key", raw)
		if err != nil {
			return nil, err
		}
		if m.signer != nil && subtle.ConstantTimeCompare([]byte(key), m.signer.appKey) == 1 {
			o.Warn("notify_key is the same as app_key: the platform gives two keys, and signs notifies with the communication key (通讯密钥)",
				zap.String("option", "notify_key"))
		}
		m.notifyKeys = append(m.notifyKeys, []byte(key))
	}
	for _, raw := range config.SignTypes {
		signType, err := o.Value("sign_types", raw)
		if err != nil {
			return nil, err
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
	if len(config.SignTypes) == 0 {
		m.accept = digestMD5 | digestSHA256
	}
	m.mids = make(map[string]bool, len(config.MID))
	for _, raw := range config.MID {
		mid, err := o.Value("mid", raw)
		if err != nil {
			return nil, err
		}
		if m.mids[mid] {
			return nil, locale.Errorf("mid: %s is named twice", mid)
		}
		if len(mid) != midLength {
			o.Warn("a mid of this platform has 15 characters; notifies of another one are refused", zap.String("mid", text.ASCII(mid, text.Limit)))
		}
		m.mids[mid] = true
	}
	upstream, err := platformAddress(o, config)
	if err != nil {
		return nil, err
	}
	m.endpoint, m.loopback, err = o.Endpoint(upstream)
	return m, err
}

// platformAddress returns the address that upstream or environment says.
func platformAddress(o platform.Options, config *Merchant) (string, error) {
	if config.Upstream != "" {
		if config.Environment != "" {
			return "", locale.Errorf("environment and upstream exclude each other; keep one")
		}
		return o.Value("upstream", config.Upstream)
	}
	if config.Environment == "" {
		return productionUpstream, nil
	}
	environment, err := o.Value("environment", config.Environment)
	switch {
	case err != nil:
		return "", err
	case environment == "production":
		return productionUpstream, nil
	case environment == "test":
		return testUpstream, nil
	}
	return "", locale.Errorf("environment: %q is neither production nor test", environment)
}

// checkSharedNotifyKeys refuses merchants whose notifies could not be distinguished: one's notify would verify as the
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
func (a *App) Start() error {
	paths := platform.LookAround(a.ctx, "chinaums", a.logger, func(handler caddyhttp.MiddlewareHandler) bool {
		_, ok := handler.(*Notify)
		return ok
	})
	a.notifyPaths.Store(&paths)
	return a.watched.Start()
}

// Stop implements caddy.App.
func (a *App) Stop() error {
	a.patience = platform.Grace(a.ctx, a.patience)
	return nil
}

// Cleanup waits for the calls that have been sent, so that neither stop nor reload cuts a payment.
func (a *App) Cleanup() error {
	platform.Land(a.flights, a.patience, a.logger)
	return a.watched.Cleanup()
}

// merchantRef is a directive's merchant: a fixed one, or a name that each request gives.
type merchantRef = accounts.Ref[*merchant]

// loadApp returns the chinaums app of the configuration that ctx provisions.
func loadApp(ctx caddy.Context) (*App, error) { return platform.Load[*App](ctx, "chinaums") }

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
