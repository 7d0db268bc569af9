package tensorcore

import (
	"math"
	"slices"

	"github.com/sageacc/sageacc/emulate/tensorcore/internal/simd"
)

// Lanes is how many columns of a product lie in the lanes of a [Strip].
const Lanes = simd.Lanes

// A Strip computes [Unit.TileValues] for Lanes columns at a time, of operands that are values
// of the unit's own format: a row of the first operand after another, with the columns of the
// second in the lanes of vector registers. Elements that are not ordinary numbers it does not
// compute, but reports them.
type Strip struct {
	unit        *Unit
	level       Level
	order       []int       // which k the operands have where, of each instruction's; nil for their own
	rows, lanes simd.Format // of the operands
	sig         float64
	exact       bool // the unit truncates nothing
	wide        bool // FP32 does not hold the products
}

// Strip returns the unit's Strip at a level, and whether there is one.
func (u *Unit) Strip(level Level) (*Strip, bool) {
	s := &Strip{unit: u, level: level, sig: topSignificand(u.A), exact: u.exactOnce()}
	if s.exact && level.l == simd.Portable {
		return nil, false
	}
	if !s.exact {
		c, order, ok := u.vectorChain(level, u.A, u.A, u.K)
		if !ok || c.Most(s.sig*s.sig) == 0 {
			return nil, false
		}
		s.order = order
	}
	s.rows, s.lanes = formatOf(u.A), formatOf(u.A)
	return s, true
}

// StripOf is Strip for operands of formats that are not the unit's, FP32 among them: as in
// [Unit.TileValues], of values from LoadValues for FP32. Numbers in lanes must not be negative, and a
// negative zero is reported as one.
func (u *Unit) StripOf(level Level, rows, lanes Operand) (*Strip, bool) {
	c, order, ok := u.vectorSteps(u.K)
	if level.l == simd.Portable || !ok || !c.FitsWide() {
		return nil, false
	}
	s := &Strip{unit: u, level: level, order: order, rows: formatOf(rows), lanes: formatOf(lanes), wide: true}
	s.lanes.Dropped |= 1 << 31
	return s, true
}

// formatOf says which numbers are of a format.
func formatOf(o Operand) simd.Format {
	l := &layouts[o]
	f := simd.Format{Least: 1 - l.bias, Dropped: 1<<(layouts[FP32].fracBits-l.fracBits) - 1, Largest: largest(o)}
	if f.Least > 1-layouts[FP32].bias {
		// Where FP32 has more subnormal numbers.
		f.Quanta = math.Float32frombits(uint32(127+l.fracBits-f.Least) << 23)
	}
	return f
}

// HasStrip reports whether the levels of vectors, which are alike in it, have a Strip of the unit.
func (u *Unit) HasStrip() bool {
	_, ok := u.Strip(Level{simd.AVX512})
	return ok
}

// HasStripOf is HasStrip for [Unit.StripOf].
func (u *Unit) HasStripOf() bool {
	_, ok := u.StripOf(Level{simd.AVX512}, FP32, FP32)
	return ok
}

// exactOnce says whether the unit adds all products and the accumulator exactly and rounds once, to
// nearest, and its products are such as [simd.Level.DotExact] takes.
func (u *Unit) exactOnce() bool {
	const most = 64 // products that are added at once
	return u.FractionBits == Exact && u.A <= FP16 && u.K <= most && !u.SeparateAdd &&
		(u.C == FP32 && u.Out == FP32Nearest || u.C == FP16 && u.Out == FP16Nearest) &&
		slices.EqualFunc(u.Steps, Consecutive(u.K, u.K), slices.Equal)
}

// largest is the largest number of a format.
func largest(f Operand) float32 {
	l := &layouts[f]
	top := l.expMask<<l.fracBits - 1
	if l.noInf {
		top = l.expMask<<l.fracBits | l.fracMask - 1
	}
	return makeEntry(l, top<<l.unused).val
}

// Depth is the number that k must be a multiple of.
func (s *Strip) Depth() int { return s.unit.K }

// RowOperand is rows of the first operand: values [rows][K], of which a row begins Stride after
// the one before.
type RowOperand struct {
	x         []float32
	stride, k int
	exp       []uint32 // [rows][k]
	arranged  []float32
	parts     []float64 // of a wide Strip
	span      simd.Span
}

// LoadRows takes rows of k values, which must stay as they are, and reports whether they are
// numbers of the unit's format. k is a multiple of Depth and, unless the rows follow each other
// and are a multiple of 16, of 16.
func (s *Strip) LoadRows(o *RowOperand, x []float32, rows, k, stride int) bool {
	if s.order != nil {
		x, stride = s.arrangeRows(o, x, rows, k, stride), k
	}
	o.x, o.stride, o.k = x, stride, k
	o.span = s.span(&s.rows, x, rows, k, stride)
	if s.wide {
		o.parts = slices.Grow(o.parts[:0], 2*rows*k)[:2*rows*k]
		simd.Parts(o.parts, x, rows, k, stride)
	}
	o.exp = slices.Grow(o.exp[:0], rows*k)[:rows*k]
	if k == stride {
		return rows == 0 || s.level.l.RowExponents(o.exp, x[:rows*k], &s.rows)
	}
	ok := true
	for r := range rows {
		ok = s.level.l.RowExponents(o.exp[r*k:(r+1)*k], x[r*stride:r*stride+k], &s.rows) && ok
	}
	return ok
}

// span returns the format's span, or that of the numbers themselves if sums of the format's may leave the
// exponents that kernels take. It says nothing of a wide Strip, nor of numbers that are not the format's.
func (s *Strip) span(f *simd.Format, x []float32, rows, k, stride int) simd.Span {
	all := f.Span()
	if s.rows.Span().Bounded(s.lanes.Span()) || s.wide || s.exact {
		return all
	}
	if k == stride {
		rows, k = 1, rows*k
	}
	if of, ok := s.level.l.Measure(x, rows, k, stride); ok {
		return of
	}
	return all
}

// arrangeRows returns a copy of rows with the columns of each instruction in its order.
func (s *Strip) arrangeRows(o *RowOperand, x []float32, rows, k, stride int) []float32 {
	o.arranged = slices.Grow(o.arranged[:0], rows*k)[:rows*k]
	for r := range rows {
		from, to := x[r*stride:r*stride+k], o.arranged[r*k:(r+1)*k]
		for lo := 0; lo < k; lo += len(s.order) {
			for i, at := range s.order {
				to[lo+i] = from[lo+at]
			}
		}
	}
	return o.arranged
}

// LaneOperand is the second operand: values [k][Lanes].
type LaneOperand struct {
	x        []float32
	exp      []int16
	arranged []float32
	span     simd.Span
}

// LoadLanes takes a multiple of Depth rows of Lanes values, which must stay as they are, and
// reports whether they are numbers of the unit's format.
func (s *Strip) LoadLanes(o *LaneOperand, x []float32) bool {
	if s.order != nil {
		o.arranged = slices.Grow(o.arranged[:0], len(x))[:len(x)]
		for lo := 0; lo < len(x); lo += len(s.order) * Lanes {
			for i, at := range s.order {
				copy(o.arranged[lo+i*Lanes:][:Lanes], x[lo+at*Lanes:])
			}
		}
		x = o.arranged
	}
	o.x = x
	o.span = s.span(&s.lanes, x, 1, len(x), 0)
	o.exp = slices.Grow(o.exp[:0], len(x))[:len(x)]
	return s.level.l.LaneExponents(o.exp, x, &s.lanes)
}

// Dot chains the instruction along k for every element: acc[row][lane] <- acc + sum over k of
// a[row][k] b[from+k][lane], an even number of rows, for the first depth of a's k, a multiple of
// Depth, and the first lanes at least: others stay as they are, or are sums too. It reports
// whether all elements are ordinary numbers throughout; if not, acc is lost.
func (s *Strip) Dot(acc []float32, a *RowOperand, b *LaneOperand, from, depth, lanes int) bool {
	u := s.unit
	if s.exact && depth%u.K == 0 && depth <= a.k {
		return s.level.l.DotExact(acc, a.x, a.stride, b.x[from*Lanes:], depth/u.K, u.K, u.C == FP16, lanes)
	}
	if s.wide {
		c, _, ok := u.vectorSteps(depth)
		if !ok || depth > a.k {
			panic("tensorcore: Dot: the depth is not a multiple of the unit's")
		}
		return s.level.l.DotWide(&c, acc, a.parts, 4*a.k, a.exp, a.k, b.x[from*Lanes:], b.exp[from*Lanes:], lanes)
	}
	c, _, ok := u.vectorChain(s.level, u.A, u.A, depth)
	if !ok || depth > a.k {
		panic("tensorcore: Dot: the depth is not a multiple of the unit's")
	}
	return s.level.l.DotLanes(&c, c.Most(s.sig*s.sig), a.span.Bounded(b.span), acc, a.x, a.stride, a.exp, a.k, b.x[from*Lanes:], b.exp[from*Lanes:], lanes)
}

// Idle says whether an instruction of products that are all zero leaves any sum that the unit
// makes as it is: whether it keeps all fraction bits that a sum has.
func (s *Strip) Idle() bool {
	if s.exact {
		return true
	}
	switch s.unit.Out {
	case FP32Zero:
		return s.unit.FractionBits >= layouts[FP32].fracBits
	case FP22Zero:
		return s.unit.FractionBits >= 13
	case FP16Nearest:
		return s.unit.FractionBits >= layouts[FP16].fracBits
	}
	return false
}
