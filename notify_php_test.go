package chinaums

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
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
		_ = command.Process.Signal(os.Interrupt) // its workers would outlive a kill
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

// phpPost tells what PHP makes of a notify as it came.
const phpPost = `<?php
file_put_contents(getenv('APP_SEEN'), json_encode(['post' => array_map(fn($v) => is_array($v) ? ['array'] : bin2hex($v),
    array_combine(array_map('bin2hex', array_keys($_POST)), $_POST) ?: []), 'json' => bin2hex(json_encode(json_decode(file_get_contents('php://input'), true)))]));
echo 'SUCCESS';
`

// TestOriginalToPHP: under format original PHP finds the parameters that were verified, or the notify is refused. Empty
// pairs are not signed, so that anybody could add `status[]=`, `+status=`, `status%00=` or one more `status=`, and PHP read
// another status than the signed one; 1,500 empty pairs in front, and it read nothing at all.
func TestOriginalToPHP(t *testing.T) {
	setKeys(t)
	directory, err := os.MkdirTemp("", "fpm") // a short path: a socket's may have 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(directory) })
	seen := filepath.Join(directory, "seen.json")
	t.Setenv("APP_SEEN", seen)
	socket := startFPM(t, directory)
	writeText(t, filepath.Join(directory, "notify.php"), phpPost)
	address := freeAddress(t)
	startCaddy(t, merchantOptions(noPlatform)+notifySite(address, `root `+directory+`
	chinaums_notify /notify.php {
		format original
	}
	php_fastcgi unix/`+socket))
	url := "http://" + address + "/notify.php"
	good := signedPayment(referenceField{"plus", "a+b c&d%"}, referenceField{"中文", "\xc6\xbb"}, referenceField{"1", "number"})
	sign := good[strings.LastIndex(good, "&sign="):]
	fields := readReference(good)

	for name, test := range map[string]struct {
		body  string
		taken bool
	}{
		"as it was signed":                    {good, true},
		"empty pairs":                         {"&&" + good + "&&", true},
		"empty values of other names":         {"receipt=&" + good + "&bankInfo&coupon=", true},
		"the order of arrival":                {strings.TrimPrefix(sign, "&") + "&" + strings.TrimSuffix(good, sign), true},
		"200 pairs":                           {strings.Repeat("&", 200-strings.Count(good, "&")-1) + good, true},
		"201 pairs":                           {strings.Repeat("&", 200-strings.Count(good, "&")) + good, false},
		"status[]=":                           {good + "&status[]=", false},
		"status%5B%5D=":                       {good + "&status%5B%5D=", false},
		"status[":                             {good + "&status[", false},
		"status]=":                            {good + "&status]=", false},
		"+status=":                            {good + "&+status=", false},
		"%20status=, in front":                {"%20status=&" + good, false},
		"status+=":                            {good + "&status+=", false},
		"status%00=":                          {good + "&status%00=", false},
		"status%00x=":                         {good + "&status%00x=", false},
		"a tab":                               {good + "&%09status=", false},
		"a line break behind a name":          {good + "&status%0A=", false},
		"a C1 control character":              {good + "&%C2%85status=", false},
		"tar.get=":                            {good + "&tar.get=", false},
		"status=, once more":                  {good + "&status=", false},
		"status, once more, without =":        {good + "&status", false},
		"status=, in front":                   {"status=&" + good, false},
		"st%61tus=":                           {good + "&st%61tus=", false},
		"sign=, once more":                    {good + "&sign=", false},
		"an empty name twice":                 {good + "&=&=", false},
		"an empty one of another name, twice": {good + "&x=&x=", false},
		"in other letters":                    {good + "&STATUS=", false},
		"1,500 empty pairs in front":          {strings.Repeat("&", 1500) + good, false},
		"1,500 empty values in front":         {manyEmpty(1500) + good, false},
		"990 empty values in front":           {manyEmpty(990) + good, false},
		"199 empty values in front":           {manyEmpty(199) + good, false},
	} {
		t.Run(name, func(t *testing.T) {
			_ = os.Remove(seen)
			a := postNotify(t, url, test.body)
			if !test.taken {
				if a.status == 200 {
					content, _ := os.ReadFile(seen)
					t.Fatalf("taken; PHP has %s", content)
				}
				wantWord(t, a, 400)
				if _, err := os.Stat(seen); err == nil {
					t.Error("the app saw it")
				}
				return
			}
			wantWord(t, a, 200)
			content, err := os.ReadFile(seen)
			if err != nil {
				t.Fatal(err)
			}
			var got struct{ Post map[string]any }
			if err := json.Unmarshal(content, &got); err != nil {
				t.Fatalf("%v: %s", err, content)
			}
			found := map[string]string{}
			for name, value := range got.Post {
				rawName, _ := hex.DecodeString(name)
				text, _ := value.(string)
				rawValue, err := hex.DecodeString(text)
				if err != nil || text == "" && value != "" {
					t.Errorf("%s is %v", rawName, value)
				}
				if len(rawValue) > 0 {
					found[string(rawName)] = string(rawValue)
				}
			}
			want := map[string]string{}
			for name := range fields {
				want[name] = fields.Get(name)
			}
			if !maps.Equal(found, want) {
				t.Errorf("PHP has %q\nwant %q", found, want)
			}
		})
	}

	object := `{"merOrderId":"42","status":"TRADE_CLOSED","sign":"` + referenceDigest("merOrderId=42&status=TRADE_CLOSED", testNotifyKey, digestSHA256) + `"`
	for name, test := range map[string]struct {
		body  string
		taken bool
	}{
		"JSON":                         {object + `,"refId":"","x":null}`, true},
		"JSON, a name twice":           {object + `,"status":""}`, false},
		"JSON, a name twice, null":     {object + `,"status":null}`, false},
		"JSON, a name twice, in front": {`{"st\u0061tus":"",` + object[1:] + "}", false},
		"JSON, empty in other letters": {object + `,"Status":""}`, false},
		"JSON, a name with a zero":     {object + `,"\u0000status":""}`, false},
		"JSON, more than 200 members":  {object + strings.Repeat(`,"":""`, 201) + "}", false},
	} {
		t.Run(name, func(t *testing.T) {
			_ = os.Remove(seen)
			a := postNotify(t, url, test.body, "Content-Type: application/json")
			if !test.taken {
				wantWord(t, a, 400)
				return
			}
			wantWord(t, a, 200)
			content, _ := os.ReadFile(seen)
			var got struct{ JSON string }
			if err := json.Unmarshal(content, &got); err != nil {
				t.Fatalf("%v: %s", err, content)
			}
			decoded, _ := hex.DecodeString(got.JSON)
			if !strings.Contains(string(decoded), `"status":"TRADE_CLOSED"`) {
				t.Errorf("PHP has %s", decoded)
			}
		})
	}
	// PHP cuts a Content-Type at a semicolon, a comma or a space, and does not know what is left of this one: $_POST was
	// empty, the app ran all the same.
	t.Run("a Content-Type of which PHP makes another", func(t *testing.T) {
		_ = os.Remove(seen)
		wantWord(t, postNotify(t, url, good, "Content-Type: application/x-www-form-urlencoded\t;x"), 200)
		content, _ := os.ReadFile(seen)
		if !strings.Contains(string(content), `"`+hex.EncodeToString([]byte("status"))+`"`) {
			t.Errorf("PHP has %s", content)
		}
	})
	// A sender who makes JSON of a form chose the types: a number of 17 digits is another order's to JavaScript, one of 28
	// is another order's to PHP.
	for name, test := range map[string]struct {
		order string // its number
		value string // and how that is sent
		taken bool
	}{
		"JSON, digits as text":               {"1017202611290000100000000001", `"1017202611290000100000000001"`, true},
		"JSON, a number of 28 digits":        {"1017202611290000100000000001", "1017202611290000100000000001", false},
		"JSON, a number of 17 digits":        {"10172026112900001", " 10172026112900001", false},
		"JSON, a number with an exponent":    {"1e2", "1e2", false},
		"JSON, a fraction":                   {"1.0", "1.0", false},
		"JSON, minus nothing":                {"-0", "-0", false},
		"JSON, a number that all read alike": {"101720261129000", "101720261129000", true},
		"JSON, a boolean":                    {"true", "true", true},
	} {
		t.Run(name, func(t *testing.T) {
			sign := referenceDigest("merOrderId="+test.order+"&status=TRADE_SUCCESS", testNotifyKey, digestSHA256)
			body := `{"merOrderId":` + test.value + `,"status":"TRADE_SUCCESS","sign":"` + sign + `"}`
			if !test.taken {
				wantRefusal(t, url, body, 400, "reads_otherwise")
				return
			}
			wantWord(t, postNotify(t, url, body), 200)
		})
	}
	t.Run("the reason", func(t *testing.T) {
		wantRefusal(t, url, good+"&status=", 400, "reads_otherwise")
	})
	t.Run("other formats take what is empty", func(t *testing.T) {
		app := newMerchantApp(t, nil)
		url, _ := startNotify(t, "chinaums_notify\n\treverse_proxy "+app.URL)
		wantWord(t, postNotify(t, url, good+"&status=&status[]=&"+manyEmpty(300)), 200)
	})
}

// manyEmpty are pairs of different names without values.
func manyEmpty(count int) string {
	var pairs strings.Builder
	for i := range count {
		fmt.Fprintf(&pairs, "e%d=&", i)
	}
	return pairs.String()
}
