//go:build unix

package boltstore_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/watch"
	"github.com/caddy-chinaums/caddy-chinaums/watch/boltstore"
)

// platform knows orders only, which are open as soon as they are answered.
type platform struct{}

func (platform) Classify(path string, body []byte) (watch.Call, bool) {
	return watch.Call{Kind: watch.KindOrder, Order: string(body), Amount: 12800, Mid: "898340149000005", Notify: "pay.example.com/notify",
		Fields: map[string]string{"tid": "88880001", "instMid": "APPDEFAULT", "merOrderId": string(body)}}, true
}

func (platform) Answered(watch.Call, string, []byte) watch.Finding {
	return watch.Finding{Word: "SUCCESS", Order: watch.IsOpen}
}

func (platform) Ask(*watch.Order, *watch.Track) []watch.Query { return nil }

func (platform) Read(*watch.Order, *watch.Track, watch.Query, []byte) (watch.Finding, error) {
	return watch.Finding{}, nil
}

func (platform) NotFound(*watch.Order, *watch.Track) *watch.Event { return nil }

func settings() watch.Settings {
	return watch.Settings{Orders: []time.Duration{time.Hour}, Unknown: []time.Duration{time.Hour}, GiveUp: 24 * time.Hour, Rate: 2,
		Refunds: watch.Enforce, Amounts: watch.Warn}
}

func number(i int) string { return fmt.Sprintf("1017202611280000%012d", i) }

// BenchmarkStart measures what a gateway needs to begin with so many open orders: time, and memory in all and for a row.
// CHINAUMS_BENCH_ROWS names another number, such as 1000000.
func BenchmarkStart(b *testing.B) {
	sizes := []int{10_000}
	if text := os.Getenv("CHINAUMS_BENCH_ROWS"); text != "" {
		size, err := strconv.Atoi(text)
		if err != nil {
			b.Fatal(err)
		}
		sizes = []int{size}
	}
	for _, size := range sizes {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "watch.db")
			fill(b, path, size)
			info, err := os.Stat(path)
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				runtime.GC()
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				begin, spent := time.Now(), cpu(b)
				s, err := boltstore.Open(path)
				if err != nil {
					b.Fatal(err)
				}
				w := watch.Start(s, watch.Clock{}, settings(), watch.Parts{Platform: platform{}})
				<-w.Ready()
				b.ReportMetric(time.Since(begin).Seconds(), "s/start")
				b.ReportMetric((cpu(b) - spent).Seconds(), "cpu-s/start")
				runtime.ReadMemStats(&after) // with the garbage that starting has left
				b.ReportMetric(float64(after.HeapInuse-before.HeapInuse)/1e6, "MB-with-garbage")
				runtime.GC()
				runtime.ReadMemStats(&after)
				b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/1e6, "MB")
				b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(size), "B/row")
				b.ReportMetric(float64(info.Size())/float64(size), "B/row-on-disk")
				if followed := w.Stats().States[watch.Open]; followed != size {
					b.Fatalf("%d rows are followed, not %d", followed, size)
				}
				w.Close()
				if err := s.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// cpu is what this process has used of the processors: a busy machine does not change it.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// fill writes orders that are open, as the watch itself does.
func fill(b *testing.B, path string, size int) {
	b.Helper()
	s, err := boltstore.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	w := watch.Start(s, watch.Clock{}, settings(), watch.Parts{Platform: platform{}})
	var group sync.WaitGroup
	for part := range 512 {
		group.Go(func() {
			for i := part; i < size; i += 512 {
				ticket, refusal := w.Before(context.Background(), "shop", "/v1/netpay/trade/precreate", []byte(number(i)), "")
				if refusal != nil {
					b.Error(refusal)
					return
				}
				w.After(ticket, watch.Answered, "SUCCESS", nil)
			}
		})
	}
	group.Wait()
	w.Close() // what is overdue is written
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkLine measures what the watch adds to calls to a platform that answers in 20 ms, 8 at once: the median with it, and
// without.
func BenchmarkLine(b *testing.B) {
	for _, watched := range []bool{false, true} {
		b.Run(fmt.Sprint("watched=", watched), func(b *testing.B) {
			s, err := boltstore.Open(filepath.Join(b.TempDir(), "watch.db"))
			if err != nil {
				b.Fatal(err)
			}
			w := watch.Start(s, watch.Clock{}, settings(), watch.Parts{Platform: platform{}})
			took := make([]time.Duration, b.N)
			var group sync.WaitGroup
			b.ResetTimer()
			for part := range 8 {
				group.Go(func() {
					for i := part; i < b.N; i += 8 {
						begin := time.Now()
						var ticket *watch.Ticket
						if watched {
							ticket, _ = w.Before(context.Background(), "shop", "/v1/netpay/trade/precreate", []byte(number(i)), "")
						}
						time.Sleep(20 * time.Millisecond) // the platform
						w.After(ticket, watch.Answered, "SUCCESS", nil)
						took[i] = time.Since(begin)
					}
				})
			}
			group.Wait()
			b.StopTimer()
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
			w.Close()
			if err := s.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}
