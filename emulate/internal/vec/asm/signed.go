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

// leastTop is, in each byte, the least exponent of which a product can be inexact: the smallest that
// vec.Queries keeps of a lowest bit, below which the differences wrap.
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
	args := load("a")
	field := func(disp int) Mem { return Mem{Base: args, Disp: disp} }
	loaded := func(disp int) Register {
		r := GP64()
		MOVQ(field(disp), r)
		return r
	}
	codes, values, lowest, acc := loaded(signedCodes), loaded(signedValues), loaded(signedLowest), loaded(signedAcc)
	q, low, e, groups := loaded(signedQ), loaded(signedLow), loaded(signedE), loaded(signedGroups)
	c := newConstants(name + "Constants")
	exponent, fp22, ulp, lowByte := c.u32(0xff<<23), c.u32(truncateFP22), c.u32(13<<23), c.u32(0xff)
	const perG = 0x44c00000 // 1.5 * 2^10
	broadcast := func(x uint32) VecVirtual {
		r := ZMM()
		VPBROADCASTD(c.u32(x), r)
		return r
	}
	one := broadcast(0x01010101)
	magic := loaded(signedMagic)
	waits := func(k, i int) Mem { return at(magic, row32*k, i) } // what makes M, times perG

	Label("keys")
	var sums [signedKeys][vecs]VecVirtual
	var top, count [signedKeys]VecVirtual // E in bytes, and the products that are negative and not exact
	d := &dot13Unit{mask: broadcast(1<<31 | 0xff<<23), perG: broadcast(perG)}
	for k := range sums {
		x, bias := ZMM(), ZMM()
		VPBROADCASTB(field(signedFlags), bias)
		VMOVDQU8(Mem{Base: e, Disp: row8 * k}, x)
		VPSUBB(bias, x, x)
		var g [vecs]VecVirtual
		for i := range g {
			g[i] = expand(i, x)
			sums[k][i] = ZMM()
		}
		from := GP64()
		LEAQ(Mem{Base: acc, Disp: row32 * k}, from)
		d.begin(sums[k], g, from)
		top[k], count[k] = ZMM(), ZMM()
		VPXORD(count[k], count[k], count[k])
		for i := range g {
			VMOVUPS(g[i], waits(k, i))
			VPANDD_BCST(exponent, g[i], g[i])
			if i == 3 {
				VPSLLD(Imm(1), g[i], g[i])
			} else {
				VPSRLD(Imm(uint64(23-8*i)), g[i], g[i])
			}
		}
		VPORD(g[0], g[1], g[1])
		VPORD(g[2], g[3], top[k])
		VPORD(g[1], top[k], top[k])
		VPMAXUB(broadcast(leastTop), top[k], top[k])
	}

	at32, at8, left := GP64(), GP64(), loaded(signedSteps)
	MOVQ(q, at32)
	MOVQ(low, at8)
	Label("element")
	const some = 4
	for u := range some {
		var v [signedKeys]VecVirtual
		for k := range v {
			code, inexact := GP64(), ZMM()
			v[k] = ZMM()
			MOVBQZX(Mem{Base: codes, Disp: 32*k + u}, code)
			VBROADCASTSS(Mem{Base: values, Index: code, Scale: 4}, v[k])
			VPSUBD_BCST(Mem{Base: lowest, Index: code, Scale: 4}, top[k], inexact)
			ANDQ(Imm(0x80), code) // the key's sign
			VPSUBUSB(Mem{Base: at8, Index: code, Scale: 1, Disp: u/2*4*row8 + u%2*row8}, inexact, inexact)
			VPMINUB(one, inexact, inexact)
			VPADDB(inexact, count[k], count[k])
		}
		for i := range vecs {
			x := ZMM()
			VMOVUPS(at(at32, u*row32, i), x)
			for k := range v {
				VFMADD231PS_RD_SAE(x, v[k], sums[k][i])
			}
		}
	}
	ADDQ(U32(some*row32), at32)
	ADDQ(U32(some*2*row8), at8)
	ADDQ(Imm(some), codes)
	SUBQ(Imm(some), left)
	JNZ(LabelRef("element"))

	factor, size := broadcast(perG), broadcast(0xff<<23)
	for k := range sums {
		for i, a := range sums[k] {
			n, g := ZMM(), ZMM()
			VPSRLD(Imm(uint64(8*i)), count[k], n)
			VPANDD_BCST(lowByte, n, n)
			VCVTDQ2PS(n, n)
			VFNMADD231PS(waits(k, i), factor, a)
			VPANDD(waits(k, i), size, g)
			VPSUBD_BCST(ulp, g, g)
			VFMADD231PS(n, g, a)
		}
	}
	CMPB(field(signedFlags+1), Imm(0))
	JEQ(LabelRef("store"))
	for k := range sums {
		for _, a := range sums[k] {
			VPANDD_BCST(fp22, a, a)
		}
	}
	Label("store")
	for k := range sums {
		for i, a := range sums[k] {
			VMOVUPS(a, at(acc, row32*k, i))
		}
	}
	ADDQ(U32(signedKeys*row32), acc)
	ADDQ(U32(signedKeys*row8), e)
	SUBQ(field(signedSteps), codes)
	ADDQ(U32(signedKeys*32), codes)
	DECQ(groups)
	JNZ(LabelRef("keys"))
	VZEROUPPER()
	RET()
}
