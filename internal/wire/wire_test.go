package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestServers: whatever a server does with a connection, the call has the answer that is its own or an error that says
// how far it came, and the next call has its own answer.
func TestServers(t *testing.T) {
	large := strings.Repeat("x", 1<<20)
	huge := strings.Repeat("x", 16<<20) // more than the kernel takes for a server that does not read
	read := func(p *peer) { _, _, _ = p.request() }
	cases := []struct {
		name     string
		body     string
		serve    func(p *peer) // on the first connection, without reading the request
		status   int
		answer   string
		progress Progress // of an error
		kept     bool     // the second call comes on the same connection
	}{
		{"just so", "{}", func(p *peer) { read(p); p.write(ok("one")) }, 200, "one", 0, true},
		{"64 KiB, in one", large[:64<<10], func(p *peer) { read(p); p.write(ok("one")) }, 200, "one", 0, true},
		{"1 MiB", large, func(p *peer) { read(p); p.write(ok("one")) }, 200, "one", 0, true},
		{"1 MiB both ways", large, func(p *peer) { read(p); p.write(ok(large)) }, 200, large, 0, true},
		{"no body", "{}", func(p *peer) { read(p); p.write("HTTP/1.1 204 No Content\r\n\r\n") }, 204, "", 0, true},
		{"an early answer, and it reads on", large, func(p *peer) {
			p.write("HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")
			_, _ = io.Copy(io.Discard, p.r)
		}, 413, "big", 0, false},
		{"an early answer, and it reads no more", huge, func(p *peer) {
			p.write("HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
			hold(p)
		}, 413, "big", 0, false},
		{"an early answer, and it closes", huge, func(p *peer) { // what the kernel does not hold: all of it is read after the end only
			_, _ = p.r.Peek(1)
			p.write("HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
			p.halfClose()
			_, _ = io.Copy(io.Discard, p.r)
		}, 413, "big", 0, false},
		{"an answer before the request", "{}", func(p *peer) {
			p.write("HTTP/1.1 503 Full\r\nContent-Length: 4\r\nConnection: close\r\n\r\nfull")
			read(p)
		}, 503, "full", 0, false},
		{"half-closed behind an answer of no length", "{}", func(p *peer) { read(p); p.write("HTTP/1.1 200 OK\r\n\r\nto the end"); p.halfClose() }, 200, "to the end", 0, false},
		{"half-closed without an answer", "{}", func(p *peer) { read(p); p.halfClose(); hold(p) }, 0, "", Written, false},
		{"reset without an answer", "{}", func(p *peer) { read(p); p.reset() }, 0, "", Written, false},
		{"reset in the head", "{}", func(p *peer) { read(p); p.write("HTTP/1.1 200 OK\r\nConte"); p.halfClose() }, 0, "", Answering, false},
		{"cut in the body", "{}", func(p *peer) { read(p); p.write("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345"); p.halfClose() }, 0, "", Answering, false},
		{"cut in a chunk", "{}", func(p *peer) {
			read(p)
			p.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n123")
			p.halfClose()
		}, 0, "", Answering, false},
		{"cut before the last chunk", "{}", func(p *peer) {
			read(p)
			p.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n123\r\n")
			p.halfClose()
		}, 0, "", Answering, false},
		{"trickling", "{}", func(p *peer) {
			read(p)
			for _, b := range []byte(ok("drop by drop")) {
				p.write(string(b))
			}
		}, 200, "drop by drop", 0, true},
		{"chunked", "{}", func(p *peer) {
			read(p)
			p.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n5;ext=1\r\n, two\r\n0\r\n\r\n")
		}, 200, "one, two", 0, true},
		{"trailers", "{}", func(p *peer) {
			read(p)
			p.write("HTTP/1.1 200 OK\r\nTrailer: X-T\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n0\r\nX-T: 1\r\n\r\n")
		}, 200, "one", 0, true},
		{"both Content-Length and Transfer-Encoding", "{}", func(p *peer) {
			read(p)
			p.write("HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n0\r\n\r\n")
		}, 200, "one", 0, true},
		{"two lengths", "{}", func(p *peer) {
			read(p)
			p.write("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 2\r\n\r\none")
		}, 0, "", Answering, false},
		{"two answers", "{}", func(p *peer) { read(p); p.write(ok("one") + ok("stray")) }, 200, "one", 0, false},
		{"bytes behind the answer", "{}", func(p *peer) { read(p); p.write(ok("one") + "\r\n") }, 200, "one", 0, false},
		{"Connection: close", "{}", func(p *peer) { read(p); p.write(ok("one", "Connection: close")) }, 200, "one", 0, false},
		{"HTTP/1.0", "{}", func(p *peer) { read(p); p.write("HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\none") }, 200, "one", 0, false},
		{"HTTP/1.0, kept", "{}", func(p *peer) {
			read(p)
			p.write("HTTP/1.0 200 OK\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\none")
		}, 200, "one", 0, true},
		{"a head of 64 KiB", "{}", func(p *peer) { read(p); p.write(ok("one", "X-Large: "+large[:64<<10])) }, 200, "one", 0, true},
		{"a head of 1 MiB", "{}", func(p *peer) { read(p); p.write(ok("one", "X-Large: "+large)) }, 0, "", Answering, false},
		{"an answer of 5 MiB", "{}", func(p *peer) { read(p); p.write("HTTP/1.1 200 OK\r\nContent-Length: 5242880\r\n\r\n") }, 0, "", Answering, false},
		{"interim answers", "{}", func(p *peer) {
			read(p)
			p.write("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + ok("one"))
		}, 200, "one", 0, true},
		{"interim answers without end", "{}", func(p *peer) { read(p); p.write(strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 100)); hold(p) }, 0, "", Answering, false},
		{"another protocol", "{}", func(p *peer) {
			read(p)
			p.write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nxxx")
		}, 101, "", 0, false},
		{"a status that is none", "{}", func(p *peer) { read(p); p.write("HTTP/1.1 099 No\r\nContent-Length: 0\r\n\r\n") }, 0, "", Answering, false},
		{"HTTP/2", "{}", func(p *peer) { read(p); p.write("\x00\x00\x00\x04\x00\x00\x00\x00\x00"); p.halfClose() }, 0, "", Answering, false},
	}
	serving, knowing := newTLS(t)
	for _, c := range cases {
		for _, secure := range []bool{false, true} {
			t.Run(c.name+map[bool]string{true: ", TLS"}[secure], func(t *testing.T) {
				var server, client *tls.Config
				if secure {
					server, client = serving, knowing
				}
				s := startServer(t, "tcp", server, func(p *peer) {
					if p.connection == 1 {
						c.serve(p)
					}
					for {
						if _, _, err := p.request(); err != nil {
							return
						}
						p.write(ok("the second's"))
					}
				})
				http := s.client(t, client)
				status, answer, err := post(http, c.body)
				var failed *Error
				switch {
				case c.status == 0:
					if !errors.As(err, &failed) || failed.Progress != c.progress {
						t.Errorf("status %d, error %v, not one of %q", status, err, c.progress)
					}
				case err != nil || status != c.status || answer != c.answer:
					t.Errorf("status %d, %.80q, %v", status, answer, err)
				}
				if !c.kept {
					waitForNews(t, http) // the server's end may come a moment after its answer: too late for the second call
				}
				if status, answer, err := post(http, "{}"); err != nil || status != 200 || answer != "the second's" {
					t.Errorf("the second call: status %d, %q, %v", status, answer, err)
				}
				if kept := s.connections.Load() == 1; kept != c.kept {
					t.Errorf("%d connections", s.connections.Load())
				}
			})
		}
	}
}

// hold waits until the client hangs up, and reads nothing of what was buffered.
func hold(p *peer) {
	if secure, ok := p.Conn.(*tls.Conn); ok {
		_ = secure.Handshake()
	}
	_ = p.raw.SetReadDeadline(time.Time{})
	one := make([]byte, 1)
	for {
		if _, err := p.raw.Read(one); err != nil {
			return
		}
		time.Sleep(10 * time.Millisecond) // byte by byte, so that the client never gets rid of much
	}
}

// TestStale: a connection that the server has closed, or on which something has come, is replaced before the first byte.
func TestStale(t *testing.T) {
	serving, knowing := newTLS(t)
	for name, end := range map[string]func(p *peer){
		"closed":           func(p *peer) { p.Close() },
		"half-closed":      func(p *peer) { p.halfClose(); hold(p) },
		"reset":            func(p *peer) { p.reset() },
		"a stray answer":   func(p *peer) { p.write(ok("stray")); hold(p) },
		"a time-out's 408": func(p *peer) { p.write("HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"); p.Close() },
	} {
		for _, secure := range []bool{false, true} {
			t.Run(name+map[bool]string{true: ", TLS"}[secure], func(t *testing.T) {
				var server, client *tls.Config
				if secure {
					server, client = serving, knowing
				}
				answered := make(chan struct{})
				s := startServer(t, "tcp", server, func(p *peer) {
					for range 2 {
						if _, _, err := p.request(); err != nil {
							return
						}
						p.write(ok("its own"))
						if p.connection == 1 {
							<-answered
							end(p)
							return
						}
					}
				})
				c := s.client(t, client)
				for call := range 2 {
					if status, answer, err := post(c, "{}"); err != nil || status != 200 || answer != "its own" {
						t.Fatalf("call %d: status %d, %q, %v", call, status, answer, err)
					}
					if call == 0 {
						if len(c.idle) != 1 {
							t.Fatal("no connection is kept")
						}
						close(answered)
						waitForNews(t, c)
					}
				}
				if n := s.connections.Load(); n != 2 {
					t.Errorf("%d connections", n)
				}
			})
		}
	}
}

// meeting is a connection that lets something happen when it gets a deadline, while it is not the first.
type meeting struct {
	*net.TCPConn
	deadlines int
	meet      func(*net.TCPConn)
}

func (m *meeting) SetDeadline(t time.Time) error {
	if m.deadlines++; m.deadlines == 2 {
		m.meet(m.TCPConn)
	}
	return m.TCPConn.SetDeadline(t)
}

// TestLastLook: the look at a kept connection came before its deadline was set and, with TLS, before the request was
// sealed. What the server ended meanwhile took a call with it, whose outcome was then unknown.
func TestLastLook(t *testing.T) {
	serving, knowing := newTLS(t)
	for _, secure := range []bool{false, true} {
		for _, size := range []int{2, joined + 1, atOnce + 1} {
			var server, client *tls.Config
			if secure {
				server, client = serving, knowing
			}
			end := make(chan struct{})
			s := startServer(t, "tcp", server, func(p *peer) {
				for range 2 {
					if _, _, err := p.request(); err != nil {
						return
					}
					p.write(ok("its own"))
					if p.connection == 1 {
						<-end
						return
					}
				}
			})
			c := s.client(t, client)
			c.Dial = func(ctx context.Context) (net.Conn, error) {
				raw, err := s.dial(ctx)
				if err != nil {
					return nil, err
				}
				return &meeting{TCPConn: raw.(*net.TCPConn), meet: func(tcp *net.TCPConn) {
					close(end)
					under, err := tcp.SyscallConn()
					for open := err == nil; open; time.Sleep(time.Millisecond) {
						_ = under.Control(func(fd uintptr) { open = quiet(fd) })
					}
				}}, nil
			}
			for call := range 2 {
				if status, answer, err := post(c, strings.Repeat("x", size)); err != nil || status != 200 || answer != "its own" {
					t.Errorf("TLS %v, %d bytes, call %d: status %d, %q, %v", secure, size, call, status, answer, err)
				}
			}
			if n := s.connections.Load(); n != 2 {
				t.Errorf("TLS %v, %d bytes: %d connections", secure, size, n)
			}
		}
	}
}

// TestNeverTwice: after the first byte nothing is repeated, unless the caller has said that it may be.
func TestNeverTwice(t *testing.T) {
	for _, again := range []bool{false, true} {
		var mu sync.Mutex
		requests := 0
		s := startServer(t, "tcp", nil, func(p *peer) {
			for number := 1; ; number++ {
				if _, _, err := p.request(); err != nil {
					return
				}
				mu.Lock()
				requests++
				mu.Unlock()
				if p.connection == 1 && number == 2 {
					return // without an answer
				}
				p.write(ok("{}"))
			}
		})
		c := s.client(t, nil)
		if _, _, err := post(c, "{}"); err != nil {
			t.Fatal(err)
		}
		_, content, err := c.Do(&Request{Target: "/", Host: "h", Body: []byte("{}"), Deadline: time.Now().Add(time.Minute), MaxAnswer: 10, Again: again})
		content.Release()
		failed, _ := errors.AsType[*Error](err)
		if again != (err == nil) || !again && (failed == nil || failed.Progress != Written) {
			t.Errorf("again %v: %v", again, err)
		}
		mu.Lock()
		if want := map[bool]int{false: 2, true: 3}[again]; requests != want {
			t.Errorf("again %v: the server got %d requests", again, requests)
		}
		mu.Unlock()
	}
}

// TestNotSent: what has not been sent is told from what may have been.
func TestNotSent(t *testing.T) {
	s := startServer(t, "tcp", nil, func(p *peer) { _, _ = io.Copy(io.Discard, p) })
	c := s.client(t, nil)
	soon := func() time.Time { return time.Now().Add(time.Minute) }
	for name, r := range map[string]*Request{
		"a line in a value":  {Target: "/", Host: "h", Fields: []Field{{"X", "a\r\nY: b"}}},
		"a control in one":   {Target: "/", Host: "h", Fields: []Field{{"X", "a\x00b"}}},
		"a space in a name":  {Target: "/", Host: "h", Fields: []Field{{"X Y", "a"}}},
		"no name":            {Target: "/", Host: "h", Fields: []Field{{"", "a"}}},
		"a space in a path":  {Target: "/ HTTP/1.1", Host: "h"},
		"a line in a host":   {Target: "/", Host: "h\nX: y"},
		"no host":            {Target: "/"},
		"no target":          {Host: "h"},
		"no path":            {Target: "@h/", Host: "h"},
		"a tab in a path":    {Target: "/\t", Host: "h"},
		"DEL in a value":     {Target: "/", Host: "h", Fields: []Field{{"X", "\x7f"}}},
		"a colon in a name":  {Target: "/", Host: "h", Fields: []Field{{"X:", "a"}}},
		"a return in a path": {Target: "/\r", Host: "h"},
	} {
		r.Deadline = soon()
		_, _, err := c.Do(r)
		if failed, ok := errors.AsType[*Error](err); !ok || failed.Progress != NotDialed {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := s.connections.Load(); n != 0 {
		t.Errorf("%d connections for what cannot be sent", n)
	}

	refused := &Client{Dial: func(ctx context.Context) (net.Conn, error) { return nil, errors.New("refused") }}
	_, _, err := refused.Do(&Request{Target: "/", Host: "h", Deadline: soon()})
	if failed, ok := errors.AsType[*Error](err); !ok || failed.Progress != NotDialed {
		t.Errorf("refused: %v", err)
	}
	_, knowing := newTLS(t)
	other, _ := newTLS(t)
	foreign := startServer(t, "tcp", other, func(p *peer) { _, _, _ = p.request() })
	_, _, err = post(foreign.client(t, knowing), "{}")
	if failed, ok := errors.AsType[*Error](err); !ok || failed.Progress != NotDialed {
		t.Errorf("a certificate that is not known: %v", err)
	}
	_, _, err = c.Do(&Request{Target: "/", Host: "h", Deadline: time.Now().Add(-time.Second)})
	if failed, ok := errors.AsType[*Error](err); !ok || failed.Progress > Dialed {
		t.Errorf("too late: %v", err)
	}
}

// TestDeadline: an answer that does not come whole in time is a timeout, and what had come is told.
func TestDeadline(t *testing.T) {
	large := make([]byte, 16<<20) // more than the kernel takes for a server that does not read
	for _, c := range []struct {
		name, answer string
		body         []byte
		progress     Progress
	}{
		{"no answer", "", []byte("{}"), Written},
		{"half an answer", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", []byte("{}"), Answering},
		{"it does not read", "", large, Begun},
	} {
		s := startServer(t, "tcp", nil, func(p *peer) {
			if len(c.body) < len(large) {
				_, _, _ = p.request()
			}
			p.write(c.answer)
			hold(p)
		})
		for patience := 200 * time.Millisecond; ; patience *= 4 {
			_, _, err := s.client(t, nil).Do(&Request{Target: "/", Host: "h", Body: c.body, Deadline: time.Now().Add(patience), MaxAnswer: 10})
			failed, ok := errors.AsType[*Error](err)
			if ok && failed.Progress < c.progress && patience < time.Minute {
				continue // a busy machine does not come so far in the time: once more, with more of it
			}
			late, _ := errors.AsType[net.Error](err)
			if !ok || failed.Progress != c.progress || late == nil || !late.Timeout() {
				t.Errorf("%s: %v", c.name, err)
			}
			break
		}
	}
}

// TestPool: connections are kept in a bounded number, for a bounded time, and not by a closed client.
func TestPool(t *testing.T) {
	const calls = 8
	var arrived sync.WaitGroup
	arrived.Add(calls)
	s := startServer(t, "tcp", nil, func(p *peer) {
		for {
			if _, content, err := p.request(); err != nil {
				return
			} else if content == "together" {
				arrived.Done()
				arrived.Wait()
			}
			p.write(ok("{}"))
		}
	})
	c := s.client(t, nil)
	var done sync.WaitGroup
	for range calls {
		done.Go(func() {
			if _, _, err := post(c, "together"); err != nil {
				t.Error(err)
			}
		})
	}
	done.Wait()
	if len(c.idle) != c.MaxIdle {
		t.Errorf("%d connections are kept, not %d", len(c.idle), c.MaxIdle)
	}
	last := c.idle[len(c.idle)-1]
	if _, _, err := post(c, "{}"); err != nil || c.idle[len(c.idle)-1] != last {
		t.Errorf("the one used last is not used first: %v", err)
	}
	// Long past its deadline a kept connection is as good as ever.
	if err := last.SetDeadline(time.Now().Add(-time.Hour)); err != nil || !last.silent() {
		t.Errorf("a connection whose last exchange had a deadline is taken for dead: %v", err)
	}
	c.idle[0].since = time.Now().Add(-c.IdleTimeout)
	c.sweep()
	if len(c.idle) != c.MaxIdle-1 || c.timer == nil {
		t.Errorf("%d connections after the sweep", len(c.idle))
	}
	for _, k := range c.idle {
		k.since = time.Now().Add(-c.IdleTimeout)
	}
	c.sweep()
	if len(c.idle) != 0 || c.timer != nil {
		t.Errorf("%d connections after their time", len(c.idle))
	}
	c.Close()
	if _, _, err := post(c, "{}"); err != nil || len(c.idle) != 0 {
		t.Errorf("a closed client: %v, %d connections kept", err, len(c.idle))
	}
	single := s.client(t, nil)
	single.MaxIdle = 0
	if _, _, err := post(single, "{}"); err != nil || len(single.idle) != 0 {
		t.Errorf("keep-alive off: %v", err)
	}
}

// TestHead compares the bytes on the wire.
func TestHead(t *testing.T) {
	heads := make(chan string, 2)
	s := startServer(t, "tcp", nil, func(p *peer) {
		head, content, _ := p.request()
		heads <- head + content
		p.write(ok("{}"))
	})
	c := s.client(t, nil)
	const want = "POST /v1/x?a=b HTTP/1.1\r\nHost: platform.test\r\nContent-Type: application/json\r\nAuthorization: OPEN-BODY-SIG\r\n"
	_, _, _ = post(c, "测试")
	if got := <-heads; got != want+"Content-Length: 6\r\n\r\n测试" {
		t.Errorf("%q", got)
	}
	single := s.client(t, nil)
	single.MaxIdle = 0
	_, _, _ = post(single, "{}")
	if got := <-heads; got != want+"Connection: close\r\nContent-Length: 2\r\n\r\n{}" {
		t.Errorf("%q", got)
	}
}

// full is a connection that takes no byte.
type full struct{ *net.TCPConn }

func (full) Write([]byte) (int, error) { return 0, os.ErrDeadlineExceeded }

// TestAnswerToNothing: a large body is written while the answer is read. What had come before its first byte was taken for
// the answer, though nothing of the request had been written.
func TestAnswerToNothing(t *testing.T) {
	for _, size := range []int{2, atOnce + 1} {
		s := startServer(t, "tcp", nil, func(p *peer) { p.write(ok("stray")); hold(p) })
		c := s.client(t, nil)
		c.Dial = func(ctx context.Context) (net.Conn, error) {
			raw, err := s.dial(ctx)
			if err != nil {
				return nil, err
			}
			return full{raw.(*net.TCPConn)}, nil
		}
		status, answer, err := post(c, strings.Repeat("x", size))
		if failed, ok := errors.AsType[*Error](err); !ok || failed.Progress != Dialed {
			t.Errorf("%d bytes: status %d, %q, %v", size, status, answer, err)
		}
	}
}
