//go:build !faults

package faults

// normalKills are the kills of TestKilledUnderLoad, of which there are more with the build tag faults.
const normalKills = 2
