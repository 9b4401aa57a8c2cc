package chinaums

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// startReturn runs Caddy with chinaums_return in front of an app that shows a page.
func startReturn(t testing.TB, options, more string) (url string, app *merchantApp, log *logged) {
	t.Helper()
	app = newMerchantApp(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Referrer-Policy", "unsafe-url")
		w.Header().Set("Set-Cookie", "a=b")
		io.WriteString(w, "thank you")
	})
	url, log = startNotify(t, "chinaums_return {\n\t\t"+options+"\n\t}\n\treverse_proxy "+app.URL+
		" {\n\t\theader_up X-Order \"<{http.chinaums.mer_order_id}|{http.chinaums.status}|{http.chinaums.total_amount}|{http.chinaums.merchant}|{http.chinaums.event_type}|{http.chinaums.event_id}|{http.chinaums.reason}>\"\n\t}\n"+more)
	return strings.TrimSuffix(url, "/notify") + "/return", app, log
}

func TestReturnTrue(t *testing.T) {
	url, app, log := startReturn(t, "ignore lang theme", "")
	for name, query := range map[string]string{
		"SHA-256":             signedPayment(),
		"MD5":                 changed(paymentForm(), referenceField{"signType", "MD5"}).signedForm(testNotifyKey, digestMD5),
		"own parameters":      "lang=zh&" + signedPayment() + "&theme=dark&lang=en&th%65me=x",
		"own parameters last": signedPayment() + "&lang",
		"empty pairs":         "&&" + signedPayment() + "&x=&",
	} {
		t.Run(name, func(t *testing.T) {
			a := do(t, newRequest(t, "GET", url+"?"+query, "", "Cookie: c=d"))
			if a.status != 200 || a.body != "thank you" || a.header.Get("Set-Cookie") != "a=b" {
				t.Fatalf("answer: %+v", a)
			}
			if got := a.header["Referrer-Policy"]; len(got) != 1 || got[0] != "no-referrer" {
				t.Errorf("Referrer-Policy: %v", got)
			}
			got := app.one(t)
			if got.method != "GET" || got.uri != "/return?"+query || got.header.Get("Cookie") != "c=d" {
				t.Errorf("the app got %s %s %v", got.method, got.uri, got.header)
			}
			if want := "<90012018092009395265848826440|TRADE_SUCCESS|1|shop|com.chinaums.payment.succeeded|" + paymentID + "|>"; got.header.Get("X-Order") != want {
				t.Errorf("placeholders: %s", got.header.Get("X-Order"))
			}
		})
	}
	t.Run("HEAD", func(t *testing.T) {
		if a := do(t, newRequest(t, "HEAD", url+"?"+signedPayment(), "")); a.status != 200 || a.header.Get("Referrer-Policy") != "no-referrer" {
			t.Errorf("answer: %+v", a)
		}
	})
	if own := log.lines(`"logger":"http.handlers.chinaums_return"`); len(own) != 0 {
		t.Errorf("a true return is logged: %s", own)
	}
}

func TestReturnFalse(t *testing.T) {
	good := signedPayment()
	sign := good[strings.LastIndex(good, "=")+1:]
	url, app, log := startReturn(t, "ignore lang", "")
	dressedURL := "" // the second half runs with handle_errors
	tests := map[string]struct {
		method, query string
		status        int
		reason        string
	}{
		"changed":         {"GET", strings.Replace(good, "totalAmount=1&", "totalAmount=2&", 1), 403, "signature"},
		"added":           {"GET", good + "&y=1", 403, "signature"},
		"unsigned":        {"GET", paymentForm().form(), 403, "missing_signature"},
		"nothing":         {"GET", "", 403, "missing_signature"},
		"repeated":        {"GET", good + "&status=TRADE_SUCCESS", 403, "repeated_parameter"},
		"broken encoding": {"GET", good + "&y=%zz", 403, "encoding"},
		"cut in two ways": {"GET", signedPayment(referenceField{"orderDesc", "tea&status=TRADE_SUCCESS"}), 403, "ambiguous"},
		"an odd name":     {"GET", signedPayment(referenceField{"a&b", "1"}), 403, "ambiguous"},
		"a bill within":   {"GET", signedPayment(referenceField{"billNo", "1"}), 403, "mixed"},
		"unknown digest":  {"GET", signedPayment(referenceField{"signType", "SM3"}), 403, "sign_type"},
		"JSON as a query": {"GET", "{%22sign%22:%221%22}", 403, "missing_signature"},
		"too many": {"GET", func() string {
			var b strings.Builder
			for i := range 1100 {
				fmt.Fprintf(&b, "%x=1&", i)
			}
			return b.String()
		}() + good, 403, "too_many"},
		"POST": {"POST", good, 405, "method"},
	}
	run := func(t *testing.T, url string, body string) {
		for name, test := range tests {
			t.Run(name, func(t *testing.T) {
				a := do(t, newRequest(t, test.method, url+"?"+test.query, ""))
				if a.status != test.status || a.body != body {
					t.Fatalf("answer: %d %q", a.status, a.body)
				}
				if a.header.Get("Referrer-Policy") != "no-referrer" {
					t.Errorf("Referrer-Policy: %v", a.header["Referrer-Policy"])
				}
				if (a.header.Get("Allow") != "") != (test.status == 405) {
					t.Errorf("Allow: %v", a.header["Allow"])
				}
				if len(app.seen()) != 0 {
					t.Error("the page was shown")
				}
				if len(log.lines(`"level":"warn"`, "return page refused", `"reason":"`+test.reason+`"`)) == 0 {
					t.Errorf("the log does not say %s", test.reason)
				}
			})
		}
	}
	run(t, url, "")
	own := strings.Join(log.lines(`"logger":"http.handlers.chinaums_return"`), "")
	for _, secret := range []string{sign, "2088702631618837", "119***@qq.com", "90012018092009395265848826440", "sign=", testNotifyKey} {
		if strings.Contains(own, secret) {
			t.Errorf("our own log lines hold %q", secret)
		}
	}

	t.Run("too large", func(t *testing.T) { // a server with the usual limits does not let it come so far
		rejected := new(Return).verifyQuery(new(merchant), acquireFields(), strings.Repeat("x", maxReturnQuery+1))
		if rejected == nil || rejected.Status != 403 || rejected.Reason != "too_large" {
			t.Errorf("rejected: %+v", rejected)
		}
	})
	t.Run("dressed by handle_errors", func(t *testing.T) {
		dressedURL, app, log = startReturn(t, "ignore lang", "\thandle_errors {\n\t\trespond \"sorry {err.status_code}\"\n\t}")
		test := tests["changed"]
		tests = map[string]struct {
			method, query string
			status        int
			reason        string
		}{"changed": test}
		run(t, dressedURL, "sorry 403")
	})
}

// TestReturnMerchants: the same rules as a notify's about whose it is.
func TestReturnMerchants(t *testing.T) {
	setKeys(t)
	app := newMerchantApp(t, nil)
	address := freeAddress(t)
	startCaddy(t, `{
	chinaums {
		merchant shop {
			notify_key {env.UMS_NOTIFY_KEY}
			mid        898201612345678
			sign_types sha256
		}
		merchant other {
			notify_key {env.UMS_APP_KEY}
		}
	}
}
`+notifySite(address, "chinaums_return /shop shop\n\tchinaums_return /any/* {http.request.uri.path.1}\n\treverse_proxy "+app.URL))
	for name, test := range map[string]struct {
		path, query string
		status      int
	}{
		"own mid":              {"/shop", signedPayment(), 200},
		"foreign mid":          {"/shop", signedPayment(referenceField{"mid", "1"}), 403},
		"MD5 is not accepted":  {"/shop", changed(paymentForm(), referenceField{"signType", "MD5"}).signedForm(testNotifyKey, digestMD5), 403},
		"by placeholder":       {"/any/shop", signedPayment(), 200},
		"nobody":               {"/any/nobody", signedPayment(), 404},
		"one without a mid":    {"/any/other", paymentForm().signedForm(testAppKey, digestSHA256), 404},
		"nothing of the query": {"/shop", "", 403},
	} {
		t.Run(name, func(t *testing.T) {
			if a := do(t, newRequest(t, "GET", "http://"+address+test.path+"?"+test.query, "")); a.status != test.status {
				t.Errorf("status %d, want %d", a.status, test.status)
			}
			if seen := app.seen(); (len(seen) == 1) != (test.status == 200) {
				t.Errorf("the page was shown %d times", len(seen))
			}
		})
	}
}

func TestReturnOptions(t *testing.T) {
	setKeys(t)
	for name, test := range map[string]struct{ directive, message string }{
		"good":             {"chinaums_return shop {\n\t\tignore lang theme\n\t}", ""},
		"unknown option":   {"chinaums_return {\n\t\tformat json\n\t}", `chinaums_return: unknown option "format"`},
		"ignore nothing":   {"chinaums_return {\n\t\tignore\n\t}", "chinaums_return: ignore needs a value"},
		"ignore twice":     {"chinaums_return {\n\t\tignore a\n\t\tignore b\n\t}", "chinaums_return: ignore is given twice"},
		"ignore sign":      {"chinaums_return {\n\t\tignore sign\n\t}", "ignore: sign decides about money"},
		"ignore STATUS":    {"chinaums_return {\n\t\tignore STATUS\n\t}", "ignore: STATUS decides about money"},
		"unknown merchant": {"chinaums_return other", "merchant other does not exist"},
		"surplus":          {"chinaums_return shop x", `surplus argument "x"`},
	} {
		t.Run(name, func(t *testing.T) {
			got := loadError(t, merchantOptions(noPlatform)+notifySite("127.0.0.1:1", test.directive))
			if (got == "") != (test.message == "") || !strings.Contains(got, test.message) {
				t.Errorf("error %q, want %q", got, test.message)
			}
		})
	}
}

// TestReturnAccessLog: the access log has the entry, in the place where it would be, without the query.
func TestReturnAccessLog(t *testing.T) {
	good := signedPayment()
	for name, test := range map[string]struct {
		site   string
		query  string
		logger string
		status float64
		fields map[string]string
	}{
		"true":       {"log", "?" + good, "http.log.access", 200, map[string]string{"merchant": "shop", "order": "90012018092009395265848826440"}},
		"false":      {"log", "?" + good + "&y=1", "http.log.access", 403, map[string]string{"merchant": "shop", "reason": "signature"}},
		"no query":   {"log", "", "http.log.access", 403, map[string]string{"merchant": "shop", "reason": "missing_signature"}},
		"named":      {"log {\n\t\toutput test_log %s\n\t}", "?" + good, "http.log.access.log0", 200, map[string]string{"merchant": "shop"}},
		"log_name":   {"log\n\tlog_name special", "?" + good, "http.log.access.special", 200, map[string]string{"merchant": "shop"}},
		"page fails": {"log\n\terror /return 502", "?" + good, "http.log.access", 502, map[string]string{"merchant": "shop"}},
	} {
		t.Run(name, func(t *testing.T) {
			app := newMerchantApp(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "thank you") })
			setKeys(t)
			address := freeAddress(t)
			second := newLogged(t)
			site := strings.ReplaceAll(test.site, "%s", second.id)
			log := startCaddy(t, merchantOptions(noPlatform)+
				"http://"+address+" {\n\tbind 127.0.0.1\n\tchinaums_return /return\n\t"+site+"\n\treverse_proxy "+app.URL+"\n}\n")
			do(t, newRequest(t, "GET", "http://"+address+"/return"+test.query, ""))
			lines := func() []string {
				return append(log.lines(`"logger":"http.log.access`), second.lines(`"logger":"http.log.access`)...)
			}
			eventually(t, "the access log", func() bool { return len(lines()) > 0 })
			if len(lines()) != 1 {
				t.Fatalf("%d entries: %s", len(lines()), lines())
			}
			var entry struct {
				Logger, Msg string
				Status      float64
				Size        int
				Request     struct {
					URI, Method string
				}
			}
			all := map[string]any{}
			if err := json.Unmarshal([]byte(lines()[0]), &entry); err != nil {
				t.Fatal(err)
			}
			_ = json.Unmarshal([]byte(lines()[0]), &all)
			if entry.Logger != test.logger || entry.Msg != "handled request" || entry.Status != test.status || entry.Request.URI != "/return" || entry.Request.Method != "GET" {
				t.Errorf("entry: %s", lines()[0])
			}
			if test.status == 200 && entry.Size != len("thank you") {
				t.Errorf("size %d", entry.Size)
			}
			for name, value := range test.fields {
				if all[name] != value {
					t.Errorf("%s: %v, want %s", name, all[name], value)
				}
			}
			// Caddy at level DEBUG, as here, logs requests in other lines too; those are not an access log.
			if strings.Contains(lines()[0], "sign=") || strings.Contains(lines()[0], "2088702631618837") {
				t.Errorf("the query is in the access log: %s", lines()[0])
			}
		})
	}
	for name, onErrors := range map[string]string{"page fails": "", "page fails, handle_errors": "\n\thandle_errors {\n\t\trespond dressed\n\t}"} {
		t.Run(name+", other lines", func(t *testing.T) {
			setKeys(t)
			address := freeAddress(t)
			log := startCaddy(t, merchantOptions(noPlatform)+"http://"+address+" {\n\tbind 127.0.0.1\n\tlog\n\tchinaums_return /return\n\terror /return 502"+onErrors+"\n}\n")
			got := do(t, newRequest(t, "GET", "http://"+address+"/return?"+good, ""))
			if got.status != 502 && onErrors == "" || got.header.Get("Referrer-Policy") != "no-referrer" || (onErrors != "") != (got.body == "dressed") {
				t.Errorf("%d %v %s", got.status, got.header, got.body)
			}
			eventually(t, "the access log", func() bool { return len(log.lines(`"logger":"http.log.access"`)) == 1 })
			if onErrors == "" && len(log.lines(`"level":"error"`, "return page failed", `"order":"90012018092009395265848826440"`)) != 1 {
				t.Error("the failure is not logged")
			}
			for _, line := range log.lines("sign=") {
				if !strings.Contains(line, `"level":"debug"`) {
					t.Errorf("the query is logged: %s", line)
				}
			}
		})
	}
	t.Run("page breaks off", func(t *testing.T) {
		app := newMerchantApp(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, "thank")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		})
		setKeys(t)
		address := freeAddress(t)
		log := startCaddy(t, merchantOptions(noPlatform)+"http://"+address+" {\n\tbind 127.0.0.1\n\tlog\n\tchinaums_return /return\n\treverse_proxy "+app.URL+"\n}\n")
		res, err := testClient.Do(newRequest(t, "GET", "http://"+address+"/return?"+good, ""))
		if err == nil {
			_, err = io.ReadAll(res.Body)
			res.Body.Close()
		}
		if err == nil {
			t.Error("the page came whole")
		}
		eventually(t, "the access log", func() bool {
			return len(log.lines(`"logger":"http.log.access"`, `"order":"90012018092009395265848826440"`)) == 1
		})
	})
	t.Run("no access log", func(t *testing.T) {
		setKeys(t)
		address := freeAddress(t)
		log := startCaddy(t, merchantOptions(noPlatform)+"http://"+address+" {\n\tbind 127.0.0.1\n\tchinaums_return /return\n\trespond ok\n}\n")
		do(t, newRequest(t, "GET", "http://"+address+"/return?"+good, ""))
		if lines := log.lines("http.log.access"); len(lines) != 0 {
			t.Errorf("entries: %s", lines)
		}
	})
}
