package chinaums

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/text/encoding/simplifiedchinese"
	"golang.org/x/text/transform"
)

// A second normalizer, over trees made by encoding/json

type (
	referenceMember struct {
		name  string
		value any
	}
	referenceObject []referenceMember
)

// readTree reads valid JSON into objects whose members keep their order and may repeat.
func readTree(decoder *json.Decoder) any {
	token, err := decoder.Token()
	if err != nil {
		panic(err)
	}
	switch token {
	case json.Delim('{'):
		object := referenceObject{}
		for decoder.More() {
			name := readTree(decoder).(string)
			object = append(object, referenceMember{name, readTree(decoder)})
		}
		if _, err := decoder.Token(); err != nil {
			panic(err)
		}
		return object
	case json.Delim('['):
		array := []any{}
		for decoder.More() {
			array = append(array, readTree(decoder))
		}
		if _, err := decoder.Token(); err != nil {
			panic(err)
		}
		return array
	}
	return token
}

func readTreeText(text string) any {
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	return readTree(decoder)
}

func treeDepth(tree any) int {
	deepest := 0
	switch tree := tree.(type) {
	case referenceObject:
		for _, member := range tree {
			deepest = max(deepest, treeDepth(member.value))
		}
	case []any:
		for _, element := range tree {
			deepest = max(deepest, treeDepth(element))
		}
	default:
		return 0
	}
	return deepest + 1
}

var (
	referenceAmount    = regexp.MustCompile(`^(0|[1-9][0-9]{0,14})$`)
	referenceTimeNames = " payTime createTime refundPayTime contractSignedTime contractExpiredTime "
)

func referenceTime(text string) (string, bool) {
	parsed, err := time.ParseInLocation("2006-01-02 15:04:05", text, time.FixedZone("", 8*3600))
	if err != nil || parsed.Format("2006-01-02 15:04:05") != text { // ParseInLocation also takes a space and one digit
		return "", false
	}
	return parsed.Format(time.RFC3339), true
}

func referenceUTF8(text string) string {
	if utf8.ValidString(text) {
		return text
	}
	converted, _ := io.ReadAll(transform.NewReader(strings.NewReader(text), simplifiedchinese.GB18030.NewDecoder()))
	return string(converted)
}

// normalizeText applies the rules to a field whose value is text. depth is how many levels are above it.
func normalizeText(name, text, jsonNames string, depth int) any {
	switch {
	case strings.HasSuffix(name, "Amount") || strings.HasSuffix(name, "Contribute"):
		if referenceAmount.MatchString(text) {
			return json.Number(text)
		}
	case strings.Contains(referenceTimeNames, " "+name+" ") && name != "":
		if converted, ok := referenceTime(text); ok {
			return converted
		}
	case strings.Contains(jsonNames, " "+name+" ") && name != "":
		if trimmed := strings.TrimLeft(text, " \t\r\n"); trimmed == "" || trimmed[0] != '{' && trimmed[0] != '[' {
			break
		}
		if json.Valid([]byte(text)) {
			if tree := readTreeText(text); treeDepth(tree)+depth <= 32 {
				return normalizeTree(tree, jsonNames, depth)
			}
		}
	}
	return text
}

func normalizeTree(tree any, jsonNames string, depth int) any {
	switch tree := tree.(type) {
	case referenceObject:
		object := referenceObject{}
		for _, member := range tree {
			if text, ok := member.value.(string); !ok {
				member.value = normalizeTree(member.value, jsonNames, depth+1)
			} else if text == "" {
				continue
			} else {
				member.value = normalizeText(member.name, text, jsonNames, depth+1)
			}
			object = append(object, member)
		}
		return object
	case []any:
		array := []any{}
		for _, element := range tree {
			array = append(array, normalizeTree(element, jsonNames, depth+1))
		}
		return array
	}
	return tree
}

const builtInJSONNames = " billPayment goods subOrders refundSubOrders "

// normalizeFields returns the tree that the app is to get.
func normalizeFields(f *notifyFields, jsonNames string) any {
	object := referenceObject{}
	for _, field := range f.fields {
		raw := string(f.name(&field))
		if raw == "sign" {
			continue
		}
		name, text := referenceUTF8(raw), referenceUTF8(string(f.value(&field)))
		object = append(object, referenceMember{name, normalizeText(name, text, jsonNames, 0)})
	}
	return object
}

// checkEvent holds an event against the second implementation and against what is true of every event.
func checkEvent(t *testing.T, f *notifyFields, event notifyEvent, jsonNames string) {
	t.Helper()
	if !json.Valid([]byte(event.Data)) || !utf8.ValidString(event.Data) {
		t.Fatalf("not valid JSON in UTF-8: %q", event.Data)
	}
	if strings.ContainsAny(event.Data, "\u2028\u2029") {
		t.Errorf("a line separator is not escaped: %q", event.Data)
	}
	got := readTreeText(event.Data)
	if want := normalizeFields(f, jsonNames); !reflect.DeepEqual(got, want) {
		t.Fatalf("event\n got %v\nwant %v", got, want)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, []byte(event.Data)); err != nil || compact.String() != event.Data {
		t.Errorf("not compact: %s", event.Data)
	}
	if !strings.HasPrefix(event.Type, "com.chinaums.") || len(event.Type) > 64 {
		t.Errorf("type %q", event.Type)
	}
	if event.ID == "" {
		t.Error("no id")
	}
	if event.Time != "" {
		if _, err := time.Parse(time.RFC3339, event.Time); err != nil {
			t.Errorf("time: %v", err)
		}
	}
	for _, attribute := range []string{event.ID, event.Subject, event.MerOrderID, event.TotalAmount, event.Status} {
		if !utf8.ValidString(attribute) {
			t.Errorf("attribute %q is not UTF-8", attribute)
		}
	}
}

func TestEventData(t *testing.T) {
	deep := func(levels int) string { return strings.Repeat("[", levels) + strings.Repeat("]", levels) }
	object := func(pairs ...string) string {
		fields := map[string]string{}
		for i := 0; i < len(pairs); i += 2 {
			fields[pairs[i]] = pairs[i+1]
		}
		raw, err := json.Marshal(fields)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	field := func(name, value string) string { return referenceFields{{name, value}}.form() }

	for name, test := range map[string]struct{ body, want string }{
		"order of arrival, no sign": {"b=2&sign=00&a=1", `{"b":"2","a":"1"}`},
		"nothing":                   {"sign=00", `{}`},
		"sign of another case":      {"Sign=00", `{"Sign":"00"}`},
		"signType stays":            {"signType=MD5", `{"signType":"MD5"}`},

		"amount":                           {"totalAmount=99900", `{"totalAmount":99900}`},
		"amount, zero":                     {"couponAmount=0", `{"couponAmount":0}`},
		"amount, the name alone":           {"Amount=1", `{"Amount":1}`},
		"amount, contribution":             {"couponMerchantContribute=35", `{"couponMerchantContribute":35}`},
		"amount, fifteen digits":           {"aAmount=123456789012345", `{"aAmount":123456789012345}`},
		"amount, sixteen digits":           {"aAmount=1234567890123456", `{"aAmount":"1234567890123456"}`},
		"amount, leading zero":             {"aAmount=01", `{"aAmount":"01"}`},
		"amount, two zeros":                {"aAmount=00", `{"aAmount":"00"}`},
		"amount, sign":                     {"aAmount=-1&bAmount=%2B1", `{"aAmount":"-1","bAmount":"+1"}`},
		"amount, decimal":                  {"aAmount=1.0", `{"aAmount":"1.0"}`},
		"amount, exponent":                 {"aAmount=1e2", `{"aAmount":"1e2"}`},
		"amount, space":                    {"aAmount=1+", `{"aAmount":"1 "}`},
		"amount, wide digits":              {field("aAmount", "１"), `{"aAmount":"１"}`},
		"amount, small letter":             {"totalamount=1", `{"totalamount":"1"}`},
		"amount, plural":                   {"totalAmounts=1", `{"totalAmounts":"1"}`},
		"number that is no amount":         {"quantity=1", `{"quantity":"1"}`},
		"json literal of an amount":        {`{"totalAmount":1}`, `{"totalAmount":1}`},
		"json literals become text":        {`{"totalAmount":1.50,"x":-0,"y":1E+2,"paid":true,"z":12345678901234567890}`, `{"totalAmount":"1.50","x":"-0","y":"1E+2","paid":"true","z":"12345678901234567890"}`},
		"json text of an amount":           {`{"totalAmount":"1"}`, `{"totalAmount":1}`},
		"json text of something else":      {`{"quantity":"1"}`, `{"quantity":"1"}`},
		"json literal under a time's name": {`{"payTime":1}`, `{"payTime":"1"}`},

		"time":                    {"payTime=2018-09-20+09:50:33", `{"payTime":"2018-09-20T09:50:33+08:00"}`},
		"time, all names":         {"createTime=2018-09-20+00:00:00&refundPayTime=2018-09-20+23:59:59&contractSignedTime=2018-12-31+01:02:03&contractExpiredTime=2018-01-01+01:02:03", `{"createTime":"2018-09-20T00:00:00+08:00","refundPayTime":"2018-09-20T23:59:59+08:00","contractSignedTime":"2018-12-31T01:02:03+08:00","contractExpiredTime":"2018-01-01T01:02:03+08:00"}`},
		"time, leap day":          {"payTime=2024-02-29+00:00:00", `{"payTime":"2024-02-29T00:00:00+08:00"}`},
		"time, no leap day":       {"payTime=2023-02-29+00:00:00", `{"payTime":"2023-02-29 00:00:00"}`},
		"time, century":           {"payTime=1900-02-29+00:00:00", `{"payTime":"1900-02-29 00:00:00"}`},
		"time, 31st of April":     {"payTime=2023-04-31+00:00:00", `{"payTime":"2023-04-31 00:00:00"}`},
		"time, hour 24":           {"payTime=2023-04-30+24:00:00", `{"payTime":"2023-04-30 24:00:00"}`},
		"time, second 60":         {"payTime=2023-04-30+23:59:60", `{"payTime":"2023-04-30 23:59:60"}`},
		"time, date alone":        {"payTime=2023-04-30", `{"payTime":"2023-04-30"}`},
		"time, compact":           {"payTime=20230430235959", `{"payTime":"20230430235959"}`},
		"time, a letter":          {"payTime=2O23-04-30+23:59:59", `{"payTime":"2O23-04-30 23:59:59"}`},
		"time, of another name":   {"settleTime=2018-09-20+09:50:33", `{"settleTime":"2018-09-20 09:50:33"}`},
		"time, settleDate":        {"settleDate=2018-09-20", `{"settleDate":"2018-09-20"}`},
		"time, another separator": {"payTime=2018-09-20T09:50:33", `{"payTime":"2018-09-20T09:50:33"}`},

		"nested object":                   {field("billPayment", `{"totalAmount":1,"payTime":"2016-09-28 10:38:32","status":"TRADE_SUCCESS"}`), `{"billPayment":{"totalAmount":1,"payTime":"2016-09-28T10:38:32+08:00","status":"TRADE_SUCCESS"}}`},
		"nested array":                    {field("goods", `[{"price":"1","subOrderAmount":"2"}, 3 ,null,"",true]`), `{"goods":[{"price":"1","subOrderAmount":2},3,null,"",true]}`},
		"nested, all names":               {field("subOrders", "[]") + "&" + field("refundSubOrders", "{}"), `{"subOrders":[],"refundSubOrders":{}}`},
		"nested, white space":             {field("goods", " \r\n\t{ \"a\" : [ 1 , { } ] } "), `{"goods":{"a":[1,{}]}}`},
		"nested, empty strings and null":  {field("goods", `{"a":"","b":null,"c":"1","d":"","e":{"f":""}}`), `{"goods":{"b":null,"c":"1","e":{}}}`},
		"nested, repeated names":          {field("goods", `{"a":1,"a":2}`), `{"goods":{"a":1,"a":2}}`},
		"nested, literals stay":           {field("goods", `{"aAmount":1.0,"b":-0.50e-7,"c":100000000000000000001}`), `{"goods":{"aAmount":1.0,"b":-0.50e-7,"c":100000000000000000001}}`},
		"nested, escapes made small":      {field("goods", `{"\u0061":"\u003c\/\u597d\ud83d\ude00\u0001\t"}`), `{"goods":{"a":"</好😀\u0001\t"}}`},
		"nested, lone surrogate":          {field("goods", `{"a":"x\ud83dy"}`), `{"goods":{"a":"x` + "\uFFFD" + `y"}}`},
		"nested, amounts of an array":     {field("goods", `{"aAmount":["1"]}`), `{"goods":{"aAmount":["1"]}}`},
		"nested, sign stays":              {field("goods", `{"sign":"1"}`), `{"goods":{"sign":"1"}}`},
		"nested in nested":                {field("billPayment", object("goods", `[{"totalAmount":"1"}]`)), `{"billPayment":{"goods":[{"totalAmount":1}]}}`},
		"nested text of another name":     {field("billPayment", object("other", `[1]`)), `{"billPayment":{"other":"[1]"}}`},
		"nested text in an array":         {field("goods", `["[1]"]`), `{"goods":["[1]"]}`},
		"nested broken in nested":         {field("billPayment", object("goods", `[1`)), `{"billPayment":{"goods":"[1"}}`},
		"text, broken":                    {field("goods", `[1`), `{"goods":"[1"}`},
		"text, trailing comma":            {field("goods", `[1,]`), `{"goods":"[1,]"}`},
		"text, data behind":               {field("goods", `{}x`), `{"goods":"{}x"}`},
		"text, two values":                {field("goods", `{}[]`), `{"goods":"{}[]"}`},
		"text, a scalar":                  {field("goods", `"a"`) + "&" + field("subOrders", "1"), `{"goods":"\"a\"","subOrders":"1"}`},
		"text, words":                     {"goods=tea", `{"goods":"tea"}`},
		"text, a brace alone":             {field("goods", "{"), `{"goods":"{"}`},
		"text, leading zero":              {field("goods", `[01]`), `{"goods":"[01]"}`},
		"text, of another name":           {field("orderDesc", `[1]`), `{"orderDesc":"[1]"}`},
		"extra name":                      {field("extra", `[1]`), `{"extra":[1]}`},
		"depth 32":                        {field("goods", deep(32)), `{"goods":` + deep(32) + `}`},
		"depth 33":                        {field("goods", deep(33)), `{"goods":"` + deep(33) + `"}`},
		"depth of nested texts":           {field("goods", object("goods", deep(31))), `{"goods":{"goods":` + deep(31) + `}}`},
		"depth of nested texts, one more": {field("goods", object("goods", deep(32))), `{"goods":{"goods":"` + deep(32) + `"}}`},
		"json, nested text":               {`{"goods":"[{\"totalAmount\":\"1\"}]"}`, `{"goods":[{"totalAmount":1}]}`},

		"escapes":                   {field("a", "\"\\/\b\f\n\r\t\x00\x1f\x7f<>&'"), `{"a":"\"\\/\u0008\u000c\n\r\t\u0000\u001f` + "\x7f" + `<>&'"}`},
		"line separators":           {field("a", "\u2027\u2028\u2029\u202a"), `{"a":"` + "\u2027" + `\u2028\u2029` + "\u202a" + `"}`},
		"escape after eight":        {field("a", "12345678\"9"), `{"a":"12345678\"9"}`},
		"escape in a name":          {field("a\"b", "1"), `{"a\"b":"1"}`},
		"replacement kept":          {field("a", "\uFFFD"), `{"a":"` + "\uFFFD" + `"}`},
		"GB18030 value":             {"a=%C4%E3%BA%C3", `{"a":"你好"}`},
		"GB18030 name":              {"%C4%E3=1", `{"你":"1"}`},
		"GB18030 nested":            {"goods=%7B%22a%22%3A%22%C4%E3%22%7D", `{"goods":{"a":"你"}}`},
		"GB18030 with backslash":    {"goods=%5B%22%81%5C%22%5D", `{"goods":["乗"]}`},
		"GB18030, four bytes":       {"a=%81%30%81%30", `{"a":"` + "\u0080" + `"}`},
		"neither":                   {"a=x%FFy", `{"a":"x` + "\uFFFD" + `y"}`},
		"half a character":          {"a=%E5%A5", `{"a":"濂"}`},
		"plain beside GB18030":      {"a=%C4%E3&b=" + "%E4%BD%A0", `{"a":"你","b":"你"}`},
		"json, bytes not UTF-8":     {"{\"a\":\"\xc4\xe3\"}", `{"a":"你"}`},
		"empty name of a pair":      {"=1", `{"":"1"}`},
		"rule by the name in UTF-8": {"%81Amount=1", `{"` + referenceUTF8("\x81A") + `mount":"1"}`},
	} {
		t.Run(name, func(t *testing.T) {
			f := testFields(t, test.body)
			event := f.event(newRules([]string{"extra"}), "/chinaums/shop")
			if event.Data != test.want {
				t.Errorf("event\n got %s\nwant %s", event.Data, test.want)
			}
			checkEvent(t, f, event, builtInJSONNames+"extra ")
		})
	}
}

func TestEventContext(t *testing.T) {
	for name, test := range map[string]struct {
		fields referenceFields
		want   notifyEvent // without Data and ID
	}{
		"payment": {
			referenceFields{{"merOrderId", "42"}, {"status", "TRADE_SUCCESS"}, {"totalAmount", "1"}, {"payTime", "2024-01-02 03:04:05"}, {"createTime", "2024-01-01 00:00:00"}, {"notifyId", "n-1"}},
			notifyEvent{Type: "payment.succeeded", Subject: "42", Time: "2024-01-02T03:04:05+08:00", MerOrderID: "42", TotalAmount: "1", Status: "TRADE_SUCCESS"},
		},
		"payment, created": {
			referenceFields{{"merOrderId", "42"}, {"status", "NEW_ORDER"}, {"createTime", "2024-01-01 00:00:00"}, {"notifyId", "n"}},
			notifyEvent{Type: "payment.created", Subject: "42", Time: "2024-01-01T00:00:00+08:00", MerOrderID: "42", Status: "NEW_ORDER"},
		},
		"pending": {referenceFields{{"notifyId", "n"}, {"status", "WAIT_BUYER_PAY"}}, notifyEvent{Type: "payment.pending", Status: "WAIT_BUYER_PAY"}},
		"closed":  {referenceFields{{"notifyId", "n"}, {"status", "TRADE_CLOSED"}}, notifyEvent{Type: "payment.closed", Status: "TRADE_CLOSED"}},
		"unknown": {referenceFields{{"notifyId", "n"}, {"status", "Success"}}, notifyEvent{Type: "payment.unknown", Status: "Success"}},

		"refund by status":              {referenceFields{{"notifyId", "n"}, {"status", "TRADE_REFUND"}}, notifyEvent{Type: "refund.unknown", Status: "TRADE_REFUND"}},
		"refund by status and time":     {referenceFields{{"notifyId", "n"}, {"status", "TRADE_REFUND"}, {"refundPayTime", "2024-01-02 03:04:05"}, {"payTime", "2023-01-02 03:04:05"}}, notifyEvent{Type: "refund.succeeded", Status: "TRADE_REFUND", Time: "2024-01-02T03:04:05+08:00"}},
		"refund, time of the payment":   {referenceFields{{"notifyId", "n"}, {"refundStatus", "PROCESSING"}, {"payTime", "2023-01-02 03:04:05"}}, notifyEvent{Type: "refund.processing", Time: "2023-01-02T03:04:05+08:00"}},
		"refund, time that is broken":   {referenceFields{{"notifyId", "n"}, {"refundStatus", "SUCCESS"}, {"refundPayTime", "x"}, {"payTime", "2023-01-02 03:04:05"}}, notifyEvent{Type: "refund.succeeded"}},
		"refund failed":                 {referenceFields{{"notifyId", "n"}, {"refundStatus", "FAIL"}, {"refundPayTime", "x"}}, notifyEvent{Type: "refund.failed"}},
		"refund of a new word":          {referenceFields{{"notifyId", "n"}, {"refundStatus", "UNKNOWN"}, {"refundPayTime", "x"}}, notifyEvent{Type: "refund.unknown"}},
		"refund by order":               {referenceFields{{"notifyId", "n"}, {"refundOrderId", "1"}}, notifyEvent{Type: "refund.unknown"}},
		"refund by target order":        {referenceFields{{"notifyId", "n"}, {"refundTargetOrderId", "1"}}, notifyEvent{Type: "refund.unknown"}},
		"refund by amount":              {referenceFields{{"notifyId", "n"}, {"refundAmount", "1"}}, notifyEvent{Type: "refund.unknown"}},
		"no refund of nothing":          {referenceFields{{"notifyId", "n"}, {"refundAmount", "0"}}, notifyEvent{Type: "payment.unknown"}},
		"no refund by time alone":       {referenceFields{{"notifyId", "n"}, {"refundPayTime", "2024-01-02 03:04:05"}}, notifyEvent{Type: "payment.unknown"}},
		"refund comes before guarantee": {referenceFields{{"notifyId", "n"}, {"refundStatus", "SUCCESS"}, {"secureStatus", "CANCELED"}}, notifyEvent{Type: "refund.succeeded"}},

		"guarantee":               {referenceFields{{"notifyId", "n"}, {"secureStatus", "PARTLY_COMPLETED"}, {"contractId", "1"}, {"status", "TRADE_SUCCESS"}}, notifyEvent{Type: "guarantee.partly_completed", Status: "TRADE_SUCCESS"}},
		"guarantee of a new word": {referenceFields{{"notifyId", "n"}, {"secureStatus", "Half-Done_2"}}, notifyEvent{Type: "guarantee.half-done_2"}},
		"deduction":               {referenceFields{{"notifyId", "n"}, {"contractId", "1"}, {"status", "SUCCESS"}}, notifyEvent{Type: "deduction.succeeded", Status: "SUCCESS"}},
		"deduction, created":      {referenceFields{{"notifyId", "n"}, {"contractId", "1"}, {"status", "NEW_ORDER"}}, notifyEvent{Type: "deduction.created", Status: "NEW_ORDER"}},
		"deduction, pending":      {referenceFields{{"notifyId", "n"}, {"contractId", "1"}, {"status", "WAIT_BUYER_PAY"}}, notifyEvent{Type: "deduction.pending", Status: "WAIT_BUYER_PAY"}},
		"deduction, closed":       {referenceFields{{"notifyId", "n"}, {"contractId", "1"}, {"status", "TRADE_CLOSED"}}, notifyEvent{Type: "deduction.closed", Status: "TRADE_CLOSED"}},
		"deduction, unknown":      {referenceFields{{"notifyId", "n"}, {"contractId", "1"}}, notifyEvent{Type: "deduction.unknown"}},

		"bill": {
			referenceFields{{"notifyId", "n"}, {"billStatus", "PAID"}, {"billNo", "7"}, {"merOrderId", "42"}, {"refundStatus", "FAIL"}, {"payTime", "2020-01-01 00:00:00"}, {"billPayment", `{"payTime":"2016-09-28 10:38:32"}`}},
			notifyEvent{Type: "bill.paid", Subject: "7", MerOrderID: "42", Time: "2016-09-28T10:38:32+08:00"},
		},
		"bill, time of the first level only": {referenceFields{{"notifyId", "n"}, {"billStatus", "REFUND"}, {"billPayment", `{"a":{"payTime":"2016-09-28 10:38:32"}}`}}, notifyEvent{Type: "bill.refund"}},
		"bill, time not in an array":         {referenceFields{{"notifyId", "n"}, {"billStatus", "UNPAID"}, {"billPayment", `[{"payTime":"2016-09-28 10:38:32"}]`}}, notifyEvent{Type: "bill.unpaid"}},
		"bill, time of a broken payment":     {referenceFields{{"notifyId", "n"}, {"billStatus", "CLOSED"}, {"billPayment", `{"payTime":"2016-09-28 10:38:32"`}}, notifyEvent{Type: "bill.closed"}},
		"bill, time of another field":        {referenceFields{{"notifyId", "n"}, {"billStatus", "UNKNOWN"}, {"goods", `{"payTime":"2016-09-28 10:38:32"}`}}, notifyEvent{Type: "bill.unknown"}},
		"bill, the last time counts":         {referenceFields{{"notifyId", "n"}, {"billStatus", "PAID"}, {"billPayment", `{"payTime":"2016-09-28 10:38:32","payTime":1}`}}, notifyEvent{Type: "bill.paid"}},
		"bill, time that is no date":         {referenceFields{{"notifyId", "n"}, {"billStatus", "PAID"}, {"billPayment", `{"payTime":"2016-13-28 10:38:32"}`}}, notifyEvent{Type: "bill.paid"}},
		"bill of a new word":                 {referenceFields{{"notifyId", "n"}, {"billStatus", "Part_Paid-2"}}, notifyEvent{Type: "bill.part_paid-2"}},
		"bill of 32 letters":                 {referenceFields{{"notifyId", "n"}, {"billStatus", strings.Repeat("A", 32)}}, notifyEvent{Type: "bill." + strings.Repeat("a", 32)}},
		"bill of 33 letters":                 {referenceFields{{"notifyId", "n"}, {"billStatus", strings.Repeat("A", 33)}}, notifyEvent{Type: "bill.unknown"}},
		"bill of other bytes":                {referenceFields{{"notifyId", "n"}, {"billStatus", "PAID\r\nX: y"}}, notifyEvent{Type: "bill.unknown"}},
		"bill of a dotted word":              {referenceFields{{"notifyId", "n"}, {"billStatus", "a.b"}}, notifyEvent{Type: "bill.unknown"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := testFields(t, test.fields.form())
			got := f.event(nil, "/chinaums/shop")
			checkEvent(t, f, got, builtInJSONNames)
			if want := referenceEventID("/chinaums/shop", test.want.Type, test.fields.get); got.ID != want {
				t.Errorf("id %s, want %s", got.ID, want)
			}
			got.Data, got.ID = "", ""
			test.want.Type = "com.chinaums." + test.want.Type
			if !reflect.DeepEqual(got, test.want) {
				t.Errorf("\n got %+v\nwant %+v", got, test.want)
			}
		})
	}
}

// TestEventFromJSON holds the two ways in against each other: the same fields, the same event.
func TestEventFromJSON(t *testing.T) {
	form := testFields(t, paymentForm().form()).event(nil, "/chinaums/shop")
	var members []string
	for _, field := range paymentForm() {
		members = append(members, fmt.Sprintf("%q:%q", field.name, field.value))
	}
	if got := testFields(t, "{"+strings.Join(members, ",")+"}").event(nil, "/chinaums/shop"); !reflect.DeepEqual(got, form) {
		t.Errorf("\n got %+v\nwant %+v", got, form)
	}
}

func TestEventVectors(t *testing.T) {
	var vectors []notifyVector
	readVectors(t, "notify.json", &vectors)
	for _, vector := range vectors {
		if vector.Form == nil {
			continue
		}
		t.Run(vector.Name, func(t *testing.T) {
			f := testFields(t, *vector.Form)
			checkEvent(t, f, f.event(nil, "/chinaums/shop"), builtInJSONNames)
		})
	}
}

func TestEventOwnsItsData(t *testing.T) {
	f := acquireFields()
	if err := f.parse([]byte("merOrderId=42&a=1")); err != nil {
		t.Fatal(err)
	}
	event := f.event(nil, "/chinaums/shop")
	if err := f.parse([]byte("merOrderId=77&b=2")); err != nil {
		t.Fatal(err)
	}
	f.event(nil, "/chinaums/shop")
	f.release()
	if event.Data != `{"merOrderId":"42","a":"1"}` || event.Subject != "42" {
		t.Errorf("the first event is now %s, %s", event.Data, event.Subject)
	}
}

// randomTree writes random JSON text that is valid but for some mistakes.
func randomTree(random *rand.Rand, depth int) string {
	names := []string{"goods", "payTime", "totalAmount", "a", "\\u0061", "subOrders", "billPayment", "", "名"}
	texts := []string{"", "1", "01", "2024-01-02 03:04:05", `[1]`, `{"totalAmount":"1"}`, "\\u2028", "\\ud83d", "好", "\\n", "x"}
	switch kind := random.IntN(10); {
	case depth > 0 && kind < 4:
		members := make([]string, random.IntN(4))
		for i := range members {
			members[i] = `"` + names[random.IntN(len(names))] + `":` + randomTree(random, depth-1)
		}
		return "{" + strings.Join(members, " ,") + "}"
	case depth > 0 && kind < 6:
		elements := make([]string, random.IntN(4))
		for i := range elements {
			elements[i] = randomTree(random, depth-1)
		}
		return "[" + strings.Join(elements, ", ") + "]"
	case depth > 0 && kind < 8:
		raw, _ := json.Marshal(randomTree(random, depth-1))
		return string(raw)
	case kind < 9:
		text := texts[random.IntN(len(texts))]
		if strings.ContainsAny(text, `"`) {
			raw, _ := json.Marshal(text)
			return string(raw)
		}
		return `"` + text + `"`
	}
	return []string{"1", "-0", "1.50", "1e9", "true", "false", "null", "01", "nul"}[random.IntN(9)]
}

func TestEventLikeReference(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 5))
	inlined := 0
	for range 3000 {
		fields := randomFields(random)
		for i := range fields {
			if random.IntN(4) == 0 {
				fields[i].value = randomTree(random, 6)
			}
		}
		for _, name := range []string{"subOrders", "billPayment"} {
			fields = append(fields, referenceField{name, randomTree(random, 6)})
		}
		f := acquireFields()
		if err := f.parse([]byte(fields.form())); err != nil {
			t.Fatal(err)
		}
		event := f.event(nil, "/chinaums/shop")
		checkEvent(t, f, event, builtInJSONNames)
		if strings.Contains(event.Data, `"billPayment":{`) {
			inlined++
		}
		f.release()
	}
	if inlined == 0 {
		t.Error("no random field became JSON")
	}
}
