package chinaums

import (
	"encoding/json"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/dustin/go-humanize"

	"github.com/caddy-chinaums/caddy-chinaums/internal/inbound"
)

func init() {
	httpcaddyfile.RegisterGlobalOption("chinaums", parseGlobalOption)

	httpcaddyfile.RegisterHandlerDirective("chinaums_notify", parseNotify)
	httpcaddyfile.RegisterHandlerDirective("chinaums_return", parseReturn)
	httpcaddyfile.RegisterHandlerDirective("chinaums_guard", parseGuard)
	httpcaddyfile.RegisterHandlerDirective("chinaums_h5", parseH5)
	httpcaddyfile.RegisterDirective("chinaums_proxy", parseProxy)

	// A notify must be judged before any handler that reads or answers it (webhook_signature goes before invoke). A call
	// is guarded and proxied where reverse_proxy would be, so that handle, route and respond come first as they do
	// there; before metrics, because what others order before reverse_proxy must not get between guard and proxy.
	httpcaddyfile.RegisterDirectiveOrder("chinaums_notify", httpcaddyfile.After, "encode")
	httpcaddyfile.RegisterDirectiveOrder("chinaums_return", httpcaddyfile.After, "encode")
	httpcaddyfile.RegisterDirectiveOrder("chinaums_guard", httpcaddyfile.Before, "metrics")
	httpcaddyfile.RegisterDirectiveOrder("chinaums_h5", httpcaddyfile.Before, "metrics")
	httpcaddyfile.RegisterDirectiveOrder("chinaums_proxy", httpcaddyfile.Before, "metrics")
}

// parseGlobalOption reads the global option. Several blocks merge.
//
//	chinaums {
//	    merchant <name> {
//	        app_id      <id>
//	        app_key     <key>
//	        notify_key  <key> [<previous key>…]
//	        sign_types  sha256 md5
//	        mid         <mid…>
//	        environment production|test
//	        upstream    <scheme://host[:port]>
//	    }
//	}
func parseGlobalOption(d *caddyfile.Dispenser, existing any) (any, error) {
	app := &App{Merchants: make(map[string]*Merchant)}
	if earlier, ok := existing.(httpcaddyfile.App); ok {
		if err := json.Unmarshal(earlier.Value, app); err != nil {
			return nil, d.Errf("reading the chinaums block above: %v", err)
		}
	}
	d.Next() // the option's name
	if d.NextArg() {
		return nil, d.Errf("chinaums takes a block, not %q", d.Val())
	}
	for d.NextBlock(0) {
		if d.Val() != "merchant" {
			return nil, d.Errf("unknown option %q; chinaums has merchant", d.Val())
		}
		var name string
		if !d.NextArg() {
			return nil, d.Err("merchant needs a name")
		}
		name = d.Val()
		if d.NextArg() {
			return nil, d.Errf("merchant %s: surplus argument %q", name, d.Val())
		}
		if !merchantName.MatchString(name) {
			return nil, d.Errf("merchant %q: a name consists of letters, digits, '.', '_' and '-' and begins with a letter or digit", name)
		}
		if app.Merchants[name] != nil {
			return nil, d.Errf("merchant %s: there are two merchants of this name", name)
		}
		merchant := new(Merchant)
		if err := merchant.unmarshal(name, d); err != nil {
			return nil, err
		}
		app.Merchants[name] = merchant
	}
	return httpcaddyfile.App{Name: "chinaums", Value: caddyconfig.JSON(app, nil)}, nil
}

func (m *Merchant) unmarshal(name string, d *caddyfile.Dispenser) error {
	o := options{d: d, of: "merchant " + name}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		var err error
		switch d.Val() {
		case "app_id":
			err = o.one(&m.AppID)
		case "app_key":
			err = o.one(&m.AppKey)
		case "notify_key":
			err = o.list(&m.NotifyKey)
		case "sign_types":
			err = o.list(&m.SignTypes)
		case "mid":
			err = o.list(&m.MID)
		case "environment":
			err = o.one(&m.Environment)
		case "upstream":
			err = o.one(&m.Upstream)
		default:
			err = o.unknown()
		}
		if err != nil {
			return err
		}
	}
	if m.Environment != "" && m.Upstream != "" {
		return d.Errf("merchant %s: environment and upstream exclude each other; keep one", name)
	}
	return nil
}

func parseNotify(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	n := new(Notify)
	return n, n.UnmarshalCaddyfile(h.Dispenser)
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	chinaums_notify [<matcher>] [<merchant>] {
//	    format   json|cloudevents|original
//	    ack      word|2xx
//	    json     <name…>
//	    max_size <size>
//	    timeout  <duration>
//	    confirm
//	    observe
//	}
func (n *Notify) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	if err := merchantArgument(d, &n.Merchant); err != nil {
		return err
	}
	o := options{d: d, of: "chinaums_notify"}
	for d.NextBlock(0) {
		var err error
		switch d.Val() {
		case "format":
			err = o.word(&n.Format, inbound.FormatJSON, inbound.FormatCloudEvents, inbound.FormatOriginal)
		case "ack":
			err = o.word(&n.Ack, "word", "2xx")
		case "json":
			err = o.list(&n.JSON)
		case "max_size":
			err = o.size(&n.MaxSize)
		case "timeout":
			err = o.duration(&n.Timeout)
		case "confirm":
			err = o.flag(&n.Confirm)
		case "observe":
			err = o.flag(&n.Observe)
		default:
			err = o.unknown()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func parseReturn(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	p := new(Return)
	return p, p.UnmarshalCaddyfile(h.Dispenser)
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	chinaums_return [<matcher>] [<merchant>] {
//	    ignore <name…>
//	}
func (p *Return) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	if err := merchantArgument(d, &p.Merchant); err != nil {
		return err
	}
	o := options{d: d, of: "chinaums_return"}
	for d.NextBlock(0) {
		var err error
		switch d.Val() {
		case "ignore":
			err = o.list(&p.Ignore)
		default:
			err = o.unknown()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func parseGuard(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	g := new(Guard)
	return g, g.UnmarshalCaddyfile(h.Dispenser)
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	chinaums_guard [<matcher>] [<merchant>] {
//	    allow        <cidr…>|private_ranges|all
//	    token        <key> [<previous>…]
//	    paths        <path…>
//	    max_size     <size>
//	    max_response <size>
//	    timeout      <duration>
//	    validate     off|warn|reject
//	}
func (g *Guard) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	if err := merchantArgument(d, &g.Merchant); err != nil {
		return err
	}
	o := options{d: d, of: "chinaums_guard"}
	for d.NextBlock(0) {
		known, err := g.option(&o)
		if err == nil && !known {
			err = o.unknown()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// option reads the option at the cursor, if it is one of the guard's.
func (g *Guard) option(o *options) (known bool, err error) {
	switch o.d.Val() {
	case "allow":
		err = o.list(&g.Allow)
	case "token":
		err = o.list(&g.Token)
	case "paths":
		err = o.list(&g.Paths)
	case "max_size":
		err = o.size(&g.MaxSize)
	case "max_response":
		err = o.size(&g.MaxResponse)
	case "timeout":
		err = o.duration(&g.Timeout)
	case "validate":
		err = o.word(&g.Validate, "off", "warn", "reject")
	default:
		return false, nil
	}
	return true, err
}

func parseH5(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	p := new(H5)
	return p, p.UnmarshalCaddyfile(h.Dispenser)
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	chinaums_h5 [<matcher>] [<merchant>] {
//	    allow    <cidr…>|private_ranges|all
//	    token    <key> [<previous>…]
//	    paths    <path…>
//	    max_size <size>
//	}
func (p *H5) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	if err := merchantArgument(d, &p.Merchant); err != nil {
		return err
	}
	o := options{d: d, of: "chinaums_h5"}
	for d.NextBlock(0) {
		var err error
		switch d.Val() {
		case "allow":
			err = o.list(&p.Allow)
		case "token":
			err = o.list(&p.Token)
		case "paths":
			err = o.list(&p.Paths)
		case "max_size":
			err = o.size(&p.MaxSize)
		default:
			err = o.unknown()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// UnmarshalCaddyfile sets up the transport from Caddyfile tokens. Syntax:
//
//	transport chinaums [<merchant>] {
//	    auth body_sig|access_token
//	    <options of transport http>
//	}
func (t *Transport) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the transport's name
	first := d.Token()
	if err := merchantArgument(d, &t.Merchant); err != nil {
		return err
	}
	o := options{d: d, of: "transport chinaums"}
	var rest []caddyfile.Token
	for d.NextBlock(0) {
		known, err := t.option(&o)
		if err != nil {
			return err
		}
		if !known {
			rest = append(rest, d.NextSegment()...)
		}
	}
	return t.HTTPTransport.UnmarshalCaddyfile(block(first, rest))
}

// option reads the option at the cursor, if it is one of the transport's own, and refuses what would break a call.
func (t *Transport) option(o *options) (known bool, err error) {
	switch o.d.Val() {
	case "auth":
		return true, o.word(&t.Auth, authBodySig, authAccessToken)
	case "compression":
		// The HTTP transport's parser takes any word here for "on".
		var word string
		return true, o.word(&word, "off")
	}
	return false, nil
}

// UnmarshalCaddyfile sets up the source from Caddyfile tokens. Syntax:
//
//	dynamic chinaums [<merchant>]
func (u *Upstreams) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the source's name
	if err := merchantArgument(d, &u.Merchant); err != nil {
		return err
	}
	if d.NextBlock(0) {
		return d.Errf("dynamic chinaums has no options, so not %q", d.Val())
	}
	return nil
}

// parseProxy reads the chinaums_proxy shortcut, which takes the options of chinaums_guard, of transport chinaums and of
// reverse_proxy:
//
//	chinaums_proxy [<matcher>] [<merchant>] {
//	    <options of chinaums_guard>
//	    auth body_sig
//	    <options of transport http and of reverse_proxy>
//	}
//
// It is short for
//
//	chinaums_guard [<matcher>] [<merchant>] {
//	    <options of chinaums_guard>
//	}
//	reverse_proxy [<matcher>] {
//	    dynamic   chinaums [<merchant>]
//	    transport chinaums [<merchant>] {
//	        auth body_sig
//	        <options of transport http>
//	    }
//	    <options of reverse_proxy>
//	}
func parseProxy(h httpcaddyfile.Helper) ([]httpcaddyfile.ConfigValue, error) {
	h.Next() // the directive's name
	first := h.Token()
	matchers, err := h.ExtractMatcherSet()
	if err != nil {
		return nil, err
	}
	d := h.Dispenser
	d.Next() // the directive's name again: ExtractMatcherSet goes back to the beginning

	guard, transport, proxy := new(Guard), new(Transport), new(reverseproxy.Handler)
	if err := merchantArgument(d, &guard.Merchant); err != nil {
		return nil, err
	}
	transport.Merchant = guard.Merchant

	o := options{d: d, of: "chinaums_proxy"}
	var transportTokens, proxyTokens []caddyfile.Token
	for d.NextBlock(0) {
		known, err := guard.option(&o)
		if !known && err == nil {
			known, err = transport.option(&o)
		}
		switch {
		case err != nil:
			return nil, err
		case known:
		case refusedInShortcut(d.Val()):
			return nil, d.Errf("chinaums_proxy: %s is refused here: it could send a call elsewhere, again or changed", d.Val())
		case transportOptions[d.Val()]:
			transportTokens = append(transportTokens, d.NextSegment()...)
		default:
			proxyTokens = append(proxyTokens, d.NextSegment()...)
		}
	}
	if err := transport.HTTPTransport.UnmarshalCaddyfile(block(first, transportTokens)); err != nil {
		return nil, err
	}
	if err := proxy.UnmarshalCaddyfile(block(first, proxyTokens)); err != nil {
		return nil, err
	}
	if err := proxy.FinalizeUnmarshalCaddyfile(h); err != nil {
		return nil, err
	}
	// Only now: what UnmarshalCaddyfile finds it may overwrite.
	proxy.TransportRaw = caddyconfig.JSONModuleObject(transport, "protocol", "chinaums", nil)
	proxy.DynamicUpstreamsRaw = caddyconfig.JSONModuleObject(&Upstreams{Merchant: guard.Merchant}, "source", "chinaums", nil)

	route := caddyhttp.Route{HandlersRaw: []json.RawMessage{
		caddyconfig.JSONModuleObject(guard, "handler", "chinaums_guard", nil),
		caddyconfig.JSONModuleObject(proxy, "handler", "reverse_proxy", nil),
	}}
	if matchers != nil {
		route.MatcherSetsRaw = caddyhttp.RawMatcherSets{matchers}
	}
	return []httpcaddyfile.ConfigValue{{Class: "route", Value: route}}, nil
}

func refusedInShortcut(option string) bool {
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

// block makes a dispenser of a block with the given lines, as if it stood where first does.
func block(first caddyfile.Token, lines []caddyfile.Token) *caddyfile.Dispenser {
	if first.Quoted() {
		// Its copies would be no braces.
		first = caddyfile.Token{File: first.File, Line: first.Line, Text: first.Text}
	}
	tokens := []caddyfile.Token{first}
	if len(lines) > 0 {
		last := lines[len(lines)-1]
		open, end := first, first
		open.Text, end.Text = "{", "}"
		// A quoted token may go over several lines.
		end.File, end.Line = last.File, last.Line+last.NumLineBreaks()+1
		tokens = append(append(append(tokens, open), lines...), end)
	}
	return caddyfile.NewDispenser(tokens)
}

// merchantArgument reads the one argument that most directives take.
func merchantArgument(d *caddyfile.Dispenser, merchant *string) error {
	name := d.Val()
	if d.NextArg() {
		*merchant = d.Val()
	}
	if d.NextArg() {
		return d.Errf("%s: surplus argument %q", name, d.Val())
	}
	return nil
}

// options reads the options of one block, each at most once.
type options struct {
	d    *caddyfile.Dispenser
	of   string // for messages
	seen map[string]bool
}

func (o *options) once() error {
	name := o.d.Val()
	if o.seen[name] {
		return o.d.Errf("%s: %s is given twice", o.of, name)
	}
	if o.seen == nil {
		o.seen = make(map[string]bool)
	}
	o.seen[name] = true
	return nil
}

func (o *options) list(target *[]string) error {
	if err := o.once(); err != nil {
		return err
	}
	name := o.d.Val()
	*target = o.d.RemainingArgs()
	if len(*target) == 0 {
		return o.d.Errf("%s: %s needs a value", o.of, name)
	}
	for _, value := range *target {
		if value == "" {
			return o.d.Errf("%s: %s is empty", o.of, name)
		}
	}
	return nil
}

func (o *options) one(target *string) error {
	name := o.d.Val()
	var values []string
	if err := o.list(&values); err != nil {
		return err
	}
	if len(values) > 1 {
		// They are not shown: one may be a key.
		return o.d.Errf("%s: %s takes one value, not %d", o.of, name, len(values))
	}
	*target = values[0]
	return nil
}

func (o *options) word(target *string, words ...string) error {
	name := o.d.Val()
	if err := o.one(target); err != nil {
		return err
	}
	for _, word := range words {
		if *target == word {
			return nil
		}
	}
	return o.d.Errf("%s: %s: %q is not one of: %s", o.of, name, *target, strings.Join(words, ", "))
}

func (o *options) size(target *int64) error {
	name := o.d.Val()
	var text string
	if err := o.one(&text); err != nil {
		return err
	}
	size, err := humanize.ParseBytes(text)
	if err != nil || size == 0 || size > 1<<30 {
		return o.d.Errf("%s: %s: %q is not a size between 1 byte and 1GiB", o.of, name, text)
	}
	*target = int64(size)
	return nil
}

func (o *options) duration(target *caddy.Duration) error {
	name := o.d.Val()
	var text string
	if err := o.one(&text); err != nil {
		return err
	}
	duration, err := caddy.ParseDuration(text)
	if err != nil || duration <= 0 {
		return o.d.Errf("%s: %s: %q is not a positive duration such as 10s", o.of, name, text)
	}
	*target = caddy.Duration(duration)
	return nil
}

func (o *options) flag(target *bool) error {
	if err := o.once(); err != nil {
		return err
	}
	if o.d.NextArg() {
		return o.d.Errf("%s: surplus argument %q", o.of, o.d.Val())
	}
	*target = true
	return nil
}

func (o *options) unknown() error {
	return o.d.Errf("%s: unknown option %q", o.of, o.d.Val())
}

// Interface guards
var (
	_ caddyfile.Unmarshaler = (*Notify)(nil)
	_ caddyfile.Unmarshaler = (*Return)(nil)
	_ caddyfile.Unmarshaler = (*Guard)(nil)
	_ caddyfile.Unmarshaler = (*H5)(nil)
	_ caddyfile.Unmarshaler = (*Transport)(nil)
	_ caddyfile.Unmarshaler = (*Upstreams)(nil)
)
