// Command example shows what the gateway does for a merchant's app: it starts the platform's sandbox, Caddy with the
// plugin and a small app, all on loopback, and walks one order from the order call to the refund notify.
//
//	go run ./example          walks one order, prints each step, exits 0
//	go run ./example -serve   stays up for you to try
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
	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
	"github.com/caddy-chinaums/caddy-chinaums/webhook"
)

// gatewayConfig is the whole configuration of the gateway. In production there is no `upstream` line, and the second
// site has the public name that the platform calls.
const gatewayConfig = `{
	admin off
	persist_config off
	auto_https off
	log {
		level   WARN
		exclude admin
	}
	servers {
		protocols h1
	}
	chinaums {
		merchant shop {
			app_id     {env.UMS_APP_ID}
			app_key    {env.UMS_APP_KEY}
			notify_key {env.UMS_NOTIFY_KEY}
			mid        {env.UMS_MID}
			upstream   {env.UMS_UPSTREAM}
		}
	}
}

# the way out: the app calls this in plain JSON
http://{$GATEWAY_OUT} {
	bind 127.0.0.1
	chinaums_proxy
}

# the way in: the platform calls this
http://{$GATEWAY_IN} {
	bind 127.0.0.1
	handle /notify {
		chinaums_notify
		webhook_signature {env.APP_SECRET}
		reverse_proxy     {$APP} {
			request_buffers 64KiB
		}
	}
	respond 404
}
`

func main() {
	serve := flag.Bool("serve", false, "stay up after the walk")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Stdout, *serve); err != nil {
		fmt.Fprintln(os.Stderr, "example:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, serve bool) error {
	d := &demo{out: out, secret: rand.Text()}
	defer d.stop()
	if err := d.start(); err != nil {
		return err
	}
	if err := d.walk(ctx); err != nil {
		return err
	}
	if !serve {
		return nil
	}
	d.say("Up until Ctrl-C. 保持运行，按 Ctrl-C 结束。\n")
	d.say("  call the gateway  调用网关   curl -i -H 'Content-Type: application/json' -d '{\"merOrderId\":\"%s\",…}' http://%s/v1/netpay/query", d.order, d.gatewayOut)
	d.say("  pay as the buyer  模拟付款   curl -X POST 'http://%s/buyer/pay?order=<merOrderId>'", d.app)
	d.say("  notifies go to    通知地址   http://%s/notify", d.gatewayIn)
	<-ctx.Done()
	return nil
}

// demo holds the three parties.
type demo struct {
	out                        io.Writer
	platform                   *sandbox.ChinaUMS
	gatewayOut, gatewayIn, app string
	secret                     string
	order, refund              string
	servers                    []*http.Server

	mu       sync.Mutex
	received []received
}

// received is one event that the merchant's app got.
type received struct {
	header http.Header
	body   []byte
}

func (d *demo) start() error {
	var err error
	if d.platform, err = sandbox.New(sandbox.Options{Schedule: []time.Duration{time.Second, time.Second, 2 * time.Second}}); err != nil {
		return err
	}
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
	if d.gatewayOut, err = freeAddress(); err != nil {
		return err
	}
	if d.gatewayIn, err = freeAddress(); err != nil {
		return err
	}

	// The gateway takes its keys from the environment; here they are the sandbox's, made afresh at each start.
	keys := d.platform.Options()
	for name, value := range map[string]string{
		"UMS_APP_ID": keys.AppID, "UMS_APP_KEY": keys.AppKey, "UMS_NOTIFY_KEY": keys.NotifyKey, "UMS_MID": keys.MID,
		"UMS_UPSTREAM": "http://" + platformAddress, "APP_SECRET": d.secret,
		"GATEWAY_OUT": d.gatewayOut, "GATEWAY_IN": d.gatewayIn, "APP": d.app,
	} {
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(gatewayConfig), nil)
	if err != nil {
		return err
	}
	if err := caddy.Load(config, true); err != nil {
		return err
	}
	d.order = keys.SourceCode + time.Now().Format("20060102150405") + "0000001"
	d.refund = keys.SourceCode + time.Now().Format("20060102150405") + "0000002"
	d.say("platform (sandbox) 平台沙箱  http://%s\ngateway, way out   网关出站  http://%s\n"+
		"gateway, way in    网关入站  http://%s/notify\nmerchant's app     商户应用  http://%s\n"+
		"All keys and signatures below are made up, afresh at each start. 以下密钥与签名均为每次启动时随机生成。\n",
		platformAddress, d.gatewayOut, d.gatewayIn, d.app)
	return nil
}

func (d *demo) stop() {
	if err := caddy.Stop(); err != nil {
		fmt.Fprintln(d.out, "stopping the gateway:", err)
	}
	if d.platform != nil {
		d.platform.Close()
	}
	for _, server := range d.servers {
		_ = server.Close()
	}
}

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.out, format+"\n", args...) }

// walk is the life of one order.
func (d *demo) walk(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	keys := d.platform.Options()
	identity := map[string]any{"mid": keys.MID, "tid": keys.TID, "instMid": "APPDEFAULT"}

	d.say("── 1. The app orders 下单 ───────────────────────────────────────────────")
	answer, err := d.call(ctx, "/v1/netpay/trade/precreate", identity, map[string]any{
		"merOrderId": d.order, "totalAmount": 1234, "orderDesc": "一杯茶 a cup of tea", "tradeType": "APP",
		"notifyUrl": "http://" + d.gatewayIn + "/notify",
	})
	if err != nil {
		return err
	}
	if answer["status"] != "NEW_ORDER" {
		return fmt.Errorf("the order is %v, not NEW_ORDER", answer["status"])
	}

	d.say("── 2. The buyer pays; the platform notifies 付款与通知 ──────────────────")
	if err := d.platform.Pay(d.order); err != nil {
		return err
	}
	if err := d.notified(ctx, sandbox.KindPayment, "com.chinaums.payment.succeeded"); err != nil {
		return err
	}

	d.say("── 3. The app asks for the order 查询 ───────────────────────────────────")
	if answer, err = d.call(ctx, "/v1/netpay/query", identity, map[string]any{"merOrderId": d.order}); err != nil {
		return err
	}
	if answer["status"] != "TRADE_SUCCESS" {
		return fmt.Errorf("the order is %v, not TRADE_SUCCESS", answer["status"])
	}

	d.say("── 4. The app refunds; the platform notifies 退款与通知 ─────────────────")
	if answer, err = d.call(ctx, "/v1/netpay/refund", identity, map[string]any{
		"merOrderId": d.order, "refundOrderId": d.refund, "refundAmount": 234,
	}); err != nil {
		return err
	}
	if answer["refundStatus"] != "SUCCESS" {
		return fmt.Errorf("the refund is %v, not SUCCESS", answer["refundStatus"])
	}
	if err := d.notified(ctx, sandbox.KindRefund, "com.chinaums.refund.succeeded"); err != nil {
		return err
	}
	d.say("Done: one order paid, notified and refunded. 完成：一笔订单已支付、通知并退款。")
	return nil
}

// call does what the merchant's app does: plain JSON, no cryptography.
func (d *demo) call(ctx context.Context, path string, parts ...map[string]any) (map[string]any, error) {
	fields := map[string]any{"requestTimestamp": time.Now().In(time.FixedZone("CST", 8*3600)).Format(time.DateTime)}
	for _, part := range parts {
		for name, value := range part {
			fields[name] = value
		}
	}
	body, err := json.Marshal(fields)
	if err != nil {
		return nil, err
	}
	d.say("app → gateway      POST %s\n                   %s", path, body)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+d.gatewayOut+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	content, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	if calls := d.platform.Calls(); len(calls) > 0 {
		d.say("gateway → platform the same bytes, and this header:\n                   Authorization: %s", calls[len(calls)-1].Header.Get("Authorization"))
	}
	d.say("gateway → app      %s, Gateway-Outcome: %s\n                   %s\n", res.Status, res.Header.Get("Gateway-Outcome"), content)

	var answer map[string]any
	if err := json.Unmarshal(content, &answer); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	// What an app must look at: has the platform answered at all, and what does it say?
	if outcome := res.Header.Get("Gateway-Outcome"); outcome != "answered" || answer["errCode"] != "SUCCESS" {
		return nil, fmt.Errorf("%s: outcome %s, errCode %v", path, outcome, answer["errCode"])
	}
	return answer, nil
}

// takeEvent is the merchant's app's side of a notify.
func (d *demo) takeEvent(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil {
		http.Error(w, "unreadable", http.StatusBadRequest)
		return
	}
	if err := webhook.Verify(d.secret, r.Header, body, time.Now(), 5*time.Minute); err != nil {
		http.Error(w, "not from the gateway", http.StatusUnauthorized)
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.received = append(d.received, received{r.Header.Clone(), body})
	// 2xx with an empty body: taken. The gateway now answers SUCCESS.
}

// notified waits until the platform has heard SUCCESS, and shows what went over the wires.
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
	event := d.received[i]
	d.say("platform → gateway a signed form; the signature is right")
	d.say("gateway → app      POST /notify")
	for _, name := range []string{"Ce-Id", "Ce-Type", "Ce-Source", "Ce-Subject", "Ce-Time", "Webhook-Signature"} {
		d.say("                   %s: %s", name, event.header.Get(name))
	}
	d.say("                   %s", event.body)
	for _, delivery := range slices.Backward(d.platform.Deliveries()) {
		if delivery.Kind == kind {
			d.say("gateway → platform %d %s   (the app had answered 2xx with an empty body)\n", delivery.Status, delivery.Answer)
			break
		}
	}
	return nil
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

func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}
