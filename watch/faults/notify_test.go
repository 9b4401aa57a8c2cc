package faults

import (
	"net/http"
	"sync"
	"testing"

	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
)

// TestNotifiesNeverSent: of five notifies one is never sent, and looks are so many that each notify that is sent meets one. The app is
// told of each payment once. A notify that comes long after is acknowledged, and tells nothing.
func TestNotifiesNeverSent(t *testing.T) {
	t.Parallel()
	needBinary(t)
	p, a := newPlatform(t), newApp(t)
	p.Break(sandbox.Fault{Kind: sandbox.NoNotify, Share: 0.2, Times: -1})
	g := newGateway(t, "gateway", bolt, boltInbox, p, a)
	g.start()
	orders := setting(t, "FAULTS_ORDERS", normalOrders)
	numbers := make([]string, orders)
	each := func(work func(i int)) {
		var group sync.WaitGroup
		for part := range 8 {
			group.Go(func() {
				for i := part; i < orders; i += 8 {
					work(i)
				}
			})
		}
		group.Wait()
	}
	each(func(i int) {
		numbers[i] = g.paid()
		if i%2 == 0 { // somebody else asks, too
			res, err := plain.Post("http://"+g.admin+"/chinaums/orders/shop/"+numbers[i]+"/query", "", nil)
			if err != nil {
				t.Error(err)
				return
			}
			_ = res.Body.Close()
			if res.StatusCode != http.StatusOK && res.StatusCode != http.StatusTooManyRequests { // it was asked about just now
				t.Errorf("%s: %s", numbers[i], res.Status)
			}
		}
	})
	p.told(t, a, numbers, g)
	g.agree(numbers)
	by := map[string]int{}
	for _, events := range a.taken("payment.succeeded") {
		by[events[0].evidence]++
	}
	never := 0
	for _, number := range numbers {
		book, _ := p.Order(number)
		for _, notice := range book.Notifies {
			if notice.Attempts == 0 {
				never++
			}
		}
	}
	p.Heal()
	each(func(i int) { // after all
		d, err := p.Notify(t.Context(), numbers[i], sandbox.KindPayment, sandbox.Genuine)
		for tries := 0; err == nil && d.Status == http.StatusServiceUnavailable && tries < 100; tries++ { // its telling is being written down
			d, err = p.Notify(t.Context(), numbers[i], sandbox.KindPayment, sandbox.Genuine)
		}
		if err != nil || !d.Delivered {
			t.Errorf("a late notify: %+v, %v", d, err)
		}
	})
	paid, twice := p.told(t, a, numbers, g)
	if never == 0 || by["query"] == 0 || by["notify"] == 0 || twice != 0 {
		t.Errorf("%d notifies were never sent; told %v; %d events came twice", never, by, twice)
	}
	t.Logf("%d paid, %d notifies never sent; told by %v; untold 0; told twice %d", paid, never, by, twice)
}
