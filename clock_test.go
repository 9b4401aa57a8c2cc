package chinaums

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestClockGuard: the platform's Date header against this machine's clock.
func TestClockGuard(t *testing.T) {
	cases := []struct {
		name    string
		ahead   time.Duration // of the platform
		date    string        // instead
		errCode string
		warns   bool
		gauge   bool
	}{
		{"right", 0, "", "SUCCESS", false, true},
		{"a little off", 50 * time.Second, "", "SUCCESS", false, true},
		{"this clock is late", 90 * time.Second, "", "SUCCESS", true, true},
		{"this clock is early", -2 * time.Hour, "", "SUCCESS", true, true},
		{"refused, though the dates agree", 0, "", "ABNORMAL_REQUEST_TIME", true, true},
		{"refused, no date", 0, "none", "ABNORMAL_REQUEST_TIME", true, false},
		{"no date", 0, "none", "SUCCESS", false, false},
		{"rubbish for a date", 0, "yesterday", "SUCCESS", false, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			platform := newRawPlatform(t, func(x *exchange) bool {
				line := "Date: " + time.Now().Add(c.ahead).UTC().Format(http.TimeFormat)
				switch c.date {
				case "none":
					line = "X-No-Date: 1"
				case "":
				default:
					line = "Date: " + c.date
				}
				x.write(answered(`{"errCode":"`+c.errCode+`"}`, line))
				return true
			})
			g := startGateway(t, []string{"shop " + platform.url}, "", "handle /metrics {\n metrics\n}\nhandle {\n chinaums_proxy\n}", nil)
			for range 3 {
				if a := g.post(t, "/v1/x", "{}"); a.header.Get("Gateway-Outcome") != "answered" {
					t.Fatalf("%+v", a)
				}
			}
			lines := g.log.lines(`"level":"warn"`, "this machine's clock differs", "ABNORMAL_REQUEST_TIME", "synchronize", `"merchant":"shop"`)
			if want := map[bool]int{true: 1}[c.warns]; len(lines) != want {
				t.Errorf("%d warnings: %v", len(lines), lines)
			}
			text := do(t, newRequest(t, "GET", g.url+"/metrics", "")).body
			_, rest, found := strings.Cut(text, `caddy_chinaums_clock_skew_seconds{merchant="shop"} `)
			if found != c.gauge {
				t.Fatalf("a gauge: %v", found)
			}
			if found {
				var skew float64
				if _, err := fmt.Sscan(rest, &skew); err != nil || skew < -c.ahead.Seconds()-1 || skew > -c.ahead.Seconds()+30 {
					t.Errorf("skew %v s, %v", skew, err)
				}
			}
		})
	}
}
