package boltstore

import (
	"os"

	"golang.org/x/sys/unix"
)

// fileSystems are those that are no good for a file that is to outlive a loss of power.
var fileSystems = map[uint32]string{
	unix.TMPFS_MAGIC: "tmpfs", unix.RAMFS_MAGIC: "ramfs", unix.OVERLAYFS_SUPER_MAGIC: "overlay", unix.NFS_SUPER_MAGIC: "nfs",
	unix.SMB_SUPER_MAGIC: "smb", unix.CIFS_SUPER_MAGIC: "smb", unix.SMB2_SUPER_MAGIC: "smb", unix.V9FS_MAGIC: "9p", unix.FUSE_SUPER_MAGIC: "fuse",
}

// fileSystem returns the name of a directory's file system if it is no good, and whether it is in memory.
func fileSystem(directory string) (name string, volatile bool) {
	var stat unix.Statfs_t
	if unix.Statfs(directory, &stat) == nil {
		name = fileSystems[uint32(stat.Type)]
	}
	return name, name == "tmpfs" || name == "ramfs"
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
