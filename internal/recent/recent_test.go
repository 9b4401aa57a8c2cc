package recent

import (
	"bytes"
	"fmt"
	"math"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// clockwork is a log whose time the test makes.
func clockwork() (l *Log, now *time.Time) {
	at := time.Date(2026, 11, 28, 9, 0, 0, 0, time.UTC)
	return New(func() time.Time { return at }), &at
}

func TestCallsAreKept(t *testing.T) {
	l, _ := clockwork()
	for i := range 2000 {
		l.Called(&Call{Platform: "chinaums", Account: "shop", Path: "/v1/netpay/refund", Order: fmt.Appendf(nil, "order%d", i), Refund: []byte("R1"),
			Outcome: "answered", Code: "SUCCESS", Sent: true, Took: 1500 * time.Microsecond})
	}
	all := l.Calls(Select{Limit: 5000})
	if len(all) != kept || all[0].Order != "order1999" || all[kept-1].Order != "order1000" {
		t.Fatalf("%d calls, from %+v", len(all), all[0])
	}
	if c := all[0]; c.Number != 2000 || c.Path != "/v1/netpay/refund" || c.Refund != "R1" || c.Took != 1.5 || !c.Sent || c.At != 1795856400000 {
		t.Errorf("%+v", c)
	}
	if some := l.Calls(Select{After: 1997, Limit: 5000}); len(some) != 3 {
		t.Errorf("%d are behind 1997", len(some))
	}
	if some := l.Calls(Select{Search: "der150", Limit: 4}); len(some) != 4 || some[0].Order != "order1509" {
		t.Errorf("the search finds %+v", some)
	}
}

// Strangers can cause any number of refusals: they must not push out what is worth keeping.
func TestStrangersPushNothingOut(t *testing.T) {
	l, _ := clockwork()
	l.Called(&Call{Platform: "chinaums", Account: "shop", Order: []byte("mine"), Outcome: "answered", Code: "SUCCESS"})
	l.Notified(&Notify{Platform: "chinaums", Account: "shop", Type: "t", Order: "mine", Result: Taken})
	for range 3000 {
		l.Called(&Call{Platform: "chinaums", Outcome: "not_sent", Code: "GATEWAY_FORBIDDEN", Reason: "allow"})
		l.Notified(&Notify{Platform: "chinaums", Account: "shop", Result: Rejected, Reason: "signature"})
	}
	if all := l.Calls(Select{Search: "mine", Limit: 10}); len(all) != 1 {
		t.Errorf("the call is gone: %+v", all)
	}
	l.Notified(&Notify{Platform: "chinaums", Account: "shop", Type: "t", Trade: "trade-7", Channel: "channel-8", Result: Taken})
	for _, number := range []string{"trade-7", "channel-8"} {
		if all := l.Notifies(Select{Search: number, Limit: 10}); len(all) != 1 || all[0].Trade != "trade-7" || all[0].Channel != "channel-8" {
			t.Errorf("%s: %+v", number, all)
		}
	}
	if all := l.Notifies(Select{Search: "mine", Limit: 10}); len(all) != 1 {
		t.Errorf("the notify is gone: %+v", all)
	}
	if all := l.Notifies(Select{Limit: 5000}); len(all) != keptForeign+2 {
		t.Errorf("%d notifies are kept", len(all))
	}
}

func TestTextsAreCut(t *testing.T) {
	l, _ := clockwork()
	long := strings.Repeat("金", 3000)
	l.Called(&Call{Platform: "chinaums", Account: "shop", Path: long, Order: []byte(long), Words: long, Outcome: "answered"})
	l.Notified(&Notify{Platform: "chinaums", Account: "shop", Type: "t", Order: long, ID: long, Remote: long, Result: Taken})
	c, n := l.Calls(Select{Limit: 1})[0], l.Notifies(Select{Limit: 1})[0]
	if want := strings.Repeat("金", 21); c.Path != want || c.Order != want || n.Order != want || n.ID != want || n.Remote != want {
		t.Errorf("%q, %q", c.Path, n.Order)
	}
	if want := strings.Repeat("金", 42); c.Words != want {
		t.Errorf("words %q", c.Words)
	}
}

func TestCountsOfADay(t *testing.T) {
	l, now := clockwork()
	count := func() (a Account) {
		all, _ := l.Accounts()
		if len(all) != 1 {
			t.Fatalf("%+v", all)
		}
		return all[0]
	}
	for i := range 100 {
		took := 10 * time.Millisecond
		if i >= 98 {
			took = 3 * time.Second
		}
		l.Called(&Call{Platform: "chinaums", Account: "shop", Outcome: "answered", Sent: true, Took: took})
	}
	*now = now.Add(7 * time.Minute)
	l.Called(&Call{Platform: "chinaums", Account: "shop", Outcome: "unknown", Sent: true, Took: time.Hour})
	l.Called(&Call{Platform: "chinaums", Account: "shop", Outcome: "not_sent", Took: time.Hour})
	l.Notified(&Notify{Platform: "chinaums", Account: "shop", Result: Taken})
	*now = now.Add(time.Minute)
	l.Notified(&Notify{Platform: "chinaums", Account: "shop", Result: Failed, Reason: "app_timeout"})
	l.Skewed("chinaums", "shop", 90*time.Second)
	a := count()
	if len(a.Slots) != 2 || fmt.Sprint(a.Slots[0].Calls, a.Slots[1].Calls, a.Slots[1].Notifies) != "[100 0 0] [0 1 1] [1 0 1 0 0]" {
		t.Errorf("%+v", a.Slots)
	}
	if a.Slots[1].At-a.Slots[0].At != SlotLength.Milliseconds() || a.Slots[0].At != 1795856400000 {
		t.Errorf("slots at %d and %d", a.Slots[0].At, a.Slots[1].At)
	}
	within := func(got, truth float64) bool { return got >= truth && got <= truth*1.36 }
	if !within(a.P50, 10) || !within(a.P99, 3000) || a.Answers != 101 {
		t.Errorf("p50 %v, p99 %v of %d", a.P50, a.P99, a.Answers)
	}
	if a.Failed-a.Taken != 60_000 || a.Failure != "app_timeout" || a.Verified != a.Failed || a.Skew == nil || *a.Skew != 90 {
		t.Errorf("%+v", a)
	}
	*now = now.Add(24*time.Hour - 5*time.Minute)
	if a = count(); len(a.Slots) != 1 || a.Slots[0].Calls[2] != 1 {
		t.Errorf("a day later, nearly: %+v", a.Slots)
	}
	*now = now.Add(time.Hour)
	if a = count(); len(a.Slots) != 0 || a.Answers != 0 || a.P50 != 0 {
		t.Errorf("a day later: %+v", a)
	}
}

// TestSignedIsNotCounted: a link for the buyer's browser is kept, but is no call to the platform.
func TestSignedIsNotCounted(t *testing.T) {
	l, _ := clockwork()
	l.Called(&Call{Platform: "chinaums", Account: "shop", Order: []byte("1"), Outcome: "answered", Sent: true, Took: time.Millisecond})
	l.Called(&Call{Platform: "chinaums", Account: "shop", Order: []byte("2"), Outcome: Signed})
	if all := l.Calls(Select{Limit: 10}); len(all) != 2 || all[0].Outcome != "signed" || all[0].Order != "2" {
		t.Errorf("%+v", all)
	}
	if all, _ := l.Accounts(); len(all) != 1 || len(all[0].Slots) != 1 || fmt.Sprint(all[0].Slots[0].Calls) != "[1 0 0]" || all[0].Answers != 1 {
		t.Errorf("%+v", all)
	}
}

func TestQuantileOfTheSlowest(t *testing.T) {
	l, _ := clockwork()
	l.Called(&Call{Platform: "chinaums", Account: "shop", Outcome: "answered", Sent: true, Took: time.Duration(math.MaxInt64)})
	if all, _ := l.Accounts(); all[0].P99 < 60_000 {
		t.Errorf("p99 %v", all[0].P99)
	}
}

func TestAccountsAreBounded(t *testing.T) {
	l, _ := clockwork()
	for i := range 1000 {
		l.Called(&Call{Platform: "chinaums", Account: fmt.Sprint("shop", i), Outcome: "answered"})
	}
	all, _ := l.Accounts()
	var calls uint32
	for _, a := range all {
		for _, s := range a.Slots {
			calls += s.Calls[0]
		}
	}
	if len(all) != maxAccounts+1 || calls != 1000 {
		t.Errorf("%d accounts with %d calls", len(all), calls)
	}
}

func TestCaptures(t *testing.T) {
	l, _ := clockwork()
	content := []byte("merOrderId=1&sign=2")
	l.Notified(&Notify{Platform: "chinaums", Account: "shop", Result: Rejected, Reason: "signature", Content: content, ContentType: "application/json", Signing: "s"})
	content[0] = 'X' // whoever gave it goes on using it
	number := l.Notifies(Select{Limit: 1})[0].Number
	c, ok := l.Capture(number)
	if !ok || string(c.Content) != "merOrderId=1&sign=2" || c.Account != "shop" || c.Platform != "chinaums" || c.ContentType != "application/json" || c.Signing != "s" {
		t.Fatalf("%+v, %v", c, ok)
	}
	// The signature of an RSA key of 8192 bits was cut, so that what explains it saw another one.
	signing := "serial " + strings.Repeat("s", 1368)
	l.Notified(&Notify{Platform: "shouqianba", Account: "till", Result: Rejected, Content: []byte("{}"), Signing: signing})
	if c, ok := l.Capture(l.Last()); !ok || c.Signing != signing {
		t.Errorf("%d bytes of %d", len(c.Signing), len(signing))
	}
	l.Notified(&Notify{Result: Rejected, Content: bytes.Repeat([]byte{'x'}, captureSize+1)})
	if n := l.Notifies(Select{Limit: 1})[0]; n.Explained {
		t.Error("what is too large is kept")
	}
	for range captures {
		l.Notified(&Notify{Result: Rejected, Content: []byte("another")})
	}
	if _, ok := l.Capture(number); ok {
		t.Error("the oldest is still there")
	}
}

// TestCost: to record costs no allocation, and all that there can be costs no more than 5 MB.
func TestCost(t *testing.T) {
	l, _ := clockwork()
	c := Call{Platform: "chinaums", Account: "shop", Path: "/v1/netpay/query", Order: []byte("1234567890"), Outcome: "answered", Code: "SUCCESS", Words: "成功", Sent: true}
	n := Notify{Platform: "chinaums", Account: "shop", Type: "com.chinaums.payment.succeeded", ID: "0123", Order: "1234567890", Result: Taken}
	l.Called(&c)
	l.Notified(&n)
	if allocations := testing.AllocsPerRun(1000, func() { l.Called(&c); l.Notified(&n) }); allocations != 0 {
		t.Errorf("%v allocations", allocations)
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	full := New(time.Now)
	content := bytes.Repeat([]byte{'x'}, captureSize)
	for i := range 3 * kept {
		c.Account = fmt.Sprint("shop", i%500)
		full.Called(&c)
		full.Notified(&n)
		full.Notified(&Notify{Platform: "chinaums", Account: c.Account, Result: Rejected, Content: content})
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	size := int64(after.HeapAlloc) - int64(before.HeapAlloc) // what earlier tests left may go meanwhile
	t.Logf("%d bytes", size)
	if size > 5<<20 {
		t.Errorf("%d bytes are kept", size)
	}
	runtime.KeepAlive(full)
}

func TestConcurrently(t *testing.T) {
	l := New(time.Now)
	var group sync.WaitGroup
	for i := range 4 {
		group.Go(func() {
			for range 20 {
				for range 15 {
					l.Called(&Call{Platform: "chinaums", Account: fmt.Sprint("shop", i), Outcome: "answered", Sent: true})
					l.Notified(&Notify{Platform: "chinaums", Account: "shop", Result: Rejected, Content: []byte("x")})
				}
				_ = l.Calls(Select{Limit: 10})
				_ = l.Notifies(Select{Limit: 10})
				_, _ = l.Accounts()
				_, _ = l.Capture(1)
			}
		})
	}
	group.Wait()
	if all := l.Calls(Select{Limit: 5000}); len(all) != kept {
		t.Errorf("%d calls", len(all))
	}
}

func BenchmarkCalled(b *testing.B) {
	l := New(time.Now)
	c := Call{Platform: "chinaums", Account: "shop", Path: "/v1/netpay/query", Order: []byte("1234567890"), Outcome: "answered", Code: "SUCCESS", Sent: true, Took: 37 * time.Millisecond}
	b.ReportAllocs()
	for b.Loop() {
		l.Called(&c)
	}
}
