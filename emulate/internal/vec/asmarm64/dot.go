package main

// This file generates the two passes of the dot-add. As at AVX2, one instruction rounds as
// FPCR says, toward zero for the length of a kernel: products of V's positive elements
// gather at M, those of negative ones at -M.

// rows is the number of rows of a strip; row32 and row8 are the bytes of a row of a
// strip's matrices.
const (
	rows  = 64
	row32 = rows * 4
	row8  = rows
)

// FPCR's rounding modes. Every other bit is zero, as Go has it: subnormal numbers are kept
// and NaN are propagated.
const (
	nearest  = 0
	down     = 2 << 22
	zeroward = 3 << 22
)

// saveRounding keeps FPCR in R21, setRounding sets a mode by R16.
func (a *asm) saveRounding()     { a.do("MRS FPCR, R21") }
func (a *asm) restoreRounding()  { a.do("MSR R21, FPCR") }
func (a *asm) setRounding(m int) { a.do("MOVD $%#x, R16", m); a.do("MSR R16, FPCR") }

// exponents is the first pass, for 64 rows in the bytes of four registers. The keys come
// in runs, each of which begins stride keys after the one before.
func exponents(a *asm, name string, n, run, stride int) {
	a.function(name, 0, "e *uint8, pe *uint8, codes *uint8, table *uint32, channels int, keep uint32", "",
		name+" is that of amd64.")
	a.load("e", "pe", "codes", "table", "channels")
	a.do("MOVWU keep+%d(FP), R16", a.offset["keep"])
	const max, x, value, keep = v(0), v(4), v(8), v(9)
	a.do("VDUP R16, V%d.S4", keep)
	a.loop("channel", "R4", 1, func() {
		for h := range v(4) {
			a.at(max+h, "R0", int(16*h))
			a.op("and.16b", max+h, max+h, keep)
		}
		for i := range n {
			key := i%run + i/run*stride
			a.do("MOVBU %d(R2), R9", key)
			a.do("ADD R9<<2, R3, R9")
			a.do("VLD1R (R9), [V%d.B16]", value)
			a.pairAt(x, "R1", key*row8)
			a.pairAt(x+2, "R1", key*row8+32)
			for h := range v(4) {
				a.op("add.16b", x+h, x+h, value)
				a.op("umax.16b", max+h, max+h, x+h)
			}
		}
		a.pairTo(max, "R0", 0)
		a.pairTo(max+2, "R0", 32)
		a.do("ADD $%d, R0", row8)
		a.do("ADD $32, R2")
	})
	a.ret()
}

// list prints a loop over the pairs of a record's list, whose number is in a byte of the
// record: R1 is the record and R8 the list.
func (a *asm) list(label string, count int, element func(k int)) {
	a.do("MOVBU %d(R1), R12", count)
	a.do("CBZ R12, %sEnd", label)
	a.loop(label, "R12", 1, func() {
		element(0)
		element(1)
		a.do("ADD $2, R8")
	})
	a.label(label + "End")
}

// signs adds the products of the positive elements and then of the negative ones. From
// sums that begin at M, which lies at R20, it makes the positive products' sums, at R22,
// and the negative ones', which begin at -M.
func (a *asm) signs(lanes string, sums, vecs, x v, element func(k int)) {
	a.list("positive", 1, element)
	element(0)
	for i := v(0); i < vecs; i += 2 {
		a.pairAt(x, "R20", int(16*i))
		for j := range v(2) {
			a.op("fsub."+lanes, sums+i+j, sums+i+j, x+j)
		}
		a.pairTo(sums+i, "R22", int(16*i))
		for j := range v(2) {
			a.op1("fneg."+lanes, sums+i+j, x+j)
		}
	}
	element(1)
	a.do("ADD $2, R8")
	a.list("negative", 2, element)
}

// largestExponent raises max, the largest sum of exponents of a product, which is bias too
// widened makes 32-bit lanes of the i-th four bytes from base, taken one after the other;
// the registers in t keep what the next ones need.
func (a *asm) widened(i v, base string, to v, t [3]v) {
	if i%4 == 0 {
		a.at(t[0], base, int(4*i))
		a.do("VUXTL V%d.B8, V%d.H8", t[0], t[1])
		a.do("VUXTL2 V%d.B16, V%d.H8", t[0], t[2])
	}
	if i%2 == 0 {
		a.do("VUXTL V%d.H4, V%d.S4", t[1+i%4/2], to)
	} else {
		a.do("VUXTL2 V%d.H8, V%d.S4", t[1+i%4/2], to)
	}
}

// large, to the exponent of x and to least, which counts where all terms are zero.
func (a *asm) largestExponent(max, x, bias, least, lowest, t, u v, half bool) {
	a.op("sub.4s", max, max, bias)
	a.shift("shl.4s", t, x, 1)
	a.shift("ushr.4s", t, t, 24)
	if half {
		// An FP16 subnormal has the smallest exponent; zero has none.
		a.op1("cmeq0.4s", u, t)
		a.op("smax.4s", t, t, lowest)
		a.op("bic.16b", t, t, u)
	}
	a.op("smax.4s", max, max, t)
	a.op("smax.4s", max, max, least)
}

// dot13 is the second pass with 13 fraction bits: 16 registers of sums, 64 rows.
func dot13(a *asm, name string, half bool) {
	a.function(name, 528, "acc *float32, records *uint8, codes *uint8, values *float32, p *float32, e *uint8, channels int, stride int, bias uint32", "uint32",
		name+" is that of amd64.")
	a.load("acc", "records", "codes", "values", "p", "e", "channels", "stride")
	const sums, x, t, u, w, value, bias, least, toMagic, toScale, fp22, bad, lowest = v(0), v(20), v(21), v(22), v(23), v(24), v(25), v(26), v(27), v(28), v(29), v(30), v(31)
	const vecs = rows / 4
	a.do("MOVWU bias+%d(FP), R16", a.offset["bias"])
	a.do("VDUP R16, V%d.S4", bias)
	a.splat(least, 31)
	a.splat(toMagic, 10<<23|1<<22)
	a.splat(toScale, (127+13+127)<<23&0xffffffff)
	a.splat(fp22, truncateFP22)
	a.splat(lowest, 127-14)
	a.clear(bad)
	// R20 holds M of each row, R22 the sums of the positive products.
	a.do("MOVD $local-512(SP), R20")
	a.do("ADD $256, R20, R22")
	a.saveRounding()
	a.setRounding(zeroward)
	a.label("channel")
	a.do("MOVBU (R1), R9")
	a.do("ADD R9<<8, R0, R13") // its sums
	a.do("ADD R9<<5, R2, R14") // its codes
	a.do("ADD R9<<6, R5, R15") // its exponents
	a.do("ADD $4, R1, R8")
	for i := range v(vecs) {
		const max = v(19)
		a.widened(i, "R15", max, [3]v{16, 17, 18})
		a.at(x, "R13", int(16*i))
		a.largestExponent(max, x, bias, least, lowest, t, u, half)
		a.shift("shl.4s", max, max, 23)
		a.op("add.4s", t, max, toMagic)
		a.to(t, "R20", int(16*i))
		a.op("sub.4s", u, toScale, max)
		a.op("fmul.4s", x, x, u)
		a.op1("fcvtzs.4s", x, x)
		a.op("add.4s", sums+i, x, t)
	}
	element := func(k int) {
		const p = v(16)
		a.do("MOVBU %d(R8), R9", k)
		a.do("MOVBU (R14)(R9), R10")
		a.do("ADD R9<<8, R4, R11")
		a.do("FMOVS (R3)(R10<<2), F%d", value)
		for i := v(0); i < vecs; i += 2 {
			to := p + i%8
			a.pairAt(to, "R11", int(16*i))
			a.lane("fmla.4s", sums+i, to, value, 0)
			a.lane("fmla.4s", sums+i+1, to+1, value, 0)
		}
	}
	a.signs("4s", sums, vecs, x, element)
	const ten, top, largest = v(16), v(17), v(18)
	if half {
		a.splat(ten, 10)
		a.splat(top, 254+10)
		a.splat(largest, 0x477fe000)
	}
	for i := v(0); i < vecs; i += 2 {
		a.pairAt(x, "R20", int(16*i))
		a.pairAt(u, "R22", int(16*i))
		for j := range v(2) {
			s := sums + i + j
			a.op("fadd.4s", s, s, x+j)
			a.op("fadd.4s", s, s, u+j)
			if !half {
				a.op("and.16b", s, s, fp22)
			}
		}
		for j := range v(2) {
			if half {
				a.roundHalf(sums+i+j, lowest, ten, top, largest, bad, x, t, u)
			}
		}
		a.pairTo(sums+i, "R13", int(16*i))
	}
	a.do("ADD R7, R1")
	a.do("SUBS $1, R6")
	a.do("BNE channel")
	a.restoreRounding()
	a.retBad(bad)
}

// truncateFP22 keeps the bits of an FP32 pattern that format.TruncateFP22 keeps: it is
// that rule, for finite numbers.
const truncateFP22 = 0xffffffff - 0x3ff // 0x3ff is format.FP22Dropped

// roundHalf rounds lanes of s to FP16 to nearest even, whatever FPCR says, with +0 for
// what rounds to zero, and sets bits in bad where that is not finite. It scales the
// format's quantum, which is that of the smallest normal number (lowest) at least, to 1,
// rounds to a whole number and scales back. ten, top and largest hold 10, 264 and 65504.
func (a *asm) roundHalf(s, lowest, ten, top, largest, bad, e, t, u v) {
	a.shift("shl.4s", e, s, 1)
	a.shift("ushr.4s", e, e, 24)
	a.op("smax.4s", e, e, lowest)
	a.op("sub.4s", t, top, e)
	a.shift("shl.4s", t, t, 23)
	a.op("sub.4s", e, e, ten)
	a.shift("shl.4s", e, e, 23)
	a.op("fmul.4s", s, s, t)
	a.op1("frintn.4s", s, s)
	a.op("fmul.4s", s, s, e)
	a.op("eor.16b", u, u, u)
	a.op("fadd.4s", s, s, u)
	a.op("facge.4s", t, largest, s)
	a.op1("not.16b", t, t)
	a.op("orr.16b", bad, bad, t)
}

// dotInteger adds whole numbers, exact in any order.
func dotInteger(a *asm) {
	a.function("dotInteger", 0, "acc *float32, codes *uint8, values *float32, p *float32, channels int", "",
		"dotInteger is that of amd64.")
	a.load("acc", "codes", "values", "p", "channels")
	const sums, x, value, vecs = v(0), v(16), v(24), rows / 4
	a.label("channel")
	for i := v(0); i < vecs; i += 2 {
		a.pairAt(sums+i, "R0", int(16*i))
	}
	a.do("MOVD R3, R11")
	a.do("MOVD $32, R12")
	a.loop("key", "R12", 1, func() {
		a.do("MOVBU.P 1(R1), R9")
		a.do("FMOVS (R2)(R9<<2), F%d", value)
		for i := v(0); i < vecs; i += 2 {
			a.pairAt(x+i%8, "R11", int(16*i))
			a.lane("fmla.4s", sums+i, x+i%8, value, 0)
			a.lane("fmla.4s", sums+i+1, x+i%8+1, value, 0)
		}
		a.do("ADD $%d, R11", row32)
	})
	for i := v(0); i < vecs; i += 2 {
		a.pairTo(sums+i, "R0", int(16*i))
	}
	a.do("ADD $%d, R0", row32)
	a.do("SUBS $1, R4")
	a.do("BNE channel")
	a.ret()
}

// addTile is the second level of the accumulation.
func addTile(a *asm) {
	a.function("addTile", 0, "o *float32, tile *float32, rescale *float32, channels int", "uint32",
		"addTile is that of amd64.")
	a.load("o", "tile", "rescale", "channels")
	const factors, x, t, exponent, zero, bad, least, s = v(0), v(16), v(18), v(24), v(25), v(26), v(27), v(20)
	const vecs = rows / 4
	for i := v(0); i < vecs; i += 2 {
		a.pairAt(factors+i, "R2", int(16*i))
	}
	a.splat(exponent, 0x7f800000)
	a.splat(least, smallest)
	a.clear(zero, bad)
	a.loop("channel", "R3", 1, func() {
		for i := v(0); i < vecs; i += 2 {
			a.pairAt(x, "R0", int(16*i))
			a.pairAt(s, "R1", int(16*i))
			for j := range v(2) {
				a.op("fmla.4s", s+j, x+j, factors+i+j)
				a.raiseSmallest(bad, s+j, least, t)
				a.flush(s+j, exponent, t)
				a.raise(bad, s+j, exponent, t)
			}
			a.pairTo(s, "R0", int(16*i))
			a.do("FSTPQ (F%d, F%[1]d), %d(R1)", zero, 16*i)
		}
		a.do("ADD $%d, R0", row32)
		a.do("ADD $%d, R1", row32)
	})
	a.retBad(bad)
}

// rescale is the step between tiles of an accumulator of one level.
func rescale(a *asm) {
	a.function("rescale", 0, "o *float32, factors *float32, channels int", "uint32",
		"rescale is that of amd64.")
	a.load("o", "factors", "channels")
	const factors, x, t, u, exponent, least, bad = v(0), v(16), v(18), v(19), v(24), v(25), v(26)
	const vecs = rows / 4
	for i := v(0); i < vecs; i += 2 {
		a.pairAt(factors+i, "R1", int(16*i))
	}
	a.splat(exponent, 0x7f800000)
	a.splat(least, 64<<24)
	a.clear(bad)
	a.loop("channel", "R2", 1, func() {
		for i := v(0); i < vecs; i += 2 {
			a.pairAt(x, "R0", int(16*i))
			for j := range v(2) {
				a.op("fmul.4s", x+j, x+j, factors+i+j)
				a.raise(bad, x+j, exponent, t)
				// Without the sign, the exponent leads.
				a.shift("shl.4s", u, x+j, 1)
				a.op("cmhi.4s", t, least, u)
				a.op("and.16b", t, t, u)
				a.op("orr.16b", bad, bad, t)
			}
			a.pairTo(x, "R0", int(16*i))
		}
		a.do("ADD $%d, R0", row32)
	})
	a.retBad(bad)
}
