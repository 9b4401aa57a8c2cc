package wire

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/internal/testutil"
)

// server is one that answers with bytes. It counts connections.
type server struct {
	listener    net.Listener
	connections atomic.Int32
	open        sync.Map
}

// peer is a connection at the server.
type peer struct {
	net.Conn
	raw        net.Conn // below TLS
	r          *bufio.Reader
	connection int
}

// startServer serves each connection with serve; over TLS, where config is given.
func startServer(tb testing.TB, network string, config *tls.Config, serve func(p *peer)) *server {
	tb.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = tb.TempDir() + "/socket"
	}
	listener, err := net.Listen(network, address)
	if err != nil {
		tb.Fatal(err)
	}
	s := &server{listener: listener}
	go func() {
		for {
			raw, err := listener.Accept()
			if err != nil {
				return
			}
			s.open.Store(raw, nil)
			p := &peer{Conn: raw, raw: raw, connection: int(s.connections.Add(1))}
			go func() {
				defer raw.Close()
				if config != nil {
					p.Conn = tls.Server(raw, config)
				}
				p.r = bufio.NewReader(p.Conn)
				serve(p)
			}()
		}
	}()
	tb.Cleanup(func() {
		listener.Close()
		s.open.Range(func(conn, _ any) bool { conn.(net.Conn).Close(); return true })
	})
	return s
}

func (s *server) dial(ctx context.Context) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, s.listener.Addr().Network(), s.listener.Addr().String())
}

// client returns one for the server.
func (s *server) client(tb testing.TB, config *tls.Config) *Client {
	c := &Client{Dial: s.dial, TLS: config, MaxHead: 1 << 20, MaxIdle: 4, IdleTimeout: time.Minute}
	tb.Cleanup(c.Close)
	return c
}

// request reads a request; an error ends the connection.
func (p *peer) request() (head, content string, err error) {
	for !strings.HasSuffix(head, "\r\n\r\n") {
		text, err := p.r.ReadString('\n')
		if err != nil {
			return "", "", err
		}
		head += text
	}
	length := 0
	for text := range strings.SplitSeq(head, "\r\n") {
		_, _ = fmt.Sscanf(text, "Content-Length: %d", &length)
	}
	b := make([]byte, length)
	_, err = io.ReadFull(p.r, b)
	return head, string(b), err
}

func (p *peer) write(text string) { _, _ = io.WriteString(p.Conn, text) }

// reset ends the connection as a crashed server does.
func (p *peer) reset() {
	if tcp, ok := p.raw.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	p.raw.Close()
}

// halfClose says that nothing more comes.
func (p *peer) halfClose() {
	if secure, ok := p.Conn.(*tls.Conn); ok {
		_ = secure.CloseWrite()
		return
	}
	_ = p.raw.(interface{ CloseWrite() error }).CloseWrite()
}

func ok(content string, fields ...string) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%s\r\n%s", len(content), strings.Join(append(fields, ""), "\r\n"), content)
}

// newTLS returns a certificate for the server, and how the client knows it.
func newTLS(tb testing.TB) (serving, client *tls.Config) {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"platform.test"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		tb.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, &tls.Config{RootCAs: pool, ServerName: "platform.test"}
}

// post sends a body with the test's own deadline.
func post(c *Client, content string) (status int, got string, err error) {
	res, answer, err := c.Do(&Request{
		Target: "/v1/x?a=b", Host: "platform.test", Fields: []Field{{"Content-Type", "application/json"}, {"Authorization", "OPEN-BODY-SIG"}},
		Body: []byte(content), Deadline: time.Now().Add(time.Minute), MaxAnswer: 4 << 20,
	})
	if err != nil {
		return 0, "", err
	}
	defer answer.Release()
	return res.StatusCode, string(answer.Bytes), nil
}

// waitForNews returns when something has come on the kept connections, or the server has closed them.
func waitForNews(tb testing.TB, c *Client) {
	tb.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.idle {
		testutil.Eventually(tb, "something comes on a kept connection", func() bool { return !k.silent() })
	}
}
