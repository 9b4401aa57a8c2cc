package routes

import (
	"slices"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/rewrite"
)

// TestPaths: the paths of a handler are its own route's or those of the routes that it is in, never those of its neighbors. Before,
// a neighbor that rewrites gave its paths to all handlers behind it, and handlers in a named route were not seen.
func TestPaths(t *testing.T) {
	route := func(handler caddyhttp.MiddlewareHandler, paths ...string) caddyhttp.Route {
		r := caddyhttp.Route{Handlers: []caddyhttp.MiddlewareHandler{handler}}
		if paths != nil {
			r.MatcherSets = caddyhttp.MatcherSets{caddyhttp.MatcherSet{caddyhttp.MatchPath(paths)}}
		}
		return r
	}
	within := func(routes ...caddyhttp.Route) *caddyhttp.Subroute { return &caddyhttp.Subroute{Routes: routes} }
	wanted := new(caddyhttp.StaticResponse)
	for name, test := range map[string]struct {
		list caddyhttp.RouteList
		want []string
	}{
		"its own":              {caddyhttp.RouteList{route(wanted, "/notify", "/other")}, []string{"/notify", "/other"}},
		"none":                 {caddyhttp.RouteList{route(wanted)}, nil},
		"those around it":      {caddyhttp.RouteList{route(within(route(wanted)), "/notify")}, []string{"/notify"}},
		"the innermost":        {caddyhttp.RouteList{route(within(route(wanted, "/a/b")), "/a/*")}, []string{"/a/b"}},
		"a neighbor's":         {caddyhttp.RouteList{route(within(), "/a"), route(wanted)}, nil},
		"a neighbor's, deeper": {caddyhttp.RouteList{route(within(route(within(), "/a"), route(wanted)), "/b")}, []string{"/b"}},
		"behind a rewrite":     {caddyhttp.RouteList{route(within(route(new(rewrite.Rewrite)), route(wanted, "/inner")), "/pay/*")}, []string{"/pay/*"}},
		"rewritten, no path":   {caddyhttp.RouteList{route(new(rewrite.Rewrite)), route(wanted, "/inner")}, nil},
		"a rewriting neighbor": {caddyhttp.RouteList{route(within(route(new(rewrite.Rewrite), "/old/*"), route(within(route(wanted)), "/notify")))}, nil},
		"a named route":        {caddyhttp.RouteList{route(&caddyhttp.Invoke{Name: "named"}, "/notify")}, []string{"/notify"}},
		"a named one's own":    {caddyhttp.RouteList{route(&caddyhttp.Invoke{Name: "inner"})}, []string{"/inner"}},
	} {
		t.Run(name, func(t *testing.T) {
			found := false
			inner := route(wanted, "/inner")
			named := caddyhttp.Route{Handlers: []caddyhttp.MiddlewareHandler{wanted, &caddyhttp.Invoke{Name: "named"}, &caddyhttp.Invoke{Name: "nobody's"}}}
			walk(&caddyhttp.Server{NamedRoutes: map[string]*caddyhttp.Route{"named": &named, "inner": &inner}}, test.list, nil, nil, 0, func(_ *caddyhttp.Server, way []Step) {
				if way[len(way)-1].Handler != caddyhttp.MiddlewareHandler(wanted) {
					return
				}
				found = true
				if got := Paths(way); !slices.Equal(got, test.want) {
					t.Errorf("%q, want %q", got, test.want)
				}
			})
			if !found {
				t.Error("the handler was not found")
			}
		})
	}
}

// TestOpen: a server that listens on one address, or on a socket, is not open to every network.
func TestOpen(t *testing.T) {
	for listen, want := range map[string]bool{
		":8901": true, "0.0.0.0:8901": true, "[::]:8901": true, "tcp/:8901": true, "127.0.0.1:8901": false, "[::1]:8901": false,
		"192.0.2.1:8901": false, "unix//run/caddy.sock": false, "localhost:8901": false,
	} {
		if got := Open(&caddyhttp.Server{Listen: []string{listen}}); got != want {
			t.Errorf("%s: %v", listen, got)
		}
	}
}
