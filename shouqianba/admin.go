package shouqianba

import (
	"errors"
	"net/http"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-chinaums/caddy-chinaums/internal/watched"
)

func init() {
	caddy.RegisterModule(adminAPI{})
}

// adminAPI is the watch's part of Caddy's admin API, as the ChinaUMS one is: `/shouqianba/orders`, and so on. What is called a
// merchant there is a terminal.
type adminAPI struct{}

// CaddyModule returns the Caddy module information.
func (adminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.shouqianba",
		New: func() caddy.Module { return new(adminAPI) },
	}
}

// Routes implements caddy.AdminRouter.
func (*adminAPI) Routes() []caddy.AdminRoute { return watched.Routes("shouqianba", activeWatch) }

// activeWatch finds the watch of the configuration that runs now.
func activeWatch() (*watched.Watched, error) {
	ctx := caddy.ActiveContext()
	if ctx.Context == nil {
		return nil, caddy.APIError{HTTPStatus: http.StatusServiceUnavailable, Err: errors.New("Caddy has not started yet")}
	}
	app, err := ctx.AppIfConfigured("shouqianba")
	if errors.Is(err, caddy.ErrNotConfigured) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return app.(*App).watched, nil
}

// Interface guards
var _ caddy.AdminRouter = (*adminAPI)(nil)
