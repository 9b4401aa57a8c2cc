package chinaums

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// refundBody is a refund of a split order as documents A and E describe it.
const refundBody = `{"requestTimestamp":"2022-04-15 10:42:59","merOrderId":"327M202204141724489725391331","instMid":"YUEDANDEFAULT",` +
	`"mid":"898340149000005","tid":"00000001","refundAmount":"681","msgId":"TDCDFD91420230700079549371","srcReserve":"保留字段",` +
	`"refundOrderId":"14HC202307191629589288166704","platformAmount":"680","refundDesc":"退款","subOrders":[{"mid":"898310148160568",` +
	`"merOrderId":"14HC202307191435078140652400","refundOrderId":"14HC202307191629589288166704","totalAmount":"1"}]}`

// with replaces the first occurrence of a part of a body.
func with(t testing.TB, body, part, by string) string {
	t.Helper()
	if !strings.Contains(body, part) {
		t.Fatalf("%s is not in %s", part, body)
	}
	return strings.Replace(body, part, by, 1)
}

func TestValidateThroughCaddy(t *testing.T) {
	setKeys(t)
	var calls atomic.Int32
	platform := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		io.WriteString(w, `{"errCode":"SUCCESS"}`)
	}))
	defer platform.Close()
	rejecting, warning, off := freeAddress(t), freeAddress(t), freeAddress(t)
	log := startCaddy(t, merchantOptions(platform.URL)+`http://`+rejecting+` {
	bind 127.0.0.1
	chinaums_proxy {
		validate reject
	}
}
http://`+warning+` {
	bind 127.0.0.1
	chinaums_proxy {
		validate warn
	}
}
http://`+off+` {
	bind 127.0.0.1
	chinaums_proxy
}`)
	call := func(address, path, body string, headers ...string) answer {
		return do(t, newRequest(t, "POST", "http://"+address+path, body, append(headers, "Content-Type: application/json")...))
	}
	long := strings.Repeat("密", 256)
	wrong := with(t, refundBody, "保留字段", long)

	t.Run("what fits is sent", func(t *testing.T) {
		if a := call(rejecting, "/v1/netpay/refund", refundBody); a.status != 200 || a.header.Get("Gateway-Outcome") != "answered" {
			t.Fatalf("%+v", a)
		}
	})
	t.Run("what does not fit is not sent", func(t *testing.T) {
		before := calls.Load()
		body := with(t, with(t, wrong, `"refundAmount":"681"`, `"refundAmount":0`), `"mid":"898340149000005",`, "")
		a := call(rejecting, "/v1/netpay/refund", body)
		if a.status != 422 || a.header.Get("Gateway-Outcome") != "not_sent" || a.header.Get("Content-Type") != "application/json; charset=utf-8" {
			t.Fatalf("%+v", a)
		}
		if calls.Load() != before {
			t.Fatal("it was sent")
		}
		var envelope struct {
			ErrCode, ErrMsg, Outcome string
			Fields                   []struct{ Name, Rule, Message string }
		}
		if err := json.Unmarshal([]byte(a.body), &envelope); err != nil {
			t.Fatal(err)
		}
		if envelope.ErrCode != "GATEWAY_INVALID" || envelope.Outcome != "not_sent" || !strings.Contains(envelope.ErrMsg, " / ") {
			t.Errorf("%+v", envelope)
		}
		var got []string
		for _, field := range envelope.Fields {
			got = append(got, field.Name+" "+field.Rule)
			chinese, english, ok := strings.Cut(field.Message, " / ")
			if !ok || !strings.ContainsFunc(chinese, func(r rune) bool { return r >= 0x4e00 && r < 0xa000 }) ||
				strings.ContainsFunc(english, func(r rune) bool { return r >= 0x4e00 && r < 0xa000 }) {
				t.Errorf("message %q", field.Message)
			}
		}
		if want := "mid required,refundAmount minimum,srcReserve maxLength"; !strings.HasPrefix(strings.Join(got, ","), want) {
			t.Errorf("fields %v, want %s", got, want)
		}
		lines := log.lines(`"call refused"`, `"reason":"invalid"`)
		if len(lines) != 1 || !strings.Contains(lines[0], `"fields":["mid: required","refundAmount: minimum"`) {
			t.Errorf("logged %q", lines)
		}
	})
	t.Run("warn logs names and rules, and sends", func(t *testing.T) {
		for range 20 {
			if a := call(warning, "/v1/netpay/refund", wrong); a.status != 200 {
				t.Fatalf("%+v", a)
			}
		}
		lines := log.lines("it is sent all the same", `"fields":["srcReserve: maxLength"]`, `"merchant":"shop"`)
		if len(lines) == 0 || len(lines) > 10 {
			t.Errorf("%d lines", len(lines))
		}
		if strings.Contains(log.String(), "密") {
			t.Error("a value was logged")
		}
	})
	t.Run("advice passes and is logged", func(t *testing.T) {
		a := call(rejecting, "/v1/netpay/refund", with(t, refundBody, "327M2022", "327M2022000000000000"))
		if a.status != 200 || len(log.lines("it is sent all the same", `"merOrderId: maxLength"`)) != 1 {
			t.Errorf("%+v", a)
		}
	})
	for _, test := range []struct {
		name, path, body string
		headers          []string
		status           int
	}{
		{"broken JSON", "/v1/netpay/refund", `{"mid":`, nil, 422},
		{"no object", "/v1/netpay/refund", `[]`, nil, 422},
		{"an encoded body cannot be read", "/v1/netpay/refund", refundBody, []string{"Content-Encoding: gzip"}, 422},
		{"identity is no encoding", "/v1/netpay/refund", refundBody, []string{"Content-Encoding: identity"}, 200},
		{"a path that means the same", "/v1/netpay/refund/", `{}`, nil, 422},
		{"a path without a table", "/v1/netpay/bills/query", `{"mid":1`, nil, 200},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := call(rejecting, test.path, test.body, test.headers...)
			if a.status != test.status {
				t.Fatalf("%+v", a)
			}
			if a.status == 422 && strings.Contains(test.body, "refund") && !strings.Contains(a.body, `"fields":[{"name":"",`) {
				t.Errorf("%s", a.body)
			}
		})
	}
	t.Run("off by default", func(t *testing.T) {
		if a := call(off, "/v1/netpay/refund", `{"mid":`); a.status != 200 {
			t.Errorf("%+v", a)
		}
	})
}

func TestValidateOption(t *testing.T) {
	setKeys(t)
	site := func(word string) string {
		return merchantOptions("https://127.0.0.1:1") + "http://127.0.0.1:1 {\n\tchinaums_proxy {\n\t\tvalidate " + word + "\n\t}\n}\n"
	}
	for _, word := range []string{"off", "warn", "reject"} {
		if got := loadError(t, site(word)); got != "" {
			t.Errorf("%s: %s", word, got)
		}
	}
	for _, word := range []string{"strict", "REJECT", "", "warn reject"} {
		if got := loadError(t, site(word)); !strings.Contains(got, "validate") {
			t.Errorf("%q: %q", word, got)
		}
	}
	adapted := string(adapt(t, site("warn")))
	if !strings.Contains(adapted, `"validate":"warn"`) {
		t.Error(adapted)
	}
	var document map[string]any
	if err := json.Unmarshal([]byte(strings.Replace(adapted, `"validate":"warn"`, `"validate":"strict"`, 1)), &document); err != nil {
		t.Fatal(err)
	}
	document["admin"] = map[string]any{"disabled": true}
	changed, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	if err := caddy.Validate(mustConfig(t, changed)); err == nil || !strings.Contains(err.Error(), `validate: "strict" is not one of: off, warn, reject`) {
		t.Errorf("JSON: %v", err)
	}
}

func BenchmarkValidateRefund(b *testing.B) {
	body := []byte(refundBody)
	if found := validate("/v1/netpay/refund", body); found != nil {
		b.Fatal(found)
	}
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		validate("/v1/netpay/refund", body)
	}
}
