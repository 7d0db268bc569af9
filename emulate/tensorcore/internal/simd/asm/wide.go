package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// dotWide is dotLanes for operands whose products FP32 does not hold, and lanes of B that are not negative.
//
// With the largest exponent E of an output's terms, M = 2^(52+E-F) has 2^(E-F) as its last place. A
// multiply-add onto M that rounds toward zero drops of a product what the unit drops: of one that is
// positive. Others go to a sum from -M, the same way. An element of A has the same sign for all lanes, so
// that it is here twice, as what it is above zero and below: the other is zero, which changes nothing.
func dotWide(w wide, half, separate bool) {
	name := "dotWide"
	if half {
		name += "Half"
	}
	if separate {
		name += "Separate"
	}
	name += w.suffix
	TEXT(name, NOSPLIT, "func(acc *float32, a *float64, ae *uint32, b *float32, be *int16, aStride, aeStride, rows, instructions, steps, terms int, fraction, keep uint32) uint32")
	Doc(name+" continues the chains of acc[row][64] for some lanes and an even number of rows of A, by instructions of steps of terms, a",
		"multiple of 4, each. a are A's values, [pair of rows][k][4]: of each row its positive part and its negative one, with a stride of pairs",
		"in bytes; ae are its exponents, b and be [k][64] are B's. fraction is the number of fraction bits, keep the bits that a result",
		"keeps. The result is not zero if an element is not valid.")
	k := &wideKernel{wide: w, half: half, separate: separate, c: newConstants(name + "Constants")}
	k.prologue()
	Label("rows")
	MOVQ(k.a, k.ap)
	MOVQ(k.ae, k.aep)
	Load(Param("b"), k.bp)
	Load(Param("be"), k.bep)
	Load(Param("instructions"), k.instructions)
	Label("instruction")
	if separate {
		zero := k.part()
		k.zero(zero)
		for r := range pair {
			for v := range wideVecs {
				VMOVUPS(zero, k.x(r, v))
			}
		}
	}
	Load(Param("steps"), k.steps)
	Label("step")
	k.exponents()
	k.products()
	for r := range pair {
		for v := range wideVecs {
			k.result(r, v)
		}
	}
	DECQ(k.steps)
	JNZ(LabelRef("step"))
	if separate {
		k.addWhole()
	}
	DECQ(k.instructions)
	JNZ(LabelRef("instruction"))
	ADDQ(U32(pair*4*lanes), k.acc)
	aStride := GP64()
	Load(Param("aStride"), aStride)
	ADDQ(aStride, k.a)
	LEAQ(Mem{Base: k.ae, Index: k.aeStride, Scale: pair}, k.ae)
	SUBQ(Imm(pair), k.rows)
	JNZ(LabelRef("rows"))
	if !k.evex() {
		LDMXCSR(k.mode.old)
	}
	bad := GP32()
	MOVL(k.bad, bad)
	Store(bad, ReturnIndex(0))
	VZEROUPPER()
	RET()
}

// wideVecs is how many registers of lanes a call takes.
const wideVecs = 2

// wideKernel are the registers of dotWide: sums from M and from -M of each row and vector.
type wideKernel struct {
	wide
	half, separate               bool
	c                            *constants
	mode                         rounding
	local                        Mem // of the sums of a separate unit
	acc, a, ae, ap, aep, bp, bep Register
	aeStride, rows               Register
	instructions, steps, left    Register
	toMagic                      Mem // what an exponent becomes that of M by
	above, below                 [pair][wideVecs]VecVirtual
	bad                          Mem // bits of elements that are not valid
}

func (k *wideKernel) evex() bool { return k.bytes == 64 }

// part is a register of as many FP32 lanes as a whole one has in FP64.
func (k *wideKernel) part() VecVirtual {
	if k.evex() {
		return YMM()
	}
	return XMM()
}

// zero clears a register.
func (k *wideKernel) zero(x VecVirtual) {
	if k.evex() {
		VPXORD(x, x, x)
	} else {
		VPXOR(x, x, x)
	}
}

// word is 32 bits in all lanes of a part.
func (k *wideKernel) word(x uint32) VecVirtual {
	v := k.part()
	VPBROADCASTD(k.c.u32(x), v)
	return v
}

// x is where the sums that a step continues lie.
func (k *wideKernel) x(r, v int) Mem {
	if k.separate {
		return k.local.Offset(k.bytes / 2 * (wideVecs*r + v))
	}
	return k.whole(r, v)
}

// whole is where the results lie.
func (k *wideKernel) whole(r, v int) Mem { return Mem{Base: k.acc, Disp: 4*lanes*r + k.bytes/2*v} }

func (k *wideKernel) prologue() {
	if !k.evex() {
		k.mode = newRounding()
	}
	if k.separate {
		k.local = AllocLocal(k.bytes / 2 * wideVecs * pair)
	}
	k.acc, k.a, k.ae = load("acc"), load("a"), load("ae")
	k.aeStride, k.rows = load("aeStride"), load("rows")
	k.ap, k.aep, k.bp, k.bep = GP64(), GP64(), GP64(), GP64()
	k.instructions, k.steps, k.left, k.bad = GP64(), GP64(), GP64(), AllocLocal(8)
	MOVL(U32(0), k.bad)
	f, magic := GP32(), GP64()
	Load(Param("fraction"), f)
	MOVQ(U32(1023+52-bias), magic)
	SUBQ(f.As64(), magic)
	k.toMagic = AllocLocal(8)
	MOVQ(magic, k.toMagic)
	for r := range pair {
		for v := range wideVecs {
			k.above[r][v], k.below[r][v] = k.lanes(), k.lanes()
		}
	}
}

// exponents finds a step's largest exponents, and with them the sums' beginnings.
func (k *wideKernel) exponents() {
	words := func() VecVirtual { // of all lanes of a call
		if k.evex() {
			return YMM()
		}
		return XMM()
	}
	var top [pair]VecVirtual
	for r := range top {
		top[r] = words()
		VPBROADCASTD(k.c.u32(0x80008000), top[r])
	}
	Load(Param("terms"), k.left)
	Label("exponent")
	for i := range 4 {
		be := words()
		if k.evex() {
			VMOVDQU32(Mem{Base: k.bep, Disp: 2 * lanes * i}, be)
		} else {
			VMOVDQU(Mem{Base: k.bep, Disp: 2 * lanes * i}, be)
		}
		for r := range top {
			t, m := words(), Mem{Base: k.aep, Disp: 4 * i}
			if r == 1 {
				m.Index, m.Scale = k.aeStride, 1
			}
			VPBROADCASTD(m, t)
			VPADDW(be, t, t)
			VPMAXSW(t, top[r], top[r])
		}
	}
	ADDQ(Imm(16), k.aep)
	ADDQ(U32(4*2*lanes), k.bep)
	SUBQ(Imm(4), k.left)
	JNZ(LabelRef("exponent"))
	for r := range pair {
		for v := range wideVecs {
			e, t := k.part(), XMM()
			switch {
			case v == 0:
				t = top[r].AsX().(VecVirtual)
			case k.evex():
				VEXTRACTI32X4(Imm(1), top[r], t)
			default:
				VPSRLDQ(Imm(8), top[r], t)
			}
			VPMOVSXWD(t, e)
			k.begin(r, v, e)
		}
	}
}

// begin starts the sums of x, with the largest exponents e of its step's products.
func (k *wideKernel) begin(r, v int, e VecVirtual) {
	const leastAlign = bias - 133
	x, t, least := k.part(), k.part(), uint32(1)
	if k.half {
		least = bias - 14
	}
	VMOVUPS(k.x(r, v), x)
	VPSLLD(Imm(1), x, t)
	if k.evex() {
		zero, high := K(), K()
		VPTESTNMD(t, t, zero)
		VPSRLD(Imm(24), t, t)
		VPMAXSD_BCST(k.c.u32(least), t, t)
		VPBROADCASTD(k.c.u32(zeroLane), zero, t)
		VPMAXSD(t, e, e)
		VPCMPD_BCST(Imm(6), k.c.u32(highLane), e, high)
		g := GP32()
		KMOVW(high, g)
		ORL(g, k.bad)
	} else {
		zero, g := k.part(), GP32()
		k.zero(zero)
		VPCMPEQD(zero, t, zero)
		VPSRLD(Imm(24), t, t)
		VPMAXSD(k.word(least), t, t)
		VPBLENDVB(zero, k.word(zeroLane), t, t)
		VPMAXSD(t, e, e)
		VPCMPGTD(k.word(highLane), e, t)
		VMOVMSKPS(t, g)
		ORL(g, k.bad)
	}
	VPMAXSD(k.word((leastAlign)&0xffffffff), e, e)
	m, c, zero := k.lanes(), k.lanes(), k.lanes()
	VPMOVSXDQ(e, m)
	by := k.lanes()
	VPBROADCASTQ(k.toMagic, by)
	VPADDQ(by, m, m)
	VPSLLQ(Imm(52), m, m)
	VCVTPS2PD(x, c)
	k.zero(zero)
	p := k.lanes()
	VMAXPD(zero, c, p)
	VMINPD(zero, c, c)
	if k.evex() {
		VADDPD_RZ_SAE(m, p, k.above[r][v])
		VSUBPD_RZ_SAE(m, c, k.below[r][v])
	} else {
		VADDPD(m, p, k.above[r][v])
		VSUBPD(m, c, k.below[r][v])
	}
}

func (k *wideKernel) products() {
	Load(Param("terms"), k.left)
	Label("product")
	for i := range 2 {
		var b [wideVecs]VecVirtual
		for v := range wideVecs {
			b[v] = k.lanes()
			VCVTPS2PD(Mem{Base: k.bp, Disp: 4*lanes*i + k.bytes/2*v}, b[v])
		}
		for r := range pair {
			for s, sums := range []*[wideVecs]VecVirtual{&k.above[r], &k.below[r]} {
				x := k.lanes()
				VBROADCASTSD(Mem{Base: k.ap, Disp: 32*i + 16*r + 8*s}, x)
				for v := range wideVecs {
					if k.evex() {
						VFMADD231PD_RZ_SAE(x, b[v], sums[v])
					} else {
						VFMADD231PD(x, b[v], sums[v])
					}
				}
			}
		}
	}
	ADDQ(Imm(2*32), k.ap)
	ADDQ(U32(2*4*lanes), k.bp)
	SUBQ(Imm(2), k.left)
	JNZ(LabelRef("product"))
}

// result converts a sum by the output rule.
func (k *wideKernel) result(r, v int) {
	s, below, m := k.above[r][v], k.below[r][v], k.lanes()
	VPBROADCASTQ(k.c.u64(0x7ff<<52), m)
	VANDPD(s, m, m)
	VSUBPD(m, s, s)
	VADDPD(m, below, below)
	VADDPD(below, s, s)
	x, zero := k.part(), k.part()
	if k.evex() {
		VCVTPD2PS_RZ_SAE(s, x)
	} else {
		VCVTPD2PSY(s, x)
	}
	if k.half {
		// A last bit that is set where something was lost keeps the second rounding from being wrong.
		back := k.lanes()
		VCVTPS2PD(x, back)
		if k.evex() {
			inexact := K()
			VCMPPD(Imm(4), back, s, inexact)
			VPORD_BCST(k.c.u32(1), x, inexact, x)
		} else {
			high, low := XMM(), back.AsX()
			VCMPPD(Imm(4), back, s, back)
			VEXTRACTF128(Imm(1), back, high)
			VSHUFPS(Imm(0x88), high, low, high)
			VPAND(k.word(1), high, high)
			VPOR(high, x, x)
		}
		k.roundHalf(x)
	} else {
		keep, g := k.part(), GP32()
		Load(Param("keep"), g)
		if k.evex() {
			VPBROADCASTD(g, keep)
			VPANDD(keep, x, x)
		} else {
			VMOVD(g, keep)
			VPBROADCASTD(keep, keep)
			VPAND(keep, x, x)
		}
	}
	k.zero(zero)
	VADDPS(zero, x, x) // -0, of a sum that rounds to zero, becomes +0
	if k.half {
		k.raise(x)
	}
	VMOVUPS(x, k.x(r, v))
}

// roundHalf rounds to FP16, to nearest even.
func (k *wideKernel) roundHalf(x VecVirtual) {
	h := x.AsX()
	VCVTPS2PH(Imm(0), x, h)
	VCVTPH2PS(h, x)
}

// raise sets bits in bad for lanes of x that are not finite.
func (k *wideKernel) raise(x VecVirtual) {
	t, g := k.part(), GP32()
	VSUBPS(x, x, t)
	if k.evex() {
		nan := K()
		VCMPPS(Imm(3), t, t, nan)
		KMOVW(nan, g)
	} else {
		VCMPPS(Imm(3), t, t, t)
		VMOVMSKPS(t, g)
	}
	ORL(g, k.bad)
}

// addWhole ends an instruction of a separate unit.
func (k *wideKernel) addWhole() {
	if !k.evex() {
		LDMXCSR(k.mode.old)
	}
	for r := range pair {
		for v := range wideVecs {
			x := k.part()
			VMOVUPS(k.whole(r, v), x)
			VADDPS(k.x(r, v), x, x)
			if k.half {
				k.roundHalf(x)
			}
			k.raise(x)
			VMOVUPS(x, k.whole(r, v))
		}
	}
	if !k.evex() {
		LDMXCSR(k.mode.zero)
	}
}
