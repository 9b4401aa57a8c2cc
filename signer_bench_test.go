package chinaums

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/internal/benchmark"
)

// measureRatio reports how many times longer the work takes than a floor that nobody can be faster than.
func measureRatio(b *testing.B, work, floor func()) {
	b.Helper()
	benchmark.Ratio(b, work, floor)
}

func benchmarkSign(b *testing.B, size int) {
	const nonce = "99930a147f5353dd8a8f29a5329f37e9"
	const appID, appKey = "f0ec96ad2c3848b5b810e7aadf369e2f", "00112233445566778899aabbccddeeff"
	signer := newBodySigner(appID, appKey)
	now := time.Now()
	body := bytes.Repeat([]byte{'x'}, size)
	b.SetBytes(int64(size))
	mac := hmac.New(sha256.New, []byte(appKey))
	signed := make([]byte, len(appID)+14+len(nonce)+64)
	var out [sha256.Size]byte
	measureRatio(b, func() { signer.authorization(now, nonce, body) }, func() {
		sha256.Sum256(body)
		mac.Reset()
		mac.Write(signed)
		mac.Sum(out[:0])
	})
}

// BenchmarkSign signs a call of 1 KiB; the floor is a bare SHA-256 of the body and one HMAC whose key is absorbed.
func BenchmarkSign(b *testing.B) { benchmarkSign(b, 1<<10) }

func BenchmarkSignBody(b *testing.B) {
	for _, size := range []int{100, 1 << 10, 10 << 10, 100 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("%dB", size), func(b *testing.B) { benchmarkSign(b, size) })
	}
}

// paymentForm is a payment notify with the fields of the documents' table, 30 of them with a value.
func paymentForm() referenceFields {
	return referenceFields{
		{"mid", "898201612345678"}, {"tid", "88880001"}, {"instMid", "APPDEFAULT"}, {"attachedData", "a=b c+e"},
		{"bankCardNo", "622848******1234"}, {"billFunds", "现金:1"}, {"billFundsDesc", "现金支付0.01元。"},
		{"buyerId", "2088702631618837"}, {"buyerUsername", "119***@qq.com"}, {"couponAmount", "0"},
		{"buyerPayAmount", "1"}, {"totalAmount", "1"}, {"invoiceAmount", "1"}, {"receiptAmount", "1"},
		{"merOrderId", "90012018092009395265848826440"}, {"payTime", "2018-09-20 09:50:33"},
		{"createTime", "2018-09-20 09:49:58"}, {"refId", "00096057515N"}, {"seqId", "0031510000N"},
		{"settleDate", "2018-09-20"}, {"status", "TRADE_SUCCESS"}, {"targetOrderId", "2018092022001418830581229369"},
		{"targetSys", "Alipay 2.0"}, {"notifyId", "e82a0275-f767-4f77-90c2-614c91222275"}, {"orderDesc", "测试退货5(1111)"},
		{"mchntUuid", "4aa8728a06a04f7385869df8b659cd01"}, {"connectSys", "OPENCHANNEL"}, {"rnd", "x8Jq"},
		{"signType", "SHA256"},
	}
}

func benchmarkNotify(b *testing.B, fields referenceFields) {
	key := []byte("fcAmtnx7MwismjWNhNKdHC44mNXtnEQeJkRrhKJwyrW2ysRR")
	body := []byte(fields.signedForm(string(key), digestSHA256))
	floor := append([]byte(fields.stringToSign()), key...)
	keys := [][]byte{key}
	rules := newRules(nil)
	b.SetBytes(int64(len(body)))
	measureRatio(b, func() {
		f := acquireFields()
		if err := f.parse(body); err != nil {
			b.Fatal(err)
		}
		if reason := f.verify(keys, digestSHA256); reason != "" {
			b.Fatal(reason)
		}
		if event := f.event(rules, "/chinaums/shop"); len(event.Data) == 0 {
			b.Fatal("no event")
		}
		f.release()
	}, func() { sha256.Sum256(floor) })
}

// BenchmarkNotify reads, verifies and normalizes a notify of 30 fields; the floor is a bare SHA-256 of what is signed.
func BenchmarkNotify(b *testing.B) { benchmarkNotify(b, paymentForm()) }

func BenchmarkNotifyFields(b *testing.B) {
	for _, count := range []int{5, 10, 30, 60, 120, 250} {
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			fields := paymentForm()
			for i := len(fields); i < count-1; i++ {
				fields = append(fields, referenceField{fmt.Sprintf("field%03dOf%s", i, strings.Repeat("x", i%9)), "一个值 value"})
			}
			benchmarkNotify(b, fields[:count-1])
		})
	}
}
