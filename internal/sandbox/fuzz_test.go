package sandbox

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

// FuzzRequest sends anything, rightly signed: every interface answers JSON with an errCode, and no order ever pays back
// more than was paid.
func FuzzRequest(f *testing.F) {
	paths := slices.Sorted(maps.Keys(interfaces))
	const common = `"requestTimestamp":"2026-01-01 00:00:00","mid":"898340149000005","tid":"88880001","instMid":"APPDEFAULT"`
	for i := range paths {
		f.Add(uint8(i), []byte(`{`+common+`,"merOrderId":"10010001","totalAmount":"7","refundAmount":5,"refundOrderId":"10010002","completedAmount":3,`+
			`"billNo":"10010003","billDate":"2026-01-01","tradeType":"APP","merchantUserId":"u","mobile":"1","divisionFlag":true,"platformAmount":1,`+
			`"subOrders":"[{\"mid\":\"898340149000006\",\"totalAmount\":6}]","expireTime":"2099-01-01 00:00:00","notifyUrl":"http://127.0.0.1:1/"}`))
	}
	f.Add(uint8(0), []byte(`{`+common+`,"merOrderId":{"a":[1]},"totalAmount":1e400,"goods":[[]],"secureTransaction":"true"}`))
	f.Fuzz(func(t *testing.T, path uint8, body []byte) {
		c, err := New(Options{MID: "898340149000005", SourceCode: "1001", Manual: true})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		send := func(path string, body []byte) {
			timestamp, nonce := time.Now().In(zone).Format(stampLayout), randomHex(16)
			r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(string(body)))
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set("Authorization", formatAuthorization(c.options.AppID, timestamp, nonce,
				bodySignature(c.options.AppID, c.options.AppKey, timestamp, nonce, body)))
			w := httptest.NewRecorder()
			c.ServeHTTP(w, r)
			var answer struct {
				ErrCode string `json:"errCode"`
			}
			if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || answer.ErrCode == "" || w.Code != http.StatusOK {
				t.Fatalf("%d %q: %v", w.Code, w.Body, err)
			}
		}
		send("/v1/netpay/trade/precreate", []byte(`{`+common+`,"merOrderId":"10010001","totalAmount":7}`))
		if err := c.Pay("10010001"); err != nil {
			t.Fatal(err)
		}
		send(paths[int(path)%len(paths)], body)
		send("/v1/netpay/refund", body)
		for _, o := range c.Orders() {
			if o.RefundedAmount < 0 || o.RefundedAmount > o.TotalAmount || o.RefundedAmount > 0 && o.Paid.IsZero() {
				t.Errorf("%+v", o)
			}
		}
	})
}

// FuzzLink: whatever a browser follows, it is sent on only with an order made.
func FuzzLink(f *testing.F) {
	for _, v := range []string{
		"authorization=OPEN-FORM-PARAM&appId=a&timestamp=20260101000000&nonce=n&content=%7B%7D&signature=s", "&&=&a=%", "content=a&content=b", "%zz=1",
	} {
		f.Add(v)
	}
	c, err := New(Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(c.Close)
	f.Fuzz(func(t *testing.T, query string) {
		out := c.follow("/v1/netpay/trade/h5-pay", query)
		if !json.Valid(out.body) || out.code == "" || out.code == "SUCCESS" {
			t.Errorf("%+v", out)
		}
	})
}

// FuzzAuthorization: what is read can be written again.
func FuzzAuthorization(f *testing.F) {
	f.Add(`OPEN-BODY-SIG AppId="a", Timestamp="1",Nonce="n", Signature="s"`)
	f.Add(`OPEN-ACCESS-TOKEN AccessToken=abc`)
	f.Add(`X a="b`)
	f.Add("G AppId=\xe1\x13\x17\xa3\"\x00 ,\t\x80istamp=\"1\",Nonde=")
	f.Fuzz(func(t *testing.T, header string) {
		parsed, err := parseAuthorization(header)
		if err != nil {
			return
		}
		for name, value := range parsed.values {
			if name == "" || strings.Contains(value, `"`) && !strings.Contains(header, name+"="+value) {
				t.Errorf("%q: %q is %q", header, name, value)
			}
			again, err := parseAuthorization(parsed.scheme + ` ` + name + `="` + value + `"`)
			if !strings.Contains(value, `"`) && (err != nil || again.values[name] != value) {
				t.Errorf("%q: %q is %q again", header, name, again.values[name])
			}
		}
	})
}
