package chinaums

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-chinaums/caddy-chinaums/internal/outbound"
	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
)

const testAppID, testAppKey, testNotifyKey = "f0ec96ad2c3848b5b810e7aadf369e2f", "00112233445566778899aabbccddeeff", "fcAmtnx7MwismjWNhNKdHC44mNXtnEQeJkRrhKJwyrW2ysRR"

// setKeys puts the example keys of the published vectors into the environment.
func setKeys(t testing.TB) {
	t.Setenv("UMS_APP_ID", testAppID)
	t.Setenv("UMS_APP_KEY", testAppKey)
	t.Setenv("UMS_NOTIFY_KEY", testNotifyKey)
}

// startSandbox starts a sandbox at its URL, and puts its keys into the environment.
func startSandbox(t testing.TB, options sandbox.Options) (platform *sandbox.ChinaUMS, url string) {
	t.Helper()
	platform, err := sandbox.New(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(platform.Close)
	server := httptest.NewServer(platform)
	t.Cleanup(server.Close)
	keys := platform.Options()
	t.Setenv("UMS_APP_ID", keys.AppID)
	t.Setenv("UMS_APP_KEY", keys.AppKey)
	t.Setenv("UMS_NOTIFY_KEY", keys.NotifyKey)
	return platform, server.URL
}

// merchantOptions is the global block with one merchant whose platform is at upstream.
func merchantOptions(upstream string) string {
	return `{
	chinaums {
		merchant shop {
			app_id     {env.UMS_APP_ID}
			app_key    {env.UMS_APP_KEY}
			notify_key {env.UMS_NOTIFY_KEY}
			upstream   ` + upstream + `
		}
	}
}
`
}

// testAuthorization is OPEN-BODY-SIG as the documents tell it, written again for the tests.
func testAuthorization(timestamp, nonce, body string) string {
	digest := sha256.Sum256([]byte(body))
	mac := hmac.New(sha256.New, []byte(testAppKey))
	io.WriteString(mac, testAppID+timestamp+nonce+hex.EncodeToString(digest[:]))
	return fmt.Sprintf(`OPEN-BODY-SIG AppId="%s", Timestamp="%s", Nonce="%s", Signature="%s"`,
		testAppID, timestamp, nonce, base64.StdEncoding.EncodeToString(mac.Sum(nil)))
}

var authorizationForm = regexp.MustCompile(`^OPEN-BODY-SIG AppId="(\w+)", Timestamp="(\d{14})", Nonce="([0-9a-f]{32})", Signature="([A-Za-z0-9+/=]+)"$`)

// checkAuthorization checks a header over the body that came with it, and that its time is now. It returns the nonce.
func checkAuthorization(t testing.TB, header, body string) (nonce string) {
	t.Helper()
	parts := authorizationForm.FindStringSubmatch(header)
	if parts == nil {
		t.Fatalf("Authorization: %q", header)
	}
	if want := testAuthorization(parts[2], parts[3], body); header != want {
		t.Errorf("Authorization: %s\nnot              %s", header, want)
	}
	at, err := time.ParseInLocation("20060102150405", parts[2], time.FixedZone("", 8*3600))
	if err != nil || time.Since(at).Abs() > time.Minute {
		t.Errorf("timestamp %s: %v", parts[2], err)
	}
	return parts[3]
}

// rawPlatform is a platform that shows every byte it gets, and answers with bytes.
type rawPlatform struct {
	url, address string
	answer       func(*exchange) (keep bool)
	end          chan struct{}

	mu          sync.Mutex
	all         []*exchange
	connections int
}

// exchange is one request on one connection.
type exchange struct {
	conn       net.Conn
	head, body string // as they came
	connection int    // of how many
	number     int    // of the request on its connection
	platform   *rawPlatform
}

func newRawPlatform(t testing.TB, answer func(*exchange) (keep bool)) *rawPlatform {
	return newRawPlatformAt(t, "127.0.0.1:0", answer)
}

func newRawPlatformAt(t testing.TB, address string, answer func(*exchange) (keep bool)) *rawPlatform {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	p := &rawPlatform{answer: answer, address: listener.Addr().String(), end: make(chan struct{})}
	p.url = "http://" + p.address
	var open sync.Map
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			open.Store(conn, nil)
			p.mu.Lock()
			p.connections++
			number := p.connections
			p.mu.Unlock()
			go p.serve(conn, number)
		}
	}()
	t.Cleanup(func() {
		close(p.end)
		listener.Close()
		open.Range(func(conn, _ any) bool { conn.(net.Conn).Close(); return true })
	})
	return p
}

func (p *rawPlatform) serve(conn net.Conn, connection int) {
	defer conn.Close()
	r := bufio.NewReader(conn)
	for number := 1; ; number++ {
		x := &exchange{conn: conn, connection: connection, number: number, platform: p}
		for !strings.HasSuffix(x.head, "\r\n\r\n") {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			x.head += line
		}
		length, _ := strconv.Atoi(x.header("Content-Length"))
		body := make([]byte, length)
		if _, err := io.ReadFull(r, body); err != nil {
			return
		}
		x.body = string(body)
		p.mu.Lock()
		p.all = append(p.all, x)
		p.mu.Unlock()
		if !p.answer(x) {
			return
		}
	}
}

// requests are those that have come whole, so far.
func (p *rawPlatform) requests() []*exchange {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.all)
}

func (p *rawPlatform) last(t testing.TB) *exchange {
	t.Helper()
	all := p.requests()
	if len(all) == 0 {
		t.Fatal("the platform got nothing")
	}
	return all[len(all)-1]
}

func (x *exchange) write(text string) { io.WriteString(x.conn, text) }

// waitForEnd returns when the other side hangs up or the test ends.
func (x *exchange) waitForEnd() {
	gone := make(chan struct{})
	go func() { _, _ = x.conn.Read(make([]byte, 1)); close(gone) }()
	select {
	case <-gone:
	case <-x.platform.end:
	}
}

func (x *exchange) path() string { return strings.Fields(x.head)[1] }

// header is the value of a header line, exactly as it was spelled.
func (x *exchange) header(name string) string {
	for line := range strings.SplitSeq(x.head, "\r\n") {
		if value, ok := strings.CutPrefix(line, name+": "); ok {
			return value
		}
	}
	return ""
}

func answered(body string, headers ...string) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%s\r\n%s", len(body), strings.Join(append(headers, ""), "\r\n"), body)
}

func readAll(r io.Reader) (string, error) {
	b, err := io.ReadAll(r)
	return string(b), err
}

// TestWhatGoesOut compares the bytes on the wire.
func TestWhatGoesOut(t *testing.T) { inEveryForm(t, testWhatGoesOut) }

func testWhatGoesOut(t *testing.T) {
	platform := newRawPlatform(t, func(x *exchange) bool { x.write(answered("{}")); return true })
	port := platform.address[strings.LastIndexByte(platform.address, ':'):]
	g := startGateway(t, []string{"shop " + platform.url, "named http://LOCALHOST" + port}, "", `
handle_path /named/* {
	chinaums_proxy named {
		header_up X-Added "by the user"
		header_up Idempotency-Key "by the user"
		header_up Authorization "by the user"
		header_up Host evil.example
		header_up Accept-Encoding gzip
	}
}
handle {
	chinaums_proxy shop
}`, nil)

	bodies := map[string]string{
		"with spaces":            "{\n \"merOrderId\" : \"327M1\",\t\"x\":\"测试\" }\r\n",
		"escaped":                `{"a":"\u0026<>","b":1.0e0,"a":2}`,
		"not UTF-8":              "{\"a\":\"\xb2\xe2\xca\xd4\"}",
		"no JSON at all":         "\x00\x1f\x8b",
		"one byte":               "0",
		"a byte order mark":      "\ufeff{}",
		"exactly 1 MiB":          strings.Repeat("x", 1<<20),
		"around the first read":  strings.Repeat("y", 8<<10),
		"looks like a new start": "}\r\nPOST /v1/netpay/refund HTTP/1.1\r\n\r\n",
	}
	seen := map[string]bool{}
	for name, body := range bodies {
		for _, chunked := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, chunked: %v", name, chunked), func(t *testing.T) {
				req := newRequest(t, "POST", g.url+"/v1/netpay/query?a=b", body, jsonType,
					"User-Agent: app/1", "Accept: application/json", "Accept-Encoding: gzip, br", "Cookie: a=b", "X-Test: 1", "Authorization: Basic eA==",
					"X-Forwarded-Proto: https", "X-Forwarded-Host: evil.example", "X-Forwarded-For: 127.0.0.1", "Via: 1.0 fred", "Forwarded: proto=https",
					"Idempotency-Key: k", "X-Idempotency-Key: k", "Te: trailers", "Incremental: ?1", "Traceparent: 00-1", "Content-Language: zh", "Range: bytes=0-1")
				if chunked {
					req.ContentLength = -1
				}
				if a := do(t, req); a.status != 200 || a.header.Get("Gateway-Outcome") != "answered" {
					t.Fatalf("%+v", a)
				}
				x := platform.last(t)
				if x.body != body {
					t.Fatalf("the platform got %d bytes, not the %d that were sent", len(x.body), len(body))
				}
				authorization := x.header("Authorization")
				nonce := checkAuthorization(t, authorization, body)
				if seen[nonce] {
					t.Errorf("nonce %s comes twice", nonce)
				}
				seen[nonce] = true
				lines := strings.Split(strings.TrimSuffix(x.head, "\r\n\r\n"), "\r\n")
				slices.Sort(lines[1:])
				want := []string{
					"POST /v1/netpay/query?a=b HTTP/1.1",
					"Accept-Encoding: identity",
					"Accept: application/json",
					"Authorization: " + authorization,
					fmt.Sprintf("Content-Length: %d", len(body)),
					"Content-Type: application/json",
					"Host: " + platform.address,
					"User-Agent: app/1",
				}
				if !slices.Equal(lines, want) {
					t.Errorf("the platform got\n%s\nnot\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
				}
			})
		}
	}

	t.Run("a client that says little", func(t *testing.T) {
		text := rawCall(t, g.address, "POST /v1/x HTTP/1.1\r\nHost: "+g.address+"\r\nContent-Type: application/json; charset=utf-8\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
		if !strings.HasPrefix(text, "HTTP/1.1 200 ") {
			t.Fatal(text)
		}
		x := platform.last(t)
		names := headerNames(x)
		if want := []string{"Accept-Encoding", "Authorization", "Content-Encoding", "Content-Length", "Content-Type", "Host"}; !slices.Equal(names, want) {
			t.Errorf("the platform got %v", names)
		}
		if x.header("Content-Type") != "application/json; charset=utf-8" {
			t.Error(x.head)
		}
	})
	t.Run("header_up", func(t *testing.T) {
		if a := g.post(t, "/named/v1/x", "{}", "User-Agent: app/1"); a.status != 200 {
			t.Fatalf("%+v", a)
		}
		x := platform.last(t)
		checkAuthorization(t, x.header("Authorization"), "{}")
		names := headerNames(x)
		if want := []string{"Accept-Encoding", "Authorization", "Content-Length", "Content-Type", "Host", "User-Agent", "X-Added"}; !slices.Equal(names, want) {
			t.Errorf("the platform got %v", names)
		}
		if x.header("Host") != "localhost"+port || x.header("X-Added") != "by the user" || x.header("Accept-Encoding") != "identity" {
			t.Error(x.head)
		}
	})
}

func headerNames(x *exchange) []string {
	var names []string
	for _, line := range strings.Split(strings.TrimSpace(x.head), "\r\n")[1:] {
		name, _, _ := strings.Cut(line, ":")
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// rawCall sends bytes and returns all that comes back until the other side hangs up.
func rawCall(t testing.TB, address, request string) string {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	if _, err = io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	text, err := readAll(conn)
	if err != nil && text == "" {
		t.Fatal(err)
	}
	return text
}

// TestHostWithoutDefaultPort: the platform's own name, without the port that everybody knows.
func TestHostWithoutDefaultPort(t *testing.T) {
	for upstream, want := range map[string][2]string{
		"https://api-mop.chinaums.com":      {"api-mop.chinaums.com:443", "api-mop.chinaums.com"},
		"https://api-mop.chinaums.com:443":  {"api-mop.chinaums.com:443", "api-mop.chinaums.com"},
		"https://api-mop.chinaums.com:8443": {"api-mop.chinaums.com:8443", "api-mop.chinaums.com:8443"},
		"http://58.247.0.18:29015":          {"58.247.0.18:29015", "58.247.0.18:29015"},
		"http://58.247.0.18":                {"58.247.0.18:80", "58.247.0.18"},
		"http://58.247.0.18:443":            {"58.247.0.18:443", "58.247.0.18:443"},
		"https://[2001:db8::1]":             {"[2001:db8::1]:443", "[2001:db8::1]"},
	} {
		endpoint, _, err := outbound.ParseEndpoint(upstream)
		if err != nil || endpoint.Dial != want[0] || endpoint.Host != want[1] {
			t.Errorf("%s: %+v, %v", upstream, endpoint, err)
		}
	}
}

// TestRawClients: what a client may play with on its own socket.
func TestRawClients(t *testing.T) { inEveryForm(t, testRawClients) }

func testRawClients(t *testing.T) {
	platform := newRawPlatform(t, func(x *exchange) bool { x.write(answered("{}")); return true })
	g := startGateway(t, []string{"shop " + platform.url}, "", "handle_path /impatient/* {\n chinaums_proxy {\n timeout 400ms\n}\n}\n@rewritten header X-Rewritten *\nhandle @rewritten {\n rewrite * /v1/x\n chinaums_proxy {\n paths /v1/x\n}\n}\nhandle {\n chinaums_proxy {\n max_size 1KiB\n}\n}", nil)
	start := "POST /v1/x HTTP/1.1\r\nHost: " + g.address + "\r\nContent-Type: application/json\r\nConnection: close\r\n"
	impatient := strings.Replace(start, "/v1/x", "/impatient/v1/x", 1)
	cases := []struct {
		name, request string
		status        string // "" for: no answer, or a refusal of Caddy's own
		sent          string // what the platform gets; "" for nothing
	}{
		{"plain", start + "Content-Length: 2\r\n\r\n{}", "200", "{}"},
		{"chunked", start + "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n", "200", "{}"},
		{"chunked, with a trailer", start + "Transfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n2\r\n{}\r\n0\r\nX-T: Authorization\r\n\r\n", "200", "{}"},
		{"chunked, nothing", start + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400", ""},
		{"chunked, too large", start + "Transfer-Encoding: chunked\r\n\r\n401\r\n" + strings.Repeat("x", 1025) + "\r\n0\r\n\r\n", "413", ""},
		{"chunked, broken", start + "Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n", "400", ""},
		{"chunked, cut", start + "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", "400", ""},
		{"both lengths", start + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", "200", "{}"},
		{"two lengths", start + "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ", "", ""},
		{"two codings", start + "Transfer-Encoding: chunked, identity\r\n\r\n2\r\n{}\r\n0\r\n\r\n", "", ""},
		{"an unknown coding", start + "Transfer-Encoding: xchunked\r\n\r\n{}", "", ""},
		{"a space before the colon", start + "Transfer-Encoding : chunked\r\nContent-Length: 2\r\n\r\n{}", "", ""},
		{"a negative length", start + "Content-Length: -1\r\n\r\n{}", "", ""},
		{"a length with a sign", start + "Content-Length: +2\r\n\r\n{}", "", ""},
		{"announces too much", start + "Content-Length: 1025\r\n\r\n", "413", ""},
		{"announces what cannot be", start + "Content-Length: 9223372036854775807\r\n\r\n", "413", ""},
		{"sends less and waits", impatient + "Content-Length: 100\r\n\r\n{}", "400", ""},
		{"sends nothing and waits", impatient + "Content-Length: 100\r\n\r\n", "400", ""},
		{"no body", start + "\r\n", "400", ""},
		{"asks first", start + "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}", "200", "{}"},
		{"two types", start + "Content-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}", "415", ""},
		{"a folded header", start + "X-A: b\r\n Authorization: x\r\nContent-Length: 2\r\n\r\n{}", "200", "{}"},
		{"absolute form", strings.Replace(start, "/v1/x", "http://"+g.address+"/v1/x", 1) + "Content-Length: 2\r\n\r\n{}", "200", "{}"},
		{"a form that is no path", strings.Replace(start, "/v1/x", "evil:v1/x", 1) + "Content-Length: 2\r\n\r\n{}", "403", ""},
		{"a form that is no path, rewritten", strings.Replace(start, "/v1/x", "evil:v1/refund", 1) + "X-Rewritten: yes\r\nContent-Length: 2\r\n\r\n{}", "403", ""},
		{"double slash", strings.Replace(start, "/v1/x", "/v1//x", 1) + "Content-Length: 2\r\n\r\n{}", "403", ""},
		{"double slash in front", strings.Replace(start, "/v1/x", "//v1/x", 1) + "Content-Length: 2\r\n\r\n{}", "403", ""},
		{"dots", strings.Replace(start, "/v1/x", "/v1/y/../x", 1) + "Content-Length: 2\r\n\r\n{}", "403", ""},
		{"dots, encoded", strings.Replace(start, "/v1/x", "/v1/y/%2E%2e/x", 1) + "Content-Length: 2\r\n\r\n{}", "403", ""},
		{"asterisk form", strings.Replace(start, "/v1/x", "*", 1) + "Content-Length: 2\r\n\r\n{}", "", ""},
		{"HTTP/1.0", strings.Replace(start, "HTTP/1.1", "HTTP/1.0", 1) + "Content-Length: 2\r\n\r\n{}", "200", "{}"},
		{"a method in small letters", strings.Replace(start, "POST", "post", 1) + "Content-Length: 2\r\n\r\n{}", "405", ""},
		{"names that CGI folds", start + "X_Forwarded_For: 203.0.113.7\r\nContent_Type: text/plain\r\nIdempotency_Key: 1\r\nContent-Length: 2\r\n\r\n{}", "200", "{}"},
		{"another path is asked for in a header", start + "X-HTTP-Method-Override: GET\r\nX-Original-URL: /v1/token/access\r\nX-Rewrite-URL: /v1/token/access\r\nContent-Length: 2\r\n\r\n{}", "200", "{}"},
		{"wants another protocol", strings.Replace(start, "Connection: close", "Connection: Upgrade\r\nUpgrade: websocket", 1) + "Content-Length: 2\r\n\r\n{}", "200", "{}"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			before := len(platform.requests())
			conn, err := net.Dial("tcp", g.address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(time.Minute))
			fmt.Fprint(conn, c.request)
			if strings.HasSuffix(c.name, "cut") {
				_ = conn.(*net.TCPConn).CloseWrite()
			}
			r := bufio.NewReader(conn)
			res, err := http.ReadResponse(r, nil)
			for err == nil && res.StatusCode == 100 {
				res, err = http.ReadResponse(r, nil)
			}
			if err != nil {
				t.Fatalf("no answer: %v", err)
			}
			defer res.Body.Close()
			body, _ := readAll(res.Body)
			outcome := res.Header.Get("Gateway-Outcome")
			switch {
			case c.status == "":
				if res.StatusCode/100 == 2 || outcome == "answered" {
					t.Errorf("%s, %s: %s", res.Status, outcome, body)
				}
			case !strings.HasPrefix(res.Status, c.status):
				t.Errorf("%s: %s", res.Status, body)
			case c.sent == "":
				checkGatewayAnswer(t, answer{res.StatusCode, res.Header, body}, res.StatusCode, errCodeOf(res.StatusCode), "not_sent")
			}
			after := platform.requests()[before:]
			if c.sent == "" {
				if len(after) != 0 {
					t.Errorf("the platform got %q", after[0].head)
				}
				return
			}
			if len(after) != 1 || after[0].body != c.sent || outcome != "answered" {
				t.Fatalf("the platform got %d calls, outcome %s", len(after), outcome)
			}
			checkAuthorization(t, after[0].header("Authorization"), c.sent)
			if names := headerNames(after[0]); !slices.Equal(names, []string{"Accept-Encoding", "Authorization", "Content-Length", "Content-Type", "Host"}) {
				t.Errorf("the platform got %v", names)
			}
			if strings.Contains(after[0].head, "evil") {
				t.Error(after[0].head)
			}
		})
	}
}

func errCodeOf(status int) string {
	if status == http.StatusForbidden {
		return "GATEWAY_FORBIDDEN"
	}
	return "GATEWAY_BAD_REQUEST"
}

// TestEachAttemptIsNew: refused connections are tried again as the user wishes, and each attempt has its own time and
// nonce; the platform gets one call.
func TestEachAttemptIsNew(t *testing.T) {
	address := freeAddress(t)
	g := startGateway(t, []string{"shop http://" + address}, "", "chinaums_proxy {\n lb_try_duration 20s\n lb_try_interval 10ms\n}", nil)
	result := make(chan answer, 1)
	body := strings.Repeat("{}", 1000)
	go func() { result <- g.post(t, "/v1/x", body, "Idempotency-Key: k") }()
	eventually(t, "a few attempts", func() bool { return len(g.log.lines("upstream roundtrip", "connection refused")) >= 3 })
	platform := newRawPlatformAt(t, address, func(x *exchange) bool { x.write(answered("{}")); return true })
	if a := <-result; a.status != 200 || a.header.Get("Gateway-Outcome") != "answered" {
		t.Fatalf("%+v", a)
	}
	calls := platform.requests()
	if len(calls) != 1 || calls[0].body != body {
		t.Fatalf("the platform got %d calls", len(calls))
	}
	checkAuthorization(t, calls[0].header("Authorization"), body)
}

// TestAttemptsDiffer asks the transport itself, whose attempts nobody else sees.
func TestAttemptsDiffer(t *testing.T) {
	transport := &signing{now: time.Now}
	m := &merchant{signer: newBodySigner(testAppID, testAppKey)}
	seen := map[string]bool{}
	for range 100 {
		header, err := transport.Authorize(t.Context(), m, []byte("{}"))
		if err != nil {
			t.Fatal(err)
		}
		nonce := checkAuthorization(t, header, "{}")
		if seen[nonce] {
			t.Fatalf("nonce %s comes twice", nonce)
		}
		seen[nonce] = true
	}
}

// TestNeverRepeated: once a byte of a call may have been sent, nothing repeats it: neither net/http on a connection that
// was kept alive, nor the retries of reverse_proxy.
func TestNeverRepeated(t *testing.T) { inEveryForm(t, testNeverRepeated) }

func testNeverRepeated(t *testing.T) {
	for _, options := range []string{
		"", "lb_retries 3", "lb_try_duration 500ms\n lb_try_interval 10ms", "lb_retries 3\n header_up Idempotency-Key k\n header_up X-Idempotency-Key k",
		"versions 1.1 2\n lb_retries 3",
	} {
		for _, how := range []string{"new connection", "kept connection", "kept connection, reset", "answer begun"} {
			t.Run(strings.ReplaceAll(options, "\n", ";")+" / "+how, func(t *testing.T) {
				platform := newRawPlatform(t, func(x *exchange) bool {
					if strings.HasPrefix(how, "kept") && x.number == 1 && x.connection == 1 {
						x.write(answered("{}"))
						return true
					}
					if how == "kept connection, reset" {
						_ = x.conn.(*net.TCPConn).SetLinger(0)
					}
					if how == "answer begun" {
						x.write("HTTP/1.1 200 OK\r\n")
					}
					return false
				})
				g := startGateway(t, []string{"shop " + platform.url}, "", "chinaums_proxy {\n "+options+"\n}", nil)
				calls := 1
				if strings.HasPrefix(how, "kept") {
					if a := g.post(t, "/v1/x", "{}"); a.header.Get("Gateway-Outcome") != "answered" {
						t.Fatalf("%+v", a)
					}
					calls = 2
				}
				checkGatewayAnswer(t, g.post(t, "/v1/x", "{}", "Idempotency-Key: k", "X-Idempotency-Key: k"), 502, "GATEWAY_BAD_RESPONSE", "unknown")
				if got := len(platform.requests()); got != calls {
					t.Errorf("the platform got %d calls, not %d", got, calls)
				}
				if how != "new connection" && how != "answer begun" && platform.requests()[1].number != 2 {
					t.Error("the second call did not come on the connection that was kept alive")
				}
			})
		}
	}
}

// TestHTTP2IsNotRepeatedEither: over HTTP/2 a peer may take a whole call and say "I have not looked at it", and net/http
// would believe it and send the call again. Before, it did so, for a whole minute.
func TestHTTP2IsNotRepeatedEither(t *testing.T) {
	certificate := httptest.NewUnstartedServer(nil)
	certificate.StartTLS()
	defer certificate.Close()
	for name, code := range map[string]byte{"PROTOCOL_ERROR": 1, "REFUSED_STREAM": 7} {
		t.Run(name, func(t *testing.T) {
			listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: certificate.TLS.Certificates, NextProtos: []string{"h2"}})
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			var calls atomic.Int32
			go func() {
				for {
					conn, err := listener.Accept()
					if err != nil {
						return
					}
					go refuseHTTP2(conn, code, &calls)
				}
			}()
			g := startGateway(t, []string{"shop https://" + listener.Addr().String()}, "",
				"chinaums_proxy {\n tls_insecure_skip_verify\n versions 1.1 2\n lb_retries 3\n}", nil)
			checkGatewayAnswer(t, g.post(t, "/v1/x", "{}"), 502, "GATEWAY_BAD_RESPONSE", "unknown")
			if calls.Load() != 1 {
				t.Errorf("%d calls", calls.Load())
			}
		})
	}
}

// refuseHTTP2 takes each call whole and resets its stream.
func refuseHTTP2(conn net.Conn, code byte, calls *atomic.Int32) {
	defer conn.Close()
	if _, err := io.ReadFull(conn, make([]byte, len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))); err != nil {
		return
	}
	const data, headers, resetStream, settings = 0, 1, 3, 4
	_, _ = conn.Write([]byte{0, 0, 0, settings, 0, 0, 0, 0, 0})
	for {
		var frame [9]byte
		if _, err := io.ReadFull(conn, frame[:]); err != nil {
			return
		}
		length := int64(frame[0])<<16 | int64(frame[1])<<8 | int64(frame[2])
		if _, err := io.CopyN(io.Discard, conn, length); err != nil {
			return
		}
		kind, flags := frame[3], frame[4]
		switch {
		case kind == settings && flags&1 == 0:
			_, _ = conn.Write([]byte{0, 0, 0, settings, 1, 0, 0, 0, 0})
		case kind == headers:
			calls.Add(1)
			fallthrough
		case kind == data:
			if flags&1 != 0 { // END_STREAM
				_, _ = conn.Write(append([]byte{0, 0, 4, resetStream, 0}, append(frame[5:9:9], 0, 0, 0, code)...))
			}
		}
	}
}

// TestStaleConnectionIsHarmless: a connection that the platform closed while it was idle costs no call. That is about
// net/http's client, which notices by itself; internal/wire looks when a call comes, and has a test of that.
func TestStaleConnectionIsHarmless(t *testing.T) { inForms(t, 1, testStaleConnectionIsHarmless) }

func testStaleConnectionIsHarmless(t *testing.T) {
	closed := make(chan struct{}, 100)
	platform := newRawPlatform(t, func(x *exchange) bool {
		x.write(answered("{}"))
		_ = x.conn.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, x.conn) // until the gateway has noticed
		closed <- struct{}{}
		return false
	})
	g := startGateway(t, []string{"shop " + platform.url}, "", "chinaums_proxy", nil)
	for i := range 20 {
		if a := g.post(t, "/v1/x", "{}"); a.header.Get("Gateway-Outcome") != "answered" {
			t.Fatalf("call %d: %+v", i, a)
		}
		<-closed
	}
}

// TestClientGone: the call runs to its end, and the app's hanging up is no reason to cut it.
func TestClientGone(t *testing.T) { inEveryForm(t, testClientGone) }

func testClientGone(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	written := make(chan error, 1)
	platform := newRawPlatform(t, func(x *exchange) bool {
		close(arrived)
		<-release
		_, err := io.WriteString(x.conn, answered(`{"errCode":"SUCCESS"}`))
		written <- err
		return true
	})
	g := startGateway(t, []string{"shop " + platform.url}, "", "chinaums_proxy", nil)
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		res, err := testClient.Do(newRequest(t, "POST", g.url+"/v1/x", `{"merOrderId":"327M1"}`, jsonType).WithContext(ctx))
		if err == nil {
			res.Body.Close()
		}
		failed <- err
	}()
	<-arrived
	cancel()
	if err := <-failed; err == nil {
		t.Fatal("the client got an answer")
	}
	close(release)
	if err := <-written; err != nil {
		t.Fatalf("the call was cut: %v", err)
	}
	eventually(t, "the access log line", func() bool {
		return len(g.log.lines(`"outcome":"answered"`, `"errcode":"SUCCESS"`, "327M1", "http.log.access")) == 1
	})
}

// TestClientGoneBeforeSending: a call that waits for its next attempt is given up with its client.
func TestClientGoneBeforeSending(t *testing.T) { inEveryForm(t, testClientGoneBeforeSending) }

func testClientGoneBeforeSending(t *testing.T) {
	g := startGateway(t, []string{"shop http://" + freeAddress(t)}, "", "chinaums_proxy {\n lb_try_duration 10m\n lb_try_interval 10ms\n}", nil)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		res, err := testClient.Do(newRequest(t, "POST", g.url+"/v1/x", "{}", jsonType).WithContext(ctx))
		if err == nil {
			res.Body.Close()
		}
	}()
	eventually(t, "an attempt", func() bool { return len(g.log.lines("upstream roundtrip", "connection refused")) > 0 })
	cancel()
	eventually(t, "the end", func() bool { return len(g.log.lines(`"reason":"client_gone"`, `"outcome":"not_sent"`)) == 1 })
}

// TestReloadAndStopWait: neither cuts a call that has been sent.
func TestReloadAndStopWait(t *testing.T) { inEveryForm(t, testReloadAndStopWait) }

func testReloadAndStopWait(t *testing.T) {
	for _, c := range []struct {
		name    string
		globals string
		leave   bool // the client hangs up meanwhile
		act     func(g *gateway) error
	}{
		{"reload", "", false, func(g *gateway) error { return caddy.Load(emptyConfig, true) }},
		{"reload, client gone", "", true, func(g *gateway) error { return caddy.Load(emptyConfig, true) }},
		{"stop", "", false, func(g *gateway) error { return caddy.Stop() }},
		{"stop, grace period, client gone", "grace_period 20s", true, func(g *gateway) error { return caddy.Stop() }},
	} {
		t.Run(c.name, func(t *testing.T) {
			arrived, release := make(chan struct{}), make(chan struct{})
			written := make(chan error, 1)
			platform := newRawPlatform(t, func(x *exchange) bool {
				close(arrived)
				<-release
				_, err := io.WriteString(x.conn, answered(`{"errCode":"SUCCESS"}`))
				written <- err
				return true
			})
			g := startGateway(t, []string{"shop " + platform.url}, c.globals, "chinaums_proxy", nil)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			got := make(chan string, 1)
			go func() {
				res, err := testClient.Do(newRequest(t, "POST", g.url+"/v1/x", "{}", jsonType).WithContext(ctx))
				if err != nil {
					got <- err.Error()
					return
				}
				defer res.Body.Close()
				text, _ := readAll(res.Body)
				got <- res.Header.Get("Gateway-Outcome") + " " + text
			}()
			<-arrived
			if c.leave {
				cancel()
				<-got
			}
			done := make(chan error, 1)
			go func() { done <- c.act(g) }()
			eventually(t, "the beginning of the end", func() bool {
				conn, err := net.Dial("tcp", g.address)
				if err == nil {
					conn.Close()
				}
				return err != nil
			})
			select {
			case err := <-done:
				t.Fatalf("it did not wait: %v", err)
			default:
			}
			close(release)
			if err := <-written; err != nil {
				t.Errorf("the call was cut: %v", err)
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
			if !c.leave {
				if a := <-got; a != `answered {"errCode":"SUCCESS"}` {
					t.Error(a)
				}
			}
		})
	}
}

var emptyConfig = []byte(`{"admin":{"disabled":true}}`)

// TestGracePeriodEnds: the user's grace period bounds the waiting.
func TestGracePeriodEnds(t *testing.T) {
	arrived := make(chan struct{})
	platform := newRawPlatform(t, func(x *exchange) bool { close(arrived); x.waitForEnd(); return false })
	g := startGateway(t, []string{"shop " + platform.url}, "grace_period 50ms", "chinaums_proxy {\n timeout 10m\n}", nil)
	go func() {
		res, err := testClient.Do(newRequest(t, "POST", g.url+"/v1/x", "{}", jsonType))
		if err == nil {
			res.Body.Close()
		}
	}()
	<-arrived
	if err := caddy.Stop(); err != nil { // would take ten minutes
		t.Error(err)
	}
	if lines := g.log.lines("calls were still under way"); len(lines) != 1 {
		t.Errorf("%v", lines)
	}
}

// TestAnswers: what comes back is what the platform said.
func TestAnswers(t *testing.T) { inEveryForm(t, testAnswers) }

func testAnswers(t *testing.T) {
	signed := testAuthorization("20260101000000", strings.Repeat("a", 32), `{"errCode":"SUCCESS"}`)
	gzipped := "\x1f\x8b\x08\x00not really"
	cases := []struct {
		name, answer, body string
		status             int
		headers            map[string]string // "" for: must be absent
	}{
		{"plain", answered(`{"errCode":"SUCCESS"}`, "Content-Type: application/json;charset=UTF-8", "X-Request-Id: 7"), `{"errCode":"SUCCESS"}`, 200,
			map[string]string{"Content-Type": "application/json;charset=UTF-8", "X-Request-Id": "7", "Content-Length": "21"}},
		{"rightly signed", answered(`{"errCode":"SUCCESS"}`, "Authorization: "+signed), `{"errCode":"SUCCESS"}`, 200, map[string]string{"Authorization": ""}},
		{"rightly signed, another spelling", answered(`{"errCode":"SUCCESS"}`, "authorization:   "+strings.ReplaceAll(signed, `", `, `",`)), `{"errCode":"SUCCESS"}`, 200, map[string]string{"Authorization": ""}},
		{"another scheme is no signature", answered("{}", "Authorization: Bearer x"), "{}", 200, map[string]string{"Authorization": "Bearer x"}},
		{"chunked, with a trailer", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n2\r\n{}\r\n0\r\nX-T: 1\r\n\r\n", "{}", 200,
			map[string]string{"Content-Length": "2", "Trailer": "", "X-T": ""}},
		{"until the connection closes", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{}", "{}", 200, map[string]string{"Content-Length": "2"}},
		{"compressed though nobody asked", answered(gzipped, "Content-Encoding: gzip"), gzipped, 200, map[string]string{"Content-Encoding": "gzip"}},
		{"interim answers", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\nAuthorization: " + signed + "\r\n\r\n" + answered("{}"), "{}", 200, map[string]string{"Link": "", "Authorization": ""}},
		{"a redirect", "HTTP/1.1 302 Found\r\nLocation: https://x.example/\r\nContent-Length: 0\r\n\r\n", "", 302, map[string]string{"Location": "https://x.example/"}},
		{"no content", "HTTP/1.1 204 No Content\r\n\r\n", "", 204, map[string]string{"Content-Length": ""}},
		{"a server error", "HTTP/1.1 503 Busy\r\nContent-Length: 4\r\nRetry-After: 1\r\n\r\nbusy", "busy", 503, map[string]string{"Retry-After": "1"}},
		{"an outcome of the platform's own invention", answered("{}", "Gateway-Outcome: not_sent", "gateway-outcome: unknown"), "{}", 200, nil},
		{"hop-by-hop headers", answered("{}", "Connection: X-Hop", "X-Hop: 1", "Keep-Alive: timeout=5", "Proxy-Authenticate: x"), "{}", 200, map[string]string{"X-Hop": "", "Keep-Alive": ""}},
		{"a cookie", answered("{}", "Set-Cookie: a=b", "Set-Cookie: c=d"), "{}", 200, map[string]string{"Set-Cookie": "a=b"}},
		{"no JSON", answered("<html>", "Content-Type: text/html"), "<html>", 200, nil},
		{"nothing", answered(""), "", 200, nil},
	}
	var next atomic.Value
	platform := newRawPlatform(t, func(x *exchange) bool {
		text := next.Load().(string)
		x.write(text)
		return !strings.Contains(text, "Connection: close")
	})
	g := startGateway(t, []string{"shop " + platform.url}, "", "chinaums_proxy", nil)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			next.Store(c.answer)
			a := g.post(t, "/v1/x", "{}")
			if a.status != c.status || a.body != c.body {
				t.Errorf("%d %q", a.status, a.body)
			}
			if !slices.Equal(a.header["Gateway-Outcome"], []string{"answered"}) {
				t.Errorf("Gateway-Outcome: %q", a.header["Gateway-Outcome"])
			}
			for name, want := range c.headers {
				if got := a.header.Get(name); got != want {
					t.Errorf("%s: %q, not %q", name, got, want)
				}
			}
		})
	}
	if strings.Contains(g.log.String(), "Signature=") {
		t.Error("the log holds a signature")
	}
}

// TestTLSUpstream: an https upstream is signed too, in the shortcut and by hand, and Host has no surprise.
func TestTLSUpstream(t *testing.T) { inEveryForm(t, testTLSUpstream) }

func testTLSUpstream(t *testing.T) {
	var got *http.Request
	var gotBody []byte
	platform := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r.Clone(context.Background())
		gotBody, _ = io.ReadAll(r.Body)
		io.WriteString(w, "{}")
	}))
	defer platform.Close()
	address := strings.TrimPrefix(platform.URL, "https://")
	file := filepath.Join(t.TempDir(), "root.pem")
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: platform.Certificate().Raw})
	if err := os.WriteFile(file, root, 0o600); err != nil {
		t.Fatal(err)
	}
	trust := "tls_trust_pool file " + file
	for name, site := range map[string]string{
		"shortcut":             "chinaums_proxy {\n " + trust + "\n}",
		"by hand":              "chinaums_guard\nreverse_proxy {\n dynamic chinaums\n transport chinaums {\n " + trust + "\n}\n}",
		"by hand, https given": "chinaums_guard\nreverse_proxy https://" + address + " {\n transport chinaums {\n " + trust + "\n}\n}",
		"verification off":     "chinaums_proxy {\n tls_insecure_skip_verify\n}",
	} {
		t.Run(name, func(t *testing.T) {
			got = nil
			g := startGateway(t, []string{"shop " + platform.URL}, "", site, nil)
			if a := g.post(t, "/v1/x", "{}"); a.header.Get("Gateway-Outcome") != "answered" {
				t.Fatalf("%+v", a)
			}
			checkAuthorization(t, got.Header.Get("Authorization"), string(gotBody))
			if got.Host != address || got.TLS == nil || got.ProtoMajor != 1 {
				t.Errorf("Host %s, %s", got.Host, got.Proto)
			}
		})
	}
	t.Run("a certificate that nobody trusts", func(t *testing.T) {
		got = nil
		g := startGateway(t, []string{"shop " + platform.URL}, "", "chinaums_proxy", nil)
		checkGatewayAnswer(t, g.post(t, "/v1/x", "{}"), 502, "GATEWAY_UNREACHABLE", "not_sent")
		if got != nil {
			t.Error("the call went out")
		}
	})
}

// TestTLSClient is about a connection of the client's own whose handshake is complete: no 425.
func TestTLSClient(t *testing.T) {
	platform := newRawPlatform(t, func(x *exchange) bool { x.write(answered("{}")); return true })
	setKeys(t)
	address := freeAddress(t)
	site := strings.Replace(address, "127.0.0.1", "localhost", 1)
	startCaddy(t, strings.Replace(merchantOptions(platform.url), "{\n", "{\n\tskip_install_trust\n\tstorage file_system "+t.TempDir()+"\n", 1)+
		"https://"+site+" {\n bind 127.0.0.1\n tls internal\n chinaums_proxy\n}\n")
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true, ForceAttemptHTTP2: true,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true, ServerName: "localhost"},
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		},
	}, Timeout: 30 * time.Second}
	var res *http.Response
	eventually(t, "the certificate", func() bool {
		var err error
		res, err = client.Do(newRequest(t, "POST", "https://"+site+"/v1/x", "{}", jsonType))
		return err == nil
	})
	defer res.Body.Close()
	if res.ProtoMajor != 2 || res.Header.Get("Gateway-Outcome") != "answered" {
		t.Errorf("%s, %v", res.Proto, res.Header)
	}
}

// TestRefusedAtLoad: what could repeat, rewrite or re-encode a call is refused in every form: shortcut, long form, JSON.
func TestRefusedAtLoad(t *testing.T) {
	const long = "chinaums_guard\nreverse_proxy {\n dynamic chinaums\n transport chinaums {\n %s\n}\n%s\n}"
	cases := []struct {
		name, upstream, site, want string
	}{
		{"lb_retry_match, shortcut", "", "chinaums_proxy {\n lb_retry_match method POST\n}", "lb_retry_match"},
		{"method, shortcut", "", "chinaums_proxy {\n method GET\n}", "method"},
		{"rewrite, shortcut", "", "chinaums_proxy {\n rewrite /x\n}", "rewrite"},
		{"versions 3, shortcut", "", "chinaums_proxy {\n versions 3\n}", "versions"},
		{"compression, shortcut", "", "chinaums_proxy {\n compression on\n}", "compression"},
		{"to, shortcut", "", "chinaums_proxy {\n to 127.0.0.1:1\n}", "to"},
		{"dynamic, shortcut", "", "chinaums_proxy {\n dynamic a x\n}", "dynamic"},
		{"transport, shortcut", "", "chinaums_proxy {\n transport http\n}", "transport"},
		{"health_uri, shortcut", "", "chinaums_proxy {\n health_uri /\n}", "health_uri"},
		{"health_port, shortcut", "", "chinaums_proxy {\n health_port 1\n}", "health_port"},
		{"skip verify, shortcut", "https://platform.example", "chinaums_proxy {\n tls_insecure_skip_verify\n}", "tls_insecure_skip_verify"},
		{"lb_retry_match, long", "", fmt.Sprintf(long, "", "lb_retry_match method POST"), "lb_retry_match"},
		{"lb_retry_match by expression, long", "", fmt.Sprintf(long, "", "lb_retry_match `{rp.status_code} == 502`"), "lb_retry_match"},
		{"method, long", "", fmt.Sprintf(long, "", "method GET"), "method"},
		{"rewrite, long", "", fmt.Sprintf(long, "", "rewrite /x"), "rewrite"},
		{"versions 3, long", "", fmt.Sprintf(long, "versions 3", ""), "versions"},
		{"compression, long", "", fmt.Sprintf(long, "compression on", ""), "compression"},
		{"skip verify, long", "https://platform.example", fmt.Sprintf(long, "tls_insecure_skip_verify", ""), "tls_insecure_skip_verify"},
		{"skip verify, loopback", "https://127.0.0.1:1", "chinaums_proxy {\n tls_insecure_skip_verify\n}", ""},
		{"skip verify, localhost", "https://localhost:1", "chinaums_proxy {\n tls_insecure_skip_verify\n}", ""},
		{"a reverse_proxy further out that rewrites and retries", "", "reverse_proxy 127.0.0.1:1 {\n method GET\n rewrite /may\n lb_retry_match method GET\n handle_response {\n chinaums_proxy\n}\n}", ""},
		{"rewrite, in a reverse_proxy further out", "", "reverse_proxy 127.0.0.1:1 {\n handle_response {\n" + fmt.Sprintf(long, "", "rewrite /x") + "\n}\n}", "rewrite"},
		{"a token that is not set", "", "chinaums_proxy {\n token {env.NOT_SET_AT_ALL}\n}", "token"},
		{"a path that cannot match", "", "chinaums_proxy {\n paths /v1//x\n}", "paths"},
		{"allow with a typo", "", "chinaums_proxy {\n allow 10.0.0.0/99\n}", "allow"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			setKeys(t)
			upstream := c.upstream
			if upstream == "" {
				upstream = "http://127.0.0.1:1"
			}
			err := loadError(t, merchantOptions(upstream)+"http://127.0.0.1:0 {\n"+c.site+"\n}\n")
			if (c.want == "") != (err == "") || !strings.Contains(err, c.want) {
				t.Errorf("error %q", err)
			}
		})
	}

	for name, c := range map[string]struct{ proxy, transport, guard, want string }{
		"lb_retry_match":   {proxy: `"load_balancing":{"retry_match":[{"method":["POST"]}]}`, want: "lb_retry_match"},
		"method":           {proxy: `"rewrite":{"method":"GET"}`, want: "method"},
		"rewrite":          {proxy: `"rewrite":{"uri":"/x"}`, want: "rewrite"},
		"path prefix":      {proxy: `"rewrite":{"strip_path_prefix":"/x"}`, want: "rewrite"},
		"versions":         {transport: `"versions":["1.1","3"]`, want: "versions"},
		"compression":      {transport: `"compression":true`, want: "compression"},
		"skip verify":      {transport: `"tls":{"insecure_skip_verify":true}`, want: "tls_insecure_skip_verify"},
		"auth":             {transport: `"auth":"none"`, want: "auth"},
		"unknown option":   {transport: `"autn":"body_sig"`, want: "autn"},
		"negative size":    {guard: `"max_size":-1`, want: "max_size"},
		"negative timeout": {guard: `"timeout":-1`, want: "timeout"},
		"nothing wrong":    {transport: `"compression":false,"versions":["1.1","2"],"auth":"body_sig"`},
	} {
		t.Run("JSON: "+name, func(t *testing.T) {
			setKeys(t)
			join := func(first, more string) string {
				if more == "" {
					return first
				}
				return first + "," + more
			}
			config := `{"admin":{"disabled":true},"apps":{"chinaums":{"merchants":{"shop":{"app_id":"{env.UMS_APP_ID}","app_key":"{env.UMS_APP_KEY}"}}},
				"http":{"servers":{"s":{"listen":["127.0.0.1:0"],"routes":[{"handle":[
				{` + join(`"handler":"chinaums_guard"`, c.guard) + `},
				{` + join(`"handler":"reverse_proxy","dynamic_upstreams":{"source":"chinaums"},"transport":{`+join(`"protocol":"chinaums"`, c.transport)+`}`, c.proxy) + `}]}]}}}}}`
			if !json.Valid([]byte(config)) {
				t.Fatal(config)
			}
			err := caddy.Validate(mustConfig(t, []byte(config)))
			if (c.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// BenchmarkProxy compares one call through chinaums_proxy with one through a plain reverse_proxy to the same platform.
func BenchmarkProxy(b *testing.B) {
	platform := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, `{"errCode":"SUCCESS"}`)
	}))
	defer platform.Close()
	setKeys(b)
	address := freeAddress(b)
	config := strings.Replace(merchantOptions(platform.URL), "{\n", "{\n\tadmin off\n\tlog {\n\t\toutput discard\n\t}\n", 1) +
		"http://" + address + " {\n bind 127.0.0.1\n handle_path /plain/* {\n reverse_proxy " + strings.TrimPrefix(platform.URL, "http://") +
		"\n}\n handle_path /signed/* {\n chinaums_proxy\n}\n}\n"
	if err := caddy.Load(adapt(b, config), true); err != nil {
		b.Fatal(err)
	}
	defer func() { _ = caddy.Stop() }()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}}
	body := bytes.Repeat([]byte("x"), 1<<10)
	call := func(b *testing.B, way string) time.Duration {
		start := time.Now()
		res, err := client.Post("http://"+address+"/"+way+"/v1/netpay/query", "application/json", bytes.NewReader(body))
		if err != nil {
			b.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if res.StatusCode != 200 {
			b.Fatal(res.Status)
		}
		return time.Since(start)
	}
	for _, way := range []string{"plain", "signed"} {
		b.Run(way, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				call(b, way)
			}
		})
	}
	// By turns, and by the median: whatever else the machine does, it does to both.
	b.Run("by turns", func(b *testing.B) {
		var plain, signed []time.Duration
		for b.Loop() {
			plain = append(plain, call(b, "plain"))
			signed = append(signed, call(b, "signed"))
		}
		slices.Sort(plain)
		slices.Sort(signed)
		median := func(took []time.Duration) float64 { return float64(took[len(took)/2]) }
		b.ReportMetric(median(plain), "plain-ns")
		b.ReportMetric(median(signed), "signed-ns")
		b.ReportMetric(median(signed)/median(plain), "of-plain")
	})
}
