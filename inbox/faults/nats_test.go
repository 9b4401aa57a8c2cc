//go:build faults && unix

package faults

import (
	"context"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/internal/natstest"
)

// TestTwoGatewaysShareNATS: each message is delivered once, by one or the other. When one of them is killed, what it had
// in flight comes again, from the other, and the rest once.
func TestTwoGatewaysShareNATS(t *testing.T) {
	t.Parallel()
	needBinary(t)
	const concurrency = 4
	server := natstest.Run(t, "")
	a := newApp(t, troubled)
	member := func(name string) *gateway {
		return newGateway(t, name, "\tinbox {\n\t\tstore nats "+server.URL()+"\n\t}", `inbox {
	retry 100ms 300ms 1s
	timeout 5s
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
		within(t, 2*time.Minute, "acknowledging", func() bool { return l.acked.Load() >= before+more })
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
	within(t, 2*time.Minute, "acknowledging", func() bool { return l.acked.Load() >= before+300 })
	gateways[1].kill()
	within(t, 2*time.Minute, "acknowledging after the kill", func() bool { return l.acked.Load() >= before+900 })
	gateways[1].start()
	within(t, 2*time.Minute, "acknowledging after the start", func() bool { return l.acked.Load() >= before+1200 })
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

// cluster is three NATS servers that know each other.
type cluster struct {
	t       testing.TB
	clients []string // addresses
	nodes   []*exec.Cmd
	launch  []func() *exec.Cmd
}

func startCluster(t testing.TB) *cluster {
	t.Helper()
	program := natstest.Binary(t)
	c := &cluster{t: t}
	var routes []string
	for range 3 {
		c.clients, routes = append(c.clients, freeAddress(t)), append(routes, freeAddress(t))
	}
	directory := t.TempDir()
	for i := range 3 {
		_, port, _ := strings.Cut(c.clients[i], ":")
		log := new(tail)
		c.launch = append(c.launch, func() *exec.Cmd {
			command := exec.Command(program, "-js", "-a", "127.0.0.1", "-p", port, "-sd", filepath.Join(directory, fmt.Sprint(i)), "-n", fmt.Sprint("node", i),
				"--cluster_name", "fleet", "--cluster", "nats://"+routes[i], "--routes", "nats://"+strings.Join(routes, ",nats://"))
			command.Stderr = log
			if err := command.Start(); err != nil {
				t.Fatal(err)
			}
			return command
		})
		c.nodes = append(c.nodes, c.launch[i]())
		t.Cleanup(func() {
			c.kill(i)
			if t.Failed() {
				t.Logf("the end of the log of node %d:\n%s", i, log.end())
			}
		})
	}
	return c
}

func (c *cluster) kill(i int) {
	_ = c.nodes[i].Process.Kill()
	_ = c.nodes[i].Wait()
}

func (c *cluster) start(i int) { c.nodes[i] = c.launch[i]() }

// cut makes a node stand still, or go on: as with a network that is gone and comes back, it knows nothing of what went on.
func (c *cluster) cut(i int, signal syscall.Signal) {
	c.t.Helper()
	if err := c.nodes[i].Process.Signal(signal); err != nil {
		c.t.Error(err)
	}
}

// recordings are when each gateway has recorded outcomes of deliveries, or had nothing to record, as its metrics tell.
type recordings struct {
	mu sync.Mutex
	at map[string][]time.Time // by generation
}

// record looks at the metrics of gateways until ctx ends.
func (r *recordings) record(ctx context.Context, gateways ...*gateway) *sync.WaitGroup {
	r.at = make(map[string][]time.Time)
	var group sync.WaitGroup
	for _, g := range gateways {
		generation := g.generation()
		group.Go(func() {
			for last := ""; ctx.Err() == nil; time.Sleep(100 * time.Millisecond) {
				_, metrics, err := post(plainClient, http.MethodGet, "http://"+g.admin+"/metrics", "")
				if err != nil {
					continue
				}
				counters, idle := "", false
				for line := range strings.Lines(metrics) {
					if strings.HasPrefix(line, "caddy_inbox_deliveries_total{") { // counted when the outcome is recorded
						counters += line
					}
					idle = idle || strings.HasPrefix(line, `caddy_inbox_messages{inbox="default",state="pending"} 0`)
				}
				if counters != last || idle {
					last = counters
					r.mu.Lock()
					r.at[generation] = append(r.at[generation], time.Now())
					r.mu.Unlock()
				}
			}
		})
	}
	return &group
}

// stalled reports whether a gateway could record nothing for at least the half of a lease that began at a time.
func (r *recordings) stalled(generation string, begun time.Time, lease time.Duration) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	last, end := begun, begun.Add(lease)
	if now := time.Now(); end.After(now) {
		end = now
	}
	for _, at := range r.at[generation] {
		if at.After(last) && at.Before(end) {
			if at.Sub(last) >= lease/2 {
				return true
			}
			last = at
		}
	}
	return end.Sub(last) >= lease/2
}

// TestGatewaysOnACluster: two gateways share a cluster of three. Each node is killed and started again, and cut off and let
// back, under load. What was acknowledged is delivered, by one of the gateways only, and once: unless the cluster, which may
// be without a quorum while a node that was killed catches up, could record nothing until the lease had run out.
func TestGatewaysOnACluster(t *testing.T) {
	t.Parallel()
	needBinary(t)
	nodes := startCluster(t)
	a := newApp(t, troubled)
	member := func(name string) *gateway {
		return newGateway(t, name, "\tinbox {\n\t\tstore nats nats://"+strings.Join(nodes.clients, " nats://")+" {\n\t\t\treplicas 3\n\t\t}\n\t}", `inbox {
	retry 100ms 300ms 1s
	timeout 5s
	concurrency 4
	`+a.deliver()+`
}`)
	}
	gateways := []*gateway{member("one-"), member("two-")}
	for _, g := range gateways {
		g.start()
	}
	const lease = 35 * time.Second // the timeout, and what the store gives beyond
	recorded := new(recordings)
	recording, stopRecording := context.WithCancel(t.Context())
	recorders := recorded.record(recording, gateways...)
	defer recorders.Wait()
	defer stopRecording()
	a.stalled = func(generation string, taken time.Time) bool { return recorded.stalled(generation, taken, lease) }
	client := keepingClient()
	var turn atomic.Int64
	l := newLoad("c", func(id string) (int, error) {
		status, _, err := gateways[turn.Add(1)%2].send(client, "/", id)
		return status, err
	})
	l.pace = func() { time.Sleep(20 * time.Millisecond) }
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	senders := l.run(ctx, 8)
	more := func() {
		t.Helper()
		before := l.acked.Load()
		// The cluster has no quorum until the node that was killed has caught up.
		within(t, 5*time.Minute, "acknowledging", func() bool { return l.acked.Load() >= before+150 })
	}
	more()
	for i := range 3 {
		nodes.kill(i)
		more()
		nodes.start(i)
		more()
		nodes.cut((i+1)%3, syscall.SIGSTOP)
		more()
		nodes.cut((i+1)%3, syscall.SIGCONT)
		more()
	}
	cancel()
	senders.Wait()
	acked := l.acknowledged()
	finish(t, a, acked)
	t.Logf("%v; answers %v, no answer %d", judge(t, a, acked, nil, 0), l.statuses, l.noAnswer.Load())
}
