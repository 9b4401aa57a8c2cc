package shouqianba

import (
	"sync"
	"testing"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
)

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func (m *memory) stored() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.stores
}

// refuseAll makes many calls at once, none of which may get a key.
func refuseAll(t *testing.T, k *keeper) {
	t.Helper()
	var group sync.WaitGroup
	for range 50 {
		group.Go(func() {
			if c, err := k.credential(t.Context()); err == nil {
				t.Errorf("a key (%s)", c.sn)
			}
		})
	}
	group.Wait()
}

// TestPlatformBackForTheFirstActivation: while the platform could not be reached for the first activation, calls were
// refused until the next attempt of the gateway's own, ten seconds and in the end half an hour later, though the platform
// was there again. A call asks, at most once a second for all of them together.
func TestPlatformBackForTheFirstActivation(t *testing.T) {
	p := play(t, sandbox.ShouqianbaOptions{})
	address := p.server.Listener.Addr().String()
	p.server.Close()
	storage := newMemory()
	k := p.start(storage)
	// Each attempt is noted in the storage before it is made, and taken back.
	const attempt = 2
	for attempts := 1; attempts <= 8; attempts++ {
		refuseAll(t, k)
		refuseAll(t, k)
		if stores := storage.stored(); stores != attempts*attempt {
			t.Errorf("%d values stored after %d seconds, want %d: one attempt a second", stores, attempts, attempts*attempt)
		}
		p.clock.advance(time.Second)
	}
	p.server = serveAt(t, p.platform, address)
	p.newest(p.credential(k))
	p.counts(1, 0)
}

// TestRefusedActivationIsNotHammeredAt: an activation that the platform has refused is no call's to repeat. The pause
// before the next one doubled to half an hour, in which a mended code at the platform did not help.
func TestRefusedActivationIsNotHammeredAt(t *testing.T) {
	p := play(t, sandbox.ShouqianbaOptions{Activations: 1})
	p.credential(p.start(newMemory())) // uses the code up
	k := p.start(newMemory())
	refuseAll(t, k)
	first := p.calls(activatePath)
	for minutes := range 12 {
		if minutes > 3 { // the pause has grown to its longest
			p.clock.advance(59 * time.Second)
			refuseAll(t, k)
			if calls := p.calls(activatePath); calls != first+minutes {
				t.Errorf("minute %d: %d activations were sent, want %d", minutes, calls, first+minutes)
			}
			p.clock.advance(time.Second)
		} else {
			p.clock.advance(time.Minute)
		}
		refuseAll(t, k)
		if calls := p.calls(activatePath); calls != first+minutes+1 {
			t.Errorf("minute %d: %d activations were sent, want %d", minutes, calls, first+minutes+1)
		}
	}
}

// TestLostActivationIsNotHammeredAt: an activation whose answer was lost may have used the code. It is repeated once, at
// once, and then after a pause, not by each call.
func TestLostActivationIsNotHammeredAt(t *testing.T) {
	p := play(t, sandbox.ShouqianbaOptions{})
	p.platform.Break(sandbox.Fault{Kind: sandbox.Cut, Path: activatePath, Times: 2})
	k := p.start(newMemory())
	refuseAll(t, k)
	for range 9 {
		p.clock.advance(time.Second)
		refuseAll(t, k)
	}
	if calls := p.calls(activatePath); calls != 2 {
		t.Errorf("%d activations were sent, want the first and its repetition", calls)
	}
	p.clock.advance(time.Second)
	p.newest(p.credential(k))
}
