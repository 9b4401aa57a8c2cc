package natsstore

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-chinaums/caddy-chinaums/internal/freeport"
	"github.com/caddy-chinaums/caddy-chinaums/watch"
)

// server is one nats-server with JetStream, which can be killed and started again on its data.
type server struct {
	t       *testing.T
	binary  string
	folder  string
	port    int
	command *exec.Cmd
	done    chan struct{}
}

func newServer(t *testing.T) *server {
	t.Helper()
	binary, err := exec.LookPath("nats-server")
	reason := "needs nats-server"
	if err == nil {
		words, versionErr := exec.Command(binary, "--version").Output()
		var major, minor int
		if _, scanErr := fmt.Sscanf(strings.TrimSpace(string(words)), "nats-server: v%d.%d", &major, &minor); versionErr != nil || scanErr != nil || major < 2 || major == 2 && minor < 11 {
			err, reason = fmt.Errorf("version %q", words), "needs nats-server 2.11 or later"
		}
	}
	if err != nil {
		if os.Getenv("CHINAUMS_E2E") == "1" {
			t.Fatalf("%s, and CHINAUMS_E2E=1 asks for it: %v", reason, err)
		}
		t.Skipf("%s: %v", reason, err)
	}
	port, err := freeport.Port()
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, binary: binary, folder: t.TempDir(), port: port}
	t.Cleanup(s.kill)
	s.start()
	return s
}

func (s *server) url() string { return fmt.Sprintf("nats://127.0.0.1:%d", s.port) }

// start starts it, and waits until JetStream answers.
func (s *server) start() {
	s.t.Helper()
	s.command = exec.Command(s.binary, "-a", "127.0.0.1", "-p", fmt.Sprint(s.port), "-js", "-sd", filepath.Join(s.folder, "data"),
		"-l", filepath.Join(s.folder, "log"))
	if err := s.command.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.done = make(chan struct{})
	go func(command *exec.Cmd, done chan struct{}) {
		_ = command.Wait()
		close(done)
	}(s.command, s.done)
	deadline := time.Now().Add(3 * time.Minute) // of a busy machine
	for {
		connection, err := nats.Connect(s.url(), nats.Timeout(time.Second))
		if err == nil {
			answer, err := connection.Request("$JS.API.INFO", nil, time.Second)
			connection.Close()
			if err == nil && !strings.Contains(string(answer.Data), `"error"`) {
				return
			}
		}
		if time.Now().After(deadline) {
			s.t.Fatal("nats-server does not answer")
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// kill ends it at once.
func (s *server) kill() {
	if s.command != nil {
		_ = s.command.Process.Kill()
		<-s.done
		s.command = nil
	}
}

func (s *server) open(name string) watch.Store {
	s.t.Helper()
	n := &Nats{URLs: []string{s.url()}}
	if err := n.Provision(caddy.Context{}); err != nil {
		s.t.Fatal(err)
	}
	opened, err := n.Open(s.t.Context(), name, zap.NewNop())
	if err != nil {
		s.t.Fatal(err)
	}
	return opened
}
