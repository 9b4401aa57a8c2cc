package watched

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/caddy-chinaums/caddy-chinaums/internal/jsontext"
	"github.com/caddy-chinaums/caddy-chinaums/internal/text"
)

// maxNumber bounds a number; the platforms' longest has 64 characters.
const maxNumber = 100

// Bounded keeps a number that is in its bounds, and makes a digest of what is not.
func Bounded(number string) string {
	if len(number) <= maxNumber {
		return number
	}
	sum := sha256.Sum256([]byte(number))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Fen reads an amount in fen: a plain decimal integer of at most 15 digits.
func Fen(words string) (fen int64, ok bool) {
	if words == "" || len(words) > 15 || words[0] == '0' && len(words) > 1 {
		return 0, false
	}
	for i := range len(words) {
		if words[i] < '0' || words[i] > '9' {
			return 0, false
		}
	}
	fen, err := strconv.ParseInt(words, 10, 64)
	return fen, err == nil
}

// Place is host and path of an address, as watch.Call.Notify has it; empty: it is no address.
func Place(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || len(address) > 1024 {
		return ""
	}
	return u.Host + "/" + strings.TrimPrefix(u.EscapedPath(), "/")
}

// Problem says what is wrong with a call.
type Problem struct{ Chinese, English string }

// ReadMembers reads the members of a call's JSON object that decide what it does, as text; an empty one may be absent. What the
// platform could read in another way is a problem: a member that stands twice, or whose name differs in case or space, and a
// value that is neither text without control characters and outer space, nor a plain number.
func ReadMembers(body []byte, deciding ...string) (map[string]string, *Problem) {
	said := make(map[string]string, len(deciding))
	var problem *Problem
	err := jsontext.Members(body, func(name string, value json.RawMessage) error {
		plain := strings.ToLower(strings.TrimSpace(name))
		if !slices.Contains(deciding, plain) {
			return nil
		}
		if _, repeated := said[plain]; repeated || name != plain {
			problem = &Problem{"字段 " + text.Name(name) + " 重复，或写法不同", text.Name(name) + " stands twice, or is spelt in another way"}
		}
		word := string(value)
		switch value[0] {
		case '"':
			if json.Unmarshal(value, &word) != nil || strings.TrimSpace(word) != word || strings.ContainsFunc(word, unreadable) {
				problem = &Problem{name + " 首尾有空格，或含有无效字符", name + " has a space at an end, or a character that is none"}
			}
		case 'n':
			word = ""
		default: // the documents have texts only
			if _, ok := Fen(word); !ok {
				problem = &Problem{name + " 既不是文本也不是普通整数", name + " is neither text nor a plain number"}
			}
		}
		said[plain] = word
		return nil
	})
	if err != nil {
		problem = &Problem{"请求体不是 JSON 对象", "the body is no JSON object"}
	}
	return said, problem
}

// unreadable reports whether a character is a control character, or stands for bytes that are no UTF-8.
func unreadable(r rune) bool { return unicode.IsControl(r) || r == unicode.ReplacementChar }
