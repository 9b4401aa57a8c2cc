package chinaums

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
)

// The attacks on the platform's signed string: what a buyer can make of the parameters that his return page shows him.

// sortedPairs cuts a signed string at the ampersands between its parameters.
func (fields referenceFields) sortedPairs() referenceFields {
	sorted := slices.DeleteFunc(slices.Clone(fields), func(f referenceField) bool { return f.value == "" })
	slices.SortFunc(sorted, func(a, b referenceField) int { return strings.Compare(a.name, b.name) })
	return sorted
}

// rejectedBy counts by their reasons what the running Caddy has refused.
func rejectedBy(t testing.TB) map[string]float64 {
	t.Helper()
	counts := map[string]float64{}
	for _, metric := range metricFamily(t, "caddy_chinaums_notifies_total") {
		for _, label := range metric.Label {
			if label.GetName() == "reason" && label.GetValue() != "" {
				counts[label.GetValue()] += metric.Counter.GetValue()
			}
		}
	}
	return counts
}

// wantRefusal sends a notify that is to be refused, and checks for what reason it was.
func wantRefusal(t testing.TB, url, body string, status int, reason string) {
	t.Helper()
	before := rejectedBy(t)
	wantWord(t, postNotify(t, url, body), status)
	for got, count := range rejectedBy(t) {
		if count != before[got] && got != reason {
			t.Errorf("refused as %s, want %s", got, reason)
		}
	}
	if rejectedBy(t)[reason] != before[reason]+1 {
		t.Errorf("not refused as %s", reason)
	}
}

// TestOneNotifyOneID: a parameter that decides may swallow its neighbor, and the signed string is the same. One
// signature gave an id for each way to do so, and the app took one payment for many.
func TestOneNotifyOneID(t *testing.T) {
	deciding := strings.Fields(decidingByContract)
	for name, change := range map[string][]referenceField{
		"with a notifyId": {{"notifyId", "n1"}},
		"without":         {{"notifyId", ""}},
	} {
		t.Run(name, func(t *testing.T) {
			app := newMerchantApp(t, nil)
			address, _ := startNotify(t, "chinaums_notify\n\treverse_proxy "+app.URL)
			fields := changed(paymentForm(), change...).sortedPairs()
			sign := "&sign=" + referenceDigest(fields.stringToSign(), testNotifyKey, digestSHA256)
			wantWord(t, postNotify(t, address, fields.form()+sign), 200)
			want := app.one(t).header.Get("Ce-Id")
			ids := map[string]bool{want: true}
			for i := range len(fields) - 1 {
				joined := slices.Concat(fields[:i], referenceFields{{fields[i].name, fields[i].value + "&" + fields[i+1].name + "=" + fields[i+1].value}}, fields[i+2:])
				if joined.stringToSign() != fields.stringToSign() {
					t.Fatal("not the same string")
				}
				hurts := slices.Contains(deciding, fields[i].name) || slices.Contains(deciding, fields[i+1].name)
				a := postNotify(t, address, joined.form()+sign)
				if hurts {
					for _, got := range app.seen() {
						ids[got.header.Get("Ce-Id")] = true
					}
					if a.status != 403 {
						t.Errorf("%s has swallowed %s: %d %s", fields[i].name, fields[i+1].name, a.status, a.body)
					}
					continue
				}
				wantWord(t, a, 200)
				ids[app.one(t).header.Get("Ce-Id")] = true
			}
			if len(ids) != 1 {
				t.Errorf("one payment has %d ids: %v", len(ids), ids)
			}
		})
	}
}

// decidingByContract are the names that decide, copied from the contract.
const decidingByContract = `merOrderId mid instMid notifyId status totalAmount buyerPayAmount payTime createTime refundStatus refundAmount
	refundOrderId refundExtOrderId refundTargetOrderId refundPayTime billNo billDate billStatus billPayment secureStatus completeAmount
	contractId seqId targetOrderId sign signType`

// TestReturnPageAsNotify: the buyer's own return page, sent to the notify path, is the event that the platform's notify
// is: it had an id of its own where the two have no notifyId in common.
func TestReturnPageAsNotify(t *testing.T) {
	platform, platformURL := startSandbox(t, sandbox.Options{Manual: true})
	keys := platform.Options()
	app, address := newMerchantApp(t, nil), freeAddress(t)
	startCaddy(t, merchantOptions(platformURL)+notifySite(address, "chinaums_proxy /v1/netpay/*\n\tchinaums_return /paid\n\tchinaums_notify /notify\n\treverse_proxy "+app.URL+" {\n\t\theader_up X-Event {http.chinaums.event_id}\n\t}"))
	order := keys.SourceCode + "2026112400001"
	content, _ := json.Marshal(map[string]any{
		"requestTimestamp": time.Now().In(beijing).Format(time.DateTime), "mid": keys.MID, "tid": keys.TID, "instMid": "APPDEFAULT", "merOrderId": order,
		"totalAmount": 1000, "notifyUrl": "http://" + address + "/notify", "returnUrl": "http://" + address + "/paid", "orderDesc": "一杯茶",
	})
	if a := do(t, newRequest(t, "POST", "http://"+address+"/v1/netpay/trade/precreate", string(content), "Content-Type: application/json")); !strings.Contains(a.body, `"SUCCESS"`) {
		t.Fatalf("ordering: %+v", a)
	}
	if err := platform.Pay(order); err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{}
	for _, variant := range []sandbox.Variant{sandbox.Genuine, sandbox.Genuine, sandbox.JSON, sandbox.GBK, sandbox.Late} {
		if _, err := platform.Notify(t.Context(), order, sandbox.KindPayment, variant); err != nil {
			t.Fatal(err)
		}
		ids[app.one(t).header.Get("Ce-Id")] = true
	}
	page, err := platform.ReturnURL(order)
	if err != nil {
		t.Fatal(err)
	}
	target, err := url.Parse(page)
	if err != nil {
		t.Fatal(err)
	}
	if a := do(t, newRequest(t, "GET", page, "")); a.status != 200 {
		t.Fatalf("the return page: %+v", a)
	}
	ids[app.one(t).header.Get("X-Event")] = true
	wantWord(t, postNotify(t, "http://"+address+"/notify", target.RawQuery), 200)
	ids[app.one(t).header.Get("Ce-Id")] = true
	want := referenceEventID("/chinaums/shop", "payment.succeeded", referenceFields{{"mid", keys.MID}, {"merOrderId", order}, {"status", "TRADE_SUCCESS"}, {"totalAmount", "1000"}}.get)
	if len(ids) != 1 || !ids[want] {
		t.Errorf("ids: %v, want %s", ids, want)
	}
}

// splitForgeries are signed strings of orders that were never paid, cut so that they say something else. None of them
// holds a deciding pair in a value any more; all were SUCCESS, some with Ce-Confirmed: true.
func splitForgeries() map[string]struct{ signed, sent referenceFields } {
	closed := func(name, text string) referenceFields {
		return referenceFields{
			{"mid", "898"}, {"merOrderId", "327M1"}, {"instMid", "APPDEFAULT"}, {"totalAmount", "100"}, {"status", "TRADE_CLOSED"}, {"notifyId", "n-1"}, {name, text},
		}
	}
	created := func(text string) referenceFields {
		return changed(closed("orderDesc", text), referenceField{"status", "NEW_ORDER"})
	}
	forgeries := map[string]struct{ signed, sent referenceFields }{
		"a bill of a closed order": {closed("attachedData", `note&billNo=B1&billPayment={"payTime":"2026-11-28 10:00:00"}&billStatus=PAID`), nil},
		"a bill's date":            {closed("attachedData", "note&billDate=2026-11-28"), nil},
		"a bill's number":          {closed("attachedData", "note&billNo=B1"), nil},
		"a guarantee completed":    {closed("orderDesc", "tea&secureStatus=ALL_COMPLETED"), nil},
		"a guarantee in part":      {closed("orderDesc", "tea&secureStatus=PARTLY_COMPLETED"), nil},
		"a guarantee, new order":   {created("tea&secureStatus=ALL_COMPLETED"), nil},
		"a refund of nothing":      {created("tea&refundOrderId=R1&refundStatus=SUCCESS"), nil},
		"a refund by its time":     {created("tea&refundPayTime=2026-11-28 10:00:00"), nil},
		"a refund by its amount":   {created("tea&refundAmount=100"), nil},
		"a bill, capital letters":  {closed("attachedData", "note&billNO=B1&billSTATUS=PAID"), nil},
		"a bill, underscores":      {closed("attachedData", "note&bill_no=B1&bill_status=PAID"), nil},
		"a guarantee, a hyphen":    {closed("orderDesc", "tea&secure-Status=ALL_COMPLETED"), nil},
		// It was SUCCESS, and com.chinaums.guarantee.all_completed: the type is in small letters, whatever the word's are.
		"a guarantee, small letters": {closed("orderDesc", "tea&secureStatus=all_completed"), nil},
	}
	for name, f := range forgeries {
		for _, field := range f.signed {
			value, rest, _ := strings.Cut(field.value, "&")
			f.sent = append(f.sent, referenceField{field.name, value})
			for pair := range strings.SplitSeq(rest, "&") {
				if pairName, pairValue, ok := strings.Cut(pair, "="); ok {
					f.sent = append(f.sent, referenceField{pairName, pairValue})
				}
			}
		}
		forgeries[name] = f
	}
	return forgeries
}

// TestSplitForgery: unsplit, such a notify is ambiguous; split, it is mixed.
func TestSplitForgery(t *testing.T) {
	app := newMerchantApp(t, nil)
	address, _ := startNotify(t, "chinaums_return /paid\n\tchinaums_notify\n\treverse_proxy "+app.URL)
	for name, forgery := range splitForgeries() {
		t.Run(name, func(t *testing.T) {
			// Only where the cut leaves the pairs in order is the signed string the same.
			sign := "&sign=" + referenceDigest(forgery.signed.stringToSign(), testNotifyKey, digestSHA256)
			if forgery.sent.stringToSign() != forgery.signed.stringToSign() {
				t.Fatalf("not the same string:\n%s\n%s", forgery.sent.stringToSign(), forgery.signed.stringToSign())
			}
			wantRefusal(t, address, forgery.signed.form()+sign, 403, "ambiguous")
			wantRefusal(t, address, forgery.sent.form()+sign, 403, "mixed")
			if a := do(t, newRequest(t, "GET", strings.Replace(address, "/notify", "/paid", 1)+"?"+forgery.sent.form()+sign, "")); a.status != 403 {
				t.Errorf("as a return page: %d", a.status)
			}
			if seen := app.seen(); len(seen) != 0 {
				t.Errorf("the app saw %+v", seen)
			}
		})
	}
}

// TestSplitForgeryConfirmed: the platform's answer knows no bill and no secureStatus of this order.
func TestSplitForgeryConfirmed(t *testing.T) {
	platform := newFakePlatform(t)
	platform.answers(func(w http.ResponseWriter, _ *http.Request, asked queried) {
		switch asked.path {
		case pathQuery:
			fmt.Fprintf(w, `{"errCode":"SUCCESS","mid":"898","merOrderId":"%s","status":"TRADE_CLOSED","totalAmount":100}`, asked.body["merOrderId"])
		default:
			fmt.Fprint(w, `{"errCode":"NO_ORDER"}`)
		}
	})
	app := newMerchantApp(t, nil)
	for name, forgery := range splitForgeries() {
		t.Run(name, func(t *testing.T) {
			address, _ := startConfirm(t, platform.URL, app.URL, "")
			a := postNotify(t, address, forgery.sent.signedForm(testNotifyKey, digestSHA256))
			if a.status != 503 && a.status != 409 || a.body != "FAILED" {
				t.Errorf("answer: %d %s", a.status, a.body)
			}
			for _, got := range app.seen() {
				t.Errorf("the app saw %s, Ce-Confirmed: %s", got.header.Get("Ce-Type"), got.header.Get("Ce-Confirmed"))
			}
		})
	}
}

// TestConfirmHiddenWord: a word that was hidden in another value was not there for the query to decide on: a refund
// that had succeeded reached the app as refund.unknown, Ce-Confirmed: true.
func TestConfirmHiddenWord(t *testing.T) {
	platform := newFakePlatform(t)
	answer := `{"errCode":"SUCCESS","mid":"898","merOrderId":"327M1","totalAmount":100,"refundOrderId":"R1","refundTargetOrderId":"T1","refundStatus":"SUCCESS","refundAmount":40,"status":"TRADE_REFUND"}`
	platform.says(answer)
	app := newMerchantApp(t, nil)
	address, _ := startConfirm(t, platform.URL, app.URL, "")
	refund := referenceFields{
		{"mid", "898"}, {"instMid", "APPDEFAULT"}, {"merOrderId", "327M1"}, {"notifyId", "n-1"}, {"refundAmount", "40"}, {"refundDesc", "x"}, {"refundOrderId", "R1"},
		{"refundPayTime", "2026-11-28 10:00:00"}, {"refundSettleDate", "2026-11-28"}, {"status", "TRADE_REFUND"}, {"totalAmount", "100"},
	}
	for name, hide := range map[string][2]string{
		"refundPayTime, in a text":          {"refundDesc", "refundPayTime"},
		"refundOrderId, in a text":          {"refundDesc", "refundOrderId"},
		"merOrderId, in instMid":            {"instMid", "merOrderId"},
		"nothing that decides, in notifyId": {"notifyId", "other"},
	} {
		t.Run(name, func(t *testing.T) {
			fields := slices.Clone(refund)
			switch hide[1] {
			case "other":
				fields = append(fields, referenceField{"other", "1"})
			case "refundPayTime": // it would stand behind another number
				fields = changed(fields, referenceField{"refundOrderId", ""}, referenceField{"refundTargetOrderId", "T1"})
			}
			sign := "&sign=" + referenceDigest(fields.stringToSign(), testNotifyKey, digestSHA256)
			var cut referenceFields
			for _, f := range fields.sortedPairs() {
				if f.name == hide[1] {
					last := &cut[len(cut)-1]
					if last.name != hide[0] {
						t.Fatalf("%s stands behind %s", f.name, last.name)
					}
					last.value += "&" + f.name + "=" + f.value
					continue
				}
				cut = append(cut, f)
			}
			platform.asked()
			wantRefusal(t, address, cut.form()+sign, 503, "not_comparable")
			if asked := platform.asked(); len(asked) != 0 {
				t.Errorf("asked: %v", asked)
			}
			for _, got := range app.seen() {
				t.Errorf("the app saw %s, Ce-Confirmed: %s", got.header.Get("Ce-Type"), got.header.Get("Ce-Confirmed"))
			}
		})
	}
	// No query can tell how the app reads such names.
	for name, extra := range map[string]referenceField{
		"empty": {"", "1"}, "with &": {"a&b", "1"}, "with =": {"a=b", "1"}, "in GB18030": {"\x81\x30\x97\x37tatus", "TRADE_SUCCESS"}, "folded": {"STATUS", "TRADE_REFUND"},
	} {
		t.Run("name "+name, func(t *testing.T) {
			wantRefusal(t, address, append(slices.Clone(refund), extra).signedForm(testNotifyKey, digestSHA256), 403, "ambiguous")
			if seen := app.seen(); len(seen) != 0 {
				t.Errorf("the app saw %+v", seen)
			}
		})
	}
}

// TestNamesOfOneReading: four bytes of GB18030 are an ſ, and `ſtatus` is `status` to Go's encoding/json: a closed order
// was read as paid. fastjson, which many a merchant's Java has, takes `sta_tus` and `sta-tus` for it too.
func TestNamesOfOneReading(t *testing.T) {
	app := newMerchantApp(t, nil)
	address, _ := startNotify(t, "chinaums_notify\n\treverse_proxy "+app.URL)
	closed := referenceFields{{"mid", "1"}, {"merOrderId", "42"}, {"status", "TRADE_CLOSED"}, {"totalAmount", "1"}, {"bank", "1"}, {"größe", "1"}}
	for name, test := range map[string]struct {
		extra referenceFields
		taken bool
	}{
		"ſ in GB18030":              {referenceFields{{"\x81\x30\x97\x37tatus", "TRADE_SUCCESS"}}, false},
		"ſ":                         {referenceFields{{"ſtatus", "TRADE_SUCCESS"}}, false},
		"Kelvin":                    {referenceFields{{"banK", "2"}}, false},
		"a name that decides not":   {referenceFields{{"BANK", "2"}}, false},
		"two more":                  {referenceFields{{"zz", "1"}, {"zZ", "2"}}, false},
		"Ö":                         {referenceFields{{"GRÖßE", "1"}}, false},
		"ẞ is ß":                    {referenceFields{{"größe1", "1"}, {"größe2", "1"}, {"groẞ", "1"}, {"groß", "2"}}, false},
		"Σ, σ and ς":                {referenceFields{{"σ", "1"}, {"ς", "1"}}, false},
		"a byte that is no UTF-8":   {referenceFields{{"a\xff", "1"}}, false},
		"GBK":                       {referenceFields{{"\xc6\xbb\xb9\xfb", "1"}}, false},
		"UTF-8 that is overlong":    {referenceFields{{"\xc0\xaf", "1"}}, false},
		"_, as fastjson reads it":   {referenceFields{{"sta_tus", "TRADE_SUCCESS"}}, false},
		"-, as fastjson reads it":   {referenceFields{{"-Total-amount_", "99900"}}, false},
		"two that fastjson takes":   {referenceFields{{"bill_no", "1"}, {"BillNo", "2"}}, false},
		"_ and -, not deciding":     {referenceFields{{"ba_nk", "2"}, {"b-ank", "3"}, {"_", "4"}, {"-", "5"}}, true},
		"ss is not ß":               {referenceFields{{"grösse", "1"}}, true},
		"Chinese":                   {referenceFields{{"苹果", "1"}, {"蘋果", "1"}}, true},
		"a respelling, all alone":   {referenceFields{{"MchntUuid", "1"}}, true},
		"U+FFFD itself":             {referenceFields{{"\ufffd", "1"}}, true},
		"an empty one is not there": {referenceFields{{"STATUS", ""}, {"\xff", ""}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			form := slices.Concat(closed, test.extra).signedForm(testNotifyKey, digestSHA256)
			if test.taken {
				wantWord(t, postNotify(t, address, form), 200)
				app.one(t)
				return
			}
			wantRefusal(t, address, form, 403, "ambiguous")
		})
	}
}

// TestSenderChoosesNoTypes: a form, sent once more as JSON with a number in it, verified, and the app got
// "merOrderId":10172026112900001 as a number, which JavaScript reads as another order's.
func TestSenderChoosesNoTypes(t *testing.T) {
	app := newMerchantApp(t, nil)
	address, _ := startNotify(t, "chinaums_notify {\n\t\tjson attachedData\n\t}\n\treverse_proxy "+app.URL)
	fields := referenceFields{
		{"mid", "898201612345678"}, {"merOrderId", "10172026112900001"}, {"status", "TRADE_SUCCESS"}, {"totalAmount", "100"}, {"couponAmount", "0"},
		{"buyerPayAmount", "1e2"}, {"invoiceAmount", "1.5"}, {"receiptAmount", "-1"}, {"bigAmount", "1000000000000000"}, {"yourContribute", "999999999999999"},
		{"flag", "true"}, {"payTime", "20261128100000"}, {"attachedData", "12"}, {"goods", "1"}, {"billDesc", "false"}, {"zeroAmount", "-0"},
	}
	sign := referenceDigest(fields.stringToSign(), testNotifyKey, digestSHA256)
	wantWord(t, postNotify(t, address, fields.form()+"&sign="+sign), 200)
	form := app.one(t)
	want := `{"mid":"898201612345678","merOrderId":"10172026112900001","status":"TRADE_SUCCESS","totalAmount":100,"couponAmount":0,"buyerPayAmount":"1e2",` +
		`"invoiceAmount":"1.5","receiptAmount":"-1","bigAmount":"1000000000000000","yourContribute":999999999999999,"flag":"true","payTime":"20261128100000",` +
		`"attachedData":"12","goods":"1","billDesc":"false","zeroAmount":"-0"}`
	if form.body != want {
		t.Errorf("the form became\n%s\nwant\n%s", form.body, want)
	}
	for name, quoted := range map[string]func(string) bool{
		"all text":                           func(string) bool { return true },
		"all that may be a number is one":    func(value string) bool { return !json.Valid([]byte(value)) },
		"every other":                        func(value string) bool { return !json.Valid([]byte(value)) || len(value)%2 == 0 },
		"amounts only, as the platform does": func(value string) bool { return value != "100" && value != "0" },
	} {
		t.Run(name, func(t *testing.T) {
			var members []string
			for _, f := range fields {
				value := f.value
				if quoted(value) {
					value = `"` + value + `"`
				}
				members = append(members, `"`+f.name+`":`+value)
			}
			wantWord(t, postNotify(t, address, "{"+strings.Join(members, ", ")+`,"none":null,"empty":"","sign":"`+sign+`"}`), 200)
			got := app.one(t)
			if got.body != form.body {
				t.Errorf("the app got\n%s\nfrom the form\n%s", got.body, form.body)
			}
			if got.header.Get("Ce-Id") != form.header.Get("Ce-Id") || got.header.Get("Ce-Subject") != "10172026112900001" {
				t.Errorf("header: %v", got.header)
			}
		})
	}
	// What the platform has signed as one text keeps its own literals.
	nested := referenceFields{{"billNo", "B1"}, {"billStatus", "PAID"}, {"billPayment", `{"totalAmount":1.50,"merOrderId":12,"x":true}`}}
	wantWord(t, postNotify(t, address, nested.signedForm(testNotifyKey, digestSHA256)), 200)
	if got := app.one(t).body; !strings.Contains(got, `"billPayment":{"totalAmount":1.50,"merOrderId":12,"x":true}`) {
		t.Errorf("the app got %s", got)
	}
}

// sha256Lines is the beginning of SHA-256 over lines, as Ce-Id has it.
func sha256Lines(lines string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(lines)))[:32] }

// TestEventID computes ids by hand from the contract's table.
func TestEventID(t *testing.T) {
	for name, test := range map[string]struct {
		fields referenceFields
		want   string // behind v1 and the source
	}{
		"payment": {referenceFields{{"notifyId", "n"}, {"rnd", "x"}, {"totalAmount", "1"}, {"status", "TRADE_SUCCESS"}, {"merOrderId", "42"}, {"mid", "898"}, {"instMid", "A"}, {"seqId", "7"}},
			"com.chinaums.payment.succeeded\nmid=898\nmerOrderId=42\nstatus=TRADE_SUCCESS\ntotalAmount=1\n"},
		"SUCCESS":       {referenceFields{{"merOrderId", "42"}, {"status", "SUCCESS"}}, "com.chinaums.payment.succeeded\nmerOrderId=42\nstatus=TRADE_SUCCESS\n"},
		"success":       {referenceFields{{"merOrderId", "42"}, {"status", "success"}}, "com.chinaums.payment.succeeded\nmerOrderId=42\nstatus=TRADE_SUCCESS\n"},
		"closed":        {referenceFields{{"merOrderId", "42"}, {"status", "TRADE_CLOSED"}, {"totalAmount", "01"}}, "com.chinaums.payment.closed\nmerOrderId=42\nstatus=TRADE_CLOSED\ntotalAmount=01\n"},
		"in UTF-8":      {referenceFields{{"merOrderId", "\xc4\xe3"}}, "com.chinaums.payment.unknown\nmerOrderId=你\n"},
		"nothing known": {referenceFields{{"a", "1"}}, "com.chinaums.payment.unknown\n"},
		"deduction": {referenceFields{{"contractId", "C"}, {"mid", "1"}, {"merOrderId", "42"}, {"status", "success"}, {"totalAmount", "1"}},
			"com.chinaums.deduction.succeeded\nmid=1\nmerOrderId=42\nstatus=TRADE_SUCCESS\ntotalAmount=1\n"},
		"guarantee": {referenceFields{{"mid", "1"}, {"merOrderId", "42"}, {"status", "TRADE_SUCCESS"}, {"totalAmount", "9"}, {"secureStatus", "PARTLY_COMPLETED"}, {"completeAmount", "4"}, {"contractId", "C"}},
			"com.chinaums.guarantee.partly_completed\nmid=1\nmerOrderId=42\nsecureStatus=PARTLY_COMPLETED\ncompleteAmount=4\n"},
		"refund": {referenceFields{{"mid", "1"}, {"merOrderId", "42"}, {"status", "TRADE_REFUND"}, {"refundStatus", "SUCCESS"}, {"refundExtOrderId", "E"}, {"refundTargetOrderId", "T"}, {"refundOrderId", "R"}, {"refundAmount", "3"}, {"refundPayTime", "x"}, {"notifyId", "n"}},
			"com.chinaums.refund.succeeded\nmid=1\nmerOrderId=42\nrefundStatus=SUCCESS\nrefundOrderId=R\n"},
		"refund, target":   {referenceFields{{"merOrderId", "42"}, {"refundTargetOrderId", "T"}, {"refundExtOrderId", "E"}, {"notifyId", "n"}}, "com.chinaums.refund.unknown\nmerOrderId=42\nrefundTargetOrderId=T\n"},
		"refund, external": {referenceFields{{"merOrderId", "42"}, {"status", "TRADE_REFUND"}, {"refundExtOrderId", "E"}, {"notifyId", "n"}}, "com.chinaums.refund.unknown\nmerOrderId=42\nrefundExtOrderId=E\n"},
		"refund, no number": {referenceFields{{"merOrderId", "42"}, {"status", "TRADE_REFUND"}, {"refundAmount", "3"}, {"refundPayTime", "2026-11-28 10:00:00"}, {"notifyId", "n"}},
			"com.chinaums.refund.succeeded\nmerOrderId=42\nrefundAmount=3\nrefundPayTime=2026-11-28 10:00:00\nnotifyId=n\n"},
		"bill": {referenceFields{{"mid", "1"}, {"billNo", "B"}, {"billDate", "2026-11-28"}, {"billStatus", "PAID"}, {"totalAmount", "1"}, {"notifyId", "n"}, {"refundAmount", "0"}},
			"com.chinaums.bill.paid\nmid=1\nbillNo=B\nbillDate=2026-11-28\nbillStatus=PAID\n"},
		"bill of a new word": {referenceFields{{"billNo", "B"}, {"billStatus", "Half-Paid"}}, "com.chinaums.bill.half-paid\nbillNo=B\nbillStatus=Half-Paid\n"},
		"bill, refund": {referenceFields{{"mid", "1"}, {"billNo", "B"}, {"billDate", "2026-11-28"}, {"billStatus", "REFUND"}, {"refundStatus", "SUCCESS"}, {"refundOrderId", "R"}, {"refundAmount", "1"}},
			"com.chinaums.bill.refund\nmid=1\nbillNo=B\nbillDate=2026-11-28\nbillStatus=REFUND\nrefundStatus=SUCCESS\nrefundOrderId=R\n"},
		"bill, refund without a number": {referenceFields{{"billNo", "B"}, {"billStatus", "REFUND"}, {"refundAmount", "1"}, {"refundPayTime", "x"}, {"notifyId", "n"}},
			"com.chinaums.bill.refund\nbillNo=B\nbillStatus=REFUND\nrefundAmount=1\nrefundPayTime=x\nnotifyId=n\n"},
		// Nothing else would tell two of them apart.
		"bill, refund by its status alone": {referenceFields{{"billNo", "B"}, {"billStatus", "REFUND"}, {"notifyId", "n"}}, "com.chinaums.bill.refund\nbillNo=B\nbillStatus=REFUND\nnotifyId=n\n"},
	} {
		t.Run(name, func(t *testing.T) {
			event := testFields(t, test.fields.form()).event(nil, "/chinaums/a-shop")
			if want := sha256Lines("v1\n/chinaums/a-shop\n" + test.want); event.ID != want {
				t.Errorf("id %s, want %s", event.ID, want)
			}
			if other := testFields(t, test.fields.form()).event(nil, "/chinaums/another"); other.ID == event.ID {
				t.Error("another merchant's event has the same id")
			}
			kind := strings.TrimPrefix(strings.SplitN(test.want, "\n", 2)[0], "com.chinaums.")
			if got := referenceEventID("/chinaums/a-shop", kind, func(name string) string { return referenceUTF8(test.fields.get(name)) }); got != event.ID {
				t.Errorf("the second implementation says %s", got)
			}
		})
	}
}

// TestFold: two letters have one fold if strings.EqualFold says that they are one, and only then.
func TestFold(t *testing.T) {
	f := new(notifyFields)
	firsts := make(map[string]string)
	for r := rune(1); r <= unicode.MaxRune; r++ {
		if !utf8.ValidRune(r) || r == '&' || r == '=' {
			continue
		}
		letter := string(r)
		fold := string(f.fold([]byte(letter)))
		if unicode.SimpleFold(r) == r {
			if fold != letter {
				t.Errorf("%q has another's fold, %q", letter, fold)
			}
			continue
		}
		first, ok := firsts[fold]
		if !ok {
			firsts[fold] = letter
		} else if !strings.EqualFold(first, letter) {
			t.Errorf("%q and %q have one fold", first, letter)
		}
		if other := string(unicode.SimpleFold(r)); string(f.fold([]byte(other))) != fold {
			t.Errorf("%q and %q are one, but have two folds", letter, other)
		}
	}
}
