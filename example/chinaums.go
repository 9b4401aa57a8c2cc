package main

import (
	"context"
	"fmt"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
)

// chinaumsConfig is the gateway's whole configuration. In production it has no `upstream` line, and the second site is
// the public host name that the platform calls. 网关的全部配置；生产环境没有 upstream 这一行，第二个站点是平台回调的域名。
const chinaumsConfig = `{
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
	chinaums {
		merchant shop {
			app_id {env.UMS_APP_ID}
			app_key {env.UMS_APP_KEY}
			notify_key {env.UMS_NOTIFY_KEY}
			mid {env.UMS_MID}
			upstream {env.UPSTREAM}
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
		reverse_proxy {$APP} {
			request_buffers 64KiB
		}
	}
	respond 404
}
`

// newChinaUMS is the story of one order at ChinaUMS.
func newChinaUMS() (*story, error) {
	platform, err := sandbox.New(sandbox.Options{Schedule: []time.Duration{time.Second, time.Second, 2 * time.Second}})
	if err != nil {
		return nil, err
	}
	keys := platform.Options()
	now := time.Now().Format("20060102150405")
	order, refund := keys.SourceCode+now+"0000001", keys.SourceCode+now+"0000002"
	identity := func() map[string]any {
		beijing := time.Now().In(time.FixedZone("CST", 8*3600)).Format(time.DateTime)
		return map[string]any{"requestTimestamp": beijing, "mid": keys.MID, "tid": keys.TID, "instMid": "APPDEFAULT"}
	}

	walk := func(ctx context.Context, d *demo) error {
		call := func(path, word, want string, fields map[string]any) error {
			answer, err := d.call(ctx, path, with(identity(), fields))
			if err == nil && (answer["errCode"] != "SUCCESS" || answer[word] != want) {
				err = fmt.Errorf("%s: errCode %v, %s %v, not %s", path, answer["errCode"], word, answer[word], want)
			}
			return err
		}

		d.say("── 1. The app orders 下单 ───────────────────────────────────────────────")
		if err := call("/v1/netpay/trade/precreate", "status", "NEW_ORDER", map[string]any{
			"merOrderId": order, "totalAmount": 1234, "orderDesc": "一杯茶 a cup of tea", "tradeType": "APP",
			"notifyUrl": "http://" + d.gatewayIn + "/notify",
		}); err != nil {
			return err
		}

		d.say("── 2. The buyer pays; the platform notifies 付款与通知 ──────────────────")
		if err := platform.Pay(order); err != nil {
			return err
		}
		if err := d.notified(ctx, sandbox.KindPayment, "com.chinaums.payment.succeeded"); err != nil {
			return err
		}

		d.say("── 3. The app asks for the order 查询 ───────────────────────────────────")
		if err := call("/v1/netpay/query", "status", "TRADE_SUCCESS", map[string]any{"merOrderId": order}); err != nil {
			return err
		}

		d.say("── 4. The app refunds; the platform notifies 退款与通知 ─────────────────")
		if err := call("/v1/netpay/refund", "refundStatus", "SUCCESS", map[string]any{
			"merOrderId": order, "refundOrderId": refund, "refundAmount": 234,
		}); err != nil {
			return err
		}
		return d.notified(ctx, sandbox.KindRefund, "com.chinaums.refund.succeeded")
	}
	return &story{
		platform: platform, config: chinaumsConfig, word: "SUCCESS", order: order, walk: walk,
		done: done,
		environment: map[string]string{
			"UMS_APP_ID": keys.AppID, "UMS_APP_KEY": keys.AppKey, "UMS_NOTIFY_KEY": keys.NotifyKey, "UMS_MID": keys.MID,
		},
		hintPath: "/v1/netpay/query",
		hintBody: fmt.Sprintf(`{"requestTimestamp":"%s","mid":"%s","tid":"%s","instMid":"APPDEFAULT","merOrderId":"%s"}`,
			identity()["requestTimestamp"], keys.MID, keys.TID, order),
	}, nil
}
