package accesslog

import (
	"context"
	"net/http/httptest"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// TestFields: what nobody will write is not made.
func TestFields(t *testing.T) {
	for name, c := range map[string]struct {
		server any
		fields bool
		want   bool
	}{
		"with an access log":    {&caddyhttp.Server{Logs: new(caddyhttp.ServerLogConfig)}, true, true},
		"without an access log": {&caddyhttp.Server{}, true, false},
		"no server known":       {(*caddyhttp.Server)(nil), true, true},
		"not in Caddy":          {nil, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, extra := t.Context(), new(caddyhttp.ExtraLogFields)
			if c.server != nil {
				ctx = context.WithValue(ctx, caddyhttp.ServerCtxKey, c.server)
			}
			if c.fields {
				ctx = context.WithValue(ctx, caddyhttp.ExtraLogFieldsCtxKey, extra)
			}
			got := Fields(httptest.NewRequest("POST", "/", nil).WithContext(ctx))
			if (got == extra) != c.want || !c.want && got != nil {
				t.Errorf("fields: %v", got)
			}
		})
	}
}
