package inbox

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
)

func init() {
	caddy.RegisterModule(adminAPI{})
}

// adminAPI is the inboxes' part of Caddy's admin API:
//
//	GET  /inbox                                   the inboxes and their counts
//	GET  /inbox/<name>                            the counts of one
//	GET  /inbox/<name>/messages                   its messages in the order of seq, without bodies
//	     ?state=pending|delivered|dead            only those
//	     &search=<text>                           only those whose id or subject contains it
//	     &after=<seq>                             only those with a higher seq: the last one's, for the next page
//	     &limit=100                               at most so many, 1 to 1000
//	GET  /inbox/<name>/messages/<seq>             one message, masked
//	     ?show=1                                  unmasked
//	POST /inbox/<name>/messages/<seq>/redeliver   delivers it now, again if it was given up
//	     ?force=1                                 even if it was delivered
//	DELETE /inbox/<name>/messages/<seq>           removes it for good
//	     ?force=1                                 even if it is still to be delivered
//	DELETE /inbox/<name>/messages?state=dead      removes all that were given up
//	     &before=<time>                           only those that were given up before it (RFC 3339)
//
// A line in the log says who has deleted or redelivered which, or has seen it unmasked.
//
// Lists are arrays. What goes wrong is answered as in the rest of the API: {"error":"…"} with 400 for a query that is
// wrong, 404 for what there is not, 409 for a message that cannot be redelivered or deleted, 503 while the inbox is not open.
type adminAPI struct {
	inboxes func() (directory, error) // nil: those of the running configuration
}

// directory is what the API needs of the app.
type directory interface {
	Names() []string
	Lookup(name string) (Store, bool)
}

// adminPatience bounds how long a store may take to answer.
const adminPatience = 30 * time.Second

// Limits of a list.
const (
	defaultPage  = 100
	largestPage  = 1000
	shownInError = 64 // bytes
)

// CaddyModule returns the Caddy module information.
func (adminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.inbox",
		New: func() caddy.Module { return new(adminAPI) },
	}
}

// Routes implements caddy.AdminRouter.
func (a *adminAPI) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{
		a.route("/inbox", served{http.MethodGet, a.serveInboxes, nil}),
		a.route("/inbox/{name}", served{http.MethodGet, serveInbox, nil}),
		a.route("/inbox/{name}/messages", served{http.MethodGet, serveMessages, []string{"state", "search", "after", "limit"}},
			served{http.MethodDelete, serveDeleteDead, []string{"state", "before"}}),
		a.route("/inbox/{name}/messages/{seq}", served{http.MethodGet, serveMessage, []string{"show"}},
			served{http.MethodDelete, serveDelete, []string{"force"}}),
		a.route("/inbox/{name}/messages/{seq}/redeliver", served{http.MethodPost, serveRedeliver, []string{"force"}}),
		{Pattern: "/inbox/", Handler: caddy.AdminHandlerFunc(func(http.ResponseWriter, *http.Request) error {
			return apiError(http.StatusNotFound, "there is nothing here; see /inbox, /inbox/<name> and /inbox/<name>/messages")
		})},
	}
}

// served is one method of a route, and the parameters that it takes, each at most once.
type served struct {
	method     string
	serve      func(q *question) (any, error)
	parameters []string
}

// question is a request to the API, with what its query and path name.
type question struct {
	*http.Request
	query url.Values
	store Store  // of the inbox that the path names, if it names one
	seq   uint64 // that the path names, likewise
}

func (a *adminAPI) route(pattern string, all ...served) caddy.AdminRoute {
	return caddy.AdminRoute{Pattern: pattern, Handler: caddy.AdminHandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		at := slices.IndexFunc(all, func(s served) bool { return s.method == r.Method })
		if at < 0 {
			var methods []string
			for _, s := range all {
				methods = append(methods, s.method)
			}
			allowed := strings.Join(methods, ", ")
			w.Header().Set("Allow", allowed)
			return apiError(http.StatusMethodNotAllowed, "method not allowed; it is %s", allowed)
		}
		ctx, cancel := context.WithTimeout(r.Context(), adminPatience)
		defer cancel()
		q, err := a.question(r.WithContext(ctx), all[at].parameters)
		var answer any
		if err == nil {
			answer, err = all[at].serve(q)
		}
		if err != nil {
			return asAPIError(err)
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		encoder := json.NewEncoder(w)
		encoder.SetEscapeHTML(false)
		return encoder.Encode(answer)
	})}
}

// question reads the query, which may have these parameters, and finds what the path names.
func (a *adminAPI) question(r *http.Request, parameters []string) (*question, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, apiError(http.StatusBadRequest, "the query cannot be read")
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		if !slices.Contains(parameters, name) {
			return nil, apiError(http.StatusBadRequest, "unknown parameter %s; known here: %s", shown(name), cmp.Or(strings.Join(parameters, ", "), "none"))
		}
		if len(query[name]) > 1 {
			return nil, apiError(http.StatusBadRequest, "%s is given twice", name)
		}
	}
	q := &question{Request: r, query: query}
	name, seq := r.PathValue("name"), r.PathValue("seq")
	if name == "" {
		return q, nil
	}
	inboxes, err := a.directory()
	if err != nil {
		return nil, err
	}
	var ok bool
	switch q.store, ok = inboxes.Lookup(name); {
	case ok:
	case slices.Contains(inboxes.Names(), name):
		return nil, apiError(http.StatusServiceUnavailable, "inbox %s is not open yet", name)
	default:
		return nil, apiError(http.StatusNotFound, "there is no inbox %s", shown(name))
	}
	if q.seq, err = strconv.ParseUint(seq, 10, 64); seq != "" && (err != nil || q.seq == 0) {
		return nil, ErrNotFound
	}
	return q, nil
}

// parameter reads a parameter of the query, if it is there. wrong ends the error, such as "not a number".
func parameter[T any](q *question, name string, target *T, parse func(text string) (T, error), wrong string) error {
	if !q.query.Has(name) {
		return nil
	}
	value, err := parse(q.query.Get(name))
	if err != nil {
		return apiError(http.StatusBadRequest, "%s: %s is %s", name, shown(q.query.Get(name)), wrong)
	}
	*target = value
	return nil
}

// flag reads a parameter such as show=1.
func (q *question) flag(name string) (on bool, err error) {
	err = parameter(q, name, &on, strconv.ParseBool, "neither 1 nor 0")
	return on, err
}

func apiError(status int, format string, arguments ...any) error {
	return caddy.APIError{HTTPStatus: status, Err: fmt.Errorf(format, arguments...)}
}

// asAPIError finds the status of a store's error.
func asAPIError(err error) error {
	if _, ok := err.(caddy.APIError); ok { //nolint:errorlint // Caddy does not look deeper either
		return err
	}
	status := http.StatusServiceUnavailable // it may pass: the engine is gone, or slow
	switch {
	case errors.Is(err, ErrNotFound):
		status = http.StatusNotFound
	case errors.Is(err, ErrDelivered):
		return apiError(http.StatusConflict, "the message was delivered; force=1 delivers it again")
	case errors.Is(err, ErrPending):
		return apiError(http.StatusConflict, "the message is still to be delivered; force=1 deletes it all the same")
	case errors.Is(err, ErrLeased), errors.Is(err, ErrNoRequest):
		status = http.StatusConflict
	case errors.Is(err, context.DeadlineExceeded):
		return apiError(status, "the store did not answer in time")
	}
	return caddy.APIError{HTTPStatus: status, Err: err}
}

// shown quotes what a client wrote, for an error.
func shown(text string) string {
	if len(text) > shownInError {
		return strconv.QuoteToASCII(text[:shownInError]) + "…"
	}
	return strconv.QuoteToASCII(text)
}

// active finds the inboxes of the configuration that runs now. They are looked for at each request: the API is there
// before the apps are, and an app need not be configured to be there, as a handler's inbox `default` is. The context that
// the API's modules are provisioned with would not do: apps are being added to it while requests already come in.
func active() (directory, error) {
	ctx := caddy.ActiveContext()
	if ctx.Context == nil {
		return nil, apiError(http.StatusServiceUnavailable, "Caddy has not started yet")
	}
	app, err := ctx.AppIfConfigured("inbox")
	if errors.Is(err, caddy.ErrNotConfigured) {
		return new(App), nil
	}
	if err != nil {
		return nil, err
	}
	return app.(*App), nil
}

func (a *adminAPI) directory() (directory, error) {
	if a.inboxes != nil {
		return a.inboxes()
	}
	return active()
}

// inboxJSON is an inbox in an answer.
type inboxJSON struct {
	Name      string    `json:"name"`
	Pending   int64     `json:"pending"`
	Delivered int64     `json:"delivered"`
	Dead      int64     `json:"dead"`
	Oldest    time.Time `json:"oldest,omitzero"` // when the oldest pending message was received
	Bytes     int64     `json:"bytes"`           // what counts against max_store
	Error     string    `json:"error,omitempty"` // why there are no counts
}

func (j *inboxJSON) count(stats Stats) {
	j.Pending, j.Delivered, j.Dead, j.Oldest, j.Bytes = stats.Pending, stats.Delivered, stats.Dead, stats.Oldest, stats.Bytes
}

func (a *adminAPI) serveInboxes(q *question) (any, error) {
	inboxes, err := a.directory()
	if err != nil {
		return nil, err
	}
	list := []inboxJSON{}
	for _, name := range inboxes.Names() {
		entry := inboxJSON{Name: name, Error: "not open yet"}
		if store, ok := inboxes.Lookup(name); ok {
			entry.Error = ""
			if stats, err := store.Stats(q.Context()); err != nil {
				entry.Error = err.Error()
			} else {
				entry.count(stats)
			}
		}
		list = append(list, entry)
	}
	return list, nil
}

func serveInbox(q *question) (any, error) {
	stats, err := q.store.Stats(q.Context())
	answer := inboxJSON{Name: q.PathValue("name")}
	answer.count(stats)
	return answer, err
}

// messageJSON is a message in an answer.
type messageJSON struct {
	Seq      uint64       `json:"seq"`
	ID       string       `json:"id"`
	Key      string       `json:"key,omitempty"`     // of order_by
	Subject  string       `json:"subject,omitempty"` // what Ce-Subject said: of a platform's event, the order's number
	State    State        `json:"state"`
	Received time.Time    `json:"received"`
	Attempts int          `json:"attempts"`          // deliveries that have failed
	Due      time.Time    `json:"due,omitzero"`      // of a pending one that has failed: its next delivery
	Settled  time.Time    `json:"settled,omitzero"`  // when it was delivered, or given up
	Answer   *Answer      `json:"answer,omitempty"`  // the app's last
	Request  *requestJSON `json:"request,omitempty"` // not in lists, nor where it was dropped to make room
}

func newMessageJSON(m *Message) messageJSON {
	j := messageJSON{Seq: m.Seq, ID: m.ID, Key: m.Key, Subject: m.Subject, State: m.State, Received: m.Received, Attempts: m.Attempts}
	if m.State == Pending {
		j.Due = m.Due
	} else {
		j.Settled = m.Settled
	}
	if m.Answer != (Answer{}) {
		j.Answer = &m.Answer
	}
	return j
}

func serveMessages(q *question) (any, error) {
	query := Query{Limit: defaultPage, Search: q.query.Get("search")}
	err := cmp.Or(
		parameter(q, "state", &query.State, func(text string) (State, error) {
			if state := State(text); state == Pending || state == Delivered || state == Dead {
				return state, nil
			}
			return "", errWrong
		}, "not one of: pending, delivered, dead"),
		parameter(q, "after", &query.After, func(text string) (uint64, error) { return strconv.ParseUint(text, 10, 64) },
			"not the seq of a message"),
		parameter(q, "limit", &query.Limit, func(text string) (int, error) {
			limit, err := strconv.Atoi(text)
			if err == nil && (limit < 1 || limit > largestPage) {
				err = errWrong
			}
			return limit, err
		}, fmt.Sprintf("not a number from 1 to %d", largestPage)))
	if err != nil {
		return nil, err
	}
	messages, err := q.store.List(q.Context(), query)
	if err != nil {
		return nil, err
	}
	list := make([]messageJSON, 0, len(messages))
	for _, message := range messages {
		entry := newMessageJSON(message)
		if entry.Answer != nil {
			entry.Answer = &Answer{Status: message.Answer.Status, Error: message.Answer.Error} // no bodies
		}
		list = append(list, entry)
	}
	return list, nil
}

var errWrong = errors.New("it is something else")

func serveMessage(q *question) (any, error) {
	show, err := q.flag("show")
	if err != nil {
		return nil, err
	}
	message, err := q.store.Get(q.Context(), q.seq)
	if err != nil {
		return nil, err
	}
	if show {
		q.audit("a message of the inbox was shown unmasked", zap.Uint64("seq", q.seq))
	}
	answer := newMessageJSON(message)
	if len(message.Request) > 0 {
		stored, err := decodeRequest(message.Request)
		if err != nil {
			return nil, apiError(http.StatusInternalServerError, "the stored request cannot be read: %w", err)
		}
		answer.Request = newRequestJSON(stored, show)
	}
	return answer, nil
}

// redeliveredJSON is the answer to a redelivery.
type redeliveredJSON struct {
	Seq   uint64 `json:"seq"` // it may be a new one
	State State  `json:"state"`
}

func serveRedeliver(q *question) (any, error) {
	force, err := q.flag("force")
	if err != nil {
		return nil, err
	}
	seq, err := q.store.Redeliver(q.Context(), q.seq, force)
	if err == nil {
		q.audit("a message of the inbox is delivered again", zap.Uint64("seq", q.seq), zap.Bool("force", force))
	}
	return redeliveredJSON{seq, Pending}, err
}

// deletedJSON is the answer to a deletion.
type deletedJSON struct {
	Deleted int `json:"deleted"` // how many are gone
}

func serveDelete(q *question) (any, error) {
	force, err := q.flag("force")
	if err != nil {
		return nil, err
	}
	if err := q.store.Delete(q.Context(), q.seq, force); err != nil {
		return nil, err
	}
	q.audit("a message of the inbox was deleted", zap.Uint64("seq", q.seq), zap.Bool("force", force))
	return deletedJSON{1}, nil
}

func serveDeleteDead(q *question) (any, error) {
	if State(q.query.Get("state")) != Dead {
		return nil, apiError(http.StatusBadRequest, "state=dead is required: only dead messages are deleted together")
	}
	var before time.Time
	err := parameter(q, "before", &before, func(text string) (time.Time, error) { return time.Parse(time.RFC3339, text) },
		"not a time such as 2026-01-31T08:00:00+08:00")
	if err != nil {
		return nil, err
	}
	if q.query.Has("before") && before.IsZero() {
		return deletedJSON{0}, nil // to the store, that time says all
	}
	deleted, err := q.store.DeleteDead(q.Context(), before)
	if deleted > 0 {
		q.audit("dead messages of the inbox were deleted", zap.Int("deleted", deleted), zap.String("before", q.query.Get("before")))
		if err != nil {
			err = fmt.Errorf("%d are deleted; then: %w", deleted, err)
		}
	}
	return deletedJSON{deleted}, err
}

// audit says in the log who has done what. What was in a message is never said.
func (q *question) audit(text string, fields ...zap.Field) {
	fields = append([]zap.Field{zap.String("inbox", q.PathValue("name"))}, fields...)
	// Of the configuration, for Caddy's own logger writes to the log default only.
	caddy.ActiveContext().Logger(adminAPI{}).Info(text, append(fields, zap.String("remote", q.RemoteAddr))...)
}

// requestJSON is a stored request in an answer.
type requestJSON struct {
	Method  string      `json:"method"`
	URI     string      `json:"uri"` // masked: without the query's content
	Proto   string      `json:"proto"`
	Host    string      `json:"host"`
	Remote  string      `json:"remote"`
	Headers http.Header `json:"headers"` // masked: all values but harmless ones are "REDACTED"
	Body    bodyJSON    `json:"body"`
}

// bodyJSON is a body in an answer. Masked it is neither text nor base64; else it is the one or, if it is not UTF-8, the
// other.
type bodyJSON struct {
	Size   int     `json:"size"`
	SHA256 string  `json:"sha256"`
	Text   *string `json:"text,omitempty"`
	Base64 []byte  `json:"base64,omitempty"`
}

// redacted is what Caddy's logs have in the place of what must not be seen.
const redacted = "REDACTED"

// harmless are the headers whose values a masked request shows.
var harmless = map[string]bool{
	"Content-Type": true, "Content-Length": true, "Content-Encoding": true, "User-Agent": true, "Traceparent": true,
	"Ce-Specversion": true, "Ce-Id": true, "Ce-Source": true, "Ce-Type": true, "Ce-Subject": true, "Ce-Time": true,
	"Webhook-Id": true, "Webhook-Timestamp": true,
}

func newRequestJSON(q *request, show bool) *requestJSON {
	digest := sha256.Sum256(q.Body)
	j := &requestJSON{
		Method: q.Method, URI: q.URI, Proto: q.Proto, Host: q.Host, Remote: q.Remote, Headers: q.Header,
		Body: bodyJSON{Size: len(q.Body), SHA256: hex.EncodeToString(digest[:])},
	}
	switch {
	case !show:
		if path, _, ok := strings.Cut(q.URI, "?"); ok {
			j.URI = path + "?" + redacted
		}
		j.Headers = make(http.Header, len(q.Header))
		for name, values := range q.Header {
			if !harmless[http.CanonicalHeaderKey(name)] {
				values = []string{redacted}
			}
			j.Headers[name] = values
		}
	case utf8.Valid(q.Body):
		text := string(q.Body)
		j.Body.Text = &text
	default:
		j.Body.Base64 = q.Body
	}
	return j
}

// Interface guards
var (
	_ caddy.AdminRouter = (*adminAPI)(nil)
	_ directory         = (*App)(nil)
)
