package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// The kernels of this file are steps of the interpreter for a strip, each of which leaves
// the order of its operations to the caller. Those with an argument control run with it in
// MXCSR, whose FTZ and DAZ are the .ftz of a GPU's instructions: they too flush what is tiny
// after rounding with an unbounded exponent.
func lanes() {
	laneTops()
	laneWeights("laneWeights", false)
	laneWeights("laneWeightsTwice", true)
	for _, w := range []width{zmm, ymm} {
		laneScale(w)
		laneSums(w, "laneSums", nil)
		laneSums(w, "laneSumsFMA", func(t, alpha VecVirtual, first Mem) { VFMADD213PS(first, alpha, t) })
		laneSums(w, "laneSumsTwice", func(t, alpha VecVirtual, first Mem) {
			VMULPS(alpha, t, t)
			VADDPS(first, t, t)
		})
	}
	encodeFP16()
	decodeFP16()
	for _, last := range []bool{false, true} {
		laneOutput("laneOutputFP16", last, roundFP16)
		laneOutput("laneOutputBF16", last, roundBF16)
		laneOutput("laneOutputFP32", last, func(VecVirtual, *constants) {})
	}
	for _, f := range weightFormats {
		laneRound("laneRound"+f.name, f.largest, map[string]func(VecVirtual, *constants){"FP16": roundFP16, "BF16": roundBF16}[f.name], f.quantum, f.lowest)
	}
	laneExponents()
	laneMultiply()
	for _, j := range joins {
		laneJoin(j.name, j.join)
	}
}

// width is what registers a kernel has that the levels have alike.
type width struct {
	suffix   string
	bytes    int
	register func() VecVirtual
}

var zmm, ymm = width{"", 64, ZMM}, width{"AVX2", 32, YMM}

// vecs is how many registers hold the rows of a strip.
func (w width) vecs() int { return row32 / w.bytes }

// weightFormats are the formats of weights: their largest number, 0 where that is an argument,
// and those of their rounding, if it is by quantum.
var weightFormats = []struct {
	name                     string
	largest, quantum, lowest uint32
}{
	{"FP16", 0x477fe000, 0, 0},
	{"BF16", 0x7f7f0000, 0, 0},
	{"E4M3", 0x43e00000, 20 << 23, (127 + 14) << 23},
	{"E5M2", 0x47600000, 21 << 23, (127 + 7) << 23},
	{"Int", 0, 0, (127 + 23) << 23},
}

// joins are what becomes of the sums between tiles.
var joins = []struct {
	name string
	join func(o, tile, alpha, factor VecVirtual)
}{
	{"laneRescale", func(o, tile, alpha, factor VecVirtual) { VMULPS(alpha, o, o) }},
	{"laneRescaleFP16", func(o, tile, alpha, factor VecVirtual) {
		VMULPS(alpha, o, o)
		roundFP16(o, nil)
	}},
	{"laneJoin", func(o, tile, alpha, factor VecVirtual) { VFMADD213PS(tile, alpha, o) }},
	{"laneJoinTwice", func(o, tile, alpha, factor VecVirtual) {
		VMULPS(alpha, o, o)
		VADDPS(tile, o, o)
	}},
	{"laneJoinFactor", func(o, tile, alpha, factor VecVirtual) {
		VMULPS(alpha, o, o)
		VFMADD231PS(factor, tile, o)
	}},
}

// control loads the argument control into MXCSR and returns what was there.
func control() Mem {
	old, now := AllocLocal(8), AllocLocal(8)
	r := GP32()
	STMXCSR(old)
	Load(Param("control"), r)
	MOVL(r, now)
	LDMXCSR(now)
	return old
}

func laneTops() {
	TEXT("laneTops", NOSPLIT, "func(s, top *float32, octets int, masked float32) uint32")
	Doc("laneTops raises top[thread][row] to the maximum of s[key][row] over 8*octets keys. The result is not zero if a score other than",
		"masked is NaN or infinite.")
	s, top, octets := load("s"), load("top"), load("octets")
	masked, bad := ZMM(), K()
	VBROADCASTSS(NewParamAddr("masked", 24), masked)
	KXORW(bad, bad, bad)
	count := GP64()
	MOVQ(U32(vecs), count)
	Label("vector")
	var t [threads]VecVirtual
	for j := range t {
		t[j] = ZMM()
		VMOVUPS(Mem{Base: top, Disp: j * row32}, t[j])
	}
	p, n := GP64(), GP64()
	MOVQ(s, p)
	MOVQ(octets, n)
	Label("octet")
	for i := range 8 {
		x, k := ZMM(), K()
		VMOVUPS(Mem{Base: p, Disp: i * row32}, x)
		VFPCLASSPSZ(Imm(classNaN|classInf), x, k)
		VCMPPS(Imm(4), masked, x, k, k)
		KORW(k, bad, bad)
		VMAXPS(t[i/2], x, t[i/2]) // x where x > t
	}
	ADDQ(U32(8*row32), p)
	DECQ(n)
	JNZ(LabelRef("octet"))
	for j := range t {
		VMOVUPS(t[j], Mem{Base: top, Disp: j * row32})
	}
	ADDQ(Imm(64), s)
	ADDQ(Imm(64), top)
	DECQ(count)
	JNZ(LabelRef("vector"))
	retMask(bad)
}

func laneScale(w width) {
	name := "laneScale" + w.suffix
	TEXT(name, NOSPLIT, "func(s, q, k *float32, keys int, control uint32)")
	Doc(name + " sets s[key][row] *= q[row]*k[key], the factor rounded.")
	s, q, ks, keys := load("s"), load("q"), load("k"), load("keys")
	old := control()
	r := make([]VecVirtual, w.vecs())
	for i := range r {
		r[i] = w.register()
		VMOVUPS(Mem{Base: q, Disp: w.bytes * i}, r[i])
	}
	Label("key")
	by := w.register()
	VBROADCASTSS(Mem{Base: ks}, by)
	for i := range r {
		x, m := w.register(), Mem{Base: s, Disp: w.bytes * i}
		VMULPS(by, r[i], x)
		VMULPS(m, x, x)
		VMOVUPS(x, m)
	}
	ADDQ(U32(row32), s)
	ADDQ(Imm(4), ks)
	DECQ(keys)
	JNZ(LabelRef("key"))
	LDMXCSR(old)
	VZEROUPPER()
	RET()
}

// laneWeights has, beside the unit's tables, the scales and subtrahends of a vector's threads
// in registers.
func laneWeights(name string, twice bool) {
	TEXT(name, NOSPLIT, "func(s, scale, lower *float32, table *uint32, octets int, control, wide uint32) uint32")
	text := "in one rounding"
	if twice {
		text = "in two roundings"
	}
	Doc(name+" sets s[key][row] = ex2(s*scale[thread][row] - lower[thread][row]), the exponent "+text+", for 8*octets keys;",
		"where wide is all ones, of exponents below -126 the square of ex2 of their half. The result is not zero if an exponent is NaN or",
		"at least 128.")
	s, scale, lower, octets := load("s"), load("scale"), load("lower"), load("octets")
	old := control()
	unit := loadEx2(load("table"), name)
	c := newConstants(name + "Constants")
	wide, bad := K(), K()
	KXORW(bad, bad, bad)
	w := GP32()
	Load(Param("wide"), w)
	KMOVW(w, wide)
	count := GP64()
	MOVQ(U32(vecs), count)
	Label("vector")
	var by, less [threads]VecVirtual
	for j := range by {
		by[j], less[j] = ZMM(), ZMM()
		VMOVUPS(Mem{Base: scale, Disp: j * row32}, by[j])
		VMOVUPS(Mem{Base: lower, Disp: j * row32}, less[j])
	}
	p, n := GP64(), GP64()
	MOVQ(s, p)
	MOVQ(octets, n)
	Label("octet")
	for i := range 8 {
		x, k, low, m := ZMM(), K(), K(), Mem{Base: p, Disp: i * row32}
		VMOVUPS(m, x)
		if twice {
			VMULPS(by[i/2], x, x)
			VSUBPS(less[i/2], x, x)
		} else {
			VFMSUB213PS(less[i/2], by[i/2], x)
		}
		VCMPPS_BCST(Imm(5), c.u32(0x43000000), x, k) // not below 128
		KORW(k, bad, bad)
		VCMPPS_BCST(Imm(1), c.u32(0xc2fc0000), x, wide, low) // below -126
		VMULPS_BCST(c.u32(0x3f000000), x, low, x)
		unit.apply(x)
		VMULPS(x, x, low, x)
		VMOVUPS(x, m)
	}
	ADDQ(U32(8*row32), p)
	DECQ(n)
	JNZ(LabelRef("octet"))
	for _, r := range []Register{s, scale, lower} {
		ADDQ(Imm(64), r)
	}
	DECQ(count)
	JNZ(LabelRef("vector"))
	LDMXCSR(old)
	retMask(bad)
}

// laneSums adds one key of a thread after the other; begin says how its first joins the sum.
func laneSums(w width, name string, begin func(t, alpha VecVirtual, first Mem)) {
	name += w.suffix
	TEXT(name, NOSPLIT, "func(sum, w, alpha *float32, octets int, control uint32)")
	text := "sum[thread][row] and the weights w[key][row] of the thread's keys one after the other, of 8*octets keys"
	if begin == nil {
		Doc(name + " adds up " + text + " all but its first. alpha is not used.")
	} else {
		Doc(name + " adds up sum times alpha[row], " + text + ".")
	}
	sum, weights, alpha, octets := load("sum"), load("w"), load("alpha"), load("octets")
	old := control()
	count := GP64()
	MOVQ(U32(uint32(w.vecs())), count)
	Label("vector")
	var t [threads]VecVirtual
	p, n, by := GP64(), GP64(), w.register()
	MOVQ(weights, p)
	MOVQ(octets, n)
	VMOVUPS(Mem{Base: alpha}, by)
	for j := range t {
		t[j] = w.register()
		VMOVUPS(Mem{Base: sum, Disp: j * row32}, t[j])
		if begin != nil {
			begin(t[j], by, Mem{Base: p, Disp: 2 * j * row32})
		}
	}
	JMP(LabelRef("second"))
	Label("octet")
	for j := range t {
		VADDPS(Mem{Base: p, Disp: 2 * j * row32}, t[j], t[j])
	}
	Label("second")
	for j := range t {
		VADDPS(Mem{Base: p, Disp: (2*j + 1) * row32}, t[j], t[j])
	}
	ADDQ(U32(8*row32), p)
	DECQ(n)
	JNZ(LabelRef("octet"))
	for j := range t {
		VMOVUPS(t[j], Mem{Base: sum, Disp: j * row32})
	}
	ADDQ(Imm(uint64(w.bytes)), weights)
	ADDQ(Imm(uint64(w.bytes)), sum)
	ADDQ(Imm(uint64(w.bytes)), alpha)
	DECQ(count)
	JNZ(LabelRef("vector"))
	LDMXCSR(old)
	VZEROUPPER()
	RET()
}

// roundQuantum rounds numbers that are not negative by adding and subtracting a power of two that
// has a format's quantum as its ulp.
func roundQuantum(x VecVirtual, c *constants, quantum, lowest uint32) {
	big := ZMM()
	VPANDD_BCST(c.u32(0x7f800000), x, big)
	VPADDD_BCST(c.u32(quantum), big, big)
	VPMAXSD_BCST(c.u32(lowest), big, big)
	VADDPS(big, x, x)
	VSUBPS(big, x, x)
}

// laneRound rounds weights, by quantum without another rounding. A largest of 0 is the argument.
func laneRound(name string, largest uint32, round func(VecVirtual, *constants), quantum, lowest uint32) {
	TEXT(name, NOSPLIT, "func(dst, src *float32, groups int, most float32) uint32")
	Doc(name + " writes 16*groups weights rounded to nearest even. The result is not zero if one is NaN or above the format's largest or most.")
	dst, src, groups := load("dst"), load("src"), load("groups")
	c := newConstants(name + "Constants")
	most, bad := ZMM(), K()
	VBROADCASTSS(NewParamAddr("most", 24), most)
	if largest != 0 {
		VMINPS_BCST(c.u32(largest), most, most)
	}
	KXORW(bad, bad, bad)
	Label("group")
	x, k := ZMM(), K()
	VMOVUPS(Mem{Base: src}, x)
	VCMPPS(Imm(6), most, x, k) // not at most
	KORW(k, bad, bad)
	if round != nil {
		round(x, c)
	} else {
		roundQuantum(x, c, quantum, lowest)
	}
	VMOVUPS(x, Mem{Base: dst})
	ADDQ(Imm(64), src)
	ADDQ(Imm(64), dst)
	DECQ(groups)
	JNZ(LabelRef("group"))
	retMask(bad)
}

// laneExponents makes bytes of the exponents of weights.
func laneExponents() {
	TEXT("laneExponents", NOSPLIT, "func(dst *uint8, src *float32, groups int, floor uint32)")
	Doc("laneExponents writes the biased exponents of 64*groups weights, floor at least, 0 of zeros.")
	dst, src, groups := load("dst"), load("src"), load("groups")
	floor, order := ZMM(), ZMM()
	VPBROADCASTB(Load(Param("floor"), GP32()), floor)
	// The packed numbers of sixteen weights are four bytes of each 128-bit lane.
	c := newConstants("laneExponentsConstants")
	first := c.mem.Offset(c.n)
	for i := range uint32(16) {
		c.u32(i%4*4 + i/4)
	}
	VMOVDQU32(first, order)
	Label("group")
	var x [4]VecVirtual
	for i := range x {
		x[i] = ZMM()
		VPSRLD(Imm(23), at(src, 0, i), x[i])
	}
	nonzero := K()
	VPACKUSDW(x[1], x[0], x[0])
	VPACKUSDW(x[3], x[2], x[2])
	VPACKUSWB(x[2], x[0], x[0])
	VPERMD(x[0], order, x[0])
	VPTESTMB(x[0], x[0], nonzero)
	VPMAXUB_Z(floor, x[0], nonzero, x[0])
	VMOVDQU8(x[0], Mem{Base: dst})
	ADDQ(U32(256), src)
	ADDQ(Imm(64), dst)
	DECQ(groups)
	JNZ(LabelRef("group"))
	VZEROUPPER()
	RET()
}

// laneMultiply is a product of whole numbers whose sums FP32 holds: no order of additions
// matters.
func laneMultiply() {
	TEXT("laneMultiply", NOSPLIT, "func(acc, a *float32, stride int, b *float32, rows, depth int)")
	Doc("laneMultiply sets acc[row][64] = the sum over k of a[row][k]*b[k][64] for an even number of rows, stride bytes apart.")
	acc, a, stride, b := load("acc"), load("a"), load("stride"), load("b")
	rows := load("rows")
	Label("row")
	var sum [2][vecs]VecVirtual
	for r := range sum {
		for i := range sum[r] {
			sum[r][i] = ZMM()
			VPXORD(sum[r][i], sum[r][i], sum[r][i])
		}
	}
	ap, bp, n := GP64(), GP64(), GP64()
	MOVQ(a, ap)
	MOVQ(b, bp)
	Load(Param("depth"), n)
	Label("k")
	var x [vecs]VecVirtual
	for i := range x {
		x[i] = ZMM()
		VMOVUPS(at(bp, 0, i), x[i])
	}
	for r := range sum {
		m, y := Mem{Base: ap}, ZMM()
		if r == 1 {
			m.Index, m.Scale = stride, 1
		}
		VBROADCASTSS(m, y)
		for i := range x {
			VFMADD231PS(x[i], y, sum[r][i])
		}
	}
	ADDQ(Imm(4), ap)
	ADDQ(U32(row32), bp)
	DECQ(n)
	JNZ(LabelRef("k"))
	for r := range sum {
		for i := range sum[r] {
			VMOVUPS(sum[r][i], at(acc, r*row32, i))
		}
	}
	ADDQ(U32(2*row32), acc)
	LEAQ(Mem{Base: a, Index: stride, Scale: 2}, a)
	SUBQ(Imm(2), rows)
	JNZ(LabelRef("row"))
	VZEROUPPER()
	RET()
}

// laneJoin is a kernel of joins.
func laneJoin(name string, join func(o, tile, alpha, factor VecVirtual)) {
	TEXT(name, NOSPLIT, "func(o, tile, alpha, factor *float32, channels int, control uint32) uint32")
	Doc(name + " makes o[channel][64] of itself, tile and the rows' alpha and factor. The result is not zero if an element is NaN or infinite.")
	o, tile, alpha, factor, channels := load("o"), load("tile"), load("alpha"), load("factor"), load("channels")
	old := control()
	bad := K()
	KXORW(bad, bad, bad)
	var a, f [vecs]VecVirtual
	for i := range a {
		a[i], f[i] = ZMM(), ZMM()
		VMOVUPS(at(alpha, 0, i), a[i])
		VMOVUPS(at(factor, 0, i), f[i])
	}
	Label("channel")
	for i := range a {
		x, t := ZMM(), ZMM()
		VMOVUPS(at(o, 0, i), x)
		VMOVUPS(at(tile, 0, i), t)
		join(x, t, a[i], f[i])
		raise(bad, classNaN|classInf, x)
		VMOVUPS(x, at(o, 0, i))
	}
	ADDQ(U32(row32), o)
	ADDQ(U32(row32), tile)
	DECQ(channels)
	JNZ(LabelRef("channel"))
	LDMXCSR(old)
	retMask(bad)
}

func encodeFP16() {
	TEXT("encodeFP16", NOSPLIT, "func(codes *uint16, x *float32, groups int) uint32")
	Doc("encodeFP16 writes the codes of 16*groups values. The result is not zero if a value is NaN or larger than FP16's largest.")
	codes, x, groups := load("codes"), load("x"), load("groups")
	c := newConstants("encodeFP16Constants")
	bad := K()
	KXORW(bad, bad, bad)
	Label("group")
	v, size, k := ZMM(), ZMM(), K()
	VMOVUPS(Mem{Base: x}, v)
	VPANDD_BCST(c.u32(1<<31-1), v, size)
	VCMPPS_BCST(Imm(6), c.u32(0x477fe000), size, k) // not at most
	KORW(k, bad, bad)
	VCVTPS2PH(Imm(0), v, Mem{Base: codes})
	ADDQ(Imm(64), x)
	ADDQ(Imm(32), codes)
	DECQ(groups)
	JNZ(LabelRef("group"))
	retMask(bad)
}

func decodeFP16() {
	TEXT("decodeFP16", NOSPLIT, "func(dst *float32, codes *uint16, groups int)")
	Doc("decodeFP16 writes the values of 16*groups codes.")
	dst, codes, groups := load("dst"), load("codes"), load("groups")
	Label("group")
	v := ZMM()
	VCVTPH2PS(Mem{Base: codes}, v)
	VMOVUPS(v, Mem{Base: dst})
	ADDQ(Imm(64), dst)
	ADDQ(Imm(32), codes)
	DECQ(groups)
	JNZ(LabelRef("group"))
	VZEROUPPER()
	RET()
}

// laneOutput is the end of a row, in the lanes its channels. With last the scale is a factor of
// its own.
func laneOutput(name string, last bool, round func(VecVirtual, *constants)) {
	text := "o times the rounded product of inverse and scale"
	if last {
		name += "Last"
		text = "o times inverse, rounded, times scale"
	}
	TEXT(name, NOSPLIT, "func(out, o, scale *float32, groups int, inverse float32, control uint32) uint32")
	Doc(name + " writes " + text + ", in the output's format, of 16*groups channels. The result is not zero if one is NaN or infinite.")
	out, o, scale, groups := load("out"), load("o"), load("scale"), load("groups")
	old := control()
	c := newConstants(name + "Constants")
	inverse, bad := ZMM(), K()
	VBROADCASTSS(NewParamAddr("inverse", 32), inverse)
	KXORW(bad, bad, bad)
	Label("group")
	x, by := ZMM(), ZMM()
	if last {
		VMULPS(Mem{Base: o}, inverse, x)
		VMULPS(Mem{Base: scale}, x, x)
	} else {
		VMULPS(Mem{Base: scale}, inverse, by)
		VMULPS(Mem{Base: o}, by, x)
	}
	raise(bad, classNaN|classInf, x)
	round(x, c)
	raise(bad, classInf, x)
	VMOVUPS(x, Mem{Base: out})
	for _, p := range []Register{out, o, scale} {
		ADDQ(Imm(64), p)
	}
	DECQ(groups)
	JNZ(LabelRef("group"))
	LDMXCSR(old)
	retMask(bad)
}
