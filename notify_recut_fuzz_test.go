package chinaums

import (
	"bytes"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
)

// genuineNotifies are the documents' notifies and what the sandbox sends, one of every kind, digest and option.
func genuineNotifies(t testing.TB) (all []referenceFields) {
	add := func(form string) {
		values := readReference(form)
		var fields referenceFields
		for name := range values {
			if value := values.Get(name); name != "sign" && value != "" {
				fields = append(fields, referenceField{name, value})
			}
		}
		all = append(all, fields.sortedPairs())
	}
	var vectors []notifyVector
	readVectors(t, "notify.json", &vectors)
	for _, vector := range vectors {
		if vector.Form != nil && vector.Valid {
			add(*vector.Form)
		}
	}
	for _, kind := range []sandbox.Kind{sandbox.KindPayment, sandbox.KindRefund, sandbox.KindBill, sandbox.KindDeduction, sandbox.KindGuarantee} {
		for _, variant := range []sandbox.Variant{sandbox.Genuine, sandbox.Late, sandbox.GBK} {
			for _, bare := range []bool{false, true} {
				message, err := sandbox.Notify{
					Kind: kind, Variant: variant, Key: testKey, OmitSignType: bare, OmitNotifyID: bare, Now: time.Unix(1_764_000_000, 0),
				}.Build()
				if err != nil {
					t.Fatal(err)
				}
				add(string(message.Body))
			}
		}
	}
	slices.SortStableFunc(all, func(a, b referenceFields) int { return strings.Compare(a.form(), b.form()) })
	return all
}

// judged parses and verifies a body, and returns the event where it is true.
func judged(body []byte) (reason string, event notifyEvent) {
	fields := acquireFields()
	defer fields.release()
	if err := fields.parse(body); err != nil {
		return parseReason(err), notifyEvent{}
	}
	if reason = fields.verify([][]byte{[]byte(testKey)}, digestMD5|digestSHA256); reason != "" {
		return reason, notifyEvent{}
	}
	return "", fields.event(nil, "/chinaums/shop")
}

// digestFor is the digest that a notify's signType asks for.
func digestFor(fields referenceFields) digestSet {
	if fields.get("signType") == "MD5" {
		return digestMD5
	}
	return digestSHA256
}

// FuzzGenuine: a notify of any kind whose texts say what they like, but for an ampersand with an equals sign behind it,
// is never refused; a form, JSON and a repetition of it are one event.
func FuzzGenuine(f *testing.F) {
	notifies := genuineNotifies(f)
	for i := range notifies {
		f.Add(uint8(i), "一杯茶", "gY", "Snwz")
	}
	f.Add(uint8(0), "a & b = c; d=e&f", "ns", "=")
	f.Add(uint8(1), "status=TRADE_SUCCESS&", "Kk", "ſtatus=1")
	f.Add(uint8(2), "\xc6\xbb\xb9\xfb&&&", "Zz", `{"status":"1"}`)
	f.Fuzz(func(t *testing.T, which uint8, text, randomName, randomValue string) {
		fields := slices.Clone(notifies[int(which)%len(notifies)])
		for i := range fields {
			switch fields[i].name {
			case "orderDesc", "billDesc", "attachedData", "refundDesc", "billFundsDesc", "buyerUsername", "merName":
				if text != "" && !holdsPair(text) {
					fields[i].value = text
				}
			}
		}
		// A name of the platform's own making: two letters, as no parameter of the documents has.
		if len(randomName) != 2 || strings.ContainsFunc(randomName, func(r rune) bool { return r|0x20 < 'a' || r|0x20 > 'z' }) || holdsPair(randomValue) {
			randomName, randomValue = "rn", "x"
		}
		fields = slices.DeleteFunc(fields, func(f referenceField) bool { return len(f.name) == 2 })
		repeated := append(slices.Clone(fields), referenceField{randomName, randomValue})
		digest := digestFor(fields)
		reason, first := judged([]byte(fields.signedForm(testKey, digest)))
		if reason != "" {
			t.Fatalf("refused as %s: %s", reason, fields.form())
		}
		id := first.ID
		if kind := eventKind(fields); referenceEventID("/chinaums/shop", kind, func(name string) string { return referenceUTF8(fields.get(name)) }) != id {
			t.Fatalf("the id of %s %s is %s", kind, fields.form(), id)
		}
		again := changed(repeated, referenceField{"notifyId", "another"})
		if fields.get("refundStatus")+fields.get("refundOrderId")+fields.get("refundTargetOrderId") == "" && fields.get("status") == "TRADE_REFUND" {
			again = repeated // its notifyId is all that tells it from another
		}
		reason, second := judged([]byte(again.signedForm(testKey, digest)))
		if reason != "" || second.ID != id {
			t.Fatalf("a repetition: %q, %s, not %s", reason, second.ID, id)
		}
		var members []string
		for _, field := range append(again, referenceField{"sign", referenceDigest(again.stringToSign(), testKey, digest)}) {
			if !utf8.ValidString(field.value) {
				return
			}
			members = append(members, fmt.Sprintf("%s:%s", jsonText(field.name), jsonText(field.value)))
		}
		reason, asJSON := judged([]byte("{" + strings.Join(members, ",") + "}"))
		if reason != "" || asJSON != second {
			t.Fatalf("as JSON: %q\n%+v\nnot\n%+v", reason, asJSON, second)
		}
	})
}

// holdsPair reports whether a text can be cut into a further parameter.
func holdsPair(text string) bool {
	for i, part := range strings.Split(text, "&") {
		if i > 0 && strings.Contains(part, "=") {
			return true
		}
	}
	return false
}

// jsonText writes a JSON string by hand.
func jsonText(text string) string {
	var b strings.Builder
	for _, r := range text {
		if r < ' ' || r == '"' || r == '\\' {
			fmt.Fprintf(&b, "\\u%04x", r)
		} else {
			b.WriteRune(r)
		}
	}
	return `"` + b.String() + `"`
}

// eventKind is the contract's rule for types, written a second time.
func eventKind(fields referenceFields) string {
	byStatus := map[string]string{"NEW_ORDER": "created", "WAIT_BUYER_PAY": "pending", "TRADE_SUCCESS": "succeeded", "SUCCESS": "succeeded", "success": "succeeded", "TRADE_CLOSED": "closed"}
	word := byStatus[fields.get("status")]
	if word == "" {
		word = "unknown"
	}
	amount := fields.get("refundAmount")
	switch {
	case fields.get("billStatus") != "":
		return "bill." + strings.ToLower(fields.get("billStatus"))
	case fields.get("status") == "TRADE_REFUND", fields.get("refundStatus")+fields.get("refundOrderId")+fields.get("refundTargetOrderId") != "", amount != "" && amount != "0":
		switch status := fields.get("refundStatus"); {
		case status == "SUCCESS", status == "" && fields.get("refundPayTime") != "":
			return "refund.succeeded"
		case status == "FAIL":
			return "refund.failed"
		case status == "PROCESSING":
			return "refund.processing"
		}
		return "refund.unknown"
	case fields.get("secureStatus") != "":
		return "guarantee." + strings.ToLower(fields.get("secureStatus"))
	case fields.get("contractId") != "":
		return "deduction." + word
	}
	return "payment." + word
}

// FuzzRecut: of a notify that is true, with whatever text in it, the signed string is cut elsewhere. What is taken then
// has the same id; and where the whole was refused, an order that was not paid is not paid now.
func FuzzRecut(f *testing.F) {
	notifies := genuineNotifies(f)
	for i := range notifies {
		f.Add(uint8(i), "tea&x=1&y", i%2 == 1, []byte{1, 0, 0, 2, 0}, "")
	}
	f.Add(uint8(0), "tea&payTime=2026-01-01 00:00:00&status=TRADE_SUCCESS&totalAmount=99900&z=", true, []byte{0, 0, 0}, "status[]=&")
	f.Add(uint8(3), `note&billNo=B1&billPayment={"payTime":"2026-11-28 10:00:00"}&billStatus=PAID`, true, []byte{}, "&")
	f.Add(uint8(5), "tea&ſtatus=TRADE_SUCCESS&a&b=c&=&&==", false, []byte{3, 3, 3, 1}, "STATUS=&status=&")
	f.Add(uint8(7), "tea&\x81\x30\x97\x37tatus=TRADE_SUCCESS", true, []byte{0, 1}, "&&")
	f.Fuzz(func(t *testing.T, which uint8, text string, closed bool, cuts []byte, extra string) {
		fields := slices.Clone(notifies[int(which)%len(notifies)])
		if closed {
			word := referenceField{"status", "TRADE_CLOSED"}
			if fields.get("status") == "" {
				word = referenceField{"billStatus", "CLOSED"}
			}
			fields = changed(fields, word)
		}
		for i := range fields {
			switch fields[i].name {
			case "orderDesc", "billDesc", "attachedData", "refundDesc", "billFundsDesc", "buyerUsername":
				if text != "" {
					fields[i].value = text
				}
			}
		}
		digest := digestFor(fields)
		signed, sign := fields.stringToSign(), referenceDigest(fields.stringToSign(), testKey, digest)
		reason, want := judged([]byte(fields.signedForm(testKey, digest)))
		if reason != "" && reason != reasonAmbiguous && reason != reasonMixed {
			t.Fatalf("a right signature is refused as %s", reason)
		}
		if (reason == reasonAmbiguous) != referenceAmbiguous(fields.values()) {
			t.Fatalf("reason %q: %s", reason, fields.form())
		}
		// Each byte of cuts says of one ampersand, or of one pair, where to cut.
		next := func() byte {
			if len(cuts) == 0 {
				return 0
			}
			first := cuts[0]
			cuts = cuts[1:]
			return first
		}
		var parts []string
		for i, part := range strings.Split(signed, "&") {
			if i > 0 && next()%4 == 1 {
				parts[len(parts)-1] += "&" + part
			} else {
				parts = append(parts, part)
			}
		}
		form := bytes.NewBufferString(extra)
		for _, part := range parts {
			name, value, found := strings.Cut(part, "=")
			for skip := next() % 8; skip > 4 && found; skip-- { // at a later equals sign
				more, rest, again := strings.Cut(value, "=")
				if !again {
					break
				}
				name, value = name+"="+more, rest
			}
			form.WriteString(url.QueryEscape(name))
			if found {
				form.WriteString("=" + url.QueryEscape(value))
			}
			form.WriteByte('&')
		}
		form.WriteString("sign=" + sign)
		switch recut, got := judged(form.Bytes()); {
		case recut != "":
		case reason == "" && got.ID != want.ID:
			t.Fatalf("two ids:\n%s\n%s", fields.form(), form)
		case closed && slices.Contains(paidTypes, strings.TrimPrefix(got.Type, "com.chinaums.")):
			t.Fatalf("a closed order is %s:\n%s\n%s", got.Type, fields.form(), form)
		}
	})
}

// paidTypes say that there is money.
var paidTypes = []string{"payment.succeeded", "deduction.succeeded", "bill.paid", "guarantee.partly_completed", "guarantee.all_completed"}

// values are the fields as net/url has them.
func (fields referenceFields) values() url.Values {
	values := url.Values{}
	for _, field := range fields {
		values.Add(field.name, field.value)
	}
	return values
}
