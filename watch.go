package chinaums

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/internal/jsontext"
	"github.com/caddy-chinaums/caddy-chinaums/internal/normalize"
	"github.com/caddy-chinaums/caddy-chinaums/internal/text"
	"github.com/caddy-chinaums/caddy-chinaums/internal/watched"
	"github.com/caddy-chinaums/caddy-chinaums/watch"
)

// watching is what the watch has to know of ChinaUMS: which path is which kind of call, which query asks about it, and what an
// answer means.
type watching struct {
	now   func() time.Time
	json  []string         // further fields whose text is JSON
	rules *normalize.Rules // with these; nil: the platform's
}

// also takes the fields whose text is JSON in some notifies of a configuration that is being loaded, and so in what a query has
// found.
func (p *watching) also(json []string) {
	if len(json) > 0 {
		p.json = append(p.json, json...)
		p.rules = newRules(p.json)
	}
}

// watchedCall is what an interface does. A call without a refundOrderId of its own, of which there can be one an order only,
// has a constant for its number.
type watchedCall struct {
	kind   watch.Kind
	number string
	whole  bool // it gives back all there is
	bill   bool // it is about a bill
}

const billPaths = "/v1/netpay/bills/"

// watchedCalls are the interfaces that are watched (checklist SYS-03, SYS-05…10, SYS-12, SYS-14…16), and those that public SDKs call.
var watchedCalls = func() map[string]watchedCall {
	calls := map[string]watchedCall{
		"/v1/netpay/refund":          {kind: watch.KindRefund},
		"/v1/netpay/secure-cancel":   {watch.KindRefund, numberCancel, true, false},
		billPaths + "refund":         {kind: watch.KindRefund, bill: true},
		billPaths + "preauth-cancel": {watch.KindRefund, "preauth-cancel", true, true},
		pathSecureComplete:           {watch.KindCapture, numberComplete, false, false},
		"/v1/netpay/close":           {watch.KindClose, "close", false, false},
		billPaths + "close-qrcode":   {watch.KindClose, "close-qrcode", false, true},
		billPaths + "get-qrcode":     {kind: watch.KindOrder, bill: true},
	}
	for _, name := range []string{
		"wx/app-pre-order", "wx/unified-order", "wx/mini-pre-order", "trade/precreate", "trade/create", "trade/app-pre-order", "qmf/order",
		"uac/app-order", "applepay/order",
	} {
		calls["/v1/netpay/"+name] = watchedCall{kind: watch.KindOrder}
	}
	for _, page := range h5Paths {
		calls[page] = watchedCall{kind: watch.KindLink}
	}
	return calls
}()

const pathSecureComplete = "/v1/netpay/secure-complete"

// The numbers of the two ends of money that is held. Of one that has come about, the other has not.
const numberCancel, numberComplete = "secure-cancel", "secure-complete"

// What decides which money a call moves, and of which order. Nobody may read it in two ways.
var (
	decidingNumbers = []string{"mid", "merOrderId", "billNo", "billDate", "refundOrderId"}
	decidingAmounts = []string{"refundAmount", "completedAmount"}
)

// Classify implements watch.Platform.
func (*watching) Classify(called string, body []byte) (call watch.Call, ok bool) {
	as, ok, doubtful := watched.Find(watchedCalls, called)
	if doubtful {
		return watch.Call{Kind: watch.KindRefund, Invalid: "path"}, true
	}
	if !ok {
		return call, false
	}
	call = watch.Call{Kind: as.kind, Number: as.number, Whole: as.whole}
	if as.kind.Money() {
		if call.Invalid = watched.Unreliable(body, decidingNumbers, decidingAmounts); call.Invalid != "" {
			return call, true
		}
	}
	said, _, err := jsontext.Scalars(body, "")
	if err != nil {
		return call, false // the platform cannot read it either
	}
	call.Order, call.Mid = orderKey(said, as.bill), bounded(said["mid"])
	switch as.kind {
	case watch.KindOrder, watch.KindLink:
		call.Amount, call.Notify = fenOf(said["totalAmount"]), notifyPlace(said["notifyUrl"])
		if at, err := time.ParseInLocation(time.DateTime, said["expireTime"], beijing); err == nil {
			call.Expires = at
		}
	case watch.KindRefund:
		call.Amount = fenOf(said["refundAmount"])
		if !as.whole {
			call.Number = bounded(said["refundOrderId"])
		}
	case watch.KindCapture:
		call.Amount = fenOf(said["completedAmount"])
	}
	if as.kind.Money() {
		call.Invalid = as.missing(said)
	}
	call.Fields = make(map[string]string, 6)
	for _, name := range [...]string{"mid", "tid", "instMid", "merOrderId", "billNo", "billDate", "refundOrderId", "secureTransaction"} {
		if value := said[name]; value != "" {
			call.Fields[name] = bounded(value)
		}
	}
	return call, call.Order != "" || call.Invalid != ""
}

// missing names what a money call needs and does not have.
func (c watchedCall) missing(said map[string]string) string {
	needed := "refundAmount"
	switch {
	case c.bill && said["billNo"] == "" && said["merOrderId"] == "":
		return "billNo"
	case c.bill && said["billNo"] != "" && said["billDate"] == "":
		return "billDate"
	case !c.bill && said["merOrderId"] == "":
		return "merOrderId"
	case c.whole:
		return ""
	case c.kind == watch.KindCapture:
		needed = "completedAmount"
	}
	if said[needed] == "" {
		return needed
	}
	return ""
}

// orderKey is an order's number in the watch: merOrderId or, of a bill, billNo and billDate, as a merchant may have the same billNo
// again on another day. Empty: none is named. The merOrderId of a bill's payment leads to the bill as soon as the platform has
// told it.
func orderKey(said map[string]string, bill bool) string {
	switch {
	case !bill || said["billNo"] == "":
		return bounded(said["merOrderId"])
	case said["billDate"] == "":
		return ""
	}
	return bounded(said["billNo"] + "@" + said["billDate"])
}

// maxNumber bounds a number; the documents' longest has 64 characters.
const maxNumber = 100

// bounded keeps what is in its bounds, and makes a digest of what is not.
func bounded(number string) string {
	if len(number) <= maxNumber {
		return number
	}
	sum := sha256.Sum256([]byte(number))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// fenOf reads an amount in fen; 0: there is none.
func fenOf(words string) int64 {
	if _, ok := wholeAmount(words); !ok {
		return 0
	}
	fen, err := strconv.ParseInt(words, 10, 64)
	if err != nil {
		return 0
	}
	return max(fen, 0)
}

// notifyPlace is host and path of an address.
func notifyPlace(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || len(address) > 1024 {
		return ""
	}
	return u.Host + "/" + strings.TrimPrefix(u.EscapedPath(), "/")
}

// refusing are the codes that say that nothing was done and nothing will be. Any other but SUCCESS leaves it open.
var refusing = map[string]bool{
	"BAD_SIGN": true, "BAD_REQUEST": true, "NO_SERVICE": true, "NO_MERCHANT": true, "INACTIVE_MERCHANT": true, "DENIED_IP": true, "INVALID_MSGSRC": true,
	"INVLID_MERCHANT_CONFIG": true, "INVALID_MERCHANT_CONFIG": true, "ABNORMAL_REQUEST_TIME": true, "NO_CROSS_DAY_TRADING": true,
	"OPERATION_NOT_ALLOWED": true,
}

// Answered implements watch.Platform.
func (*watching) Answered(call watch.Call, _ string, answer []byte) (f watch.Finding) {
	if call.Kind == watch.KindLink && len(answer) == 0 {
		return watch.Finding{Order: watch.IsOpen} // the gateway's own answer: the link was made
	}
	parsed, err := parseAnswer(answer)
	if err != nil || !about(call.Fields, parsed.fields) {
		return watch.Finding{}
	}
	said := parsed.fields
	f.Word = said["errCode"]
	orders := call.Kind == watch.KindOrder || call.Kind == watch.KindLink
	switch {
	case refusing[f.Word] && orders:
		f.Order = watch.IsRefused
	case refusing[f.Word]:
		f.Call = watch.IsRefused
	case f.Word != "SUCCESS":
		f.Wait = f.Word == "ORDER_PROCESSING"
	case orders:
		f.Order = watch.IsOpen
	case call.Kind == watch.KindRefund && !call.Whole:
		f.Call = refundFact(said["refundStatus"])
		if call.Number == "" { // the platform has given it one
			f.Number = bounded(said["refundOrderId"])
		}
	default:
		f.Call = watch.HasSucceeded
		if call.Kind == watch.KindClose && said["status"] == "TRADE_CLOSED" {
			f.Order = watch.IsClosed
		}
	}
	return f
}

// about reports whether an answer names no other order, bill or refund than the one that was asked for.
func about(asked, said map[string]string) bool {
	for _, name := range [...]string{"merOrderId", "billNo", "billDate", "refundOrderId"} {
		if asked[name] != "" && said[name] != "" && bounded(said[name]) != asked[name] {
			return false
		}
	}
	return true
}

// refundFact: UNKNOWN, PROCESSING and any word that is not known are no end.
func refundFact(status string) watch.Fact {
	switch status {
	case "SUCCESS":
		return watch.HasSucceeded
	case "FAIL":
		return watch.HasFailed
	}
	return watch.IsPending
}

// Ask implements watch.Platform. A refund is asked for by its own number, as the document's table has it, and by its order's, as
// the document's example has it.
func (p *watching) Ask(order *watch.Order, call *watch.Track) []watch.Query {
	known := make(map[string]string)
	for _, c := range order.Calls { // of an order that was not seen only they know
		maps.Copy(known, c.Fields)
	}
	maps.Copy(known, order.Fields)
	if call != nil {
		maps.Copy(known, call.Fields)
	}
	base := pick(known, "mid", "tid", "instMid")
	bill := known["billNo"] != "" || call != nil && watchedCalls[call.Path].bill
	number := refundNumber(call)
	switch {
	case bill:
		if maps.Copy(base, pick(known, "billNo", "billDate")); base["billNo"] == "" {
			base["merOrderId"] = order.ID // of the payment, where nothing else is known
		}
		if number != "" {
			base["refundOrderId"] = number
		}
		return []watch.Query{p.query(pathBillQuery, base)}
	case call == nil || call.Kind != watch.KindRefund || call.Whole:
		base["merOrderId"] = order.ID
		return []watch.Query{p.query(pathQuery, base)}
	}
	byOrder := maps.Clone(base)
	byOrder["merOrderId"] = order.ID
	if number == "" {
		return []watch.Query{p.query(pathRefundQuery, byOrder)}
	}
	base["merOrderId"], byOrder["refundOrderId"] = number, number
	return []watch.Query{p.query(pathRefundQuery, base), p.query(pathRefundQuery, byOrder)}
}

// refundNumber is the number by which the platform knows a refund; empty: it is no refund, or has none that is known.
func refundNumber(call *watch.Track) string {
	switch {
	case call == nil || call.Kind != watch.KindRefund || call.Whole:
		return ""
	case strings.HasPrefix(call.Number, "#"):
		return call.Alias
	}
	return call.Number
}

func pick(from map[string]string, names ...string) map[string]string {
	picked := make(map[string]string, len(names)+4)
	for _, name := range names {
		if from[name] != "" {
			picked[name] = from[name]
		}
	}
	return picked
}

func (p *watching) query(path string, fields map[string]string) watch.Query {
	fields["msgId"], fields["requestTimestamp"] = newNonce(), p.now().In(beijing).Format(time.DateTime)
	content, err := json.Marshal(fields)
	if err != nil {
		panic(err) // strings always marshal
	}
	return watch.Query{Path: path, Body: content}
}

// Read implements watch.Platform.
func (p *watching) Read(order *watch.Order, call *watch.Track, query watch.Query, answer []byte) (watch.Finding, error) {
	parsed, err := parseAnswer(answer)
	if err != nil {
		return watch.Finding{}, err
	}
	said := parsed.fields
	f := watch.Finding{Word: said["errCode"]}
	switch f.Word {
	case "SUCCESS":
	case "NO_ORDER":
		if call == nil {
			f.Order = watch.IsAbsent
		} else {
			f.Call = watch.IsAbsent
		}
		return f, nil
	case "ORDER_PROCESSING":
		f.Wait = true
		return f, nil
	default:
		return f, errors.New("the platform answered " + text.Name(f.Word))
	}
	switch query.Path {
	case pathRefundQuery:
		return p.readRefund(order, call, query, said)
	case pathBillQuery:
		return p.readBill(order, call, parsed, answer)
	}
	return p.readOrder(order, call, said)
}

var errOther = errors.New("the answer is about another order")

// readOrder reads the answer to a query of an order, which may be asked about for one of its calls.
func (p *watching) readOrder(order *watch.Order, call *watch.Track, said map[string]string) (watch.Finding, error) {
	if bounded(said["merOrderId"]) != order.ID {
		return watch.Finding{}, errOther
	}
	f := watch.Finding{Word: said["status"], Amount: fenOf(said["totalAmount"]), Mid: said["mid"], Order: orderFact(said)}
	if settled(order) && said["status"] != orderPaid { // what is refunded may still include what is open
		f.Refunded, f.Sum = fenOf(said["refundAmount"]), true
	}
	for _, name := range refundNames {
		delete(said, name)
	}
	if call != nil {
		switch {
		case call.Kind == watch.KindClose:
			f.Call = map[watch.Fact]watch.Fact{
				watch.IsClosed: watch.HasSucceeded, watch.IsPaid: watch.HasFailed, watch.IsPartRefunded: watch.HasFailed, watch.IsRefunded: watch.HasFailed,
			}[f.Order]
		case said["secureStatus"] == "" && ended(order, map[string]string{numberComplete: numberCancel, numberCancel: numberComplete}[call.Number]):
			f.Call = watch.HasFailed
		case call.Kind == watch.KindCapture:
			f.Call = map[string]watch.Fact{
				"ALL_COMPLETED": watch.HasSucceeded, "PARTLY_COMPLETED": watch.HasSucceeded, "CANCELED": watch.HasFailed,
			}[said["secureStatus"]]
		case said["secureStatus"] == "CANCELED" || said["secureStatus"] == "" && f.Order == watch.IsRefunded:
			f.Call = watch.HasSucceeded
		case said["secureStatus"] == "ALL_COMPLETED" || said["secureStatus"] == "PARTLY_COMPLETED":
			f.Call = watch.HasFailed
		}
		if f.Call == watch.Nothing {
			f.Call = watch.IsPending
		}
	}
	// The documents' answer does not say what became of money that is held (E1.2-RSP): where it has no secureStatus, a completion or
	// cancellation whose own answer was lost stays open until its notify comes (noticed), or it is stuck.
	if order.Fields["secureTransaction"] == "true" && said["secureStatus"] == "" {
		return f, nil
	}
	if word := said["secureStatus"]; (word == "ALL_COMPLETED" || word == "PARTLY_COMPLETED") && said["completeAmount"] == "" {
		for _, c := range order.Calls {
			if c.Number == numberComplete && (c == call || c.State != watch.Failed) && c.Amount > 0 {
				said["completeAmount"] = strconv.FormatInt(c.Amount, 10) // which a notify has
			}
		}
	}
	// Of an order that nobody paid the platform sends no notify. The app is told only where it could not know.
	if f.Order == watch.IsPaid || f.Order == watch.IsPartRefunded || f.Order == watch.IsRefunded ||
		f.Order == watch.IsClosed && (order.State == watch.Sent || call != nil) {
		if f.Order == watch.IsPartRefunded {
			said["status"] = orderPaid // as the payment's own notify had it
		}
		f.Event = p.event(order, said)
	}
	return f, nil
}

// ended reports whether a call of the order, known by its number, has succeeded.
func ended(order *watch.Order, number string) bool {
	return slices.ContainsFunc(order.Calls, func(c *watch.Track) bool { return c.Number == number && c.State == watch.Succeeded })
}

// refundNames are what a payment's own notify does not have.
var refundNames = []string{"refundAmount", "refundOrderId", "refundStatus", "refundTargetOrderId", "refundExtOrderId", "refundPayTime"}

// settled reports whether each refund that went through a gateway has come to its end.
func settled(order *watch.Order) bool {
	for _, c := range order.Calls {
		if c.Kind == watch.KindRefund && c.State != watch.Succeeded && c.State != watch.Failed {
			return false
		}
	}
	return true
}

// orderFact is what a query's answer, or a notify, says about an order. A closed one that has a time of payment was paid back.
func orderFact(said map[string]string) watch.Fact {
	switch orderState(said["status"]) {
	case "NEW_ORDER", "WAIT_BUYER_PAY":
		return watch.IsOpen
	case orderPaid:
		return watch.IsPaid
	case "TRADE_REFUND":
		return watch.IsPartRefunded
	case "TRADE_CLOSED":
		if said["payTime"] != "" || fenOf(said["refundAmount"]) > 0 {
			return watch.IsRefunded
		}
		return watch.IsClosed
	}
	return watch.Nothing
}

func (p *watching) readBill(order *watch.Order, call *watch.Track, parsed *platformAnswer, answer []byte) (watch.Finding, error) {
	said := parsed.fields
	if paidAs := bounded(parsed.payment["merOrderId"]); said["billNo"] == "" || orderKey(said, true) != order.ID && paidAs != order.ID {
		return watch.Finding{}, errOther
	}
	f := watch.Finding{Word: said["billStatus"], Bill: true, Also: bounded(parsed.payment["merOrderId"]), Order: billFact(said["billStatus"], len(parsed.payment) > 0), Amount: fenOf(said["totalAmount"])}
	if call != nil && call.Kind == watch.KindRefund && !call.Whole {
		return p.readBillRefund(order, call, parsed, answer, f)
	}
	if call != nil {
		f.Call = watch.IsPending
		if closed := f.Order == watch.IsClosed || f.Order == watch.IsRefunded; closed && (call.Whole || f.Order == watch.IsClosed) {
			f.Call = watch.HasSucceeded
		} else if call.Kind == watch.KindClose && f.Order != watch.IsOpen && f.Order != watch.Nothing {
			f.Call = watch.HasFailed // it is paid
		}
	}
	if f.Order == watch.IsPaid || f.Order == watch.IsPartRefunded || f.Order == watch.IsRefunded ||
		f.Order == watch.IsClosed && (order.State == watch.Sent || call != nil) {
		_, payment, err := jsontext.Scalars(answer, "billPayment")
		if err == nil && payment != nil {
			said["billPayment"] = string(payment)
		}
		f.Event = p.event(order, said)
	}
	return f, nil
}

// billFact is what a bill's state says. A closed one that has a payment was paid back.
func billFact(status string, paid bool) watch.Fact {
	switch {
	case status == "UNPAID":
		return watch.IsOpen
	case status == "PAID":
		return watch.IsPaid
	case status == "REFUND":
		return watch.IsPartRefunded
	case status == "CLOSED" && paid:
		return watch.IsRefunded
	case status == "CLOSED":
		return watch.IsClosed
	}
	return watch.Nothing
}

// readBillRefund reads what a bill's query says of a refund. Public SDKs take it for done where its payment says TRADE_SUCCESS; how
// one that has failed looks is in no document, so that it stays open.
func (p *watching) readBillRefund(order *watch.Order, call *watch.Track, parsed *platformAnswer, answer []byte, f watch.Finding) (watch.Finding, error) {
	_, nested, err := jsontext.Scalars(answer, "refundBillPayment")
	if err != nil || nested == nil {
		return f, errors.New("the answer does not hold the refund")
	}
	back, _, err := jsontext.Scalars(nested, "")
	number := refundNumber(call)
	if err != nil || number == "" || bounded(back["merOrderId"]) != number || fenOf(back["totalAmount"]) != call.Amount {
		return f, errOther
	}
	f.Order, f.Word, f.Call = watch.Nothing, back["status"], watch.IsPending
	if orderState(back["status"]) == orderPaid {
		f.Call = watch.HasSucceeded
		f.Event = p.event(order, map[string]string{
			"mid": parsed.fields["mid"], "tid": parsed.fields["tid"], "instMid": parsed.fields["instMid"], "merOrderId": parsed.payment["merOrderId"],
			"totalAmount": parsed.fields["totalAmount"], "status": "TRADE_REFUND", "refundStatus": "SUCCESS", "refundOrderId": number,
			"refundAmount": back["totalAmount"], "refundPayTime": back["payTime"],
		})
	}
	return f, nil
}

// readRefund reads the answer to a query of a refund. It must name the refund and the amount as far as it has them.
func (p *watching) readRefund(order *watch.Order, call *watch.Track, query watch.Query, said map[string]string) (watch.Finding, error) {
	if call == nil {
		return watch.Finding{}, errOther
	}
	asked, _, err := jsontext.Scalars(query.Body, "")
	number, theirs, back := refundNumber(call), bounded(said["refundOrderId"]), fenOf(said["refundAmount"])
	switch of := bounded(said["merOrderId"]); {
	case err != nil, of != "" && of != order.ID && of != asked["merOrderId"], back != 0 && call.Amount != 0 && back != call.Amount:
		return watch.Finding{}, errOther
	case number != "" && theirs != number && (theirs != "" || asked["merOrderId"] == order.ID):
		return watch.Finding{}, errOther // an order's latest refund
	case number == "" && (theirs == "" || back == 0 || knows(order, theirs)):
		return watch.Finding{}, errOther // another refund of the order, maybe
	}
	f := watch.Finding{Word: said["refundStatus"], Call: refundFact(said["refundStatus"]), Mid: said["mid"]}
	if number == "" {
		number, f.Number, f.CallAmount = theirs, theirs, back
	}
	if f.Call == watch.IsPending {
		return f, nil
	}
	said["merOrderId"], said["refundOrderId"] = order.ID, number
	if said["refundAmount"] == "" && call.Amount > 0 {
		said["refundAmount"] = strconv.FormatInt(call.Amount, 10)
	}
	for own, name := range map[string]string{"payTime": "refundPayTime", "settleDate": "refundSettleDate"} {
		if said[name] == "" {
			said[name] = said[own]
		}
		delete(said, own) // of a refund's answer it is the refund's
	}
	f.Event = p.event(order, said)
	return f, nil
}

// knows reports whether a number is that of another refund of the order.
func knows(order *watch.Order, number string) bool {
	return slices.ContainsFunc(order.Calls, func(c *watch.Track) bool { return c.Number == number || c.Alias == number })
}

// Interface guards
var _ watch.Platform = (*watching)(nil)
