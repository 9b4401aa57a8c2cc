// Package metric registers metrics on Caddy's registry. Each configuration has a registry of its own.
package metric

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// RegisterOrExisting registers c. If a collector of the same name is registered, it returns that one instead, so that two
// apps of one configuration can share a metric.
func RegisterOrExisting[C prometheus.Collector](registry prometheus.Registerer, c C) (C, error) {
	err := registry.Register(c)
	if registered, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		if existing, ok := registered.ExistingCollector.(C); ok {
			return existing, nil
		}
	}
	return c, err
}
