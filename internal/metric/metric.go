// Package metric helps to register metrics on Caddy's registry, of which each configuration has its own.
package metric

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// RegisterOrExisting registers c, or returns the collector of the same name that is registered already: two apps of one
// configuration may share a metric.
func RegisterOrExisting[C prometheus.Collector](registry prometheus.Registerer, c C) (C, error) {
	err := registry.Register(c)
	if registered, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		if existing, ok := registered.ExistingCollector.(C); ok {
			return existing, nil
		}
	}
	return c, err
}
