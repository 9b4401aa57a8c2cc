package shouqianba

import (
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"strings"
	"testing"
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
