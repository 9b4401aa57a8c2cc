package sandbox

import (
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// channels says which targetSys an order goes to, by the interface that makes it.
var channels = map[string]string{
	"/v1/netpay/wx/app-pre-order":    "WXPay",
	"/v1/netpay/wx/unified-order":    "WXPay",
	"/v1/netpay/wx/mini-pre-order":   "WXPay",
	"/v1/netpay/trade/precreate":     "Alipay 2.0",
	"/v1/netpay/qmf/order":           "QMF",
	"/v1/netpay/uac/app-order":       "UAC",
	"/v1/netpay/applepay/order":      "ACP",
	"/v1/netpay/trade/app-pre-order": "Alipay 2.0",
}

// tradeTypes are those of the WeChat interfaces that ask for one, and the field that their answer pays with. The first
// interface is the documents' (SYS-05); the words of the others are those that public SDKs send, none counting as the
// mini program's.
var tradeTypes = map[string]map[string]string{
	"/v1/netpay/wx/app-pre-order": {"APP": "appPayRequest"},
	"/v1/netpay/wx/unified-order": {
		"": "miniPayRequest", "MINI": "miniPayRequest", "MINI_PAY": "miniPayRequest", "JSAPI": "jsPayRequest",
		"APP": "appPayRequest", "NATIVE": "qrCode",
	},
	"/v1/netpay/wx/mini-pre-order": {"": "miniPayRequest", "MINI": "miniPayRequest", "UP_WX_MINI": "miniPayRequest"},
}

// tradeType checks what kind of payment at WeChat an order is.
func tradeType(in call) *failure {
	known, asked := tradeTypes[in.path]
	if !asked {
		return nil
	}
	paid, ok := known[in.text("tradeType")]
	if !ok {
		words := slices.DeleteFunc(slices.Sorted(maps.Keys(known)), func(word string) bool { return word == "" })
		return fail("BAD_REQUEST", "微信tradeType应为%s", strings.Join(words, "、"))
	}
	if in.path == "/v1/netpay/wx/unified-order" && (paid == "miniPayRequest" || paid == "jsPayRequest") && !in.has("subOpenId") {
		return fail("BAD_REQUEST", "缺少subOpenId")
	}
	return nil
}

// wxPayment is what an app, a page or a mini program pays at WeChat with.
func wxPayment(in call, o *order) answer {
	prepay := "wx" + o.created.In(zone).Format(stampLayout) + randomHex(8)
	out := answer{"prepayId": prepay}
	switch field := tradeTypes[in.path][in.text("tradeType")]; field {
	case "appPayRequest":
		out[field] = answer{
			"appid": in.text("subAppId"), "prepayid": prepay, "package": "Sign=WXPay",
			"noncestr": randomHex(16), "timestamp": o.created.Unix(), "sign": strings.ToUpper(randomHex(16)),
		}
	case "qrCode":
		out[field] = "weixin://wxpay/bizpayurl?pr=" + randomHex(5)
	default: // what wx.requestPayment and WeixinJSBridge take, whose time is a text
		out[field] = answer{
			"appId": in.text("subAppId"), "timeStamp": fmt.Sprint(o.created.Unix()), "nonceStr": randomHex(16),
			"package": "prepay_id=" + prepay, "signType": "RSA", "paySign": rand.Text(),
		}
	}
	return out
}

// serveOrder is 下单: SYS-05 to SYS-10, and two more of WeChat.
func (c *ChinaUMS) serveOrder(in call) (answer, *failure) {
	o, failed := c.order(in, channels[in.path])
	if failed != nil {
		return nil, failed
	}
	out := o.answer()
	delete(out, "payTime")
	switch in.path {
	case "/v1/netpay/wx/unified-order", "/v1/netpay/wx/mini-pre-order":
		// Public SDKs take an order for made only if it says just this.
		o.status = statusWaiting
		out["status"], out["targetStatus"] = o.status, "SUCCESS|SUCCESS"
		fallthrough
	case "/v1/netpay/wx/app-pre-order":
		maps.Copy(out, wxPayment(in, o))
	case "/v1/netpay/trade/precreate":
		out["qrCode"] = "https://qr.alipay.com/" + randomHex(8)
		out["appPayRequest"] = answer{"qrCode": out["qrCode"]}
	default:
		out["appPayRequest"] = answer{"tn": randomDigits(21)}
	}
	return out, nil
}

// order makes and keeps an order, of an app or of a browser. c.mu is held.
func (c *ChinaUMS) order(in call, system string) (*order, *failure) {
	number, failed := c.number(in.fields, "merOrderId")
	if failed != nil {
		return nil, failed
	}
	if failed := tradeType(in); failed != nil {
		return nil, failed
	}
	total, failed := in.amount("totalAmount", 1)
	if failed != nil {
		return nil, failed
	}
	if in.has("originalAmount") {
		if _, failed = in.amount("originalAmount", 1); failed != nil {
			return nil, failed
		}
	}
	o := newOrder(in.now, number, total, system)
	o.mid, o.tid, o.inst = in.text("mid"), in.text("tid"), in.text("instMid")
	for name, into := range map[string]*string{
		"orderDesc": &o.description, "attachedData": &o.attached, "goodsTradeNo": &o.goodsTradeNo,
	} {
		if *into, failed = in.limited(name, 255); failed != nil {
			return nil, failed
		}
	}
	if failed := o.addresses(in.fields); failed != nil {
		return nil, failed
	}
	if o.expires, failed = c.expiry(in); failed != nil {
		return nil, failed
	}
	if o.secured, failed = in.flag("secureTransaction"); failed != nil {
		return nil, failed
	}
	if failed := o.divide(in.fields); failed != nil {
		return nil, failed
	}
	if c.find(number) != nil || c.refunds[number] != nil {
		return nil, fail("DUP_ORDER", "重复的订单请求")
	}
	c.keep(o)
	return o, nil
}

// addresses reads where the result goes to.
func (o *order) addresses(f fields) (failed *failure) {
	if o.notifyURL, failed = f.url("notifyUrl"); failed == nil {
		o.returnURL, failed = f.url("returnUrl")
	}
	return failed
}

// expiry is when an unpaid order closes by itself.
func (c *ChinaUMS) expiry(in call) (time.Time, *failure) {
	at, given, failed := in.clock("expireTime")
	switch {
	case failed != nil:
		return at, failed
	case !given:
		return in.now.Add(c.options.OrderLifetime), nil
	case !at.After(in.now):
		return at, fail("BAD_REQUEST", "expireTime已过")
	}
	return at, nil
}

// divide reads how an order is split (分账): FMT-06.
func (o *order) divide(f fields) (failed *failure) {
	if o.divided, failed = f.flag("divisionFlag"); failed != nil || !o.divided {
		return failed
	}
	if o.secured {
		return fail("BAD_REQUEST", "分账订单不支持担保交易")
	}
	if o.platformShare, failed = f.amount("platformAmount", 0); failed != nil {
		return failed
	}
	subOrders, failed := f.objects("subOrders")
	if failed != nil {
		return failed
	}
	goods, failed := f.objects("goods")
	if failed != nil {
		return failed
	}
	if len(subOrders) == 0 && len(goods) == 0 {
		return fail("BAD_REQUEST", "分账订单goods与subOrders不能同时为空")
	}
	var sum fen
	if len(subOrders) > 0 {
		if o.shares, sum, failed = readShares(subOrders, "mid", "totalAmount"); failed != nil {
			return failed
		}
		if sum+o.platformShare != o.total {
			return fail("BAD_REQUEST", "totalAmount应等于subOrders中totalAmount之和加platformAmount")
		}
	}
	if len(goods) > 0 {
		shares, sum, failed := readShares(goods, "subMerchantId", "subOrderAmount")
		if failed != nil {
			return failed
		}
		if sum != o.total {
			return fail("BAD_REQUEST", "totalAmount应等于goods中subOrderAmount之和")
		}
		if o.shares == nil {
			o.shares = shares
		}
	}
	o.refundedShares = make(map[string]fen)
	return nil
}

// readShares adds up what each sub-merchant gets.
func readShares(parts []fields, mid, amount string) (map[string]fen, fen, *failure) {
	shares := make(map[string]fen)
	var sum fen
	for _, part := range parts {
		share, failed := part.amount(amount, 0)
		if failed != nil {
			return nil, 0, failed
		}
		if length := len(part.text(mid)); length < 8 || length > 32 { // the widest of the documents
			return nil, 0, fail("BAD_REQUEST", "分账信息中%s长度应为8至32位", mid)
		}
		shares[part.text(mid)] += share
		sum += share
	}
	if len(shares) > 20 {
		return nil, 0, fail("BAD_REQUEST", "子商户不超过20个")
	}
	return shares, sum, nil
}

// answer is an order as the interfaces answer it.
func (o *order) answer() answer {
	out := answer{
		"merOrderId": o.number, "merName": merchantName, "seqId": o.seq, "settleRefId": o.seq, "status": o.status,
		"totalAmount": o.total, "targetSys": o.system, "targetMid": targetMID, "connectSys": o.connect,
	}
	if !o.paid.IsZero() {
		out["targetOrderId"] = o.target
		out["targetStatus"] = "10000"
		out["payTime"] = clockText(o.paid)
		out["settleDate"] = dayText(o.paid)
	}
	return out
}

// serveQuery is 订单交易查询, SYS-11. instMid is not asked for: a deduction's notify (document B) has none, and who
// queries after such a notify cannot know it.
func (c *ChinaUMS) serveQuery(in call) (answer, *failure) {
	var o *order
	switch {
	case in.has("merOrderId"):
		o = c.find(in.text("merOrderId"))
	case in.has("targetOrderId"):
		if o = c.byTarget[in.text("targetOrderId")]; o != nil {
			o.age(in.now)
		}
	default:
		return nil, fail("BAD_REQUEST", "merOrderId与targetOrderId不能同时为空")
	}
	if o == nil || in.has("targetOrderId") && o.target != in.text("targetOrderId") {
		return nil, errNoOrder()
	}
	if in.fault == OtherOrder {
		o, _ = c.stranger(o, nil)
	}
	out := o.answer()
	if !o.paid.IsZero() {
		for name, value := range map[string]any{
			"buyerId": o.buyerID, "buyerUsername": o.buyerName, "billFunds": o.funds,
			"billFundsDesc": "现金支付" + o.total.yuan(), "buyerPayAmount": o.total, "invoiceAmount": o.total,
			"receiptAmount": o.total, "couponAmount": fen(0), "refId": o.seq,
		} {
			out[name] = value
		}
	}
	if sum := o.refunded(); sum > 0 {
		out["refundAmount"] = sum
	}
	if o.secure != "" {
		out["secureStatus"] = o.secure
	}
	return out, nil
}

// serveClose is 订单关闭, SYS-16: unpaid orders only.
func (c *ChinaUMS) serveClose(in call) (answer, *failure) {
	o := c.find(in.text("merOrderId"))
	if o == nil {
		return nil, errNoOrder()
	}
	if !o.payable() {
		return nil, fail("OPERATION_NOT_ALLOWED", "订单状态为%s，不允许关闭", o.status)
	}
	o.status = statusClosed
	out := o.answer()
	out["settleDate"] = dayText(in.now)
	return out, nil
}

func errNoOrder() *failure { return fail("NO_ORDER", "找不到请求的原始订单") }
