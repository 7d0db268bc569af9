package conformance

import (
	"context"
	"errors"
	"fmt"

	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/program"
)

// This file runs attention on packed sequences: q, k, v and the output are [tokens, heads,
// head_dim], and cu_seqlens_q and cu_seqlens_k (I32 or I64) bound the sequences.

// varlen is the input of such a recording.
type varlen struct {
	q, k, v *tensor
	dtype   format.DType
	// queries and keys hold the first token of each sequence, and behind them all.
	queries, keys []int
}

// maxSequences is how many sequences a recording may have.
const maxSequences = 1 << 16

// bounds reads a tensor of bounds, which must end with tokens.
func (f file) bounds(name string, tokens int) ([]int, error) {
	t, err := f.tensor(name, -1)
	if err != nil {
		return nil, err
	}
	n := t.Shape[0]
	if t.DType != "I32" && t.DType != "I64" || n < 2 || n > maxSequences+1 {
		return nil, fmt.Errorf("%s: tensor %q is %s %v, expected I32 or I64 [sequences + 1]", f.Name, name, t.DType, t.Shape)
	}
	out := make([]int, n)
	w := map[string]int{"I32": 4, "I64": 8}[t.DType]
	for i := range out {
		var x uint64
		for j, b := range t.at(int64(i*w), w) {
			x |= uint64(b) << (8 * j)
		}
		if w == 4 {
			x = uint64(int64(int32(x)))
		}
		if out[i] = int(int64(x)); x > uint64(tokens) || i == 0 && x != 0 || i > 0 && out[i] < out[i-1] || i == n-1 && out[i] != tokens {
			return nil, fmt.Errorf("%s: tensor %q: element %d is %d: want bounds from 0 up to %d", f.Name, name, i, int64(x), tokens)
		}
	}
	return out, nil
}

func (c *Case) varlen(f file) (*varlen, error) {
	p := &varlen{}
	var err error
	if p.q, err = f.tensor("q", -1, -1, -1); err != nil {
		return nil, err
	}
	if p.k, err = f.tensor("k", -1, -1, p.q.Shape[2]); err != nil {
		return nil, err
	}
	if p.v, err = f.tensor("v", p.k.Shape...); err != nil {
		return nil, err
	}
	if p.dtype, err = dtypeOf(p.q); err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name, err)
	}
	d := p.q.Shape[2]
	switch {
	case d < 1 || d > emulate.MaxHeadDim:
		return nil, fmt.Errorf("%s: tensor %q: head_dim is %d; want 1 to %d", f.Name, p.q.Name, d, emulate.MaxHeadDim)
	case p.q.Shape[0] > maxHead/emulate.MaxHeadDim || p.k.Shape[0] > maxHead/emulate.MaxHeadDim:
		return nil, fmt.Errorf("%s: tensors %q and %q have %d and %d tokens; a case may have up to %d", f.Name, p.q.Name, p.k.Name, p.q.Shape[0], p.k.Shape[0], maxHead/emulate.MaxHeadDim)
	case p.k.DType != p.q.DType || p.v.DType != p.q.DType:
		return nil, fmt.Errorf("%s: q, k and v have different dtypes", f.Name)
	case p.k.Shape[1] == 0 || p.q.Shape[1]%p.k.Shape[1] != 0:
		return nil, fmt.Errorf("%s: %d query heads do not divide into %d kv heads", f.Name, p.q.Shape[1], p.k.Shape[1])
	case c.Mask != "" || c.BlockMap != "" || c.Window != nil || c.Softcap != 0:
		return nil, fmt.Errorf("%s: packed sequences with a mask, a block map, a window or a soft cap", f.Name)
	}
	if p.queries, err = f.bounds("cu_seqlens_q", p.q.Shape[0]); err != nil {
		return nil, err
	}
	if p.keys, err = f.bounds("cu_seqlens_k", p.k.Shape[0]); err != nil {
		return nil, err
	}
	if len(p.queries) != len(p.keys) {
		return nil, fmt.Errorf("%s: cu_seqlens_q and cu_seqlens_k have %d and %d elements", f.Name, len(p.queries), len(p.keys))
	}
	return p, nil
}

// packedRows reads a head of a [tokens, heads, head_dim] tensor from a token on.
func packedRows(t *tensor, first, head int) emulate.Rows {
	heads, d := t.Shape[1], t.Shape[2]
	w := width(t.DType)
	return func(lo, hi int, dst []float32) {
		b := make([]byte, d*w)
		for r := lo; r < hi; r++ {
			t.read(b, int64((first+r)*heads+head)*int64(d*w))
			for c := range d {
				dst[(r-lo)*d+c] = value(t.DType, pattern(t.DType, b[c*w:][:w]))
			}
		}
	}
}

// packed runs a case of packed sequences.
func (c *Case) packed(ctx context.Context, f file, cmp *comparison) error {
	p, err := c.varlen(f)
	if err != nil {
		return err
	}
	o, err := f.tensor(c.Expect, p.q.Shape...)
	if err != nil {
		return err
	}
	for i := range len(p.queries) - 1 {
		nq, nk := p.queries[i+1]-p.queries[i], p.keys[i+1]-p.keys[i]
		if nq == 0 {
			continue
		}
		if nk == 0 {
			// With a causal mask the recorded kernel returns NaN, without one zeros.
			return errSkip{errors.New("no model of a sequence without keys")}
		}
		k, err := c.unbound()
		if err != nil {
			return err
		}
		if q := k.Program(); q.Operands.Packed != "yes" {
			return errSkip{fmt.Errorf("kernel %s takes no packed sequences (operands.packed: %s)", q.Name, q.Operands.Packed)}
		}
		if k, err = k.ForCase(p.dtype, program.Case{
			HeadDim: p.q.Shape[2], Causal: c.Causal, Batch: 1, Heads: p.q.Shape[1], KVHeads: p.k.Shape[1], Queries: nq, Keys: nk,
		}); err != nil {
			return fmt.Errorf("%s: tensor %q: %w", f.Name, p.q.Name, err)
		}
		if want := dtypeName(k.OutputDType(p.dtype)); o.DType != want {
			return fmt.Errorf("%s: tensor %q has dtype %s, expected %s", f.Name, o.Name, o.DType, want)
		}
		if err := c.sequence(ctx, f, p, k, i, o, cmp); err != nil {
			return err
		}
	}
	return nil
}

// sequence runs a sequence of a packed case through a kernel.
func (c *Case) sequence(ctx context.Context, f file, p *varlen, k *emulate.Kernel, i int, o *tensor, cmp *comparison) error {
	heads, d := p.q.Shape[1], p.q.Shape[2]
	nq, nk := p.queries[i+1]-p.queries[i], p.keys[i+1]-p.keys[i]
	var ws emulate.Workspace
	out, to := make([]float32, k.Tiling().BlockQ*d), k.OutputDType(p.dtype)
	for h := range heads {
		kvHead := h / (heads / p.k.Shape[1])
		in := emulate.KVInput{K: packedRows(p.k, p.keys[i], kvHead), V: packedRows(p.v, p.keys[i], kvHead), Len: nk, Dim: d, DType: p.dtype}
		if k.Bound().Smoothing.K == "packed-mean" {
			in.KMean = k.MeanOfKeys(p.dtype, d, emulate.Run{Rows: packedRows(p.k, 0, kvHead), Len: p.k.Shape[0]})
		}
		kv, err := k.Prepare(in)
		if err != nil {
			return fmt.Errorf("%s: %w", f.Name, err)
		}
		q := k.Query(emulate.QInput{Q: packedRows(p.q, p.queries[i], h), Len: nq, Causal: c.Causal, Scale: c.scale(), Group: heads / p.k.Shape[1], Member: h % (heads / p.k.Shape[1])}, kv, &ws)
		for b := range k.Blocks(nq) {
			if err := ctx.Err(); err != nil {
				return err
			}
			n, err := k.Run(q, &ws, b, out, nil)
			if err != nil {
				return err
			}
			for r := range n {
				at := ((p.queries[i]+b*k.Tiling().BlockQ+r)*heads + h) * d
				for j, x := range out[r*d : (r+1)*d] {
					cmp.add(o, at+j, to.Bits(x))
				}
			}
		}
	}
	return nil
}
