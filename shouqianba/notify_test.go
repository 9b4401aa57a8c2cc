package shouqianba

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/internal/inbound"
	"github.com/caddy-chinaums/caddy-chinaums/internal/sandbox"
)

// TestOriginalCanBeVerified: an app that moves over keeps its own check, which needs the platform's bytes and signature.
// Before, Authorization was taken off, so that such a check refused every notify. In the other formats, whose bodies it
// does not fit, the app does not get it.
func TestOriginalCanBeVerified(t *testing.T) {
	g := startPlatform(t, sandbox.ShouqianbaOptions{SerialInHeader: true, Schedule: []time.Duration{time.Millisecond}})
	block, _ := pem.Decode([]byte(g.platform.PublicKey()))
	if block == nil {
		t.Fatal("the platform's key is no PEM")
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	verifies := func(r *http.Request, body []byte) bool {
		words := strings.Fields(r.Header.Get("Authorization"))
		if len(words) != 2 || words[0] != g.options.TerminalSN {
			return false
		}
		signature, err := base64.StdEncoding.DecodeString(words[1])
		digest := sha256.Sum256(body)
		return err == nil && rsa.VerifyPKCS1v15(parsed.(*rsa.PublicKey), crypto.SHA256, digest[:], signature) == nil
	}
	type seen struct {
		header  http.Header
		genuine bool
	}
	got := make(chan seen, 10)
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		got <- seen{r.Header, verifies(r, body)}
		if r.URL.Path == "/original" && !verifies(r, body) {
			w.WriteHeader(http.StatusForbidden)
		}
	}))
	t.Cleanup(app.Close)
	site := func(format string) string {
		return "handle /" + format + " {\nshouqianba_notify {\nformat " + format + "\n}\nreverse_proxy " + app.Listener.Addr().String() + "\n}\n"
	}
	start(t, g.config(t, g.fixed(), site("original")+site("json")+site("cloudevents")+"handle {\nshouqianba_proxy\n}"))
	for _, format := range []string{"original", "json", "cloudevents"} {
		t.Run(format, func(t *testing.T) {
			a := post(t, g.url("/upay/v2/precreate"), call(g.options.TerminalSN, strings.Replace(order, "%s", format, 1)+`,"notify_url":"`+g.url("/"+format)+`"`))
			if !strings.Contains(a.body, "PRECREATE_SUCCESS") {
				t.Fatalf("precreate: %s", a.body)
			}
			if err := g.platform.Pay(format); err != nil {
				t.Fatal(err)
			}
			if err := g.platform.WaitDelivered(t.Context(), format, sandbox.KindPayment); err != nil {
				t.Fatal(err)
			}
			app := <-got
			if app.genuine != (format == "original") || app.header.Get("Ce-Type") != "com.shouqianba.payment.succeeded" || app.header.Get("Ce-Id") == "" {
				t.Errorf("genuine by the app's own check: %v; it got %v", app.genuine, app.header)
			}
			if format != "original" && app.header["Authorization"] != nil {
				t.Error("the signature is passed on")
			}
		})
	}
}

// TestFalseNotifiesAreNotRead: the signature is over the raw bytes, so it comes first. Before, the fields were read and
// each name was compared with each: 57 KiB cost a stranger without any signature 34 times what they cost now, and broken
// JSON was told apart from a wrong signature.
func TestFalseNotifiesAreNotRead(t *testing.T) {
	till := &terminal{name: "till", publicKeys: []*rsa.PublicKey{&testKey().PublicKey}}
	n := &Notify{app: new(App), rules: plainRules}
	verify := func(body, authorization string) *inbound.Rejection {
		header := http.Header{}
		if authorization != "" {
			header.Set("Authorization", authorization)
		}
		event, rejected := n.verify(till, []byte(body), header)
		if (event == nil) == (rejected == nil) {
			t.Fatalf("both or neither: %v, %v", event, rejected)
		}
		return rejected
	}
	another := signed(t, "{}")
	for _, test := range []struct {
		name, body string
		status     int    // with the right signature
		good       string // and the reason
	}{
		{name: "broken JSON", body: `{"sn":`, status: 400, good: reasonJSON},
		{name: "a form", body: "sn=1", status: 400, good: reasonJSON},
		{name: "empty", body: "", status: 400, good: reasonJSON},
		{name: "repeated", body: `{"sn":"1","sn":"2"}`, status: 400, good: reasonRepeated},
		{name: "many fields", body: string(manyFields(maxNotifyFields+1, 0)), status: 400, good: reasonTooMany},
		{name: "good", body: documentNotify},
	} {
		t.Run(test.name, func(t *testing.T) {
			for authorization, want := range map[string]string{another: reasonSignature, "x": reasonSignature, "": reasonMissingSignature} {
				rejected := verify(test.body, authorization)
				if rejected == nil || rejected.Status != 403 || rejected.Reason != want || rejected.Detail != nil || rejected.Unverified != nil {
					t.Errorf("with the signature %q: %+v, want %s", authorization, rejected, want)
				}
			}
			rejected := verify(test.body, signed(t, test.body))
			if (rejected == nil) != (test.good == "") || rejected != nil && (rejected.Status != test.status || rejected.Reason != test.good) {
				t.Errorf("rightly signed: %+v, want %d %s", rejected, test.status, test.good)
			}
		})
	}
}
