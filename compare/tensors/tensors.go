// Package tensors keeps the outputs that a comparison computes, as the tensors of a
// safetensors file: for programs that go on calculating with them.
package tensors

import (
	"encoding/binary"
	"fmt"
	"math"
	"sync/atomic"

	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/compare/heads"
	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/layerdumps"
	"github.com/sageacc/sageacc/layerdumps/safetensors"
	"github.com/sageacc/sageacc/reference"
)

// Options say which outputs are kept beside the emulated one.
type Options struct {
	LSE bool
	// Reference keeps the reference too, in Precision's format.
	Reference bool
	Precision reference.Precision
}

// Collector takes the outputs of a run: its Add is a compare.Options.Outputs. Use New.
type Collector struct {
	opt    Options
	layers map[*layerdumps.Layer]*layer
	order  []*layer
	// inexact is the first value that the output's format does not hold.
	inexact atomic.Pointer[error]
}

// layer holds one layer's tensors, [batch, heads, tokens, ...].
type layer struct {
	src           *layerdumps.Layer
	dtype         format.DType
	o, ref        []byte
	lse, refLSE   []byte
	width, refLen int // bytes of an element of o, and of ref and refLSE
}

// New returns a Collector for the layers of d and what kernel makes of them. Memory: what
// the tensors take. An error says that the kernel does not take a layer.
func New(d *layerdumps.Dump, kernel *emulate.Kernel, opt Options) (*Collector, error) {
	c := &Collector{opt: opt, layers: make(map[*layerdumps.Layer]*layer)}
	for i := range d.Layers {
		src := &d.Layers[i]
		bound, err := heads.Bind(kernel, src)
		if err != nil {
			return nil, fmt.Errorf("%s: layer %s: %w", src.Source, src.Name, err)
		}
		rows := src.Q.Batch * src.Q.Heads * src.Q.Tokens
		l := &layer{src: src, dtype: bound.OutputDType(), refLen: 4}
		l.width = len(encode(nil, l.dtype, 0))
		if opt.Precision == reference.FP64 {
			l.refLen = 8
		}
		l.o = make([]byte, rows*src.Q.Dim*l.width)
		if opt.LSE {
			l.lse = make([]byte, rows*4)
		}
		if opt.Reference {
			l.ref = make([]byte, rows*src.Q.Dim*l.refLen)
			if opt.LSE {
				l.refLSE = make([]byte, rows*l.refLen)
			}
		}
		c.layers[src] = l
		c.order = append(c.order, l)
	}
	return c, nil
}

// encode appends x's bits, little endian.
func encode(b []byte, t format.DType, x float32) []byte {
	if t == format.FP32 {
		return binary.LittleEndian.AppendUint32(b, t.Bits(x))
	}
	return binary.LittleEndian.AppendUint16(b, uint16(t.Bits(x)))
}

// Add takes some rows. It is safe for concurrent use.
func (c *Collector) Add(o compare.Outputs) {
	l := c.layers[o.Layer]
	row := (o.Batch*l.src.Q.Heads+o.Head)*l.src.Q.Tokens + o.Row
	at := row * l.src.Q.Dim
	out := l.o[at*l.width : at*l.width]
	for i, x := range o.Emulated {
		if y := l.dtype.FromBits(l.dtype.Bits(x)); y != x && (x == x || y == y) {
			err := fmt.Errorf("layer %s: the emulated output %v at batch %d, head %d, token %d is not a value of %s",
				l.src.Name, x, o.Batch, o.Head, o.Row+i/l.src.Q.Dim, l.dtype)
			c.inexact.CompareAndSwap(nil, &err)
		}
		out = encode(out, l.dtype, x)
	}
	if c.opt.LSE {
		out := l.lse[row*4 : row*4]
		for _, x := range o.LSE {
			out = binary.LittleEndian.AppendUint32(out, format.FP32.Bits(x))
		}
	}
	if c.opt.Reference {
		l.putReference(l.ref, at, o.Reference)
		if c.opt.LSE {
			l.putReference(l.refLSE, row, o.ReferenceLSE)
		}
	}
}

// putReference writes values from element at on.
func (l *layer) putReference(b []byte, at int, values []float64) {
	out := b[at*l.refLen : at*l.refLen]
	for _, x := range values {
		if l.refLen == 8 {
			out = binary.LittleEndian.AppendUint64(out, math.Float64bits(x))
		} else {
			out = binary.LittleEndian.AppendUint32(out, format.FP32.Bits(float32(x)))
		}
	}
}

// Tensors returns, for each layer in the dump's order, <layer>.o, and as Options say
// <layer>.lse, <layer>.reference and <layer>.reference_lse: o and reference
// [batch, heads, tokens, head_dim], the others [batch, heads, tokens]. The run must
// have ended. An error says that an output was not of the format that was expected
// of it, which Tensors would have had to round.
func (c *Collector) Tensors() ([]safetensors.Tensor, error) {
	if err := c.inexact.Load(); err != nil {
		return nil, *err
	}
	names := map[format.DType]string{format.FP16: "F16", format.BF16: "BF16", format.FP32: "F32"}
	exact := "F32"
	if c.opt.Precision == reference.FP64 {
		exact = "F64"
	}
	var ts []safetensors.Tensor
	for _, l := range c.order {
		q := &l.src.Q
		rows := []int{q.Batch, q.Heads, q.Tokens}
		full := append(rows[:3:3], q.Dim)
		for _, t := range []safetensors.Tensor{
			{Name: ".o", DType: names[l.dtype], Shape: full, Data: l.o},
			{Name: ".lse", DType: "F32", Shape: rows, Data: l.lse},
			{Name: ".reference", DType: exact, Shape: full, Data: l.ref},
			{Name: ".reference_lse", DType: exact, Shape: rows, Data: l.refLSE},
		} {
			if t.Data != nil {
				t.Name = l.src.Name + t.Name
				ts = append(ts, t)
			}
		}
	}
	return ts, nil
}
