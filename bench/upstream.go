//go:build linux

package main

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// upstream plays what stands behind the peers: the platform that is called, over TCP and over TLS, and the merchant's app
// that takes notifies. It runs in a process of its own, so that its CPU time is not the peers', and does as little as it
// can; but it checks one call or notify of many, and tells what it has seen. It ends with its standard input, on which
// every line asks for the counts.
type upstream struct {
	platform, app seen
}

// seen is what came to one of the parts.
type seen struct {
	requests, plain, checked, right, wrong, spared atomic.Int64
	firstWrong                                     atomic.Pointer[string]
}

// counts is a seen as it is told.
type counts struct {
	Requests   int64  // all
	Plain      int64  // of the checked: without any signature, as a mere proxy passes it
	Checked    int64  // one of many
	Right      int64  // of the checked: signed and right (platform), verified and marked so (app)
	Wrong      int64  // of the checked: neither
	FirstWrong string // why
	Spared     int64  // were there when the connection was about to be closed
}

// upstreamReport is a line that the upstream prints.
type upstreamReport struct {
	Platform, PlatformTLS, App string // addresses
	Closing, ClosingTLS        string // of the platform, where it closes kept connections
	PlatformSaw, AppSaw        counts
}

const checkEvery = 32

// The answers, as long as the platform's usual ones.
const (
	platformAnswer = `{"errCode":"SUCCESS","errMsg":"查询成功","msgId":"TDCDFD91420230700079549371","merOrderId":"327M2026112509",` +
		`"mid":"898340149000005","tid":"88880001","status":"TRADE_SUCCESS","totalAmount":1,"targetSys":"Alipay 2.0",` +
		`"payTime":"2026-11-25 09:43:10","settleDate":"2026-11-25","responseTimestamp":"2026-11-25 09:43:12"}`
	appAnswer = "SUCCESS"
)

// runUpstream is the process's main. It writes its certificate's issuer into the file ca.pem of the directory.
func runUpstream(directory string) error {
	u := new(upstream)
	certificate, err := newCertificate(filepath.Join(directory, "ca.pem"))
	if err != nil {
		return err
	}
	listen := func(config *tls.Config, serve func(net.Conn)) (string, error) {
		listener, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			return "", err
		}
		go func() {
			for {
				connection, err := listener.Accept()
				if err != nil {
					return
				}
				if config != nil {
					connection = tls.Server(connection, config)
				}
				go func() {
					defer connection.Close()
					serve(connection)
				}()
			}
		}()
		return listener.Addr().String(), nil
	}
	var report upstreamReport
	platform := func(connection net.Conn) { serve(connection, "application/json", platformAnswer, u.call) }
	if report.Platform, err = listen(nil, platform); err != nil {
		return err
	}
	secure := &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}
	if report.PlatformTLS, err = listen(secure, platform); err != nil {
		return err
	}
	hasty := func(connection net.Conn) {
		serve(&closing{Conn: connection, spared: &u.platform.spared}, "application/json", platformAnswer, u.call)
	}
	if report.Closing, err = listen(nil, hasty); err != nil {
		return err
	}
	if report.ClosingTLS, err = listen(secure, hasty); err != nil {
		return err
	}
	if report.App, err = listen(nil, func(connection net.Conn) { serve(connection, "text/plain", appAnswer, u.notify) }); err != nil {
		return err
	}
	encoder := json.NewEncoder(os.Stdout)
	lines := bufio.NewScanner(os.Stdin)
	for {
		report.PlatformSaw, report.AppSaw = u.platform.counts(), u.app.counts()
		if err := encoder.Encode(report); err != nil {
			return err
		}
		if !lines.Scan() {
			return lines.Err()
		}
	}
}

func (s *seen) counts() counts {
	c := counts{Requests: s.requests.Load(), Plain: s.plain.Load(), Checked: s.checked.Load(), Right: s.right.Load(), Wrong: s.wrong.Load(), Spared: s.spared.Load()}
	if first := s.firstWrong.Load(); first != nil {
		c.FirstWrong = *first
	}
	return c
}

// count counts a request, and says whether it is one to be checked.
func (s *seen) count() bool { return s.requests.Add(1)%checkEvery == 1 }

func (s *seen) judge(plain bool, err error) {
	s.checked.Add(1)
	switch {
	case plain:
		s.plain.Add(1)
	case err == nil:
		s.right.Add(1)
	default:
		s.wrong.Add(1)
		text := err.Error()
		s.firstWrong.CompareAndSwap(nil, &text)
	}
}

// call looks at a call to the platform.
func (u *upstream) call(head, body []byte) {
	if !u.platform.count() {
		return
	}
	authorization := header(head, "Authorization")
	u.platform.judge(authorization == "", verifyCall(authorization, body))
}

// notify looks at what came to the app: the form as the platform sent it, from a mere proxy; or with the mark of a peer
// that has verified it: our own JSON with its event's id, or the header X-Verified.
func (u *upstream) notify(head, body []byte) {
	if !u.app.count() {
		return
	}
	if header(head, "X-Verified") == "" && header(head, "Ce-Id") == "" {
		u.app.judge(true, nil)
		return
	}
	var err error
	if strings.HasPrefix(header(head, "Content-Type"), "application/json") {
		var event struct {
			MerOrderID  string `json:"merOrderId"`
			TotalAmount int    `json:"totalAmount"`
			Sign        string `json:"sign"`
		}
		if err = json.Unmarshal(body, &event); err == nil && (event.MerOrderID == "" || event.TotalAmount != 1 || event.Sign != "") {
			err = fmt.Errorf("not a normalized event: %.200q", body)
		}
	} else if !bytes.Contains(body, []byte("merOrderId=")) || !bytes.Contains(body, []byte("sign=")) {
		err = fmt.Errorf("not a notify's form: %.200q", body)
	}
	u.app.judge(false, err)
}

// header is a field's value in the head of a request.
func header(head []byte, name string) string {
	for len(head) > 0 {
		var line []byte
		line, head, _ = bytes.Cut(head, []byte("\r\n"))
		if key, value, found := bytes.Cut(line, []byte(":")); found && bytes.EqualFold(key, []byte(name)) {
			return string(bytes.TrimSpace(value))
		}
	}
	return ""
}

// slowPath in a request's path makes the answer come after slowness: so many calls can be under way at once.
const (
	slowPath = "/slow"
	slowness = time.Second
)

// serve answers the requests of a connection, one after the other.
func serve(connection net.Conn, contentType, content string, look func(head, body []byte)) {
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: " + contentType + "\r\nContent-Length: " + strconv.Itoa(len(content)) + "\r\n\r\n" + content)
	buffer := make([]byte, 4<<10)
	filled := 0
	for {
		end := -1
		length := 0
		for {
			if end < 0 {
				if end = bytes.Index(buffer[:filled], []byte("\r\n\r\n")); end >= 0 {
					var err error
					if length, err = bodyLength(buffer[:end]); err != nil {
						_, _ = io.WriteString(connection, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
						return
					}
					end += 4
				}
			}
			if end >= 0 && filled >= end+length {
				break
			}
			if needed := max(end, 0) + length; len(buffer) < needed || filled == len(buffer) {
				larger := make([]byte, max(needed, 2*len(buffer)))
				copy(larger, buffer[:filled])
				buffer = larger
			}
			n, err := connection.Read(buffer[filled:])
			if n == 0 && err != nil {
				return
			}
			filled += n
		}
		look(buffer[:end], buffer[end:end+length])
		if line, _, _ := bytes.Cut(buffer[:end], []byte("\r\n")); bytes.Contains(line, []byte(slowPath)) {
			time.Sleep(slowness)
		}
		if _, err := connection.Write(answer); err != nil {
			return
		}
		filled = copy(buffer, buffer[end+length:filled])
	}
}

// closing is a connection that the server ends without a word while nothing is under way: half of the times after a
// random part of closingWindow, the other half not at all. A request that is there when the time is over is still served,
// as by nginx, whose loop reads what has come before it heeds its timers. How long this program waited for a processor
// would count as the client's fault otherwise.
type closing struct {
	net.Conn
	kept   bool // a request has been answered, and none has begun since
	spared *atomic.Int64
}

const closingWindow = time.Millisecond

func (c *closing) Read(p []byte) (int, error) {
	var end time.Time
	if wait := mathrand.N(2 * closingWindow); c.kept && wait < closingWindow {
		end = time.Now().Add(wait)
	}
	if err := c.SetReadDeadline(end); err != nil {
		return 0, err
	}
	c.kept = false
	n, err := c.Conn.Read(p)
	if !errors.Is(err, os.ErrDeadlineExceeded) || !waiting(c.Conn) {
		return n, err
	}
	c.spared.Add(1)
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

func (c *closing) Write(p []byte) (int, error) {
	c.kept = true
	return c.Conn.Write(p)
}

// waiting reports whether something has come on a connection that has not been read.
func waiting(connection net.Conn) (come bool) {
	if secure, ok := connection.(*tls.Conn); ok {
		connection = secure.NetConn()
	}
	able, ok := connection.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := able.SyscallConn()
	if err != nil {
		return false
	}
	err = raw.Control(func(fd uintptr) {
		var room [1]byte
		n, _, err := syscall.Recvfrom(int(fd), room[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		come = err == nil && n > 0
	})
	return err == nil && come
}

// bodyLength is a request's Content-Length.
func bodyLength(head []byte) (int, error) {
	if header(head, "Transfer-Encoding") != "" {
		return 0, errors.New("chunks are not read here")
	}
	text := header(head, "Content-Length")
	if text == "" {
		return 0, nil
	}
	length, err := strconv.Atoi(text)
	if err != nil || length < 0 || length > 8<<20 {
		return 0, fmt.Errorf("Content-Length is %.20q", text)
	}
	return length, nil
}

// newCertificate makes a certificate for this machine's own address, and writes it into a file for those who must trust it.
func newCertificate(file string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil { //nolint:gosec // nginx's workers read it
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
