package inbound

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-chinaums/caddy-chinaums/internal/accesslog"
	"github.com/caddy-chinaums/caddy-chinaums/internal/body"
	"github.com/caddy-chinaums/caddy-chinaums/internal/locale"
	"github.com/caddy-chinaums/caddy-chinaums/internal/ratelog"
	"github.com/caddy-chinaums/caddy-chinaums/internal/text"
	"github.com/caddy-chinaums/caddy-chinaums/internal/tracing"
	"github.com/caddy-chinaums/caddy-chinaums/internal/verdict"
)

// The formats in which the app gets an event.
const (
	FormatJSON        = "json"
	FormatCloudEvents = "cloudevents"
	FormatOriginal    = "original"
)

// The types of the first two.
const (
	TypeJSON        = "application/json; charset=utf-8"
	TypeCloudEvents = "application/cloudevents+json"
)

// Notify is the part that the notify handlers of all platforms have in common.
type Notify struct {
	// What the app gets: `json`, the normalized fields; `cloudevents`, the same as data of a structured CloudEvent; or
	// `original`, the verified bytes as they came; what an app's own parser could read otherwise is refused then.
	// Default: json.
	Format string `json:"format,omitempty"`

	// When the app has taken an event: `word`, a 2xx whose body is empty or says SUCCESS or OK; or `2xx`, any 2xx whose
	// body does not say FAILED or FAIL. Default: word.
	Ack string `json:"ack,omitempty"`

	// Further fields whose text is JSON and becomes that, besides those that the platform's documents name.
	JSON []string `json:"json,omitempty"`

	// The largest notify, in bytes. Default: 64 KiB.
	MaxSize int64 `json:"max_size,omitempty"`

	// How long the body may take to arrive, and again the app to answer. Default: 10s.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// Verify, log and count, but change nothing: for moving over from code in the app. Default: false.
	Observe bool `json:"observe,omitempty"`

	platform *Platform
	metrics  *Metrics
	flights  Flights
	ctx      caddy.Context
	logger   *zap.Logger
	events   *caddyevents.App
	refusals *ratelog.Limiter
}

// Platform describes how the notifications of one platform differ from those of another. It never changes.
type Platform struct {
	// Name is the name of the Caddy app, and the prefix of placeholders and events.
	Name string
	// Success and Failed are the words that the platform expects as an answer.
	Success, Failed string
	// ContentTypes are the types that a notify may have.
	ContentTypes []string
	// ContentType returns the type of a notify by its content, for one that has no header.
	ContentType func(content []byte) string
	// Explain returns the command that explains a refusal with this reason, or "". It is logged. Explain may be nil.
	Explain func(reason string) string
	// SignatureHeader is the header with a notify's signature, or "". An app that gets the original bytes gets this header
	// too, so that it can check the signature itself.
	SignatureHeader string
	// Trade and Channel are how the members of the normalized JSON begin that have the platform's own number and the payment
	// channel's, such as `"seqId":"`. The console finds a notify by them.
	Trade, Channel string
}

// Flights counts requests in progress, so that a reload waits for them.
type Flights interface {
	Begin()
	End()
}

// Account is the merchant or terminal that a notify is for.
type Account interface{ Name() string }

// Event is a notify that has been verified.
type Event struct {
	Context
	// Data is the normalized JSON.
	Data string
	// Label is the event's type as a label of metrics. It is one of a bounded set.
	Label string
	// Word returns the value of one of the event's own placeholders.
	Word func(name string) (string, bool)
	// Follow is told what becomes of the event; nil: nobody is.
	Follow Following

	reason string // why the app has not taken it, or ""
}

// Following follows an event.
type Following interface {
	// Notified is told before the app gets the event.
	Notified(ctx context.Context) Notice
	// Taken is told whether the app has taken it. It is called unless the notice says that the app is not to get it.
	Taken(taken bool)
}

// Notice is what is known of an event's order, and whether the app is to get the event.
type Notice struct {
	Ordered string // Context.Ordered

	Told    bool // the app has it already
	Busy    bool // it is being told at this moment: the platform is to repeat the notify
	Refused bool // it is not what was ordered
}

// Reasons of an event that the app does not get because of a Notice.
const (
	ReasonBusy  = "busy"
	ReasonOrder = "order"
)

// Rejection says why a notify is not believed, and with which status it is answered.
type Rejection struct {
	Status int
	Reason string // a word from a bounded set
	Detail error  // for the log
	// Unverified are fields of the unverified notify that help to find it in a log.
	Unverified []zap.Field
	// Diagnose says which known mistake explains a wrong signature; "": none is known. It may take its time, is called before
	// the handler returns, and only where a line is logged. It may be nil, and names neither a key nor a value.
	Diagnose func() string

	content []byte // of the notify, where it was read whole
}

// Verify verifies a notify: the event, or why it is not believed. Neither may keep the content, but for Diagnose.
type Verify func(content []byte, header http.Header) (*Event, *Rejection)

// Provision sets defaults and checks the options.
func (n *Notify) Provision(ctx caddy.Context, platform *Platform, metrics *Metrics, flights Flights) error {
	n.platform, n.metrics, n.flights = platform, metrics, flights
	n.ctx, n.logger, n.refusals = ctx, ctx.Logger(), ratelog.New(10)
	if n.Format == "" {
		n.Format = FormatJSON
	}
	if n.Ack == "" {
		n.Ack = verdict.AckWord
	}
	if n.MaxSize == 0 {
		n.MaxSize = 64 << 10
	}
	if n.Timeout == 0 {
		n.Timeout = caddy.Duration(10 * time.Second)
	}
	switch {
	case n.Format != FormatJSON && n.Format != FormatCloudEvents && n.Format != FormatOriginal:
		return locale.Errorf("format: %q is none of json, cloudevents, original", n.Format)
	case n.Ack != verdict.AckWord && n.Ack != verdict.Ack2xx:
		return locale.Errorf("ack: %q is neither word nor 2xx", n.Ack)
	case n.MaxSize < 0 || n.Timeout < 0:
		return locale.Errorf("max_size and timeout must be positive")
	}
	events, err := ctx.App("events")
	if err != nil {
		return locale.Errorf("getting events app: %w", err)
	}
	n.events = events.(*caddyevents.App)
	return nil
}

// Serve takes a notify. account is whom it is for (nil: nobody); verify verifies it as that one's.
func (n *Notify) Serve(w http.ResponseWriter, r *http.Request, account Account, verify Verify, next caddyhttp.Handler) error {
	if n.Observe {
		n.observe(r, account, verify)
		return next.ServeHTTP(w, r)
	}
	Recovering(w, n.platform.Failed, n.logger, func(w http.ResponseWriter) { n.handle(w, r, account, verify, next) })
	return nil
}

func (n *Notify) handle(w http.ResponseWriter, r *http.Request, account Account, verify Verify, next caddyhttp.Handler) {
	content, rejected := n.read(w, r, account)
	if rejected != nil {
		body.AnswerEarly(w, r, time.Duration(n.Timeout))
		n.reject(w, r, account, rejected)
		return
	}
	// From here on a reload waits: the platform may be asked, and the app gets the event.
	n.flights.Begin()
	defer n.flights.End()
	event, rejected := verify(content, r.Header)
	if rejected != nil {
		rejected.content = content
		n.reject(w, r, account, rejected)
		return
	}
	n.metrics.Verified(account.Name(), time.Now())
	if event.Follow != nil && !n.follow(w, r, account, event) {
		return
	}
	n.deliver(w, r, next, account, event, content)
}

// follow tells whoever follows the event, and reports whether the app is to get it. If not, it answers.
func (n *Notify) follow(w http.ResponseWriter, r *http.Request, account Account, event *Event) bool {
	notice := event.Follow.Notified(r.Context())
	event.Evidence, event.Ordered = EvidenceNotify, notice.Ordered
	switch {
	case notice.Told:
		event.Placeholders(r, n.platform.Name, account)
		if err := Say(w, http.StatusOK, n.platform.Success); err != nil {
			n.logger.Debug("the sender of an event that the app had hung up", zap.Error(err))
		}
		n.metrics.Notified(account.Name(), event.Label, "repeated", "")
		event.logAccess(r, account, "repeated", "")
		n.remember(account, event, "repeated", "", http.StatusOK, 0)
		return false
	case notice.Busy:
		n.reject(w, r, account, &Rejection{Status: http.StatusServiceUnavailable, Reason: ReasonBusy, Detail: errors.New("the app is being told of it at this moment")})
		return false
	case notice.Refused:
		n.reject(w, r, account, &Rejection{Status: http.StatusConflict, Reason: ReasonOrder, Detail: errors.New("amount or mid is not what was ordered")})
		return false
	}
	return true
}

// read checks the request and reads its body.
func (n *Notify) read(w http.ResponseWriter, r *http.Request, account Account) ([]byte, *Rejection) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
	}
	if rejected := n.checkRequest(r, account); rejected != nil {
		return nil, rejected
	}
	content, err := body.ReadRequest(w, r, n.MaxSize, time.Duration(n.Timeout))
	if err != nil {
		return nil, unreadable(err)
	}
	return content, nil
}

func (n *Notify) checkRequest(r *http.Request, account Account) *Rejection {
	switch {
	case r.Method != http.MethodPost:
		return &Rejection{Status: http.StatusMethodNotAllowed, Reason: "method"}
	case account == nil:
		return &Rejection{Status: http.StatusNotFound, Reason: "no_merchant"}
	}
	for _, contentType := range r.Header["Content-Type"] {
		if !n.platform.takes(contentType) {
			return &Rejection{Status: http.StatusUnsupportedMediaType, Reason: "content_type"}
		}
	}
	for _, encoding := range r.Header["Content-Encoding"] {
		if encoding != "" && !strings.EqualFold(encoding, "identity") {
			return &Rejection{Status: http.StatusUnsupportedMediaType, Reason: "content_encoding"}
		}
	}
	return nil
}

func (p *Platform) takes(contentType string) bool {
	if contentType == "" || slices.Contains(p.ContentTypes, contentType) {
		return true
	}
	parsed := MediaType(contentType)
	return parsed == "" || slices.Contains(p.ContentTypes, parsed)
}

// MediaType returns a Content-Type without its parameters, even if they are malformed.
func MediaType(contentType string) string {
	bare, _, _ := strings.Cut(contentType, ";")
	return strings.ToLower(strings.TrimSpace(bare))
}

func unreadable(err error) *Rejection {
	switch status := body.Status(err); status {
	case http.StatusRequestEntityTooLarge:
		return &Rejection{Status: status, Reason: "too_large"}
	case http.StatusRequestTimeout:
		return &Rejection{Status: status, Reason: "body_late"}
	default:
		return &Rejection{Status: status, Reason: "broken_body", Detail: err}
	}
}

// deliver hands a verified event to the app, and answers the platform.
func (n *Notify) deliver(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, account Account, event *Event, content []byte) {
	contentType, keep, given := TypeJSON, "", body.Content(nil)
	switch n.Format {
	case FormatJSON:
		given = strings.NewReader(event.Data)
	case FormatCloudEvents:
		contentType = TypeCloudEvents
		given = bytes.NewReader(event.Structured())
	case FormatOriginal:
		// What was verified as JSON must not be read as a form, nor the other way round: a text within may say other things then.
		verified := n.platform.ContentType(content)
		contentType = r.Header.Get("Content-Type")
		// No reader may make another type of it: PHP takes a tab in front of the semicolon for a part of the name.
		if bare, _, _ := strings.Cut(contentType, ";"); !strings.EqualFold(strings.TrimRight(bare, " "), verified) {
			contentType = verified
		}
		given, keep = bytes.NewReader(content), n.platform.SignatureHeader
	}
	event.Placeholders(r, n.platform.Name, account)

	out, cancel := Prepare(r, given, contentType, keep, &event.Context, time.Duration(n.Timeout))
	defer cancel()
	taken := false
	if event.Follow != nil {
		defer func() { event.Follow.Taken(taken) }() // also where a handler panics
	}
	out, span := tracing.Deliver(out, n.platform.Name, account.Name(), event.Label)
	began := time.Now()
	delivered := verdict.Deliver(out, next, n.Ack, n.logger)
	taken = delivered.Taken
	n.metrics.delivered(account.Name(), time.Since(began))

	status, word, result, reason := http.StatusOK, n.platform.Success, "taken", ""
	if !delivered.Taken {
		status, word, result = http.StatusBadGateway, n.platform.Failed, "failed"
		switch {
		case delivered.TimedOut:
			status, reason = http.StatusGatewayTimeout, "app_timeout"
		case errors.Is(delivered.Err, verdict.ErrNoHandler):
			reason = "no_handler"
		case delivered.Err != nil:
			reason = "app_unreachable"
		default:
			reason = "app_refused"
		}
	}
	event.reason = reason
	span.EndDelivery(result, reason, delivered.Status)
	hungUp := r.Context().Err() // before the answer, because the loss of a small, buffered one goes unnoticed
	if err := Say(w, status, word); err != nil {
		hungUp = err
	}
	n.metrics.Notified(account.Name(), event.Label, result, reason)
	event.logAccess(r, account, result, reason)
	n.remember(account, event, result, reason, status, delivered.Status)
	if !delivered.Taken || hungUp != nil {
		n.logUndelivered(account, event, delivered, status, reason, hungUp)
	}
}

func (n *Notify) logUndelivered(account Account, event *Event, delivered verdict.Verdict, status int, reason string, hungUp error) {
	fields := []zap.Field{
		zap.String("merchant", account.Name()), zap.String("order", event.Subject), zap.String("event", event.ID), zap.String("event_type", event.Type),
		zap.Int("status", status), zap.String("reason", reason), zap.Int("app_status", delivered.Status),
	}
	switch {
	case delivered.Taken:
		// The app has it, but the platform may not know: it will send the event again.
		n.logger.Warn("event taken, but the platform hung up before it was told", append(fields, zap.Error(hungUp))...)
	case delivered.Encoded && !delivered.TimedOut:
		n.logger.Warn("app answered 2xx, but with a Content-Encoding, so that its word cannot be read; let it answer without", fields...)
	case delivered.Status >= 200 && delivered.Status <= 299 && delivered.Err == nil && !delivered.TimedOut:
		n.logger.Warn("app answered 2xx but did not take the event; answer with an empty body, SUCCESS or OK, or set ack 2xx",
			append(fields, zap.String("answer", text.ASCII(delivered.Answer, 80)))...)
	default:
		if hint := delivered.Hint(); hint != "" {
			fields = append(fields, zap.String("hint", hint))
		}
		n.logger.Error("event not delivered", append(fields, zap.Error(delivered.Err))...)
	}
}

// observe verifies, logs and counts, and changes nothing: neither what the app gets nor what it answers.
func (n *Notify) observe(r *http.Request, account Account, verify Verify) {
	defer func() {
		if v := recover(); v != nil {
			verdict.LogPanic(n.logger, "panic in the observer of notifies", v)
		}
	}()
	event, rejected := n.inspect(r, account, verify)
	if rejected != nil {
		n.tell(r, account, rejected)
		n.note(nil, r, account, rejected, "observed")
		return
	}
	event.Placeholders(r, n.platform.Name, account)
	n.metrics.Verified(account.Name(), time.Now())
	n.metrics.Notified(account.Name(), event.Label, "observed", "")
	event.logAccess(r, account, "observed", "")
	n.remember(account, event, "observed", "", 0, 0)
}

// inspect verifies a request without changing it: what has been read is put back in front of the rest, error included.
func (n *Notify) inspect(r *http.Request, account Account, verify Verify) (*Event, *Rejection) {
	if rejected := n.checkRequest(r, account); rejected != nil {
		return nil, rejected
	}
	var content []byte
	if r.Body != nil {
		var read bytes.Buffer
		var err error
		content, err = body.Read(io.TeeReader(r.Body, &read), r.ContentLength, n.MaxSize)
		// Nobody behind closes what is left: net/http, from which Caddy's wrapper hides it, would read on in it for the
		// next request.
		r.Body = io.NopCloser(io.MultiReader(&read, failing{err}, r.Body))
		if err != nil {
			return nil, unreadable(err)
		}
	}
	event, rejected := verify(content, r.Header)
	if rejected != nil {
		rejected.content = content
	}
	return event, rejected
}

// failing is a reader that returns the error at which reading stopped, unless that was the gateway's own limit.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) {
	if f.err == nil || errors.Is(f.err, body.ErrTooLarge) {
		return 0, io.EOF
	}
	return 0, f.err
}

// reject answers with the platform's word for failure. The sender never learns why.
func (n *Notify) reject(w http.ResponseWriter, r *http.Request, account Account, rejected *Rejection) {
	n.tell(r, account, rejected) // before the answer, because its headers may use the placeholders
	if err := Say(w, rejected.Status, n.platform.Failed); err != nil {
		n.logger.Debug("rejected sender hung up", zap.Error(err))
	}
	n.note(w, r, account, rejected, "rejected")
}

// tell sets the placeholders of a rejected notify.
func (n *Notify) tell(r *http.Request, account Account, rejected *Rejection) {
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Set("http."+n.platform.Name+".merchant", nameOf(account))
		repl.Set("http."+n.platform.Name+".reason", rejected.Reason)
	}
}

func nameOf(account Account) string {
	if account == nil {
		return ""
	}
	return account.Name()
}

// note logs and counts a rejected notify. w holds the answer, or is nil if there is none.
func (n *Notify) note(w http.ResponseWriter, r *http.Request, account Account, rejected *Rejection, result string) {
	name := nameOf(account)
	n.metrics.Notified(name, "", result, rejected.Reason)
	n.rememberRefused(r, account, rejected, result)
	if extra := accesslog.Fields(r); extra != nil {
		extra.Add(zap.String("merchant", name))
		extra.Add(zap.String("outcome", result))
		extra.Add(zap.String("reason", rejected.Reason))
	}
	suppressed, ok := n.refusals.Allow(rejected.Reason)
	if !ok {
		return
	}
	fields := append([]zap.Field{
		zap.String("merchant", name), zap.String("reason", rejected.Reason), zap.Int("status", rejected.Status),
		zap.String("remote", r.RemoteAddr), zap.Int("suppressed", suppressed),
	}, rejected.Unverified...)
	if rejected.Detail != nil {
		fields = append(fields, zap.Error(rejected.Detail))
	}
	if n.platform.Explain != nil {
		if command := n.platform.Explain(rejected.Reason); command != "" {
			fields = append(fields, zap.String("explain", command))
		}
	}
	if mistake := n.metrics.diagnose(rejected); mistake != "" {
		fields = append(fields, zap.String("mistake", mistake))
	}
	message := "notify rejected"
	if result == "observed" {
		message = "notify would be rejected"
	}
	n.logger.Warn(message, fields...)
	if w != nil { // a small answer is still buffered, and handlers of the event may take long
		_ = http.NewResponseController(w).Flush()
	}
	ctx := n.ctx
	ctx.Context = context.WithoutCancel(ctx.Context) // it ends before the requests that a reload waits for
	n.events.Emit(ctx, n.platform.Name+".notify_rejected", map[string]any{
		"merchant": name, "reason": rejected.Reason, "remote": r.RemoteAddr, "observed": result == "observed", "suppressed": suppressed,
	})
}

// logAccess adds a verified event to the access log.
func (e *Event) logAccess(r *http.Request, account Account, result, reason string) {
	extra := accesslog.Fields(r)
	if extra == nil {
		return
	}
	extra.Add(zap.Inline(zapcore.ObjectMarshalerFunc(func(entry zapcore.ObjectEncoder) error {
		entry.AddString("merchant", account.Name())
		entry.AddString("order", e.Subject)
		entry.AddString("event", e.ID)
		entry.AddString("event_type", e.Type)
		entry.AddString("outcome", result)
		if reason != "" {
			entry.AddString("reason", reason)
		}
		return nil
	})))
}

// Placeholders makes the event's placeholders available. A value is computed only when it is used.
func (e *Event) Placeholders(r *http.Request, platform string, account Account) {
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return
	}
	repl.Map(func(key string) (any, bool) {
		name, ok := strings.CutPrefix(key, "http."+platform+".")
		if !ok {
			return nil, false
		}
		switch name {
		case "merchant":
			return account.Name(), true
		case "event_id":
			return e.ID, true
		case "event_type":
			return e.Type, true
		case "reason":
			return e.reason, true
		}
		word, ok := e.Word(name)
		if !ok {
			return nil, false
		}
		return word, true
	})
}

// Structured returns the event in the structured mode of CloudEvents 1.0 (JSON event format).
func (e *Event) Structured() []byte {
	event, err := json.Marshal(struct {
		SpecVersion     string          `json:"specversion"`
		ID              string          `json:"id"`
		Source          string          `json:"source"`
		Type            string          `json:"type"`
		Subject         string          `json:"subject,omitempty"`
		Time            string          `json:"time,omitempty"`
		Confirmed       string          `json:"confirmed,omitempty"`
		Evidence        string          `json:"evidence,omitempty"`
		Ordered         string          `json:"ordered,omitempty"`
		DataContentType string          `json:"datacontenttype"`
		Data            json.RawMessage `json:"data"`
	}{"1.0", e.ID, e.Source, e.Type, e.Subject, e.Time, e.Confirmed, e.Evidence, e.Ordered, "application/json", json.RawMessage("null")})
	if err != nil {
		panic(err) // strings always marshal
	}
	// The data is inserted as it is, so that both formats have the same bytes, and numbers are not parsed and written again.
	event = append(event[:len(event)-len("null}")], e.Data...)
	return append(event, '}')
}
