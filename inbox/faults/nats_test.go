package faults

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// startNATS runs a NATS server with JetStream until the test ends, and returns its address.
func startNATS(t testing.TB) string {
	t.Helper()
	program := needTool(t, "nats-server", "/usr/sbin/nats-server")
	address := freeAddress(t)
	_, port, _ := strings.Cut(address, ":")
	log := new(tail)
	command := exec.Command(program, "-js", "-a", "127.0.0.1", "-p", port, "-sd", filepath.Join(t.TempDir(), "jetstream"))
	command.Stderr = log
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
		if t.Failed() {
			t.Logf("the end of the log of NATS:\n%s", log.end())
		}
	})
	within(t, 20*time.Second, "NATS", func() bool {
		connection, err := net.Dial("tcp", address)
		if err == nil {
			_ = connection.Close()
		}
		return err == nil
	})
	return address
}

// TestTwoGatewaysShareNATS: each message is delivered once, by one or the other. When one of them is killed, what it had
// in flight comes again, from the other, and the rest once.
func TestTwoGatewaysShareNATS(t *testing.T) {
	t.Parallel()
	needBinary(t)
	const concurrency = 4
	address := startNATS(t)
	a := newApp(t, troubled)
	member := func(name string) *gateway {
		return newGateway(t, name, "\tinbox {\n\t\tstore nats nats://"+address+"\n\t}", `inbox {
	retry 100ms 300ms 1s
	timeout 2s
	concurrency `+fmt.Sprint(concurrency)+`
	`+a.deliver()+`
}`)
	}
	gateways := []*gateway{member("one-"), member("two-")}
	for _, g := range gateways {
		g.start()
	}
	client := keepingClient()
	var turn atomic.Int64
	l := newLoad("f", func(id string) (int, error) {
		status, _, err := gateways[turn.Add(1)%2].send(client, "/", id)
		return status, err
	})
	run := func(more int64) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		senders := l.run(ctx, 16)
		before := l.acked.Load()
		within(t, 60*time.Second, "acknowledging", func() bool { return l.acked.Load() >= before+more })
		cancel()
		senders.Wait()
	}
	run(1500)
	acked := l.acknowledged()
	finish(t, a, acked)
	s := judge(t, a, acked, nil, 0)
	by := make(map[string]int)
	a.mu.Lock()
	for _, generations := range a.taken {
		by[generations[0]]++
	}
	a.mu.Unlock()
	t.Logf("two gateways: %v; by gateway %v; answers %v", s, by, l.statuses)
	if len(l.statuses) != 1 || l.statuses[http.StatusAccepted] == 0 {
		t.Errorf("answers %v, want 202 only", l.statuses)
	}
	if by["one-1"] == 0 || by["two-1"] == 0 {
		t.Errorf("one of them delivered nothing: %v", by)
	}

	// One dies while it is delivering.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	senders := l.run(ctx, 16)
	before := l.acked.Load()
	within(t, 60*time.Second, "acknowledging", func() bool { return l.acked.Load() >= before+300 })
	gateways[1].kill()
	within(t, 60*time.Second, "acknowledging after the kill", func() bool { return l.acked.Load() >= before+900 })
	gateways[1].start()
	within(t, 60*time.Second, "acknowledging after the start", func() bool { return l.acked.Load() >= before+1200 })
	cancel()
	senders.Wait()
	acked = l.acknowledged()
	finish(t, a, acked)
	gateways[0].wantCount("default", "pending", 0)
	t.Logf("one of two killed: %v; answers %v, no answer %d", judge(t, a, acked, gateways[1].killed, concurrency), l.statuses, l.noAnswer.Load())
	for status, n := range l.statuses {
		// One that has just been started is not ready at once.
		if status != http.StatusAccepted && status != http.StatusServiceUnavailable {
			t.Errorf("%d answers with status %d", n, status)
		}
	}
}
