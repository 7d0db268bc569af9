package metrics

import (
	"fmt"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/internal/jsonfloat"
)

// top returns the pattern of +Inf, or of the largest number where there is none. The patterns
// above it, sign aside, are the NaNs.
func top(f format.DType) uint32 {
	switch f {
	case format.FP16:
		return 0x7c00
	case format.BF16:
		return 0x7f80
	case format.FP8:
		return 0x7e
	default:
		return 0x7f800000
	}
}

// sign returns the sign bit.
func sign(f format.DType) uint32 { return 1 << (8*f.Size() - 1) }

// IsNaN reports whether the low bits of pattern are a NaN of the format.
func IsNaN(f format.DType, pattern uint32) bool {
	return pattern&(sign(f)-1) > top(f)
}

// MaxULP returns the largest distance that [ULP] returns, that between -Inf and +Inf.
func MaxULP(f format.DType) uint32 { return 2 * top(f) }

// ULP returns the distance between two patterns of a format in units in the last place: by
// how many representable values, infinities included, they lie apart. The two
// zeros are 0 apart, two NaNs are 0 apart whatever their payloads, and a NaN is
// MaxULP from anything else.
func ULP(f format.DType, a, b uint32) uint32 {
	switch an, bn := IsNaN(f, a), IsNaN(f, b); {
	case an && bn:
		return 0
	case an || bn:
		return MaxULP(f)
	}
	x, y := ordinal(f, a), ordinal(f, b)
	if x < y {
		x, y = y, x
	}
	return uint32(x - y)
}

// ordinal numbers the values that are not NaN in increasing order, both zeros
// being 0.
func ordinal(f format.DType, pattern uint32) int64 {
	magnitude := int64(pattern & (sign(f) - 1))
	if pattern&sign(f) != 0 {
		return -magnitude
	}
	return magnitude
}

// Position says where in an output an element lies, each count from zero.
type Position struct {
	Batch   int `json:"batch"`
	Head    int `json:"head"`
	Token   int `json:"token"`
	Channel int `json:"channel"`
}

// Less orders positions by batch, then head, then token, then channel.
func (p Position) Less(q Position) bool {
	switch {
	case p.Batch != q.Batch:
		return p.Batch < q.Batch
	case p.Head != q.Head:
		return p.Head < q.Head
	case p.Token != q.Token:
		return p.Token < q.Token
	default:
		return p.Channel < q.Channel
	}
}

// Mismatch is one element whose bits differ.
type Mismatch struct {
	Position
	// Actual and Emulated are the bit patterns in hexadecimal, "0x3c01".
	Actual   string `json:"actual"`
	Emulated string `json:"emulated"`
	// ActualValue and EmulatedValue are what they stand for.
	ActualValue   jsonfloat.Float `json:"actual_value"`
	EmulatedValue jsonfloat.Float `json:"emulated_value"`
}

// String says where the element is and what both outputs hold there.
func (m *Mismatch) String() string {
	return fmt.Sprintf("batch %d, head %d, token %d, channel %d: %s", m.Batch, m.Head, m.Token, m.Channel, m.Both())
}

// Both says what both outputs hold.
func (m *Mismatch) Both() string {
	return fmt.Sprintf("actual %s (%.6g), emulated %s (%.6g)", m.Actual, float64(m.ActualValue), m.Emulated, float64(m.EmulatedValue))
}

// Bits compares an actual with an emulated output bit by bit. The zero value is
// empty and ready. The fields are the result so far; its JSON is part of the
// compare report, and it has no methods of encoding/json, so that it can be
// embedded there beside [Values].
//
// Two elements match if their patterns are equal or if both are NaN: which NaN
// an operation returns is not specified by the hardware that is compared. Zeros
// of different sign do not match, though they are 0 ULP apart.
type Bits struct {
	// Elements is the number of elements compared.
	Elements int64 `json:"elements"`
	// Mismatched is the number of them that do not match.
	Mismatched int64 `json:"mismatched"`
	// MaxULP is the largest [ULP] among them.
	MaxULP uint32 `json:"max_ulp"`
	// First is the mismatch of the smallest position, nil if there is none.
	First *Mismatch `json:"first_mismatch"`
}

// Add compares one row, or a part of one, of the actual and the emulated output,
// whose first element lies at pos. Of each pattern as many low bits count
// as the format has. It panics if the rows differ in length.
func (b *Bits) Add(pos Position, dtype format.DType, actual, emulated []uint32) {
	if len(actual) != len(emulated) {
		panic(fmt.Sprintf("metrics: actual row has %d elements, emulated %d", len(actual), len(emulated)))
	}
	b.Elements += int64(len(actual))
	mask := sign(dtype)<<1 - 1
	for i, x := range actual {
		x &= mask
		y := emulated[i] & mask
		if x == y || IsNaN(dtype, x) && IsNaN(dtype, y) {
			continue
		}
		b.Mismatched++
		b.MaxULP = max(b.MaxULP, ULP(dtype, x, y))
		at := pos
		at.Channel += i
		if b.First == nil || at.Less(b.First.Position) {
			digits := 2 * dtype.Size()
			b.First = &Mismatch{
				Position:      at,
				Actual:        fmt.Sprintf("0x%0*x", digits, x),
				Emulated:      fmt.Sprintf("0x%0*x", digits, y),
				ActualValue:   jsonfloat.Float(dtype.FromBits(x)),
				EmulatedValue: jsonfloat.Float(dtype.FromBits(y)),
			}
		}
	}
}

// AddBlock is [Bits.Add] for consecutive tokens of width channels each, the
// first of which lies at pos. It panics if the blocks differ in length or are
// not a whole number of rows.
func (b *Bits) AddBlock(pos Position, dtype format.DType, width int, actual, emulated []uint32) {
	if len(actual) != len(emulated) {
		panic(fmt.Sprintf("metrics: actual block has %d elements, emulated %d", len(actual), len(emulated)))
	}
	if width < 1 || len(actual)%width != 0 {
		panic(fmt.Sprintf("metrics: %d elements are not rows of %d", len(actual), width))
	}
	for i := 0; i < len(actual); i += width {
		b.Add(pos, dtype, actual[i:i+width], emulated[i:i+width])
		pos.Token++
	}
}

// Merge adds what other has compared. The result does not depend on the order of
// merging. It leaves other alone; a first mismatch is shared, and never written
// to once made.
func (b *Bits) Merge(other *Bits) {
	b.Elements += other.Elements
	b.Mismatched += other.Mismatched
	b.MaxULP = max(b.MaxULP, other.MaxULP)
	if other.First != nil && (b.First == nil || other.First.Less(b.First.Position)) {
		b.First = other.First
	}
}

// Exact reports whether every element matched.
func (b *Bits) Exact() bool { return b.Mismatched == 0 }

// Share returns what part of the elements differs, 0 to 1; NaN without elements.
func (b *Bits) Share() float64 { return float64(b.Mismatched) / float64(b.Elements) }
