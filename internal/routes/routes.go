// Package routes looks at the handlers that a configuration has loaded, for warnings about how they stand to each other.
package routes

import (
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Step is a handler on the way of a request.
type Step struct {
	Handler  caddyhttp.MiddlewareHandler
	Matchers caddyhttp.MatcherSets // of its route
	depth    int                   // in how many subroutes it is
}

// Walk calls visit for every handler of the http app in ctx's configuration: the last step is the handler, the others are
// what a request may pass before, outermost first. visit must not keep the slice. A named route is looked at where it is invoked.
// The blocks of handlers other than subroutes are not looked at.
//
// It must be called in Start: then the http app has been provisioned.
func Walk(ctx caddy.Context, visit func(server *caddyhttp.Server, way []Step)) {
	loaded, err := ctx.AppIfConfigured("http")
	if err != nil {
		return
	}
	app, ok := loaded.(*caddyhttp.App)
	if !ok {
		return
	}
	for _, server := range app.Servers {
		walk(server, server.Routes, nil, nil, 0, visit)
	}
}

// walk looks at a list of routes; within are the named routes that it is in.
func walk(server *caddyhttp.Server, list caddyhttp.RouteList, way []Step, within []string, depth int, visit func(*caddyhttp.Server, []Step)) {
	for _, route := range list {
		for _, handler := range route.Handlers {
			way = append(way, Step{handler, route.MatcherSets, depth})
			visit(server, way)
			switch handler := handler.(type) {
			case *caddyhttp.Subroute:
				walk(server, handler.Routes, slices.Clip(way), within, depth+1, visit)
			case *caddyhttp.Invoke:
				if named := server.NamedRoutes[handler.Name]; named != nil && !slices.Contains(within, handler.Name) {
					walk(server, caddyhttp.RouteList{*named}, slices.Clip(way), append(slices.Clip(within), handler.Name), depth+1, visit)
				}
			}
		}
	}
}

// Open reports whether a server listens on every address of the machine.
func Open(server *caddyhttp.Server) bool {
	return slices.ContainsFunc(server.Listen, func(listen string) bool {
		address, err := caddy.ParseNetworkAddress(listen)
		if err != nil || address.IsUnixNetwork() || address.IsFdNetwork() {
			return false
		}
		switch address.Host {
		case "", "0.0.0.0", "::":
			return true
		}
		return false
	})
}

// Paths returns the paths that the routes of a way ask for, those of the innermost that asks for any. Behind a rewrite, as in
// handle_path, they are not the request's own: then those of the routes that the rewrite is in count. Its own do not, for what
// they do not match passes as it is.
func Paths(way []Step) (paths []string) {
	depth := way[len(way)-1].depth
	for i, step := range way {
		if module, ok := step.Handler.(caddy.Module); ok && module.CaddyModule().ID == "http.handlers.rewrite" {
			way, depth = way[:i], step.depth-1
			break
		}
	}
	for _, step := range slices.Backward(way) {
		if step.depth != depth {
			continue // a neighbor of those that the handler is in
		}
		depth--
		for _, set := range step.Matchers {
			for _, matcher := range set {
				switch matcher := matcher.(type) {
				case caddyhttp.MatchPath:
					paths = append(paths, matcher...)
				case *caddyhttp.MatchPath:
					paths = append(paths, *matcher...)
				}
			}
		}
		if len(paths) > 0 {
			return paths
		}
	}
	return nil
}
