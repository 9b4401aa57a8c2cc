package sandbox

import (
	"fmt"
	"slices"
	"time"
)

// The words of the documents' tables.
const (
	statusNew     = "NEW_ORDER"
	statusWaiting = "WAIT_BUYER_PAY"
	statusPaid    = "TRADE_SUCCESS"
	statusRefund  = "TRADE_REFUND"
	statusClosed  = "TRADE_CLOSED"

	refundSuccess    = "SUCCESS"
	refundFail       = "FAIL"
	refundProcessing = "PROCESSING"
	refundUnknown    = "UNKNOWN"

	secureOpen     = "UNCOMPLETED"
	securePartly   = "PARTLY_COMPLETED"
	secureAll      = "ALL_COMPLETED"
	secureCanceled = "CANCELED"

	billPaid   = "PAID"
	billUnpaid = "UNPAID"
	billRefund = "REFUND"
	billClosed = "CLOSED"
)

// secureLifetime is when a guaranteed payment is canceled that nobody completes.
const secureLifetime = 30 * 24 * time.Hour

// maxRefunds bounds the refunds of one order.
const maxRefunds = 100

// order is an order, a bill's payment or a deduction.
type order struct {
	number         string // merOrderId
	mid, tid, inst string
	total          fen
	status         string
	created        time.Time
	expires        time.Time
	paid           time.Time

	seq, target, system, connect string // seqId, targetOrderId, targetSys, connectSys

	description, attached, goodsTradeNo string
	notifyURL, returnURL                string

	billNo, billDate, billURL, qrCode string // of a bill; the last is qrCodeId

	contract                            string // of a deduction
	contractSigned, contractExpires     time.Time
	secured                             bool
	secure                              string
	completed                           fen
	divided                             bool
	platformShare                       fen
	shares                              map[string]fen // by sub-merchant
	refundedPlatform                    fen
	refundedShares                      map[string]fen
	refunds                             []*refund
	returns                             []Return
	notices                             []*notice
	cashier                             string // the secret part of the cashier's address
	buyerID, buyerName, cardAttr, funds string
}

// refund is one refund of an order.
type refund struct {
	order          *order
	number, target string // refundOrderId, refundTargetOrderId
	seq            string
	amount         fen
	platformShare  fen
	shares         map[string]fen
	status         string
	description    string
	created, at    time.Time // at is when it got its status
	by             string    // the interface, or byHand
	end            string    // what Processing makes of it, after so many queries
	queries        int
}

// refunded is the sum of what has been or may still be paid back.
func (o *order) refunded() (sum fen) {
	for _, r := range o.refunds {
		if r.status != refundFail {
			sum += r.amount
		}
	}
	return sum
}

// billStatus is the status in a bill's words.
func (o *order) billStatus() string {
	switch o.status {
	case statusPaid:
		return billPaid
	case statusRefund:
		return billRefund
	case statusClosed:
		if len(o.refunds) > 0 {
			return billRefund
		}
		return billClosed
	}
	return billUnpaid
}

// payable reports whether a buyer can still pay.
func (o *order) payable() bool { return o.status == statusNew || o.status == statusWaiting }

// age brings an order to what time has made of it.
func (o *order) age(now time.Time) {
	if o.payable() && !now.Before(o.expires) {
		o.status = statusClosed
	}
	if o.secured && o.secure == secureOpen && !o.paid.IsZero() && now.Sub(o.paid) >= secureLifetime {
		o.secure, o.status = secureCanceled, statusClosed
		o.giveBack(Return{now, byTime, "", int64(o.total)})
	}
}

// find returns an order by its merOrderId or billNo, as old as it is by now. The caller holds c.mu.
func (c *ChinaUMS) find(number string) *order {
	o := c.orders[number]
	if o != nil {
		o.age(c.now())
	}
	return o
}

// keep adds an order, and forgets the oldest if there are too many. The caller holds c.mu.
func (c *ChinaUMS) keep(o *order) {
	if len(c.ages) >= c.options.MaxOrders {
		old := c.ages[0]
		c.ages[0] = nil
		c.ages = c.ages[1:]
		delete(c.orders, old.number)
		delete(c.orders, old.billNo)
		delete(c.byTarget, old.target)
		delete(c.cashiers, old.cashier)
		for _, r := range old.refunds {
			delete(c.refunds, r.number)
		}
	}
	c.orders[o.number] = o
	if o.billNo != "" {
		c.orders[o.billNo] = o
	}
	c.byTarget[o.target] = o
	c.ages = append(c.ages, o)
}

// newOrder makes an order that is not kept yet, with what the platform and the channel give it.
func newOrder(now time.Time, number string, total fen, system string) *order {
	return &order{
		number: number, total: total, status: statusNew, created: now,
		seq: newSeq(), target: newTarget(now), system: system, connect: "OPENCHANNEL",
		buyerID: "2088" + randomDigits(12), buyerName: "测试用户", cardAttr: "BALANCE",
	}
}

// newSeq is a 平台流水号.
func newSeq() string { return randomDigits(11) + "N" }

// newTarget is a channel's order number.
func newTarget(now time.Time) string { return now.In(zone).Format("20060102") + randomDigits(20) }

// Pay is the buyer paying an order or a bill; the notify goes out. The number is the merOrderId or the billNo.
func (c *ChinaUMS) Pay(number string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.find(number)
	if o == nil {
		return fmt.Errorf("sandbox: there is no order %q", number)
	}
	return c.pay(o)
}

// PayClosed is Pay for an order that was closed unpaid: the buyer's payment was on its way, and the channel took it.
func (c *ChinaUMS) PayClosed(number string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.find(number)
	if o == nil || o.status != statusClosed || !o.paid.IsZero() {
		return fmt.Errorf("sandbox: there is no order %q that was closed unpaid", number)
	}
	o.status, o.expires = statusWaiting, c.now().Add(time.Minute)
	return c.pay(o)
}

// CloseOrder closes an unpaid order, without any call.
func (c *ChinaUMS) CloseOrder(number string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.find(number)
	if o == nil || !o.payable() {
		return fmt.Errorf("sandbox: there is no order %q that could be closed", number)
	}
	o.status = statusClosed
	return nil
}

// pay is Pay with c.mu held.
func (c *ChinaUMS) pay(o *order) error {
	if !o.payable() {
		return fmt.Errorf("sandbox: order %q is %s and cannot be paid", o.number, o.status)
	}
	o.status, o.paid = statusPaid, c.now()
	o.funds = "现金:" + fmt.Sprint(int64(o.total))
	if o.secured {
		o.secure = secureOpen
	}
	kind := KindPayment
	if o.billNo != "" {
		kind = KindBill
	}
	c.announce(o, nil, kind)
	return nil
}

// Open is the buyer opening the cashier of an order: it now waits for him.
func (c *ChinaUMS) Open(number string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.find(number)
	if o == nil || !o.payable() {
		return fmt.Errorf("sandbox: there is no order %q to be paid", number)
	}
	o.status = statusWaiting
	return nil
}

// Deduction is a payment that the platform takes under a contract with the buyer; no interface of the documents starts
// one, but document B describes its notify.
type Deduction struct {
	MerOrderID  string // with the source code; required
	ContractID  string // fresh if empty
	TotalAmount int64  // in fen; required
	NotifyURL   string
}

// Deduct makes a deduction; the notify goes out.
func (c *ChinaUMS) Deduct(d Deduction) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	request := fields{"merOrderId": d.MerOrderID, "notifyUrl": d.NotifyURL, "totalAmount": fmt.Sprint(d.TotalAmount)}
	number, failed := c.number(request, "merOrderId")
	if failed != nil {
		return failed
	}
	total, failed := request.amount("totalAmount", 1)
	if failed != nil {
		return failed
	}
	notifyURL, failed := request.url("notifyUrl")
	if failed != nil {
		return failed
	}
	if c.find(number) != nil || c.refunds[number] != nil {
		return fail("DUP_ORDER", "重复的订单请求")
	}
	now := c.now()
	o := newOrder(now, number, total, "UnionPay")
	o.mid, o.tid, o.inst, o.notifyURL, o.expires = c.options.MID, c.options.TID, "YUEDANDEFAULT", notifyURL, now
	o.contract, o.contractSigned, o.contractExpires = d.ContractID, now.Add(-30*24*time.Hour), now.Add(335*24*time.Hour)
	if o.contract == "" {
		o.contract = randomDigits(20)
	}
	o.status, o.paid, o.cardAttr = statusPaid, now, "DEBIT_CARD"
	o.funds = "现金:" + fmt.Sprint(int64(o.total))
	c.keep(o)
	c.announce(o, nil, KindDeduction)
	return nil
}

// RefundStatus sets what the next refunds become, in order: SUCCESS, PROCESSING, UNKNOWN or FAIL. Without it: SUCCESS.
func (c *ChinaUMS) RefundStatus(statuses ...string) error {
	for _, status := range statuses {
		switch status {
		case refundSuccess, refundProcessing, refundUnknown, refundFail:
		default:
			return fmt.Errorf("sandbox: no refundStatus is called %q", status)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.outcomes = statuses
	return nil
}

// FinishRefund ends a refund that is PROCESSING or UNKNOWN: SUCCESS or FAIL. The notify goes out.
func (c *ChinaUMS) FinishRefund(refundOrder, status string) error {
	if status != refundSuccess && status != refundFail {
		return fmt.Errorf("sandbox: a refund ends as SUCCESS or FAIL, not as %q", status)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.refunds[refundOrder]
	if r == nil || r.status != refundProcessing && r.status != refundUnknown {
		return fmt.Errorf("sandbox: there is no unfinished refund %q", refundOrder)
	}
	c.finish(r, status)
	return nil
}

// finish is FinishRefund with c.mu held.
func (c *ChinaUMS) finish(r *refund, status string) {
	r.status, r.at = status, c.now()
	r.settle()
	c.announce(r.order, r, KindRefund)
}

// settle brings the order to what its refunds have made of it: a full refund closes it (E 2.3).
func (r *refund) settle() {
	o := r.order
	if r.status == refundSuccess {
		o.giveBack(Return{r.at, r.by, r.number, int64(r.amount)})
	}
	if r.status == refundFail {
		o.refundedPlatform -= r.platformShare
		for mid, share := range r.shares {
			o.refundedShares[mid] -= share
		}
	}
	var done fen
	for _, other := range o.refunds {
		if other.status == refundSuccess {
			done += other.amount
		}
	}
	switch {
	case done == 0:
	case done >= o.refundable():
		o.status = statusClosed
	default:
		o.status = statusRefund
	}
}

// refundable is what can be paid back at all: of a guaranteed payment only the part that was completed, as the rest has
// gone back already.
func (o *order) refundable() fen {
	if o.secured {
		return o.completed
	}
	return o.total
}

// Order is what the platform knows of an order.
type Order struct {
	MerOrderID     string    `json:"merOrderId"`   // Shouqianba: client_sn
	SN             string    `json:"sn,omitempty"` // Shouqianba's own number
	BillNo         string    `json:"billNo,omitempty"`
	MID            string    `json:"mid,omitempty"`
	TID            string    `json:"tid,omitempty"`          // Shouqianba: terminal_sn
	Status         string    `json:"status"`                 // NEW_ORDER … TRADE_CLOSED; Shouqianba: order_status
	BillStatus     string    `json:"billStatus,omitempty"`   // of a bill
	SecureStatus   string    `json:"secureStatus,omitempty"` // of a guaranteed payment
	TotalAmount    int64     `json:"totalAmount"`            // in fen
	RefundedAmount int64     `json:"refundedAmount"`         // in fen; refunds that are still open count
	Created        time.Time `json:"created"`
	Paid           time.Time `json:"paid,omitzero"`
	Refunds        []Refund  `json:"refunds,omitempty"`  // in the order of their calls
	Returns        []Return  `json:"returns,omitempty"`  // the money that has gone back, the oldest first
	Notifies       []Notice  `json:"notifies,omitempty"` // the oldest first
}

// Refund is what the platform knows of a refund.
type Refund struct {
	RefundOrderID string    `json:"refundOrderId"`
	Status        string    `json:"status"` // SUCCESS, PROCESSING, UNKNOWN, FAIL
	Amount        int64     `json:"amount"` // in fen
	Time          time.Time `json:"time"`   // since when it has the status
}

// Return is money that has gone back to the buyer, once for each time that it did.
type Return struct {
	Time          time.Time `json:"time"`
	By            string    `json:"by"`                      // the interface; page: the platform's own; time: it lapsed
	RefundOrderID string    `json:"refundOrderId,omitempty"` // of a refund
	Amount        int64     `json:"amount"`                  // in fen
}

// What moves money beside the interfaces.
const (
	byHand = "page"
	byTime = "time"
)

// giveBack enters money that goes back to the buyer.
func (o *order) giveBack(r Return) { o.returns = append(o.returns, r) }

// Notice is a notify of an order to one address.
type Notice struct {
	Kind          string `json:"kind"`
	RefundOrderID string `json:"refundOrderId,omitempty"`
	NotifyID      string `json:"notifyId,omitempty"`
	URL           string `json:"url,omitempty"`
	Attempts      int    `json:"attempts"`         // how often it was sent, in all variants
	Accepted      bool   `json:"accepted"`         // one that was true was answered SUCCESS; Shouqianba: success
	Failed        string `json:"failed,omitempty"` // why it was given up, or never sent

	// Next is when the latest attempt was due, or the next is.
	Next time.Time `json:"next,omitzero"`
}

// stranger is another order like the one given, and another refund like the one given: paid, and refunded.
func (c *ChinaUMS) stranger(like *order, refunded *refund) (*order, *refund) {
	number := func() string {
		return c.options.SourceCode + like.created.In(zone).Format(stampLayout) + randomDigits(10)
	}
	o := newOrder(like.created, number(), like.total*2, like.system)
	o.mid, o.tid, o.inst, o.connect, o.description = like.mid, like.tid, like.inst, like.connect, like.description
	o.status, o.paid, o.funds = statusPaid, like.created.Add(time.Minute), "现金:"+fmt.Sprint(int64(o.total))
	if like.billNo != "" {
		o.billNo, o.billDate = number(), like.billDate
		o.showQRCode(c.options.SourceCode)
	}
	if refunded == nil {
		return o, nil
	}
	o.status = statusRefund
	r := &refund{
		order: o, number: number(), target: newTarget(o.paid), seq: newSeq(), amount: refunded.amount, status: refundSuccess, at: o.paid,
	}
	o.refunds = append(o.refunds, r)
	return o, r
}

// Orders returns all orders kept, the oldest first.
func (c *ChinaUMS) Orders() []Order {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]Order, len(c.ages))
	for i, o := range c.ages {
		o.age(c.now())
		all[i] = o.public()
	}
	return all
}

// Order returns the order with this merOrderId or billNo.
func (c *ChinaUMS) Order(number string) (Order, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.find(number)
	if o == nil {
		return Order{}, false
	}
	return o.public(), true
}

func (o *order) public() Order {
	public := Order{
		MerOrderID: o.number, BillNo: o.billNo, MID: o.mid, TID: o.tid, Status: o.status, SecureStatus: o.secure,
		TotalAmount: int64(o.total), RefundedAmount: int64(o.refunded()), Created: o.created, Paid: o.paid,
		Returns: slices.Clone(o.returns),
	}
	for _, n := range o.notices {
		notice := Notice{Kind: n.kind.String(), NotifyID: n.id, URL: n.url, Attempts: n.attempts, Accepted: n.done, Failed: n.failed, Next: n.next}
		if n.refund != nil {
			notice.RefundOrderID = n.refund.number
		}
		public.Notifies = append(public.Notifies, notice)
	}
	if o.billNo != "" {
		public.BillStatus = o.billStatus()
	}
	for _, r := range o.refunds {
		public.Refunds = append(public.Refunds, Refund{r.number, r.status, int64(r.amount), r.at})
	}
	return public
}
