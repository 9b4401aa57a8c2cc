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

// Storage is what a Slot needs of certmagic.Storage, which is Caddy's: Load returns fs.ErrNotExist for a key that is not
// there, Store replaces a value whole, and Lock waits until it has the lock or ctx ends.
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

// Load returns the value. An error is fs.ErrNotExist where there is none, ErrCannotOpen where there is one that this
// slot's box did not seal, or the storage's.
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

// Save seals value and stores it. When it returns nil, the value has been stored durably, as far as that can be known:
//
//   - whatever the storage is, it has said so, and has given the value back when asked;
//   - Caddy's own file storage writes a new file, syncs it to disk and renames it into its place, so that a crash leaves
//     the old value or the new one. Save then syncs the directories too, without which a loss of power could undo the
//     renaming.
//
// When it returns an error, either value may be there. ctx should not end with some client's patience.
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

// Locked runs work while no other holder of this slot's lock, in this process or in another that shares the storage, is
// at work. An error is work's, or the lock's. A storage's lock is not perfect: one whose holder was stopped for long
// (certmagic.FileStorage: 10 seconds) may be taken over, so what is done under it must be checked afterwards. After a
// crash, the same time passes before the lock can be had again.
func (s *Slot) Locked(ctx context.Context, work func() error) (err error) {
	if err := s.Storage.Lock(ctx, s.Key); err != nil {
		return fmt.Errorf("waiting for the lock of %s: %w", s.Key, err)
	}
	defer func() {
		// A lock must be given back even if the caller's time is over.
		if unlockErr := s.Storage.Unlock(context.WithoutCancel(ctx), s.Key); unlockErr != nil {
			err = errors.Join(err, fmt.Errorf("giving back the lock of %s: %w", s.Key, unlockErr))
		}
	}()
	return work()
}

// syncDirectories makes the entry of file durable, and those of the directories above it, which may be as new. Those
// above root are not the storage's; they are synced where that is allowed.
func syncDirectories(file, root string) error {
	if runtime.GOOS == "windows" {
		return nil // there a directory cannot be synced, and its changes are journaled
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
