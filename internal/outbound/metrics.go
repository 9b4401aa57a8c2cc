package outbound

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-chinaums/caddy-chinaums/internal/metric"
)

// Metrics counts calls. Its methods may be called on nil.
type Metrics struct {
	calls    *prometheus.CounterVec
	duration *prometheus.HistogramVec
}

// NewMetrics registers caddy_<subsystem>_calls_total and caddy_<subsystem>_call_duration_seconds, or finds them
// registered already: several apps of one configuration share a registry.
func NewMetrics(registry prometheus.Registerer, subsystem string) (*Metrics, error) {
	m := &Metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "caddy", Subsystem: subsystem, Name: "calls_total",
			Help: "Calls to the platform, by merchant, error code and outcome (answered, not_sent, unknown).",
		}, []string{"merchant", "errcode", "outcome"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "caddy", Subsystem: subsystem, Name: "call_duration_seconds",
			Help:    "Time from the guard's decision to the end of the answer, of calls that were sent.",
			Buckets: []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
		}, []string{"merchant"}),
	}
	var err error
	if m.calls, err = metric.RegisterOrExisting(registry, m.calls); err != nil {
		return nil, err
	}
	if m.duration, err = metric.RegisterOrExisting(registry, m.duration); err != nil {
		return nil, err
	}
	return m, nil
}

func (m *Metrics) called(merchant, errCode string, outcome Outcome, sent bool, took time.Duration) {
	if m == nil {
		return
	}
	m.calls.WithLabelValues(merchant, errCode, string(outcome)).Inc()
	if sent {
		m.duration.WithLabelValues(merchant).Observe(took.Seconds())
	}
}
