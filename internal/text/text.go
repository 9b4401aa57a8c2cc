// Package text makes a stranger's text fit for an error, a log or an answer: bounded, and free of what a reader could
// take for something else. It imports the standard library only, so that a signer may use it.
package text

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limit is how many bytes of a stranger's text an error or a log shows, where nothing else is said.
const Limit = 64

// Head returns the beginning of s as valid UTF-8, at most limit bytes.
func Head(s string, limit int) string {
	return strings.ToValidUTF8(s[:min(len(s), limit)], "?")
}

// Clip returns s where it has at most Limit bytes, else its beginning, cut between characters, and an ellipsis.
func Clip(s string) string {
	if len(s) <= Limit {
		return s
	}
	return strings.ToValidUTF8(s[:Limit], "") + "…"
}

// Name quotes a name as Go does: at most Limit bytes, and an ellipsis behind one that is longer.
func Name[T string | []byte](name T) string {
	if len(name) <= Limit {
		return strconv.Quote(string(name))
	}
	return strconv.Quote(string(name[:Limit])) + "…"
}

// ASCII quotes the first limit bytes of s in ASCII, for a log line that is read at a terminal.
func ASCII[T string | []byte](s T, limit int) string {
	return strconv.QuoteToASCII(string(s[:min(len(s), limit)]))
}

// Line makes a text of several words one line of at most limit bytes, cut between characters. It leaves out what moves a
// terminal's cursor, turns the direction of writing or cannot be seen.
func Line(s string, limit int) string {
	s = s[:min(len(s), 8*limit)] // what is dropped and joined below takes time
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case r == utf8.RuneError || !unicode.IsPrint(r):
			return -1
		}
		return r
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	if len(s) <= limit {
		return s
	}
	end := limit - len("…")
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + "…"
}
