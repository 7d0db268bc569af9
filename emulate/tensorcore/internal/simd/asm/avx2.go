package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// This file generates the AVX2 kernels, with 8 lanes to a register and 16 of these: a call takes
// half as many columns, masks are vectors, and sums that come in wait in memory. The conversions
// toward zero are MXCSR's rounding, which the kernels set but for the additions of a separate
// unit.

// yvecs is how many vectors of lanes a call takes.
const yvecs = 2

func avx2() {
	c := newConstants("constantsAVX2")
	exponentsAVX2("laneExponentsAVX2", c, false)
	exponentsAVX2("rowExponentsAVX2", c, true)
	for _, k := range []struct {
		suffix         string
		half, separate bool
	}{{"", false, false}, {"Separate", false, true}, {"Half", true, false}, {"HalfSeparate", true, true}} {
		dotTileAVX2("dotTile"+k.suffix+"AVX2", c, k.half, k.separate)
		dotLanesAVX2("dotLanes"+k.suffix+"AVX2", c, k.half, k.separate)
	}
}

// splatY loads 32 bits into every lane.
func splatY(m Mem) VecVirtual {
	y := YMM()
	VPBROADCASTD(m, y)
	return y
}

// argumentY loads an argument of 32 bits into every lane.
func argumentY(name string) VecVirtual {
	m, err := Param(name).Resolve()
	if err != nil {
		panic(err)
	}
	y := YMM()
	VBROADCASTSS(m.Addr, y)
	return y
}

// zeroY returns a register of zeros.
func zeroY() VecVirtual {
	y := YMM()
	VPXOR(y, y, y)
	return y
}

// retBad returns whether a bit of bad is set.
func retBad(bad VecVirtual) {
	r := GP32()
	VPCMPEQD(zeroY(), bad, bad)
	VMOVMSKPS(bad, r)
	XORL(Imm(255), r)
	Store(r, ReturnIndex(0))
	VZEROUPPER()
	RET()
}

// rounding is MXCSR as it was and with rounding toward zero.
type rounding struct{ old, zero Mem }

func newRounding() rounding {
	m := AllocLocal(8)
	r := rounding{m, m.Offset(4)}
	word := GP32()
	STMXCSR(r.old)
	MOVL(r.old, word)
	ORL(U32(0x6000), word)
	MOVL(word, r.zero)
	LDMXCSR(r.zero)
	return r
}

// exponentsAVX2 is laneExponents and rowExponents.
func exponentsAVX2(name string, c *constants, row bool) {
	kind, of := "*int16", "laneExponents"
	if row {
		kind, of = "*uint32", "rowExponents"
	}
	TEXT(name, NOSPLIT, "func(dst "+kind+", x *float32, groups int, least, dropped uint32, quanta, largest float32) uint32")
	Doc(name + " is " + of + ".")
	dst, x, groups := load("dst"), load("x"), load("groups")
	least, dropped := argumentY("least"), argumentY("dropped")
	quanta, largest := argumentY("quanta"), argumentY("largest")
	nothing, bad := splatY(c.u32(zeroLane)), zeroY()
	Label("group")
	var e [2]VecVirtual
	for i := range e {
		t, y, whole := YMM(), YMM(), YMM()
		e[i] = YMM()
		VMOVUPS(Mem{Base: x, Disp: 32 * i}, t)
		VPAND(dropped, t, y)
		VPOR(y, bad, bad)
		VMULPS(quanta, t, y)
		VROUNDPS(Imm(8), y, whole)
		VCMPPS(Imm(4), y, whole, y)
		VPOR(y, bad, bad)
		VPSLLD(Imm(1), t, t)
		VPSRLD(Imm(1), t, y)
		VCMPPS(Imm(6), largest, y, y) // not at most
		VPOR(y, bad, bad)
		VPSRLD(Imm(24), t, e[i])
		VPMAXSD(least, e[i], e[i])
		if row {
			VPSUBD(splatY(c.u32(bias)), e[i], e[i])
		}
		VPCMPEQD(zeroY(), t, t)
		VPBLENDVB(t, nothing, e[i], e[i])
		if row {
			VPSLLD(Imm(16), e[i], t)
			VPBLENDW(Imm(0xaa), t, e[i], e[i])
			VMOVDQU(e[i], Mem{Base: dst, Disp: 32 * i})
		}
	}
	if row {
		ADDQ(Imm(64), dst)
	} else {
		VPACKSSDW(e[1], e[0], e[0])
		VPERMQ(Imm(0xd8), e[0], e[0])
		VMOVDQU(e[0], Mem{Base: dst})
		ADDQ(Imm(32), dst)
	}
	ADDQ(Imm(64), x)
	DECQ(groups)
	JNZ(LabelRef("group"))
	retBad(bad)
}

// exponentY returns the biased exponents of x, of FP16 numbers if half, and a negative number
// beyond all others for zeros.
func exponentY(x VecVirtual, c *constants, half bool) VecVirtual {
	t, zero := YMM(), YMM()
	VPSLLD(Imm(1), x, t)
	VPCMPEQD(zeroY(), t, zero)
	VPSLLD(Imm(30), zero, zero)
	VPSRLD(Imm(24), t, t)
	if half {
		VPMAXSD(splatY(c.u32(bias-14)), t, t)
	}
	VPOR(zero, t, t)
	return t
}

// beyondY sets in bad the lanes of e above high, and those below low and not below allZero.
func beyondY(bad, e VecVirtual, c *constants, low, high, allZero uint32) {
	t, u := YMM(), YMM()
	VPCMPGTD(splatY(c.u32(high)), e, t)
	VPOR(t, bad, bad)
	VPCMPGTD(e, splatY(c.u32(low)), t)
	VPCMPGTD(e, splatY(c.u32(allZero)), u)
	VPANDN(t, u, t)
	VPOR(t, bad, bad)
}

// halfY rounds to FP16, to nearest even, and sets in bad the lanes that are not finite.
func halfY(bad, x VecVirtual, c *constants) {
	VCVTPS2PH(Imm(0), x, x.AsX())
	VCVTPH2PS(x.AsX(), x)
	infinite, t := splatY(c.u32(0x7f800000)), YMM()
	VPAND(infinite, x, t)
	VPCMPEQD(infinite, t, t)
	VPOR(t, bad, bad)
}

// addWholeY ends an instruction of a separate unit: it adds x to the sum in memory, to nearest.
func addWholeY(bad, x VecVirtual, sum Mem, c *constants, half bool) {
	VADDPS(sum, x, x)
	if half {
		halfY(bad, x, c)
	} else {
		infinite, t := splatY(c.u32(0x7f800000)), YMM()
		VPAND(infinite, x, t)
		VPCMPEQD(infinite, t, t)
		VPOR(t, bad, bad)
	}
	VMOVUPS(x, sum)
}

// dotTileAVX2 is dotTile.
func dotTileAVX2(name string, c *constants, half, separate bool) {
	TEXT(name, NOSPLIT, "func(acc, a *float32, ae *int32, b *float32, be *int32, stride, instructions, steps, terms int, fraction, keep uint32) uint32")
	Doc(name + " is dotTile of the same kind for 16 columns.")
	t := &tileAVX2{c: c, half: half}
	t.acc, t.a, t.ae, t.b, t.be, t.stride = load("acc"), load("a"), load("ae"), load("b"), load("be"), load("stride")
	instructions, steps := load("instructions"), GP64()
	t.left = GP64()
	t.toScale = AllocLocal(8)
	up := GP32()
	Load(Param("fraction"), up)
	ADDL(Imm(bias), up)
	MOVL(up, t.toScale)
	mode := newRounding()
	for v := range t.x {
		t.x[v], t.bad[v], t.scale[v] = YMM(), zeroY(), YMM()
		VMOVUPS(Mem{Base: t.acc, Disp: 32 * v}, t.x[v])
	}
	Label("instruction")
	if separate {
		for v := range t.x {
			VPXOR(t.x[v], t.x[v], t.x[v])
		}
	}
	Load(Param("steps"), steps)
	Label("step")
	t.exponents()
	t.products()
	for v := range t.x {
		t.result(v)
	}
	DECQ(steps)
	JNZ(LabelRef("step"))
	if separate {
		LDMXCSR(mode.old)
		for v := range t.x {
			addWholeY(t.bad[v], t.x[v], Mem{Base: t.acc, Disp: 32 * v}, c, half)
		}
		LDMXCSR(mode.zero)
	}
	DECQ(instructions)
	JNZ(LabelRef("instruction"))
	r := [yvecs]Register{GP32(), GP32()}
	for v := range t.x {
		if !separate {
			VMOVUPS(t.x[v], Mem{Base: t.acc, Disp: 32 * v})
		}
		VPCMPEQD(zeroY(), t.bad[v], t.bad[v])
		VMOVMSKPS(t.bad[v], r[v])
	}
	SHLL(Imm(8), r[1])
	ORL(r[1], r[0])
	XORL(U32(1<<16-1), r[0])
	Store(r[0], ReturnIndex(0))
	LDMXCSR(mode.old)
	VZEROUPPER()
	RET()
}

// tileAVX2 are the registers of dotTileAVX2. x is lost while products are added to even and odd.
type tileAVX2 struct {
	c                               *constants
	half                            bool
	acc, a, ae, b, be, stride, left Register
	toScale                         Mem
	x, even, odd, bad, scale, top   [yvecs]VecVirtual
}

// exponents finds a step's largest exponents, from them the scales, and begins the sums.
func (t *tileAVX2) exponents() {
	c := t.c
	top := &t.top
	for v := range top {
		top[v] = exponentY(t.x[v], c, t.half)
		VPSUBD(splatY(c.u32(bias)), top[v], top[v]) // the negative number stays one
	}
	Load(Param("terms"), t.left)
	Label("exponent")
	for range 2 {
		a := splatY(Mem{Base: t.ae})
		for v := range top {
			s := YMM()
			VPADDD(Mem{Base: t.be, Disp: 32 * v}, a, s)
			VPMAXSD(s, top[v], top[v])
		}
		ADDQ(Imm(4), t.ae)
		ADDQ(t.stride, t.be)
	}
	SUBQ(Imm(2), t.left)
	JNZ(LabelRef("exponent"))
	const lowest, highest, allZero = 0xffffffff - 96 + 1, 100, 0xffffffff - 1<<11 + 1
	for v := range top {
		beyondY(t.bad[v], top[v], c, lowest, highest, allZero)
		VPMAXSD(splatY(c.u32(lowest)), top[v], top[v])
		VPMINSD(splatY(c.u32(highest)), top[v], top[v])
		VPSUBD(top[v], splatY(t.toScale), t.scale[v])
		VPSLLD(Imm(23), t.scale[v], t.scale[v])
		t.even[v], t.odd[v] = YMM(), zeroY()
		VMULPS(t.scale[v], t.x[v], t.even[v])
		VCVTTPS2DQ(t.even[v], t.even[v])
	}
}

func (t *tileAVX2) products() {
	Load(Param("terms"), t.left)
	Label("product")
	for _, sum := range [][yvecs]VecVirtual{t.even, t.odd} {
		a := YMM()
		VBROADCASTSS(Mem{Base: t.a}, a)
		for v := range sum {
			s := YMM()
			VMULPS(Mem{Base: t.b, Disp: 32 * v}, a, s)
			VMULPS(t.scale[v], s, s)
			VCVTTPS2DQ(s, s)
			VPADDD(s, sum[v], sum[v])
		}
		ADDQ(Imm(4), t.a)
		ADDQ(t.stride, t.b)
	}
	SUBQ(Imm(2), t.left)
	JNZ(LabelRef("product"))
}

// result converts the sums of a vector by the output rule.
func (t *tileAVX2) result(v int) {
	c := t.c
	value := YMM()
	VPSUBD(t.scale[v], splatY(c.u32(2*bias<<23)), value) // the scale's inverse
	var out [2]VecVirtual
	for h := range out {
		part := func(y VecVirtual) VecVirtual {
			if h == 0 {
				return y.AsX().(VecVirtual)
			}
			x := XMM()
			VEXTRACTF128(Imm(1), y, x)
			return x
		}
		s, odd, w := YMM(), YMM(), YMM()
		out[h] = XMM()
		VCVTDQ2PD(part(t.even[v]), s)
		VCVTDQ2PD(part(t.odd[v]), odd)
		VCVTPS2PD(part(value), w)
		VADDPD(odd, s, s)
		VMULPD(w, s, s)
		VCVTPD2PSY(s, out[h])
		if t.half {
			// A last bit that is set where something was lost keeps the second rounding from
			// being wrong.
			upper := XMM()
			VCVTPS2PD(out[h], w)
			VCMPPD(Imm(4), w, s, w)
			VEXTRACTF128(Imm(1), w, upper)
			VPACKSSDW(upper, w.AsX(), upper)
			VPSRLD(Imm(31), upper, upper)
			VPOR(upper, out[h], out[h])
		}
	}
	x := t.x[v]
	VINSERTF128(Imm(1), out[1], out[0].AsY(), x)
	if t.half {
		halfY(t.bad[v], x, c)
		VADDPS(zeroY(), x, x) // -0, of a sum that rounds to zero, becomes +0
		return
	}
	VPAND(argumentY("keep"), x, x)
}

// dotLanesAVX2 is dotLanes.
func dotLanesAVX2(name string, c *constants, half, separate bool) {
	TEXT(name, NOSPLIT, "func(acc, a *float32, ae *uint32, b *float32, be *int16, aStride, aeStride, rows, instructions, steps, terms int, fraction, keep, most uint32) uint32")
	Doc(name + " is dotLanes of the same kind for 16 lanes.")
	l := &lanesAVX2{c: c, half: half}
	l.prologue()
	mode := newRounding()
	Label("rows")
	MOVQ(l.a, l.ap)
	MOVQ(l.ae, l.aep)
	Load(Param("b"), l.bp)
	Load(Param("be"), l.bep)
	for r := range pair {
		for v := range yvecs {
			VMOVUPS(l.at(r, v), l.sum[r][v])
		}
	}
	Load(Param("instructions"), l.instructions)
	Label("instruction")
	if separate {
		for r := range pair {
			for v := range yvecs {
				VPXOR(l.sum[r][v], l.sum[r][v], l.sum[r][v])
			}
		}
	}
	Load(Param("steps"), l.steps)
	Label("step")
	l.exponents()
	l.products()
	for r := range pair {
		for v := range yvecs {
			l.result(r, v)
		}
	}
	DECQ(l.steps)
	JNZ(LabelRef("step"))
	if separate {
		LDMXCSR(mode.old)
		for r := range pair {
			for v := range yvecs {
				addWholeY(l.bad, l.sum[r][v], l.at(r, v), c, half)
			}
		}
		LDMXCSR(mode.zero)
	}
	DECQ(l.instructions)
	JNZ(LabelRef("instruction"))
	if !separate {
		for r := range pair {
			for v := range yvecs {
				VMOVUPS(l.sum[r][v], l.at(r, v))
			}
		}
	}
	ADDQ(U32(pair*4*lanes), l.acc)
	LEAQ(Mem{Base: l.a, Index: l.aStride, Scale: pair}, l.a)
	LEAQ(Mem{Base: l.ae, Index: l.aeStride, Scale: pair}, l.ae)
	SUBQ(Imm(pair), l.rows)
	JNZ(LabelRef("rows"))
	LDMXCSR(mode.old)
	retBad(l.bad)
}

// lanesAVX2 are the registers of dotLanesAVX2. sum is the accumulator's value between steps.
type lanesAVX2 struct {
	c                            *constants
	half                         bool
	acc, a, ae, ap, aep, bp, bep Register
	aStride, aeStride, rows      Register
	instructions, steps, left    Register
	toScale                      Mem
	scale, sum                   [pair][yvecs]VecVirtual
	bad                          VecVirtual
}

// at is where a vector of the accumulator lies.
func (l *lanesAVX2) at(r, v int) Mem { return Mem{Base: l.acc, Disp: 4*lanes*r + 32*v} }

func (l *lanesAVX2) prologue() {
	l.acc, l.a, l.ae = load("acc"), load("a"), load("ae")
	l.aStride, l.aeStride, l.rows = load("aStride"), load("aeStride"), load("rows")
	l.ap, l.aep, l.bp, l.bep = GP64(), GP64(), GP64(), GP64()
	l.instructions, l.steps, l.left = GP64(), GP64(), GP64()
	l.toScale = AllocLocal(8)
	f := GP32()
	Load(Param("fraction"), f)
	ADDL(U32(3*bias-bias), f)
	MOVL(f, l.toScale)
	for r := range pair {
		for v := range yvecs {
			l.scale[r][v], l.sum[r][v] = YMM(), YMM()
		}
	}
	l.bad = zeroY()
}

// exponents finds a step's largest exponents, and from them the scales and the sums'
// beginnings.
func (l *lanesAVX2) exponents() {
	var top [pair]VecVirtual
	for r := range top {
		top[r] = splatY(l.c.u32(0x80008000))
	}
	Load(Param("terms"), l.left)
	Label("exponent")
	for i := range 4 {
		be := YMM()
		VMOVDQU(Mem{Base: l.bep, Disp: 2 * lanes * i}, be)
		for r := range top {
			m := Mem{Base: l.aep, Disp: 4 * i}
			if r == 1 {
				m.Index, m.Scale = l.aeStride, 1
			}
			t := splatY(m)
			VPADDW(be, t, t)
			VPMAXSW(t, top[r], top[r])
		}
	}
	ADDQ(Imm(16), l.aep)
	ADDQ(U32(4*2*lanes), l.bep)
	SUBQ(Imm(4), l.left)
	JNZ(LabelRef("exponent"))
	for r := range pair {
		for v := range yvecs {
			e := YMM()
			if v == 1 {
				VEXTRACTI128(Imm(1), top[r], top[r].AsX())
			}
			VPMOVSXWD(top[r].AsX(), e)
			l.begin(r, v, e)
		}
	}
}

// begin starts a sum from the accumulator, with the largest exponents e of its step's products.
func (l *lanesAVX2) begin(r, v int, e VecVirtual) {
	c, x, scale := l.c, l.sum[r][v], l.scale[r][v]
	VPMAXSD(exponentY(x, c, l.half), e, e)
	beyondY(l.bad, e, c, lowestLane, highLane, (allZeroTop+1)&0xffffffff)
	VPMAXSD(splatY(c.u32(lowestLane)), e, e)
	VPSUBD(e, splatY(l.toScale), scale)
	VPSLLD(Imm(23), scale, scale)
	VMULPS(scale, x, x)
	VCVTTPS2DQ(x, x)
}

func (l *lanesAVX2) products() {
	Load(Param("terms"), l.left)
	Label("product")
	for i := range 4 {
		var b [yvecs]VecVirtual
		for v := range b {
			b[v] = YMM()
			VMOVUPS(Mem{Base: l.bp, Disp: 4*lanes*i + 32*v}, b[v])
		}
		for r := range pair {
			a, m := YMM(), Mem{Base: l.ap, Disp: 4 * i}
			if r == 1 {
				m.Index, m.Scale = l.aStride, 1
			}
			VBROADCASTSS(m, a)
			for v := range b {
				t := YMM()
				VMULPS(b[v], a, t)
				VMULPS(l.scale[r][v], t, t)
				VCVTTPS2DQ(t, t)
				VPADDD(t, l.sum[r][v], l.sum[r][v])
			}
		}
	}
	ADDQ(Imm(16), l.ap)
	ADDQ(U32(4*4*lanes), l.bp)
	SUBQ(Imm(4), l.left)
	JNZ(LabelRef("product"))
}

// result converts a sum by the output rule.
func (l *lanesAVX2) result(r, v int) {
	c, x := l.c, l.sum[r][v]
	t, u := YMM(), YMM()
	VPABSD(x, t)
	VPMINUD(argumentY("most"), t, u)
	VPXOR(t, u, u) // zero where it is at most so much
	VPOR(u, l.bad, l.bad)
	if l.half {
		// A last bit that is set where something was lost keeps the second rounding from
		// being wrong.
		VCVTDQ2PS(x, u)
		VCVTTPS2DQ(u, t)
		VPCMPEQD(x, t, t)
		VPANDN(splatY(c.u32(1)), t, t)
		VPOR(t, u, x)
	} else {
		VCVTDQ2PS(x, x)
	}
	VPSUBD(l.scale[r][v], splatY(c.u32(2*bias<<23)), t) // the scale's inverse
	VMULPS(t, x, x)
	if l.half {
		halfY(l.bad, x, c)
		VADDPS(zeroY(), x, x) // -0, of a sum that rounds to zero, becomes +0
		return
	}
	VPAND(argumentY("keep"), x, x)
}
