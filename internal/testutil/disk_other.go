//go:build !linux

package testutil

func inMemory(string) bool { return false }
