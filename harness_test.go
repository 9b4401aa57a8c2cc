package chinaums

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	"github.com/caddy-chinaums/caddy-chinaums/internal/freeport"
	"github.com/caddy-chinaums/caddy-chinaums/internal/testutil"
)

// The tests run a real Caddy in this process, one configuration at a time: no test here may be parallel.

// TestMain keeps the tests away from the Caddy that this machine may run: from its autosaved configuration, which
// `caddy run --resume` starts, and its storage.
func TestMain(m *testing.M) {
	_ = os.Setenv("LC_ALL", "C") // messages are in English, whatever this machine speaks
	testutil.TempOnDisk()
	directory, err := os.MkdirTemp("", "chinaums-test-")
	if err != nil {
		panic(err)
	}
	caddy.ConfigAutosavePath = filepath.Join(directory, "autosave.json")
	caddy.DefaultStorage.Path = directory
	code := m.Run()
	_ = os.RemoveAll(directory)
	os.Exit(code)
}

// adapt turns a Caddyfile into JSON.
func adapt(t testing.TB, config string) []byte {
	t.Helper()
	adapted, err := adaptOrError(config)
	if err != nil {
		t.Fatalf("adapting: %v", err)
	}
	return adapted
}

func adaptOrError(config string) ([]byte, error) {
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config), map[string]any{"filename": "Caddyfile"})
	return adapted, err
}

// startCaddy runs Caddy with a Caddyfile until the test ends. `$LOG` in it is the name of the log module that
// loggedLines reads. It returns what was logged.
func startCaddy(t testing.TB, config string) *logged {
	t.Helper()
	return startCaddyLogging(t, "DEBUG", config)
}

func startCaddyLogging(t testing.TB, level, config string) *logged {
	t.Helper()
	lines := newLogged(t)
	config = strings.Replace(config, "{\n", "{\n\tadmin off\n\tlog {\n\t\toutput test_log "+lines.id+"\n\t\tformat json\n\t\tlevel "+level+"\n\t}\n", 1)
	if err := caddy.Load(adapt(t, config), true); err != nil {
		t.Fatalf("loading: %v", err)
	}
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Errorf("stopping: %v", err)
		}
	})
	return lines
}

// loadError returns the error of loading a Caddyfile, or "".
func loadError(t testing.TB, config string) string {
	t.Helper()
	adapted, err := adaptOrError(config)
	if err != nil {
		return err.Error()
	}
	if !strings.Contains(config, "admin ") {
		var document map[string]any
		if err := json.Unmarshal(adapted, &document); err != nil {
			t.Fatal(err)
		}
		document["admin"] = map[string]any{"disabled": true}
		adapted, _ = json.Marshal(document)
	}
	err = caddy.Validate(mustConfig(t, adapted))
	if err == nil {
		return ""
	}
	return err.Error()
}

func mustConfig(t testing.TB, adapted []byte) *caddy.Config {
	t.Helper()
	config := new(caddy.Config)
	if err := json.Unmarshal(adapted, config); err != nil {
		t.Fatal(err)
	}
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

// do sends a request and reads the answer whole.
func do(t testing.TB, req *http.Request) answer {
	t.Helper()
	res, err := testClient.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", req.Method, req.URL, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("%s %s: reading the answer: %v", req.Method, req.URL, err)
	}
	return answer{res.StatusCode, res.Header, string(body)}
}

// doAfterReload does the same after a reload, when a connection may still reach the configuration that is going and be
// closed unanswered: then once more.
func doAfterReload(t testing.TB, request func() *http.Request) answer {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		res, err := testClient.Do(request())
		if err == nil {
			body, err := io.ReadAll(res.Body)
			res.Body.Close()
			if err != nil {
				t.Fatalf("reading the answer: %v", err)
			}
			return answer{res.StatusCode, res.Header, string(body)}
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// inARow asks twenty times, each on a connection of its own: while two configurations listen, so many do not reach the same one.
func inARow(is func() bool) bool {
	for range 20 {
		if !is() {
			return false
		}
	}
	return true
}

// testClient keeps no connections, so that stopping a server does not wait for them.
var testClient = &http.Client{
	Timeout:       time.Minute,
	Transport:     &http.Transport{DisableKeepAlives: true, DisableCompression: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// newRequest makes a request with headers given as "Name: value".
func newRequest(t testing.TB, method, url, body string, headers ...string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		req.Header[name] = append(req.Header[name], value)
	}
	return req
}

// logged collects what a Caddy under test logs.
type logged struct {
	id string
	mu sync.Mutex
	b  bytes.Buffer
}

var (
	loggedMu  sync.Mutex
	loggedAll = map[string]*logged{}
)

func newLogged(t testing.TB) *logged {
	loggedMu.Lock()
	defer loggedMu.Unlock()
	l := &logged{id: fmt.Sprintf("log%d", len(loggedAll))}
	loggedAll[l.id] = l
	t.Cleanup(func() {
		if t.Failed() && os.Getenv("SHOW_LOG") != "" {
			t.Log(l.String())
		}
	})
	return l
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) Close() error { return nil }

// String returns all lines so far.
func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// lines returns the lines so far that hold all of the words.
func (l *logged) lines(words ...string) []string {
	var found []string
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

// testLog is the log output module `test_log <id>`.
type testLog struct {
	ID string `json:"id,omitempty"`
}

func init() { caddy.RegisterModule(testLog{}) }

func (testLog) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.logging.writers.test_log", New: func() caddy.Module { return new(testLog) }}
}

func (l testLog) String() string    { return "test_log " + l.ID }
func (l testLog) WriterKey() string { return "test_log " + l.ID }
func (l testLog) OpenWriter() (io.WriteCloser, error) {
	loggedMu.Lock()
	defer loggedMu.Unlock()
	return loggedAll[l.ID], nil
}

// UnmarshalCaddyfile reads `output test_log <id>`.
func (l *testLog) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.Args(&l.ID) {
		return d.ArgErr()
	}
	return nil
}

var (
	_ caddy.WriterOpener    = (*testLog)(nil)
	_ caddyfile.Unmarshaler = (*testLog)(nil)
)
