package tensorcore

import (
	"math"

	"github.com/sageacc/sageacc/emulate/format"
)

// Panel holds rows of operand codes, decoded for [Unit.Tile]. A Panel is reused
// between tiles; it grows to the largest it has held.
type Panel struct {
	rows, k int
	bits    []uint32
	val     []float64
	val32   []float32
	exp     []int32
	special []bool // a row that holds a NaN or an infinity
}

// zeroExp is the exponent of a zero operand: with any other it stays below
// every real exponent, so a zero product never decides the alignment.
const zeroExp = -1 << 12

// Load decodes rows x k codes of format f, row-major with the given stride.
// k must be a multiple of the unit's K; pad with zero codes.
func (p *Panel) Load(f Operand, codes []uint16, rows, k, stride int) {
	p.rows, p.k = rows, k
	n := rows * k
	if cap(p.bits) < n {
		p.bits = make([]uint32, n)
		p.val = make([]float64, n)
		p.val32 = make([]float32, n)
		p.exp = make([]int32, n)
	}
	if cap(p.special) < rows {
		p.special = make([]bool, rows)
	}
	p.bits, p.val, p.val32, p.exp, p.special = p.bits[:n], p.val[:n], p.val32[:n], p.exp[:n], p.special[:rows]
	t := &decodeTables[f]
	l := layouts[f]
	for r := range rows {
		row := codes[r*stride : r*stride+k]
		special := false
		o := r * k
		for i, c := range row {
			var e entry
			if t.small != nil {
				e = t.small[c&0xff]
			} else {
				e = makeEntry(l, uint32(c))
			}
			p.bits[o+i] = uint32(c)
			p.val[o+i] = float64(e.val)
			p.val32[o+i] = e.val
			p.exp[o+i] = e.exp
			special = special || e.special
		}
		p.special[r] = special
	}
}

type entry struct {
	val     float32
	exp     int32
	special bool
}

func makeEntry(l layout, bits uint32) entry {
	t, c := l.decode(bits)
	if c != finite {
		return entry{exp: zeroExp, special: true}
	}
	if t.sig == 0 {
		return entry{exp: zeroExp}
	}
	return entry{val: float32(math.Ldexp(float64(t.sig), t.exp-l.fracBits)), exp: int32(t.exp)}
}

// decodeTables holds the 256 entries of each 8-bit format.
var decodeTables = func() (t [S32 + 1]struct{ small *[256]entry }) {
	for _, f := range []Operand{E4M3, E5M2} {
		t[f].small = new([256]entry)
		for i := range t[f].small {
			t[f].small[i] = makeEntry(layouts[f], uint32(i))
		}
	}
	return t
}()

// Tile chains the instruction along k for every element of a tile:
// acc[i*n+j] <- c + sum_k a[i,k] b[j,k], where a has m rows and b has n, and acc
// holds the accumulator's values as FP32 (an FP16 accumulator's values are
// FP32-representable). It equals a chain of [Unit.Dot] bit for bit, but for the
// payload of a NaN; the tests hold the two together.
func (u *Unit) Tile(acc []float32, a, b *Panel) {
	if a.k != b.k || a.k%u.K != 0 {
		panic("tensorcore: Tile: depths disagree")
	}
	n := b.rows
	for i := range a.rows {
		row := acc[i*n : i*n+n]
		for j := range row {
			if a.special[i] || b.special[j] || !isFinite(row[j]) {
				row[j] = u.slow(row[j], a, b, i, j)
				continue
			}
			row[j] = u.chain(row[j], a, b, i, j)
		}
	}
}

func isFinite(x float32) bool { return x-x == 0 }

// slow runs the definition for one element.
func (u *Unit) slow(c float32, a, b *Panel, i, j int) float32 {
	bits := u.encode(c)
	for k := 0; k < a.k; k += u.K {
		bits = u.Dot(bits, a.bits[i*a.k+k:][:u.K], b.bits[j*b.k+k:][:u.K])
	}
	return u.decodeC(bits)
}

func (u *Unit) encode(c float32) uint32 {
	if u.C == FP16 {
		return uint32(format.FP16FromFloat32(c))
	}
	return math.Float32bits(c)
}

func (u *Unit) decodeC(bits uint32) float32 {
	if u.C == FP16 {
		return format.FP16ToFloat32(uint16(bits))
	}
	return math.Float32frombits(bits)
}

// chain is the fast path for finite operands.
func (u *Unit) chain(c float32, a, b *Panel, i, j int) float32 {
	ao, bo := i*a.k, j*b.k
	for k := 0; k < a.k; k += u.K {
		var next float32
		ok := true
		switch {
		case u.FractionBits == Exact:
			next = c
			step := len(u.Steps[0])
			for s := 0; s < u.K && ok; s += step {
				next, ok = u.exactStep(next, a.val[ao+k+s:][:step], b.val[bo+k+s:][:step])
			}
		case u.FractionBits == 13 && u.K == 32 && (u.Out == FP22Zero || u.Out == FP16Nearest) && !u.SeparateAdd:
			next = c
			step := len(u.Steps[0])
			for s := 0; s < u.K && ok; s += step {
				next, ok = u.step13(next, a, b, ao+k+s, bo+k+s, step)
			}
		case u.SeparateAdd && u.unpacked():
			next, ok = u.splitStep(a, b, ao+k, bo+k)
			if ok {
				next = u.addValues(next, c)
			}
		default:
			if !u.SeparateAdd {
				next = c
			}
			step := len(u.Steps[0])
			for s := 0; s < u.K && ok; s += step {
				next, ok = u.step64(next, a, b, ao+k+s, bo+k+s, step)
				ok = ok && isFinite(next)
			}
			if ok && u.SeparateAdd {
				next = u.addValues(next, c)
			}
		}
		if !ok {
			next = u.decodeC(u.Dot(u.encode(c), a.bits[ao+k:][:u.K], b.bits[bo+k:][:u.K]))
		}
		c = next
		if !isFinite(c) {
			// Overflowed: the definition knows what infinities do.
			for k += u.K; k < a.k; k += u.K {
				c = u.decodeC(u.Dot(u.encode(c), a.bits[ao+k:][:u.K], b.bits[bo+k:][:u.K]))
			}
			return c
		}
	}
	return c
}

// unpacked says that the steps are those of the function of that name.
func (u *Unit) unpacked() bool { return u.K == 32 && len(u.Steps) == 2 && u.Steps[0][2] == 4 }

// addValues is the closing addition of a unit with SeparateAdd.
func (u *Unit) addValues(x, y float32) float32 {
	s := x + y
	if u.C == FP16 {
		return format.RoundFP16(s)
	}
	return s
}

// minExp32 is the smallest alignment exponent that the float paths handle: with
// it every truncated sum and the result stay normal FP32 numbers.
const minExp32 = -96

// exponent32 returns the unbiased exponent of a finite c as the unit sees it,
// and zeroExp for zero.
func (u *Unit) exponent32(c float32) int32 {
	b := math.Float32bits(c) & 0x7fff_ffff
	if b == 0 {
		return zeroExp
	}
	e := int32(b>>23) - 127
	if u.C == FP16 {
		return max(e, -14)
	}
	return max(e, -126)
}

// step13 is one fused dot-add with 13 fraction bits over consecutive k. The
// products of FP8 values are exact in FP32; scaled by 2^(13-E), the truncating
// conversion to an integer is the alignment, and 32 such terms add exactly.
func (u *Unit) step13(c float32, a, b *Panel, ao, bo, n int) (float32, bool) {
	ae, be := a.exp[ao:ao+n], b.exp[bo:bo+n]
	be = be[:len(ae)]
	maxExp := u.exponent32(c)
	for i, e := range ae {
		maxExp = max(maxExp, e+be[i])
	}
	if maxExp < minExp32 {
		return 0, false
	}
	if maxExp > 100 {
		return 0, false
	}
	scale := math.Float32frombits(uint32(127+13-maxExp) << 23)
	av, bv := a.val32[ao:ao+n], b.val32[bo:bo+n]
	bv = bv[:len(av)]
	sum := int32(c * scale)
	for i, v := range av {
		sum += int32(v * bv[i] * scale)
	}
	r := float32(sum) * math.Float32frombits(uint32(127-13+maxExp)<<23)
	if u.Out == FP16Nearest {
		return format.RoundFP16(r), true
	}
	return math.Float32frombits(math.Float32bits(r) &^ 0x3ff), true
}

// step64 is one fused dot-add over consecutive k in FP64: the aligned terms,
// truncated, add exactly to c's in units of 2^(maxExp-F).
func (u *Unit) step64(c float32, a, b *Panel, ao, bo, n int) (float32, bool) {
	ae, be := a.exp[ao:ao+n], b.exp[bo:bo+n]
	be = be[:len(ae)]
	maxExp := u.exponent32(c)
	for i, e := range ae {
		maxExp = max(maxExp, e+be[i])
	}
	if maxExp < zeroExp/2 {
		return 0, true // every term is zero and so is c
	}
	if maxExp < minExp32 || maxExp > 100 {
		return 0, false
	}
	f := int32(u.FractionBits)
	scale := math.Float64frombits(uint64(1023+f-maxExp) << 52)
	av, bv := a.val[ao:ao+n], b.val[bo:bo+n]
	bv = bv[:len(av)]
	sum := int64(float64(c) * scale)
	for i, v := range av {
		sum += int64(v * bv[i] * scale)
	}
	return u.round64(sum, maxExp-f), true
}

// splitStep runs both steps of a unit that unpacks FP8 operands to FP16, from a
// zero addend.
func (u *Unit) splitStep(a, b *Panel, ao, bo int) (float32, bool) {
	ae, be := a.exp[ao:ao+32], b.exp[bo:bo+32]
	av, bv := a.val[ao:ao+32], b.val[bo:bo+32]
	f := int32(u.FractionBits)
	var c float32
	for h := 0; h < 4; h += 2 {
		maxExp := u.exponent32(c)
		for i := h; i+1 < 32; i += 4 {
			maxExp = max(maxExp, ae[i]+be[i], ae[i+1]+be[i+1])
		}
		if maxExp < zeroExp/2 {
			continue // every term is zero and so is c
		}
		if maxExp < minExp32 || maxExp > 100 {
			return 0, false
		}
		scale := math.Float64frombits(uint64(1023+f-maxExp) << 52)
		sum := int64(float64(c) * scale)
		for i := h; i+1 < 32; i += 4 {
			sum += int64(av[i]*bv[i]*scale) + int64(av[i+1]*bv[i+1]*scale)
		}
		c = u.round64(sum, maxExp-f)
		if !isFinite(c) {
			return 0, false
		}
	}
	return c, true
}

// round64 converts sum * 2^exp by the output rule; |sum| < 2^53 and the result
// is a normal FP32 number or zero, or is rounded to FP16.
func (u *Unit) round64(sum int64, exp int32) float32 {
	x := float64(sum) * math.Float64frombits(uint64(1023+exp)<<52)
	b := math.Float64bits(x)
	switch u.Out {
	case FP32Zero:
		return float32(math.Float64frombits(b &^ (1<<29 - 1)))
	case FP22Zero:
		return float32(math.Float64frombits(b &^ (1<<39 - 1)))
	case FP22Nearest:
		return float32(math.Float64frombits((b + 1<<38 - 1 + b>>39&1) &^ (1<<39 - 1)))
	case FP32Nearest:
		return float32(x)
	}
	// FP16: round to odd at FP32's precision first, so that the second rounding
	// sees what it must.
	odd := b &^ (1<<29 - 1)
	if odd != b {
		odd |= 1 << 29
	}
	return format.RoundFP16(float32(math.Float64frombits(odd)))
}

// exactStep adds c and the products exactly as long as FP64 can hold the sum
// without error, and reports whether it could.
func (u *Unit) exactStep(c float32, a, b []float64) (float32, bool) {
	b = b[:len(a)]
	s := float64(c)
	for i, v := range a {
		p := float64(v * b[i])
		t := s + p
		bb := t - s
		if (s-(t-bb))+(p-bb) != 0 {
			return 0, false
		}
		s = t
	}
	if u.Out != FP16Nearest && u.Out != FP32Nearest {
		return 0, false
	}
	if s == 0 {
		return 0, s == float64(c) && !math.Signbit(float64(c))
	}
	if u.Out == FP16Nearest {
		bits := math.Float64bits(s)
		odd := bits &^ (1<<29 - 1)
		if odd != bits {
			odd |= 1 << 29
		}
		return format.RoundFP16(float32(math.Float64frombits(odd))), true
	}
	return float32(s), true
}
