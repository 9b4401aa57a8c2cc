package watched

import (
	"encoding/json"
	"path"
	"slices"
	"strings"

	"github.com/caddy-chinaums/caddy-chinaums/internal/jsontext"
)

// Find finds what a path does in a platform's table. It is doubtful where it is not there, and a server that reads paths less
// strictly may take it for a call that moves money.
func Find[T any](calls map[string]T, called string) (as T, found, doubtful bool) {
	if as, found = calls[path.Clean(called)]; found {
		return as, true, false
	}
	return as, false, mayMove(called)
}

// moving are words in the names of interfaces that move money.
var moving = []string{"refund", "cancel", "revoke", "reverse", "complete"}

// mayMove reads a path, which the guard has found plain, in any letter case and whatever else stands around the words.
func mayMove(called string) bool {
	for segment := range strings.SplitSeq(called, "/") {
		name := letters(segment, "")
		asks := strings.Contains(name, "query") && letters(segment, "-_") == strings.ToLower(segment) // no end that a server may cut off
		if !asks && slices.ContainsFunc(moving, func(word string) bool { return strings.Contains(name, word) }) {
			return true
		}
	}
	return false
}

// letters are the letters and digits of a text, in lower case, and what else is kept.
func letters(text, keep string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case 'A' <= r && r <= 'Z':
			return r + 'a' - 'A'
		case 'a' <= r && r <= 'z', '0' <= r && r <= '9':
			return r
		case strings.ContainsRune(keep, r):
			return r
		}
		return -1
	}, text)
}

// Unreliable names what of a money call's body may be read in two ways: `body` where it is no JSON object, or one of the named
// members. Each may stand there once, in no other spelling that a lenient reader takes for it, as text or as a plain number.
// Numbers of orders are printable ASCII without spaces. Amounts are whole and positive, in fen.
func Unreliable(body []byte, numbers, amounts []string) (invalid string) {
	known := make(map[string]string, len(numbers)+len(amounts))
	isAmount := make(map[string]bool, len(amounts))
	for _, name := range numbers {
		known[letters(name, "")] = name
	}
	for _, name := range amounts {
		known[letters(name, "")], isAmount[name] = name, true
	}
	seen := make(map[string]bool, len(known))
	err := jsontext.Members(body, func(name string, value json.RawMessage) error {
		own := known[letters(name, "")]
		if own == "" {
			return nil
		}
		if name != own || seen[own] || !plain(value, isAmount[own]) {
			invalid = own
		}
		seen[own] = true
		return nil
	})
	if err != nil {
		return "body"
	}
	return invalid
}

// plain reports whether a member's value is read by everybody in one way. An empty one is absent.
func plain(value json.RawMessage, amount bool) bool {
	words := string(value)
	if words == "null" {
		return true
	}
	isText := value[0] == '"'
	if isText && json.Unmarshal(value, &words) != nil {
		return false
	}
	if words == "" {
		return true
	}
	whole := strings.Trim(words, "0123456789") == ""
	if amount || !isText {
		return whole && words[0] != '0' && (!amount || len(words) <= 15)
	}
	return strings.IndexFunc(words, func(r rune) bool { return r <= ' ' || r >= 0x7f }) < 0
}
