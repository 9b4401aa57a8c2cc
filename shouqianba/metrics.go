package shouqianba

import "github.com/prometheus/client_golang/prometheus"

var checkinsDesc = prometheus.NewDesc("caddy_shouqianba_checkin_failures",
	"Attempts in a row to have a terminal's key of the day (activation, check-in) that have failed; 0: the last one has not.", []string{"merchant"}, nil)

// checkins tells of the terminals that the gateway owns. They outlive a configuration, so they are asked at each scrape.
type checkins struct{ app *App }

// Describe implements prometheus.Collector.
func (c checkins) Describe(descriptions chan<- *prometheus.Desc) { descriptions <- checkinsDesc }

// Collect implements prometheus.Collector.
func (c checkins) Collect(values chan<- prometheus.Metric) {
	for _, t := range c.app.terminals.All() {
		if t.keeper != nil {
			values <- prometheus.MustNewConstMetric(checkinsDesc, prometheus.GaugeValue, float64(t.keeper.failed()), t.name)
		}
	}
}

// failed is how many runs in a row have failed.
func (k *keeper) failed() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.failures
}

// Interface guards
var _ prometheus.Collector = checkins{}
