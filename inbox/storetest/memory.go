package storetest

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
)

// Memory is the contract of inbox.Store in its plainest form: nothing outlives the process, and its costs grow with the
// number of messages. It is what the inbox's own tests deliver from, and it can fail like a real store.
type Memory struct {
	now func() time.Time

	mu       sync.Mutex
	settings inbox.Settings
	records  []*record     // in the order of their seq
	last     uint64        // seq
	changed  chan struct{} // closed at every change, for those who wait
	failures map[string]error
	puts     func() // before a put is carried out, outside of the lock
	closed   bool
}

// record is a message, and the number of its lease: 0 while nobody has it.
type record struct {
	inbox.Message
	holder, holders int
}

// size is what a message counts against MaxBytes.
func size(m *inbox.Message) int64 { return int64(len(m.ID) + len(m.Subject) + len(m.Request) + 64) }

// NewMemory makes a store that goes by the clock now.
func NewMemory(settings inbox.Settings, now func() time.Time) *Memory {
	return &Memory{now: now, settings: settings, changed: make(chan struct{}), failures: make(map[string]error)}
}

// change changes something, and tells those who wait.
func (m *Memory) change(what func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	what()
	m.wake()
}

// Fail lets every call of a method, such as "Put", return err, those that wait included; nil heals it.
func (m *Memory) Fail(method string, err error) { m.change(func() { m.failures[method] = err }) }

// HoldPuts calls hold before each Put is carried out; nil ends that.
func (m *Memory) HoldPuts(hold func()) { m.change(func() { m.puts = hold }) }

// Wake looks at the clock again, for those who wait for a message to be due.
func (m *Memory) Wake() { m.change(func() {}) }

func (m *Memory) wake() {
	close(m.changed)
	m.changed = make(chan struct{})
}

// call does what a method does, unless that cannot be done.
func call[T any](ctx context.Context, m *Memory, method string, do func() (T, error)) (T, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var none T
	switch err := m.failures[method]; {
	case ctx.Err() != nil:
		return none, ctx.Err()
	case m.closed:
		return none, inbox.ErrClosed
	case err != nil:
		return none, err
	}
	return do()
}

// Configure implements inbox.Store.
func (m *Memory) Configure(settings inbox.Settings) error {
	return errorOf(call(context.Background(), m, "Configure", func() (any, error) {
		m.settings = settings
		m.wake()
		return nil, nil
	}))
}

// Settings are those that it goes by.
func (m *Memory) Settings() inbox.Settings {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.settings
}

// Closed reports whether it is closed.
func (m *Memory) Closed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.closed
}

// Put implements inbox.Store. It forgets what was delivered longer ago than is to be remembered.
func (m *Memory) Put(ctx context.Context, message *inbox.Message) (inbox.Receipt, error) {
	m.mu.Lock()
	hold := m.puts
	m.mu.Unlock()
	if hold != nil {
		hold()
	}
	return call(ctx, m, "Put", func() (inbox.Receipt, error) {
		m.remove(func(r *record) bool {
			return r.State == inbox.Delivered && m.now().Sub(r.Settled) > m.settings.Remember
		})
		r := m.find(func(r *record) bool { return r.ID == message.ID })
		receipt, more := inbox.Stored, size(message)
		if r != nil {
			receipt, more = inbox.Revived, more-size(&r.Message)
		}
		switch {
		case r != nil && r.State != inbox.Dead:
			return inbox.Repeated, nil
		case !m.room(more):
			return 0, inbox.ErrFull
		case r == nil:
			m.last++
			r = &record{Message: inbox.Message{Seq: m.last}}
			m.records = append(m.records, r)
		}
		r.Message = inbox.Message{
			Seq: r.Seq, ID: message.ID, Key: message.Key, Subject: message.Subject, Received: message.Received,
			Request: bytes.Clone(message.Request), State: inbox.Pending, Due: m.now(),
		}
		m.wake()
		return receipt, nil
	})
}

func (m *Memory) find(is func(r *record) bool) *record {
	if i := slices.IndexFunc(m.records, is); i >= 0 {
		return m.records[i]
	}
	return nil
}

func (m *Memory) at(seq uint64) *record { return m.find(func(r *record) bool { return r.Seq == seq }) }

// remove removes the messages of which that is true, and returns how many.
func (m *Memory) remove(is func(r *record) bool) int {
	before := len(m.records)
	m.records = slices.DeleteFunc(m.records, is)
	return before - len(m.records)
}

func (m *Memory) bytes() (sum int64) {
	for _, r := range m.records {
		sum += size(&r.Message)
	}
	return sum
}

// room makes room for so many bytes more, and reports whether there is.
func (m *Memory) room(more int64) bool {
	over := m.bytes() + more - m.settings.MaxBytes
	for _, r := range m.records {
		if m.settings.MaxBytes > 0 && over > 0 && r.State == inbox.Delivered {
			over -= int64(len(r.Request))
			r.Request = nil
		}
	}
	return m.settings.MaxBytes == 0 || over <= 0
}

// Lease implements inbox.Store.
func (m *Memory) Lease(ctx context.Context) (*inbox.Message, error) {
	for {
		var changed <-chan struct{}
		var wait time.Duration
		leased, err := call(ctx, m, "Lease", func() (leased *inbox.Message, err error) {
			leased, wait = m.next()
			changed = m.changed
			return leased, nil
		})
		if leased != nil || err != nil {
			return leased, err
		}
		select {
		case <-changed:
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

// next leases the message that has been due for longest, or says how long it is until one will be.
func (m *Memory) next() (leased *inbox.Message, wait time.Duration) {
	now, wait := m.now(), time.Hour
	blocked := make(map[string]bool)
	for _, r := range m.records {
		blocked[r.Key] = blocked[r.Key] || r.holder != 0 && r.Key != ""
	}
	var found *record
	for _, r := range m.records {
		if r.State != inbox.Pending || r.holder != 0 || blocked[r.Key] {
			continue
		}
		blocked[r.Key] = r.Key != "" // by this one, the first of its key
		left := r.Due.Sub(now)
		switch {
		case left > 0 && left <= m.settings.MaxDelay:
			wait = min(wait, left)
		case found == nil || r.Due.Before(found.Due):
			found = r
		}
	}
	if found == nil {
		return nil, wait
	}
	found.holders++
	found.holder = found.holders
	leased = found.copy(true)
	leased.Lease = found.holder
	return leased, 0
}

// copy is the caller's.
func (r *record) copy(request bool) *inbox.Message {
	m := r.Message
	if m.Request = nil; request {
		m.Request = bytes.Clone(r.Request)
	}
	return &m
}

// Settle implements inbox.Store.
func (m *Memory) Settle(ctx context.Context, message *inbox.Message, outcome inbox.Outcome) error {
	return errorOf(call(ctx, m, "Settle", func() (any, error) {
		r := m.at(message.Seq)
		if r == nil || r.holder == 0 || message.Lease != r.holder {
			return nil, nil
		}
		r.holder = 0
		m.wake()
		if outcome.Released {
			return nil, nil
		}
		r.Answer, r.State = outcome.Answer, outcome.Result
		if outcome.Result != inbox.Delivered {
			r.Attempts++
		}
		if outcome.Result == inbox.Pending {
			r.Due = m.now().Add(outcome.Delay)
		} else {
			r.Settled = m.now()
		}
		return nil, nil
	}))
}

// List implements inbox.Store.
func (m *Memory) List(ctx context.Context, query inbox.Query) ([]*inbox.Message, error) {
	return call(ctx, m, "List", func() (found []*inbox.Message, err error) {
		for _, r := range m.records {
			if len(found) < query.Limit && r.Seq > query.After && (query.State == "" || query.State == r.State) && query.Matches(&r.Message) {
				found = append(found, r.copy(false))
			}
		}
		return found, nil
	})
}

// Get implements inbox.Store.
func (m *Memory) Get(ctx context.Context, seq uint64) (*inbox.Message, error) {
	return call(ctx, m, "Get", func() (*inbox.Message, error) {
		r := m.at(seq)
		if r == nil {
			return nil, inbox.ErrNotFound
		}
		return r.copy(true), nil
	})
}

// Redeliver implements inbox.Store.
func (m *Memory) Redeliver(ctx context.Context, seq uint64, force bool) (uint64, error) {
	return call(ctx, m, "Redeliver", func() (uint64, error) {
		r := m.at(seq)
		switch {
		case r == nil:
			return 0, inbox.ErrNotFound
		case r.holder != 0:
			return 0, inbox.ErrLeased
		case r.State == inbox.Delivered && !force:
			return 0, inbox.ErrDelivered
		case r.State == inbox.Delivered && r.Request == nil:
			return 0, inbox.ErrNoRequest
		case r.State != inbox.Pending:
			r.State, r.Attempts, r.Settled = inbox.Pending, 0, time.Time{}
		}
		r.Due = m.now()
		m.wake()
		return seq, nil
	})
}

// Delete implements inbox.Store.
func (m *Memory) Delete(ctx context.Context, seq uint64, force bool) error {
	return errorOf(call(ctx, m, "Delete", func() (any, error) {
		r := m.at(seq)
		switch {
		case r == nil:
			return nil, inbox.ErrNotFound
		case r.holder != 0:
			return nil, inbox.ErrLeased
		case r.State == inbox.Pending && !force:
			return nil, inbox.ErrPending
		}
		m.remove(func(other *record) bool { return other == r })
		m.wake()
		return nil, nil
	}))
}

// DeleteDead implements inbox.Store.
func (m *Memory) DeleteDead(ctx context.Context, before time.Time) (int, error) {
	return call(ctx, m, "DeleteDead", func() (int, error) {
		return m.remove(func(r *record) bool { return r.State == inbox.Dead && (before.IsZero() || r.Settled.Before(before)) }), nil
	})
}

// Stats implements inbox.Store.
func (m *Memory) Stats(ctx context.Context) (inbox.Stats, error) {
	return call(ctx, m, "Stats", func() (inbox.Stats, error) {
		stats := inbox.Stats{Bytes: m.bytes()}
		for _, r := range m.records {
			switch r.State {
			case inbox.Pending:
				stats.Pending++
				if stats.Oldest.IsZero() || r.Received.Before(stats.Oldest) {
					stats.Oldest = r.Received
				}
			case inbox.Delivered:
				stats.Delivered++
			case inbox.Dead:
				stats.Dead++
			}
		}
		return stats, nil
	})
}

// Close implements inbox.Store.
func (m *Memory) Close() error {
	m.change(func() { m.closed = true })
	return nil
}

// Interface guards
var _ inbox.Store = (*Memory)(nil)
