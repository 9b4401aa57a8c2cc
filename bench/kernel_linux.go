//go:build linux

package main

import (
	"errors"
	"syscall"
	"time"
	"unsafe"
)

// newTimer is a timerfd: epoll's own timeout knows whole milliseconds only.
func newTimer() (int, error) {
	const monotonic = 1
	fd, _, errno := syscall.RawSyscall(syscall.SYS_TIMERFD_CREATE, monotonic, syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if errno != 0 {
		return -1, errno
	}
	// The kernel lets a thread's timers be 50 µs late so that it wakes up less often; not this thread's.
	const setTimerSlack = 29
	if _, _, errno = syscall.RawSyscall(syscall.SYS_PRCTL, setTimerSlack, 1, 0); errno != 0 {
		return int(fd), errno
	}
	return int(fd), nil
}

// setTimer lets the timer go off once.
func setTimer(fd int, after time.Duration) error {
	spec := [2]syscall.Timespec{{}, syscall.NsecToTimespec(int64(max(after, 1)))}
	_, _, errno := syscall.RawSyscall6(syscall.SYS_TIMERFD_SETTIME, uintptr(fd), 0, uintptr(unsafe.Pointer(&spec)), 0, 0, 0) //nolint:gosec // the kernel reads a structure of its own kind
	if errno != 0 {
		return errno
	}
	return nil
}

// processTime is the CPU time, user and system, that a process has used so far with all its threads, those that have
// ended included: the figures of /proc/<pid>/stat, in nanoseconds instead of ticks of 10 ms.
func processTime(pid int) (time.Duration, error) {
	const perProcess = 2 // CPUCLOCK_SCHED, of the whole process
	clock := ^pid<<3 | perProcess
	var spec syscall.Timespec
	_, _, errno := syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, uintptr(clock), uintptr(unsafe.Pointer(&spec)), 0) //nolint:gosec // the kernel fills a structure of its own kind
	if errno != 0 {
		return 0, errors.Join(errors.New("reading a process's CPU time"), errno)
	}
	return time.Duration(spec.Nano()), nil
}
