package shouqianba

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-chinaums/caddy-chinaums/internal/inbound"
	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
	"github.com/caddy-chinaums/caddy-chinaums/internal/testutil"
	"github.com/caddy-chinaums/caddy-chinaums/internal/watched"
	"github.com/caddy-chinaums/caddy-chinaums/watch"
)

// TestWatchClassify: what the watch reads out of calls.
func TestWatchClassify(t *testing.T) {
	p := new(watching)
	for _, test := range []struct {
		path, body string
		want       string // kind order number amount whole notify; empty: it is not watched
	}{
		{"/upay/v2/pay", `{"client_sn":"A","total_amount":"100"}`, "order A  100 false "},
		{"/upay/v2/precreate", `{"client_sn":"A","total_amount":100,"notify_url":"https://a.example/x/y?z"}`, "order A  100 false a.example/x/y"},
		{"/upay/v2/refund", `{"client_sn":"A","sn":"7","refund_request_no":"R","refund_amount":"30"}`, "refund A R 30 false "},
		{"/upay/v2/refund", `{"sn":"7","refund_request_no":"R","refund_amount":"30"}`, "refund sn:7 R 30 false "},
		{"/UPAY/v2/Refund/", `{"client_sn":"A","refund_request_no":"R","refund_amount":"30"}`, ""},
		{"/upay/v2/cancel", `{"client_sn":"A","refund_amount":"30"}`, "refund A cancel 0 true "},
		{"/upay/v2/revoke", `{"client_sn":"A"}`, "refund A revoke 0 true "},
		{"/upay/v2/query", `{"client_sn":"A"}`, ""},
		{"/terminal/checkin", `{"client_sn":"A"}`, ""},
		{"/upay/v2/pay", `{"total_amount":"100"}`, ""},
		{"/upay/v2/pay", `{"client_sn":"A"`, ""},
		{"/upay/v2/pay", `{"client_sn":"A","client_sn":"B"}`, ""},
	} {
		got := ""
		if c, ok := p.Classify(test.path, []byte(test.body)); ok {
			got = fmt.Sprint(c.Kind, " ", c.Order, " ", c.Number, " ", c.Amount, " ", c.Whole, " ", c.Notify)
		}
		if got != test.want {
			t.Errorf("%s %s: %q, want %q", test.path, test.body, got, test.want)
		}
	}
}

// TestWatchAnswered: only what the documents call a success, and what they call a failure that started no process, is an end. Any
// other word, known or not, leaves it open.
func TestWatchAnswered(t *testing.T) {
	envelopes := strings.Fields("INVALID_PARAMS INVALID_PARAMETER INVALID_TERMINAL TERMINAL_NOT_EXISTS ILLEGAL_SIGN")
	refusals := strings.Fields(`INVALID_BARCODE EXPIRED_BARCODE BUYER_OVER_DAILY_LIMIT BUYER_OVER_TRANSACTION_LIMIT SELLER_OVER_DAILY_LIMIT
		UPAY_STORE_OVER_DAILY_LIMIT UPAY_TERMINAL_NOT_EXISTS UPAY_TERMINAL_STATUS_ABNORMAL UPAY_REFUND_INVALID_ORDER_STATE
		REFUNDABLE_AMOUNT_NOT_ENOUGH UPAY_CANCEL_INVALID_ORDER_STATE`)
	p := new(watching)
	calls := map[string]watch.Call{
		"order": {Kind: watch.KindOrder}, "refund": {Kind: watch.KindRefund, Number: "R"}, "cancel": {Kind: watch.KindRefund, Number: "cancel", Whole: true},
	}
	facts := func(answer string) string {
		var all []string
		for _, name := range slices.Sorted(maps.Keys(calls)) {
			f := p.Answered(calls[name], "", []byte(answer))
			all = append(all, string(f.Order)+"/"+string(f.Call))
		}
		return strings.Join(all, " ") // cancel, order, refund
	}
	const nothing, refused = "/ / /", "/refused refused/ /refused"
	for _, code := range append(slices.Collect(maps.Keys(platformCodes)), "SOMETHING_NEW", "") {
		for answer, listed := range map[string][]string{
			`{"result_code":"400","error_code":"` + code + `"}`:                                               envelopes,
			`{"result_code":"500","error_code":"` + code + `"}`:                                               nil,
			`{"result_code":"200","biz_response":{"result_code":"FAIL","error_code":"` + code + `"}}`:         refusals,
			`{"result_code":"200","biz_response":{"result_code":"CANCEL_ERROR","error_code":"` + code + `"}}`: nil,
		} {
			want := nothing
			if slices.Contains(listed, code) {
				want = refused
			}
			if got := facts(answer); got != want {
				t.Errorf("%s: %s, want %s", answer, got, want)
			}
		}
		want := nothing
		switch code {
		case "PRECREATE_SUCCESS", "PAY_FAIL":
			want = "/ open/ /"
		case "CANCEL_SUCCESS", "CANCEL_ABORT_SUCCESS":
			want = "/succeeded / /"
		}
		if got := facts(`{"result_code":"200","biz_response":{"result_code":"` + code + `"}}`); got != want {
			t.Errorf("%s: %s, want %s", code, got, want)
		}
	}
	for answer, want := range map[string]string{
		`{"result_code":"PAY_SUCCESS","data":{"order_status":"PAID","total_amount":"5"}}`:                        "/ paid/ /",
		`{"result_code":"PAY_SUCCESS","data":{"order_status":"CREATED"}}`:                                        nothing,
		`{"result_code":"REFUND_SUCCESS","data":{"order_status":"PARTIAL_REFUNDED"}}`:                            "/ / /succeeded",
		`{"result_code":"REFUND_SUCCESS","data":{"order_status":"REFUNDED","refund_request_no":"R"}}`:            "/ / /succeeded",
		`{"result_code":"REFUND_SUCCESS","data":{"order_status":"REFUNDED","refund_request_no":"Q"}}`:            nothing,
		`{"result_code":"REFUND_SUCCESS","data":{"order_status":"REFUND_ERROR"}}`:                                nothing,
		`{"result_code":"CANCEL_SUCCESS","data":{"order_status":"CANCELED"}}`:                                    "closed/succeeded / /",
		`{"result_code":"REFUND_SUCCESS","result_code":"FAIL","data":{"order_status":"REFUNDED"}}`:               nothing,
		`{"result_code":"REFUND_ERROR","error_code":"UNEXPECTED_PROVIDER_ERROR","data":{"order_status":"PAID"}}`: nothing,
	} {
		if got := facts(`{"result_code":"200","biz_response":` + answer + `}`); got != want {
			t.Errorf("%s: %s, want %s", answer, got, want)
		}
	}
	other := watch.Call{Kind: watch.KindRefund, Number: "R", Fields: map[string]string{"client_sn": "1"}}
	for _, answer := range []string{"", "<html>", `{}`, `{"result_code":"200","biz_response":{"result_code":"REFUND_SUCCESS","data":{"client_sn":"2","order_status":"REFUNDED"}}}`} {
		if got := p.Answered(other, "", []byte(answer)); got.Call != watch.Nothing || got.Order != watch.Nothing {
			t.Errorf("%s: %+v", answer, got)
		}
	}
}

// TestWatchRead: what a query's answer means for the order, for a refund of 100 fen and for a cancel, where 300 fen were given back
// before.
func TestWatchRead(t *testing.T) {
	p := new(watching)
	row := func(state watch.State, more ...*watch.Track) *watch.Order {
		o := &watch.Order{Merchant: "till", ID: "A", Seen: true, Calls: []*watch.Track{
			{Kind: watch.KindRefund, Number: "F", Amount: 300, State: watch.Succeeded}, {Kind: watch.KindRefund, Number: "R", Amount: 100, State: watch.Unresolved, Sent: 10},
			{Kind: watch.KindRefund, Number: "cancel", Whole: true, State: watch.Failed},
		}}
		o.State = state
		o.Calls = append(o.Calls, more...)
		return o
	}
	read := func(o *watch.Order, number, data string) string {
		var call *watch.Track
		for _, c := range o.Calls {
			if c.Number == number {
				call = c
			}
		}
		f, err := p.Read(o, call, p.Ask(o, call)[0], []byte(`{"result_code":"200","biz_response":{"result_code":"SUCCESS","data":{`+data+`}}}`))
		if err != nil {
			return err.Error()
		}
		event := ""
		if f.Event != nil {
			event = strings.TrimPrefix(f.Event.Type, "com.shouqianba.")
		}
		return fmt.Sprintf("%s/%s %s", f.Order, f.Call, event)
	}
	data := func(status, net string) string {
		return `"sn":"7","client_sn":"A","status":"SUCCESS","order_status":"` + status + `","total_amount":"1000","net_amount":"` + net + `"`
	}
	sentAt := func(o *watch.Order, at int64) *watch.Order { o.Calls[1].Sent = at; return o }
	begun := func(o *watch.Order, words ...string) *watch.Order {
		for _, word := range words {
			o.Lines = append(o.Lines, watch.Line{At: 20, What: "query", About: "R", Word: word}, watch.Line{At: 20, What: "query", About: "cancel", Word: "CANCEL_" + word})
		}
		return o
	}
	for _, test := range []struct {
		name, about string
		row         *watch.Order
		data, want  string
	}{
		{"created", "", row(watch.Sent), data("CREATED", "1000"), "open/ "},
		{"paid", "", row(watch.Sent), data("PAID", "1000"), "paid/ payment.succeeded"},
		{"paid in part", "", row(watch.Open), data("PARTIAL_REFUNDED", "700"), "part/ payment.succeeded"},
		{"paid back", "", row(watch.Open), data("REFUNDED", "0"), "refunded/ refund.succeeded"},
		{"paid back by what the app has sent", "", func() *watch.Order { o := row(watch.Open); o.Calls[0].Amount = 1000; return o }(), data("REFUNDED", "0"), "refunded/ "},
		{"refunded, before the payment was told", "R", row(watch.Open), data("PARTIAL_REFUNDED", "600"), "/succeeded refund.succeeded"},
		{"nothing to be seen, before the payment was told", "R", row(watch.Open), data("PARTIAL_REFUNDED", "700"), "/absent "},
		{"canceled, and the app knows", "", row(watch.Open), data("PAY_CANCELED", "1000"), "closed/ "},
		{"canceled, and the app cannot know", "", row(watch.Sent), data("PAY_CANCELED", "1000"), "closed/ payment.closed"},
		{"canceled after it was paid", "", row(watch.Paid), data("CANCELED", "0"), "refunded/ payment.closed"},
		{"PAY_ERROR", "", row(watch.Sent), data("PAY_ERROR", "1000"), "/ "},
		{"REFUND_ERROR", "", row(watch.Sent), data("REFUND_ERROR", "1000"), "/ "},
		{"CANCEL_ERROR", "", row(watch.Sent), data("CANCEL_ERROR", "1000"), "/ "},
		{"a new word", "", row(watch.Sent), data("INVALID_STATUS_CODE", "1000"), "/ "},
		{"another order", "", row(watch.Sent), strings.Replace(data("PAID", "1000"), `"A"`, `"B"`, 1), errOther.Error()},
		{"no order", "", row(watch.Sent), `"order_status":"PAID"`, errOther.Error()},
		{"two orders", "", row(watch.Sent), `"client_sn":"B",` + data("PAID", "1000"), errOther.Error()},

		{"refunded", "R", row(watch.PartRefunded), data("PARTIAL_REFUNDED", "600"), "part/succeeded refund.succeeded"},
		{"nothing to be seen", "R", row(watch.PartRefunded), data("PARTIAL_REFUNDED", "700"), "part/absent "},
		{"another amount", "R", row(watch.PartRefunded), data("PARTIAL_REFUNDED", "650"), "part/pending "},
		{"less than before", "R", row(watch.PartRefunded), data("PARTIAL_REFUNDED", "900"), "part/pending "},
		{"all", "R", row(watch.PartRefunded), data("REFUNDED", "0"), "refunded/pending "},
		{"under way", "R", row(watch.PartRefunded), data("REFUND_ERROR", "700"), "/pending "},
		{"a broken amount", "R", row(watch.PartRefunded), data("PARTIAL_REFUNDED", "600.0"), "part/pending "},
		{"more left than was paid", "R", row(watch.PartRefunded), data("PARTIAL_REFUNDED", "1100"), "part/pending "},
		{"named", "R", row(watch.PartRefunded), data("PARTIAL_REFUNDED", "500") + `,"refund_request_no":"R"`, "part/succeeded refund.succeeded"},
		{"named and failed", "R", row(watch.PartRefunded), strings.Replace(data("PARTIAL_REFUNDED", "700"), "SUCCESS", "FAIL_CANCELED", 1) + `,"refund_request_no":"R"`, "part/failed refund.failed"},
		{"begun, and once not seen", "R", begun(row(watch.PartRefunded), "REFUND_ERROR"), data("PARTIAL_REFUNDED", "700"), "part/pending "},
		{"begun, and twice not seen", "R", begun(row(watch.PartRefunded), "REFUND_ERROR", "PARTIAL_REFUNDED"), data("PARTIAL_REFUNDED", "700"), "part/failed refund.failed"},
		{"not seen, and begun", "R", begun(row(watch.PartRefunded), "PARTIAL_REFUNDED", "REFUND_ERROR"), data("PARTIAL_REFUNDED", "700"), "part/pending "},
		{"two at once, one done", "R", row(watch.PartRefunded, &watch.Track{Kind: watch.KindRefund, Number: "Q", Amount: 100, State: watch.Unresolved}), data("PARTIAL_REFUNDED", "600"), "part/pending "},
		{"refunded before it was sent", "R", sentAt(row(watch.PartRefunded), 1796000000000), data("PARTIAL_REFUNDED", "600") + `,"finish_time":"1795999900000"`, "part/pending "},
		{"refunded after it was sent", "R", sentAt(row(watch.PartRefunded), 1796000000000), data("PARTIAL_REFUNDED", "600") + `,"finish_time":"1796000001000"`, "part/succeeded refund.succeeded"},
		// A repetition with its number made it a refund from before it was sent: its end was never known, and each other refund refused.
		{"refunded before it was repeated", "R", func() *watch.Order {
			o := sentAt(row(watch.PartRefunded), 1796000600000)
			o.Calls[1].First = 1796000000000
			return o
		}(), data("PARTIAL_REFUNDED", "600") + `,"finish_time":"1796000001000"`, "part/succeeded refund.succeeded"},
		{"begun, and something else since", "R", begun(row(watch.PartRefunded, &watch.Track{Kind: watch.KindRefund, Number: "Q", Amount: 100, State: watch.Succeeded, Sent: 15}), "REFUND_ERROR", "PARTIAL_REFUNDED"), data("PARTIAL_REFUNDED", "600"), "part/pending "},
		{"an amount that is not known", "R", row(watch.PartRefunded, &watch.Track{Kind: watch.KindRefund, Number: "Q", State: watch.Succeeded}), data("PARTIAL_REFUNDED", "600"), "part/pending "},
		{"nobody here has seen the order", "R", func() *watch.Order { o := row(""); o.Seen = false; return o }(), data("PARTIAL_REFUNDED", "600"), "part/pending "},
		{"refunds made elsewhere", "R", func() *watch.Order { o := row(watch.PartRefunded); o.Refunded = 400; return o }(), data("PARTIAL_REFUNDED", "600"), "part/pending "},

		{"canceled", "cancel", row(watch.Open), data("CANCELED", "0"), "closed/succeeded payment.closed"},
		{"canceled and paid back", "cancel", row(watch.Paid), data("CANCELED", "0"), "refunded/succeeded payment.closed"},
		// By the look at a cancel the order was paid, so that its own looks ended, and nobody was told of the payment.
		{"paid, and not canceled", "cancel", row(watch.Open), data("PAID", "1000"), "/absent "},
		{"paid, and not canceled, of unknown outcome", "cancel", row(watch.Sent), data("PAID", "1000"), "/absent "},
		{"paid after all, and not canceled", "cancel", row(watch.Closed), data("PAID", "1000"), "paid/absent payment.succeeded"},
		{"not canceled", "cancel", row(watch.Paid), data("PAID", "1000"), "paid/absent "},
		{"cancel under way", "cancel", row(watch.Paid), data("CANCEL_ERROR", "1000"), "/pending "},
		{"it failed by itself", "cancel", row(watch.Sent), data("PAY_CANCELED", "1000"), "closed/succeeded payment.closed"},
		{"a paid one cannot have", "cancel", row(watch.Paid), data("PAY_CANCELED", "1000"), "closed/pending "},
	} {
		if got := read(test.row, test.about, test.data); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
	for answer, want := range map[string]string{
		`{"result_code":"200","biz_response":{"result_code":"FAIL","error_code":"UPAY_ORDER_NOT_EXISTS"}}`: "absent",
		`{"result_code":"200","biz_response":{"result_code":"FAIL","error_code":"UPAY_ORDER_NOT_EXIST"}}`:  "absent",
		`{"result_code":"200","biz_response":{"result_code":"FAIL","error_code":"TRADE_NOT_EXIST"}}`:       "error",
		`{"result_code":"400","error_code":"ILLEGAL_SIGN"}`:                                                "error",
		`{"result_code":"200"}`: "error", `{}`: "error", ``: "error", `null`: "error",
	} {
		f, err := p.Read(row(watch.Sent), nil, watch.Query{}, []byte(answer))
		if got := string(f.Order); err == nil && got != want || err != nil && want != "error" {
			t.Errorf("%s: %q, %v", answer, got, err)
		}
	}
}

// TestWatchNotFound: the event that says that the platform does not know a refund an hour after it was sent.
func TestWatchNotFound(t *testing.T) {
	p := new(watching)
	o := &watch.Order{Merchant: "till", ID: "A"}
	e := p.NotFound(o, &watch.Track{Kind: watch.KindRefund, Number: "R", Amount: 5, Fields: map[string]string{"client_sn": "A"}})
	if e == nil || e.Type != "com.shouqianba.refund.not_found" || e.ID != factID("refund.not_found", "client_sn=A", "refund_request_no=R") {
		t.Errorf("%+v", e)
	}
	again := &watch.Track{Kind: watch.KindRefund, Number: "R", Amount: 5, Fields: map[string]string{"client_sn": "A"}, First: 1796000000000, Sent: 1796000600000}
	if e := p.NotFound(o, again); e == nil || e.ID != factID("refund.not_found", "sent=1796000600000", "client_sn=A", "refund_request_no=R") {
		t.Errorf("after a repetition: %+v", e)
	}
	if e := p.NotFound(o, &watch.Track{Kind: watch.KindRefund, Number: "cancel", Whole: true}); e != nil {
		t.Errorf("of a cancel: %+v", e)
	}
}

// TestWatchNumbers: what is known of numbers is bounded, and what was learnt last is known.
func TestWatchNumbers(t *testing.T) {
	var n numbers
	for i := range maxNumbers + 7 {
		n.learn("till", fmt.Sprint(i), "A")
	}
	n.learn("till", "", "A")
	if len(n.known) != 7 || n.known[fmt.Sprint("till/", maxNumbers+6)] != "A" {
		t.Errorf("%d are known", len(n.known))
	}
}

// TestWatchOffCostsNothing: without a watch, a notify costs what its parts do, and a call's guard has nobody to ask.
func TestWatchOffCostsNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector drops what is pooled")
	}
	g := startPlatform(t, sandbox.ShouqianbaOptions{})
	start(t, g.config(t, g.fixed(), "shouqianba_proxy"))
	app, err := caddy.ActiveContext().App("shouqianba")
	if err != nil {
		t.Fatal(err)
	}
	a := app.(*App)
	if a.watched != nil || a.watched.Calls() != nil {
		t.Fatal("somebody watches")
	}
	n := &Notify{app: a, rules: newRules(nil)}
	n.Timeout = caddy.Duration(time.Second)
	content := []byte(`{"client_sn":"A1","sn":"7","order_status":"PAID","status":"SUCCESS","total_amount":"100"}`)
	m, header := a.terminals.All()[0], http.Header{"Authorization": {signed(t, string(content))}}
	var kept *inbound.Event
	parts := testutil.Allocations(200, func() {
		_ = verify(m.publicKeys, header.Get("Authorization"), content)
		source := "/shouqianba/" + m.name
		event, _ := readEvent(content, n.rules, source)
		kept = &inbound.Event{Context: inbound.Context{ID: event.ID, Source: source}, Data: event.Data, Label: event.Type, Word: event.word}
	})
	whole := testutil.Allocations(200, func() { kept, _ = n.verify(m, content, header) })
	if whole > parts || kept == nil || kept.Follow != nil {
		t.Errorf("%v allocations, not %v", whole, parts)
	}
}

// FuzzWatchRead: whatever a query answers, nobody is told of another order, what has no end is told to nobody as one, and an event
// is one that a notify could have become.
func FuzzWatchRead(f *testing.F) {
	for _, data := range []string{
		`{"client_sn":"A","order_status":"PAID","total_amount":"1000","net_amount":"1000"}`,
		`{"client_sn":"A","order_status":"PARTIAL_REFUNDED","total_amount":"1000","net_amount":"900","refund_request_no":"R","status":"SUCCESS"}`,
		`{"client_sn":"A","order_status":"REFUND_ERROR"}`, `{"client_sn":"A","client_sn":"B"}`, `{"sn":7,"client_sn":"\u0041","goods_details":[{"a":1}]}`, `[]`,
	} {
		f.Add("200", "SUCCESS", data, uint8(0))
		f.Add("200", "FAIL", data, uint8(1))
		f.Add("200", "SUCCESS", data, uint8(130))
	}
	f.Fuzz(func(t *testing.T, result, business, data string, about uint8) {
		quoted := func(s string) string { b, _ := json.Marshal(s); return string(b) }
		answer := []byte(`{"result_code":` + quoted(result) + `,"biz_response":{"result_code":` + quoted(business) + `,"data":` + data + `}}`)
		p := new(watching)
		o := &watch.Order{Merchant: "till", ID: "A", Calls: []*watch.Track{
			{Kind: watch.KindRefund, Number: "R", Amount: 100, State: watch.Unresolved}, {Kind: watch.KindRefund, Number: "cancel", Whole: true, State: watch.Unresolved},
		}}
		o.State = watch.Open
		var call *watch.Track
		if n := int(about) % 3; n > 0 {
			call = o.Calls[n-1]
			if about >= 128 { // it is asked about again
				call.State = watch.Succeeded
				o.State = watch.PartRefunded
				o.Lines = []watch.Line{{What: "query", About: call.Number, Word: "REFUND_ERROR"}, {What: "query", About: call.Number, Word: "PARTIAL_REFUNDED"}}
			}
		}
		_ = p.Answered(watch.Call{Kind: watch.KindRefund, Number: "R", Fields: map[string]string{"client_sn": "A"}}, "", answer)
		found, err := p.Read(o, call, p.Ask(o, call)[0], answer)
		if err != nil || found.Event == nil {
			return
		}
		var body struct {
			Number string `json:"client_sn"`
			Status string `json:"order_status"`
		}
		content := found.Event.Content.(*watched.Content).Data
		if err := json.Unmarshal([]byte(content), &body); err != nil || body.Number != "A" || found.Event.ID == "" {
			t.Errorf("%s became %s, %v", answer, content, err)
		}
		if plainFacts[body.Status] == watch.Nothing || body.Status == "CREATED" {
			t.Errorf("told as an end: %s", content)
		}
		if call != nil && call.State == watch.Succeeded && found.Call == watch.HasFailed {
			t.Errorf("what has succeeded is told as failed: %s", content)
		}
		if call != nil && found.Call != watch.HasSucceeded && found.Call != watch.HasFailed {
			t.Errorf("told of a call without an end: %s", content)
		}
	})
}
