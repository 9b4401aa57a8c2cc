// Package benchmark compares a piece of work with the least that it could take. It is for benchmarks only.
package benchmark

import (
	"slices"
	"testing"
	"time"
)

// Ratio runs the benchmark's work, and then, in short turns one after the other, the work and a floor that nobody can be
// faster than. It reports how many times longer the work takes: the first quartile of the pairs of turns, because a
// neighbor on the same core slows the work down more than a floor that hashes in hardware, and another program that
// takes the processor away for a while hits the longer of the two more often.
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
	ratios := make([]float64, 400)
	for i := range ratios {
		ratios[i] = float64(timed(work, count)) / float64(max(timed(floor, count), 1))
	}
	slices.Sort(ratios)
	b.ReportMetric(ratios[len(ratios)/4], "x-floor")
}
