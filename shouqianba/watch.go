package shouqianba

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/internal/jsontext"
	"github.com/caddy-chinaums/caddy-chinaums/internal/normalize"
	"github.com/caddy-chinaums/caddy-chinaums/internal/watched"
	"github.com/caddy-chinaums/caddy-chinaums/watch"
)

// watching is what the watch has to know of Shouqianba: which path is which kind of call, which query asks about it, and what an
// answer means.
type watching struct {
	numbers numbers
	json    []string         // further fields whose text is JSON
	rules   *normalize.Rules // with these; nil: the platform's
}

// also takes the fields whose text is JSON in some notifies of a configuration that is being loaded, and so in what a query has
// found.
func (p *watching) also(json []string) {
	if len(json) > 0 {
		p.json = append(p.json, json...)
		p.rules = newRules(p.json)
	}
}

// watchedCall is what an interface does. A call without a number of its own, of which there can be one an order only, has a
// constant for its number.
type watchedCall struct {
	kind   watch.Kind
	number string
	whole  bool // it gives back all there is
}

// watchedCalls are the interfaces that are watched. Cancel and revoke do the same: of a paid order they give the money back.
var watchedCalls = map[string]watchedCall{
	"/upay/v2/pay":       {kind: watch.KindOrder},
	"/upay/v2/precreate": {kind: watch.KindOrder},
	"/upay/v2/refund":    {kind: watch.KindRefund},
	"/upay/v2/cancel":    {watch.KindRefund, "cancel", true},
	"/upay/v2/revoke":    {watch.KindRefund, "revoke", true},
}

// bySN marks the number of an order whose client_sn is not known.
const bySN = "sn:"

// Classify implements watch.Platform.
func (*watching) Classify(called string, body []byte) (call watch.Call, ok bool) {
	as, ok, _ := watched.Find(watchedCalls, called)
	if !ok {
		return call, false
	}
	said, _, err := jsontext.Scalars(body, "")
	if err != nil {
		return call, false // the platform cannot read it either
	}
	call = watch.Call{Kind: as.kind, Number: as.number, Whole: as.whole, Order: watched.Bounded(said["client_sn"])}
	if call.Order == "" && said["sn"] != "" {
		call.Order = watched.Bounded(bySN + said["sn"])
	}
	if call.Order == "" {
		return call, false
	}
	switch {
	case as.kind == watch.KindOrder:
		call.Amount, _ = watched.Fen(said["total_amount"])
		call.Notify = watched.Place(said["notify_url"])
	case !as.whole:
		call.Amount, _ = watched.Fen(said["refund_amount"])
		call.Number = watched.Bounded(said["refund_request_no"])
	}
	call.Fields = make(map[string]string, 3)
	for _, name := range [...]string{"client_sn", "sn", "refund_request_no"} {
		if value := said[name]; value != "" {
			call.Fields[name] = watched.Bounded(value)
		}
	}
	return call, true
}

// refusing are the codes that say that nothing was done and nothing will be: of the envelope with the result 400, and of the
// business with the result FAIL, which the documents give where no process was started. Any other leaves it open.
var refusing = map[string]map[string]bool{
	"400": {"INVALID_PARAMS": true, "INVALID_PARAMETER": true, "INVALID_TERMINAL": true, "TERMINAL_NOT_EXISTS": true, illegalSign: true},
	"FAIL": {
		"INVALID_BARCODE": true, "EXPIRED_BARCODE": true, "BUYER_OVER_DAILY_LIMIT": true, "BUYER_OVER_TRANSACTION_LIMIT": true,
		"SELLER_OVER_DAILY_LIMIT": true, "UPAY_STORE_OVER_DAILY_LIMIT": true, "UPAY_TERMINAL_NOT_EXISTS": true, "UPAY_TERMINAL_STATUS_ABNORMAL": true,
		"UPAY_REFUND_INVALID_ORDER_STATE": true, "REFUNDABLE_AMOUNT_NOT_ENOUGH": true, "UPAY_CANCEL_INVALID_ORDER_STATE": true,
	},
}

// Answered implements watch.Platform. What is still under way, and each word that is not known, proves nothing.
func (*watching) Answered(call watch.Call, _ string, answer []byte) (f watch.Finding) {
	a, err := readAnswer(answer)
	if err != nil {
		return f
	}
	for _, name := range [...]string{"client_sn", "sn"} {
		if asked, said := call.Fields[name], a.data[name]; asked != "" && said != "" && watched.Bounded(said) != asked {
			return f // about another order
		}
	}
	for _, word := range [...]string{a.businessCode, a.business, a.code} {
		if f.Word = word; word != "" {
			break
		}
	}
	status := a.data["order_status"]
	orders := call.Kind == watch.KindOrder
	switch {
	case a.result == "400" && refusing["400"][a.code], a.result == "200" && a.business == "FAIL" && refusing["FAIL"][a.businessCode]:
		if f.Call = watch.IsRefused; orders {
			f.Order, f.Call = watch.IsRefused, watch.Nothing
		}
	case a.result != "200":
	case orders && a.business == "PAY_SUCCESS" && status == "PAID":
		f.Order = watch.IsPaid
		f.Amount, _ = watched.Fen(a.data["total_amount"])
	case orders && (a.business == "PRECREATE_SUCCESS" || a.business == "PAY_FAIL"): // the query says how that ends
		f.Order = watch.IsOpen
	case !orders && !call.Whole && a.business == "REFUND_SUCCESS" && (status == "REFUNDED" || status == "PARTIAL_REFUNDED"):
		if number := a.data["refund_request_no"]; number == "" || watched.Bounded(number) == call.Number {
			f.Call = watch.HasSucceeded
		}
	case call.Whole && (a.business == "CANCEL_SUCCESS" || a.business == "CANCEL_ABORT_SUCCESS"):
		if f.Call = watch.HasSucceeded; status == "CANCELED" || status == "PAY_CANCELED" {
			f.Order = watch.IsClosed // of a paid one it changes nothing; that all is given back does
		}
	}
	return f
}

// Ask implements watch.Platform. There is one query, which knows orders only; the sender adds the terminal.
func (*watching) Ask(order *watch.Order, _ *watch.Track) []watch.Query {
	question := map[string]string{"client_sn": order.ID}
	if sn, ok := strings.CutPrefix(order.ID, bySN); ok {
		question = map[string]string{"sn": sn}
	}
	content, err := json.Marshal(question)
	if err != nil {
		panic(err) // strings always marshal
	}
	return []watch.Query{{Path: queryPath, Body: content}}
}

// sendQuery implements watch.Sender.
func (a *App) sendQuery(ctx context.Context, name string, query watch.Query) ([]byte, error) {
	asked, _, err := jsontext.Scalars(query.Body, "")
	if err != nil {
		return nil, err
	}
	for _, t := range a.terminals.All() {
		if t.name == name && needsKey(t) == nil {
			return t.query(ctx, asked["sn"], asked["client_sn"])
		}
	}
	return nil, errors.New("this terminal is not configured any more, or has no key")
}

var errOther = errors.New("the answer is about another order")

// Read implements watch.Platform.
func (p *watching) Read(order *watch.Order, call *watch.Track, _ watch.Query, answer []byte) (watch.Finding, error) {
	a, err := readAnswer(answer)
	if err != nil {
		return watch.Finding{}, err
	}
	absent, err := a.about()
	if absent {
		if call == nil {
			return watch.Finding{Word: a.businessCode, Order: watch.IsAbsent}, nil
		}
		return watch.Finding{Word: a.businessCode, Call: watch.IsAbsent}, nil
	}
	if err != nil {
		return watch.Finding{Word: a.businessCode}, err
	}
	if sn, ok := strings.CutPrefix(order.ID, bySN); ok && a.data["sn"] != sn || !ok && watched.Bounded(a.data["client_sn"]) != order.ID {
		return watch.Finding{}, errOther
	}
	p.numbers.learn(order.Merchant, a.data["sn"], a.data["client_sn"])
	said := newSaid(order, a)
	f := watch.Finding{Word: said.status, Order: said.order(), Amount: said.total}
	if said.counts && slices.Contains([]string{"PAID", "PARTIAL_REFUNDED", "REFUNDED"}, said.status) && said.settled(nil) {
		f.Refunded, f.Sum = said.total-said.net, true // else it may still include what is open
	}
	about := call
	switch {
	case call == nil:
	case call.Whole:
		f.Call = said.cancel(call)
		switch ended := f.Call == watch.HasSucceeded || f.Call == watch.HasFailed; {
		case ended:
		case order.State == watch.Sent, order.State == watch.Open:
			f.Order = watch.Nothing // the order's own looks tell of the payment
		case order.State != "" && !said.paid():
			about = nil // there are none left
		}
	default:
		f.Call = said.refund(call)
		if order.Paid > 0 { // what tells of a refund is not held against what was ordered, nor does it tell of the payment again
			if f.Amount = 0; f.Order == watch.IsPaid {
				f.Order = watch.Nothing
			}
		}
		if order.State != "" && !said.paid() && (f.Order != watch.IsRefunded || f.Call != watch.HasSucceeded) {
			f.Order = watch.Nothing // the order's own looks tell of the payment
		}
	}
	if call != nil && call.State == watch.Succeeded && f.Call == watch.HasFailed {
		f.Call = watch.IsPending // it is never taken back
	}
	f.Event, err = said.event(p, about, &f)
	return f, err
}

// said is what a query has said about an order, beside what is known of it.
type said struct {
	*platformAnswer
	known      *watch.Order
	status     string
	total, net int64
	counts     bool // total and net are there, and fit
}

func newSaid(order *watch.Order, a *platformAnswer) *said {
	s := &said{platformAnswer: a, known: order, status: a.data["order_status"]}
	var total, net bool
	s.total, total = watched.Fen(a.data["total_amount"])
	s.net, net = watched.Fen(a.data["net_amount"])
	s.counts = total && net && s.net <= s.total
	return s
}

// plainFacts are the ends of an order, and that it is open. The others (PAY_ERROR, REFUND_ERROR, CANCEL_ERROR, those in progress) say
// that the platform does not know the end itself, so that they prove nothing.
var plainFacts = map[string]watch.Fact{
	"CREATED": watch.IsOpen, "PAID": watch.IsPaid, "PARTIAL_REFUNDED": watch.IsPartRefunded, "REFUNDED": watch.IsRefunded,
	"PAY_CANCELED": watch.IsClosed, "CANCELED": watch.IsClosed,
}

func (s *said) order() watch.Fact {
	if s.status == "CANCELED" && s.paid() {
		return watch.IsRefunded
	}
	return plainFacts[s.status]
}

// paid reports whether the order was known to be paid before.
func (s *said) paid() bool {
	return slices.Contains([]watch.State{watch.Paid, watch.PartRefunded, watch.Refunded}, s.known.State)
}

// settled reports whether each refund but this one has come to its end.
func (s *said) settled(but *watch.Track) bool {
	return !slices.ContainsFunc(s.known.Calls, func(c *watch.Track) bool {
		return c.Kind == watch.KindRefund && c != but && (but == nil || c.Number != but.Number) && c.State != watch.Succeeded && c.State != watch.Failed
	})
}

// undone is what it means that nothing of a call is to be seen. A query has to have found one of these words, by which the
// platform had begun and did not know the end, another one what this one says, and nothing else may have been done since: only
// then the platform has given it up.
func (s *said) undone(call *watch.Track, words ...string) watch.Fact {
	fact := watch.IsAbsent
	for _, l := range s.known.Lines {
		switch {
		case l.What != "query" || l.About != call.Number || l.At < call.Sent:
		case slices.Contains(words, l.Word):
			fact = watch.IsPending
		case fact == watch.IsPending && l.Word == s.status:
			fact = watch.HasFailed
		}
	}
	since := func(c *watch.Track) bool { return c.Number != call.Number && c.Sent >= call.Sent }
	if fact == watch.HasFailed && slices.ContainsFunc(s.known.Calls, since) {
		return watch.IsPending // the order's state may be that call's
	}
	return fact
}

// clockError is how far this machine's clock may be ahead of the platform's.
const clockError = time.Minute

// cancel is what became of a cancel or revoke.
func (s *said) cancel(call *watch.Track) watch.Fact {
	switch s.status {
	case "CANCELED":
		return watch.HasSucceeded
	case "PAY_CANCELED":
		if !s.paid() {
			return watch.HasSucceeded // there is nothing to give back
		}
	case "CREATED", "PAID", "PARTIAL_REFUNDED":
		return s.undone(call, "CANCEL_ERROR", "CANCEL_INPROGRESS", "CANCEL_IN_PROGRESS")
	}
	return watch.IsPending
}

// refund is what became of a refund. No query asks for one by its number. Where the answer does not name it, what has been given
// back has to be what was known and this one's amount, and the latest operation has to have ended after it was first sent. What could
// be read in two ways stays open.
func (s *said) refund(call *watch.Track) watch.Fact {
	switch s.status {
	case "PAID", "PARTIAL_REFUNDED", "REFUNDED":
	default:
		return watch.IsPending
	}
	if number := s.data["refund_request_no"]; number != "" && watched.Bounded(number) == call.Number {
		switch s.data["status"] {
		case "SUCCESS":
			return watch.HasSucceeded
		case "FAIL_CANCELED":
			return watch.HasFailed
		}
		return watch.IsPending
	}
	before, known := s.before(call.Number)
	back, explained := s.total-s.net, before
	if call.State == watch.Succeeded {
		explained += call.Amount
	}
	ended, _ := strconv.ParseInt(s.data["finish_time"], 10, 64)
	since := ended >= cmp.Or(call.First, call.Sent)-clockError.Milliseconds()
	if ended == 0 {
		since = s.known.Seen // another order may have been refunded before
	}
	switch {
	case !s.counts, !known, call.Amount <= 0, s.known.Refunded > explained, !s.settled(call): // refunds made elsewhere, or several at once
	case back == before+call.Amount && since:
		return watch.HasSucceeded
	case back == before:
		return s.undone(call, "REFUND_ERROR", "REFUND_INPROGRESS", "REFUND_IN_PROGRESS")
	}
	return watch.IsPending
}

// before is what the refunds have given back that are known to have succeeded, but for one; false: that is not known of each.
func (s *said) before(but string) (sum int64, known bool) {
	sum, known = s.known.Folded, true
	for _, c := range s.known.Calls {
		if c.Kind == watch.KindRefund && c.State == watch.Succeeded && c.Number != but {
			sum += c.Amount
			known = known && c.Amount > 0
		}
	}
	return sum, known
}

// Interface guards
var _ watch.Platform = (*watching)(nil)
