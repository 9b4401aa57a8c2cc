//go:build linux

package main

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"net"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/procfs"
)

// TestMain lets the tests' binary be the far end too, as the program's own is.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == upstreamWord {
		if err := runUpstream(os.Args[2]); err != nil {
			panic(err)
		}
		return
	}
	os.Exit(m.Run())
}

func TestPercentile(t *testing.T) {
	hundred := make([]int64, 100)
	for i := range hundred {
		hundred[i] = int64(100 - i)
	}
	for _, test := range []struct {
		name    string
		values  []int64
		percent float64
		want    int64
	}{
		{"none", nil, 50, 0},
		{"one", []int64{7}, 99, 7},
		{"median of three", []int64{3, 1, 2}, 50, 2},
		{"median of four is the second", []int64{4, 3, 2, 1}, 50, 2},
		{"p99 of a hundred", hundred, 99, 99},
		{"the largest", hundred, 100, 100},
		{"the smallest", hundred, 0, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := percentile(slices.Clone(test.values), test.percent); got != test.want {
				t.Errorf("%d, want %d", got, test.want)
			}
		})
	}
}

func TestSpread(t *testing.T) {
	if got := spreadOf([]float64{5, 1, 3}); got != (spread{3, 1, 5}) {
		t.Errorf("odd: %v", got)
	}
	if got := spreadOf([]float64{4, 1, 3, 2}); got != (spread{2.5, 1, 4}) {
		t.Errorf("even: %v", got)
	}
	if got := spreadOf(nil); !math.IsNaN(got.Median) {
		t.Errorf("none: %v", got)
	}
}

// TestRatios: a slow round is slow for both, and the ratio does not show it.
func TestRatios(t *testing.T) {
	got := spreadOf(ratios([]float64{110, 220, 110}, []float64{100, 200, 100}))
	if got != (spread{1.1, 1.1, 1.1}) {
		t.Errorf("%v", got)
	}
	if got := ratios([]float64{1, 2, 3}, []float64{1, 0}); !slices.Equal(got, []float64{1}) {
		t.Errorf("a missing and an empty round: %v", got)
	}
}

func TestLine(t *testing.T) {
	x := []float64{100, 1000, 1e6}
	y := []float64{50 + 1, 50 + 10, 50 + 1e4}
	start, slope := line(x, y)
	if math.Abs(start-50) > 1e-6 || math.Abs(slope-0.01) > 1e-9 {
		t.Errorf("%f + %f x", start, slope)
	}
}

func TestParseAnswer(t *testing.T) {
	for _, test := range []struct {
		name, buffer string
		status       int
		body         string
		rest         string // what stands behind the answer
		last, fails  bool
	}{
		{name: "length", buffer: "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", status: 200, body: "abc"},
		{name: "more behind", buffer: "HTTP/1.1 200 OK\r\ncontent-length:3\r\n\r\nabcHTTP", status: 200, body: "abc", rest: "HTTP"},
		{name: "head is cut", buffer: "HTTP/1.1 200 OK\r\nContent-Le"},
		{name: "body is cut", buffer: "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab"},
		{name: "closes", buffer: "HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", status: 403, last: true},
		{name: "chunks", buffer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1;x=y\r\nd\r\n0\r\n\r\n", status: 200, body: "abcd"},
		{name: "chunks without the last", buffer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"},
		{name: "chunk is cut", buffer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab"},
		{name: "no chunk", buffer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", fails: true},
		{name: "until it closes", buffer: "HTTP/1.1 200 OK\r\n\r\nabc", fails: true},
		{name: "no length", buffer: "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", fails: true},
		{name: "no HTTP", buffer: "SSH-2.0-x\r\n\r\n", fails: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			a, err := parseAnswer([]byte(test.buffer))
			if (err != nil) != test.fails {
				t.Fatalf("error %v", err)
			}
			want := 0
			if test.status != 0 {
				want = len(test.buffer) - len(test.rest)
			}
			if a.length != want || a.length > 0 && (a.status != test.status || string(a.body) != test.body || a.last != test.last) {
				t.Errorf("%+v, body %q", a, a.body)
			}
		})
	}
}

// TestProcess: a process's descendants and their memory are found, and end with it.
func TestProcess(t *testing.T) {
	command := exec.Command("sh", "-c", "sleep 60 & trap 'kill $!' TERM; echo; wait; wait")
	started, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p, err := startProcess("sh", command, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := started.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	family := p.family()
	if len(family) != 2 || !alive(family[0]) || !alive(family[1]) {
		t.Errorf("sh and sleep are %v", family)
	}
	both, err := readMemory(family)
	if err != nil || both.PSS < 1<<12 || both.RSS < both.PSS {
		t.Errorf("%+v, %v", both, err)
	}
	p.stop()
	if slices.ContainsFunc(family, alive) {
		t.Error("one of them has survived")
	}
	if after, err := readMemory(family); err != nil || after != (memory{}) {
		t.Errorf("those that have ended have %+v, %v", after, err)
	}
}

// TestUsage: what others use is what is busy but for the bench itself.
func TestUsage(t *testing.T) {
	before := usage{procfs.CPUStat{User: 1, System: 1, Idle: 8}, 1750 * time.Millisecond}
	after := usage{procfs.CPUStat{User: 1.6, Nice: 0.1, System: 1.3, Idle: 10, Steal: 1}, 2 * time.Second}
	others, steal := after.since(before)
	if math.Abs(others-0.75/4) > 1e-9 || math.Abs(steal-0.25) > 1e-9 {
		t.Errorf("others %f, kept back %f", others, steal)
	}
}

// TestProcessTime: a process's time is read, in steps far below a tick of 10 ms, and grows.
func TestProcessTime(t *testing.T) {
	before, err := processTime(os.Getpid())
	if err != nil || before <= 0 {
		t.Fatal(before, err)
	}
	for after := before; after == before; {
		if after, err = processTime(os.Getpid()); err != nil {
			t.Fatal(err)
		}
	}
	ended := exec.Command("true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	if _, err = processTime(ended.Process.Pid); err == nil {
		t.Error("a process that has ended has a time")
	}
}

// TestSignatures holds the far end's own check against the published examples.
func TestSignatures(t *testing.T) {
	var calls []struct {
		Name, Timestamp, Nonce, Body, Signature string
		AppID                                   string `json:"app_id"`
		AppKey                                  string `json:"app_key"`
	}
	readVectors(t, "open-body-sig.json", &calls)
	for _, v := range calls {
		if got := bodySignature(v.AppKey, v.AppID, v.Timestamp, v.Nonce, []byte(v.Body)); got != v.Signature {
			t.Errorf("%s: %s, want %s", v.Name, got, v.Signature)
		}
		authorization := `OPEN-BODY-SIG AppId="` + v.AppID + `", Timestamp="` + v.Timestamp + `", Nonce="` + v.Nonce + `", Signature="` + v.Signature + `"`
		if err := verifyCall(authorization, []byte(v.Body)); (err == nil) != (v.AppKey == appKey) {
			t.Errorf("%s: %v", v.Name, err)
		}
		if verifyCall(authorization, []byte(v.Body+" ")) == nil {
			t.Errorf("%s: another body is right too", v.Name)
		}
	}
	var notifies []struct {
		Name, Key, Digest string
		Form              *string
		Valid             bool
	}
	readVectors(t, "notify.json", &notifies)
	tried := 0
	for _, v := range notifies {
		if v.Form == nil || !v.Valid || v.Digest != "SHA256" || strings.HasPrefix(*v.Form, "{") {
			continue
		}
		values, err := url.ParseQuery(*v.Form)
		if err != nil || len(values["sign"]) != 1 {
			continue
		}
		var fields []pair
		for name, all := range values {
			if name != "sign" && all[0] != "" {
				fields = append(fields, pair{name, all[0]})
			}
		}
		form, _ := url.ParseQuery(string(notifyForm(fields, v.Key)))
		if !strings.EqualFold(form.Get("sign"), values.Get("sign")) {
			t.Errorf("%s: %s, want %s", v.Name, form.Get("sign"), values.Get("sign"))
		}
		tried++
	}
	if tried == 0 {
		t.Error("no published notify was tried")
	}
}

func readVectors(t *testing.T, name string, into any) {
	t.Helper()
	content, err := os.ReadFile("../testdata/vectors/" + name)
	if err == nil {
		err = json.Unmarshal(content, into)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestRequestData(t *testing.T) {
	for _, size := range fullPlan.Bodies {
		if body := callBody(size); len(body) != size || !json.Valid(body) {
			t.Errorf("a body of %d bytes has %d: %.200s", size, len(body), body)
		}
	}
	for _, count := range fullPlan.Fields {
		values, err := url.ParseQuery(string(notifyForm(notifyFields(count), notifyKey)))
		if err != nil || len(values) != count {
			t.Errorf("a notify of %d fields has %d, %v", count, len(values), err)
		}
	}
}

// farEnd serves as the upstream does, in this process.
func farEnd(t *testing.T, look func(head, body []byte)) string {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer connection.Close()
				serve(connection, "text/plain", "SUCCESS", look)
			}()
		}
	}()
	return listener.Addr().String()
}

// TestLoad: all that is sent is answered and counted, whole, at saturation, at a rate, and on two aims by turns.
func TestLoad(t *testing.T) {
	large := callBody(300 << 10) // more than a socket takes at once
	address := farEnd(t, func(head, body []byte) {
		if len(body) != len(large) && len(body) != 100 {
			t.Errorf("a body of %d bytes, after %q", len(body), head)
		}
	})
	other := farEnd(t, func(_, _ []byte) {})
	requests := [][]byte{newRequest("/", address, "application/json", "", callBody(100)), newRequest("/", address, "application/json", "X: y\r\n", large)}
	for _, test := range []struct {
		name string
		load load
	}{
		{"saturation", load{aims: []aim{{address, requests, 200}}, connections: 5}},
		{"more connections", load{aims: []aim{{address, requests[:1], 200}}, connections: 300}},
		{"rate", load{aims: []aim{{address, requests, 200}}, connections: 5, rate: 500}},
		{"two aims", load{aims: []aim{{address, requests[:1], 200}, {other, requests[:1], 200}}, connections: 4}},
		{"two aims at a rate", load{aims: []aim{{address, requests[:1], 200}, {other, requests[:1], 200}}, connections: 4, rate: 500}},
	} {
		t.Run(test.name, func(t *testing.T) {
			marks := 0
			test.load.mark = func() { marks++ }
			// On a busy machine, nothing at all was sent within 100 ms.
			test.load.warm, test.load.duration = 10*time.Millisecond, time.Second
			outcomes, err := run(test.load)
			if err != nil {
				t.Fatal(err)
			}
			if marks != 2 || len(outcomes) != len(test.load.aims) {
				t.Errorf("%d marks, %d outcomes", marks, len(outcomes))
			}
			for _, o := range outcomes {
				if o.answered == 0 || o.answered != len(o.latencies) || o.inTime > o.answered {
					t.Errorf("%d answered, %d in time, %d latencies", o.answered, o.inTime, len(o.latencies))
				}
			}
			if len(outcomes) == 2 {
				one, two := outcomes[0].answered, outcomes[1].answered
				if difference := one - two; difference < -test.load.connections || difference > test.load.connections {
					t.Errorf("by turns %d and %d", one, two)
				}
			}
		})
	}
}

// TestLoadIsSentLate: at a rate, what was due is sent, also if the machine had no time for this program until the end. Before,
// nothing was sent then, and the smoke run ended with "nothing was answered".
func TestLoadIsSentLate(t *testing.T) {
	address := farEnd(t, func(_, _ []byte) {})
	a := aim{address, [][]byte{newRequest("/", address, "application/json", "", callBody(100))}, 200}
	outcomes, err := run(load{aims: []aim{a, a}, connections: 1, rate: 1e8, duration: time.Microsecond}) // over before it begins
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range outcomes {
		if o.answered == 0 || o.answered != len(o.latencies) {
			t.Errorf("%d answered, %d latencies", o.answered, len(o.latencies))
		}
	}
}

// TestTold: what answers tell of the call is counted, whatever their status.
func TestTold(t *testing.T) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		connection, err := listener.Accept()
		if err != nil {
			return
		}
		defer connection.Close()
		for i := 0; ; i++ {
			if n, err := connection.Read(make([]byte, 1<<10)); n == 0 || err != nil {
				return
			}
			_, _ = io.WriteString(connection, []string{
				"HTTP/1.1 200 OK\r\nGateway-Outcome: answered\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 502 Bad Gateway\r\ngateway-outcome:unknown\r\nContent-Length: 1\r\n\r\nx",
			}[i%2])
		}
	}()
	address := listener.Addr().String()
	l := load{aims: []aim{{address, [][]byte{newRequest("/", address, "application/json", "", nil)}, 0}}, connections: 1, duration: time.Second}
	outcomes, err := run(l)
	if err != nil {
		t.Fatal(err)
	}
	o := outcomes[0]
	if answered, unknown := o.told["answered"], o.told["unknown"]; o.answered == 0 || answered+unknown != o.answered || answered-unknown < 0 || answered-unknown > 1 {
		t.Errorf("of %d answers %v", o.answered, o.told)
	}
}

// deadlines is a connection that notes until when it was to be read.
type deadlines struct {
	net.Conn
	end time.Time
}

func (d *deadlines) SetReadDeadline(end time.Time) error { d.end = end; return nil }
func (d *deadlines) Read(p []byte) (int, error)          { return len(p), nil }
func (d *deadlines) Write(p []byte) (int, error)         { return len(p), nil }

// TestClosing: a connection ends within a millisecond after about every second answer, and not before the first request
// or while one is read.
func TestClosing(t *testing.T) {
	under := new(deadlines)
	c := &closing{Conn: under}
	patient := func(when string) {
		t.Helper()
		if _, _ = c.Read(nil); !under.end.IsZero() {
			t.Errorf("%s it waits until %v", when, under.end)
		}
	}
	patient("before the first request")
	const answers = 1000
	hasty := 0
	for range answers {
		_, _ = c.Write(nil)
		begun := time.Now()
		_, _ = c.Read(nil)
		if !under.end.IsZero() {
			hasty++
			if until := under.end; until.Before(begun) || until.After(time.Now().Add(closingWindow)) {
				t.Errorf("it waits until %v", until.Sub(begun))
			}
		}
		patient("within a request")
	}
	if hasty < answers/3 || hasty > answers*2/3 {
		t.Errorf("after %d of %d answers", hasty, answers)
	}
}

// expired is a connection whose deadline is over at the first read.
type expired struct {
	*net.TCPConn
	reads int
}

func (e *expired) Read(p []byte) (int, error) {
	if e.reads++; e.reads == 1 {
		return 0, os.ErrDeadlineExceeded
	}
	return e.TCPConn.Read(p)
}

// TestClosingLooks: what had come before a connection was closed was thrown away with it, though no client could have known.
func TestClosingLooks(t *testing.T) {
	listener, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for _, text := range []string{"", "a call"} {
		client, err := net.Dial("tcp4", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		server, err := listener.AcceptTCP()
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		if _, err := io.WriteString(client, text); err != nil {
			t.Fatal(err)
		}
		for text != "" && !waiting(server) {
			time.Sleep(time.Millisecond)
		}
		spared, room := new(atomic.Int64), make([]byte, 100)
		n, err := (&closing{Conn: &expired{TCPConn: server}, kept: true, spared: spared}).Read(room)
		if got := string(room[:n]); got != text || (text == "") != errors.Is(err, os.ErrDeadlineExceeded) || spared.Load() != int64(min(len(text), 1)) {
			t.Errorf("%q, %v; %d spared", got, err, spared.Load())
		}
	}
}

// TestLoadRefuses: a peer that answers anything else is not measured.
func TestLoadRefuses(t *testing.T) {
	address := farEnd(t, func(_, _ []byte) {})
	request := newRequest("/", address, "application/json", "", nil)
	l := load{aims: []aim{{address, [][]byte{request}, 403}}, connections: 1, duration: 50 * time.Millisecond}
	if _, err := run(l); err == nil || !strings.Contains(err.Error(), "answered") {
		t.Errorf("another status: %v", err)
	}
	chunked := []byte("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
	l.aims = []aim{{address, [][]byte{chunked}, 200}}
	if _, err := run(l); err == nil {
		t.Error("400 is taken")
	}
}

func TestCounts(t *testing.T) {
	proxy, signer := &site{product: product{name: "p"}}, &site{product: product{name: "s", works: true}}
	for _, test := range []struct {
		name  string
		seen  counts
		sites []*site
		fails bool
	}{
		{"a proxy passes", counts{Requests: 64, Checked: 2, Plain: 2}, []*site{proxy}, false},
		{"a signer signs", counts{Requests: 64, Checked: 2, Right: 2}, []*site{signer}, false},
		{"a signer does not", counts{Requests: 64, Checked: 2, Right: 1, Plain: 1}, []*site{signer}, true},
		{"a signer signs wrongly", counts{Requests: 64, Checked: 2, Right: 1, Wrong: 1}, []*site{signer}, true},
		{"a proxy signs", counts{Requests: 64, Checked: 2, Right: 2}, []*site{proxy}, true},
		{"both, by turns", counts{Requests: 64, Checked: 2, Right: 1, Plain: 1}, []*site{proxy, signer}, false},
		{"answers without requests", counts{Requests: 63, Checked: 2, Plain: 2}, []*site{proxy}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := test.seen.judge(wayOut, 64, test.sites...); (err != nil) != test.fails {
				t.Errorf("%v", err)
			}
		})
	}
}

// sampleResults are made up.
func sampleResults() *results {
	rounds := func(base float64) *figures {
		three := []float64{base, base * 1.2, base * 0.9}
		return &figures{PerSecond: three, CPU: three, P50: three, P99: three, RateCPU: three, Checked: 9}
	}
	measured := &results{
		Machine: machine{Date: "2026-11-25 02:00:00 UTC", Commit: "abcdef0", Cores: 2, CPU: "a <fast> one", Kernel: "6.1.0", Memory: 4 << 30, Versions: []string{"go1.26"}, Others: 0.25, Steal: 0.1},
		Plan:    fullPlan, Missing: map[string]string{njsName: "ngx_http_js_module.so: not installed"},
		Ways: map[string]map[string]*figures{
			wayOut: {bufferedName: rounds(100), pluginName: rounds(80), luaName: rounds(30), phpName: rounds(400)},
			wayTLS: {bufferedName: rounds(100), pluginName: rounds(80), phpName: rounds(2000)},
			wayIn:  {bufferedName: rounds(100), pluginName: rounds(115)},
		},
		Pairs: []*pairFigures{
			{Way: wayOut, Floor: bufferedName, Other: pluginName, FloorCPU: []float64{100, 200, 100}, OtherCPU: []float64{70, 140, 130}, FloorP50: []float64{500}, OtherP50: []float64{500}, FloorP99: []float64{1000}, OtherP99: []float64{1050}},
			{Way: wayOut, Floor: bufferedName, Other: pluginName, Large: true, FloorCPU: []float64{400}, OtherCPU: []float64{840}},
			{Way: wayOut, Floor: bufferedName, Other: longName, FloorCPU: []float64{100}, OtherCPU: []float64{120}},
			{Way: wayIn, Floor: bufferedName, Other: pluginName, FloorCPU: []float64{100}, OtherCPU: []float64{115}, FloorP50: []float64{500}, OtherP50: []float64{500}, FloorP99: []float64{1000}, OtherP99: []float64{1200}},
		},
		Stale: []*staleFigures{
			{Way: wayOut, Product: pluginName, Calls: []float64{1000, 2000, 1000}, Unknown: []float64{5, 10, 100}, NotSent: []float64{0, 1, 2}},
			{Way: wayOut, Product: longName, Calls: []float64{1000}, Unknown: []float64{50}, NotSent: []float64{0}},
			{Way: wayTLS, Product: pluginName, Calls: []float64{1000}, Unknown: []float64{11}, NotSent: []float64{0}},
		},
		Curves: []*curve{{
			Name: "body", Title: "Size", Unit: "bytes", Way: wayOut, X: []int{100, 1000, 1048576},
			Lines: []curveLine{{Product: pluginName, CPU: [][]float64{{50}, {51, 52}, {9000}}, PerSecond: [][]float64{{1}, {1}, {1}}}},
		}},
		Memories: []memoryFigures{{Product: pluginName, Idle: memory{40 << 20, 39 << 20}, Out: memory{80 << 20, 79 << 20}, AnsweredTogether: 1000}},
		Benchmarks: parseBenchmarks("goos: linux\nBenchmarkDepth/1000-2   \t 100\t  1234 ns/op\t 5000 deliveries/s\nBenchmarkDepth/1000000-2 50 1300 ns/op\n" +
			"# How deep\nBenchmarkPending/depth=10-2 1 7 ns/op\nBenchmarkPending/depth=100-2 1 7 ns/op\nBenchmarkPending/depth=1000-2 1 8 ns/op\n" +
			"BenchmarkIdle 10 7 B/op\nok  \tpackage\t1.2s\n"),
	}
	return measured
}

func TestJudge(t *testing.T) {
	want := map[string]bool{
		"outbound, CPU time of a signed call to":   true, // 0.70, whatever the one bad round says
		"outbound, CPU time of a signed call of 1": false,
		"inbound, CPU time":                        true,
		"outbound, PHP":                            false,
		"outbound to TLS, PHP":                     true,
		"outbound, calls wrongly":                  true, // 0.5 %, in the median
		"outbound to TLS, calls wrongly":           false,
		"outbound, p99":                            true,
		"inbound, p99":                             false,
	}
	found := 0
	for _, target := range judge(sampleResults()) {
		for beginning, met := range want {
			if strings.HasPrefix(target.what, beginning) {
				found++
				if target.met() != met {
					t.Errorf("%s: %s of %s: met %v", target.what, target.text(), target.want, target.met())
				}
			}
		}
	}
	if found != len(want) {
		t.Errorf("%d targets of %d", found, len(want))
	}
}

func TestReport(t *testing.T) {
	directory := t.TempDir()
	if err := writeReport(sampleResults(), directory); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(directory + "/RESULTS.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(content)
	for _, part := range []string{
		"commit abcdef0", "2 cores, a <fast> one, 4 GiB, Linux 6.1.0", "nginx + Lua is cheaper than the plugin", "it does this in 38 % of the CPU time",
		"nginx + PHP-FPM takes 5.0 times", "Left out: nginx + njs", "| ≤ 0.75 × | 0.700 × (0.700–1.300) | yes |", "| ≤ 2.00 × | 2.100 × (2.100–2.100) | **no** |",
		"| ≤ +5 % | +20.0 % (+20.0 to +20.0) | **no** |", "| ≤ 1 % | 0.50 % (0.50–10.00) | yes |", "outbound: 38 % of the plugin's CPU time",
		"| outbound, 1 MiB, CPU µs a call | 400 | 840 | 2.100 ×", "| outbound, the long form: guard, `reverse_proxy`, transport, CPU µs a call | 100 | 120 |",
		"| outbound, **Caddy with this plugin** | 4000 | 115 | 2.88 % | 3 |",
		"![CPU time of a call by bytes](growth-body.svg)", "| 1,048,576 | 9000 |", "| **Caddy with this plugin** | 40 (39) | 80 (79) | 0 (0) |",
		"### Depth", "| 1000 | 1234 | 5000 |", "| 1000000 | 1300 |  |", "### How deep", "| depth=1000 | 8 |",
		"other programs on the machine took 25 % of its CPU time, and the host kept back 10 %",
	} {
		if !strings.Contains(text, part) {
			t.Errorf("missing: %s", part)
		}
	}
	if strings.Contains(text, "NaN") || strings.Contains(text, "%!") {
		t.Error("the report has a value that is none")
	}
	// The report can be made again of what it has written.
	saved, err := os.ReadFile(directory + "/results.json")
	if err != nil {
		t.Fatal(err)
	}
	var again results
	if err := json.Unmarshal(saved, &again); err != nil {
		t.Fatal(err)
	}
	other := t.TempDir()
	if err := writeReport(&again, other); err != nil {
		t.Fatal(err)
	}
	if second, _ := os.ReadFile(other + "/RESULTS.md"); string(second) != text {
		t.Error("the report made again is another one")
	}
	plots, _ := os.ReadDir(directory)
	count := 0
	for _, plot := range plots {
		if strings.HasSuffix(plot.Name(), ".svg") {
			count++
			content, _ := os.ReadFile(directory + "/" + plot.Name())
			checkPlot(t, plot.Name(), string(content))
		}
	}
	if count != 4 {
		t.Errorf("%d plots", count)
	}
}

// checkPlot: a plot is well-formed XML without a number that is none, and readable on dark pages.
func checkPlot(t *testing.T, name, content string) {
	t.Helper()
	decoder := xml.NewDecoder(strings.NewReader(content))
	for {
		if _, err := decoder.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
	}
	for _, part := range []string{"NaN", "Inf", "%!"} {
		if strings.Contains(content, part) {
			t.Errorf("%s has %s", name, part)
		}
	}
	// What is drawn is black, which the plot's style makes light on dark pages, gray, or a color that has a lighter one.
	for _, found := range regexp.MustCompile(`(?:fill|stroke):(#[0-9A-F]{6})`).FindAllStringSubmatch(content, -1) {
		if !strings.Contains(content, `[style*="`+found[0]+`"]{`) && found[1] != "#808080" {
			t.Errorf("%s has %s, and nothing for dark pages", name, found[0])
		}
	}
	if !strings.Contains(content, "@media (prefers-color-scheme:dark){text{fill:#") {
		t.Errorf("%s has no light text for dark pages", name)
	}
}

func TestPlots(t *testing.T) {
	bars := barPlot("a < b", "µs", []bar{{"one & two", spread{10, 9, 12}, 0}, {"nothing", spread{0, 0, 0}, 1}})
	checkPlot(t, "bars", bars)
	if !strings.Contains(bars, "one &amp; two") || !strings.Contains(bars, `aria-label="a &lt; b"`) {
		t.Error(bars)
	}
	for name, y := range map[string][]spread{
		"lines": {{1, 1, 1}, {10, 8, 12}, {100, 100, 100}}, "cut short": {{5, 5, 5}}, "nothing measured": {{0, 0, 0}, spreadOf(nil)}, "no points": nil,
	} {
		checkPlot(t, name, linePlot("t", "x", "y", []float64{1, 10, 100}, []series{{"l", y, 0}}))
	}
	checkPlot(t, "one point", linePlot("t", "x", "y", []float64{1}, []series{{"l", []spread{{1, 1, 1}}, 7}}))
	checkPlot(t, "nothing", linePlot("t", "x", "y", []float64{5}, nil))
}

func TestDecades(t *testing.T) {
	for _, test := range []struct{ low, high, first, last float64 }{
		{1, 10, 1, 10}, {71, 81, 50, 100}, {0.3, 0.3, 0.2, 0.5}, {999, 1000, 500, 1000}, {20, 1200, 20, 2000},
	} {
		ticks := decades{}.Ticks(test.low, test.high)
		if ticks[0].Value != test.first || ticks[len(ticks)-1].Value != test.last {
			t.Errorf("from %v to %v: %v", test.low, test.high, ticks)
		}
	}
}

func TestNumbers(t *testing.T) {
	for value, want := range map[float64]string{0: "0", 1.234: "1.23", 12.34: "12.3", 1234.5: "1234", 100: "100"} {
		if got := number(value); got != want {
			t.Errorf("number(%v) = %s, want %s", value, got, want)
		}
	}
	for value, want := range map[float64]string{1234: "1234", 12345: "12.3k", 2e6: "2M"} {
		if got := compact(value); got != want {
			t.Errorf("compact(%v) = %s, want %s", value, got, want)
		}
	}
	for value, want := range map[int]string{5: "5", 1000: "1,000", 1048576: "1,048,576"} {
		if got := grouped(value); got != want {
			t.Errorf("grouped(%v) = %s, want %s", value, got, want)
		}
	}
}

// TestPeers runs the peers that are installed, but for Caddy, which takes too long to build: they sign and verify, they
// refuse a forged notify, and they can be measured.
func TestPeers(t *testing.T) {
	scratch, err := os.MkdirTemp("", "bench") // a short path: a socket's may have 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(scratch) })
	if err := os.Chmod(scratch, 0o755); err != nil {
		t.Fatal(err)
	}
	found := findTools(scratch)
	if found.nginx == "" {
		t.Skip("needs nginx")
	}
	plan := shortPlan
	plan.Turn, plan.Warm = 100*time.Millisecond, 0
	b := &bench{plan: plan, tools: found, progress: io.Discard, results: &results{
		Plan: plan, Missing: make(map[string]string), Ways: make(map[string]map[string]*figures),
	}}
	t.Cleanup(b.close)
	if b.upstream, b.tools.platform, err = startUpstream(scratch); err != nil {
		t.Fatal(err)
	}
	if err := b.openAll(); err != nil {
		t.Fatal(err)
	}
	for name, reason := range b.results.Missing {
		t.Logf("%s: %s", name, reason)
	}
	if b.sites[nginxName] == nil {
		t.Fatal("nginx is installed, but not measured")
	}
	for _, way := range ways {
		if err := b.compare(way); err != nil {
			t.Fatal(err)
		}
	}
	for name, f := range b.results.Ways[wayOut] {
		if len(f.CPU) != 1 || f.CPU[0] <= 0 || f.P99[0] < f.P50[0] {
			t.Errorf("%s: %+v", name, f)
		}
	}
}
