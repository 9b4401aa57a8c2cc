package chinaums

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// TestErrorTable: the documents' 22 codes, in their order, with the flag 系统失败 as E-ERRX-02 lists it.
func TestErrorTable(t *testing.T) {
	var got []string
	for _, e := range platformErrors {
		flag := ""
		if e.alarm {
			flag = "!"
		}
		got = append(got, e.code+flag)
		for _, text := range []string{e.causeChinese, e.remedyChinese, e.causeEnglish, e.remedyEnglish} {
			if text == "" || strings.ContainsAny(text, "|\n") {
				t.Errorf("%s: text %q", e.code, text)
			}
		}
	}
	const want = "SUCCESS INTERNAL_ERROR! BAD_REQUEST! NO_SERVICE! TIMEOUT! NO_ORDER OPERATION_NOT_ALLOWED TARGET_FAIL DUP_ORDER! " +
		"NET_ERROR! NO_MERCHANT ORDER_PROCESSING INACTIVE_MERCHANT ABNORMAL_REQUEST_TIME! TXN_DISCARDED! BAD_SIGN! INVALID_MSGSRC! " +
		"INVALID_ORDER! NO_CROSS_DAY_TRADING DENIED_IP INVLID_MERCHANT_CONFIG! INVALID_RESPONSE! HAS_CANCELLED"
	if strings.Join(got, " ") != want {
		t.Errorf("%s\nwant\n%s", strings.Join(got, " "), want)
	}
}

// TestErrorCodesDocument: docs/error-codes.md is what the table says.
func TestErrorCodesDocument(t *testing.T) {
	var b strings.Builder
	b.WriteString(`# Error codes · 错误码

What the platform says in ` + "`errCode`" + `, what it means and what to do. The gateway passes the platform's answer on as it
came; it counts calls by these codes (` + "`caddy_chinaums_calls_total{errcode=…}`" + `; any other code is ` + "`other`" + `) and logs the
remedy as ` + "`advice`" + `. This page is made of the table in errors.go: go test -run TestErrorCodesDocument . -update

系统失败 is the platform's mark for what somebody has to look at. It does **not** mean that repeating is safe: after
TIMEOUT, NET_ERROR, INVALID_RESPONSE or INTERNAL_ERROR query first, with the same number.

| errCode | 原因 | 应对措施 | 系统失败 | Cause | Remedy |
| --- | --- | --- | --- | --- | --- |
`)
	for _, e := range platformErrors {
		alarm := "否"
		switch {
		case e.code == "SUCCESS":
			alarm = "–"
		case e.alarm:
			alarm = "是"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s | %s |\n", e.code, e.causeChinese, e.remedyChinese, alarm, e.causeEnglish, e.remedyEnglish)
	}
	b.WriteString(`
` + "`INVLID_MERCHANT_CONFIG`" + ` is spelled so on the wire; ` + "`INVALID_MERCHANT_CONFIG`" + ` is taken for the same. ` + "`HAS_CANCELLED`" + ` stands in
an example of the documents, not in their table. ` + "`0000`" + ` is the token interface's word for success.

The gateway's own codes begin with ` + "`GATEWAY_`" + `: see the [reference](en/reference.md), [参考](zh/reference.md).
`)
	path := filepath.Join("docs", "error-codes.md")
	if *updateGolden {
		if err := os.MkdirAll("docs", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != b.String() {
		t.Errorf("%s is not what errors.go says; run this test with -update", path)
	}
}

// TestErrorCodes: every code is counted by its own name, unknown ones as other; the access log has the remedy, and those
// that somebody has to look at a line of their own.
func TestErrorCodes(t *testing.T) {
	setKeys(t)
	platform := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		code, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, `{"errMsg":"x","errCode":%s}`, code)
	}))
	defer platform.Close()
	address := freeAddress(t)
	lines := startCaddy(t, strings.Replace(merchantOptions(platform.URL), "{\n", "{\n\tmetrics\n", 1)+`http://`+address+` {
	bind 127.0.0.1
	log
	metrics /metrics
	chinaums_proxy /v1/*
}`)
	counted := map[string]string{
		"INVALID_MERCHANT_CONFIG": "INVLID_MERCHANT_CONFIG", "0000": "0000",
		"SOMETHING_NEW": "other", "": "other", "BAD_SIGN\x00": "other", "other": "other",
	}
	for _, e := range platformErrors {
		counted[e.code] = e.code
	}
	want := map[string]int{}
	for code, label := range counted {
		body, err := json.Marshal(code)
		if err != nil {
			t.Fatal(err)
		}
		a := do(t, newRequest(t, "POST", "http://"+address+"/v1/netpay/query", string(body), "Content-Type: application/json"))
		if a.status != 200 || a.header.Get("Gateway-Outcome") != "answered" || !strings.Contains(a.body, string(body)) {
			t.Fatalf("%s: %+v", code, a)
		}
		want[label]++
	}
	metrics := do(t, newRequest(t, "GET", "http://"+address+"/metrics", "")).body
	for label, n := range want {
		line := fmt.Sprintf(`caddy_chinaums_calls_total{errcode="%s",merchant="shop",outcome="answered"} %d`, label, n)
		if !strings.Contains(metrics, line+"\n") {
			t.Errorf("the metrics have no %s", line)
		}
	}
	if got := strings.Count(metrics, "\ncaddy_chinaums_calls_total{"); got != len(want) {
		t.Errorf("%d series, want %d", got, len(want))
	}
	// The access log is written after the answer.
	eventually(t, "every access log line", func() bool { return len(lines.lines("handled request", "/v1/netpay/query")) == len(counted) })
	for _, e := range platformErrors {
		remedy := e.remedyChinese + " / " + e.remedyEnglish
		quoted, err := json.Marshal(remedy)
		if err != nil {
			t.Fatal(err)
		}
		access := lines.lines("handled request", `"errcode":"`+e.code+`"`)
		if advised := len(access) > 0 && strings.Contains(access[0], `"advice":`+string(quoted)); advised != (e.code != "SUCCESS") {
			t.Errorf("%s: access log with advice %v: %q", e.code, advised, access)
		}
		if warned := len(lines.lines(`"level":"warn"`, "did not execute the call", `"errcode":"`+e.code+`"`, `"merchant":"shop"`)) > 0; warned != e.alarm {
			t.Errorf("%s: warned %v, want %v", e.code, warned, e.alarm)
		}
	}
}

// TestErrMsgIsLogged: what the platform says of a call that it refused stands in the access log, and in the line of our own
// where there is one, at most 128 bytes. It was dropped, and a newcomer whose merOrderId had another prefix read BAD_REQUEST.
func TestErrMsgIsLogged(t *testing.T) {
	setKeys(t)
	var answer atomic.Value
	platform := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, answer.Load().(string))
	}))
	defer platform.Close()
	address := freeAddress(t)
	lines := startCaddy(t, merchantOptions(platform.URL)+`http://`+address+` {
	bind 127.0.0.1
	log
	chinaums_proxy /v1/*
}`)
	long := strings.Repeat("商", 60) // 180 bytes
	for i, test := range []struct {
		name, answer, want string // want is JSON; "" for none
		warned             bool
	}{
		{"Chinese", `{"errCode":"BAD_REQUEST","errMsg":"merOrderId应以来源编号3194开头"}`, `"merOrderId应以来源编号3194开头"`, true},
		{"no line of our own", `{"errCode":"NO_MERCHANT","errMsg":"找不到请求指定的商户"}`, `"找不到请求指定的商户"`, false},
		{"a code that nobody knows", `{"errCode":"NEW_CODE","errMsg":"another"}`, `"another"`, false},
		{"escaped, and quotes", `{"errCode":"BAD_SIGN","errMsg":"\u7b7e\u540d \"x\" \\ y"}`, `"签名 \"x\" \\ y"`, true},
		{"of the platform's own gateway", `{"errCode":"BAD_SIGN","errInfo":"签名错误"}`, `"签名错误"`, true},
		{"clipped between characters", `{"errCode":"BAD_SIGN","errMsg":"` + long + `"}`, `"` + strings.Repeat("商", 41) + `…"`, true},
		{"128 bytes", `{"errCode":"BAD_SIGN","errMsg":"` + strings.Repeat("x", 128) + `"}`, `"` + strings.Repeat("x", 128) + `"`, true},
		{"129 bytes", `{"errCode":"BAD_SIGN","errMsg":"` + strings.Repeat("x", 129) + `"}`, `"` + strings.Repeat("x", 125) + `…"`, true},
		{"what moves a terminal or hides", `{"errCode":"BAD_SIGN","errMsg":"a\u001b[31mb\u0000\u202ec\u200bd\ufeffe\r\nf\tg\u2028h\u0085i\u3000j"}`, `"a[31mbcde f g h i j"`, true},
		{"not UTF-8", "{\"errCode\":\"BAD_SIGN\",\"errMsg\":\"a\xffb\"}", `"ab"`, true},
		{"a number", `{"errCode":"BAD_SIGN","errMsg":7}`, "", true},
		{"no JSON", `<html>errCode</html>`, "", false},
		{"a success", `{"errCode":"SUCCESS","errMsg":"现金退款成功"}`, "", false},
	} {
		answer.Store(test.answer)
		path := fmt.Sprintf("/v1/netpay/query/%d", i)
		a := do(t, newRequest(t, "POST", "http://"+address+path, `{"merOrderId":"327M1"}`, "Content-Type: application/json"))
		if a.body != test.answer {
			t.Errorf("%s: the answer was changed: %q", test.name, a.body)
		}
		eventually(t, test.name, func() bool { return len(lines.lines("handled request", `"uri":"`+path+`"`)) == 1 })
		for message, expected := range map[string]bool{"handled request": true, "did not execute the call": test.warned} {
			got := lines.lines(message, path+`"`)
			if len(got) > 0 != expected {
				t.Errorf("%s: %q: %q", test.name, message, got)
				continue
			}
			for _, line := range got {
				if has := strings.Contains(line, `"errmsg":`); has != (test.want != "") || has && !strings.Contains(line, `"errmsg":`+test.want) {
					t.Errorf("%s: no %s in %s", test.name, test.want, line)
				}
			}
		}
	}
}
