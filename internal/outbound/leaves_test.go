package outbound

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestLeavesBeforeTheFirstByte: in the long form, other handlers may take their time between the platform's answer and the first byte
// of it. An app that left meanwhile counted as having heard.
func TestLeavesBeforeTheFirstByte(t *testing.T) {
	ctx, hangUp := context.WithCancel(t.Context())
	client := &failing{httptest.NewRecorder(), func() error { return nil }, func() error { return nil }}
	answering := roundTripper(func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(`{"errCode":"OK"}`)), ContentLength: 16}, nil
	})
	watch := &recorder{client: client.ResponseRecorder}
	guard := newGuard(t, []string{"all"}, nil, nil)
	guard.Watch = watch
	platform := testPlatform
	platform.ErrCode = func([]byte) string { return "OK" }
	platform.Words = func(string, []byte) string { return "" }
	guard.platform = &platform
	r := httptest.NewRequestWithContext(ctx, http.MethodPost, "/v1/x", strings.NewReader("{}"))
	r.Header.Set("Content-Type", "application/json")
	serve(guard, "long form", client, r, answering, func(w http.ResponseWriter) http.ResponseWriter { hangUp(); return w })
	if len(watch.told) != 3 || watch.told[2] != "heard false" {
		t.Errorf("%q", watch.told)
	}
}
