package inbound

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/internal/body"
	"github.com/caddy-chinaums/caddy-chinaums/internal/verdict"
)

// Context holds the CloudEvents 1.0 context attributes of one event, unencoded. Empty attributes are left out.
type Context struct {
	ID, Source, Type, Subject, Time string

	// Confirmed is an extension attribute: the platform's answer when it was asked about the event.
	Confirmed string

	// Evidence and Ordered are extension attributes of events that a watch follows: what told of it, and whether the order is
	// one that went through a gateway.
	Evidence, Ordered string
}

// The words of Context.Evidence.
const (
	EvidenceNotify = "notify"
	EvidenceQuery  = "query"
)

// Headers sets the attributes as HTTP headers. Values are percent-encoded as in the CloudEvents HTTP binding, 3.1.3.2.
func (c *Context) Headers(header http.Header) {
	values := make([]string, 0, 9) // one array for all of them
	set := func(name, value string) {
		if value != "" {
			values = append(values, value)
			header[name] = values[len(values)-1 : len(values) : len(values)]
		}
	}
	set("Ce-Specversion", "1.0")
	set("Ce-Id", percentEncode(c.ID))
	set("Ce-Source", percentEncode(c.Source))
	set("Ce-Type", percentEncode(c.Type))
	set("Ce-Subject", percentEncode(c.Subject))
	set("Ce-Time", c.Time)
	set("Ce-Confirmed", c.Confirmed)
	set("Ce-Evidence", c.Evidence)
	set("Ce-Ordered", c.Ordered)
}

func percentEncode(s string) string {
	encoded := func(c byte) bool { return c <= ' ' || c >= 0x7f || c == '"' || c == '%' }
	plain := 0
	for plain < len(s) && !encoded(s[plain]) {
		plain++
	}
	if plain == len(s) {
		return s
	}
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; encoded(c) {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// Prepare turns the sender's request into the one that the app gets. It removes the query and the sender's headers, except
// a few and the one named keep, and replaces the body by content. The context of the new request ends after timeout, and
// not when the sender disconnects. The header map and the URL are changed in place, so that Caddy's placeholders agree with
// the request.
func Prepare(r *http.Request, content body.Content, contentType, keep string, attributes *Context, timeout time.Duration) (*http.Request, context.CancelFunc) {
	for name := range r.Header {
		switch name {
		case "User-Agent", "Traceparent", "Tracestate":
		default:
			if name != keep && !strings.HasPrefix(name, "X-Forwarded-") {
				delete(r.Header, name)
			}
		}
	}
	own := &[2]string{contentType, strconv.Itoa(content.Len())}
	r.Header["Content-Type"], r.Header["Content-Length"] = own[:1:1], own[1:]
	attributes.Headers(r.Header)

	ctx := context.WithoutCancel(r.Context())
	if r.URL.RawQuery != "" || r.URL.ForceQuery {
		r.URL.RawQuery, r.URL.ForceQuery = "", false
		// FastCGI passes the original URI to the app.
		if original, ok := ctx.Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok && original.URL != nil {
			u := *original.URL
			u.RawQuery, u.ForceQuery = "", false
			original.URL, original.RequestURI = &u, u.RequestURI()
			ctx = context.WithValue(ctx, caddyhttp.OriginalRequestCtxKey, original)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	body.SetContent(r, content)
	out := r.WithContext(ctx)
	out.RequestURI = r.URL.RequestURI()
	out.Form, out.PostForm, out.MultipartForm = nil, nil, nil
	return out, cancel
}

// Recovering runs handle. If it panics before it has answered, the platform gets 500 and word.
func Recovering(w http.ResponseWriter, word string, logger *zap.Logger, handle func(http.ResponseWriter)) {
	answer := &startedWriter{ResponseWriter: w}
	defer func() {
		if v := recover(); v != nil {
			verdict.LogPanic(logger, "panic in the handler of notifies", v)
			if !answer.started {
				_ = Say(w, http.StatusInternalServerError, word)
			}
		}
	}()
	handle(answer)
}

// startedWriter remembers whether an answer has begun.
type startedWriter struct {
	http.ResponseWriter
	started bool
}

func (w *startedWriter) WriteHeader(status int) {
	w.started = w.started || status >= 200
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach the deadlines.
func (w *startedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Say answers the platform with its word.
func Say(w http.ResponseWriter, status int, word string) error {
	header, own := w.Header(), &[2]string{"text/plain; charset=utf-8", strconv.Itoa(len(word))}
	header["Content-Type"], header["Content-Length"] = own[:1:1], own[1:]
	w.WriteHeader(status)
	_, err := w.Write([]byte(word))
	return err
}
