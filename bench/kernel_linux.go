//go:build linux

package main

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// newTimer is a timerfd: epoll's own timeout knows whole milliseconds only.
func newTimer() (int, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return -1, err
	}
	// The kernel lets a thread's timers be 50 µs late so that it wakes up less often; not this thread's.
	return fd, unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
}

// setTimer lets the timer go off once.
func setTimer(fd int, after time.Duration) error {
	return unix.TimerfdSettime(fd, 0, &unix.ItimerSpec{Value: unix.NsecToTimespec(int64(max(after, 1)))}, nil)
}

// processTime is the CPU time, user and system, that a process has used so far with all its threads, those that have
// ended included: the figures of /proc/<pid>/stat, in nanoseconds instead of ticks of 10 ms.
func processTime(pid int) (time.Duration, error) {
	const perProcess = 2 // CPUCLOCK_SCHED, of the whole process
	var spec unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|perProcess), &spec); err != nil { // pids are below 2^22
		return 0, errors.Join(errors.New("reading a process's CPU time"), err)
	}
	return time.Duration(spec.Nano()), nil
}
