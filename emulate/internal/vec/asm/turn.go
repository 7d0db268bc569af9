package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// turn transposes words of 32 bits, as many rows as a register has lanes and four columns at a
// time. Rows four apart share a register, one in each of its 128-bit parts, so that what is left
// is transposing four by four within each part.
func turn(w width) {
	name, parts := "turn"+w.suffix, w.bytes/16
	TEXT(name, NOSPLIT, "func(dst, src *byte, to, from, quads int, flip uint32)")
	Pragma("noescape")
	Doc(fmt.Sprintf("%s writes %d rows of 4*quads words, from bytes apart, as columns, whose words lie to bytes apart, each word with the", name, w.bytes/4),
		"bits of flip inverted.")
	dst, src, to, from, quads := load("dst"), load("src"), load("to"), load("from"), load("quads")
	flip := w.register()
	VBROADCASTSS(NewParamAddr("flip", 40), flip)
	three, base := GP64(), make([]Register, parts)
	LEAQ(Mem{Base: from, Index: from, Scale: 2}, three)
	base[0] = src
	for i := 1; i < parts; i++ {
		base[i] = GP64()
		LEAQ(Mem{Base: base[i-1], Index: from, Scale: 4}, base[i])
	}
	Label("quad")
	var r [4]VecVirtual
	for i := range r {
		r[i] = w.register()
		for part, b := range base {
			m := []Mem{{Base: b}, {Base: b, Index: from, Scale: 1}, {Base: b, Index: from, Scale: 2}, {Base: b, Index: three, Scale: 1}}[i]
			switch {
			case part == 0:
				VMOVDQU(m, r[i].AsX())
			case parts == 4:
				VINSERTI32X4(Imm(uint64(part)), m, r[i], r[i])
			default:
				VINSERTI128(Imm(uint64(part)), m, r[i], r[i])
			}
		}
	}
	op := func(f func(...Op), x, y Op) VecVirtual {
		z := w.register()
		f(y, x, z)
		return z
	}
	a, b := op(VPUNPCKLDQ, r[0], r[1]), op(VPUNPCKHDQ, r[0], r[1])
	c, d := op(VPUNPCKLDQ, r[2], r[3]), op(VPUNPCKHDQ, r[2], r[3])
	for _, x := range []VecVirtual{op(VPUNPCKLQDQ, a, c), op(VPUNPCKHQDQ, a, c), op(VPUNPCKLQDQ, b, d), op(VPUNPCKHQDQ, b, d)} {
		if parts == 4 {
			VPXORD(flip, x, x)
		} else {
			VPXOR(flip, x, x)
		}
		VMOVUPS(x, Mem{Base: dst})
		ADDQ(to, dst)
	}
	for _, b := range base {
		ADDQ(Imm(16), b)
	}
	DECQ(quads)
	JNZ(LabelRef("quad"))
	VZEROUPPER()
	RET()
}
