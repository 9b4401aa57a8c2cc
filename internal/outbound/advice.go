package outbound

import (
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

// advise adds to the access log what may be done about an error code of the platform's own, and logs a line of its own
// where somebody has to look at it.
func (g *Guard) advise(r *http.Request, call *Call, outcome Outcome, errCode string) {
	if call == nil || outcome != Answered || g.platform.Advice == nil {
		return
	}
	advice, alarm := g.platform.Advice(errCode)
	if advice == "" {
		return
	}
	if extra, ok := r.Context().Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
		extra.Add(zap.String("advice", advice))
	}
	if !alarm {
		return
	}
	// The codes that have advice are a bounded set.
	suppressed, ok := g.refusals.Allow("platform " + errCode)
	if !ok {
		return
	}
	fields := []zap.Field{
		zap.String("merchant", call.Account.Name()), zap.String("errcode", errCode), zap.String("advice", advice),
		zap.String("path", quote(r.URL.Path)),
	}
	if order := g.platform.Order(call.Body); order != "" {
		fields = append(fields, zap.String("order", order))
	}
	if suppressed > 0 {
		fields = append(fields, zap.Int("suppressed", suppressed))
	}
	g.logger.Warn("the platform did not execute the call as asked", fields...)
}
