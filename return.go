package chinaums

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/internal/body"
	"github.com/caddy-chinaums/caddy-chinaums/internal/inbound"
	"github.com/caddy-chinaums/caddy-chinaums/internal/locale"
	"github.com/caddy-chinaums/caddy-chinaums/internal/ratelog"
	"github.com/caddy-chinaums/caddy-chinaums/internal/text"
)

func init() {
	caddy.RegisterModule(Return{})
}

// maxReturnQuery bounds the query of a return page, as max_size does a notify.
const maxReturnQuery = 64 << 10

// bodyPatience is how long the rest of a body that nobody wants may keep its connection.
const bodyPatience = 10 * time.Second

// Return is the middleware in front of the page that the platform sends the buyer's browser back to (returnUrl). It
// verifies the signed query over the bytes as they came, by all the rules of a notify. A true one goes on to the rest of
// the chain, query and all, with the placeholders of a notify set. A header keeps the browser from sending a referrer, which would hand
// the query on. A false one is a 403 error, which `handle_errors` may dress.
//
// Caddy's access log would hold the query, so the handler writes the entry itself, without it. What log_append adds is not
// in that entry.
//
// A body does not go on: nobody has verified it.
//
// The query is shown by the buyer's own browser, as often as the buyer likes: a return page never marks an order paid.
//
// In a Caddyfile:
//
//	chinaums_return /thanks {
//		ignore lang
//	}
//	reverse_proxy 127.0.0.1:8903
//
// In JSON:
//
//	{
//		"handler": "chinaums_return",
//		"ignore": ["lang"]
//	}
type Return struct {
	// The merchant whose notify keys verify: a name of the chinaums app, or a placeholder that reaches merchants with
	// `mid`. May be empty where there is exactly one merchant.
	Merchant string `json:"merchant,omitempty"`

	// Parameters of the merchant's own, which stand in the returnUrl and are not signed. They cannot be those that
	// decide about money.
	Ignore []string `json:"ignore,omitempty"`

	merchant merchantRef
	app      *App
	logger   *zap.Logger
	access   *zap.Logger
	ignore   map[string]bool
	refusals *ratelog.Limiter
}

// CaddyModule returns the Caddy module information.
func (Return) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.chinaums_return",
		New: func() caddy.Module { return new(Return) },
	}
}

// Provision finds the merchant and checks the names.
func (p *Return) Provision(ctx caddy.Context) error {
	p.logger, p.access, p.refusals = ctx.Logger(), inbound.AccessLogger(ctx), ratelog.New(10)
	var err error
	if p.app, err = loadApp(ctx); err != nil {
		return err
	}
	if p.merchant, err = p.app.merchants.Ref(p.Merchant, needsNotifyKey); err != nil {
		return locale.Errorf("chinaums_return: %w", err)
	}
	p.ignore = make(map[string]bool, len(p.Ignore))
	for _, name := range p.Ignore {
		if name == "" {
			return locale.Errorf("chinaums_return: ignore: a name is empty")
		}
		if decidingNumber(name) >= 0 {
			return locale.Errorf("chinaums_return: ignore: %s decides about money; without its signature anybody could write it", name)
		}
		p.ignore[name] = true
	}
	return nil
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (p *Return) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	writeAccess := inbound.HideQuery(p.access, w, r)
	dropBody(w, r)
	page := inbound.NewPage(w)
	m, event, rejected := p.verify(r)
	fields := make([]zap.Field, 0, 3)
	if m != nil {
		fields = append(fields, zap.String("merchant", m.name))
	}
	var err error
	defer func() { // also where the page breaks off, which is a panic
		if err != nil && page.Status == 0 {
			page.Status = inbound.ErrorStatus(err)
		}
		writeAccess(page.Status, page.Size, page.Header(), fields...)
	}()
	if rejected == nil {
		event.Placeholders(r, "chinaums", m)
		fields = append(fields, zap.String("order", event.Subject))
		err = next.ServeHTTP(page, r)
	} else {
		if rejected.Status == http.StatusMethodNotAllowed {
			page.Header().Set("Allow", "GET, HEAD")
		}
		err = p.reject(r, m, rejected)
		fields = append(fields, zap.String("reason", rejected.Reason))
	}
	if extra, ok := r.Context().Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
		for _, field := range fields {
			extra.Add(field)
		}
	}
	if status := inbound.ErrorStatus(err); err != nil && page.Status == 0 && status >= http.StatusInternalServerError && !inbound.HandlesErrors(r) {
		// Caddy would answer just so, but also log the request, query and all.
		p.logger.Error("return page failed", append([]zap.Field{
			zap.Int("status", status), zap.String("path", text.ASCII(r.URL.Path, text.Limit)), zap.Error(err),
		}, fields...)...)
		page.WriteHeader(status)
		return nil
	}
	return err
}

// dropBody takes off the body, which a browser's request for a page has not and nobody verifies. What closed it half read,
// as a reverse_proxy may, would leave the rest to be read as the next request.
func dropBody(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength == 0 {
		return
	}
	body.AnswerEarly(w, r, bodyPatience)
	body.Set(r, nil)
	for _, name := range []string{"Content-Length", "Transfer-Encoding", "Trailer", "Expect"} {
		r.Header.Del(name)
	}
}

// verify returns the merchant and the event of a request, or why it is not believed.
func (p *Return) verify(r *http.Request) (*merchant, *inbound.Event, *inbound.Rejection) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return nil, nil, &inbound.Rejection{Status: http.StatusMethodNotAllowed, Reason: "method"}
	}
	m := p.merchant.Resolve(replacer(r))
	if m == nil {
		return nil, nil, &inbound.Rejection{Status: http.StatusNotFound, Reason: "no_merchant"}
	}
	fields := acquireFields()
	defer fields.release()
	if rejected := p.verifyQuery(m, fields, r.URL.RawQuery); rejected != nil {
		return m, nil, rejected
	}
	event := fields.event(nil, m.source())
	return m, &inbound.Event{Context: inbound.Context{ID: event.ID, Type: event.Type, Subject: event.Subject}, Word: event.word}, nil
}

// verifyQuery says why a query is not a true one of m, or nil. A false query is forbidden, whatever is wrong with it.
func (p *Return) verifyQuery(m *merchant, fields *notifyFields, query string) *inbound.Rejection {
	if len(query) > maxReturnQuery {
		return &inbound.Rejection{Status: http.StatusForbidden, Reason: "too_large"}
	}
	if err := fields.parseForm(p.signed(query)); err != nil {
		return &inbound.Rejection{Status: http.StatusForbidden, Reason: parseReason(err), Detail: err}
	}
	return m.verifyFields(fields)
}

// signed returns the query without the parameters that are not the platform's. What remains stays as it came.
func (p *Return) signed(query string) []byte {
	signed := make([]byte, 0, len(query))
	for pair := range strings.SplitSeq(query, "&") {
		name, _, _ := strings.Cut(pair, "=")
		if decoded, err := url.QueryUnescape(name); err == nil && p.ignore[decoded] {
			continue
		}
		if len(signed) > 0 {
			signed = append(signed, '&')
		}
		signed = append(signed, pair...)
	}
	return signed
}

// reject logs a query that is not believed, without a byte of it, and makes the error.
func (p *Return) reject(r *http.Request, m *merchant, rejected *inbound.Rejection) error {
	name := ""
	if m != nil {
		name = m.name
	}
	if repl := replacer(r); repl != nil {
		repl.Set("http.chinaums.merchant", name)
		repl.Set("http.chinaums.reason", rejected.Reason)
	}
	if suppressed, ok := p.refusals.Allow(rejected.Reason); ok {
		fields := []zap.Field{
			zap.String("merchant", name), zap.String("reason", rejected.Reason), zap.Int("status", rejected.Status),
			zap.String("path", text.ASCII(r.URL.Path, text.Limit)), zap.String("remote", r.RemoteAddr), zap.Int("suppressed", suppressed),
		}
		if paths := p.app.notifyPaths.Load(); r.Method == http.MethodPost && paths != nil && len(*paths) > 0 {
			fields = append(fields, zap.String("hint", "this may be one of the platform's notifies; they are taken elsewhere: correct the notifyUrl"),
				zap.Strings("notify_paths", *paths))
		}
		p.logger.Warn("return page refused", fields...)
	}
	return caddyhttp.Error(rejected.Status, fmt.Errorf("chinaums_return: %s", rejected.Reason))
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Return)(nil)
	_ caddyhttp.MiddlewareHandler = (*Return)(nil)
)
