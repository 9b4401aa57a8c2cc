// Package shouqianba is the payment edge for merchants of Shouqianba (收钱吧) as a Caddy plugin. Whoever has read the
// root package, which is the same for ChinaUMS, knows this one: the files have the same names and the same order.
//
// On the way out, the merchant's app calls the gateway in plain JSON, and the gateway signs the call with the terminal's
// key and proxies it to the platform: [Guard] → reverse_proxy with [Upstreams] and [Transport]. On the way in, [Notify]
// verifies the platform's notify, normalizes it, hands it to the rest of the handler chain, and answers success only when
// the app has really taken it.
//
// The one file more is terminal.go: a terminal that the gateway owns is activated once and checked in daily, its key
// sealed in Caddy's storage.
package shouqianba

import (
	"context"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
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
	"github.com/caddy-chinaums/caddy-chinaums/internal/platform"
	"github.com/caddy-chinaums/caddy-chinaums/internal/watched"
)

func init() {
	caddy.RegisterModule(new(App))
}

// The platform's host, and the interfaces that give out keys.
const (
	productionUpstream = "https://vsi-api.shouqianba.com"
	activatePath       = "/terminal/activate"
	checkinPath        = "/terminal/checkin"
)

// App holds the terminals whose keys the handlers use. It is configured once, as a global option; the handlers name a
// terminal, or leave the name out where there is exactly one.
//
// In a Caddyfile:
//
//	{
//		shouqianba {
//			terminal till {
//				terminal_sn {env.SQB_TERMINAL_SN}
//				terminal_key {env.SQB_TERMINAL_KEY}
//				public_key {env.SQB_PUBLIC_KEY}
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
//		"terminals": {
//			"till": {
//				"terminal_sn": "{env.SQB_TERMINAL_SN}",
//				"terminal_key": "{env.SQB_TERMINAL_KEY}",
//				"public_key": ["{env.SQB_PUBLIC_KEY}"]
//			}
//		},
//		"watch": {"refunds": "enforce"}
//	}
type App struct {
	// The terminals, by a name of the user's own: letters, digits, `.`, `_` and `-`, beginning with a letter or digit.
	Terminals map[string]*Terminal `json:"terminals,omitempty"`

	// Follow orders and refunds until their end is known and the app was told. Default: nobody does.
	Watch *watched.Config `json:"watch,omitempty"`

	watched   *watched.Watched // nil: nobody does
	watching  *watching
	terminals accounts.Directory[*terminal]
	calls     *outbound.Metrics
	notifies  *inbound.Metrics
	flights   *outbound.Flights
	patience  time.Duration // how long Cleanup waits for calls under way
	ctx       caddy.Context
	logger    *zap.Logger
}

// Terminal is one terminal at the platform. Every value may be a placeholder, such as `{env.SQB_TERMINAL_KEY}` or
// `{file./run/secrets/sqb}`, which is resolved when the configuration loads, so that the config API shows the placeholder
// and never the key.
//
// Calls are signed with terminal_sn and terminal_key; or the gateway owns the terminal, which takes the other five:
// vendor_sn, vendor_key, app_id, device_id and activation_code. An owned terminal is activated once and checked in daily.
// Its number is logged when it is activated.
type Terminal struct {
	// The terminal's number and its key, where the user looks after the daily check-in.
	TerminalSN  string `json:"terminal_sn,omitempty"`
	TerminalKey string `json:"terminal_key,omitempty"`

	// The vendor's number and key (服务商), which sign the activation. The stored terminal key is sealed with the key.
	VendorSN  string `json:"vendor_sn,omitempty"`
	VendorKey string `json:"vendor_key,omitempty"`

	// The app's ID, from the vendor's platform.
	AppID string `json:"app_id,omitempty"`

	// What the terminal is called at the platform: the merchant's own choice, one for each terminal.
	DeviceID string `json:"device_id,omitempty"`

	// The code that activates the terminal. It is used once; another one activates another terminal.
	ActivationCode string `json:"activation_code,omitempty"`

	// The platform's RSA public keys that notifies are verified with, as PEM or as the name of a file that holds it: any
	// one may verify, so that a key can be changed without downtime. Needed for notifies.
	PublicKey []string `json:"public_key,omitempty"`

	// The platform's address as scheme://host[:port]. Default: https://vsi-api.shouqianba.com.
	Upstream string `json:"upstream,omitempty"`
}

// terminal is a Terminal with its placeholders resolved. The keys are reachable from here only.
type terminal struct {
	outbound.Line
	name       string
	endpoint   outbound.Endpoint
	loopback   bool            // the endpoint is on this machine
	fixed      *credential     // where the user looks after the key
	owner      *owner          // where the gateway does
	keeper     *keeper         // shared by all configurations that have the terminal
	ended      <-chan struct{} // closed when the configuration is put away
	publicKeys []*rsa.PublicKey
}

// Name implements outbound.Account.
func (t *terminal) Name() string { return t.name }

// Endpoint implements outbound.Account.
func (t *terminal) Endpoint() outbound.Endpoint { return t.endpoint }

// SaysItself implements accounts.Account: a call's signature and a notify's terminal_sn say whose they are.
func (t *terminal) SaysItself() bool { return t.fixed != nil || t.owner != nil }

// credential returns what signs a call now.
func (t *terminal) credential(ctx context.Context) (*credential, error) {
	if t.fixed != nil {
		return t.fixed, nil
	}
	c, err := t.keeper.credential(ctx)
	if errors.Is(err, errNotStarted) && t.started(ctx) {
		c, err = t.keeper.credential(ctx)
	}
	return c, err
}

// started waits until the terminal is looked after, for as long as ctx and the configuration last: Caddy starts apps in
// any order, so that the http app may serve before this one has started.
func (t *terminal) started(ctx context.Context) bool {
	select {
	case <-t.keeper.adopted:
		return true
	case <-t.ended: // another app could not be started
	case <-ctx.Done():
	}
	return false
}

// serial is the terminal's number, or "" where it is not known. At the start it is waited for, for as long as ctx lasts.
func (t *terminal) serial(ctx context.Context) string {
	switch {
	case t.fixed != nil:
		return t.fixed.sn
	case t.keeper != nil && t.started(ctx):
		return t.keeper.serial(ctx)
	}
	return ""
}

// keepers are the terminals that this process owns. A terminal is exclusive, so that configurations share it, also while
// one takes another's place.
var keepers = caddy.NewUsagePool()

// CaddyModule returns the Caddy module information. It takes a pointer, lest each event copy the app while Stop writes into it.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "shouqianba",
		New: func() caddy.Module { return new(App) },
	}
}

// UnmarshalJSON reads the configuration strictly.
func (a *App) UnmarshalJSON(data []byte) (err error) {
	var document struct {
		Terminals map[string]json.RawMessage `json:"terminals"`
		Watch     json.RawMessage            `json:"watch"`
	}
	if err = platform.UnmarshalStrict(data, &document); err == nil {
		a.Terminals, err = platform.UnmarshalAccounts[Terminal](document.Terminals, ofTerminal)
	}
	if err == nil && len(document.Watch) > 0 && string(document.Watch) != "null" {
		a.Watch = new(watched.Config)
		if err = platform.UnmarshalStrict(document.Watch, a.Watch); err != nil {
			return locale.Errorf("watch: %w", err)
		}
	}
	return err
}

func ofTerminal(name string, err error) error { return locale.Errorf("terminal %s: %w", name, err) }

// Provision resolves every terminal's keys and refuses what could sign or verify wrongly.
func (a *App) Provision(ctx caddy.Context) (err error) {
	a.ctx, a.logger, a.flights = ctx, ctx.Logger(), new(outbound.Flights)
	a.terminals = accounts.Directory[*terminal]{App: "shouqianba", Kind: "terminal", Mark: "terminal_sn, or are owned by the gateway,"}
	if err := platform.ResolveAccounts(&a.terminals, a.Terminals, a.resolve, ofTerminal); err != nil {
		return err
	}
	if err := checkSameTerminal(a.terminals.All()); err != nil {
		return err
	}
	if err := checkSharedPublicKeys(a.terminals.All()); err != nil {
		return err
	}
	if a.calls, a.notifies, err = platform.NewMetrics(ctx, "shouqianba"); err != nil {
		return err
	}
	for _, t := range a.terminals.All() {
		if t.owner == nil {
			continue
		}
		t.owner.slot.Storage = ctx.Storage()
		shared, _, err := keepers.LoadOrNew(t.owner.slot.Key, func() (caddy.Destructor, error) { return newKeeper(), nil })
		if err != nil {
			return ofTerminal(t.name, err)
		}
		t.keeper, t.ended = shared.(*keeper), ctx.Done()
	}
	if err := ctx.GetMetricsRegistry().Register(checkins{a}); err != nil {
		return locale.Errorf("registering metrics: %w", err)
	}
	a.watching = new(watching)
	a.watched, err = watched.New(ctx, a.Watch, watched.Parts{
		Name: "shouqianba", Orders: watchedAges, Platform: a.watching, Prepare: a.watching.prepare, Send: a.sendQuery,
		Label: func(eventType string) string { return eventType }, // there are only so many
	})
	return err
}

func (a *App) resolve(name string, config *Terminal) (*terminal, error) {
	o := platform.Options{Kind: "terminal", Name: name, Logger: a.logger}
	t := &terminal{name: name}
	fixed := []option{{"terminal_sn", config.TerminalSN}, {"terminal_key", config.TerminalKey}}
	owned := []option{
		{"vendor_sn", config.VendorSN}, {"vendor_key", config.VendorKey}, {"app_id", config.AppID},
		{"device_id", config.DeviceID}, {"activation_code", config.ActivationCode},
	}
	hasFixed, hasOwned := given(fixed), given(owned)
	switch {
	case hasFixed != "" && hasOwned != "":
		return nil, locale.Errorf("%s and %s exclude each other: either terminal_sn and terminal_key, or the gateway owns the terminal", hasFixed, hasOwned)
	case hasFixed == "" && hasOwned == "" && len(config.PublicKey) == 0:
		return nil, locale.Errorf("there is neither terminal_sn and terminal_key, nor vendor_sn and the others of a terminal that the gateway owns (for calls), nor public_key (for notifies)")
	}
	upstream := productionUpstream
	var err error
	if config.Upstream != "" {
		if upstream, err = o.Value("upstream", config.Upstream); err != nil {
			return nil, err
		}
	}
	if t.endpoint, t.loopback, err = o.Endpoint(upstream); err != nil {
		return nil, err
	}
	switch {
	case hasFixed != "":
		values, err := values(o, fixed, "terminal_sn and terminal_key belong together")
		if err != nil {
			return nil, err
		}
		t.fixed = &credential{sn: values[0], key: values[1]}
	case hasOwned != "":
		values, err := values(o, owned, "a terminal that the gateway owns needs vendor_sn, vendor_key, app_id, device_id and activation_code")
		if err != nil {
			return nil, err
		}
		id := identity{vendorSN: values[0], appID: values[2], deviceID: values[3], activationCode: values[4]}
		if t.owner, err = newOwner(name, id, values[1], t.endpoint, a.logger); err != nil {
			return nil, err
		}
		t.owner.line = &t.Line
	}
	for _, raw := range config.PublicKey {
		key, err := readPublicKey(raw)
		if err != nil {
			return nil, locale.Errorf("public_key %w", err)
		}
		if slices.ContainsFunc(t.publicKeys, func(other *rsa.PublicKey) bool { return other.Equal(key) }) {
			return nil, locale.Errorf("public_key: the same key is named twice")
		}
		if key.N.BitLen() < goodKeyBits {
			o.Warn("a public key is small; ask the platform for one of 2048 bits", zap.Int("bits", key.N.BitLen()))
		}
		t.publicKeys = append(t.publicKeys, key)
	}
	if len(t.publicKeys) > 0 && !t.SaysItself() {
		o.Warn("the terminal has no terminal_sn, so that the platform's notifies for other merchants' terminals verify too")
	}
	return t, nil
}

// option is the name of an option and what it was given.
type option struct{ name, raw string }

// given returns the name of the first option that is there, or "".
func given(options []option) string {
	for _, o := range options {
		if o.raw != "" {
			return o.name
		}
	}
	return ""
}

// values resolves options that must all be there.
func values(o platform.Options, options []option, need string) ([]string, error) {
	values := make([]string, len(options))
	for i, option := range options {
		if option.raw == "" {
			return nil, locale.Errorf("%s is missing: %s", option.name, need)
		}
		resolved := o.Value
		switch option.name {
		case "terminal_key", "vendor_key", "activation_code":
			resolved = o.Key
		}
		value, err := resolved(option.name, option.raw)
		if err != nil {
			return nil, err
		}
		if strings.HasSuffix(option.name, "_sn") && !inHeader(value) {
			return nil, locale.Errorf("%s holds a character that cannot stand in a header", option.name)
		}
		values[i] = value
	}
	return values, nil
}

// inHeader reports whether a number or key can stand in the Authorization header: visible ASCII without a space.
func inHeader(value string) bool {
	return !strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r >= 0x7f })
}

// readPublicKey reads a public key that is written out, comes from a placeholder, or is in a file.
func readPublicKey(raw string) (*rsa.PublicKey, error) {
	text := raw
	if strings.Contains(raw, "{") {
		// Not by package secret: a key in PEM has line breaks.
		var err error
		if text, err = caddy.NewReplacer().ReplaceOrErr(raw, true, true); err != nil {
			return nil, locale.Errorf("cannot be resolved (%w); is the variable set, the file there?", err)
		}
	}
	if text = strings.TrimSpace(text); text == "" {
		return nil, locale.Errorf("is empty")
	}
	key, err := parsePublicKey([]byte(text))
	if err == nil {
		return key, nil
	}
	if strings.ContainsAny(text, "\r\n") || strings.HasPrefix(text, "-----") || len(text) > 4096 {
		return nil, err // no name of a file
	}
	content, fileErr := readKeyFile(text)
	if fileErr != nil {
		return nil, locale.Errorf("%w, and as a file: %w", err, fileErr)
	}
	if key, err = parsePublicKey(content); err != nil {
		return nil, fmt.Errorf("%s: %w", text, err)
	}
	return key, nil
}

// maxKeyFile is much more than a key or a certificate has, in bytes.
const maxKeyFile = 64 << 10

// readKeyFile reads a file. Its errors do not name it: the name may have been meant as a key, even a private one.
func readKeyFile(name string) ([]byte, error) {
	file, err := os.Open(name)
	if err == nil {
		defer file.Close()
		var content []byte
		if content, err = io.ReadAll(io.LimitReader(file, maxKeyFile+1)); err == nil {
			if len(content) > maxKeyFile {
				return nil, fmt.Errorf("it is larger than %d bytes", maxKeyFile)
			}
			return content, nil
		}
	}
	if failed, ok := errors.AsType[*fs.PathError](err); ok {
		err = failed.Err
	}
	return nil, err
}

// checkSameTerminal refuses two names for one terminal that the gateway owns: each would look after it.
func checkSameTerminal(terminals []*terminal) error {
	owners := make(map[string]*terminal)
	for _, t := range terminals {
		if t.owner == nil {
			continue
		}
		if other := owners[t.owner.slot.Key]; other != nil {
			return locale.Errorf("terminals %s and %s: both are the same terminal; give one another device_id and activation_code", other.name, t.name)
		}
		owners[t.owner.slot.Key] = t
	}
	return nil
}

// checkSharedPublicKeys refuses terminals whose notifies could not be distinguished: the platform signs all merchants'
// notifies with one key, so that only a terminal_sn distinguishes them.
func checkSharedPublicKeys(terminals []*terminal) error {
	for i, t := range terminals {
		for _, other := range terminals[:i] {
			if !slices.ContainsFunc(t.publicKeys, func(key *rsa.PublicKey) bool {
				return slices.ContainsFunc(other.publicKeys, func(theirs *rsa.PublicKey) bool { return key.Equal(theirs) })
			}) {
				continue
			}
			if !t.SaysItself() || !other.SaysItself() {
				return locale.Errorf("terminals %s and %s: both have the same public_key, so both need a terminal_sn", other.name, t.name)
			}
			if t.fixed != nil && other.fixed != nil && t.fixed.sn == other.fixed.sn {
				return locale.Errorf("terminals %s and %s: both have the same public_key and terminal_sn %s", other.name, t.name, t.fixed.sn)
			}
		}
	}
	return nil
}

// Start implements caddy.App. From here on the owned terminals are looked after: not at `caddy validate`.
func (a *App) Start() error {
	platform.LookAround(a.ctx, "shouqianba", a.logger, func(handler caddyhttp.MiddlewareHandler) bool {
		_, ok := handler.(*Notify)
		return ok
	})
	for _, t := range a.terminals.All() {
		if t.keeper != nil {
			t.keeper.adopt(t.owner)
		}
	}
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
	failed := []error{a.watched.Cleanup()}
	for _, t := range a.terminals.All() {
		if t.keeper != nil {
			t.keeper.release(t.owner)
			if _, err := keepers.Delete(t.owner.slot.Key); err != nil {
				failed = append(failed, ofTerminal(t.name, err))
			}
		}
	}
	return errors.Join(failed...)
}

// terminalRef is a directive's terminal: a fixed one, or a name that each request gives.
type terminalRef = accounts.Ref[*terminal]

// loadApp returns the shouqianba app of the configuration that ctx provisions.
func loadApp(ctx caddy.Context) (*App, error) { return platform.Load[*App](ctx, "shouqianba") }

func needsKey(t *terminal) error {
	if t.fixed == nil && t.owner == nil {
		return locale.Errorf("terminal_sn and terminal_key are missing, or vendor_sn and the others of a terminal that the gateway owns; calls are signed with them")
	}
	return nil
}

func needsPublicKey(t *terminal) error {
	if len(t.publicKeys) == 0 {
		return locale.Errorf("public_key is missing; notifies are verified with it")
	}
	return nil
}

// Interface guards
var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
	_ json.Unmarshaler   = (*App)(nil)
	_ outbound.Account   = (*terminal)(nil)
	_ caddy.Destructor   = (*keeper)(nil)
)
