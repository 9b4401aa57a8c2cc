package shouqianba

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
)

// gateway is a Caddy with one terminal, in front of a played platform.
type gateway struct {
	platform *sandbox.Shouqianba
	upstream *httptest.Server
	address  string
	options  sandbox.ShouqianbaOptions
}

// startPlatform starts the platform alone.
func startPlatform(t testing.TB, options sandbox.ShouqianbaOptions) *gateway {
	t.Helper()
	if options.PrivateKey == nil {
		options.PrivateKey = testKey()
	}
	platform, err := sandbox.NewShouqianba(options)
	if err != nil {
		t.Fatal(err)
	}
	g := &gateway{platform: platform, address: freeAddress(t), options: platform.Options()}
	g.upstream = httptest.NewServer(platform)
	t.Cleanup(func() {
		platform.Close()
		g.upstream.Close()
	})
	t.Setenv("SQB_TERMINAL_KEY", g.options.TerminalKey)
	t.Setenv("SQB_VENDOR_KEY", g.options.VendorKey)
	t.Setenv("SQB_ACTIVATION_CODE", g.options.ActivationCode)
	t.Setenv("SQB_PUBLIC_KEY", platform.PublicKey())
	return g
}

// fixed are the options of a terminal whose key the user looks after.
func (g *gateway) fixed() string {
	return "terminal_sn " + g.options.TerminalSN + "\nterminal_key {env.SQB_TERMINAL_KEY}\npublic_key {env.SQB_PUBLIC_KEY}\nupstream " + g.upstream.URL + "\n"
}

// owned are the options of a terminal that the gateway owns, which checks in once more when it runs over midnight.
func (g *gateway) owned() string {
	notOverMidnight()
	return "vendor_sn " + g.options.VendorSN + "\nvendor_key {env.SQB_VENDOR_KEY}\napp_id " + g.options.AppID +
		"\ndevice_id till-1\nactivation_code {env.SQB_ACTIVATION_CODE}\npublic_key {env.SQB_PUBLIC_KEY}\nupstream " + g.upstream.URL + "\n"
}

// config is a Caddyfile with the terminal `till` and a site at the gateway's address.
func (g *gateway) config(t testing.TB, terminal, site string) string {
	t.Helper()
	return "{\n\tstorage file_system " + t.TempDir() + "\n\tshouqianba {\n\t\tterminal till {\n" + terminal + "\t\t}\n\t}\n}\nhttp://" +
		g.address + " {\n\tlog\n" + site + "\n}\n"
}

func (g *gateway) url(path string) string { return "http://" + g.address + path }

// call is the body of a call, with the terminal's number.
func call(sn, more string) string { return `{"terminal_sn":"` + sn + `",` + more + `}` }

const order = `"client_sn":"%s","total_amount":"100","payway":"3","subject":"Pizza","operator":"Obama"`

func TestCallsAreSigned(t *testing.T) {
	g := startPlatform(t, sandbox.ShouqianbaOptions{})
	start(t, g.config(t, g.fixed(), "shouqianba_proxy"))
	body := " " + call(g.options.TerminalSN, fmt.Sprintf(order, "A1")) + "\n"
	a := post(t, g.url("/upay/v2/precreate"), body, "X-Own: 1", "User-Agent: app/1")
	if a.status != 200 || a.header.Get("Gateway-Outcome") != "answered" || !strings.Contains(a.body, "PRECREATE_SUCCESS") {
		t.Fatalf("answer: %d %v %s", a.status, a.header, a.body)
	}
	calls := g.platform.Calls()
	if len(calls) != 1 {
		t.Fatalf("%d calls came in", len(calls))
	}
	c := calls[0]
	if string(c.Body) != body || c.Header.Get("Authorization") != authorization(g.options.TerminalSN, g.options.TerminalKey, c.Body) ||
		c.Header.Get("X-Own") != "" || c.Header.Get("User-Agent") != "app/1" || c.Header.Get("Accept-Encoding") != "identity" ||
		c.Header.Get("Via") != "" || c.Header.Get("X-Forwarded-For") != "" || c.Host != g.upstream.Listener.Addr().String() {
		t.Errorf("came in: %s %v %q", c.Host, c.Header, c.Body)
	}
	if access := log.lines(`"http.log.access`, `"merchant":"till"`, `"order":"A1"`, `"outcome":"answered"`, `"errcode":"PRECREATE_SUCCESS"`); len(access) != 1 {
		t.Errorf("access log: %s", log)
	}
	if strings.Contains(log.String(), g.options.TerminalKey) {
		t.Error("the log shows the key")
	}
}

// TestErrorMessageIsLogged: what the platform says of a call that it refused stands in the access log; it was dropped.
func TestErrorMessageIsLogged(t *testing.T) {
	g := startPlatform(t, sandbox.ShouqianbaOptions{})
	start(t, g.config(t, g.fixed(), "shouqianba_proxy"))
	for path, test := range map[string]struct{ body, want string }{
		"/upay/v2/nothing": {call(g.options.TerminalSN, `"client_sn":"E1"`), `"errmsg":"没有这个接口"`},
		"/upay/v2/query":   {call(g.options.TerminalSN, `"client_sn":"E2"`), `"errmsg":"订单不存在"`}, // of the business
	} {
		post(t, g.url(path), test.body)
		if access := log.lines(`"http.log.access`, path, test.want); len(access) != 1 {
			t.Errorf("%s: no %s in %s", path, test.want, log)
		}
	}
	post(t, g.url("/upay/v2/precreate"), call(g.options.TerminalSN, fmt.Sprintf(order, "E3")))
	post(t, g.url("/terminal/uploadLog"), "PK\x05\x06") // its answer says ok
	if access := log.lines(`"http.log.access`, `"errmsg"`); len(access) != 2 {
		t.Errorf("also of calls that it did not refuse: %q", access)
	}
}

// TestOutcomes: the contract's table in this platform's words.
func TestOutcomes(t *testing.T) {
	proxy := regexp.MustCompile(`(?s)shouqianba_proxy (\S+)(?: \{\n(.*?)\n\t*\})?\n`)
	for name, form := range map[string]string{
		"shouqianba_proxy": "shouqianba_proxy $1 {\n$2\n}\n",
		"by net-http":      "shouqianba_proxy $1 {\n$2\nmax_conns_per_host 100000\n}\n", // which the lean client cannot do
		"long form":        "shouqianba_guard $1 {\n$2\n}\nreverse_proxy {\ndynamic shouqianba $1\ntransport shouqianba $1\n}\n",
	} {
		t.Run(name, func(t *testing.T) {
			testOutcomes(t, func(site string) string { return proxy.ReplaceAllString(site, form) })
		})
	}
}

func testOutcomes(t *testing.T, inForm func(site string) string) {
	g := startPlatform(t, sandbox.ShouqianbaOptions{})
	closed := freeAddress(t)
	start(t, "{\n\tshouqianba {\n\t\tterminal till {\n"+g.fixed()+"\t\t}\n\t\tterminal gone {\nterminal_sn 7\nterminal_key {env.SQB_TERMINAL_KEY}\nupstream http://"+closed+"\n\t\t}\n\t}\n}\nhttp://"+g.address+inForm(` {
	handle_path /gone/* {
		shouqianba_proxy gone
	}
	handle_path /small/* {
		shouqianba_proxy till {
			max_size 100
			max_response 1KiB
		}
	}
	handle_path /short/* {
		shouqianba_proxy till {
			timeout 1s
		}
	}
	handle_path /token/* {
		shouqianba_proxy till {
			token {env.SQB_VENDOR_KEY}
		}
	}
	handle_path /named/* {
		shouqianba_proxy {http.request.header.X-Terminal}
	}
	handle_path /bare/* {
		reverse_proxy {
			dynamic   shouqianba till
			transport shouqianba till
		}
	}
	handle {
		shouqianba_proxy till
	}
}
`))
	query := call(g.options.TerminalSN, `"client_sn":"1"`)
	for _, test := range []struct {
		name, path, body string
		headers          []string
		method           string
		fault            *sandbox.Fault
		status           int
		code, outcome    string
	}{
		{name: "answered, refused by the business", path: "/upay/v2/query", body: query, status: 200, code: "UPAY_ORDER_NOT_EXISTS", outcome: "answered"},
		{name: "answered, another terminal's", path: "/upay/v2/query", body: call("1", `"client_sn":"1"`), status: 200, code: "INVALID_TERMINAL", outcome: "answered"},
		{name: "activation", path: "/terminal/activate", body: query, status: 403, code: "GATEWAY_FORBIDDEN", outcome: "not_sent"},
		{name: "check-in", path: "/terminal/checkin", body: query, status: 403, code: "GATEWAY_FORBIDDEN", outcome: "not_sent"},
		{name: "check-in in capitals", path: "/Terminal/CheckIn", body: query, status: 403, code: "GATEWAY_FORBIDDEN", outcome: "not_sent"},
		{name: "dots", path: "/upay/v2/../../terminal/checkin", body: query, status: 403, code: "GATEWAY_FORBIDDEN", outcome: "not_sent"},
		{name: "a browser", path: "/upay/v2/query", body: query, headers: []string{"Origin: https://shop.example"}, status: 403, code: "GATEWAY_FORBIDDEN", outcome: "not_sent"},
		{name: "a foreign address", path: "/upay/v2/query", body: query, headers: []string{"X-Forwarded-For: 203.0.113.9"}, status: 403, code: "GATEWAY_FORBIDDEN", outcome: "not_sent"},
		{name: "no token", path: "/token/upay/v2/query", body: query, status: 403, code: "GATEWAY_FORBIDDEN", outcome: "not_sent"},
		{name: "the token", path: "/token/upay/v2/query", body: query, headers: []string{"Authorization: Bearer " + g.options.VendorKey}, status: 200, code: "UPAY_ORDER_NOT_EXISTS", outcome: "answered"},
		{name: "no guard", path: "/bare/upay/v2/query", body: query, status: 403, code: "GATEWAY_FORBIDDEN", outcome: "not_sent"},
		{name: "no such terminal", path: "/named/upay/v2/query", body: query, headers: []string{"X-Terminal: none"}, status: 404, code: "GATEWAY_NO_MERCHANT", outcome: "not_sent"},
		{name: "a terminal that the request names", path: "/named/upay/v2/query", body: query, headers: []string{"X-Terminal: till"}, status: 200, code: "UPAY_ORDER_NOT_EXISTS", outcome: "answered"},
		{name: "GET", path: "/upay/v2/query", method: "GET", status: 405, code: "GATEWAY_BAD_REQUEST", outcome: "not_sent"},
		{name: "a form", path: "/upay/v2/query", body: "a=b", headers: []string{"Content-Type: application/x-www-form-urlencoded"}, status: 415, code: "GATEWAY_BAD_REQUEST", outcome: "not_sent"},
		{name: "too large", path: "/small/upay/v2/query", body: query + strings.Repeat(" ", 100), status: 413, code: "GATEWAY_BAD_REQUEST", outcome: "not_sent"},
		{name: "early data", path: "/upay/v2/query", body: query, headers: []string{"Early-Data: 1"}, status: 425, code: "GATEWAY_BAD_REQUEST", outcome: "not_sent"},
		{name: "empty", path: "/upay/v2/query", status: 400, code: "GATEWAY_BAD_REQUEST", outcome: "not_sent"},
		{name: "nobody there", path: "/gone/upay/v2/query", body: query, status: 502, code: "GATEWAY_UNREACHABLE", outcome: "not_sent"},
		{name: "cut", path: "/upay/v2/query", body: query, fault: &sandbox.Fault{Kind: sandbox.Cut}, status: 502, code: "GATEWAY_BAD_RESPONSE", outcome: "unknown"},
		{name: "cut in the answer", path: "/upay/v2/query", body: query, fault: &sandbox.Fault{Kind: sandbox.CutBody}, status: 502, code: "GATEWAY_BAD_RESPONSE", outcome: "unknown"},
		{name: "the answer is too large", path: "/small/upay/v2/query", body: query, fault: &sandbox.Fault{Kind: sandbox.TooLarge, Size: 64 << 10}, status: 502, code: "GATEWAY_BAD_RESPONSE", outcome: "unknown"},
		{name: "no answer", path: "/short/upay/v2/query", body: query, fault: &sandbox.Fault{Kind: sandbox.Hang}, status: 504, code: "GATEWAY_TIMEOUT", outcome: "unknown"},
		{name: "an error page is the platform's answer", path: "/upay/v2/query", body: query, fault: &sandbox.Fault{Kind: sandbox.ServerError}, status: 500, outcome: "answered"},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := len(g.platform.Calls())
			method := test.method
			if method == "" {
				method = "POST"
			}
			var a answer
			calls := 0
			for try := 0; try == 0 || test.status == 504 && calls == 0 && try < 10; try++ {
				body := test.body
				if test.fault != nil {
					fault := *test.fault
					if test.status == 504 {
						// A busy machine may not send a call within the time that it has, or so late that it arrives after the answer: each
						// try has its own number and its own fault.
						fault.Order = fmt.Sprint("try", try)
						body = call(g.options.TerminalSN, `"client_sn":"`+fault.Order+`"`)
					}
					g.platform.Break(fault)
				}
				a = send(t, method, g.url(test.path), body, test.headers...)
				calls = 0
				for _, c := range g.platform.Calls()[before:] {
					if test.status != 504 || string(c.Body) == body {
						calls++
					}
				}
			}
			if a.status != test.status || a.header.Get("Gateway-Outcome") != test.outcome || !strings.Contains(a.body, test.code) {
				t.Errorf("answer: %d %q %s\nwant %d %s %s", a.status, a.header.Get("Gateway-Outcome"), a.body, test.status, test.outcome, test.code)
			}
			if want := map[string]int{"not_sent": 0, "answered": 1, "unknown": 1}[test.outcome]; calls != want {
				t.Errorf("%d calls came in, want %d", calls, want)
			}
			if strings.HasPrefix(test.code, "GATEWAY_") {
				var own struct {
					ResultCode   string `json:"result_code"`
					ErrorCode    string `json:"error_code"`
					ErrorMessage string `json:"error_message"`
					Outcome      string `json:"outcome"`
				}
				decoder := json.NewDecoder(strings.NewReader(a.body))
				decoder.DisallowUnknownFields()
				if err := decoder.Decode(&own); err != nil || own.ResultCode != "400" || own.ErrorCode != test.code ||
					own.Outcome != test.outcome || !strings.Contains(own.ErrorMessage, " / ") {
					t.Errorf("the envelope: %s, %v", a.body, err)
				}
				if method == "GET" && a.header.Get("Allow") != "POST" {
					t.Errorf("Allow: %q", a.header.Get("Allow"))
				}
			}
		})
	}
}

func TestTLSFails(t *testing.T) {
	g := startPlatform(t, sandbox.ShouqianbaOptions{})
	tls := httptest.NewUnstartedServer(g.platform)
	tls.StartTLS()
	t.Cleanup(tls.Close)
	start(t, g.config(t, strings.Replace(g.fixed(), g.upstream.URL, tls.URL, 1), "shouqianba_proxy"))
	a := post(t, g.url("/upay/v2/query"), call(g.options.TerminalSN, `"sn":"1"`))
	if a.status != 502 || a.header.Get("Gateway-Outcome") != "not_sent" || len(g.platform.Calls()) != 0 {
		t.Errorf("answer: %d %v %s", a.status, a.header, a.body)
	}
}

// TestOwnedTerminal: one Caddy activates, answers fifty first calls, and is reloaded meanwhile. Two over one storage are
// in crash_test.go.
func TestOwnedTerminal(t *testing.T) {
	g := startPlatform(t, sandbox.ShouqianbaOptions{})
	config := g.config(t, g.owned(), "handle /generation {\nrespond first\n}\nhandle {\nshouqianba_proxy\n}")
	start(t, config)
	sn := ""
	eventually(t, "the activation", func() bool { sn = g.platform.Terminal("till-1"); return sn != "" })
	query := call(sn, `"client_sn":"1"`)
	// serves reports whether this configuration alone takes connections: while another one is going, not twenty in a row reach it.
	serves := func(generation string) bool {
		for range 20 {
			res, err := client.Get(g.url("/generation"))
			if err != nil {
				return false
			}
			content, err := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if err != nil || string(content) != generation {
				return false
			}
		}
		return true
	}
	var answered atomic.Int64
	calls := func() {
		var group sync.WaitGroup
		for range 50 {
			group.Go(func() {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, g.url("/upay/v2/query"), strings.NewReader(query))
				if err != nil {
					t.Error(err)
					return
				}
				req.Header.Set("Content-Type", "application/json")
				res, err := client.Do(req)
				if err != nil {
					return // a connection that a closing listener had not taken yet
				}
				defer res.Body.Close()
				content, err := io.ReadAll(res.Body)
				if err != nil || res.StatusCode != 200 || !strings.Contains(string(content), "UPAY_ORDER_NOT_EXISTS") {
					t.Errorf("answer: %d %s, %v", res.StatusCode, content, err)
				}
				answered.Add(1)
			})
		}
		group.Wait()
	}
	calls()
	if answered.Load() != 50 {
		t.Errorf("%d of the first 50 calls were answered", answered.Load())
	}
	for i := range 3 {
		var group sync.WaitGroup
		group.Go(calls)
		load(t, strings.Replace(config, "respond first", "respond "+strconv.Itoa(i), 1))
		group.Wait()
		// Caddy's reload returns when the old server has been told to close: for a moment, a connection may still reach it, and be closed.
		eventually(t, "the new configuration alone serves", func() bool { return serves(strconv.Itoa(i)) })
		calls()
	}
	if answered.Load() < 200 {
		t.Errorf("%d calls were answered, want at least those that no reload came upon", answered.Load())
	}
	if a, c := g.platform.Activations(), g.platform.Checkins(); a != 1 || c != 0 {
		t.Errorf("%d activations and %d check-ins", a, c)
	}
	if lines := log.lines("terminal activated", sn); len(lines) != 1 {
		t.Errorf("the activation is logged %d times", len(lines))
	}
	current, _ := g.platform.Keys("till-1")
	for _, secret := range []string{current, g.options.VendorKey, g.options.ActivationCode} {
		if strings.Contains(log.String(), secret) {
			t.Error("the log shows a secret")
		}
	}
}

func TestNoActivationNoCall(t *testing.T) {
	g := startPlatform(t, sandbox.ShouqianbaOptions{})
	t.Setenv("SQB_ACTIVATION_CODE", "00000000")
	start(t, g.config(t, g.owned(), "shouqianba_proxy"))
	a := post(t, g.url("/upay/v2/query"), call("1", `"client_sn":"1"`))
	if a.status != 502 || !strings.Contains(a.body, "GATEWAY_UNREACHABLE") || a.header.Get("Gateway-Outcome") != "not_sent" {
		t.Errorf("answer: %d %s", a.status, a.body)
	}
	for _, c := range g.platform.Calls() {
		if c.Path != activatePath {
			t.Errorf("a call to %s was sent", c.Path)
		}
	}
}

// TestIllegalSign: another server checks in; the call that is refused for it is not repeated, the next one is right.
func TestIllegalSign(t *testing.T) {
	g := startPlatform(t, sandbox.ShouqianbaOptions{})
	start(t, g.config(t, g.owned(), "shouqianba_proxy"))
	sn := ""
	eventually(t, "the activation", func() bool { sn = g.platform.Terminal("till-1"); return sn != "" })
	query := call(sn, `"client_sn":"1"`)
	if a := post(t, g.url("/upay/v2/query"), query); !strings.Contains(a.body, "UPAY_ORDER_NOT_EXISTS") {
		t.Fatalf("answer: %s", a.body)
	}

	// What another server does: the check-in, and the new key in the storage.
	var k *keeper
	keepers.Range(func(_, value any) bool { k = value.(*keeper); return false })
	o := k.owner()
	err := o.slot.Locked(t.Context(), func() error {
		stored, err := o.load(t.Context())
		if err != nil {
			return err
		}
		given, err := o.send(t.Context(), &stored)
		if err != nil {
			return err
		}
		given.Day = stored.Day
		return o.save(t.Context(), given)
	})
	if err != nil {
		t.Fatal(err)
	}
	before := len(g.platform.Calls())
	a := post(t, g.url("/upay/v2/query"), query)
	if a.status != 200 || !strings.Contains(a.body, illegalSign) || a.header.Get("Gateway-Outcome") != "answered" || len(g.platform.Calls()) != before+1 {
		t.Errorf("answer: %d %s; %d calls", a.status, a.body, len(g.platform.Calls())-before)
	}
	if a = post(t, g.url("/upay/v2/query"), query); !strings.Contains(a.body, "UPAY_ORDER_NOT_EXISTS") {
		t.Errorf("the next call: %s", a.body)
	}
	if len(log.lines("the platform refuses the terminal's signature", "not repeated")) != 1 || len(log.lines("another server has checked the terminal in")) != 1 {
		t.Errorf("log: %s", log)
	}
}

// TestAnOrder goes all the way: made, paid, notified, refunded, notified again.
func TestAnOrder(t *testing.T) {
	g := startPlatform(t, sandbox.ShouqianbaOptions{Schedule: []time.Duration{10 * time.Millisecond, 10 * time.Millisecond}})
	seen := make(chan *http.Request, 10)
	bodies := make(chan string, 10)
	fail := true
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		content, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if fail { // the platform repeats it
			fail = false
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		seen <- r
		bodies <- string(content)
		_, _ = io.WriteString(w, "success")
	}))
	t.Cleanup(app.Close)
	start(t, g.config(t, g.fixed(), "handle /notify {\nshouqianba_notify\nreverse_proxy "+app.Listener.Addr().String()+"\n}\nhandle {\nshouqianba_proxy\n}"))

	a := post(t, g.url("/upay/v2/precreate"), call(g.options.TerminalSN, fmt.Sprintf(order, "A1")+`,"notify_url":"`+g.url("/notify")+`"`))
	if !strings.Contains(a.body, "PRECREATE_SUCCESS") {
		t.Fatalf("precreate: %s", a.body)
	}
	if err := g.platform.Pay("A1"); err != nil {
		t.Fatal(err)
	}
	if err := g.platform.WaitDelivered(t.Context(), "A1", sandbox.KindPayment); err != nil {
		t.Fatal(err)
	}
	r, body := <-seen, <-bodies
	if r.Header.Get("Ce-Type") != "com.shouqianba.payment.succeeded" || r.Header.Get("Ce-Source") != "/shouqianba/till" || r.Header.Get("Ce-Subject") != "A1" ||
		len(r.Header.Get("Ce-Id")) != 32 || !strings.Contains(body, `"total_amount":100`) || !strings.Contains(body, `+08:00"`) || r.Header.Get("Authorization") != "" {
		t.Errorf("the app got: %v %s", r.Header, body)
	}
	a = post(t, g.url("/upay/v2/refund"), call(g.options.TerminalSN, `"client_sn":"A1","refund_request_no":"1","operator":"Obama","refund_amount":"30"`))
	if !strings.Contains(a.body, "REFUND_SUCCESS") || !strings.Contains(a.body, "PARTIAL_REFUNDED") {
		t.Fatalf("refund: %s", a.body)
	}
	if err := g.platform.WaitDelivered(t.Context(), "A1", sandbox.KindRefund); err != nil {
		t.Fatal(err)
	}
	if r, body = <-seen, <-bodies; r.Header.Get("Ce-Type") != "com.shouqianba.refund.succeeded" || !strings.Contains(body, `"net_amount":70`) {
		t.Errorf("the app got: %v %s", r.Header, body)
	}
	if answers := g.platform.Deliveries(); len(answers) != 3 || answers[0].Status != 502 || answers[0].Answer != "fail" || answers[1].Answer != "success" {
		t.Errorf("deliveries: %+v", answers)
	}
}

// signed signs a body as the platform does.
func signed(t testing.TB, body string) string {
	t.Helper()
	digest := sha256.Sum256([]byte(body))
	signature, err := rsa.SignPKCS1v15(rand.Reader, testKey(), crypto.SHA256, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(signature)
}

// TestNotifyAnswers: the contract's table of what comes and what is answered.
func TestNotifyAnswers(t *testing.T) {
	g := startPlatform(t, sandbox.ShouqianbaOptions{})
	answers := map[string]func(http.ResponseWriter){
		"/empty":   func(http.ResponseWriter) {},
		"/success": func(w http.ResponseWriter) { _, _ = io.WriteString(w, " Success\n") },
		"/ok":      func(w http.ResponseWriter) { w.WriteHeader(202); _, _ = io.WriteString(w, "OK") },
		"/json":    func(w http.ResponseWriter) { _, _ = io.WriteString(w, `{"ok":true}`) },
		"/fail":    func(w http.ResponseWriter) { _, _ = io.WriteString(w, "fail") },
		"/500":     func(w http.ResponseWriter) { w.WriteHeader(500) },
		"/302":     func(w http.ResponseWriter) { w.Header().Set("Location", "/"); w.WriteHeader(302) },
	}
	release := make(chan struct{})
	var mu sync.Mutex
	taken := make(map[string]int)
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		taken[r.URL.Path]++
		mu.Unlock()
		w.Header().Set("Set-Cookie", "app=1")
		if r.URL.Path == "/slow" {
			select {
			case <-release:
			case <-r.Context().Done():
			}
			return
		}
		if answer := answers[r.URL.Path]; answer != nil {
			answer(w)
		}
	}))
	t.Cleanup(func() { close(release); app.Close() })
	start(t, g.config(t, g.fixed(), `
	handle /2xx/* {
		shouqianba_notify {
			ack 2xx
		}
		uri strip_prefix /2xx
		reverse_proxy `+app.Listener.Addr().String()+`
	}
	handle /nobody {
		shouqianba_notify
	}
	handle /gone {
		shouqianba_notify
		reverse_proxy `+freeAddress(t)+`
	}
	handle /named {
		shouqianba_notify {http.request.header.X-Terminal}
		reverse_proxy `+app.Listener.Addr().String()+`
	}
	handle /slow {
		shouqianba_notify {
			timeout 1s
		}
		reverse_proxy `+app.Listener.Addr().String()+`
	}
	handle {
		shouqianba_notify {
			max_size 1KiB
		}
		reverse_proxy `+app.Listener.Addr().String()+`
	}`))

	good := `{"sn":"7892259488292938","client_sn":"1","terminal_sn":"` + g.options.TerminalSN + `","order_status":"PAID","status":"SUCCESS","total_amount":"100"}`
	foreign := strings.Replace(good, g.options.TerminalSN, "99", 1)
	unnamed := strings.Replace(good, `"terminal_sn":"`+g.options.TerminalSN+`",`, "", 1)
	repeated := strings.Replace(good, `"sn"`, `"sn":"1","sn"`, 1)
	for _, test := range []struct {
		name, path, body, signature string
		method                      string
		headers                     []string
		status                      int
		word                        string
		seen                        bool
	}{
		{name: "taken, empty", path: "/empty", body: good, status: 200, word: "success", seen: true},
		{name: "taken, success", path: "/success", body: good, status: 200, word: "success", seen: true},
		{name: "taken, OK", path: "/ok", body: good, status: 200, word: "success", seen: true},
		{name: "a serial number in the header", path: "/empty", body: good, signature: "00101 " + signed(t, good), status: 200, word: "success", seen: true},
		{name: "without a terminal's number", path: "/empty", body: unnamed, status: 200, word: "success", seen: true},
		{name: "without a content type", path: "/empty", body: good, headers: []string{"Content-Type: "}, status: 200, word: "success", seen: true},
		{name: "a terminal that the request names", path: "/named", body: good, headers: []string{"X-Terminal: till"}, status: 200, word: "success", seen: true},
		{name: "not taken, other words", path: "/json", body: good, status: 502, word: "fail", seen: true},
		{name: "taken, ack 2xx, other words", path: "/2xx/json", body: good, status: 200, word: "success", seen: true},
		{name: "not taken, ack 2xx, fail", path: "/2xx/fail", body: good, status: 502, word: "fail", seen: true},
		{name: "not taken, 500", path: "/500", body: good, status: 502, word: "fail", seen: true},
		{name: "not taken, 302", path: "/302", body: good, status: 502, word: "fail", seen: true},
		{name: "no handler behind", path: "/nobody", body: good, status: 502, word: "fail"},
		{name: "the app is not there", path: "/gone", body: good, status: 502, word: "fail"},
		{name: "too slow", path: "/slow", body: good, status: 504, word: "fail", seen: true},
		{name: "a false signature", path: "/empty", body: good, signature: signed(t, good+" "), status: 403, word: "fail"},
		{name: "no signature", path: "/empty", body: good, signature: "-", status: 403, word: "fail"},
		{name: "another merchant's terminal", path: "/empty", body: foreign, status: 403, word: "fail"},
		{name: "no such terminal", path: "/named", body: good, headers: []string{"X-Terminal: none"}, status: 404, word: "fail"},
		{name: "GET", path: "/empty", method: "GET", status: 405, word: "fail"},
		{name: "too large", path: "/empty", body: good + strings.Repeat(" ", 1<<10), status: 413, word: "fail"},
		{name: "broken JSON", path: "/empty", body: good[:len(good)-1], status: 400, word: "fail"},
		{name: "a repeated field", path: "/empty", body: repeated, status: 400, word: "fail"},
		{name: "an array", path: "/empty", body: "[" + good + "]", status: 400, word: "fail"},
		{name: "a form, sent as JSON", path: "/empty", body: "sn=1", status: 400, word: "fail"},
		{name: "a form", path: "/empty", body: "sn=1", headers: []string{"Content-Type: application/x-www-form-urlencoded"}, status: 415, word: "fail"},
		{name: "an encoding", path: "/empty", body: good, headers: []string{"Content-Encoding: gzip"}, status: 415, word: "fail"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := strings.TrimPrefix(test.path, "/2xx")
			mu.Lock()
			before := taken[path]
			mu.Unlock()
			headers := test.headers
			switch test.signature {
			case "":
				headers = append(headers, "Authorization: "+signed(t, test.body))
			case "-":
			default:
				headers = append(headers, "Authorization: "+test.signature)
			}
			method := test.method
			if method == "" {
				method = "POST"
			}
			seen := func() bool {
				mu.Lock()
				defer mu.Unlock()
				return taken[path] > before
			}
			a := send(t, method, g.url(test.path+"?order_status=PAID"), test.body, headers...)
			for tries := 0; test.status == 504 && !seen() && tries < 10; tries++ {
				// A busy machine may not reach the app within the time that it has.
				a = send(t, method, g.url(test.path+"?order_status=PAID"), test.body, headers...)
			}
			if a.status != test.status || a.body != test.word || a.header.Get("Content-Type") != "text/plain; charset=utf-8" || a.header.Get("Set-Cookie") != "" {
				t.Errorf("answer: %d %q %v; want %d %s", a.status, a.body, a.header, test.status, test.word)
			}
			if seen() != test.seen {
				t.Errorf("the app has seen it: %v", seen())
			}
			if test.method == "GET" && a.header.Get("Allow") != "POST" {
				t.Errorf("Allow: %q", a.header.Get("Allow"))
			}
		})
	}
	// No line said which command explains it.
	for reason, explained := range map[string]bool{
		"signature": true, "missing_signature": true, "foreign_terminal": true, "json": true, "repeated_parameter": true, "content_type": false,
	} {
		lines := log.lines("notify rejected", `"reason":"`+reason+`"`)
		if len(lines) == 0 {
			t.Errorf("no log line of the reason %s", reason)
		}
		for _, line := range lines {
			if strings.Contains(line, `"explain":"caddy shouqianba verify"`) != explained {
				t.Errorf("names the command: %v, want %v: %s", !explained, explained, line)
			}
		}
	}
	if len(log.lines("app answered 2xx but did not take the event", `{\\\"ok\\\":true}`)) == 0 {
		t.Error("the answer of an app that did not take the event is not logged")
	}
}

// TestNotifyFormats: the structured event, the bytes as they came, and an observer that changes nothing.
func TestNotifyFormats(t *testing.T) {
	g := startPlatform(t, sandbox.ShouqianbaOptions{})
	var got *http.Request
	var content []byte
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r
		content, _ = io.ReadAll(r.Body)
		w.WriteHeader(202)
		_, _ = io.WriteString(w, "success")
	}))
	t.Cleanup(app.Close)
	proxy := "\nreverse_proxy " + app.Listener.Addr().String() + "\n"
	start(t, g.config(t, g.fixed(), "handle /ce {\nshouqianba_notify {\nformat cloudevents\njson reflect\n}"+proxy+"}\nhandle /original {\nshouqianba_notify {\nformat original\n}"+proxy+
		"}\nhandle /observe {\nroute {\nshouqianba_notify {\nobserve\n}\nheader X-Type {http.shouqianba.event_type}\nheader X-Order \"{http.shouqianba.client_sn} {http.shouqianba.status} {http.shouqianba.total_amount} {http.shouqianba.sn}\""+proxy+"}\n}"))
	body := `{"client_sn":"苹果 1","sn":"9","order_status":"PAID","total_amount":"100","reflect":"{\"a\":1}","finish_time":"1449646835244"}`

	if a := post(t, g.url("/ce"), body, "Authorization: "+signed(t, body)); a.status != 200 {
		t.Fatalf("answer: %d %s", a.status, a.body)
	}
	var event struct {
		SpecVersion, ID, Source, Type, Subject, Time, DataContentType string
		Data                                                          json.RawMessage
	}
	if err := json.Unmarshal(content, &event); err != nil || event.SpecVersion != "1.0" || event.ID != got.Header.Get("Ce-Id") || event.Source != "/shouqianba/till" ||
		event.Type != "com.shouqianba.payment.succeeded" || event.Subject != "苹果 1" || event.Time != "2015-12-09T15:40:35.244+08:00" ||
		string(event.Data) != `{"client_sn":"苹果 1","sn":"9","order_status":"PAID","total_amount":100,"reflect":{"a":1},"finish_time":"2015-12-09T15:40:35.244+08:00"}` ||
		got.Header.Get("Content-Type") != "application/cloudevents+json" || got.Header.Get("Ce-Subject") != "%E8%8B%B9%E6%9E%9C%201" {
		t.Errorf("the app got: %v %s, %v", got.Header, content, err)
	}

	if a := post(t, g.url("/original"), body, "Authorization: "+signed(t, body), "Ce-Id: forged", "Ce_id: forged"); a.status != 200 || string(content) != body ||
		got.Header.Get("Content-Type") != "application/json" || got.Header.Get("Ce-Id") != event.ID || got.Header.Get("Ce_id") != "" {
		t.Errorf("answer: %d; the app got: %v %s", a.status, got.Header, content)
	}

	for _, signature := range []string{signed(t, body), "false"} {
		a := post(t, g.url("/observe"), body, "Authorization: "+signature)
		if a.status != 202 || a.body != "success" || string(content) != body || got.Header.Get("Authorization") != signature {
			t.Errorf("an observed notify: %d %s; the app got %v %s", a.status, a.body, got.Header, content)
		}
		if want := map[bool]string{true: "{http.shouqianba.event_type}", false: "com.shouqianba.payment.succeeded"}[signature == "false"]; a.header.Get("X-Type") != want {
			t.Errorf("placeholders: %q, %q", a.header.Get("X-Type"), a.header.Get("X-Order"))
		} else if signature != "false" && a.header.Get("X-Order") != "苹果 1 PAID 100 9" {
			t.Errorf("placeholders: %q", a.header.Get("X-Order"))
		}
	}
	if len(log.lines("notify would be rejected", `"reason":"signature"`)) != 1 {
		t.Errorf("log: %s", log)
	}
}

// TestOwnedTerminalsNotify: a notify for the terminal that was activated is taken, one for another is not.
func TestOwnedTerminalsNotify(t *testing.T) {
	g := startPlatform(t, sandbox.ShouqianbaOptions{})
	start(t, g.config(t, g.owned(), "shouqianba_notify\nrespond 200"))
	sn := ""
	eventually(t, "the activation", func() bool {
		sn = g.platform.Terminal("till-1")
		return sn != "" && len(log.lines("terminal activated")) == 1
	})
	for terminal, status := range map[string]int{sn: 200, "1" + sn: 403} {
		body := call(terminal, `"order_status":"PAID"`)
		if a := post(t, g.url("/"), body, "Authorization: "+signed(t, body)); a.status != status {
			t.Errorf("terminal %s: %d %s", terminal, a.status, a.body)
		}
	}
}
