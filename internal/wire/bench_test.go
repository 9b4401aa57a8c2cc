package wire

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"runtime"
	"strings"
	"testing"
	"time"
)

// exchange makes one call. sent tells of an error that the call may have been executed.
type exchange func(content []byte) (sent bool, err error)

// both returns this client and net/http's, for the same server.
func both(tb testing.TB, s *server, config *tls.Config) map[string]exchange {
	lean := s.client(tb, config)
	scheme := "http"
	if config != nil {
		scheme = "https"
	}
	standard := &http.Transport{
		DisableCompression: true, MaxIdleConnsPerHost: 4, TLSClientConfig: config,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return s.dial(ctx) },
	}
	tb.Cleanup(standard.CloseIdleConnections)
	return map[string]exchange{
		"wire": func(content []byte) (bool, error) {
			_, answer, err := lean.Do(&Request{
				Target: "/v1/x", Host: "h", Fields: []Field{{"Content-Type", "application/json"}, {"Accept-Encoding", "identity"}},
				Body: content, Deadline: time.Now().Add(time.Minute), MaxAnswer: 4 << 20,
			})
			answer.Release()
			failed, _ := errors.AsType[*Error](err)
			return failed != nil && failed.Progress > Dialed, err
		},
		"net/http": func(content []byte) (sent bool, err error) {
			ctx, cancel := context.WithTimeout(httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{
				GetConn: func(string) { sent = false }, GotConn: func(httptrace.GotConnInfo) { sent = true },
			}), time.Minute)
			defer cancel()
			req, _ := http.NewRequestWithContext(ctx, http.MethodPost, scheme+"://h/v1/x", bytes.NewReader(content))
			req.Header["Content-Type"], req.Header["Accept-Encoding"] = []string{"application/json"}, []string{"identity"}
			res, err := standard.RoundTrip(req)
			if err == nil {
				_, err = io.ReadAll(res.Body)
				res.Body.Close()
			}
			return sent, err
		},
	}
}

// BenchmarkExchange compares an exchange with one of net/http's client, to the same server on the same machine.
func BenchmarkExchange(b *testing.B) {
	serving, knowing := newTLS(b)
	for _, secure := range []bool{false, true} {
		var server, client *tls.Config
		name := "plain"
		if secure {
			server, client, name = serving, knowing, "TLS"
		}
		s := startServer(b, "tcp", server, func(p *peer) {
			room := make([]byte, 2<<20)
			for {
				length := 0
				for {
					text, err := p.r.ReadSlice('\n')
					if err != nil {
						return
					}
					if value, ok := bytes.CutPrefix(text, []byte("Content-Length: ")); ok {
						for _, c := range bytes.TrimSpace(value) {
							length = 10*length + int(c-'0')
						}
					}
					if len(text) == 2 {
						break
					}
				}
				if _, err := io.ReadFull(p.r, room[:length]); err != nil {
					return
				}
				p.write("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: Sun, 29 Nov 2026 22:00:00 GMT\r\nContent-Length: 21\r\n\r\n{\"errCode\":\"SUCCESS\"}")
			}
		})
		clients := both(b, s, client)
		for _, size := range []int{1 << 10, 1 << 20} {
			content := []byte(strings.Repeat("x", size))
			for _, way := range []string{"net/http", "wire"} {
				b.Run(name+map[int]string{1 << 10: "/1KiB/", 1 << 20: "/1MiB/"}[size]+way, func(b *testing.B) {
					b.ReportAllocs()
					for b.Loop() {
						if _, err := clients[way](content); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}

// BenchmarkStale counts the calls of unknown outcome against a server that closes each kept connection after up to a
// millisecond, or not at all, while a call comes after up to a millisecond.
func BenchmarkStale(b *testing.B) {
	const window = time.Millisecond
	serving, knowing := newTLS(b)
	for _, secure := range []bool{false, true} {
		var server, client *tls.Config
		name := "plain"
		if secure {
			server, client, name = serving, knowing, "TLS"
		}
		s := startServer(b, "tcp", server, func(p *peer) {
			for first := true; ; first = false {
				end := time.Now().Add(time.Minute)
				if d := rand.N(2 * window); d < window && !first {
					end = time.Now().Add(d)
				}
				_ = p.SetReadDeadline(end)
				if _, err := p.r.Peek(1); err != nil {
					p.Close()
					return
				}
				_ = p.SetReadDeadline(time.Now().Add(time.Minute))
				if _, _, err := p.request(); err != nil {
					return
				}
				p.write(ok("ok"))
			}
		})
		clients := both(b, s, client)
		b.Run(name, func(b *testing.B) {
			unknown := map[string]float64{}
			for b.Loop() {
				for way, call := range clients {
					if sent, err := call([]byte("0123456789")); sent && err != nil {
						unknown[way]++
					}
				}
				time.Sleep(rand.N(window))
				runtime.Gosched() // a server of its own process would not wait for this one
			}
			for way := range clients {
				b.ReportMetric(1000*unknown[way]/float64(b.N), way+"-unknown/1000")
			}
		})
	}
}
