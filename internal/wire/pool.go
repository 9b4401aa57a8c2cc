package wire

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Client makes exchanges with one server, and keeps connections to it. Its fields are not changed after the first use.
type Client struct {
	// Dial connects. The connection must be one of package net.
	Dial func(ctx context.Context) (net.Conn, error)
	// TLS is how the server is spoken to and known; nil: without TLS. It names the server.
	TLS *tls.Config
	// HandshakeTimeout bounds TLS's handshake; 0: the exchange's deadline does.
	HandshakeTimeout time.Duration
	// MaxHead bounds an answer's head, in bytes.
	MaxHead int64
	// MaxIdle is how many connections are kept while nobody needs them; 0: each is for one exchange.
	MaxIdle int
	// IdleTimeout is how long one is kept; at most a quarter of it longer.
	IdleTimeout time.Duration

	mu     sync.Mutex
	idle   []*conn // the one used last is the last, and is used first
	timer  *time.Timer
	closed bool
}

// Close closes the connections that are kept, and lets none be kept any more. Exchanges go on, and may still begin.
func (c *Client) Close() {
	c.mu.Lock()
	idle := c.idle
	c.idle, c.closed = nil, true
	if c.timer != nil {
		c.timer.Stop()
	}
	c.mu.Unlock()
	closeAll(idle)
}

func closeAll(conns []*conn) {
	for _, k := range conns {
		_ = k.Close()
	}
}

// take returns the kept connection that was used last; nil: there is none. The server may have ended it.
func (c *Client) take() *conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	last := len(c.idle) - 1
	if last < 0 {
		return nil
	}
	k := c.idle[last]
	c.idle[last] = nil
	c.idle = c.idle[:last]
	return k
}

// put keeps a connection, if it may.
func (c *Client) put(k *conn) {
	k.since = time.Now()
	c.mu.Lock()
	keep := !c.closed && len(c.idle) < c.MaxIdle
	if keep {
		c.idle = append(c.idle, k)
		if c.timer == nil {
			c.timer = time.AfterFunc(c.IdleTimeout/4, c.sweep)
		}
	}
	c.mu.Unlock()
	if !keep {
		_ = k.Close()
	}
}

// sweep closes what has been kept for too long, or the server has closed.
func (c *Client) sweep() {
	var swept []*conn
	c.mu.Lock()
	now := time.Now()
	c.idle = slices.DeleteFunc(c.idle, func(k *conn) bool {
		gone := now.Sub(k.since) >= c.IdleTimeout || !k.silent()
		if gone {
			swept = append(swept, k)
		}
		return gone
	})
	if len(c.idle) > 0 && !c.closed {
		c.timer.Reset(c.IdleTimeout / 4)
	} else {
		c.timer = nil
	}
	c.mu.Unlock()
	closeAll(swept)
}

// connect makes a connection.
func (c *Client) connect(deadline time.Time) (*conn, error) {
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	raw, err := c.Dial(ctx)
	if err != nil {
		return nil, err
	}
	k := &conn{Conn: raw}
	k.look = func(fd uintptr) { k.quiet = quiet(fd) }
	if able, ok := raw.(syscall.Conn); ok {
		k.raw, err = able.SyscallConn()
	} else {
		err = errors.New("not a connection of the system's")
	}
	if err == nil && c.TLS != nil {
		if c.HandshakeTimeout > 0 {
			ctx, cancel = context.WithTimeout(ctx, c.HandshakeTimeout)
			defer cancel()
		}
		k.under = &under{Conn: raw, silent: k.silent}
		secure := tls.Client(k.under, c.TLS)
		k.Conn, err = secure, secure.HandshakeContext(ctx)
	}
	if err != nil {
		_ = raw.Close()
		return nil, err
	}
	k.in.conn = k.Conn
	k.br = bufio.NewReader(&k.in)
	return k, nil
}

// silent reports whether the connection is open and nothing has come on it.
func (k *conn) silent() bool {
	k.quiet = false
	// Not Read, which first looks whether the deadline of the exchange before is over.
	return k.raw.Control(k.look) == nil && k.quiet
}
