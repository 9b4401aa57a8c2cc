// Package varint writes and reads encodings that are made of numbers and texts. A text has its length before it.
package varint

import "encoding/binary"

// AppendText appends a text.
func AppendText(b []byte, text string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}

// Reader reads an encoding from its beginning. Once it is broken, it reads nothing but zeros.
type Reader struct {
	Rest   []byte // what is still to be read
	Broken bool
}

// Number reads a number of at most limit. One that could be written shorter breaks the reader: a number has one encoding.
func (r *Reader) Number(limit uint64) uint64 {
	n, size := binary.Uvarint(r.Rest)
	if r.Broken || size <= 0 || n > limit || size > 1 && r.Rest[size-1] == 0 {
		r.Broken = true
		return 0
	}
	r.Rest = r.Rest[size:]
	return n
}

// Text reads a text. It shares memory with what is read.
func (r *Reader) Text() []byte {
	n := r.Number(uint64(len(r.Rest)))
	if n > uint64(len(r.Rest)) { // the number's own bytes counted
		r.Broken = true
	}
	if r.Broken {
		return nil
	}
	text := r.Rest[:n]
	r.Rest = r.Rest[n:]
	return text
}
