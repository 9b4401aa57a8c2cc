package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"testing"
	"time"
)

// TestKilledUnderLoad: a gateway is killed again and again while senders send and an app takes, now and then twice in a
// row, so that the recovery is interrupted too. Nothing that was acknowledged is lost, and of each kill at most as many
// messages are taken twice as were in flight.
func TestKilledUnderLoad(t *testing.T) {
	t.Parallel()
	const concurrency = 8
	kills := setting(t, "FAULTS_KILLS", normalKills)
	a := newApp(t, troubled)
	g := newGateway(t, "gateway", "", `inbox {
	retry 100ms 300ms 1s
	concurrency `+fmt.Sprint(concurrency)+`
	`+a.deliver()+`
}`)
	client := keepingClient()
	l := newLoad("k", func(id string) (int, error) {
		status, _, err := g.send(client, "/", id)
		return status, err
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	g.start()
	senders := l.run(ctx, 32)
	for len(g.killed) < kills {
		before := l.acked.Load()
		within(t, 2*time.Minute, "acknowledging after a start", func() bool { return l.acked.Load() >= before+320 })
		time.Sleep(rand.N(50 * time.Millisecond))
		g.kill()
		if len(g.killed)%4 == 0 {
			g.launch()
			time.Sleep(rand.N(400 * time.Millisecond))
			g.kill()
		}
		g.start()
	}
	cancel()
	senders.Wait()
	acked := l.acknowledged()
	finish(t, a, acked)
	g.wantCount("default", "pending", 0)
	g.wantCount("default", "dead", 0)
	s := judge(t, a, acked, g.killed, concurrency)
	t.Logf("%d kills: %v; repetitions acknowledged %d, no answer %d, answers %v", len(g.killed), s, l.repeats.Load(), l.noAnswer.Load(), l.statuses)
	if kills >= 20 && (len(g.killed) < 20 || s.acked < 5000) {
		t.Errorf("%d kills and %d acknowledged, want at least 20 and 5000", len(g.killed), s.acked)
	}
	for status := range l.statuses {
		if status != http.StatusAccepted && status != http.StatusServiceUnavailable {
			t.Errorf("%d answers with status %d", l.statuses[status], status)
		}
	}
}
