//go:build faults

package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestReloadedUnderLoad: a new configuration every second, with senders at work half of the time. Nothing is lost, nothing
// comes twice, no sender is refused, and a message that comes while all is quiet, or waits for its retry, is delivered
// though the configuration that took it is gone.
func TestReloadedUnderLoad(t *testing.T) {
	t.Parallel()
	length := 12 * time.Second
	if text := os.Getenv("FAULTS_RELOAD"); text != "" {
		var err error
		if length, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	a := newApp(t, func(r *http.Request, id string, attempt int) reaction {
		if hash(id)%40 == 7 && id[0] == 'r' {
			return reaction{pause: 1500 * time.Millisecond} // longer than a configuration lives
		}
		return troubled(r, id, attempt)
	})
	site := func(generation int) string {
		return fmt.Sprintf("inbox {\nretry 300ms 400ms 500ms\ntimeout %dms\n%s\n}", 20000+generation, a.deliver())
	}
	g := newGateway(t, "gateway", "", site(0))
	g.start()

	ctx, cancel := context.WithTimeout(t.Context(), length)
	defer cancel()
	var group sync.WaitGroup
	reloads := 0
	var slowest time.Duration
	group.Go(func() {
		for tick := time.NewTicker(time.Second); ; {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			reloads++
			start := time.Now()
			if status, answer := g.load(g.caddyfile(site(reloads))); status != http.StatusOK {
				t.Errorf("reload %d: %d %s", reloads, status, answer)
			}
			slowest = max(slowest, time.Since(start))
		}
	})

	// Half of the senders keep their connections.
	clients := []*http.Client{keepingClient(), plainClient}
	var turn atomic.Int64
	l := newLoad("r", func(id string) (int, error) {
		status, _, err := g.send(clients[turn.Add(1)%2], "/", id)
		return status, err
	})
	l.pace = func() { time.Sleep(rand.N(20 * time.Millisecond)) }
	var longest time.Duration
	probes := 0
	var probed []string
	group.Go(func() {
		for ctx.Err() == nil {
			busy, end := context.WithTimeout(ctx, 700*time.Millisecond)
			l.run(busy, 8).Wait()
			end()
			finish(t, a, l.acknowledged())
			// All is quiet. Whatever is delivered now was woken by its own arrival or its own timer.
			for quiet := time.Now().Add(1300 * time.Millisecond); ctx.Err() == nil && time.Now().Before(quiet); {
				id := fmt.Sprintf("q%06d", probes)
				probes++
				if !l.until(t.Context(), id) {
					return
				}
				start := time.Now()
				a.wantTaken(id)
				longest = max(longest, time.Since(start))
				probed = append(probed, id)
			}
		}
	})
	group.Wait()
	acked := append(l.acknowledged(), probed...)
	finish(t, a, acked)
	s := judge(t, a, acked, nil, 0)
	t.Logf("%d reloads in %v (the slowest took %v): %v; answers %v, connections lost %d; %d probes while idle, the longest delivery of one took %v",
		reloads, length, slowest.Round(time.Millisecond), s, l.statuses, l.noAnswer.Load(), probes, longest.Round(time.Millisecond))
	for status, n := range l.statuses {
		if status != http.StatusAccepted {
			t.Errorf("%d answers with status %d", n, status)
		}
	}

	// One reload after the other, with senders that never pause: none is told that the inbox is not ready yet.
	l = newLoad("h", l.send)
	busy, end := context.WithCancel(t.Context())
	senders := l.run(busy, 16)
	more := setting(t, "FAULTS_RELOADS", 20)
	for i := range more {
		if status, answer := g.load(g.caddyfile(site(1000 + i))); status != http.StatusOK {
			t.Errorf("reload: %d %s", status, answer)
		}
	}
	end()
	senders.Wait()
	finish(t, a, l.acknowledged())
	t.Logf("%d reloads in a row: %v; answers %v, connections lost %d", more, judge(t, a, l.acknowledged(), nil, 0), l.statuses, l.noAnswer.Load())
	if refused := l.refused.Load(); refused > 0 {
		t.Errorf("%d requests were refused by a reload", refused)
	}

	// A configuration that cannot be loaded changes nothing.
	if status, _ := g.load(g.caddyfile(site(-1) + "\nnonsense")); status != http.StatusBadRequest {
		t.Errorf("a broken configuration: %d", status)
	}
	if status, _ := g.load(g.caddyfile(site(-2)) + "http://" + a.address + " {\nbind 127.0.0.1\nrespond 204\n}\n"); status != http.StatusBadRequest {
		t.Errorf("a configuration that wants an address that is taken: %d", status)
	}
	// The listener that the second one had opened may be closed only now, with who has come to it.
	if !l.until(t.Context(), "after-broken") || l.refused.Load() > 0 {
		t.Error("what comes after it is refused")
	}
	a.wantTaken("after-broken")

	// What is pending when the handler goes is delivered when it comes back.
	g.wantCount("default", "pending", 0)
	a.down()
	for i := range 10 {
		g.wantSent("/", fmt.Sprintf("gone%d", i))
	}
	if status, answer := g.load(g.caddyfile("respond 404")); status != http.StatusOK {
		t.Errorf("without the handler: %d %s", status, answer)
	}
	a.up()
	if status, answer := g.load(g.caddyfile(site(-3))); status != http.StatusOK {
		t.Errorf("with the handler again: %d %s", status, answer)
	}
	for i := range 10 {
		a.wantTaken(fmt.Sprintf("gone%d", i))
	}
	g.wantCount("default", "pending", 0)
	judge(t, a, acked, nil, 0)
}
