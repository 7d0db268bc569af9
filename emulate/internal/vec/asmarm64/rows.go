package main

// This file generates the loops of the quantisers and of the output.

// toBF16 rounds x, which is not NaN, to nearest even.
func (a *asm) toBF16(x, one, half, t v) {
	a.shift("ushr.4s", t, x, 16)
	a.op("and.16b", t, t, one)
	a.op("add.4s", t, t, half)
	a.op("add.4s", x, x, t)
	a.shift("ushr.4s", x, x, 16)
	a.shift("shl.4s", x, x, 16)
}

// outputs are the formats that finish and subtract round to.
const (
	fp32 = iota
	fp16
	bf16
)

// round rounds x to a format. one and half hold 1 and 0x7fff.
func (a *asm) round(format int, x, one, half, t v) {
	switch format {
	case fp16:
		a.toFP16(x)
	case bf16:
		a.toBF16(x, one, half, t)
	}
}

// finish is the end of the program.
func finish(a *asm, name string, format int) {
	a.function(name, 0, "dst *float32, o *float32, inverse *float32, scale *float32, mean *float32, channels int", "uint32",
		name+" is that of amd64.")
	a.load("dst", "o", "inverse", "scale", "mean", "channels")
	const inverse, x, y, t, scale, mean, exponent, bad, one, half, least = v(0), v(16), v(18), v(20), v(21), v(22), v(23), v(24), v(25), v(26), v(27)
	const vecs = rows / 4
	for i := v(0); i < vecs; i += 2 {
		a.pairAt(inverse+i, "R2", int(16*i))
	}
	a.splat(exponent, 0x7f800000)
	a.splat(one, 1)
	a.splat(half, 0x7fff)
	a.splat(least, smallest)
	a.clear(bad)
	a.loop("channel", "R5", 1, func() {
		a.do("VLD1R.P 4(R3), [V%d.S4]", scale)
		a.do("VLD1R.P 4(R4), [V%d.S4]", mean)
		for i := v(0); i < vecs; i += 2 {
			a.pairAt(x, "R1", int(16*i))
			for j := range v(2) {
				a.op("fmul.4s", x+j, x+j, inverse+i+j)
				a.raiseSmallest(bad, x+j, least, t)
				a.flush(x+j, exponent, t)
				a.move(y+j, mean)
				a.op("fmla.4s", y+j, x+j, scale)
				a.raiseSmallest(bad, y+j, least, t)
				a.flush(y+j, exponent, t)
				a.raise(bad, y+j, exponent, t)
				if format != fp32 {
					a.round(format, y+j, one, half, t)
					a.raise(bad, y+j, exponent, t)
				}
			}
			a.pairTo(y, "R0", int(16*i))
		}
		a.do("ADD $%d, R0", row32)
		a.do("ADD $%d, R1", row32)
	})
	a.retBad(bad)
}

// absMax keeps four maxima.
func absMax(a *asm) {
	a.function("absMax", 0, "x *float32, m float32, groups int", "float32", "absMax is that of amd64.")
	const max, x, t = v(0), v(4), v(8)
	a.do("MOVD x+%d(FP), R0", a.offset["x"])
	a.do("FMOVS m+%d(FP), F%d", a.offset["m"], max)
	a.do("MOVD groups+%d(FP), R1", a.offset["groups"])
	a.do("VDUP V%d.S[0], V%[1]d.S4", max)
	for i := range v(3) {
		a.move(max+1+i, max)
	}
	a.loop("group", "R1", 1, func() {
		a.pairAt(x, "R0", 0)
		a.pairAt(x+2, "R0", 32)
		for i := range v(4) {
			a.op1("fabs.4s", x+i, x+i)
			a.raiseTop(max+i, x+i, t)
		}
		a.do("ADD $64, R0")
	})
	for i := range v(3) {
		a.op("fmax.4s", max, max, max+1+i)
	}
	a.op1("fmaxv.4s", max, max)
	a.do("FMOVS F%d, ret+%d(FP)", max, a.result)
	a.ret()
}

// subtract takes 16 channels at a time.
func subtract(a *asm, name string, format int) {
	a.function(name, 0, "x *float32, mean *float32, rows int, groups int", "", name+" is that of amd64.")
	a.load("x", "mean", "rows", "groups")
	const x, mean, t, one, half = v(0), v(4), v(8), v(9), v(10)
	a.splat(one, 1)
	a.splat(half, 0x7fff)
	a.loop("row", "R2", 1, func() {
		a.do("MOVD R1, R4")
		a.do("MOVD R3, R5")
		a.loop("group", "R5", 1, func() {
			for i := v(0); i < 4; i += 2 {
				a.pairAt(x+i, "R0", int(16*i))
				a.pairAt(mean+i, "R4", int(16*i))
			}
			for i := range v(4) {
				a.op("fsub.4s", x+i, x+i, mean+i)
				a.round(format, x+i, one, half, t)
			}
			a.pairTo(x, "R0", 0)
			a.pairTo(x+2, "R0", 32)
			a.do("ADD $64, R0")
			a.do("ADD $64, R4")
		})
	})
	a.ret()
}

// lowBytes packs the low bytes of the lanes of four registers into the first.
func (a *asm) lowBytes(x v) {
	a.op("uzp1.8h", x, x, x+1)
	a.op("uzp1.8h", x+2, x+2, x+3)
	a.op("uzp1.16b", x, x, x+2)
}

// quantize converts with saturation, and NaN to 0.
func quantize(a *asm, name string, divide, away bool) {
	a.function(name, 0, "codes *int8, x *float32, factor float32, limit int32, least int32, groups int", "", name+" is that of amd64.")
	const x, t, factor, limit, least, exponent, sign, half = v(0), v(4), v(16), v(17), v(18), v(19), v(20), v(21)
	a.load("codes", "x")
	a.do("FMOVS factor+%d(FP), F%d", a.offset["factor"], factor)
	a.do("VDUP V%d.S[0], V%[1]d.S4", factor)
	a.do("MOVW limit+%d(FP), R3", a.offset["limit"])
	a.do("VDUP R3, V%d.S4", limit)
	a.do("MOVW least+%d(FP), R3", a.offset["least"])
	a.do("VDUP R3, V%d.S4", least)
	a.do("MOVD groups+%d(FP), R2", a.offset["groups"])
	a.splat(exponent, 0x7f800000)
	a.splat(sign, 1<<31)
	a.splat(half, 0x3f000000)
	a.loop("group", "R2", 1, func() {
		a.pairAt(x, "R1", 0)
		a.pairAt(x+2, "R1", 32)
		for i := range v(4) {
			y := x + i
			if divide {
				a.op("fdiv.4s", y, y, factor)
			} else {
				a.flush(y, exponent, t)
				a.op("fmul.4s", y, y, factor)
				a.flush(y, exponent, t)
			}
			if away {
				a.op("and.16b", t, y, sign)
				a.op("orr.16b", t, t, half)
				a.op("fadd.4s", y, y, t)
				a.op1("fcvtzs.4s", y, y)
			} else {
				a.op1("fcvtns.4s", y, y)
			}
			a.op("smin.4s", y, y, limit)
			a.op("smax.4s", y, y, least)
		}
		a.lowBytes(x)
		a.to(x, "R0", 0)
		a.do("ADD $64, R1")
		a.do("ADD $16, R0")
	})
	a.ret()
}

// fp8 describes the encoding of an FP8 format: the largest value and the smallest
// normal one, as bits; the distance of a code from an FP32's exponent and fraction,
// the number with the quantum of subnormal values as its ulp, and their mask.
type fp8 struct {
	largest, normal, shift, offset, magic, mask uint32
}

var (
	e4m3 = fp8{0x43e00000, 0x3c800000, 20, 120 << 3, 0x46800000, 0xf}
	e5m2 = fp8{0x47600000, 0x38800000, 21, 112 << 2, 0x43000000, 0x7}
)

// encode quantises rows of V: with paper by a division, otherwise by a multiplication
// that flushes subnormal numbers.
func encode(a *asm, name string, paper bool, f fp8) {
	a.function(name, 0, "codes *uint8, x *float32, mean *float32, factor *float32, rows int, groups int", "uint32", name+" is that of amd64.")
	a.load("codes", "x", "mean", "factor", "rows", "groups")
	const x, mean, factor, t, s, r, nan, small = v(0), v(4), v(5), v(6), v(7), v(8), v(9), v(10)
	const exponent, largest, normal, half, one, offset, magic, mask, no, bad, sign = v(16), v(17), v(18), v(19), v(20), v(21), v(22), v(23), v(24), v(25), v(26)
	a.splat(exponent, 0x7f800000)
	a.splat(sign, 1<<31)
	a.splat(largest, f.largest)
	a.splat(normal, f.normal)
	a.splat(half, 1<<(f.shift-1)-1)
	a.splat(one, 1)
	a.splat(offset, f.offset)
	a.splat(magic, f.magic)
	a.splat(mask, f.mask)
	a.splat(no, 0x7f)
	a.clear(bad)
	a.loop("row", "R4", 1, func() {
		a.do("MOVD R2, R6")
		a.do("MOVD R3, R7")
		a.do("MOVD R5, R8")
		a.loop("group", "R8", 1, func() {
			for i := range v(4) {
				y := x + i
				a.at(y, "R1", int(16*i))
				a.at(mean, "R6", int(16*i))
				a.at(factor, "R7", int(16*i))
				if paper {
					a.op("fsub.4s", y, y, mean)
					a.op("fdiv.4s", y, y, factor)
					a.clear(t)
					a.op("fcmeq.4s", t, t, factor)
					a.op("bic.16b", y, y, t)
				} else {
					a.flush(y, exponent, t)
					a.op("fsub.4s", y, y, mean)
					a.flush(y, exponent, t)
					a.op("fmul.4s", y, y, factor)
					a.flush(y, exponent, t)
				}
				a.op("fcmeq.4s", nan, y, y)
				a.op1("not.16b", nan, nan)
				a.op("orr.16b", bad, bad, nan)
				a.op("and.16b", s, y, sign)
				a.op1("fabs.4s", y, y)
				a.op("fmin.4s", y, y, largest)
				a.op("fcmgt.4s", small, normal, y)
				// A normal value is rounded in its bits, a subnormal one by an addition.
				a.shift("ushr.4s", r, y, int(f.shift))
				a.op("and.16b", r, r, one)
				a.op("add.4s", r, r, half)
				a.op("add.4s", r, r, y)
				a.shift("ushr.4s", r, r, int(f.shift))
				a.op("sub.4s", r, r, offset)
				a.op("fadd.4s", y, y, magic)
				a.op("and.16b", y, y, mask)
				a.op("bif.16b", y, r, small)
				a.shift("ushr.4s", s, s, 24)
				a.op("orr.16b", y, y, s)
				a.op("bit.16b", y, no, nan)
			}
			a.lowBytes(x)
			a.to(x, "R0", 0)
			a.do("ADD $64, R1")
			a.do("ADD $64, R6")
			a.do("ADD $64, R7")
			a.do("ADD $16, R0")
		})
	})
	a.retBad(bad)
}

// encodeFP16 rounds to nearest even.
func encodeFP16(a *asm) {
	a.function("encodeFP16", 0, "codes *uint16, x *float32, groups int", "uint32", "encodeFP16 is that of amd64.")
	a.load("codes", "x", "groups")
	const x, code, t, largest, bad = v(0), v(4), v(6), v(7), v(8)
	a.splat(largest, 0x477fe000)
	a.clear(bad)
	a.loop("group", "R2", 1, func() {
		a.pairAt(x, "R1", 0)
		a.pairAt(x+2, "R1", 32)
		for i := range v(4) {
			a.op("facge.4s", t, largest, x+i)
			a.op("orn.16b", bad, bad, t)
			a.op1([]string{"fcvtn.4h", "fcvtn2.8h"}[i%2], code+i/2, x+i)
		}
		a.pairTo(code, "R0", 0)
		a.do("ADD $64, R1")
		a.do("ADD $32, R0")
	})
	a.retBad(bad)
}

// decodeFP16 is the values of codes.
func decodeFP16(a *asm) {
	a.function("decodeFP16", 0, "dst *float32, codes *uint16, groups int", "", "decodeFP16 is that of amd64.")
	a.load("dst", "codes", "groups")
	const x, code = v(0), v(4)
	a.loop("group", "R2", 1, func() {
		a.pairAt(code, "R1", 0)
		for i := range v(4) {
			a.op1([]string{"fcvtl.4s", "fcvtl2.4s"}[i%2], x+i, code+i/2)
		}
		a.pairTo(x, "R0", 0)
		a.pairTo(x+2, "R0", 32)
		a.do("ADD $64, R0")
		a.do("ADD $32, R1")
	})
	a.ret()
}

// finite looks for what is not.
func finite(a *asm) {
	a.function("finite", 0, "x *float32, groups int", "uint32", "finite is that of amd64.")
	a.load("x", "groups")
	const x, t, exponent, bad = v(0), v(4), v(5), v(6)
	a.splat(exponent, 0x7f800000)
	a.clear(bad)
	a.loop("group", "R1", 1, func() {
		a.pairAt(x, "R0", 0)
		a.pairAt(x+2, "R0", 32)
		for i := range v(4) {
			a.raise(bad, x+i, exponent, t)
		}
		a.do("ADD $64, R0")
	})
	a.retBad(bad)
}

// extremes keeps the extremes of 16 channels at a time in registers.
func extremes(a *asm) {
	a.function("extremes", 0, "hi *float32, lo *float32, x *float32, rows int, groups int", "", "extremes is that of amd64.")
	a.load("hi", "lo", "x", "rows", "groups")
	const hi, lo, x, t = v(0), v(4), v(8), v(12)
	a.do("LSL $6, R4, R5") // bytes of a row
	a.loop("group", "R4", 1, func() {
		for i := v(0); i < 4; i += 2 {
			a.pairAt(hi+i, "R0", int(16*i))
			a.pairAt(lo+i, "R1", int(16*i))
		}
		a.do("MOVD R2, R6")
		a.do("MOVD R3, R7")
		a.loop("row", "R7", 1, func() {
			a.pairAt(x, "R6", 0)
			a.pairAt(x+2, "R6", 32)
			for i := range v(4) {
				a.raiseTop(hi+i, x+i, t)
				a.op("fcmgt.4s", t, lo+i, x+i)
				a.op("bit.16b", lo+i, x+i, t)
			}
			a.do("ADD R5, R6")
		})
		for i := v(0); i < 4; i += 2 {
			a.pairTo(hi+i, "R0", int(16*i))
			a.pairTo(lo+i, "R1", int(16*i))
		}
		for _, r := range []string{"R0", "R1", "R2"} {
			a.do("ADD $64, %s", r)
		}
	})
	a.ret()
}

// addMeans is a compensated sum (Neumaier), by channel, of 8 channels at a time.
func addMeans(a *asm) {
	a.function("addMeans", 0, "sum *float64, comp *float64, x *float32, rows int, groups int", "", "addMeans is that of amd64.")
	a.load("sum", "comp", "x", "rows", "groups")
	const sum, lost, x, f, t, larger, big = v(0), v(4), v(8), v(16), v(20), v(21), v(22)
	a.do("LSL $5, R4, R5") // bytes of a row
	a.loop("group", "R4", 1, func() {
		for i := v(0); i < 4; i += 2 {
			a.pairAt(sum+i, "R0", int(16*i))
			a.pairAt(lost+i, "R1", int(16*i))
		}
		a.do("MOVD R2, R6")
		a.do("MOVD R3, R7")
		a.loop("row", "R7", 1, func() {
			a.pairAt(x, "R6", 0)
			for i := range v(2) {
				a.op1("fcvtl.2d", f+2*i, x+i)
				a.op1("fcvtl2.2d", f+2*i+1, x+i)
			}
			for i := range v(4) {
				s, y := sum+i, f+i
				a.op("fadd.2d", t, s, y)
				a.op("facge.2d", larger, s, y)
				// (larger - t) + smaller
				a.move(big, y)
				a.op("bit.16b", big, s, larger)
				a.op("bif.16b", y, s, larger)
				a.move(s, t)
				a.op("fsub.2d", big, big, t)
				a.op("fadd.2d", big, big, y)
				a.op("fadd.2d", lost+i, lost+i, big)
			}
			a.do("ADD R5, R6")
		})
		for i := v(0); i < 4; i += 2 {
			a.pairTo(sum+i, "R0", int(16*i))
			a.pairTo(lost+i, "R1", int(16*i))
		}
		a.do("ADD $64, R0")
		a.do("ADD $64, R1")
		a.do("ADD $32, R2")
	})
	a.ret()
}
