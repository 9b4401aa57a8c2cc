package shouqianba

import (
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// TestLoggedSignatureNamesTheMistake: the line of a notify whose signature is wrong says what explains it, where that is
// known at once. Before, it named the command only.
func TestLoggedSignatureNamesTheMistake(t *testing.T) {
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("SQB_PUBLIC", publicPEM(t, &other.PublicKey))
	t.Setenv("SQB_OTHER", publicPEM(t, &testKey().PublicKey))
	t.Setenv("SQB_KEY", "a-terminal-key")
	address := freeAddress(t)
	start(t, fmt.Sprintf(`{
	shouqianba {
		terminal till {
			terminal_sn 100
			terminal_key {env.SQB_KEY}
			public_key {env.SQB_PUBLIC}
		}
		terminal other {
			terminal_sn 200
			terminal_key {env.SQB_KEY}
			public_key {env.SQB_OTHER}
		}
	}
}
http://%s {
	bind 127.0.0.1
	shouqianba_notify /till till
	shouqianba_notify /other other
	respond 200
}`, address))
	const notify = `{"sn":"1","client_sn":"2","order_status":"PAID"}`
	for _, test := range []struct{ name, path, body, signature, want string }{
		{"another terminal's key", "/till", notify, signed(t, notify), "another_key [public_key of other]: "},
		{"a line break at the end", "/other", notify + "\n", signed(t, notify), "line_break: "},
		{"a line break cut off", "/other", notify, signed(t, notify+"\r\n"), "line_break: "},
		{"a forgery", "/other", notify, signed(t, "{}"), "no known mistake"},
	} {
		log.reset()
		if a := post(t, "http://"+address+test.path, test.body, "Content-Type: application/json", "Authorization: "+test.signature); a.status != 403 || a.body != "fail" {
			t.Errorf("%s: %d %s", test.name, a.status, a.body)
		}
		if lines := log.lines(`"notify rejected"`, `"reason":"signature"`); len(lines) != 1 || !strings.Contains(lines[0], `"mistake":"`+test.want) {
			t.Errorf("%s: %s", test.name, lines)
		}
	}
}

// TestExplainNotify: what the console shows of a refused notify says why it was refused, and shows none of its values.
func TestExplainNotify(t *testing.T) {
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("SQB_PUBLIC", publicPEM(t, &testKey().PublicKey))
	t.Setenv("SQB_OTHER", publicPEM(t, &other.PublicKey))
	t.Setenv("SQB_KEY", "a-terminal-key")
	start(t, `{
	shouqianba {
		terminal till {
			terminal_sn 1000001
			terminal_key {env.SQB_KEY}
			public_key {env.SQB_PUBLIC}
		}
		terminal bar {
			terminal_sn 1000002
			terminal_key {env.SQB_KEY}
			public_key {env.SQB_PUBLIC}
		}
		terminal kiosk {
			terminal_sn 1000003
			terminal_key {env.SQB_KEY}
			public_key {env.SQB_OTHER}
		}
	}
}`)
	loaded, err := caddy.ActiveContext().App("shouqianba")
	if err != nil {
		t.Fatal(err)
	}
	app := loaded.(*App)
	const notify = `{"sn":"7894","client_sn":"secret-5","order_status":"PAID","terminal_sn":"1000001"}`
	rightly := signed(t, notify)
	for _, test := range []struct{ name, terminal, body, signature, english, chinese string }{
		{"another terminal's key", "kiosk", notify, rightly, "another_key [public_key of bar]: does this notify belong to that terminal?", "another_key [public_key of bar]：这条通知是否属于那个终端？"},
		{"a line break at the end", "till", notify + "\n", rightly, "line_break: something on the way has put a line break", "line_break：途中有程序在报文末尾加了换行"},
		{"a forgery", "till", notify, signed(t, "{}"), "no known mistake explains it", "不属于任何已知错误"},
		{"no signature", "till", notify, "", "does not verify: there is no header Authorization", "验签失败：没有 Authorization 头"},
		{"no base64", "till", notify, "Bearer %%%", "does not verify: the header Authorization is not base64", "验签失败：Authorization 头不是 base64"},
		{"a long one", "till", notify, strings.Repeat("QUFB", 513), "does not verify: the header Authorization is longer than 2048 bytes", "验签失败：Authorization 头超过 2048 字节"},
		{"another terminal's", "bar", notify, rightly, "the signature is right, but its terminal_sn is another terminal's: till", "签名正确，但 terminal_sn 不是此终端的，而是 till 的"},
		{"a stranger's", "till", strings.Replace(notify, "1000001", "9000009", 1), "", "its terminal_sn is another terminal's: none of this configuration", "terminal_sn 不是此终端的，配置中也没有这个终端"},
		{"broken", "till", `{"sn":"7894","client_sn":"secret-5"`, "", "the signature is right, but this is no notify: broken JSON at byte ", "签名正确，但报文不是通知：broken JSON at byte "},
		{"repeated", "till", `{"sn":"7894","sn":"secret-5"}`, "", `the signature is right, but this is no notify: field "sn" is repeated`, `签名正确，但报文不是通知：field "sn" is repeated`},
		{"taken now", "till", notify, rightly, "it verifies with the configuration that runs now", "按现在的配置验签通过"},
	} {
		if test.signature == "" && test.name != "no signature" {
			test.signature = signed(t, test.body)
		}
		header := http.Header{}
		if test.signature != "" {
			header.Set("Authorization", test.signature)
		}
		for want, chinese := range map[string]bool{test.english: false, test.chinese: true} {
			var told strings.Builder
			if err := app.ExplainNotify(&told, test.terminal, []byte(test.body), header, chinese); err != nil {
				t.Fatal(err)
			}
			if said := told.String(); !strings.Contains(said, want) || !strings.Contains(said, test.terminal) || !strings.Contains(said, "sn=<4>") {
				t.Errorf("%s, Chinese %v: %s", test.name, chinese, said)
			}
			for _, secret := range []string{"secret-5", "7894", "1000001", "9000009", "a-terminal-key"} {
				if strings.Contains(told.String(), secret) {
					t.Errorf("%s shows %s: %s", test.name, secret, told.String())
				}
			}
		}
	}
	var told strings.Builder
	if err := app.ExplainNotify(&told, "nobody", []byte(notify), nil, false); err != nil || told.Len() > 0 {
		t.Errorf("%v, %s", err, told.String())
	}
	// A name is a stranger's text too.
	if err := app.ExplainNotify(&told, "till", []byte("{\"a\u202eb\":1}"), nil, false); err != nil || strings.Contains(told.String(), "\u202e") {
		t.Errorf("%v, %q", err, told.String())
	}
}

// TestExplainCode: a code is explained by what the documents say of it, in both languages; one that they only name is not.
func TestExplainCode(t *testing.T) {
	app := new(App)
	for _, chinese := range []bool{false, true} {
		for code := range strings.FieldsSeq(`INVALID_PARAMS ILLEGAL_SIGN UPAY_ORDER_NOT_EXISTS UPAY_ORDER_NOT_EXIST CLIENT_SN_CONFLICT
			UPAY_REFUND_INVALID_ORDER_STATE ACCOUNT_BALANCE_NOT_ENOUGH PAY_FAIL PAY_FAIL_ERROR REFUND_ERROR CANCEL_ERROR PAY_IN_PROGRESS`) {
			if cause, remedy, known := app.ExplainCode(code, chinese); !known || cause == "" || remedy == "" {
				t.Errorf("%s: %q %q", code, cause, remedy)
			}
		}
		// Nothing was done, and nothing will be: whoever decides that for the watch also has words for it.
		for _, codes := range refusing {
			for code := range codes {
				if _, remedy, known := app.ExplainCode(code, chinese); !known || !strings.HasPrefix(remedy, map[bool]string{false: "Nothing was", true: "没有"}[chinese]) {
					t.Errorf("%s: %q", code, remedy)
				}
			}
		}
		for _, code := range []string{"", "other", "SUCCESS", "PRECREATE_SUCCESS", "UNEXPECTED_PROVIDER_ERROR", "<b>"} {
			if cause, remedy, known := app.ExplainCode(code, chinese); known || cause+remedy != "" {
				t.Errorf("%s: %q %q", code, cause, remedy)
			}
		}
	}
}
