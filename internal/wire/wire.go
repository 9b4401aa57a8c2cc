// Package wire makes exchanges of HTTP/1.1 with one server: one request and its answer on one connection, both in the
// goroutine that asks for them. It knows how far an exchange came, which net/http's client does not tell, and it looks at
// a kept connection before it writes the first byte. What the server sends, the standard library parses.
package wire

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/internal/body"
)

// Progress is how far an exchange came.
type Progress uint8

const (
	// NotDialed means that there was no connection.
	NotDialed Progress = iota
	// Dialed means that there was a connection, and that no byte of the request was written.
	Dialed
	// Begun means that some bytes of the request were written.
	Begun
	// Written means that all of them were.
	Written
	// Answering means that bytes of an answer have come.
	Answering
)

var progressWords = [...]string{"no connection", "nothing of the request was written", "the request was written in part", "no answer", "the answer is incomplete"}

// Error says how far an exchange came that has no answer.
type Error struct {
	Progress Progress
	Err      error
}

func (e *Error) Error() string { return progressWords[e.Progress] + ": " + e.Err.Error() }

// Unwrap implements errors.Unwrap.
func (e *Error) Unwrap() error { return e.Err }

// Field is one line of the request's head.
type Field struct{ Name, Value string }

// Request is a POST.
type Request struct {
	Target string // path and query
	Host   string
	Fields []Field // but Host, Content-Length and Connection
	Body   []byte
	// Deadline is when the answer has to be there, down to its last byte.
	Deadline time.Time
	// MaxAnswer bounds the answer's body.
	MaxAnswer int64
	// Fresh asks for a new connection.
	Fresh bool
	// Again allows to write the request a second time, where a kept connection has ended without an answer.
	Again bool
}

const (
	// atOnce is the largest body that is written before the answer is read. It fits into the kernel's buffers, even where
	// the server does not read it.
	atOnce = 64 << 10
	// joined is the largest body that is copied behind the head, so that both are one packet and one record of TLS.
	joined = 16 << 10
	// maxInterim bounds the answers of 1xx before the answer.
	maxInterim = 16
)

var (
	errHead     = errors.New("the answer's head is too large")
	errStatus   = errors.New("an answer without a valid status")
	errStale    = errors.New("the server has ended the kept connection")
	errInterim  = errors.New("too many interim answers")
	errUnsent   = errors.New("the request's head cannot be sent: its target is no path, or it holds a character that must not stand there")
	postRequest = &http.Request{Method: http.MethodPost}
)

// Do makes one exchange. The answer's body is read whole into content, which is the caller's to release. An answer of 101
// is returned without one. An error is an *Error.
func (c *Client) Do(r *Request) (answer *http.Response, content body.Pooled, err error) {
	if err = r.Check(); err != nil {
		return nil, content, &Error{NotDialed, err}
	}
	for {
		var k *conn
		if !r.Fresh {
			k = c.take()
		}
		kept := k != nil // which is looked at as late as can be
		if !kept {
			if k, err = c.connect(r.Deadline); err != nil {
				return nil, content, &Error{NotDialed, err}
			}
		}
		progress, keep := Dialed, false
		if err = k.SetDeadline(r.Deadline); err == nil {
			answer, content, progress, keep, err = k.exchange(r, c, kept)
		}
		switch {
		case err == nil && keep:
			c.put(k)
			return answer, content, nil
		case err == nil:
			_ = k.Close()
			return answer, content, nil
		}
		_ = k.Close()
		if again := progress == Dialed || progress < Answering && r.Again; !kept || !again {
			return nil, content, &Error{progress, err}
		}
	}
}

// conn is a connection and what it takes to use it. One goroutine has it at a time.
type conn struct {
	net.Conn        // what is written and read: TLS's own, where there is TLS
	under    *under // below TLS; nil: there is none
	in       input  // what the answer is read from
	br       *bufio.Reader
	out      []byte // the head
	parts    [2][]byte
	vector   net.Buffers

	raw   syscall.RawConn
	look  func(fd uintptr)
	quiet bool // what look has found
	one   [1]byte
	since time.Time
}

// exchange writes the request and reads its answer. kept tells that the connection has been idle; keep, that it can be used
// again.
func (k *conn) exchange(r *Request, c *Client, kept bool) (answer *http.Response, content body.Pooled, progress Progress, keep bool, err error) {
	k.out = appendHead(k.out[:0], r, c.MaxIdle > 0)
	k.in.left, k.in.seen = c.MaxHead, false
	first, rest := r.Body, r.Body[:0]
	if len(r.Body) > atOnce {
		first, rest = r.Body[:joined], r.Body[joined:]
	}
	// Before anything is read: what is there while no byte has been written is no answer to this request.
	written, failed := k.write(first, kept)
	ended := false
	switch {
	case failed != nil && written == 0:
		err = failed
	case failed != nil || len(rest) == 0:
		// A server that does not want the request may have answered, and closed, before it was written.
		answer, content, keep, err = k.read(r.MaxAnswer)
	default:
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, failed = k.Write(rest)
		}()
		answer, content, keep, err = k.read(r.MaxAnswer)
		select {
		case <-done:
		default: // the answer came first, or nothing will: that ends a write which is still under way
			ended = true
			_ = k.SetWriteDeadline(time.Unix(1, 0))
			<-done
		}
	}
	switch {
	case k.in.seen:
		progress = Answering
	case written == 0:
		progress = Dialed
	case failed != nil:
		progress = Begun
	default:
		progress = Written
	}
	if err != nil && failed != nil && !k.in.seen && !ended {
		err = failed // it came first
	}
	return answer, content, progress, keep && failed == nil, err
}

// write writes the head, which is in k.out, and content. It tells how many bytes have left, sealed ones included. With look,
// a connection on which something has come gets none: whatever comes before the request is no answer to it.
func (k *conn) write(content []byte, look bool) (written int64, err error) {
	if len(content) <= joined {
		k.out, content = append(k.out, content...), nil
	}
	if k.under != nil {
		k.under.written, k.under.look = 0, look
		if _, err = k.Write(k.out); err == nil && len(content) > 0 {
			_, err = k.Write(content)
		}
		return k.under.written, err
	}
	if look && !k.silent() {
		return 0, errStale
	}
	if len(content) == 0 {
		n, err := k.Write(k.out)
		return int64(n), err
	}
	k.parts = [2][]byte{k.out, content}
	k.vector = k.parts[:]
	written, err = k.vector.WriteTo(k.Conn)
	k.parts = [2][]byte{}
	return written, err
}

// read reads the answer. keep tells that it has ended where it said, and nothing came after it.
func (k *conn) read(most int64) (answer *http.Response, content body.Pooled, keep bool, err error) {
	for range maxInterim {
		if answer, err = http.ReadResponse(k.br, postRequest); err != nil {
			return nil, content, false, err
		}
		switch {
		case answer.StatusCode < 100:
			return nil, content, false, errStatus
		case answer.StatusCode == http.StatusSwitchingProtocols:
			return answer, content, false, nil
		case answer.StatusCode < 200:
			continue
		}
		k.in.left = math.MaxInt64
		if content, err = body.ReadPooled(answer.Body, answer.ContentLength, most); err != nil {
			return nil, content, false, err
		}
		return answer, content, !answer.Close && k.br.Buffered() == 0 && !k.sealedLeft(), nil
	}
	return nil, content, false, errInterim
}

// input is what an answer is read from. It bounds the head, and sees the first byte.
type input struct {
	conn net.Conn
	left int64
	seen bool
}

func (i *input) Read(p []byte) (int, error) {
	if i.left <= 0 {
		return 0, errHead
	}
	n, err := i.conn.Read(p[:min(int64(len(p)), i.left)])
	i.left -= int64(n)
	i.seen = i.seen || n > 0
	return n, err
}

// under is the connection below TLS. It counts what is written, can look before the first byte of a request, when it is
// sealed already, and can pretend that nothing comes.
type under struct {
	net.Conn
	written int64
	silent  func() bool
	look    bool
	mute    bool
}

func (u *under) Write(p []byte) (int, error) {
	if u.look && u.written == 0 && !u.silent() {
		return 0, errStale
	}
	n, err := u.Conn.Write(p)
	u.written += int64(n)
	return n, err
}

func (u *under) Read(p []byte) (int, error) {
	if u.mute {
		return 0, nothing{}
	}
	return u.Conn.Read(p)
}

// nothing is the error that crypto/tls takes for a moment without bytes.
type nothing struct{}

func (nothing) Error() string   { return "nothing has come" }
func (nothing) Timeout() bool   { return true }
func (nothing) Temporary() bool { return true }

// sealedLeft reports whether TLS has read more than the answer from the connection, where no look would find it.
func (k *conn) sealedLeft() bool {
	secure, ok := k.Conn.(*tls.Conn)
	if !ok {
		return false
	}
	k.under.mute = true
	_, err := secure.Read(k.one[:])
	k.under.mute = false
	return !errors.Is(err, nothing{})
}

func appendHead(b []byte, r *Request, keep bool) []byte {
	field := func(name, value string) {
		b = append(append(append(append(b, name...), ": "...), value...), "\r\n"...)
	}
	b = append(append(append(b, "POST "...), r.Target...), " HTTP/1.1\r\n"...)
	field("Host", r.Host)
	for i := range r.Fields {
		field(r.Fields[i].Name, r.Fields[i].Value)
	}
	if !keep {
		field("Connection", "close")
	}
	b = append(b, "Content-Length: "...)
	b = strconv.AppendInt(b, int64(len(r.Body)), 10)
	return append(b, "\r\n\r\n"...)
}

// Check reports an error where the target is no path, or anything in the request could end a line or a word of its head.
func (r *Request) Check() error {
	if !word(r.Target) || r.Target[0] != '/' || !word(r.Host) {
		return errUnsent
	}
	for i := range r.Fields {
		if f := &r.Fields[i]; !token(f.Name) || !line(f.Value) {
			return errUnsent
		}
	}
	return nil
}

// line reports that a text has no control character but a tab.
func line(text string) bool {
	for i := range len(text) {
		if c := text[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// word reports that a text is one without a space too.
func word(text string) bool {
	return text != "" && line(text) && strings.IndexByte(text, ' ') < 0 && strings.IndexByte(text, '\t') < 0
}

func token(name string) bool {
	for i := range len(name) {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.', c == '!', c == '#', c == '$',
			c == '%', c == '&', c == '\'', c == '*', c == '+', c == '^', c == '`', c == '|', c == '~':
		default:
			return false
		}
	}
	return name != ""
}

func (p Progress) String() string { return progressWords[p] }

// Interface guards
var (
	_ error     = (*Error)(nil)
	_ io.Reader = (*input)(nil)
	_ net.Error = nothing{}
)
