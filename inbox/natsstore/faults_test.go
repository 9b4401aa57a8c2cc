//go:build faults && unix

package natsstore

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
	"github.com/caddy-chinaums/caddy-chinaums/internal/natstest"
)

// gateway is one of a fleet, which can be killed and started again.
type gateway struct {
	store   atomic.Pointer[store]
	workers sync.WaitGroup
}

// TestFaults is TestCluster for as long as NATSSTORE_FAULTS says, such as 1h, with all faults again and again, in any order.
func TestFaults(t *testing.T) {
	length, err := time.ParseDuration(os.Getenv("NATSSTORE_FAULTS"))
	if err != nil {
		t.Skip("takes as long as NATSSTORE_FAULTS says, such as 1h")
	}
	servers, links := newLinkedCluster(t)
	const timeout = 10 * time.Second
	settings := inbox.Settings{Remember: time.Hour, Lease: timeout, MaxDelay: time.Hour}
	n := provider(t, func(n *Nats) { n.Replicas, n.slack, n.patience = 3, 2*time.Second, 30*time.Second }, urls(servers)...)
	f := newFleet(t)
	sending, stopSending := context.WithCancel(t.Context())
	delivering, stopDelivering := context.WithCancel(t.Context())
	defer stopDelivering()
	defer stopSending()
	start := func(g *gateway) {
		s := openStore(t, n, "fleet", settings)
		g.store.Store(s)
		for range 4 {
			g.workers.Go(func() { f.deliver(delivering, s, timeout) })
		}
	}
	var senders sync.WaitGroup
	gateways := []*gateway{{}, {}}
	for i, g := range gateways {
		start(g)
		for j := range 2 {
			senders.Go(func() { f.send(sending, g.store.Load, fmt.Sprintf("%d/%d", i, j), 160*time.Millisecond) })
		}
	}
	more := func(what string) {
		t.Helper()
		progress := func() (acked, settled int) { // cheaper than numbers
			f.lock.Lock()
			defer f.lock.Unlock()
			return len(f.acked), len(f.recorded)
		}
		acked, settled := progress()
		natstest.Eventually(t, "the gateways go on after: "+what, func() bool {
			a, s := progress()
			return a >= acked+50 && s >= settled+50
		})
	}
	back := func(i int) {
		servers[i].Start()
		servers[i].Usable()
	}
	leads := func() int { return leader(t, gateways[0].store.Load(), servers) }
	hang := func(i int, hung bool) {
		for _, link := range links[i] {
			link.hung.Store(hung)
		}
	}
	faults := []struct {
		what string
		do   func()
	}{
		{"the leader killed", func() { i := leads(); servers[i].Kill(); more("a kill"); back(i) }},
		{"another killed", func() { i := (leads() + 1) % 3; servers[i].Kill(); more("a kill"); back(i) }},
		{"the leader frozen for 50 s", func() {
			i := leads()
			freeze(t, servers[i])
			time.Sleep(50 * time.Second)
			servers[i].Signal(syscall.SIGCONT)
		}},
		{"one frozen for 50 s", func() {
			i := rand.IntN(3)
			freeze(t, servers[i])
			time.Sleep(50 * time.Second)
			servers[i].Signal(syscall.SIGCONT)
		}},
		{"the leader cut off for 20 s", func() { i := leads(); hang(i, true); time.Sleep(20 * time.Second); hang(i, false) }},
		{"one cut off for 20 s", func() { i := rand.IntN(3); hang(i, true); time.Sleep(20 * time.Second); hang(i, false) }},
		{"two killed for 10 s", func() {
			i := rand.IntN(3)
			servers[i].Kill()
			servers[(i+1)%3].Kill()
			time.Sleep(10 * time.Second)
			servers[i].Start()
			back((i + 1) % 3)
			servers[i].Usable()
		}},
		{"a gateway killed", func() {
			g := gateways[rand.IntN(2)]
			g.store.Load().abandon()
			g.workers.Wait()
			time.Sleep(2 * time.Second)
			start(g)
		}},
		{"rolling restart", func() {
			for i := range servers {
				servers[i].Stop(syscall.SIGTERM)
				back(i)
				more("a restart")
			}
		}},
	}
	begun, done := time.Now(), map[string]int{}
	for time.Since(begun) < length {
		for _, i := range rand.Perm(len(faults)) {
			if time.Since(begun) >= length {
				break
			}
			faults[i].do()
			more(faults[i].what)
			done[faults[i].what]++
			acked, takenTwice := f.numbers()
			t.Logf("%7.1f min  %-28s %8d acknowledged, %d still to come, %d taken twice (%d in hand of a killed gateway), %d leased by two at once, %d outcomes too late, %d failed puts",
				time.Since(begun).Minutes(), faults[i].what, acked, f.missing(), takenTwice, f.inKilled(), f.count(&f.twice), f.late(), f.failures("put"))
			time.Sleep(5 * time.Second)
		}
	}
	stopSending()
	senders.Wait()
	for until := time.Now().Add(5 * time.Minute); time.Now().Before(until); time.Sleep(100 * time.Millisecond) {
		stats, err := gateways[0].store.Load().Stats(t.Context())
		if err == nil && stats.Pending == 0 && f.missing() == 0 {
			break
		}
	}
	stopDelivering()
	for _, g := range gateways {
		g.workers.Wait()
	}
	acked, takenTwice := f.numbers()
	t.Logf("in %.0f min, %v: %d acknowledged, %d lost, %d taken twice (%d in gateways that were killed, %d outcomes that outlasted a lease), %d leased by two at once",
		time.Since(begun).Minutes(), done, acked, f.missing(), takenTwice, len(f.killed), f.late(), f.twice)
	f.checkDoubles(timeout / 2)
	stats, err := gateways[0].store.Load().Stats(t.Context())
	if f.missing() > 0 || f.twice > 0 || err != nil || stats.Pending > 0 {
		t.Errorf("%d lost, %d times two had one message at once, %+v, error %v", f.missing(), f.twice, stats, err)
	}
}

func (f *fleet) count(number *int) int {
	f.lock.Lock()
	defer f.lock.Unlock()
	return *number
}

func (f *fleet) failures(what string) int {
	f.lock.Lock()
	defer f.lock.Unlock()
	return f.failed[what]
}

// inKilled is how many messages were in hand of a gateway when that was killed.
func (f *fleet) inKilled() int {
	f.lock.Lock()
	defer f.lock.Unlock()
	return len(f.killed)
}
