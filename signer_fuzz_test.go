package chinaums

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// fuzzSeeds adds what the documents show and what the traps look like.
func fuzzSeeds(f *testing.F) {
	var vectors []notifyVector
	readVectors(f, "notify.json", &vectors)
	for _, vector := range vectors {
		if vector.Form != nil {
			f.Add([]byte(*vector.Form))
		}
	}
	for _, seed := range []string{
		"payTime=2018-09-20++9:50:33", // time.Parse takes it, and RFC 3339 does not
		"", "&", "=", "a", "a=%", "a=%2", "a=+&+=a", "a=1&a=2", "a;b=1", "=1&a%26b=1", "x=%26status%3D1&status=1", "goods=[{}]",
		`{"a":"\ud83d\ude00","b":1.5e-7,"c":null,"goods":"[{\"totalAmount\":\"1\"}]"}`, `{"a":1}x`, ` {} `, "{\"a\":\"\xc4\xe3\"}",
		"billStatus=PAID&billPayment=%7B%22payTime%22%3A%222016-09-28+10%3A38%3A32%22%7D", "%C4%E3=%81%5C", "a=\xff&b=\xe2\x80\xa8",
		"goods=" + strings.Repeat("[", 33) + strings.Repeat("]", 33), `goods={"goods":"{\"goods\":\"[1]\"}"}`,
	} {
		f.Add([]byte(seed))
	}
}

// fuzzFields parses what the fuzzer made, and holds the event of what can be parsed against the second implementation.
func fuzzFields(t *testing.T, parse func(*notifyFields) error) *notifyFields {
	fields := acquireFields()
	t.Cleanup(fields.release)
	if err := parse(fields); err != nil {
		var broken *parseError
		if !errors.As(err, &broken) {
			t.Fatalf("not a *parseError: %v", err)
		}
		switch broken.Reason {
		case reasonRepeated, reasonEncoding, reasonJSON, reasonTooMany:
		default:
			t.Fatalf("reason %q", broken.Reason)
		}
		return nil
	}
	for _, field := range fields.fields {
		if len(fields.value(&field)) == 0 {
			t.Fatal("an empty value is kept")
		}
	}
	return fields
}

func FuzzParseForm(f *testing.F) {
	fuzzSeeds(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		fields := fuzzFields(t, func(fields *notifyFields) error { return fields.parseForm(body) })
		values := readReference(string(body))
		if fields == nil {
			if values == nil {
				return
			}
			count, repeated := 0, false
			for _, list := range values {
				present := slices.DeleteFunc(list, func(value string) bool { return value == "" })
				count += len(present)
				repeated = repeated || len(present) > 1
			}
			if !repeated && count <= maxNotifyFields {
				t.Fatal("the reference reads this form")
			}
			return
		}
		if values == nil {
			t.Fatal("the reference does not read this form")
		}
		for name, list := range values {
			present := strings.Join(list, "") // one value at most is not empty
			if got, ok := fields.get(name); ok != (present != "") || string(got) != present {
				t.Fatalf("%q is %q, %v, want %q", name, got, ok, present)
			}
			values.Set(name, present)
		}
		text := referenceString(values)
		if got := string(fields.appendStringToSign(nil)); got != text {
			t.Fatalf("string to sign\n got %q\nwant %q", got, text)
		}

		// As it came, and with a right signature.
		keys := [][]byte{[]byte(testKey)}
		check := func(reason string) {
			switch valid := referenceVerifies(values, testKey); {
			case !valid && (reason == "" || reason == reasonAmbiguous || reason == reasonMixed), valid && reason != referenceReason(values):
				t.Fatalf("reason %q, the reference says %v", reason, valid)
			}
		}
		check(fields.verify(keys, digestMD5|digestSHA256))
		values.Set("sign", fmt.Sprintf("%x", sha256.Sum256([]byte(text+testKey))))
		signed := acquireFields()
		defer signed.release()
		if err := signed.parseForm([]byte(values.Encode())); err != nil {
			if len(values) <= maxNotifyFields {
				t.Fatal(err)
			}
			return
		}
		check(signed.verify(keys, digestMD5|digestSHA256))
	})
}

func FuzzParseJSON(f *testing.F) {
	fuzzSeeds(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		if bytes.Contains(bytes.ToLower(body), []byte(`\udb80`)) {
			t.Skip("may spell a mark of the reference")
		}
		fields := fuzzFields(t, func(fields *notifyFields) error { return fields.parseJSON(body) })
		tree, readable := referenceJSON(body)
		if fields == nil {
			if readable {
				t.Fatalf("the reference reads this object: %v", tree)
			}
			return
		}
		if !readable {
			t.Fatal("the reference does not read this object")
		}
		if len(tree) != len(fields.fields) {
			t.Fatalf("%d fields, want %v", len(fields.fields), tree)
		}
		for i, field := range fields.fields {
			name, value := fields.name(&field), fields.value(&field)
			if got := (referenceField{string(name), string(value)}); got != tree[i] {
				t.Fatalf("field %d is %q, want %q", i, got, tree[i])
			}
		}
	})
}

func FuzzEvent(f *testing.F) {
	fuzzSeeds(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		fields := fuzzFields(t, func(fields *notifyFields) error { return fields.parse(body) })
		if fields == nil {
			return
		}
		checkEvent(t, fields, fields.event(newRules([]string{"a"}), "/chinaums/shop"), builtInJSONNames+"a ")
	})
}

func FuzzParseBodySig(f *testing.F) {
	signer := newBodySigner("f0ec96ad2c3848b5b810e7aadf369e2f", "00112233445566778899aabbccddeeff")
	body := []byte("{}")
	good := signer.authorization(time.Unix(1_700_000_000, 0), "99930a147f5353dd8a8f29a5329f37e9", body)
	for _, seed := range []string{
		good, strings.ReplaceAll(good, ", ", ","), "", "OPEN-BODY-SIG", `OPEN-BODY-SIG AppId="", Nonce="`, good + ",", good + good,
		`open-body-sig Signature="s",Nonce="n",Timestamp="t",AppId="a"`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, header string) {
		sig, err := parseBodySig(header)
		verified := signer.verify(header, body) == nil
		if err != nil {
			if sig != (bodySig{}) || verified {
				t.Fatalf("%v, and yet %+v, verified %v", err, sig, verified)
			}
			return
		}
		for _, value := range []string{sig.AppID, sig.Timestamp, sig.Nonce, sig.Signature} {
			if value == "" || !strings.Contains(header, `"`+value+`"`) {
				t.Fatalf("value %q", value)
			}
		}
		again := fmt.Sprintf(`OPEN-BODY-SIG AppId="%s",Timestamp="%s",Nonce="%s",Signature="%s"`, sig.AppID, sig.Timestamp, sig.Nonce, sig.Signature)
		if second, err := parseBodySig(again); len(again) <= maxBodySigHeader && (err != nil || second != sig) {
			t.Fatalf("%+v, %v is not %+v", second, err, sig)
		}
		if verified {
			if raw, err := base64.StdEncoding.DecodeString(sig.Signature); err != nil || len(raw) != sha256.Size || sig.AppID != "f0ec96ad2c3848b5b810e7aadf369e2f" {
				t.Fatalf("verified: %+v", sig)
			}
		}
	})
}
