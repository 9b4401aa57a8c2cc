package shouqianba

import (
	"crypto"
	"crypto/md5"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"testing"

	"github.com/caddy-chinaums/caddy-chinaums/internal/benchmark"
)

const benchCall = `{"terminal_sn":"00101010029201012912","client_sn":"7654321132","refund_request_no":"23030349","operator":"Obama","refund_amount":"100"}`

// BenchmarkSign signs the document's call; the floor is a bare MD5. It must take at most 1.5 times as long.
func BenchmarkSign(b *testing.B) {
	const key = "68d499beda5f72116592f5c527465656"
	body, signed := []byte(benchCall), []byte(benchCall+key)
	benchmark.Ratio(b,
		func() { authorization("00101010029201012912", key, body) },
		func() { md5.Sum(signed) })
}

// BenchmarkVerify verifies the document's notify and makes the event; the floor is a bare RSA-2048 verification. It must
// take at most 1.3 times as long.
func BenchmarkVerify(b *testing.B) {
	body := []byte(documentNotify)
	digest := sha256.Sum256(body)
	signature, err := rsa.SignPKCS1v15(rand.Reader, testKey(), crypto.SHA256, digest[:])
	if err != nil {
		b.Fatal(err)
	}
	key := &testKey().PublicKey
	till := &terminal{name: "till", publicKeys: []*rsa.PublicKey{key}}
	n := &Notify{rules: plainRules}
	header := http.Header{"Authorization": {"00101010029201012912 " + base64.StdEncoding.EncodeToString(signature)}}
	benchmark.Ratio(b,
		func() {
			if _, rejected := n.judge(till, body, header); rejected != nil {
				b.Fatal(rejected.Reason)
			}
		},
		func() {
			if rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], signature) != nil {
				b.Fatal("the floor does not verify")
			}
		})
}

// TestAllocations: a signature costs the header that it makes, and a notify one string: the JSON and, behind it, the words.
func TestAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("a pool drops objects at random under the race detector")
	}
	call, notify := []byte(benchCall), []byte(documentNotify)
	for name, c := range map[string]struct {
		want float64
		run  func()
	}{
		"authorization": {1, func() { authorization("00101010029201012912", "68d499beda5f72116592f5c527465656", call) }},
		"notify": {1, func() {
			if _, err := readEvent(notify, plainRules); err != nil {
				t.Error(err)
			}
		}},
	} {
		if got := testing.AllocsPerRun(200, c.run); got != c.want {
			t.Errorf("%s: %v allocations, want %v", name, got, c.want)
		}
	}
}
