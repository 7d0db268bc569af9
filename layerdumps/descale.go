package layerdumps

import (
	"fmt"
	"math"
	"slices"

	"github.com/sageacc/sageacc/emulate/format"
)

// descale returns a function that takes the scales of one of a layer's FP8 tensors, of, those
// of each of its packed sequences, if it has some: one for each kv head, one for each head of the
// tensor itself, of every batch entry or of all, or one number.
func (d *Dump) descale(dst *[]float32, of *Tensor, sequences int) func(*Layer, *rawTensor) error {
	return func(l *Layer, t *rawTensor) error {
		bad := func(format string, args ...any) error {
			return fmt.Errorf("%s: tensor %q: %w", t.file, t.name, fmt.Errorf(format, args...))
		}
		if !l.Q.DType.IsFP8() {
			return bad("a scale of FP8 codes, and %q is %s", l.Q.Name, l.Q.DType)
		}
		if t.dtype != "F32" {
			return bad("dtype %s is not FP32", t.dtype)
		}
		batch, heads := max(l.K.Batch, sequences), of.Heads
		entries, groups := 1, 1 // that have a scale of their own
		switch {
		case slices.Equal(t.shape, []int{batch, l.K.Heads}):
			entries, groups = batch, l.K.Heads
		case slices.Equal(t.shape, []int{batch, heads}):
			entries, groups = batch, heads
		case slices.Equal(t.shape, []int{heads}):
			groups = heads
		case len(t.shape) > 2 || slices.ContainsFunc(t.shape, func(n int) bool { return n != 1 }):
			want := fmt.Sprintf("[batch, kv heads], %v", []int{batch, l.K.Heads})
			if heads != l.K.Heads {
				want += fmt.Sprintf(", [batch, query heads], %v", []int{batch, heads})
			}
			return bad("has shape %v; want %s, [heads], %v, or one number", t.shape, want, []int{heads})
		}
		n := entries * groups
		if err := t.ready(); err != nil {
			return err
		}
		b := make([]byte, 4*n)
		e := t.bytes(d.source)
		if e.readAt(t.name, b, 0); d.source.err() != nil {
			return d.source.err()
		}
		given := make([]float32, n)
		decodeAs(format.FP32, given, b)
		for i, x := range given {
			if !(x > 0) || math.IsInf(float64(x), 0) {
				return bad("element %d is %v, not a positive, finite number", i, x)
			}
		}
		all := make([]float32, batch*heads)
		for i := range all {
			b, h := i/heads, i%heads
			all[i] = given[b*entries/batch*groups+h*groups/heads]
		}
		*dst = all
		return nil
	}
}

// Descale returns the scale of a tensor of the layer, its Q, K or V, for a batch entry and
// a head of the tensor: 1 where none is given.
func (l *Layer) Descale(t *Tensor, batch, head int) float32 {
	all := l.VDescale
	switch t {
	case &l.Q:
		all = l.QDescale
	case &l.K:
		all = l.KDescale
	}
	if all == nil {
		return 1
	}
	return all[batch*t.Heads+head]
}
