//go:build faults

package faults

// normalKills are the kills of TestKilledUnderLoad.
const normalKills = 20
