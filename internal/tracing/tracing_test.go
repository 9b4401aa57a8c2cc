package tracing

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"go.opentelemetry.io/contrib/propagators/autoprop"
)

// TestNoSpanNoCost: where nobody traces, nothing is allocated.
func TestNoSpanNoCost(t *testing.T) {
	type key int
	ctx := t.Context()
	for i := range 10 {
		ctx = context.WithValue(ctx, key(i), i)
	}
	r := httptest.NewRequestWithContext(ctx, http.MethodPost, "/notify", nil)
	if n := testing.AllocsPerRun(100, func() {
		Call(ctx, "chinaums", "shop", "https", "api-mop.chinaums.com", "/v1/netpay/query").EndCall("answered", "SUCCESS", "", 200)
		same, span := Deliver(r, "chinaums", "shop", "com.chinaums.payment.succeeded")
		span.EndDelivery("taken", "", 200)
		if same != r || len(r.Header) != 0 {
			t.Error("the request was changed")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestHeader knows the headers of every propagator that Caddy can be told to use.
func TestHeader(t *testing.T) {
	for _, name := range []string{"tracecontext", "baggage", "b3", "b3multi", "jaeger", "xray", "ottrace"} {
		propagator, err := autoprop.TextMapPropagator(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, field := range propagator.Fields() {
			if !Header(http.CanonicalHeaderKey(field)) {
				t.Errorf("%s: %s goes to the platform", name, field)
			}
		}
	}
	for _, name := range []string{"Content-Type", "Authorization", "X-Bank"} {
		if Header(name) {
			t.Errorf("%s is none", name)
		}
	}
}
