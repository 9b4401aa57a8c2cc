package sandbox

import "fmt"

// serveRefund is 退款, SYS-01 and SYS-12. The same merOrderId and refundOrderId once more is no second refund: the one
// that exists is answered (FMT-09).
func (c *ChinaUMS) serveRefund(in call) (answer, *failure) {
	o := c.find(in.text("merOrderId"))
	if o == nil || in.has("targetOrderId") && o.target != in.text("targetOrderId") {
		return nil, errNoOrder()
	}
	r, failed := c.refund(o, in)
	if failed != nil {
		return nil, failed
	}
	return r.answer(), nil
}

// refund pays back what a call asks for, or finds the refund that it asked for before. The caller holds c.mu.
func (c *ChinaUMS) refund(o *order, in call) (*refund, *failure) {
	r := &refund{order: o, created: in.now, at: in.now, by: in.path, seq: newSeq(), target: newTarget(in.now)}
	var failed *failure
	if in.has("refundOrderId") {
		if r.number, failed = c.number(in.fields, "refundOrderId"); failed != nil {
			return nil, failed
		}
		if known := c.refunds[r.number]; known != nil && known.order == o {
			return known, nil
		}
		if c.refunds[r.number] != nil || c.find(r.number) != nil {
			return nil, fail("DUP_ORDER", "refundOrderId重复")
		}
	} else if len(o.refunds) > 0 {
		return nil, fail("BAD_REQUEST", "多次退款必传refundOrderId")
	}
	if r.amount, failed = in.amount("refundAmount", 1); failed != nil {
		return nil, failed
	}
	if r.description, failed = in.limited("refundDesc", 255); failed != nil {
		return nil, failed
	}
	switch {
	case o.status != statusPaid && o.status != statusRefund:
		return nil, fail("OPERATION_NOT_ALLOWED", "订单状态为%s，不允许退款", o.status)
	case o.secure == secureOpen:
		return nil, fail("OPERATION_NOT_ALLOWED", "担保未完成的交易不允许退款")
	case o.refunded()+r.amount > o.refundable():
		return nil, fail("OPERATION_NOT_ALLOWED", "退款总额超过可退金额")
	case len(o.refunds) >= maxRefunds:
		return nil, fail("OPERATION_NOT_ALLOWED", "退款次数过多")
	}
	if o.divided {
		if failed := r.divide(in.fields); failed != nil {
			return nil, failed
		}
	}
	if r.number == "" {
		for r.number == "" || c.refunds[r.number] != nil || c.orders[r.number] != nil {
			r.number = c.options.SourceCode + in.now.In(zone).Format(stampLayout) + randomDigits(10)
		}
	}
	r.status = refundSuccess
	if len(c.outcomes) > 0 {
		r.status, c.outcomes = c.outcomes[0], c.outcomes[1:]
	}
	if f := c.take(subject{stage: atExecution, path: in.path, numbers: []string{o.number, o.billNo, r.number}}); f != nil {
		r.status, r.end, r.queries = refundProcessing, f.Status, f.Queries
	}
	o.refunds = append(o.refunds, r)
	c.refunds[r.number] = r
	r.settle()
	if r.status == refundSuccess || r.status == refundFail {
		c.announce(o, r, KindRefund)
	}
	return r, nil
}

// divide checks the refund of a split order (FMT-08). "小于" is read as "at most": taken literally, no split order could
// be refunded in full.
func (r *refund) divide(f fields) (failed *failure) {
	o := r.order
	if r.platformShare, failed = f.amount("platformAmount", 0); failed != nil {
		return failed
	}
	subOrders, failed := f.objects("subOrders")
	if failed != nil {
		return failed
	}
	var sum fen
	if r.shares, sum, failed = readShares(subOrders, "mid", "totalAmount"); failed != nil {
		return failed
	}
	if sum+r.platformShare != r.amount {
		return fail("BAD_REQUEST", "refundAmount应等于subOrders中totalAmount之和加platformAmount")
	}
	if o.refundedPlatform+r.platformShare > o.platformShare {
		return fail("OPERATION_NOT_ALLOWED", "platformAmount超过原分账金额")
	}
	for mid, share := range r.shares {
		if o.refundedShares[mid]+share > o.shares[mid] {
			return fail("OPERATION_NOT_ALLOWED", "子商户退款超过原分账金额")
		}
	}
	o.refundedPlatform += r.platformShare
	for mid, share := range r.shares {
		o.refundedShares[mid] += share
	}
	return nil
}

// answer is a refund as the interfaces answer it.
func (r *refund) answer() answer {
	out := r.order.answer()
	delete(out, "targetOrderId") // 退货交易时不返回
	out["refundAmount"] = r.amount
	out["refundOrderId"] = r.number
	out["refundStatus"] = r.status
	out["seqId"], out["settleRefId"] = r.seq, r.seq
	if r.status == refundSuccess {
		out["errMsg"] = "现金退款成功"
		out["refundTargetOrderId"] = r.target
		out["refundFunds"] = "现金:" + fmt.Sprint(int64(r.amount))
		out["refundFundsDesc"] = "现金退款" + r.amount.yuan()
		out["refundInvoiceAmount"] = r.amount
	}
	return out
}

// serveRefundQuery is 退款查询, SYS-13. By the document's table merOrderId is the refund's number, in its example the
// order's; both are taken. The latest refund answers for an order, unless refundOrderId names another of its own.
func (c *ChinaUMS) serveRefundQuery(in call) (answer, *failure) {
	o, r := c.named(in.text("merOrderId"))
	switch {
	case o == nil:
		return nil, errNoOrder()
	case in.has("refundOrderId"):
		if r = c.refunds[in.text("refundOrderId")]; r == nil || r.order != o {
			return nil, errNoOrder()
		}
	case r == nil && len(o.refunds) == 0:
		return nil, errNoOrder()
	case r == nil:
		r = o.refunds[len(o.refunds)-1]
	}
	c.look(r)
	if in.fault == OtherOrder {
		_, r = c.stranger(o, r)
	}
	out := r.answer()
	if r.status == refundSuccess {
		out["payTime"] = clockText(r.at)
		out["settleDate"] = dayText(r.at)
		out["sendBackAmount"] = r.amount
	}
	return out, nil
}

// look is a query at a refund: one that a fault keeps open comes nearer to its end.
func (c *ChinaUMS) look(r *refund) {
	switch {
	case r.end == "" || r.status != refundProcessing:
	case r.queries > 0:
		r.queries--
	default:
		c.finish(r, r.end)
	}
}

// Refund is somebody refunding an order at the platform's own page, without any call; the notify goes out. It returns the
// refundOrderId that the platform has given the refund.
func (c *ChinaUMS) Refund(number string, amount int64) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.find(number)
	if o == nil {
		return "", fmt.Errorf("sandbox: there is no order %q", number)
	}
	now := c.now()
	own := c.options.SourceCode + now.In(zone).Format(stampLayout) + randomDigits(10)
	r, failed := c.refund(o, call{
		fields: fields{"refundOrderId": own, "refundAmount": fmt.Sprint(amount)}, path: byHand, now: now,
	})
	if failed != nil {
		return "", failed
	}
	return r.number, nil
}
