package boltstore

import (
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
	"github.com/caddy-chinaums/caddy-chinaums/inbox/storetest"
)

// testOptions are those of the tests: small limits.
func testOptions() options {
	o := defaultOptions()
	o.maxRecord = 1 << 20
	o.step = 7
	return o
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) *storetest.Backend {
		path := filepath.Join(t.TempDir(), "inbox", "test.db")
		var jump atomic.Int64
		o := testOptions()
		o.now = func() time.Time { return time.Now().Add(time.Duration(jump.Load())) }
		return &storetest.Backend{
			Open: func(t *testing.T, settings inbox.Settings) inbox.Store {
				t.Helper()
				store, err := openStore(path, settings, zaptest.NewLogger(t, zaptest.Level(zap.ErrorLevel)), o)
				if err != nil {
					t.Fatalf("open: %v", err)
				}
				return store
			},
			Abandon: func(t *testing.T, store inbox.Store) {
				t.Helper()
				if err := store.(*Store).close(true); err != nil {
					t.Fatalf("abandon: %v", err)
				}
			},
			Jump:     func(change time.Duration) { jump.Add(int64(change)) },
			Ordered:  true,
			TooLarge: o.maxRecord + 1,
		}
	})
}
