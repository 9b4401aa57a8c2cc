package console_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
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
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-chinaums/caddy-chinaums"
	"github.com/caddy-chinaums/caddy-chinaums/internal/freeport"
	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
	"github.com/caddy-chinaums/caddy-chinaums/internal/testutil"
)

// The tests run a real Caddy in this process, one configuration at a time: no test here may be parallel. What the console
// counts belongs to the process, so that a test sees the calls of those before it.

func TestMain(m *testing.M) {
	_ = os.Setenv("LC_ALL", "C")
	testutil.TempOnDisk()
	directory, err := os.MkdirTemp("", "console-test-")
	if err != nil {
		panic(err)
	}
	caddy.ConfigAutosavePath = filepath.Join(directory, "autosave.json")
	caddy.DefaultStorage.Path = directory
	caddy.RegisterModule(logWriter{})
	code := m.Run()
	_ = os.RemoveAll(directory)
	os.Exit(code)
}

// logWriter collects what Caddy logs.
type logWriter struct{}

var logged struct {
	sync.Mutex
	strings.Builder
}

func (logWriter) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.logging.writers.console_test_log", New: func() caddy.Module { return new(logWriter) }}
}
func (logWriter) String() string                                   { return "console_test_log" }
func (logWriter) WriterKey() string                                { return "console_test_log" }
func (logWriter) OpenWriter() (io.WriteCloser, error)              { return logWriter{}, nil }
func (logWriter) Close() error                                     { return nil }
func (*logWriter) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { d.Next(); return nil }
func (logWriter) Write(p []byte) (int, error) {
	logged.Lock()
	defer logged.Unlock()
	return logged.Builder.Write(p)
}

// logs is what was logged.
func logs() string {
	logged.Lock()
	defer logged.Unlock()
	return logged.String()
}

// gateway is a gateway with its admin endpoint, between a merchant's app and a sandbox.
type gateway struct {
	t          *testing.T
	platform   *sandbox.ChinaUMS
	keys       sandbox.Options
	url, admin string
	refuses    atomic.Bool // the app takes nothing
	numbers    int
}

// parts of a gateway's configuration.
const (
	withWatch = `
		watch {
			store bolt {
				path $DIR/watch.db
			}
			rate 500
			orders off
			unknown 1h 2h
		}`
	withInbox = `
	inbox {
		store bolt {
			path $DIR/inbox.db
		}
	}`
	toInbox = `inbox /notify {
		retry 20ms
		give_up 1s
		deliver {
			reverse_proxy $APP
		}
	}
	inbox /in {
		id {http.request.header.Ce-Id}
		retry 20ms
		give_up 1s
		deliver {
			reverse_proxy $APP
		}
	}`
	toApp = `reverse_proxy /notify $APP`
)

// start starts one. watch and inbox are options of the app and of Caddy; behind is what stands behind the notify handler.
func start(t *testing.T, watch, inbox, behind string) *gateway {
	t.Helper()
	platform, err := sandbox.New(sandbox.Options{Manual: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(platform.Close)
	upstream := httptest.NewServer(platform)
	t.Cleanup(upstream.Close)
	g := &gateway{t: t, platform: platform, keys: platform.Options()}
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if g.refuses.Load() {
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	t.Cleanup(app.Close)
	for name, value := range map[string]string{"UMS_APP_ID": g.keys.AppID, "UMS_APP_KEY": g.keys.AppKey, "UMS_NOTIFY_KEY": g.keys.NotifyKey} {
		t.Setenv(name, value)
	}
	g.load(strings.NewReplacer("$DIR", t.TempDir(), "$APP", app.URL), `chinaums {
		merchant shop {
			app_id     {env.UMS_APP_ID}
			app_key    {env.UMS_APP_KEY}
			notify_key {env.UMS_NOTIFY_KEY}
			upstream   `+upstream.URL+`
		}`+watch+`
	}`+inbox, `chinaums_proxy /v1/netpay/*
	chinaums_notify /notify
	`+behind)
	return g
}

// load starts a gateway with these global options and directives.
func (g *gateway) load(values *strings.Replacer, options, directives string) {
	g.t.Helper()
	addresses := [2]string{}
	for i := range addresses {
		var err error
		if addresses[i], err = freeport.Address(); err != nil {
			g.t.Fatal(err)
		}
	}
	_, port, _ := strings.Cut(addresses[1], ":")
	g.url, g.admin = "http://"+addresses[0], "http://localhost:"+port
	config := values.Replace(`{
	admin localhost:` + port + ` {
		origins localhost:` + port + ` ""
	}
	log {
		output console_test_log
		format json
	}
	` + options + `
}
` + g.url + ` {
	bind 127.0.0.1
	` + directives + `
}
`)
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		g.t.Fatalf("%v\n%s", err, config)
	}
	if err := caddy.Load(adapted, true); err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			g.t.Error(err)
		}
	})
}

var client = &http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}

// do sends a request, with headers given as "Name: value", and reads the answer.
func (g *gateway) do(method, url, body string, headers ...string) (status int, header http.Header, content string) {
	g.t.Helper()
	req, err := http.NewRequestWithContext(g.t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		g.t.Fatal(err)
	}
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		req.Header.Set(name, value)
	}
	res, err := client.Do(req)
	if err != nil {
		g.t.Fatal(err)
	}
	defer res.Body.Close()
	read, err := io.ReadAll(res.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	return res.StatusCode, res.Header, string(read)
}

// ask asks the console's API.
func (g *gateway) ask(path string, into any) {
	g.t.Helper()
	status, _, content := g.do("GET", g.admin+path, "")
	if status != http.StatusOK {
		g.t.Fatalf("%s: %d %s", path, status, content)
	}
	if err := json.Unmarshal([]byte(content), into); err != nil {
		g.t.Fatalf("%s: %v in %s", path, err, content)
	}
}

var beijing = time.FixedZone("CST", 8*60*60)

// call calls an interface of the platform.
func (g *gateway) call(path string, fields map[string]any) string {
	g.t.Helper()
	all := map[string]any{"requestTimestamp": time.Now().In(beijing).Format(time.DateTime), "mid": g.keys.MID, "tid": g.keys.TID, "instMid": "APPDEFAULT"}
	maps.Copy(all, fields)
	content, err := json.Marshal(all)
	if err != nil {
		g.t.Fatal(err)
	}
	_, _, answer := g.do("POST", g.url+path, string(content), "Content-Type: application/json")
	return answer
}

// order makes an order, of a number that is made up or this one.
func (g *gateway) order(number string) string {
	g.t.Helper()
	if number == "" {
		g.numbers++
		number = fmt.Sprintf("%s%d%04d", g.keys.SourceCode, time.Now().UnixMilli(), g.numbers)
	}
	if answer := g.call("/v1/netpay/trade/precreate", map[string]any{"merOrderId": number, "totalAmount": 1234, "notifyUrl": g.url + "/notify"}); !strings.Contains(answer, `"SUCCESS"`) {
		g.t.Fatal(answer)
	}
	return number
}

// pay pays an order at the platform, which sends its notify.
func (g *gateway) pay(number string, variant sandbox.Variant, status int) {
	g.t.Helper()
	if o, ok := g.platform.Order(number); !ok || o.Status == "NEW_ORDER" || o.Status == "WAIT_BUYER_PAY" {
		if err := g.platform.Pay(number); err != nil {
			g.t.Fatal(err)
		}
	}
	delivery, err := g.platform.Notify(g.t.Context(), number, sandbox.KindPayment, variant)
	if err != nil || delivery.Status != status {
		g.t.Fatalf("%v, %+v, want status %d", err, delivery, status)
	}
}
