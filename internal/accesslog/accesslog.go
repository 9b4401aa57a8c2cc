// Package accesslog adds fields to the entry that Caddy's access log will write about a request.
package accesslog

import (
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Fields returns the extra fields of the entry that Caddy will write about r, or nil if the server has no access log. Call
// Add rarely, with one zap.Inline for several fields, because Caddy copies a map at each Add.
func Fields(r *http.Request) *caddyhttp.ExtraLogFields {
	if server, ok := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok && server != nil && server.Logs == nil {
		return nil
	}
	extra, _ := r.Context().Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields)
	return extra
}
