package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
)

// What somebody new does first, exactly as it is printed: one set of ports, one PHP file with one Caddyfile, and every
// command.

// The ports of everything that is printed, so that a number never means two things.
const (
	sandboxPort = "8900"
	gatewayPort = "8901" // the way out
	notifyPort  = "8902" // the way in
	appPort     = "8903"
	otherPort   = "8904" // the sandbox of Shouqianba
	fpmPort     = "9000"
	adminPort   = "2019"
)

// onPorts puts addresses of this machine in the place of the ports that are printed; each has to be there.
func onPorts(t *testing.T, source string, addresses map[string]string) string {
	t.Helper()
	var pairs []string
	for shown, address := range addresses {
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			t.Fatal(err)
		}
		pairs = append(pairs, ":"+shown, ":"+port)
	}
	return replaced(t, source, pairs...)
}

// exampleCaddyfiles are the Caddyfiles that users copy: those beside the example apps, and those of all pages.
func exampleCaddyfiles(t *testing.T) map[string]string {
	t.Helper()
	files := make(map[string]string)
	for _, l := range languages {
		name := filepath.Join(l.name, "Caddyfile")
		source, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = string(source)
	}
	for _, pair := range pagePairs(t) {
		for i, shown := range fenced(t, pair.english, "caddyfile") {
			files[fmt.Sprint(pair.english, " ", i+1)] = shown.text
		}
	}
	return files
}

// The shell in which `caddy reload` is called has no say in what is loaded. {$UMS_UPSTREAM:https://…} was replaced
// there: a reload from another terminal silently left the sandbox for the platform's test host.
func TestExamplesIgnoreTheShell(t *testing.T) {
	names := []string{"UMS_APP_ID", "UMS_APP_KEY", "UMS_NOTIFY_KEY", "UMS_MID", "UMS_UPSTREAM", "APP_SECRET",
		"APP_ROOT", "BOOK", "GATEWAY", "NOTIFY", "NOTIFY_URL", "PHP", "PORT", "SHOP"}
	for name, source := range exampleCaddyfiles(t) {
		t.Run(name, func(t *testing.T) {
			if strings.Contains(source, "{$") {
				t.Error("it has a {$…}")
			}
			for _, variable := range names {
				t.Setenv(variable, "")
				_ = os.Unsetenv(variable)
			}
			without := adapt(t, []byte(source))
			for i, variable := range names {
				t.Setenv(variable, fmt.Sprintf("127.0.0.1:%d", 7000+i))
			}
			if with := adapt(t, []byte(source)); !bytes.Equal(with, without) {
				t.Errorf("the shell changed it:\n%s\n%s", without, with)
			}
		})
	}
}

// A sandbox that is not named is an error, not the platform.
func TestExamplesNeedAnUpstream(t *testing.T) {
	for _, l := range languages {
		t.Run(l.name, func(t *testing.T) {
			source, err := os.ReadFile(filepath.Join(l.name, "Caddyfile"))
			if err != nil {
				t.Fatal(err)
			}
			setReadmeEnvironment(t)
			t.Setenv("UMS_UPSTREAM", "")
			_ = os.Unsetenv("UMS_UPSTREAM")
			config := new(caddy.Config)
			if err := json.Unmarshal(quiet(t, adapt(t, source)), config); err != nil {
				t.Fatal(err)
			}
			err = caddy.Validate(config)
			if err == nil || !strings.Contains(err.Error(), "merchant shop: upstream") || !strings.Contains(err.Error(), "UMS_UPSTREAM") {
				t.Errorf("without UMS_UPSTREAM: %v", err)
			}
			t.Setenv("UMS_UPSTREAM", "http://127.0.0.1:"+sandboxPort)
			if err := caddy.Validate(config); err != nil {
				t.Errorf("with UMS_UPSTREAM: %v", err)
			}
		})
	}
}

// The gateway answers by any name of this machine. Under http://127.0.0.1:8088 it answered localhost:8088 with an
// empty 200, which no app may take for an answer.
func TestExamplesAnswerByAnyName(t *testing.T) {
	each(t, func(t *testing.T, l language) {
		s := open(t, l, sandbox.Options{})
		_, port, _ := net.SplitHostPort(s.env["GATEWAY"])
		for _, host := range []string{"localhost", "127.0.0.1", "gateway.internal"} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+s.env["GATEWAY"]+"/v1/netpay/query", strings.NewReader("{}"))
			if err != nil {
				t.Fatal(err)
			}
			req.Host = net.JoinHostPort(host, port)
			req.Header.Set("Content-Type", "application/json")
			res, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = res.Body.Close()
			if got := res.Header.Get("Gateway-Outcome"); got != "answered" {
				t.Errorf("%s: %s, Gateway-Outcome %q", host, res.Status, got)
			}
		}
	})
}

// One number means one thing wherever a port is printed: 8080, 8088 and 8089 each meant several, and four sections
// sent HTTP to 9000, which is PHP-FPM's.
func TestPortsMeanOneThing(t *testing.T) {
	files, err := filepath.Glob("*/*")
	if err != nil {
		t.Fatal(err)
	}
	files = slices.DeleteFunc(files, func(name string) bool {
		info, err := os.Stat(name)
		return err != nil || !info.Mode().IsRegular()
	})
	for _, pattern := range []string{"*.md", "openapi.yaml", "docs/*", "docs/*/*", "packaging/*", "compose.yaml", "command*.go", "*/command*.go", "example/*.go"} {
		found, err := filepath.Glob(filepath.Join("..", filepath.FromSlash(pattern)))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range found {
			if info, err := os.Stat(name); err == nil && info.Mode().IsRegular() && !strings.HasSuffix(name, "_test.go") {
				files = append(files, name)
			}
		}
	}
	// Of an address (host:8901, http://:8901, [::1]:8901), or by that word.
	port := regexp.MustCompile(`(?:[\w.\]*]|//|[ (]):(\d{4,5})\b|\bports? (\d{4,5})\b|端口 ?(\d{4,5})`)
	allowed := map[string]string{ // the line has to hold the text too
		sandboxPort: "", gatewayPort: "", notifyPort: "", appPort: "", otherPort: "",
		adminPort: "", fpmPort: "", "4222": "nats",
	}
	fpm := regexp.MustCompile(`php_fastcgi|php-cgi|PHP-FPM|fastcgi://`)
	seen := 0
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for i, line := range strings.Split(string(text), "\n") {
			for _, match := range port.FindAllStringSubmatch(line, -1) {
				number := match[1] + match[2] + match[3]
				seen++
				holds, known := allowed[number]
				switch {
				case !known:
					t.Errorf("%s:%d: port %s is none of ours: %s", name, i+1, number, strings.TrimSpace(line))
				case !strings.Contains(line, holds), number == fpmPort && !fpm.MatchString(line):
					t.Errorf("%s:%d: port %s means something else: %s", name, i+1, number, strings.TrimSpace(line))
				}
			}
		}
	}
	if len(files) < 15 || seen < 50 {
		t.Errorf("only %d ports in %d files were found", seen, len(files))
	}
}

// The README's PHP and the README's Caddyfile under a real PHP-FPM, which clears the environment: without `env` lines
// getenv gave nothing, every notify was answered 401, and calls went out with "mid":false.
func TestReadmeShopUnderFPM(t *testing.T) {
	for _, name := range readmes {
		t.Run(name, func(t *testing.T) {
			s := openReadmeShop(t, name)
			paid := s.page(t, "/pay")
			if paid.Outcome != "answered" || paid.Answer["errCode"] != "SUCCESS" || paid.Answer["status"] != "NEW_ORDER" || paid.Answer["qrCode"] == "" {
				t.Fatalf("order: %+v", paid)
			}
			order, keys := paid.Order, s.platform.Options()
			if made, ok := s.platform.Order(order); !ok || made.TotalAmount != price || !strings.HasPrefix(order, keys.SourceCode) {
				t.Errorf("the platform has %+v", made)
			}

			// Without the gateway's signature nothing is believed, and what is not of the order neither.
			forged := fmt.Sprintf(`{"mid":"%s","merOrderId":"%s","totalAmount":%d,"status":"TRADE_SUCCESS"}`, keys.MID, order, price)
			if status, answer := send(t, "http://"+s.pages+"/notify", forged, http.Header{"Content-Type": {"application/json"}}); status != http.StatusUnauthorized {
				t.Errorf("a forged event: %d %s", status, answer)
			}
			for what, fields := range map[string]map[string]string{
				"other money":   {"merOrderId": order, "totalAmount": "1"},
				"another order": {"merOrderId": order + "1", "totalAmount": fmt.Sprint(price)},
			} {
				fields["mid"], fields["tid"] = keys.MID, keys.TID
				message, err := sandbox.Notify{Kind: sandbox.KindPayment, Key: keys.NotifyKey, Fields: fields}.Build()
				if err != nil {
					t.Fatal(err)
				}
				status, word := send(t, "http://"+s.notify+"/notify", string(message.Body), http.Header{"Content-Type": {message.ContentType}})
				if status != http.StatusBadGateway || string(word) != "FAILED" {
					t.Errorf("%s: %d %s", what, status, word)
				}
			}
			if got := s.status(t, order); got != "new" {
				t.Errorf("after false events the book says %s", got)
			}

			if err := s.platform.Pay(order); err != nil {
				t.Fatal(err)
			}
			s.delivered(t, order, sandbox.KindPayment)
			if got := s.status(t, order); got != "paid" {
				t.Errorf("after the notify the book says %s", got)
			}
			if got := s.page(t, "/query?order="+order); got.Outcome != "answered" || got.Answer["status"] != "TRADE_SUCCESS" {
				t.Errorf("query: %+v", got)
			}

			// The answer of the first refund is lost: the second has its number, and the buyer gets his money once.
			s.platform.Break(sandbox.Fault{Kind: sandbox.CutExecuted, Path: "/v1/netpay/refund"})
			if got := s.page(t, "/refund?order="+order); got.Outcome != "unknown" {
				t.Errorf("refund, its answer cut: %+v", got)
			}
			if got := s.page(t, "/refund?order="+order); got.Outcome != "answered" || got.Answer["refundStatus"] != "SUCCESS" {
				t.Errorf("refund: %+v", got)
			}
			made, _ := s.platform.Order(order)
			if len(made.Refunds) != 1 || made.Refunds[0].Amount != price {
				t.Fatalf("the platform has %+v", made.Refunds)
			}
			s.delivered(t, made.Refunds[0].RefundOrderID, sandbox.KindRefund)
			if got := s.status(t, order); got != "refunded" {
				t.Errorf("after the refund the book says %s", got)
			}

			// An order whose answer is lost is asked for, with its number.
			s.platform.Break(sandbox.Fault{Kind: sandbox.CutExecuted, Path: "/v1/netpay/trade/precreate"})
			lost := s.page(t, "/pay")
			if lost.Outcome != "unknown" || lost.Order == "" {
				t.Errorf("order, its answer cut: %+v", lost)
			}
			if got := s.page(t, "/query?order="+lost.Order); got.Outcome != "answered" || got.Answer["status"] != "NEW_ORDER" {
				t.Errorf("query of it: %+v", got)
			}
			if status, _ := send(t, "http://"+s.pages+"/refund?order=1234", "", nil); status != http.StatusNotFound {
				t.Errorf("a refund of no order: %d", status)
			}
			if status, _ := send(t, "http://"+s.notify+"/pay", "", nil); status != http.StatusNotFound {
				t.Errorf("a page of the shop where the platform comes in: %d", status)
			}
		})
	}
}

// readmeShop is the README's app with the README's gateway.
type readmeShop struct {
	platform            *sandbox.ChinaUMS
	notify, pages, book string
	output              *lines
}

// readmePage is what the README's app answers.
type readmePage struct {
	Order, Outcome string
	Answer         map[string]any
}

func openReadmeShop(t *testing.T, name string) *readmeShop {
	t.Helper()
	found, _ := filepath.Glob("/usr/sbin/php-fpm*")
	if len(found) == 0 {
		missing(t, "php-fpm")
	}
	if modules, err := exec.Command(found[0], "-m").Output(); err != nil || !strings.Contains(strings.ToLower(string(modules)), "\ncurl\n") {
		missing(t, "PHP's curl extension")
	}
	platform, err := sandbox.New(sandbox.Options{Schedule: []time.Duration{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(platform.Close)
	server := httptest.NewServer(platform)
	t.Cleanup(server.Close)
	root := t.TempDir()
	s := &readmeShop{platform: platform, notify: free(t), pages: free(t), book: filepath.Join(t.TempDir(), "book.json"), output: new(lines)}
	fpm, gateway, keys := free(t), free(t), platform.Options()
	for name, value := range map[string]string{
		"UMS_APP_ID": keys.AppID, "UMS_APP_KEY": keys.AppKey, "UMS_NOTIFY_KEY": keys.NotifyKey, "UMS_MID": keys.MID, "UMS_TID": keys.TID,
		"UMS_SOURCE": keys.SourceCode, "UMS_UPSTREAM": server.URL, "APP_SECRET": "whsec_bm90IGEgcmVhbCBzZWNyZXQsIGJ1dCBvZiAzMiBieXQ=",
	} {
		t.Setenv(name, value)
	}

	app := replaced(t, blockHolding(t, name, "php", "<?php"),
		"/var/lib/shop/book.json", s.book, "127.0.0.1:"+gatewayPort, gateway, "https://pay.example.com/notify", "http://"+s.notify+"/notify")
	if err := os.WriteFile(filepath.Join(root, "index.php"), []byte(app), 0o600); err != nil {
		t.Fatal(err)
	}
	process := exec.Command(found[0], fpmArguments(t, fpm)...)
	process.Stdout, process.Stderr, process.WaitDelay = s.output, s.output, 5*time.Second
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = process.Process.Signal(os.Interrupt)
		_ = process.Wait()
		if t.Failed() {
			t.Logf("PHP-FPM's output:\n%s", s.output)
		}
	})
	listening(t, fpm, s.output)

	_, gatewayPortHere, _ := net.SplitHostPort(gateway)
	_, notifyPortHere, _ := net.SplitHostPort(s.notify)
	_, pagesPortHere, _ := net.SplitHostPort(s.pages)
	load(t, []byte(replaced(t, blockHolding(t, name, "caddyfile", "import shop", "chinaums_proxy"),
		"environment test", "upstream {env.UMS_UPSTREAM}", "/srv/shop", root, "127.0.0.1:"+fpmPort, fpm, "http://:"+gatewayPort, "http://:"+gatewayPortHere,
		"pay.example.com {", "http://:"+notifyPortHere+" {\n\tbind 127.0.0.1", "shop.example.com {", "http://:"+pagesPortHere+" {\n\tbind 127.0.0.1")))
	return s
}

// page asks the README's app for one of its pages.
func (s *readmeShop) page(t *testing.T, path string) readmePage {
	t.Helper()
	var answer readmePage
	status, body := send(t, "http://"+s.pages+path, "", nil)
	if err := json.Unmarshal(body, &answer); status != http.StatusOK || err != nil {
		t.Fatalf("%s: %d %q: %v\n%s", path, status, body, err, s.output)
	}
	return answer
}

// status is what the app has written down of an order.
func (s *readmeShop) status(t *testing.T, order string) string {
	t.Helper()
	var book map[string]struct{ Status string }
	text, err := os.ReadFile(s.book)
	if err == nil {
		err = json.Unmarshal(text, &book)
	}
	if err != nil {
		t.Fatal(err)
	}
	return book[order].Status
}

func (s *readmeShop) delivered(t *testing.T, number string, kind sandbox.Kind) {
	t.Helper()
	if err := s.platform.WaitDelivered(t.Context(), number, kind); err != nil {
		t.Fatalf("%s notify of %s: %v\n%s", kind, number, err, s.output)
	}
}

// listening waits until somebody listens at an address.
func listening(t *testing.T, address string, output fmt.Stringer) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(10 * time.Millisecond) {
		connection, err := net.Dial("tcp", address)
		if err == nil {
			connection.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("nobody listens: %v\n%s", err, output)
		}
	}
}

// TestMain makes this program Caddy where TestStepByStep starts it as such: it holds what cmd/caddy holds, and is
// built already.
func TestMain(m *testing.M) {
	if os.Getenv(asCaddy) == "1" {
		caddycmd.Main()
		os.Exit(0)
	}
	_ = os.Setenv("LC_ALL", "C") // messages are in English, whatever this machine speaks
	os.Exit(m.Run())
}

const asCaddy = "TEST_AS_CADDY"

// The commands step by step, in their order: sandbox, gateway and PHP app, an order, its payment and refund; and of the
// page about troubles a test notify, a saved one that is verified, a signed call. The example of `notify` named an order
// that no app knew, and the one of `verify` a file that nothing had saved.
func TestStepByStep(t *testing.T) {
	bash := tool(t, "bash")
	for _, name := range []string{"curl", "openssl", "php-cgi"} {
		tool(t, name)
	}
	if modules, err := exec.Command("php-cgi", "-m").Output(); err != nil || !strings.Contains(string(modules), "\ncurl\n") {
		missing(t, "PHP's curl extension")
	}
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	directory := t.TempDir()
	if err := os.Symlink(binary, filepath.Join(directory, "caddy")); err != nil {
		t.Fatal(err)
	}
	ports := map[string]string{sandboxPort: free(t), gatewayPort: free(t), notifyPort: free(t), appPort: free(t), fpmPort: free(t)}
	if err := os.MkdirAll(filepath.Join(directory, "example", "php"), 0o700); err != nil {
		t.Fatal(err)
	}
	app, err := os.ReadFile("php/index.php")
	if err != nil {
		t.Fatal(err)
	}
	caddyfile, err := os.ReadFile("php/Caddyfile")
	if err != nil {
		t.Fatal(err)
	}
	here := make(map[string]string)
	for _, port := range []string{gatewayPort, notifyPort, appPort, fpmPort} {
		here[port] = ports[port]
	}
	for file, text := range map[string]string{
		"example/php/index.php": string(app), "example/php/Caddyfile": onPorts(t, string(caddyfile), here),
		// A command that is refused, or that hangs, ends the script.
		".curlrc": "fail-with-body\nsilent\nshow-error\nmax-time = 60\n",
	} {
		if err := os.WriteFile(filepath.Join(directory, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}

	script := "set -eo pipefail\ntrap 'kill $(jobs -p)' EXIT\n"
	for _, step := range []struct{ page, holds string }{
		{startPage, "> sandbox.txt"}, {startPage, "./caddy start"}, {startPage, "ORDER="}, {startPage, "/refund?order="},
		{troublePage, "--save notify.txt"}, {troublePage, "chinaums sign"}, {startPage, "./caddy stop"},
	} {
		block, holds := blockHolding(t, step.page, "sh", step.holds), step.holds
		switch holds {
		case "> sandbox.txt": // as long as it takes
			block = replaced(t, block, "sleep 2;", "until grep -q UMS_SOURCE sandbox.txt; do sleep 0.1; done;",
				"sandbox --ui", "sandbox --listen "+ports[sandboxPort]+" --ui")
		case "./caddy start":
			_, port, _ := net.SplitHostPort(ports[fpmPort])
			block += "until (: < /dev/tcp/127.0.0.1/" + port + ") 2> /dev/null; do sleep 0.1; done\n"
		case "./caddy stop":
			block = "trap - EXIT\n" + block
		}
		script += "echo; echo '== " + holds + "'\n" + block
	}
	var pairs []string
	for shown, address := range ports {
		if _, port, _ := net.SplitHostPort(address); shown != gatewayPort { // which the app alone calls
			pairs = append(pairs, ":"+shown, ":"+port)
		}
	}
	script = replaced(t, script, append(pairs, "/tmp/shop.json", filepath.Join(directory, "shop.json"))...)

	output, err := os.Create(filepath.Join(directory, "output"))
	if err != nil {
		t.Fatal(err)
	}
	defer output.Close()
	command := exec.Command(bash, "--norc", "-c", script)
	command.Dir, command.Stdout, command.Stderr = directory, output, output
	command.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + directory, "LC_ALL=C", "CADDY_ADMIN=" + free(t), asCaddy + "=1"}
	err = command.Run()
	if _, seekErr := output.Seek(0, io.SeekStart); seekErr != nil {
		t.Fatal(seekErr)
	}
	text, readErr := io.ReadAll(output)
	if readErr != nil {
		t.Fatal(readErr)
	}
	said := make(map[string]string)
	for part := range strings.SplitSeq("\n"+string(text), "\n== ") {
		holds, rest, _ := strings.Cut(part, "\n")
		said[holds] = rest
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	for holds, wants := range map[string][]string{
		"ORDER=":            {`"status":"NEW_ORDER"`, `"qrCode":"http`},
		"/refund?order=":    {`"status":"TRADE_SUCCESS"`, `"status":"SUCCESS"`},
		"--save notify.txt": {"answer:     SUCCESS", "result:     verifies"},
		"chinaums sign":     {`"errCode":"SUCCESS"`, `"totalAmount":4990`},
	} {
		for _, want := range wants {
			if !strings.Contains(said[holds], want) {
				t.Errorf("%s does not say %s:\n%s", holds, want, said[holds])
			}
		}
	}
}
