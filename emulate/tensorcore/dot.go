package tensorcore

import (
	"math"
	"math/big"
	"math/bits"

	"github.com/sageacc/sageacc/emulate/format"
)

// term is a decoded finite number: value = sig * 2^(exp-frac), where frac is
// the fraction bits of its format. sig carries the sign.
type term struct {
	sig int64
	exp int
}

// class tells the special values apart.
type class uint8

const (
	finite class = iota
	posInf
	negInf
	nan
)

// layout describes a floating-point format for decoding.
type layout struct {
	expBits, fracBits int
	unused            int  // low bits of a pattern that do not count
	noInf             bool // E4M3: S.1111.111 is NaN, nothing else is special

	// What follows from them, of a pattern without its unused bits.
	sign, expMask, fracMask uint32
	bias                    int
}

var layouts = func() [FP32 + 1]layout {
	l := [...]layout{
		E4M3: {expBits: 4, fracBits: 3, noInf: true},
		E5M2: {expBits: 5, fracBits: 2},
		FP16: {expBits: 5, fracBits: 10},
		BF16: {expBits: 8, fracBits: 7},
		TF32: {expBits: 8, fracBits: 10, unused: 13},
		FP32: {expBits: 8, fracBits: 23},
	}
	for i := range l {
		f := &l[i]
		f.sign, f.expMask, f.fracMask = 1<<(f.expBits+f.fracBits), 1<<f.expBits-1, 1<<f.fracBits-1
		f.bias = 1<<(f.expBits-1) - 1
	}
	return l
}()

// decode splits a bit pattern. A subnormal number keeps its format's smallest
// exponent, as the hardware does.
func (l *layout) decode(b uint32) (term, class) {
	b >>= l.unused & 31
	frac, exp := b&l.fracMask, b>>(l.fracBits&31)&l.expMask
	neg := b&l.sign != 0
	if exp == l.expMask {
		switch {
		case l.noInf && frac != l.fracMask:
		case l.noInf, frac != 0:
			return term{}, nan
		case neg:
			return term{}, negInf
		default:
			return term{}, posInf
		}
	}
	if exp > 0 {
		frac |= l.fracMask + 1
	} else {
		exp = 1
	}
	t := term{int64(frac), int(exp) - l.bias}
	if neg {
		t.sig = -t.sig
	}
	return t, finite
}

// minAlignExp is the smallest exponent that terms are aligned to: that of the
// smallest BF16 number. Only products of BF16 and TF32 get below it. (Recorded on an H200
// for both, mma.sync and wgmma: with -133 none of half a million results on such operands
// differs, with -132 and -134 some of each do.)
const minAlignExp = -133

// Dot returns the result of the unit for one output element, as the bit pattern
// of C's format: c is the addend's bit pattern, a and b hold K bit patterns of
// A's format each (integers sign-extended). A NaN result is 0x7fffffff or, in
// FP16, 0x7fff.
func (u *Unit) Dot(c uint32, a, b []uint32) uint32 {
	if u.Out == Int32 {
		sum := int32(c)
		for i := range u.K {
			sum += int32(a[i]) * int32(b[i])
		}
		return uint32(sum)
	}
	return u.DotOf(c, u.A, a, u.A, b)
}

// DotOf is Dot of a floating-point unit if it took operands of the formats fa and fb,
// whose bit patterns a and b hold. A product is exact and its exponent the sum of its
// operands', each at least the smallest of its own format; all else is the unit's.
func (u *Unit) DotOf(c uint32, fa Operand, a []uint32, fb Operand, b []uint32) uint32 {
	acc := c
	if u.SeparateAdd {
		acc = 0
	}
	for _, ks := range u.Steps {
		acc = u.step(acc, &layouts[fa], a, &layouts[fb], b, ks)
	}
	if u.SeparateAdd {
		return u.add(acc, c)
	}
	return acc
}

// add is the ordinary addition, to nearest even, that ends a unit with
// SeparateAdd.
func (u *Unit) add(x, y uint32) uint32 {
	if u.C == FP16 {
		s := format.FP16ToFloat32(uint16(x)) + format.FP16ToFloat32(uint16(y))
		if s != s {
			return 0x7fff
		}
		return uint32(format.FP16FromFloat32(s))
	}
	s := math.Float32frombits(x) + math.Float32frombits(y)
	if s != s {
		return 0x7fff_ffff
	}
	return math.Float32bits(s)
}

// step is one fused dot-add over the k indices ks of a and b, of layouts la and lb.
func (u *Unit) step(c uint32, la *layout, a []uint32, lb *layout, b []uint32, ks []int) uint32 {
	lc := &layouts[u.C]
	ct, special := lc.decode(c)
	const noExp = math.MinInt32
	maxExp := noExp
	if ct.sig != 0 {
		maxExp = ct.exp
	}
	var buf [64]term
	terms := buf[:0]
	frac := la.fracBits + lb.fracBits
	for _, k := range ks {
		at, ac := la.decode(a[k])
		bt, bc := lb.decode(b[k])
		if ac != finite || bc != finite {
			special = sumClass(special, productClass(at, bt, ac, bc))
			continue
		}
		p := term{at.sig * bt.sig, at.exp + bt.exp}
		if p.sig == 0 {
			continue
		}
		maxExp = max(maxExp, p.exp)
		terms = append(terms, p)
	}
	switch special {
	case nan:
		return u.nan()
	case posInf:
		return u.inf(false)
	case negInf:
		return u.inf(true)
	}
	if maxExp == noExp {
		return 0 // +0, whatever the signs of the zeros
	}
	if u.FractionBits == Exact {
		return u.exact(ct, terms, frac)
	}
	maxExp = max(maxExp, minAlignExp)
	// Align: a term's significand has frac fraction bits and keeps FractionBits.
	f := u.FractionBits
	sum := int64(0)
	if ct.sig != 0 {
		sum = alignTrunc(ct.sig, f-lc.fracBits-(maxExp-ct.exp))
	}
	for _, t := range terms {
		sum += alignTrunc(t.sig, f-frac-(maxExp-t.exp))
	}
	return u.round(sum < 0, uint64(abs(sum)), maxExp-f)
}

// alignTrunc shifts sig left by shift, or right toward zero if it is negative.
func alignTrunc(sig int64, shift int) int64 {
	switch {
	case shift >= 0:
		return sig << shift
	case shift <= -63:
		return 0
	case sig < 0:
		return -(-sig >> -shift)
	}
	return sig >> -shift
}

func abs(x int64) int64 {
	if x < 0 {
		return -x
	}
	return x
}

// productClass is the class of a product with a special operand.
func productClass(a, b term, ac, bc class) class {
	switch {
	case ac == nan || bc == nan:
		return nan
	case ac == finite && a.sig == 0, bc == finite && b.sig == 0:
		return nan // zero times infinity
	}
	neg := ac == negInf || ac == finite && a.sig < 0
	if bc == negInf || bc == finite && b.sig < 0 {
		neg = !neg
	}
	if neg {
		return negInf
	}
	return posInf
}

// sumClass is the class of a sum of a value of class x and a special value.
func sumClass(x, y class) class {
	switch {
	case x == finite, x == y:
		return y
	}
	return nan
}

func (u *Unit) nan() uint32 {
	if u.C == FP16 {
		return 0x7fff
	}
	return 0x7fff_ffff
}

func (u *Unit) inf(neg bool) uint32 {
	b := uint32(0x7f80_0000)
	if u.C == FP16 {
		b = 0x7c00
	}
	if neg {
		b |= layouts[u.C].sign
	}
	return b
}

// round converts (-1)^neg * mag * 2^exp by the output rule. A sum that is zero, or
// rounds to zero, is +0; overflow gives infinity; subnormal results are kept (all
// as recorded on an H200).
func (u *Unit) round(neg bool, mag uint64, exp int) uint32 {
	l := &layouts[u.C]
	if mag == 0 {
		return 0
	}
	bias := l.bias
	e := exp + bits.Len64(mag) - 1 // exponent of the value
	ulp := max(e, 1-bias) - l.fracBits
	// q = mag * 2^(exp-ulp), truncated, with the remainder for rounding.
	var q uint64
	var half, sticky bool
	if shift := ulp - exp; shift <= 0 {
		q = mag << -shift
	} else if shift <= 64 {
		q = mag >> shift // 0 for shift == 64
		half = mag>>(shift-1)&1 != 0
		sticky = mag<<(65-shift) != 0
	} else {
		sticky = true
	}
	switch u.Out {
	case FP22Zero:
		q &^= format.FP22Dropped
	case FP22Nearest:
		// To odd at FP32's precision, so that the second rounding sees what it must.
		if half || sticky {
			q |= 1
		}
		low := q & format.FP22Dropped
		q &^= format.FP22Dropped
		const tie = (format.FP22Dropped + 1) / 2
		if low > tie || low == tie && q&(format.FP22Dropped+1) != 0 {
			q += format.FP22Dropped + 1
		}
	case FP16Nearest, FP32Nearest:
		if half && (sticky || q&1 != 0) {
			q++
		}
	}
	// q counts units of 2^ulp; a normal value has its hidden bit set, so adding
	// the exponent field minus one to it assembles the pattern, carries included.
	field := uint64(max(e, 1-bias)+bias-1) << l.fracBits
	p := q + field
	if p == 0 {
		return 0 // a sum that rounds to zero loses its sign
	}
	if p >= uint64(l.expMask)<<l.fracBits {
		return u.inf(neg)
	}
	r := uint32(p)
	if neg {
		r |= l.sign
	}
	return r
}

// exact sums without truncation and rounds once. The range of FP32 addends does
// not fit an integer register, so it is done in big integers: this is the ideal
// that units are compared with, not a fast path. A term has frac fraction bits.
func (u *Unit) exact(c term, terms []term, frac int) uint32 {
	cFrac := layouts[u.C].fracBits
	low := math.MaxInt32
	if c.sig != 0 {
		low = c.exp - cFrac
	}
	for _, t := range terms {
		low = min(low, t.exp-frac)
	}
	sum, x := new(big.Int), new(big.Int)
	put := func(sig int64, exp int) {
		x.SetInt64(sig)
		sum.Add(sum, x.Lsh(x, uint(exp-low)))
	}
	if c.sig != 0 {
		put(c.sig, c.exp-cFrac)
	}
	for _, t := range terms {
		put(t.sig, t.exp-frac)
	}
	neg := sum.Sign() < 0
	sum.Abs(sum)
	exp := low
	if n := sum.BitLen(); n > 62 {
		// Keep 62 bits and a sticky one: more than any output format looks at.
		shift := uint(n - 62)
		sticky := sum.TrailingZeroBits() < shift
		sum.Rsh(sum, shift)
		m := sum.Uint64() << 1
		if sticky {
			m |= 1
		}
		return u.round(neg, m, exp+int(shift)-1)
	}
	return u.round(neg, sum.Uint64(), exp)
}
