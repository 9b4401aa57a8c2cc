package boltstore

import (
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
)

// OpenUnsynced opens a store that syncs nothing to the disk, to be compared with.
func OpenUnsynced(path string, settings inbox.Settings, logger *zap.Logger) (inbox.Store, error) {
	options := defaultOptions()
	options.noSync = true
	return openStore(path, settings, logger, options)
}
