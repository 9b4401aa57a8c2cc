package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestFaults(t *testing.T) {
	const path = "/v1/netpay/trade/precreate"
	for _, test := range []struct {
		name     string
		fault    Fault
		executed bool
		check    func(t *testing.T, res *http.Response, content []byte, err error)
	}{
		{"cut", Fault{Kind: Cut}, false, func(t *testing.T, _ *http.Response, _ []byte, err error) {
			if !errors.Is(err, io.EOF) {
				t.Error(err)
			}
		}},
		{"cut, executed", Fault{Kind: CutExecuted}, true, func(t *testing.T, _ *http.Response, _ []byte, err error) {
			if !errors.Is(err, io.EOF) {
				t.Error(err)
			}
		}},
		{"cut in the body", Fault{Kind: CutBody}, true, func(t *testing.T, res *http.Response, content []byte, err error) {
			if res == nil || res.StatusCode != 200 || !errors.Is(err, io.ErrUnexpectedEOF) || len(content) == 0 ||
				int64(len(content)) >= res.ContentLength {
				t.Error(res, err)
			}
		}},
		{"too large", Fault{Kind: TooLarge, Size: 100_000}, true, func(t *testing.T, _ *http.Response, content []byte, err error) {
			if err != nil || len(content) != 100_000 || decode(t, content)["errCode"] != "SUCCESS" {
				t.Error(len(content), err)
			}
		}},
		{"too large by default", Fault{Kind: TooLarge}, true, func(t *testing.T, _ *http.Response, content []byte, err error) {
			if err != nil || len(content) != 8<<20 {
				t.Error(len(content), err)
			}
		}},
		{"500", Fault{Kind: ServerError}, false, func(t *testing.T, res *http.Response, content []byte, _ error) {
			if res.StatusCode != 500 || json.Valid(content) {
				t.Error(res, string(content))
			}
		}},
		{"no JSON", Fault{Kind: NotJSON}, false, func(t *testing.T, res *http.Response, content []byte, _ error) {
			if res.StatusCode != 200 || json.Valid(content) || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/html") {
				t.Error(res, string(content))
			}
		}},
		{"401", Fault{Kind: Unauthorized}, false, func(t *testing.T, res *http.Response, _ []byte, _ error) {
			if res.StatusCode != 401 {
				t.Error(res)
			}
		}},
		{"a false signature", Fault{Kind: FalseSignature}, true, func(t *testing.T, res *http.Response, _ []byte, _ error) {
			if !strings.HasPrefix(res.Header.Get("Authorization"), "OPEN-BODY-SIG ") {
				t.Error(res)
			}
		}},
		{"a clock that is wrong", Fault{Kind: SkewedDate, For: -2 * time.Hour}, true, func(t *testing.T, res *http.Response, _ []byte, _ error) {
			date, err := http.ParseTime(res.Header.Get("Date"))
			if off := time.Since(date); err != nil || off < 119*time.Minute || off > 125*time.Minute {
				t.Error(date, err)
			}
		}},
		{"refused", Fault{Kind: Refuse, Code: "DENIED_IP"}, false, func(t *testing.T, res *http.Response, content []byte, _ error) {
			if res.StatusCode != 200 || decode(t, content)["errCode"] != "DENIED_IP" {
				t.Error(res, string(content))
			}
		}},
		{"a lie", Fault{Kind: Lie, Fields: map[string]any{"totalAmount": 2, "merOrderId": "x", "status": nil}}, true, func(t *testing.T, _ *http.Response, content []byte, _ error) {
			want(t, decode(t, content), "errCode", "SUCCESS", "totalAmount", 2, "merOrderId", "x", "status", nil)
		}},
		{"slow", Fault{Kind: Slow, For: time.Millisecond}, true, func(t *testing.T, res *http.Response, content []byte, err error) {
			if err != nil || decode(t, content)["errCode"] != "SUCCESS" {
				t.Error(res, err)
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t, Options{})
			b.Break(test.fault)
			number := b.fresh()
			body, _ := json.Marshal(b.request("merOrderId", number, "totalAmount", 1))
			// One connection a call: a cut on a connection used before would be repeated by net/http itself.
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
			req, _ := http.NewRequest(http.MethodPost, b.url+path, strings.NewReader(string(body)))
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("Authorization", b.header(body))
			res, err := client.Do(req)
			var content []byte
			if err == nil {
				content, err = io.ReadAll(res.Body)
				res.Body.Close()
			}
			test.check(t, res, content, err)
			if _, found := b.Order(number); found != test.executed {
				t.Errorf("executed: %t", found)
			}
			if calls := b.Calls(); len(calls) != 1 || string(calls[0].Body) != string(body) {
				t.Errorf("recorded: %+v", calls)
			}
			b.ordered() // and the next is as always
		})
	}
}

func TestHang(t *testing.T) {
	for name, test := range map[string]struct {
		kind     FaultKind
		executed bool
	}{"hang": {Hang, false}, "hang, executed": {HangExecuted, true}} {
		for _, ends := range []string{"the client goes", "the sandbox closes"} {
			t.Run(name+", "+ends, func(t *testing.T) {
				b := newBench(t, Options{})
				b.Break(Fault{Kind: test.kind})
				number := b.fresh()
				body, _ := json.Marshal(b.request("merOrderId", number, "totalAmount", 1))
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				req, _ := http.NewRequestWithContext(ctx, http.MethodPost, b.url+"/v1/netpay/trade/precreate", strings.NewReader(string(body)))
				req.Header.Set("Content-Type", "application/json")
				req.Header.Set("Authorization", b.header(body))
				failed := make(chan error)
				go func() {
					res, err := http.DefaultClient.Do(req)
					if err == nil {
						res.Body.Close()
					}
					failed <- err
				}()
				eventually(t, "the call", func() bool {
					_, found := b.Order(number)
					return len(b.Calls()) == 1 && (found || !test.executed)
				})
				if ends == "the client goes" {
					cancel()
				} else {
					b.Close()
				}
				if err := <-failed; err == nil {
					t.Error("answered")
				}
				if _, found := b.Order(number); found != test.executed {
					t.Errorf("executed: %t", found)
				}
			})
		}
	}
}

func TestBreak(t *testing.T) {
	b := newBench(t, Options{})
	status := func(path string) int {
		t.Helper()
		body, _ := json.Marshal(b.request("merOrderId", b.fresh()))
		res, _, err := b.post(path, b.header(body), body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode
	}
	b.Break(Fault{Kind: ServerError, Path: "/v1/netpay/close", Times: 2}, Fault{Kind: Unauthorized})
	for i, test := range []struct {
		path string
		want int
	}{
		{"/v1/netpay/close", 500}, {"/v1/netpay/query", 401}, {"/v1/netpay/query", 200}, {"/v1/netpay/close", 500}, {"/v1/netpay/close", 200},
	} {
		if got := status(test.path); got != test.want {
			t.Errorf("call %d: %d, not %d", i, got, test.want)
		}
	}
	b.Break(Fault{Kind: ServerError, Times: -1})
	for range 3 {
		if got := status("/v1/netpay/query"); got != 500 {
			t.Error(got)
		}
	}
	b.Heal()
	if got := status("/v1/netpay/query"); got != 200 {
		t.Error(got)
	}
	for range maxFaults + 10 {
		b.Break(Fault{Kind: ServerError})
	}
	if got := len(b.Faults()); got != maxFaults {
		t.Errorf("%d faults kept", got)
	}
}
