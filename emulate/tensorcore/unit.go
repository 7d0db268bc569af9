// Package tensorcore models the matrix units of NVIDIA GPUs bit for bit.
//
// One model explains every floating-point unit that was recorded: an aligned,
// truncating fused dot-add. Of an addend c and the products a_i*b_i, each term's
// exponent is taken (of a product the sum of its operands' exponents, the
// significand product left un-normalised in [1,4); a subnormal operand has its
// format's smallest exponent; zero terms take no part). With E the largest of
// them, every term is truncated toward zero to F fraction bits relative to 2^E,
// the truncated terms are added exactly, and the sum is converted by the unit's
// output rule. An instruction with a longer K chains such steps.
//
// A GPU is a set of rows in a table of [Unit] values; the package knows nothing
// of attention. The model agrees with MMA-Sim (arXiv 2511.10909) where both
// describe a unit; [Unit.Evidence] says what each row rests on.
package tensorcore

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// Operand is the number format of a matrix operand or accumulator.
type Operand uint8

// Operand formats.
const (
	E4M3 Operand = iota
	E5M2
	FP16
	BF16
	FP32
	S8
	S4
	S32
)

var operandNames = [...]string{"e4m3", "e5m2", "f16", "bf16", "f32", "s8", "s4", "s32"}

// String returns the PTX name of the format.
func (o Operand) String() string { return operandNames[o] }

// Output is the rule that turns a step's exact sum into its result.
type Output uint8

// Output rules.
const (
	// FP32Zero rounds toward zero to FP32.
	FP32Zero Output = iota
	// FP22Zero rounds toward zero to FP22 (E8M13).
	FP22Zero
	// FP16Nearest rounds to nearest even to FP16.
	FP16Nearest
	// FP32Nearest rounds to nearest even to FP32.
	FP32Nearest
	// Int32 is exact 32-bit integer arithmetic, wrapping.
	Int32
	// FP22Nearest rounds to nearest even to FP22; no unit that is known does.
	FP22Nearest
)

// String names the rule as the documents do.
func (o Output) String() string {
	return [...]string{"FP32 toward zero", "E8M13 toward zero", "FP16 nearest-even", "FP32 nearest-even", "int32 exact", "E8M13 nearest-even"}[o]
}

// Exact is the value of Unit.FractionBits of a unit that truncates nothing.
const Exact = -1

// Unit is one matrix instruction as one architecture executes it.
type Unit struct {
	// Arch is the architecture that runs it: sm_89, sm_90 or ideal.
	Arch string
	// Instruction is the PTX instruction, without the .sync.aligned.row.col
	// qualifiers and for wgmma with N for the n of its shape.
	Instruction string
	// Executed is the machine instruction it becomes.
	Executed string
	// A is the format of both operands, C that of accumulator and result.
	A, C Operand
	// K is the instruction's depth.
	K int
	// Steps lists the k indices of each fused dot-add, in order.
	Steps [][]int
	// FractionBits is F, the fraction bits kept relative to the largest term,
	// or Exact.
	FractionBits int
	// Out is the rule for each step's sum.
	Out Output
	// SeparateAdd says that the steps start from zero and the caller's addend is
	// added last by an ordinary nearest-even addition in C's format: the unit is
	// a sequence of instructions, not one.
	SeparateAdd bool
	// Evidence says what the row rests on.
	Evidence string
}

// Arch names.
const (
	SM89  = "sm_89"
	SM90  = "sm_90"
	Ideal = "ideal"
)

// Archs returns the architectures of the table, in order.
func Archs() []string { return []string{SM89, SM90, Ideal} }

// MaxFractionBits is the largest FractionBits, but for Exact, that a unit may have.
const MaxFractionBits = 30

// Consecutive returns Steps that take the k indices of an instruction of depth k in
// order, step at a time; step divides k.
func Consecutive(k, step int) [][]int {
	var s [][]int
	for i := 0; i < k; i += step {
		g := make([]int, step)
		for j := range g {
			g[j] = i + j
		}
		s = append(s, g)
	}
	return s
}

// unpacked is the order in which sm_90 executes an FP8 mma.sync: the operands
// are widened to FP16 two at a time, so that one HMMA gets the k with k mod 4 in
// {0, 1} and the next the others.
func unpacked(k int) [][]int {
	s := make([][]int, 2)
	for i := range k {
		s[i%4/2] = append(s[i%4/2], i)
	}
	return s
}

const (
	h200     = "recorded on an H200"
	ada      = "recorded on an RTX 1000 Ada (Khattak and Mikaitis, MATLAB-tensor-core)"
	l40s     = "recorded on an L40S (Khattak and Mikaitis, MATLAB-tensor-core)"
	likeE4M3 = "as the e4m3 row; reported for e5m2"
	likeE5M2 = "as the e5m2 row; reported for e4m3"
	reported = "reported (MMA-Sim, arXiv 2511.10909), not recorded"
)

// Units returns the table of units. The caller owns the slice.
func Units() []Unit {
	var t []Unit
	add := func(u Unit) { t = append(t, u) }
	// sm_89.
	for _, f8 := range []Operand{E4M3, E5M2} {
		ev32, ev16 := l40s, ada
		if f8 == E4M3 {
			ev32 = likeE5M2
		} else {
			ev16 = likeE4M3
		}
		add(Unit{SM89, "mma.m16n8k32.f32." + f8.String(), "QMMA", f8, FP32, 32, Consecutive(32, 16), 13, FP22Zero, false, ev32})
		add(Unit{SM89, "mma.m16n8k32.f16." + f8.String(), "QMMA", f8, FP16, 32, Consecutive(32, 16), 13, FP16Nearest, false, ev16})
	}
	add(Unit{SM89, "mma.m16n8k16.f32.f16", "HMMA", FP16, FP32, 16, Consecutive(16, 8), 24, FP32Zero, false, reported})
	add(Unit{SM89, "mma.m16n8k16.f16.f16", "HMMA", FP16, FP16, 16, Consecutive(16, 8), 24, FP16Nearest, false, reported})
	// sm_90.
	for _, f8 := range []Operand{E4M3, E5M2} {
		add(Unit{SM90, "wgmma.m64nNk32.f32." + f8.String(), "QGMMA", f8, FP32, 32, Consecutive(32, 32), 13, FP22Zero, false, h200})
		add(Unit{SM90, "wgmma.m64nNk32.f16." + f8.String(), "QGMMA", f8, FP16, 32, Consecutive(32, 32), 13, FP16Nearest, false, h200})
		add(Unit{SM90, "mma.m16n8k32.f32." + f8.String(), "2 HMMA.16816.F32 + FADD", f8, FP32, 32, unpacked(32), 25, FP32Zero, true, h200})
		add(Unit{SM90, "mma.m16n8k32.f16." + f8.String(), "2 HMMA.16816.F16 + HADD2", f8, FP16, 32, unpacked(32), 25, FP16Nearest, true, h200})
	}
	add(Unit{SM90, "wgmma.m64nNk16.f32.f16", "HGMMA", FP16, FP32, 16, Consecutive(16, 16), 25, FP32Zero, false, h200})
	add(Unit{SM90, "wgmma.m64nNk16.f16.f16", "HGMMA", FP16, FP16, 16, Consecutive(16, 16), 25, FP16Nearest, false, h200})
	add(Unit{SM90, "mma.m16n8k16.f32.bf16", "HMMA", BF16, FP32, 16, Consecutive(16, 16), 25, FP32Zero, false, h200})
	add(Unit{SM90, "mma.m16n8k16.f32.f16", "HMMA", FP16, FP32, 16, Consecutive(16, 16), 25, FP32Zero, false, h200})
	add(Unit{SM90, "mma.m16n8k16.f16.f16", "HMMA", FP16, FP16, 16, Consecutive(16, 16), 25, FP16Nearest, false, h200})
	// Integer units are exact everywhere.
	for _, arch := range []string{SM89, SM90} {
		ev := h200
		if arch == SM89 {
			ev = "exact integer arithmetic (PTX ISA); recorded on an H200 only"
		}
		add(Unit{arch, "mma.m16n8k32.s32.s8", "IMMA", S8, S32, 32, Consecutive(32, 32), Exact, Int32, false, ev})
		add(Unit{arch, "mma.m16n8k64.s32.s4", "IMMA", S4, S32, 64, Consecutive(64, 64), Exact, Int32, false, ev})
	}
	add(Unit{SM90, "wgmma.m64nNk32.s32.s8", "IGMMA", S8, S32, 32, Consecutive(32, 32), Exact, Int32, false, h200})
	// ideal: the same instructions with the exact sum of all K products and the
	// addend, rounded once to nearest.
	const def = "definition: exact sum, rounded once"
	for _, u := range slices.Clone(t) {
		if slices.ContainsFunc(t, func(v Unit) bool { return v.Arch == Ideal && v.Instruction == u.Instruction }) {
			continue
		}
		out := map[Operand]Output{FP32: FP32Nearest, FP16: FP16Nearest, S32: Int32}[u.C]
		add(Unit{Ideal, u.Instruction, "none", u.A, u.C, u.K, Consecutive(u.K, u.K), Exact, out, false, def})
	}
	return t
}

var nShape = regexp.MustCompile(`^wgmma\.m64n\d+k`)

// Canonical shortens a PTX instruction name to the form of the table: the
// .sync, .aligned, .row and .col qualifiers go, of the operand types only result
// and a stay, and the n of a wgmma shape becomes N.
// "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32" and
// "mma.m16n8k32.f32.e4m3" are the same unit.
func Canonical(instruction string) string {
	parts := slices.DeleteFunc(strings.Split(instruction, "."), func(p string) bool {
		switch p {
		case "sync", "aligned", "row", "col", "mma_async":
			return true
		}
		return false
	})
	if len(parts) > 4 {
		parts = parts[:4]
	}
	return nShape.ReplaceAllString(strings.Join(parts, "."), "wgmma.m64nNk")
}

// units is the table, once built. Nothing changes it.
var units = sync.OnceValue(Units)

// Lookup finds the unit that arch uses for a PTX instruction, given in any form
// that Canonical accepts. The caller owns the unit, but for the elements of Steps.
func Lookup(arch, instruction string) (*Unit, error) {
	want := Canonical(instruction)
	for _, u := range units() {
		if u.Arch == arch && u.Instruction == want {
			return &u, nil
		}
	}
	if !slices.Contains(Archs(), arch) {
		return nil, fmt.Errorf("unknown architecture %q (have %s)", arch, strings.Join(Archs(), ", "))
	}
	return nil, fmt.Errorf("%s has no model of instruction %q", arch, instruction)
}
