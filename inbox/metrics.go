package inbox

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/internal/metric"
	"github.com/caddy-chinaums/caddy-chinaums/internal/ratelog"
)

// What is counted outlives a configuration, as the stores do: a reload does not set the counters back.
var (
	deliveriesTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "caddy", Subsystem: "inbox", Name: "deliveries_total",
		Help: "Deliveries, by inbox and result: delivered, failed, timeout, or dead where it was the last one.",
	}, []string{"inbox", "result"})
	putsTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "caddy", Subsystem: "inbox", Name: "puts_total",
		Help: "Requests that were to be stored, by inbox and result: stored, repeated, revived; or why not: full, slow, not_ready, closed, too_large, store.",
	}, []string{"inbox", "result"})
	storeDuration = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: "caddy", Subsystem: "inbox", Name: "store_duration_seconds",
		Help:    "How long storing a request safely took, successful or not.",
		Buckets: prometheus.ExponentialBuckets(0.0001, 2.5, 13), // to about 6 s
	}, []string{"inbox"})
)

// metrics counts what inboxes do. Its verbs may be called on nil. Inboxes come from the configuration: the labels are
// bounded.
type metrics struct {
	deliveries *prometheus.CounterVec
	puts       *prometheus.CounterVec
	stored     *prometheus.HistogramVec
}

func newMetrics(registry prometheus.Registerer, a *App) (*metrics, error) {
	m := new(metrics)
	var errs [4]error
	m.deliveries, errs[0] = metric.RegisterOrExisting(registry, deliveriesTotal)
	m.puts, errs[1] = metric.RegisterOrExisting(registry, putsTotal)
	m.stored, errs[2] = metric.RegisterOrExisting(registry, storeDuration)
	errs[3] = registry.Register(&collector{app: a, failures: ratelog.New(1)})
	return m, errors.Join(errs[:]...)
}

func (m *metrics) delivered(inbox, result string) {
	if m != nil {
		m.deliveries.WithLabelValues(inbox, result).Inc()
	}
}

// put counts one request that was to be stored. result is a receipt, or why there is none.
func (m *metrics) put(inbox, result string) {
	if m != nil {
		m.puts.WithLabelValues(inbox, result).Inc()
	}
}

func (m *metrics) took(inbox string, took time.Duration) {
	if m != nil {
		m.stored.WithLabelValues(inbox).Observe(took.Seconds())
	}
}

// scrapeTimeout bounds how long the stores may take to count, all together.
const scrapeTimeout = 3 * time.Second

var (
	messagesDesc = prometheus.NewDesc("caddy_inbox_messages", "Messages in the inbox, by state: pending, delivered, dead.",
		[]string{"inbox", "state"}, nil)
	oldestDesc = prometheus.NewDesc("caddy_inbox_oldest_seconds", "For how long the oldest pending message has waited; 0 if there is none.",
		[]string{"inbox"}, nil)
	bytesDesc    = prometheus.NewDesc("caddy_inbox_bytes", "How much of max_store the messages take.", []string{"inbox"}, nil)
	maxBytesDesc = prometheus.NewDesc("caddy_inbox_max_bytes", "The inbox's max_store.", []string{"inbox"}, nil)
)

// collector asks the stores when Prometheus asks. A store that cannot tell now is left out.
type collector struct {
	app      *App
	failures *ratelog.Limiter
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(descriptions chan<- *prometheus.Desc) {
	descriptions <- messagesDesc
	descriptions <- oldestDesc
	descriptions <- bytesDesc
	descriptions <- maxBytesDesc
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(values chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	for _, name := range c.app.Names() {
		store, ok := c.app.Lookup(name)
		if !ok {
			continue
		}
		stats, err := store.Stats(ctx)
		if err != nil {
			c.failures.Log(name, c.app.logger.Warn, "the inbox's messages could not be counted", zap.String("inbox", name), zap.Error(err))
			continue
		}
		gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
			values <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
		}
		gauge(messagesDesc, float64(stats.Pending), name, string(Pending))
		gauge(messagesDesc, float64(stats.Delivered), name, string(Delivered))
		gauge(messagesDesc, float64(stats.Dead), name, string(Dead))
		oldest := 0.0
		if !stats.Oldest.IsZero() {
			oldest = max(0, time.Since(stats.Oldest).Seconds())
		}
		gauge(oldestDesc, oldest, name)
		gauge(bytesDesc, float64(stats.Bytes), name)
		gauge(maxBytesDesc, float64(c.app.box(name).settings.MaxBytes), name)
	}
}

// Interface guards
var _ prometheus.Collector = (*collector)(nil)
