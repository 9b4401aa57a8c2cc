package chinaums

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
)

// The generators of clients that have to take openapi.yaml, with what their code needs. docs/*/reference.md name the same.
const (
	oapiCodegen       = "github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen@v2.8.2"
	oapiRuntime       = "github.com/oapi-codegen/runtime@v1.9.0"
	ogen              = "github.com/ogen-go/ogen/cmd/ogen@v1.25.0"
	ogenRuntime       = "github.com/ogen-go/ogen@v1.25.0"
	openAPITypeScript = "openapi-typescript@7.13.0"
	heyAPI            = "@hey-api/openapi-ts@0.99.0"
	typeScript        = "typescript@5.9.3"
	grafana           = "github.com/grafana/grafana-foundation-sdk/go@v0.0.22"
)

// TestClients makes four clients of openapi.yaml, compiles them, and takes an order through its life with the two in Go.
// Before, oapi-codegen ("unhandled Schema type: &[object string]") and ogen ("multiple types are not supported") refused
// the document, and schemas had the names of the types that oapi-codegen makes of an operation (QueryResponse).
func TestClients(t *testing.T) {
	if os.Getenv("CHINAUMS_CLIENTS") != "1" {
		t.Skip("fetches the generators from npm and the Go module proxy: set CHINAUMS_CLIENTS=1")
	}
	document, err := filepath.Abs(openAPIFile)
	if err != nil {
		t.Fatal(err)
	}

	t.Run("TypeScript", func(t *testing.T) {
		directory := t.TempDir()
		if err := os.CopyFS(directory, os.DirFS("testdata/clients")); err != nil {
			t.Fatal(err)
		}
		run := func(name string, arguments ...string) { t.Helper(); runTool(t, directory, name, arguments...) }
		run("npm", "install", "--prefix", ".", "--no-save", "--no-audit", "--no-fund", "--prefer-offline", openAPITypeScript, heyAPI, typeScript)
		run("node_modules/.bin/openapi-typescript", document, "-o", "openapi-typescript.d.ts")
		run("node_modules/.bin/openapi-ts", "-i", document, "-o", "hey-api")
		run("node_modules/.bin/tsc", "--noEmit", "--strict", "--target", "es2022", "--module", "esnext", "--moduleResolution", "bundler",
			"--lib", "es2022,dom,dom.iterable", "app.ts")
	})

	t.Run("Go", func(t *testing.T) {
		directory := t.TempDir()
		if err := os.CopyFS(directory, os.DirFS("testdata/clients")); err != nil {
			t.Fatal(err)
		}
		run := func(arguments ...string) { t.Helper(); runTool(t, directory, "go", arguments...) }
		run("mod", "init", "clients")
		if err := os.Mkdir(filepath.Join(directory, "oapi", "chinaums"), 0o755); err != nil {
			t.Fatal(err)
		}
		run("run", oapiCodegen, "-generate", "types,client,skip-prune", "-package", "chinaums", "-o", "oapi/chinaums/chinaums.gen.go", document)
		run("run", ogen, "-package", "chinaums", "-target", "ogen/chinaums", document)
		run("get", oapiRuntime, ogenRuntime)
		run("build", "-mod=mod", "-o", directory+"/bin/", "./oapi", "./ogen")
		for _, client := range []string{"oapi", "ogen"} {
			for _, amounts := range []string{"numbers", "texts"} {
				t.Run(client+" "+amounts, func(t *testing.T) {
					orderWithClient(t, filepath.Join(directory, "bin", client), amounts == "texts")
				})
			}
		}
	})
}

// TestGrafanaSchema holds docs/grafana.json against the schema that Grafana publishes. Before, 26 fields were missing that it asks
// for.
func TestGrafanaSchema(t *testing.T) {
	if os.Getenv("CHINAUMS_CLIENTS") != "1" {
		t.Skip("fetches the schema from the Go module proxy: set CHINAUMS_CLIENTS=1")
	}
	dashboard, err := filepath.Abs("docs/grafana.json")
	if err != nil {
		t.Fatal(err)
	}
	directory := t.TempDir()
	if err := os.CopyFS(directory, os.DirFS("testdata/grafana")); err != nil {
		t.Fatal(err)
	}
	runTool(t, directory, "go", "mod", "init", "grafana")
	runTool(t, directory, "go", "get", grafana)
	runTool(t, directory, "go", "run", "-mod=mod", ".", dashboard)
}

// orderWithClient has a client order, ask for, refund and read the notify of an order, whose amounts the platform writes as
// texts or as numbers.
func orderWithClient(t *testing.T, client string, texts bool) {
	platform, platformURL := startSandbox(t, sandbox.Options{Manual: true, StringAmounts: texts})
	keys := platform.Options()
	app := newMerchantApp(t, nil)
	address := freeAddress(t)
	startCaddy(t, merchantOptions(platformURL)+notifySite(address,
		"chinaums_proxy /v1/netpay/* {\n\t\tvalidate reject\n\t}\n\tchinaums_notify /notify\n\treverse_proxy "+app.URL))

	order := keys.SourceCode + "2026112900001"
	phase := func(name, stdin, want string) {
		t.Helper()
		c := exec.CommandContext(t.Context(), client, name)
		c.Env = []string{"GATEWAY=http://" + address, "NOTIFY_URL=http://" + address + "/notify",
			"MID=" + keys.MID, "TID=" + keys.TID, "ORDER=" + order, "REFUND=" + keys.SourceCode + "2026112900002"}
		c.Stdin = strings.NewReader(stdin)
		var stderr bytes.Buffer
		c.Stderr = &stderr
		got, err := c.Output()
		if err != nil || string(got) != want {
			t.Fatalf("%s: %v\n%s\ngot:\n%s\nwant:\n%s", name, err, &stderr, got, want)
		}
	}
	phase("order", "", "order answered SUCCESS NEW_ORDER 1234 Sign=WXPay\n")
	if err := platform.Pay(order); err != nil {
		t.Fatal(err)
	}
	if delivery, err := platform.Notify(t.Context(), order, sandbox.KindPayment, sandbox.Genuine); err != nil || delivery.Status != 200 {
		t.Fatalf("notify: %+v, %v", delivery, err)
	}
	phase("notify", app.one(t).body, "notify TRADE_SUCCESS 1234\n")
	phase("refund", "", `query answered SUCCESS TRADE_SUCCESS 1234
refused not_sent GATEWAY_INVALID refundAmount sum
refund answered SUCCESS SUCCESS 100
refund-query answered SUCCESS SUCCESS 100
`)
}

// notFetched is what the go command says if it could not reach the module proxy, or if that had a fault of its own.
var notFetched = regexp.MustCompile(`Get "https?://|reading https?://\S+: 5\d\d |read tcp `)

// runTool runs one and shows what it printed if it fails. The go command, which does not do so itself, gets two more tries to fetch
// something.
func runTool(t *testing.T, directory, name string, arguments ...string) {
	t.Helper()
	if strings.Contains(name, "/") {
		name = filepath.Join(directory, name)
	}
	for _, pause := range []time.Duration{time.Second, 15 * time.Second, 0} {
		c := exec.CommandContext(t.Context(), name, arguments...)
		c.Dir = directory
		// The generated module is its own, whatever the flags that this test was built with.
		c.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off")
		printed, err := c.CombinedOutput()
		if err == nil {
			return
		}
		if pause == 0 || name != "go" || !notFetched.Match(printed) {
			t.Fatalf("%s: %v\n%s", c, err, printed)
		}
		t.Logf("%s: %v\n%s", c, err, printed)
		time.Sleep(pause)
	}
}

// TestRunTool: a module proxy that fails once is asked again. Before, TestClients failed.
func TestRunTool(t *testing.T) {
	findTool(t, "sh", "sh")
	programs, work := t.TempDir(), t.TempDir()
	script := `#!/bin/sh
if [ -e asked ]; then echo "$@" >got; exit; fi
: >asked
echo 'go: example.com/m@v1.0.0: Get "https://proxy.example/example.com/m/@v/v1.0.0.info": EOF' >&2
exit 1
`
	if err := os.WriteFile(filepath.Join(programs, "go"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", programs+string(os.PathListSeparator)+os.Getenv("PATH"))
	runTool(t, work, "go", "get", "example.com/m@v1.0.0")
	if got, err := os.ReadFile(filepath.Join(work, "got")); err != nil || string(got) != "get example.com/m@v1.0.0\n" {
		t.Errorf("%q, %v", got, err)
	}
}
