package shouqianba

import (
	"encoding/json"
	"slices"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-chinaums/caddy-chinaums/internal/inbound"
	"github.com/caddy-chinaums/caddy-chinaums/internal/jsontext"
	"github.com/caddy-chinaums/caddy-chinaums/internal/watched"
	"github.com/caddy-chinaums/caddy-chinaums/watch"
)

// What a query has found is told as what a notify of it would have become, and a notify tells the watch what a query would have
// found.

// event is what a notify of the answer would have become; nil: nobody is told. Of an order that nobody paid the platform sends no
// notify: the app is told only where it could not know.
func (s *said) event(p *watching, call *watch.Track, f *watch.Finding) (*watch.Event, error) {
	change := map[string]string{}
	switch refund := call != nil && !call.Whole; {
	case refund && (f.Call == watch.HasSucceeded || f.Call == watch.HasFailed):
		change["refund_request_no"], change["status"] = call.Number, "FAIL_CANCELED"
		if f.Call == watch.HasSucceeded {
			change["settlement_amount"], change["status"] = strconv.FormatInt(call.Amount, 10), "SUCCESS"
			if slices.ContainsFunc(s.known.Calls, func(c *watch.Track) bool { return c.State == watch.Succeeded && c.Sent > call.Sent }) {
				change["order_status"], change["net_amount"] = "PARTIAL_REFUNDED", "" // as it was before the later one
			}
		}
	case refund, call != nil && f.Call != watch.HasSucceeded && f.Call != watch.HasFailed:
		return nil, nil
	case f.Order == watch.IsPaid:
	case f.Order == watch.IsRefunded:
		if before, known := s.before(""); known && before == s.total {
			return nil, nil // the app has done it all itself
		}
	case f.Order == watch.IsPartRefunded: // as the payment's own notify had it
		change = map[string]string{
			"order_status": "PAID", "status": "SUCCESS", "net_amount": s.data["total_amount"], "refund_request_no": "", "client_tsn": "",
			"settlement_amount": "", "finish_time": "", "channel_finish_time": "",
		}
	case f.Order == watch.IsClosed && (s.known.State == watch.Sent || call != nil):
	default:
		return nil, nil
	}
	members := make(map[string]json.RawMessage, len(s.data)+4)
	err := jsontext.Members(s.raw, func(name string, value json.RawMessage) error {
		members[name] = value
		return nil
	})
	for name, value := range change {
		members[name], _ = json.Marshal(value) // strings always marshal
	}
	if err != nil {
		return nil, err
	}
	return p.newEvent(s.known.Merchant, members)
}

// newEvent makes the event of a notify's members; an empty one counts as absent.
func (p *watching) newEvent(terminal string, members map[string]json.RawMessage) (*watch.Event, error) {
	content, err := json.Marshal(members)
	if err != nil {
		return nil, err
	}
	source := sourceOf(terminal)
	rules := p.rules
	if rules == nil {
		rules = newRules(nil)
	}
	event, err := readEvent(content, rules, source)
	if err != nil {
		return nil, err
	}
	return &watch.Event{ID: event.ID, Type: event.Type, Content: &watched.Content{Data: event.Data, Word: event.word, Context: inbound.Context{
		ID: event.ID, Source: source, Type: event.Type, Subject: event.Subject, Time: event.Time,
	}}}, nil
}

func sourceOf(terminal string) string { return "/shouqianba/" + terminal }

const typeNotFound = "com.shouqianba.refund.not_found"

// NotFound implements watch.Platform.
func (p *watching) NotFound(order *watch.Order, call *watch.Track) *watch.Event {
	if call.Kind != watch.KindRefund || call.Whole || call.Fields["client_sn"] == "" {
		return nil
	}
	members := make(map[string]json.RawMessage, 3)
	for name, value := range map[string]string{
		"client_sn": order.ID, "refund_request_no": call.Number, "refund_amount": strconv.FormatInt(call.Amount, 10),
	} {
		members[name], _ = json.Marshal(value) // strings always marshal
	}
	e, err := p.newEvent(order.Merchant, members)
	if err != nil {
		return nil
	}
	values := eventValues{fieldClientSN: []byte(order.ID), fieldRefundRequestNo: []byte(call.Number)}
	fact := typeNotFound
	if call.First != 0 { // each repetition that does not arrive is told
		fact += "\nsent=" + strconv.FormatInt(call.Sent, 10)
	}
	e.Type = typeNotFound
	e.ID = string(values.appendID(nil, sourceOf(order.Merchant), fact))
	context := &e.Content.(*watched.Content).Context
	context.ID, context.Type = e.ID, e.Type
	return e
}

// noticed is what a verified notify tells the watch: the order's number, and what it says. Empty: it names none that is known.
func (p *watching) noticed(terminal string, event *notifyEvent) (order string, f watch.Finding) {
	data, _, err := jsontext.Scalars([]byte(event.Data), "")
	if err != nil || event.ClientSN == "" && event.SN == "" {
		return "", f
	}
	if order = watched.Bounded(event.ClientSN); order == "" {
		order = watched.Bounded(p.numbers.get(terminal, event.SN))
	}
	if order == "" {
		order = watched.Bounded(bySN + event.SN)
	}
	p.numbers.learn(terminal, event.SN, event.ClientSN)
	f.Word = event.OrderStatus
	fact, isRefund := map[string]watch.Fact{
		"com.shouqianba.refund.succeeded": watch.HasSucceeded, "com.shouqianba.refund.failed": watch.HasFailed,
		"com.shouqianba.refund.processing": watch.IsPending, "com.shouqianba.refund.unknown": watch.IsPending,
	}[event.Type]
	if !isRefund { // else it is the payment's, which the payment's own notify told
		f.Amount, _ = watched.Fen(event.TotalAmount)
	}
	switch number := watched.Bounded(data["refund_request_no"]); {
	case isRefund && number != "":
		f.Number, f.Call = number, fact
		f.CallAmount, _ = watched.Fen(data["settlement_amount"])
	case !isRefund:
		f.Order = plainFacts[event.OrderStatus]
	case fact == watch.HasSucceeded: // which refund it was nobody says
		f.Order = plainFacts[event.OrderStatus]
		total, paid := watched.Fen(event.TotalAmount)
		if left, known := watched.Fen(event.NetAmount); paid && known && left <= total {
			f.Refunded, f.Sum = total-left, true
		}
	}
	return order, f
}

// watchedAges are the ages at which an order that is not yet paid is asked about: the platform itself waits 4 minutes for the
// buyer, and a code in a shop is paid at once.
var watchedAges = []caddy.Duration{
	caddy.Duration(30 * time.Second), caddy.Duration(time.Minute), caddy.Duration(2 * time.Minute), caddy.Duration(4 * time.Minute),
	caddy.Duration(6 * time.Minute), caddy.Duration(11 * time.Minute), caddy.Duration(time.Hour),
}
