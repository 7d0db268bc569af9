// Package compare runs layers of a dump through the full-precision reference and
// an emulated kernel, and measures the three outputs there may be against each
// other: emulated against reference, actual (what a GPU returned) against
// reference, and actual against emulated, bit by bit.
package compare

import (
	"context"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/sageacc/sageacc/compare/attribute"
	"github.com/sageacc/sageacc/compare/explain"
	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/internal/jsonfloat"
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
	// Transform, which would change the correction.
	LSE bool
	// NoActual leaves actual outputs out.
	NoActual bool
	// NoReference leaves the reference out, which takes about as long as the emulation:
	// the figures against it are then those of nothing, and so for Outputs alone.
	NoReference bool
	// Rows, if not zero, are the queries [Rows[0], Rows[1]) to which a run is confined, in
	// whole chunks of 256: figures, counts and outputs are then theirs alone. A layer
	// that has none of them is an error.
	Rows [2]int
	// Outputs, if not nil, is given the outputs themselves, some rows of a head at a
	// time, each row once, from several goroutines at once.
	Outputs func(Outputs)
	// Jobs is the number of goroutines; at least one runs. It changes no result.
	Jobs int
	// Progress, if not nil, is called with the finished part of the run, 0 to 1,
	// one call at a time.
	Progress func(part float64)
	// MaxChanges is how many changes Explain combines; 0 stands for 2.
	MaxChanges int
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
	// Variant lists the deviations from the program.
	Variant string `json:"variant,omitempty"`
	// PVUnit is the matrix instruction of P~V and what executes it.
	PVUnit string `json:"pv_unit"`
	// SpecialFunctions says how exp2, log2 and reciprocals are computed.
	SpecialFunctions string `json:"special_functions"`
}

// Describe returns the description of a configuration.
func Describe(cfg emulate.Config) KernelInfo {
	k := KernelInfo{
		Name: cfg.Name, Program: cfg.Program.String(), Arch: cfg.Arch,
		QKBits: cfg.QKBits, QKGranularity: cfg.QKGranularity.String(), Smooth: cfg.Smooth(),
		PVDType: cfg.PVType.String(), PVAccum: cfg.PVAccum.String(), Variant: cfg.Variant.String(),
		SpecialFunctions: "MUFU, bit-exact (sm_90)",
	}
	switch v := cfg.Variant; {
	case v.ExactExp2 && v.Rcp != emulate.UnitRcp:
		k.SpecialFunctions = "exp2 and reciprocals correctly rounded, log2 by MUFU (sm_90)"
	case v.ExactExp2:
		k.SpecialFunctions = "exp2 correctly rounded, others by MUFU (sm_90)"
	case v.Rcp != emulate.UnitRcp:
		k.SpecialFunctions = "reciprocals correctly rounded, others by MUFU (sm_90)"
	}
	if u, err := cfg.Unit(); err == nil {
		k.PVUnit = fmt.Sprintf("%s (%s on %s: %s)", u.Instruction, u.Executed, u.Arch, u.Out)
	}
	return k
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
	// Sampled are the queries [Sampled[0], Sampled[1]) that the figures are of, where a run
	// was confined to some; nil where they are of all.
	Sampled *[2]int `json:"sampled,omitempty"`
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
	// Warnings say in words what Counts hold and what else is odd.
	Warnings []string `json:"warnings,omitempty"`
	Heads    []Head   `json:"heads,omitempty"`
	// Explanation names the numerics that give an actual output which is not the
	// emulated one; Run leaves it nil, Explain fills it in.
	Explanation *explain.Result `json:"explanation,omitempty"`
	// Attribution says how much of the error each step causes; Run leaves it nil,
	// Attribute fills it in.
	Attribution *attribute.Layer `json:"attribution,omitempty"`
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
}

// Result is the result of a run.
type Result struct {
	Schema string `json:"schema"`
	// Args is the command that gave the result, as far as it bears on it; Run leaves
	// it nil.
	Args      []string   `json:"args,omitempty"`
	Kernel    KernelInfo `json:"kernel"`
	Reference string     `json:"reference"`
	Layers    []Layer    `json:"layers"`
	Average   Summary    `json:"average"`
	Worst     Summary    `json:"worst"`
}

// The three packages number the formats alike, so a conversion of the type is one
// of the value; an index other than 0 does not compile.
var _ = [...]struct{}{
	[1]struct{}{}[int(layerdumps.F16)-int(format.FP16)], [1]struct{}{}[int(layerdumps.F16)-int(metrics.FP16)],
	[1]struct{}{}[int(layerdumps.BF16)-int(format.BF16)], [1]struct{}{}[int(layerdumps.BF16)-int(metrics.BF16)],
	[1]struct{}{}[int(layerdumps.F32)-int(format.FP32)], [1]struct{}{}[int(layerdumps.F32)-int(metrics.FP32)],
}

// chunkRows is how many query rows a goroutine takes at a time: a multiple of
// every program's tile. It is a constant because the order in which sums are
// merged depends on it.
const chunkRows = 256

// Of heads of more than streamed elements the codes are not kept but made for
// runs of streamedChunks chunks, so that memory hardly grows with their length.
const (
	streamed       = 1 << 22
	streamedChunks = 16
)

// Run compares every layer of d. Cancelling ctx stops it within a tile or so.
func Run(ctx context.Context, d *layerdumps.Dump, opt Options) (*Result, error) {
	res := &Result{Schema: Schema, Kernel: Describe(opt.Kernel.Config()), Reference: opt.Reference.String()}
	prog := progress{report: opt.Progress}
	for i := range d.Layers {
		prog.total += work(&d.Layers[i])
	}
	for i := range d.Layers {
		l, err := runLayer(ctx, &d.Layers[i], opt, &prog)
		if err != nil {
			return nil, fmt.Errorf("%s: layer %s: %w", d.Layers[i].Source, d.Layers[i].Name, err)
		}
		res.Layers = append(res.Layers, *l)
	}
	res.summarise()
	return res, nil
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
		x, err := explain.Layer(ctx, l, explain.Options{
			Config: opt.Kernel.Config(), Jobs: opt.Jobs, MaxChanges: opt.MaxChanges,
			Progress: func(part float64) {
				if opt.Progress != nil {
					opt.Progress((float64(n) + part) / float64(len(differ)))
				}
			},
		})
		if err != nil {
			return fmt.Errorf("%s: layer %s: %w", l.Source, l.Name, err)
		}
		res.Layers[i].Explanation = x
		l.Release()
	}
	return nil
}

// Attribute finds out, for every layer, how much of the emulated kernel's error each
// of its steps causes.
func Attribute(ctx context.Context, d *layerdumps.Dump, res *Result, opt Options) error {
	layers, err := attribute.Run(ctx, d, attribute.Options{
		Config: opt.Kernel.Config(), Reference: opt.Reference, Jobs: opt.Jobs, Progress: opt.Progress,
	})
	if err != nil {
		return err
	}
	for i := range layers {
		res.Layers[i].Attribution = &layers[i]
	}
	return nil
}

// work estimates a layer's cost, in multiply-adds.
func work(l *layerdumps.Layer) float64 {
	return float64(float64(l.Q.Batch) * float64(l.Q.Heads) * float64(l.Q.Tokens) * float64(l.K.Tokens) * float64(l.Q.Dim))
}

type progress struct {
	mu          sync.Mutex
	report      func(float64)
	total, done float64
}

func (p *progress) add(w float64) {
	if p.report == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done += w
	p.report(p.done / p.total)
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

func runLayer(ctx context.Context, l *layerdumps.Layer, opt Options, prog *progress) (*Layer, error) {
	defer l.Release()
	first, end := 0, l.Q.Tokens
	if opt.Rows != [2]int{} {
		first, end = opt.Rows[0]/chunkRows*chunkRows, min((opt.Rows[1]+chunkRows-1)/chunkRows*chunkRows, end)
		if opt.Rows[0] < 0 || opt.Rows[0] >= end {
			return nil, fmt.Errorf("it has no queries %d to %d: they are 0 to %d", opt.Rows[0], opt.Rows[1]-1, l.Q.Tokens-1)
		}
	}
	group := l.Q.Heads / l.K.Heads
	var chunks []chunk
	var kvs []*kvHead
	for b := range l.Q.Batch {
		for kh := range l.K.Heads {
			kv := &kvHead{batch: b, head: kh}
			kvs = append(kvs, kv)
			for h := kh * group; h < (kh+1)*group; h++ {
				for lo := first; lo < end; lo += chunkRows {
					chunks = append(chunks, chunk{batch: b, head: h, kv: kv, lo: lo, hi: min(lo+chunkRows, l.Q.Tokens)})
					kv.left.Add(1)
				}
			}
		}
	}
	tasks := split(chunks, l.K.Tokens*l.Q.Dim > streamed)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range max(1, min(opt.Jobs, len(tasks))) {
		wg.Go(func() {
			w := worker{opt: opt, layer: l}
			for {
				i := int(next.Add(1)) - 1
				if i >= len(tasks) || ctx.Err() != nil {
					return
				}
				if err := w.run(ctx, tasks[i], prog); err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	out := collect(l, chunks, kvs, opt)
	if opt.Rows != [2]int{} {
		out.Sampled = &[2]int{first, end}
	}
	return out, nil
}

// split makes tasks of chunks: one of each, or, if codes are streamed, runs of chunks
// of a head.
func split(chunks []chunk, stream bool) [][]chunk {
	most := 1
	if stream {
		most = streamedChunks
	}
	var tasks [][]chunk
	for len(chunks) > 0 {
		n := 1
		for n < min(most, len(chunks)) && chunks[n].kv == chunks[0].kv && chunks[n].head == chunks[0].head {
			n++
		}
		tasks, chunks = append(tasks, chunks[:n]), chunks[n:]
	}
	return tasks
}

// collect merges the chunks in order.
func collect(l *layerdumps.Layer, chunks []chunk, kvs []*kvHead, opt Options) *Layer {
	actual := l.O != nil && !opt.NoActual
	out := &Layer{
		Name: l.Name, Causal: l.Causal, SMScale: l.Scale(), Source: l.Source, Synthetic: l.Synthetic,
		Shape: Shape{l.Q.Batch, l.Q.Heads, l.K.Heads, l.Q.Tokens, l.K.Tokens, l.Q.Dim, l.Q.DType.String()},
	}
	rows := func(a *accumulators) Rows {
		r := a.rows(actual)
		if opt.LSE {
			lse := a.lse.rows(l.LSE != nil && !opt.NoActual)
			r.LSE = &lse
		}
		return r
	}
	var all accumulators
	for i := 0; i < len(chunks); {
		var head accumulators
		b, h := chunks[i].batch, chunks[i].head
		for ; i < len(chunks) && chunks[i].batch == b && chunks[i].head == h; i++ {
			head.merge(chunks[i].acc)
		}
		if opt.PerHead {
			out.Heads = append(out.Heads, Head{b, h, rows(&head)})
		}
		all.merge(&head)
	}
	for _, kv := range kvs {
		all.counts.Merge(&kv.kv.Counts)
	}
	out.Rows = rows(&all)
	out.ReferenceRMS = jsonfloat.Float(all.emulated.RefRMS())
	out.ErrorHistogram = all.errors.Values()
	if actual {
		h := all.actErrors.Values()
		out.ActualErrorHistogram = &h
	}
	if actual && all.bits.Mismatched > 0 {
		out.DifferenceMap = differenceMap(l, chunks)
	}
	out.Counts = all.counts.Map()
	if len(out.Counts) == 0 {
		out.Counts = nil
	}
	if n := all.actual.NonFinite(); n.OutNaN+n.OutInf > 0 {
		out.ActualNonFinite = &emulate.Count{NaN: n.OutNaN, Inf: n.OutInf}
	}
	out.Warnings = warnings(l, &all.counts, out.ActualNonFinite)
	if n := all.emulated.NonFinite(); n.RefNaN+n.RefInf > 0 {
		out.Warnings = append(out.Warnings, describe("the reference", emulate.Count{NaN: n.RefNaN, Inf: n.RefInf}))
	}
	return out
}

// warnings puts the counts into words, cause before effect.
func warnings(l *layerdumps.Layer, counts *emulate.Counts, actual *emulate.Count) []string {
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
	for s, t := range map[emulate.Stage]*layerdumps.Tensor{emulate.StageQ: &l.Q, emulate.StageK: &l.K, emulate.StageV: &l.V} {
		what[s] = t.Name
	}
	var w []string
	for i, c := range counts {
		if c != (emulate.Count{}) {
			w = append(w, describe(what[emulate.Stage(i)], c))
		}
	}
	if actual != nil {
		w = append(w, describe(l.O.Name, *actual))
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
	layer *layerdumps.Layer
	ws    emulate.Workspace
	rws   reference.Workspace
	q     []float32
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
func (w *worker) run(ctx context.Context, cs []chunk, prog *progress) error {
	kv := cs[0].kv
	kv.once.Do(func() { kv.err = kv.prepare(w.layer, w.opt) })
	defer func() {
		if kv.left.Add(-int64(len(cs))) == 0 {
			kv.drop()
		}
	}()
	if kv.err != nil {
		return kv.err
	}
	d := w.layer.Q.Dim
	if w.q == nil {
		w.q = make([]float32, chunkRows*d)
		w.ref = make([]float64, chunkRows*d)
		w.refLSE = make([]float64, chunkRows)
		w.act = make([]float32, chunkRows*d)
		w.bitsA = make([]uint32, chunkRows*d)
		w.bitsE = make([]uint32, chunkRows*d)
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
		prog.add(float64(float64(hi-lo) * float64(w.layer.K.Tokens) * float64(d)))
	}
	return nil
}

// compare computes the reference of a chunk and compares the emulated output out and
// log-sum-exp lse, in base 2, with it.
func (w *worker) compare(ctx context.Context, c *chunk, q *emulate.Query, out, lse []float32) error {
	l, kv := w.layer, c.kv
	d := l.Q.Dim
	n := (c.hi - c.lo) * d
	l.Q.Rows(c.batch, c.head, c.lo, c.hi, w.q[:n])
	ref, refLSE := w.ref[:n], []float64(nil)
	if w.opt.NoReference {
		ref = nil
	} else {
		if w.opt.LSE {
			refLSE = w.refLSE[:c.hi-c.lo]
		}
		p := reference.Params{Precision: w.opt.Reference, Causal: l.Causal, Scale: l.Scale()}
		if err := reference.AttentionRows(ctx, p, w.q[:n], kv.k, kv.v, c.lo, c.hi, l.K.Tokens, d, &w.rws, ref, refLSE); err != nil {
			return err
		}
		c.acc.emulated.Add64(out, ref)
		c.acc.errors.Add64(out, ref)
	}
	if w.opt.LSE {
		// As the released API returns it.
		for i, x := range lse {
			lse[i] = emulate.NaturalLSE(x, q.LSECorrection(w.q[i*d:i*d+d]), float32(l.Scale()))
		}
	} else {
		lse = nil
	}
	if w.opt.Outputs != nil {
		w.opt.Outputs(Outputs{l, c.batch, c.head, c.lo, out, lse, ref, refLSE})
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
	f := format.DType(l.O.DType)
	l.O.RowsBits(c.batch, c.head, c.lo, c.hi, w.bitsA[:n])
	for i, x := range out {
		w.bitsE[i] = f.Bits(x)
	}
	at := metrics.Position{Batch: c.batch, Head: c.head, Token: c.lo}
	c.acc.bits.AddBlock(at, metrics.Format(l.O.DType), d, w.bitsA[:n], w.bitsE[:n])
	if c.acc.bits.Mismatched > 0 {
		c.acc.mapDifferences(f, d, w.bitsA[:n], w.bitsE[:n])
	}
	return nil
}

// mapTokens is how many rows of queries a difference map sums up at the least.
const mapTokens = 64

// mapDifferences counts a chunk's differing elements by place.
func (a *accumulators) mapDifferences(f format.DType, d int, actual, emulated []uint32) {
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
	}
}

// mostBlocks is how many blocks of tokens a difference map has at the most.
const mostBlocks = 64

// differenceMap puts the chunks' counts together.
func differenceMap(l *layerdumps.Layer, chunks []chunk) *DifferenceMap {
	d, n := l.Q.Dim, l.Q.Tokens
	tokens := mapTokens
	for (n+tokens-1)/tokens > mostBlocks {
		tokens *= 2
	}
	m := &DifferenceMap{BlockTokens: tokens, Channels: make([]int64, d)}
	for range l.Q.Batch * l.Q.Heads {
		m.Blocks = append(m.Blocks, make([]int64, (n+tokens-1)/tokens))
	}
	for _, c := range chunks {
		row := m.Blocks[c.batch*l.Q.Heads+c.head]
		for i, x := range c.acc.blocks {
			row[(c.lo+i*mapTokens)/tokens] += x
		}
		for i, x := range c.acc.channels {
			m.Channels[i] += x
		}
	}
	return m
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
		w.bitsE[i] = math.Float32bits(x)
	}
	at := metrics.Position{Batch: c.batch, Head: c.head, Token: c.lo}
	c.acc.lse.bits.AddBlock(at, metrics.FP32, 1, w.bitsA[:n], w.bitsE[:n])
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

func (kv *kvHead) prepare(l *layerdumps.Layer, opt Options) error {
	nk, d := l.K.Tokens, l.K.Dim
	kv.k = func(lo, hi int, dst []float32) { l.K.Rows(kv.batch, kv.head, lo, hi, dst) }
	kv.v = func(lo, hi int, dst []float32) { l.V.Rows(kv.batch, kv.head, lo, hi, dst) }
	if nk*d <= cached {
		kv.k, kv.v = decoded(kv.k, nk, d), decoded(kv.v, nk, d)
	}
	keys := kv.k
	if opt.Transform != nil {
		kv.transform = opt.Transform(l, kv.batch, kv.head)
		keys = func(lo, hi int, dst []float32) {
			kv.k(lo, hi, dst)
			kv.transform(dst[:(hi-lo)*d], false)
		}
	}
	var err error
	kv.kv, err = opt.Kernel.Prepare(emulate.KVInput{
		K: keys, V: kv.v, Len: nk, Dim: d, DType: format.DType(l.Q.DType), Jobs: opt.Jobs, Stream: nk*d > streamed,
	})
	return err
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
func (kv *kvHead) query(k *emulate.Kernel, l *layerdumps.Layer, batch, head int, ws *emulate.Workspace) *emulate.Query {
	return k.Query(emulate.QInput{
		Q: func(lo, hi int, dst []float32) {
			l.Q.Rows(batch, head, lo, hi, dst)
			if kv.transform != nil {
				kv.transform(dst[:(hi-lo)*l.Q.Dim], true)
			}
		},
		Len: l.Q.Tokens, Causal: l.Causal, Scale: float32(l.Scale()),
	}, kv.kv, ws)
}

// drop lets go of the large buffers; the counts stay.
func (kv *kvHead) drop() {
	kv.k, kv.v = nil, nil
	if kv.kv != nil {
		kv.kv = &emulate.KV{Counts: kv.kv.Counts}
	}
}

func (r *Result) summarise() {
	var emu, act, both []metrics.Values
	for _, l := range r.Layers {
		emu = append(emu, l.EmulatedVsReference)
		if l.ActualVsReference != nil {
			act = append(act, *l.ActualVsReference)
			both = append(both, l.ActualVsEmulated.Values)
		}
	}
	r.Average.EmulatedVsReference = metrics.Average(emu)
	r.Worst.EmulatedVsReference = metrics.WorstOf(emu).Values
	if act == nil {
		return
	}
	for _, s := range []struct {
		dst  **metrics.Values
		rows []metrics.Values
	}{{&r.Average.ActualVsReference, act}, {&r.Average.ActualVsEmulated, both}} {
		v := metrics.Average(s.rows)
		*s.dst = &v
	}
	for _, s := range []struct {
		dst  **metrics.Values
		rows []metrics.Values
	}{{&r.Worst.ActualVsReference, act}, {&r.Worst.ActualVsEmulated, both}} {
		v := metrics.WorstOf(s.rows).Values
		*s.dst = &v
	}
}
