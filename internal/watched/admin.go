package watched

import (
	"context"
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

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/watch"
)

// Limits of a list.
const (
	defaultPage = 100
	largestPage = 1000
)

// adminPatience bounds how long a store, or the platform, may take to answer.
const adminPatience = 30 * time.Second

// Record is an order in an answer of the admin API. Times are in milliseconds since 1970.
type Record struct {
	Merchant string `json:"merchant"` // the merchant's or terminal's name in the configuration
	Number   string `json:"order"`    // the merchant's number of the order
	*watch.Order
}

// served is one route: its method, what answers it, and the parameters that it takes, each at most once.
type served struct {
	method     string
	parameters []string
	serve      func(q *question) (any, error)
}

// question is a request to the API.
type question struct {
	*http.Request
	query url.Values
	watch *watch.Watch
	out   http.ResponseWriter
}

// Routes are the watch's part of the admin API, below the app's name; module is what logs. find finds the running app's watch (nil: it
// has none).
func Routes(name string, module caddy.Module, find func() (*Watched, error)) []caddy.AdminRoute {
	route := func(pattern string, s served) caddy.AdminRoute {
		return caddy.AdminRoute{Pattern: "/" + name + pattern, Handler: caddy.AdminHandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
			return s.answer(w, r, name, find)
		})}
	}
	one := func(do func(w *watch.Watch, ctx context.Context, merchant, number string) (*watch.Order, error), word string) func(q *question) (any, error) {
		return func(q *question) (any, error) {
			merchant, number := q.PathValue("merchant"), q.PathValue("number")
			o, err := do(q.watch, q.Context(), merchant, number)
			if err != nil {
				return nil, err
			}
			if word != "" {
				// Of the configuration, for Caddy's own logger writes to the log default only.
				caddy.ActiveContext().Logger(module).Info(word, zap.String("merchant", merchant), zap.String("order", number), zap.String("remote", q.RemoteAddr))
			}
			return Record{o.Merchant, o.ID, o}, nil
		}
	}
	return []caddy.AdminRoute{
		route("/orders", served{http.MethodGet, []string{"state", "merchant", "search", "after", "limit"}, list}),
		route("/orders/{merchant}/{number}", served{http.MethodGet, nil, one((*watch.Watch).Order, "")}),
		route("/orders/{merchant}/{number}/query", served{http.MethodPost, nil, one((*watch.Watch).Query, "an order is queried now")}),
		route("/orders/{merchant}/{number}/resend", served{http.MethodPost, nil, one((*watch.Watch).Resend, "the app is told of an order again")}),
		route("/reconcile", served{http.MethodGet, []string{"day", "format"}, reconcile}),
		{Pattern: "/" + name + "/", Handler: caddy.AdminHandlerFunc(func(http.ResponseWriter, *http.Request) error {
			return apiError(http.StatusNotFound, "there is nothing here; see /%s/orders and /%s/reconcile", name, name)
		})},
	}
}

func (s served) answer(w http.ResponseWriter, r *http.Request, platform string, find func() (*Watched, error)) error {
	if r.Method != s.method {
		w.Header().Set("Allow", s.method)
		return apiError(http.StatusMethodNotAllowed, "method not allowed; it is %s", s.method)
	}
	ctx, cancel := context.WithTimeout(r.Context(), adminPatience)
	defer cancel()
	q := &question{Request: r.WithContext(ctx), out: w}
	var err error
	if q.query, err = url.ParseQuery(r.URL.RawQuery); err != nil {
		return apiError(http.StatusBadRequest, "the query cannot be read")
	}
	for _, name := range slices.Sorted(maps.Keys(q.query)) {
		switch {
		case !slices.Contains(s.parameters, name):
			return apiError(http.StatusBadRequest, "unknown parameter %.64q; known here: %s", name, strings.Join(s.parameters, ", "))
		case len(q.query[name]) > 1:
			return apiError(http.StatusBadRequest, "%s is given twice", name)
		}
	}
	watched, err := find()
	switch {
	case err != nil:
		return err
	case watched == nil:
		return apiError(http.StatusNotFound, "there is no watch; add `watch { … }` to the global option `%s`", platform)
	}
	if q.watch = watched.Watch(); q.watch == nil {
		return apiError(http.StatusServiceUnavailable, "the watch is not open yet")
	}
	answer, err := s.serve(q)
	var not *watch.NotNow
	switch {
	case errors.As(err, &not):
		w.Header().Set("Retry-After", strconv.Itoa(int((not.Wait+time.Second-1)/time.Second)))
		return caddy.APIError{HTTPStatus: http.StatusTooManyRequests, Err: err}
	case errors.Is(err, watch.ErrNotFound):
		return caddy.APIError{HTTPStatus: http.StatusNotFound, Err: errors.New("there is no such order")}
	case err != nil:
		if _, ok := err.(caddy.APIError); ok { //nolint:errorlint // Caddy does not look deeper either
			return err
		}
		return caddy.APIError{HTTPStatus: http.StatusServiceUnavailable, Err: err}
	case answer == nil:
		return nil // it is written
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(answer)
}

// list lists orders, without their timelines.
func list(q *question) (any, error) {
	selected := watch.Select{
		State: watch.State(q.query.Get("state")), Merchant: q.query.Get("merchant"), Search: q.query.Get("search"), After: q.query.Get("after"), Limit: defaultPage,
	}
	if text := q.query.Get("limit"); text != "" {
		limit, err := strconv.Atoi(text)
		if err != nil || limit < 1 || limit > largestPage {
			return nil, apiError(http.StatusBadRequest, "limit: %.64q is not a number from 1 to %d", text, largestPage)
		}
		selected.Limit = limit
	}
	if selected.State != "" && !slices.Contains(watch.States(), selected.State) {
		return nil, apiError(http.StatusBadRequest, "state: %.64q is none of %v", string(selected.State), watch.States())
	}
	orders, err := q.watch.List(q.Context(), selected)
	if err != nil {
		return nil, err
	}
	records := make([]Record, 0, len(orders))
	for _, o := range orders {
		o.Lines = nil
		records = append(records, Record{o.Merchant, o.ID, o})
	}
	return records, nil
}

func reconcile(q *question) (any, error) {
	format := q.query.Get("format")
	if format != "" && format != "json" && format != "csv" {
		return nil, apiError(http.StatusBadRequest, "format: %.64q is neither json nor csv", format)
	}
	day := q.query.Get("day")
	if _, err := time.Parse(time.DateOnly, day); err != nil {
		return nil, apiError(http.StatusBadRequest, "day: %.64q is not like 2026-11-28", day)
	}
	report, err := q.watch.Reconcile(q.Context(), day)
	if err != nil || format != "csv" {
		return report, err
	}
	q.out.Header().Set("Content-Type", "text/csv; charset=utf-8")
	q.out.Header().Set("Content-Disposition", `attachment; filename="reconcile-`+day+`.csv"`)
	q.out.Header().Set("Cache-Control", "no-store")
	return nil, report.WriteCSV(q.out)
}

func apiError(status int, format string, arguments ...any) error {
	return caddy.APIError{HTTPStatus: status, Err: fmt.Errorf(format, arguments...)}
}
