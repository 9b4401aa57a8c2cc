// Package tracing makes the spans of what a gateway sends: of a call to the platform, and of an event to the app. There are
// some only where a span is in the context already, Caddy's `tracing` in front; without it nothing is allocated.
package tracing

import (
	"context"
	"net"
	"net/http"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// scope is the name of the instrumentation.
const scope = "github.com/caddy-chinaums/caddy-chinaums"

// Span is a client's span. The zero value is none, and its methods do nothing.
type Span struct {
	span     trace.Span
	platform string // the prefix of the attributes that OpenTelemetry has no name for
}

// Call begins the span of a call to a platform: one attempt. path is the platform's interface.
func Call(ctx context.Context, platform, merchant, scheme, host, path string) Span {
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return Span{}
	}
	name, port, err := net.SplitHostPort(host)
	if err != nil {
		name, port = host, map[string]string{"https": "443", "http": "80"}[scheme]
	}
	number, _ := strconv.Atoi(port)
	path = clip(path)
	_, span := parent.TracerProvider().Tracer(scope).Start(ctx, "POST "+path, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(
		attribute.String("http.request.method", http.MethodPost), attribute.String("url.full", scheme+"://"+host+path),
		attribute.String("server.address", name), attribute.Int("server.port", number),
		attribute.String(platform+".merchant", merchant), attribute.String(platform+".interface", path),
	))
	return Span{span, platform}
}

// EndCall ends the span of a call. status is the answer's, 0 without one; failure is why it is none, or "".
func (s Span) EndCall(outcome, errCode, failure string, status int) {
	if s.span == nil {
		return
	}
	s.span.SetAttributes(attribute.String(s.platform+".outcome", outcome))
	if errCode != "" {
		s.span.SetAttributes(attribute.String(s.platform+".err_code", errCode))
	}
	s.end(failure, status)
}

// Deliver begins the span of an event's way to the app, and returns the request in it: the app gets its traceparent.
func Deliver(r *http.Request, platform, merchant, eventType string) (*http.Request, Span) {
	parent := trace.SpanFromContext(r.Context())
	if !parent.IsRecording() {
		return r, Span{}
	}
	ctx, span := parent.TracerProvider().Tracer(scope).Start(r.Context(), "deliver "+eventType, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(
		attribute.String("http.request.method", r.Method), attribute.String("cloudevents.event_type", eventType),
		attribute.String(platform+".merchant", merchant),
	))
	propagation.TraceContext{}.Inject(ctx, propagation.HeaderCarrier(r.Header))
	return r.WithContext(ctx), Span{span, platform}
}

// EndDelivery ends the span of a delivery. reason is why the app has not taken the event, or "".
func (s Span) EndDelivery(outcome, reason string, status int) {
	if s.span == nil {
		return
	}
	s.span.SetAttributes(attribute.String(s.platform+".outcome", outcome))
	s.end(reason, status)
}

func (s Span) end(failure string, status int) {
	if status != 0 {
		s.span.SetAttributes(attribute.Int("http.response.status_code", status))
	}
	if failure != "" {
		s.span.SetAttributes(attribute.String("error.type", failure))
		s.span.SetStatus(codes.Error, failure)
	}
	s.span.End()
}

// clip bounds what a caller has written.
func clip(path string) string {
	if len(path) > 128 {
		path = path[:128]
	}
	return strings.ToValidUTF8(path, "?")
}

// Header reports whether a header carries a trace: those of every propagator that OTEL_PROPAGATORS knows. name is in its
// canonical form. None goes to a platform.
func Header(name string) bool {
	switch name {
	case "Traceparent", "Tracestate", "Baggage", "B3", "Uber-Trace-Id", "X-Amzn-Trace-Id":
		return true
	}
	return strings.HasPrefix(name, "X-B3-") || strings.HasPrefix(name, "Uberctx-") || strings.HasPrefix(name, "Ot-Tracer-") || strings.HasPrefix(name, "Ot-Baggage-")
}
