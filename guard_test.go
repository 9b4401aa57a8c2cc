package chinaums

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// checkGatewayAnswer checks that the gateway itself answered, in the platform's shape, and that header and body agree.
func checkGatewayAnswer(t testing.TB, a answer, status int, errCode, outcome string) {
	t.Helper()
	if a.status != status || a.header.Get("Gateway-Outcome") != outcome {
		t.Errorf("status %d, Gateway-Outcome %q; not %d, %q", a.status, a.header.Values("Gateway-Outcome"), status, outcome)
	}
	if got := a.header.Get("Content-Type"); got != "application/json; charset=utf-8" {
		t.Errorf("Content-Type %q", got)
	}
	var members map[string]any
	if err := json.Unmarshal([]byte(a.body), &members); err != nil {
		t.Fatalf("body %q: %v", a.body, err)
	}
	message, _ := members["errMsg"].(string)
	if len(members) != 3 || members["errCode"] != errCode || members["outcome"] != outcome {
		t.Errorf("body %s; not errCode %s, outcome %s", a.body, errCode, outcome)
	}
	if !regexp.MustCompile(`^.*\p{Han}.* / [a-zA-Z].*$`).MatchString(message) || !strings.HasPrefix(a.body, `{"errCode":"GATEWAY_`) {
		t.Errorf("body %s", a.body)
	}
	if wantAllow := status == 405; (a.header.Get("Allow") == "POST") != wantAllow {
		t.Errorf("Allow: %q", a.header.Get("Allow"))
	}
}

// failingHandler is a handler that fails as the test says.
type failingHandler struct {
	How string `json:"how,omitempty"`
}

func init() { caddy.RegisterModule(failingHandler{}) }

func (failingHandler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.test_failing", New: func() caddy.Module { return new(failingHandler) }}
}

func (f failingHandler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	w.Header().Set("X-Failed", "yes")
	switch f.How {
	case "panic":
		panic("the key is " + testAppKey)
	case "panic after":
		_ = next.ServeHTTP(&discard{}, r)
		panic("after")
	case "error":
		return caddyhttp.Error(418, fmt.Errorf("teapot"))
	case "bare error":
		return fmt.Errorf("bare")
	case "gateway error":
		return caddyhttp.Error(503, fmt.Errorf("not of the proxy"))
	case "gateway error after":
		_ = next.ServeHTTP(&discard{}, r)
		return caddyhttp.Error(503, fmt.Errorf("not of the proxy"))
	case "error after":
		_ = next.ServeHTTP(&discard{}, r)
		return fmt.Errorf("after")
	case "half":
		w.WriteHeader(200)
		_, _ = w.Write([]byte("half"))
		_ = http.NewResponseController(w).Flush()
		panic("half")
	case "nothing":
		return nil
	case "path":
		r.URL.Path, r.URL.RawPath = "/v1/token/access", ""
	case "method":
		r.Method = "GET"
	case "body":
		r.Body, r.ContentLength = http.NoBody, 0
	case "merchant":
		caddyhttp.SetVar(r.Context(), "merchant", "second")
	case "outcome":
		w.Header().Set("Gateway-Outcome", "not_sent")
	}
	return next.ServeHTTP(w, r)
}

// discard is a writer that keeps nothing.
type discard struct{ header http.Header }

func (d *discard) Header() http.Header {
	if d.header == nil {
		d.header = make(http.Header)
	}
	return d.header
}
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }
func (d *discard) WriteHeader(int)             {}

// gateway is a running Caddy with one site.
type gateway struct {
	url, address string
	log          *logged
}

// startGateway runs Caddy with merchants, each "name upstream [mid]", and a site. Handlers named by JSON cannot stand
// in a Caddyfile; `replace` puts them into the adapted text: `respond "X" 299` becomes the handler replace["X"].
func startGateway(t testing.TB, merchants []string, globals, site string, replace map[string]string) *gateway {
	t.Helper()
	setKeys(t)
	g := &gateway{address: freeAddress(t)}
	g.url = "http://" + g.address
	var b strings.Builder
	b.WriteString("{\n\tmetrics\n\t" + globals + "\n\tchinaums {\n")
	for _, m := range merchants {
		words := strings.Fields(m)
		fmt.Fprintf(&b, "merchant %s {\n app_id {env.UMS_APP_ID}\n app_key {env.UMS_APP_KEY}\n upstream %s\n", words[0], words[1])
		if len(words) > 2 {
			fmt.Fprintf(&b, "mid %s\n", words[2])
		}
		b.WriteString("}\n")
	}
	fmt.Fprintf(&b, "\t}\n}\nhttp://%s {\n bind 127.0.0.1\n log\n%s\n}\n", g.address, inForm(site))
	g.log = newLogged(t)
	config := strings.Replace(b.String(), "{\n", "{\n\tadmin off\n\tlog {\n\t\toutput test_log "+g.log.id+"\n\t\tformat json\n\t\tlevel DEBUG\n\t}\n", 1)
	text := string(adapt(t, config))
	for word, handler := range replace {
		var found bool
		text, found = replaceHandler(text, word, handler)
		if !found {
			t.Fatalf("no respond %q in %s", word, text)
		}
	}
	if err := caddy.Load([]byte(text), true); err != nil {
		t.Fatalf("loading: %v", err)
	}
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Errorf("stopping: %v", err)
		}
	})
	return g
}

func replaceHandler(text, word, handler string) (string, bool) {
	old := `{"body":"` + word + `","handler":"static_response","status_code":299}`
	return strings.ReplaceAll(text, old, handler), strings.Contains(text, old)
}

const jsonType = "Content-Type: application/json"

func (g *gateway) post(t testing.TB, path, body string, headers ...string) answer {
	t.Helper()
	return do(t, newRequest(t, "POST", g.url+path, body, append([]string{jsonType}, headers...)...))
}

// TestOutcomes holds every row of the outcome table.
func TestOutcomes(t *testing.T) { inEveryForm(t, testOutcomes) }

func testOutcomes(t *testing.T) {
	platform := newRawPlatform(t, func(c *exchange) bool {
		switch c.path() {
		case "/v1/cut":
			return false
		case "/v1/half-head":
			c.write("HTTP/1.1 200 OK\r\nContent-Le")
			return false
		case "/v1/half-body":
			c.write("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"errCode\":")
			return false
		case "/v1/half-chunk":
			c.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"err\r\n")
			return false
		case "/v1/garbage":
			c.write("220 smtp.example ESMTP \"SECRETANSWER\"\r\n")
			return false
		case "/v1/bad-header":
			c.write("HTTP/1.1 200 OK\r\nAuthorization \"SECRETANSWER\"\r\n\r\n")
			return false
		case "/v1/large":
			c.write("HTTP/1.1 200 OK\r\nContent-Length: 2001\r\n\r\n" + strings.Repeat("x", 2001))
			return false
		case "/v1/large-unannounced":
			c.write("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + strings.Repeat("x", 2001))
			return false
		case "/v1/just-right":
			c.write("HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n" + strings.Repeat("x", 2000))
			return true
		case "/v1/two-lengths":
			c.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{} ")
			return false
		case "/v1/switch":
			c.write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
			return false
		case "/v1/falsely-signed":
			c.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nAuthorization: " + testAuthorization("20260101000000", strings.Repeat("0", 32), "{ }") + "\r\n\r\n{}")
			return true
		case "/v1/signed-by-another":
			c.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nAuthorization: OPEN-BODY-SIG AppId=\"x\", Timestamp=\"20260101000000\", Nonce=\"1\", Signature=\"eA==\"\r\n\r\n{}")
			return true
		case "/v1/silent", "/v1/silent-body":
			if c.path() == "/v1/silent-body" {
				c.write("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"errCode\":")
			}
			c.waitForEnd()
			return false
		case "/v1/business":
			c.write("HTTP/1.1 200 OK\r\nContent-Length: 23\r\n\r\n{\"errCode\":\"BAD_SIGN\"} ")
			return true
		case "/v1/500":
			c.write("HTTP/1.1 500 Oops\r\nContent-Length: 4\r\nContent-Type: text/html\r\n\r\noops")
			return true
		}
		c.write("HTTP/1.1 200 OK\r\nContent-Length: 21\r\n\r\n{\"errCode\":\"SUCCESS\"}")
		return true
	})
	notTLS := newPlatformWithoutTLS(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and never says a word
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	dead := freeAddress(t)
	sub := func(name, options string) string {
		return "handle_path /" + name + "/* {\n chinaums_proxy " + options + "\n}\n"
	}
	chain := func(name string) string {
		return "handle_path /" + name + "/* {\n route {\n chinaums_guard shop\n respond \"" + strings.ToUpper(name) +
			"\" 299\n reverse_proxy {\n dynamic chinaums shop\n transport chinaums shop\n}\n}\n}\n"
	}
	site := "handle_errors {\n respond \"handle_errors ran\" 299\n}\n" +
		sub("shop", "shop {\n max_size 1KiB\n max_response 2000B\n}") + sub("impatient", "shop {\n timeout 1s\n}") +
		sub("dead", "dead") + sub("tls", "tls") + sub("hang", "hang {\n timeout 300ms\n}") + sub("hidden", "{vars.merchant}") +
		sub("far", "shop {\n dial_timeout 1ns\n}") +
		sub("foreign", "shop {\n allow 203.0.113.0/24\n}") +
		sub("token", "shop {\n token {env.GATEWAY_TOKEN} {env.GATEWAY_TOKEN_BEFORE}\n}") +
		sub("query", "shop {\n paths /v1/netpay/query\n}") +
		"handle_path /unguarded/* {\n reverse_proxy {\n dynamic chinaums shop\n transport chinaums shop\n}\n}\n" +
		"handle_path /alone/* {\n chinaums_guard shop\n}\n" +
		"handle_path /elsewhere/* {\n chinaums_guard shop\n reverse_proxy " + notTLS + " {\n transport chinaums shop\n}\n}\n" +
		"handle_path /others/* {\n chinaums_guard shop\n reverse_proxy {\n dynamic chinaums second\n transport chinaums second\n}\n}\n"
	replace := map[string]string{}
	for name, how := range map[string]string{
		"panic": "panic", "panicafter": "panic after", "error": "error", "bareerror": "bare error", "gatewayerror": "gateway error",
		"gatewayerrorafter": "gateway error after",
		"errorafter":        "error after", "nothing": "nothing", "rewrite": "path", "remethod": "method", "rebody": "body", "lie": "outcome",
	} {
		site += chain(name)
		replace[strings.ToUpper(name)] = `{"handler":"test_failing","how":"` + how + `"}`
	}
	t.Setenv("GATEWAY_TOKEN", "current-token")
	t.Setenv("GATEWAY_TOKEN_BEFORE", "previous-token")
	g := startGateway(t, []string{"shop " + platform.url, "second " + platform.url + " 898", "dead http://" + dead, "tls https://" + notTLS, "hang https://" + silent.Addr().String()}, "", site, replace)

	cases := []struct {
		name, method, path, body string
		headers                  []string
		status                   int
		errCode, outcome, reason string
	}{
		{"not allowed", "POST", "/foreign/v1/x", "{}", nil, 403, "GATEWAY_FORBIDDEN", "not_sent", "allow"},
		{"names a foreign address", "POST", "/shop/v1/x", "{}", []string{"X-Forwarded-For: 203.0.113.7"}, 403, "GATEWAY_FORBIDDEN", "not_sent", "named_address"},
		{"a browser", "POST", "/shop/v1/x", "{}", []string{"Origin: https://x.example"}, 403, "GATEWAY_FORBIDDEN", "not_sent", "browser"},
		{"a browser without Origin", "POST", "/shop/v1/x", "{}", []string{"Sec-Fetch-Mode: no-cors"}, 403, "GATEWAY_FORBIDDEN", "not_sent", "browser"},
		{"no token", "POST", "/token/v1/x", "{}", nil, 403, "GATEWAY_FORBIDDEN", "not_sent", "token"},
		{"a false token", "POST", "/token/v1/x", "{}", []string{"Authorization: Bearer currentToken"}, 403, "GATEWAY_FORBIDDEN", "not_sent", "token"},
		{"the token", "POST", "/token/v1/x", "{}", []string{"Authorization: Bearer current-token"}, 200, "", "answered", ""},
		{"the previous token", "POST", "/token/v1/x", "{}", []string{"Authorization: bearer previous-token"}, 200, "", "answered", ""},
		{"a path that is not listed", "POST", "/query/v1/netpay/refund", "{}", nil, 403, "GATEWAY_FORBIDDEN", "not_sent", "path"},
		{"a path that is listed", "POST", "/query/v1/netpay/query", "{}", nil, 200, "", "answered", ""},
		{"a path that is listed, encoded", "POST", "/query/v1/%6eetpay/query", "{}", nil, 200, "", "answered", ""},
		{"tokens", "POST", "/shop/v1/token/access", "{}", nil, 403, "GATEWAY_FORBIDDEN", "not_sent", "path"},
		{"tokens, encoded", "POST", "/shop/v1/%74oken%2faccess", "{}", nil, 403, "GATEWAY_FORBIDDEN", "not_sent", "path"},
		{"dots, encoded", "POST", "/shop/v1/x/%2e%2e/token/access", "{}", nil, 403, "GATEWAY_FORBIDDEN", "not_sent", "path"},
		{"no guard", "POST", "/unguarded/v1/x", "{}", nil, 403, "GATEWAY_FORBIDDEN", "not_sent", "no_guard"},
		{"a foreign host", "POST", "/elsewhere/v1/x", "{}", nil, 403, "GATEWAY_FORBIDDEN", "not_sent", "host"},
		{"another merchant's transport", "POST", "/others/v1/x", "{}", nil, 403, "GATEWAY_FORBIDDEN", "not_sent", "other_merchant"},
		{"a path that was rewritten behind the guard", "POST", "/rewrite/v1/x", "{}", nil, 403, "GATEWAY_FORBIDDEN", "not_sent", "path"},
		{"a method that was rewritten behind the guard", "POST", "/remethod/v1/x", "{}", nil, 403, "GATEWAY_FORBIDDEN", "not_sent", "method"},
		{"no such merchant", "POST", "/hidden/v1/x", "{}", nil, 404, "GATEWAY_NO_MERCHANT", "not_sent", "no_merchant"},
		{"GET", "GET", "/shop/v1/x", "", nil, 405, "GATEWAY_BAD_REQUEST", "not_sent", "method"},
		{"PUT", "PUT", "/shop/v1/x", "{}", nil, 405, "GATEWAY_BAD_REQUEST", "not_sent", "method"},
		{"early data that a front server passed on", "POST", "/shop/v1/x", "{}", []string{"Early-Data: 1"}, 425, "GATEWAY_BAD_REQUEST", "not_sent", "early_data"},
		{"not JSON", "POST", "/shop/v1/x", "{}", []string{"Content-Type: text/plain"}, 415, "GATEWAY_BAD_REQUEST", "not_sent", "content_type"},
		{"too large", "POST", "/shop/v1/x", strings.Repeat("x", 1025), nil, 413, "GATEWAY_BAD_REQUEST", "not_sent", "too_large"},
		{"exactly max_size", "POST", "/shop/v1/x", strings.Repeat("x", 1024), nil, 200, "", "answered", ""},
		{"empty", "POST", "/shop/v1/x", "", nil, 400, "GATEWAY_BAD_REQUEST", "not_sent", "empty_body"},
		{"refused", "POST", "/dead/v1/x", "{}", nil, 502, "GATEWAY_UNREACHABLE", "not_sent", "unreachable"},
		{"dial timeout", "POST", "/far/v1/x", "{}", nil, 502, "GATEWAY_UNREACHABLE", "not_sent", "unreachable"},
		{"TLS failed", "POST", "/tls/v1/x", "{}", nil, 502, "GATEWAY_UNREACHABLE", "not_sent", "unreachable"},
		{"TLS never ends", "POST", "/hang/v1/x", "{}", nil, 502, "GATEWAY_UNREACHABLE", "not_sent", "unreachable"},
		{"cut after sending", "POST", "/shop/v1/cut", "{}", nil, 502, "GATEWAY_BAD_RESPONSE", "unknown", "cut"},
		{"cut in the answer's head", "POST", "/shop/v1/half-head", "{}", nil, 502, "GATEWAY_BAD_RESPONSE", "unknown", "cut"},
		{"cut in the answer's body", "POST", "/shop/v1/half-body", "{}", nil, 502, "GATEWAY_BAD_RESPONSE", "unknown", "cut"},
		{"cut between chunks", "POST", "/shop/v1/half-chunk", "{}", nil, 502, "GATEWAY_BAD_RESPONSE", "unknown", "cut"},
		{"no HTTP", "POST", "/shop/v1/garbage", "{}", nil, 502, "GATEWAY_BAD_RESPONSE", "unknown", "cut"},
		{"a broken header", "POST", "/shop/v1/bad-header", "{}", nil, 502, "GATEWAY_BAD_RESPONSE", "unknown", "cut"},
		{"two lengths", "POST", "/shop/v1/two-lengths", "{}", nil, 502, "GATEWAY_BAD_RESPONSE", "unknown", "cut"},
		{"answer too large", "POST", "/shop/v1/large", "{}", nil, 502, "GATEWAY_BAD_RESPONSE", "unknown", "answer_too_large"},
		{"answer too large, of unknown length", "POST", "/shop/v1/large-unannounced", "{}", nil, 502, "GATEWAY_BAD_RESPONSE", "unknown", "answer_too_large"},
		{"answer exactly max_response", "POST", "/shop/v1/just-right", "{}", nil, 200, "", "answered", ""},
		{"switching protocols", "POST", "/shop/v1/switch", "{}", nil, 502, "GATEWAY_BAD_RESPONSE", "unknown", "switching_protocols"},
		{"falsely signed", "POST", "/shop/v1/falsely-signed", "{}", nil, 502, "GATEWAY_BAD_RESPONSE", "unknown", "answer_signature"},
		{"signed by another", "POST", "/shop/v1/signed-by-another", "{}", nil, 502, "GATEWAY_BAD_RESPONSE", "unknown", "answer_signature"},
		{"no answer in time", "POST", "/impatient/v1/silent", "{}", nil, 504, "GATEWAY_TIMEOUT", "unknown", "timeout"},
		{"no whole answer in time", "POST", "/impatient/v1/silent-body", "{}", nil, 504, "GATEWAY_TIMEOUT", "unknown", "timeout"},
		{"panic before sending", "POST", "/panic/v1/x", "{}", nil, 500, "GATEWAY_INTERNAL", "not_sent", "panic"},
		{"panic after sending", "POST", "/panicafter/v1/x", "{}", nil, 500, "GATEWAY_INTERNAL", "unknown", "panic"},
		{"panic after an unknown outcome", "POST", "/panicafter/v1/cut", "{}", nil, 500, "GATEWAY_INTERNAL", "unknown", "panic"},
		{"error before sending", "POST", "/error/v1/x", "{}", nil, 500, "GATEWAY_INTERNAL", "not_sent", "internal"},
		{"bare error before sending", "POST", "/bareerror/v1/x", "{}", nil, 500, "GATEWAY_INTERNAL", "not_sent", "internal"},
		{"an error like the proxy's own, before sending", "POST", "/gatewayerror/v1/x", "{}", nil, 502, "GATEWAY_UNREACHABLE", "not_sent", "no_upstream"},
		{"an error like the proxy's own, after sending", "POST", "/gatewayerrorafter/v1/x", "{}", nil, 500, "GATEWAY_INTERNAL", "unknown", "internal"},
		{"error after sending", "POST", "/errorafter/v1/x", "{}", nil, 500, "GATEWAY_INTERNAL", "unknown", "internal"},
		{"nobody answers", "POST", "/nothing/v1/x", "{}", nil, 500, "GATEWAY_INTERNAL", "not_sent", "no_handler"},
		{"no handler behind the guard", "POST", "/alone/v1/x", "{}", nil, 500, "GATEWAY_INTERNAL", "not_sent", "no_handler"},
		{"a business error", "POST", "/shop/v1/business", "{}", nil, 200, "", "answered", ""},
		{"the platform's own 500", "POST", "/shop/v1/500", "{}", nil, 500, "", "answered", ""},
		{"a body that was rewritten behind the guard", "POST", "/rebody/v1/x", "{}", nil, 200, "", "answered", ""},
		{"a handler that lies about the outcome", "POST", "/lie/v1/x", "{}", nil, 200, "", "answered", ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			before := len(g.log.lines(`"reason":"` + c.reason + `"`))
			headers := c.headers
			if !strings.Contains(strings.Join(headers, "\n"), "Content-Type: ") {
				headers = append([]string{jsonType}, headers...)
			}
			got := len(platform.requests())
			a := do(t, newRequest(t, c.method, g.url+c.path, c.body, headers...))
			for tries := 0; c.reason == "timeout" && len(platform.requests()) == got && tries < 10; tries++ {
				// A busy machine may not send a call within the time that it has.
				before = len(g.log.lines(`"reason":"` + c.reason + `"`))
				a = do(t, newRequest(t, c.method, g.url+c.path, c.body, headers...))
			}
			if c.errCode == "" {
				if a.status != c.status || len(a.header["Gateway-Outcome"]) != 1 || a.header.Get("Gateway-Outcome") != c.outcome {
					t.Errorf("status %d, Gateway-Outcome %q, body %s", a.status, a.header["Gateway-Outcome"], a.body)
				}
				return
			}
			checkGatewayAnswer(t, a, c.status, c.errCode, c.outcome)
			if a.header.Get("X-Failed") != "" {
				t.Error("a header of an answer that did not come")
			}
			if a.header.Get("Cache-Control") != "no-store" {
				t.Errorf("Cache-Control %q", a.header.Get("Cache-Control"))
			}
			lines := g.log.lines(`"reason":"` + c.reason + `"`)
			if len(lines) != before+1 {
				t.Errorf("%d log lines with reason %s", len(lines)-before, c.reason)
			}
		})
	}
	log := g.log.String()
	for _, secret := range []string{testAppKey, "current-token", "previous-token", "SECRETANSWER", "OPEN-BODY-SIG", "Signature="} {
		if strings.Contains(log, secret) {
			t.Errorf("the log holds %s", secret)
		}
	}
	if lines := g.log.lines("call outcome unknown", `"level":"warn"`); len(lines) == 0 {
		t.Error("no WARN for an unknown outcome")
	}
	if lines := g.log.lines("call failed", `"level":"error"`); len(lines) == 0 {
		t.Error("no line for an answer of the gateway from 500 on")
	}
}

// TestGuardBehindGuard: another guard behind the guard, or another gateway, made the call, and the guard in front answered
// not_sent for a call that had been sent, though the body said unknown.
func TestGuardBehindGuard(t *testing.T) {
	platform := newRawPlatform(t, func(c *exchange) bool {
		if c.path() == "/v1/cut" {
			return false
		}
		c.write("HTTP/1.1 200 OK\r\nContent-Length: 21\r\n\r\n{\"errCode\":\"SUCCESS\"}")
		return true
	})
	other := newRawPlatform(t, func(c *exchange) bool {
		outcome := "answered"
		switch c.path() {
		case "/v1/dies":
			return false
		case "/v1/cut":
			outcome = "not_sent\r\nGateway-Outcome: unknown"
		}
		c.write("HTTP/1.1 200 OK\r\nGateway-Outcome: " + outcome + "\r\nContent-Length: 2\r\n\r\n{}")
		return true
	})
	long := "reverse_proxy {\n dynamic chinaums shop\n transport chinaums shop\n}\n"
	dead := "reverse_proxy {\n dynamic chinaums dead\n transport chinaums dead\n}\n"
	site := "header Gateway-Outcome answered\n"
	for name, behind := range map[string]string{
		"proxy": "chinaums_proxy shop\n", "guard": "chinaums_guard shop\n " + long, "guards": "chinaums_guard shop\n chinaums_guard shop\n " + long,
		"other": "reverse_proxy " + strings.TrimPrefix(other.url, "http://") + "\n", "none": "respond \"{}\"\n", "down": "reverse_proxy " + freeAddress(t) + "\n", "dead": "chinaums_guard dead\n " + dead,
	} {
		site += "handle_path /" + name + "/* {\n route {\n chinaums_guard shop\n " + behind + "}\n}\n"
	}
	g := startGateway(t, []string{"shop " + platform.url, "dead http://" + freeAddress(t)}, "", site, nil)
	for path, want := range map[string]string{
		"/proxy/v1/x": "answered", "/proxy/v1/cut": "unknown", "/guard/v1/x": "answered", "/guard/v1/cut": "unknown",
		"/guards/v1/x": "answered", "/guards/v1/cut": "unknown", "/other/v1/x": "answered", "/other/v1/cut": "unknown",
		"/other/v1/dies": "unknown", "/down/v1/x": "not_sent", "/none/v1/x": "not_sent", "/dead/v1/x": "not_sent",
	} {
		a := g.post(t, path, "{}")
		if got := a.header.Values("Gateway-Outcome"); len(got) != 1 || got[0] != want {
			t.Errorf("%s: Gateway-Outcome %q, want %s; body %s", path, got, want, a.body)
		}
		eventually(t, path+": an entry of the access log with outcome "+want, func() bool {
			return len(g.log.lines("http.log.access", `"uri":"`+path+`"`, `"outcome":"`+want+`"`)) == 1
		})
	}
}

// TestRefusedBeforeTheBody: who is refused is told so at once, and cannot hold the connection by a body that he
// announces and never sends.
func TestRefusedBeforeTheBody(t *testing.T) { inEveryForm(t, testRefusedBeforeTheBody) }

func testRefusedBeforeTheBody(t *testing.T) {
	g := startGateway(t, []string{"shop " + noPlatform}, "", "chinaums_proxy shop {\npaths /v1/netpay/query\nmax_size 1KiB\ntimeout 300ms\n}", nil)
	for name, test := range map[string]struct {
		path, head string
		status     int
	}{
		"browser":          {"/v1/netpay/query", jsonType + "\r\nOrigin: x\r\nContent-Length: 100", 403},
		"browser, chunked": {"/v1/netpay/query", jsonType + "\r\nOrigin: x\r\nTransfer-Encoding: chunked", 403},
		"path":             {"/v1/netpay/refund", jsonType + "\r\nContent-Length: 100", 403},
		"type":             {"/v1/netpay/query", "Content-Type: text/plain\r\nContent-Length: 100", 415},
		"too large":        {"/v1/netpay/query", jsonType + "\r\nContent-Length: 100000", 413},
		"late":             {"/v1/netpay/query", jsonType + "\r\nContent-Length: 100", 400},
	} {
		t.Run(name, func(t *testing.T) {
			status := endOfEarlyAnswer(t, g.address, "POST "+test.path+" HTTP/1.1\r\nHost: "+g.address+"\r\n"+test.head+"\r\n\r\n")
			if status != test.status {
				t.Errorf("status %d, want %d", status, test.status)
			}
		})
	}
}

// endOfEarlyAnswer sends the head of a request and none of its body, reads the answer, and waits for the end of the
// connection: were it kept, what comes of the body later would be taken for another request.
func endOfEarlyAnswer(t *testing.T, address, head string) (status int) {
	t.Helper()
	connection, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	_ = connection.SetDeadline(time.Now().Add(time.Minute))
	if _, err = io.WriteString(connection, head); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(connection)
	res, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	defer res.Body.Close()
	if _, err = io.ReadAll(res.Body); err != nil {
		t.Error(err)
	}
	if _, err = in.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("the connection is kept: %v", err)
	}
	return res.StatusCode
}

// TestAbortedAnswer: when the head is out and the rest cannot follow, the connection is cut; a whole answer would lie.
func TestAbortedAnswer(t *testing.T) {
	platform := newRawPlatform(t, func(c *exchange) bool { c.write(answered("{}")); return true })
	g := startGateway(t, []string{"shop " + platform.url}, "", "route {\n chinaums_guard\n respond \"HALF\" 299\n}",
		map[string]string{"HALF": `{"handler":"test_failing","how":"half"}`})
	res, err := testClient.Do(newRequest(t, "POST", g.url+"/v1/x", "{}", jsonType))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if _, err = readAll(res.Body); err == nil {
		t.Error("the answer looks whole")
	}
	if lines := g.log.lines(`"reason":"panic"`); len(lines) != 1 {
		t.Errorf("log lines: %v", lines)
	}
}

// TestOuterHeaders: what a handler in front of the guard has set stays on the gateway's own answers.
func TestOuterHeaders(t *testing.T) { inEveryForm(t, testOuterHeaders) }

func testOuterHeaders(t *testing.T) {
	g := startGateway(t, []string{"shop http://" + freeAddress(t)}, "", "header X-Outer yes\nchinaums_proxy", nil)
	for _, method := range []string{"GET", "POST"} {
		a := do(t, newRequest(t, method, g.url+"/v1/x", "{}", jsonType))
		if a.header.Get("X-Outer") != "yes" {
			t.Errorf("%s: %v", method, a.header)
		}
	}
}

// TestPlaceholderMerchant: a name that the request tells reaches only merchants that have mid.
func TestPlaceholderMerchant(t *testing.T) { inEveryForm(t, testPlaceholderMerchant) }

func testPlaceholderMerchant(t *testing.T) {
	platform := newRawPlatform(t, func(c *exchange) bool { c.write(answered("{}")); return true })
	g := startGateway(t, []string{"first " + platform.url + " 1", "second " + platform.url + " 2", "hidden " + platform.url}, "", `
vars merchant {header.X-Merchant}
@change path /v1/change
route {
	chinaums_guard {vars.merchant}
	handle @change {
		respond "CHANGE" 299
	}
	reverse_proxy {
		dynamic chinaums {vars.merchant}
		transport chinaums {vars.merchant}
	}
}`, map[string]string{"CHANGE": `{"handler":"test_failing","how":"merchant"}`})
	for name, outcome := range map[string]string{"first": "answered", "second": "answered"} {
		if a := g.post(t, "/v1/x", "{}", "X-Merchant: "+name); a.header.Get("Gateway-Outcome") != outcome {
			t.Errorf("%s: %+v", name, a)
		}
	}
	for _, name := range []string{"hidden", "", "First", "third", "first,", "{env.UMS_APP_KEY}"} {
		checkGatewayAnswer(t, g.post(t, "/v1/x", "{}", "X-Merchant: "+name), 404, "GATEWAY_NO_MERCHANT", "not_sent")
	}
	// Whoever changes the merchant behind the guard gets no signature of the other one.
	before := len(platform.requests())
	checkGatewayAnswer(t, g.post(t, "/v1/change", "{}", "X-Merchant: first"), 403, "GATEWAY_FORBIDDEN", "not_sent")
	if len(platform.requests()) != before {
		t.Error("the platform was called")
	}
}

// TestUnixPeer: the peer of a Unix socket counts as this machine.
func TestUnixPeer(t *testing.T) {
	platform := newRawPlatform(t, func(c *exchange) bool { c.write(answered("{}")); return true })
	directory, err := os.MkdirTemp("", "ums") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(directory)
	socket := filepath.Join(directory, "s")
	setKeys(t)
	startCaddy(t, merchantOptions(platform.url)+"http://gateway.test {\n bind unix/"+socket+"\n chinaums_proxy\n}\n")
	connection, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	fmt.Fprint(connection, "POST /v1/x HTTP/1.1\r\nHost: gateway.test\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
	text, _ := readAll(connection)
	if !strings.Contains(text, "Gateway-Outcome: answered") {
		t.Errorf("%s", text)
	}
}

// TestAccessLogAndPlaceholders: what an operator finds of a call.
func TestAccessLogAndPlaceholders(t *testing.T) { inEveryForm(t, testAccessLogAndPlaceholders) }

func testAccessLogAndPlaceholders(t *testing.T) {
	platform := newRawPlatform(t, func(c *exchange) bool {
		if c.path() == "/v1/cut" {
			return false
		}
		c.write(answered(`{"errCode":"NO_ORDER"}`))
		return true
	})
	g := startGateway(t, []string{"shop " + platform.url}, "", `
log_append seen_merchant {http.chinaums.merchant}
log_append seen_outcome {http.chinaums.outcome}
log_append seen_err_code {http.chinaums.err_code}
log_append seen_reason {http.chinaums.reason}
chinaums_proxy`, nil)
	g.post(t, "/v1/x", `{"merOrderId":"327M1"}`)
	g.post(t, "/v1/cut", `{"merOrderId":"327M2"}`)
	do(t, newRequest(t, "GET", g.url+"/v1/x", ""))
	for _, words := range [][]string{
		{`"merchant":"shop"`, `"outcome":"answered"`, `"errcode":"NO_ORDER"`, `"order":"327M1"`, `"seen_merchant":"shop"`, `"seen_outcome":"answered"`, `"seen_err_code":"NO_ORDER"`},
		{`"merchant":"shop"`, `"outcome":"unknown"`, `"errcode":"GATEWAY_BAD_RESPONSE"`, `"order":"327M2"`, `"seen_merchant":"shop"`, `"seen_outcome":"unknown"`, `"seen_err_code":"GATEWAY_BAD_RESPONSE"`, `"seen_reason":"cut"`},
		{`"merchant":"shop"`, `"outcome":"not_sent"`, `"errcode":"GATEWAY_BAD_REQUEST"`, `"seen_merchant":"shop"`, `"seen_outcome":"not_sent"`, `"seen_err_code":"GATEWAY_BAD_REQUEST"`, `"seen_reason":"method"`},
	} {
		words := append([]string{`"logger":"http.log.access`}, words...)
		eventually(t, "an access log line with "+strings.Join(words, " "), func() bool { return len(g.log.lines(words...)) == 1 })
	}
}

// TestPlaceholdersInTime: whatever makes a header of a placeholder gets its value, behind the guard and in front of it,
// however early it asks.
func TestPlaceholdersInTime(t *testing.T) { inEveryForm(t, testPlaceholdersInTime) }

func testPlaceholdersInTime(t *testing.T) {
	platform := newRawPlatform(t, func(c *exchange) bool {
		if c.path() == "/v1/cut" {
			return false
		}
		c.write(answered(`{"errCode":"NO_ORDER"}`))
		return true
	})
	g := startGateway(t, []string{"shop " + platform.url}, "", `
header >X-Outer "{http.chinaums.merchant} {http.chinaums.outcome} {http.chinaums.err_code} {http.chinaums.reason}"
chinaums_h5 /v1/netpay/trade/h5-pay
chinaums_proxy {
	header_up X-Up "{http.chinaums.merchant} {http.chinaums.outcome} {http.chinaums.err_code}"
	header_down X-Down "{http.chinaums.merchant} {http.chinaums.outcome} {http.chinaums.err_code}"
	@busy status 200
	handle_response @busy {
		header X-Handled "{http.chinaums.merchant} {http.chinaums.outcome} {http.chinaums.err_code}"
		copy_response
	}
}`, nil)
	for path, want := range map[string]string{
		"/v1/x":                   "shop answered NO_ORDER {http.chinaums.reason}",
		"/v1/cut":                 "shop unknown GATEWAY_BAD_RESPONSE cut",
		"/v1/token/access":        "shop not_sent GATEWAY_FORBIDDEN path",
		"/v1/netpay/trade/h5-pay": "shop not_sent  {http.chinaums.reason}",
	} {
		a := g.post(t, path, "{}")
		if got := a.header.Get("X-Outer"); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
		if path != "/v1/x" {
			continue
		}
		for _, name := range []string{"X-Down", "X-Handled"} {
			if got := a.header.Get(name); got != "shop answered NO_ORDER" {
				t.Errorf("%s: %q", name, got)
			}
		}
		if up := platform.requests()[len(platform.requests())-1].header("X-Up"); up != "shop not_sent" {
			t.Errorf("X-Up: %q", up)
		}
	}
	if a := do(t, newRequest(t, "POST", g.url+"/v1/x", "{}", jsonType, "Origin: https://shop.example")); a.header.Get("X-Outer") != "not_sent GATEWAY_FORBIDDEN browser" {
		t.Errorf("browser: %q", a.header.Get("X-Outer"))
	}
}

// TestRefusalsAreRateLimited: a flood of refused calls is no flood of log lines, but the metrics count them all.
func TestRefusalsAreRateLimited(t *testing.T) {
	g := startGateway(t, []string{"shop http://" + freeAddress(t)}, "", "handle /metrics {\n metrics\n}\nhandle {\n chinaums_proxy\n}", nil)
	for range 25 {
		do(t, newRequest(t, "GET", g.url+"/v1/x", ""))
	}
	if lines := g.log.lines("call refused", `"reason":"method"`); len(lines) != 10 {
		t.Errorf("%d log lines", len(lines))
	}
	text := do(t, newRequest(t, "GET", g.url+"/metrics", "")).body
	if want := `caddy_chinaums_calls_total{errcode="GATEWAY_BAD_REQUEST",merchant="shop",outcome="not_sent"} 25`; !strings.Contains(text, want) {
		t.Errorf("no %s", want)
	}
}

// TestCallUnknownEvent: an unknown outcome is an event that a handler may be subscribed to; calls are counted by the
// platform's own codes, and an answer cannot make a new label.
func TestCallUnknownEvent(t *testing.T) { inEveryForm(t, testCallUnknownEvent) }

func testCallUnknownEvent(t *testing.T) {
	platform := newRawPlatform(t, func(c *exchange) bool {
		code, ok := strings.CutPrefix(c.path(), "/v1/answer/")
		if ok {
			c.write(answered(`{"errCode":"` + code + `"}`))
		}
		return ok
	})
	g := startGateway(t, []string{"shop " + platform.url}, "", "handle /metrics {\n metrics\n}\nhandle {\n chinaums_proxy\n}", nil)
	g.post(t, "/v1/netpay/refund", `{"merOrderId":"327M1","note":"a buyer's words"}`)
	for _, code := range []string{"SUCCESS", "SUCCESS", "NO_ORDER", "A_NEW_ONE", "ANOTHER"} {
		g.post(t, "/v1/answer/"+code, "{}")
	}
	var lines []string
	eventually(t, "the event, which comes after the answer", func() bool {
		lines = g.log.lines("chinaums.call_unknown", "327M1", "/v1/netpay/refund", "GATEWAY_BAD_RESPONSE")
		return len(lines) > 0
	})
	if strings.Contains(strings.Join(lines, ""), "buyer's words") {
		t.Errorf("events: %v\n%s", lines, g.log)
	}
	text := do(t, newRequest(t, "GET", g.url+"/metrics", "")).body
	for _, want := range []string{
		`caddy_chinaums_calls_total{errcode="GATEWAY_BAD_RESPONSE",merchant="shop",outcome="unknown"} 1`,
		`caddy_chinaums_calls_total{errcode="SUCCESS",merchant="shop",outcome="answered"} 2`,
		`caddy_chinaums_calls_total{errcode="NO_ORDER",merchant="shop",outcome="answered"} 1`,
		`caddy_chinaums_calls_total{errcode="other",merchant="shop",outcome="answered"} 2`,
		`caddy_chinaums_call_duration_seconds_count{merchant="shop"} 6`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s", want)
		}
	}
}

// newPlatformWithoutTLS is the address of a server that takes connections and is no TLS server.
func newPlatformWithoutTLS(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(conn, "220 smtp.example ESMTP\r\n")
			conn.Close()
		}
	}()
	return listener.Addr().String()
}

// TestRequestBodyLimit: a limit that a handler in front has set is answered like our own where the guard meets it.
func TestRequestBodyLimit(t *testing.T) {
	g := startGateway(t, []string{"shop http://" + freeAddress(t)}, "", "request_body {\n max_size 10\n}\nchinaums_proxy", nil)
	req := newRequest(t, "POST", g.url+"/v1/x", "12345678901", jsonType)
	req.ContentLength = -1 // what announces more, that handler refuses itself
	checkGatewayAnswer(t, do(t, req), 413, "GATEWAY_BAD_REQUEST", "not_sent")
}
