package natsstore

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
	"github.com/caddy-chinaums/caddy-chinaums/internal/natstest"
)

// BenchmarkPut puts messages of 1 KiB, each waiting for its acknowledgment, from one sender and from 64.
func BenchmarkPut(b *testing.B) {
	server := natstest.Run(b, "")
	for _, senders := range []int{1, 64} {
		b.Run(fmt.Sprint(senders), func(b *testing.B) {
			s := openStore(b, provider(b, nil, server.URL()), fmt.Sprintf("put%d.%d", senders, b.N), defaults())
			request := make([]byte, 1024)
			var next atomic.Int64
			var all sync.WaitGroup
			b.ResetTimer()
			for range senders {
				all.Go(func() {
					for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
						m := &inbox.Message{ID: fmt.Sprint(i), Received: time.Now(), Request: request}
						if receipt, err := s.Put(b.Context(), m); err != nil || receipt != inbox.Stored {
							b.Errorf("receipt %d, error %v", receipt, err)
						}
					}
				})
			}
			all.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
		})
	}
}

// BenchmarkDeliver leases and settles messages, by one caller and by eight, which is the default of a handler.
func BenchmarkDeliver(b *testing.B) {
	server := natstest.Run(b, "")
	for _, holders := range []int{1, 8} {
		b.Run(fmt.Sprint(holders), func(b *testing.B) {
			s := openStore(b, provider(b, nil, server.URL()), fmt.Sprintf("deliver%d.%d", holders, b.N), defaults())
			var next atomic.Int64
			var all sync.WaitGroup
			for range 64 {
				all.Go(func() {
					for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
						m := &inbox.Message{ID: fmt.Sprint(i), Received: time.Now(), Request: make([]byte, 1024)}
						if _, err := s.Put(b.Context(), m); err != nil {
							b.Error(err)
						}
					}
				})
			}
			all.Wait()
			next.Store(0)
			b.ResetTimer()
			for range holders {
				all.Go(func() {
					for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
						m, err := s.Lease(b.Context())
						if err == nil {
							err = s.Settle(b.Context(), m, inbox.Outcome{Result: inbox.Delivered})
						}
						if err != nil {
							b.Error(err)
						}
					}
				})
			}
			all.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
		})
	}
}

// BenchmarkBoth puts with 64 senders while eight callers deliver, as much as they can.
func BenchmarkBoth(b *testing.B) {
	server := natstest.Run(b, "")
	for b.Loop() {
		s := openStore(b, provider(b, nil, server.URL()), fmt.Sprint("both", time.Now().UnixNano()), defaults())
		ctx, cancel := context.WithTimeout(b.Context(), 5*time.Second)
		var next, puts, delivered atomic.Int64
		var all sync.WaitGroup
		for range 64 {
			all.Go(func() {
				for ctx.Err() == nil {
					m := &inbox.Message{ID: fmt.Sprint(next.Add(1)), Received: time.Now(), Request: make([]byte, 1024)}
					if _, err := s.Put(ctx, m); err == nil {
						puts.Add(1)
					}
				}
			})
		}
		for range 8 {
			all.Go(func() {
				for ctx.Err() == nil {
					m, err := s.Lease(ctx)
					if err == nil {
						err = s.Settle(b.Context(), m, inbox.Outcome{Result: inbox.Delivered})
					}
					if err == nil {
						delivered.Add(1)
					}
				}
			})
		}
		all.Wait()
		cancel()
		b.ReportMetric(float64(puts.Load())/5, "put/s")
		b.ReportMetric(float64(delivered.Load())/5, "delivered/s")
		b.ReportMetric(float64(delivered.Load())/float64(puts.Load()), "delivered/put")
	}
}

// BenchmarkDepth shows what a store costs with so many messages pending: CHINAUMS_DEPTH names the numbers, as for the bolt
// store's.
func BenchmarkDepth(b *testing.B) {
	depths := strings.Fields(os.Getenv("CHINAUMS_DEPTH"))
	if len(depths) == 0 {
		depths = []string{"1000"}
	}
	config := provider(b, nil, natstest.Run(b, "").URL())
	for _, depth := range depths {
		pending, err := strconv.Atoi(depth)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(depth, func(b *testing.B) {
			name := fmt.Sprint("depth", depth, ".", time.Now().UnixNano())
			var next atomic.Int64
			times := func(n, callers int, do func() error) time.Duration {
				var left atomic.Int64
				left.Store(int64(n))
				begun := time.Now()
				var all sync.WaitGroup
				for range callers {
					all.Go(func() {
						for left.Add(-1) >= 0 {
							if err := do(); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				all.Wait()
				return time.Since(begun)
			}
			var s *store
			put := func() error {
				_, err := s.Put(b.Context(), &inbox.Message{ID: fmt.Sprint(next.Add(1)), Received: time.Now(), Request: make([]byte, 1024)})
				return err
			}
			deliver := func() error {
				m, err := s.Lease(b.Context())
				if err == nil {
					err = s.Settle(b.Context(), m, inbox.Outcome{Result: inbox.Delivered})
				}
				return err
			}
			s = openStore(b, config, name, defaults())
			times(pending, 64, put)
			_ = s.Close()
			for b.Loop() {
				begun := time.Now()
				s = openStore(b, config, name, defaults())
				opened := time.Since(begun)
				first, err := s.Lease(b.Context())
				if err != nil {
					b.Fatal(err)
				}
				ready := time.Since(begun)
				if err := s.Settle(b.Context(), first, inbox.Outcome{Released: true}); err != nil {
					b.Fatal(err)
				}
				const alone = 200
				measured := min(pending, 6400)
				one := times(alone, 1, put)
				puts := times(measured, 64, put)
				deliveries := times(measured+alone, 64, deliver)
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(opened.Seconds()*1e3, "ms/open")
				b.ReportMetric(ready.Seconds()*1e3, "ms/first_lease")
				b.ReportMetric(one.Seconds()*1e6/alone, "µs/put_alone")
				b.ReportMetric(float64(measured)/puts.Seconds(), "puts/s")
				b.ReportMetric(float64(measured+alone)/deliveries.Seconds(), "deliveries/s")
				_ = s.Close()
			}
		})
	}
}
