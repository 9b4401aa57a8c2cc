package dev

import (
	"fmt"
	"strings"
)

// texts are what is said, in one language.
type texts struct {
	running, page, calls, notifies string
	app, noApp, ownApp, pages      string
	variables, record              string
	typing, legend                 string
	steps                          map[string]string

	call, took, refused, silent, forged string

	console, admin, kept, replied, found string // with a watch
}

var english = texts{
	running:   "The sandbox, which plays the platform, and the gateway run until Ctrl-C. The keys are new.",
	page:      "orders, with a pay button",
	calls:     "your app calls here",
	notifies:  "the platform notifies here (notifyUrl)",
	app:       "your app takes events here",
	noApp:     "not given: the gateway accepts every event itself",
	ownApp:    "your app's pages: index.php of this directory, run by php-cgi",
	pages:     "your app's pages",
	variables: "Your app needs these variables:",
	record:    "An app that compares events with its own orders refuses those of other orders. So order with your app, not with the first command.",
	typing:    "Type into another terminal (bash or zsh). Change the order number for another order:",
	legend:    "What happens: call = a call of your app, --> = an event for it, <-- = its reply.",
	steps: map[string]string{
		"order": "Order for 49.90 yuan:", "pay": "Pay:", "query": "Query:", "refund": "Refund 9.90 yuan:",
		"lose": "Lose the next notification. The watch finds the payment 10 s after the order, or later:", "orders": "What the watch knows:",
	},

	call:    "call",
	took:    "%d, accepted: %s to the platform",
	refused: "%d, not accepted (%s): %s to the platform, which sends it again",
	silent:  "no reply (%s): %s to the platform, which sends it again",
	forged:  "notification rejected, %d (%s): %s to the sender",

	console: "the console: what is going on, order by order",
	admin:   "the admin API, for the commands orders, order, query, resend and reconcile",
	kept:    "in the inbox: %s to the platform",
	replied: "%d from your app",
	found:   "(found by a query)",
}

var chinese = texts{
	running:   "沙箱（在本机模拟平台）和网关已启动，按 Ctrl-C 全部结束。密钥每次启动都不同。",
	page:      "订单页面，带付款按钮",
	calls:     "应用调用这里",
	notifies:  "平台回调这里（notifyUrl）",
	app:       "应用在此接收事件",
	noApp:     "未指定应用：网关自己收下所有事件",
	ownApp:    "应用的页面：当前目录的 index.php，由 php-cgi 运行",
	pages:     "应用的页面",
	variables: "应用需要以下环境变量：",
	record:    "应用如果核对自己的订单记录，会拒收不认识的订单。所以请在您的应用里下单，不用下面的第一条命令。",
	typing:    "在另一个终端（bash 或 zsh）里输入以下命令；再下一单时换一个单号：",
	legend:    "以下是过程：调用 = 应用发起的调用，--> = 给应用的事件，<-- = 应用的返回。",
	steps: map[string]string{
		"order": "下单，49.90 元：", "pay": "付款：", "query": "查单：", "refund": "退款 9.90 元：",
		"lose": "让下一条通知丢失；下单 10 秒后，watch 会查到这笔付款：", "orders": "看看 watch 记下了什么：",
	},

	call:    "调用",
	took:    "%d，已收下：向平台返回 %s",
	refused: "%d，未收下（%s）：向平台返回 %s，平台会重发",
	silent:  "没有返回（%s）：向平台返回 %s，平台会重发",
	forged:  "拒绝通知，%d（%s）：向发送方返回 %s",

	console: "值班台：订单、回调、收件箱一目了然",
	admin:   "管理 API，供 orders、order、query、resend、reconcile 等命令使用",
	kept:    "已存入收件箱：向平台返回 %s",
	replied: "应用返回 %d",
	found:   "（查单得知）",
}

// introduce prints where everything is and what to type. secret is the app's, if nobody has been told yet.
func (r *run) introduce(secret string) error {
	var b strings.Builder
	gateway, page := "http://"+r.address(wayOut), "http://"+r.address(platformSide)
	row := func(value, label string) { fmt.Fprintf(&b, "  %-32s%s\n", value, label) }
	b.WriteString(r.running + "\n\n")
	row(page, r.page)
	row(gateway, r.calls)
	row(r.notifyURL(), r.notifies)
	if r.Watch {
		row("http://"+r.address(adminSide)+"/gateway/", r.console)
		row("http://"+r.address(adminSide), r.admin)
	}
	switch {
	case r.app.own:
		row("http://"+r.address(pages), r.ownApp)
	case r.app.fastcgi:
		row("fastcgi://"+strings.TrimPrefix(r.app.address, "unix/"), r.texts.app)
		row("http://"+r.address(pages), r.pages)
	case r.app.address != "":
		row("http://"+r.app.address+"/notify", r.texts.app)
	default:
		row("--app", r.noApp)
	}
	if r.app.address != "" {
		if !r.app.php() {
			b.WriteString("\n" + r.variables + "\n")
			environment := r.platform.environment()
			environment["APP_SECRET"] = secret
			for _, name := range r.appNames() {
				if environment[name] != "" {
					fmt.Fprintf(&b, "export %s=%s\n", name, environment[name])
				}
			}
		}
		b.WriteString("\n" + r.record + "\n")
	}
	b.WriteString("\n" + r.typing + "\n")
	commands := r.platform.commands(gateway, r.notifyURL(), page)
	if r.Watch {
		commands = append(commands, command{"lose", `curl -d '{"kind": "no-notify"}' ` + page + "/sandbox/faults"},
			command{"orders", "./caddy chinaums orders --address " + r.address(adminSide)})
	}
	for _, command := range commands {
		fmt.Fprintf(&b, "\n%s\n%s\n", r.steps[command.step], command.line)
	}
	b.WriteString("\n" + r.legend + "\n")
	r.print.mu.Lock()
	defer r.print.mu.Unlock()
	_, err := fmt.Fprint(r.Out, b.String())
	return err
}
