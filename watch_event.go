package chinaums

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/internal/inbound"
	"github.com/caddy-chinaums/caddy-chinaums/internal/jsontext"
	"github.com/caddy-chinaums/caddy-chinaums/internal/watched"
	"github.com/caddy-chinaums/caddy-chinaums/watch"
)

// What a query has found is told as what a notify of it would have become, and a notify tells the watch what a query would have
// found.

// NotFound implements watch.Platform.
func (p *watching) NotFound(order *watch.Order, call *watch.Track) *watch.Event {
	number := refundNumber(call)
	if call.Kind != watch.KindRefund || number == "" {
		return nil
	}
	fields := pick(call.Fields, "mid", "tid", "instMid", "merOrderId", "billNo", "billDate", "refundOrderId")
	fields["refundOrderId"], fields["refundAmount"] = number, strconv.FormatInt(call.Amount, 10)
	values := eventValues{fieldMid: []byte(fields["mid"]), fieldMerOrderID: []byte(order.ID), fieldRefundOrderID: []byte(number)}
	e := p.newEvent(order, fields)
	if e != nil {
		e.Type = typeNotFound
		fact := typeNotFound
		if call.First != 0 { // each repetition that does not arrive is told
			fact += "\nsent=" + strconv.FormatInt(call.Sent, 10)
		}
		e.ID = string(values.appendID(nil, sourceOf(order.Merchant), fact))
		e.Content.(*watched.Content).Context.ID, e.Content.(*watched.Content).Context.Type = e.ID, e.Type
	}
	return e
}

const typeNotFound = typePrefix + "refund.not_found"

// event is what a notify of a query's answer would have become.
func (p *watching) event(order *watch.Order, said map[string]string) *watch.Event {
	for _, name := range [...]string{"errCode", "errMsg", "errInfo", "msgId", "responseTimestamp", "responseTimeStamp", "sign", "signType"} {
		delete(said, name)
	}
	if said["mid"] == "" {
		said["mid"] = order.Mid
	}
	return p.newEvent(order, said)
}

// newEvent makes the event of fields; an empty one counts as absent.
func (p *watching) newEvent(order *watch.Order, said map[string]string) *watch.Event {
	content, err := json.Marshal(said)
	if err != nil {
		return nil
	}
	fields := acquireFields()
	defer fields.release()
	if fields.parse(content) != nil {
		return nil // more than any notify has
	}
	source := sourceOf(order.Merchant)
	event := fields.event(p.rules, source)
	return &watch.Event{ID: event.ID, Type: event.Type, Content: &watched.Content{Data: event.Data, Word: event.word, Context: inbound.Context{
		ID: event.ID, Source: source, Type: event.Type, Subject: event.Subject, Time: event.Time,
	}}}
}

// noticed is what a verified notify tells the watch: the order's number, and what it says. Empty: it names none.
func noticed(said claim, eventType string) (order string, f watch.Finding) {
	f = watch.Finding{Amount: fenOf(said["totalAmount"]), Mid: said["mid"]}
	switch familyOf(eventType) {
	case bills:
		payment, _, err := jsontext.Scalars([]byte(said["billPayment"]), "")
		f.Bill, f.Word, f.Order = true, said["billStatus"], billFact(said["billStatus"], err == nil && len(payment) > 0)
		f.Also = bounded(payment["merOrderId"])
		return orderKey(said, true), f
	case guarantees: // of what was done with money that is held, only the notify tells
		f.Word, f.Order = said["secureStatus"], orderFact(said)
		switch f.Word {
		case "PARTLY_COMPLETED", "ALL_COMPLETED":
			f.Kind, f.Number, f.Call, f.CallAmount = watch.KindCapture, numberComplete, watch.HasSucceeded, fenOf(said["completeAmount"])
		case "CANCELED":
			f.Kind, f.Number, f.Call = watch.KindRefund, numberCancel, watch.HasSucceeded
		}
	case refunds:
		f.Word, f.Amount = refundState(said), 0 // totalAmount is the payment's, which the payment's own notify told
		if f.Number = said["refundOrderId"]; f.Number == "" {
			f.Number = said["refundExtOrderId"]
		}
		if f.Number = bounded(f.Number); f.Number != "" {
			f.Call, f.CallAmount = refundFact(f.Word), fenOf(said["refundAmount"])
		} else if refundFact(f.Word) == watch.HasSucceeded {
			f.Order, f.Refunded = watch.IsPartRefunded, fenOf(said["refundAmount"]) // that much at least was given back
			if f.Refunded != 0 && f.Refunded == fenOf(said["totalAmount"]) {
				f.Order = watch.IsRefunded
			}
		}
	default:
		f.Word, f.Order = said["status"], orderFact(said)
	}
	return orderKey(said, false), f
}

// checkSharedMIDs warns of merchants with one mid: each has rows of its own, so that the one does not see what the other pays back.
func (a *App) checkSharedMIDs() {
	owners := make(map[string]string)
	for _, m := range a.merchants.All() {
		for mid := range m.mids {
			if other := owners[mid]; other != "" && a.watched != nil {
				a.logger.Warn("two merchants have the same mid; the watch takes an order of the one for none of the other", zap.String("mid", mid),
					zap.String("merchant", m.name), zap.String("other", other))
			}
			owners[mid] = m.name
		}
	}
}

// watchedAges are the ages at which an order that is not yet paid is asked about.
var watchedAges = []caddy.Duration{
	caddy.Duration(time.Minute), caddy.Duration(2 * time.Minute), caddy.Duration(5 * time.Minute), caddy.Duration(10 * time.Minute),
	caddy.Duration(20 * time.Minute),
}

// watchLabel is an event's type as a label.
func watchLabel(eventType string) string {
	if eventType == typeNotFound {
		return eventType
	}
	return metricType(eventType)
}

// sendQuery implements watch.Sender.
func (a *App) sendQuery(ctx context.Context, name string, query watch.Query) ([]byte, error) {
	for _, m := range a.merchants.All() {
		if m.name == name && m.signer != nil {
			return m.ask(ctx, time.Now(), newNonce(), query.Path, query.Body)
		}
	}
	return nil, errors.New("this merchant is not configured any more, or has no app_key")
}
