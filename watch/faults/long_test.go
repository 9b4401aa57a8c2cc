//go:build faults

package faults

// How much the long runs do.
const (
	long         = true
	normalKills  = 54
	normalCalls  = 2000
	normalOrders = 1000
)
