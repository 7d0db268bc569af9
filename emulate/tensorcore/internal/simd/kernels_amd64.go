//go:build !purego

package simd

import "golang.org/x/sys/cpu"

// Has reports whether this machine runs Dot.
func Has() bool { return cpu.X86.HasAVX512F && cpu.X86.HasAVX512DQ && cpu.X86.HasAVX512VL }

// Dot continues chains of dot-adds: acc[j] += sum over k of a[k]*b[k*stride+j], as c says,
// with exponents ae[k] and be[k*stride+j], for operands whose products FP32 holds exactly.
// c.Fits must hold. A bit of the result is set for each column whose element is not valid;
// the caller computes those.
func Dot(c *Chain, acc *[Columns]float32, a []float32, ae []int32, b []float32, be []int32, stride int) uint32 {
	k := c.Instructions * c.Steps * c.Terms
	last := (k-1)*stride + Columns - 1
	_, _, _, _ = a[k-1], ae[k-1], b[last], be[last]
	f := dotTile
	switch {
	case c.Half && c.Separate:
		f = dotTileHalfSeparate
	case c.Half:
		f = dotTileHalf
	case c.Separate:
		f = dotTileSeparate
	}
	return f(&acc[0], &a[0], &ae[0], &b[0], &be[0], stride*4, c.Instructions, c.Steps, c.Terms, c.Fraction, c.Keep)
}
