package report

import (
	"cmp"
	"fmt"
	"html/template"
	"math"
	"slices"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/sageacc/sageacc/cmd/sageacc/report/svgplot"
	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/internal/jsonfloat"
	"github.com/sageacc/sageacc/metrics"
)

const (
	// worstHeads is how many heads the table of the worst has.
	worstHeads = 10
	// unfolded is how many charts of a kind are shown at once; the rest are folded.
	unfolded = 6
)

// cosine writes a cosine similarity with the digits that set kernels apart.
func cosine(x jsonfloat.Float) string {
	if x == 1 {
		return "1"
	}
	return strconv.FormatFloat(float64(x), 'f', 6, 64)
}

// number writes a figure with four digits.
func number(x jsonfloat.Float) string { return digits(float64(x), 4) }

func comparePage(r *compare.Result) (*page, error) {
	k := r.Kernel
	p := &page{
		Kind:    "sageacc: quantised attention against full precision",
		Title:   fmt.Sprintf("%s on %s, %s", clean(k.Name), clean(k.Arch), plural(len(r.Layers), "layer", "layers")),
		Verdict: verdict(r),
	}
	p.Facts = []fact{
		{"Kernel", fmt.Sprintf("%s on %s: %s", k.Name, k.Arch, k.Program)},
		{"Q and K", fmt.Sprintf("INT%d %s, smooth %s", k.QKBits, k.QKGranularity, k.Smooth)},
		{"P and V", fmt.Sprintf("%s, accumulated in %s", k.PVDType, k.PVAccum)},
		{"Variant", k.Variant},
		{"Matrix unit", k.PVUnit},
		{"exp2, 1/x", k.SpecialFunctions},
		{"Reference", r.Reference},
	}
	var origins []string
	for _, l := range r.Layers {
		if l.Synthetic != "" && !slices.Contains(origins, l.Synthetic) {
			origins = append(origins, l.Synthetic)
		}
	}
	if origins != nil {
		p.Facts = append(p.Facts, fact{"Input", "synthetic: " + strings.Join(origins, "; ")})
	}
	p.Facts = slices.DeleteFunc(p.Facts, func(f fact) bool { return f.Value == "" })
	for i := range p.Facts {
		p.Facts[i].Value = clean(p.Facts[i].Value)
	}
	for _, part := range []func(*compare.Result) (*section, error){
		layersSection, headsSection, attributionSection, histogramSection, differencesSection, warningsSection, repeatSection,
	} {
		s, err := part(r)
		if err != nil {
			return nil, err
		}
		if s != nil {
			p.Sections = append(p.Sections, *s)
		}
	}
	return p, nil
}

// verdict says in words how accurate the kernel is, where it is worst, and whether an
// actual output is the emulated one.
func verdict(r *compare.Result) []string {
	var out []string
	var emulated []metrics.Values
	for _, l := range r.Layers {
		emulated = append(emulated, l.EmulatedVsReference)
	}
	if len(r.Layers) == 1 {
		v := emulated[0]
		out = append(out, fmt.Sprintf("Against full precision the emulated kernel has a cosine similarity of %s, a relative L1 error of %s and an RMSE of %s.",
			cosine(v.CosSim), number(v.RelL1), number(v.RMSE)))
	} else {
		// Computed here, because a file's own average may be missing.
		v, w := metrics.Average(emulated), metrics.WorstOf(emulated)
		out = append(out, fmt.Sprintf("Against full precision the emulated kernel has, on average over %d layers, a cosine similarity of %s, a relative L1 error of %s and an RMSE of %s.",
			len(r.Layers), cosine(v.CosSim), number(v.RelL1), number(v.RMSE)))
		name := func(i int) string { return fmt.Sprintf("layer %d, %s", i+1, clean(r.Layers[i].Name)) }
		if w.CosSimAt == w.RelL1At {
			out = append(out, fmt.Sprintf("The worst is %s, with a cosine similarity of %s and a relative L1 error of %s.", name(w.CosSimAt), cosine(w.CosSim), number(w.RelL1)))
		} else {
			out = append(out, fmt.Sprintf("The lowest cosine similarity, %s, is that of %s; the highest relative L1 error, %s, that of %s.",
				cosine(w.CosSim), name(w.CosSimAt), number(w.RelL1), name(w.RelL1At)))
		}
	}
	have, exact := 0, 0
	var elements, mismatched int64
	for _, l := range r.Layers {
		if b := l.ActualVsEmulated; b != nil {
			have++
			elements += b.Elements
			mismatched += b.Mismatched
			if b.Exact() {
				exact++
			}
		}
	}
	of := "the one layer"
	if len(r.Layers) > 1 {
		of = fmt.Sprintf("%d of %d layers", have, len(r.Layers))
	}
	switch {
	case have == 0:
		out = append(out, "There is no actual output of a GPU to compare with.")
	case exact == have:
		out = append(out, fmt.Sprintf("There is an actual output for %s, and it equals the emulated one bit for bit: none of %d elements differs.", of, elements))
	case exact == 0:
		out = append(out, fmt.Sprintf("There is an actual output for %s. It is not the emulated one: %d of %d elements differ (%s).", of, mismatched, elements, percent(ratio(mismatched, elements))))
	default:
		out = append(out, fmt.Sprintf("There is an actual output for %s. It equals the emulated one bit for bit in %d of these and differs in %d: %d of %d elements (%s).",
			of, exact, have-exact, mismatched, elements, percent(ratio(mismatched, elements))))
	}
	odd := 0
	for _, l := range r.Layers {
		if len(l.Warnings) > 0 {
			odd++
		}
	}
	if odd > 0 {
		out = append(out, fmt.Sprintf("%s warnings, below.", map[bool]string{true: "One layer has", false: fmt.Sprintf("%d layers have", odd)}[odd == 1]))
	}
	return out
}

// metric is a figure that is charted; less is better.
type metric struct {
	name, axis string
	of         func(metrics.Values) float64
}

var charted = []metric{
	{"1 − cosine similarity", "1 − cos", func(v metrics.Values) float64 { return 1 - float64(v.CosSim) }},
	{"Relative L1 error", "relative L1", func(v metrics.Values) float64 { return float64(v.RelL1) }},
	{"RMSE", "RMSE", func(v metrics.Values) float64 { return float64(v.RMSE) }},
}

// span says in words between what values lie.
func span(values []float64) string {
	lo, hi := math.Inf(1), math.Inf(-1)
	odd := 0
	for _, v := range values {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			odd++
			continue
		}
		lo, hi = min(lo, v), max(hi, v)
	}
	s := "no finite values"
	if hi >= lo {
		s = fmt.Sprintf("between %s and %s", number(jsonfloat.Float(lo)), number(jsonfloat.Float(hi)))
	}
	if odd > 0 {
		s += fmt.Sprintf(", %d not finite", odd)
	}
	return s
}

func hasActual(r *compare.Result) bool {
	return slices.ContainsFunc(r.Layers, func(l compare.Layer) bool { return l.ActualVsReference != nil })
}

func layersSection(r *compare.Result) (*section, error) {
	s := &section{ID: "layers", Title: "Layers"}
	both := hasActual(r)
	if len(r.Layers) > 1 {
		s.Intro = []string{"Errors against full precision, less is better. Layers are numbered as in the table."}
		for _, m := range charted {
			e := series{class: emulated, shape: draw.CircleGlyph{}, joined: true}
			a := series{class: actual, shape: ring{}, radius: 5}
			var values []float64
			for i, l := range r.Layers {
				add := func(s *series, who string, v metrics.Values) {
					y := m.of(v)
					s.points = append(s.points, svgplot.Point{X: float64(i + 1), Y: y, Title: fmt.Sprintf("%d: %s\n%s, %s: %s", i+1, clean(l.Name), m.axis, who, number(jsonfloat.Float(y)))})
				}
				add(&e, "emulated", l.EmulatedVsReference)
				values = append(values, m.of(l.EmulatedVsReference))
				if l.ActualVsReference != nil {
					add(&a, "actual", *l.ActualVsReference)
				}
			}
			svg, err := byNumber("layer", m.axis, len(r.Layers), []series{e, a}, fmt.Sprintf("%s of %d layers, emulated: %s", m.name, len(r.Layers), span(values)))
			if err != nil {
				return nil, err
			}
			c := chart{Caption: m.name, SVG: svg}
			if both {
				c.Legend = []swatch{{emulated, "dot", "emulated"}, {actual, "ring", "actual"}}
			}
			s.Charts = append(s.Charts, c)
		}
	}
	t := table{Caption: "Layers, against full precision", Columns: columns("#", "~layer", "shape", ">cos", ">rel. L1", ">RMSE", ">max. error"), Bold: map[int]bool{}}
	if both {
		t.Columns = append(t.Columns, columns(">actual: cos", ">rel. L1", ">RMSE", ">differing from emulated", ">max. ulp")...)
	}
	figures := func(v metrics.Values) []string {
		return []string{cosine(v.CosSim), number(v.RelL1), number(v.RMSE), number(v.MaxAbs)}
	}
	var em, act []metrics.Values
	for i, l := range r.Layers {
		row := append([]string{strconv.Itoa(i + 1), clean(l.Name), shape(&l)}, figures(l.EmulatedVsReference)...)
		em = append(em, l.EmulatedVsReference)
		if both {
			row = append(row, actualCells(l.Rows)...)
		}
		if l.ActualVsReference != nil {
			act = append(act, *l.ActualVsReference)
		}
		t.Rows = append(t.Rows, row)
	}
	if len(r.Layers) > 1 {
		for _, sum := range []struct {
			name string
			of   func([]metrics.Values) metrics.Values
		}{{"average", metrics.Average}, {"worst", func(v []metrics.Values) metrics.Values { return metrics.WorstOf(v).Values }}} {
			row := append([]string{"", sum.name, ""}, figures(sum.of(em))...)
			if act != nil {
				row = append(row, figures(sum.of(act))[:3]...)
				row = append(row, "", "")
			}
			t.Bold[len(t.Rows)] = true
			t.Rows = append(t.Rows, row)
		}
	}
	s.Tables = []table{t}
	if t := lseTable(r); t != nil {
		s.Tables = append(s.Tables, *t)
	}
	return s, nil
}

// lseTable makes the table of the rows' log-sum-exp, nil where it was not compared.
func lseTable(r *compare.Result) *table {
	t := &table{Caption: "Log-sum-exp of the rows' scores, against full precision", Columns: columns("#", "~layer", ">rel. L1", ">RMSE", ">max. error")}
	both := slices.ContainsFunc(r.Layers, func(l compare.Layer) bool { return l.LSE != nil && l.LSE.ActualVsEmulated != nil })
	if both {
		t.Columns = append(t.Columns, columns(">actual: rel. L1", ">RMSE", ">differing from emulated", ">max. ulp")...)
	}
	for i, l := range r.Layers {
		if l.LSE == nil {
			continue
		}
		v := l.LSE.EmulatedVsReference
		row := []string{strconv.Itoa(i + 1), clean(l.Name), number(v.RelL1), number(v.RMSE), number(v.MaxAbs)}
		if both {
			row = append(row, actualCells(*l.LSE)[1:]...)
		}
		t.Rows = append(t.Rows, row)
	}
	if t.Rows == nil {
		return nil
	}
	return t
}

// actualCells are the cells of an actual output, empty where there is none.
func actualCells(r compare.Rows) []string {
	if r.ActualVsReference == nil || r.ActualVsEmulated == nil {
		return make([]string, 5)
	}
	v, b := r.ActualVsReference, r.ActualVsEmulated
	return []string{cosine(v.CosSim), number(v.RelL1), number(v.RMSE), fmt.Sprintf("%d of %d", b.Mismatched, b.Elements), strconv.FormatUint(uint64(b.MaxULP), 10)}
}

func shape(l *compare.Layer) string {
	s := l.Shape
	out := fmt.Sprintf("%d×%d×%d×%d", s.Batch, s.Heads, s.Queries, s.HeadDim)
	if s.KVHeads != s.Heads || s.Keys != s.Queries {
		out += fmt.Sprintf(", KV %d×%d", s.KVHeads, s.Keys)
	}
	if l.Causal {
		out += " causal"
	}
	if s.DType != "" {
		out += " " + clean(s.DType)
	}
	return out
}

// headName names a head within a layer.
func headName(l *compare.Layer, h *compare.Head) string {
	if l.Shape.Batch > 1 {
		return fmt.Sprintf("batch\u00a0%d, head\u00a0%d", h.Batch, h.Head)
	}
	return fmt.Sprintf("head\u00a0%d", h.Head)
}

// headAxis names an axis of heads; over several batches heads are counted on.
func headAxis(r *compare.Result, from int) string {
	s := "head"
	if from != 0 {
		s += fmt.Sprintf(", counted from %d", from)
	}
	if slices.ContainsFunc(r.Layers, func(l compare.Layer) bool { return l.Shape.Batch > 1 }) {
		s += ", batch by batch"
	}
	return s
}

func headsSection(r *compare.Result) (*section, error) {
	type at struct{ layer, head int }
	var heads []at
	most := 0
	for i, l := range r.Layers {
		most = max(most, len(l.Heads))
		for j := range l.Heads {
			heads = append(heads, at{i, j})
		}
	}
	if heads == nil {
		return nil, nil
	}
	s := &section{ID: "heads", Title: "Heads"}
	s.Intro = []string{"The relative L1 error of each head against full precision."}
	var values []float64
	dots := series{class: emulated, shape: ring{}}
	var cells []cell
	for _, a := range heads {
		l := &r.Layers[a.layer]
		h := &l.Heads[a.head]
		v := float64(h.EmulatedVsReference.RelL1)
		title := fmt.Sprintf("%d: %s, %s\nrelative L1: %s", a.layer+1, clean(l.Name), headName(l, h), number(jsonfloat.Float(v)))
		x := a.layer + 1
		if len(r.Layers) == 1 {
			x = a.head + 1
		}
		values = append(values, v)
		dots.points = append(dots.points, svgplot.Point{X: float64(x), Y: v, Title: title})
		cells = append(cells, cell{column: a.head, row: a.layer, value: v, title: title})
	}
	label := fmt.Sprintf("relative L1 error of %d heads: %s", len(heads), span(values))
	n, x, caption := len(r.Layers), "layer", "Heads by layer, one ring each"
	if n == 1 {
		n, x, caption = most, headAxis(r, 1), "Heads"
	}
	svg, err := byNumber(x, "relative L1", n, []series{dots}, caption+": "+label)
	if err != nil {
		return nil, err
	}
	s.Charts = append(s.Charts, chart{Caption: caption, SVG: svg})
	if len(r.Layers) > 1 {
		sh := shadingOf(values)
		svg, err = cellMap(headAxis(r, 0), "layer", most, len(r.Layers), 0, 1, 1, cells, &sh, "Map of layers and heads: "+label)
		if err != nil {
			return nil, err
		}
		s.Charts = append(s.Charts, chart{Caption: "Which heads: relative L1", SVG: svg, Legend: sh.legend(values, short)})
	}
	// NaN is worse than any number, as in metrics.WorstOf.
	slices.SortStableFunc(heads, func(a, b at) int {
		x, y := r.Layers[a.layer].Heads[a.head].EmulatedVsReference.RelL1, r.Layers[b.layer].Heads[b.head].EmulatedVsReference.RelL1
		switch {
		case math.IsNaN(float64(x)) && !math.IsNaN(float64(y)):
			return -1
		case math.IsNaN(float64(y)) && !math.IsNaN(float64(x)):
			return 1
		}
		return cmp.Compare(y, x)
	})
	shown := heads[:min(worstHeads, len(heads))]
	both := false
	for _, a := range shown {
		both = both || r.Layers[a.layer].Heads[a.head].ActualVsEmulated != nil
	}
	t := table{Caption: fmt.Sprintf("The %d worst of %d heads by relative L1", len(shown), len(heads)), Columns: columns("~layer", "head", ">cos", ">rel. L1", ">RMSE", ">max. error")}
	if len(shown) == len(heads) {
		t.Caption = "All heads by relative L1, worst first"
	}
	if both {
		t.Columns = append(t.Columns, columns(">actual: cos", ">rel. L1", ">RMSE", ">differing from emulated", ">max. ulp")...)
	}
	for _, a := range shown {
		l := &r.Layers[a.layer]
		h := &l.Heads[a.head]
		v := h.EmulatedVsReference
		row := []string{fmt.Sprintf("%d: %s", a.layer+1, clean(l.Name)), headName(l, h), cosine(v.CosSim), number(v.RelL1), number(v.RMSE), number(v.MaxAbs)}
		if both {
			row = append(row, actualCells(h.Rows)...)
		}
		t.Rows = append(t.Rows, row)
	}
	s.Tables = []table{t}
	return s, nil
}

// stepClasses is the number of classes a1 to a8 of the steps.
const stepClasses = 8

func attributionSection(r *compare.Result) (*section, error) {
	s := &section{ID: "attribution", Title: "What causes the error"}
	s.Intro = []string{"Each step of the kernel alone, with all others exact: its mean squared error as a share of the kernel's. " +
		"Errors that are independent add up to 100%; what is missing or too much is how steps interact."}
	t := table{Caption: "Steps: alone, and the kernel with only that step exact", Columns: columns("~layer", "~step", ">alone: 1 − cos", ">rel. L1", ">of MSE", ">without: 1 − cos", ">rel. L1", ">of MSE"), Bold: map[int]bool{}}
	var names []string
	class := func(step string) svgplot.Class {
		i := slices.Index(names, step)
		if i < 0 {
			i = len(names)
			names = append(names, step)
		}
		return svgplot.Class(fmt.Sprintf("a%d", 1+i%stepClasses))
	}
	// A step that causes next to nothing need not say how little.
	part := func(x float64) string {
		if math.Abs(x) < 0.0005 {
			return "< 0.1%"
		}
		return percent(x)
	}
	var rects svgplot.Rects
	var rows []int
	var largest string
	top := 1.0
	for i, l := range r.Layers {
		a := l.Attribution
		if a == nil {
			continue
		}
		if whole := float64(a.Kernel.MSE); whole == 0 || math.IsNaN(whole) || math.IsInf(whole, 0) {
			s.Notes = append(s.Notes, fmt.Sprintf("Layer %d, %s: the mean squared error is %s, so there is nothing to share out.", i+1, clean(l.Name), number(a.Kernel.MSE)))
			continue
		}
		share := func(x jsonfloat.Float) float64 { return float64(x / a.Kernel.MSE) }
		name := fmt.Sprintf("%d: %s", i+1, clean(l.Name))
		row := -float64(len(rows))
		rows = append(rows, i+1)
		at, worst := 0.0, math.Inf(-1)
		for _, step := range a.Steps {
			alone := share(step.Alone.MSE)
			c := class(step.Name)
			if alone > worst {
				worst, largest = alone, fmt.Sprintf("in layer %d %s with %s", i+1, clean(step.Name), part(alone))
			}
			// A share that is no length is in the table only, and one that is far more
			// than the whole is cut.
			if alone >= 0 && at < 2 {
				to := min(at+alone, 2)
				rects = append(rects, svgplot.Rect{X0: at, X1: to, Y0: row - 0.38, Y1: row + 0.38, Class: c,
					Title: fmt.Sprintf("%s\n%s alone: %s of the mean squared error", name, clean(step.Name), part(alone))})
				at = to
			}
			t.Rows = append(t.Rows, []string{name, clean(step.Name),
				number(step.Alone.OneMinusCos), number(step.Alone.RelL1), part(alone),
				number(step.Without.OneMinusCos), number(step.Without.RelL1), part(share(step.Without.MSE))})
			name = ""
		}
		top = max(top, at)
		t.Rows = append(t.Rows,
			[]string{name, "no step (FP32 arithmetic)", number(a.Rest.OneMinusCos), number(a.Rest.RelL1), part(share(a.Rest.MSE))},
			[]string{"", "what does not add up", "", "", part(share(a.Remainder))},
			[]string{"", "the kernel", number(a.Kernel.OneMinusCos), number(a.Kernel.RelL1), "100%"})
		t.Bold[len(t.Rows)-1] = true
	}
	switch {
	case rows == nil && s.Notes == nil:
		return nil, nil
	case rows == nil:
		return s, nil
	}
	if len(rects) > maxTitled {
		for i := range rects {
			rects[i].Title = ""
		}
	}
	p := newPlot("share of the mean squared error", "layer")
	lines(p, true)
	p.Add(rects)
	p.X.Min, p.X.Max = 0, top
	var ticks plot.ConstantTicks
	for v := 0.0; v <= top+1e-9; v += 0.25 {
		ticks = append(ticks, plot.Tick{Value: v, Label: fmt.Sprintf("%.0f%%", 100*v)})
	}
	p.X.Tick.Marker = ticks
	p.Y.Min, p.Y.Max = -float64(len(rows))+0.5, 0.5
	var marks plot.ConstantTicks
	every := (len(rows) + 39) / 40
	for i, n := range rows {
		if i%every == 0 {
			marks = append(marks, plot.Tick{Value: -float64(i), Label: strconv.Itoa(n)})
		}
	}
	p.Y.Tick.Marker = marks
	svg, err := render(p, chartWidth, vg.Length(min(22*len(rows), 700)+60), fmt.Sprintf("Shares of the mean squared error by step in %s; largest %s", plural(len(rows), "layer", "layers"), largest))
	if err != nil {
		return nil, err
	}
	c := chart{Caption: "Each step alone", SVG: svg}
	for _, n := range names {
		c.Legend = append(c.Legend, swatch{Class: class(n), Text: clean(n)})
	}
	s.Charts = []chart{c}
	if len(rows) > 2 {
		s.MoreTitle, s.MoreTables = "All figures as a table", []table{t}
	} else {
		s.Tables = []table{t}
	}
	return s, nil
}

// split shows the first charts and folds the others.
func (s *section) split(charts []chart, more string) {
	if len(charts) <= unfolded+2 {
		s.Charts = append(s.Charts, charts...)
		return
	}
	s.Charts = append(s.Charts, charts[:unfolded]...)
	s.MoreCharts, s.MoreTitle = charts[unfolded:], fmt.Sprintf("%d more %s", len(charts)-unfolded, more)
}

func histogramSection(r *compare.Result) (*section, error) {
	// The axis is the same for all layers, so that they can be compared.
	lo, hi := math.Inf(1), math.Inf(-1)
	size := func(l *compare.Layer) float64 {
		if x := float64(l.ReferenceRMS); x > 0 && !math.IsInf(x, 0) {
			return x
		}
		return 1
	}
	kinds := func(l *compare.Layer) []*metrics.HistogramValues {
		k := []*metrics.HistogramValues{&l.ErrorHistogram}
		if l.ActualErrorHistogram != nil {
			k = append(k, l.ActualErrorHistogram)
		}
		return k
	}
	for i := range r.Layers {
		l := &r.Layers[i]
		for _, h := range kinds(l) {
			all := total(h)
			for j, n := range h.Counts {
				// What a chart cannot show does not stretch its axis.
				if float64(n) < 1e-4*all {
					continue
				}
				at := float64(h.MinExponent+j) - math.Log2(size(l))
				lo, hi = min(lo, at), max(hi, at+1)
			}
		}
	}
	if lo > hi {
		return nil, nil
	}
	s := &section{ID: "histograms", Title: "Sizes of errors"}
	s.Intro = []string{"How many elements have an error of which size, in steps of a factor of two, against the root mean square of the reference. Rarer than 1 in 10000 is not drawn."}
	var charts []chart
	for i := range r.Layers {
		l := &r.Layers[i]
		h := &l.ErrorHistogram
		if total(h) == 0 {
			continue
		}
		svg, err := histogram(l, size(l), lo, hi, fmt.Sprintf("Sizes of errors of layer %d: %s", i+1, largestBin(h, size(l))))
		if err != nil {
			return nil, err
		}
		c := chart{Caption: fmt.Sprintf("%d: %s", i+1, clean(l.Name)), SVG: svg, Small: true}
		var notes []string
		if float64(l.ReferenceRMS) == size(l) {
			notes = append(notes, "reference RMS "+number(l.ReferenceRMS))
		} else {
			notes = append(notes, "absolute errors, because the reference has no finite RMS other than zero")
		}
		if h.Zero > 0 {
			notes = append(notes, fmt.Sprintf("%d without any error", h.Zero))
		}
		if h.NonFinite > 0 {
			notes = append(notes, fmt.Sprintf("%d NaN or infinite", h.NonFinite))
		}
		c.Note = strings.Join(notes, "; ")
		if l.ActualErrorHistogram != nil {
			c.Legend = []swatch{{emulated, "", "emulated"}, {actual, "line", "actual"}}
		}
		charts = append(charts, c)
	}
	if charts == nil {
		return nil, nil
	}
	s.split(charts, "layers")
	return s, nil
}

// total counts the elements of a histogram, as a float because a file may hold counts
// that overflow.
func total(h *metrics.HistogramValues) float64 {
	n := float64(h.Zero) + float64(h.NonFinite)
	for _, c := range h.Counts {
		n += float64(c)
	}
	return n
}

// largestBin says where most errors are.
func largestBin(h *metrics.HistogramValues, rms float64) string {
	at := -1
	for i, n := range h.Counts {
		if at < 0 || n > h.Counts[at] {
			at = i
		}
	}
	if at < 0 {
		return "no error is finite and other than zero"
	}
	e := float64(h.MinExponent + at)
	return fmt.Sprintf("most elements, %s, have errors from %s to %s of the reference's RMS",
		percent(float64(h.Counts[at])/total(h)), short(math.Exp2(e)/rms), short(math.Exp2(e+1)/rms))
}

// histogram draws the histogram of a layer's errors, the emulated output's as bars and
// an actual one's as a line, between binary exponents lo and hi against rms.
func histogram(l *compare.Layer, rms, lo, hi float64, label string) (template.HTML, error) {
	p := newPlot("error / RMS of the reference", "of elements")
	lines(p, false)
	shift := -math.Log2(rms)
	all := total(&l.ErrorHistogram)
	var rects svgplot.Rects
	top := 0.0
	for i, n := range l.ErrorHistogram.Counts {
		at := float64(l.ErrorHistogram.MinExponent+i) + shift
		if at < lo || at+1 > hi+1e-9 {
			continue
		}
		part := float64(n) / all
		top = max(top, part)
		rects = append(rects, svgplot.Rect{X0: at + 0.06, X1: at + 0.94, Y1: part, Class: emulated,
			Title: fmt.Sprintf("emulated: %d elements (%s), errors from %s to %s of the RMS", n, percent(part), short(math.Exp2(at)), short(math.Exp2(at+1)))})
	}
	p.Add(rects)
	if a := l.ActualErrorHistogram; a != nil && total(a) > 0 {
		var steps plotter.XYs
		for i, n := range a.Counts {
			at := float64(a.MinExponent+i) + shift
			if at < lo || at+1 > hi+1e-9 {
				continue
			}
			part := float64(n) / total(a)
			top = max(top, part)
			steps = append(steps, plotter.XY{X: at, Y: part}, plotter.XY{X: at + 1, Y: part})
		}
		if steps != nil {
			line, err := plotter.NewLine(steps)
			if err != nil {
				return "", err
			}
			line.LineStyle = draw.LineStyle{Color: actual, Width: 1.5}
			p.Add(line)
		}
	}
	sc := linearOf([]float64{top})
	sc.percents()
	sc.apply(&p.Y)
	p.X.Min, p.X.Max = lo, hi
	// Powers of ten, as many as have room.
	from, to := math.Ceil(lo*math.Log10(2)), math.Floor(hi*math.Log10(2))
	every := max(1, math.Ceil((to-from)/6))
	var ticks plot.ConstantTicks
	for e := math.Ceil(from/every) * every; e <= to; e += every {
		ticks = append(ticks, plot.Tick{Value: e / math.Log10(2), Label: short(math.Pow(10, e))})
	}
	p.X.Tick.Marker = ticks
	return render(p, chartWidth, 170, label)
}

func differencesSection(r *compare.Result) (*section, error) {
	if !hasActual(r) {
		return nil, nil
	}
	s := &section{ID: "differences", Title: "Actual output against emulated output"}
	var same []string
	for i := range r.Layers {
		l := &r.Layers[i]
		b := l.ActualVsEmulated
		if b == nil {
			continue
		}
		if b.Exact() {
			same = append(same, fmt.Sprintf("Layer %d, %s: none of %d elements differs.", i+1, clean(l.Name), b.Elements))
			continue
		}
		part := section{Title: fmt.Sprintf("Layer %d, %s", i+1, clean(l.Name))}
		part.Intro = append(part.Intro, fmt.Sprintf("%d of %d elements differ (%s), by at most %d ulp and %s; relative L1 %s.",
			b.Mismatched, b.Elements, percent(ratio(b.Mismatched, b.Elements)), b.MaxULP, number(b.MaxAbs), number(b.RelL1)))
		if m := b.First; m != nil {
			part.Intro = append(part.Intro, fmt.Sprintf("The first is at batch %d, head %d, token %d, channel %d: actual %s (%s), emulated %s (%s).",
				m.Batch, m.Head, m.Token, m.Channel, clean(m.Actual), number(m.ActualValue), clean(m.Emulated), number(m.EmulatedValue)))
		}
		part.Intro = append(part.Intro, explanation(l)...)
		charts, err := differenceCharts(i, l)
		if err != nil {
			return nil, err
		}
		part.Charts = charts
		s.Parts = append(s.Parts, part)
	}
	s.Notes = same
	return s, nil
}

// explanation says which numerics give the actual output.
func explanation(l *compare.Layer) []string {
	if l.Explanation == nil {
		return nil
	}
	var out []string
	for _, line := range l.Explanation.Lines() {
		out = append(out, sentence(line))
	}
	return out
}

// differenceCharts draws where a layer's actual output differs.
func differenceCharts(i int, l *compare.Layer) ([]chart, error) {
	m := l.DifferenceMap
	if m == nil {
		return nil, nil
	}
	var charts []chart
	columns := 0
	var cells []cell
	var values []float64
	for row, blocks := range m.Blocks {
		columns = max(columns, len(blocks))
		for c, n := range blocks {
			// The last block may be shorter.
			tokens := min(m.BlockTokens, l.Shape.Queries-c*m.BlockTokens)
			part := ratio(n, int64(max(tokens, 1))*int64(max(l.Shape.HeadDim, 1)))
			values = append(values, part)
			name := fmt.Sprintf("head %d", row)
			if l.Shape.Batch > 1 && l.Shape.Heads > 0 {
				name = fmt.Sprintf("batch %d, head %d", row/l.Shape.Heads, row%l.Shape.Heads)
			}
			cells = append(cells, cell{column: c, row: row, value: part,
				title: fmt.Sprintf("%s, tokens %d to %d: %d differ (%s)", name, c*m.BlockTokens, c*m.BlockTokens+tokens-1, n, percent(part))})
		}
	}
	if cells != nil {
		sh := shadingOf(values)
		svg, err := cellMap("token", "head", columns, len(m.Blocks), 0, 0, m.BlockTokens, cells, &sh,
			fmt.Sprintf("Share of differing elements by head and block of %d tokens in layer %d: %s", m.BlockTokens, i+1, span(values)))
		if err != nil {
			return nil, err
		}
		charts = append(charts, chart{Caption: fmt.Sprintf("By head and block of %d tokens", m.BlockTokens), Note: "Share of elements that differ.", SVG: svg, Legend: sh.legend(values, percent)})
	}
	if len(m.Channels) > 0 {
		each := float64(l.Shape.Batch) * float64(l.Shape.Heads) * float64(l.Shape.Queries)
		var parts []float64
		var titles []string
		for c, n := range m.Channels {
			parts = append(parts, float64(n)/max(each, 1))
			titles = append(titles, fmt.Sprintf("channel %d: %d differ (%s)", c, n, percent(parts[c])))
		}
		svg, err := bars("channel", "differ", 0, parts, titles, actual, fmt.Sprintf("Share of differing elements by channel in layer %d: %s", i+1, span(parts)))
		if err != nil {
			return nil, err
		}
		charts = append(charts, chart{Caption: "By channel", Note: "Share of elements that differ, over all heads and tokens.", SVG: svg})
	}
	return charts, nil
}

func warningsSection(r *compare.Result) (*section, error) {
	s := &section{ID: "warnings", Title: "Warnings and counts"}
	t := table{Caption: "Values that are not ordinary numbers, by stage of the emulated kernel", Columns: columns("~layer", "~stage", ">NaN", ">infinite", ">saturated", ">zero")}
	for i, l := range r.Layers {
		for _, w := range l.Warnings {
			s.Notes = append(s.Notes, fmt.Sprintf("Layer %d, %s: %s", i+1, clean(l.Name), clean(w)))
		}
		var stages []string
		for stage := range l.Counts {
			stages = append(stages, stage)
		}
		slices.Sort(stages)
		for _, stage := range stages {
			c := l.Counts[stage]
			row := []string{fmt.Sprintf("%d: %s", i+1, clean(l.Name)), clean(stage)}
			for _, n := range []int64{c.NaN, c.Inf, c.Saturated, c.Zero} {
				row = append(row, strconv.FormatInt(n, 10))
			}
			t.Rows = append(t.Rows, row)
		}
	}
	if t.Rows != nil {
		s.Tables = []table{t}
	}
	if s.Notes == nil && s.Tables == nil {
		s.Intro = []string{"None: no NaN, no infinity, no saturated code and no zero divisor, in the input or at any stage of the kernel."}
	}
	return s, nil
}

func repeatSection(r *compare.Result) (*section, error) {
	var sources []string
	for _, l := range r.Layers {
		if l.Source != "" && !slices.Contains(sources, l.Source) {
			sources = append(sources, l.Source)
		}
	}
	s := repeat(r.Args)
	for _, f := range sources {
		s.Notes = append(s.Notes, "Read from "+clean(f))
	}
	s.Parts = []section{{Title: "What the figures mean", Notes: []string{
		"O is the reference in full precision, O′ the emulated or actual output.",
		"Cosine similarity: Σ(O·O′) / (|O|·|O′|). 1 is best.",
		"Relative L1: Σ|O−O′| / Σ|O|. RMSE: √mean((O−O′)²). Max. error: max|O−O′|.",
		"Differing elements are those whose bits differ; an ulp is the distance to the next representable value.",
	}}}
	return s, nil
}

// repeat shows the command that gave a result.
func repeat(args []string) *section {
	s := &section{ID: "repeat", Title: "How to repeat this"}
	if len(args) == 0 {
		s.Intro = []string{"The result does not say by which command it was made."}
		return s
	}
	s.Intro = []string{"The same figures again, on any machine; --format json gives what this page was made of:"}
	s.Code = shellLine(args)
	return s
}
