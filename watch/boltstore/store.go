// Package boltstore keeps a watch's rows in one file of this machine.
package boltstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/caddy-chinaums/caddy-chinaums/watch"
)

var (
	bucketRows = []byte("rows") // key → revision, 8 bytes, and value
	bucketMeta = []byte("caddy watch 1")
)

// maxBatch bounds one commit.
const maxBatch = 1024

type store struct {
	db     *bbolt.DB
	writes chan *write
	closed chan struct{} // no write begins any more
	done   chan struct{} // none is going on
	once   sync.Once

	mu        sync.Mutex
	listeners map[int]func(watch.Entry)
	listener  int
}

// write is one Put or Delete, which has no value.
type write struct {
	entry    watch.Entry // Revision is the one that is expected
	revision uint64
	err      error
	done     chan struct{}
}

// Open opens the file, and makes it where there is none.
func Open(path string) (watch.Store, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("the watch's directory: %w", err)
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second, FreelistType: bbolt.FreelistMapType})
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, fmt.Errorf("the watch's file %s is held by another process (or another watch): each gateway needs a file of its own", path)
	case err != nil:
		return nil, fmt.Errorf("the watch's file %s: %w; it is left as it is", path, err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		if first, _ := tx.Cursor().First(); first != nil && tx.Bucket(bucketMeta) == nil {
			return errors.New("it belongs to another program or version, and is left as it is: set another path")
		}
		_, err := tx.CreateBucketIfNotExists(bucketMeta)
		if err == nil {
			_, err = tx.CreateBucketIfNotExists(bucketRows)
		}
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the watch's file %s: %w", path, err), db.Close())
	}
	s := &store{db: db, writes: make(chan *write, maxBatch), closed: make(chan struct{}), done: make(chan struct{}),
		listeners: map[int]func(watch.Entry){}}
	go s.commit()
	return s, nil
}

// entry is what is kept under a key. The value is good as long as the transaction.
func entry(key, raw []byte) watch.Entry {
	return watch.Entry{Key: string(key), Value: raw[8:], Revision: binary.BigEndian.Uint64(raw)}
}

func (s *store) Shared() bool { return false }

func (s *store) Get(_ context.Context, key string) (e watch.Entry, err error) {
	err = s.view(func(rows *bbolt.Bucket) error {
		raw := rows.Get([]byte(key))
		if raw == nil {
			return watch.ErrNotFound
		}
		e = entry([]byte(key), raw)
		e.Value = bytes.Clone(e.Value)
		return nil
	})
	return e, err
}

func (s *store) view(read func(rows *bbolt.Bucket) error) error {
	err := s.db.View(func(tx *bbolt.Tx) error { return read(tx.Bucket(bucketRows)) })
	if errors.Is(err, berrors.ErrDatabaseNotOpen) {
		return watch.ErrClosed
	}
	return err
}

// pageOfRows is how many rows are read in one transaction, so that it does not keep the file from using its free pages again.
const pageOfRows = 10_000

func (s *store) All(ctx context.Context, each func(watch.Entry) error) error {
	var from []byte
	for {
		read := 0
		err := s.view(func(rows *bbolt.Bucket) error {
			c := rows.Cursor()
			k, raw := c.Seek(from)
			for ; k != nil && read < pageOfRows; k, raw = c.Next() {
				read++
				if err := each(entry(k, raw)); err != nil {
					return err
				}
			}
			from = bytes.Clone(k)
			return ctx.Err()
		})
		if err != nil || from == nil {
			return err
		}
	}
}

func (s *store) Changes(ctx context.Context, each func(watch.Entry)) error {
	select {
	case <-s.closed:
		return watch.ErrClosed
	default:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	number := s.listener
	s.listener++
	s.listeners[number] = each
	context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.listeners, number)
	})
	return nil
}

func (s *store) Put(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	return s.write(ctx, watch.Entry{Key: key, Value: value, Revision: revision})
}

func (s *store) Delete(ctx context.Context, key string, revision uint64) error {
	_, err := s.write(ctx, watch.Entry{Key: key, Revision: revision})
	return err
}

func (s *store) write(ctx context.Context, e watch.Entry) (uint64, error) {
	w := &write{entry: e, done: make(chan struct{})}
	select {
	case s.writes <- w:
	case <-s.closed:
		return 0, watch.ErrClosed
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	select {
	case <-w.done:
		return w.revision, w.err
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-s.done: // it may have been among the last
		select {
		case <-w.done:
			return w.revision, w.err
		default:
			return 0, watch.ErrClosed
		}
	}
}

// commit writes what is waiting, all in one transaction: while one is synced, the next batch gathers.
func (s *store) commit() {
	defer close(s.done)
	for {
		var batch []*write
		select {
		case w := <-s.writes:
			batch = append(batch, w)
		case <-s.closed:
			return
		}
	gather:
		for len(batch) < maxBatch {
			select {
			case w := <-s.writes:
				batch = append(batch, w)
			default:
				break gather
			}
		}
		err := s.db.Update(func(tx *bbolt.Tx) error {
			rows := tx.Bucket(bucketRows)
			rows.FillPercent = 0.8 // new numbers are mostly the highest
			for _, w := range batch {
				w.revision, w.err = apply(rows, w.entry)
				if w.err != nil && !errors.Is(w.err, watch.ErrConflict) {
					return w.err
				}
			}
			return nil
		})
		s.mu.Lock()
		for _, w := range batch {
			if err != nil {
				w.revision, w.err = 0, fmt.Errorf("the watch's file: %w", err)
			} else if w.err == nil {
				for _, each := range s.listeners {
					each(watch.Entry{Key: w.entry.Key, Value: w.entry.Value, Revision: w.revision})
				}
			}
			close(w.done)
		}
		s.mu.Unlock()
	}
}

// apply makes one change, if the key has the expected revision.
func apply(rows *bbolt.Bucket, e watch.Entry) (uint64, error) {
	key, is := []byte(e.Key), uint64(0)
	if raw := rows.Get(key); raw != nil {
		is = binary.BigEndian.Uint64(raw)
	}
	if is != e.Revision || e.Value == nil && is == 0 {
		return 0, watch.ErrConflict
	}
	revision, err := rows.NextSequence()
	if err != nil {
		return 0, err
	}
	if e.Value == nil {
		return revision, rows.Delete(key)
	}
	return revision, rows.Put(key, append(binary.BigEndian.AppendUint64(make([]byte, 0, 8+len(e.Value)), revision), e.Value...))
}

func (s *store) Close() error {
	s.once.Do(func() { close(s.closed) })
	<-s.done
	return s.db.Close()
}
