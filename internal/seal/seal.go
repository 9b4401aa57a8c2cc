// Package seal keeps single secret values in Caddy's storage. A value is sealed under a key that is derived from a secret
// of the configuration, and stored durably. The storage's own lock lets a fleet of servers share one value. The package
// knows neither Caddy nor a platform; Caddy's storage satisfies [Storage].
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// version is the prefix of every sealed value. Sealed values are text, because a storage may not accept anything else.
const version = "sealed-v1:"

// ErrCannotOpen is the error of a value that exists but cannot be opened. It was sealed with another secret, for another
// purpose or under another storage key; or it was changed; or its format is unknown.
var ErrCannotOpen = errors.New("the sealed value cannot be opened: it was sealed with another secret, or changed")

// Box seals values and opens them again, with AES-256-GCM under a key derived by HKDF-SHA256. It is safe for concurrent
// use.
type Box struct{ aead cipher.AEAD }

// New derives a Box from a secret. Boxes of the same secret with different purposes cannot open each other's values. The
// secret must be random, not a password: HKDF does not slow down guessing.
func New(secret, purpose string) (*Box, error) {
	if secret == "" || purpose == "" {
		return nil, errors.New("a box needs a secret and a purpose")
	}
	key, err := hkdf.Key(sha256.New, []byte(secret), nil, version+purpose, 32)
	if err != nil {
		return nil, fmt.Errorf("deriving the key: %w", err)
	}
	defer clear(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("making the cipher: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("making the cipher: %w", err)
	}
	return &Box{aead: aead}, nil
}

// Seal seals value for storage under key. Under any other key it cannot be opened.
func (b *Box) Seal(key string, value []byte) []byte {
	sealed := b.aead.Seal(nil, nil, value, additional(key))
	return base64.StdEncoding.AppendEncode([]byte(version), sealed)
}

// Open opens a value that Seal sealed for the same key, or returns ErrCannotOpen.
func (b *Box) Open(key string, sealed []byte) ([]byte, error) {
	text, ok := strings.CutPrefix(string(sealed), version)
	if !ok {
		return nil, fmt.Errorf("%w (its format is not %s)", ErrCannotOpen, strings.TrimSuffix(version, ":"))
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("%w (it is damaged)", ErrCannotOpen)
	}
	value, err := b.aead.Open(nil, nil, raw, additional(key))
	if err != nil {
		return nil, ErrCannotOpen
	}
	return value, nil
}

// additional is the data that a sealed value is bound to, besides its secret.
func additional(key string) []byte { return []byte(version + key) }
