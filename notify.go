package chinaums

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"time"
	"unicode"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/internal/inbound"
	"github.com/caddy-chinaums/caddy-chinaums/internal/jsontext"
	"github.com/caddy-chinaums/caddy-chinaums/internal/locale"
	"github.com/caddy-chinaums/caddy-chinaums/internal/normalize"
	"github.com/caddy-chinaums/caddy-chinaums/internal/text"
	"github.com/caddy-chinaums/caddy-chinaums/watch"
)

func init() {
	caddy.RegisterModule(Notify{})
}

// inward is what ChinaUMS does differently from the other platforms on the way in. The words are those of checklist
// NOTI-03.
var inward = inbound.Platform{
	Name:         "chinaums",
	Success:      "SUCCESS",
	Failed:       "FAILED",
	ContentTypes: []string{"application/x-www-form-urlencoded", "application/json"},
	ContentType: func(content []byte) string {
		if isJSONObject(content) {
			return "application/json"
		}
		return "application/x-www-form-urlencoded"
	},
	Explain: func(reason string) string {
		if _, ok := doctorTexts["reason_"+reason]; ok {
			return "caddy chinaums verify"
		}
		return ""
	},
	Trade: `"seqId":"`, Channel: `"targetOrderId":"`,
}

// Notify is the middleware that takes the platform's notifies: it verifies the signature, replaces the form by
// normalized JSON with the event's context in CloudEvents headers, runs the rest of the chain, and answers `SUCCESS` if
// the app has taken the event, else `FAILED`, upon which the platform sends it again. The chain's own answer goes no
// further.
//
// It sets the placeholders `{http.chinaums.merchant}`, `{http.chinaums.event_id}`, `{http.chinaums.event_type}`,
// `{http.chinaums.mer_order_id}`, `{http.chinaums.total_amount}`, `{http.chinaums.status}` and, where the answer is
// FAILED, `{http.chinaums.reason}`.
//
// In a Caddyfile:
//
//	chinaums_notify /notify {
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
//		"handler": "chinaums_notify",
//		"format": "json",
//		"timeout": "10s",
//		"confirm": true
//	}
type Notify struct {
	// The merchant whose notify keys verify: a name of the chinaums app, or a placeholder that reaches merchants with
	// `mid`. May be empty where there is exactly one merchant.
	Merchant string `json:"merchant,omitempty"`

	inbound.Notify

	// Ask the platform (query) with the merchant's app_id and app_key before believing a notify, and compare order,
	// status, amount, and whatever else makes the event's type and id. What the platform contradicts is answered FAILED
	// with 409; what it does not answer, or what its answer does not hold, with 503. The app gets `Ce-Confirmed: true`, or
	// `superseded` where the platform is at a later state of the same order.
	//
	// The documents' answers have no secureStatus, no completeAmount and no contractId, so that guarantees and deductions
	// are confirmed only by a platform that sends them all the same: take those at a path without confirm.
	//
	// One order is asked about at most once a minute, and a merchant's orders at most 5 times a second. What the answer
	// that is known cannot confirm, or for which there is no turn within half of `timeout`, is answered 503; the platform
	// sends it again.
	//
	// A notify that could be cut in two ways, or that has fields together that no genuine one has, is not refused then. But
	// each of its fields that decide must be in the answer, or it is answered 503; so is one whose value holds such a field.
	// Its names must be plain all the same. A notifyId and a createTime are in no answer and need not be: the event's type
	// and id do not depend on them. Only a notifyId that names a refund without a number must be in the answer.
	//
	// The query has `timeout` too; under observe nobody is asked. Default: false.
	Confirm bool `json:"confirm,omitempty"`

	merchant  merchantRef
	rules     *normalize.Rules
	app       *App
	logger    *zap.Logger
	confirmer *confirmer // nil if the platform is not asked
}

// CaddyModule returns the Caddy module information.
func (Notify) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.chinaums_notify",
		New: func() caddy.Module { return new(Notify) },
	}
}

// Provision finds the merchant and checks the options.
func (n *Notify) Provision(ctx caddy.Context) error {
	n.logger = ctx.Logger()
	var err error
	if n.app, err = loadApp(ctx); err != nil {
		return err
	}
	usable := needsNotifyKey
	if n.Confirm {
		usable = needsBothKeys
	}
	if n.merchant, err = n.app.merchants.Ref(n.Merchant, usable); err != nil {
		return locale.Errorf("chinaums_notify: %w", err)
	}
	if err = n.Notify.Provision(ctx, &inward, n.app.notifies, n.app.flights); err != nil {
		return locale.Errorf("chinaums_notify: %w", err)
	}
	n.rules = newRules(n.JSON)
	patience := time.Duration(n.Timeout)
	switch {
	case n.Confirm && n.Observe:
		n.logger.Warn("confirm has no effect under observe: nobody is asked", zap.String("option", "confirm"))
	case n.Confirm:
		n.confirmer = confirming
		patience *= 2
	}
	switch {
	case !n.Observe:
		n.app.watched.Notifies(n.Format)
		n.app.watching.also(n.JSON)
	case n.app.watched != nil:
		n.logger.Warn("the watch is not told of notifies under observe: it tells the app of each payment itself", zap.String("option", "observe"))
	}
	n.app.patience = max(n.app.patience, patience)
	return nil
}

// needsBothKeys is what confirm needs.
func needsBothKeys(m *merchant) error {
	if err := needsNotifyKey(m); err != nil {
		return err
	}
	if m.signer == nil {
		return locale.Errorf("app_id and app_key are missing; confirm asks the platform with them")
	}
	return nil
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (n *Notify) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	m := n.merchant.Resolve(replacer(r))
	if m == nil {
		return n.Serve(w, r, nil, nil, next)
	}
	return n.Serve(w, r, m, func(content []byte, header http.Header) (*inbound.Event, *inbound.Rejection) {
		return n.verify(m, content, header)
	}, next)
}

// verify verifies a notify as one of m's.
func (n *Notify) verify(m *merchant, content []byte, header http.Header) (*inbound.Event, *inbound.Rejection) {
	fields := acquireFields()
	defer fields.release()
	rejected := m.verify(fields, content, header)
	// The signature of an ambiguous notify is right. The platform can confirm what it says, but not how its names are read.
	ambiguous := n.confirmer != nil && rejected != nil && (rejected.Reason == reasonAmbiguous || rejected.Reason == reasonMixed) &&
		fields.ambiguousNames() == nil
	if ambiguous {
		if rejected = m.verifyMID(fields); rejected == nil {
			if word := fields.hidden(); word != "" {
				rejected = &inbound.Rejection{Status: http.StatusServiceUnavailable, Reason: inbound.ReasonNotComparable, Detail: fmt.Errorf("%s can be cut in two ways", word)}
			}
		}
	}
	if rejected == nil && n.Format == inbound.FormatOriginal {
		if err := readsOtherwise(content); err != nil {
			rejected = &inbound.Rejection{Status: http.StatusBadRequest, Reason: reasonReadsOtherwise, Detail: err}
		}
	}
	if rejected != nil {
		if rejected.Reason == reasonSignature {
			rejected.Diagnose = func() string { return m.mistake(content, n.app.merchants.All()) }
		}
		return nil, fields.identify(rejected)
	}
	source := m.source()
	event := fields.event(n.rules, source)
	if n.confirmer != nil {
		if event.Confirmed, rejected = n.confirmer.confirm(m, fields.claim(), event.Type, ambiguous, time.Duration(n.Timeout)); rejected != nil {
			return nil, fields.identify(rejected)
		}
		n.logger.Debug("event confirmed", zap.String("merchant", m.name), zap.String("event", event.ID), zap.String("confirmed", event.Confirmed))
	}
	verified := &inbound.Event{
		Context: inbound.Context{
			ID: event.ID, Source: source, Type: event.Type, Subject: event.Subject, Time: event.Time,
			Confirmed: event.Confirmed,
		},
		Data: event.Data, Label: metricType(event.Type),
		Word: event.word,
	}
	if n.app.watched != nil && !n.Observe {
		if order, f := noticed(fields.claim(), event.Type); order != "" {
			f.Event = &watch.Event{ID: event.ID, Type: event.Type}
			verified.Follow = n.app.watched.Follow(m.name, order, f)
		}
	}
	return verified, nil
}

// identify adds to a rejection what helps to find these fields in a log.
func (f *notifyFields) identify(rejected *inbound.Rejection) *inbound.Rejection {
	for _, word := range []struct{ key, name string }{{"unverified_order", "merOrderId"}, {"unverified_mid", "mid"}} {
		if value, ok := f.get(word.name); ok {
			rejected.Unverified = append(rejected.Unverified, zap.String(word.key, text.ASCII(value, text.Limit)))
		}
	}
	return rejected
}

// word returns the event's own placeholders.
func (e *notifyEvent) word(name string) (string, bool) {
	switch name {
	case "mer_order_id":
		return e.MerOrderID, true
	case "total_amount":
		return e.TotalAmount, true
	case "status":
		return e.Status, true
	}
	return "", false
}

// verify parses content into fields and says why they are not a true notify of m, or nil.
func (m *merchant) verify(fields *notifyFields, content []byte, header http.Header) *inbound.Rejection {
	if sentAsJSON(header) && !isJSONObject(content) && !isForm(content) {
		return &inbound.Rejection{Status: http.StatusBadRequest, Reason: reasonJSON, Detail: errors.New("the body is not a JSON object")}
	}
	if err := fields.parse(content); err != nil {
		return &inbound.Rejection{Status: http.StatusBadRequest, Reason: parseReason(err), Detail: err}
	}
	return m.verifyFields(fields)
}

// verifyFields says why parsed fields are not a true notify of m, or nil.
func (m *merchant) verifyFields(fields *notifyFields) *inbound.Rejection {
	if reason := fields.verify(m.notifyKeys, m.accept); reason != "" {
		return &inbound.Rejection{Status: http.StatusForbidden, Reason: reason, Detail: fields.flaw}
	}
	return m.verifyMID(fields)
}

// source is the Ce-Source of the merchant's events.
func (m *merchant) source() string { return sourceOf(m.name) }

func sourceOf(merchant string) string { return "/chinaums/" + merchant }

// reasonReadsOtherwise is why `format original` refuses a true notify.
const reasonReadsOtherwise = "reads_otherwise"

// maxOriginalPairs is how many pairs `format original` passes, empty ones included: PHP drops those behind the thousandth
// (max_input_vars), and the documents' longest notify has about 50.
const maxOriginalPairs = 200

// readsOtherwise says why an app that reads content by itself, as PHP does, would not find just the parameters that were
// verified, or returns nil. An empty value is not signed, so that anybody can add pairs that have none; and whoever makes
// JSON of a form chooses what is a number in it, of which readers keep 15 digits.
func readsOtherwise(content []byte) error {
	isJSON := isJSONObject(content)
	if !isJSON && bytes.Count(content, ampersand) >= maxOriginalPairs {
		return fmt.Errorf("more than %d pairs", maxOriginalPairs)
	}
	all := acquireFields()
	defer all.release()
	all.keepEmpty = true
	if err := all.parse(content); err != nil {
		return err // a name that is there twice
	}
	if len(all.fields) > maxOriginalPairs {
		return fmt.Errorf("more than %d pairs", maxOriginalPairs)
	}
	for i := range all.fields {
		field := &all.fields[i]
		name := all.name(field)
		if value := all.value(field); isJSON && len(value) > 0 && content[field.valueStart-1] != '"' && !normalize.IsAmount(value) &&
			string(value) != "true" && string(value) != "false" {
			return fmt.Errorf("field %s: not every reader of JSON takes its number for what was signed", text.Name(name))
		}
		if bytes.ContainsAny(name, "[]. ") || bytes.ContainsFunc(name, unicode.IsControl) {
			return fmt.Errorf("parameter name %s: PHP makes another name of it", text.Name(name))
		}
	}
	return all.ambiguousNames()
}

// verifyMID says whether a notify is another merchant's.
func (m *merchant) verifyMID(fields *notifyFields) *inbound.Rejection {
	if mid, _ := fields.getKnown(fieldMid); !m.hasMID(mid) {
		return &inbound.Rejection{Status: http.StatusForbidden, Reason: "foreign_mid"}
	}
	return nil
}

func parseReason(err error) string {
	if broken, ok := errors.AsType[*parseError](err); ok {
		return broken.Reason
	}
	return "malformed"
}

func isJSONObject(content []byte) bool {
	start := jsontext.SkipSpace(content, 0)
	return start < len(content) && content[start] == '{'
}

// isForm reports whether what was sent as JSON may be a form all the same.
func isForm(content []byte) bool {
	start := jsontext.SkipSpace(content, 0)
	return bytes.IndexByte(content, '=') >= 0 && content[start] != '[' && content[start] != '"'
}

func sentAsJSON(header http.Header) bool {
	return inbound.MediaType(header.Get("Content-Type")) == "application/json"
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Notify)(nil)
	_ caddyhttp.MiddlewareHandler = (*Notify)(nil)
)
