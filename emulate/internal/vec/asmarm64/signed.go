package main

// wideKernel are the registers of dotWide: of two rows of 8 lanes the sums from M and from -M, and the
// FP32 numbers that a step continues.
type wideKernel struct {
	half, separate bool
	above, below   v // [2][4] each
	top            v // [2], of words
	x              v // [2][2]
	bad            v
	h              half64
}

// dotWide64 is dotLanes for operands whose products FP32 does not hold, and lanes of B that are not
// negative. That of amd64 says why it is right.
func dotWide64(a *asm, name string, half, separate bool) {
	a.function(name, 0, "acc *float32, a *float64, ae *uint32, b *float32, be *int16, aStride int, aeStride int, rows int, instructions int, steps int, terms int, fraction uint32, keep uint32", "uint32",
		name+" is that of amd64 for 8 lanes.")
	a.load("acc", "a", "ae", "b", "be", "aStride", "aeStride", "rows", "instructions", "steps", "terms")
	k := wideKernel{half: half, separate: separate, above: 0, below: 8, top: 16, x: 24, bad: 31, h: half64{22, 23, 28, 29}}
	a.clear(k.bad)
	a.saveRounding()
	a.setRounding(zeroward)
	a.label("rows")
	for _, p := range [][2]string{{"R1", "R11"}, {"R2", "R12"}, {"R3", "R13"}, {"R4", "R14"}, {"R8", "R15"}} {
		a.do("MOVD %s, %s", p[0], p[1])
	}
	a.do("ADD R6, R2, R23")
	if !separate {
		k.sums(a, k.x, (*asm).pairAt)
	}
	a.loop("instruction", "R15", 1, func() {
		if separate {
			for i := range v(2 * pair) {
				a.clear(k.x + i)
			}
		}
		a.do("MOVD R9, R19")
		a.loop("step", "R19", 1, func() {
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
		k.sums(a, k.x, (*asm).pairTo)
	}
	a.do("ADD $%d, R0", pair*4*unitLanes)
	a.do("ADD R5, R1")
	a.do("ADD R6<<1, R2")
	a.do("SUBS $%d, R7", pair)
	a.do("BNE rows")
	a.restoreRounding()
	a.retBad(k.bad)
}

// sums loads or stores those of both rows.
func (k *wideKernel) sums(a *asm, x v, move func(a *asm, d v, base string, disp int)) {
	for r := range v(pair) {
		move(a, x+2*r, "R0", int(4*unitLanes*r))
	}
}

// exponents finds a step's largest exponents.
func (k *wideKernel) exponents(a *asm) {
	const ae, be, t = v(18), v(20), v(21)
	for r := range v(pair) {
		a.splat(k.top+r, 0x80008000)
	}
	a.do("MOVD R10, R20")
	a.loop("exponent", "R20", 4, func() {
		a.at(ae, "R12", 0)
		a.at(ae+1, "R23", 0)
		for i := range 4 {
			a.at(be, "R14", 2*unitLanes*i)
			for r := range v(pair) {
				a.do("VDUP V%d.S[%d], V%d.S4", ae+r, i, t)
				a.op("add.8h", t, t, be)
				a.op("smax.8h", k.top+r, k.top+r, t)
			}
		}
		a.do("ADD $16, R12")
		a.do("ADD $16, R23")
		a.do("ADD $%d, R14", 4*2*unitLanes)
	})
}

// begin starts the sums of x with the largest exponents.
func (k *wideKernel) begin(a *asm) {
	const e, t, u, nothing, high, lowest, least, toMagic, zero = v(18), v(19), v(20), v(21), v(22), v(23), v(28), v(29), v(30)
	a.splat(nothing, zeroLane)
	a.splat(high, highLane)
	a.splat(lowest, (bias-133)&0xffffffff)
	if k.half {
		a.splat(least, bias-14)
	} else {
		a.splat(least, 1)
	}
	a.do("MOVWU fraction+%d(FP), R16", a.offset["fraction"])
	a.do("MOVD $%d, R17", 1023+52-bias)
	a.do("SUB R16, R17, R16")
	a.do("VDUP R16, V%d.S4", toMagic)
	a.clear(zero)
	for i := range v(2 * pair) {
		x := k.x + i
		if i%2 == 0 {
			a.op1("sxtl.4s", e, k.top+i/2)
		} else {
			a.op1("sxtl2.4s", e, k.top+i/2)
		}
		a.shift("shl.4s", t, x, 1)
		a.op1("cmeq0.4s", u, t)
		a.shift("ushr.4s", t, t, 24)
		a.op("smax.4s", t, t, least)
		a.op("bit.16b", t, nothing, u)
		a.op("smax.4s", e, e, t)
		a.op("cmgt.4s", u, e, high)
		a.op("orr.16b", k.bad, k.bad, u)
		a.op("smax.4s", e, e, lowest)
		a.op("add.4s", e, e, toMagic) // which is positive
		for j := range v(2) {
			above, below, m, c := k.above+2*i+j, k.below+2*i+j, t, u
			if j == 0 {
				a.op("zip1.4s", m, e, zero)
				a.op1("fcvtl.2d", c, x)
			} else {
				a.op("zip2.4s", m, e, zero)
				a.op1("fcvtl2.2d", c, x)
			}
			a.shift("shl.2d", m, m, 52)
			a.op("fcmgt.2d", above, c, zero)
			a.op("bic.16b", below, c, above)
			a.op("and.16b", above, c, above)
			a.op("fadd.2d", above, above, m)
			a.op("fsub.2d", below, below, m)
		}
	}
}

// products adds a step's products.
func (k *wideKernel) products(a *asm) {
	const x, b, value = v(18), v(20), v(28)
	a.do("MOVD R10, R20")
	a.loop("product", "R20", 1, func() {
		a.pairAt(x, "R13", 0)
		a.pairAt(value, "R11", 0)
		for i := range v(2) {
			a.op1("fcvtl.2d", b+2*i, x+i)
			a.op1("fcvtl2.2d", b+2*i+1, x+i)
		}
		for i := range v(4 * pair) {
			a.lane("fmla.2d", k.above+i, b+i%4, value+i/4, 0)
			a.lane("fmla.2d", k.below+i, b+i%4, value+i/4, 1)
		}
		a.do("ADD $32, R11")
		a.do("ADD $%d, R13", 4*unitLanes)
	})
}

// results converts the sums by the output rule.
func (k *wideKernel) results(a *asm) {
	const keep, e, m, exponent, zero = v(18), v(19), v(20), v(21), v(30)
	a.splat64(exponent, 0x7ff<<52)
	a.clear(zero)
	if k.half {
		k.h.load(a)
	} else {
		a.param(keep, "keep")
	}
	for i := range v(2 * pair) {
		for j := range v(2) {
			s, below := k.above+2*i+j, k.below+2*i+j
			a.op("and.16b", m, s, exponent)
			a.op("fsub.2d", s, s, m)
			a.op("fadd.2d", below, below, m)
			a.op("fadd.2d", s, s, below)
			if k.half {
				k.h.round(a, s, k.bad, e, m)
			}
		}
		x := k.x + i
		a.op1("fcvtn.2s", x, k.above+2*i)
		a.op1("fcvtn2.4s", x, k.above+2*i+1)
		if !k.half {
			a.op("and.16b", x, x, keep)
			a.op("fadd.4s", x, x, zero) // -0, of a sum that rounds to zero, becomes +0
		}
	}
}

// addWhole ends an instruction of a separate unit: it adds the products to the rows' sums.
func (k *wideKernel) addWhole(a *asm) {
	const w, exponent, t = v(18), v(22), v(23)
	a.setRounding(nearest)
	a.splat(exponent, 0x7f800000)
	k.sums(a, w, (*asm).pairAt)
	for i := range v(2 * pair) {
		a.addSeparate(w+i, k.x+i, k.half)
		a.raise(k.bad, w+i, exponent, t)
	}
	k.sums(a, w, (*asm).pairTo)
	a.setRounding(zeroward)
}
