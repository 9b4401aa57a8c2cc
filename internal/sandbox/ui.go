package sandbox

import (
	"html/template"
	"net"
	"net/http"
	"slices"
	"time"
)

// What the page shows at most.
const (
	shownOrders     = 200
	shownDeliveries = 50
)

var uiPage = template.Must(template.New("ui").Funcs(template.FuncMap{
	"yuan": func(amount int64) string { return fen(amount).yuan() },
	"clock": func(at time.Time) string {
		if at.IsZero() {
			return ""
		}
		return clockText(at)
	},
}).Parse(`<!DOCTYPE html>
<html lang="zh-CN">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{.Title}}</title>
<style>
body { font: .9rem/1.5 system-ui, sans-serif; margin: 1.5rem }
table { border-collapse: collapse; margin: .5rem 0 2rem; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .3rem .7rem .3rem 0; border-bottom: 1px solid #ddd }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap }
form { margin: 0 }
button { font: inherit }
.bad { color: #b00 }
</style>
</head>
<body>
<h1>{{.Title}}</h1>
<p>{{range .Known}}{{.Name}} <code>{{.Value}}</code> · {{end}}{{clock .Now}}</p>
{{with .Warnings}}<ul id="warnings">
{{range .}}<li class="bad">{{.}}
{{end}}</ul>
{{end}}
<h2>订单 Orders</h2>
<table id="orders">
<thead><tr><th>订单号 Number<th>金额 Amount<th>状态 Status<th>时间 Time<th>退款 Refunds<th></thead>
<tbody>
{{range .Orders}}<tr>
<td><code>{{.MerOrderID}}</code>{{with .BillNo}}<br>账单 bill <code>{{.}}</code>{{end}}
<td class="number">{{yuan .TotalAmount}}
<td>{{.Status}}{{with .BillStatus}}<br>{{.}}{{end}}{{with .SecureStatus}}<br>{{.}}{{end}}
<td class="number">{{clock .Created}}{{if not .Paid.IsZero}}<br>付款 paid {{clock .Paid}}{{end}}
<td>{{range .Refunds}}<code>{{.RefundOrderID}}</code> {{yuan .Amount}} {{.Status}}<br>{{end}}
<td>{{if .Payable}}<form method="post" action="pay"><input type="hidden" name="order" value="{{.MerOrderID}}"><button>付款 Pay</button></form>{{end}}
</tr>
{{else}}<tr><td colspan="6">还没有订单 none yet
{{end}}</tbody>
</table>

<h2>通知 Notifies</h2>
<table id="deliveries">
<thead><tr><th>时间 Time<th>通知 Notify<th>订单号 Number<th>地址 Address<th>返回 Answer</thead>
<tbody>
{{range .Deliveries}}<tr>
<td class="number">{{clock .Time}}
<td>{{.Kind}}, {{.Variant}}, #{{.Attempt}}
<td><code>{{.Order}}</code>{{with .Refund}}<br>退款 refund <code>{{.}}</code>{{end}}
<td>{{.URL}}
<td{{if not .Delivered}} class="bad"{{end}}>{{if .Err}}{{.Err}}{{else}}{{.Status}} {{printf "%.80q" .Answer}}{{end}}{{with .Saved}}<br><code>{{.}}</code>{{end}}
</tr>
{{else}}<tr><td colspan="5">还没有通知 none yet
{{end}}</tbody>
</table>
<p><small>按 F5 刷新。Reload to see what has changed.</small></p>
</body>
</html>
`))

// UI is a page of the orders with their refunds and the latest notifies, and a button that pays: GET / and POST /pay
// below wherever it is mounted. Options.UI mounts it in ServeHTTP. Only a browser on this machine may use it.
//
// Below /sandbox/ is the control interface, which ServeHTTP has always:
//
//	GET    /sandbox/orders[?number=…]  the books: {"orders": […]}, each an [Order]; the number may be a refund's
//	GET    /sandbox/faults             those that wait
//	POST   /sandbox/faults             [Fault]s to add, one or an array: {"kind":"no-notify","share":0.2,"times":-1}
//	DELETE /sandbox/faults             Heal
//	POST   /sandbox/pay                {"number":"…"}; with "closed":true an order that was closed unpaid
//	POST   /sandbox/refund             {"number":"…","amount":100}: made at the platform's own page
//	POST   /sandbox/finish             {"number":"…","status":"FAIL"}: FinishRefund
//	POST   /sandbox/notify             {"number":"…","kind":"payment","variant":"duplicate"}: Notify; variant genuine by default
//	POST   /sandbox/pass               {"for":"1h"}: Pass
//
// What was done is answered as JSON, a mistake with 400 and what cannot be done with 409, as {"error":"…"}.
func (c *ChinaUMS) UI() http.Handler {
	return ui(c.options.AllowRemote, c, func() view {
		return view{
			Title: "银联商务沙箱 ChinaUMS sandbox",
			Known: []known{{"商户号 mid", c.options.MID}, {"来源编号 source code", c.options.SourceCode}},
			Now:   c.now(), Warnings: c.warnings.all(), Orders: rows(c.Orders(), statusNew, statusWaiting),
			Deliveries: c.Deliveries(),
		}
	})
}

// view is what the page shows, the oldest orders and deliveries first.
type view struct {
	Title      string
	Known      []known
	Now        time.Time
	Warnings   []string
	Orders     []row
	Deliveries []Delivery
}

// known is something of the platform's that a merchant needs.
type known struct{ Name, Value string }

// row is an order as the page shows it.
type row struct {
	Order
	Payable bool
}

// rows are the newest orders, the newest first; those with one of the statuses can be paid.
func rows(orders []Order, payable ...string) []row {
	orders = orders[max(0, len(orders)-shownOrders):]
	all := make([]row, 0, len(orders))
	for _, o := range slices.Backward(orders) {
		all = append(all, row{o, slices.Contains(payable, o.Status)})
	}
	return all
}

func ui(remote bool, platform controlled, look func() view) http.Handler {
	mux := http.NewServeMux()
	control(mux, platform)
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		shown := look()
		slices.Reverse(shown.Deliveries)
		shown.Deliveries = shown.Deliveries[:min(len(shown.Deliveries), shownDeliveries)]
		show(w, uiPage, shown)
	})
	mux.HandleFunc("POST /pay", func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, 4<<10)
		if err := platform.Pay(r.PostFormValue("order")); err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
			return
		}
		w.Header().Set("Location", ".") // http.Redirect would make it absolute, without what http.StripPrefix took off
		w.WriteHeader(http.StatusSeeOther)
	})
	protected := http.NewCrossOriginProtection().Handler(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		pageHeader(w)
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		// A name of somebody else's that resolves to this machine would make his page ours.
		if !remote && !local(host) {
			http.Error(w, "请用localhost访问 use localhost", http.StatusForbidden)
			return
		}
		protected.ServeHTTP(w, r)
	})
}
