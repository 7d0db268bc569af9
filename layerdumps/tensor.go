package layerdumps

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"strings"
	"sync"

	"github.com/x448/float16"
)

// DType is the element type of a layer's tensor.
type DType uint8

// The element types of tensors.
const (
	F16  DType = iota // IEEE 754 binary16
	BF16              // the upper half of binary32
	F32               // IEEE 754 binary32
	E4M3              // OCP OFP8 E4M3, codes that a scale belongs to
	E5M2              // OCP OFP8 E5M2, the same
)

// FP8 says that the type is E4M3 or E5M2.
func (d DType) FP8() bool { return d == E4M3 || d == E5M2 }

// String returns the type's usual name: FP16, BF16, FP32, E4M3 or E5M2.
func (d DType) String() string {
	switch d {
	case F16:
		return "FP16"
	case BF16:
		return "BF16"
	case F32:
		return "FP32"
	case E4M3:
		return "E4M3"
	case E5M2:
		return "E5M2"
	default:
		return fmt.Sprintf("DType(%d)", uint8(d))
	}
}

// width returns the bytes of one element.
func (d DType) width() int {
	switch d {
	case F32:
		return 4
	case E4M3, E5M2:
		return 1
	}
	return 2
}

// parseDType reads a dtype's safetensors name; FP8 is for inputs.
func parseDType(name string, fp8 bool) (DType, error) {
	switch name {
	case "F8_E4M3", "F8_E5M2":
		if fp8 {
			return map[string]DType{"F8_E4M3": E4M3, "F8_E5M2": E5M2}[name], nil
		}
		return 0, fmt.Errorf("dtype %s is not FP16, BF16 or FP32", name)
	case "F16":
		return F16, nil
	case "BF16":
		return BF16, nil
	case "F32":
		return F32, nil
	case "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0":
		return 0, fmt.Errorf("dtype %s is another FP8 than E4M3 and E5M2", name)
	}
	if fp8 {
		return 0, fmt.Errorf("dtype %s is not FP16, BF16, FP32, F8_E4M3 or F8_E5M2", name)
	}
	return 0, fmt.Errorf("dtype %s is not FP16, BF16 or FP32", name)
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

// Tensor is one of a layer's q, k, v and o. It reads from its file: it costs no
// memory, and it is invalid after the dump's Close. It is safe for concurrent use.
type Tensor struct {
	File, Name                string
	DType                     DType
	Batch, Heads, Tokens, Dim int

	layout Layout
	bytes  elements
	// Of one sequence of a packed tensor: its first token, and all tokens; 0 otherwise.
	first, total int
}

// elements are a tensor's bytes, in memory or in a file.
type elements struct {
	data []byte // in memory; nil in a file

	src    io.ReaderAt
	offset int64
	size   int64
	source *source // for what goes wrong
}

// bytes says where the tensor's bytes are.
func (t *rawTensor) bytes(s *source) elements {
	return elements{src: t.src, offset: t.offset, size: t.size, source: s}
}

// readAt fills p with the bytes of a tensor from off on; with zeros, if they cannot be read.
func (e *elements) readAt(name string, p []byte, off int64) {
	if e.data != nil {
		copy(p, e.data[off:])
		return
	}
	if n, err := e.src.ReadAt(p, e.offset+off); n < len(p) {
		clear(p)
		e.source.fail(fmt.Errorf("%w (tensor %q)", err, name))
	}
}

// Shape returns the tensor's dimensions as [batch, heads, tokens, head_dim],
// whatever its layout in the file.
func (t *Tensor) Shape() [4]int { return [4]int{t.Batch, t.Heads, t.Tokens, t.Dim} }

// Rows decodes the tokens [lo, hi) of one head to float32, as row-major
// [hi-lo, Dim] at the start of dst. The result is exact for every DType, of FP8 without
// its scale; it is zero where the file cannot be read, see [Layer.Err]. Rows panics if the rows are not in
// the tensor or do not fit dst.
func (t *Tensor) Rows(batch, head, lo, hi int, dst []float32) {
	dst = dst[:t.check(batch, head, lo, hi)]
	t.rows(batch, head, lo, hi, func(src []byte) {
		n := len(src) / t.DType.width()
		out := dst[:n]
		dst = dst[n:]
		t.DType.decode(out, src)
	})
}

// decode writes the values of little-endian elements.
func (d DType) decode(out []float32, src []byte) {
	switch d {
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
	case E4M3:
		table := e4m3()
		for i := range out {
			out[i] = table[src[i]]
		}
	case E5M2:
		// The upper half of a binary16.
		table := halves()
		for i := range out {
			out[i] = table[uint16(src[i])<<8]
		}
	}
}

// RowsBits is Rows for the elements' bit patterns; those of 8 and 16 bits are
// zero-extended.
func (t *Tensor) RowsBits(batch, head, lo, hi int, dst []uint32) {
	dst = dst[:t.check(batch, head, lo, hi)]
	t.rows(batch, head, lo, hi, func(src []byte) {
		n := len(src) / t.DType.width()
		out := dst[:n]
		dst = dst[n:]
		switch t.DType.width() {
		case 4:
			for i := range out {
				out[i] = binary.LittleEndian.Uint32(src[4*i:])
			}
			return
		case 1:
			for i := range out {
				out[i] = uint32(src[i])
			}
			return
		}
		for i := range out {
			out[i] = uint32(binary.LittleEndian.Uint16(src[2*i:]))
		}
	})
}

// blocks are buffers for what is read of a file at a time.
var blocks = sync.Pool{New: func() any { return new([1 << 16]byte) }}

// near is the largest distance of rows at which the bytes between them are read too:
// up to there that takes less time than another read.
const near = 2048

// rows calls decode with the bytes of the rows [lo, hi) of a head, in order, several
// whole rows at a time where they lie together.
func (t *Tensor) rows(batch, head, lo, hi int, decode func(src []byte)) {
	n := t.Dim * t.DType.width()
	stride := n // from one row of the head to the next
	if t.layout == NHD {
		stride *= t.Heads
	}
	if t.bytes.data != nil && stride == n {
		decode(t.bytes.data[t.at(batch, head, lo)*n:][:(hi-lo)*n])
		return
	}
	buf := blocks.Get().(*[1 << 16]byte)
	defer blocks.Put(buf)
	for lo < hi {
		count := 1
		if stride <= near || stride == n {
			count = min(hi-lo, 1+(len(buf)-n)/stride)
		}
		src := buf[:(count-1)*stride+n]
		t.bytes.readAt(t.Name, src, int64(t.at(batch, head, lo))*int64(n))
		if stride == n {
			decode(src)
		} else {
			for r := range count {
				decode(src[r*stride:][:n])
			}
		}
		lo += count
	}
}

// check panics if the rows are not in the tensor, and returns their elements.
func (t *Tensor) check(batch, head, lo, hi int) int {
	if batch < 0 || batch >= t.Batch || head < 0 || head >= t.Heads || lo < 0 || lo > hi || hi > t.Tokens {
		panic(fmt.Sprintf("layerdumps: batch %d, head %d, tokens [%d, %d) are not in %s %v", batch, head, lo, hi, t.Name, t.Shape()))
	}
	return (hi - lo) * t.Dim
}

// at returns the number of a token of a head among all rows of the tensor.
func (t *Tensor) at(batch, head, token int) int {
	n := max(t.total, t.Tokens)
	if token += t.first; t.layout == NHD {
		return (batch*n+token)*t.Heads + head
	}
	return (batch*t.Heads+head)*n + token
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

// e4m3 returns the value of every E4M3 code: four bits of exponent, three of fraction, no
// infinity.
var e4m3 = sync.OnceValue(func() *[1 << 8]float32 {
	table := new([1 << 8]float32)
	for i := range table {
		e, m := i>>3&15, float64(i&7)
		x := math.Ldexp(m, -9)
		switch {
		case e == 15 && m == 7:
			x = math.NaN()
		case e > 0:
			x = math.Ldexp(8+m, e-10)
		}
		if i >= 1<<7 {
			x = -x
		}
		table[i] = float32(x)
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
		Name: name, DType: dtype, Batch: shape[0], Heads: shape[1], Tokens: shape[2], Dim: shape[3], bytes: elements{data: data},
	}, nil
}

// Bytes returns the elements of all heads in HND layout, little endian. It may
// share memory with the tensor. They are zero where the file cannot be read, see
// [Layer.Err].
func (t *Tensor) Bytes() []byte {
	if t.layout == HND && t.bytes.data != nil {
		return t.bytes.data
	}
	out := make([]byte, 0, t.Batch*t.Heads*t.Tokens*t.Dim*t.DType.width())
	for b := range t.Batch {
		for h := range t.Heads {
			t.rows(b, h, 0, t.Tokens, func(src []byte) { out = append(out, src...) })
		}
	}
	return out
}
