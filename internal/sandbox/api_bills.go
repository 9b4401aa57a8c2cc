package sandbox

import (
	"strings"
	"time"
)

// serveBill makes a bill (账单) that the buyer scans. It is in none of the documents; its fields are those that their
// examples of bills have.
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
	o.billURL = "https://qr.95516.com/48020000/" + randomDigits(20) + "?bill=" + billNo
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
	if c.find(billNo) != nil || c.find(number) != nil || c.refunds[number] != nil {
		return nil, fail("DUP_ORDER", "重复的订单请求")
	}
	c.keep(o)
	return answer{"billNo": o.billNo, "billDate": o.billDate, "billQRCode": o.billURL, "qrCodeId": randomDigits(20)}, nil
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
	return o.billAnswer(), nil
}

func (o *order) billAnswer() answer {
	out := answer{
		"billNo": o.billNo, "billDate": o.billDate, "billStatus": o.billStatus(), "billQRCode": o.billURL,
		"totalAmount": o.total, "merName": merchantName, "cardAttr": o.cardAttr,
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
