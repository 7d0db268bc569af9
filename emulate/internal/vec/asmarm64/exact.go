package main

// exactKernel are the registers of unitExact: two rows of 8 lanes. Rows of A are at R11 and R22.
type exactKernel struct {
	high, low     v // [2][4] each
	b, value, neg v // [4], [2], [2]
	magic, bad    v
	one, exponent v
	h             half64
}

// unitExact is a chain of instructions that round an exact sum once. That of amd64 says why its sums
// are exact.
func unitExact(a *asm, name string, half bool) {
	a.function(name, 0, "acc *float32, a *float32, b *float32, aStride int, rows int, instructions int, terms int", "uint32",
		name+" is that of amd64 for 8 lanes.")
	a.load("acc", "a", "b", "aStride", "rows", "instructions", "terms")
	const lanes = 4 // registers of them
	k := exactKernel{high: 0, low: 8, b: 16, value: 20, neg: 22, magic: 30, bad: 31, one: 16, exponent: 17, h: half64{26, 27, 28, 29}}
	a.splat64(k.magic, uint64(1023+40)<<52|1<<51)
	a.clear(k.bad)
	a.label("rows")
	a.do("MOVD R1, R11")
	a.do("ADD R3, R1, R22")
	a.do("MOVD R2, R13")
	a.do("MOVD R5, R15")
	a.loop("instruction", "R15", 1, func() {
		for i := range v(pair * lanes) {
			a.move(k.high+i, k.magic)
			a.clear(k.low + i)
		}
		a.do("MOVD R6, R20")
		a.loop("product", "R20", 1, func() {
			const x, t = v(24), v(26)
			a.pairAt(x, "R13", 0)
			for i := range v(2) {
				a.op1("fcvtl.2d", k.b+2*i, x+i)
				a.op1("fcvtl2.2d", k.b+2*i+1, x+i)
			}
			for r, row := range [pair]string{"R11", "R22"} {
				a.do("FMOVS (%s), F%d", row, t)
				a.do("FCVTSD F%d, F%d", t, k.value+v(r))
				a.op1("fneg.2d", k.neg+v(r), k.value+v(r))
				a.do("ADD $4, %s", row)
			}
			for i := range v(pair * lanes) {
				high, low, b, added := k.high+i, k.low+i, k.b+i%lanes, t+i%lanes
				a.move(added, high)
				a.lane("fmla.2d", high, b, k.value+i/lanes, 0)
				a.op("fsub.2d", added, high, added)
				a.lane("fmla.2d", added, b, k.neg+i/lanes, 0) // less the product
				a.op("fsub.2d", low, low, added)
			}
			a.do("ADD $%d, R13", 4*unitLanes)
		})
		a.splat64(k.one, 1)
		a.splat(k.exponent, 0x7f800000)
		if half {
			k.h.load(a)
		}
		for i := range v(pair * lanes / 2) {
			k.fold(a, 2*i, int(4*unitLanes*(i/2)+16*(i%2)), half)
		}
	})
	a.do("ADD $%d, R0", pair*4*unitLanes)
	a.do("ADD R3<<1, R1")
	a.do("SUBS $%d, R4", pair)
	a.do("BNE rows")
	a.retBad(k.bad)
}

// fold adds the sums of four lanes, of which high is above M, to the accumulator, which is at a
// distance from R0.
func (k *exactKernel) fold(a *asm, i v, at int, half bool) {
	const acc, c, rest, lost, t, u = v(18), v(19), v(20), v(21), v(22), v(23)
	a.at(acc, "R0", at)
	for j := range v(2) {
		high, low := k.high+i+j, k.low+i+j
		a.op("fsub.2d", high, high, k.magic)
		a.twoSum(high, low, rest, t, u)
		if j == 0 {
			a.op1("fcvtl.2d", c, acc)
		} else {
			a.op1("fcvtl2.2d", c, acc)
		}
		a.twoSum(high, c, lost, t, u)
		a.op("fadd.2d", rest, rest, lost)
		k.odd(a, high, rest, c, t, u)
		if half {
			k.h.round(a, high, k.bad, t, u)
		}
	}
	a.op1("fcvtn.2s", c, k.high+i)
	a.op1("fcvtn2.4s", c, k.high+i+1)
	a.raise(k.bad, c, k.exponent, t)
	a.to(c, "R0", at)
}

// odd makes x the sum of x and y, its last bit 1 where that is not exact.
func (k *exactKernel) odd(a *asm, x, y, lost, t, u v) {
	a.twoSum(x, y, lost, t, u)
	a.op("eor.16b", t, x, lost)
	a.shift("shl.2d", lost, lost, 1)
	a.op1("cmeq0.2d", lost, lost)
	a.op("and.16b", u, x, k.one)
	a.op1("cmeq0.2d", u, u)
	a.op("bic.16b", u, u, lost) // inexact, and x even
	a.clear(lost)
	a.op("cmgt.2d", t, lost, t)
	a.op("orr.16b", t, t, k.one) // 1 away from zero, -1 toward it
	a.op("and.16b", t, t, u)
	a.op("add.2d", x, x, t)
}

// twoSum makes x the rounded sum of x and y, and lost what the rounding lost.
func (a *asm) twoSum(x, y, lost, t, u v) {
	a.op("fadd.2d", t, x, y)
	a.op("fsub.2d", lost, t, x) // y as it was added
	a.op("fsub.2d", u, t, lost) // x as it was
	a.op("fsub.2d", lost, y, lost)
	a.op("fsub.2d", u, x, u)
	a.op("fadd.2d", lost, lost, u)
	a.move(x, t)
}
