package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// The headers of Standard Webhooks, in net/http's canonical spelling.
const (
	HeaderID        = "Webhook-Id"
	HeaderTimestamp = "Webhook-Timestamp"
	HeaderSignature = "Webhook-Signature"
)

// DefaultTolerance is how far a timestamp may be from the receiver's clock, as
// the libraries of Standard Webhooks have it.
const DefaultTolerance = 5 * time.Minute

// What Verify may find wrong; compare with errors.Is.
var (
	// ErrHeader: one of the three headers is missing, empty, repeated or malformed.
	ErrHeader = errors.New("webhook header")
	// ErrTimestamp: the message is older or newer than the tolerance allows.
	ErrTimestamp = errors.New("webhook timestamp outside the tolerance")
	// ErrSignature: no signature fits the secret and the message.
	ErrSignature = errors.New("webhook signature does not match")
	// ErrSecret: the secret is empty, or whsec_ is not followed by base64.
	ErrSecret = errors.New("webhook secret")
)

const (
	secretPrefix    = "whsec_"
	signatureScheme = "v1,"

	// maxTimestampDigits keeps the arithmetic far from overflow.
	maxTimestampDigits = 12
)

// Sign returns one signature of the Webhook-Signature header, "v1," and the
// base64 of HMAC-SHA256(secret, id + "." + timestamp + "." + body), with the
// timestamp in unix seconds. Several signatures (for several secrets) go into
// one header, separated by spaces.
//
// A secret "whsec_…" is the base64 (standard alphabet, padded) of the key; any
// other text is its own bytes. An empty secret or one that cannot be decoded is
// ErrSecret, an empty id ErrHeader.
func Sign(secret, id string, timestamp time.Time, body []byte) (string, error) {
	key, err := decodeSecret(secret)
	if err != nil {
		return "", err
	}
	if id == "" {
		return "", fmt.Errorf("%w: %s is empty", ErrHeader, HeaderID)
	}
	return string(newSigner(key).appendSignature(nil, appendSigned(nil, id, timestamp.Unix()), body)), nil
}

// Verify reports whether header and body are a message signed with secret not
// longer than tolerance before or after now: nil, or an error that wraps one of
// ErrHeader, ErrTimestamp, ErrSignature and ErrSecret and holds nothing of the
// message. One fitting signature of several is enough, which is what makes
// rotation possible; signatures of other versions than v1 are passed over.
//
// Body must be the bytes received, not a parsed and printed form of them. The
// id is not remembered: against repetition, compare Webhook-Id with those
// already handled.
func Verify(secret string, header http.Header, body []byte, now time.Time, tolerance time.Duration) error {
	key, err := decodeSecret(secret)
	if err != nil {
		return err
	}
	id, err := single(header, HeaderID)
	if err != nil {
		return err
	}
	timestamp, err := single(header, HeaderTimestamp)
	if err != nil {
		return err
	}
	signatures, err := single(header, HeaderSignature)
	if err != nil {
		return err
	}

	seconds, err := parseTimestamp(timestamp)
	if err != nil {
		return err
	}
	// The signature first: whoever does not have the secret learns nothing about the clock.
	// appendSigned prints the number as it was received, since parseTimestamp takes no other form of it.
	want := newSigner(key).appendSignature(nil, appendSigned(nil, id, seconds), body)
	matched := 0
	for signature := range strings.SplitSeq(signatures, " ") {
		matched |= subtle.ConstantTimeCompare(want, []byte(signature))
	}
	if matched != 1 {
		return ErrSignature
	}
	if time.Unix(now.Unix(), 0).Sub(time.Unix(seconds, 0)).Abs() > tolerance {
		return ErrTimestamp
	}
	return nil
}

// single returns the value of a header that must be there exactly once: with
// two, different readers could believe different ones.
func single(header http.Header, name string) (string, error) {
	values := header[name]
	switch {
	case len(values) == 0 || values[0] == "":
		return "", fmt.Errorf("%w: %s is missing", ErrHeader, name)
	case len(values) > 1:
		return "", fmt.Errorf("%w: %s is repeated", ErrHeader, name)
	}
	return values[0], nil
}

// parseTimestamp takes plain decimal digits only: no sign, no leading zero.
func parseTimestamp(text string) (int64, error) {
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil || len(text) > maxTimestampDigits || strconv.FormatInt(seconds, 10) != text || seconds < 0 {
		return 0, fmt.Errorf("%w: %s is not a number of unix seconds", ErrHeader, HeaderTimestamp)
	}
	return seconds, nil
}

// decodeSecret returns the key that a secret stands for. Its errors never hold
// any of the secret.
func decodeSecret(secret string) ([]byte, error) {
	encoded, isBase64 := strings.CutPrefix(secret, secretPrefix)
	if !isBase64 {
		if secret == "" {
			return nil, fmt.Errorf("%w: empty", ErrSecret)
		}
		return []byte(secret), nil
	}
	key, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return nil, fmt.Errorf("%w: what follows %s must be base64 with its padding", ErrSecret, secretPrefix)
	}
	if len(key) == 0 {
		return nil, fmt.Errorf("%w: nothing follows %s", ErrSecret, secretPrefix)
	}
	return key, nil
}

// appendSigned appends what is signed before the body.
func appendSigned(to []byte, id string, seconds int64) []byte {
	to = append(to, id...)
	to = append(to, '.')
	to = strconv.AppendInt(to, seconds, 10)
	return append(to, '.')
}

// A signer holds one key. It is one goroutine's at a time.
type signer struct {
	mac hash.Hash
	sum [sha256.Size]byte
}

func newSigner(key []byte) *signer {
	return &signer{mac: hmac.New(sha256.New, key)}
}

// appendSignature appends "v1,<base64>" of prefix and body together.
func (s *signer) appendSignature(to, prefix, body []byte) []byte {
	s.mac.Reset()
	s.mac.Write(prefix)
	s.mac.Write(body)
	to = append(to, signatureScheme...)
	return base64.StdEncoding.AppendEncode(to, s.mac.Sum(s.sum[:0]))
}
