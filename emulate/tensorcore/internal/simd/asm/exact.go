package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// wide is what the registers of a level hold in FP64.
type wide struct {
	suffix string
	bytes  int // of a register, which holds as many FP32 in half
	vecs   int // of lanes in a call
	lanes  func() VecVirtual
}

var wides = []wide{{"", 64, 4, ZMM}, {"AVX2", 32, 2, YMM}}

// dotExact is a chain of instructions that add all of their products and the accumulator, and
// round once, to nearest even.
//
// Products of FP16 and of narrower formats are whole multiples of 2^-48 below 2^32. A sum that starts from
// M = 1.5 * 2^40 has 2^-12 as its last place, and what a multiply-add onto it adds is the product
// rounded to that: the difference of the sum after and before, which is exact. What the rounding lost
// is a multiply-add, too, and sums of it are exact in FP64 as well. The two sums and the accumulator
// then add to one number with a sticky last bit, from which the result is rounded.
func dotExact(w wide, half bool) {
	name := "dotExact"
	if half {
		name += "Half"
	}
	name += w.suffix
	TEXT(name, NOSPLIT, "func(acc, a, b *float32, aStride, rows, instructions, terms int) uint32")
	Doc(name+" continues the chains of acc[row][64] for some lanes and an even number of rows of A, by instructions of so many terms each.",
		"a are A's values with a stride in bytes, b [k][64] are B's. The result is not zero if a result is infinite.")
	e := &exact{wide: w, half: half, c: newConstants(name + "Constants")}
	acc, a, aStride, rows := load("acc"), load("a"), load("aStride"), load("rows")
	ap, bp, instructions, left := GP64(), GP64(), GP64(), GP64()
	e.magic, e.bad = e.splat(uint64(1023+40)<<52|1<<51), GP32()
	XORL(e.bad, e.bad)
	var high, low [pair][4]VecVirtual
	for r := range pair {
		for v := range w.vecs {
			high[r][v], low[r][v] = w.lanes(), w.lanes()
		}
	}
	Label("rows")
	MOVQ(a, ap)
	Load(Param("b"), bp)
	Load(Param("instructions"), instructions)
	Label("instruction")
	for r := range pair {
		for v := range w.vecs {
			VMOVAPD(e.magic, high[r][v])
			VXORPD(low[r][v], low[r][v], low[r][v])
		}
	}
	Load(Param("terms"), left)
	Label("product")
	var b [4]VecVirtual
	for v := range w.vecs {
		b[v] = w.lanes()
		VCVTPS2PD(Mem{Base: bp, Disp: w.bytes / 2 * v}, b[v])
	}
	for r := range pair {
		x, m := w.lanes(), Mem{Base: ap}
		if r == 1 {
			m.Index, m.Scale = aStride, 1
		}
		if w.bytes == 64 {
			VBROADCASTSS(m, x.AsY())
			VCVTPS2PD(x.AsY(), x)
		} else {
			VBROADCASTSS(m, x.AsX())
			VCVTPS2PD(x.AsX(), x)
		}
		for v := range w.vecs {
			old := w.lanes()
			VMOVAPD(high[r][v], old)
			VFMADD231PD(x, b[v], high[r][v])
			VSUBPD(old, high[r][v], old)
			VFMSUB231PD(x, b[v], old) // x*b - what was added
			VADDPD(old, low[r][v], low[r][v])
		}
	}
	ADDQ(Imm(4), ap)
	ADDQ(U32(4*lanes), bp)
	DECQ(left)
	JNZ(LabelRef("product"))
	for r := range pair {
		for v := range w.vecs {
			e.fold(high[r][v], low[r][v], Mem{Base: acc, Disp: 4*lanes*r + w.bytes/2*v})
		}
	}
	DECQ(instructions)
	JNZ(LabelRef("instruction"))
	ADDQ(U32(pair*4*lanes), acc)
	LEAQ(Mem{Base: a, Index: aStride, Scale: pair}, a)
	SUBQ(Imm(pair), rows)
	JNZ(LabelRef("rows"))
	Store(e.bad, ReturnIndex(0))
	VZEROUPPER()
	RET()
}

// exact is what dotExact shares.
type exact struct {
	wide
	half  bool
	c     *constants
	magic VecVirtual
	bad   Register
}

// splat loads 64 bits into every lane.
func (e *exact) splat(x uint64) VecVirtual {
	v := e.lanes()
	VPBROADCASTQ(e.c.u64(x), v)
	return v
}

// twoSum makes x the rounded sum of x and y, and returns what the rounding lost.
func (e *exact) twoSum(x, y VecVirtual) (lost VecVirtual) {
	sum, t, u := e.lanes(), e.lanes(), e.lanes()
	VADDPD(x, y, sum)
	VSUBPD(x, sum, t) // y as it was added
	VSUBPD(t, sum, u) // x as it was
	VSUBPD(t, y, t)
	VSUBPD(u, x, u)
	VADDPD(u, t, t)
	VMOVAPD(sum, x)
	return t
}

// odd makes x the sum of x and y, its last bit 1 where that is not exact.
func (e *exact) odd(x, y VecVirtual) {
	lost := e.twoSum(x, y)
	t := e.lanes()
	if e.bytes == 64 {
		zero, one, k := e.lanes(), e.splat(1), K()
		VXORPD(zero, zero, zero)
		VCMPPD(Imm(4), zero, lost, k)
		VPTESTNMQ(one, x, k, k)
		VPXORQ(lost, x, t)
		VPSRAQ(Imm(63), t, t)
		VPORQ(one, t, t) // 1 away from zero, -1 toward it
		VPADDQ(t, x, k, x)
		return
	}
	zero := e.lanes()
	VXORPD(zero, zero, zero)
	VPXOR(lost, x, t)
	VCMPPD(Imm(4), zero, lost, lost)
	VPCMPGTQ(t, zero, t)
	VPAND(lost, t, t)
	VPSRLQ(Imm(63), lost, lost)
	VPANDN(lost, x, lost) // 1 where it is inexact and x even
	VPSUBQ(lost, zero, zero)
	VPAND(zero, t, t)
	VPOR(lost, t, t)
	VPADDQ(t, x, x)
}

// fold adds the sums, of which high is above M, to the accumulator.
func (e *exact) fold(high, low VecVirtual, acc Mem) {
	VSUBPD(e.magic, high, high)
	rest := e.twoSum(high, low)
	c := e.lanes()
	VCVTPS2PD(acc, c)
	// Together they are at most half of the sum's last place where their own sum is rounded, so that it
	// is seen all the same that the sum is not exact.
	VADDPD(e.twoSum(high, c), rest, rest)
	e.odd(high, rest)
	if e.half {
		// Odd in FP32 as well, so that the rounding to FP16 is the only one.
		t, mask := e.lanes(), e.splat(1<<29-1)
		if e.bytes == 64 {
			k := K()
			VPTESTMQ(mask, high, k)
			VPANDNQ(high, mask, high)
			VPBROADCASTQ(e.c.u64(1<<29), t)
			VPORQ(t, high, k, high)
		} else {
			VPAND(mask, high, t)
			VPADDQ(mask, t, t) // carries where a bit is set
			VPOR(high, t, high)
			VPANDN(high, mask, high)
		}
	}
	var x VecVirtual
	if e.bytes == 64 {
		x = YMM()
		VCVTPD2PS(high, x)
	} else {
		x = XMM()
		VCVTPD2PSY(high, x)
	}
	if e.half {
		if e.bytes == 64 {
			h := XMM()
			VCVTPS2PH(Imm(0), x, h)
			VCVTPH2PS(h, x)
		} else {
			VCVTPS2PH(Imm(0), x, x)
			VCVTPH2PS(x, x)
		}
		VADDPS(e.zero(x), x, x) // -0, of a sum that rounds to zero, becomes +0
	}
	VMOVUPS(x, acc)
	e.raise(x)
}

// zero returns a register like x of zeros.
func (e *exact) zero(x VecVirtual) VecVirtual {
	var t VecVirtual = XMM()
	if e.bytes == 64 {
		t = YMM()
	}
	VXORPS(t, t, t)
	return t
}

// raise sets bits in bad for infinities of x, of which a difference from itself is a NaN.
func (e *exact) raise(x VecVirtual) {
	t, r := e.zero(x), GP32()
	VSUBPS(x, x, t)
	VCMPPS(Imm(3), t, t, t)
	VMOVMSKPS(t, r)
	ORL(r, e.bad)
}
