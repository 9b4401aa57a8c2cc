package webhook

import (
	"math"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/dustin/go-humanize"
)

func init() {
	httpcaddyfile.RegisterHandlerDirective("webhook_signature", parseCaddyfile)

	// After everything that creates or changes the request (a notify handler comes
	// after encode), and before everything that may answer it. "Before
	// reverse_proxy" would not do: its position relative to other plugins' handlers
	// would depend on the order of initialization, and route and handle blocks would
	// come first.
	httpcaddyfile.RegisterDirectiveOrder("webhook_signature", httpcaddyfile.Before, "invoke")
}

func parseCaddyfile(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	handler := new(Handler)
	if err := handler.UnmarshalCaddyfile(h.Dispenser); err != nil {
		return nil, err
	}
	return handler, nil
}

// UnmarshalCaddyfile sets up the handler from
//
//	webhook_signature [<matcher>] <secret> [<previous>...] {
//		max_size <size>
//	}
//
// No error shows a secret; so d.ArgErr is not used. A first argument that begins
// with / or @ is read as a matcher, so such a secret needs a placeholder, or the
// matcher * in front of it.
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // directive name
	h.Secrets = d.RemainingArgs()
	if len(h.Secrets) == 0 {
		return d.Err("webhook_signature needs a secret (a first argument that begins with / or @ is a matcher)")
	}
	for d.NextBlock(0) {
		switch option := d.Val(); option {
		case "max_size":
			if h.MaxSize != 0 {
				return d.Err("webhook_signature: max_size is repeated")
			}
			args := d.RemainingArgs()
			if len(args) != 1 {
				return d.Errf("webhook_signature: max_size takes one size, not %d", len(args))
			}
			size, err := humanize.ParseBytes(args[0])
			if err != nil || size == 0 || size > math.MaxInt64 {
				return d.Errf("webhook_signature: max_size must be a positive size such as 1MiB, not %.64q", args[0])
			}
			h.MaxSize = int64(size)
		default:
			return d.Errf("webhook_signature: unknown option %.64q; there is max_size", option)
		}
		if d.NextArg() {
			return d.Errf("webhook_signature: surplus argument %.64q", d.Val())
		}
	}
	return nil
}

// Interface guard
var _ caddyfile.Unmarshaler = (*Handler)(nil)
