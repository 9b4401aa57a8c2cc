package natsstore

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/inbox"
)

// BenchmarkPut puts messages of 1 KiB, each waiting for its acknowledgment, from one sender and from 64.
func BenchmarkPut(b *testing.B) {
	server := oneServer(b, "")
	for _, senders := range []int{1, 64} {
		b.Run(fmt.Sprint(senders), func(b *testing.B) {
			s := openStore(b, provider(b, nil, server.url()), fmt.Sprintf("put%d.%d", senders, b.N), defaults())
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
	server := oneServer(b, "")
	for _, holders := range []int{1, 8} {
		b.Run(fmt.Sprint(holders), func(b *testing.B) {
			s := openStore(b, provider(b, nil, server.url()), fmt.Sprintf("deliver%d.%d", holders, b.N), defaults())
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
	server := oneServer(b, "")
	for b.Loop() {
		s := openStore(b, provider(b, nil, server.url()), fmt.Sprint("both", time.Now().UnixNano()), defaults())
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
