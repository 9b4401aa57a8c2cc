package sandbox

import (
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// This file is what public SDKs send and read where no document says it.

// TestWeChatOrders: both interfaces answered NO_SERVICE.
func TestWeChatOrders(t *testing.T) {
	b := newBench(t, Options{})
	const unified, pre = "/v1/netpay/wx/unified-order", "/v1/netpay/wx/mini-pre-order"
	for _, test := range []struct {
		path, trade, paid string
		fields            []string // of what is paid with; none: it is a text
	}{
		{unified, "MINI", "miniPayRequest", []string{"appId", "timeStamp", "nonceStr", "package", "signType", "paySign"}},
		{unified, "MINI_PAY", "miniPayRequest", []string{"package", "paySign"}},
		{unified, "", "miniPayRequest", []string{"package", "paySign"}},
		{unified, "JSAPI", "jsPayRequest", []string{"appId", "timeStamp", "nonceStr", "package", "signType", "paySign"}},
		{unified, "APP", "appPayRequest", []string{"appid", "prepayid", "package", "noncestr", "timestamp", "sign"}},
		{unified, "NATIVE", "qrCode", nil},
		{pre, "UP_WX_MINI", "miniPayRequest", []string{"package", "paySign"}},
		{pre, "", "miniPayRequest", []string{"package", "paySign"}},
	} {
		t.Run(test.path+" "+test.trade, func(t *testing.T) {
			number := b.fresh()
			request := b.request("merOrderId", number, "totalAmount", 1234, "instMid", "MINIDEFAULT", "tradeType", test.trade,
				"subAppId", "wx0000000000000000", "subOpenId", "o0000000000000000000000000", "notifyUrl", b.merchant())
			answer := b.call(test.path, request)
			want(t, answer, "errCode", "SUCCESS", "merOrderId", number, "status", "WAIT_BUYER_PAY", "targetStatus", "SUCCESS|SUCCESS",
				"targetSys", "WXPay", "totalAmount", 1234, "instMid", "MINIDEFAULT")
			if object, ok := answer[test.paid].(map[string]any); ok != (test.fields != nil) {
				t.Errorf("%s is %v", test.paid, answer[test.paid])
			} else if ok {
				for _, name := range test.fields {
					if value, ok := object[name]; !ok || value == "" {
						t.Errorf("%s has no %s: %v", test.paid, name, object)
					}
				}
			} else if text, _ := answer[test.paid].(string); text == "" {
				t.Errorf("%s is %v", test.paid, answer[test.paid])
			}
			want(t, b.call(test.path, request), "errCode", "DUP_ORDER")

			if err := b.Pay(number); err != nil {
				t.Fatal(err)
			}
			b.delivered(number, KindPayment)
			got := b.got()
			if form := got[len(got)-1].form; form.Get("merOrderId") != number || form.Get("status") != "TRADE_SUCCESS" || form.Get("targetSys") != "WXPay" {
				t.Errorf("%v", form)
			}
			want(t, b.call("/v1/netpay/query", b.request("merOrderId", number)), "status", "TRADE_SUCCESS", "totalAmount", 1234)
			want(t, b.call("/v1/netpay/refund", b.request("merOrderId", number, "refundAmount", 1234)), "errCode", "SUCCESS", "refundStatus", "SUCCESS")
			b.delivered(number, KindRefund)
		})
	}
	for name, request := range map[string]map[string]any{
		"an unknown tradeType":            b.request("merOrderId", b.fresh(), "totalAmount", 1, "tradeType", "POS", "subOpenId", "o1"),
		"a mini program without an owner": b.request("merOrderId", b.fresh(), "totalAmount", 1, "tradeType", "MINI"),
		"a page without an owner":         b.request("merOrderId", b.fresh(), "totalAmount", 1, "tradeType", "JSAPI"),
	} {
		answer := b.call(unified, request)
		want(t, answer, "errCode", "BAD_REQUEST")
		want(t, b.call("/v1/netpay/query", b.request("merOrderId", request["merOrderId"])), "errCode", "NO_ORDER")
		if text, _ := answer["errMsg"].(string); name == "an unknown tradeType" && text != "微信tradeType应为APP、JSAPI、MINI、MINI_PAY、NATIVE" {
			t.Errorf("%s: %s", name, text)
		}
	}
}

// TestBills: a bill is scanned, paid, told, looked at and refunded; refund and close answered NO_SERVICE.
func TestBills(t *testing.T) {
	b := newBench(t, Options{})
	const get, query, refund, shut = "/v1/netpay/bills/get-qrcode", "/v1/netpay/bills/query", "/v1/netpay/bills/refund", "/v1/netpay/bills/close-qrcode"
	day := b.clock().In(zone).Format("2006-01-02")
	request := func(pairs ...any) map[string]any {
		return b.request(append([]any{"instMid", "QRPAYDEFAULT", "billDate", day}, pairs...)...)
	}
	bill := func(pairs ...any) (billNo, code string) {
		t.Helper()
		billNo = b.fresh()
		answer := b.call(get, request(append([]any{"billNo", billNo, "totalAmount", 2100, "notifyUrl", b.merchant()}, pairs...)...))
		want(t, answer, "errCode", "SUCCESS", "billNo", billNo, "billDate", day, "instMid", "QRPAYDEFAULT")
		code, _ = answer["qrCodeId"].(string)
		if address, _ := answer["billQRCode"].(string); code == "" || !strings.HasSuffix(address, "?id="+code) {
			t.Errorf("%v", answer)
		}
		return billNo, code
	}
	billNo, code := bill()
	want(t, b.call(get, request("billNo", billNo, "totalAmount", 2100)), "errCode", "DUP_ORDER", "errMsg", "账单号重复")
	want(t, b.call(query, request("billNo", billNo)), "errCode", "SUCCESS", "billStatus", "UNPAID", "billPayment", nil)
	want(t, b.call(refund, request("billNo", billNo, "refundAmount", 1)), "errCode", "OPERATION_NOT_ALLOWED")
	if err := b.Pay(billNo); err != nil {
		t.Fatal(err)
	}
	b.delivered(billNo, KindBill)
	if form := b.got()[0].form; form.Get("qrCodeId") != code {
		t.Errorf("the notify's qrCodeId is %q, not %q", form.Get("qrCodeId"), code)
	}
	want(t, b.call(query, request("billNo", billNo)), "billStatus", "PAID", "refundBillPayment", nil)
	want(t, b.call(shut, request("qrCodeId", code, "billDate", nil)), "errCode", "OPERATION_NOT_ALLOWED")

	number := b.fresh()
	for range 2 { // the same number again is no second refund
		answer := b.call(refund, request("billNo", billNo, "refundOrderId", number, "refundAmount", 100, "refundDesc", "退款"))
		want(t, answer, "errCode", "SUCCESS", "billNo", billNo, "billStatus", "REFUND", "refundOrderId", number, "refundAmount", 100, "refundStatus", "SUCCESS")
		payment, _ := answer["refundBillPayment"].(map[string]any)
		want(t, payment, "merOrderId", number, "billBizType", "REFUND", "status", "TRADE_SUCCESS", "totalAmount", 100)
	}
	b.delivered(number, KindRefund)
	got := b.got()
	if form := got[len(got)-1].form; form.Get("refundOrderId") != number || form.Get("refundStatus") != "SUCCESS" || form.Has("billNo") {
		t.Errorf("%v", form)
	}
	payment, _ := b.call(query, request("billNo", billNo, "refundOrderId", number))["refundBillPayment"].(map[string]any)
	want(t, payment, "status", "TRADE_SUCCESS", "totalAmount", 100)
	want(t, b.call(query, request("billNo", billNo, "refundOrderId", b.fresh())), "errCode", "NO_ORDER")
	want(t, b.call(refund, request("billNo", billNo, "refundOrderId", b.fresh(), "refundAmount", 2001)), "errCode", "OPERATION_NOT_ALLOWED")
	for status, says := range map[string]string{"PROCESSING": "UNKNOWN", "FAIL": "TRADE_CLOSED"} {
		if err := b.RefundStatus(status); err != nil {
			t.Fatal(err)
		}
		answer := b.call(refund, request("billNo", billNo, "refundOrderId", b.fresh(), "refundAmount", 1))
		want(t, answer, "errCode", "SUCCESS", "refundStatus", status)
		payment, _ := answer["refundBillPayment"].(map[string]any)
		want(t, payment, "status", says)
	}
	want(t, b.call(refund, request("billNo", billNo, "billDate", "2020-01-01", "refundAmount", 1)), "errCode", "NO_ORDER")
	want(t, b.call(refund, request("billNo", billNo, "billDate", nil, "refundAmount", 1)), "errCode", "BAD_REQUEST")

	for name, by := range map[string]func(billNo, code string) []any{
		"by its code":   func(_, code string) []any { return []any{"qrCodeId", code, "billDate", nil, "systemId", "1001"} },
		"by its number": func(billNo, _ string) []any { return []any{"billNo", billNo} },
	} {
		t.Run("close "+name, func(t *testing.T) {
			own := b.fresh()
			billNo, code := bill("qrCodeId", own)
			if code != own {
				t.Errorf("qrCodeId is %s, not the merchant's %s", code, own)
			}
			want(t, b.call(shut, request(by(billNo, code)...)), "errCode", "SUCCESS", "billStatus", "CLOSED", "qrCodeId", own)
			if err := b.Pay(billNo); err == nil {
				t.Error("paid after it was closed")
			}
			want(t, b.call(query, request("billNo", billNo)), "billStatus", "CLOSED")
		})
	}
	want(t, b.call(shut, request("qrCodeId", b.fresh())), "errCode", "NO_ORDER")
	want(t, b.call(shut, request("qrCodeId", code, "billNo", b.fresh())), "errCode", "NO_ORDER")
	want(t, b.call(shut, request()), "errCode", "BAD_REQUEST")

	// What is split is refunded as it was split.
	split, _ := bill("divisionFlag", true, "platformAmount", 100, "subOrders", []any{map[string]any{"mid": "898000000000001", "totalAmount": 2000}})
	if err := b.Pay(split); err != nil {
		t.Fatal(err)
	}
	want(t, b.call(refund, request("billNo", split, "refundAmount", 2100)), "errCode", "BAD_REQUEST")
	want(t, b.call(refund, request("billNo", split, "refundAmount", 2100, "platformAmount", 100,
		"subOrders", []any{map[string]any{"mid": "898000000000001", "totalAmount": 2000}})), "errCode", "SUCCESS", "billStatus", "REFUND")
}

// TestBareTimestamp: a much-used SDK sends yyyyMMddHHmmss, which was refused. It is taken, and said once for each interface.
func TestBareTimestamp(t *testing.T) {
	lines := make(chan string, 16)
	b := newBench(t, Options{UI: true, Warn: func(text string) { lines <- text }})
	b.ordered()
	bare := b.clock().In(zone).Format("20060102150405")
	first := b.ordered("requestTimestamp", bare)
	b.ordered("requestTimestamp", bare)
	want(t, b.call("/v1/netpay/query", b.request("merOrderId", first, "requestTimestamp", bare)), "errCode", "SUCCESS")
	for _, broken := range []string{"20261332250000", "2026112400000", "202611240000001", "2026-11-24T00:00:00"} {
		want(t, b.call("/v1/netpay/query", b.request("merOrderId", first, "requestTimestamp", broken)), "errCode", "BAD_REQUEST")
	}
	var told []string // before the call's answer was written
	for len(lines) > 0 {
		told = append(told, <-lines)
	}
	if len(told) != 2 || !strings.HasPrefix(told[0], "/v1/netpay/trade/precreate: requestTimestamp") || !strings.HasPrefix(told[1], "/v1/netpay/query: ") {
		t.Errorf("%q", told)
	}
	warned := make([]bool, 0, 4)
	for _, call := range b.Calls()[:4] {
		warned = append(warned, call.Warning != "")
	}
	if !slices.Equal(warned, []bool{false, true, true, true}) {
		t.Errorf("recorded: %v", warned)
	}
	res, err := http.Get(b.url + "/sandbox/view")
	if err != nil {
		t.Fatal(err)
	}
	page := readAll(t, res)
	for _, text := range told {
		if strings.Count(page, text) != 1 {
			t.Errorf("the page does not have %q once", text)
		}
	}

	link := b.link("/v1/netpay/trade/h5-pay", b.request("merOrderId", b.fresh(), "totalAmount", 1, "requestTimestamp", bare))
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	if res, err = client.Get(link); err != nil {
		t.Fatal(err)
	}
	if readAll(t, res); res.StatusCode != http.StatusFound || len(lines) != 1 {
		t.Errorf("a link: %d, %d lines", res.StatusCode, len(lines))
	}
}

func readAll(t *testing.T, res *http.Response) string {
	t.Helper()
	defer res.Body.Close()
	content, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// TestTokenSHA1: a request signed with SHA1 was refused. The digests were made with openssl and sha256sum.
func TestTokenSHA1(t *testing.T) {
	const sha1Sign, sha256Sign = "efbeaf0870af19970ec0b1a55794975d089e76f9", "8dade2e01eb4f608b84738bc871e7ed2a87b1d84d364963f098b328ac245b870"
	for _, test := range []struct {
		name   string
		method any
		sign   string
		code   string
	}{
		{"SHA1", "SHA1", sha1Sign, "0000"},
		{"SHA256", "SHA256", sha256Sign, "0000"},
		{"no method is SHA256", nil, sha256Sign, "0000"},
		{"SHA1 under the name of SHA256", "SHA256", sha1Sign, "BAD_SIGN"},
		{"SHA1 without a name", nil, sha1Sign, "BAD_SIGN"},
		{"SHA256 under the name of SHA1", "SHA1", sha256Sign, "BAD_SIGN"},
		{"another", "MD5", sha1Sign, "BAD_REQUEST"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t, Options{
				AppID: "f0ec96ad2c3848b5b810e7aadf369e2f", AppKey: "00112233445566778899aabbccddeeff",
				Now: func() time.Time { return time.Date(2019, 2, 27, 11, 31, 48, 0, zone) },
			})
			fields := map[string]any{
				"appId": b.keys.AppID, "timestamp": "20190227113148", "nonce": "be46cd581c9f46ecbd71b9858311ea12", "signature": test.sign,
			}
			if test.method != nil {
				fields["signMethod"] = test.method
			}
			body, err := json.Marshal(fields)
			if err != nil {
				t.Fatal(err)
			}
			_, content, err := b.post("/v1/token/access", "", body)
			if err != nil {
				t.Fatal(err)
			}
			want(t, decode(t, content), "errCode", test.code)
		})
	}
}

// TestShouqianbaUploadLog: the interface was not there. Its body is the compressed log, whatever type it is sent with.
func TestShouqianbaUploadLog(t *testing.T) {
	b := newTill(t, ShouqianbaOptions{})
	log := "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xcb\xcf\x06\x00\x47\xdd\xdc\x79\x02\x00\x00\x00"
	b.want(b.post("/terminal/uploadLog", b.keys.TerminalSN, b.keys.TerminalKey, log), "status=200", "result_code=200", "error_code=SUCCESS", "error_message=ok")
	b.want(b.post("/terminal/uploadLog", b.keys.TerminalSN, "wrong", log), "result_code=400", "error_code=ILLEGAL_SIGN")
	b.want(b.post("/terminal/uploadLog", "1", b.keys.TerminalKey, log), "result_code=400", "error_code=INVALID_TERMINAL")
	b.want(b.post("/terminal/uploadLog", b.keys.TerminalSN, b.keys.TerminalKey, ""), "result_code=400", "error_code=INVALID_PARAMS")
	if calls := b.Calls(); string(calls[0].Body) != log || calls[0].ErrCode != "SUCCESS" {
		t.Errorf("recorded %+v", calls[0])
	}
}
