package sandbox

import (
	"context"
	"net/http"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"
)

// TestConcurrently has everybody do everything at the same time, and ends it in the middle. It is for the race detector.
func TestConcurrently(t *testing.T) {
	b := newBench(t, Options{UI: true, MaxOrders: 20, MaxCalls: 20, MaxDeliveries: 20})
	address := b.merchant("FAILED", "SUCCESS", "FAILED", "SUCCESS")
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 10 {
				number := b.fresh()
				b.call("/v1/netpay/trade/precreate", b.request("merOrderId", number, "totalAmount", 1234, "notifyUrl", address))
				_ = b.Pay(number)
				b.call("/v1/netpay/refund", b.request("merOrderId", number, "refundAmount", 1, "refundOrderId", b.fresh()))
				ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
				_ = b.WaitDelivered(ctx, number, KindRefund) // it may have been forgotten already
				_, _ = b.Notify(ctx, number, KindPayment, Duplicate)
				cancel()
				b.Break(Fault{Kind: SkewedDate})
				b.Calls()
				b.Deliveries()
				b.Orders()
				if res, err := http.Get(b.url + "/sandbox/view"); err == nil {
					res.Body.Close()
				}
			}
		})
	}
	all.Go(func() {
		eventually(t, "calls", func() bool { return len(b.Calls()) == 20 })
		b.Heal()
		b.RevokeTokens()
	})
	all.Wait()
	b.Close()
	sent := b.Deliveries() // not what has come: a notify that Close has cut may still be on its way into the merchant's list
	number := b.fresh()
	b.call("/v1/netpay/trade/precreate", b.request("merOrderId", number, "totalAmount", 1234, "notifyUrl", address))
	_ = b.Pay(number)
	if !reflect.DeepEqual(b.Deliveries(), sent) || slices.ContainsFunc(b.got(), func(r received) bool { return r.form.Get("merOrderId") == number }) {
		t.Error("a notify after Close")
	}
}
