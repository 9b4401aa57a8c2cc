package inbox

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/google/uuid"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-chinaums/caddy-chinaums/internal/accesslog"
	"github.com/caddy-chinaums/caddy-chinaums/internal/body"
	"github.com/caddy-chinaums/caddy-chinaums/internal/locale"
	"github.com/caddy-chinaums/caddy-chinaums/internal/ratelog"
	"github.com/caddy-chinaums/caddy-chinaums/internal/text"
	"github.com/caddy-chinaums/caddy-chinaums/internal/verdict"
)

func init() {
	caddy.RegisterModule(Handler{})
}

// Defaults of a handler.
const (
	defaultID          = "{http.request.header.Ce-Source}#{http.request.header.Ce-Id}"
	defaultMaxSize     = 1 << 20
	defaultGiveUp      = 72 * time.Hour
	defaultTimeout     = 30 * time.Second
	defaultConcurrency = 8
)

var defaultRetry = []caddy.Duration{
	caddy.Duration(5 * time.Second), caddy.Duration(30 * time.Second), caddy.Duration(2 * time.Minute),
	caddy.Duration(10 * time.Minute), caddy.Duration(30 * time.Minute), caddy.Duration(time.Hour),
}

const (
	bodyPatience   = 30 * time.Second // for a request's body to arrive
	putPatience    = 10 * time.Second // for the store to store it
	retryAfter     = "30"             // seconds, for whoever is answered 503
	maxConcurrency = 1000
	maxID          = 1 << 10 // longer ids and keys are stored by their digest
	maxSubject     = 256     // bytes, of Ce-Subject

	longestOption = caddy.Duration(10 * 365 * 24 * time.Hour)
)

// Handler answers 202 once the request is safely stored, and at once if one with the same id is pending or was
// delivered. It then runs the `deliver` handlers until they have taken the request: at least once. Only what was in
// flight at a crash, or while a NATS cluster could record nothing for longer than a lease lasts, may come twice. What
// could not be stored is answered 503, what is larger than max_size 413.
//
// All handlers of one inbox must deliver in the same way: their options from `retry` on are equal.
//
// It adds the fields `inbox`, `receipt` (stored, repeated, revived, or refused) and `message_id` to the access log.
//
// In a Caddyfile:
//
//	inbox /notify {
//		timeout 30s
//		deliver {
//			webhook_signature {env.APP_SECRET}
//			reverse_proxy 127.0.0.1:8903
//		}
//	}
//
// In JSON:
//
//	{
//		"handler": "inbox",
//		"timeout": "30s",
//		"deliver": {
//			"handler": "subroute",
//			"routes": [
//				{
//					"handle": [
//						{
//							"handler": "webhook_signature",
//							"secrets": ["{env.APP_SECRET}"]
//						},
//						{
//							"handler": "reverse_proxy",
//							"upstreams": [{"dial": "127.0.0.1:8903"}]
//						}
//					]
//				}
//			]
//		}
//	}
type Handler struct {
	// The inbox's name. Default: `default`.
	Inbox string `json:"inbox,omitempty"`

	// What tells a request from others; placeholders. Where all of them are empty, a fresh id is made, with a WARN.
	// Default: `{http.request.header.Ce-Source}#{http.request.header.Ce-Id}`.
	ID string `json:"id,omitempty"`

	// How large a request body may be, in bytes. Default: 1 MiB.
	MaxSize int64 `json:"max_size,omitempty"`

	// The delays before the second, third, … delivery; then the last one again. Each is varied by up to a tenth.
	// Default: 5s 30s 2m 10m 30m 1h.
	Retry []caddy.Duration `json:"retry,omitempty"`

	// How long a message is tried before it becomes a dead letter, counted in the schedule's own time: the time that a
	// gateway was not running does not count, nor a clock's jump. Default: 72h.
	GiveUp caddy.Duration `json:"give_up,omitempty"`

	// How long one delivery may take. php_fastcgi does not watch it: set its read_timeout too. Default: 30s.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// How many deliveries may be in flight at once, at most 1000. Default: 8.
	Concurrency int `json:"concurrency,omitempty"`

	// When the app has taken a request: `word`, a 2xx whose body is empty or says SUCCESS or OK, or `2xx`, any 2xx but one
	// whose body says FAILED or FAIL. A compressed body cannot be read and is not taken. Default: `word`.
	Ack string `json:"ack,omitempty"`

	// Requests for which this is the same, and not empty, are delivered one after the other; placeholders. Default: no
	// order. Not every store can do it.
	OrderBy string `json:"order_by,omitempty"`

	// The handler that delivers, usually a subroute: the app's answer at its end says whether the request was taken.
	DeliverRaw json.RawMessage `json:"deliver,omitempty" caddy:"namespace=http.handlers inline_key=handler"`

	box     *box
	ended   <-chan struct{} // closed when the configuration is put away
	id      template
	orderBy template
	metrics *metrics
	events  func(event string, data map[string]any)
	logger  *zap.Logger
	notes   *ratelog.Limiter
	signs   bool // webhook_signature is in deliver
}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.inbox",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision finds the inbox, checks the options and loads the handlers that deliver.
func (h *Handler) Provision(ctx caddy.Context) error {
	if err := h.check(); err != nil {
		return err
	}
	module, err := ctx.App("inbox")
	if err != nil {
		return locale.Errorf("loading the inbox app: %w", err)
	}
	app := module.(*App)
	if h.box, err = app.claim(h.Inbox); err != nil {
		return err
	}
	if h.OrderBy != "" {
		if err := h.box.provider.Ordered(); err != nil {
			return locale.Errorf("order_by: the store of inbox %s cannot keep an order: %w", h.Inbox, err)
		}
	}
	h.metrics, h.events, h.ended = app.metrics, app.emit, ctx.Done()
	if h.box.intake == nil {
		h.box.intake = h
	}
	h.logger, h.notes = ctx.Logger().With(zap.String("inbox", h.Inbox)), ratelog.New(10)
	return h.provisionDelivery(ctx)
}

// check sets the defaults and says what is wrong with the options.
func (h *Handler) check() error {
	h.Inbox, h.ID, h.Ack = cmp.Or(h.Inbox, defaultName), cmp.Or(h.ID, defaultID), cmp.Or(h.Ack, verdict.AckWord)
	h.MaxSize, h.Concurrency = cmp.Or(h.MaxSize, defaultMaxSize), cmp.Or(h.Concurrency, defaultConcurrency)
	h.GiveUp, h.Timeout = cmp.Or(h.GiveUp, caddy.Duration(defaultGiveUp)), cmp.Or(h.Timeout, caddy.Duration(defaultTimeout))
	if h.Retry == nil {
		h.Retry = defaultRetry
	}
	switch {
	case h.MaxSize < 0:
		return locale.Errorf("max_size: must be positive")
	case len(h.Retry) == 0:
		return locale.Errorf("retry: at least one delay is needed")
	case slices.Min(h.Retry) <= 0 || slices.Max(h.Retry) > longestOption:
		return locale.Errorf("retry: every delay must be positive, and at most ten years")
	case h.GiveUp < 0 || h.GiveUp > longestOption:
		return locale.Errorf("give_up: must be positive, and at most ten years")
	case h.Timeout < 0 || h.Timeout > longestOption:
		return locale.Errorf("timeout: must be positive, and at most ten years")
	case h.Concurrency < 0 || h.Concurrency > maxConcurrency:
		return locale.Errorf("concurrency: must be from 1 to %d", maxConcurrency)
	case h.Ack != verdict.AckWord && h.Ack != verdict.Ack2xx:
		return locale.Errorf("ack: %q is neither word nor 2xx", h.Ack)
	}
	if h.id = newTemplate(h.ID); h.id.holes == 0 {
		return locale.Errorf("id: %q has no placeholder: all requests would be one", h.ID)
	}
	if h.orderBy = newTemplate(h.OrderBy); h.OrderBy != "" && h.orderBy.holes == 0 {
		return locale.Errorf("order_by: %q has no placeholder", h.OrderBy)
	}
	return nil
}

// provisionDelivery loads the handlers that deliver, or finds that they are those of another handler of the inbox.
func (h *Handler) provisionDelivery(ctx caddy.Context) error {
	if len(h.DeliverRaw) == 0 || string(h.DeliverRaw) == "null" {
		return locale.Errorf("deliver: at least one handler is needed, such as reverse_proxy")
	}
	h.signs = bytes.Contains(h.DeliverRaw, []byte(`"webhook_signature"`))
	identity, err := h.deliveryIdentity()
	if err != nil {
		return err
	}
	if existing := h.box.delivery; existing != nil {
		if existing.identity != identity {
			return locale.Errorf("two handlers of inbox %s deliver differently; make their options from retry to deliver equal, or give each an inbox of its own", h.Inbox)
		}
		return nil
	}
	loaded, err := ctx.LoadModule(h, "DeliverRaw")
	if err != nil {
		return locale.Errorf("deliver: %w", err)
	}
	if subroute, ok := loaded.(*caddyhttp.Subroute); ok && len(subroute.Routes) == 0 {
		return locale.Errorf("deliver: at least one handler is needed, such as reverse_proxy")
	}
	if h.box.delivery != nil {
		return locale.Errorf("deliver: it hands the requests of inbox %s to this inbox itself: nobody would get them", h.Inbox)
	}
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok || server == nil {
		server = new(caddyhttp.Server)
	}
	h.box.delivery = newDelivery(h, identity, loaded.(caddyhttp.MiddlewareHandler), server)
	longest := time.Duration(slices.Max(h.Retry))
	h.box.settings.Lease, h.box.settings.MaxDelay = time.Duration(h.Timeout), longest+longest/10
	return nil
}

// deliveryIdentity is the same for two handlers that deliver in the same way.
func (h *Handler) deliveryIdentity() (string, error) {
	decoder := json.NewDecoder(bytes.NewReader(h.DeliverRaw))
	decoder.UseNumber()
	var deliver any
	if err := decoder.Decode(&deliver); err != nil {
		return "", locale.Errorf("deliver: %w", err)
	}
	renumberGroups(deliver, make(map[string]string))
	identity, err := json.Marshal([]any{h.Retry, h.GiveUp, h.Timeout, h.Concurrency, h.Ack, h.OrderBy, deliver})
	return string(identity), err
}

// renumberGroups gives the groups of routes names by the order of their appearance: the Caddyfile adapter counts them
// through the whole configuration, so that two equal blocks have different ones.
func renumberGroups(value any, names map[string]string) {
	switch value := value.(type) {
	case []any:
		for _, element := range value {
			if route, ok := element.(map[string]any); ok {
				if group, ok := route["group"].(string); ok {
					if names[group] == "" {
						names[group] = fmt.Sprint("group", len(names))
					}
					route["group"] = names[group]
				}
			}
			renumberGroups(element, names)
		}
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(value)) {
			renumberGroups(value[key], names)
		}
	}
}

// ServeHTTP implements caddyhttp.MiddlewareHandler. It answers, and never calls the next handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	content, err := body.ReadRequest(w, r, h.MaxSize, bodyPatience)
	if err != nil {
		body.AnswerEarly(w, r, bodyPatience)
		h.access(r, "refused", "")
		return unreadable(err)
	}
	stored, err := capture(r, content)
	if err != nil {
		h.access(r, "refused", "")
		return caddyhttp.Error(http.StatusBadRequest, err)
	}
	message := &Message{Received: time.Now(), Request: stored.encode(), Subject: text.Head(r.Header.Get("Ce-Subject"), maxSubject)}
	if message.ID, message.Key, err = h.identify(r, content); err != nil {
		h.access(r, "refused", "")
		return caddyhttp.Error(http.StatusInternalServerError, err)
	}
	receipt, err := h.put(r, message)
	if err == nil {
		h.access(r, receipt.String(), message.ID)
		w.WriteHeader(http.StatusAccepted)
		return nil
	}
	h.access(r, "refused", message.ID)
	if errors.Is(err, ErrTooLarge) {
		h.warn("too_large", "request refused: it is larger than the store takes", message, err)
		return caddyhttp.Error(http.StatusRequestEntityTooLarge, err)
	}
	h.warn(putReason(err), "request not stored", message, err)
	// Not an error of Caddy's own, of which each would be a line in its log.
	w.Header().Set("Retry-After", retryAfter)
	w.WriteHeader(http.StatusServiceUnavailable)
	return nil
}

// put stores a message. Neither a client that goes away nor the time that a chain in front gives cuts it off: what it
// returns is what has happened.
func (h *Handler) put(r *http.Request, message *Message) (Receipt, error) {
	store := h.box.await(r.Context(), h.ended)
	if store == nil {
		h.metrics.put(h.Inbox, putReason(errNotReady))
		return 0, errNotReady
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), putPatience)
	defer cancel()
	began := time.Now()
	receipt, err := store.Put(ctx, message)
	h.metrics.took(h.Inbox, time.Since(began))
	result := receipt.String()
	if err != nil {
		result = putReason(err)
	}
	h.metrics.put(h.Inbox, result)
	switch {
	case err == nil:
		store.storing.passed().ended(h.Inbox, "requests are stored again", h.logger, h.events)
	case !errors.Is(err, ErrTooLarge) && !errors.Is(err, ErrClosed):
		store.storing.failed(time.Now())
	}
	return receipt, err
}

var errNotReady = errors.New("the inbox has not been opened yet")

// putReason is a word of a bounded set for why a request was not stored.
func putReason(err error) string {
	switch {
	case errors.Is(err, ErrFull):
		return "full"
	case errors.Is(err, ErrTooLarge):
		return "too_large"
	case errors.Is(err, ErrClosed):
		return "closed"
	case errors.Is(err, errNotReady):
		return "not_ready"
	case errors.Is(err, context.DeadlineExceeded):
		return "slow"
	}
	return "store"
}

// warn logs why a request was not stored, at most ten times a minute for each reason.
func (h *Handler) warn(reason, words string, message *Message, err error) {
	h.notes.Log(reason, h.logger.Error, words, zap.String("reason", reason), zap.String("message_id", text.Head(message.ID, loggedID)),
		zap.Int("size", len(message.Request)), zap.Error(err))
}

// access adds what was done to the access log.
func (h *Handler) access(r *http.Request, receipt, id string) {
	extra := accesslog.Fields(r)
	if extra == nil {
		return
	}
	extra.Add(zap.Inline(zapcore.ObjectMarshalerFunc(func(entry zapcore.ObjectEncoder) error {
		entry.AddString("inbox", h.Inbox)
		entry.AddString("receipt", receipt)
		if id != "" {
			entry.AddString("message_id", text.Head(id, loggedID))
		}
		return nil
	})))
}

// unreadable is the answer to a request whose body could not be read.
func unreadable(err error) error {
	if failed, ok := errors.AsType[caddyhttp.HandlerError](err); ok { // request_body's, for one
		return failed
	}
	return caddyhttp.Error(body.Status(err), err)
}

// identify returns the message's id and the key of its order.
func (h *Handler) identify(r *http.Request, content []byte) (id, key string, err error) {
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return "", "", errors.New("the request has no placeholders")
	}
	id, empty, err := h.id.fill(repl, content)
	if err != nil {
		return "", "", fmt.Errorf("id: %w", err)
	}
	if empty {
		id = uuid.NewString()
		h.notes.Log("no_id", h.logger.Warn, "request without an id: repetitions of it will be delivered too; set the option id",
			zap.String("id", h.ID), zap.String("fresh_id", id))
	}
	if h.OrderBy != "" {
		if key, empty, err = h.orderBy.fill(repl, content); err != nil {
			return "", "", fmt.Errorf("order_by: %w", err)
		} else if empty {
			key = ""
		}
	}
	return id, key, nil
}

// template is a text with placeholders, of which different values are to make different texts.
type template struct {
	text           string
	holes          int
	prefix, suffix string
	literals       map[string]int // what stands between two placeholders, and how often
	adjacent       bool           // two placeholders have nothing between them
}

// newTemplate finds out what stands between a text's placeholders.
func newTemplate(text string) template {
	const mark = "\x00"
	repl := caddy.NewEmptyReplacer()
	repl.Map(func(string) (any, bool) { return mark, true })
	parts := strings.Split(repl.ReplaceAll(text, ""), mark)
	t := template{text: text, holes: len(parts) - 1, prefix: parts[0], suffix: parts[len(parts)-1], literals: make(map[string]int)}
	for i := 1; i < t.holes; i++ {
		t.literals[parts[i]]++
		t.adjacent = t.adjacent || parts[i] == ""
	}
	return t
}

// digestPrefix is what a digest in the place of a text begins with. No text that is taken as it is does.
const digestPrefix = "sha256:"

// fill puts the values in, and reports whether all of them are empty. Where other values could have made the same text,
// as a and b#c might instead of a#b and c, or where the text is long or looks like a digest, the result is a digest of the
// values.
//
// The body's placeholders are answered here: content has been read, and is not in the request any more.
func (t template) fill(repl *caddy.Replacer, content []byte) (filled string, empty bool, err error) {
	values := make([]string, 0, 4)
	empty = true
	filled, err = repl.ReplaceFunc(t.text, func(name string, value any) (any, error) {
		var text string
		switch name {
		case "http.request.body":
			text = string(content)
		case "http.request.body_base64":
			text = base64.StdEncoding.EncodeToString(content)
		default:
			text = caddy.ToString(value)
		}
		values = append(values, text)
		empty = empty && text == ""
		return text, nil
	})
	if err != nil || len(filled) <= maxID && !t.ambiguous(filled) && !strings.HasPrefix(filled, digestPrefix) {
		return filled, empty, err
	}
	digest := sha256.New()
	for _, value := range values {
		var length [8]byte
		binary.BigEndian.PutUint64(length[:], uint64(len(value)))
		digest.Write(length[:])
		digest.Write([]byte(value))
	}
	return digestPrefix + hex.EncodeToString(digest.Sum(nil)), empty, nil
}

// ambiguous reports whether what stands between placeholders is found more often than the template has it. Where nothing
// stands there, every text is.
func (t template) ambiguous(filled string) bool {
	if t.adjacent {
		return true
	}
	inner := filled[len(t.prefix) : len(filled)-len(t.suffix)]
	for literal, count := range t.literals {
		for rest := inner; ; count-- {
			at := strings.Index(rest, literal)
			if at < 0 {
				break
			}
			rest = rest[at+1:] // they may overlap
		}
		if count < 0 {
			return true
		}
	}
	return false
}

var receipts = map[Receipt]string{Stored: "stored", Repeated: "repeated", Revived: "revived"}

// String is the receipt's word.
func (r Receipt) String() string { return receipts[r] }

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
