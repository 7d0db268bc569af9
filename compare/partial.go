package compare

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/internal/exactsum"
	"github.com/sageacc/sageacc/internal/jsonfloat"
	"github.com/sageacc/sageacc/internal/ranges"
	"github.com/sageacc/sageacc/metrics"
)

// Partial is what some chunks of a layer gave. Partials of a layer merge exactly: what
// all of its chunks gave depends neither on how they were spread over partials nor on
// the order of merging. Its JSON loses nothing.
type Partial struct {
	done ranges.Set
	// The figures of all chunks.
	accumulators
	// Of whole heads alone.
	heads              []Head
	differing, spoiled *Extent
	inQ, inK, inV      inputs
	differences        *DifferenceMap
	// The heads and kv heads of which there are chunks, but not all, by their numbers in
	// the layer.
	open    map[int]*openHead
	openKVs map[int]*openKV
	// units are what each chunk of a sample gave.
	units []unit
}

// openHead is a head, until there are all its chunks.
type openHead struct {
	chunks             int
	figures            *accumulators // nil without Outline.PerHead
	differing, spoiled span
	inQ                headInputs
}

// openKV is a kv head, until there are all chunks of its query heads. What it says of
// its inputs is of all of them from the first chunk on.
type openKV struct {
	chunks   int
	counts   emulate.Counts
	inK, inV headInputs
}

// Done returns the chunks of which the partial is.
func (p *Partial) Done() ranges.Set { return p.done }

// add takes in chunks of one head, numbered from first on.
func (p *Partial) add(o *Outline, first int, cs []chunk) {
	p.done = p.done.Union(ranges.Of(first, first+len(cs)))
	n := first / o.perHead()
	h := p.head(n)
	h.chunks += len(cs)
	for i := range cs {
		c := &cs[i]
		p.accumulators.merge(c.acc)
		if o.Sampled {
			p.units = append(p.units, unitOf(first+i, c.acc))
		}
		if o.PerHead {
			if h.figures == nil {
				h.figures = new(accumulators)
			}
			h.figures.merge(c.acc)
		}
		h.differing.merge(c.acc.differing)
		h.spoiled.merge(c.acc.spoiled)
		h.inQ.merge(&c.acc.inQ)
		p.mapDifferences(o, n, c)
	}
	kv := cs[0].kv
	p.mergeKV(o, n/o.group(), &openKV{len(cs), kv.counts, kv.inK, kv.inV})
	p.close(o, n)
}

func (p *Partial) head(n int) *openHead {
	h := p.open[n]
	if h == nil {
		if p.open == nil {
			p.open = make(map[int]*openHead)
		}
		h = new(openHead)
		p.open[n] = h
	}
	return h
}

// close takes in a head of which there are all chunks. Of a sample they are not known to
// be all before the end.
func (p *Partial) close(o *Outline, n int) {
	if p.open[n].chunks == o.perHead() && !o.Sampled {
		p.closeHead(o, n)
	}
}

func (p *Partial) closeHead(o *Outline, n int) {
	h := p.open[n]
	delete(p.open, n)
	batch, head := n/o.Shape.Heads, n%o.Shape.Heads
	p.differing = p.differing.add(batch, head, &h.differing)
	p.spoiled = p.spoiled.add(batch, head, &h.spoiled)
	p.inQ.addHead(&h.inQ, o.Shape.Queries)
	if o.PerHead {
		p.heads = append(p.heads, Head{batch, head, o.figures(h.figures)})
	}
}

// mergeKV takes in chunks of a kv head.
func (p *Partial) mergeKV(o *Outline, n int, kv *openKV) {
	if p.openKVs == nil {
		p.openKVs = make(map[int]*openKV)
	}
	if have := p.openKVs[n]; have == nil {
		one := *kv
		p.openKVs[n] = &one
	} else {
		have.chunks += kv.chunks
	}
	if p.openKVs[n].chunks == o.PerKV() && !o.Sampled {
		p.closeKV(o, n)
	}
}

func (p *Partial) closeKV(o *Outline, n int) {
	kv := p.openKVs[n]
	delete(p.openKVs, n)
	p.counts.Merge(&kv.counts)
	p.inK.addHead(&kv.inK, o.Shape.Keys)
	p.inV.addHead(&kv.inV, o.Shape.Keys)
}

// Merge adds another partial of the same layer, which has no chunk of p's. The other
// must not be used any more.
func (p *Partial) Merge(o *Outline, q *Partial) error {
	if both := p.done.Intersect(q.done); both != nil {
		return fmt.Errorf("layer %s: chunks %v are there twice", o.Name, both)
	}
	p.done = p.done.Union(q.done)
	p.accumulators.merge(&q.accumulators)
	p.heads = append(p.heads, q.heads...)
	p.units = append(p.units, q.units...)
	p.differing = p.differing.merge(q.differing)
	p.spoiled = p.spoiled.merge(q.spoiled)
	p.inQ.sum(&q.inQ)
	p.inK.sum(&q.inK)
	p.inV.sum(&q.inV)
	if p.differences == nil {
		p.differences = q.differences
	} else if q.differences != nil {
		p.differences.merge(q.differences)
	}
	for n, h := range q.open {
		mine := p.head(n)
		mine.chunks += h.chunks
		if h.figures != nil {
			if mine.figures == nil {
				mine.figures = new(accumulators)
			}
			mine.figures.merge(h.figures)
		}
		mine.differing.merge(&h.differing)
		mine.spoiled.merge(&h.spoiled)
		mine.inQ.merge(&h.inQ)
		p.close(o, n)
	}
	for n, kv := range q.openKVs {
		p.mergeKV(o, n, kv)
	}
	return nil
}

// figures are the rows of a head's or the layer's figures.
func (o *Outline) figures(a *accumulators) Rows {
	r := a.rows(o.O != "")
	if o.LSE {
		lse := a.lse.rows(o.ActualLSE)
		r.LSE = &lse
	}
	return r
}

// layer is the layer's result, when all is merged. The partial is not to be used after
// it.
func (p *Partial) layer(o *Outline) *Layer {
	if o.Sampled {
		for n := range p.open {
			p.closeHead(o, n)
		}
		for n := range p.openKVs {
			p.closeKV(o, n)
		}
	}
	out := &Layer{Name: o.Name, Causal: o.Causal, SMScale: o.SMScale, Source: o.Source, Synthetic: o.Synthetic, Call: o.Call, Quantised: o.Quantised, Shape: o.Shape}
	if o.Confined {
		out.Sampled = &[2]int{o.First, o.End}
	}
	slices.SortFunc(p.heads, func(a, b Head) int { return (a.Batch*o.Shape.Heads + a.Head) - (b.Batch*o.Shape.Heads + b.Head) })
	out.Heads, out.Differing, out.Spoiled = p.heads, p.differing, p.spoiled
	out.Suspicious = slices.Concat(p.inQ.describe("q"), p.inK.describe("k"), p.inV.describe("v"))
	out.Rows = o.figures(&p.accumulators)
	if o.Sampled {
		p.estimate(o, out)
	}
	out.ReferenceRMS = jsonfloat.Float(p.emulated.RefRMS())
	out.ErrorHistogram = p.errors.Values()
	if o.O != "" {
		h := p.actErrors.Values()
		out.ActualErrorHistogram = &h
		out.ActualRMS = jsonfloat.Float(p.actual.OutRMS())
	}
	out.DifferenceMap = p.differences
	out.Counts = p.counts.Map()
	if len(out.Counts) == 0 {
		out.Counts = nil
	}
	if n := p.actual.NonFinite(); n.OutNaN+n.OutInf > 0 {
		out.ActualNonFinite = &emulate.Count{NaN: n.OutNaN, Inf: n.OutInf}
	}
	out.Warnings = warnings(o, &p.counts, out.ActualNonFinite)
	if n := p.emulated.NonFinite(); n.RefNaN+n.RefInf > 0 {
		out.Warnings = append(out.Warnings, describe("the reference", emulate.Count{NaN: n.RefNaN, Inf: n.RefInf}))
	}
	return out
}

// mostBlocks is how many blocks of tokens a difference map has at the most.
const mostBlocks = 64

// newDifferenceMap is an empty map of a layer.
func newDifferenceMap(s *Shape) *DifferenceMap {
	n := s.Queries
	tokens := mapTokens
	for (n+tokens-1)/tokens > mostBlocks {
		tokens *= 2
	}
	m := &DifferenceMap{BlockTokens: tokens, Channels: make([]int64, s.HeadDim)}
	blocks := (n + tokens - 1) / tokens
	all := make([]int64, s.Batch*s.Heads*blocks)
	for ; len(all) > 0; all = all[blocks:] {
		m.Blocks = append(m.Blocks, all[:blocks:blocks])
	}
	return m
}

// merge adds the counts of a map of the same layer.
func (m *DifferenceMap) merge(o *DifferenceMap) {
	for i, row := range o.Blocks {
		for j, n := range row {
			m.Blocks[i][j] += n
		}
	}
	for i, n := range o.Channels {
		m.Channels[i] += n
	}
}

// mapDifferences adds the differing elements of a chunk of a head to the layer's map,
// which is made with the first of them.
func (p *Partial) mapDifferences(o *Outline, head int, c *chunk) {
	if c.acc.blocks == nil {
		return
	}
	if p.differences == nil {
		p.differences = newDifferenceMap(&o.Shape)
	}
	m := p.differences
	row := m.Blocks[head]
	for i, x := range c.acc.blocks {
		row[(c.lo+i*mapTokens)/m.BlockTokens] += x
	}
	for i, x := range c.acc.channels {
		m.Channels[i] += x
	}
}

// The JSON of a Partial and of what it is made of.
type (
	partialState struct {
		Chunks      ranges.Set            `json:"chunks"`
		Figures     figuresState          `json:"figures"`
		Heads       []Head                `json:"heads,omitempty"`
		Differing   *Extent               `json:"differing,omitempty"`
		Spoiled     *Extent               `json:"spoiled,omitempty"`
		InQ         *inputsState          `json:"q,omitempty"`
		InK         *inputsState          `json:"k,omitempty"`
		InV         *inputsState          `json:"v,omitempty"`
		Differences *differencesState     `json:"differences,omitempty"`
		Open        map[int]openHeadState `json:"open,omitempty"`
		OpenKVs     map[int]openKVState   `json:"open_kv,omitempty"`
		Units       []unit                `json:"units,omitempty"`
	}
	figuresState struct {
		Outputs   comparisonState    `json:"outputs"`
		LSE       *comparisonState   `json:"lse,omitempty"`
		Counts    map[int]countState `json:"counts,omitempty"`
		Errors    *metrics.Histogram `json:"errors"`
		ActErrors *metrics.Histogram `json:"actual_errors,omitempty"`
	}
	countState      = emulate.Count
	comparisonState struct {
		Emulated *metrics.Accuracy `json:"emulated"`
		Actual   *metrics.Accuracy `json:"actual,omitempty"`
		Both     *metrics.Accuracy `json:"both,omitempty"`
		Bits     *metrics.Bits     `json:"bits,omitempty"`
	}
	inputsState struct {
		Elements  int64         `json:"elements"`
		Zeros     int64         `json:"zeros,omitempty"`
		NonFinite int64         `json:"non_finite,omitempty"`
		AbsMax    float64       `json:"abs_max"`
		AbsSum    *exactsum.Sum `json:"abs_sum"`
		Heads     int64         `json:"heads,omitempty"`
		ZeroHeads int64         `json:"zero_heads,omitempty"`
		SameHeads int64         `json:"same_heads,omitempty"`
		Varies    bool          `json:"varies,omitempty"`
	}
	differencesState struct {
		Blocks   map[int][]int64 `json:"blocks"` // by head
		Channels []int64         `json:"channels"`
	}
	spanState     [4]int64 // elements, first, its channel, last
	openHeadState struct {
		Chunks    int           `json:"chunks"`
		Figures   *figuresState `json:"figures,omitempty"`
		Differing *spanState    `json:"differing,omitempty"`
		Spoiled   *spanState    `json:"spoiled,omitempty"`
		InQ       *inputsState  `json:"q"`
	}
	openKVState struct {
		Chunks int                `json:"chunks"`
		Counts map[int]countState `json:"counts,omitempty"`
		InK    *inputsState       `json:"k"`
		InV    *inputsState       `json:"v"`
	}
)

// MarshalJSON implements [json.Marshaler].
func (p *Partial) MarshalJSON() ([]byte, error) {
	s := partialState{
		Chunks: p.done, Figures: *p.accumulators.state(), Heads: p.heads, Differing: p.differing, Spoiled: p.spoiled,
		InQ: p.inQ.state(), InK: p.inK.state(), InV: p.inV.state(), Units: p.units,
	}
	if m := p.differences; m != nil {
		s.Differences = &differencesState{Blocks: make(map[int][]int64), Channels: m.Channels}
		for i, row := range m.Blocks {
			if slices.ContainsFunc(row, func(n int64) bool { return n != 0 }) {
				s.Differences.Blocks[i] = row
			}
		}
	}
	if len(p.open) > 0 {
		s.Open = make(map[int]openHeadState, len(p.open))
	}
	for n, h := range p.open {
		x := openHeadState{Chunks: h.chunks, Differing: h.differing.state(), Spoiled: h.spoiled.state(), InQ: h.inQ.state()}
		if h.figures != nil {
			x.Figures = h.figures.state()
		}
		s.Open[n] = x
	}
	if len(p.openKVs) > 0 {
		s.OpenKVs = make(map[int]openKVState, len(p.openKVs))
	}
	for n, kv := range p.openKVs {
		s.OpenKVs[n] = openKVState{Chunks: kv.chunks, Counts: countsState(&kv.counts), InK: kv.inK.state(), InV: kv.inV.state()}
	}
	return json.Marshal(s)
}

// ReadPartial reads a partial of a layer. What is none of that layer is an error.
func ReadPartial(data []byte, o *Outline) (*Partial, error) {
	var s partialState
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, err
	}
	p := &Partial{done: s.Chunks, units: s.Units, heads: s.Heads, differing: s.Differing, spoiled: s.Spoiled}
	errs := []error{s.Chunks.Check(o.Chunks()), s.Figures.read(&p.accumulators), s.InQ.read(&p.inQ), s.InK.read(&p.inK), s.InV.read(&p.inV)}
	heads := o.Shape.Batch * o.Shape.Heads
	if m := s.Differences; m != nil {
		p.differences = newDifferenceMap(&o.Shape)
		for i, row := range m.Blocks {
			if i < 0 || i >= heads || len(row) != len(p.differences.Blocks[i]) {
				errs = append(errs, fmt.Errorf("differences of head %d", i))
				continue
			}
			copy(p.differences.Blocks[i], row)
		}
		if len(m.Channels) != o.Shape.HeadDim {
			errs = append(errs, fmt.Errorf("differences in %d channels", len(m.Channels)))
		}
		copy(p.differences.Channels, m.Channels)
	}
	for n, x := range s.Open {
		if n < 0 || n >= heads || x.Chunks < 1 || x.Chunks >= o.perHead() && !o.Sampled || o.PerHead != (x.Figures != nil) {
			errs = append(errs, fmt.Errorf("%d chunks of head %d", x.Chunks, n))
			continue
		}
		h := p.head(n)
		h.chunks = x.Chunks
		h.differing, h.spoiled = x.Differing.span(), x.Spoiled.span()
		errs = append(errs, x.InQ.readHead(&h.inQ))
		if x.Figures != nil {
			h.figures = new(accumulators)
			errs = append(errs, x.Figures.read(h.figures))
		}
	}
	for n, x := range s.OpenKVs {
		if n < 0 || n >= heads/o.group() || x.Chunks < 1 || x.Chunks >= o.PerKV() && !o.Sampled {
			errs = append(errs, fmt.Errorf("%d chunks of kv head %d", x.Chunks, n))
			continue
		}
		kv := &openKV{chunks: x.Chunks}
		errs = append(errs, readCounts(x.Counts, &kv.counts), x.InK.readHead(&kv.inK), x.InV.readHead(&kv.inV))
		if p.openKVs == nil {
			p.openKVs = make(map[int]*openKV)
		}
		p.openKVs[n] = kv
	}
	errs = append(errs, p.checkUnits(o))
	for _, e := range []*Extent{s.Differing, s.Spoiled} {
		if e != nil && len(e.Most) == 0 {
			errs = append(errs, fmt.Errorf("an extent without heads"))
		}
	}
	for _, err := range errs {
		if err != nil {
			return nil, fmt.Errorf("layer %s: %w", o.Name, err)
		}
	}
	return p, nil
}

func (a *accumulators) state() *figuresState {
	s := &figuresState{Outputs: a.comparison.state(), Counts: countsState(&a.counts), Errors: &a.errors}
	if a.lse.emulated.N() > 0 {
		lse := a.lse.state()
		s.LSE = &lse
	}
	if a.actual.N() > 0 {
		s.ActErrors = &a.actErrors
	}
	return s
}

func (s *figuresState) read(a *accumulators) error {
	if s.Outputs.Emulated == nil || s.Errors == nil {
		return fmt.Errorf("no figures")
	}
	a.errors = *s.Errors
	if s.ActErrors != nil {
		a.actErrors = *s.ActErrors
	}
	s.Outputs.read(&a.comparison)
	if s.LSE != nil {
		s.LSE.read(&a.lse)
	}
	return readCounts(s.Counts, &a.counts)
}

func (a *comparison) state() comparisonState {
	s := comparisonState{Emulated: &a.emulated}
	if a.actual.N() > 0 {
		s.Actual, s.Both, s.Bits = &a.actual, &a.both, &a.bits
	}
	return s
}

func (s *comparisonState) read(a *comparison) {
	for _, x := range []struct{ from, to *metrics.Accuracy }{{s.Emulated, &a.emulated}, {s.Actual, &a.actual}, {s.Both, &a.both}} {
		if x.from != nil {
			*x.to = *x.from
		}
	}
	if s.Bits != nil {
		a.bits = *s.Bits
	}
}

func countsState(c *emulate.Counts) map[int]countState {
	var out map[int]countState
	for i, x := range c {
		if x != (emulate.Count{}) {
			if out == nil {
				out = make(map[int]countState)
			}
			out[i] = x
		}
	}
	return out
}

func readCounts(s map[int]countState, c *emulate.Counts) error {
	for i, x := range s {
		if i < 0 || i >= len(c) {
			return fmt.Errorf("counts of stage %d", i)
		}
		c[i] = x
	}
	return nil
}

func (in *inputs) state() *inputsState {
	if in.elements == 0 {
		return nil
	}
	return &inputsState{
		Elements: in.elements, Zeros: in.zeros, NonFinite: in.nonFinite, AbsMax: in.absMax, AbsSum: &in.absSum,
		Heads: in.heads, ZeroHeads: in.zeroHeads, SameHeads: in.sameHeads,
	}
}

func (h *headInputs) state() *inputsState {
	s := h.inputs.state()
	if s != nil {
		s.Varies = h.varies
	}
	return s
}

func (s *inputsState) read(in *inputs) error {
	if s == nil {
		return nil
	}
	if s.AbsSum == nil {
		return fmt.Errorf("an input without a sum")
	}
	*in = inputs{
		elements: s.Elements, zeros: s.Zeros, nonFinite: s.NonFinite, absMax: s.AbsMax, absSum: *s.AbsSum,
		heads: s.Heads, zeroHeads: s.ZeroHeads, sameHeads: s.SameHeads,
	}
	return nil
}

func (s *inputsState) readHead(h *headInputs) error {
	if s != nil {
		h.varies = s.Varies
	}
	return s.read(&h.inputs)
}

func (s *span) state() *spanState {
	if s.elements == 0 {
		return nil
	}
	return &spanState{s.elements, int64(s.first), int64(s.channel), int64(s.last)}
}

func (s *spanState) span() span {
	if s == nil {
		return span{}
	}
	return span{elements: s[0], first: int(s[1]), channel: int(s[2]), last: int(s[3])}
}
