//go:build unix

package wire

import "syscall"

// Able tells whether connections can be looked at on this system.
const Able = true

// quiet looks at a socket, which never blocks in Go. A byte that is read is no loss: the connection is then given up.
func quiet(fd uintptr) bool {
	var room [1]byte
	n, err := syscall.Read(int(fd), room[:])
	return n < 0 && (err == syscall.EAGAIN || err == syscall.EWOULDBLOCK)
}
