// Package syntax reads the parts of the Caddyfile that all platforms' directives have in common: options that are given
// at most once, and the shortcut that stands for a guard and a reverse_proxy.
package syntax

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/dustin/go-humanize"

	"github.com/caddy-chinaums/caddy-chinaums/internal/inbound"
	"github.com/caddy-chinaums/caddy-chinaums/internal/locale"
	"github.com/caddy-chinaums/caddy-chinaums/internal/outbound"
	"github.com/caddy-chinaums/caddy-chinaums/internal/verdict"
)

// Argument reads the one argument that most directives take.
func Argument(d *caddyfile.Dispenser, account *string) error {
	name := d.Val()
	if d.NextArg() {
		*account = d.Val()
	}
	if d.NextArg() {
		return d.WrapErr(locale.Errorf("%s: surplus argument %q", name, d.Val()))
	}
	return nil
}

// Options reads the options of one block, each at most once.
type Options struct {
	D    *caddyfile.Dispenser
	Of   string // for messages
	seen map[string]bool
}

func (o *Options) once() error {
	name := o.D.Val()
	if o.seen[name] {
		return o.D.WrapErr(locale.Errorf("%s: %s is given twice", o.Of, name))
	}
	if o.seen == nil {
		o.seen = make(map[string]bool)
	}
	o.seen[name] = true
	return nil
}

// List reads an option that has one or more values.
func (o *Options) List(target *[]string) error {
	if err := o.once(); err != nil {
		return err
	}
	name := o.D.Val()
	*target = o.D.RemainingArgs()
	if len(*target) == 0 {
		return o.D.WrapErr(locale.Errorf("%s: %s needs a value", o.Of, name))
	}
	for _, value := range *target {
		if value == "" {
			return o.D.WrapErr(locale.Errorf("%s: %s is empty", o.Of, name))
		}
	}
	return nil
}

// One reads an option that has one value.
func (o *Options) One(target *string) error {
	name := o.D.Val()
	var values []string
	if err := o.List(&values); err != nil {
		return err
	}
	if len(values) > 1 {
		// The values are not shown, because one may be a key.
		return o.D.WrapErr(locale.Errorf("%s: %s takes one value, not %d", o.Of, name, len(values)))
	}
	*target = values[0]
	return nil
}

// Word reads an option whose value is one of words.
func (o *Options) Word(target *string, words ...string) error {
	name := o.D.Val()
	if err := o.One(target); err != nil {
		return err
	}
	for _, word := range words {
		if *target == word {
			return nil
		}
	}
	return o.D.WrapErr(locale.Errorf("%s: %s: %q is not one of: %s", o.Of, name, *target, strings.Join(words, ", ")))
}

// Size reads an option such as 64KiB.
func (o *Options) Size(target *int64) error { return o.SizeTo(target, "1GiB") }

// SizeTo reads an option such as 64KiB, up to a limit such as 1GiB.
func (o *Options) SizeTo(target *int64, limit string) error {
	name := o.D.Val()
	var text string
	if err := o.One(&text); err != nil {
		return err
	}
	most, err := humanize.ParseBytes(limit)
	if err != nil {
		return o.D.WrapErr(locale.Errorf("%s: %s: %v", o.Of, name, err))
	}
	size, err := humanize.ParseBytes(text)
	if err != nil || size == 0 || size > most {
		return o.D.WrapErr(locale.Errorf("%s: %s: %q is not a size between 1 byte and %s", o.Of, name, text, limit))
	}
	*target = int64(size)
	return nil
}

// Duration reads an option such as 10s.
func (o *Options) Duration(target *caddy.Duration) error {
	name := o.D.Val()
	var text string
	if err := o.One(&text); err != nil {
		return err
	}
	duration, err := caddy.ParseDuration(text)
	if err != nil || duration <= 0 {
		return o.D.WrapErr(locale.Errorf("%s: %s: %q is not a positive duration such as 10s", o.Of, name, text))
	}
	*target = caddy.Duration(duration)
	return nil
}

// Durations reads an option of one duration or more.
func (o *Options) Durations(target *[]caddy.Duration) error {
	name := o.D.Val()
	var texts []string
	if err := o.List(&texts); err != nil {
		return err
	}
	for _, text := range texts {
		duration, err := caddy.ParseDuration(text)
		if err != nil || duration <= 0 {
			return o.D.WrapErr(locale.Errorf("%s: %s: %q is not a positive duration such as 30s", o.Of, name, text))
		}
		*target = append(*target, caddy.Duration(duration))
	}
	return nil
}

// Number reads an option of one number from 1.
func (o *Options) Number(target *int) error {
	name := o.D.Val()
	var text string
	if err := o.One(&text); err != nil {
		return err
	}
	number, err := strconv.Atoi(text)
	if err != nil || number < 1 {
		return o.D.WrapErr(locale.Errorf("%s: %s: %q is not a number from 1", o.Of, name, text))
	}
	*target = number
	return nil
}

// Flag reads an option without a value.
func (o *Options) Flag(target *bool) error {
	if err := o.once(); err != nil {
		return err
	}
	if o.D.NextArg() {
		return o.D.WrapErr(locale.Errorf("%s: surplus argument %q", o.Of, o.D.Val()))
	}
	*target = true
	return nil
}

// Unknown is the error of an option that does not exist.
func (o *Options) Unknown() error {
	return o.D.WrapErr(locale.Errorf("%s: unknown option %q", o.Of, o.D.Val()))
}

// Guard reads the option at the cursor if every platform's guard has it.
func (o *Options) Guard(g *outbound.Guard) (known bool, err error) {
	switch o.D.Val() {
	case "allow":
		err = o.List(&g.Allow)
	case "token":
		err = o.List(&g.Token)
	case "paths":
		err = o.List(&g.Paths)
	case "max_size":
		err = o.Size(&g.MaxSize)
	case "max_response":
		err = o.Size(&g.MaxResponse)
	case "timeout":
		err = o.Duration(&g.Timeout)
	case "validate":
		err = o.Word(&g.Validate, "off", "warn", "reject")
	default:
		return false, nil
	}
	return true, err
}

// Notify reads the option at the cursor if every platform's notify handler has it.
func (o *Options) Notify(n *inbound.Notify) (known bool, err error) {
	switch o.D.Val() {
	case "format":
		err = o.Word(&n.Format, inbound.FormatJSON, inbound.FormatCloudEvents, inbound.FormatOriginal)
	case "ack":
		err = o.Word(&n.Ack, verdict.AckWord, verdict.Ack2xx)
	case "json":
		err = o.List(&n.JSON)
	case "max_size":
		err = o.Size(&n.MaxSize)
	case "timeout":
		err = o.Duration(&n.Timeout)
	case "observe":
		err = o.Flag(&n.Observe)
	default:
		return false, nil
	}
	return true, err
}

// Compression reads the option at the cursor, if it is the one of a signing transport that must be off.
func (o *Options) Compression() (known bool, err error) {
	if o.D.Val() != "compression" {
		return false, nil
	}
	// The HTTP transport's parser takes any word here for "on".
	var word string
	return true, o.Word(&word, "off")
}

// Shortcut reads a directive that stands for a guard and a reverse_proxy with a signing transport.
type Shortcut struct {
	// Name is the directive's, and Platform the app's.
	Name, Platform string
	// Own reads the option at the cursor, if it is the guard's or the transport's own.
	Own func(o *Options) (known bool, err error)

	// Guard, Transport and Upstreams are what the directive adapts to. HTTP is the HTTP transport within Transport.
	Guard, Transport, Upstreams any
	HTTP                        *reverseproxy.HTTPTransport
}

// Parse reads the directive and returns the route. The directive's argument goes into all of accounts.
func (s *Shortcut) Parse(h httpcaddyfile.Helper, accounts ...*string) ([]httpcaddyfile.ConfigValue, error) {
	h.Next() // the directive's name
	first := h.Token()
	matchers, err := h.ExtractMatcherSet()
	if err != nil {
		return nil, err
	}
	d := h.Dispenser
	d.Next() // the directive's name again: ExtractMatcherSet goes back to the beginning
	var account string
	if err := Argument(d, &account); err != nil {
		return nil, err
	}
	for _, target := range accounts {
		*target = account
	}

	o := Options{D: d, Of: s.Name}
	var transportTokens, proxyTokens []caddyfile.Token
	for d.NextBlock(0) {
		known, err := s.Own(&o)
		switch {
		case err != nil:
			return nil, err
		case known:
		case Refused(d.Val()):
			return nil, d.WrapErr(locale.Errorf("%s: %s is refused here: it could send a call elsewhere, again or changed", s.Name, d.Val()))
		case transportOptions[d.Val()]:
			transportTokens = append(transportTokens, d.NextSegment()...)
		default:
			proxyTokens = append(proxyTokens, d.NextSegment()...)
		}
	}
	proxy := new(reverseproxy.Handler)
	if err := s.HTTP.UnmarshalCaddyfile(Block(first, transportTokens)); err != nil {
		return nil, err
	}
	if err := proxy.UnmarshalCaddyfile(Block(first, proxyTokens)); err != nil {
		return nil, err
	}
	if err := proxy.FinalizeUnmarshalCaddyfile(h); err != nil {
		return nil, err
	}
	// Only now: what UnmarshalCaddyfile finds it may overwrite.
	proxy.TransportRaw = caddyconfig.JSONModuleObject(s.Transport, "protocol", s.Platform, nil)
	proxy.DynamicUpstreamsRaw = caddyconfig.JSONModuleObject(s.Upstreams, "source", s.Platform, nil)

	route := caddyhttp.Route{HandlersRaw: []json.RawMessage{
		caddyconfig.JSONModuleObject(s.Guard, "handler", s.Platform+"_guard", nil),
		caddyconfig.JSONModuleObject(proxy, "handler", "reverse_proxy", nil),
	}}
	if matchers != nil {
		route.MatcherSetsRaw = caddyhttp.RawMatcherSets{matchers}
	}
	return []httpcaddyfile.ConfigValue{{Class: "route", Value: route}}, nil
}

// Refused reports whether a shortcut refuses an option of reverse_proxy: what could send a call elsewhere, again or changed.
func Refused(option string) bool {
	switch option {
	case "to", "dynamic", "transport", "lb_retry_match", "method", "rewrite":
		return true
	}
	return strings.HasPrefix(option, "health_")
}

// transportOptions are the options of `transport http`; all others of the shortcut are reverse_proxy's.
var transportOptions = map[string]bool{}

func init() {
	for name := range strings.FieldsSeq(`
		read_buffer write_buffer read_timeout write_timeout max_response_header proxy_protocol forward_proxy_url
		network_proxy dial_timeout dial_fallback_delay response_header_timeout expect_continue_timeout resolvers tls
		tls_client_auth tls_insecure_skip_verify tls_curves tls_timeout tls_trusted_ca_certs tls_server_name
		tls_renegotiation tls_except_ports tls_trust_pool keepalive keepalive_interval keepalive_idle_conns
		keepalive_idle_conns_per_host versions max_conns_per_host local_address`) {
		transportOptions[name] = true
	}
}

// TransportOptions are the options of a shortcut that go to the HTTP transport.
func TransportOptions() []string { return slices.Sorted(maps.Keys(transportOptions)) }

// Block returns a dispenser for a block with the given lines, as if the block were at the position of first.
func Block(first caddyfile.Token, lines []caddyfile.Token) *caddyfile.Dispenser {
	if first.Quoted() {
		// Copies of a quoted token would not be braces.
		first = caddyfile.Token{File: first.File, Line: first.Line, Text: first.Text}
	}
	tokens := []caddyfile.Token{first}
	if len(lines) > 0 {
		last := lines[len(lines)-1]
		open, end := first, first
		open.Text, end.Text = "{", "}"
		// A quoted token may span several lines.
		end.File, end.Line = last.File, last.Line+last.NumLineBreaks()+1
		tokens = append(append(append(tokens, open), lines...), end)
	}
	return caddyfile.NewDispenser(tokens)
}
