package chinaums

import (
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-chinaums/caddy-chinaums/internal/locale"
	"github.com/caddy-chinaums/caddy-chinaums/internal/syntax"
	"github.com/caddy-chinaums/caddy-chinaums/internal/watched"
)

func init() {
	httpcaddyfile.RegisterGlobalOption("chinaums", parseGlobalOption)

	httpcaddyfile.RegisterHandlerDirective("chinaums_notify", parseNotify)
	httpcaddyfile.RegisterHandlerDirective("chinaums_return", parseReturn)
	httpcaddyfile.RegisterHandlerDirective("chinaums_guard", parseGuard)
	httpcaddyfile.RegisterHandlerDirective("chinaums_h5", parseH5)
	httpcaddyfile.RegisterHandlerDirective("chinaums_proxy", parseProxy)

	// A notify must be verified before any handler that reads or answers it (webhook_signature goes before invoke). A call
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
//	    watch {
//	        <options of the watch>
//	    }
//	}
func parseGlobalOption(d *caddyfile.Dispenser, existing any) (any, error) {
	app := new(App)
	return syntax.Accounts(d, existing, "chinaums", "merchant", app, &app.Merchants, (*Merchant).option, checkMerchant, watched.Option(&app.Watch))
}

// option reads the option at the cursor, if a merchant has one of this name.
func (m *Merchant) option(o *syntax.Options) (known bool, err error) {
	switch o.D.Val() {
	case "app_id":
		err = o.One(&m.AppID)
	case "app_key":
		err = o.One(&m.AppKey)
	case "notify_key":
		err = o.List(&m.NotifyKey)
	case "sign_types":
		err = o.List(&m.SignTypes)
	case "mid":
		err = o.List(&m.MID)
	case "environment":
		err = o.One(&m.Environment)
	case "upstream":
		err = o.One(&m.Upstream)
	default:
		return false, nil
	}
	return true, err
}

func checkMerchant(name string, m *Merchant) error {
	if m.Environment != "" && m.Upstream != "" {
		return locale.Errorf("merchant %s: environment and upstream exclude each other; keep one", name)
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
	return syntax.Directive(d, "chinaums_notify", &n.Merchant, func(o *syntax.Options) (known bool, err error) {
		if d.Val() == "confirm" {
			return true, o.Flag(&n.Confirm)
		}
		return o.Notify(&n.Notify)
	}, syntax.NotifyOptions...)
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
	return syntax.Directive(d, "chinaums_return", &p.Merchant, func(o *syntax.Options) (known bool, err error) {
		if d.Val() == "ignore" {
			return true, o.List(&p.Ignore)
		}
		return false, nil
	}, "ignore")
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
	return syntax.Directive(d, "chinaums_guard", &g.Merchant, func(o *syntax.Options) (bool, error) { return o.Guard(&g.Guard) }, syntax.GuardOptions...)
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
	return syntax.Directive(d, "chinaums_h5", &p.Merchant, func(o *syntax.Options) (known bool, err error) {
		switch d.Val() {
		case "allow":
			err = o.List(&p.Allow)
		case "token":
			err = o.List(&p.Token)
		case "paths":
			err = o.List(&p.Paths)
		case "max_size":
			err = o.Size(&p.MaxSize)
		default:
			return false, nil
		}
		return true, err
	}, "allow", "token", "paths", "max_size")
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
	if err := syntax.Argument(d, &t.Merchant); err != nil {
		return err
	}
	o := syntax.Options{D: d, Of: "transport chinaums"}
	var rest []caddyfile.Token
	for d.NextBlock(0) {
		known, err := t.option(&o)
		if err != nil {
			return err
		}
		if !known {
			if err := o.Misspelled("auth"); err != nil {
				return err
			}
			rest = append(rest, d.NextSegment()...)
		}
	}
	return t.HTTPTransport.UnmarshalCaddyfile(syntax.Block(first, rest))
}

// option reads the option at the cursor, if it is one of the transport's own, and refuses what would break a call.
func (t *Transport) option(o *syntax.Options) (known bool, err error) {
	if o.D.Val() == "auth" {
		return true, o.Word(&t.Auth, authBodySig, authAccessToken)
	}
	return o.Compression()
}

// UnmarshalCaddyfile sets up the source from Caddyfile tokens. Syntax:
//
//	dynamic chinaums [<merchant>]
func (u *Upstreams) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the source's name
	if err := syntax.Argument(d, &u.Merchant); err != nil {
		return err
	}
	if d.NextBlock(0) {
		return d.WrapErr(locale.Errorf("dynamic chinaums has no options, so not %q", d.Val()))
	}
	return nil
}

func parseProxy(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	p := new(Proxy)
	return p, p.UnmarshalCaddyfile(h.Dispenser)
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	chinaums_proxy [<matcher>] [<merchant>] {
//	    <options of chinaums_guard>
//	    auth         body_sig|access_token
//	    header_up    [+|-]<field> [<value|regexp> [<replacement>]]
//	    <options of transport http>
//	}
func (p *Proxy) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	if err := syntax.Argument(d, &p.Merchant); err != nil {
		return err
	}
	o := syntax.Options{D: d, Of: "chinaums_proxy"}
	return o.Proxy(&p.Proxy, "chinaums_guard, and reverse_proxy with transport chinaums", func() (known bool, err error) {
		if d.Val() == "auth" {
			return true, o.Word(&p.Auth, authBodySig, authAccessToken)
		}
		return false, nil
	}, "auth")
}

// Interface guards
var (
	_ caddyfile.Unmarshaler = (*Notify)(nil)
	_ caddyfile.Unmarshaler = (*Return)(nil)
	_ caddyfile.Unmarshaler = (*Guard)(nil)
	_ caddyfile.Unmarshaler = (*H5)(nil)
	_ caddyfile.Unmarshaler = (*Proxy)(nil)
	_ caddyfile.Unmarshaler = (*Transport)(nil)
	_ caddyfile.Unmarshaler = (*Upstreams)(nil)
)
