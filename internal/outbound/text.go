package outbound

import (
	"bytes"
	"strings"
	"unicode"
	"unicode/utf8"
)

// TextMember returns the plain text (no escapes) of the first member of this name in a JSON text, or nil. It is for
// logs and metrics, where a wrong guess about a nested member costs nothing and a full parse costs every call.
func TextMember(body []byte, name string) []byte {
	for {
		i := bytes.Index(body, []byte(name))
		if i < 0 {
			return nil
		}
		before, after := body[:i], body[i+len(name):]
		body = after
		if !bytes.HasSuffix(before, []byte{'"'}) || !bytes.HasPrefix(after, []byte{'"'}) {
			continue
		}
		after, ok := bytes.CutPrefix(bytes.TrimLeft(after[1:], " \t\r\n"), []byte{':'})
		if !ok {
			continue
		}
		value, ok := bytes.CutPrefix(bytes.TrimLeft(after, " \t\r\n"), []byte{'"'})
		if !ok {
			return nil
		}
		end := bytes.IndexByte(value, '"')
		if end < 0 {
			return nil
		}
		for _, c := range value[:end] {
			if c < ' ' || c >= 0x7f || c == '\\' {
				return nil
			}
		}
		return value[:end]
	}
}

// maxWords bounds what of the platform's words stands in a log line, in bytes.
const maxWords = 128

// clip makes the platform's words fit for a log line: at most maxWords bytes, cut between characters, without what moves
// a terminal's cursor, turns the direction of writing or cannot be seen.
func clip(words string) string {
	words = words[:min(len(words), 8*maxWords)] // what is dropped and joined below takes time
	words = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case r == utf8.RuneError || !unicode.IsPrint(r):
			return -1
		}
		return r
	}, words)
	words = strings.Join(strings.Fields(words), " ")
	if len(words) <= maxWords {
		return words
	}
	end := maxWords - len("…")
	for !utf8.RuneStart(words[end]) {
		end--
	}
	return words[:end] + "…"
}
