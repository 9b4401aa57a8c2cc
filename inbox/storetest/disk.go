package storetest

import "os"

// TempOnDisk lets t.TempDir be on a disk in this process: where /tmp is in memory, as on many systems, a store that wants
// a disk refuses it. Call it in an init function of a test.
func TempOnDisk() {
	if !inMemory(os.TempDir()) {
		return
	}
	for _, directory := range []string{"/var/tmp", cacheDirectory()} {
		if directory != "" && !inMemory(directory) && writable(directory) {
			_ = os.Setenv("TMPDIR", directory) // it fails for names with = only
			return
		}
	}
}

func cacheDirectory() string {
	directory, err := os.UserCacheDir()
	if err != nil || os.MkdirAll(directory, 0o700) != nil {
		return ""
	}
	return directory
}

func writable(directory string) bool {
	made, err := os.MkdirTemp(directory, "inbox")
	return err == nil && os.Remove(made) == nil
}
