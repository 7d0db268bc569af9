package main

// This file generates the steps of the interpreter for a strip, each of which leaves the order
// of its operations to the caller.

// control sets the argument control in FPCR and keeps what was there in R21.
func (a *asm) control() {
	a.saveRounding()
	a.do("MOVWU control+%d(FP), R16", a.offset["control"])
	a.do("MSR R16, FPCR")
}

// flushed names the registers of what makes a GPU's flushing of FPCR's. The former looks at a
// result after it was rounded, the latter before, and makes a zero of one that rounds up to 2^-126.
// So the operation runs once more, 2^32 as large, where nothing is flushed that matters: a result of
// 2^-94 there is one of 2^-126. An operand that overflows there cannot make the result so small.
// Where FPCR keeps subnormal numbers, the result is 2^-126 already.
type flushed struct {
	by, bound, less v // 2^32, twice the bits of 2^-94, 32 binades
	s, t            v // temporaries
}

func (f flushed) load(a *asm) {
	a.splat(f.by, (127+32)<<23)
	a.splat(f.bound, (127-94)<<23<<1)
	a.splat(f.less, 32<<23)
}

// scale sets d to x times 2^32.
func (f flushed) scale(a *asm, d, x v) { a.op("fmul.4s", d, x, f.by) }

// mend corrects the result d by that of the larger operation, in s.
func (f flushed) mend(a *asm, d v) {
	a.shift("shl.4s", f.t, f.s, 1)
	a.op("cmeq.4s", f.t, f.t, f.bound)
	a.op("sub.4s", f.s, f.s, f.less)
	a.op("bit.16b", d, f.s, f.t)
}

// mul sets d, which may be x, to x times y; large is y times 2^32.
func (f flushed) mul(a *asm, d, x, y, large v) {
	a.op("fmul.4s", f.s, x, large)
	a.op("fmul.4s", d, x, y)
	f.mend(a, d)
}

// fma adds x times y to d.
func (f flushed) fma(a *asm, d, x, y, large v) {
	f.scale(a, f.s, d)
	a.op("fmla.4s", f.s, x, large)
	a.op("fmla.4s", d, x, y)
	f.mend(a, d)
}

// quarters prints a loop over the four quarters of a strip's rows, 16 rows each; next are the
// registers that go on to the next one.
func (a *asm) quarters(next []string, body func()) {
	a.do("MOVD $4, R26")
	a.loop("quarter", "R26", 1, func() {
		body()
		for _, r := range next {
			a.do("ADD $64, %s", r)
		}
	})
}

// vectorsAt and vectorsTo load and store the four registers of a quarter.
func (a *asm) vectorsAt(d v, base string, disp int) {
	a.pairAt(d, base, disp)
	a.pairAt(d+2, base, disp+32)
}

func (a *asm) vectorsTo(d v, base string, disp int) {
	a.pairTo(d, base, disp)
	a.pairTo(d+2, base, disp+32)
}

// threadsAt and threadsTo do so with those of a quarter's threads.
func (a *asm) threadsAt(d v, base string) {
	for j := range v(threads) {
		a.vectorsAt(d+4*j, base, int(row32*j))
	}
}

func (a *asm) threadsTo(d v, base string) {
	for j := range v(threads) {
		a.vectorsTo(d+4*j, base, int(row32*j))
	}
}

// param loads a 32-bit parameter into all lanes, by R16.
func (a *asm) param(d v, name string) {
	a.do("MOVWU %s+%d(FP), R16", name, a.offset[name])
	a.do("VDUP R16, V%d.S4", d)
}

// laneTops takes 16 rows at a time.
func laneTops(a *asm) {
	a.function("laneTops", 0, "s *float32, top *float32, octets int, masked float32", "uint32", "laneTops is that of amd64.")
	a.load("s", "top", "octets")
	const top, x, masked, exponent, bad, t, u = v(0), v(16), v(20), v(21), v(22), v(23), v(24)
	a.param(masked, "masked")
	a.splat(exponent, 0x7f800000)
	a.clear(bad)
	a.quarters([]string{"R0", "R1"}, func() {
		a.threadsAt(top, "R1")
		a.do("MOVD R0, R4")
		a.do("MOVD R2, R5")
		a.loop("octet", "R5", 1, func() {
			for key := range v(8) {
				a.vectorsAt(x, "R4", 0)
				a.do("ADD $%d, R4", row32)
				for i := range v(4) {
					a.op("and.16b", t, x+i, exponent)
					a.op("cmeq.4s", t, t, exponent)
					a.op("fcmeq.4s", u, x+i, masked)
					a.op("bic.16b", t, t, u)
					a.op("orr.16b", bad, bad, t)
					a.raiseTop(top+4*(key/2)+i, x+i, t)
				}
			}
		})
		a.threadsTo(top, "R1")
	})
	a.retBad(bad)
}

// laneScale takes 16 rows at a time.
func laneScale(a *asm) {
	a.function("laneScale", 0, "s *float32, q *float32, k *float32, keys int, control uint32", "", "laneScale is that of amd64.")
	a.load("s", "q", "k", "keys")
	const q, large, x, by, k, byLarge = v(0), v(4), v(8), v(12), v(13), v(14)
	f := flushed{by: 31, bound: 30, less: 29, s: 28, t: 27}
	a.control()
	f.load(a)
	a.quarters([]string{"R0", "R1"}, func() {
		a.vectorsAt(q, "R1", 0)
		for i := range v(4) {
			f.scale(a, large+i, q+i)
		}
		a.do("MOVD R0, R4")
		a.do("MOVD R2, R5")
		a.do("MOVD R3, R6")
		a.loop("key", "R6", 1, func() {
			a.do("VLD1R.P 4(R5), [V%d.S4]", k)
			a.vectorsAt(x, "R4", 0)
			for i := range v(4) {
				f.mul(a, by, k, q+i, large+i)
				f.scale(a, byLarge, by)
				f.mul(a, x+i, x+i, by, byLarge)
			}
			a.vectorsTo(x, "R4", 0)
			a.do("ADD $%d, R4", row32)
		})
	})
	a.restoreRounding()
	a.ret()
}

// laneWeights takes 4 rows at a time. What FPCR flushes of an exponent changes no weight: ex2 of
// the smallest numbers is 1.
func laneWeights(a *asm, name string, twice bool) {
	a.function(name, 0, "s *float32, scale *float32, lower *float32, table *uint32, octets int, control uint32, wide uint32", "uint32",
		name+" is that of amd64; table is packEx2's.")
	a.load("s", "table", "scale", "lower", "octets") // the unit's table is at R1
	unit := ex2Unit{low: 31, high: 30, shift1: 29, shift2: 28, bit1: 27, bit2: 26, ones: 25, word: 24, fraction: 23, one: 22, temp: 0}
	const x, t, u = v(0), v(1), v(2)
	const by, less, least, limit, half, wide, bad, low = v(12), v(13), v(14), v(15), v(16), v(17), v(18), v(19)
	unit.load(a)
	a.param(wide, "wide")
	a.splat(limit, 0x43000000) // 128
	a.splat(least, 0xc2fc0000) // -126
	a.splat(half, 0x3f000000)
	a.clear(bad)
	a.control()
	a.do("MOVD $%d, R8", rows/4)
	a.loop("vector", "R8", 1, func() {
		a.do("MOVD R0, R5")
		a.do("MOVD R4, R6")
		a.loop("octet", "R6", 1, func() {
			for i := range 8 {
				if i%2 == 0 {
					a.at(by, "R2", row32*(i/2))
					a.at(less, "R3", row32*(i/2))
				}
				if twice {
					a.at(x, "R5", row32*i)
					a.op("fmul.4s", x, x, by)
					a.op("fsub.4s", x, x, less)
				} else {
					a.at(t, "R5", row32*i)
					a.op1("fneg.4s", x, less)
					a.op("fmla.4s", x, t, by)
				}
				a.op("fcmgt.4s", t, limit, x)
				a.op("orn.16b", bad, bad, t)
				a.op("fcmgt.4s", low, least, x)
				a.op("and.16b", low, low, wide)
				a.op("fmul.4s", u, x, half)
				a.op("bit.16b", x, u, low)
				unit.apply(a)
				a.op("fmul.4s", u, x, x)
				a.op("bit.16b", x, u, low)
				a.to(x, "R5", row32*i)
			}
			a.do("ADD $%d, R5", 8*row32)
		})
		for _, r := range []string{"R0", "R2", "R3"} {
			a.do("ADD $16, %s", r)
		}
	})
	a.restoreRounding()
	a.retBad(bad)
}

// The ways in which the first key of a thread joins its sum.
const (
	already    = iota // it is the sum
	joinsOnce         // in one rounding with the product of sum and alpha
	joinsTwice        // after the product was rounded
)

// laneSums takes 16 rows at a time. No sum is so small but exact.
func laneSums(a *asm, name string, begin int) {
	a.function(name, 0, "sum *float32, w *float32, alpha *float32, octets int, control uint32", "", name+" is that of amd64.")
	a.load("sum", "w", "alpha", "octets")
	const sum, x, alpha, large = v(0), v(16), v(20), v(24)
	f := flushed{by: 31, bound: 30, less: 29, s: 28, t: 25}
	a.control()
	f.load(a)
	add := func(key int, with func(sum, x v, i int)) {
		a.vectorsAt(x, "R4", 0)
		a.do("ADD $%d, R4", row32)
		for i := range 4 {
			with(sum+v(4*(key/2)+i), x+v(i), i)
		}
	}
	plain := func(sum, x v, _ int) { a.op("fadd.4s", sum, sum, x) }
	a.quarters([]string{"R0", "R1", "R2"}, func() {
		a.threadsAt(sum, "R0")
		a.vectorsAt(alpha, "R2", 0)
		a.do("MOVD R1, R4")
		a.do("SUB $1, R3, R5")
		for key := range 8 {
			switch {
			case key%2 == 1:
				add(key, plain)
			case begin == already:
				a.do("ADD $%d, R4", row32)
			default:
				add(key, func(sum, x v, i int) {
					f.scale(a, large, alpha+v(i))
					if begin == joinsOnce {
						f.fma(a, x, sum, alpha+v(i), large)
						a.move(sum, x)
						return
					}
					f.mul(a, sum, sum, alpha+v(i), large)
					plain(sum, x, i)
				})
			}
		}
		a.do("CBZ R5, end")
		a.loop("octet", "R5", 1, func() {
			for key := range 8 {
				add(key, plain)
			}
		})
		a.label("end")
		a.threadsTo(sum, "R0")
	})
	a.restoreRounding()
	a.ret()
}

// weightFormat is a format of P.
type weightFormat struct {
	largest         uint32 // as FP32 bits, 0 where the argument says it
	quantum, lowest uint32 // of roundWeights, 0 for a format of outputs
	output          int
}

// laneRound rounds weights, 16 at a time.
func laneRound(a *asm, name string, to weightFormat) {
	a.function(name, 0, "dst *float32, src *float32, groups int, most float32", "uint32", name+" is that of amd64.")
	a.load("dst", "src", "groups")
	const x, most, bad, exponent, quantum, lowest, one, half, t, u = v(0), v(16), v(17), v(18), v(19), v(20), v(21), v(22), v(23), v(24)
	a.param(most, "most")
	if to.largest != 0 {
		a.splat(t, to.largest)
		a.op("fmin.4s", most, most, t)
	}
	a.splat(exponent, 0x7f800000)
	a.splat(quantum, to.quantum)
	a.splat(lowest, to.lowest)
	a.splat(one, 1)
	a.splat(half, 0x7fff)
	a.clear(bad)
	a.loop("group", "R2", 1, func() {
		a.vectorsAt(x, "R1", 0)
		for i := range v(4) {
			a.op("fcmge.4s", t, most, x+i)
			a.op("orn.16b", bad, bad, t)
			if to.lowest != 0 {
				a.roundWeights(x+i, u, exponent, quantum, lowest)
			} else {
				a.round(to.output, x+i, one, half, t)
			}
		}
		a.vectorsTo(x, "R0", 0)
		a.do("ADD $64, R0")
		a.do("ADD $64, R1")
	})
	a.retBad(bad)
}

// laneExponents takes 16 weights at a time.
func laneExponents(a *asm) {
	a.function("laneExponents", 0, "dst *uint8, src *float32, groups int, floor uint32", "", "laneExponents is that of amd64.")
	a.load("dst", "src", "groups")
	const x, floor, nonzero = v(0), v(16), v(17)
	a.param(floor, "floor")
	a.loop("group", "R2", 1, func() {
		a.vectorsAt(x, "R1", 0)
		for i := range v(4) {
			a.op("cmtst.4s", nonzero, x+i, x+i)
			a.shift("ushr.4s", x+i, x+i, 23)
			a.op("smax.4s", x+i, x+i, floor)
			a.op("and.16b", x+i, x+i, nonzero)
		}
		a.op("uzp1.8h", x, x, x+1)
		a.op("uzp1.8h", x+2, x+2, x+3)
		a.op("uzp1.16b", x, x, x+2)
		a.to(x, "R0", 0)
		a.do("ADD $16, R0")
		a.do("ADD $64, R1")
	})
	a.ret()
}

// laneMultiply is a product of whole numbers whose sums FP32 holds: no order of additions
// matters. It takes two rows and 32 lanes at a time.
func laneMultiply(a *asm) {
	a.function("laneMultiply", 0, "acc *float32, a *float32, stride int, b *float32, rows int, depth int", "", "laneMultiply is that of amd64.")
	a.load("acc", "a", "stride", "b", "rows", "depth")
	const sum, b, x = v(0), v(16), v(24)
	a.label("row")
	a.do("ADD R2, R1, R6") // the second row
	a.halves(func() {
		for i := range v(16) {
			a.clear(sum + i)
		}
		a.do("MOVD R1, R7")
		a.do("MOVD R6, R8")
		a.do("ADD R19, R3, R9")
		a.do("ADD R19, R0, R10")
		a.do("MOVD R5, R11")
		a.loop("k", "R11", 1, func() {
			a.vectorsAt(b, "R9", 0)
			a.vectorsAt(b+4, "R9", 64)
			a.do("FMOVS.P 4(R7), F%d", x)
			a.do("FMOVS.P 4(R8), F%d", x+1)
			for r := range v(2) {
				for i := range v(8) {
					a.lane("fmla.4s", sum+8*r+i, b+i, x+r, 0)
				}
			}
			a.do("ADD $%d, R9", row32)
		})
		for r := range v(2) {
			a.vectorsTo(sum+8*r, "R10", int(row32*r))
			a.vectorsTo(sum+8*r+4, "R10", int(row32*r+64))
		}
	})
	a.do("ADD $%d, R0", 2*row32)
	a.do("ADD R2<<1, R1")
	a.do("SUBS $2, R4")
	a.do("BNE row")
	a.ret()
}

// joining are the registers of laneJoin for a vector: large ones are times 2^32.
type joining struct{ o, tile, alpha, alphaLarge, factor, factorLarge v }

// laneJoin is what becomes of the sums between tiles, of 16 rows at a time.
func laneJoin(a *asm, name string, join func(f flushed, j joining)) {
	a.function(name, 0, "o *float32, tile *float32, alpha *float32, factor *float32, channels int, control uint32", "uint32", name+" is that of amd64.")
	a.load("o", "tile", "alpha", "factor", "channels")
	const x, tile, alpha, alphaLarge, factor, factorLarge, bad, exponent = v(0), v(4), v(8), v(12), v(16), v(20), v(24), v(25)
	f := flushed{by: 31, bound: 30, less: 29, s: 28, t: 27}
	a.control()
	f.load(a)
	a.splat(exponent, 0x7f800000)
	a.clear(bad)
	a.quarters([]string{"R0", "R1", "R2", "R3"}, func() {
		a.vectorsAt(alpha, "R2", 0)
		a.vectorsAt(factor, "R3", 0)
		for i := range v(4) {
			f.scale(a, alphaLarge+i, alpha+i)
			f.scale(a, factorLarge+i, factor+i)
		}
		a.do("MOVD R0, R5")
		a.do("MOVD R1, R6")
		a.do("MOVD R4, R7")
		a.loop("channel", "R7", 1, func() {
			a.vectorsAt(x, "R5", 0)
			a.vectorsAt(tile, "R6", 0)
			for i := range v(4) {
				join(f, joining{x + i, tile + i, alpha + i, alphaLarge + i, factor + i, factorLarge + i})
				a.raise(bad, x+i, exponent, f.t)
			}
			a.vectorsTo(x, "R5", 0)
			a.do("ADD $%d, R5", row32)
			a.do("ADD $%d, R6", row32)
		})
	})
	a.restoreRounding()
	a.retBad(bad)
}

// laneJoins prints all of them.
func laneJoins(a *asm) {
	rescale := func(f flushed, j joining) { f.mul(a, j.o, j.o, j.alpha, j.alphaLarge) }
	laneJoin(a, "laneRescale", rescale)
	laneJoin(a, "laneRescaleFP16", func(f flushed, j joining) {
		rescale(f, j)
		a.toFP16(j.o)
	})
	laneJoin(a, "laneJoin", func(f flushed, j joining) {
		f.fma(a, j.tile, j.o, j.alpha, j.alphaLarge)
		a.move(j.o, j.tile)
	})
	laneJoin(a, "laneJoinTwice", func(f flushed, j joining) {
		rescale(f, j)
		a.op("fadd.4s", j.o, j.o, j.tile)
	})
	laneJoin(a, "laneJoinFactor", func(f flushed, j joining) {
		rescale(f, j)
		f.fma(a, j.o, j.tile, j.factor, j.factorLarge)
	})
}

// laneOutput is the end of a row, in the lanes its channels. With last the scale is a factor of
// its own.
func laneOutput(a *asm, name string, last bool, format int) {
	a.function(name, 0, "out *float32, o *float32, scale *float32, groups int, inverse float32, control uint32", "uint32", name+" is that of amd64.")
	a.load("out", "o", "scale", "groups")
	const x, scale, inverse, inverseLarge, large, bad, exponent, one, half = v(0), v(4), v(16), v(17), v(18), v(19), v(20), v(21), v(22)
	f := flushed{by: 31, bound: 30, less: 29, s: 28, t: 27}
	a.param(inverse, "inverse")
	a.control()
	f.load(a)
	f.scale(a, inverseLarge, inverse)
	a.splat(exponent, 0x7f800000)
	a.splat(one, 1)
	a.splat(half, 0x7fff)
	a.clear(bad)
	a.loop("group", "R3", 1, func() {
		a.vectorsAt(x, "R1", 0)
		a.vectorsAt(scale, "R2", 0)
		for i := range v(4) {
			first := scale + i
			if last {
				first = x + i
			}
			f.mul(a, first, first, inverse, inverseLarge)
			f.scale(a, large, x+i)
			f.mul(a, x+i, scale+i, x+i, large)
			a.raise(bad, x+i, exponent, f.t)
			a.round(format, x+i, one, half, f.t)
			a.raise(bad, x+i, exponent, f.t)
		}
		a.vectorsTo(x, "R0", 0)
		for _, r := range []string{"R0", "R1", "R2"} {
			a.do("ADD $64, %s", r)
		}
	})
	a.restoreRounding()
	a.retBad(bad)
}

// steps prints the kernels of this file.
func steps(a *asm) {
	laneTops(a)
	laneScale(a)
	laneWeights(a, "laneWeights", false)
	laneWeights(a, "laneWeightsTwice", true)
	laneSums(a, "laneSums", already)
	laneSums(a, "laneSumsFMA", joinsOnce)
	laneSums(a, "laneSumsTwice", joinsTwice)
	laneRound(a, "laneRoundFP16", weightFormat{largest: 0x477fe000, output: fp16})
	laneRound(a, "laneRoundBF16", weightFormat{largest: 0x7f7f0000, output: bf16})
	laneRound(a, "laneRoundE4M3", weightFormat{largest: 0x43e00000, quantum: 20 << 23, lowest: (127 + 14) << 23})
	laneRound(a, "laneRoundE5M2", weightFormat{largest: 0x47600000, quantum: 21 << 23, lowest: (127 + 7) << 23})
	laneRound(a, "laneRoundInt", weightFormat{lowest: (127 + 23) << 23})
	laneExponents(a)
	laneMultiply(a)
	laneJoins(a)
	for _, f := range []struct {
		name   string
		format int
	}{{"laneOutputFP16", fp16}, {"laneOutputBF16", bf16}, {"laneOutputFP32", fp32}} {
		laneOutput(a, f.name, false, f.format)
		laneOutput(a, f.name+"Last", true, f.format)
	}
}
