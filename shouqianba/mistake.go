package shouqianba

import (
	"bytes"
	"crypto/rsa"
)

// maxMistakeKeys bounds the work that strangers can cause.
const maxMistakeKeys = 40

// mistake says what explains a wrong signature of a notify for t, for the log and the command. all are the terminals, t too.
func (t *terminal) mistake(signature string, body []byte, all []*terminal) string {
	tried := 0
	for _, other := range all {
		for _, key := range other.publicKeys {
			if other == t {
				continue
			}
			if tried++; tried > maxMistakeKeys {
				break
			}
			if verify([]*rsa.PublicKey{key}, signature, body) == "" {
				return "another_key [public_key of " + other.name + "]: does this notify belong to that terminal?"
			}
		}
	}
	trimmed := bytes.TrimRight(body, "\r\n")
	for _, other := range [][]byte{trimmed, append(bytes.Clone(trimmed), '\n'), append(bytes.Clone(trimmed), '\r', '\n')} {
		if verify(t.publicKeys, signature, other) == "" {
			return "line_break: something on the way has put a line break at the body's end, or taken it off"
		}
	}
	return "no known mistake explains it: the body was changed on its way, or public_key is not the platform's"
}
