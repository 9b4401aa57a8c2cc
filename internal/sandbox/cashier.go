package sandbox

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// links are the interfaces that a browser is sent to with an OPEN-FORM-PARAM link, and the channel behind each.
var links = map[string]string{
	"/v1/netpay/trade/h5-pay":        "Alipay 2.0",
	"/v1/netpay/wxpay/h5-pay":        "WXPay",
	"/v1/netpay/wxpay/h5-to-minipay": "WXPay",
	"/v1/netpay/uac/order":           "UAC",
	"/v1/netpay/webpay/pay":          "WXPay",
}

const cashierPath = "/cashier/"

// follow is a browser following a link: the order is made, and the browser sent on to the cashier.
func (c *ChinaUMS) follow(path, query string) (out reply) {
	c.mu.Lock()
	defer c.mu.Unlock()
	values, err := parseLink(query)
	if err != nil {
		return c.refuse(http.StatusOK, fail("BAD_REQUEST", "请求参数有误"), nil)
	}
	if values["authorization"] != schemeForm {
		return c.refuse(http.StatusOK, fail("BAD_SIGN", "authorization应为%s", schemeForm), nil)
	}
	signed := signedCall{values["appId"], values["timestamp"], values["nonce"], values["signature"]}
	if failed := c.check(signed, func() string {
		return bodySignature(c.options.AppID, c.options.AppKey, signed.timestamp, signed.nonce, []byte(values["content"]))
	}); failed != nil {
		return c.refuse(http.StatusOK, failed, nil)
	}
	in := call{path: path, now: c.now()}
	if in.fields, err = parseFields([]byte(values["content"])); err != nil {
		return c.refuse(http.StatusOK, fail("BAD_REQUEST", "content不是JSON对象"), nil)
	}
	defer func() { out.warning = in.warning() }()
	if failed := c.common(in, orderFields); failed != nil {
		return c.refuse(http.StatusOK, failed, in.fields)
	}
	o, failed := c.order(in, links[path])
	if failed != nil {
		return c.refuse(http.StatusOK, failed, in.fields)
	}
	o.cashier = rand.Text() + rand.Text()
	c.cashiers[o.cashier] = o
	return reply{
		status: http.StatusFound, code: "SUCCESS",
		header: http.Header{
			"Location": {cashierPath + o.cashier}, "Cache-Control": {"no-store"}, "Content-Type": {"text/plain"},
		},
	}
}

// parseLink reads a link's query. Each parameter may be there once; what would be ambiguous is refused.
func parseLink(query string) (map[string]string, error) {
	values := make(map[string]string)
	for pair := range strings.SplitSeq(query, "&") {
		rawName, rawValue, _ := strings.Cut(pair, "=")
		name, err := url.QueryUnescape(rawName)
		if err != nil {
			return nil, err
		}
		value, err := url.QueryUnescape(rawValue)
		if err != nil {
			return nil, err
		}
		if _, repeated := values[name]; repeated || len(values) == 32 {
			return nil, fmt.Errorf("parameter %q", name)
		}
		values[name] = value
	}
	return values, nil
}

var cashierPage = template.Must(template.New("cashier").Parse(`<!DOCTYPE html>
<html lang="zh-CN">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>收银台 Cashier (sandbox)</title>
<style>
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 26rem; margin: 2rem auto; padding: 0 1rem }
.amount { font-size: 2rem }
button { font: inherit; padding: .6rem 1.4rem; margin-right: .6rem }
</style>
</head>
<body>
<h1>{{.Merchant}}</h1>
<p>{{.Description}}</p>
<p class="amount" id="amount">{{.Amount}}</p>
<p>订单号 Order <code id="order">{{.Number}}</code></p>
<p>状态 Status <code id="status">{{.Status}}</code></p>
<form method="post">
{{if .Payable}}<button name="do" value="pay" id="pay">付款 Pay</button>
<button name="do" value="back" id="back">返回商户 Back, unpaid</button>
{{else if .Return}}<button name="do" value="back" id="back">返回商户 Back to the shop</button>
{{end}}</form>
<p><small>沙箱，不涉及真实资金。 A sandbox: no real money.</small></p>
</body>
</html>
`))

// serveCashier shows an order to its buyer, lets him pay and sends him back to the shop.
func (c *ChinaUMS) serveCashier(w http.ResponseWriter, r *http.Request) {
	pageHeader(w)
	var pay bool
	switch r.Method {
	case http.MethodGet, http.MethodHead:
	case http.MethodPost:
		if err := http.NewCrossOriginProtection().Check(r); err != nil {
			http.Error(w, "来自其他网站 from another site", http.StatusForbidden)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, 4<<10)
		pay = r.PostFormValue("do") == "pay"
	default:
		w.Header().Set("Allow", "GET, HEAD, POST")
		http.Error(w, "GET, POST", http.StatusMethodNotAllowed)
		return
	}
	page, back, err := c.cashier(strings.TrimPrefix(r.URL.Path, cashierPath), pay)
	switch {
	case errors.Is(err, errNoCashier):
		http.Error(w, "没有此订单 no such order", http.StatusNotFound)
	case err != nil:
		http.Error(w, "订单不能支付 this order cannot be paid", http.StatusConflict)
	case r.Method == http.MethodPost && back != "":
		http.Redirect(w, r, back, http.StatusSeeOther)
	default:
		show(w, cashierPage, page)
	}
}

var errNoCashier = errors.New("no such cashier")

// cashier is what happens to an order at its cashier: the page to show and the way back to the shop, if there is one.
func (c *ChinaUMS) cashier(secret string, pay bool) (page map[string]any, back string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.cashiers[secret]
	if o == nil {
		return nil, "", errNoCashier
	}
	o.age(c.now())
	if o.status == statusNew {
		o.status = statusWaiting
	}
	if pay {
		if err := c.pay(o); err != nil {
			return nil, "", err
		}
	}
	if back, err = c.returnAddress(o); err != nil {
		back = ""
	}
	return map[string]any{
		"Merchant": merchantName, "Description": o.description, "Amount": o.total.yuan(), "Number": o.number,
		"Status": o.status, "Payable": o.payable(), "Return": back != "",
	}, back, nil
}

// ReturnURL is where the cashier sends the buyer of an order back to: its returnUrl, with the order's parameters signed
// like a notify's.
func (c *ChinaUMS) ReturnURL(number string) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.find(number)
	if o == nil {
		return "", fmt.Errorf("sandbox: there is no order %q", number)
	}
	return c.returnAddress(o)
}

// returnAddress is ReturnURL with c.mu held.
func (c *ChinaUMS) returnAddress(o *order) (string, error) {
	u, err := url.Parse(o.returnURL)
	if err != nil || o.returnURL == "" {
		return "", fmt.Errorf("sandbox: order %q has no returnUrl", o.number)
	}
	if !c.options.AllowRemote && !local(u.Hostname()) {
		return "", errRemote
	}
	kind := KindPayment
	if o.billNo != "" {
		kind = KindBill
	}
	signed := compose(notifyParams(kind, o, nil), c.signing(), kind, Genuine)
	if u.RawQuery != "" {
		u.RawQuery += "&"
	}
	u.RawQuery += string(signed.Body)
	return u.String(), nil
}

// local reports whether a host is this machine by its very name; a name that only resolves to it is not.
func local(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	address, err := netip.ParseAddr(host)
	return err == nil && address.Unmap().IsLoopback()
}

// pageHeader is what the sandbox's pages have in common. There is no form-action: a browser would apply it to the way
// back to the shop, too.
func pageHeader(w http.ResponseWriter) {
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("Content-Security-Policy",
		"default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'")
	header.Set("Referrer-Policy", "same-origin")
	header.Set("X-Content-Type-Options", "nosniff")
}

// show writes a page.
func show(w http.ResponseWriter, page *template.Template, data any) {
	var out bytes.Buffer
	if err := page.Execute(&out, data); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write(out.Bytes())
}
