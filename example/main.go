// Command example shows what the gateway does for a merchant's app. It starts a sandbox that plays the platform, Caddy
// with this plugin, and a small app, all on this machine, and takes one order from its creation to its refund. It prints
// every request and every reply on the way.
//
// 演示网关替商户应用做了什么：在本机启动平台沙箱、带本插件的 Caddy 和一个小应用，让一笔订单从下单走到退款，并打印每一步收发的报文。
//
//	go run ./example                        runs one order and ends     跑完一笔订单后退出
//	go run ./example -platform shouqianba   with Shouqianba             换成收钱吧
//	go run ./example -watch                 loses a notify and the answer to a refund, and follows both
//	                                        丢一条通知、丢一笔退款的返回，看网关怎么补单、怎么防重复退款
//	go run ./example -serve                 keeps running for you       保持运行，供您试用
//
// The directories php, python and node hold merchant apps in one file each, with the Caddyfile of their gateway.
//
// php、python、node 三个目录各有一个单文件的商户应用和它的网关 Caddyfile。
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-chinaums/caddy-chinaums"
	"github.com/caddy-chinaums/caddy-chinaums/internal/freeport"
	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
	_ "github.com/caddy-chinaums/caddy-chinaums/shouqianba"
	"github.com/caddy-chinaums/caddy-chinaums/webhook"
)

func main() {
	name := flag.String("platform", "chinaums", "chinaums or shouqianba")
	watched := flag.Bool("watch", false, "lose a notify and the answer to a refund, and follow both")
	serve := flag.Bool("serve", false, "stay up after the walk")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Stdout, *name, *watched, *serve)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "example:", err)
		os.Exit(1)
	}
}

// platform is what the walk needs of a sandbox.
type platform interface {
	http.Handler
	Pay(number string) error
	WaitDelivered(ctx context.Context, number string, kind sandbox.Kind) error
	Calls() []sandbox.Call
	Deliveries() []sandbox.Delivery
	Close()
}

// story is one platform's part of the demo: how its gateway is configured, and the life of one order.
type story struct {
	platform platform
	config   string
	// environment is what the configuration takes from there: the sandbox's keys, made afresh at each start.
	environment map[string]string
	word        string // what the platform hears when the app has taken an event
	order       string // the order's number
	walk        func(ctx context.Context, d *demo) error
	done        string // what has happened when the walk has come to its end
	cleanup     func() error
	// hint is a call for the user to try.
	hintPath, hintBody string
}

// done is the end of the walk without a watch.
const done = "Done: one order paid, notified and refunded. 完成：一笔订单已支付、通知并退款。"

// demo holds the three parties.
type demo struct {
	*story
	out                        io.Writer
	gatewayOut, gatewayIn, app string
	secret                     string
	servers                    []*http.Server
	events                     chan received // what the app got, as it comes

	mu       sync.Mutex
	received []received
}

// received is one event that the merchant's app got.
type received struct {
	header http.Header
	body   []byte
}

func run(ctx context.Context, out io.Writer, name string, watched, serve bool) error {
	var (
		s   *story
		err error
	)
	switch {
	case watched && name == "chinaums":
		s, err = newWatched()
	case watched:
		err = fmt.Errorf("-watch: there is no such walk with %q, only with chinaums", name)
	case name == "chinaums":
		s, err = newChinaUMS()
	case name == "shouqianba":
		s, err = newShouqianba()
	default:
		err = fmt.Errorf("-platform: %q is neither chinaums nor shouqianba", name)
	}
	if err != nil {
		return err
	}
	d := &demo{story: s, out: out, secret: rand.Text(), events: make(chan received, 100)}
	defer d.stop()
	if err := d.start(); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, 2*time.Minute) // seconds, but on a very busy machine
	defer cancel()
	if err := d.walk(limited, d); err != nil {
		return err
	}
	d.say("%s", d.done)
	if !serve {
		return nil
	}
	d.say("\nUp until Ctrl-C. 保持运行，按 Ctrl-C 结束。\n")
	d.say("  call the gateway  调用网关   curl -i -H 'Content-Type: application/json' -d '%s' http://%s%s", d.hintBody, d.gatewayOut, d.hintPath)
	d.say("  pay as the buyer  模拟付款   curl -i -X POST 'http://%s/buyer/pay?order=<number>'", d.app)
	d.say("  notifies go to    通知地址   http://%s/notify", d.gatewayIn)
	<-ctx.Done()
	return nil
}

func (d *demo) start() error {
	platformAddress, err := d.listen(d.platform)
	if err != nil {
		return err
	}
	app := http.NewServeMux()
	app.HandleFunc("POST /notify", d.takeEvent)
	app.HandleFunc("POST /buyer/pay", func(w http.ResponseWriter, r *http.Request) {
		if err := d.platform.Pay(r.URL.Query().Get("order")); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	})
	if d.app, err = d.listen(app); err != nil {
		return err
	}
	for _, address := range []*string{&d.gatewayOut, &d.gatewayIn} {
		if *address, err = freeport.Address(); err != nil {
			return err
		}
	}

	// The gateway takes its keys and addresses from the environment.
	d.environment["UPSTREAM"], d.environment["APP_SECRET"] = "http://"+platformAddress, d.secret
	d.environment["GATEWAY_OUT"], d.environment["GATEWAY_IN"], d.environment["APP"] = d.gatewayOut, d.gatewayIn, d.app
	for name, value := range d.environment {
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(d.config), nil)
	if err != nil {
		return err
	}
	if err := caddy.Load(config, true); err != nil {
		return err
	}
	d.say("platform (sandbox) 平台沙箱  http://%s\ngateway, way out   网关出站  http://%s\n"+
		"gateway, way in    网关入站  http://%s/notify\nmerchant's app     商户应用  http://%s\n"+
		"All keys below are generated at each start. 以下密钥均为每次启动时随机生成。\n",
		platformAddress, d.gatewayOut, d.gatewayIn, d.app)
	return nil
}

func (d *demo) stop() {
	if err := caddy.Stop(); err != nil {
		_, _ = fmt.Fprintln(d.out, "stopping the gateway:", err)
	}
	d.platform.Close()
	for _, server := range d.servers {
		_ = server.Close()
	}
	if d.cleanup != nil {
		if err := d.cleanup(); err != nil {
			_, _ = fmt.Fprintln(d.out, "cleaning up:", err)
		}
	}
}

func (d *demo) say(format string, args ...any) { _, _ = fmt.Fprintf(d.out, format+"\n", args...) }

// replied is what the merchant's app gets back.
type replied struct {
	status  int
	outcome string
	answer  map[string]any
}

// call calls the platform, which has to answer. It returns the platform's own answer.
func (d *demo) call(ctx context.Context, path string, fields map[string]any) (map[string]any, error) {
	got, err := d.post(ctx, path, fields)
	// What an app must look at first: has the platform answered at all?
	if err == nil && got.outcome != "answered" {
		err = fmt.Errorf("%s: outcome %q", path, got.outcome)
	}
	return got.answer, err
}

// post does what the merchant's app does: plain JSON, no cryptography.
func (d *demo) post(ctx context.Context, path string, fields map[string]any) (got replied, err error) {
	body, err := json.Marshal(fields)
	if err != nil {
		return got, err
	}
	d.say("app → gateway      POST %s\n                   %s", path, body)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+d.gatewayOut+path, bytes.NewReader(body))
	if err != nil {
		return got, err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return got, err
	}
	defer res.Body.Close()
	content, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return got, err
	}
	calls := d.platform.Calls()
	i := slices.IndexFunc(calls, func(c sandbox.Call) bool { return c.Path == path && bytes.Equal(c.Body, body) })
	if i >= 0 {
		d.say("gateway → platform the same bytes, and this header:\n                   Authorization: %s", calls[i].Header.Get("Authorization"))
	} else {
		d.say("gateway ✗ platform nothing was sent 没有发出")
	}
	d.say("gateway → app      %s, Gateway-Outcome: %s\n                   %s\n", res.Status, res.Header.Get("Gateway-Outcome"), content)
	got.status, got.outcome = res.StatusCode, res.Header.Get("Gateway-Outcome")
	if err := json.Unmarshal(content, &got.answer); err != nil {
		return got, fmt.Errorf("%s: %w", path, err)
	}
	return got, nil
}

// takeEvent is the merchant's app's side of a notify.
func (d *demo) takeEvent(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil {
		http.Error(w, "unreadable", http.StatusBadRequest)
		return
	}
	if err := webhook.Verify(d.secret, r.Header, body, time.Now(), webhook.DefaultTolerance); err != nil {
		http.Error(w, "not from the gateway", http.StatusUnauthorized)
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	event := received{r.Header.Clone(), body}
	d.received = append(d.received, event)
	select {
	case d.events <- event:
	default: // nobody waits for so many
	}
	// 2xx with an empty body: taken.
}

// notified waits until the platform has heard that the app took the event, and shows what went over the wires.
func (d *demo) notified(ctx context.Context, kind sandbox.Kind, eventType string) error {
	if err := d.platform.WaitDelivered(ctx, d.order, kind); err != nil {
		return fmt.Errorf("waiting for the %s notify: %w", kind, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	i := slices.IndexFunc(d.received, func(r received) bool { return r.header.Get("Ce-Type") == eventType })
	if i < 0 {
		return fmt.Errorf("the app got no %s", eventType)
	}
	event, deliveries := d.received[i], d.platform.Deliveries()
	i = slices.IndexFunc(deliveries, func(d sandbox.Delivery) bool { return d.Kind == kind && d.Delivered })
	if i < 0 {
		return fmt.Errorf("no %s notify was answered %s", kind, d.word)
	}
	d.say("platform → gateway POST /notify, signed, %s; the signature is right\n                   %s",
		deliveries[i].ContentType, deliveries[i].Body)
	d.show(event, "Ce-Id", "Ce-Type", "Ce-Source", "Ce-Subject", "Ce-Time", "Webhook-Signature")
	d.say("gateway → platform %d %s\n", deliveries[i].Status, deliveries[i].Answer)
	if deliveries[i].Answer != d.word {
		return fmt.Errorf("the gateway said %q, not %q", deliveries[i].Answer, d.word)
	}
	return nil
}

// show shows an event that the app has taken, with some of its headers.
func (d *demo) show(event received, headers ...string) {
	d.say("gateway → app      POST /notify")
	for _, name := range headers {
		d.say("                   %s: %s", name, event.header.Get(name))
	}
	d.say("                   %s", event.body)
	d.say("app → gateway      200, empty: taken")
}

// listen serves handler on a free loopback port.
func (d *demo) listen(handler http.Handler) (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	d.servers = append(d.servers, server)
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			fmt.Fprintln(os.Stderr, "serving:", err)
		}
	}()
	return listener.Addr().String(), nil
}

// with returns the fields of both.
func with(fields, more map[string]any) map[string]any {
	all := make(map[string]any, len(fields)+len(more))
	for name, value := range fields {
		all[name] = value
	}
	for name, value := range more {
		all[name] = value
	}
	return all
}
