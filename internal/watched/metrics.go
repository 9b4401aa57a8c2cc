package watched

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-chinaums/caddy-chinaums/internal/metric"
)

// metrics counts what the watch does.
type metrics struct {
	queries, found, unwritten *prometheus.CounterVec
	label                     func(string) string
}

func newMetrics(registry prometheus.Registerer, w *Watched) (m *metrics, err error) {
	counter := func(options prometheus.CounterOpts, label string) (c *prometheus.CounterVec) {
		if err == nil {
			c, err = metric.RegisterOrExisting(registry, prometheus.NewCounterVec(options, []string{label}))
		}
		return c
	}
	name := w.parts.Name
	m = &metrics{label: w.parts.Label}
	m.queries = counter(prometheus.CounterOpts{
		Namespace: "caddy", Subsystem: name, Name: "watch_queries_total",
		Help: "Queries of the watch, by result (found, absent, busy, unanswered, unreadable).",
	}, "result")
	m.found = counter(prometheus.CounterOpts{
		Namespace: "caddy", Subsystem: name, Name: "watch_found_total", Help: "Events that a query has found and no notify had told, by type.",
	}, "type")
	m.unwritten = counter(prometheus.CounterOpts{
		Namespace: "caddy", Subsystem: name, Name: "watch_unwritten_total", Help: "Calls, notifies and outcomes that could not be written down at once, by kind.",
	}, "kind")
	if err == nil {
		err = registry.Register(&collector{
			w: w,
			orders: describe(prometheus.Opts{
				Namespace: "caddy", Subsystem: name, Name: "watch_orders", Help: "Orders that the watch follows, or that are stuck, by state.",
			}, "state"),
			oldest: describe(prometheus.Opts{
				Namespace: "caddy", Subsystem: name, Name: "watch_oldest_unresolved_seconds",
				Help: "How long the oldest unknown outcome has been unknown; 0: there is none.",
			}),
		})
	}
	return m, err
}

func describe(o prometheus.Opts, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName(o.Namespace, o.Subsystem, o.Name), o.Help, labels, nil)
}

// count implements watch.Parts.Count.
func (m *metrics) count(what, label string) {
	switch what {
	case "query":
		m.queries.WithLabelValues(label).Inc()
	case "found":
		m.found.WithLabelValues(m.label(label)).Inc()
	case "unwritten":
		m.unwritten.WithLabelValues(label).Inc()
	}
}

// collector reads what is followed at each scrape.
type collector struct {
	w              *Watched
	orders, oldest *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	out <- c.orders
	out <- c.oldest
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	w := c.w.Watch()
	if w == nil {
		return
	}
	stats := w.Stats()
	for state, count := range stats.States {
		name := string(state)
		if name == "" {
			name = "unknown" // only a refund or a notify has told of it
		}
		out <- prometheus.MustNewConstMetric(c.orders, prometheus.GaugeValue, float64(count), name)
	}
	age := 0.0
	if !stats.Oldest.IsZero() {
		age = time.Since(stats.Oldest).Seconds()
	}
	out <- prometheus.MustNewConstMetric(c.oldest, prometheus.GaugeValue, age)
}

// Interface guards
var _ prometheus.Collector = (*collector)(nil)
