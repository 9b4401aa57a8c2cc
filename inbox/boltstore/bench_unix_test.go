//go:build unix

package boltstore

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
)

var benchSettings = inbox.Settings{Remember: 30 * 24 * time.Hour, Lease: 30 * time.Second, MaxDelay: time.Hour}

func benchStore(b testing.TB, path string, change ...func(*options)) *Store {
	b.Helper()
	o := defaultOptions()
	for _, c := range change {
		c(&o)
	}
	store, err := openStore(path, benchSettings, zap.NewNop(), o)
	if err != nil {
		b.Fatal(err)
	}
	return store
}

// numbered makes messages of 1 KiB with ids of their own.
type numbered struct{ next atomic.Int64 }

func (n *numbered) message() *inbox.Message {
	id := fmt.Sprintf("https://pay.example/merchant#%016d", n.next.Add(1))
	return &inbox.Message{ID: id, Received: time.Now(), Request: bytes.Repeat([]byte("x"), 1024-len(id))}
}

// putAll puts messages with so many senders at once, each waiting for its answer, and returns how long it took.
func putAll(b testing.TB, store *Store, from *numbered, messages, senders int) time.Duration {
	b.Helper()
	var left atomic.Int64
	left.Store(int64(messages))
	begun := time.Now()
	var all sync.WaitGroup
	for range senders {
		all.Go(func() {
			for left.Add(-1) >= 0 {
				if receipt, err := store.Put(b.Context(), from.message()); err != nil || receipt != inbox.Stored {
					b.Errorf("receipt %d, error %v", receipt, err)
					return
				}
			}
		})
	}
	all.Wait()
	return time.Since(begun)
}

// deliverAll leases and settles messages with so many holders at once.
func deliverAll(b testing.TB, store *Store, messages, holders int) time.Duration {
	b.Helper()
	var left atomic.Int64
	left.Store(int64(messages))
	begun := time.Now()
	var all sync.WaitGroup
	for range holders {
		all.Go(func() {
			for left.Add(-1) >= 0 {
				m, err := store.Lease(b.Context())
				if err == nil {
					err = store.Settle(b.Context(), m, inbox.Outcome{Result: inbox.Delivered, Answer: inbox.Answer{Status: 200}})
				}
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	return time.Since(begun)
}

// BenchmarkPut compares, by turns: appending a message's bytes to a file and syncing it; one sender alone; 64 senders at
// once. Each message has 1 KiB, and is synced before it is answered. What one waits for is given as the median.
func BenchmarkPut(b *testing.B) {
	directory := b.TempDir()
	store := benchStore(b, filepath.Join(directory, "inbox.db"))
	defer store.Close()
	file, err := os.Create(filepath.Join(directory, "floor"))
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	const alone, together = 200, 6400
	var floor, one []time.Duration
	var many, oneByOne time.Duration
	var from numbered
	putAll(b, store, &from, 2000, 64)
	for b.Loop() {
		for range alone {
			m := from.message()
			begun := time.Now()
			if _, err := file.Write(encodeRecord(m)); err != nil {
				b.Fatal(err)
			}
			if err := file.Sync(); err != nil {
				b.Fatal(err)
			}
			appended := time.Now()
			if _, err := store.Put(b.Context(), m); err != nil {
				b.Fatal(err)
			}
			floor, one = append(floor, appended.Sub(begun)), append(one, time.Since(appended))
			oneByOne += time.Since(appended)
		}
		many += putAll(b, store, &from, together, 64)
	}
	slices.Sort(floor)
	slices.Sort(one)
	n := float64(b.N)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(floor)*1e6, "µs/append+fsync")
	b.ReportMetric(median(one)*1e6, "µs/put_alone")
	b.ReportMetric(median(one)/median(floor), "×append")
	b.ReportMetric(alone*n/oneByOne.Seconds(), "puts/s_alone")
	b.ReportMetric(together*n/many.Seconds(), "puts/s_at_64")
	b.ReportMetric((together/many.Seconds())/(alone/oneByOne.Seconds()), "×alone_at_64")
}

func median(sorted []time.Duration) float64 { return sorted[len(sorted)/2].Seconds() }

// BenchmarkUnsynced is the code without the disk: 64 senders and 8 holders at once, nothing synced.
func BenchmarkUnsynced(b *testing.B) {
	store := benchStore(b, filepath.Join(b.TempDir(), "inbox.db"), func(o *options) { o.noSync = true })
	defer store.Close()
	var from numbered
	const messages = 10_000
	var puts, deliveries time.Duration
	for b.Loop() {
		puts += putAll(b, store, &from, messages, 64)
		deliveries += deliverAll(b, store, messages, 8)
	}
	n := float64(b.N)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(messages*n/puts.Seconds(), "puts/s")
	b.ReportMetric(messages*n/deliveries.Seconds(), "deliveries/s")
}

// BenchmarkDepth shows what a store costs with so many messages pending: CHINAUMS_DEPTH names the numbers, such as
// "1000 100000 1000000".
func BenchmarkDepth(b *testing.B) {
	depths := strings.Fields(os.Getenv("CHINAUMS_DEPTH"))
	if len(depths) == 0 {
		depths = []string{"1000", "10000"}
	}
	for _, text := range depths {
		depth, err := strconv.Atoi(text)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(text, func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "inbox.db")
			var from numbered
			// Filling is not measured, and not synced: so it takes seconds rather than minutes.
			store := benchStore(b, path, func(o *options) { o.noSync = true })
			putAll(b, store, &from, depth, 64)
			if err := store.Close(); err != nil {
				b.Fatal(err)
			}
			forget(path)
			for b.Loop() {
				store = nil // what the store before has in memory
				before := heap()
				begun := time.Now()
				store = benchStore(b, path)
				opened := time.Since(begun)
				first, err := store.Lease(b.Context())
				if err != nil {
					b.Fatal(err)
				}
				ready := time.Since(begun)
				memory := heap() - before
				if err := store.Settle(b.Context(), first, inbox.Outcome{Released: true}); err != nil {
					b.Fatal(err)
				}
				const measured = 6400
				alone := putAll(b, store, &from, 200, 1)
				idle := processor()
				puts := putAll(b, store, &from, measured, 64)
				put := processor()
				deliveries := deliverAll(b, store, measured+200, 64)
				delivered := processor()
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(opened.Seconds()*1e3, "ms/open")
				b.ReportMetric(ready.Seconds()*1e3, "ms/first_lease")
				b.ReportMetric(float64(memory)/1024, "KiB/heap")
				b.ReportMetric(float64(resident())/1024, "MiB/RSS_anonymous")
				b.ReportMetric(alone.Seconds()*1e6/200, "µs/put_alone")
				b.ReportMetric(measured/puts.Seconds(), "puts/s")
				b.ReportMetric((measured+200)/deliveries.Seconds(), "deliveries/s")
				// What other programs do on the machine is not in these.
				b.ReportMetric((put-idle).Seconds()*1e6/measured, "CPU_µs/put")
				b.ReportMetric((delivered-put).Seconds()*1e6/(measured+200), "CPU_µs/delivery")
				if err := store.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// processor is the processor time that this process has taken.
func processor() time.Duration {
	var usage syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &usage) // it cannot fail for oneself
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func heap() int64 {
	runtime.GC()
	runtime.GC() // pools give up what they have at the second
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}

// resident is this process's memory in KiB, without what is the file's and the kernel can take back.
func resident() int {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			n, _ := strconv.Atoi(strings.Fields(value)[0])
			return n
		}
	}
	return 0
}
