package svgplot

import (
	"bytes"
	"encoding/xml"
	"errors"
	"image"
	"image/color"
	"io"
	"math"
	"regexp"
	"strings"
	"testing"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// element is an element of a drawing.
type element struct {
	name string
	attr map[string]string
	text string
}

// parse reads a drawing strictly.
func parse(t *testing.T, c *Canvas) []element {
	t.Helper()
	var b bytes.Buffer
	n, err := c.WriteTo(&b)
	if err != nil || n == 0 || b.Len() != 0 && int64(b.Len()) != n {
		t.Fatalf("%d bytes written, %v", n, err)
	}
	var out []element
	var open []int
	d := xml.NewDecoder(&b)
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatalf("the drawing is not well formed: %v", err)
		}
		switch tok := tok.(type) {
		case xml.StartElement:
			e := element{name: tok.Name.Local, attr: map[string]string{}}
			for _, a := range tok.Attr {
				e.attr[a.Name.Local] = a.Value
			}
			open = append(open, len(out))
			out = append(out, e)
		case xml.EndElement:
			open = open[:len(open)-1]
		case xml.CharData:
			out[open[len(open)-1]].text += string(tok)
		}
	}
}

func rect(x, y, w, h vg.Length) vg.Path {
	var p vg.Path
	p.Move(vg.Point{X: x, Y: y})
	p.Line(vg.Point{X: x + w, Y: y})
	p.Line(vg.Point{X: x + w, Y: y + h})
	p.Close()
	return p
}

func TestPaths(t *testing.T) {
	c := New(100, 50, `a "label" & <more>`)
	c.SetColor(Class("s1"))
	c.Fill(rect(10, 5, 20, 10))
	c.Push()
	c.Translate(vg.Point{X: 1, Y: 2})
	c.SetColor(color.White)
	c.SetLineWidth(2)
	c.SetLineDash([]vg.Length{4, 1.5}, 1)
	c.Stroke(rect(10, 5, 20, 10))
	c.SetLineWidth(0)
	c.Stroke(rect(0, 0, 1, 1)) // not drawn
	c.Pop()
	c.SetColor(Class(`x" onload="y`))
	c.Stroke(rect(0, 0, 1, 1))
	c.Push()
	c.Rotate(math.Pi / 2)
	c.Fill(rect(10, 5, 20, 10))
	c.Pop()
	e := parse(t, c)
	if e[0].name != "svg" || e[0].attr["aria-label"] != `a "label" & <more>` || e[0].attr["role"] != "img" || e[0].attr["viewBox"] != "0 0 100 50" {
		t.Errorf("svg %+v", e[0])
	}
	want := []map[string]string{
		// The y axis points down.
		{"class": "f s1", "d": "M10 45L30 45L30 35Z"},
		{"class": "k ink", "d": "M11 43L31 43L31 33Z", "stroke-width": "2", "stroke-dasharray": "4 1.5", "stroke-dashoffset": "1"},
		{"class": "k x onloady", "d": "M0 50L1 50L1 49Z", "stroke-width": "1"},
		// A quarter turn counterclockwise about the lower left corner.
		{"class": "f x onloady", "d": "M10 -5L30 -5L30 -15Z", "transform": "matrix(0 -1 1 0 0 50)"},
	}
	if len(e) != 1+len(want) {
		t.Fatalf("%d elements: %+v", len(e), e)
	}
	for i, w := range want {
		for k, v := range w {
			if got := e[i+1].attr[k]; got != v {
				t.Errorf("path %d: %s is %q, want %q", i, k, got, v)
			}
		}
		if len(e[i+1].attr) != len(w) {
			t.Errorf("path %d: %v", i, e[i+1].attr)
		}
	}
}

func TestCurves(t *testing.T) {
	c := New(100, 100, "")
	var p vg.Path
	p.Move(vg.Point{X: 60, Y: 50})
	p.Arc(vg.Point{X: 50, Y: 50}, 10, 0, 2*math.Pi)
	p.QuadTo(vg.Point{X: 1, Y: 2}, vg.Point{X: 3, Y: 4})
	p.CubeTo(vg.Point{X: 1, Y: 2}, vg.Point{X: 3, Y: 4}, vg.Point{X: 5, Y: 6})
	c.Stroke(p)
	var q vg.Path
	q.Arc(vg.Point{X: 50, Y: 50}, 10, 0, -math.Pi)
	c.Stroke(q)
	e := parse(t, c)
	if got, want := e[1].attr["d"], "M60 50L60 50A10 10 0 0 0 40 50A10 10 0 0 0 60 50Q1 98 3 96C1 98 3 96 5 94"; got != want {
		t.Errorf("path %q, want %q", got, want)
	}
	if got, want := e[2].attr["d"], "M60 50A10 10 0 0 1 50 60A10 10 0 0 1 40 50"; got != want {
		t.Errorf("clockwise %q, want %q", got, want)
	}
}

func TestText(t *testing.T) {
	c := New(100, 50, "")
	face := font.Face{Font: font.Font{Size: 11}}
	c.Mark("what & why", func() { c.FillString(face, vg.Point{X: 10, Y: 20}, "<b>\x00&") })
	c.Mark("", func() { c.FillString(font.Face{}, vg.Point{}, "too small to see") })
	c.Rotate(math.Pi / 2)
	c.FillString(face, vg.Point{X: 10, Y: 20}, "up")
	e := parse(t, c)
	if len(e) != 5 || e[1].name != "g" || e[2].name != "title" || e[2].text != "what & why" {
		t.Fatalf("elements %+v", e)
	}
	if x := e[3]; x.text != "<b>\uFFFD&" || x.attr["x"] != "10" || x.attr["y"] != "30" || x.attr["font-size"] != "11" {
		t.Errorf("text %+v", x)
	}
	// (10, 20) turned by a quarter is (-20, 10).
	if x := e[4]; x.attr["transform"] != "matrix(0 -1 1 0 -20 40)" {
		t.Errorf("turned text %+v", x)
	}
}

func TestErrors(t *testing.T) {
	c := New(10, 10, "")
	c.DrawImage(vg.Rectangle{}, image.NewGray(image.Rect(0, 0, 1, 1)))
	if _, err := c.WriteTo(io.Discard); err == nil || !strings.Contains(err.Error(), "svgplot: images") {
		t.Errorf("an image: %v", err)
	}
	c = New(10, 10, "")
	c.Fill(vg.Path{{Type: 99}})
	if _, err := c.WriteTo(io.Discard); err == nil {
		t.Error("an unknown path component is written")
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{0: "0", -0.001: "0", 1.999: "2", 10: "10", 1.5: "1.5", -3.25: "-3.25", math.Inf(1): "0"} {
		if got := number(v); got != want {
			t.Errorf("%g is %q, want %q", v, got, want)
		}
	}
}

// TestPlot: a plot of the library has a mark with a title for each datum, all of it
// within the drawing, and no colour but classes.
func TestPlot(t *testing.T) {
	p := plot.New()
	p.BackgroundColor = nil
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = "title", "x", "y"
	pts := &Points{Style: draw.GlyphStyle{Color: Class("s1"), Radius: 3, Shape: draw.CircleGlyph{}}}
	var rs Rects
	for i := range 7 {
		pts.Data = append(pts.Data, Point{float64(i), float64(i * i), "point"})
		rs = append(rs, Rect{float64(i), 0, float64(i) + 0.5, float64(i), "s2", "bar"})
	}
	p.Add(pts, rs)
	c := New(340, 200, "plot")
	p.Draw(draw.New(c))
	titles, classes := map[string]int{}, map[string]int{}
	coordinate := regexp.MustCompile(`-?[0-9.]+`)
	for _, e := range parse(t, c) {
		if e.name == "title" {
			titles[e.text]++
		}
		classes[e.attr["class"]]++
		if e.attr["style"] != "" || e.attr["fill"] != "" || e.attr["stroke"] != "" {
			t.Errorf("a colour of its own: %+v", e)
		}
		for _, s := range coordinate.FindAllString(e.attr["d"], -1) {
			if strings.HasPrefix(s, "-") {
				t.Errorf("outside the drawing: %s", e.attr["d"])
			}
		}
	}
	if titles["point"] != 7 || titles["bar"] != 7 || classes["f s1"] != 7 || classes["f s2"] != 7 {
		t.Errorf("titles %v, classes %v", titles, classes)
	}
	if xmin, xmax, ymin, ymax := rs.DataRange(); xmin != 0 || xmax != 6.5 || ymin != 0 || ymax != 6 {
		t.Errorf("range %g %g %g %g", xmin, xmax, ymin, ymax)
	}
}
