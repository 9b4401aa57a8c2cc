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
	t.Logf("%9s %10s %10s %10s %12s %14s %14s %12s %12s %12s %10s", "pending", "filled/s", "file MiB", "start ms", "first 202 ms", "first deliv ms",
		"acks/s (64)", "one ack ms", "delivered/s", "anon MiB", "list ms")
	for _, depth := range []int{1000, 100_000, 1_000_000} {
		if depth <= most {
			measureDepth(t, depth)
		}
	}
}

func measureDepth(t *testing.T, depth int) {
	var gate atomic.Pointer[chan struct{}]
	shut := make(chan struct{})
	gate.Store(&shut)
	a := newApp(t, func(*http.Request, string, int) reaction { return reaction{hold: *gate.Load()} })
	a.check = func(_ *http.Request, _, body string) string {
		if body != depthBody {
			return "another body"
		}
		return ""
	}
	g := newGateway(t, "gateway", "", "inbox {\ntimeout 1h\n"+a.deliver()+"\n}")
	client := keepingClient()
	var next atomic.Int64
	send := func() {
		id := fmt.Sprintf("d%08d", next.Add(1))
		status, answer, err := post(client, http.MethodPost, "http://"+g.address, depthBody, "Ce-Source: /test", "Ce-Id: "+id)
		if status != http.StatusAccepted || err != nil {
			t.Errorf("%s: %d %s, %v", id, status, answer, err)
		}
	}
	many := func(n, senders int) time.Duration {
		var left atomic.Int64
		left.Store(int64(n))
		start := time.Now()
		var group sync.WaitGroup
		for range senders {
			group.Go(func() {
				for left.Add(-1) >= 0 && !t.Failed() {
					send()
				}
			})
		}
		group.Wait()
		return time.Since(start)
	}
	rate := func(n int, took time.Duration) float64 { return float64(n) / took.Seconds() }

	g.start()
	filled := rate(depth, many(depth, 64))
	if got := g.count("default", "pending"); got != depth {
		t.Errorf("%d pending, want %d", got, depth)
	}
	g.kill()

	start := time.Now()
	g.start()
	started := time.Since(start)
	for {
		status, _, err := post(client, http.MethodPost, "http://"+g.address, depthBody, "Ce-Source: /test", "Ce-Id: first")
		if err == nil && status == http.StatusAccepted {
			break
		}
		if time.Since(start) > 2*time.Minute {
			t.Fatalf("no 202 after the start: %d, %v\n%s", status, err, g.log.end())
		}
	}
	ready := time.Since(start)
	tried := func() int {
		a.mu.Lock()
		defer a.mu.Unlock()
		sum := 0
		for _, n := range a.attempts {
			sum += n
		}
		return sum
	}
	within(t, 2*time.Minute, "the deliveries after the start", func() bool { return tried() >= 16 })
	delivering := time.Since(start)
	time.Sleep(2 * time.Second)
	idle := memoryOf(t, g.command.Process.Pid)
	scrape := time.Now()
	if got := g.count("default", "pending"); got != depth+1 {
		t.Errorf("%d pending, want %d", got, depth+1)
	}
	scraped := time.Since(scrape)
	acks := rate(20_000, many(20_000, 64))
	one := many(300, 1) / 300
	list := time.Now()
	if got := len(g.list("default", "?state=pending&limit=100")); got != 100 {
		t.Errorf("%d messages listed, want 100", got)
	}
	listed := time.Since(list)

	n := int64(min(depth, 20_000))
	open := time.Now()
	opened := make(chan struct{})
	close(opened)
	gate.Store(&opened)
	close(shut)
	within(t, 2*time.Minute, "the deliveries", func() bool { return a.count.Load() >= n })
	delivered := rate(int(a.count.Load()), time.Since(open))
	working := memoryOf(t, g.command.Process.Pid)
	s := judge(t, a, nil, g.killed, 8)
	size := int64(0)
	_ = filepath.WalkDir(g.directory, func(path string, entry os.DirEntry, err error) error {
		if info, err := entry.Info(); err == nil && entry.Type().IsRegular() {
			size += info.Size()
		}
		return err
	})
	t.Logf("%9d %10.0f %10d %10d %12d %14d %14.0f %12.2f %12.0f %5s %6s %10.1f", depth, filled, size>>20, started.Milliseconds(), ready.Milliseconds(),
		delivering.Milliseconds(), acks, float64(one.Microseconds())/1000, delivered, idle["RssAnon"], working["RssAnon"], float64(listed.Microseconds())/1000)
	t.Logf("          memory idle %v, working %v; scrape %v; %v", idle, working, scraped.Round(100*time.Microsecond), s)
	g.kill()
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
