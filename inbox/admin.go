package inbox

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/internal/adminapi"
	"github.com/caddy-chinaums/caddy-chinaums/internal/text"
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

// CaddyModule returns the Caddy module information.
func (adminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.inbox",
		New: func() caddy.Module { return new(adminAPI) },
	}
}

// Routes implements caddy.AdminRouter.
func (a *adminAPI) Routes() []caddy.AdminRoute {
	route := func(pattern string, methods ...adminapi.Method[*question]) caddy.AdminRoute {
		return adminapi.Route(pattern, a.question, explain, methods...)
	}
	get, post, remove := http.MethodGet, http.MethodPost, http.MethodDelete
	return []caddy.AdminRoute{
		route("/inbox", adminapi.On(get, a.serveInboxes)),
		route("/inbox/{name}", adminapi.On(get, serveInbox)),
		route("/inbox/{name}/messages", adminapi.On(get, serveMessages, "state", "search", "after", "limit"),
			adminapi.On(remove, serveDeleteDead, "state", "before")),
		route("/inbox/{name}/messages/{seq}", adminapi.On(get, serveMessage, "show"), adminapi.On(remove, serveDelete, "force")),
		route("/inbox/{name}/messages/{seq}/redeliver", adminapi.On(post, serveRedeliver, "force")),
		adminapi.Nothing("/inbox/", "/inbox, /inbox/<name> and /inbox/<name>/messages"),
	}
}

// question is a request to the API, with what its path names.
type question struct {
	*adminapi.Question
	store Store  // of the inbox that the path names, if it names one
	seq   uint64 // that the path names, likewise
}

func (a *adminAPI) question(plain *adminapi.Question) (*question, error) {
	q := &question{Question: plain}
	name, seq := q.PathValue("name"), q.PathValue("seq")
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
		return nil, adminapi.Errorf(http.StatusServiceUnavailable, "inbox %s is not open yet", name)
	default:
		return nil, adminapi.Errorf(http.StatusNotFound, "there is no inbox %s", text.Name(name))
	}
	if q.seq, err = parseSeq(seq); seq != "" && (err != nil || q.seq == 0) {
		return nil, ErrNotFound
	}
	return q, nil
}

func parseSeq(text string) (uint64, error) { return strconv.ParseUint(text, 10, 64) }

// flag reads a parameter such as show=1.
func (q *question) flag(name string) (on bool, err error) {
	err = adminapi.Read(q.Question, name, &on, strconv.ParseBool, "neither 1 nor 0")
	return on, err
}

// explain finds the status of a store's error.
func explain(_ http.ResponseWriter, err error) error {
	status := http.StatusServiceUnavailable // it may pass: the engine is gone, or slow
	switch {
	case errors.Is(err, ErrNotFound):
		status = http.StatusNotFound
	case errors.Is(err, ErrDelivered):
		return adminapi.Errorf(http.StatusConflict, "the message was delivered; force=1 delivers it again")
	case errors.Is(err, ErrPending):
		return adminapi.Errorf(http.StatusConflict, "the message is still to be delivered; force=1 deletes it all the same")
	case errors.Is(err, ErrLeased), errors.Is(err, ErrNoRequest):
		status = http.StatusConflict
	case errors.Is(err, context.DeadlineExceeded):
		return adminapi.Errorf(status, "the store did not answer in time")
	}
	return caddy.APIError{HTTPStatus: status, Err: err}
}

// directory finds the inboxes of the configuration that runs now. The app need not be configured to be there, as a handler's
// inbox `default` is.
func (a *adminAPI) directory() (directory, error) {
	if a.inboxes != nil {
		return a.inboxes()
	}
	app, err := adminapi.App("inbox")
	if app == nil || err != nil {
		return new(App), err
	}
	return app.(*App), nil
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

func newInboxJSON(ctx context.Context, name string, store Store) (inboxJSON, error) {
	stats, err := store.Stats(ctx)
	if err != nil {
		return inboxJSON{Name: name, Error: err.Error()}, err
	}
	return inboxJSON{name, stats.Pending, stats.Delivered, stats.Dead, stats.Oldest, stats.Bytes, ""}, nil
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
			entry, _ = newInboxJSON(q.Context(), name, store) // it has the error
		}
		list = append(list, entry)
	}
	return list, nil
}

func serveInbox(q *question) (any, error) {
	return newInboxJSON(q.Context(), q.PathValue("name"), q.store)
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
	query := Query{Limit: adminapi.DefaultPage, Search: q.Query.Get("search")}
	err := cmp.Or(
		adminapi.Read(q.Question, "state", &query.State, func(text string) (State, error) {
			if state := State(text); state == Pending || state == Delivered || state == Dead {
				return state, nil
			}
			return "", strconv.ErrSyntax
		}, "not one of: pending, delivered, dead"),
		adminapi.Read(q.Question, "after", &query.After, parseSeq, "not the seq of a message"),
		q.ReadLimit(&query.Limit))
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
			return nil, adminapi.Errorf(http.StatusInternalServerError, "the stored request cannot be read: %w", err)
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
	if State(q.Query.Get("state")) != Dead {
		return nil, adminapi.Errorf(http.StatusBadRequest, "state=dead is required: only dead messages are deleted together")
	}
	var before time.Time
	err := adminapi.Read(q.Question, "before", &before, func(text string) (time.Time, error) { return time.Parse(time.RFC3339, text) },
		"not a time such as 2026-01-31T08:00:00+08:00")
	if err != nil {
		return nil, err
	}
	if q.Query.Has("before") && before.IsZero() {
		return deletedJSON{0}, nil // to the store, that time says all
	}
	deleted, err := q.store.DeleteDead(q.Context(), before)
	if deleted > 0 {
		q.audit("dead messages of the inbox were deleted", zap.Int("deleted", deleted), zap.String("before", q.Query.Get("before")))
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
	"Ce-Confirmed": true, "Ce-Evidence": true, "Ce-Ordered": true,
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
