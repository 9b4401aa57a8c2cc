package chinaums

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/internal/jsontext"
	"github.com/caddy-chinaums/caddy-chinaums/internal/normalize"
)

// notifyEvent is a verified notify as the merchant's app gets it.
type notifyEvent struct {
	// Data is the normalized JSON object.
	Data string

	// ID, Type, Subject and Time are CloudEvents context attributes, not yet encoded for a header. Time is RFC 3339,
	// or empty.
	ID, Type, Subject, Time string

	// MerOrderID, TotalAmount and Status are the notify's own values, or empty.
	MerOrderID, TotalAmount, Status string

	// Confirmed is "true" or "superseded" if the platform was asked, else empty.
	Confirmed string
}

// newRules returns the platform's rules. json names the fields whose text is JSON, besides those of the table.
func newRules(json []string) *normalize.Rules {
	return &normalize.Rules{
		AppendTime: appendRFC3339,
		Keep:       "payTime",
		Of: func(name []byte) normalize.Rule {
			rule := ruleOf(name)
			if rule == normalize.None && len(json) > 0 && slices.Contains(json, string(name)) {
				return normalize.JSON
			}
			return rule
		},
	}
}

var defaultRules = newRules(nil)

// eventValues are the deciding fields, in UTF-8; nil where absent.
type eventValues [decidingFields][]byte

// eventWriter writes an event: its JSON, and behind that its attributes.
type eventWriter struct {
	normalize.Writer
	words []byte
}

func (w *eventWriter) release() {
	w.Release(maxPooledBuffer)
	w.words = trimBuffer(w.words)
}

// event normalizes verified fields. source is the event's Ce-Source, which is part of its id.
func (f *notifyFields) event(rules *normalize.Rules, source string) notifyEvent {
	if rules == nil {
		rules = defaultRules
	}
	w := &f.writer
	w.Reset(rules)
	var values eventValues
	var billPayTime []byte // a JSON value, then its text
	w.Out = append(w.Out, '{')
	for i := range f.fields {
		field := &f.fields[i]
		if field.number == fieldSign {
			continue
		}
		if len(w.Out) > 1 {
			w.Out = append(w.Out, ',')
		}
		name := w.String(f.name(field))
		w.Out = append(w.Out, ':')
		// However the value came: the sender of JSON does not choose what is a number.
		value := w.Text(f.value(field), rules.Of(name), 1)
		if field.number >= 0 {
			values[field.number] = value
			if field.number == fieldBillPayment {
				billPayTime = w.Kept
			}
		}
	}
	w.Out = append(w.Out, '}')

	w.words = w.words[:0]
	if len(billPayTime) > 0 && billPayTime[0] == '"' {
		w.words, _ = jsontext.AppendText(w.words, billPayTime, 0, true)
	}
	// The attributes are written behind the JSON, so that all is cut from one string.
	eventType := values.eventType()
	text := w.Out
	dataEnd := len(text)
	text = values.appendID(text, source, eventType)
	idEnd := len(text)
	text, _ = appendRFC3339(text, values.time(w.words))
	timeEnd := len(text)
	text = append(text, values[fieldMerOrderID]...)
	orderEnd := len(text)
	text = append(text, values[fieldTotalAmount]...)
	amountEnd := len(text)
	text = append(text, values[fieldStatus]...)
	statusEnd := len(text)
	if values.isBill() {
		text = append(text, values[fieldBillNo]...)
	}
	w.Out = text
	all := string(text)
	event := notifyEvent{Data: all[:dataEnd], Type: eventType}
	event.ID = all[dataEnd:idEnd]
	event.Time = all[idEnd:timeEnd]
	event.MerOrderID = all[timeEnd:orderEnd]
	event.TotalAmount = all[orderEnd:amountEnd]
	event.Status = all[amountEnd:statusEnd]
	event.Subject = event.MerOrderID
	if values.isBill() {
		event.Subject = all[statusEnd:]
	}
	return event
}

func (v *eventValues) isBill() bool { return v[fieldBillStatus] != nil }

func (v *eventValues) isRefund() bool {
	return string(v[fieldStatus]) == "TRADE_REFUND" ||
		v[fieldRefundStatus] != nil || v[fieldRefundOrderID] != nil || v[fieldRefundTargetOrderID] != nil ||
		v[fieldRefundAmount] != nil && string(v[fieldRefundAmount]) != "0"
}

// eventType returns the type of the first family that applies.
func (v *eventValues) eventType() string {
	switch {
	case v.isBill():
		return bills.eventType(v[fieldBillStatus])
	case v.isRefund():
		if v[fieldRefundStatus] == nil && v[fieldRefundPayTime] != nil {
			return refunds.types["SUCCESS"]
		}
		return refunds.eventType(v[fieldRefundStatus])
	case v[fieldSecureStatus] != nil:
		return guarantees.eventType(v[fieldSecureStatus])
	case v[fieldContractID] != nil:
		return deductions.eventType(orderState(v[fieldStatus]))
	}
	return payments.eventType(orderState(v[fieldStatus]))
}

// appendID appends the event's id, which names the fact and not the message: the first 32 hexadecimal digits of SHA-256
// over a version, the source, the type and the fields that distinguish one such fact from another, each on a line of its
// own. So a fact has one id, however often and in whatever form it arrives.
func (v *eventValues) appendID(dst []byte, source, eventType string) []byte {
	start := len(dst)
	dst = append(dst, "v1\n"...)
	dst = append(append(dst, source...), '\n')
	dst = append(append(dst, eventType...), '\n')
	switch {
	case v.isBill():
		dst = v.appendLines(dst, fieldMid, fieldBillNo, fieldBillDate, fieldBillStatus)
		if v.isRefund() || string(v[fieldBillStatus]) == "REFUND" {
			dst = v.appendRefund(dst)
		}
	case v.isRefund():
		dst = v.appendRefund(v.appendLines(dst, fieldMid, fieldMerOrderID))
	case v[fieldSecureStatus] != nil:
		dst = v.appendLines(dst, fieldMid, fieldMerOrderID, fieldSecureStatus, fieldCompleteAmount)
	default:
		dst = v.appendLines(dst, fieldMid, fieldMerOrderID, fieldStatus, fieldTotalAmount)
	}
	sum := sha256.Sum256(dst[start:])
	return hex.AppendEncode(dst[:start], sum[:16])
}

// appendRefund appends what distinguishes one refund of an order from another: its number or, without any, what there is.
func (v *eventValues) appendRefund(dst []byte) []byte {
	dst = v.appendLines(dst, fieldRefundStatus)
	for _, number := range [...]int{fieldRefundOrderID, fieldRefundTargetOrderID, fieldRefundExtOrderID} {
		if v[number] != nil {
			return v.appendLines(dst, number)
		}
	}
	return v.appendLines(dst, fieldRefundAmount, fieldRefundPayTime, fieldNotifyID)
}

// appendLines appends a line for each of the fields that is present.
func (v *eventValues) appendLines(dst []byte, numbers ...int) []byte {
	for _, number := range numbers {
		value := v[number]
		if value == nil {
			continue
		}
		dst = append(append(dst, fieldTable[number].name...), '=')
		if number == fieldStatus && string(orderState(value)) == orderPaid {
			value = []byte(orderPaid) // in whatever spelling it came
		}
		dst = append(append(dst, value...), '\n')
	}
	return dst
}

// time returns the text of the event's time: of the first field that is present. A bill's is in its payment.
func (v *eventValues) time(billPayTime []byte) []byte {
	switch {
	case v.isBill():
		return billPayTime
	case v.isRefund() && v[fieldRefundPayTime] != nil:
		return v[fieldRefundPayTime]
	case v[fieldPayTime] != nil:
		return v[fieldPayTime]
	}
	return v[fieldCreateTime]
}

// appendRFC3339 appends the platform's yyyy-MM-dd HH:mm:ss, Beijing time, as RFC 3339, if it is a date that exists.
func appendRFC3339(dst, text []byte) ([]byte, bool) {
	if len(text) != len(time.DateTime) {
		return dst, false
	}
	for i, c := range text {
		if sample := time.DateTime[i]; c != sample && (c < '0' || c > '9' || sample < '0' || sample > '9') {
			return dst, false
		}
	}
	// Digits compare as their numbers do. Every month has the days 1 to 28.
	month, day := string(text[5:7]), string(text[8:10])
	if month < "01" || month > "12" || day < "01" || string(text[11:13]) > "23" || string(text[14:16]) > "59" || string(text[17:]) > "59" {
		return dst, false
	}
	if day > "28" {
		if _, err := time.Parse(time.DateOnly, string(text[:len(time.DateOnly)])); err != nil {
			return dst, false
		}
	}
	dst = append(append(dst, text[:len(time.DateOnly)]...), 'T')
	return append(append(dst, text[len(time.DateOnly)+1:]...), "+08:00"...), true
}
