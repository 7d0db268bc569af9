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
	noInf             bool // E4M3: S.1111.111 is NaN, nothing else is special
	unused            int  // low bits of a pattern that do not count
}

var layouts = [...]layout{
	E4M3: {expBits: 4, fracBits: 3, noInf: true},
	E5M2: {expBits: 5, fracBits: 2},
	FP16: {expBits: 5, fracBits: 10},
	BF16: {expBits: 8, fracBits: 7},
	TF32: {expBits: 8, fracBits: 10, unused: 13},
	FP32: {expBits: 8, fracBits: 23},
}

// decode splits a bit pattern. A subnormal number keeps its format's smallest
// exponent, as the hardware does.
func (l layout) decode(b uint32) (term, class) {
	b >>= l.unused
	frac := int64(b) & (1<<l.fracBits - 1)
	exp := int(b>>l.fracBits) & (1<<l.expBits - 1)
	neg := b>>(l.fracBits+l.expBits)&1 != 0
	top := 1<<l.expBits - 1
	if l.noInf {
		if exp == top && frac == 1<<l.fracBits-1 {
			return term{}, nan
		}
	} else if exp == top {
		switch {
		case frac != 0:
			return term{}, nan
		case neg:
			return term{}, negInf
		}
		return term{}, posInf
	}
	bias := 1<<(l.expBits-1) - 1
	if exp > 0 {
		frac |= 1 << l.fracBits
	} else {
		exp = 1
	}
	if neg {
		frac = -frac
	}
	return term{frac, exp - bias}, finite
}

// minAlignExp is the smallest exponent that terms are aligned to: that of the
// smallest BF16 number. Only products of BF16 get below it. (Recorded on an H200:
// with -133 none of a million results on such operands differs, with -132 and -134
// some do.)
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
	acc := c
	if u.SeparateAdd {
		acc = 0
	}
	for _, step := range u.Steps {
		acc = u.step(acc, a, b, step)
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

// step is one fused dot-add over the k indices ks.
func (u *Unit) step(c uint32, a, b []uint32, ks []int) uint32 {
	la, lc := layouts[u.A], layouts[u.C]
	ct, special := lc.decode(c)
	const noExp = math.MinInt32
	maxExp := noExp
	if ct.sig != 0 {
		maxExp = ct.exp
	}
	var terms [64]term
	n := 0
	for _, k := range ks {
		at, ac := la.decode(a[k])
		bt, bc := la.decode(b[k])
		if ac != finite || bc != finite {
			special = sumClass(special, productClass(at, bt, ac, bc))
			continue
		}
		p := term{at.sig * bt.sig, at.exp + bt.exp}
		if p.sig == 0 {
			continue
		}
		maxExp = max(maxExp, p.exp)
		terms[n] = p
		n++
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
		return u.exact(ct, terms[:n], la, lc)
	}
	maxExp = max(maxExp, minAlignExp)
	// Align: a term's significand has frac fraction bits and keeps FractionBits.
	f := u.FractionBits
	sum := int64(0)
	if ct.sig != 0 {
		sum = alignTrunc(ct.sig, f-lc.fracBits-(maxExp-ct.exp))
	}
	for _, t := range terms[:n] {
		sum += alignTrunc(t.sig, f-2*la.fracBits-(maxExp-t.exp))
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
		b |= 1 << (layouts[u.C].expBits + layouts[u.C].fracBits)
	}
	return b
}

// round converts (-1)^neg * mag * 2^exp by the output rule. A sum that is zero, or
// rounds to zero, is +0; overflow gives infinity; subnormal results are kept (all
// as recorded on an H200).
func (u *Unit) round(neg bool, mag uint64, exp int) uint32 {
	l := layouts[u.C]
	if mag == 0 {
		return 0
	}
	bias := 1<<(l.expBits-1) - 1
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
		q &^= 0x3ff
	case FP22Nearest:
		low := q & 0x3ff
		q &^= 0x3ff
		if low > 0x200 || low == 0x200 && (half || sticky || q&0x400 != 0) {
			q += 0x400
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
	if p >= uint64(1<<l.expBits-1)<<l.fracBits {
		return u.inf(neg)
	}
	r := uint32(p)
	if neg {
		r |= 1 << (l.expBits + l.fracBits)
	}
	return r
}

// exact sums without truncation and rounds once. The range of FP32 addends does
// not fit an integer register, so it is done in big integers: this is the ideal
// that units are compared with, not a fast path.
func (u *Unit) exact(c term, terms []term, la, lc layout) uint32 {
	low := math.MaxInt32
	if c.sig != 0 {
		low = c.exp - lc.fracBits
	}
	for _, t := range terms {
		low = min(low, t.exp-2*la.fracBits)
	}
	sum, x := new(big.Int), new(big.Int)
	put := func(sig int64, exp int) {
		x.SetInt64(sig)
		sum.Add(sum, x.Lsh(x, uint(exp-low)))
	}
	if c.sig != 0 {
		put(c.sig, c.exp-lc.fracBits)
	}
	for _, t := range terms {
		put(t.sig, t.exp-2*la.fracBits)
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
