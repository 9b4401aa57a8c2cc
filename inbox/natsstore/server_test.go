package natsstore

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
	"github.com/caddy-chinaums/caddy-chinaums/internal/freeport"
)

// serverBinary is the nats-server of the tests: what NATS_SERVER_BINARY names, or an installed one that is new enough.
func serverBinary(t testing.TB) string {
	t.Helper()
	problem := "nats-server is missing"
	for _, name := range []string{os.Getenv("NATS_SERVER_BINARY"), "nats-server", "/usr/sbin/nats-server", "/usr/bin/nats-server"} {
		binary, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		version, err := exec.Command(binary, "--version").Output() // nats-server: v2.15.2
		if err == nil {
			_, number, _ := strings.Cut(strings.TrimSpace(string(version)), ": v")
			err = checkVersion(number)
		}
		if err == nil {
			return binary
		}
		problem = fmt.Sprintf("%s: %v", binary, err)
	}
	problem += "; NATS_SERVER_BINARY may name one of 2.11 or later"
	if os.Getenv("CHINAUMS_E2E") == "1" {
		t.Fatal(problem)
	}
	t.Skip(problem)
	return ""
}

// server is one nats-server, which can be stopped in every way and started again on its data.
type server struct {
	t       testing.TB
	binary  string
	config  string
	port    int
	command *exec.Cmd
	done    chan struct{}
	log     string
}

func freePorts(t testing.TB, number int) []int {
	t.Helper()
	ports := make([]int, number)
	for i := range ports {
		port, err := freeport.Port()
		if err != nil {
			t.Fatal(err)
		}
		ports[i] = port
	}
	return ports
}

// newServer writes a server's configuration; extra is added to it.
func newServer(t testing.TB, port int, extra string) *server {
	t.Helper()
	folder := t.TempDir()
	s := &server{t: t, binary: serverBinary(t), config: filepath.Join(folder, "server.conf"), port: port, log: filepath.Join(folder, "log")}
	config := fmt.Sprintf("listen: \"127.0.0.1:%d\"\nlog_file: %q\nserver_name: s%d\njetstream { store_dir: %q, max_mem: 64MB, max_file: 4GB }\n%s\n",
		port, s.log, port, filepath.Join(folder, "data"), extra)
	if err := os.WriteFile(s.config, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.kill()
		if t.Failed() {
			if words, err := os.ReadFile(s.log); err == nil {
				lines := strings.Split(string(words), "\n")
				t.Logf("the end of the log of server %d:\n%s", port, strings.Join(lines[max(len(lines)-15, 0):], "\n"))
			}
		}
	})
	return s
}

func (s *server) url() string { return fmt.Sprintf("nats://127.0.0.1:%d", s.port) }

// start starts the server, and does not wait for it.
func (s *server) start() {
	s.t.Helper()
	s.command = exec.Command(s.binary, "-c", s.config)
	if err := s.command.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.done = make(chan struct{})
	go func(command *exec.Cmd, done chan struct{}) {
		_ = command.Wait()
		close(done)
	}(s.command, s.done)
}

// kill ends it at once, as a crash does.
func (s *server) kill() {
	if s.command == nil {
		return
	}
	_ = s.command.Process.Kill()
	<-s.done
	s.command = nil
}

// usable waits until JetStream answers on the server, with as many peers as it is to have.
func (s *server) usable() {
	s.t.Helper()
	eventually(s.t, "JetStream answers", func() bool {
		connection, err := nats.Connect(s.url(), nats.Timeout(time.Second))
		if err != nil {
			return false
		}
		defer connection.Close()
		answer, err := connection.Request("$JS.API.INFO", nil, time.Second)
		return err == nil && !strings.Contains(string(answer.Data), `"error"`)
	})
}

// patience is how long something may take on a busy machine that must happen.
const patience = time.Minute

func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(3 * time.Minute) // of a busy machine; servers may need most of a minute to agree again
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// oneServer is a server that is up.
func oneServer(t testing.TB, extra string) *server {
	t.Helper()
	s := newServer(t, freePorts(t, 1)[0], extra)
	s.start()
	s.usable()
	return s
}

// provider is a provisioned configuration.
func provider(t testing.TB, change func(*Nats), urls ...string) *Nats {
	t.Helper()
	n := &Nats{URLs: urls, slack: 500 * time.Millisecond}
	if change != nil {
		change(n)
	}
	if err := n.Provision(caddy.Context{}); err != nil {
		t.Fatal(err)
	}
	return n
}

func testLogger(t testing.TB) *zap.Logger {
	if testing.Verbose() && os.Getenv("INBOX_TEST_LOG") != "" {
		return zaptest.NewLogger(t)
	}
	return zap.NewNop()
}

func openStore(t testing.TB, n *Nats, name string, settings inbox.Settings) *store {
	t.Helper()
	opened, err := n.Open(context.Background(), name, settings, testLogger(t))
	if err != nil {
		t.Fatal(err)
	}
	s := opened.(*store)
	t.Cleanup(func() { _ = s.Close() })
	select {
	case <-s.ready: // Open does not wait for ever
	case <-time.After(patience):
		t.Fatalf("the inbox %s is not ready", name)
	}
	return s
}
