package boltstore

import (
	"os"

	"golang.org/x/sys/unix"
)

// fileSystem says what the file system of a directory is good for, and its name.
func fileSystem(directory string) (suitability, string) {
	var stat unix.Statfs_t
	if unix.Statfs(directory, &stat) != nil {
		return durable, ""
	}
	switch uint32(stat.Type) {
	case unix.TMPFS_MAGIC:
		return volatile, "tmpfs"
	case unix.RAMFS_MAGIC:
		return volatile, "ramfs"
	case unix.OVERLAYFS_SUPER_MAGIC:
		return doubtful, "overlay"
	case unix.NFS_SUPER_MAGIC:
		return doubtful, "nfs"
	case unix.SMB_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC:
		return doubtful, "smb"
	case unix.V9FS_MAGIC:
		return doubtful, "9p"
	case unix.FUSE_SUPER_MAGIC:
		return doubtful, "fuse"
	}
	return durable, ""
}

// freeSpace is how many bytes the disk has room for.
func freeSpace(path string) (bytes uint64, known bool) {
	var stat unix.Statfs_t
	if unix.Statfs(path, &stat) != nil {
		return 0, false
	}
	return stat.Bavail * uint64(stat.Bsize), true
}

// forget drops what the kernel has in memory of a file: after a failed sync that may be something that is not on the disk.
func forget(path string) {
	if f, err := os.Open(path); err == nil {
		_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
		_ = f.Close()
	}
}
