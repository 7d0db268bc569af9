package format

import "math"

// FMA returns a*b + c rounded once, to nearest, ties to even: fma.rn.f32.
//
// The product of two FP32 values is exact in FP64, so only the addition can
// round twice. That matters only where the FP64 sum lies exactly half way
// between two FP32 values; there the FP64 rounding error decides.
func FMA(a, b, c float32) float32 {
	p := float64(float64(a) * float64(b))
	s := p + float64(c)
	bits := math.Float64bits(s)
	if bits&0x1fff_ffff != 0x1000_0000 && math.Abs(s) >= 0x1p-126 {
		return float32(s)
	}
	return fmaTie(p, float64(c), s)
}

// fmaTie finishes FMA where the FP64 sum s of p and c may sit on an FP32
// rounding boundary: it replaces s by the FP64 value rounded to odd, which a
// second rounding cannot spoil.
func fmaTie(p, c, s float64) float32 {
	if math.IsInf(s, 0) || s != s {
		return float32(s)
	}
	if err := sumError(p, c, s); err != 0 {
		bits := math.Float64bits(s)
		if bits&1 == 0 {
			if (err > 0) == (s > 0) {
				bits++
			} else {
				bits--
			}
			s = math.Float64frombits(bits)
		}
	}
	return float32(s)
}

// The .ftz operations flush a result that is tiny after rounding with unbounded
// exponent: what rounds up to 2^-126 only because subnormal FP32 is coarser there
// is flushed too (recorded on an H200). So |exact| below flushBelow becomes zero.
const flushBelow = 0x1.ffffffp-127 // 2^-126 (1 - 2^-25)

// FMAFtz is fma.rn.ftz.f32: subnormal arguments and a tiny result count as zero
// of the same sign.
func FMAFtz(a, b, c float32) float32 {
	a, b, c = FlushSubnormal(a), FlushSubnormal(b), FlushSubnormal(c)
	r := FMA(a, b, c)
	if math.Float32bits(r)&absMask32 > 0x0080_0000 {
		return r
	}
	// At most 2^-126: the FP64 sum decides, and where that is the bound itself, what
	// it was rounded by.
	p := float64(float64(a) * float64(b))
	s := p + float64(c)
	if m := math.Abs(s); m < flushBelow || m == flushBelow && sumError(p, float64(c), s)*s < 0 {
		return float32(math.Copysign(0, s))
	}
	return r
}

// sumError returns p + c - s exactly, where s is p + c rounded (TwoSum, Knuth).
func sumError(p, c, s float64) float64 {
	cv := s - p
	return (p - (s - cv)) + (c - cv)
}

// MulFtz is mul.rn.ftz.f32.
func MulFtz(a, b float32) float32 {
	a, b = FlushSubnormal(a), FlushSubnormal(b)
	r := a * b
	if math.Float32bits(r)&absMask32 > 0x0080_0000 {
		return r
	}
	if p := float64(a) * float64(b); math.Abs(p) < flushBelow {
		return float32(math.Copysign(0, p))
	}
	return r
}

// AddFtz is add.rn.ftz.f32. A sum of FP32 values this small is exact.
func AddFtz(a, b float32) float32 {
	return FlushSubnormal(FlushSubnormal(a) + FlushSubnormal(b))
}

// SubFtz is sub.rn.ftz.f32.
func SubFtz(a, b float32) float32 {
	return FlushSubnormal(FlushSubnormal(a) - FlushSubnormal(b))
}
