package chinaums

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/spf13/cobra"

	"github.com/caddy-chinaums/caddy-chinaums/internal/cli"
)

// runCommand runs a command as the shell would and returns what it printed and its error.
func runCommand(cmd *cobra.Command, stdin string, args ...string) (string, error) {
	var out bytes.Buffer
	cmd.SetArgs(append([]string{}, args...)) // nil would mean the arguments of the test binary
	cmd.SetIn(strings.NewReader(stdin))
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	err := cmd.Execute()
	return out.String(), err
}

func writeFile(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const commandConfig = `{
	chinaums {
		merchant shop {
			app_id     {env.UMS_APP_ID}
			app_key    {env.UMS_APP_KEY}
			notify_key {env.UMS_NOTIFY_KEY}
			mid        898340149000005
		}
		merchant other {
			notify_key another-example-key
		}
	}
}
:8080 {
	respond ok
}
`

func TestSignCommand(t *testing.T) {
	setKeys(t)
	body := "{\"merOrderId\":\"327M1\"}\n"
	file := writeFile(t, "body.json", body)
	config := writeFile(t, "Caddyfile", commandConfig)
	header := regexp.MustCompile(`Authorization: (OPEN-BODY-SIG AppId="[^"]*", Timestamp="\d{14}", Nonce="[0-9a-f]{32}", Signature="[^"]*")`)

	for _, test := range []struct {
		name, stdin string
		args        []string
		want        string // besides a header that verifies; after "error: ", an error
	}{
		{"standard input, keys from the environment", body, nil, "Authorization: OPEN-BODY-SIG "},
		{"a file", "", []string{file}, "Authorization: OPEN-BODY-SIG "},
		{"keys from a configuration", "", []string{"--config", config, "--merchant", "shop", file}, "Authorization: "},
		{"a curl line", "", []string{"--config", config, "--merchant", "shop", "--curl", "/v1/netpay/query", file}, "--data-binary '@" + file + "' 'https://api-mop.chinaums.com/v1/netpay/query'"},
		{"several merchants and no name", body, []string{"--config", config}, "error: has several merchants; give --merchant: other, shop"},
		{"a name that is not there", body, []string{"--config", config, "--merchant", "shpo"}, "error: has no merchant shpo; it has: other, shop"},
		{"a merchant without keys for calls", body, []string{"--config", config, "--merchant", "other"}, "error: app_id and app_key are missing"},
		{"a name without a configuration", body, []string{"--merchant", "shop"}, "error: --merchant needs --config"},
		{"curl without a file", body, []string{"--curl", "/v1/netpay/query"}, "error: --curl needs a path that begins with / and a file"},
		// Its curl line read standard input once more, which was empty by then.
		{"curl with standard input", body, []string{"--curl", "/v1/netpay/query", "-"}, "error: --curl needs a path that begins with / and a file"},
		{"an empty body", "", nil, "error: the input is empty"},
		{"a file that is not there", "", []string{file + "x"}, "error: no such file"},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, err := runCommand(signCommand(), test.stdin, test.args...)
			if want, ok := strings.CutPrefix(test.want, "error: "); ok {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Fatalf("error %v, want %q", err, want)
				}
				return
			}
			if err != nil || !strings.Contains(out, test.want) {
				t.Fatalf("printed %q, error %v", out, err)
			}
			match := header.FindStringSubmatch(out)
			if match == nil {
				t.Fatalf("no header in %q", out)
			}
			if err := newBodySigner(testAppID, testAppKey).verify(match[1], []byte(body)); err != nil {
				t.Fatal(err)
			}
			if strings.Contains(out, testAppKey) {
				t.Fatal("the key was printed")
			}
		})
	}
}

func TestVerifyCommand(t *testing.T) {
	setKeys(t)
	raw, err := os.ReadFile("testdata/vectors/notify.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct {
		Name         string
		Form         string
		StringToSign string `json:"string_to_sign"`
		Valid        bool
	}
	if err := json.Unmarshal(raw, &vectors); err != nil {
		t.Fatal(err)
	}
	for _, vector := range vectors {
		if vector.Form == "" {
			continue
		}
		t.Run(vector.Name, func(t *testing.T) {
			for locale, want := range map[string]string{"en_US.UTF-8": "verifies", "zh_CN.UTF-8": "验签通过"} {
				t.Setenv("LC_ALL", locale)
				out, err := runCommand(verifyCommand(), vector.Form+"\n", "--show")
				if (err == nil) != vector.Valid {
					t.Fatalf("error %v, valid %v", err, vector.Valid)
				}
				if !strings.Contains(out, "\n"+vector.StringToSign+"\n") {
					t.Errorf("the string to sign is not in %q", out)
				}
				if vector.Valid != strings.Contains(out, want+"\n") {
					t.Errorf("printed %q", out)
				}
			}
			masked, _ := runCommand(verifyCommand(), vector.Form)
			if strings.Contains(masked, "898201612345678") || strings.Contains(masked, testNotifyKey) {
				t.Errorf("a value was shown: %q", masked)
			}
		})
	}

	t.Setenv("LC_ALL", "C")
	config := writeFile(t, "Caddyfile", commandConfig)
	for _, test := range []struct {
		name, stdin string
		args        []string
		want        string
	}{
		{"another merchant's key", vectors[2].Form, []string{"--config", config, "--merchant", "other"}, "does not verify (signature)"},
		{"another merchant's mid", vectors[3].Form, []string{"--config", config, "--merchant", "shop"}, "does not verify (foreign_mid)"},
		{"nested JSON", `{"a":{}}`, nil, "does not verify (json)"},
		{"broken JSON", `{"a"`, nil, "not a notify"},
		{"no sign", `a=b`, nil, "does not verify (missing_signature)"},
		{"a repeated parameter", `a=b&a=c`, nil, "does not verify (repeated_parameter)"},
		{"broken percent-encoding", `a=%2`, nil, "does not verify (encoding)"},
		{"an unknown signType", `a=b&signType=SM3&sign=00`, nil, "does not verify (sign_type)"},
		{"no configuration", "a=b", []string{"--config", config + "x"}, "Caddyfilex"},
		{"no input", "", nil, "the input is empty"},
		{"several merchants and no name", "a=b", []string{"--config", config}, "give --merchant"},
		{"too much input", strings.Repeat("a", cli.InputLimit+1), nil, "the input is larger than"},
		{"a configuration without merchants", "a=b", []string{"--config", writeFile(t, "Caddyfile", ":8080 {\nrespond ok\n}\n")}, "has no chinaums merchant"},
		{"a key that cannot be resolved", "a=b", []string{"--config", writeFile(t, "Caddyfile", "{\nchinaums {\nmerchant shop {\nnotify_key {env.CHINAUMS_TEST_NONE}\n}\n}\n}\n")}, "merchant shop: notify_key cannot be resolved"},
		{"an HTTP request that is none", "POST / HTTP/1.1\nnonsense\n\na=b", nil, "its head cannot be read"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := runCommand(verifyCommand(), test.stdin, test.args...); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("error %v, want %q", err, test.want)
			}
		})
	}
	t.Setenv("UMS_NOTIFY_KEY", "")
	if _, err := runCommand(verifyCommand(), "a=b"); err == nil || !strings.Contains(err.Error(), "set UMS_APP_ID") {
		t.Fatalf("with the keys for calls only: %v", err)
	}
	t.Setenv("UMS_APP_KEY", "")
	t.Setenv("UMS_APP_ID", "")
	if _, err := runCommand(verifyCommand(), "a=b"); err == nil || !strings.Contains(err.Error(), "set UMS_APP_ID") {
		t.Fatalf("without a key: %v", err)
	}
}

// TestNotifyCommand sends what the sandbox makes to a real gateway, which takes what is true and nothing else.
func TestNotifyCommand(t *testing.T) {
	setKeys(t)
	t.Setenv("LC_ALL", "C")
	address := freeAddress(t)
	startCaddy(t, `{
	chinaums {
		merchant shop {
			notify_key {env.UMS_NOTIFY_KEY}
			mid 898340149000005
		}
	}
}
http://`+address+` {
	bind 127.0.0.1
	chinaums_notify /notify
	respond /notify 200
	redir /moved /notify
	respond /busy FAILED 502
	respond /anything SUCCESS
}`)
	config := writeFile(t, "Caddyfile", commandConfig)
	from := []string{"--config", config, "--merchant", "shop"}
	gateway := "http://" + address
	for _, kind := range []string{"payment", "refund", "bill", "deduction", "guarantee"} {
		for variant, want := range map[string]string{
			"genuine": "200 OK", "late": "200 OK", "reordered": "200 OK", "json": "200 OK", "gbk": "200 OK",
			"tampered": "403 Forbidden", "recut": "403 Forbidden", "unsigned": "403 Forbidden", "other-key": "403 Forbidden",
			"foreign-mid": "403 Forbidden",
		} {
			out, err := runCommand(notifyCommand(), "", append(from, "--kind", kind, "--variant", variant, gateway+"/notify")...)
			if err != nil || !strings.Contains(out, want) {
				t.Errorf("%s, %s: %v\n%s", kind, variant, err, out)
			}
			if strings.Contains(out, testNotifyKey) {
				t.Errorf("the key was printed: %s", out)
			}
		}
	}
	for _, test := range []struct {
		name string
		args []string
		want string
	}{
		{"MD5", append(from, "--sign-type", "md5", gateway+"/notify"), "SUCCESS"},
		{"an order number of one's own", append(from, "--set", "merOrderId=327M1", gateway+"/notify"), "327M1"},
		{"the key from the environment", []string{"--set", "mid=898340149000005", gateway + "/notify"}, "SUCCESS"},
		{"another merchant's, by its mid", append(from, "--set", "mid=1", gateway+"/notify"), "error: not taken"},
		{"an address that redirects", append(from, gateway+"/moved"), "error: redirected"},
		{"an app that is busy", append(from, gateway+"/busy"), "error: not taken"},
		{"somebody who takes anything", append(from, "--variant", "tampered", gateway+"/anything"), "error: a false notify was taken"},
		{"nobody there", append(from, "http://127.0.0.1:1/notify"), "error: no answer"},
		{"an unknown kind", append(from, "--kind", "gift", gateway), "error: no kind of notify"},
		{"an unknown variant", append(from, "--variant", "odd", gateway), "error: no variant"},
		{"a duplicate of nothing", append(from, "--variant", "duplicate", gateway), "error: duplicate"},
		{"an unknown digest", append(from, "--sign-type", "sm3", gateway), "error: --sign-type"},
		{"a broken assignment", append(from, "--set", "mid", gateway), "error: --set"},
		{"an assignment of the signature", append(from, "--set", "sign=00", gateway), "error: sign"},
		{"no address", from, "error: give either an address or --print"},
		{"an address and --print", append(from, "--print", gateway), "error: give either an address or --print"},
		{"an address without scheme", append(from, address+"/notify"), "error: is not an address"},
		// Before, the deadline had passed at once: "context deadline exceeded".
		{"no limit of time", append(from, "--timeout", "0", gateway+"/notify"), "SUCCESS"},
		{"less than no time", append(from, "--timeout", "-1s", gateway+"/notify"), "error: --timeout: -1s is negative"},
		{"a merchant without a key", append([]string{"--config", writeFile(t, "Caddyfile", "{\nchinaums {\nmerchant shop {\napp_id 1\napp_key x\n}\n}\n}\n")}, gateway), "error: notify_key is missing"},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, err := runCommand(notifyCommand(), "", test.args...)
			if want, ok := strings.CutPrefix(test.want, "error: "); ok {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error %v, want %q\n%s", err, want, out)
				}
				return
			}
			if err != nil || !strings.Contains(out, test.want) {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}

	printed, err := runCommand(notifyCommand(), "", append(from, "--print")...)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := runCommand(verifyCommand(), printed, from...); err != nil || !strings.Contains(out, "com.chinaums.payment.succeeded") {
		t.Errorf("what notify prints, verify says of: %v\n%s", err, out)
	}
	// Without a configuration the mid comes from the environment too: a gateway that has mid refused the made-up one.
	t.Setenv("UMS_MID", "898340149000005")
	if out, err := runCommand(notifyCommand(), "", gateway+"/notify"); err != nil || !strings.Contains(out, "200 OK") {
		t.Errorf("keys of the environment: %v\n%s", err, out)
	}
	// A merchant that accepts MD5 only gets no SHA-256.
	onlyMD5 := writeFile(t, "Caddyfile", "{\nchinaums {\nmerchant shop {\nnotify_key {env.UMS_NOTIFY_KEY}\nsign_types md5\n}\n}\n}\n")
	if printed, err = runCommand(notifyCommand(), "", "--config", onlyMD5, "--print"); err != nil || !strings.Contains(printed, "signType=MD5") {
		t.Errorf("%v: %s", err, printed)
	}
}

// lineWriter hands over what is written once, when it ends with the last line of what the sandbox prints.
type lineWriter struct {
	b       strings.Builder
	printed chan string
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.b.Write(p)
	if strings.HasSuffix(w.b.String(), "\n}\n") {
		w.printed <- w.b.String()
	}
	return len(p), nil
}

// playedPlatform is a sandbox that the command runs.
type playedPlatform struct {
	printed, url, config string
	env                  map[string]string // set
	stop                 func() error
}

// playPlatform runs the sandbox command on a free port, until the test ends or stop is called.
func playPlatform(t *testing.T, args ...string) *playedPlatform {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	out := &lineWriter{printed: make(chan string, 1)}
	cmd := sandboxCommand()
	cmd.SetArgs(append([]string{"--listen", "127.0.0.1:0"}, args...))
	cmd.SetOut(out)
	cmd.SetErr(out)
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	ended := make(chan error, 1)
	go func() { ended <- cmd.ExecuteContext(ctx) }()
	p := &playedPlatform{env: make(map[string]string), stop: func() error {
		cancel()
		return <-ended
	}}
	select {
	case p.printed = <-out.printed:
	case err := <-ended:
		t.Fatalf("it ended: %v", err)
	}
	for line := range strings.Lines(p.printed) {
		if assignment, ok := strings.CutPrefix(line, "export "); ok {
			name, value, _ := strings.Cut(strings.TrimSpace(assignment), "=")
			p.env[name] = value
			t.Setenv(name, value)
		}
	}
	_, rest, _ := strings.Cut(p.printed, "sandbox at ")
	p.url, _, _ = strings.Cut(rest, ",")
	var found bool
	if _, p.config, found = strings.Cut(p.printed, "\n\n{\n"); !found {
		t.Fatalf("no Caddyfile in %s", p.printed)
	}
	p.config = "{\n" + p.config
	return p
}

// gateway returns the Caddyfile that was printed, on free ports, and where its two sites are then.
func (p *playedPlatform) gateway(t *testing.T) (config, out, in string) {
	t.Helper()
	config, out, in = p.config, freeAddress(t), freeAddress(t)
	for shown, own := range map[string]string{":8901": out, ":8902": in} {
		if strings.Count(config, shown) != 1 {
			t.Fatalf("%s is not printed once:\n%s", shown, config)
		}
		config = strings.Replace(config, shown, own[strings.LastIndex(own, ":"):], 1)
	}
	return config, out, in
}

// order is the body of an order of 100 fen.
func (p *playedPlatform) order(number, notifyURL string) string {
	return `{"requestTimestamp":"` + time.Now().In(time.FixedZone("", 8*3600)).Format("2006-01-02 15:04:05") + `","merOrderId":"` + number +
		`","mid":"` + p.env["UMS_MID"] + `","tid":"` + p.env["UMS_TID"] + `","instMid":"APPDEFAULT","totalAmount":100,"notifyUrl":"` + notifyURL + `"}`
}

// TestSandboxCommand runs the sandbox, and a gateway with what it prints: an order is made, paid in the page and told.
func TestSandboxCommand(t *testing.T) {
	played := playPlatform(t, "-ui", "--fast")
	env, platform := played.env, played.url
	for _, name := range []string{"UMS_APP_ID", "UMS_APP_KEY", "UMS_NOTIFY_KEY", "UMS_MID", "UMS_TID", "UMS_SOURCE"} {
		if env[name] == "" {
			t.Errorf("no %s is printed", name)
		}
	}
	config, gateway, address := played.gateway(t)
	startCaddy(t, config)

	order := env["UMS_SOURCE"] + "202601010000001"
	a := do(t, newRequest(t, "POST", "http://"+gateway+"/v1/netpay/trade/precreate", played.order(order, "http://"+address+"/notify"), "Content-Type: application/json"))
	if a.status != 200 || a.header.Get("Gateway-Outcome") != "answered" || !strings.Contains(a.body, `"errCode":"SUCCESS"`) {
		t.Fatalf("order: %+v", a)
	}
	page := do(t, newRequest(t, "GET", platform+"/sandbox/view", ""))
	if page.status != 200 || !strings.Contains(page.body, order) || do(t, newRequest(t, "GET", platform+"/", "")).status != 200 {
		t.Fatalf("page: %d, without the order", page.status)
	}
	if a := do(t, newRequest(t, "POST", platform+"/pay", "order="+order, "Content-Type: application/x-www-form-urlencoded")); a.status != 303 {
		t.Fatalf("pay: %+v", a)
	}
	eventually(t, "the notify", func() bool {
		return strings.Contains(do(t, newRequest(t, "GET", platform+"/sandbox/view", "")).body, `"Answer":"SUCCESS"`)
	})
	if err := played.stop(); err != nil {
		t.Errorf("when interrupted: %v", err)
	}

	for _, test := range []struct {
		name string
		args []string
		want string
	}{
		{"a file for a directory", []string{"--listen", "127.0.0.1:0", "--save", writeFile(t, "file", "")}, "the directory for notifies"},
		{"everybody", []string{"--listen", "0.0.0.0:0"}, "is not on loopback"},
		{"everybody, by no name", []string{"--listen", ":0"}, "is not on loopback"},
		{"a name", []string{"--listen", "example.com:0"}, "is not on loopback"},
		{"no port", []string{"--listen", "127.0.0.1"}, "host:port"},
		{"an address that is none", []string{"--listen", "127.0.0.1:0", "--notify-url", "127.0.0.1:8902/notify"}, "--notify-url"}, // the sandbox ran, and no notify arrived
		{"an unknown digest", []string{"--listen", "127.0.0.1:0", "--sign-type", "SM3"}, "Digest"},
		{"a port that is taken", []string{"--listen", address}, "address already in use"},
		{"an argument", []string{"start"}, "unknown command"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := runCommand(sandboxCommand(), "", test.args...); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

// TestSavedNotify goes the way of the README: an order through the gateway is paid, the sandbox saves the notify that it
// sends, and verify says that it is true. Then a test notify of the same order is taken, saved and verified. Nothing saved
// a notify before, and the order of the README's example was unknown.
func TestSavedNotify(t *testing.T) {
	t.Setenv("LC_ALL", "C")
	for _, letters := range []string{"upper", "lower"} {
		directory := filepath.Join(t.TempDir(), "notifies")
		played := playPlatform(t, "--ui", "--save", directory, "--hex", letters)
		site, out, in := played.gateway(t)
		startCaddy(t, site)
		config, gateway := writeFile(t, "Caddyfile", site), "http://"+in
		verified := func(file string) string {
			t.Helper()
			out, err := runCommand(verifyCommand(), "", "--config", config, "--show", file)
			if err != nil || !strings.Contains(out, "verifies") || !strings.Contains(out, "com.chinaums.payment.succeeded") {
				t.Errorf("verify %s: %v\n%s", file, err, out)
			}
			return out
		}

		order := played.env["UMS_SOURCE"] + "20261124000001"
		a := do(t, newRequest(t, "POST", "http://"+out+"/v1/netpay/trade/precreate", played.order(order, gateway+"/notify"), "Content-Type: application/json"))
		if a.status != 200 || !strings.Contains(a.body, `"errCode":"SUCCESS"`) {
			t.Fatalf("order: %+v", a)
		}
		if a := do(t, newRequest(t, "POST", played.url+"/pay", "order="+order, "Content-Type: application/x-www-form-urlencoded")); a.status != 303 {
			t.Fatalf("pay: %+v", a)
		}
		saved := filepath.Join(directory, order+"-1.txt")
		eventually(t, "the notify", func() bool { // taken: it is saved before it is sent
			page := do(t, newRequest(t, "GET", played.url+"/sandbox/view", "")).body
			return strings.Contains(page, saved) && strings.Contains(page, `"Answer":"SUCCESS"`)
		})
		if out := verified(saved); !strings.Contains(out, "merOrderId="+order) || !strings.Contains(out, "&totalAmount=100") {
			t.Errorf("another notify was saved: %s", out)
		}
		body, err := os.ReadFile(saved)
		if err != nil {
			t.Fatal(err)
		}
		form, err := url.ParseQuery(string(body))
		if err != nil {
			t.Fatal(err)
		}
		inLetters := map[string]func(string) string{"upper": strings.ToUpper, "lower": strings.ToLower}[letters]
		if sign := form.Get("sign"); len(sign) != 64 || sign != inLetters(sign) {
			t.Errorf("--hex %s: sign %s", letters, sign)
		}

		// What was there, a link too, gives way to what is saved.
		test := filepath.Join(t.TempDir(), "notify.txt")
		if err := os.Symlink(saved, test); err != nil {
			t.Fatal(err)
		}
		sent := []string{"--config", config, "--set", "merOrderId=" + order, "--set", "totalAmount=100", "--save", test}
		if out, err := runCommand(notifyCommand(), "", append(sent, gateway+"/notify")...); err != nil || !strings.Contains(out, order) || !strings.Contains(out, "200 OK") {
			t.Errorf("notify: %v\n%s", err, out)
		}
		if out := verified(test); !strings.Contains(out, "merOrderId="+order) {
			t.Errorf("another notify was saved: %s", out)
		}
		info, err := os.Lstat(test)
		if err != nil || info.Mode() != 0o600 {
			t.Errorf("%v, %v", info, err)
		}
		if again, err := os.ReadFile(saved); err != nil || !bytes.Equal(again, body) {
			t.Errorf("it was written through the link: %q, %v", again, err)
		}
		// It may be saved without being sent.
		if out, err := runCommand(notifyCommand(), "", sent...); err != nil || out != "" {
			t.Errorf("--save alone: %v\n%s", err, out)
		}
		verified(test)
		if _, err := runCommand(notifyCommand(), "", "--config", config, "--save", filepath.Join(test, "x")); err == nil || !strings.Contains(err.Error(), "--save: ") {
			t.Errorf("into a file: %v", err)
		}
		if err := os.WriteFile(saved, bytes.Replace(body, []byte("totalAmount=100&"), []byte("totalAmount=900&"), 1), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := runCommand(verifyCommand(), "", "--config", config, saved); err == nil || !strings.Contains(err.Error(), "does not verify (signature)") {
			t.Errorf("changed: %v", err)
		}
		if err := played.stop(); err != nil {
			t.Error(err)
		}
	}
}

// TestBinary builds cmd/caddy and uses it as a person would: validate without keys in sight, sign, verify, notify, and
// exit codes.
func TestBinary(t *testing.T) {
	if testing.Short() {
		t.Skip("builds cmd/caddy")
	}
	setKeys(t)
	t.Setenv("LC_ALL", "zh_CN.UTF-8")
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	binary := filepath.Join(t.TempDir(), "caddy")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "./cmd/caddy").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	config := writeFile(t, "Caddyfile", strings.Replace(commandConfig, "{\n", "{\n\tadmin off\n", 1))
	body := writeFile(t, "body.json", `{"merOrderId":"327M1"}`)
	notify := writeFile(t, "notify.txt", "")
	run := func(stdin string, args ...string) (string, int) {
		cmd := exec.CommandContext(t.Context(), binary, args...)
		cmd.Stdin = strings.NewReader(stdin)
		var out, log bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &log
		err := cmd.Run()
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			return out.String() + log.String(), exit.ExitCode()
		}
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(log.String(), testAppKey) || strings.Contains(log.String(), testNotifyKey) {
			t.Errorf("a key is logged:\n%s", log.String())
		}
		return out.String(), 0
	}
	shop := []string{"--config", config, "--merchant", "shop"}
	printed, code := run("", append([]string{"chinaums", "notify", "--print"}, shop...)...)
	if code != 0 {
		t.Fatalf("notify --print: %d %s", code, printed)
	}
	if err := os.WriteFile(notify, []byte(printed), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, stdin string
		args        []string
		code        int
		want        string
	}{
		{"the modules are there", "", []string{"list-modules"}, 0, "http.handlers.chinaums_notify"},
		{"the configuration is valid", "", []string{"validate", "--config", config}, 0, "Valid configuration"},
		{"help", "", []string{"chinaums", "--help"}, 0, "sandbox"},
		{"sign", "", append([]string{"chinaums", "sign", body}, shop...), 0, "Authorization: OPEN-BODY-SIG AppId="},
		{"sign, standard input and environment", "{}", []string{"chinaums", "sign"}, 0, "Authorization: OPEN-BODY-SIG AppId="},
		{"verify", "", append([]string{"chinaums", "verify", notify}, shop...), 0, "验签通过"},
		{"verify what is false", "", append([]string{"chinaums", "verify", "--config", config, "--merchant", "other"}, notify), 1, "another_key [notify_key of shop]: 用的是配置中另一把密钥"},
		{"an unknown flag", "", []string{"chinaums", "sign", "--key", "x"}, 1, "unknown flag: --key"},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, code := run(test.stdin, test.args...)
			if code != test.code || !strings.Contains(out, test.want) {
				t.Errorf("exit code %d\n%s", code, out)
			}
			if strings.Contains(out, testAppKey) || strings.Contains(out, testNotifyKey) {
				t.Errorf("a key is shown:\n%s", out)
			}
		})
	}
}

// TestHexOfSigns: what the commands sign is in capitals, as the documents print it and five public SDKs want it; it was in
// small letters. `--hex lower` is for those that want small ones.
func TestHexOfSigns(t *testing.T) {
	setKeys(t)
	t.Setenv("UMS_MID", "898340149000005")
	for _, digest := range []string{"MD5", "SHA256"} {
		for _, test := range []struct {
			args    []string
			letters string
		}{
			{nil, "0123456789ABCDEF"},
			{[]string{"--hex", "upper"}, "0123456789ABCDEF"},
			{[]string{"--hex", "lower"}, "0123456789abcdef"},
		} {
			printed, err := runCommand(notifyCommand(), "", append([]string{"--print", "--sign-type", digest}, test.args...)...)
			if err != nil {
				t.Fatal(err)
			}
			form, err := url.ParseQuery(strings.TrimSpace(printed))
			if err != nil {
				t.Fatal(err)
			}
			sign := form.Get("sign")
			if form.Del("sign"); strings.Trim(sign, test.letters) != "" {
				t.Errorf("%s %q: sign %s", digest, test.args, sign)
			}
			names := slices.Sorted(maps.Keys(form))
			pairs := make([]string, len(names))
			for i, name := range names {
				pairs[i] = name + "=" + form.Get(name)
			}
			text := []byte(strings.Join(pairs, "&") + testNotifyKey)
			want := fmt.Sprintf("%x", sha256.Sum256(text))
			if digest == "MD5" {
				want = fmt.Sprintf("%x", md5.Sum(text))
			}
			if !strings.EqualFold(sign, want) {
				t.Errorf("%s: sign %s of %s", digest, sign, text)
			}
		}
	}
	for name, command := range map[string]*cobra.Command{"notify": notifyCommand(), "sandbox": sandboxCommand()} {
		args := []string{"--hex", "Lower"}
		if name == "notify" {
			args = append(args, "--print")
		}
		if _, err := runCommand(command, "", args...); err == nil || !strings.Contains(err.Error(), `--hex: "Lower" is neither upper nor lower`) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestKeysFromTheEnvironment: a key of the environment is taken as it is. Braces in it were read as a placeholder's, so that
// `k{a.b}` was an error, and `{env.HOME}` was another key.
func TestKeysFromTheEnvironment(t *testing.T) {
	t.Setenv("UMS_APP_ID", testAppID)
	body := `{"merOrderId":"327M1"}`
	for _, key := range []string{"k{a.b}z", "{env.HOME}", "{file./etc/hostname}", "{x}", "a\\b", "${HOME}", "密钥"} {
		t.Setenv("UMS_APP_KEY", key)
		t.Setenv("UMS_NOTIFY_KEY", key)
		out, err := runCommand(signCommand(), body)
		if err != nil {
			t.Errorf("sign with %s: %v", key, err)
			continue
		}
		sig, err := parseBodySig(strings.TrimSpace(strings.TrimPrefix(out, "Authorization: ")))
		if err != nil {
			t.Fatal(err)
		}
		mac := hmac.New(sha256.New, []byte(key))
		fmt.Fprintf(mac, "%s%s%s%x", sig.AppID, sig.Timestamp, sig.Nonce, sha256.Sum256([]byte(body)))
		if want := base64.StdEncoding.EncodeToString(mac.Sum(nil)); sig.Signature != want {
			t.Errorf("sign with %s: %s, not %s", key, sig.Signature, want)
		}
		notify := fmt.Sprintf("a=1&sign=%x", sha256.Sum256([]byte("a=1"+key)))
		if out, err := runCommand(verifyCommand(), notify); err != nil {
			t.Errorf("verify with %s: %v\n%s", key, err, out)
		}
	}
}

// TestVerifyReadsWhatEditorsSave: a byte order mark became part of the first name, and what PowerShell's > writes was no
// notify at all.
func TestVerifyReadsWhatEditorsSave(t *testing.T) {
	setKeys(t)
	t.Setenv("LC_ALL", "C")
	wide := func(order binary.AppendByteOrder, text string) string {
		out := order.AppendUint16(nil, 0xfeff)
		for _, unit := range utf16.Encode([]rune(text)) {
			out = order.AppendUint16(out, unit)
		}
		return string(out)
	}
	for name, text := range map[string]string{
		"a form":    fmt.Sprintf("a=1&b=%%E8%%8C%%B6&sign=%X", sha256.Sum256([]byte("a=1&b=茶"+testNotifyKey))),
		"JSON":      fmt.Sprintf(`{"a":"1","b":"茶","sign":"%X"}`, sha256.Sum256([]byte("a=1&b=茶"+testNotifyKey))),
		"a request": fmt.Sprintf("POST /notify HTTP/1.1\r\nContent-Type: application/json\r\n\r\n{\"a\":\"茶\",\"sign\":\"%x\"}", md5.Sum([]byte("a=茶"+testNotifyKey))),
	} {
		for how, saved := range map[string]string{
			"plain": text, "a byte order mark": "\ufeff" + text, "and CRLF": "\ufeff" + text + "\r\n",
			"UTF-16LE": wide(binary.LittleEndian, text+"\r\n"), "UTF-16BE": wide(binary.BigEndian, text),
		} {
			if out, err := runCommand(verifyCommand(), saved); err != nil || !strings.Contains(out, "verifies") {
				t.Errorf("%s, %s: %v\n%s", name, how, err, out)
			}
		}
	}
}
