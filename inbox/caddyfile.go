package inbox

import (
	"encoding/json"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-chinaums/caddy-chinaums/internal/accounts"
	"github.com/caddy-chinaums/caddy-chinaums/internal/locale"
	"github.com/caddy-chinaums/caddy-chinaums/internal/syntax"
)

func init() {
	httpcaddyfile.RegisterGlobalOption("inbox", parseGlobalOption)
	httpcaddyfile.RegisterHandlerDirective("inbox", parseHandler)

	// It stands where the app's reverse_proxy would, behind the handlers that make or verify the request.
	httpcaddyfile.RegisterDirectiveOrder("inbox", httpcaddyfile.Before, "reverse_proxy")
}

// parseGlobalOption reads the global option. Several blocks are several inboxes.
//
//	inbox [<name>] {
//	    store     <module> …
//	    max_store <size>
//	    remember  <duration>
//	}
func parseGlobalOption(d *caddyfile.Dispenser, existing any) (any, error) {
	app := &App{Inboxes: make(map[string]*Inbox)}
	if earlier, ok := existing.(httpcaddyfile.App); ok {
		if err := json.Unmarshal(earlier.Value, app); err != nil {
			return nil, d.WrapErr(locale.Errorf("reading the inbox block above: %v", err))
		}
	}
	d.Next() // the option's name
	name := defaultName
	if err := syntax.Argument(d, &name); err != nil {
		return nil, err
	}
	if err := accounts.CheckName(name); err != nil {
		return nil, d.WrapErr(locale.Errorf("inbox %q: %v", name, err))
	}
	if app.Inboxes[name] != nil {
		return nil, d.WrapErr(locale.Errorf("inbox %s: there are two inboxes of this name", name))
	}
	inbox := new(Inbox)
	if err := inbox.unmarshal(name, d); err != nil {
		return nil, err
	}
	app.Inboxes[name] = inbox
	return httpcaddyfile.App{Name: "inbox", Value: caddyconfig.JSON(app, nil)}, nil
}

func (i *Inbox) unmarshal(name string, d *caddyfile.Dispenser) error {
	o := syntax.Options{D: d, Of: "inbox " + name}
	for d.NextBlock(0) {
		var err error
		switch d.Val() {
		case "store":
			err = o.Store("inbox.stores", &i.StoreRaw)
		case "max_store":
			err = o.SizeTo(&i.MaxStore, "1EiB")
		case "remember":
			err = o.Duration(&i.Remember)
		case "id", "retry", "give_up", "timeout", "max_size", "concurrency", "ack", "order_by", "deliver":
			err = d.WrapErr(locale.Errorf("%s: %s belongs into the directive inbox of a site", o.Of, d.Val()))
		default:
			err = o.Unknown("store", "max_store", "remember")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// parseHandler reads the directive. Syntax:
//
//	inbox [<matcher>] [<name>] {
//	    id          <placeholders>
//	    retry       <delay…>
//	    give_up     <duration>
//	    timeout     <duration>
//	    max_size    <size>
//	    concurrency <number>
//	    ack         word|2xx
//	    order_by    <placeholder>
//	    deliver {
//	        <directives…>
//	    }
//	}
func parseHandler(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	d := h.Dispenser
	d.Next() // the directive's name
	handler := new(Handler)
	if err := syntax.Argument(d, &handler.Inbox); err != nil {
		return nil, err
	}
	if handler.Inbox != "" {
		if err := accounts.CheckName(handler.Inbox); err != nil {
			return nil, d.WrapErr(locale.Errorf("inbox %q: %v", handler.Inbox, err))
		}
	}
	o := syntax.Options{D: d, Of: strings.TrimSuffix("inbox "+handler.Inbox, " ")}
	for d.NextBlock(0) {
		var err error
		switch d.Val() {
		case "id":
			err = o.One(&handler.ID)
		case "retry":
			err = o.Durations(&handler.Retry)
		case "give_up":
			err = o.Duration(&handler.GiveUp)
		case "timeout":
			err = o.Duration(&handler.Timeout)
		case "max_size":
			err = o.Size(&handler.MaxSize)
		case "concurrency":
			err = o.Number(&handler.Concurrency)
		case "ack":
			err = o.Word(&handler.Ack, "word", "2xx")
		case "order_by":
			err = o.One(&handler.OrderBy)
		case "deliver":
			if handler.DeliverRaw != nil {
				return nil, d.WrapErr(locale.Errorf("%s: deliver is given twice", o.Of))
			}
			handler.DeliverRaw, err = parseDeliver(h, &o)
		case "store", "max_store", "remember":
			err = d.WrapErr(locale.Errorf("%s: %s belongs into the global option inbox, at the head of the Caddyfile", o.Of, d.Val()))
		default:
			err = o.Unknown("id", "retry", "give_up", "timeout", "max_size", "concurrency", "ack", "order_by", "deliver")
		}
		if err != nil {
			return nil, err
		}
	}
	if handler.DeliverRaw == nil {
		return nil, d.WrapErr(locale.Errorf("%s: deliver is missing, a block with what takes the messages to the app, such as reverse_proxy", o.Of))
	}
	return handler, nil
}

// parseDeliver reads the block of directives that deliver, which is like that of handle: with the site's matchers and its
// own, and in the usual order.
func parseDeliver(h httpcaddyfile.Helper, o *syntax.Options) (json.RawMessage, error) {
	segment := o.D.NewFromNextSegment()
	segment.Next() // deliver
	if segment.NextArg() {
		return nil, segment.WrapErr(locale.Errorf("%s: deliver takes a block, not %q", o.Of, segment.Val()))
	}
	segment.Reset()
	handler, err := httpcaddyfile.ParseSegmentAsSubroute(h.WithDispenser(segment))
	if err != nil {
		return nil, err
	}
	subroute, ok := handler.(*caddyhttp.Subroute)
	if !ok || len(subroute.Routes) == 0 {
		return nil, o.D.WrapErr(locale.Errorf("%s: deliver is empty; it needs what takes the messages to the app, such as reverse_proxy", o.Of))
	}
	return caddyconfig.JSONModuleObject(subroute, "handler", "subroute", nil), nil
}
