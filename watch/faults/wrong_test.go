package faults

import (
	"context"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
)

// TestWrongApp: an app does all that it should not. It takes a new number at every retry, retries at once, and knows success
// or nothing. Of five refunds the answer to one is lost. With the watch no refund is made twice; without it the books show what
// such an app does.
func TestWrongApp(t *testing.T) {
	t.Parallel()
	needBinary(t)
	for name, block := range map[string]string{"with the watch": bolt, "without it": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, a := newPlatform(t), newApp(t)
			g := newGateway(t, "gateway", block, boltInbox, p, a)
			g.start()
			orders := setting(t, "FAULTS_ORDERS", normalOrders)
			numbers := make([]string, orders)
			threads := func(work func(i int)) {
				var next atomic.Int64
				var group sync.WaitGroup
				for range 3 {
					group.Go(func() {
						for i := next.Add(1); i <= int64(orders); i = next.Add(1) {
							work(int(i) - 1)
						}
					})
				}
				group.Wait()
			}
			threads(func(i int) { numbers[i] = g.paid() })
			p.told(t, a, numbers, g)

			p.Break(
				sandbox.Fault{Kind: sandbox.CutExecuted, Path: "/v1/netpay/refund", Share: 0.12, Times: -1},
				sandbox.Fault{Kind: sandbox.CutBody, Path: "/v1/netpay/refund", Share: 0.03, Times: -1},
				sandbox.Fault{Kind: sandbox.RefuseExecuted, Path: "/v1/netpay/refund", Share: 0.03, Times: -1},
				sandbox.Fault{Kind: sandbox.Cut, Path: "/v1/netpay/refund", Share: 0.03, Times: -1},
			)
			var calls, lost, refused atomic.Int64
			threads(func(i int) {
				for range 6 {
					r := g.refund(numbers[i], p.number(), 400)
					calls.Add(1)
					switch {
					case r.code == "SUCCESS":
						return
					case r.outcome == "unknown":
						lost.Add(1)
					case r.outcome == "not_sent":
						refused.Add(1)
					}
				}
			})
			p.Heal()
			if block != "" {
				g.agree(numbers)
			}
			double, none := 0, 0
			for _, number := range numbers {
				book, _ := p.Order(number)
				switch len(book.Returns) {
				case 0:
					none++
				case 1:
				default:
					double++
				}
			}
			t.Logf("%d orders, %d calls, %d without a true answer, %d refused by the guard: %d orders refunded twice, %d never", orders, calls.Load(), lost.Load(), refused.Load(), double, none)
			switch {
			case block != "" && double != 0:
				t.Errorf("%d of %d orders were refunded twice", double, orders)
			case block == "" && double == 0:
				t.Error("this app does no harm, so that nothing is shown")
			}
			if block == "" {
				g.wroteNothing(t)
			}
		})
	}
}

// wroteNothing checks that a gateway without a watch has no file of one.
func (g *gateway) wroteNothing(t testing.TB) {
	t.Helper()
	err := filepath.WalkDir(g.directory, func(path string, entry fs.DirEntry, err error) error {
		if strings.Contains(entry.Name(), "watch") {
			t.Errorf("there is %s", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// TestAppGivesUp: an app gives up while the platform takes its time, and takes another number later. The gateway had the answer by
// then, and let the second refund pass as if the app had it, too.
func TestAppGivesUp(t *testing.T) {
	t.Parallel()
	needBinary(t)
	p, a := newPlatform(t), newApp(t)
	g := newGateway(t, "gateway", bolt, boltInbox, p, a)
	g.start()
	refused := 0
	for tries := 0; refused == 0 && tries < 20; tries++ { // the answer may be faster than the news that nobody waits for it
		order := g.paid()
		release := p.hold(order)
		ctx, giveUp := context.WithCancel(t.Context())
		gone := make(chan reply, 1)
		go func() { gone <- g.callUntil(ctx, "/v1/netpay/refund", refundFields(order, p.number(), 300)) }()
		within(t, patience, "a refund", func() bool { return p.refundsCame(order) > 0 })
		giveUp()
		if r := <-gone; r.err == nil {
			t.Fatalf("an answer that nobody waits for: %v", r)
		}
		release()
		r := reply{code: "GATEWAY_BUSY"}
		within(t, patience, "the end of the first refund", func() bool {
			r = g.refund(order, p.number(), 300)
			return r.code != "GATEWAY_BUSY"
		})
		if r.code == "GATEWAY_REFUND_UNRESOLVED" {
			refused++
			within(t, patience, "the telling of the refund", func() bool { return len(a.taken("refund.succeeded")[order]) > 0 })
		}
	}
	if refused == 0 {
		t.Error("the second refund has always passed")
	}
}
