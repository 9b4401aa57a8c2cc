package wire

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// FuzzAnswer holds what is made of a server's bytes against net/http's client, which gets the same: what that refuses is
// refused, what it accepts is the same answer or refused, and none of the bytes becomes the next call's answer.
func FuzzAnswer(f *testing.F) {
	for _, seed := range []string{
		ok("one"), ok("one") + ok("stray"), ok("one") + "x", "HTTP/1.0 200 OK\r\n\r\nto the end", "HTTP/1.1 204 No Content\r\n\r\nx",
		"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: A\r\n\r\n3;x=y\r\none\r\n0\r\nA: b\r\n\r\n",
		"HTTP/1.1 100 Continue\r\n\r\n" + ok("one"), "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nx",
		"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\none", "HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\none",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\none", "HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\none", "HTTP/1.1 200 OK\n\nx", "HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\none",
		"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 99 No\r\n\r\n", "HTTP/9.9 200 OK\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\noneHTTP/1.0 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
	} {
		f.Add([]byte(seed))
	}
	type script struct {
		text   []byte
		closes bool
	}
	var now atomic.Pointer[script]
	server := startServer(f, "unix", nil, func(p *peer) {
		for number := 1; ; number++ {
			_, content, err := p.request()
			if err != nil {
				return
			}
			if content == "first" {
				said := now.Load()
				_, _ = p.Conn.Write(said.text)
				if said.closes {
					return
				}
				continue
			}
			p.write(ok("the second's", fmt.Sprintf("X-Number: %d", number)))
		}
	})
	call := func(c *Client, content string) (*http.Response, string, error) {
		res, answer, err := c.Do(&Request{Target: "/", Host: "h", Body: []byte(content), Deadline: time.Now().Add(time.Minute), MaxAnswer: 1 << 20})
		defer answer.Release()
		return res, string(answer.Bytes), err
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		if len(answer) > 8<<10 {
			return // of more the first part may come alone
		}
		now.Store(&script{answer, true})
		lean := &Client{Dial: server.dial, MaxHead: 10 << 20, MaxIdle: 2, IdleTimeout: time.Minute}
		defer lean.Close()
		res, got, err := call(lean, "first")

		standard := &http.Transport{DisableCompression: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return server.dial(ctx) }}
		defer standard.CloseIdleConnections()
		req, _ := http.NewRequest(http.MethodPost, "http://h/", strings.NewReader("first"))
		res2, err2 := standard.RoundTrip(req)
		var want []byte
		if err2 == nil && res2.StatusCode != http.StatusSwitchingProtocols {
			want, err2 = io.ReadAll(res2.Body)
			res2.Body.Close()
		}
		switch {
		case err2 != nil && err == nil:
			t.Fatalf("net/http refuses it, %v; here it is %d %q", err2, res.StatusCode, got)
		case err2 == nil && err != nil && res2.StatusCode >= 100 && !bytes.Contains(answer, []byte(" 1")):
			t.Fatalf("net/http takes it, here: %v", err)
		case err != nil:
			return
		case res.StatusCode != res2.StatusCode || got != string(want) || !reflect.DeepEqual(res.Header, res2.Header) || !reflect.DeepEqual(res.Trailer, res2.Trailer):
			t.Fatalf("%d %q %v\nnot %d %q %v", res.StatusCode, got, res.Header, res2.StatusCode, want, res2.Header)
		}
		if res.ContentLength < 0 && res.TransferEncoding == nil {
			return // it ends with the connection
		}
		now.Store(&script{answer, false})
		kept := &Client{Dial: server.dial, MaxHead: 10 << 20, MaxIdle: 2, IdleTimeout: time.Minute}
		defer kept.Close()
		if _, again, err := call(kept, "first"); err != nil || again != got {
			t.Fatalf("the same bytes give %q, %v", again, err)
		}
		if res, second, err := call(kept, "second"); err != nil || second != "the second's" || res.Header.Get("X-Number") == "" {
			t.Fatalf("the second call's answer is %q, %v", second, err)
		}
	})
}
