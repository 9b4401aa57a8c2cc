package storetest

import (
	"testing"

	"github.com/caddy-chinaums/caddy-chinaums/watch"
)

func TestMemory(t *testing.T) {
	Run(t, func(*testing.T) Opener {
		var last *Memory
		return func(*testing.T) watch.Store {
			var rows map[string]watch.Entry
			revision := uint64(0)
			if last != nil {
				rows, revision = last.Rows(), last.revision
			}
			last = NewMemory(rows)
			last.revision = revision
			return last
		}
	})
}
