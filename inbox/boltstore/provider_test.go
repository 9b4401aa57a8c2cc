package boltstore

import (
	"os"
	"path/filepath"
	"testing"
)

// TestKeyStaysTheSame: the directory is behind a symbolic link, and is made by the first Open. The next configuration
// must find the store that is open, and not wait for its lock.
func TestKeyStaysTheSame(t *testing.T) {
	directory := t.TempDir()
	if err := os.Mkdir(filepath.Join(directory, "disk"), 0o700); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(directory, "data")
	if err := os.Symlink(filepath.Join(directory, "disk"), link); err != nil {
		t.Skip("symbolic links cannot be made here:", err)
	}
	p := &Provider{path: filepath.Join(link, "caddy", "inbox", "default.db")}
	before := p.Key("default")
	if err := os.MkdirAll(filepath.Dir(p.path), 0o700); err != nil {
		t.Fatal(err)
	}
	if after := p.Key("default"); after != before {
		t.Errorf("the key was %s before the directory was there, and is %s since", before, after)
	}
}
