package compare

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/sageacc/sageacc/compare/sample"
	"github.com/sageacc/sageacc/internal/jsonfloat"
	"github.com/sageacc/sageacc/internal/ranges"
	"github.com/sageacc/sageacc/metrics"
)

// Sample says how many tiles of query rows of each head are computed: one of the fields
// but Seed is not zero. At least two are, if a head has them.
type Sample struct {
	// Tiles of each head.
	Tiles int
	// Fraction of the tiles of each head.
	Fraction float64
	// Within is half of how wide the interval of every figure against the reference may
	// be, as a part of the figure: tiles are added until it is not wider.
	Within float64
	// Seed decides which tiles.
	Seed uint64
}

// ParseSample reads a number of tiles, "4"; a fraction, "0.05" or "5%"; or "auto:±0.1%".
func ParseSample(s string) (*Sample, error) {
	bad := fmt.Errorf("%q is no sample: want tiles of each head (at least 2), a fraction as in 5%%, or a width as in auto:±0.1%%", s)
	fraction := func(s string) (float64, bool) {
		number, percent := strings.CutSuffix(s, "%")
		x, err := strconv.ParseFloat(number, 64)
		if percent {
			x /= 100
		}
		return x, err == nil && x > 0 && x <= 1
	}
	if width, ok := strings.CutPrefix(s, "auto:"); ok {
		x, ok := fraction(strings.TrimPrefix(width, "±"))
		if !ok {
			return nil, bad
		}
		return &Sample{Within: x}, nil
	}
	if n, err := strconv.Atoi(s); err == nil {
		if n < sample.Least {
			return nil, bad
		}
		return &Sample{Tiles: n}, nil
	}
	x, ok := fraction(s)
	if !ok {
		return nil, bad
	}
	return &Sample{Fraction: x}, nil
}

// String returns the form that ParseSample reads.
func (s *Sample) String() string {
	switch {
	case s.Tiles > 0:
		return strconv.Itoa(s.Tiles)
	case s.Within > 0:
		return fmt.Sprintf("auto:±%v", s.Within)
	}
	if s.Fraction == 1 {
		return "100%" // 1 would be a tile
	}
	return fmt.Sprintf("%v", s.Fraction)
}

// blocks is how many tiles of each head of a layer are computed at first.
func (s *Sample) blocks(o *Outline) int {
	switch {
	case s.Tiles > 0:
		return s.Tiles
	case s.Fraction > 0:
		return int(math.Ceil(float64(s.Fraction * float64(o.perHead()))))
	}
	return sample.Least
}

// choose chooses n chunks of each head.
func (o *Outline) choose(s *Sample, n int) {
	o.Chosen = nil
	for head := range o.Shape.Batch * o.Shape.Heads {
		for _, b := range sample.Choose(s.Seed, o.Name, head, o.perHead(), n) {
			c := head*o.perHead() + b
			if at := len(o.Chosen) - 1; at >= 0 && o.Chosen[at][1] == c {
				o.Chosen[at][1]++
			} else {
				o.Chosen = append(o.Chosen, [2]int{c, c + 1})
			}
		}
	}
}

// tiles is how many chunks of each head are chosen.
func (o *Outline) tiles() int { return o.Chosen.Len() / (o.Shape.Batch * o.Shape.Heads) }

// SampleInfo says of which rows figures are.
type SampleInfo struct {
	// Tiles of each head were computed, of Of.
	Tiles int `json:"tiles"`
	Of    int `json:"of"`
	// Rows is how many query rows that is of all heads, AllRows how many there are.
	Rows    int64 `json:"rows"`
	AllRows int64 `json:"all_rows"`
}

// Confidence is between which bounds figures of all rows lie.
type Confidence struct {
	// Level is how often bounds of this kind hold, 0.95.
	Level               float64 `json:"level"`
	EmulatedVsReference *Bounds `json:"emulated_vs_reference"`
	ActualVsReference   *Bounds `json:"actual_vs_reference,omitempty"`
	ActualVsEmulated    *Bounds `json:"actual_vs_emulated,omitempty"`
}

// Bounds are the lower and the upper bound of each figure; NaN where nothing is known.
type Bounds struct {
	CosSim [2]jsonfloat.Float `json:"cos_sim"`
	RelL1  [2]jsonfloat.Float `json:"rel_l1"`
	RMSE   [2]jsonfloat.Float `json:"rmse"`
	// Share is the part of the elements whose bits differ; of the actual against the
	// emulated output alone, and not of an average.
	Share *[2]jsonfloat.Float `json:"share,omitempty"`
}

// Of returns the bounds of a metric by its name, and whether it has any.
func (b *Bounds) Of(metric string) (low, high float64, ok bool) {
	var x *[2]jsonfloat.Float
	switch metric {
	case "cos_sim":
		x = &b.CosSim
	case "rel_l1":
		x = &b.RelL1
	case "rmse":
		x = &b.RMSE
	case "share":
		x = b.Share
	}
	if x == nil {
		return 0, 0, false
	}
	return float64(x[0]), float64(x[1]), true
}

// level is that of all intervals.
const level = 0.95

// unit is what one chunk of a sample gave.
type unit struct {
	Chunk    int       `json:"chunk"`
	Emulated unitSums  `json:"emulated"`
	Actual   *unitSums `json:"actual,omitempty"`
	Both     *unitSums `json:"both,omitempty"`
}

// unitSums are the fields of sample.Sums in order.
type unitSums [8]jsonfloat.Float

func unitOf(c int, a *accumulators) unit {
	u := unit{Chunk: c, Emulated: sumsOf(&a.emulated, 0)}
	if a.actual.N() > 0 {
		actual, both := sumsOf(&a.actual, 0), sumsOf(&a.both, a.bits.Mismatched)
		u.Actual, u.Both = &actual, &both
	}
	return u
}

func sumsOf(a *metrics.Accuracy, differing int64) unitSums {
	t := a.Totals()
	f := func(x float64) jsonfloat.Float { return jsonfloat.Float(x) }
	return unitSums{f(float64(a.N())), f(t.Dot), f(t.OutSq), f(t.RefSq), f(t.AbsDiff), f(t.AbsRef), f(t.SqDiff), f(float64(differing))}
}

func (u *unitSums) sums() sample.Sums {
	f := func(i int) float64 { return float64(u[i]) }
	return sample.Sums{N: f(0), Dot: f(1), OutSq: f(2), RefSq: f(3), AbsDiff: f(4), AbsRef: f(5), SqDiff: f(6), Differing: f(7)}
}

// checkUnits reports units that are not those of the partial's chunks.
func (p *Partial) checkUnits(o *Outline) error {
	want := 0
	if o.Sampled {
		want = p.done.Len()
	}
	if len(p.units) != want {
		return fmt.Errorf("%d chunks of a sample, of %d", len(p.units), want)
	}
	var of ranges.Set
	slices.SortFunc(p.units, func(a, b unit) int { return cmp.Compare(a.Chunk, b.Chunk) })
	for _, u := range p.units {
		of = of.Union(ranges.Of(u.Chunk, u.Chunk+1))
		if (u.Actual == nil) != (o.O == "") || (u.Both == nil) != (o.O == "") {
			return fmt.Errorf("chunk %d of a sample has not all figures", u.Chunk)
		}
	}
	if of.Minus(p.done) != nil || p.done.Minus(of) != nil && o.Sampled {
		return fmt.Errorf("other chunks of a sample than its own")
	}
	return nil
}

// estimates are those of a layer's rows.
type estimates struct{ emulated, actual, both *sample.Estimate }

// estimates estimates the figures of all rows from the chosen chunks, all of which there
// must be.
func (p *Partial) estimates(o *Outline) *estimates {
	slices.SortFunc(p.units, func(a, b unit) int { return cmp.Compare(a.Chunk, b.Chunk) })
	of := func(pick func(*unit) *unitSums) *sample.Estimate {
		x := sample.Of(p.strata(o, pick))
		return &x
	}
	e := &estimates{emulated: of(func(u *unit) *unitSums { return &u.Emulated })}
	if o.O != "" {
		e.actual, e.both = of(func(u *unit) *unitSums { return u.Actual }), of(func(u *unit) *unitSums { return u.Both })
	}
	return e
}

// strata are the chosen units by stratum.
func (p *Partial) strata(o *Outline, pick func(*unit) *unitSums) []sample.Stratum {
	bounds, _ := sample.Strata(o.perHead(), o.tiles())
	out := make([]sample.Stratum, 0, o.Shape.Batch*o.Shape.Heads*len(bounds))
	at, chosen := 0, 0
	for head := range o.Shape.Batch * o.Shape.Heads {
		for _, b := range bounds {
			s := sample.Stratum{Blocks: b[1] - b[0]}
			end := head*o.perHead() + b[1]
			for ; at < len(p.units) && p.units[at].Chunk < end; at++ {
				// A run that is resumed may have computed more.
				for chosen < len(o.Chosen) && o.Chosen[chosen][1] <= p.units[at].Chunk {
					chosen++
				}
				if chosen < len(o.Chosen) && o.Chosen[chosen][0] <= p.units[at].Chunk {
					s.Sample = append(s.Sample, pick(&p.units[at]).sums())
				}
			}
			out = append(out, s)
		}
	}
	return out
}

// estimate puts the estimates of all rows in the place of the figures of some.
func (p *Partial) estimate(o *Outline, l *Layer) {
	heads := int64(o.Shape.Batch) * int64(o.Shape.Heads)
	l.Sample = &SampleInfo{Tiles: o.tiles(), Of: o.perHead(), AllRows: heads * int64(o.End-o.First)}
	for _, r := range o.Chosen {
		for c := r[0]; c < r[1]; c++ {
			lo, hi := o.rows(c)
			l.Sample.Rows += int64(hi - lo)
		}
	}
	if p.done.Minus(o.Chosen) != nil || o.Chosen.Minus(p.done) != nil {
		return // a part of the sample, of which nothing is estimated
	}
	l.estimates = p.estimates(o)
	l.Confidence = &Confidence{Level: level}
	set := func(e *sample.Estimate, v *metrics.Values) *Bounds {
		v.CosSim, v.RelL1, v.RMSE = jsonfloat.Float(e.CosSim.Value), jsonfloat.Float(e.RelL1.Value), jsonfloat.Float(e.RMSE.Value)
		return boundsOf(e)
	}
	l.Confidence.EmulatedVsReference = set(l.estimates.emulated, &l.EmulatedVsReference)
	if o.O != "" {
		l.Confidence.ActualVsReference = set(l.estimates.actual, l.ActualVsReference)
		l.Confidence.ActualVsEmulated = set(l.estimates.both, &l.ActualVsEmulated.Values)
		l.Confidence.ActualVsEmulated.Share = pair(l.estimates.both.Share)
	}
}

func pair(x sample.Interval) *[2]jsonfloat.Float {
	return &[2]jsonfloat.Float{jsonfloat.Float(x.Low), jsonfloat.Float(x.High)}
}

func boundsOf(e *sample.Estimate) *Bounds {
	return &Bounds{CosSim: *pair(e.CosSim), RelL1: *pair(e.RelL1), RMSE: *pair(e.RMSE)}
}

// enough reports whether a sample is good enough, or all there is.
func (s *Sample) enough(o *Outline, p *Partial) bool {
	if s.Within == 0 || o.tiles() >= o.perHead() {
		return true
	}
	e := p.estimates(o)
	for _, x := range []*sample.Estimate{e.emulated, e.actual} {
		if x == nil {
			continue
		}
		for _, i := range []sample.Interval{x.CosSim, x.RelL1, x.RMSE} {
			if !((i.High-i.Low)/2 <= float64(s.Within*math.Abs(i.Value))) {
				return false
			}
		}
	}
	return true
}

// confidence is that of the average of sampled layers; nil if a layer is not one.
func (r *Result) confidence() *Confidence {
	var emu, act, both []*sample.Estimate
	for i := range r.Layers {
		e := r.Layers[i].estimates
		if e == nil {
			return nil
		}
		emu = append(emu, e.emulated)
		if e.actual != nil {
			act, both = append(act, e.actual), append(both, e.both)
		}
	}
	of := func(es []*sample.Estimate) *Bounds {
		if es == nil {
			return nil
		}
		var cos, l1, rmse []sample.Interval
		for _, e := range es {
			cos, l1, rmse = append(cos, e.CosSim), append(l1, e.RelL1), append(rmse, e.RMSE)
		}
		return &Bounds{CosSim: *pair(sample.MeanCosine(cos)), RelL1: *pair(sample.Mean(l1)), RMSE: *pair(sample.Mean(rmse))}
	}
	if emu == nil {
		return nil
	}
	return &Confidence{Level: level, EmulatedVsReference: of(emu), ActualVsReference: of(act), ActualVsEmulated: of(both)}
}

// String lists the bounds.
func (b *Bounds) String() string {
	var parts []string
	for _, x := range []struct {
		name string
		v    *[2]jsonfloat.Float
	}{{"cos_sim", &b.CosSim}, {"rel_l1", &b.RelL1}, {"rmse", &b.RMSE}, {"share", b.Share}} {
		if x.v != nil {
			parts = append(parts, fmt.Sprintf("%s %.6g to %.6g", x.name, float64(x.v[0]), float64(x.v[1])))
		}
	}
	return strings.Join(parts, ", ")
}

// SampleText says of which rows the figures of a result are; it is empty if of all.
func (r *Result) SampleText() string {
	var rows, all int64
	for i := range r.Layers {
		if s := r.Layers[i].Sample; s != nil {
			rows, all = rows+s.Rows, all+s.AllRows
		}
	}
	if all == 0 {
		return ""
	}
	return fmt.Sprintf("%d of %d rows of queries (%s%%), in whole tiles of every head; cos_sim, rel_l1 and rmse are estimates for all, with bounds that hold with 95%% confidence; all else is of those rows",
		rows, all, figure(100*float64(rows)/float64(all)))
}

// bound is the worse bound of a gate's figure, if the row was sampled.
func (l *Layer) bound(g metrics.Gate, row metrics.Row) (float64, bool) {
	c := l.Confidence
	if c == nil {
		return 0, false
	}
	b := map[metrics.Row]*Bounds{metrics.Emulated: c.EmulatedVsReference, metrics.Actual: c.ActualVsReference, metrics.BitRow: c.ActualVsEmulated}[row]
	if b == nil {
		return 0, false
	}
	low, high, ok := b.Of(g.Metric())
	if g.Below() {
		return low, ok
	}
	return high, ok
}
