package watched

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/internal/adminapi"
	"github.com/caddy-chinaums/caddy-chinaums/watch"
)

// Record is an order in an answer of the admin API. Times are in milliseconds since 1970.
type Record struct {
	Merchant string `json:"merchant"` // the merchant's or terminal's name in the configuration
	Number   string `json:"order"`    // the merchant's number of the order
	*watch.Order
}

// question is a request to the API.
type question struct {
	*adminapi.Question
	watch *watch.Watch
}

// Routes are the watch's part of the admin API, below the app's name; module is what logs. find finds the running app's watch (nil: it
// has none).
func Routes(name string, module caddy.Module, find func() (*Watched, error)) []caddy.AdminRoute {
	ask := func(plain *adminapi.Question) (*question, error) {
		watched, err := find()
		switch {
		case err != nil:
			return nil, err
		case watched == nil:
			return nil, adminapi.Errorf(http.StatusNotFound, "there is no watch; add `watch { … }` to the global option `%s`", name)
		}
		w := watched.Watch()
		if w == nil {
			return nil, adminapi.Errorf(http.StatusServiceUnavailable, "the watch is not open yet")
		}
		return &question{plain, w}, nil
	}
	route := func(method, pattern string, serve func(q *question) (any, error), parameters ...string) caddy.AdminRoute {
		return adminapi.Route("/"+name+pattern, ask, explain, adminapi.On(method, serve, parameters...))
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
		route(http.MethodGet, "/orders", list, "state", "merchant", "search", "after", "limit"),
		route(http.MethodGet, "/orders/{merchant}/{number}", one((*watch.Watch).Order, "")),
		route(http.MethodPost, "/orders/{merchant}/{number}/query", one((*watch.Watch).Query, "an order is queried now")),
		route(http.MethodPost, "/orders/{merchant}/{number}/resend", one((*watch.Watch).Resend, "the app is told of an order again")),
		route(http.MethodGet, "/reconcile", reconcile, "day", "format"),
		adminapi.Nothing("/"+name+"/", "/"+name+"/orders and /"+name+"/reconcile"),
	}
}

// explain finds the status of an error of the watch's.
func explain(w http.ResponseWriter, err error) error {
	status := http.StatusServiceUnavailable
	if not, ok := errors.AsType[*watch.NotNow](err); ok {
		w.Header().Set("Retry-After", strconv.Itoa(int((not.Wait+time.Second-1)/time.Second)))
		status = http.StatusTooManyRequests
	} else if errors.Is(err, watch.ErrNotFound) {
		return adminapi.Errorf(http.StatusNotFound, "there is no such order")
	}
	return caddy.APIError{HTTPStatus: status, Err: err}
}

// list lists orders, without their timelines.
func list(q *question) (any, error) {
	selected := watch.Select{
		State: watch.State(q.Query.Get("state")), Merchant: q.Query.Get("merchant"), Search: q.Query.Get("search"), After: q.Query.Get("after"), Limit: adminapi.DefaultPage,
	}
	if q.Query.Get("limit") != "" {
		if err := q.ReadLimit(&selected.Limit); err != nil {
			return nil, err
		}
	}
	if selected.State != "" && !slices.Contains(watch.States(), selected.State) {
		return nil, adminapi.Errorf(http.StatusBadRequest, "state: %.64q is none of %v", string(selected.State), watch.States())
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
	format := q.Query.Get("format")
	if format != "" && format != "json" && format != "csv" {
		return nil, adminapi.Errorf(http.StatusBadRequest, "format: %.64q is neither json nor csv", format)
	}
	day := q.Query.Get("day")
	if _, err := time.Parse(time.DateOnly, day); err != nil {
		return nil, adminapi.Errorf(http.StatusBadRequest, "day: %.64q is not like 2026-11-28", day)
	}
	report, err := q.watch.Reconcile(q.Context(), day)
	if err != nil || format != "csv" {
		return report, err
	}
	q.Out.Header().Set("Content-Type", "text/csv; charset=utf-8")
	q.Out.Header().Set("Content-Disposition", `attachment; filename="reconcile-`+day+`.csv"`)
	q.Out.Header().Set("Cache-Control", "no-store")
	return nil, report.WriteCSV(q.Out)
}
