package watch_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/watch"
	"github.com/caddy-chinaums/caddy-chinaums/watch/storetest"
)

// away lets a store be away while what is returned is true.
func away(store *storetest.Memory) (down *atomic.Bool) {
	down = new(atomic.Bool)
	store.Fail = func(string, string) error {
		if down.Load() {
			return storetest.ErrDown
		}
		return nil
	}
	return down
}

// TestWithoutNumber: the store is away when the success of a refund without a number is to be written down, and for longer than a call
// takes. The success was lost, and the order's next refunds were refused.
func TestWithoutNumber(t *testing.T) {
	alike(t, func(t *testing.T, g, other *gateway, store *storetest.Memory) {
		down := away(store)
		told := g.answered("")
		down.Store(true)
		told(true)
		after(3 * time.Minute)
		down.Store(false)
		after(5 * time.Second)
		if is := g.refundState("A1", "#1"); is != watch.Succeeded {
			t.Errorf("#1 is %s", is)
		}
		after(time.Minute)
		if is := other.again("R2"); is != "" {
			t.Errorf("%q", is)
		}
	})
}

// TestHeardIsLostLong: the same with a number. The app is not told of what it has heard.
func TestHeardIsLostLong(t *testing.T) {
	alike(t, func(t *testing.T, g, other *gateway, store *storetest.Memory) {
		down := away(store)
		told := g.answered("R1")
		down.Store(true)
		told(true)
		after(3 * time.Minute)
		down.Store(false)
		after(5 * time.Second)
		if is := other.again("R2"); is != "" {
			t.Errorf("%q", is)
		}
		if n := g.mailbox.times("A1 R1 succeeded"); n != 0 {
			t.Errorf("told %d times", n)
		}
	})
}

// TestSlowAppWithoutNumber: the app takes its answer when the call is taken for lost already.
func TestSlowAppWithoutNumber(t *testing.T) {
	alike(t, func(t *testing.T, g, other *gateway, store *storetest.Memory) {
		told := g.answered("")
		after(3 * time.Minute)
		_ = other.again("R2")
		told(true)
		after(5 * time.Second)
		if is := g.refundState("A1", "#1"); is != watch.Succeeded {
			t.Errorf("#1 is %s", is)
		}
	})
}

// TestSlowStore: who waits for another refund of the order waits some seconds, however slow the store is (17 s before).
func TestSlowStore(t *testing.T) {
	alike(t, func(t *testing.T, g, other *gateway, store *storetest.Memory) {
		g.answered("R1")
		store.Fail = func(string, string) error { time.Sleep(400 * time.Millisecond); return nil }
		begin := time.Now()
		is := other.again("R2")
		t.Logf("%q after %v", is, time.Since(begin))
		if time.Since(begin) > 8*time.Second {
			t.Errorf("waits %v", time.Since(begin))
		}
	})
}
