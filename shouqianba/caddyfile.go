package shouqianba

import (
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-chinaums/caddy-chinaums/internal/locale"
	"github.com/caddy-chinaums/caddy-chinaums/internal/syntax"
	"github.com/caddy-chinaums/caddy-chinaums/internal/watched"
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
//	    watch {
//	        <options of the watch>
//	    }
//	}
func parseGlobalOption(d *caddyfile.Dispenser, existing any) (any, error) {
	app := new(App)
	return syntax.Accounts(d, existing, "shouqianba", "terminal", app, &app.Terminals, (*Terminal).option, nil, watched.Option(&app.Watch))
}

// option reads the option at the cursor, if a terminal has one of this name.
func (t *Terminal) option(o *syntax.Options) (known bool, err error) {
	switch o.D.Val() {
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
		return false, nil
	}
	return true, err
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
	return syntax.Directive(d, "shouqianba_notify", &n.Terminal, func(o *syntax.Options) (known bool, err error) {
		if d.Val() == "confirm" {
			return true, o.Flag(&n.Confirm)
		}
		return o.Notify(&n.Notify)
	}, syntax.NotifyOptions...)
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
	return syntax.Directive(d, "shouqianba_guard", &g.Terminal, func(o *syntax.Options) (bool, error) { return o.Guard(&g.Guard) }, syntax.GuardOptions...)
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
			if err := o.Misspelled(); err != nil {
				return err
			}
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
