// Package benchmark compares a piece of work with the least that it could cost. It is for benchmarks only.
package benchmark

import (
	"slices"
	"testing"
	"time"
)

// Ratio runs the benchmark's work. Then it runs, in short alternating turns, the work and a floor that the work cannot be
// faster than. It reports how many times longer the work takes.
//
// The value is the first quartile of the pairs of turns, because disturbances raise it: a neighbor on the same core slows
// the work down more than a floor that hashes in hardware, and a program that takes the processor away for a while is more
// likely to interrupt the longer of the two.
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
