// Package seal keeps single secret values in Caddy's storage: sealed under a key that is derived from a secret of the
// configuration, stored durably, and guarded by the storage's own lock, so that a fleet of servers shares one value. It
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

// version begins every sealed value. It is text, because a storage may keep its values where only text is welcome.
const version = "sealed-v1:"

// ErrCannotOpen says that a value is there and cannot be read: it was sealed with another secret, for another purpose or
// under another storage key, it was changed, or it is of a format that is not known.
var ErrCannotOpen = errors.New("the sealed value cannot be opened: it was sealed with another secret, or changed")

// Box seals values and opens them again, with AES-256-GCM under a key derived by HKDF-SHA256. It is safe for concurrent
// use.
type Box struct{ aead cipher.AEAD }

// New derives a Box from a secret. Boxes of one secret with different purposes cannot open each other's values. The
// secret must have been made by a machine: HKDF does not slow down somebody who guesses a password.
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

// Seal seals value for storage under key: moved to another key it cannot be opened.
func (b *Box) Seal(key string, value []byte) []byte {
	sealed := b.aead.Seal(nil, nil, value, additional(key))
	return base64.StdEncoding.AppendEncode([]byte(version), sealed)
}

// Open opens what Seal has sealed for the same key, or returns ErrCannotOpen.
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

// additional is what a sealed value is bound to besides its secret.
func additional(key string) []byte { return []byte(version + key) }
