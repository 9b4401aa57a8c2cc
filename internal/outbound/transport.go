package outbound

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/internal/body"
	"github.com/caddy-chinaums/caddy-chinaums/internal/ratelog"
)

// Signer gives an attempt its authorization. It is asked once for each attempt, so that each has its own time and
// nonce and the key that is valid then.
type Signer interface {
	// Authorize returns the Authorization header's value for body. An error means that the call cannot be made (no
	// key, no token); it never holds a secret.
	Authorize(ctx context.Context, account Account, body []byte) (string, error)
	// VerifyAnswer checks an answer that carries an Authorization header. signed tells whether the header is the
	// platform's signature at all; it is then taken off.
	VerifyAnswer(account Account, authorization string, body []byte) (signed bool, err error)
}

// Listener is a Signer that wants to hear what became of its call: the answer, whose body has been read already and found
// good, the platform's own error code in it, and when its head came.
type Listener interface {
	Answered(account Account, answer *http.Response, errCode string, received time.Time)
}

// RoundTrip makes one attempt of the call that a guard has let pass: it signs the call's body, sends it through next and
// reads the answer whole. A request that no guard has passed, or that goes elsewhere than to its account's platform, is
// never signed but answered 403: by the guard or, where there is none, right here. account is the transport's own (nil: it has none).
func RoundTrip(req *http.Request, platform *Platform, account Account, signer Signer, next http.RoundTripper) (res *http.Response, err error) {
	if req.Body != nil {
		// What goes out is the guard's copy; closing is the RoundTripper's duty.
		defer req.Body.Close()
	}
	call := callFrom(req.Context())
	if call == nil || call.platform != platform {
		return refuse(req, platform, errForbidden.because("no_guard", nil)), nil
	}
	if !call.take() {
		return nil, errRepeat
	}
	defer func() {
		if !call.sent.Load() {
			call.leave()
		}
	}()
	if reason := refusal(req, call, account); reason != "" {
		return nil, errForbidden.because(reason, nil)
	}

	span := call.span(req.Context())
	defer func() {
		failure, _ := asError(err)
		call.endSpan(span, res, failure)
	}()
	ctx, cancel := context.WithTimeout(req.Context(), call.timeout)
	defer cancel()
	authorization, failure := call.authorize(ctx, signer)
	if failure != nil {
		return nil, failure
	}
	out := outgoing(httptrace.WithClientTrace(ctx, connectionTrace(&call.sent)), req, call, authorization)
	if onlyHTTP1(next) {
		// So a stale connection does no harm: net/http takes another one if nothing was written on it. HTTP/2 would
		// repeat also what was written, wherever it believes that the platform has not looked at it.
		out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(call.Body)), nil }
	}

	res, err = next.RoundTrip(out)
	if err != nil {
		return nil, failed(call, err)
	}
	received := time.Now()
	defer res.Body.Close()
	var answer []byte
	if res.StatusCode != http.StatusSwitchingProtocols {
		if answer, err = body.Read(res.Body, res.ContentLength, call.maxResponse); err != nil {
			return nil, failed(call, err)
		}
	}
	if failure := call.accept(res, answer, signer, received); failure != nil {
		return nil, failure
	}
	res.Body = io.NopCloser(bytes.NewReader(answer))
	res.ContentLength = int64(len(answer))
	res.TransferEncoding, res.Trailer = nil, nil
	res.Header.Del("Trailer")
	res.Header.Del(OutcomeHeader)
	if res.StatusCode != http.StatusNoContent && !saysLength(res.Header, len(answer)) {
		res.Header["Content-Length"] = []string{strconv.Itoa(len(answer))}
	}
	return res, nil
}

// authorize asks the signer for the call's authorization.
func (c *Call) authorize(ctx context.Context, signer Signer) (string, *Error) {
	authorization, err := signer.Authorize(ctx, c.Account, c.Body)
	if err != nil {
		return "", errUnreachable.because("no_authorization", err)
	}
	if c.clientHasGone() { // also while the call waited for a key or a token
		return "", errUnreachable.because("client_gone", errors.New("the client went away before the call was sent"))
	}
	return authorization, nil
}

// accept takes the platform's answer for good, or says why not. A signature that it carries is verified and taken off.
func (c *Call) accept(res *http.Response, answer []byte, signer Signer, received time.Time) *Error {
	if res.StatusCode == http.StatusSwitchingProtocols {
		return errBadResponse.because("switching_protocols", errors.New("the platform answered 101 to a POST"))
	}
	signed := false
	for _, value := range res.Header["Authorization"] {
		isSignature, err := signer.VerifyAnswer(c.Account, value, answer)
		if err != nil {
			return errBadResponse.because("answer_signature", err)
		}
		signed = signed || isSignature
	}
	if signed {
		res.Header.Del("Authorization")
	}
	c.errCode = c.platform.ErrCode(answer)
	c.words = clip(c.platform.Words(c.errCode, answer))
	c.answered.Store(true)
	c.settle(Answered, c.errCode, res.StatusCode, answer)
	if listener, ok := signer.(Listener); ok {
		listener.Answered(c.Account, res, c.errCode, received)
	}
	return nil
}

// errRepeat refuses another attempt: nothing may repeat a payment by itself, whatever asked for it.
var errRepeat = errBadResponse.because("repeat", errors.New("a second attempt of a call that may have been executed was refused"))

// refusal says why a request may not be signed, or "".
func refusal(req *http.Request, call *Call, account Account) string {
	switch {
	case account == nil || call.Account != account:
		return "other_merchant"
	case req.Method != http.MethodPost:
		return "method"
	case req.URL.Path != call.path && !call.paths.allowed(req.URL.Path):
		// A handler between guard and proxy may have rewritten the path.
		return "path"
	}
	if dial, ok := reverseproxy.GetDialInfo(req.Context()); !ok || dial.Address != account.Endpoint().Dial {
		return "host"
	}
	return ""
}

// unguarded bounds the log lines about proxies without a guard, which everybody who reaches them can cause.
var unguarded = ratelog.New(10)

// refuse is the answer where there is no guard to give it.
func refuse(req *http.Request, platform *Platform, e *Error) *http.Response {
	if suppressed, ok := unguarded.Allow(platform.Name); ok {
		caddy.Log().Named("http.reverse_proxy.transport."+platform.Name).Warn("call refused: no guard is in front of this transport",
			zap.String("errcode", e.Code), zap.String("reason", e.Reason), zap.Int("suppressed", suppressed))
	}
	answer := platform.Envelope(e)
	return &http.Response{
		Status: strconv.Itoa(e.Status) + " " + http.StatusText(e.Status), StatusCode: e.Status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{
			"Content-Type":  {"application/json; charset=utf-8"},
			"Cache-Control": {"no-store"},
			OutcomeHeader:   {string(e.Outcome)},
		},
		Body: io.NopCloser(bytes.NewReader(answer)), ContentLength: int64(len(answer)), Request: req,
	}
}

// outgoing makes the request that the platform gets. req and its header map may be shared between attempts and are
// left alone.
func outgoing(ctx context.Context, req *http.Request, call *Call, authorization string) *http.Request {
	endpoint := call.Account.Endpoint()
	out := req.WithContext(ctx)
	u := *req.URL
	u.Scheme = endpoint.Scheme
	out.URL = &u
	out.Host = endpoint.Host
	out.Header = make(http.Header, 8) // enough but for header_up; a larger map costs four times as much
	for name, values := range req.Header {
		if !notUp(name) {
			out.Header[name] = values
		}
	}
	own := &[2]string{"identity", authorization}
	out.Header["Accept-Encoding"], out.Header["Authorization"] = own[:1:1], own[1:]
	out.Close = false
	body.Set(out, call.Body)
	out.GetBody = nil
	return out
}

func onlyHTTP1(next http.RoundTripper) bool {
	transport, ok := next.(*reverseproxy.HTTPTransport)
	return ok && len(transport.Versions) == 1 && transport.Versions[0] == "1.1"
}

// failed says what became of an attempt without a whole answer.
func failed(call *Call, err error) *Error {
	if errors.Is(err, body.ErrTooLarge) {
		return errBadResponse.because("answer_too_large", err)
	}
	if !call.sent.Load() {
		return errUnreachable.because("unreachable", err)
	}
	if netErr, ok := errors.AsType[net.Error](err); errors.Is(err, context.DeadlineExceeded) || ok && netErr.Timeout() {
		return errTimeout.because("timeout", err)
	}
	return errBadResponse.because("cut", WithoutQuotes(err))
}

// WithoutQuotes keeps what the platform sent out of the logs: net/http's errors quote a malformed answer. The address
// that an http.Client's error begins with is no such quote.
func WithoutQuotes(err error) error {
	cause := err
	if failed, ok := errors.AsType[*url.Error](err); ok {
		cause = failed.Err
	}
	if text, _, quoted := strings.Cut(cause.Error(), `"`); quoted {
		return errors.New(text + "…")
	}
	return err
}

// saysLength reports whether the header has just this Content-Length, as it mostly has.
func saysLength(header http.Header, length int) bool {
	values := header["Content-Length"]
	var room [20]byte
	return len(values) == 1 && values[0] == string(strconv.AppendInt(room[:0], int64(length), 10))
}

func asError(err error) (*Error, bool) { return errors.AsType[*Error](err) }

// notDialed recognizes reverse_proxy's own refusals: no upstream, one that is down, one that cannot be connected to.
func notDialed(err error) bool {
	if _, ok := errors.AsType[reverseproxy.DialError](err); ok {
		return true
	}
	handlerErr, ok := errors.AsType[caddyhttp.HandlerError](err)
	return ok && handlerErr.StatusCode == http.StatusServiceUnavailable
}

// isProxyError recognizes what reverse_proxy makes of a transport's error.
func isProxyError(err error) bool {
	handlerErr, ok := errors.AsType[caddyhttp.HandlerError](err)
	return ok && (handlerErr.StatusCode == http.StatusBadGateway || handlerErr.StatusCode == http.StatusGatewayTimeout)
}
