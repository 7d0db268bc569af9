// Command asm generates the kernels of package simd.
package main

import (
	"strconv"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// lanes is how many elements the kernels of a row take at a time, and the number of
// their partial sums.
const lanes = 16

// panel is the width of a panel in bytes.
const panel = 128

// constant is the size of a constant of the exponential: one vector of AVX2.
const constant = 32

// isa is a vector width.
type isa struct {
	suffix string
	bytes  int
	vector func() VecVirtual
	rows   int // of C that a kernel holds in registers
}

// kind is an element type and what its kernels are made of.
type kind struct {
	prefix, name string // as in BLAS; of the Go type
	size         int
	coefficients int    // of the exponential's polynomial, before the two that are 1
	shift        uint64 // from an integer to the exponent

	broadcast, move, max, add, sub, mul, fma231, fma213, fnma231 func(...Op)
	compare, and, or, shiftLeft, addInt, moveMask                func(...Op)
	addIntZero                                                   func(mxyz, xyz, k, xyz1 Op) // 0 where k is not set
	permute                                                      func(...Op)                 // within 128 bits
	scalarMove                                                   func(...Op)
	widen                                                        func(...Op) // from float32
}

func kinds() []kind {
	return []kind{
		{
			prefix: "s", name: "float32", size: 4, coefficients: 5, shift: 23,
			broadcast: VBROADCASTSS, move: VMOVUPS, max: VMAXPS, add: VADDPS, sub: VSUBPS, mul: VMULPS,
			fma231: VFMADD231PS, fma213: VFMADD213PS, fnma231: VFNMADD231PS,
			compare: VCMPPS, and: func(o ...Op) { VANDPS(o[0], o[1], o[2]) }, or: func(o ...Op) { VORPS(o[0], o[1], o[2]) },
			shiftLeft: VPSLLD, addInt: VPADDD, moveMask: func(o ...Op) { VMOVMSKPS(o[0], o[1]) },
			addIntZero: VPADDD_Z, permute: VPERMILPS, scalarMove: VMOVSS, widen: VMOVUPS,
		},
		{
			prefix: "d", name: "float64", size: 8, coefficients: 10, shift: 52,
			broadcast: VBROADCASTSD, move: VMOVUPD, max: VMAXPD, add: VADDPD, sub: VSUBPD, mul: VMULPD,
			fma231: VFMADD231PD, fma213: VFMADD213PD, fnma231: VFNMADD231PD,
			compare: VCMPPD, and: func(o ...Op) { VANDPD(o[0], o[1], o[2]) }, or: func(o ...Op) { VORPD(o[0], o[1], o[2]) },
			shiftLeft: VPSLLQ, addInt: VPADDQ, moveMask: func(o ...Op) { VMOVMSKPD(o[0], o[1]) },
			addIntZero: VPADDQ_Z, permute: VPERMILPD, scalarMove: VMOVSD, widen: VCVTPS2PD,
		},
	}
}

func main() {
	ConstraintExpr("!purego")
	for _, k := range kinds() {
		for _, w := range []isa{{"512", 64, ZMM, 8}, {"256", 32, YMM, 6}} {
			product(k, w, "", w.rows, 2)
			product(k, w, "Row", 1, 2)
			if w.bytes == 64 {
				product(k, w, "Narrow", w.rows, 1)
			}
			largest(k, w)
			weigh(k, w)
			join(k, w)
			turn(k, w)
			take(k, w)
		}
	}
	single(kinds()[0])
	Generate()
}

// zero returns a vector of zeros.
func (w isa) zero() VecVirtual {
	z := w.vector()
	if w.bytes == 64 {
		VPXORD(z, z, z)
	} else {
		VXORPS(z, z, z)
	}
	return z
}

// product computes rows of C by vecs registers each, for groups of rows: one fused
// multiply-add per step, in order of the inner index. Every register of B serves all
// rows, and every element of A all registers of its row, so that two vectors take
// 10 loads for 16 multiply-adds.
func product(k kind, w isa, suffix string, rows, vecs int) {
	name := k.prefix + "product" + w.suffix + suffix
	TEXT(name, NOSPLIT, "func(c, a, b *"+k.name+", depth, lda, ldc, groups int)")
	Doc(name + " computes groups of rows of C = A·B for the start of a panel; the strides are in bytes.")
	c, a, b := Load(Param("c"), GP64()), Load(Param("a"), GP64()), Load(Param("b"), GP64())
	depth, lda, ldc := Load(Param("depth"), GP64()), Load(Param("lda"), GP64()), Load(Param("ldc"), GP64())
	groups := Load(Param("groups"), GP64())
	lda3 := GP64()
	if rows > 3 {
		LEAQ(Mem{Base: lda, Index: lda, Scale: 2}, lda3)
	}
	Label("group")
	acc := make([][]VecVirtual, rows)
	for i := range acc {
		for range vecs {
			acc[i] = append(acc[i], w.zero())
		}
	}
	// Rows 0 to 3 are reached from one register, 4 to 7 from another.
	base := []GPVirtual{GP64(), GP64()}
	bp, n := GP64(), GP64()
	MOVQ(a, base[0])
	if rows > 4 {
		LEAQ(Mem{Base: a, Index: lda, Scale: 4}, base[1])
	}
	MOVQ(b, bp)
	MOVQ(depth, n)
	Label("step")
	cols := make([]VecVirtual, vecs)
	for j := range cols {
		cols[j] = w.vector()
		k.move(Mem{Base: bp, Disp: j * w.bytes}, cols[j])
	}
	for i := range acc {
		m := Mem{Base: base[i/4]}
		switch i % 4 {
		case 1:
			m.Index, m.Scale = lda, 1
		case 2:
			m.Index, m.Scale = lda, 2
		case 3:
			m.Index, m.Scale = lda3, 1
		}
		x := w.vector()
		k.broadcast(m, x)
		for j := range cols {
			k.fma231(cols[j], x, acc[i][j])
		}
	}
	for i := range (rows + 3) / 4 {
		ADDQ(Imm(uint64(k.size)), base[i])
	}
	ADDQ(U32(panel), bp)
	DECQ(n)
	JNZ(LabelRef("step"))
	for i := range acc {
		for j := range acc[i] {
			k.move(acc[i][j], Mem{Base: c, Disp: j * w.bytes})
		}
		ADDQ(ldc, c)
		ADDQ(lda, a)
	}
	DECQ(groups)
	JNZ(LabelRef("group"))
	VZEROUPPER()
	RET()
}

// reduce combines vectors that hold the lanes in order: lane i with lane i+8, then i+4,
// i+2, i+1. The result is in the first element of what it returns.
func reduce(k kind, w isa, v []VecVirtual, op func(...Op)) Register {
	for h := len(v) / 2; h > 0; h /= 2 {
		for i := range h {
			op(v[i+h], v[i], v[i])
		}
	}
	if w.bytes == 64 {
		// In whole registers: the upper 16 have no halves without AVX512VL.
		z := v[0]
		step := func(imm uint64, move func(...Op), ops ...Op) {
			other := ZMM()
			move(append(append([]Op{Imm(imm)}, ops...), other)...)
			op(other, z, z)
		}
		step(0x4e, VSHUFF64X2, z, z)
		step(0xb1, VSHUFF64X2, z, z)
		if k.size == 4 {
			step(0x55, VPERMILPD, z)
			step(0xb1, VPERMILPS, z)
		} else {
			step(0x55, VPERMILPD, z)
		}
		return z.AsX()
	}
	x, upper := v[0].AsX(), XMM()
	VEXTRACTF128(Imm(1), v[0], upper)
	op(upper, x, x)
	if k.size == 4 {
		VPERMILPD(Imm(1), x, upper)
		op(upper, x, x)
	}
	k.permute(Imm(1), x, upper)
	op(upper, x, x)
	return x
}

// largest scales a row and finds its maximum.
func largest(k kind, w isa) {
	name := k.prefix + "max" + w.suffix
	TEXT(name, NOSPLIT, "func(x *"+k.name+", scale "+k.name+", groups int) (top "+k.name+", nan uint64)")
	Doc(name + " multiplies 16 elements a group by scale and returns the largest; nan is not 0 if there is a NaN.")
	x, groups := Load(Param("x"), GP64()), Load(Param("groups"), GP64())
	scale := w.vector()
	k.broadcast(NewParamAddr("scale", 8), scale)
	vecs := lanes * k.size / w.bytes
	top := make([]VecVirtual, vecs)
	for i := range top {
		top[i] = w.vector()
		k.move(Mem{Base: x, Disp: i * w.bytes}, top[i])
		k.mul(scale, top[i], top[i])
	}
	var unordered Op
	if w.bytes == 64 {
		unordered = K()
		KXORW(unordered, unordered, unordered)
	} else {
		unordered = w.zero()
	}
	Label("group")
	for i := range top {
		z := w.vector()
		k.move(Mem{Base: x, Disp: i * w.bytes}, z)
		k.mul(scale, z, z)
		k.move(z, Mem{Base: x, Disp: i * w.bytes})
		k.max(z, top[i], top[i])
		if w.bytes == 64 {
			m := K()
			k.compare(Imm(3), z, z, m)
			KORW(m, unordered, unordered)
		} else {
			m := w.vector()
			k.compare(Imm(3), z, z, m)
			k.or(m, unordered, unordered)
		}
	}
	ADDQ(U32(lanes*k.size), x)
	DECQ(groups)
	JNZ(LabelRef("group"))
	bits := GP32()
	if w.bytes == 64 {
		KMOVW(unordered, bits)
	} else {
		k.moveMask(unordered, bits)
	}
	wide := GP64()
	MOVL(bits, wide.As32())
	Store(wide, ReturnIndex(1))
	addr, err := ReturnIndex(0).Resolve()
	if err != nil {
		panic(err)
	}
	k.scalarMove(reduce(k, w, top, k.max), addr.Addr)
	VZEROUPPER()
	RET()
}

// exponential is the exponential of package simd, operation by operation, where the argument
// is not less than the smallest one, and else 0. A NaN stays. c are its constants in the order
// of the package's tables.
func (k kind) exponential(w isa, z VecVirtual, c []Op) VecVirtual {
	t, n, p := w.vector(), w.vector(), w.vector()
	var keep Op = w.vector()
	if w.bytes == 64 {
		keep = K()
	}
	const notLess = 5
	k.compare(Imm(notLess), c[0], z, keep)
	k.move(c[2], t)
	k.fma231(c[1], z, t)
	k.sub(c[2], t, n)
	k.fnma231(c[3], n, z)
	k.fnma231(c[4], n, z)
	k.move(c[5], p)
	for _, x := range append(c[6:5+k.coefficients:5+k.coefficients], c[5+k.coefficients], c[5+k.coefficients]) {
		k.fma213(x, z, p)
	}
	k.shiftLeft(Imm(k.shift), t, t)
	if w.bytes == 64 {
		k.addIntZero(t, p, keep, p)
	} else {
		k.addInt(t, p, p)
		k.and(keep, p, p)
	}
	return p
}

// weigh turns a row of scores into weights and adds them up, in 16 sums by lane.
func weigh(k kind, w isa) {
	name := k.prefix + "weigh" + w.suffix
	TEXT(name, NOSPLIT, "func(x *"+k.name+", top "+k.name+", groups int, table *"+k.name+") "+k.name)
	Doc(name + " replaces 16 elements a group by the exponential of their difference to top, and returns the sum.")
	x, groups, table := Load(Param("x"), GP64()), Load(Param("groups"), GP64()), Load(Param("table"), GP64())
	top := w.vector()
	k.broadcast(NewParamAddr("top", 8), top)
	c := make([]Op, 6+k.coefficients)
	for i := range c {
		c[i] = Mem{Base: table, Disp: constant * i}
		// AVX2 has 16 registers: the rest comes from memory.
		if w.bytes == 64 || i < 3 {
			v := w.vector()
			k.broadcast(c[i], v)
			c[i] = v
		}
	}
	sum := make([]VecVirtual, lanes*k.size/w.bytes)
	for i := range sum {
		sum[i] = w.zero()
	}
	Label("group")
	for i := range sum {
		m := Mem{Base: x, Disp: i * w.bytes}
		z := w.vector()
		k.move(m, z)
		k.sub(top, z, z)
		p := k.exponential(w, z, c)
		k.move(p, m)
		k.add(p, sum[i], sum[i])
	}
	ADDQ(U32(lanes*k.size), x)
	DECQ(groups)
	JNZ(LabelRef("group"))
	addr, err := ReturnIndex(0).Resolve()
	if err != nil {
		panic(err)
	}
	k.scalarMove(reduce(k, w, sum, k.add), addr.Addr)
	VZEROUPPER()
	RET()
}

// single takes the exponential of one element.
func single(k kind) {
	name := k.prefix + "exp"
	TEXT(name, NOSPLIT, "func(x "+k.name+", table *"+k.name+") "+k.name)
	Doc(name + " returns the exponential of x.")
	w := isa{bytes: 16, vector: XMM}
	table := Load(Param("table"), GP64())
	c := make([]Op, 6+k.coefficients)
	for i := range c {
		c[i] = Mem{Base: table, Disp: constant * i}
	}
	z := w.vector()
	k.scalarMove(NewParamAddr("x", 0), z)
	addr, err := ReturnIndex(0).Resolve()
	if err != nil {
		panic(err)
	}
	k.scalarMove(k.exponential(w, z, c), addr.Addr)
	RET()
}

// join rescales a row and adds another to it.
func join(k kind, w isa) {
	name := k.prefix + "join" + w.suffix
	TEXT(name, NOSPLIT, "func(acc, x *"+k.name+", decay "+k.name+", panels int)")
	Doc(name + " computes acc = acc·decay + x, fused, for panels of 128 bytes.")
	acc, x, panels := Load(Param("acc"), GP64()), Load(Param("x"), GP64()), Load(Param("panels"), GP64())
	decay := w.vector()
	k.broadcast(NewParamAddr("decay", 16), decay)
	Label("panel")
	for d := 0; d < panel; d += w.bytes {
		v := w.vector()
		k.move(Mem{Base: acc, Disp: d}, v)
		k.fma213(Mem{Base: x, Disp: d}, decay, v)
		k.move(v, Mem{Base: acc, Disp: d})
	}
	ADDQ(U32(panel), acc)
	ADDQ(U32(panel), x)
	DECQ(panels)
	JNZ(LabelRef("panel"))
	VZEROUPPER()
	RET()
}

// turn transposes: rows of channels become a panel's rows of keys.
func turn(k kind, w isa) {
	name := k.prefix + "turn" + w.suffix
	n := w.bytes / 4
	TEXT(name, NOSPLIT, "func(dst *"+k.name+", x *float32, stride, groups int)")
	Doc(name + " writes " + strconv.Itoa(n) + " rows of x, the stride in bytes, as columns of a panel, for groups of as many channels.")
	dst, x := Load(Param("dst"), GP64()), Load(Param("x"), GP64())
	stride, groups := Load(Param("stride"), GP64()), Load(Param("groups"), GP64())
	stride3 := GP64()
	LEAQ(Mem{Base: stride, Index: stride, Scale: 2}, stride3)
	base := make([]Register, n/4)
	base[0] = x
	for i := 1; i < len(base); i++ {
		base[i] = GP64()
		LEAQ(Mem{Base: base[i-1], Index: stride, Scale: 4}, base[i])
	}
	Label("group")
	rows := make([]VecVirtual, n)
	for i := range rows {
		rows[i] = w.vector()
		m := Mem{Base: base[i/4]}
		switch i % 4 {
		case 1:
			m.Index, m.Scale = stride, 1
		case 2:
			m.Index, m.Scale = stride, 2
		case 3:
			m.Index, m.Scale = stride3, 1
		}
		VMOVUPS(m, rows[i])
	}
	for c, v := range w.transpose(rows) {
		at := Mem{Base: dst, Disp: panel * c}
		if k.size == 4 {
			VMOVUPS(v, at)
			continue
		}
		upper, half := w.halves(v)
		for _, h := range []Op{half, upper} {
			z := w.vector()
			k.widen(h, z)
			k.move(z, at)
			at.Disp += w.bytes
		}
	}
	for _, b := range base {
		ADDQ(U32(w.bytes), b)
	}
	ADDQ(U32(panel*n), dst)
	DECQ(groups)
	JNZ(LabelRef("group"))
	VZEROUPPER()
	RET()
}

// halves returns the upper and the lower half of v.
func (w isa) halves(v VecVirtual) (upper, lower VecVirtual) {
	if w.bytes == 64 {
		upper = YMM()
		VEXTRACTF64X4(Imm(1), v, upper)
		return upper, v.AsY().(VecVirtual)
	}
	upper = XMM()
	VEXTRACTF128(Imm(1), v, upper)
	return upper, v.AsX().(VecVirtual)
}

// transpose returns the columns of float32 rows, as many as lanes.
func (w isa) transpose(r []VecVirtual) []VecVirtual {
	op := func(f func(...Op), ops ...Op) VecVirtual {
		x := w.vector()
		f(append(ops, x)...)
		return x
	}
	// Column 4*i+j of four rows comes to lie in the i-th 128 bits of the j-th vector.
	for g := 0; g < len(r); g += 4 {
		q := r[g : g+4]
		a, b := op(VUNPCKLPS, q[1], q[0]), op(VUNPCKHPS, q[1], q[0])
		c, d := op(VUNPCKLPS, q[3], q[2]), op(VUNPCKHPS, q[3], q[2])
		q[0], q[1] = op(VUNPCKLPD, c, a), op(VUNPCKHPD, c, a)
		q[2], q[3] = op(VUNPCKLPD, d, b), op(VUNPCKHPD, d, b)
	}
	columns := make([]VecVirtual, len(r))
	for j := range 4 {
		if w.bytes == 32 {
			columns[j], columns[4+j] = w.vector(), w.vector()
			VPERM2F128(Imm(0x20), r[4+j], r[j], columns[j])
			VPERM2F128(Imm(0x31), r[4+j], r[j], columns[4+j])
			continue
		}
		for odd, imm := range []Op{Imm(0x88), Imm(0xdd)} {
			x, y := op(VSHUFF32X4, imm, r[4+j], r[j]), op(VSHUFF32X4, imm, r[12+j], r[8+j])
			columns[4*odd+j] = op(VSHUFF32X4, Imm(0x88), y, x)
			columns[8+4*odd+j] = op(VSHUFF32X4, Imm(0xdd), y, x)
		}
	}
	return columns
}

// take copies rows of a panel, and looks whether they are finite.
func take(k kind, w isa) {
	name := k.prefix + "take" + w.suffix
	TEXT(name, NOSPLIT, "func(dst *"+k.name+", x *float32, stride, rows int) uint64")
	Doc(name + " writes rows of x, the stride in bytes, as rows of a panel. It does not return 0 if one holds what is not finite.")
	dst, x := Load(Param("dst"), GP64()), Load(Param("x"), GP64())
	stride, rows := Load(Param("stride"), GP64()), Load(Param("rows"), GP64())
	zero, probes := w.zero(), make([]VecVirtual, panel/w.bytes)
	for i := range probes {
		probes[i] = w.zero()
	}
	Label("row")
	for i, probe := range probes {
		v := w.vector()
		k.widen(Mem{Base: x, Disp: i * w.bytes * 4 / k.size}, v)
		k.fma231(zero, v, probe) // 0, or NaN from then on
		k.move(v, Mem{Base: dst, Disp: i * w.bytes})
	}
	ADDQ(stride, x)
	ADDQ(U32(panel), dst)
	DECQ(rows)
	JNZ(LabelRef("row"))
	for _, probe := range probes[1:] {
		k.add(probe, probes[0], probes[0])
	}
	bits, result := GP32(), GP64()
	const unordered = 3
	if w.bytes == 64 {
		m := K()
		k.compare(Imm(unordered), probes[0], probes[0], m)
		KMOVW(m, bits)
	} else {
		k.compare(Imm(unordered), probes[0], probes[0], probes[0])
		k.moveMask(probes[0], bits)
	}
	MOVL(bits, result.As32())
	Store(result, ReturnIndex(0))
	VZEROUPPER()
	RET()
}
