package shouqianba

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
)

// misfits are what does not fit, each as `name rule`; what is advice only has a question mark.
func misfits(path, body string) (found []string) {
	for _, e := range validate(path, []byte(body)) {
		text := e.Name + " " + e.Rule
		if e.Advice {
			text += "?"
		}
		found = append(found, text)
	}
	return found
}

// TestValidateTable: document D's rows are the schema's, and its example fits.
func TestValidateTable(t *testing.T) {
	content, err := schemaFiles.ReadFile("schema/refund.json")
	if err != nil {
		t.Fatal(err)
	}
	for i := 1; i <= 15; i++ {
		if row := fmt.Sprintf("D-REQ-%02d", i); strings.Count(string(content), `"description": "`+row+" ") != 1 {
			t.Errorf("%s is not one of the descriptions", row)
		}
	}
	var schema struct{ Examples []json.RawMessage }
	if err := json.Unmarshal(content, &schema); err != nil || len(schema.Examples) != 1 {
		t.Fatalf("%d examples, %v", len(schema.Examples), err)
	}
	if got := misfits("/upay/v2/refund", string(schema.Examples[0])); got != nil {
		t.Errorf("the document's example: %v", got)
	}
}

func TestValidateRefund(t *testing.T) {
	many := make([]string, maxExtended+1)
	for i := range many {
		many[i] = fmt.Sprintf(`"k%02d":"v"`, i)
	}
	goods := `{"goods_id":"1","goods_name":"a","quantity":1,"price":2,"promotion_type":0}`
	for _, test := range []struct {
		name, set string // the field and its value; a value of - takes it away
		want      []string
	}{
		{"the least", ``, nil},
		{"by sn", `client_sn=-;sn="7892259488292938"`, nil},
		{"by trade_no", `client_sn=-;sn="` + strings.Repeat("9", 64) + `"`, nil},
		{"neither", `client_sn=-`, []string{"client_sn required"}},
		{"both empty", `client_sn="";sn=""`, []string{"client_sn required"}},
		{"no terminal_sn", `terminal_sn=-`, []string{"terminal_sn required"}},
		{"no refund_request_no", `refund_request_no=-`, []string{"refund_request_no required"}},
		{"no operator", `operator=-`, []string{"operator required"}},
		{"no refund_amount", `refund_amount=-`, []string{"refund_amount required"}},
		{"a long terminal_sn", `terminal_sn="` + strings.Repeat("1", 33) + `"`, []string{"terminal_sn maxLength"}},
		{"a long sn", `sn="` + strings.Repeat("1", 65) + `"`, []string{"sn maxLength"}},
		{"a client_sn of 32", `client_sn="` + strings.Repeat("1", 32) + `"`, nil},
		{"a client_sn of 33", `client_sn="` + strings.Repeat("1", 33) + `"`, []string{"client_sn maxLength?"}},
		{"a client_sn of 65", `client_sn="` + strings.Repeat("1", 65) + `"`, []string{"client_sn maxLength"}},
		{"a long refund_request_no", `refund_request_no="` + strings.Repeat("1", 21) + `"`, []string{"refund_request_no maxLength"}},
		{"a long operator", `operator="` + strings.Repeat("名", 65) + `"`, []string{"operator maxLength"}},
		{"an operator of 64 characters", `operator="` + strings.Repeat("名", 64) + `"`, nil},
		{"an amount as a number", `refund_amount=100`, []string{"refund_amount type"}},
		{"an amount of nothing", `refund_amount="0"`, []string{"refund_amount pattern"}},
		{"a negative amount", `refund_amount="-1"`, []string{"refund_amount pattern"}},
		{"an amount in yuan", `refund_amount="1.00"`, []string{"refund_amount pattern"}},
		{"an amount with a zero in front", `refund_amount="01"`, []string{"refund_amount pattern"}},
		{"an amount of 10 digits", `refund_amount="9999999999"`, nil},
		{"an amount of 11 digits", `refund_amount="10000000000"`, []string{"refund_amount pattern"}},
		{"a long reflect", `reflect="` + strings.Repeat("1", 65) + `"`, []string{"reflect maxLength"}},
		{"reflect as an object", `reflect={"tips":"200"}`, []string{"reflect type"}},
		{"extended", `extended={"goods_tag":"beijing"}`, nil},
		{"extended as text", `extended="{\"goods_tag\":\"beijing\"}"`, nil},
		{"extended as an array", `extended=[]`, []string{"extended type"}},
		{"too many in extended", `extended={` + strings.Join(many, ",") + `}`, []string{"extended maxProperties"}},
		{"a long key in extended", `extended={"` + strings.Repeat("k", 65) + `":"v"}`, []string{"extended propertyNames"}},
		{"a key of 64 bytes, a value of 256", `extended={"` + strings.Repeat("k", 64) + `":"` + strings.Repeat("v", 256) + `"}`, nil},
		{"a value of 86 characters, 258 bytes", `extended={"k":"` + strings.Repeat("名", 86) + `"}`, []string{"extended.k maxLength"}},
		{"goods", `goods_details=[` + goods + `]`, nil},
		{"goods as text", `goods_details="[]"`, nil},
		{"goods with a refund_amount", `goods_details=[` + strings.Replace(goods, "{", `{"refund_amount":1,`, 1) + `]`, nil},
		{"goods without what they need", `goods_details=[{}]`, []string{
			"goods_details[0].goods_id required", "goods_details[0].goods_name required", "goods_details[0].price required",
			"goods_details[0].promotion_type required", "goods_details[0].quantity required",
		}},
		{"a price as text", `goods_details=[` + strings.Replace(goods, `"price":2`, `"price":"2"`, 1) + `]`, []string{"goods_details[0].price type"}},
		{"another promotion_type", `goods_details=[` + strings.Replace(goods, `"promotion_type":0`, `"promotion_type":2`, 1) + `]`, []string{"goods_details[0].promotion_type enum"}},
		{"goods as an object", `goods_details={}`, []string{"goods_details type"}},
		{"an unknown field", `x=1`, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			body := map[string]json.RawMessage{
				"terminal_sn": json.RawMessage(`"00101010029201012912"`), "client_sn": json.RawMessage(`"7654321132"`),
				"refund_request_no": json.RawMessage(`"23030349"`), "operator": json.RawMessage(`"Obama"`), "refund_amount": json.RawMessage(`"100"`),
			}
			for set := range strings.SplitSeq(test.set, ";") {
				if name, value, ok := strings.Cut(set, "="); ok && value == "-" {
					delete(body, name)
				} else if ok {
					body[name] = json.RawMessage(value)
				}
			}
			content, err := json.Marshal(body)
			if err != nil {
				t.Fatal(err)
			}
			if got := misfits("/upay/v2/refund", string(content)); !slices.Equal(got, test.want) {
				t.Errorf("%s:\n%q\nwant %q", content, got, test.want)
			}
		})
	}
	if got := misfits("/upay/v2/query", `{}`); got != nil {
		t.Errorf("an interface without a table: %v", got)
	}
}

func TestValidateThroughCaddy(t *testing.T) {
	g := startPlatform(t, sandbox.ShouqianbaOptions{})
	start(t, g.config(t, g.fixed(), "handle /warn/* {\nuri strip_prefix /warn\nshouqianba_proxy {\nvalidate warn\n}\n}\nhandle {\nshouqianba_proxy {\nvalidate reject\n}\n}"))
	body := call(g.options.TerminalSN, `"client_sn":"1","refund_request_no":"1","operator":"o","refund_amount":"1.00"`)
	a := post(t, g.url("/upay/v2/refund"), body)
	var own struct {
		ResultCode string `json:"result_code"`
		ErrorCode  string `json:"error_code"`
		Fields     []struct{ Name, Rule, Message string }
	}
	if err := json.Unmarshal([]byte(a.body), &own); err != nil || a.status != 422 || a.header.Get("Gateway-Outcome") != "not_sent" ||
		own.ResultCode != "400" || own.ErrorCode != "GATEWAY_INVALID" || len(own.Fields) != 1 || own.Fields[0].Name != "refund_amount" {
		t.Errorf("answer: %d %s, %v", a.status, a.body, err)
	}
	if len(g.platform.Calls()) != 0 {
		t.Error("a call that was rejected has been sent")
	}
	if a = post(t, g.url("/warn/upay/v2/refund"), body); a.status != 200 || len(g.platform.Calls()) != 1 || len(log.lines("fields of a call do not fit", "refund_amount: pattern")) != 1 {
		t.Errorf("with warn: %d %s; log: %s", a.status, a.body, log)
	}
}
