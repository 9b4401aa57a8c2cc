package chinaums

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"unicode/utf8"

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

// misfits lists what validate says, as "name rule".
func misfits(path, body string) []string {
	var found []string
	for _, e := range validate(path, []byte(body)) {
		if !e.Advice {
			found = append(found, strings.TrimSpace(e.Name+" "+e.Rule))
		}
	}
	return found
}

// systems is the acceptance table: each outbound interface that the documents name, its path and its schema.
var systems = []struct{ row, path, schema string }{
	{"SYS-01", "/v1/netpay/refund", "refund.json"},
	{"SYS-03", "/v1/netpay/bills/preauth-cancel", "bills-preauth-cancel.json"},
	{"SYS-05", "/v1/netpay/wx/app-pre-order", "wx-app-pre-order.json"},
	{"SYS-06", "/v1/netpay/trade/precreate", "trade-precreate.json"},
	{"SYS-07", "/v1/netpay/qmf/order", "qmf-order.json"},
	{"SYS-08", "/v1/netpay/uac/app-order", "uac-app-order.json"},
	{"SYS-09", "/v1/netpay/applepay/order", "applepay-order.json"},
	{"SYS-10", "/v1/netpay/trade/app-pre-order", "trade-app-pre-order.json"},
	{"SYS-11", "/v1/netpay/query", "query.json"},
	{"SYS-12", "/v1/netpay/refund", "refund.json"},
	{"SYS-13", "/v1/netpay/refund-query", "refund-query.json"},
	{"SYS-14", "/v1/netpay/secure-cancel", "secure-cancel.json"},
	{"SYS-15", "/v1/netpay/secure-complete", "secure-complete.json"},
	{"SYS-16", "/v1/netpay/close", "close.json"},
}

func TestValidateSystems(t *testing.T) {
	paths := make(map[string]bool)
	for _, system := range systems {
		t.Run(system.row, func(t *testing.T) {
			paths[system.path] = true
			if got := interfaces[system.path].Schema; got != system.schema {
				t.Fatalf("%s has the table %q, want %q", system.path, got, system.schema)
			}
			content, err := schemaFiles.ReadFile("schema/" + system.schema)
			if err != nil {
				t.Fatal(err)
			}
			var schema struct {
				Dialect     string `json:"$schema"`
				Description string
				Examples    []json.RawMessage
			}
			if err := json.Unmarshal(content, &schema); err != nil {
				t.Fatal(err)
			}
			if schema.Dialect != "https://json-schema.org/draft/2020-12/schema" {
				t.Errorf("$schema %q", schema.Dialect)
			}
			if !strings.Contains(schema.Description, "POST "+system.path+" (") || !strings.Contains(schema.Description, system.row) {
				t.Errorf("description %q", schema.Description)
			}
			if len(schema.Examples) == 0 {
				t.Error("no example")
			}
			for _, example := range schema.Examples {
				if got := misfits(system.path, string(example)); got != nil {
					t.Errorf("example %s: %v", example, got)
				}
			}
			if got := misfits(system.path, `{"mid":1}`); !slices.Contains(got, "mid type") {
				t.Errorf("a body that fits no table: %v", got)
			}
		})
	}
	for path := range interfaces {
		if !paths[path] {
			t.Errorf("%s has a table that no document has", path)
		}
	}
}

// TestValidateRows: every row of the documents' request tables is a property of a schema, and says so.
func TestValidateRows(t *testing.T) {
	for _, table := range []struct {
		file, prefix string
		rows         int
	}{
		{"refund.json", "A-REQ-", 16},
		{"bills-preauth-cancel.json", "C-REQ-", 10},
		{"order.json", "E1.1-REQ-", 45},
		{"query.json", "E1.2-REQ-", 8},
		{"refund.json", "E1.3-REQ-", 17},
		{"refund-query.json", "E1.4-REQ-", 7},
		{"secure-cancel.json", "E1.5-REQ-", 6},
		{"secure-complete.json", "E1.6-REQ-", 7},
		{"close.json", "E1.7-REQ-", 6},
		{"refund.response.json", "A-RSP-", 26},
		{"bills-preauth-cancel.response.json", "C-RSP-", 30},
		{"order.response.json", "E1.1-RSP-", 22},
		{"query.response.json", "E1.2-RSP-", 35},
		{"refund.response.json", "E1.3-RSP-", 25},
		{"refund-query.response.json", "E1.4-RSP-", 29},
		{"secure-cancel.response.json", "E1.5-RSP-", 11},
		{"secure-complete.response.json", "E1.6-RSP-", 11},
		{"close.response.json", "E1.7-RSP-", 17},
	} {
		t.Run(table.file+" "+table.prefix, func(t *testing.T) {
			content, err := schemaFiles.ReadFile("schema/" + table.file)
			if err != nil {
				t.Fatal(err)
			}
			var root any
			if err := json.Unmarshal(content, &root); err != nil {
				t.Fatal(err)
			}
			described := make(map[string]int)
			descriptions(root, func(text string) {
				for row := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ' ' || r == ',' }) {
					described[row]++
				}
			})
			for i := 1; i <= table.rows; i++ {
				row := fmt.Sprintf("%s%02d", table.prefix, i)
				if described[row] == 0 {
					t.Errorf("%s is missing", row)
				}
			}
			if beyond := fmt.Sprintf("%s%02d", table.prefix, table.rows+1); described[beyond] != 0 {
				t.Errorf("%s is in no document", beyond)
			}
		})
	}
}

// descriptions calls found with the description of every property, and reports properties without one.
func descriptions(node any, found func(string)) {
	switch node := node.(type) {
	case map[string]any:
		if text, ok := node["description"].(string); ok {
			found(text)
		}
		for _, child := range node {
			descriptions(child, found)
		}
	case []any:
		for _, child := range node {
			descriptions(child, found)
		}
	}
}

// TestValidateDocumentExamples holds the documents' own printed requests against their own tables. Those that contradict
// them are refused, each with the row of the contradiction.
func TestValidateDocumentExamples(t *testing.T) {
	for _, test := range []struct {
		name, path, body string
		want             []string
		contradiction    string
	}{
		{
			name: "E-EX-09, A: refund", path: "/v1/netpay/refund",
			body: `{"requestTimestamp":"2022-04-15 10:42:59","merOrderId":"327M202204141724489725391331","instMid":"YUEDANDEFAULT",
				"mid":"898340149000005","tid":"00000001","refundAmount":"1","msgId":"TDCDFD91420230700079549371","srcReserve":"保留字段",
				"refundOrderId":"14HC202307191629589288166704","platformAmount":"680","subOrders":[{"mid":"898310148160568",
				"merOrderId":"14HC202307191435078140652400","refundOrderId":"14HC202307191629589288166704","totalAmount":"1"}],"refundDesc":"退款"}`,
			want: []string{"refundAmount sum"}, contradiction: "X-07: its amounts break its own sum",
		},
		{
			name: "E-EX-09, A: refund, as the demos send subOrders", path: "/v1/netpay/refund",
			body: `{"requestTimestamp":"2022-04-15 10:42:59","merOrderId":"327M202204141724489725391331","instMid":"YUEDANDEFAULT",
				"mid":"898340149000005","tid":"00000001","refundAmount":"681","platformAmount":"680",
				"subOrders":"[{\"mid\":\"898310148160568\",\"totalAmount\":\"1\"}]"}`,
		},
		{
			name: "A: refund, the demos' quotes as printed", path: "/v1/netpay/refund",
			body: `{"requestTimestamp":"2022-04-15 10:42:59","refundAmount":"1","subOrders":"[{"mid":"898310148160568","totalAmount":"1"}]"}`,
			want: []string{"json"}, contradiction: "X-04, X-19: no valid JSON",
		},
		{
			name: "A: refund, the PHP demo's time", path: "/v1/netpay/refund",
			body: `{"requestTimestamp":"2022-04-15 10=>42=>59","merOrderId":"327M202204141724489725391331","instMid":"YUEDANDEFAULT",
				"mid":"898340149000005","tid":"00000001","refundAmount":"1"}`,
			want: []string{"requestTimestamp pattern"}, contradiction: "X-19: no time",
		},
		{
			name: "E-EX-09, C: preauth-cancel", path: "/v1/netpay/bills/preauth-cancel",
			body: `{"requestTimestamp":"2023-07-19 12:03:02","mid":"89844035541APR4","tid":"APR40001","instMid":"QRPAYDEFAULT",
				"billNo":"124F2023071912021792962162","billDate":"2023-07-19","merOrderId":"124F20230719120217929621620","authIdRespCd":"000665"}`,
		},
		{
			name: "C: preauth-cancel, the PHP demo's time", path: "/v1/netpay/bills/preauth-cancel",
			body: `{"requestTimestamp":"2023-07-19 12=>03=>02","mid":"89844035541APR4","tid":"APR40001"}`,
			want: []string{"requestTimestamp pattern"}, contradiction: "X-19: no time",
		},
		{
			// Its order number has 36 characters, its amount is text, subAppId is left out.
			name: "E-EX-01, E 1.1.4: order", path: "/v1/netpay/trade/precreate",
			body: `{"requestTimestamp":"2019-02-12 10:42:59","merOrderId":"100120190212104259123456789012345678","mid":"898340149000005",
				"tid":"88880001","instMid":"APPDEFAULT","totalAmount":"1","tradeType":"APP"}`,
		},
		{
			name: "E-EX-02, E 1.2.4: query", path: "/v1/netpay/query",
			body: `{"requestTimestamp":"2016-09-23 17:28:02","mid":"898340149000005","tid":"88880001","instMid":"YUEDANDEFAULT",
				"merOrderId":"1001201609234113339074548947"}`,
		},
		{
			// billDate is in no table; unknown fields pass.
			name: "E-EX-03, E 1.3.4: refund", path: "/v1/netpay/refund",
			body: `{"requestTimestamp":"2016-09-23 17:28:02","merOrderId":"1001201609234113339074548947","mid":"898340149000005",
				"tid":"88880001","instMid":"YUEDANDEFAULT","refundAmount":"1","billDate":"2016-09-23","subOrders":[{"mid":"898310148160568","totalAmount":"1"}]}`,
		},
		{
			name: "E-EX-04, E 1.4.4: refund-query as printed", path: "/v1/netpay/refund-query",
			body: `{"requestTimestamp":"2016-09-23 17:28:02","mid":"898340149000005","tid":"88880001","instMid":"YUEDANDEFAULT",
				"merOrderId":"1001201609234113339074548947",}`,
			want: []string{"json"}, contradiction: "X-19: a trailing comma",
		},
		{
			// It sends the order's number where the table asks for the refund's: no table can see that.
			name: "E-EX-04, E 1.4.4: refund-query without the comma", path: "/v1/netpay/refund-query",
			body: `{"requestTimestamp":"2016-09-23 17:28:02","mid":"898340149000005","tid":"88880001","instMid":"YUEDANDEFAULT",
				"merOrderId":"1001201609234113339074548947"}`,
		},
		{
			name: "E-EX-05, E 1.5.4: secure-cancel", path: "/v1/netpay/secure-cancel",
			body: `{"requestTimestamp":"2019-02-12 10:42:59","mid":"898340149000005","tid":"88880001","instMid":"APPDANDEFUALT",
				"merOrderId":"1001201902124113339074548947"}`, // the misprint of X-17 is a text of 13 characters like another
		},
		{
			name: "E-EX-06, E 1.6.4: secure-complete", path: "/v1/netpay/secure-complete",
			body: `{"requestTimestamp":"2019-02-12 10:42:59","mid":"898340149000005","tid":"88880001","instMid":"YUEDANFAULT",
				"merOrderId":"1001201902124113339074548947","completedAmount":"1"}`,
		},
		{
			name: "E-EX-07, E 1.7.4: close", path: "/v1/netpay/close",
			body: `{"requestTimestamp":"2019-02-12 10:42:59","mid":"898340149000005","tid":"88880001","instMid":"QRPAYDEFAULT",
				"msgId":"dsa2231s","systemId":"1001","qrCodeId":"10011902124113339074548947"}`,
			want: []string{"merOrderId required"}, contradiction: "X-18, E-EX-07: the example is of another interface",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := misfits(test.path, test.body); !slices.Equal(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
			if (test.want != nil) != (test.contradiction != "") {
				t.Errorf("%v: each refusal of a printed example is a known contradiction", test.want)
			}
		})
	}
}

// head is what most interfaces ask for.
const head = `"requestTimestamp":"2019-02-12 10:42:59","merOrderId":"327M2019021210425972","instMid":"APPDEFAULT","mid":"898340149000005","tid":"88880001"`

// sound are bodies that fit, to be changed one field at a time.
var sound = map[string]string{
	"/v1/netpay/bills/preauth-cancel": `{` + head + `}`,
	"/v1/netpay/wx/app-pre-order":     `{` + head + `,"tradeType":"APP","goods":[{}],"subOrders":[{}]}`,
	"/v1/netpay/trade/precreate":      `{` + head + `,"goods":[{}],"subOrders":[{}]}`,
	"/v1/netpay/qmf/order":            `{` + head + `,"merchantUserId":"10001","mobile":"13800000000","goods":[{}],"subOrders":[{}]}`,
	"/v1/netpay/uac/app-order":        `{` + head + `,"goods":[{}],"subOrders":[{}]}`,
	"/v1/netpay/applepay/order":       `{` + head + `,"goods":[{}],"subOrders":[{}]}`,
	"/v1/netpay/trade/app-pre-order":  `{` + head + `,"goods":[{}],"subOrders":[{}]}`,
	"/v1/netpay/query":                `{` + head + `}`,
	"/v1/netpay/refund":               `{` + head + `,"refundAmount":1}`,
	"/v1/netpay/refund-query":         `{` + head + `}`,
	"/v1/netpay/secure-cancel":        `{` + head + `}`,
	"/v1/netpay/secure-complete":      `{` + head + `,"completedAmount":1}`,
	"/v1/netpay/close":                `{` + head + `}`,
}

// set gives a field of a body another value; absent takes it out. Elements of lists are written list.field.
func set(t testing.TB, body, name string, value any) string {
	t.Helper()
	var object map[string]any
	if err := json.Unmarshal([]byte(body), &object); err != nil {
		t.Fatal(err)
	}
	target := object
	if list, field, ok := strings.Cut(name, "."); ok {
		target, name = map[string]any{}, field
		if list == "retCommParams" {
			object[list] = target
		} else {
			object[list] = []any{target}
		}
	}
	if value == absent {
		delete(target, name)
	} else {
		target[name] = value
	}
	changed, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	return string(changed)
}

type absence struct{}

var absent any = absence{}

// The documents' limits, written down a second time from the documents, not from the schemas; where documents contradict
// each other, as the X-row says.
var limits = []struct {
	paths, fields string
	kind          string // chars, fen, time or date
	low, high     int
}{
	{"*", "requestTimestamp", "time", 0, 0},
	{"*", "merOrderId", "chars", 6, 64},
	{"! bills/preauth-cancel", "mid", "chars", 8, 32},
	{"! bills/preauth-cancel", "tid", "chars", 2, 32},
	{"! bills/preauth-cancel", "instMid", "chars", 8, 32},
	{"bills/preauth-cancel", "mid tid", "chars", 0, 32},
	{"bills/preauth-cancel", "billNo", "chars", 0, 31},
	{"bills/preauth-cancel", "billDate", "date", 0, 0},
	{"bills/preauth-cancel", "authIdRespCd msgId", "chars", 0, 64},
	{"bills/preauth-cancel refund query refund-query close orders", "srcReserve", "chars", 0, 255},
	{"refund query refund-query secure-cancel secure-complete orders", "msgId", "chars", 0, 64},
	{"refund query", "targetOrderId", "chars", 6, 64},
	{"refund", "refundAmount", "fen", 1, 100000000},
	{"refund", "refundOrderId subOrders.merOrderId subOrders.refundOrderId", "chars", 6, 32},
	{"refund", "refundDesc subOrders.refundDesc", "chars", 0, 255},
	{"refund orders", "subOrders.mid", "chars", 8, 32},
	{"secure-complete", "completedAmount", "fen", 1, 100000000},
	{"orders", "totalAmount originalAmount", "fen", 1, 100000000},
	{"orders", "platformAmount subOrders.totalAmount goods.subOrderAmount", "fen", 0, 100000000},
	{"orders", "subOrders.merOrderId goods.merOrderId", "chars", 6, 32},
	{"orders", "goods.subMerchantId", "chars", 8, 32},
	{"orders", "goods.goodsId goods.goodsCategory", "chars", 0, 64},
	{"orders", "goods.goodsName", "chars", 0, 256},
	{"orders", "goods.body", "chars", 0, 1024},
	{"orders", "attachedData orderDesc notifyUrl showUrl", "chars", 0, 255},
	{"orders", "subAppId goodsTag merchantUserId", "chars", 0, 32},
	{"orders", "mobile", "chars", 0, 11},
	{"orders", "expireTime", "time", 0, 0},
}

// applies reports whether a line of limits is about a path.
func applies(paths, path string) bool {
	name := strings.TrimPrefix(path, "/v1/netpay/")
	switch {
	case paths == "*":
		return true
	case strings.HasPrefix(paths, "! "):
		return name != paths[2:]
	}
	order := strings.Contains(sound[path], `"goods"`)
	return slices.ContainsFunc(strings.Fields(paths), func(word string) bool { return word == name || word == "orders" && order })
}

func TestValidateLimits(t *testing.T) {
	type probe struct {
		value any
		rule  string // "" passes
	}
	chars := func(n int) string { return strings.Repeat("字", n) }
	held := 0
	for path, body := range sound {
		if got := misfits(path, body); got != nil {
			t.Fatalf("%s: %v", path, got)
		}
		for _, limit := range limits {
			if !applies(limit.paths, path) {
				continue
			}
			for name := range strings.FieldsSeq(limit.fields) {
				probes := []probe{{true, "type"}, {nil, "type"}, {map[string]any{}, "type"}, {[]any{}, "type"}}
				switch limit.kind {
				case "chars":
					probes = append(probes, probe{chars(limit.low), ""}, probe{chars(limit.high), ""}, probe{chars(limit.high + 1), "maxLength"},
						probe{strings.Repeat("😀", limit.high), ""}, probe{12345678, "type"}, probe{0.5, "type"})
					if limit.low > 0 {
						probes = append(probes, probe{chars(limit.low - 1), "minLength"}, probe{"", "minLength"})
					}
				case "fen":
					for _, spelled := range []func(int) any{func(n int) any { return n }, func(n int) any { return strconv.Itoa(n) }} {
						probes = append(probes, probe{spelled(limit.low), ""}, probe{spelled(limit.low + 1), ""},
							probe{spelled(limit.high), ""}, probe{spelled(limit.high + 1), "maximum"})
						if limit.low > 0 {
							probes = append(probes, probe{spelled(limit.low - 1), "minimum"})
						}
					}
					for literal, rule := range map[string]string{
						"-1": "minimum", "1.0": "type", "1e2": "type", "1.5": "type", "1E0": "type", "1e999999999": "type", "-1e-999999999": "type",
						"99999999999999999999999999": "maximum", "-99999999999999999999999999": "minimum",
						`""`: "pattern", `"1.0"`: "pattern", `"1e2"`: "pattern", `"01"`: "pattern", `" 1"`: "pattern", `"1 "`: "pattern", `"1\n"`: "pattern", `"-1"`: "pattern", `"+1"`: "pattern", `"一"`: "pattern",
						`"１"`: "pattern", `"1,000"`: "pattern", `"99999999999999999999999999"`: "pattern", `"1.00元"`: "pattern",
					} {
						probes = append(probes, probe{json.RawMessage(literal), rule})
					}
				case "time":
					for _, text := range []string{"2019-02-12 00:00:00", "2019-12-31 23:59:59"} {
						probes = append(probes, probe{text, ""})
					}
					for _, text := range []string{
						"20190212104259", "2019-02-12T10:42:59", "2019-02-12 10:42:59+08:00", "2019-02-12 10:42:59.000", "2019/02/12 10:42:59", "2019-2-12 10:42:59",
						"2019-02-12 24:00:00", "2019-02-12 10:60:00", "2019-02-12 10:42:60", "2019-13-12 10:42:59", "2019-00-12 10:42:59", "2019-02-00 10:42:59",
						"2019-02-32 10:42:59", " 2019-02-12 10:42:59", "2019-02-12 10:42:59\n", "2019-02-12  10:42:59", "2019-02-12", "now",
					} {
						probes = append(probes, probe{text, "pattern"})
					}
					if name == "expireTime" {
						probes = append(probes, probe{"", ""}) // 为空则使用系统默认过期时间
					} else {
						probes = append(probes, probe{"", "pattern"})
					}
				case "date":
					probes = append(probes, probe{"2019-12-31", ""}, probe{"2019-02-32", "pattern"}, probe{"20190212", "pattern"}, probe{"2019-02-12 00:00:00", "pattern"}, probe{"", "pattern"})
				}
				for _, probe := range probes {
					changed := set(t, body, name, probe.value)
					var got []string
					for _, misfit := range misfits(path, changed) {
						if !strings.HasSuffix(misfit, " sum") { // of amounts that were changed alone
							got = append(got, misfit)
						}
					}
					var want []string
					if probe.rule != "" {
						want = []string{strings.Replace(name, ".", "[0].", 1) + " " + probe.rule}
					}
					if !slices.Equal(got, want) {
						t.Errorf("%s %s = %v: got %v, want %v", path, name, probe.value, got, want)
					}
					held++
				}
			}
		}
	}
	if held < 3000 {
		t.Errorf("only %d probes", held)
	}
}

// TestValidateRequired: exactly the fields that document E marks 是 and can mean; none of C.
func TestValidateRequired(t *testing.T) {
	for path, body := range sound {
		var object map[string]any
		if err := json.Unmarshal([]byte(body), &object); err != nil {
			t.Fatal(err)
		}
		required := strings.Fields("requestTimestamp mid tid instMid merOrderId")
		switch path {
		case "/v1/netpay/bills/preauth-cancel":
			required = nil
		case "/v1/netpay/query":
			required = strings.Fields("requestTimestamp mid tid instMid")
		case "/v1/netpay/wx/app-pre-order":
			required = append(required, "tradeType")
		case "/v1/netpay/qmf/order":
			required = append(required, "merchantUserId", "mobile")
		case "/v1/netpay/refund":
			required = append(required, "refundAmount")
		case "/v1/netpay/secure-complete":
			required = append(required, "completedAmount")
		}
		for name := range object {
			got := misfits(path, set(t, body, name, absent))
			var want []string
			if slices.Contains(required, name) {
				want = []string{name + " required"}
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s without %s: got %v, want %v", path, name, got, want)
			}
		}
		all := misfits(path, `{}`)
		if len(all) != len(required) {
			t.Errorf("%s: an empty object lacks %v, want %v", path, all, required)
		}
	}
}

func TestValidateWords(t *testing.T) {
	const order = "/v1/netpay/trade/precreate"
	for _, test := range []struct {
		name    string
		passing []string
		failing map[string]string
	}{
		{"divisionFlag", []string{`false`, `"false"`}, map[string]string{`"yes"`: "enum", `1`: "type", `"TRUE"`: "enum", `""`: "enum"}},
		{"secureTransaction", []string{`true`, `false`, `"true"`, `"false"`}, map[string]string{`"1"`: "enum", `0`: "type"}},
		{"limitCreditCard", []string{`"true"`, `"false"`, `true`}, map[string]string{`"no"`: "enum"}},
		{"installmentNumber", []string{`3`, `6`, `12`, `"3"`, `"6"`, `"12"`}, map[string]string{`9`: "enum", `"24"`: "enum", `3.0`: "type", `3e0`: "type"}},
		{
			"enablePayChnl",
			[]string{`"balance"`, `"moneyFund"`, `"pcredit"`, `"pcreditpayInstallment"`, `"creditCard"`, `"debitCardExpress"`},
			map[string]string{`"balance,pcredit"`: "enum", `"wechat"`: "enum", `7`: "type"},
		},
		{"retCommParams", []string{`{"foodOrderType":"pre_order"}`, `"{\"foodOrderType\":\"pre_order\"}"`}, map[string]string{`[]`: "type", `"[]"`: "type", `"pre_order"`: "json"}},
		{"goods", []string{`[]`, `""`, `"[]"`, `"[{\"goodsId\":\"1\",\"quantity\":1,\"price\":\"1\",\"unit\":1.5,\"discount\":\"0.8\"}]"`}, map[string]string{`{}`: "type", `"{}"`: "type", `"[{]"`: "json", `"null"`: "type", `"\"[]\""`: "type"}},
		{"subOrders", []string{`[]`, `"[]"`}, map[string]string{`{}`: "type", `1`: "type"}},
		{"tradeType", []string{`"APP"`, `"JSAPI"`}, map[string]string{`1`: "type"}},
		{"somethingNew", []string{`null`, `1.5`, `{"a":[1]}`}, nil},
	} {
		for _, literal := range test.passing {
			if got := misfits(order, set(t, sound[order], test.name, json.RawMessage(literal))); got != nil {
				t.Errorf("%s = %s: %v", test.name, literal, got)
			}
		}
		for literal, rule := range test.failing {
			if got := misfits(order, set(t, sound[order], test.name, json.RawMessage(literal))); !slices.Equal(got, []string{test.name + " " + rule}) {
				t.Errorf("%s = %s: %v, want %s", test.name, literal, got, rule)
			}
		}
	}
}

func TestValidateAcrossFields(t *testing.T) {
	const order, refund = "/v1/netpay/trade/precreate", "/v1/netpay/refund"
	shares := func(n int, share string) string {
		return `"subOrders":[` + strings.TrimSuffix(strings.Repeat(`{"mid":"898310148160568","totalAmount":`+share+`},`, n), ",") + `]`
	}
	for _, test := range []struct{ name, path, more, want string }{
		{"FMT-06 by subOrders", order, `"divisionFlag":true,"totalAmount":100,"platformAmount":20,` + shares(2, "40"), ""},
		{"FMT-06 by subOrders, as text", order, `"divisionFlag":"true","totalAmount":"100","platformAmount":"20",` + shares(2, `"40"`), ""},
		{"FMT-06 nothing for the platform", order, `"divisionFlag":true,"totalAmount":80,"platformAmount":0,` + shares(2, "40"), ""},
		{"FMT-06 the sum is short", order, `"divisionFlag":true,"totalAmount":101,"platformAmount":20,` + shares(2, "40"), "totalAmount sum"},
		{"FMT-06 the sum of a JSON text", order, `"divisionFlag":true,"totalAmount":101,"platformAmount":20,"subOrders":"[{\"mid\":\"898310148160568\",\"totalAmount\":80}]"`, "totalAmount sum"},
		{"FMT-07 by goods", order, `"divisionFlag":true,"totalAmount":100,"platformAmount":20,"goods":[{"subOrderAmount":60},{"subOrderAmount":"40"}]`, ""},
		{"FMT-07 by goods, short", order, `"divisionFlag":true,"totalAmount":100,"platformAmount":20,"goods":[{"subOrderAmount":60}]`, "totalAmount sum"},
		{"FMT-06 goods only describe", order, `"divisionFlag":true,"totalAmount":100,"platformAmount":20,"goods":[{"goodsId":"1"}],` + shares(1, "80"), ""},
		{"FMT-06 both, one sum wrong", order, `"divisionFlag":true,"totalAmount":100,"platformAmount":20,"goods":[{"subOrderAmount":99}],` + shares(1, "80"), "totalAmount sum"},
		{"FMT-06 goods or subOrders", order, `"divisionFlag":true,"totalAmount":100,"platformAmount":100`, "subOrders required"},
		{"FMT-06 empty ones are none", order, `"divisionFlag":true,"totalAmount":100,"platformAmount":100,"goods":[],"subOrders":""`, "subOrders required"},
		{"FMT-06 no guarantee", order, `"divisionFlag":true,"secureTransaction":"true","totalAmount":100,"platformAmount":20,` + shares(1, "80"), "secureTransaction excludes"},
		{"FMT-06 no guarantee is false", order, `"divisionFlag":true,"secureTransaction":"false","totalAmount":100,"platformAmount":20,` + shares(1, "80"), ""},
		{"FMT-05 a guarantee without a split", order, `"secureTransaction":"true","totalAmount":100`, ""},
		{"E1.1-REQ-30 platformAmount", order, `"divisionFlag":true,"totalAmount":80,` + shares(1, "80"), "platformAmount required"},
		{"E1.1-REQ-31 an element's mid", order, `"divisionFlag":true,"totalAmount":100,"platformAmount":20,"subOrders":[{"totalAmount":80}]`, "subOrders[0].mid required"},
		{"E1.1-REQ-31 an element's amount", order, `"divisionFlag":true,"totalAmount":20,"platformAmount":20,"subOrders":[{"mid":"898310148160568"}]`, "subOrders[0].totalAmount required"},
		{"no split, no rules", order, `"divisionFlag":false,"secureTransaction":true,"totalAmount":1,"platformAmount":20,"subOrders":[{}]`, ""},
		{"20 subOrders", order, `"divisionFlag":true,"totalAmount":40,"platformAmount":20,` + shares(20, "1"), ""},
		{"21 subOrders", order, `"divisionFlag":true,"totalAmount":41,"platformAmount":20,` + shares(21, "1"), "subOrders maxItems"},
		{"E1.1-REQ-24", order, `"goods":[{"goodsId":"1"}],"goodsTradeNo":"1"`, "goodsTradeNo excludes"},
		{"E1.1-REQ-24 an empty one", order, `"goods":[],"goodsTradeNo":"1"`, ""},
		{"FMT-08", refund, `"refundAmount":100,"platformAmount":20,` + shares(2, "40"), ""},
		{"FMT-08 mixed spellings", refund, `"refundAmount":"100","platformAmount":20,` + shares(2, `"40"`), ""},
		{"FMT-08 the sum is short", refund, `"refundAmount":100,"platformAmount":20,` + shares(1, "40"), "refundAmount sum"},
		{"FMT-08 without the platform's", refund, `"refundAmount":40,` + shares(1, "40"), ""},
		{"FMT-08 the platform's alone", refund, `"refundAmount":40,"platformAmount":40`, ""},
		{"FMT-08 the platform's alone, other", refund, `"refundAmount":40,"platformAmount":41`, "refundAmount sum"},
		{"a refund of no split order, zero sent", refund, `"refundAmount":40,"platformAmount":0`, ""},
		{"a wrong share is no wrong sum too", refund, `"refundAmount":40,"platformAmount":20,"subOrders":[{"totalAmount":"x"}]`, "subOrders[0].totalAmount pattern"},
		{"X-03 several sub-merchants", refund, `"refundAmount":3,` + shares(3, "1"), ""},
		{"21 in a refund", refund, `"refundAmount":21,` + shares(21, "1"), "subOrders maxItems"},
	} {
		t.Run(test.name, func(t *testing.T) {
			body := `{` + head + `,` + test.more + `}`
			if got := strings.Join(misfits(test.path, body), ", "); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestValidateBodies(t *testing.T) {
	const refund = "/v1/netpay/refund"
	good := `{` + head + `,"refundAmount":1}`
	if got := misfits(refund, good); got != nil {
		t.Fatal(got)
	}
	deep := strings.Repeat("[", 9000) + strings.Repeat("]", 9000)
	for _, test := range []struct{ name, body, want string }{
		{"white space", " \t\r\n" + strings.ReplaceAll(good, `":`, "\" :\t") + "\n", ""},
		{"escapes", `{` + head + `,"refundAmount":1,"\u0072efundDesc":"\ud83d\ude00\"\\\/"}`, ""},
		{"an escaped name is the name", `{` + head + `,"refund\u0041mount":0}`, "refundAmount minimum"},
		{"two documents", good + good, "json"},
		{"a comment", `{/**/` + good[1:], "json"},
		{"a byte order mark", "\ufeff" + good, "json"},
		{"GBK", strings.Replace(good, "APPDEFAULT", "\xb1\xa3\xc1\xf4", 1), "json"},
		{"nothing but space", "  ", "json"},
		{"null", "null", "type"},
		{"a text", `"{}"`, "type"},
		{"a name twice", `{` + head + `,"refundAmount":1,"refundAmount":100}`, "refundAmount duplicate"},
		{"a name twice, once escaped", `{` + head + `,"refundAmount":1,"refund\u0041mount":100}`, "refundAmount duplicate"},
		{"a name twice, deep in the unknown", `{` + head + `,"refundAmount":1,"a":{"b":[{"c":1,"c":2}]}}`, "a.b[0].c duplicate"},
		{"a name twice in a JSON text", `{` + head + `,"refundAmount":1,"subOrders":"[{\"totalAmount\":1,\"totalAmount\":1}]"}`, "subOrders[0].totalAmount duplicate"},
		{"names that differ in case are two", `{` + head + `,"refundAmount":1,"refundamount":"x"}`, ""},
		{"nested deeply", `{` + head + `,"refundAmount":1,"x":` + deep + `}`, ""},
		{"nested more deeply than any reader goes", `{"x":` + strings.Repeat("[", 1e5) + strings.Repeat("]", 1e5) + `}`, "json"},
		{"a number of a billion digits", `{` + head + `,"refundAmount":1,"x":1e999999999,"subOrders":[]}`, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := strings.Join(misfits(refund, test.body), ", "); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
	t.Run("an answer is bounded", func(t *testing.T) {
		for _, body := range []string{
			`{` + head + `,"refundAmount":1,"subOrders":[` + strings.TrimSuffix(strings.Repeat("1,", 300_000), ",") + `]}`,
			`{` + head + `,"refundAmount":1,"` + strings.Repeat(`x`, 1000) + `":{` + strings.TrimSuffix(strings.Repeat(`"y":1,`, 100_000), ",") + `}}`,
		} {
			found := validate(refund, []byte(body))
			answer, err := json.Marshal(found)
			if err != nil {
				t.Fatal(err)
			}
			if len(found) == 0 || len(answer) > 16<<10 {
				t.Errorf("%d errors, %d bytes", len(found), len(answer))
			}
		}
	})
	t.Run("the same body is told the same", func(t *testing.T) {
		first := misfits(refund, `{"refundAmount":0,"mid":1,"tid":"","subOrders":[{"mid":"x"},{"mid":"y"}]}`)
		for range 20 {
			if again := misfits(refund, `{"refundAmount":0,"mid":1,"tid":"","subOrders":[{"mid":"x"},{"mid":"y"}]}`); !slices.Equal(first, again) {
				t.Fatalf("%v, then %v", first, again)
			}
		}
		if want := "instMid required, merOrderId required, mid type, refundAmount minimum, requestTimestamp required, subOrders[0].mid minLength, subOrders[1].mid minLength, tid minLength"; strings.Join(first, ", ") != want {
			t.Errorf("%v", first)
		}
	})
}

// TestValidateMessages: an app's developer reads them, and they hold nothing of the body.
func TestValidateMessages(t *testing.T) {
	const secret = "6222020200112233445"
	for _, test := range []struct{ name, value, want string }{
		{"refundAmount", `0`, "refundAmount 应为 1 到 100000000 的整数 / refundAmount must be an integer from 1 to 100000000"},
		{"refundAmount", `"1.00"`, "refundAmount 应为 1 到 100000000 的整数 / refundAmount must be an integer from 1 to 100000000"},
		{"refundAmount", `1.0`, "refundAmount 应为整数或字符串 / refundAmount must be an integer or a string"},
		{"requestTimestamp", `"` + secret + `"`, "requestTimestamp 格式应为 yyyy-MM-dd HH:mm:ss / requestTimestamp must have the form yyyy-MM-dd HH:mm:ss"},
		{"refundAmount", `2,"platformAmount":1`, "refundAmount 应等于 subOrders 中各项 totalAmount 之和加 platformAmount / refundAmount must be the sum of totalAmount in all of subOrders plus platformAmount"},
		{"mid", `"1"`, "mid 长度应为 8 到 32 个字符 / mid must have 8 to 32 characters"},
		{"mid", secret, "mid 应为字符串 / mid must be a string"},
		{"subOrders", `"` + secret + `x"`, "subOrders 的文本不是合法的 JSON / the text of subOrders is not valid JSON"},
		{"msgId", `"` + strings.Repeat(secret, 4) + `"`, "msgId 长度应为 0 到 64 个字符 / msgId must have 0 to 64 characters"},
	} {
		body := strings.TrimSuffix(set(t, sound["/v1/netpay/refund"], test.name, absent), "}") + `,"` + test.name + `":` + test.value + `}`
		found := validate("/v1/netpay/refund", []byte(body))
		if len(found) != 1 || found[0].Name != test.name || found[0].Message != test.want {
			t.Errorf("%s = %s: %+v, want %q", test.name, test.value, found, test.want)
		}
		if strings.Contains(fmt.Sprintf("%+v", found), secret) {
			t.Errorf("%s: a value is told", test.name)
		}
	}
}

func FuzzValidate(f *testing.F) {
	f.Add("/v1/netpay/refund", []byte(refundBody))
	for path, body := range sound {
		f.Add(path, []byte(body))
	}
	for _, body := range []string{`{"a":1e999999999}`, `{"subOrders":"[[[["}`, `[1,2]`, `{"\ud800":"\udfff"}`, `{"goods":"{\"a\":\"b\"}","goods":[]}`} {
		f.Add("/v1/netpay/trade/precreate", []byte(body))
	}
	f.Fuzz(func(t *testing.T, path string, body []byte) {
		found := validate(path, body)
		var object map[string]any
		isObject := json.Unmarshal(body, &object) == nil && object != nil
		for _, e := range found {
			if e.Rule == "" || !strings.Contains(e.Message, " / ") || !utf8.ValidString(e.Name) {
				t.Errorf("%+v", e)
			}
			if e.Rule == "json" && e.Name == "" && isObject && utf8.Valid(body) {
				t.Errorf("encoding/json reads what is called broken")
			}
		}
		if _, known := interfaces[path]; known && !isObject && len(found) == 0 {
			t.Errorf("no object, and nothing said")
		}
		if again := validate(path, body); !slices.Equal(again, found) {
			t.Errorf("%v, then %v", found, again)
		}
	})
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
