package main

// This file generates the kernels of package exact, whose comments in the generator for amd64 say why
// they are right.

// fp64 prints the kernels.
func fp64(a *asm) {
	dotFP64(a, false)
	dotFP64(a, true)
	exactExponents(a, "exponents", false)
	exactExponents(a, "exponentsTwice", true)
	exactExp2(a)
}

// dotFP64 is sums in FP64 for four rows and 8 lanes at a time.
func dotFP64(a *asm, onto bool) {
	name, kind, more, size := "dot", "float32", "", 4
	if onto {
		name, kind, more, size = "dotOnto", "float64", ", alpha *float64, factor *float64", 8
	}
	a.function(name, 0, "dst *"+kind+", a *float64, b *float32, groups int, terms int"+more, "", name+" is that of amd64 for 8 lanes.")
	names := []string{"dst", "a", "b", "groups", "terms"}
	if onto {
		names = append(names, "alpha", "factor")
	}
	a.load(names...)
	const four, vecs = v(4), v(4)
	const sum, x, b, value, alpha = v(0), v(16), v(18), v(22), v(24)
	a.label("group")
	a.do("MOVD R2, R7")
	a.do("MOVD R4, R8")
	for i := range four * vecs {
		a.clear(sum + i)
	}
	a.loop("term", "R8", 1, func() {
		a.pairAt(x, "R7", 0)
		a.pairAt(value, "R1", 0)
		for i := range v(2) {
			a.op1("fcvtl.2d", b+2*i, x+i)
			a.op1("fcvtl2.2d", b+2*i+1, x+i)
		}
		for i := range four * vecs {
			r := i / vecs
			a.lane("fmla.2d", sum+i, b+i%vecs, value+r/2, int(r%2))
		}
		a.do("ADD $%d, R1", 8*four)
		a.do("ADD $%d, R7", 4*unitLanes)
	})
	if onto {
		a.vectorsAt(b, "R6", 0)
		a.vectorsAt(alpha, "R5", 0)
	}
	for r := range four {
		at := size * unitLanes * int(r)
		for i := range vecs / 2 {
			s := sum + vecs*r + 2*i
			if !onto {
				a.op1("fcvtn.2s", x, s)
				a.op1("fcvtn2.4s", x, s+1)
				a.to(x, "R0", at+16*int(i))
				continue
			}
			for j := range v(2) {
				to := at + 16*int(2*i+j)
				a.op("fmul.2d", s+j, s+j, b+2*i+j)
				a.at(x, "R0", to)
				a.op("fmul.2d", x, x, alpha+2*i+j)
				a.op("fadd.2d", x, x, s+j)
				a.to(x, "R0", to)
			}
		}
	}
	a.do("ADD $%d, R0", size*unitLanes*int(four))
	a.do("SUBS $1, R3")
	a.do("BNE group")
	a.ret()
}

// exactExponents takes 4 lanes at a time.
func exactExponents(a *asm, name string, twice bool) {
	a.function(name, 0, "s *float32, scale *float32, lower *float32, octets int, least float32", "uint32", name+" is that of amd64.")
	a.load("s", "scale", "lower", "octets")
	const by, less, x, y, t, least, most, bad = v(0), v(1), v(2), v(3), v(4), v(5), v(6), v(7)
	a.param(least, "least")
	a.shift("shl.4s", least, least, 1)
	a.splat(most, 0x43000000) // 128
	a.clear(bad)
	a.loop("octet", "R3", 1, func() {
		a.do("MOVD R1, R10")
		a.do("MOVD R2, R11")
		a.do("MOVD $%d, R13", threads)
		a.loop("thread", "R13", 1, func() {
			a.do("MOVD $%d, R12", unitLanes/4)
			a.loop("lanes", "R12", 1, func() {
				a.at(by, "R10", 0)
				a.at(less, "R11", 0)
				a.op1("fneg.4s", less, less)
				for i := range 2 {
					a.at(x, "R0", 4*unitLanes*i)
					a.shift("shl.4s", t, x, 1)
					a.op("cmhi.4s", t, least, t)
					a.op("bic.16b", x, x, t)
					if twice {
						a.op("fmul.4s", x, x, by)
						a.op("fadd.4s", y, x, less)
					} else {
						a.move(y, less)
						a.op("fmla.4s", y, x, by)
					}
					a.op("fcmgt.4s", t, most, y)
					a.op("orn.16b", bad, bad, t)
					a.to(y, "R0", 4*unitLanes*i)
				}
				for _, r := range []string{"R0", "R10", "R11"} {
					a.do("ADD $16, %s", r)
				}
			})
			a.do("ADD $%d, R0", 4*unitLanes)
		})
	})
	a.retBad(bad)
}

// exactExp2 takes groups of 4.
func exactExp2(a *asm) {
	a.function("exp2", 0, "x *float32, groups int, series *float64", "uint32", "exp2 is that of amd64.")
	a.load("x", "groups", "series")
	const (
		series, coefficients    = v(0), 14
		factors                 = series + coefficients // ln 2 and two near 1
		lowest, magic, smallest = v(17), v(18), v(19)
		y, whole, f, sum, t, u  = v(20), v(21), v(22), v(23), v(25), v(27)
		unsure, near            = v(28), v(29)
	)
	for i := range coefficients + 3 {
		a.do("MOVD %d(R2), R17", 8*i)
		a.do("VDUP R17, V%d.D2", series+v(i))
	}
	a.splat(lowest, 0xc3000000)
	a.splat(magic, 0x4b400000)
	a.splat(smallest, 0x00800000)
	a.do("MOVD ZR, R3")
	a.label("group")
	a.at(y, "R0", 0)
	a.op("fmax.4s", y, y, lowest)
	a.op("fadd.4s", whole, y, magic)
	a.op("fsub.4s", f, whole, magic)
	a.op("fsub.4s", f, y, f)
	a.op1("fcvtl.2d", t, f)
	a.op1("fcvtl2.2d", t+1, f)
	for h := range v(2) {
		a.op("fmul.2d", t+h, t+h, factors)
		a.move(sum+h, series)
	}
	for i := range v(coefficients - 1) {
		for h := range v(2) {
			a.move(u, series+1+i)
			a.op("fmla.2d", u, sum+h, t+h)
			a.move(sum+h, u)
		}
	}
	narrow := func(to, from v) {
		a.op1("fcvtn.2s", to, from)
		a.op1("fcvtn2.4s", to, from+1)
	}
	narrow(y, sum)
	a.clear(unsure)
	for i := range v(2) {
		for h := range v(2) {
			a.op("fmul.2d", near+h, sum+h, factors+1+i)
		}
		narrow(u, near)
		a.op("eor.16b", u, u, y)
		a.op("orr.16b", unsure, unsure, u)
	}
	a.do("VMOV V%d.D[0], R16", unsure)
	a.do("VMOV V%d.D[1], R17", unsure)
	a.do("ORR R17, R16")
	a.do("CBNZ R16, end")
	a.shift("shl.4s", whole, whole, 23)
	a.op("add.4s", y, y, whole)
	a.op("cmgt.4s", u, smallest, y)
	a.op("bic.16b", y, y, u)
	a.to(y, "R0", 0)
	a.do("ADD $16, R0")
	a.do("ADD $1, R3")
	a.do("SUBS $1, R1")
	a.do("BNE group")
	a.label("end")
	a.do("MOVW R3, ret+%d(FP)", a.result)
	a.ret()
}
