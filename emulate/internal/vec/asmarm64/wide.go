package main

// This file generates the dot-adds in FP64, with 32 rows at a time in 16 registers.

// halves prints a loop over the two halves of a strip's rows, which lie R19 bytes from the
// first.
func (a *asm) halves(body func()) {
	a.do("MOVD ZR, R19")
	a.label("half")
	body()
	a.do("ADD $%d, R19", row32/2)
	a.do("CMP $%d, R19", row32)
	a.do("BNE half")
}

// wideVecs is the number of registers that hold half of a strip's rows.
const wideVecs = rows / 4

// multiply adds the products of the rows of P~ at R11 with an element.
func (a *asm) multiply(sums, x, t, value v) {
	for i := v(0); i < wideVecs; i += 4 {
		a.pairAt(x, "R11", int(8*i))
		for j := range v(2) {
			a.op1("fcvtl.2d", t, x+j)
			a.op1("fcvtl2.2d", t+1, x+j)
			a.lane("fmla.2d", sums+i+2*j, t, value, 0)
			a.lane("fmla.2d", sums+i+2*j+1, t+1, value, 0)
		}
	}
}

// half64 holds the constants of a rounding to FP16: the smallest normal exponent, 10,
// 2046 + 10 and 65504.
type half64 struct{ lowest, ten, top, largest v }

func (h half64) load(a *asm) {
	a.splat64(h.lowest, 1023-14)
	a.splat64(h.ten, 10)
	a.splat64(h.top, 2046+10)
	a.splat64(h.largest, 0x40effc0000000000)
}

// round is roundHalf for FP64 values.
func (h half64) round(a *asm, s, bad, e, t v) {
	a.shift("shl.2d", e, s, 1)
	a.shift("ushr.2d", e, e, 53)
	a.op("cmgt.2d", t, h.lowest, e)
	a.op("bit.16b", e, h.lowest, t)
	a.op("sub.2d", t, h.top, e)
	a.shift("shl.2d", t, t, 52)
	a.op("sub.2d", e, e, h.ten)
	a.shift("shl.2d", e, e, 52)
	a.op("fmul.2d", s, s, t)
	a.op1("frintn.2d", s, s)
	a.op("fmul.2d", s, s, e)
	a.clear(t)
	a.op("fadd.2d", s, s, t)
	a.op("facge.2d", t, h.largest, s)
	a.op1("not.16b", t, t)
	a.op("orr.16b", bad, bad, t)
}

// narrow rounds sums as FPCR says and writes them to the rows at R13.
func (a *asm) narrow(sums, x v) {
	for i := v(0); i < wideVecs; i += 4 {
		for j := range v(2) {
			a.op1("fcvtn.2s", x+j, sums+i+2*j)
			a.op1("fcvtn2.4s", x+j, sums+i+2*j+1)
		}
		a.pairTo(x, "R13", int(8*i))
	}
}

// dotWide is dot13 in FP64 for a unit that keeps f fraction bits. With matrix the values are
// not a table of codes but [channel][32] ones.
func dotWide(a *asm, name string, f int, half, matrix bool) {
	a.function(name, 528, "acc *float32, records *uint8, codes *uint8, values *float64, p *float32, e *uint8, channels int, stride int, bias uint64", "uint32",
		name+" is that of amd64.")
	a.load("acc", "records", "codes", "values", "p", "e", "channels", "stride")
	const sums, x, value, bias, least, toMagic, toScale, bad, lowest = v(0), v(20), v(24), v(25), v(26), v(27), v(28), v(30), v(31)
	a.do("MOVD bias+%d(FP), R16", a.offset["bias"])
	a.do("VDUP R16, V%d.S4", bias)
	a.splat(least, 31)
	a.splat64(toMagic, uint64(1023-127+52-f)<<52|1<<51)
	a.splat64(toScale, uint64(1023+127+f)<<52)
	a.splat(lowest, 127-14)
	a.clear(bad)
	a.do("MOVD $local-512(SP), R20")
	a.do("ADD $256, R20, R22")
	a.saveRounding()
	a.setRounding(zeroward)
	a.label("channel")
	a.halves(func() {
		a.do("MOVBU (R1), R9")
		a.do("ADD R9<<8, R0, R13")
		a.do("ADD R19, R13")
		if matrix {
			a.do("ADD R9<<8, R3, R14")
		} else {
			a.do("ADD R9<<5, R2, R14")
		}
		a.do("ADD R9<<6, R5, R15")
		a.do("ADD R19>>2, R15")
		a.do("ADD R19, R4, R23") // P~
		a.do("ADD $4, R1, R8")
		for i := range v(wideVecs / 2) {
			const max, t, u = v(19), v(21), v(22)
			a.widened(i, "R15", max, [3]v{16, 17, 18})
			a.at(x, "R13", int(16*i))
			a.largestExponent(max, x, bias, least, lowest, t, u, half)
			for j := range v(2) {
				s := sums + 2*i + j
				if j == 0 {
					a.do("VUXTL V%d.S2, V%d.D2", max, t)
					a.op1("fcvtl.2d", s, x)
				} else {
					a.do("VUXTL2 V%d.S4, V%d.D2", max, t)
					a.op1("fcvtl2.2d", s, x)
				}
				a.shift("shl.2d", t, t, 52)
				a.op("sub.2d", u, toScale, t)
				a.op("fmul.2d", s, s, u)
				a.op1("fcvtzs.2d", s, s)
				a.op("add.2d", t, t, toMagic)
				a.to(t, "R20", int(16*(2*i+j)))
				a.op("add.2d", s, s, t)
			}
		}
		element := func(k int) {
			a.do("MOVBU %d(R8), R9", k)
			a.do("ADD R9<<8, R23, R11")
			if matrix {
				a.do("FMOVD (R14)(R9<<3), F%d", value)
			} else {
				a.do("MOVBU (R14)(R9), R10")
				a.do("FMOVD (R3)(R10<<3), F%d", value)
			}
			a.multiply(sums, 16, 18, value)
		}
		a.signs("2d", sums, 16, x, element)
		var h = half64{16, 17, 18, 19}
		if half {
			h.load(a)
		}
		for i := range v(16) {
			a.at(x, "R20", int(16*i))
			a.at(x+1, "R22", int(16*i))
			a.op("fadd.2d", sums+i, sums+i, x)
			a.op("fadd.2d", sums+i, sums+i, x+1)
			if half {
				h.round(a, sums+i, bad, x, x+1)
			}
		}
		a.narrow(sums, x)
	})
	a.do("ADD R7, R1")
	a.do("SUBS $1, R6")
	a.do("BNE channel")
	a.restoreRounding()
	a.retBad(bad)
}

// dotExact is a unit that truncates nothing. The products' sums over a tile are exact in
// FP64; the accumulator is added with a sticky last bit, or for FP16 exactly, so that the
// rounding to the result is the only one.
func dotExact(a *asm, name string, half bool) {
	a.function(name, 0, "acc *float32, codes *uint8, values *float64, p *float32, channels int", "uint32",
		name+" is that of amd64.")
	a.load("acc", "codes", "values", "p", "channels")
	const sums, x, t, u, w, value, sticky, zero, bad = v(0), v(16), v(20), v(21), v(22), v(24), v(25), v(26), v(27)
	h := half64{28, 29, 30, 31}
	a.splat64(sticky, 1)
	a.clear(zero, bad)
	if half {
		h.load(a)
	}
	a.saveRounding()
	a.setRounding(nearest)
	a.label("channel")
	a.halves(func() {
		for i := range v(16) {
			a.clear(sums + i)
		}
		a.do("ADD R19, R0, R13")
		a.do("ADD R19, R3, R11")
		a.do("MOVD R1, R14")
		a.do("MOVD $32, R12")
		a.loop("key", "R12", 1, func() {
			a.do("MOVBU.P 1(R14), R9")
			a.do("FMOVD (R2)(R9<<3), F%d", value)
			a.multiply(sums, x, 18, value)
			a.do("ADD $%d, R11", row32)
		})
		if !half {
			a.setRounding(down)
		}
		for i := range v(16) {
			if i%2 == 0 {
				a.at(x, "R13", int(8*i))
				a.op1("fcvtl.2d", t, x)
			} else {
				a.op1("fcvtl2.2d", t, x)
			}
			s := sums + i
			if half {
				a.op("fadd.2d", s, s, t)
				h.round(a, s, bad, u, w)
				continue
			}
			// Rounded down, and up as the negative of the negative: toward zero is
			// the former where it is positive, and zero is +0 in the latter.
			a.op("fadd.2d", u, s, t)
			a.op1("fneg.2d", s, s)
			a.op("fsub.2d", s, s, t)
			a.op1("fneg.2d", s, s)
			a.op("fcmeq.2d", t, s, u)
			a.op("bic.16b", t, sticky, t)
			a.op("fcmgt.2d", w, u, zero)
			a.op("bit.16b", s, u, w)
			a.op("orr.16b", s, s, t)
		}
		if !half {
			a.setRounding(nearest)
		}
		a.narrow(sums, x)
	})
	a.do("ADD $%d, R0", row32)
	a.do("ADD $32, R1")
	a.do("SUBS $1, R4")
	a.do("BNE channel")
	a.restoreRounding()
	a.retBad(bad)
}

// widen decodes FP16.
func widen(a *asm) {
	a.function("widen", 0, "dst *float64, src *uint16, groups int", "", "widen is that of amd64.")
	a.load("dst", "src", "groups")
	a.loop("group", "R2", 1, func() {
		for i := range 4 {
			a.at(0, "R1", 16*i)
			a.op1("fcvtl.4s", 1, 0)
			a.op1("fcvtl2.4s", 2, 0)
			for j := range v(2) {
				a.op1("fcvtl.2d", 4+2*j, 1+j)
				a.op1("fcvtl2.2d", 5+2*j, 1+j)
				a.pairTo(4+2*j, "R0", int(32*j))
			}
			a.do("ADD $64, R0")
		}
		a.do("ADD $64, R1")
	})
	a.ret()
}

// addSums is the addition that ends a unit of several instructions.
func addSums(a *asm, name string, half bool) {
	a.function(name, 0, "acc *float32, sums *float32, channels int", "uint32", name+" is that of amd64.")
	a.load("acc", "sums", "channels")
	const x, s, t, exponent, zero, bad = v(0), v(2), v(4), v(5), v(6), v(7)
	a.splat(exponent, 0x7f800000)
	a.clear(zero, bad)
	a.loop("channel", "R2", 1, func() {
		for i := v(0); i < rows/4; i += 2 {
			a.pairAt(x, "R0", int(16*i))
			a.pairAt(s, "R1", int(16*i))
			for j := range v(2) {
				a.op("fadd.4s", x+j, x+j, s+j)
				if half {
					a.toFP16(x + j)
					a.raise(bad, x+j, exponent, t)
				}
			}
			a.pairTo(x, "R0", int(16*i))
			a.do("FSTPQ (F%d, F%[1]d), %d(R1)", zero, 16*i)
		}
		a.do("ADD $%d, R0", row32)
		a.do("ADD $%d, R1", row32)
	})
	a.retBad(bad)
}

// toFP16 rounds x to FP16 as FPCR says.
func (a *asm) toFP16(x v) {
	a.op1("fcvtn.4h", x, x)
	a.op1("fcvtl.4s", x, x)
}
