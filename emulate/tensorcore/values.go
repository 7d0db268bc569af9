package tensorcore

import (
	"math"

	"github.com/sageacc/sageacc/emulate/format"
)

// LoadValues takes operands of any FP32 values, for [Unit.TileValues]: rows x k of
// them, row-major with the given stride. A subnormal one keeps FP32's smallest exponent.
func (p *Panel) LoadValues(x []float32, rows, k, stride int) {
	p.rows, p.k = rows, k
	n := rows * k
	if cap(p.bits) < n {
		p.bits, p.val, p.val32, p.exp = make([]uint32, n), make([]float64, n), make([]float32, n), make([]int32, n)
	}
	if cap(p.special) < rows {
		p.special = make([]bool, rows)
	}
	p.bits, p.val, p.val32, p.exp, p.special = p.bits[:n], p.val[:n], p.val32[:n], p.exp[:n], p.special[:rows]
	for r := range rows {
		for i, v := range x[r*stride : r*stride+k] {
			o := r*k + i
			p.val[o], p.val32[o] = float64(v), v
			p.exp[o] = zeroExp
			if v != 0 {
				p.exp[o] = max(int32(math.Float32bits(v)>>23&0xff)-127, -126)
			}
		}
	}
}

// TileValues is Tile for operands of any precision: the unit as it would be if it took
// them. Products are exact, and aligned by the sums of their operands' FP32 exponents;
// steps, truncation and rounding are the unit's. (Of a unit that truncates nothing the
// sum is FP64's.)
func (u *Unit) TileValues(acc []float32, a, b *Panel) {
	n := b.rows
	for i := range a.rows {
		for j := range n {
			c := &acc[i*n+j]
			for k := 0; k < a.k; k += u.K {
				ao, bo := i*a.k+k, j*b.k+k
				*c = u.dotValues(*c, a.val[ao:ao+u.K], b.val[bo:bo+u.K], a.exp[ao:], b.exp[bo:])
			}
		}
	}
}

func (u *Unit) dotValues(c float32, a, b []float64, ae, be []int32) float32 {
	acc := c
	if u.SeparateAdd {
		acc = 0
	}
	for _, step := range u.Steps {
		top := u.accExp(acc)
		for _, k := range step {
			top = max(top, ae[k]+be[k])
		}
		switch {
		case top < zeroExp/2:
			acc = 0
		case u.FractionBits == Exact:
			s := float64(acc)
			for _, k := range step {
				s += float64(a[k] * b[k])
			}
			acc = u.roundValue(s)
		default:
			scale := math.Ldexp(1, u.FractionBits-int(top))
			sum := math.Trunc(float64(acc) * scale)
			for _, k := range step {
				sum += math.Trunc(a[k] * b[k] * scale)
			}
			acc = u.roundValue(sum / scale)
		}
	}
	if u.SeparateAdd {
		return u.addValues(acc, c)
	}
	return acc
}

// accExp is the exponent that the accumulator is aligned by.
func (u *Unit) accExp(c float32) int32 {
	b := math.Float32bits(c) & 0x7fff_ffff
	switch {
	case b == 0:
		return zeroExp
	case u.C == FP16:
		return max(int32(b>>23)-127, -14)
	}
	return max(int32(b>>23)-127, -126)
}

// roundValue applies the output rule to a sum that FP64 holds exactly, or nearly so.
func (u *Unit) roundValue(s float64) float32 {
	b := math.Float64bits(s)
	switch u.Out {
	case FP32Zero:
		return float32(math.Float64frombits(b &^ (1<<29 - 1)))
	case FP22Zero:
		return float32(math.Float64frombits(b &^ (1<<39 - 1)))
	case FP16Nearest:
		odd := b &^ (1<<29 - 1)
		if odd != b {
			odd |= 1 << 29
		}
		return format.RoundFP16(float32(math.Float64frombits(odd)))
	}
	return float32(s)
}

// Integer says that the unit's operands are integers.
func (u *Unit) Integer() bool { return u.A == S8 || u.A == S4 }
