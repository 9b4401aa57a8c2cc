package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/internal/freeport"
	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
)

// watchedConfig is a gateway with a watch. The times are short, so that nobody has to wait; in production there is nothing in the
// block. 带 watch 的网关配置；这里的时间设得很短，演示不必久等，生产环境里花括号内可以什么都不写。
const watchedConfig = `{
	admin {$GATEWAY_ADMIN}
	persist_config off
	auto_https off
	log {
		level ERROR
		exclude admin
	}
	servers {
		protocols h1
	}
	chinaums {
		merchant shop {
			app_id {env.UMS_APP_ID}
			app_key {env.UMS_APP_KEY}
			notify_key {env.UMS_NOTIFY_KEY}
			mid {env.UMS_MID}
			upstream {env.UPSTREAM}
		}
		watch {
			store bolt {
				path {$DEMO_DATA}/watch.db
			}
			orders 300ms 600ms 1s 2s 4s 8s 16s 30s
			unknown 300ms 600ms 1s 2s 4s 8s 16s 30s
			rate 10
		}
	}
	inbox {
		store bolt {
			path {$DEMO_DATA}/inbox.db
		}
	}
}

# the way out: the app calls this in plain JSON
http://{$GATEWAY_OUT} {
	bind 127.0.0.1
	chinaums_proxy
}

# the way in: the platform calls this; what a query has found goes the same way
http://{$GATEWAY_IN} {
	bind 127.0.0.1
	handle /notify {
		chinaums_notify
		inbox {
			deliver {
				webhook_signature {env.APP_SECRET}
				reverse_proxy {$APP}
			}
		}
	}
	respond 404
}
`

// newWatched is the story of an order whose notify never comes, and of a refund whose answer is lost.
func newWatched() (s *story, err error) {
	if s, err = newChinaUMS(); err != nil {
		return nil, err
	}
	platform := s.platform.(*sandbox.ChinaUMS)
	defer func() {
		if err != nil {
			platform.Close()
		}
	}()
	admin, err := freeport.Address()
	if err != nil {
		return nil, err
	}
	data, err := dataDirectory()
	if err != nil {
		return nil, err
	}
	s.config, s.cleanup = watchedConfig, func() error { return os.RemoveAll(data) }
	s.environment["GATEWAY_ADMIN"], s.environment["DEMO_DATA"] = admin, filepath.ToSlash(data)
	s.walk = func(ctx context.Context, d *demo) error {
		return (&watchedWalk{demo: d, platform: platform, admin: admin}).run(ctx)
	}
	s.done = "Done: the order was paid and refunded once; no notify came, and the app knows of both. 完成：订单付款一次、退款一次；一条通知也没有来，两件事应用都知道了。"
	return s, nil
}

// dataDirectory makes a directory on a disk: the inbox refuses to keep messages in memory, where /tmp may be.
func dataDirectory() (string, error) {
	parent := ""
	if info, err := os.Stat("/var/tmp"); err == nil && info.IsDir() {
		parent = "/var/tmp"
	}
	return os.MkdirTemp(parent, "caddy-chinaums-example-")
}

// watchedWalk is the walk with a watch.
type watchedWalk struct {
	*demo
	platform *sandbox.ChinaUMS
	admin    string // address of the admin API
}

func (w *watchedWalk) run(ctx context.Context) error {
	keys, refundPath := w.platform.Options(), "/v1/netpay/refund"
	first, second := w.order+"R1", w.order+"R2"
	post := func(path string, fields map[string]any, status int, code, outcome string) error {
		got, err := w.post(ctx, path, with(map[string]any{
			"requestTimestamp": time.Now().In(time.FixedZone("CST", 8*3600)).Format(time.DateTime),
			"mid":              keys.MID, "tid": keys.TID, "instMid": "APPDEFAULT", "merOrderId": w.order,
		}, fields))
		if err == nil && (got.status != status || got.answer["errCode"] != code || got.outcome != outcome) {
			err = fmt.Errorf("%s: %+v, not %d, %s and %s", path, got, status, code, outcome)
		}
		return err
	}

	w.say("── 1. The app orders 下单 ───────────────────────────────────────────────")
	if err := post("/v1/netpay/trade/precreate", map[string]any{
		"totalAmount": 1234, "orderDesc": "一杯茶 a cup of tea", "tradeType": "APP", "notifyUrl": "http://" + w.gatewayIn + "/notify",
	}, 200, "SUCCESS", "answered"); err != nil {
		return err
	}

	w.say("── 2. The buyer pays, and the notify never comes 付了款，通知却没有来（掉单） ──")
	w.platform.Break(sandbox.Fault{Kind: sandbox.NoNotify, Times: -1})
	if err := w.platform.Pay(w.order); err != nil {
		return err
	}
	w.say("The platform has the money and sends no notify. The watch asks about the order and tells the app (补单):\n" +
		"平台已收款，但不发通知。watch 主动查单，再通知应用：")
	if err := w.told(ctx, "com.chinaums.payment.succeeded", "/v1/netpay/query"); err != nil {
		return err
	}

	w.say("── 3. The app refunds, and the answer is lost 退款，返回丢了 ────────────")
	w.platform.Break(
		sandbox.Fault{Kind: sandbox.Processing, Path: refundPath, Queries: 1000},
		sandbox.Fault{Kind: sandbox.CutExecuted, Path: refundPath})
	if err := post(refundPath, map[string]any{"refundOrderId": first, "refundAmount": 1234}, 502, "GATEWAY_BAD_RESPONSE", "unknown"); err != nil {
		return err
	}
	w.say("The platform has the refund; its answer was cut off. With a watch the app does nothing: it will be told.\n" +
		"平台收到了这笔退款，返回在路上断了。有 watch 的应用什么也不用做，等通知即可。\n")

	w.say("── 4. The clerk clicks again: another refund number 店员又点了一次，换了退款单号 ──")
	if err := post(refundPath, map[string]any{"refundOrderId": second, "refundAmount": 1234}, 409, "GATEWAY_REFUND_UNRESOLVED", "not_sent"); err != nil {
		return err
	}
	w.say("The fate of the first refund is open, so the second is not sent. The answer names the first.\n" +
		"第一笔退款结果未知，第二笔不会发出；返回里写明是哪一笔挡住了。\n")

	w.say("── 5. The first refund turns out to have succeeded 第一笔退款查明已成功 ─────")
	if err := w.platform.FinishRefund(first, "SUCCESS"); err != nil {
		return err
	}
	if err := w.told(ctx, "com.chinaums.refund.succeeded", "/v1/netpay/refund-query"); err != nil {
		return err
	}

	w.say("── 6. What the watch has written down 网关记下了什么 ────────────────────")
	paidAt, err := w.timeline(ctx)
	if err != nil {
		return err
	}
	if err := w.reconcile(ctx, paidAt); err != nil {
		return err
	}
	return w.books()
}

// told waits for the app's next event, which a query must have found.
func (w *watchedWalk) told(ctx context.Context, eventType, path string) error {
	var event received
	select {
	case event = <-w.events:
	case <-ctx.Done():
		return fmt.Errorf("waiting for %s: %w", eventType, ctx.Err())
	}
	times := 0
	for _, c := range w.platform.Calls() {
		if c.Path == path {
			times++
		}
	}
	w.say("gateway → platform POST %s (×%d)", path, times)
	w.show(event, "Ce-Id", "Ce-Type", "Ce-Subject", "Ce-Evidence", "Ce-Ordered", "Webhook-Signature")
	w.say("")
	h := event.header
	if h.Get("Ce-Type") != eventType || h.Get("Ce-Subject") != w.order || h.Get("Ce-Evidence") != "query" || h.Get("Ce-Ordered") != "true" {
		return fmt.Errorf("the app was told %v, not %s by a query", h, eventType)
	}
	return nil
}

// get asks the admin API.
func (w *watchedWalk) get(ctx context.Context, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+w.admin+path, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	content, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", path, res.Status, content)
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(content, into)
}

// watchedOrder is what is shown of an order.
type watchedOrder struct {
	State  string
	PaidAt int64 `json:"paid_at"`
	Calls  []struct{ Number, State string }
	Told   []struct{ Taken int64 }
	Lines  []struct {
		At                       int64
		What, About, Word, State string
		Times                    int
	}
}

// timeline shows the order's timeline, and returns when its payment became known.
func (w *watchedWalk) timeline(ctx context.Context) (paidAt time.Time, err error) {
	path := "/chinaums/orders/shop/" + w.order
	var o watchedOrder
	for ticker := time.NewTicker(20 * time.Millisecond); ; { // the app may be faster than the line that it was told
		if err := w.get(ctx, path, &o); err != nil {
			return paidAt, err
		}
		if len(o.Told) == 2 && o.Told[0].Taken != 0 && o.Told[1].Taken != 0 {
			ticker.Stop()
			break
		}
		select {
		case <-ticker.C:
			o = watchedOrder{}
		case <-ctx.Done():
			return paidAt, fmt.Errorf("waiting until both events are taken: %+v: %w", o, ctx.Err())
		}
	}
	w.say("GET http://%s%s", w.admin, path)
	for _, line := range o.Lines {
		about := "order 订单"
		if line.About != "" {
			about = "refund 退款 …" + strings.TrimPrefix(line.About, w.order)
		}
		text := fmt.Sprintf("  %s  %-6s  %s: %s", time.UnixMilli(line.At).Format("15:04:05.000"), line.What, about, line.Word)
		if line.Times > 1 {
			text += fmt.Sprintf(" (×%d)", line.Times)
		}
		if line.State != "" {
			text += " ⇒ " + line.State
		}
		w.say("%s", text)
	}
	w.say("")
	if o.State != "refunded" || len(o.Calls) != 1 || o.Calls[0].State != "succeeded" {
		return paidAt, fmt.Errorf("the watch has %+v", o)
	}
	return time.UnixMilli(o.PaidAt), nil
}

// reconcile shows what the day's reconciliation says of the order.
func (w *watchedWalk) reconcile(ctx context.Context, paidAt time.Time) error {
	path := "/chinaums/reconcile?day=" + paidAt.In(time.FixedZone("CST", 8*3600)).Format(time.DateOnly)
	var report struct {
		Records []struct {
			Verdict, Order, State   string
			Ordered, Paid, Refunded int64
		}
	}
	if err := w.get(ctx, path, &report); err != nil {
		return err
	}
	w.say("GET http://%s%s", w.admin, path)
	for _, r := range report.Records {
		w.say("  %s: %s, ordered 下单 %d, paid 实付 %d, refunded 已退 %d\n", r.Verdict, r.State, r.Ordered, r.Paid, r.Refunded)
	}
	if len(report.Records) != 1 || report.Records[0].Verdict != "paid_without_notify" || report.Records[0].Refunded != 1234 {
		return fmt.Errorf("the reconciliation says %+v", report)
	}
	return nil
}

// books holds all against the platform's own books.
func (w *watchedWalk) books() error {
	order, found := w.platform.Order(w.order)
	w.mu.Lock()
	defer w.mu.Unlock()
	if !found || len(order.Refunds) != 1 || len(order.Returns) != 1 || order.Returns[0].Amount != 1234 || len(w.received) != 2 {
		return fmt.Errorf("the platform's books have %+v, and the app got %d events", order, len(w.received))
	}
	for _, sent := range w.platform.Deliveries() {
		if sent.Delivered {
			return fmt.Errorf("a notify was delivered after all: %+v", sent)
		}
	}
	w.say("The platform's own books: one payment, one refund. 平台自己的账上：一笔付款，一笔退款。\n")
	return nil
}
