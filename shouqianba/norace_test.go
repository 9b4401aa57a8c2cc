//go:build !race

package shouqianba

// Without the race detector, a pool gives back what is put into it.
const raceEnabled = false
