package main

import "fmt"

// This file generates the passes over scores.

// qk multiplies bytes by SDOT, 16 rows and 4 keys at a time.
func qk(a *asm) {
	a.function("qk", 0, "out *int32, q *uint8, k *int8, quads int, keys int", "",
		"qk writes out[key][row] for keys (a multiple of 4) of quads*4 codes each; q is [quads][64][4], biased by 128.")
	a.load("out", "q", "k", "quads", "keys")
	const acc, x, y, signs, perRow = v(0), v(16), v(20), v(24), 4
	a.splat(signs, 0x80808080)
	a.do("LSL $2, R3, R5") // bytes of a key
	a.label("key")
	// The keys lie at R2, R6, R7 and R8, the strip's row is R9 bytes from its first.
	a.do("ADD R5, R2, R6")
	a.do("ADD R5, R6, R7")
	a.do("ADD R5, R7, R8")
	a.do("MOVD ZR, R9")
	a.label("quarter")
	for i := range v(16) {
		a.clear(acc + i)
	}
	a.do("ADD R9, R1, R10")
	a.do("MOVD ZR, R11")
	a.label("quad")
	a.pairAt(x, "R10", 0)
	a.pairAt(x+2, "R10", 32)
	for i := range v(4) {
		a.op("eor.16b", x+i, x+i, signs)
	}
	for j, key := range []string{"R2", "R6", "R7", "R8"} {
		a.do("FMOVS (%s)(R11), F%d", key, y+v(j))
	}
	for j := range v(4) {
		for i := range v(perRow) {
			a.lane("sdot.4s", acc+perRow*j+i, x+i, y+j, 0)
		}
	}
	a.do("ADD $%d, R10", row32)
	a.do("ADD $4, R11")
	a.do("CMP R5, R11")
	a.do("BNE quad")
	a.do("ADD R9, R0, R10")
	for j := range v(4) {
		for i := v(0); i < perRow; i += 2 {
			a.pairTo(acc+perRow*j+i, "R10", int(row32*j+16*i))
		}
	}
	a.do("ADD $64, R9")
	a.do("CMP $%d, R9", row32)
	a.do("BNE quarter")
	a.do("ADD R5, R8, R2")
	a.do("ADD $%d, R0", 4*row32)
	a.do("SUBS $4, R4")
	a.do("BNE key")
	a.ret()
}

// toFloat takes 16 rows at a time. No score is NaN or -0.
func toFloat(a *asm) {
	a.function("toFloat", 0, "s *float32, top *float32, keys int", "", "toFloat is that of amd64.")
	a.load("s", "top", "keys")
	const top, x = v(0), v(16)
	a.do("MOVD $4, R3")
	a.loop("quarter", "R3", 1, func() {
		for j := range v(threads) {
			for i := v(0); i < 4; i += 2 {
				a.pairAt(top+4*j+i, "R1", int(row32*j+16*i))
			}
		}
		a.do("MOVD R0, R4")
		a.do("MOVD R2, R5")
		a.loop("octet", "R5", 8, func() {
			for key := range v(8) {
				// LDP reaches 1008 bytes.
				if key > 0 && key%2 == 0 {
					a.do("ADD $%d, R4", 2*row32)
				}
				for i := v(0); i < 4; i += 2 {
					at := int(row32*(key%2) + 16*i)
					a.pairAt(x+i, "R4", at)
					for h := range v(2) {
						t := top + 4*(key/2) + i + h
						a.op1("scvtf.4s", x+i+h, x+i+h)
						a.op("fmax.4s", t, t, x+i+h)
					}
					a.pairTo(x+i, "R4", at)
				}
			}
			a.do("ADD $%d, R4", 2*row32)
		})
		for j := range v(threads) {
			for i := v(0); i < 4; i += 2 {
				a.pairTo(top+4*j+i, "R1", int(row32*j+16*i))
			}
		}
		a.do("ADD $64, R0")
		a.do("ADD $64, R1")
	})
	a.ret()
}

// threads is how many threads of the GPU share a row: keys 2j and 2j+1 of each 8 belong
// to thread j.
const threads = 4

// raiseTop sets top to x where x is larger.
func (a *asm) raiseTop(top, x, t v) {
	a.op("fcmgt.4s", t, x, top)
	a.op("bit.16b", top, x, t)
}

// dequantize takes 4 rows at a time.
func dequantize(a *asm) {
	a.function("dequantize", 0, "s *float32, top *float32, keys int, qscale *float32, kscale *float32, delta *float32, limit *int32, masked float32", "uint32",
		"dequantize is that of amd64.")
	a.load("s", "top", "keys", "qscale", "kscale", "delta", "limit")
	const top, qs, limit, masked, exponent, bad = v(0), v(4), v(5), v(6), v(7), v(8)
	const x, scale, d, live, now, t, u, least = v(16), v(17), v(18), v(19), v(20), v(21), v(22), v(23)
	a.do("FMOVS masked+%d(FP), F%d", a.offset["masked"], masked)
	a.do("VDUP V%d.S[0], V%[1]d.S4", masked)
	a.splat(exponent, 0x7f800000)
	a.splat(least, smallest)
	a.clear(bad)
	a.do("MOVD $%d, R7", rows/4)
	a.loop("vector", "R7", 1, func() {
		for j := range v(threads) {
			a.at(top+j, "R1", int(row32*j))
		}
		a.at(qs, "R3", 0)
		a.at(limit, "R6", 0)
		a.do("MOVD R0, R8")  // scores
		a.do("MOVD R4, R9")  // scales
		a.do("MOVD R5, R10") // delta
		a.do("MOVD ZR, R11") // the key
		a.do("MOVD R2, R12")
		a.loop("octet", "R12", 8, func() {
			for i := range v(8) {
				a.at(x, "R8", int(row32*i))
				a.op1("scvtf.4s", x, x)
				a.do("VLD1R.P 4(R9), [V%d.S4]", scale)
				a.op("fmul.4s", scale, scale, qs)
				a.do("VLD1R.P 4(R10), [V%d.S4]", d)
				a.op("fmla.4s", d, x, scale)
				// Only scores that count are looked at.
				a.do("VDUP R11, V%d.S4", live)
				a.op("cmgt.4s", live, limit, live)
				a.clear(now)
				a.raise(now, d, exponent, t)
				a.raiseTiny(now, d, least, t, u)
				a.raiseTiny(now, scale, least, t, u)
				a.op("and.16b", now, now, live)
				a.op("orr.16b", bad, bad, now)
				a.op("bsl.16b", live, d, masked)
				a.raiseTop(top+i/2, live, t)
				a.to(live, "R8", int(row32*i))
				a.do("ADD $1, R11")
			}
			a.do("ADD $%d, R8", 8*row32)
		})
		for j := range v(threads) {
			a.to(top+j, "R1", int(row32*j))
		}
		for _, r := range []string{"R0", "R1", "R3", "R6"} {
			a.do("ADD $16, %s", r)
		}
	})
	a.retBad(bad)
}

// ex2Unit names the registers of the special function unit: constants and, from temp on,
// 12 temporaries, of which the first is the operand.
type ex2Unit struct {
	low, high, shift1, shift2, bit1, bit2, ones, word, fraction, one v
	temp                                                             v
}

// load loads the constants.
func (e ex2Unit) load(a *asm) {
	each := func(b0, b1, b2, b3, step int) (b [16]byte) {
		for i := range 4 {
			for j, x := range []int{b0, b1, b2, b3} {
				b[4*i+j] = byte(x + step*i)
			}
		}
		return b
	}
	a.bytes(e.low, each(0, 0, 0, 0, 4))
	a.bytes(e.high, each(1, 1, 1, 1, 4))
	a.bytes(e.shift1, each(-7, -6, -5, -4, 0))
	a.bytes(e.shift2, each(-3, -2, -1, -8, 0))
	a.bytes(e.bit1, each(2, 4, 8, 16, 0))
	a.bytes(e.bit2, each(32, 64, 128, 0, 0))
	a.splat(e.ones, 0x01010101)
	a.splat(e.word, 0xffff)
	a.splat(e.fraction, 0x7fffff)
	a.splat(e.one, 1)
}

// apply replaces the operand by ex2.approx.ftz.f32 of it, for x < 128 and not NaN: package
// mufu in 32-bit integers, as ex2Unit of amd64 has it. R1 is a table of records of a
// segment's coefficients: rounding and C0's low bits, C1, C2, C0's high bits.
func (e ex2Unit) apply(a *asm) {
	t := func(i int) v { return e.temp + v(i) }
	x, w, half, square := t(0), t(1), t(4), t(6)
	// w is x in fixed point; a negative one with a fraction takes the one's complement.
	a.shift("fcvtzs.4s", w, x, 23)
	a.op("cmtst.4s", t(2), w, e.fraction)
	a.shift("sshr.4s", t(3), w, 31)
	a.op("and.16b", t(2), t(2), t(3))
	a.op("add.4s", w, w, t(2))
	a.shift("ushr.4s", half, w, 1)
	// The coefficients of the segments, bits 17 to 22 of w.
	for i := range 2 {
		a.do("VMOV V%d.D[%d], R%d", w, i, 9+i)
	}
	for i := range 4 {
		a.do("UBFX $%d, R%d, $6, R%d", 17+32*(i%2), 9+i/2, 11+i)
	}
	for i := range 4 {
		a.do("ADD R%d<<4, R1, R%[1]d", 11+i)
		a.at(t(8+i), fmt.Sprintf("R%d", 11+i), 0)
	}
	// The truncated square: h*h>>1 plus, for each bit j of h, l >> (9-j). The low byte of
	// half is l>>1, the next one h.
	a.do("VTBL V%d.B16, [V%d.B16], V%d.B16", e.low, half, t(2))
	a.do("VTBL V%d.B16, [V%d.B16], V%d.B16", e.high, half, t(3))
	a.op("ushl.16b", t(5), t(2), e.shift1)
	a.op("ushl.16b", t(2), t(2), e.shift2)
	a.op("cmtst.16b", t(7), t(3), e.bit1)
	a.op("and.16b", t(5), t(5), t(7))
	a.op("cmtst.16b", t(7), t(3), e.bit2)
	a.op("and.16b", t(2), t(2), t(7))
	a.op("add.16b", t(5), t(5), t(2)) // below 256
	a.shift("ushr.4s", t(3), t(3), 24)
	a.op("mul.4s", t(3), t(3), t(3))
	a.shift("ushr.4s", square, t(3), 1)
	a.op("udot.4s", square, t(5), e.ones)
	// Records to coefficients.
	a.op("zip1.4s", t(2), t(8), t(9))
	a.op("zip2.4s", t(3), t(8), t(9))
	a.op("zip1.4s", t(5), t(10), t(11))
	a.op("zip2.4s", t(7), t(10), t(11))
	rest, c1, c2, c0 := t(8), t(9), t(10), t(11)
	a.op("zip1.2d", rest, t(2), t(5))
	a.op("zip2.2d", c1, t(2), t(5))
	a.op("zip1.2d", c2, t(3), t(7))
	a.op("zip2.2d", c0, t(3), t(7))
	// floor((C1*(t&1) + C2*sq(t) + (C0&3)<<13 + rounding) / 2) + C1*(t>>1)
	a.op("and.16b", t(2), w, e.one)
	a.op("mla.4s", rest, square, c2)
	a.op("mla.4s", rest, c1, t(2))
	a.shift("ushr.4s", rest, rest, 1)
	a.op("and.16b", half, half, e.word)
	a.op("mla.4s", rest, c1, half)
	a.shift("usra.4s", c0, rest, 14)
	// Exponent; what falls below the smallest normal number is zero.
	a.op("bic.16b", w, w, e.fraction)
	a.op("add.4s", w, w, c0)
	a.op("cmgt.4s", t(2), w, e.fraction)
	a.op("and.16b", x, w, t(2))
}

// roundWeights rounds x to P~'s format by adding and subtracting a power of two that has
// its quantum as its ulp.
func (a *asm) roundWeights(x, big, exponent, quantum, lowest v) {
	a.op("and.16b", big, x, exponent)
	a.op("add.4s", big, big, quantum)
	a.op("smax.4s", big, big, lowest)
	a.op("fadd.4s", x, x, big)
	a.op("fsub.4s", x, x, big)
}

// softmax takes 4 rows at a time. Its operands are a SoftmaxArgs and the table of
// ex2Unit.apply.
func softmax(a *asm) {
	a.function("softmax", 80, "a *byte, table *uint32", "uint32", "softmax is that of amd64; table is packEx2's.")
	a.load("a", "table")
	unit := ex2Unit{low: 31, high: 30, shift1: 29, shift2: 28, bit1: 27, bit2: 26, ones: 25, word: 24, fraction: 23, one: 22, temp: 0}
	const exponent, quantum, lowest, floor, limit, bad, max, scale, factor, sum = v(21), v(20), v(19), v(18), v(17), v(16), v(15), v(14), v(13), v(12)
	const x = v(0)
	field := func(r string, i int) { a.do("MOVD %d(R0), %s", 8*i, r) }
	constant := func(d v, i int) { a.broadcast(d, "R0", 88+4*i) }
	unit.load(a)
	a.splat(exponent, 0x7f800000)
	constant(limit, 2)
	constant(quantum, 3)
	constant(lowest, 4)
	constant(floor, 5)
	a.clear(bad)
	a.do("MOVD $local-64(SP), R20")
	a.do("MOVD ZR, R2") // the rows' byte offset in a strip's row
	a.label("vector")
	row := func(r string, i int) {
		field(r, i)
		a.do("ADD R2, %s", r)
	}
	row("R3", 5)   // M
	row("R4", 4)   // Top
	row("R5", 8)   // QScale
	field("R6", 9) // KScale
	a.at(max, "R3", 0)
	for j := range v(threads) {
		const q, top, t, u, least = v(1), v(2), v(3), v(4), v(5)
		a.splat(least, smallest)
		a.at(q, "R5", 0)
		a.broadcast(scale, "R6", int(4*j))
		a.op("fmul.4s", scale, scale, q)
		a.raiseTiny(bad, scale, least, t, u)
		constant(t, 0)
		a.op("fmul.4s", scale, scale, t)
		a.raiseTiny(bad, scale, least, t, u)
		a.to(scale, "R20", int(16*j))
		constant(x, 1)
		a.op1("fneg.4s", x, x)
		a.at(top, "R4", int(row32*j))
		a.op("fmla.4s", x, top, scale)
		a.raiseSmallest(bad, x, least, t)
		a.flush(x, exponent, t)
		a.raiseTop(max, x, t)
	}
	a.raise(bad, max, exponent, 1)
	a.at(x, "R3", 0)
	a.to(max, "R3", 0)
	a.op("fsub.4s", x, x, max)
	unit.apply(a)
	row("R3", 7) // Rescale
	a.to(x, "R3", 0)
	a.move(factor, x)
	a.op1("fneg.4s", max, max) // from here on -max
	row("R3", 0)               // P
	field("R4", 1)             // PE
	a.do("ADD R2>>2, R4")
	row("R5", 2)   // S
	field("R6", 3) // Blocks
	row("R7", 6)   // D
	a.loop("block", "R6", 1, func() {
		for j := range threads {
			a.at(scale, "R20", 16*j)
			for i, key := range []int{2 * j, 2*j + 1, 2*j + 8, 2*j + 9} {
				const s, big, nonzero = v(1), v(1), v(2)
				a.at(s, "R5", key*row32)
				a.move(x, max)
				a.op("fmla.4s", x, s, scale)
				a.op("fcmge.4s", s, limit, x) // not x <= limit
				a.op("orn.16b", bad, bad, s)
				unit.apply(a)
				if i == 0 {
					a.move(sum, x)
				} else {
					a.op("fadd.4s", sum, sum, x)
				}
				a.roundWeights(x, big, exponent, quantum, lowest)
				a.to(x, "R3", key*row32)
				a.op("cmtst.4s", nonzero, x, x)
				a.shift("ushr.4s", x, x, 23)
				a.op("smax.4s", x, x, floor)
				a.op("and.16b", x, x, nonzero)
				a.op1("xtn.4h", x, x)
				a.op1("xtn.8b", x, x)
				a.do("FMOVS F%d, %d(R4)", x, key*row8)
			}
			a.at(x, "R7", row32*j)
			a.op("fmla.4s", sum, x, factor)
			a.splat(1, smallest)
			a.raiseSmallest(bad, sum, 1, x)
			a.flush(sum, exponent, x)
			a.to(sum, "R7", row32*j)
		}
		a.splat(factor, 0x3f800000)
		a.do("ADD $%d, R5", 16*row32)
		a.do("ADD $%d, R3", 16*row32)
		a.do("ADD $%d, R4", 16*row8)
	})
	a.do("ADD $16, R2")
	a.do("CMP $%d, R2", row32)
	a.do("BNE vector")
	a.retBad(bad)
}

// meanDots has 4 keys in the lanes, 16 at a time.
func meanDots(a *asm) {
	a.function("meanDots", 0, "out *float32, x *float32, q *float32, groups int, dim int", "uint32",
		"meanDots is that of amd64; the result is not zero if an operand or a sum is subnormal.")
	a.load("out", "x", "q", "groups", "dim")
	const acc, q, least, bad, k, t, u = v(0), v(4), v(5), v(6), v(16), v(20), v(21)
	a.splat(least, smallest)
	a.clear(bad)
	a.loop("group", "R3", 1, func() {
		for j := range v(4) {
			a.clear(acc + j)
		}
		a.do("MOVD R2, R10")
		a.do("MOVD R4, R12")
		a.loop("channel", "R12", 1, func() {
			a.do("FMOVS.P 4(R10), F%d", q)
			for j := range v(4) {
				a.do("FMOVQ.P 16(R1), F%d", k)
				a.raiseTiny(bad, k, least, t, u)
				a.lane("fmla.4s", acc+j, k, q, 0)
				a.raiseTiny(bad, acc+j, least, t, u)
			}
		})
		for j := range v(4) {
			a.do("FMOVQ.P F%d, 16(R0)", acc+j)
		}
	})
	a.retBad(bad)
}
