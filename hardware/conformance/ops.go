package conformance

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/mufu"
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/emulate/tensorcore"
)

// unaryModels are the instructions of one FP32 argument.
var unaryModels = map[string]struct {
	dtype string
	f     func(float32) uint32
}{
	"ex2.approx.ftz.f32":          {"F32", func(x float32) uint32 { return math.Float32bits(mufu.Ex2(x)) }},
	"rcp.approx.ftz.f32":          {"F32", func(x float32) uint32 { return math.Float32bits(mufu.Rcp(x)) }},
	"lg2.approx.ftz.f32":          {"F32", func(x float32) uint32 { return math.Float32bits(mufu.Lg2(x)) }},
	"tanh.approx.f32":             {"F32", func(x float32) uint32 { return math.Float32bits(mufu.Tanh(x)) }},
	"cvt.rn.satfinite.e4m3x2.f32": {"F8_E4M3", func(x float32) uint32 { return uint32(format.E4M3FromFloat32(x)) }},
	"cvt.rn.satfinite.e5m2x2.f32": {"F8_E5M2", func(x float32) uint32 { return uint32(format.E5M2FromFloat32(x)) }},
	"cvt.rni.sat.s8.f32":          {"I8", func(x float32) uint32 { return uint32(format.Int8FromFloat32(x)) }},
	"cvt.rn.f16.f32":              {"F16", func(x float32) uint32 { return uint32(format.FP16FromFloat32(x)) }},
	"cvt.rn.bf16.f32":             {"BF16", func(x float32) uint32 { return uint32(format.BF16FromFloat32(x)) }},
}

// The largest sizes that a case may have, far above those of any instruction or
// recording: what is allocated for a case is bounded by them, not by its file, which
// may be as large as it claims and take no room on the disk.
const (
	maxTile = 1 << 12 // rows of a matrix instruction's operand
	maxHead = 1 << 26 // elements of a head of Q, K or V
)

// pauseEvery is how many elements are checked between two looks at the context.
const pauseEvery = 1 << 16

func (c *Case) unary(ctx context.Context, f file, cmp *comparison) error {
	model, ok := unaryModels[c.Instruction]
	if !ok {
		return errSkip{fmt.Errorf("no model of instruction %q", c.Instruction)}
	}
	x, err := f.tensor("x", -1)
	if err != nil {
		return err
	}
	if x.DType != "F32" {
		return fmt.Errorf("%s: tensor %q has dtype %s, expected F32", f.Name, x.Name, x.DType)
	}
	y, err := f.tensor(c.Expect, x.Shape[0])
	if err != nil {
		return err
	}
	if y.DType != model.dtype {
		return fmt.Errorf("%s: tensor %q has dtype %s, expected %s", f.Name, y.Name, y.DType, model.dtype)
	}
	for i := range x.Shape[0] {
		if i%pauseEvery == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		cmp.add(y, i, model.f(valueAt(x, i)))
	}
	return nil
}

// arithModels are the FP32 instructions of up to three arguments; an op arith
// case has x [n,3] and expects one result a row. It is an extension of the format.
var arithModels = map[string]func(a, b, c float32) float32{
	"mul.rn.ftz.f32":     func(a, b, _ float32) float32 { return format.MulFtz(a, b) },
	"add.rn.ftz.f32":     func(a, _, c float32) float32 { return format.AddFtz(a, c) },
	"fma.rn.ftz.f32":     format.FMAFtz,
	"div.full.ftz.f32":   func(a, b, _ float32) float32 { return mufu.DivFull(a, b) },
	"div.approx.ftz.f32": func(a, b, _ float32) float32 { return mufu.DivApprox(a, b) },
}

func (c *Case) arith(ctx context.Context, f file, cmp *comparison) error {
	model, ok := arithModels[c.Instruction]
	if !ok {
		return errSkip{fmt.Errorf("no model of instruction %q", c.Instruction)}
	}
	// The arguments stand beside the results: "mul.x" beside "mul.y".
	x, err := f.tensor(strings.TrimSuffix(c.Expect, "y")+"x", -1, 3)
	if err != nil {
		return err
	}
	y, err := f.tensor(c.Expect, x.Shape[0])
	if err != nil {
		return err
	}
	for _, t := range []*tensor{x, y} {
		if t.DType != "F32" {
			return fmt.Errorf("%s: tensor %q has dtype %s, expected F32", f.Name, t.Name, t.DType)
		}
	}
	for i := range x.Shape[0] {
		if i%pauseEvery == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		cmp.add(y, i, math.Float32bits(model(valueAt(x, 3*i), valueAt(x, 3*i+1), valueAt(x, 3*i+2))))
	}
	return nil
}

// operandDType is the safetensors dtype of a matrix operand.
func operandDType(o tensorcore.Operand) string {
	switch o {
	case tensorcore.E4M3:
		return "F8_E4M3"
	case tensorcore.E5M2:
		return "F8_E5M2"
	case tensorcore.FP16:
		return "F16"
	case tensorcore.BF16:
		return "BF16"
	case tensorcore.TF32, tensorcore.FP32:
		return "F32"
	case tensorcore.S32:
		return "I32"
	}
	return "I8"
}

// mma checks one instruction. A recording may have fewer rows, columns and products
// than the instruction: what it lacks was zero.
func (c *Case) mma(ctx context.Context, f file, cmp *comparison) error {
	u, err := tensorcore.Lookup(c.Arch, c.Instruction)
	if err != nil {
		return errSkip{err}
	}
	return c.mmaOn(ctx, u, f, cmp)
}

func (c *Case) mmaOn(ctx context.Context, u *tensorcore.Unit, f file, cmp *comparison) error {
	a, err := f.tensor("a", -1, -1, -1)
	if err != nil {
		return err
	}
	tiles, m, depth := a.Shape[0], a.Shape[1], a.Shape[2]
	if depth < 1 || depth > u.K {
		return fmt.Errorf("%s: tensor %q has shape %v, expected 1 to %d products", f.Name, a.Name, a.Shape, u.K)
	}
	b, err := f.tensor("b", tiles, -1, depth)
	if err != nil {
		return err
	}
	n := b.Shape[1]
	if m > maxTile || n > maxTile {
		return fmt.Errorf("%s: tensors \"a\" and \"b\" have %d and %d rows a tile; no instruction has more than %d", f.Name, m, n, maxTile)
	}
	acc, err := f.tensor("c", tiles, m, n)
	if err != nil {
		return err
	}
	d, err := f.tensor(c.Expect, tiles, m, n)
	if err != nil {
		return err
	}
	for _, t := range []struct {
		*tensor
		want string
	}{{a, operandDType(u.A)}, {b, operandDType(u.A)}, {acc, operandDType(u.C)}, {d, operandDType(u.C)}} {
		if t.DType != t.want {
			return fmt.Errorf("%s: tensor %q has dtype %s, expected %s", f.Name, t.Name, t.DType, t.want)
		}
	}
	// The operands of one result, zero beyond depth.
	x, y := make([]uint32, u.K), make([]uint32, u.K)
	for t := range tiles {
		if err := ctx.Err(); err != nil {
			return err
		}
		for i := range m {
			for k := range depth {
				x[k] = bitsAt(a, (t*m+i)*depth+k)
			}
			for j := range n {
				for k := range depth {
					y[k] = bitsAt(b, (t*n+j)*depth+k)
				}
				e := (t*m+i)*n + j
				cmp.add(d, e, u.Dot(bitsAt(acc, e), x, y))
			}
		}
	}
	return nil
}

// problem is the attention input of a recording.
type problem struct {
	q, k, v *tensor
	mean    *tensor
	dtype   format.DType
	file    string
	// Descales of FP8 inputs, [batch][kv heads], that of Q perhaps [batch][query heads].
	qDescale, kDescale, vDescale *tensor
	mask                         *tensor // boolean or additive, [1 or batch][1 or heads][1 or queries][keys]
	blocks                       *tensor // [batch][heads][tiles of rows][tiles of keys]
}

// rows reads one head of a [b,h,n,d] tensor, zero-padded to dim channels.
func rows(t *tensor, batch, head, dim int) emulate.Rows {
	n, d := t.Shape[2], t.Shape[3]
	base := (batch*t.Shape[1] + head) * n
	w := width(t.DType)
	return func(lo, hi int, dst []float32) {
		clear(dst[:(hi-lo)*dim])
		b := make([]byte, min(hi-lo, max(1, windowSize/(d*w)))*d*w)
		for r := lo; r < hi; {
			part := b[:min(hi-r, len(b)/(d*w))*d*w]
			t.read(part, int64(base+r)*int64(d*w))
			for i := range len(part) / w {
				dst[(r-lo+i/d)*dim+i%d] = value(t.DType, pattern(t.DType, part[i*w:][:w]))
			}
			r += len(part) / (d * w)
		}
	}
}

func (c *Case) problem(f file) (*problem, error) {
	p := &problem{file: f.Name}
	var err error
	if p.q, err = f.tensor("q", -1, -1, -1, -1); err != nil {
		return nil, err
	}
	if p.dtype, err = dtypeOf(p.q); err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name, err)
	}
	if d := p.q.Shape[3]; d < 1 || d > emulate.MaxHeadDim {
		return nil, fmt.Errorf("%s: tensor %q: head_dim is %d; want 1 to %d", f.Name, p.q.Name, d, emulate.MaxHeadDim)
	}
	for _, t := range []*tensor{p.q, f.find("k")} {
		if t != nil && len(t.Shape) == 4 && t.Shape[2] > maxHead/emulate.MaxHeadDim {
			return nil, fmt.Errorf("%s: tensor %q has %d tokens; a case may have up to %d", f.Name, t.Name, t.Shape[2], maxHead/emulate.MaxHeadDim)
		}
	}
	if p.k, err = f.tensor("k", p.q.Shape[0], -1, -1, p.q.Shape[3]); err != nil {
		return nil, err
	}
	if p.v, err = f.tensor("v", p.k.Shape...); err != nil {
		return nil, err
	}
	if p.k.DType != p.q.DType || p.v.DType != p.q.DType {
		return nil, fmt.Errorf("%s: q, k and v have different dtypes", f.Name)
	}
	if p.k.Shape[1] == 0 || p.q.Shape[1]%p.k.Shape[1] != 0 {
		return nil, fmt.Errorf("%s: %d query heads do not divide into %d kv heads", f.Name, p.q.Shape[1], p.k.Shape[1])
	}
	if f.Tensor("quant/k_mean") != nil {
		if p.mean, err = f.tensor("quant/k_mean", p.k.Shape[0], p.k.Shape[1], 1, p.k.Shape[3]); err != nil {
			return nil, err
		}
		if p.mean.DType != p.q.DType {
			return nil, fmt.Errorf("%s: tensor %q has dtype %s, expected %s", f.Name, p.mean.Name, p.mean.DType, p.q.DType)
		}
	}
	if p.dtype == format.FP8 {
		for name, t := range map[string]**tensor{"q_descale": &p.qDescale, "k_descale": &p.kDescale, "v_descale": &p.vDescale} {
			heads := p.k.Shape[1]
			if x := f.find(name); name == "q_descale" && x != nil && len(x.Shape) == 2 && x.Shape[1] != heads {
				heads = p.q.Shape[1] // one for each query head
			}
			if *t, err = f.tensor(name, p.k.Shape[0], heads); err != nil {
				return nil, err
			}
			if (*t).DType != "F32" {
				return nil, fmt.Errorf("%s: tensor %q has dtype %s, expected F32", f.Name, name, (*t).DType)
			}
		}
	}
	if c.Mask != "" {
		if p.mask, err = f.tensor(c.Mask, -1, -1, -1, p.k.Shape[2]); err != nil {
			return nil, err
		}
		for i, n := range p.q.Shape[:3] {
			if m := p.mask.Shape[i]; m != 1 && m != n {
				return nil, fmt.Errorf("%s: tensor %q has shape %v, expected 1 or %d in dimension %d", f.Name, c.Mask, p.mask.Shape, n, i)
			}
		}
		if p.mask.DType != "BOOL" && p.mask.DType != p.q.DType {
			return nil, fmt.Errorf("%s: tensor %q has dtype %s, expected BOOL or %s", f.Name, c.Mask, p.mask.DType, p.q.DType)
		}
	}
	if c.BlockMap != "" {
		if p.blocks, err = f.tensor(c.BlockMap, p.q.Shape[0], p.q.Shape[1], -1, -1); err != nil {
			return nil, err
		}
		if p.blocks.DType != "BOOL" {
			return nil, fmt.Errorf("%s: tensor %q has dtype %s, expected BOOL", f.Name, c.BlockMap, p.blocks.DType)
		}
	}
	if c.Window != nil && len(c.Window) != 2 {
		return nil, fmt.Errorf("%s: window %v, expected [left, right]", f.Name, c.Window)
	}
	return p, nil
}

// bounds are the case's causal mask and window as the kernel takes them.
func (c *Case) bounds(p *problem, k *emulate.Kernel) emulate.Bounds {
	b := emulate.Bounds{Causal: c.Causal}
	if c.Window != nil {
		b.Windowed, b.Left, b.Right = true, c.Window[0], c.Window[1]
	}
	queries, keys := p.q.Shape[2], p.k.Shape[2]
	return b.Normal(queries, keys, k.Align(queries, keys))
}

// scale returns the softmax scale as emulate takes it: 0 stands for the default, so that a
// call's own 0 becomes a number that FP32 has no other than 0 for.
func (c *Case) scale() float64 {
	switch {
	case c.SMScale == nil:
		return 0
	case *c.SMScale == 0:
		return math.SmallestNonzeroFloat64
	}
	return *c.SMScale
}

// query is how a query head attends.
func (c *Case) query(p *problem, k *emulate.Kernel, batch, head int) emulate.QInput {
	b := c.bounds(p, k)
	group := p.q.Shape[1] / p.k.Shape[1]
	in := emulate.QInput{
		Q: rows(p.q, batch, head, p.q.Shape[3]), Len: p.q.Shape[2], Scale: c.scale(), Softcap: c.Softcap,
		Causal: b.Causal, Windowed: b.Windowed, Left: b.Left, Right: b.Right,
		Group: group, Member: head % group,
	}
	if p.qDescale != nil {
		heads := p.qDescale.Shape[1]
		in.QDescale = valueAt(p.qDescale, batch*heads+head*heads/p.q.Shape[1])
	}
	if m := p.blocks; m != nil {
		in.Listed = func(block, lo, hi int, dst []bool) {
			row := ((batch*m.Shape[1]+head)*m.Shape[2] + block) * m.Shape[3]
			for i := range hi - lo {
				dst[i] = bitsAt(m, row+lo+i) != 0
			}
		}
	}
	if p.mask == nil {
		return in
	}
	// What is broadcast has a dimension of 1.
	at := func(row int) int {
		m := p.mask.Shape
		return ((batch%m[0])*m[1]+head%m[1])*m[2]*m[3] + row%m[2]*m[3]
	}
	if p.mask.DType == "BOOL" {
		in.Visible = func(row, lo, hi int, dst []bool) {
			for i := range hi - lo {
				dst[i] = bitsAt(p.mask, at(row)+lo+i) != 0
			}
		}
	} else {
		in.Bias = func(row, lo, hi int, dst []float32) {
			for i := range hi - lo {
				dst[i] = valueAt(p.mask, at(row)+lo+i)
			}
		}
	}
	return in
}

// unbound builds the case's kernel.
func (c *Case) unbound() (*emulate.Kernel, error) {
	described := c.Description
	if described == nil {
		if _, err := program.Load(c.Kernel); err != nil {
			return nil, errSkip{err}
		}
		q, err := c.selection().Program()
		if err != nil {
			return nil, errSkip{err}
		}
		described = &q
	}
	k, err := emulate.New(*described)
	if err != nil {
		return nil, errSkip{err}
	}
	return k, nil
}

// kernel builds the case's kernel, for its inputs.
func (c *Case) kernel(p *problem) (*emulate.Kernel, error) {
	k, err := c.unbound()
	if err != nil {
		return nil, err
	}
	b := c.bounds(p, k)
	if k, err = k.ForCase(p.dtype, program.Case{
		HeadDim: p.q.Shape[3], Causal: b.Causal, Window: b.Windowed, Softcap: c.Softcap != 0, Masked: p.mask != nil, Batch: p.q.Shape[0], Heads: p.q.Shape[1], KVHeads: p.k.Shape[1],
		Queries: p.q.Shape[2], Keys: p.k.Shape[2],
	}); err != nil {
		return nil, fmt.Errorf("%s: tensor %q: %w", p.file, p.q.Name, err)
	}
	if m, q := p.blocks, k.Bound(); m != nil && q.Mask.BlockMap != "" {
		t := k.Tiling()
		if rows, keys := (p.q.Shape[2]+t.BlockQ-1)/t.BlockQ, (p.k.Shape[2]+t.BlockK-1)/t.BlockK; m.Shape[2] != rows || m.Shape[3] != keys {
			return nil, fmt.Errorf("%s: tensor %q has %dx%d blocks, and kernel %s has %dx%d tiles", p.file, m.Name, m.Shape[2], m.Shape[3], c.Kernel, rows, keys)
		}
	}
	return k, nil
}

// selection is what the case's fields say of its kernel.
func (c *Case) selection() program.Selection {
	s := program.Selection{
		Kernel: c.Kernel, Arch: c.Arch, QKBits: c.QKBits, Granularity: c.Granularity, Smooth: c.Smooth,
		PVType: c.PVType, PVAccum: c.PVAccum, QuantBackend: c.QuantBackend, Set: slices.Clone(c.Set),
	}
	if c.CausalAlign != "" {
		s.Set = append(s.Set, "mask.causal="+c.CausalAlign)
	}
	if c.NumSplits > 1 {
		s.Set = append(s.Set, fmt.Sprintf("tiles.split=%d", c.NumSplits))
	}
	if c.SMs != 0 {
		s.Set = append(s.Set, fmt.Sprintf("tiles.sms=%d", c.SMs))
	}
	if c.Variant != "" {
		s.Variants = []string{c.Variant}
	}
	if s.Smooth != "" || c.SmoothK == nil && !c.SmoothV {
		return s
	}
	// The two switches leave Q as the kernel has it.
	p, err := program.Load(c.Kernel)
	if err != nil {
		return s
	}
	k := p.Smoothing.K != "none"
	if c.SmoothK != nil {
		k = *c.SmoothK
	}
	var list []string
	for _, x := range []struct {
		on   bool
		name string
	}{{p.Smoothing.Q != "none", "q"}, {k, "k"}, {c.SmoothV, "v"}} {
		if x.on {
			list = append(list, x.name)
		}
	}
	if s.Smooth = strings.Join(list, ","); s.Smooth == "" {
		s.Smooth = "none"
	}
	return s
}

// kv prepares a kv head of dim channels; the recording's own mean of K replaces
// the computed one where it has one and useMean says so.
func (p *problem) kv(k *emulate.Kernel, batch, head, dim int, useMean bool) (*emulate.KV, error) {
	in := emulate.KVInput{K: rows(p.k, batch, head, dim), V: rows(p.v, batch, head, dim), Len: p.k.Shape[2], Dim: dim, DType: p.dtype}
	if useMean && p.mean != nil {
		in.KMean = make([]float32, in.Dim)
		rows(p.mean, batch, head, dim)(0, 1, in.KMean)
	}
	if p.kDescale != nil {
		at := batch*p.k.Shape[1] + head
		in.KDescale, in.VDescale = valueAt(p.kDescale, at), valueAt(p.vDescale, at)
	}
	return k.Prepare(in)
}

// expectsLSE says whether the expected tensor is a log-sum-exp, an extension of the format:
// below lse_raw/ the kernel's own of each row, below lse/ what the released API makes of it.
func (c *Case) expectsLSE() (raw, api bool) {
	return strings.HasPrefix(c.Expect, "lse_raw/"), strings.HasPrefix(c.Expect, "lse/")
}

// returned is what was recorded of a call: the expected tensor, the log-sum-exp that came with
// it, and the correction of a log-sum-exp for K's mean; the last two may be nil.
type returned struct{ output, sums, correction *tensor }

// returned finds what a case of one kernel expects.
func (c *Case) returned(f file, p *problem, k *emulate.Kernel) (r returned, err error) {
	shape, dtype := p.q.Shape, dtypeName(k.OutputDType(p.dtype))
	if raw, api := c.expectsLSE(); raw || api {
		shape, dtype = p.q.Shape[:3], "F32"
	}
	if r.output, err = f.tensor(c.Expect, shape...); err != nil {
		return r, err
	}
	if o := r.output; o.DType != dtype {
		return r, fmt.Errorf("%s: tensor %q has dtype %s, expected %s", f.Name, o.Name, o.DType, dtype)
	}
	if c.LSE != "" {
		if r.sums, err = f.tensor(c.LSE, p.q.Shape[:3]...); err != nil {
			return r, err
		}
		if r.sums.DType != "F32" {
			return r, fmt.Errorf("%s: tensor %q has dtype %s, expected F32", f.Name, r.sums.Name, r.sums.DType)
		}
	}
	r.correction = f.find("quant/lse_correction")
	if x := r.correction; x != nil && (!slices.Equal(x.Shape, p.q.Shape[:3]) || x.DType != "F32") {
		return r, fmt.Errorf("%s: tensor %q is %s %v, expected F32 %v", f.Name, x.Name, x.DType, x.Shape, p.q.Shape[:3])
	}
	return r, nil
}

func (c *Case) attention(ctx context.Context, f file, cmp *comparison) error {
	if c.Unstable {
		return errSkip{errors.New("the recorded kernel does not return the same each time")}
	}
	if f.Tensor("cu_seqlens_q") != nil {
		return c.packed(ctx, f, cmp)
	}
	p, err := c.problem(f)
	if err != nil {
		return err
	}
	k, err := c.kernel(p)
	if err != nil {
		return err
	}
	if err := k.Supports(c.query(p, k, 0, 0)); err != nil {
		return errSkip{err}
	}
	returned, err := c.returned(f, p, k)
	if err != nil {
		return err
	}
	o, sums, correction := returned.output, returned.sums, returned.correction
	smoothK := k.Bound().Smoothing.K != "none"
	nq, d := p.q.Shape[2], p.q.Shape[3]
	rawLSE, apiLSE := c.expectsLSE()
	scale := c.scale()
	if scale == 0 {
		scale = 1 / math.Sqrt(float64(d))
	}
	group := p.q.Shape[1] / p.k.Shape[1]
	var ws emulate.Workspace
	out := make([]float32, k.Tiling().BlockQ*d)
	lse := make([]float32, k.Tiling().BlockQ)
	x := make([]float32, d)
	to := k.OutputDType(p.dtype)
	for b := range p.q.Shape[0] {
		for h := range p.q.Shape[1] {
			kv, err := p.kv(k, b, h/group, d, true)
			if err != nil {
				return fmt.Errorf("%s: %w", f.Name, err)
			}
			q := k.Query(c.query(p, k, b, h), kv, &ws)
			for blk := range k.Blocks(nq) {
				if err := ctx.Err(); err != nil {
					return err
				}
				n, err := k.Run(q, &ws, blk, out, lse)
				if err != nil {
					return err
				}
				row := (b*p.q.Shape[1]+h)*nq + blk*k.Tiling().BlockQ
				if !rawLSE && !apiLSE {
					for i, x := range out[:n*d] {
						cmp.add(o, row*d+i, to.Bits(x))
					}
					if sums != nil {
						for i, y := range lse[:n] {
							cmp.add(sums, row+i, math.Float32bits(y))
						}
					}
					continue
				}
				for i, y := range lse[:n] {
					if apiLSE {
						var corr float32
						if smoothK && correction != nil {
							corr = valueAt(correction, row+i)
						} else if smoothK {
							first := blk*k.Tiling().BlockQ + i
							rows(p.q, b, h, d)(first, first+1, x)
							corr = q.LSECorrection(x)
						}
						y = emulate.NaturalLSE(y, corr, float32(scale))
					}
					cmp.add(o, row+i, math.Float32bits(y))
				}
			}
		}
	}
	return nil
}

// dtypeName is the safetensors name of a dtype.
func dtypeName(t format.DType) string {
	return map[format.DType]string{format.FP16: "F16", format.BF16: "BF16", format.FP32: "F32", format.FP8: "F8_E4M3"}[t]
}

func (c *Case) quantize(ctx context.Context, f file, cmp *comparison) error {
	p, err := c.problem(f)
	if err != nil {
		return err
	}
	k, err := c.kernel(p)
	if err != nil {
		return err
	}
	want := f.find(c.Expect)
	if want == nil {
		return fmt.Errorf("%s: no tensor %q", f.Name, c.Expect)
	}
	x := p.k
	if strings.HasPrefix(c.Tensor, "q_") {
		x = p.q
	}
	batch, heads, n, d := x.Shape[0], x.Shape[1], x.Shape[2], x.Shape[3]
	// Quantised tensors are recorded as the kernels see them: head_dim
	// zero-padded to 64 or 128.
	if c.Tensor != "k_mean" {
		d = paddedDim(d)
	}
	i := 0
	check := func(shape []int, dtype string) error {
		if !slices.Equal(want.Shape, shape) || want.DType != dtype {
			return fmt.Errorf("%s: tensor %q is %s %v, expected %s %v", f.Name, want.Name, want.DType, want.Shape, dtype, shape)
		}
		return nil
	}
	for b := range batch {
		for h := range heads {
			if err := ctx.Err(); err != nil {
				return err
			}
			var got []uint32
			shape, dtype := []int{batch, heads}, "F32"
			if x == p.q {
				got, shape, dtype = c.queryTensor(k, p, b, h, d, shape)
			} else {
				// The mean itself is recomputed from K: that is what the case tests.
				kv, err := p.kv(k, b, h, d, c.Tensor != "k_mean")
				if err != nil {
					return fmt.Errorf("%s: %w", f.Name, err)
				}
				switch c.Tensor {
				case "k_mean":
					for _, m := range kv.KeyMean() {
						got = append(got, p.dtype.Bits(m))
					}
					shape, dtype = append(shape, 1, d), x.DType
				case "k_int8", "k_scale":
					codes, scales := kv.KeyCodes()
					got, shape, dtype = codesOrScales(c.Tensor == "k_int8", codes, scales, shape, n, d)
				case "v_fp8":
					if len(want.Shape) != 4 {
						return fmt.Errorf("%s: tensor %q has shape %v, expected 4 dimensions", f.Name, want.Name, want.Shape)
					}
					codes, stride, _, _ := kv.ValueCodes()
					// The recording is padded, to multiples of 16 at least.
					padded := want.Shape[3]
					if padded < n || padded > stride || padded%16 != 0 {
						return fmt.Errorf("%s: tensor %q has %d tokens a channel, expected a multiple of 16 from %d to %d", f.Name, want.Name, padded, n, stride)
					}
					for ch := range d {
						for t := range padded {
							got = append(got, uint32(codes[ch*stride+k.Stored(t)]))
						}
					}
					shape, dtype = append(shape, d, padded), "F8_E4M3"
				case "v_scale", "v_mean":
					_, _, scale, mean := kv.ValueCodes()
					if c.Tensor == "v_mean" {
						scale = mean
					}
					for _, s := range scale {
						got = append(got, math.Float32bits(s))
					}
					shape = append(shape, d)
				default:
					return errSkip{fmt.Errorf("no model of quantised tensor %q", c.Tensor)}
				}
			}
			if got == nil {
				return errSkip{fmt.Errorf("no model of quantised tensor %q", c.Tensor)}
			}
			if err := check(shape, dtype); err != nil {
				return err
			}
			for _, bits := range got {
				cmp.add(want, i, bits)
				i++
			}
		}
	}
	return nil
}

func codesOrScales(wantCodes bool, codes []int8, scales []float32, shape []int, n, d int) ([]uint32, []int, string) {
	var got []uint32
	if wantCodes {
		for _, v := range codes {
			got = append(got, uint32(v))
		}
		return got, append(shape, n, d), "I8"
	}
	for _, s := range scales {
		got = append(got, math.Float32bits(s))
	}
	return got, append(shape, len(scales)), "F32"
}

// paddedDim is the head dimension that the released API pads d to.
func paddedDim(d int) int {
	if d <= 64 {
		return 64
	}
	return 128
}

// queryTensor returns the codes or scales of a query head.
func (c *Case) queryTensor(k *emulate.Kernel, p *problem, b, h, d int, shape []int) ([]uint32, []int, string) {
	if c.Tensor != "q_int8" && c.Tensor != "q_scale" {
		return nil, nil, ""
	}
	n := p.q.Shape[2]
	// Some kernels quantise the scaled Q; the default scale is that of the unpadded head.
	scale := c.scale()
	if scale == 0 {
		scale = 1 / math.Sqrt(float64(p.q.Shape[3]))
	}
	codes, scales := k.QuantizeQuery(emulate.QInput{Q: rows(p.q, b, h, d), Len: n, Scale: scale}, d)
	return codesOrScales(c.Tensor == "q_int8", codes, scales, shape, n, d)
}
