package sandbox

import (
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The words of the platform's tables.
const (
	sqbCreated         = "CREATED"
	sqbPaid            = "PAID"
	sqbPayCanceled     = "PAY_CANCELED"
	sqbRefunded        = "REFUNDED"
	sqbPartialRefunded = "PARTIAL_REFUNDED"
	sqbCanceled        = "CANCELED"

	// What an operation leaves behind whose end is open: its own end, or its failure.
	sqbPayError    = "PAY_ERROR"
	sqbRefundError = "REFUND_ERROR"
	sqbCancelError = "CANCEL_ERROR"
)

// sqbRefundable is how long after its payment an order can be refunded (D-RULE-03: three months).
const sqbRefundable = 90 * 24 * time.Hour

// sqbOrder is an order.
type sqbOrder struct {
	terminal                                     string
	sn, clientSN, tradeNo                        string
	status                                       string // order_status
	total, net                                   int64
	payway, subPayway                            string
	subject, operator, reflect, notifyURL, qrURL string
	created, expires, paid, finished             time.Time
	refunds                                      []*sqbRefund
	returns                                      []Return
	open                                         *sqbOpen // an operation that a fault keeps open
	notices                                      []*sqbNotice
}

type sqbRefund struct {
	number string
	amount int64
	status string // as the other platform has it
	at     time.Time
	result map[string]any // what was answered
}

// sqbOpen is an operation that ends after so many queries.
type sqbOpen struct {
	before  string // the order_status
	queries int
	status  string // SUCCESS or FAIL
	end     func(done bool)
}

// sqbCall is a verified call.
type sqbCall struct {
	terminal *sqbTerminal
	fields   map[string]string // as text, whether they came as a text or as a number
	now      time.Time
	path     string
	fault    FaultKind // of NoOrder and OtherOrder
}

func readCall(t *sqbTerminal, body []byte, now time.Time) (sqbCall, *sqbRefusal) {
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(body, &raw); err != nil || raw == nil {
		return sqbCall{}, badCall("INVALID_PARAMS", "请求报文不是JSON对象")
	}
	in := sqbCall{terminal: t, fields: make(map[string]string, len(raw)), now: now}
	for name, value := range raw {
		var text string
		if json.Unmarshal(value, &text) != nil {
			text = string(value)
		}
		in.fields[name] = text
	}
	if in.fields["terminal_sn"] != t.sn {
		return sqbCall{}, badCall("INVALID_TERMINAL", "终端错误")
	}
	return in, nil
}

// need asks for fields and their greatest length in bytes.
func (in *sqbCall) need(lengths map[string]int) *sqbRefusal {
	for name, length := range lengths {
		if value := in.fields[name]; value == "" || len(value) > length {
			return badCall("INVALID_PARAMS", fmt.Sprintf("%s不可以为空，长度不超过%d", name, length))
		}
	}
	return nil
}

// amount reads an amount in fen.
func (in *sqbCall) amount(name string) (int64, *sqbRefusal) {
	text := in.fields[name]
	amount, err := strconv.ParseInt(text, 10, 64)
	if err != nil || amount <= 0 || len(text) > 10 {
		return 0, badCall("INVALID_PARAMS", name+"金额为整数，长度不超过10位，以分为单位")
	}
	return amount, nil
}

// find finds the order that a call names: by sn first, then by client_sn. The caller holds s.mu.
func (s *Shouqianba) find(in sqbCall) (*sqbOrder, *sqbRefusal) {
	if in.fields["sn"] == "" && in.fields["client_sn"] == "" {
		return nil, badCall("INVALID_PARAMS", "sn与client_sn不能同时为空")
	}
	for _, number := range []string{in.fields["sn"], in.fields["client_sn"]} {
		if o := s.named(number); number != "" && o != nil {
			return o, nil
		}
	}
	return nil, noBusiness("UPAY_ORDER_NOT_EXISTS", "订单不存在")
}

// named finds an order by any of its numbers, as old as it is by now. The caller holds s.mu.
func (s *Shouqianba) named(number string) *sqbOrder {
	o := s.orders[number]
	if o != nil && o.status == sqbCreated && !s.now().Before(o.expires) {
		o.status, o.finished = sqbPayCanceled, o.expires
	}
	return o
}

// open makes an order. The caller holds s.mu.
func (s *Shouqianba) open(in sqbCall) (*sqbOrder, *sqbRefusal) {
	if refused := in.need(map[string]int{"client_sn": 32, "subject": 64, "operator": 32}); refused != nil {
		return nil, refused
	}
	total, refused := in.amount("total_amount")
	if refused != nil {
		return nil, refused
	}
	if s.named(in.fields["client_sn"]) != nil {
		return nil, noBusiness("CLIENT_SN_CONFLICT", "client_sn在系统中已存在")
	}
	if len(s.ages) >= s.options.MaxOrders {
		delete(s.orders, s.ages[0].sn)
		delete(s.orders, s.ages[0].clientSN)
		s.ages = s.ages[1:]
	}
	s.nextSN++
	o := &sqbOrder{
		terminal: in.terminal.sn, sn: strconv.FormatUint(s.nextSN, 10), clientSN: in.fields["client_sn"],
		status: sqbCreated, total: total, net: total, payway: in.fields["payway"], subPayway: in.fields["sub_payway"],
		subject: in.fields["subject"], operator: in.fields["operator"], reflect: in.fields["reflect"],
		notifyURL: in.fields["notify_url"], created: in.now, expires: in.now.Add(s.options.OrderLifetime),
	}
	if o.payway == "" {
		o.payway = "3"
	}
	s.orders[o.sn], s.orders[o.clientSN] = o, o
	s.ages = append(s.ages, o)
	return o, nil
}

// pay is what the buyer does. The caller holds s.mu.
func (s *Shouqianba) pay(o *sqbOrder, now time.Time) {
	o.status, o.paid, o.finished = sqbPaid, now, now
	o.tradeNo = "4200" + randomDigits(24)
	s.announce(o, KindPayment, o.data("SUCCESS", nil))
}

// Pay pays a pre-created order, as the buyer would; the notify goes out. The number is sn or client_sn.
func (s *Shouqianba) Pay(number string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.named(number)
	if o == nil {
		return fmt.Errorf("sandbox: there is no order %q", number)
	}
	if o.status != sqbCreated {
		return fmt.Errorf("sandbox: order %q is %s", number, o.status)
	}
	s.pay(o, s.now())
	return nil
}

// PayClosed pays an order that was canceled unpaid: the buyer's payment was on its way, and the channel took it.
func (s *Shouqianba) PayClosed(number string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.named(number)
	if o == nil || o.status != sqbPayCanceled && o.status != sqbCanceled || !o.paid.IsZero() {
		return fmt.Errorf("sandbox: there is no order %q that was canceled unpaid", number)
	}
	o.net = o.total
	s.pay(o, s.now())
	return nil
}

// Refund is somebody refunding an order at the platform's own page, without any call; the notify goes out. It returns the
// refund_request_no that the platform has given the refund.
func (s *Shouqianba) Refund(number string, amount int64) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	own := randomDigits(18)
	_, refused := s.serveRefund(sqbCall{path: byHand, now: s.now(), fields: map[string]string{
		"client_sn": number, "refund_request_no": own, "refund_amount": strconv.FormatInt(amount, 10), "operator": byHand,
	}})
	if refused != nil {
		return "", fmt.Errorf("sandbox: %s: %s", refused.code, refused.message)
	}
	return own, nil
}

// CloseOrder cancels an unpaid order, without any call.
func (s *Shouqianba) CloseOrder(number string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.named(number)
	if o == nil || o.status != sqbCreated {
		return fmt.Errorf("sandbox: there is no order %q that could be closed", number)
	}
	o.status, o.finished = sqbPayCanceled, s.now()
	return nil
}

// FinishRefund ends what Processing keeps open at an order, refund or not: SUCCESS or FAIL. The number is sn or client_sn.
func (s *Shouqianba) FinishRefund(number, status string) error {
	if status != refundSuccess && status != refundFail {
		return fmt.Errorf("sandbox: an operation ends as SUCCESS or FAIL, not as %q", status)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.named(number)
	if o == nil || o.open == nil {
		return fmt.Errorf("sandbox: nothing is open at order %q", number)
	}
	o.finish(status)
	return nil
}

// finish ends what is open at an order. The caller holds s.mu.
func (o *sqbOrder) finish(status string) {
	open := o.open
	o.open, o.status = nil, open.before
	open.end(status == refundSuccess)
}

// operate does what a call asks for: at once, or after the queries that the fault Processing sets. Until then the
// order_status is the one given, and the answer's result_code is the one given.
func (s *Shouqianba) operate(o *sqbOrder, in sqbCall, unknown, result string, more map[string]string, end func(done bool)) map[string]any {
	f := s.take(subject{stage: atExecution, path: in.path, numbers: []string{o.sn, o.clientSN, in.fields["refund_request_no"]}})
	if f == nil {
		end(true)
		return nil
	}
	o.open = &sqbOpen{before: o.status, queries: f.Queries, status: f.Status, end: end}
	o.status = unknown
	return map[string]any{"result_code": result, "data": o.data(sqbStatus(unknown), more)}
}

// sqbStatus is the status, that of the latest operation, which goes with an order_status in the answer to a query.
func sqbStatus(order string) string {
	switch order {
	case sqbCreated:
		return "IN_PROG"
	case sqbPayCanceled:
		return "FAIL_CANCELED"
	case sqbPayError:
		return "FAIL_ERROR"
	case sqbRefundError, sqbCancelError:
		return order
	}
	return "SUCCESS"
}

// Orders returns all orders kept, the oldest first. An order's number is its client_sn.
func (s *Shouqianba) Orders() []Order {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Order, len(s.ages))
	for i, o := range s.ages {
		s.named(o.sn) // as old as it is by now
		all[i] = Order{
			MerOrderID: o.clientSN, SN: o.sn, TID: o.terminal, Status: o.status, TotalAmount: o.total,
			Created: o.created, Paid: o.paid, Returns: slices.Clone(o.returns), Notifies: o.told(),
		}
		if !o.paid.IsZero() {
			all[i].RefundedAmount = o.total - o.net
		}
		for _, r := range o.refunds {
			all[i].Refunds = append(all[i].Refunds, Refund{r.number, r.status, r.amount, r.at})
		}
	}
	return all
}

// UI is the page of the orders, as the other platform's is.
func (s *Shouqianba) UI() http.Handler {
	return ui(s.options.AllowRemote, s, func() view {
		v := view{
			Title: words{"收钱吧沙箱", "Shouqianba sandbox"}, Known: []known{{words{"终端号 terminal_sn", "terminal_sn"}, s.options.TerminalSN}},
			Now: s.now(), Warnings: s.warnings.all(), Orders: rows(s.Orders(), sqbCreated), Faults: s.Faults(),
			Calls: s.Calls(), Deliveries: s.Deliveries(),
		}
		for _, variant := range sqbVariants {
			v.Variants = append(v.Variants, variant.String())
		}
		for i := range v.Calls {
			s.explain(&v.Calls[i])
		}
		return v
	})
}

// explain adds to a call what was signed, without the key, the signature that came and the one that should have come: by
// the keys of now, so that a call before the last check-in but one looks wrong.
func (s *Shouqianba) explain(call *Call) {
	sn, sign, _ := strings.Cut(call.Header.Get("Authorization"), " ")
	s.mu.Lock()
	defer s.mu.Unlock()
	key := s.options.VendorKey
	if t := s.terminals[sn]; t != nil {
		if key = t.key; sqbSigned(sign, call.Body, t.previous) {
			key = t.previous
		}
	}
	digest := md5.Sum(slices.Concat(call.Body, []byte(key)))
	call.Signed, call.Signature, call.Expected = string(call.Body)+"<key>", sign, hex.EncodeToString(digest[:])
}

// data are the fields of an order, with those of the operation that they are told for.
func (o *sqbOrder) data(status string, more map[string]string) map[string]any {
	milliseconds := func(at time.Time) string {
		if at.IsZero() {
			return ""
		}
		return strconv.FormatInt(at.UnixMilli(), 10)
	}
	data := make(map[string]any)
	for name, value := range map[string]string{
		"terminal_sn": o.terminal, "sn": o.sn, "client_sn": o.clientSN, "trade_no": o.tradeNo, "status": status,
		"order_status": o.status, "payway": o.payway, "sub_payway": o.subPayway, "subject": o.subject, "operator": o.operator,
		"reflect": o.reflect, "total_amount": strconv.FormatInt(o.total, 10), "net_amount": strconv.FormatInt(o.net, 10),
		"ctime": milliseconds(o.created), "finish_time": milliseconds(o.finished), "channel_finish_time": milliseconds(o.finished),
	} {
		if value != "" {
			data[name] = value
		}
	}
	for name, value := range more {
		data[name] = value
	}
	return data
}

func (s *Shouqianba) servePay(in sqbCall) (map[string]any, *sqbRefusal) {
	if refused := in.need(map[string]int{"dynamic_id": 32}); refused != nil {
		return nil, refused
	}
	o, refused := s.open(in)
	if refused != nil {
		return nil, refused
	}
	open := s.operate(o, in, sqbPayError, "PAY_FAIL_ERROR", nil, func(done bool) {
		if done {
			s.pay(o, s.now())
			return
		}
		o.status, o.finished = sqbPayCanceled, s.now()
	})
	if open != nil {
		return open, nil
	}
	return map[string]any{"result_code": "PAY_SUCCESS", "data": o.data("SUCCESS", nil)}, nil
}

func (s *Shouqianba) servePrecreate(in sqbCall) (map[string]any, *sqbRefusal) {
	if refused := in.need(map[string]int{"payway": 2}); refused != nil {
		return nil, refused
	}
	o, refused := s.open(in)
	if refused != nil {
		return nil, refused
	}
	o.qrURL = "https://qr.shouqianba.example/" + o.sn
	return map[string]any{"result_code": "PRECREATE_SUCCESS", "data": o.data("IN_PROG", map[string]string{"qr_code": o.qrURL})}, nil
}

func (s *Shouqianba) serveQuery(in sqbCall) (map[string]any, *sqbRefusal) {
	o, refused := s.find(in)
	if refused != nil {
		return nil, refused
	}
	switch {
	case o.open == nil:
	case o.open.queries > 0:
		o.open.queries--
	default:
		o.finish(o.open.status)
	}
	if in.fault == OtherOrder {
		other := sqbOrder{
			terminal: o.terminal, sn: "7" + randomDigits(15), clientSN: randomDigits(16), tradeNo: "4200" + randomDigits(24),
			status: sqbRefunded, total: o.total * 2, payway: o.payway, subject: o.subject, operator: o.operator, created: o.created,
			paid: o.created, finished: o.created,
		}
		o = &other
	}
	return map[string]any{"result_code": "SUCCESS", "data": o.data(sqbStatus(o.status), nil)}, nil
}

// serveRefund refunds (D-REQ, D-RULE-01, 03, 04): the same refund_request_no again is the same refund, and pays nothing.
func (s *Shouqianba) serveRefund(in sqbCall) (map[string]any, *sqbRefusal) {
	if refused := in.need(map[string]int{"refund_request_no": 20, "operator": 64}); refused != nil {
		return nil, refused
	}
	amount, refused := in.amount("refund_amount")
	if refused != nil {
		return nil, refused
	}
	o, refused := s.find(in)
	if refused != nil {
		return nil, refused
	}
	number := in.fields["refund_request_no"]
	for _, known := range o.refunds {
		if known.number != number || known.status == refundFail {
			continue
		}
		if known.amount != amount {
			return nil, noBusiness("UPAY_REFUND_ORDER_NOOP", "退款序列号已用于另一笔退款")
		}
		return known.result, nil
	}
	switch {
	case o.status == sqbRefunded:
		return nil, noBusiness("UPAY_REFUND_INVALID_ORDER_STATE", "订单已全额退款,可退金额不足")
	case o.status != sqbPaid && o.status != sqbPartialRefunded, in.now.Sub(o.paid) > sqbRefundable:
		return nil, noBusiness("UPAY_REFUND_INVALID_ORDER_STATE", "当前订单状态不可退款")
	case amount > o.net:
		return nil, noBusiness("REFUNDABLE_AMOUNT_NOT_ENOUGH", "订单可退金额不足")
	}
	more := map[string]string{"refund_request_no": number, "settlement_amount": strconv.FormatInt(amount, 10), "operator": in.fields["operator"]}
	r := &sqbRefund{number: number, amount: amount, status: refundProcessing, at: in.now}
	o.refunds = append(o.refunds, r)
	if open := s.operate(o, in, sqbRefundError, "REFUND_ERROR", more, func(done bool) {
		if r.at = s.now(); !done {
			r.status = refundFail
			return
		}
		r.status = refundSuccess
		o.net -= amount
		o.finished = r.at
		o.returns = append(o.returns, Return{r.at, in.path, number, amount})
		if o.status = sqbPartialRefunded; o.net == 0 {
			o.status = sqbRefunded
		}
		r.result = map[string]any{"result_code": "REFUND_SUCCESS", "data": o.data("SUCCESS", more)}
		s.announce(o, KindRefund, o.data("SUCCESS", more))
	}); open != nil {
		r.result = open
	}
	return r.result, nil
}

// serveCancel takes an order back whose fate the app does not know: unpaid, or paid today.
func (s *Shouqianba) serveCancel(in sqbCall) (map[string]any, *sqbRefusal) {
	o, refused := s.find(in)
	if refused != nil {
		return nil, refused
	}
	return s.cancel(o, in)
}

// serveRevoke pays a whole order back on the day of its payment.
func (s *Shouqianba) serveRevoke(in sqbCall) (map[string]any, *sqbRefusal) {
	o, refused := s.find(in)
	if refused != nil {
		return nil, refused
	}
	if o.status == sqbCreated {
		return nil, noBusiness("UPAY_CANCEL_INVALID_ORDER_STATE", "当前订单状态不可撤销")
	}
	return s.cancel(o, in)
}

func (s *Shouqianba) cancel(o *sqbOrder, in sqbCall) (map[string]any, *sqbRefusal) {
	china := time.FixedZone("UTC+8", 8*60*60)
	switch {
	case o.status == sqbCanceled || o.status == sqbPayCanceled:
		return nil, noBusiness("UPAY_CANCEL_ORDER_NOOP", "无效操作，订单已经是撤单状态了")
	case o.status != sqbCreated && o.status != sqbPaid && o.status != sqbPayError,
		o.status == sqbPaid && o.paid.In(china).Format(time.DateOnly) != in.now.In(china).Format(time.DateOnly):
		return nil, noBusiness("UPAY_CANCEL_INVALID_ORDER_STATE", "当前订单状态不可撤销")
	}
	payment := o.open // a payment whose end is open, which this takes back
	o.open = nil
	open := s.operate(o, in, sqbCancelError, "CANCEL_ERROR", nil, func(done bool) {
		if !done {
			o.open = payment
			return
		}
		o.status, o.net, o.finished = sqbCanceled, 0, s.now()
		if !o.paid.IsZero() { // it counts as a refund of the whole
			o.returns = append(o.returns, Return{o.finished, in.path, "", o.total})
		}
	})
	if open != nil {
		return open, nil
	}
	return map[string]any{"result_code": "CANCEL_SUCCESS", "data": o.data("SUCCESS", nil)}, nil
}
