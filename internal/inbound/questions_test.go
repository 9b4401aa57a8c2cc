package inbound

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// asking counts what the platform is asked.
type asking struct {
	Questions[string]
	asked int
}

func (a *asking) ask(now time.Time, topic Topic, patience time.Duration) (answer string, fresh bool, err error) {
	return a.Ask(now, topic, patience, func(context.Context) (string, error) {
		a.asked++
		return "of " + topic.Order, nil
	})
}

// TestQuestionsAreKept: an order is asked about once a minute, and questions about others do not evict its answer. Before,
// each new answer evicted the oldest of 10,000, so that a stranger could evict any with enough notifies.
func TestQuestionsAreKept(t *testing.T) {
	var q asking
	now := time.Unix(1_700_000_000, 0)
	ask := func(account, order string, asked bool) {
		t.Helper()
		before := q.asked
		answer, fresh, err := q.ask(now, Topic{Account: account, Order: order}, time.Second)
		if answer != "of "+order || err != nil || fresh != asked || (q.asked > before) != asked {
			t.Fatalf("%s: %q, fresh %v, %v", order, answer, fresh, err)
		}
	}
	ask("shop", "first", true)
	for second := range 59 {
		now = now.Add(time.Second)
		for i := range questionsPerSecond {
			ask("shop", fmt.Sprint(second, " ", i), true)
		}
		ask("shop", "first", false)
		ask("another", "first", second == 0)
	}
	if len(q.Questions.asked) != 59*questionsPerSecond+2 || len(q.order) != len(q.Questions.asked) {
		t.Errorf("%d answers are kept, %d in order", len(q.Questions.asked), len(q.order))
	}
	now = now.Add(time.Second)
	ask("shop", "first", true)
	now = now.Add(questionInterval)
	ask("third", "x", true)
	if len(q.Questions.asked) != 1 || len(q.order) != 1 || len(q.accounts) != 1 {
		t.Errorf("after another minute %d answers of %d accounts are kept", len(q.Questions.asked), len(q.accounts))
	}
}

// TestQuestionsTakeTurns: at most five questions of one account are asked in any second, however many callers there are.
func TestQuestionsTakeTurns(t *testing.T) {
	t.Run("no patience", func(t *testing.T) {
		var q asking
		start := time.Unix(1_700_000_000, 0)
		var times []time.Duration
		for at := time.Duration(0); at < 10*time.Second; at += 7 * time.Millisecond {
			before := q.asked
			_, _, err := q.ask(start.Add(at), Topic{Account: "shop", Order: fmt.Sprint(at)}, 0)
			if (q.asked > before) != (err == nil) || err != nil && !errors.Is(err, errNoTurn) {
				t.Fatal(err)
			}
			if err == nil {
				times = append(times, at)
			}
		}
		for i := questionsPerSecond; i < len(times); i++ {
			if times[i]-times[i-questionsPerSecond] < time.Second {
				t.Fatalf("six within %v", times[i]-times[i-questionsPerSecond])
			}
		}
		if len(times) < 49 || len(times) > 50 {
			t.Errorf("%d questions in ten seconds", len(times))
		}
		if _, _, err := q.ask(start, Topic{Account: "another", Order: "1"}, 0); err != nil {
			t.Errorf("another account: %v", err)
		}
	})
	t.Run("patience", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { // the clock is the bubble's
			var q Questions[string]
			start := time.Now()
			var mu sync.Mutex
			var group sync.WaitGroup
			asked, refused := make(map[time.Duration]int), 0
			for i := range 100 {
				group.Go(func() {
					_, _, err := q.Ask(time.Now(), Topic{Account: "shop", Order: fmt.Sprint(i)}, 10*time.Second, func(ctx context.Context) (string, error) {
						mu.Lock()
						defer mu.Unlock()
						asked[time.Since(start)]++
						if deadline, _ := ctx.Deadline(); deadline.Sub(start) != 10*time.Second {
							t.Errorf("deadline after %v", deadline.Sub(start))
						}
						return "", nil
					})
					if err != nil {
						mu.Lock()
						refused++
						mu.Unlock()
					}
				})
			}
			group.Wait()
			// Waiting takes at most half of the patience, so there are six seconds of turns.
			if len(asked) != 6 || refused != 100-6*questionsPerSecond {
				t.Errorf("asked %v, refused %d", asked, refused)
			}
			for second := range 6 {
				if n := asked[time.Duration(second)*time.Second]; n != questionsPerSecond {
					t.Errorf("%d in second %d", n, second)
				}
			}
		})
	})
}

// TestAmbiguousQuestions: what a sender may have chosen has one turn in a second, shares the order's own answer, and is
// none for the order itself.
func TestAmbiguousQuestions(t *testing.T) {
	var q asking
	now := time.Unix(1_700_000_000, 0)
	plain, ambiguous := Topic{Account: "shop", Order: "1"}, Topic{Account: "shop", Order: "1", Ambiguous: true}
	if _, fresh, err := q.ask(now, ambiguous, time.Minute); !fresh || err != nil {
		t.Fatal(fresh, err)
	}
	if _, fresh, _ := q.ask(now, ambiguous, time.Minute); fresh {
		t.Error("the same once more is asked")
	}
	if _, _, err := q.ask(now, Topic{Account: "shop", Order: "2", Ambiguous: true}, time.Minute); !errors.Is(err, errNoTurn) {
		t.Errorf("a second one at a time: %v", err)
	}
	if _, ok := q.Known(now, plain); ok {
		t.Error("it is known of the order itself")
	}
	if answer, ok := q.Known(now, ambiguous); answer != "of 1" || !ok {
		t.Errorf("known: %q, %v", answer, ok)
	}
	if _, fresh, err := q.ask(now, plain, time.Minute); !fresh || err != nil {
		t.Error("the order itself is not asked about")
	}
	for i := range 3 { // the rest of the second's five
		if _, _, err := q.ask(now, Topic{Account: "shop", Order: fmt.Sprint("p", i)}, 0); err != nil {
			t.Error(err)
		}
	}
	now = now.Add(time.Second)
	if _, fresh, _ := q.ask(now, Topic{Account: "shop", Order: "p0", Ambiguous: true}, time.Minute); fresh {
		t.Error("what is known of the order itself is asked once more")
	}
	if _, fresh, err := q.ask(now, Topic{Account: "shop", Order: "3", Ambiguous: true}, time.Minute); !fresh || err != nil {
		t.Errorf("a second later: %v, %v", fresh, err)
	}
}

// TestQuestionsAtATime: of several callers one asks, and all get its answer, even if it failed, broke off or took too long.
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
			var q Questions[int]
			now, topic := time.Now(), Topic{Account: "shop", Order: "x"}
			var asked atomic.Int32
			begun, end := make(chan struct{}), make(chan struct{})
			var group sync.WaitGroup
			group.Go(func() {
				defer func() { _ = recover() }()
				_, _, _ = q.Ask(now, topic, time.Minute, func(context.Context) (int, error) {
					asked.Add(1)
					close(begun)
					<-end
					return test.ask()
				})
			})
			<-begun
			again := func(context.Context) (int, error) { asked.Add(1); return 0, nil }
			if _, _, err := q.Ask(now, topic, time.Nanosecond, again); !errors.Is(err, errSlowQuery) {
				t.Errorf("an answer before there is one: %v", err)
			}
			if _, ok := q.Known(now, topic); ok {
				t.Error("an answer is known before there is one")
			}
			for range 10 {
				group.Go(func() {
					if answer, fresh, err := q.Ask(now, topic, time.Minute, again); fresh || fmt.Sprint(err) != test.want || err == nil && answer != 7 {
						t.Errorf("%d, %v, %v; want %s", answer, fresh, err, test.want)
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

// TestQuestionsHaveTheirOwnTime: a question ends after patience, and not when the sender hangs up.
func TestQuestionsHaveTheirOwnTime(t *testing.T) {
	var q Questions[int]
	if _, _, err := q.Ask(time.Now(), Topic{}, time.Nanosecond, func(ctx context.Context) (int, error) {
		<-ctx.Done()
		return 0, context.Cause(ctx)
	}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error: %v", err)
	}
}
