package main

// This file generates the chains of one row and 16 columns.

// Exponents in dotTile are not biased.
const (
	lowestTile  = 0xffffffff - 96 + 1
	highestTile = 100
)

// tileKernel are the registers of dotTile: 16 columns in four registers each. The sums of the
// terms with even and odd numbers are even and odd.
type tileKernel struct {
	half, separate                   bool
	even, odd, scale, x, bad, top, b v
	row, t, u, w                     v
}

// dotTile is a chain for a row of A and 16 columns of B. The pointers of A, its exponents, B
// and its exponents are R1 to R4, the stride R5, and R6 to R8 count.
func dotTile(a *asm, name string, half, separate bool) {
	a.function(name, 0, "acc *float32, a *float32, ae *int32, b *float32, be *int32, stride int, instructions int, steps int, terms int, fraction uint32, keep uint32", "uint32",
		name+" is that of amd64 for 16 columns.")
	a.load("acc", "a", "ae", "b", "be", "stride", "instructions", "steps", "terms")
	k := tileKernel{half: half, separate: separate, even: 0, odd: 4, scale: 8, x: 12, bad: 16, top: 20, b: 24, row: 28, t: 29, u: 30, w: 31}
	for i := range v(4) {
		a.clear(k.bad + i)
	}
	a.saveRounding()
	a.setRounding(zeroward)
	if !separate {
		a.vectorsAt(k.x, "R0", 0)
	}
	a.loop("instruction", "R6", 1, func() {
		if separate {
			a.clear(k.x, k.x+1, k.x+2, k.x+3)
		}
		a.do("MOVD R7, R9")
		a.loop("step", "R9", 1, func() {
			k.exponents(a)
			k.begin(a)
			k.products(a)
			k.results(a)
		})
		if separate {
			k.addWhole(a)
		}
	})
	if !separate {
		a.vectorsTo(k.x, "R0", 0)
	}
	a.restoreRounding()
	k.mask(a)
}

// exponents finds a step's largest exponents.
func (k *tileKernel) exponents(a *asm) {
	biased, nothing, least := k.b, k.b+1, k.b+2
	a.splat(biased, bias)
	a.splat(nothing, zeroLane)
	a.splat(least, 0xffffffff-14+1)
	for i := range v(4) {
		top := k.top + i
		a.shift("shl.4s", k.t, k.x+i, 1)
		a.shift("ushr.4s", top, k.t, 24)
		a.op("sub.4s", top, top, biased)
		if k.half {
			a.op("smax.4s", top, top, least)
		}
		a.op1("cmeq0.4s", k.t, k.t)
		a.op("bit.16b", top, nothing, k.t)
	}
	a.do("MOVD R8, R10")
	a.loop("exponent", "R10", 1, func() {
		a.do("VLD1R.P 4(R2), [V%d.S4]", k.row)
		a.vectorsAt(k.b, "R4", 0)
		a.do("ADD R5, R4")
		for i := range v(4) {
			a.op("add.4s", k.b+i, k.b+i, k.row)
			a.op("smax.4s", k.top+i, k.top+i, k.b+i)
		}
	})
}

// begin makes the scales of the largest exponents, and from them the sums' beginnings.
func (k *tileKernel) begin(a *asm) {
	lowest, highest, zeros, limit, toScale := k.b, k.b+1, k.b+2, k.b+3, k.row
	a.splat(lowest, lowestTile)
	a.splat(highest, highestTile)
	a.splat(zeros, (allZeroTop+1)&0xffffffff)
	a.splat(limit, (lowestTile-allZeroTop-1)&0xffffffff)
	a.do("MOVWU fraction+%d(FP), R16", a.offset["fraction"])
	a.do("ADD $%d, R16", bias)
	a.do("VDUP R16, V%d.S4", toScale)
	for i := range v(4) {
		top, bad, scale := k.top+i, k.bad+i, k.scale+i
		a.op("cmgt.4s", k.t, top, highest)
		a.op("orr.16b", bad, bad, k.t)
		// Above allZeroTop and below the lowest is not valid.
		a.op("sub.4s", k.t, top, zeros)
		a.op("cmhi.4s", k.t, limit, k.t)
		a.op("orr.16b", bad, bad, k.t)
		a.op("smax.4s", top, top, lowest)
		a.op("smin.4s", top, top, highest)
		a.op("sub.4s", scale, toScale, top)
		a.shift("shl.4s", scale, scale, 23)
		a.op("fmul.4s", k.even+i, k.x+i, scale)
		a.op1("fcvtzs.4s", k.even+i, k.even+i)
		a.clear(k.odd + i)
	}
}

// products adds a step's products.
func (k *tileKernel) products(a *asm) {
	a.do("MOVD R8, R10")
	a.loop("product", "R10", 2, func() {
		for _, sum := range []v{k.even, k.odd} {
			a.do("VLD1R.P 4(R1), [V%d.S4]", k.row)
			a.vectorsAt(k.b, "R3", 0)
			a.do("ADD R5, R3")
			for i := range v(4) {
				a.op("fmul.4s", k.b+i, k.b+i, k.row)
				a.op("fmul.4s", k.b+i, k.b+i, k.scale+i)
				a.op1("fcvtzs.4s", k.b+i, k.b+i)
				a.op("add.4s", sum+i, sum+i, k.b+i)
			}
		}
	})
}

// results adds the two sums and converts them by the output rule, of FP16 by way of FP32
// rounded to odd.
func (k *tileKernel) results(a *asm) {
	twoBias, keep := k.row, k.top
	a.splat(twoBias, 2*bias<<23)
	a.param(keep, "keep")
	narrow := [2]string{"fcvtn.2s", "fcvtn2.4s"}
	h := halfRound{lowest: k.b, ten: k.b + 1, top: k.b + 2, largest: k.b + 3, e: k.t, t: k.u, u: k.w}
	if k.half {
		narrow = [2]string{"fcvtxn.2s", "fcvtxn2.4s"}
		h.load(a)
	}
	for i := range v(4) {
		x := k.x + i
		for half, ops := range [2][2]string{{"saddl.2d", "fcvtl.2d"}, {"saddl2.2d", "fcvtl2.2d"}} {
			a.op(ops[0], k.t, k.even+i, k.odd+i)
			a.op1("scvtf.2d", k.t, k.t)
			a.op("sub.4s", k.u, twoBias, k.scale+i) // the scale's inverse
			a.op1(ops[1], k.u, k.u)
			a.op("fmul.2d", k.t, k.t, k.u)
			a.op1(narrow[half], x, k.t)
		}
		if k.half {
			h.round(a, x, k.bad+i)
		} else {
			a.op("and.16b", x, x, keep)
		}
	}
}

// addWhole ends an instruction of a separate unit: it adds the products to the columns' sums.
func (k *tileKernel) addWhole(a *asm) {
	a.setRounding(nearest)
	a.splat(k.row, 0x7f800000)
	a.vectorsAt(k.b, "R0", 0)
	for i := range v(4) {
		a.addSeparate(k.b+i, k.x+i, k.half)
		a.raise(k.bad+i, k.b+i, k.row, k.t)
	}
	a.vectorsTo(k.b, "R0", 0)
	a.setRounding(zeroward)
}

// mask returns a bit for each column that is bad.
func (k *tileKernel) mask(a *asm) {
	all := k.t
	a.clear(all)
	for i := range v(4) {
		var b [16]byte
		for j := range 4 {
			bit := 1 << (4*int(i) + j)
			b[4*j], b[4*j+1] = byte(bit), byte(bit>>8)
		}
		a.bytes(k.u, b)
		a.op("and.16b", k.u, k.u, k.bad+i)
		a.op("orr.16b", all, all, k.u)
	}
	a.op1("addv.4s", all, all)
	a.do("VMOV V%d.S[0], R16", all)
	a.do("MOVW R16, ret+%d(FP)", a.result)
	a.ret()
}
