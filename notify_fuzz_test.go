package chinaums

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// FuzzNotify sends whatever it likes to the whole handler: as it came, and with a right signature. The answer must be
// one of the contract's, the app must see what is answered SUCCESS and nothing else, and no notify that the second
// implementation believes may be lost.
func FuzzNotify(f *testing.F) {
	fuzzSeeds(f)
	f.Setenv("UMS_NOTIFY_KEY", testKey)
	seen, event := 0, []byte(nil)
	app := handleBy(f, func(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
		seen++
		var err error
		if event, err = io.ReadAll(r.Body); err != nil || r.ContentLength != int64(len(event)) {
			return fmt.Errorf("read %d of %d bytes: %w", len(event), r.ContentLength, err)
		}
		for name, values := range r.Header {
			if len(values) != 1 || strings.ContainsFunc(values[0], func(r rune) bool { return r < ' ' || r > '~' }) {
				return fmt.Errorf("header %s: %q", name, values)
			}
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	})
	server := serveDirectly(f, "{\n\tchinaums {\n\t\tmerchant shop {\n\t\t\tnotify_key {env.UMS_NOTIFY_KEY}\n\t\t}\n\t}\n}\nhttp:// {\n\tbind 127.0.0.1\n\tchinaums_notify\n\t"+app+"\n}\n")
	send := func(t *testing.T, contentType string, body []byte) (status int, taken []byte) {
		seen = 0
		r := httptest.NewRequest("POST", "/notify", bytes.NewReader(body))
		r.Header.Set("Content-Type", contentType)
		w := httptest.NewRecorder()
		server.ServeHTTP(w, r)
		word := "FAILED"
		if w.Code == 200 {
			word = "SUCCESS"
		}
		if w.Body.String() != word || (seen == 1) != (w.Code == 200) || seen > 1 {
			t.Fatalf("answer %d %q, the app saw %d", w.Code, w.Body, seen)
		}
		switch w.Code {
		case 200, 400, 403, 413:
		default:
			t.Fatalf("status %d", w.Code)
		}
		if w.Code == 200 && !json.Valid(event) {
			t.Fatalf("the app got %q", event)
		}
		return w.Code, event
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		asForm, _ := send(t, "application/x-www-form-urlencoded", body)
		asJSON, _ := send(t, "application/json", body)
		if asForm == 200 && asJSON != 200 {
			t.Errorf("the Content-Type decides: %d as a form, %d as JSON", asForm, asJSON)
		}
		values := readReference(string(body))
		if values == nil || isJSONObject(body) {
			return
		}
		// What the platform would send with these fields.
		fields := url.Values{}
		for name, list := range values {
			if value := list[0]; value != "" && name != "sign" && name != "signType" {
				fields.Set(name, value)
			}
		}
		fields.Set("sign", referenceDigest(referenceString(fields), testKey, digestSHA256))
		encoded := fields.Encode()
		status, event := send(t, "application/x-www-form-urlencoded", []byte(encoded))
		want := 200
		switch {
		case len(encoded) > 64<<10:
			want = 413
		case len(fields) > maxNotifyFields:
			want = 400
		case referenceReason(fields) != "":
			want = 403
		}
		if status != want {
			t.Fatalf("answer %d to %q, want %d", status, encoded, want)
		}
		if status != 200 {
			return
		}
		var object map[string]json.RawMessage
		if err := json.Unmarshal(event, &object); err != nil {
			t.Fatal(err)
		}
		if len(object) != len(fields)-1 {
			for name := range fields { // names that are not UTF-8 may become one
				if referenceUTF8(name) != name {
					return
				}
			}
			t.Fatalf("%d fields of %d", len(object), len(fields)-1)
		}
		for name := range fields {
			if _, ok := object[referenceUTF8(name)]; !ok && name != "sign" {
				t.Fatalf("field %q is lost in %s", name, event)
			}
		}
	})
}
