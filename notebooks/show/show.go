// Package show puts results into a notebook: tables as Markdown, pictures as SVG
// with a caption. It gives the pictures of all notebooks one look, and knows
// nothing of what they show.
//
// Outside a notebook outputs go to the file that the environment variable
// [OutputEnv] names, one JSON object with their MIME types a line, so that a
// notebook's cells can be run and checked without Jupyter; without the variable
// they are dropped.
package show

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"image/color"
	"math"
	"os"
	"slices"
	"strings"

	"github.com/janpfeifer/gonb/gonbui"
	"github.com/janpfeifer/gonb/gonbui/protocol"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"github.com/sageacc/sageacc/cmd/sageacc/render/texttab"
)

// OutputEnv names the file that outputs are appended to outside a notebook.
const OutputEnv = "SAGEACC_NOTEBOOK_OUTPUT"

// Table shows a table: the first column set to the left, the others to the right.
func Table(header []string, rows [][]string) error {
	align := slices.Repeat([]texttab.Align{texttab.Right}, len(header))
	if len(align) > 0 {
		align[0] = texttab.Left
	}
	t := texttab.Table{Header: header, Align: align, Rows: rows}
	var buf bytes.Buffer
	if err := t.Markdown(&buf); err != nil {
		return err
	}
	return display(map[protocol.MIMEType]any{protocol.MIMETextMarkdown: buf.String()})
}

// Colour returns the i-th colour of a palette that colour-blind readers can
// tell apart (Okabe and Ito, "Color Universal Design", 2008), repeating it.
func Colour(i int) color.Color {
	palette := []color.RGBA{
		{0x00, 0x72, 0xb2, 0xff}, // blue
		{0xd5, 0x5e, 0x00, 0xff}, // vermilion
		{0x00, 0x9e, 0x73, 0xff}, // green
		{0xcc, 0x79, 0xa7, 0xff}, // purple
		{0xe6, 0x9f, 0x00, 0xff}, // orange
		{0x56, 0xb4, 0xe9, 0xff}, // sky
	}
	return palette[i%len(palette)]
}

// grey is the colour of what is only there for orientation.
var grey = color.Gray{0x90}

// New returns an empty plot in the notebooks' style.
func New(title, x, y string) *plot.Plot {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, y
	for style, size := range map[*text.Style]vg.Length{
		&p.Title.TextStyle:   11,
		&p.X.Label.TextStyle: 10, &p.Y.Label.TextStyle: 10,
		&p.X.Tick.Label: 9, &p.Y.Tick.Label: 9,
		&p.Legend.TextStyle: 9,
	} {
		style.Font.Variant = "Sans"
		style.Font.Size = font.Length(size)
	}
	p.Title.Padding = 6
	p.X.Label.Padding, p.Y.Label.Padding = 4, 4
	for _, a := range []*plot.Axis{&p.X, &p.Y} {
		a.LineStyle.Color, a.Tick.LineStyle.Color = grey, grey
		a.LineStyle.Width, a.Tick.LineStyle.Width = 0.5, 0.5
		a.Padding = 4
	}
	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = color.Gray{0xe4}, color.Gray{0xe4}
	p.Add(grid)
	p.Legend.Top, p.Legend.Left = true, true
	p.Legend.XOffs, p.Legend.YOffs = 6, -3
	p.Legend.Padding = 2
	return p
}

// Logarithmic makes an axis logarithmic, with ticks at powers of base, of
// which every step-th has a label: 10 as 10⁻³, any other base as a plain
// number. Where the axis is too short for powers of 10, 1, 2 and 5 have ticks
// in every decade. The axis must have its range; one that is not positive and
// finite is an error.
func Logarithmic(a *plot.Axis, base float64, step int) error {
	if !(a.Min > 0 && a.Max > a.Min && a.Max <= math.MaxFloat64) {
		return fmt.Errorf("axis %q: no logarithm of all between %g and %g", a.Label.Text, a.Min, a.Max)
	}
	a.Scale = plot.LogScale{}
	a.Tick.Marker = plot.TickerFunc(func(lo, hi float64) []plot.Tick {
		log := func(x float64) float64 { return math.Log(x) / math.Log(base) }
		const short = 2.2
		if base == 10 && log(hi)-log(lo) < short {
			return decades(lo, hi)
		}
		var ticks []plot.Tick
		// Rounding must not lose a tick at the very end.
		const slack = 1e-9
		for e := int(math.Ceil(log(lo) - slack)); e <= int(math.Floor(log(hi)+slack)); e++ {
			t := plot.Tick{Value: math.Pow(base, float64(e))}
			if e%step == 0 {
				t.Label = power(base, e)
			}
			ticks = append(ticks, t)
		}
		return ticks
	})
	return nil
}

// decades returns ticks at 1, 2 and 5 times the powers of ten.
func decades(lo, hi float64) []plot.Tick {
	var ticks []plot.Tick
	for e := int(math.Floor(math.Log10(lo))); e <= int(math.Ceil(math.Log10(hi))); e++ {
		for _, m := range []float64{1, 2, 5} {
			if x := m * math.Pow(10, float64(e)); lo <= x && x <= hi {
				ticks = append(ticks, plot.Tick{Value: x, Label: fmt.Sprintf("%.4g", x)})
			}
		}
	}
	return ticks
}

// LegendRight moves the legend from the upper left corner to the upper right one.
func LegendRight(p *plot.Plot) {
	p.Legend.Left = false
	p.Legend.XOffs = -14
}

// Names puts names at 0, 1, 2 and so on along an axis instead of numbers.
func Names(a *plot.Axis, names []string) {
	ticks := make([]plot.Tick, len(names))
	for i, name := range names {
		ticks[i] = plot.Tick{Value: float64(i), Label: name}
	}
	a.Tick.Marker = plot.ConstantTicks(ticks)
	a.Tick.Length = 0
	a.LineStyle.Width = 0
}

// power writes a power of ten with an exponent, one of another base in full.
func power(base float64, e int) string {
	if base != 10 {
		return fmt.Sprintf("%g", math.Pow(base, float64(e)))
	}
	superscript := strings.NewReplacer("-", "⁻", "0", "⁰", "1", "¹", "2", "²", "3", "³", "4", "⁴",
		"5", "⁵", "6", "⁶", "7", "⁷", "8", "⁸", "9", "⁹")
	return "10" + superscript.Replace(fmt.Sprint(e))
}

// Line adds a line in the given colour with an entry in the legend, none for
// an empty name. x and y that differ in length, are empty or hold NaN or
// infinities are an error.
func Line(p *plot.Plot, name string, c color.Color, x, y []float64) error {
	xys, err := points(x, y)
	if err != nil {
		return fmt.Errorf("line %q: %w", name, err)
	}
	l, err := plotter.NewLine(xys)
	if err != nil {
		return fmt.Errorf("line %q: %w", name, err)
	}
	l.Color, l.Width = c, 1.5
	p.Add(l)
	if name != "" {
		p.Legend.Add(name, l)
	}
	return nil
}

// Dots adds a marker for each point, with an entry in the legend, none for an
// empty name. Hollow markers are rings. Errors are those of Line.
func Dots(p *plot.Plot, name string, c color.Color, hollow bool, x, y []float64) error {
	xys, err := points(x, y)
	if err != nil {
		return fmt.Errorf("dots %q: %w", name, err)
	}
	s, err := plotter.NewScatter(xys)
	if err != nil {
		return fmt.Errorf("dots %q: %w", name, err)
	}
	s.Color, s.Radius, s.Shape = c, 3.5, draw.CircleGlyph{}
	if hollow {
		s.Shape = draw.RingGlyph{}
	}
	p.Add(s)
	if name != "" {
		p.Legend.Add(name, s)
	}
	return nil
}

func points(x, y []float64) (plotter.XYs, error) {
	if len(x) != len(y) {
		return nil, fmt.Errorf("%d x and %d y", len(x), len(y))
	}
	if len(x) == 0 {
		return nil, errors.New("no points")
	}
	xys := make(plotter.XYs, len(x))
	for i := range xys {
		xys[i] = plotter.XY{X: x[i], Y: y[i]}
	}
	return xys, nil
}

// Heat adds a map of rectangles that are white where the value is 0 and darkest
// where it is 1. values[row][column] covers dx by dy from (column*dx, row*dy).
func Heat(p *plot.Plot, dx, dy float64, values [][]float64) error {
	for r, row := range values {
		for c, v := range row {
			if v == 0 {
				continue
			}
			x, y := float64(c)*dx, float64(r)*dy
			square, err := plotter.NewPolygon(plotter.XYs{{X: x, Y: y}, {X: x + dx, Y: y}, {X: x + dx, Y: y + dy}, {X: x, Y: y + dy}})
			if err != nil {
				return fmt.Errorf("square at row %d, column %d: %w", r, c, err)
			}
			square.Color = shade(v)
			square.LineStyle.Width = 0
			p.Add(square)
		}
	}
	return nil
}

// shade goes from white at 0 to the palette's blue at 1.
func shade(v float64) color.Color {
	mix := func(to uint8) uint8 { return uint8(math.Round(255 + v*(float64(to)-255))) }
	return color.RGBA{mix(0x00), mix(0x48), mix(0x80), 0xff}
}

// Picture shows plots side by side as one picture of width x height points, with
// a caption in Markdown below. Data that an axis cannot show, such as zero on a
// logarithmic one, are an error.
func Picture(width, height vg.Length, caption string, plots ...*plot.Plot) (err error) {
	// That is how plot reports such data.
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("picture %q: %v", caption, r)
		}
	}()
	c := vgsvg.New(width, height)
	tiles := draw.Tiles{Rows: 1, Cols: len(plots), PadX: 14, PadTop: 4, PadBottom: 4, PadLeft: 4, PadRight: 10}
	for i, canvas := range plot.Align([][]*plot.Plot{plots}, tiles, draw.New(c))[0] {
		plots[i].Draw(canvas)
	}
	var buf bytes.Buffer
	if _, err := c.WriteTo(&buf); err != nil {
		return fmt.Errorf("picture %q: %w", caption, err)
	}
	// The drawing is laid out for Liberation Sans, whose widths Arial shares.
	svg := strings.ReplaceAll(buf.String(), "font-family:Liberation Sans;", "font-family:Liberation Sans,Arial,Helvetica,sans-serif;")
	if err := display(map[protocol.MIMEType]any{protocol.MIMEImageSVG: svg}); err != nil {
		return err
	}
	return display(map[protocol.MIMEType]any{protocol.MIMETextMarkdown: caption})
}

// display sends one output to the notebook or, outside one, to the file.
func display(data map[protocol.MIMEType]any) error {
	if gonbui.IsNotebook {
		gonbui.SendData(&protocol.DisplayData{Data: data})
		gonbui.Sync()
		return gonbui.Error()
	}
	path := os.Getenv(OutputEnv)
	if path == "" {
		return nil
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o666)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := json.NewEncoder(f).Encode(data); err != nil {
		return err
	}
	return f.Close()
}
