// Package testutil helps tests to wait. The limit comes from the deadline of the test run, because a busy machine may need
// much longer than a fast one.
package testutil

import (
	"net"
	"os"
	"testing"
	"time"
)

// patience is the longest that a test waits for something that must happen.
const patience = 2 * time.Minute

// deadline is the end of the test's patience, and a little before the end of the test run.
func deadline(t testing.TB) time.Time {
	at := time.Now().Add(patience)
	if run, ok := t.(interface{ Deadline() (time.Time, bool) }); ok {
		if end, ok := run.Deadline(); ok && end.Add(-5*time.Second).Before(at) {
			return end.Add(-5 * time.Second)
		}
	}
	return at
}

// Eventually waits until the condition holds, and fails the test if it does not in time. Where a channel can tell, use
// Receive.
func Eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	end := deadline(t)
	ticks := time.NewTicker(2 * time.Millisecond)
	defer ticks.Stop()
	for !condition() {
		if time.Now().After(end) {
			t.Fatalf("not in time: %s", what)
		}
		<-ticks.C
	}
}

// Released waits until nobody listens at an address. Caddy may close its listeners a moment after it has stopped, and net/http
// closes a connection that comes meanwhile unanswered.
func Released(t testing.TB, address string) {
	t.Helper()
	Eventually(t, "nobody listens at "+address, func() bool {
		connection, err := net.Dial("tcp", address)
		if err == nil {
			_ = connection.Close()
		}
		return err != nil
	})
}

// Receive returns the next value of a channel, and fails the test if none comes in time.
func Receive[T any](t testing.TB, what string, values <-chan T) T {
	t.Helper()
	timer := time.NewTimer(time.Until(deadline(t)))
	defer timer.Stop()
	select {
	case value := <-values:
		return value
	case <-timer.C:
		t.Fatalf("not in time: %s", what)
	}
	panic("unreachable")
}

// TempOnDisk lets t.TempDir be on a disk in this process: where /tmp is in memory, as on many systems, a store that wants
// a disk refuses it. Call it in an init function of a test.
func TempOnDisk() {
	if !inMemory(os.TempDir()) {
		return
	}
	for _, directory := range []string{"/var/tmp", cacheDirectory()} {
		if directory != "" && !inMemory(directory) && writable(directory) {
			_ = os.Setenv("TMPDIR", directory) // it fails for names with = only
			return
		}
	}
}

// Allocations is how many allocations one call of f makes: the least of five averages, as each also counts what other goroutines of this
// process allocate meanwhile.
func Allocations(runs int, f func()) float64 {
	least := testing.AllocsPerRun(runs, f)
	for range 4 {
		least = min(least, testing.AllocsPerRun(runs, f))
	}
	return least
}

// Memory returns a directory in memory, where there is one, that lasts as long as the test: for a file that need not survive, and whose
// owner gives up where the disk is busy. Else it is on the disk, as t.TempDir is.
func Memory(t testing.TB) string {
	t.Helper()
	const memory = "/dev/shm"
	if !inMemory(memory) {
		return t.TempDir()
	}
	directory, err := os.MkdirTemp(memory, "caddy-chinaums-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(directory) })
	return directory
}

func cacheDirectory() string {
	directory, err := os.UserCacheDir()
	if err != nil || os.MkdirAll(directory, 0o700) != nil {
		return ""
	}
	return directory
}

func writable(directory string) bool {
	made, err := os.MkdirTemp(directory, "inbox")
	return err == nil && os.Remove(made) == nil
}
