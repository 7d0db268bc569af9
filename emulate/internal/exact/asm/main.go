// Command asm generates the kernels of package exact.
package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

func main() {
	ConstraintExpr("!purego")
	for _, w := range levels {
		dot(w, false)
		dot(w, true)
		exponents(w, false)
		exponents(w, true)
		exp2(w)
	}
	Generate()
}

// Shape of the operands: lanes of a row, and rows of A that lie together.
const (
	lanes = 64
	four  = 4
)

// level is what the registers of a level hold.
type level struct {
	suffix string
	bytes  int // of a register
	vecs   int // of FP64 lanes in a call of dot
	vector func() VecVirtual
	half   func() VecVirtual
}

var levels = []level{{"", 64, 4, ZMM, YMM}, {"AVX2", 32, 2, YMM, XMM}}

// wide reports whether it is AVX-512.
func (w *level) wide() bool { return w.bytes == 64 }

// narrow converts FP64 to FP32, to nearest.
func (w *level) narrow(x VecVirtual) VecVirtual {
	y := w.half()
	if w.wide() {
		VCVTPD2PS(x, y)
	} else {
		VCVTPD2PSY(x, y)
	}
	return y
}

// dot is sums in FP64, a term after the other. A product of FP32 numbers is exact in FP64, so that a
// multiply-add rounds as the addition alone.
func dot(w level, onto bool) {
	name, kind, more, size := "dot", "*float32", "", 4
	if onto {
		name, kind, more, size = "dotOnto", "*float64", ", alpha, factor *float64", 8
	}
	name += w.suffix
	TEXT(name, NOSPLIT, "func(dst "+kind+", a *float64, b *float32, groups, terms int"+more+")")
	if onto {
		Doc(name + " is dot, whose sums join dst: dst*alpha + sum*factor, in three roundings, with a number of each for a lane.")
	} else {
		Doc(name+" writes dst[row][64], for some lanes and four rows of each group: the sum of a[row][k]*b[k][lane] over so many terms k, in FP64",
			"and in their order. a are [group][k][4], b [k][64].")
	}
	dst, a, groups := load("dst"), load("a"), load("groups")
	bp, left := GP64(), GP64()
	var alpha, factor Register
	if onto {
		alpha, factor = load("alpha"), load("factor")
	}
	var sum [four][4]VecVirtual
	for r := range sum {
		for v := range w.vecs {
			sum[r][v] = w.vector()
		}
	}
	Label("group")
	Load(Param("b"), bp)
	Load(Param("terms"), left)
	for r := range sum {
		for v := range w.vecs {
			VXORPD(sum[r][v], sum[r][v], sum[r][v])
		}
	}
	Label("term")
	var b [4]VecVirtual
	for v := range w.vecs {
		b[v] = w.vector()
		VCVTPS2PD(Mem{Base: bp, Disp: w.bytes / 2 * v}, b[v])
	}
	for r := range sum {
		m := Mem{Base: a, Disp: 8 * r}
		if w.wide() {
			for v := range w.vecs {
				VFMADD231PD_BCST(m, b[v], sum[r][v])
			}
			continue
		}
		x := w.vector()
		VBROADCASTSD(m, x)
		for v := range w.vecs {
			VFMADD231PD(x, b[v], sum[r][v])
		}
	}
	ADDQ(Imm(8*four), a)
	ADDQ(U32(4*lanes), bp)
	DECQ(left)
	JNZ(LabelRef("term"))
	for r := range sum {
		for v := range w.vecs {
			if !onto {
				VMOVUPS(w.narrow(sum[r][v]), Mem{Base: dst, Disp: size*lanes*r + w.bytes/2*v})
				continue
			}
			m, old := Mem{Base: dst, Disp: size*lanes*r + w.bytes*v}, w.vector()
			VMULPD(Mem{Base: factor, Disp: w.bytes * v}, sum[r][v], sum[r][v])
			VMOVUPD(m, old)
			VMULPD(Mem{Base: alpha, Disp: w.bytes * v}, old, old)
			VADDPD(old, sum[r][v], old)
			VMOVUPD(old, m)
		}
	}
	ADDQ(U32(uint32(size*lanes*four)), dst)
	DECQ(groups)
	JNZ(LabelRef("group"))
	VZEROUPPER()
	RET()
}

// threads is how many threads share a row: of eight keys, each has two that follow each other.
const threads = 4

// exponents are scores times their scale less a number, in one rounding or in two.
func exponents(w level, twice bool) {
	name := "exponents"
	if twice {
		name += "Twice"
	}
	name += w.suffix
	TEXT(name, NOSPLIT, "func(s, scale, lower *float32, octets int, least float32) uint32")
	Doc(name+" makes exponents of the scores s [8*octets][64]: s*scale - lower, of which there are [4][64], those of a key's thread.",
		"Scores of a magnitude below least count as zero. The result is not zero unless all exponents are below 128.")
	s, scale, lower, octets := load("s"), load("scale"), load("lower"), load("octets")
	c := newConstants(name + "Constants")
	least, most, abs := w.vector(), w.vector(), w.vector()
	VBROADCASTSS(NewParamAddr("least", 32), least)
	VBROADCASTSS(c.u32(0x43000000), most) // 128
	VBROADCASTSS(c.u32(1<<31-1), abs)
	var bad Register
	if w.wide() {
		bad = K()
		KXORW(bad, bad, bad)
	} else {
		bad = GP32()
		XORL(bad, bad)
	}
	Label("octet")
	for j := range threads {
		for v := range 4 * lanes / w.bytes {
			at := 4*lanes*j + w.bytes*v
			by, less := w.vector(), w.vector()
			VMOVUPS(Mem{Base: scale, Disp: at}, by)
			VMOVUPS(Mem{Base: lower, Disp: at}, less)
			for i := range 2 {
				m := Mem{Base: s, Disp: 4*lanes*(2*j+i) + w.bytes*v}
				x, t := w.vector(), w.vector()
				VMOVUPS(m, x)
				VANDPS(abs, x, t)
				if w.wide() {
					k := K()
					VCMPPS(Imm(5), least, t, k) // not less
					VMOVAPS_Z(x, k, x)
				} else {
					VCMPPS(Imm(5), least, t, t)
					VANDPS(t, x, x)
				}
				if twice {
					VMULPS(by, x, x)
					VSUBPS(less, x, x)
				} else {
					VFMSUB213PS(less, by, x)
				}
				VMOVUPS(x, m)
				if w.wide() {
					k := K()
					VCMPPS(Imm(5), most, x, k)
					KORW(k, bad, bad)
				} else {
					r := GP32()
					VCMPPS(Imm(5), most, x, t)
					VMOVMSKPS(t, r)
					ORL(r, bad)
				}
			}
		}
	}
	ADDQ(U32(4*lanes*2*threads), s)
	DECQ(octets)
	JNZ(LabelRef("octet"))
	if w.wide() {
		r := GP32()
		KMOVW(bad, r)
		bad = r
	}
	Store(bad, ReturnIndex(0))
	VZEROUPPER()
	RET()
}

// exp2 is 2^x rounded once: the series of the portable code, whose error is less than its bound whether or
// not its multiplications are rounded by themselves.
func exp2(w level) {
	name := "exp2" + w.suffix
	TEXT(name, NOSPLIT, "func(x *float32, groups int, series *float64) uint32")
	Doc(name+" replaces groups of as many numbers below 128 as a register holds by powers of 2, up to the first of a group with one that",
		"series, its coefficients, and what it is multiplied by at its end, do not decide. It returns how many are done.")
	x, groups, series := load("x"), load("groups"), load("series")
	c := newConstants(name + "Constants")
	word := func(bits uint32) VecVirtual {
		v := w.vector()
		VBROADCASTSS(c.u32(bits), v)
		return v
	}
	lowest, magic, smallest := word(0xc3000000), word(0x4b400000), word(0x00800000) // -128, 1.5*2^23, 2^-126
	done := GP32()
	XORL(done, done)
	Label("group")
	y, k, f := w.vector(), w.vector(), w.vector()
	VMOVUPS(Mem{Base: x}, y)
	VMAXPS(lowest, y, y)
	VADDPS(magic, y, k)
	VSUBPS(magic, k, f)
	VSUBPS(f, y, f) // less the nearest whole number
	var power [2]VecVirtual
	unsure := w.half()
	for h := range power {
		e := &expansion{w, series}
		power[h] = e.power(w.part(f, h), unsure, h == 0)
	}
	w.whenAny(unsure, "end")
	if w.wide() {
		VINSERTF32X8(Imm(1), power[1], power[0].AsZ(), y)
	} else {
		VINSERTF128(Imm(1), power[1], power[0].AsY(), y)
	}
	VPSLLD(Imm(23), k, k) // what the sum is above 1.5*2^23
	if w.wide() {
		normal := K()
		VPADDD(k, y, y)
		VPCMPD(Imm(5), smallest, y, normal) // at least
		VMOVDQA32_Z(y, normal, y)
	} else {
		VPADDD(k, y, y)
		VPCMPGTD(y, smallest, k)
		VPANDN(y, k, y)
	}
	VMOVUPS(y, Mem{Base: x})
	ADDQ(U32(uint32(w.bytes)), x)
	INCL(done)
	DECQ(groups)
	JNZ(LabelRef("group"))
	Label("end")
	Store(done, ReturnIndex(0))
	VZEROUPPER()
	RET()
}

// part is a half of a register, in FP64.
func (w *level) part(x VecVirtual, h int) VecVirtual {
	half, y := w.half(), w.vector()
	switch {
	case h == 0 && w.wide():
		VCVTPS2PD(x.AsY(), y)
	case h == 0:
		VCVTPS2PD(x.AsX(), y)
	case w.wide():
		VEXTRACTF32X8(Imm(1), x, half)
		VCVTPS2PD(half, y)
	default:
		VEXTRACTF128(Imm(1), x, half)
		VCVTPS2PD(half, y)
	}
	return y
}

// whenAny jumps where a bit of half a register is set.
func (w *level) whenAny(x VecVirtual, label string) {
	if w.wide() {
		k := K()
		VPTESTMD(x, x, k)
		KORTESTW(k, k)
	} else {
		VPTEST(x, x)
	}
	JNZ(LabelRef(label))
}

// expansion is the series at its place in memory: its coefficients, ln 2 and two factors near 1.
type expansion struct {
	w      level
	series Register
}

const coefficients = 14

// at is a number of the series in all lanes.
func (e *expansion) at(i int) VecVirtual {
	x := e.w.vector()
	VBROADCASTSD(Mem{Base: e.series, Disp: 8 * i}, x)
	return x
}

// power is 2^f to FP32. Bits of unsure are set where that is not certain.
func (e *expansion) power(f, unsure VecVirtual, first bool) VecVirtual {
	w, t := &e.w, e.w.vector()
	VMULPD(e.at(coefficients), f, t)
	s := e.at(0)
	for i := 1; i < coefficients; i++ {
		if w.wide() {
			VFMADD213PD_BCST(Mem{Base: e.series, Disp: 8 * i}, t, s)
		} else {
			VFMADD213PD(e.at(i), t, s)
		}
	}
	y := w.narrow(s)
	for i := range 2 {
		near := w.vector()
		VMULPD(e.at(coefficients+1+i), s, near)
		z := w.narrow(near)
		if first && i == 0 {
			w.xor(y, z, unsure)
			continue
		}
		w.xor(y, z, z)
		w.or(z, unsure, unsure)
	}
	return y
}

// xor and or are of half a register.
func (w *level) xor(x, y, z VecVirtual) {
	if w.wide() {
		VPXORD(x, y, z)
	} else {
		VPXOR(x, y, z)
	}
}

func (w *level) or(x, y, z VecVirtual) {
	if w.wide() {
		VPORD(x, y, z)
	} else {
		VPOR(x, y, z)
	}
}

func load(name string) Register { return Load(Param(name), GP64()) }

// constants lays out 32-bit constants.
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
