// Command asm generates the kernels of package simd.
package main

import (
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// isa is a vector width.
type isa struct {
	suffix string
	bytes  int
	vector func() VecVirtual
	half   func(VecVirtual) Register
}

func main() {
	ConstraintExpr("!purego")
	w := coefficients()
	for _, i := range []isa{
		{"512", 64, ZMM, func(v VecVirtual) Register { return v.AsY() }},
		{"256", 32, YMM, func(v VecVirtual) Register { return v.AsX() }},
	} {
		if i.bytes == 64 {
			product(i, 4)
			product(i, 1)
		} else {
			product(i, 2)
		}
		exponential(i, w)
	}
	Generate()
}

// product computes four rows of C by panels of vecs registers: one product and
// one sum per step, each rounded, in order of the inner index.
func product(w isa, vecs int) {
	name := "product" + w.suffix
	if vecs == 1 {
		name += "Narrow"
	}
	TEXT(name, NOSPLIT, "func(c, a, b *float32, depth, lda, ldb, ldc, panels int)")
	Doc(name + " computes 4 rows of C = A·B for panels of columns; the strides are in bytes.")
	c, a, b := Load(Param("c"), GP64()), Load(Param("a"), GP64()), Load(Param("b"), GP64())
	depth, lda, ldb, ldc := Load(Param("depth"), GP64()), Load(Param("lda"), GP64()), Load(Param("ldb"), GP64()), Load(Param("ldc"), GP64())
	panels := Load(Param("panels"), GP64())
	lda3 := GP64()
	LEAQ(Mem{Base: lda, Index: lda, Scale: 2}, lda3)
	Label("panel")
	var acc [4][]VecVirtual
	for i := range acc {
		for range vecs {
			z := w.vector()
			if w.bytes == 64 {
				VPXORD(z, z, z)
			} else {
				VXORPS(z, z, z)
			}
			acc[i] = append(acc[i], z)
		}
	}
	ap, bp, n := GP64(), GP64(), GP64()
	MOVQ(a, ap)
	MOVQ(b, bp)
	MOVQ(depth, n)
	Label("step")
	var cols []VecVirtual
	for j := range vecs {
		v := w.vector()
		VMOVUPS(Mem{Base: bp, Disp: j * w.bytes}, v)
		cols = append(cols, v)
	}
	for i := range acc {
		m := Mem{Base: ap}
		switch i {
		case 1:
			m.Index, m.Scale = lda, 1
		case 2:
			m.Index, m.Scale = lda, 2
		case 3:
			m.Index, m.Scale = lda3, 1
		}
		x := w.vector()
		VBROADCASTSS(m, x)
		for j := range cols {
			p := w.vector()
			VMULPS(cols[j], x, p)
			VADDPS(p, acc[i][j], acc[i][j])
		}
	}
	ADDQ(Imm(4), ap)
	ADDQ(ldb, bp)
	DECQ(n)
	JNZ(LabelRef("step"))
	cp := GP64()
	MOVQ(c, cp)
	for i := range acc {
		for j := range acc[i] {
			VMOVUPS(acc[i][j], Mem{Base: cp, Disp: j * w.bytes})
		}
		ADDQ(ldc, cp)
	}
	ADDQ(U32(vecs*w.bytes), c)
	ADDQ(U32(vecs*w.bytes), b)
	DECQ(panels)
	JNZ(LabelRef("panel"))
	VZEROUPPER()
	RET()
}

// coefficients are the constants of exponential, in the order of simd.Exp.
func coefficients() Mem {
	m := GLOBL("expConstants", RODATA|NOPTR)
	for i, x := range []float64{-110, 100, math.Log2E, 0x1.8p52, 0x1.62e42feep-1, 0x1.a39ef35793c76p-33} {
		DATA(8*i, U64(math.Float64bits(x)))
	}
	f := 1.0
	for i := range 12 {
		if i > 0 {
			f *= float64(i)
		}
		DATA(48+8*i, U64(math.Float64bits(1/f)))
	}
	return m
}

// exponential is simd.Exp, operation by operation.
func exponential(w isa, constants Mem) {
	name := "exponential" + w.suffix
	TEXT(name, NOSPLIT, "func(x *float32, top float32, groups int)")
	Doc(name + " replaces each x by Exp(x - top), two vectors of float64 at a time.")
	x, groups := Load(Param("x"), GP64()), Load(Param("groups"), GP64())
	top := w.vector()
	VBROADCASTSS(NewParamAddr("top", 8), top)
	constant := func(i int) VecVirtual {
		v := w.vector()
		VBROADCASTSD(constants.Offset(8*i), v)
		return v
	}
	Label("group")
	for h := range 2 {
		half := w.half(w.vector())
		VMOVUPS(Mem{Base: x, Disp: h * w.bytes / 2}, half)
		t0 := w.half(top)
		VSUBPS(t0, half, half)
		z, t, n, r, p := w.vector(), w.vector(), w.vector(), w.vector(), w.vector()
		VCVTPS2PD(half, z)
		VMAXPD(z, constant(0), z)
		VMINPD(z, constant(1), z)
		VMULPD(constant(2), z, t)
		magic := constant(3)
		VADDPD(magic, t, t)
		VSUBPD(magic, t, n)
		VMULPD(constant(4), n, r)
		VSUBPD(r, z, z)
		VMULPD(constant(5), n, r)
		VSUBPD(r, z, z)
		VBROADCASTSD(constants.Offset(48+8*11), p)
		for i := 10; i >= 0; i-- {
			VMULPD(z, p, p)
			VADDPD(constant(6+i), p, p)
		}
		VPSLLQ(Imm(52), t, t)
		VPADDQ(t, p, p)
		if w.bytes == 64 {
			VCVTPD2PS(p, half)
		} else {
			VCVTPD2PSY(p, half)
		}
		VMOVUPS(half, Mem{Base: x, Disp: h * w.bytes / 2})
	}
	ADDQ(U32(w.bytes), x)
	DECQ(groups)
	JNZ(LabelRef("group"))
	VZEROUPPER()
	RET()
}
