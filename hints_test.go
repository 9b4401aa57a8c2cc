package chinaums

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/internal/testutil"
)

// signedWith is a payment's form that is signed as a mistake makes it, by the tests' own reference.
func signedWith(key string, change func(signed string) string, fields ...referenceField) string {
	form := changed(paymentForm(), fields...)
	text := form.stringToSign()
	if change != nil {
		text = change(text)
	}
	values := url.Values{}
	for _, field := range form {
		values.Set(field.name, field.value)
	}
	values.Set("sign", fmt.Sprintf("%X", sha256.Sum256([]byte(text+key))))
	return values.Encode()
}

// TestLoggedSignatureNamesTheMistake: the line of a notify whose signature is wrong says which known mistake explains it.
// Before, it named the command only.
func TestLoggedSignatureNamesTheMistake(t *testing.T) {
	plus := strings.NewReplacer(" ", "+")
	for _, test := range []struct{ name, body, want string }{
		{"the app key", signedWith(testAppKey, nil), "app_key: "},
		{"small letters", signedWith(strings.ToLower(testNotifyKey), nil), "key_case: "},
		{"a plus for a space", signedWith(testNotifyKey, plus.Replace, referenceField{name: "orderDesc", value: "two words"}), "plus_kept: "},
		{"another merchant's key", signedWith(otherNotifyKey, nil), "another_key [notify_key of other]: "},
		{"a forgery", signedWith("nobody's", nil), "none that is known at once"},
		{"too much work", signedWith(testAppKey, nil, referenceField{name: "attachedData", value: strings.Repeat("a", 60000)}), ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			setKeys(t)
			t.Setenv("UMS_OTHER_KEY", otherNotifyKey)
			address := freeAddress(t)
			options := strings.Replace(merchantOptions(noPlatform), "\t\tmerchant shop", "\t\tmerchant other {\n\t\t\tnotify_key {env.UMS_OTHER_KEY}\n\t\t}\n\t\tmerchant shop", 1)
			log := startCaddy(t, options+notifySite(address, "chinaums_notify shop"))
			wantWord(t, postNotify(t, "http://"+address+"/notify", test.body), 403)
			lines := log.lines(`"notify rejected"`, `"reason":"signature"`, `"explain":"caddy chinaums verify"`)
			if len(lines) != 1 || test.want != "" && !strings.Contains(lines[0], `"mistake":"`+test.want) || test.want == "" && strings.Contains(lines[0], "mistake") {
				t.Errorf("want %q: %s", test.want, lines)
			}
			for _, secret := range []string{testNotifyKey, testAppKey, otherNotifyKey, strings.ToLower(testNotifyKey)} {
				if strings.Contains(log.String(), secret) {
					t.Error("a key is logged")
				}
			}
		})
	}
}

const otherNotifyKey = "another-example-key"

// TestDiagnosisIsBounded: strangers can have a signature explained 10 times a minute at a handler, and no oftener.
func TestDiagnosisIsBounded(t *testing.T) {
	url, log := startNotify(t, "chinaums_notify")
	for range 30 {
		wantWord(t, postNotify(t, url, signedWith(testAppKey, nil)), 403)
	}
	if lines := log.lines(`"mistake":"app_key`); len(lines) != 10 {
		t.Errorf("%d diagnoses", len(lines))
	}
}

// startRaw is a server that answers every connection with some bytes, whatever comes, or closes it.
func startRaw(t *testing.T, answer string) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer connection.Close()
				in := bufio.NewReader(connection)
				first, _ := in.Peek(1)
				if answer != "" {
					if string(first) == "P" { // POST: a client that is answered before it has sent all may say that only
						if r, err := http.ReadRequest(in); err == nil {
							_, _ = io.Copy(io.Discard, r.Body)
						}
					}
					_, _ = io.WriteString(connection, answer)
					_, _ = io.Copy(io.Discard, connection) // closed by whoever has read the answer
				}
			}()
		}
	}()
	return listener.Addr().String()
}

// TestHintsOfTheApp: the line of an event that the app has not taken says what is probably wrong. Before, it had the status
// or the error only.
func TestHintsOfTheApp(t *testing.T) {
	status := func(code int, body string) string {
		app := newMerchantApp(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(code)
			io.WriteString(w, body)
		})
		return "reverse_proxy " + strings.TrimPrefix(app.URL, "http://")
	}
	for _, test := range []struct{ name, app, want string }{
		{"401", status(401, ""), "APP_SECRET"},
		{"403", status(403, ""), "APP_SECRET"},
		{"404", status(404, ""), "notifyUrl's path"},
		{"404 of PHP-FPM", status(404, "File not found.\n"), "root must be"},
		{"405", status(405, ""), "takes no POST"},
		{"419", status(419, ""), "CSRF"},
		{"500", status(500, ""), "php_admin_value[error_log]"},
		{"503", status(503, ""), "cannot reach it"},
		{"a redirect", status(302, ""), "the app redirects"},
		{"a redirect to https", status(308, ""), "the app redirects"},
		{"nobody listens", "reverse_proxy " + freeAddress(t), "nobody listens there"},
		{"no such socket", "reverse_proxy unix//" + filepath.Join(t.TempDir(), "none.sock"), "no such socket"},
		{"HTTP where FastCGI is spoken", "reverse_proxy " + startRaw(t, ""), "needs php_fastcgi"}, // reset, closed while writing, or EOF
		{"FastCGI where HTTP is spoken", "root " + t.TempDir() + "\n\tphp_fastcgi " + startRaw(t, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"), "use reverse_proxy"},
		{"no HTTP at all", "reverse_proxy " + startRaw(t, "SSH-2.0-OpenSSH\r\n"), "compare http:// and https://"},
		{"TLS where HTTP is spoken", strings.Replace(status(200, ""), "reverse_proxy ", "reverse_proxy https://", 1), "compare http:// and https://"},
	} {
		t.Run(test.name, func(t *testing.T) {
			url, log := startNotify(t, "chinaums_notify\n\t"+test.app)
			wantWord(t, postNotify(t, strings.TrimSuffix(url, "/notify")+"/index.php", signedPayment()), 502)
			if lines := log.lines(`"event not delivered"`, `"hint":"`, test.want); len(lines) != 1 {
				t.Errorf("no hint:\n%s", strings.Join(log.lines("event not delivered"), ""))
			}
		})
	}
}

// TestHintOfRealFPM is about a real PHP-FPM that is spoken to in HTTP.
func TestHintOfRealFPM(t *testing.T) {
	var fpm string
	for _, name := range []string{"php-fpm", "php-fpm8.4", "php-fpm8.3", "php-fpm8.2", "php-fpm8.1"} {
		if path, err := exec.LookPath(name); err == nil {
			fpm = path
			break
		}
	}
	if fpm == "" {
		if os.Getenv("CHINAUMS_E2E") == "1" {
			t.Fatal("php-fpm is missing, and CHINAUMS_E2E=1 asks for it")
		}
		t.Skip("needs php-fpm")
	}
	directory, address := t.TempDir(), freeAddress(t)
	config := filepath.Join(directory, "fpm.conf")
	content := "[global]\nerror_log = " + filepath.Join(directory, "log") + "\n[www]\nlisten = " + address + "\npm = static\npm.max_children = 1\n"
	if err := os.WriteFile(config, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(fpm, "-n", "-F", "-R", "-y", config)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt) // its worker would outlive a kill, and keep the port
		_ = cmd.Wait()
	})
	testutil.Eventually(t, "PHP-FPM listens", func() bool {
		connection, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			connection.Close()
		}
		return err == nil
	})
	url, log := startNotify(t, "chinaums_notify\n\treverse_proxy "+address)
	wantWord(t, postNotify(t, url, signedPayment()), 502)
	if len(log.lines(`"event not delivered"`, `"reason":"app_unreachable"`, "needs php_fastcgi instead of reverse_proxy")) != 1 {
		t.Errorf("no hint:\n%s", log)
	}
}

// TestWarningsAtLoad: what somebody has hardly meant is a WARN when the configuration loads. Before, nothing was said.
func TestWarningsAtLoad(t *testing.T) {
	merchant := func(lines string) string {
		return "{\n\tchinaums {\n\t\tmerchant shop {\n" + lines + "\n\t\t}\n\t}\n}\n"
	}
	inbox := func(site string) func(string) string {
		return func(address string) string {
			return strings.Replace(merchant("notify_key {env.UMS_NOTIFY_KEY}"), "{\n", "{\n\tinbox {\n\t\tstore bolt {\n\t\t\tpath "+
				filepath.Join(t.TempDir(), "inbox.db")+"\n\t\t}\n\t}\n", 1) + notifySite(address, site)
		}
	}
	const deliver = "\n\tinbox {\n\t\tdeliver {\n\t\t\trespond 200\n\t\t}\n\t}"
	calls := func(site string) func(string) string {
		return func(address string) string {
			_, port, _ := net.SplitHostPort(address)
			return merchantOptions(noPlatform) + "http://:" + port + " {\n" + site + "\n}\n"
		}
	}
	keys := func(lines string) func(string) string {
		return func(string) string { return merchant(lines) }
	}
	for _, test := range []struct {
		name   string
		config func(address string) string
		want   string // "": no warning
		words  string
	}{
		{"a shell's variable for a key", keys("notify_key $UMS_NOTIFY_KEY"), "shell's variable", `"option":"notify_key"`},
		{"a shell's variable in braces", keys("app_id a\napp_key ${UMS_APP_KEY}"), "shell's variable", `"option":"app_key"`},
		{"a shell's variable for a mid", keys("notify_key {env.UMS_NOTIFY_KEY}\nmid $UMS_MID"), "shell's variable", `"option":"mid"`},
		{"a shell's variable for a token", calls("bind 127.0.0.1\nchinaums_proxy {\ntoken $TOKEN\n}"), "shell's variable", `"option":"token"`},
		{"a shell's variable for a secret", inbox("webhook_signature $APP_SECRET\n\trespond 200"), "shell's variable", `"option":"secrets[0]"`},
		{"a dollar in a key", keys("notify_key a$UMS"), "", "shell's variable"},
		{"notify_key is app_key", keys("app_id {env.UMS_APP_ID}\napp_key {env.UMS_APP_KEY}\nnotify_key {env.UMS_APP_KEY}"), "notify_key is the same as app_key", `"merchant":"shop"`},
		{"a previous notify_key is app_key", keys("app_id {env.UMS_APP_ID}\napp_key {env.UMS_APP_KEY}\nnotify_key {env.UMS_NOTIFY_KEY} {env.UMS_APP_KEY}"), "notify_key is the same as app_key", ""},
		{"two keys", keys("app_id {env.UMS_APP_ID}\napp_key {env.UMS_APP_KEY}\nnotify_key {env.UMS_NOTIFY_KEY}"), "", "notify_key is the same as app_key"},
		{"a short mid", keys("notify_key {env.UMS_NOTIFY_KEY}\nmid 8983401490"), "a mid of this platform has 15 characters", "8983401490"},
		{"a mid", keys("notify_key {env.UMS_NOTIFY_KEY}\nmid 898340149000005"), "", "15 characters"},
		{"a proxy without bind", calls("chinaums_proxy"), "listens on every address", ""},
		{"a proxy in handle without bind", calls("handle /v1/* {\nchinaums_proxy\n}"), "listens on every address", ""},
		{"a guard without bind", calls("chinaums_guard\nrespond 200"), "listens on every address", ""},
		{"links without bind", calls("chinaums_h5"), "listens on every address", ""},
		{"a proxy with bind", calls("bind 127.0.0.1\nchinaums_proxy"), "", "listens on every address"},
		{"a proxy with token", calls("chinaums_proxy {\ntoken {env.UMS_APP_KEY}\n}"), "", "listens on every address"},
		{"notifies without bind", calls("chinaums_notify\nrespond 200"), "", "listens on every address"},
		{"webhook_signature in front of inbox", inbox("webhook_signature {env.UMS_APP_KEY}" + deliver), "move it into deliver", `"inbox":"default"`},
		{"webhook_signature in handle with inbox", inbox("handle /notify {\nchinaums_notify\nwebhook_signature {env.UMS_APP_KEY}" + deliver + "\n}"), "move it into deliver", ""},
		{"webhook_signature of another path", inbox("webhook_signature /a {env.UMS_APP_KEY}" + strings.Replace(deliver, "inbox", "inbox /b", 1)), "", "move it into deliver"},
		{"webhook_signature in another handle", inbox("handle /a {\nwebhook_signature {env.UMS_APP_KEY}\nrespond 200\n}\nhandle {" + deliver + "\n}"), "", "move it into deliver"},
		{"webhook_signature in deliver", inbox("webhook_signature {env.UMS_APP_KEY}" + strings.Replace(deliver, "respond", "webhook_signature {env.UMS_APP_KEY}\n\t\t\trespond", 1)), "", "move it into deliver"},
	} {
		t.Run(test.name, func(t *testing.T) {
			setKeys(t)
			t.Setenv("UMS_MID", "898340149000005")
			log := startCaddy(t, test.config(freeAddress(t)))
			switch {
			case test.want == "" && len(log.lines(`"level":"warn"`, test.words)) > 0:
				t.Errorf("warned:\n%s", log)
			case test.want != "" && len(log.lines(`"level":"warn"`, test.want, test.words)) != 1:
				t.Errorf("not warned of once:\n%s", log)
			}
			if strings.Contains(log.String(), testAppKey) || strings.Contains(log.String(), testNotifyKey) {
				t.Error("a key is logged")
			}
		})
	}
}

// TestNotifyURLThatNobodyServes: an order whose notifyUrl leads nowhere in this configuration is a WARN with the paths that take
// notifies, once for each. Before, the notify got lost without a word. Slashes that Caddy merges, and no path at all, are no mistake:
// they were warned of.
func TestNotifyURLThatNobodyServes(t *testing.T) {
	setKeys(t)
	platform := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"errCode":"SUCCESS"}`) }))
	defer platform.Close()
	address := freeAddress(t)
	log := startCaddy(t, merchantOptions(platform.URL)+notifySite(address,
		"handle /notify {\nchinaums_notify\nrespond 200\n}\nhandle_path /pay/* {\nchinaums_notify /inner\nrespond 200\n}\nchinaums_notify /\nchinaums_proxy /v1/*"))
	order := func(member string) {
		t.Helper()
		body := `{"merOrderId":"1",` + member + `"totalAmount":1}`
		if a := do(t, newRequest(t, "POST", "http://"+address+"/v1/netpay/trade/precreate", body, "Content-Type: application/json")); a.status != 200 {
			t.Fatalf("%s: %d %s", member, a.status, a.body)
		}
	}
	const message = "takes no notifies"
	for _, good := range []string{``, `"notifyUrl":"https://pay.example.com/notify",`, `"notifyUrl" : "https:\/\/pay.example.com\/Notify?a=1",`, `"notifyUrl":"https://pay.example.com/pay/inner",`, `"notifyUrl":"https://pay.example.com//notify",`, `"notifyUrl":"https://pay.example.com",`, `"notifyUrl":"",`, `"notifyUrl":7,`} {
		order(good)
		if lines := log.lines(`"level":"warn"`, message); len(lines) > 0 {
			t.Fatalf("%s: %s", good, lines)
		}
	}
	for range 3 {
		order(`"notifyUrl":"https://pay.example.com/notifi",`)
	}
	order(`"notifyUrl":"https:\/\/pay.example.com\/notify\/",`)
	if lines := log.lines(`"level":"warn"`, message, `"notify_paths":["/","/notify","/pay/*"]`, `"merchant":"shop"`); len(lines) != 2 || !strings.Contains(lines[0], "/notifi") || !strings.Contains(lines[1], "/notify/") {
		t.Errorf("warned:\n%s", strings.Join(log.lines(message), ""))
	}
	for i := range 50 {
		order(fmt.Sprintf(`"notifyUrl":"https://pay.example.com/other/%d",`, i))
	}
	if lines := log.lines(message); len(lines) > 16 {
		t.Errorf("%d lines", len(lines))
	}
}

// TestNotifyToAnotherHandler: a notify that comes to the handler of calls or of the return page, because the notifyUrl is
// wrong, is a WARN with the paths that take notifies. Before, it was a refusal like any other.
func TestNotifyToAnotherHandler(t *testing.T) {
	setKeys(t)
	address := freeAddress(t)
	log := startCaddy(t, merchantOptions(noPlatform)+notifySite(address,
		"handle /notify {\nchinaums_notify\nrespond 200\n}\n@billing path /notify/bills\nchinaums_notify @billing\nchinaums_return /return\nchinaums_proxy /calls/* {\nallow 192.0.2.1\n}\nchinaums_proxy /v1/*\nchinaums_guard /pay"))
	refused := func(path, body string, headers ...string) {
		t.Helper()
		if a := do(t, newRequest(t, "POST", "http://"+address+path, body, headers...)); a.status < 400 {
			t.Errorf("%s: %d", path, a.status)
		}
	}
	const served = `"notify_paths":["/notify","/notify/bills"]`
	refused("/calls/notify", signedPayment(), formType)
	if len(log.lines(`"level":"warn"`, `"call refused"`, `"reason":"allow"`, "correct the notifyUrl", served)) != 1 {
		t.Errorf("from a stranger:\n%s", log)
	}
	refused("/v1/notify", signedPayment(), formType)
	if len(log.lines(`"level":"warn"`, `"call refused"`, `"reason":"content_type"`, "correct the notifyUrl", served)) != 1 {
		t.Errorf("from a neighbor:\n%s", log)
	}
	refused("/return", signedPayment(), formType)
	if len(log.lines(`"level":"warn"`, `"return page refused"`, `"reason":"method"`, "correct the notifyUrl", served)) != 1 {
		t.Errorf("at the return page:\n%s", log)
	}
	refused("/calls/v1/netpay/query", "{}", "Content-Type: application/json")
	refused("/v1/netpay/query", "{}", "Content-Type: text/plain")
	if lines := log.lines("correct the notifyUrl"); len(lines) != 3 {
		t.Errorf("a call is taken for a notify:\n%s", lines)
	}
	for range 30 {
		refused("/calls/notify", signedPayment(), formType)
	}
	if lines := log.lines(`"reason":"allow"`, "correct the notifyUrl"); len(lines) > 10 {
		t.Errorf("%d lines", len(lines))
	}
}
