package chinaums

import (
	"encoding/json"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-chinaums/caddy-chinaums/internal/inbound"
	"github.com/caddy-chinaums/caddy-chinaums/internal/testutil"
	"github.com/caddy-chinaums/caddy-chinaums/internal/watched"
	"github.com/caddy-chinaums/caddy-chinaums/watch"
)

var testWatching = &watching{now: time.Now}

// TestWatchAnswered: only SUCCESS, and the codes of the contract's list, are an end. Any other word, known or not, leaves it open.
func TestWatchAnswered(t *testing.T) {
	ends := strings.Fields(`BAD_SIGN BAD_REQUEST NO_SERVICE NO_MERCHANT INACTIVE_MERCHANT DENIED_IP INVALID_MSGSRC INVLID_MERCHANT_CONFIG
		INVALID_MERCHANT_CONFIG ABNORMAL_REQUEST_TIME NO_CROSS_DAY_TRADING OPERATION_NOT_ALLOWED`)
	codes := []string{"SOMETHING_NEW", "success", "0000", ""}
	for _, known := range platformErrors {
		codes = append(codes, known.code)
	}
	for _, code := range append(codes, "INVALID_MERCHANT_CONFIG") {
		answer, _ := json.Marshal(map[string]string{"errCode": code, "refundStatus": "SUCCESS"})
		order := testWatching.Answered(watch.Call{Kind: watch.KindOrder}, code, answer)
		refund := testWatching.Answered(watch.Call{Kind: watch.KindRefund, Number: "R"}, code, answer)
		wantOrder, wantRefund := watch.Nothing, watch.Nothing
		switch {
		case code == "SUCCESS":
			wantOrder, wantRefund = watch.IsOpen, watch.HasSucceeded
		case slices.Contains(ends, code):
			wantOrder, wantRefund = watch.IsRefused, watch.IsRefused
		}
		if order.Order != wantOrder || order.Call != watch.Nothing || refund.Call != wantRefund || refund.Order != watch.Nothing {
			t.Errorf("%q: an order %+v, a refund %+v", code, order, refund)
		}
		if order.Wait != (code == "ORDER_PROCESSING") {
			t.Errorf("%q: wait %v", code, order.Wait)
		}
	}
	for status, want := range map[string]watch.Fact{
		"SUCCESS": watch.HasSucceeded, "FAIL": watch.HasFailed, "PROCESSING": watch.IsPending, "UNKNOWN": watch.IsPending, "": watch.IsPending, "DONE": watch.IsPending,
	} {
		answer, _ := json.Marshal(map[string]string{"errCode": "SUCCESS", "refundStatus": status})
		if got := testWatching.Answered(watch.Call{Kind: watch.KindRefund, Number: "R"}, "SUCCESS", answer); got.Call != want {
			t.Errorf("refundStatus %q: %q", status, got.Call)
		}
	}
	// What was given back in all stood for this refund's amount.
	bare := testWatching.Answered(watch.Call{Kind: watch.KindRefund, Amount: 30}, "SUCCESS", []byte(`{"errCode":"SUCCESS","refundStatus":"SUCCESS","refundOrderId":"X","refundAmount":"70"}`))
	if bare.Call != watch.HasSucceeded || bare.Number != "X" || bare.CallAmount != 0 {
		t.Errorf("without a number: %+v", bare)
	}
	for _, answer := range []string{"", "<html>", `{"errCode":"SUCCESS","errCode":"FAIL"}`, `{"errCode":"SUCCESS","merOrderId":"2"}`, `{"errCode":"SUCCESS","refundOrderId":"2"}`} {
		call := watch.Call{Kind: watch.KindRefund, Number: "1", Fields: map[string]string{"merOrderId": "1", "refundOrderId": "1"}}
		if got := testWatching.Answered(call, "SUCCESS", []byte(answer)); got.Call != watch.Nothing {
			t.Errorf("%s: %+v", answer, got)
		}
	}
}

// TestWatchClassify: which call is which, by the contract's list.
func TestWatchClassify(t *testing.T) {
	const body = `{"mid":"M","tid":"T","instMid":"I","merOrderId":"O","billNo":"B","billDate":"2026-11-29","refundOrderId":"R","refundAmount":"5","totalAmount":7,
		"completedAmount":3,"notifyUrl":"https://pay.example.com/a/b?c=d","expireTime":"2026-11-29 08:00:00","buyerId":"secret","mobile":"secret"}`
	type want struct {
		kind          watch.Kind
		order, number string
		amount        int64
		whole         bool
	}
	all := map[string]want{
		"/v1/netpay/refund":               {watch.KindRefund, "O", "R", 5, false},
		"/v1/netpay/bills/refund":         {watch.KindRefund, "B@2026-11-29", "R", 5, false},
		"/v1/netpay/secure-cancel":        {watch.KindRefund, "O", "secure-cancel", 5, true},
		"/v1/netpay/bills/preauth-cancel": {watch.KindRefund, "B@2026-11-29", "preauth-cancel", 5, true},
		"/v1/netpay/secure-complete":      {watch.KindCapture, "O", "secure-complete", 3, false},
		"/v1/netpay/close":                {watch.KindClose, "O", "close", 0, false},
		"/v1/netpay/bills/close-qrcode":   {watch.KindClose, "B@2026-11-29", "close-qrcode", 0, false},
		"/v1/netpay/bills/get-qrcode":     {watch.KindOrder, "B@2026-11-29", "", 7, false},
		"/v1/netpay/query":                {}, "/v1/netpay/refund-query": {}, "/v1/netpay/bills/query": {}, "/v1/token/access": {}, "/": {}, "": {},
	}
	for path := range strings.FieldsSeq("wx/app-pre-order wx/unified-order wx/mini-pre-order trade/precreate trade/app-pre-order qmf/order uac/app-order applepay/order") {
		all["/v1/netpay/"+path] = want{watch.KindOrder, "O", "", 7, false}
	}
	for path := range strings.FieldsSeq("trade/h5-pay wxpay/h5-pay wxpay/h5-to-minipay uac/order webpay/pay") {
		all["/v1/netpay/"+path] = want{watch.KindLink, "O", "", 7, false}
	}
	for path, want := range all {
		call, ok := testWatching.Classify(path, []byte(body))
		if ok != (want.kind != "") || ok && (call.Kind != want.kind || call.Order != want.order || call.Number != want.number || call.Amount != want.amount || call.Whole != want.whole) {
			t.Errorf("%s: %v %+v", path, ok, call)
		}
		if !ok {
			continue
		}
		for name, value := range call.Fields {
			if value == "secret" {
				t.Errorf("%s keeps %s", path, name)
			}
		}
		if made := call.Kind == watch.KindOrder || call.Kind == watch.KindLink; made && (call.Notify != "pay.example.com/a/b" ||
			!call.Expires.Equal(time.Date(2026, 11, 29, 0, 0, 0, 0, time.UTC)) || call.Mid != "M") {
			t.Errorf("%s: %+v", path, call)
		}
	}
	long := strings.Repeat("x", 5000)
	call, ok := testWatching.Classify("/v1/netpay/refund", []byte(`{"merOrderId":"`+long+`","refundOrderId":"`+long+`","refundAmount":1}`))
	if !ok || call.Invalid != "" || len(call.Order) > maxNumber || len(call.Number) > maxNumber {
		t.Errorf("%v %+v", ok, call)
	}
}

// TestWatchInvalid: a money call that somebody may read in another way passed as one that is not watched, or as one without an
// amount: a second refund of the same order slipped past the guard.
func TestWatchInvalid(t *testing.T) {
	const bill = `"billNo":"B","billDate":"2026-11-29",`
	for _, test := range []struct{ path, body, want string }{
		{"refund", `{"merOrderId":"O","refundAmount":100}`, ""},
		{"refund", `{"merOrderId":"O","refundAmount":"100","goods":[{"refundAmount":"1.5"}]}`, ""},
		{"refund", ``, "body"},
		{"refund", `[]`, "body"},
		{"refund", `{"merOrderId":"O","refundAmount":100`, "body"},
		{"refund", `merOrderId=O&refundAmount=100`, "body"},
		{"refund", `{"refundAmount":100}`, "merOrderId"},
		{"refund", `{"merOrderId":"","refundAmount":100}`, "merOrderId"},
		{"refund", `{"merOrderId":"O ","refundAmount":100}`, "merOrderId"},
		{"refund", `{"merOrderId":"O","merOrderId":"P","refundAmount":100}`, "merOrderId"},
		{"refund", `{"merOrderId":"O"}`, "refundAmount"},
		{"refund", `{"merOrderId":"O","refundAmount":"100.0"}`, "refundAmount"},
		{"refund", `{"merOrderId":"O","refundAmount":1e2}`, "refundAmount"},
		{"refund", `{"merOrderId":"O","refundAmount":" 100"}`, "refundAmount"},
		{"refund", `{"merOrderId":"O","refundAmount":-100}`, "refundAmount"},
		{"refund", `{"merOrderId":"O","refundAmount":1,"refundAmount":100}`, "refundAmount"},
		{"refund", `{"merOrderId":"O","refundAmount":100,"refundOrderID":"R"}`, "refundOrderId"},
		{"bills/refund", `{` + bill + `"refundAmount":100}`, ""},
		{"bills/refund", `{"merOrderId":"B0","refundAmount":100}`, ""},
		{"bills/refund", `{"refundAmount":100}`, "billNo"},
		{"bills/refund", `{"merOrderId":"B0","billNo":"B","refundAmount":100}`, "billDate"},
		{"bills/refund", `{` + bill + `"refundOrderId":"R"}`, "refundAmount"},
		{"bills/preauth-cancel", `{` + bill + `"mid":"M"}`, ""},
		{"bills/preauth-cancel", `{"merOrderId":"O"}`, ""},
		{"bills/preauth-cancel", `{"mid":"M"}`, "billNo"},
		{"bills/preauth-cancel", `{"billNo":"B"}`, "billDate"},
		{"secure-cancel", `{"merOrderId":"O"}`, ""},
		{"secure-cancel", `{"mid":"M"}`, "merOrderId"},
		{"secure-complete", `{"merOrderId":"O","completedAmount":5}`, ""},
		{"secure-complete", `{"merOrderId":"O","completedAmount":"5.0"}`, "completedAmount"},
		{"secure-complete", `{"merOrderId":"O","completeAmount":5}`, "completedAmount"},
		{"refund;x=1", `{"merOrderId":"O","refundAmount":100}`, "path"},
		{"Refund", `{"merOrderId":"O","refundAmount":100}`, "path"},
		{"uac/refund", `{"merOrderId":"O","refundAmount":100}`, "path"},
		{"refund/", `{"merOrderId":"O","refundAmount":"x"}`, "refundAmount"},
	} {
		call, ok := testWatching.Classify("/v1/netpay/"+test.path, []byte(test.body))
		if !ok || call.Invalid != test.want || !call.Kind.Money() {
			t.Errorf("%s %s: %v, %+v; want %q", test.path, test.body, ok, call, test.want)
		}
	}
	for path := range strings.FieldsSeq("query refund-query bills/query trade/precreate close") {
		if call, ok := testWatching.Classify("/v1/netpay/"+path, []byte(`{"merOrderId":"O","merOrderId":"P"`)); ok {
			t.Errorf("%s: %+v", path, call)
		}
	}
}

// scalarText is a member as a lenient reader takes it: text, or a number as it is written.
type scalarText string

func (s *scalarText) UnmarshalJSON(content []byte) error {
	var words string
	if json.Unmarshal(content, &words) != nil {
		words = string(content)
	}
	if string(content) != "null" {
		*s = scalarText(words)
	}
	return nil
}

// FuzzWatchClassify: no body makes a refund one that is not watched, and of what is not refused a reader that takes the last of
// several members, in any letter case, reads the same order, number and amount.
func FuzzWatchClassify(f *testing.F) {
	f.Add(`{"merOrderId":"O","refundOrderId":"R","refundAmount":100}`)
	f.Add(`{"merOrderId":"O","refundAmount":"1e2"}`)
	f.Add(`{"merOrderId":"O","MERORDERID":"P","refundAmount":"100"}`)
	f.Add(`{"merOrderId":12,"refundAmount":" 100","goods":[{"refundAmount":1}]}`)
	f.Fuzz(func(t *testing.T, body string) {
		call, ok := testWatching.Classify("/v1/netpay/refund", []byte(body))
		if !ok || call.Kind != watch.KindRefund || call.Invalid == "" && (call.Order == "" || call.Amount <= 0) {
			t.Fatalf("%v %+v", ok, call)
		}
		if call.Invalid != "" {
			return
		}
		var read struct {
			MerOrderID    scalarText `json:"merOrderId"`
			RefundOrderID scalarText `json:"refundOrderId"`
			RefundAmount  scalarText `json:"refundAmount"`
		}
		if err := json.Unmarshal([]byte(body), &read); err != nil {
			t.Fatal(err)
		}
		if order, number := bounded(string(read.MerOrderID)), bounded(string(read.RefundOrderID)); order != call.Order || number != call.Number ||
			string(read.RefundAmount) != strconv.FormatInt(call.Amount, 10) {
			t.Errorf("%+v, and somebody else reads %+v", call, read)
		}
	})
}

// readOrders are what answers are read about.
func readOrders() (order *watch.Order, refund, bare, billRefund *watch.Track, bill *watch.Order) {
	refund = &watch.Track{Kind: watch.KindRefund, Number: "R1", Amount: 30, State: watch.Unresolved, Fields: map[string]string{"mid": "M", "merOrderId": "O1", "refundOrderId": "R1"}}
	bare = &watch.Track{Kind: watch.KindRefund, Number: "#1", Amount: 40, State: watch.Unresolved, Fields: map[string]string{"mid": "M", "merOrderId": "O1"}}
	order = &watch.Order{Merchant: "shop", ID: "O1", Mid: "M", Calls: []*watch.Track{refund, bare}}
	order.State, order.Fields = watch.Open, map[string]string{"mid": "M", "merOrderId": "O1"}
	billRefund = &watch.Track{Kind: watch.KindRefund, Number: "R2", Amount: 30, Fields: map[string]string{"mid": "M", "billNo": "B1", "billDate": "2026-11-29", "refundOrderId": "R2"}}
	bill = &watch.Order{Merchant: "shop", ID: "B1@2026-11-29", Mid: "M", Calls: []*watch.Track{billRefund}}
	bill.State, bill.Fields = watch.Open, map[string]string{"mid": "M", "billNo": "B1", "billDate": "2026-11-29"}
	return order, refund, bare, billRefund, bill
}

// TestWatchRead: what the answers to queries mean, and those of another order or refund, which mean nothing.
func TestWatchRead(t *testing.T) {
	order, refund, bare, billRefund, bill := readOrders()
	held, _, _, _, _ := readOrders()
	held.Fields["secureTransaction"] = "true"
	for _, test := range []struct {
		name   string
		order  *watch.Order
		call   *watch.Track
		query  int // which of Ask's
		answer string
		fact   watch.Fact // of the order, or the call that is asked about
		event  string     // its type; empty: none
		failed bool
	}{
		{"open", order, nil, 0, `{"errCode":"SUCCESS","merOrderId":"O1","status":"NEW_ORDER","totalAmount":100}`, watch.IsOpen, "", false},
		{"waiting", order, nil, 0, `{"errCode":"SUCCESS","merOrderId":"O1","status":"WAIT_BUYER_PAY"}`, watch.IsOpen, "", false},
		{"paid", order, nil, 0, `{"errCode":"SUCCESS","merOrderId":"O1","status":"TRADE_SUCCESS","totalAmount":100}`, watch.IsPaid, "payment.succeeded", false},
		{"held, and not said so", held, nil, 0, `{"errCode":"SUCCESS","merOrderId":"O1","status":"TRADE_SUCCESS","totalAmount":100}`, watch.IsPaid, "", false},
		{"held", held, nil, 0, `{"errCode":"SUCCESS","merOrderId":"O1","status":"TRADE_SUCCESS","totalAmount":100,"secureStatus":"UNCOMPLETED"}`, watch.IsPaid, "guarantee.uncompleted", false},
		{"paid, in another spelling", order, nil, 0, `{"errCode":"SUCCESS","merOrderId":"O1","status":"success","totalAmount":"100"}`, watch.IsPaid, "payment.succeeded", false},
		{"paid, and a refund is open", order, nil, 0, `{"errCode":"SUCCESS","merOrderId":"O1","status":"TRADE_SUCCESS","totalAmount":100,"refundAmount":30}`, watch.IsPaid, "payment.succeeded", false},
		{"paid, and partly back", order, nil, 0, `{"errCode":"SUCCESS","merOrderId":"O1","status":"TRADE_REFUND","totalAmount":100,"refundAmount":30}`, watch.IsPartRefunded, "payment.succeeded", false},
		{"all paid back", order, nil, 0, `{"errCode":"SUCCESS","merOrderId":"O1","status":"TRADE_CLOSED","payTime":"2026-11-29 10:00:00"}`, watch.IsRefunded, "payment.closed", false},
		{"closed", order, nil, 0, `{"errCode":"SUCCESS","merOrderId":"O1","status":"TRADE_CLOSED"}`, watch.IsClosed, "", false},
		{"a status that is unknown", order, nil, 0, `{"errCode":"SUCCESS","merOrderId":"O1","status":"UNKNOWN"}`, watch.Nothing, "", false},
		{"a status that is new", order, nil, 0, `{"errCode":"SUCCESS","merOrderId":"O1","status":"PAID_TWICE"}`, watch.Nothing, "", false},
		{"no order", order, nil, 0, `{"errCode":"NO_ORDER"}`, watch.IsAbsent, "", false},
		{"another order", order, nil, 0, `{"errCode":"SUCCESS","merOrderId":"O2","status":"TRADE_SUCCESS","totalAmount":100}`, "", "", true},
		{"no order's number", order, nil, 0, `{"errCode":"SUCCESS","status":"TRADE_SUCCESS","totalAmount":100}`, "", "", true},
		{"an error", order, nil, 0, `{"errCode":"INTERNAL_ERROR","merOrderId":"O1","status":"TRADE_SUCCESS"}`, "", "", true},
		{"a refusal", order, nil, 0, `{"errCode":"OPERATION_NOT_ALLOWED"}`, "", "", true},
		{"no JSON", order, nil, 0, `<html>`, "", "", true},

		{"refunded", order, refund, 0, `{"errCode":"SUCCESS","merOrderId":"R1","refundOrderId":"R1","refundStatus":"SUCCESS","refundAmount":30}`, watch.HasSucceeded, "refund.succeeded", false},
		{"refunded, by the order", order, refund, 1, `{"errCode":"SUCCESS","merOrderId":"O1","refundOrderId":"R1","refundStatus":"SUCCESS"}`, watch.HasSucceeded, "refund.succeeded", false},
		{"a refund that failed", order, refund, 0, `{"errCode":"SUCCESS","refundStatus":"FAIL"}`, watch.HasFailed, "refund.failed", false},
		{"a refund under way", order, refund, 0, `{"errCode":"SUCCESS","refundOrderId":"R1","refundStatus":"PROCESSING"}`, watch.IsPending, "", false},
		{"a refund of no known state", order, refund, 0, `{"errCode":"SUCCESS","refundOrderId":"R1"}`, watch.IsPending, "", false},
		{"no refund", order, refund, 0, `{"errCode":"NO_ORDER"}`, watch.IsAbsent, "", false},
		{"another refund", order, refund, 1, `{"errCode":"SUCCESS","merOrderId":"O1","refundOrderId":"R9","refundStatus":"SUCCESS"}`, "", "", true},
		{"the order's latest refund", order, refund, 1, `{"errCode":"SUCCESS","merOrderId":"O1","refundStatus":"FAIL"}`, "", "", true},
		{"a refund of another order", order, refund, 0, `{"errCode":"SUCCESS","merOrderId":"O9","refundOrderId":"R1","refundStatus":"FAIL"}`, "", "", true},
		{"a refund of another amount", order, refund, 0, `{"errCode":"SUCCESS","refundOrderId":"R1","refundAmount":31,"refundStatus":"FAIL"}`, "", "", true},
		{"a refund without a number", order, bare, 0, `{"errCode":"SUCCESS","merOrderId":"O1","refundOrderId":"X","refundAmount":40,"refundStatus":"SUCCESS"}`, watch.HasSucceeded, "refund.succeeded", false},
		{"a refund without a number, and another's", order, bare, 0, `{"errCode":"SUCCESS","merOrderId":"O1","refundOrderId":"R1","refundAmount":40,"refundStatus":"SUCCESS"}`, "", "", true},
		{"a refund without a number, and no amount", order, bare, 0, `{"errCode":"SUCCESS","merOrderId":"O1","refundOrderId":"X","refundStatus":"SUCCESS"}`, "", "", true},

		{"a bill", bill, nil, 0, `{"errCode":"SUCCESS","billNo":"B1","billDate":"2026-11-29","billStatus":"UNPAID"}`, watch.IsOpen, "", false},
		{"a paid bill", bill, nil, 0, `{"errCode":"SUCCESS","billNo":"B1","billDate":"2026-11-29","billStatus":"PAID","billPayment":{"status":"TRADE_SUCCESS"}}`, watch.IsPaid, "bill.paid", false},
		{"a closed bill", bill, nil, 0, `{"errCode":"SUCCESS","billNo":"B1","billStatus":"CLOSED"}`, "", "", true},
		{"another bill", bill, nil, 0, `{"errCode":"SUCCESS","billNo":"B2","billDate":"2026-11-29","billStatus":"PAID"}`, "", "", true},
		{"a bill's refund", bill, billRefund, 0, `{"errCode":"SUCCESS","billNo":"B1","billDate":"2026-11-29","billStatus":"REFUND","billPayment":{"merOrderId":"B10"},
			"refundBillPayment":{"merOrderId":"R2","status":"TRADE_SUCCESS","totalAmount":30}}`, watch.HasSucceeded, "refund.succeeded", false},
		{"a bill's refund of no known state", bill, billRefund, 0, `{"errCode":"SUCCESS","billNo":"B1","billDate":"2026-11-29","billStatus":"PAID",
			"refundBillPayment":{"merOrderId":"R2","status":"TRADE_CLOSED","totalAmount":30}}`, watch.IsPending, "", false},
		{"another refund of the bill", bill, billRefund, 0, `{"errCode":"SUCCESS","billNo":"B1","billDate":"2026-11-29","billStatus":"REFUND",
			"refundBillPayment":{"merOrderId":"R3","status":"TRADE_SUCCESS","totalAmount":30}}`, "", "", true},
	} {
		f, err := testWatching.Read(test.order, test.call, testWatching.Ask(test.order, test.call)[test.query], []byte(test.answer))
		if (err != nil) != test.failed {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		fact, event := f.Order, ""
		if test.call != nil {
			fact = f.Call
		}
		if f.Event != nil {
			event = strings.TrimPrefix(f.Event.Type, "com.chinaums.")
		}
		if err == nil && (fact != test.fact || event != test.event) {
			t.Errorf("%s: %q and %q, want %q and %q", test.name, fact, event, test.fact, test.event)
		}
	}
}

// FuzzWatchRead: whatever the platform answers, nothing crashes, an answer that was not understood proves nothing, and what is told
// is an event of its own order.
func FuzzWatchRead(f *testing.F) {
	f.Add(`{"errCode":"SUCCESS","merOrderId":"O1","status":"TRADE_SUCCESS","totalAmount":100}`)
	f.Add(`{"errCode":"SUCCESS","refundOrderId":"R1","refundStatus":"FAIL","refundAmount":30}`)
	f.Add(`{"errCode":"SUCCESS","billNo":"B1","billDate":"2026-11-29","billStatus":"PAID","billPayment":{"a":"b"},"refundBillPayment":"{}"}`)
	f.Add(`{"errCode":"NO_ORDER"}`)
	f.Fuzz(func(t *testing.T, answer string) {
		order, refund, bare, billRefund, bill := readOrders()
		for _, asked := range []struct {
			order *watch.Order
			call  *watch.Track
		}{{order, nil}, {order, refund}, {order, bare}, {bill, nil}, {bill, billRefund}} {
			testWatching.Answered(watch.Call{Kind: watch.KindRefund, Number: "R1"}, "other", []byte(answer))
			for _, query := range testWatching.Ask(asked.order, asked.call) {
				found, err := testWatching.Read(asked.order, asked.call, query, []byte(answer))
				if err != nil || found.Event == nil {
					continue
				}
				content := found.Event.Content.(*watched.Content)
				var data map[string]any
				if err := json.Unmarshal([]byte(content.Data), &data); err != nil {
					t.Fatalf("%v: %s", err, content.Data)
				}
				if asked.order == order && data["merOrderId"] != "O1" {
					t.Errorf("told of %v", data["merOrderId"])
				}
				if len(found.Event.ID) != 32 || content.Context.ID != found.Event.ID {
					t.Errorf("id %q, %q", found.Event.ID, content.Context.ID)
				}
			}
		}
	})
}

// TestWatchNoticed: what a notify tells the watch. A refund's totalAmount is the payment's, and was held against what was ordered; a
// guarantee's end, and the number of a bill's payment, were not told at all.
func TestWatchNoticed(t *testing.T) {
	for _, test := range []struct {
		event string
		said  claim
		order string
		want  watch.Finding
	}{
		{"payment.succeeded", claim{"merOrderId": "O", "mid": "M", "status": "TRADE_SUCCESS", "totalAmount": "100"}, "O",
			watch.Finding{Word: "TRADE_SUCCESS", Order: watch.IsPaid, Amount: 100, Mid: "M"}},
		{"payment.succeeded", claim{"merOrderId": "O", "mid": "M", "status": "TRADE_SUCCESS", "totalAmount": "1e2"}, "O",
			watch.Finding{Word: "TRADE_SUCCESS", Order: watch.IsPaid, Mid: "M"}},
		{"refund.succeeded", claim{"merOrderId": "O", "mid": "M", "status": "TRADE_REFUND", "refundStatus": "SUCCESS", "refundOrderId": "R", "refundAmount": "30", "totalAmount": "100"}, "O",
			watch.Finding{Word: "SUCCESS", Number: "R", Call: watch.HasSucceeded, CallAmount: 30, Mid: "M"}},
		// One without a number names its amount all the same, and the guard counts it.
		{"refund.succeeded", claim{"merOrderId": "O", "mid": "M", "status": "TRADE_REFUND", "refundPayTime": "x", "refundAmount": "30", "totalAmount": "100"}, "O",
			watch.Finding{Word: "SUCCESS", Order: watch.IsPartRefunded, Refunded: 30, Mid: "M"}},
		{"refund.succeeded", claim{"merOrderId": "O", "mid": "M", "status": "TRADE_REFUND", "refundStatus": "SUCCESS", "refundAmount": "100", "totalAmount": "100"}, "O",
			watch.Finding{Word: "SUCCESS", Order: watch.IsRefunded, Refunded: 100, Mid: "M"}},
		{"guarantee.uncompleted", claim{"merOrderId": "O", "mid": "M", "status": "TRADE_SUCCESS", "secureStatus": "UNCOMPLETED", "totalAmount": "100"}, "O",
			watch.Finding{Word: "UNCOMPLETED", Order: watch.IsPaid, Amount: 100, Mid: "M"}},
		{"guarantee.partly_completed", claim{"merOrderId": "O", "mid": "M", "status": "TRADE_SUCCESS", "secureStatus": "PARTLY_COMPLETED", "completeAmount": "60", "totalAmount": "100"}, "O",
			watch.Finding{Word: "PARTLY_COMPLETED", Order: watch.IsPaid, Amount: 100, Mid: "M", Kind: watch.KindCapture, Number: "secure-complete", Call: watch.HasSucceeded, CallAmount: 60}},
		{"guarantee.canceled", claim{"merOrderId": "O", "mid": "M", "status": "TRADE_CLOSED", "payTime": "x", "secureStatus": "CANCELED", "totalAmount": "100"}, "O",
			watch.Finding{Word: "CANCELED", Order: watch.IsRefunded, Amount: 100, Mid: "M", Kind: watch.KindRefund, Number: "secure-cancel", Call: watch.HasSucceeded}},
		{"bill.paid", claim{"billNo": "B", "billDate": "2026-11-30", "mid": "M", "billStatus": "PAID", "totalAmount": "100", "billPayment": `{"merOrderId":"B0"}`}, "B@2026-11-30",
			watch.Finding{Word: "PAID", Order: watch.IsPaid, Amount: 100, Mid: "M", Bill: true, Also: "B0"}},
		{"bill.paid", claim{"billNo": "B", "billStatus": "PAID"}, "", watch.Finding{Word: "PAID", Order: watch.IsPaid, Bill: true}},
	} {
		if order, f := noticed(test.said, "com.chinaums."+test.event); order != test.order || !reflect.DeepEqual(f, test.want) {
			t.Errorf("%s %v: %q %+v, want %q %+v", test.event, test.said, order, f, test.order, test.want)
		}
	}
}

// TestWatchEnds: of the two ends of money that is held, one has not come about if the other has, whatever an answer leaves out.
func TestWatchEnds(t *testing.T) {
	order, _, _, _, _ := readOrders()
	order.Fields["secureTransaction"] = "true"
	capture := &watch.Track{Kind: watch.KindCapture, Number: "secure-complete", State: watch.Unresolved}
	back := &watch.Track{Kind: watch.KindRefund, Number: "secure-cancel", Whole: true, State: watch.Unresolved}
	order.Calls = []*watch.Track{capture, back}
	read := func(call *watch.Track) watch.Fact {
		f, err := testWatching.Read(order, call, testWatching.Ask(order, call)[0], []byte(`{"errCode":"SUCCESS","merOrderId":"O1","status":"TRADE_SUCCESS","totalAmount":100}`))
		if err != nil || f.Event != nil {
			t.Fatalf("%v, %+v", err, f.Event)
		}
		return f.Call
	}
	if a, b := read(capture), read(back); a != watch.IsPending || b != watch.IsPending {
		t.Errorf("%q, %q", a, b)
	}
	capture.State = watch.Succeeded
	if is := read(back); is != watch.HasFailed {
		t.Errorf("the cancellation: %q", is)
	}
	capture.State, back.State = watch.Unresolved, watch.Succeeded
	if is := read(capture); is != watch.HasFailed {
		t.Errorf("the completion: %q", is)
	}
}

// TestWatchCompleted: a query finds a completion whose own answer was lost. Asked for the order, as something else of it was still to be
// told, it named no amount: the event had another id than the notify's, and the app was told twice.
func TestWatchCompleted(t *testing.T) {
	order, _, _, _, _ := readOrders()
	order.Fields["secureTransaction"] = "true"
	capture := &watch.Track{Kind: watch.KindCapture, Number: "secure-complete", Amount: 60, State: watch.Unresolved}
	order.Calls = []*watch.Track{capture}
	id := sha256Lines("v1\n/chinaums/shop\ncom.chinaums.guarantee.partly_completed\nmid=M\nmerOrderId=O1\nsecureStatus=PARTLY_COMPLETED\ncompleteAmount=60\n")
	answer := []byte(`{"errCode":"SUCCESS","merOrderId":"O1","status":"TRADE_SUCCESS","totalAmount":100,"secureStatus":"PARTLY_COMPLETED"}`)
	for name, call := range map[string]*watch.Track{"the order": nil, "the completion": capture} {
		f, err := testWatching.Read(order, call, testWatching.Ask(order, call)[0], answer)
		if err != nil || f.Event == nil || f.Event.ID != id {
			t.Errorf("%s: %v, %+v", name, err, f.Event)
		}
	}
}

// TestWatchNotFound: the event about a refund that the platform does not know.
func TestWatchNotFound(t *testing.T) {
	order, refund, bare, _, _ := readOrders()
	e := testWatching.NotFound(order, refund)
	id := sha256Lines("v1\n/chinaums/shop\ncom.chinaums.refund.not_found\nmid=M\nmerOrderId=O1\nrefundOrderId=R1\n")
	if e == nil || e.ID != id || e.Type != "com.chinaums.refund.not_found" {
		t.Fatalf("%+v", e)
	}
	if data := e.Content.(*watched.Content).Data; !strings.Contains(data, `"refundOrderId":"R1"`) || !strings.Contains(data, `"refundAmount":30`) {
		t.Error(data)
	}
	// The second time it had the same id, so that nobody was told.
	again := *refund
	again.First, again.Sent = 1796000000000, 1796000600000
	id = sha256Lines("v1\n/chinaums/shop\ncom.chinaums.refund.not_found\nsent=1796000600000\nmid=M\nmerOrderId=O1\nrefundOrderId=R1\n")
	if e := testWatching.NotFound(order, &again); e == nil || e.ID != id || e.Type != "com.chinaums.refund.not_found" {
		t.Errorf("after a repetition: %+v", e)
	}
	if e := testWatching.NotFound(order, bare); e != nil {
		t.Errorf("of a refund that the platform cannot know again: %+v", e)
	}
}

// TestWatchOffCostsNothing: without a watch, a notify costs what its parts do, and a call's guard has nobody to ask.
func TestWatchOffCostsNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector drops what is pooled")
	}
	startNotify(t, "chinaums_notify\n\trespond 200")
	app, err := caddy.ActiveContext().App("chinaums")
	if err != nil {
		t.Fatal(err)
	}
	a := app.(*App)
	if a.watched != nil || a.watched.Calls() != nil {
		t.Fatal("somebody watches")
	}
	n := &Notify{app: a, rules: newRules(nil)}
	m, content, header := a.merchants.All()[0], []byte(signedPayment()), http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
	var kept *inbound.Event
	parts := testutil.Allocations(500, func() {
		fields := acquireFields()
		_ = m.verify(fields, content, header)
		source := m.source()
		event := fields.event(n.rules, source)
		kept = &inbound.Event{Context: inbound.Context{ID: event.ID, Source: source}, Data: event.Data, Label: metricType(event.Type), Word: event.word}
		fields.release()
	})
	whole := testutil.Allocations(500, func() { kept, _ = n.verify(m, content, header) })
	if whole > parts || kept == nil || kept.Follow != nil {
		t.Errorf("%v allocations, not %v", whole, parts)
	}
}
