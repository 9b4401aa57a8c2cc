package natsstore

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"
	_ "github.com/caddyserver/caddy/v2/modules/logging"
)

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
			name := fmt.Sprint(t.Name(), " ", capturedCount.Add(1)) // another at each run, as Caddy keeps its logs open
			capturedLogs.Store(name, log)
			document, err := json.Marshal(map[string]any{
				"admin": map[string]any{"disabled": true, "config": map[string]any{"persist": false}},
				"logging": map[string]any{"logs": map[string]any{"default": map[string]any{
					"writer": map[string]any{"output": "natsstore_test", "name": name}, "encoder": map[string]any{"format": "json"},
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

var (
	capturedLogs  sync.Map // of a test's name to *capturedLog
	capturedCount atomic.Int64
)

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
