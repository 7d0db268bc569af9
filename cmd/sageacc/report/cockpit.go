package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"html/template"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/compare/attribute"
	"github.com/sageacc/sageacc/internal/jsonfloat"
	"github.com/sageacc/sageacc/metrics"
)

// What the script draws from. Names of fields are short, for there may be 5,000 layers
// of 32 heads; words are made here, so that the script only draws.

// figure is a number with five digits, "NaN", "+Inf" or "-Inf". Four are shown.
type figure float64

// MarshalJSON implements [json.Marshaler].
func (f figure) MarshalJSON() ([]byte, error) { return appendNumber(nil, float64(f), 5), nil }

// exact is a figure with ten digits, so that it is hardly ever rounded another way than
// in the plain table.
type exact float64

// MarshalJSON implements [json.Marshaler].
func (f exact) MarshalJSON() ([]byte, error) { return appendNumber(nil, float64(f), 10), nil }

func appendNumber(b []byte, v float64, digits int) []byte {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return strconv.AppendQuote(b, strconv.FormatFloat(v, 'g', -1, 64))
	}
	b = strconv.AppendFloat(b, v, 'g', digits, 64)
	return bytes.Replace(b, []byte("e+"), []byte("e"), 1)
}

// cockpit is the overview of one result, or of two over each other.
type cockpit struct {
	// Runs are the names of the results.
	Runs []string `json:"runs"`
	// Axis is what Label of the layers is.
	Axis string `json:"axis"`
	// States are keys and words, worst first; Rank is from which of them on they are
	// told apart by errors.
	States [][2]string `json:"states"`
	Rank   int         `json:"rank"`
	// Steps are the names of all steps that cause errors.
	Steps  []string `json:"steps"`
	Layers []row    `json:"layers"`
	Docs   string   `json:"docs"`
}

// row is a layer in the results, nil where one has it not.
type row struct {
	Name  string     `json:"n"`
	Label string     `json:"x"`
	Shape string     `json:"s"`
	Runs  []*figures `json:"r"`
}

// four are 1 - cosine similarity, relative L1, RMSE and the largest error.
type four [4]exact

func fourOf(v metrics.Values) four {
	return four{exact(1 - float64(v.CosSim)), exact(v.RelL1), exact(v.RMSE), exact(v.MaxAbs)}
}

// bits are how many elements differ, of how many, and by how many ulp at most.
type bits [3]int64

func bitsOf(b *compare.BitValues) bits { return bits{b.Mismatched, b.Elements, int64(b.MaxULP)} }

// figures are those of a layer in a result.
type figures struct {
	State    string `json:"k"`
	Warnings int    `json:"w,omitempty"`
	Emulated four   `json:"e"`
	Actual   *four  `json:"a,omitempty"`
	Bits     *bits  `json:"b,omitempty"`
	Heads    *heads `json:"h,omitempty"`
	Causes   *cause `json:"t,omitempty"`
}

// heads are the figures of heads, each a list over the heads.
type heads struct {
	// Names are those of the heads; nil if they are 0, 1, 2 and so on.
	Names    []string    `json:"n,omitempty"`
	Emulated [4][]figure `json:"e"`
	// Actual and Differ, how many elements differ and by how many ulp at most, are there
	// if every head has them.
	Actual *[4][]figure `json:"a,omitempty"`
	Differ [][2]int64   `json:"b,omitempty"`
	// Elements are those of a head, once if all have the same.
	Elements []int64 `json:"m,omitempty"`
}

// three are 1 - cosine similarity, relative L1 and the mean squared error.
type three [3]figure

func threeOf(e attribute.Error) three {
	return three{figure(e.OneMinusCos), figure(e.RelL1), figure(e.MSE)}
}

// cause is the attribution of a layer's error.
type cause struct {
	Kernel    three  `json:"k"`
	Rest      three  `json:"r"`
	Remainder figure `json:"m"`
	Steps     []step `json:"s"`
}

// step is the index of a step's name, its error alone, and that without it.
type step struct {
	Step    int   `json:"i"`
	Alone   three `json:"a"`
	Without three `json:"w"`
}

// detail is what is shown of a layer that is looked at.
type detail struct {
	// Facts are pairs of words.
	Facts    [][2]string `json:"facts"`
	Findings []string    `json:"findings,omitempty"`
	Warnings []string    `json:"warnings,omitempty"`
	// Why says where an actual output differs, and which numerics give it.
	Why    []string   `json:"why,omitempty"`
	RMS    figure     `json:"rms"`
	Errors *histogram `json:"errors,omitempty"`
	Actual *histogram `json:"actual,omitempty"`
	Map    *place     `json:"map,omitempty"`
	// Counts are stage, NaN, infinite, saturated, zero.
	Counts [][5]any  `json:"counts,omitempty"`
	LSE    *sumsOnly `json:"lse,omitempty"`
}

type histogram struct {
	Min       int     `json:"min"`
	Counts    []int64 `json:"n"`
	Zero      int64   `json:"zero"`
	NonFinite int64   `json:"odd"`
}

// place is a difference map.
type place struct {
	Tokens int64 `json:"t"`
	// Elements are those of a block and of a channel.
	Queries  int       `json:"q"`
	Dim      int       `json:"d"`
	Each     float64   `json:"each"`
	Blocks   [][]int64 `json:"b"`
	Channels []int64   `json:"c"`
}

// sumsOnly are the figures of the log-sum-exp.
type sumsOnly struct {
	Emulated four  `json:"e"`
	Actual   *four `json:"a,omitempty"`
	Bits     *bits `json:"b,omitempty"`
}

// States of a layer, worst first: the kinds of findings, and what there is beside them.
var states = []state{
	{string(compare.NotFinite), compare.NotFinite.Words()},
	{string(compare.NotThisKernel), compare.NotThisKernel.Words()},
	{string(compare.Differs), compare.Differs.Words()},
	{string(compare.BeyondBound), compare.BeyondBound.Words()},
	{string(compare.WrongLayout), compare.WrongLayout.Words()},
	{string(compare.SuspiciousInput), compare.SuspiciousInput.Words()},
	{"warn", "warning"},
	{"exact", "bit-exact"},
	{"none", "no actual output"},
}

// rank is a state's place among those that are worse than others; the last three are
// told apart by their errors.
func rank(key string) int {
	return min(slices.IndexFunc(states, func(s state) bool { return s.Key == key }), 6)
}

// finite reports whether all figures are.
func finite(v metrics.Values) bool {
	for _, x := range []jsonfloat.Float{v.CosSim, v.RelL1, v.RMSE, v.MaxAbs} {
		if x-x != 0 {
			return false
		}
	}
	return true
}

// ownState tells what a layer is by its figures.
func ownState(l *compare.Layer) string {
	switch b := l.ActualVsEmulated; {
	case !finite(l.EmulatedVsReference) || l.ActualVsReference != nil && !finite(*l.ActualVsReference) || l.ActualNonFinite != nil:
		return string(compare.NotFinite)
	case b != nil && !b.Exact():
		return string(compare.Differs)
	case len(l.Warnings) > 0:
		return "warn"
	case b != nil:
		return "exact"
	}
	return "none"
}

// seen is a layer of a result, with what the verdict finds.
type seen struct {
	*compare.Layer
	state    string
	findings []compare.Finding
}

// worse orders layers, worst first: by state, and then by their larger relative L1
// error.
func worse(a, b *seen) bool {
	if x, y := rank(a.state), rank(b.state); x != y {
		return x < y
	}
	err := func(l *seen) float64 {
		e := float64(l.EmulatedVsReference.RelL1)
		if l.ActualVsReference != nil {
			e = max(e, float64(l.ActualVsReference.RelL1)) // NaN if one is
		}
		return e
	}
	p, q := err(a), err(b)
	if math.IsNaN(p) || math.IsNaN(q) {
		return math.IsNaN(p) && !math.IsNaN(q)
	}
	return p > q
}

// joined is a layer in each of the results, nil where one has it not.
type joined []*seen

// any returns the layer, of the first result that has it.
func (p joined) any() *seen {
	return p[slices.IndexFunc(p, func(l *seen) bool { return l != nil })]
}

// last returns the layer, of the last result that has it, which is the newest.
func (p joined) last() *seen {
	for i := len(p) - 1; i > 0; i-- {
		if p[i] != nil {
			return p[i]
		}
	}
	return p.any()
}

// join puts the layers of results together by name, those of the first in front.
func join(results []*compare.Result) []joined {
	var out []joined
	at := map[string]int{}
	for k, r := range results {
		found := map[string][]compare.Finding{}
		if r.Verdict != nil {
			for _, f := range r.Verdict.Findings {
				found[f.Layer] = append(found[f.Layer], f)
			}
		}
		for i := range r.Layers {
			l := &seen{Layer: &r.Layers[i], state: ownState(&r.Layers[i]), findings: found[r.Layers[i].Name]}
			for _, f := range l.findings {
				if n := rank(string(f.Kind)); n >= 0 && n < rank(l.state) {
					l.state = string(f.Kind)
				}
			}
			n, ok := at[l.Name]
			if !ok {
				n = len(out)
				at[l.Name] = n
				out = append(out, make(joined, len(results)))
			}
			out[n][k] = l
		}
	}
	return out
}

// several reports whether results are laid over each other.
func (in *Input) several() bool { return len(in.Results) > 1 }

// letter is what a result is called for short.
func letter(k int) string { return string(rune('A' + k)) }

// names are what the results are called.
func (in *Input) names() []string {
	var out []string
	for k := range in.Results {
		n := letter(k)
		if k < len(in.Names) && in.Names[k] != "" {
			n += ": " + clean(in.Names[k])
		}
		out = append(out, n)
	}
	return out
}

// overview makes what maps and table are drawn from.
func overview(in *Input, layers []joined) *cockpit {
	c := &cockpit{Runs: in.names(), Rank: rank("none"), Steps: []string{}, Docs: docsURL}
	for _, s := range states {
		c.States = append(c.States, [2]string{s.Key, s.Text})
	}
	steps := map[string]int{}
	index := func(name string) int {
		name = clean(name)
		i, ok := steps[name]
		if !ok {
			i = len(c.Steps)
			steps[name] = i
			c.Steps = append(c.Steps, name)
		}
		return i
	}
	var names []string
	for _, p := range layers {
		r := row{Name: clean(p.any().Name), Shape: shape(p.any().Layer)}
		for _, l := range p {
			var f *figures
			if l != nil {
				f = figuresOf(l, index)
			}
			r.Runs = append(r.Runs, f)
		}
		names = append(names, r.Name)
		c.Layers = append(c.Layers, r)
	}
	axis, labels := axisOf(names)
	c.Axis = axis
	for i := range c.Layers {
		c.Layers[i].Label = labels[i]
	}
	return c
}

func figuresOf(l *seen, index func(step string) int) *figures {
	f := &figures{State: l.state, Warnings: len(l.Warnings), Emulated: fourOf(l.EmulatedVsReference)}
	if l.ActualVsReference != nil && l.ActualVsEmulated != nil {
		a, b := fourOf(*l.ActualVsReference), bitsOf(l.ActualVsEmulated)
		f.Actual, f.Bits = &a, &b
	}
	if len(l.Heads) > 0 {
		f.Heads = headsOf(l.Layer)
	}
	if a := l.Attribution; a != nil {
		f.Causes = &cause{Kernel: threeOf(a.Kernel), Rest: threeOf(a.Rest), Remainder: figure(a.Remainder), Steps: []step{}}
		for _, s := range a.Steps {
			f.Causes.Steps = append(f.Causes.Steps, step{index(s.Name), threeOf(s.Alone), threeOf(s.Without)})
		}
	}
	return f
}

func headsOf(l *compare.Layer) *heads {
	h := new(heads)
	plain, actual := true, true
	for i := range l.Heads {
		plain = plain && l.Shape.Batch <= 1 && l.Heads[i].Batch == 0 && l.Heads[i].Head == i
		actual = actual && l.Heads[i].ActualVsReference != nil && l.Heads[i].ActualVsEmulated != nil
	}
	if actual {
		h.Actual = new([4][]figure)
	}
	for i := range l.Heads {
		x := &l.Heads[i]
		for k, v := range fourOf(x.EmulatedVsReference) {
			h.Emulated[k] = append(h.Emulated[k], figure(v))
		}
		if actual {
			for k, v := range fourOf(*x.ActualVsReference) {
				h.Actual[k] = append(h.Actual[k], figure(v))
			}
			b := x.ActualVsEmulated
			h.Differ = append(h.Differ, [2]int64{b.Mismatched, int64(b.MaxULP)})
			h.Elements = append(h.Elements, b.Elements)
		}
		if !plain {
			h.Names = append(h.Names, fmt.Sprintf("%d/%d", x.Batch, x.Head))
		}
	}
	if e := slices.Compact(slices.Clone(h.Elements)); len(e) == 1 {
		h.Elements = e
	}
	return h
}

// axisOf finds the short labels of layers on an axis: what sets their names apart,
// if that is short, and else their numbers from 1.
func axisOf(names []string) (axis string, labels []string) {
	const most = 5
	if len(names) > 1 {
		prefix, suffix := names[0], names[0]
		for _, n := range names[1:] {
			for !strings.HasPrefix(n, prefix) {
				prefix = prefix[:len(prefix)-1]
			}
			for !strings.HasSuffix(n, suffix) {
				suffix = suffix[1:]
			}
		}
		// Digits belong to what differs, in "l.10" and "l.11" too.
		prefix = strings.TrimRight(prefix, "0123456789")
		suffix = strings.TrimLeft(suffix, "0123456789")
		good := true
		for _, n := range names {
			if len(n) <= len(prefix)+len(suffix) || len(n)-len(prefix)-len(suffix) > most {
				good = false
				break
			}
			labels = append(labels, n[len(prefix):len(n)-len(suffix)])
		}
		if good {
			return "layer: " + elide(prefix, 24) + "*" + elide(suffix, 24), labels
		}
	}
	labels = nil
	for i := range names {
		labels = append(labels, strconv.Itoa(i+1))
	}
	return "layer, numbered as in the table", labels
}

// A difference map has as many cells as there is room for in the page, but at least
// fewestBlocks columns.
const (
	mapCells     = 256 << 10
	fewestBlocks = 8
)

// detailOf is what is shown of a layer alone; cells is how many a map may have.
func detailOf(l *seen, cells int) *detail {
	d := &detail{RMS: figure(l.ReferenceRMS)}
	for _, f := range l.findings {
		d.Findings = append(d.Findings, clean(f.Kind.Words()+": "+f.Text))
	}
	add := func(key, value string) {
		if value != "" {
			d.Facts = append(d.Facts, [2]string{key, clean(value)})
		}
	}
	add("Shape", shape(l.Layer))
	if l.SMScale != 0 {
		add("Softmax scale", digits(l.SMScale, 6))
	}
	add("Read from", l.Source)
	add("Synthetic", l.Synthetic)
	if c := l.Confidence; c != nil && l.Sample != nil {
		add("Sample", fmt.Sprintf("%d of %d tiles of each head; with 95%% confidence", l.Sample.Tiles, l.Sample.Of))
		add("Emulated kernel", c.EmulatedVsReference.String())
		if c.ActualVsReference != nil {
			add("Actual output", c.ActualVsReference.String())
			add("Actual against emulated", c.ActualVsEmulated.String())
		}
	}
	for _, w := range l.Warnings {
		d.Warnings = append(d.Warnings, clean(w))
	}
	if b := l.ActualVsEmulated; b != nil && !b.Exact() {
		d.Why = append(d.Why, fmt.Sprintf("%d of %d elements differ (%s), by at most %d ulp and %s; relative L1 %s.",
			b.Mismatched, b.Elements, percent(ratio(b.Mismatched, b.Elements)), b.MaxULP, number(b.MaxAbs), number(b.RelL1)))
		if m := b.First; m != nil {
			d.Why = append(d.Why, fmt.Sprintf("The first is at batch %d, head %d, token %d, channel %d: actual %s (%s), emulated %s (%s).",
				m.Batch, m.Head, m.Token, m.Channel, clean(m.Actual), number(m.ActualValue), clean(m.Emulated), number(m.EmulatedValue)))
		}
	}
	if x := l.Explanation; x != nil {
		for _, line := range x.Lines() {
			d.Why = append(d.Why, sentence(line))
		}
	}
	d.Errors = histogramOf(&l.ErrorHistogram)
	if h := l.ActualErrorHistogram; h != nil {
		d.Actual = histogramOf(h)
	}
	if l.DifferenceMap != nil {
		d.Map = placeOf(l.Layer, cells)
	}
	var stages []string
	for stage := range l.Counts {
		stages = append(stages, stage)
	}
	slices.Sort(stages)
	for _, s := range stages {
		c := l.Counts[s]
		d.Counts = append(d.Counts, [5]any{clean(s), c.NaN, c.Inf, c.Saturated, c.Zero})
	}
	if r := l.LSE; r != nil {
		d.LSE = &sumsOnly{Emulated: fourOf(r.EmulatedVsReference)}
		if r.ActualVsReference != nil && r.ActualVsEmulated != nil {
			a, b := fourOf(*r.ActualVsReference), bitsOf(r.ActualVsEmulated)
			d.LSE.Actual, d.LSE.Bits = &a, &b
		}
	}
	return d
}

// histogramOf returns nil for an empty histogram.
func histogramOf(h *metrics.HistogramValues) *histogram {
	if len(h.Counts) == 0 && h.Zero == 0 && h.NonFinite == 0 {
		return nil
	}
	return &histogram{h.MinExponent, append([]int64{}, h.Counts...), h.Zero, h.NonFinite}
}

// placeOf puts blocks of tokens together until the map has at most so many cells.
func placeOf(l *compare.Layer, cells int) *place {
	m, s := l.DifferenceMap, l.Shape
	p := &place{Tokens: int64(m.BlockTokens), Queries: s.Queries, Dim: max(s.HeadDim, 1), Channels: append([]int64{}, m.Channels...),
		Each: max(1, float64(s.Batch)*float64(s.Heads)*float64(s.Queries))}
	p.Blocks = make([][]int64, len(m.Blocks))
	columns := 0
	for i, b := range m.Blocks {
		p.Blocks[i] = append([]int64{}, b...)
		columns = max(columns, len(b))
	}
	for columns > fewestBlocks && columns*len(p.Blocks) > cells && p.Tokens < math.MaxInt64/2 {
		for i, b := range p.Blocks {
			half := make([]int64, (len(b)+1)/2)
			for k, n := range b {
				half[k/2] += n
			}
			p.Blocks[i] = half
		}
		p.Tokens, columns = 2*p.Tokens, (columns+1)/2
	}
	return p
}

// encode makes JSON fit for a script element: json.Marshal escapes <, > and &.
func encode(v any) (template.JS, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("the page's data: %w", err)
	}
	return template.JS(b), nil
}
