package inbound

import (
	"net"
	"net/http"
	"strings"

	"go.uber.org/zap/zapcore"

	"github.com/caddy-chinaums/caddy-chinaums/internal/recent"
)

// remember keeps what became of a verified notify for the console.
func (n *Notify) remember(account Account, event *Event, result, reason string, status, appStatus int) {
	recent.Default.Notified(&recent.Notify{
		Platform: n.platform.Name, Account: account.Name(), Type: event.Type, ID: event.ID, Order: event.Subject,
		Trade: member(event.Data, n.platform.Trade), Channel: member(event.Data, n.platform.Channel),
		Result: result, Reason: reason, Status: status, AppStatus: appStatus,
	})
}

// member is the text of a member of normalized JSON, as it stands there; start is its name and what follows up to the text,
// which no other text can hold.
func member(data, start string) string {
	if start == "" {
		return ""
	}
	_, after, _ := strings.Cut(data, start)
	value, _, _ := strings.Cut(after, `"`)
	return value
}

// rememberRefused keeps what is known of a notify that is not believed. Its content is kept where a command can explain it.
func (n *Notify) rememberRefused(r *http.Request, account Account, rejected *Rejection, result string) {
	refused := recent.Notify{
		Platform: n.platform.Name, Account: nameOf(account), Result: result, Reason: rejected.Reason, Status: rejected.Status, Remote: r.RemoteAddr,
	}
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		refused.Remote = host
	}
	for _, field := range rejected.Unverified {
		if field.Key == "unverified_order" && field.Type == zapcore.StringType {
			refused.Order = unquoted(field.String)
		}
	}
	if n.platform.Explain != nil && n.platform.Explain(rejected.Reason) != "" {
		refused.Content, refused.ContentType = rejected.content, r.Header.Get("Content-Type")
		if name := n.platform.SignatureHeader; name != "" {
			refused.Signing = r.Header.Get(name)
		}
	}
	recent.Default.Notified(&refused)
}

// unquoted is a number as it came, where it was quoted for the log.
func unquoted(text string) string {
	if len(text) >= 2 && text[0] == '"' && text[len(text)-1] == '"' {
		return text[1 : len(text)-1]
	}
	return text
}
