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
		return explain(path, err)
	}
	defer guard(db.Close) //nolint:errcheck // nothing was written
	r := &reading{db: db, skipped: skipped}
	err = r.view(func(v *views) (err error) {
		r.counters, err = readMeta(v.tx)
		return err
	})
	if errors.Is(err, errFormat) {
		return explain(path, err)
	}
	if err != nil { // it does not keep the messages from being read
		skipped("the file's counters cannot be read: " + err.Error())
	}
	return r.run(take)
}

// reading is one reading of a file that may be damaged.
type reading struct {
	db       *bbolt.DB
	skipped  func(what string)
	counters counters // zero where they cannot be read
}

// view reads in a transaction of its own, as a fault leaves no other usable.
func (r *reading) view(read func(v *views) error) error {
	return guard(func() error {
		return r.db.View(func(tx *bbolt.Tx) error { return read(&views{tx: tx}) })
	})
}

// How many seqs are tried one by one behind what cannot be read, before the steps become longer; and how many in all where
// it is not known how many there are.
const (
	nearby  = 1 << 16
	faraway = 1 << 24
)

func (r *reading) run(take func(m *inbox.Message) error) error {
	failing, tries, step := uint64(0), 0, uint64(1) // since which seq nothing can be read, how often, and how far to go on
	for from := uint64(1); from != 0; {
		var (
			m     *inbox.Message
			found uint64 // 0: there is none from there on
			bad   error  // of this one message
		)
		err := r.view(func(v *views) error {
			k, raw := v.bucket(inRequests).Cursor().Seek(seqKey(from))
			if k != nil && (len(k) != 8 || decodeSeq(k) < from) {
				return errDamaged
			}
			if k != nil {
				m, bad = r.message(v, decodeSeq(k), raw)
				found = decodeSeq(k)
			}
			return nil
		})
		if err != nil {
			if failing == 0 {
				failing = from
			}
			if tries++; tries > nearby {
				step *= 2
			}
			last := r.counters.Last
			if from += step; last > 0 && from > last || last == 0 && from-failing > faraway {
				r.skipped(fmt.Sprintf("from message %d on, nothing can be read: %v", failing, err))
				return nil
			}
			continue
		}
		switch {
		case failing > 0 && found == 0:
			r.skipped(fmt.Sprintf("from message %d on, nothing can be read", failing))
		case failing > 0:
			r.skipped(fmt.Sprintf("from message %d to %d, nothing can be read", failing, found-1))
		}
		failing, tries, step = 0, 0, 1
		if found == 0 {
			return nil
		}
		from = found + 1
		if bad != nil {
			r.skipped(fmt.Sprintf("message %d is left out: %v", found, bad))
		} else if err := take(m); err != nil {
			return err
		}
	}
	return nil
}

// message reads one message. Where only what became of it cannot be read, its state is unknown.
func (r *reading) message(v *views, seq uint64, raw []byte) (m *inbox.Message, err error) {
	if err := guard(func() error {
		content, err := decodeRecord(raw)
		m = content.message(seq, inbox.Unknown)
		m.Request = bytes.Clone(content.request)
		return err
	}); err != nil {
		return nil, err
	}
	if err := guard(func() error {
		whole, _, err := v.message(seq, raw)
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
