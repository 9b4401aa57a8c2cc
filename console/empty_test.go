package console

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/internal/recent"
)

// TestStateWithoutAccounts: lists are arrays, empty ones too. Before, a gateway with an inbox only answered `"accounts":null`
// until something had come, and the page, which filters them, stayed empty.
func TestStateWithoutAccounts(t *testing.T) {
	a := &adminAPI{log: recent.New(time.Now), apps: func() (map[string]platform, bool, error) { return nil, true, nil }}
	for _, route := range a.Routes() {
		if route.Pattern != "/gateway/state" {
			continue
		}
		w := httptest.NewRecorder()
		if err := route.Handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/gateway/state?after=0", nil)); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{`"accounts":[]`, `"platforms":[]`} {
			if !strings.Contains(w.Body.String(), want) {
				t.Errorf("no %s in %s", want, w.Body)
			}
		}
		return
	}
	t.Fatal("there is no /gateway/state")
}
