package recent

import (
	"math"
	"slices"
	"time"
)

// The results of notifies that the log tells apart.
const (
	Taken    = "taken"
	Failed   = "failed"
	Rejected = "rejected"
)

// Signed is the outcome of a link that was signed for the buyer's browser. It is no call to the platform: it is kept, and not counted.
const Signed = "signed"

// What is counted. The last of each counts what is none of the others.
var (
	outcomes = [...]string{"answered", "not_sent", "unknown"}
	results  = [...]string{Taken, "repeated", Failed, Rejected, "observed"}
)

func index(all []string, one string) int {
	if i := slices.Index(all, one); i >= 0 {
		return i
	}
	return len(all) - 1
}

// SlotLength is how long the time is that is counted together.
const SlotLength = 5 * time.Minute

const (
	slots   = int(24 * time.Hour / SlotLength)
	hours   = 24
	buckets = 40
	growth  = 1.35 // of a bucket's upper end to the one before; the first ends at 1 ms, the last at two minutes
)

type key struct{ platform, account string }

// account is what is counted of one merchant or terminal.
type account struct {
	slots                   [slots]slot
	hours                   [hours]durations
	verified, taken, failed int64 // when a notify last was; milliseconds, 0: never
	failure                 string
	skew                    time.Duration
	skewed                  bool // skew is known
}

// slot counts five minutes. It is one of the day before until it is used again.
type slot struct {
	number   int64 // of the slot, since 1970
	calls    [len(outcomes)]uint32
	notifies [len(results)]uint32
}

// durations counts an hour's calls that the platform may have received by how long they took.
type durations struct {
	number int64 // of the hour, since 1970
	counts [buckets]uint32
}

// other is where accounts are counted when there are too many.
const other = "…"

// account finds the counts of an account, and makes them where there are none.
func (l *Log) account(platform, name string) *account {
	a := l.accounts[key{platform, name}]
	if a != nil {
		return a
	}
	if len(l.accounts) >= maxAccounts && name != other {
		return l.account(platform, other)
	}
	a = new(account)
	l.accounts[key{platform, name}] = a
	return a
}

func (a *account) slot(now time.Time) *slot {
	number := now.UnixNano() / int64(SlotLength)
	s := &a.slots[number%int64(slots)]
	if s.number != number {
		*s = slot{number: number}
	}
	return s
}

func (a *account) hour(now time.Time) *durations {
	number := now.Unix() / 3600
	d := &a.hours[number%hours]
	if d.number != number {
		*d = durations{number: number}
	}
	return d
}

func (d *durations) add(took time.Duration) {
	bucket, _ := slices.BinarySearch(ends[:], took)
	d.counts[min(bucket, buckets-1)]++
}

// ends are the upper ends of the buckets.
var ends = func() (all [buckets]time.Duration) {
	for i := range all {
		all[i] = time.Duration(float64(time.Millisecond) * math.Pow(growth, float64(i)))
	}
	return all
}()

// quantile is the upper end, in milliseconds, of the bucket in which the share of the calls ends; 0 without calls.
func quantile(counts *[buckets]uint64, share float64) float64 {
	var all uint64
	for _, n := range counts {
		all += n
	}
	if all == 0 {
		return 0
	}
	rank, seen := uint64(math.Ceil(share*float64(all))), uint64(0)
	for i, n := range counts {
		if seen += n; seen >= rank {
			return math.Round(10*ends[i].Seconds()*1000) / 10
		}
	}
	return 0
}

// Account is what is known of an account. Times are in milliseconds since 1970; 0: never.
type Account struct {
	Platform string   `json:"platform"`              // chinaums or shouqianba
	Name     string   `json:"name"`                  // of the merchant or terminal in the configuration; empty: what was refused before it had an account
	Verified int64    `json:"last_notify,omitempty"` // when a notify last verified
	Taken    int64    `json:"last_taken,omitempty"`  // when the app last took one
	Failed   int64    `json:"last_failed,omitempty"` // when the app last did not take one
	Failure  string   `json:"failure,omitempty"`     // the reason of the last failure; empty: there was none
	Skew     *float64 `json:"skew,omitempty"`        // how far this machine's clock is ahead of the platform's, in seconds; absent: not known

	// How long calls of the last 24 hours took that the platform may have received: half of them, and 99 of 100, were not slower.
	// Calls without an answer are among them, as those that timed out are. Each time runs until the answer to the app was written. In
	// milliseconds, at most 35 % too high, from 1 ms to two minutes; 0: there were no such calls.
	P50     float64 `json:"p50,omitempty"`
	P99     float64 `json:"p99,omitempty"`
	Answers uint64  `json:"answers,omitempty"` // how many calls these are

	Slots []Slot `json:"slots,omitempty"` // the last 24 hours, oldest first, without those in which nothing came
}

// Slot is what came in five minutes.
type Slot struct {
	At       int64    `json:"at"`       // when it began, in milliseconds since 1970
	Calls    []uint32 `json:"calls"`    // how many: answered, not_sent, unknown
	Notifies []uint32 `json:"notifies"` // how many: taken, repeated, failed, rejected, observed
}

// Accounts returns what is known of each account, by platform and name, and since when anything is.
func (l *Log) Accounts() (all []Account, since time.Time) {
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	for k, a := range l.accounts {
		all = append(all, a.read(k, now))
	}
	slices.SortFunc(all, func(a, b Account) int {
		if a.Platform != b.Platform {
			return compare(a.Platform, b.Platform)
		}
		return compare(a.Name, b.Name)
	})
	return all, l.since
}

func (a *account) read(k key, now time.Time) Account {
	read := Account{Platform: k.platform, Name: k.account, Verified: a.verified, Taken: a.taken, Failed: a.failed, Failure: a.failure}
	if a.skewed {
		seconds := math.Round(a.skew.Seconds()*10) / 10
		read.Skew = &seconds
	}
	var counts [buckets]uint64
	for hour := now.Unix()/3600 - hours + 1; hour <= now.Unix()/3600; hour++ {
		if d := &a.hours[hour%hours]; d.number == hour {
			for i, n := range d.counts {
				counts[i] += uint64(n)
				read.Answers += uint64(n)
			}
		}
	}
	read.P50, read.P99 = quantile(&counts, .5), quantile(&counts, .99)
	newest := now.UnixNano() / int64(SlotLength)
	for number := newest - int64(slots) + 1; number <= newest; number++ {
		if s := &a.slots[number%int64(slots)]; s.number == number {
			read.Slots = append(read.Slots, Slot{number * SlotLength.Milliseconds(), slices.Clone(s.calls[:]), slices.Clone(s.notifies[:])})
		}
	}
	return read
}
