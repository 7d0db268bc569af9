package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// quantAVX2 are the AVX2 kernels of the quantisers, and of a strip's end.
func quantAVX2() {
	c := newConstants("quantConstantsAVX2")
	for _, f := range []struct {
		name  string
		round func(VecVirtual, *constants)
	}{{"FP16", roundFP16}, {"BF16", roundBF16Y}, {"FP32", nil}} {
		subtractAVX2("subtract"+f.name, c, f.round)
		finishAVX2("finish"+f.name, c, f.round)
	}
	absMaxAVX2(c)
	quantizeAVX2("quantizeAway", c, false, true)
	quantizeAVX2("quantizeEven", c, false, false)
	quantizeAVX2("quantizeDivide", c, true, false)
	encodeAVX2("encodeE4M3Fused", c, false, e4m3)
	encodeAVX2("encodeE4M3Paper", c, true, e4m3)
	encodeAVX2("encodeE5M2Fused", c, false, e5m2)
	encodeAVX2("encodeE5M2Paper", c, true, e5m2)
	finiteAVX2(c)
	extremesAVX2()
	addMeansAVX2(c)
}

// bytesY writes the low bytes of two registers of 32-bit numbers that fit in a byte, signed or
// unsigned.
func bytesY(y [2]VecVirtual, signed bool, to Mem) {
	words, bytes := VPACKUSDW, VPACKUSWB
	if signed {
		words, bytes = VPACKSSDW, VPACKSSWB
	}
	words(y[1], y[0], y[0])
	VPERMQ(Imm(0xd8), y[0], y[0])
	VEXTRACTI128(Imm(1), y[0], y[1].AsX())
	bytes(y[1].AsX(), y[0].AsX(), y[0].AsX())
	VMOVDQU(y[0].AsX(), to)
}

func finishAVX2(of string, c *constants, round func(VecVirtual, *constants)) {
	name := of + "AVX2"
	TEXT(name, NOSPLIT, "func(dst, o, inverse, scale, mean *float32, channels int) uint32")
	Doc(name + " is " + of + ".")
	dst, o, inverse, scale, mean, channels := load("dst"), load("o"), load("inverse"), load("scale"), load("mean"), load("channels")
	bad := zeroY()
	Label("channel")
	s, m := splatY(Mem{Base: scale}), splatY(Mem{Base: mean})
	for i := range yvecs {
		x := YMM()
		VMOVUPS(Mem{Base: inverse, Disp: 32 * i}, x)
		VMULPS(Mem{Base: o, Disp: 32 * i}, x, x)
		raiseSmallestY(bad, x, c)
		flushY(x, c)
		VFMADD213PS(m, s, x)
		raiseSmallestY(bad, x, c)
		flushY(x, c)
		raiseY(bad, x, c)
		if round != nil {
			round(x, c)
			raiseY(bad, x, c)
		}
		VMOVUPS(x, Mem{Base: dst, Disp: 32 * i})
	}
	ADDQ(U32(row32), dst)
	ADDQ(U32(row32), o)
	ADDQ(Imm(4), scale)
	ADDQ(Imm(4), mean)
	DECQ(channels)
	JNZ(LabelRef("channel"))
	retBad(bad)
}

func absMaxAVX2(c *constants) {
	TEXT("absMaxAVX2", NOSPLIT, "func(x *float32, m float32, groups int) float32")
	Doc("absMaxAVX2 is absMax.")
	x, groups := load("x"), load("groups")
	abs, v := splatY(c.u32(1<<31-1)), YMM()
	var m [2]VecVirtual
	for i := range m {
		m[i] = argumentY("m")
	}
	Label("group")
	for i := range m {
		VPAND(Mem{Base: x, Disp: 32 * i}, abs, v)
		VMAXPS(m[i], v, m[i]) // v where v > m
	}
	ADDQ(Imm(64), x)
	DECQ(groups)
	JNZ(LabelRef("group"))
	VMAXPS(m[1], m[0], m[0])
	VEXTRACTF128(Imm(1), m[0], v.AsX())
	VMAXPS(v.AsX(), m[0].AsX(), m[0].AsX())
	VPSHUFD(Imm(0x4e), m[0].AsX(), v.AsX())
	VMAXPS(v.AsX(), m[0].AsX(), m[0].AsX())
	VPSHUFD(Imm(0xb1), m[0].AsX(), v.AsX())
	VMAXPS(v.AsX(), m[0].AsX(), m[0].AsX())
	Store(m[0].AsX(), ReturnIndex(0))
	VZEROUPPER()
	RET()
}

func subtractAVX2(of string, c *constants, round func(VecVirtual, *constants)) {
	name := of + "AVX2"
	TEXT(name, NOSPLIT, "func(x, mean *float32, rows, groups int)")
	Doc(name + " is " + of + ".")
	x, mean, n, groups := load("x"), load("mean"), load("rows"), load("groups")
	Label("row")
	m, g := GP64(), GP64()
	MOVQ(mean, m)
	MOVQ(groups, g)
	Label("group")
	for i := range 2 {
		v := YMM()
		VMOVUPS(Mem{Base: x, Disp: 32 * i}, v)
		VSUBPS(Mem{Base: m, Disp: 32 * i}, v, v)
		if round != nil {
			round(v, c)
		}
		VMOVUPS(v, Mem{Base: x, Disp: 32 * i})
	}
	ADDQ(Imm(64), x)
	ADDQ(Imm(64), m)
	DECQ(g)
	JNZ(LabelRef("group"))
	DECQ(n)
	JNZ(LabelRef("row"))
	VZEROUPPER()
	RET()
}

func quantizeAVX2(of string, c *constants, divide, away bool) {
	name := of + "AVX2"
	TEXT(name, NOSPLIT, "func(codes *int8, x *float32, factor float32, limit, least int32, groups int)")
	Doc(name + " is " + of + ".")
	codes, x, groups := load("codes"), load("x"), load("groups")
	factor, limit, low := argumentY("factor"), argumentY("limit"), argumentY("least")
	Label("group")
	var y [2]VecVirtual
	for i := range y {
		v, s, ordered := YMM(), YMM(), YMM()
		y[i] = v
		VMOVUPS(Mem{Base: x, Disp: 32 * i}, v)
		if divide {
			VDIVPS(factor, v, v)
		} else {
			flushY(v, c)
			VMULPS(factor, v, v)
			flushY(v, c)
		}
		VCMPPS(Imm(7), v, v, ordered)
		// Beyond 2^17 every value saturates.
		VMINPS(splatY(c.u32(0x48000000)), v, v)
		if away {
			VPAND(splatY(c.u32(1<<31)), v, s)
			VPOR(splatY(c.u32(0x3f000000)), s, s)
			VADDPS(s, v, v)
			VCVTTPS2DQ(v, v)
		} else {
			VCVTPS2DQ(v, v)
		}
		VPMINSD(limit, v, v)
		VPMAXSD(low, v, v)
		VPAND(ordered, v, v)
	}
	bytesY(y, true, Mem{Base: codes})
	ADDQ(Imm(64), x)
	ADDQ(Imm(16), codes)
	DECQ(groups)
	JNZ(LabelRef("group"))
	VZEROUPPER()
	RET()
}

func encodeAVX2(of string, c *constants, paper bool, f fp8) {
	name := of + "AVX2"
	TEXT(name, NOSPLIT, "func(codes *uint8, x, mean, factor *float32, rows, groups int) uint32")
	Doc(name + " is " + of + ".")
	codes, x, mean, factor, n, groups := load("codes"), load("x"), load("mean"), load("factor"), load("rows"), load("groups")
	bad := zeroY()
	Label("row")
	m, by, g := GP64(), GP64(), GP64()
	MOVQ(mean, m)
	MOVQ(factor, by)
	MOVQ(groups, g)
	Label("group")
	var code [2]VecVirtual
	for i := range code {
		y := YMM()
		VMOVUPS(Mem{Base: x, Disp: 32 * i}, y)
		if paper {
			d, k := YMM(), YMM()
			VSUBPS(Mem{Base: m, Disp: 32 * i}, y, y)
			VMOVUPS(Mem{Base: by, Disp: 32 * i}, d)
			VCMPPS(Imm(4), zeroY(), d, k)
			VDIVPS(d, y, y)
			VPAND(k, y, y)
		} else {
			flushY(y, c)
			VSUBPS(Mem{Base: m, Disp: 32 * i}, y, y)
			flushY(y, c)
			VMULPS(Mem{Base: by, Disp: 32 * i}, y, y)
			flushY(y, c)
		}
		code[i] = codeAVX2(bad, y, c, f)
	}
	bytesY(code, false, Mem{Base: codes})
	for _, p := range []Register{x, m, by} {
		ADDQ(Imm(64), p)
	}
	ADDQ(Imm(16), codes)
	DECQ(g)
	JNZ(LabelRef("group"))
	DECQ(n)
	JNZ(LabelRef("row"))
	retBad(bad)
}

// codeAVX2 returns the FP8 codes of y, and sets in bad the lanes that are NaN.
func codeAVX2(bad, y VecVirtual, c *constants, f fp8) VecVirtual {
	s, r, unordered, small := YMM(), YMM(), YMM(), YMM()
	VCMPPS(Imm(3), y, y, unordered)
	VPOR(unordered, bad, bad)
	VPSRLD(Imm(31), y, s)
	VPAND(splatY(c.u32(1<<31-1)), y, y)
	VMINPS(splatY(c.u32(f.largest)), y, y)
	VCMPPS(Imm(1), splatY(c.u32(f.normal)), y, small)
	// A normal value is rounded in its bits, a subnormal one by an addition.
	VPSRLD(Imm(uint64(f.shift)), y, r)
	VPAND(splatY(c.u32(1)), r, r)
	VPADDD(splatY(c.u32(1<<(f.shift-1)-1)), r, r)
	VPADDD(y, r, r)
	VPSRLD(Imm(uint64(f.shift)), r, r)
	VPSUBD(splatY(c.u32(f.offset)), r, r)
	VADDPS(splatY(c.u32(f.magic)), y, y)
	VPAND(splatY(c.u32(f.mask)), y, y)
	VPBLENDVB(small, y, r, r)
	VPSLLD(Imm(7), s, s)
	VPOR(s, r, r)
	return r
}

func finiteAVX2(c *constants) {
	TEXT("finiteAVX2", NOSPLIT, "func(x *float32, groups int) uint32")
	Doc("finiteAVX2 is finite.")
	x, groups := load("x"), load("groups")
	bad, infinite := zeroY(), splatY(c.u32(0x7f800000))
	Label("group")
	for i := range 2 {
		v := YMM()
		VPAND(Mem{Base: x, Disp: 32 * i}, infinite, v)
		VPCMPEQD(infinite, v, v)
		VPOR(v, bad, bad)
	}
	ADDQ(Imm(64), x)
	DECQ(groups)
	JNZ(LabelRef("group"))
	retBad(bad)
}

func extremesAVX2() {
	TEXT("extremesAVX2", NOSPLIT, "func(hi, lo, x *float32, rows, groups int)")
	Doc("extremesAVX2 is extremes.")
	hi, lo, x, n, groups := load("hi"), load("lo"), load("x"), load("rows"), load("groups")
	left, stride := GP64(), GP64()
	MOVQ(groups, left)
	MOVQ(groups, stride)
	SHLQ(Imm(6), stride)
	Label("group")
	var h, l [2]VecVirtual
	p, g := GP64(), GP64()
	for i := range h {
		h[i], l[i] = YMM(), YMM()
		VMOVUPS(Mem{Base: hi, Disp: 32 * i}, h[i])
		VMOVUPS(Mem{Base: lo, Disp: 32 * i}, l[i])
	}
	MOVQ(x, p)
	MOVQ(n, g)
	Label("row")
	for i := range h {
		v := YMM()
		VMOVUPS(Mem{Base: p, Disp: 32 * i}, v)
		VMAXPS(h[i], v, h[i]) // v where v > h
		VMINPS(l[i], v, l[i])
	}
	ADDQ(stride, p)
	DECQ(g)
	JNZ(LabelRef("row"))
	for i := range h {
		VMOVUPS(h[i], Mem{Base: hi, Disp: 32 * i})
		VMOVUPS(l[i], Mem{Base: lo, Disp: 32 * i})
	}
	ADDQ(Imm(64), x)
	ADDQ(Imm(64), hi)
	ADDQ(Imm(64), lo)
	DECQ(left)
	JNZ(LabelRef("group"))
	VZEROUPPER()
	RET()
}

func addMeansAVX2(c *constants) {
	TEXT("addMeansAVX2", NOSPLIT, "func(sum, comp *float64, x *float32, rows, groups int)")
	Doc("addMeansAVX2 is addMeans.")
	sum, comp, x, n, groups := load("sum"), load("comp"), load("x"), load("rows"), load("groups")
	sign := splatQ(c.u32(1 << 31))
	left, stride := GP64(), GP64()
	MOVQ(groups, left)
	MOVQ(groups, stride)
	SHLQ(Imm(5), stride)
	Label("group")
	var s, lost [2]VecVirtual
	p, g := GP64(), GP64()
	for i := range s {
		s[i], lost[i] = YMM(), YMM()
		VMOVUPD(Mem{Base: sum, Disp: 32 * i}, s[i])
		VMOVUPD(Mem{Base: comp, Disp: 32 * i}, lost[i])
	}
	MOVQ(x, p)
	MOVQ(n, g)
	Label("row")
	for i := range s {
		f, t, a, b, larger := YMM(), YMM(), YMM(), YMM(), YMM()
		VCVTPS2PD(Mem{Base: p, Disp: 16 * i}, f)
		VADDPD(f, s[i], t)
		VPANDN(s[i], sign, a)
		VPANDN(f, sign, b)
		VCMPPD(Imm(13), b, a, larger) // |s| >= |f|
		// (larger - t) + smaller
		VBLENDVPD(larger, s[i], f, a)
		VBLENDVPD(larger, f, s[i], b)
		VSUBPD(t, a, a)
		VADDPD(b, a, a)
		VADDPD(a, lost[i], lost[i])
		VMOVAPD(t, s[i])
	}
	ADDQ(stride, p)
	DECQ(g)
	JNZ(LabelRef("row"))
	for i := range s {
		VMOVUPD(s[i], Mem{Base: sum, Disp: 32 * i})
		VMOVUPD(lost[i], Mem{Base: comp, Disp: 32 * i})
	}
	ADDQ(Imm(32), x)
	ADDQ(Imm(64), sum)
	ADDQ(Imm(64), comp)
	DECQ(left)
	JNZ(LabelRef("group"))
	VZEROUPPER()
	RET()
}
