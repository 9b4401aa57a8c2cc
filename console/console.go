// Package console is the page for whoever is on duty: what is going on with the money, and what needs a person. It is part of
// Caddy's admin endpoint, whose rules say who may see it. It reads what internal/recent keeps, and asks the platforms' apps
// what only they know; the page's own script asks the admin APIs of the inbox and of the watch.
package console

import (
	"bytes"
	"cmp"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/internal/recent"
)

func init() {
	caddy.RegisterModule(adminAPI{})
}

//go:embed page
var pageFiles embed.FS

// adminAPI is the console, a page for the person on duty, with what it shows:
//
//	GET  /gateway/                            the page
//	GET  /gateway/state                       what is configured, and what is counted of the last 24 hours
//	     ?after=<number>                      and the calls and notifies behind this one, the newest first: one request asks it all
//	GET  /gateway/calls                       the last calls, the newest first
//	     ?after=<number>                      only those behind this one
//	     &search=<text>                       only those with a number of an order or a refund that contains it
//	     &limit=1250                          at most so many
//	GET  /gateway/notifies                    the last notifies, likewise; search also finds the id of an event
//	GET  /gateway/notifies/<number>/explain   why a notify was refused, masked: {"text":"…"}
//	     ?lang=zh                             in Chinese
//	GET  /gateway/notifies/<number>/capture   a refused notify as it came, for `caddy chinaums verify`; a line in the log tells of it
//	GET  /gateway/codes/<platform>/<code>     what a platform's code means, and what to do: {"cause":"…","remedy":"…"}
//	     ?lang=zh                             in Chinese
//
// Nothing here changes anything: what the page does, it does by the admin APIs of the inbox and of the watch.
type adminAPI struct {
	log  *recent.Log                               // nil: the process's
	apps func() (map[string]platform, bool, error) // nil: those of the running configuration
}

// platform is what a platform's app tells the console.
type platform interface{ Accounts() []string }

// These an app may have besides.
type (
	watcher   interface{ Watches() bool }
	explainer interface {
		ExplainNotify(w io.Writer, account string, content []byte, header http.Header, chinese bool) error
	}
	coder interface {
		ExplainCode(code string, chinese bool) (cause, remedy string, known bool)
	}
)

// platforms are the apps that may be there.
var platforms = []string{"chinaums", "shouqianba"}

// largestPage is how many entries are kept of calls, and likewise of notifies.
const largestPage = 1250

// CaddyModule returns the Caddy module information.
func (adminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.gateway",
		New: func() caddy.Module { return new(adminAPI) },
	}
}

// Routes implements caddy.AdminRouter.
func (a *adminAPI) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{
		{Pattern: "/gateway/", Handler: caddy.AdminHandlerFunc(servePage)},
		a.route("/gateway/state", []string{"after"}, a.state),
		a.route("/gateway/calls", []string{"after", "search", "limit"}, a.calls),
		a.route("/gateway/notifies", []string{"after", "search", "limit"}, a.notifies),
		a.route("/gateway/notifies/{number}/explain", []string{"lang"}, a.explain),
		a.route("/gateway/notifies/{number}/capture", nil, a.capture),
		a.route("/gateway/codes/{platform}/{code}", []string{"lang"}, a.code),
	}
}

// policy lets the page load and ask its own address only, and nobody frame it.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; form-action 'none'; " +
	"base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// servePage serves the page and its parts.
func servePage(w http.ResponseWriter, r *http.Request) error {
	name := cmp.Or(strings.TrimPrefix(r.URL.Path, "/gateway/"), "index.html")
	kind := map[string]string{".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}[path.Ext(name)]
	content, err := pageFiles.ReadFile("page/" + name)
	switch {
	case err != nil || kind == "":
		return apiError(http.StatusNotFound, "there is nothing here; see /gateway/")
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		return apiError(http.StatusMethodNotAllowed, "method not allowed; it is GET")
	}
	header := w.Header()
	header.Set("Content-Type", kind)
	header.Set("Content-Security-Policy", policy)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "same-origin") // by which the admin endpoint knows the page's own requests
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	header.Set("Cache-Control", "no-cache")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	return nil
}

// route serves JSON to GET. The answer is nil where it is written already.
func (a *adminAPI) route(pattern string, parameters []string, serve func(w http.ResponseWriter, r *http.Request, query url.Values) (any, error)) caddy.AdminRoute {
	return caddy.AdminRoute{Pattern: pattern, Handler: caddy.AdminHandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		if r.Method != http.MethodGet {
			w.Header().Set("Allow", http.MethodGet)
			return apiError(http.StatusMethodNotAllowed, "method not allowed; it is GET")
		}
		query, err := url.ParseQuery(r.URL.RawQuery)
		if err != nil {
			return apiError(http.StatusBadRequest, "the query cannot be read")
		}
		for _, name := range slices.Sorted(maps.Keys(query)) {
			switch {
			case !slices.Contains(parameters, name):
				return apiError(http.StatusBadRequest, "unknown parameter %.64q; known here: %s", name, cmp.Or(strings.Join(parameters, ", "), "none"))
			case len(query[name]) > 1:
				return apiError(http.StatusBadRequest, "%s is given twice", name)
			}
		}
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		answer, err := serve(w, r, query)
		if err != nil || answer == nil {
			return err
		}
		w.Header().Set("Content-Type", "application/json")
		encoder := json.NewEncoder(w)
		encoder.SetEscapeHTML(false)
		return encoder.Encode(answer)
	})}
}

func (a *adminAPI) recent() *recent.Log {
	return cmp.Or(a.log, recent.Default)
}

// active finds the platforms' apps of the configuration that runs now, and whether it has the inbox. They are looked for at
// each request: the API is there before the apps are.
func (a *adminAPI) active() (apps map[string]platform, inbox bool, err error) {
	if a.apps != nil {
		return a.apps()
	}
	return appsOf(caddy.ActiveContext())
}

// appsOf finds them in one configuration.
func appsOf(ctx caddy.Context) (apps map[string]platform, inbox bool, err error) {
	if ctx.Context == nil {
		return nil, false, apiError(http.StatusServiceUnavailable, "Caddy has not started yet")
	}
	apps = make(map[string]platform)
	for _, name := range platforms {
		app, err := ctx.AppIfConfigured(name)
		if errors.Is(err, caddy.ErrNotConfigured) {
			continue
		}
		if err != nil {
			return nil, false, err
		}
		if p, ok := app.(platform); ok {
			apps[name] = p
		}
	}
	_, err = ctx.AppIfConfigured("inbox")
	if err != nil && !errors.Is(err, caddy.ErrNotConfigured) {
		return nil, false, err
	}
	return apps, err == nil, nil
}

// stateJSON is what the page shows first.
type stateJSON struct {
	Now       int64            `json:"now"`   // in milliseconds since 1970
	Since     int64            `json:"since"` // when this process began to count, likewise
	Slot      int64            `json:"slot"`  // how long a slot is, in milliseconds
	Platforms []platformJSON   `json:"platforms"`
	Inbox     bool             `json:"inbox"`    // there may be an inbox: /inbox tells of it
	Accounts  []recent.Account `json:"accounts"` // those that are configured, and those of which something is known

	// Last is the number of the last entry when this was asked: nothing behind it has been missed, and some of it may be here.
	Last uint64 `json:"last"`

	// Where they are asked for.
	Calls    []recent.CallEntry   `json:"calls,omitempty"`
	Notifies []recent.NotifyEntry `json:"notifies,omitempty"`
}

type platformJSON struct {
	Name     string   `json:"name"`
	Accounts []string `json:"accounts"`
	Watch    bool     `json:"watch"`    // its orders are followed: /<name>/orders tells of them
	Explains bool     `json:"explains"` // it explains notifies that it refused
}

func (a *adminAPI) state(_ http.ResponseWriter, _ *http.Request, query url.Values) (any, error) {
	apps, inbox, err := a.active()
	if err != nil {
		return nil, err
	}
	q, err := selected(query)
	if err != nil {
		return nil, err
	}
	last := a.recent().Last()
	accounts, since := a.recent().Accounts()
	answer := stateJSON{
		Now: time.Now().UnixMilli(), Since: since.UnixMilli(), Slot: recent.SlotLength.Milliseconds(), Platforms: []platformJSON{}, Inbox: inbox,
		Accounts: append([]recent.Account{}, accounts...), Last: last, // an array, where nothing is known too
	}
	if query.Has("after") {
		answer.Calls, answer.Notifies = a.recent().Calls(q), a.recent().Notifies(q)
	}
	for _, name := range slices.Sorted(maps.Keys(apps)) {
		app := apps[name]
		p := platformJSON{Name: name, Accounts: app.Accounts()}
		if w, ok := app.(watcher); ok {
			p.Watch = w.Watches()
		}
		_, p.Explains = app.(explainer)
		answer.Platforms = append(answer.Platforms, p)
		for _, account := range p.Accounts {
			if !slices.ContainsFunc(accounts, func(known recent.Account) bool { return known.Platform == name && known.Name == account }) {
				answer.Accounts = append(answer.Accounts, recent.Account{Platform: name, Name: account})
			}
		}
	}
	return answer, nil
}

// selected reads what a list is to have.
func selected(query url.Values) (q recent.Select, err error) {
	q = recent.Select{Search: query.Get("search"), Limit: largestPage}
	if text := query.Get("after"); text != "" {
		if q.After, err = strconv.ParseUint(text, 10, 64); err != nil {
			return q, apiError(http.StatusBadRequest, "after: %.64q is not the number of an entry", text)
		}
	}
	if text := query.Get("limit"); text != "" {
		if q.Limit, err = strconv.Atoi(text); err != nil || q.Limit < 1 || q.Limit > largestPage {
			return q, apiError(http.StatusBadRequest, "limit: %.64q is not a number from 1 to %d", text, largestPage)
		}
	}
	return q, nil
}

func (a *adminAPI) calls(_ http.ResponseWriter, _ *http.Request, query url.Values) (any, error) {
	q, err := selected(query)
	if err != nil {
		return nil, err
	}
	return a.recent().Calls(q), nil
}

func (a *adminAPI) notifies(_ http.ResponseWriter, _ *http.Request, query url.Values) (any, error) {
	q, err := selected(query)
	if err != nil {
		return nil, err
	}
	return a.recent().Notifies(q), nil
}

// captured finds what is kept of a refused notify.
func (a *adminAPI) captured(r *http.Request) (*recent.Capture, error) {
	number, err := strconv.ParseUint(r.PathValue("number"), 10, 64)
	if err != nil {
		return nil, apiError(http.StatusBadRequest, "%.64q is not the number of a notify", r.PathValue("number"))
	}
	captured, ok := a.recent().Capture(number)
	if !ok {
		return nil, apiError(http.StatusNotFound, "the notify is not kept any more, or was not refused for what is in it")
	}
	return captured, nil
}

// explainedJSON is an explanation.
type explainedJSON struct {
	Text string `json:"text"` // several lines; empty: the platform's app does not explain it
}

func (a *adminAPI) explain(_ http.ResponseWriter, r *http.Request, query url.Values) (any, error) {
	captured, err := a.captured(r)
	if err != nil {
		return nil, err
	}
	apps, _, err := a.active()
	if err != nil {
		return nil, err
	}
	var text strings.Builder
	if app, ok := apps[captured.Platform].(explainer); ok {
		header := http.Header{}
		if captured.ContentType != "" {
			header.Set("Content-Type", captured.ContentType)
		}
		if captured.Signing != "" {
			header.Set("Authorization", captured.Signing)
		}
		if err := app.ExplainNotify(&text, captured.Account, captured.Content, header, chinese(query)); err != nil {
			return nil, err
		}
	}
	return explainedJSON{text.String()}, nil
}

// capture writes a refused notify as the commands that explain it read it.
func (a *adminAPI) capture(w http.ResponseWriter, r *http.Request, _ url.Values) (any, error) {
	captured, err := a.captured(r)
	if err != nil {
		return nil, err
	}
	caddy.ActiveContext().Logger(adminAPI{}).Info("a refused notify was shown", zap.String("platform", captured.Platform),
		zap.String("merchant", captured.Account), zap.String("number", r.PathValue("number")), zap.String("remote", r.RemoteAddr))
	var head strings.Builder
	fmt.Fprintf(&head, "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n", len(captured.Content))
	for _, field := range [...][2]string{{"Content-Type", captured.ContentType}, {"Authorization", captured.Signing}} {
		if field[1] != "" {
			fmt.Fprintf(&head, "%s: %s\r\n", field[0], field[1])
		}
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Disposition", `attachment; filename="notify.txt"`)
	_, err = io.WriteString(w, head.String()+"\r\n"+string(captured.Content))
	return nil, err
}

// codeJSON says what a platform's code means.
type codeJSON struct {
	Cause  string `json:"cause"`
	Remedy string `json:"remedy"`
}

func (a *adminAPI) code(_ http.ResponseWriter, r *http.Request, query url.Values) (any, error) {
	apps, _, err := a.active()
	if err != nil {
		return nil, err
	}
	if app, ok := apps[r.PathValue("platform")].(coder); ok {
		if cause, remedy, ok := app.ExplainCode(r.PathValue("code"), chinese(query)); ok {
			return codeJSON{cause, remedy}, nil
		}
	}
	return codeJSON{}, nil
}

func chinese(query url.Values) bool { return query.Get("lang") == "zh" }

func apiError(status int, format string, arguments ...any) error {
	return caddy.APIError{HTTPStatus: status, Err: fmt.Errorf(format, arguments...)}
}

// Interface guards
var _ caddy.AdminRouter = (*adminAPI)(nil)
