// Package syntax reads the parts of the Caddyfile that all platforms' directives have in common: options that are given
// at most once, and what belongs to Caddy's own parsers.
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
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
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

// Store reads `store <module> …` into raw. The module is of a namespace such as inbox.stores; what follows its name is its own.
func (o *Options) Store(namespace string, raw *json.RawMessage) error {
	d := o.D
	if err := o.once(); err != nil {
		return err
	}
	var names []string
	for _, module := range caddy.GetModules(namespace) {
		names = append(names, module.ID.Name())
	}
	if !d.NextArg() {
		return d.WrapErr(locale.Errorf("%s: store needs a name: %s", o.Of, strings.Join(names, ", ")))
	}
	name := d.Val()
	id := namespace + "." + name
	if _, err := caddy.GetModule(id); err != nil {
		hint := ""
		if name == "nats" {
			hint = "; nats is in a package of its own, which this Caddy was built without: xcaddy build --with " +
				"github.com/caddy-chinaums/caddy-chinaums/" + strings.TrimSuffix(namespace, ".stores") + "/natsstore"
		}
		return d.WrapErr(locale.Errorf("%s: there is no store %q, but: %s%s", o.Of, name, strings.Join(names, ", "), hint))
	}
	store, err := caddyfile.UnmarshalModule(d, id)
	if err != nil {
		return err
	}
	*raw = caddyconfig.JSONModuleObject(store, "store", name, nil)
	return nil
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

// Proxy reads the options of a proxy directive. own reads the option at the cursor, if it is the platform's own; names are
// the platform's own options.
func (o *Options) Proxy(p *outbound.Proxy, longForm string, own func() (known bool, err error), names ...string) error {
	d := o.D
	first := d.Token()
	var transport []caddyfile.Token
	for d.NextBlock(0) {
		known, err := o.Guard(&p.Guard)
		if !known && err == nil {
			known, err = o.Compression()
		}
		if !known && err == nil {
			known, err = own()
		}
		switch {
		case err != nil:
			return err
		case known:
		case d.Val() == "header_up":
			if p.HeaderUp == nil {
				p.HeaderUp = new(headers.HeaderOps)
			}
			if err := o.headerUp(p.HeaderUp); err != nil {
				return err
			}
		case transportOptions[d.Val()]:
			transport = append(transport, d.NextSegment()...)
		default:
			if names := slices.Concat(names, GuardOptions, TransportOptions(), []string{"header_up"}); Nearest(d.Val(), names) != "" {
				return o.Unknown(names...)
			}
			return d.WrapErr(locale.Errorf("%s: unknown option %q; other options of reverse_proxy are for the long form: %s", o.Of, d.Val(), longForm))
		}
	}
	if len(transport) == 0 {
		return nil
	}
	p.Transport = new(reverseproxy.HTTPTransport)
	return p.Transport.UnmarshalCaddyfile(Block(first, transport))
}

// headerUp reads a header operation as reverse_proxy does.
func (o *Options) headerUp(ops *headers.HeaderOps) error {
	var err error
	switch args := o.D.RemainingArgs(); len(args) {
	case 1:
		err = headers.CaddyfileHeaderOp(ops, args[0], "", nil)
	case 2:
		err = headers.CaddyfileHeaderOp(ops, args[0], args[1], nil)
	case 3:
		err = headers.CaddyfileHeaderOp(ops, args[0], args[1], &args[2])
	default:
		return o.D.ArgErr()
	}
	if err != nil {
		return o.D.WrapErr(locale.Errorf("%s: header_up: %w", o.Of, err))
	}
	return nil
}

// transportOptions are the options of `transport http` that a proxy directive takes.
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

// TransportOptions are the options of a proxy that go to the HTTP transport.
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
