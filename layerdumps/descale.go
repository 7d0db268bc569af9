package layerdumps

import (
	"fmt"
	"math"
	"slices"

	"github.com/sageacc/sageacc/emulate/format"
)

// descale returns a function that takes the scales of one of a layer's FP8 tensors, those
// of each of its packed sequences, if it has some.
func (d *Dump) descale(dst *[]float32, sequences int) func(*Layer, *rawTensor) error {
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
		n := 1
		want := []int{max(l.K.Batch, sequences), l.K.Heads}
		switch {
		case slices.Equal(t.shape, want):
			n = want[0] * want[1]
		case len(t.shape) > 2 || slices.ContainsFunc(t.shape, func(n int) bool { return n != 1 }):
			return bad("has shape %v; want [batch, kv heads], %v, or one number", t.shape, want)
		}
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
		// One number stands for all.
		*dst = slices.Repeat(given, want[0]*want[1]/n)
		return nil
	}
}

// Descale returns the scale of a tensor of the layer, its Q, K or V, for a batch entry and
// kv head: 1 where none is given.
func (l *Layer) Descale(t *Tensor, batch, kvHead int) float32 {
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
	return all[batch*l.K.Heads+kvHead]
}
