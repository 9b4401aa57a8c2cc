package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-chinaums/caddy-chinaums/internal/freeport"
	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
	"github.com/caddy-chinaums/caddy-chinaums/internal/testutil"
	"github.com/caddy-chinaums/caddy-chinaums/webhook"
)

// These tests run the merchant apps as they are, behind Caddy with the Caddyfile beside them, against the sandbox. One
// Caddy runs at a time: no test here may be parallel.

// The price that the apps charge, in fen.
const price = 4990

// language is how one of the apps is run.
type language struct {
	name, source string
	// command returns how to start the app, or the test skips.
	command func(t *testing.T, s *shop) *exec.Cmd
}

var languages = []language{
	{"php", "index.php", phpCommand},
	{"python", "app.py", func(t *testing.T, s *shop) *exec.Cmd {
		return s.command(tool(t, "python3"), "app.py")
	}},
	{"node", "app.js", func(t *testing.T, s *shop) *exec.Cmd {
		return s.command(tool(t, "node"), "app.js")
	}},
}

// each runs a test with every app.
func each(t *testing.T, test func(t *testing.T, l language)) {
	for _, l := range languages {
		t.Run(l.name, func(t *testing.T) { test(t, l) })
	}
}

// missing skips a test, or fails it where everything has to be there.
func missing(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CHINAUMS_E2E") == "1" {
		t.Fatalf("%s is missing, and CHINAUMS_E2E=1 asks for it", what)
	}
	t.Skipf("needs %s", what)
}

func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		missing(t, name)
	}
	return path
}

// phpCommand starts PHP-FPM, or php-cgi where there is none.
func phpCommand(t *testing.T, s *shop) *exec.Cmd {
	if found, _ := filepath.Glob("/usr/sbin/php-fpm*"); len(found) > 0 {
		modules, err := exec.Command(found[0], "-m").Output()
		if err != nil || !strings.Contains(strings.ToLower(string(modules)), "\ncurl\n") {
			missing(t, "PHP's curl extension")
		}
		return s.command(found[0], fpmArguments(t, s.app)...)
	}
	cgi, err := exec.LookPath("php-cgi")
	if err != nil {
		missing(t, "php-fpm or php-cgi")
	}
	modules, err := exec.Command(cgi, "-m").Output()
	if err != nil || !strings.Contains(strings.ToLower(string(modules)), "\ncurl\n") {
		missing(t, "PHP's curl extension")
	}
	command := s.command(cgi, "-b", s.app)
	command.Env = append(command.Env, "PHP_FCGI_CHILDREN=4")
	return command
}

// fpmArguments are PHP-FPM's, for a pool that listens at an address and is otherwise as Debian's: it clears the
// environment.
func fpmArguments(t *testing.T, listen string) []string {
	t.Helper()
	config := filepath.Join(t.TempDir(), "fpm.conf")
	pool := "[global]\nerror_log = /dev/stderr\ndaemonize = no\n[app]\nlisten = " + listen +
		"\npm = static\npm.max_children = 4\ncatch_workers_output = yes\n"
	arguments := []string{"--nodaemonize", "--fpm-config", config}
	if os.Getuid() == 0 {
		pool += "user = root\ngroup = root\n"
		arguments = append(arguments, "--allow-to-run-as-root")
	}
	if err := os.WriteFile(config, []byte(pool), 0o600); err != nil {
		t.Fatal(err)
	}
	return arguments
}

// shop is one merchant's app with its gateway and the platform.
type shop struct {
	language
	t        *testing.T
	platform *sandbox.ChinaUMS
	keys     sandbox.Options
	secret   string
	env      map[string]string
	app      string // the app's own address
	pages    string // where the shop's own pages are: the app's, for PHP a site of Caddy's
	notify   string // where the platform notifies
	process  *exec.Cmd
	output   *lines
	numbers  int
}

// open starts everything. Settings given replace those of the environment.
func open(t *testing.T, l language, options sandbox.Options, settings ...string) *shop {
	t.Helper()
	if options.Schedule == nil {
		// The later ones are for a disk so busy that the app's record takes longer than the gateway waits.
		options.Schedule = []time.Duration{20 * time.Millisecond, 20 * time.Millisecond, time.Second, 5 * time.Second, 15 * time.Second}
	}
	platform, err := sandbox.New(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(platform.Close)
	server := httptest.NewServer(platform)
	t.Cleanup(server.Close)

	s := &shop{language: l, t: t, platform: platform, keys: platform.Options(), app: free(t), output: new(lines)}
	s.secret = "whsec_" + base64.StdEncoding.EncodeToString([]byte("a key of 32 bytes for the tests."))
	_, port, _ := net.SplitHostPort(s.app)
	root, err := filepath.Abs(l.name)
	if err != nil {
		t.Fatal(err)
	}
	notify := free(t)
	s.notify = "http://" + notify + "/notify"
	s.env = map[string]string{
		"UMS_APP_ID": s.keys.AppID, "UMS_APP_KEY": s.keys.AppKey, "UMS_NOTIFY_KEY": s.keys.NotifyKey,
		"UMS_MID": s.keys.MID, "UMS_TID": s.keys.TID, "UMS_UPSTREAM": server.URL, "APP_SECRET": s.secret,
		"GATEWAY": free(t), "NOTIFY_URL": s.notify, "BOOK": filepath.Join(t.TempDir(), "book"),
		"PORT": port, "APP_ROOT": root,
	}
	s.pages = s.app
	if l.name == "php" {
		s.pages = free(t)
	}
	for _, setting := range settings {
		name, value, _ := strings.Cut(setting, "=")
		s.env[name] = value
	}
	s.secret = s.env["APP_SECRET"]
	s.startApp()
	t.Cleanup(s.stopApp)
	s.startGateway()
	return s
}

// startGateway runs Caddy with the app's own Caddyfile until the test ends.
func (s *shop) startGateway() {
	s.t.Helper()
	for name, value := range s.env {
		s.t.Setenv(name, value)
	}
	load(s.t, []byte(s.caddyfile()))
}

// caddyfile is the app's own, on the ports that this test has taken.
func (s *shop) caddyfile() string {
	s.t.Helper()
	source, err := os.ReadFile(filepath.Join(s.name, "Caddyfile"))
	if err != nil {
		s.t.Fatal(err)
	}
	addresses := map[string]string{
		gatewayPort: s.env["GATEWAY"], notifyPort: strings.TrimSuffix(strings.TrimPrefix(s.notify, "http://"), "/notify"), appPort: s.pages,
	}
	if s.name == "php" {
		addresses[fpmPort] = s.app
	}
	return onPorts(s.t, string(source), addresses)
}

// load runs Caddy in this process with a Caddyfile, without what would leave traces on the machine.
func load(t *testing.T, source []byte) {
	t.Helper()
	loadAdapted(t, quiet(t, adapt(t, source)))
}

func loadAdapted(t *testing.T, config []byte) {
	t.Helper()
	// No reload: while two configurations listen at one address, a connection may reach the one that is going, and
	// net/http closes it unanswered.
	if err := caddy.Stop(); err != nil {
		t.Fatalf("stopping: %v", err)
	}
	for _, address := range listensAt(t, config) {
		testutil.Released(t, address)
	}
	if err := caddy.Load(config, true); err != nil {
		t.Fatalf("loading: %v", err)
	}
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Errorf("stopping: %v", err)
		}
	})
}

// listensAt returns the addresses of a configuration's servers.
func listensAt(t *testing.T, config []byte) (addresses []string) {
	t.Helper()
	var document struct {
		Apps struct {
			HTTP caddyhttp.App `json:"http"`
		} `json:"apps"`
	}
	if err := json.Unmarshal(config, &document); err != nil {
		t.Fatal(err)
	}
	for _, server := range document.Apps.HTTP.Servers {
		for _, listen := range server.Listen {
			parsed, err := caddy.ParseNetworkAddress(listen)
			if err != nil {
				t.Fatal(err)
			}
			if parsed.Host == "" {
				parsed.Host = "127.0.0.1"
			}
			if parsed.StartPort != 0 {
				addresses = append(addresses, parsed.JoinHostPort(0))
			}
		}
	}
	return addresses
}

func adapt(t *testing.T, source []byte) []byte {
	t.Helper()
	config, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt(source, map[string]any{"filename": "Caddyfile"})
	if err != nil {
		t.Fatalf("adapting: %v", err)
	}
	for _, warning := range warnings {
		t.Errorf("adapting: %s", warning)
	}
	return config
}

func adaptUnformatted(source string) ([]byte, error) {
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(source), map[string]any{"filename": "Caddyfile"})
	return config, err
}

// quiet turns the admin endpoint, the autosaved copy of the configuration and the log off.
func quiet(t *testing.T, config []byte) []byte {
	t.Helper()
	var document map[string]any
	if err := json.Unmarshal(config, &document); err != nil {
		t.Fatal(err)
	}
	document["admin"] = map[string]any{"disabled": true, "config": map[string]any{"persist": false}}
	document["storage"] = map[string]any{"module": "file_system", "root": t.TempDir()}
	document["logging"] = map[string]any{"logs": map[string]any{"default": map[string]any{"level": "FATAL"}}}
	config, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

func (s *shop) command(program string, arguments ...string) *exec.Cmd {
	command := exec.Command(program, arguments...)
	command.Dir = s.name
	command.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME")}
	for name, value := range s.env {
		command.Env = append(command.Env, name+"="+value)
	}
	command.Stdout, command.Stderr = s.output, s.output
	return command
}

// startApp starts the app and waits until it listens.
func (s *shop) startApp() {
	s.t.Helper()
	s.process = s.language.command(s.t, s)
	s.process.WaitDelay = 5 * time.Second
	if err := s.process.Start(); err != nil {
		s.t.Fatal(err)
	}
	listening(s.t, s.app, s.output)
}

// stopApp ends the app as a crash would, but for PHP-FPM, whose workers would outlive it.
func (s *shop) stopApp() {
	if s.process == nil {
		return
	}
	if s.name == "php" {
		_ = s.process.Process.Signal(os.Interrupt)
	} else {
		_ = s.process.Process.Kill()
	}
	_ = s.process.Wait()
	s.process = nil
	if s.t.Failed() {
		s.t.Logf("the app's output:\n%s", s.output)
	}
}

// number makes a fresh order or refund number.
func (s *shop) number() string {
	s.numbers++
	return fmt.Sprintf("%s20261124%08d", s.keys.SourceCode, s.numbers)
}

// reply is what the shop's own pages answer.
type reply struct {
	Code    int    `json:"-"`
	Status  string `json:"status"`
	QRCode  string `json:"qrCode"`
	Unclear string `json:"code"`
}

func (s *shop) post(path string) reply {
	s.t.Helper()
	status, body := send(s.t, "http://"+s.pages+path, "", nil)
	answer := reply{Code: status}
	if err := json.Unmarshal(body, &answer); err != nil {
		s.t.Fatalf("%s: %d %q: %v\n%s", path, status, body, err, s.output)
	}
	return answer
}

func (s *shop) pay(order string) reply { s.t.Helper(); return s.post("/pay?order=" + order) }

func (s *shop) refund(order, number string, amount int) reply {
	s.t.Helper()
	return s.post("/refund?order=" + order + "&refund=" + number + "&amount=" + strconv.Itoa(amount))
}

// mustPay makes an order.
func (s *shop) mustPay() string {
	s.t.Helper()
	order := s.number()
	if got := s.pay(order); got.Code != http.StatusOK || got.Status != "NEW_ORDER" || got.QRCode == "" {
		s.t.Fatalf("pay: %+v", got)
	}
	return order
}

// recorded reads what the app's own record says of an order: the platform gives no clear answer meanwhile.
func (s *shop) recorded(order string) string {
	s.t.Helper()
	s.platform.Break(sandbox.Fault{Kind: sandbox.ServerError, Times: -1})
	defer s.platform.Heal()
	answer := s.pay(order)
	if answer.Code != http.StatusAccepted {
		s.t.Fatalf("the platform is broken, and the app says %+v", answer)
	}
	return answer.Status
}

// recordedRefund is the same for a refund.
func (s *shop) recordedRefund(order, number string, amount int) string {
	s.t.Helper()
	s.platform.Break(sandbox.Fault{Kind: sandbox.ServerError, Times: -1})
	defer s.platform.Heal()
	answer := s.refund(order, number, amount)
	if answer.Code != http.StatusAccepted {
		s.t.Fatalf("the platform is broken, and the app says %+v", answer)
	}
	return answer.Status
}

func (s *shop) delivered(number string, kind sandbox.Kind) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*time.Minute)
	defer cancel()
	if err := s.platform.WaitDelivered(ctx, number, kind); err != nil {
		s.t.Fatalf("%s notify of %s: %v\n%s", kind, number, err, s.output)
	}
}

// called returns the paths that the platform was called at, without the common beginning.
func (s *shop) called() string {
	var paths []string
	for _, call := range s.platform.Calls() {
		paths = append(paths, strings.TrimPrefix(call.Path, "/v1/netpay/"))
	}
	return strings.Join(paths, " ")
}

// event sends the gateway a rightly signed notify with the fields given over those of a payment.
func (s *shop) event(fields map[string]string) (int, string) {
	s.t.Helper()
	all := map[string]string{"mid": s.keys.MID, "tid": s.keys.TID}
	for name, value := range fields {
		all[name] = value
	}
	message, err := sandbox.Notify{Kind: sandbox.KindPayment, Key: s.keys.NotifyKey, Fields: all}.Build()
	if err != nil {
		s.t.Fatal(err)
	}
	status, body := send(s.t, s.notify, string(message.Body), http.Header{"Content-Type": {message.ContentType}})
	return status, string(body)
}

func TestLifeOfAnOrder(t *testing.T) {
	each(t, func(t *testing.T, l language) {
		s := open(t, l, sandbox.Options{})
		order, refund := s.mustPay(), s.number()
		if err := s.platform.Pay(order); err != nil {
			t.Fatal(err)
		}
		s.delivered(order, sandbox.KindPayment)
		if got := s.recorded(order); got != "TRADE_SUCCESS" {
			t.Errorf("after the notify the record says %s", got)
		}

		// What has been taken is kept: the platform will not say it again.
		s.stopApp()
		s.startApp()
		if got := s.recorded(order); got != "TRADE_SUCCESS" {
			t.Errorf("after a restart the record says %s", got)
		}
		if got := s.pay(order); got.Code != http.StatusOK || got.Status != "TRADE_SUCCESS" {
			t.Errorf("query: %+v", got)
		}

		if err := s.platform.RefundStatus("PROCESSING"); err != nil {
			t.Fatal(err)
		}
		if got := s.refund(order, refund, 990); got.Code != http.StatusOK || got.Status != "PROCESSING" {
			t.Errorf("refund: %+v", got)
		}
		if err := s.platform.FinishRefund(refund, "SUCCESS"); err != nil {
			t.Fatal(err)
		}
		s.delivered(refund, sandbox.KindRefund)
		if got := s.recordedRefund(order, refund, 990); got != "SUCCESS" {
			t.Errorf("after the refund notify the record says %s", got)
		}
		if got := s.recorded(order); got != "TRADE_SUCCESS" {
			t.Errorf("after the refund notify the order's record says %s", got)
		}
		if got := s.refund(order, refund, 991); got.Code != http.StatusConflict {
			t.Errorf("the number of a refund taken for another one: %+v", got)
		}
	})
}

func TestOutcomeUnknown(t *testing.T) {
	each(t, func(t *testing.T, l language) {
		s := open(t, l, sandbox.Options{})

		// Executed, and the answer lost: the app asks, and there is one order.
		order := s.number()
		s.platform.Break(sandbox.Fault{Kind: sandbox.CutExecuted, Path: "/v1/netpay/trade/precreate"})
		if got := s.pay(order); got.Code != http.StatusOK || got.Status != "NEW_ORDER" {
			t.Errorf("order executed, answer cut: %+v", got)
		}
		if got := s.called(); got != "trade/precreate query" {
			t.Errorf("the app called %s", got)
		}

		// Not executed: the app does not know, says so, and repeats only after it has asked.
		lost := s.number()
		s.platform.Break(sandbox.Fault{Kind: sandbox.Cut, Path: "/v1/netpay/trade/precreate"})
		if got := s.pay(lost); got.Code != http.StatusAccepted || got.Unclear != "NO_ORDER" {
			t.Errorf("order cut after reading: %+v", got)
		}
		if got := s.pay(lost); got.Code != http.StatusOK || got.Status != "NEW_ORDER" || got.QRCode == "" {
			t.Errorf("repeated with the same number: %+v", got)
		}
		if got := s.called(); got != "trade/precreate query trade/precreate query query trade/precreate" {
			t.Errorf("the app called %s", got)
		}
		if got := len(s.platform.Orders()); got != 2 {
			t.Errorf("the platform has %d orders, not 2", got)
		}

		// The same for a refund, where a second one would cost money.
		if err := s.platform.Pay(order); err != nil {
			t.Fatal(err)
		}
		s.delivered(order, sandbox.KindPayment)
		refund := s.number()
		s.platform.Break(sandbox.Fault{Kind: sandbox.CutBody, Path: "/v1/netpay/refund"})
		if got := s.refund(order, refund, 100); got.Code != http.StatusOK || got.Status != "SUCCESS" {
			t.Errorf("refund executed, answer cut: %+v", got)
		}
		second := s.number()
		s.platform.Break(sandbox.Fault{Kind: sandbox.Cut, Path: "/v1/netpay/refund"},
			sandbox.Fault{Kind: sandbox.Cut, Path: "/v1/netpay/refund-query"})
		if got := s.refund(order, second, 100); got.Code != http.StatusAccepted {
			t.Errorf("refund and query cut: %+v", got)
		}
		if got := s.refund(order, second, 100); got.Code != http.StatusOK || got.Status != "SUCCESS" {
			t.Errorf("refund repeated with the same number: %+v", got)
		}
		if got, _ := s.platform.Order(order); got.RefundedAmount != 200 || len(got.Refunds) != 2 {
			t.Errorf("the platform has refunded %d fen in %d refunds", got.RefundedAmount, len(got.Refunds))
		}
	})
}

func TestNotSent(t *testing.T) {
	each(t, func(t *testing.T, l language) {
		s := open(t, l, sandbox.Options{})
		upstream, order := s.env["UMS_UPSTREAM"], s.number()
		s.env["UMS_UPSTREAM"] = "http://" + free(t)
		s.startGateway()
		if got := s.pay(order); got.Code != http.StatusAccepted || got.Status != "new" || got.Unclear != "not_sent" {
			t.Errorf("nobody listens: %+v", got)
		}
		s.env["UMS_UPSTREAM"] = upstream
		s.startGateway()
		if got := s.pay(order); got.Code != http.StatusOK || got.Status != "NEW_ORDER" {
			t.Errorf("repeated: %+v", got)
		}
	})
}

// Something between app and gateway that answers for it, without the header, proves nothing.
func TestNoOutcomeHeader(t *testing.T) {
	each(t, func(t *testing.T, l language) {
		var mu sync.Mutex
		var called []string
		other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			called = append(called, strings.TrimPrefix(r.URL.Path, "/v1/netpay/"))
			var fields map[string]any
			_ = json.NewDecoder(r.Body).Decode(&fields)
			fields["errCode"], fields["status"], fields["totalAmount"] = "SUCCESS", "TRADE_SUCCESS", price
			_ = json.NewEncoder(w).Encode(fields)
		}))
		defer other.Close()
		s := open(t, l, sandbox.Options{})
		// The app alone is sent elsewhere; for PHP its setting is in the Caddyfile, which is loaded again.
		s.stopApp()
		gateway, source := s.env["GATEWAY"], s.caddyfile()
		s.env["GATEWAY"] = strings.TrimPrefix(other.URL, "http://")
		if l.name == "php" {
			changed := strings.Replace(source, "env GATEWAY "+gateway, "env GATEWAY "+s.env["GATEWAY"], 1)
			if changed == source {
				t.Fatal("the Caddyfile has changed; change the test too")
			}
			load(t, []byte(changed))
		}
		s.startApp()
		if got := s.pay(s.number()); got.Code != http.StatusAccepted || got.Status != "new" {
			t.Errorf("no header: %+v", got)
		}
		mu.Lock()
		defer mu.Unlock()
		if got := strings.Join(called, " "); got != "trade/precreate query" {
			t.Errorf("the app called %s", got)
		}
	})
}

// What the platform sends, in every form, order and number of times.
func TestNotifies(t *testing.T) {
	each(t, func(t *testing.T, l language) {
		s := open(t, l, sandbox.Options{Manual: true})
		order := s.mustPay()

		// One event's id, once handled, is not looked at again.
		for _, word := range []string{"WAIT_BUYER_PAY", "TRADE_SUCCESS"} {
			body, now := fmt.Sprintf(`{"mid":"%s","merOrderId":"%s","totalAmount":%d,"status":"%s"}`, s.keys.MID, order, price, word), time.Now()
			signature, err := webhook.Sign(s.secret, "evt-once", now, []byte(body))
			if err != nil {
				t.Fatal(err)
			}
			status, answer := send(t, "http://"+s.pages+"/notify", body, http.Header{
				webhook.HeaderID: {"evt-once"}, webhook.HeaderTimestamp: {strconv.FormatInt(now.Unix(), 10)}, webhook.HeaderSignature: {signature},
				"Ce-Type": {"com.chinaums.payment.pending"}, "Content-Type": {"application/json"},
			})
			if status != http.StatusOK || len(answer) != 0 {
				t.Errorf("an event of %s: %d %s", word, status, answer)
			}
		}
		if got := s.recorded(order); got != "WAIT_BUYER_PAY" {
			t.Errorf("an id already handled changed the record to %s", got)
		}

		for _, test := range []struct {
			name   string
			fields map[string]string
			status int
		}{
			{"other money", map[string]string{"merOrderId": order, "totalAmount": "4991"}, http.StatusBadGateway},
			{"an amount that is none", map[string]string{"merOrderId": order, "totalAmount": "4990.0"}, http.StatusBadGateway},
			{"no amount", map[string]string{"merOrderId": order, "totalAmount": ""}, http.StatusBadGateway},
			{"another order", map[string]string{"merOrderId": s.number(), "totalAmount": "4990"}, http.StatusBadGateway},
			{"another merchant", map[string]string{"merOrderId": order, "totalAmount": "4990", "mid": "898000000000000"}, http.StatusForbidden},
		} {
			if status, word := s.event(test.fields); status != test.status || word != "FAILED" {
				t.Errorf("%s: %d %s", test.name, status, word)
			}
			if got := s.recorded(order); got != "WAIT_BUYER_PAY" {
				t.Errorf("%s: the record says %s", test.name, got)
			}
		}

		if err := s.platform.Pay(order); err != nil {
			t.Fatal(err)
		}
		for _, variant := range []sandbox.Variant{sandbox.Tampered, sandbox.Unsigned, sandbox.OtherKey, sandbox.ForeignMID, sandbox.Recut} {
			delivery, err := s.platform.Notify(t.Context(), order, sandbox.KindPayment, variant)
			if err != nil {
				t.Errorf("%s: %v", variant, err)
			} else if delivery.Delivered || delivery.Answer != "FAILED" {
				t.Errorf("%s: %d %s", variant, delivery.Status, delivery.Answer)
			}
		}
		if got := s.recorded(order); got != "WAIT_BUYER_PAY" {
			t.Errorf("after false notifies the record says %s", got)
		}
		for _, variant := range []sandbox.Variant{
			sandbox.Genuine, sandbox.Duplicate, sandbox.Reordered, sandbox.Late, sandbox.JSON, sandbox.GBK, sandbox.Genuine,
		} {
			delivery, err := s.platform.Notify(t.Context(), order, sandbox.KindPayment, variant)
			if err != nil || !delivery.Delivered {
				t.Errorf("%s: %d %s, %v\n%s", variant, delivery.Status, delivery.Answer, err, s.output)
			}
			if got := s.recorded(order); got != "TRADE_SUCCESS" {
				t.Errorf("after %s the record says %s", variant, got)
			}
		}

		// Late news of the time before are taken, so that the platform stops, and change nothing.
		for _, status := range []string{"WAIT_BUYER_PAY", "NEW_ORDER", "TRADE_CLOSED", "A_NEW_WORD"} {
			late := map[string]string{"merOrderId": order, "totalAmount": "4990", "status": status}
			if code, word := s.event(late); code != http.StatusOK || word != "SUCCESS" {
				t.Errorf("late %s: %d %s", status, code, word)
			}
			if got := s.recorded(order); got != "TRADE_SUCCESS" {
				t.Errorf("late %s changed the record to %s", status, got)
			}
		}
	})
}

// Document E's table of a refund's notify has no refundOrderId: then it is news of the order.
func TestRefundNotNamed(t *testing.T) {
	each(t, func(t *testing.T, l language) {
		s := open(t, l, sandbox.Options{Manual: true})
		order := s.mustPay()
		refund := map[string]string{"merOrderId": order, "totalAmount": "4990", "status": "TRADE_REFUND",
			"refundAmount": "100", "refundPayTime": "2026-11-24 10:00:00"}
		if status, word := s.event(refund); status != http.StatusOK || word != "SUCCESS" {
			t.Errorf("%d %s", status, word)
		}
		if got := s.recorded(order); got != "TRADE_REFUND" {
			t.Errorf("the record says %s", got)
		}
	})
}

// The record has to stand several notifies at the same time.
func TestManyAtOnce(t *testing.T) {
	each(t, func(t *testing.T, l language) {
		s := open(t, l, sandbox.Options{})
		orders := make([]string, 12)
		for i := range orders {
			orders[i] = s.mustPay()
		}
		for _, order := range orders {
			if err := s.platform.Pay(order); err != nil {
				t.Fatal(err)
			}
		}
		for _, order := range orders {
			s.delivered(order, sandbox.KindPayment)
		}
		for _, order := range orders {
			if got := s.recorded(order); got != "TRADE_SUCCESS" {
				t.Errorf("%s: the record says %s", order, got)
			}
		}
	})
}

// Whoever reaches the app past the gateway.
func TestForgedEvents(t *testing.T) {
	each(t, func(t *testing.T, l language) {
		for _, secret := range []string{"", "a secret as plain text"} {
			var settings []string
			if secret != "" {
				settings = append(settings, "APP_SECRET="+secret)
			}
			s := open(t, l, sandbox.Options{Manual: true}, settings...)
			order, numbers := s.mustPay(), 0
			body := fmt.Sprintf(`{"mid":"%s","merOrderId":"%s","totalAmount":%d,"status":"TRADE_SUCCESS"}`, s.keys.MID, order, price)
			sign := func(secret string, at time.Time, body string) http.Header {
				numbers++
				id := fmt.Sprint("evt-", numbers)
				signature, err := webhook.Sign(secret, id, at, []byte(body))
				if err != nil {
					t.Fatal(err)
				}
				return http.Header{
					webhook.HeaderID: {id}, webhook.HeaderTimestamp: {strconv.FormatInt(at.Unix(), 10)}, webhook.HeaderSignature: {signature},
					"Ce-Type": {"com.chinaums.payment.succeeded"}, "Content-Type": {"application/json"},
				}
			}
			change := func(header http.Header, name, value string) http.Header {
				header.Set(name, value)
				return header
			}
			now := time.Now()
			for _, test := range []struct {
				name   string
				header http.Header
				body   string
				want   int
			}{
				{"no signature", http.Header{"Content-Type": {"application/json"}}, body, http.StatusUnauthorized},
				{"another secret", sign("another", now, body), body, http.StatusUnauthorized},
				{"another body", sign(s.secret, now, body), strings.Replace(body, "TRADE", "trade", 1), http.StatusUnauthorized},
				{"another id", change(sign(s.secret, now, body), webhook.HeaderID, "evt"), body, http.StatusUnauthorized},
				{"an hour old", sign(s.secret, now.Add(-time.Hour), body), body, http.StatusUnauthorized},
				{"an hour early", sign(s.secret, now.Add(time.Hour), body), body, http.StatusUnauthorized},
				{"no time", change(sign(s.secret, now, body), webhook.HeaderTimestamp, ""), body, http.StatusUnauthorized},
				{"another version", change(sign(s.secret, now, body), webhook.HeaderSignature, "v2,AAAA"), body, http.StatusUnauthorized},
				{"signed, another merchant", sign(s.secret, now, strings.Replace(body, s.keys.MID, "898000000000000", 1)),
					strings.Replace(body, s.keys.MID, "898000000000000", 1), http.StatusUnprocessableEntity},
				{"signed, a refund of it", sign(s.secret, now, strings.Replace(body, `{`, `{"refundOrderId":"x",`, 1)),
					strings.Replace(body, `{`, `{"refundOrderId":"x",`, 1), http.StatusUnprocessableEntity},
			} {
				status, answer := send(t, "http://"+s.pages+"/notify", test.body, test.header)
				if status != test.want || len(answer) != 0 {
					t.Errorf("%s: %d %q", test.name, status, answer)
				}
				if got := s.recorded(order); got != "NEW_ORDER" {
					t.Fatalf("%s: the record says %s", test.name, got)
				}
			}

			// While the secret is being changed there are two signatures; either may be the known one.
			header := sign(s.secret, now, body)
			header.Set(webhook.HeaderSignature, "v1,AAAA "+header.Get(webhook.HeaderSignature)+" v1a,BBBB")
			if status, answer := send(t, "http://"+s.pages+"/notify", body, header); status != http.StatusOK || len(answer) != 0 {
				t.Errorf("one of several signatures: %d %q", status, answer)
			}
			if got := s.recorded(order); got != "TRADE_SUCCESS" {
				t.Errorf("after a true event the record says %s", got)
			}
			s.stopApp()
		}
	})
}

// Nothing but the notify is reachable where the platform comes in.
func TestOnlyTheNotifyIsPublic(t *testing.T) {
	each(t, func(t *testing.T, l language) {
		s := open(t, l, sandbox.Options{})
		for _, path := range []string{"/pay?order=" + s.number(), "/", "/index.php", "/notify/", "/book.json"} {
			status, body := send(t, strings.TrimSuffix(s.notify, "/notify")+path, "", nil)
			if status != http.StatusNotFound || len(body) != 0 {
				t.Errorf("%s: %d %q", path, status, body)
			}
		}
		if got := s.called(); got != "" {
			t.Errorf("the platform was called: %s", got)
		}
	})
}

// The issue asks for apps that can be read at a glance.
func TestAppsAreShort(t *testing.T) {
	for _, l := range languages {
		source, err := os.ReadFile(filepath.Join(l.name, l.source))
		if err != nil {
			t.Fatal(err)
		}
		if lines := bytes.Count(source, []byte{'\n'}); lines >= 80 {
			t.Errorf("%s has %d lines, not less than 80", l.source, lines)
		}
		for i, line := range strings.Split(string(source), "\n") {
			if length := len([]rune(line)); length > 120 {
				t.Errorf("%s:%d has %d columns", l.source, i+1, length)
			}
		}
	}
}

// send posts a body and reads the answer.
func send(t *testing.T, address, body string, header http.Header) (int, []byte) {
	t.Helper()
	if _, err := url.Parse(address); err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, address, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, values := range header {
		req.Header[name] = values
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	content, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, content
}

// client keeps no connections, so that stopping Caddy does not wait for them.
var client = &http.Client{
	Timeout:       90 * time.Second,
	Transport:     &http.Transport{DisableKeepAlives: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

func free(t *testing.T) string {
	t.Helper()
	address, err := freeport.Address()
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// lines collects an app's output.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
