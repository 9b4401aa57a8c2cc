package sandbox

// guaranteed finds a guaranteed payment (担保交易) that is waiting for its end.
func (c *ChinaUMS) guaranteed(in call) (*order, *failure) {
	o := c.find(in.text("merOrderId"))
	switch {
	case o == nil:
		return nil, errNoOrder()
	case o.secure == secureCanceled:
		return nil, fail("HAS_CANCELLED", "该笔担保交易已撤销")
	case o.secure != secureOpen:
		return nil, fail("OPERATION_NOT_ALLOWED", "不是未完成的担保交易")
	}
	return o, nil
}

// serveSecureCancel is 担保撤销, SYS-14: everything goes back to the buyer.
func (c *ChinaUMS) serveSecureCancel(in call) (answer, *failure) {
	o, failed := c.guaranteed(in)
	if failed != nil {
		return nil, failed
	}
	o.secure, o.status = secureCanceled, statusClosed
	o.giveBack(Return{in.now, in.path, "", int64(o.total)})
	c.announce(o, nil, KindGuarantee)
	return o.secureAnswer(), nil
}

// serveSecureComplete is 担保完成, SYS-15: the completed part is settled, the rest goes back to the buyer.
func (c *ChinaUMS) serveSecureComplete(in call) (answer, *failure) {
	amount, failed := in.amount("completedAmount", 1)
	if failed != nil {
		return nil, failed
	}
	o, failed := c.guaranteed(in)
	if failed != nil {
		return nil, failed
	}
	if amount > o.total {
		return nil, fail("OPERATION_NOT_ALLOWED", "completedAmount超过支付总金额")
	}
	o.completed, o.secure = amount, secureAll
	if amount < o.total {
		o.secure = securePartly
		o.giveBack(Return{in.now, in.path, "", int64(o.total - amount)})
	}
	c.announce(o, nil, KindGuarantee)
	return o.secureAnswer(), nil
}

func (o *order) secureAnswer() answer {
	return answer{
		"merOrderId": o.number, "merName": merchantName, "secureStatus": o.secure, "completedAmount": o.completed,
		"totalAmount": o.total, "seqId": o.seq, "connectSys": o.connect, "cardAttr": o.cardAttr,
	}
}
