package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The example of the Standard Webhooks libraries. Recomputed with
//
//	printf '%s.%s.%s' "$id" "$timestamp" "$body" | openssl dgst -sha256 -mac HMAC -macopt hexkey:… -binary | base64
const (
	exampleSecret    = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	exampleID        = "msg_p5jXN8AQM9LWM0D4loKWxJek"
	exampleTimestamp = 1614265330
	exampleBody      = `{"test": 2432232314}`
	exampleSignature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
)

func exampleHeader() http.Header {
	return http.Header{
		"Webhook-Id":        {exampleID},
		"Webhook-Timestamp": {strconv.Itoa(exampleTimestamp)},
		"Webhook-Signature": {exampleSignature},
	}
}

// independentSignature is the formula as the specification says it, over one
// string, with nothing of this package.
func independentSignature(key []byte, id, timestamp, body string) string {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(strings.Join([]string{id, timestamp, body}, ".")))
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

func TestSign(t *testing.T) {
	for _, test := range []struct {
		name, secret, id, body string
		timestamp              int64
		want                   string
	}{
		{
			name: "published example", secret: exampleSecret, id: exampleID, timestamp: exampleTimestamp,
			body: exampleBody, want: exampleSignature,
		},
		{
			// Computed with Python's hmac module.
			name: "secret is its own bytes", secret: "plain secret", id: exampleID, timestamp: exampleTimestamp,
			body: exampleBody, want: "v1,gke7k785FD6W2FuaDcrvG3sQcmFE9YVaaAmarK4oi68=",
		},
		{
			name: "empty body", secret: "plain", id: "1", timestamp: 0,
			want: independentSignature([]byte("plain"), "1", "0", ""),
		},
		{
			name: "prefix only at the start", secret: "x_whsec_MfKQ", id: "1", timestamp: 9,
			want: independentSignature([]byte("x_whsec_MfKQ"), "1", "9", ""),
		},
		{
			name: "body that is not text", secret: "plain", id: "1", timestamp: 9, body: "\x00\xff\n.",
			want: independentSignature([]byte("plain"), "1", "9", "\x00\xff\n."),
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := Sign(test.secret, test.id, time.Unix(test.timestamp, 999), []byte(test.body))
			if err != nil {
				t.Fatal(err)
			}
			if got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

func TestSignRefuses(t *testing.T) {
	for _, test := range []struct {
		name, secret, id string
		want             error
	}{
		{"empty secret", "", "1", ErrSecret},
		{"nothing after the prefix", "whsec_", "1", ErrSecret},
		{"not base64", "whsec_n*t", "1", ErrSecret},
		{"without padding", "whsec_YWI", "1", ErrSecret},
		{"URL alphabet", "whsec_-_-_", "1", ErrSecret},
		{"empty id", "plain", "", ErrHeader},
	} {
		t.Run(test.name, func(t *testing.T) {
			signature, err := Sign(test.secret, test.id, time.Unix(1, 0), nil)
			if !errors.Is(err, test.want) {
				t.Fatalf("got %v, want %v", err, test.want)
			}
			if signature != "" {
				t.Errorf("got signature %s with an error", signature)
			}
			if encoded := strings.TrimPrefix(test.secret, "whsec_"); encoded != "" && strings.Contains(err.Error(), encoded) {
				t.Errorf("the error shows the secret: %v", err)
			}
		})
	}
}

func TestVerify(t *testing.T) {
	const other = "v1,AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	set := func(name string, values ...string) func(http.Header) {
		return func(header http.Header) { header[name] = values }
	}
	for _, test := range []struct {
		name      string
		secret    string // default: the example's
		change    func(http.Header)
		body      string // default: the example's
		age       time.Duration
		tolerance time.Duration // default: 5 minutes
		want      error
	}{
		{name: "published example"},
		{name: "as old as allowed", age: 5 * time.Minute},
		{name: "too old", age: 5*time.Minute + time.Second, want: ErrTimestamp},
		{name: "as new as allowed", age: -5 * time.Minute},
		{name: "too new", age: -5*time.Minute - time.Second, want: ErrTimestamp},
		{name: "no tolerance, same second", tolerance: time.Nanosecond, age: 900 * time.Millisecond},
		{name: "no tolerance, next second", tolerance: time.Nanosecond, age: time.Second, want: ErrTimestamp},

		{name: "one of several", change: set("Webhook-Signature", other+" "+exampleSignature+" v2,x")},
		{name: "another version's", change: set("Webhook-Signature", "v1a"+exampleSignature[2:]), want: ErrSignature},
		{name: "none fits", change: set("Webhook-Signature", other+" "+other), want: ErrSignature},
		{name: "without version", change: set("Webhook-Signature", exampleSignature[3:]), want: ErrSignature},
		{name: "cut", change: set("Webhook-Signature", exampleSignature[:len(exampleSignature)-1]), want: ErrSignature},
		{name: "separated by a comma", change: set("Webhook-Signature", other+","+exampleSignature), want: ErrSignature},
		{name: "only spaces", change: set("Webhook-Signature", "   "), want: ErrSignature},

		{name: "another body", body: exampleBody + " ", want: ErrSignature},
		{name: "another secret", secret: "whsec_AAAA", want: ErrSignature},
		{name: "the secret's text as key", secret: "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", want: ErrSignature},
		{name: "another id", change: set("Webhook-Id", "msg_other"), want: ErrSignature},
		{name: "another time", change: set("Webhook-Timestamp", "1614265331"), want: ErrSignature},
		{name: "other time and too old", change: set("Webhook-Timestamp", "1"), want: ErrSignature},

		{name: "no id", change: set("Webhook-Id"), want: ErrHeader},
		{name: "empty id", change: set("Webhook-Id", ""), want: ErrHeader},
		{name: "two ids", change: set("Webhook-Id", exampleID, exampleID), want: ErrHeader},
		{name: "no time", change: set("Webhook-Timestamp"), want: ErrHeader},
		{name: "two times", change: set("Webhook-Timestamp", "1614265330", "1614265330"), want: ErrHeader},
		{name: "time with a sign", change: set("Webhook-Timestamp", "+1614265330"), want: ErrHeader},
		{name: "negative time", change: set("Webhook-Timestamp", "-1"), want: ErrHeader},
		{name: "time with a leading zero", change: set("Webhook-Timestamp", "01614265330"), want: ErrHeader},
		{name: "time with a fraction", change: set("Webhook-Timestamp", "1614265330.0"), want: ErrHeader},
		{name: "time as a date", change: set("Webhook-Timestamp", "2021-02-25T15:02:10Z"), want: ErrHeader},
		{name: "time beyond reason", change: set("Webhook-Timestamp", "9223372036854775807"), want: ErrHeader},
		{name: "time beyond 64 bits", change: set("Webhook-Timestamp", "92233720368547758070"), want: ErrHeader},
		{name: "no signature", change: set("Webhook-Signature"), want: ErrHeader},
		{name: "empty signature", change: set("Webhook-Signature", ""), want: ErrHeader},
		{name: "two signatures in two headers", change: set("Webhook-Signature", exampleSignature, exampleSignature), want: ErrHeader},

		{name: "bad secret", secret: "whsec_?", want: ErrSecret},
	} {
		t.Run(test.name, func(t *testing.T) {
			header := exampleHeader()
			if test.change != nil {
				test.change(header)
			}
			secret, body, tolerance := test.secret, test.body, test.tolerance
			if secret == "" {
				secret = exampleSecret
			}
			if body == "" {
				body = exampleBody
			}
			if tolerance == 0 {
				tolerance = DefaultTolerance
			}
			err := Verify(secret, header, []byte(body), time.Unix(exampleTimestamp, 0).Add(test.age), tolerance)
			if !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}

	t.Run("empty secret", func(t *testing.T) {
		if err := Verify("", exampleHeader(), []byte(exampleBody), time.Unix(exampleTimestamp, 0), time.Hour); !errors.Is(err, ErrSecret) {
			t.Errorf("got %v, want %v", err, ErrSecret)
		}
	})
	t.Run("timestamp far beyond the range of a duration", func(t *testing.T) {
		header := exampleHeader()
		header["Webhook-Timestamp"] = []string{"999999999999"}
		header["Webhook-Signature"] = []string{independentSignature([]byte("plain"), exampleID, "999999999999", exampleBody)}
		if err := Verify("plain", header, []byte(exampleBody), time.Unix(exampleTimestamp, 0), time.Hour); !errors.Is(err, ErrTimestamp) {
			t.Errorf("got %v, want %v", err, ErrTimestamp)
		}
	})
}

// FuzzVerify: Verify accepts exactly what the formula, computed independently,
// says, and never panics.
func FuzzVerify(f *testing.F) {
	timestamp := strconv.Itoa(exampleTimestamp)
	f.Add(exampleSecret, exampleID, timestamp, exampleSignature, []byte(exampleBody), int64(exampleTimestamp))
	f.Add(exampleSecret, exampleID, timestamp, "v1,x "+exampleSignature, []byte(exampleBody), int64(exampleTimestamp+301))
	f.Add("plain", "a.1", "0", "v1,", []byte(nil), int64(0))
	f.Add("whsec_", "", "-0", "", []byte{0}, int64(-1))
	f.Add("plain", "1", "999999999999", "v1, v1,", []byte("."), int64(1)<<62)
	f.Fuzz(func(t *testing.T, secret, id, timestamp, signature string, body []byte, now int64) {
		header := http.Header{"Webhook-Id": {id}, "Webhook-Timestamp": {timestamp}, "Webhook-Signature": {signature}}
		at := time.Unix(now%(1<<40), 0)

		key := []byte(secret)
		if encoded, found := strings.CutPrefix(secret, "whsec_"); found {
			var err error
			if key, err = base64.StdEncoding.DecodeString(encoded); err != nil {
				key = nil
			}
		}
		seconds, notNumber := strconv.ParseInt(timestamp, 10, 64)
		plain := notNumber == nil && seconds >= 0 && seconds < 1e12 && strconv.FormatInt(seconds, 10) == timestamp
		distance := at.Unix() - seconds
		fresh := plain && distance <= 300 && distance >= -300
		usable := len(key) > 0 && id != "" && plain

		genuine := slices.Contains(strings.Split(signature, " "), independentSignature(key, id, timestamp, string(body)))
		if err := Verify(secret, header, body, at, DefaultTolerance); (err == nil) != (usable && fresh && genuine) {
			t.Errorf("usable %t, fresh %t, genuine %t, but Verify says %v", usable, fresh, genuine, err)
		}

		// A signature over the same message is rarely found by chance: make one.
		header["Webhook-Signature"] = []string{strings.TrimSpace("v9,x " + independentSignature(key, id, timestamp, string(body)))}
		if err := Verify(secret, header, body, at, DefaultTolerance); (err == nil) != (usable && fresh) {
			t.Errorf("usable %t, fresh %t, but Verify says %v of a genuine signature", usable, fresh, err)
		}
		if usable {
			signed, err := Sign(secret, id, time.Unix(seconds, 0), body)
			if want := independentSignature(key, id, timestamp, string(body)); err != nil || signed != want {
				t.Errorf("Sign gives %q, %v, want %q", signed, err, want)
			}
		}
	})
}
