package adminapi

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

type roundTripper func(*http.Request) *http.Response

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r), nil }

// TestOrigin: enforce_origin wants an Origin from everything but a socket. Before, a host whose name begins with unix got none,
// and its Caddy refused.
func TestOrigin(t *testing.T) {
	for address, want := range map[string]string{
		"localhost:2019":       "http://localhost:2019",
		"unix-box.local:2019":  "http://unix-box.local:2019",
		"unix//run/caddy.sock": "",
	} {
		t.Run(address, func(t *testing.T) {
			c, err := New(address, "", "")
			if err != nil {
				t.Fatal(err)
			}
			got := "nobody was asked"
			c.http.Transport = roundTripper(func(r *http.Request) *http.Response {
				got = r.Header.Get("Origin")
				return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader("{}"))}
			})
			if _, err := c.Call(t.Context(), http.MethodGet, "/config/", nil); err != nil {
				t.Fatal(err)
			}
			if got != want {
				t.Errorf("Origin %q, not %q", got, want)
			}
		})
	}
}

// TestNothingThere: a Caddy without the plugin answers 404 in plain text. Before, only the commands of the inbox said what is
// missing.
func TestNothingThere(t *testing.T) {
	for path, want := range map[string]string{
		"/inbox":                   "is it a Caddy with the inbox?",
		"/chinaums/orders":         "is it a Caddy with this plugin, and `watch { … }` in the global option `chinaums`?",
		"/shouqianba/reconcile":    "is it a Caddy with this plugin, and `watch { … }` in the global option `shouqianba`?",
		"/chinaums/orders/a/1%2F2": "is it a Caddy with this plugin, and `watch { … }` in the global option `chinaums`?",
	} {
		t.Run(path, func(t *testing.T) {
			c, err := New("localhost:2019", "", "")
			if err != nil {
				t.Fatal(err)
			}
			c.http.Transport = roundTripper(func(*http.Request) *http.Response {
				return &http.Response{Status: "404 Not Found", StatusCode: http.StatusNotFound, Body: io.NopCloser(strings.NewReader("404 page not found\n"))}
			})
			if _, err := c.Call(t.Context(), http.MethodGet, path, nil); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %q", err, want)
			}
		})
	}
}
