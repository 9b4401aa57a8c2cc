package boltstore

import (
	"bytes"
	"errors"
	"fmt"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
)

// ReadFile implements inbox.FileReader. It asks the file page by page: where one is damaged, it goes on behind it.
func (*Provider) ReadFile(path string, take func(m *inbox.Message) error, skipped func(what string)) error {
	var db *bbolt.DB
	err := guard(func() (err error) {
		db, err = bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockTimeout, ReadOnly: true})
		return err
	})
	if errors.Is(err, berrors.ErrTimeout) {
		return fmt.Errorf("the inbox's file %s is open: stop that Caddy, or leave --file away and ask it", path)
	}
	if err != nil {
		return (&Store{path: path}).explain(err)
	}
	defer guard(db.Close) //nolint:errcheck // nothing was written
	r := &reading{skipped: skipped}
	if err := r.begin(db); err != nil {
		return (&Store{path: path}).explain(err)
	}
	return r.run(db, take)
}

// reading is one reading of a file that may be damaged.
type reading struct {
	skipped func(what string)
	last    uint64 // the last seq given out; 0: not known
}

// begin checks whose the file is. What cannot be read of that does not keep the messages from being read.
func (r *reading) begin(db *bbolt.DB) error {
	var refused error
	if err := guard(func() error {
		return db.View(func(tx *bbolt.Tx) error {
			meta := tx.Bucket(bucketMeta)
			if meta == nil {
				refused = errForeign
				return nil
			}
			if refused = checkFormat(meta.Get(keyFormat)); refused != nil {
				return nil
			}
			c, err := decodeCounters(meta.Get(keyCounters))
			r.last = c.Last
			return err
		})
	}); err != nil {
		r.skipped("the file's counters cannot be read: " + err.Error())
	}
	return refused
}

// How many seqs are tried one by one behind what cannot be read, before the steps become longer; and how many in all where
// it is not known how many there are.
const (
	nearby  = 1 << 16
	faraway = 1 << 24
)

// run reads one message after the other, each in a transaction of its own, as a fault leaves no other usable.
func (r *reading) run(db *bbolt.DB, take func(m *inbox.Message) error) error {
	failing, tries, step := uint64(0), 0, uint64(1) // since which seq nothing can be read, how often, and how far to go on
	for from := uint64(1); ; {
		var (
			m     *inbox.Message
			found uint64 // 0: there is none from there on
			bad   error  // of this one message
		)
		err := guard(func() error {
			return db.View(func(tx *bbolt.Tx) error {
				requests := tx.Bucket(bucketRequests)
				if requests == nil {
					return errors.New("it has no messages")
				}
				k, raw := requests.Cursor().Seek(seqKey(from))
				if k == nil {
					return nil
				}
				if len(k) != 8 || decodeSeq(k) < from {
					return errDamaged
				}
				m, bad = r.message(tx, decodeSeq(k), raw)
				found = decodeSeq(k)
				return nil
			})
		})
		if err != nil {
			if failing == 0 {
				failing = from
			}
			if tries++; tries > nearby {
				step *= 2
			}
			if from += step; r.last > 0 && from > r.last || r.last == 0 && from-failing > faraway {
				r.skipped(fmt.Sprintf("from message %d on, nothing can be read: %v", failing, err))
				return nil
			}
			continue
		}
		if failing > 0 {
			if found == 0 {
				r.skipped(fmt.Sprintf("from message %d on, nothing can be read", failing))
			} else {
				r.skipped(fmt.Sprintf("from message %d to %d, nothing can be read", failing, found-1))
			}
			failing, tries, step = 0, 0, 1
		}
		if found == 0 {
			return nil
		}
		from = found + 1
		if bad != nil {
			r.skipped(fmt.Sprintf("message %d is left out: %v", found, bad))
			continue
		}
		if err := take(m); err != nil {
			return err
		}
		if from == 0 {
			return nil
		}
	}
}

// message reads one message. Where only what became of it cannot be read, its state is unknown.
func (r *reading) message(tx *bbolt.Tx, seq uint64, raw []byte) (*inbox.Message, error) {
	var (
		m       *inbox.Message
		content record
	)
	err := guard(func() (err error) {
		if content, err = decodeRecord(raw); err == nil {
			m = &inbox.Message{
				Seq: seq, ID: string(content.id), Key: string(content.key), Subject: string(content.subject), Received: content.received,
				Request: bytes.Clone(content.request), State: inbox.Unknown,
			}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := guard(func() error {
		whole, _, err := viewOf(tx).message(seq, raw)
		if err == nil {
			whole.Request = m.Request
			m = whole
		}
		return err
	}); err != nil {
		r.skipped(fmt.Sprintf("message %d: what became of it cannot be read: %v", seq, err))
	}
	return m, nil
}
