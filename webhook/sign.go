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

// DefaultTolerance is how far a timestamp may be from the receiver's clock. It is
// the value that the libraries of Standard Webhooks use.
const DefaultTolerance = 5 * time.Minute

// The errors of Verify. Compare with errors.Is.
var (
	// ErrHeader means that one of the three headers is missing, empty, repeated or malformed.
	ErrHeader = errors.New("webhook header")
	// ErrTimestamp means that the message is older or newer than the tolerance allows.
	ErrTimestamp = errors.New("webhook timestamp outside the tolerance")
	// ErrSignature means that no signature matches the secret and the message.
	ErrSignature = errors.New("webhook signature does not match")
	// ErrSecret means that the secret is empty, or that whsec_ is not followed by base64.
	ErrSecret = errors.New("webhook secret")
)

const (
	secretPrefix    = "whsec_"
	signatureScheme = "v1,"

	// maxTimestampDigits keeps the arithmetic far from overflow.
	maxTimestampDigits = 12
)

// Sign returns one signature for the Webhook-Signature header: "v1," and the
// base64 of HMAC-SHA256(secret, id + "." + timestamp + "." + body), with the
// timestamp in unix seconds. To sign with several secrets, join the signatures
// with spaces.
//
// A secret "whsec_…" is the base64 (standard alphabet, padded) of the key. Any
// other text is used as it is. The error is ErrSecret if the secret is empty or
// cannot be decoded, and ErrHeader if the id is empty.
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

// Verify checks that header and body are a message that was signed with secret,
// at most tolerance before or after now. If not, it returns an error that wraps
// ErrHeader, ErrTimestamp, ErrSignature or ErrSecret, and contains nothing of the
// message. One matching signature is enough, so that secrets can be rotated.
// Signatures of versions other than v1 are ignored.
//
// body must be the bytes as received, not parsed and encoded again. Verify does
// not remember ids: to detect repetitions, compare Webhook-Id with the ids that
// you have handled.
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
	// The signature is checked first, so that nobody without the secret learns anything about the clock.
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

// single returns the value of a header that must appear exactly once. If there
// were two, different readers could use different ones.
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

// decodeSecret returns the key of a secret. Its errors contain nothing of the
// secret.
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

// appendSigned appends the part of the signed text that precedes the body.
func appendSigned(to []byte, id string, seconds int64) []byte {
	to = append(to, id...)
	to = append(to, '.')
	to = strconv.AppendInt(to, seconds, 10)
	return append(to, '.')
}

// A signer holds one key. It must not be used by several goroutines at a time.
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
