package shouqianba

import (
	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-chinaums/caddy-chinaums/internal/adminapi"
	"github.com/caddy-chinaums/caddy-chinaums/internal/watched"
)

func init() {
	caddy.RegisterModule(adminAPI{})
}

// adminAPI is the watch's part of Caddy's admin API, with the same answers as the ChinaUMS one's. What is called a merchant is a
// terminal, and an order's number is its client_sn:
//
//	GET  /shouqianba/orders                             the orders, without their timelines, by terminal and number
//	     ?state=<state>                                 only those, or with a call in this state: sent, open, unresolved, stuck, …
//	     &merchant=<name>                               only this terminal's
//	     &search=<text>                                 only those with a number, of the order or a refund, that contains it
//	     &after=<terminal>/<number>                     only those behind this one: the last one, for the next page
//	     &limit=100                                     at most so many, 1 to 1000
//	GET  /shouqianba/orders/<merchant>/<number>         one order with its timeline
//	POST /shouqianba/orders/<merchant>/<number>/query   queries it now, and each of its calls whose end is not known
//	POST /shouqianba/orders/<merchant>/<number>/resend  queries it, and tells the app again, with the same id
//	GET  /shouqianba/reconcile                          compares what was ordered, told and taken on a day
//	     ?day=2026-11-28                                in Shanghai; required
//	     &format=json                                   or csv, which a spreadsheet opens
type adminAPI struct{}

// CaddyModule returns the Caddy module information.
func (adminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.shouqianba",
		New: func() caddy.Module { return new(adminAPI) },
	}
}

// Routes implements caddy.AdminRouter.
func (a *adminAPI) Routes() []caddy.AdminRoute { return watched.Routes("shouqianba", a, activeWatch) }

// activeWatch finds the watch of the configuration that runs now.
func activeWatch() (*watched.Watched, error) {
	app, err := adminapi.App("shouqianba")
	if app == nil || err != nil {
		return nil, err
	}
	return app.(*App).watched, nil
}

// Interface guards
var _ caddy.AdminRouter = (*adminAPI)(nil)
