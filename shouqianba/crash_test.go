package shouqianba

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/internal/outbound"
	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
)

// The tests here run the built server, and end it as a loss of power would.

// binary is the built server: cmd/caddy, built once, or what CADDY_BINARY names.
var binary = sync.OnceValues(func() (string, error) {
	if name := os.Getenv("CADDY_BINARY"); name != "" {
		return name, nil
	}
	directory, err := os.MkdirTemp("", "shouqianba-crash-")
	if err != nil {
		return "", err
	}
	name := filepath.Join(directory, "caddy")
	output, err := exec.Command("go", "build", "-buildvcs=false", "-o", name, "../cmd/caddy").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, output)
	}
	return name, nil
})

func TestMain(m *testing.M) {
	_ = os.Setenv("LC_ALL", "C") // messages are in English, whatever this machine speaks
	// Not the autosaved configuration and the storage of the Caddy that this machine may run.
	directory, err := os.MkdirTemp("", "shouqianba-test-")
	if err != nil {
		panic(err)
	}
	caddy.ConfigAutosavePath = filepath.Join(directory, "autosave.json")
	caddy.DefaultStorage.Path = directory
	code := m.Run()
	_ = os.RemoveAll(directory)
	if os.Getenv("CADDY_BINARY") == "" {
		if name, err := binaryIfBuilt(); err == nil && name != "" {
			_ = os.RemoveAll(filepath.Dir(name))
		}
	}
	os.Exit(code)
}

var built atomic.Bool

func binaryIfBuilt() (string, error) {
	if !built.Load() {
		return "", nil
	}
	return binary()
}

func needBinary(t testing.TB) string {
	t.Helper()
	if testing.Short() {
		t.Skip("the built server is not run with -short")
	}
	if _, err := exec.LookPath("go"); err != nil && os.Getenv("CADDY_BINARY") == "" {
		if os.Getenv("CHINAUMS_E2E") == "1" {
			t.Fatal("go is not in the PATH")
		}
		t.Skip("go is not in the PATH; it builds the server that is run here")
	}
	built.Store(true)
	name, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// merchantSide is a platform, a storage, and the servers over it.
type merchantSide struct {
	t        testing.TB
	binary   string
	platform *sandbox.Shouqianba
	upstream *httptest.Server
	storage  string

	mu   sync.Mutex
	hook func(path string, next func(http.ResponseWriter)) func(http.ResponseWriter) // what happens to the next call
	logs bytes.Buffer
}

func newMerchantSide(t testing.TB) *merchantSide {
	m := &merchantSide{t: t, binary: needBinary(t), storage: filepath.Join(t.TempDir(), "data")}
	notOverMidnight()
	var err error
	if m.platform, err = sandbox.NewShouqianba(sandbox.ShouqianbaOptions{PrivateKey: testKey()}); err != nil {
		t.Fatal(err)
	}
	m.upstream = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		serve := func(w http.ResponseWriter) { m.platform.ServeHTTP(w, r) }
		m.mu.Lock()
		hook := m.hook
		m.mu.Unlock()
		if hook != nil && r.URL.Path == checkinPath {
			serve = hook(r.URL.Path, serve)
		}
		serve(w)
	}))
	t.Cleanup(func() {
		m.platform.Close()
		m.upstream.Close()
	})
	return m
}

func (m *merchantSide) setHook(hook func(string, func(http.ResponseWriter)) func(http.ResponseWriter)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hook = hook
}

// notOverMidnight waits, shortly before midnight in Beijing, until it is over. A server has the machine's clock, and checks in
// once more then than is counted.
func notOverMidnight() {
	if wait := time.Until(midnight(time.Now().Add(3 * time.Minute))); wait > 0 {
		time.Sleep(wait + time.Second)
	}
}

// owner reads and writes the storage as the servers do.
func (m *merchantSide) owner() *owner {
	o := m.platform.Options()
	endpoint, _, err := outbound.ParseEndpoint(m.upstream.URL)
	if err != nil {
		m.t.Fatal(err)
	}
	owned, err := newOwner("till", identity{o.VendorSN, o.AppID, "till-1", o.ActivationCode}, o.VendorKey, endpoint, zap.NewNop())
	if err != nil {
		m.t.Fatal(err)
	}
	owned.slot.Storage = &certmagic.FileStorage{Path: m.storage}
	return owned
}

// start runs a server, with a site at address if that is not empty.
func (m *merchantSide) start(address string) *exec.Cmd {
	m.t.Helper()
	o := m.platform.Options()
	site := ""
	if address != "" {
		site = "http://" + address + " {\n\tshouqianba_proxy\n}\n"
	}
	config := fmt.Sprintf(`{
	admin off
	persist_config off
	storage file_system %s
	shouqianba {
		terminal till {
			vendor_sn       %s
			vendor_key      {env.SQB_VENDOR_KEY}
			app_id          %s
			device_id       till-1
			activation_code {env.SQB_ACTIVATION_CODE}
			upstream        %s
		}
	}
}
%s`, m.storage, o.VendorSN, o.AppID, m.upstream.URL, site)
	command := exec.Command(m.binary, "run", "--adapter", "caddyfile", "--config", "-")
	command.Env = append(os.Environ(), "SQB_VENDOR_KEY="+o.VendorKey, "SQB_ACTIVATION_CODE="+o.ActivationCode,
		"HOME="+m.t.TempDir(), "XDG_DATA_HOME=", "XDG_CONFIG_HOME=", "http_proxy=", "HTTP_PROXY=")
	command.Stdin = strings.NewReader(config)
	command.Stderr = lockedWriter{m}
	if err := command.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
	})
	return command
}

type lockedWriter struct{ m *merchantSide }

func (w lockedWriter) Write(p []byte) (int, error) {
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	return w.m.logs.Write(p)
}

func (m *merchantSide) log() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.logs.String()
}

// within waits for what a server does, and shows its log if it does not.
func (m *merchantSide) within(patience time.Duration, what string, done func() bool) bool {
	m.t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			m.t.Errorf("%s did not happen; the servers say:\n%s", what, m.log())
			return false
		}
	}
	return true
}

// settled reports whether the storage holds the platform's newest key, of today.
func (m *merchantSide) settled(o *owner) bool {
	r, err := o.load(m.t.Context())
	current, _ := m.platform.Keys("till-1")
	return err == nil && r.Key != "" && r.Key == current && r.Day == day(time.Now()) && r.Unseen == 0
}

// TestTwoServersOverOneStorage: two processes, fifty first calls at once: one activation. Then, the next day, again:
// one check-in.
func TestTwoServersOverOneStorage(t *testing.T) {
	m := newMerchantSide(t)
	o := m.owner()
	for round := range 3 {
		if round > 0 {
			r, err := o.load(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			r.Day = day(time.Now().Add(-24 * time.Hour))
			if err := o.save(t.Context(), r); err != nil {
				t.Fatal(err)
			}
		}
		addresses := []string{freeAddress(t), freeAddress(t)}
		var servers []*exec.Cmd
		for _, address := range addresses {
			servers = append(servers, m.start(address))
		}
		for _, address := range addresses {
			if !m.within(2*time.Minute, "the start", func() bool {
				connection, err := net.Dial("tcp", address)
				if err == nil {
					_ = connection.Close()
				}
				return err == nil
			}) {
				return
			}
		}
		var group sync.WaitGroup
		for i := range 50 {
			group.Go(func() {
				// The terminal's number is not known yet in the first round; the platform says so, and that the signature is right.
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+addresses[i%2]+"/upay/v2/query",
					strings.NewReader(call(m.platform.Terminal("till-1"), `"client_sn":"1"`)))
				if err != nil {
					t.Error(err)
					return
				}
				req.Header.Set("Content-Type", "application/json")
				res, err := client.Do(req)
				if err != nil {
					t.Error(err)
					return
				}
				defer res.Body.Close()
				content, err := io.ReadAll(res.Body)
				if err != nil || res.StatusCode != 200 || !strings.Contains(string(content), "UPAY_ORDER_NOT_EXISTS") && !strings.Contains(string(content), "INVALID_TERMINAL") {
					t.Errorf("answer: %d %s, %v", res.StatusCode, content, err)
				}
			})
		}
		group.Wait()
		if a, c := m.platform.Activations(), m.platform.Checkins(); a != 1 || c != round {
			t.Errorf("round %d: %d activations and %d check-ins, want 1 and %d; the servers say:\n%s", round, a, c, round, m.log())
		}
		for _, server := range servers {
			_ = server.Process.Signal(syscall.SIGTERM)
		}
		for _, server := range servers {
			if err := server.Wait(); err != nil {
				t.Errorf("a server ended with %v", err)
			}
		}
	}
	for _, secret := range []string{m.platform.Options().VendorKey, m.platform.Options().ActivationCode} {
		if strings.Contains(m.log(), secret) {
			t.Error("a server's log shows a secret")
		}
	}
}
