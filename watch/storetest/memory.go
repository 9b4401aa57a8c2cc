// Package storetest holds what every watch.Store has to pass, and a store in memory that can fail.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/caddy-chinaums/caddy-chinaums/watch"
)

// ErrDown is what a Memory returns that is down.
var ErrDown = errors.New("the store is down")

// Memory is a store in memory. Several watches may share it, as gateways share a server.
type Memory struct {
	// Lost is asked after a Put or Delete: with an error it is reported, though all was written. It is set before the store is used.
	Lost func(method, key string) error

	// Written is told each state of the store, before anybody else knows of it.
	Written func(rows map[string]watch.Entry)

	// Alone says that no other process writes.
	Alone bool

	fail      atomic.Pointer[func(method, key string) error]
	mu        sync.Mutex
	rows      map[string]watch.Entry
	revision  uint64
	listeners map[int]func(watch.Entry)
	listener  int
	closed    bool
}

// NewMemory returns a store with these rows.
func NewMemory(rows map[string]watch.Entry) *Memory {
	m := &Memory{rows: maps.Clone(rows), listeners: map[int]func(watch.Entry){}}
	if m.rows == nil {
		m.rows = map[string]watch.Entry{}
	}
	for _, e := range rows {
		m.revision = max(m.revision, e.Revision)
	}
	return m
}

// Rows returns what is there.
func (m *Memory) Rows() map[string]watch.Entry {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.rows)
}

// Fail lets fail be asked before each call from now on, by the method's name and its key: an error fails it.
func (m *Memory) Fail(fail func(method, key string) error) { m.fail.Store(&fail) }

func (m *Memory) begin(method, key string) error {
	if fail := m.fail.Load(); fail != nil {
		if err := (*fail)(method, key); err != nil {
			return err
		}
	}
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return watch.ErrClosed
	}
	return nil // with the lock
}

// Shared implements watch.Store.
func (m *Memory) Shared() bool { return !m.Alone }

// Get implements watch.Store.
func (m *Memory) Get(_ context.Context, key string) (watch.Entry, error) {
	if err := m.begin("Get", key); err != nil {
		return watch.Entry{}, err
	}
	defer m.mu.Unlock()
	e, ok := m.rows[key]
	if !ok {
		return e, watch.ErrNotFound
	}
	e.Value = bytes.Clone(e.Value)
	return e, nil
}

// Put implements watch.Store.
func (m *Memory) Put(_ context.Context, key string, value []byte, revision uint64) (uint64, error) {
	return m.write("Put", watch.Entry{Key: key, Value: bytes.Clone(value), Revision: revision})
}

// Delete implements watch.Store.
func (m *Memory) Delete(_ context.Context, key string, revision uint64) error {
	_, err := m.write("Delete", watch.Entry{Key: key, Revision: revision})
	return err
}

func (m *Memory) write(method string, e watch.Entry) (uint64, error) {
	if err := m.begin(method, e.Key); err != nil {
		return 0, err
	}
	defer m.mu.Unlock()
	if m.rows[e.Key].Revision != e.Revision || method == "Delete" && e.Revision == 0 {
		return 0, watch.ErrConflict
	}
	m.revision++
	e.Revision = m.revision
	if method == "Delete" {
		delete(m.rows, e.Key)
	} else {
		m.rows[e.Key] = e
	}
	if m.Written != nil {
		m.Written(maps.Clone(m.rows))
	}
	for _, number := range slices.Sorted(maps.Keys(m.listeners)) {
		m.listeners[number](e)
	}
	if m.Lost != nil {
		if err := m.Lost(method, e.Key); err != nil {
			return 0, err
		}
	}
	return e.Revision, nil
}

// All implements watch.Store.
func (m *Memory) All(ctx context.Context, each func(watch.Entry) error) error {
	if err := m.begin("All", ""); err != nil {
		return err
	}
	rows := slices.Collect(maps.Values(m.rows))
	m.mu.Unlock()
	for _, e := range rows {
		if err := each(e); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// Changes implements watch.Store.
func (m *Memory) Changes(ctx context.Context, each func(watch.Entry)) error {
	if err := m.begin("Changes", ""); err != nil {
		return err
	}
	defer m.mu.Unlock()
	m.listener++
	number := m.listener
	m.listeners[number] = each
	context.AfterFunc(ctx, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.listeners, number)
	})
	return nil
}

// Close implements watch.Store.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return nil
}
