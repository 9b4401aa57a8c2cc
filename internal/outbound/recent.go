package outbound

import (
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-chinaums/caddy-chinaums/internal/recent"
)

// remember keeps what became of a call for the console.
func (g *Guard) remember(r *http.Request, call *Call, outcome Outcome, errCode string, took time.Duration) {
	c := recent.Call{Platform: g.platform.Name, Path: r.URL.Path, Outcome: string(outcome), Code: errCode, Took: took}
	if call != nil {
		c.Account, c.Sent = call.Account.Name(), call.sent.Load()
		if g.platform.Numbers != nil {
			c.Order, c.Refund = g.platform.Numbers(head(call.Body))
		}
	}
	if outcome == Answered {
		c.Words = call.words
	} else if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		c.Reason, _ = repl.GetString("http." + g.platform.Name + ".reason")
	}
	recent.Default.Called(&c)
}
