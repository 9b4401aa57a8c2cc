package main

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

// The walk shows each step at its place.
func TestDemo(t *testing.T) {
	for _, test := range []struct {
		platform string
		watched  bool
		steps    []string
	}{
		{"chinaums", false, []string{
			"generated at each start", "POST /v1/netpay/trade/precreate", "Authorization: OPEN-BODY-SIG AppId=", "Gateway-Outcome: answered", "NEW_ORDER",
			"&sign=", "Ce-Type: com.chinaums.payment.succeeded", "Webhook-Signature: v1,", `"totalAmount":1234,`, "taken", "200 SUCCESS",
			"POST /v1/netpay/query", "Gateway-Outcome: answered", "TRADE_SUCCESS",
			"POST /v1/netpay/refund", "Gateway-Outcome: answered", "Ce-Type: com.chinaums.refund.succeeded", `"refundAmount":234,`, "200 SUCCESS", "Done",
		}},
		{"shouqianba", false, []string{
			"generated at each start", "POST /upay/v2/precreate", "Authorization: 1", "Gateway-Outcome: answered", "PRECREATE_SUCCESS",
			`"total_amount":"1234"`, "Ce-Type: com.shouqianba.payment.succeeded", "Webhook-Signature: v1,", `"total_amount":1234`, "taken", "200 success",
			"POST /upay/v2/query", "Gateway-Outcome: answered", "PAID",
			"POST /upay/v2/refund", "Gateway-Outcome: answered", "Ce-Type: com.shouqianba.refund.succeeded", "200 success", "Done",
		}},
		{"chinaums", true, []string{
			"generated at each start", "POST /v1/netpay/trade/precreate", "Gateway-Outcome: answered", "NEW_ORDER",
			"Ce-Type: com.chinaums.payment.succeeded", "Ce-Evidence: query", `"totalAmount":1234}`, "taken",
			"POST /v1/netpay/refund", "502 Bad Gateway, Gateway-Outcome: unknown", "GATEWAY_BAD_RESPONSE",
			"POST /v1/netpay/refund", "nothing was sent", "409 Conflict, Gateway-Outcome: not_sent", "GATEWAY_REFUND_UNRESOLVED",
			"Ce-Type: com.chinaums.refund.succeeded", "Ce-Evidence: query", `"refundAmount":1234,`, "taken",
			"GET http://127.0.0.1", "unresolved", "succeeded", "paid_without_notify", "one refund", "Done",
		}},
	} {
		t.Run(fmt.Sprint(test.platform, ", watch ", test.watched), func(t *testing.T) {
			var out bytes.Buffer
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			if err := run(ctx, &out, test.platform, test.watched, false); err != nil {
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
	if err := run(ctx, out, "chinaums", false, true); err != nil {
		t.Fatal(err)
	}
	if !out.seen {
		t.Error("it did not say that it stays up")
	}
}

func TestDemoKnowsItsPlatforms(t *testing.T) {
	for _, watched := range []bool{false, true} {
		if err := run(t.Context(), new(bytes.Buffer), "alipay", watched, false); err == nil || !strings.Contains(err.Error(), `"alipay"`) {
			t.Errorf("an unknown platform: %v", err)
		}
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
