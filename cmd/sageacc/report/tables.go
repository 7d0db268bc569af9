package report

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/sageacc/sageacc/cmd/sageacc/report/svgplot"
	"github.com/sageacc/sageacc/compare/tables"
	"github.com/sageacc/sageacc/internal/jsonfloat"
	"github.com/sageacc/sageacc/metrics"
)

func tablesPage(r *tables.Result) (*page, error) {
	over := plural(len(r.Layers), "layer", "layers")
	p := &page{
		Kind:  "sageacc: methods of quantised attention",
		Title: "The tables of SageAttention2 on " + over,
	}
	var names []string
	for _, l := range r.Layers {
		names = append(names, clean(l))
	}
	p.Facts = []fact{{"Layers", strings.Join(names, ", ")}, {"Reference", clean(r.Reference)}}
	if len(r.Synthetic) > 0 {
		p.Facts = append(p.Facts, fact{"Input", clean("synthetic: " + strings.Join(r.Synthetic, "; "))})
	}
	p.Facts = slices.DeleteFunc(p.Facts, func(f fact) bool { return f.Value == "" })
	p.Verdict = []string{"The paper (arXiv 2411.10958) measured CogVideoX, whose activations are not these. What can be compared is the order of the methods and the size of the gaps, not the digits."}
	for i := range r.Tables {
		s, err := tableSection(i, &r.Tables[i])
		if err != nil {
			return nil, err
		}
		s.Intro = append(s.Intro, fmt.Sprintf("%s; over %s.", clean(r.Tables[i].Setup), over))
		p.Sections = append(p.Sections, *s)
	}
	p.Sections = append(p.Sections, *repeat(r.Args))
	return p, nil
}

func tableSection(i int, t *tables.Table) (*section, error) {
	s := &section{ID: fmt.Sprintf("table-%d", i+1), Title: clean(t.Title)}
	if t.Title == "" {
		s.Title = clean(t.Name)
	}
	out := table{Caption: s.Title, Columns: columns("~method", ">cos avg", ">L1 avg", ">RMSE avg", ">cos worst", ">L1 worst", ">RMSE worst")}
	withPaper := slices.ContainsFunc(t.Rows, func(r tables.Row) bool { return r.Paper != nil })
	if withPaper {
		out.Columns = append(out.Columns, columns(">paper: cos avg", ">L1 avg", ">RMSE avg", ">cos worst", ">L1 worst", ">RMSE worst")...)
	}
	cells := func(cos, l1, rmse float64) []string {
		fixed := func(x float64) string { return strconv.FormatFloat(x, 'f', 4, 64) }
		return []string{strconv.FormatFloat(100*cos, 'f', 2, 64) + "%", fixed(l1), fixed(rmse)}
	}
	best, worst := -1, -1
	for k, row := range t.Rows {
		line := []string{clean(row.Method)}
		for _, v := range []metrics.Values{row.Average, row.Worst} {
			line = append(line, cells(float64(v.CosSim), float64(v.RelL1), float64(v.RMSE))...)
		}
		if row.Paper != nil {
			line = append(line, cells(row.Paper.Average.CosSim, row.Paper.Average.RelL1, row.Paper.Average.RMSE)...)
			if w := row.Paper.Worst; w != nil {
				line = append(line, cells(w.CosSim, w.RelL1, w.RMSE)...)
			}
		}
		out.Rows = append(out.Rows, line)
		if best < 0 || row.Average.RelL1 < t.Rows[best].Average.RelL1 {
			best = k
		}
		if worst < 0 || row.Average.RelL1 > t.Rows[worst].Average.RelL1 {
			worst = k
		}
	}
	s.Tables = []table{out}
	label := fmt.Sprintf("%s: relative L1 error by method; lowest %s (%s), highest %s (%s)", s.Title,
		clean(t.Rows[best].Method), number(t.Rows[best].Average.RelL1), clean(t.Rows[worst].Method), number(t.Rows[worst].Average.RelL1))
	c, err := methodsChart(t, withPaper, label)
	if err != nil {
		return nil, err
	}
	s.Charts = []chart{c}
	return s, nil
}

// methodsChart draws the average relative L1 error of each method, ours and the
// paper's.
func methodsChart(t *tables.Table, withPaper bool, label string) (chart, error) {
	p := newPlot("relative L1, average", "")
	var values []float64
	ours := &svgplot.Points{Style: draw.GlyphStyle{Color: emulated, Radius: 4, Shape: draw.CircleGlyph{}}}
	theirs := &svgplot.Points{Style: draw.GlyphStyle{Color: actual, Radius: 5, Shape: ring{}}}
	odd := &svgplot.Points{Style: draw.GlyphStyle{Color: emulated, Radius: 4, Shape: cross{}}}
	for _, r := range t.Rows {
		values = append(values, float64(r.Average.RelL1))
		if r.Paper != nil {
			values = append(values, r.Paper.Average.RelL1)
		}
	}
	sc := scaleOf(values)
	var names plot.ConstantTicks
	for i, r := range t.Rows {
		y := -float64(i)
		name := clean(r.Method)
		v := float64(r.Average.RelL1)
		to := ours
		if math.IsNaN(v) || math.IsInf(v, 0) {
			to = odd
		}
		to.Data = append(to.Data, svgplot.Point{X: sc.place(v), Y: y, Title: fmt.Sprintf("%s, measured: %s", name, number(r.Average.RelL1))})
		if r.Paper != nil {
			theirs.Data = append(theirs.Data, svgplot.Point{X: sc.place(r.Paper.Average.RelL1), Y: y, Title: fmt.Sprintf("%s, paper: %s", name, number(jsonfloat.Float(r.Paper.Average.RelL1)))})
		}
		names = append(names, plot.Tick{Value: y, Label: elide(name, 18)})
	}
	lines(p, true)
	p.Add(ours, odd, theirs)
	sc.apply(&p.X)
	p.Y.Min, p.Y.Max = -float64(len(t.Rows))+0.4, 0.6
	p.Y.Tick.Marker = names
	svg, err := render(p, chartWidth, vg.Length(min(22*len(t.Rows), 900)+55), label)
	if err != nil {
		return chart{}, err
	}
	c := chart{Caption: "Relative L1 by method, less is better", SVG: svg, Legend: []swatch{{emulated, "dot", "measured"}}}
	if withPaper {
		c.Legend = append(c.Legend, swatch{actual, "ring", "paper, other activations"})
	}
	return c, nil
}

// elide shortens a name to n characters.
func elide(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:n-1]) + "…"
}
