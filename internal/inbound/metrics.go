// Package inbound holds what the platforms share on the way in: the bounded body, the event's context as CloudEvents
// headers, the app's verdict, and the word that the platform gets.
package inbound

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-chinaums/caddy-chinaums/internal/metric"
	"github.com/caddy-chinaums/caddy-chinaums/internal/ratelog"
)

// Metrics counts notifies. Its methods may be called on nil.
type Metrics struct {
	notifies *prometheus.CounterVec
	last     *prometheus.GaugeVec
	app      *prometheus.HistogramVec

	// Strangers cause diagnoses: one is made at a time, and at most 20 a minute for all handlers of a platform.
	diagnosing sync.Mutex
	diagnoses  *ratelog.Limiter
}

// NewMetrics registers caddy_<subsystem>_notifies_total, caddy_<subsystem>_last_notify_timestamp_seconds and
// caddy_<subsystem>_app_duration_seconds. It uses the existing ones if they have been registered before.
func NewMetrics(registry prometheus.Registerer, subsystem string) (*Metrics, error) {
	m := &Metrics{
		notifies: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "caddy", Subsystem: subsystem, Name: "notifies_total",
			Help: "Notifies, by merchant, event type, result (taken, repeated, failed, rejected, observed) and reason.",
		}, []string{"merchant", "type", "result", "reason"}),
		last: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "caddy", Subsystem: subsystem, Name: "last_notify_timestamp_seconds",
			Help: "Unix time of the last notify whose signature was right.",
		}, []string{"merchant"}),
		app: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "caddy", Subsystem: subsystem, Name: "app_duration_seconds",
			Help:    "How long the app, or an inbox, took for an event, whether it has taken it or not.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"merchant"}),
		diagnoses: ratelog.New(20),
	}
	var err error
	if m.notifies, err = metric.RegisterOrExisting(registry, m.notifies); err != nil {
		return nil, err
	}
	if m.last, err = metric.RegisterOrExisting(registry, m.last); err != nil {
		return nil, err
	}
	if m.app, err = metric.RegisterOrExisting(registry, m.app); err != nil {
		return nil, err
	}
	return m, nil
}

// delivered records how long the app took.
func (m *Metrics) delivered(merchant string, took time.Duration) {
	if m != nil {
		m.app.WithLabelValues(merchant).Observe(took.Seconds())
	}
}

// diagnose says which known mistake explains a rejection, "" where it says nothing.
func (m *Metrics) diagnose(rejected *Rejection) string {
	if m == nil || rejected.Diagnose == nil || !m.diagnosing.TryLock() {
		return ""
	}
	defer m.diagnosing.Unlock()
	if _, ok := m.diagnoses.Allow(rejected.Reason); !ok {
		return ""
	}
	return rejected.Diagnose()
}

// Notified counts one notify. Every argument must come from a bounded set.
func (m *Metrics) Notified(merchant, eventType, result, reason string) {
	if m != nil {
		m.notifies.WithLabelValues(merchant, eventType, result, reason).Inc()
	}
}

// Verified records the time of the last notify whose signature was right.
func (m *Metrics) Verified(merchant string, at time.Time) {
	if m != nil {
		m.last.WithLabelValues(merchant).Set(float64(at.UnixMilli()) / 1000)
	}
}
