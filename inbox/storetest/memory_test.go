package storetest_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
	"github.com/caddy-chinaums/caddy-chinaums/inbox/storetest"
)

// TestMemory holds the plainest store to the contract, and so the contract's tests to what can be done.
func TestMemory(t *testing.T) {
	storetest.Run(t, func(*testing.T) *storetest.Backend {
		var ahead atomic.Int64
		var store *storetest.Memory
		return &storetest.Backend{
			Open: func(_ *testing.T, settings inbox.Settings) inbox.Store {
				store = storetest.NewMemory(settings, func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) })
				return store
			},
			Jump: func(change time.Duration) {
				ahead.Add(int64(change))
				store.Wake()
			},
			Ordered: true,
		}
	})
}
