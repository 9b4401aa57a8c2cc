// Package freeport gives ports of loopback to tests, and to what is tried out, to start servers on.
//
// A port that was listened on by the kernel's choice and closed again may go to anybody before the server under test
// listens there: to the test of another package, or to a connection that begins just then. The ports here are below
// those that kernels choose from, and each process takes them from a block that no other process has.
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
	size   = 256   // ports in a block; the first of them is listened on, and says that the block is taken
)

// block is one process's ports.
type block struct {
	guard net.Listener

	mu   sync.Mutex
	last int
}

var own = sync.OnceValues(claim)

// claim takes a block, until the process ends.
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

// next returns a port that nobody listens on. It is the one that was given away longest ago.
func (b *block) next() (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	begin := b.guard.Addr().(*net.TCPAddr).Port
	for range size - 1 {
		if b.last++; b.last == begin+size {
			b.last = begin + 1
		}
		// Not by listening there: a program that another test starts at this moment would keep the port for a while.
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
