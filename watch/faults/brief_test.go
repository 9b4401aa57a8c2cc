//go:build !faults

package faults

// How much the short runs do; the build tag faults brings the long ones.
const (
	long         = false
	normalKills  = 9
	normalCalls  = 150
	normalOrders = 60
)
