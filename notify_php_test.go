package chinaums

import (
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// findTool returns a program that an end-to-end test needs, by the first of these names or patterns that there is. The
// test skips without one, unless CHINAUMS_E2E=1 asks for it.
func findTool(t testing.TB, what string, patterns ...string) string {
	t.Helper()
	for _, pattern := range patterns {
		if path, err := exec.LookPath(pattern); err == nil {
			return path
		}
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			return found[len(found)-1]
		}
	}
	if os.Getenv("CHINAUMS_E2E") == "1" {
		t.Fatalf("%s is missing, and CHINAUMS_E2E=1 asks for it", what)
	}
	t.Skip("needs " + what)
	return ""
}

// startFPM runs PHP-FPM on a Unix socket until the test ends, and returns the socket's path.
func startFPM(t *testing.T, directory string) string {
	t.Helper()
	fpm := findTool(t, "php-fpm", "php-fpm", "/usr/sbin/php-fpm*", "/usr/local/sbin/php-fpm*")
	socket := filepath.Join(directory, "fpm.sock")
	config := filepath.Join(directory, "fpm.conf")
	writeText(t, config, `[global]
error_log = `+directory+`/fpm.log
daemonize = no
[app]
listen = `+socket+`
pm = static
pm.max_children = 2
clear_env = no
catch_workers_output = yes
`)
	arguments := []string{"-n", "-F", "-y", config}
	if os.Geteuid() == 0 {
		arguments = append(arguments, "-R")
	}
	command := exec.Command(fpm, arguments...)
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
	})
	eventually(t, "PHP-FPM", func() bool {
		connection, err := net.Dial("unix", socket)
		if err == nil {
			connection.Close()
		}
		return err == nil
	})
	return socket
}

func writeText(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// phpApp is a merchant's app as it would be written: it believes what the gateway has signed, and nothing else.
const phpApp = `<?php
$body = file_get_contents('php://input');
$id = $_SERVER['HTTP_WEBHOOK_ID'] ?? '';
$time = $_SERVER['HTTP_WEBHOOK_TIMESTAMP'] ?? '';
$expected = 'v1,' . base64_encode(hash_hmac('sha256', "$id.$time.$body", getenv('APP_SECRET'), true));
$signed = abs(time() - (int) $time) < 300;
$matches = false;
foreach (explode(' ', $_SERVER['HTTP_WEBHOOK_SIGNATURE'] ?? '') as $signature) {
    $matches = hash_equals($expected, $signature) || $matches;
}
if (!$signed || !$matches) {
    http_response_code(403);
    exit('FAILED');
}
$event = json_decode($body, true);
file_put_contents(getenv('APP_SEEN'), json_encode(['server' => $_SERVER, 'body' => $body, 'post' => $_POST, 'get' => $_GET]));
if ($event['merOrderId'] === 'slow') {
    sleep(2);
}
if ($event['merOrderId'] === 'broken') {
    throw new Exception('database is gone');
}
header('Set-Cookie: session=1');
echo "SUCCESS\n";
`

// TestNotifyToPHP is the way through php_fastcgi to a real PHP-FPM.
func TestNotifyToPHP(t *testing.T) {
	setKeys(t)
	directory, err := os.MkdirTemp("", "fpm") // a short path: a socket's may have 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(directory) })
	seen := filepath.Join(directory, "seen.json")
	t.Setenv("APP_SECRET", "the secret between gateway and app")
	t.Setenv("APP_SEEN", seen)
	socket := startFPM(t, directory)
	web := filepath.Join(directory, "web")
	if err := os.MkdirAll(web, 0o700); err != nil {
		t.Fatal(err)
	}
	writeText(t, filepath.Join(web, "notify.php"), phpApp)
	address := freeAddress(t)
	log := startCaddy(t, merchantOptions(noPlatform)+notifySite(address, `root `+web+`
	route /notify.php {
		chinaums_notify
		webhook_signature {env.APP_SECRET} {env.UMS_APP_KEY}
		php_fastcgi unix/`+socket+` {
			read_timeout 12s
		}
	}
	handle_path /unsigned/* {
		chinaums_notify
		php_fastcgi unix/`+socket+`
	}
	handle_path /impatient-proxy/* {
		chinaums_notify
		webhook_signature {env.APP_SECRET}
		php_fastcgi unix/`+socket+` {
			read_timeout 200ms
		}
	}
	handle_path /impatient/* {
		chinaums_notify {
			timeout 200ms
		}
		webhook_signature {env.APP_SECRET}
		php_fastcgi unix/`+socket+`
	}`))
	url := "http://" + address

	t.Run("taken", func(t *testing.T) {
		form := signedPayment()
		wantWord(t, postNotify(t, url+"/notify.php?debug=1&sign=x", form, "Cookie: a=b", "Authorization: Basic eDp5", "Webhook-Id: x", "User-Agent: UMS/1.0"), 200)
		content, err := os.ReadFile(seen)
		if err != nil {
			t.Fatalf("the app did not run: %v", err)
		}
		var got struct {
			Server map[string]any
			Body   string
			Post   []any
			Get    []any
		}
		if err := json.Unmarshal(content, &got); err != nil {
			t.Fatalf("%v in %s", err, content)
		}
		if len(got.Post) != 0 || len(got.Get) != 0 {
			t.Errorf("$_POST %v, $_GET %v", got.Post, got.Get)
		}
		for name, value := range map[string]string{
			"REQUEST_METHOD": "POST", "REQUEST_URI": "/notify.php", "QUERY_STRING": "", "CONTENT_TYPE": "application/json; charset=utf-8",
			"HTTP_CE_ID": paymentID, "HTTP_CE_TYPE": "com.chinaums.payment.succeeded", "HTTP_CE_SPECVERSION": "1.0",
			"HTTP_CE_SOURCE": "/chinaums/shop", "HTTP_CE_SUBJECT": "90012018092009395265848826440", "HTTP_CE_TIME": "2018-09-20T09:50:33+08:00",
			"HTTP_WEBHOOK_ID": paymentID, "HTTP_USER_AGENT": "UMS/1.0", "HTTP_HOST": address,
		} {
			if got.Server[name] != value {
				t.Errorf("%s is %v, want %s", name, got.Server[name], value)
			}
		}
		for _, name := range []string{"HTTP_COOKIE", "HTTP_AUTHORIZATION", "PHP_AUTH_USER", "HTTP_ACCEPT_ENCODING"} {
			if value, ok := got.Server[name]; ok {
				t.Errorf("%s: %v reached the app", name, value)
			}
		}
		var event map[string]any
		if err := json.Unmarshal([]byte(got.Body), &event); err != nil || event["totalAmount"] != 1.0 || event["payTime"] != "2018-09-20T09:50:33+08:00" {
			t.Errorf("%v: %s", err, got.Body)
		}
	})
	t.Run("false", func(t *testing.T) {
		_ = os.Remove(seen)
		wantWord(t, postNotify(t, url+"/notify.php", signedPayment()+"&x=1"), 403)
		if _, err := os.Stat(seen); err == nil {
			t.Error("the app saw it")
		}
	})
	t.Run("the app does not believe what the gateway has not signed", func(t *testing.T) {
		wantWord(t, postNotify(t, url+"/unsigned/notify.php", signedPayment(), "Webhook-Id: 1", "Webhook-Signature: v1,x"), 502)
		if _, err := os.Stat(seen); err == nil {
			t.Error("the app took it")
		}
	})
	t.Run("uncaught exception", func(t *testing.T) {
		wantWord(t, postNotify(t, url+"/notify.php", signedPayment(referenceField{"merOrderId", "broken"})), 502)
	})
	t.Run("no such script", func(t *testing.T) {
		wantWord(t, postNotify(t, url+"/unsigned/none.php", signedPayment()), 502)
	})
	t.Run("slow script, read_timeout", func(t *testing.T) {
		start := time.Now()
		wantWord(t, postNotify(t, url+"/impatient-proxy/notify.php", signedPayment(referenceField{"merOrderId", "slow"})), 504)
		t.Logf("answered after %v; the script sleeps for 2s", time.Since(start).Round(time.Millisecond))
		if len(log.lines("event not delivered", `"reason":"app_timeout"`)) == 0 {
			t.Error("not logged")
		}
	})
	t.Run("slow script, timeout of the notify alone", func(t *testing.T) {
		// php_fastcgi does not watch the context, so the answer comes late; but it is the right one.
		wantWord(t, postNotify(t, url+"/impatient/notify.php", signedPayment(referenceField{"merOrderId", "slow"})), 504)
	})
	t.Run("slow script, enough time", func(t *testing.T) {
		wantWord(t, postNotify(t, url+"/notify.php", signedPayment(referenceField{"merOrderId", "slow"})), 200)
	})
	t.Run("FPM gone", func(t *testing.T) {
		address := freeAddress(t)
		startCaddy(t, merchantOptions(noPlatform)+notifySite(address, "root "+web+"\n\tchinaums_notify\n\tphp_fastcgi unix/"+socket+".gone"))
		wantWord(t, postNotify(t, "http://"+address+"/notify.php", signedPayment()), 502)
	})
	if strings.Contains(log.String(), "the secret between gateway and app") {
		t.Error("the app's secret is in the log")
	}
}
