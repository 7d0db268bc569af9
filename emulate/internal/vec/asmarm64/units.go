package main

// This file generates the kernels of tensorcore's package simd: chains of dot-adds with operands
// of both signs. They are those of amd64, whose comments say why they are right, with 4 lanes in
// a register.

// unitLanes is the length of a row of the second operand of dotLanes, and of its sums.
const unitLanes = rows

// Exponents in dotLanes are biased by 127, those of the first operand's rows aside. zeroLane and
// less stand for products that are zero, below or at allZeroTop.
const (
	bias       = 127
	lowestLane = bias - 96
	highLane   = bias + 100
	zeroLane   = 0xffffffff - 1<<12 + 1
	allZeroTop = 0xffffffff - 1<<11 + 1
)

// units prints the kernels.
func units(a *asm) {
	dotTile(a, "dotTile", false, false)
	dotTile(a, "dotTileSeparate", false, true)
	dotTile(a, "dotTileHalf", true, false)
	dotTile(a, "dotTileHalfSeparate", true, true)
	unitExponents(a, "laneExponents", false)
	unitExponents(a, "rowExponents", true)
	dotLanes(a, "dotLanes", false, false)
	dotLanes(a, "dotLanesSeparate", false, true)
	dotLanes(a, "dotLanesHalf", true, false)
	dotLanes(a, "dotLanesHalfSeparate", true, true)
	unitExact(a, "dotExact", false)
	unitExact(a, "dotExactHalf", true)
	dotWide64(a, "dotWide", false, false)
	dotWide64(a, "dotWideSeparate", false, true)
	dotWide64(a, "dotWideHalf", true, false)
	dotWide64(a, "dotWideHalfSeparate", true, true)
}

// unitExponents finds the exponents of operands, as the units see them, 16 at a time.
func unitExponents(a *asm, name string, row bool) {
	kind := "int16"
	if row {
		kind = "uint32"
	}
	a.function(name, 0, "dst *"+kind+", x *float32, groups int, least uint32, dropped uint32, quanta float32, largest float32", "uint32",
		name+" is that of amd64.")
	a.load("dst", "x", "groups")
	const x, e, least, dropped, quanta, largest, bad, nothing, biased, t, u = v(0), v(4), v(16), v(17), v(18), v(19), v(20), v(21), v(22), v(23), v(24)
	a.param(least, "least")
	a.param(dropped, "dropped")
	a.param(quanta, "quanta")
	a.param(largest, "largest")
	a.splat(nothing, zeroLane)
	a.splat(biased, bias)
	a.clear(bad)
	a.loop("group", "R2", 1, func() {
		a.vectorsAt(x, "R1", 0)
		for i := range v(4) {
			a.op("cmtst.4s", t, x+i, dropped)
			a.op("orr.16b", bad, bad, t)
			a.op("fmul.4s", t, x+i, quanta)
			a.op1("frintn.4s", u, t)
			a.op("fcmeq.4s", t, t, u)
			a.op("orn.16b", bad, bad, t) // not whole
			a.op("facge.4s", t, largest, x+i)
			a.op("orn.16b", bad, bad, t) // not at most
			a.shift("shl.4s", t, x+i, 1)
			a.op1("cmeq0.4s", u, t)
			a.shift("ushr.4s", t, t, 24)
			a.op("smax.4s", t, t, least)
			if row {
				a.op("sub.4s", t, t, biased)
			}
			a.op("bit.16b", t, nothing, u)
			if !row {
				a.move(e+i, t)
				continue
			}
			a.shift("shl.4s", u, t, 16)
			a.shift("ushr.4s", t, u, 16)
			a.op("orr.16b", e+i, t, u)
		}
		if row {
			a.vectorsTo(e, "R0", 0)
			a.do("ADD $64, R0")
		} else {
			a.op("uzp1.8h", e, e, e+1)
			a.op("uzp1.8h", e+1, e+2, e+3)
			a.pairTo(e, "R0", 0)
			a.do("ADD $32, R0")
		}
		a.do("ADD $64, R1")
	})
	a.retBad(bad)
}

// laneKernel are the registers of dotLanes: two rows of 16 lanes, whose sums begin as what they
// continue and end as the results. Rows of A and of its exponents are at R11 and R22, R12 and R23.
type laneKernel struct {
	half, separate bool
	sum, scale     v // [2][4] each
	top            v // [2][2], of words
	temp, bad      v // 10 temporaries, from 20 on
}

// pair is the number of rows and laneVecs that of registers of a row's lanes.
const (
	pair     = 2
	laneVecs = 4
)

// dotLanes is a chain for two rows of A and 16 lanes at a time.
func dotLanes(a *asm, name string, half, separate bool) {
	a.function(name, 0, "acc *float32, a *float32, ae *uint32, b *float32, be *int16, aStride int, aeStride int, rows int, instructions int, steps int, terms int, fraction uint32, keep uint32, most uint32", "uint32",
		name+" is that of amd64 for 16 lanes.")
	a.load("acc", "a", "ae", "b", "be", "aStride", "aeStride", "rows", "instructions", "steps", "terms")
	l := laneKernel{half: half, separate: separate, sum: 0, scale: 8, top: 16, temp: 20, bad: 31}
	a.clear(l.bad)
	a.saveRounding()
	a.setRounding(zeroward)
	a.label("rows")
	for _, p := range [][2]string{{"R1", "R11"}, {"R2", "R12"}, {"R3", "R13"}, {"R4", "R14"}, {"R8", "R15"}} {
		a.do("MOVD %s, %s", p[0], p[1])
	}
	a.do("ADD R5, R1, R22")
	a.do("ADD R6, R2, R23")
	if !separate {
		for r := range v(pair) {
			a.vectorsAt(l.sum+laneVecs*r, "R0", int(4*unitLanes*r))
		}
	}
	a.loop("instruction", "R15", 1, func() {
		if separate {
			for i := range v(pair * laneVecs) {
				a.clear(l.sum + i)
			}
		}
		a.do("MOVD R9, R19")
		a.loop("step", "R19", 1, func() {
			l.exponents(a)
			l.begin(a)
			l.products(a)
			l.results(a)
		})
		if separate {
			l.addWhole(a)
		}
	})
	if !separate {
		for r := range v(pair) {
			a.vectorsTo(l.sum+laneVecs*r, "R0", int(4*unitLanes*r))
		}
	}
	a.do("ADD $%d, R0", pair*4*unitLanes)
	a.do("ADD R5<<1, R1")
	a.do("ADD R6<<1, R2")
	a.do("SUBS $%d, R7", pair)
	a.do("BNE rows")
	a.restoreRounding()
	a.retBad(l.bad)
}

// exponents finds a step's largest exponents.
func (l *laneKernel) exponents(a *asm) {
	be, ae, t := l.temp, l.temp+2, l.temp+4
	for i := range v(4) {
		a.splat(l.top+i, 0x80008000)
	}
	a.do("MOVD R10, R20")
	a.loop("exponent", "R20", 4, func() {
		a.at(ae, "R12", 0)
		a.at(ae+1, "R23", 0)
		for i := range 4 {
			a.pairAt(be, "R14", 2*unitLanes*i)
			for r := range v(pair) {
				a.do("VDUP V%d.S[%d], V%d.S4", ae+r, i, t)
				for h := range v(2) {
					a.op("add.8h", t+1, t, be+h)
					a.op("smax.8h", l.top+2*r+h, l.top+2*r+h, t+1)
				}
			}
		}
		a.do("ADD $16, R12")
		a.do("ADD $16, R23")
		a.do("ADD $%d, R14", 4*2*unitLanes)
	})
}

// begin makes the scales of the largest exponents, and from them the sums' beginnings.
func (l *laneKernel) begin(a *asm) {
	nothing, high, lowest, zeros, limit, toScale, least := l.temp, l.temp+1, l.temp+2, l.temp+3, l.temp+4, l.temp+5, l.temp+6
	t, u := l.temp+7, l.temp+8
	a.splat(nothing, zeroLane)
	a.splat(high, highLane)
	a.splat(lowest, lowestLane)
	a.splat(zeros, (allZeroTop+1)&0xffffffff)
	a.splat(limit, (lowestLane-allZeroTop-1)&0xffffffff)
	a.splat(least, bias-14)
	a.do("MOVWU fraction+%d(FP), R16", a.offset["fraction"])
	a.do("ADD $%d, R16", 3*bias-bias)
	a.do("VDUP R16, V%d.S4", toScale)
	for i := range v(pair * laneVecs) {
		x, e := l.sum+i, l.scale+i
		if i%2 == 0 {
			a.op1("sxtl.4s", e, l.top+i/2)
		} else {
			a.op1("sxtl2.4s", e, l.top+i/2)
		}
		a.shift("shl.4s", t, x, 1)
		a.op1("cmeq0.4s", u, t)
		a.shift("ushr.4s", t, t, 24)
		if l.half {
			a.op("smax.4s", t, t, least)
		}
		a.op("bit.16b", t, nothing, u)
		a.op("smax.4s", e, e, t)
		a.op("cmgt.4s", u, e, high)
		a.op("orr.16b", l.bad, l.bad, u)
		// Above allZeroTop and below the lowest is not valid.
		a.op("sub.4s", t, e, zeros)
		a.op("cmhi.4s", u, limit, t)
		a.op("orr.16b", l.bad, l.bad, u)
		a.op("smax.4s", e, e, lowest)
		a.op("sub.4s", e, toScale, e)
		a.shift("shl.4s", e, e, 23)
		a.op("fmul.4s", x, x, e)
		a.op1("fcvtzs.4s", x, x)
	}
}

// products adds a step's products.
func (l *laneKernel) products(a *asm) {
	row, b, t := l.temp-4, l.temp, l.temp+4 // the largest exponents are no longer needed
	a.do("MOVD R10, R20")
	a.loop("product", "R20", 4, func() {
		a.at(row, "R11", 0)
		a.at(row+1, "R22", 0)
		for k := range 4 {
			a.vectorsAt(b, "R13", 4*unitLanes*k)
			for r := range v(pair) {
				for i := range v(laneVecs) {
					a.lane("fmul.4s", t+i, b+i, row+r, k)
					a.op("fmul.4s", t+i, t+i, l.scale+laneVecs*r+i)
					a.op1("fcvtzs.4s", t+i, t+i)
					a.op("add.4s", l.sum+laneVecs*r+i, l.sum+laneVecs*r+i, t+i)
				}
			}
		}
		a.do("ADD $16, R11")
		a.do("ADD $16, R22")
		a.do("ADD $%d, R13", 4*4*unitLanes)
	})
}

// results converts the sums by the output rule.
func (l *laneKernel) results(a *asm) {
	most, twoBias, keep, one, t, u, w := l.top, l.top+1, l.top+2, l.top+3, l.temp, l.temp+1, l.temp+2
	a.param(most, "most")
	a.splat(twoBias, 2*bias<<23)
	a.param(keep, "keep")
	a.splat(one, 1)
	h := halfRound{lowest: l.temp + 3, ten: l.temp + 4, top: l.temp + 5, largest: l.temp + 6, e: t, t: u, u: w}
	if l.half {
		h.load(a)
	}
	for i := range v(pair * laneVecs) {
		x, scale := l.sum+i, l.scale+i
		a.op1("abs.4s", t, x)
		a.op("cmhi.4s", u, t, most)
		a.op("orr.16b", l.bad, l.bad, u)
		a.op1("scvtf.4s", w, x)
		if l.half {
			// A last bit that is set where something was lost keeps the second rounding from
			// being wrong.
			a.op1("fcvtzs.4s", t, w)
			a.op("cmeq.4s", u, t, x)
			a.op("bic.16b", u, one, u)
			a.op("orr.16b", w, w, u)
		}
		a.op("sub.4s", t, twoBias, scale) // the scale's inverse
		a.op("fmul.4s", x, w, t)
		if l.half {
			h.round(a, x, l.bad)
		} else {
			a.op("and.16b", x, x, keep)
		}
	}
}

// addWhole ends an instruction of a separate unit: it adds the products to the rows' sums.
func (l *laneKernel) addWhole(a *asm) {
	w, exponent, t := l.temp, l.temp+4, l.temp+5
	a.setRounding(nearest)
	a.splat(exponent, 0x7f800000)
	for r := range v(pair) {
		at := int(4 * unitLanes * r)
		a.vectorsAt(w, "R0", at)
		for i := range v(laneVecs) {
			a.addSeparate(w+i, l.sum+laneVecs*r+i, l.half)
			a.raise(l.bad, w+i, exponent, t)
		}
		a.vectorsTo(w, "R0", at)
	}
	a.setRounding(zeroward)
}

// addSeparate adds an instruction's products to a sum, as FPCR says.
func (a *asm) addSeparate(sum, x v, half bool) {
	a.op("fadd.4s", sum, sum, x)
	if half {
		a.toFP16(sum)
	}
}

// halfRound are the constants and temporaries of roundHalf.
type halfRound struct{ lowest, ten, top, largest, e, t, u v }

func (h halfRound) load(a *asm) {
	a.splat(h.lowest, bias-14)
	a.splat(h.ten, 10)
	a.splat(h.top, 2*bias+10)
	a.splat(h.largest, 0x477fe000)
}

func (h halfRound) round(a *asm, x, bad v) {
	a.roundHalf(x, h.lowest, h.ten, h.top, h.largest, bad, h.e, h.t, h.u)
}
