package watch

import (
	"context"
	"errors"

	"go.uber.org/zap"
)

// Store keeps the rows of the watch: values under keys, each with a revision.
//
// What a store guarantees:
//
//   - Safe before said. Put and Delete return nil only when what they did would survive the loss of power (of a server that
//     keeps it elsewhere: as far as that server promises it).
//   - Compare and set. Put writes only where the key's revision is the one that is given; 0 means that there is no such
//     key. Of several that name one revision, one writes, whoever they are; the others get ErrConflict and have changed
//     nothing. A revision is never 0, and a key that is written again has a higher one, also where it was deleted between.
//   - In doubt it says so. Any other error leaves open whether the value was written: the caller reads it again.
//   - Whole. Get and All return values as they were put, byte for byte, never a mixture of two.
//   - A feed. Once Changes has returned, each later change of a key is reported, by one goroutine, in the order of its
//     revisions. Of changes that follow each other closely the last may stand for all, but the last one is never left out.
//     Changes and then All therefore miss nothing.
//   - Its costs grow with the number of rows as a logarithm does, at most, but for All, which reads everything. Many Puts at
//     once share what makes them safe.
//
// What the caller owes: keys have 1 to 200 bytes, values 1 byte to 512 KiB. Values are not changed after they were given or
// got. A function that is called with an entry returns soon, calls no method of the store, and keeps nothing of the value.
//
// All methods may be called from many goroutines at once. After Close each returns ErrClosed, but Close.
type Store interface {
	// Get returns the value of a key. ErrNotFound.
	Get(ctx context.Context, key string) (Entry, error)

	// Put writes a value and returns its revision. ErrConflict.
	Put(ctx context.Context, key string, value []byte, revision uint64) (uint64, error)

	// Delete removes a key that has this revision. ErrConflict, also where there is no such key.
	Delete(ctx context.Context, key string, revision uint64) error

	// All calls each for every key that was there when it began, in no order, until each returns an error, which it then
	// returns.
	All(ctx context.Context, each func(Entry) error) error

	// Changes reports changes until ctx ends, and returns as soon as it does so. A deleted key's entry has no value. What
	// interrupts the feed is bridged: nothing is left out.
	Changes(ctx context.Context, each func(Entry)) error

	// Shared reports whether other processes may write, too.
	Shared() bool

	// Close returns when nothing is being written any more.
	Close() error
}

// Entry is one key and its value.
type Entry struct {
	Key      string
	Value    []byte
	Revision uint64
}

// Errors of a Store.
var (
	ErrNotFound = errors.New("no such row")
	ErrConflict = errors.New("the row was changed meanwhile")
	ErrClosed   = errors.New("the watch's store is closed")
)

// Provider is a Caddy module of the namespace watch.stores: how the rows of a watch are kept.
type Provider interface {
	// Key names what the store of the watch `name` has for itself, such as a file: two configurations with one key share
	// one store, and two watches must not have one key. It is called after Provision.
	Key(name string) string

	// Open opens the store of the watch `name`, and makes it where there is none. The error names what to do.
	Open(ctx context.Context, name string, logger *zap.Logger) (Store, error)
}
