// Command asm generates the kernels of package vec for amd64.
//
// Every kernel works on a strip of 64 query rows that lie in the lanes of
// vector registers, 16 to a register, so that what a thread of the GPU does for
// its row is a vertical operation here and no sum crosses lanes.
package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/ir"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// rows is the number of rows of a strip, vecs the registers that hold them.
const (
	rows = 64
	vecs = rows / 16
)

// Byte sizes of a row of a strip's matrices in memory.
const (
	row32 = rows * 4
	row8  = rows
)

func main() {
	ConstraintExpr("!purego")
	qk()
	toFloat()
	dequantize()
	softmax()
	exponents("exponents", 16, 8, 8, false)
	exponents("exponentsByWords", 16, 8, 8, true)
	exponents("exponentsSplit", 16, 8, 16, false)
	exponents("exponentsOctet", 8, 4, 8, false)
	dotWide("dot25", 25, false, false)
	dotWide("dot25Half", 25, true, false)
	dotWide("dot25FP16", 25, false, true)
	dotWide("dot25FP16Half", 25, true, true)
	dotWide("dot24FP16", 24, false, true)
	dotWide("dot24FP16Half", 24, true, true)
	dotExact("dotExact", false)
	dotExact("dotExactHalf", true)
	widen()
	addSums("addSums", false)
	addSums("addSumsHalf", true)
	dot13("dot13", false, 1)
	dot13("dot13Half", true, 1)
	dot13("dot13Two", false, 2)
	dot13("dot13TwoHalf", true, 2)
	dot13Signed()
	dotInteger()
	addTile()
	rescale()
	meanDots()
	turn(zmm)
	turn(ymm)
	absMax()
	subtract("subtractFP16", roundFP16)
	subtract("subtractBF16", roundBF16)
	subtract("subtractFP32", nil)
	quantize("quantizeAway", false, true)
	quantize("quantizeEven", false, false)
	quantize("quantizeDivide", true, false)
	encode("encodeE4M3Fused", false, e4m3)
	encode("encodeE4M3Paper", true, e4m3)
	encode("encodeE5M2Fused", false, e5m2)
	encode("encodeE5M2Paper", true, e5m2)
	finite()
	extremes()
	addMeans()
	partition()
	elementSigns()
	pairRecords()
	finish("finishFP16", roundFP16)
	finish("finishBF16", roundBF16)
	finish("finishFP32", nil)
	lanes()
	avx2()
	lanesAVX2()
	wideAVX2()
	quantAVX2()
	Generate()
}

// roundFP16 and roundBF16 round to nearest even. The latter is not for NaN.
func roundFP16(x VecVirtual, _ *constants) {
	if x.Size() == uint(ymm.bytes) {
		VCVTPS2PH(Imm(0), x, x.AsX())
		VCVTPH2PS(x.AsX(), x)
		return
	}
	h := YMM()
	VCVTPS2PH(Imm(0), x, h)
	VCVTPH2PS(h, x)
}

func roundBF16(x VecVirtual, c *constants) {
	odd := ZMM()
	VPSRLD(Imm(16), x, odd)
	VPANDD_BCST(c.u32(1), odd, odd)
	VPADDD_BCST(c.u32(0x7fff), odd, odd)
	VPADDD(odd, x, x)
	VPANDD_BCST(c.u32(0xffff0000), x, x)
}

// at returns the memory operand of vector i of a strip row.
func at(base Register, disp, i int) Mem { return Mem{Base: base, Disp: disp + 64*i} }

// vnni emits an AVX512_VNNI instruction, which avo does not know: acc += x*y.
func vnni(opcode string, y Op, x, acc Register) {
	Instruction(&ir.Instruction{
		Opcode: opcode, Operands: []Op{y, x, acc},
		Inputs: []Op{y, x, acc}, Outputs: []Op{acc},
		ISA: []string{"AVX512VNNI", "AVX512F"},
	})
}

func load(name string) Register { return Load(Param(name), GP64()) }

// arguments is where a function finds the struct of its arguments.
type arguments struct{ at Register }

func (a arguments) field(disp int) Mem { return Mem{Base: a.at, Disp: disp} }

// loaded returns a pointer or a number of the arguments.
func (a arguments) loaded(disp int) Register {
	r := GP64()
	MOVQ(a.field(disp), r)
	return r
}

// retMask returns the mask k as the result "bad": not zero if any lane of any
// step raised it.
func retMask(k Register) {
	r := GP32()
	KMOVW(k, r)
	Store(r, ReturnIndex(0))
	VZEROUPPER()
	RET()
}

// qk is the integer product of a strip with keys, by VPDPBUSD. That instruction
// multiplies unsigned by signed bytes, so the queries come biased by 128 and the
// sums start from -128 times the sum of the key's codes.
func qk() {
	TEXT("qk", NOSPLIT, "func(out *int32, q *uint8, k *int8, bias *int32, stride, quads, keys int)")
	Doc("qk writes out[key][row] for keys (a multiple of 4) of quads*4 codes each; q is [quads][64][4].")
	out, q, k, bias := load("out"), load("q"), load("k"), load("bias")
	stride, quads, keys := load("stride"), load("quads"), load("keys")
	three := GP64()
	LEAQ(Mem{Base: stride, Index: stride, Scale: 2}, three)
	Label("key")
	{
		var acc [4][vecs]VecVirtual
		for j := range acc {
			z := ZMM()
			VPBROADCASTD(Mem{Base: bias, Disp: 4 * j}, z)
			for i := range acc[j] {
				acc[j][i] = ZMM()
				VMOVDQA32(z, acc[j][i])
			}
		}
		kp, qp, n := GP64(), GP64(), GP64()
		MOVQ(k, kp)
		MOVQ(q, qp)
		MOVQ(quads, n)
		Label("quad")
		var x [vecs]VecVirtual
		for i := range x {
			x[i] = ZMM()
			VMOVDQU32(at(qp, 0, i), x[i])
		}
		for j := range acc {
			m := Mem{Base: kp}
			switch j {
			case 1:
				m.Index, m.Scale = stride, 1
			case 2:
				m.Index, m.Scale = stride, 2
			case 3:
				m.Index, m.Scale = three, 1
			}
			b := ZMM()
			VPBROADCASTD(m, b)
			for i := range x {
				vnni("VPDPBUSD", b, x[i], acc[j][i])
			}
		}
		ADDQ(U32(row32), qp)
		ADDQ(Imm(4), kp)
		DECQ(n)
		JNZ(LabelRef("quad"))
		for j := range acc {
			for i := range acc[j] {
				VMOVDQU32(acc[j][i], at(out, j*row32, i))
			}
		}
	}
	LEAQ(Mem{Base: k, Index: stride, Scale: 4}, k)
	ADDQ(U32(4*row32), out)
	ADDQ(Imm(16), bias)
	SUBQ(Imm(4), keys)
	JNZ(LabelRef("key"))
	VZEROUPPER()
	RET()
}

// toFloat and dequantize turn integer scores into the scores of the softmax and
// find each thread's row maximum. Keys are taken 8 at a time: keys 2j and 2j+1
// belong to thread j.
func toFloat() {
	TEXT("toFloat", NOSPLIT, "func(s *float32, top *float32, keys int)")
	Doc("toFloat converts s[key][row] from int32 in place and raises top[thread][row] to the maximum.")
	s, top, keys := load("s"), load("top"), load("keys")
	count := GP64()
	MOVQ(U32(vecs), count)
	Label("vector")
	var t [4]VecVirtual
	for j := range t {
		t[j] = ZMM()
		VMOVUPS(Mem{Base: top, Disp: j * row32}, t[j])
	}
	p, n := GP64(), GP64()
	MOVQ(s, p)
	MOVQ(keys, n)
	Label("octet")
	for i := range 8 {
		x := ZMM()
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
	ADDQ(Imm(64), s)
	ADDQ(Imm(64), top)
	DECQ(count)
	JNZ(LabelRef("vector"))
	VZEROUPPER()
	RET()
}

func dequantize() {
	TEXT("dequantize", NOSPLIT, "func(s *float32, top *float32, keys int, qscale, kscale, delta *float32, limit *int32, masked float32) uint32")
	Doc("dequantize is toFloat with s = s*(qscale[row]*kscale[key]) + delta[key] in one rounding, flushing subnormal results, and",
		"masked from key limit[row] on. The result is not zero if a score that is not masked is NaN or infinite.")
	s, top, keys := load("s"), load("top"), load("keys")
	qscale, kscale, delta, limit := load("qscale"), load("kscale"), load("delta"), load("limit")
	masked := ZMM()
	VBROADCASTSS(NewParamAddr("masked", 56), masked)
	control := newConstants("dequantizeConstants").u32(flushControl)
	before := AllocLocal(8)
	STMXCSR(before)
	LDMXCSR(control)
	// NaN from then on; each waits for itself, not for the others.
	zero, nan := ZMM(), [4]VecVirtual{}
	VPXORD(zero, zero, zero)
	for i := range nan {
		nan[i] = ZMM()
		VPXORD(nan[i], nan[i], nan[i])
	}
	count := GP64()
	MOVQ(U32(vecs), count)
	Label("vector")
	var t [4]VecVirtual
	for j := range t {
		t[j] = ZMM()
		VMOVUPS(Mem{Base: top, Disp: j * row32}, t[j])
	}
	qs, lim := ZMM(), ZMM()
	VMOVUPS(Mem{Base: qscale}, qs)
	VMOVDQU32(Mem{Base: limit}, lim)
	p, n, key := GP64(), GP64(), GP64()
	MOVQ(s, p)
	XORQ(key, key)
	MOVQ(keys, n)
	octet := func(label string, whole bool) {
		Label(label)
		for i := range 8 {
			x, scale, d := ZMM(), ZMM(), ZMM()
			m := Mem{Base: p, Disp: i * row32}
			VCVTDQ2PS(m, x)
			VMULPS_BCST(Mem{Base: kscale, Index: key, Scale: 4, Disp: 4 * i}, qs, scale)
			VBROADCASTSS(Mem{Base: delta, Index: key, Scale: 4, Disp: 4 * i}, d)
			VFMADD132PS(scale, d, x)
			if whole {
				VFMADD231PS(zero, x, nan[i%4])
			} else {
				// Only scores that count are looked at.
				live, r, kk := K(), GP32(), ZMM()
				LEAL(Mem{Base: key, Disp: i}, r)
				VPBROADCASTD(r, kk)
				VPCMPD(Imm(6), kk, lim, live) // limit > key
				VFMADD231PS(zero, x, live, nan[i%4])
				VBLENDMPS(x, masked, live, x)
			}
			VMAXPS(t[i/2], x, t[i/2])
			VMOVUPS(x, m)
		}
		ADDQ(U32(8*row32), p)
		ADDQ(Imm(8), key)
		SUBQ(Imm(8), n)
		JNZ(LabelRef(label))
	}
	end, all, r := ZMM(), K(), GP32()
	VPBROADCASTD(keys.(GPVirtual).As32(), end)
	VPCMPD(Imm(1), end, lim, all) // limit < keys
	KMOVW(all, r)
	TESTL(r, r)
	JNZ(LabelRef("octet"))
	octet("whole", true)
	JMP(LabelRef("done"))
	octet("octet", false)
	Label("done")
	for j := range t {
		VMOVUPS(t[j], Mem{Base: top, Disp: j * row32})
	}
	ADDQ(Imm(64), s)
	ADDQ(Imm(64), top)
	ADDQ(Imm(64), qscale)
	ADDQ(Imm(64), limit)
	DECQ(count)
	JNZ(LabelRef("vector"))
	LDMXCSR(before)
	for _, n := range nan[1:] {
		VADDPS(n, nan[0], nan[0])
	}
	bad := K()
	VCMPPS(Imm(3), nan[0], nan[0], bad) // unordered
	retMask(bad)
}

// constants lays out 32- and 64-bit constants for embedded broadcasts.
type constants struct {
	mem   Mem
	n     int
	words map[uint32]Mem
}

func newConstants(name string) *constants {
	return &constants{mem: GLOBL(name, RODATA|NOPTR), words: map[uint32]Mem{}}
}

func (c *constants) u32(x uint32) Mem {
	if m, ok := c.words[x]; ok {
		return m
	}
	c.words[x] = c.mem.Offset(c.n)
	DATA(c.n, U32(x))
	c.n += 4
	return c.words[x]
}

func (c *constants) u64(x uint64) Mem {
	DATA(c.n, U64(x))
	c.n += 8
	return c.mem.Offset(c.n - 8)
}

// offsets is the control of VPMULTISHIFTQB that puts, into the four bytes of
// both 32-bit lanes of a quadword, the eight bits that begin at the given ones.
func offsets(a, b, c, d uint64) uint64 {
	lo := a | b<<8 | c<<16 | d<<24
	return lo | (lo+0x20202020)<<32
}

// ex2Unit holds the tables and constants of the special function unit.
type ex2Unit struct {
	sum, both [4]VecVirtual
	// Pairs of controls: bytes of t's low part, shifted, and the bits of its high
	// part that select them.
	select1, select2                       [2]Mem
	scale, fraction, one, low9, low8, ones Mem
	low2, low15, upper, round, whole       Mem
	lowest, least                          Mem
}

// loadEx2 loads the tables, laid out as in vec.Ex2Table, for a kernel.
func loadEx2(table Register, kernel string) *ex2Unit {
	c := newConstants(kernel + "Ex2")
	e := &ex2Unit{
		select1:  [2]Mem{c.u64(offsets(8, 7, 6, 5)), c.u64(offsets(10, 11, 12, 13))},
		select2:  [2]Mem{c.u64(offsets(4, 3, 2, 20)), c.u64(offsets(14, 15, 16, 20))},
		scale:    c.u32(0x4b000000), // 2^23
		fraction: c.u32(0x7fffff),
		one:      c.u32(1),
		low9:     c.u32(0x1ff),
		low8:     c.u32(0xff),
		ones:     c.u32(0x01010101),
		low2:     c.u32(3),
		low15:    c.u32(0x7fff),
		upper:    c.u32(1 << 22), // half of the segments
		round:    c.u32(0x77e2),
		whole:    c.u32(0xff81ffff), // the integer, and t
		lowest:   c.u32(0x00800000),
		least:    c.u32(0xce7e0000), // -127 * 2^23
	}
	for i := range e.sum {
		e.sum[i], e.both[i] = ZMM(), ZMM()
		VMOVDQU32(at(table, 516, i), e.sum[i])
		VMOVDQU32(at(table, 772, i), e.both[i])
	}
	return e
}

// apply replaces x by ex2.approx.ftz.f32 of it, for x < 128 and not NaN: package
// mufu in 32-bit integers. Its C0<<13 + C1*t + C2*sq(t) + rounding, shifted right by 15, is that
// with C1 less 2^15, which is a signed word, and t added behind: and of that, without C0, four times
// C1*(t>>2) and C1*(t&3) + C2*sq(t) + rounding, two products of pairs of words.
func (e *ex2Unit) apply(x VecVirtual) {
	VMULPS_BCST(e.scale, x, x)
	e.applyScaled(x)
	// What falls below the smallest normal number is zero.
	normal := K()
	VPCMPD_BCST(Imm(5), e.lowest, x, normal)
	VMOVDQA32_Z(x, normal, x)
}

// applyScaled is apply for each x times 2^23 that is least at least, and leaves numbers below the
// smallest normal one. The instructions of all alternate, so that none waits long for the one before.
func (e *ex2Unit) applyScaled(xs ...VecVirtual) {
	var all [][]func()
	for _, x := range xs {
		all = append(all, e.steps(x))
	}
	for i := range all[0] {
		for _, steps := range all {
			steps[i]()
		}
	}
}

// steps returns what applyScaled does, an instruction or a few at a time.
func (e *ex2Unit) steps(x VecVirtual) []func() {
	negative, complement, top := K(), K(), K()
	w, segment, l, square, low2, rest, quarter := ZMM(), ZMM(), ZMM(), ZMM(), ZMM(), ZMM(), ZMM()
	both, sum := new(VecVirtual), new(VecVirtual)
	steps := []func(){
		// w is x in fixed point; a negative one with a fraction takes the one's complement.
		func() { VCVTTPS2DQ(x, w) },
		func() { VPMOVD2M(w, negative) },
		func() { VPTESTMD_BCST(e.fraction, w, negative, complement) },
		func() { VPSUBD_BCST(e.one, w, complement, w) },
		func() { VPSRLD(Imm(17), w, segment) },
		// The truncated square: h*h>>1 plus, for each bit j of h, l >> (9-j).
		func() { VPANDD_BCST(e.low9, w, l) },
		func() { VPSRLD(Imm(9), w, square) },
		func() { VPANDD_BCST(e.low8, square, square) },
		func() { VPMADDWD(square, square, square) },
		func() { VPSRLD(Imm(1), square, square) },
	}
	for _, s := range [][2]Mem{e.select1, e.select2} {
		a, b := ZMM(), ZMM()
		steps = append(steps,
			func() { VPBROADCASTQ(s[0], a); VPMULTISHIFTQB(l, a, a) },
			func() { VPBROADCASTQ(s[1], b); VPMULTISHIFTQB(w, b, b) },
			func() { VPANDD_BCST(e.ones, b, b) },
			func() { vnni("VPDPBUSD", b, a, square) },
		)
	}
	// The coefficients.
	steps = append(steps, func() { VPTESTMD_BCST(e.upper, w, top) })
	for _, c := range []struct {
		table [4]VecVirtual
		found *VecVirtual
	}{{e.both, both}, {e.sum, sum}} {
		upper := new(VecVirtual)
		steps = append(steps,
			func() {
				*c.found = ZMM()
				VMOVDQA32(segment, *c.found)
				VPERMI2D(c.table[1], c.table[0], *c.found)
			},
			func() {
				*upper = ZMM()
				VMOVDQA32(segment, *upper)
				VPERMI2D(c.table[3], c.table[2], *upper)
			},
			func() { VMOVDQA32(*upper, top, *c.found) },
		)
	}
	return append(steps,
		func() { VPSLLD(Imm(16), square, square) },
		func() { VPBROADCASTD(e.low2, low2); VPTERNLOGD(Imm(orAnd), low2, w, square) },
		func() { VPBROADCASTD(e.round, rest); vnni("VPDPWSSD", *both, square, rest) },
		func() { VPSRAD(Imm(2), rest, rest) },
		func() { VPSRLD(Imm(2), w, quarter) },
		func() { VPANDD_BCST(e.low15, quarter, quarter) },
		func() { vnni("VPDPWSSD", *both, quarter, rest) },
		func() { VPSRAD(Imm(11), rest, rest) },
		func() { VPADDD(*sum, rest, rest) },
		func() { VPSRLD(Imm(2), rest, rest) },
		func() { VPANDD_BCST(e.whole, w, w) },
		func() { VPADDD(rest, w, x) },
	)
}

// classes of VFPCLASSPS.
const (
	classNaN       = 0x01 | 0x80
	classInf       = 0x08 | 0x10
	classSubnormal = 0x20
)

// flush replaces subnormal lanes by zeros of their sign.
func flush(x VecVirtual, sign Mem) {
	k := K()
	VFPCLASSPSZ(Imm(classSubnormal), x, k)
	VPANDD_BCST(sign, x, k, x)
}

// smallest is twice the bits of 2^-126. A result of so much may have been less before it was
// rounded, which an operation that flushes must know (package format).
const smallest = 2 * 0x00800000

// raiseSmallest sets in bad the lanes of x that are 2^-126 or its negative. least holds
// smallest.
func raiseSmallest(bad Register, x VecVirtual, least Mem) {
	twice, k := ZMM(), K()
	VPADDD(x, x, twice)
	VPCMPEQD_BCST(least, twice, k)
	KORW(k, bad, bad)
}

// raise sets in bad the lanes of x in the classes.
func raise(bad Register, classes uint64, x VecVirtual) {
	k := K()
	VFPCLASSPSZ(Imm(classes), x, k)
	KORW(k, bad, bad)
}

// softmaxKeys is how many keys' exponentials softmax finds side by side.
const softmaxKeys = 2

// softmax is the online softmax of a strip.
func softmax() {
	TEXT("softmax", NOSPLIT, "func(a *byte) uint32")
	Pragma("noescape") // so that its operands need not be on the heap
	Doc("softmax is the online softmax of a strip and a tile of keys, without PE; see SoftmaxArgs.",
		"The result is not zero if a value left the range in which this is exact.")
	args := load("a")
	field := func(i int) Register {
		r := GP64()
		MOVQ(Mem{Base: args, Disp: 8 * i}, r)
		return r
	}
	unit := loadEx2(field(10), "softmax")
	constant := func(i int) Mem { return Mem{Base: args, Disp: 88 + 4*i} }
	smScale, offset, limit := constant(0), constant(1), constant(2)
	quantum, lowest := constant(3), constant(4)
	c := newConstants("softmaxConstants")
	sign, least := c.u32(1<<31), c.u32(smallest)
	exponent := c.u32(0x7f800000)
	one, abs := c.u32(0x3f800000), c.u32(1<<31-1)
	large := c.u32((127 + 100) << 23)
	control := c.u32(flushControl)
	bad := K()
	KXORW(bad, bad, bad)
	raiseLarge := func(x VecVirtual) {
		k := K()
		VPCMPUD_BCST(Imm(5), large, x, k) // not less than, as are numbers below zero and NaN
		KORW(k, bad, bad)
	}
	before := AllocLocal(8)
	STMXCSR(before)
	// vector is the byte offset of the 16 rows in a strip's row.
	vector := GP64()
	XORQ(vector, vector)
	Label("vector")
	lane := func(base Register, disp int) Mem {
		return Mem{Base: base, Index: vector, Scale: 1, Disp: disp}
	}
	m, top := field(5), field(4)
	q, kscale := ZMM(), field(9)
	VMOVUPS(lane(field(8), 0), q)
	old, max, scale := ZMM(), ZMM(), [threads]VecVirtual{}
	VMOVUPS(lane(m, 0), old)
	VMOVAPS(old, max)
	off := ZMM()
	VBROADCASTSS(offset, off)
	for j := range scale {
		scale[j] = ZMM()
		VMULPS_BCST(Mem{Base: kscale, Disp: 4 * j}, q, scale[j])
		raise(bad, classSubnormal, scale[j])
		raiseSmallest(bad, scale[j], least)
		VMULPS_BCST(smScale, scale[j], scale[j])
		raise(bad, classSubnormal, scale[j])
		raiseSmallest(bad, scale[j], least)
		raiseLarge(scale[j])
		x := ZMM()
		VMOVUPS(lane(top, j*row32), x)
		VFMSUB132PS(scale[j], off, x)
		raiseSmallest(bad, x, least)
		flush(x, sign)
		VMAXPS(max, x, max) // x where x > max
	}
	VMOVUPS(max, lane(m, 0))
	factor := old
	VSUBPS(max, old, factor)
	unit.apply(factor)
	VMOVUPS(factor, lane(field(7), 0))
	size := ZMM()
	VPANDD_BCST(abs, max, size)
	raiseLarge(size)
	// Exponents in units of the fixed point's last place; from here on weights too small are
	// zeros to all that takes them.
	VMULPS_BCST(unit.scale, max, max)
	for _, x := range scale {
		VMULPS_BCST(unit.scale, x, x)
	}
	most := ZMM()
	VBROADCASTSS(unit.least, most)
	LDMXCSR(control)
	n, p, s, d := field(3), field(0), field(2), field(6)
	Label("block")
	for j := range threads {
		sum := ZMM()
		keys := []int{2 * j, 2*j + 1, 2*j + 8, 2*j + 9}
		for i := 0; i < len(keys); i += softmaxKeys {
			xs := make([]VecVirtual, softmaxKeys)
			for n := range xs {
				x := ZMM()
				VMOVUPS(lane(s, keys[i+n]*row32), x)
				VFMSUB132PS(scale[j], max, x)
				VMAXPS_BCST(unit.least, x, x)
				VMAXPS(x, most, most)
				xs[n] = x
			}
			unit.applyScaled(xs...)
			for n, x := range xs {
				if i+n == 0 {
					VMOVAPS(x, sum)
				} else {
					VADDPS(x, sum, sum)
				}
				// Rounded to FP8 by adding and subtracting a power of two that has
				// the format's quantum as its ulp.
				big := ZMM()
				VPANDD_BCST(exponent, x, big)
				VPADDD_BCST(quantum, big, big)
				VPMAXSD_BCST(lowest, big, big)
				VADDPS(big, x, x)
				VSUBPS(big, x, x)
				VMOVUPS(x, lane(p, keys[i+n]*row32))
			}
		}
		x := ZMM()
		VMOVUPS(lane(d, j*row32), x)
		VFMADD132PS(factor, sum, x)
		raiseSmallest(bad, x, least)
		VMOVUPS(x, lane(d, j*row32))
	}
	// Later blocks are added without rescaling.
	VBROADCASTSS(one, factor)
	ADDQ(U32(16*row32), s)
	ADDQ(U32(16*row32), p)
	DECQ(n)
	JNZ(LabelRef("block"))
	LDMXCSR(before)
	end, over := ZMM(), K()
	VBROADCASTSS(limit, end)
	VMULPS_BCST(unit.scale, end, end)
	VCMPPS(Imm(6), end, most, over) // not most <= limit
	KORW(over, bad, bad)
	ADDQ(Imm(64), vector)
	CMPQ(vector, U32(row32))
	JNE(LabelRef("vector"))
	retMask(bad)
}

const threads = 4

// exponents is the first pass of the dot-add: the largest sum of exponents over
// n keys, for 64 rows at a time in the bytes of a register. The keys come in runs,
// each of which begins stride keys after the one before. With words, four rows 16 apart share a
// 32-bit lane, from which a shift makes each the exponent of an FP32 number.
func exponents(name string, n, run, stride int, words bool) {
	if words {
		TEXT(name, NOSPLIT, "func(e, pe, codes *uint8, table *uint32, channels int, keep, least uint32)")
	} else {
		TEXT(name, NOSPLIT, "func(e, pe, codes *uint8, table *uint32, channels int, keep uint32)")
	}
	Doc(name+fmt.Sprintf(" writes e[channel][row] = max over %d keys, runs of %d from 0 and %d on, of pe[key][row] + table[codes[channel][key]];", n, run, stride),
		"codes has a stride of 32. keep is zero or, to go on from what e holds, all ones."+
			map[bool]string{true: " It starts from least in each byte, zero where keep is not; byte 4*i+j of e is of row 16*j+i."}[words])
	key := func(i int) int { return i%run + i/run*stride }
	e, pe, codes, table, channels := load("e"), load("pe"), load("codes"), load("table"), load("channels")
	keep := ZMM()
	VPBROADCASTD(Load(Param("keep"), GP32()), keep)
	order, least := ZMM(), ZMM()
	if words {
		c := newConstants(name + "Constants")
		mem := c.mem
		for i := range uint64(8) {
			// Two words, of rows 16*j+2*i and 16*j+2*i+1.
			c.u64(0x3020100030201000 + 2*i*0x0101010101010101 + 0x0101010100000000)
		}
		VMOVDQU64(mem, order)
		VPBROADCASTD(Load(Param("least"), GP32()), least)
	}
	p := make([]VecVirtual, n)
	for i := range p {
		p[i] = ZMM()
		VMOVDQU32(Mem{Base: pe, Disp: key(i) * row8}, p[i])
		if words {
			VPERMB(p[i], order, p[i])
		}
	}
	Label("channel")
	var max [2]VecVirtual
	max[0], max[1] = ZMM(), ZMM()
	if words {
		VMOVDQU32(Mem{Base: e}, max[0])
		VPTERNLOGD(Imm(andOr), least, keep, max[0])
	} else {
		VPANDD(Mem{Base: e}, keep, max[0])
	}
	for i := range p {
		code, x := GP64(), ZMM()
		MOVBQZX(Mem{Base: codes, Disp: key(i)}, code)
		VPADDD_BCST(Mem{Base: table, Index: code, Scale: 4}, p[i], x)
		switch i {
		case 1:
			VMOVDQA32(x, max[1])
		default:
			VPMAXUB(x, max[i%2], max[i%2])
		}
	}
	VPMAXUB(max[1], max[0], max[0])
	VMOVDQU32(max[0], Mem{Base: e})
	ADDQ(Imm(64), e)
	ADDQ(Imm(32), codes)
	DECQ(channels)
	JNZ(LabelRef("channel"))
	VZEROUPPER()
	RET()
}

// truncateFP22 keeps the bits of an FP32 pattern that format.TruncateFP22 keeps: it is
// that rule, for finite numbers.
const truncateFP22 = 0xffffffff - 0x3ff // 0x3ff is format.FP22Dropped

// dotWide is dot13 in FP64, for a unit that keeps f fraction bits: M = 1.5 * 2^(E+52-f)
// has an ulp of 2^(E-f). Sums are rounded toward zero to FP32 or, with half, to nearest
// even to FP16. With matrix the values are not a table of codes but [channel][32] ones.
func dotWide(name string, f int, half, matrix bool) {
	const vecs = rows / 8
	TEXT(name, NOSPLIT, "func(acc *float32, records, codes *uint8, values *float64, p *float32, e *uint8, channels, stride int, bias uint64) uint32")
	text := []string{name + " adds one step's products to acc[channel][row]; see Values for records and", "exponents for e, whose values are bias too large."}
	if matrix {
		text = append(text, "values is [channel][32], codes is not used.")
	}
	Doc(append(text, "The result is not zero if a sum is infinite.")...)
	acc, records, codes, values := load("acc"), load("records"), load("codes"), load("values")
	p, e, channels := load("p"), load("e"), load("channels")
	c := newConstants(name + "Constants")
	toMagic := c.u64(uint64(1023-127+52-f)<<52 | 1<<51)
	toScale := c.u64(uint64(1023+127+f) << 52)
	least := c.u64(31)
	lowest := c.u64(127 - 14)
	h := newHalf(c)
	bad := K()
	KXORW(bad, bad, bad)
	bias := ZMM()
	VPBROADCASTQ(Load(Param("bias"), GP64()), bias)
	Label("channel")
	list, pairs, ap, cp, ep := GP64(), GP64(), GP64(), GP64(), GP64()
	MOVBQZX(Mem{Base: records}, ap)
	MOVQ(ap, cp)
	MOVQ(ap, ep)
	SHLQ(Imm(8), ap)
	SHLQ(Imm(6), ep)
	if matrix {
		MOVQ(ap, cp)
		ADDQ(values, cp)
	} else {
		SHLQ(Imm(5), cp)
		ADDQ(codes, cp)
	}
	ADDQ(acc, ap)
	ADDQ(e, ep)
	LEAQ(Mem{Base: records, Disp: 4}, list)
	var magic, a [vecs]VecVirtual
	for i := range a {
		x, max, ec, scale := ZMM(), ZMM(), ZMM(), ZMM()
		magic[i], a[i] = ZMM(), ZMM()
		VPMOVZXBQ(Mem{Base: ep, Disp: 8 * i}, max)
		VPSUBQ(bias, max, max)
		VPMOVZXDQ(Mem{Base: ap, Disp: 32 * i}, ec)
		VPSLLQ(Imm(33), ec, ec)
		VPSRLQ(Imm(56), ec, ec)
		if half {
			// An FP16 subnormal has the smallest exponent; zero has none.
			k := K()
			VPTESTMQ(ec, ec, k)
			VPMAXSQ_BCST(lowest, ec, k, ec)
		}
		VPMAXSQ(ec, max, max)
		VPMAXSQ_BCST(least, max, max)
		VPSLLQ(Imm(52), max, max)
		VPADDQ_BCST(toMagic, max, magic[i])
		VPBROADCASTQ(toScale, scale)
		VPSUBQ(max, scale, scale)
		VCVTPS2PD(Mem{Base: ap, Disp: 32 * i}, x)
		VMULPD(scale, x, x)
		VCVTTPD2QQ(x, x)
		VPADDQ(x, magic[i], a[i])
	}
	fma := VFMADD231PD_RD_SAE
	element := func(k int) {
		key, v := GP64(), ZMM()
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
			x := ZMM()
			VCVTPS2PD(Mem{Base: p, Index: key, Scale: 1, Disp: 32 * i}, x)
			fma(x, v, a[i])
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
	fma = VFMADD231PD_RU_SAE
	element(1)
	ADDQ(Imm(2), list)
	loop("negative", 2)
	for i := range a {
		y := YMM()
		VSUBPD(magic[i], a[i], a[i])
		if half {
			h.round(a[i], bad)
		}
		VCVTPD2PS_RZ_SAE(a[i], y)
		VMOVUPS(y, Mem{Base: ap, Disp: 32 * i})
	}
	ADDQ(NewParamAddr("stride", 56), records)
	DECQ(channels)
	JNZ(LabelRef("channel"))
	retMask(bad)
}

// half rounds FP64 values to FP16.
type half struct{ sign, exponent, quantum, lowest, magnitude, largest Mem }

func newHalf(c *constants) half {
	return half{
		sign: c.u64(1 << 63), exponent: c.u64(0x7ff << 52), magnitude: c.u64(1<<63 - 1),
		quantum: c.u64((52 - 10) << 52), lowest: c.u64((1023 - 14 + 52 - 10) << 52), largest: c.u64(0x40effc0000000000),
	}
}

// round rounds x to nearest even, by adding and subtracting a power of two of its sign
// that has the format's quantum as its ulp, and raises bad where that is more than 65504.
func (h half) round(x VecVirtual, bad Register) {
	big, sign, size, k := ZMM(), ZMM(), ZMM(), K()
	VPANDQ_BCST(h.exponent, x, big)
	VPADDQ_BCST(h.quantum, big, big)
	VPMAXSQ_BCST(h.lowest, big, big)
	VPANDQ_BCST(h.sign, x, sign)
	VPORQ(sign, big, big)
	VADDPD(big, x, x)
	VSUBPD(big, x, x) // +0 of what rounds to zero, whatever its sign
	VPANDQ_BCST(h.magnitude, x, size)
	VCMPPD_BCST(Imm(14), h.largest, size, k)
	KORW(k, bad, bad)
}

// dotExact is a unit that truncates nothing, for operands whose products' sums over a
// tile FP64 holds exactly. The accumulator is added with a sticky last bit, or for FP16
// exactly, so that the rounding to the result is the only one.
func dotExact(name string, half bool) {
	const vecs = rows / 8
	TEXT(name, NOSPLIT, "func(acc *float32, codes *uint8, values *float64, p *float32, channels int) uint32")
	Doc(name+" adds the products of 32 keys to acc[channel][row], p[key][row] times values[codes[channel][key]], and",
		"rounds once. The result is not zero if an FP16 sum is infinite.")
	acc, codes, values, p, channels := load("acc"), load("codes"), load("values"), load("p"), load("channels")
	c := newConstants(name + "Constants")
	sticky := c.u64(1)
	h := newHalf(c)
	bad := K()
	KXORW(bad, bad, bad)
	Label("channel")
	var a [vecs]VecVirtual
	for i := range a {
		a[i] = ZMM()
		VPXORD(a[i], a[i], a[i])
	}
	for key := range 32 {
		code, v := GP64(), ZMM()
		MOVBQZX(Mem{Base: codes, Disp: key}, code)
		VBROADCASTSD(Mem{Base: values, Index: code, Scale: 8}, v)
		for i := range a {
			x := ZMM()
			VCVTPS2PD(Mem{Base: p, Disp: key*row32 + 32*i}, x)
			VFMADD231PD(x, v, a[i])
		}
	}
	for i := range a {
		x, y := ZMM(), YMM()
		VCVTPS2PD(Mem{Base: acc, Disp: 32 * i}, x)
		if half {
			VADDPD(x, a[i], x)
			h.round(x, bad)
		} else {
			lo, hi, k := ZMM(), ZMM(), K()
			VADDPD_RD_SAE(x, a[i], lo)
			VADDPD_RU_SAE(x, a[i], hi)
			VADDPD_RZ_SAE(x, a[i], x)
			VCMPPD(Imm(4), hi, lo, k)
			VPORQ_BCST(sticky, x, k, x)
		}
		VCVTPD2PS(x, y)
		VMOVUPS(y, Mem{Base: acc, Disp: 32 * i})
	}
	ADDQ(U32(row32), acc)
	ADDQ(Imm(32), codes)
	DECQ(channels)
	JNZ(LabelRef("channel"))
	retMask(bad)
}

// widen decodes FP16.
func widen() {
	TEXT("widen", NOSPLIT, "func(dst *float64, src *uint16, groups int)")
	Doc("widen decodes 32*groups elements of FP16.")
	dst, src, groups := load("dst"), load("src"), load("groups")
	Label("group")
	for i := range 4 {
		y, x := YMM(), ZMM()
		VCVTPH2PS(Mem{Base: src, Disp: 16 * i}, y)
		VCVTPS2PD(y, x)
		VMOVUPD(x, Mem{Base: dst, Disp: 64 * i})
	}
	ADDQ(U32(256), dst)
	ADDQ(Imm(64), src)
	DECQ(groups)
	JNZ(LabelRef("group"))
	VZEROUPPER()
	RET()
}

// dotInteger is the product of INT8 codes. As FP32 values their products and the sums
// of a tile's are whole numbers below 2^24, so fused multiply-adds are exact in any
// order.
func dotInteger() {
	TEXT("dotInteger", NOSPLIT, "func(acc *float32, codes *uint8, values, p *float32, channels int)")
	Doc("dotInteger adds the products of 32 keys to acc[channel][row]: p[key][row] times values[codes[channel][key]].")
	acc, codes, values, p, channels := load("acc"), load("codes"), load("values"), load("p"), load("channels")
	Label("channel")
	var a, b [vecs]VecVirtual
	for i := range a {
		a[i], b[i] = ZMM(), ZMM()
		VMOVUPS(at(acc, 0, i), a[i])
		VPXORD(b[i], b[i], b[i])
	}
	for key := range 32 {
		code, v := GP64(), ZMM()
		MOVBQZX(Mem{Base: codes, Disp: key}, code)
		VBROADCASTSS(Mem{Base: values, Index: code, Scale: 4}, v)
		to := &a
		if key%2 != 0 {
			to = &b
		}
		for i := range vecs {
			VFMADD231PS(at(p, key*row32, i), v, to[i])
		}
	}
	for i := range a {
		VADDPS(b[i], a[i], a[i])
		VMOVUPS(a[i], at(acc, 0, i))
	}
	ADDQ(U32(row32), acc)
	ADDQ(Imm(32), codes)
	DECQ(channels)
	JNZ(LabelRef("channel"))
	VZEROUPPER()
	RET()
}

// addSums is the addition that ends a unit of several instructions. The FP32 sum of
// two FP16 values is exact enough to be rounded once more.
func addSums(name string, half bool) {
	TEXT(name, NOSPLIT, "func(acc, sums *float32, channels int) uint32")
	Doc(name + " adds sums[channel][row] to acc and clears it. The result is not zero if an FP16 sum is infinite.")
	acc, sums, channels := load("acc"), load("sums"), load("channels")
	bad := K()
	KXORW(bad, bad, bad)
	zero := ZMM()
	VPXORD(zero, zero, zero)
	Label("channel")
	for i := range vecs {
		x := ZMM()
		VMOVUPS(at(acc, 0, i), x)
		VADDPS(at(sums, 0, i), x, x)
		if half {
			roundFP16(x, nil)
			raise(bad, classInf, x)
		}
		VMOVUPS(x, at(acc, 0, i))
		VMOVUPS(zero, at(sums, 0, i))
	}
	ADDQ(U32(row32), acc)
	ADDQ(U32(row32), sums)
	DECQ(channels)
	JNZ(LabelRef("channel"))
	retMask(bad)
}

// addTile is the second level of the accumulation.
func addTile() {
	TEXT("addTile", NOSPLIT, "func(o, tile, rescale *float32, channels int) uint32")
	Doc("addTile sets o[channel][row] = o*rescale[row] + tile[channel][row] and clears tile.",
		"The result is not zero if a value is NaN or infinite.")
	o, tile, rescale, channels := load("o"), load("tile"), load("rescale"), load("channels")
	c := newConstants("addTileConstants")
	sign, least := c.u32(1<<31), c.u32(smallest)
	bad := K()
	KXORW(bad, bad, bad)
	var r [vecs]VecVirtual
	for i := range r {
		r[i] = ZMM()
		VMOVUPS(at(rescale, 0, i), r[i])
	}
	zero := ZMM()
	VPXORD(zero, zero, zero)
	Label("channel")
	for i := range r {
		x := ZMM()
		VMOVUPS(at(o, 0, i), x)
		VFMADD213PS(at(tile, 0, i), r[i], x)
		VMOVUPS(zero, at(tile, 0, i))
		raiseSmallest(bad, x, least)
		flush(x, sign)
		raise(bad, classNaN|classInf, x)
		VMOVUPS(x, at(o, 0, i))
	}
	ADDQ(U32(row32), o)
	ADDQ(U32(row32), tile)
	DECQ(channels)
	JNZ(LabelRef("channel"))
	retMask(bad)
}

// rescale is the step between tiles of an accumulator of one level.
func rescale() {
	TEXT("rescale", NOSPLIT, "func(o, factors *float32, channels int) uint32")
	Doc("rescale sets o[channel][row] *= factors[row]. The result is not zero if a product is NaN, infinite, or not",
		"zero and below 2^-63.")
	o, factors, channels := load("o"), load("factors"), load("channels")
	c := newConstants("rescaleConstants")
	least := c.u32(64 << 24)
	bad := K()
	KXORW(bad, bad, bad)
	var r [vecs]VecVirtual
	for i := range r {
		r[i] = ZMM()
		VMOVUPS(at(factors, 0, i), r[i])
	}
	Label("channel")
	for i := range r {
		x, twice, k := ZMM(), ZMM(), K()
		VMULPS(at(o, 0, i), r[i], x)
		VMOVUPS(x, at(o, 0, i))
		raise(bad, classNaN|classInf, x)
		// Without the sign, the exponent leads.
		VPSLLD(Imm(1), x, twice)
		VPTESTMD(twice, twice, k)
		VPCMPUD_BCST(Imm(1), least, twice, k, k) // less than
		KORW(k, bad, bad)
	}
	ADDQ(U32(row32), o)
	DECQ(channels)
	JNZ(LabelRef("channel"))
	retMask(bad)
}

// meanDots has 16 keys in the lanes, and takes four times as many at a time, as long as there are.
func meanDots() {
	TEXT("meanDots", NOSPLIT, "func(out, x, q *float32, groups, dim int)")
	Doc("meanDots writes out[key] = the sum of q[c]*x[key/16][c][key%16], one fused multiply-add per channel in order,",
		"for 16*groups keys, flushing subnormal numbers.")
	out, x, q, groups, dim := load("out"), load("x"), load("q"), load("groups"), load("dim")
	control := newConstants("meanDotsConstants").u32(flushControl)
	before := AllocLocal(8)
	STMXCSR(before)
	LDMXCSR(control)
	size, three := GP64(), GP64()
	MOVQ(dim, size)
	SHLQ(Imm(6), size)
	LEAQ(Mem{Base: size, Index: size, Scale: 2}, three)
	dots := func(label string, n int) {
		acc := make([]VecVirtual, n)
		for i := range acc {
			acc[i] = ZMM()
			VPXORD(acc[i], acc[i], acc[i])
		}
		c, p := GP64(), GP64()
		XORQ(c, c)
		MOVQ(x, p)
		Label(label + "Channel")
		f := ZMM()
		VBROADCASTSS(Mem{Base: q, Index: c, Scale: 4}, f)
		for i := range acc {
			m := Mem{Base: p}
			switch i {
			case 1:
				m.Index, m.Scale = size, 1
			case 2:
				m.Index, m.Scale = size, 2
			case 3:
				m.Index, m.Scale = three, 1
			}
			VFMADD231PS(m, f, acc[i])
		}
		ADDQ(Imm(64), p)
		INCQ(c)
		CMPQ(c, dim)
		JNE(LabelRef(label + "Channel"))
		for i := range acc {
			VMOVUPS(acc[i], at(out, 0, i))
			ADDQ(size, x)
		}
		ADDQ(U32(uint32(64*n)), out)
	}
	Label("four")
	CMPQ(groups, Imm(4))
	JL(LabelRef("one"))
	dots("four", 4)
	SUBQ(Imm(4), groups)
	JMP(LabelRef("four"))
	Label("one")
	TESTQ(groups, groups)
	JZ(LabelRef("end"))
	dots("one", 1)
	DECQ(groups)
	JMP(LabelRef("one"))
	Label("end")
	LDMXCSR(before)
	VZEROUPPER()
	RET()
}

// finish is the end of the program: O times the reciprocal of the denominator,
// times V's scale, plus V's mean, rounded to the output's format.
func finish(name string, round func(VecVirtual, *constants)) {
	TEXT(name, NOSPLIT, "func(dst, o, inverse, scale, mean *float32, channels int) uint32")
	Doc(name+" sets dst[channel][row] = round(o*inverse[row]*scale[channel] + mean[channel]), three roundings in all;",
		"the result is not zero if one of them is NaN or infinite. mean may be -0.")
	dst, o, inverse, scale, mean, channels := load("dst"), load("o"), load("inverse"), load("scale"), load("mean"), load("channels")
	c := newConstants(name + "Constants")
	sign, least := c.u32(1<<31), c.u32(smallest)
	bad := K()
	KXORW(bad, bad, bad)
	var r [vecs]VecVirtual
	for i := range r {
		r[i] = ZMM()
		VMOVUPS(at(inverse, 0, i), r[i])
	}
	Label("channel")
	s, m := ZMM(), ZMM()
	VBROADCASTSS(Mem{Base: scale}, s)
	VBROADCASTSS(Mem{Base: mean}, m)
	for i := range r {
		x := ZMM()
		VMULPS(at(o, 0, i), r[i], x)
		raiseSmallest(bad, x, least)
		flush(x, sign)
		VFMADD213PS(m, s, x)
		raiseSmallest(bad, x, least)
		flush(x, sign)
		raise(bad, classNaN|classInf, x)
		if round != nil {
			round(x, c)
			raise(bad, classNaN|classInf, x)
		}
		VMOVUPS(x, at(dst, 0, i))
	}
	ADDQ(U32(row32), dst)
	ADDQ(U32(row32), o)
	ADDQ(Imm(4), scale)
	ADDQ(Imm(4), mean)
	DECQ(channels)
	JNZ(LabelRef("channel"))
	retMask(bad)
}

// absMax, subtract and quantize are the quantisers' loops, over 16 elements at a
// time.
func absMax() {
	TEXT("absMax", NOSPLIT, "func(x *float32, m float32, groups int) float32")
	Doc("absMax returns the larger of m and the largest magnitude of 16*groups elements, ignoring NaN.")
	x, groups := load("x"), load("groups")
	c := newConstants("absMaxConstants")
	abs := c.u32(1<<31 - 1)
	m, v := ZMM(), ZMM()
	VBROADCASTSS(NewParamAddr("m", 8), m)
	Label("group")
	VMOVUPS(Mem{Base: x}, v)
	VPANDD_BCST(abs, v, v)
	VMAXPS(m, v, m) // v where v > m
	ADDQ(Imm(64), x)
	DECQ(groups)
	JNZ(LabelRef("group"))
	VEXTRACTF64X4(Imm(1), m, v.AsY())
	VMAXPS(v.AsY(), m.AsY(), m.AsY())
	VEXTRACTF128(Imm(1), m.AsY(), v.AsX())
	VMAXPS(v.AsX(), m.AsX(), m.AsX())
	VPSHUFD(Imm(0x4e), m.AsX(), v.AsX())
	VMAXPS(v.AsX(), m.AsX(), m.AsX())
	VPSHUFD(Imm(0xb1), m.AsX(), v.AsX())
	VMAXPS(v.AsX(), m.AsX(), m.AsX())
	Store(m.AsX(), ReturnIndex(0))
	VZEROUPPER()
	RET()
}

func subtract(name string, round func(VecVirtual, *constants)) {
	TEXT(name, NOSPLIT, "func(x, mean *float32, rows, groups int)")
	Doc(name + " subtracts mean from rows of 16*groups elements and rounds.")
	x, mean, n, groups := load("x"), load("mean"), load("rows"), load("groups")
	c := newConstants(name + "Constants")
	Label("row")
	m, g := GP64(), GP64()
	MOVQ(mean, m)
	MOVQ(groups, g)
	Label("group")
	v := ZMM()
	VMOVUPS(Mem{Base: x}, v)
	VSUBPS(Mem{Base: m}, v, v)
	if round != nil {
		round(v, c)
	}
	VMOVUPS(v, Mem{Base: x})
	ADDQ(Imm(64), x)
	ADDQ(Imm(64), m)
	DECQ(g)
	JNZ(LabelRef("group"))
	DECQ(n)
	JNZ(LabelRef("row"))
	VZEROUPPER()
	RET()
}

func quantize(name string, divide, away bool) {
	TEXT(name, NOSPLIT, "func(codes *int8, x *float32, factor float32, limit, least int32, groups int)")
	op, tie := "times", "even"
	if divide {
		op = "divided by"
	}
	if away {
		tie = "away from zero (an addition of one half, and truncation)"
	}
	Doc(name+" writes x "+op+" factor, rounded to nearest, ties to "+tie+", between least and limit,",
		"for 16*groups elements; NaN gives 0. Products flush subnormal numbers.")
	codes, x, groups := load("codes"), load("x"), load("groups")
	c := newConstants(name + "Constants")
	sign, half, huge := c.u32(1<<31), c.u32(0x3f000000), c.u32(0x48000000)
	factor, limit, low := ZMM(), ZMM(), ZMM()
	VBROADCASTSS(NewParamAddr("factor", 16), factor)
	VPBROADCASTD(Load(Param("limit"), GP32()), limit)
	VPBROADCASTD(Load(Param("least"), GP32()), low)
	Label("group")
	y, s := ZMM(), ZMM()
	ordered := K()
	VMOVUPS(Mem{Base: x}, y)
	if divide {
		VDIVPS(factor, y, y)
	} else {
		flush(y, sign)
		VMULPS(factor, y, y)
		flush(y, sign)
	}
	VCMPPS(Imm(7), y, y, ordered)
	// Beyond 2^17 every value saturates.
	VMINPS_BCST(huge, y, y)
	VPANDD_BCST(sign, y, s)
	if away {
		VPORD_BCST(half, s, s)
		VADDPS(s, y, y)
		VCVTTPS2DQ(y, y)
	} else {
		VCVTPS2DQ(y, y)
	}
	VPMINSD(limit, y, y)
	VPMAXSD(low, y, y)
	VMOVDQA32_Z(y, ordered, y)
	VPMOVSDB(y, Mem{Base: codes})
	ADDQ(Imm(64), x)
	ADDQ(Imm(16), codes)
	DECQ(groups)
	JNZ(LabelRef("group"))
	VZEROUPPER()
	RET()
}

// fp8 describes the encoding of an FP8 format: the largest value and the smallest
// normal one, as bits; the distance of a code from an FP32's exponent and fraction,
// the number with the quantum of subnormal values as its ulp, and their mask.
type fp8 struct {
	largest, normal, shift, offset, magic, mask uint32
}

var (
	e4m3 = fp8{0x43e00000, 0x3c800000, 20, 120 << 3, 0x46800000, 0xf}
	e5m2 = fp8{0x47600000, 0x38800000, 21, 112 << 2, 0x43000000, 0x7}
)

// encode quantises rows of V: with paper by a division, otherwise by a multiplication
// that flushes subnormal numbers.
func encode(name string, paper bool, f fp8) {
	TEXT(name, NOSPLIT, "func(codes *uint8, x, mean, factor *float32, rows, groups int) uint32")
	op := "times"
	if paper {
		op = "divided by"
	}
	Doc(name+" writes the codes of x minus mean, "+op+" factor, for rows of 16*groups channels. Where a divisor is zero the code is",
		"0. The result is not zero if a code is NaN.")
	codes, x, mean, factor, n, groups := load("codes"), load("x"), load("mean"), load("factor"), load("rows"), load("groups")
	c := newConstants(name + "Constants")
	sign, abs, largest, normal := c.u32(1<<31), c.u32(1<<31-1), c.u32(f.largest), c.u32(f.normal)
	half, one, offset := c.u32(1<<(f.shift-1)-1), c.u32(1), c.u32(f.offset)
	magic, mask, nan := c.u32(f.magic), c.u32(f.mask), c.u32(0x7f)
	bad, zero := K(), ZMM()
	KXORW(bad, bad, bad)
	VPXORD(zero, zero, zero)
	Label("row")
	m, by, g := GP64(), GP64(), GP64()
	MOVQ(mean, m)
	MOVQ(factor, by)
	MOVQ(groups, g)
	Label("group")
	y, s, r, unordered, small := ZMM(), ZMM(), ZMM(), K(), K()
	VMOVUPS(Mem{Base: x}, y)
	if paper {
		d, k := ZMM(), K()
		VSUBPS(Mem{Base: m}, y, y)
		VMOVUPS(Mem{Base: by}, d)
		VCMPPS(Imm(4), zero, d, k)
		VDIVPS(d, y, y)
		VMOVAPS_Z(y, k, y)
	} else {
		flush(y, sign)
		VSUBPS(Mem{Base: m}, y, y)
		flush(y, sign)
		VMULPS(Mem{Base: by}, y, y)
		flush(y, sign)
	}
	VCMPPS(Imm(3), y, y, unordered)
	KORW(unordered, bad, bad)
	VPANDD_BCST(sign, y, s)
	VPANDD_BCST(abs, y, y)
	VMINPS_BCST(largest, y, y)
	VCMPPS_BCST(Imm(1), normal, y, small)
	// A normal value is rounded in its bits, a subnormal one by an addition.
	VPSRLD(Imm(uint64(f.shift)), y, r)
	VPANDD_BCST(one, r, r)
	VPADDD_BCST(half, r, r)
	VPADDD(y, r, r)
	VPSRLD(Imm(uint64(f.shift)), r, r)
	VPSUBD_BCST(offset, r, r)
	VADDPS_BCST(magic, y, y)
	VPANDD_BCST(mask, y, small, r)
	VPSRLD(Imm(24), s, s)
	VPORD(s, r, r)
	VPBROADCASTD(nan, unordered, r)
	VPMOVDB(r, Mem{Base: codes})
	ADDQ(Imm(64), x)
	ADDQ(Imm(64), m)
	ADDQ(Imm(64), by)
	ADDQ(Imm(16), codes)
	DECQ(g)
	JNZ(LabelRef("group"))
	DECQ(n)
	JNZ(LabelRef("row"))
	retMask(bad)
}

// finite looks for what is not.
func finite() {
	TEXT("finite", NOSPLIT, "func(x *float32, groups int) uint32")
	Doc("finite returns zero if all of 16*groups elements are finite.")
	x, groups := load("x"), load("groups")
	bad := K()
	KXORW(bad, bad, bad)
	Label("group")
	v := ZMM()
	VMOVUPS(Mem{Base: x}, v)
	raise(bad, classNaN|classInf, v)
	ADDQ(Imm(64), x)
	DECQ(groups)
	JNZ(LabelRef("group"))
	retMask(bad)
}

// extremes keeps the extremes of 16 channels at a time in registers.
func extremes() {
	TEXT("extremes", NOSPLIT, "func(hi, lo, x *float32, rows, groups int)")
	Doc("extremes raises hi and lowers lo, by channel, to the elements of rows of 16*groups channels, ignoring NaN.")
	hi, lo, x, n, groups := load("hi"), load("lo"), load("x"), load("rows"), load("groups")
	left, stride := GP64(), GP64()
	MOVQ(groups, left)
	MOVQ(groups, stride)
	SHLQ(Imm(6), stride)
	Label("group")
	h, l, p, g := ZMM(), ZMM(), GP64(), GP64()
	VMOVUPS(Mem{Base: hi}, h)
	VMOVUPS(Mem{Base: lo}, l)
	MOVQ(x, p)
	MOVQ(n, g)
	Label("row")
	v := ZMM()
	VMOVUPS(Mem{Base: p}, v)
	VMAXPS(h, v, h) // v where v > h
	VMINPS(l, v, l)
	ADDQ(stride, p)
	DECQ(g)
	JNZ(LabelRef("row"))
	VMOVUPS(h, Mem{Base: hi})
	VMOVUPS(l, Mem{Base: lo})
	ADDQ(Imm(64), x)
	ADDQ(Imm(64), hi)
	ADDQ(Imm(64), lo)
	DECQ(left)
	JNZ(LabelRef("group"))
	VZEROUPPER()
	RET()
}

// addMeans is a compensated sum (Neumaier), by channel.
func addMeans() {
	TEXT("addMeans", NOSPLIT, "func(sum, comp *float64, x *float32, rows, groups int)")
	Doc("addMeans adds rows of 8*groups channels to sum, by channel, and what the additions lose to comp.")
	sum, comp, x, n, groups := load("sum"), load("comp"), load("x"), load("rows"), load("groups")
	c := newConstants("addMeansConstants")
	abs := c.u64(1<<63 - 1)
	left, stride := GP64(), GP64()
	MOVQ(groups, left)
	MOVQ(groups, stride)
	SHLQ(Imm(5), stride)
	Label("group")
	s, lost, p, g := ZMM(), ZMM(), GP64(), GP64()
	VMOVUPD(Mem{Base: sum}, s)
	VMOVUPD(Mem{Base: comp}, lost)
	MOVQ(x, p)
	MOVQ(n, g)
	Label("row")
	f, t, a, b, larger := ZMM(), ZMM(), ZMM(), ZMM(), K()
	VCVTPS2PD(Mem{Base: p}, f)
	VADDPD(f, s, t)
	VPANDQ_BCST(abs, s, a)
	VPANDQ_BCST(abs, f, b)
	VCMPPD(Imm(13), b, a, larger) // |s| >= |f|
	// (larger - t) + smaller
	VMOVAPD(f, a)
	VMOVAPD(s, larger, a)
	VMOVAPD(s, b)
	VMOVAPD(f, larger, b)
	VSUBPD(t, a, a)
	VADDPD(b, a, a)
	VADDPD(a, lost, lost)
	VMOVAPD(t, s)
	ADDQ(stride, p)
	DECQ(g)
	JNZ(LabelRef("row"))
	VMOVUPD(s, Mem{Base: sum})
	VMOVUPD(lost, Mem{Base: comp})
	ADDQ(Imm(32), x)
	ADDQ(Imm(64), sum)
	ADDQ(Imm(64), comp)
	DECQ(left)
	JNZ(LabelRef("group"))
	VZEROUPPER()
	RET()
}

// Layout of a channelKeys.
const (
	positiveKeys = 3
	negativeKeys = positiveKeys + 33
	keysSize     = negativeKeys + 33
)

// partition sorts the keys of a step by the sign of their elements, with VPCOMPRESSB,
// which avo does not know.
func partition() {
	TEXT("partition", NOSPLIT, "func(list, codes *uint8, channels int, keys, limit uint32)")
	Doc("partition fills a channelKeys for each channel from those of its 32 codes whose bits are in keys. Codes whose",
		"magnitude is limit or more are bad.")
	list, codes, channels := load("list"), load("codes"), load("channels")
	c := newConstants("partitionConstants")
	numbers := c.u64(0x0706050403020100)
	for i := uint64(1); i < 4; i++ {
		c.u64(0x0706050403020100 + i*0x0808080808080808)
	}
	index, abs, limit := YMM(), YMM(), YMM()
	VMOVDQU(numbers, index)
	r := GP32()
	MOVL(U32(0x7f7f7f7f), r)
	VPBROADCASTD(r, abs)
	VPBROADCASTB(Load(Param("limit"), GP32()), limit)
	keys := K()
	KMOVD(Load(Param("keys"), GP32()), keys)
	Label("channel")
	x, size, there, sign, pos, bad := YMM(), YMM(), K(), K(), K(), K()
	VMOVDQU(Mem{Base: codes}, x)
	VPAND(abs, x, size)
	VPTESTMB(size, size, keys, there)
	VPMOVB2M(x, sign)
	VPCMPUB(Imm(5), limit, size, keys, bad) // size >= limit
	KANDND(there, sign, pos)
	KANDD(there, sign, sign)
	for i, k := range []Register{pos, sign, bad} {
		n := GP32()
		KMOVD(k, n)
		POPCNTL(n, n)
		MOVB(n.As8(), Mem{Base: list, Disp: i})
		if i == 2 {
			break
		}
		to := YMM()
		Instruction(&ir.Instruction{
			Opcode: "VPCOMPRESSB.Z", Operands: []Op{index, k, to},
			Inputs: []Op{index, k}, Outputs: []Op{to},
			ISA: []string{"AVX512VBMI2", "AVX512VL"},
		})
		VMOVDQU(to, Mem{Base: list, Disp: []int{positiveKeys, negativeKeys}[i]})
	}
	ADDQ(Imm(keysSize), list)
	ADDQ(Imm(32), codes)
	DECQ(channels)
	JNZ(LabelRef("channel"))
	VZEROUPPER()
	RET()
}
