package doctor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sort"
	"strings"
	"unicode/utf16"
)

// jsonStyle is a way to write JSON that a language has by default or on demand.
type jsonStyle struct{ sorted, spaced, slashes, ascii, html, separators bool }

func jsonStyles() []jsonStyle {
	var all []jsonStyle
	for i := range 64 {
		all = append(all, jsonStyle{i&1 != 0, i&2 != 0, i&4 != 0, i&8 != 0, i&16 != 0, i&32 != 0})
	}
	return all
}

// String names the style by what it does.
func (s jsonStyle) String() string {
	words := []string{}
	for _, option := range []struct {
		on   bool
		word string
	}{{s.sorted, "sorted keys"}, {s.spaced, `", " and ": "`}, {s.slashes, `\/`}, {s.ascii, `\u4e2d`}, {s.html, `\u003c`}, {s.separators, `\u2028`}} {
		if option.on {
			words = append(words, option.word)
		}
	}
	if len(words) == 0 {
		return "compact"
	}
	return strings.Join(words, ", ")
}

// rewrite reads a JSON text and writes it in the style; numbers keep their literals.
func (s jsonStyle) rewrite(text string) (string, error) {
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	var b strings.Builder
	if err := s.write(&b, decoder, 0); err != nil {
		return "", err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return "", errors.New("data after the JSON text")
	}
	return b.String(), nil
}

func (s jsonStyle) write(b *strings.Builder, decoder *json.Decoder, depth int) error {
	token, err := decoder.Token()
	if err != nil {
		return err
	}
	if depth > 32 {
		return errors.New("nested too deep")
	}
	comma, colon := ",", ":"
	if s.spaced {
		comma, colon = ", ", ": "
	}
	switch token := token.(type) {
	case json.Delim:
		type member struct{ name, value string }
		var members []member
		for decoder.More() {
			var m member
			if token == '{' {
				name, err := decoder.Token()
				if err != nil {
					return err
				}
				m.name = name.(string)
			}
			var value strings.Builder
			if err := s.write(&value, decoder, depth+1); err != nil {
				return err
			}
			m.value = value.String()
			members = append(members, m)
		}
		end, err := decoder.Token()
		if err != nil {
			return err
		}
		if s.sorted && token == '{' {
			sort.SliceStable(members, func(i, j int) bool { return members[i].name < members[j].name })
		}
		b.WriteString(token.String())
		for i, m := range members {
			if i > 0 {
				b.WriteString(comma)
			}
			if token == '{' {
				s.writeString(b, m.name)
				b.WriteString(colon)
			}
			b.WriteString(m.value)
		}
		b.WriteString(end.(json.Delim).String())
	case string:
		s.writeString(b, token)
	case nil:
		b.WriteString("null")
	default:
		fmt.Fprint(b, token)
	}
	return nil
}

func (s jsonStyle) writeString(b *strings.Builder, text string) {
	b.WriteByte('"')
	for _, r := range text {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '/' && s.slashes:
			b.WriteString(`\/`)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == '\b':
			b.WriteString(`\b`)
		case r == '\f':
			b.WriteString(`\f`)
		case r < ' ', s.html && (r == '<' || r == '>' || r == '&'), s.separators && (r == '\u2028' || r == '\u2029'):
			fmt.Fprintf(b, `\u%04x`, r)
		case r >= 0x7f && s.ascii:
			for _, unit := range utf16.Encode([]rune{r}) {
				fmt.Fprintf(b, `\u%04x`, unit)
			}
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
}
