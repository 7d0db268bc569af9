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

// dot13 is the second pass of the dot-add with 13 fraction bits, of one strip or of two.
//
// With E known, a float M = 1.5 * 2^(E+10) has an ulp of 2^(E-13), the unit's
// last place: a fused multiply-add onto M rounded down truncates a positive
// product as the unit does, one rounded up a negative product, and all sums are
// exact. The sign is that of V's element, since P is not negative.
//
// Two channels share what is read of P, without which there are more loads than multiply-adds:
// the records list keys by the signs of both. Each M waits in memory.
func dot13(name string, half bool, strips int) {
	const two = 64 // where acc2 is
	signature := "func(acc *float32, records *uint8, values, p *float32, e *uint8, magic *float32, pairs, step int, bias uint32) uint32"
	doc := " adds one step's products to acc[channel][row]; see Values for records and"
	if strips == 2 {
		signature = "func(acc *float32, records *uint8, values, p *float32, e *uint8, magic *float32, pairs, step int, acc2, p2 *float32, e2 *uint8, bias uint32) uint32"
		doc = " adds one step's products of two strips to acc[channel][row] and acc2; see Values for records and"
	}
	TEXT(name, NOSPLIT, signature)
	Doc(name+doc,
		"exponents for e, whose values are bias too large. magic has room for 16 values of each row. The result is not",
		"zero if a sum is infinite"+map[int]string{1: ".", 2: ", in its upper half if one of the second strip is."}[strips])
	records, values, step := load("records"), load("values"), load("step")
	magic, pairs := load("magic"), load("pairs")
	p := []Register{load("p")}
	if strips == 2 {
		p = append(p, load("p2"))
	}
	d := newDot13(name, half)
	bad := make([]Register, strips)
	for i := range bad {
		bad[i] = K()
		KXORW(bad[i], bad[i], bad[i])
	}
	bias := ZMM()
	VPBROADCASTB(Load(Param("bias"), GP32()), bias)
	// accAt and eAt return where channel c of the pair is of strip s.
	of := func(c int, arg Mem, size uint64) Register {
		at := GP64()
		MOVBQZX(Mem{Base: records, Disp: c}, at)
		SHLQ(Imm(size), at)
		ADDQ(arg, at)
		return at
	}
	accAt := func(s, c int) Register {
		return of(c, NewParamAddr([]string{"acc", "acc2"}[s], s*two), 8)
	}
	eAt := func(s, c int) Register {
		return of(c, NewParamAddr([]string{"e", "e2"}[s], []int{32, two + 16}[s]), 6)
	}
	waits := func(s, c, i int) Mem { return at(magic, 0, (s*2+c)*vecs+i) }

	Label("pair")
	var sums [2][2][vecs]VecVirtual // [strip][channel]
	for s := range strips {
		for c := range 2 {
			e, from := ZMM(), accAt(s, c)
			VMOVDQU8(Mem{Base: eAt(s, c)}, e)
			VPSUBUSB(bias, e, e)
			VPMAXUB(d.least, e, e)
			for i := range vecs {
				m, a := d.begin(i, e, at(from, 0, i))
				VMOVUPS(m, waits(s, c, i))
				sums[s][c][i] = a
			}
		}
	}
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
			to := accAt(s, c)
			for i := range vecs {
				a := sums[s][c][i]
				VSUBPS(waits(s, c, i), a, a)
				d.end(a, bad[s])
				VMOVUPS(a, at(to, 0, i))
			}
		}
	}
	LEAQ(Mem{Base: step, Index: step, Scale: 2}, list)
	LEAQ(Mem{Base: records, Index: list, Scale: 1, Disp: recordElements}, records)
	DECQ(pairs)
	JNZ(LabelRef("pair"))
	if strips == 2 {
		KUNPCKWD(bad[0], bad[1], bad[0])
		r := GP32()
		KMOVD(bad[0], r)
		Store(r, ReturnIndex(0))
		VZEROUPPER()
		RET()
		return
	}
	retMask(bad[0])
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
	pairSize     = 28
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
	half                            bool
	toMagic, fp22, exponent, lowest Mem
	least, zero                     VecVirtual
	high                            Register // the highest byte of each 32-bit lane
	spread                          [vecs]Mem
}

func newDot13(name string, half bool) *dot13Unit {
	c := newConstants(name + "Constants")
	d := &dot13Unit{
		half:     half,
		toMagic:  c.u32(10<<23 | 1<<22),
		fp22:     c.u32(truncateFP22),
		exponent: c.u32(0xff << 23),
		lowest:   c.u32((127 - 14) << 23),
		least:    ZMM(),
		high:     K(),
	}
	least := c.u32(31 * 0x01010101) // where all terms are zero
	r := GP64()
	MOVQ(U64(0x8888888888888888), r)
	KMOVQ(r, d.high)
	for i := range d.spread {
		d.spread[i] = c.mem.Offset(c.n)
		for j := range 16 {
			DATA(c.n, U32(uint32(16*i+j)<<24))
			c.n += 4
		}
	}
	VPBROADCASTD(least, d.least)
	if half {
		d.zero = ZMM()
		VPXORD(d.zero, d.zero, d.zero)
	}
	return d
}

// begin returns M of the i-th vector of a strip, whose largest sums of exponents are the
// bytes of e, and M plus what has been added up, truncated like a product.
func (d *dot13Unit) begin(i int, e VecVirtual, from Mem) (magic, a VecVirtual) {
	x, exponent, spread := ZMM(), ZMM(), ZMM()
	magic, a = ZMM(), ZMM()
	negative := K()
	VMOVDQU32(d.spread[i], spread)
	VPERMB_Z(e, spread, d.high, magic)
	VPSRLD(Imm(1), magic, magic)
	VMOVUPS(from, x)
	VPANDD_BCST(d.exponent, x, exponent)
	if d.half {
		// An FP16 subnormal has the smallest exponent; zero has none.
		k := K()
		VPTESTMD(exponent, exponent, k)
		VPMAXSD_BCST(d.lowest, exponent, k, exponent)
	}
	VPMAXSD(exponent, magic, magic)
	VPADDD_BCST(d.toMagic, magic, magic)
	VPMOVD2M(x, negative)
	VADDPS_RD_SAE(x, magic, a)
	VADDPS_RU_SAE(x, magic, negative, a)
	return magic, a
}

// end rounds a sum to what the unit keeps.
func (d *dot13Unit) end(a VecVirtual, bad Register) {
	if !d.half {
		VPANDD_BCST(d.fp22, a, a)
		return
	}
	h := YMM()
	VCVTPS2PH(Imm(0), a, h)
	VCVTPH2PS(h, a)
	VADDPS(d.zero, a, a) // -0, of a sum that rounds to zero, becomes +0
	raise(bad, classInf, a)
}
