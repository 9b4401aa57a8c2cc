package chinaums

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/internal/body"
	"github.com/caddy-chinaums/caddy-chinaums/internal/inbound"
	"github.com/caddy-chinaums/caddy-chinaums/internal/ratelog"
)

func init() {
	caddy.RegisterModule(Notify{})
}

// The platform's words (checklist NOTI-03).
const (
	wordSuccess = "SUCCESS"
	wordFailed  = "FAILED"
)

// Formats of what the app gets.
const (
	formatJSON        = "json"
	formatCloudEvents = "cloudevents"
	formatOriginal    = "original"
)

// Notify is the middleware that takes the platform's notifies: it verifies the signature, replaces the form by
// normalized JSON with the event's context in CloudEvents headers, runs the rest of the chain, and answers `SUCCESS` if
// the app has taken the event, else `FAILED`, upon which the platform sends it again. The chain's own answer goes no
// further.
//
// It sets the placeholders `{http.chinaums.merchant}`, `{http.chinaums.event_id}`, `{http.chinaums.event_type}`,
// `{http.chinaums.mer_order_id}`, `{http.chinaums.total_amount}`, `{http.chinaums.status}` and, where the answer is
// FAILED, `{http.chinaums.reason}`.
type Notify struct {
	// The merchant whose notify keys verify: a name of the chinaums app, or a placeholder that reaches merchants with
	// `mid`. May be empty where there is exactly one merchant.
	Merchant string `json:"merchant,omitempty"`

	// What the app gets: `json`, the normalized fields; `cloudevents`, the same as data of a structured CloudEvent; or
	// `original`, the verified bytes as they came. Default: json.
	Format string `json:"format,omitempty"`

	// When the app has taken an event: `word`, a 2xx whose body is empty or says SUCCESS or OK; or `2xx`, any 2xx whose
	// body does not say FAILED or FAIL. Default: word.
	Ack string `json:"ack,omitempty"`

	// Further fields whose text is JSON and becomes that, besides billPayment, goods, subOrders and refundSubOrders.
	JSON []string `json:"json,omitempty"`

	// The largest notify, in bytes. Default: 64 KiB.
	MaxSize int64 `json:"max_size,omitempty"`

	// How long the body may take to arrive, and again the app to answer. Default: 10s.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// Ask the platform (query) with the merchant's app_id and app_key before believing a notify, and compare order,
	// status and amount. What the platform contradicts is answered FAILED with 409, what it does not answer with 503;
	// the app gets `Ce-Confirmed: true`, or `superseded` where the platform is at a later state of the same order. One
	// event is asked about at most once a minute. A notify that could be cut in two ways is not refused then, but each
	// of its words that decides must be the platform's. The query has `timeout` too. Default: false.
	Confirm bool `json:"confirm,omitempty"`

	// Verify, log and count, but change nothing: for moving over from code in the app. Nobody is asked
	// then, confirm or not. Default: false.
	Observe bool `json:"observe,omitempty"`

	merchant  merchantRef
	jsonNames *jsonNameSet
	app       *App
	ctx       caddy.Context
	logger    *zap.Logger
	events    *caddyevents.App
	refusals  *ratelog.Limiter
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
	n.ctx, n.logger, n.refusals = ctx, ctx.Logger(), ratelog.New(10)
	var err error
	if n.app, err = loadApp(ctx); err != nil {
		return err
	}
	usable := needsNotifyKey
	if n.Confirm {
		usable = needsBothKeys
	}
	if n.merchant, err = n.app.ref(n.Merchant, usable); err != nil {
		return fmt.Errorf("chinaums_notify: %w", err)
	}
	if n.Format == "" {
		n.Format = formatJSON
	}
	if n.Ack == "" {
		n.Ack = inbound.AckWord
	}
	if n.MaxSize == 0 {
		n.MaxSize = 64 << 10
	}
	if n.Timeout == 0 {
		n.Timeout = caddy.Duration(10 * time.Second)
	}
	switch {
	case n.Format != formatJSON && n.Format != formatCloudEvents && n.Format != formatOriginal:
		return fmt.Errorf("chinaums_notify: format: %q is none of json, cloudevents, original", n.Format)
	case n.Ack != inbound.AckWord && n.Ack != inbound.Ack2xx:
		return fmt.Errorf("chinaums_notify: ack: %q is neither word nor 2xx", n.Ack)
	case n.MaxSize < 0 || n.Timeout < 0:
		return fmt.Errorf("chinaums_notify: max_size and timeout must be positive")
	}
	n.jsonNames = newJSONNames(n.JSON)
	patience := time.Duration(n.Timeout)
	if n.Confirm {
		patience *= 2
	}
	n.app.patience = max(n.app.patience, patience)
	events, err := ctx.App("events")
	if err != nil {
		return fmt.Errorf("getting events app: %w", err)
	}
	n.events = events.(*caddyevents.App)
	switch {
	case n.Confirm && n.Observe:
		n.logger.Warn("confirm has no effect under observe: nobody is asked", zap.String("option", "confirm"))
	case n.Confirm:
		if n.confirmer, err = acquireConfirmer(); err != nil {
			return fmt.Errorf("chinaums_notify: confirm: %w", err)
		}
	}
	return nil
}

// Cleanup implements caddy.CleanerUpper. It also runs after a Provision that has failed.
func (n *Notify) Cleanup() error {
	if n.confirmer == nil {
		return nil
	}
	return releaseConfirmer()
}

// needsBothKeys is what confirm needs.
func needsBothKeys(m *merchant) error {
	if err := needsNotifyKey(m); err != nil {
		return err
	}
	if m.signer == nil {
		return errors.New("app_id and app_key are missing; confirm asks the platform with them")
	}
	return nil
}

// rejection is why a notify is not believed, and the answer's status.
type rejection struct {
	status int
	reason string // a word from a bounded set
	detail error  // for the log
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (n *Notify) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if n.Observe {
		n.observe(r)
		return next.ServeHTTP(w, r)
	}
	inbound.Recovering(w, wordFailed, n.logger, func(w http.ResponseWriter) { n.handle(w, r, next) })
	return nil
}

func (n *Notify) handle(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) {
	m, content, rejected := n.read(w, r)
	if rejected != nil {
		body.AnswerEarly(w, time.Duration(n.Timeout))
		n.reject(w, r, m, nil, rejected)
		return
	}
	fields := acquireFields()
	defer fields.release()
	rejected = m.verify(fields, content, r.Header)
	// The signature of an ambiguous one is right; what it says, the platform can tell.
	ambiguous := rejected != nil && rejected.reason == reasonAmbiguous && n.confirmer != nil
	if ambiguous {
		rejected = m.verifyMID(fields)
	}
	if rejected != nil {
		n.reject(w, r, m, fields, rejected)
		return
	}
	n.app.notifies.Verified(m.name, time.Now())
	event := fields.event(n.jsonNames)
	if n.confirmer != nil {
		if rejected = n.confirm(m, fields, &event, ambiguous); rejected != nil {
			n.reject(w, r, m, fields, rejected)
			return
		}
	}
	n.deliver(w, r, next, m, event, content)
}

// read finds the merchant and reads the body.
func (n *Notify) read(w http.ResponseWriter, r *http.Request) (m *merchant, content []byte, rejected *rejection) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return nil, nil, &rejection{http.StatusMethodNotAllowed, "method", nil}
	}
	if m = n.merchant.resolve(replacer(r)); m == nil {
		return nil, nil, &rejection{http.StatusNotFound, "no_merchant", nil}
	}
	if rejected = checkNotifyHeader(r.Header); rejected != nil {
		return m, nil, rejected
	}
	content, err := body.ReadRequest(w, r, n.MaxSize, time.Duration(n.Timeout))
	if err != nil {
		return m, nil, unreadable(err)
	}
	return m, content, nil
}

// deliver hands a true event to the app and tells the platform what became of it.
func (n *Notify) deliver(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, m *merchant, event notifyEvent, content []byte) {
	attributes := inbound.Context{
		ID: event.ID, Source: "/chinaums/" + m.name, Type: event.Type, Subject: event.Subject, Time: event.Time, Confirmed: event.Confirmed,
	}
	contentType := "application/json; charset=utf-8"
	switch n.Format {
	case formatJSON:
		content = event.Data
	case formatCloudEvents:
		contentType = "application/cloudevents+json"
		content = structuredEvent(&attributes, event.Data)
	case formatOriginal:
		if contentType = r.Header.Get("Content-Type"); contentType == "" {
			contentType = "application/x-www-form-urlencoded"
			if isJSONObject(content) {
				contentType = "application/json"
			}
		}
	}
	reason := ""
	setNotifyPlaceholders(replacer(r), m, &event, &reason)

	out, cancel := inbound.Prepare(r, content, contentType, &attributes, time.Duration(n.Timeout))
	defer cancel()
	end := n.app.flights.Begin()
	verdict := inbound.Deliver(out, next, n.Ack, n.logger)
	end()

	status, word, result := http.StatusOK, wordSuccess, "taken"
	switch {
	case verdict.Taken:
	case verdict.TimedOut:
		status, word, result, reason = http.StatusGatewayTimeout, wordFailed, "failed", "app_timeout"
	case errors.Is(verdict.Err, inbound.ErrNoHandler):
		status, word, result, reason = http.StatusBadGateway, wordFailed, "failed", "no_handler"
	case verdict.Err != nil:
		status, word, result, reason = http.StatusBadGateway, wordFailed, "failed", "app_unreachable"
	default:
		status, word, result, reason = http.StatusBadGateway, wordFailed, "failed", "app_refused"
	}
	hungUp := r.Context().Err() // before the answer: a small one is only buffered, and its loss goes unseen
	if err := inbound.Say(w, status, word); err != nil {
		hungUp = err
	}
	n.app.notifies.Notified(m.name, metricType(event.Type), result, reason)
	n.noteAccess(r, m, &event, result, reason)
	if !verdict.Taken || hungUp != nil {
		n.logUndelivered(m, &event, verdict, status, reason, hungUp)
	}
}

func (n *Notify) logUndelivered(m *merchant, event *notifyEvent, verdict inbound.Verdict, status int, reason string, hungUp error) {
	fields := []zap.Field{
		zap.String("merchant", m.name), zap.String("order", event.Subject), zap.String("event", event.ID), zap.String("event_type", event.Type),
		zap.Int("status", status), zap.String("reason", reason), zap.Int("app_status", verdict.Status),
	}
	switch {
	case verdict.Taken:
		// The app has it, but the platform may not know: it will send the event again.
		n.logger.Warn("event taken, but the platform hung up before it was told", append(fields, zap.Error(hungUp))...)
	case verdict.Status >= 200 && verdict.Status <= 299 && verdict.Err == nil && !verdict.TimedOut:
		n.logger.Warn("app answered 2xx but did not take the event; answer with an empty body, SUCCESS or OK, or set ack 2xx",
			append(fields, zap.String("answer", inbound.Quote(string(verdict.Answer), 80)))...)
	default:
		n.logger.Error("event not delivered", append(fields, zap.Error(verdict.Err))...)
	}
}

// observe verifies, logs and counts, and changes nothing: neither what the app gets nor what it answers.
func (n *Notify) observe(r *http.Request) {
	defer func() {
		if v := recover(); v != nil {
			inbound.LogPanic(n.logger, "panic in the observer of notifies", v)
		}
	}()
	m := n.merchant.resolve(replacer(r))
	fields := acquireFields()
	defer fields.release()
	if rejected := n.inspect(r, m, fields); rejected != nil {
		n.note(r, m, fields, rejected, "observed")
		return
	}
	event := fields.event(n.jsonNames)
	reason := ""
	setNotifyPlaceholders(replacer(r), m, &event, &reason)
	n.app.notifies.Verified(m.name, time.Now())
	n.app.notifies.Notified(m.name, metricType(event.Type), "observed", "")
	n.noteAccess(r, m, &event, "observed", "")
}

// inspect judges a request without changing it: what has been read is put back in front of the rest, error included.
func (n *Notify) inspect(r *http.Request, m *merchant, fields *notifyFields) *rejection {
	switch {
	case r.Method != http.MethodPost:
		return &rejection{http.StatusMethodNotAllowed, "method", nil}
	case m == nil:
		return &rejection{http.StatusNotFound, "no_merchant", nil}
	}
	if rejected := checkNotifyHeader(r.Header); rejected != nil {
		return rejected
	}
	var content []byte
	if r.Body != nil {
		var read bytes.Buffer
		var err error
		content, err = body.Read(io.TeeReader(r.Body, &read), r.ContentLength, n.MaxSize)
		r.Body = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(&read, failing{err}, r.Body), r.Body}
		if err != nil {
			return unreadable(err)
		}
	}
	return m.verify(fields, content, r.Header)
}

// failing gives a reader the error at which reading stopped, unless that was the gateway's own limit.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) {
	if f.err == nil || errors.Is(f.err, body.ErrTooLarge) {
		return 0, io.EOF
	}
	return 0, f.err
}

// verify parses content into fields and says why they are not a true notify of m, or nil.
func (m *merchant) verify(fields *notifyFields, content []byte, header http.Header) *rejection {
	if sentAsJSON(header) && !isJSONObject(content) && !isForm(content) {
		return &rejection{http.StatusBadRequest, "json", errors.New("the body is not a JSON object")}
	}
	if err := fields.parse(content); err != nil {
		return &rejection{http.StatusBadRequest, parseReason(err), err}
	}
	if reason := fields.verify(m.notifyKeys, m.accept); reason != "" {
		return &rejection{http.StatusForbidden, reason, nil}
	}
	return m.verifyMID(fields)
}

// verifyMID says whether a notify is another merchant's.
func (m *merchant) verifyMID(fields *notifyFields) *rejection {
	if mid, _ := fields.get("mid"); !m.hasMID(mid) {
		return &rejection{http.StatusForbidden, "foreign_mid", nil}
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
	start := skipJSONSpace(content, 0)
	return start < len(content) && content[start] == '{'
}

// isForm reports whether what was sent as JSON may be a form all the same.
func isForm(content []byte) bool {
	start := skipJSONSpace(content, 0)
	return bytes.IndexByte(content, '=') >= 0 && content[start] != '[' && content[start] != '"'
}

func sentAsJSON(header http.Header) bool {
	return mediaType(header.Get("Content-Type")) == "application/json"
}

func mediaType(contentType string) string {
	if parsed, _, err := mime.ParseMediaType(contentType); err == nil {
		return parsed
	}
	// A broken parameter does not make it another type.
	bare, _, _ := strings.Cut(contentType, ";")
	return strings.ToLower(strings.TrimSpace(bare))
}

// checkNotifyHeader refuses what is neither a form nor JSON.
func checkNotifyHeader(header http.Header) *rejection {
	for _, contentType := range header["Content-Type"] {
		switch contentType {
		case "", "application/x-www-form-urlencoded", "application/json":
			continue
		}
		switch mediaType(contentType) {
		case "", "application/x-www-form-urlencoded", "application/json":
		default:
			return &rejection{http.StatusUnsupportedMediaType, "content_type", nil}
		}
	}
	for _, encoding := range header["Content-Encoding"] {
		if encoding != "" && !strings.EqualFold(encoding, "identity") {
			return &rejection{http.StatusUnsupportedMediaType, "content_encoding", nil}
		}
	}
	return nil
}

func unreadable(err error) *rejection {
	switch {
	case errors.Is(err, body.ErrTooLarge):
		return &rejection{http.StatusRequestEntityTooLarge, "too_large", nil}
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return &rejection{http.StatusRequestTimeout, "body_late", nil}
	default:
		return &rejection{http.StatusBadRequest, "broken_body", err}
	}
}

// reject answers FAILED: the sender never learns why.
func (n *Notify) reject(w http.ResponseWriter, r *http.Request, m *merchant, fields *notifyFields, rejected *rejection) {
	if err := inbound.Say(w, rejected.status, wordFailed); err != nil {
		n.logger.Debug("rejected sender hung up", zap.Error(err))
	}
	n.note(r, m, fields, rejected, "rejected")
}

// note logs and counts a notify that is not believed.
func (n *Notify) note(r *http.Request, m *merchant, fields *notifyFields, rejected *rejection, result string) {
	name := ""
	if m != nil {
		name = m.name
	}
	n.app.notifies.Notified(name, "", result, rejected.reason)
	if repl := replacer(r); repl != nil {
		repl.Set("http.chinaums.merchant", name)
		repl.Set("http.chinaums.reason", rejected.reason)
	}
	if extra, ok := r.Context().Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
		extra.Add(zap.String("merchant", name))
		extra.Add(zap.String("outcome", result))
		extra.Add(zap.String("reason", rejected.reason))
	}
	suppressed, ok := n.refusals.Allow(rejected.reason)
	if !ok {
		return
	}
	log := []zap.Field{
		zap.String("merchant", name), zap.String("reason", rejected.reason), zap.Int("status", rejected.status),
		zap.String("remote", r.RemoteAddr), zap.Int("suppressed", suppressed),
	}
	if fields != nil {
		for _, member := range []struct{ key, name string }{{"unverified_order", "merOrderId"}, {"unverified_mid", "mid"}} {
			if value, ok := fields.get(member.name); ok {
				log = append(log, zap.String(member.key, inbound.Quote(string(value), 64)))
			}
		}
	}
	if rejected.detail != nil {
		log = append(log, zap.Error(rejected.detail))
	}
	message := "notify rejected"
	if result == "observed" {
		message = "notify would be rejected"
	}
	n.logger.Warn(message, log...)
	n.events.Emit(n.ctx, "chinaums.notify_rejected", map[string]any{
		"merchant": name, "reason": rejected.reason, "remote": r.RemoteAddr, "observed": result == "observed", "suppressed": suppressed,
	})
}

// noteAccess adds a true event to the access log.
func (n *Notify) noteAccess(r *http.Request, m *merchant, event *notifyEvent, result, reason string) {
	extra, ok := r.Context().Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields)
	if !ok {
		return
	}
	extra.Add(zap.String("merchant", m.name))
	extra.Add(zap.String("order", event.Subject))
	extra.Add(zap.String("event", event.ID))
	extra.Add(zap.String("event_type", event.Type))
	extra.Add(zap.String("outcome", result))
	if reason != "" {
		extra.Add(zap.String("reason", reason))
	}
}

// setNotifyPlaceholders offers the event to placeholders; nothing is computed unless one is used.
func setNotifyPlaceholders(repl *caddy.Replacer, m *merchant, event *notifyEvent, reason *string) {
	if repl == nil {
		return
	}
	repl.Map(func(key string) (any, bool) {
		name, ok := strings.CutPrefix(key, "http.chinaums.")
		if !ok {
			return nil, false
		}
		switch name {
		case "merchant":
			return m.name, true
		case "event_id":
			return event.ID, true
		case "event_type":
			return event.Type, true
		case "mer_order_id":
			return event.MerOrderID, true
		case "total_amount":
			return event.TotalAmount, true
		case "status":
			return event.Status, true
		case "reason":
			return *reason, true
		}
		return nil, false
	})
}

// structuredEvent is the event in the structured mode of CloudEvents 1.0 (JSON event format).
func structuredEvent(attributes *inbound.Context, data []byte) []byte {
	event, err := json.Marshal(struct {
		SpecVersion     string          `json:"specversion"`
		ID              string          `json:"id"`
		Source          string          `json:"source"`
		Type            string          `json:"type"`
		Subject         string          `json:"subject,omitempty"`
		Time            string          `json:"time,omitempty"`
		Confirmed       string          `json:"confirmed,omitempty"`
		DataContentType string          `json:"datacontenttype"`
		Data            json.RawMessage `json:"data"`
	}{"1.0", attributes.ID, attributes.Source, attributes.Type, attributes.Subject, attributes.Time, attributes.Confirmed, "application/json", json.RawMessage("null")})
	if err != nil {
		panic(err) // strings always marshal
	}
	// The data goes in as it is, so that both formats have the same bytes and no number is read and written again.
	event = append(event[:len(event)-len("null}")], data...)
	return append(event, '}')
}

// metricTypes are the event types that become metric labels as they are.
var metricTypes = map[string]bool{}

func init() {
	for family, words := range map[string]string{
		"payment":   "created pending succeeded closed unknown",
		"deduction": "created pending succeeded closed unknown",
		"refund":    "succeeded failed processing unknown",
		"bill":      "paid unpaid refund closed unknown",
		"guarantee": "uncompleted partly_completed all_completed canceled unknown",
	} {
		for word := range strings.FieldsSeq(words) {
			metricTypes["com.chinaums."+family+"."+word] = true
		}
	}
}

// metricType bounds the metric's label: a bill's or guarantee's word is the platform's own text.
func metricType(eventType string) string {
	if metricTypes[eventType] {
		return eventType
	}
	family, _, _ := strings.Cut(strings.TrimPrefix(eventType, "com.chinaums."), ".")
	return "com.chinaums." + family + ".other"
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Notify)(nil)
	_ caddy.CleanerUpper          = (*Notify)(nil)
	_ caddyhttp.MiddlewareHandler = (*Notify)(nil)
)
