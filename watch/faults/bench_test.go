package faults

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-chinaums/caddy-chinaums/watch/boltstore"
)

// BenchmarkCall measures what the watch adds to calls of the built gateway to a platform that answers in 20 ms, 8 at once: the
// median with it, and without.
func BenchmarkCall(b *testing.B) {
	needBinary(b)
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		time.Sleep(20 * time.Millisecond)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"errCode":"SUCCESS","refundStatus":"SUCCESS"}`)
	}))
	b.Cleanup(upstream.Close)
	for _, kind := range []string{"order", "refund"} {
		for _, name := range []string{"without", "with"} {
			b.Run(kind+"/"+name, func(b *testing.B) {
				p, a := newPlatform(b), newApp(b)
				p.address = upstream.Listener.Addr().String()
				block := map[string]string{"without": "", "with": bolt}[name]
				g := newGateway(b, "gateway", strings.ReplaceAll(block, "$OPTIONS", "\t\t\torders off\n\t\t\tunknown 1h\n"), boltInbox, p, a)
				g.start()
				client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
				took := make([]time.Duration, b.N)
				var group sync.WaitGroup
				b.ResetTimer()
				for part := range 8 {
					group.Go(func() {
						for i := part; i < b.N; i += 8 {
							path, fields := "/v1/netpay/trade/precreate", map[string]any{"merOrderId": p.number(), "totalAmount": total}
							if kind == "refund" {
								path, fields = "/v1/netpay/refund", refundFields(p.number(), p.number(), 1)
							}
							body := g.body(fields)
							began := time.Now()
							res, err := client.Post("http://"+g.address+path, "application/json", strings.NewReader(body))
							if err != nil || res.StatusCode != http.StatusOK {
								b.Errorf("%v, %v", res, err)
								return
							}
							_, _ = io.Copy(io.Discard, res.Body)
							_ = res.Body.Close()
							took[i] = time.Since(began)
						}
					})
				}
				group.Wait()
				b.StopTimer()
				slices.Sort(took)
				b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
				b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
			})
		}
	}
}

// BenchmarkStart measures how long the built gateway needs until it follows so many open orders, and what memory it then has.
// FAULTS_ROWS names another number, such as 1000000.
func BenchmarkStart(b *testing.B) {
	rows := setting(b, "FAULTS_ROWS", 10_000)
	p, a := newPlatform(b), newApp(b)
	g := newGateway(b, "gateway", strings.ReplaceAll(bolt, "$OPTIONS", "\t\t\torders 12h\n"), boltInbox, p, a)
	g.start()
	first := p.number()
	if r := g.order(first); r.code != "SUCCESS" {
		b.Fatal(r)
	}
	within(b, patience, "an open order", func() bool {
		rows, err := g.rows()
		return err == nil && rows[first].State == "open"
	})
	g.kill()
	fill(b, filepath.Join(g.directory, "watch.db"), first, rows)
	want := fmt.Sprintf("caddy_chinaums_watch_orders{state=\"open\"} %d\n", rows)
	if rows >= 1_000_000 { // as Prometheus writes it
		want = fmt.Sprintf("caddy_chinaums_watch_orders{state=\"open\"} %s\n", strconv.FormatFloat(float64(rows), 'g', -1, 64))
	}
	for b.Loop() {
		began := time.Now()
		g.launch()
		within(b, patience, "the start", func() bool {
			_, metrics, err := g.ask("/metrics")
			return err == nil && strings.Contains(metrics, want)
		})
		b.ReportMetric(time.Since(began).Seconds(), "s/start")
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.command.Process.Pid))
		for line := range strings.Lines(string(status)) {
			words := strings.Fields(line)
			if err == nil && (words[0] == "VmHWM:" || words[0] == "RssAnon:") {
				kib, _ := strconv.ParseFloat(words[1], 64)
				b.ReportMetric(kib/1024, words[0]+"MiB")
			}
		}
		command := g.command
		g.kill()
		b.ReportMetric((command.ProcessState.UserTime() + command.ProcessState.SystemTime()).Seconds(), "cpu-s/start") // which a busy machine does not change
	}
}

// fill copies the row of an order that is open until there are so many.
func fill(b *testing.B, path, first string, rows int) {
	b.Helper()
	s, err := boltstore.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	row, err := s.Get(context.Background(), "shop/"+first)
	if err != nil {
		b.Fatal(err)
	}
	var group sync.WaitGroup
	for part := range 512 {
		group.Go(func() {
			for i := part; i < rows-1; i += 512 {
				if _, err := s.Put(context.Background(), fmt.Sprintf("shop/%s%010d", first[:4], i), row.Value, 0); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
}
