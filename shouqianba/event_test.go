package shouqianba

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/internal/normalize"
)

var plainRules = newRules(nil)

const testSource = "/shouqianba/till"

// factID computes an id as the contract has it, from its lines.
func factID(kind string, pairs ...string) string {
	return fmt.Sprintf("%x", sha256.Sum256([]byte("v1\n/shouqianba/till\ncom.shouqianba."+kind+"\n"+strings.Join(append(pairs, ""), "\n"))))[:32]
}

func mustEvent(t testing.TB, body string, names ...string) notifyEvent {
	t.Helper()
	event, err := readEvent([]byte(body), newRules(names), testSource)
	if err != nil {
		t.Fatalf("readEvent(%s): %v", body, err)
	}
	return event
}

// documentNotify has the fields of the platform's document of a notify, with its example values.
const documentNotify = `{"terminal_sn":"01939202039923029","sn":"7892259488292938","client_sn":"7654321132",` +
	`"trade_no":"2013112011001004330000121536","status":"SUCCESS","order_status":"PAID","payway":"1","sub_payway":"1",` +
	`"payer_uid":"2801003920293239230239","payer_login":"134****3920","total_amount":"10000","net_amount":"0",` +
	`"subject":"Pizza","finish_time":"1449646835244","channel_finish_time":"1449646835000","operator":"张三丰",` +
	`"reflect":"{\"tips\": \"200\"}"}`

func TestDocumentNotify(t *testing.T) {
	event := mustEvent(t, documentNotify)
	want := `{"terminal_sn":"01939202039923029","sn":"7892259488292938","client_sn":"7654321132",` +
		`"trade_no":"2013112011001004330000121536","status":"SUCCESS","order_status":"PAID","payway":"1","sub_payway":"1",` +
		`"payer_uid":"2801003920293239230239","payer_login":"134****3920","total_amount":10000,"net_amount":0,` +
		`"subject":"Pizza","finish_time":"2015-12-09T15:40:35.244+08:00","channel_finish_time":"2015-12-09T15:40:35+08:00",` +
		`"operator":"张三丰","reflect":"{\"tips\": \"200\"}"}`
	if event.Data != want {
		t.Errorf("data:\n%s\nwant:\n%s", event.Data, want)
	}
	event.Data = ""
	if want := (notifyEvent{
		ID:   factID("payment.succeeded", "sn=7892259488292938", "client_sn=7654321132", "order_status=PAID", "total_amount=10000"),
		Type: "com.shouqianba.payment.succeeded", Subject: "7654321132",
		Time: "2015-12-09T15:40:35.244+08:00", ClientSN: "7654321132", SN: "7892259488292938", TotalAmount: "10000", NetAmount: "0",
		OrderStatus: "PAID", TerminalSN: "01939202039923029",
	}); !reflect.DeepEqual(event, want) {
		t.Errorf("event:\n%+v\nwant:\n%+v", event, want)
	}
}

func TestNormalize(t *testing.T) {
	for _, test := range []struct{ name, body, want string }{
		{"amounts", `{"total_amount":"1","a_amount":"999999999999999","refund_amount":"0"}`, `{"total_amount":1,"a_amount":999999999999999,"refund_amount":0}`},
		{"no amounts", `{"a_amount":"1.00","b_amount":"-1","c_amount":"01","d_amount":"1000000000000000","e_amount":" 1","f_amount":"+1","g_amount":"1e3"}`,
			`{"a_amount":"1.00","b_amount":"-1","c_amount":"01","d_amount":"1000000000000000","e_amount":" 1","f_amount":"+1","g_amount":"1e3"}`},
		{"other names", `{"amount":"1","totalAmount":"1","total_amounts":"1","_amount":"1"}`, `{"amount":"1","totalAmount":"1","total_amounts":"1","_amount":1}`},
		{"numbers stay as they are written", `{"total_amount":1,"x":1.50,"y":1E400,"z":-0}`, `{"total_amount":1,"x":1.50,"y":1E400,"z":-0}`},
		{"times", `{"finish_time":"1449646835244","channel_finish_time":"1735660799999"}`,
			`{"finish_time":"2015-12-09T15:40:35.244+08:00","channel_finish_time":"2024-12-31T23:59:59.999+08:00"}`},
		{"whole seconds", `{"finish_time":"1449646835000"}`, `{"finish_time":"2015-12-09T15:40:35+08:00"}`},
		{"milliseconds keep three digits", `{"finish_time":"1449646835100"}`, `{"finish_time":"2015-12-09T15:40:35.100+08:00"}`},
		{"a time as a number", `{"finish_time":1449646835244}`, `{"finish_time":"2015-12-09T15:40:35.244+08:00"}`},
		{"no times", `{"finish_time":"1449646835","channel_finish_time":"2015-12-09 15:40:35","ctime":"1449646835244","my_finish_time":"1449646835244"}`,
			`{"finish_time":"1449646835","channel_finish_time":"2015-12-09 15:40:35","ctime":"1449646835244","my_finish_time":"1449646835244"}`},
		{"at any depth", `{"data":{"net_amount":"5","list":[{"price_amount":"7","finish_time":"1449646835244","empty":""}]}}`,
			`{"data":{"net_amount":5,"list":[{"price_amount":7,"finish_time":"2015-12-09T15:40:35.244+08:00"}]}}`},
		{"empty and null", `{"a":"","b":null,"sn":"","client_sn":null,"c":"x"}`, `{"c":"x"}`},
		{"all empty", `{"a":""}`, `{}`},
		{"an empty object", ` { } `, `{}`},
		{"text that holds JSON stays text", `{"reflect":"{\"tips\":\"1\"}","goods_details":"[1]"}`, `{"reflect":"{\"tips\":\"1\"}","goods_details":"[1]"}`},
		{"escapes", `{"\u0073ubject":"\ud83d\ude00 \/ \u2028 \u000b"}`, `{"subject":"😀 / \u2028 \u000b"}`},
		{"white space", "\t{ \"a\" : [ 1 , 2 ] ,\r\n \"b\" : { \"c\" : true } }\n", `{"a":[1,2],"b":{"c":true}}`},
		{"GB18030", "{\"subject\":\"\xc6\xbb\xb9\xfb\"}", `{"subject":"苹果"}`},
		{"deep", `{"a":` + strings.Repeat("[", 32) + strings.Repeat("]", 32) + `}`, `{"a":` + strings.Repeat("[", 32) + strings.Repeat("]", 32) + `}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			if event := mustEvent(t, test.body); event.Data != test.want {
				t.Errorf("data: %s\nwant: %s", event.Data, test.want)
			}
		})
	}
}

func TestJSONNames(t *testing.T) {
	body := `{"reflect":"{\"tips_amount\":\"200\"}","extra":"no JSON","sn":"[1]"}`
	if event := mustEvent(t, body, "reflect", "extra", "sn"); event.Data != `{"reflect":{"tips_amount":200},"extra":"no JSON","sn":[1]}` || event.SN != "[1]" {
		t.Errorf("data: %s, sn %q", event.Data, event.SN)
	}
}

func TestUnreadable(t *testing.T) {
	many := new(strings.Builder)
	for i := range maxNotifyFields + 1 {
		many.WriteString(`,"f` + hex.EncodeToString([]byte{byte(i >> 8), byte(i)}) + `":1`)
	}
	for _, test := range []struct{ name, body, reason string }{
		{"nothing", "", reasonJSON},
		{"a form", "sn=1&client_sn=2", reasonJSON},
		{"an array", `[{"sn":"1"}]`, reasonJSON},
		{"a text", `"sn"`, reasonJSON},
		{"a second object", `{"sn":"1"}{}`, reasonJSON},
		{"ends early", `{"sn":"1"`, reasonJSON},
		{"no value", `{"sn":}`, reasonJSON},
		{"no colon", `{"sn" "1"}`, reasonJSON},
		{"a comma at the end", `{"sn":"1",}`, reasonJSON},
		{"a bare name", `{sn:"1"}`, reasonJSON},
		{"a broken escape", `{"sn":"\x"}`, reasonJSON},
		{"a broken name", `{"s\ud800n":"1"}`, reasonJSON},
		{"a broken number", `{"sn":01}`, reasonJSON},
		{"a broken nested value", `{"a":{"b":[1,}}`, reasonJSON},
		{"a newline in a text", "{\"sn\":\"1\n\"}", reasonJSON},
		{"too deep", `{"a":` + strings.Repeat("[", 33) + strings.Repeat("]", 33) + `}`, reasonJSON},
		{"repeated", `{"sn":"1","sn":"2"}`, reasonRepeated},
		{"repeated in another spelling", `{"sn":"1","\u0073n":"1"}`, reasonRepeated},
		{"repeated, one empty", `{"sn":"","sn":"1"}`, reasonRepeated},
		{"too many", `{"f":1` + many.String() + `}`, reasonTooMany},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := readEvent([]byte(test.body), plainRules, testSource)
			parse, ok := errors.AsType[*parseError](err)
			if !ok || parse.Reason != test.reason {
				t.Errorf("readEvent: %v, want the reason %s", err, test.reason)
			}
		})
	}
}

func TestEventType(t *testing.T) {
	for _, test := range []struct{ order, status, more, want string }{
		{"CREATED", "CREATED", "", "payment.created"},
		{"CREATED", "", "", "payment.created"},
		{"CREATED", "IN_PROG", "", "payment.pending"},
		{"CREATED", "FAIL_IO_1", "", "payment.unknown"},
		{"PAID", "SUCCESS", "", "payment.succeeded"},
		{"PAID", "", "", "payment.succeeded"},
		{"PAID", "IN_PROG", "", "payment.unknown"},
		{"PAID", "FAIL_PROTOCOL_1", "", "payment.unknown"},
		{"PAY_CANCELED", "FAIL_CANCELED", "", "payment.closed"},
		{"PAY_ERROR", "FAIL_ERROR", "", "payment.unknown"},
		{"CANCELED", "SUCCESS", "", "payment.closed"},
		{"CANCEL_ERROR", "CANCEL_ERROR", "", "payment.unknown"},
		{"CANCEL_INPROGRESS", "IN_PROG", "", "payment.unknown"},
		{"INVALID_STATUS_CODE", "SUCCESS", "", "payment.unknown"},
		{"paid", "SUCCESS", "", "payment.unknown"},
		{"", "SUCCESS", "", "payment.unknown"},
		{"", "", "", "payment.unknown"},
		{"REFUNDED", "SUCCESS", "", "refund.succeeded"},
		{"REFUNDED", "", "", "refund.succeeded"},
		{"PARTIAL_REFUNDED", "SUCCESS", "", "refund.succeeded"},
		{"PARTIAL_REFUNDED", "REFUND_ERROR", "", "refund.unknown"},
		{"PARTIAL_REFUNDED", "FAIL_CANCELED", "", "refund.failed"},
		{"REFUND_ERROR", "REFUND_ERROR", "", "refund.unknown"},
		{"REFUND_ERROR", "SUCCESS", "", "refund.unknown"},
		{"REFUND_ERROR", "FAIL_CANCELED", "", "refund.failed"},
		{"REFUND_INPROGRESS", "", "", "refund.processing"},
		{"PAID", "IN_PROG", `,"refund_request_no":"1"`, "refund.processing"},
		{"PAID", "SUCCESS", `,"refund_request_no":"1"`, "refund.unknown"},
		{"PAID", "SUCCESS", `,"refund_request_no":""`, "payment.succeeded"},
	} {
		t.Run(test.order+" "+test.status+test.more, func(t *testing.T) {
			event := mustEvent(t, `{"order_status":"`+test.order+`","status":"`+test.status+`"`+test.more+`}`)
			if event.Type != "com.shouqianba."+test.want {
				t.Errorf("type %s, want %s", event.Type, test.want)
			}
		})
	}
}

// TestEventID: an id names the fact. Before, it was of whatever words the message had, so that the answer's net_amount,
// status or terminal_sn made another event of one payment.
func TestEventID(t *testing.T) {
	for _, test := range []struct {
		name, body string
		kind       string
		pairs      []string
	}{
		{"payment", `{"sn":"1","client_sn":"2","order_status":"PAID","status":"SUCCESS","total_amount":"100","net_amount":"60","client_tsn":"2","terminal_sn":"3","x":"1"}`,
			"payment.succeeded", []string{"sn=1", "client_sn=2", "order_status=PAID", "total_amount=100"}},
		{"the same fact, told otherwise", `{"finish_time":"1449646835244","total_amount":100,"order_status":"PAID","client_sn":"2","s\u006e":"1","refund_request_no":""}`,
			"payment.succeeded", []string{"sn=1", "client_sn=2", "order_status=PAID", "total_amount=100"}},
		{"another type of it", `{"sn":"1","client_sn":"2","order_status":"PAID","status":"IN_PROG","total_amount":"100"}`,
			"payment.unknown", []string{"sn=1", "client_sn=2", "order_status=PAID", "total_amount=100"}},
		{"closed", `{"client_sn":"2","order_status":"CANCELED","total_amount":"100"}`,
			"payment.closed", []string{"client_sn=2", "order_status=CANCELED", "total_amount=100"}},
		{"refund by its request", `{"sn":"1","client_sn":"2","client_tsn":"2-r","refund_request_no":"r","order_status":"PARTIAL_REFUNDED","total_amount":"100","net_amount":"60"}`,
			"refund.succeeded", []string{"sn=1", "client_sn=2", "order_status=PARTIAL_REFUNDED", "refund_request_no=r"}},
		{"refund by its serial", `{"sn":"1","client_sn":"2","client_tsn":"2-r","order_status":"REFUNDED","total_amount":"100","net_amount":"0"}`,
			"refund.succeeded", []string{"sn=1", "client_sn=2", "order_status=REFUNDED", "client_tsn=2-r"}},
		{"refund by what is left", `{"sn":"1","client_sn":"2","order_status":"PARTIAL_REFUNDED","total_amount":"100","net_amount":60}`,
			"refund.succeeded", []string{"sn=1", "client_sn=2", "order_status=PARTIAL_REFUNDED", "net_amount=60"}},
		{"refund that says nothing", `{"order_status":"REFUND_ERROR","status":"FAIL_CANCELED"}`, "refund.failed", []string{"order_status=REFUND_ERROR"}},
		{"nothing", `{}`, "payment.unknown", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got, want := mustEvent(t, test.body).ID, factID(test.kind, test.pairs...); got != want {
				t.Errorf("id %s, want %s", got, want)
			}
		})
	}
	other, err := readEvent([]byte(documentNotify), plainRules, "/shouqianba/another")
	if err != nil || other.ID == mustEvent(t, documentNotify).ID {
		t.Errorf("another terminal's event has the same id: %v", err)
	}
}

func TestSubjectAndTime(t *testing.T) {
	for _, test := range []struct{ name, body, subject, time string }{
		{"without client_sn", `{"sn":"7892"}`, "7892", ""},
		{"neither", `{}`, "", ""},
		{"the channel's time", `{"client_sn":"1","channel_finish_time":"1449646835221","finish_time":"soon"}`, "1", "2015-12-09T15:40:35.221+08:00"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if event := mustEvent(t, test.body); event.Subject != test.subject || event.Time != test.time {
				t.Errorf("subject %q, time %q", event.Subject, event.Time)
			}
		})
	}
}

// reference normalizes with encoding/json: a second implementation.
func reference(value any, name string) any {
	switch value := value.(type) {
	case string:
		if strings.HasSuffix(name, "_amount") && len(value) <= 15 && value != "" && strings.Trim(value, "0123456789") == "" && (value == "0" || value[0] != '0') {
			return json.Number(value)
		}
		if name == "finish_time" || name == "channel_finish_time" {
			return referenceTime(value, value)
		}
	case json.Number:
		if name == "finish_time" || name == "channel_finish_time" {
			return referenceTime(value.String(), value)
		}
	case map[string]any:
		for key, member := range value {
			if member == "" {
				delete(value, key)
			} else {
				value[key] = reference(member, key)
			}
		}
	case []any:
		for i := range value {
			value[i] = reference(value[i], "")
		}
	}
	return value
}

func referenceTime(text string, otherwise any) any {
	if len(text) != 13 || strings.Trim(text, "0123456789") != "" || text[0] == '0' {
		return otherwise
	}
	seconds, err := json.Number(text[:10]).Int64()
	if err != nil {
		return otherwise
	}
	fraction := "." + text[10:]
	if fraction == ".000" {
		fraction = ""
	}
	return time.Unix(seconds, 0).UTC().Add(8*time.Hour).Format("2006-01-02T15:04:05") + fraction + "+08:00"
}

func FuzzReadEvent(f *testing.F) {
	f.Add([]byte(documentNotify))
	f.Add([]byte(`{"a":{"b_amount":"1","c":[null,"",{"finish_time":1449646835244}]},"d":null,"e":"\u2028\ud83d\ude00"}`))
	f.Add([]byte("{\"subject\":\"\xc6\xbb\"}"))
	f.Fuzz(func(t *testing.T, body []byte) {
		event, err := readEvent(body, plainRules, testSource)
		if err != nil {
			if _, ok := errors.AsType[*parseError](err); !ok {
				t.Fatalf("an error of another kind: %v", err)
			}
			return
		}
		if !json.Valid([]byte(event.Data)) {
			t.Fatalf("not JSON: %q", event.Data)
		}
		if again, err := readEvent(body, plainRules, testSource); err != nil || !reflect.DeepEqual(again, event) {
			t.Fatalf("read again: %+v, %v", again, err)
		}
		if !json.Valid(body) || bytes.ContainsRune(body, '\ufffd') || bytes.Contains(bytes.ToLower(body), []byte(`\ud`)) ||
			!bytes.Equal(normalize.ToUTF8(body), body) {
			return // what encoding/json reads otherwise
		}
		decode := func(data []byte) (object map[string]any) {
			decoder := json.NewDecoder(bytes.NewReader(data))
			decoder.UseNumber()
			if err := decoder.Decode(&object); err != nil {
				t.Fatal(err)
			}
			return object
		}
		want := decode(body)
		for name, value := range want {
			if value == nil {
				delete(want, name)
			}
		}
		if got := decode([]byte(event.Data)); !hasRepeated(body) && !reflect.DeepEqual(any(got), reference(want, "")) {
			t.Errorf("%s\nbecame %s", body, event.Data)
		}
	})
}

// hasRepeated reports whether the tokens of a nested object may repeat a name, of which encoding/json keeps the last.
func hasRepeated(body []byte) bool {
	decoder := json.NewDecoder(bytes.NewReader(body))
	seen := make(map[string]bool)
	for {
		token, err := decoder.Token()
		if err != nil {
			return false
		}
		if name, ok := token.(string); ok {
			if seen[name] {
				return true
			}
			seen[name] = true
		}
	}
}
