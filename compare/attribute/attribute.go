// Package attribute finds out how much of a kernel's error each of its steps
// causes: each step alone, with all others computed without error, and each step
// left out of the whole.
package attribute

import (
	"context"
	"fmt"
	"math"
	"sync"
	"sync/atomic"

	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/quant"
	"github.com/sageacc/sageacc/internal/jsonfloat"
	"github.com/sageacc/sageacc/layerdumps"
	"github.com/sageacc/sageacc/metrics"
	"github.com/sageacc/sageacc/reference"
)

// Steps is a set of steps of a kernel.
type Steps uint8

// The steps that cause errors.
const (
	// QK is the quantisation of Q and K. Without it scores are exact products of Q
	// and the smoothed K, rounded to FP32.
	QK Steps = 1 << iota
	// P is the quantisation of P~.
	P
	// V is the quantisation of V, its smoothing included.
	V
	// Accumulator is the rounding of sums in P~V and O; without it they are FP64.
	Accumulator
	// Exp2 is the error of the special functions ex2 and rcp; without it they are
	// correctly rounded.
	Exp2
	// Output is the rounding of O to the input dtype.
	Output
	// All are all steps.
	All = 1<<iota - 1
)

// names are in the order of the bits.
var names = []string{"Q, K codes", "P codes", "V codes", "accumulator", "exp2", "output"}

// Error is how far an output is from the reference.
type Error struct {
	OneMinusCos jsonfloat.Float `json:"one_minus_cos"`
	RelL1       jsonfloat.Float `json:"rel_l1"`
	// MSE is the mean squared error. Of independent errors it adds up.
	MSE jsonfloat.Float `json:"mse"`
}

// Step is what a step does.
type Step struct {
	Name string `json:"name"`
	// Alone is the error where only this step is taken and all others are exact.
	Alone Error `json:"alone"`
	// Without is the error of the kernel where only this step is exact.
	Without Error `json:"without"`
}

// Layer is the attribution of one layer.
type Layer struct {
	Name      string `json:"name"`
	Synthetic string `json:"synthetic,omitempty"`
	// Kernel is the error of the kernel as it is, Rest of the program with every
	// step exact: FP32 arithmetic in the softmax.
	Kernel Error  `json:"kernel"`
	Rest   Error  `json:"rest"`
	Steps  []Step `json:"steps"`
	// Remainder is the kernel's mean squared error less that of all steps alone and
	// of the rest: what does not add up, because errors interact.
	Remainder jsonfloat.Float `json:"remainder_mse"`
}

// Options control a run.
type Options struct {
	Config    emulate.Config
	Reference reference.Precision
	Jobs      int
	// Progress, if not nil, is called with the finished part, 0 to 1.
	Progress func(part float64)
}

// Run attributes the error of every layer.
func Run(ctx context.Context, d *layerdumps.Dump, opt Options) ([]Layer, error) {
	var out []Layer
	total := 0
	for i := range d.Layers {
		total += d.Layers[i].Q.Batch * d.Layers[i].Q.Heads
	}
	var mu sync.Mutex
	done := 0
	finished := func() {
		mu.Lock()
		defer mu.Unlock()
		done++
		if opt.Progress != nil {
			opt.Progress(float64(done) / float64(total))
		}
	}
	for i := range d.Layers {
		l, err := runLayer(ctx, &d.Layers[i], opt, finished)
		if err != nil {
			return nil, fmt.Errorf("%s: layer %s: %w", d.Layers[i].Source, d.Layers[i].Name, err)
		}
		out = append(out, *l)
	}
	return out, nil
}

// variants lists the sets of exact steps that are run: none, all, all but one,
// one.
func variants() []Steps {
	v := []Steps{0, All}
	for i := range names {
		v = append(v, All&^(1<<i), 1<<i)
	}
	return v
}

func runLayer(ctx context.Context, l *layerdumps.Layer, opt Options, finished func()) (*Layer, error) {
	if v := opt.Config.Variant; v != (emulate.Variant{}) {
		return nil, fmt.Errorf("the steps of a variant (%s) cannot be told apart: attribute knows the programs as they are", v)
	}
	kernel, err := emulate.New(opt.Config)
	if err != nil {
		return nil, err
	}
	vs := variants()
	heads := l.Q.Batch * l.Q.Heads
	acc := make([][]metrics.Accuracy, heads) // by head, then by variant
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range max(1, min(opt.Jobs, heads)) {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= heads {
					return
				}
				a, err := runHead(ctx, kernel, l, i/l.Q.Heads, i%l.Q.Heads, vs, opt.Reference)
				if err != nil {
					cancel(err)
					return
				}
				acc[i] = a
				finished()
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	errs := make([]Error, len(vs))
	for v := range vs {
		var sum metrics.Accuracy
		for i := range acc {
			sum.Merge(&acc[i][v])
		}
		f := sum.Values()
		errs[v] = Error{1 - f.CosSim, f.RelL1, f.RMSE * f.RMSE}
	}
	out := &Layer{Name: l.Name, Synthetic: l.Synthetic, Kernel: errs[0], Rest: errs[1]}
	out.Remainder = out.Kernel.MSE - out.Rest.MSE
	for i, name := range names {
		s := Step{Name: name, Alone: errs[2+2*i], Without: errs[3+2*i]}
		out.Steps = append(out.Steps, s)
		out.Remainder -= s.Alone.MSE - out.Rest.MSE
	}
	return out, nil
}

// newHead prepares a query head.
func newHead(k *emulate.Kernel, l *layerdumps.Layer, batch, qh int) (*head, error) {
	kh := qh * l.K.Heads / l.Q.Heads
	cfg := k.Config()
	d, nq, nk := l.Q.Dim, l.Q.Tokens, l.K.Tokens
	h := &head{
		cfg: cfg, tiling: k.Tiling(), nq: nq, nk: nk, d: d, causal: l.Causal,
		sm: format.MulFtz(float32(l.Scale()), math.Log2E), dtype: format.DType(l.Q.DType),
		q: make([]float32, nq*d), k: make([]float32, nk*d), v: make([]float32, nk*d),
	}
	if cfg.PVType != quant.INT8 {
		u, err := cfg.Unit()
		if err != nil {
			return nil, err
		}
		h.unit = u
	}
	l.Q.Rows(batch, qh, 0, nq, h.q)
	l.K.Rows(batch, kh, 0, nk, h.k)
	l.V.Rows(batch, kh, 0, nk, h.v)
	matrix := func(x []float32) emulate.Rows {
		return func(lo, hi int, dst []float32) { copy(dst, x[lo*d:hi*d]) }
	}
	kv, err := k.Prepare(emulate.KVInput{K: matrix(h.k), V: matrix(h.v), Len: nk, Dim: d, DType: h.dtype})
	if err != nil {
		return nil, err
	}
	h.qCodes, h.qScales = k.QuantizeQuery(emulate.QInput{Q: matrix(h.q), Len: nq}, d)
	h.kCodes, h.kScales = kv.KeyCodes()
	h.vCodes, h.stride, h.vScale, h.vMean = kv.ValueCodes()
	// The exact K is smoothed without rounding the difference to the input dtype:
	// that rounding is the quantiser's.
	smoothed := append([]float32(nil), h.k...)
	if mean := kv.KeyMean(); mean != nil {
		style := quant.Paper
		if cfg.Program != emulate.PaperProgram {
			style = quant.Fused
			if cfg.QKGranularity == quant.PerThread {
				style = quant.Triton
			}
		}
		quant.SubtractMean(style, smoothed, mean, h.dtype.Round)
		quant.SubtractMean(quant.Paper, h.k, mean, nil)
	}
	if cfg.SmoothQ {
		h.deltaS(smoothed)
	}
	n := d * h.stride
	h.vCode, h.vExact = newOperand(n), newOperand(n)
	for c := range d {
		for x := range h.stride {
			t := quant.Permute(x)
			h.vCode.set(c*h.stride+x, cfg.PVType.Decode(h.vCodes[c*h.stride+t]), minExp(cfg.PVType))
			if t < nk {
				h.vExact.set(c*h.stride+x, h.v[t*d+c], -126)
			} else {
				h.vExact.set(c*h.stride+x, 0, -126)
			}
		}
	}
	return h, nil
}

// deltaS computes the delta-S correction of a smoothed Q.
func (h *head) deltaS(k []float32) {
	blocks := (h.nq + h.tiling.BlockQ - 1) / h.tiling.BlockQ
	h.delta = make([]float32, blocks*h.nk)
	mean := make([]float32, h.d)
	for b := range blocks {
		m := quant.NewChannelMean(h.d)
		m.Add(h.q[b*h.tiling.BlockQ*h.d : min((b+1)*h.tiling.BlockQ, h.nq)*h.d])
		m.Mean(mean, format.FP32.Round)
		for j := range h.nk {
			var s float32
			for c, x := range k[j*h.d : (j+1)*h.d] {
				s = format.FMAFtz(mean[c], x, s)
			}
			h.delta[b*h.nk+j] = s
		}
	}
}

func runHead(ctx context.Context, k *emulate.Kernel, l *layerdumps.Layer, batch, qh int, vs []Steps, prec reference.Precision) ([]metrics.Accuracy, error) {
	h, err := newHead(k, l, batch, qh)
	if err != nil {
		return nil, err
	}
	d := h.d
	kh := qh * l.K.Heads / l.Q.Heads
	raw := make([]float32, h.nk*d)
	l.K.Rows(batch, kh, 0, h.nk, raw)
	ref := make([]float64, h.nq*d)
	p := reference.Params{Precision: prec, Causal: l.Causal, Scale: l.Scale()}
	if err := reference.Attention(ctx, p, h.q, raw, h.v, 0, h.nq, h.nk, d, nil, ref, nil); err != nil {
		return nil, err
	}
	acc := make([]metrics.Accuracy, len(vs))
	w := newScratch(h)
	out := make([]float32, d)
	for i := range h.nq {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		for v, exact := range vs {
			h.row(i, exact, w, out)
			acc[v].Add64(out, ref[i*d:(i+1)*d])
		}
	}
	return acc, nil
}

func newScratch(h *head) *scratch {
	bk := h.tiling.BlockK
	return &scratch{make([]float32, bk), newOperand(bk), newOperand(bk), make([]float64, h.d)}
}
