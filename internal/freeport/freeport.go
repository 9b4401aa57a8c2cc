// Package freeport finds free ports on loopback, for servers that tests and examples start.
//
// A port that the kernel has chosen, and that was closed again, may be taken before the server under test listens on it: by
// the test of another package, or by an outgoing connection. The ports of this package are below the range that kernels
// choose from, and each process takes them from a block of its own.
package freeport

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
)

const (
	first  = 10240 // below are the ports of well-known services
	beyond = 32768 // where Linux begins to choose by itself; other systems begin higher
	size   = 256   // ports in a block; the process listens on the first, which marks the block as taken
)

// block is one process's ports.
type block struct {
	guard net.Listener

	mu   sync.Mutex
	last int
}

var own = sync.OnceValues(claim)

// claim takes a block until the process ends.
func claim() (*block, error) {
	const blocks = (beyond - first) / size
	start := rand.IntN(blocks)
	for i := range blocks {
		port := first + (start+i)%blocks*size
		if guard, err := net.Listen("tcp", address(port)); err == nil {
			return &block{guard: guard, last: port}, nil
		}
	}
	return nil, fmt.Errorf("no block of ports is left between %d and %d", first, beyond)
}

// next returns a port that nobody listens on, and that was handed out longest ago.
func (b *block) next() (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	begin := b.guard.Addr().(*net.TCPAddr).Port
	for range size - 1 {
		if b.last++; b.last == begin+size {
			b.last = begin + 1
		}
		// Listening would not be a safe check: a program that another test starts at this moment would inherit the port.
		connection, err := net.Dial("tcp", address(b.last))
		if err != nil {
			return b.last, nil
		}
		_ = connection.Close()
	}
	return 0, fmt.Errorf("all ports from %d to %d are in use", begin, begin+size-1)
}

func address(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// Port returns a port of 127.0.0.1 that nobody listens on. The process gets it again only after 254 others.
func Port() (int, error) {
	b, err := own()
	if err != nil {
		return 0, err
	}
	return b.next()
}

// Address returns 127.0.0.1 with such a port.
func Address() (string, error) {
	port, err := Port()
	return address(port), err
}
