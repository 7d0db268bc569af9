package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// lanesAVX2 are the kernels of lanes for AVX2.
func lanesAVX2() {
	c := newConstants("lanesConstantsAVX2")
	laneTopsAVX2(c)
	laneWeightsAVX2("laneWeights", c, false)
	laneWeightsAVX2("laneWeightsTwice", c, true)
	encodeFP16AVX2(c)
	decodeFP16AVX2()
	for _, last := range []bool{false, true} {
		laneOutputAVX2("laneOutputFP16", c, last, roundFP16)
		laneOutputAVX2("laneOutputBF16", c, last, roundBF16Y)
		laneOutputAVX2("laneOutputFP32", c, last, func(VecVirtual, *constants) {})
	}
	for _, f := range weightFormats {
		laneRoundAVX2("laneRound"+f.name, c, f.largest, map[string]func(VecVirtual, *constants){"FP16": roundFP16, "BF16": roundBF16Y}[f.name], f.quantum, f.lowest)
	}
	laneExponentsAVX2()
	laneMultiplyAVX2()
	for _, j := range joins {
		laneJoinAVX2(j.name, c, j.join)
	}
	rescaleAVX2(c)
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

// roundBF16Y is roundBF16.
func roundBF16Y(x VecVirtual, c *constants) {
	odd := YMM()
	VPSRLD(Imm(16), x, odd)
	VPAND(splatY(c.u32(1)), odd, odd)
	VPADDD(splatY(c.u32(0x7fff)), odd, odd)
	VPADDD(odd, x, x)
	VPAND(splatY(c.u32(0xffff0000)), x, x)
}

// roundQuantumY is roundQuantum.
func roundQuantumY(x VecVirtual, c *constants, quantum, lowest uint32) {
	big := YMM()
	VPAND(splatY(c.u32(0x7f800000)), x, big)
	VPADDD(splatY(c.u32(quantum)), big, big)
	VPMAXSD(splatY(c.u32(lowest)), big, big)
	VADDPS(big, x, x)
	VSUBPS(big, x, x)
}

func laneTopsAVX2(c *constants) {
	TEXT("laneTopsAVX2", NOSPLIT, "func(s, top *float32, octets int, masked float32) uint32")
	Doc("laneTopsAVX2 is laneTops.")
	s, top, octets := load("s"), load("top"), load("octets")
	masked, bad, infinite := argumentY("masked"), zeroY(), splatY(c.u32(0x7f800000))
	count := GP64()
	MOVQ(U32(yvecs), count)
	Label("vector")
	var t [threads]VecVirtual
	for j := range t {
		t[j] = YMM()
		VMOVUPS(Mem{Base: top, Disp: j * row32}, t[j])
	}
	p, n := GP64(), GP64()
	MOVQ(s, p)
	MOVQ(octets, n)
	Label("octet")
	for i := range 8 {
		x, k, other := YMM(), YMM(), YMM()
		VMOVUPS(Mem{Base: p, Disp: i * row32}, x)
		VPAND(infinite, x, k)
		VPCMPEQD(infinite, k, k)
		VCMPPS(Imm(4), masked, x, other)
		VPAND(other, k, k)
		VPOR(k, bad, bad)
		VMAXPS(t[i/2], x, t[i/2]) // x where x > t
	}
	ADDQ(U32(8*row32), p)
	DECQ(n)
	JNZ(LabelRef("octet"))
	for j := range t {
		VMOVUPS(t[j], Mem{Base: top, Disp: j * row32})
	}
	ADDQ(Imm(32), s)
	ADDQ(Imm(32), top)
	DECQ(count)
	JNZ(LabelRef("vector"))
	retBad(bad)
}

// laneWeightsAVX2 has all that the threads have of their own in memory.
func laneWeightsAVX2(of string, c *constants, twice bool) {
	name := of + "AVX2"
	TEXT(name, NOSPLIT, "func(s, scale, lower *float32, table *uint32, octets int, control, wide uint32) uint32")
	Doc(name + " is " + of + ".")
	s, scale, lower, table, octets := load("s"), load("scale"), load("lower"), load("table"), load("octets")
	old := control()
	bad := zeroY()
	count := GP64()
	MOVQ(U32(yvecs), count)
	Label("vector")
	p, n := GP64(), GP64()
	MOVQ(s, p)
	MOVQ(octets, n)
	Label("octet")
	for i := range 8 {
		x, k, low, half, m := YMM(), YMM(), YMM(), YMM(), Mem{Base: p, Disp: i * row32}
		by, less := Mem{Base: scale, Disp: i / 2 * row32}, Mem{Base: lower, Disp: i / 2 * row32}
		VMOVUPS(m, x)
		if twice {
			VMULPS(by, x, x)
			VSUBPS(less, x, x)
		} else {
			VMOVUPS(by, k)
			VFMSUB213PS(less, k, x)
		}
		VCMPPS(Imm(5), splatY(c.u32(0x43000000)), x, k) // not below 128
		VPOR(k, bad, bad)
		VCMPPS(Imm(1), splatY(c.u32(0xc2fc0000)), x, low) // below -126
		VPAND(argumentY("wide"), low, low)
		VMULPS(splatY(c.u32(0x3f000000)), x, half)
		VBLENDVPS(low, half, x, x)
		ex2AVX2(x, table, c)
		VMULPS(x, x, half)
		VBLENDVPS(low, half, x, x)
		VMOVUPS(x, m)
	}
	ADDQ(U32(8*row32), p)
	DECQ(n)
	JNZ(LabelRef("octet"))
	for _, r := range []Register{s, scale, lower} {
		ADDQ(Imm(32), r)
	}
	DECQ(count)
	JNZ(LabelRef("vector"))
	LDMXCSR(old)
	retBad(bad)
}

func laneRoundAVX2(of string, c *constants, largest uint32, round func(VecVirtual, *constants), quantum, lowest uint32) {
	name := of + "AVX2"
	TEXT(name, NOSPLIT, "func(dst, src *float32, groups int, most float32) uint32")
	Doc(name + " is " + of + ".")
	dst, src, groups := load("dst"), load("src"), load("groups")
	most, bad := argumentY("most"), zeroY()
	if largest != 0 {
		VMINPS(splatY(c.u32(largest)), most, most)
	}
	Label("group")
	for i := range 2 {
		x, k := YMM(), YMM()
		VMOVUPS(Mem{Base: src, Disp: 32 * i}, x)
		VCMPPS(Imm(6), most, x, k) // not at most
		VPOR(k, bad, bad)
		if round != nil {
			round(x, c)
		} else {
			roundQuantumY(x, c, quantum, lowest)
		}
		VMOVUPS(x, Mem{Base: dst, Disp: 32 * i})
	}
	ADDQ(Imm(64), src)
	ADDQ(Imm(64), dst)
	DECQ(groups)
	JNZ(LabelRef("group"))
	retBad(bad)
}

func laneExponentsAVX2() {
	TEXT("laneExponentsAVX2", NOSPLIT, "func(dst *uint8, src *float32, groups int, floor uint32)")
	Doc("laneExponentsAVX2 is laneExponents.")
	dst, src, groups := load("dst"), load("src"), load("groups")
	floor := argumentY("floor")
	SHLQ(Imm(2), groups) // of 16
	Label("group")
	var e [2]VecVirtual
	for i := range e {
		x, zero := YMM(), YMM()
		e[i] = YMM()
		VMOVUPS(Mem{Base: src, Disp: 32 * i}, x)
		VPCMPEQD(zeroY(), x, zero)
		VPSRLD(Imm(23), x, x)
		VPMAXSD(floor, x, x)
		VPANDN(x, zero, e[i])
	}
	bytesY(e, false, Mem{Base: dst})
	ADDQ(Imm(64), src)
	ADDQ(Imm(16), dst)
	DECQ(groups)
	JNZ(LabelRef("group"))
	VZEROUPPER()
	RET()
}

// laneMultiplyAVX2 takes half of the lanes at a time, for which it has registers.
func laneMultiplyAVX2() {
	TEXT("laneMultiplyAVX2", NOSPLIT, "func(acc, a *float32, stride int, b *float32, rows, depth int)")
	Doc("laneMultiplyAVX2 is laneMultiply.")
	acc, a, stride, b := load("acc"), load("a"), load("stride"), load("b")
	rows := load("rows")
	Label("row")
	half := GP64()
	XORQ(half, half)
	Label("half")
	var sum [2][yvecs / 2]VecVirtual
	for r := range sum {
		for i := range sum[r] {
			sum[r][i] = zeroY()
		}
	}
	ap, bp, n := GP64(), GP64(), GP64()
	MOVQ(a, ap)
	LEAQ(Mem{Base: b, Index: half, Scale: 1}, bp)
	Load(Param("depth"), n)
	Label("k")
	var y [2]VecVirtual
	for r := range y {
		m := Mem{Base: ap}
		if r == 1 {
			m.Index, m.Scale = stride, 1
		}
		y[r] = YMM()
		VBROADCASTSS(m, y[r])
	}
	for i := range sum[0] {
		x := YMM()
		VMOVUPS(Mem{Base: bp, Disp: 32 * i}, x)
		for r := range sum {
			VFMADD231PS(x, y[r], sum[r][i])
		}
	}
	ADDQ(Imm(4), ap)
	ADDQ(U32(row32), bp)
	DECQ(n)
	JNZ(LabelRef("k"))
	for r := range sum {
		for i := range sum[r] {
			VMOVUPS(sum[r][i], Mem{Base: acc, Index: half, Scale: 1, Disp: r*row32 + 32*i})
		}
	}
	ADDQ(U32(row32/2), half)
	CMPQ(half, U32(row32))
	JNE(LabelRef("half"))
	ADDQ(U32(2*row32), acc)
	LEAQ(Mem{Base: a, Index: stride, Scale: 2}, a)
	SUBQ(Imm(2), rows)
	JNZ(LabelRef("row"))
	VZEROUPPER()
	RET()
}

func laneJoinAVX2(of string, c *constants, join func(o, tile, alpha, factor VecVirtual)) {
	name := of + "AVX2"
	TEXT(name, NOSPLIT, "func(o, tile, alpha, factor *float32, channels int, control uint32) uint32")
	Doc(name + " is " + of + ".")
	o, tile, alpha, factor, channels := load("o"), load("tile"), load("alpha"), load("factor"), load("channels")
	old := control()
	bad := zeroY()
	Label("channel")
	for i := range yvecs {
		var v [4]VecVirtual
		for j, from := range []Register{o, tile, alpha, factor} {
			v[j] = YMM()
			VMOVUPS(Mem{Base: from, Disp: 32 * i}, v[j])
		}
		join(v[0], v[1], v[2], v[3])
		raiseY(bad, v[0], c)
		VMOVUPS(v[0], Mem{Base: o, Disp: 32 * i})
	}
	ADDQ(U32(row32), o)
	ADDQ(U32(row32), tile)
	DECQ(channels)
	JNZ(LabelRef("channel"))
	LDMXCSR(old)
	retBad(bad)
}

func encodeFP16AVX2(c *constants) {
	TEXT("encodeFP16AVX2", NOSPLIT, "func(codes *uint16, x *float32, groups int) uint32")
	Doc("encodeFP16AVX2 is encodeFP16.")
	codes, x, groups := load("codes"), load("x"), load("groups")
	bad, magnitude, largest := zeroY(), splatY(c.u32(1<<31-1)), splatY(c.u32(0x477fe000))
	Label("group")
	for i := range 2 {
		v, size := YMM(), YMM()
		VMOVUPS(Mem{Base: x, Disp: 32 * i}, v)
		VPAND(magnitude, v, size)
		VCMPPS(Imm(6), largest, size, size) // not at most
		VPOR(size, bad, bad)
		VCVTPS2PH(Imm(0), v, Mem{Base: codes, Disp: 16 * i})
	}
	ADDQ(Imm(64), x)
	ADDQ(Imm(32), codes)
	DECQ(groups)
	JNZ(LabelRef("group"))
	retBad(bad)
}

func decodeFP16AVX2() {
	TEXT("decodeFP16AVX2", NOSPLIT, "func(dst *float32, codes *uint16, groups int)")
	Doc("decodeFP16AVX2 is decodeFP16.")
	dst, codes, groups := load("dst"), load("codes"), load("groups")
	Label("group")
	for i := range 2 {
		v := YMM()
		VCVTPH2PS(Mem{Base: codes, Disp: 16 * i}, v)
		VMOVUPS(v, Mem{Base: dst, Disp: 32 * i})
	}
	ADDQ(Imm(64), dst)
	ADDQ(Imm(32), codes)
	DECQ(groups)
	JNZ(LabelRef("group"))
	VZEROUPPER()
	RET()
}

func laneOutputAVX2(of string, c *constants, last bool, round func(VecVirtual, *constants)) {
	if last {
		of += "Last"
	}
	name := of + "AVX2"
	TEXT(name, NOSPLIT, "func(out, o, scale *float32, groups int, inverse float32, control uint32) uint32")
	Doc(name + " is " + of + ".")
	out, o, scale, groups := load("out"), load("o"), load("scale"), load("groups")
	old := control()
	inverse, bad := argumentY("inverse"), zeroY()
	Label("group")
	for i := range 2 {
		x, from, by := YMM(), Mem{Base: o, Disp: 32 * i}, Mem{Base: scale, Disp: 32 * i}
		if last {
			VMULPS(from, inverse, x)
			VMULPS(by, x, x)
		} else {
			VMULPS(by, inverse, x)
			VMULPS(from, x, x)
		}
		raiseY(bad, x, c)
		round(x, c)
		raiseY(bad, x, c)
		VMOVUPS(x, Mem{Base: out, Disp: 32 * i})
	}
	for _, p := range []Register{out, o, scale} {
		ADDQ(Imm(64), p)
	}
	DECQ(groups)
	JNZ(LabelRef("group"))
	LDMXCSR(old)
	retBad(bad)
}

func rescaleAVX2(c *constants) {
	TEXT("rescaleAVX2", NOSPLIT, "func(o, factors *float32, channels int) uint32")
	Doc("rescaleAVX2 is rescale.")
	o, factors, channels := load("o"), load("factors"), load("channels")
	bad, ones := YMM(), YMM()
	VPCMPEQD(ones, ones, ones)
	good := YMM()
	VMOVDQA(ones, good)
	least, most := splatY(c.u32(64<<24)), splatY(c.u32((0xff-64)<<24-1))
	Label("channel")
	for i := range yvecs {
		x, fits, zero := YMM(), YMM(), YMM()
		VMOVUPS(Mem{Base: factors, Disp: 32 * i}, x)
		VMULPS(Mem{Base: o, Disp: 32 * i}, x, x)
		VMOVUPS(x, Mem{Base: o, Disp: 32 * i})
		// Without the sign, the exponent leads.
		VPSLLD(Imm(1), x, x)
		VPCMPEQD(zeroY(), x, zero)
		VPSUBD(least, x, x)
		VPMINUD(most, x, fits)
		VPCMPEQD(x, fits, fits)
		VPOR(zero, fits, fits)
		VPAND(fits, good, good)
	}
	ADDQ(U32(row32), o)
	DECQ(channels)
	JNZ(LabelRef("channel"))
	VPXOR(ones, good, bad)
	retBad(bad)
}
