//go:build linux

package main

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// benchmarkLine is a line of go test -bench: what was measured, and the values by their units.
type benchmarkLine struct {
	Group string // BenchmarkDepth of BenchmarkDepth/1000-2
	Case  string // 1000
	Title string // the last line before that began with #, if any
	Units []string
	Value []float64
}

var benchmarkName = regexp.MustCompile(`^(Benchmark[^/\s]+?)(?:/(\S+?))?(?:-\d+)?$`)

// parseBenchmarks finds the benchmarks in the output of go test. A line "# Inbox depth" in it heads those that follow.
func parseBenchmarks(output string) []benchmarkLine {
	var all []benchmarkLine
	title := ""
	for line := range strings.Lines(output) {
		if heading, ok := strings.CutPrefix(line, "#"); ok {
			title = strings.TrimSpace(heading)
		}
		words := strings.Fields(line)
		if len(words) < 4 {
			continue
		}
		match := benchmarkName.FindStringSubmatch(words[0])
		if _, err := strconv.Atoi(words[1]); match == nil || err != nil {
			continue
		}
		b := benchmarkLine{Group: match[1], Case: match[2], Title: title}
		for i := 2; i+1 < len(words); i += 2 {
			value, err := strconv.ParseFloat(words[i], 64)
			if err != nil {
				break
			}
			b.Value, b.Units = append(b.Value, value), append(b.Units, words[i+1])
		}
		all = append(all, b)
	}
	return all
}

// benchmarks writes a table for each benchmark.
func (r *report) benchmarks() {
	if len(r.results.Benchmarks) == 0 {
		return
	}
	r.line("\n## Go benchmarks\n")
	r.line("Of `go test -bench`, on the same machine.")
	var groups []string
	cases := make(map[string][]benchmarkLine)
	for _, b := range r.results.Benchmarks {
		group := b.Title
		if group == "" {
			group = strings.TrimPrefix(b.Group, "Benchmark")
		}
		if cases[group] == nil {
			groups = append(groups, group)
		}
		cases[group] = append(cases[group], b)
	}
	for _, group := range groups {
		var units []string // of all cases, in the order in which they come first
		for _, b := range cases[group] {
			for _, unit := range b.Units {
				if !slices.Contains(units, unit) {
					units = append(units, unit)
				}
			}
		}
		r.line("\n### %s", group)
		var rows [][]string
		for _, b := range cases[group] {
			row := []string{b.Case}
			for _, unit := range units {
				cell := ""
				for i, u := range b.Units {
					if u == unit {
						cell = number(b.Value[i])
					}
				}
				row = append(row, cell)
			}
			rows = append(rows, row)
		}
		r.table(append([]string{""}, units...), rows)
	}
}
