//go:build !race

package chinaums

// Without the race detector, a pool gives back what is put into it.
const raceEnabled = false
