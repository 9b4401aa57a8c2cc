package freeport

import (
	"net"
	"testing"
)

// TestBlocksAreApart: what one process is given, another is not. (Ports that the kernel had chosen went to two tests at
// once, or to a connection, and a server under test could not listen.)
func TestBlocksAreApart(t *testing.T) {
	owner := map[int]int{}
	for process := range 20 {
		b, err := claim()
		if err != nil {
			t.Fatal(err)
		}
		defer b.guard.Close()
		for range size - 1 {
			port, err := b.next()
			if err != nil {
				t.Fatal(err)
			}
			if port < first || port >= beyond {
				t.Errorf("port %d", port)
			}
			if other, taken := owner[port]; taken && other == process {
				break // once around: somebody listens on another port of the block, as what outlives its test does
			} else if taken {
				t.Fatalf("port %d was given to %d and %d", port, other, process)
			}
			owner[port] = process
		}
	}
}

// TestAddress: what somebody listens on is not given away, and what is given can be listened on.
func TestAddress(t *testing.T) {
	held := map[string]bool{}
	for range 20 {
		at, err := Address()
		if err != nil {
			t.Fatal(err)
		}
		listener, err := net.Listen("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		held[at] = true
	}
	for range 2 * size {
		if at, err := Address(); err != nil || held[at] {
			t.Fatalf("%s is listened on, and was given away; error %v", at, err)
		}
	}
}
