package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"
)

// The walk shows each step at its place.
func TestDemo(t *testing.T) {
	for _, test := range []struct {
		platform string
		steps    []string
	}{
		{"chinaums", []string{
			"generated at each start", "POST /v1/netpay/trade/precreate", "Authorization: OPEN-BODY-SIG AppId=", "Gateway-Outcome: answered", "NEW_ORDER",
			"&sign=", "Ce-Type: com.chinaums.payment.succeeded", "Webhook-Signature: v1,", `"totalAmount":1234,`, "taken", "200 SUCCESS",
			"POST /v1/netpay/query", "Gateway-Outcome: answered", "TRADE_SUCCESS",
			"POST /v1/netpay/refund", "Gateway-Outcome: answered", "Ce-Type: com.chinaums.refund.succeeded", `"refundAmount":234,`, "200 SUCCESS", "Done",
		}},
		{"shouqianba", []string{
			"generated at each start", "POST /upay/v2/precreate", "Authorization: 1", "Gateway-Outcome: answered", "PRECREATE_SUCCESS",
			`"total_amount":"1234"`, "Ce-Type: com.shouqianba.payment.succeeded", "Webhook-Signature: v1,", `"total_amount":1234`, "taken", "200 success",
			"POST /upay/v2/query", "Gateway-Outcome: answered", "PAID",
			"POST /upay/v2/refund", "Gateway-Outcome: answered", "Ce-Type: com.shouqianba.refund.succeeded", "200 success", "Done",
		}},
	} {
		t.Run(test.platform, func(t *testing.T) {
			var out bytes.Buffer
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			if err := run(ctx, &out, test.platform, false); err != nil {
				t.Fatalf("%v\n%s", err, out.String())
			}
			rest := out.String()
			for _, step := range test.steps {
				_, after, found := strings.Cut(rest, step)
				if !found {
					t.Fatalf("the walk does not show %q at its place:\n%s", step, out.String())
				}
				rest = after
			}
		})
	}
}

// With -serve it stays up until it is told to stop.
func TestDemoServes(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := &stopper{until: "Up until", stop: cancel}
	if err := run(ctx, out, "chinaums", true); err != nil {
		t.Fatal(err)
	}
	if !out.seen {
		t.Error("it did not say that it stays up")
	}
}

func TestDemoKnowsItsPlatforms(t *testing.T) {
	if err := run(t.Context(), new(bytes.Buffer), "alipay", false); err == nil || !strings.Contains(err.Error(), `"alipay"`) {
		t.Errorf("an unknown platform: %v", err)
	}
}

// stopper calls stop once it has been written a text.
type stopper struct {
	until string
	seen  bool
	stop  func()
}

func (s *stopper) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(s.until)) {
		s.seen = true
		s.stop()
	}
	return len(p), nil
}
