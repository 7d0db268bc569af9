package svgplot

import (
	"math"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// Point is a datum of [Points].
type Point struct {
	X, Y  float64
	Title string
}

// Points is a plotter that draws a glyph for each datum, with its title.
type Points struct {
	Data  []Point
	Style draw.GlyphStyle
}

var (
	_ plot.Plotter    = (*Points)(nil)
	_ plot.DataRanger = (*Points)(nil)
	_ plot.GlyphBoxer = (*Points)(nil)
)

// Plot implements [plot.Plotter].
func (p *Points) Plot(c draw.Canvas, plt *plot.Plot) {
	x, y := plt.Transforms(&c)
	for _, d := range p.Data {
		mark(c, d.Title, func() { c.DrawGlyph(p.Style, vg.Point{X: x(d.X), Y: y(d.Y)}) })
	}
}

// DataRange implements [plot.DataRanger].
func (p *Points) DataRange() (xmin, xmax, ymin, ymax float64) {
	r := emptyRange()
	for _, d := range p.Data {
		r.add(d.X, d.Y)
	}
	return r.xmin, r.xmax, r.ymin, r.ymax
}

// GlyphBoxes implements [plot.GlyphBoxer].
func (p *Points) GlyphBoxes(plt *plot.Plot) []plot.GlyphBox {
	boxes := make([]plot.GlyphBox, len(p.Data))
	for i, d := range p.Data {
		boxes[i] = plot.GlyphBox{X: plt.X.Norm(d.X), Y: plt.Y.Norm(d.Y), Rectangle: p.Style.Rectangle()}
	}
	return boxes
}

// Rect is a datum of [Rects]: the corners of a rectangle.
type Rect struct {
	X0, Y0, X1, Y1 float64
	Class          Class
	Title          string
}

// Rects is a plotter that fills a rectangle for each datum, with its title: bars and
// cells of maps.
type Rects []Rect

var (
	_ plot.Plotter    = Rects(nil)
	_ plot.DataRanger = Rects(nil)
)

// Plot implements [plot.Plotter].
func (rs Rects) Plot(c draw.Canvas, plt *plot.Plot) {
	x, y := plt.Transforms(&c)
	for _, r := range rs {
		var p vg.Path
		p.Move(vg.Point{X: x(r.X0), Y: y(r.Y0)})
		p.Line(vg.Point{X: x(r.X1), Y: y(r.Y0)})
		p.Line(vg.Point{X: x(r.X1), Y: y(r.Y1)})
		p.Line(vg.Point{X: x(r.X0), Y: y(r.Y1)})
		p.Close()
		mark(c, r.Title, func() {
			c.SetColor(r.Class)
			c.Fill(p)
		})
	}
}

// DataRange implements [plot.DataRanger].
func (rs Rects) DataRange() (xmin, xmax, ymin, ymax float64) {
	r := emptyRange()
	for _, d := range rs {
		r.add(d.X0, d.Y0)
		r.add(d.X1, d.Y1)
	}
	return r.xmin, r.xmax, r.ymin, r.ymax
}

// mark draws with a title where the canvas underneath is one of this package.
func mark(c draw.Canvas, title string, draw func()) {
	if m := under(c); m != nil {
		m.Mark(title, draw)
		return
	}
	draw()
}

// under returns the canvas that a plot is drawn on, which gives its parts canvases
// within canvases.
func under(c draw.Canvas) *Canvas {
	for {
		switch inner := c.Canvas.(type) {
		case draw.Canvas:
			c = inner
		case *Canvas:
			return inner
		default:
			return nil
		}
	}
}

type dataRange struct{ xmin, xmax, ymin, ymax float64 }

func emptyRange() dataRange {
	inf := math.Inf(1)
	return dataRange{inf, -inf, inf, -inf}
}

func (r *dataRange) add(x, y float64) {
	r.xmin, r.xmax = min(r.xmin, x), max(r.xmax, x)
	r.ymin, r.ymax = min(r.ymin, y), max(r.ymax, y)
}
