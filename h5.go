package chinaums

import (
	"bytes"
	"cmp"
	"encoding/json"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-chinaums/caddy-chinaums/internal/fields"
	"github.com/caddy-chinaums/caddy-chinaums/internal/jsontext"
	"github.com/caddy-chinaums/caddy-chinaums/internal/locale"
	"github.com/caddy-chinaums/caddy-chinaums/internal/outbound"
)

func init() {
	caddy.RegisterModule(H5{})
}

// H5 is the handler that makes links for H5 payments, where the buyer's browser is sent to the cashier. The app POSTs
// the order's JSON object to the path that it would call; the answer is `200 {"url":"https://…"}`: the platform's
// address with the order, signed with OPEN-FORM-PARAM. The content is the request's body byte for byte. Nobody is
// called, so the outcome is always `not_sent`.
//
// Whoever has the link can open it, as long as the platform takes its timestamp. It stands only in the answer's body,
// which Caddy never logs; an app that answers the browser with a `Location` through the same Caddy should take the
// signature out of the access log with `format filter`.
//
// The link's signature covers content, not path: it would fit other interfaces too. So content that asks for a refund
// or a completion is refused, however its names are spelled.
//
// It sets the placeholders of `chinaums_guard`.
//
// In a Caddyfile:
//
//	@h5 path /v1/netpay/trade/h5-pay /v1/netpay/wxpay/h5-pay
//	chinaums_h5 @h5 {
//		allow 10.0.0.0/24
//		token {env.GATEWAY_TOKEN}
//	}
//
// In JSON:
//
//	{
//		"handler": "chinaums_h5",
//		"allow": ["10.0.0.0/24"],
//		"token": ["{env.GATEWAY_TOKEN}"]
//	}
type H5 struct {
	// The merchant whose keys sign: a name of the chinaums app, or a placeholder that reaches merchants with `mid`.
	// May be empty where there is exactly one merchant.
	Merchant string `json:"merchant,omitempty"`

	// Who may use the keys, as in `chinaums_guard`. Default: loopback and Unix sockets only.
	Allow []string `json:"allow,omitempty"`

	// Secrets of which the caller must send one as `Authorization: Bearer <token>`, as in `chinaums_guard`. Default: none.
	Token []string `json:"token,omitempty"`

	// The platform's pages that may be linked to. Default: the five of H5 payments.
	Paths []string `json:"paths,omitempty"`

	// The largest order, in bytes. Default: 1 MiB.
	MaxSize int64 `json:"max_size,omitempty"`

	merchant merchantRef
	guard    outbound.Guard
	now      func() time.Time
}

// h5Paths are the pages of H5 payments: Alipay, WeChat, WeChat through a mini program, UnionPay, official account.
var h5Paths = []string{
	"/v1/netpay/trade/h5-pay", "/v1/netpay/wxpay/h5-pay", "/v1/netpay/wxpay/h5-to-minipay", "/v1/netpay/uac/order", "/v1/netpay/webpay/pay",
}

// CaddyModule returns the Caddy module information.
func (H5) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.chinaums_h5",
		New: func() caddy.Module { return new(H5) },
	}
}

// Provision finds the merchant and reads the lists.
func (p *H5) Provision(ctx caddy.Context) error {
	app, err := loadApp(ctx)
	if err != nil {
		return err
	}
	if p.merchant, err = app.merchants.Ref(p.Merchant, needsAppKey); err != nil {
		return locale.Errorf("chinaums_h5: %w", err)
	}
	p.guard = outbound.Guard{Allow: p.Allow, Token: p.Token, Paths: p.Paths, MaxSize: p.MaxSize, Watch: app.watched.Calls()}
	if len(p.guard.Paths) == 0 {
		p.guard.Paths = h5Paths
	}
	if err = p.guard.Provision(ctx, &outward, app.calls, app.flights); err != nil {
		return locale.Errorf("chinaums_h5: %w", err)
	}
	p.now = time.Now
	return nil
}

// Signing returns the guard.
func (p *H5) Signing() *outbound.Guard { return &p.guard }

// ServeHTTP implements caddyhttp.MiddlewareHandler. It answers every request itself.
func (p *H5) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	start := time.Now()
	_, call, refusal := p.guard.Admit(w, r, func() outbound.Account { return account(p.merchant.Resolve(replacer(r))) })
	if refusal == nil {
		refusal = checkLinkContent(call.Body)
	}
	if refusal != nil {
		p.guard.Answer(w, r, call, refusal, start)
		return nil
	}
	link, err := p.link(call.Account.(*merchant), r.URL.Path, call.Body)
	if err != nil {
		return err
	}
	p.guard.Reply(w, r, call, link)
	return nil
}

func (p *H5) link(m *merchant, urlPath string, content []byte) ([]byte, error) {
	address := url.URL{Scheme: m.endpoint.Scheme, Host: m.endpoint.Host, Path: path.Clean(urlPath), RawQuery: m.signer.link(p.now(), newNonce(), content)}
	var answer bytes.Buffer
	encoder := json.NewEncoder(&answer)
	encoder.SetEscapeHTML(false) // so that a person can read the link in a log of the app's
	if err := encoder.Encode(map[string]string{"url": address.String()}); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(answer.Bytes(), []byte{'\n'}), nil
}

// checkLinkContent refuses content that is no JSON object, or that asks for something other than a payment.
func checkLinkContent(content []byte) *outbound.Error {
	var forbidden string
	err := jsontext.Members(content, func(name string, _ json.RawMessage) error {
		forbidden = cmp.Or(forbidden, forbiddenInLink(name))
		return nil
	})
	switch {
	case err != nil || !utf8.Valid(content):
		return outbound.Invalid("not_an_object", fields.Error{Rule: "type", Message: "内容必须是一个 JSON 对象 / the content must be one JSON object"})
	case forbidden != "":
		return outbound.Invalid("not_a_payment", fields.Error{Name: forbidden, Rule: "not",
			Message: "H5 链接中不允许此字段：链接的签名同样适用于其他接口 / this field is not allowed in an H5 link, whose signature would fit other interfaces"})
	}
	return nil
}

// forbiddenInLink returns the forbidden field that a lenient JSON reader would take name for, or "": letter case,
// hyphens and underscores do not count with some of them.
func forbiddenInLink(name string) string {
	bare := strings.NewReplacer("_", "", "-", "", " ", "").Replace(name)
	for _, forbidden := range []string{"refundAmount", "refundOrderId", "completedAmount"} {
		if strings.EqualFold(bare, forbidden) {
			return forbidden
		}
	}
	return ""
}

// Interface guards
var (
	_ caddy.Provisioner           = (*H5)(nil)
	_ caddyhttp.MiddlewareHandler = (*H5)(nil)
)
