package shouqianba

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
	"github.com/caddy-chinaums/caddy-chinaums/internal/testutil"
)

// serveFirst provisions a Caddyfile and starts the http app alone, as Caddy does when it comes to it first: it starts apps
// in any order. It returns a function that starts the shouqianba app, and a channel of the requests that have arrived.
func serveFirst(t *testing.T, config string) (startRest func(), arrived <-chan struct{}) {
	t.Helper()
	adapted, err := adaptOrError(withTestLog(config))
	if err != nil {
		t.Fatalf("adapting: %v", err)
	}
	ctx, err := caddy.ProvisionContext(withoutAdmin(t, adapted))
	if err != nil {
		t.Fatalf("provisioning: %v", err)
	}
	app := func(name string) any {
		app, err := ctx.App(name)
		if err != nil {
			t.Fatal(err)
		}
		return app
	}
	serving, own := app("http").(*caddyhttp.App), app("shouqianba").(*App)
	requests := make(chan struct{}, 1000)
	for _, server := range serving.Servers {
		server.RegisterConnState(func(_ net.Conn, state http.ConnState) {
			if state == http.StateActive {
				requests <- struct{}{}
			}
		})
	}
	if err := serving.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, stop := range []func() error{serving.Stop, own.Stop, own.Cleanup} {
			if err := stop(); err != nil {
				t.Errorf("stopping: %v", err)
			}
		}
	})
	return func() {
		t.Helper()
		if err := own.Start(); err != nil {
			t.Fatal(err)
		}
	}, requests
}

// TestServingBeforeTheStart: Caddy starts apps in any order, so that the http app may serve before the terminals are
// looked after. Calls that came then were refused (502, "the configuration is still being started"), and a notify that
// names the terminal was taken for another terminal's (403). Both wait.
func TestServingBeforeTheStart(t *testing.T) {
	g := startPlatform(t, sandbox.ShouqianbaOptions{})
	config := g.config(t, g.owned(), "route {\nhandle /notify {\nshouqianba_notify\nrespond 200\n}\nshouqianba_proxy\n}")
	start(t, config)
	sn := ""
	eventually(t, "the activation", func() bool {
		sn = g.platform.Terminal("till-1")
		return len(log.lines("terminal activated")) == 1
	})
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	testutil.Released(t, g.address)

	startRest, arrived := serveFirst(t, config)
	notify := call(sn, `"order_status":"PAID"`)
	signature := "Authorization: " + signed(t, notify)
	var group sync.WaitGroup
	const calls, notifies = 16, 4
	for range calls {
		group.Go(func() {
			a := post(t, g.url("/upay/v2/query"), call(sn, `"client_sn":"1"`))
			if a.status != 200 || !strings.Contains(a.body, "UPAY_ORDER_NOT_EXISTS") {
				t.Errorf("call: %d %s", a.status, a.body)
			}
		})
	}
	for range notifies {
		group.Go(func() {
			if a := post(t, g.url("/notify"), notify, signature); a.status != 200 || a.body != "success" {
				t.Errorf("notify: %d %s", a.status, a.body)
			}
		})
	}
	over := make(chan struct{})
	go func() {
		group.Wait()
		close(over)
	}()
	for range calls + notifies {
		select {
		case <-arrived:
		case <-over:
			t.Fatal("all are over before the start")
		}
	}
	startRest()
	<-over
	foreign := call("1"+sn, `"order_status":"PAID"`)
	if a := post(t, g.url("/notify"), foreign, "Authorization: "+signed(t, foreign)); a.status != 403 {
		t.Errorf("another terminal's notify: %d %s", a.status, a.body)
	}
	if a, c := g.platform.Activations(), g.platform.Checkins(); a != 1 || c != 0 {
		t.Errorf("%d activations and %d check-ins", a, c)
	}
}

// waiting is a terminal whose configuration has not been started, and what ends it.
func waiting(t *testing.T) (*terminal, func()) {
	t.Helper()
	ended := make(chan struct{})
	return &terminal{name: "till", owner: new(owner), keeper: newKeeper(), ended: ended}, func() { close(ended) }
}

// TestWaitingForTheStartEnds: with the call's own time, with the configuration, and with the keeper.
func TestWaitingForTheStartEnds(t *testing.T) {
	for name, end := range map[string]func(cancel context.CancelFunc, putAway func()){
		"the call's time":   func(cancel context.CancelFunc, _ func()) { cancel() },
		"the configuration": func(_ context.CancelFunc, putAway func()) { putAway() },
	} {
		t.Run(name, func(t *testing.T) {
			terminal, putAway := waiting(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ended, number := make(chan error, 1), make(chan string, 1)
			go func() {
				_, err := terminal.credential(ctx)
				ended <- err
			}()
			go func() { number <- terminal.serial(ctx) }()
			end(cancel, putAway)
			if err := <-ended; !errors.Is(err, errNotStarted) {
				t.Errorf("credential: %v", err)
			}
			if sn := <-number; sn != "" {
				t.Errorf("number: %q", sn)
			}
		})
	}
	t.Run("stopped", func(t *testing.T) {
		p := play(t, sandbox.ShouqianbaOptions{})
		o, k := p.owner(newMemory()), newKeeper()
		k.now = p.clock.Now
		k.adopt(o)
		k.release(o)
		if err := k.Destruct(); err != nil {
			t.Fatal(err)
		}
		terminal := &terminal{name: "till", owner: o, keeper: k, ended: make(chan struct{})}
		p.clock.set("2026-11-25 12:00:00")
		if _, err := terminal.credential(t.Context()); !errors.Is(err, errStopped) {
			t.Errorf("after the stop: %v", err)
		}
	})
}

// failingApp is an app that cannot be started. Before it says so, it sends a call to the site at the address, if that is
// being served already.
type failingApp struct {
	Address string `json:"address"`
}

var (
	errFailing = errors.New("this app cannot be started")
	callsUnder = make(chan net.Conn, 1) // the calls that were sent
)

func init() { caddy.RegisterModule(failingApp{}) }

func (failingApp) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "no_start_shouqianba_test", New: func() caddy.Module { return new(failingApp) }}
}

func (f *failingApp) Start() error {
	connection, err := net.Dial("tcp", f.Address)
	if err != nil {
		return errFailing
	}
	body := call("1", `"client_sn":"1"`)
	_, _ = fmt.Fprintf(connection, "POST /upay/v2/query HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n",
		f.Address, len(body))
	// The call is being served when it is told to go on.
	const goOn = "HTTP/1.1 100 Continue\r\n\r\n"
	if _, err := io.ReadFull(connection, make([]byte, len(goOn))); err != nil {
		return err
	}
	_, _ = io.WriteString(connection, body)
	callsUnder <- connection
	return errFailing
}

func (*failingApp) Stop() error { return nil }

// TestStartThatFailsEndsTheWait: another app cannot be started, so that this one never is. A call that has come in
// meanwhile is answered then, and does not wait for its timeout.
func TestStartThatFailsEndsTheWait(t *testing.T) {
	g := startPlatform(t, sandbox.ShouqianbaOptions{})
	adapted, err := adaptOrError(withTestLog(g.config(t, g.owned(), "shouqianba_proxy {\ntimeout 10m\n}")))
	if err != nil {
		t.Fatal(err)
	}
	config := withoutAdmin(t, adapted)
	config.AppsRaw["no_start_shouqianba_test"] = json.RawMessage(`{"address":"` + g.address + `"}`)
	document, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	// The order of the apps is Caddy's choice: this is tried until the failing one has come between the two.
	for range 200 {
		if err := caddy.Load(document, true); err == nil || !strings.Contains(err.Error(), errFailing.Error()) {
			t.Fatalf("loading: %v", err)
		}
		testutil.Released(t, g.address) // the next start's call might reach this one, and be closed unanswered
		select {
		case connection := <-callsUnder:
			_ = connection.SetReadDeadline(time.Now().Add(2 * time.Minute))
			answer, err := io.ReadAll(connection)
			_ = connection.Close()
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal("the call still waits for the start")
			}
			if strings.Contains(string(answer), "GATEWAY_UNREACHABLE") {
				return
			}
		default: // the site was not served yet
		}
	}
	t.Error("no call was waiting in 200 starts")
}

// TestEventWhileStopping: Caddy asks the module of an event for its name. It was the name of a copy of the app, made while Stop wrote into
// the app: a data race, where a watch told of an order in this moment.
func TestEventWhileStopping(t *testing.T) {
	start(t, "{\n\tshouqianba {\n\t\tterminal till {\n\t\t\tterminal_sn 1\n\t\t\tterminal_key k\n\t\t}\n\t}\n}\n")
	find := func(name string) any {
		found, err := caddy.ActiveContext().App(name)
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	app, events := find("shouqianba").(*App), find("events").(*caddyevents.App)
	var both sync.WaitGroup
	both.Go(func() { events.Emit(app.ctx, "shouqianba.test", nil) })
	both.Go(func() {
		if err := app.Stop(); err != nil {
			t.Error(err)
		}
	})
	both.Wait()
}
