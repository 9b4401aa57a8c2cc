package boltstore

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"go.uber.org/zap"
)

// The buckets, by number.
const (
	inRequests = iota
	inRetrying
	inDelivered
	inDead
	inIDs
	inDue
	inExpiry
	inOrder
	inMeta
)

var buckets = [...][]byte{
	inRequests: []byte("requests"), inRetrying: []byte("retrying"), inDelivered: []byte("delivered"), inDead: []byte("dead"),
	inIDs: []byte("ids"), inDue: []byte("due"), inExpiry: []byte("expiry"), inOrder: []byte("order"), inMeta: []byte("meta"),
}

var (
	keyFormat   = []byte("format")
	keyCounters = []byte("counters")

	formatName = []byte("caddy inbox ")
	format     = append(bytes.Clone(formatName), '3')
)

const lockTimeout = time.Second // how long another process may hold the file when it is opened

// prepare makes the directory, and refuses one that is not on a disk.
func (s *Store) prepare() error {
	directory := filepath.Dir(s.path)
	if err := os.MkdirAll(directory, 0o700); err != nil {
		return fmt.Errorf("the inbox's directory: %w", err)
	}
	switch name, volatile := fileSystem(directory); {
	case volatile && !s.options.anywhere:
		return fmt.Errorf("the inbox's file %s would be in memory (%s) and lost with it: set `store bolt { path <file> }` to a file on a disk",
			s.path, name)
	case name != "" && !volatile:
		s.logger.Warn("the inbox's file is on a file system that may lose what it was told to sync, or its locks; "+
			"put it on a local disk (in a container: on a volume)", zap.String("path", s.path), zap.String("file_system", name))
	}
	return nil
}

// openFile opens the file, checks that it is an inbox's, and reads the counters.
func (s *Store) openFile() error {
	_, statErr := os.Stat(s.path)
	var (
		db       *bbolt.DB
		c        counters
		handle   *os.File
		identity os.FileInfo
	)
	err := guard(func() (err error) {
		if db, err = bbolt.Open(s.path, 0o600, &bbolt.Options{
			Timeout: lockTimeout, FreelistType: bbolt.FreelistMapType, NoSync: s.options.noSync,
			OpenFile: func(path string, flag int, mode os.FileMode) (_ *os.File, err error) {
				handle, err = os.OpenFile(path, flag, mode)
				return handle, err
			},
		}); err != nil {
			return err
		}
		if identity, err = handle.Stat(); err == nil {
			c, err = check(db, identity.Size())
		}
		return err
	})
	if err == nil && errors.Is(statErr, os.ErrNotExist) {
		err = syncDirectory(filepath.Dir(s.path))
	}
	if err != nil {
		if db != nil {
			_ = guard(db.Close) // the other error is the one to tell
		}
		return explain(s.path, err)
	}
	s.file.Lock()
	s.db = db
	s.file.Unlock()
	another := s.identity != nil && !os.SameFile(s.identity, identity)
	s.identity = identity
	s.lock.Lock()
	s.counters = c
	s.queue.reset(c, another)
	s.lock.Unlock()
	return nil
}

// warnMode warns of a file that others may read or write. What it is given is its owner's business.
func (s *Store) warnMode() {
	if mode := s.identity.Mode().Perm(); mode&^0o600 != 0 && runtime.GOOS != "windows" {
		s.logger.Warn("the inbox's file has what payers and the app told each other, and others may open it: chmod 600",
			zap.String("path", s.path), zap.String("mode", fmt.Sprintf("%04o", mode)))
	}
}

// inPlace makes sure that the open file is the one at the path.
func (s *Store) inPlace() error {
	now, err := os.Stat(s.path)
	if errors.Is(err, os.ErrNotExist) || err == nil && !os.SameFile(now, s.identity) {
		return errReplaced
	}
	return nil // where it cannot be told, the commit will tell
}

func explain(path string, err error) error {
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return fmt.Errorf("the inbox's file %s is held by another process (or another inbox): each gateway needs a file of its own", path)
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrVersionMismatch), errors.Is(err, berrors.ErrChecksum):
		return fmt.Errorf("%s is not an inbox's file, or damaged (%w); it is left as it is: move it away or set another path", path, err)
	}
	return fmt.Errorf("the inbox's file %s: %w", path, err)
}

var (
	errReplaced = errors.New("the file was removed or replaced while in use") // what is written would be lost
	errFormat   = errors.New("it is left as it is")
)

// readMeta reads the counters. It returns an error that wraps errFormat where the file is not an inbox's of this version.
func readMeta(tx *bbolt.Tx) (counters, error) {
	meta := tx.Bucket(buckets[inMeta])
	if meta == nil || !bytes.HasPrefix(meta.Get(keyFormat), formatName) {
		return counters{}, fmt.Errorf("it belongs to another program; %w: set another path", errFormat)
	}
	if is := meta.Get(keyFormat); !bytes.Equal(is, format) {
		version := map[int]string{-1: "an older", 1: "a newer"}[bytes.Compare(is, format)]
		return counters{}, fmt.Errorf("it was written by %s version of the inbox (format %q, this is %q); %w: use that version, or set another path",
			version, is, format, errFormat)
	}
	return decodeCounters(meta.Get(keyCounters))
}

// check makes sure that the file is an inbox's of this version, makes it one if it is empty, and reads the counters.
func check(db *bbolt.DB, size int64) (c counters, err error) {
	c.Low = 1
	empty := false
	err = db.View(func(tx *bbolt.Tx) (err error) {
		if tx.Size() > size {
			return fmt.Errorf("its end is missing: %d bytes of %d are there", size, tx.Size())
		}
		first, _ := tx.Cursor().First()
		if empty = first == nil; empty {
			return nil
		}
		c, err = readMeta(tx)
		return err
	})
	if err != nil || !empty {
		return c, err
	}
	return c, db.Update(func(tx *bbolt.Tx) error {
		for _, name := range buckets {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		meta := tx.Bucket(buckets[inMeta])
		return errors.Join(meta.Put(keyFormat, format), meta.Put(keyCounters, c.encode()))
	})
}

// syncDirectory makes the directory's new entry safe.
func syncDirectory(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	// Not every system can sync a directory, and those that cannot need not.
	_ = d.Sync()
	return d.Close()
}
