package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// This file generates the AVX2 kernels in FP64, 4 rows to a register: half of a strip at a time
// has its sums in registers. They round toward zero, as dot13AVX2 does.

// wideVecs is how many registers hold half of a strip's rows, halfStrip the bytes of these in
// a row of FP32.
const (
	wideVecs  = rows / 2 / 4
	halfStrip = row32 / 2
)

func wideAVX2() {
	c := newConstants("wideConstantsAVX2")
	exponentsAVX2("exponentsSplit", 16, 8, 16)
	exponentsAVX2("exponentsOctet", 8, 4, 8)
	for _, half := range []string{"", "Half"} {
		dotWideAVX2("dot25"+half, c, 25, half != "", false)
		dotWideAVX2("dot25FP16"+half, c, 25, half != "", true)
		dotWideAVX2("dot24FP16"+half, c, 24, half != "", true)
		dotExactAVX2("dotExact"+half, c, half != "")
		addSumsAVX2("addSums"+half, c, half != "")
	}
	widenAVX2()
}

// roundingAVX2 is MXCSR as it was and with rounding toward zero, which it sets.
type roundingAVX2 struct{ old, zero Mem }

func towardZero() roundingAVX2 {
	m := AllocLocal(8)
	r := roundingAVX2{m, m.Offset(4)}
	word := GP32()
	STMXCSR(r.old)
	MOVL(r.old, word)
	ORL(U32(0x6000), word)
	MOVL(word, r.zero)
	LDMXCSR(r.zero)
	return r
}

// splatQ loads a 64-bit constant into every lane: u32 has its upper half.
func splatQ(m Mem) VecVirtual {
	y := YMM()
	VPBROADCASTD(m, y)
	VPSLLQ(Imm(32), y, y)
	return y
}

// narrowY converts eight FP64 numbers to FP32, toward zero, and to FP16 to nearest if half: then
// a last bit that is set where something was lost keeps the second rounding from being wrong.
func narrowY(bad VecVirtual, x [2]VecVirtual, c *constants, half bool) VecVirtual {
	var out [2]VecVirtual
	for i := range out {
		out[i] = XMM()
		VCVTPD2PSY(x[i], out[i])
		if half {
			back, upper := YMM(), XMM()
			VCVTPS2PD(out[i], back)
			VCMPPD(Imm(4), back, x[i], back)
			VEXTRACTF128(Imm(1), back, upper)
			VPACKSSDW(upper, back.AsX(), upper)
			VPSRLD(Imm(31), upper, upper)
			VPOR(upper, out[i], out[i])
		}
	}
	y := YMM()
	VINSERTF128(Imm(1), out[1], out[0].AsY(), y)
	if half {
		roundFP16(y, c)
		VADDPS(zeroY(), y, y) // -0, of a sum that rounds to zero, becomes +0
		raiseY(bad, y, c)
	}
	return y
}

// dotWideAVX2 is dotWide. It begins at M with the positive elements, and with the accumulator
// where that is positive, and again at -M with the others, as dot13AVX2 does.
func dotWideAVX2(of string, c *constants, f int, half, matrix bool) {
	name := of + "AVX2"
	TEXT(name, NOSPLIT, "func(acc *float32, records, codes *uint8, values *float64, p *float32, e *uint8, channels, stride int, bias uint64) uint32")
	Doc(name + " is " + of + ".")
	records, values, channels := load("records"), load("values"), load("channels")
	local := AllocLocal(2 * 32 * wideVecs)
	magic := func(i int) Mem { return local.Offset(32 * i) }
	positive := func(i int) Mem { return local.Offset(32 * (wideVecs + i)) }
	mode := towardZero()
	bad := zeroY()
	Label("channel")
	part := GP64() // offset of the rows in one of FP32
	XORQ(part, part)
	Label("part")
	list, pairs := GP64(), GP64()
	ap, cp, ep, pp := wideRowsAVX2(records, values, part, matrix)
	LEAQ(Mem{Base: records, Disp: 4}, list)
	wideMagicAVX2(c, f, half, ap, ep, magic)
	var a [wideVecs]VecVirtual
	// begin starts the sums of a sign at M of that sign.
	begin := func(i int, negative bool) {
		x := YMM()
		VCVTPS2PD(Mem{Base: ap, Disp: 16 * i}, x)
		if negative {
			VMINPD(zeroY(), x, x)
			VSUBPD(magic(i), x, a[i])
			return
		}
		VMAXPD(zeroY(), x, x)
		VADDPD(magic(i), x, a[i])
	}
	for i := range a {
		a[i] = YMM()
		begin(i, false)
	}
	element := func(k int) {
		key, v := GP64(), YMM()
		MOVBQZX(Mem{Base: list, Disp: k}, key)
		if matrix {
			VBROADCASTSD(Mem{Base: cp, Index: key, Scale: 8}, v)
		} else {
			code := GP64()
			MOVBQZX(Mem{Base: cp, Index: key, Scale: 1}, code)
			VBROADCASTSD(Mem{Base: values, Index: code, Scale: 8}, v)
		}
		SHLQ(Imm(8), key)
		for i := range a {
			x := YMM()
			VCVTPS2PD(Mem{Base: pp, Index: key, Scale: 1, Disp: 16 * i}, x)
			VFMADD231PD(x, v, a[i])
		}
	}
	loop := func(label string, count int) {
		MOVBQZX(Mem{Base: records, Disp: count}, pairs)
		TESTQ(pairs, pairs)
		JZ(LabelRef(label + "End"))
		Label(label)
		element(0)
		element(1)
		ADDQ(Imm(2), list)
		DECQ(pairs)
		JNZ(LabelRef(label))
		Label(label + "End")
	}
	loop("positive", 1)
	element(0)
	for i := range a {
		VSUBPD(magic(i), a[i], a[i])
		VMOVUPD(a[i], positive(i))
		begin(i, true)
	}
	element(1)
	ADDQ(Imm(2), list)
	loop("negative", 2)
	for i := range a {
		VADDPD(magic(i), a[i], a[i])
		VADDPD(positive(i), a[i], a[i])
	}
	for i := 0; i < wideVecs; i += 2 {
		VMOVUPS(narrowY(bad, [2]VecVirtual{a[i], a[i+1]}, c, half), Mem{Base: ap, Disp: 16 * i})
	}
	ADDQ(U32(halfStrip), part)
	CMPQ(part, U32(row32))
	JNE(LabelRef("part"))
	ADDQ(NewParamAddr("stride", 56), records)
	DECQ(channels)
	JNZ(LabelRef("channel"))
	LDMXCSR(mode.old)
	retBad(bad)
}

// wideRowsAVX2 returns where the accumulator, the codes or values, and the exponents of the
// channel of a record begin, and P~, for the rows from part on.
func wideRowsAVX2(records, values, part Register, matrix bool) (ap, cp, ep, pp Register) {
	ap, cp, ep, pp = GP64(), GP64(), GP64(), GP64()
	MOVBQZX(Mem{Base: records}, ap)
	MOVQ(ap, cp)
	SHLQ(Imm(6), ap)
	MOVQ(part, ep)
	SHRQ(Imm(2), ep)
	ADDQ(ap, ep)
	SHLQ(Imm(2), ap)
	if matrix {
		MOVQ(ap, cp)
		ADDQ(values, cp)
	} else {
		SHLQ(Imm(5), cp)
		ADDQ(NewParamAddr("codes", 16), cp)
	}
	ADDQ(NewParamAddr("e", 40), ep)
	ADDQ(NewParamAddr("acc", 0), ap)
	ADDQ(part, ap)
	MOVQ(NewParamAddr("p", 32), pp)
	ADDQ(part, pp)
	return ap, cp, ep, pp
}

// wideMagicAVX2 writes M of half of a strip's rows, with accumulators at acc and the largest
// exponents of products at e.
func wideMagicAVX2(c *constants, f int, half bool, acc, e Register, magic func(int) Mem) {
	bias := YMM()
	VMOVQ(Load(Param("bias"), GP64()), bias.AsX())
	VPBROADCASTD(bias.AsX(), bias)
	toMagic := splatQ(c.u32(uint32((uint64(1023-127+52-f)<<52 | 1<<51) >> 32)))
	for i := 0; i < wideVecs; i += 2 {
		max, t, upper := YMM(), YMM(), YMM()
		VPMOVZXBD(Mem{Base: e, Disp: 4 * i}, max)
		VPSUBD(bias, max, max)
		VMOVDQU(Mem{Base: acc, Disp: 16 * i}, t)
		VPSLLD(Imm(1), t, t)
		VPSRLD(Imm(24), t, t)
		if half {
			// An FP16 subnormal has the smallest exponent; zero has none.
			zero, low := YMM(), YMM()
			VPCMPEQD(zeroY(), t, zero)
			VPMAXSD(splatY(c.u32(127-14)), t, low)
			VPANDN(low, zero, t)
		}
		VPMAXSD(t, max, max)
		VPMAXSD(splatY(c.u32(31)), max, max)
		VEXTRACTI128(Imm(1), max, upper.AsX())
		for h, m := range []VecVirtual{max, upper} {
			VPMOVZXDQ(m.AsX(), m)
			VPSLLQ(Imm(52), m, m)
			VPADDQ(toMagic, m, m)
			VMOVDQU(m, magic(i+h))
		}
	}
}

// dotExactAVX2 is dotExact. The sums are exact, whatever the rounding. Of a sum s of x and y toward
// zero that loses something, s - y is not x: what is lost has the sign of s, which is that of the
// larger. If that is x, s - y is nearer to zero; if it is y, s - y is exact.
func dotExactAVX2(of string, c *constants, half bool) {
	name := of + "AVX2"
	TEXT(name, NOSPLIT, "func(acc *float32, codes *uint8, values *float64, p *float32, channels int) uint32")
	Doc(name + " is " + of + ".")
	acc, codes, values, channels := load("acc"), load("codes"), load("values"), load("channels")
	mode := towardZero()
	bad := zeroY()
	Label("channel")
	part, pp := GP64(), GP64()
	XORQ(part, part)
	Label("part")
	MOVQ(NewParamAddr("p", 24), pp)
	ADDQ(part, pp)
	var a [wideVecs]VecVirtual
	for i := range a {
		a[i] = zeroY()
	}
	for key := range 32 {
		code, v := GP64(), YMM()
		MOVBQZX(Mem{Base: codes, Disp: key}, code)
		VBROADCASTSD(Mem{Base: values, Index: code, Scale: 8}, v)
		for i := range a {
			x := YMM()
			VCVTPS2PD(Mem{Base: pp, Disp: key*row32 + 16*i}, x)
			VFMADD231PD(x, v, a[i])
		}
	}
	at := func(i int) Mem { return Mem{Base: acc, Index: part, Scale: 1, Disp: 16 * i} }
	for i := range a {
		x, s, lost := YMM(), YMM(), YMM()
		VCVTPS2PD(at(i), x)
		VADDPD(x, a[i], s)
		if !half { // whose sums are exact
			VSUBPD(a[i], s, lost)
			VCMPPD(Imm(4), x, lost, lost)
			VPSRLQ(Imm(63), lost, lost)
			VPOR(lost, s, s)
		}
		VMOVAPD(s, a[i])
	}
	if !half {
		LDMXCSR(mode.old) // the sticky last bit leaves one rounding
	}
	for i := 0; i < wideVecs; i += 2 {
		VMOVUPS(narrowY(bad, [2]VecVirtual{a[i], a[i+1]}, c, half), at(i))
	}
	if !half {
		LDMXCSR(mode.zero)
	}
	ADDQ(U32(halfStrip), part)
	CMPQ(part, U32(row32))
	JNE(LabelRef("part"))
	ADDQ(U32(row32), acc)
	ADDQ(Imm(32), codes)
	DECQ(channels)
	JNZ(LabelRef("channel"))
	LDMXCSR(mode.old)
	retBad(bad)
}

func addSumsAVX2(of string, c *constants, half bool) {
	name := of + "AVX2"
	TEXT(name, NOSPLIT, "func(acc, sums *float32, channels int) uint32")
	Doc(name + " is " + of + ".")
	acc, sums, channels := load("acc"), load("sums"), load("channels")
	bad := zeroY()
	Label("channel")
	for i := range yvecs {
		x := YMM()
		VMOVUPS(Mem{Base: acc, Disp: 32 * i}, x)
		VADDPS(Mem{Base: sums, Disp: 32 * i}, x, x)
		if half {
			roundFP16(x, c)
			raiseY(bad, x, c)
		}
		VMOVUPS(x, Mem{Base: acc, Disp: 32 * i})
		VMOVUPS(zeroY(), Mem{Base: sums, Disp: 32 * i})
	}
	ADDQ(U32(row32), acc)
	ADDQ(U32(row32), sums)
	DECQ(channels)
	JNZ(LabelRef("channel"))
	retBad(bad)
}

func widenAVX2() {
	TEXT("widenAVX2", NOSPLIT, "func(dst *float64, src *uint16, groups int)")
	Doc("widenAVX2 is widen.")
	dst, src, groups := load("dst"), load("src"), load("groups")
	Label("group")
	for i := range 8 {
		x, y := XMM(), YMM()
		VCVTPH2PS(Mem{Base: src, Disp: 8 * i}, x)
		VCVTPS2PD(x, y)
		VMOVUPD(y, Mem{Base: dst, Disp: 32 * i})
	}
	ADDQ(U32(256), dst)
	ADDQ(Imm(64), src)
	DECQ(groups)
	JNZ(LabelRef("group"))
	VZEROUPPER()
	RET()
}

// exponentsAVX2 is exponents, whose exponents of P~ it reads for every channel.
func exponentsAVX2(of string, n, run, stride int) {
	name := of + "AVX2"
	TEXT(name, NOSPLIT, "func(e, pe, codes *uint8, table *uint32, channels int, keep uint32)")
	Doc(name + " is " + of + ".")
	key := func(i int) int { return i%run + i/run*stride }
	e, pe, codes, table, channels := load("e"), load("pe"), load("codes"), load("table"), load("channels")
	keep := argumentY("keep")
	Label("channel")
	var max [2]VecVirtual
	for h := range max {
		max[h] = YMM()
		VPAND(Mem{Base: e, Disp: 32 * h}, keep, max[h])
	}
	for i := range n {
		code, v := GP64(), YMM()
		MOVBQZX(Mem{Base: codes, Disp: key(i)}, code)
		VPBROADCASTD(Mem{Base: table, Index: code, Scale: 4}, v)
		for h := range max {
			x := YMM()
			VPADDB(Mem{Base: pe, Disp: key(i)*row8 + 32*h}, v, x)
			VPMAXUB(x, max[h], max[h])
		}
	}
	for h := range max {
		VMOVDQU(max[h], Mem{Base: e, Disp: 32 * h})
	}
	ADDQ(Imm(64), e)
	ADDQ(Imm(32), codes)
	DECQ(channels)
	JNZ(LabelRef("channel"))
	VZEROUPPER()
	RET()
}
