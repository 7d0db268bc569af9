package main

import (
	. "github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/ir"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// Layout of a record of two channels: their numbers, how many keys each class has, and then the
// keys, the first channel's codes and the second's, each a step long.
const (
	recordCounts   = 2
	recordElements = 8
)

// classes of keys by the signs of the elements of two channels, in the order of a record.
var classes = [4][2]bool{{false, false}, {false, true}, {true, false}, {true, true}} // negative?

// Layout of a vec.pairArgs.
const (
	pairRecord  = 8 * iota // records
	pairValues             // values
	pairMagic              // magic
	pairCount              // pairs
	pairStep               // step
	pairFlags              // bias, first, last, adds, perG
	pairStrips             // of each strip, of size pairStrip
	pairStrip   = 40
	stripAcc    = 0
	stripP      = 8
	stripE      = 16
	stripO      = 24
	stripFactor = 32
)

// dot13 is the second pass of the dot-add with 13 fraction bits, of one strip or of two.
//
// With E known, a float M = 1.5 * 2^(E+10) has an ulp of 2^(E-13), the unit's
// last place: a fused multiply-add onto M or -M rounded down truncates a positive
// product as the unit does, one rounded up a negative product, and all sums are
// exact. The sign is that of V's element, since P is not negative.
//
// Two channels share what is read of P, without which there are more loads than multiply-adds:
// the records list keys by the signs of both. Each M, or what makes it times perG, waits in memory.
//
// A tile's first step starts from zero, and its last adds the sum to O, so that they need
// neither be cleared nor read again. Subnormal numbers, which O alone can have, are flushed.
func dot13(name string, half bool, strips int) {
	TEXT(name, NOSPLIT, "func(a *byte) uint32")
	Doc(name+" adds one step's products to acc[channel][row] of "+map[int]string{1: "a strip", 2: "two strips"}[strips]+": see pairArgs. The result is not",
		"zero if a sum is infinite or NaN, or one with O is smallest"+map[int]string{1: ".", 2: ", in its upper half if one of the second strip is."}[strips])
	d := &dot13Unit{half: half, strips: strips, arguments: arguments{load("a")}}
	d.load(name)
	restore := d.flushSubnormals()

	Label("pair")
	CMPB(d.field(pairFlags+1), Imm(0))
	JEQ(LabelRef("goesOn"))
	d.start(true)
	JMP(LabelRef("begun"))
	Label("goesOn")
	d.start(false)
	Label("begun")
	list := GP64()
	LEAQ(Mem{Base: d.records, Disp: recordElements}, list)
	for class := range classes {
		d.class(class, list)
	}
	d.end()
	CMPB(d.field(pairFlags+2), Imm(0))
	JNE(LabelRef("last"))
	d.store()
	JMP(LabelRef("ended"))
	Label("last")
	if !half {
		// What another step begins with it truncates, at least as much.
		d.each(func(s, c int) {
			for _, a := range d.sums[s][c] {
				VPANDD_BCST(d.fp22, a, a)
			}
		})
	}
	CMPB(d.field(pairFlags+3), Imm(0))
	JNE(LabelRef("adds"))
	d.store()
	JMP(LabelRef("ended"))
	Label("adds")
	d.addToO()
	Label("ended")
	LEAQ(Mem{Base: d.step, Index: d.step, Scale: 2}, list)
	LEAQ(Mem{Base: d.records, Index: list, Scale: 1, Disp: recordElements}, d.records)
	DECQ(d.pairs)
	JNZ(LabelRef("pair"))
	restore()
	d.result()
	VZEROUPPER()
	RET()
}

// dot13Unit is what dot13 has in registers, and its constants.
type dot13Unit struct {
	half   bool
	strips int

	arguments
	records, values, step, magic, pairs Register

	p, good                [2]Register   // of each strip
	nan                    [2]VecVirtual // of each strip
	zero, bias, mask, perG VecVirtual
	sums                   [2][2][vecs]VecVirtual // [strip][channel]

	half22, fp22, exponent, size, lowest Mem
	control, smallest                    Mem
}

// load loads what a call needs all the time.
func (d *dot13Unit) load(name string) {
	d.records, d.values, d.step = d.loaded(pairRecord), d.loaded(pairValues), d.loaded(pairStep)
	d.magic, d.pairs = d.loaded(pairMagic), d.loaded(pairCount)
	c := newConstants(name + "Constants")
	d.half22 = c.u32(1 << 22)
	d.fp22 = c.u32(truncateFP22)
	d.exponent = c.u32(1<<31 | 0xff<<23) // and sign
	d.size = c.u32(0xff << 23)
	d.lowest = c.u32((127 - 14) << 23)
	d.smallest = c.u32(smallest)
	d.control = c.u32(flushControl)
	for s := range d.strips {
		d.p[s] = d.loaded(pairStrips + pairStrip*s + stripP)
		d.good[s] = K()
		KXNORW(d.good[s], d.good[s], d.good[s])
		d.nan[s] = ZMM()
		VPXORD(d.nan[s], d.nan[s], d.nan[s])
	}
	d.zero, d.bias = ZMM(), ZMM()
	VPXORD(d.zero, d.zero, d.zero)
	VPBROADCASTB(d.field(pairFlags), d.bias)
	d.mask, d.perG = ZMM(), ZMM()
	VPBROADCASTD(d.exponent, d.mask)
	VBROADCASTSS(d.field(pairFlags+4), d.perG)
	d.each(func(s, c int) {
		for i := range d.sums[s][c] {
			d.sums[s][c][i] = ZMM()
		}
	})
}

// each calls f for each strip and each channel of a pair.
func (d *dot13Unit) each(f func(s, c int)) {
	for s := range d.strips {
		for c := range 2 {
			f(s, c)
		}
	}
}

// of returns where channel c of the pair is in a matrix of strip s, whose rows are 1<<size long.
func (d *dot13Unit) of(s, c, matrix int, size uint64) Register {
	at := GP64()
	MOVBQZX(Mem{Base: d.records, Disp: c}, at)
	SHLQ(Imm(size), at)
	ADDQ(d.field(pairStrips+pairStrip*s+matrix), at)
	return at
}

// waits is where what makes M waits for the end of a sum.
func (d *dot13Unit) waits(s, c, i int) Mem { return at(d.magic, 0, (s*2+c)*vecs+i) }

// start begins the sums of a pair, from zero or from what there is.
func (d *dot13Unit) start(first bool) {
	half22 := ZMM()
	if first {
		VPBROADCASTD(d.half22, half22)
	}
	d.each(func(s, c int) {
		e := ZMM()
		VMOVDQU8(Mem{Base: d.of(s, c, stripE, 6)}, e)
		VPSUBB(d.bias, e, e)
		from := Register(nil)
		if !first {
			from = d.of(s, c, stripAcc, 8)
		}
		var m [vecs]VecVirtual
		for i := range m {
			m[i] = expand(i, e)
		}
		if first {
			for i := range m {
				VPTERNLOGD_BCST(Imm(orMiddle), d.size, half22, m[i])
				VMOVDQA32(m[i], d.sums[s][c][i])
			}
		} else {
			d.begin(d.sums[s][c], m, from)
		}
		for i := range m {
			VMOVUPS(m[i], d.waits(s, c, i))
		}
	})
}

// end makes the sums of what began as M.
func (d *dot13Unit) end() {
	d.each(func(s, c int) {
		for i, a := range d.sums[s][c] {
			VFNMADD231PS(d.waits(s, c, i), d.perG, a)
			if d.half {
				d.endHalf(a, d.nan[s])
			}
		}
	})
}

// store writes the sums.
func (d *dot13Unit) store() {
	d.each(func(s, c int) {
		to := d.of(s, c, stripAcc, 8)
		for i, a := range d.sums[s][c] {
			VMOVUPS(a, at(to, 0, i))
		}
	})
}

// addToO adds the sums to O.
func (d *dot13Unit) addToO() {
	for s := range d.strips {
		factor := d.loaded(pairStrips + pairStrip*s + stripFactor)
		for c := range 2 {
			to := d.of(s, c, stripO, 8)
			for i := range vecs {
				x := ZMM()
				VMOVUPS(at(to, 0, i), x)
				VFMADD132PS(at(factor, 0, i), d.sums[s][c][i], x)
				d.keepGood(d.good[s], x)
				VFMADD231PS(d.zero, x, d.nan[s])
				VMOVUPS(x, at(to, 0, i))
			}
		}
	}
}

// result returns which rows are not good.
func (d *dot13Unit) result() {
	// NaN is not equal to itself.
	for s := range d.strips {
		VCMPPS(Imm(0), d.nan[s], d.nan[s], d.good[s], d.good[s])
		KNOTW(d.good[s], d.good[s])
	}
	if d.strips == 2 {
		KUNPCKWD(d.good[0], d.good[1], d.good[0])
	}
	r := GP32()
	KMOVD(d.good[0], r)
	if d.strips == 1 {
		MOVWLZX(r.As16(), r)
	}
	Store(r, ReturnIndex(0))
}

// element adds the products of the k-th key from list on, of a class.
func (d *dot13Unit) element(class int, list Register, k int) {
	key, code := GP64(), GP64()
	var v [2]VecVirtual
	MOVBQZX(Mem{Base: list, Disp: k}, key)
	for c := range v {
		v[c] = ZMM()
		MOVBQZX(Mem{Base: list, Index: d.step, Scale: uint8(1 + c), Disp: k}, code)
		VBROADCASTSS(Mem{Base: d.values, Index: code, Scale: 4}, v[c])
	}
	SHLQ(Imm(8), key)
	for s := range d.strips {
		for i := range vecs {
			x := ZMM()
			VMOVUPS(Mem{Base: d.p[s], Index: key, Scale: 1, Disp: 64 * i}, x)
			for c := range v {
				if classes[class][c] {
					VFMADD231PS_RU_SAE(x, v[c], d.sums[s][c][i])
				} else {
					VFMADD231PS_RD_SAE(x, v[c], d.sums[s][c][i])
				}
			}
		}
	}
}

// class emits the elements of a class of keys, in blocks of four, of two and of one: pairs with
// equal numbers stand together, so their branches go the same way, which those of a loop by
// keys, with an end to be foreseen each time, do not.
func (d *dot13Unit) class(class int, list Register) {
	label := "class" + string(rune('0'+class))
	count := GP64()
	block := func(n int) {
		for k := range n {
			d.element(class, list, k)
		}
		ADDQ(Imm(uint64(n)), list)
	}
	MOVBQZX(Mem{Base: d.records, Disp: recordCounts + class}, count)
	SUBQ(Imm(4), count)
	JL(LabelRef(label + "Two"))
	Label(label)
	block(4)
	SUBQ(Imm(4), count)
	JGE(LabelRef(label))
	Label(label + "Two")
	// Less than four are left, and four have been taken off.
	TESTQ(U32(2), count)
	JZ(LabelRef(label + "One"))
	block(2)
	Label(label + "One")
	TESTQ(U32(1), count)
	JZ(LabelRef(label + "End"))
	block(1)
	Label(label + "End")
}

// elementSigns finds the signs of a step's elements.
func elementSigns() {
	TEXT("elementSigns", NOSPLIT, "func(list *byte, codes *uint8, channels int, keys, limit uint32)")
	Doc("elementSigns writes, for each channel, which of its 32 codes are not zero, which of those are negative and which are not",
		"finite: the bits in keys of those whose magnitude is limit or more.")
	list, codes, channels := load("list"), load("codes"), load("channels")
	abs, limit := YMM(), YMM()
	r := GP32()
	MOVL(U32(0x7f7f7f7f), r)
	VPBROADCASTD(r, abs)
	VPBROADCASTB(Load(Param("limit"), GP32()), limit)
	keys := K()
	KMOVD(Load(Param("keys"), GP32()), keys)
	Label("channel")
	x, size, there, sign, bad := YMM(), YMM(), K(), K(), K()
	VMOVDQU(Mem{Base: codes}, x)
	VPAND(abs, x, size)
	VPTESTMB(size, size, keys, there)
	VPMOVB2M(x, sign)
	VPCMPUB(Imm(5), limit, size, keys, bad) // size >= limit
	KANDD(there, sign, sign)
	for i, k := range []Register{there, sign, bad} {
		KMOVD(k, Mem{Base: list, Disp: 4 * i})
	}
	ADDQ(Imm(12), list)
	ADDQ(Imm(32), codes)
	DECQ(channels)
	JNZ(LabelRef("channel"))
	VZEROUPPER()
	RET()
}

// Layout of a vec.pair.
const (
	pairLive     = 16
	pairChannels = 24
	pairSize     = 32
)

// pairRecords writes records, with VPCOMPRESSB, which avo does not know.
func pairRecords() {
	TEXT("pairRecords", NOSPLIT, "func(records *uint8, pairs *byte, codes *uint8, n, step int)")
	Doc("pairRecords writes the records of n pairs, and 32 bytes beyond.")
	records, pairs, codes := load("records"), load("pairs"), load("codes")
	n, step := load("n"), load("step")
	c := newConstants("pairRecordsConstants")
	numbers := c.u64(0x0706050403020100)
	for i := uint64(1); i < 4; i++ {
		c.u64(0x0706050403020100 + i*0x0808080808080808)
	}
	index := YMM()
	VMOVDQU(numbers, index)
	Label("pair")
	var masks, counts [len(classes)]Register
	for i := range masks {
		masks[i], counts[i] = K(), GP64()
		KMOVD(Mem{Base: pairs, Disp: 4 * i}, masks[i])
		POPCNTL(Mem{Base: pairs, Disp: 4 * i}, counts[i].(GPVirtual).As32())
		MOVB(counts[i].(GPVirtual).As8(), Mem{Base: records, Disp: recordCounts + i})
	}
	channel := GP64()
	MOVWQZX(Mem{Base: pairs, Disp: pairChannels}, channel)
	MOVW(channel.As16(), Mem{Base: records})
	ADDQ(Imm(recordElements), records)
	for section := range 3 {
		x := index
		if section > 0 {
			x = YMM()
			live := K()
			KMOVD(Mem{Base: pairs, Disp: pairLive + 4*(section-1)}, live)
			MOVBQZX(Mem{Base: pairs, Disp: pairChannels + section - 1}, channel)
			SHLQ(Imm(5), channel)
			VMOVDQU8_Z(Mem{Base: codes, Index: channel, Scale: 1}, live, x)
		}
		at := GP64()
		MOVQ(records, at)
		for i, k := range masks {
			to := YMM()
			Instruction(&ir.Instruction{
				Opcode: "VPCOMPRESSB.Z", Operands: []Op{x, k, to},
				Inputs: []Op{x, k}, Outputs: []Op{to},
				ISA: []string{"AVX512VBMI2", "AVX512VL"},
			})
			VMOVDQU(to, Mem{Base: at})
			ADDQ(counts[i], at)
		}
		ADDQ(step, records)
	}
	ADDQ(Imm(pairSize), pairs)
	DECQ(n)
	JNZ(LabelRef("pair"))
	VZEROUPPER()
	RET()
}

// flushControl is MXCSR with all exceptions masked, flush to zero and denormals are zeros.
const flushControl = 0x1f80 | 0x8040

// flushSubnormals makes operations flush, until what it returns emits code to end that.
func (d *dot13Unit) flushSubnormals() (restore func()) {
	before := AllocLocal(8)
	STMXCSR(before)
	LDMXCSR(d.control)
	return func() { LDMXCSR(before) }
}

// expand returns the bytes of 16 rows, which are every fourth from the i-th on, as exponents of
// FP32, in numbers of any sign and fraction.
func expand(i int, e VecVirtual) VecVirtual {
	x := ZMM()
	if i == 3 {
		VPSRLD(Imm(1), e, x)
	} else {
		VPSLLD(Imm(uint64(23-8*i)), e, x)
	}
	return x
}

// Operations of VPTERNLOGD on its last, its second to last and its third to last operand, and of VRANGEPS.
const (
	andOr    = 0xea // a&b | c
	orAnd    = 0xf8 // a | b&c
	orMiddle = 0xec // a&c | b
	maxAbs   = 0x03 // the larger magnitude, with the sign of the second to last operand
)

// begin makes of each g the power of two with the largest exponent, of that of the products and of
// what has been added up, whose sign it gets, and sets a to perG*g plus that, truncated like a
// product: toward zero since signs are equal. M may be negative, as the ulp is the same.
func (d *dot13Unit) begin(a, g [vecs]VecVirtual, from Register) {
	for i := range a {
		VMOVUPS(at(from, 0, i), a[i])
	}
	size := a
	if d.half {
		// An FP16 subnormal has the smallest exponent; zero has none.
		least := ZMM()
		VBROADCASTSS(d.lowest, least)
		for i := range size {
			k := K()
			size[i] = ZMM()
			VMOVAPS(a[i], size[i])
			VPTESTMD_BCST(d.size, a[i], k)
			VRANGEPS(Imm(maxAbs), least, a[i], k, size[i])
		}
	}
	for i := range a {
		VRANGEPS(Imm(maxAbs), g[i], size[i], g[i])
	}
	for i := range a {
		VPANDD(d.mask, g[i], g[i])
	}
	for i := range a {
		VFMADD231PS_RZ_SAE(g[i], d.perG, a[i])
	}
}

// endHalf rounds a sum to FP16. One that is infinite makes nan NaN.
func (d *dot13Unit) endHalf(a, nan VecVirtual) {
	h := YMM()
	VCVTPS2PH(Imm(0), a, h)
	VCVTPH2PS(h, a)
	VADDPS(d.zero, a, a) // -0, of a sum that rounds to zero, becomes +0
	VFMADD231PS(d.zero, a, nan)
}

// keepGood takes the lanes of x that are the smallest normal number out of good.
func (d *dot13Unit) keepGood(good Register, x VecVirtual) {
	twice := ZMM()
	VPADDD(x, x, twice)
	VPCMPD_BCST(Imm(4), d.smallest, twice, good, good) // not equal
}
