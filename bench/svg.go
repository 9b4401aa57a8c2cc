//go:build linux

package main

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// The plots are SVG without a background: text and lines have a color for light pages, and one for dark ones.
const plotStyle = `<style>
text{font:13px system-ui,sans-serif;fill:#24292f}.title{font-size:15px;font-weight:600}.small{font-size:12px}
.grid{stroke:#8c959f;stroke-opacity:.35}.axis{stroke:#57606a}.line{fill:none;stroke-width:2}
.c0{--c:#0550ae}.c1{--c:#bc4c00}.c2{--c:#1a7f37}.c3{--c:#8250df}.c4{--c:#cf222e}.c5{--c:#57606a}
.line{stroke:var(--c)}.mark{fill:var(--c)}.range{stroke:#24292f;stroke-width:1.5}
@media (prefers-color-scheme:dark){text{fill:#e6edf3}.axis{stroke:#9198a1}.range{stroke:#e6edf3}
.c0{--c:#79c0ff}.c1{--c:#ffa657}.c2{--c:#56d364}.c3{--c:#d2a8ff}.c4{--c:#ff7b72}.c5{--c:#9198a1}}
</style>
`

const plotColors = 6

// bar is a value with its range.
type bar struct {
	label string
	value spread
	color int
}

// barPlot draws horizontal bars from zero, with the range of the rounds.
func barPlot(title, unit string, bars []bar) string {
	const width, left, right, top, step = 760, 210, 80, 44, 34
	height := top + step*len(bars) + 44
	largest := 0.0
	for _, b := range bars {
		largest = max(largest, b.value.Max)
	}
	ticks := linearTicks(largest)
	scale := (width - left - right) / ticks[len(ticks)-1]
	var s strings.Builder
	startPlot(&s, width, height, title)
	for _, tick := range ticks {
		x := left + tick*scale
		fmt.Fprintf(&s, `<line class="grid" x1="%.1f" y1="%d" x2="%.1f" y2="%d"/>`+"\n", x, top-8, x, height-40)
		fmt.Fprintf(&s, `<text class="small" x="%.1f" y="%d" text-anchor="middle">%s</text>`+"\n", x, height-24, compact(tick))
	}
	for i, b := range bars {
		y := float64(top + i*step)
		fmt.Fprintf(&s, `<text x="%d" y="%.1f" text-anchor="end">%s</text>`+"\n", left-10, y+15, html.EscapeString(b.label))
		fmt.Fprintf(&s, `<rect class="mark c%d" x="%d" y="%.1f" width="%.1f" height="20" rx="2"/>`+"\n", b.color%plotColors, left, y, b.value.Median*scale)
		fmt.Fprintf(&s, `<line class="range" x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f"/>`+"\n", left+b.value.Min*scale, y+10, left+b.value.Max*scale, y+10)
		fmt.Fprintf(&s, `<text x="%.1f" y="%.1f">%s</text>`+"\n", left+b.value.Max*scale+8, y+15, compact(b.value.Median))
	}
	fmt.Fprintf(&s, `<line class="axis" x1="%d" y1="%d" x2="%d" y2="%d"/>`+"\n", left, top-8, left, height-40)
	fmt.Fprintf(&s, `<text class="small" x="%d" y="%d" text-anchor="middle">%s</text>`+"\n</svg>\n", left+(width-left-right)/2, height-6, html.EscapeString(unit))
	return s.String()
}

// series is a line of a plot.
type series struct {
	label string
	y     []spread
	color int
}

// linePlot draws lines over a logarithmic x and a logarithmic y: what is linear in x rises by one decade a decade, what is
// flat stays flat.
func linePlot(title, xUnit, yUnit string, x []float64, lines []series) string {
	const width, height, left, right, top, bottom = 800, 420, 70, 210, 64, 56
	low, high := math.Inf(1), 0.0
	for _, l := range lines {
		for _, y := range l.y {
			if y.Min > 0 {
				low, high = min(low, y.Min), max(high, y.Max)
			}
		}
	}
	low, high = math.Log10(roundDown(low)), math.Log10(roundUp(high))
	if high <= low || math.IsInf(low, 0) {
		low, high = 0, 1
	}
	first, last := math.Log10(x[0]), math.Log10(x[len(x)-1])
	if last <= first {
		last = first + 1
	}
	px := func(v float64) float64 { return left + (math.Log10(v)-first)/(last-first)*(width-left-right) }
	py := func(v float64) float64 {
		return top + (high-math.Log10(v))/(high-low)*(height-top-bottom)
	}
	var s strings.Builder
	startPlot(&s, width, height, title)
	for v := math.Pow(10, low); math.Log10(v) <= high+1e-9; v = roundUp(v * 1.01) {
		fmt.Fprintf(&s, `<line class="grid" x1="%d" y1="%.1f" x2="%d" y2="%.1f"/>`+"\n", left, py(v), width-right, py(v))
		fmt.Fprintf(&s, `<text class="small" x="%d" y="%.1f" text-anchor="end">%s</text>`+"\n", left-8, py(v)+4, compact(v))
	}
	for _, v := range x {
		fmt.Fprintf(&s, `<line class="grid" x1="%.1f" y1="%d" x2="%.1f" y2="%d"/>`+"\n", px(v), top, px(v), height-bottom)
		fmt.Fprintf(&s, `<text class="small" x="%.1f" y="%d" text-anchor="middle">%s</text>`+"\n", px(v), height-bottom+18, compact(v))
	}
	fmt.Fprintf(&s, `<line class="axis" x1="%d" y1="%d" x2="%d" y2="%d"/>`+"\n", left, height-bottom, width-right, height-bottom)
	fmt.Fprintf(&s, `<line class="axis" x1="%d" y1="%d" x2="%d" y2="%d"/>`+"\n", left, top, left, height-bottom)
	for i, l := range lines {
		var points []string
		var marks strings.Builder
		for j, v := range x {
			if j >= len(l.y) || !(l.y[j].Median > 0) {
				continue
			}
			y := l.y[j]
			points = append(points, fmt.Sprintf("%.1f,%.1f", px(v), py(y.Median)))
			fmt.Fprintf(&marks, `<circle class="mark" cx="%.1f" cy="%.1f" r="3.5"/><line class="line" x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f"/>`+"\n",
				px(v), py(y.Median), px(v), py(y.Min), px(v), py(y.Max))
		}
		fmt.Fprintf(&s, `<g class="c%d"><polyline class="line" points="%s"/>`+"\n", l.color%plotColors, strings.Join(points, " "))
		s.WriteString(marks.String())
		y := top + 8 + 22*i
		fmt.Fprintf(&s, `<line class="line" x1="%d" y1="%d" x2="%d" y2="%d"/></g>`+"\n", width-right+14, y, width-right+36, y)
		fmt.Fprintf(&s, `<text x="%d" y="%d">%s</text>`+"\n", width-right+42, y+4, html.EscapeString(l.label))
	}
	fmt.Fprintf(&s, `<text class="small" x="%d" y="%d" text-anchor="middle">%s</text>`+"\n", left+(width-left-right)/2, height-14, html.EscapeString(xUnit))
	fmt.Fprintf(&s, `<text class="small" x="%d" y="%d">%s</text>`+"\n</svg>\n", 12, top-16, html.EscapeString(yUnit))
	return s.String()
}

func startPlot(s *strings.Builder, width, height int, title string) {
	escaped := html.EscapeString(title)
	fmt.Fprintf(s, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-label="%s">`+"\n",
		width, height, width, height, escaped)
	s.WriteString(plotStyle)
	fmt.Fprintf(s, `<text class="title" x="12" y="22">%s</text>`+"\n", escaped)
}

// roundUp is the next of 1, 2, 5, 10, 20, … that is not below v; roundDown the last that is not above it.
func roundUp(v float64) float64 {
	decade := math.Pow(10, math.Floor(math.Log10(v)))
	for _, factor := range []float64{1, 2, 5} {
		if v <= decade*factor*(1+1e-9) {
			return decade * factor
		}
	}
	return decade * 10
}

func roundDown(v float64) float64 {
	decade := math.Pow(10, math.Floor(math.Log10(v)))
	for _, factor := range []float64{5, 2} {
		if v >= decade*factor*(1-1e-9) {
			return decade * factor
		}
	}
	return decade
}

// linearTicks are round values from 0 to at least largest, at most seven.
func linearTicks(largest float64) []float64 {
	if largest <= 0 {
		return []float64{0, 1}
	}
	step := math.Pow(10, math.Floor(math.Log10(largest/5)))
	for _, factor := range []float64{1, 2, 5, 10} {
		if largest/(step*factor) <= 6 {
			step *= factor
			break
		}
	}
	ticks := []float64{0}
	for ticks[len(ticks)-1] < largest {
		ticks = append(ticks, float64(len(ticks))*step)
	}
	return ticks
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
