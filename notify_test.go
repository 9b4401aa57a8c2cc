package chinaums

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	dto "github.com/prometheus/client_model/go"

	"github.com/caddy-chinaums/caddy-chinaums/internal/testutil"
)

// A merchant app in this process

// received is one request as the app got it.
type received struct {
	method, uri, host, body string
	header                  http.Header
	contentLength           int64
}

// merchantApp is an HTTP server that keeps what it gets and answers as a test says.
type merchantApp struct {
	*httptest.Server
	answer http.HandlerFunc // 200 and nothing if nil

	mu  sync.Mutex
	got []received
}

func newMerchantApp(t testing.TB, answer http.HandlerFunc) *merchantApp {
	app := &merchantApp{answer: answer}
	app.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		content, _ := io.ReadAll(r.Body)
		app.mu.Lock()
		app.got = append(app.got, received{r.Method, r.RequestURI, r.Host, string(content), r.Header.Clone(), r.ContentLength})
		app.mu.Unlock()
		if app.answer != nil {
			app.answer(w, r)
		}
	}))
	t.Cleanup(app.Close)
	return app
}

// seen returns what the app got since the last call.
func (a *merchantApp) seen() []received {
	a.mu.Lock()
	defer a.mu.Unlock()
	got := a.got
	a.got = nil
	return got
}

// one returns the only request since the last call.
func (a *merchantApp) one(t testing.TB) received {
	t.Helper()
	got := a.seen()
	if len(got) != 1 {
		t.Fatalf("the app saw %d requests, want 1", len(got))
	}
	return got[0]
}

// testHandlers are the functions behind the directive `test_handler <name>`, which stands for any other handler.
var testHandlers sync.Map

type testHandler struct {
	Name string `json:"name,omitempty"`
}

func init() {
	caddy.RegisterModule(testHandler{})
	httpcaddyfile.RegisterHandlerDirective("test_handler", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		h.Next()
		handler := new(testHandler)
		if !h.Args(&handler.Name) {
			return nil, h.ArgErr()
		}
		return handler, nil
	})
	httpcaddyfile.RegisterDirectiveOrder("test_handler", httpcaddyfile.Before, "reverse_proxy")
	caddy.RegisterModule(testEvents{})
}

func (testHandler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.test_handler", New: func() caddy.Module { return new(testHandler) }}
}

func (h testHandler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	handler, _ := testHandlers.Load(h.Name)
	return handler.(func(http.ResponseWriter, *http.Request, caddyhttp.Handler) error)(w, r, next)
}

// handleBy offers a function as `test_handler <name>` and returns that line.
func handleBy(t testing.TB, handler func(http.ResponseWriter, *http.Request, caddyhttp.Handler) error) string {
	testHandlers.Store(t.Name(), handler)
	t.Cleanup(func() { testHandlers.Delete(t.Name()) })
	return "test_handler " + strconv.Quote(t.Name())
}

// testEvents is the event handler `test_events`, which hands events to a channel.
type testEvents struct{}

var testEventsSeen = make(chan caddy.Event, 100)

func (testEvents) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.test_events", New: func() caddy.Module { return new(testEvents) }}
}

func (testEvents) Handle(_ context.Context, event caddy.Event) error {
	testEventsSeen <- event
	return nil
}

func (testEvents) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	return nil
}

// A gateway in this process

// notifySite is a site with the given directives, access log on. Its address is free.
func notifySite(address, directives string) string {
	return "http://" + address + " {\n\tbind 127.0.0.1\n\tlog\n\t" + directives + "\n}\n"
}

const noPlatform = "http://127.0.0.1:9"

// startNotify runs Caddy with the merchant shop and these directives, and returns where notifies go.
func startNotify(t testing.TB, directives string) (url string, log *logged) {
	t.Helper()
	setKeys(t)
	address := freeAddress(t)
	return "http://" + address + "/notify", startCaddy(t, merchantOptions(noPlatform)+notifySite(address, directives))
}

// signedPayment is a payment notify with these fields changed or added, rightly signed.
func signedPayment(changes ...referenceField) string {
	return changed(paymentForm(), changes...).signedForm(testNotifyKey, digestSHA256)
}

func changed(fields referenceFields, changes ...referenceField) referenceFields {
	fields = slices.Clone(fields)
	for _, change := range changes {
		if i := slices.IndexFunc(fields, func(f referenceField) bool { return f.name == change.name }); i >= 0 {
			fields[i] = change
		} else {
			fields = append(fields, change)
		}
	}
	return fields
}

const formType = "Content-Type: application/x-www-form-urlencoded"

func postNotify(t testing.TB, url, body string, headers ...string) answer {
	t.Helper()
	if !slices.ContainsFunc(headers, func(h string) bool { return strings.HasPrefix(h, "Content-Type:") }) {
		headers = append(headers, formType)
	}
	return do(t, newRequest(t, "POST", url, body, headers...))
}

// wantWord checks the platform's answer: status, the bare word, and no header but those of every such answer.
func wantWord(t testing.TB, a answer, status int) {
	t.Helper()
	word := "FAILED"
	if status == 200 {
		word = "SUCCESS"
	}
	if a.status != status || a.body != word {
		t.Fatalf("answer: %d %q, want %d %s", a.status, a.body, status, word)
	}
	if got := a.header.Get("Content-Type"); got != "text/plain; charset=utf-8" {
		t.Errorf("Content-Type: %s", got)
	}
	if got := a.header.Get("Content-Length"); got != strconv.Itoa(len(word)) {
		t.Errorf("Content-Length: %s", got)
	}
	if got := a.header["Allow"]; (status == 405) != slices.Equal(got, []string{"POST"}) || status != 405 && got != nil {
		t.Errorf("Allow: %v", got)
	}
	for name, values := range a.header {
		switch name {
		case "Content-Type", "Content-Length", "Date", "Connection", "Allow":
		case "Server":
			if !slices.Equal(values, []string{"Caddy"}) {
				t.Errorf("Server: %v", values)
			}
		default:
			t.Errorf("header %s: %v reached the platform", name, values)
		}
	}
}

// eventually waits until done is true.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	testutil.Eventually(t, what, done)
}

// accessLine returns the fields of the only access log line.
func accessLine(t testing.TB, log *logged) map[string]any {
	t.Helper()
	var lines []string
	eventually(t, "an access log line", func() bool {
		lines = log.lines(`"logger":"http.log.access`)
		return len(lines) > 0
	})
	if len(lines) != 1 {
		t.Fatalf("%d access log lines, want 1", len(lines))
	}
	var fields map[string]any
	if err := json.Unmarshal([]byte(lines[0]), &fields); err != nil {
		t.Fatal(err)
	}
	return fields
}

// metricValue returns the value of one metric of the running Caddy, or -1 if it does not exist.
func metricValue(t testing.TB, name string, labels map[string]string) float64 {
	t.Helper()
	for _, metric := range metricFamily(t, name) {
		found := map[string]string{}
		for _, pair := range metric.Label {
			found[pair.GetName()] = pair.GetValue()
		}
		same := len(found) == len(labels)
		for label, value := range labels {
			same = same && found[label] == value
		}
		if same {
			if metric.Counter != nil {
				return metric.Counter.GetValue()
			}
			return metric.Gauge.GetValue()
		}
	}
	return -1
}

func metricFamily(t testing.TB, name string) []*dto.Metric {
	t.Helper()
	ctx := caddy.ActiveContext()
	families, err := ctx.GetMetricsRegistry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == name {
			return family.Metric
		}
	}
	return nil
}

// TestNotifyDelivers is one notify from end to end: what the app gets, to the byte, and what the platform is told.
func TestNotifyDelivers(t *testing.T) {
	app := newMerchantApp(t, nil)
	url, log := startNotify(t, "chinaums_notify\n\treverse_proxy "+app.URL)
	form := signedPayment(referenceField{"attachedData", ""}, referenceField{"newField", "新 <&> \"x\""})
	a := postNotify(t, url+"?order=7&sign=x", form,
		"User-Agent: UMS/1.0", "Traceparent: 00-1-2-01", "Tracestate: a=b", "X-Forwarded-Proto: https",
		"Cookie: a=b", "Authorization: Bearer x", "Accept: */*", "Accept-Encoding: gzip", "Ce-Id: forged", "Ce-Foo: forged",
		"Webhook-Id: forged", "Webhook-Signature: forged", "X-Real-Ip: 1.2.3.4", "Idempotency-Key: x", "Referer: http://x/", "X-Test: 1")
	wantWord(t, a, 200)

	got := app.one(t)
	want := `{"mid":"898201612345678","tid":"88880001","instMid":"APPDEFAULT","bankCardNo":"622848******1234",` +
		`"billFunds":"现金:1","billFundsDesc":"现金支付0.01元。","buyerId":"2088702631618837","buyerUsername":"119***@qq.com",` +
		`"couponAmount":0,"buyerPayAmount":1,"totalAmount":1,"invoiceAmount":1,"receiptAmount":1,` +
		`"merOrderId":"90012018092009395265848826440","payTime":"2018-09-20T09:50:33+08:00","createTime":"2018-09-20T09:49:58+08:00",` +
		`"refId":"00096057515N","seqId":"0031510000N","settleDate":"2018-09-20","status":"TRADE_SUCCESS",` +
		`"targetOrderId":"2018092022001418830581229369","targetSys":"Alipay 2.0","notifyId":"e82a0275-f767-4f77-90c2-614c91222275",` +
		`"orderDesc":"测试退货5(1111)","mchntUuid":"4aa8728a06a04f7385869df8b659cd01","connectSys":"OPENCHANNEL","rnd":"x8Jq",` +
		`"signType":"SHA256","newField":"新 <&> \"x\""}`
	if got.body != want {
		t.Errorf("the app got\n%s\nwant\n%s", got.body, want)
	}
	if got.method != "POST" || got.uri != "/notify" || got.contentLength != int64(len(want)) || "http://"+got.host+"/notify" != url {
		t.Errorf("the app got %s %s, Host %s, Content-Length %d", got.method, got.uri, got.host, got.contentLength)
	}
	wantHeader := map[string]string{
		"Content-Type": "application/json; charset=utf-8", "Content-Length": strconv.Itoa(len(want)),
		"User-Agent": "UMS/1.0", "Traceparent": "00-1-2-01", "Tracestate": "a=b",
		"Ce-Specversion": "1.0", "Ce-Id": paymentID, "Ce-Source": "/chinaums/shop",
		"Ce-Type": "com.chinaums.payment.succeeded", "Ce-Subject": "90012018092009395265848826440", "Ce-Time": "2018-09-20T09:50:33+08:00",
	}
	for name, value := range wantHeader {
		if values := got.header[name]; len(values) != 1 || values[0] != value {
			t.Errorf("%s: %q, want %q", name, values, value)
		}
	}
	for name, values := range got.header {
		if _, ok := wantHeader[name]; ok {
			continue
		}
		switch name {
		case "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "Via": // reverse_proxy's own
		case "Accept-Encoding":
			if !slices.Equal(values, []string{"gzip"}) { // net/http's own; it decodes what it asked for
				t.Errorf("Accept-Encoding: %v", values)
			}
		default:
			t.Errorf("%s: %q reached the app", name, values)
		}
	}

	fields := accessLine(t, log)
	for name, value := range map[string]string{
		"merchant": "shop", "order": "90012018092009395265848826440", "event": paymentID,
		"event_type": "com.chinaums.payment.succeeded", "outcome": "taken",
	} {
		if fields[name] != value {
			t.Errorf("access log: %s is %v, want %s", name, fields[name], value)
		}
	}
	if lines := log.lines(`"logger":"http.handlers.chinaums_notify"`); len(lines) != 0 {
		t.Errorf("a notify that was taken is logged: %s", lines)
	}
	labels := map[string]string{"merchant": "shop", "type": "com.chinaums.payment.succeeded", "result": "taken", "reason": ""}
	if got := metricValue(t, "caddy_chinaums_notifies_total", labels); got != 1 {
		t.Errorf("notifies_total is %v", got)
	}
	last := metricValue(t, "caddy_chinaums_last_notify_timestamp_seconds", map[string]string{"merchant": "shop"})
	if time.Since(time.UnixMilli(int64(last*1000))).Abs() > time.Minute {
		t.Errorf("last_notify_timestamp_seconds is %v", last)
	}
}

// TestNotifyAcks: which answers of the app mean that it has taken the event.
func TestNotifyAcks(t *testing.T) {
	type appAnswer struct {
		status int
		body   string
		header []string
		write  func(http.ResponseWriter) // instead
	}
	flush := func(w http.ResponseWriter) { _ = http.NewResponseController(w).Flush() }
	long := strings.Repeat(" ", 2000)
	for name, test := range map[string]struct {
		answer       appAnswer
		word, twoHXX bool // taken with ack word, with ack 2xx
	}{
		"200, empty":             {appAnswer{status: 200}, true, true},
		"200, SUCCESS":           {appAnswer{status: 200, body: "SUCCESS"}, true, true},
		"200, success":           {appAnswer{status: 200, body: "success"}, true, true},
		"200, OK and a newline":  {appAnswer{status: 200, body: "\r\n\t Ok \n"}, true, true},
		"200, white space":       {appAnswer{status: 200, body: " \n "}, true, true},
		"200, 2000 spaces":       {appAnswer{status: 200, body: long}, true, true},
		"200, word far behind":   {appAnswer{status: 200, body: long + "SUCCESS" + long}, true, true},
		"200, failed far behind": {appAnswer{status: 200, body: long + "FAILED" + long}, false, false},
		"200, full-width space":  {appAnswer{status: 200, body: "　SUCCESS　"}, true, true},
		"201, empty":             {appAnswer{status: 201}, true, true},
		"202, empty":             {appAnswer{status: 202}, true, true},
		"204":                    {appAnswer{status: 204}, true, true},
		"299, ok":                {appAnswer{status: 299, body: "ok"}, true, true},
		"200, FAILED":            {appAnswer{status: 200, body: "FAILED"}, false, false},
		"200, fail":              {appAnswer{status: 200, body: " fail\n"}, false, false},
		"200, JSON":              {appAnswer{status: 200, body: `{"code":0}`}, false, true},
		"200, a PHP warning":     {appAnswer{status: 200, body: "Warning: x in y.php on line 3\nSUCCESS"}, false, true},
		"200, SUCCESS twice":     {appAnswer{status: 200, body: "SUCCESSSUCCESS"}, false, true},
		"200, SUCCESS and more":  {appAnswer{status: 200, body: "SUCCESS" + long + "x"}, false, true},
		"200, failure":           {appAnswer{status: 200, body: "failure"}, false, true},
		"200, HTML":              {appAnswer{status: 200, body: "<html>" + strings.Repeat("x", 1<<20)}, false, true},
		"200, byte order mark":   {appAnswer{status: 200, body: "\ufeffSUCCESS"}, false, true},
		"200, quoted":            {appAnswer{status: 200, body: `"SUCCESS"`}, false, true},
		"200, compressed":        {appAnswer{status: 200, body: "SUCCESS", header: []string{"Content-Encoding: br"}}, true, true},
		"302":                    {appAnswer{status: 302, header: []string{"Location: /login"}}, false, false},
		"304":                    {appAnswer{status: 304}, false, false},
		"400, SUCCESS":           {appAnswer{status: 400, body: "SUCCESS"}, false, false},
		"404":                    {appAnswer{status: 404}, false, false},
		"500, SUCCESS":           {appAnswer{status: 500, body: "SUCCESS"}, false, false},
		"503":                    {appAnswer{status: 503}, false, false},
		"504 of the app's own":   {appAnswer{status: 504}, false, false},
		"103 first, then 200": {appAnswer{write: func(w http.ResponseWriter) {
			w.WriteHeader(103)
			io.WriteString(w, "SUCCESS")
		}}, true, true},
		"103 first, then 500": {appAnswer{write: func(w http.ResponseWriter) {
			w.WriteHeader(103)
			w.WriteHeader(500)
		}}, false, false},
		"in pieces": {appAnswer{write: func(w http.ResponseWriter) {
			for _, c := range " SUCCESS " {
				io.WriteString(w, string(c))
				flush(w)
			}
		}}, true, true},
		"flushed, then FAILED": {appAnswer{write: func(w http.ResponseWriter) {
			flush(w)
			io.WriteString(w, "FAILED")
		}}, false, false},
		"cut off": {appAnswer{write: func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, "SUCCESS")
			flush(w)
			panic(http.ErrAbortHandler)
		}}, false, false},
		"nothing": {appAnswer{write: func(http.ResponseWriter) { panic(http.ErrAbortHandler) }}, false, false},
	} {
		app := newMerchantApp(t, func(w http.ResponseWriter, _ *http.Request) {
			// None of this may reach the platform.
			for name, value := range map[string]string{
				"Set-Cookie": "session=1", "Server": "nginx", "ETag": `"1"`, "X-Powered-By": "PHP/8", "Cache-Control": "no-store",
				"Content-Type": "text/html; charset=GBK", "Link": "</x>; rel=preload", "Trailer": "X-Trailer",
			} {
				w.Header().Set(name, value)
			}
			for _, header := range test.answer.header {
				name, value, _ := strings.Cut(header, ": ")
				w.Header().Set(name, value)
			}
			if test.answer.write != nil {
				test.answer.write(w)
				return
			}
			w.WriteHeader(test.answer.status)
			io.WriteString(w, test.answer.body)
		})
		for ack, taken := range map[string]bool{"word": test.word, "2xx": test.twoHXX} {
			t.Run(name+", ack "+ack, func(t *testing.T) {
				url, log := startNotify(t, "chinaums_notify {\n\t\tack "+ack+"\n\t}\n\treverse_proxy "+app.URL)
				status := 502
				if taken {
					status = 200
				}
				wantWord(t, postNotify(t, url, signedPayment()), status)
				app.one(t)
				warned := log.lines(`"level":"warn"`, `"logger":"http.handlers.chinaums_notify"`, "app answered 2xx but did not take the event")
				failed := log.lines(`"level":"error"`, `"logger":"http.handlers.chinaums_notify"`, "event not delivered")
				is2xx := test.answer.status/100 == 2 || strings.HasPrefix(name, "flushed")
				if want := !taken && is2xx; (len(warned) == 1) != want {
					t.Errorf("warnings: %s", warned)
				}
				if want := !taken && !is2xx; (len(failed) == 1) != want {
					t.Errorf("errors: %s", failed)
				}
			})
		}
	}
}

// TestNotifyQuotesRefusal: the first 80 bytes of an answer that was not taken are in the log, and no more.
func TestNotifyQuotesRefusal(t *testing.T) {
	text := strings.Repeat("0123456789", 8)
	app := newMerchantApp(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, text+"PAST") })
	url, log := startNotify(t, "chinaums_notify\n\treverse_proxy "+app.URL)
	wantWord(t, postNotify(t, url, signedPayment()), 502)
	lines := log.lines(`"level":"warn"`, "did not take")
	if len(lines) != 1 || !strings.Contains(lines[0], text) || strings.Contains(lines[0], text+"P") {
		t.Errorf("logged: %s", lines)
	}
}

// TestNotifyEncodedAnswer: what the app says in another encoding than asked for may be anything; it is told so, in words
// that can be read.
func TestNotifyEncodedAnswer(t *testing.T) {
	app := newMerchantApp(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "br")
		io.WriteString(w, "\x0b\x02\x80FAILED\x03")
	})
	for _, ack := range []string{"word", "2xx"} {
		t.Run(ack, func(t *testing.T) {
			url, log := startNotify(t, "chinaums_notify {\n\t\tack "+ack+"\n\t}\n\treverse_proxy "+app.URL)
			wantWord(t, postNotify(t, url, signedPayment()), 502)
			if lines := log.lines(`"level":"warn"`, `"logger":"http.handlers.chinaums_notify"`, "Content-Encoding", `"reason":"app_refused"`, `"app_status":200`); len(lines) != 1 {
				t.Errorf("logged: %s", lines)
			}
			if lines := log.lines("did not take the event"); len(lines) != 0 {
				t.Errorf("logged: %s", lines)
			}
		})
	}
}

// TestNotifyHandlers: other handlers than reverse_proxy behind, with all that can go wrong in them.
func TestNotifyHandlers(t *testing.T) {
	type handler = func(http.ResponseWriter, *http.Request, caddyhttp.Handler) error
	for name, test := range map[string]struct {
		handler handler
		status  int
		reason  string
		logs    string
	}{
		"answers": {func(w http.ResponseWriter, _ *http.Request, _ caddyhttp.Handler) error {
			w.WriteHeader(204)
			return nil
		}, 200, "", ""},
		"does nothing": {func(http.ResponseWriter, *http.Request, caddyhttp.Handler) error { return nil }, 502, "no_handler", "no handler answered"},
		"asks the next, and there is none": {func(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
			return next.ServeHTTP(w, r)
		}, 502, "no_handler", "no handler answered"},
		"error": {func(http.ResponseWriter, *http.Request, caddyhttp.Handler) error { return errors.New("broken") }, 502, "app_unreachable", "broken"},
		"error after SUCCESS": {func(w http.ResponseWriter, _ *http.Request, _ caddyhttp.Handler) error {
			io.WriteString(w, "SUCCESS")
			return errors.New("could not commit")
		}, 502, "app_unreachable", "could not commit"},
		"error 504": {func(http.ResponseWriter, *http.Request, caddyhttp.Handler) error {
			return caddyhttp.Error(504, errors.New("gave up"))
		}, 504, "app_timeout", ""},
		"error 404": {func(http.ResponseWriter, *http.Request, caddyhttp.Handler) error {
			return caddyhttp.Error(404, errors.New("no file"))
		}, 502, "app_unreachable", "no file"},
		"panic": {func(http.ResponseWriter, *http.Request, caddyhttp.Handler) error { panic("secret-in-a-panic") }, 502, "app_unreachable", "panic in a handler on the way to the app"},
		"panic after SUCCESS": {func(w http.ResponseWriter, _ *http.Request, _ caddyhttp.Handler) error {
			io.WriteString(w, "SUCCESS")
			panic(fmt.Errorf("secret-in-a-panic"))
		}, 502, "app_unreachable", "panic in a handler on the way to the app"},
		"abort": {func(http.ResponseWriter, *http.Request, caddyhttp.Handler) error { panic(http.ErrAbortHandler) }, 502, "app_unreachable", "abort"},
		"hijack": {func(w http.ResponseWriter, _ *http.Request, _ caddyhttp.Handler) error {
			connection, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				connection.Close()
			}
			return err
		}, 502, "app_unreachable", "not supported"},
		"waits for the end of the context": {func(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
			<-r.Context().Done()
			return r.Context().Err()
		}, 504, "app_timeout", ""},
		"takes it too late": {func(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
			<-r.Context().Done()
			io.WriteString(w, "SUCCESS")
			return nil
		}, 504, "app_timeout", ""},
	} {
		t.Run(name, func(t *testing.T) {
			timeout := "1m"
			if test.reason == "app_timeout" {
				timeout = "50ms"
			}
			url, log := startNotify(t, "chinaums_notify {\n\t\ttimeout "+timeout+"\n\t}\n\t"+handleBy(t, test.handler))
			wantWord(t, postNotify(t, url, signedPayment()), test.status)
			result := "failed"
			if test.status == 200 {
				result = "taken"
			}
			labels := map[string]string{"merchant": "shop", "type": "com.chinaums.payment.succeeded", "result": result, "reason": test.reason}
			if got := metricValue(t, "caddy_chinaums_notifies_total", labels); got != 1 {
				t.Errorf("notifies_total%v is %v", labels, got)
			}
			fields := accessLine(t, log)
			if fields["outcome"] != result || test.reason != "" && fields["reason"] != test.reason {
				t.Errorf("access log: outcome %v, reason %v", fields["outcome"], fields["reason"])
			}
			if lines := log.lines(`"level":"error"`, `"logger":"http.handlers.chinaums_notify"`, test.logs); len(lines) == 0 != (test.status == 200) {
				t.Errorf("errors logged: %s", lines)
			}
			if strings.Contains(log.String(), "secret-in-a-panic") {
				t.Error("the value of a panic is in the log")
			}
		})
	}
	t.Run("nobody behind", func(t *testing.T) {
		url, _ := startNotify(t, "chinaums_notify")
		wantWord(t, postNotify(t, url, signedPayment()), 502)
	})
	t.Run("an answer by Caddy itself", func(t *testing.T) {
		url, _ := startNotify(t, "chinaums_notify\n\trespond SUCCESS")
		wantWord(t, postNotify(t, url, signedPayment()), 200)
	})
	t.Run("an error by Caddy itself, handle_errors", func(t *testing.T) {
		url, _ := startNotify(t, "chinaums_notify\n\terror 500\n\thandle_errors {\n\t\trespond SUCCESS 200\n\t}")
		wantWord(t, postNotify(t, url, signedPayment()), 502)
	})
	t.Run("app unreachable", func(t *testing.T) {
		url, log := startNotify(t, "chinaums_notify\n\treverse_proxy "+freeAddress(t))
		wantWord(t, postNotify(t, url, signedPayment()), 502)
		if len(log.lines(`"level":"error"`, "event not delivered", `"reason":"app_unreachable"`)) != 1 {
			t.Error("not logged")
		}
	})
	t.Run("app too slow", func(t *testing.T) {
		release := make(chan struct{})
		app := newMerchantApp(t, func(http.ResponseWriter, *http.Request) { <-release })
		defer close(release)
		for _, timeout := range []string{"1s", "5s", "25s"} { // a busy machine may not reach the app in the first
			url, log := startNotify(t, "chinaums_notify {\n\t\ttimeout "+timeout+"\n\t}\n\treverse_proxy "+app.URL)
			wantWord(t, postNotify(t, url, signedPayment()), 504)
			if len(log.lines(`"level":"error"`, "event not delivered", `"reason":"app_timeout"`)) != 1 {
				t.Error("not logged")
			}
			if seen := app.seen(); len(seen) == 1 {
				return
			} else if len(seen) > 1 {
				t.Fatalf("the app saw %d requests", len(seen))
			}
		}
		t.Error("the app saw nothing")
	})
	t.Run("app too slow for its proxy", func(t *testing.T) {
		release := make(chan struct{})
		app := newMerchantApp(t, func(http.ResponseWriter, *http.Request) { <-release })
		defer close(release)
		url, _ := startNotify(t, "chinaums_notify\n\treverse_proxy "+app.URL+" {\n\t\ttransport http {\n\t\t\tresponse_header_timeout 100ms\n\t\t}\n\t}")
		wantWord(t, postNotify(t, url, signedPayment()), 504)
	})
	t.Run("answer that never ends", func(t *testing.T) {
		app := newMerchantApp(t, func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "SUCCESS")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		})
		url, _ := startNotify(t, "chinaums_notify {\n\t\ttimeout 100ms\n\t}\n\treverse_proxy "+app.URL)
		wantWord(t, postNotify(t, url, signedPayment()), 504)
	})
}

// TestNotifyHangUp: a platform that goes away does not cut the app's work, and the log tells that it will come again.
func TestNotifyHangUp(t *testing.T) {
	working, finish, finished := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	app := newMerchantApp(t, func(_ http.ResponseWriter, r *http.Request) {
		close(working)
		select {
		case <-finish:
			finished <- nil
		case <-r.Context().Done():
			finished <- r.Context().Err()
		}
	})
	url, log := startNotify(t, "chinaums_notify\n\treverse_proxy "+app.URL)
	ctx, hangUp := context.WithCancel(t.Context())
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		req, _ := http.NewRequestWithContext(ctx, "POST", url, strings.NewReader(signedPayment()))
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if res, err := testClient.Do(req); err == nil {
			res.Body.Close()
		}
	}()
	<-working
	hangUp()
	<-gone
	select {
	case err := <-finished:
		t.Fatalf("the app's work was cut: %v", err)
	case <-time.After(100 * time.Millisecond): // gives a wrong implementation the time to cut; a right one passes however short it is
	}
	close(finish)
	if err := <-finished; err != nil {
		t.Fatalf("the app's work was cut: %v", err)
	}
	eventually(t, "a line about the platform that hung up", func() bool {
		return len(log.lines(`"level":"warn"`, "event taken, but the platform hung up")) == 1
	})
	labels := map[string]string{"merchant": "shop", "type": "com.chinaums.payment.succeeded", "result": "taken", "reason": ""}
	if got := metricValue(t, "caddy_chinaums_notifies_total", labels); got != 1 {
		t.Errorf("notifies_total is %v", got)
	}
}

// cardNumber is that of paymentForm, with its asterisks, plain or percent-encoded: times and durations in a log may hold its six digits too.
var cardNumber = regexp.MustCompile(`622848(\*|%2[aA])`)

// TestNotifyRefuses: the rows of the answer table for what is not believed; the app sees none of it.
func TestNotifyRefuses(t *testing.T) {
	app := newMerchantApp(t, nil)
	url, log := startNotify(t, "chinaums_notify {\n\t\tmax_size 4KiB\n\t}\n\treverse_proxy "+app.URL)
	good := signedPayment()
	sign := good[strings.LastIndex(good, "=")+1:]
	unsigned := paymentForm().form()
	signedWith := func(key string, digest digestSet, fields referenceFields) string {
		return fields.signedForm(key, digest)
	}
	asJSON := func(fields referenceFields) string {
		object := map[string]string{"sign": referenceDigest(fields.stringToSign(), testNotifyKey, digestSHA256)}
		for _, f := range fields {
			object[f.name] = f.value
		}
		encoded, _ := json.Marshal(object)
		return string(encoded)
	}
	for name, test := range map[string]struct {
		method  string
		body    string
		headers []string
		status  int
		reason  string
	}{
		"one letter of the signature":    {"POST", good[:len(good)-1] + string("0123456789abcdef0"[strings.IndexByte("0123456789abcdef", good[len(good)-1])+1]), nil, 403, "signature"},
		"one value changed":              {"POST", strings.Replace(good, "totalAmount=1&", "totalAmount=2&", 1), nil, 403, "signature"},
		"one field added":                {"POST", good + "&x=1", nil, 403, "signature"},
		"one field taken off":            {"POST", strings.Replace(good, "&rnd=x8Jq", "", 1), nil, 403, "signature"},
		"another key":                    {"POST", signedWith("another", digestSHA256, paymentForm()), nil, 403, "signature"},
		"appKey instead of the notify's": {"POST", signedWith(testAppKey, digestSHA256, paymentForm()), nil, 403, "signature"},
		"an empty key":                   {"POST", signedWith("", digestSHA256, paymentForm()), nil, 403, "signature"},
		"MD5, but signType SHA256":       {"POST", signedWith(testNotifyKey, digestMD5, paymentForm()), nil, 403, "signature"},
		"signature cut":                  {"POST", good[:len(good)-2], nil, 403, "signature"},
		"signature too long":             {"POST", good + "00", nil, 403, "signature"},
		"signature that is no hex":       {"POST", unsigned + "&sign=" + strings.Repeat("g", 64), nil, 403, "signature"},
		"signature missing":              {"POST", unsigned, nil, 403, "missing_signature"},
		"signature empty":                {"POST", unsigned + "&sign=", nil, 403, "missing_signature"},
		"nothing":                        {"POST", "", nil, 403, "missing_signature"},
		"unknown signType":               {"POST", signedWith(testNotifyKey, digestSHA256, changed(paymentForm(), referenceField{"signType", "SM3"})), nil, 403, "sign_type"},
		"status in a value":              {"POST", signedWith(testNotifyKey, digestSHA256, changed(paymentForm(), referenceField{"orderDesc", "tea&status=TRADE_SUCCESS"})), nil, 403, "ambiguous"},
		"STATUS in a value":              {"POST", signedWith(testNotifyKey, digestSHA256, changed(paymentForm(), referenceField{"orderDesc", "tea&STATUS=TRADE_SUCCESS"})), nil, 403, "ambiguous"},
		"a name with &":                  {"POST", signedWith(testNotifyKey, digestSHA256, changed(paymentForm(), referenceField{"a&b", "1"})), nil, 403, "ambiguous"},
		"a name with =":                  {"POST", signedWith(testNotifyKey, digestSHA256, changed(paymentForm(), referenceField{"a=b", "1"})), nil, 403, "ambiguous"},
		"an empty name":                  {"POST", signedWith(testNotifyKey, digestSHA256, changed(paymentForm(), referenceField{"", "1"})), nil, 403, "ambiguous"},
		"as JSON, ambiguous":             {"POST", asJSON(changed(paymentForm(), referenceField{"a", "x&mid=1"})), nil, 403, "ambiguous"},
		"a pair in a number":             {"POST", signedWith(testNotifyKey, digestSHA256, changed(paymentForm(), referenceField{"seqId", "1&settleDate=2"})), nil, 403, "ambiguous"},
		"a bill in a payment":            {"POST", signedWith(testNotifyKey, digestSHA256, changed(paymentForm(), referenceField{"billStatus", "PAID"})), nil, 403, "mixed"},
		"as JSON, mixed":                 {"POST", asJSON(changed(paymentForm(), referenceField{"billNo", "1"})), nil, 403, "mixed"},
		"GET":                            {"GET", "", nil, 405, "method"},
		"GET with a body":                {"GET", good, nil, 405, "method"},
		"PUT":                            {"PUT", good, nil, 405, "method"},
		"DELETE":                         {"DELETE", "", nil, 405, "method"},
		"OPTIONS":                        {"OPTIONS", "", nil, 405, "method"},
		"post in small letters":          {"post", good, nil, 405, "method"},
		"too large":                      {"POST", good + "&x=" + strings.Repeat("x", 4<<10), nil, 413, "too_large"},
		"a repeated parameter":           {"POST", good + "&mid=898201612345678", nil, 400, "repeated_parameter"},
		"a repeated signature":           {"POST", good + "&sign=" + sign, nil, 400, "repeated_parameter"},
		"broken percent-encoding":        {"POST", good + "&x=%", nil, 400, "encoding"},
		"broken percent-encoding, half":  {"POST", good + "&x=%4", nil, 400, "encoding"},
		"broken percent-encoding, name":  {"POST", good + "&%zz=1", nil, 400, "encoding"},
		"broken JSON":                    {"POST", `{"mid":"1"`, []string{"Content-Type: application/json"}, 400, "json"},
		"JSON, data behind":              {"POST", `{"mid":"1"} x`, []string{"Content-Type: application/json"}, 400, "json"},
		"JSON, trailing comma":           {"POST", `{"mid":"1",}`, []string{"Content-Type: application/json"}, 400, "json"},
		"JSON sent as a form, broken":    {"POST", `{"mid":`, nil, 400, "json"},
		"nested JSON, object":            {"POST", `{"goods":{}}`, []string{"Content-Type: application/json"}, 400, "json"},
		"nested JSON, array":             {"POST", `{"goods":[1]}`, nil, 400, "json"},
		"JSON, repeated name":            {"POST", `{"mid":"1","mid":"1"}`, []string{"Content-Type: application/json"}, 400, "repeated_parameter"},
		"JSON, name repeated by escape":  {"POST", `{"mid":"1","\u006did":"1"}`, nil, 400, "repeated_parameter"},
		"JSON array":                     {"POST", `[{"mid":"1"}]`, []string{"Content-Type: application/json"}, 400, "json"},
		"JSON array with =":              {"POST", ` [{"mid":"1=1"}]`, []string{"Content-Type: application/json; charset=utf-8"}, 400, "json"},
		"JSON string":                    {"POST", "\n\"a=b\"", []string{"Content-Type: application/json"}, 400, "json"},
		"JSON number":                    {"POST", `1`, []string{"Content-Type: application/json"}, 400, "json"},
		"JSON null":                      {"POST", `null`, []string{"Content-Type: application/json"}, 400, "json"},
		"JSON without signature":         {"POST", `{"mid":"1"}`, []string{"Content-Type: application/json"}, 403, "missing_signature"},
		"XML":                            {"POST", "<xml/>", []string{"Content-Type: text/xml"}, 415, "content_type"},
		"plain text":                     {"POST", good, []string{"Content-Type: text/plain"}, 415, "content_type"},
		"multipart":                      {"POST", "--x--", []string{"Content-Type: multipart/form-data; boundary=x"}, 415, "content_type"},
		"problem+json":                   {"POST", "{}", []string{"Content-Type: application/problem+json"}, 415, "content_type"},
		"two types":                      {"POST", good, []string{formType, "Content-Type: text/plain"}, 415, "content_type"},
		"gzip":                           {"POST", good, []string{"Content-Encoding: gzip"}, 415, "content_encoding"},
		"two encodings":                  {"POST", good, []string{"Content-Encoding: identity", "Content-Encoding: br"}, 415, "content_encoding"},
	} {
		t.Run(name, func(t *testing.T) {
			labels := map[string]string{"merchant": "shop", "type": "", "result": "rejected", "reason": test.reason}
			before := max(metricValue(t, "caddy_chinaums_notifies_total", labels), 0)
			headers := test.headers
			if !slices.ContainsFunc(headers, func(h string) bool { return strings.HasPrefix(h, "Content-Type:") }) {
				headers = append(headers, formType)
			}
			wantWord(t, do(t, newRequest(t, test.method, url, test.body, headers...)), test.status)
			if seen := app.seen(); len(seen) != 0 {
				t.Errorf("the app saw %+v", seen)
			}
			if got := metricValue(t, "caddy_chinaums_notifies_total", labels); got != before+1 {
				t.Errorf("notifies_total%v is %v, was %v", labels, got, before)
			}
		})
	}
	for _, secret := range []string{testNotifyKey, testAppKey, sign, "119***@qq.com", "2088702631618837", "测试退货"} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("the log holds %q", secret)
		}
	}
	if cardNumber.MatchString(log.String()) {
		t.Error("the log holds a card number")
	}
}

// TestNotifyTakes: what verifies in spite of its looks.
func TestNotifyTakes(t *testing.T) {
	app := newMerchantApp(t, nil)
	url, _ := startNotify(t, "chinaums_notify\n\treverse_proxy "+app.URL)
	signed := func(digest digestSet, changes ...referenceField) string {
		return changed(referenceFields{{"merOrderId", "42"}, {"totalAmount", "100"}}, changes...).signedForm(testNotifyKey, digest)
	}
	digest := func(text string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(text+testNotifyKey))) }
	for name, test := range map[string]struct {
		body    string
		headers []string
		want    string
	}{
		"SHA-256 without signType": {signed(digestSHA256), nil, `{"merOrderId":"42","totalAmount":100}`},
		"MD5 without signType":     {signed(digestMD5), nil, `{"merOrderId":"42","totalAmount":100}`},
		"capital hex":              {strings.ToUpper(signed(digestSHA256)[len(signed(digestSHA256))-64:]), nil, ""},
		"signType sha-256":         {signed(digestSHA256, referenceField{"signType", "sha-256"}), nil, `{"merOrderId":"42","totalAmount":100,"signType":"sha-256"}`},
		"signType Md5":             {signed(digestMD5, referenceField{"signType", "Md5"}), nil, `{"merOrderId":"42","totalAmount":100,"signType":"Md5"}`},
		"signType empty":           {signed(digestMD5) + "&signType=", nil, `{"merOrderId":"42","totalAmount":100}`},
		"empty values and pairs":   {"&&a=&b&" + signed(digestSHA256) + "&&c=&", nil, `{"merOrderId":"42","totalAmount":100}`},
		"empty value repeated":     {"merOrderId=&" + signed(digestSHA256) + "&merOrderId=", nil, `{"merOrderId":"42","totalAmount":100}`},
		"plus and percent":         {"a=1+2%2B3&sign=" + digest("a=1 2+3"), nil, `{"a":"1 2+3"}`},
		"semicolon":                {"a=1;b=2&sign=" + digest("a=1;b=2"), nil, `{"a":"1;b=2"}`},
		"= in a value":             {"a=1=2&sign=" + digest("a=1=2"), nil, `{"a":"1=2"}`},
		"form as JSON":             {signed(digestSHA256), []string{"Content-Type: application/json"}, `{"merOrderId":"42","totalAmount":100}`},
		"no type":                  {signed(digestSHA256), []string{"Content-Type: "}, `{"merOrderId":"42","totalAmount":100}`},
		"type with parameters":     {signed(digestSHA256), []string{"Content-Type: Application/X-WWW-Form-URLEncoded ; charset=GBK"}, `{"merOrderId":"42","totalAmount":100}`},
		"encoding identity":        {signed(digestSHA256), []string{"Content-Encoding: Identity"}, `{"merOrderId":"42","totalAmount":100}`},
		"JSON as form":             {` {"merOrderId":"42","sign":"` + digest("merOrderId=42") + `"}`, nil, `{"merOrderId":"42"}`},
		"JSON without a type":      {"\r\n\t {\"merOrderId\":\"42\",\"sign\":\"" + digest("merOrderId=42") + "\"}\n", []string{"Content-Type: "}, `{"merOrderId":"42"}`},
		"JSON, numbers": {`{"a":1.50,"b":-0,"c":1E5,"totalAmount":100,"d":true,"e":null,"f":"","sign":"` + digest("a=1.50&b=-0&c=1E5&d=true&totalAmount=100") + `"}`,
			[]string{"Content-Type: application/json; charset=utf-8"}, `{"a":"1.50","b":"-0","c":"1E5","totalAmount":100,"d":"true"}`},
		"JSON, escapes": {`{"a":"\u4f60\/\n\ud83d\ude00","sign":"` + digest("a=你/\n😀") + `"}`, []string{"Content-Type: application/json"}, `{"a":"你/\n😀"}`},
		"JSON in a text of JSON": {`{"goods":"[{\"totalAmount\":\"1\"}]","sign":"` + digest(`goods=[{"totalAmount":"1"}]`) + `"}`, []string{"Content-Type: application/json"},
			`{"goods":[{"totalAmount":1}]}`},
		"& without a deciding name": {"a=" + "x%26y%3D1%26statusX%3D2&sign=" + digest("a=x&y=1&statusX=2"), nil, `{"a":"x&y=1&statusX=2"}`},
		"sorted by bytes":           {"b=1&Z=2&a=3&_=4&%E4%BD%A0=5&sign=" + digest("Z=2&_=4&a=3&b=1&你=5"), nil, `{"b":"1","Z":"2","a":"3","_":"4","你":"5"}`},
		"zero byte":                 {"a=%00&sign=" + digest("a=\x00"), nil, `{"a":"\u0000"}`},
		"GB18030":                   {"a=%C4%E3%BA%C3&sign=" + digest("a=\xc4\xe3\xba\xc3"), nil, `{"a":"你好"}`},
		"overlong UTF-8":            {"a=%C0%AF&sign=" + digest("a=\xc0\xaf"), nil, `{"a":"蜡"}`},
		"400 digits":                {`{"totalAmount":` + strings.Repeat("9", 400) + `,"sign":"` + digest("totalAmount="+strings.Repeat("9", 400)) + `"}`, nil, `{"totalAmount":"` + strings.Repeat("9", 400) + `"}`},
		"400 digits in a form":      {`totalAmount=` + strings.Repeat("9", 400) + `&sign=` + digest("totalAmount="+strings.Repeat("9", 400)), nil, `{"totalAmount":"` + strings.Repeat("9", 400) + `"}`},
		"deep nesting stays text": {"goods=" + strings.Repeat("%5B", 5000) + "&sign=" + digest("goods="+strings.Repeat("[", 5000)), nil,
			`{"goods":"` + strings.Repeat("[", 5000) + `"}`},
		"only a signature": {"sign=" + digest(""), nil, `{}`},
	} {
		t.Run(name, func(t *testing.T) {
			if test.want == "" {
				form := signed(digestSHA256)
				test.body, test.want = form[:len(form)-64]+test.body, `{"merOrderId":"42","totalAmount":100}`
			}
			if slices.Contains(test.headers, "Content-Type: ") {
				wantWord(t, do(t, newRequest(t, "POST", url, test.body)), 200)
			} else {
				wantWord(t, postNotify(t, url, test.body, test.headers...), 200)
			}
			got := app.one(t)
			if got.body != test.want {
				t.Errorf("the app got\n%s\nwant\n%s", got.body, test.want)
			}
			if got.header.Get("Ce-Id") == "" || got.header.Get("Content-Type") != "application/json; charset=utf-8" {
				t.Errorf("header: %v", got.header)
			}
		})
	}
}

// TestNotifyVectorsThroughCaddy runs the published vectors through the handler.
func TestNotifyVectorsThroughCaddy(t *testing.T) {
	var vectors []notifyVector
	readVectors(t, "notify.json", &vectors)
	for _, vector := range vectors {
		if vector.Form == nil || vector.Key == "" {
			continue
		}
		t.Run(vector.Name, func(t *testing.T) {
			setKeys(t)
			t.Setenv("UMS_NOTIFY_KEY", vector.Key)
			app := newMerchantApp(t, nil)
			address := freeAddress(t)
			startCaddy(t, merchantOptions(noPlatform)+notifySite(address, "chinaums_notify\n\treverse_proxy "+app.URL))
			a := postNotify(t, "http://"+address+"/", *vector.Form)
			if !vector.Valid {
				if a.status != 403 && a.status != 400 || a.body != "FAILED" || len(app.seen()) != 0 {
					t.Fatalf("a false notify: %d %q", a.status, a.body)
				}
				return
			}
			wantWord(t, a, 200)
			got := app.one(t)
			values := readReference(*vector.Form)
			if id := referenceEventID("/chinaums/shop", strings.TrimPrefix(got.header.Get("Ce-Type"), "com.chinaums."), values.Get); got.header.Get("Ce-Id") != id {
				t.Errorf("Ce-Id: %s, want %s", got.header.Get("Ce-Id"), id)
			}
			var names map[string]json.RawMessage
			if err := json.Unmarshal([]byte(got.body), &names); err != nil {
				t.Fatal(err)
			}
			for name := range values {
				_, there := names[name]
				if want := name != "sign" && values.Get(name) != ""; there != want {
					t.Errorf("field %s: there %v, want %v", name, there, want)
				}
			}
		})
	}
}

// paymentID is the Ce-Id of paymentForm.
var paymentID = sha256Lines("v1\n/chinaums/shop\ncom.chinaums.payment.succeeded\nmid=898201612345678\nmerOrderId=90012018092009395265848826440\n" +
	"status=TRADE_SUCCESS\ntotalAmount=1\n")

// get returns a field's value, or "".
func (fields referenceFields) get(name string) string {
	for _, f := range fields {
		if f.name == name {
			return f.value
		}
	}
	return ""
}

// referenceEventID is the contract's rule for Ce-Id, written a second time. kind is the type without its prefix.
func referenceEventID(source, kind string, get func(string) string) string {
	lines := []string{"v1", source, "com.chinaums." + kind}
	add := func(names string) (added bool) {
		for name := range strings.FieldsSeq(names) {
			value := get(name)
			if name == "status" && strings.EqualFold(value, "SUCCESS") && value != "Success" {
				value = "TRADE_SUCCESS"
			}
			if value != "" {
				lines, added = append(lines, name+"="+value), true
			}
		}
		return added
	}
	refund := func() {
		add("refundStatus")
		for _, name := range []string{"refundOrderId", "refundTargetOrderId", "refundExtOrderId"} {
			if add(name) {
				return
			}
		}
		add("refundAmount refundPayTime notifyId")
	}
	switch family, _, _ := strings.Cut(kind, "."); family {
	case "bill":
		add("mid billNo billDate billStatus")
		if get("billStatus") == "REFUND" || get("status") == "TRADE_REFUND" || get("refundStatus")+get("refundOrderId")+get("refundTargetOrderId") != "" ||
			get("refundAmount") != "" && get("refundAmount") != "0" {
			refund()
		}
	case "refund":
		add("mid merOrderId")
		refund()
	case "guarantee":
		add("mid merOrderId secureStatus completeAmount")
	default:
		add("mid merOrderId status totalAmount")
	}
	return fmt.Sprintf("%x", sha256.Sum256([]byte(strings.Join(lines, "\n")+"\n")))[:32]
}

// TestNotifyRepeated: a repeated notify keeps its Ce-Id whatever its random parameter and its notifyId are; another state
// has another.
func TestNotifyRepeated(t *testing.T) {
	app := newMerchantApp(t, nil)
	url, _ := startNotify(t, "chinaums_notify\n\treverse_proxy "+app.URL)
	send := func(changes ...referenceField) string {
		fields := changed(paymentForm(), changes...)
		wantWord(t, postNotify(t, url, fields.signedForm(testNotifyKey, digestSHA256)), 200)
		got := app.one(t)
		id := got.header.Get("Ce-Id")
		if want := referenceEventID("/chinaums/shop", strings.TrimPrefix(got.header.Get("Ce-Type"), "com.chinaums."), fields.get); id != want {
			t.Errorf("Ce-Id: %s, want %s", id, want)
		}
		return id
	}
	first := send(referenceField{"rnd", "1"})
	if again := send(referenceField{"rnd", "2"}, referenceField{"payTime", "2018-09-20 09:50:34"}); again != first {
		t.Errorf("a repeated notify has another id: %s and %s", first, again)
	}
	for _, notifyID := range []string{"", "another"} {
		if again := send(referenceField{"notifyId", notifyID}); again != first {
			t.Errorf("with notifyId %q it has another id: %s and %s", notifyID, first, again)
		}
	}
	if again := send(referenceField{"status", "SUCCESS"}); again != first {
		t.Errorf("SUCCESS is TRADE_SUCCESS: %s and %s", first, again)
	}
	if other := send(referenceField{"status", "TRADE_CLOSED"}); other == first {
		t.Error("another state has the same id")
	}
	if other := send(referenceField{"totalAmount", "2"}); other == first {
		t.Error("another amount has the same id")
	}
}

// TestNotifyRaw: what no well-behaved client sends.
func TestNotifyRaw(t *testing.T) {
	app := newMerchantApp(t, nil)
	// An answer that waits for the hour of /notify is none.
	url, log := startNotify(t, "chinaums_notify /late {\n\t\ttimeout 300ms\n\t}\n\tchinaums_notify /notify {\n\t\ttimeout 1h\n\t\tmax_size 8KiB\n\t}\n\treverse_proxy "+app.URL)
	address := strings.TrimSuffix(strings.TrimPrefix(url, "http://"), "/notify")
	form := signedPayment()
	head := "POST /notify HTTP/1.1\r\nHost: " + address + "\r\n" + formType + "\r\n"
	chunked := func(parts ...string) string {
		var b strings.Builder
		b.WriteString(head + "Transfer-Encoding: chunked\r\n\r\n")
		for _, part := range parts {
			fmt.Fprintf(&b, "%x\r\n%s\r\n", len(part), part)
		}
		return b.String()
	}
	for name, test := range map[string]struct {
		send   string
		end    bool // no more will come
		status int
		reason string
	}{
		"no byte of the body":     {send: head + "Content-Length: 100\r\n\r\n", status: 408, reason: "body_late"},
		"half of the body":        {send: head + "Content-Length: " + strconv.Itoa(len(form)) + "\r\n\r\n" + form[:len(form)/2], status: 408, reason: "body_late"},
		"chunked without end":     {send: chunked(form), status: 408, reason: "body_late"},
		"body cut":                {send: head + "Content-Length: " + strconv.Itoa(len(form)) + "\r\n\r\n" + form[:len(form)/2], end: true, status: 400, reason: "broken_body"},
		"true, but cut":           {send: head + "Content-Length: " + strconv.Itoa(len(form)+10) + "\r\n\r\n" + form, end: true, status: 400, reason: "broken_body"},
		"chunked, cut":            {send: chunked(form), end: true, status: 400, reason: "broken_body"},
		"broken chunk":            {send: head + "Transfer-Encoding: chunked\r\n\r\nxx\r\n", status: 400, reason: "broken_body"},
		"too large, announced":    {send: head + "Content-Length: 8193\r\n\r\n", status: 413, reason: "too_large"},
		"much too large":          {send: head + "Content-Length: 9223372036854775807\r\n\r\n", status: 413, reason: "too_large"},
		"too large, chunked":      {send: chunked(strings.Repeat("x", 8193)), status: 413, reason: "too_large"},
		"chunked":                 {send: chunked(form[:10], form[10:], ""), status: 200},
		"chunked, with a trailer": {send: strings.TrimSuffix(chunked(form, ""), "\r\n") + "Sign: x\r\n\r\n", status: 200},
		"exact limit": {send: func() string {
			fields := referenceFields{{"merOrderId", "42"}, {"x", ""}}
			rest := 8192 - len(fields.signedForm(testNotifyKey, digestSHA256))
			fields[1].value = strings.Repeat("x", rest)
			body := fields.signedForm(testNotifyKey, digestSHA256)
			return head + "Content-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + body
		}(), status: 200},
		"length and chunked: chunked counts": {send: strings.Replace(chunked(form, ""), "Transfer-Encoding", "Content-Length: 5\r\nTransfer-Encoding", 1), status: 200},
		"no body, not POST":                  {send: strings.Replace(head, "POST", "PUT", 1) + "Content-Length: 10\r\n\r\n", status: 405, reason: "method"},
		"no body, another type":              {send: strings.Replace(head, formType, "Content-Type: text/xml", 1) + "Content-Length: 10\r\n\r\n", status: 415, reason: "content_type"},
		"no body, compressed":                {send: head + "Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n", status: 415, reason: "content_encoding"},
		"expects 100-continue, too large":    {send: head + "Expect: 100-continue\r\nContent-Length: 9000\r\n\r\n", status: 413, reason: "too_large"},
		"HTTP/1.0":                           {send: strings.Replace(head, "1.1", "1.0", 1) + "Content-Length: " + strconv.Itoa(len(form)) + "\r\n\r\n" + form, status: 200},
		"absolute form":                      {send: strings.Replace(head, "/notify", "http://"+address+"/notify?mid=1", 1) + "Content-Length: " + strconv.Itoa(len(form)) + "\r\n\r\n" + form, status: 200},
	} {
		t.Run(name, func(t *testing.T) {
			connection, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			defer connection.Close()
			_ = connection.SetDeadline(time.Now().Add(time.Minute))
			send := test.send
			if test.status == 408 {
				send = strings.Replace(send, "/notify", "/late", 1)
			}
			if _, err = io.WriteString(connection, send); err != nil {
				t.Fatal(err)
			}
			if test.end {
				_ = connection.(*net.TCPConn).CloseWrite()
			}
			res, err := http.ReadResponse(bufio.NewReader(connection), nil)
			if err != nil {
				t.Fatal(err)
			}
			content, _ := io.ReadAll(res.Body)
			res.Body.Close()
			wantWord(t, answer{res.StatusCode, res.Header, string(content)}, test.status)
			seen := app.seen()
			if (len(seen) == 1) != (test.status == 200) {
				t.Errorf("the app saw %d requests", len(seen))
			}
			for _, got := range seen {
				if got.uri != "/notify" || got.header.Get("Sign") != "" || got.header.Get("Trailer") != "" {
					t.Errorf("the app got %s %v", got.uri, got.header)
				}
			}
			if test.reason != "" && len(log.lines("notify rejected", `"reason":"`+test.reason+`"`)) == 0 {
				t.Errorf("the log does not say %s", test.reason)
			}
		})
	}
	t.Run("a client that trickles", func(t *testing.T) {
		connection, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer connection.Close()
		_ = connection.SetDeadline(time.Now().Add(time.Minute))
		io.WriteString(connection, strings.Replace(head, "/notify", "/late", 1)+"Content-Length: 8000\r\n\r\n")
		stop := make(chan struct{})
		defer close(stop)
		go func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(20 * time.Millisecond):
					if _, err := io.WriteString(connection, "x"); err != nil {
						return
					}
				}
			}
		}()
		res, err := http.ReadResponse(bufio.NewReader(connection), nil)
		if err != nil {
			t.Fatal(err)
		}
		content, _ := io.ReadAll(res.Body)
		res.Body.Close()
		wantWord(t, answer{res.StatusCode, res.Header, string(content)}, 408)
	})
}

// TestNotifyRefusedBeforeTheBody: a connection whose request was refused before its body came is not used again.
func TestNotifyRefusedBeforeTheBody(t *testing.T) {
	url, _ := startNotify(t, "chinaums_notify {\n\t\ttimeout 300ms\n\t\tmax_size 1KiB\n\t}\n\trespond OK")
	address := strings.TrimSuffix(strings.TrimPrefix(url, "http://"), "/notify")
	for name, test := range map[string]struct {
		head   string
		status int
	}{
		"type":          {"POST /notify HTTP/1.1\r\nContent-Type: text/plain\r\nContent-Length: 100", 415},
		"type, chunked": {"POST /notify HTTP/1.1\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked", 415},
		"method":        {"PUT /notify HTTP/1.1\r\n" + formType + "\r\nContent-Length: 100", 405},
		"too large":     {"POST /notify HTTP/1.1\r\n" + formType + "\r\nContent-Length: 100000", 413},
		"late":          {"POST /notify HTTP/1.1\r\n" + formType + "\r\nContent-Length: 100", 408},
	} {
		t.Run(name, func(t *testing.T) {
			if status := endOfEarlyAnswer(t, address, test.head+"\r\nHost: "+address+"\r\n\r\n"); status != test.status {
				t.Errorf("status %d, want %d", status, test.status)
			}
		})
	}
}

// TestNotifyHostile: what costs a careless reader its memory or its time.
func TestNotifyHostile(t *testing.T) {
	app := newMerchantApp(t, nil)
	url, _ := startNotify(t, "chinaums_notify {\n\t\tmax_size 2MiB\n\t}\n\treverse_proxy "+app.URL)
	for name, test := range map[string]struct {
		body   string
		status int
	}{
		"a million &":            {strings.Repeat("&", 1_000_000), 403},
		"a million & and a true": {strings.Repeat("&", 1_000_000) + signedPayment(), 200},
		"1001 parameters": {func() string {
			var b strings.Builder
			for i := range 1001 {
				fmt.Fprintf(&b, "p%d=1&", i)
			}
			return b.String() + "sign=" + strings.Repeat("0", 64)
		}(), 400},
		"a name of 64 KiB":            {strings.Repeat("n", 64<<10) + "=1&sign=" + strings.Repeat("0", 64), 403},
		"a JSON name of 64 KiB":       {`{"` + strings.Repeat("n", 64<<10) + `":1}`, 403},
		"a million [":                 {strings.Repeat("[", 1_000_000), 403},
		"a million { in JSON":         {`{"a":` + strings.Repeat("{", 1_000_000), 400},
		"a million digits":            {`{"a":` + strings.Repeat("1", 1_000_000) + `}`, 403},
		"a million backslashes":       {`{"a":"` + strings.Repeat(`\`, 1_000_000), 400},
		"a signature of a megabyte":   {"sign=" + strings.Repeat("0", 1<<20), 403},
		"a million percent signs":     {"a=" + strings.Repeat("%", 1_000_000), 400},
		"zero bytes":                  {strings.Repeat("\x00", 10_000), 403},
		"a true one, signed names in": {signedPayment(referenceField{strings.Repeat("n", 64<<10), "1"}), 200},
	} {
		t.Run(name, func(t *testing.T) {
			wantWord(t, postNotify(t, url, test.body), test.status)
			if seen := app.seen(); (len(seen) == 1) != (test.status == 200) {
				t.Errorf("the app saw %d requests", len(seen))
			}
		})
	}
}

// TestNotifyFormats: what each format sends.
func TestNotifyFormats(t *testing.T) {
	app := newMerchantApp(t, nil)
	fields := referenceFields{{"merOrderId", "茶 1\"%"}, {"notifyId", "n 1"}, {"totalAmount", "100"}, {"status", "TRADE_SUCCESS"}, {"attachedData", `{"a":"1"}`}, {"empty", ""}}
	form := fields.signedForm(testNotifyKey, digestMD5)
	data := `{"merOrderId":"茶 1\"%","notifyId":"n 1","totalAmount":100,"status":"TRADE_SUCCESS","attachedData":{"a":"1"}}`
	plain := strings.Replace(data, `{"a":"1"}`, `"{\"a\":\"1\"}"`, 1)
	formID := sha256Lines("v1\n/chinaums/shop\ncom.chinaums.payment.succeeded\nmerOrderId=茶 1\"%\nstatus=TRADE_SUCCESS\ntotalAmount=100\n")
	objectID := sha256Lines("v1\n/chinaums/shop\ncom.chinaums.payment.unknown\nmerOrderId=42\n")
	object := `{ "merOrderId" : "42", "sign":"` + fmt.Sprintf("%x", md5.Sum([]byte("merOrderId=42"+testNotifyKey))) + `" }`
	for name, test := range map[string]struct {
		options, body       string
		headers             []string
		wantType, want      string
		wantSubject, wantID string
	}{
		"json":                      {"json attachedData", form, []string{formType}, "application/json; charset=utf-8", data, "%E8%8C%B6%201%22%25", formID},
		"cloudevents":               {"format cloudevents\n\t\tjson attachedData", form, []string{formType}, "application/cloudevents+json", "", "%E8%8C%B6%201%22%25", formID},
		"json, the option left out": {"format json", form, []string{formType}, "application/json; charset=utf-8", plain, "%E8%8C%B6%201%22%25", formID},
		"original, form":            {"format original", form, []string{"Content-Type: application/x-www-form-urlencoded; charset=UTF-8"}, "application/x-www-form-urlencoded; charset=UTF-8", form, "%E8%8C%B6%201%22%25", formID},
		"original, no type":         {"format original", form, nil, "application/x-www-form-urlencoded", form, "%E8%8C%B6%201%22%25", formID},
		"original, JSON":            {"format original", object, []string{"Content-Type: application/json"}, "application/json", object, "42", objectID},
		"original, JSON as a form":  {"format original", object, []string{formType}, "application/json", object, "42", objectID},
		"original, form as JSON":    {"format original", form, []string{"Content-Type: application/json"}, "application/x-www-form-urlencoded", form, "%E8%8C%B6%201%22%25", formID},
		"original, JSON, no type":   {"format original", object, nil, "application/json", object, "42", objectID},
	} {
		t.Run(name, func(t *testing.T) {
			url, _ := startNotify(t, "chinaums_notify {\n\t\t"+test.options+"\n\t}\n\treverse_proxy "+app.URL)
			wantWord(t, do(t, newRequest(t, "POST", url+"?a=1", test.body, test.headers...)), 200)
			got := app.one(t)
			if got.header.Get("Content-Type") != test.wantType || len(got.header["Content-Type"]) != 1 {
				t.Errorf("Content-Type: %v", got.header["Content-Type"])
			}
			if got.uri != "/notify" || got.contentLength != int64(len(got.body)) {
				t.Errorf("%s, Content-Length %d of %d", got.uri, got.contentLength, len(got.body))
			}
			if got.header.Get("Ce-Subject") != test.wantSubject || got.header.Get("Ce-Id") != test.wantID || got.header.Get("Ce-Specversion") != "1.0" {
				t.Errorf("header: %v", got.header)
			}
			if name != "cloudevents" {
				if got.body != test.want {
					t.Errorf("the app got\n%s\nwant\n%s", got.body, test.want)
				}
				return
			}
			var event map[string]json.RawMessage
			if err := json.Unmarshal([]byte(got.body), &event); err != nil {
				t.Fatal(err)
			}
			if string(event["data"]) != data {
				t.Errorf("data\n%s\nwant\n%s", event["data"], data)
			}
			for attribute, value := range map[string]string{
				"specversion": "1.0", "id": formID, "source": "/chinaums/shop", "type": "com.chinaums.payment.succeeded",
				"subject": "茶 1\"%", "datacontenttype": "application/json",
			} {
				var got string
				if err := json.Unmarshal(event[attribute], &got); err != nil || got != value {
					t.Errorf("%s: %s, want %s", attribute, event[attribute], value)
				}
				delete(event, attribute)
			}
			delete(event, "data")
			if len(event) != 0 {
				t.Errorf("more attributes: %v", event)
			}
		})
	}
}

// TestNotifyDropsSmuggledHeaders: CGI folds `-`, `_` and `.` into one, so every spelling must go. The server lets such
// names in here, which it does not by default.
func TestNotifyDropsSmuggledHeaders(t *testing.T) {
	app := newMerchantApp(t, nil)
	setKeys(t)
	address := freeAddress(t)
	options := strings.Replace(merchantOptions(noPlatform), "{\n", "{\n\tservers {\n\t\texpected_underscore_headers Ce_Id CE_ID Webhook_Id Ce_Confirmed X_Forwarded_For\n\t}\n", 1)
	startCaddy(t, options+notifySite(address, "chinaums_notify\n\treverse_proxy "+app.URL))
	smuggled := []string{"Ce_Id: x", "Webhook_Id: x", "Ce_Confirmed: true", "Ce-Confirmed: true", "Ce-Anything: x", "Webhook-Timestamp: 1", "X_Forwarded_For: 1.1.1.1"}
	wantWord(t, postNotify(t, "http://"+address+"/", signedPayment(), smuggled...), 200)
	for name, values := range app.one(t).header {
		folded := strings.NewReplacer("_", "-", ".", "-").Replace(strings.ToLower(name))
		switch {
		case slices.Contains([]string{"Ce-Specversion", "Ce-Id", "Ce-Source", "Ce-Type", "Ce-Subject", "Ce-Time", "X-Forwarded-For"}, name):
			if len(values) != 1 || values[0] == "x" || values[0] == "1.1.1.1" {
				t.Errorf("%s: %v", name, values)
			}
		case strings.HasPrefix(folded, "ce-"), strings.HasPrefix(folded, "webhook-"), folded == "x-forwarded-for":
			t.Errorf("%s: %v reached the app", name, values)
		}
	}
}

// TestNotifyPlaceholders: the event in placeholders behind the handler, and in handle-time matchers.
func TestNotifyPlaceholders(t *testing.T) {
	app := newMerchantApp(t, nil)
	up := ""
	for _, name := range []string{"merchant", "event_id", "event_type", "mer_order_id", "total_amount", "status", "reason", "other"} {
		up += "\t\theader_up X-" + strings.ReplaceAll(name, "_", "-") + " \"<{http.chinaums." + name + "}>\"\n"
	}
	url, log := startNotify(t, "chinaums_notify\n\tlog_append order_placeholder {http.chinaums.mer_order_id}\n\tlog_append reason_placeholder {http.chinaums.reason}\n"+
		"\treverse_proxy "+app.URL+" {\n"+up+"\t}")
	wantWord(t, postNotify(t, url, signedPayment()), 200)
	got := app.one(t)
	for name, value := range map[string]string{
		"X-Merchant": "<shop>", "X-Event-Id": "<" + paymentID + ">", "X-Event-Type": "<com.chinaums.payment.succeeded>",
		"X-Mer-Order-Id": "<90012018092009395265848826440>", "X-Total-Amount": "<1>", "X-Status": "<TRADE_SUCCESS>", "X-Reason": "<>",
		"X-Other": "<{http.chinaums.other}>",
	} {
		if got.header.Get(name) != value {
			t.Errorf("%s: %s, want %s", name, got.header.Get(name), value)
		}
	}
	if fields := accessLine(t, log); fields["order_placeholder"] != "90012018092009395265848826440" {
		t.Errorf("log_append: %v", fields["order_placeholder"])
	}

	url, log = startNotify(t, "header >X-Reason \"{http.chinaums.merchant} {http.chinaums.reason}\"\n\tchinaums_notify\n\tlog_append reason_placeholder {http.chinaums.reason}\n\treverse_proxy "+app.URL)
	refused := postNotify(t, url, "sign=x")
	if got := refused.header.Get("X-Reason"); got != "shop signature" {
		t.Errorf("a header in front of the handler: %q", got)
	}
	if fields := accessLine(t, log); fields["reason_placeholder"] != "signature" || fields["reason"] != "signature" || fields["outcome"] != "rejected" || fields["merchant"] != "shop" {
		t.Errorf("access log: %v", fields)
	}
}

// TestNotifyRejectedLog: a flood of false notifies is no flood of lines; the lines hold no more than 64 bytes of them.
func TestNotifyRejectedLog(t *testing.T) {
	setKeys(t)
	drainEvents()
	address := freeAddress(t)
	options := strings.Replace(merchantOptions(noPlatform), "{\n", "{\n\tevents {\n\t\ton chinaums.notify_rejected test_events\n\t}\n", 1)
	log := startCaddy(t, options+notifySite(address, "chinaums_notify\n\treverse_proxy "+freeAddress(t)))
	url := "http://" + address + "/"
	order := strings.Repeat("o", 64)
	for range 25 {
		wantWord(t, postNotify(t, url, "buyerUsername=somebody&bankCardNo=6228480000&merOrderId="+order+"PAST&mid=m%0A1&sign="+strings.Repeat("ab", 32)), 403)
	}
	wantWord(t, postNotify(t, url, "merOrderId=1"), 403)

	lines := log.lines(`"level":"warn"`, `"logger":"http.handlers.chinaums_notify"`, `"notify rejected"`, `"reason":"signature"`)
	if len(lines) != 10 {
		t.Errorf("%d lines, want 10", len(lines))
	}
	if len(log.lines(`"level":"warn"`, `"notify rejected"`, `"reason":"missing_signature"`)) != 1 {
		t.Error("another reason has not its own count")
	}
	var fields map[string]any
	if err := json.Unmarshal([]byte(lines[0]), &fields); err != nil {
		t.Fatal(err)
	}
	if fields["unverified_order"] != strconv.Quote(order) || fields["unverified_mid"] != `"m\n1"` || fields["merchant"] != "shop" || fields["status"] != 403.0 {
		t.Errorf("logged: %v", fields)
	}
	if fields["explain"] != "caddy chinaums verify" {
		t.Errorf("the line does not say which command explains it: %v", fields)
	}
	wantWord(t, do(t, newRequest(t, "GET", url, "")), 405)
	if lines := log.lines(`"notify rejected"`, `"reason":"method"`); len(lines) != 1 || strings.Contains(lines[0], "explain") {
		t.Errorf("the command cannot explain it: %v", lines)
	}
	own := strings.Join(log.lines(`"logger":"http.handlers.chinaums_notify"`), "")
	for _, secret := range []string{"somebody", "6228480000", order + "P", strings.Repeat("ab", 32), testNotifyKey} {
		if strings.Contains(own, secret) {
			t.Errorf("the log holds %q", secret)
		}
	}
	labels := map[string]string{"merchant": "shop", "type": "", "result": "rejected", "reason": "signature"}
	if got := metricValue(t, "caddy_chinaums_notifies_total", labels); got != 25 {
		t.Errorf("counted %v, want 25", got)
	}
	event := testutil.Receive(t, "an event", testEventsSeen)
	if event.Name() != "chinaums.notify_rejected" || event.Data["merchant"] != "shop" || event.Data["reason"] != "signature" || event.Data["observed"] != false {
		t.Errorf("event %s: %v", event.Name(), event.Data)
	}
}

// TestNotifyMetricLabels: the platform's own words in a type do not become labels without bound.
func TestNotifyMetricLabels(t *testing.T) {
	url, _ := startNotify(t, "chinaums_notify\n\trespond OK")
	for i := range 20 {
		for _, name := range []string{"billStatus", "secureStatus", "refundStatus", "status"} {
			fields := referenceFields{{"mid", "1"}, {name, fmt.Sprintf("WORD%d", i)}}
			wantWord(t, postNotify(t, url, fields.signedForm(testNotifyKey, digestSHA256)), 200)
		}
	}
	types := map[string]bool{}
	for _, metric := range metricFamily(t, "caddy_chinaums_notifies_total") {
		for _, pair := range metric.Label {
			if pair.GetName() == "type" {
				types[pair.GetValue()] = true
			}
		}
	}
	want := map[string]bool{
		"com.chinaums.bill.other": true, "com.chinaums.guarantee.other": true, "com.chinaums.refund.unknown": true, "com.chinaums.payment.unknown": true,
	}
	if fmt.Sprint(types) != fmt.Sprint(want) {
		t.Errorf("types: %v", types)
	}
}

// TestNotifyObserve: nothing changes, whatever comes; what would have been done is logged and counted.
func TestNotifyObserve(t *testing.T) {
	app := newMerchantApp(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Set-Cookie", "a=b")
		w.Header().Set("X-App", "1")
		w.WriteHeader(http.StatusAccepted)
		io.WriteString(w, "the app's own words")
	})
	url, log := startNotify(t, "chinaums_notify {\n\t\tobserve\n\t\tmax_size 4KiB\n\t}\n\treverse_proxy "+app.URL+" {\n\t\theader_up X-Type \"<{http.chinaums.event_type}{http.chinaums.reason}>\"\n\t}")
	for name, test := range map[string]struct {
		method, body string
		headers      []string
		reason, kind string
	}{
		"true":               {"POST", signedPayment(), []string{formType}, "", "com.chinaums.payment.succeeded"},
		"false":              {"POST", signedPayment() + "&x=1", []string{formType}, "signature", ""},
		"GET":                {"GET", "", nil, "method", ""},
		"another type":       {"POST", "<xml/>", []string{"Content-Type: text/xml"}, "content_type", ""},
		"compressed":         {"POST", "\x1f\x8b", []string{formType, "Content-Encoding: gzip"}, "content_encoding", ""},
		"too large":          {"POST", strings.Repeat("x", 100_000), []string{formType}, "too_large", ""},
		"too large, chunked": {"POST", strings.Repeat("y", 100_000), []string{formType, "Transfer-Encoding: chunked"}, "too_large", ""},
		"chunked":            {"POST", signedPayment(), []string{formType, "Transfer-Encoding: chunked"}, "", "com.chinaums.payment.succeeded"},
		"broken JSON":        {"POST", "{", []string{"Content-Type: application/json"}, "json", ""},
		"empty":              {"POST", "", []string{formType}, "missing_signature", ""},
	} {
		t.Run(name, func(t *testing.T) {
			labels := map[string]string{"merchant": "shop", "type": test.kind, "result": "observed", "reason": test.reason}
			before := max(metricValue(t, "caddy_chinaums_notifies_total", labels), 0)
			req := newRequest(t, test.method, url+"?order=7", test.body, append(test.headers, "Cookie: c=d", "Ce-Id: own", "Webhook-Id: own", "X-Own: 1", "Accept-Encoding: br")...)
			if i := slices.IndexFunc(test.headers, func(h string) bool { return strings.HasPrefix(h, "Transfer-Encoding") }); i >= 0 {
				req.ContentLength = -1
			}
			a := do(t, req)
			if a.status != 202 || a.body != "the app's own words" || a.header.Get("Set-Cookie") != "a=b" || a.header.Get("X-App") != "1" {
				t.Errorf("answer: %+v", a)
			}
			got := app.one(t)
			if got.method != test.method || got.uri != "/notify?order=7" || got.body != test.body {
				t.Errorf("the app got %s %s with %d bytes, want %d", got.method, got.uri, len(got.body), len(test.body))
			}
			for name, value := range map[string]string{"Cookie": "c=d", "Ce-Id": "own", "Webhook-Id": "own", "X-Own": "1", "Accept-Encoding": "br"} {
				if got.header.Get(name) != value {
					t.Errorf("%s: %v", name, got.header[name])
				}
			}
			if got.header.Get("Content-Type") != strings.TrimPrefix(slices.Concat(test.headers, []string{"Content-Type: "})[0], "Content-Type: ") {
				t.Errorf("Content-Type: %v", got.header["Content-Type"])
			}
			if (req.ContentLength == -1) != (got.contentLength == -1) {
				t.Errorf("Content-Length: %d", got.contentLength)
			}
			if value := metricValue(t, "caddy_chinaums_notifies_total", labels); value != before+1 {
				t.Errorf("notifies_total%v is %v, was %v", labels, value, before)
			}
			if test.reason != "" && len(log.lines(`"level":"warn"`, "notify would be rejected", `"reason":"`+test.reason+`"`)) == 0 {
				t.Errorf("the log does not say %s", test.reason)
			}
		})
	}
	t.Run("a body that breaks off", func(t *testing.T) {
		address := strings.TrimSuffix(strings.TrimPrefix(url, "http://"), "/notify")
		connection, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer connection.Close()
		io.WriteString(connection, "POST /notify HTTP/1.1\r\nHost: "+address+"\r\n"+formType+"\r\nContent-Length: 100\r\n\r\nabc")
		_ = connection.(*net.TCPConn).CloseWrite()
		eventually(t, "a line", func() bool { return len(log.lines("notify would be rejected", `"reason":"broken_body"`)) == 1 })
	})
}

// TestNotifyMerchants: whose keys verify, and what the mid decides.
func TestNotifyMerchants(t *testing.T) {
	setKeys(t)
	t.Setenv("UMS_KEY_2", "the second key")
	t.Setenv("UMS_KEY_3", "the third key")
	app := newMerchantApp(t, nil)
	address := freeAddress(t)
	startCaddy(t, `{
	chinaums {
		merchant plain {
			notify_key {env.UMS_NOTIFY_KEY}
		}
		merchant rotated {
			notify_key {env.UMS_KEY_2} {env.UMS_KEY_3}
			sign_types sha256
			mid        1001 1002
		}
		merchant md5only {
			notify_key {env.UMS_KEY_2}
			sign_types md5
			mid        2001
		}
	}
}
`+notifySite(address, `handle /plain {
		chinaums_notify plain
		reverse_proxy `+app.URL+`
	}
	handle /rotated {
		chinaums_notify rotated
		reverse_proxy `+app.URL+`
	}
	handle /md5only {
		chinaums_notify md5only
		reverse_proxy `+app.URL+`
	}
	handle /any/* {
		chinaums_notify {http.request.uri.path.1}
		reverse_proxy `+app.URL+`
	}`))
	notify := func(key string, digest digestSet, mid string) string {
		return referenceFields{{"merOrderId", "42"}, {"mid", mid}}.signedForm(key, digest)
	}
	for name, test := range map[string]struct {
		path, body string
		status     int
		merchant   string
	}{
		"plain":                              {"/plain", notify(testNotifyKey, digestMD5, ""), 200, "plain"},
		"plain, any mid":                     {"/plain", notify(testNotifyKey, digestSHA256, "77"), 200, "plain"},
		"plain, another's key":               {"/plain", notify("the second key", digestSHA256, "1001"), 403, ""},
		"rotated, new key":                   {"/rotated", notify("the second key", digestSHA256, "1001"), 200, "rotated"},
		"rotated, previous key":              {"/rotated", notify("the third key", digestSHA256, "1002"), 200, "rotated"},
		"rotated, both keys in one":          {"/rotated", notify("the second keythe third key", digestSHA256, "1001"), 403, ""},
		"rotated, MD5 is not accepted":       {"/rotated", notify("the second key", digestMD5, "1001"), 403, ""},
		"rotated, foreign mid":               {"/rotated", notify("the second key", digestSHA256, "2001"), 403, ""},
		"rotated, no mid":                    {"/rotated", notify("the second key", digestSHA256, ""), 403, ""},
		"rotated, mid that begins so":        {"/rotated", notify("the second key", digestSHA256, "10011"), 403, ""},
		"md5only, same key, own mid":         {"/md5only", notify("the second key", digestMD5, "2001"), 200, "md5only"},
		"md5only, same key, another's mid":   {"/md5only", notify("the second key", digestMD5, "1001"), 403, ""},
		"md5only, SHA-256 is not accepted":   {"/md5only", notify("the second key", digestSHA256, "2001"), 403, ""},
		"by placeholder":                     {"/any/rotated", notify("the second key", digestSHA256, "1001"), 200, "rotated"},
		"by placeholder, the other":          {"/any/md5only", notify("the second key", digestMD5, "2001"), 200, "md5only"},
		"by placeholder, another's mid":      {"/any/md5only", notify("the second key", digestMD5, "1001"), 403, ""},
		"by placeholder, one without mid":    {"/any/plain", notify(testNotifyKey, digestSHA256, "1"), 404, ""},
		"by placeholder, one without mid ii": {"/any/plain", notify(testNotifyKey, digestSHA256, ""), 404, ""},
		"by placeholder, nobody":             {"/any/nobody", notify(testNotifyKey, digestSHA256, "1"), 404, ""},
		"by placeholder, nothing":            {"/any/", notify(testNotifyKey, digestSHA256, "1"), 404, ""},
	} {
		t.Run(name, func(t *testing.T) {
			wantWord(t, postNotify(t, "http://"+address+test.path, test.body), test.status)
			seen := app.seen()
			if test.status != 200 {
				if len(seen) != 0 {
					t.Error("the app saw it")
				}
				return
			}
			if len(seen) != 1 || seen[0].header.Get("Ce-Source") != "/chinaums/"+test.merchant {
				t.Errorf("the app saw %+v", seen)
			}
		})
	}
}

// TestNotifyConcurrently: many at once, each answered by its own app's word, each with its own data.
func TestNotifyConcurrently(t *testing.T) {
	app := newMerchantApp(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.Header.Get("Ce-Subject"), "0") {
			w.WriteHeader(500)
		}
	})
	url, _ := startNotify(t, "chinaums_notify\n\treverse_proxy "+app.URL)
	var wait sync.WaitGroup
	for i := range 100 {
		wait.Go(func() {
			order := strconv.Itoa(1000 + i)
			req, _ := http.NewRequestWithContext(t.Context(), "POST", url, strings.NewReader(signedPayment(referenceField{"merOrderId", order})))
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			res, err := testClient.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			defer res.Body.Close()
			word, _ := io.ReadAll(res.Body)
			if want := map[bool]string{true: "502 FAILED", false: "200 SUCCESS"}[i%10 == 0]; fmt.Sprintf("%d %s", res.StatusCode, word) != want {
				t.Errorf("order %s: %d %s", order, res.StatusCode, word)
			}
		})
	}
	wait.Wait()
	orders := map[string]bool{}
	for _, got := range app.seen() {
		var event struct{ MerOrderID string }
		if err := json.Unmarshal([]byte(got.body), &event); err != nil || event.MerOrderID != got.header.Get("Ce-Subject") {
			t.Errorf("%s, Ce-Subject %s", got.body, got.header.Get("Ce-Subject"))
		}
		orders[event.MerOrderID] = true
	}
	if len(orders) != 100 {
		t.Errorf("%d orders", len(orders))
	}
}

var _ caddyevents.Handler = testEvents{}

// TestNotifyWebhookSignature: what the app checks is signed behind the handler, whatever the order in the Caddyfile.
func TestNotifyWebhookSignature(t *testing.T) {
	const secret = "between gateway and app"
	t.Setenv("APP_SECRET", secret)
	app := newMerchantApp(t, nil)
	for _, format := range []string{"json", "cloudevents", "original"} {
		t.Run(format, func(t *testing.T) {
			url, _ := startNotify(t, "reverse_proxy "+app.URL+"\n\twebhook_signature {env.APP_SECRET}\n\tchinaums_notify {\n\t\tformat "+format+"\n\t}")
			wantWord(t, postNotify(t, url, signedPayment(), "Webhook-Signature: v1,x", "Webhook-Id: x"), 200)
			got := app.one(t)
			id, at := got.header.Get("Webhook-Id"), got.header.Get("Webhook-Timestamp")
			if id != paymentID {
				t.Errorf("Webhook-Id: %s", id)
			}
			if seconds, err := strconv.ParseInt(at, 10, 64); err != nil || time.Since(time.Unix(seconds, 0)).Abs() > time.Minute {
				t.Errorf("Webhook-Timestamp: %s", at)
			}
			mac := hmac.New(sha256.New, []byte(secret))
			io.WriteString(mac, id+"."+at+"."+got.body)
			if want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)); !slices.Equal(got.header["Webhook-Signature"], []string{want}) {
				t.Errorf("Webhook-Signature: %v, want %s", got.header["Webhook-Signature"], want)
			}
			wantWord(t, postNotify(t, url, signedPayment()+"&x=1"), 403)
			if len(app.seen()) != 0 {
				t.Error("the app saw a false notify")
			}
		})
	}
}

// serveDirectly runs Caddy with a Caddyfile and returns its HTTP server, to be called without a network.
func serveDirectly(t testing.TB, config string) http.Handler {
	startCaddy(t, config)
	app, err := caddy.ActiveContext().App("http")
	if err != nil {
		t.Fatal(err)
	}
	return app.(*caddyhttp.App).Servers["srv0"]
}

// BenchmarkNotifyHandler is a site with the whole handler and a small app behind, called without a network; the floor is
// the same site without the handler.
func BenchmarkNotifyHandler(b *testing.B) {
	setKeys(b)
	app := handleBy(b, func(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return err
		}
		_, err := io.WriteString(w, "SUCCESS")
		return err
	})
	server := serveDirectly(b, merchantOptions(noPlatform)+"http:// {\n\tbind 127.0.0.1\n\tchinaums_notify /notify\n\t"+app+"\n}\n")
	form := []byte(signedPayment())
	serve := func(path string) func() {
		return func() {
			r := httptest.NewRequest("POST", path, nil)
			r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(form)), int64(len(form))
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			w := httptest.NewRecorder()
			if server.ServeHTTP(w, r); w.Code != 200 || w.Body.String() != "SUCCESS" {
				b.Fatal(w.Code, w.Body)
			}
		}
	}
	measureRatio(b, serve("/notify"), serve("/plain"))
}
