// Package normalize writes the JSON that a merchant's app gets. Amounts become integers in fen, times RFC 3339, and texts
// that contain JSON become that JSON. Everything else stays as it is, in UTF-8. Each platform decides by a field's name
// which of these it is.
package normalize

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"slices"
	"time"
	"unicode/utf8"

	"golang.org/x/text/encoding/simplifiedchinese"

	"github.com/caddy-chinaums/caddy-chinaums/internal/jsontext"
)

// Beijing is the time zone of the platforms: UTC+8 without daylight saving, whatever the server's own zone is.
var Beijing = time.FixedZone("UTC+8", 8*60*60)

// Rule says how a field's value is written. It depends on the field's name.
type Rule uint8

// The rules.
const (
	None   Rule = iota
	Amount      // a plain decimal integer becomes a JSON integer
	Time        // a time that the platform's Rules can read becomes RFC 3339
	JSON        // text that is a JSON object or array becomes this object or array
)

// Rules are the rules of a platform.
type Rules struct {
	// Of returns the rule for a field's name.
	Of func(name []byte) Rule
	// AppendTime appends a time of the platform as RFC 3339, or reports that text is not a time.
	AppendTime func(dst, text []byte) ([]byte, bool)
	// Keep names the member of a field's JSON whose value becomes Writer.Kept.
	Keep string
}

const (
	// MaxDepth is how deep a field's value may be nested. Its own top level is 1.
	MaxDepth = 32
	// maxAmountDigits keeps amounts exact in every JSON reader, doubles included.
	maxAmountDigits = 15
)

// Writer writes normalized JSON. In nested JSON the order of members, duplicate names and number literals stay as they are.
// A value that cannot be written leaves nothing behind in Out.
type Writer struct {
	Out []byte // what has been written; the caller may append
	// Kept is the original value of the last member that the rules keep, on the first level of the JSON that Text wrote
	// last. It is nil if there was none. It is valid as long as the text that Text was given.
	Kept []byte

	rules   *Rules
	scratch []byte // a stack of decoded texts
}

// Reset prepares the writer for another use, and keeps its buffers.
func (w *Writer) Reset(rules *Rules) {
	w.rules = rules
	w.Out, w.Kept = w.Out[:0], nil
	w.scratch = w.scratch[:0]
}

// Release clears the writer, and drops buffers larger than keep bytes.
func (w *Writer) Release(keep int) {
	w.Reset(nil)
	if cap(w.Out) > keep {
		w.Out = nil
	}
	if cap(w.scratch) > keep {
		w.scratch = nil
	}
}

// Text writes a field's text by the given rule, and returns the text in UTF-8. depth is the nesting level that an object or
// array in this place has.
func (w *Writer) Text(text []byte, rule Rule, depth int) []byte {
	switch rule {
	case Amount:
		if IsAmount(text) {
			w.Out = append(w.Out, text...)
			return text
		}
	case Time:
		if w.time(text) {
			return text
		}
	case JSON:
		text = ToUTF8(text)
		if w.nested(text, depth) {
			return text
		}
	}
	return w.String(text)
}

func (w *Writer) time(text []byte) bool {
	mark := len(w.Out)
	var ok bool
	w.Out = append(w.Out, '"')
	if w.Out, ok = w.rules.AppendTime(w.Out, text); !ok {
		w.Out = w.Out[:mark]
		return false
	}
	w.Out = append(w.Out, '"')
	return true
}

// nested writes text as JSON if it is a JSON object or array that fits, and reports whether it is.
func (w *Writer) nested(text []byte, depth int) bool {
	if depth == 1 {
		w.Kept = nil
	}
	start := jsontext.SkipSpace(text, 0)
	if start == len(text) || text[start] != '{' && text[start] != '[' {
		return false
	}
	mark := len(w.Out)
	end := w.Value(text, start, None, depth)
	if end < 0 || jsontext.SkipSpace(text, end) != len(text) {
		w.Out = w.Out[:mark]
		if depth == 1 {
			w.Kept = nil
		}
		return false
	}
	return true
}

// Value writes the JSON value at text[i] and returns the index after it. It returns -1 if the value is not valid JSON or too
// deep; the caller must then remove from Out what was written. depth is the value's nesting level if it is an object or
// array.
func (w *Writer) Value(text []byte, i int, rule Rule, depth int) int {
	if i == len(text) {
		return -1
	}
	switch text[i] {
	case '"':
		mark := len(w.scratch)
		var next int
		if w.scratch, next = jsontext.AppendText(w.scratch, text, i, true); next >= 0 {
			w.Text(w.scratch[mark:], rule, depth)
		}
		w.scratch = w.scratch[:mark]
		return next
	case '{':
		return w.object(text, i, depth)
	case '[':
		return w.array(text, i, depth)
	}
	next := jsontext.SkipLiteral(text, i)
	if next >= 0 && (rule != Time || !w.time(text[i:next])) {
		w.Out = append(w.Out, text[i:next]...)
	}
	return next
}

func (w *Writer) object(text []byte, i, depth int) int {
	if depth > MaxDepth {
		return -1
	}
	w.Out = append(w.Out, '{')
	first := len(w.Out)
	i = jsontext.SkipSpace(text, i+1)
	if i < len(text) && text[i] == '}' {
		w.Out = append(w.Out, '}')
		return i + 1
	}
	for {
		if i == len(text) || text[i] != '"' {
			return -1
		}
		member := len(w.Out)
		if member > first {
			w.Out = append(w.Out, ',')
		}
		mark := len(w.scratch)
		var next int
		if w.scratch, next = jsontext.AppendText(w.scratch, text, i, true); next < 0 {
			w.scratch = w.scratch[:mark]
			return -1
		}
		name := w.scratch[mark:]
		w.String(name)
		w.Out = append(w.Out, ':')
		rule := w.rules.Of(name)
		keep := depth == 1 && string(name) == w.rules.Keep && w.rules.Keep != ""
		w.scratch = w.scratch[:mark]

		i = jsontext.SkipSpace(text, next)
		if i == len(text) || text[i] != ':' {
			return -1
		}
		i = jsontext.SkipSpace(text, i+1)
		if next = w.Value(text, i, rule, depth+1); next < 0 {
			return -1
		}
		switch {
		case next == i+2 && text[i] == '"': // empty text
			w.Out = w.Out[:member]
		case keep:
			w.Kept = text[i:next]
		}
		i = jsontext.SkipSpace(text, next)
		if i == len(text) {
			return -1
		}
		switch text[i] {
		case ',':
			i = jsontext.SkipSpace(text, i+1)
		case '}':
			w.Out = append(w.Out, '}')
			return i + 1
		default:
			return -1
		}
	}
}

func (w *Writer) array(text []byte, i, depth int) int {
	if depth > MaxDepth {
		return -1
	}
	w.Out = append(w.Out, '[')
	i = jsontext.SkipSpace(text, i+1)
	if i < len(text) && text[i] == ']' {
		w.Out = append(w.Out, ']')
		return i + 1
	}
	for {
		next := w.Value(text, i, None, depth+1)
		if next < 0 {
			return -1
		}
		i = jsontext.SkipSpace(text, next)
		if i == len(text) {
			return -1
		}
		w.Out = append(w.Out, text[i])
		switch text[i] {
		case ',':
			i = jsontext.SkipSpace(text, i+1)
		case ']':
			return i + 1
		default:
			return -1
		}
	}
}

const hexDigits = "0123456789abcdef"

// String writes text as a JSON string, and returns it in UTF-8.
func (w *Writer) String(text []byte) []byte {
	i := plainRun(text, 0)
	if i == len(text) {
		start := len(w.Out)
		w.Out = slices.Grow(w.Out, len(text)+2)[:start+len(text)+2]
		quoted := w.Out[start:]
		quoted[0] = '"'
		copy(quoted[1:], text)
		quoted[len(quoted)-1] = '"'
		return text
	}
	mark := len(w.Out)
	w.Out = append(w.Out, '"')
	start := 0
	for ; i < len(text); i = plainRun(text, i) {
		c := text[i]
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRune(text[i:])
			if r == utf8.RuneError && size == 1 {
				w.Out = w.Out[:mark]
				return w.String(ToUTF8(text))
			}
			// Old JavaScript engines read these two as line ends.
			if r == '\u2028' || r == '\u2029' {
				w.Out = append(w.Out, text[start:i]...)
				w.Out = append(w.Out, `\u202`...)
				w.Out = append(w.Out, hexDigits[r&0xF])
				start = i + size
			}
			i += size
			continue
		}
		w.Out = append(w.Out, text[start:i]...)
		switch c {
		case '"', '\\':
			w.Out = append(w.Out, '\\', c)
		case '\n':
			w.Out = append(w.Out, '\\', 'n')
		case '\r':
			w.Out = append(w.Out, '\\', 'r')
		case '\t':
			w.Out = append(w.Out, '\\', 't')
		default:
			w.Out = append(w.Out, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&0xF])
		}
		i++
		start = i
	}
	w.Out = append(w.Out, text[start:]...)
	w.Out = append(w.Out, '"')
	return text
}

// plainRun returns the index of the first byte at or after i that is not plain in a JSON string, because it is not ASCII or
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
		// The last bytes, padded with zeros. Zeros are not plain, so they end the run.
		word := binary.LittleEndian.Uint64(text[len(text)-8:]) >> (8 * (8 - rest))
		return i + bits.TrailingZeros64(markSpecial(word))/8
	}
	for i < len(text) && text[i] >= ' ' && text[i] < utf8.RuneSelf && text[i] != '"' && text[i] != '\\' {
		i++
	}
	return i
}

// markSpecial sets the high bit of the lowest byte that is not plain in a JSON string. Bits above it may be wrong, because a
// borrow carries upwards.
func markSpecial(word uint64) uint64 {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	quotes, backslashes := word^('"'*ones), word^('\\'*ones)
	return (word | (word - ' '*ones) | (quotes - ones) | (backslashes - ones)) & highs
}

// ToUTF8 returns text unchanged if it is valid UTF-8. Otherwise it decodes text as GB18030, and replaces what is neither
// with U+FFFD.
func ToUTF8(text []byte) []byte {
	if utf8.Valid(text) {
		return text
	}
	converted, err := simplifiedchinese.GB18030.NewDecoder().Bytes(text)
	if err != nil || !utf8.Valid(converted) {
		return bytes.ToValidUTF8(text, []byte(string(utf8.RuneError)))
	}
	return converted
}

// IsAmount reports whether text is a plain decimal integer of at most 15 digits, which every JSON reader reads exactly.
func IsAmount(text []byte) bool {
	if len(text) == 0 || len(text) > maxAmountDigits || text[0] == '0' && len(text) > 1 {
		return false
	}
	return jsontext.SkipDigits(text, 0) == len(text)
}
