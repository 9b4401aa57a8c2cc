package inbox

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/hex"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// sent is a request as the server hands it to handlers.
func sent(method, target, content string, headers ...string) *http.Request {
	r := httptest.NewRequest(method, target, strings.NewReader(content))
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		r.Header[name] = append(r.Header[name], value)
	}
	return r
}

// stored sends a request through its encoding.
func stored(t testing.TB, r *http.Request) *http.Request {
	t.Helper()
	content, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	captured, err := capture(r, content)
	if err != nil {
		t.Fatal(err)
	}
	decoded, err := decodeRequest(captured.encode())
	if err != nil {
		t.Fatal(err)
	}
	return decoded.restore(t.Context())
}

func TestRequestSurvives(t *testing.T) {
	for name, r := range map[string]*http.Request{
		"a webhook":            sent("POST", "http://shop.example/hook?a=1&b=%20", `{"a":1}`, "Content-Type: application/json", "Ce-Id: 1"),
		"no body":              sent("GET", "http://shop.example/hook", ""),
		"a body with PUT":      sent("PUT", "http://shop.example/", "x"),
		"bytes that are text":  sent("POST", "http://shop.example/", "\x00\xff\r\n", "X-Gbk: \xc4\xe3", "X-Empty: "),
		"several values":       sent("POST", "http://shop.example/", "x", "X-A: 1", "X-A: 2", "X-A: 1", "x-lower: 3"),
		"an encoded path":      sent("GET", "http://shop.example/a%2Fb/%E4%BD%A0?%zz", ""),
		"two slashes":          sent("GET", "http://shop.example//a//b", ""),
		"an empty query":       sent("GET", "http://shop.example/a?", ""),
		"over TLS":             sent("POST", "https://shop.example/", "x"),
		"a large body":         sent("POST", "http://shop.example/", strings.Repeat("0123456789", 100_000)),
		"a header of one mebi": sent("POST", "http://shop.example/", "", "X-Large: "+strings.Repeat("v", 1<<20)),
		"a host with its port": sent("POST", "http://shop.example:8080/", "x"),
		"HTTP/2": func() *http.Request {
			r := sent("POST", "/", "x")
			r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/2.0", 2, 0
			return r
		}(),
		"an IPv6 sender":  func() *http.Request { r := sent("POST", "/", "x"); r.RemoteAddr = "[2001:db8::1]:80"; return r }(),
		"a Unix socket's": func() *http.Request { r := sent("POST", "/", "x"); r.RemoteAddr = "@"; return r }(),
		"options of the server": func() *http.Request {
			r := sent("OPTIONS", "/", "")
			r.URL, r.RequestURI = &url.URL{Path: "*"}, "*"
			return r
		}(),
	} {
		t.Run(name, func(t *testing.T) {
			if r.TLS != nil {
				r.TLS.Version, r.TLS.CipherSuite, r.TLS.ServerName = tls.VersionTLS13, tls.TLS_AES_128_GCM_SHA256, "shop.example"
			}
			content, _ := io.ReadAll(r.Body)
			r.Body = io.NopCloser(bytes.NewReader(content))
			want := r.Header.Clone()
			if len(content) > 0 {
				want["Content-Length"] = []string{lengthOf(content)}
			}
			got := stored(t, r)
			if got.Method != r.Method || got.URL.RequestURI() != r.URL.RequestURI() || got.URL.Path != r.URL.Path || got.URL.RawQuery != r.URL.RawQuery ||
				got.RequestURI != r.URL.RequestURI() || got.Host != r.Host || got.RemoteAddr != r.RemoteAddr {
				t.Errorf("got %s %s (%+v) %s from %s", got.Method, got.RequestURI, got.URL, got.Host, got.RemoteAddr)
			}
			if got.Proto != r.Proto || got.ProtoMajor != r.ProtoMajor || got.ProtoMinor != r.ProtoMinor {
				t.Errorf("protocol %s, %d.%d", got.Proto, got.ProtoMajor, got.ProtoMinor)
			}
			if !reflect.DeepEqual(got.Header, want) {
				t.Errorf("header %.500v, want %.500v", got.Header, want)
			}
			body, err := io.ReadAll(got.Body)
			if err != nil || !bytes.Equal(body, content) || got.ContentLength != int64(len(content)) {
				t.Errorf("body of %d bytes, %v, length %d; want %d", len(body), err, got.ContentLength, len(content))
			}
			if (got.TLS == nil) != (r.TLS == nil) {
				t.Fatalf("TLS %+v", got.TLS)
			}
			if got.TLS != nil && (got.TLS.Version != tls.VersionTLS13 || got.TLS.CipherSuite != tls.TLS_AES_128_GCM_SHA256 ||
				got.TLS.ServerName != "shop.example" || !got.TLS.HandshakeComplete) {
				t.Errorf("TLS %+v", got.TLS)
			}
		})
	}
}

func lengthOf(content []byte) string {
	r := httptest.NewRequest("POST", "/", bytes.NewReader(content))
	var b bytes.Buffer
	_ = r.Write(&b) // net/http's own words for the length
	for line := range strings.Lines(b.String()) {
		if value, ok := strings.CutPrefix(line, "Content-Length: "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// TestHopByHop: what is about the connection stays behind, a length that is not the body's, and what asks for another
// answer than the app's word.
func TestHopByHop(t *testing.T) {
	r := sent("POST", "http://shop.example/", "four", "Connection: close, X-Hop", "Connection: x-other", "X-Hop: 1", "X-Other: 1", "Keep-Alive: 5",
		"Te: trailers", "Trailer: X", "Transfer-Encoding: chunked", "Upgrade: h2c", "Proxy-Authorization: secret", "Proxy-Connection: close",
		"Expect: 100-continue", "Content-Length: 9", "X-Stays: 1", "Authorization: Bearer a",
		"Accept-Encoding: gzip", "Range: bytes=0-1", "If-None-Match: \"a\"", "If-Modified-Since: Sun, 01 Mar 2026 00:00:00 GMT", "If-Range: \"a\"")
	r.Header["X-None"] = nil
	got := stored(t, r)
	names := slices.Sorted(maps.Keys(got.Header))
	if want := []string{"Authorization", "Content-Length", "X-Stays"}; !slices.Equal(names, want) {
		t.Errorf("headers %q, want %q", names, want)
	}
	if got.Header.Get("Content-Length") != "4" {
		t.Errorf("length %s", got.Header.Get("Content-Length"))
	}
	if r.Header.Get("Proxy-Authorization") == "" || r.Header.Get("Content-Length") != "9" {
		t.Error("the sender's own request was changed")
	}
}

// TestTwoHosts: over HTTP/2 a request may have a field Host beside its :authority. Before, it was stored too, and
// php_fastcgi made HTTP_HOST of it.
func TestTwoHosts(t *testing.T) {
	r := sent("POST", "http://shop.example/", "", "X-Stays: 1")
	r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/2.0", 2, 0
	r.Header["Host"] = []string{"other.example"}
	got := stored(t, r)
	if names := slices.Sorted(maps.Keys(got.Header)); got.Host != "shop.example" || !slices.Equal(names, []string{"X-Stays"}) {
		t.Errorf("host %s, headers %q", got.Host, names)
	}
}

// allocated is how many bytes f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// TestConnectionHeaderIsCheap: a sender's Connection header costs no more than in proportion to its length.
func TestConnectionHeaderIsCheap(t *testing.T) {
	for name, value := range map[string]string{
		"commas": strings.Repeat(",", 16<<10), "names": strings.Repeat("a,", 8<<10), "names that differ": strings.Repeat("ab,bc,c d,", 2<<10),
	} {
		r := sent("POST", "/", "", "Connection: "+value, "Connection: x-hop", "X-Hop: 1", "X-Stays: 1")
		var captured *request
		n := allocated(func() {
			var err error
			if captured, err = capture(r, nil); err != nil {
				t.Fatal(err)
			}
		})
		if n > 4<<20 {
			t.Errorf("%s: %d KiB are allocated for 16", name, n>>10)
		}
		if names := slices.Sorted(maps.Keys(captured.Header)); !slices.Equal(names, []string{"X-Stays"}) {
			t.Errorf("%s: headers %q", name, names)
		}
	}
}

// TestDamagedIsCheap: a number that promises more than there is takes no memory.
func TestDamagedIsCheap(t *testing.T) {
	whole, _ := hex.DecodeString(golden)
	at := bytes.Index(whole, []byte("\x02\x05Ce-Id"))
	rest := bytes.Repeat([]byte{0xff}, 1<<20)
	for name, encoded := range map[string][]byte{
		"headers": slices.Concat(whole[:at], []byte("\x80\x80\x14"), rest),
		"values":  slices.Concat(whole[:at], []byte("\x01\x05Ce-Id\x80\x80\x20"), rest),
	} {
		n := allocated(func() {
			if _, err := decodeRequest(encoded); err == nil {
				t.Errorf("%s: it is read", name)
			}
		})
		if n > 1<<20 {
			t.Errorf("%s: %d KiB are allocated", name, n>>10)
		}
	}
}

// TestRestoreApart: the app's handlers may change what they get without changing what is stored.
func TestRestoreApart(t *testing.T) {
	captured, err := capture(sent("POST", "http://shop.example/a", "text", "X-A: 1"), []byte("text"))
	if err != nil {
		t.Fatal(err)
	}
	encoded := captured.encode()
	before := bytes.Clone(encoded)
	decoded, err := decodeRequest(encoded)
	if err != nil {
		t.Fatal(err)
	}
	r := decoded.restore(context.Background())
	r.Header.Set("X-A", "2")
	body, _ := io.ReadAll(r.Body)
	for i := range body {
		body[i] = 0
	}
	if !bytes.Equal(encoded, before) {
		t.Error("the stored bytes have changed")
	}
}

// golden is version 1 of the encoding, made by another program: messages of it are on disks.
const golden = "0104504f5354062f703f613d3108485454502f312e31017309312e322e332e343a3501840681260173020543652d4964020161000e436f6e74656e742d4c656e677468010133626f64"

func TestEncodingIsFixed(t *testing.T) {
	want := &request{
		Method: "POST", URI: "/p?a=1", Proto: "HTTP/1.1", Host: "s", Remote: "1.2.3.4:5",
		TLS:    &tlsState{Version: tls.VersionTLS13, Cipher: tls.TLS_AES_128_GCM_SHA256, ServerName: "s"},
		Header: http.Header{"Content-Length": {"3"}, "Ce-Id": {"a", ""}}, Body: []byte("bod"),
	}
	if got := hex.EncodeToString(want.encode()); got != golden {
		t.Errorf("encoded as %s", got)
	}
	encoded, _ := hex.DecodeString(golden)
	decoded, err := decodeRequest(encoded)
	if err != nil || !reflect.DeepEqual(decoded, want) {
		t.Errorf("%+v, %v", decoded, err)
	}
}

// TestDamaged: a cut or changed encoding is refused, never read as another request.
func TestDamaged(t *testing.T) {
	whole, _ := hex.DecodeString(golden)
	for n := range len(whole) - len("bod") {
		if _, err := decodeRequest(whole[:n]); err == nil {
			t.Errorf("the first %d bytes are read", n)
		}
	}
	change := func(old, replacement string) []byte {
		if !bytes.Contains(whole, []byte(old)) {
			t.Fatalf("%q is not in it", old)
		}
		return bytes.Replace(whole, []byte(old), []byte(replacement), 1)
	}
	for name, encoded := range map[string][]byte{
		"another version":            append([]byte{2}, whole[1:]...),
		"no method":                  change("\x04POST", "\x00"),
		"a method of two words":      change("POST", "PO T"),
		"no URI":                     change("\x06/p?a=1", "\x00"),
		"a URI that is none":         change("/p?a=1", "p?a=1x"),
		"another protocol":           change("HTTP/1.1", "HTTP/x.1"),
		"a number written long":      change("\x06/p", "\x86\x00/p"),
		"a length beyond the end":    change("\x0eContent", "\xff\xff\xff\xff\xff\xff\xff\xff\x7fContent"),
		"a header twice":             change("\x0eContent-Length\x01\x013", "\x05Ce-Id\x01\x013"),
		"headers in another order":   change("\x0eContent-Length", "\x0eAontent-Length"),
		"a header without values":    change("\x05Ce-Id\x02\x01a\x00", "\x05Ce-Id\x00"),
		"more headers than it has":   change("\x02\x05Ce-Id", "\x7f\x05Ce-Id"),
		"more values than it has":    change("\x05Ce-Id\x02", "\x05Ce-Id\x7f"),
		"a TLS version out of range": change("\x01\x84\x06", "\x01\x84\x80\x06"),
		"neither TLS nor not":        change("\x01\x84\x06", "\x02\x84\x06"),
	} {
		if decoded, err := decodeRequest(encoded); err == nil {
			t.Errorf("%s: read as %+v", name, decoded)
		}
	}
}

func FuzzDecodeRequest(f *testing.F) {
	whole, _ := hex.DecodeString(golden)
	f.Add(whole)
	f.Add(whole[:20])
	f.Add([]byte{1, 1, 'G', 1, '/', 8, 'H', 'T', 'T', 'P', '/', '2', '.', '0', 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, encoded []byte) {
		decoded, err := decodeRequest(encoded)
		if err != nil {
			return
		}
		if again := decoded.encode(); !bytes.Equal(again, encoded) {
			t.Errorf("%x is also written %x", encoded, again)
		}
		if r := decoded.restore(t.Context()); r.Method == "" || r.URL == nil || r.ContentLength != int64(len(decoded.Body)) {
			t.Errorf("restored as %+v", r)
		}
	})
}

func FuzzCapture(f *testing.F) {
	f.Add("POST", "/a?b", "X-A", "1", "2", []byte("body"))
	f.Fuzz(func(t *testing.T, method, uri, name, first, second string, content []byte) {
		u, err := url.ParseRequestURI(uri)
		if err != nil {
			return
		}
		r := &http.Request{Method: method, URL: u, Proto: "HTTP/1.1", Header: http.Header{name: {first, second}}}
		captured, err := capture(r, content)
		if err != nil {
			return
		}
		decoded, err := decodeRequest(captured.encode())
		if err != nil {
			t.Fatalf("%+v cannot be read: %v", captured, err)
		}
		if !bytes.Equal(decoded.Body, content) || decoded.Method != method || decoded.URI != u.RequestURI() || !reflect.DeepEqual(decoded.Header, captured.Header) {
			t.Errorf("%+v became %+v", captured, decoded)
		}
	})
}
