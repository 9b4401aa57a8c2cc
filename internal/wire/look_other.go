//go:build !unix

package wire

// Able tells whether connections can be looked at on this system. Windows has no socket that a read cannot block on, as
// Go opens them, and WSAPoll, which would do, cannot be tested by those who wrote this.
const Able = false

func quiet(uintptr) bool { return false }
