//go:build faults

package shouqianba

import (
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// kill is SIGKILL: the process does nothing any more.
func kill(command *exec.Cmd) {
	_ = command.Process.Kill()
	_ = command.Wait()
}

// TestKilledAroundCheckin kills a server around its check-in, again and again, and asks after each kill that the key is
// not lost: the next server has the platform's newest key. A quarter of the kills come before the platform has seen the
// check-in, a half while it has given a key that nobody has seen or the key is being stored, and a quarter later, at any
// time. Between two of them is one server that is left alone until it has its key, and then killed too: two answers lost
// in a row are what the platform's protocol cannot mend.
func TestKilledAroundCheckin(t *testing.T) {
	const workers, rounds = 8, 3
	var kills, lost, hit atomic.Int64
	var group sync.WaitGroup
	for worker := range workers {
		m := newMerchantSide(t)
		group.Go(func() {
			o := m.owner()
			first := m.start("")
			if !m.within(2*time.Minute, "the activation", func() bool { return m.settled(o) }) {
				return
			}
			kill(first)
			kills.Add(1)
			for round := range rounds {
				// It is tomorrow.
				r, err := o.load(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				r.Day = day(time.Now().Add(-24 * time.Hour))
				if err := o.save(t.Context(), r); err != nil {
					t.Error(err)
					return
				}
				var once sync.Once
				started, dead := make(chan *exec.Cmd, 1), make(chan struct{})
				die := func() { once.Do(func() { kill(<-started); kills.Add(1); close(dead) }) }
				m.setHook(func(_ string, next func(http.ResponseWriter)) func(http.ResponseWriter) {
					return func(w http.ResponseWriter) {
						switch (worker + round) % 4 {
						case 0: // before the platform has seen it
							die()
							panic(http.ErrAbortHandler)
						case 1: // the platform has given a key, which nobody has seen
							hit.Add(1)
							next(httptest.NewRecorder())
							die()
							panic(http.ErrAbortHandler)
						case 2: // the answer is out: while it is read or stored
							hit.Add(1)
							next(w)
							_ = http.NewResponseController(w).Flush()
							time.Sleep(rand.N(4 * time.Millisecond))
							die()
						default: // at any time within the next moments
							next(w)
							_ = http.NewResponseController(w).Flush()
							time.AfterFunc(rand.N(50*time.Millisecond), die)
						}
					}
				})
				started <- m.start("") // its check-in may come before this goroutine goes on
				select {
				case <-dead:
				case <-time.After(3 * time.Minute):
					t.Errorf("worker %d, round %d: no check-in; the server says:\n%s", worker, round, m.log())
					die()
					return
				}
				m.setHook(nil)
				r, err = o.load(t.Context())
				current, previous := m.platform.Keys("till-1")
				if err != nil || r.Key != current && r.Key != previous {
					lost.Add(1)
					t.Errorf("worker %d, round %d: what is stored is neither the platform's key nor the one before; %v", worker, round, err)
				}

				// The lock that the dead server has left behind is given up after ten seconds.
				next := m.start("")
				if !m.within(3*time.Minute, "the recovery", func() bool { return m.settled(o) }) {
					lost.Add(1)
				}
				kill(next)
				kills.Add(1)
			}
		})
	}
	group.Wait()
	t.Logf("%d kills, %d of them between the platform's new key and its being stored; %d keys lost", kills.Load(), hit.Load(), lost.Load())
	if kills.Load() < 20 {
		t.Errorf("%d kills, want at least 20", kills.Load())
	}
}
