package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// Layout of a vec.signedArgs.
const (
	signedCodes  = 8 * iota // codes
	signedValues            // values
	signedLowest            // lowest
	signedQ                 // q
	signedLow               // low
	signedE                 // e
	signedAcc               // acc
	signedMagic             // magic
	signedGroups            // groups
	signedSteps             // step
	signedFlags             // bias, last
)

// signedKeys is how many keys share what is read of the rows, without which there are as many loads as
// multiply-adds.
const signedKeys = 4

// leastTop is, in each byte, the largest E of which all products are exact: the smallest that vec.Queries
// keeps of a lowest bit. Any E below counts as this one, since less what is kept of a key it would wrap.
const leastTop = 108 * 0x01010101

// dot13Signed is the second pass of the dot-add with 13 fraction bits where both operands have signs.
//
// Onto M as in dot13, all products are rounded down, which lowers a sum by one for each that is negative
// and not exact: those are counted, for all 64 rows at a time, in bytes. A product's lowest bit is that
// of its operands together, and it is exact where that is not below 2^(E-13).
func dot13Signed() {
	const name = "dot13Signed"
	TEXT(name, NOSPLIT, "func(a *byte)")
	Doc(name + " adds one step's products to acc[key][row]: see signedArgs.")
	d := &signedUnit{arguments: arguments{load("a")}}
	codes, values, lowest, acc := d.loaded(signedCodes), d.loaded(signedValues), d.loaded(signedLowest), d.loaded(signedAcc)
	q, low, e, groups := d.loaded(signedQ), d.loaded(signedLow), d.loaded(signedE), d.loaded(signedGroups)
	d.constants = newConstants(name + "Constants")
	d.exponent, d.fp22, d.ulp, d.lowByte = d.u32(0xff<<23), d.u32(truncateFP22), d.u32(13<<23), d.u32(0xff)
	d.one = d.broadcast(0x01010101)
	d.magic = d.loaded(signedMagic)

	Label("keys")
	d.begin(e, acc)
	at32, at8, left := GP64(), GP64(), d.loaded(signedSteps)
	MOVQ(q, at32)
	MOVQ(low, at8)
	Label("element")
	const some = 4
	for u := range some {
		d.element(u, codes, values, lowest, at32, at8)
	}
	ADDQ(U32(some*row32), at32)
	ADDQ(U32(some*2*row8), at8)
	ADDQ(Imm(some), codes)
	SUBQ(Imm(some), left)
	JNZ(LabelRef("element"))
	d.end(acc)
	ADDQ(U32(signedKeys*row32), acc)
	ADDQ(U32(signedKeys*row8), e)
	SUBQ(d.field(signedSteps), codes)
	ADDQ(U32(signedKeys*32), codes)
	DECQ(groups)
	JNZ(LabelRef("keys"))
	VZEROUPPER()
	RET()
}

// signedUnit is what dot13Signed has in registers, and its constants.
type signedUnit struct {
	arguments
	*constants
	exponent, fp22, ulp, lowByte Mem

	magic Register
	one   VecVirtual
	sums  [signedKeys][vecs]VecVirtual
	top   [signedKeys]VecVirtual // E in bytes
	count [signedKeys]VecVirtual // products that are negative and not exact
}

// broadcast returns a constant in all lanes.
func (d *signedUnit) broadcast(x uint32) VecVirtual {
	r := ZMM()
	VPBROADCASTD(d.u32(x), r)
	return r
}

// perG is M over what waits for a sum's end: 1.5 * 2^10.
const perG = 0x44c00000

// waits is where what makes M waits for the end of a sum.
func (d *signedUnit) waits(k, i int) Mem { return at(d.magic, row32*k, i) }

// begin begins the sums of keys from what there is.
func (d *signedUnit) begin(e, acc Register) {
	u := &dot13Unit{mask: d.broadcast(1<<31 | 0xff<<23), perG: d.broadcast(perG)}
	for k := range d.sums {
		x, bias := ZMM(), ZMM()
		VPBROADCASTB(d.field(signedFlags), bias)
		VMOVDQU8(Mem{Base: e, Disp: row8 * k}, x)
		VPSUBB(bias, x, x)
		var g [vecs]VecVirtual
		for i := range g {
			g[i] = expand(i, x)
			d.sums[k][i] = ZMM()
		}
		from := GP64()
		LEAQ(Mem{Base: acc, Disp: row32 * k}, from)
		u.begin(d.sums[k], g, from)
		top := ZMM()
		d.top[k], d.count[k] = top, ZMM()
		VPXORD(d.count[k], d.count[k], d.count[k])
		// E, which may be that of what there is, goes back to where expand took it from.
		for i := range g {
			VMOVUPS(g[i], d.waits(k, i))
			VPANDD_BCST(d.exponent, g[i], g[i])
			if i == 3 {
				VPSLLD(Imm(1), g[i], g[i])
			} else {
				VPSRLD(Imm(uint64(23-8*i)), g[i], g[i])
			}
		}
		VPORD(g[0], g[1], g[1])
		VPORD(g[2], g[3], top)
		VPORD(g[1], top, top)
		VPMAXUB(d.broadcast(leastTop), top, top)
	}
}

// element adds the products of the keys' element u from codes on.
func (d *signedUnit) element(u int, codes, values, lowest, at32, at8 Register) {
	var v [signedKeys]VecVirtual
	for k := range v {
		code, inexact := GP64(), ZMM()
		v[k] = ZMM()
		MOVBQZX(Mem{Base: codes, Disp: 32*k + u}, code)
		VBROADCASTSS(Mem{Base: values, Index: code, Scale: 4}, v[k])
		VPSUBD_BCST(Mem{Base: lowest, Index: code, Scale: 4}, d.top[k], inexact)
		ANDQ(Imm(0x80), code) // the key's sign
		VPSUBUSB(Mem{Base: at8, Index: code, Scale: 1, Disp: u/2*4*row8 + u%2*row8}, inexact, inexact)
		VPMINUB(d.one, inexact, inexact)
		VPADDB(inexact, d.count[k], d.count[k])
	}
	for i := range vecs {
		x := ZMM()
		VMOVUPS(at(at32, u*row32, i), x)
		for k := range v {
			VFMADD231PS_RD_SAE(x, v[k], d.sums[k][i])
		}
	}
}

// end takes M off the sums, adds what rounding down lowered them by, and writes them.
func (d *signedUnit) end(acc Register) {
	factor, size := d.broadcast(perG), d.broadcast(0xff<<23)
	for k := range d.sums {
		for i, a := range d.sums[k] {
			n, g := ZMM(), ZMM()
			VPSRLD(Imm(uint64(8*i)), d.count[k], n)
			VPANDD_BCST(d.lowByte, n, n)
			VCVTDQ2PS(n, n)
			VFNMADD231PS(d.waits(k, i), factor, a)
			VPANDD(d.waits(k, i), size, g)
			VPSUBD_BCST(d.ulp, g, g) // to 2^(E-13)
			VFMADD231PS(n, g, a)
		}
	}
	CMPB(d.field(signedFlags+1), Imm(0))
	JEQ(LabelRef("store"))
	for k := range d.sums {
		for _, a := range d.sums[k] {
			VPANDD_BCST(d.fp22, a, a)
		}
	}
	Label("store")
	for k := range d.sums {
		for i, a := range d.sums[k] {
			VMOVUPS(a, at(acc, row32*k, i))
		}
	}
}
