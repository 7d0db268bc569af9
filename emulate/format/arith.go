package format

import "math"

// FMA returns a*b + c rounded once, to nearest, ties to even: fma.rn.f32.
//
// The product of two FP32 values is exact in FP64, so only the addition can
// round twice. That matters only where the FP64 sum lies exactly half way
// between two FP32 values; there the FP64 rounding error decides.
func FMA(a, b, c float32) float32 {
	p := float64(a) * float64(b)
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
	// TwoSum (Knuth): s + err == p + c exactly.
	bv := s - p
	err := (p - (s - bv)) + (c - bv)
	if err != 0 {
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

// FMAFtz is fma.rn.ftz.f32: subnormal arguments and a subnormal result count as
// zero of the same sign.
func FMAFtz(a, b, c float32) float32 {
	return FlushSubnormal(FMA(FlushSubnormal(a), FlushSubnormal(b), FlushSubnormal(c)))
}

// MulFtz is mul.rn.ftz.f32.
func MulFtz(a, b float32) float32 {
	return FlushSubnormal(FlushSubnormal(a) * FlushSubnormal(b))
}

// AddFtz is add.rn.ftz.f32.
func AddFtz(a, b float32) float32 {
	return FlushSubnormal(FlushSubnormal(a) + FlushSubnormal(b))
}

// SubFtz is sub.rn.ftz.f32.
func SubFtz(a, b float32) float32 {
	return FlushSubnormal(FlushSubnormal(a) - FlushSubnormal(b))
}
