package shouqianba

import (
	"bytes"
	"crypto"
	"crypto/md5"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"strconv"
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
	n := &Notify{app: new(App), rules: plainRules}
	header := http.Header{"Authorization": {"00101010029201012912 " + base64.StdEncoding.EncodeToString(signature)}}
	benchmark.Ratio(b,
		func() {
			if _, rejected := n.verify(till, body, header); rejected != nil {
				b.Fatal(rejected.Reason)
			}
		},
		func() {
			if rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], signature) != nil {
				b.Fatal("the floor does not verify")
			}
		})
}

// BenchmarkUnsigned is what a stranger's largest notify costs who has no signature: a digest and an RSA operation, and
// nothing of what the body says.
func BenchmarkUnsigned(b *testing.B) {
	body := manyFields(1000, 57<<10)
	till := &terminal{name: "till", publicKeys: []*rsa.PublicKey{&testKey().PublicKey}}
	header := http.Header{"Authorization": {base64.StdEncoding.EncodeToString(make([]byte, 256))}}
	n := &Notify{app: new(App), rules: plainRules}
	for b.Loop() {
		if _, rejected := n.verify(till, body, header); rejected == nil || rejected.Reason != reasonSignature {
			b.Fatal("believed")
		}
	}
}

// BenchmarkFields: a field costs the same, however many there are.
func BenchmarkFields(b *testing.B) {
	for _, count := range []int{10, 100, 1000} {
		b.Run(strconv.Itoa(count), func(b *testing.B) {
			body := manyFields(count, 0)
			for b.Loop() {
				if _, err := readEvent(body, plainRules, testSource); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*count), "ns/field")
		})
	}
}

// manyFields is a notify with so many fields, whose names begin alike and are of one length, and at least so many bytes.
func manyFields(count, size int) []byte {
	var body bytes.Buffer
	for i := range count {
		fmt.Fprintf(&body, `,"a_field_of_many_with_a_name_%04d":"%0*d"`, i, max(1, size/count-40), i)
	}
	body.WriteByte('}')
	body.Bytes()[0] = '{'
	return body.Bytes()
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
			if _, err := readEvent(notify, plainRules, testSource); err != nil {
				t.Error(err)
			}
		}},
	} {
		if got := testing.AllocsPerRun(200, c.run); got != c.want {
			t.Errorf("%s: %v allocations, want %v", name, got, c.want)
		}
	}
}
