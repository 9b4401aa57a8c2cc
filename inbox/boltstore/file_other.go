//go:build !linux

package boltstore

// fileSystem cannot tell here.
func fileSystem(string) (name string, volatile bool) { return "", false }

// freeSpace cannot tell here.
func freeSpace(string) (bytes uint64, known bool) { return 0, false }

// forget cannot be done here.
func forget(string) {}
