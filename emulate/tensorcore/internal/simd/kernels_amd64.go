//go:build !purego

package simd

import (
	"math"

	"golang.org/x/sys/cpu"
)

// Levels returns what this machine can run, the best last.
func Levels() []Level {
	l := []Level{Portable}
	if x := &cpu.X86; x.HasAVX2 && x.HasFMA && x.HasF16C {
		l = append(l, AVX2)
	}
	if x := &cpu.X86; x.HasAVX512F && x.HasAVX512BW && x.HasAVX512DQ && x.HasAVX512VL {
		l = append(l, AVX512)
	}
	return l
}

// Dot continues chains of dot-adds: acc[j] += sum over k of a[k]*b[k*stride+j], as c says,
// with exponents ae[k] and be[k*stride+j], for operands whose products FP32 holds exactly.
// c.Fits must hold. A bit of the result is set for each column whose element is not valid;
// the caller computes those.
func (l Level) Dot(c *Chain, acc *[Columns]float32, a []float32, ae []int32, b []float32, be []int32, stride int) uint32 {
	k := c.Instructions * c.Steps * c.Terms
	last := (k-1)*stride + Columns - 1
	_, _, _, _ = a[k-1], ae[k-1], b[last], be[last]
	f := [...]func(acc, a *float32, ae *int32, b *float32, be *int32, stride, instructions, steps, terms int, fraction, keep uint32) uint32{
		dotTile, dotTileSeparate, dotTileHalf, dotTileHalfSeparate,
		dotTileAVX2, dotTileSeparateAVX2, dotTileHalfAVX2, dotTileHalfSeparateAVX2,
	}[l.kernel(c)]
	at := func(j int) uint32 {
		return f(&acc[j], &a[0], &ae[0], &b[j], &be[j], stride*4, c.Instructions, c.Steps, c.Terms, c.Fraction, c.Keep)
	}
	if l == AVX2 {
		return at(0) | at(Columns/2)<<(Columns/2)
	}
	return at(0)
}

// kernel numbers the kinds of chains, those of AVX2 behind those of AVX-512.
func (l Level) kernel(c *Chain) (i int) {
	if c.Separate {
		i++
	}
	if c.Half {
		i += 2
	}
	if l == AVX2 {
		i += 4
	}
	return i
}

// DotLanes continues the chains of acc[row][Lanes], an even number of rows: acc += sum over k
// of a[row][k]*b[k][lane], as c says, with exponents ae from [Level.RowExponents] and be from
// [Level.LaneExponents]. stride and expStride are the lengths of a row of a and of ae. It
// reports whether all elements are valid; if not, acc is lost. Lanes from lanes on, 1 to Lanes, may
// stay as they are. c.Most, of which most is the result, must not be 0. bounded says what [Span.Bounded]
// does of the operands.
func (l Level) DotLanes(c *Chain, most uint32, bounded bool, acc, a []float32, stride int, ae []uint32, expStride int, b []float32, be []int16, lanes int) bool {
	k, rows := c.Instructions*c.Steps*c.Terms, len(acc)/Lanes
	if rows == 0 {
		return true
	}
	_, _, _, _ = a[(rows-1)*stride+k-1], ae[(rows-1)*expStride+k-1], b[k*Lanes-1], be[k*Lanes-1]
	f := [...]func(acc, a *float32, ae *uint32, b *float32, be *int16, aStride, aeStride, rows, instructions, steps, terms int, fraction, keep, most uint32) uint32{
		dotLanes, dotLanesSeparate, dotLanesHalf, dotLanesHalfSeparate,
		dotLanesAVX2, dotLanesSeparateAVX2, dotLanesHalfAVX2, dotLanesHalfSeparateAVX2,
		dotLanesBounded, dotLanesBoundedSeparate, dotLanesBoundedHalf, dotLanesBoundedHalfSeparate,
	}
	i := l.kernel(c)
	if bounded && l == AVX512 && c.Keep == math.MaxUint32 && (c.Separate || l.begins(acc)) {
		i += 8
	}
	kernel := f[i]
	bad, step := uint32(0), 32 // of a call
	if l == AVX2 {
		step = 16
	}
	for i := 0; i < lanes; i += step {
		bad |= kernel(&acc[i], &a[0], &ae[0], &b[i], &be[i], stride*4, expStride*4, rows, c.Instructions, c.Steps, c.Terms, c.Fraction, c.Keep, most)
	}
	return bad == 0
}

// begins says whether kernels of bounded sums can begin with sums: then no later one is smaller than the
// exponents that they take, nor larger, since products below 2^60 add nothing to a sum from 2^86 on.
func (l Level) begins(sums []float32) bool {
	s, ok := l.Measure(sums, 1, len(sums), 0)
	return ok && s.Least >= lowest && s.Most <= highest-2
}

// DotExact is DotLanes for instructions of terms that are added exactly and rounded once, to nearest
// even: to FP32, or to FP16 with half, as the sums are then. Products are whole multiples of 2^-48
// below 2^32, and at most 64 are added. A result is valid unless it is infinite.
func (l Level) DotExact(acc, a []float32, stride int, b []float32, instructions, terms int, half bool, lanes int) bool {
	k, rows := instructions*terms, len(acc)/Lanes
	if rows == 0 {
		return true
	}
	_, _ = a[(rows-1)*stride+k-1], b[k*Lanes-1]
	f, step := [...]func(acc, a, b *float32, aStride, rows, instructions, terms int) uint32{dotExact, dotExactHalf}, 32
	if l == AVX2 {
		f, step = [...]func(acc, a, b *float32, aStride, rows, instructions, terms int) uint32{dotExactAVX2, dotExactHalfAVX2}, 8
	}
	kernel := f[0]
	if half {
		kernel = f[1]
	}
	bad := uint32(0)
	for i := 0; i < lanes; i += step {
		bad |= kernel(&acc[i], &a[0], &b[i], stride*4, rows, instructions, terms)
	}
	return bad == 0
}

// DotWide is DotLanes for operands whose products FP32 does not hold, of which those in lanes are not
// negative. a are rows as [Parts] writes them, stride the length of a pair of them, and c.FitsWide must hold.
func (l Level) DotWide(c *Chain, acc []float32, a []float64, stride int, ae []uint32, expStride int, b []float32, be []int16, lanes int) bool {
	k, rows := c.Instructions*c.Steps*c.Terms, len(acc)/Lanes
	if rows == 0 {
		return true
	}
	_, _, _, _ = a[(rows/2-1)*stride+4*k-1], ae[(rows-1)*expStride+k-1], b[k*Lanes-1], be[k*Lanes-1]
	f := [...]func(acc *float32, a *float64, ae *uint32, b *float32, be *int16, aStride, aeStride, rows, instructions, steps, terms int, fraction, keep uint32) uint32{
		dotWide, dotWideSeparate, dotWideHalf, dotWideHalfSeparate,
		dotWideAVX2, dotWideSeparateAVX2, dotWideHalfAVX2, dotWideHalfSeparateAVX2,
	}[l.kernel(c)]
	step := 16 // of a call
	if l == AVX2 {
		step = 8
	}
	bad := uint32(0)
	for i := 0; i < lanes; i += step {
		bad |= f(&acc[i], &a[0], &ae[0], &b[i], &be[i], stride*8, expStride*4, rows, c.Instructions, c.Steps, c.Terms, c.Fraction, c.Keep)
	}
	return bad == 0
}

// LaneExponents writes the exponents of x, a multiple of 16, as DotLanes takes them of lanes.
// It reports whether all of x is of the format.
func (l Level) LaneExponents(dst []int16, x []float32, f *Format) bool {
	_ = dst[len(x)-1]
	g := laneExponents
	if l == AVX2 {
		g = laneExponentsAVX2
	}
	return g(&dst[0], &x[0], len(x)/16, uint32(f.Least+127), f.Dropped, f.Quanta, f.Largest) == 0
}

// RowExponents is LaneExponents for rows.
func (l Level) RowExponents(dst []uint32, x []float32, f *Format) bool {
	_ = dst[len(x)-1]
	g := rowExponents
	if l == AVX2 {
		g = rowExponentsAVX2
	}
	return g(&dst[0], &x[0], len(x)/16, uint32(f.Least+127), f.Dropped, f.Quanta, f.Largest) == 0
}

// Measure returns the span of rows of k numbers, a multiple of 16, of which a row begins stride after the one
// before. It reports false where no kernel asks for it.
func (l Level) Measure(x []float32, rows, k, stride int) (Span, bool) {
	if l != AVX512 || rows == 0 || k == 0 {
		return Span{}, false
	}
	_ = x[(rows-1)*stride+k-1]
	var b bounds
	for i := range b[0] {
		b[0][i] = math.MaxUint32
	}
	for r := range rows {
		magnitudes(&b[0][0], &x[r*stride], k/16)
	}
	return b.span(), true
}
