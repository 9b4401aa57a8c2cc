package chinaums

import (
	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-chinaums/caddy-chinaums/internal/adminapi"
	"github.com/caddy-chinaums/caddy-chinaums/internal/watched"
)

func init() {
	caddy.RegisterModule(adminAPI{})
}

// adminAPI is the watch's part of Caddy's admin API:
//
//	GET  /chinaums/orders                              the orders, without their timelines, by merchant and number
//	     ?state=<state>                                only those, or with a call in this state: sent, open, unresolved, stuck, …
//	     &merchant=<name>                              only this merchant's
//	     &search=<text>                                only those with a number, of the order or a refund, that contains it
//	     &after=<merchant>/<number>                    only those behind this one: the last one, for the next page
//	     &limit=100                                    at most so many, 1 to 1000
//	GET  /chinaums/orders/<merchant>/<number>          one order with its timeline
//	POST /chinaums/orders/<merchant>/<number>/query    queries it now, and each of its calls whose end is not known
//	POST /chinaums/orders/<merchant>/<number>/resend   queries it, and tells the app again, with the same id
//	GET  /chinaums/reconcile                           compares what was ordered, told and taken on a day
//	     ?day=2026-11-28                               in Shanghai; required
//	     &format=json                                  or csv, which a spreadsheet opens
//
// A bill's number is `<billNo>@<billDate>`. What goes wrong is answered as in the rest of the API: {"error":"…"} with 400 for a
// query that is wrong, 404 for what there is not, 503 while the watch is not open.
type adminAPI struct{}

// CaddyModule returns the Caddy module information.
func (adminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.chinaums",
		New: func() caddy.Module { return new(adminAPI) },
	}
}

// Routes implements caddy.AdminRouter.
func (a *adminAPI) Routes() []caddy.AdminRoute { return watched.Routes("chinaums", a, activeWatch) }

// activeWatch finds the watch of the configuration that runs now.
func activeWatch() (*watched.Watched, error) {
	app, err := adminapi.App("chinaums")
	if app == nil || err != nil {
		return nil, err
	}
	return app.(*App).watched, nil
}

// Interface guards
var _ caddy.AdminRouter = (*adminAPI)(nil)
