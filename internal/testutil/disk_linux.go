package testutil

import "syscall"

// inMemory reports whether a directory is on a tmpfs.
func inMemory(directory string) bool {
	const tmpfs = 0x01021994
	var stat syscall.Statfs_t
	return syscall.Statfs(directory, &stat) == nil && uint32(stat.Type) == tmpfs
}
