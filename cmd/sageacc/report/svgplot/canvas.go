// Package svgplot draws plots of gonum.org/v1/plot as SVG that lies inside an HTML
// page and takes its colours from the page's style sheet.
//
// A colour of such a plot is a [Class]. The canvas writes it as the class of what is
// drawn, beside "f" for what is filled and "k" for what is stroked:
//
//	.f{fill:currentColor;stroke:none}
//	.k{fill:none;stroke:currentColor}
//	.ink{color:#222}
//
// So a page can have other colours in the dark, and no file but itself. Text stays
// text, in a font as wide as the one that the plot was laid out with.
package svgplot

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"image"
	"image/color"
	"io"
	"math"
	"strconv"
	"strings"

	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/vg"
)

// Class is a colour that the page's style sheet decides. Letters, digits, "-", "_"
// and spaces between several classes are allowed.
type Class string

// Ink is the class of what is given any other colour.
const Ink Class = "ink"

// RGBA makes a Class a [color.Color], a grey that is readable on white and black.
func (Class) RGBA() (r, g, b, a uint32) { return color.Gray{Y: 0x80}.RGBA() }

// fonts are families as wide as Liberation Sans, which plots are laid out with.
const fonts = "'Liberation Sans',Arial,Helvetica,sans-serif"

// Canvas is a [vg.Canvas] of a fixed size, a point of which is a unit of the SVG.
// Make one with [New].
type Canvas struct {
	w, h  vg.Length
	label string
	body  bytes.Buffer
	state
	stack []state
	err   error
}

var _ vg.CanvasWriterTo = (*Canvas)(nil)

// state is what Push saves.
type state struct {
	class Class
	width vg.Length
	dash  []vg.Length
	shift vg.Length // of the dash
	m     matrix
}

// matrix maps (x, y) to (a·x + c·y + e, b·x + d·y + f).
type matrix struct{ a, b, c, d, e, f float64 }

func (m matrix) times(n matrix) matrix {
	return matrix{
		m.a*n.a + m.c*n.b, m.b*n.a + m.d*n.b,
		m.a*n.c + m.c*n.d, m.b*n.c + m.d*n.d,
		m.a*n.e + m.c*n.f + m.e, m.b*n.e + m.d*n.f + m.f,
	}
}

// shifts reports whether the matrix moves and does nothing else.
func (m matrix) shifts() bool { return m.a == 1 && m.b == 0 && m.c == 0 && m.d == 1 }

// New returns an empty canvas. The label says in words what the picture shows, for
// those who do not see it.
func New(w, h vg.Length, label string) *Canvas {
	c := &Canvas{w: w, h: h, label: label}
	c.m = matrix{a: 1, d: 1}
	vg.Initialize(c)
	return c
}

// Size implements [vg.CanvasSizer].
func (c *Canvas) Size() (x, y vg.Length) { return c.w, c.h }

// SetLineWidth implements [vg.Canvas].
func (c *Canvas) SetLineWidth(w vg.Length) { c.width = w }

// SetLineDash implements [vg.Canvas].
func (c *Canvas) SetLineDash(pattern []vg.Length, offset vg.Length) {
	c.dash, c.shift = append([]vg.Length(nil), pattern...), offset
}

// SetColor implements [vg.Canvas]. A colour that is not a [Class] stands for [Ink].
func (c *Canvas) SetColor(clr color.Color) {
	c.class = Ink
	if k, ok := clr.(Class); ok {
		c.class = k
	}
}

// Rotate implements [vg.Canvas].
func (c *Canvas) Rotate(rad float64) {
	sin, cos := math.Sincos(rad)
	c.m = c.m.times(matrix{cos, sin, -sin, cos, 0, 0})
}

// Translate implements [vg.Canvas].
func (c *Canvas) Translate(pt vg.Point) {
	c.m = c.m.times(matrix{1, 0, 0, 1, float64(pt.X), float64(pt.Y)})
}

// Scale implements [vg.Canvas].
func (c *Canvas) Scale(x, y float64) { c.m = c.m.times(matrix{a: x, d: y}) }

// Push implements [vg.Canvas].
func (c *Canvas) Push() { c.stack = append(c.stack, c.state) }

// Pop implements [vg.Canvas].
func (c *Canvas) Pop() {
	last := len(c.stack) - 1
	c.state, c.stack = c.stack[last], c.stack[:last]
}

// Stroke implements [vg.Canvas].
func (c *Canvas) Stroke(p vg.Path) {
	if c.width <= 0 {
		return
	}
	style := ` stroke-width="` + number(float64(c.width)) + `"`
	if len(c.dash) > 0 {
		var parts []string
		for _, d := range c.dash {
			parts = append(parts, number(float64(d)))
		}
		style += ` stroke-dasharray="` + strings.Join(parts, " ") + `" stroke-dashoffset="` + number(float64(c.shift)) + `"`
	}
	c.path("k", style, p)
}

// Fill implements [vg.Canvas].
func (c *Canvas) Fill(p vg.Path) { c.path("f", "", p) }

// path writes a path. Where the matrix moves and does nothing else, which is nearly
// everywhere, the coordinates are moved; else the element is transformed.
func (c *Canvas) path(class, style string, p vg.Path) {
	m := c.m
	transform := ""
	if !m.shifts() {
		transform = c.transform(m)
		m = matrix{a: 1, d: 1}
	} else {
		m.f = float64(c.h) - m.f
	}
	x := func(v vg.Length) float64 { return float64(v) + m.e }
	y := func(v vg.Length) float64 { return m.f - float64(v) }
	var d strings.Builder
	put := func(op string, xs ...float64) {
		d.WriteString(op)
		for i, v := range xs {
			if i > 0 {
				d.WriteByte(' ')
			}
			d.WriteString(number(v))
		}
	}
	for _, s := range p {
		switch s.Type {
		case vg.MoveComp:
			put("M", x(s.Pos.X), y(s.Pos.Y))
		case vg.LineComp:
			put("L", x(s.Pos.X), y(s.Pos.Y))
		case vg.CurveComp:
			switch len(s.Control) {
			case 1:
				put("Q", x(s.Control[0].X), y(s.Control[0].Y), x(s.Pos.X), y(s.Pos.Y))
			case 2:
				put("C", x(s.Control[0].X), y(s.Control[0].Y), x(s.Control[1].X), y(s.Control[1].Y), x(s.Pos.X), y(s.Pos.Y))
			default:
				c.fail(fmt.Errorf("a curve has %d control points", len(s.Control)))
			}
		case vg.ArcComp:
			// In halves: SVG has no arc from a point to itself.
			at := func(angle float64) (float64, float64) {
				sin, cos := math.Sincos(angle)
				return x(s.Pos.X) + float64(s.Radius)*cos, y(s.Pos.Y) - float64(s.Radius)*sin
			}
			op := "M"
			if d.Len() > 0 {
				op = "L"
			}
			px, py := at(s.Start)
			put(op, px, py)
			sweep := 0.0
			if s.Angle < 0 {
				sweep = 1 // clockwise, as the y axis points down
			}
			for _, part := range []float64{0.5, 1} {
				px, py = at(s.Start + part*s.Angle)
				put("A", float64(s.Radius), float64(s.Radius), 0, 0, sweep, px, py)
			}
		case vg.CloseComp:
			put("Z")
		default:
			c.fail(fmt.Errorf("unknown path component %d", s.Type))
		}
	}
	fmt.Fprintf(&c.body, `<path class="%s %s"%s%s d="%s"/>`, class, c.classes(), style, transform, d.String())
}

// transform writes a matrix of the plot, whose y axis points up, as one of the SVG,
// for elements that are drawn with y negated.
func (c *Canvas) transform(m matrix) string {
	var s []string
	for _, v := range []float64{m.a, -m.b, -m.c, m.d, m.e, float64(c.h) - m.f} {
		s = append(s, number(v))
	}
	return ` transform="matrix(` + strings.Join(s, " ") + `)"`
}

// FillString implements [vg.Canvas].
func (c *Canvas) FillString(f font.Face, pt vg.Point, text string) {
	if f.Font.Size <= 0 {
		return
	}
	place := c.transform(c.m.times(matrix{1, 0, 0, 1, float64(pt.X), float64(pt.Y)}))
	if m := c.m; m.shifts() {
		place = fmt.Sprintf(` x="%s" y="%s"`, number(float64(pt.X)+m.e), number(float64(c.h)-m.f-float64(pt.Y)))
	}
	fmt.Fprintf(&c.body, `<text class="f %s" font-size="%s"%s>`, c.classes(), number(float64(f.Font.Size)), place)
	c.text(text)
	c.body.WriteString("</text>")
}

// DrawImage implements [vg.Canvas]: an image has colours of its own, which no style
// sheet decides, so it is not drawn, and [Canvas.WriteTo] says so.
func (c *Canvas) DrawImage(vg.Rectangle, image.Image) { c.fail(errors.New("images cannot be drawn")) }

// Mark draws one datum: what draw draws gets the title, which browsers show where the
// pointer rests. An empty title adds nothing.
func (c *Canvas) Mark(title string, draw func()) {
	if title == "" {
		draw()
		return
	}
	c.body.WriteString("<g><title>")
	c.text(title)
	c.body.WriteString("</title>")
	draw()
	c.body.WriteString("</g>")
}

func (c *Canvas) text(s string) {
	// Writing to a buffer does not fail.
	_ = xml.EscapeText(&c.body, []byte(s))
}

// classes returns the classes without anything that is more than a class.
func (c *Canvas) classes() string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_', r == ' ':
			return r
		}
		return -1
	}, string(c.class))
}

func (c *Canvas) fail(err error) {
	if c.err == nil {
		c.err = fmt.Errorf("svgplot: %w", err)
	}
}

// WriteTo writes the svg element. It has no width and no height, so that it is as
// wide as the page allows.
func (c *Canvas) WriteTo(w io.Writer) (int64, error) {
	if c.err != nil {
		return 0, c.err
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, `<svg viewBox="0 0 %s %s" role="img" aria-label="`, number(float64(c.w)), number(float64(c.h)))
	if err := xml.EscapeText(&out, []byte(c.label)); err != nil {
		return 0, fmt.Errorf("svgplot: %w", err)
	}
	fmt.Fprintf(&out, `" font-family="%s">`, fonts)
	out.Write(c.body.Bytes())
	out.WriteString("</svg>")
	return out.WriteTo(w)
}

// number writes a coordinate: two digits after the point are finer than a screen. A
// value that is not a number, which no plot should hold, becomes 0.
func number(v float64) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return "0"
	}
	s := strconv.FormatFloat(v, 'f', 2, 64)
	s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	if s == "-0" {
		return "0"
	}
	return s
}
