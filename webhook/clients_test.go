package webhook

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The libraries by the authors of the specification.
const (
	libraryJS = "standardwebhooks@1.1.1"
	libraryGo = "github.com/standard-webhooks/standard-webhooks/libraries@v0.0.1"
)

// verifyJS and verifyGo are what an app writes with the library; they print y or n for each case.
const (
	verifyJS = `
const { Webhook } = require('standardwebhooks');
for (const c of JSON.parse(require('node:fs').readFileSync('cases.json', 'utf8'))) {
    let verified = 'y';
    try {
        new Webhook(c.secret).verify(Buffer.from(c.body, 'base64'), c.headers);
    } catch {
        verified = 'n';
    }
    process.stdout.write(verified);
}
`
	verifyGo = `package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

func main() {
	content, err := os.ReadFile("cases.json")
	if err != nil {
		panic(err)
	}
	var cases []struct {
		Secret  string
		Body    []byte
		Headers map[string]string
	}
	if err := json.Unmarshal(content, &cases); err != nil {
		panic(err)
	}
	for _, c := range cases {
		header := make(http.Header)
		for name, value := range c.Headers {
			header.Set(name, value)
		}
		verified := "n"
		if library, err := standardwebhooks.NewWebhook(c.Secret); err == nil && library.Verify(c.Body, header) == nil {
			verified = "y"
		}
		fmt.Print(verified)
	}
}
`
)

// TestClients lets the official libraries verify what the handler signs.
func TestClients(t *testing.T) {
	if os.Getenv("CHINAUMS_CLIENTS") != "1" {
		t.Skip("fetches the libraries from npm and the Go module proxy: set CHINAUMS_CLIENTS=1")
	}
	fresh := func() string {
		key := make([]byte, 32)
		_, _ = rand.Read(key)
		return "whsec_" + base64.StdEncoding.EncodeToString(key)
	}
	secret, previous := fresh(), fresh()
	const body = `{"merOrderId":"1017","orderDesc":"一杯茶 + \"two\"","totalAmount":4990}`
	type signed struct {
		Secret  string            `json:"secret"`
		Body    []byte            `json:"body"`
		Headers map[string]string `json:"headers"`
	}
	sign := func(age time.Duration, secrets ...string) map[string]string {
		handler := new(Handler)
		for i, secret := range secrets {
			name := fmt.Sprint("WEBHOOK_SECRET_", i)
			t.Setenv(name, secret)
			handler.Secrets = append(handler.Secrets, "{env."+name+"}")
		}
		provision(t, handler)
		handler.now = func() time.Time { return time.Now().Add(-age) }
		r := httptest.NewRequest(http.MethodPost, "/notify", strings.NewReader(body))
		r.Header.Set("Ce-Id", "0123456789abcdef0123456789abcdef")
		var got seen
		if err := serve(handler, r, &got); err != nil || string(got.body) != body {
			t.Fatalf("%s: %v", got.body, err)
		}
		headers := make(map[string]string)
		for _, name := range []string{"Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"} {
			headers[strings.ToLower(name)] = got.header.Get(name)
		}
		return headers
	}
	other := sign(0, secret)
	other["webhook-id"] = "fedcba9876543210fedcba9876543210"
	cases := []struct {
		name, want string
		signed
	}{
		{"as it is", "y", signed{secret, []byte(body), sign(0, secret)}},
		{"the new secret of two", "y", signed{secret, []byte(body), sign(0, secret, previous)}},
		{"the previous secret of two", "y", signed{previous, []byte(body), sign(0, secret, previous)}},
		{"another secret", "n", signed{previous, []byte(body), sign(0, secret)}},
		{"another body", "n", signed{secret, []byte(strings.Replace(body, "4990", "1", 1)), sign(0, secret)}},
		{"another id", "n", signed{secret, []byte(body), other}},
		{"of an hour ago", "n", signed{secret, []byte(body), sign(time.Hour, secret)}},
		// Why every example has whsec_…: a library reads any text as base64, the gateway reads it as it is.
		{"a secret of plain text", "n", signed{"plainTextOf24Characters+", []byte(body), sign(0, "plainTextOf24Characters+")}},
	}
	shown, want := make([]signed, len(cases)), ""
	for i, c := range cases {
		shown[i], want = c.signed, want+c.want
	}
	content, err := json.Marshal(shown)
	if err != nil {
		t.Fatal(err)
	}

	for language, program := range map[string]struct {
		file, source string
		commands     [][]string // the last one verifies
	}{
		"JavaScript": {"verify.js", verifyJS, [][]string{
			{"npm", "install", "--prefix", ".", "--no-save", "--no-audit", "--no-fund", "--prefer-offline", libraryJS},
			{"node", "verify.js"},
		}},
		"Go": {"main.go", verifyGo, [][]string{{"go", "mod", "init", "verify"}, {"go", "get", libraryGo}, {"go", "run", "-mod=mod", "."}}},
	} {
		t.Run(language, func(t *testing.T) {
			directory := t.TempDir()
			for name, text := range map[string]string{"cases.json": string(content), program.file: program.source} {
				if err := os.WriteFile(filepath.Join(directory, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			var printed string
			for _, arguments := range program.commands {
				c := exec.CommandContext(t.Context(), arguments[0], arguments[1:]...)
				c.Dir = directory
				// The module made here is its own, whatever the flags that this test was built with.
				c.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off")
				var stderr strings.Builder
				c.Stderr = &stderr
				output, err := c.Output()
				if err != nil {
					t.Fatalf("%s: %v\n%s%s", c, err, output, &stderr)
				}
				printed = string(output)
			}
			if len(printed) != len(want) {
				t.Fatalf("it printed %q", printed)
			}
			for i, c := range cases {
				if got := fmt.Sprintf("%c", printed[i]); got != c.want {
					t.Errorf("%s: verified %s, not %s", c.name, got, c.want)
				}
			}
		})
	}
}
