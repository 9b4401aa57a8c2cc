package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
)

// Each load error that the page about troubles explains is one that Caddy gives.
func TestTroubleLoadErrors(t *testing.T) {
	setReadmeEnvironment(t)
	merchant := func(name, options string) string { return "merchant " + name + " {\n" + options + "\n}\n" }
	notify := "notify_key {env.UMS_NOTIFY_KEY}"
	address := free(t)
	site := func(directives string) string { return "http://" + address + " {\n" + directives + "\n}\n" }
	chinaums := func(blocks, rest string) string { return "{\nchinaums {\n" + blocks + "}\n" + rest + "}\n" }
	memory := "/dev/shm"
	if info, err := os.Stat(memory); err != nil || !info.IsDir() {
		missing(t, memory)
	}
	held := filepath.Join(diskDirectory(t), "held.db")
	cases := map[string][]string{
		"unknown option":     {chinaums(merchant("shop", notify+"\nnotify_kee x"), "")},
		"is given twice":     {chinaums(merchant("shop", notify+"\n"+notify), "")},
		"surplus argument":   {chinaums(merchant("shop b", notify), "")},
		"is empty":           {chinaums(merchant("shop", "app_id 1\napp_key {env.NOT_THERE_AT_ALL}"), "")},
		"cannot be resolved": {chinaums(merchant("shop", "app_id 1\napp_key {file./not/there/at/all}"), "")},
		"app_id and app_key belong together": {
			chinaums(merchant("shop", "app_id 1"), ""),
		},
		"both have the same notify_key, so both need a mid": {chinaums(merchant("a", notify)+merchant("b", notify), "")},
		"name a merchant": {
			chinaums(merchant("a", notify+"\nmid 1")+merchant("b", notify+"\nmid 2"), "") + site("chinaums_notify\nrespond OK"),
		},
		"the inbox's file … would be in memory": {
			"{\ninbox {\nstore bolt {\npath " + filepath.Join(memory, "caddy-chinaums-test", "inbox.db") + "\n}\n}\n}\n" + site("inbox {\ndeliver {\nrespond OK\n}\n}"),
		},
		"is not an inbox's file, or damaged": {
			"{\ninbox {\nstore bolt {\npath " + held + "\n}\n}\n}\n" + site("inbox {\ndeliver {\nrespond OK\n}\n}"),
		},
		"ambiguous site definition": {site("respond OK") + site("respond OK")},
	}
	if err := os.WriteFile(held, []byte(strings.Repeat("not a database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	explained := firstCells(sectionOf(t, troublePage, "Caddy does not start or reload"))
	tested := 0
	for _, span := range codeSpan.FindAllStringSubmatch(explained, -1) {
		for message, sources := range cases {
			if !strings.HasSuffix(span[1], message) {
				continue
			}
			tested++
			for _, source := range sources {
				err := loadError(t, source)
				for part := range strings.SplitSeq(span[1], " … ") {
					if err == nil || !strings.Contains(err.Error(), part) {
						t.Errorf("%q: the error is %v", span[1], err)
					}
				}
			}
		}
	}
	if tested != len(cases) {
		t.Errorf("%d of %d messages stand on the page:\n%s", tested, len(cases), explained)
	}
}

// loadError adapts, validates and loads a configuration, and returns what goes wrong.
func loadError(t *testing.T, source string) error {
	t.Helper()
	adapted, err := adaptUnformatted(source)
	if err != nil {
		return err
	}
	config := new(caddy.Config)
	if err := json.Unmarshal(quiet(t, adapted), config); err != nil {
		return err
	}
	if err := caddy.Validate(config); err != nil {
		return err
	}
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	err = caddy.Load(quiet(t, adapted), true)
	if stopErr := caddy.Stop(); stopErr != nil {
		t.Error(stopErr)
	}
	return err
}

// withAccessLog gives a configuration that is quiet its access log back.
func withAccessLog(t *testing.T, adapted, silent []byte) []byte {
	t.Helper()
	var from, to map[string]any
	for content, target := range map[*[]byte]*map[string]any{&adapted: &from, &silent: &to} {
		if err := json.Unmarshal(*content, target); err != nil {
			t.Fatal(err)
		}
	}
	logs := to["logging"].(map[string]any)["logs"].(map[string]any)
	for name, log := range from["logging"].(map[string]any)["logs"].(map[string]any) {
		if name != "default" {
			logs[name] = log
		}
	}
	config, err := json.Marshal(to)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

// diskDirectory is a directory that is not in memory.
func diskDirectory(t *testing.T) string {
	t.Helper()
	directory, err := os.MkdirTemp("/var/tmp", "caddy-chinaums-docs-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(directory) })
	return directory
}

// The page's way to get the body of a notify that is refused: what is logged is the body, byte for byte, and the gateway
// judges it all the same.
func TestTroubleCapture(t *testing.T) {
	setReadmeEnvironment(t)
	app, address := startRecorder(t)
	logged, in := filepath.Join(t.TempDir(), "notifications.log"), free(t)
	adapted := adapt(t, []byte(replaced(t, blockHolding(t, troublePage, "caddyfile", "log_append"),
		"{\n\tchinaums {", "{\n\tauto_https off\n\tchinaums {", "/var/log/caddy/notifications.log", logged,
		"pay.example.com {", "http://"+in+" {\n\tbind 127.0.0.1", "127.0.0.1:"+appPort, address)))
	loadAdapted(t, withAccessLog(t, adapted, quiet(t, adapted)))
	fields := map[string]string{"mid": os.Getenv("UMS_MID"), "merOrderId": "SP4Q20261124000000001", "orderDesc": "一杯茶 + \"two\""}
	var sent []string
	for _, variant := range []sandbox.Variant{sandbox.Tampered, sandbox.Genuine} {
		message, err := sandbox.Notify{Kind: sandbox.KindPayment, Variant: variant, Key: os.Getenv("UMS_NOTIFY_KEY"), Fields: fields}.Build()
		if err != nil {
			t.Fatal(err)
		}
		status, word := send(t, "http://"+in+"/notify", string(message.Body), http.Header{"Content-Type": {message.ContentType}})
		want := http.StatusForbidden
		if variant.True() {
			want = http.StatusOK
		}
		if status != want {
			t.Errorf("%s: %d %s", variant, status, word)
		}
		sent = append(sent, string(message.Body))
	}

	// An entry is written after its answer has gone out.
	var captured []string
	for deadline := time.Now().Add(time.Minute); len(captured) < len(sent) && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		captured = captured[:0]
		content, err := os.ReadFile(logged)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(content)) {
			var entry struct{ Notification string }
			if err := json.Unmarshal([]byte(line), &entry); err != nil {
				break // half written
			}
			captured = append(captured, entry.Notification)
		}
	}
	slices.Sort(sent)
	slices.Sort(captured)
	if !slices.Equal(captured, sent) {
		t.Errorf("logged was %q, not %q", captured, sent)
	}
	if got := app.headers("Ce-Type"); got != "com.chinaums.payment.succeeded" {
		t.Errorf("the app got %s", got)
	}
}

// What the page about migration gives an app whose SDK hides headers, and one that made H5 links by itself.
func TestMigrationPHP(t *testing.T) {
	said := php(t, shownFunction(t, migrationPage, "outcome"), `foreach ([null, [], ['errCode' => 'SUCCESS'], ['errCode' => 'NO_ORDER'], ['result_code' => '200'],
    ['errCode' => 'GATEWAY_TIMEOUT', 'outcome' => 'unknown'], ['errCode' => 'GATEWAY_UNREACHABLE', 'outcome' => 'not_sent'],
    ['error_code' => 'GATEWAY_FORBIDDEN', 'result_code' => '400', 'outcome' => 'not_sent'], ['errCode' => 'GATEWAY_NEW']] as $answer) {
    echo outcome($answer), ' ';
}`)
	if said != "unknown unknown answered answered answered unknown not_sent not_sent unknown " {
		t.Errorf("the outcomes are %s", said)
	}

	var asked string
	status := http.StatusOK
	gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.Method + " " + r.URL.Path + " " + r.Header.Get("Content-Type")
		w.WriteHeader(status)
		if status == http.StatusOK {
			fmt.Fprint(w, `{"url":"https://platform/pay?a=1"}`)
			return
		}
		fmt.Fprint(w, `{"errCode":"GATEWAY_INVALID","errMsg":"no link"}`)
	}))
	defer gateway.Close()
	_, port, err := net.SplitHostPort(strings.TrimPrefix(gateway.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	function := replaced(t, shownFunction(t, migrationPage, "h5_link"), "127.0.0.1:"+gatewayPort, "127.0.0.1:"+port)
	use := "try { echo h5_link('/v1/netpay/trade/h5-pay', ['merOrderId' => '1']); } catch (RuntimeException $e) { echo 'thrown: ', $e->getMessage(); }"
	if got := php(t, function, use); got != "https://platform/pay?a=1" || asked != "POST /v1/netpay/trade/h5-pay application/json" {
		t.Errorf("%s, asked %s", got, asked)
	}
	status = http.StatusUnprocessableEntity
	if got := php(t, function, use); got != "thrown: no link" {
		t.Errorf("a refusal: %s", got)
	}
}

// The nginx of the page about the start has the path and the port of its Caddyfile.
func TestNginxBlock(t *testing.T) {
	shown := blockHolding(t, startPage, "nginx", "proxy_pass")
	if !regexp.MustCompile(`location = /notify \{\s+proxy_pass http://127\.0\.0\.1:` + notifyPort + `;`).MatchString(shown) {
		t.Errorf("it does not pass /notify to port %s:\n%s", notifyPort, shown)
	}
}
