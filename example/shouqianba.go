package main

import (
	"context"
	"fmt"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
)

// shouqianbaConfig is the gateway's whole configuration. In production it has no `upstream` line, and the second site is
// the public host name that the platform calls. 网关的全部配置；生产环境没有 upstream 这一行，第二个站点是平台回调的域名。
const shouqianbaConfig = `{
	admin off
	persist_config off
	auto_https off
	log {
		level WARN
		exclude admin
	}
	servers {
		protocols h1
	}
	shouqianba {
		terminal till {
			terminal_sn {env.SQB_TERMINAL_SN}
			terminal_key {env.SQB_TERMINAL_KEY}
			public_key {env.SQB_PUBLIC_KEY}
			upstream {env.UPSTREAM}
		}
	}
}

# the way out: the app calls this in plain JSON
http://{$GATEWAY_OUT} {
	bind 127.0.0.1
	shouqianba_proxy
}

# the way in: the platform calls this
http://{$GATEWAY_IN} {
	bind 127.0.0.1
	handle /notify {
		shouqianba_notify
		webhook_signature {env.APP_SECRET}
		reverse_proxy {$APP} {
			request_buffers 64KiB
		}
	}
	respond 404
}
`

// newShouqianba is the story of one order at Shouqianba.
func newShouqianba() (*story, error) {
	platform, err := sandbox.NewShouqianba(sandbox.ShouqianbaOptions{Schedule: []time.Duration{time.Second, time.Second, 2 * time.Second}})
	if err != nil {
		return nil, err
	}
	keys := platform.Options()
	now := time.Now().Format("20060102150405")
	order, refund := "tea"+now, "r"+now

	walk := func(ctx context.Context, d *demo) error {
		call := func(path, result, orderStatus string, fields map[string]any) error {
			answer, err := d.call(ctx, path, with(map[string]any{"terminal_sn": keys.TerminalSN, "client_sn": order}, fields))
			if err != nil {
				return err
			}
			business, _ := answer["biz_response"].(map[string]any)
			data, _ := business["data"].(map[string]any)
			if answer["result_code"] != "200" || business["result_code"] != result || data["order_status"] != orderStatus {
				return fmt.Errorf("%s: %v, not %s and %s", path, answer, result, orderStatus)
			}
			return nil
		}

		d.say("── 1. The app orders 下单（预下单） ─────────────────────────────────────")
		if err := call("/upay/v2/precreate", "PRECREATE_SUCCESS", "CREATED", map[string]any{
			"total_amount": "1234", "payway": "3", "subject": "一杯茶 a cup of tea", "operator": "till 1",
			"notify_url": "http://" + d.gatewayIn + "/notify",
		}); err != nil {
			return err
		}

		d.say("── 2. The buyer pays; the platform notifies 付款与通知 ──────────────────")
		if err := platform.Pay(order); err != nil {
			return err
		}
		if err := d.notified(ctx, sandbox.KindPayment, "com.shouqianba.payment.succeeded"); err != nil {
			return err
		}

		d.say("── 3. The app asks for the order 查询 ───────────────────────────────────")
		if err := call("/upay/v2/query", "SUCCESS", "PAID", nil); err != nil {
			return err
		}

		d.say("── 4. The app refunds; the platform notifies 退款与通知 ─────────────────")
		if err := call("/upay/v2/refund", "REFUND_SUCCESS", "PARTIAL_REFUNDED", map[string]any{
			"refund_request_no": refund, "refund_amount": "234", "operator": "till 1",
		}); err != nil {
			return err
		}
		return d.notified(ctx, sandbox.KindRefund, "com.shouqianba.refund.succeeded")
	}
	return &story{
		platform: platform, config: shouqianbaConfig, word: "success", order: order, walk: walk,
		done: done,
		environment: map[string]string{
			"SQB_TERMINAL_SN": keys.TerminalSN, "SQB_TERMINAL_KEY": keys.TerminalKey, "SQB_PUBLIC_KEY": platform.PublicKey(),
		},
		hintPath: "/upay/v2/query",
		hintBody: fmt.Sprintf(`{"terminal_sn":"%s","client_sn":"%s"}`, keys.TerminalSN, order),
	}, nil
}
