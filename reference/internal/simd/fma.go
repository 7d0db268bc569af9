package simd

import "math"

// The portable multiply-adds. They are all that this file holds: it is where the check
// that no compiler fuses x*y + z allows fused instructions.

// fma64 returns x·y + z, rounded once.
func fma64(x, y, z float64) float64 { return math.FMA(x, y, z) }

// fma32 returns x·y + z, rounded once, by float64 operations. The product of two float32
// is exact there. The rounded sum s may only be rounded again where that gives what one
// rounding of the exact sum does: where s does not lie in the middle between two float32
// values, since rounding is monotonic and these middles are float64 values. Where it may,
// and among results that are subnormal, s is first rounded to odd (Boldo and Melquiond,
// "Emulation of a FMA and correctly rounded sums: proved algorithms using rounding to odd",
// IEEE Transactions on Computers 57, 2008): a second rounding to at most 51 bits is then
// innocuous.
func fma32(x, y, z float32) float32 {
	p, c := float64(float64(x)*float64(y)), float64(z)
	s := p + c
	bits := math.Float64bits(s)
	const (
		middle = 1 << 28
		below  = 1<<29 - 1 // the bits that float32 does not have
		normal = 1023 - 126
	)
	if exponent := bits >> 52 & 0x7ff; bits&below != middle && exponent >= normal {
		return float32(s)
	} else if exponent == 0x7ff {
		return float32(s)
	}
	// The error of the sum, exactly (Knuth's TwoSum).
	t := s - p
	e := (p - (s - t)) + (c - t)
	if e != 0 && bits&1 == 0 {
		// s is not the exact sum and even: the odd neighbour is on the side of the error.
		if (e > 0) == (s > 0) {
			bits++
		} else {
			bits--
		}
	}
	return float32(math.Float64frombits(bits))
}

// axpy32 adds x·b to dst, element by element.
func axpy32(dst []float32, x float32, b []float32) {
	dst = dst[:len(b)]
	for i, y := range b {
		dst[i] = fma32(x, y, dst[i])
	}
}

// axpy64 is axpy32 in float64.
func axpy64(dst []float64, x float64, b []float64) {
	dst = dst[:len(b)]
	for i, y := range b {
		dst[i] = math.FMA(x, y, dst[i])
	}
}
