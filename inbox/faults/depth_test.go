//go:build faults

package faults

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// depthBody is the body of each message here.
var depthBody = strings.Repeat("one of very many messages, of 1 KiB ", 29)[:1024]

// TestDepth fills an inbox while the app does not answer, starts the gateway anew over it, and measures what the depth
// costs: start, memory, acknowledging and delivering. It asserts nothing about time; the table is for people.
func TestDepth(t *testing.T) {
	most := setting(t, "FAULTS_DEPTH", 0)
	if most == 0 {
		t.Skip("takes minutes and gigabytes; FAULTS_DEPTH=1000000 asks for it")
	}
	t.Logf("%9s %10s %9s %9s %15s %12s %12s %11s %9s %9s %9s %9s", "pending", "filled/s", "file MiB", "start ms", "first delivery ms",
		"delivered/s", "acks/s (64)", "one ack ms", "idle MiB", "then MiB", "list ms", "scrape ms")
	var filled []*depthRun
	for _, depth := range []int{1000, 100_000, 1_000_000} {
		if depth <= most {
			filled = append(filled, fillTo(t, depth))
		}
	}
	// The measurements come close after one another, so that whatever else the machine does is the same for all.
	for _, run := range filled {
		run.measure(t)
	}
}

// depthRun is an inbox with many messages and an app that does not answer yet.
type depthRun struct {
	depth  int
	g      *gateway
	a      *app
	client *http.Client
	next   atomic.Int64
	gate   chan struct{}
	filled float64 // messages per second
}

func (r *depthRun) send(t testing.TB, n, senders int) time.Duration {
	var left atomic.Int64
	left.Store(int64(n))
	start := time.Now()
	var group sync.WaitGroup
	for range senders {
		group.Go(func() {
			for left.Add(-1) >= 0 && !t.Failed() {
				id := fmt.Sprintf("d%08d", r.next.Add(1))
				status, answer, err := post(r.client, http.MethodPost, "http://"+r.g.address, depthBody, "Ce-Source: /test", "Ce-Id: "+id)
				if status != http.StatusAccepted || err != nil {
					t.Errorf("%s: %d %s, %v", id, status, answer, err)
				}
			}
		})
	}
	group.Wait()
	return time.Since(start)
}

func rate(n int, took time.Duration) float64 { return float64(n) / took.Seconds() }

func fillTo(t *testing.T, depth int) *depthRun {
	r := &depthRun{depth: depth, client: keepingClient(), gate: make(chan struct{})}
	r.a = newApp(t, func(*http.Request, string, int) reaction { return reaction{hold: r.gate} })
	r.a.check = func(_ *http.Request, _, body string) string {
		if body != depthBody {
			return "another body"
		}
		return ""
	}
	r.g = newGateway(t, fmt.Sprintf("depth%d-", depth), "", "inbox {\ntimeout 1h\n"+r.a.deliver()+"\n}")
	r.g.start()
	r.filled = rate(depth, r.send(t, depth, 64))
	if got := r.g.count("default", "pending"); got != depth {
		t.Errorf("%d pending, want %d", got, depth)
	}
	r.g.kill()
	return r
}

func (r *depthRun) measure(t *testing.T) {
	g, a := r.g, r.a
	start := time.Now()
	g.start()
	ready := time.Since(start)
	within(t, 2*time.Minute, "the deliveries after the start", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		sum := 0
		for _, n := range a.attempts {
			sum += n
		}
		return sum >= 16
	})
	delivering := time.Since(start)
	time.Sleep(2 * time.Second)
	idle := memoryOf(t, g.command.Process.Pid)
	scrape := time.Now()
	if got := g.count("default", "pending"); got != r.depth {
		t.Errorf("%d pending, want %d", got, r.depth)
	}
	scraped := time.Since(scrape)
	list := time.Now()
	if got := len(g.list("default", "?state=pending&limit=100")); got != 100 {
		t.Errorf("%d messages listed, want 100", got)
	}
	listed := time.Since(list)

	n := min(r.depth, 20_000)
	open := time.Now()
	close(r.gate)
	within(t, 2*time.Minute, "the deliveries", func() bool { return int(a.count.Load()) >= n })
	delivered := rate(int(a.count.Load()), time.Since(open))
	if r.depth > n { // from here on the app does not answer
		a.mu.Lock()
		a.plan = func(*http.Request, string, int) reaction { return reaction{hold: make(chan struct{})} }
		a.mu.Unlock()
	}
	one := r.send(t, 300, 1) / 300
	acks := rate(5000, r.send(t, 5000, 64))
	working := memoryOf(t, g.command.Process.Pid)
	size := int64(0)
	_ = filepath.WalkDir(g.directory, func(_ string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if info, err := entry.Info(); err == nil && entry.Type().IsRegular() {
			size += info.Size()
		}
		return nil
	})
	g.kill()
	s := judge(t, a, nil, g.killed, 8)
	t.Logf("%9d %10.0f %9d %9d %15d %12.0f %12.0f %11.2f %9s %9s %9.1f %9.1f", r.depth, r.filled, size>>20, ready.Milliseconds(), delivering.Milliseconds(),
		delivered, acks, float64(one.Microseconds())/1000, idle["RssAnon"], working["RssAnon"], float64(listed.Microseconds())/1000, float64(scraped.Microseconds())/1000)
	t.Logf("          memory in MiB: idle %v, working %v; taken twice %d, not in flight at the kill %d", idle, working, s.doubles, s.unexplained)
	if err := os.RemoveAll(g.directory); err != nil {
		t.Error(err)
	}
}

// memoryOf reads what the kernel says of a process's memory, in MiB.
func memoryOf(t testing.TB, process int) map[string]string {
	t.Helper()
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", process))
	if err != nil {
		t.Skipf("needs /proc: %v", err)
	}
	found := make(map[string]string)
	for line := range strings.Lines(string(content)) {
		name, value, _ := strings.Cut(line, ":")
		switch name {
		case "VmRSS", "VmHWM", "RssAnon", "RssFile":
			var kib int
			if _, err := fmt.Sscan(value, &kib); err != nil {
				t.Error(err)
			}
			found[name] = fmt.Sprint(kib >> 10)
		}
	}
	return found
}
