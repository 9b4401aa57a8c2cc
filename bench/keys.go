//go:build linux

package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// The keys that all peers sign and verify with. They open nothing.
const (
	appID     = "f0ec96ad2c3848b5b810e7aadf369e2f"
	appKey    = "00112233445566778899aabbccddeeff"
	notifyKey = "fcAmtnx7MwismjWNhNKdHC44mNXtnEQeJkRrhKJwyrW2ysRR"
)

// callBody is a call of about size bytes: an order with a description that fills it up.
func callBody(size int) []byte {
	const head = `{"requestTimestamp":"2026-11-25 09:42:59","merOrderId":"327M2026112509","mid":"898340149000005","orderDesc":"`
	const short = `{"mid":"898340149000005","orderDesc":"`
	start, end := head, `"}`
	if size < len(head)+len(end) {
		start = short
	}
	return []byte(start + strings.Repeat("x", max(size-len(start)-len(end), 0)) + end)
}

// bodySignature is what the platform expects to find in a call's Authorization: the second implementation of it here,
// so that no peer is measured that does not sign, or signs wrongly.
func bodySignature(key, id, timestamp, nonce string, body []byte) string {
	digest := sha256.Sum256(body)
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte(id + timestamp + nonce + hex.EncodeToString(digest[:])))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// verifyCall says what is wrong with a call's Authorization, or nil. All merchants of the bench have one appKey.
func verifyCall(authorization string, body []byte) error {
	rest, ok := strings.CutPrefix(authorization, "OPEN-BODY-SIG ")
	if !ok {
		return fmt.Errorf("the Authorization is %.20q", authorization)
	}
	values := make(map[string]string)
	for part := range strings.SplitSeq(rest, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		values[name] = strings.Trim(value, `"`)
	}
	if len(values["Timestamp"]) != 14 || len(values["Nonce"]) != 32 || values["AppId"] == "" {
		return fmt.Errorf("a parameter is missing in %.200q", authorization)
	}
	want := bodySignature(appKey, values["AppId"], values["Timestamp"], values["Nonce"], body)
	if subtle.ConstantTimeCompare([]byte(want), []byte(values["Signature"])) != 1 {
		return fmt.Errorf("the signature is wrong")
	}
	return nil
}

// pair is a parameter of a notify.
type pair struct{ name, value string }

// notifyFields is a payment notify of so many parameters, sign and signType among them.
func notifyFields(count int) []pair {
	fields := []pair{
		{"mid", "898201612345678"},
		{"merOrderId", "90012018092009395265848826440"},
		{"totalAmount", "1"},
		{"status", "TRADE_SUCCESS"},
		{"tid", "88880001"},
		{"instMid", "APPDEFAULT"},
		{"payTime", "2018-09-20 09:50:33"},
		{"createTime", "2018-09-20 09:49:58"},
		{"seqId", "0031510000N"},
		{"targetSys", "Alipay 2.0"},
		{"settleDate", "2018-09-20"},
		{"targetOrderId", "2018092022001418830581229369"},
		{"attachedData", "shop 12/till 3"},
		{"bankCardNo", "622848******1234"},
		{"billFunds", "现金:1"},
		{"billFundsDesc", "现金支付0.01元。"},
		{"buyerId", "2088702631618837"},
		{"buyerUsername", "119***@example.com"},
		{"couponAmount", "0"},
		{"buyerPayAmount", "1"},
		{"invoiceAmount", "1"},
		{"receiptAmount", "1"},
		{"refId", "00096057515N"},
		{"notifyId", "e82a0275-f767-4f77-90c2-614c91222275"},
		{"orderDesc", "一杯茶 a cup of tea"},
		{"mchntUuid", "4aa8728a06a04f7385869df8b659cd01"},
		{"connectSys", "OPENCHANNEL"},
		{"rnd", "x8Jq"},
	}
	for i := len(fields); i < count-2; i++ {
		fields = append(fields, pair{fmt.Sprintf("field%03dOf%s", i, strings.Repeat("x", i%9)), "一个值 value"})
	}
	return append(fields[:count-2:count-2], pair{"signType", "SHA256"})
}

// notifyForm is the form of a notify, signed as the platform does.
func notifyForm(fields []pair, key string) []byte {
	sorted := slices.Clone(fields)
	slices.SortFunc(sorted, func(a, b pair) int { return strings.Compare(a.name, b.name) })
	var signed, form strings.Builder
	for i, field := range sorted {
		if i > 0 {
			signed.WriteByte('&')
		}
		signed.WriteString(field.name + "=" + field.value)
	}
	for _, field := range fields {
		form.WriteString(field.name + "=" + url.QueryEscape(field.value) + "&")
	}
	digest := sha256.Sum256([]byte(signed.String() + key))
	return []byte(form.String() + "sign=" + hex.EncodeToString(digest[:]))
}
