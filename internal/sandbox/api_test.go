package sandbox

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestAuthentication(t *testing.T) {
	b := newBench(t, Options{})
	body := []byte(fmt.Sprintf(`{"requestTimestamp":"2026-01-01 00:00:00","mid":"%s","tid":"%s","merOrderId":"%s0001"}`, b.keys.MID, b.keys.TID, b.keys.SourceCode))
	stamp := func(off time.Duration) string { return b.clock().Add(off).In(zone).Format("20060102150405") }
	header := func(appID, timestamp, nonce, key, separator string) string {
		return strings.Join([]string{
			`OPEN-BODY-SIG AppId="` + appID + `"`, `Timestamp="` + timestamp + `"`, `Nonce="` + nonce + `"`,
			`Signature="` + bodySignature(appID, key, timestamp, nonce, body) + `"`,
		}, separator)
	}
	id, key := b.keys.AppID, b.keys.AppKey
	for _, test := range []struct{ name, header, code string }{
		{"comma and space", header(id, stamp(0), "n1", key, ", "), "NO_ORDER"},
		{"comma alone", header(id, stamp(0), "n2", key, ","), "NO_ORDER"},
		{"a nonce used before", header(id, stamp(0), "n1", key, ", "), "BAD_SIGN"},
		{"a false signature", header(id, stamp(0), "n3", key+"x", ", "), "BAD_SIGN"},
		{"whose nonce is not used up", header(id, stamp(0), "n3", key, ", "), "NO_ORDER"},
		{"a timestamp of yesterday", header(id, stamp(-24*time.Hour), "n4", key, ", "), "ABNORMAL_REQUEST_TIME"},
		{"a timestamp of tomorrow", header(id, stamp(24*time.Hour), "n5", key, ", "), "ABNORMAL_REQUEST_TIME"},
		{"a timestamp within the skew", header(id, stamp(-9*time.Minute), "n6", key, ", "), "NO_ORDER"},
		{"a timestamp of another form", header(id, b.clock().Format(time.DateTime), "n7", key, ", "), "ABNORMAL_REQUEST_TIME"},
		{"an unknown appId", header("other", stamp(0), "n8", key, ", "), "INVALID_MSGSRC"},
		{"no nonce", header(id, stamp(0), "", key, ", "), "BAD_SIGN"},
		{"no header", "", "BAD_SIGN"},
		{"another scheme", "Basic abc=", "BAD_SIGN"},
		{"broken", "OPEN-BODY-SIG AppId=", "BAD_SIGN"},
	} {
		t.Run(test.name, func(t *testing.T) {
			res, content, err := b.post("/v1/netpay/query", test.header, body)
			if err != nil {
				t.Fatal(err)
			}
			if res.StatusCode != http.StatusOK {
				t.Errorf("status %d", res.StatusCode)
			}
			want(t, decode(t, content), "errCode", test.code)
		})
	}
	calls := b.Calls()
	if len(calls) != 14 || calls[0].Path != "/v1/netpay/query" || string(calls[0].Body) != string(body) ||
		calls[0].ErrCode != "NO_ORDER" || calls[2].ErrCode != "BAD_SIGN" || calls[0].Status != 200 ||
		!strings.HasPrefix(calls[0].Header.Get("Authorization"), "OPEN-BODY-SIG AppId=") {
		t.Errorf("recorded %d: %+v", len(calls), calls)
	}
}

func TestRequests(t *testing.T) {
	b := newBench(t, Options{MaxBody: 4096})
	for _, test := range []struct {
		name, path string
		body       string
		code       string
	}{
		{"no JSON", "/v1/netpay/query", "a=b", "BAD_REQUEST"},
		{"an array", "/v1/netpay/query", "[]", "BAD_REQUEST"},
		{"null", "/v1/netpay/query", "null", "BAD_REQUEST"},
		{"two objects", "/v1/netpay/query", "{}{}", "BAD_REQUEST"},
		{"not UTF-8", "/v1/netpay/query", "{\"a\":\"\xff\"}", "BAD_REQUEST"},
		{"nothing", "/v1/netpay/query", "", "BAD_REQUEST"},
		{"an unknown interface", "/v1/netpay/nothing", "{}", "NO_SERVICE"},
		{"another merchant", "/v1/netpay/query", `{"requestTimestamp":"2026-01-01 00:00:00","mid":"898000000000000","tid":"00000001"}`, "NO_MERCHANT"},
		{"no requestTimestamp", "/v1/netpay/query", `{"mid":"898000000000000","tid":"00000001"}`, "BAD_REQUEST"},
	} {
		t.Run(test.name, func(t *testing.T) {
			res, content, err := b.post(test.path, b.header([]byte(test.body)), []byte(test.body))
			if err != nil {
				t.Fatal(err)
			}
			if res.StatusCode != http.StatusOK {
				t.Errorf("status %d", res.StatusCode)
			}
			want(t, decode(t, content), "errCode", test.code)
		})
	}
	t.Run("too large", func(t *testing.T) {
		body := []byte(strings.Repeat(" ", 5000))
		res, _, err := b.post("/v1/netpay/query", b.header(body), body)
		if err != nil || res.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("%v %v", res, err)
		}
		if calls := b.Calls(); len(calls[len(calls)-1].Body) != 4096 {
			t.Errorf("recorded %d bytes", len(calls[len(calls)-1].Body))
		}
	})
	t.Run("GET", func(t *testing.T) {
		res, err := http.Get(b.url + "/v1/netpay/query")
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusMethodNotAllowed || res.Header.Get("Allow") != "POST" {
			t.Errorf("%d %q", res.StatusCode, res.Header.Get("Allow"))
		}
	})
}

// TestInterfaces goes through the documents' interfaces, row by row of the list of systems, with the refusals of each.
func TestInterfaces(t *testing.T) {
	b := newBench(t, Options{})
	for row, path := range map[string]string{
		"SYS-05": "/v1/netpay/wx/app-pre-order", "SYS-06": "/v1/netpay/trade/precreate", "SYS-07": "/v1/netpay/qmf/order",
		"SYS-08": "/v1/netpay/uac/app-order", "SYS-09": "/v1/netpay/applepay/order", "SYS-10": "/v1/netpay/trade/app-pre-order",
	} {
		t.Run(row, func(t *testing.T) {
			number := b.fresh()
			order := func(pairs ...any) map[string]any {
				return b.call(path, b.request(append([]any{
					"merOrderId", number, "totalAmount", "1234", "tradeType", "APP", "merchantUserId", "u1", "mobile", "13800000000",
					"msgId", "m1", "srcReserve", "保留字段",
				}, pairs...)...))
			}
			want(t, order("merOrderId", nil), "errCode", "BAD_REQUEST")
			want(t, order("merOrderId", "????0001"), "errCode", "BAD_REQUEST") // not the source code
			want(t, order("merOrderId", b.keys.SourceCode+"1"), "errCode", "BAD_REQUEST")
			want(t, order("merOrderId", b.keys.SourceCode+strings.Repeat("1", 61)), "errCode", "BAD_REQUEST")
			want(t, order("instMid", nil), "errCode", "BAD_REQUEST")
			want(t, order("mid", "898000000000000"), "errCode", "NO_MERCHANT")
			for _, amount := range []any{0, -1, "1.00", 1.5, "1e3", "", "100000001", "0x10", "１２"} {
				want(t, order("totalAmount", amount), "errCode", "BAD_REQUEST")
			}
			want(t, order("notifyUrl", "ftp://127.0.0.1/"), "errCode", "BAD_REQUEST")
			want(t, order("expireTime", "tomorrow"), "errCode", "BAD_REQUEST")
			want(t, order("expireTime", "2020-01-01 00:00:00"), "errCode", "BAD_REQUEST")

			answer := order()
			want(t, answer, "errCode", "SUCCESS", "status", "NEW_ORDER", "totalAmount", "1234", "merOrderId", number,
				"msgId", "m1", "srcReserve", "保留字段", "mid", b.keys.MID, "tid", b.keys.TID, "targetSys", channels[path], "targetOrderId", nil)
			if _, ok := answer["appPayRequest"].(map[string]any); !ok {
				t.Errorf("appPayRequest is %v", answer["appPayRequest"])
			}
			want(t, order(), "errCode", "DUP_ORDER")
			want(t, b.call("/v1/netpay/query", b.request("merOrderId", number)), "status", "NEW_ORDER", "payTime", nil)
			if err := b.Open(number); err != nil {
				t.Error(err)
			}
			want(t, b.call("/v1/netpay/query", b.request("merOrderId", number)), "status", "WAIT_BUYER_PAY")
			if err := b.Pay(number); err != nil {
				t.Error(err)
			}
			paid := b.call("/v1/netpay/query", b.request("merOrderId", number))
			want(t, paid, "status", "TRADE_SUCCESS", "totalAmount", 1234, "buyerPayAmount", 1234)
			if err := b.Pay(number); err == nil {
				t.Error("paid twice")
			}
			want(t, b.call("/v1/netpay/query", b.request("targetOrderId", paid["targetOrderId"])), "merOrderId", number)
		})
	}

	t.Run("SYS-11 query", func(t *testing.T) {
		want(t, b.call("/v1/netpay/query", b.request("merOrderId", b.fresh())), "errCode", "NO_ORDER")
		want(t, b.call("/v1/netpay/query", b.request("targetOrderId", "123456")), "errCode", "NO_ORDER")
		want(t, b.call("/v1/netpay/query", b.request()), "errCode", "BAD_REQUEST")
		number := b.paid()
		want(t, b.call("/v1/netpay/query", b.request("merOrderId", number, "targetOrderId", "123456")), "errCode", "NO_ORDER")
		want(t, b.call("/v1/netpay/query", b.request("merOrderId", number, "instMid", nil)), "errCode", "SUCCESS")
	})

	t.Run("SYS-16 close", func(t *testing.T) {
		number := b.ordered()
		want(t, b.call("/v1/netpay/close", b.request("merOrderId", b.fresh())), "errCode", "NO_ORDER")
		want(t, b.call("/v1/netpay/close", b.request("merOrderId", number)), "errCode", "SUCCESS", "status", "TRADE_CLOSED")
		want(t, b.call("/v1/netpay/close", b.request("merOrderId", number)), "errCode", "OPERATION_NOT_ALLOWED")
		want(t, b.call("/v1/netpay/close", b.request("merOrderId", b.paid())), "errCode", "OPERATION_NOT_ALLOWED")
		if err := b.Pay(number); err == nil {
			t.Error("a closed order was paid")
		}
	})

	t.Run("SYS-03 preauth-cancel, bills", func(t *testing.T) {
		billNo := b.fresh()
		day := b.clock().In(zone).Format("2006-01-02")
		bill := b.request("billNo", billNo, "billDate", day, "instMid", "QRPAYDEFAULT", "totalAmount", 2100)
		want(t, b.call("/v1/netpay/bills/get-qrcode", bill), "errCode", "SUCCESS", "billNo", billNo)
		want(t, b.call("/v1/netpay/bills/get-qrcode", bill), "errCode", "DUP_ORDER")
		query := func() map[string]any {
			return b.call("/v1/netpay/bills/query", b.request("billNo", billNo, "billDate", day))
		}
		want(t, query(), "billStatus", "UNPAID", "billPayment", nil, "totalAmount", 2100)
		if err := b.Pay(billNo); err != nil {
			t.Fatal(err)
		}
		paid := query()
		want(t, paid, "billStatus", "PAID", "billNo", billNo, "billDate", day, "totalAmount", 2100)
		payment, _ := paid["billPayment"].(map[string]any)
		want(t, payment, "totalAmount", 2100, "status", "TRADE_SUCCESS", "billBizType", "bills")
		want(t, b.call("/v1/netpay/bills/query", b.request("billNo", billNo, "billDate", "2020-01-01")), "errCode", "NO_ORDER")
		cancel := b.request("billNo", billNo, "billDate", day, "merOrderId", payment["merOrderId"], "instMid", "QRPAYDEFAULT")
		want(t, b.call("/v1/netpay/bills/preauth-cancel", b.request("billNo", b.fresh())), "errCode", "NO_ORDER")
		want(t, b.call("/v1/netpay/bills/preauth-cancel", b.request()), "errCode", "BAD_REQUEST")
		canceled := b.call("/v1/netpay/bills/preauth-cancel", cancel)
		want(t, canceled, "errCode", "SUCCESS", "billStatus", "CLOSED")
		want(t, canceled["billPayment"].(map[string]any), "status", "TRADE_CLOSED", "buyerPayAmount", 2100)
		want(t, b.call("/v1/netpay/bills/preauth-cancel", cancel), "errCode", "OPERATION_NOT_ALLOWED")
		want(t, query(), "billStatus", "CLOSED")
	})

	t.Run("SYS-14 secure-cancel", func(t *testing.T) {
		number := b.ordered("secureTransaction", "true")
		want(t, b.call("/v1/netpay/secure-cancel", b.request("merOrderId", number)), "errCode", "OPERATION_NOT_ALLOWED") // unpaid
		if err := b.Pay(number); err != nil {
			t.Fatal(err)
		}
		want(t, b.call("/v1/netpay/refund", b.request("merOrderId", number, "refundAmount", 1)), "errCode", "OPERATION_NOT_ALLOWED")
		want(t, b.call("/v1/netpay/secure-cancel", b.request("merOrderId", number)),
			"errCode", "SUCCESS", "secureStatus", "CANCELED", "completedAmount", 0, "totalAmount", 1234)
		want(t, b.call("/v1/netpay/secure-cancel", b.request("merOrderId", number)), "errCode", "HAS_CANCELLED")
		want(t, b.call("/v1/netpay/secure-complete", b.request("merOrderId", number, "completedAmount", 1)), "errCode", "HAS_CANCELLED")
		want(t, b.call("/v1/netpay/secure-cancel", b.request("merOrderId", b.paid())), "errCode", "OPERATION_NOT_ALLOWED")
		want(t, b.call("/v1/netpay/secure-cancel", b.request("merOrderId", b.fresh())), "errCode", "NO_ORDER")
	})

	t.Run("SYS-15 secure-complete", func(t *testing.T) {
		part, all := b.paid("secureTransaction", "true"), b.paid("secureTransaction", true)
		complete := func(number string, amount any) map[string]any {
			return b.call("/v1/netpay/secure-complete", b.request("merOrderId", number, "completedAmount", amount))
		}
		want(t, complete(part, 1235), "errCode", "OPERATION_NOT_ALLOWED")
		want(t, complete(part, 0), "errCode", "BAD_REQUEST")
		want(t, complete(part, "1000"), "errCode", "SUCCESS", "secureStatus", "PARTLY_COMPLETED", "completedAmount", 1000)
		want(t, complete(part, 1), "errCode", "OPERATION_NOT_ALLOWED")
		want(t, complete(all, 1234), "secureStatus", "ALL_COMPLETED")
		refund := func(amount any) map[string]any {
			return b.call("/v1/netpay/refund", b.request("merOrderId", part, "refundAmount", amount, "refundOrderId", b.fresh()))
		}
		want(t, refund(1001), "errCode", "OPERATION_NOT_ALLOWED") // the rest went back when it was completed
		want(t, refund(1000), "errCode", "SUCCESS", "status", "TRADE_CLOSED")
	})
}

// TestRefunds: SYS-01, 12 and 13.
func TestRefunds(t *testing.T) {
	b := newBench(t, Options{})
	number := b.paid()
	refund := func(order string, pairs ...any) map[string]any {
		return b.call("/v1/netpay/refund", b.request(append([]any{"merOrderId", order}, pairs...)...))
	}
	first, second := b.fresh(), b.fresh()

	want(t, refund(b.fresh(), "refundAmount", 1), "errCode", "NO_ORDER")
	want(t, refund(b.ordered(), "refundAmount", 1), "errCode", "OPERATION_NOT_ALLOWED")
	want(t, refund(number, "refundAmount", 1235), "errCode", "OPERATION_NOT_ALLOWED")
	want(t, refund(number, "refundAmount", "1.0"), "errCode", "BAD_REQUEST")
	want(t, refund(number, "refundAmount", 1, "refundOrderId", "QQQQ0001"), "errCode", "BAD_REQUEST")

	done := refund(number, "refundAmount", 234, "refundOrderId", first)
	want(t, done, "errCode", "SUCCESS", "refundStatus", "SUCCESS", "refundAmount", 234, "refundOrderId", first,
		"status", "TRADE_REFUND", "totalAmount", 1234, "targetOrderId", nil)
	t.Run("FMT-09 the same numbers once more", func(t *testing.T) {
		for _, amount := range []any{234, "234", 1} { // whatever the amount: the refund that exists
			again := refund(number, "refundAmount", amount, "refundOrderId", first)
			for _, name := range []string{"errCode", "refundStatus", "refundAmount", "refundOrderId", "refundTargetOrderId", "seqId"} {
				want(t, again, name, done[name])
			}
		}
		want(t, b.call("/v1/netpay/query", b.request("merOrderId", number)), "refundAmount", 234, "status", "TRADE_REFUND")
	})
	t.Run("refund query", func(t *testing.T) {
		query := func(number string) map[string]any {
			return b.call("/v1/netpay/refund-query", b.request("merOrderId", number))
		}
		want(t, query(first), "refundStatus", "SUCCESS", "refundOrderId", first, "merOrderId", number, "refundAmount", 234)
		want(t, query(number), "refundOrderId", first, "merOrderId", number)
		want(t, query(b.fresh()), "errCode", "NO_ORDER")
		want(t, query(b.paid()), "errCode", "NO_ORDER")
	})
	t.Run("several", func(t *testing.T) {
		want(t, refund(number, "refundAmount", 1), "errCode", "BAD_REQUEST")                                       // needs a number now
		want(t, refund(b.paid(), "refundAmount", 1, "refundOrderId", first), "errCode", "DUP_ORDER")               // another order's
		want(t, refund(number, "refundAmount", 1, "refundOrderId", number), "errCode", "DUP_ORDER")                // an order's
		want(t, refund(number, "refundAmount", 1001, "refundOrderId", second), "errCode", "OPERATION_NOT_ALLOWED") // the sum
		want(t, refund(number, "refundAmount", 1000, "refundOrderId", second), "status", "TRADE_CLOSED", "refundStatus", "SUCCESS")
		want(t, refund(number, "refundAmount", 1, "refundOrderId", b.fresh()), "errCode", "OPERATION_NOT_ALLOWED")
		want(t, refund(number, "refundAmount", 1000, "refundOrderId", second), "refundStatus", "SUCCESS") // still idempotent
		want(t, b.call("/v1/netpay/query", b.request("merOrderId", number)), "status", "TRADE_CLOSED")
	})
	t.Run("without a number", func(t *testing.T) {
		number := b.paid()
		want(t, refund(number, "refundAmount", 1234), "errCode", "SUCCESS", "status", "TRADE_CLOSED")
	})
	t.Run("that do not end at once", func(t *testing.T) {
		number, first, second := b.paid(), b.fresh(), b.fresh()
		if err := b.RefundStatus("PROCESSING", "FAIL", "UNKNOWN"); err != nil {
			t.Fatal(err)
		}
		want(t, refund(number, "refundAmount", 1000, "refundOrderId", first), "refundStatus", "PROCESSING", "status", "TRADE_SUCCESS")
		want(t, refund(number, "refundAmount", 235, "refundOrderId", second), "errCode", "OPERATION_NOT_ALLOWED") // it counts
		want(t, refund(number, "refundAmount", 234, "refundOrderId", second), "refundStatus", "FAIL")
		if err := b.FinishRefund(second, "SUCCESS"); err == nil {
			t.Error("a refund that had failed was finished")
		}
		if err := b.FinishRefund(first, "FAIL"); err != nil {
			t.Fatal(err)
		}
		want(t, b.call("/v1/netpay/refund-query", b.request("merOrderId", first)), "refundStatus", "FAIL", "refundTargetOrderId", nil)
		third := b.fresh()
		want(t, refund(number, "refundAmount", 1234, "refundOrderId", third), "refundStatus", "UNKNOWN") // the failed ones do not count
		if err := b.FinishRefund(third, "SUCCESS"); err != nil {
			t.Fatal(err)
		}
		want(t, b.call("/v1/netpay/query", b.request("merOrderId", number)), "status", "TRADE_CLOSED")
		if err := b.RefundStatus("DONE"); err == nil {
			t.Error("an unknown word was taken")
		}
	})
	t.Run("FMT-06 and 08 of a split order", func(t *testing.T) {
		order := func(pairs ...any) (string, map[string]any) {
			number := b.fresh()
			return number, b.call("/v1/netpay/trade/precreate", b.request(append([]any{
				"merOrderId", number, "totalAmount", 100, "divisionFlag", true, "platformAmount", 10,
			}, pairs...)...))
		}
		share := func(mid string, amount any) map[string]any {
			return map[string]any{"mid": mid, "totalAmount": amount}
		}
		_, answer := order()
		want(t, answer, "errCode", "BAD_REQUEST") // neither goods nor subOrders
		_, answer = order("subOrders", []any{share("898310148160568", 80)})
		want(t, answer, "errCode", "BAD_REQUEST") // the sum
		_, answer = order("subOrders", []any{share("898310148160568", 90)}, "secureTransaction", "true")
		want(t, answer, "errCode", "BAD_REQUEST")
		_, answer = order("goods", []any{map[string]any{"subMerchantId": "898310148160568", "subOrderAmount": "100"}})
		want(t, answer, "errCode", "SUCCESS")
		many := []any{}
		for i := range 21 {
			many = append(many, share(fmt.Sprintf("8983101481605%02d", i), map[bool]int{true: 10, false: 4}[i == 0]))
		}
		_, answer = order("subOrders", many)
		want(t, answer, "errCode", "BAD_REQUEST")
		number, answer := order("subOrders", []any{share("898310148160568", "50"), share("898310148160569", 40)})
		want(t, answer, "errCode", "SUCCESS")
		if err := b.Pay(number); err != nil {
			t.Fatal(err)
		}
		split := func(amount, platform any, parts ...any) map[string]any {
			return refund(number, "refundAmount", amount, "refundOrderId", b.fresh(), "platformAmount", platform, "subOrders", parts)
		}
		want(t, refund(number, "refundAmount", 1, "refundOrderId", b.fresh()), "errCode", "BAD_REQUEST")
		want(t, split(10, 1, share("898310148160568", 8)), "errCode", "BAD_REQUEST")
		want(t, split(62, 11, share("898310148160568", 51)), "errCode", "OPERATION_NOT_ALLOWED")
		want(t, split(30, 0, share("898310148160568", 30)), "errCode", "SUCCESS")
		want(t, split(21, 0, share("898310148160568", 21)), "errCode", "OPERATION_NOT_ALLOWED") // with the 30 before
		want(t, split(6, 6), "errCode", "SUCCESS")
		want(t, split(5, 5), "errCode", "OPERATION_NOT_ALLOWED") // with the 6 before
		if err := b.RefundStatus("FAIL"); err != nil {
			t.Fatal(err)
		}
		want(t, split(24, 4, share("898310148160568", 20)), "refundStatus", "FAIL") // gives its shares back
		want(t, split(64, 4, share("898310148160568", 20), share("898310148160569", 40)), "status", "TRADE_CLOSED")
	})
}

func TestExpiry(t *testing.T) {
	b := newBench(t, Options{})
	b.pass(0)
	byDefault := b.ordered()
	own := b.ordered("expireTime", b.clock().Add(5*time.Minute).In(zone).Format(time.DateTime))
	secured := b.paid("secureTransaction", "true")
	status := func(number string) any {
		return b.call("/v1/netpay/query", b.request("merOrderId", number))["status"]
	}
	b.pass(6 * time.Minute)
	if got := status(own); got != "TRADE_CLOSED" {
		t.Errorf("past its expireTime: %v", got)
	}
	if got := status(byDefault); got != "NEW_ORDER" {
		t.Errorf("before the default: %v", got)
	}
	b.pass(25 * time.Minute)
	if got := status(byDefault); got != "TRADE_CLOSED" {
		t.Errorf("past the default: %v", got)
	}
	if err := b.Pay(byDefault); err == nil {
		t.Error("an expired order was paid")
	}
	b.pass(30 * 24 * time.Hour)
	want(t, b.call("/v1/netpay/secure-complete", b.request("merOrderId", secured, "completedAmount", 1)), "errCode", "HAS_CANCELLED")
}

func TestAnswers(t *testing.T) {
	t.Run("amounts as strings", func(t *testing.T) {
		b := newBench(t, Options{StringAmounts: true})
		answer := b.call("/v1/netpay/query", b.request("merOrderId", b.paid()))
		if got, ok := answer["totalAmount"].(string); !ok || got != "1234" {
			t.Errorf("%#v", answer["totalAmount"])
		}
	})
	for name, signing := range map[string]AnswerSigning{"unsigned": AnswersUnsigned, "signed": AnswersSigned, "falsely signed": AnswersFalselySigned} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, Options{Answers: signing})
			body := []byte("{}")
			res, content, err := b.post("/v1/netpay/query", b.header(body), body)
			if err != nil {
				t.Fatal(err)
			}
			header := res.Header.Get("Authorization")
			if signing == AnswersUnsigned {
				if header != "" {
					t.Error(header)
				}
				return
			}
			parsed, err := parseAuthorization(header)
			if err != nil {
				t.Fatal(header, err)
			}
			want := python(t, `import sys,hmac,hashlib,base64
k,i,t,n=sys.stdin.readline().split()
d=hashlib.sha256(sys.stdin.read().encode()).hexdigest()
print(base64.b64encode(hmac.new(k.encode(),(i+t+n+d).encode(),hashlib.sha256).digest()).decode())`,
				fmt.Sprintf("%s %s %s %s\n%s", b.keys.AppKey, b.keys.AppID, parsed.values["Timestamp"], parsed.values["Nonce"], content))
			if right := parsed.values["Signature"] == want; right != (signing == AnswersSigned) {
				t.Errorf("the signature is right: %t", right)
			}
		})
	}
}

func TestBounds(t *testing.T) {
	b := newBench(t, Options{MaxOrders: 3, MaxCalls: 4, MaxDeliveries: 2, MaxBody: 1 << 10})
	address := b.merchant()
	var numbers []string
	for range 5 {
		number := b.paid("notifyUrl", address)
		b.delivered(number, KindPayment)
		numbers = append(numbers, number)
	}
	if got := len(b.Orders()); got != 3 {
		t.Errorf("%d orders kept", got)
	}
	if _, found := b.Order(numbers[0]); found {
		t.Error("the oldest order is kept")
	}
	if order, found := b.Order(numbers[4]); !found || order.Status != "TRADE_SUCCESS" || order.TotalAmount != 1234 {
		t.Errorf("%+v", order)
	}
	if got := len(b.Calls()); got != 4 {
		t.Errorf("%d calls kept", got)
	}
	if got := b.Deliveries(); len(got) != 2 || got[1].Order != numbers[4] {
		t.Errorf("%d deliveries kept", len(got))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.orders) != 3 || len(b.byTarget) != 3 {
		t.Errorf("%d, %d", len(b.orders), len(b.byTarget))
	}
}

func TestRecordedBodiesAreBounded(t *testing.T) {
	b := newBench(t, Options{})
	for range 40 {
		b.calls.record(&Call{Body: make([]byte, 1<<20)})
	}
	if got := len(b.calls.items); got != 32 {
		t.Errorf("%d MiB kept", got)
	}
	for range 40 {
		b.calls.record(&Call{Header: http.Header{"X": {strings.Repeat("x", 1<<20)}}})
	}
	if got := len(b.calls.items); got != 31 { // the name counts, too
		t.Errorf("%d MiB of headers kept", got)
	}
	b.calls.record(&Call{Body: make([]byte, maxRecorded+1)})
	if got := len(b.calls.items); got != 1 {
		t.Errorf("%d calls beside one that is larger than all may be", got)
	}
}

func TestDeduct(t *testing.T) {
	b := newBench(t, Options{})
	number := b.fresh()
	deduction := Deduction{MerOrderID: number, ContractID: "c1", TotalAmount: 500, NotifyURL: b.merchant()}
	if err := b.Deduct(deduction); err != nil {
		t.Fatal(err)
	}
	b.delivered(number, KindDeduction)
	if form := b.got()[0].form; form.Get("contractId") != "c1" || form.Get("totalAmount") != "500" || form.Get("instMid") != "" {
		t.Errorf("%v", form)
	}
	want(t, b.call("/v1/netpay/query", b.request("merOrderId", number, "instMid", nil)), "status", "TRADE_SUCCESS", "totalAmount", 500)
	for name, bad := range map[string]Deduction{
		"again":          deduction,
		"no number":      {TotalAmount: 1},
		"no amount":      {MerOrderID: b.fresh()},
		"not an address": {MerOrderID: b.fresh(), TotalAmount: 1, NotifyURL: "x"},
	} {
		if err := b.Deduct(bad); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestClose(t *testing.T) {
	b := newBench(t, Options{Schedule: []time.Duration{time.Hour}})
	number := b.paid("notifyUrl", b.merchant("FAILED"))
	waiting := make(chan error)
	go func() { waiting <- b.WaitDelivered(context.Background(), number, KindPayment) }()
	eventually(t, "the first attempt", func() bool { return len(b.Deliveries()) == 1 }) // then its hour is waited for
	b.Close()
	if err := <-waiting; err == nil || !strings.Contains(err.Error(), "closed") {
		t.Error(err)
	}
	b.Close() // once more does no harm
	if err := b.Pay(b.ordered("notifyUrl", "http://127.0.0.1:1/")); err != nil {
		t.Error(err)
	}
	if got := len(b.Deliveries()); got != 1 {
		t.Errorf("%d deliveries; one was sent after Close", got)
	}
}
