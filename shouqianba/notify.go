package shouqianba

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/internal/inbound"
	"github.com/caddy-chinaums/caddy-chinaums/internal/locale"
	"github.com/caddy-chinaums/caddy-chinaums/internal/normalize"
	"github.com/caddy-chinaums/caddy-chinaums/internal/text"
	"github.com/caddy-chinaums/caddy-chinaums/watch"
)

func init() {
	caddy.RegisterModule(Notify{})
}

// inward is what Shouqianba does differently from the other platforms on the way in.
var inward = inbound.Platform{
	Name:            "shouqianba",
	Success:         "success",
	Failed:          "fail",
	ContentTypes:    []string{"application/json"},
	ContentType:     func([]byte) string { return "application/json" },
	SignatureHeader: "Authorization",
	Trade:           `"sn":"`,
	Channel:         `"trade_no":"`,
	Explain: func(reason string) string {
		switch reason {
		case reasonMissingSignature, reasonSignature, reasonJSON, reasonRepeated, reasonTooMany, reasonForeignTerminal:
			return "caddy shouqianba verify"
		}
		return ""
	},
}

// reasonForeignTerminal is why a true notify is not the terminal's.
const reasonForeignTerminal = "foreign_terminal"

// Notify is the middleware that takes the platform's notifies: it verifies the signature over the raw body, normalizes
// the JSON, sets the event's context in CloudEvents headers, runs the rest of the chain, and answers `success` if the app
// has taken the event, else `fail`, upon which the platform sends it again. The chain's own answer goes no further.
//
// A notify that carries a terminal_sn must carry the terminal's: the platform signs all merchants' notifies with one key.
//
// It sets the placeholders `{http.shouqianba.merchant}` (the terminal's name), `{http.shouqianba.event_id}`,
// `{http.shouqianba.event_type}`, `{http.shouqianba.client_sn}`, `{http.shouqianba.sn}`,
// `{http.shouqianba.terminal_sn}`, `{http.shouqianba.total_amount}`, `{http.shouqianba.status}` (order_status) and, where
// the answer is fail, `{http.shouqianba.reason}`.
//
// In a Caddyfile:
//
//	shouqianba_notify /notify/shouqianba {
//		format json
//		timeout 10s
//		confirm
//	}
//	webhook_signature {env.APP_SECRET}
//	reverse_proxy 127.0.0.1:8903
//
// In JSON:
//
//	{
//		"handler": "shouqianba_notify",
//		"format": "json",
//		"timeout": "10s",
//		"confirm": true
//	}
type Notify struct {
	// The terminal whose public keys verify: a name of the shouqianba app, or a placeholder that reaches terminals that
	// have a key. May be empty where there is exactly one terminal.
	Terminal string `json:"terminal,omitempty"`

	inbound.Notify

	// Ask the platform (query) before believing a notify. One that it contradicts is answered `fail` with 409; one that it
	// does not answer, or that cannot be compared, with 503. The app gets `Ce-Confirmed: true`, or `superseded` where the
	// platform is at a later state of the same order.
	//
	// The platform signs all merchants' notifies with one key. With confirm, a notify of another merchant's order cannot
	// pass for one's own.
	//
	// The platform is asked about one order at most once a minute, and about a terminal's orders at most 5 times a second.
	// What the answer that is known cannot confirm, or for which there is no turn within half of `timeout`, is answered 503;
	// the platform sends it again. The query has `timeout` too; under observe nobody is asked. Default: false.
	Confirm bool `json:"confirm,omitempty"`

	app       *App
	terminal  terminalRef
	rules     *normalize.Rules
	confirmer *confirmer // nil if the platform is not asked
}

// CaddyModule returns the Caddy module information.
func (Notify) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.shouqianba_notify",
		New: func() caddy.Module { return new(Notify) },
	}
}

// Provision finds the terminal and checks the options.
func (n *Notify) Provision(ctx caddy.Context) error {
	var err error
	if n.app, err = loadApp(ctx); err != nil {
		return err
	}
	usable := needsPublicKey
	if n.Confirm {
		usable = needsBothKeys
	}
	if n.terminal, err = n.app.terminals.Ref(n.Terminal, usable); err != nil {
		return locale.Errorf("shouqianba_notify: %w", err)
	}
	if err = n.Notify.Provision(ctx, &inward, n.app.notifies, n.app.flights); err != nil {
		return locale.Errorf("shouqianba_notify: %w", err)
	}
	n.rules = newRules(n.JSON)
	patience := time.Duration(n.Timeout)
	switch {
	case n.Confirm && n.Observe:
		ctx.Logger().Warn("confirm has no effect under observe: nobody is asked", zap.String("option", "confirm"))
	case n.Confirm:
		n.confirmer = confirming
		patience *= 2
	}
	switch {
	case !n.Observe:
		n.app.watched.Notifies(n.Format)
		n.app.watching.also(n.JSON)
	case n.app.watched != nil:
		ctx.Logger().Warn("the watch is not told of notifies under observe: it tells the app of each payment itself", zap.String("option", "observe"))
	}
	n.app.patience = max(n.app.patience, patience)
	return nil
}

// needsBothKeys is what confirm needs.
func needsBothKeys(t *terminal) error {
	if err := needsPublicKey(t); err != nil {
		return err
	}
	return needsKey(t)
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (n *Notify) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	t := n.terminal.Resolve(replacer(r))
	if t == nil {
		return n.Serve(w, r, nil, nil, next)
	}
	return n.Serve(w, r, t, func(content []byte, header http.Header) (*inbound.Event, *inbound.Rejection) {
		return n.verify(t, content, header)
	}, next)
}

// verify verifies a notify as one of t's.
func (n *Notify) verify(t *terminal, content []byte, header http.Header) (*inbound.Event, *inbound.Rejection) {
	signature := ""
	if lines := header["Authorization"]; len(lines) == 1 {
		signature = lines[0]
	} else if len(lines) > 1 {
		return nil, &inbound.Rejection{Status: http.StatusForbidden, Reason: reasonSignature, Detail: errors.New("there is more than one Authorization header")}
	}
	// The signature is over the bytes as they came: what is false is not read.
	if reason := verify(t.publicKeys, signature, content); reason != "" {
		rejected := &inbound.Rejection{Status: http.StatusForbidden, Reason: reason}
		if reason == reasonSignature {
			rejected.Diagnose = func() string { return t.mistake(signature, content, n.app.terminals.All(), false) }
		}
		return nil, rejected
	}
	source := sourceOf(t.name)
	event, err := readEvent(content, n.rules, source)
	if err != nil {
		rejected := &inbound.Rejection{Status: http.StatusBadRequest, Reason: reasonJSON, Detail: err}
		if parse, ok := errors.AsType[*parseError](err); ok {
			rejected.Reason = parse.Reason
		}
		return nil, rejected
	}
	if event.TerminalSN != "" && t.SaysItself() {
		if rejected := n.checkTerminal(t, event.TerminalSN); rejected != nil {
			return nil, event.identify(rejected)
		}
	}
	confirmed := ""
	if n.confirmer != nil {
		var rejected *inbound.Rejection
		if confirmed, rejected = n.confirmer.confirm(t, &event, time.Duration(n.Timeout)); rejected != nil {
			return nil, event.identify(rejected)
		}
	}
	verified := &inbound.Event{
		Context: inbound.Context{
			ID: event.ID, Source: source, Type: event.Type, Subject: event.Subject, Time: event.Time,
			Confirmed: confirmed,
		},
		Data: event.Data, Label: event.Type,
		Word: event.word,
	}
	if n.app.watched != nil && !n.Observe {
		if order, f := n.app.watching.noticed(t.name, &event); order != "" {
			f.Event = &watch.Event{ID: event.ID, Type: event.Type}
			verified.Follow = n.app.watched.Follow(t.name, order, f)
		}
	}
	return verified, nil
}

// checkTerminal holds a notify's terminal_sn against the terminal's own.
func (n *Notify) checkTerminal(t *terminal, sn string) *inbound.Rejection {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(n.Timeout))
	defer cancel()
	switch t.serial(ctx) {
	case sn:
		return nil
	case "":
		return &inbound.Rejection{Status: http.StatusServiceUnavailable, Reason: "not_ready", Detail: errors.New("the terminal's number is not known: it has no key yet")}
	}
	return &inbound.Rejection{Status: http.StatusForbidden, Reason: reasonForeignTerminal}
}

// identify adds to a rejection what helps to find this notify in a log.
func (e *notifyEvent) identify(rejected *inbound.Rejection) *inbound.Rejection {
	for _, word := range []struct{ name, value string }{{"unverified_order", e.Subject}, {"unverified_terminal_sn", e.TerminalSN}} {
		if word.value != "" {
			rejected.Unverified = append(rejected.Unverified, zap.String(word.name, text.ASCII(word.value, text.Limit)))
		}
	}
	return rejected
}

// word returns the event's own placeholders.
func (e *notifyEvent) word(name string) (string, bool) {
	switch name {
	case "client_sn":
		return e.ClientSN, true
	case "sn":
		return e.SN, true
	case "terminal_sn":
		return e.TerminalSN, true
	case "total_amount":
		return e.TotalAmount, true
	case "status":
		return e.OrderStatus, true
	}
	return "", false
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Notify)(nil)
	_ caddyhttp.MiddlewareHandler = (*Notify)(nil)
)
