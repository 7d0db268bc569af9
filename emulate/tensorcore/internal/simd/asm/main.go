// Command asm generates the kernels of package simd.
package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

func main() {
	ConstraintExpr("!purego")
	dotTile("dotTile", false, false)
	dotTile("dotTileSeparate", false, true)
	dotTile("dotTileHalf", true, false)
	dotTile("dotTileHalfSeparate", true, true)
	laneExponents("laneExponents", false)
	laneExponents("rowExponents", true)
	magnitudes()
	for _, bounded := range []bool{false, true} {
		name := "dotLanes"
		if bounded {
			name += "Bounded"
		}
		dotLanes(name, false, false, bounded)
		dotLanes(name+"Separate", false, true, bounded)
		dotLanes(name+"Half", true, false, bounded)
		dotLanes(name+"HalfSeparate", true, true, bounded)
	}
	for _, w := range wides {
		dotExact(w, false)
		dotExact(w, true)
		for _, half := range []bool{false, true} {
			dotWide(w, half, false)
			dotWide(w, half, true)
		}
	}
	avx2()
	Generate()
}

// columns is how many elements of a row of the product are computed at once.
const columns = 32

// dotTile is a chain of dot-adds with operands of both signs, for a row of A and 32
// columns of B in the lanes.
//
// With the largest exponent E known, 2^(F-E) scales a product, which FP32 holds exactly,
// so that the truncating conversion to an integer is the unit's alignment; the integers
// add exactly. They go to two sums, each of which stays below 2^31 where half of the
// terms do. FP64 holds the whole sum and converts it by the output rule. Below E = -96
// and above 100 a scale or a result may not be a normal number: such lanes are reported.
func dotTile(name string, half, separate bool) {
	const (
		vecs    = columns / 16
		lowest  = 0xffffffff - 96 + 1
		highest = 100
		zeroExp = 0xffffffff - 1<<12 + 1
		allZero = 0xffffffff - 1<<11 + 1
	)
	TEXT(name, NOSPLIT, "func(acc, a *float32, ae *int32, b *float32, be *int32, stride, instructions, steps, terms int, fraction, keep uint32) uint32")
	Doc(name+" continues the chains of acc[column] by instructions of steps of terms, an even number, each. a and ae are the values and",
		"exponents of A's row, b and be of B, [k][column] with stride bytes a row. fraction is the number of fraction bits; keep",
		"are the bits that a result keeps. The result has a bit for each column whose element is not valid.")
	acc, a, ae, b, be, stride := load("acc"), load("a"), load("ae"), load("b"), load("be"), load("stride")
	instructions := load("instructions")
	c := newConstants(name + "Constants")
	fraction := GP32()
	Load(Param("fraction"), fraction)
	toScale, toValue, keep := ZMM(), ZMM(), ZMM()
	up, down := GP32(), GP32()
	MOVL(U32(127), up)
	MOVL(up, down)
	ADDL(fraction, up)
	SUBL(fraction, down)
	VPBROADCASTD(up, toScale)
	VPBROADCASTD(down, toValue)
	VPBROADCASTD(Load(Param("keep"), GP32()), keep)
	none := ZMM()
	VPBROADCASTD(c.u32(zeroExp), none)
	var bad [vecs]Register
	var x, whole [vecs]VecVirtual
	for v := range bad {
		bad[v] = K()
		KXORW(bad[v], bad[v], bad[v])
		x[v] = ZMM()
		VMOVUPS(Mem{Base: acc, Disp: 64 * v}, x[v])
		if separate {
			whole[v] = ZMM()
			VMOVAPS(x[v], whole[v])
		}
	}
	steps, left := GP64(), GP64()
	Label("instruction")
	if separate {
		for v := range x {
			VPXORD(x[v], x[v], x[v])
		}
	}
	Load(Param("steps"), steps)
	Label("step")
	var top, scale, value [vecs]VecVirtual
	for v := range top {
		t, zero := ZMM(), K()
		top[v] = ZMM()
		VPSLLD(Imm(1), x[v], t)
		VPSRLD(Imm(24), t, top[v])
		VPSUBD_BCST(c.u32(127), top[v], top[v])
		if half {
			VPMAXSD_BCST(c.u32(0xffffffff-14+1), top[v], top[v])
		}
		VPTESTNMD(t, t, zero)
		VMOVDQA32(none, zero, top[v])
	}
	Load(Param("terms"), left)
	Label("exponent")
	for range 2 {
		for v := range top {
			t := ZMM()
			VMOVDQU32(Mem{Base: be, Disp: 64 * v}, t)
			VPADDD_BCST(Mem{Base: ae}, t, t)
			VPMAXSD(t, top[v], top[v])
		}
		ADDQ(Imm(4), ae)
		ADDQ(stride, be)
	}
	SUBQ(Imm(2), left)
	JNZ(LabelRef("exponent"))
	var even, odd [vecs]VecVirtual
	for v := range top {
		low, high := K(), K()
		VPCMPD_BCST(Imm(1), c.u32(lowest), top[v], low) // less than
		VPCMPD_BCST(Imm(5), c.u32(allZero), top[v], low, low)
		VPCMPD_BCST(Imm(6), c.u32(highest), top[v], high)
		KORW(low, bad[v], bad[v])
		KORW(high, bad[v], bad[v])
		VPMAXSD_BCST(c.u32(lowest), top[v], top[v])
		VPMINSD_BCST(c.u32(highest), top[v], top[v])
		scale[v], value[v], even[v], odd[v] = ZMM(), ZMM(), ZMM(), ZMM()
		VPSUBD(top[v], toScale, scale[v])
		VPSLLD(Imm(23), scale[v], scale[v])
		VPADDD(top[v], toValue, value[v])
		VPSLLD(Imm(23), value[v], value[v])
		VMULPS(scale[v], x[v], even[v])
		VCVTTPS2DQ(even[v], even[v])
		VPXORD(odd[v], odd[v], odd[v])
	}
	Load(Param("terms"), left)
	Label("product")
	for _, sum := range [][vecs]VecVirtual{even, odd} {
		for v := range sum {
			t := ZMM()
			VMOVUPS(Mem{Base: b, Disp: 64 * v}, t)
			VMULPS_BCST(Mem{Base: a}, t, t)
			VMULPS(scale[v], t, t)
			VCVTTPS2DQ(t, t)
			VPADDD(t, sum[v], sum[v])
		}
		ADDQ(Imm(4), a)
		ADDQ(stride, b)
	}
	SUBQ(Imm(2), left)
	JNZ(LabelRef("product"))
	for v := range x {
		var out [2]VecVirtual
		for h := range out {
			part := func(z VecVirtual) VecVirtual {
				y := YMM()
				VEXTRACTI32X8(Imm(uint64(h)), z, y)
				return y
			}
			s, t, w, y := ZMM(), ZMM(), ZMM(), YMM()
			VCVTDQ2PD(part(even[v]), s)
			VCVTDQ2PD(part(odd[v]), t)
			VCVTPS2PD(part(value[v]), w)
			VADDPD(t, s, s)
			VMULPD(w, s, s)
			VCVTPD2PS_RZ_SAE(s, y)
			if half {
				// A last bit that is set where something was lost keeps the second
				// rounding from being wrong.
				inexact := K()
				VCVTPS2PD(y, t)
				VCMPPD(Imm(4), t, s, inexact)
				odd := YMM()
				VPORD_BCST(c.u32(1), y, odd)
				VMOVDQA32(odd, inexact, y)
			}
			out[h] = y
		}
		VINSERTF32X8(Imm(1), out[1], out[0].AsZ(), x[v])
		if half {
			roundHalf(x[v])
			t := ZMM()
			VPXORD(t, t, t)
			VADDPS(t, x[v], x[v]) // -0, of a sum that rounds to zero, becomes +0
			raise(bad[v], classInf, x[v])
		} else {
			VPANDD(keep, x[v], x[v])
		}
	}
	DECQ(steps)
	JNZ(LabelRef("step"))
	if separate {
		for v := range x {
			VADDPS(whole[v], x[v], whole[v])
			if half {
				roundHalf(whole[v])
			}
			raise(bad[v], classInf|classNaN, whole[v])
		}
	}
	DECQ(instructions)
	JNZ(LabelRef("instruction"))
	r := [vecs]Register{GP32(), GP32()}
	for v := range x {
		if separate {
			x[v] = whole[v]
		}
		VMOVUPS(x[v], Mem{Base: acc, Disp: 64 * v})
		KMOVW(bad[v], r[v])
	}
	SHLL(Imm(16), r[1])
	ORL(r[1], r[0])
	Store(r[0], ReturnIndex(0))
	VZEROUPPER()
	RET()
}

// roundHalf rounds to FP16, to nearest even.
func roundHalf(x VecVirtual) {
	h := YMM()
	VCVTPS2PH(Imm(0), x, h)
	VCVTPH2PS(h, x)
}

// classes of VFPCLASSPS.
const (
	classNaN = 0x01 | 0x80
	classInf = 0x08 | 0x10
)

// raise sets in bad the lanes of x in the classes.
func raise(bad Register, classes uint64, x VecVirtual) {
	k := K()
	VFPCLASSPSZ(Imm(classes), x, k)
	KORW(k, bad, bad)
}

func load(name string) Register { return Load(Param(name), GP64()) }

// constants lays out 32-bit constants for embedded broadcasts.
type constants struct {
	mem   Mem
	n     int
	words map[uint32]Mem
	longs map[uint64]Mem
}

func newConstants(name string) *constants {
	return &constants{mem: GLOBL(name, RODATA|NOPTR), words: map[uint32]Mem{}, longs: map[uint64]Mem{}}
}

// u64 is u32 for 64 bits.
func (c *constants) u64(x uint64) Mem {
	if m, ok := c.longs[x]; ok {
		return m
	}
	c.longs[x] = c.mem.Offset(c.n)
	DATA(c.n, U64(x))
	c.n += 8
	return c.longs[x]
}

func (c *constants) u32(x uint32) Mem {
	if m, ok := c.words[x]; ok {
		return m
	}
	c.words[x] = c.mem.Offset(c.n)
	DATA(c.n, U32(x))
	c.n += 4
	return c.words[x]
}

// series is a vector of 16 constants from one on, each step more than the one before.
func (c *constants) series(first, step uint32) Mem {
	m := c.mem.Offset(c.n)
	for i := range uint32(16) {
		DATA(c.n, U32(first+i*step))
		c.n += 4
	}
	return m
}
