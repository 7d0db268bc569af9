package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// Exponents in the kernels of this file are biased by 127, those of A's rows aside, so that
// a sum of two is biased once.
const (
	lanes      = 64 // of a row of B and of the sums, half of which a call takes
	bias       = 127
	lowestLane = bias - 96
	highLane   = bias + 100
	zeroLane   = 0xffffffff - 1<<12 + 1
	allZeroTop = 0xffffffff - 1<<11 + 1
)

// exponents of operands, as the units see them.
func laneExponents(name string, row bool) {
	kind, text := "*int16", "the biased exponents of lanes"
	if row {
		kind, text = "*uint32", "the exponents of rows, each twice in a word,"
	}
	TEXT(name, NOSPLIT, "func(dst "+kind+", x *float32, groups int, least, dropped uint32, quanta, largest float32) uint32")
	Doc(name+" writes "+text+" of 16*groups values: at least the biased one given, for zeros one that never",
		"counts. The result is not zero unless all values are numbers of a format, which is to say: are finite and at most the largest, have",
		"no bits of dropped, and are whole when multiplied by quanta.")
	dst, x, groups := load("dst"), load("x"), load("groups")
	c := newConstants(name + "Constants")
	least, dropped, quanta, largest, bad := ZMM(), ZMM(), ZMM(), ZMM(), K()
	VPBROADCASTD(Load(Param("least"), GP32()), least)
	VPBROADCASTD(Load(Param("dropped"), GP32()), dropped)
	VBROADCASTSS(NewParamAddr("quanta", 32), quanta)
	VBROADCASTSS(NewParamAddr("largest", 36), largest)
	KXORW(bad, bad, bad)
	Label("group")
	t, e, k, zero := ZMM(), ZMM(), K(), K()
	y, whole := ZMM(), ZMM()
	VMOVUPS(Mem{Base: x}, t)
	VPTESTMD(dropped, t, k)
	KORW(k, bad, bad)
	VMULPS(quanta, t, y)
	VRNDSCALEPS(Imm(8), y, whole)
	VCMPPS(Imm(4), y, whole, k)
	KORW(k, bad, bad)
	VPANDD_BCST(c.u32(1<<31-1), t, y)
	VCMPPS(Imm(6), largest, y, k) // not at most
	KORW(k, bad, bad)
	VPSLLD(Imm(1), t, t)
	VPSRLD(Imm(24), t, e)
	VPTESTNMD(t, t, zero)
	VPMAXSD(least, e, e)
	if row {
		VPSUBD_BCST(c.u32(bias), e, e)
	}
	VPBROADCASTD(c.u32(zeroLane), t)
	VMOVDQA32(t, zero, e)
	if row {
		VPSLLD(Imm(16), e, t)
		VPANDD_BCST(c.u32(0xffff), e, e)
		VPORD(t, e, e)
		VMOVDQU32(e, Mem{Base: dst})
		ADDQ(Imm(64), dst)
	} else {
		VPMOVDW(e, Mem{Base: dst})
		ADDQ(Imm(32), dst)
	}
	ADDQ(Imm(64), x)
	DECQ(groups)
	JNZ(LabelRef("group"))
	r := GP32()
	KMOVW(bad, r)
	Store(r, ReturnIndex(0))
	VZEROUPPER()
	RET()
}

// magnitudes finds the smallest and the largest.
func magnitudes() {
	TEXT("magnitudes", NOSPLIT, "func(bounds *uint32, x *float32, groups int)")
	Doc("magnitudes widens bounds [2][16] to those of 16*groups values: the bits of the smallest magnitude less one, where zero counts as",
		"the largest number there is, and those of the largest magnitude.")
	bounds, x, groups := load("bounds"), load("x"), load("groups")
	c := newConstants("magnitudesConstants")
	abs, one, least, most := ZMM(), ZMM(), ZMM(), ZMM()
	VPBROADCASTD(c.u32(1<<31-1), abs)
	VPBROADCASTD(c.u32(1), one)
	VMOVDQU32(Mem{Base: bounds}, least)
	VMOVDQU32(Mem{Base: bounds, Disp: 64}, most)
	Label("group")
	t := ZMM()
	VPANDD(Mem{Base: x}, abs, t)
	VPMAXUD(t, most, most)
	VPSUBD(one, t, t)
	VPMINUD(t, least, least)
	ADDQ(Imm(64), x)
	DECQ(groups)
	JNZ(LabelRef("group"))
	VMOVDQU32(least, Mem{Base: bounds})
	VMOVDQU32(most, Mem{Base: bounds, Disp: 64})
	VZEROUPPER()
	RET()
}

// Shape of a call of dotLanes in registers: rows of A and vectors of lanes.
const (
	pair     = 2
	laneVecs = 2
)

// dotLanes is dotTile for two rows of A at a time, whose loads of B they share and whose
// chains overlap, with exponents in words. A sum that 32 bits do not hold for sure is
// reported; so one sum is enough, and its conversion to FP32 toward zero is the unit's.
func dotLanes(name string, half, separate, bounded bool) {
	TEXT(name, NOSPLIT, "func(acc, a *float32, ae *uint32, b *float32, be *int16, aStride, aeStride, rows, instructions, steps, terms int, fraction, keep, most uint32) uint32")
	doc := []string{
		name + " continues the chains of acc[row][64] for 32 lanes and an even number of rows of A, by instructions of steps of terms,",
		"a multiple of 4, each. a and ae are A's values and exponents with strides in bytes, b and be [k][64] of B's. fraction is the",
		"number of fraction bits, keep the bits that a result keeps, most the largest sum before its scale. The result is not zero if",
		"an element is not valid.",
	}
	if bounded {
		doc = append(doc, "The operands must be Bounded, and keep keeps all bits. Unless the unit is separate, chains begin as Level.begins has it.")
	}
	Doc(doc...)
	l := &laneKernel{half: half, separate: separate, bounded: bounded, c: newConstants(name + "Constants")}
	l.prologue()
	Label("rows")
	MOVQ(l.a, l.ap)
	MOVQ(l.ae, l.aep)
	Load(Param("b"), l.bp)
	Load(Param("be"), l.bep)
	for r := range pair {
		for v := range laneVecs {
			VMOVUPS(Mem{Base: l.acc, Disp: 4*lanes*r + 64*v}, l.x[r][v])
			if separate {
				VMOVAPS(l.x[r][v], l.whole[r][v])
			}
		}
	}
	Load(Param("instructions"), l.instructions)
	Label("instruction")
	if separate {
		for r := range pair {
			for v := range laneVecs {
				VPXORD(l.x[r][v], l.x[r][v], l.x[r][v])
			}
		}
	}
	Load(Param("steps"), l.steps)
	Label("step")
	l.exponents()
	l.products()
	for r := range pair {
		for v := range laneVecs {
			l.result(r, v)
		}
	}
	DECQ(l.steps)
	JNZ(LabelRef("step"))
	if separate {
		l.addWhole()
	}
	DECQ(l.instructions)
	JNZ(LabelRef("instruction"))
	for r := range pair {
		for v := range laneVecs {
			x := l.x[r][v]
			if separate {
				x = l.whole[r][v]
			}
			VMOVUPS(x, Mem{Base: l.acc, Disp: 4*lanes*r + 64*v})
		}
	}
	ADDQ(U32(pair*4*lanes), l.acc)
	LEAQ(Mem{Base: l.a, Index: l.aStride, Scale: pair}, l.a)
	LEAQ(Mem{Base: l.ae, Index: l.aeStride, Scale: pair}, l.ae)
	SUBQ(Imm(pair), l.rows)
	JNZ(LabelRef("rows"))
	l.epilogue()
}

// laneKernel are the registers of dotLanes.
type laneKernel struct {
	half, separate, bounded               bool
	c                                     *constants
	acc, a, ae, ap, aep, bp, bep          Register
	aStride, aeStride, rows               Register
	instructions, steps, left             Register
	toScale, twoBias, keep, most, nothing VecVirtual
	x, whole, scale, sum                  [pair][laneVecs]VecVirtual
	good                                  [pair][laneVecs]Register
	bad                                   Register

	// If bounded: the bits of an exponent, the largest sum that there was, and where exponents in
	// words go in lanes.
	exponent, largest VecVirtual
	widen             [laneVecs]VecVirtual
	upper             Register
}

func (l *laneKernel) prologue() {
	l.acc, l.a, l.ae = load("acc"), load("a"), load("ae")
	l.aStride, l.aeStride, l.rows = load("aStride"), load("aeStride"), load("rows")
	l.ap, l.aep, l.bp, l.bep = GP64(), GP64(), GP64(), GP64()
	l.instructions, l.steps, l.left = GP64(), GP64(), GP64()
	l.toScale, l.twoBias, l.most = ZMM(), ZMM(), ZMM()
	f := GP32()
	Load(Param("fraction"), f)
	ADDL(U32(3*bias-bias), f)
	if l.bounded {
		l.exponent, l.largest = ZMM(), ZMM()
		VPBROADCASTD(l.c.u32(0xff<<23), l.exponent)
		VPXORD(l.largest, l.largest, l.largest)
		for v := range l.widen {
			l.widen[v] = ZMM()
			VMOVDQU32(l.c.series(uint32(16*v)<<16, 1<<16), l.widen[v])
		}
		l.upper = K()
		upper := GP32()
		MOVL(U32(0xaaaaaaaa), upper)
		KMOVD(upper, l.upper)
		SHLL(Imm(23), f)
	}
	VPBROADCASTD(f, l.toScale)
	VPBROADCASTD(l.c.u32(2*bias<<23), l.twoBias)
	VPBROADCASTD(Load(Param("most"), GP32()), l.most)
	if !l.bounded {
		l.keep, l.nothing = ZMM(), ZMM()
		VPBROADCASTD(l.c.u32(zeroLane), l.nothing)
		VPBROADCASTD(Load(Param("keep"), GP32()), l.keep)
	}
	for r := range pair {
		for v := range laneVecs {
			l.x[r][v], l.scale[r][v], l.sum[r][v] = ZMM(), ZMM(), ZMM()
			if !l.bounded {
				l.good[r][v] = K()
				KXNORW(l.good[r][v], l.good[r][v], l.good[r][v])
			}
			if l.separate {
				l.whole[r][v] = ZMM()
			}
		}
	}
	l.bad = K()
	KXORW(l.bad, l.bad, l.bad)
}

// exponents finds a step's largest exponents, and from them the scales and the sums'
// beginnings.
func (l *laneKernel) exponents() {
	var top [pair]VecVirtual
	for r := range top {
		top[r] = ZMM()
		least := uint32(0x8000)
		if l.bounded {
			least = lowestLane
		}
		VPBROADCASTD(l.c.u32(least<<16|least), top[r])
	}
	Load(Param("terms"), l.left)
	Label("exponent")
	for i := range 4 {
		be := ZMM()
		VMOVDQU32(Mem{Base: l.bep, Disp: 2 * lanes * i}, be)
		for r := range top {
			t, m := ZMM(), Mem{Base: l.aep, Disp: 4 * i}
			if r == 1 {
				m.Index, m.Scale = l.aeStride, 1
			}
			VPBROADCASTD(m, t)
			VPADDW(be, t, t)
			VPMAXSW(t, top[r], top[r])
		}
	}
	ADDQ(Imm(16), l.aep)
	ADDQ(U32(4*2*lanes), l.bep)
	SUBQ(Imm(4), l.left)
	JNZ(LabelRef("exponent"))
	for r := range pair {
		if l.bounded {
			VPSLLW(Imm(7), top[r], top[r])
		}
		for v := range laneVecs {
			if l.bounded {
				// A word becomes the upper half of a lane: its exponent's place in FP32.
				h := ZMM()
				VPERMW_Z(top[r], l.widen[v], l.upper, h)
				l.beginBounded(r, v, h)
				continue
			}
			var h Register = top[r].AsY()
			if v == 1 {
				upper := YMM()
				VEXTRACTI32X8(Imm(1), top[r], upper)
				h = upper
			}
			l.begin(r, v, h)
		}
	}
}

// begin starts a sum from x, with the largest exponents h of its step's products.
func (l *laneKernel) begin(r, v int, h Register) {
	x, scale, good := l.x[r][v], l.scale[r][v], l.good[r][v]
	e, t, zero := ZMM(), ZMM(), K()
	VPMOVSXWD(h, e)
	VPSLLD(Imm(1), x, t)
	VPTESTNMD(t, t, zero)
	VPSRLD(Imm(24), t, t)
	if l.half {
		VPMAXSD_BCST(l.c.u32(bias-14), t, t)
	}
	VMOVDQA32(l.nothing, zero, t)
	VPMAXSD(t, e, e)
	VPCMPD_BCST(Imm(2), l.c.u32(highLane), e, good, good) // at most
	// Above allZeroTop and below the lowest is not valid.
	VPSUBD_BCST(l.c.u32((allZeroTop+1)&0xffffffff), e, t)
	VPCMPUD_BCST(Imm(5), l.c.u32((lowestLane-allZeroTop-1)&0xffffffff), t, good, good)
	VPMAXSD_BCST(l.c.u32(lowestLane), e, e)
	VPSUBD(e, l.toScale, scale)
	VPSLLD(Imm(23), scale, scale)
	VMULPS(scale, x, l.sum[r][v])
	VCVTTPS2DQ(l.sum[r][v], l.sum[r][v])
}

// beginBounded is begin of a bounded chain, with the exponents where they lie in FP32.
func (l *laneKernel) beginBounded(r, v int, h VecVirtual) {
	x, scale, sum := l.x[r][v], l.scale[r][v], l.sum[r][v]
	t := ZMM()
	VPANDD(l.exponent, x, t)
	if l.half {
		some := K()
		VPTESTMD(t, t, some)
		VPMAXSD_BCST(l.c.u32((bias-14)<<23), t, some, t)
	}
	VPMAXSD(t, h, h)
	VPSUBD(h, l.toScale, scale)
	VMULPS(scale, x, sum)
	VCVTTPS2DQ(sum, sum)
}

func (l *laneKernel) products() {
	Load(Param("terms"), l.left)
	Label("product")
	for i := range 4 {
		var b [laneVecs]VecVirtual
		for v := range b {
			b[v] = ZMM()
			VMOVUPS(Mem{Base: l.bp, Disp: 4*lanes*i + 64*v}, b[v])
		}
		for r := range pair {
			a, m := ZMM(), Mem{Base: l.ap, Disp: 4 * i}
			if r == 1 {
				m.Index, m.Scale = l.aStride, 1
			}
			VBROADCASTSS(m, a)
			for v := range b {
				t := ZMM()
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
func (l *laneKernel) result(r, v int) {
	x, sum, good := l.x[r][v], l.sum[r][v], l.good[r][v]
	t := ZMM()
	if !l.bounded {
		VPABSD(sum, t)
		VPCMPUD(Imm(2), l.most, t, good, good) // at most
	}
	VCVTDQ2PS_RZ_SAE(sum, x)
	if l.bounded {
		VRANGEPS(Imm(0b1011), x, l.largest, l.largest) // the larger magnitude
	}
	if l.half {
		// A last bit that is set where something was lost keeps the second rounding from
		// being wrong.
		inexact := K()
		VCVTTPS2DQ(x, t)
		VPCMPD(Imm(4), t, sum, inexact)
		VPORD_BCST(l.c.u32(1), x, inexact, x)
	}
	VPSUBD(l.scale[r][v], l.twoBias, t) // the scale's inverse
	VMULPS(t, x, x)
	if l.half {
		roundHalf(x)
		zero := ZMM()
		VPXORD(zero, zero, zero)
		VADDPS(zero, x, x) // -0, of a sum that rounds to zero, becomes +0
		raise(l.bad, classInf, x)
		return
	}
	if !l.bounded {
		VPANDD(l.keep, x, x)
	}
}

// addWhole ends an instruction of a separate unit.
func (l *laneKernel) addWhole() {
	for r := range pair {
		for v := range laneVecs {
			w := l.whole[r][v]
			VADDPS(w, l.x[r][v], w)
			if l.half {
				roundHalf(w)
			}
			raise(l.bad, classInf|classNaN, w)
		}
	}
}

func (l *laneKernel) epilogue() {
	if l.bounded {
		k := K()
		VCVTUDQ2PS_RZ_SAE(l.most, l.most)
		VCMPPS(Imm(5), l.most, l.largest, k) // at least
		KORW(k, l.bad, l.bad)
	} else {
		for r := range pair {
			for v := range laneVecs {
				KNOTW(l.good[r][v], l.good[r][v])
				KORW(l.good[r][v], l.bad, l.bad)
			}
		}
	}
	r := GP32()
	KMOVW(l.bad, r)
	Store(r, ReturnIndex(0))
	VZEROUPPER()
	RET()
}
