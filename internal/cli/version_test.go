package cli

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/caddy-chinaums/caddy-chinaums/internal/freeport"
)

// run runs a command as the shell would and returns what it printed and its error.
func run(cmd *cobra.Command, args ...string) (string, error) {
	var out bytes.Buffer
	cmd.SetArgs(append([]string{}, args...)) // nil would mean the arguments of the test binary
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	err := cmd.Execute()
	return out.String(), err
}

func TestModuleVersion(t *testing.T) {
	other := debug.Module{Path: "github.com/caddyserver/caddy/v2", Version: "v2.11.9"}
	for _, c := range []struct {
		name string
		info *debug.BuildInfo
		want string
	}{
		{"no build information", nil, "(devel)"},
		{"a release's own binary", &debug.BuildInfo{Main: debug.Module{Path: modulePath, Version: "v0.1.0"}}, "v0.1.0"},
		{"xcaddy", &debug.BuildInfo{Main: debug.Module{Path: "caddy", Version: "(devel)"}, Deps: []*debug.Module{&other, {Path: modulePath, Version: "v0.1.0"}}}, "v0.1.0"},
		{"xcaddy, a local copy", &debug.BuildInfo{Deps: []*debug.Module{{Path: modulePath, Version: "v0.1.0", Replace: &debug.Module{Path: "./clone"}}}}, "(devel)"},
		{"xcaddy, a fork", &debug.BuildInfo{Deps: []*debug.Module{{Path: modulePath, Version: "v0.1.0", Replace: &debug.Module{Path: "example.com/fork", Version: "v0.1.1"}}}}, "v0.1.1"},
		{"another's program", &debug.BuildInfo{Main: other}, "(devel)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := moduleVersion("", c.info); got != c.want {
				t.Errorf("%q, not %q", got, c.want)
			}
		})
	}
	if got := moduleVersion("v0.1.2", &debug.BuildInfo{Main: debug.Module{Path: modulePath, Version: "(devel)"}}); got != "v0.1.2" {
		t.Errorf("told by the linker: %q", got)
	}
	output, err := run(VersionCommand(""))
	if err != nil || !strings.HasPrefix(output, "caddy-chinaums ") || !strings.Contains(output, "\ncaddy ") {
		t.Errorf("%v %q", err, output)
	}
}

func TestHealth(t *testing.T) {
	for _, c := range []struct {
		name, answer string
		status       int
		ok           bool
	}{
		{"loaded", `{"servers":{}}`, 200, true},
		{"nothing loaded", "null\n", 200, false},
		{"no such path", `{"error":"invalid traversal path"}`, 400, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			admin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/config/apps/http" || r.Method != http.MethodGet {
					t.Errorf("%s %s", r.Method, r.URL)
				}
				w.WriteHeader(c.status)
				_, _ = w.Write([]byte(c.answer))
			}))
			defer admin.Close()
			address := strings.TrimPrefix(admin.URL, "http://")
			output, err := run(HealthCommand(), "--address", address)
			if c.ok != (err == nil) || c.ok != (output == "ok\n") {
				t.Errorf("%v %q", err, output)
			}
		})
	}
	address, err := freeport.Address()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := run(HealthCommand(), "--address", address); err == nil {
		t.Error("ok though nobody listens")
	}
}
