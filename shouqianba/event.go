package shouqianba

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash/maphash"
	"slices"
	"sync"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/internal/jsontext"
	"github.com/caddy-chinaums/caddy-chinaums/internal/normalize"
	"github.com/caddy-chinaums/caddy-chinaums/internal/text"
)

// notifyEvent is a verified notify as the merchant's app gets it.
type notifyEvent struct {
	// Data is the normalized JSON object.
	Data string

	// ID, Type, Subject and Time are CloudEvents context attributes, not yet encoded for a header. Time is RFC 3339,
	// or empty.
	ID, Type, Subject, Time string

	// ClientSN, SN, TotalAmount, NetAmount, OrderStatus and TerminalSN are the notify's own values, or empty.
	ClientSN, SN, TotalAmount, NetAmount, OrderStatus, TerminalSN string
}

// Reasons of a parseError.
const (
	reasonRepeated = "repeated_parameter"
	reasonJSON     = "json"
	reasonTooMany  = "too_many"
)

// parseError says why a notify cannot be read. Its text names the field, never a value.
type parseError struct {
	Reason  string
	message string
}

func (e *parseError) Error() string { return e.message }

func newParseError(reason, format string, args ...any) *parseError {
	return &parseError{Reason: reason, message: fmt.Sprintf(format, args...)}
}

const (
	// maxNotifyFields bounds the fields of one notify; the documents' has about 25.
	maxNotifyFields = 1000
	// maxPooledBuffer is the largest buffer that is kept for the next notify.
	maxPooledBuffer = 256 << 10
	// millisecondDigits is how long the platform's times are, from 2001 to 2286.
	millisecondDigits = len("1449646835244")
)

// The fields that make an event's context.
const (
	fieldSN = iota
	fieldClientSN
	fieldClientTSN
	fieldTerminalSN
	fieldRefundRequestNo
	fieldOrderStatus
	fieldStatus
	fieldTotalAmount
	fieldNetAmount
	fieldFinishTime
	fieldChannelFinishTime
	eventFields
)

var eventNames = [eventFields]string{
	"sn", "client_sn", "client_tsn", "terminal_sn", "refund_request_no", "order_status", "status", "total_amount",
	"net_amount", "finish_time", "channel_finish_time",
}

// eventField returns the number of a field that makes the context, or -1.
func eventField(name []byte) int {
	for number, known := range eventNames {
		if string(name) == known {
			return number
		}
	}
	return -1
}

// eventValues are the fields that make the context, in UTF-8; nil where absent.
type eventValues [eventFields][]byte

// newRules returns the platform's rules. json names the fields whose text is JSON; the documents have none.
func newRules(json []string) *normalize.Rules {
	return &normalize.Rules{
		AppendTime: appendRFC3339,
		Of: func(name []byte) normalize.Rule {
			switch {
			case bytes.HasSuffix(name, amountSuffix):
				return normalize.Amount
			case bytes.HasSuffix(name, finishTime) && (len(name) == len(finishTime) || string(name) == "channel_finish_time"):
				return normalize.Time
			case len(json) > 0 && slices.Contains(json, string(name)):
				return normalize.JSON
			}
			return normalize.None
		},
	}
}

var (
	amountSuffix = []byte("_amount")
	finishTime   = []byte("finish_time")
)

// reader reads one notify at a time.
type reader struct {
	writer normalize.Writer
	text   []byte              // decoded names and values that are still needed
	names  map[uint64]struct{} // the hashes of the fields' names
	values eventValues
}

// seed makes the names' hashes. Nobody knows it, so that two names of one hash are a chance of one in 2^64.
var seed = maphash.MakeSeed()

var readers = sync.Pool{New: func() any { return &reader{names: make(map[uint64]struct{})} }}

// readEvent reads a verified notify of a source: one JSON object, whose values may nest. Every error is a *parseError.
func readEvent(body []byte, rules *normalize.Rules, source string) (notifyEvent, error) {
	r := readers.Get().(*reader)
	defer func() {
		r.writer.Release(maxPooledBuffer)
		if cap(r.text) > maxPooledBuffer {
			r.text = nil
		}
		clear(r.values[:])
		clear(r.names)
		readers.Put(r)
	}()
	r.writer.Reset(rules)
	r.text = r.text[:0]
	if err := r.object(body, rules); err != nil {
		return notifyEvent{}, err
	}
	return r.event(source), nil
}

func (r *reader) object(body []byte, rules *normalize.Rules) error {
	w := &r.writer
	w.Out = append(w.Out, '{')
	var object jsontext.Object
	more, err := object.Begin(body)
	for more {
		start := len(r.text)
		var next int
		if r.text, next = jsontext.AppendText(r.text, body, object.At, false); next < 0 {
			return newParseError(reasonJSON, "broken JSON at byte %d: the name is not a valid string", object.At)
		}
		name := r.text[start:len(r.text):len(r.text)]
		hash := maphash.Bytes(seed, name)
		if _, repeated := r.names[hash]; repeated {
			return newParseError(reasonRepeated, "field %s is repeated", text.Name(name))
		}
		if len(r.names) == maxNotifyFields {
			return newParseError(reasonTooMany, "more than %d fields", maxNotifyFields)
		}
		r.names[hash] = struct{}{}
		if err := object.Value(next); err != nil {
			return newParseError(reasonJSON, "field %s: %v", text.Name(name), err)
		}
		if next = r.member(body, object.At, name, rules.Of(name)); next < 0 {
			return newParseError(reasonJSON, "field %s: the value is not valid JSON, or nested too deep", text.Name(name))
		}
		more, err = object.Next(next)
	}
	if err != nil {
		return newParseError(reasonJSON, "broken JSON at byte %d: %v", object.At, err)
	}
	w.Out = append(w.Out, '}')
	return nil
}

// member writes one member whose value is at body[i], unless it is empty or null, and returns the index behind the
// value, or -1.
func (r *reader) member(body []byte, i int, name []byte, rule normalize.Rule) int {
	w := &r.writer
	mark := len(w.Out)
	if mark > 1 {
		w.Out = append(w.Out, ',')
	}
	w.String(name)
	w.Out = append(w.Out, ':')

	number := eventField(name)
	if i == len(body) || body[i] != '"' || number < 0 {
		next := w.Value(body, i, rule, 1)
		if next < 0 {
			return -1
		}
		switch value := body[i:next]; {
		case string(value) == `""`, string(value) == "null":
			w.Out = w.Out[:mark]
		case number >= 0 && value[0] != '{' && value[0] != '[':
			r.values[number] = value
		}
		return next
	}
	// A text that makes the context is kept.
	start := len(r.text)
	var next int
	if r.text, next = jsontext.AppendText(r.text, body, i, true); next < 0 {
		return -1
	}
	if value := r.text[start:len(r.text):len(r.text)]; len(value) > 0 {
		r.values[number] = w.Text(value, rule, 1)
	} else {
		w.Out = w.Out[:mark]
	}
	return next
}

func (r *reader) event(source string) notifyEvent {
	v := &r.values
	kind := v.eventType()
	// The values are written behind the JSON, so that all is cut from one string.
	start := len(r.writer.Out)
	text := v.appendID(r.writer.Out, source, kind)
	idEnd := len(text)
	text, ok := appendRFC3339(text, v[fieldFinishTime])
	if !ok {
		text, _ = appendRFC3339(text, v[fieldChannelFinishTime])
	}
	ends := [...]int{idEnd, len(text), 0, 0, 0, 0, 0, 0}
	for i, number := range [...]int{fieldClientSN, fieldSN, fieldTotalAmount, fieldNetAmount, fieldOrderStatus, fieldTerminalSN} {
		text = append(text, v[number]...)
		ends[2+i] = len(text)
	}
	r.writer.Out = text
	all := string(text)
	event := notifyEvent{Data: all[:start], Type: kind}
	all = all[start:]
	for i, word := range [...]*string{
		&event.ID, &event.Time, &event.ClientSN, &event.SN, &event.TotalAmount, &event.NetAmount, &event.OrderStatus, &event.TerminalSN,
	} {
		*word, all = all[:ends[i]-start], all[ends[i]-start:]
		start = ends[i]
	}
	if event.Subject = event.ClientSN; event.Subject == "" {
		event.Subject = event.SN
	}
	return event
}

// appendID appends the id of the fact that the notify tells of, the same for every notify of it: the first 32 hexadecimal
// digits of SHA-256 over the lines `v1`, the source, the type, and `name=value` of those present, each ended by \n. They
// are sn, client_sn, order_status and, of a payment, total_amount; of a refund, the first present of refund_request_no and
// client_tsn, else net_amount.
func (v *eventValues) appendID(dst []byte, source, kind string) []byte {
	fact := fieldTotalAmount
	if v.isRefund() {
		switch {
		case v[fieldRefundRequestNo] != nil:
			fact = fieldRefundRequestNo
		case v[fieldClientTSN] != nil:
			fact = fieldClientTSN
		default:
			fact = fieldNetAmount
		}
	}
	start := len(dst)
	dst = append(append(dst, "v1\n"...), source...)
	dst = append(append(dst, '\n'), kind...)
	dst = append(dst, '\n')
	for _, number := range [...]int{fieldSN, fieldClientSN, fieldOrderStatus, fact} {
		if value := v[number]; value != nil {
			dst = append(append(dst, eventNames[number]...), '=')
			dst = append(append(dst, value...), '\n')
		}
	}
	sum := sha256.Sum256(dst[start:])
	return hex.AppendEncode(dst[:start], sum[:16])
}

// isRefund reports whether the notify tells of a refund: its order has been refunded, or it carries a refund's number.
func (v *eventValues) isRefund() bool {
	switch string(v[fieldOrderStatus]) {
	case "REFUNDED", "PARTIAL_REFUNDED", "REFUND_ERROR", "REFUND_INPROGRESS", "REFUND_IN_PROGRESS":
		return true
	}
	return v[fieldRefundRequestNo] != nil
}

// eventType tells what happened: order_status is the order's state, status that of the operation that the notify tells
// of. What neither says for certain is unknown: the app should query. The types are a bounded set, as a metric's label
// must be.
func (v *eventValues) eventType() string {
	order, operation := string(v[fieldOrderStatus]), string(v[fieldStatus])
	succeeded := operation == "SUCCESS" || operation == ""
	if v.isRefund() {
		switch {
		case succeeded && (order == "REFUNDED" || order == "PARTIAL_REFUNDED"):
			return "com.shouqianba.refund.succeeded"
		case operation == "FAIL_CANCELED":
			return "com.shouqianba.refund.failed"
		case operation == "IN_PROG", order == "REFUND_INPROGRESS", order == "REFUND_IN_PROGRESS":
			return "com.shouqianba.refund.processing"
		}
		return "com.shouqianba.refund.unknown"
	}
	switch {
	case order == "PAID" && succeeded:
		return "com.shouqianba.payment.succeeded"
	case order == "CREATED" && operation == "IN_PROG":
		return "com.shouqianba.payment.pending"
	case order == "CREATED" && (operation == "CREATED" || operation == ""):
		return "com.shouqianba.payment.created"
	case order == "PAY_CANCELED", order == "CANCELED":
		return "com.shouqianba.payment.closed"
	}
	return "com.shouqianba.payment.unknown"
}

// appendRFC3339 appends the platform's time, milliseconds since 1970 in 13 digits, as RFC 3339 in Beijing time.
func appendRFC3339(dst, text []byte) ([]byte, bool) {
	if len(text) != millisecondDigits || text[0] == '0' || jsontext.SkipDigits(text, 0) != len(text) {
		return dst, false
	}
	milliseconds := int64(0)
	for _, c := range text {
		milliseconds = milliseconds*10 + int64(c-'0')
	}
	layout := "2006-01-02T15:04:05.000-07:00"
	if milliseconds%1000 == 0 {
		layout = "2006-01-02T15:04:05-07:00"
	}
	return time.UnixMilli(milliseconds).In(normalize.Beijing).AppendFormat(dst, layout), true
}
