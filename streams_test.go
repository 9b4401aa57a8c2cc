package chinaums

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/qpack"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/quic-go/quic-go/quicvarint"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// HTTP/2 and HTTP/3 carry many requests at once over one connection, each in a stream of its own.

// serverCertificate makes a certificate for 127.0.0.1, and returns its files' names, as `tls` takes them, and who trusts it.
func serverCertificate(t testing.TB) (files string, roots *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	directory := t.TempDir()
	for name, block := range map[string]*pem.Block{"cert.pem": {Type: "CERTIFICATE", Bytes: der}, "key.pem": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(filepath.Join(directory, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots = x509.NewCertPool()
	roots.AddCert(parsed)
	return filepath.Join(directory, "cert.pem") + " " + filepath.Join(directory, "key.pem"), roots
}

// patientQUIC bears with a busy machine: 5 s without a packet end a handshake else.
var patientQUIC = &quic.Config{HandshakeIdleTimeout: 2 * time.Minute, MaxIdleTimeout: 5 * time.Minute}

// streamClient is a client that uses one connection for all of its requests.
type streamClient struct {
	name, url, proto string
	client           *http.Client
}

func (g *walkGateway) streamClients(t *testing.T) []streamClient {
	config := &tls.Config{RootCAs: g.roots}
	cleartext := new(http.Protocols)
	cleartext.SetUnencryptedHTTP2(true)
	over3 := &http3.Transport{TLSClientConfig: config, QUICConfig: patientQUIC}
	clients := []streamClient{
		{"HTTP/2 without TLS", "http://" + g.cleartext, "HTTP/2.0", &http.Client{Transport: &http.Transport{Protocols: cleartext}}},
		{"HTTP/2", "https://" + g.secure, "HTTP/2.0", &http.Client{Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}}},
		{"HTTP/3", "https://" + g.secure, "HTTP/3.0", &http.Client{Transport: over3}},
	}
	for _, c := range clients {
		c.client.Timeout = 5 * time.Minute // one of its streams is open all the time
		t.Cleanup(c.client.CloseIdleConnections)
	}
	t.Cleanup(func() { _ = over3.Close() })
	return clients
}

// A sending is how a body comes in a stream: size is announced (-1: nothing), part comes and then no more.
type sending struct {
	name       string
	size       int64
	part       int
	cancels    bool // the client gives up instead of waiting
	ends       bool // the client says that this was all
	wantStatus func(walk) int
}

var sendings = []sending{
	{name: "nothing announced, more may come", size: -1, part: 4 * secondSize, wantStatus: sizeOf},
	{name: "more announced than comes", size: largeBody, part: secondSize, wantStatus: sizeOf},
	{name: "whole, too large", size: smallBody, part: smallBody, ends: true, wantStatus: sizeOf},
	{name: "given up", size: 2 * secondSize, part: secondSize, cancels: true},
}

// TestStreams: a stream that is refused early, while its body still comes or never does, gets its answer; the other
// streams of the connection go on, and what is in a body is no request.
func TestStreams(t *testing.T) {
	g := startWalkGateway(t)
	for _, c := range g.streamClients(t) {
		t.Run(c.name, func(t *testing.T) {
			// This one is open all the time.
			held, hold := io.Pipe()
			long := make(chan error, 1)
			go func() {
				status, body, err := c.send(t.Context(), "POST", "/hold", "", -1, held)
				if err == nil && (status != 200 || body != "before after") {
					err = fmt.Errorf("%d %q", status, body)
				}
				long <- err
			}()
			_, _ = io.WriteString(hold, "before ")

			var streams sync.WaitGroup
			slots := make(chan struct{}, 50)
			for _, w := range g.walks {
				for _, way := range w.ways {
					for _, s := range sendings {
						slots <- struct{}{}
						streams.Go(func() {
							c.err(t, w, way, s)
							<-slots
						})
					}
				}
			}
			// A body that does not come has its own time, which is not the connection's.
			for path, want := range map[string]int{"/late-notify/v1/x": 408, "/late-call/v1/x": 400} {
				for range 90 { // 180, and 51 others: a server takes 250 at a time
					streams.Go(func() {
						body, sender := io.Pipe()
						defer sender.Close()
						if status, _, err := c.send(t.Context(), "POST", path, walkJSON, 10, body); err != nil || status != want {
							t.Errorf("%s: %d, %v", path, status, err)
						}
					})
				}
			}
			streams.Wait()
			_, _ = io.WriteString(hold, "after")
			hold.Close()
			if err := <-long; err != nil {
				t.Errorf("the long stream: %v", err)
			}
			if status, body, err := c.send(t.Context(), "GET", "/after", "", 0, nil); err != nil || body != "after" {
				t.Errorf("afterwards: %d %q, %v", status, body, err)
			}
			ports := map[string]bool{}
			_, host, _ := strings.Cut(c.url, "//")
			for _, line := range g.log.lines(`"http.log.access`, `"proto":"`+c.proto+`"`, `"host":"`+host+`"`) {
				ports[regexp.MustCompile(`"remote_port":"\d+"`).FindString(line)] = true
			}
			if len(ports) != 1 {
				t.Errorf("the connection did not last: there were %d", len(ports))
			}
		})
	}
	if lines := g.log.lines("netpay/refund", "http.log.access"); len(lines) > 0 || len(g.platform.seen()) > 0 {
		t.Errorf("a second request was seen: %v", lines)
	}
}

// send sends one request, with headers given in lines, and reads its answer whole.
func (c streamClient) send(ctx context.Context, method, path, headers string, size int64, body io.Reader) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.url+path, body)
	if err != nil {
		return 0, "", err
	}
	req.ContentLength = size
	for line := range strings.SplitSeq(strings.TrimSuffix(headers, "\r\n"), "\r\n") {
		if name, value, ok := strings.Cut(line, ": "); ok {
			req.Header.Add(name, value)
		}
	}
	res, err := c.client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	content, err := io.ReadAll(res.Body)
	switch {
	case err != nil:
	case res.Proto != c.proto:
		err = errors.New("the answer came by " + res.Proto)
	case res.Header.Get("Connection") != "":
		err = errors.New("the answer speaks of the connection")
	}
	return res.StatusCode, string(content), err
}

// err sends a request that errs in one way.
func (c streamClient) err(t *testing.T, w walk, way way, s sending) {
	want := way.status
	if want == 0 && s.wantStatus != nil {
		want = s.wantStatus(w)
	}
	if want == anyStatus && !s.ends {
		return // another server waits for the body
	}
	if raceEnabled && strings.HasSuffix(w.name, "-observe-proxy") {
		return // Caddy 2.11.9 races here with itself: its access log reads the count of a body that reverse_proxy still reads
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	body, sender := io.Pipe()
	defer sender.Close()
	text := seconds(s.part)(secondRequest("127.0.0.1", "second"))
	go func() {
		_, _ = io.WriteString(sender, text)
		switch {
		case s.ends:
			sender.Close()
		case s.cancels:
			cancel()
		}
	}()
	path := way.path
	if path == "" {
		path = "/v1/x"
	}
	status, _, err := c.send(ctx, way.method, "/"+w.name+path, way.headers, s.size, body)
	if !s.cancels && want != anyStatus && (err != nil || status != want) {
		t.Errorf("%s, %s, %s: %d, not %d: %v", w.name, way.name, s.name, status, want, err)
	}
}

// A raw stream is what no well-behaved client sends.
type rawStream struct {
	name     string
	path     string
	fields   []string // "name: value", in small letters
	data     []string // one frame each
	trailers []string
	want     string // a status, or "reset" if the protocol itself refuses it; or either
	calls    int    // of the platform
	only2    bool   // it is HTTP/2's own
}

var rawStreams = []rawStream{
	{name: "as announced", path: "/chinaums_proxy/v1/x", fields: []string{"content-length: 2"}, data: []string{"{}"}, want: "200", calls: 1},
	{name: "in pieces, nothing announced", path: "/chinaums_proxy/v1/x", data: []string{"{", "", "}"}, want: "200", calls: 1},
	{name: "asks first", path: "/chinaums_proxy/v1/x", fields: []string{"expect: 100-continue", "content-length: 2"}, data: []string{"{}"}, want: "200", calls: 1},
	{name: "cookies in pieces", path: "/chinaums_proxy/v1/x", fields: []string{"cookie: a=b", "cookie: c=d", "content-length: 2"}, data: []string{"{}"}, want: "200", calls: 1},
	{name: "the first of two lengths", path: "/chinaums_proxy/v1/x", fields: []string{"content-length: 2", "content-length: 4"}, data: []string{"{}"}, want: "200", calls: 1, only2: true},
	{name: "the second of two lengths", path: "/chinaums_proxy/v1/x", fields: []string{"content-length: 2", "content-length: 4"}, data: []string{"{}{}"}, want: "400 reset", only2: true},
	{name: "less than announced, a call", path: "/chinaums_proxy/v1/x", fields: []string{"content-length: 3"}, data: []string{"{}"}, want: "400"},
	{name: "less than announced, a notify", path: "/chinaums_notify/x", fields: []string{"content-length: 3"}, data: []string{"{}"}, want: "400"},
	{name: "less than announced, a webhook", path: "/webhook_signature/x", fields: []string{"content-length: 3"}, data: []string{"{}"}, want: "400"},
	{name: "less than announced, an inbox", path: "/inbox/x", fields: []string{"content-length: 3"}, data: []string{"{}"}, want: "400"},
	{name: "more than announced, a call", path: "/chinaums_proxy/v1/x", fields: []string{"content-length: 2"}, data: []string{"{}", "{}"}, want: "400 reset"},
	{name: "more than announced, a notify", path: "/chinaums_notify/x", fields: []string{"content-length: 2"}, data: []string{"{}", "{}"}, want: "400 reset"},
	{name: "more than announced, a webhook", path: "/webhook_signature/x", fields: []string{"content-length: 2"}, data: []string{"{}", "{}"}, want: "400 reset"},
	{name: "more than announced, an inbox", path: "/inbox/x", fields: []string{"content-length: 2"}, data: []string{"{}", "{}"}, want: "400 reset"},
	{name: "no length that can be read", path: "/chinaums_proxy/v1/x", fields: []string{"content-length: +2"}, data: []string{"{}"}, want: "400 reset", only2: true},
	{name: "a token in the trailers", path: "/chinaums_proxy/v1/x", fields: []string{"authorization: Bearer no", "trailer: authorization"}, data: []string{"{}"}, trailers: []string{"authorization: Bearer key"}, want: "403 reset", only2: true},
	{name: "an id in the trailers", path: "/webhook_signature/x", fields: []string{"ce-id: 1", "trailer: ce-id"}, data: []string{"{}"}, trailers: []string{"ce-id: 2"}, want: "200", only2: true},
	{name: "a connection's header", path: "/chinaums_proxy/v1/x", fields: []string{"connection: close"}, data: []string{"{}"}, want: "400", only2: true},
	{name: "a coding", path: "/chinaums_proxy/v1/x", fields: []string{"transfer-encoding: chunked"}, data: []string{"2\r\n{}\r\n0\r\n\r\n"}, want: "400", only2: true},
	{name: "no path", path: "x", data: []string{"{}"}, want: "reset", only2: true},
	{name: "another server's path", path: "http://127.0.0.1/v2/x", data: []string{"{}"}, want: "reset", only2: true},
}

func TestRawStreams(t *testing.T) {
	g := startWalkGateway(t)
	for version, send := range map[string]func(*testing.T, rawStream) string{"HTTP/2": g.raw2, "HTTP/3": g.raw3} {
		for _, s := range rawStreams {
			if s.only2 && version != "HTTP/2" {
				continue
			}
			t.Run(version+"/"+s.name, func(t *testing.T) {
				if !slices.ContainsFunc(s.fields, func(f string) bool { return strings.HasPrefix(f, "authorization") }) {
					s.fields = append(slices.Clone(s.fields), "authorization: Bearer key")
				}
				s.fields = append(s.fields, "content-type: application/json")
				got := send(t, s)
				if !slices.Contains(strings.Fields(s.want), got) {
					t.Errorf("%s, not %s", got, s.want)
				}
				calls := g.platform.seen()
				if len(calls) != s.calls {
					t.Errorf("the platform got %d calls", len(calls))
				}
				for _, call := range calls {
					if call.body != strings.Join(s.data, "") || call.header.Get("Cookie") != "" || call.header.Get("Expect") != "" {
						t.Errorf("the platform got %+v", call)
					}
				}
			})
		}
	}
}

// raw2 sends a stream by HTTP/2, frame by frame, and a good one after it, over one connection.
func (g *walkGateway) raw2(t *testing.T, s rawStream) string {
	connection, err := net.Dial("tcp", g.cleartext)
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	_ = connection.SetDeadline(time.Now().Add(2 * time.Minute))
	io.WriteString(connection, http2.ClientPreface)
	framer := http2.NewFramer(connection, connection)
	framer.AllowIllegalWrites = true
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	headers := func(id uint32, end bool, fields ...string) {
		block.Reset()
		for _, field := range fields {
			i := 1 + strings.Index(field[1:], ": ")
			_ = encoder.WriteField(hpack.HeaderField{Name: field[:i], Value: field[i+2:]})
		}
		_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: end})
	}
	_ = framer.WriteSettings()
	headers(1, false, append([]string{":method: POST", ":scheme: http", ":authority: " + g.cleartext, ":path: " + s.path}, s.fields...)...)
	for i, data := range s.data {
		_ = framer.WriteData(1, len(s.trailers) == 0 && i == len(s.data)-1, []byte(data))
	}
	if len(s.trailers) > 0 {
		headers(1, true, s.trailers...)
	}
	headers(3, true, ":method: GET", ":scheme: http", ":authority: "+g.cleartext, ":path: /after")

	outcome, good := map[uint32]string{}, ""
	for outcome[1] == "" || outcome[3] == "" {
		frame, err := framer.ReadFrame()
		if err != nil {
			t.Fatalf("the connection ended: %v; %v", err, outcome)
		}
		id := frame.Header().StreamID
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			if status := frame.PseudoValue("status"); status >= "200" && outcome[id] == "" {
				outcome[id] = status
			}
		case *http2.DataFrame:
			if id == 3 {
				good += string(frame.Data())
			}
		case *http2.RSTStreamFrame:
			if outcome[id] == "" {
				outcome[id] = "reset"
			}
		case *http2.GoAwayFrame:
			// Trailers that come after the answer, Go takes for a stream opened twice.
			if len(s.trailers) > 0 && outcome[1] != "" && frame.ErrCode == http2.ErrCodeProtocol {
				return outcome[1]
			}
			t.Errorf("the server says goodbye: %v", frame.ErrCode)
		}
	}
	if outcome[3] != "200" {
		t.Errorf("the good stream: %s %q", outcome[3], good)
	}
	return outcome[1]
}

const dataFrame, headersFrame = 0, 1 // of HTTP/3

// frames3 is a request in HTTP/3's frames.
func (g *walkGateway) frames3(method, path string, fields, data []string) []byte {
	var block bytes.Buffer
	encoder := qpack.NewEncoder(&block)
	for _, field := range append([]string{":method: " + method, ":scheme: https", ":authority: " + g.secure, ":path: " + path}, fields...) {
		i := 1 + strings.Index(field[1:], ": ")
		_ = encoder.WriteField(qpack.HeaderField{Name: field[:i], Value: field[i+2:]})
	}
	frames := append(quicvarint.Append([]byte{headersFrame}, uint64(block.Len())), block.Bytes()...)
	for _, text := range data {
		frames = append(quicvarint.Append(append(frames, dataFrame), uint64(len(text))), text...)
	}
	return frames
}

// raw3 does the same by HTTP/3.
func (g *walkGateway) raw3(t *testing.T, s rawStream) string {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	connection, err := quic.DialAddr(ctx, g.secure, &tls.Config{RootCAs: g.roots, NextProtos: []string{http3.NextProtoH3}}, patientQUIC)
	if err != nil {
		t.Fatal(err)
	}
	client := new(http3.Transport).NewClientConn(connection) // it opens the control stream
	defer func() { _ = client.CloseWithError(0, "") }()
	exchange := func(method, path string, fields, data []string) string {
		stream, err := connection.OpenStreamSync(ctx)
		if err != nil {
			t.Fatalf("no stream: %v", err)
		}
		_ = stream.SetDeadline(time.Now().Add(2 * time.Minute))
		_, _ = stream.Write(g.frames3(method, path, fields, data))
		_ = stream.Close()
		in := bufio.NewReader(stream)
		for {
			kind, err := quicvarint.Read(in)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal("no answer")
			}
			if err != nil {
				return "reset"
			}
			size, err := quicvarint.Read(in)
			if err != nil {
				return "reset"
			}
			payload := make([]byte, size)
			if _, err := io.ReadFull(in, payload); err != nil {
				return "reset"
			}
			if kind != headersFrame {
				continue
			}
			next := qpack.NewDecoder().Decode(payload)
			if status, err := next(); err != nil || status.Name != ":status" {
				t.Fatalf("the answer begins with %v, %v", status, err)
			} else if status.Value >= "200" {
				return status.Value
			}
		}
	}
	outcome := exchange("POST", s.path, s.fields, s.data)
	if good := exchange("GET", "/after", nil, nil); good != "200" {
		t.Errorf("the good stream: %s", good)
	}
	return outcome
}

// sessions is a cache that tells when there is a session in it.
type sessions struct {
	tls.ClientSessionCache
	stored chan struct{}
}

func (s sessions) Put(name string, session *tls.ClientSessionState) {
	s.ClientSessionCache.Put(name, session)
	if session != nil {
		select {
		case s.stored <- struct{}{}:
		default:
		}
	}
}

// TestEarlyData: what comes before a handshake has ended may be somebody's recording of another connection, sent again.
// Here it does not end: nothing of what the server says arrives.
func TestEarlyData(t *testing.T) {
	g := startWalkGateway(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	known := sessions{tls.NewLRUClientSessionCache(1), make(chan struct{}, 1)}
	config := &tls.Config{RootCAs: g.roots, ServerName: "127.0.0.1", NextProtos: []string{http3.NextProtoH3}, ClientSessionCache: known}
	first, err := quic.DialAddr(ctx, g.secure, config, patientQUIC)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-known.stored:
	case <-ctx.Done():
		t.Fatal("no session that could be resumed")
	}
	_ = first.CloseWithError(0, "")

	toServer, err := net.Dial("udp", g.secure)
	if err != nil {
		t.Fatal(err)
	}
	defer toServer.Close()
	var ends []net.PacketConn
	for range 2 {
		end, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer end.Close()
		ends = append(ends, end)
	}
	go func() {
		for packet := make([]byte, 64<<10); ; {
			n, _, err := ends[1].ReadFrom(packet)
			if err != nil {
				return
			}
			_, _ = toServer.Write(packet[:n])
		}
	}()
	early, err := quic.DialEarly(ctx, ends[0], ends[1].LocalAddr(), config, patientQUIC)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = early.CloseWithError(0, "") }()
	paths := []string{"/chinaums_proxy/v1/x", "/chinaums_guard/v1/x", "/chinaums_h5/v1/x", "/shouqianba_proxy/v1/x", "/shouqianba_guard/v1/x"}
	for _, path := range paths {
		stream, err := early.OpenStream()
		if err != nil {
			t.Fatal(err)
		}
		_, _ = stream.Write(g.frames3("POST", path, []string{"content-type: application/json", "authorization: Bearer key"}, []string{"{}"}))
		_ = stream.Close()
	}
	for _, path := range paths {
		eventually(t, path+" is refused", func() bool { return len(g.log.lines("http.log.access", path, `"status":425`)) > 0 })
	}
	if calls := g.platform.seen(); len(calls) > 0 {
		t.Errorf("the platform got %d calls", len(calls))
	}
}
