package seal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// Storage is the part of certmagic.Storage, Caddy's storage, that a Slot needs. Load returns fs.ErrNotExist if the key does
// not exist. Store replaces the whole value. Lock waits until it has the lock or ctx ends.
type Storage interface {
	Load(ctx context.Context, key string) ([]byte, error)
	Store(ctx context.Context, key string, value []byte) error
	Lock(ctx context.Context, name string) error
	Unlock(ctx context.Context, name string) error
}

// Slot is the place of one sealed value in a storage.
type Slot struct {
	Storage Storage
	Key     string // as in "shouqianba/terminals/…"; its parts must be file names on every system
	Box     *Box
}

// Load returns the value. The error is fs.ErrNotExist if there is none, ErrCannotOpen if this slot's box did not seal it,
// or an error of the storage.
func (s *Slot) Load(ctx context.Context) ([]byte, error) {
	sealed, err := s.Storage.Load(ctx, s.Key)
	if err != nil {
		return nil, fmt.Errorf("loading %s: %w", s.Key, err)
	}
	value, err := s.Box.Open(s.Key, sealed)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.Key, err)
	}
	return value, nil
}

// Save seals value and stores it. If it returns nil, the value is durable as far as Save can know:
//
//   - Any storage has reported success, and has returned the value when Save read it back.
//   - Caddy's file storage writes a new file, syncs it and renames it, so that a crash leaves the old value or the new one.
//     Save also syncs the directories, because otherwise a power loss could undo the renaming.
//
// If it returns an error, the old value or the new one may be stored. ctx should not be a client's: Save must not stop
// because a client goes away.
func (s *Slot) Save(ctx context.Context, value []byte) error {
	sealed := s.Box.Seal(s.Key, value)
	if err := s.Storage.Store(ctx, s.Key, sealed); err != nil {
		return fmt.Errorf("storing %s: %w", s.Key, err)
	}
	stored, err := s.Storage.Load(ctx, s.Key)
	if err != nil {
		return fmt.Errorf("storing %s: reading it back: %w", s.Key, err)
	}
	if !bytes.Equal(stored, sealed) {
		return fmt.Errorf("storing %s: reading it back: %w", s.Key, errOther)
	}
	if files, ok := s.Storage.(interface{ Filename(key string) string }); ok {
		if err := syncDirectories(files.Filename(s.Key), files.Filename("")); err != nil {
			return fmt.Errorf("storing %s: syncing its directory: %w", s.Key, err)
		}
	}
	return nil
}

var errOther = errors.New("another value is there")

// Locked runs work while it holds this slot's lock, which all processes that share the storage respect. It returns the
// error of work or of the lock.
//
// The lock is not perfect. If its holder is suspended for long (certmagic.FileStorage: 10 seconds), another process may
// take it over, so check afterwards what was done under it. After a crash, the lock is free again after the same time.
func (s *Slot) Locked(ctx context.Context, work func() error) (err error) {
	if err := s.Storage.Lock(ctx, s.Key); err != nil {
		return fmt.Errorf("waiting for the lock of %s: %w", s.Key, err)
	}
	defer func() {
		// The lock must be released even if the caller's context has ended.
		if unlockErr := s.Storage.Unlock(context.WithoutCancel(ctx), s.Key); unlockErr != nil {
			err = errors.Join(err, fmt.Errorf("giving back the lock of %s: %w", s.Key, unlockErr))
		}
	}()
	return work()
}

// syncDirectories makes the entry of file durable, and the entries of the directories above it, which may be new too.
// Directories above root do not belong to the storage; they are synced if that is permitted.
func syncDirectories(file, root string) error {
	if runtime.GOOS == "windows" {
		return nil // Windows cannot sync a directory, and journals its changes
	}
	root = filepath.Clean(root)
	for directory := filepath.Dir(file); ; directory = filepath.Dir(directory) {
		within := directory == root || strings.HasPrefix(directory, strings.TrimSuffix(root, string(filepath.Separator))+string(filepath.Separator))
		if err := syncDirectory(directory); err != nil && within {
			return err
		}
		if directory == filepath.Dir(directory) {
			return nil
		}
	}
}

func syncDirectory(name string) error {
	directory, err := os.Open(name)
	if err != nil {
		return err
	}
	defer directory.Close()
	return directory.Sync()
}
