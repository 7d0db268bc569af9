// Package format holds the number formats of quantised attention: the two OCP
// FP8 formats E4M3 and E5M2, the tensor core's FP22 accumulator, FP16, BF16 and
// the integer codes INT8 and INT4, each with the rounding and saturation rule of
// the instruction that produces it.
//
// The formats know nothing of tensors. Every conversion is a pure function of
// its argument; decoding is exact. Sources: OCP OFP8 1.0 for the layouts, the
// PTX ISA ("cvt") for the conversions; all conversions from FP32 are checked
// against recordings of an NVIDIA H200 where a conformance set is present.
package format

import (
	"fmt"
	"math"

	"github.com/x448/float16"
)

const (
	signMask32 = 0x8000_0000
	absMask32  = 0x7fff_ffff
	inf32      = 0x7f80_0000
)

// E4M3 is an OCP OFP8 E4M3 ("e4m3fn") code: sign, 4 exponent bits with bias 7,
// 3 fraction bits. The largest value is 448, the smallest normal one 2^-6 and
// the smallest subnormal one 2^-9. There is no infinity; S.1111.111 is NaN.
type E4M3 uint8

// Limits of E4M3.
const (
	E4M3Max    = 448.0
	E4M3NaN    = E4M3(0x7f)
	e4m3MaxExp = E4M3(0x7e)
)

// E4M3FromFloat32 is cvt.rn.satfinite.e4m3x2.f32: to nearest, ties to even,
// magnitudes above 448 (infinities too) saturate to 448, NaN gives 0x7f with
// the sign dropped.
func E4M3FromFloat32(x float32) E4M3 {
	b := math.Float32bits(x)
	sign := E4M3(b >> 24 & 0x80)
	a := b & absMask32
	switch {
	case a > inf32:
		return E4M3NaN
	case a >= 0x43e0_0000: // 448
		return sign | e4m3MaxExp
	case a >= 0x3c80_0000: // 2^-6, the smallest normal value
		a += 0x7_ffff + a>>20&1
		return sign | E4M3(a>>20-120<<3)
	}
	// Subnormal: 16384 has an ulp of 2^-9, so the addition rounds to a multiple
	// of it, to nearest even.
	t := math.Float32bits(math.Float32frombits(a) + 16384)
	return sign | E4M3(t&0xf)
}

// Float32 returns the value of c, exactly.
func (c E4M3) Float32() float32 { return e4m3Values[c] }

var e4m3Values = fp8Values(4, 3, false)

// E5M2 is an OCP OFP8 E5M2 code: sign, 5 exponent bits with bias 15, 2 fraction
// bits, infinities and NaN as in IEEE 754. The largest finite value is 57344,
// the smallest subnormal one 2^-16.
type E5M2 uint8

// Limits of E5M2.
const (
	E5M2Max = 57344.0
	E5M2NaN = E5M2(0x7f)
	E5M2Inf = E5M2(0x7c)
)

// E5M2FromFloat32 is cvt.rn.satfinite.e5m2x2.f32: to nearest, ties to even,
// magnitudes above 57344 (infinities too) saturate to 57344, NaN gives 0x7f.
func E5M2FromFloat32(x float32) E5M2 {
	b := math.Float32bits(x)
	sign := E5M2(b >> 24 & 0x80)
	a := b & absMask32
	switch {
	case a > inf32:
		return E5M2NaN
	case a >= 0x4760_0000: // 57344
		return sign | (E5M2Inf - 1)
	case a >= 0x3880_0000: // 2^-14, the smallest normal value
		a += 0xf_ffff + a>>21&1
		return sign | E5M2(a>>21-112<<2)
	}
	// Subnormal: 128 has an ulp of 2^-16.
	t := math.Float32bits(math.Float32frombits(a) + 128)
	return sign | E5M2(t&0x7)
}

// Float32 returns the value of c, exactly.
func (c E5M2) Float32() float32 { return e5m2Values[c] }

var e5m2Values = fp8Values(5, 2, true)

// fp8Values lists the values of all codes of an 8-bit format with the given
// numbers of exponent and fraction bits. A format without infinities has one
// NaN per sign, its largest code.
func fp8Values(expBits, fracBits int, hasInf bool) (v [256]float32) {
	bias := 1<<(expBits-1) - 1
	for i := range v {
		exp := i >> fracBits & (1<<expBits - 1)
		frac := i & (1<<fracBits - 1)
		x := math.Ldexp(float64(frac), 1-bias-fracBits)
		if exp > 0 {
			x = math.Ldexp(float64(1<<fracBits|frac), exp-bias-fracBits)
		}
		switch {
		case hasInf && exp == 1<<expBits-1 && frac == 0:
			x = math.Inf(1)
		case hasInf && exp == 1<<expBits-1, !hasInf && i&0x7f == 0x7f:
			x = math.NaN()
		}
		if i&0x80 != 0 {
			x = math.Copysign(x, -1)
		}
		v[i] = float32(x)
	}
	return v
}

// FP22Dropped are the bits of an FP32 pattern that FP22 (E8M13) does not have: the 10
// lowest of the 23 fraction bits.
const FP22Dropped = 1<<(23-13) - 1

// TruncateFP22 rounds x toward zero to FP22 (E8M13): the FP32 layout with the
// 10 low fraction bits zero, which is all that the FP8 tensor core keeps of its
// FP32 accumulator. NaN stays NaN.
//
// This is the truncation rule of the FP22 accumulator. What does it on another
// representation names this function: the output rule FP22Zero of package tensorcore, and
// the generator of assembly in emulate/internal/vec/asm. Tests hold them together.
func TruncateFP22(x float32) float32 {
	b := math.Float32bits(x)
	if b&absMask32 > inf32 {
		return x
	}
	return math.Float32frombits(b &^ FP22Dropped)
}

// RoundFP22 rounds x to FP22 to nearest, ties to even; overflow gives infinity. NaN stays
// NaN.
func RoundFP22(x float32) float32 {
	b := math.Float32bits(x)
	if b&absMask32 > inf32 {
		return x
	}
	const ulp = FP22Dropped + 1
	return math.Float32frombits((b + ulp/2 - 1 + b/ulp&1) &^ FP22Dropped)
}

// The bit patterns of the one NaN that a GPU's instructions return, whatever NaN they
// are given: every NaN among the recorded results has one of these.
const (
	NaN16 = 0x7fff      // of FP16 and BF16
	NaN32 = 0x7fff_ffff // of FP32
)

// FP16FromFloat32 is cvt.rn.f16.f32: IEEE binary16, to nearest, ties to even,
// overflow to infinity; NaN gives NaN16.
func FP16FromFloat32(x float32) uint16 {
	b := math.Float32bits(x)
	if a := b & absMask32; a-0x3880_0000 < 0x477f_f000-0x3880_0000 {
		// From 2^-14 on and below 65520 the exponent has another bias and the fraction
		// gets shorter.
		return uint16(b>>16&0x8000 | (a-0x3800_0000+0xfff+a>>13&1)>>13)
	}
	if x != x {
		return NaN16
	}
	return float16.Fromfloat32(x).Bits()
}

// FP16ToFloat32 returns the value of the IEEE binary16 bit pattern h, exactly.
func FP16ToFloat32(h uint16) float32 { return fp16Values[h] }

var fp16Values = func() *[1 << 16]float32 {
	v := new([1 << 16]float32)
	for i := range v {
		v[i] = float16.Frombits(uint16(i)).Float32()
	}
	return v
}()

// RoundFP16 rounds x to the nearest FP16 value, ties to even, and returns it as
// FP32.
func RoundFP16(x float32) float32 {
	b := math.Float32bits(x)
	if a := b & absMask32; a-0x3880_0000 < 0x477f_f000-0x3880_0000 {
		// From 2^-14 on and below 65520 only the fraction gets shorter.
		return math.Float32frombits((b + 0xfff + b>>13&1) &^ 0x1fff)
	}
	return FP16ToFloat32(FP16FromFloat32(x))
}

// BF16FromFloat32 is cvt.rn.bf16.f32: the upper half of FP32, to nearest, ties
// to even, overflow to infinity; NaN gives 0x7fff.
func BF16FromFloat32(x float32) uint16 {
	b := math.Float32bits(x)
	if b&absMask32 > inf32 {
		return NaN16
	}
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}

// BF16ToFloat32 returns the value of the BF16 bit pattern h, exactly.
func BF16ToFloat32(h uint16) float32 { return math.Float32frombits(uint32(h) << 16) }

// RoundBF16 rounds x to the nearest BF16 value, ties to even, and returns it as
// FP32.
func RoundBF16(x float32) float32 { return BF16ToFloat32(BF16FromFloat32(x)) }

// Int8FromFloat32 is cvt.rni.sat.s8.f32: to the nearest integer, ties to even,
// saturating to [-128, 127]; NaN gives 0.
func Int8FromFloat32(x float32) int8 {
	switch {
	case x != x:
		return 0
	case x >= 127:
		return 127
	case x <= -128:
		return -128
	}
	return int8(math.RoundToEven(float64(x)))
}

// Uint8FromFloat32 rounds x to the nearest integer, ties to even, or toward zero, saturating to
// [0, 255]; NaN gives 0: cvt.rni.s32.f32 or cvt.rzi.s32.f32, then cvt.pack.sat.u8.
func Uint8FromFloat32(x float32, zero bool) uint8 {
	switch {
	case !(x > 0):
		return 0
	case x >= 255:
		return 255
	case zero:
		return uint8(x)
	}
	return uint8(math.RoundToEven(float64(x)))
}

// Int4FromFloat32 rounds x to the nearest integer, ties to even, saturating to
// the symmetric code range [-7, 7]; NaN gives 0. The s4 operand type itself
// spans [-8, 7]; the quantisers never produce -8.
func Int4FromFloat32(x float32) int8 {
	switch {
	case x != x:
		return 0
	case x >= 7:
		return 7
	case x <= -7:
		return -7
	}
	return int8(math.RoundToEven(float64(x)))
}

// TruncToInt8 converts toward zero, saturating to [-128, 127]; NaN gives 0
// (cvt.rzi.s8.f32).
func TruncToInt8(x float32) int8 {
	switch {
	case x != x:
		return 0
	case x >= 127:
		return 127
	case x <= -128:
		return -128
	}
	return int8(x)
}

// FlushSubnormal is the .ftz modifier: a subnormal value becomes zero with its
// sign kept; everything else stays.
func FlushSubnormal(x float32) float32 {
	if b := math.Float32bits(x); b&0x7f80_0000 == 0 {
		return math.Float32frombits(b & signMask32)
	}
	return x
}

// DType is the floating-point format of attention's inputs and output, and of the tensors of
// a dump.
type DType uint8

// Input formats.
const (
	FP16 DType = iota
	BF16
	FP32
	// FP8 is E4M3, of inputs that come quantised, FP8Wide E5M2.
	FP8
	FP8Wide
)

// String names the format.
func (t DType) String() string {
	if t > FP8Wide {
		return fmt.Sprintf("DType(%d)", uint8(t))
	}
	return [...]string{"FP16", "BF16", "FP32", "E4M3", "E5M2"}[t]
}

// IsFP8 says that the type is E4M3 or E5M2.
func (t DType) IsFP8() bool { return t == FP8 || t == FP8Wide }

// Size returns the bytes of an element.
func (t DType) Size() int {
	switch t {
	case FP32:
		return 4
	case FP8, FP8Wide:
		return 1
	}
	return 2
}

// Round rounds x to the format, to nearest even.
func (t DType) Round(x float32) float32 {
	switch t {
	case FP16:
		return RoundFP16(x)
	case BF16:
		return RoundBF16(x)
	case FP8:
		return E4M3FromFloat32(x).Float32()
	case FP8Wide:
		return E5M2FromFloat32(x).Float32()
	}
	return x
}

// RoundTowardZero rounds the magnitude of x down to the format: what cvt.rz gives. A
// finite x never becomes infinite.
func (t DType) RoundTowardZero(x float32) float32 {
	y := t.Round(x)
	if math.Abs(float64(y)) <= math.Abs(float64(x)) || x != x { // always in FP32
		return y
	}
	// The next smaller value has the pattern one less.
	return t.FromBits(t.Bits(y) - 1)
}

// Bits returns the bit pattern of the format's value nearest to x, ties to even. A NaN
// has the one pattern of the GPU's: which one x is depends on the CPU.
func (t DType) Bits(x float32) uint32 {
	switch t {
	case FP16:
		return uint32(FP16FromFloat32(x))
	case BF16:
		return uint32(BF16FromFloat32(x))
	case FP8:
		return uint32(E4M3FromFloat32(x))
	case FP8Wide:
		return uint32(E5M2FromFloat32(x))
	}
	if x != x {
		return NaN32
	}
	return math.Float32bits(x)
}

// FromBits is the inverse of Bits: the value of a bit pattern.
func (t DType) FromBits(b uint32) float32 {
	switch t {
	case FP16:
		return FP16ToFloat32(uint16(b))
	case BF16:
		return BF16ToFloat32(uint16(b))
	case FP8:
		return E4M3(b).Float32()
	case FP8Wide:
		return E5M2(b).Float32()
	}
	return math.Float32frombits(b)
}
