package inbox

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/caddy-chinaums/caddy-chinaums/internal/body"
	"github.com/caddy-chinaums/caddy-chinaums/internal/varint"
)

// request is a request as it is stored: exactly what the `deliver` handlers get. Placeholders and whatever else other
// handlers know of it are not part of it.
type request struct {
	Method, URI, Proto, Host, Remote string
	TLS                              *tlsState // nil: it did not come over TLS
	Header                           http.Header
	Body                             []byte
}

// tlsState is what handlers may want to know of a connection, such as php_fastcgi for SSL_PROTOCOL.
type tlsState struct {
	Version, Cipher uint16
	ServerName      string
}

// hopByHop are headers that are about a connection, not about the request (RFC 9110, 7.6.1).
var hopByHop = []string{"Connection", "Transfer-Encoding", "Upgrade", "Keep-Alive", "Te", "Trailer", "Expect"}

// forAnswers are headers that ask for a compressed, partial (206) or empty (304) answer. They are not stored, because the
// gateway reads the answer for the app's word, and the sender never sees it. Nor are those that begin with If-.
var forAnswers = []string{"Accept-Encoding", "Range"}

// capture takes what is stored from a request whose body has been read. It shares the values of its headers.
func capture(r *http.Request, content []byte) (*request, error) {
	stored := &request{
		Method: r.Method, URI: r.URL.RequestURI(), Proto: r.Proto, Host: r.Host, Remote: r.RemoteAddr,
		Header: make(http.Header, len(r.Header)), Body: content,
	}
	if r.TLS != nil {
		stored.TLS = &tlsState{r.TLS.Version, r.TLS.CipherSuite, r.TLS.ServerName}
	}
	// Only headers of the request are noted, because Connection may list any number of names. HTTP/2 allows a field Host
	// beside the request's host; FastCGI would give the app that field instead.
	stays := make(map[string]bool, len(r.Header))
	for name := range r.Header {
		name = http.CanonicalHeaderKey(name)
		stays[name] = !slices.Contains(hopByHop, name) && !slices.Contains(forAnswers, name) &&
			!strings.HasPrefix(name, "Proxy-") && !strings.HasPrefix(name, "If-") && name != "Host"
	}
	for _, value := range r.Header["Connection"] {
		for name := range strings.SplitSeq(value, ",") {
			if name = http.CanonicalHeaderKey(strings.TrimSpace(name)); stays[name] {
				stays[name] = false
			}
		}
	}
	for name, values := range r.Header {
		if len(values) > 0 && stays[http.CanonicalHeaderKey(name)] {
			stored.Header[name] = values
		}
	}
	if _, ok := stored.Header["Content-Length"]; ok || len(content) > 0 {
		stored.Header["Content-Length"] = []string{strconv.Itoa(len(content))}
	}
	if err := stored.check(); err != nil {
		return nil, err
	}
	return stored, nil
}

// check says why the request could not be delivered, or returns nil.
func (q *request) check() error {
	if q.Method == "" || strings.ContainsFunc(q.Method, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return fmt.Errorf("method %q", q.Method)
	}
	if _, _, ok := http.ParseHTTPVersion(q.Proto); !ok {
		return fmt.Errorf("protocol %q", q.Proto)
	}
	if _, err := url.ParseRequestURI(q.URI); err != nil {
		return errors.New("the URI is not one")
	}
	return nil
}

// The encoding: a byte for the version; method, URI, protocol, host, remote address; a byte 1 and version, cipher suite
// and server name of TLS, or a byte 0; the number of headers and, in the order of their names, each with the number of
// its values and these; then the body, up to the end. Texts have their length before them; numbers are varints. There
// is one encoding of a request, and no other is read.
const encodingVersion = 1

func (q *request) encode() []byte {
	size := 64 + len(q.Method) + len(q.URI) + len(q.Proto) + len(q.Host) + len(q.Remote) + len(q.Body)
	for name, values := range q.Header {
		size += 4 + len(name)
		for _, value := range values {
			size += 3 + len(value)
		}
	}
	b := append(make([]byte, 0, size), encodingVersion)
	for _, text := range []string{q.Method, q.URI, q.Proto, q.Host, q.Remote} {
		b = varint.AppendText(b, text)
	}
	if q.TLS == nil {
		b = append(b, 0)
	} else {
		b = append(b, 1)
		b = binary.AppendUvarint(b, uint64(q.TLS.Version))
		b = binary.AppendUvarint(b, uint64(q.TLS.Cipher))
		b = varint.AppendText(b, q.TLS.ServerName)
	}
	b = binary.AppendUvarint(b, uint64(len(q.Header)))
	for _, name := range slices.Sorted(maps.Keys(q.Header)) {
		b = varint.AppendText(b, name)
		b = binary.AppendUvarint(b, uint64(len(q.Header[name])))
		for _, value := range q.Header[name] {
			b = varint.AppendText(b, value)
		}
	}
	return append(b, q.Body...)
}

// enough is how many headers, or values of one header, get memory at once. More is allocated only as they are read, because
// a damaged encoding may claim any number.
const enough = 64

// decodeRequest reads what encode wrote. The body shares memory with encoded.
func decodeRequest(encoded []byte) (*request, error) {
	if len(encoded) == 0 {
		return nil, errors.New("it is empty")
	}
	if encoded[0] != encodingVersion {
		return nil, fmt.Errorf("it is of version %d, which this version of the gateway does not know", encoded[0])
	}
	d := varint.Reader{Rest: encoded[1:]}
	q := new(request)
	for _, text := range []*string{&q.Method, &q.URI, &q.Proto, &q.Host, &q.Remote} {
		*text = string(d.Text())
	}
	if d.Number(1) == 1 {
		q.TLS = &tlsState{Version: uint16(d.Number(1<<16 - 1)), Cipher: uint16(d.Number(1<<16 - 1)), ServerName: string(d.Text())}
	}
	count := d.Number(uint64(len(d.Rest)) / 3) // a header takes three bytes at least
	q.Header = make(http.Header, min(count, enough))
	last := ""
	for i := range count {
		name := string(d.Text())
		if i > 0 && name <= last {
			d.Broken = true
		}
		last = name
		several := d.Number(uint64(len(d.Rest)))
		if several == 0 {
			d.Broken = true
		}
		values := make([]string, 0, min(several, enough))
		for range several {
			values = append(values, string(d.Text()))
			if d.Broken {
				break
			}
		}
		if d.Broken {
			break
		}
		q.Header[name] = values
	}
	if d.Broken {
		return nil, errors.New("it is damaged")
	}
	q.Body = d.Rest
	if err := q.check(); err != nil {
		return nil, fmt.Errorf("it is damaged: %w", err)
	}
	return q, nil
}

// restore makes the request to deliver. It may be called once: the headers are handed over.
func (q *request) restore(ctx context.Context) *http.Request {
	u, err := url.ParseRequestURI(q.URI)
	if err != nil { // check has seen to it
		u = new(url.URL)
	}
	r := &http.Request{Method: q.Method, URL: u, RequestURI: q.URI, Proto: q.Proto, Header: q.Header, Host: q.Host, RemoteAddr: q.Remote}
	r.ProtoMajor, r.ProtoMinor, _ = http.ParseHTTPVersion(q.Proto)
	if q.TLS != nil {
		r.TLS = &tls.ConnectionState{Version: q.TLS.Version, CipherSuite: q.TLS.Cipher, ServerName: q.TLS.ServerName, HandshakeComplete: true}
	}
	body.Set(r, bytes.Clone(q.Body))
	if len(q.Body) == 0 {
		r.Body = http.NoBody
	}
	return r.WithContext(ctx)
}
