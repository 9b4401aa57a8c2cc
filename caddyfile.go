package chinaums

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
	httpcaddyfile.RegisterGlobalOption("chinaums", parseGlobalOption)

	httpcaddyfile.RegisterHandlerDirective("chinaums_notify", parseNotify)
	httpcaddyfile.RegisterHandlerDirective("chinaums_return", parseReturn)
	httpcaddyfile.RegisterHandlerDirective("chinaums_guard", parseGuard)
	httpcaddyfile.RegisterHandlerDirective("chinaums_h5", parseH5)
	httpcaddyfile.RegisterHandlerDirective("chinaums_proxy", parseProxy)

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
			return nil, d.WrapErr(locale.Errorf("reading the chinaums block above: %v", err))
		}
	}
	d.Next() // the option's name
	if d.NextArg() {
		return nil, d.WrapErr(locale.Errorf("chinaums takes a block, not %q", d.Val()))
	}
	for d.NextBlock(0) {
		if d.Val() != "merchant" {
			return nil, d.WrapErr(locale.Errorf("unknown option %q; chinaums has merchant", d.Val()))
		}
		var name string
		if !d.NextArg() {
			return nil, d.WrapErr(locale.Errorf("merchant needs a name"))
		}
		name = d.Val()
		if d.NextArg() {
			return nil, d.WrapErr(locale.Errorf("merchant %s: surplus argument %q", name, d.Val()))
		}
		if err := accounts.CheckName(name); err != nil {
			return nil, d.WrapErr(locale.Errorf("merchant %q: %v", name, err))
		}
		if app.Merchants[name] != nil {
			return nil, d.WrapErr(locale.Errorf("merchant %s: there are two merchants of this name", name))
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
	o := syntax.Options{D: d, Of: "merchant " + name}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		var err error
		switch d.Val() {
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
			err = o.Unknown()
		}
		if err != nil {
			return err
		}
	}
	if m.Environment != "" && m.Upstream != "" {
		return d.WrapErr(locale.Errorf("merchant %s: environment and upstream exclude each other; keep one", name))
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
	if err := syntax.Argument(d, &n.Merchant); err != nil {
		return err
	}
	o := syntax.Options{D: d, Of: "chinaums_notify"}
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
	if err := syntax.Argument(d, &p.Merchant); err != nil {
		return err
	}
	o := syntax.Options{D: d, Of: "chinaums_return"}
	for d.NextBlock(0) {
		var err error
		switch d.Val() {
		case "ignore":
			err = o.List(&p.Ignore)
		default:
			err = o.Unknown()
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
	if err := syntax.Argument(d, &g.Merchant); err != nil {
		return err
	}
	o := syntax.Options{D: d, Of: "chinaums_guard"}
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
	if err := syntax.Argument(d, &p.Merchant); err != nil {
		return err
	}
	o := syntax.Options{D: d, Of: "chinaums_h5"}
	for d.NextBlock(0) {
		var err error
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
	})
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
