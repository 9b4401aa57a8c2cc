package shouqianba

import (
	"encoding/json"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-chinaums/caddy-chinaums/internal/accounts"
	"github.com/caddy-chinaums/caddy-chinaums/internal/locale"
	"github.com/caddy-chinaums/caddy-chinaums/internal/syntax"
)

func init() {
	httpcaddyfile.RegisterGlobalOption("shouqianba", parseGlobalOption)

	httpcaddyfile.RegisterHandlerDirective("shouqianba_notify", parseNotify)
	httpcaddyfile.RegisterHandlerDirective("shouqianba_guard", parseGuard)
	httpcaddyfile.RegisterHandlerDirective("shouqianba_proxy", parseProxy)

	// As the ChinaUMS directives are ordered, and for the same reasons.
	httpcaddyfile.RegisterDirectiveOrder("shouqianba_notify", httpcaddyfile.After, "encode")
	httpcaddyfile.RegisterDirectiveOrder("shouqianba_guard", httpcaddyfile.Before, "metrics")
	httpcaddyfile.RegisterDirectiveOrder("shouqianba_proxy", httpcaddyfile.Before, "metrics")
}

// parseGlobalOption reads the global option. Several blocks merge.
//
//	shouqianba {
//	    terminal <name> {
//	        terminal_sn     <sn>
//	        terminal_key    <key>
//	        # or, instead of these two
//	        vendor_sn       <sn>
//	        vendor_key      <key>
//	        app_id          <id>
//	        device_id       <id>
//	        activation_code <code>
//
//	        public_key      <PEM or file>…
//	        upstream        <scheme://host[:port]>
//	    }
//	}
func parseGlobalOption(d *caddyfile.Dispenser, existing any) (any, error) {
	app := new(App)
	if earlier, ok := existing.(httpcaddyfile.App); ok {
		if err := json.Unmarshal(earlier.Value, app); err != nil {
			return nil, d.WrapErr(locale.Errorf("reading the shouqianba block above: %v", err))
		}
	}
	if app.Terminals == nil {
		app.Terminals = make(map[string]*Terminal)
	}
	d.Next() // the option's name
	if d.NextArg() {
		return nil, d.WrapErr(locale.Errorf("shouqianba takes a block, not %q", d.Val()))
	}
	for d.NextBlock(0) {
		if d.Val() != "terminal" {
			return nil, d.WrapErr(locale.Errorf("unknown option %q; shouqianba has terminal", d.Val()))
		}
		var name string
		if !d.NextArg() {
			return nil, d.WrapErr(locale.Errorf("terminal needs a name"))
		}
		name = d.Val()
		if d.NextArg() {
			return nil, d.WrapErr(locale.Errorf("terminal %s: surplus argument %q", name, d.Val()))
		}
		if err := accounts.CheckName(name); err != nil {
			return nil, d.WrapErr(locale.Errorf("terminal %q: %v", name, err))
		}
		if app.Terminals[name] != nil {
			return nil, d.WrapErr(locale.Errorf("terminal %s: there are two terminals of this name", name))
		}
		terminal := new(Terminal)
		if err := terminal.unmarshal(name, d); err != nil {
			return nil, err
		}
		app.Terminals[name] = terminal
	}
	return httpcaddyfile.App{Name: "shouqianba", Value: caddyconfig.JSON(app, nil)}, nil
}

func (t *Terminal) unmarshal(name string, d *caddyfile.Dispenser) error {
	o := syntax.Options{D: d, Of: "terminal " + name}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		var err error
		switch d.Val() {
		case "terminal_sn":
			err = o.One(&t.TerminalSN)
		case "terminal_key":
			err = o.One(&t.TerminalKey)
		case "vendor_sn":
			err = o.One(&t.VendorSN)
		case "vendor_key":
			err = o.One(&t.VendorKey)
		case "app_id":
			err = o.One(&t.AppID)
		case "device_id":
			err = o.One(&t.DeviceID)
		case "activation_code":
			err = o.One(&t.ActivationCode)
		case "public_key":
			err = o.List(&t.PublicKey)
		case "upstream":
			err = o.One(&t.Upstream)
		default:
			err = o.Unknown()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func parseNotify(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	n := new(Notify)
	return n, n.UnmarshalCaddyfile(h.Dispenser)
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	shouqianba_notify [<matcher>] [<terminal>] {
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
	if err := syntax.Argument(d, &n.Terminal); err != nil {
		return err
	}
	o := syntax.Options{D: d, Of: "shouqianba_notify"}
	for d.NextBlock(0) {
		known, err := o.Notify(&n.Notify)
		if err == nil && !known {
			if d.Val() == "confirm" {
				err = o.Flag(&n.Confirm)
			} else {
				err = o.Unknown()
			}
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
//	shouqianba_guard [<matcher>] [<terminal>] {
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
	if err := syntax.Argument(d, &g.Terminal); err != nil {
		return err
	}
	o := syntax.Options{D: d, Of: "shouqianba_guard"}
	for d.NextBlock(0) {
		known, err := o.Guard(&g.Guard)
		if err == nil && !known {
			err = o.Unknown()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// UnmarshalCaddyfile sets up the transport from Caddyfile tokens. Syntax:
//
//	transport shouqianba [<terminal>] {
//	    <options of transport http>
//	}
func (t *Transport) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the transport's name
	first := d.Token()
	if err := syntax.Argument(d, &t.Terminal); err != nil {
		return err
	}
	o := syntax.Options{D: d, Of: "transport shouqianba"}
	var rest []caddyfile.Token
	for d.NextBlock(0) {
		known, err := o.Compression()
		if err != nil {
			return err
		}
		if !known {
			rest = append(rest, d.NextSegment()...)
		}
	}
	return t.HTTPTransport.UnmarshalCaddyfile(syntax.Block(first, rest))
}

// UnmarshalCaddyfile sets up the source from Caddyfile tokens. Syntax:
//
//	dynamic shouqianba [<terminal>]
func (u *Upstreams) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the source's name
	if err := syntax.Argument(d, &u.Terminal); err != nil {
		return err
	}
	if d.NextBlock(0) {
		return d.WrapErr(locale.Errorf("dynamic shouqianba has no options, so not %q", d.Val()))
	}
	return nil
}

func parseProxy(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	p := new(Proxy)
	return p, p.UnmarshalCaddyfile(h.Dispenser)
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	shouqianba_proxy [<matcher>] [<terminal>] {
//	    <options of shouqianba_guard>
//	    header_up    [+|-]<field> [<value|regexp> [<replacement>]]
//	    <options of transport http>
//	}
func (p *Proxy) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	if err := syntax.Argument(d, &p.Terminal); err != nil {
		return err
	}
	o := syntax.Options{D: d, Of: "shouqianba_proxy"}
	return o.Proxy(&p.Proxy, "shouqianba_guard, and reverse_proxy with transport shouqianba", func() (known bool, err error) { return false, nil })
}

// Interface guards
var (
	_ caddyfile.Unmarshaler = (*Notify)(nil)
	_ caddyfile.Unmarshaler = (*Guard)(nil)
	_ caddyfile.Unmarshaler = (*Proxy)(nil)
	_ caddyfile.Unmarshaler = (*Transport)(nil)
	_ caddyfile.Unmarshaler = (*Upstreams)(nil)
)
