// Package heads is the emulator's and the reference's view of a layer: which kv head a
// query head belongs to, where its rows are, and how it attends. Everything that runs a
// layer goes through it.
package heads

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/emulate/quant"
	"github.com/sageacc/sageacc/layerdumps"
	"github.com/sageacc/sageacc/reference"
)

// Layer is a layer and the kernel that emulates it, with the choices made that depend on
// the layer.
type Layer struct {
	*layerdumps.Layer
	Kernel *emulate.Kernel
	// Read reads the rows of a head as they are stored: Rows, or what keeps them.
	Read func(t *layerdumps.Tensor, batch, head int) emulate.Rows

	made made
}

// Case is what of a layer the choices of a kernel may depend on; mask.causal of its
// description is align.
func Case(l *layerdumps.Layer, align string) program.Case {
	from := 0
	if align != "top-left" {
		from = l.K.Tokens - l.Q.Tokens
	}
	b := bounds(l, from)
	return program.Case{
		HeadDim: l.Q.Dim, Causal: b.Causal, Window: b.Windowed, Softcap: l.Softcap != 0, Masked: l.Mask != nil, DType: strings.ToLower(l.Q.DType.String()),
		Batch: l.Q.Batch, Heads: l.Q.Heads, KVHeads: l.K.Heads, Queries: l.Q.Tokens, Keys: l.K.Tokens,
	}
}

// Bind returns the view of a layer. The error says what the kernel does not take.
func Bind(k *emulate.Kernel, l *layerdumps.Layer) (*Layer, error) {
	p := k.Program()
	bound, err := k.ForCase(l.Q.DType, Case(l, p.Mask.Causal))
	if err != nil {
		return nil, &refusal{l.Q.Name, err, func(k *emulate.Kernel) bool {
			p := k.Program()
			_, err := k.ForCase(l.Q.DType, Case(l, p.Mask.Causal))
			return err == nil
		}}
	}
	v := &Layer{Layer: l, Kernel: bound, Read: Rows}
	if err := v.check(); err != nil {
		return nil, err
	}
	return v, nil
}

// bounds are a layer's causal mask and window as the kernels take them.
func bounds(l *layerdumps.Layer, align int) emulate.Bounds {
	b := emulate.Bounds{Causal: l.Causal, Left: -1, Right: -1}
	if l.Window != nil {
		b.Windowed, b.Left, b.Right = true, l.Window.Left, l.Window.Right
	}
	return b.Normal(l.Q.Tokens, l.K.Tokens, align)
}

// check reports what of the layer's call the kernel does not take.
func (l *Layer) check() error {
	p, in, m := l.Kernel.Bound(), l.Query(0, 0), l.Mask
	if l.Packed != nil && p.Operands.Packed == "no" {
		return &refusal{
			l.Packed.Bounds, fmt.Errorf("kernel %s takes no packed sequences (operands.packed: no)", p.Name),
			func(k *emulate.Kernel) bool { q := k.Program(); return q.Operands.Packed == "yes" },
		}
	}
	if l.OutputDType() > format.FP32 {
		return fmt.Errorf("kernel %s returns the dtype of its inputs (operands.output), which is %s", p.Name, l.OutputDType())
	}
	for _, part := range []emulate.QInput{{Visible: in.Visible, Bias: in.Bias}, {Listed: in.Listed}, {Softcap: in.Softcap}, {Causal: in.Causal, Windowed: in.Windowed, Left: in.Left, Right: in.Right}} {
		err := l.Kernel.Supports(part)
		if err == nil {
			continue
		}
		tensor := ""
		if part.Visible != nil || part.Bias != nil {
			tensor = m.Name
		}
		if part.Listed != nil {
			tensor = l.BlockMap.Name
		}
		return &refusal{tensor, err, func(k *emulate.Kernel) bool {
			if p := k.Program(); m != nil {
				// What the kernel does with a mask may be a choice that goes with having one.
				if b, err := k.ForCase(l.Q.DType, Case(l.Layer, p.Mask.Causal)); err == nil {
					k = b
				}
			}
			return k.Supports(part) == nil
		}}
	}
	if err := l.checkDescale(&p); err != nil {
		return err
	}
	if err := l.checkBlocks(); err != nil {
		return err
	}
	switch {
	case m != nil && (l.Causal || l.Window != nil):
		// PyTorch refuses it, SageAttention passes the mask over.
		return fmt.Errorf("tensor %q: no kernel takes a mask together with a causal one or a window: make one mask of both", m.Name)
	case m != nil && !m.Boolean && m.DType != l.Q.DType && p.Mask.Additive != "log2e": // which takes any
		return fmt.Errorf("tensor %q: kernel %s takes an additive mask of its inputs' dtype, %s, and this is %s", m.Name, p.Name, l.Q.DType, m.DType)
	case l.CausalAlign != "" && !strings.HasPrefix(p.Mask.Causal, l.CausalAlign) && (in.Causal || in.Windowed) && l.Q.Tokens != l.K.Tokens:
		return fmt.Errorf("causal_align is %s, and kernel %s aligns %d queries and %d keys %s (mask.causal)", l.CausalAlign, p.Name, l.Q.Tokens, l.K.Tokens, p.Mask.Causal)
	}
	return nil
}

// checkDescale reports scales of query heads where the kernel takes one for each kv head.
func (l *Layer) checkDescale(p *program.Program) error {
	if p.QKCodes.Scale != "descale" || p.Operands.Descale == "head" {
		return nil
	}
	for i, x := range l.QDescale {
		if x != l.QDescale[i-i%l.Group()] {
			return &refusal{
				l.Q.Name, fmt.Errorf("kernel %s takes one scale of Q for each kv head (operands.descale: %s), and here its query heads have different ones", p.Name, p.Operands.Descale),
				func(k *emulate.Kernel) bool { q := k.Program(); return q.Operands.Descale == "head" },
			}
		}
	}
	return nil
}

// checkBlocks reports a block map of other blocks than the kernel's tiles.
func (l *Layer) checkBlocks() error {
	m := l.BlockMap
	if m == nil {
		return nil
	}
	t := l.Kernel.Tiling()
	want := [4]int{l.Q.Batch, l.Q.Heads, (l.Q.Tokens + t.BlockQ - 1) / t.BlockQ, (l.K.Tokens + t.BlockK - 1) / t.BlockK}
	if m.Shape != want {
		return fmt.Errorf("tensor %q: %v are not the blocks of kernel %s, whose tiles are of %d queries and %d keys: want %v",
			m.Name, m.Shape, l.Kernel.Bound().Name, t.BlockQ, t.BlockK, want)
	}
	return nil
}

// refusal is the error of what a kernel does not take. Its text names the released kernels
// that do; they are looked for only when it is asked for.
type refusal struct {
	tensor string // "" for none
	err    error
	takes  func(*emulate.Kernel) bool
}

// Reason is an error of Bind without the tensor's name and the kernels that take it.
func Reason(err error) string {
	if r := (*refusal)(nil); errors.As(err, &r) {
		return r.err.Error()
	}
	return err.Error()
}

func (r *refusal) Unwrap() error { return r.err }

func (r *refusal) Error() string {
	text := r.err.Error()
	if r.tensor != "" {
		text = fmt.Sprintf("tensor %q: %s", r.tensor, text)
	}
	var names []string
	for _, p := range program.Presets() {
		if k, err := emulate.New(p); err == nil && r.takes(k) {
			names = append(names, p.Name)
		}
	}
	switch len(names) {
	case 0:
		return text
	case 1:
		return text + "; " + names[0] + " does"
	}
	return fmt.Sprintf("%s; %s and %s do", text, strings.Join(names[:len(names)-1], ", "), names[len(names)-1])
}

// Group is how many query heads share a kv head.
func (l *Layer) Group() int { return l.Q.Heads / l.K.Heads }

// KVHead returns the kv head of a query head.
func (l *Layer) KVHead(head int) int { return head / l.Group() }

// DType is the dtype of the inputs, OutputDType that of the kernel's output.
func (l *Layer) DType() format.DType { return l.Q.DType }

// OutputDType is the dtype of the emulated output.
func (l *Layer) OutputDType() format.DType { return l.Kernel.OutputDType(l.DType()) }

// KV returns the input of a kv head.
func (l *Layer) KV(batch, kvHead int) emulate.KVInput {
	return l.KVOf(batch, kvHead, l.Read(&l.K, batch, kvHead), l.Read(&l.V, batch, kvHead))
}

// KVOf is KV with the rows of K and V as they are stored.
func (l *Layer) KVOf(batch, kvHead int, k, v emulate.Rows) emulate.KVInput {
	in := emulate.KVInput{Len: l.K.Tokens, Dim: l.Q.Dim, DType: l.DType()}
	in.K, in.KDescale = l.input(&l.K, k, batch, kvHead, l.Kernel.Bound().QKCodes.Scale)
	in.V, in.VDescale = l.input(&l.V, v, batch, kvHead, l.Kernel.Bound().VCodes.Scale)
	in.KMean = l.packedMean(kvHead)
	return in
}

// packedMean returns the mean of K over all sequences of the call, where the kernel takes
// that and there are several; nil otherwise.
func (l *Layer) packedMean(kvHead int) []float32 {
	s := l.Kernel.Bound().Smoothing
	if s.K != "packed-mean" {
		return nil
	}
	mean := func(of ...emulate.Run) any { return l.Kernel.MeanOfKeys(l.DType(), l.K.Dim, of...) }
	switch {
	case l.Packed != nil:
		whole := &l.Packed.K
		return l.Packed.Keep([2]any{s.KMean, kvHead}, func() any {
			return mean(emulate.Run{Rows: Rows(whole, 0, kvHead), Len: whole.Tokens})
		}).([]float32)
	case l.K.Batch > 1:
		// Its caller packs a batch.
		var of []emulate.Run
		for b := range l.K.Batch {
			of = append(of, emulate.Run{Rows: l.Read(&l.K, b, kvHead), Len: l.K.Tokens})
		}
		return mean(of...).([]float32)
	}
	return nil
}

// input returns the rows of a head as the kernel takes them, and their scale: FP8 codes
// with that of the call, or their values where the kernel takes no scale; others with the
// scale by which they become FP8 codes, where more than the head decides it, else 0.
func (l *Layer) input(t *layerdumps.Tensor, stored emulate.Rows, batch, head int, scale string) (emulate.Rows, float32) {
	switch {
	case scale != "descale":
		return Values(l.Layer, t, stored, batch, head), 0
	case t.DType.IsFP8():
		return stored, l.Descale(t, batch, head)
	}
	return stored, l.made.of(l, t, batch, head)
}

// Values are what the stored rows of a head of the layer's q, k or v stand for: of FP8 the
// codes times their scale, in FP32. The reference is of these.
func Values(l *layerdumps.Layer, t *layerdumps.Tensor, stored emulate.Rows, batch, head int) emulate.Rows {
	scale := l.Descale(t, batch, head)
	if !t.DType.IsFP8() || scale == 1 {
		return stored
	}
	return func(lo, hi int, dst []float32) {
		stored(lo, hi, dst)
		for i, x := range dst[:(hi-lo)*t.Dim] {
			dst[i] = x * scale
		}
	}
}

// made are the scales by which a layer's 16-bit tensors become FP8 codes, found once.
type made struct {
	mu    sync.Mutex
	found map[*layerdumps.Tensor][]float32 // [batch][heads of the tensor]
}

// of returns the scale for a head of the tensor, or 0 where it is that of the head alone.
func (m *made) of(l *Layer, t *layerdumps.Tensor, batch, head int) float32 {
	share := l.Kernel.Bound().Operands.Descale
	if share == "kv-head" && t.Heads == l.K.Heads || share == "head" && t.Batch == 1 {
		return 0
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.found[t] == nil {
		if m.found == nil {
			m.found = make(map[*layerdumps.Tensor][]float32)
		}
		m.found[t] = descales(l, t, share)
	}
	return m.found[t][batch*t.Heads+head]
}

// descales finds the scales of a 16-bit tensor, of the largest magnitude of what shares one
// (operands.descale).
func descales(l *Layer, t *layerdumps.Tensor, share string) []float32 {
	group := func(b, h int) int {
		switch share {
		case "tensor":
			return 0
		case "head":
			return h
		}
		return b*l.K.Heads + h*l.K.Heads/t.Heads
	}
	most := make([]float32, t.Batch*t.Heads)
	const run = 256
	x := make([]float32, min(run, t.Tokens)*t.Dim)
	for b := range t.Batch {
		for h := range t.Heads {
			at := group(b, h)
			read := l.Read(t, b, h)
			for lo := 0; lo < t.Tokens; lo += run {
				part := x[:(min(lo+run, t.Tokens)-lo)*t.Dim]
				read(lo, lo+len(part)/t.Dim, part)
				most[at] = quant.AbsMax(most[at], part)
			}
		}
	}
	scales := make([]float32, len(most))
	for i := range scales {
		scales[i] = l.Kernel.Descale(most[group(i/t.Heads, i%t.Heads)])
	}
	return scales
}

// Quantised says how a layer's 16-bit tensors become the kernel's FP8 codes, "" where they
// do not.
func (l *Layer) Quantised() string {
	switch p := l.Kernel.Bound(); {
	case p.Operands.Descale == "none" || l.Q.DType.IsFP8():
		return ""
	case p.Operands.Descale == "tensor":
		return "to E4M3 by amax/448 of each whole tensor"
	case p.Operands.Descale == "head":
		return "to E4M3 by amax/448, at least 1e-6, of each head of Q, K and V"
	}
	return "to E4M3 by amax/448 of each batch entry and kv head"
}

// Query returns the input of a query head.
func (l *Layer) Query(batch, head int) emulate.QInput {
	b := bounds(l.Layer, l.Align())
	in := emulate.QInput{
		Len: l.Q.Tokens, Scale: l.Scale(), Softcap: l.Softcap,
		Causal: b.Causal, Windowed: b.Windowed, Left: b.Left, Right: b.Right,
		Group: l.Group(), Member: head % l.Group(),
	}
	in.Q, in.QDescale = l.input(&l.Q, l.Read(&l.Q, batch, head), batch, head, l.Kernel.Bound().QKCodes.Scale)
	in.Visible, in.Bias = mask(l.Layer, batch, head)
	if m := l.BlockMap; m != nil {
		in.Listed = func(block, lo, hi int, dst []bool) { m.List(batch, head, block, lo, hi, dst) }
	}
	return in
}

// mask returns the rows of the layer's mask for a head; both are nil without one.
func mask(l *layerdumps.Layer, batch, head int) (visible func(row, lo, hi int, dst []bool), bias func(row, lo, hi int, dst []float32)) {
	m := l.Mask
	switch {
	case m == nil:
		return nil, nil
	case m.Boolean:
		return func(row, lo, hi int, dst []bool) { m.Visible(batch, head, row, lo, hi, dst) }, nil
	}
	return nil, func(row, lo, hi int, dst []float32) { m.Bias(batch, head, row, lo, hi, dst) }
}

// Reference returns what the reference computes of a query head: with the layer's mask, without
// its block map, as what a sparse kernel leaves out is part of its error, with a causal mask or a
// window aligned by the key of query 0 (emulate.Kernel.Align).
func Reference(l *layerdumps.Layer, p reference.Precision, align, batch, head int) reference.Params {
	b := bounds(l, align)
	r := reference.Params{
		Precision: p, Scale: l.Scale(), Softcap: l.Softcap,
		Causal: b.Causal, Align: align, Windowed: b.Windowed, Left: b.Left, Right: b.Right,
	}
	r.Visible, r.Bias = mask(l, batch, head)
	return r
}

// Align returns the key that query 0 of the layer is aligned with.
func (l *Layer) Align() int { return l.Kernel.Align(l.Q.Tokens, l.K.Tokens) }

// Rows reads the rows of a head.
func Rows(t *layerdumps.Tensor, batch, head int) emulate.Rows {
	return func(lo, hi int, dst []float32) { t.Rows(batch, head, lo, hi, dst) }
}

// Decoded is the size, in elements, up to which Cached decodes a head once.
const Decoded = 1 << 22

// Cached is read for what is read many times, n rows of d channels: where they are not too
// many it keeps them.
func Cached(read emulate.Rows, n, d int) emulate.Rows {
	if n*d > Decoded {
		return read
	}
	x := make([]float32, n*d)
	read(0, n, x)
	return func(lo, hi int, dst []float32) { copy(dst, x[lo*d:hi*d]) }
}
