//go:build !linux

package storetest

func inMemory(string) bool { return false }
