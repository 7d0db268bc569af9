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
	args := load("a")
	field := func(disp int) Mem { return Mem{Base: args, Disp: disp} }
	loaded := func(disp int) Register {
		r := GP64()
		MOVQ(field(disp), r)
		return r
	}
	records, values, step := loaded(pairRecord), loaded(pairValues), loaded(pairStep)
	magic, pairs := loaded(pairMagic), loaded(pairCount)
	d := newDot13(name, half)
	var p, good [2]Register
	var nan [2]VecVirtual
	for s := range strips {
		p[s] = loaded(pairStrips + pairStrip*s + stripP)
		good[s] = K()
		KXNORW(good[s], good[s], good[s])
		nan[s] = ZMM()
		VPXORD(nan[s], nan[s], nan[s])
	}
	zero, bias := ZMM(), ZMM()
	VPXORD(zero, zero, zero)
	VPBROADCASTB(field(pairFlags), bias)
	mask, perG := ZMM(), ZMM()
	VPBROADCASTD(d.exponent, mask)
	VBROADCASTSS(field(pairFlags+4), perG)
	restore := d.flushSubnormals()
	// of returns where channel c of the pair is in a matrix of strip s.
	of := func(s, c, matrix int, size uint64) Register {
		at := GP64()
		MOVBQZX(Mem{Base: records, Disp: c}, at)
		SHLQ(Imm(size), at)
		ADDQ(field(pairStrips+pairStrip*s+matrix), at)
		return at
	}
	waits := func(s, c, i int) Mem { return at(magic, 0, (s*2+c)*vecs+i) }

	Label("pair")
	var sums [2][2][vecs]VecVirtual // [strip][channel]
	start := func(first bool) {
		half22 := ZMM()
		if first {
			VPBROADCASTD(d.half22, half22)
		}
		for s := range strips {
			for c := range 2 {
				e := ZMM()
				VMOVDQU8(Mem{Base: of(s, c, stripE, 6)}, e)
				VPSUBB(bias, e, e)
				from := Register(nil)
				if !first {
					from = of(s, c, stripAcc, 8)
				}
				var m [vecs]VecVirtual
				for i := range m {
					m[i] = expand(i, e)
				}
				if first {
					for i := range m {
						sums[s][c][i] = ZMM()
						VPTERNLOGD_BCST(Imm(orMiddle), d.size, half22, m[i])
						VMOVDQA32(m[i], sums[s][c][i])
					}
				} else {
					d.begin(sums[s][c], m, mask, perG, from)
				}
				for i := range m {
					VMOVUPS(m[i], waits(s, c, i))
				}
			}
		}
	}
	CMPB(field(pairFlags+1), Imm(0))
	JEQ(LabelRef("goesOn"))
	start(true)
	JMP(LabelRef("begun"))
	Label("goesOn")
	start(false)
	Label("begun")
	list := GP64()
	LEAQ(Mem{Base: records, Disp: recordElements}, list)
	for class, negative := range classes {
		d.class(class, records, list, func(k int) {
			key, code := GP64(), GP64()
			var v [2]VecVirtual
			MOVBQZX(Mem{Base: list, Disp: k}, key)
			for c := range v {
				v[c] = ZMM()
				MOVBQZX(Mem{Base: list, Index: step, Scale: uint8(1 + c), Disp: k}, code)
				VBROADCASTSS(Mem{Base: values, Index: code, Scale: 4}, v[c])
			}
			SHLQ(Imm(8), key)
			for s := range strips {
				for i := range vecs {
					x := ZMM()
					VMOVUPS(Mem{Base: p[s], Index: key, Scale: 1, Disp: 64 * i}, x)
					for c := range v {
						if negative[c] {
							VFMADD231PS_RU_SAE(x, v[c], sums[s][c][i])
						} else {
							VFMADD231PS_RD_SAE(x, v[c], sums[s][c][i])
						}
					}
				}
			}
		})
	}
	for s := range strips {
		for c := range 2 {
			for i := range vecs {
				a := sums[s][c][i]
				VFNMADD231PS(waits(s, c, i), perG, a)
				if half {
					d.endHalf(a, zero, nan[s])
				}
			}
		}
	}
	store := func() {
		for s := range strips {
			for c := range 2 {
				to := of(s, c, stripAcc, 8)
				for i := range vecs {
					VMOVUPS(sums[s][c][i], at(to, 0, i))
				}
			}
		}
	}
	CMPB(field(pairFlags+2), Imm(0))
	JNE(LabelRef("last"))
	store()
	JMP(LabelRef("ended"))
	Label("last")
	if !half {
		// What another step begins with it truncates, at least as much.
		for s := range strips {
			for c := range 2 {
				for _, a := range sums[s][c] {
					VPANDD_BCST(d.fp22, a, a)
				}
			}
		}
	}
	CMPB(field(pairFlags+3), Imm(0))
	JNE(LabelRef("adds"))
	store()
	JMP(LabelRef("ended"))
	Label("adds")
	for s := range strips {
		factor := loaded(pairStrips + pairStrip*s + stripFactor)
		for c := range 2 {
			to := of(s, c, stripO, 8)
			for i := range vecs {
				x := ZMM()
				VMOVUPS(at(to, 0, i), x)
				VFMADD132PS(at(factor, 0, i), sums[s][c][i], x)
				d.keepGood(good[s], x)
				VFMADD231PS(zero, x, nan[s])
				VMOVUPS(x, at(to, 0, i))
			}
		}
	}
	Label("ended")
	LEAQ(Mem{Base: step, Index: step, Scale: 2}, list)
	LEAQ(Mem{Base: records, Index: list, Scale: 1, Disp: recordElements}, records)
	DECQ(pairs)
	JNZ(LabelRef("pair"))
	restore()
	// NaN is not equal to itself.
	for s := range strips {
		VCMPPS(Imm(0), nan[s], nan[s], good[s], good[s])
		KNOTW(good[s], good[s])
	}
	if strips == 2 {
		KUNPCKWD(good[0], good[1], good[0])
	}
	r := GP32()
	KMOVD(good[0], r)
	if strips == 1 {
		MOVWLZX(r.As16(), r)
	}
	Store(r, ReturnIndex(0))
	VZEROUPPER()
	RET()
}

// class emits the elements of a class of keys, in blocks of four, of two and of one: pairs with
// equal numbers stand together, so their branches go the same way, which those of a loop by
// keys, with an end to be foreseen each time, do not.
func (d *dot13Unit) class(class int, records, list Register, element func(k int)) {
	label := "class" + string(rune('0'+class))
	count := GP64()
	block := func(n int) {
		for k := range n {
			element(k)
		}
		ADDQ(Imm(uint64(n)), list)
	}
	MOVBQZX(Mem{Base: records, Disp: recordCounts + class}, count)
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

// dot13Unit is what dot13 does with an output before and after a step.
type dot13Unit struct {
	half                                 bool
	half22, fp22, exponent, size, lowest Mem
	control, smallest                    Mem
}

func newDot13(name string, half bool) *dot13Unit {
	c := newConstants(name + "Constants")
	return &dot13Unit{
		half:     half,
		half22:   c.u32(1 << 22),
		fp22:     c.u32(truncateFP22),
		exponent: c.u32(1<<31 | 0xff<<23), // and sign
		size:     c.u32(0xff << 23),
		lowest:   c.u32((127 - 14) << 23),
		smallest: c.u32(smallest),
		control:  c.u32(flushControl),
	}
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
func (d *dot13Unit) begin(a, g [vecs]VecVirtual, mask, perG VecVirtual, from Register) {
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
		VPANDD(mask, g[i], g[i])
	}
	for i := range a {
		VFMADD231PS_RZ_SAE(g[i], perG, a[i])
	}
}

// endHalf rounds a sum to FP16. One that is infinite makes nan NaN.
func (d *dot13Unit) endHalf(a, zero, nan VecVirtual) {
	h := YMM()
	VCVTPS2PH(Imm(0), a, h)
	VCVTPH2PS(h, a)
	VADDPS(zero, a, a) // -0, of a sum that rounds to zero, becomes +0
	VFMADD231PS(zero, a, nan)
}

// keepGood takes the lanes of x that are the smallest normal number out of good.
func (d *dot13Unit) keepGood(good Register, x VecVirtual) {
	twice := ZMM()
	VPADDD(x, x, twice)
	VPCMPD_BCST(Imm(4), d.smallest, twice, good, good) // not equal
}
