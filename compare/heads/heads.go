// Package heads is the emulator's view of a layer: which kv head a query head belongs
// to, where its rows are, and how it attends. Everything that emulates a layer goes
// through it.
package heads

import (
	"strings"

	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/layerdumps"
)

// Layer is a layer and the kernel that emulates it, with the choices made that depend on
// the layer.
type Layer struct {
	*layerdumps.Layer
	Kernel *emulate.Kernel
}

// Case is what of a layer the choices of a kernel may depend on.
func Case(l *layerdumps.Layer) program.Case {
	return program.Case{
		HeadDim: l.Q.Dim, Causal: l.Causal, DType: strings.ToLower(l.Q.DType.String()),
		Batch: l.Q.Batch, Heads: l.Q.Heads, KVHeads: l.K.Heads, Queries: l.Q.Tokens, Keys: l.K.Tokens,
	}
}

// Bind returns the view of a layer. The error says what the kernel does not take.
func Bind(k *emulate.Kernel, l *layerdumps.Layer) (*Layer, error) {
	bound, err := k.ForCase(l.Q.DType, Case(l))
	if err != nil {
		return nil, err
	}
	return &Layer{l, bound}, nil
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
	return emulate.KVInput{
		K: Rows(&l.K, batch, kvHead), V: Rows(&l.V, batch, kvHead),
		Len: l.K.Tokens, Dim: l.Q.Dim, DType: l.DType(),
	}
}

// Query returns the input of a query head.
func (l *Layer) Query(batch, head int) emulate.QInput {
	return emulate.QInput{
		Q: Rows(&l.Q, batch, head), Len: l.Q.Tokens, Causal: l.Causal, Scale: l.Scale(), Group: l.Group(), Member: head % l.Group(),
	}
}

// Rows reads the rows of a head.
func Rows(t *layerdumps.Tensor, batch, head int) emulate.Rows {
	return func(lo, hi int, dst []float32) { t.Rows(batch, head, lo, hi, dst) }
}

// Decoded is the size, in elements, up to which Cached decodes a head once.
const Decoded = 1 << 22

// Cached is Rows for what is read many times: of a head that is not too long it keeps the
// rows.
func Cached(t *layerdumps.Tensor, batch, head int) emulate.Rows {
	n, d := t.Tokens, t.Dim
	if n*d > Decoded {
		return Rows(t, batch, head)
	}
	x := make([]float32, n*d)
	t.Rows(batch, head, 0, n, x)
	return func(lo, hi int, dst []float32) { copy(dst, x[lo*d:hi*d]) }
}
