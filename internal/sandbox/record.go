package sandbox

import (
	"bytes"
	"net/http"
	"slices"
	"time"
)

// Call is a request to one of the platform's interfaces, as it came in.
type Call struct {
	Time   time.Time // on the platform's clock
	Method string
	Host   string
	Path   string
	Query  string // as sent, undecoded
	Header http.Header
	Body   []byte // at most Options.MaxBody of it

	// Status and ErrCode are the answer; 0 and "" while there is none.
	Status  int
	ErrCode string

	// Signed is the string that was to be signed, without the key; Signature and Expected what came and what should have
	// come. They are filled in for the page only.
	Signed, Signature, Expected string

	// Warning says what the documents want otherwise in a call that was taken; mostly "".
	Warning string
}

// maxRecorded bounds the bytes of all calls kept, whatever their number.
const maxRecorded = 32 << 20

// ring keeps the newest of what is put into it.
type ring[T any] struct {
	items []T
	most  int
}

func newRing[T any](most int) ring[T] { return ring[T]{most: most} }

func (r *ring[T]) put(item T) {
	if len(r.items) >= r.most {
		r.drop()
	}
	r.items = append(r.items, item)
}

// drop forgets the oldest. The array moves on by itself when append runs out of room.
func (r *ring[T]) drop() {
	var zero T
	r.items[0] = zero
	r.items = r.items[1:]
}

// callRing keeps the newest calls, and of those no more than maxRecorded bytes.
type callRing struct{ ring[*Call] }

// record keeps a call.
func (r *callRing) record(call *Call) {
	r.put(call)
	size := 0
	for i, kept := range slices.Backward(r.items) {
		if size += kept.size(); size > maxRecorded && i < len(r.items)-1 {
			for range i + 1 {
				r.drop()
			}
			break
		}
	}
}

// copies are the calls, the oldest first, for somebody who may change them.
func (r *callRing) copies() []Call {
	calls := make([]Call, len(r.items))
	for i, call := range r.items {
		calls[i] = *call
		calls[i].Header = call.Header.Clone()
		calls[i].Body = bytes.Clone(call.Body)
	}
	return calls
}

// size is about what a call takes in memory.
func (c *Call) size() int {
	size := len(c.Body) + len(c.Query) + len(c.Path) + len(c.Host)
	for name, values := range c.Header {
		for _, value := range values {
			size += len(name) + len(value)
		}
	}
	return size
}
