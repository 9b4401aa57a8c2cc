// Package natstest runs NATS servers for tests, which can be stopped in every way and started again on their data.
package natstest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/caddy-chinaums/caddy-chinaums/internal/freeport"
	"github.com/caddy-chinaums/caddy-chinaums/internal/natsconn"
)

// Binary is the nats-server of the tests: what NATS_SERVER_BINARY names, or an installed one that is new enough. Without one the
// test is skipped, or fails where CHINAUMS_E2E=1 asks for it.
func Binary(t testing.TB) string {
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
			err = natsconn.CheckVersion(number)
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

// Ports are ports that are free.
func Ports(t testing.TB, number int) []int {
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

// Server is one nats-server with JetStream.
type Server struct {
	Port int

	t       testing.TB
	binary  string
	config  string
	log     string
	command *exec.Cmd // nil: it does not run
	done    chan struct{}
}

// New writes a server's configuration; extra is added to it.
func New(t testing.TB, port int, extra string) *Server {
	t.Helper()
	folder := t.TempDir()
	s := &Server{Port: port, t: t, binary: Binary(t), config: filepath.Join(folder, "server.conf"), log: filepath.Join(folder, "log")}
	config := fmt.Sprintf("listen: \"127.0.0.1:%d\"\nlog_file: %q\nserver_name: s%d\njetstream { store_dir: %q, max_mem: 64MB, max_file: 4GB }\n%s\n",
		port, s.log, port, filepath.Join(folder, "data"), extra)
	if err := os.WriteFile(s.config, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Kill()
		if t.Failed() {
			if words, err := os.ReadFile(s.log); err == nil {
				lines := strings.Split(string(words), "\n")
				t.Logf("the end of the log of server %d:\n%s", port, strings.Join(lines[max(len(lines)-15, 0):], "\n"))
			}
		}
	})
	return s
}

// Run is a server that is up; extra is added to its configuration.
func Run(t testing.TB, extra string) *Server {
	t.Helper()
	s := New(t, Ports(t, 1)[0], extra)
	s.Start()
	s.Usable()
	return s
}

// URL is where clients connect.
func (s *Server) URL() string { return fmt.Sprintf("nats://127.0.0.1:%d", s.Port) }

// Start starts the server, and does not wait for it.
func (s *Server) Start() {
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

// Kill ends it at once, as a crash does.
func (s *Server) Kill() {
	if s.command == nil {
		return
	}
	_ = s.command.Process.Kill()
	<-s.done
	s.command = nil
}

// Stop ends it with a signal, and waits for that.
func (s *Server) Stop(signal os.Signal) {
	s.Signal(signal)
	<-s.done
	s.command = nil
}

// Signal sends a signal to its process.
func (s *Server) Signal(signal os.Signal) {
	if s.command != nil {
		_ = s.command.Process.Signal(signal)
	}
}

// Pid is its process.
func (s *Server) Pid() int { return s.command.Process.Pid }

// Usable waits until JetStream answers on the server, with as many peers as it is to have.
func (s *Server) Usable() {
	s.t.Helper()
	Eventually(s.t, "JetStream answers", func() bool {
		connection, err := nats.Connect(s.URL(), nats.Timeout(time.Second))
		if err != nil {
			return false
		}
		defer connection.Close()
		answer, err := connection.Request("$JS.API.INFO", nil, time.Second)
		return err == nil && !strings.Contains(string(answer.Data), `"error"`)
	})
}

// Eventually waits until the condition holds: for minutes, as servers on a busy machine may need most of one to agree again.
func Eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(3 * time.Minute)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
