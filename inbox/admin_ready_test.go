package inbox

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// unopened has an inbox whose store has not been opened.
type unopened struct{}

func (unopened) Names() []string             { return []string{"default"} }
func (unopened) Lookup(string) (Store, bool) { return nil, false }

// TestAdminBeforeTheStart: the admin API is there before the apps have started; then it says 503.
func TestAdminBeforeTheStart(t *testing.T) {
	for _, test := range []struct {
		name, path string
		api        adminAPI
		status     int // 0: it answers
	}{
		{"no configuration runs", "/inbox", adminAPI{}, 503},
		{"no configuration runs, one inbox", "/inbox/default", adminAPI{}, 503},
		{"the store is not open", "/inbox/default/messages", adminAPI{func() (directory, error) { return unopened{}, nil }}, 503},
		{"the store is not open, one message", "/inbox/default/messages/1", adminAPI{func() (directory, error) { return unopened{}, nil }}, 503},
		{"another inbox", "/inbox/second/messages/1", adminAPI{func() (directory, error) { return unopened{}, nil }}, 404},
		{"all inboxes", "/inbox", adminAPI{func() (directory, error) { return unopened{}, nil }}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			mux := http.NewServeMux()
			var failed error
			for _, route := range test.api.Routes() {
				mux.HandleFunc(route.Pattern, func(w http.ResponseWriter, r *http.Request) { failed = route.Handler.ServeHTTP(w, r) })
			}
			recorder := httptest.NewRecorder()
			mux.ServeHTTP(recorder, httptest.NewRequest("GET", test.path, nil))
			var answer caddy.APIError
			if errors.As(failed, &answer); answer.HTTPStatus != test.status {
				t.Errorf("%v: %+v", failed, answer)
			}
			if want := `[{"name":"default","pending":0,"delivered":0,"dead":0,"bytes":0,"error":"not open yet"}]` + "\n"; test.status == 0 && recorder.Body.String() != want {
				t.Errorf("%s, want %s", recorder.Body, want)
			}
		})
	}
}
