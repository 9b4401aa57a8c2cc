//go:build linux

package main

import (
	"math"
	"slices"
)

// percentile is the value below which so many of a hundred are: the nearest rank. It sorts values.
func percentile(values []int64, percent float64) int64 {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	rank := int(math.Ceil(percent / 100 * float64(len(values))))
	return values[min(max(rank, 1), len(values))-1]
}

// spread is what several rounds have measured.
type spread struct{ Median, Min, Max float64 }

// spreadOf sums up the rounds. Of an even number the median is between the two in the middle.
func spreadOf(values []float64) spread {
	if len(values) == 0 {
		return spread{math.NaN(), math.NaN(), math.NaN()}
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	median := sorted[middle]
	if len(sorted)%2 == 0 {
		median = (sorted[middle-1] + median) / 2
	}
	return spread{median, sorted[0], sorted[len(sorted)-1]}
}

// ratios divides round by round: what the machine does in a round it does to both.
func ratios(values, floors []float64) []float64 {
	var all []float64
	for i, floor := range floors {
		if i < len(values) && floor > 0 {
			all = append(all, values[i]/floor)
		}
	}
	return all
}

// line is the straight line through points that leaves the least squares of relative errors: for a size that grows
// thousandfold each point counts the same.
func line(x, y []float64) (start, slope float64) {
	var s, sx, sy, sxx, sxy float64
	for i := range x {
		weight := 1 / (y[i] * y[i])
		s += weight
		sx += weight * x[i]
		sy += weight * y[i]
		sxx += weight * x[i] * x[i]
		sxy += weight * x[i] * y[i]
	}
	slope = (s*sxy - sx*sy) / (s*sxx - sx*sx)
	return (sy - slope*sx) / s, slope
}
