// Package compare runs layers of a dump through the full-precision reference and
// an emulated kernel, and measures the three outputs there may be against each
// other: emulated against reference, actual (what a GPU returned) against
// reference, and actual against emulated, bit by bit.
package compare

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/sageacc/sageacc/compare/attribute"
	"github.com/sageacc/sageacc/compare/explain"
	"github.com/sageacc/sageacc/compare/heads"
	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/internal/jsonfloat"
	"github.com/sageacc/sageacc/internal/parallel"
	"github.com/sageacc/sageacc/internal/ranges"
	"github.com/sageacc/sageacc/internal/version"
	"github.com/sageacc/sageacc/layerdumps"
	"github.com/sageacc/sageacc/metrics"
	"github.com/sageacc/sageacc/reference"
)

// Schema is the version of Result's JSON form.
const Schema = "sageacc/compare/v1"

// Options control a run.
type Options struct {
	Kernel    *emulate.Kernel
	Reference reference.Precision
	// PerHead adds the figures of each head.
	PerHead bool
	// Transform, if not nil, changes the emulated kernel's Q and K, not the
	// reference's.
	Transform Transform
	// LSE compares the rows' natural log-sum-exp too; the emulated one is as the
	// released API returns it, with the correction for a smoothed K. Not with
	// Transform, which would change the correction, or with a kernel that writes none.
	LSE bool
	// NoActual leaves actual outputs out.
	NoActual bool
	// NoReference leaves the reference out, which takes about as long as the emulation:
	// the figures against it are then those of nothing, and so for Outputs alone.
	NoReference bool
	// Rows, if not zero, are the queries [Rows[0], Rows[1]) to which a run is confined, in
	// whole chunks: 256 queries, or as many more as whole tiles take. Figures, counts and
	// outputs are then theirs alone. A layer that has none of them is an error.
	Rows [2]int
	// Sample, if not nil, confines a run to some tiles of each head, and estimates the
	// figures of all.
	Sample *Sample
	// Outputs, if not nil, is given the outputs themselves, some rows of a head at a
	// time, each row once, from several goroutines at once.
	Outputs func(Outputs)
	// Jobs is the number of goroutines; at least one runs. It changes no result.
	Jobs int
	// Progress, if not nil, is called with the finished part of the run, 0 to 1,
	// one call at a time.
	Progress func(part float64)
	// Skipped, if not nil, is called with parts of the run that were kept, 0 to 1, which
	// Progress is told of next.
	Skipped func(part float64)
	// LayerDone, if not nil, is called with how many layers of how many are finished, one
	// call at a time.
	LayerDone func(done, layers int)
	// MaxChanges is how many changes Explain combines; 0 stands for 2.
	MaxChanges int
	// Keep, if not nil, keeps what is finished and knows what was before. Outputs then
	// gets no rows that were.
	Keep Keeper
}

// Outputs are what a run computed for the rows [Row, Row+n) of a head of a layer.
// The slices are the run's own: they must not be changed, nor kept after the call.
type Outputs struct {
	Layer            *layerdumps.Layer
	Batch, Head, Row int
	// Emulated is [n, head_dim], row-major; every value is one of the output's format.
	Emulated []float32
	// LSE is [n], the natural log-sum-exp of the scaled scores as the released API
	// returns it; nil without Options.LSE.
	LSE []float32
	// Reference is [n, head_dim] and ReferenceLSE [n], nil as LSE is; both are nil
	// with Options.NoReference. A reference in FP32 holds float32 values.
	Reference, ReferenceLSE []float64
}

// Transform prepares a change of Q and K that leaves their products as they are: a
// rotation, say. It is called once for each kv head and returns a function that
// changes rows of a query head of its group, or of K, in place. That function may
// be called concurrently.
type Transform func(l *layerdumps.Layer, batch, kvHead int) func(x []float32, query bool)

// KernelInfo describes the emulated kernel in a result.
type KernelInfo struct {
	Name          string `json:"name"`
	Program       string `json:"program"`
	Arch          string `json:"arch"`
	QKBits        int    `json:"qk_bits"`
	QKGranularity string `json:"qk_granularity"`
	Smooth        string `json:"smooth"`
	PVDType       string `json:"pv_dtype"`
	PVAccum       string `json:"pv_accum"`
	// Chosen says which kernel a choice by the dump's metadata came to, and why (see package
	// auto); Run leaves it empty.
	Chosen string `json:"chosen,omitempty"`
	// Variant lists the deviations from the kernel of that name, Changes those that only
	// a change of the description can say.
	Variant string           `json:"variant,omitempty"`
	Changes []program.Change `json:"changes,omitempty"`
	// PVUnit is the matrix instruction of PV and what executes it.
	PVUnit string `json:"pv_unit"`
	// SpecialFunctions says how exp2, log2 and reciprocals are computed.
	SpecialFunctions string `json:"special_functions"`
	// Reported names the matrix units that nobody recorded on such a GPU: their models are
	// known from reports only.
	Reported string `json:"reported,omitempty"`
	// Portable is the choice of the description that keeps it from the vector paths.
	Portable string `json:"portable,omitempty"`
	// Scalar is the choice that keeps such a kernel's tiles from vectors too.
	Scalar string `json:"scalar,omitempty"`
	// Description is the whole description of the kernel, with every choice.
	Description program.Program `json:"description"`
}

// QK says what the codes of Q and K are.
func (k *KernelInfo) QK() string {
	switch q := &k.Description.QKCodes; {
	case k.QKBits != 0:
		return fmt.Sprintf("int%d %s", k.QKBits, k.QKGranularity)
	case q.Format == "input":
		return "as they are"
	default:
		return strings.TrimSuffix(q.Format+" "+q.Granularity, " none")
	}
}

// Describe returns the description of a kernel.
func Describe(kernel *emulate.Kernel) KernelInfo {
	p := kernel.Program()
	k := KernelInfo{
		Name: p.Name, Program: p.Shape(), Arch: p.Arch,
		QKBits: p.Bits(), QKGranularity: p.QKCodes.Granularity, Smooth: p.Smooth(),
		PVDType: p.VCodes.Format, PVAccum: p.Accum(), Portable: kernel.Portable(), Scalar: kernel.Scalar(),
		SpecialFunctions: "MUFU, bit-exact (sm_90)", Description: p,
	}
	base := program.Base(&p)
	k.Variant = program.Variant(&base, &p)
	named := base
	if err := named.Apply(&base, k.Variant); err == nil {
		k.Changes = program.Diff(&named, &p)
	}
	exp2, rcp := p.Exponent.Exp2 == "exact", p.Finish.Inverse == "exact" || p.Finish.Inverse == "divide"
	switch {
	case exp2 && rcp:
		k.SpecialFunctions = "exp2 and reciprocals correctly rounded, log2 by MUFU (sm_90)"
	case exp2:
		k.SpecialFunctions = "exp2 correctly rounded, others by MUFU (sm_90)"
	case rcp:
		k.SpecialFunctions = "reciprocals correctly rounded, others by MUFU (sm_90)"
	}
	q := p
	if at, err := p.At(program.Case{HeadDim: 1, DType: p.DTypeList()[0]}); err == nil {
		q = at
	}
	if u, err := q.PV.Unit.Lookup(q.Arch); err == nil && u != nil {
		k.PVUnit = fmt.Sprintf("%s (%s on %s: %s)", u.Instruction, u.Executed, u.Arch, u.Out)
	} else if err == nil {
		k.PVUnit = "exact sums"
	}
	k.Reported = reported(p)
	return k
}

// reported names the units of a program, of all dtypes that it takes, whose models are known
// from reports only.
func reported(p program.Program) string {
	var out []string
	for _, dtype := range p.DTypeList() {
		q, err := p.At(program.Case{HeadDim: 1, DType: dtype})
		if err != nil {
			continue
		}
		for _, u := range []program.Unit{q.Scores.Unit, q.PV.Unit, {Instruction: q.Denominator.Unit, SumRound: "unit"}} {
			if t, err := u.Lookup(q.Arch); err == nil && t != nil && t.Reported() {
				if s := fmt.Sprintf("%s on %s: %s", t.Instruction, t.Arch, t.Evidence); !slices.Contains(out, s) {
					out = append(out, s)
				}
			}
		}
	}
	return strings.Join(out, "; ")
}

// QueryTile is how many rows of queries make a tile, 0 where that depends on the layer.
func QueryTile(k *emulate.Kernel) int {
	p := k.Program()
	if len(p.Tiles.Shapes) > 1 {
		return 0
	}
	return p.Tiling().BlockQ
}

// Shape is a layer's shape.
type Shape struct {
	Batch   int    `json:"batch"`
	Heads   int    `json:"heads"`
	KVHeads int    `json:"kv_heads"`
	Queries int    `json:"queries"`
	Keys    int    `json:"keys"`
	HeadDim int    `json:"head_dim"`
	DType   string `json:"dtype"`
}

// BitValues compares an actual output with the emulated one.
type BitValues struct {
	metrics.Values
	metrics.Bits
}

// Rows holds the up to three comparisons of a layer or head; those with an
// actual output are nil where there is none.
type Rows struct {
	EmulatedVsReference metrics.Values  `json:"emulated_vs_reference"`
	ActualVsReference   *metrics.Values `json:"actual_vs_reference,omitempty"`
	ActualVsEmulated    *BitValues      `json:"actual_vs_emulated,omitempty"`
	// LSE compares the natural log-sum-exp of every row's scaled scores, if
	// Options.LSE asks for it: those with an actual one need a layer that has it.
	LSE *Rows `json:"lse,omitempty"`
}

// Head is one head of a layer.
type Head struct {
	Batch int `json:"batch"`
	Head  int `json:"head"`
	Rows
}

// Layer is the result of one layer.
type Layer struct {
	Name      string  `json:"name"`
	Shape     Shape   `json:"shape"`
	Causal    bool    `json:"causal"`
	SMScale   float64 `json:"sm_scale"`
	Source    string  `json:"source"`
	Synthetic string  `json:"synthetic,omitempty"`
	// Call is what the call was given besides; nil for nothing.
	Call *layerdumps.Call `json:"call,omitempty"`
	// Quantised says how 16-bit inputs become the codes of a kernel that takes FP8; "" where
	// they do not.
	Quantised string `json:"quantised,omitempty"`
	// Sampled are the queries [Sampled[0], Sampled[1]) that the figures are of, where a run
	// was confined to some; nil where they are of all.
	Sampled *[2]int `json:"sampled,omitempty"`
	// Sample says of which rows the figures are estimates, and Confidence how good they
	// are; nil where they are of all rows.
	Sample     *SampleInfo `json:"sample,omitempty"`
	Confidence *Confidence `json:"confidence,omitempty"`
	Rows
	// ReferenceRMS is the root mean square of the reference, against which errors are
	// large or small.
	ReferenceRMS jsonfloat.Float `json:"reference_rms"`
	// ErrorHistogram counts the emulated output's absolute errors by magnitude,
	// ActualErrorHistogram those of an actual output.
	ErrorHistogram       metrics.HistogramValues  `json:"error_histogram"`
	ActualErrorHistogram *metrics.HistogramValues `json:"actual_error_histogram,omitempty"`
	// DifferenceMap says where the actual output differs from the emulated one; nil
	// where it does not, or there is none.
	DifferenceMap *DifferenceMap `json:"difference_map,omitempty"`
	// Counts holds, by stage of the emulated kernel, values that are not ordinary
	// numbers; stages without any are absent.
	Counts map[string]emulate.Count `json:"counts,omitempty"`
	// Actual output's own NaN and infinities.
	ActualNonFinite *emulate.Count `json:"actual_non_finite,omitempty"`
	// ActualRMS is the root mean square of an actual output; 0 without one.
	ActualRMS jsonfloat.Float `json:"actual_rms,omitempty"`
	// Spoiled says where the actual output is NaN or infinite and the emulated one is
	// not; nil if nowhere.
	Spoiled *Extent `json:"spoiled,omitempty"`
	// Differing says where the bits of the actual output are not the emulated one's;
	// nil if nowhere.
	Differing *Extent `json:"differing,omitempty"`
	// Misplaced says that the actual output holds the right values in another order.
	Misplaced string `json:"misplaced,omitempty"`
	// Suspicious says what is odd about the inputs.
	Suspicious []string `json:"suspicious,omitempty"`
	// Warnings say in words what Counts hold and what else is odd.
	Warnings []string `json:"warnings,omitempty"`
	Heads    []Head   `json:"heads,omitempty"`
	// Explanation names the numerics that give an actual output which is not the
	// emulated one; Run leaves it nil, Explain fills it in.
	Explanation *explain.Result `json:"explanation,omitempty"`
	// Attribution says how much of the error each step causes; Run leaves it nil,
	// Attribute fills it in.
	Attribution *attribute.Layer `json:"attribution,omitempty"`

	estimates *estimates // of a sample
}

// DifferenceMap counts the elements in which an actual output differs from the
// emulated one, by place.
type DifferenceMap struct {
	// BlockTokens tokens make a block.
	BlockTokens int `json:"block_tokens"`
	// Blocks has a row for each head, batch by batch, and in it a count for each block
	// of tokens.
	Blocks [][]int64 `json:"blocks"`
	// Channels has a count for each channel, over all heads and tokens.
	Channels []int64 `json:"channels"`
}

// Summary is the average or the worst over layers. The rows with an actual
// output are over the layers that have one.
type Summary struct {
	EmulatedVsReference metrics.Values  `json:"emulated_vs_reference"`
	ActualVsReference   *metrics.Values `json:"actual_vs_reference,omitempty"`
	ActualVsEmulated    *metrics.Values `json:"actual_vs_emulated,omitempty"`
	// Confidence is that of the average of layers that were sampled; nil otherwise.
	Confidence *Confidence `json:"confidence,omitempty"`
}

// Tool is the build of this module that computed a result: its version, and the
// commit and date where they are known.
type Tool = version.Info

// Result is the result of a run.
type Result struct {
	Schema string `json:"schema"`
	// Tool is what computed the result; nil in those of versions that did not say.
	Tool *Tool `json:"tool,omitempty"`
	// Args is the command that gave the result, as far as it bears on it; Run leaves
	// it nil.
	Args []string `json:"args,omitempty"`
	// Verdict says what is wrong; Run leaves it nil, Judge makes it.
	Verdict   *Verdict   `json:"verdict,omitempty"`
	Kernel    KernelInfo `json:"kernel"`
	Reference string     `json:"reference"`
	// QueryTile is how many rows of queries make a tile of the kernel.
	QueryTile int     `json:"query_tile,omitempty"`
	Layers    []Layer `json:"layers"`
	Average   Summary `json:"average"`
	Worst     Summary `json:"worst"`
	// WorstLayers names the layers that Worst stems from.
	WorstLayers WorstLayers `json:"worst_layers"`
}

// WorstLayers names, for each comparison, the layers of the worst figures.
type WorstLayers struct {
	EmulatedVsReference *FigureLayers `json:"emulated_vs_reference,omitempty"`
	ActualVsReference   *FigureLayers `json:"actual_vs_reference,omitempty"`
	ActualVsEmulated    *FigureLayers `json:"actual_vs_emulated,omitempty"`
}

// FigureLayers names the layer of each figure.
type FigureLayers struct {
	CosSim string `json:"cos_sim"`
	RelL1  string `json:"rel_l1"`
	RMSE   string `json:"rmse"`
	MaxAbs string `json:"max_abs"`
}

// leastRows is how many query rows a goroutine takes at a time at least; it takes whole
// tiles. It is a constant because the order in which sums are merged depends on it.
const leastRows = 256

// chunkRows returns the rows of a chunk for a kernel's tile.
func chunkRows(k *emulate.Kernel) int {
	rows := k.Tiling().BlockQ
	return (leastRows + rows - 1) / rows * rows
}

// Of heads of more than streamed elements the codes are not kept but made for
// runs of streamedChunks chunks, so that memory hardly grows with their length.
const (
	streamed       = 1 << 22
	streamedChunks = 16
)

// queries returns the queries [first, end) of a layer that a run is confined to, in whole
// chunks of that many rows.
func (o *Options) queries(l *layerdumps.Layer, rows int) (first, end int, err error) {
	if o.Rows == [2]int{} {
		return 0, l.Q.Tokens, nil
	}
	lo, hi := o.Rows[0], min(o.Rows[1], l.Q.Tokens)
	if lo < 0 || lo >= hi {
		return 0, 0, fmt.Errorf("it has no queries %d to %d: they are 0 to %d", o.Rows[0], o.Rows[1]-1, l.Q.Tokens-1)
	}
	return lo / rows * rows, min((hi+rows-1)/rows*rows, l.Q.Tokens), nil
}

// Run compares every layer of d. Cancelling ctx stops it within a tile or so.
func Run(ctx context.Context, d *layerdumps.Dump, opt Options) (*Result, error) {
	tool := version.Get()
	res := &Result{
		Schema: Schema, Tool: &tool, Kernel: Describe(opt.Kernel),
		Reference: opt.Reference.String(), QueryTile: QueryTile(opt.Kernel),
	}
	outlines, err := Outlines(d, opt)
	if err != nil {
		return nil, err
	}
	var all []ranges.Set
	for _, o := range outlines {
		all = append(all, o.All())
	}
	prog := newProgress(opt, outlines, all)
	for i := range d.Layers {
		if i+1 < len(d.Layers) {
			d.Layers[i+1].ReadAhead(readAhead)
		}
		p, err := runWhole(ctx, d, i, outlines[i], opt, prog)
		if err == nil {
			err = d.Layers[i].Check()
		}
		var l *Layer
		if err == nil {
			l, err = p.whole(outlines[i])
		}
		if err == nil {
			err = addMaskNotes(ctx, d, i, &opt, l)
		}
		if err != nil {
			return nil, layerError(d, i, err)
		}
		res.Layers = append(res.Layers, *l)
	}
	if !opt.NoReference {
		if err := findMisplaced(ctx, d, res, &opt); err != nil {
			return nil, err
		}
	}
	res.summarise()
	return res, nil
}

// layerError says of which layer an error is.
func layerError(d *layerdumps.Dump, i int, err error) error {
	return fmt.Errorf("%s: layer %s: %w", d.Layers[i].Source, d.Layers[i].Name, err)
}

// farOff reports whether an output is so far from the emulated one that its values may
// be in another order. Of a part of a layer it says so if the whole layer may be.
func (l *Layer) farOff(whole bool) bool {
	if l.ActualVsEmulated == nil || l.ActualVsEmulated.Share() < nearlyAll {
		return false
	}
	// Another kernel's output is about as accurate.
	now, usual := 1-l.ActualVsReference.CosSim, 1-l.EmulatedVsReference.CosSim
	return !whole || float64(now) > float64(4*usual)+1e-3
}

// farOff lists the first few layers whose values may be in another order: what is wrong
// with one is most often wrong with all.
func (r *Result) farOff() []int {
	const most = 8
	var out []int
	for i := range r.Layers {
		if len(out) < most && r.Layers[i].farOff(true) {
			out = append(out, i)
		}
	}
	return out
}

// findMisplaced looks for the right values of outputs that are far off.
func findMisplaced(ctx context.Context, d *layerdumps.Dump, res *Result, opt *Options) error {
	for _, i := range res.farOff() {
		text, err := noteOfMisplaced(ctx, d, i, opt)
		if err != nil {
			return layerError(d, i, err)
		}
		res.Layers[i].Misplaced = text
	}
	return nil
}

// Explain searches, for every layer whose actual output differs from the emulated
// one, for the numerics that give it.
func Explain(ctx context.Context, d *layerdumps.Dump, res *Result, opt Options) error {
	var differ []int
	for i := range res.Layers {
		if b := res.Layers[i].ActualVsEmulated; b != nil && !b.Exact() {
			differ = append(differ, i)
		}
	}
	for n, i := range differ {
		l := &d.Layers[i]
		x, err := noted(&opt, l, i, noteExplanation, func() (*explain.Result, error) {
			return explain.Layer(ctx, l, explain.Options{
				Program: opt.Kernel.Program(), Jobs: opt.Jobs, MaxChanges: opt.MaxChanges,
				Progress: func(part float64) {
					if opt.Progress != nil {
						opt.Progress((float64(n) + part) / float64(len(differ)))
					}
				},
			})
		})
		if err != nil {
			return layerError(d, i, err)
		}
		res.Layers[i].Explanation = x
	}
	return nil
}

// Attribute finds out, for every layer, how much of the emulated kernel's error each
// of its steps causes.
func Attribute(ctx context.Context, d *layerdumps.Dump, res *Result, opt Options) error {
	total, done := 0.0, 0.0
	for i := range d.Layers {
		total += attribute.Cost(&d.Layers[i])
	}
	for i := range d.Layers {
		l := &d.Layers[i]
		cost := attribute.Cost(l)
		x, err := noted(&opt, l, i, noteAttribution, func() (*attribute.Layer, error) {
			return attribute.Run(ctx, l, attribute.Options{
				Program: opt.Kernel.Program(), Reference: opt.Reference, Jobs: opt.Jobs,
				Progress: func(part float64) {
					if opt.Progress != nil {
						opt.Progress((done + float64(part*cost)) / total)
					}
				},
			})
		})
		if err != nil {
			return layerError(d, i, err)
		}
		done += cost
		res.Layers[i].Attribution = x
	}
	return nil
}

// progress is how much of a run is done.
type progress struct {
	mu             sync.Mutex
	report, skip   func(float64)
	total, done    float64
	layer          func(done, layers int)
	layers, behind int
	seen           map[int]ranges.Set // chunks that count as kept, by layer
}

// newProgress makes that of a run of some chunks of each layer.
func newProgress(opt Options, outlines []*Outline, want []ranges.Set) *progress {
	p := &progress{report: opt.Progress, skip: opt.Skipped, layer: opt.LayerDone, layers: len(outlines), seen: make(map[int]ranges.Set)}
	if p.report != nil {
		for i, o := range outlines {
			p.total += o.cost(want[i])
		}
	}
	return p
}

// computed takes in chunks of a layer that were computed.
func (p *progress) computed(o *Outline, layer int, chunks ranges.Set) {
	p.mu.Lock()
	p.seen[layer] = p.seen[layer].Union(chunks)
	p.mu.Unlock()
	p.add(o, chunks)
}

// add takes in chunks that are done.
func (p *progress) add(o *Outline, chunks ranges.Set) {
	if p.report == nil || chunks == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done += o.cost(chunks)
	p.report(min(1, p.done/p.total))
}

// grow takes in that there is more to do.
func (p *progress) grow(cost float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.total += cost
}

// kept takes in chunks of a layer that were done before, if it has not yet.
func (p *progress) kept(o *Outline, layer int, chunks ranges.Set) {
	chunks = chunks.Minus(p.seen[layer])
	p.seen[layer] = p.seen[layer].Union(chunks)
	if p.report != nil && p.skip != nil && chunks != nil {
		p.skip(o.cost(chunks) / p.total)
	}
	p.add(o, chunks)
}

// finished takes in that a layer is.
func (p *progress) finished() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.behind++
	if p.layer != nil {
		p.layer(p.behind, p.layers)
	}
}

// chunk is a run of query rows of one head, the unit of work.
type chunk struct {
	batch, head int
	kv          *kvHead
	lo, hi      int
	acc         *accumulators
}

// kvHead is what the query heads of a group share. It is prepared by the first
// goroutine that needs it and dropped by the last.
type kvHead struct {
	once        sync.Once
	batch, head int
	left        atomic.Int64 // chunks to come
	err         error
	kv          *emulate.KV
	counts      emulate.Counts // of kv, also when that is dropped
	inK, inV    headInputs
	transform   func(x []float32, query bool)
	k, v        func(lo, hi int, dst []float32)
}

// accumulators are the figures of a chunk, or merged of more.
type accumulators struct {
	comparison            // of the outputs
	lse        comparison // of the log-sum-exp
	counts     emulate.Counts
	errors     metrics.Histogram // of the emulated output
	actErrors  metrics.Histogram // of an actual one
	// Differing elements by block of mapTokens rows of the chunk, and by channel; nil
	// where there are none.
	blocks, channels []int64
	// Where an actual output differs, and where it alone is not finite; nil if nowhere.
	differing, spoiled *span
	// Of the chunk's rows of Q.
	inQ headInputs
}

func (a *accumulators) merge(b *accumulators) {
	a.comparison.merge(&b.comparison)
	a.lse.merge(&b.lse)
	a.counts.Merge(&b.counts)
	a.errors.Merge(&b.errors)
	a.actErrors.Merge(&b.actErrors)
}

// comparison accumulates the comparisons of one quantity.
type comparison struct {
	emulated, actual, both metrics.Accuracy
	bits                   metrics.Bits
}

func (a *comparison) merge(b *comparison) {
	a.emulated.Merge(&b.emulated)
	a.actual.Merge(&b.actual)
	a.both.Merge(&b.both)
	a.bits.Merge(&b.bits)
}

func (a *comparison) rows(actual bool) Rows {
	r := Rows{EmulatedVsReference: a.emulated.Values()}
	if actual {
		v := a.actual.Values()
		r.ActualVsReference = &v
		r.ActualVsEmulated = &BitValues{a.both.Values(), a.bits}
	}
	return r
}

// readAhead is how many bytes of the next layer are asked for while one is computed.
const readAhead = 256 << 20

// runWhole computes all chunks of a layer that are to be, of a sample as many as it takes.
func runWhole(ctx context.Context, d *layerdumps.Dump, index int, o *Outline, opt Options, prog *progress) (*Partial, error) {
	p, err := opt.kept(ctx, index, o)
	for err == nil {
		if p, err = runLayer(ctx, d, index, o, o.All(), p, opt, prog); err != nil || !o.Sampled || opt.Sample.enough(o, p) {
			break
		}
		before := o.TotalCost()
		o.choose(opt.Sample, 2*o.tiles())
		prog.grow(o.TotalCost() - before)
	}
	prog.finished()
	return p, err
}

// kept returns what an earlier run kept of a layer.
func (opt *Options) kept(ctx context.Context, index int, o *Outline) (*Partial, error) {
	if opt.Keep != nil {
		if p, err := opt.Keep.Kept(ctx, index, o); p != nil || err != nil {
			return p, err
		}
	}
	return new(Partial), nil
}

// runLayer computes the wanted chunks of a layer that are not in total, and returns what
// they and those give.
func runLayer(ctx context.Context, d *layerdumps.Dump, index int, o *Outline, want ranges.Set, total *Partial, opt Options, prog *progress) (*Partial, error) {
	l := &d.Layers[index]
	bound, err := heads.Bind(opt.Kernel, l)
	if err != nil {
		return nil, err
	}
	opt.Kernel = bound.Kernel
	prog.kept(o, index, want.Intersect(total.done))
	todo := want.Minus(total.done)
	if todo != nil && opt.Keep != nil {
		opt.Keep.Begin(index)
	}
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	g := newGatherer(bound, index, o, opt, total, todo)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range max(1, min(opt.Jobs, len(g.tasks))) {
		wg.Go(func() {
			w := worker{opt: opt, layer: bound}
			for inner.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(g.tasks) {
					return
				}
				t := g.tasks[i]
				if t.prepares() {
					if kv := g.ahead(t.kv); kv != nil {
						kv.ready(bound, opt, max(1, opt.Jobs/g.heads))
					}
					continue
				}
				cs := g.start(t)
				err := w.run(inner, cs)
				if err == nil {
					prog.computed(o, index, ranges.Set{t.chunks})
					err = g.finish(t.chunks, cs)
				}
				if err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if inner.Err() != nil {
		// What is done is kept, if it can be: the error is what stopped the run.
		_ = opt.keep(l, index, g.fresh)
		return nil, context.Cause(inner)
	}
	if err := opt.keep(l, index, g.fresh); err != nil {
		return nil, err
	}
	return g.total, g.total.Merge(o, g.fresh)
}

// task is what a goroutine does at a time.
type task struct {
	kv     int    // number of the kv head in the layer
	chunks [2]int // of the layer; none where the kv head is but prepared
}

func (t task) prepares() bool { return t.chunks[0] == t.chunks[1] }

// tasksOf cuts chunks of a layer into tasks for so many goroutines: one chunk, or a few
// consecutive ones of a head if codes are streamed, and heads of K and V ahead of them.
func tasksOf(o *Outline, chunks ranges.Set, jobs int) []task {
	most := 1
	if o.Shape.Keys*o.Shape.HeadDim > streamed {
		most = streamedChunks
	}
	var groups [][]task // by kv head
	for _, r := range chunks {
		for lo := r[0]; lo < r[1]; {
			hi := min(r[1], lo+most, (lo/o.perHead()+1)*o.perHead())
			t := task{lo / o.PerKV(), [2]int{lo, hi}}
			if last := len(groups) - 1; last < 0 || groups[last][0].kv != t.kv {
				groups = append(groups, nil)
			}
			groups[len(groups)-1] = append(groups[len(groups)-1], t)
			lo = hi
		}
	}
	pieces := make([]int, len(groups))
	for i, g := range groups {
		pieces[i] = len(g)
	}
	var out []task
	for i, piece := range parallel.Ahead(pieces, jobs) {
		if piece == parallel.Prepare {
			out = append(out, task{kv: groups[i][0].kv})
		} else {
			out = append(out, groups[i][piece])
		}
	}
	return out
}

// gatherer makes the tasks of a layer and merges what becomes of them.
type gatherer struct {
	l     *heads.Layer
	index int // of the layer
	o     *Outline
	opt   Options
	tasks []task
	heads int // of K and V

	mu    sync.Mutex
	kvs   map[int]*kvHead // those in use, by their number in the layer
	left  map[int]int     // chunks that are to be started, by kv head
	total *Partial        // what is kept
	fresh *Partial        // what is not yet
}

func newGatherer(l *heads.Layer, index int, o *Outline, opt Options, total *Partial, todo ranges.Set) *gatherer {
	g := &gatherer{
		l: l, index: index, o: o, opt: opt, tasks: tasksOf(o, todo, opt.Jobs), kvs: make(map[int]*kvHead), left: make(map[int]int), total: total, fresh: new(Partial),
	}
	for _, t := range g.tasks {
		g.left[t.kv] += t.chunks[1] - t.chunks[0]
	}
	g.heads = len(g.left)
	return g
}

// kvHead returns kv head n, of which chunks are to be started.
func (g *gatherer) kvHead(n int) *kvHead {
	kv := g.kvs[n]
	if kv == nil {
		kv = &kvHead{batch: n / g.l.K.Heads, head: n % g.l.K.Heads}
		kv.left.Store(int64(g.left[n]))
		g.kvs[n] = kv
	}
	return kv
}

// ahead returns kv head n to be prepared, nil if all of its chunks have been started.
func (g *gatherer) ahead(n int) *kvHead {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.left[n] == 0 {
		return nil
	}
	return g.kvHead(n)
}

// start returns the chunks of a task.
func (g *gatherer) start(t task) []chunk {
	g.mu.Lock()
	defer g.mu.Unlock()
	kv := g.kvHead(t.kv)
	if g.left[t.kv] -= t.chunks[1] - t.chunks[0]; g.left[t.kv] == 0 {
		delete(g.kvs, t.kv)
		delete(g.left, t.kv)
	}
	head := t.chunks[0] / g.o.perHead()
	var cs []chunk
	for c := t.chunks[0]; c < t.chunks[1]; c++ {
		lo, hi := g.o.rows(c)
		cs = append(cs, chunk{batch: head / g.l.Q.Heads, head: head % g.l.Q.Heads, kv: kv, lo: lo, hi: hi})
	}
	return cs
}

// finish merges the chunks of a task, which have run, and keeps what there is if it is
// time to.
func (g *gatherer) finish(done [2]int, cs []chunk) error {
	g.mu.Lock()
	g.fresh.add(g.o, done[0], cs)
	if g.opt.Keep == nil || !g.opt.Keep.Due() {
		g.mu.Unlock()
		return nil
	}
	p := g.fresh
	g.fresh = new(Partial)
	g.mu.Unlock()
	// Others go on meanwhile.
	if err := g.opt.keep(g.l.Layer, g.index, p); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.total.Merge(g.o, p)
}

// warnings puts the counts into words, cause before effect.
func warnings(o *Outline, counts *emulate.Counts, actual *emulate.Count) []string {
	what := map[emulate.Stage]string{
		emulate.StageVCodes:      "V's codes (a channel of zeros, or not finite, divides by zero)",
		emulate.StageTileSums:    "the P~V accumulator",
		emulate.StageDenominator: "the softmax denominator",
		emulate.StageOutput:      "the emulated output",
		emulate.StageP:           "P~",
		emulate.StageScores:      "the scores",
		emulate.StageRowMax:      "the row maxima",
		emulate.StagePCodes:      "P~'s codes",
		emulate.StageQCodes:      "Q after smoothing",
		emulate.StageKCodes:      "K after smoothing",
	}
	what[emulate.StageQ], what[emulate.StageK], what[emulate.StageV] = o.Q, o.K, o.V
	var w []string
	for i, c := range counts {
		if c != (emulate.Count{}) {
			w = append(w, describe(what[emulate.Stage(i)], c))
		}
	}
	if actual != nil {
		w = append(w, describe(o.O, *actual))
	}
	return w
}

func describe(where string, c emulate.Count) string {
	var parts []string
	for _, p := range []struct {
		n    int64
		name string
	}{{c.NaN, "NaN"}, {c.Inf, "Inf"}, {c.Saturated, "saturated"}, {c.Zero, "zero"}} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.name))
		}
	}
	return where + ": " + strings.Join(parts, ", ")
}

// worker holds a goroutine's buffers.
type worker struct {
	opt   Options
	layer *heads.Layer
	ws    emulate.Workspace
	rws   reference.Workspace
	q     []float32
	first []float32 // row of the head
	ref   []float64
	// Of the rows' log-sum-exp.
	refLSE []float64
	out    []float32
	lse    []float32
	act    []float32
	bitsA  []uint32
	bitsE  []uint32
}

// run does consecutive chunks of a head.
func (w *worker) run(ctx context.Context, cs []chunk) error {
	if err := w.layer.Err(); err != nil {
		return err // what is read is zero now
	}
	kv := cs[0].kv
	err := kv.ready(w.layer, w.opt, w.opt.Jobs)
	defer func() {
		if kv.left.Add(-int64(len(cs))) == 0 {
			kv.drop()
		}
	}()
	if err != nil {
		return err
	}
	d := w.layer.Q.Dim
	if w.q == nil {
		n := chunkRows(w.opt.Kernel)
		w.q = make([]float32, n*d)
		w.first = make([]float32, d)
		w.ref = make([]float64, n*d)
		w.refLSE = make([]float64, n)
		w.act = make([]float32, n*d)
		w.bitsA = make([]uint32, n*d)
		w.bitsE = make([]uint32, n*d)
	}
	if rows := cs[len(cs)-1].hi - cs[0].lo; len(w.lse) < rows {
		w.out, w.lse = make([]float32, rows*d), make([]float32, rows)
	}
	for i := range cs {
		cs[i].acc = new(accumulators)
	}
	q, err := w.emulate(ctx, cs)
	if err != nil {
		return err
	}
	for i := range cs {
		c := &cs[i]
		lo, hi := c.lo-cs[0].lo, c.hi-cs[0].lo
		if err := w.compare(ctx, c, q, w.out[lo*d:hi*d], w.lse[lo:hi]); err != nil {
			return err
		}
	}
	return nil
}

// compare computes the reference of a chunk and compares the emulated output out and
// log-sum-exp lse, in base 2, with it.
func (w *worker) compare(ctx context.Context, c *chunk, q *emulate.Query, out, lse []float32) error {
	l, kv := w.layer, c.kv
	d := l.Q.Dim
	n := (c.hi - c.lo) * d
	queries := heads.Values(l.Layer, &l.Q, l.Read(&l.Q, c.batch, c.head), c.batch, c.head)
	queries(c.lo, c.hi, w.q[:n])
	queries(0, 1, w.first)
	c.acc.inQ.add(w.q[:n], w.first[:d], d)
	ref, refLSE := w.ref[:n], []float64(nil)
	if w.opt.NoReference {
		ref = nil
	} else {
		if w.opt.LSE {
			refLSE = w.refLSE[:c.hi-c.lo]
		}
		p := heads.Reference(l.Layer, w.opt.Reference, l.Align(), c.batch, c.head)
		if err := reference.AttentionRows(ctx, p, w.q[:n], kv.k, kv.v, c.lo, c.hi, l.K.Tokens, d, &w.rws, ref, refLSE); err != nil {
			return err
		}
		c.acc.emulated.Add64(out, ref)
		c.acc.errors.Add64(out, ref)
	}
	if w.opt.LSE {
		// As the released API returns it.
		for i, x := range lse {
			lse[i] = q.NaturalLSE(x, w.q[i*d:i*d+d])
		}
	} else {
		lse = nil
	}
	if w.opt.Outputs != nil {
		w.opt.Outputs(Outputs{l.Layer, c.batch, c.head, c.lo, out, lse, ref, refLSE})
	}
	if w.opt.NoReference {
		return nil
	}
	if w.opt.LSE {
		w.compareLSE(c, lse, refLSE)
	}
	if l.O == nil || w.opt.NoActual {
		return nil
	}
	l.O.Rows(c.batch, c.head, c.lo, c.hi, w.act[:n])
	c.acc.actual.Add64(w.act[:n], ref)
	c.acc.actErrors.Add64(w.act[:n], ref)
	c.acc.both.Add(w.act[:n], out)
	// Bits are compared in the actual output's own format.
	f := l.O.DType
	l.O.RowsBits(c.batch, c.head, c.lo, c.hi, w.bitsA[:n])
	for i, x := range out {
		w.bitsE[i] = f.Bits(x)
	}
	at := metrics.Position{Batch: c.batch, Head: c.head, Token: c.lo}
	c.acc.bits.AddBlock(at, l.O.DType, d, w.bitsA[:n], w.bitsE[:n])
	if c.acc.bits.Mismatched > 0 {
		c.acc.mapDifferences(f, d, c.lo, w.bitsA[:n], w.bitsE[:n])
	}
	if bad := c.acc.actual.NonFinite(); bad.OutNaN+bad.OutInf > 0 {
		c.acc.findSpoiled(f, d, c.lo, w.act[:n], w.bitsE[:n])
	}
	return nil
}

// mapTokens is how many rows of queries a difference map sums up at the least.
const mapTokens = 64

// mapDifferences counts a chunk's differing elements by place; its first row is lo.
func (a *accumulators) mapDifferences(f format.DType, d, lo int, actual, emulated []uint32) {
	a.differing = new(span)
	a.blocks, a.channels = make([]int64, (len(actual)/d+mapTokens-1)/mapTokens), make([]int64, d)
	for i, x := range actual {
		y := emulated[i]
		if x == y {
			continue
		}
		if p, q := f.FromBits(x), f.FromBits(y); p != p && q != q {
			continue
		}
		a.blocks[i/d/mapTokens]++
		a.channels[i%d]++
		a.differing.add(lo+i/d, i%d)
	}
}

// findSpoiled finds a chunk's elements that are not finite in the actual output alone.
func (a *accumulators) findSpoiled(f format.DType, d, lo int, actual []float32, emulated []uint32) {
	var s span
	for i, x := range actual {
		if y := f.FromBits(emulated[i]); x-x != 0 && y-y == 0 {
			s.add(lo+i/d, i%d)
		}
	}
	if s.elements > 0 {
		a.spoiled = &s
	}
}

// compareLSE compares the log-sum-exp of the chunk's rows. The actual one's bits are
// in act and bitsA for the moment, which the outputs overwrite.
func (w *worker) compareLSE(c *chunk, lse []float32, ref []float64) {
	c.acc.lse.emulated.Add64(lse, ref)
	l := w.layer
	if l.LSE == nil || w.opt.NoActual {
		return
	}
	n := len(lse)
	l.LSE.Rows(c.batch, c.head, c.lo, c.hi, w.act[:n])
	c.acc.lse.actual.Add64(w.act[:n], ref)
	c.acc.lse.both.Add(w.act[:n], lse)
	l.LSE.RowsBits(c.batch, c.head, c.lo, c.hi, w.bitsA[:n])
	for i, x := range lse {
		w.bitsE[i] = format.FP32.Bits(x)
	}
	at := metrics.Position{Batch: c.batch, Head: c.head, Token: c.lo}
	c.acc.lse.bits.AddBlock(at, format.FP32, 1, w.bitsA[:n], w.bitsE[:n])
}

// emulate runs the chunks' blocks into w.out and w.lse.
func (w *worker) emulate(ctx context.Context, cs []chunk) (*emulate.Query, error) {
	k := w.opt.Kernel
	w.ws.Counts = emulate.Counts{}
	q := cs[0].kv.query(k, w.layer, cs[0].batch, cs[0].head, &w.ws)
	bq := k.Tiling().BlockQ
	lo, hi := cs[0].lo, cs[len(cs)-1].hi
	var lse []float32
	if w.opt.LSE {
		lse = w.lse[:hi-lo]
	}
	_, err := k.RunBlocks(ctx, q, &w.ws, lo/bq, (hi-lo+bq-1)/bq, w.out[:(hi-lo)*w.layer.Q.Dim], lse)
	cs[0].acc.counts = w.ws.Counts
	return q, err
}

// ready prepares the head if nobody has, or waits for whoever does.
func (kv *kvHead) ready(l *heads.Layer, opt Options, jobs int) error {
	kv.once.Do(func() { kv.err = kv.prepare(l, opt, jobs) })
	return kv.err
}

// prepare quantises the head's K and V on up to jobs goroutines.
func (kv *kvHead) prepare(l *heads.Layer, opt Options, jobs int) error {
	nk, d := l.K.Tokens, l.K.Dim
	read := func(t *layerdumps.Tensor) emulate.Rows {
		rows := l.Read(t, kv.batch, kv.head)
		if nk*d <= cached {
			rows = decoded(rows, nk, d)
		}
		return rows
	}
	k, v := read(&l.K), read(&l.V)
	in := l.KVOf(kv.batch, kv.head, k, v)
	kv.k, kv.v = heads.Values(l.Layer, &l.K, k, kv.batch, kv.head), heads.Values(l.Layer, &l.V, v, kv.batch, kv.head)
	look(&kv.inK, kv.k, nk, d)
	look(&kv.inV, kv.v, nk, d)
	if opt.Transform != nil {
		kv.transform = opt.Transform(l.Layer, kv.batch, kv.head)
		keys := in.K
		in.K = func(lo, hi int, dst []float32) {
			keys(lo, hi, dst)
			kv.transform(dst[:(hi-lo)*d], false)
		}
	}
	in.Jobs, in.Stream = jobs, nk*d > streamed
	var err error
	if kv.kv, err = opt.Kernel.Prepare(in); err == nil {
		kv.counts = kv.kv.Counts
	}
	return err
}

// look finds what is odd about a head of an input.
func look(in *headInputs, rows func(lo, hi int, dst []float32), n, d int) {
	x, first := make([]float32, min(n, leastRows)*d), make([]float32, d)
	rows(0, 1, first)
	for lo := 0; lo < n; lo += leastRows {
		hi := min(lo+leastRows, n)
		rows(lo, hi, x[:(hi-lo)*d])
		in.add(x[:(hi-lo)*d], first, d)
	}
}

// cached is the size, in elements, up to which a head's K and V are decoded once
// and kept; longer ones are decoded block by block, so that memory stays bounded.
const cached = 1 << 21

// decoded reads all rows and returns a function that copies from them.
func decoded(rows func(lo, hi int, dst []float32), n, d int) func(lo, hi int, dst []float32) {
	x := make([]float32, n*d)
	rows(0, n, x)
	return func(lo, hi int, dst []float32) { copy(dst, x[lo*d:hi*d]) }
}

// query prepares a query head of the group.
func (kv *kvHead) query(k *emulate.Kernel, l *heads.Layer, batch, head int, ws *emulate.Workspace) *emulate.Query {
	in := l.Query(batch, head)
	if read := in.Q; kv.transform != nil {
		in.Q = func(lo, hi int, dst []float32) {
			read(lo, hi, dst)
			kv.transform(dst[:(hi-lo)*l.Q.Dim], true)
		}
	}
	return k.Query(in, kv.kv, ws)
}

// drop lets go of the large buffers.
func (kv *kvHead) drop() {
	kv.k, kv.v, kv.kv = nil, nil, nil
}

func (r *Result) summarise() {
	r.Average.Confidence = r.confidence()
	var names, actualNames []string
	var emu, act, both []metrics.Values
	for _, l := range r.Layers {
		names, emu = append(names, l.Name), append(emu, l.EmulatedVsReference)
		if l.ActualVsReference != nil {
			actualNames = append(actualNames, l.Name)
			act = append(act, *l.ActualVsReference)
			both = append(both, l.ActualVsEmulated.Values)
		}
	}
	if emu == nil {
		r.Average.EmulatedVsReference, r.Worst.EmulatedVsReference = metrics.Average(nil), metrics.WorstOf(nil).Values
		return
	}
	sum := func(rows []metrics.Values, names []string) (average, worst *metrics.Values, layers *FigureLayers) {
		a, w := metrics.Average(rows), metrics.WorstOf(rows)
		return &a, &w.Values, &FigureLayers{names[w.CosSimAt], names[w.RelL1At], names[w.RMSEAt], names[w.MaxAbsAt]}
	}
	average, worst, layers := sum(emu, names)
	r.Average.EmulatedVsReference, r.Worst.EmulatedVsReference, r.WorstLayers.EmulatedVsReference = *average, *worst, layers
	if act == nil {
		return
	}
	r.Average.ActualVsReference, r.Worst.ActualVsReference, r.WorstLayers.ActualVsReference = sum(act, actualNames)
	r.Average.ActualVsEmulated, r.Worst.ActualVsEmulated, r.WorstLayers.ActualVsEmulated = sum(both, actualNames)
}
