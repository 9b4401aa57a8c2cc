package chinaums

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math/bits"
	"slices"
	"unicode/utf8"

	"golang.org/x/text/encoding/simplifiedchinese"
)

// notifyEvent is a verified notify as the merchant's app gets it.
type notifyEvent struct {
	// Data is the normalized JSON object. It belongs to the caller.
	Data []byte

	// ID, Type, Subject and Time are CloudEvents context attributes, not yet encoded for a header. Time is RFC 3339,
	// or empty.
	ID, Type, Subject, Time string

	// MerOrderID, TotalAmount and Status are the notify's own words, or empty.
	MerOrderID, TotalAmount, Status string

	// Confirmed is "true" or "superseded" if the platform was asked, else empty.
	Confirmed string
}

// jsonNameSet holds the names of fields whose text is JSON. It does not change once made.
type jsonNameSet struct {
	names   []string
	lengths uint64 // bit n: there is a name of n bytes; bit 63: of 63 or more
}

// newJSONNames returns the four names of the documents and the extra ones.
func newJSONNames(extra []string) *jsonNameSet {
	set := &jsonNameSet{names: append([]string{"billPayment", "goods", "subOrders", "refundSubOrders"}, extra...)}
	for _, name := range set.names {
		set.lengths |= 1 << min(len(name), 63)
	}
	return set
}

func (set *jsonNameSet) has(name []byte) bool {
	if set.lengths>>min(len(name), 63)&1 == 0 {
		return false
	}
	for _, known := range set.names {
		if string(name) == known {
			return true
		}
	}
	return false
}

var defaultJSONNames = newJSONNames(nil)

// The fields that make an event's context. Those before eventIDFields make the id of a notify that has none, in this
// order.
const (
	fieldMid = iota
	fieldInstMid
	fieldMerOrderID
	fieldBillNo
	fieldBillDate
	fieldSeqID
	fieldTargetOrderID
	fieldStatus
	fieldBillStatus
	fieldRefundStatus
	fieldSecureStatus
	fieldTotalAmount
	fieldCompleteAmount
	fieldRefundOrderID
	fieldRefundExtOrderID
	fieldRefundTargetOrderID
	fieldRefundAmount
	fieldRefundPayTime
	fieldContractID
	eventIDFields

	fieldNotifyID = iota - 1
	fieldPayTime
	fieldCreateTime
	eventFields

	fieldSign     = eventFields
	fieldSignType = eventFields + 1
	knownFields   = eventFields + 2
)

var eventIDNames = [eventIDFields]string{
	"mid", "instMid", "merOrderId", "billNo", "billDate", "seqId", "targetOrderId", "status", "billStatus", "refundStatus",
	"secureStatus", "totalAmount", "completeAmount", "refundOrderId", "refundExtOrderId", "refundTargetOrderId",
	"refundAmount", "refundPayTime", "contractId",
}

// fieldNumber returns the number of a field that makes the context or the signature, or -1.
func fieldNumber(name []byte) int {
	switch string(name) {
	case "mid":
		return fieldMid
	case "instMid":
		return fieldInstMid
	case "merOrderId":
		return fieldMerOrderID
	case "billNo":
		return fieldBillNo
	case "billDate":
		return fieldBillDate
	case "seqId":
		return fieldSeqID
	case "targetOrderId":
		return fieldTargetOrderID
	case "status":
		return fieldStatus
	case "billStatus":
		return fieldBillStatus
	case "refundStatus":
		return fieldRefundStatus
	case "secureStatus":
		return fieldSecureStatus
	case "totalAmount":
		return fieldTotalAmount
	case "completeAmount":
		return fieldCompleteAmount
	case "refundOrderId":
		return fieldRefundOrderID
	case "refundExtOrderId":
		return fieldRefundExtOrderID
	case "refundTargetOrderId":
		return fieldRefundTargetOrderID
	case "refundAmount":
		return fieldRefundAmount
	case "refundPayTime":
		return fieldRefundPayTime
	case "contractId":
		return fieldContractID
	case "notifyId":
		return fieldNotifyID
	case "payTime":
		return fieldPayTime
	case "createTime":
		return fieldCreateTime
	case "sign":
		return fieldSign
	case "signType":
		return fieldSignType
	}
	return -1
}

// eventValues are the fields that make the context, in UTF-8; nil where absent.
type eventValues [eventFields][]byte

// event normalizes verified fields.
func (f *notifyFields) event(names *jsonNameSet) notifyEvent {
	if names == nil {
		names = defaultJSONNames
	}
	w := &f.writer
	w.reset(names)
	var values eventValues
	w.out = append(w.out, '{')
	for i := range f.fields {
		field := &f.fields[i]
		if field.number == fieldSign {
			continue
		}
		if len(w.out) > 1 {
			w.out = append(w.out, ',')
		}
		name, value := w.string(f.name(field)), f.value(field)
		w.out = append(w.out, ':')
		if field.literal {
			w.out = append(w.out, value...)
		} else {
			rule := w.rule(name)
			w.inBillPayment = rule == ruleJSON && string(name) == "billPayment"
			value = w.text(value, rule, 1)
		}
		if number := field.number; number >= 0 && number < eventFields {
			values[number] = value
		}
	}
	w.inBillPayment = false
	w.out = append(w.out, '}')

	event := notifyEvent{Data: bytes.Clone(w.out), Type: values.eventType()}

	// All attributes are cut from one string.
	text := w.scratch[:0]
	text = values.appendID(text)
	idEnd := len(text)
	text, _ = appendRFC3339(text, values.time(w.billPayTime[:]))
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
	w.scratch = text
	all := string(text)
	event.ID = all[:idEnd]
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

// eventType returns the first type that applies.
func (v *eventValues) eventType() string {
	switch {
	case v.isBill():
		return billType(v[fieldBillStatus])
	case v.isRefund():
		switch string(v[fieldRefundStatus]) {
		case "SUCCESS":
			return "com.chinaums.refund.succeeded"
		case "FAIL":
			return "com.chinaums.refund.failed"
		case "PROCESSING":
			return "com.chinaums.refund.processing"
		case "":
			if v[fieldRefundPayTime] != nil {
				return "com.chinaums.refund.succeeded"
			}
		}
		return "com.chinaums.refund.unknown"
	case v[fieldSecureStatus] != nil:
		return guaranteeType(v[fieldSecureStatus])
	case v[fieldContractID] != nil:
		switch string(v[fieldStatus]) {
		case "NEW_ORDER":
			return "com.chinaums.deduction.created"
		case "WAIT_BUYER_PAY":
			return "com.chinaums.deduction.pending"
		case "TRADE_SUCCESS", "SUCCESS", "success":
			return "com.chinaums.deduction.succeeded"
		case "TRADE_CLOSED":
			return "com.chinaums.deduction.closed"
		}
		return "com.chinaums.deduction.unknown"
	}
	switch string(v[fieldStatus]) {
	case "NEW_ORDER":
		return "com.chinaums.payment.created"
	case "WAIT_BUYER_PAY":
		return "com.chinaums.payment.pending"
	case "TRADE_SUCCESS", "SUCCESS", "success":
		return "com.chinaums.payment.succeeded"
	case "TRADE_CLOSED":
		return "com.chinaums.payment.closed"
	}
	return "com.chinaums.payment.unknown"
}

func billType(status []byte) string {
	switch string(status) {
	case "PAID":
		return "com.chinaums.bill.paid"
	case "UNPAID":
		return "com.chinaums.bill.unpaid"
	case "REFUND":
		return "com.chinaums.bill.refund"
	case "CLOSED":
		return "com.chinaums.bill.closed"
	}
	return "com.chinaums.bill." + typeWord(status)
}

func guaranteeType(status []byte) string {
	switch string(status) {
	case "UNCOMPLETED":
		return "com.chinaums.guarantee.uncompleted"
	case "PARTLY_COMPLETED":
		return "com.chinaums.guarantee.partly_completed"
	case "ALL_COMPLETED":
		return "com.chinaums.guarantee.all_completed"
	case "CANCELED":
		return "com.chinaums.guarantee.canceled"
	}
	return "com.chinaums.guarantee." + typeWord(status)
}

// maxTypeWord bounds a platform's word that becomes part of a type.
const maxTypeWord = 32

// typeWord returns a platform's word in small letters, or "unknown" for what cannot be part of a type.
func typeWord(word []byte) string {
	if len(word) > maxTypeWord {
		return "unknown"
	}
	var lower [maxTypeWord]byte
	for i, c := range word {
		c = lowerASCII(c)
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '_' || c == '-') {
			return "unknown"
		}
		lower[i] = c
	}
	return string(lower[:len(word)])
}

// appendID appends the notifyId, or what stands for it where the platform sends none: the first 32 hexadecimal
// digits of SHA-256 over the fields that tell one state of one order from another.
func (v *eventValues) appendID(dst []byte) []byte {
	if v[fieldNotifyID] != nil {
		return append(dst, v[fieldNotifyID]...)
	}
	start := len(dst)
	for number, name := range eventIDNames {
		value := v[number]
		if value == nil {
			continue
		}
		dst = append(append(dst, name...), '=')
		if number == fieldStatus && (string(value) == "SUCCESS" || string(value) == "success") {
			dst = append(dst, "TRADE_SUCCESS"...)
		} else {
			dst = append(dst, value...)
		}
		dst = append(dst, '\n')
	}
	sum := sha256.Sum256(dst[start:])
	return hex.AppendEncode(dst[:start], sum[:16])
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

// fieldRule is what a field's name says about its value.
type fieldRule uint8

const (
	ruleNone fieldRule = iota
	ruleAmount
	ruleTime
	ruleJSON
)

const (
	// maxEventDepth is how deep a field's text may nest to become JSON, its own top level counted as 1.
	maxEventDepth = 32
	// maxAmountDigits keeps amounts exact in every JSON reader, doubles included.
	maxAmountDigits = 15
	// platformTime is how long the platform's yyyy-MM-dd HH:mm:ss is.
	platformTime = len("2006-01-02 15:04:05")
)

// eventWriter writes the normalized JSON. It re-writes nested JSON as it reads it: order, duplicate names and number
// literals stay.
type eventWriter struct {
	names   *jsonNameSet
	out     []byte
	scratch []byte // a stack of decoded texts

	inBillPayment bool
	// billPayTime is the payTime of billPayment's first level as it came; zeros if there is none of that length.
	billPayTime [platformTime]byte
}

func (w *eventWriter) reset(names *jsonNameSet) {
	w.names = names
	w.out = w.out[:0]
	w.scratch = w.scratch[:0]
	w.inBillPayment = false
	clear(w.billPayTime[:])
}

func (w *eventWriter) release() {
	w.reset(nil)
	w.out = trimBuffer(w.out)
	w.scratch = trimBuffer(w.scratch)
}

func (w *eventWriter) rule(name []byte) fieldRule {
	if len(name) > 0 {
		switch name[len(name)-1] {
		case 't':
			if bytes.HasSuffix(name, amountSuffix) {
				return ruleAmount
			}
		case 'e':
			if bytes.HasSuffix(name, contributeSuffix) {
				return ruleAmount
			}
			switch string(name) {
			case "payTime", "createTime", "refundPayTime", "contractSignedTime", "contractExpiredTime":
				return ruleTime
			}
		}
	}
	if w.names.has(name) {
		return ruleJSON
	}
	return ruleNone
}

var (
	amountSuffix     = []byte("Amount")
	contributeSuffix = []byte("Contribute")
)

// text writes a field's text by the rule of the field's name, and returns the text in UTF-8. depth is that of an
// object or array in its place.
func (w *eventWriter) text(text []byte, rule fieldRule, depth int) []byte {
	switch rule {
	case ruleAmount:
		if isAmount(text) {
			w.out = append(w.out, text...)
			return text
		}
	case ruleTime:
		mark := len(w.out)
		var ok bool
		w.out = append(w.out, '"')
		if w.out, ok = appendRFC3339(w.out, text); ok {
			w.out = append(w.out, '"')
			return text
		}
		w.out = w.out[:mark]
	case ruleJSON:
		text = toUTF8(text)
		if w.nested(text, depth) {
			return text
		}
	}
	return w.string(text)
}

// nested writes text as JSON if it is a JSON object or array that fits, and reports whether it is.
func (w *eventWriter) nested(text []byte, depth int) bool {
	start := skipJSONSpace(text, 0)
	if start == len(text) || text[start] != '{' && text[start] != '[' {
		return false
	}
	mark := len(w.out)
	end := w.value(text, start, ruleNone, depth)
	if end < 0 || skipJSONSpace(text, end) != len(text) {
		w.out = w.out[:mark]
		if depth == 1 {
			clear(w.billPayTime[:])
		}
		return false
	}
	return true
}

// value re-writes the JSON value at text[i] and returns the index behind it, or -1 if it is not valid JSON or too deep.
// depth is that of the value if it is an object or array.
func (w *eventWriter) value(text []byte, i int, rule fieldRule, depth int) int {
	if i == len(text) {
		return -1
	}
	switch text[i] {
	case '"':
		mark := len(w.scratch)
		var next int
		if w.scratch, next = appendJSONText(w.scratch, text, i, true); next >= 0 {
			w.text(w.scratch[mark:], rule, depth)
		}
		w.scratch = w.scratch[:mark]
		return next
	case '{':
		return w.object(text, i, depth)
	case '[':
		return w.array(text, i, depth)
	}
	next := scanJSONLiteral(text, i)
	if next >= 0 {
		w.out = append(w.out, text[i:next]...)
	}
	return next
}

func (w *eventWriter) object(text []byte, i, depth int) int {
	if depth > maxEventDepth {
		return -1
	}
	w.out = append(w.out, '{')
	first := len(w.out)
	i = skipJSONSpace(text, i+1)
	if i < len(text) && text[i] == '}' {
		w.out = append(w.out, '}')
		return i + 1
	}
	for {
		if i == len(text) || text[i] != '"' {
			return -1
		}
		member := len(w.out)
		if member > first {
			w.out = append(w.out, ',')
		}
		mark := len(w.scratch)
		var next int
		if w.scratch, next = appendJSONText(w.scratch, text, i, true); next < 0 {
			w.scratch = w.scratch[:mark]
			return -1
		}
		name := w.scratch[mark:]
		w.string(name)
		w.out = append(w.out, ':')
		rule := w.rule(name)
		payTime := depth == 1 && w.inBillPayment && string(name) == "payTime"
		w.scratch = w.scratch[:mark]

		i = skipJSONSpace(text, next)
		if i == len(text) || text[i] != ':' {
			return -1
		}
		i = skipJSONSpace(text, i+1)
		if next = w.value(text, i, rule, depth+1); next < 0 {
			return -1
		}
		switch {
		case next == i+2 && text[i] == '"': // empty text
			w.out = w.out[:member]
		case payTime:
			w.keepBillPayTime(text[i:next])
		}
		i = skipJSONSpace(text, next)
		if i == len(text) {
			return -1
		}
		switch text[i] {
		case ',':
			i = skipJSONSpace(text, i+1)
		case '}':
			w.out = append(w.out, '}')
			return i + 1
		default:
			return -1
		}
	}
}

// keepBillPayTime keeps the valid JSON value of a bill payment's payTime. Of several members the last one counts, as
// in most JSON readers.
func (w *eventWriter) keepBillPayTime(value []byte) {
	clear(w.billPayTime[:])
	if value[0] != '"' {
		return
	}
	mark := len(w.scratch)
	w.scratch, _ = appendJSONText(w.scratch, value, 0, true)
	if text := w.scratch[mark:]; len(text) == platformTime {
		copy(w.billPayTime[:], text)
	}
	w.scratch = w.scratch[:mark]
}

func (w *eventWriter) array(text []byte, i, depth int) int {
	if depth > maxEventDepth {
		return -1
	}
	w.out = append(w.out, '[')
	i = skipJSONSpace(text, i+1)
	if i < len(text) && text[i] == ']' {
		w.out = append(w.out, ']')
		return i + 1
	}
	for {
		next := w.value(text, i, ruleNone, depth+1)
		if next < 0 {
			return -1
		}
		i = skipJSONSpace(text, next)
		if i == len(text) {
			return -1
		}
		w.out = append(w.out, text[i])
		switch text[i] {
		case ',':
			i = skipJSONSpace(text, i+1)
		case ']':
			return i + 1
		default:
			return -1
		}
	}
}

const hexDigits = "0123456789abcdef"

// string writes text as a JSON string, and returns it in UTF-8.
func (w *eventWriter) string(text []byte) []byte {
	i := plainRun(text, 0)
	if i == len(text) {
		start := len(w.out)
		w.out = slices.Grow(w.out, len(text)+2)[:start+len(text)+2]
		quoted := w.out[start:]
		quoted[0] = '"'
		copy(quoted[1:], text)
		quoted[len(quoted)-1] = '"'
		return text
	}
	mark := len(w.out)
	w.out = append(w.out, '"')
	start := 0
	for ; i < len(text); i = plainRun(text, i) {
		c := text[i]
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRune(text[i:])
			if r == utf8.RuneError && size == 1 {
				w.out = w.out[:mark]
				return w.string(toUTF8(text))
			}
			// JavaScript's older readers take these two for the end of a line.
			if r == '\u2028' || r == '\u2029' {
				w.out = append(w.out, text[start:i]...)
				w.out = append(w.out, `\u202`...)
				w.out = append(w.out, hexDigits[r&0xF])
				start = i + size
			}
			i += size
			continue
		}
		w.out = append(w.out, text[start:i]...)
		switch c {
		case '"', '\\':
			w.out = append(w.out, '\\', c)
		case '\n':
			w.out = append(w.out, '\\', 'n')
		case '\r':
			w.out = append(w.out, '\\', 'r')
		case '\t':
			w.out = append(w.out, '\\', 't')
		default:
			w.out = append(w.out, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&0xF])
		}
		i++
		start = i
	}
	w.out = append(w.out, text[start:]...)
	w.out = append(w.out, '"')
	return text
}

// plainRun returns the index of the first byte at or after i that is not plain in a JSON string: that is no ASCII, or
// must be escaped.
func plainRun(text []byte, i int) int {
	for ; len(text)-i >= 8; i += 8 {
		if marked := markSpecial(binary.LittleEndian.Uint64(text[i:])); marked != 0 {
			return i + bits.TrailingZeros64(marked)/8
		}
	}
	rest := len(text) - i
	if rest == 0 {
		return i
	}
	if len(text) >= 8 {
		// The last bytes, with zeros behind them, which are special.
		word := binary.LittleEndian.Uint64(text[len(text)-8:]) >> (8 * (8 - rest))
		return i + bits.TrailingZeros64(markSpecial(word))/8
	}
	for i < len(text) && text[i] >= ' ' && text[i] < utf8.RuneSelf && text[i] != '"' && text[i] != '\\' {
		i++
	}
	return i
}

// markSpecial sets the high bit of the lowest byte that is not plain in a JSON string, and perhaps bits above it: a
// borrow marks wrongly only above a byte that is marked rightly.
func markSpecial(word uint64) uint64 {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	quotes, backslashes := word^('"'*ones), word^('\\'*ones)
	return (word | (word - ' '*ones) | (quotes - ones) | (backslashes - ones)) & highs
}

// toUTF8 returns text as it is if it is valid UTF-8, else read as GB18030, with U+FFFD for what is neither.
func toUTF8(text []byte) []byte {
	if utf8.Valid(text) {
		return text
	}
	converted, err := simplifiedchinese.GB18030.NewDecoder().Bytes(text)
	if err != nil || !utf8.Valid(converted) {
		return bytes.ToValidUTF8(text, []byte(string(utf8.RuneError)))
	}
	return converted
}

// isAmount reports whether text is a plain decimal integer: in fen, exact in every JSON reader.
func isAmount(text []byte) bool {
	if len(text) == 0 || len(text) > maxAmountDigits || text[0] == '0' && len(text) > 1 {
		return false
	}
	return skipDigits(text, 0) == len(text)
}

// appendRFC3339 appends the platform's yyyy-MM-dd HH:mm:ss, Beijing time, as RFC 3339, if it is a date that exists.
func appendRFC3339(dst, text []byte) ([]byte, bool) {
	if len(text) != platformTime ||
		text[4] != '-' || text[7] != '-' || text[10] != ' ' || text[13] != ':' || text[16] != ':' {
		return dst, false
	}
	year, month, day := twoDigits(text[0:])*100+twoDigits(text[2:]), twoDigits(text[5:]), twoDigits(text[8:])
	hour, minute, second := twoDigits(text[11:]), twoDigits(text[14:]), twoDigits(text[17:])
	if twoDigits(text[0:]) < 0 || twoDigits(text[2:]) < 0 || month < 1 || month > 12 || day < 1 || day > daysIn(year, month) ||
		hour < 0 || hour > 23 || minute < 0 || minute > 59 || second < 0 || second > 59 {
		return dst, false
	}
	dst = append(dst, text[:10]...)
	dst = append(dst, 'T')
	dst = append(dst, text[11:]...)
	return append(dst, "+08:00"...), true
}

// twoDigits returns the number of the first two bytes, or -1.
func twoDigits(text []byte) int {
	high, low := text[0]-'0', text[1]-'0'
	if high > 9 || low > 9 {
		return -1
	}
	return int(high)*10 + int(low)
}

func daysIn(year, month int) int {
	switch month {
	case 2:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	case 4, 6, 9, 11:
		return 30
	}
	return 31
}
