package tensorcore

import (
	"fmt"
	"math"
	"slices"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/tensorcore/internal/simd"
)

// Level is a set of vector instructions that this machine has. No result depends on it.
// The zero Level is portable Go.
type Level struct{ l simd.Level }

// Levels returns the levels of this machine: portable Go first, the fastest last.
func Levels() []Level {
	var out []Level
	for _, l := range simd.Levels() {
		out = append(out, Level{l})
	}
	return out
}

// String names the level.
func (l Level) String() string { return l.l.String() }

// TileAt is [Unit.Tile] at a level. It keeps a copy of b's columns in b, which no other
// goroutine may use meanwhile.
func (u *Unit) TileAt(level Level, acc []float32, a, b *Panel) {
	if a.format != u.A || b.format != u.A {
		panic(fmt.Sprintf("tensorcore: Tile: panels of %s and %s for a unit of %s", a.format, b.format, u.A))
	}
	u.TileValuesAt(level, acc, a, b)
}

// TileValuesAt is [Unit.TileValues] at a level, with b as for TileAt.
func (u *Unit) TileValuesAt(level Level, acc []float32, a, b *Panel) {
	if a.k != b.k {
		panic("tensorcore: Tile: depths disagree")
	}
	t, order, ok := u.vectorChain(level, a.format, b.format, a.k)
	if !ok {
		u.TileValues(acc, a, b)
		return
	}
	p := u.plan(a.format, b.format)
	// Elements that the kernel leaves want the columns as the plan has them.
	pa, pb := a, b
	if p.order != nil {
		pa, pb = a.arranged(p.order), b.arranged(p.order)
	}
	va := a
	if order != nil {
		va = a.arranged(order)
	}
	n := b.rows
	stride := b.turn(order)
	var out [simd.Columns]float32
	for i := range a.rows {
		row := acc[i*n : i*n+n]
		for j := 0; j < n; j += simd.Columns {
			part := row[j:min(j+simd.Columns, n)]
			left := ^uint32(0)
			if !a.special[i] {
				clear(out[copy(out[:], part):])
				left = level.l.Dot(&t, &out, va.val32[i*a.k:], va.exp[i*a.k:], b.turned[j:], b.turnedExp[j:], stride)
			}
			for c, x := range part {
				if b.special[j+c] || !isFinite(x) {
					left |= 1 << c
				}
			}
			if left == 0 {
				copy(part, out[:])
				continue
			}
			for c := range part {
				switch {
				case left>>c&1 == 0:
					part[c] = out[c]
				case a.special[i] || b.special[j+c] || !isFinite(part[c]):
					part[c] = u.slow(part[c], a, b, i, j+c, 0)
				default:
					part[c] = u.chain(&p, part[c], pa, pb, i, j+c)
				}
			}
		}
	}
}

// HasVector reports whether TileAt of panels of the unit's operands runs on vectors at the
// level, where its operands and sums are ordinary numbers.
func (u *Unit) HasVector(level Level) bool {
	_, _, ok := u.vectorChain(level, u.A, u.A, u.K)
	return ok
}

// vectorChain says how the vector kernel runs the unit on panels of the formats and depth,
// with the order of k that it takes, nil for their own. It reports false if the kernel
// assumes anything that the unit or the formats do not have.
func (u *Unit) vectorChain(level Level, fa, fb Operand, depth int) (c simd.Chain, order []int, ok bool) {
	significand := topSignificand(fa) * topSignificand(fb)
	if level.l == simd.Portable || significand == 0 {
		return c, nil, false
	}
	c, order, ok = u.vectorSteps(depth)
	return c, order, ok && c.Fits(significand)
}

// vectorSteps is vectorChain whatever the operands: products may be too many for a kernel.
func (u *Unit) vectorSteps(depth int) (c simd.Chain, order []int, ok bool) {
	if len(u.Steps) == 0 || depth == 0 || depth%u.K != 0 || u.FractionBits < 1 {
		return c, nil, false
	}
	c = simd.Chain{
		Instructions: depth / u.K, Steps: len(u.Steps), Terms: len(u.Steps[0]), Fraction: uint32(u.FractionBits),
		Keep: math.MaxUint32, Separate: u.SeparateAdd,
	}
	switch {
	case u.C == FP32 && u.Out == FP32Zero:
	case u.C == FP32 && u.Out == FP22Zero:
		c.Keep = ^uint32(format.FP22Dropped)
	case u.C == FP16 && u.Out == FP16Nearest:
		c.Half = true
	default:
		return c, nil, false
	}
	seen := make([]bool, u.K)
	for _, step := range u.Steps {
		if len(step) != c.Terms {
			return c, nil, false
		}
		for _, k := range step {
			if k < 0 || k >= u.K || seen[k] {
				return c, nil, false
			}
			seen[k] = true
			order = append(order, k)
		}
	}
	if len(order) != u.K {
		return c, nil, false
	}
	if slices.IsSorted(order) {
		order = nil
	}
	return c, order, true
}

// topSignificand is what no significand of the format exceeds, 0 for formats of which two
// may have a product that FP32 does not hold.
func topSignificand(f Operand) float64 {
	switch f {
	case E4M3:
		return 1.875
	case E5M2:
		return 1.75
	case FP16, BF16, TF32:
		return 2
	}
	return 0
}

// turn writes the values and exponents with a row for each k and the panel's rows as
// columns, of which there are as many more as make whole runs of the vector kernel; the
// more are zeros. order says which k each row holds, nil for its own. It returns the length
// of a row.
func (p *Panel) turn(order []int) (stride int) {
	stride = (p.rows + simd.Columns - 1) / simd.Columns * simd.Columns
	n := stride * p.k
	if cap(p.turned) < n {
		p.turned, p.turnedExp = make([]float32, n), make([]int32, n)
	}
	p.turned, p.turnedExp = p.turned[:n], p.turnedExp[:n]
	for i := range p.k {
		k := i
		if order != nil {
			k = i/len(order)*len(order) + order[i%len(order)]
		}
		val, exp := p.turned[i*stride:(i+1)*stride], p.turnedExp[i*stride:(i+1)*stride]
		for r := range p.rows {
			val[r], exp[r] = p.val32[r*p.k+k], p.exp[r*p.k+k]
		}
		for r := p.rows; r < stride; r++ {
			val[r], exp[r] = 0, zeroExp
		}
	}
	return stride
}
