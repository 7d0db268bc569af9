package layerdumps

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"sync"

	"github.com/x448/float16"
)

// DType is the element type of a layer's tensor.
type DType uint8

// The element types that attention kernels take.
const (
	F16  DType = iota // IEEE 754 binary16
	BF16              // the upper half of binary32
	F32               // IEEE 754 binary32
)

// String returns the type's usual name: FP16, BF16 or FP32.
func (d DType) String() string {
	switch d {
	case F16:
		return "FP16"
	case BF16:
		return "BF16"
	case F32:
		return "FP32"
	default:
		return fmt.Sprintf("DType(%d)", uint8(d))
	}
}

// width returns the bytes of one element.
func (d DType) width() int {
	if d == F32 {
		return 4
	}
	return 2
}

// parseDType reads a dtype's safetensors name.
func parseDType(name string) (DType, error) {
	switch name {
	case "F16":
		return F16, nil
	case "BF16":
		return BF16, nil
	case "F32":
		return F32, nil
	default:
		return 0, fmt.Errorf("dtype %s is not FP16, BF16 or FP32", name)
	}
}

// Layout is the order of a tensor's four dimensions.
type Layout uint8

// The two layouts that SageAttention takes.
const (
	HND Layout = iota // [batch, heads, tokens, head_dim]
	NHD               // [batch, tokens, heads, head_dim]
)

// String returns HND or NHD.
func (l Layout) String() string {
	switch l {
	case HND:
		return "HND"
	case NHD:
		return "NHD"
	default:
		return fmt.Sprintf("Layout(%d)", uint8(l))
	}
}

// ParseLayout reads HND or NHD, in either case.
func ParseLayout(s string) (Layout, error) {
	switch strings.ToUpper(s) {
	case "HND":
		return HND, nil
	case "NHD":
		return NHD, nil
	default:
		return 0, fmt.Errorf("layout %q is neither HND nor NHD", s)
	}
}

// Tensor is one of a layer's q, k, v and o. It reads from its file's memory
// map: it costs no memory, and it is invalid after the dump's Close. It is safe
// for concurrent use.
type Tensor struct {
	File, Name                string
	DType                     DType
	Batch, Heads, Tokens, Dim int

	layout  Layout
	data    []byte
	release func()
}

// Shape returns the tensor's dimensions as [batch, heads, tokens, head_dim],
// whatever its layout in the file.
func (t *Tensor) Shape() [4]int { return [4]int{t.Batch, t.Heads, t.Tokens, t.Dim} }

// Rows decodes the tokens [lo, hi) of one head to float32, as row-major
// [hi-lo, Dim] at the start of dst. The result is exact for every DType. It
// panics if the rows are not in the tensor or do not fit dst.
func (t *Tensor) Rows(batch, head, lo, hi int, dst []float32) {
	dst = dst[:t.check(batch, head, lo, hi)]
	for row := lo; row < hi; row++ {
		src, out := t.row(batch, head, row), dst[:t.Dim]
		dst = dst[t.Dim:]
		switch t.DType {
		case F16:
			table := halves()
			for i := range out {
				out[i] = table[binary.LittleEndian.Uint16(src[2*i:])]
			}
		case BF16:
			for i := range out {
				out[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(src[2*i:])) << 16)
			}
		case F32:
			for i := range out {
				out[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
			}
		}
	}
}

// RowsBits is Rows for the elements' bit patterns; those of 16 bits are
// zero-extended.
func (t *Tensor) RowsBits(batch, head, lo, hi int, dst []uint32) {
	dst = dst[:t.check(batch, head, lo, hi)]
	for row := lo; row < hi; row++ {
		src, out := t.row(batch, head, row), dst[:t.Dim]
		dst = dst[t.Dim:]
		if t.DType == F32 {
			for i := range out {
				out[i] = binary.LittleEndian.Uint32(src[4*i:])
			}
			continue
		}
		for i := range out {
			out[i] = uint32(binary.LittleEndian.Uint16(src[2*i:]))
		}
	}
}

// check panics if the rows are not in the tensor, and returns their elements.
func (t *Tensor) check(batch, head, lo, hi int) int {
	if batch < 0 || batch >= t.Batch || head < 0 || head >= t.Heads || lo < 0 || lo > hi || hi > t.Tokens {
		panic(fmt.Sprintf("layerdumps: batch %d, head %d, tokens [%d, %d) are not in %s %v", batch, head, lo, hi, t.Name, t.Shape()))
	}
	return (hi - lo) * t.Dim
}

// row returns the bytes of one token of one head.
func (t *Tensor) row(batch, head, token int) []byte {
	index := (batch*t.Heads+head)*t.Tokens + token
	if t.layout == NHD {
		index = (batch*t.Tokens+token)*t.Heads + head
	}
	n := t.Dim * t.DType.width()
	return t.data[index*n:][:n]
}

// halves returns the value of every binary16 bit pattern. A table makes the
// decoding of a dump several times faster than computing each element.
var halves = sync.OnceValue(func() *[1 << 16]float32 {
	table := new([1 << 16]float32)
	for i := range table {
		table[i] = float16.Frombits(uint16(i)).Float32()
	}
	return table
})

// NewTensor returns a tensor over data in memory: row-major elements, little
// endian, in HND layout.
func NewTensor(name string, dtype DType, shape [4]int, data []byte) (Tensor, error) {
	n := dtype.width()
	for _, s := range shape {
		if s < 1 || s > math.MaxInt/n {
			return Tensor{}, fmt.Errorf("tensor %q has shape %v", name, shape)
		}
		n *= s
	}
	if n != len(data) {
		return Tensor{}, fmt.Errorf("tensor %q: %s %v takes %d bytes, but there are %d", name, dtype, shape, n, len(data))
	}
	return Tensor{
		Name: name, DType: dtype, Batch: shape[0], Heads: shape[1], Tokens: shape[2], Dim: shape[3], data: data,
	}, nil
}

// Bytes returns the elements of all heads in HND layout, little endian. It may
// share memory with the tensor.
func (t *Tensor) Bytes() []byte {
	if t.layout == HND {
		return t.data
	}
	out := make([]byte, 0, len(t.data))
	for b := range t.Batch {
		for h := range t.Heads {
			for i := range t.Tokens {
				out = append(out, t.row(b, h, i)...)
			}
		}
	}
	return out
}
