package inbox

import (
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

func defaultSchedule() schedule {
	s := schedule{giveUp: defaultGiveUp, timeout: defaultTimeout}
	for _, delay := range defaultRetry {
		s.delays = append(s.delays, time.Duration(delay))
	}
	return s
}

func TestScheduleDelays(t *testing.T) {
	s := defaultSchedule()
	age := time.Duration(0)
	for i, want := range []time.Duration{
		5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute, time.Hour, time.Hour, time.Hour,
	} {
		for jitter, share := range map[float64]float64{0: 1, 1: 1.1, -1: 0.9, 0.5: 1.05} {
			delay, again := s.next(i+1, age, jitter)
			if !again || delay != time.Duration(share*float64(want)) {
				t.Errorf("after %d: %s, %v; want %s", i+1, delay, again, time.Duration(share*float64(want)))
			}
		}
		age += want
	}
}

// play makes attempts that fail until the schedule gives up; now tells the gateway's clock after the true time.
func play(s schedule, took time.Duration, clock func(true time.Duration, attempt int) time.Duration) (attempts int, last time.Duration) {
	now := time.Duration(0)
	for attempts = 1; ; attempts++ {
		last = now
		now += took
		jitter := float64(attempts%3 - 1)
		delay, again := s.next(attempts, clock(now, attempts), jitter)
		if !again {
			return attempts, last
		}
		now += delay
	}
}

func TestScheduleGivesUp(t *testing.T) {
	straight := func(now time.Duration, _ int) time.Duration { return now }
	for name, test := range map[string]struct {
		schedule schedule
		took     time.Duration
		clock    func(time.Duration, int) time.Duration
		min, max time.Duration // when the last attempt is made
		fewest   int
		most     int
	}{
		"by default":                    {defaultSchedule(), 0, straight, 71 * time.Hour, 72 * time.Hour, 76, 82},
		"by default, an app that hangs": {defaultSchedule(), 30 * time.Second, straight, 71 * time.Hour, 72 * time.Hour, 75, 82},
		"the clock jumps a year ahead": {defaultSchedule(), 0, func(now time.Duration, attempt int) time.Duration {
			if attempt > 10 {
				now += 365 * 24 * time.Hour
			}
			return now
		}, 58 * time.Hour, 73 * time.Hour, 62, 82},
		"the clock jumps ten years back": {defaultSchedule(), 0, func(now time.Duration, attempt int) time.Duration {
			if attempt > 10 {
				now -= 10 * 365 * 24 * time.Hour
			}
			return now
		}, 72 * time.Hour, 91 * time.Hour, 76, 100},
		"off for three weeks after the first attempt": {defaultSchedule(), 0, func(now time.Duration, attempt int) time.Duration {
			return now + 21*24*time.Hour
		}, 58 * time.Hour, 73 * time.Hour, 62, 82},
		"one delay only":            {schedule{[]time.Duration{time.Minute}, time.Hour, time.Second}, 0, straight, 59 * time.Minute, time.Hour, 58, 64},
		"given up before any retry": {schedule{[]time.Duration{time.Hour}, time.Minute, time.Second}, 0, straight, time.Minute, time.Minute, 2, 2},
		"an hour that is not met":   {schedule{[]time.Duration{7 * time.Minute}, time.Hour, time.Second}, 0, straight, 59 * time.Minute, time.Hour, 8, 11},
	} {
		t.Run(name, func(t *testing.T) {
			attempts, last := play(test.schedule, test.took, test.clock)
			if last < test.min || last > test.max || attempts < test.fewest || attempts > test.most {
				t.Errorf("%d attempts, the last after %s; want %d to %d, %s to %s", attempts, last, test.fewest, test.most, test.min, test.max)
			}
		})
	}
}

// TestScheduleIsBounded: numbers that nobody should configure, or that a damaged store gives, end or repeat, and do not
// wrap around.
func TestScheduleIsBounded(t *testing.T) {
	year := 365 * 24 * time.Hour
	for _, s := range []schedule{
		{[]time.Duration{100 * year, 100 * year}, 10 * year, 10 * year},
		{[]time.Duration{1}, 1, 1},
		{[]time.Duration{time.Nanosecond}, 10 * year, time.Nanosecond},
		{[]time.Duration{time.Duration(caddy.Duration(1<<62)) / 4, 1}, 10 * year, 1},
	} {
		for _, failed := range []int{1, 2, 3, 100, 1 << 20, 1 << 40} {
			for _, age := range []time.Duration{-1 << 63, -1, 0, 1, year, 1<<63 - 1} {
				delay, again := s.next(failed, age, 1)
				if delay < 0 || again && delay == 0 {
					t.Errorf("%+v after %d, %s old: %s, %v", s, failed, age, delay, again)
				}
				if again && failed == 1<<40 && s.delays[0] > year {
					t.Errorf("%+v after %d, %s old: not given up", s, failed, age)
				}
			}
		}
	}
}
