// Package mufu emulates the special function unit (MUFU) of NVIDIA GPUs bit
// for bit: ex2.approx.ftz.f32, rcp.approx.ftz.f32 and lg2.approx.ftz.f32, and
// the two divisions that are built on the reciprocal.
//
// Each function is a piecewise quadratic in integers. The leading bits of the
// fraction choose a segment, whose three coefficients apply to the remaining
// bits t and to their truncated square; the sum is truncated to the result's
// significand. This shape is documented for older chips by Marcelina
// Kościelnicka in envytools (nvhw/sfu.c, MIT). The coefficients in tables.go
// come from recordings of our own on an NVIDIA H200 (sm_90), over all 2^23
// reduced arguments of each function; the program in fit recovers them, and
// the program in check compares the functions with a GPU for all 2^32 inputs
// (see docs/mufu.md).
//
// As the .ftz in the names says, a subnormal input counts as a zero of its
// sign, and a subnormal result becomes one. NaN results are 0x7fffffff.
package mufu

import (
	"math"
	"math/bits"

	"github.com/sageacc/sageacc/emulate/format"
)

const (
	signBit = 1 << 31
	infBits = 0x7f800000
	nanBits = 0x7fffffff // what the unit returns for NaN
	minBits = 0x00800000 // the smallest normal number
)

// coefficients are the integers of one segment.
type coefficients struct {
	c0     uint32
	c1, c2 int32
}

// quadratic is the sum before truncation, without the rounding constant: c0 in
// units of 1<<shift, plus c1 times t, plus c2 times the square sq.
func (c *coefficients) quadratic(shift uint, t, sq int64) int64 {
	return int64(c.c0)<<shift + int64(c.c1)*t + int64(c.c2)*sq
}

// Ex2 is ex2.approx.ftz.f32: an approximation to 2^x.
func Ex2(x float32) float32 {
	b := math.Float32bits(x)
	e := b >> 23 & 0xff
	if e-minEx2 > maxEx2-minEx2 {
		return ex2Special(b)
	}
	// |x| as a 7.23 fixed-point number, truncated.
	w := int64(uint64(b&0x7fffff|1<<23) << 6 >> ((maxEx2 - e) & 63))
	// A negative one takes the one's complement, unless its fraction is zero.
	sign := int64(int32(b)) >> 63
	w ^= sign
	if (w^sign)&0x7fffff == 0 {
		w -= sign
	}
	t := w & 0x1ffff
	sig := (ex2Table[w>>17&63].quadratic(13, t, square(t)) + 0x77e2) >> 15
	// A significand of 2^24 carries into the exponent.
	r := (w>>23+126)<<23 + sig
	if r < minBits {
		return 0
	}
	return math.Float32frombits(uint32(r))
}

// The biased exponents of the arguments that have a fixed-point number other
// than zero.
const (
	minEx2 = 127 - 23
	maxEx2 = 127 + 6
)

// ex2Special is Ex2 where |x| is below 2^-23, at least 128, infinite or NaN.
func ex2Special(b uint32) float32 {
	switch {
	case b&^signBit > infBits:
		return math.Float32frombits(nanBits)
	case b&infBits < minEx2<<23:
		return 1
	case b&signBit != 0:
		return 0
	}
	return math.Float32frombits(infBits)
}

// Ex2Slice stores Ex2 of every element of src in dst, which must be at least
// as long as src. The two may be the same slice.
func Ex2Slice(dst, src []float32) {
	dst = dst[:len(src)]
	for i, x := range src {
		dst[i] = Ex2(x)
	}
}

// Rcp is rcp.approx.ftz.f32: an approximation to 1/x.
func Rcp(x float32) float32 {
	b := math.Float32bits(x)
	sign := b & signBit
	e := int64(b >> 23 & 0xff)
	switch {
	case b&^signBit > infBits:
		return math.Float32frombits(nanBits)
	case e == 0xff:
		return math.Float32frombits(sign)
	case e == 0:
		return math.Float32frombits(sign | infBits)
	}
	t := int64(b & 0xffff)
	sig := (rcpTable[b>>16&127].quadratic(13, t, square(t<<1)) + 0x47e7) >> 15
	r := (252-e)<<23 + sig
	if r < minBits {
		return math.Float32frombits(sign)
	}
	return math.Float32frombits(sign | uint32(r))
}

// Lg2 is lg2.approx.ftz.f32: an approximation to the base-2 logarithm of x.
func Lg2(x float32) float32 {
	b := math.Float32bits(x)
	switch {
	case b&^signBit > infBits:
		return math.Float32frombits(nanBits)
	case b&^signBit < minBits:
		return math.Float32frombits(signBit | infBits)
	case b&signBit != 0:
		return math.Float32frombits(nanBits)
	case b == infBits:
		return x
	case x == 1:
		return 0
	}
	t := int64(b & 0x1ffff)
	r := (lg2Table[b>>17&63].quadratic(12, t, square(t)<<1) + 0x3345) >> 2
	// The logarithm in units of 2^-36. A negative one takes the one's complement.
	r += (int64(b>>23) - 127) << 36
	var sign uint32
	if r < 0 {
		sign = signBit
		r = ^r
	}
	if r == 0 {
		return math.Float32frombits(sign)
	}
	n := bits.Len64(uint64(r)) // the leading bit is worth 2^(n-37)
	sig := uint32(uint64(r) << (64 - n) >> 40)
	return math.Float32frombits(sign | uint32(n+127-37-1)<<23 + sig)
}

// DivFull is div.full.ftz.f32, the general division in Triton: a times Rcp(b),
// both scaled by 1/4 where |b| exceeds 2^126, whose reciprocal would be flushed.
func DivFull(a, b float32) float32 { return NewDivisor(b, false).Divide(a) }

// DivApprox is div.approx.ftz.f32, the general division of CUDA C++ under
// --use_fast_math: a times Rcp(b).
func DivApprox(a, b float32) float32 {
	return format.MulFtz(a, Rcp(b))
}

// DivFullSubnormal is div.full.f32, which keeps subnormal numbers: a times Rcp(b), both
// scaled by 1/4 where |b| exceeds 2^126 and by 2^24 where it is below 2^-126.
func DivFullSubnormal(a, b float32) float32 { return NewDivisor(b, true).Divide(a) }

// A Divisor is one of DivFull or, if it keeps subnormal numbers, DivFullSubnormal, whose
// reciprocal is found once.
type Divisor struct {
	scale, reciprocal float32
	keep              bool
}

// NewDivisor returns the divisor b.
func NewDivisor(b float32, keep bool) Divisor {
	d := Divisor{scale: 1, keep: keep}
	m := math.Abs(float64(b))
	switch {
	case m > 0x1p126:
		d.scale = 0.25
	case keep && m < 0x1p-126:
		d.scale = 0x1p24
	}
	if keep {
		d.reciprocal = Rcp(float32(b * d.scale))
	} else {
		d.reciprocal = Rcp(format.MulFtz(b, d.scale))
	}
	return d
}

// Factor returns what Divide multiplies by, and whether that is all that it does.
func (d Divisor) Factor() (float32, bool) { return d.reciprocal, d.scale == 1 }

// Divide returns a divided by the divisor.
func (d Divisor) Divide(a float32) float32 {
	if d.keep {
		return float32(float32(a*d.scale) * d.reciprocal)
	}
	return format.MulFtz(format.MulFtz(a, d.scale), d.reciprocal)
}
