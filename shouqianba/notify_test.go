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
