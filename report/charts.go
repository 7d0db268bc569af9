package report

import (
	"bytes"
	"fmt"
	"html/template"
	"image/color"
	"math"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"github.com/sageacc/sageacc/metrics"
)

// The colours that charts are drawn in stand for those of the page's style, which
// depend on light and dark: svg puts these in their place.
var (
	first  = color.RGBA{0x01, 0x02, 0xf1, 0xff}
	second = color.RGBA{0x01, 0x02, 0xf2, 0xff}
	gridC  = color.RGBA{0x01, 0x02, 0xf3, 0xff}
	styles = strings.NewReplacer(
		"#0102F1", "var(--c1)", "#0102F2", "var(--c2)", "#0102F3", "var(--grid)", "#000000", "currentColor",
	)
)

const (
	width  = 420
	height = 240
)

// newPlot is an empty chart without background.
func newPlot(title, x, y string) *plot.Plot {
	p := plot.New()
	p.BackgroundColor = color.Transparent
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, y
	p.Title.TextStyle.Font.Size = 13
	p.Title.Padding = 6
	for _, a := range []*plot.Axis{&p.X, &p.Y} {
		a.Label.TextStyle.Font.Size = 11
		a.Tick.Label.Font.Size = 10
		a.Padding = 4
		a.Label.TextStyle.Font.Variant, a.Tick.Label.Font.Variant = "Sans", "Sans"
	}
	p.Title.TextStyle.Font.Variant, p.Legend.TextStyle.Font.Variant = "Sans", "Sans"
	p.Legend.TextStyle.Font.Size = 11
	p.Legend.XOffs, p.Legend.Padding = -4, 3
	return p
}

// svg draws a chart as an SVG element that takes the width it is given.
func svg(p *plot.Plot, w, h float64, label string) (template.HTML, error) {
	c := vgsvg.New(vg.Length(w), vg.Length(h))
	p.Draw(draw.Crop(draw.New(c), 2, -10, 2, -2))
	var b bytes.Buffer
	if _, err := c.WriteTo(&b); err != nil {
		return "", err
	}
	text := b.String()
	at := strings.Index(text, "<svg")
	end := strings.Index(text, ">\n<g")
	if at < 0 || end < at {
		return "", fmt.Errorf("chart %q: the drawing has another form than expected", label)
	}
	open := fmt.Sprintf(`<svg viewBox="0 0 %g %g" xmlns="http://www.w3.org/2000/svg" role="img" aria-label="%s"`, w, h, template.HTMLEscapeString(label))
	return template.HTML(open + styles.Replace(text[end:])), nil
}

// line is a series of a line chart; NaN leaves a gap.
type line struct {
	name string
	y    []float64
}

// lines draws series over 0, 1, 2, ... with a logarithmic axis, unless a value is
// zero or less.
func lines(title, x string, series []line) (template.HTML, error) {
	p := newPlot(title, x, "")
	logarithmic, any := true, false
	for _, s := range series {
		for _, y := range s.y {
			if y-y == 0 {
				any = true
				logarithmic = logarithmic && y > 1e-300
			}
		}
	}
	p.Add(grid())
	for i, s := range series {
		var pts plotter.XYs
		for j, y := range s.y {
			if y-y == 0 {
				pts = append(pts, plotter.XY{X: float64(j), Y: y})
			}
		}
		if pts == nil {
			continue
		}
		l, dots, err := plotter.NewLinePoints(pts)
		if err != nil {
			return "", err
		}
		l.Color, dots.Color = first, first
		dots.Shape = draw.CircleGlyph{}
		if i > 0 {
			l.Color, dots.Color = second, second
			l.Dashes = []vg.Length{4, 3}
			dots.Shape = draw.BoxGlyph{}
		}
		dots.Radius = 2.5
		// A line through gaps would invent values.
		if len(pts) == len(s.y) {
			p.Add(l, dots)
			p.Legend.Add(s.name, l, dots)
		} else {
			p.Add(dots)
			p.Legend.Add(s.name, dots)
		}
	}
	if len(series) < 2 {
		p.Legend = plot.NewLegend()
	}
	p.Legend.Top = true
	p.X.Tick.Marker = whole{}
	if any && logarithmic {
		p.Y.Scale = plot.LogScale{}
		p.Y.Tick.Marker = decades{}
		widen(&p.Y)
	}
	return svg(p, width, height, title)
}

// widen makes room around a logarithmic axis's values, at least a factor of two.
func widen(a *plot.Axis) {
	a.Min, a.Max = a.Min/1.5, a.Max*1.5
}

func grid() *plotter.Grid {
	g := plotter.NewGrid()
	g.Horizontal.Color, g.Vertical.Color = gridC, color.Transparent
	g.Vertical.Width = 0
	return g
}

// whole marks an axis at a few whole numbers.
type whole struct{}

// Ticks returns them.
func (whole) Ticks(lo, hi float64) []plot.Tick {
	step := 1.0
	for i := 0; (hi-lo)/step > 8 && i < 60; i++ {
		step *= []float64{2, 2.5, 2}[i%3]
	}
	var ticks []plot.Tick
	for x := math.Ceil(lo/step) * step; x <= hi && len(ticks) < 20; x += step {
		ticks = append(ticks, plot.Tick{Value: x, Label: strconv.FormatFloat(x+0, 'f', 0, 64)})
	}
	return ticks
}

// decades marks a logarithmic axis at 1, 2 and 5 times powers of ten, the labels
// thinned out over many decades.
type decades struct{}

// Ticks returns them.
func (decades) Ticks(lo, hi float64) []plot.Tick {
	span := math.Log10(hi / lo)
	every := max(1, int(span/6))
	steps := []float64{1, 2, 5}
	if span < 0.8 {
		steps = []float64{1, 2, 3, 4, 5, 6, 7, 8, 9}
	}
	var ticks []plot.Tick
	for e := int(math.Floor(math.Log10(lo))); e <= int(math.Ceil(math.Log10(hi))); e++ {
		for _, m := range steps {
			x := m * math.Pow(10, float64(e))
			if x < lo || x > hi || m > 1 && span > 3 {
				continue
			}
			t := plot.Tick{Value: x}
			if m == 1 && e%every == 0 || span <= 2 {
				t.Label = fmt.Sprintf("%.1g", x)
			}
			ticks = append(ticks, t)
		}
	}
	return ticks
}

// shades is a palette of one hue: transparent to the series' colour, so that it
// reads on light and dark.
type shades []color.Color

// Colors returns the palette.
func (s shades) Colors() []color.Color { return s }

func newShades() shades {
	var s shades
	const n = 32
	for i := range n {
		s = append(s, color.NRGBA{0x3b, 0x8e, 0xed, uint8(12 + 243*i/(n-1))})
	}
	return s
}

// cells is a matrix as plotter.GridXYZ.
type cells [][]float64

// Dims returns columns and rows.
func (c cells) Dims() (int, int) { return c.columns(), len(c) }

func (c cells) columns() int {
	n := 0
	for _, row := range c {
		n = max(n, len(row))
	}
	return n
}

// Z returns the value of a cell, NaN where a row is shorter or it is not finite.
func (c cells) Z(x, y int) float64 {
	if x >= len(c[y]) || c[y][x]-c[y][x] != 0 {
		return math.NaN()
	}
	return c[y][x]
}

// X and Y are the centres of cells.
func (c cells) X(i int) float64 { return float64(i) }

// Y is X for rows.
func (c cells) Y(i int) float64 { return float64(i) }

// heat draws a matrix; a stronger colour is more. The first row is at
// the bottom.
func heat(title, x, y string, grid [][]float64) (template.HTML, error) {
	p := newPlot(title, x, y)
	lo, hi := math.Inf(1), math.Inf(-1)
	for _, row := range grid {
		for _, z := range row {
			if z-z == 0 {
				lo, hi = min(lo, z), max(hi, z)
			}
		}
	}
	if lo > hi {
		lo, hi = 0, 1
	}
	if lo == hi {
		hi = lo + max(math.Abs(lo), 1)
	}
	h := plotter.NewHeatMap(cells(grid), newShades())
	h.Min, h.Max = lo, hi
	h.NaN = color.Transparent
	p.Add(h)
	p.X.Min, p.X.Max = -0.5, float64(cells(grid).columns())-0.5
	p.Y.Min, p.Y.Max = -0.5, float64(len(grid))-0.5
	p.X.Tick.Marker, p.Y.Tick.Marker = whole{}, whole{}
	return svg(p, 2*width, float64(min(120+14*len(grid), 420)), title)
}

// histogram draws a histogram of errors.
func histogram(h metrics.HistogramValues) (template.HTML, error) {
	var y plotter.Values
	for _, n := range h.Counts {
		y = append(y, float64(n))
	}
	p := newPlot("errors by size", "absolute error", "elements")
	bar, err := plotter.NewBarChart(y, vg.Length(max(1, 300/float64(len(y)))))
	if err != nil {
		return "", err
	}
	bar.Color, bar.LineStyle.Width = first, 0
	p.Add(grid(), bar)
	p.Y.Tick.Marker = whole{}
	p.X.Tick.Marker = plot.TickerFunc(func(lo, hi float64) []plot.Tick {
		var ticks []plot.Tick
		every := max(1, (len(h.Counts)+7)/8)
		for i := 0; i < len(h.Counts); i += every {
			ticks = append(ticks, plot.Tick{Value: float64(i), Label: fmt.Sprintf("2^%d", h.MinExponent+i)})
		}
		return ticks
	})
	return svg(p, width, height, "histogram of absolute errors")
}

// columns draws one bar for each index.
func columns(title, x string, y []float64) (template.HTML, error) {
	p := newPlot(title, x, "")
	bar, err := plotter.NewBarChart(plotter.Values(y), vg.Length(max(1, 300/float64(len(y)))))
	if err != nil {
		return "", err
	}
	bar.Color, bar.LineStyle.Width = first, 0
	p.Add(grid(), bar)
	p.X.Tick.Marker, p.Y.Tick.Marker = whole{}, whole{}
	return svg(p, width, height, title)
}

// bars draws one horizontal bar for each name.
func bars(title string, names []string, y []float64) (template.HTML, error) {
	p := newPlot(title, "", "")
	v := make(plotter.Values, len(y))
	n := len(y)
	reversed := make([]string, n)
	for i, x := range y {
		if x-x != 0 {
			x = 0
		}
		v[n-1-i], reversed[n-1-i] = x, names[i]
	}
	bar, err := plotter.NewBarChart(v, 14)
	if err != nil {
		return "", err
	}
	bar.Horizontal, bar.Color, bar.LineStyle.Width = true, first, 0
	p.Add(bar)
	p.NominalY(reversed...)
	p.X.Min = min(p.X.Min, 0)
	p.X.Tick.Marker = plot.TickerFunc(func(lo, hi float64) []plot.Tick {
		ticks := plot.DefaultTicks{}.Ticks(lo, hi)
		for i := range ticks {
			if ticks[i].Label != "" {
				ticks[i].Label = fmt.Sprintf("%.3g%%", 100*ticks[i].Value)
			}
		}
		return ticks
	})
	return svg(p, width, float64(60+26*n), title)
}

// groups draws two bars for each name, the second where it is not NaN.
func groups(title string, names []string, here, paper []float64) (template.HTML, error) {
	p := newPlot(title, "", "")
	const w = 14
	p.Add(grid())
	for i, y := range [][]float64{here, paper} {
		v := make(plotter.Values, len(y))
		any := false
		for j, x := range y {
			if x-x == 0 {
				v[j] = x
				any = true
			}
		}
		if !any {
			continue
		}
		bar, err := plotter.NewBarChart(v, w)
		if err != nil {
			return "", err
		}
		bar.LineStyle.Width = 0
		bar.Color, bar.Offset = first, -w/2
		name := "here"
		if i == 1 {
			bar.Color, bar.Offset = second, w/2
			name = "paper"
		}
		p.Add(bar)
		p.Legend.Add(name, bar)
	}
	p.Legend.Top = true
	p.NominalX(names...)
	p.X.Min, p.X.Max = -0.5, float64(len(names))-0.5
	p.Y.Max *= 1.15 // room for the legend
	return svg(p, 2*width, height, title)
}
