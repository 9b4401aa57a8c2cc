// Package jsontext reads JSON in place: it builds no tree, and copies only text that has to be decoded. It imports nothing
// but the standard library, so that the signer may use it.
package jsontext

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"unicode/utf8"
)

// Members calls each with the members of a JSON object in the order in which they stand, repeated ones too. It returns an
// error where text is not just one JSON object, or the error of each.
func Members(text []byte, each func(name string, value json.RawMessage) error) error {
	decoder := json.NewDecoder(bytes.NewReader(text))
	if start, err := decoder.Token(); err != nil || start != json.Delim('{') {
		return errors.New("not a JSON object")
	}
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return err
		}
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return err
		}
		if err := each(name.(string), value); err != nil {
			return err
		}
	}
	if _, err := decoder.Token(); err != nil {
		return err
	}
	if _, err := decoder.Token(); err != io.EOF {
		return errors.New("there is data after the JSON object")
	}
	return nil
}

// Object is a walk through the members of the JSON object that a text is. It finds where names and values begin; whoever walks
// reads them, and says where they end. It copies nothing.
type Object struct {
	text []byte
	At   int // where the next name or value begins, or what is wrong
}

// What breaks an object.
var (
	errNoObject = errors.New("the body is not a JSON object")
	errNoName   = errors.New("expected a name")
	errNoColon  = errors.New("expected a colon after the name")
	errNoComma  = errors.New("expected a comma or the object's end")
	errEarly    = errors.New("the JSON object ends early")
	errBehind   = errors.New("there is data after the JSON object")
)

// Begin begins the walk through a text. It reports whether there is a member, whose name's opening quote is then at o.At.
func (o *Object) Begin(text []byte) (more bool, err error) {
	o.text = text
	i := SkipSpace(text, 0)
	if o.At = i; i == len(text) || text[i] != '{' {
		return false, errNoObject
	}
	if i = SkipSpace(text, i+1); i < len(text) && text[i] == '}' {
		return false, o.end(i + 1)
	}
	return o.name(i)
}

// Value goes on behind the name, which ends at end. The value begins at o.At, if the text does not end there.
func (o *Object) Value(end int) error {
	i := SkipSpace(o.text, end)
	if i == len(o.text) || o.text[i] != ':' {
		return errNoColon
	}
	o.At = SkipSpace(o.text, i+1)
	return nil
}

// Next goes on behind the value, which ends at end. It reports whether there is another member, as Begin does.
func (o *Object) Next(end int) (more bool, err error) {
	i := SkipSpace(o.text, end)
	if o.At = i; i == len(o.text) {
		return false, errEarly
	}
	switch o.text[i] {
	case ',':
		return o.name(SkipSpace(o.text, i+1))
	case '}':
		return false, o.end(i + 1)
	}
	return false, errNoComma
}

func (o *Object) name(i int) (more bool, err error) {
	if o.At = i; i == len(o.text) || o.text[i] != '"' {
		return false, errNoName
	}
	return true, nil
}

func (o *Object) end(i int) error {
	if o.At = SkipSpace(o.text, i); o.At != len(o.text) {
		return errBehind
	}
	return nil
}

// Scalars returns the scalars of a JSON object as text, numbers as they are written, and the member that is named,
// if it is an object. Empty texts and null are left out, and so are two members of one name that differ.
func Scalars(content []byte, object string) (fields map[string]string, nested json.RawMessage, err error) {
	fields = make(map[string]string)
	contradictory := make(map[string]bool)
	err = Members(content, func(name string, value json.RawMessage) error {
		if value[0] == '{' && name == object {
			nested = value
			return nil
		}
		text, ok := scalar(value)
		if !ok || text == "" {
			return nil
		}
		if earlier, repeated := fields[name]; repeated && earlier != text {
			contradictory[name] = true
		}
		fields[name] = text
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	for name := range contradictory {
		delete(fields, name)
	}
	return fields, nested, nil
}

// scalar returns a JSON string's text, or a number's or boolean's literal; null is empty.
func scalar(raw json.RawMessage) (string, bool) {
	switch raw[0] {
	case '"':
		var text string
		err := json.Unmarshal(raw, &text)
		return text, err == nil
	case '{', '[':
		return "", false
	case 'n':
		return "", true
	}
	return string(raw), true
}

// SkipSpace returns the index of the first byte at or after i that is not JSON white space.
func SkipSpace(text []byte, i int) int {
	for i < len(text) && text[i] <= ' ' && (text[i] == ' ' || text[i] == '\t' || text[i] == '\r' || text[i] == '\n') {
		i++
	}
	return i
}

// SkipPlain returns the index of the first byte at or after i that is not plain in a string: a quote, a backslash or a
// control character.
func SkipPlain(text []byte, i int) int {
	for i < len(text) && text[i] >= ' ' && text[i] != '"' && text[i] != '\\' {
		i++
	}
	return i
}

// SkipLiteral returns the index after the number, true, false or null at text[i], or -1 if there is none.
func SkipLiteral(text []byte, i int) int {
	switch text[i] {
	case 't':
		return skipWord(text, i, "true")
	case 'f':
		return skipWord(text, i, "false")
	case 'n':
		return skipWord(text, i, "null")
	case '-':
		i++
	}
	next := SkipDigits(text, i)
	if next == i || text[i] == '0' && next > i+1 {
		return -1
	}
	if i = next; i < len(text) && text[i] == '.' {
		if next = SkipDigits(text, i+1); next == i+1 {
			return -1
		}
		i = next
	}
	if i < len(text) && (text[i] == 'e' || text[i] == 'E') {
		i++
		if i < len(text) && (text[i] == '+' || text[i] == '-') {
			i++
		}
		if next = SkipDigits(text, i); next == i {
			return -1
		}
		i = next
	}
	return i
}

func skipWord(text []byte, i int, word string) int {
	if len(text)-i < len(word) || string(text[i:i+len(word)]) != word {
		return -1
	}
	return i + len(word)
}

// SkipDigits returns the index of the first byte at or after i that is not a decimal digit.
func SkipDigits(text []byte, i int) int {
	for i < len(text) && '0' <= text[i] && text[i] <= '9' {
		i++
	}
	return i
}

// AppendText decodes the string whose opening quote is at text[i], and appends its text to dst. It returns the index after
// the closing quote, or -1 if the string is broken. Bytes that are not escaped stay as they are. An escaped lone surrogate
// becomes U+FFFD if replace is set; otherwise it makes the string broken.
func AppendText(dst, text []byte, i int, replace bool) ([]byte, int) {
	i++
	for {
		plain := i
		i = SkipPlain(text, i)
		dst = append(dst, text[plain:i]...)
		if i == len(text) || text[i] < ' ' {
			return dst, -1
		}
		if text[i] == '"' {
			return dst, i + 1
		}
		if i+1 == len(text) {
			return dst, -1
		}
		c := text[i+1]
		i += 2
		switch c {
		case '"', '\\', '/':
		case 'b':
			c = '\b'
		case 'f':
			c = '\f'
		case 'n':
			c = '\n'
		case 'r':
			c = '\r'
		case 't':
			c = '\t'
		case 'u':
			unit := readUnit(text, i)
			if unit < 0 {
				return dst, -1
			}
			i += 4
			if 0xD800 <= unit && unit < 0xE000 {
				low := rune(-1)
				if unit < 0xDC00 && i+1 < len(text) && text[i] == '\\' && text[i+1] == 'u' {
					low = readUnit(text, i+2)
				}
				switch {
				case 0xDC00 <= low && low < 0xE000:
					unit = 0x10000 + (unit-0xD800)<<10 + (low - 0xDC00)
					i += 6
				case replace:
					unit = utf8.RuneError
				default:
					return dst, -1
				}
			}
			dst = utf8.AppendRune(dst, unit)
			continue
		default:
			return dst, -1
		}
		dst = append(dst, c)
	}
}

// readUnit returns the UTF-16 unit whose four hexadecimal digits begin at text[i], or -1.
func readUnit(text []byte, i int) rune {
	if i+4 > len(text) {
		return -1
	}
	var unit rune
	for _, c := range text[i : i+4] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return -1
		}
		unit = unit<<4 | rune(c)
	}
	return unit
}
