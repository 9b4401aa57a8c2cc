package inbound

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/prometheus/client_golang/prometheus"
)

func TestContextHeaders(t *testing.T) {
	for name, test := range map[string]struct {
		context Context
		want    map[string]string
	}{
		"plain": {
			Context{ID: "n-1", Source: "/chinaums/shop", Type: "com.x.y", Subject: "42", Time: "2024-01-02T03:04:05+08:00"},
			map[string]string{"Ce-Specversion": "1.0", "Ce-Id": "n-1", "Ce-Source": "/chinaums/shop", "Ce-Type": "com.x.y", "Ce-Subject": "42", "Ce-Time": "2024-01-02T03:04:05+08:00"},
		},
		"empty ones are absent": {Context{ID: "1"}, map[string]string{"Ce-Specversion": "1.0", "Ce-Id": "1"}},
		// From the CloudEvents HTTP binding 1.0.2, 3.1.3.2.
		"the binding's own example": {Context{Subject: "Euro € 😀"}, map[string]string{"Ce-Specversion": "1.0", "Ce-Subject": "Euro%20%E2%82%AC%20%F0%9F%98%80"}},
		"quote, percent, tilde":     {Context{Subject: "\"100%\"~!"}, map[string]string{"Ce-Specversion": "1.0", "Ce-Subject": "%22100%25%22~!"}},
		"control characters":        {Context{Subject: "a\r\nX-Evil: 1\x00\x7f"}, map[string]string{"Ce-Specversion": "1.0", "Ce-Subject": "a%0D%0AX-Evil:%201%00%7F"}},
		"not UTF-8":                 {Context{Subject: "\xc4\xe3"}, map[string]string{"Ce-Specversion": "1.0", "Ce-Subject": "%C4%E3"}},
	} {
		t.Run(name, func(t *testing.T) {
			header := http.Header{}
			test.context.Headers(header)
			for name, value := range test.want {
				if !slices.Equal(header[name], []string{value}) {
					t.Errorf("%s: %q, want %q", name, header[name], value)
				}
			}
			if len(header) != len(test.want) {
				t.Errorf("headers: %v", header)
			}
			if back, err := url.PathUnescape(header.Get("Ce-Subject")); err != nil || back != test.context.Subject {
				t.Errorf("decoded: %q, %v", back, err)
			}
		})
	}
}

// TestContextHeadersApart: adding a value to one header does not overwrite its neighbor.
func TestContextHeadersApart(t *testing.T) {
	header := http.Header{}
	(&Context{ID: "1", Source: "/s", Type: "t"}).Headers(header)
	header.Add("Ce-Id", "2")
	if header.Get("Ce-Source") != "/s" || header.Get("Ce-Type") != "t" {
		t.Errorf("headers: %v", header)
	}
}

func TestPrepare(t *testing.T) {
	r := httptest.NewRequest("POST", "http://shop.example/notify?sign=1&", strings.NewReader("a=1"))
	ctx, cut := context.WithCancel(t.Context())
	r = r.WithContext(context.WithValue(ctx, caddyhttp.OriginalRequestCtxKey, http.Request{URL: &url.URL{Path: "/original", RawQuery: "sign=1"}, RequestURI: "/original?sign=1"}))
	for _, name := range []string{
		"User-Agent", "Traceparent", "Tracestate", "X-Forwarded-For", "X-Forwarded-Proto", // stay
		"X-Forwarded", "X_Forwarded_For", "Cookie", "Authorization", "Ce-Id", "Ce_Id", "Ce.Id", "Webhook-Id", "Content-Encoding", "Transfer-Encoding",
		"Trailer", "Expect", "Te", "Connection", "Upgrade", "Accept-Encoding", "Forwarded", "X-Real-Ip", "Idempotency-Key", "Origin",
	} {
		r.Header[name] = []string{"x"}
	}
	r.TransferEncoding, r.Trailer = []string{"chunked"}, http.Header{"Sign": nil}
	_ = r.ParseForm()

	out, cancel := Prepare(r, strings.NewReader(`{"a":1}`), "application/json", "", &Context{ID: "n"}, time.Hour)
	defer cancel()
	want := []string{"Ce-Id", "Ce-Specversion", "Content-Length", "Content-Type", "Traceparent", "Tracestate", "User-Agent", "X-Forwarded-For", "X-Forwarded-Proto"}
	var names []string
	for name := range out.Header {
		names = append(names, name)
	}
	if slices.Sort(names); !slices.Equal(names, want) {
		t.Errorf("headers %v, want %v", names, want)
	}
	if out.Header.Get("Ce-Id") != "n" || out.Header.Get("Content-Length") != "7" || out.Header.Get("Content-Type") != "application/json" {
		t.Errorf("headers: %v", out.Header)
	}
	content, err := io.ReadAll(out.Body)
	if err != nil || string(content) != `{"a":1}` || out.ContentLength != 7 || out.TransferEncoding != nil || out.Trailer != nil {
		t.Errorf("body %q, %v, length %d, %v, %v", content, err, out.ContentLength, out.TransferEncoding, out.Trailer)
	}
	if out.Form != nil || out.PostForm != nil {
		t.Error("the form that was parsed before is still there")
	}
	if out.RequestURI != "/notify" || out.URL.String() != "http://shop.example/notify" || out.Host != "shop.example" || out.Method != "POST" {
		t.Errorf("%s %s %s %s", out.Method, out.RequestURI, out.URL, out.Host)
	}
	original := out.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
	if original.RequestURI != "/original" || original.URL.String() != "/original" {
		t.Errorf("FastCGI would tell %s, %s", original.RequestURI, original.URL)
	}
	cut()
	if out.Context().Err() != nil {
		t.Error("the sender's context cuts the app's")
	}
	if deadline, ok := out.Context().Deadline(); !ok || time.Until(deadline) > time.Hour {
		t.Error("no deadline")
	}
}

// TestPrepareKeepsASignature: the header named keep stays, and no header with a similar name.
func TestPrepareKeepsASignature(t *testing.T) {
	r := httptest.NewRequest("POST", "/notify", strings.NewReader("a"))
	r.Header = http.Header{"Authorization": {"x"}, "Proxy-Authorization": {"x"}, "Ce-Id": {"forged"}}
	out, cancel := Prepare(r, strings.NewReader("a"), "text/plain", "Authorization", &Context{ID: "n"}, time.Hour)
	defer cancel()
	if len(out.Header) != 5 || out.Header.Get("Authorization") != "x" || out.Header.Get("Ce-Id") != "n" {
		t.Errorf("headers: %v", out.Header)
	}
}

// failingWriter is a connection that is gone.
type failingWriter struct{ http.ResponseWriter }

func (failingWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestSay(t *testing.T) {
	w := httptest.NewRecorder()
	if err := Say(w, 502, "FAILED"); err != nil {
		t.Fatal(err)
	}
	if w.Code != 502 || w.Body.String() != "FAILED" || w.Header().Get("Content-Type") != "text/plain; charset=utf-8" || w.Header().Get("Content-Length") != "6" {
		t.Errorf("%d %q %v", w.Code, w.Body, w.Header())
	}
	if err := Say(failingWriter{httptest.NewRecorder()}, 200, "SUCCESS"); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("error %v", err)
	}
}

func TestMetrics(t *testing.T) {
	var none *Metrics
	none.Notified("shop", "t", "taken", "") // must not panic
	none.Verified("shop", time.Now())

	registry := prometheus.NewRegistry()
	first, err := NewMetrics(registry, "chinaums")
	if err != nil {
		t.Fatal(err)
	}
	second, err := NewMetrics(registry, "chinaums") // two apps of one configuration, or a reload
	if err != nil {
		t.Fatal(err)
	}
	first.Notified("shop", "t", "taken", "")
	second.Notified("shop", "t", "taken", "")
	second.Verified("shop", time.UnixMilli(1_700_000_000_500))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, family := range families {
		for _, metric := range family.Metric {
			values[family.GetName()] += metric.Counter.GetValue() + metric.Gauge.GetValue()
		}
	}
	if values["caddy_chinaums_notifies_total"] != 2 || values["caddy_chinaums_last_notify_timestamp_seconds"] != 1_700_000_000.5 {
		t.Errorf("metrics: %v", values)
	}
	clash := prometheus.NewRegistry()
	clash.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "caddy_chinaums_notifies_total", Help: "another"}))
	if _, err := NewMetrics(clash, "chinaums"); err == nil {
		t.Error("a metric of another kind under this name is no error")
	}
}
