package shouqianba

import (
	"crypto"
	"crypto/md5"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"testing"
)

const benchCall = `{"terminal_sn":"00101010029201012912","client_sn":"7654321132","refund_request_no":"23030349","operator":"Obama","refund_amount":"100"}`

// BenchmarkAuthorization must take at most 1.5 times as long as BenchmarkBareMD5.
func BenchmarkAuthorization(b *testing.B) {
	body := []byte(benchCall)
	b.ReportAllocs()
	for b.Loop() {
		if authorization("00101010029201012912", "68d499beda5f72116592f5c527465656", body) == "" {
			b.Fatal("no authorization")
		}
	}
}

func BenchmarkBareMD5(b *testing.B) {
	signed := []byte(benchCall + "68d499beda5f72116592f5c527465656")
	b.ReportAllocs()
	for b.Loop() {
		if sum := md5.Sum(signed); sum == [md5.Size]byte{} {
			b.Fatal("no digest")
		}
	}
}

// BenchmarkNotify, verification and event, must take at most 1.3 times as long as BenchmarkBareRSA.
func BenchmarkNotify(b *testing.B) {
	body := []byte(documentNotify)
	digest := sha256.Sum256(body)
	signature, err := rsa.SignPKCS1v15(rand.Reader, testKey(), crypto.SHA256, digest[:])
	if err != nil {
		b.Fatal(err)
	}
	keys, header := []*rsa.PublicKey{&testKey().PublicKey}, "00101010029201012912 "+base64.StdEncoding.EncodeToString(signature)
	b.ReportAllocs()
	for b.Loop() {
		if reason := verify(keys, header, body); reason != "" {
			b.Fatal(reason)
		}
		if _, err := readEvent(body, plainRules); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBareRSA(b *testing.B) {
	digest := sha256.Sum256([]byte(documentNotify))
	signature, err := rsa.SignPKCS1v15(rand.Reader, testKey(), crypto.SHA256, digest[:])
	if err != nil {
		b.Fatal(err)
	}
	key := &testKey().PublicKey
	b.ReportAllocs()
	for b.Loop() {
		if err := rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], signature); err != nil {
			b.Fatal(err)
		}
	}
}
