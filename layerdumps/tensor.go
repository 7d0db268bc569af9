package layerdumps

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"strings"
	"sync"

	"github.com/sageacc/sageacc/emulate/format"
)

// parseDType reads a dtype's safetensors name; FP8 is for inputs.
func parseDType(name string, fp8 bool) (format.DType, error) {
	switch name {
	case "F8_E4M3", "F8_E5M2":
		if fp8 {
			return map[string]format.DType{"F8_E4M3": format.FP8, "F8_E5M2": format.FP8Wide}[name], nil
		}
		return 0, fmt.Errorf("dtype %s is not FP16, BF16 or FP32", name)
	case "F16":
		return format.FP16, nil
	case "BF16":
		return format.BF16, nil
	case "F32":
		return format.FP32, nil
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
	File, Name string
	// DType is FP16, BF16 or FP32, or FP8 or FP8Wide of inputs whose codes have a scale.
	DType                     format.DType
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
		n := len(src) / t.DType.Size()
		out := dst[:n]
		dst = dst[n:]
		decodeAs(t.DType, out, src)
	})
}

// decodeAs writes the values of little-endian elements.
func decodeAs(d format.DType, out []float32, src []byte) {
	switch d {
	case format.FP16:
		for i := range out {
			out[i] = format.FP16ToFloat32(binary.LittleEndian.Uint16(src[2*i:]))
		}
	case format.BF16:
		for i := range out {
			out[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(src[2*i:])) << 16)
		}
	case format.FP32:
		for i := range out {
			out[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
		}
	case format.FP8:
		for i := range out {
			out[i] = format.E4M3(src[i]).Float32()
		}
	case format.FP8Wide:
		for i := range out {
			out[i] = format.E5M2(src[i]).Float32()
		}
	}
}

// RowsBits is Rows for the elements' bit patterns; those of 8 and 16 bits are
// zero-extended.
func (t *Tensor) RowsBits(batch, head, lo, hi int, dst []uint32) {
	dst = dst[:t.check(batch, head, lo, hi)]
	t.rows(batch, head, lo, hi, func(src []byte) {
		n := len(src) / t.DType.Size()
		out := dst[:n]
		dst = dst[n:]
		switch t.DType.Size() {
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
	n := t.Dim * t.DType.Size()
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

// NewTensor returns a tensor over data in memory: row-major elements, little
// endian, in HND layout.
func NewTensor(name string, dtype format.DType, shape [4]int, data []byte) (Tensor, error) {
	if dtype > format.FP32 {
		return Tensor{}, fmt.Errorf("tensor %q: dtype %s is not FP16, BF16 or FP32", name, dtype)
	}
	n := dtype.Size()
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
	out := make([]byte, 0, t.Batch*t.Heads*t.Tokens*t.Dim*t.DType.Size())
	for b := range t.Batch {
		for h := range t.Heads {
			t.rows(b, h, 0, t.Tokens, func(src []byte) { out = append(out, src...) })
		}
	}
	return out
}
