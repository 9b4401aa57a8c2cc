package watched

import (
	"net/http/httptest"
	"strings"
	"testing"
)

// TestWithoutWatch: before, the answer did not name the option: "the platform's global option".
func TestWithoutWatch(t *testing.T) {
	for _, platform := range []string{"chinaums", "shouqianba"} {
		for _, route := range Routes(platform, nil, func() (*Watched, error) { return nil, nil }) {
			if strings.HasSuffix(route.Pattern, "/") {
				continue
			}
			method := "GET"
			if strings.HasSuffix(route.Pattern, "/query") || strings.HasSuffix(route.Pattern, "/resend") {
				method = "POST"
			}
			err := route.Handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(method, route.Pattern, nil))
			if want := "add `watch { … }` to the global option `" + platform + "`"; err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", route.Pattern, err, want)
			}
		}
	}
}
