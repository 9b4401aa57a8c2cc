package watched

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-chinaums/caddy-chinaums/internal/inbound"
	"github.com/caddy-chinaums/caddy-chinaums/internal/locale"
	"github.com/caddy-chinaums/caddy-chinaums/watch"
)

// Intake takes a request into an inbox, and returns nil when it can no longer be lost. again delivers it also where one with
// its id was delivered before.
type Intake func(ctx context.Context, r *http.Request, content []byte, again bool) error

// Content is the content of a watch's event: what a notify of it would have become.
type Content struct {
	inbound.Context
	Data string                           // the normalized JSON
	Word func(name string) (string, bool) // the event's own placeholders, as inbound.Event has them; nil: there are none
}

// named is a merchant or terminal of which the name is known.
type named string

func (n named) Name() string { return string(n) }

// teller hands what a query has found to the inbox.
type teller Watched

// nowhere is the host where an order names none.
const nowhere = "localhost"

// Tell implements watch.Teller.
func (t *teller) Tell(ctx context.Context, merchant string, event *watch.Event) error {
	content, ok := event.Content.(*Content)
	if !ok {
		return fmt.Errorf("the event %s has no content", event.Type)
	}
	host, uri := nowhere, t.config.URI
	if event.Order != nil && event.Order.Notify != "" {
		host, uri, _ = strings.Cut(event.Order.Notify, "/")
		uri = "/" + uri
	}
	address, err := url.ParseRequestURI(uri)
	if err != nil {
		return fmt.Errorf("the notifyUrl's path: %w", err)
	}
	attributes := content.Context
	attributes.Evidence, attributes.Ordered = inbound.EvidenceQuery, event.Ordered
	notified := &inbound.Event{Context: attributes, Data: content.Data, Word: content.Word}
	contentType, given := inbound.TypeJSON, []byte(content.Data)
	if t.structured && !t.otherwise {
		contentType, given = inbound.TypeCloudEvents, notified.Structured()
	}
	r := &http.Request{
		Method: http.MethodPost, URL: address, RequestURI: uri, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Host: host, RemoteAddr: "127.0.0.1:0",
		Header: http.Header{"Content-Type": {contentType}, "Content-Length": {strconv.Itoa(len(given))}},
	}
	attributes.Headers(r.Header)
	ctx = context.WithValue(ctx, caddy.ReplacerCtxKey, caddy.NewReplacer())
	r = r.WithContext(ctx)
	if notified.Word == nil {
		notified.Word = func(string) (string, bool) { return "", false }
	}
	notified.Placeholders(r, t.parts.Name, named(merchant))
	return t.intake(ctx, r, given, event.Again)
}

// sayable are the placeholders that have the same value in what the watch tells as in a notify of it, beside those of the platform
// (`http.chinaums.…`) and those that belong to no request.
var sayable = []string{
	"http.request.header.Ce-Id", "http.request.header.Ce-Source", "http.request.header.Ce-Type", "http.request.header.Ce-Subject",
	"http.request.header.Ce-Specversion", "http.request.header.Content-Type", "http.request.method",
}

// checkNames refuses an inbox that tells messages apart by what an event does not say: one of a notify and one of a query would be
// two for it, and be delivered twice.
func checkNames(platform string, names []string) error {
	for _, name := range names {
		ofEvent := strings.HasPrefix(name, "http."+platform+".") && !strings.HasSuffix(name, ".reason")
		known := func(s string) bool { return strings.EqualFold(s, name) }
		if strings.HasPrefix(name, "http.") && !ofEvent && !slices.ContainsFunc(sayable, known) {
			return locale.Errorf("the inbox's id or order_by has {%s}, which what the watch finds out does not have; take what the event says, such as {http.request.header.Ce-Id}", name)
		}
	}
	return nil
}

// Follow is what the notify handler tells of an event: the order's number, and what the notify says.
func (w *Watched) Follow(merchant, order string, f watch.Finding) inbound.Following {
	return &following{w: w, merchant: merchant, order: order, finding: f}
}

type following struct {
	w               *Watched
	merchant, order string
	finding         watch.Finding
	told            *shared // the watch that knows of it
}

// Notified implements inbound.Following.
func (f *following) Notified(ctx context.Context) (n inbound.Notice) {
	if f.told = f.w.await(ctx); f.told == nil {
		return inbound.Notice{Ordered: watch.OrderedUnseen}
	}
	notice, err := f.told.Notified(context.WithoutCancel(ctx), f.merchant, f.order, f.finding)
	if err != nil {
		return inbound.Notice{Ordered: watch.OrderedUnseen} // it goes its way, and is written down later
	}
	return inbound.Notice{
		Ordered: notice.Ordered, Told: notice.Told, Busy: notice.Busy,
		Refused: notice.Ordered == watch.OrderedDiffers && f.w.config.Amounts == watch.Reject,
	}
}

// Taken implements inbound.Following.
func (f *following) Taken(taken bool) {
	if f.told != nil {
		f.told.Taken(f.merchant, f.order, f.finding.Event.ID, taken)
	}
}

// Interface guards
var (
	_ watch.Teller      = (*teller)(nil)
	_ inbound.Following = (*following)(nil)
)
