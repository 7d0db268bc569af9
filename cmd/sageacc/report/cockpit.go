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

// figure is a number with five digits, "NaN", "+Inf" or "-Inf".
type figure float64

// MarshalJSON implements [json.Marshaler].
func (f figure) MarshalJSON() ([]byte, error) {
	v := float64(f)
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return []byte(strconv.Quote(strconv.FormatFloat(v, 'g', -1, 64))), nil
	}
	b := strconv.AppendFloat(nil, v, 'g', 5, 64)
	return bytes.Replace(b, []byte("e+"), []byte("e"), 1), nil
}

// cockpit is the overview of one result, or of two over each other.
type cockpit struct {
	// Runs are the names of the results.
	Runs []string `json:"runs"`
	// Axis is what Label of the layers is.
	Axis   string            `json:"axis"`
	States map[string]string `json:"states"`
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
type four [4]figure

func fourOf(v metrics.Values) four {
	return four{figure(1 - float64(v.CosSim)), figure(v.RelL1), figure(v.RMSE), figure(v.MaxAbs)}
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
	// Actual and Bits are there if every head has them.
	Actual *[4][]figure `json:"a,omitempty"`
	Bits   []bits       `json:"b,omitempty"`
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

// States of a layer, worst first.
var states = []state{
	{"nan", "not finite"},
	{"differs", "differs"},
	{"warn", "warning"},
	{"exact", "bit-exact"},
	{"none", "no actual output"},
}

// stateOf tells what a layer is.
func stateOf(l *compare.Layer) string {
	odd := func(v metrics.Values) bool {
		for _, x := range []jsonfloat.Float{v.CosSim, v.RelL1, v.RMSE, v.MaxAbs} {
			if f := float64(x); math.IsNaN(f) || math.IsInf(f, 0) {
				return true
			}
		}
		return false
	}
	switch b := l.ActualVsEmulated; {
	case odd(l.EmulatedVsReference) || l.ActualVsReference != nil && odd(*l.ActualVsReference) || l.ActualNonFinite != nil:
		return "nan"
	case b != nil && !b.Exact():
		return "differs"
	case len(l.Warnings) > 0:
		return "warn"
	case b != nil:
		return "exact"
	}
	return "none"
}

// badness orders layers: by state, and then by their larger relative L1 error.
func badness(l *compare.Layer) (rank int, err float64) {
	switch stateOf(l) {
	case "nan":
	case "differs":
		rank = 1
	default:
		rank = 2
	}
	err = float64(l.EmulatedVsReference.RelL1)
	if l.ActualVsReference != nil {
		err = max(err, float64(l.ActualVsReference.RelL1)) // NaN if one is
	}
	return rank, err
}

// pair is a layer in one or both results, nil where it is not.
type pair [2]*compare.Layer

// first returns the layer, of the first result that has it.
func (p pair) first() *compare.Layer {
	if p[0] != nil {
		return p[0]
	}
	return p[1]
}

// join pairs the layers of results by name, those of the first in front.
func join(in *Input) []pair {
	var out []pair
	at := map[string]int{}
	for i := range in.Compare.Layers {
		l := &in.Compare.Layers[i]
		at[l.Name] = len(out)
		out = append(out, pair{l})
	}
	if in.Over == nil {
		return out
	}
	for i := range in.Over.Layers {
		l := &in.Over.Layers[i]
		if k, ok := at[l.Name]; ok {
			out[k][1] = l
		} else {
			out = append(out, pair{nil, l})
		}
	}
	return out
}

// results are the one or two results.
func (in *Input) results() []*compare.Result {
	if in.Over == nil {
		return []*compare.Result{in.Compare}
	}
	return []*compare.Result{in.Compare, in.Over}
}

// names are what the results are called.
func (in *Input) names() []string {
	out := []string{"A", "B"}[:len(in.results())]
	for i := range out {
		if n := clean(in.Names[i]); n != "" {
			out[i] += ": " + n
		}
	}
	return out
}

// overview makes what maps and table are drawn from.
func overview(in *Input, layers []pair) *cockpit {
	c := &cockpit{Runs: in.names(), States: map[string]string{}, Steps: []string{}, Docs: docsURL}
	for _, s := range states {
		c.States[s.Key] = s.Text
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
		l := p.first()
		r := row{Name: clean(l.Name), Shape: shape(l)}
		for k := range in.results() {
			var f *figures
			if p[k] != nil {
				f = figuresOf(p[k], index)
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

func figuresOf(l *compare.Layer, index func(step string) int) *figures {
	f := &figures{State: stateOf(l), Warnings: len(l.Warnings), Emulated: fourOf(l.EmulatedVsReference)}
	if l.ActualVsReference != nil && l.ActualVsEmulated != nil {
		a, b := fourOf(*l.ActualVsReference), bitsOf(l.ActualVsEmulated)
		f.Actual, f.Bits = &a, &b
	}
	if len(l.Heads) > 0 {
		f.Heads = headsOf(l)
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
			h.Emulated[k] = append(h.Emulated[k], v)
		}
		if actual {
			for k, v := range fourOf(*x.ActualVsReference) {
				h.Actual[k] = append(h.Actual[k], v)
			}
			h.Bits = append(h.Bits, bitsOf(x.ActualVsEmulated))
		}
		if !plain {
			h.Names = append(h.Names, fmt.Sprintf("%d/%d", x.Batch, x.Head))
		}
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
func detailOf(l *compare.Layer, cells int) *detail {
	d := &detail{RMS: figure(l.ReferenceRMS)}
	add := func(key, value string) {
		if value != "" {
			d.Facts = append(d.Facts, [2]string{key, clean(value)})
		}
	}
	add("Shape", shape(l))
	if l.SMScale != 0 {
		add("Softmax scale", digits(l.SMScale, 6))
	}
	add("Read from", l.Source)
	add("Synthetic", l.Synthetic)
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
		d.Map = placeOf(l, cells)
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
