package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/hmac"
	"crypto/md5"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
	"github.com/caddy-chinaums/caddy-chinaums/internal/testutil"
)

// What an app with a platform's SDK meets on its way to the gateway. The Caddyfiles are the page's, the SDK is played:
// it signs by itself, takes its base URL as it is, gives up early, throws, and hides headers.

// sdk is a platform's SDK. It works against the platform as it is, which each test shows first where it matters.
type sdk struct {
	t       *testing.T
	base    string // in front of the path, as it is
	sign    func(req *http.Request, body []byte)
	timeout time.Duration
	header  http.Header // what the app's framework adds
}

// thrown is the exception of an SDK. Its text is what stands in the app's log.
type thrown struct{ error }

// call returns what the SDK gives the app: the answer's JSON, without the headers; or it throws.
func (s *sdk) call(path string, fields map[string]any) (map[string]any, error) {
	s.t.Helper()
	body, err := json.Marshal(fields)
	if err != nil {
		s.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.base+path, bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header = s.header.Clone()
	if req.Header == nil {
		req.Header = make(http.Header)
	}
	if req.Header.Get("Content-Type") == "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if s.sign != nil {
		s.sign(req, body)
	}
	patient := *client
	if s.timeout != 0 {
		patient.Timeout = s.timeout
	}
	res, err := patient.Do(req)
	if err != nil {
		return nil, thrown{err}
	}
	defer res.Body.Close()
	content, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, thrown{err}
	}
	if res.StatusCode/100 != 2 {
		return nil, thrown{fmt.Errorf("%s: %s", res.Status, content)}
	}
	var answer map[string]any
	if err := json.Unmarshal(content, &answer); err != nil {
		return nil, thrown{fmt.Errorf("%w: %s", err, content)}
	}
	return answer, nil
}

// bodySignature signs as the SDKs do, which the documents call OPEN-BODY-SIG.
func bodySignature(appID, appKey string) func(*http.Request, []byte) {
	return func(req *http.Request, body []byte) {
		timestamp, nonce := stamp()
		req.Header.Set("Authorization", fmt.Sprintf(`OPEN-BODY-SIG AppId="%s",Timestamp="%s",Nonce="%s",Signature="%s"`,
			appID, timestamp, nonce, contentSignature(appID, appKey, timestamp, nonce, body)))
	}
}

func contentSignature(appID, appKey, timestamp, nonce string, content []byte) string {
	digest := sha256.Sum256(content)
	mac := hmac.New(sha256.New, []byte(appKey))
	mac.Write([]byte(appID + timestamp + nonce + hex.EncodeToString(digest[:])))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

var china = time.FixedZone("CST", 8*3600)

func stamp() (timestamp, nonce string) {
	now := time.Now().In(china)
	return now.Format("20060102150405"), hex.EncodeToString([]byte(now.Format("150405.000000000")))[:32]
}

// fetchToken is the first call of an SDK that works with access tokens; it signs with the token from then on.
func (s *sdk) fetchToken(appID, appKey string) error {
	s.t.Helper()
	timestamp, nonce := stamp()
	digest := sha256.Sum256([]byte(appID + timestamp + nonce + appKey))
	s.sign = nil
	answer, err := s.call("/v1/token/access", map[string]any{
		"appId": appID, "timestamp": timestamp, "nonce": nonce, "signMethod": "SHA256", "signature": hex.EncodeToString(digest[:]),
	})
	if err != nil {
		return err
	}
	token, _ := answer["accessToken"].(string)
	lifetime, _ := answer["expiresIn"].(float64)
	if answer["errCode"] != "0000" || token == "" || lifetime <= 60 {
		return thrown{fmt.Errorf("no token: %v", answer)}
	}
	s.sign = func(req *http.Request, _ []byte) {
		req.Header.Set("Authorization", fmt.Sprintf(`OPEN-ACCESS-TOKEN AccessToken="%s", AppId="%s"`, token, appID))
	}
	return nil
}

// terminalSignature signs as Shouqianba's SDKs do.
func terminalSignature(sn, key string) func(*http.Request, []byte) {
	return func(req *http.Request, body []byte) {
		digest := md5.Sum(append(slices.Clone(body), key...))
		req.Header.Set("Authorization", sn+" "+hex.EncodeToString(digest[:]))
	}
}

// migration is a platform, and the gateway of the page in front of it.
type migration struct {
	*sandbox.ChinaUMS
	keys    sandbox.Options
	url     string
	out, in string // where the gateway takes calls, and notifications
	orders  int
}

func newMigration(t *testing.T, options sandbox.Options, wrap ...func(http.Handler) http.Handler) *migration {
	t.Helper()
	setReadmeEnvironment(t)
	options.Schedule = []time.Duration{}
	platform, err := sandbox.New(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(platform.Close)
	var handler http.Handler = platform
	for _, with := range wrap {
		handler = with(handler)
	}
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	m := &migration{ChinaUMS: platform, keys: platform.Options(), url: server.URL}
	for name, value := range map[string]string{
		"UMS_APP_ID": m.keys.AppID, "UMS_APP_KEY": m.keys.AppKey, "UMS_NOTIFY_KEY": m.keys.NotifyKey, "UMS_MID": m.keys.MID, "UMS_UPSTREAM": server.URL,
	} {
		t.Setenv(name, value)
	}
	return m
}

// recipe loads the page's Caddyfile that holds the texts: in front of the sandbox, on free ports, changed by the pairs.
func (m *migration) recipe(t *testing.T, holds []string, pairs ...string) {
	t.Helper()
	shown := blockHolding(t, migrationPage, "caddyfile", holds...)
	m.out, m.in = free(t), free(t)
	if strings.Contains(shown, "environment test") {
		_, port, _ := net.SplitHostPort(m.out)
		pairs = append(pairs, "environment test", "upstream {env.UMS_UPSTREAM}", "http://:"+gatewayPort, "http://:"+port)
	} else {
		pairs = append(pairs, "pay.example.com {", "http://"+m.in+" {\n\tbind 127.0.0.1")
	}
	load(t, formatted(t, replaced(t, shown, pairs...)))
}

// sdk is one whose keys the gateway does not know.
func (m *migration) sdk(t *testing.T) *sdk {
	t.Helper()
	return &sdk{t: t, base: "http://" + m.out, sign: bodySignature("an-old-app-id", "an-old-app-key")}
}

func (m *migration) order(pairs ...any) map[string]any {
	m.orders++
	fields := map[string]any{
		"requestTimestamp": time.Now().In(china).Format(time.DateTime), "mid": m.keys.MID, "tid": m.keys.TID, "instMid": "APPDEFAULT",
		"tradeType": "APP", "merOrderId": fmt.Sprintf("%s202611240000%05d", m.keys.SourceCode, m.orders), "totalAmount": 1,
	}
	for i := 0; i < len(pairs); i += 2 {
		fields[pairs[i].(string)] = pairs[i+1]
	}
	return fields
}

// last is the last call that reached the platform.
func (m *migration) last(t *testing.T) sandbox.Call {
	t.Helper()
	calls := m.Calls()
	if len(calls) == 0 {
		t.Fatal("the platform was not called")
	}
	return calls[len(calls)-1]
}

// hang lets one order have no answer. Another one, of which the call arrives only now, is left alone.
func (m *migration) hang(order map[string]any, kind sandbox.FaultKind) {
	m.Break(sandbox.Fault{Kind: kind, Order: order["merOrderId"].(string)})
}

// struck reports whether the call of an order that hangs has come.
func (m *migration) struck(order map[string]any) bool {
	return !slices.ContainsFunc(m.Faults(), func(f sandbox.Fault) bool { return f.Order == order["merOrderId"] })
}

const precreate = "/v1/netpay/trade/precreate"

// ordered fails unless an SDK got the platform's answer to an order.
func ordered(t *testing.T, what string, answer map[string]any, err error) {
	t.Helper()
	if err != nil || answer["errCode"] != "SUCCESS" || answer["status"] != "NEW_ORDER" {
		t.Errorf("%s: %v, %v", what, answer, err)
	}
}

// refused fails unless an SDK threw, and its exception names all of the texts.
func refused(t *testing.T, what string, answer map[string]any, err error, texts ...string) {
	t.Helper()
	if _, ok := errors.AsType[thrown](err); !ok {
		t.Errorf("%s: it did not throw: %v, %v", what, answer, err)
		return
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("%s: the exception does not say %q: %v", what, text, err)
		}
	}
}

// formatted takes the Caddyfile's warning about its form away.
func formatted(t *testing.T, source string) []byte {
	t.Helper()
	return caddyfile.Format([]byte(source))
}

// outcomes reads bodies with the page's function.
func outcomes(t *testing.T, bodies ...any) string {
	t.Helper()
	content, err := json.Marshal(bodies)
	if err != nil {
		t.Fatal(err)
	}
	script := "foreach (json_decode(<<<'JSON'\n" + string(content) + "\nJSON, true) as $answer) echo outcome($answer), ' ';\n"
	return strings.TrimSpace(php(t, shownFunction(t, migrationPage, "outcome"), script))
}

// The first call of such an SDK is for a token; the page answers it with a dummy.
func TestMigrationAccessToken(t *testing.T) {
	m := newMigration(t, sandbox.Options{})
	plain := &sdk{t: t, base: m.url}
	if err := plain.fetchToken(m.keys.AppID, m.keys.AppKey); err != nil {
		t.Fatal("the SDK does not work with the platform: ", err)
	}
	answer, err := plain.call(precreate, m.order())
	ordered(t, "without a gateway", answer, err)

	recipe := []string{"the-gateway-signs", "chinaums_proxy"}
	m.recipe(t, []string{"respond `", "chinaums_proxy"}, "handle /v1/token/access {", "handle /elsewhere {")
	before := len(m.Calls())
	s := m.sdk(t)
	refused(t, "without the recipe", nil, s.fetchToken("an-old-app-id", "an-old-app-key"), "403", "GATEWAY_FORBIDDEN", "gives out a token")
	if got := len(m.Calls()); got != before {
		t.Errorf("%d calls reached the platform", got-before)
	}

	for _, test := range []struct{ name, options, authorized, fails string }{
		{"the recipe", "", "OPEN-BODY-SIG ", ""},
		{"a token of the gateway's own", "auth access_token", "OPEN-ACCESS-TOKEN ", ""},
		{"token", "token {env.GATEWAY_TOKEN}", "", "Authorization: Bearer"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m.recipe(t, recipe, "\t\tchinaums_proxy\n", "\t\tchinaums_proxy {\n"+test.options+"\n}\n")
			before := len(m.Calls())
			s := m.sdk(t)
			if err := s.fetchToken("an-old-app-id", "an-old-app-key"); err != nil {
				t.Fatal(err)
			}
			answer, err := s.call(precreate, m.order())
			if test.fails != "" {
				refused(t, "the call", answer, err, "403", test.fails)
				if got := len(m.Calls()); got != before {
					t.Errorf("%d calls reached the platform", got-before)
				}
				return
			}
			ordered(t, "the call", answer, err)
			authorization := m.last(t).Header.Get("Authorization")
			if !strings.HasPrefix(authorization, test.authorized) || strings.Contains(authorization, "the-gateway-signs") ||
				strings.Contains(authorization, "an-old-app-id") {
				t.Errorf("the call was authorized with %s", authorization)
			}
			for _, call := range m.Calls()[before:] {
				if bytes.Contains(call.Body, []byte("an-old-app-id")) {
					t.Errorf("the SDK's own call reached the platform: %s %s", call.Path, call.Body)
				}
			}
		})
	}
}

// A header that the SDK has of old does no harm, but it is where the gateway's token would be: the page has a hop on the
// app's machine put the one in the other's place.
func TestMigrationOldAuthorization(t *testing.T) {
	m := newMigration(t, sandbox.Options{})
	plain := []string{"allow 127.0.0.1 10.0.0.0/24"}
	m.recipe(t, plain)
	answer, err := m.sdk(t).call(precreate, m.order())
	ordered(t, "an old Authorization", answer, err)
	if got := m.last(t).Header.Values("Authorization"); len(got) != 1 || strings.Contains(got[0], "an-old-app-id") {
		t.Errorf("the call was authorized with %s", got)
	}

	allow := "allow 127.0.0.1 10.0.0.0/24"
	m.recipe(t, plain, allow, allow+"\ntoken {env.GATEWAY_TOKEN}")
	answer, err = m.sdk(t).call(precreate, m.order())
	refused(t, "an old Authorization and a token", answer, err, "403", "GATEWAY_FORBIDDEN", "Authorization: Bearer")
	bearer := m.sdk(t)
	bearer.sign = func(req *http.Request, _ []byte) {
		req.Header.Set("Authorization", "Bearer "+os.Getenv("GATEWAY_TOKEN"))
	}
	answer, err = bearer.call(precreate, m.order())
	ordered(t, "an SDK that lets its header be set", answer, err)
	bearer.sign = func(req *http.Request, body []byte) {
		bodySignature("an-old-app-id", "an-old-app-key")(req, body)
		req.Header.Add("Authorization", "Bearer "+os.Getenv("GATEWAY_TOKEN"))
	}
	answer, err = bearer.call(precreate, m.order())
	refused(t, "both in one request", answer, err, "403", "Authorization: Bearer")

	hop := free(t)
	_, port, _ := net.SplitHostPort(hop)
	site := replaced(t, blockHolding(t, migrationPage, "caddyfile", "header_up Authorization"),
		"http://:"+gatewayPort, "http://:"+port, "10.0.0.1:"+gatewayPort, m.out)
	_, gatewayAt, _ := net.SplitHostPort(m.out)
	shown := replaced(t, blockHolding(t, migrationPage, "caddyfile", plain...), "environment test", "upstream {env.UMS_UPSTREAM}",
		"http://:"+gatewayPort, "http://:"+gatewayAt, allow, "allow 127.0.0.1\ntoken {env.GATEWAY_TOKEN}")
	load(t, formatted(t, shown+"\n"+site))
	behind := m.sdk(t)
	behind.base = "http://" + hop
	answer, err = behind.call(precreate, m.order())
	ordered(t, "through the hop", answer, err)
	behind.header = http.Header{"X-Forwarded-For": {"10.0.0.7"}}
	answer, err = behind.call(precreate, m.order())
	ordered(t, "through the hop, which drops X-Forwarded-For", answer, err)
}

// Of all that the page's table says.
func TestMigrationTable(t *testing.T) {
	m := newMigration(t, sandbox.Options{Answers: sandbox.AnswersSigned})
	m.recipe(t, []string{"timeout 25s"})

	s := m.sdk(t)
	s.base += "/"
	answer, err := s.call(precreate, m.order())
	refused(t, "a base URL that ends in a slash", answer, err, "403", "GATEWAY_FORBIDDEN", "//", "URL")
	if got := len(m.Calls()); got != 0 {
		t.Errorf("%d calls reached the platform", got)
	}
	s = m.sdk(t)
	answer, err = s.call(precreate, m.order())
	ordered(t, "without the slash", answer, err)

	s.header = http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
	answer, err = s.call(precreate, m.order())
	refused(t, "a form", answer, err, "415", "GATEWAY_BAD_REQUEST", "application/json")
	s.header = nil

	bare := m.order("requestTimestamp", time.Now().In(china).Format("20060102150405"))
	answer, err = s.call(precreate, bare)
	ordered(t, "a requestTimestamp of 14 digits", answer, err)

	// The gateway verifies the answer's signature and keeps it.
	body, err := json.Marshal(m.order())
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.base+precreate, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if got := res.Header.Get("Authorization"); got != "" || res.StatusCode != http.StatusOK {
		t.Errorf("%s, with Authorization %q", res.Status, got)
	}

	m.recipe(t, []string{"timeout 25s"}, "validate warn", "validate reject")
	s = m.sdk(t)
	answer, err = s.call(precreate, bare)
	refused(t, "a requestTimestamp of 14 digits, validated", answer, err, "422", "requestTimestamp")
	answer, err = s.call(precreate, m.order())
	ordered(t, "a requestTimestamp as documented", answer, err)
}

// A proxy in between names its own client.
func TestMigrationForwardedFor(t *testing.T) {
	m := newMigration(t, sandbox.Options{})
	allow := "allow 127.0.0.1 10.0.0.0/24"
	for _, test := range []struct {
		name, allow, from string
		passes            bool
	}{
		{"no allow, no name", "", "", true}, // the hop itself names 127.0.0.1
		{"no allow, the app", "", "10.0.0.7", false},
		{"the recipe, the app", allow, "10.0.0.7", true},
		{"the recipe, a buyer", allow, "203.0.113.7", false},
		{"the recipe, a buyer in front of the app", allow, "203.0.113.7, 10.0.0.7", false},
		{"only the app named", "allow 10.0.0.0/24", "10.0.0.7", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			m.recipe(t, []string{allow}, allow, test.allow)
			target, err := url.Parse("http://" + m.out)
			if err != nil {
				t.Fatal(err)
			}
			between := &httputil.ReverseProxy{Transport: &http.Transport{DisableKeepAlives: true}, Rewrite: func(r *httputil.ProxyRequest) {
				r.SetURL(target)
				r.Out.Header["X-Forwarded-For"] = r.In.Header["X-Forwarded-For"]
				r.SetXForwarded()
			}}
			server := httptest.NewServer(between)
			defer server.Close()
			s := m.sdk(t)
			s.base = server.URL
			if test.from != "" {
				s.header = http.Header{"X-Forwarded-For": {test.from}}
			}
			answer, err := s.call(precreate, m.order())
			switch {
			case test.passes:
				ordered(t, "the call", answer, err)
			case test.allow == "allow 10.0.0.0/24":
				refused(t, "the call", answer, err, "403", "GATEWAY_FORBIDDEN", "allow")
			default:
				refused(t, "the call", answer, err, "403", "GATEWAY_FORBIDDEN", "X-Forwarded-For", "allow")
			}
		})
	}
}

// What such an SDK throws away stands in the body, under status 200.
func TestMigrationThrows(t *testing.T) {
	m := newMigration(t, sandbox.Options{})
	cases := []struct {
		name, path    string
		fault         *sandbox.Fault
		code, outcome string
	}{
		{"an order", precreate, nil, "SUCCESS", "answered"},
		{"a business error", "/v1/netpay/query", nil, "NO_ORDER", "answered"},
		{"refused here", "/v1/token/access", nil, "GATEWAY_FORBIDDEN", "not_sent"},
		{"cut", precreate, &sandbox.Fault{Kind: sandbox.CutExecuted}, "GATEWAY_BAD_RESPONSE", "unknown"},
		{"too large", precreate, &sandbox.Fault{Kind: sandbox.TooLarge}, "GATEWAY_BAD_RESPONSE", "unknown"},
		{"the platform's page of HTML", precreate, &sandbox.Fault{Kind: sandbox.ServerError}, "", "unknown"},
		{"a page of HTML with 200", precreate, &sandbox.Fault{Kind: sandbox.NotJSON}, "", "unknown"},
		{"no answer", precreate, &sandbox.Fault{Kind: sandbox.HangExecuted}, "GATEWAY_TIMEOUT", "unknown"},
	}
	const directive = "intercept {\n\t\t@error status 4xx 5xx\n\t\treplace_status @error 200\n\t}\n"
	for _, with := range []string{"", directive} {
		timeout := func(timeout string) {
			m.recipe(t, []string{"intercept"}, directive, with, "\tchinaums_proxy\n", "\tchinaums_proxy {\ntimeout "+timeout+"\n}\n")
		}
		timeout("1m")
		var bodies []any
		var want []string
		for _, test := range cases {
			if test.fault != nil && test.code != "GATEWAY_TIMEOUT" {
				m.Break(*test.fault)
			}
			order := m.order()
			if test.code == "GATEWAY_TIMEOUT" {
				timeout("1s")
				m.hang(order, test.fault.Kind)
			}
			answer, err := m.sdk(t).call(test.path, order)
			for _, longer := range []string{"5s", "20s"} { // a busy machine may not send the call in the first
				if !m.struck(order) {
					timeout(longer)
					order = m.order()
					m.hang(order, test.fault.Kind)
					answer, err = m.sdk(t).call(test.path, order)
				}
			}
			own := strings.HasPrefix(test.code, "GATEWAY_") || test.fault != nil && test.fault.Kind == sandbox.ServerError
			switch {
			case with == "" && own:
				refused(t, test.name+" without the recipe", answer, err)
			case test.code == "":
				refused(t, test.name, answer, err)
				bodies, want = append(bodies, nil), append(want, test.outcome)
			case err != nil || answer["errCode"] != test.code:
				t.Errorf("%s: %v, %v", test.name, answer, err)
			default:
				bodies, want = append(bodies, answer), append(want, test.outcome)
			}
		}
		if with != "" && len(bodies) != len(cases) {
			t.Errorf("the app saw %d of %d", len(bodies), len(cases))
		}
		if got := outcomes(t, bodies...); got != strings.Join(want, " ") {
			t.Errorf("the app reads %s, not %s", got, want)
		}
	}
}

// The gateway's timeout is the shorter one: the SDK is told, and need not guess. And where the SDK's is the shorter one,
// the call goes on to its end.
func TestMigrationTimeout(t *testing.T) {
	arrived, release, served := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	held := false
	var mu sync.Mutex
	m := newMigration(t, sandbox.Options{}, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			hold := held
			mu.Unlock()
			if !hold {
				next.ServeHTTP(w, r)
				return
			}
			arrived <- struct{}{}
			<-release
			next.ServeHTTP(w, r)
			served <- r.Context().Err()
		})
	})
	// The page's figures are 25 s and 30 s; only which of them is shorter matters.
	for name, kind := range map[string]sandbox.FaultKind{"not executed": sandbox.Hang, "executed": sandbox.HangExecuted} {
		for _, timeout := range []string{"250ms", "2s", "20s"} { // a busy machine may not send the call in the first
			m.recipe(t, []string{"timeout 25s"}, "timeout 25s", "timeout "+timeout)
			s := m.sdk(t)
			s.timeout = time.Minute
			order := m.order()
			m.hang(order, kind)
			answer, err := s.call(precreate, order)
			if !m.struck(order) && timeout != "20s" {
				continue
			}
			refused(t, name, answer, err, "504", "GATEWAY_TIMEOUT", `"outcome":"unknown"`)
			number := order["merOrderId"].(string)
			if kind == sandbox.HangExecuted {
				testutil.Eventually(t, "the platform knows the order", func() bool { _, known := m.Order(number); return known })
			} else if _, known := m.Order(number); known {
				t.Errorf("%s: the platform knows the order", name)
			}
			break
		}
	}

	m.recipe(t, []string{"timeout 25s"})
	s := m.sdk(t)
	mu.Lock()
	held = true
	mu.Unlock()
	ctx, giveUp := context.WithCancel(t.Context())
	order := m.order()
	body, err := json.Marshal(order)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.base+precreate, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	ended := make(chan error, 1)
	go func() {
		res, err := client.Do(req)
		if err == nil {
			_ = res.Body.Close()
		}
		ended <- err
	}()
	<-arrived
	giveUp()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Fatalf("the SDK got an answer: %v", err)
	}
	release <- struct{}{}
	if err := <-served; err != nil {
		t.Errorf("the call was cut when the SDK gave up: %v", err)
	}
	if _, known := m.Order(order["merOrderId"].(string)); !known {
		t.Error("the platform does not know the order")
	}
}

// Such an SDK makes its links by itself, for the buyer's browser.
func TestMigrationH5(t *testing.T) {
	m := newMigration(t, sandbox.Options{})
	const page = "/v1/netpay/trade/h5-pay"
	order := m.order("instMid", "H5DEFAULT")
	built := func(base, appID, appKey string) string {
		content, err := json.Marshal(order)
		if err != nil {
			t.Fatal(err)
		}
		timestamp, nonce := stamp()
		return base + page + "?" + url.Values{
			"authorization": {"OPEN-FORM-PARAM"}, "appId": {appID}, "timestamp": {timestamp}, "nonce": {nonce}, "content": {string(content)},
			"signature": {contentSignature(appID, appKey, timestamp, nonce, content)},
		}.Encode()
	}
	open := func(link string) (int, string, string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, link, nil)
		if err != nil {
			t.Fatal(err)
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
		return res.StatusCode, res.Header.Get("Location"), string(content)
	}
	if status, location, content := open(built(m.url, m.keys.AppID, m.keys.AppKey)); status != http.StatusFound || location == "" {
		t.Fatalf("the SDK does not work with the platform: %d %s", status, content)
	}

	m.recipe(t, []string{"chinaums_h5"})
	before := len(m.Calls())
	status, _, content := open(built("http://"+m.out, m.keys.AppID, m.keys.AppKey))
	if status != http.StatusMethodNotAllowed || !strings.Contains(content, "GATEWAY_BAD_REQUEST") || !strings.Contains(content, "POST") {
		t.Errorf("a link to the gateway: %d %s", status, content)
	}
	if got := len(m.Calls()); got != before {
		t.Errorf("%d calls reached the platform", got-before)
	}

	// The page's function, in place of the builder.
	order = m.order("instMid", "H5DEFAULT", "orderDesc", "一杯茶 + \"two\" & more")
	content2, err := json.Marshal(order)
	if err != nil {
		t.Fatal(err)
	}
	function := replaced(t, shownFunction(t, migrationPage, "h5_link"), "127.0.0.1:"+gatewayPort, m.out)
	link := php(t, function, "echo h5_link('"+page+"', json_decode(<<<'JSON'\n"+string(content2)+"\nJSON, true));\n")
	if !strings.HasPrefix(link, m.url+page+"?") || strings.Contains(link, m.out) {
		t.Fatalf("the link is %s", link)
	}
	if status, location, content := open(link); status != http.StatusFound || location == "" {
		t.Errorf("the link leads to %d %s", status, content)
	}
	if got, known := m.Order(order["merOrderId"].(string)); !known || got.TotalAmount != 1 {
		t.Errorf("the platform has %+v", got)
	}
	// Everything else still is a call.
	answer, err := m.sdk(t).call(precreate, m.order())
	ordered(t, "a call", answer, err)
}

// notified sends a notification and returns the word.
func (m *migration) notified(t *testing.T, variant sandbox.Variant, fields map[string]string) (int, string) {
	t.Helper()
	all := map[string]string{"mid": m.keys.MID, "tid": m.keys.TID, "merOrderId": m.keys.SourceCode + "20261124000000001"}
	maps.Copy(all, fields)
	message, err := sandbox.Notify{Kind: sandbox.KindPayment, Variant: variant, Key: m.keys.NotifyKey, Fields: all}.Build()
	if err != nil {
		t.Fatal(err)
	}
	status, word := send(t, "http://"+m.in+"/notify", string(message.Body), http.Header{"Content-Type": {message.ContentType}})
	return status, string(word)
}

// An app that answers JSON or HTML.
func TestMigrationAckStatus(t *testing.T) {
	m := newMigration(t, sandbox.Options{})
	var answer struct {
		status     int
		kind, said string
	}
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil || r.PostForm.Get("sign") == "" || r.PostForm.Get("merOrderId") == "" {
			t.Errorf("the app got %v: %v", r.PostForm, err)
		}
		w.Header().Set("Content-Type", answer.kind)
		w.WriteHeader(answer.status)
		fmt.Fprint(w, answer.said)
	}))
	defer app.Close()
	for _, test := range []struct {
		status           int
		kind, said       string
		byStatus, byWord string
	}{
		{200, "application/json", `{"msg":"SUCCESS"}`, "SUCCESS", "FAILED"},
		{200, "application/json", `{"msg":"FAIL"}`, "SUCCESS", "FAILED"},
		{200, "text/html", "<br />\n<b>Warning</b>: Undefined variable", "SUCCESS", "FAILED"},
		{201, "application/json", `"SUCCESS"`, "SUCCESS", "FAILED"},
		{200, "text/html", "success", "SUCCESS", "SUCCESS"},
		{200, "text/plain", "FAILED", "FAILED", "FAILED"},
		{200, "text/plain", "fail\n", "FAILED", "FAILED"},
		{500, "application/json", `{"msg":"SUCCESS"}`, "FAILED", "FAILED"},
		{302, "text/html", "", "FAILED", "FAILED"},
	} {
		answer.status, answer.kind, answer.said = test.status, test.kind, test.said
		for ack, want := range map[string]string{"\t\t\tack 2xx\n": test.byStatus, "": test.byWord} {
			m.recipe(t, []string{"ack 2xx"}, "\t\t\tack 2xx\n", ack, "127.0.0.1:"+appPort, strings.TrimPrefix(app.URL, "http://"))
			status, word := m.notified(t, sandbox.Genuine, nil)
			wantStatus := map[string]int{"SUCCESS": 200, "FAILED": 502}[want]
			if word != want || status != wantStatus {
				t.Errorf("%q %d %s: %d %s, not %s", ack, test.status, test.said, status, word, want)
			}
		}
	}
}

// sdkNotifyPHP is an app with its SDK's check, under PHP-FPM, as public code has it: $_POST, sorted, joined, with the key
// behind it. Its log is what it has been asked.
const sdkNotifyPHP = `<?php
$key = trim(file_get_contents(__DIR__ . '/../key'));
$fields = array_filter($_POST, fn ($value) => $value !== '');
$sign = $fields['sign'] ?? '';
unset($fields['sign']);
ksort($fields, SORT_STRING);
$text = implode('&', array_map(fn ($name, $value) => "$name=$value", array_keys($fields), $fields)) . $key;
$true = strcasecmp($sign, ($fields['signType'] ?? '') === 'SHA256' ? hash('sha256', $text) : md5($text)) === 0;
$event = json_decode(file_get_contents('php://input'), true);
file_put_contents(__DIR__ . '/../log', json_encode([$true, $_SERVER['HTTP_CE_TYPE'] ?? '', $event['totalAmount'] ?? null]) . "\n", FILE_APPEND);
echo $true || isset($event) ? 'SUCCESS' : 'FAILED';
`

// The three steps of the page, with an app that verifies by itself.
func TestMigrationNotify(t *testing.T) {
	m := newMigration(t, sandbox.Options{})
	cgi, err := exec.LookPath("php-cgi")
	if err != nil {
		missing(t, "php-cgi")
	}
	directory := t.TempDir()
	root := filepath.Join(directory, "shop")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"shop/index.php": sdkNotifyPHP, "key": m.keys.NotifyKey} {
		if err := os.WriteFile(filepath.Join(directory, filepath.FromSlash(name)), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	listen := free(t)
	command := exec.CommandContext(t.Context(), cgi, "-b", listen)
	var output lines
	command.Stdout, command.Stderr = &output, &output
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
	})
	listening(t, listen, &output)
	asked := func() string {
		content, err := os.ReadFile(filepath.Join(directory, "log"))
		if errors.Is(err, os.ErrNotExist) {
			return ""
		}
		if err != nil {
			t.Fatal(err)
		}
		_ = os.Remove(filepath.Join(directory, "log"))
		return strings.TrimSpace(string(content))
	}

	for _, test := range []struct {
		step                  string
		trueWord, falseWord   string
		trueAsked, falseAsked string
	}{
		{"observe", "SUCCESS", "FAILED", `[true,"",null]`, `[false,"",null]`},
		{"format original", "SUCCESS", "FAILED", `[true,"com.chinaums.payment.succeeded",null]`, ""},
		{"", "SUCCESS", "FAILED", `[false,"com.chinaums.payment.succeeded",1234]`, ""},
	} {
		t.Run("step "+test.step, func(t *testing.T) {
			m.recipe(t, []string{"observe"}, "observe", test.step, "/srv/shop", root, "127.0.0.1:"+fpmPort, listen)
			fields := map[string]string{"totalAmount": "1234", "orderDesc": "一杯茶 + \"two\""}
			if status, word := m.notified(t, sandbox.Genuine, fields); status != http.StatusOK || word != test.trueWord {
				t.Errorf("a true one: %d %s\n%s", status, word, output.String())
			}
			if got := asked(); got != test.trueAsked {
				t.Errorf("a true one: the app was asked %s, not %s", got, test.trueAsked)
			}
			if _, word := m.notified(t, sandbox.Tampered, fields); word != test.falseWord {
				t.Errorf("a false one: %s", word)
			}
			if got := asked(); got != test.falseAsked {
				t.Errorf("a false one: the app was asked %s, not %s", got, test.falseAsked)
			}
		})
	}
}

// till is a platform of Shouqianba with the gateway of the page.
type till struct {
	*sandbox.Shouqianba
	keys    sandbox.ShouqianbaOptions
	url     string
	storage string
	orders  int
}

func newTill(t *testing.T) *till {
	t.Helper()
	setReadmeEnvironment(t)
	platform, err := sandbox.NewShouqianba(sandbox.ShouqianbaOptions{Schedule: []time.Duration{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(platform.Close)
	server := httptest.NewServer(platform)
	t.Cleanup(server.Close)
	p := &till{Shouqianba: platform, keys: platform.Options(), url: server.URL, storage: t.TempDir()}
	for name, value := range map[string]string{
		"SQB_VENDOR_SN": p.keys.VendorSN, "SQB_VENDOR_KEY": p.keys.VendorKey, "SQB_APP_ID": p.keys.AppID, "SQB_ACTIVATION_CODE": p.keys.ActivationCode,
		"SQB_PUBLIC_KEY": platform.PublicKey(), "SQB_TERMINAL_SN": "", "SQB_UPSTREAM": server.URL,
	} {
		t.Setenv(name, value)
	}
	return p
}

// load runs Caddy with a Caddyfile and the till's storage. It returns how to load the same again, at another address: at
// the same one, a connection may reach the configuration that is going.
func (p *till) load(t *testing.T, shown string) (reload func(from, to string)) {
	t.Helper()
	var document map[string]any
	if err := json.Unmarshal(quiet(t, adapt(t, formatted(t, shown))), &document); err != nil {
		t.Fatal(err)
	}
	document["storage"] = map[string]any{"module": "file_system", "root": p.storage}
	config, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	loadAdapted(t, config)
	return func(from, to string) {
		if err := caddy.Load([]byte(replaced(t, string(config), from, to)), true); err != nil {
			t.Fatal(err)
		}
	}
}

func (p *till) order(terminal string) map[string]any {
	p.orders++
	return map[string]any{
		"terminal_sn": terminal, "client_sn": fmt.Sprint("tea", p.orders), "total_amount": "1", "payway": "3", "subject": "tea", "operator": "till",
	}
}

const upayPrecreate = "/upay/v2/precreate"

// checkIn is what such an SDK does each morning: it signs with the new key from then on.
func (s *sdk) checkIn(sn string) error {
	s.t.Helper()
	answer, err := s.call("/terminal/checkin", map[string]any{"terminal_sn": sn, "device_id": "till-1"})
	if err != nil {
		return err
	}
	response, _ := answer["biz_response"].(map[string]any)
	key, _ := response["terminal_key"].(string)
	if answer["result_code"] != "200" || response["terminal_sn"] != sn || key == "" {
		return thrown{fmt.Errorf("no check-in: %v", answer)}
	}
	s.sign = terminalSignature(sn, key)
	return nil
}

func sold(t *testing.T, what string, answer map[string]any, err error) {
	t.Helper()
	response, _ := answer["biz_response"].(map[string]any)
	if err != nil || answer["result_code"] != "200" || response["result_code"] != "PRECREATE_SUCCESS" {
		t.Errorf("%s: %v, %v", what, answer, err)
	}
}

// The gateway owns the terminal, and the SDK checks in all the same.
func TestMigrationShouqianbaCheckIn(t *testing.T) {
	p := newTill(t)
	out := free(t)
	_, port, _ := net.SplitHostPort(out)
	recipe := []string{"device_id till-1", "handle /terminal/checkin"}
	shown := replaced(t, blockHolding(t, migrationPage, "caddyfile", recipe...),
		"device_id till-1\n", "device_id till-1\nupstream {env.SQB_UPSTREAM}\n", "http://:"+gatewayPort, "http://:"+port)
	s := &sdk{t: t, base: "http://" + out, sign: terminalSignature("100000000000000001", "an-old-key")}

	// Without the recipe, and before anybody knows the terminal's number.
	p.load(t, replaced(t, shown, "handle /terminal/checkin {", "handle /elsewhere {"))
	refused(t, "without the recipe", nil, s.checkIn("100000000000000001"), "403", "GATEWAY_FORBIDDEN", "gives out a token or a key")
	if _, err := s.call(upayPrecreate, p.order("100000000000000001")); err != nil {
		t.Fatal(err)
	}
	sn := p.Terminal("till-1")
	if sn == "" || p.Activations() != 1 || p.Checkins() != 0 {
		t.Fatalf("terminal %q, %d activations, %d check-ins", sn, p.Activations(), p.Checkins())
	}

	// With it, and the number from the log: the SDK gets its dummy and sells.
	t.Setenv("SQB_TERMINAL_SN", sn)
	p.load(t, shown)
	s.sign = terminalSignature(sn, "an-old-key")
	key, _ := p.Keys(sn)
	for range 2 {
		if err := s.checkIn(sn); err != nil {
			t.Fatal(err)
		}
		answer, err := s.call(upayPrecreate, p.order(sn))
		sold(t, "a call", answer, err)
	}
	if now, _ := p.Keys(sn); now != key || p.Checkins() != 0 || p.Activations() != 1 {
		t.Errorf("the SDK's check-in reached the platform: %d check-ins, %d activations", p.Checkins(), p.Activations())
	}
}

// The SDK owns the terminal: it checks in through the gateway, or past it, and the gateway reads the key from a file.
func TestMigrationShouqianbaOwnTerminal(t *testing.T) {
	p := newTill(t)
	out := free(t)
	_, port, _ := net.SplitHostPort(out)
	file := filepath.Join(t.TempDir(), "sqb_terminal_key")
	keep := func() {
		current, _ := p.Keys(p.keys.TerminalSN)
		if err := os.WriteFile(file, []byte(current+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	keep()
	t.Setenv("SQB_TERMINAL_SN", p.keys.TerminalSN)
	shown := replaced(t, blockHolding(t, migrationPage, "caddyfile", "terminal_key {file."),
		"{file./run/secrets/sqb_terminal_key}", "{file."+file+"}\nupstream {env.SQB_UPSTREAM}", "http://:"+gatewayPort, "http://:"+port,
		"https://vsi-api.shouqianba.com", p.url)
	reload := p.load(t, shown)
	s := &sdk{t: t, base: "http://" + out, sign: terminalSignature(p.keys.TerminalSN, p.keys.TerminalKey)}
	answer, err := s.call(upayPrecreate, p.order(p.keys.TerminalSN))
	sold(t, "before the check-in", answer, err)

	for _, name := range []string{"through the gateway", "past the gateway"} {
		checkins := p.Checkins()
		checking := &sdk{t: t, base: s.base, sign: s.sign}
		if name == "past the gateway" {
			checking.base = p.url
		}
		if err := checking.checkIn(p.keys.TerminalSN); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		s.sign = checking.sign
		if p.Checkins() != checkins+1 {
			t.Errorf("%s: %d check-ins", name, p.Checkins()-checkins)
		}
		// Until the reload, the platform's own error.
		answer, err := s.call(upayPrecreate, p.order(p.keys.TerminalSN))
		if err != nil || answer["result_code"] == "200" || strings.HasPrefix(fmt.Sprint(answer["error_code"]), "GATEWAY_") {
			t.Errorf("%s, before the reload: %v, %v", name, answer, err)
		}
		keep()
		address := free(t)
		_, next, _ := net.SplitHostPort(address)
		reload(":"+port, ":"+next)
		s.base = "http://" + address
		answer, err = s.call(upayPrecreate, p.order(p.keys.TerminalSN))
		sold(t, name+", after the reload", answer, err)
	}
	if p.Activations() != 0 {
		t.Errorf("%d activations", p.Activations())
	}
}

// The SDK's own RSA check of Shouqianba's notifications, behind format original.
func TestMigrationShouqianbaNotify(t *testing.T) {
	p := newTill(t)
	block, _ := pem.Decode([]byte(p.PublicKey()))
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	checked := make(chan error, 1)
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		signature, decodeErr := base64.StdEncoding.DecodeString(r.Header.Get("Authorization"))
		digest := sha256.Sum256(body)
		checked <- errors.Join(err, decodeErr, rsa.VerifyPKCS1v15(parsed.(*rsa.PublicKey), crypto.SHA256, digest[:], signature))
		fmt.Fprint(w, "success")
	}))
	defer app.Close()
	in := free(t)
	t.Setenv("SQB_TERMINAL_SN", p.keys.TerminalSN)
	t.Setenv("SQB_TERMINAL_KEY", p.keys.TerminalKey)
	p.load(t, "{\nshouqianba {\nterminal till {\nterminal_sn {env.SQB_TERMINAL_SN}\nterminal_key {env.SQB_TERMINAL_KEY}\npublic_key {env.SQB_PUBLIC_KEY}\n}\n}\n}\n"+
		"http://"+in+" {\nbind 127.0.0.1\nshouqianba_notify {\nformat original\n}\nreverse_proxy "+strings.TrimPrefix(app.URL, "http://")+"\n}\n")
	s := &sdk{t: t, base: p.url, sign: terminalSignature(p.keys.TerminalSN, p.keys.TerminalKey)}
	order := p.order(p.keys.TerminalSN)
	order["notify_url"] = "http://" + in + "/notify"
	answer, err := s.call(upayPrecreate, order)
	sold(t, "an order", answer, err)
	if err := p.Pay(order["client_sn"].(string)); err != nil {
		t.Fatal(err)
	}
	if err := p.WaitDelivered(t.Context(), order["client_sn"].(string), sandbox.KindPayment); err != nil {
		t.Fatal(err)
	}
	if err := <-checked; err != nil {
		t.Errorf("the SDK's check: %v", err)
	}
}
