package chinaums

import (
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/internal/metric"
	"github.com/caddy-chinaums/caddy-chinaums/internal/ratelog"
	"github.com/caddy-chinaums/caddy-chinaums/internal/recent"
)

// maxSkew is how far this machine's clock may differ from the platform's before an operator is told. A call's timestamp
// is signed, and the platform refuses one that is too far off: then no call gets through any more.
const maxSkew = 60 * time.Second

// clockGuard compares this machine's clock with the platform's. Its methods may be called on nil.
type clockGuard struct {
	skew     *prometheus.GaugeVec
	logger   *zap.Logger
	warnings *ratelog.Limiter
	last     atomic.Pointer[parsedDate]
}

// parsedDate is a Date header, which changes once a second, and what it says.
type parsedDate struct {
	text string
	at   time.Time
}

func newClockGuard(registry prometheus.Registerer, logger *zap.Logger) (*clockGuard, error) {
	skew, err := metric.RegisterOrExisting(registry, prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Namespace: "caddy", Subsystem: "chinaums", Name: "clock_skew_seconds",
		Help: "How far this machine's clock is ahead of the platform's, by the header Date of the last answer.",
	}, []string{"merchant"}))
	return &clockGuard{skew: skew, logger: logger, warnings: ratelog.New(1)}, err
}

// answered looks at an answer of the platform's: its Date header, as precise as a second and the way back, and whether
// it refuses the call's time.
func (g *clockGuard) answered(merchant, date, errCode string, received time.Time) {
	if g == nil {
		return
	}
	refused := errCode == "ABNORMAL_REQUEST_TIME"
	at, known := g.parse(date)
	var skew time.Duration
	if known {
		skew = received.Sub(at)
		g.skew.WithLabelValues(merchant).Set(skew.Seconds())
		recent.Default.Skewed("chinaums", merchant, skew)
	}
	if !refused && skew.Abs() <= maxSkew {
		return
	}
	// The limiter's reasons stay bounded: merchants come from the configuration.
	suppressed, ok := g.warnings.Allow(merchant)
	if !ok {
		return
	}
	clock := []zap.Field{zap.String("merchant", merchant), zap.Bool("refused", refused), zap.Int("suppressed", suppressed)}
	if known {
		clock = append(clock, zap.Float64("skew_seconds", skew.Truncate(time.Second).Seconds()), zap.Time("platform_time", at))
	}
	g.logger.Warn("this machine's clock differs from the platform's, which refuses calls with ABNORMAL_REQUEST_TIME when it is too far off; "+
		"synchronize the clock (chronyd or systemd-timesyncd; on a virtual machine also the host's)", clock...)
}

// parse reads a Date header. Many answers of one second have the same.
func (g *clockGuard) parse(date string) (at time.Time, ok bool) {
	if last := g.last.Load(); last != nil && last.text == date {
		return last.at, true
	}
	at, err := http.ParseTime(date)
	if err != nil {
		return time.Time{}, false
	}
	g.last.Store(&parsedDate{date, at})
	return at, true
}
