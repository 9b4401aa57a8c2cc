package chinaums

import (
	"bytes"
	"compress/gzip"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	spans "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/caddy-chinaums/caddy-chinaums/internal/testutil"
)

// otlpReceiver is a collector that takes spans by OTLP over HTTP, as Caddy sends them.
type otlpReceiver struct {
	*httptest.Server
	mu  sync.Mutex
	got []*spans.Span
}

func newOTLPReceiver(t *testing.T) *otlpReceiver {
	receiver := new(otlpReceiver)
	receiver.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in io.Reader = r.Body
		if r.Header.Get("Content-Encoding") == "gzip" {
			unzipped, err := gzip.NewReader(r.Body)
			if err != nil {
				t.Error(err)
				return
			}
			in = unzipped
		}
		content, err := io.ReadAll(in)
		request := new(collector.ExportTraceServiceRequest)
		if err != nil || r.URL.Path != "/v1/traces" || proto.Unmarshal(content, request) != nil {
			t.Errorf("%s: %d bytes, %v", r.URL.Path, len(content), err)
			return
		}
		receiver.mu.Lock()
		defer receiver.mu.Unlock()
		for _, resource := range request.ResourceSpans {
			for _, scope := range resource.ScopeSpans {
				receiver.got = append(receiver.got, scope.Spans...)
			}
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	t.Cleanup(receiver.Close)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.URL)
	t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
	return receiver
}

// take returns the spans so far. Caddy has sent all of them when it has stopped.
func (o *otlpReceiver) take(t *testing.T) []*spans.Span {
	t.Helper()
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.got
}

func attributesOf(span *spans.Span) map[string]string {
	all := make(map[string]string)
	for _, attribute := range span.Attributes {
		all[attribute.Key] = attribute.Value.GetStringValue()
		if number := attribute.Value.GetIntValue(); number != 0 {
			all[attribute.Key] = string(rune('0'+number/100%10)) + string(rune('0'+number/10%10)) + string(rune('0'+number%10))
		}
	}
	return all
}

// clientSpan returns the only client's span with a name, and the span that it is a child of.
func clientSpan(t *testing.T, all []*spans.Span, name string) (span, parent *spans.Span) {
	t.Helper()
	for _, s := range all {
		if s.Name == name && s.Kind == spans.Span_SPAN_KIND_CLIENT {
			if span != nil {
				t.Fatalf("two spans %s", name)
			}
			span = s
		}
	}
	if span == nil {
		t.Fatalf("no span %s in %v", name, all)
	}
	for _, s := range all {
		if bytes.Equal(s.SpanId, span.ParentSpanId) && bytes.Equal(s.TraceId, span.TraceId) {
			parent = s
		}
	}
	if parent == nil || parent.Kind != spans.Span_SPAN_KIND_SERVER {
		t.Errorf("%s is not a child of Caddy's span: %v", name, parent)
	}
	return span, parent
}

// TestTracing: with Caddy's tracing each call to a platform and each delivery to the app is a client's span, the app gets
// its traceparent, and no platform gets any, in either form of the proxy. Before, there were no such spans, and tracing
// behind the guard told the platform.
func TestTracing(t *testing.T) {
	carried := []string{"Traceparent", "Tracestate", "Baggage", "B3", "X-B3-Traceid", "Uber-Trace-Id", "X-Amzn-Trace-Id"}
	var mu sync.Mutex
	var told []string
	platform := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, name := range carried {
			if value := r.Header.Get(name); value != "" {
				mu.Lock()
				told = append(told, r.URL.Path+" "+name+": "+value)
				mu.Unlock()
			}
		}
		switch {
		case strings.HasSuffix(r.URL.Path, "/refund"):
			panic(http.ErrAbortHandler)
		case strings.HasPrefix(r.URL.Path, "/upay"):
			io.WriteString(w, `{"result_code":"200"}`)
		default:
			io.WriteString(w, `{"errCode":"NO_ORDER","errMsg":"none"}`)
		}
	}))
	defer platform.Close()
	app := newMerchantApp(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/refused") {
			w.WriteHeader(500)
		}
	})
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("SQB_KEY", "a-terminal-key")
	t.Setenv("SQB_PUBLIC", string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})))
	t.Setenv("OTEL_PROPAGATORS", "tracecontext,baggage,b3,b3multi,jaeger,xray")
	setKeys(t)
	receiver := newOTLPReceiver(t)
	address := freeAddress(t)
	log := startCaddy(t, strings.Replace(merchantOptions(platform.URL), "{\n", `{
	shouqianba {
		terminal till {
			terminal_sn 100000
			terminal_key {env.SQB_KEY}
			public_key {env.SQB_PUBLIC}
			upstream `+platform.URL+`
		}
	}
`, 1)+notifySite(address, `tracing {
		span gateway
	}
	chinaums_proxy /v1/*
	handle_path /long/* {
		route {
			chinaums_guard
			tracing {
				span behind
			}
			reverse_proxy {
				dynamic chinaums
				transport chinaums
			}
		}
	}
	shouqianba_proxy /upay/*
	handle /notify/sqb {
		shouqianba_notify
		reverse_proxy `+app.URL+`
	}
	handle /notify/* {
		chinaums_notify
		reverse_proxy `+app.URL+`
	}`))
	url := "http://" + address
	const trace = "4bf92f3577b34da6a3ce929d0e0e4736"
	headers := []string{"Content-Type: application/json", "Traceparent: 00-" + trace + "-00f067aa0ba902b7-01", "Tracestate: a=b", "Baggage: c=d"}
	order := `{"merOrderId":"ORDER-NUMBER-1"}`
	for path, status := range map[string]int{"/v1/netpay/query": 200, "/long/v1/netpay/bills/query": 200, "/v1/netpay/refund": 502, "/long/v1/netpay/trade/refund": 502, "/upay/v2/query": 200} {
		if a := do(t, newRequest(t, "POST", url+path, order, headers...)); a.status != status {
			t.Fatalf("%s: %d %s", path, a.status, a.body)
		}
	}
	wantWord(t, postNotify(t, url+"/notify/ums", signedPayment(), headers[1:]...), 200)
	wantWord(t, postNotify(t, url+"/notify/refused", signedPayment(), headers[1:]...), 502)
	got := app.seen()
	sqb := `{"sn":"1","client_sn":"ORDER-NUMBER-2","status":"SUCCESS","order_status":"PAID","total_amount":"1","terminal_sn":"100000"}`
	digest := sha256.Sum256([]byte(sqb))
	signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	if a := do(t, newRequest(t, "POST", url+"/notify/sqb", sqb, append(headers, "Authorization: "+base64.StdEncoding.EncodeToString(signature))...)); a.status != 200 {
		t.Fatalf("%d %s\n%s", a.status, a.body, log)
	}
	got = append(got, app.seen()...)

	// Caddy does not wait for a handler whose answer is out, as that of a call of unknown outcome is before its event has been told.
	eventually(t, "every request has ended", func() bool { return len(log.lines(`"logger":"http.log.access`)) == 8 })
	all := receiver.take(t)
	mu.Lock()
	defer mu.Unlock()
	if len(told) > 0 {
		t.Errorf("the platform is told of traces: %q", told)
	}
	for _, want := range []struct {
		name, parent string
		attributes   map[string]string
	}{
		{"POST /v1/netpay/query", "gateway", map[string]string{"chinaums.merchant": "shop", "chinaums.interface": "/v1/netpay/query", "chinaums.outcome": "answered",
			"chinaums.err_code": "NO_ORDER", "http.response.status_code": "200", "http.request.method": "POST", "url.full": platform.URL + "/v1/netpay/query", "server.address": "127.0.0.1"}},
		{"POST /v1/netpay/bills/query", "behind", map[string]string{"chinaums.merchant": "shop", "chinaums.outcome": "answered", "chinaums.err_code": "NO_ORDER", "http.response.status_code": "200"}},
		{"POST /v1/netpay/refund", "gateway", map[string]string{"chinaums.outcome": "unknown", "chinaums.err_code": "GATEWAY_BAD_RESPONSE", "error.type": "GATEWAY_BAD_RESPONSE"}},
		{"POST /v1/netpay/trade/refund", "behind", map[string]string{"chinaums.outcome": "unknown", "chinaums.err_code": "GATEWAY_BAD_RESPONSE", "error.type": "GATEWAY_BAD_RESPONSE"}},
		{"POST /upay/v2/query", "gateway", map[string]string{"shouqianba.merchant": "till", "shouqianba.outcome": "answered", "http.response.status_code": "200"}},
	} {
		span, parent := clientSpan(t, all, want.name)
		if parent.GetName() != want.parent || hex.EncodeToString(span.TraceId) != trace {
			t.Errorf("%s: its parent is %s, its trace %x", want.name, parent.GetName(), span.TraceId)
		}
		attributes := attributesOf(span)
		for name, value := range want.attributes {
			if attributes[name] != value {
				t.Errorf("%s: %s is %q, want %q", want.name, name, attributes[name], value)
			}
		}
		if failed := span.Status.GetCode() == spans.Status_STATUS_CODE_ERROR; failed != (want.attributes["error.type"] != "") {
			t.Errorf("%s: status %v", want.name, span.Status)
		}
	}

	// The app's traceparent names the span of the delivery.
	ids := make(map[string]*spans.Span)
	for _, span := range all {
		ids[hex.EncodeToString(span.SpanId)] = span
		for _, attribute := range span.Attributes {
			if strings.Contains(attribute.Value.String(), "ORDER-NUMBER") {
				t.Errorf("%s tells an order's number", span.Name)
			}
		}
	}
	wants := map[string]map[string]string{
		"/notify/ums":     {"chinaums.merchant": "shop", "chinaums.outcome": "taken", "cloudevents.event_type": "payment.succeeded", "http.response.status_code": "200"},
		"/notify/refused": {"chinaums.merchant": "shop", "chinaums.outcome": "failed", "error.type": "app_refused", "http.response.status_code": "500"},
		"/notify/sqb":     {"shouqianba.merchant": "till", "shouqianba.outcome": "taken", "http.response.status_code": "200"},
	}
	for _, r := range got {
		parts := strings.Split(r.header.Get("Traceparent"), "-")
		if len(parts) != 4 || parts[1] != trace || ids[parts[2]] == nil || ids[parts[2]].Kind != spans.Span_SPAN_KIND_CLIENT {
			t.Errorf("%s: traceparent %q is no client's span", r.uri, r.header.Get("Traceparent"))
			continue
		}
		if state := r.header.Get("Tracestate"); state != "a=b" {
			t.Errorf("%s: tracestate %q", r.uri, state)
		}
		attributes := attributesOf(ids[parts[2]])
		for name, value := range wants[r.uri] {
			if !strings.HasSuffix(attributes[name], value) {
				t.Errorf("%s: %s is %q, want %q", r.uri, name, attributes[name], value)
			}
		}
		delete(wants, r.uri)
	}
	if len(wants) > 0 {
		t.Errorf("the app did not get %v", slices.Sorted(maps.Keys(wants)))
	}
}

// TestNoTracing: without tracing an incoming traceparent goes to the app as it came, and never to the platform.
func TestNoTracing(t *testing.T) {
	app := newMerchantApp(t, nil)
	url, _ := startNotify(t, "chinaums_notify\n\treverse_proxy "+app.URL)
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	wantWord(t, postNotify(t, url, signedPayment(), "Traceparent: "+parent), 200)
	if got := app.one(t).header.Get("Traceparent"); got != parent {
		t.Errorf("traceparent %q", got)
	}
}

// TestTracingBehindInbox: an event that waits in an inbox belongs to the same trace when it is delivered, if deliver has
// tracing too.
func TestTracingBehindInbox(t *testing.T) {
	setKeys(t)
	receiver := newOTLPReceiver(t)
	app := newMerchantApp(t, nil)
	address := freeAddress(t)
	startCaddy(t, strings.Replace(merchantOptions(noPlatform), "{\n", "{\n\tinbox {\n\t\tstore bolt {\n\t\t\tpath "+filepath.Join(t.TempDir(), "inbox.db")+"\n\t\t}\n\t}\n", 1)+
		notifySite(address, `tracing {
		span gateway
	}
	chinaums_notify
	inbox {
		deliver {
			tracing {
				span later
			}
			reverse_proxy `+app.URL+`
		}
	}`))
	const trace = "4bf92f3577b34da6a3ce929d0e0e4736"
	wantWord(t, postNotify(t, "http://"+address+"/notify", signedPayment(), "Traceparent: 00-"+trace+"-00f067aa0ba902b7-01"), 200)
	var got received
	testutil.Eventually(t, "the app gets it", func() bool {
		all := app.seen()
		if len(all) == 1 {
			got = all[0]
		}
		return len(all) == 1
	})
	all := receiver.take(t)
	parts := strings.Split(got.header.Get("Traceparent"), "-")
	if len(parts) != 4 || parts[1] != trace {
		t.Fatalf("traceparent %q", got.header.Get("Traceparent"))
	}
	stored, _ := clientSpan(t, all, "deliver com.chinaums.payment.succeeded")
	for _, span := range all {
		if hex.EncodeToString(span.SpanId) == parts[2] {
			if span.Name != "later" || !bytes.Equal(span.ParentSpanId, stored.SpanId) {
				t.Errorf("the app's parent is %s under %x, not under %x", span.Name, span.ParentSpanId, stored.SpanId)
			}
			return
		}
	}
	t.Errorf("nobody has sent the span %s", parts[2])
}
