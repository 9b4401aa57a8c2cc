package outbound

import (
	"net/http"

	"go.uber.org/zap"
)

// advise says what may be done about an error code of the platform's own, "" where there is nothing to say, and logs a
// line of its own where somebody has to look at it.
func (g *Guard) advise(r *http.Request, call *Call, outcome Outcome, errCode string) string {
	if call == nil || outcome != Answered || g.platform.Advice == nil {
		return ""
	}
	advice, alarm := g.platform.Advice(errCode)
	if advice == "" || !alarm {
		return advice
	}
	// The codes that have advice are a bounded set.
	suppressed, ok := g.refusals.Allow("platform " + errCode)
	if !ok {
		return advice
	}
	fields := []zap.Field{
		zap.String("merchant", call.Account.Name()), zap.String("errcode", errCode), zap.String("advice", advice),
		zap.String("path", quote(r.URL.Path)),
	}
	if call.words != "" {
		fields = append(fields, zap.String("errmsg", call.words))
	}
	if order := g.platform.Order(call.Body); order != "" {
		fields = append(fields, zap.String("order", order))
	}
	if suppressed > 0 {
		fields = append(fields, zap.Int("suppressed", suppressed))
	}
	g.logger.Warn("the platform did not execute the call as asked", fields...)
	return advice
}
