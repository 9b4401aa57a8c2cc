// Package body reads bounded bodies and puts others in their place. It knows neither Caddy nor a platform.
package body

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"time"
)

// firstRead limits the memory that is allocated before the first byte arrives. A sender may announce a large body and
// send nothing.
const firstRead = 8 << 10

// ErrTooLarge says that a body is larger than its limit.
var ErrTooLarge = errors.New("body larger than allowed")

// Read reads all of r. announced is the Content-Length, or -1 if it is unknown. More than limit bytes are ErrTooLarge;
// fewer or more bytes than announced are io.ErrUnexpectedEOF. Memory grows with what has arrived, never with what was
// announced.
func Read(r io.Reader, announced, limit int64) ([]byte, error) {
	into, err := read(r, announced, limit, false)
	if err != nil {
		return nil, err
	}
	defer into.leave()
	return into.take(), nil
}

// ReadPooled is Read into a buffer that others get after Release.
func ReadPooled(r io.Reader, announced, limit int64) (Pooled, error) {
	into, err := read(r, announced, limit, true)
	return Pooled{into.bytes, into.buffer}, err
}

func read(r io.Reader, announced, limit int64, pooled bool) (into room, err error) {
	if announced > limit {
		return room{}, ErrTooLarge
	}
	most := limit
	if announced >= 0 {
		most = announced
	}
	into = newRoom(most, pooled)
	defer func() {
		if err != nil {
			into.leave()
			into = room{}
		}
	}()
	for {
		n, err := r.Read(into.bytes[len(into.bytes):cap(into.bytes)])
		into.bytes = into.bytes[:len(into.bytes)+n]
		size := int64(len(into.bytes))
		if size > limit {
			return into, ErrTooLarge
		}
		if size > most {
			return into, io.ErrUnexpectedEOF
		}
		if err == io.EOF {
			if size < announced {
				return into, io.ErrUnexpectedEOF
			}
			return into, nil
		}
		if err != nil {
			if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
				return into, ErrTooLarge
			}
			return into, err
		}
		if len(into.bytes) == cap(into.bytes) {
			into.grow(most, pooled)
		}
	}
}

// ReadRequest reads all of a request's body, which must arrive within patience.
func ReadRequest(w http.ResponseWriter, r *http.Request, limit int64, patience time.Duration) ([]byte, error) {
	into, err := readRequest(w, r, limit, patience, false)
	if err != nil {
		return nil, err
	}
	defer into.leave()
	return into.take(), nil
}

// ReadRequestPooled is ReadRequest into a buffer that others get after Release.
func ReadRequestPooled(w http.ResponseWriter, r *http.Request, limit int64, patience time.Duration) (Pooled, error) {
	into, err := readRequest(w, r, limit, patience, true)
	return Pooled{into.bytes, into.buffer}, err
}

func readRequest(w http.ResponseWriter, r *http.Request, limit int64, patience time.Duration, pooled bool) (room, error) {
	if r.ContentLength > limit {
		return room{}, ErrTooLarge
	}
	if r.Body == nil && r.ContentLength > 0 { // somebody took it
		return room{}, io.ErrUnexpectedEOF
	}
	if r.Body == nil || r.ContentLength == 0 {
		return room{}, nil
	}
	// If the writer cannot set a deadline, as in tests, the server's own timeouts apply.
	controller := http.NewResponseController(w)
	limited := controller.SetReadDeadline(time.Now().Add(patience)) == nil
	into, err := read(r.Body, r.ContentLength, limit, pooled)
	if limited && err == nil {
		_ = controller.SetReadDeadline(time.Time{})
	}
	return into, err
}

// Status is the HTTP status for an error of Read or ReadRequest.
func Status(err error) int {
	if errors.Is(err, ErrTooLarge) {
		return http.StatusRequestEntityTooLarge
	}
	if late, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err); ok && late.Timeout() {
		return http.StatusRequestTimeout
	}
	return http.StatusBadRequest
}

// Content is a body in memory. It should be a *bytes.Reader or a *strings.Reader: only those are sent by net/http in one
// write with the headers.
type Content interface {
	io.Reader
	Len() int
}

// Set makes b the request's body.
func Set(r *http.Request, b []byte) { SetContent(r, bytes.NewReader(b)) }

// SetContent makes content the request's body.
func SetContent(r *http.Request, content Content) {
	r.Body = io.NopCloser(content)
	r.ContentLength = int64(content.Len())
	r.TransferEncoding = nil
	r.Trailer = nil
}
