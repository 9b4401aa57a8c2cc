package chinaums

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/caddy-chinaums/caddy-chinaums/internal/jsontext"
	"github.com/caddy-chinaums/caddy-chinaums/internal/text"
)

// What a notify has at most.
const (
	// maxNotifyFields bounds the parameters of one notify; the documents' longest notify has about 50.
	maxNotifyFields = 1000
	// maxNotifyBody keeps positions in 32 bits; no max_size allows more.
	maxNotifyBody = 1 << 30
	// maxPooledBuffer is the largest buffer that is kept for the next notify.
	maxPooledBuffer = 256 << 10
)

// Reasons of a parseError.
const (
	reasonRepeated = "repeated_parameter"
	reasonEncoding = "encoding"
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

// notifyField is one parameter of a notify, decoded: where its name and value stand in notifyFields.text. The value is
// never empty.
type notifyField struct {
	nameStart, nameEnd, valueStart, valueEnd int32
	// number is that of a deciding field, or -1.
	number int8
}

// notifyFields are the parameters of one notify, in order of arrival. An empty value counts as absent and is not kept.
// They hold no reference to the body that was parsed.
type notifyFields struct {
	fields []notifyField
	known  [decidingFields]int16 // where a deciding field stands in fields, counted from 1
	// Likewise where its name stands in another spelling, if it does not stand in its own.
	respelled [decidingFields]int16
	sorted    []sortKey // in the order in which the fields are signed
	seen      []uint64  // the hashes of the other names
	folded    []byte    // a name
	text      []byte    // a copy of the body, with every name and value decoded in place: decoding never lengthens
	signed    []byte    // the string to sign and, for a moment, a key
	flaw      error     // what verify found ambiguous or mixed
	keepEmpty bool      // an empty value is a value
	writer    eventWriter
}

var notifyFieldsPool = sync.Pool{New: func() any { return new(notifyFields) }}

// acquireFields returns empty fields. The caller must release them.
func acquireFields() *notifyFields { return notifyFieldsPool.Get().(*notifyFields) }

// release gives the fields back. Neither they nor anything that get returned may be used afterwards.
func (f *notifyFields) release() {
	f.reset()
	f.text = trimBuffer(f.text)
	f.signed = trimBuffer(f.signed)
	f.keepEmpty = false
	f.writer.release()
	notifyFieldsPool.Put(f)
}

// reset forgets the fields and keeps the buffers.
func (f *notifyFields) reset() {
	f.fields = f.fields[:0]
	clear(f.known[:])
	f.sorted = f.sorted[:0]
	f.flaw = nil
	f.text = f.text[:0]
	f.signed = f.signed[:0]
}

// trimBuffer empties a buffer, and drops one that is too large to be kept.
func trimBuffer(buffer []byte) []byte {
	if cap(buffer) > maxPooledBuffer {
		return nil
	}
	return buffer[:0]
}

// parse reads a notify's body: a flat JSON object if the first byte that is not space is '{', else a form. Every error
// is a *parseError.
func (f *notifyFields) parse(body []byte) error {
	if len(body) > maxNotifyBody {
		return newParseError(reasonTooMany, "more than %d bytes", maxNotifyBody)
	}
	if first := jsontext.SkipSpace(body, 0); first < len(body) && body[first] == '{' {
		return f.parseJSON(body)
	}
	return f.parseForm(body)
}

// parseForm reads application/x-www-form-urlencoded. Pairs end at a bare '&' only: a ';' is part of a value.
func (f *notifyFields) parseForm(body []byte) error {
	f.reset()
	f.text = append(f.text, body...)
	// The next percent sign and plus at or after the current pair: a pair before both needs no decoding.
	percent, plus := -1, -1
	for start, next := 0, 0; start < len(body); start = next {
		end := indexByteFrom(body, '&', start)
		next = end + 1
		if end == start {
			continue
		}
		if percent < start {
			percent = indexByteFrom(body, '%', start)
		}
		if plus < start {
			plus = indexByteFrom(body, '+', start)
		}
		equals, valueStart := end, end
		if cut := bytes.IndexByte(body[start:end], '='); cut >= 0 {
			equals, valueStart = start+cut, start+cut+1
		}
		nameEnd, valueEnd := equals, end
		if escape := min(percent, plus); escape < end {
			if escape < equals {
				nameEnd = f.decodeForm(body, start, equals)
			}
			if nameEnd < 0 {
				return newParseError(reasonEncoding, "parameter name %s: broken percent-encoding", text.Name(body[start:equals]))
			}
			if valueEnd = f.decodeForm(body, valueStart, end); valueEnd < 0 {
				return newParseError(reasonEncoding, "parameter %s: broken percent-encoding", text.Name(f.text[start:nameEnd]))
			}
		}
		if valueEnd == valueStart && !f.keepEmpty {
			continue
		}
		if err := f.add(start, nameEnd, valueStart, valueEnd); err != nil {
			return err
		}
	}
	return f.sort()
}

func (f *notifyFields) name(field *notifyField) []byte {
	return f.text[field.nameStart:field.nameEnd:field.nameEnd]
}

func (f *notifyFields) value(field *notifyField) []byte {
	return f.text[field.valueStart:field.valueEnd:field.valueEnd]
}

// indexByteFrom returns the index of the first c at or after start, or the length of text.
func indexByteFrom(text []byte, c byte, start int) int {
	if i := bytes.IndexByte(text[start:], c); i >= 0 {
		return start + i
	}
	return len(text)
}

// decodeForm decodes the percent-encoding and plus signs of body[start:end] into f.text at the same place. It returns
// where the decoded text ends, or -1.
func (f *notifyFields) decodeForm(body []byte, start, end int) int {
	text := f.text
	n := start
	for i := start; i < end; i++ {
		c := body[i]
		switch c {
		case '+':
			c = ' '
		case '%':
			if i+2 >= end {
				return -1
			}
			high, low := hexValues[body[i+1]], hexValues[body[i+2]]
			if high|low > 15 {
				return -1
			}
			c = high<<4 | low
			i += 2
		}
		text[n] = c
		n++
	}
	return n
}

// hexValues holds the value of every hexadecimal digit, and 255 for any other byte.
var hexValues = func() (values [256]byte) {
	for i := range values {
		values[i] = 255
	}
	for i, c := range []byte("0123456789abcdef") {
		values[c] = byte(i)
	}
	for i, c := range []byte("ABCDEF") {
		values[c] = byte(10 + i)
	}
	return values
}()

// parseJSON reads one flat JSON object. A number or boolean is its literal text; null counts as empty.
func (f *notifyFields) parseJSON(body []byte) error {
	f.reset()
	f.text = append(f.text, body...)
	var object jsontext.Object
	more, err := object.Begin(body)
	for more {
		nameStart := object.At + 1
		nameEnd, next := f.decodeJSON(body, object.At)
		if next < 0 {
			return newParseError(reasonJSON, "broken JSON at byte %d: the name is not a valid string", object.At)
		}
		name := f.text[nameStart:nameEnd]
		if err := object.Value(next); err != nil {
			return newParseError(reasonJSON, "field %s: %v", text.Name(name), err)
		}
		i := object.At
		if i == len(body) {
			return newParseError(reasonJSON, "field %s: the value is missing", text.Name(name))
		}
		valueStart, valueEnd := i+1, i+1
		switch body[i] {
		case '"':
			valueEnd, next = f.decodeJSON(body, i)
		case '{', '[':
			return newParseError(reasonJSON, "field %s: nested JSON; a notify is one flat object", text.Name(name))
		case 'n':
			next = jsontext.SkipLiteral(body, i)
		default:
			next = jsontext.SkipLiteral(body, i)
			valueStart, valueEnd = i, next
		}
		if next < 0 {
			return newParseError(reasonJSON, "field %s: the value is not valid JSON", text.Name(name))
		}
		if valueEnd > valueStart || f.keepEmpty {
			if err := f.add(nameStart, nameEnd, valueStart, valueEnd); err != nil {
				return err
			}
		}
		more, err = object.Next(next)
	}
	if err != nil {
		return newParseError(reasonJSON, "broken JSON at byte %d: %v", object.At, err)
	}
	return f.sort()
}

// decodeJSON decodes the string at body[i], where its opening quote is, into f.text at the same place. It returns where
// the decoded text ends, and the index behind the string, or -1.
func (f *notifyFields) decodeJSON(body []byte, i int) (end, next int) {
	end = jsontext.SkipPlain(body, i+1)
	if end < len(body) && body[end] == '"' {
		return end, end + 1
	}
	decoded, next := jsontext.AppendText(f.text[:i+1], body, i, false)
	return len(decoded), next
}

func (f *notifyFields) add(nameStart, nameEnd, valueStart, valueEnd int) error {
	if len(f.fields) == maxNotifyFields {
		return newParseError(reasonTooMany, "more than %d parameters", maxNotifyFields)
	}
	number := fieldNumber(f.text[nameStart:nameEnd])
	f.fields = append(f.fields, notifyField{int32(nameStart), int32(nameEnd), int32(valueStart), int32(valueEnd), int8(number)})
	if number >= 0 {
		f.known[number] = int16(len(f.fields))
	}
	return nil
}

// sortKey places a field in the signed order: the beginning of its name, so that most comparisons do not touch the
// name, and in the low bits its index.
type sortKey uint64

const (
	sortIndexBits = 10 // enough for maxNotifyFields
	sortIndexMask = 1<<sortIndexBits - 1
)

// sort orders the fields by the raw bytes of their names, as they are signed, and finds a repeated name.
func (f *notifyFields) sort() error {
	sorted := slices.Grow(f.sorted[:0], len(f.fields))
	for i := range f.fields {
		sorted = append(sorted, newSortKey(f.name(&f.fields[i]), i))
	}
	slices.Sort(sorted)
	f.sorted = sorted

	// Whole names decide among those that begin alike.
	for start := 0; start < len(sorted); {
		end := start + 1
		for end < len(sorted) && sorted[start]&^sortIndexMask == sorted[end]&^sortIndexMask {
			end++
		}
		if alike := sorted[start:end]; len(alike) > 1 {
			slices.SortFunc(alike, func(a, b sortKey) int { return bytes.Compare(f.name(f.at(a)), f.name(f.at(b))) })
			for i := 1; i < len(alike); i++ {
				if name := f.name(f.at(alike[i])); bytes.Equal(name, f.name(f.at(alike[i-1]))) {
					return newParseError(reasonRepeated, "parameter %s is repeated", text.Name(name))
				}
			}
		}
		start = end
	}
	return nil
}

func (f *notifyFields) at(key sortKey) *notifyField { return &f.fields[key&sortIndexMask] }

// newSortKey takes as much of the name's first eight bytes, filled up with zeros, as leaves room for the index. Such
// numbers order as the names do, or are alike.
func newSortKey(name []byte, index int) sortKey {
	var prefix uint64
	if len(name) >= 8 {
		prefix = binary.BigEndian.Uint64(name)
	} else {
		for _, c := range name {
			prefix = prefix<<8 | uint64(c)
		}
		prefix <<= 8 * (8 - len(name))
	}
	return sortKey(prefix&^sortIndexMask | uint64(index))
}

// get returns the value of a parameter; the bytes are valid until release.
func (f *notifyFields) get(name string) ([]byte, bool) {
	if number := fieldNumber([]byte(name)); number >= 0 {
		return f.getKnown(number)
	}
	for i := range f.fields {
		if field := &f.fields[i]; string(f.name(field)) == name {
			return f.value(field), true
		}
	}
	return nil, false
}

// getKnown is get for a name that means something here.
func (f *notifyFields) getKnown(number int) ([]byte, bool) {
	if f.known[number] == 0 {
		return nil, false
	}
	return f.value(&f.fields[f.known[number]-1]), true
}

// appendStringToSign appends what the digest covers, without the key: all parameters but sign, sorted, name=value
// joined with '&', values as decoded.
func (f *notifyFields) appendStringToSign(dst []byte) []byte {
	dst = slices.Grow(dst, len(f.text)+len(f.fields)) // a JSON literal has no quotes whose place could be taken by '=' and '&'
	start := len(dst)
	for _, key := range f.sorted {
		field := f.at(key)
		if field.number == fieldSign {
			continue
		}
		if len(dst) > start {
			dst = append(dst, '&')
		}
		dst = append(dst, f.name(field)...)
		dst = append(dst, '=')
		dst = append(dst, f.value(field)...)
	}
	return dst
}

// Reasons why a notify is false although its digest is right.
const (
	reasonAmbiguous = "ambiguous"
	reasonMixed     = "mixed"
)

// verify says why the notify is false, or "" if it is true. Any one of the keys may verify it. Of a notify that is
// ambiguous or mixed the signature is right, and flaw says what is wrong with it.
func (f *notifyFields) verify(keys [][]byte, accept digestSet) string {
	sign, ok := f.getKnown(fieldSign)
	if !ok {
		return reasonMissingSignature
	}
	signType, _ := f.getKnown(fieldSignType)
	want, reason := parseDigest(sign, signType, accept)
	if reason != "" {
		return reason
	}
	var valid bool
	if f.signed, valid = want.verifies(f.appendStringToSign(f.signed[:0]), keys); !valid {
		return reasonSignature
	}
	if f.flaw = f.ambiguous(f.signed); f.flaw != nil {
		return reasonAmbiguous
	}
	if f.flaw = f.mixed(); f.flaw != nil {
		return reasonMixed
	}
	return ""
}

// ambiguous says why the signed string could have been cut in another way that decides otherwise, or be read in
// another, or returns nil. The signature is known to be right, so that sign and signType hold nothing but a digest and
// its name.
func (f *notifyFields) ambiguous(signed []byte) error {
	if err := f.ambiguousNames(); err != nil {
		return err
	}
	pairs := len(f.fields) - 1 // all but sign
	// No name holds an '&'; with one between every two pairs, neither does any value.
	if bytes.Count(signed, ampersand) == max(pairs-1, 0) {
		return nil
	}
	for i := range f.fields {
		field := &f.fields[i]
		for name, rest := nextPair(f.value(field)); name != nil; name, rest = nextPair(rest) {
			number := f.foldedNumber(name)
			switch {
			case number >= 0:
				return fmt.Errorf("a value holds %s as a pair", fieldTable[number].name)
			case field.number >= 0:
				return fmt.Errorf("the value of %s holds a pair", fieldTable[field.number].name)
			}
		}
	}
	return nil
}

var ampersand = []byte{'&'}

// errNameNotPlain is what is wrong with a name of which the signed string does not say where it ends, or which is not
// the same to every reader.
var errNameNotPlain = errors.New("a parameter name is empty, holds & or =, or is not UTF-8")

// ambiguousNames says why the names could be read in another way, or returns nil. Many a JSON reader takes two names for
// one that differ in letter case only, and the last one wins. fastjson also takes `sta_tus` and `sta-tus` for `status`.
func (f *notifyFields) ambiguousNames() error {
	f.seen = f.seen[:0]
	clear(f.respelled[:])
	for i := range f.fields {
		if f.fields[i].number >= 0 {
			continue // a deciding name, of which no two are one
		}
		name := f.fold(f.name(&f.fields[i]))
		if len(name) == 0 {
			return errNameNotPlain
		}
		f.seen = append(f.seen, maphash.Bytes(seed, name))
		if number := numberOfFolded(name); number >= 0 {
			if f.known[number] != 0 || f.respelled[number] != 0 {
				return fmt.Errorf("%s is there in two spellings", fieldTable[number].name)
			}
			f.respelled[number] = int16(i + 1)
		}
	}
	slices.Sort(f.seen)
	if len(slices.Compact(f.seen)) < len(f.seen) {
		return errors.New("two parameter names differ in letter case only")
	}
	return nil
}

// seed makes the names' hashes. Nobody knows it, so that two names of one hash are a chance of one in 2^64.
var seed = maphash.MakeSeed()

// fold returns a name with its letter case folded as Unicode does it, rune by rune: names that are one have one such text.
// It is empty for a name that is empty, holds '&' or '=', or is not UTF-8, and valid until the next call.
func (f *notifyFields) fold(name []byte) []byte {
	f.folded = append(f.folded[:0], name...)
	for i, c := range name {
		if c >= utf8.RuneSelf {
			return f.foldRunes(name)
		}
		if c == '&' || c == '=' {
			return nil
		}
		f.folded[i] = lowerASCII(c)
	}
	return f.folded
}

// foldRunes is fold for a name that is not all ASCII.
func (f *notifyFields) foldRunes(name []byte) []byte {
	if bytes.ContainsAny(name, "&=") || !utf8.Valid(name) {
		return nil
	}
	f.folded = f.folded[:0]
	for len(name) > 0 {
		r, size := utf8.DecodeRune(name)
		name = name[size:]
		least := r
		for next := unicode.SimpleFold(r); next != r; next = unicode.SimpleFold(next) {
			least = min(least, next)
		}
		if least < utf8.RuneSelf {
			least = rune(lowerASCII(byte(least)))
		}
		f.folded = utf8.AppendRune(f.folded, least)
	}
	return f.folded
}

// foldedNumber is fieldNumber for a name in any letter case, with joints or without.
func (f *notifyFields) foldedNumber(name []byte) int {
	return numberOfFolded(f.fold(name))
}

// nextPair returns the name of the first pair that stands in value behind an '&', and what comes after that name: what
// the signed string can be cut into. The name is nil if there is none.
func nextPair(value []byte) (name, rest []byte) {
	start := bytes.IndexByte(value, '&') + 1
	if start == 0 {
		return nil, nil
	}
	for i := start; i < len(value); i++ {
		switch value[i] {
		case '&':
			start = i + 1
		case '=':
			return value[start:i:i], value[i:]
		}
	}
	return nil, nil
}

// hidden returns the name of a deciding field that no answer of the platform can settle, or "". Such a field is missing
// because another one's value holds it as a pair; or its own value holds a pair, and no answer has the field.
func (f *notifyFields) hidden() string {
	for i := range f.fields {
		field := &f.fields[i]
		for name, rest := nextPair(f.value(field)); name != nil; name, rest = nextPair(rest) {
			switch number := f.foldedNumber(name); {
			case number >= 0 && number != fieldSign && number != fieldSignType && f.known[number] == 0: // the signature has settled those two
				return fieldTable[number].name
			case number == fieldInstMid || number == fieldNotifyID || number == fieldCreateTime:
				return fieldTable[number].name
			case field.number == fieldInstMid || field.number == fieldNotifyID || field.number == fieldCreateTime:
				return fieldTable[field.number].name
			}
		}
	}
	return ""
}

// word returns the value of a deciding field, however its name is spelled.
func (f *notifyFields) word(number int) ([]byte, bool) {
	at := max(f.known[number], f.respelled[number])
	if at == 0 {
		return nil, false
	}
	return f.value(&f.fields[at-1]), true
}

// mixed says which fields no genuine notify has together, or returns nil. Such fields come from a text that somebody has
// cut into parameters.
func (f *notifyFields) mixed() error {
	status, hasStatus := f.word(fieldStatus)
	_, hasOrder := f.word(fieldMerOrderID)
	if hasStatus || hasOrder {
		for number, known := range fieldTable[:decidingFields] {
			if known.of != ofBill {
				continue
			}
			if _, ok := f.word(number); ok {
				return fmt.Errorf("%s beside an order", known.name)
			}
		}
	}
	secure, _ := f.word(fieldSecureStatus)
	switch typeWord(secure) { // as the event's type has it: a cut text may have other letters
	case "partly_completed", "all_completed":
		if hasStatus && string(orderState(status)) != orderPaid && string(status) != "TRADE_REFUND" {
			return errors.New("a completed guarantee of an order that is not paid")
		}
	}
	switch string(status) {
	case "NEW_ORDER", "WAIT_BUYER_PAY":
		for number, known := range fieldTable[:decidingFields] {
			if value, ok := f.word(number); ok && known.of == ofRefund && (number != fieldRefundAmount || string(value) != "0") {
				return fmt.Errorf("%s beside an order that is not paid", known.name)
			}
		}
	}
	return nil
}
