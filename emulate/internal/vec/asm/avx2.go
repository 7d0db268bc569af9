package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// This file generates the AVX2 kernels: the same passes with 8 rows to a
// register, vectors for masks, and, where AVX-512 names a rounding in the
// instruction, MXCSR set for the length of a kernel.

// yvecs is the number of registers that hold the rows of a strip.
const yvecs = rows / 8

func avx2() {
	c := newConstants("constantsAVX2")
	qkAVX2(c)
	toFloatAVX2()
	dequantizeAVX2(c)
	softmaxAVX2(c)
	exponentsAVX2("exponents", 16, 16, 16)
	dot13AVX2("dot13AVX2", c, false)
	dot13AVX2("dot13HalfAVX2", c, true)
	addTileAVX2(c)
	meanDotsAVX2(c)
	dotIntegerAVX2()
}

// splatY loads a constant into every lane.
func splatY(m Mem) VecVirtual {
	y := YMM()
	VPBROADCASTD(m, y)
	return y
}

// zeroY returns a register of zeros.
func zeroY() VecVirtual {
	y := YMM()
	VPXOR(y, y, y)
	return y
}

// flushY replaces subnormal lanes of x by zeros of their sign.
func flushY(x VecVirtual, c *constants) {
	t := splatY(c.u32(0x7f800000))
	VPAND(x, t, t)
	VPCMPEQD(zeroY(), t, t)
	VPSRLD(Imm(1), t, t)
	VPANDN(x, t, x)
}

// raiseY sets in bad the lanes of x that are NaN or infinite.
func raiseY(bad, x VecVirtual, c *constants) {
	e := splatY(c.u32(0x7f800000))
	t := YMM()
	VPAND(x, e, t)
	VPCMPEQD(e, t, t)
	VPOR(t, bad, bad)
}

// raiseTinyY sets in bad the lanes of x that are subnormal, 2^-126 or its negative.
func raiseTinyY(bad, x VecVirtual, c *constants) {
	t := YMM()
	VMOVAPS(x, t)
	flushY(t, c)
	VPXOR(x, t, t)
	VPOR(t, bad, bad) // any bit will do
	raiseSmallestY(bad, x, c)
}

// raiseSmallestY sets in bad the lanes of x that are 2^-126 or its negative.
func raiseSmallestY(bad, x VecVirtual, c *constants) {
	t := YMM()
	VPADDD(x, x, t)
	VPCMPEQD(splatY(c.u32(smallest)), t, t)
	VPOR(t, bad, bad)
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

// qkAVX2 multiplies words: q biased to be unsigned, as for AVX-512, and k.
func qkAVX2(c *constants) {
	TEXT("qkAVX2", NOSPLIT, "func(out *int32, q *uint8, k *int8, bias *int32, stride, quads, keys int, wideQ, wideK *int16)")
	Doc("qkAVX2 is qk for an even number of keys and a multiple of 16 codes; wideQ and wideK are scratch for the operands as words.")
	q, k, quads, keys := load("q"), load("k"), load("quads"), load("keys")
	wq, wk := load("wideQ"), load("wideK")
	// Widen K.
	n := GP64()
	MOVQ(keys, n)
	IMULQ(quads, n)
	Label("k")
	y := YMM()
	VPMOVSXBW(Mem{Base: k}, y)
	VMOVDQU(y, Mem{Base: wk})
	ADDQ(Imm(16), k)
	ADDQ(Imm(32), wk)
	SUBQ(Imm(4), n)
	JNZ(LabelRef("k"))
	// Widen Q and take its pairs apart.
	MOVQ(quads, n)
	Label("q")
	for i := range yvecs {
		x, t, u := YMM(), YMM(), YMM()
		low, third := splatY(c.u32(0xff)), splatY(c.u32(0xff0000))
		VMOVDQU(Mem{Base: q, Disp: 32 * i}, x)
		VPAND(low, x, t)
		VPSLLD(Imm(8), x, u)
		VPAND(third, u, u)
		VPOR(u, t, t)
		VMOVDQU(t, Mem{Base: wq, Disp: 32 * i})
		VPSRLD(Imm(16), x, t)
		VPAND(low, t, t)
		VPSRLD(Imm(8), x, u)
		VPAND(third, u, u)
		VPOR(u, t, t)
		VMOVDQU(t, Mem{Base: wq, Disp: row32 + 32*i})
	}
	ADDQ(U32(row32), q)
	ADDQ(U32(2*row32), wq)
	DECQ(n)
	JNZ(LabelRef("q"))

	out, bias, stride := load("out"), load("bias"), load("stride")
	wk = load("wideK")
	ADDQ(stride, stride) // of words
	Label("key")
	half := GP64()
	XORQ(half, half)
	Label("half")
	var acc [2][4]VecVirtual
	for j := range acc {
		for i := range acc[j] {
			acc[j][i] = splatY(Mem{Base: bias, Disp: 4 * j})
		}
	}
	qp, kp, m := GP64(), GP64(), GP64()
	MOVQ(NewParamAddr("wideQ", 56), qp)
	ADDQ(half, qp)
	MOVQ(wk, kp)
	LEAQ(Mem{Base: quads, Index: quads, Scale: 1}, m)
	Label("pair")
	b := [2]VecVirtual{splatY(Mem{Base: kp}), splatY(Mem{Base: kp, Index: stride, Scale: 1})}
	for i := range 4 {
		x := YMM()
		VMOVDQU(Mem{Base: qp, Disp: 32 * i}, x)
		for j := range acc {
			p := YMM()
			VPMADDWD(x, b[j], p)
			VPADDD(p, acc[j][i], acc[j][i])
		}
	}
	ADDQ(U32(row32), qp)
	ADDQ(Imm(4), kp)
	DECQ(m)
	JNZ(LabelRef("pair"))
	for j := range acc {
		for i := range acc[j] {
			VMOVDQU(acc[j][i], Mem{Base: out, Index: half, Scale: 1, Disp: j*row32 + 32*i})
		}
	}
	ADDQ(U32(128), half)
	CMPQ(half, U32(row32))
	JNE(LabelRef("half"))
	LEAQ(Mem{Base: wk, Index: stride, Scale: 2}, wk)
	ADDQ(U32(2*row32), out)
	ADDQ(Imm(8), bias)
	SUBQ(Imm(2), keys)
	JNZ(LabelRef("key"))
	VZEROUPPER()
	RET()
}

func toFloatAVX2() {
	TEXT("toFloatAVX2", NOSPLIT, "func(s *float32, top *float32, keys int)")
	Doc("toFloatAVX2 is toFloat.")
	s, top, keys := load("s"), load("top"), load("keys")
	count := GP64()
	MOVQ(U32(yvecs), count)
	Label("vector")
	var t [4]VecVirtual
	for j := range t {
		t[j] = YMM()
		VMOVUPS(Mem{Base: top, Disp: j * row32}, t[j])
	}
	p, n := GP64(), GP64()
	MOVQ(s, p)
	MOVQ(keys, n)
	Label("octet")
	for i := range 8 {
		x := YMM()
		m := Mem{Base: p, Disp: i * row32}
		VCVTDQ2PS(m, x)
		VMAXPS(t[i/2], x, t[i/2])
		VMOVUPS(x, m)
	}
	ADDQ(U32(8*row32), p)
	SUBQ(Imm(8), n)
	JNZ(LabelRef("octet"))
	for j := range t {
		VMOVUPS(t[j], Mem{Base: top, Disp: j * row32})
	}
	ADDQ(Imm(32), s)
	ADDQ(Imm(32), top)
	DECQ(count)
	JNZ(LabelRef("vector"))
	VZEROUPPER()
	RET()
}

func dequantizeAVX2(c *constants) {
	TEXT("dequantizeAVX2", NOSPLIT, "func(s *float32, top *float32, keys int, qscale, kscale, delta *float32, limit *int32, masked float32) uint32")
	Doc("dequantizeAVX2 is dequantize.")
	s, top, keys := load("s"), load("top"), load("keys")
	qscale, kscale, delta, limit := load("qscale"), load("kscale"), load("delta"), load("limit")
	masked := YMM()
	VBROADCASTSS(NewParamAddr("masked", 56), masked)
	bad := zeroY()
	count := GP64()
	MOVQ(U32(yvecs), count)
	Label("vector")
	p, n, key := GP64(), GP64(), GP64()
	MOVQ(s, p)
	XORQ(key, key)
	MOVQ(keys, n)
	Label("octet")
	for i := range 8 {
		x, scale, d, live, t := YMM(), YMM(), YMM(), YMM(), YMM()
		m := Mem{Base: p, Disp: i * row32}
		VCVTDQ2PS(m, x)
		VBROADCASTSS(Mem{Base: kscale, Index: key, Scale: 4, Disp: 4 * i}, scale)
		VMULPS(Mem{Base: qscale}, scale, scale)
		VBROADCASTSS(Mem{Base: delta, Index: key, Scale: 4, Disp: 4 * i}, d)
		VFMADD132PS(scale, d, x)
		r := GP32()
		LEAL(Mem{Base: key, Disp: i}, r)
		VMOVD(r, live.AsX())
		VPBROADCASTD(live.AsX(), live)
		VMOVDQU(Mem{Base: limit}, t)
		VPCMPGTD(live, t, live) // limit > key
		// Only scores that count are looked at.
		now := YMM()
		VPXOR(now, now, now)
		raiseY(now, x, c)
		raiseTinyY(now, x, c)
		raiseTinyY(now, scale, c)
		VPAND(live, now, now)
		VPOR(now, bad, bad)
		VBLENDVPS(live, x, masked, x)
		VMOVUPS(Mem{Base: top, Disp: i / 2 * row32}, t)
		VMAXPS(t, x, t)
		VMOVUPS(t, Mem{Base: top, Disp: i / 2 * row32})
		VMOVUPS(x, m)
	}
	ADDQ(U32(8*row32), p)
	ADDQ(Imm(8), key)
	SUBQ(Imm(8), n)
	JNZ(LabelRef("octet"))
	ADDQ(Imm(32), s)
	ADDQ(Imm(32), top)
	ADDQ(Imm(32), qscale)
	ADDQ(Imm(32), limit)
	DECQ(count)
	JNZ(LabelRef("vector"))
	retBad(bad)
}

// ex2AVX2 is ex2Unit.apply with gathered coefficients and the squarer bit by bit.
func ex2AVX2(x VecVirtual, table Register, c *constants) {
	w := YMM()
	VMULPS(splatY(c.u32(0x4b000000)), x, w)
	VCVTTPS2DQ(w, w)
	// Less one where negative with a fraction: add the sign, unless the fraction
	// is zero.
	t, u := YMM(), YMM()
	VPSLLD(Imm(9), w, t)
	VPCMPEQD(zeroY(), t, t)
	VPSRAD(Imm(31), w, u)
	VPANDN(u, t, t)
	VPADDD(t, w, w)
	// The truncated square.
	l, square := YMM(), YMM()
	VPAND(splatY(c.u32(0x1ff)), w, l)
	VPSRLD(Imm(9), w, square)
	VPAND(splatY(c.u32(0xff)), square, square)
	VPMADDWD(square, square, square)
	VPSRLD(Imm(1), square, square)
	for j := 1; j < 8; j++ {
		VPSRLD(Imm(uint64(9-j)), l, t)
		VPSLLD(Imm(uint64(31-9-j)), w, u)
		VPSRAD(Imm(31), u, u)
		VPAND(u, t, t)
		VPADDD(t, square, square)
	}
	segment := YMM()
	VPSRLD(Imm(17), w, segment)
	VPAND(splatY(c.u32(63)), segment, segment)
	gather := func(disp int, scale uint8) VecVirtual {
		mask, r := YMM(), YMM()
		VPCMPEQD(mask, mask, mask)
		VPXOR(r, r, r)
		VPGATHERDD(mask, Mem{Base: table, Disp: disp, Index: segment, Scale: scale}, r)
		return r
	}
	word := c.u32(0xffff)
	c2 := gather(384, 2)
	VPAND(splatY(word), c2, c2)
	VPMADDWD(square, c2, square)
	c0 := gather(0, 4)
	VPSLLD(Imm(13), c0, t)
	VPAND(splatY(c.u32(0x6000)), t, t)
	VPADDD(splatY(c.u32(0x77e2)), t, t)
	VPADDD(t, square, square)
	c1 := gather(256, 2)
	VPAND(splatY(word), c1, c1)
	VPSLLD(Imm(31), w, t)
	VPSRAD(Imm(31), t, t)
	VPAND(c1, t, t)
	VPADDD(t, square, square)
	VPSRLD(Imm(1), square, square)
	VPSRLD(Imm(1), w, t)
	VPAND(splatY(word), t, t)
	VPMULLD(t, c1, c1)
	VPADDD(square, c1, c1)
	VPSRLD(Imm(14), c1, c1)
	VPSRLD(Imm(2), c0, c0)
	VPADDD(c0, c1, c1)
	VPAND(splatY(c.u32(0xff800000)), w, w)
	VPADDD(splatY(c.u32(126<<23)), c1, c1)
	VPADDD(c1, w, w)
	VPCMPGTD(splatY(c.u32(0x007fffff)), w, t)
	VPAND(t, w, x)
}

func softmaxAVX2(c *constants) {
	TEXT("softmaxAVX2", NOSPLIT, "func(a *byte) uint32")
	Pragma("noescape")
	Doc("softmaxAVX2 is softmax.")
	args := load("a")
	field := func(i int) Register {
		r := GP64()
		MOVQ(Mem{Base: args, Disp: 8 * i}, r)
		return r
	}
	constant := func(i int) VecVirtual { return splatY(Mem{Base: args, Disp: 88 + 4*i}) }
	const smScale, offset, limit, quantum, lowest, floor = 0, 1, 2, 3, 4, 5
	table := field(10)
	local := AllocLocal(32 * 5)
	scale := func(j int) Mem { return local.Offset(32 * j) }
	factor := local.Offset(32 * 4)
	bad := zeroY()
	vector := GP64()
	XORQ(vector, vector)
	Label("vector")
	lane := func(base Register, disp int) Mem {
		return Mem{Base: base, Index: vector, Scale: 1, Disp: disp}
	}
	m, top := field(5), field(4)
	q, kscale := YMM(), field(9)
	VMOVUPS(lane(field(8), 0), q)
	max := YMM()
	VMOVUPS(lane(m, 0), max)
	for j := range threads {
		s, x := YMM(), YMM()
		VMULPS(splatY(Mem{Base: kscale, Disp: 4 * j}), q, s)
		raiseTinyY(bad, s, c)
		VMULPS(constant(smScale), s, s)
		raiseTinyY(bad, s, c)
		VMOVUPS(s, scale(j))
		VMOVUPS(lane(top, j*row32), x)
		VFMSUB132PS(s, constant(offset), x)
		raiseSmallestY(bad, x, c)
		flushY(x, c)
		VMAXPS(max, x, max) // x where x > max
	}
	raiseY(bad, max, c)
	f := YMM()
	VMOVUPS(lane(m, 0), f)
	VMOVUPS(max, lane(m, 0))
	VSUBPS(max, f, f)
	ex2AVX2(f, table, c)
	VMOVUPS(f, lane(field(7), 0))
	VMOVUPS(f, factor)
	pe, n, p, s, d := GP64(), field(3), field(0), field(2), field(6)
	MOVQ(vector, pe)
	SHRQ(Imm(2), pe)
	ADDQ(Mem{Base: args, Disp: 8}, pe)
	Label("block")
	for j := range threads {
		sum := YMM()
		for i, key := range []int{2 * j, 2*j + 1, 2*j + 8, 2*j + 9} {
			x, t := YMM(), YMM()
			VMOVUPS(lane(s, key*row32), x)
			VFMSUB132PS(scale(j), max, x)
			VCMPPS(Imm(6), constant(limit), x, t) // not x <= limit
			VPOR(t, bad, bad)
			ex2AVX2(x, table, c)
			if i == 0 {
				VMOVAPS(x, sum)
			} else {
				VADDPS(x, sum, sum)
			}
			big := YMM()
			VPAND(splatY(c.u32(0x7f800000)), x, big)
			VPADDD(constant(quantum), big, big)
			VPMAXSD(constant(lowest), big, big)
			VADDPS(big, x, x)
			VSUBPS(big, x, x)
			VMOVUPS(x, lane(p, key*row32))
			VPCMPEQD(zeroY(), x, t)
			VPSRLD(Imm(23), x, x)
			VPMAXSD(constant(floor), x, x)
			VPANDN(x, t, x)
			// The low bytes of the lanes.
			VEXTRACTI128(Imm(1), x, t.AsX())
			VPACKUSDW(t.AsX(), x.AsX(), x.AsX())
			VPACKUSWB(x.AsX(), x.AsX(), x.AsX())
			VMOVQ(x.AsX(), Mem{Base: pe, Disp: key * row8})
		}
		x := YMM()
		VMOVUPS(lane(d, j*row32), x)
		VFMADD132PS(factor, sum, x)
		raiseSmallestY(bad, x, c)
		flushY(x, c)
		VMOVUPS(x, lane(d, j*row32))
	}
	VMOVUPS(splatY(c.u32(0x3f800000)), factor)
	ADDQ(U32(16*row32), s)
	ADDQ(U32(16*row32), p)
	ADDQ(U32(16*row8), pe)
	DECQ(n)
	JNZ(LabelRef("block"))
	ADDQ(Imm(32), vector)
	CMPQ(vector, U32(row32))
	JNE(LabelRef("vector"))
	retBad(bad)
}

// dot13AVX2 rounds toward zero throughout, which truncates a positive product
// added to a positive sum and a negative one added to a negative sum: it begins
// at M with the positive elements and again at -M with the negative ones.
func dot13AVX2(name string, c *constants, half bool) {
	TEXT(name, NOSPLIT, "func(acc *float32, records, codes *uint8, values, p *float32, e *uint8, channels, stride int, bias uint32) uint32")
	Doc(name + " is dot13, or dot13Half.")
	acc, records, codes, values := load("acc"), load("records"), load("codes"), load("values")
	p, e, channels := load("p"), load("e"), load("channels")
	local := AllocLocal(32*2*yvecs + 8)
	magic := func(i int) Mem { return local.Offset(32 * i) }
	positive := func(i int) Mem { return local.Offset(32 * (yvecs + i)) }
	bias := local.Offset(64 * yvecs)
	MOVL(Load(Param("bias"), GP32()), bias)
	mode := towardZero()
	bad := zeroY()
	Label("channel")
	list, pairs, ap, cp, ep := GP64(), GP64(), GP64(), GP64(), GP64()
	MOVBQZX(Mem{Base: records}, ap)
	MOVQ(ap, cp)
	MOVQ(ap, ep)
	SHLQ(Imm(8), ap)
	SHLQ(Imm(5), cp)
	SHLQ(Imm(6), ep)
	ADDQ(acc, ap)
	ADDQ(codes, cp)
	ADDQ(e, ep)
	LEAQ(Mem{Base: records, Disp: 4}, list)
	var a [yvecs]VecVirtual
	for i := range a {
		x, max, t := YMM(), YMM(), YMM()
		a[i] = YMM()
		VMOVUPS(Mem{Base: ap, Disp: 32 * i}, x)
		VPMOVZXBD(Mem{Base: ep, Disp: 8 * i}, max)
		VPBROADCASTD(bias, t)
		VPSUBD(t, max, max)
		VPSLLD(Imm(1), x, t)
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
		VPSLLD(Imm(23), max, max)
		VPADDD(splatY(c.u32(10<<23|1<<22)), max, t)
		VMOVDQU(t, magic(i))
		scale := splatY(c.u32((127 + 13 + 127) << 23 & 0xffffffff))
		VPSUBD(max, scale, scale)
		VMULPS(scale, x, x)
		VCVTTPS2DQ(x, x)
		VPADDD(x, t, a[i])
	}
	element := func(k int) {
		key, code, v := GP64(), GP64(), YMM()
		MOVBQZX(Mem{Base: list, Disp: k}, key)
		MOVBQZX(Mem{Base: cp, Index: key, Scale: 1}, code)
		VBROADCASTSS(Mem{Base: values, Index: code, Scale: 4}, v)
		SHLQ(Imm(8), key)
		ADDQ(p, key)
		for i := range a {
			VFMADD231PS(Mem{Base: key, Disp: 32 * i}, v, a[i])
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
		VSUBPS(magic(i), a[i], a[i])
		VMOVUPS(a[i], positive(i))
		VPBROADCASTD(c.u32(1<<31), a[i])
		VPXOR(magic(i), a[i], a[i])
	}
	element(1)
	ADDQ(Imm(2), list)
	loop("negative", 2)
	for i := range a {
		VADDPS(magic(i), a[i], a[i])
		VADDPS(positive(i), a[i], a[i])
		if half {
			VCVTPS2PH(Imm(0), a[i], a[i].AsX())
			VCVTPH2PS(a[i].AsX(), a[i])
			VADDPS(zeroY(), a[i], a[i]) // -0, of a sum that rounds to zero, becomes +0
			raiseY(bad, a[i], c)
		} else {
			VPAND(splatY(c.u32(truncateFP22)), a[i], a[i])
		}
		VMOVUPS(a[i], Mem{Base: ap, Disp: 32 * i})
	}
	ADDQ(NewParamAddr("stride", 56), records)
	DECQ(channels)
	JNZ(LabelRef("channel"))
	LDMXCSR(mode.old)
	retBad(bad)
}

func addTileAVX2(c *constants) {
	TEXT("addTileAVX2", NOSPLIT, "func(o, tile, rescale *float32, channels int) uint32")
	Doc("addTileAVX2 is addTile.")
	o, tile, rescale, channels := load("o"), load("tile"), load("rescale"), load("channels")
	bad := zeroY()
	Label("channel")
	for i := range yvecs {
		x, t := YMM(), YMM()
		VMOVUPS(Mem{Base: o, Disp: 32 * i}, x)
		VMOVUPS(Mem{Base: rescale, Disp: 32 * i}, t)
		VFMADD213PS(Mem{Base: tile, Disp: 32 * i}, t, x)
		VMOVUPS(zeroY(), Mem{Base: tile, Disp: 32 * i})
		raiseSmallestY(bad, x, c)
		flushY(x, c)
		raiseY(bad, x, c)
		VMOVUPS(x, Mem{Base: o, Disp: 32 * i})
	}
	ADDQ(U32(row32), o)
	ADDQ(U32(row32), tile)
	DECQ(channels)
	JNZ(LabelRef("channel"))
	retBad(bad)
}

func meanDotsAVX2(c *constants) {
	TEXT("meanDotsAVX2", NOSPLIT, "func(out, x, q *float32, groups, dim int)")
	Doc("meanDotsAVX2 is meanDots.")
	out, x, q, groups, dim := load("out"), load("x"), load("q"), load("groups"), load("dim")
	before := AllocLocal(8)
	STMXCSR(before)
	LDMXCSR(c.u32(flushControl))
	Label("group")
	acc := [2]VecVirtual{zeroY(), zeroY()}
	ch := GP64()
	XORQ(ch, ch)
	Label("channel")
	f := splatY(Mem{Base: q, Index: ch, Scale: 4})
	for i := range acc {
		VFMADD231PS(Mem{Base: x, Disp: 32 * i}, f, acc[i])
	}
	ADDQ(Imm(64), x)
	INCQ(ch)
	CMPQ(ch, dim)
	JNE(LabelRef("channel"))
	for i := range acc {
		VMOVUPS(acc[i], Mem{Base: out, Disp: 32 * i})
	}
	ADDQ(Imm(64), out)
	DECQ(groups)
	JNZ(LabelRef("group"))
	LDMXCSR(before)
	VZEROUPPER()
	RET()
}

func dotIntegerAVX2() {
	TEXT("dotIntegerAVX2", NOSPLIT, "func(acc *float32, codes *uint8, values, p *float32, channels int)")
	Doc("dotIntegerAVX2 is dotInteger.")
	acc, codes, values, p, channels := load("acc"), load("codes"), load("values"), load("p"), load("channels")
	Label("channel")
	var a [yvecs]VecVirtual
	for i := range a {
		a[i] = YMM()
		VMOVUPS(Mem{Base: acc, Disp: 32 * i}, a[i])
	}
	for key := range 32 {
		code, v := GP64(), YMM()
		MOVBQZX(Mem{Base: codes, Disp: key}, code)
		VBROADCASTSS(Mem{Base: values, Index: code, Scale: 4}, v)
		for i := range a {
			VFMADD231PS(Mem{Base: p, Disp: key*row32 + 32*i}, v, a[i])
		}
	}
	for i := range a {
		VMOVUPS(a[i], Mem{Base: acc, Disp: 32 * i})
	}
	ADDQ(U32(row32), acc)
	ADDQ(Imm(32), codes)
	DECQ(channels)
	JNZ(LabelRef("channel"))
	VZEROUPPER()
	RET()
}
