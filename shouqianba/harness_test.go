package shouqianba

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	"github.com/caddy-chinaums/caddy-chinaums/internal/freeport"
	_ "github.com/caddy-chinaums/caddy-chinaums/webhook"
)

// Some tests run a real Caddy in this process, one configuration at a time: no test here may be parallel.

func adaptOrError(config string) ([]byte, error) {
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config), map[string]any{"filename": "Caddyfile"})
	return adapted, err
}

// withTestLog is a Caddyfile whose log goes to `log`, and which has no admin endpoint.
func withTestLog(config string) string {
	return strings.Replace(config, "{\n", "{\n\tadmin off\n\tlog {\n\t\toutput shouqianba_test_log\n\t\tformat json\n\t\tlevel DEBUG\n\t}\n", 1)
}

// load makes Caddy run a Caddyfile, in the place of what it runs. Its log goes to `log`.
func load(t testing.TB, config string) {
	t.Helper()
	adapted, err := adaptOrError(withTestLog(config))
	if err != nil {
		t.Fatalf("adapting: %v", err)
	}
	if err := caddy.Load(adapted, true); err != nil {
		t.Fatalf("loading: %v", err)
	}
}

// start runs Caddy with a Caddyfile until the test ends.
func start(t testing.TB, config string) {
	t.Helper()
	log.reset()
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Errorf("stopping: %v", err)
		}
	})
	load(t, config)
}

// loadError returns the error of adapting or loading a Caddyfile, or "".
func loadError(t testing.TB, config string) string {
	t.Helper()
	adapted, err := adaptOrError(config)
	if err != nil {
		return err.Error()
	}
	if err := caddy.Validate(withoutAdmin(t, adapted)); err != nil {
		return err.Error()
	}
	return ""
}

func withoutAdmin(t testing.TB, adapted []byte) *caddy.Config {
	t.Helper()
	config := new(caddy.Config)
	if err := json.Unmarshal(adapted, config); err != nil {
		t.Fatal(err)
	}
	config.Admin = &caddy.AdminConfig{Disabled: true}
	return config
}

// freeAddress returns a loopback address that nobody listens on.
func freeAddress(t testing.TB) string {
	t.Helper()
	address, err := freeport.Address()
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// answer is a response, read whole.
type answer struct {
	status int
	header http.Header
	body   string
}

// client keeps no connections, so that stopping a server does not wait for them.
var client = &http.Client{
	Timeout:       time.Minute,
	Transport:     &http.Transport{DisableKeepAlives: true, DisableCompression: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// post sends JSON, with headers given as "Name: value", which may take the place of the Content-Type.
func post(t testing.TB, url, body string, headers ...string) answer {
	t.Helper()
	return send(t, http.MethodPost, url, body, headers...)
}

func send(t testing.TB, method, url, body string, headers ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		if name == "Content-Type" {
			req.Header.Del(name)
			if value == "" {
				continue
			}
		}
		req.Header[name] = append(req.Header[name], value)
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	defer res.Body.Close()
	content, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("%s %s: reading the answer: %v", method, url, err)
	}
	return answer{res.StatusCode, res.Header, string(content)}
}

// logged collects what a Caddy under test logs.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

var log = new(logged)

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) Close() error { return nil }

func (l *logged) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b.Reset()
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// lines returns the lines so far that hold all of the words.
func (l *logged) lines(words ...string) (found []string) {
	for line := range strings.Lines(l.String()) {
		all := true
		for _, word := range words {
			all = all && strings.Contains(line, word)
		}
		if all {
			found = append(found, line)
		}
	}
	return found
}

// testLog is the log output module that writes to log.
type testLog struct{}

func init() { caddy.RegisterModule(testLog{}) }

func (testLog) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.logging.writers.shouqianba_test_log", New: func() caddy.Module { return new(testLog) }}
}

func (testLog) String() string                                { return "shouqianba_test_log" }
func (testLog) WriterKey() string                             { return "shouqianba_test_log" }
func (testLog) OpenWriter() (io.WriteCloser, error)           { return log, nil }
func (testLog) UnmarshalCaddyfile(*caddyfile.Dispenser) error { return nil }

var (
	_ caddy.WriterOpener    = testLog{}
	_ caddyfile.Unmarshaler = testLog{}
)
