package inbound

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestQuestionsAreForgotten: what is remembered is bounded, in number and in time.
func TestQuestionsAreForgotten(t *testing.T) {
	var q Questions[string, string]
	now := time.Unix(1_700_000_000, 0)
	asked := 0
	ask := func(key string) {
		t.Helper()
		answer, err := q.Ask(now, key, time.Minute, func(context.Context) (string, error) { asked++; return "of " + key, nil })
		if answer != "of "+key || err != nil {
			t.Fatalf("%s: %q, %v", key, answer, err)
		}
		if len(q.asked) != len(q.order) || len(q.order) > maxQuestions {
			t.Fatalf("%d answers, %d in order", len(q.asked), len(q.order))
		}
	}
	wantAsked := func(want int) {
		t.Helper()
		if asked != want {
			t.Errorf("asked %d times, want %d", asked, want)
		}
		asked = 0
	}
	for i := range maxQuestions + 10 {
		ask(fmt.Sprint(i))
	}
	wantAsked(maxQuestions + 10)
	ask(fmt.Sprint(maxQuestions + 9)) // the newest is still there
	wantAsked(0)
	ask("9") // the oldest went for the newest
	wantAsked(1)
	now = now.Add(questionInterval - 1)
	ask("9")
	wantAsked(0)
	now = now.Add(1)
	ask("9")
	wantAsked(1)
	if len(q.asked) != 1 {
		t.Errorf("after a minute %d answers are kept", len(q.asked))
	}
	now = now.Add(-time.Hour) // a clock that was set back
	ask("9")
	wantAsked(1)
}

// TestQuestionsAtATime: one asks, and all get its answer: also one that failed, broke off, or takes too long.
func TestQuestionsAtATime(t *testing.T) {
	failed := errors.New("failed")
	for _, test := range []struct {
		name string
		ask  func() (int, error)
		want string
	}{
		{"an answer", func() (int, error) { return 7, nil }, "<nil>"},
		{"a failure", func() (int, error) { return 7, failed }, "failed"},
		{"a panic", func() (int, error) { panic("broken") }, "the query broke off"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var q Questions[string, int]
			now := time.Now()
			var asked atomic.Int32
			begun, end := make(chan struct{}), make(chan struct{})
			var group sync.WaitGroup
			group.Go(func() {
				defer func() { _ = recover() }()
				_, _ = q.Ask(now, "x", time.Minute, func(context.Context) (int, error) {
					asked.Add(1)
					close(begun)
					<-end
					return test.ask()
				})
			})
			<-begun
			again := func(context.Context) (int, error) { asked.Add(1); return 0, nil }
			if _, err := q.Ask(now, "x", time.Nanosecond, again); err == nil {
				t.Error("an answer before there is one")
			}
			for range 10 {
				group.Go(func() {
					if answer, err := q.Ask(now, "x", time.Minute, again); fmt.Sprint(err) != test.want || err == nil && answer != 7 {
						t.Errorf("%d, %v; want %s", answer, err, test.want)
					}
				})
			}
			close(end)
			group.Wait()
			if asked.Load() != 1 {
				t.Errorf("asked %d times", asked.Load())
			}
		})
	}
}

// TestQuestionsHaveTheirOwnTime: the one who asks has patience, and no sender who hangs up ends it.
func TestQuestionsHaveTheirOwnTime(t *testing.T) {
	var q Questions[string, int]
	if _, err := q.Ask(time.Now(), "x", time.Nanosecond, func(ctx context.Context) (int, error) {
		<-ctx.Done()
		return 0, context.Cause(ctx)
	}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error: %v", err)
	}
}
