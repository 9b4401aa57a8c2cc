package natsstore

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	_ "github.com/caddyserver/caddy/v2/modules/logging"
)

var keyDigest = regexp.MustCompile(` [0-9a-f]{16} `)

// plainKey is a key without the digest, which is another one in each process.
func plainKey(key string) string { return keyDigest.ReplaceAllString(key, " ") }

// TestKeyOfCredentials: with other credentials a store is opened anew at a reload. They used to be passed over: the client
// went on with the old ones, until its connection broke. The key shows nothing of them.
func TestKeyOfCredentials(t *testing.T) {
	t.Parallel()
	const server = "nats://gate:s3cret@127.0.0.1:4222"
	base := provider(t, nil, server).Key("x")
	if !keyDigest.MatchString(base) || plainKey(base) != "nats:nats://127.0.0.1:4222 INBOX_x" {
		t.Errorf("key %q", base)
	}
	keys := map[string]string{base: "the first"}
	for _, test := range []struct {
		name   string
		change func(*Nats)
		url    string
	}{
		{"a password", nil, "nats://gate:s3cret2@127.0.0.1:4222"},
		{"a user", nil, "nats://gate2:s3cret@127.0.0.1:4222"},
		{"a token", nil, "nats://s3cret@127.0.0.1:4222"},
		{"none", nil, "nats://127.0.0.1:4222"},
		{"creds", func(n *Nats) { n.Creds = "a" }, server},
		{"other creds", func(n *Nats) { n.Creds = "b" }, server},
		{"ca", func(n *Nats) { n.CA = "a" }, server},
		{"cert", func(n *Nats) { n.CertFile, n.KeyFile = "a", "b" }, server},
		{"another key file", func(n *Nats) { n.CertFile, n.KeyFile = "a", "c" }, server},
	} {
		key := provider(t, test.change, test.url).Key("x")
		if other, taken := keys[key]; taken {
			t.Errorf("%s: the key of %s, %s", test.name, other, key)
		}
		keys[key] = test.name
		if plainKey(key) != plainKey(base) {
			t.Errorf("%s: key %q", test.name, key)
		}
	}
	// What is the same is the same, in any order.
	two := []string{server, "tls://gate:s3cret@b"}
	one, other := provider(t, nil, two[0], two[1]), provider(t, nil, two[1]+","+two[0])
	if one.Key("x") != other.Key("x") || provider(t, nil, server).Key("x") != base {
		t.Error("equal configurations have different keys")
	}
	if one.Key("x") == one.Key("y") {
		t.Error("two inboxes have one key")
	}
}

// TestWrittenOut: a password that stands in the configuration is warned of, as the merchants' keys are, and not shown.
func TestWrittenOut(t *testing.T) {
	t.Setenv("NATSSTORE_USER", "gate")
	t.Setenv("NATSSTORE_PASSWORD", "s3cret")
	t.Setenv("NATSSTORE_NATS", "nats")
	t.Setenv("NATSSTORE_URL", "nats://gate:s3cret@127.0.0.1:4222")
	for _, test := range []struct {
		name, url string
		warned    bool
	}{
		{"a password", "nats://gate:s3cret@127.0.0.1:4222", true},
		{"a token", "nats://s3cret@127.0.0.1:4222", true},
		{"no scheme", "gate:s3cret@127.0.0.1:4222", true},
		{"the second of a list", "nats://127.0.0.1:4222,nats://gate:s3cret@127.0.0.1:4223", true},
		{"a user from outside only", "nats://{env.NATSSTORE_USER}:s3cret@127.0.0.1:4222", true},
		{"nobody", "nats://127.0.0.1:4222", false},
		{"a password from outside", "nats://gate:{env.NATSSTORE_PASSWORD}@127.0.0.1:4222", false},
		{"a token from outside", "nats://{env.NATSSTORE_PASSWORD}@127.0.0.1:4222", false},
		{"all from outside", "{env.NATSSTORE_URL}", false},
		{"a password that other parts have", "nats://nats:{env.NATSSTORE_NATS}@127.0.0.1:4222", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			log := new(capturedLog)
			capturedLogs.Store(t.Name(), log)
			document, err := json.Marshal(map[string]any{
				"admin": map[string]any{"disabled": true, "config": map[string]any{"persist": false}},
				"logging": map[string]any{"logs": map[string]any{"default": map[string]any{
					"writer": map[string]any{"output": "natsstore_test", "name": t.Name()}, "encoder": map[string]any{"format": "json"},
				}}},
				"apps": map[string]any{"inbox": map[string]any{"inboxes": map[string]any{
					"default": map[string]any{"store": map[string]any{"store": "nats", "urls": []string{test.url}}},
				}}},
			})
			if err != nil {
				t.Fatal(err)
			}
			config := new(caddy.Config)
			if err := json.Unmarshal(document, config); err != nil {
				t.Fatal(err)
			}
			if err := caddy.Validate(config); err != nil {
				t.Fatal(err)
			}
			text := log.text()
			if warned := strings.Contains(text, "is written out in a NATS URL") && strings.Contains(text, `"level":"warn"`); warned != test.warned {
				t.Errorf("warned: %v\n%s", warned, text)
			}
			if strings.Contains(text, "s3cret") {
				t.Errorf("the password is in the log:\n%s", text)
			}
		})
	}
}

func init() { caddy.RegisterModule(testLogs{}) }

var capturedLogs sync.Map // of a test's name to *capturedLog

// testLogs is a log output that a test can read.
type testLogs struct {
	Name string `json:"name,omitempty"`
}

func (testLogs) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.logging.writers.natsstore_test", New: func() caddy.Module { return new(testLogs) }}
}

func (l testLogs) String() string    { return "natsstore_test " + l.Name }
func (l testLogs) WriterKey() string { return l.String() }
func (l testLogs) OpenWriter() (io.WriteCloser, error) {
	log, ok := capturedLogs.Load(l.Name)
	if !ok {
		return nil, fmt.Errorf("no log of %s", l.Name)
	}
	return log.(*capturedLog), nil
}

type capturedLog struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *capturedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *capturedLog) Close() error { return nil }

func (l *capturedLog) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
