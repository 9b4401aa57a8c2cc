package outbound

import (
	"bytes"

	"github.com/caddy-chinaums/caddy-chinaums/internal/text"
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

// maxLooked bounds how much of every call's body is looked through for what only the console and a warning need, in bytes. The
// longest call in the documents has a few KiB, and to look through 1 MiB twice takes as long as to send it.
const maxLooked = 64 << 10

// head is as much of a call's body as is looked through.
func head(body []byte) []byte { return body[:min(len(body), maxLooked)] }

// maxWords bounds what of the platform's words stands in a log line, in bytes.
const maxWords = 128

// clip makes the platform's words fit for a log line.
func clip(words string) string { return text.Line(words, maxWords) }
