//go:build !unix

package wire

// Able tells whether connections can be looked at on this system. On Windows a read of the socket would block, because Go
// opens sockets there for overlapped reads and not as non-blocking ones. WSAPoll could look; net/http's client serves there
// until somebody can test it.
const Able = false

func quiet(uintptr) bool { return false }
