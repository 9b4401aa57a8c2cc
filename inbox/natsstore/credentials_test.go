package natsstore

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-chinaums/caddy-chinaums/internal/natstest"
)

// hard is a password with everything that a URL, a list of URLs or a quoted text takes for its own.
const hard = `s3cret,a/b@c:d%2C?e#f&g=h+i "j\k;é[l]`

// logTo writes the whole log, at all levels, into a text.
func logTo(text *capturedLog) *zap.Logger {
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
			ports := natstest.Ports(t, 2)
			server := natstest.New(t, ports[0], test.server)
			server.Start()
			address := func(port int, user *url.Userinfo) string {
				return strings.ReplaceAll(fmt.Sprintf("nats://%s@127.0.0.1:%d", user, port), ",", "%2C")
			}
			natstest.Eventually(t, "the server is up", func() bool {
				connection, err := nats.Connect(address(ports[0], test.user))
				if err == nil {
					connection.Close()
				}
				return err == nil
			})
			// A second server, which is not there, has other credentials.
			text := new(capturedLog)
			n := provider(t, nil, address(ports[0], test.user)+","+address(ports[1], url.UserPassword("other", "pass,word")))
			opened, err := n.Open(t.Context(), "credentials", defaults(), logTo(text))
			if err != nil {
				t.Fatal(err)
			}
			works(t, opened)
			natstest.Eventually(t, "the log names the server", func() bool { // the client tells it on its own time
				return strings.Contains(text.text(), fmt.Sprintf(`"server":"nats://127.0.0.1:%d"`, ports[0]))
			})
			if err := opened.Close(); err != nil {
				t.Error(err)
			}
			log := text.text()
			for _, part := range []string{"s3cret", "pass,word", "pass%"} {
				if strings.Contains(log, part) {
					t.Errorf("the log shows %s:\n%s", part, log)
				}
			}
		})
	}
}
