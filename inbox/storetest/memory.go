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
	records  map[uint64]*record
	inOrder  []*record // of their seq
	byID     map[string]*record
	last     uint64        // seq
	bytes    int64         // what counts against MaxBytes
	changed  chan struct{} // closed at every change, for those who wait
	failures map[string]error
	puts     func() // before a put is carried out, outside of the lock
	closed   bool
}

// record is a message, and the number of its lease: 0 while nobody has it.
type record struct {
	inbox.Message
	holder  int
	holders int
	size    int64
}

// overhead is about what a message takes besides its id and request.
const overhead = 64

// NewMemory makes a store that goes by the clock now.
func NewMemory(settings inbox.Settings, now func() time.Time) *Memory {
	return &Memory{
		now: now, settings: settings, records: make(map[uint64]*record), byID: make(map[string]*record),
		changed: make(chan struct{}), failures: make(map[string]error),
	}
}

// Fail lets every call of a method, such as "Put", return err, those that wait included; nil heals it.
func (m *Memory) Fail(method string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failures[method] = err
	m.wake()
}

// HoldPuts calls hold before each Put is carried out; nil ends that.
func (m *Memory) HoldPuts(hold func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.puts = hold
}

// Wake looks at the clock again, for those who wait for a message to be due.
func (m *Memory) Wake() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wake()
}

func (m *Memory) wake() {
	close(m.changed)
	m.changed = make(chan struct{})
}

// enter takes the lock and returns why a call cannot be done; then the lock is free.
func (m *Memory) enter(ctx context.Context, method string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	err := m.failures[method]
	if m.closed {
		err = inbox.ErrClosed
	}
	if err != nil {
		m.mu.Unlock()
	}
	return err
}

// Configure implements inbox.Store.
func (m *Memory) Configure(settings inbox.Settings) error {
	if err := m.enter(context.Background(), "Configure"); err != nil {
		return err
	}
	defer m.mu.Unlock()
	m.settings = settings
	m.wake()
	return nil
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

// Put implements inbox.Store.
func (m *Memory) Put(ctx context.Context, message *inbox.Message) (inbox.Receipt, error) {
	m.mu.Lock()
	hold := m.puts
	m.mu.Unlock()
	if hold != nil {
		hold()
	}
	if err := m.enter(ctx, "Put"); err != nil {
		return 0, err
	}
	defer m.mu.Unlock()
	m.forget()
	r, receipt := m.byID[message.ID], inbox.Revived
	size := int64(len(message.ID) + len(message.Subject) + len(message.Request) + overhead)
	switch {
	case r != nil && r.State != inbox.Dead:
		return inbox.Repeated, nil
	case r != nil:
		if !m.room(size - r.size) {
			return 0, inbox.ErrFull
		}
		m.bytes -= r.size
	default:
		if !m.room(size) {
			return 0, inbox.ErrFull
		}
		m.last++
		r, receipt = &record{Message: inbox.Message{Seq: m.last, ID: message.ID}}, inbox.Stored
		m.records[r.Seq], m.byID[r.ID], m.inOrder = r, r, append(m.inOrder, r)
	}
	r.Key, r.Subject, r.Received, r.Request, r.size = message.Key, message.Subject, message.Received, bytes.Clone(message.Request), size
	r.State, r.Attempts, r.Answer, r.Settled, r.Due = inbox.Pending, 0, inbox.Answer{}, time.Time{}, m.now()
	m.bytes += size
	m.wake()
	return receipt, nil
}

// forget removes what was delivered longer ago than is to be remembered.
func (m *Memory) forget() {
	m.inOrder = slices.DeleteFunc(m.inOrder, func(r *record) bool {
		old := r.State == inbox.Delivered && m.now().Sub(r.Settled) > m.settings.Remember
		if old {
			m.remove(r)
		}
		return old
	})
}

// remove takes a message out of all but inOrder.
func (m *Memory) remove(r *record) {
	m.bytes -= r.size
	delete(m.records, r.Seq)
	delete(m.byID, r.ID)
}

// room makes room for size more bytes, and reports whether there is.
func (m *Memory) room(size int64) bool {
	for _, r := range m.inOrder {
		if m.settings.MaxBytes == 0 || m.bytes+size <= m.settings.MaxBytes {
			break
		}
		if r.State == inbox.Delivered {
			m.bytes -= int64(len(r.Request))
			r.size -= int64(len(r.Request))
			r.Request = nil
		}
	}
	return m.settings.MaxBytes == 0 || m.bytes+size <= m.settings.MaxBytes
}

// Lease implements inbox.Store.
func (m *Memory) Lease(ctx context.Context) (*inbox.Message, error) {
	for {
		if err := m.enter(ctx, "Lease"); err != nil {
			return nil, err
		}
		r, wait := m.next()
		if r != nil {
			r.holders++
			r.holder = r.holders
			message := r.Message
			message.Request, message.Lease = bytes.Clone(r.Request), r.holder
			m.mu.Unlock()
			return &message, nil
		}
		changed := m.changed
		m.mu.Unlock()
		var due <-chan time.Time
		if wait > 0 {
			timer := time.NewTimer(wait)
			defer timer.Stop()
			due = timer.C
		}
		select {
		case <-changed:
		case <-due:
		case <-ctx.Done():
		}
	}
}

// next returns the message that has been due for longest, or how long it is until one will be; 0: for ever.
func (m *Memory) next() (found *record, wait time.Duration) {
	now := m.now()
	blocked := make(map[string]bool)
	for _, r := range m.records {
		if r.holder != 0 {
			blocked[r.Key] = r.Key != ""
		}
	}
	for _, r := range m.inOrder {
		if r.State != inbox.Pending || r.holder != 0 || blocked[r.Key] {
			continue
		}
		blocked[r.Key] = r.Key != "" // by this one, the first of its key
		left := r.Due.Sub(now)
		switch {
		case left > 0 && left <= m.settings.MaxDelay:
			if wait == 0 || left < wait {
				wait = left
			}
		case found == nil || r.Due.Before(found.Due):
			found = r
		}
	}
	return found, wait
}

// Settle implements inbox.Store.
func (m *Memory) Settle(ctx context.Context, message *inbox.Message, outcome inbox.Outcome) error {
	if err := m.enter(ctx, "Settle"); err != nil {
		return err
	}
	defer m.mu.Unlock()
	r := m.records[message.Seq]
	if r == nil || r.holder == 0 || message.Lease != r.holder {
		return nil
	}
	r.holder = 0
	m.wake()
	if outcome.Released {
		return nil
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
	return nil
}

// List implements inbox.Store.
func (m *Memory) List(ctx context.Context, query inbox.Query) ([]*inbox.Message, error) {
	if err := m.enter(ctx, "List"); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	var found []*inbox.Message
	for _, r := range m.inOrder {
		if len(found) < query.Limit && r.Seq > query.After && (query.State == "" || query.State == r.State) && query.Matches(&r.Message) {
			message := r.Message
			message.Request = nil
			found = append(found, &message)
		}
	}
	return found, nil
}

// Get implements inbox.Store.
func (m *Memory) Get(ctx context.Context, seq uint64) (*inbox.Message, error) {
	if err := m.enter(ctx, "Get"); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	r := m.records[seq]
	if r == nil {
		return nil, inbox.ErrNotFound
	}
	message := r.Message
	message.Request = bytes.Clone(r.Request)
	return &message, nil
}

// Redeliver implements inbox.Store.
func (m *Memory) Redeliver(ctx context.Context, seq uint64, force bool) (uint64, error) {
	if err := m.enter(ctx, "Redeliver"); err != nil {
		return 0, err
	}
	defer m.mu.Unlock()
	r := m.records[seq]
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
}

// Delete implements inbox.Store.
func (m *Memory) Delete(ctx context.Context, seq uint64, force bool) error {
	if err := m.enter(ctx, "Delete"); err != nil {
		return err
	}
	defer m.mu.Unlock()
	r := m.records[seq]
	switch {
	case r == nil:
		return inbox.ErrNotFound
	case r.holder != 0:
		return inbox.ErrLeased
	case r.State == inbox.Pending && !force:
		return inbox.ErrPending
	}
	m.remove(r)
	m.inOrder = slices.DeleteFunc(m.inOrder, func(other *record) bool { return other == r })
	m.wake()
	return nil
}

// DeleteDead implements inbox.Store.
func (m *Memory) DeleteDead(ctx context.Context, before time.Time) (int, error) {
	if err := m.enter(ctx, "DeleteDead"); err != nil {
		return 0, err
	}
	defer m.mu.Unlock()
	all := len(m.inOrder)
	m.inOrder = slices.DeleteFunc(m.inOrder, func(r *record) bool {
		dead := r.State == inbox.Dead && (before.IsZero() || r.Settled.Before(before))
		if dead {
			m.remove(r)
		}
		return dead
	})
	return all - len(m.inOrder), nil
}

// Stats implements inbox.Store.
func (m *Memory) Stats(ctx context.Context) (inbox.Stats, error) {
	if err := m.enter(ctx, "Stats"); err != nil {
		return inbox.Stats{}, err
	}
	defer m.mu.Unlock()
	stats := inbox.Stats{Bytes: m.bytes}
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
}

// Close implements inbox.Store.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.closed {
		m.closed = true
		m.wake()
	}
	return nil
}

// Interface guards
var _ inbox.Store = (*Memory)(nil)
