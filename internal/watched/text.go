package watched

import (
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"strconv"
	"strings"
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
