// Package report turns a result of compare or table into one HTML page: summary,
// charts by layer and head, error histograms, the worst heads, attribution and
// difference maps. The page needs no network; it is light or dark as the reader's
// system is, and reads on a phone.
//
// Charts are drawn by gonum.org/v1/plot as SVG within the page.
package report

import (
	"bytes"
	"cmp"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/internal/jsonfloat"
	"github.com/sageacc/sageacc/internal/render"
	"github.com/sageacc/sageacc/metrics"
	"github.com/sageacc/sageacc/tables"
)

// Input is a result that a page is made of: one of the two.
type Input struct {
	Compare *compare.Result
	Tables  *tables.Result
}

// Open reads a result file.
func Open(path string) (*Input, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	in, err := Read(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return in, nil
}

// Read reads what compare or table wrote with --format json.
func Read(r io.Reader) (*Input, error) {
	text, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	var head struct {
		Schema string `json:"schema"`
	}
	if err := json.Unmarshal(text, &head); err != nil {
		return nil, fmt.Errorf("not a result: %w", err)
	}
	in := &Input{}
	switch head.Schema {
	case compare.Schema:
		if err := json.Unmarshal(text, &in.Compare); err != nil {
			return nil, err
		}
		return in, check(in.Compare)
	case tables.Schema:
		if err := json.Unmarshal(text, &in.Tables); err != nil {
			return nil, err
		}
		if len(in.Tables.Tables) == 0 {
			return nil, errors.New("the result has no tables")
		}
		return in, nil
	case "":
		return nil, errors.New("not a result: it has no schema")
	}
	return nil, fmt.Errorf("a report cannot show schema %q (it shows %s and %s)", head.Schema, compare.Schema, tables.Schema)
}

// check reports what would make charts senseless; a file may hold anything.
func check(r *compare.Result) error {
	if len(r.Layers) == 0 {
		return errors.New("the result has no layers")
	}
	for _, l := range r.Layers {
		if h := &l.ErrorHistogram; len(h.Counts) > 4096 || slices.ContainsFunc(h.Counts, func(n int64) bool { return n < 0 }) {
			return fmt.Errorf("layer %q: the error histogram is not one", l.Name)
		}
		if m := l.DifferenceMap; m != nil {
			for _, row := range m.Blocks {
				if len(row) != len(m.Blocks[0]) || slices.ContainsFunc(row, func(n int64) bool { return n < 0 }) {
					return fmt.Errorf("layer %q: the difference map is not one", l.Name)
				}
			}
		}
	}
	return nil
}

//go:embed page.html
var pageText string

//go:embed page.css
var styleText string

var page = template.Must(template.New("page").Parse(pageText))

// view is what the template shows.
type view struct {
	Title   string
	Style   template.CSS
	Command string
	Facts   [][2]string
	Verdict []string
	// Sections in order; Charts are SVG from this package.
	Sections []section
}

type section struct {
	ID, Title string
	Text      []string
	Charts    []figure
	Tables    []table
}

type figure struct {
	SVG     template.HTML
	Caption string
	// Wide figures take the whole width.
	Wide bool
}

type table struct {
	Caption string
	Head    []string
	Rows    [][]string
}

// Write writes the page. command, if not empty, is shown as what made the result.
func Write(w io.Writer, in *Input, command string) error {
	v := &view{Style: template.CSS(styleText), Command: command}
	var err error
	if in.Compare != nil {
		err = v.compare(in.Compare)
	} else {
		err = v.tables(in.Tables)
	}
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := page.Execute(&b, v); err != nil {
		return err
	}
	_, err = w.Write(b.Bytes())
	return err
}

func (v *view) compare(r *compare.Result) error {
	k := r.Kernel
	v.Title = "sageacc: " + k.Name
	config := fmt.Sprintf("QK int%d %s, smooth %s; PV %s, accumulated in %s", k.QKBits, k.QKGranularity, k.Smooth, k.PVDType, k.PVAccum)
	if k.Variant != "" {
		config += "; variant " + k.Variant
	}
	v.Facts = [][2]string{
		{"Kernel", fmt.Sprintf("%s on %s: %s", k.Name, k.Arch, k.Program)}, {"Configuration", config}, {"PV unit", k.PVUnit},
		{"Special functions", k.SpecialFunctions}, {"Reference", r.Reference}, {"Layers", strconv.Itoa(len(r.Layers))},
	}
	v.Verdict = verdict(r)
	for _, add := range []func(*compare.Result) error{v.byLayer, v.byHead, v.histograms, v.attribution, v.differences} {
		if err := add(r); err != nil {
			return err
		}
	}
	v.warnings(r)
	v.layerTable(r)
	return nil
}

// verdict says the result in a few sentences.
func verdict(r *compare.Result) []string {
	var values []metrics.Values
	elements, differing, with := int64(0), int64(0), 0
	for _, l := range r.Layers {
		values = append(values, l.EmulatedVsReference)
		if b := l.ActualVsEmulated; b != nil {
			with++
			elements += b.Elements
			differing += b.Mismatched
		}
	}
	avg, worst := metrics.Average(values), metrics.WorstOf(values)
	out := []string{fmt.Sprintf("On average over %s the kernel's output has a cosine similarity of %s and a relative L1 error of %s to full precision.",
		plural(len(r.Layers), "layer"), number(avg.CosSim), number(avg.RelL1))}
	if len(r.Layers) > 1 {
		out = append(out, fmt.Sprintf("The worst layer by relative L1 is %s: %s (cosine similarity %s).",
			r.Layers[worst.RelL1At].Name, number(worst.RelL1), number(values[worst.RelL1At].CosSim)))
	}
	switch {
	case with == 0:
		out = append(out, "There is no actual GPU output: whether a kernel computes this has not been looked at.")
	case differing == 0:
		out = append(out, fmt.Sprintf("The actual output of %s equals the emulated kernel bit for bit, all %d elements.", plural(with, "layer"), elements))
	default:
		out = append(out, fmt.Sprintf("The actual output of %s is not the emulated kernel's: %d of %d elements differ.", plural(with, "layer"), differing, elements))
	}
	var made []string
	for _, l := range r.Layers {
		if l.Synthetic != "" && !slices.Contains(made, l.Synthetic) {
			made = append(made, l.Synthetic)
		}
	}
	if made != nil {
		out = append(out, "Synthetic activations, not recorded ones: "+strings.Join(made, "; ")+".")
	}
	return out
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// number writes a figure with the digits that matter.
func number(x jsonfloat.Float) string {
	f := float64(x)
	switch {
	case math.IsNaN(f) || math.IsInf(f, 0):
		return strconv.FormatFloat(f, 'g', -1, 64)
	case f > 0.9 && f < 1:
		return strconv.FormatFloat(f, 'f', 6, 64)
	}
	return strconv.FormatFloat(f, 'g', 4, 64)
}

func (v *view) byLayer(r *compare.Result) error {
	s := section{ID: "layers", Title: "By layer"}
	if len(r.Layers) == 1 {
		return nil
	}
	for _, c := range []struct {
		title string
		get   func(metrics.Values) float64
	}{
		{"1 - cosine similarity", func(x metrics.Values) float64 { return 1 - float64(x.CosSim) }},
		{"relative L1", func(x metrics.Values) float64 { return float64(x.RelL1) }},
		{"RMSE", func(x metrics.Values) float64 { return float64(x.RMSE) }},
	} {
		var em, ac []float64
		for _, l := range r.Layers {
			em = append(em, c.get(l.EmulatedVsReference))
			if l.ActualVsReference != nil {
				ac = append(ac, c.get(*l.ActualVsReference))
			} else {
				ac = append(ac, math.NaN())
			}
		}
		series := []line{{"emulated", em}}
		if slices.ContainsFunc(ac, func(x float64) bool { return x == x }) {
			series = append(series, line{"actual", ac})
		}
		svg, err := lines(c.title, "layer (in the order of the table below)", series)
		if err != nil {
			return err
		}
		s.Charts = append(s.Charts, figure{SVG: svg, Caption: fmt.Sprintf("Error against full precision: %s of each layer.", c.title)})
	}
	v.Sections = append(v.Sections, s)
	return nil
}

// headRow is a head for the table of the worst.
type headRow struct {
	layer string
	compare.Head
}

func (v *view) byHead(r *compare.Result) error {
	var all []headRow
	var names []string
	var grid [][]float64
	for _, l := range r.Layers {
		if len(l.Heads) == 0 {
			continue
		}
		var row []float64
		for _, h := range l.Heads {
			all = append(all, headRow{l.Name, h})
			row = append(row, float64(h.EmulatedVsReference.RelL1))
		}
		names = append(names, l.Name)
		grid = append(grid, row)
	}
	if all == nil {
		return nil
	}
	s := section{ID: "heads", Title: "By head"}
	svg, err := heat("relative L1", "head (batch by batch)", "layer", grid)
	if err != nil {
		return err
	}
	s.Charts = append(s.Charts, figure{SVG: svg, Wide: true, Caption: fmt.Sprintf(
		"Relative L1 of each head, emulated against full precision; a stronger colour is worse, from %s. Layers from the bottom: %s.", span(grid), abridged(names))})
	slices.SortStableFunc(all, func(a, b headRow) int {
		return cmp.Compare(key(b.EmulatedVsReference.RelL1), key(a.EmulatedVsReference.RelL1))
	})
	const most = 10
	t := table{Caption: fmt.Sprintf("The worst %d of %d heads by relative L1", min(most, len(all)), len(all)), Head: []string{"layer", "batch", "head", "cosine", "relative L1", "RMSE", "largest error", "actual differs"}}
	for _, h := range all[:min(most, len(all))] {
		e := h.EmulatedVsReference
		differs := ""
		if b := h.ActualVsEmulated; b != nil {
			differs = fmt.Sprintf("%d of %d", b.Mismatched, b.Elements)
		}
		t.Rows = append(t.Rows, []string{h.layer, strconv.Itoa(h.Batch), strconv.Itoa(h.Head.Head), number(e.CosSim), number(e.RelL1), number(e.RMSE), number(e.MaxAbs), differs})
	}
	s.Tables = append(s.Tables, t)
	v.Sections = append(v.Sections, s)
	return nil
}

// key orders figures; NaN is worst.
func key(x jsonfloat.Float) float64 {
	if math.IsNaN(float64(x)) {
		return math.Inf(1)
	}
	return float64(x)
}

// abridged lists names, only the first and the last of many.
func abridged(names []string) string {
	if len(names) > 6 {
		names = append(slices.Clone(names[:3]), "...", names[len(names)-1])
	}
	return strings.Join(names, ", ")
}

// span says the range of a grid's numbers.
func span(grid [][]float64) string {
	lo, hi := math.Inf(1), math.Inf(-1)
	for _, row := range grid {
		for _, x := range row {
			if x-x == 0 {
				lo, hi = min(lo, x), max(hi, x)
			}
		}
	}
	return fmt.Sprintf("%s to %s", number(jsonfloat.Float(lo)), number(jsonfloat.Float(hi)))
}

func (v *view) histograms(r *compare.Result) error {
	s := section{ID: "histogram", Title: "Sizes of the errors"}
	var total metrics.HistogramValues
	for _, l := range r.Layers {
		total = add(total, l.ErrorHistogram)
	}
	if len(total.Counts) == 0 {
		return nil
	}
	draw := func(h metrics.HistogramValues, what string) error {
		svg, err := histogram(h)
		if err != nil {
			return err
		}
		text := fmt.Sprintf("Absolute errors of the emulated output, %s. Each bar is a factor of two; %d errors are exactly zero", what, h.Zero)
		if h.NonFinite > 0 {
			text += fmt.Sprintf(", %d are not finite", h.NonFinite)
		}
		s.Charts = append(s.Charts, figure{SVG: svg, Caption: text + "."})
		return nil
	}
	if err := draw(total, "all layers"); err != nil {
		return err
	}
	worst := slices.MaxFunc(r.Layers, func(a, b compare.Layer) int {
		return cmp.Compare(key(a.EmulatedVsReference.RelL1), key(b.EmulatedVsReference.RelL1))
	})
	if len(r.Layers) > 1 && len(worst.ErrorHistogram.Counts) > 0 {
		if err := draw(worst.ErrorHistogram, "the worst layer by relative L1: "+worst.Name); err != nil {
			return err
		}
	}
	v.Sections = append(v.Sections, s)
	return nil
}

// add sums two histograms.
func add(a, b metrics.HistogramValues) metrics.HistogramValues {
	switch {
	case len(b.Counts) == 0:
		b.Counts, b.MinExponent = nil, a.MinExponent
	case len(a.Counts) == 0:
		a.MinExponent = b.MinExponent
	}
	lo := min(a.MinExponent, b.MinExponent)
	hi := max(a.MinExponent+len(a.Counts), b.MinExponent+len(b.Counts))
	// Both exponents come from a file.
	if hi-lo > 1<<16 || hi < lo {
		return a
	}
	out := metrics.HistogramValues{MinExponent: lo, Counts: make([]int64, hi-lo), Zero: a.Zero + b.Zero, NonFinite: a.NonFinite + b.NonFinite}
	for _, h := range []metrics.HistogramValues{a, b} {
		for i, n := range h.Counts {
			out.Counts[h.MinExponent-lo+i] += n
		}
	}
	return out
}

func (v *view) attribution(r *compare.Result) error {
	s := section{ID: "attribution", Title: "What causes the error", Text: []string{
		"Each step alone, with every other exact; the share is of the kernel's mean squared error. What does not add up is because errors interact.",
	}}
	for _, l := range r.Layers {
		a := l.Attribution
		if a == nil {
			continue
		}
		whole := float64(a.Kernel.MSE)
		share := func(mse jsonfloat.Float) float64 { return float64(mse) / whole }
		var names []string
		var shares []float64
		t := table{Caption: l.Name, Head: []string{"step", "alone: 1 - cosine", "relative L1", "of the MSE", "without: relative L1", "of the MSE"}}
		percent := func(x float64) string { return strconv.FormatFloat(100*x, 'f', 1, 64) + "%" }
		for _, step := range a.Steps {
			names = append(names, step.Name)
			shares = append(shares, share(step.Alone.MSE))
			t.Rows = append(t.Rows, []string{
				step.Name, number(step.Alone.OneMinusCos), number(step.Alone.RelL1), percent(share(step.Alone.MSE)),
				number(step.Without.RelL1), percent(share(step.Without.MSE)),
			})
		}
		t.Rows = append(t.Rows, []string{"what does not add up", "", "", percent(float64(a.Remainder) / whole), "", ""})
		if math.IsNaN(whole) || math.IsInf(whole, 0) || whole == 0 {
			s.Text = append(s.Text, l.Name+": the error is zero or not finite; there is nothing to share out.")
			continue
		}
		svg, err := bars("share of the mean squared error", names, shares)
		if err != nil {
			return err
		}
		s.Charts = append(s.Charts, figure{SVG: svg, Caption: l.Name + ": each step alone."})
		s.Tables = append(s.Tables, t)
	}
	if len(s.Charts)+len(s.Text) > 1 {
		v.Sections = append(v.Sections, s)
	}
	return nil
}

func (v *view) differences(r *compare.Result) error {
	s := section{ID: "differences", Title: "Where the actual output differs"}
	for _, l := range r.Layers {
		b := l.ActualVsEmulated
		if b == nil || b.Mismatched == 0 {
			continue
		}
		s.Text = append(s.Text, fmt.Sprintf("%s: %d of %d elements differ, by up to %d units in the last place.", l.Name, b.Mismatched, b.Elements, b.MaxULP))
		if b.First != nil {
			s.Text = append(s.Text, l.Name+": "+render.Mismatch(b.First)+".")
		}
		if l.Explanation != nil {
			for _, line := range l.Explanation.Lines() {
				s.Text = append(s.Text, l.Name+": "+line+".")
			}
		}
		m := l.DifferenceMap
		if m == nil || len(m.Blocks) == 0 || len(m.Blocks[0]) == 0 {
			continue
		}
		grid := make([][]float64, len(m.Blocks))
		for i, row := range m.Blocks {
			for _, n := range row {
				grid[i] = append(grid[i], float64(n))
			}
		}
		svg, err := heat("differing elements", fmt.Sprintf("block of %d tokens", m.BlockTokens), "head", grid)
		if err != nil {
			return err
		}
		s.Charts = append(s.Charts, figure{SVG: svg, Wide: true, Caption: fmt.Sprintf("%s: differing elements by head and block of tokens; a stronger colour is more, from %s.", l.Name, span(grid))})
		if len(m.Channels) > 0 {
			channels := make([]float64, len(m.Channels))
			for i, n := range m.Channels {
				channels[i] = float64(n)
			}
			if svg, err = columns("differing elements", "channel", channels); err != nil {
				return err
			}
			s.Charts = append(s.Charts, figure{SVG: svg, Caption: l.Name + ": differing elements by channel."})
		}
	}
	if s.Text != nil {
		v.Sections = append(v.Sections, s)
	}
	return nil
}

func (v *view) warnings(r *compare.Result) {
	s := section{ID: "warnings", Title: "Warnings"}
	for _, l := range r.Layers {
		for _, w := range l.Warnings {
			s.Text = append(s.Text, l.Name+": "+w+".")
		}
	}
	if s.Text != nil {
		v.Sections = append(v.Sections, s)
	}
}

func (v *view) layerTable(r *compare.Result) {
	t := table{Head: []string{"#", "layer", "shape", "comparison", "cosine", "relative L1", "RMSE", "largest error", "differing"}}
	for i, l := range r.Layers {
		shape := fmt.Sprintf("%dx%dx%dx%d %s", l.Shape.Batch, l.Shape.Heads, l.Shape.Queries, l.Shape.HeadDim, l.Shape.DType)
		if l.Shape.KVHeads != l.Shape.Heads || l.Shape.Keys != l.Shape.Queries {
			shape += fmt.Sprintf(" (keys %dx%d)", l.Shape.KVHeads, l.Shape.Keys)
		}
		if l.Causal {
			shape += ", causal"
		}
		row := func(what string, x metrics.Values, differing string) {
			t.Rows = append(t.Rows, []string{strconv.Itoa(i), l.Name, shape, what, number(x.CosSim), number(x.RelL1), number(x.RMSE), number(x.MaxAbs), differing})
		}
		row("emulated, reference", l.EmulatedVsReference, "")
		if l.ActualVsReference != nil {
			row("actual, reference", *l.ActualVsReference, "")
		}
		if b := l.ActualVsEmulated; b != nil {
			row("actual, emulated", b.Values, fmt.Sprintf("%d of %d", b.Mismatched, b.Elements))
		}
	}
	v.Sections = append(v.Sections, section{ID: "table", Title: "All layers", Tables: []table{t}})
}

func (v *view) tables(r *tables.Result) error {
	v.Title = "sageacc: accuracy tables"
	v.Facts = [][2]string{{"Reference", r.Reference}, {"Layers", fmt.Sprintf("%d: %s", len(r.Layers), abridged(r.Layers))}}
	if len(r.Synthetic) > 0 {
		v.Verdict = append(v.Verdict, "Synthetic activations, not recorded ones: "+strings.Join(r.Synthetic, "; ")+".")
	}
	v.Verdict = append(v.Verdict, "Beside the measured figures stand those of SageAttention2 (arXiv 2411.10958), which were measured on other activations: the order of methods can be compared, the digits cannot.")
	for i, t := range r.Tables {
		s := section{ID: "table" + strconv.Itoa(i), Title: t.Title, Text: []string{t.Setup + "."}}
		out := table{Head: []string{"method", "cosine", "relative L1", "RMSE", "worst cosine", "worst L1", "worst RMSE", "paper: cosine", "L1", "RMSE"}}
		var names []string
		var here, paper []float64
		for _, row := range t.Rows {
			a, w := row.Average, row.Worst
			cells := []string{row.Method, number(a.CosSim), number(a.RelL1), number(a.RMSE), number(w.CosSim), number(w.RelL1), number(w.RMSE)}
			p := math.NaN()
			if row.Paper != nil {
				x := row.Paper.Average
				p = x.RelL1
				cells = append(cells, number(jsonfloat.Float(x.CosSim)), number(jsonfloat.Float(x.RelL1)), number(jsonfloat.Float(x.RMSE)))
			} else {
				cells = append(cells, "", "", "")
			}
			out.Rows = append(out.Rows, cells)
			names, here, paper = append(names, row.Method), append(here, float64(a.RelL1)), append(paper, p)
		}
		svg, err := groups("relative L1", names, here, paper)
		if err != nil {
			return err
		}
		s.Charts = append(s.Charts, figure{SVG: svg, Wide: true, Caption: "Relative L1 of each method, average over layers: here, and in the paper where it has a figure."})
		s.Tables = append(s.Tables, out)
		v.Sections = append(v.Sections, s)
	}
	return nil
}
