package shouqianba

import (
	"bytes"
	"crypto"
	"crypto/md5"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"sync"
)

// Outbound: sn and MD5

// maxJoined is up to which size a body is copied behind its key instead of being digested in two pieces.
const maxJoined = 8 << 10

// joined holds buffers for a body and its key. A buffer is cleared of the key before it is kept for the next signature.
var joined = sync.Pool{New: func() any { return new([maxJoined]byte) }}

// authorization returns the value of the Authorization header of a call: of a vendor or of a terminal.
//
//	Authorization: <sn> <lower-case hex of MD5(body + key)>
func authorization(sn, key string, body []byte) string {
	var digest [md5.Size]byte
	if len(body)+len(key) <= maxJoined {
		buffer := joined.Get().(*[maxJoined]byte)
		signed := append(append(buffer[:0], body...), key...)
		digest = md5.Sum(signed)
		clear(signed[len(body):])
		joined.Put(buffer)
	} else {
		state := md5.New()
		state.Write(body)
		state.Write([]byte(key))
		state.Sum(digest[:0])
	}
	var buffer [128]byte
	header := append(append(buffer[:0], sn...), ' ')
	return string(hex.AppendEncode(header, digest[:]))
}

// Inbound: RSA over the raw body

// Reasons why a notify is false.
const (
	reasonMissingSignature = "missing_signature"
	reasonSignature        = "signature"
)

// maxSignature bounds the header of a notify; that of an RSA key of 8192 bits has 1,368 bytes and a serial number.
const maxSignature = 2 << 10

// verify says why a notify is false, or "" if it is true: Authorization is the base64 signature, by SHA-256 with RSA
// (PKCS #1 v1.5), of the body's bytes as they came. Some deployments put a serial number and a space in front, so that
// the last part counts. Any one of the keys may verify it.
func verify(keys []*rsa.PublicKey, header string, body []byte) string {
	header = strings.TrimSpace(header)
	if header == "" {
		return reasonMissingSignature
	}
	if len(header) > maxSignature {
		return reasonSignature
	}
	var buffer [maxSignature]byte
	signature, err := base64.StdEncoding.AppendDecode(buffer[:0], []byte(header[strings.LastIndexByte(header, ' ')+1:]))
	if err != nil {
		return reasonSignature
	}
	digest := sha256.Sum256(body)
	for _, key := range keys {
		if rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], signature) == nil {
			return ""
		}
	}
	return reasonSignature
}

// The platform's RSA key has 2048 bits. A smaller one is taken with a warning, one that anybody can break is not.
const (
	minKeyBits  = 1024
	goodKeyBits = 2048
)

// parsePublicKey reads an RSA public key: PEM with "PUBLIC KEY", "RSA PUBLIC KEY" or "CERTIFICATE", or, as the
// platform's pages and SDKs show it, the bare base64 of the first. Its errors say nothing of the text: it may have
// been a private key.
func parsePublicKey(text []byte) (*rsa.PublicKey, error) {
	text = bytes.TrimSpace(bytes.TrimPrefix(text, []byte("\ufeff"))) // a byte order mark, as some editors write
	kind, der := "PUBLIC KEY", []byte(nil)
	if block, rest := pem.Decode(text); block != nil {
		if len(bytes.TrimSpace(rest)) > 0 {
			return nil, errors.New("there is more behind the first PEM block; name each key by itself")
		}
		kind, der = block.Type, block.Bytes
	} else {
		decoded, err := base64.StdEncoding.DecodeString(string(bytes.Join(bytes.Fields(text), nil)))
		if err != nil {
			return nil, errors.New("is neither PEM nor base64")
		}
		der = decoded
	}
	var parsed any
	var err error
	switch kind {
	case "PUBLIC KEY":
		parsed, err = x509.ParsePKIXPublicKey(der)
	case "RSA PUBLIC KEY":
		parsed, err = x509.ParsePKCS1PublicKey(der)
	case "CERTIFICATE":
		var certificate *x509.Certificate
		if certificate, err = x509.ParseCertificate(der); err == nil {
			parsed = certificate.PublicKey
		}
	default:
		if strings.Contains(kind, "PRIVATE") {
			return nil, errors.New("is a private key; notifies are verified with the platform's public key")
		}
		return nil, fmt.Errorf("its PEM type is not PUBLIC KEY")
	}
	if err != nil {
		return nil, errors.New("is not a public key that can be read")
	}
	key, ok := parsed.(*rsa.PublicKey)
	if !ok {
		return nil, errors.New("is not an RSA key")
	}
	if key.N.BitLen() < minKeyBits {
		return nil, fmt.Errorf("has %d bits; at least %d are needed", key.N.BitLen(), minKeyBits)
	}
	return key, nil
}
