//go:build race

package shouqianba

// With the race detector, a pool drops what is put into it at random.
const raceEnabled = true
