package main

import (
	"bytes"
	"fmt"
	"strings"
)

// asm gathers functions in Go's assembly, and their declarations.
type asm struct {
	code, stubs bytes.Buffer
	offset      map[string]int // of the function's parameters
	result      int            // and of its result
}

// function begins a function with frame bytes of local memory. Its parameters are
// written as in Go, each with its type.
func (a *asm) function(name string, frame int, signature, result string, doc ...string) {
	a.offset = map[string]int{}
	at := 0
	for _, p := range strings.Split(signature, ", ") {
		name, kind, _ := strings.Cut(p, " ")
		size := 8
		if kind == "uint32" || kind == "int32" || kind == "float32" {
			size = 4
		}
		at = (at + size - 1) / size * size
		a.offset[name] = at
		at += size
	}
	results := ""
	if result != "" {
		at = (at + 7) / 8 * 8
		a.result = at
		at += 4
		results = " " + result
	}
	fmt.Fprintf(&a.stubs, "\n")
	for _, line := range doc {
		fmt.Fprintf(&a.stubs, "// %s\n", line)
	}
	fmt.Fprintf(&a.stubs, "//\n//go:noescape\nfunc %s(%s)%s\n", name, signature, results)
	fmt.Fprintf(&a.code, "\n// func %s(%s)%s\n", name, signature, results)
	fmt.Fprintf(&a.code, "TEXT ·%s(SB), NOSPLIT, $%d-%d\n", name, frame, at)
}

// do prints an instruction in Go's syntax, whose result comes last.
func (a *asm) do(format string, args ...any) { fmt.Fprintf(&a.code, "\t"+format+"\n", args...) }

// label prints a label.
func (a *asm) label(name string) { fmt.Fprintf(&a.code, "%s:\n", name) }

// load loads parameters into the registers from R0 on, in order.
func (a *asm) load(names ...string) {
	for i, n := range names {
		a.do("MOVD %s+%d(FP), R%d", n, a.offset[n], i)
	}
}

// word prints an instruction that Go's assembler lacks.
func (a *asm) word(code uint32, format string, args ...any) {
	a.do("WORD $%#08x // %s", code, fmt.Sprintf(format, args...))
}

// native are the instructions of two sources that Go's assembler has.
var native = map[string]string{
	"add": "VADD", "addp": "VADDP", "sub": "VSUB", "and": "VAND", "orr": "VORR", "eor": "VEOR", "umax": "VUMAX", "cmeq": "VCMEQ", "cmtst": "VCMTST",
	"bit": "VBIT", "bif": "VBIF", "bsl": "VBSL", "zip1": "VZIP1", "zip2": "VZIP2", "uzp1": "VUZP1", "uzp2": "VUZP2", "trn1": "VTRN1", "trn2": "VTRN2",
}

// arrangement is an arrangement as Go's assembler writes it.
func arrangement(s string) string { return strings.ToUpper(s[len(s)-1:]) + s[:len(s)-1] }

// op prints d = n op m, where op is an instruction and, after a point, its arrangement.
// Bits (bit, bif, bsl) and multiply-adds (fmla, mla, udot) take d as a source too.
func (a *asm) op(op string, d, n, m v) {
	name, arr, _ := strings.Cut(op, ".")
	if goName, ok := native[name]; ok {
		t := arrangement(arr)
		a.do("%s V%d.%s, V%d.%s, V%d.%s", goName, m, t, n, t, d, t)
		return
	}
	a.word(encodeThree(op, d, n, m), "%s V%d.%s, V%d.%[3]s, V%[5]d.%[3]s", name, d, arr, n, m)
}

// op1 prints d = op n.
func (a *asm) op1(op string, d, n v) {
	name, arr, _ := strings.Cut(op, ".")
	a.word(encodeTwo(op, d, n), "%s V%d.%s, V%d", name, d, arr, n)
}

// shift prints d = n op by. Left shifts and logical right ones are Go's.
func (a *asm) shift(op string, d, n v, by int) {
	name, arr, _ := strings.Cut(op, ".")
	if goName, ok := map[string]string{"shl": "VSHL", "ushr": "VUSHR", "usra": "VUSRA"}[name]; ok {
		t := arrangement(arr)
		a.do("%s $%d, V%d.%s, V%d.%s", goName, by, n, t, d, t)
		return
	}
	a.word(encodeShift(op, d, n, by), "%s V%d.%s, V%d.%[3]s, #%[5]d", name, d, arr, n, by)
}

// lane prints d = d + n*m[lane].
func (a *asm) lane(op string, d, n, m v, lane int) {
	name, arr, _ := strings.Cut(op, ".")
	a.word(encodeLane(op, d, n, m, lane), "%s V%d.%s, V%d, V%d[%d]", name, d, arr, n, m, lane)
}

// move copies a register.
func (a *asm) move(d, n v) { a.do("VMOV V%d.B16, V%d.B16", n, d) }

// clear makes registers zero.
func (a *asm) clear(list ...v) {
	for _, d := range list {
		a.do("VEOR V%d.B16, V%[1]d.B16, V%[1]d.B16", d)
	}
}

// splat loads a 32-bit constant into all lanes, by R17.
func (a *asm) splat(d v, bits uint32) {
	a.do("MOVD $%#x, R17", bits)
	a.do("VDUP R17, V%d.S4", d)
}

// splat64 is splat of 64 bits.
func (a *asm) splat64(d v, bits uint64) {
	a.do("MOVD $%#x, R17", bits)
	a.do("VDUP R17, V%d.D2", d)
}

// bytes loads 16 bytes.
func (a *asm) bytes(d v, b [16]byte) {
	for half := range 2 {
		x := uint64(0)
		for i := range 8 {
			x |= uint64(b[half*8+i]) << (8 * i)
		}
		a.do("MOVD $%#x, R17", x)
		a.do("VMOV R17, V%d.D[%d]", d, half)
	}
}

// broadcast loads 32 bits into all lanes, from a constant distance from a base.
func (a *asm) broadcast(d v, base string, disp int) {
	a.do("FMOVS %d(%s), F%d", disp, base, d)
	a.do("VDUP V%d.S[0], V%[1]d.S4", d)
}

// at and to load and store a register at a constant distance from a base.
func (a *asm) at(d v, base string, disp int) { a.do("FMOVQ %d(%s), F%d", disp, base, d) }
func (a *asm) to(d v, base string, disp int) { a.do("FMOVQ F%d, %d(%s)", d, disp, base) }

// pairAt and pairTo do so with registers d and d+1.
func (a *asm) pairAt(d v, base string, disp int) {
	a.do("FLDPQ %d(%s), (F%d, F%d)", disp, base, d, d+1)
}
func (a *asm) pairTo(d v, base string, disp int) {
	a.do("FSTPQ (F%d, F%d), %d(%s)", d, d+1, disp, base)
}

// loop prints a loop that counts a register down to zero.
func (a *asm) loop(name, count string, by int, body func()) {
	a.label(name)
	body()
	a.do("SUBS $%d, %s", by, count)
	a.do("BNE %s", name)
}

// ret returns.
func (a *asm) ret() { a.do("RET") }

// retBad returns whether a bit of bad is set.
func (a *asm) retBad(bad v) {
	a.do("VMOV V%d.D[0], R16", bad)
	a.do("VMOV V%d.D[1], R17", bad)
	a.do("ORR R17, R16")
	a.do("CMP $0, R16")
	a.do("CSET NE, R16")
	a.do("MOVW R16, ret+%d(FP)", a.result)
	a.ret()
}

// flush replaces subnormal lanes of x by zeros of their sign. exponent holds 0x7f800000.
func (a *asm) flush(x, exponent, t v) {
	a.op("and.16b", t, x, exponent)
	a.op1("cmeq0.4s", t, t)
	a.shift("ushr.4s", t, t, 1)
	a.op("bic.16b", x, x, t)
}

// raise sets bits in bad for lanes of x that are NaN or infinite.
func (a *asm) raise(bad, x, exponent, t v) {
	a.op("and.16b", t, x, exponent)
	a.op("cmeq.4s", t, t, exponent)
	a.op("orr.16b", bad, bad, t)
}

// smallest is twice the bits of 2^-126. A result of so much may have been less before it was
// rounded, which an operation that flushes must know (package format).
const smallest = 2 * 0x00800000

// raiseSmallest sets bits in bad for lanes of x that are 2^-126 or its negative. least
// holds smallest.
func (a *asm) raiseSmallest(bad, x, least, t v) {
	a.shift("shl.4s", t, x, 1)
	a.op("cmeq.4s", t, t, least)
	a.op("orr.16b", bad, bad, t)
}

// raiseTiny sets bits in bad for lanes of x that are subnormal, 2^-126 or its negative.
// least holds smallest.
func (a *asm) raiseTiny(bad, x, least, t, u v) {
	a.shift("shl.4s", u, x, 1)
	a.op("cmhs.4s", t, least, u)
	a.op("and.16b", t, t, u)
	a.op("orr.16b", bad, bad, t)
}
