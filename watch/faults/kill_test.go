package faults

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
)

// places are where gateways are killed.
var places = []string{
	"connected", "half sent", "executed", "half answered", "answered", "before the app has taken", "after the app has taken", "half a call has come", "any time",
}

var atCall = map[string]point{"connected": connected, "half sent": halfSent, "executed": executed, "half answered": halfAnswered, "answered": answered}

// merchant is an app that orders, refunds and closes. Of what it has sent it knows the answers only.
type merchant struct {
	t       testing.TB
	gateway *gateway
	calls   atomic.Int64
	lost    atomic.Int64 // calls that no answer came to

	mu      sync.Mutex
	numbers []string
	meant   map[string]int // refunds, by order
}

// sent counts a call.
func (m *merchant) sent(r reply) reply {
	m.calls.Add(1)
	if r.err != nil {
		m.lost.Add(1)
	}
	return r
}

// life is an order's, from its making on. What becomes of it depends on its number among the orders.
func (m *merchant) life(n int) {
	g, number := m.gateway, m.gateway.platform.number()
	m.mu.Lock()
	m.numbers = append(m.numbers, number)
	m.mu.Unlock()
	for tries := 0; tries < 20; tries++ {
		if r := m.sent(g.order(number)); r.outcome == "answered" || n%4 == 0 { // one in four apps leaves it at that
			break
		}
	}
	if _, there := g.platform.Order(number); !there {
		return
	}
	switch n % 10 {
	case 0: // the buyer thinks better of it
		return
	case 1:
		m.sent(g.call("/v1/netpay/close", map[string]any{"merOrderId": number}))
		return
	}
	if err := g.platform.Pay(number); err != nil {
		m.t.Error(err)
	}
	if n%2 == 0 {
		return
	}
	m.mu.Lock()
	m.meant[number] = 1
	m.mu.Unlock()
	refund := g.platform.number()
	for tries := 0; tries < 6; tries++ {
		r := m.sent(g.refund(number, refund, 400))
		switch {
		case r.code == "SUCCESS" || r.status == 422:
			return
		case n%3 == 0: // it waits to be told
			return
		case n%3 == 1: // and others take another number, which they should not
			refund = g.platform.number()
		}
	}
}

// TestKilled: gateways are killed at each point of a call, and at any time. In the end the watch knows of each order and refund
// what the platform's books say, the app has taken each payment once, and no refund was made twice.
func TestKilled(t *testing.T) {
	t.Parallel()
	needBinary(t)
	kills, calls := setting(t, "FAULTS_KILLS", normalKills), setting(t, "FAULTS_CALLS", normalCalls)
	p, a := newPlatform(t), newApp(t)
	p.Break(
		sandbox.Fault{Kind: sandbox.NoNotify, Share: 0.2, Times: -1},
		sandbox.Fault{Kind: sandbox.CutExecuted, Share: 0.05, Times: -1},
		sandbox.Fault{Kind: sandbox.Processing, Path: "/v1/netpay/refund", Share: 0.1, Queries: 3, Times: -1},
		sandbox.Fault{Kind: sandbox.Processing, Path: "/v1/netpay/refund", Share: 0.05, Queries: 2, Status: "FAIL", Times: -1},
	)
	g := newGateway(t, "gateway", bolt, boltInbox, p, a)
	g.start()
	m := &merchant{t: t, gateway: g, meant: map[string]int{}}
	var (
		next  atomic.Int64
		done  = make(chan struct{})
		group sync.WaitGroup
	)
	for range 8 {
		group.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					m.life(int(next.Add(1)))
				}
			}
		})
	}
	stop := sync.OnceFunc(func() { close(done) })
	defer group.Wait()
	defer stop()
	where := map[string]int{}
	for kill := range kills {
		before := m.calls.Load()
		within(t, patience, "calls after a start", func() bool { return m.calls.Load() >= before+int64(calls/kills) })
		sprung := make(chan struct{})
		spring := func() {
			g.kill()
			close(sprung)
		}
		at := places[kill%len(places)]
		switch where[at]++; at {
		case "before the app has taken", "after the app has taken":
			a.set(spring, at == "before the app has taken")
		case "half a call has come":
			connection, err := net.Dial("tcp", g.address)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = fmt.Fprintf(connection, "POST /v1/netpay/refund HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: 200\r\n\r\n{\"mid\":", g.address)
			spring()
			_ = connection.Close()
		case "any time":
			time.AfterFunc(rand.N(100*time.Millisecond), spring)
		default:
			p.set(&trap{at: atCall[at], spring: spring})
		}
		within(t, patience, "a kill: "+at, func() bool {
			select {
			case <-sprung:
				return true
			default:
				return false
			}
		})
		g.start()
	}
	within(t, patience, "all calls", func() bool { return m.calls.Load() >= int64(calls) })
	stop()
	group.Wait()
	p.Heal(sandbox.CutExecuted, sandbox.NoNotify)
	g.agree(m.numbers)
	paid, twice := p.told(t, a, m.numbers, g)
	refunds, made := 0, 0
	for _, number := range m.numbers {
		book, ok := p.Order(number)
		if ok {
			made++
		}
		refunds += len(book.Returns)
		if len(book.Returns) > m.meant[number] {
			t.Errorf("%s was refunded %d times, and %d were meant: %+v", number, len(book.Returns), m.meant[number], book.Returns)
		}
	}
	t.Logf("%d kills %v; %d calls, %d without an answer; %d orders, %d in the books; %d paid and told, %d of them again after a kill; %d refunds meant, %d made",
		kills, where, m.calls.Load(), m.lost.Load(), len(m.numbers), made, paid, twice, len(m.meant), refunds)
}
