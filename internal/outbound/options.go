package outbound

import (
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-chinaums/caddy-chinaums/internal/locale"
)

// SetUp refuses the options of a signing transport, and of the reverse_proxy around it, that would repeat, rewrite or
// re-encode a call; sets those that the platforms need; and provisions the HTTP transport. remote names an account whose
// platform is not on this machine, or is empty.
func SetUp(ctx caddy.Context, t *reverseproxy.HTTPTransport, remote string) error {
	// Only the nearest: one further out, in whose handle_response this one stands, does with its own request what it likes.
	for _, module := range slices.Backward(ctx.Modules()) {
		if proxy, ok := module.(*reverseproxy.Handler); ok {
			if err := refuseProxyOptions(proxy); err != nil {
				return err
			}
			break
		}
	}
	return setUp(ctx, t, remote)
}

// setUp is SetUp where there is no reverse_proxy.
func setUp(ctx caddy.Context, t *reverseproxy.HTTPTransport, remote string) error {
	switch {
	case slices.Contains(t.Versions, "3"):
		return locale.Errorf("versions: 3 is not supported, whether a call was sent could not be told")
	case t.Compression != nil && *t.Compression:
		return locale.Errorf("compression must stay off: answers are passed on as they come")
	case t.TLS != nil && t.TLS.InsecureSkipVerify && remote != "":
		return locale.Errorf("%s: tls_insecure_skip_verify is refused except to loopback: anybody on the way could take the calls", remote)
	}
	if len(t.Versions) == 0 {
		t.Versions = []string{"1.1"}
	}
	// The platform's answers pass as they come; and the scheme is each account's, so TLS must be ready.
	off := false
	t.Compression = &off
	if t.TLS == nil {
		t.TLS = new(reverseproxy.TLSConfig)
	}
	return t.Provision(ctx)
}

// refuseProxyOptions looks at the reverse_proxy around the transport.
func refuseProxyOptions(proxy *reverseproxy.Handler) error {
	if proxy.LoadBalancing != nil && len(proxy.LoadBalancing.RetryMatchRaw) > 0 {
		return locale.Errorf("lb_retry_match is refused: it could repeat a payment")
	}
	if proxy.Rewrite != nil {
		if proxy.Rewrite.Method != "" {
			return locale.Errorf("method is refused: a call is a POST")
		}
		return locale.Errorf("rewrite is refused: the guard has judged the path that the app called")
	}
	return nil
}
