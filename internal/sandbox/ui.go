package sandbox

import (
	"cmp"
	"embed"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"
)

// What the page shows at most.
const (
	shownOrders     = 200
	shownCalls      = 200
	shownDeliveries = 200
	shownBytes      = 4 << 10 // of a body
)

// pageFiles are the page as it is written: no step builds it.
//
//go:embed page
var pageFiles embed.FS

// UI is the page of the orders, their calls and notifies: GET / below wherever it is mounted, and POST /pay for a form.
// Options.UI mounts it in ServeHTTP. Only a browser on this machine may use it.
//
// Below /sandbox/ is the control interface, which ServeHTTP has always:
//
//	GET    /sandbox/orders[?number=…]  the books: {"orders": […]}, each an [Order]; the number may be a refund's
//	GET    /sandbox/faults             those that wait
//	POST   /sandbox/faults             [Fault]s to add, one or an array: {"kind":"no-notify","share":0.2,"times":-1}
//	DELETE /sandbox/faults[?kind=…]    Heal
//	POST   /sandbox/pay                {"number":"…"}; with "closed":true an order that was closed unpaid
//	POST   /sandbox/close              {"number":"…"}: CloseOrder
//	POST   /sandbox/refund             {"number":"…","amount":100}: made at the platform's own page
//	POST   /sandbox/finish             {"number":"…","status":"FAIL"}: FinishRefund
//	POST   /sandbox/notify             {"number":"…","kind":"payment","variant":"duplicate"}: Notify; variant genuine by default
//	POST   /sandbox/pass               {"for":"1h"}: Pass
//
// What was done is answered as JSON, a mistake with 400 and what cannot be done with 409, as {"error":"…"}.
func (c *ChinaUMS) UI() http.Handler {
	return ui(c.options.AllowRemote, c, func() view {
		v := view{
			Title: words{"银联商务沙箱", "ChinaUMS sandbox"},
			Known: []known{{words{"商户号 mid", "mid"}, c.options.MID}, {words{"来源编号", "source code"}, c.options.SourceCode}},
			Now:   c.now(), Warnings: c.warnings.all(), Orders: rows(c.Orders(), statusNew, statusWaiting), Faults: c.Faults(),
			Calls: c.Calls(), Deliveries: c.Deliveries(), Variants: variantNames,
		}
		for i := range v.Calls {
			c.explain(&v.Calls[i])
		}
		return v
	})
}

// explain adds to a call what was signed, without the key, the signature that came and the one that should have come. A
// call with a token has none.
func (c *ChinaUMS) explain(call *Call) {
	var signed signedCall
	content := call.Body
	switch link, err := parseLink(call.Query); {
	case call.Method == http.MethodGet && err == nil:
		signed = signedCall{link["appId"], link["timestamp"], link["nonce"], link["signature"]}
		content = []byte(link["content"])
	case call.Path == "/v1/token/access":
		f, _ := parseFields(call.Body)
		signed = signedCall{f.text("appId"), f.text("timestamp"), f.text("nonce"), f.text("signature")}
		call.Signed, call.Signature = signed.appID+signed.timestamp+signed.nonce+"<appKey>", signed.signature
		call.Expected = tokenSignature(f.text("signMethod"), c.options.AppID, c.options.AppKey, signed.timestamp, signed.nonce)
		return
	default:
		parsed, _ := parseAuthorization(call.Header.Get("Authorization"))
		if parsed.scheme != schemeBody {
			return
		}
		values := parsed.values
		signed = signedCall{values["AppId"], values["Timestamp"], values["Nonce"], values["Signature"]}
	}
	call.Signed = bodyToSign(signed.appID, signed.timestamp, signed.nonce, content)
	call.Signature = signed.signature
	call.Expected = bodySignature(c.options.AppID, c.options.AppKey, signed.timestamp, signed.nonce, content)
}

// view is what the page shows.
type view struct {
	Title      words      `json:"title"`
	Known      []known    `json:"known"`
	Now        time.Time  `json:"now"`
	Warnings   []string   `json:"warnings"`
	Orders     []row      `json:"orders"`     // the newest first
	Calls      []Call     `json:"calls"`      // the newest first
	Deliveries []Delivery `json:"deliveries"` // the newest first
	Faults     []Fault    `json:"faults"`
	Variants   []string   `json:"variants"` // of notifies, those that the platform has
}

// words are in Chinese and in English.
type words [2]string

// known is something of the platform's that a merchant needs.
type known struct {
	Name  words  `json:"name"`
	Value string `json:"value"`
}

// row is an order as the page shows it.
type row struct {
	Order
	Payable bool `json:"payable"`
}

// rows are the newest orders, the newest first; those with one of the statuses can be paid.
func rows(orders []Order, payable ...string) []row {
	all := make([]row, 0, shownOrders)
	for _, o := range newest(orders, shownOrders) {
		all = append(all, row{o, slices.Contains(payable, o.Status)})
	}
	return all
}

// newest turns a list whose newest are last, and cuts it.
func newest[T any](all []T, most int) []T {
	all = append([]T{}, all[max(0, len(all)-most):]...) // never null in JSON
	slices.Reverse(all)
	return all
}

func ui(remote bool, platform controlled, look func() view) http.Handler {
	mux := http.NewServeMux()
	control(mux, platform)
	mux.HandleFunc("GET /sandbox/view", func(w http.ResponseWriter, _ *http.Request) {
		v := look()
		v.Calls, v.Deliveries = newest(v.Calls, shownCalls), newest(v.Deliveries, shownDeliveries)
		for i := range v.Calls {
			call := &v.Calls[i]
			call.Header, call.Body, call.Query = nil, clip(call.Body), string(clip([]byte(call.Query)))
			call.Signed = string(clip([]byte(call.Signed)))
		}
		for i := range v.Deliveries {
			sent := &v.Deliveries[i]
			sent.Form, sent.Body, sent.Signed = nil, clip(sent.Body), string(clip([]byte(sent.Signed)))
		}
		v.Warnings = append([]string{}, v.Warnings...)
		writeControl(w, v, nil)
	})
	mux.HandleFunc("GET /{$}", servePage)
	mux.HandleFunc("GET /sandbox/page.css", servePage)
	mux.HandleFunc("GET /sandbox/page.js", servePage)
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
		w.Header().Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "+
			"img-src data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'")
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

func servePage(w http.ResponseWriter, r *http.Request) {
	name := cmp.Or(strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, controlPath), "/"), "index.html")
	http.ServeFileFS(w, r, pageFiles, "page/"+name)
}

// clip cuts what is too long for the page.
func clip(body []byte) []byte { return body[:min(len(body), shownBytes)] }
