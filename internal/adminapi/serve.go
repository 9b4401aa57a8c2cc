package adminapi

import (
	"cmp"
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

	"github.com/caddy-chinaums/caddy-chinaums/internal/text"
)

// servePatience bounds how long an answer may take: that of a store, or of a platform.
const servePatience = 30 * time.Second

// Limits of a list.
const (
	DefaultPage = 100
	LargestPage = 1000
)

// Question is a request to the admin API.
type Question struct {
	*http.Request
	Query url.Values
	Out   http.ResponseWriter // for an answer that is not JSON
}

// Method is one method of a route.
type Method[Q any] struct {
	name       string
	serve      func(q Q) (any, error)
	parameters []string
}

// On makes a method that takes some parameters of the query, each at most once. An answer of nil was written by serve itself.
func On[Q any](name string, serve func(q Q) (answer any, err error), parameters ...string) Method[Q] {
	return Method[Q]{name, serve, parameters}
}

// Route makes a route of the admin API that answers with JSON. ask finds what the path names; explain makes one of Caddy's
// APIErrors of any other error.
func Route[Q any](pattern string, ask func(q *Question) (Q, error), explain func(w http.ResponseWriter, err error) error,
	methods ...Method[Q]) caddy.AdminRoute {
	serve := func(w http.ResponseWriter, r *http.Request) error {
		at := slices.IndexFunc(methods, func(m Method[Q]) bool { return m.name == r.Method })
		if at < 0 {
			var names []string
			for _, m := range methods {
				names = append(names, m.name)
			}
			allowed := strings.Join(names, ", ")
			w.Header().Set("Allow", allowed)
			return Errorf(http.StatusMethodNotAllowed, "method not allowed; it is %s", allowed)
		}
		ctx, cancel := context.WithTimeout(r.Context(), servePatience)
		defer cancel()
		plain := &Question{Request: r.WithContext(ctx), Out: w}
		if err := plain.parse(methods[at].parameters); err != nil {
			return err
		}
		q, err := ask(plain)
		var answer any
		if err == nil {
			answer, err = methods[at].serve(q)
		}
		if _, ok := err.(caddy.APIError); ok { //nolint:errorlint // Caddy does not look deeper either
			return err
		}
		switch {
		case err != nil:
			return explain(w, err)
		case answer == nil:
			return nil
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		encoder := json.NewEncoder(w)
		encoder.SetEscapeHTML(false)
		return encoder.Encode(answer)
	}
	return caddy.AdminRoute{Pattern: pattern, Handler: caddy.AdminHandlerFunc(serve)}
}

// Nothing makes a route for the paths of which there are none; see says which there are.
func Nothing(pattern, see string) caddy.AdminRoute {
	return caddy.AdminRoute{Pattern: pattern, Handler: caddy.AdminHandlerFunc(func(http.ResponseWriter, *http.Request) error {
		return Errorf(http.StatusNotFound, "there is nothing here; see %s", see)
	})}
}

// parse reads the query, which may have these parameters.
func (q *Question) parse(parameters []string) (err error) {
	if q.Query, err = url.ParseQuery(q.URL.RawQuery); err != nil {
		return Errorf(http.StatusBadRequest, "the query cannot be read")
	}
	for _, name := range slices.Sorted(maps.Keys(q.Query)) {
		switch {
		case !slices.Contains(parameters, name):
			return Errorf(http.StatusBadRequest, "unknown parameter %s; known here: %s", text.Name(name),
				cmp.Or(strings.Join(parameters, ", "), "none"))
		case len(q.Query[name]) > 1:
			return Errorf(http.StatusBadRequest, "%s is given twice", name)
		}
	}
	return nil
}

// Read reads a parameter, if it is there. wrong ends the error where it cannot be parsed, such as "not a number".
func Read[T any](q *Question, name string, target *T, parse func(text string) (T, error), wrong string) error {
	if !q.Query.Has(name) {
		return nil
	}
	value, err := parse(q.Query.Get(name))
	if err != nil {
		return Errorf(http.StatusBadRequest, "%s: %s is %s", name, text.Name(q.Query.Get(name)), wrong)
	}
	*target = value
	return nil
}

// ReadLimit reads how many entries a list is to have at most.
func (q *Question) ReadLimit(target *int) error {
	return Read(q, "limit", target, func(text string) (int, error) {
		limit, err := strconv.Atoi(text)
		if limit < 1 || limit > LargestPage {
			err = strconv.ErrRange
		}
		return limit, err
	}, fmt.Sprintf("not a number from 1 to %d", LargestPage))
}

// App returns the app of the configuration that runs now, nil if there is none. It is to be looked for at each request: the API
// is there before the apps are. The context that the API's modules are provisioned with would not do: apps are being added to
// it while requests already come in.
func App(name string) (any, error) {
	ctx := caddy.ActiveContext()
	if ctx.Context == nil {
		return nil, Errorf(http.StatusServiceUnavailable, "Caddy has not started yet")
	}
	app, err := ctx.AppIfConfigured(name)
	if errors.Is(err, caddy.ErrNotConfigured) {
		return nil, nil
	}
	return app, err
}

// Errorf makes an answer of an error.
func Errorf(status int, format string, arguments ...any) error {
	return caddy.APIError{HTTPStatus: status, Err: fmt.Errorf(format, arguments...)}
}
