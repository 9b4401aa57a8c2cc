// Package benchmark compares a piece of work with the least that it could take. It is for benchmarks only.
package benchmark

import (
	"slices"
	"testing"
	"time"
)

// Ratio runs the benchmark's work, and then, in short turns one after the other, the work and a floor that nobody
// can be faster than. It reports how many times longer the work takes. Of each it takes the first quartile of the turns:
// another program that takes the processor away for a while makes some turns longer, and the longer work's more often.
func Ratio(b *testing.B, work, floor func()) {
	b.Helper()
	b.ReportAllocs()
	for b.Loop() {
		work()
	}
	b.StopTimer()
	timed := func(run func(), count int) time.Duration {
		start := time.Now()
		for range count {
			run()
		}
		return time.Since(start)
	}
	count := min(b.N/100, int(100*time.Microsecond/max(timed(work, 1), 1))) + 1
	works, floors := make([]time.Duration, 400), make([]time.Duration, 400)
	for i := range works {
		works[i], floors[i] = timed(work, count), timed(floor, count)
	}
	slices.Sort(works)
	slices.Sort(floors)
	quartile := len(works) / 4
	b.ReportMetric(float64(works[quartile])/float64(max(floors[quartile], 1)), "x-floor")
}
