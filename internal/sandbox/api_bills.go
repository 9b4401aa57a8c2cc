package sandbox

import (
	"slices"
	"strings"
	"time"
)

// The interfaces of bills (账单, C扫B) but for 预授权撤销 are in none of the documents. Their fields are those that the
// documents' examples of bills have, and that public SDKs send and read.

// serveBill makes a bill that the buyer scans.
func (c *ChinaUMS) serveBill(in call) (answer, *failure) {
	billNo, failed := c.number(in.fields, "billNo")
	if failed != nil {
		return nil, failed
	}
	if len(billNo) > 31 {
		return nil, fail("BAD_REQUEST", "billNo超过31位")
	}
	if _, err := time.ParseInLocation(dayLayout, in.text("billDate"), zone); err != nil {
		return nil, fail("BAD_REQUEST", "billDate格式应为yyyy-MM-dd")
	}
	total, failed := in.amount("totalAmount", 1)
	if failed != nil {
		return nil, failed
	}
	number := billNo + "0" // as in document C's example
	if in.has("merOrderId") {
		if number, failed = c.number(in.fields, "merOrderId"); failed != nil {
			return nil, failed
		}
	}
	o := newOrder(in.now, number, total, "ACP")
	o.mid, o.tid, o.inst = in.text("mid"), in.text("tid"), in.text("instMid")
	o.billNo, o.billDate, o.connect = billNo, in.text("billDate"), "UNIONPAY"
	if o.qrCode, failed = in.limited("qrCodeId", 64); failed != nil {
		return nil, failed
	}
	o.showQRCode(c.options.SourceCode)
	if o.description, failed = in.limited("billDesc", 255); failed != nil {
		return nil, failed
	}
	if o.attached, failed = in.limited("attachedData", 255); failed != nil {
		return nil, failed
	}
	if failed := o.addresses(in.fields); failed != nil {
		return nil, failed
	}
	if o.expires, failed = c.expiry(in); failed != nil {
		return nil, failed
	}
	if failed := o.divide(in.fields); failed != nil {
		return nil, failed
	}
	if c.find(billNo) != nil {
		return nil, fail("DUP_ORDER", "账单号重复")
	}
	if c.find(number) != nil || c.refunds[number] != nil {
		return nil, fail("DUP_ORDER", "重复的订单请求")
	}
	c.keep(o)
	return answer{
		"billNo": o.billNo, "billDate": o.billDate, "billDesc": o.description, "billQRCode": o.billURL, "qrCodeId": o.qrCode,
		"totalAmount": o.total,
	}, nil
}

// showQRCode gives a bill the code that the buyer scans. A genuine billQRCode ends in ?id= and the qrCodeId.
func (o *order) showQRCode(source string) {
	if o.qrCode == "" {
		o.qrCode = source + o.created.In(zone).Format(stampLayout) + randomDigits(10)
	}
	o.billURL = "https://qr.95516.com/48020000/" + randomDigits(20) + "?id=" + o.qrCode
}

// bill finds a bill by billNo and billDate, or by its payment's merOrderId.
func (c *ChinaUMS) bill(in call) (*order, *failure) {
	if !in.has("billNo") && !in.has("merOrderId") {
		return nil, fail("BAD_REQUEST", "billNo与merOrderId不能同时为空")
	}
	o := c.find(in.text("billNo"))
	if !in.has("billNo") {
		o = c.find(in.text("merOrderId"))
	}
	if o == nil || o.billNo == "" || in.has("billDate") && in.text("billDate") != o.billDate ||
		in.has("merOrderId") && in.text("merOrderId") != o.number {
		return nil, errNoOrder()
	}
	return o, nil
}

// serveBillQuery is 账单查询, which a gateway asks before it believes a bill's notify.
func (c *ChinaUMS) serveBillQuery(in call) (answer, *failure) {
	o, failed := c.bill(in)
	if failed != nil {
		return nil, failed
	}
	var r *refund
	if in.has("refundOrderId") { // SDKs look at a bill's refund in this way
		if r = c.refunds[in.text("refundOrderId")]; r == nil || r.order != o {
			return nil, errNoOrder()
		}
		c.look(r)
	}
	if in.fault == OtherOrder {
		o, r = c.stranger(o, r)
	}
	out := o.billAnswer()
	if r != nil {
		out["refundBillPayment"] = r.billPayment()
	}
	return out, nil
}

// serveBillRefund is 账单退款. Its rules are those of 退款.
func (c *ChinaUMS) serveBillRefund(in call) (answer, *failure) {
	o, failed := c.bill(in)
	if failed != nil {
		return nil, failed
	}
	r, failed := c.refund(o, in)
	if failed != nil {
		return nil, failed
	}
	out := o.billAnswer()
	out["refundOrderId"], out["refundAmount"], out["refundStatus"] = r.number, r.amount, r.status
	out["refundBillPayment"] = r.billPayment()
	return out, nil
}

// serveCloseQRCode is 关闭二维码, by qrCodeId or billNo: nobody can pay with it any more.
func (c *ChinaUMS) serveCloseQRCode(in call) (answer, *failure) {
	var o *order
	switch {
	case in.has("qrCodeId"):
		for _, kept := range slices.Backward(c.ages) {
			if kept.qrCode == in.text("qrCodeId") {
				o = c.find(kept.number)
				break
			}
		}
		if o == nil || in.has("billNo") && in.text("billNo") != o.billNo {
			return nil, errNoOrder()
		}
	case in.has("billNo"):
		var failed *failure
		if o, failed = c.bill(in); failed != nil {
			return nil, failed
		}
	default:
		return nil, fail("BAD_REQUEST", "qrCodeId与billNo不能同时为空")
	}
	if !o.payable() {
		return nil, fail("OPERATION_NOT_ALLOWED", "账单状态为%s，不允许关闭", o.billStatus())
	}
	o.status = statusClosed
	return o.billAnswer(), nil
}

// servePreauthCancel is 预授权撤销, SYS-03: it undoes a payment whose outcome the merchant does not know.
func (c *ChinaUMS) servePreauthCancel(in call) (answer, *failure) {
	o, failed := c.bill(in)
	if failed != nil {
		return nil, failed
	}
	if o.status == statusClosed || len(o.refunds) > 0 {
		return nil, fail("OPERATION_NOT_ALLOWED", "订单状态为%s，不允许撤销", o.status)
	}
	o.status = statusClosed
	if !o.paid.IsZero() {
		o.giveBack(Return{in.now, in.path, "", int64(o.total)})
	}
	return o.billAnswer(), nil
}

func (o *order) billAnswer() answer {
	out := answer{
		"billNo": o.billNo, "billDate": o.billDate, "billStatus": o.billStatus(), "billQRCode": o.billURL,
		"qrCodeId": o.qrCode, "totalAmount": o.total, "merName": merchantName, "cardAttr": o.cardAttr,
	}
	if o.description != "" {
		out["billDesc"] = o.description
	}
	if !o.paid.IsZero() {
		out["billPayment"] = o.billPayment()
	}
	return out
}

// billPayment is the payment of a bill (C-RSP-06).
func (o *order) billPayment() answer {
	return answer{
		"merOrderId": o.number, "billBizType": "bills", "paySeqId": o.seq, "totalAmount": o.total,
		"buyerPayAmount": o.total, "invoiceAmount": o.total, "discountAmount": fen(0), "buyerId": o.buyerID,
		"buyerUsername": o.buyerName, "payDetail": "现金支付" + o.total.yuan() + "。", "payTime": clockText(o.paid),
		"settleDate": dayText(o.paid), "status": o.status, "targetOrderId": o.target,
		"targetSys": strings.TrimSpace(o.system),
	}
}

// billPayment is a refund of a bill. SDKs take it for done where its status is TRADE_SUCCESS and its billBizType REFUND.
func (r *refund) billPayment() answer {
	o := r.order
	out := answer{
		"merOrderId": r.number, "billBizType": "REFUND", "paySeqId": r.seq, "totalAmount": r.amount, "buyerId": o.buyerID,
		"buyerUsername": o.buyerName, "targetSys": strings.TrimSpace(o.system),
	}
	switch r.status {
	case refundSuccess:
		out["status"], out["targetOrderId"] = statusPaid, r.target
		out["payTime"], out["settleDate"] = clockText(r.at), dayText(r.at)
		out["buyerPayAmount"], out["invoiceAmount"], out["discountAmount"] = r.amount, r.amount, fen(0)
	case refundFail:
		out["status"] = statusClosed
	default:
		out["status"] = refundUnknown
	}
	return out
}
