package outbound

import (
	"context"
	"net/http"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-chinaums/caddy-chinaums/internal/body"
	"github.com/caddy-chinaums/caddy-chinaums/internal/locale"
	"github.com/caddy-chinaums/caddy-chinaums/internal/tracing"
	"github.com/caddy-chinaums/caddy-chinaums/internal/wire"
)

// Proxy holds what every platform's proxy takes from its configuration, and does what they all do: a guard that also sends.
type Proxy struct {
	Guard

	// Operations on the headers that go to the platform, in the form of Caddy's `headers` handler. Host, Authorization,
	// Accept-Encoding and what belongs to one connection only stay the gateway's own. Default: none.
	HeaderUp *headers.HeaderOps `json:"header_up,omitempty"`

	// How the platform is reached: the options of Caddy's `http` transport, but for `compression` and `proxy_protocol`.
	// `versions` is 1.1 by default. What calls of the gateway's own need (tokens, queries, check-ins) goes the same way.
	Transport *reverseproxy.HTTPTransport `json:"transport,omitempty"`

	sender *Sender
}

// Provision sets up the guard and what sends. remote names an account whose platform is not on this machine, or is empty;
// endpoints are those of all accounts that may call.
func (p *Proxy) Provision(ctx caddy.Context, platform *Platform, metrics *Metrics, flights *Flights, remote string, endpoints []Endpoint) error {
	if err := p.Guard.Provision(ctx, platform, metrics, flights); err != nil {
		return err
	}
	if p.HeaderUp != nil {
		if err := p.HeaderUp.Provision(ctx); err != nil {
			return locale.Errorf("header_up: %w", err)
		}
	}
	if p.Transport == nil {
		p.Transport = new(reverseproxy.HTTPTransport)
	}
	if p.Transport.ProxyProtocol != "" {
		return locale.Errorf("proxy_protocol is refused: a platform does not speak it")
	}
	if err := setUp(ctx, p.Transport, remote); err != nil {
		return err
	}
	p.sender = NewSender(p.Transport, endpoints, ctx.Logger())
	return nil
}

// Sender is what sends the proxy's calls.
func (p *Proxy) Sender() *Sender { return p.sender }

// Cleanup implements caddy.CleanerUpper. Calls that still come in are sent all the same.
func (p *Proxy) Cleanup() error {
	if p.sender == nil {
		return nil
	}
	p.sender.Close()
	return p.Transport.Cleanup()
}

// Forward admits r, sends it and answers. resolve names the account (nil: there is none), signer gives its signer.
func (p *Proxy) Forward(w http.ResponseWriter, r *http.Request, resolve func() Account, signer func(Account) Signer) error {
	start := time.Now()
	call, refusal := p.judge(w, r, resolve, true)
	if call != nil {
		defer call.release()
	}
	if refusal != nil {
		p.Answer(w, r, call, refusal, start)
		return nil
	}
	call.placeholders(r)
	p.flights.Begin()
	defer p.flights.End()
	defer call.heard(nil) // should somebody panic

	start = time.Now()
	span := call.span(r.Context())
	answer, failure := p.attempt(r, call, signer)
	call.endSpan(span, answer, failure)
	if failure != nil {
		p.Answer(w, r, call, failure, start)
		return nil
	}
	if failure = p.pass(w, call, answer); failure != nil {
		p.log(r, call, failure, nil)
		p.finish(nil, r, call, call.outcome(), failure.Code, start)
		panic(http.ErrAbortHandler)
	}
	p.finish(w, r, call, call.outcome(), call.errCode, start)
	return nil
}

// attempt sends the call. Its answer's body is in call.answer.
func (p *Proxy) attempt(r *http.Request, call *Call, signerOf func(Account) Signer) (answer *http.Response, failure *Error) {
	defer func() {
		if v := recover(); v != nil {
			p.panicked(v)
			answer, failure = nil, p.internal(call, "panic", nil)
		}
	}()
	deadline := time.Now().Add(call.timeout)
	call.patience = patience{Context: context.Background(), until: deadline}
	defer call.patience.end()
	signer := signerOf(call.Account)
	authorization, failure := call.authorize(&call.patience, signer)
	if failure != nil {
		return nil, failure
	}
	to := call.Account.Endpoint()
	call.sent.Store(true) // until more is known
	answer, content, sent, err := p.sender.send(to, &wire.Request{
		Target: r.URL.RequestURI(), Host: to.Host, Fields: p.fields(r, call, authorization), Body: call.Body,
		Deadline: deadline, MaxAnswer: call.maxResponse,
	})
	call.sent.Store(sent)
	call.answer = content
	if err != nil {
		return nil, failed(call, err)
	}
	return answer, call.accept(answer, content.Bytes, signer, time.Now())
}

// fields are the request's head.
func (p *Proxy) fields(r *http.Request, call *Call, authorization string) []wire.Field {
	fields := call.room[:0]
	if p.HeaderUp == nil {
		for _, name := range passedOn {
			for _, value := range r.Header[name] {
				fields = append(fields, wire.Field{Name: name, Value: value})
			}
		}
	} else {
		out := r.WithContext(r.Context())
		out.Header = scrub(r.Header).Clone() // a replacement writes into the values, which the access log shows
		p.HeaderUp.ApplyToRequest(out)
		for name, values := range out.Header {
			if notUp(name) || ofConnection(name) {
				continue
			}
			for _, value := range values {
				fields = append(fields, wire.Field{Name: name, Value: value})
			}
		}
	}
	return append(fields, wire.Field{Name: "Accept-Encoding", Value: "identity"}, wire.Field{Name: "Authorization", Value: authorization})
}

// notUp reports whether a header is set by the gateway itself, or never goes to the platform: what reverse_proxy adds, what
// makes net/http repeat a POST, what asks for another way of sending it, and what carries a trace.
func notUp(name string) bool {
	switch name {
	case "Authorization", "Accept-Encoding", "Via", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host",
		"Idempotency-Key", "X-Idempotency-Key", "Expect", "Early-Data", "Incremental":
		return true
	}
	return tracing.Header(name)
}

// ofConnection reports whether a header is about one connection or the form of one message.
func ofConnection(name string) bool {
	switch name {
	case "Host", "Content-Length", "Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer",
		"Transfer-Encoding", "Upgrade", "Alt-Svc":
		return true
	}
	return false
}

// pass passes the platform's answer on, as reverse_proxy does.
func (p *Proxy) pass(w http.ResponseWriter, call *Call, answer *http.Response) (failure *Error) {
	defer func() {
		if v := recover(); v != nil {
			if v != http.ErrAbortHandler {
				p.panicked(v)
			}
			failure = p.internal(call, "aborted", http.ErrAbortHandler)
		}
	}()
	header := w.Header()
	for _, line := range answer.Header["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			answer.Header.Del(textproto.TrimString(name))
		}
	}
	delete(header, "Server")
	header["Via"] = append(header["Via"], "1."+strconv.Itoa(answer.ProtoMinor)+" Caddy")
	for name, values := range answer.Header {
		if ofConnection(name) || name == OutcomeHeader {
			continue
		}
		if before := header[name]; len(before) > 0 {
			values = append(slices.Clip(before), values...)
		}
		header[name] = values
	}
	call.own = [2]string{string(call.outcome()), strconv.Itoa(len(call.answer.Bytes))}
	header[OutcomeHeader] = call.own[:1:1]
	if answer.StatusCode != http.StatusNoContent {
		header["Content-Length"] = call.own[1:]
	}
	w.WriteHeader(answer.StatusCode)
	if _, err := w.Write(call.answer.Bytes); err != nil {
		call.heard(nil)
		call.answer = body.Pooled{} // not for others: HTTP/2's server may still look at it when the client has reset the stream
	}
	return nil
}

// patience is a context that makes a timer only when somebody waits. One goroutine may use it.
type patience struct {
	context.Context
	until  time.Time
	made   context.Context
	cancel context.CancelFunc
}

func (p *patience) Deadline() (time.Time, bool) { return p.until, true }

func (p *patience) Done() <-chan struct{} {
	if p.made == nil {
		p.made, p.cancel = context.WithDeadline(p.Context, p.until)
	}
	return p.made.Done()
}

func (p *patience) Err() error {
	p.Done()
	return p.made.Err()
}

func (p *patience) end() {
	if p.cancel != nil {
		p.cancel()
	}
}

// Interface guards
var _ context.Context = (*patience)(nil)
