// Package accesslog finds the entry that Caddy's access log will have of a request.
package accesslog

import (
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Fields are the further fields of the entry that Caddy will write about r, or nil where the server has no access log.
// Add few of them, if need be one zap.Inline for all: Caddy makes a map anew at each Add.
func Fields(r *http.Request) *caddyhttp.ExtraLogFields {
	if server, ok := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok && server != nil && server.Logs == nil {
		return nil
	}
	extra, _ := r.Context().Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields)
	return extra
}
