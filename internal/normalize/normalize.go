// Package normalize writes the JSON that a merchant's app gets: amounts as integers in fen, times as RFC 3339, texts that
// hold JSON as that JSON, everything else as it came, in UTF-8. What a field's name says is each platform's own rule.
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

// Beijing is the platforms' clock: UTC+8, without daylight saving, whatever the server's own zone is.
var Beijing = time.FixedZone("UTC+8", 8*60*60)

// Rule is what a field's name says about its value.
type Rule uint8

// The rules.
const (
	None   Rule = iota
	Amount      // a plain decimal integer becomes a JSON integer
	Time        // what the platform's Rules can read becomes RFC 3339
	JSON        // a text that is a JSON object or array becomes that
)

// Rules are a platform's.
type Rules struct {
	// Of tells the rule of a field's name.
	Of func(name []byte) Rule
	// AppendTime appends the platform's time as RFC 3339, or reports that text is none.
	AppendTime func(dst, text []byte) ([]byte, bool)
	// Keep names the member of a field's JSON whose value becomes Writer.Kept.
	Keep string
}

const (
	// MaxDepth is how deep a field's value may nest, its own top level counted as 1.
	MaxDepth = 32
	// maxAmountDigits keeps amounts exact in every JSON reader, doubles included.
	maxAmountDigits = 15
)

// Writer writes normalized JSON. It re-writes nested JSON as it reads it: order, duplicate names and number literals
// stay. Where something cannot be written, it writes nothing of it.
type Writer struct {
	Out []byte // what has been written; the caller may append
	// Kept is the value, as it came, of the last member that the rules keep, on the first level of the JSON that Text
	// wrote last: nil if there was none. It is valid as long as that text.
	Kept []byte

	rules   *Rules
	scratch []byte // a stack of decoded texts
}

// Reset makes the writer ready, and keeps the room that it has.
func (w *Writer) Reset(rules *Rules) {
	w.rules = rules
	w.Out, w.Kept = w.Out[:0], nil
	w.scratch = w.scratch[:0]
}

// Release forgets what was written, and rooms larger than keep bytes.
func (w *Writer) Release(keep int) {
	w.Reset(nil)
	if cap(w.Out) > keep {
		w.Out = nil
	}
	if cap(w.scratch) > keep {
		w.scratch = nil
	}
}

// Text writes a field's text by the rule of the field's name, and returns the text in UTF-8. depth is that of an object
// or array in its place.
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

// Value re-writes the JSON value at text[i] and returns the index behind it, or -1 if it is not valid JSON or too deep;
// what has been written of it is then the caller's to take back. depth is that of the value if it is an object or array.
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
			// JavaScript's older readers take these two for the end of a line.
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

// ToUTF8 returns text as it is if it is valid UTF-8, else read as GB18030, with U+FFFD for what is neither.
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

// IsAmount reports whether text is a plain decimal integer: in fen, exact in every JSON reader.
func IsAmount(text []byte) bool {
	if len(text) == 0 || len(text) > maxAmountDigits || text[0] == '0' && len(text) > 1 {
		return false
	}
	return jsontext.SkipDigits(text, 0) == len(text)
}
