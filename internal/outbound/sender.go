package outbound

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/internal/body"
	"github.com/caddy-chinaums/caddy-chinaums/internal/wire"
)

// maxHead bounds an answer's head where no option does, as net/http's client bounds it.
const maxHead = 10 << 20

// Sender sends requests to platforms, with a client made for it (internal/wire) or, where that cannot serve, with net/http's.
type Sender struct {
	next        http.RoundTripper // net/http's
	unfit       string            // why only that can serve, whatever the platform
	proxy       func(*http.Request) (*url.URL, error)
	dial        func(ctx context.Context, network, address string) (net.Conn, error)
	tls         *tls.Config
	handshake   time.Duration
	maxHead     int64
	maxIdle     int
	idleTimeout time.Duration

	mu      sync.Mutex
	clients map[Endpoint]*wire.Client // nil: net/http's serves
}

// NewSender returns one with the options of a provisioned HTTP transport. endpoints are those that it will be used for; of
// each that net/http's client has to serve the log says why.
func NewSender(t *reverseproxy.HTTPTransport, endpoints []Endpoint, logger *zap.Logger) *Sender {
	s := &Sender{
		next: t, unfit: unfit(t), proxy: t.Transport.Proxy, dial: t.Transport.DialContext, tls: t.Transport.TLSClientConfig,
		handshake: t.Transport.TLSHandshakeTimeout, maxHead: t.MaxResponseHeaderSize, maxIdle: t.Transport.MaxIdleConnsPerHost,
		idleTimeout: t.Transport.IdleConnTimeout,
	}
	if t.Transport.DisableKeepAlives {
		s.maxIdle = 0
	} else if most := t.Transport.MaxIdleConns; most > 0 {
		s.maxIdle = min(s.maxIdle, most)
	}
	for _, endpoint := range endpoints {
		if _, why := s.client(endpoint); why != "" {
			logger.Info("calls go out through net/http's client", zap.String("upstream", endpoint.URL("")), zap.String("because_of", why))
		}
	}
	return s
}

// Through returns a sender that has net/http's client only, or what takes its place.
func Through(next http.RoundTripper) *Sender { return &Sender{next: next, unfit: "transport"} }

// standard sends where no options are given. The environment may name a proxy.
var standard = sync.OnceValue(func() *Sender {
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	return &Sender{
		next: &http.Transport{
			Proxy: http.ProxyFromEnvironment, DialContext: dialer.DialContext, DisableCompression: true, IdleConnTimeout: time.Minute,
			MaxResponseHeaderBytes: 16 << 10, TLSHandshakeTimeout: 10 * time.Second,
		},
		unfit: unfitSystem(), proxy: http.ProxyFromEnvironment, dial: dialer.DialContext, handshake: 10 * time.Second, maxHead: 16 << 10,
		maxIdle: 2, idleTimeout: time.Minute,
	}
})

func unfitSystem() string {
	if !wire.Able {
		return "the operating system"
	}
	return ""
}

// unfit names what the lean client cannot do of what a transport is told to, or is "".
func unfit(t *reverseproxy.HTTPTransport) string {
	switch {
	case !slices.Equal(t.Versions, []string{"1.1"}):
		return "versions"
	case t.ForwardProxyURL != "":
		return "forward_proxy_url"
	case t.ReadTimeout > 0:
		return "read_timeout"
	case t.WriteTimeout > 0:
		return "write_timeout"
	case t.ResponseHeaderTimeout > 0:
		return "response_header_timeout"
	case t.MaxConnsPerHost > 0:
		return "max_conns_per_host"
	case t.Transport.DialTLSContext != nil:
		return "tls_server_name"
	}
	return unfitSystem()
}

// client returns the lean client for an endpoint; nil, and why not.
func (s *Sender) client(to Endpoint) (client *wire.Client, why string) {
	if s.unfit != "" {
		return nil, s.unfit
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	client, known := s.clients[to]
	if !known {
		proxy, err := s.proxy(&http.Request{URL: &url.URL{Scheme: to.Scheme, Host: to.Dial}})
		if proxy == nil && err == nil {
			client = s.newClient(to)
		}
		if s.clients == nil {
			s.clients = make(map[Endpoint]*wire.Client)
		}
		s.clients[to] = client
	}
	if client == nil {
		return nil, "a proxy"
	}
	return client, ""
}

func (s *Sender) newClient(to Endpoint) *wire.Client {
	client := &wire.Client{
		Dial:             func(ctx context.Context) (net.Conn, error) { return s.dial(ctx, "tcp", to.Dial) },
		HandshakeTimeout: s.handshake, MaxHead: s.maxHead, MaxIdle: s.maxIdle, IdleTimeout: s.idleTimeout,
	}
	if client.MaxHead <= 0 {
		client.MaxHead = maxHead
	}
	if to.Scheme == "https" {
		client.TLS = new(tls.Config)
		if s.tls != nil {
			client.TLS = s.tls.Clone()
		}
		if client.TLS.ServerName == "" {
			client.TLS.ServerName, _, _ = net.SplitHostPort(to.Dial)
		}
		client.TLS.DynamicRecordSizingDisabled = true // a call is read when it is whole: the first bytes are of no use
	}
	return client
}

// Close lets no connection be kept any more. What is under way goes on, and other calls may still be sent.
func (s *Sender) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, client := range s.clients {
		if client != nil {
			client.Close()
		}
	}
}

// send sends a request and reads its answer, whose body is in content. sent tells of an error whether a byte of the request
// may have left.
func (s *Sender) send(to Endpoint, r *wire.Request) (answer *http.Response, content body.Pooled, sent bool, err error) {
	client, _ := s.client(to)
	if client == nil {
		return s.roundTrip(to, r)
	}
	if answer, content, err = client.Do(r); err != nil {
		failed, _ := errors.AsType[*wire.Error](err)
		return nil, content, failed == nil || failed.Progress > wire.Dialed, err
	}
	return answer, content, true, nil
}

// roundTrip is send through net/http's client.
func (s *Sender) roundTrip(to Endpoint, r *wire.Request) (answer *http.Response, content body.Pooled, _ bool, err error) {
	if err := r.Check(); err != nil {
		return nil, content, false, err
	}
	var sent atomic.Bool
	// Not the caller's context: what it holds of a reverse_proxy around the handler would say where to dial.
	ctx := context.WithValue(context.Background(), caddy.ReplacerCtxKey, caddy.NewReplacer())
	ctx, cancel := context.WithDeadline(httptrace.WithClientTrace(ctx, connectionTrace(&sent)), r.Deadline)
	defer cancel()
	out, err := http.NewRequestWithContext(ctx, http.MethodPost, to.Scheme+"://"+to.Dial+r.Target, nil)
	if err != nil {
		return nil, content, false, errors.New("the request's path cannot be sent")
	}
	out.Host = to.Host
	out.Header = http.Header{"User-Agent": nil}
	for _, field := range r.Fields {
		out.Header[field.Name] = append(out.Header[field.Name], field.Value)
	}
	// Not the caller's buffer, which others get: net/http may still read it when the answer is there.
	request := bytes.Clone(r.Body)
	body.Set(out, request)
	if r.Again || onlyHTTP1(s.next) {
		out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(request)), nil }
	}
	if r.Again {
		out.Header["X-Idempotency-Key"] = nil // so net/http knows that it may; it is not sent
	}
	next := s.next
	if r.Fresh {
		next = s.fresh()
	}
	if answer, err = next.RoundTrip(out); err != nil {
		return nil, content, sent.Load(), err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusSwitchingProtocols {
		content.Bytes, err = body.Read(answer.Body, answer.ContentLength, r.MaxAnswer)
	}
	return answer, content, true, err
}

// fresh returns net/http's client without the connections that it keeps.
func (s *Sender) fresh() http.RoundTripper {
	transport, ok := s.next.(*http.Transport)
	if onlyHTTP1(s.next) {
		transport, ok = s.next.(*reverseproxy.HTTPTransport).Transport, true
	}
	if !ok {
		return s.next // over HTTP/2 all share one connection
	}
	transport = transport.Clone()
	transport.DisableKeepAlives = true
	return transport
}

// connectionTrace sets sent when a connection is there for a request. net/http asks for another one within one round trip
// only if nothing was written on the last.
func connectionTrace(sent *atomic.Bool) *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		GetConn: func(string) { sent.Store(false) },
		GotConn: func(httptrace.GotConnInfo) { sent.Store(true) },
	}
}

// Question is a call of the gateway's own.
type Question struct {
	Path, Authorization string // Authorization may be empty
	Content             []byte // JSON
	MaxAnswer           int64
	// Again allows to ask twice, where a kept connection has ended without an answer. Fresh asks for a new connection.
	Again, Fresh bool
}

// Ask sends a question, and is patient until ctx says so. sent tells of an error whether the platform may have seen it.
func (s *Sender) Ask(ctx context.Context, to Endpoint, q *Question) (res *http.Response, answer []byte, sent bool, err error) {
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(defaultTimeout)
	}
	r := &wire.Request{
		Target: q.Path, Host: to.Host, Body: q.Content, Deadline: deadline, MaxAnswer: q.MaxAnswer, Again: q.Again, Fresh: q.Fresh,
		Fields: []wire.Field{{Name: "Content-Type", Value: "application/json"}, {Name: "Accept-Encoding", Value: "identity"}},
	}
	if q.Authorization != "" {
		r.Fields = append(r.Fields, wire.Field{Name: "Authorization", Value: q.Authorization})
	}
	res, content, sent, err := s.send(to, r)
	defer content.Release()
	if err != nil {
		return nil, nil, sent, WithoutQuotes(err)
	}
	return res, bytes.Clone(content.Bytes), true, nil
}

// NoRedirect keeps a client where it is: whoever the platform sends us to is not the platform.
func NoRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// Line is how an account's platform is reached by questions: with the options of the first proxy that reaches the account,
// so that a proxy or a certificate that calls need serves questions too. The zero value is ready, and reaches it without.
type Line struct{ sender atomic.Pointer[Sender] }

// Use tells the line of a proxy's options.
func (l *Line) Use(s *Sender) { l.sender.CompareAndSwap(nil, s) }

// Sender returns what sends.
func (l *Line) Sender() *Sender {
	if s := l.sender.Load(); s != nil {
		return s
	}
	return standard()
}
