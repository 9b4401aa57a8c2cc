package outbound

import (
	"bytes"
	"cmp"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/internal/text"
)

// notifyPaths are the paths at which this configuration takes the platform's notifies. Caddy tells nobody of a request that no
// handler wants, so the notifyUrl is looked at when an order names it.
type notifyPaths struct {
	served atomic.Pointer[[]string] // as Caddy's path matchers write them; nil: none is known

	mu   sync.Mutex
	seen map[string]bool // the notifyUrls that have been looked at, as they stood in the orders
}

// maxNotifyURLs is how many different notifyUrls are looked at, and maxNotifyURL how long one may be.
const (
	maxNotifyURLs = 16
	maxNotifyURL  = 512
)

// Serves tells where this configuration takes the platform's notifies.
func (g *Guard) Serves(paths []string) {
	if len(paths) > 0 {
		g.notifies.served.Store(&paths)
	}
}

// known returns the paths, nil where none is known.
func (p *notifyPaths) known() []string {
	if p == nil {
		return nil
	}
	if served := p.served.Load(); served != nil {
		return *served
	}
	return nil
}

// checkNotifyURL warns, once for each, of an order whose notifyUrl leads nowhere.
func (g *Guard) checkNotifyURL(call *Call) {
	served := g.notifies.known()
	if served == nil || g.platform.NotifyURL == "" {
		return
	}
	raw := rawMember(head(call.Body), g.platform.NotifyURL)
	if len(raw) == 0 || len(raw) > maxNotifyURL || !g.notifies.first(raw) {
		return
	}
	parsed, err := url.Parse(strings.ReplaceAll(string(raw), `\/`, "/")) // as PHP writes it
	if err != nil || takes(served, parsed.Path) {
		return
	}
	g.logger.Warn("an order's notifyUrl has a path at which this configuration takes no notifies; they are lost, unless a server in front rewrites it",
		zap.String("merchant", call.Account.Name()), zap.String("path", text.ASCII(parsed.Path, text.Limit)), zap.Strings("notify_paths", served))
}

// first reports whether a notifyUrl has not been looked at.
func (p *notifyPaths) first(raw []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.seen[string(raw)] || len(p.seen) >= maxNotifyURLs {
		return false
	}
	p.seen[string(raw)] = true
	return true
}

// takes reports whether notifies are taken at a path, or may be: only the beginning of a pattern is compared. Slashes are merged
// as Caddy's path matchers do it.
func takes(served []string, path string) bool {
	path = cmp.Or(strings.ToLower(path), "/")
	return slices.ContainsFunc(served, func(pattern string) bool {
		path, pattern := caddyhttp.CleanPath(path, !strings.Contains(pattern, "//")), strings.ToLower(pattern)
		beginning := strings.IndexAny(pattern, "*{")
		return beginning < 0 && path == pattern || beginning >= 0 && strings.HasPrefix(path, pattern[:beginning])
	})
}

// rawMember returns the text of the first member of this name in a JSON text, as it is written, or nil. It does not look
// whether the member is nested.
func rawMember(body []byte, name string) []byte {
	i := bytes.Index(body, []byte(name))
	if i < 1 || body[i-1] != '"' {
		return nil
	}
	rest, ok := bytes.CutPrefix(body[i+len(name):], []byte{'"'})
	if !ok {
		return nil
	}
	if rest, ok = bytes.CutPrefix(bytes.TrimLeft(rest, " \t\r\n"), []byte{':'}); !ok {
		return nil
	}
	if rest, ok = bytes.CutPrefix(bytes.TrimLeft(rest, " \t\r\n"), []byte{'"'}); !ok {
		return nil
	}
	end := bytes.IndexByte(rest, '"') // an address has none in it
	if end < 0 {
		return nil
	}
	return rest[:end]
}
