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
	numberRequests = iota
	numberRetrying
	numberDue
	numberDelivered
	numberDead
	numberExpiry
	numberOrder
	numberIndex
	numberMeta
)

var buckets = [...][]byte{
	bucketRequests, bucketRetrying, bucketDue, bucketDelivered, bucketDead, bucketExpiry, bucketOrder, bucketIndex, bucketMeta,
}

var (
	bucketRequests  = []byte("requests")
	bucketRetrying  = []byte("retrying")
	bucketDue       = []byte("due")
	bucketDelivered = []byte("delivered")
	bucketDead      = []byte("dead")
	bucketExpiry    = []byte("expiry")
	bucketOrder     = []byte("order")
	bucketIndex     = []byte("index")
	bucketMeta      = []byte("meta")

	keyFormat   = []byte("format")
	keyCounters = []byte("counters")

	formatName = []byte("caddy inbox ")
	format     = append(bytes.Clone(formatName), '2')
)

// lockTimeout is how long the file may be held by another process when it is opened.
const lockTimeout = time.Second

// prepare makes the directory, and refuses one that is not on a disk.
func (s *Store) prepare() error {
	directory := filepath.Dir(s.path)
	if err := os.MkdirAll(directory, 0o700); err != nil {
		return fmt.Errorf("the inbox's directory: %w", err)
	}
	kind, name := fileSystem(directory)
	if kind == volatile && !s.options.anywhere {
		return fmt.Errorf("the inbox's file %s would be in memory (%s) and lost with it: set `store bolt { path <file> }` to a file on a disk",
			s.path, name)
	}
	if kind == doubtful {
		s.logger.Warn("the inbox's file is on a file system that may lose what it was told to sync, or its locks; "+
			"put it on a local disk (in a container: on a volume)", zap.String("path", s.path), zap.String("file_system", name))
	}
	return nil
}

// What a file system is good for.
type suitability int

const (
	durable suitability = iota
	doubtful
	volatile
)

// openFile opens the file, checks that it is an inbox's, and reads what is kept in memory.
func (s *Store) openFile() error {
	_, statErr := os.Stat(s.path)
	var (
		db     *bbolt.DB
		handle *os.File
	)
	err := guard(func() (err error) {
		db, err = bbolt.Open(s.path, 0o600, &bbolt.Options{
			Timeout: lockTimeout, FreelistType: bbolt.FreelistMapType, NoSync: s.options.noSync,
			OpenFile: func(path string, flag int, mode os.FileMode) (f *os.File, err error) {
				f, err = os.OpenFile(path, flag, mode)
				handle = f
				return f, err
			},
		})
		return err
	})
	if err != nil {
		return s.explain(err)
	}
	var (
		c        counters
		identity os.FileInfo
	)
	err = guard(func() (err error) {
		if identity, err = handle.Stat(); err != nil {
			return err
		}
		if err := s.check(db); err != nil {
			return err
		}
		return db.View(func(tx *bbolt.Tx) (err error) {
			c, err = s.load(tx)
			return err
		})
	})
	if err == nil && errors.Is(statErr, os.ErrNotExist) {
		err = syncDirectory(filepath.Dir(s.path))
	}
	if err != nil {
		_ = guard(db.Close) // the other error is the one to tell
		return s.explain(err)
	}
	s.file.Lock()
	s.db = db
	s.file.Unlock()
	s.oldest, s.filled = moment{}, 0 // to be found out
	another := s.identity != nil && !os.SameFile(s.identity, identity)
	s.handle, s.identity = handle, identity
	s.lock.Lock()
	s.counters = c
	if another {
		s.queue.forget()
	}
	s.queue.reset(c.Low, c.Last)
	s.wake(len(s.queue.waiting))
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

// errReplaced says that what is written would be lost, though the system would not say so.
var errReplaced = errors.New("the file was removed or replaced while in use")

// inPlace makes sure that the open file is the one at the path.
func (s *Store) inPlace() error {
	now, err := os.Stat(s.path)
	if errors.Is(err, os.ErrNotExist) || err == nil && !os.SameFile(now, s.identity) {
		return errReplaced
	}
	return nil // where it cannot be told, the commit will
}

func (s *Store) explain(err error) error {
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return fmt.Errorf("the inbox's file %s is held by another process (or another inbox): each gateway needs a file of its own", s.path)
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrVersionMismatch), errors.Is(err, berrors.ErrChecksum):
		return fmt.Errorf("%s is not an inbox's file, or damaged (%w); it is left as it is: move it away or set another path", s.path, err)
	}
	return fmt.Errorf("the inbox's file %s: %w", s.path, err)
}

var errForeign = errors.New("it belongs to another program; it is left as it is: set another path")

// checkFormat says why a file of a format is not read, or nil.
func checkFormat(is []byte) error {
	switch {
	case !bytes.HasPrefix(is, formatName):
		return errForeign
	case bytes.Equal(is, format):
		return nil
	}
	version := "a newer"
	if bytes.Compare(is, format) < 0 {
		version = "an older"
	}
	return fmt.Errorf("it was written by %s version of the inbox (format %q, this is %q); it is left as it is: use that version, or set another path",
		version, is, format)
}

// check makes sure that the file is an inbox's of this version, and makes it one if it is empty.
func (s *Store) check(db *bbolt.DB) error {
	info, err := os.Stat(s.path)
	if err != nil {
		return err
	}
	empty := false
	err = db.View(func(tx *bbolt.Tx) error {
		if tx.Size() > info.Size() {
			return fmt.Errorf("its end is missing: %d bytes of %d are there", info.Size(), tx.Size())
		}
		meta := tx.Bucket(bucketMeta)
		if meta == nil {
			if k, _ := tx.Cursor().First(); k != nil {
				return errForeign
			}
			empty = true
			return nil
		}
		return checkFormat(meta.Get(keyFormat))
	})
	if err != nil || !empty {
		return err
	}
	return db.Update(func(tx *bbolt.Tx) error {
		for _, name := range buckets {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		meta := tx.Bucket(bucketMeta)
		return errors.Join(meta.Put(keyFormat, format), meta.Put(keyCounters, (&counters{Low: 1}).encode()))
	})
}

// load reads the counters and the newest ids.
func (s *Store) load(tx *bbolt.Tx) (counters, error) {
	v := viewOf(tx)
	c, err := decodeCounters(v.meta().Get(keyCounters))
	if err != nil {
		return c, err
	}
	if err := s.index.load(v.index()); err != nil {
		return c, err
	}
	cursor := v.requests().Cursor()
	for k, raw := cursor.Seek(seqKey(c.Indexed + 1)); k != nil; k, raw = cursor.Next() {
		r, err := decodeRecord(raw)
		if err != nil {
			s.logger.Error("a message of the inbox is damaged", zap.String("path", s.path), zap.Uint64("seq", decodeSeq(k)), zap.Error(err))
			continue
		}
		s.index.add(digestOf(string(r.id)), decodeSeq(k))
	}
	return c, nil
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
