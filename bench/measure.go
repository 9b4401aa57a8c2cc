//go:build linux

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"time"
)

// plan is how long and how often is measured.
type plan struct {
	Rounds      int
	Turn        time.Duration // of one peer in one round, at saturation
	RateTurn    time.Duration // at a fixed rate
	Warm        time.Duration // before each turn, not counted
	Connections int
	Rates       map[string]float64 // calls a second, by way
	PairRounds  int
	StaleRounds int
	StaleTurn   time.Duration
	StaleRate   float64 // calls a second, of each
	GrowTurn    time.Duration
	GrowRounds  int
	Bodies      []int
	Fields      []int
	Merchants   []int
	Concurrency []int
	Concurrent  int // calls under way when memory is read
	Body        int // bytes of a call
	LargeBody   int // of a large one
	FieldCount  int // of a notify
}

var fullPlan = plan{
	Rounds: 9, Turn: 600 * time.Millisecond, RateTurn: 1500 * time.Millisecond, Warm: 150 * time.Millisecond, Connections: 32,
	Rates:      map[string]float64{wayOut: 1000, wayTLS: 400, wayIn: 1000},
	PairRounds: 21, StaleRounds: 5, StaleTurn: 4 * time.Second, StaleRate: 400, GrowTurn: 300 * time.Millisecond, GrowRounds: 3,
	Bodies: []int{100, 1 << 10, 10 << 10, 100 << 10, 1 << 20}, Fields: []int{5, 10, 30, 60, 120, 250},
	Merchants: []int{1, 10, 100, 1000, 10000}, Concurrency: []int{1, 10, 100, 1000}, Concurrent: 1000,
	Body: 1 << 10, LargeBody: 1 << 20, FieldCount: 30,
}

var shortPlan = plan{
	Rounds: 1, Turn: 200 * time.Millisecond, RateTurn: 300 * time.Millisecond, Warm: 50 * time.Millisecond, Connections: 8,
	Rates:      map[string]float64{wayOut: 300, wayTLS: 200, wayIn: 300},
	PairRounds: 1, StaleRounds: 1, StaleTurn: 300 * time.Millisecond, StaleRate: 200, GrowTurn: 150 * time.Millisecond, GrowRounds: 1,
	Bodies: []int{100, 10 << 10, 1 << 20}, Fields: []int{5, 30, 250}, Merchants: []int{1, 100}, Concurrency: []int{1, 100},
	Concurrent: 100, Body: 1 << 10, LargeBody: 1 << 20, FieldCount: 30,
}

// figures are those of one peer on one way, one value a round.
type figures struct {
	PerSecond []float64 // at saturation
	CPU       []float64 // microseconds a call, at saturation
	P50, P99  []float64 // microseconds, at the fixed rate
	RateCPU   []float64 // microseconds a call, at the fixed rate
	Checked   int64     // calls or notifies that the other side has looked at, all of them right
}

// pairFigures are those of two peers whose requests alternated on the same connections, in the same window.
type pairFigures struct {
	Way, Floor, Other  string
	Large              bool `json:",omitempty"` // the body is a large one
	FloorCPU, OtherCPU []float64
	FloorP50, OtherP50 []float64 `json:",omitempty"` // at a rate; of some pairs only
	FloorP99, OtherP99 []float64 `json:",omitempty"`
}

// staleFigures are what one product told of its calls to a platform that closes kept connections, one value a round.
type staleFigures struct {
	Way, Product            string
	Calls, Unknown, NotSent []float64
}

// curve is how the cost of a call grows with something.
type curve struct {
	Name, Title, Unit string
	Way               string
	X                 []int
	Lines             []curveLine
}

// curveLine is one peer's, by X and then by round.
type curveLine struct {
	Product   string
	CPU       [][]float64
	PerSecond [][]float64
	Idle      []float64 `json:",omitempty"` // bytes of memory before the first call, by X
}

// memoryFigures are one product's.
type memoryFigures struct {
	Product          string
	Idle, Out, In    memory
	AnsweredTogether int // calls under way when it was read
}

// results are all that was measured; the report is made of them.
type results struct {
	Machine  machine
	Plan     plan
	Missing  map[string]string // by product: why it was not measured
	Ways     map[string]map[string]*figures
	Pairs    []*pairFigures
	Stale    []*staleFigures `json:",omitempty"`
	Spared   int64           `json:",omitempty"` // calls that were there when the platform was about to close their connection
	Curves   []*curve
	Memories []memoryFigures

	Benchmarks []benchmarkLine `json:",omitempty"` // further tables, made of go test's output
}

// bench is a run.
type bench struct {
	plan     plan
	tools    tools
	upstream *upstreamClient
	sites    map[string]*site
	results  *results
	progress io.Writer
	stop     atomic.Bool // the user wants to end
}

// upstreamClient is our end of the upstream's standard input and output.
type upstreamClient struct {
	process *process
	in      io.WriteCloser
	out     *bufio.Scanner
}

func startUpstream(scratch string) (*upstreamClient, upstreamReport, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, upstreamReport{}, err
	}
	command := exec.Command(self, upstreamWord, scratch)
	in, err := command.StdinPipe()
	if err != nil {
		return nil, upstreamReport{}, err
	}
	out, err := command.StdoutPipe()
	if err != nil {
		return nil, upstreamReport{}, err
	}
	process, err := startProcess("upstream", command, os.Environ())
	if err != nil {
		return nil, upstreamReport{}, err
	}
	u := &upstreamClient{process: process, in: in, out: bufio.NewScanner(out)}
	report, err := u.read()
	return u, report, err
}

func (u *upstreamClient) read() (upstreamReport, error) {
	var report upstreamReport
	if !u.out.Scan() {
		return report, errors.Join(errors.New("the upstream is silent"), u.out.Err())
	}
	err := json.Unmarshal(u.out.Bytes(), &report)
	return report, err
}

// saw is what has come to the far end of a way so far.
func (u *upstreamClient) saw(way string) (counts, error) {
	if _, err := io.WriteString(u.in, "\n"); err != nil {
		return counts{}, err
	}
	report, err := u.read()
	if way == wayIn {
		return report.AppSaw, err
	}
	return report.PlatformSaw, err
}

// minus is what has come since.
func (c counts) minus(before counts) counts {
	c.Requests -= before.Requests
	c.Plain -= before.Plain
	c.Checked -= before.Checked
	c.Right -= before.Right
	c.Wrong -= before.Wrong
	c.Spared -= before.Spared
	return c
}

// judge says what is wrong with what came from these sites.
func (c counts) judge(way string, answered int64, sites ...*site) error {
	works, plain, selfContained := false, false, false
	for _, s := range sites {
		works = works || s.works
		plain = plain || !s.works
		selfContained = selfContained || way == wayIn && s.mode == phpName // its app is in it
	}
	switch {
	case c.Wrong > 0:
		return fmt.Errorf("%s, %s: %d of %d checked requests were wrong: %s", sites[0].name, way, c.Wrong, c.Checked, c.FirstWrong)
	case selfContained:
		return nil
	case c.Requests < answered:
		return fmt.Errorf("%s, %s: %d answers for %d requests", sites[0].name, way, answered, c.Requests)
	case !works && c.Right > 0 || !plain && c.Plain > 0:
		return fmt.Errorf("%s, %s: signed %d, not signed %d", sites[0].name, way, c.Right, c.Plain)
	}
	return nil
}

// requests are what a peer is sent on a way.
func (b *bench) requests(s *site, way string, body []byte, path string) [][]byte {
	if way == wayIn {
		return [][]byte{newRequest("/notify"+path, s.address(way), "application/x-www-form-urlencoded", "", body)}
	}
	return [][]byte{newRequest("/v1/netpay/query"+path, s.address(way), "application/json", "", body)}
}

// body is the usual one of a way.
func (b *bench) body(way string) []byte {
	if way == wayIn {
		return notifyForm(notifyFields(b.plan.FieldCount), notifyKey)
	}
	return callBody(b.plan.Body)
}

// measured is one site in one turn.
type measured struct {
	perSecond, cpu, p50, p99 float64
	checked                  int64
}

// turn puts a load on one site, or on several by turns, and measures each.
func (b *bench) turn(way string, l load, sites ...*site) ([]measured, error) {
	if b.stop.Load() {
		return nil, errors.New("interrupted")
	}
	before, err := b.upstream.saw(way)
	if err != nil {
		return nil, err
	}
	pids := make([][]int, len(sites))
	for i, s := range sites {
		pids[i] = s.pids()
	}
	var marks [][]time.Duration
	var failure error
	l.mark = func() {
		used := make([]time.Duration, len(sites))
		for i := range sites {
			if used[i], err = cpu(pids[i]); err != nil {
				failure = fmt.Errorf("%s: %w", sites[i].name, err)
			}
		}
		marks = append(marks, used)
	}
	outcomes, err := run(l)
	if err := errors.Join(err, failure); err != nil {
		return nil, fmt.Errorf("%s, %s: %w", sites[0].name, way, err)
	}
	after, err := b.upstream.saw(way)
	if err != nil {
		return nil, err
	}
	seen := after.minus(before)
	all := make([]measured, len(sites))
	sum := int64(0)
	for i, o := range outcomes {
		if o.answered == 0 {
			return nil, fmt.Errorf("%s, %s: nothing was answered", sites[i].name, way)
		}
		sum += int64(o.answered)
		all[i] = measured{
			perSecond: o.perSecond(),
			cpu:       float64((marks[1][i] - marks[0][i]).Nanoseconds()) / 1e3 / float64(o.answered),
			p50:       float64(percentile(o.latencies, 50)) / 1e3,
			p99:       float64(percentile(o.latencies, 99)) / 1e3,
			checked:   seen.Checked,
		}
	}
	return all, seen.judge(way, sum, sites...)
}

func (b *bench) say(format string, arguments ...any) {
	_, _ = fmt.Fprintf(b.progress, format+"\n", arguments...)
}

// present are the products that run and go this way, in the order of this round: each second round is the other way round.
func (b *bench) present(way string, round int, names ...string) []*site {
	var all []*site
	for _, p := range products {
		s := b.sites[p.name]
		if s == nil || s.aside || !s.goes(way) || len(names) > 0 && !strings.Contains(" "+strings.Join(names, " ")+" ", " "+p.name+" ") {
			continue
		}
		all = append(all, s)
	}
	if round%2 == 1 {
		for i, j := 0, len(all)-1; i < j; i, j = i+1, j-1 {
			all[i], all[j] = all[j], all[i]
		}
	}
	return all
}

// openAll starts every product that can be started here, and proves that it does its work.
func (b *bench) openAll() error {
	b.sites = make(map[string]*site)
	for _, p := range products {
		s, err := open(p, b.tools)
		if errors.Is(err, errMissing) {
			b.results.Missing[p.name] = err.Error()
			b.say("%s: left out: %v", p.name, err)
			continue
		}
		if err != nil {
			return err
		}
		b.sites[p.name] = s
		for _, way := range ways {
			if !p.goes(way) {
				continue
			}
			if err := b.prove(s, way); err != nil {
				return err
			}
		}
	}
	return nil
}

// prove sends a few requests, and a forged notify, so that nobody is measured who does nothing.
func (b *bench) prove(s *site, way string) error {
	before, err := b.upstream.saw(way)
	if err != nil {
		return err
	}
	good := b.requests(s, way, b.body(way), "")[0]
	for range checkEvery {
		if answer, err := exchange(s.address(way), good); err != nil || answer.status != 200 {
			return fmt.Errorf("%s, %s: answered %d %q: %w", s.name, way, answer.status, answer.body, err)
		}
	}
	after, err := b.upstream.saw(way)
	if err != nil {
		return err
	}
	seen := after.minus(before)
	if err := seen.judge(way, checkEvery, s); err != nil {
		return err
	}
	if way != wayIn || !s.works {
		return nil
	}
	forged := notifyForm(notifyFields(b.plan.FieldCount), "another key")
	answer, err := exchange(s.address(way), b.requests(s, way, forged, "")[0])
	if err != nil || answer.status != 403 {
		return fmt.Errorf("%s: a forged notify is answered %d %q: %w", s.name, answer.status, answer.body, err)
	}
	if last, err := b.upstream.saw(way); err != nil || last.Requests != after.Requests {
		return fmt.Errorf("%s: the app has got a forged notify: %w", s.name, err)
	}
	return nil
}

// compare measures all products on a way: at saturation, and at a fixed rate.
func (b *bench) compare(way string) error {
	table := make(map[string]*figures)
	b.results.Ways[way] = table
	for name, s := range b.sites {
		if s.goes(way) && !s.aside {
			table[name] = new(figures)
		}
	}
	body := b.body(way)
	for round := range b.plan.Rounds {
		for _, s := range b.present(way, round) {
			aims := []aim{{s.address(way), b.requests(s, way, body, ""), 200}}
			m, err := b.turn(way, load{aims: aims, connections: b.plan.Connections, warm: b.plan.Warm, duration: b.plan.Turn}, s)
			if err != nil {
				return err
			}
			f := table[s.name]
			f.PerSecond, f.CPU = append(f.PerSecond, m[0].perSecond), append(f.CPU, m[0].cpu)
			f.Checked += m[0].checked
			b.say("%s, round %d: %-14s %7.0f/s %7.1f µs CPU", way, round+1, s.name, m[0].perSecond, m[0].cpu)
		}
	}
	for round := range b.plan.Rounds {
		for _, s := range b.present(way, round) {
			aims := []aim{{s.address(way), b.requests(s, way, body, ""), 200}}
			m, err := b.turn(way, load{
				aims: aims, connections: 2 * b.plan.Connections, rate: b.plan.Rates[way], warm: b.plan.Warm, duration: b.plan.RateTurn,
			}, s)
			if err != nil {
				return err
			}
			f := table[s.name]
			f.P50, f.P99, f.RateCPU = append(f.P50, m[0].p50), append(f.P99, m[0].p99), append(f.RateCPU, m[0].cpu)
			b.say("%s, rate, round %d: %-14s p50 %6.0f µs p99 %6.0f µs %7.1f µs CPU", way, round+1, s.name, m[0].p50, m[0].p99, m[0].cpu)
		}
	}
	return nil
}

// pairs are measured in the same windows, request by request: what most targets are judged by.
var pairs = []struct {
	way, floor, other string
	large, paced      bool // with a large body; at a fixed rate too
}{
	{way: wayOut, floor: bufferedName, other: pluginName, paced: true},
	{way: wayTLS, floor: bufferedName, other: pluginName, paced: true},
	{way: wayIn, floor: bufferedName, other: pluginName, paced: true},
	{way: wayOut, floor: bufferedName, other: pluginName, large: true},
	{way: wayOut, floor: bufferedName, other: standardName},
	{way: wayTLS, floor: bufferedName, other: standardName},
	{way: wayOut, floor: bufferedName, other: longName},
	{way: wayTLS, floor: bufferedName, other: longName},
}

// pair measures two products.
func (b *bench) pair(way string, one, two *site, large, paced bool) error {
	body := b.body(way)
	if large {
		body = callBody(b.plan.LargeBody)
	}
	aims := []aim{{one.address(way), b.requests(one, way, body, ""), 200}, {two.address(way), b.requests(two, way, body, ""), 200}}
	p := &pairFigures{Way: way, Floor: one.name, Other: two.name, Large: large}
	b.results.Pairs = append(b.results.Pairs, p)
	for round := range b.plan.PairRounds {
		m, err := b.turn(way, load{aims: aims, connections: b.plan.Connections, warm: b.plan.Warm, duration: b.plan.Turn}, one, two)
		if err != nil {
			return err
		}
		p.FloorCPU, p.OtherCPU = append(p.FloorCPU, m[0].cpu), append(p.OtherCPU, m[1].cpu)
		b.say("%s, side by side, round %d: %s %.1f µs, %s %.1f µs CPU: %.3f", way, round+1, one.name, m[0].cpu, two.name, m[1].cpu, m[1].cpu/m[0].cpu)
		if !paced {
			continue
		}
		r, err := b.turn(way, load{
			aims: aims, connections: 2 * b.plan.Connections, rate: 2 * b.plan.Rates[way], warm: b.plan.Warm, duration: b.plan.RateTurn,
		}, one, two)
		if err != nil {
			return err
		}
		p.FloorP50, p.OtherP50 = append(p.FloorP50, r[0].p50), append(p.OtherP50, r[1].p50)
		p.FloorP99, p.OtherP99 = append(p.FloorP99, r[0].p99), append(p.OtherP99, r[1].p99)
		b.say("%s, side by side, round %d: p99 %.0f, %.0f µs", way, round+1, r[0].p99, r[1].p99)
	}
	return nil
}

// against measures the plugin beside the same of another program.
func (b *bench) against() error {
	others := b.tools
	others.caddy = b.tools.against
	other, err := open(productOf(pluginName), others)
	if err != nil {
		return err
	}
	defer other.close()
	other.name = "against"
	for _, way := range ways {
		if err := b.pair(way, other, b.sites[pluginName], false, false); err != nil {
			return err
		}
	}
	return nil
}

// stale counts the calls of unknown outcome, all at the same time, to a platform that closes kept connections. It answers
// every call that it reads: each unknown is one that was not executed.
func (b *bench) stale() error {
	closing := b.tools
	closing.platform.Platform, closing.platform.PlatformTLS = closing.platform.Closing, closing.platform.ClosingTLS
	var sites []*site
	defer func() {
		for _, s := range sites {
			s.close()
		}
	}()
	for _, name := range []string{pluginName, standardName, longName} {
		s, err := open(productOf(name), closing)
		if err != nil {
			return err
		}
		sites = append(sites, s)
	}
	for _, way := range []string{wayOut, wayTLS} {
		var all []*staleFigures
		var aims []aim
		for _, s := range sites {
			all = append(all, &staleFigures{Way: way, Product: s.name})
			aims = append(aims, aim{s.address(way), b.requests(s, way, b.body(way), ""), 0})
		}
		b.results.Stale = append(b.results.Stale, all...)
		for round := range b.plan.StaleRounds {
			before, err := b.upstream.saw(way)
			if err != nil {
				return err
			}
			outcomes, err := run(load{aims: aims, connections: 2 * b.plan.Connections, rate: float64(len(aims)) * b.plan.StaleRate, duration: b.plan.StaleTurn})
			if err != nil {
				return err
			}
			after, err := b.upstream.saw(way)
			if err != nil {
				return err
			}
			seen := after.minus(before)
			b.results.Spared += seen.Spared
			answered := 0
			for i, o := range outcomes {
				f := all[i]
				f.Calls, f.Unknown, f.NotSent = append(f.Calls, float64(o.answered)), append(f.Unknown, float64(o.told["unknown"])), append(f.NotSent, float64(o.told["not_sent"]))
				answered += o.told["answered"]
				b.say("%s, connections closed, round %d: %-14s of %d calls %d unknown, %d not sent", way, round+1, f.Product, o.answered, o.told["unknown"], o.told["not_sent"])
			}
			if seen.Requests != int64(answered) || seen.Wrong > 0 {
				return fmt.Errorf("%s, connections closed: %d calls executed, %d answered; %s", way, seen.Requests, answered, seen.FirstWrong)
			}
		}
	}
	return nil
}

// grow measures a curve; at is the load on a site at x.
func (b *bench) grow(c *curve, names []string, at func(s *site, x int) load) error {
	b.results.Curves = append(b.results.Curves, c)
	lines := make(map[string]*curveLine)
	for _, s := range b.present(c.Way, 0, names...) {
		lines[s.name] = &curveLine{Product: s.name, CPU: make([][]float64, len(c.X)), PerSecond: make([][]float64, len(c.X))}
	}
	for round := range b.plan.GrowRounds {
		for i, x := range c.X {
			for _, s := range b.present(c.Way, round, names...) {
				l := at(s, x)
				l.warm, l.duration = b.plan.Warm, b.plan.GrowTurn
				m, err := b.turn(c.Way, l, s)
				if err != nil {
					return fmt.Errorf("%s, %d: %w", c.Name, x, err)
				}
				line := lines[s.name]
				line.CPU[i], line.PerSecond[i] = append(line.CPU[i], m[0].cpu), append(line.PerSecond[i], m[0].perSecond)
				b.say("%s %d, round %d: %-14s %7.0f/s %7.1f µs CPU", c.Name, x, round+1, s.name, m[0].perSecond, m[0].cpu)
			}
		}
	}
	for _, s := range b.present(c.Way, 0, names...) {
		c.Lines = append(c.Lines, *lines[s.name])
	}
	return nil
}

// growth measures all curves.
func (b *bench) growth() error {
	err := b.grow(&curve{Name: "body", Title: "Size of a call's body", Unit: "bytes", Way: wayOut, X: b.plan.Bodies},
		[]string{bufferedName, pluginName, luaName, njsName, phpName}, func(s *site, x int) load {
			return load{aims: []aim{{s.address(wayOut), b.requests(s, wayOut, callBody(x), ""), 200}}, connections: b.plan.Connections}
		})
	if err != nil {
		return err
	}
	err = b.grow(&curve{Name: "fields", Title: "Fields of a notify", Unit: "fields", Way: wayIn, X: b.plan.Fields},
		[]string{bufferedName, pluginName, luaName, njsName, phpName}, func(s *site, x int) load {
			form := notifyForm(notifyFields(x), notifyKey)
			return load{aims: []aim{{s.address(wayIn), b.requests(s, wayIn, form, ""), 200}}, connections: b.plan.Connections}
		})
	if err != nil {
		return err
	}
	for _, way := range []string{wayOut, wayIn} {
		title := map[string]string{wayOut: "Calls at the same time, outbound", wayIn: "Notifies at the same time, inbound"}[way]
		err = b.grow(&curve{Name: "concurrency-" + way, Title: title, Unit: "connections", Way: way, X: b.plan.Concurrency},
			[]string{bufferedName, pluginName, luaName, njsName, phpName}, func(s *site, x int) load {
				return load{aims: []aim{{s.address(way), b.requests(s, way, b.body(way), ""), 200}}, connections: x}
			})
		if err != nil {
			return err
		}
	}
	return b.growMerchants()
}

// growMerchants measures a Caddy for each number of merchants, with requests of up to a thousand of them by turns.
func (b *bench) growMerchants() error {
	sites := make([]*site, len(b.plan.Merchants))
	out := &curve{Name: "merchants-out", Title: "Merchants, outbound", Unit: "merchants", Way: wayOut, X: b.plan.Merchants}
	in := &curve{Name: "merchants-in", Title: "Merchants, inbound", Unit: "merchants", Way: wayIn, X: b.plan.Merchants}
	for _, c := range []*curve{out, in} {
		b.results.Curves = append(b.results.Curves, c)
		c.Lines = []curveLine{{
			Product: pluginName, CPU: make([][]float64, len(c.X)), PerSecond: make([][]float64, len(c.X)), Idle: make([]float64, len(c.X)),
		}}
	}
	defer func() {
		for _, s := range sites {
			if s != nil {
				s.close()
			}
		}
	}()
	for i, count := range b.plan.Merchants {
		s, err := open(merchantsProduct(count), b.tools)
		if err != nil {
			return err
		}
		sites[i] = s
		idle, err := readMemory(s.pids())
		if err != nil {
			return err
		}
		out.Lines[0].Idle[i], in.Lines[0].Idle[i] = float64(idle.RSS), float64(idle.RSS)
	}
	for round := range b.plan.GrowRounds {
		for _, c := range []*curve{out, in} {
			for i, s := range sites {
				l := load{
					aims:        []aim{{s.address(c.Way), merchantRequests(s, c.Way, b.plan.FieldCount, b.plan.Body), 200}},
					connections: b.plan.Connections, warm: b.plan.Warm, duration: b.plan.GrowTurn,
				}
				m, err := b.turn(c.Way, l, s)
				if err != nil {
					return fmt.Errorf("%s, %d: %w", c.Name, c.X[i], err)
				}
				line := &c.Lines[0]
				line.CPU[i], line.PerSecond[i] = append(line.CPU[i], m[0].cpu), append(line.PerSecond[i], m[0].perSecond)
				b.say("%s %d, round %d: %7.0f/s %7.1f µs CPU", c.Name, c.X[i], round+1, m[0].perSecond, m[0].cpu)
			}
		}
	}
	return nil
}

// merchantRequests are requests of the first merchant, the last, and others between, in no order that a cache could like.
func merchantRequests(s *site, way string, fieldCount, size int) [][]byte {
	count := min(len(s.Merchants), 1000)
	all := make([][]byte, count)
	for i := range all {
		m := s.Merchants[(i*7919)%len(s.Merchants)]
		extra := "X-Shop: " + m.Name + "\r\n"
		if way == wayOut {
			all[i] = newRequest("/v1/netpay/query", s.address(way), "application/json", extra, callBody(size))
			continue
		}
		fields := notifyFields(fieldCount)
		fields[0].value = m.MID
		all[i] = newRequest("/notify", s.address(way), "application/x-www-form-urlencoded", extra, notifyForm(fields, m.NotifyKey))
	}
	return all
}

// memory reads what fresh processes take, idle and with many calls under way.
func (b *bench) memory() error {
	for _, p := range products {
		if b.sites[p.name] == nil || p.ways != nil {
			continue
		}
		s, err := open(p, b.tools)
		if err != nil {
			return err
		}
		f := memoryFigures{Product: p.name, AnsweredTogether: b.concurrent(p)}
		if f.Idle, err = readMemory(s.pids()); err != nil {
			s.close()
			return err
		}
		s.close()
		for way, into := range map[string]*memory{wayOut: &f.Out, wayIn: &f.In} {
			if *into, err = b.busy(p, way); err != nil {
				return err
			}
		}
		b.results.Memories = append(b.results.Memories, f)
		b.say("memory: %-14s idle %.1f MiB, out %.1f, in %.1f", p.name, mebibytes(f.Idle.RSS), mebibytes(f.Out.RSS), mebibytes(f.In.RSS))
	}
	return nil
}

// concurrent is how many calls are under way on a product when its memory is read. A thousand PHP processes that wake up at
// once keep a small machine busy for a minute.
func (b *bench) concurrent(p product) int {
	if p.mode == phpName {
		return min(b.plan.Concurrent, 100)
	}
	return b.plan.Concurrent
}

// busy reads the memory of a fresh product while many calls are under way on it.
func (b *bench) busy(p product, way string) (memory, error) {
	started := p
	if p.mode == phpName { // it takes a process for each call
		start := p.start
		started.start = func(s *site) error {
			s.Children = b.concurrent(p)
			return start(s)
		}
	}
	s, err := open(started, b.tools)
	if err != nil {
		return memory{}, err
	}
	defer s.close()
	pids := s.pids()
	var read memory
	var failure error
	_, err = b.turn(way, load{
		aims:        []aim{{s.address(way), b.requests(s, way, b.body(way), slowPath), 200}},
		connections: b.concurrent(p), duration: slowness * 5 / 2,
		midway: func() { read, failure = readMemory(pids) }, // in the middle of the second wave
	}, s)
	return read, errors.Join(err, failure)
}

func mebibytes(bytes int64) float64 { return float64(bytes) / (1 << 20) }
