package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/internal/testutil"
	"github.com/caddy-chinaums/caddy-chinaums/webhook"
)

// `caddy chinaums dev`, run as the command that it is: what it prints is typed, what happens is read.

// dev is a run of the command.
type dev struct {
	*transcript
	directory string // HOME and TMPDIR are in it
	port      int
	ended     chan error
	process   *os.Process
}

// transcript collects output, and tells those who wait for it.
type transcript struct {
	mu    sync.Mutex
	text  bytes.Buffer
	fresh chan struct{}
}

func (s *transcript) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.fresh)
	s.fresh = make(chan struct{})
	return s.text.Write(p)
}

func (s *transcript) state() (string, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String(), s.fresh
}

// shows waits until the texts have been printed, in this order.
func (s *transcript) shows(t *testing.T, texts ...string) {
	t.Helper()
	deadline := time.After(3 * time.Minute)
	for {
		text, fresh := s.state()
		rest, missing := text, ""
		for _, want := range texts {
			_, after, found := strings.Cut(rest, want)
			if !found {
				missing = want
				break
			}
			rest = after
		}
		if missing == "" {
			return
		}
		select {
		case <-fresh:
		case <-deadline:
			t.Fatalf("it does not show %q at its place:\n%s", missing, text)
		}
	}
}

// freePorts returns the first of five free ports in a row.
func freePorts(t *testing.T) int {
	t.Helper()
	for first, count := 0, 0; ; {
		_, text, _ := net.SplitHostPort(free(t))
		port, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		if port != first+count {
			first, count = port, 0
		}
		if count++; count == 5 {
			return first
		}
	}
}

// devCommandLine is the command, in an empty home. It says where that is.
func devCommandLine(t *testing.T, port int, arguments ...string) (*exec.Cmd, string) {
	t.Helper()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	directory := t.TempDir()
	for _, name := range []string{"home", "tmp", "work"} {
		if err := os.Mkdir(filepath.Join(directory, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	command := exec.Command(binary, append([]string{"chinaums", "dev", "--port", strconv.Itoa(port)}, arguments...)...)
	command.Dir = filepath.Join(directory, "work")
	command.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + filepath.Join(directory, "home"), "TMPDIR=" + filepath.Join(directory, "tmp"),
		"LC_ALL=C", "BOOK=" + os.Getenv("BOOK"), asCaddy + "=1",
	}
	return command, directory
}

// startDev starts the command and waits until it has said what to type. work is put into its current directory.
func startDev(t *testing.T, work map[string]string, arguments ...string) *dev {
	t.Helper()
	return startDevAt(t, freePorts(t), work, arguments...)
}

// startDevAt is startDev on given ports.
func startDevAt(t *testing.T, port int, work map[string]string, arguments ...string) *dev {
	t.Helper()
	d := &dev{transcript: &transcript{fresh: make(chan struct{})}, port: port, ended: make(chan error, 1)}
	command, directory := devCommandLine(t, d.port, arguments...)
	d.directory = directory
	for name, text := range work {
		if err := os.WriteFile(filepath.Join(command.Dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	command.Stdout, command.Stderr = d.transcript, d.transcript
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	d.process = command.Process
	go func() { d.ended <- command.Wait() }()
	t.Cleanup(func() {
		_ = d.process.Signal(syscall.SIGTERM)
		select {
		case <-d.ended: //nolint:errcheck // it was told to end
		case <-time.After(time.Minute):
			_ = d.process.Kill()
		}
		if text, _ := d.state(); t.Failed() {
			t.Logf("dev said:\n%s", text)
		}
	})
	d.shows(t, "What happens")
	return d
}

// ends ends the command with a signal: it says that all is well, and nothing is left of it.
func (d *dev) ends(t *testing.T, signal os.Signal) {
	t.Helper()
	if err := d.process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	err := testutil.Receive(t, "its end", d.ended)
	d.ended <- nil // for the cleanup
	if err != nil {
		t.Errorf("it ended with %v", err)
	}
	for i := range 5 {
		if connection, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", d.port+i)); err == nil {
			_ = connection.Close()
			t.Errorf("port %d is still open", d.port+i)
		}
	}
	for _, name := range []string{"home", "tmp"} {
		err := filepath.WalkDir(filepath.Join(d.directory, name), func(path string, entry fs.DirEntry, err error) error {
			if err == nil && !entry.IsDir() {
				err = errors.New(path)
			}
			return err
		})
		if err != nil {
			t.Errorf("it left %v", err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(d.directory, "tmp", "*")); len(left) > 0 {
		t.Errorf("it left %q", left)
	}
	// A process that still runs has our directory in its command line or in its environment. One that was killed needs a moment.
	running := ""
	defer func() {
		if running != "" {
			t.Logf("what still runs: %q", running)
		}
	}()
	testutil.Eventually(t, "no process is left", func() bool {
		running = ""
		processes, _ := filepath.Glob("/proc/[0-9]*")
		for _, process := range processes {
			for _, name := range []string{"cmdline", "environ"} {
				if text, err := os.ReadFile(filepath.Join(process, name)); err == nil && strings.Contains(string(text), d.directory) {
					running += process + " " + string(text)
				}
			}
		}
		return running == ""
	})
}

// url is an address of the run's; the number counts from the first port.
func (d *dev) url(number int, path string) string {
	return fmt.Sprintf("http://127.0.0.1:%d%s", d.port+number, path)
}

// shell runs lines in a shell, and returns what they print.
func shell(t *testing.T, lines string) string {
	t.Helper()
	tool(t, "curl")
	command := exec.Command(tool(t, "bash"), "--norc", "-c", "set -e\n"+lines)
	command.Dir = t.TempDir()
	// A command that is refused, or that hangs, ends the script.
	config := []byte("fail-with-body\nsilent\nshow-error\nmax-time = 60\n")
	if err := os.WriteFile(filepath.Join(command.Dir, ".curlrc"), config, 0o600); err != nil {
		t.Fatal(err)
	}
	command.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + command.Dir, "LC_ALL=C"}
	output, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, lines, output)
	}
	return string(output)
}

// printed returns the command that stands under a heading.
func (d *dev) printed(t *testing.T, heading string) string {
	t.Helper()
	text, _ := d.state()
	_, rest, found := strings.Cut(text, "\n"+heading+":\n")
	command, _, ends := strings.Cut(rest, "\n\n")
	if !found || !ends || !strings.HasPrefix(command, "curl ") {
		t.Fatalf("no command under %q:\n%s", heading, text)
	}
	return command + "\n"
}

// The four commands that it prints, typed one after the other; no app.
func TestDevCommands(t *testing.T) {
	for _, test := range []struct {
		platform                        string
		arguments                       []string
		ordered, queried, refunded      string
		order, paid, query, refund, yes string
	}{
		{
			"chinaums", nil, `"status":"NEW_ORDER"`, `"status":"TRADE_SUCCESS"`, `"refundStatus":"SUCCESS"`,
			"POST /v1/netpay/trade/precreate  200 answered SUCCESS", "--> com.chinaums.payment.succeeded SAND0000001 49.90  ",
			"POST /v1/netpay/query  200 answered SUCCESS", "--> com.chinaums.refund.succeeded SAND0000001 9.90  ", "SUCCESS",
		},
		{
			"shouqianba", []string{"--platform", "shouqianba"}, `"PRECREATE_SUCCESS"`, `"PAID"`, `"REFUND_SUCCESS"`,
			"POST /upay/v2/precreate  200 answered 200 PRECREATE_SUCCESS", "--> com.shouqianba.payment.succeeded SAND0000001 49.90  ",
			"POST /upay/v2/query  200 answered 200 SUCCESS", "--> com.shouqianba.refund.succeeded SAND0000001", "success",
		},
	} {
		t.Run(test.platform, func(t *testing.T) {
			d := startDev(t, nil, test.arguments...)
			yes := "<-- 200, accepted: " + test.yes + " to the platform\n"
			if got := shell(t, d.printed(t, "Order for 49.90 yuan")); !strings.Contains(got, test.ordered) {
				t.Errorf("order: %s", got)
			}
			shell(t, d.printed(t, "Pay"))
			d.shows(t, test.order) // the line of a call is printed when its answer has gone out
			d.shows(t, test.paid, yes)
			if got := shell(t, d.printed(t, "Query")); !strings.Contains(got, test.queried) {
				t.Errorf("query: %s", got)
			}
			if got := shell(t, d.printed(t, "Refund 9.90 yuan")); !strings.Contains(got, test.refunded) {
				t.Errorf("refund: %s", got)
			}
			d.shows(t, test.query)
			d.shows(t, test.paid, yes, test.refund, yes)
			d.ends(t, os.Interrupt)
		})
	}
}

// With a watch: a notification gets lost, and the payment is found; `caddy chinaums orders` shows what is printed.
func TestDevWatch(t *testing.T) {
	d := startDev(t, nil, "--watch")
	shell(t, d.printed(t, "Lose the next notification. The watch finds the payment 10 s after the order, or later"))
	shell(t, d.printed(t, "Order for 49.90 yuan")+d.printed(t, "Pay"))
	address := fmt.Sprintf("127.0.0.1:%d", d.port+4)
	d.shows(t, "  http://"+address+"/gateway/ ", "./caddy chinaums orders --address "+address+"\n")
	orders := func(arguments ...string) string {
		t.Helper()
		binary, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		command := exec.Command(binary, append(append([]string{"chinaums"}, arguments...), "--address", address)...)
		command.Env = []string{"LC_ALL=C", asCaddy + "=1"}
		output, err := command.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, output)
		}
		return string(output)
	}
	// A browser opens the console by the address that is printed.
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/gateway/", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Sec-Fetch-Mode", "navigate")
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if page, err := io.ReadAll(response.Body); err != nil || response.StatusCode != 200 || !strings.Contains(string(page), "page.js") {
		t.Errorf("%s %s, %v", response.Status, page, err)
	}
	if got := orders("orders"); !strings.Contains(got, "SAND0000001") {
		t.Error(got)
	}
	orders("query", "SAND0000001") // sooner than by itself
	d.shows(t, "--> com.chinaums.payment.succeeded SAND0000001 49.90  ", "(found by a query)\n", "<-- 200 from your app\n")
	shell(t, d.printed(t, "Refund 9.90 yuan"))
	// The platform's notification may come before the answer to the call has been told, or after it.
	d.shows(t, "POST /v1/netpay/refund  200 answered SUCCESS")
	d.shows(t, "<-- in the inbox: SUCCESS to the platform\n")
	d.shows(t, "--> com.chinaums.refund.succeeded SAND0000001 9.90  ")
	testutil.Eventually(t, "the refund is written down", func() bool {
		return strings.Contains(orders("orders", "--state", "refunded_part"), "SAND0000001R=succeeded")
	})
	d.ends(t, os.Interrupt)
}

// The README's five commands, as they stand there. They are those that the command prints.
func TestReadmeTenMinutes(t *testing.T) {
	for _, name := range readmes {
		t.Run(name, func(t *testing.T) {
			if start := blockHolding(t, name, "sh", "chinaums dev"); start != "./caddy chinaums dev\n" {
				t.Errorf("another command than the one below is started: %s", start)
			}
			d := startDev(t, nil)
			port := func(number int) string { return fmt.Sprint(":", d.port+number) }
			here := strings.NewReplacer(":"+sandboxPort, port(0), ":"+gatewayPort, port(1), ":"+notifyPort, port(2))
			order := here.Replace(blockHolding(t, name, "sh", "trade/precreate"))
			refund := here.Replace(blockHolding(t, name, "sh", "netpay/refund"))
			stamp := regexp.MustCompile(`"requestTimestamp": "[0-9 :-]+"`)
			same := d.printed(t, "Order for 49.90 yuan") + d.printed(t, "Pay") + d.printed(t, "Query") + d.printed(t, "Refund 9.90 yuan")
			if stamp.ReplaceAllString(order+refund, "") != stamp.ReplaceAllString(same, "") {
				t.Errorf("it prints other commands:\n%s\n%s", order+refund, same)
			}
			if got := shell(t, order); !strings.Contains(got, `"status":"NEW_ORDER"`) {
				t.Errorf("order: %s", got)
			}
			d.shows(t, "--> com.chinaums.payment.succeeded SAND0000001 49.90  ", "<-- 200, accepted: SUCCESS to the platform\n")
			if got := shell(t, refund); !strings.Contains(got, `"status":"TRADE_SUCCESS"`) || !strings.Contains(got, `"refundStatus":"SUCCESS"`) {
				t.Errorf("query and refund: %s", got)
			}
			d.shows(t, "--> com.chinaums.refund.succeeded SAND0000001 9.90  ", "<-- 200, accepted: SUCCESS to the platform\n")
			d.ends(t, os.Interrupt)
		})
	}
}

// An app of its own gets the events, signed with the secret that was printed. What it refuses comes again.
func TestDevWithAnApp(t *testing.T) {
	address := free(t)
	d := startDev(t, nil, "--app", address)
	text, _ := d.state()
	match := regexp.MustCompile(`(?m)^export APP_SECRET=(whsec_\S+)$`).FindStringSubmatch(text)
	if match == nil || !strings.Contains(text, "export UMS_SOURCE=SAND\n") {
		t.Fatalf("the app's variables are missing:\n%s", text)
	}
	shell(t, d.printed(t, "Order for 49.90 yuan")+d.printed(t, "Pay"))
	event := "--> com.chinaums.payment.succeeded SAND0000001 49.90  "
	d.shows(t, event, "<-- no reply (app_unreachable): FAILED to the platform, which sends it again\n")

	answers := make(chan int, 1)
	answers <- http.StatusUnprocessableEntity
	app := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = webhook.Verify(match[1], r.Header, body, time.Now(), webhook.DefaultTolerance)
		}
		if err != nil || r.Method != http.MethodPost || r.URL.Path != "/notify" || !bytes.Contains(body, []byte(`"merOrderId":"SAND0000001"`)) {
			t.Errorf("%s %s %s: %v", r.Method, r.URL, body, err)
		}
		select {
		case status := <-answers:
			w.WriteHeader(status)
		default:
		}
	})
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(app)
	server.Listener = listener
	server.Start()
	defer server.Close()
	d.shows(t, event, "app_unreachable", event, "<-- 422, not accepted (app_refused): FAILED to the platform, which sends it again\n",
		event, "<-- 200, accepted: SUCCESS to the platform\n")

	// Neither a forged notification nor a call is printed as it came.
	status, word := send(t, d.url(2, "/notify"), "mid=898000000000000&merOrderId=%1b%5b2J&sign=00", http.Header{"Content-Type": {"application/x-www-form-urlencoded"}})
	if status != http.StatusForbidden || string(word) != "FAILED" {
		t.Errorf("a forged notification: %d %s", status, word)
	}
	d.shows(t, "x-- notification rejected, 403 (signature): FAILED to the sender\n")
	send(t, d.url(1, "/v1/netpay/%1b%5b2J"), "{}", http.Header{"Content-Type": {"application/json"}})
	d.shows(t, `POST "/v1/netpay/\x1b[2J"  403 not_sent GATEWAY_FORBIDDEN`)
	d.ends(t, syscall.SIGTERM)
	if text, _ = d.state(); strings.Contains(text, "\x1b[2J") {
		t.Error("a stranger cleared the screen")
	}
}

// php-cgi runs the index.php that is there, or somebody's FastCGI server does.
func TestDevWithPHP(t *testing.T) {
	program := tool(t, "php-cgi")
	if modules, err := exec.Command(program, "-m").Output(); err != nil || !strings.Contains(string(modules), "\ncurl\n") {
		missing(t, "PHP's curl extension")
	}
	app, err := os.ReadFile("php/index.php")
	if err != nil {
		t.Fatal(err)
	}
	work := map[string]string{"index.php": string(app)}
	for name, start := range map[string]func(t *testing.T) *dev{
		"its own": func(t *testing.T) *dev { return startDev(t, work) },
		"another": func(t *testing.T) *dev {
			address, output := free(t), new(lines)
			php := exec.Command(program, "-b", address)
			php.Stdout, php.Stderr = output, output
			php.Env = []string{"PATH=" + os.Getenv("PATH")}
			if err := php.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				_ = php.Process.Kill()
				_ = php.Wait()
			})
			listening(t, address, output)
			t.Setenv("BOOK", filepath.Join(t.TempDir(), "book.json"))
			return startDev(t, work, "--app", "fastcgi://"+address)
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := start(t)
			const order = "SAND0000002"
			if status, answer := send(t, d.url(3, "/pay?order="+order), "", nil); status != http.StatusOK || !strings.Contains(string(answer), "NEW_ORDER") {
				t.Fatalf("order: %d %s", status, answer)
			}
			shell(t, strings.ReplaceAll(d.printed(t, "Pay"), "SAND0000001", order))
			yes := "<-- 200, accepted: SUCCESS to the platform\n"
			d.shows(t, "--> com.chinaums.payment.succeeded SAND0000002 49.90  ", yes)
			path := "/refund?order=" + order + "&refund=" + order + "R&amount=990"
			if status, answer := send(t, d.url(3, path), "", nil); status != http.StatusOK || !strings.Contains(string(answer), "SUCCESS") {
				t.Fatalf("refund: %d %s", status, answer)
			}
			d.shows(t, "--> com.chinaums.refund.succeeded SAND0000002 9.90  ", yes)

			// An order that the app does not know.
			shell(t, d.printed(t, "Order for 49.90 yuan")+d.printed(t, "Pay"))
			d.shows(t, "--> com.chinaums.payment.succeeded SAND0000001 49.90  ", "<-- 422, not accepted (app_refused): FAILED")
			d.ends(t, os.Interrupt)
		})
	}
}

// The README's shop, in the directory of `dev`: it has no book at /var/lib/shop there, nor a name of its own.
func TestDevWithTheReadmesShop(t *testing.T) {
	program := tool(t, "php-cgi")
	if modules, err := exec.Command(program, "-m").Output(); err != nil || !strings.Contains(string(modules), "\ncurl\n") {
		missing(t, "PHP's curl extension")
	}
	port := freePorts(t)
	app := replaced(t, blockHolding(t, readmes[0], "php", "<?php"), "127.0.0.1:"+gatewayPort, fmt.Sprint("127.0.0.1:", port+1))
	d := startDevAt(t, port, map[string]string{"index.php": app})
	var made readmePage
	status, answer := send(t, d.url(3, "/pay"), "", nil)
	if err := json.Unmarshal(answer, &made); status != http.StatusOK || err != nil || made.Outcome != "answered" || made.Answer["errCode"] != "SUCCESS" {
		t.Fatalf("order: %d %s", status, answer)
	}
	shell(t, strings.ReplaceAll(d.printed(t, "Pay"), "SAND0000001", made.Order))
	yes := "<-- 200, accepted: SUCCESS to the platform\n"
	d.shows(t, "--> com.chinaums.payment.succeeded "+made.Order+" 49.90  ", yes)
	if status, answer := send(t, d.url(3, "/refund?order="+made.Order), "", nil); status != http.StatusOK || !strings.Contains(string(answer), `"refundStatus":"SUCCESS"`) {
		t.Fatalf("refund: %d %s", status, answer)
	}
	d.shows(t, "--> com.chinaums.refund.succeeded "+made.Order+" 49.90  ", yes)
	d.ends(t, os.Interrupt)
}

// A port that is in use is named, before anything is started.
func TestDevNamesThePortInUse(t *testing.T) {
	for number := range 3 {
		first := freePorts(t)
		port := fmt.Sprint(first + number)
		listener, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err != nil {
			t.Fatal(err)
		}
		command, directory := devCommandLine(t, first)
		output, err := command.CombinedOutput()
		_ = listener.Close()
		if _, failed := errors.AsType[*exec.ExitError](err); !failed || !strings.Contains(string(output), "port "+port+" cannot be used") ||
			!strings.Contains(string(output), "--port") {
			t.Errorf("port %s in use: %v\n%s", port, err, output)
		}
		if left, _ := filepath.Glob(filepath.Join(directory, "tmp", "*")); len(left) > 0 {
			t.Errorf("it left %q", left)
		}
	}
}

// A second one does not share the ports of the first, as two Caddys would.
func TestDevRunsOnce(t *testing.T) {
	d := startDev(t, nil)
	command, _ := devCommandLine(t, d.port)
	if output, err := command.CombinedOutput(); err == nil || !strings.Contains(string(output), fmt.Sprintf("port %d cannot be used", d.port)) {
		t.Errorf("a second: %v\n%s", err, output)
	}
	d.ends(t, os.Interrupt)
}
