package report

import (
	"bytes"
	"cmp"
	"fmt"
	"html/template"
	"math"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/sageacc/sageacc/cmd/sageacc/report/svgplot"
)

// Classes of the style sheet.
const (
	muted    svgplot.Class = "muted"
	grid     svgplot.Class = "grid"
	emulated svgplot.Class = "s1"
	actual   svgplot.Class = "s2"
)

// chartWidth is that of a phone less its margins, so that text there is as large as
// it was drawn.
const chartWidth = 340

// maxTitled bounds the data of a chart that get titles, for the size of the page.
const maxTitled = 1500

// chart is a figure of the page.
type chart struct {
	Caption string
	// Note stands below the caption.
	Note   string
	SVG    template.HTML
	Legend []swatch
	// Small charts stand closer together.
	Small bool
}

// swatch is an entry of a legend.
type swatch struct {
	Class svgplot.Class
	// Shape is "", "ring" or "line".
	Shape string
	Text  string
}

// newPlot returns an empty plot in the page's style.
func newPlot(x, y string) *plot.Plot {
	p := plot.New()
	p.BackgroundColor = nil
	face := font.Font{Typeface: "Liberation", Variant: "Sans"}
	for _, a := range []*plot.Axis{&p.X, &p.Y} {
		a.LineStyle = draw.LineStyle{Color: muted, Width: 0.75}
		a.Tick.LineStyle = draw.LineStyle{Color: muted, Width: 0.75}
		a.Tick.Length = 4
		a.Padding = 0
		a.Tick.Label.Color, a.Label.TextStyle.Color = svgplot.Ink, svgplot.Ink
		a.Tick.Label.Font, a.Label.TextStyle.Font = font.From(face, 11), font.From(face, 11)
		a.Label.Padding = 3
	}
	p.X.Label.Text, p.Y.Label.Text = x, y
	return p
}

// lines adds grid lines at the labelled ticks.
func lines(p *plot.Plot, vertical bool) {
	g := plotter.NewGrid()
	g.Vertical, g.Horizontal = draw.LineStyle{}, draw.LineStyle{Color: grid, Width: 0.75}
	if vertical {
		g.Vertical = g.Horizontal
	}
	p.Add(g)
}

// render draws a plot.
func render(p *plot.Plot, w, h vg.Length, label string) (template.HTML, error) {
	c := svgplot.New(w, h, label)
	// Space for half a label at the ends of the axes.
	p.Draw(draw.Crop(draw.New(c), 0, -8, 1, -7))
	var b bytes.Buffer
	if _, err := c.WriteTo(&b); err != nil {
		return "", err
	}
	return template.HTML(b.String()), nil
}

// integers labels whole numbers, at most about n of them.
func integers(n int) plot.TickerFunc {
	return func(lo, hi float64) []plot.Tick {
		step := 1.0
		for i := 0; (hi-lo)/step > float64(n); i++ {
			step *= []float64{2, 2.5, 2}[i%3] // 1, 2, 5, 10, ...
		}
		var t []plot.Tick
		for v := math.Ceil(lo/step)*step + 0; v <= hi; v += step { // + 0: no -0
			t = append(t, plot.Tick{Value: v, Label: strconv.FormatFloat(v, 'f', -1, 64)})
		}
		return t
	}
}

// scale is a value axis: from zero, or logarithmic where values span more than that
// shows.
type scale struct {
	lo, hi float64
	log    bool
	ticks  []plot.Tick
}

// wide is how many times the smallest the largest value must be for a logarithm.
const wide = 30

// scaleOf chooses the scale for values; those that are not finite, and on a logarithmic
// scale zeros, lie at its ends.
func scaleOf(values []float64) scale {
	lo, hi := math.Inf(1), 0.0
	for _, v := range values {
		if v > 0 && !math.IsInf(v, 1) {
			lo, hi = min(lo, v), max(hi, v)
		}
	}
	switch {
	case hi == 0:
		return scale{lo: 0, hi: 1, ticks: []plot.Tick{{Value: 0, Label: "0"}, {Value: 1, Label: "1"}}}
	case hi/lo > wide:
		return logScale(lo, hi)
	}
	return linearScale(hi)
}

// linearScale goes from zero to a round number at or above hi.
func linearScale(hi float64) scale {
	if hi < 1e-300 || hi > 1e300 {
		// Near the ends of the range of numbers nothing is round.
		return scale{lo: 0, hi: hi, ticks: []plot.Tick{{Value: 0, Label: "0"}, {Value: hi, Label: short(hi)}}}
	}
	step := math.Pow(10, math.Floor(math.Log10(hi)))
	for _, f := range []float64{0.2, 0.5, 1, 2} {
		if hi <= 5*f*step*(1+1e-9) {
			step *= f
			break
		}
	}
	s := scale{}
	for i := 0; ; i++ {
		v := float64(i) * step
		s.ticks = append(s.ticks, plot.Tick{Value: v, Label: short(v)})
		s.hi = v
		if v >= hi*(1-1e-9) {
			return s
		}
	}
}

// logScale has ticks at powers of ten, and between them if these are few.
func logScale(lo, hi float64) scale {
	s := scale{log: true}
	from, to := math.Floor(math.Log10(lo)), math.Ceil(math.Log10(hi))
	every := math.Ceil((to - from) / 6)
	factors := []float64{1}
	if to-from <= 3 {
		factors = []float64{1, 2, 5}
	}
	var all []float64
	for e := from; e <= to; e += every {
		for _, f := range factors {
			all = append(all, math.Pow(10, e)*f)
		}
	}
	// From the last tick at or below lo to the first at or above hi.
	s.lo, s.hi = lo, hi
	for _, v := range all {
		if v <= lo && v > 0 {
			s.lo = v
		}
	}
	for i := len(all) - 1; i >= 0; i-- {
		if all[i] >= hi && !math.IsInf(all[i], 0) {
			s.hi = all[i]
		}
	}
	for _, v := range all {
		if v >= s.lo && v <= s.hi {
			s.ticks = append(s.ticks, plot.Tick{Value: v, Label: short(v)})
		}
	}
	return s
}

// apply sets an axis to the scale.
func (s *scale) apply(a *plot.Axis) {
	a.Min, a.Max = s.lo, s.hi
	a.Tick.Marker = plot.ConstantTicks(s.ticks)
	if s.log {
		a.Scale = plot.LogScale{}
	}
}

// percents labels the ticks as percentages.
func (s *scale) percents() {
	for i, t := range s.ticks {
		s.ticks[i].Label = short(100*t.Value) + "%"
	}
}

// place returns where a value is drawn: itself, or the end of the scale.
func (s *scale) place(v float64) float64 {
	if math.IsNaN(v) {
		return s.hi
	}
	return min(max(v, s.lo), s.hi)
}

// short writes a number of an axis.
func short(v float64) string {
	mantissa, exp, found := strings.Cut(strconv.FormatFloat(v, 'g', 3, 64), "e")
	if !found {
		return mantissa
	}
	exp = strings.TrimPrefix(exp, "+")
	return mantissa + "e" + strings.Replace(strings.TrimPrefix(exp, "0"), "-0", "-", 1)
}

// ring is a glyph like [draw.RingGlyph], but with a line that can be seen.
type ring struct{}

// DrawGlyph implements [draw.GlyphDrawer].
func (ring) DrawGlyph(c *draw.Canvas, sty draw.GlyphStyle, pt vg.Point) {
	c.SetLineStyle(draw.LineStyle{Color: sty.Color, Width: 1.4})
	var p vg.Path
	p.Move(vg.Point{X: pt.X + sty.Radius, Y: pt.Y})
	p.Arc(pt, sty.Radius, 0, 2*math.Pi)
	p.Close()
	c.Stroke(p)
}

// cross is a glyph like [draw.CrossGlyph], with such a line.
type cross struct{}

// DrawGlyph implements [draw.GlyphDrawer].
func (cross) DrawGlyph(c *draw.Canvas, sty draw.GlyphStyle, pt vg.Point) {
	c.SetLineStyle(draw.LineStyle{Color: sty.Color, Width: 1.6})
	r := sty.Radius * math.Sqrt2 / 2
	var p vg.Path
	p.Move(vg.Point{X: pt.X - r, Y: pt.Y - r})
	p.Line(vg.Point{X: pt.X + r, Y: pt.Y + r})
	p.Move(vg.Point{X: pt.X - r, Y: pt.Y + r})
	p.Line(vg.Point{X: pt.X + r, Y: pt.Y - r})
	c.Stroke(p)
}

// series is a set of data of one kind in a chart by number.
type series struct {
	class svgplot.Class
	shape draw.GlyphDrawer
	// radius of the glyph, 3 if it is 0.
	radius vg.Length
	// joined data have a line through them.
	joined bool
	points []svgplot.Point
}

// byNumber draws values over whole numbers from 1 to n. Values that are not finite lie
// at the upper end, as crosses.
func byNumber(x, y string, n int, all []series, label string) (template.HTML, error) {
	p := newPlot(x, y)
	var values []float64
	total := 0
	for _, s := range all {
		for _, d := range s.points {
			values = append(values, d.Y)
		}
		total += len(s.points)
	}
	sc := scaleOf(values)
	lines(p, false)
	for _, s := range all {
		radius := cmp.Or(s.radius, 3)
		if total > 400 {
			radius = 2
		}
		good := &svgplot.Points{Style: draw.GlyphStyle{Color: s.class, Radius: radius, Shape: s.shape}}
		bad := &svgplot.Points{Style: draw.GlyphStyle{Color: s.class, Radius: 4, Shape: cross{}}}
		var path plotter.XYs
		for _, d := range s.points {
			to := good
			if math.IsNaN(d.Y) || math.IsInf(d.Y, 0) {
				to = bad
			}
			d.Y = sc.place(d.Y)
			if total > maxTitled {
				d.Title = ""
			}
			to.Data = append(to.Data, d)
			path = append(path, plotter.XY{X: d.X, Y: d.Y})
		}
		if s.joined && len(path) > 1 {
			l, err := plotter.NewLine(path)
			if err != nil {
				return "", err
			}
			l.LineStyle = draw.LineStyle{Color: s.class, Width: 1}
			p.Add(l)
		}
		p.Add(good, bad)
	}
	p.X.Min, p.X.Max = 0.5, float64(n)+0.5
	p.X.Tick.Marker = integers(12)
	sc.apply(&p.Y)
	return render(p, chartWidth, 210, label)
}

// shades is the number of classes h1 to h7 of a map; h0 is zero.
const shades = 7

// shading maps values to classes of a map, in steps that are equal in the logarithm
// where values span much, and else from zero.
type shading struct{ scale }

func shadingOf(values []float64) shading {
	lo, hi := math.Inf(1), 0.0
	for _, v := range values {
		if v > 0 && !math.IsInf(v, 1) {
			lo, hi = min(lo, v), max(hi, v)
		}
	}
	return shading{scale{lo: lo, hi: hi, log: hi/lo > wide}}
}

// class returns the class of a value. What is not a number stands out.
func (s *shading) class(v float64) svgplot.Class {
	switch {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return "bad"
	case v <= 0:
		return "h0"
	}
	part := v / s.hi
	if s.log {
		part = (math.Log(v) - math.Log(s.lo)) / (math.Log(s.hi) - math.Log(s.lo))
	}
	return svgplot.Class(fmt.Sprintf("h%d", 1+min(shades-1, max(0, int(part*shades)))))
}

// legend names the bounds of the classes; write writes a bound.
func (s *shading) legend(values []float64, write func(float64) string) []swatch {
	var out []swatch
	used := map[svgplot.Class]bool{}
	for _, v := range values {
		used[s.class(v)] = true
	}
	if used["h0"] {
		out = append(out, swatch{Class: "h0", Text: "0"})
	}
	bound := func(i int) float64 {
		part := float64(i) / shades
		if s.log {
			return math.Exp(math.Log(s.lo) + part*(math.Log(s.hi)-math.Log(s.lo)))
		}
		return part * s.hi
	}
	for i := range shades {
		class := svgplot.Class(fmt.Sprintf("h%d", i+1))
		if !used[class] {
			continue
		}
		out = append(out, swatch{Class: class, Text: "up to " + write(bound(i+1))})
	}
	if used["bad"] {
		out = append(out, swatch{Class: "bad", Text: "not a number"})
	}
	return out
}

// cell is a datum of a map: column and row, from zero.
type cell struct {
	column, row int
	value       float64
	title       string
}

// cellMap draws a map of cells. Rows are counted from the top. first is the number of
// the first column and row, and columnWidth what one column stands for.
func cellMap(x, y string, columns, rows, firstColumn, firstRow, columnWidth int, cells []cell, s *shading, label string) (template.HTML, error) {
	p := newPlot(x, y)
	var rects svgplot.Rects
	for _, c := range cells {
		r := svgplot.Rect{
			X0: float64(c.column), X1: float64(c.column + 1), Y0: -float64(c.row), Y1: -float64(c.row + 1),
			Class: s.class(c.value),
		}
		if len(cells) <= maxTitled {
			r.Title = c.title
		}
		rects = append(rects, r)
	}
	p.Add(rects)
	p.X.Min, p.X.Max = 0, float64(columns)
	p.Y.Min, p.Y.Max = -float64(rows), 0
	p.X.Tick.Marker = mapTicks(columns, firstColumn, columnWidth, 10, 1)
	p.Y.Tick.Marker = mapTicks(rows, firstRow, 1, 12, -1)
	height := min(max(14*rows, 40), 360) + 50
	return render(p, chartWidth, vg.Length(height), label)
}

// mapTicks labels the columns or rows of a map: in their middle, or where one stands
// for more than one thing, at its start.
func mapTicks(n, first, each, most int, sign float64) plot.Ticker {
	var t plot.ConstantTicks
	middle := 0.5
	if each > 1 {
		middle = 0
	}
	for _, k := range integers(most).Ticks(0, float64(n)-2*middle) {
		t = append(t, plot.Tick{Value: sign * (k.Value + middle), Label: strconv.Itoa(first + each*int(k.Value))})
	}
	return t
}

// bars draws a bar for each fraction over its number, from zero.
func bars(x, y string, first int, values []float64, titles []string, class svgplot.Class, label string) (template.HTML, error) {
	p := newPlot(x, y)
	sc := linearOf(values)
	sc.percents()
	lines(p, false)
	var rects svgplot.Rects
	for i, v := range values {
		at := float64(first + i)
		r := svgplot.Rect{X0: at - 0.4, X1: at + 0.4, Y1: sc.place(v), Class: class}
		if len(values) <= maxTitled {
			r.Title = titles[i]
		}
		rects = append(rects, r)
	}
	p.Add(rects)
	p.X.Min, p.X.Max = float64(first)-0.5, float64(first+len(values))-0.5
	p.X.Tick.Marker = integers(12)
	sc.apply(&p.Y)
	return render(p, chartWidth, 180, label)
}

// linearOf is a scale from zero for values.
func linearOf(values []float64) scale {
	hi := 0.0
	for _, v := range values {
		if v > hi && !math.IsInf(v, 1) {
			hi = v
		}
	}
	if hi == 0 {
		return scaleOf(nil)
	}
	return linearScale(hi)
}
