package body

import (
	"bytes"
	"sync"
)

// room is the memory that a body is read into. A large body moves through pooled buffers of growing size, because memory
// that is thrown away makes the garbage collector run.
type room struct {
	bytes  []byte
	buffer *buffer // the buffer that bytes are part of; nil if bytes become the body
}

type buffer struct {
	bytes []byte
	stage int
}

// stages are the sizes of buffers. The last has room for a body of 1 MiB, and for the byte more that shows its end.
var (
	stages  = [...]int{firstRead, 4 * firstRead, 16 * firstRead, 64 * firstRead, 1<<20 + 512}
	buffers [len(stages)]sync.Pool
)

// Pooled is a body in a buffer that others get after Release.
type Pooled struct {
	Bytes  []byte
	buffer *buffer
}

// Release gives the buffer back. Nobody may look at Bytes afterwards.
func (p *Pooled) Release() {
	(&room{p.Bytes, p.buffer}).leave()
	*p = Pooled{}
}

func newRoom(most int64, pooled bool) room {
	if most < firstRead && !pooled {
		return newBody(most)
	}
	return newBuffer(0)
}

// newBody has room for one more byte, because only another read shows that the body ends.
func newBody(size int64) room { return room{bytes: make([]byte, 0, size+1)} }

func newBuffer(stage int) room {
	b, ok := buffers[stage].Get().(*buffer)
	if !ok {
		b = &buffer{make([]byte, 0, stages[stage]), stage}
	}
	return room{b.bytes, b}
}

// grow moves what is there to a larger room. One that is not pooled is at last of just the size of a body of not more
// than so many bytes. A pooled one takes the last stage but one only where that may be enough: otherwise half of a large
// body would be copied once more.
func (r *room) grow(most int64, pooled bool) {
	size := 4 * int64(cap(r.bytes))
	var next room
	if r.buffer != nil && r.buffer.stage+1 < len(stages) && (pooled || size <= most) {
		stage := r.buffer.stage + 1
		if last := len(stages) - 1; pooled && stage == last-1 && most > int64(stages[stage]) {
			stage = last
		}
		next = newBuffer(stage)
	} else {
		next = newBody(min(size, most))
	}
	next.bytes = append(next.bytes, r.bytes...)
	r.leave()
	*r = next
}

// take returns the body.
func (r *room) take() []byte {
	if r.buffer == nil {
		return r.bytes
	}
	return bytes.Clone(r.bytes)
}

// leave returns the buffer to its pool.
func (r *room) leave() {
	if r.buffer != nil {
		buffers[r.buffer.stage].Put(r.buffer)
	}
}
