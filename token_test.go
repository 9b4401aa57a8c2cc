package chinaums

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/internal/outbound"
	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
	"github.com/caddy-chinaums/caddy-chinaums/internal/token"
)

func TestTokenRequestVectors(t *testing.T) {
	var vectors []struct {
		Timestamp, Nonce, Signature string
		AppID                       string `json:"app_id"`
		AppKey                      string `json:"app_key"`
	}
	readVectors(t, "access-token.json", &vectors)
	if len(vectors) == 0 {
		t.Fatal("no vectors")
	}
	for _, v := range vectors {
		body := newBodySigner(v.AppID, v.AppKey).tokenRequest(vectorTime(t, v.Timestamp), v.Nonce)
		var got map[string]string
		if err := json.Unmarshal(body, &got); err != nil {
			t.Fatal(err)
		}
		want := map[string]string{"appId": v.AppID, "timestamp": v.Timestamp, "nonce": v.Nonce, "signMethod": "SHA256", "signature": v.Signature}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%v, not %v", got, want)
		}
	}
}

// testClock is a clock that a test sets.
type testClock struct{ nanoseconds atomic.Int64 }

func newTestClock() *testClock {
	c := new(testClock)
	c.nanoseconds.Store(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).UnixNano())
	return c
}
func (c *testClock) now() time.Time           { return time.Unix(0, c.nanoseconds.Load()) }
func (c *testClock) advance(by time.Duration) { c.nanoseconds.Add(int64(by)) }

// tokenPlatform gives out tokens token-1, token-2, … and can be told what to answer instead.
type tokenPlatform struct {
	mu     sync.Mutex
	count  int
	answer func(count int) (status int, body string)
	during func()
	got    []*http.Request
}

func (p *tokenPlatform) RoundTrip(req *http.Request) (*http.Response, error) {
	p.mu.Lock()
	p.count++
	count, answer, during := p.count, p.answer, p.during
	p.got = append(p.got, req)
	p.mu.Unlock()
	if during != nil {
		during()
	}
	recorder := httptest.NewRecorder()
	status, body := http.StatusOK, fmt.Sprintf(`{"errCode":"0000","errInfo":"x","accessToken":"token-%d","expiresIn":3600}`, count)
	if answer != nil {
		status, body = answer(count)
	}
	if status == 0 {
		return nil, errors.New(`connection lost "SECRETANSWER"`)
	}
	recorder.WriteHeader(status)
	_, _ = recorder.WriteString(body)
	return recorder.Result(), nil
}

func (p *tokenPlatform) fetches() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count
}

func testMerchant(t testing.TB) *merchant {
	t.Helper()
	endpoint, _, err := outbound.ParseEndpoint("https://platform.example")
	if err != nil {
		t.Fatal(err)
	}
	return &merchant{name: "shop", endpoint: endpoint, signer: newBodySigner(testAppID, testAppKey)}
}

// newTestTokens is one server of a fleet: it shares nothing with others but the storage.
func newTestTokens(t testing.TB, platform http.RoundTripper, storage certmagic.Storage, clock *testClock) *tokens {
	t.Helper()
	tokens, err := newTokens(testMerchant(t), outbound.Through(platform), storage, zap.NewNop(), clock.now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tokens.release() })
	tokens.Source = new(token.Source)
	return tokens
}

func mustToken(t testing.TB, tokens *tokens, want string) *token.Token {
	t.Helper()
	token, err := tokens.Get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if token.Text != want {
		t.Fatalf("%s, not %s", token.Text, want)
	}
	return token
}

// TestTokenLife follows one token from its fetch to its end.
func TestTokenLife(t *testing.T) {
	platform, clock := new(tokenPlatform), newTestClock()
	tokens := newTestTokens(t, platform, &certmagic.FileStorage{Path: t.TempDir()}, clock)
	first := mustToken(t, tokens, "token-1")
	if want := `OPEN-ACCESS-TOKEN AccessToken="token-1", AppId="` + testAppID + `"`; first.Header != want {
		t.Errorf("%s, not %s", first.Header, want)
	}
	req := platform.got[0]
	if req.Method != "POST" || req.URL.String() != "https://platform.example:443/v1/token/access" || req.Host != "platform.example" ||
		req.Header.Get("Authorization") != "" || req.Header.Get("Content-Type") != "application/json" {
		t.Errorf("%s %s, Host %s, %v", req.Method, req.URL, req.Host, req.Header)
	}
	clock.advance(54 * time.Minute)
	mustToken(t, tokens, "token-1")
	if platform.fetches() != 1 {
		t.Errorf("%d fetches", platform.fetches())
	}

	// Five minutes before its end it is renewed in the background, while calls go on with it.
	hold, entered := make(chan struct{}), make(chan struct{}, 1)
	platform.mu.Lock()
	platform.during = func() { entered <- struct{}{}; <-hold }
	platform.mu.Unlock()
	clock.advance(time.Minute)
	mustToken(t, tokens, "token-1")
	<-entered
	for range 100 {
		mustToken(t, tokens, "token-1")
	}
	close(hold)
	eventually(t, "the renewal", func() bool { token, _ := tokens.Get(t.Context()); return token != nil && token.Text == "token-2" })
	if platform.fetches() != 2 {
		t.Errorf("%d fetches", platform.fetches())
	}

	// Nobody calls for a long time: past its end it is not used any more, whatever happens.
	clock.advance(2 * time.Hour)
	platform.mu.Lock()
	platform.during = nil
	platform.answer = func(int) (int, string) { return 0, "" }
	platform.mu.Unlock()
	if token, err := tokens.Get(t.Context()); err == nil {
		t.Errorf("%s is used past its end", token.Text)
	}
}

// TestTokenRenewalFails: a renewal that fails costs nothing as long as the token holds, and is not tried at each call.
func TestTokenRenewalFails(t *testing.T) {
	platform, clock := new(tokenPlatform), newTestClock()
	tokens := newTestTokens(t, platform, &certmagic.FileStorage{Path: t.TempDir()}, clock)
	mustToken(t, tokens, "token-1")
	platform.mu.Lock()
	platform.answer = func(count int) (int, string) {
		if count < 4 {
			return 503, "busy"
		}
		return 200, `{"errCode":"0000","accessToken":"token-late","expiresIn":3600}`
	}
	platform.mu.Unlock()
	clock.advance(56 * time.Minute)
	for want := 2; want < 4; want++ {
		mustToken(t, tokens, "token-1")
		eventually(t, "the end of the renewal", func() bool { return platform.fetches() == want && !tokens.Source.Renewing() })
		for range 100 {
			mustToken(t, tokens, "token-1")
		}
		if platform.fetches() != want {
			t.Fatalf("%d fetches", platform.fetches())
		}
		clock.advance(token.RetryTime)
	}
	mustToken(t, tokens, "token-1")
	eventually(t, "the new token", func() bool { token, _ := tokens.Get(t.Context()); return token.Text == "token-late" })
}

// TestTokenExpiryMidFlight: 200 callers find the token at its end; one fetch serves them all, and none gets the old one.
func TestTokenExpiryMidFlight(t *testing.T) {
	platform, clock := new(tokenPlatform), newTestClock()
	tokens := newTestTokens(t, platform, &certmagic.FileStorage{Path: t.TempDir()}, clock)
	mustToken(t, tokens, "token-1")
	clock.advance(time.Hour - 10*time.Second)
	var wrong atomic.Int32
	var all sync.WaitGroup
	for range 200 {
		all.Go(func() {
			if token, err := tokens.Get(t.Context()); err != nil || token.Text != "token-2" {
				wrong.Add(1)
			}
		})
	}
	all.Wait()
	if wrong.Load() != 0 || platform.fetches() != 2 {
		t.Errorf("%d callers got something else; %d fetches", wrong.Load(), platform.fetches())
	}
}

// TestTokenCallerGone: who waits no longer than its call may; the fetch goes on for the others.
func TestTokenCallerGone(t *testing.T) {
	platform, clock := new(tokenPlatform), newTestClock()
	hold := make(chan struct{})
	platform.during = func() { <-hold }
	tokens := newTestTokens(t, platform, &certmagic.FileStorage{Path: t.TempDir()}, clock)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := tokens.Get(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	close(hold)
	mustToken(t, tokens, "token-1")
	if platform.fetches() != 1 {
		t.Errorf("%d fetches", platform.fetches())
	}
}

// TestTokenFleet: servers that share a storage share a token, its renewal, and its end when the platform refuses it.
func TestTokenFleet(t *testing.T) {
	platform, clock := new(tokenPlatform), newTestClock()
	directory := t.TempDir()
	var fleet []*tokens
	for range 3 {
		fleet = append(fleet, newTestTokens(t, platform, &certmagic.FileStorage{Path: directory}, clock))
	}
	var all sync.WaitGroup
	for _, server := range fleet {
		for range 20 {
			all.Go(func() { mustToken(t, server, "token-1") })
		}
	}
	all.Wait()
	if platform.fetches() != 1 {
		t.Fatalf("%d fetches", platform.fetches())
	}
	// What is stored is sealed.
	found := 0
	err := filepath.WalkDir(directory, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(name)
		if strings.Contains(string(text), "token-1") || strings.Contains(name, testAppID) || strings.Contains(string(text), testAppID) {
			t.Errorf("%s can be read", name)
		}
		found++
		return err
	})
	if err != nil || found == 0 {
		t.Errorf("%d files, %v", found, err)
	}

	// One server renews; the others take what it got.
	clock.advance(56 * time.Minute)
	eventually(t, "the first server's renewal", func() bool { token, _ := fleet[0].Get(t.Context()); return token.Text == "token-2" })
	for _, server := range fleet[1:] {
		eventually(t, "the others' renewal", func() bool { token, _ := server.Get(t.Context()); return token.Text == "token-2" })
	}
	if platform.fetches() != 2 {
		t.Errorf("%d fetches", platform.fetches())
	}

	// The platform refuses the token: each server learns it for itself, but one new token serves all.
	for _, server := range fleet {
		server.Source.Drop(server.Source.Current())
	}
	for _, server := range fleet {
		mustToken(t, server, "token-3")
	}
	if platform.fetches() != 3 {
		t.Errorf("%d fetches", platform.fetches())
	}
}

// TestTokenOverOnArrival: a token whose time is over when it comes is not used.
func TestTokenOverOnArrival(t *testing.T) {
	clock := newTestClock()
	platform := &tokenPlatform{during: func() { clock.advance(time.Hour) }}
	tokens := newTestTokens(t, platform, &certmagic.FileStorage{Path: t.TempDir()}, clock)
	if token, err := tokens.Get(t.Context()); err == nil {
		t.Errorf("%+v", token)
	}
}

// TestTokenLateServer: a server that joins when the shared token is due for renewal fetches a new one, and does not run
// into the old one's end; one whose clock is far behind does not believe it.
func TestTokenLateServer(t *testing.T) {
	platform, clock, behind := new(tokenPlatform), newTestClock(), newTestClock()
	directory := t.TempDir()
	server := func(clock *testClock) *tokens {
		return newTestTokens(t, platform, &certmagic.FileStorage{Path: directory}, clock)
	}
	mustToken(t, server(clock), "token-1")
	clock.advance(30 * time.Minute)
	mustToken(t, server(clock), "token-1")
	clock.advance(26 * time.Minute)
	mustToken(t, server(clock), "token-2")
	mustToken(t, server(clock), "token-2")
	mustToken(t, server(behind), "token-3")
}

// TestTokenDrop: dropping is about the token that was used, not about a newer one.
func TestTokenDrop(t *testing.T) {
	platform, clock := new(tokenPlatform), newTestClock()
	tokens := newTestTokens(t, platform, &certmagic.FileStorage{Path: t.TempDir()}, clock)
	old := mustToken(t, tokens, "token-1")
	tokens.Source.Drop(old)
	mustToken(t, tokens, "token-2")
	tokens.Source.Drop(old)
	mustToken(t, tokens, "token-2")
	if platform.fetches() != 2 {
		t.Errorf("%d fetches", platform.fetches())
	}
}

// failingStorage fails where it is told to.
type failingStorage struct {
	certmagic.Storage
	load, store, lock, unlock error
	garbage                   []byte
}

func (s *failingStorage) Load(ctx context.Context, key string) ([]byte, error) {
	if s.load != nil {
		return nil, s.load
	}
	if s.garbage != nil {
		return s.garbage, nil
	}
	return s.Storage.Load(ctx, key)
}

func (s *failingStorage) Store(ctx context.Context, key string, value []byte) error {
	if s.store != nil {
		return s.store
	}
	return s.Storage.Store(ctx, key, value)
}

func (s *failingStorage) Lock(ctx context.Context, name string) error {
	if s.lock != nil {
		return s.lock
	}
	return s.Storage.Lock(ctx, name)
}

func (s *failingStorage) Unlock(ctx context.Context, name string) error {
	if err := s.Storage.Unlock(ctx, name); err != nil {
		return err
	}
	return s.unlock
}

// TestTokenStorageFails: a storage that fails costs the sharing, not the call.
func TestTokenStorageFails(t *testing.T) {
	broken := errors.New("storage broken")
	for name, storage := range map[string]*failingStorage{
		"load": {load: broken}, "store": {store: broken}, "lock": {lock: broken}, "unlock": {unlock: broken}, "garbage": {garbage: []byte("x")},
		"all": {load: broken, store: broken, lock: broken},
	} {
		t.Run(name, func(t *testing.T) {
			platform, clock := new(tokenPlatform), newTestClock()
			storage.Storage = &certmagic.FileStorage{Path: t.TempDir()}
			tokens := newTestTokens(t, platform, storage, clock)
			mustToken(t, tokens, "token-1")
			mustToken(t, tokens, "token-1")
			if platform.fetches() != 1 {
				t.Errorf("%d fetches", platform.fetches())
			}
		})
	}
	t.Run("another app_key", func(t *testing.T) {
		// The key was changed: what is stored cannot be opened any more, and is replaced.
		platform, clock := new(tokenPlatform), newTestClock()
		storage := &certmagic.FileStorage{Path: t.TempDir()}
		mustToken(t, newTestTokens(t, platform, storage, clock), "token-1")
		m := testMerchant(t)
		m.signer = newBodySigner(testAppID, "another key")
		tokens, err := newTokens(m, outbound.Through(platform), storage, zap.NewNop(), clock.now)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = tokens.release() }()
		mustToken(t, tokens, "token-2")
	})
}

// TestTokenAnswers: what is no token is none, and nothing of it is told.
func TestTokenAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		body   string
		life   time.Duration // 0: no token
	}{
		"plain":                   {200, `{"errCode":"0000","accessToken":"SECRET","expiresIn":3600}`, time.Hour},
		"seconds as text":         {200, `{"errCode":"0000","accessToken":"SECRET","expiresIn":"600"}`, 10 * time.Minute},
		"no expiresIn":            {200, `{"errCode":"0000","accessToken":"SECRET"}`, 55 * time.Minute},
		"expiresIn null":          {200, `{"errCode":"0000","accessToken":"SECRET","expiresIn":null}`, 55 * time.Minute},
		"expiresIn empty":         {200, `{"errCode":"0000","accessToken":"SECRET","expiresIn":""}`, 55 * time.Minute},
		"far too long":            {200, `{"errCode":"0000","accessToken":"SECRET","expiresIn":1e300}`, 24 * time.Hour},
		"expiresIn 0":             {200, `{"errCode":"0000","accessToken":"SECRET","expiresIn":0}`, 0},
		"expiresIn negative":      {200, `{"errCode":"0000","accessToken":"SECRET","expiresIn":-1}`, 0},
		"expiresIn no number":     {200, `{"errCode":"0000","accessToken":"SECRET","expiresIn":"soon"}`, 0},
		"expiresIn not a number":  {200, `{"errCode":"0000","accessToken":"SECRET","expiresIn":"NaN"}`, 0},
		"expiresIn an object":     {200, `{"errCode":"0000","accessToken":"SECRET","expiresIn":{}}`, 0},
		"another errCode":         {200, `{"errCode":"BAD_SIGN","errInfo":"SECRET","accessToken":"SECRET"}`, 0},
		"an unknown errCode":      {200, `{"errCode":"SECRET","accessToken":"SECRET"}`, 0},
		"no errCode":              {200, `{"accessToken":"SECRET"}`, 0},
		"no token":                {200, `{"errCode":"0000"}`, 0},
		"an empty token":          {200, `{"errCode":"0000","accessToken":""}`, 0},
		"a token with a quote":    {200, `{"errCode":"0000","accessToken":"SECRET\""}`, 0},
		"a token with a new line": {200, `{"errCode":"0000","accessToken":"SECRET\r\nX: y"}`, 0},
		"a token beyond ASCII":    {200, `{"errCode":"0000","accessToken":"SECRETé"}`, 0},
		"a token that is huge":    {200, `{"errCode":"0000","accessToken":"` + strings.Repeat("x", maxTokenLength+1) + `"}`, 0},
		"a number for a token":    {200, `{"errCode":"0000","accessToken":1}`, 0},
		"no JSON":                 {200, `SECRET`, 0},
		"an array":                {200, `["SECRET"]`, 0},
		"too large":               {200, `{"errCode":"0000","accessToken":"SECRET","x":"` + strings.Repeat("x", maxTokenAnswer) + `"}`, 0},
		"status 500":              {500, `{"errCode":"0000","accessToken":"SECRET"}`, 0},
		"status 401":              {401, `{"errCode":"0000","accessToken":"SECRET"}`, 0},
		"nothing":                 {0, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			clock := newTestClock()
			platform := &tokenPlatform{answer: func(int) (int, string) { return c.status, c.body }}
			tokens := newTestTokens(t, platform, &certmagic.FileStorage{Path: t.TempDir()}, clock)
			token, err := tokens.Get(t.Context())
			if c.life == 0 {
				if err == nil {
					t.Fatalf("a token: %+v", token)
				}
				if strings.Contains(err.Error(), "SECRET") {
					t.Errorf("%v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := token.Until.Sub(clock.now()); got != c.life || token.End.After(token.Until) || !token.Renew.Before(token.End) {
				t.Errorf("holds for %s, not %s; %+v", got, c.life, token)
			}
		})
	}
}

// TestTokenSourcesAreShared: generations of a configuration share a token in memory; another key or platform does not.
func TestTokenSourcesAreShared(t *testing.T) {
	clock, storage := newTestClock(), &certmagic.FileStorage{Path: t.TempDir()}
	make := func(m *merchant) *tokens {
		tokens, err := newTokens(m, outbound.Through(new(tokenPlatform)), storage, zap.NewNop(), clock.now)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = tokens.release() })
		return tokens
	}
	first, second := make(testMerchant(t)), make(testMerchant(t))
	otherKey, otherHost := testMerchant(t), testMerchant(t)
	otherKey.signer = newBodySigner(testAppID, "another key")
	otherHost.endpoint.Dial = "other.example:443"
	if first.Source != second.Source || first.Source == make(otherKey).Source || first.Source == make(otherHost).Source {
		t.Error("the sources are not what they should be")
	}
}

// tokenGateway is a gateway with `auth access_token` in front of a platform that counts.
func tokenGateway(t testing.TB, upstream, globals, options string) *gateway {
	t.Helper()
	return startGateway(t, []string{"shop " + upstream}, "storage file_system "+t.TempDir()+"\n\t"+globals, "chinaums_proxy {\n auth access_token\n "+options+"\n}", nil)
}

// TestAccessTokenCalls: 200 calls at once, one fetch; what goes out; what is never logged; a reload that keeps the token.
func TestAccessTokenCalls(t *testing.T) { inEveryForm(t, testAccessTokenCalls) }

func testAccessTokenCalls(t *testing.T) {
	var fetches, calls atomic.Int32
	platform := newRawPlatform(t, func(x *exchange) bool {
		if x.path() == "/v1/token/access" {
			fetches.Add(1)
			x.write(answered(`{"errCode":"0000","accessToken":"SECRETTOKEN","expiresIn":3600}`))
			return true
		}
		if x.header("Authorization") == `OPEN-ACCESS-TOKEN AccessToken="SECRETTOKEN", AppId="`+testAppID+`"` && x.body == `{"merOrderId":"327M1"}` {
			calls.Add(1)
		}
		x.write(answered(`{"errCode":"SUCCESS"}`))
		return true
	})
	g := tokenGateway(t, platform.url, "", "")
	var all sync.WaitGroup
	for range 200 {
		all.Go(func() {
			if a := g.post(t, "/v1/netpay/query", `{"merOrderId":"327M1"}`, "Authorization: Bearer app"); a.status != 200 || a.header.Get("Gateway-Outcome") != "answered" {
				t.Errorf("%+v", a)
			}
		})
	}
	all.Wait()
	if fetches.Load() != 1 || calls.Load() != 200 {
		t.Errorf("%d fetches, %d calls with the token", fetches.Load(), calls.Load())
	}
	for _, x := range platform.requests() {
		if x.path() != "/v1/token/access" {
			continue
		}
		var said map[string]string
		if err := json.Unmarshal([]byte(x.body), &said); err != nil || said["appId"] != testAppID || len(said) != 5 {
			t.Errorf("%s, %v", x.body, err)
		}
		if names := strings.Join(headerNames(x), " "); names != "Accept-Encoding Content-Length Content-Type Host" {
			t.Errorf("headers %s", names)
		}
	}
	for _, secret := range []string{"SECRETTOKEN", testAppKey, "OPEN-ACCESS-TOKEN"} {
		if strings.Contains(g.log.String(), secret) {
			t.Errorf("the log holds %s", secret)
		}
	}
}

// TestAccessTokenEndToEnd runs against the sandbox, whose own code judges the tokens.
func TestAccessTokenEndToEnd(t *testing.T) {
	platform, err := sandbox.New(sandbox.Options{AppID: testAppID, AppKey: testAppKey})
	if err != nil {
		t.Fatal(err)
	}
	defer platform.Close()
	var fetches atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == tokenPath {
			fetches.Add(1)
		}
		platform.ServeHTTP(w, r)
	}))
	defer server.Close()
	keys := platform.Options()
	g := tokenGateway(t, server.URL, "", "")
	order := fmt.Sprintf(`{"requestTimestamp":"%s","merOrderId":"%s202601010001","mid":"%s","tid":"%s","instMid":"YUEDANDEFAULT"}`,
		time.Now().In(time.FixedZone("", 8*3600)).Format(time.DateTime), keys.SourceCode, keys.MID, keys.TID)
	query := func(status int, errCode string) {
		t.Helper()
		a := g.post(t, "/v1/netpay/query", order)
		if a.status != status || !strings.Contains(a.body, `"errCode":"`+errCode+`"`) || a.header.Get("Gateway-Outcome") != "answered" {
			t.Errorf("%+v", a)
		}
	}
	query(200, "NO_ORDER")
	query(200, "NO_ORDER")
	if fetches.Load() != 1 {
		t.Errorf("%d fetches", fetches.Load())
	}
	// The platform forgets its tokens: its answer goes to the app as it came, and the next call has a new token.
	platform.RevokeTokens()
	query(401, "INVALID_TOKEN")
	query(200, "NO_ORDER")
	if fetches.Load() != 2 {
		t.Errorf("%d fetches", fetches.Load())
	}
	// No token, no call.
	platform.RevokeTokens()
	query(401, "INVALID_TOKEN")
	platform.Break(sandbox.Fault{Kind: sandbox.ServerError, Path: tokenPath})
	checkGatewayAnswer(t, g.post(t, "/v1/netpay/query", order), 502, "GATEWAY_UNREACHABLE", "not_sent")
	query(200, "NO_ORDER")
}

// TestAccessTokenReload: the next generation of the configuration goes on with the token, even without a storage that
// could share it.
func TestAccessTokenReload(t *testing.T) {
	var fetches atomic.Int32
	platform := newRawPlatform(t, func(x *exchange) bool {
		if x.path() == tokenPath {
			fetches.Add(1)
			x.write(answered(`{"errCode":"0000","accessToken":"t","expiresIn":3600}`))
		} else {
			x.write(answered("{}"))
		}
		return true
	})
	setKeys(t)
	address := freeAddress(t)
	config := func() []byte {
		return adapt(t, strings.Replace(merchantOptions(platform.url), "{\n", "{\n\tadmin off\n\tstorage file_system "+t.TempDir()+"\n", 1)+
			"http://"+address+" {\n bind 127.0.0.1\n chinaums_proxy {\n auth access_token\n}\n}\n")
	}
	t.Cleanup(func() { _ = caddy.Stop() })
	for range 3 {
		if err := caddy.Load(config(), true); err != nil {
			t.Fatal(err)
		}
		a := doAfterReload(t, func() *http.Request {
			return newRequest(t, "POST", "http://"+address+"/v1/x", "{}", jsonType)
		})
		if a.status != http.StatusOK {
			t.Fatalf("%+v", a)
		}
	}
	if fetches.Load() != 1 {
		t.Errorf("%d fetches", fetches.Load())
	}
}

// BenchmarkToken: taking the token from memory costs about an atomic load and a look at the clock, however many take it.
func BenchmarkToken(b *testing.B) {
	tokens, err := newTokens(testMerchant(b), outbound.Through(new(tokenPlatform)), &certmagic.FileStorage{Path: b.TempDir()}, zap.NewNop(), time.Now)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = tokens.release() }()
	var pointer atomic.Pointer[token.Token]
	pointer.Store(mustToken(b, tokens, "token-1"))
	var mutex sync.Mutex
	ways := []struct {
		name string
		take func()
	}{
		{"atomic load and time.Now", func() {
			if token := pointer.Load(); !time.Now().Before(token.End) {
				b.Error("over")
			}
		}},
		{"token", func() {
			if _, err := tokens.Get(context.Background()); err != nil {
				b.Error(err)
			}
		}},
		{"the same under a mutex", func() {
			mutex.Lock()
			defer mutex.Unlock()
			if _, err := tokens.Get(context.Background()); err != nil {
				b.Error(err)
			}
		}},
	}
	for _, way := range ways {
		b.Run(way.name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					way.take()
				}
			})
		})
	}
}

// TestTokenStaleConnection: the connection on which the last token came an hour ago has been closed meanwhile; the next
// one comes all the same.
func TestTokenStaleConnection(t *testing.T) {
	var fetches atomic.Int32
	platform := newRawPlatform(t, func(x *exchange) bool {
		if fetches.Add(1) == 2 {
			return false // the kept connection is cut when the second request has come
		}
		x.write(answered(`{"errCode":"0000","accessToken":"t","expiresIn":1}`))
		return true
	})
	clock := newTestClock()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	m := testMerchant(t)
	m.endpoint, _, _ = outbound.ParseEndpoint(platform.url)
	tokens, err := newTokens(m, outbound.Through(transport), &certmagic.FileStorage{Path: t.TempDir()}, zap.NewNop(), clock.now)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tokens.release() }()
	mustToken(t, tokens, "t")
	clock.advance(time.Minute)
	mustToken(t, tokens, "t")
	if fetches.Load() != 3 {
		t.Errorf("%d fetches", fetches.Load())
	}
}
