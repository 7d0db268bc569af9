//go:build !purego

package simd

import "golang.org/x/sys/cpu"

// Levels returns what this machine can run, the best last.
func Levels() []Level {
	l := []Level{Portable}
	if cpu.ARM64.HasASIMD {
		l = append(l, NEON)
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
	f := dotTile
	switch {
	case c.Half && c.Separate:
		f = dotTileHalfSeparate
	case c.Half:
		f = dotTileHalf
	case c.Separate:
		f = dotTileSeparate
	}
	bad := uint32(0)
	for i := 0; i < Columns; i += 16 {
		bad |= f(&acc[i], &a[0], &ae[0], &b[i], &be[i], stride*4, c.Instructions, c.Steps, c.Terms, c.Fraction, c.Keep) << i
	}
	return bad
}

// DotLanes continues the chains of acc[row][Lanes], an even number of rows: acc += sum over k
// of a[row][k]*b[k][lane], as c says, with exponents ae from [Level.RowExponents] and be from
// [Level.LaneExponents]. stride and expStride are the lengths of a row of a and of ae. It
// reports whether all elements are valid; if not, acc is lost. Lanes from lanes on, 1 to Lanes, may
// stay as they are. c.Most, of which most is the result, must not be 0. bounded, what [Span.Bounded] says of
// the operands, has no kernel of its own here.
func (l Level) DotLanes(c *Chain, most uint32, bounded bool, acc, a []float32, stride int, ae []uint32, expStride int, b []float32, be []int16, lanes int) bool {
	k, rows := c.Instructions*c.Steps*c.Terms, len(acc)/Lanes
	if rows == 0 {
		return true
	}
	_, _, _, _ = a[(rows-1)*stride+k-1], ae[(rows-1)*expStride+k-1], b[k*Lanes-1], be[k*Lanes-1]
	f := dotLanes
	switch {
	case c.Half && c.Separate:
		f = dotLanesHalfSeparate
	case c.Half:
		f = dotLanesHalf
	case c.Separate:
		f = dotLanesSeparate
	}
	bad := uint32(0)
	for i := 0; i < lanes; i += 16 {
		bad |= f(&acc[i], &a[0], &ae[0], &b[i], &be[i], stride*4, expStride*4, rows, c.Instructions, c.Steps, c.Terms, c.Fraction, c.Keep, most)
	}
	return bad == 0
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
	f := dotExact
	if half {
		f = dotExactHalf
	}
	bad := uint32(0)
	for i := 0; i < lanes; i += 8 {
		bad |= f(&acc[i], &a[0], &b[i], stride*4, rows, instructions, terms)
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
	f := dotWide
	switch {
	case c.Half && c.Separate:
		f = dotWideHalfSeparate
	case c.Half:
		f = dotWideHalf
	case c.Separate:
		f = dotWideSeparate
	}
	const step = 8
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
	return laneExponents(&dst[0], &x[0], len(x)/16, uint32(f.Least+127), f.Dropped, f.Quanta, f.Largest) == 0
}

// RowExponents is LaneExponents for rows.
func (l Level) RowExponents(dst []uint32, x []float32, f *Format) bool {
	_ = dst[len(x)-1]
	return rowExponents(&dst[0], &x[0], len(x)/16, uint32(f.Least+127), f.Dropped, f.Quanta, f.Largest) == 0
}

// Measure reports that no kernel asks for the span.
func (Level) Measure(x []float32, rows, k, stride int) (Span, bool) { return Span{}, false }
