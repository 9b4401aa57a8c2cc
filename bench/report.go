//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// report is the Markdown that is being written, and the plots that it shows.
type report struct {
	strings.Builder
	results *results
	plots   map[string]string // by file
}

// writeReport writes RESULTS.md, the plots, and results.json, from which they can be made again.
func writeReport(measured *results, directory string) error {
	r := &report{results: measured, plots: make(map[string]string)}
	r.write()
	content, err := json.MarshalIndent(measured, "", " ")
	if err != nil {
		return err
	}
	files := map[string]string{"RESULTS.md": r.String(), "results.json": string(content) + "\n"}
	for name, plot := range r.plots {
		files[name] = plot
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(directory, name), []byte(text), 0o644); err != nil { //nolint:gosec // to be read by all
			return err
		}
	}
	return nil
}

func (r *report) write() {
	r.head()
	r.targets()
	r.way(wayOut, "Outbound: a call is signed and sent",
		fmt.Sprintf("A call of %d bytes to a platform on the same machine. The mere proxies sign nothing: they are what a server costs.", r.results.Plan.Body))
	r.way(wayTLS, "Outbound, to a TLS platform",
		"As above, but the platform speaks TLS, as the real one does. PHP-FPM with curl makes a new connection, and so a handshake, for every call; the others keep theirs.")
	r.way(wayIn, "Inbound: a notify is verified and handed to the app",
		fmt.Sprintf("A notify of %d fields. The mere proxies pass the form on unread; nginx + Lua and nginx + njs verify it and pass it on as it came; "+
			"the plugin verifies it, writes JSON and passes that on. In PHP-FPM the app is in the same process, so nothing is passed on.", r.results.Plan.FieldCount))
	r.pairs()
	r.stale()
	r.curves()
	r.memories()
	r.benchmarks()
	r.method()
}

func (r *report) line(format string, arguments ...any) {
	_, _ = fmt.Fprintf(r, format+"\n", arguments...) // into memory
}

// table writes a Markdown table; the first column is text, the others are numbers.
func (r *report) table(head []string, rows [][]string) {
	r.line("\n| %s |", strings.Join(head, " | "))
	r.line("| ---%s |", strings.Repeat(" | ---:", len(head)-1))
	for _, row := range rows {
		r.line("| %s |", strings.Join(row, " | "))
	}
	r.line("")
}

func (r *report) plot(name, alternative, content string) {
	r.plots[name] = content
	r.line("\n![%s](%s)\n", alternative, name)
}

func (r *report) head() {
	m := r.results.Machine
	r.line("# Measured\n")
	r.line("Written by `bench/run.sh`; do not edit.\n")
	if m.Short {
		r.line("**A short run, which only shows that everything works. The figures mean nothing.**\n")
	}
	if m.Failure != "" {
		r.line("**The run ended before its end: %s**\n", strings.ReplaceAll(m.Failure, "\n", " "))
	}
	r.line("- %d cores, %s, %.0f GiB, Linux %s", m.Cores, m.CPU, float64(m.Memory)/(1<<30), m.Kernel)
	r.line("- %s", strings.Join(m.Versions, ", "))
	commit := ""
	if m.Commit != "" {
		commit = ", commit " + m.Commit
	}
	r.line("- %s%s", m.Date, commit)
	r.line("- Again: `bench/run.sh` (Linux, Go; `bench/run.sh -install` gets the peers from Debian). It takes about twenty minutes.")
	for _, p := range products {
		if reason, missing := r.results.Missing[p.name]; missing {
			r.line("- Left out: %s: %s", p.title, reason)
		}
	}
	if m.Others > 0 || m.Steal > 0 {
		r.line("- While the peers were compared, other programs on the machine took %.0f %% of its CPU time, and the host kept back %.0f %%.", 100*m.Others, 100*m.Steal)
		if m.Others > 0.2 {
			r.line("  **That is much: latencies, and calls a second, say little here; CPU times are higher than on a quiet machine, and the ranges wide.**")
		}
	}
	if floor := r.figuresOf(wayOut, bufferedName); floor != nil {
		if s := spreadOf(floor.CPU); s.Max > 1.4*s.Min {
			r.line("- **The machine was uneven**: the same calls through plain Caddy took it from %s to %s µs of CPU time. What is measured side by side", number(s.Min), number(s.Max))
			r.line("  hardly feels that; latencies do, and what is compared across turns.")
		}
	}
	r.line("")
	r.line("The figure to trust is the **CPU time of a call**: what all processes of the peer used, user and system, divided by the calls that")
	r.line("they answered. Requests a second and latency depend on what else the machine does; here the load and the far end run on it too.")
	r.line("Values are medians of the rounds, in brackets the smallest and the largest. Ratios are taken round by round.")
}

// figuresOf returns a peer's figures on a way, or nil.
func (r *report) figuresOf(way, product string) *figures { return r.results.Ways[way][product] }

// spreadText writes a median and its range.
func spreadText(s spread) string {
	if s.Min == s.Max {
		return number(s.Median)
	}
	return fmt.Sprintf("%s (%s–%s)", number(s.Median), number(s.Min), number(s.Max))
}

func ratioText(s spread) string {
	if s.Min == s.Max {
		return fmt.Sprintf("%.2f ×", s.Median)
	}
	return fmt.Sprintf("%.2f × (%.2f–%.2f)", s.Median, s.Min, s.Max)
}

// title is a product's title without the marks of code.
func title(p product) string { return strings.ReplaceAll(p.title, "`", "") }

func plainTitle(p product) string { return strings.ReplaceAll(title(p), "**", "") }

func (r *report) way(way, heading, text string) {
	table := r.results.Ways[way]
	if len(table) == 0 {
		return
	}
	r.line("\n## %s\n\n%s", heading, text)
	var rows [][]string
	var bars []bar
	floor := table[bufferedName]
	for _, p := range products {
		f := table[p.name]
		if f == nil {
			continue
		}
		row := []string{p.title, spreadText(spreadOf(f.CPU)), "", spreadText(spreadOf(f.PerSecond)), spreadText(spreadOf(f.P50)), spreadText(spreadOf(f.P99)),
			number(spreadOf(f.RateCPU).Median)}
		if floor != nil {
			row[2] = ratioText(spreadOf(ratios(f.CPU, floor.CPU)))
		}
		rows = append(rows, row)
		color := 5
		switch {
		case p.name == pluginName:
			color = 0
		case p.works:
			color = 1
		}
		bars = append(bars, bar{shortTitle(p), spreadOf(f.CPU), color})
	}
	rate := number(r.results.Plan.Rates[way])
	r.table([]string{"", "CPU µs a call", "of Caddy with `request_buffers`", "calls/s at saturation", "p50 µs at " + rate + "/s", "p99 µs at " + rate + "/s",
		"CPU µs a call at " + rate + "/s"}, rows)
	r.plot("cpu-"+way+".svg", "CPU time of a call: "+heading, barPlot(heading, "CPU µs a call (gray: passes on only; line: smallest to largest round)", bars))
	r.cheaper(way)
}

// cheaper says plainly who needs less than the plugin for the same work.
func (r *report) cheaper(way string) {
	ours := r.figuresOf(way, pluginName)
	if ours == nil {
		return
	}
	for _, p := range products {
		f := r.figuresOf(way, p.name)
		if !p.works || p.name == pluginName || f == nil {
			continue
		}
		ratio := spreadOf(ratios(f.CPU, ours.CPU))
		if ratio.Median < 1 {
			r.line("- **%s is cheaper than the plugin**: it does this in %.0f %% of the CPU time.", plainTitle(p), 100*ratio.Median)
		} else {
			r.line("- %s takes %.1f times the plugin's CPU time.", plainTitle(p), ratio.Median)
		}
	}
}

// target is one of the goals that the project has set itself, and whether it is met.
type target struct {
	what, want string
	limit      float64
	atMost     bool
	measured   spread
	percent    bool // measured is a ratio to be shown as what is added
	share      bool // measured is a part of one
}

func (t target) met() bool {
	if t.atMost {
		return t.measured.Median <= t.limit
	}
	return t.measured.Median >= t.limit
}

func (t target) text() string {
	if t.share {
		return fmt.Sprintf("%.2f %% (%.2f–%.2f)", 100*t.measured.Median, 100*t.measured.Min, 100*t.measured.Max)
	}
	if t.percent {
		return fmt.Sprintf("%+.1f %% (%+.1f to %+.1f)", 100*(t.measured.Median-1), 100*(t.measured.Min-1), 100*(t.measured.Max-1))
	}
	if t.atMost { // side by side, and so finer
		return fmt.Sprintf("%.3f × (%.3f–%.3f)", t.measured.Median, t.measured.Min, t.measured.Max)
	}
	return ratioText(t.measured)
}

// wayWords name a way in a line of a table.
var wayWords = map[string]string{wayOut: "outbound", wayTLS: "outbound to TLS", wayIn: "inbound"}

// judge compares what was measured with the targets; what was not measured is not judged.
func judge(measured *results) []target {
	var all []target
	beside := func(way string, large bool) *pairFigures {
		for _, p := range measured.Pairs {
			if p.Way == way && p.Large == large && p.Floor == bufferedName && p.Other == pluginName {
				return p
			}
		}
		return nil
	}
	for _, goal := range []struct {
		way, what string
		large     bool
		limit     float64
	}{
		{wayOut, "a signed call", false, 0.75},
		{wayTLS, "a signed call", false, 0.75},
		{wayOut, "a signed call of " + kibibytes(measured.Plan.LargeBody), true, 2},
		{wayIn, "a verified notify", false, 1.2},
	} {
		if p := beside(goal.way, goal.large); p != nil {
			all = append(all, target{
				what: wayWords[goal.way] + ", CPU time of " + goal.what + " to that of plain Caddy with `request_buffers`",
				want: fmt.Sprintf("≤ %.2f ×", goal.limit), limit: goal.limit, atMost: true, measured: spreadOf(ratios(p.OtherCPU, p.FloorCPU)),
			})
		}
	}
	for _, goal := range []struct {
		way    string
		factor float64
	}{{wayOut, 6}, {wayTLS, 20}} {
		if other, ours := measured.Ways[goal.way][phpName], measured.Ways[goal.way][pluginName]; other != nil && ours != nil {
			all = append(all, target{
				what: wayWords[goal.way] + ", PHP-FPM's CPU time to ours", want: fmt.Sprintf("≥ %g ×", goal.factor), limit: goal.factor,
				measured: spreadOf(ratios(other.CPU, ours.CPU)),
			})
		}
	}
	for _, f := range measured.Stale {
		if f.Product == pluginName {
			all = append(all, target{
				what: wayWords[f.Way] + ", calls wrongly `unknown` where the platform closes kept connections", want: "≤ 1 %", limit: 0.01, atMost: true,
				share: true, measured: spreadOf(ratios(f.Unknown, f.Calls)),
			})
		}
	}
	for _, way := range ways {
		if p := beside(way, false); p != nil && len(p.FloorP99) > 0 {
			all = append(all, target{
				what: wayWords[way] + ", p99 at " + number(measured.Plan.Rates[way]) + "/s to plain Caddy's", want: "≤ +5 %", limit: 1.05, atMost: true,
				percent: true, measured: spreadOf(ratios(p.OtherP99, p.FloorP99)),
			})
		}
	}
	return all
}

// kibibytes writes a size.
func kibibytes(size int) string {
	if size >= 1<<20 {
		return number(mebibytes(int64(size))) + " MiB"
	}
	return number(float64(size)/1024) + " KiB"
}

func (r *report) targets() {
	all := judge(r.results)
	if len(all) == 0 {
		return
	}
	r.line("\n## Targets\n")
	r.line("What the project wants of itself. What is compared with plain Caddy is measured side by side: on each connection the requests went")
	r.line("to plain Caddy and to the plugin by turns, so that both had the same machine at the same time. PHP-FPM had its own turns.")
	var rows [][]string
	for _, t := range all {
		met := "yes"
		if !t.met() {
			met = "**no**"
		}
		rows = append(rows, []string{t.what, t.want, t.text(), met})
	}
	r.table([]string{"", "target", "measured", "met"}, rows)
	for _, way := range ways {
		lua, ours := r.figuresOf(way, luaName), r.figuresOf(way, pluginName)
		if lua != nil && ours != nil {
			r.line("- **nginx + Lua costs less**, %s: %.0f %% of the plugin's CPU time.", wayWords[way], 100*spreadOf(ratios(lua.CPU, ours.CPU)).Median)
		}
	}
}

func (r *report) pairs() {
	if len(r.results.Pairs) == 0 {
		return
	}
	r.line("\n## Side by side")
	r.line("\nPlain Caddy with `request_buffers` and the plugin, request by request on the same connections. The proxy and its long form sign the")
	r.line("same calls and tell the same of them; the long form sends through `reverse_proxy`. net/http's client sends where the proxy's own cannot serve.")
	var rows [][]string
	for _, p := range r.results.Pairs {
		what := wayWords[p.Way]
		switch {
		case p.Large:
			what += ", " + kibibytes(r.results.Plan.LargeBody)
		case p.Other != pluginName:
			what += ", " + productOf(p.Other).title
		}
		if p.Floor != bufferedName {
			what += ", beside " + productOf(p.Floor).title
		}
		for _, row := range []struct {
			what         string
			floor, other []float64
		}{{"CPU µs a call", p.FloorCPU, p.OtherCPU}, {"p50 µs", p.FloorP50, p.OtherP50}, {"p99 µs", p.FloorP99, p.OtherP99}} {
			if len(row.floor) == 0 {
				continue
			}
			ratio := spreadOf(ratios(row.other, row.floor))
			rows = append(rows, []string{
				what + ", " + row.what, spreadText(spreadOf(row.floor)), spreadText(spreadOf(row.other)),
				fmt.Sprintf("%.3f × (%.3f–%.3f)", ratio.Median, ratio.Min, ratio.Max),
			})
		}
	}
	r.table([]string{"", "plain Caddy", "with the plugin", "ratio"}, rows)
}

func (r *report) stale() {
	if len(r.results.Stale) == 0 {
		return
	}
	r.line("\n## Connections closed without a word")
	r.line("\nAfter every second answer the platform closes the connection within a millisecond, and calls come at random moments, %s/s to each at the", number(r.results.Plan.StaleRate))
	r.line("same time. Real platforms close seldom; here nearly every call meets it. The platform has answered all that it read, so each `unknown` is a call")
	r.line("that was not executed, and that the app has to query for nothing.")
	r.line("\nA call that is there when the platform is about to close is still answered, as by nginx, whose loop reads what has come before it heeds its timers;")
	r.line("there were %s of these. What is left crossed the end of its connection on the way, or was sent after it.", number(float64(r.results.Spared)))
	var rows [][]string
	sum := func(values []float64) (all float64) {
		for _, v := range values {
			all += v
		}
		return all
	}
	for _, f := range r.results.Stale {
		calls, unknown := sum(f.Calls), sum(f.Unknown)
		rows = append(rows, []string{wayWords[f.Way] + ", " + productOf(f.Product).title, number(calls), number(unknown), fmt.Sprintf("%.2f %%", 100*unknown/calls), number(sum(f.NotSent))})
	}
	r.table([]string{"", "calls", "wrongly `unknown`", "share", "`not_sent`"}, rows)
}

// productOf finds a product by name.
func productOf(name string) product {
	i := slices.IndexFunc(products, func(p product) bool { return p.name == name })
	if i < 0 {
		return product{name: name, title: name}
	}
	return products[i]
}

func (r *report) curves() {
	if len(r.results.Curves) == 0 {
		return
	}
	r.line("\n## Growth\n")
	r.line("CPU µs a call, medians. Both axes of the plots are logarithmic: what is linear rises by a decade in a decade, what does not depend on x is flat.")
	for _, c := range r.results.Curves {
		if len(c.Lines) > 0 { // else the run ended there
			r.curve(c)
		}
	}
}

func (r *report) curve(c *curve) {
	r.line("\n### %s", c.Title)
	head := []string{c.Unit}
	var lines []series
	x := make([]float64, len(c.X))
	for i := range c.X {
		x[i] = float64(c.X[i])
	}
	for i, l := range c.Lines {
		p := productOf(l.Product)
		head = append(head, title(p))
		s := series{label: shortTitle(p), color: i}
		if p.name == pluginName {
			s.color = 0
		} else if i == 0 {
			s.color = 5
		}
		for _, rounds := range l.CPU {
			s.y = append(s.y, spreadOf(rounds))
		}
		lines = append(lines, s)
	}
	idle := len(c.Lines) > 0 && c.Lines[0].Idle != nil
	if idle {
		head = append(head, "calls/s", "RSS MiB before the first call")
	}
	var rows [][]string
	for i := range c.X {
		row := []string{grouped(c.X[i])}
		for _, l := range lines {
			row = append(row, spreadText(l.y[i]))
		}
		if idle {
			row = append(row, number(spreadOf(c.Lines[0].PerSecond[i]).Median), number(c.Lines[0].Idle[i]/(1<<20)))
		}
		rows = append(rows, row)
	}
	r.table(head, rows)
	for _, l := range lines {
		if len(x) < 3 || l.label != shortTitle(productOf(pluginName)) {
			continue
		}
		r.line("%s", growthText(c, x, l.y))
	}
	r.plot("growth-"+c.Name+".svg", "CPU time of a call by "+c.Unit, linePlot(c.Title, c.Unit, "CPU µs a call", x, lines))
}

// growthText says how the plugin's cost grows: what it is at zero, what each unit adds, and how far the points are from
// that straight line.
func growthText(c *curve, x []float64, y []spread) string {
	medians := make([]float64, len(y))
	for i := range y {
		medians[i] = y[i].Median
	}
	if c.Unit == "merchants" || c.Unit == "connections" {
		all := spreadOf(medians)
		return fmt.Sprintf("The plugin: from %s to %s µs; the last is %.2f times the first.", number(all.Min), number(all.Max), medians[len(medians)-1]/medians[0])
	}
	start, slope := line(x, medians)
	worst := 0.0
	for i := range x {
		off := medians[i]/(start+slope*x[i]) - 1
		worst = max(worst, off, -off)
	}
	unit, factor := "field", 1.0
	if c.Unit == "bytes" {
		unit, factor = "KiB", 1024
	}
	return fmt.Sprintf("The plugin: %s µs and %.2f µs for each %s; no point is further than %.0f %% from this straight line.", number(start), slope*factor, unit, 100*worst)
}

func shortTitle(p product) string {
	switch p.name {
	case bufferedName:
		return "Caddy, request_buffers"
	case pluginName:
		return "this plugin"
	}
	return plainTitle(p)
}

// grouped writes 1048576 as 1,048,576.
func grouped(n int) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

func (r *report) memories() {
	if len(r.results.Memories) == 0 {
		return
	}
	count := r.results.Memories[0].AnsweredTogether
	r.line("\n## Memory\n")
	r.line("MiB of fresh processes: idle, and while %s calls are under way at the same time (the far end takes a second for each).", grouped(count))
	r.line("RSS counts what processes share once for each of them; PSS divides it among all that share it, here also the other peers of the same program.")
	var rows [][]string
	for _, m := range r.results.Memories {
		both := func(m memory) string {
			return fmt.Sprintf("%s (%s)", number(mebibytes(m.RSS)), number(mebibytes(m.PSS)))
		}
		name := productOf(m.Product).title
		if m.AnsweredTogether != count {
			name += fmt.Sprintf(", with %d calls only, for it needs a process for each", m.AnsweredTogether)
		}
		rows = append(rows, []string{name, both(m.Idle), both(m.Out), both(m.In)})
	}
	r.table([]string{"RSS (PSS)", "idle", "outbound", "inbound"}, rows)
}

func (r *report) method() {
	plan := r.results.Plan
	r.line("\n## How\n")
	r.line("- **By turns.** All peers run all the time, idle but for one. In each of %d rounds each of them gets %s at saturation (%d connections), later %s at the fixed rate; "+
		"every second round takes them in reverse. Before each turn there are %s that do not count. Curves take %d rounds of %s a point, side by side %d rounds.",
		plan.Rounds, plan.Turn, plan.Connections, plan.RateTurn, plan.Warm, plan.GrowRounds, plan.GrowTurn, plan.PairRounds)
	r.line("- **CPU time** is the kernel's account of each process (what `/proc/<pid>/stat` shows in ticks, here in nanoseconds), summed over master and workers.")
	r.line("- **The load** comes from one thread with epoll and keep-alive connections. At the fixed rate, requests are due at random moments that do not depend on the answers, and latency " +
		"counts from the moment at which a request was due, so that a slow answer also slows the ones that had to wait for it.")
	r.line("- **The far end** is a process of its own, which answers at once. It looks at one request in %d: signatures must be right, JSON must be the event. "+
		"Before a peer is measured it has to refuse a forged notify. A wrong answer of any kind ends the run.", checkEvery)
	r.line("- **The peers** are tuned alike: keep-alive on both sides, no access logs, a worker for each core, bodies in memory, opcache on. Their configurations and programs are in " +
		"[peers/](peers/). nginx + Lua uses libcrypto by FFI, since Debian has no lua-resty-string. The plain Caddy is the same binary.")
	r.line("- The plugin does more than the others on the way out (who may call, bounded bodies and answers, outcomes, metrics) and in (ambiguous notifies, normalized JSON, " +
		"the app's verdict). The scripts of the others sign and verify.")
}

// compact writes a number in few characters: 1.2k, 3M.
func compact(v float64) string {
	suffix := ""
	switch {
	case v >= 1e6:
		v, suffix = v/1e6, "M"
	case v >= 1e4:
		v, suffix = v/1e3, "k"
	}
	return number(v) + suffix
}

// number writes three significant digits, and never fewer than the digits before the point.
func number(v float64) string {
	switch {
	case math.IsNaN(v):
		return "–"
	case math.Abs(v) >= 100 || math.Abs(v-math.Round(v)) < 1e-9:
		return fmt.Sprintf("%.0f", v)
	case math.Abs(v) >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}
