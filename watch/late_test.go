package watch_test

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/watch"
	"github.com/caddy-chinaums/caddy-chinaums/watch/storetest"
)

// away lets a store be away while what is returned is true.
func away(store *storetest.Memory) (down *atomic.Bool) {
	down = new(atomic.Bool)
	store.Fail(func(string, string) error {
		if down.Load() {
			return storetest.ErrDown
		}
		return nil
	})
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

// TestLateAnswer: the platform's answer comes later than a call is taken for lost, as with a long timeout. At the moment that its app
// was given it, the call was lost: another refund like it was refused, and the app was told of what it had heard. Other gateways
// cannot tell a slow answer from a gateway that has ended.
func TestLateAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := storetest.NewMemory(nil)
		store.Alone = true
		g := join(t, store, newBank(), newMailbox(), "one", nil)
		defer g.Close()
		g.paidAndTold("A1", 100)
		ticket, refusal := g.Before(t.Context(), "shop", "/refund", request{Order: "A1", Number: "R1", Amount: 30}.body(), "")
		if refusal != nil {
			t.Fatalf("%+v", refusal)
		}
		g.bank.refund("A1", "R1", 30, watch.HasSucceeded)
		after(2*time.Minute + 5*time.Second)
		told := g.Watch.After(ticket, watch.Answered, "SUCCESS", nil)
		second := make(chan string, 1)
		go func() { second <- g.again("R2") }()
		after(50 * time.Millisecond)
		told(true)
		if is := <-second; is != "" {
			t.Errorf("%q", is)
		}
		after(time.Minute)
		if n := g.mailbox.times("A1 R1 succeeded"); n != 0 {
			t.Errorf("told %d times", n)
		}
	})
}

// TestPanicLeavesNoLock: a store panics when a success is to be written down. The order stayed locked as long as the process lived.
func TestPanicLeavesNoLock(t *testing.T) {
	alike(t, func(t *testing.T, g, other *gateway, store *storetest.Memory) {
		told := g.answered("R1")
		var once atomic.Bool
		store.Fail(func(method, _ string) error {
			if method == "Put" && once.CompareAndSwap(false, true) {
				panic("a defect of the store")
			}
			return nil
		})
		told(true)
		after(3 * time.Minute)
		if is := other.again("R2"); is != unresolved {
			t.Errorf("%q", is)
		}
		if n := g.mailbox.times("A1 R1 succeeded"); n != 1 {
			t.Errorf("told %d times", n)
		}
	})
}

// TestSlowStore: who waits for another refund of the order waits some seconds, however slow the store is (17 s before).
func TestSlowStore(t *testing.T) {
	alike(t, func(t *testing.T, g, other *gateway, store *storetest.Memory) {
		g.answered("R1")
		store.Fail(func(string, string) error { time.Sleep(400 * time.Millisecond); return nil })
		begin := time.Now()
		is := other.again("R2")
		t.Logf("%q after %v", is, time.Since(begin))
		if time.Since(begin) > 8*time.Second {
			t.Errorf("waits %v", time.Since(begin))
		}
	})
}
