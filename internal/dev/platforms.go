package dev

import (
	"fmt"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
)

// The numbers are always the same, so that a command of yesterday, or of the README, works today. The keys are fresh.
const (
	mid        = "898000000000000"
	tid        = "00000001"
	source     = "SAND" // 来源编号
	terminalSN = "100000000000000001"
)

// retries is when a notify comes again: sooner than the platform's do, because somebody waits for it.
func retries() (delays []time.Duration) {
	for delay := time.Second; delay <= 32*time.Second; delay *= 2 {
		delays = append(delays, delay)
	}
	return delays
}

// play starts the platform.
func (r *run) play() (played, error) {
	warn := func(text string) { fmt.Fprintln(r.Err, "# 提示 warning:", text) }
	switch r.Platform {
	case ChinaUMS:
		platform, err := sandbox.New(sandbox.Options{
			MID: mid, TID: tid, SourceCode: source, UI: true, Schedule: retries(), NotifyURL: r.notifyURL(), Warn: warn,
		})
		return chinaums{platform}, err
	case Shouqianba:
		platform, err := sandbox.NewShouqianba(sandbox.ShouqianbaOptions{
			TerminalSN: terminalSN, UI: true, Schedule: retries(), OrderLifetime: 30 * time.Minute, Warn: warn,
		})
		return shouqianba{platform}, err
	}
	return nil, fmt.Errorf("--platform: %q is neither %s nor %s", r.Platform, ChinaUMS, Shouqianba)
}

type chinaums struct{ *sandbox.ChinaUMS }

func (c chinaums) environment() map[string]string {
	keys := c.Options()
	return map[string]string{
		"UMS_APP_ID": keys.AppID, "UMS_APP_KEY": keys.AppKey, "UMS_NOTIFY_KEY": keys.NotifyKey,
		"UMS_MID": keys.MID, "UMS_TID": keys.TID, "UMS_SOURCE": keys.SourceCode,
	}
}

func (chinaums) names() []string { return []string{"UMS_MID", "UMS_TID", "UMS_SOURCE"} }
func (chinaums) prefix() string  { return ChinaUMS }

func (chinaums) account() string {
	return `	chinaums {
		merchant dev {
			app_id {env.UMS_APP_ID}
			app_key {env.UMS_APP_KEY}
			notify_key {env.UMS_NOTIFY_KEY}
			mid {env.UMS_MID}
			upstream {env.DEV_UPSTREAM}
		}
	}
`
}

func (chinaums) commands(gateway, notify, page string) []command {
	const order = source + "0000001"
	now := time.Now().In(time.FixedZone("CST", 8*3600)).Format(time.DateTime)
	call := func(path, more string) string {
		return fmt.Sprintf(`curl -w '\n' -H 'Content-Type: application/json' %s/v1/netpay/%s -d '{
  "requestTimestamp": "%s", "mid": "%s", "tid": "%s", "instMid": "APPDEFAULT",
  "merOrderId": "%s"%s}'`, gateway, path, now, mid, tid, order, more)
	}
	return []command{
		{"order", call("trade/precreate", fmt.Sprintf(`, "tradeType": "APP", "totalAmount": 4990, "notifyUrl": "%s"`, notify))},
		{"pay", fmt.Sprintf("curl -d order=%s %s/pay", order, page)},
		{"query", call("query", "")},
		{"refund", call("refund", `, "refundOrderId": "`+order+`R", "refundAmount": 990`)},
	}
}

type shouqianba struct{ *sandbox.Shouqianba }

func (s shouqianba) environment() map[string]string {
	keys := s.Options()
	return map[string]string{"SQB_TERMINAL_SN": keys.TerminalSN, "SQB_TERMINAL_KEY": keys.TerminalKey, "SQB_PUBLIC_KEY": s.PublicKey()}
}

func (shouqianba) names() []string { return []string{"SQB_TERMINAL_SN"} }
func (shouqianba) prefix() string  { return Shouqianba }

func (shouqianba) account() string {
	return `	shouqianba {
		terminal dev {
			terminal_sn {env.SQB_TERMINAL_SN}
			terminal_key {env.SQB_TERMINAL_KEY}
			public_key {env.SQB_PUBLIC_KEY}
			upstream {env.DEV_UPSTREAM}
		}
	}
`
}

func (shouqianba) commands(gateway, notify, page string) []command {
	const order = source + "0000001"
	call := func(path, more string) string {
		return fmt.Sprintf(`curl -w '\n' -H 'Content-Type: application/json' %s/upay/v2/%s -d '{
  "terminal_sn": "%s", "client_sn": "%s"%s}'`, gateway, path, terminalSN, order, more)
	}
	return []command{
		{"order", call("precreate", fmt.Sprintf(`, "total_amount": "4990", "payway": "3", "subject": "tea",
  "operator": "till 1", "notify_url": "%s"`, notify))},
		{"pay", fmt.Sprintf("curl -d order=%s %s/pay", order, page)},
		{"query", call("query", "")},
		{"refund", call("refund", `, "refund_request_no": "`+order+`R", "refund_amount": "990", "operator": "till 1"`)},
	}
}

// Interface guards
var (
	_ played = chinaums{}
	_ played = shouqianba{}
)
