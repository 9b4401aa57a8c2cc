package natsstore

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddyserver/caddy/v2"
)

// hard is a password with everything that a URL, a list of URLs or a quoted text takes for its own.
const hard = `s3cret,a/b@c:d%2C?e#f&g=h+i "j\k;é[l]`

// logTo writes the whole log, at all levels, into a text.
func logTo(text *bytes.Buffer) *zap.Logger {
	encoder := zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig())
	return zap.New(zapcore.NewCore(encoder, zapcore.Lock(zapcore.AddSync(text)), zapcore.DebugLevel))
}

// TestCredentialsInURL: a user with a password, or a token, of any characters lets the gateway in, and stands in no line of
// the log. The client used to be given all URLs in one text, where a comma in a password ended one of them.
func TestCredentialsInURL(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, server string
		user         *url.Userinfo
	}{
		{"password", fmt.Sprintf("authorization { user: gate, password: %q }", hard), url.UserPassword("gate", hard)},
		{"token", fmt.Sprintf("authorization { token: %q }", hard), url.User(hard)},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			ports := freePorts(t, 2)
			server := newServer(t, ports[0], test.server)
			server.start()
			address := func(port int, user *url.Userinfo) string {
				return strings.ReplaceAll(fmt.Sprintf("nats://%s@127.0.0.1:%d", user, port), ",", "%2C")
			}
			eventually(t, "the server is up", func() bool {
				connection, err := nats.Connect(address(ports[0], test.user))
				if err == nil {
					connection.Close()
				}
				return err == nil
			})
			// A second server, which is not there, has other credentials.
			var text bytes.Buffer
			n := provider(t, nil, address(ports[0], test.user)+","+address(ports[1], url.UserPassword("other", "pass,word")))
			opened, err := n.Open(t.Context(), "credentials", defaults(), logTo(&text))
			if err != nil {
				t.Fatal(err)
			}
			works(t, opened)
			if err := opened.Close(); err != nil {
				t.Error(err)
			}
			log := text.String()
			if !strings.Contains(log, fmt.Sprintf(`"server":"nats://127.0.0.1:%d"`, ports[0])) {
				t.Errorf("the log does not name the server:\n%s", log)
			}
			for _, part := range []string{"s3cret", "pass,word", "pass%"} {
				if strings.Contains(log, part) {
					t.Errorf("the log shows %s:\n%s", part, log)
				}
			}
		})
	}
}

// TestRedactForms: whatever way an error spells a secret, it is not shown.
func TestRedactForms(t *testing.T) {
	t.Parallel()
	for _, password := range []string{hard, "s3cret", "s3cret,", "s3cret word", "s3cret@,", `s3cret"`, "a", "s3cret$&+,/:;=?@"} {
		for _, user := range []*url.Userinfo{url.UserPassword("gate", password), url.User(password)} {
			server := "nats://" + strings.ReplaceAll(user.String(), ",", "%2C") + "@127.0.0.1:4222"
			n := provider(t, nil, server, "nats://gate:s3cret-and-more@127.0.0.1:4223")
			inJSON, err := json.Marshal(password)
			if err != nil {
				t.Fatal(err)
			}
			inURL, quoted := strings.TrimPrefix(user.String(), "gate:"), strconv.Quote(password)
			for name, spelt := range map[string]string{
				"plain": password, "in a URL": inURL, "as given": strings.ReplaceAll(inURL, ",", "%2C"),
				"in a query": url.QueryEscape(password), "in a path": url.PathEscape(password),
				"quoted": quoted[1 : len(quoted)-1], "in JSON": string(inJSON[1 : len(inJSON)-1]), "of another server": "s3cret-and-more",
			} {
				if got := n.redact(errors.New("<" + spelt + ">")); got != "<[redacted]>" {
					t.Errorf("%q %s: %s", password, name, got)
				}
			}
		}
	}
}

// TestURLsThatArePasswords: where a mark of a password was left as it is, a part of it would become a server's name, and be
// shown as one. Such a URL is refused, and nothing of it shown.
func TestURLsThatArePasswords(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, url string }{
		{"a comma", "nats://gate:s3cret,word@127.0.0.1:4222"},
		{"a comma behind digits", "nats://gate:4711,s3cret@127.0.0.1:4222"},
		{"a comma in a token", "nats://s3cret,word@127.0.0.1:4222"},
		{"a slash", "nats://gate:s3cret/word@127.0.0.1:4222"},
		{"a slash behind digits", "nats://gate:4711/s3cret@127.0.0.1:4222"},
		{"a question mark", "tls://s3cret?word@127.0.0.1:4222"},
		{"a number sign", "tls://s3cret#word@127.0.0.1:4222"},
		{"a percent sign", "nats://gate:s3cret%zz@127.0.0.1:4222"},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := &Nats{URLs: []string{test.url}}
			err := n.Provision(caddy.Context{})
			if err == nil {
				t.Fatalf("accepted as %v", n.hosts())
			}
			if words := err.Error(); !strings.Contains(words, "%2C") || strings.Contains(words, "s3cret") || strings.Contains(words, "4711") {
				t.Errorf("error %v", err)
			}
		})
	}
	n := provider(t, nil, "nats://a:4222,b,nats://gate:pass@a", "tls://gate:pass@c/", "gate:pass@d")
	if got := strings.Join(n.hosts(), " "); got != "nats://a:4222 nats://b:4222 nats://d:4222 tls://c:4222" {
		t.Errorf("servers %s", got)
	}
}
