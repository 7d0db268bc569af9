package tensorcore

import (
	"fmt"
	"math"
	"slices"

	"github.com/sageacc/sageacc/emulate/format"
)

// Panel holds rows of operands, decoded for [Unit.Tile]. A Panel is reused
// between tiles; it grows to the largest it has held.
type Panel struct {
	format  Operand
	rows, k int
	bits    []uint32
	val     []float64
	val32   []float32
	exp     []int32
	special []bool // a row that holds a NaN or an infinity

	// As turn has left them, for the vector kernel.
	turned    []float32
	turnedExp []int32
}

// zeroExp is the exponent of a zero operand: with any other it stays below
// every real exponent, so a zero product never decides the alignment.
const zeroExp = -1 << 12

// allZero is an exponent below which a sum of two has a zeroExp.
const allZero = zeroExp / 2

// fit makes room for rows x k operands of format f.
func (p *Panel) fit(f Operand, rows, k int) {
	if f >= S8 {
		panic("tensorcore: a panel of " + f.String() + ": panels are of floating-point operands")
	}
	p.format, p.rows, p.k = f, rows, k
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
}

// put stores operand i of a row r.
func (p *Panel) put(r, i int, bits uint32, e entry) {
	p.bits[i] = bits
	p.val[i] = float64(e.val)
	p.val32[i] = e.val
	p.exp[i] = e.exp
	p.special[r] = p.special[r] || e.special
}

// Load decodes rows x k codes of format f, which has at most 16 bits, row-major with
// the given stride. k must be a multiple of the unit's K; pad with zero codes.
func (p *Panel) Load(f Operand, codes []uint16, rows, k, stride int) {
	if f == TF32 || f == FP32 {
		panic("tensorcore: Load: codes of " + f.String() + " have 32 bits: LoadBits")
	}
	p.fit(f, rows, k)
	small := decodeTables[f]
	l := &layouts[f]
	for r := range rows {
		row := codes[r*stride : r*stride+k]
		p.special[r] = false
		o := r * k
		if small != nil {
			for i, c := range row {
				p.put(r, o+i, uint32(c), small[c&0xff])
			}
			continue
		}
		switch f {
		case FP16:
			for i, c := range row {
				p.put(r, o+i, uint32(c), entryFP16(c))
			}
		case BF16:
			for i, c := range row {
				p.put(r, o+i, uint32(c), entryBF16(c))
			}
		default:
			for i, c := range row {
				p.put(r, o+i, uint32(c), makeEntry(l, uint32(c)))
			}
		}
	}
}

// entryFP16 is makeEntry of an FP16 code.
func entryFP16(c uint16) entry {
	switch e := int32(c >> 10 & 31); {
	case e == 31:
		return entry{exp: zeroExp, special: true}
	case c&0x7fff == 0:
		return entry{exp: zeroExp}
	default:
		return entry{val: format.FP16ToFloat32(c), exp: max(e, 1) - 15}
	}
}

// entryBF16 is makeEntry of a BF16 code.
func entryBF16(c uint16) entry {
	switch e := int32(c >> 7 & 255); {
	case e == 255:
		return entry{exp: zeroExp, special: true}
	case c&0x7fff == 0:
		return entry{exp: zeroExp}
	default:
		return entry{val: format.BF16ToFloat32(c), exp: max(e, 1) - 127}
	}
}

// LoadBits is Load for bit patterns of any floating-point format.
func (p *Panel) LoadBits(f Operand, bits []uint32, rows, k, stride int) {
	p.fit(f, rows, k)
	l := &layouts[f]
	for r := range rows {
		p.special[r] = false
		for i, c := range bits[r*stride : r*stride+k] {
			p.put(r, r*k+i, c, makeEntry(l, c))
		}
	}
}

// LoadValues loads FP32 numbers as they are, for [Unit.TileValues].
func (p *Panel) LoadValues(x []float32, rows, k, stride int) {
	p.fit(FP32, rows, k)
	l := &layouts[FP32]
	for r := range rows {
		p.special[r] = false
		for i, v := range x[r*stride : r*stride+k] {
			b := math.Float32bits(v)
			p.put(r, r*k+i, b, makeEntry(l, b))
		}
	}
}

type entry struct {
	val     float32
	exp     int32
	special bool
}

func makeEntry(l *layout, bits uint32) entry {
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
var decodeTables = func() (t [S8]*[256]entry) {
	for _, f := range []Operand{E4M3, E5M2} {
		t[f] = new([256]entry)
		for i := range t[f] {
			t[f][i] = makeEntry(&layouts[f], uint32(i))
		}
	}
	return t
}()

// Tile chains the instruction along k for every element of a tile:
// acc[i*n+j] <- c + sum_k a[i,k] b[j,k], where a has m rows and b has n, both of the
// unit's own operand format, and acc holds the accumulator's values as FP32 (an FP16
// accumulator's values are FP32-representable). It equals a chain of [Unit.Dot] bit for
// bit, but for the payload of a NaN, whatever the unit's steps, fraction bits and output
// rule; the tests hold the two together on units that no hardware has. The unit is not
// an integer one.
func (u *Unit) Tile(acc []float32, a, b *Panel) {
	if a.format != u.A || b.format != u.A {
		panic(fmt.Sprintf("tensorcore: Tile: panels of %s and %s for a unit of %s", a.format, b.format, u.A))
	}
	u.TileValues(acc, a, b)
}

// TileValues is Tile for panels of any floating-point formats, of which the two may
// differ: the unit as it would be if it took such operands. The products are exact, a
// product's exponent is the sum of its operands', each with the smallest exponent of its
// own panel's format (of values from LoadValues that of FP32, -126), and from there on
// nothing is different: terms are truncated relative to the largest exponent, added
// exactly and converted by the output rule ([Unit.DotOf] is the definition). Of values
// that are normal numbers of the unit's own format it gives what Tile gives of their
// codes; a subnormal code of a narrow format has that format's smallest exponent, its
// FP32 value a smaller one, so there the two may differ.
func (u *Unit) TileValues(acc []float32, a, b *Panel) {
	if a.k != b.k || a.k%u.K != 0 {
		panic("tensorcore: Tile: depths disagree")
	}
	if u.Out == Int32 {
		panic("tensorcore: Tile: " + u.Instruction + " is an integer unit")
	}
	p := u.plan(a.format, b.format)
	if p.order != nil {
		a, b = a.arranged(p.order), b.arranged(p.order)
	}
	n := b.rows
	for i := range a.rows {
		row := acc[i*n : i*n+n]
		for j := range row {
			if a.special[i] || b.special[j] || !isFinite(row[j]) {
				row[j] = u.slow(row[j], a, b, i, j, 0)
				continue
			}
			row[j] = u.chain(&p, row[j], a, b, i, j)
		}
	}
}

func isFinite(x float32) bool { return x-x == 0 }

// slow runs the definition for one element from index k on.
func (u *Unit) slow(c float32, a, b *Panel, i, j, k int) float32 {
	bits := u.encode(c)
	for ; k < a.k; k += u.K {
		bits = u.DotOf(bits, a.format, a.bits[i*a.k+k:][:u.K], b.format, b.bits[j*b.k+k:][:u.K])
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

// method is how the steps of a unit are computed.
type method uint8

const (
	byDefinition method = iota
	inFP32              // step32
	inFP64              // step64
	inExact             // exactStep
	split               // splitStep
)

// plan is what Tile finds out once about a unit and its operands.
type plan struct {
	method method
	// ranges are the steps as ranges of columns, and order says which k each column
	// holds: nil where that is k itself.
	ranges []span
	order  []int
}

type span struct{ lo, n int }

// plan chooses a way whose every assumption the unit and the operands' formats meet.
func (u *Unit) plan(fa, fb Operand) plan {
	var p plan
	most, seen := 0, make([]bool, u.K)
	for _, step := range u.Steps {
		p.ranges = append(p.ranges, span{len(p.order), len(step)})
		p.order = append(p.order, step...)
		most = max(most, len(step))
		for _, k := range step {
			seen[k] = true
		}
	}
	// A term is below 4 * 2^F quanta, and there is one more than products.
	bound := int64(most+1) << (max(u.FractionBits, 0) + 2)
	switch {
	case len(p.order) != u.K || slices.Contains(seen, false): // not each k once
	case (u.C == FP16) != (u.Out == FP16Nearest) || u.C != FP16 && u.C != FP32:
	case u.FractionBits == Exact:
		p.method = inExact
	case u.FractionBits < 1 || u.FractionBits > MaxFractionBits || bound > 1<<53:
	case fa <= E5M2 && fb <= E5M2 && bound <= 1<<24:
		p.method = inFP32
	case u.SeparateAdd && u.K == 32 && slices.EqualFunc(u.Steps, unpacked(32), slices.Equal):
		// The units of sm_90, which deserve not to be arranged.
		p.method, p.ranges, p.order = split, []span{{}}, nil
	default:
		p.method = inFP64
	}
	if p.method == byDefinition || slices.IsSorted(p.order) {
		p.order = nil
	}
	return p
}

// arranged returns a copy of the panel with the columns of each k values in the given
// order. The bits keep theirs.
func (p *Panel) arranged(order []int) *Panel {
	q := *p
	n := len(p.val)
	q.val, q.val32, q.exp = make([]float64, n), make([]float32, n), make([]int32, n)
	for lo := 0; lo < n; lo += len(order) {
		for i, k := range order {
			q.val[lo+i], q.val32[lo+i], q.exp[lo+i] = p.val[lo+k], p.val32[lo+k], p.exp[lo+k]
		}
	}
	return &q
}

// chain is the fast path for finite operands.
func (u *Unit) chain(p *plan, c float32, a, b *Panel, i, j int) float32 {
	ao, bo := i*a.k, j*b.k
	for k := 0; k < a.k; k += u.K {
		next, ok := float32(0), p.method != byDefinition
		if !u.SeparateAdd {
			next = c
		}
		for _, s := range p.ranges {
			if !ok {
				break
			}
			x, y := ao+k+s.lo, bo+k+s.lo
			switch p.method {
			case inFP32:
				next, ok = u.step32(next, a, b, x, y, s.n)
			case inFP64:
				next, ok = u.step64(next, a, b, x, y, s.n)
			case inExact:
				next, ok = u.exactStep(next, a.val[x:][:s.n], b.val[y:][:s.n])
			case split:
				next, ok = u.splitStep(a, b, x, y)
			}
		}
		switch {
		case !ok:
			next = u.decodeC(u.DotOf(u.encode(c), a.format, a.bits[ao+k:][:u.K], b.format, b.bits[bo+k:][:u.K]))
		case u.SeparateAdd:
			next = u.addValues(next, c)
		}
		c = next
		if !isFinite(c) {
			// Overflowed: the definition knows what infinities do.
			return u.slow(c, a, b, i, j, k+u.K)
		}
	}
	return c
}

// addValues is the closing addition of a unit with SeparateAdd.
func (u *Unit) addValues(x, y float32) float32 {
	s := x + y
	if u.C == FP16 {
		return format.RoundFP16(s)
	}
	return s
}

// Between these alignment exponents every truncated sum and the result are normal
// FP32 numbers.
const minExp32, maxExp32 = -96, 100

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

// step32 is one fused dot-add over consecutive k of FP8 operands, whose products are
// exact in FP32; scaled by 2^(F-E), the truncating conversion to an integer is the
// alignment, and the terms add up to less than 2^24.
func (u *Unit) step32(c float32, a, b *Panel, ao, bo, n int) (float32, bool) {
	ae, be := a.exp[ao:ao+n], b.exp[bo:bo+n]
	be = be[:len(ae)]
	maxExp := u.exponent32(c)
	for i, e := range ae {
		maxExp = max(maxExp, e+be[i])
	}
	if maxExp < minExp32 || maxExp > maxExp32 {
		return 0, maxExp < allZero // every term is zero and so is c
	}
	f := int32(u.FractionBits)
	scale := math.Float32frombits(uint32(127+f-maxExp) << 23)
	av, bv := a.val32[ao:ao+n], b.val32[bo:bo+n]
	bv = bv[:len(av)]
	sum := int32(c * scale)
	for i, v := range av {
		sum += int32(v * bv[i] * scale)
	}
	r := float32(sum) * math.Float32frombits(uint32(127-f+maxExp)<<23)
	switch u.Out {
	case FP22Zero:
		return format.TruncateFP22(r), true
	case FP16Nearest:
		return roundFP16(r), true
	case FP22Nearest:
		return format.RoundFP22(r), true
	}
	return r, true // exact
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
	if maxExp < minExp32 || maxExp > maxExp32 {
		return 0, maxExp < allZero
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
		if maxExp < allZero {
			continue // and c is zero
		}
		if maxExp < minExp32 || maxExp > maxExp32 {
			return 0, false
		}
		scale := math.Float64frombits(uint64(1023+f-maxExp) << 52)
		sum := int64(float64(c) * scale)
		for i := h; i+1 < 32; i += 4 {
			sum += int64(av[i]*bv[i]*scale) + int64(av[i+1]*bv[i+1]*scale)
		}
		c = u.round64(sum, maxExp-f)
	}
	return c, isFinite(c)
}

// round64 converts sum * 2^exp by the output rule; |sum| < 2^53 and the result
// is a normal FP32 number or zero, or is rounded to FP16.
func (u *Unit) round64(sum int64, exp int32) float32 {
	return u.convert(float64(sum) * math.Float64frombits(uint64(1023+exp)<<52))
}

// convert applies the output rule to x, which is zero or, but where the result is to
// nearest FP32 or FP16, of a magnitude that FP32 has as a normal number.
func (u *Unit) convert(x float64) float32 {
	switch u.Out {
	case FP32Zero:
		return towardZero(x)
	case FP22Zero:
		return format.TruncateFP22(towardZero(x))
	case FP32Nearest:
		return float32(x)
	case FP22Nearest:
		return format.RoundFP22(roundOdd(x))
	}
	return roundFP16(roundOdd(x))
}

// lowBits64 are the fraction bits of FP64 that FP32 does not have.
const lowBits64 = 1<<(52-23) - 1

// towardZero rounds to FP32 toward zero.
func towardZero(x float64) float32 {
	return float32(math.Float64frombits(math.Float64bits(x) &^ lowBits64))
}

// roundOdd rounds to FP32 toward zero and sets the last bit where x is inexact, so
// that a second rounding to a shorter format sees what it must.
func roundOdd(x float64) float32 {
	b := math.Float64bits(x)
	odd := b &^ lowBits64
	if odd != b {
		odd |= lowBits64 + 1
	}
	return float32(math.Float64frombits(odd))
}

// roundFP16 rounds to FP16 as the units do: what becomes zero loses its sign.
func roundFP16(x float32) float32 {
	return format.RoundFP16(x) + 0 // -0 + 0 is 0
}

// exactStep adds c and the products of a and b exactly as long as FP64 can hold the
// sum without error, and reports whether it could.
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
	switch {
	case s == 0:
		return 0, true
	case math.Abs(s) < 0x1p-126 && u.Out != FP16Nearest:
		return 0, false // a subnormal result, or one that loses its sign with its value
	}
	return u.convert(s), true
}
