//go:build linux

package main

import (
	"bytes"
	"fmt"
	"html"
	"image/color"
	"math"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// plotColors are the colors of bars and lines, on light pages and on dark ones.
var plotColors = []struct {
	light color.RGBA
	dark  string
}{
	{color.RGBA{0x05, 0x50, 0xae, 255}, "#79c0ff"}, {color.RGBA{0xbc, 0x4c, 0x00, 255}, "#ffa657"}, {color.RGBA{0x1a, 0x7f, 0x37, 255}, "#56d364"},
	{color.RGBA{0x82, 0x50, 0xdf, 255}, "#d2a8ff"}, {color.RGBA{0xcf, 0x22, 0x2e, 255}, "#ff7b72"}, {color.RGBA{0x57, 0x60, 0x6a, 255}, "#9198a1"},
}

// plotStyle exchanges the colors on dark pages; the plots have no background. The library places text by Liberation Sans,
// which is as wide as Arial, and draws it and the axes black.
func plotStyle() string {
	var s strings.Builder
	s.WriteString(`<style>text{font-family:"Liberation Sans",Arial,sans-serif!important}
@media (prefers-color-scheme:dark){text{fill:#e6edf3}[style*="stroke:#000000"]{stroke:#e6edf3!important}
`)
	for _, c := range plotColors {
		light := fmt.Sprintf("#%02X%02X%02X", c.light.R, c.light.G, c.light.B)
		fmt.Fprintf(&s, `[style*="fill:%s"]{fill:%s!important}[style*="stroke:%[1]s"]{stroke:%[2]s!important}`+"\n", light, c.dark)
	}
	return s.String() + "}</style>\n"
}

func init() { plot.DefaultFont.Variant = "Sans" }

// newPlot returns an empty plot.
func newPlot(title, x, y string) *plot.Plot {
	p := plot.New()
	p.BackgroundColor = nil
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, y
	p.Title.TextStyle.Font.Size = 13
	p.Title.Padding, p.X.Label.Padding, p.Y.Label.Padding = 10, 6, 6
	return p
}

// drawPlot returns the plot as SVG, with the legend, if there is one, at its right.
func drawPlot(p *plot.Plot, legend *plot.Legend, width, height vg.Length) string {
	canvas := vgsvg.New(width, height)
	page := draw.Crop(draw.New(canvas), 24, -12, 2, -8) // other fonts may be wider
	if legend != nil {
		legend.Draw(draw.Crop(page, width-200, 0, 0, -24))
		page = draw.Crop(page, 0, -170, 0, 0)
	}
	p.Draw(page)
	var svg bytes.Buffer
	_, _ = canvas.WriteTo(&svg) // into memory
	titled := strings.Replace(svg.String(), "<svg ", `<svg role="img" aria-label="`+html.EscapeString(p.Title.Text)+`" `, 1)
	return strings.Replace(titled, "<g ", plotStyle()+"<g ", 1)
}

// bar is a value with its range.
type bar struct {
	label string
	value spread
	color int
}

// barPlot draws horizontal bars from zero, with the range of the rounds.
func barPlot(title, unit string, bars []bar) string {
	p := newPlot(title, unit, "")
	p.X.Min = 0
	grid := plotter.NewGrid()
	grid.Horizontal.Color = nil
	p.Add(grid)
	var names []string
	ranges := &plotter.XErrorBars{LineStyle: plotter.DefaultLineStyle, CapWidth: 6}
	values := &plotter.Labels{Offset: vg.Point{X: 6}}
	for _, b := range slices.Backward(bars) {
		at := float64(len(names))
		names = append(names, b.label)
		p.Add(&plotter.BarChart{Values: plotter.Values{b.value.Median}, XMin: at, Horizontal: true, Width: 16, Color: plotColors[b.color].light})
		ranges.XYs = append(ranges.XYs, plotter.XY{X: b.value.Median, Y: at})
		ranges.XErrors = append(ranges.XErrors, struct{ Low, High float64 }{b.value.Median - b.value.Min, b.value.Max - b.value.Median})
		values.XYs = append(values.XYs, plotter.XY{X: b.value.Max, Y: at})
		values.Labels = append(values.Labels, compact(b.value.Median))
		style := p.X.Tick.Label
		style.XAlign, style.YAlign = text.XLeft, text.YCenter
		values.TextStyle = append(values.TextStyle, style)
	}
	p.Add(ranges, values)
	p.NominalY(names...)
	p.Y.Padding = 8
	return drawPlot(p, nil, 600, vg.Length(80+26*len(bars)))
}

// series is a line of a plot.
type series struct {
	label string
	y     []spread
	color int
}

// decades has the ticks of a logarithmic axis: 1, 2, 5, 10, 20, … from the last that is not above low to the first that is
// not below high.
type decades struct{}

// Ticks implements [plot.Ticker].
func (decades) Ticks(low, high float64) (ticks []plot.Tick) {
	for exponent := int(math.Floor(math.Log10(low))); ; exponent++ {
		for _, factor := range []float64{1, 2, 5} {
			v := factor * math.Pow10(exponent)
			if v <= low {
				ticks = nil
			}
			ticks = append(ticks, plot.Tick{Value: v, Label: compact(v)})
			if v >= high {
				return ticks
			}
		}
	}
}

// linePlot draws lines over a logarithmic x and a logarithmic y: what is linear in x rises by one decade a decade, what does
// not depend on x stays flat.
func linePlot(title, xUnit, yUnit string, x []float64, lines []series) string {
	p := newPlot(title, xUnit, yUnit)
	p.Add(plotter.NewGrid())
	legend := plot.NewLegend()
	legend.Top, legend.Left, legend.Padding, legend.TextStyle.Font.Size = true, true, 3, 10
	for _, l := range lines {
		style := draw.LineStyle{Color: plotColors[l.color%len(plotColors)].light, Width: 1.5}
		points := &plotter.Scatter{GlyphStyle: draw.GlyphStyle{Color: style.Color, Radius: 2.5, Shape: draw.CircleGlyph{}}}
		ranges := &plotter.YErrorBars{LineStyle: style}
		for i, y := range l.y {
			if y.Min > 0 { // nothing else has a logarithm
				points.XYs = append(points.XYs, plotter.XY{X: x[i], Y: y.Median})
				ranges.YErrors = append(ranges.YErrors, struct{ Low, High float64 }{y.Median - y.Min, y.Max - y.Median})
			}
		}
		ranges.XYs = points.XYs
		if len(points.XYs) > 0 {
			line := &plotter.Line{XYs: points.XYs, LineStyle: style}
			p.Add(line, points, ranges)
			legend.Add(l.label, line, points)
		}
	}
	var ticks plot.ConstantTicks
	for _, v := range x {
		ticks = append(ticks, plot.Tick{Value: v, Label: compact(v)})
	}
	p.X.Tick.Marker, p.X.Min, p.X.Max = ticks, x[0], max(x[len(x)-1], 2*x[0])
	if p.Y.Min > p.Y.Max { // no line
		p.Y.Min, p.Y.Max = 1, 10
	}
	p.Y.Max = max(p.Y.Max, 1.01*p.Y.Min)
	p.Y.Tick.Marker, p.Y.AutoRescale = decades{}, true
	p.X.Scale, p.Y.Scale = plot.LogScale{}, plot.LogScale{}
	return drawPlot(p, &legend, 600, 315)
}
