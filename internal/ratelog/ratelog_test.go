package ratelog

import (
	"testing"
	"time"
)

func TestLimiter(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	l := New(10)
	l.now = func() time.Time { return now }

	for i := range 10 {
		if _, ok := l.Allow("signature"); !ok {
			t.Fatalf("event %d of the first ten was suppressed", i+1)
		}
	}
	for range 5 {
		if _, ok := l.Allow("signature"); ok {
			t.Fatal("the eleventh event in a minute was let through")
		}
	}
	if _, ok := l.Allow("sign_type"); !ok {
		t.Fatal("another reason must have its own count")
	}
	now = now.Add(time.Minute)
	suppressed, ok := l.Allow("signature")
	if !ok || suppressed != 5 {
		t.Fatalf("after a minute: ok %v, suppressed %d; want true, 5", ok, suppressed)
	}
	if suppressed, ok = l.Allow("signature"); !ok || suppressed != 0 {
		t.Fatalf("the count of suppressed events was told twice: %d, %v", suppressed, ok)
	}
	now = now.Add(-time.Hour)
	if _, ok = l.Allow("signature"); !ok {
		t.Fatal("a clock that was set back silences the log")
	}
}
