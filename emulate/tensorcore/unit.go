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
// describe a unit; [Unit.Evidence] says what each row rests on, and [Unit.Reported]
// that it is somebody's report alone.
package tensorcore

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Operand is the number format of a matrix operand or accumulator.
type Operand uint8

// Operand formats. TF32 is given as the bit pattern of an FP32 number, whose 13 low
// fraction bits the unit does not look at.
const (
	E4M3 Operand = iota
	E5M2
	FP16
	BF16
	TF32
	FP32
	S8
	S4
	S32
	U8
)

var operandNames = [...]string{"e4m3", "e5m2", "f16", "bf16", "tf32", "f32", "s8", "s4", "s32", "u8"}

// String returns the PTX name of the format.
func (o Operand) String() string { return operandNames[o] }

// Output is the rule that turns a step's exact sum into its result.
type Output uint8

// Output rules.
const (
	// FP32Zero rounds toward zero to FP32.
	FP32Zero Output = iota
	// FP22Zero rounds toward zero to FP22 (E8M13): format.TruncateFP22 of FP32Zero.
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
	// Arch is the architecture that runs it, one of Archs.
	Arch string
	// Instruction is the PTX instruction, without the .sync.aligned.row.col
	// qualifiers and for wgmma with N for the n of its shape.
	Instruction string
	// Executed is the machine instruction it becomes.
	Executed string
	// A is the format of both operands, but for U8, which multiplies S8 (see B); C is that of
	// accumulator and result.
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

// Reported says that nothing recorded here supports the row, only what others
// report of such a GPU.
func (u *Unit) Reported() bool { return strings.HasPrefix(u.Evidence, "reported") }

// Same says that v gives the results of u: everything but names and evidence is equal.
// Whoever computes units in a way of his own matches them by all that it compares.
func (u *Unit) Same(v *Unit) bool {
	return u.A == v.A && u.C == v.C && u.K == v.K && u.FractionBits == v.FractionBits && u.Out == v.Out &&
		u.SeparateAdd == v.SeparateAdd && slices.EqualFunc(u.Steps, v.Steps, slices.Equal)
}

// Validate reports a unit that no Dot is defined for, in one line that names the field.
func (u *Unit) Validate() error {
	fail := func(field, f string, args ...any) error {
		return fmt.Errorf("unit %s: %s: %s", u.Instruction, field, fmt.Sprintf(f, args...))
	}
	switch integer := u.Out == Int32; {
	case u.Out > FP22Nearest:
		return fail("output", "there is no rule %d", u.Out)
	case integer && (!u.Integer() || u.C != S32):
		return fail("output", "%s is for s8, s4 or u8 operands and s32 sums", u.Out)
	case !integer && u.A > FP32:
		return fail("operands", "%s with the output %s", operandName(u.A), u.Out)
	case !integer && (u.Out == FP16Nearest) != (u.C == FP16), !integer && u.C != FP16 && u.C != FP32:
		return fail("accumulator", "%s with the output %s", operandName(u.C), u.Out)
	case u.K < 1 || u.K > MaxK:
		return fail("k", "%d is not from 1 to %d", u.K, MaxK)
	case u.FractionBits != Exact && (u.FractionBits < 1 || u.FractionBits > MaxFractionBits):
		return fail("fraction bits", "%d is not from 1 to %d, nor exact", u.FractionBits, MaxFractionBits)
	case integer && (u.FractionBits != Exact || u.SeparateAdd):
		return fail("output", "%s truncates nothing and adds nothing apart", u.Out)
	}
	seen := make([]int, u.K)
	for _, step := range u.Steps {
		for _, k := range step {
			if k < 0 || k >= u.K {
				return fail("steps", "k = %d of %d", k, u.K)
			}
			seen[k]++
		}
	}
	for k, n := range seen {
		if n != 1 {
			return fail("steps", "k = %d takes part %d times", k, n)
		}
	}
	return nil
}

func operandName(o Operand) string {
	if int(o) < len(operandNames) {
		return o.String()
	}
	return fmt.Sprintf("operand %d", o)
}

// Arch names.
const (
	SM70  = "sm_70"
	SM80  = "sm_80"
	SM86  = "sm_86"
	SM89  = "sm_89"
	SM90  = "sm_90"
	SM100 = "sm_100"
	SM120 = "sm_120"
	SM121 = "sm_121"
	Ideal = "ideal"
)

// Archs returns the architectures of the table, in order.
func Archs() []string { return []string{SM70, SM80, SM86, SM89, SM90, SM100, SM120, SM121, Ideal} }

// MaxK is the largest depth that a unit may have.
const MaxK = 1024

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

// row is a line of the table: what the instruction's name does not say.
type row struct {
	arch, instruction, executed string
	// step is how many products each fused dot-add has, in order of k, or widened.
	step     int
	fraction int
	out      Output
	evidence string
}

// widened, as a row's step, stands for the order of the function unpacked, with the
// addend added last.
const widened = 0

// What rows rest on. Khattak and Mikaitis (MATLAB-tensor-core) recorded wmma and FP8
// mma.sync on eight GPUs, where wmma's results had as many products as one step has on
// V100 to Ada, and TF32's had 4: that a longer K chains steps there is MMA-Sim's report
// (arXiv 2511.10909), and so is TF32's step of 8 on B200. An mma.sync of FP16, BF16 or
// TF32 is the machine instruction of which a wmma is two.
const (
	h200     = "recorded on an H200"
	v100     = "recorded on a V100, one step (Khattak and Mikaitis); chain of steps reported (MMA-Sim)"
	a100     = "recorded on an A100, one step (Khattak and Mikaitis); chain of steps reported (MMA-Sim)"
	a2       = "recorded on an A2, one step (Khattak and Mikaitis); chain of steps reported (MMA-Sim)"
	ada      = "recorded on RTX 1000 Ada and L40S, one step (Khattak and Mikaitis); chain of steps reported (MMA-Sim)"
	adaFP8   = "recorded on RTX 1000 Ada and L40S (Khattak and Mikaitis)"
	adaHalf  = "recorded on RTX 1000 Ada (Khattak and Mikaitis)"
	h100     = "recorded on H100 and H200 (Khattak and Mikaitis)"
	h100TF32 = "recorded on H100 and H200, 4 products (Khattak and Mikaitis); all 8 as mma.sync on an H200"
	b200     = "recorded on a B200 (Khattak and Mikaitis)"
	h100k8   = "recorded on an H100"
	b200k8   = "reported: as m16n8k16 with half the products, not recorded"
	b200TF32 = "recorded on a B200, 4 products (Khattak and Mikaitis); step of 8 reported (MMA-Sim)"
	integers = "exact integer arithmetic (PTX ISA); recorded on an H200 only"
	unsigned = "exact integer arithmetic (PTX ISA); not recorded by itself"
	reported = "reported (MMA-Sim, arXiv 2511.10909), not recorded"
	sm120    = "reported of sm_120 (MMA-Sim, arXiv 2511.10909) and taken over, not recorded"
)

// table is what is known of the units of each architecture. Formats and depth stand
// in an instruction's name.
var table = []row{
	{SM70, "wmma.m16n16k16.f32.f16", "HMMA.884", 4, 23, FP32Zero, v100},
	{SM70, "wmma.m16n16k16.f16.f16", "HMMA.884", 4, 23, FP16Nearest, v100},

	{SM80, "mma.m16n8k16.f32.f16", "HMMA", 8, 24, FP32Zero, a100},
	{SM80, "mma.m16n8k16.f16.f16", "HMMA", 8, 24, FP16Nearest, a100},
	{SM80, "mma.m16n8k16.f32.bf16", "HMMA", 8, 24, FP32Zero, a100},
	{SM80, "mma.m16n8k8.f32.f16", "HMMA", 8, 24, FP32Zero, a100},
	{SM80, "mma.m16n8k8.f32.bf16", "HMMA", 8, 24, FP32Zero, a100},
	{SM80, "mma.m16n8k8.f32.tf32", "HMMA", 4, 24, FP32Zero, a100},
	{SM80, "wmma.m16n16k16.f32.f16", "2 HMMA", 8, 24, FP32Zero, a100},
	{SM80, "wmma.m16n16k16.f16.f16", "2 HMMA", 8, 24, FP16Nearest, a100},
	{SM80, "wmma.m16n16k16.f32.bf16", "2 HMMA", 8, 24, FP32Zero, a100},
	{SM80, "wmma.m16n16k8.f32.tf32", "2 HMMA", 4, 24, FP32Zero, a100},
	{SM80, "mma.m16n8k32.s32.s8", "IMMA", 32, Exact, Int32, integers},
	{SM80, "mma.m16n8k32.s32.u8", "IMMA", 32, Exact, Int32, unsigned},
	{SM80, "mma.m16n8k64.s32.s4", "IMMA", 64, Exact, Int32, integers},

	{SM86, "mma.m16n8k16.f32.f16", "HMMA", 8, 24, FP32Zero, a2},
	{SM86, "mma.m16n8k16.f16.f16", "HMMA", 8, 24, FP16Nearest, a2},
	{SM86, "mma.m16n8k16.f32.bf16", "HMMA", 8, 24, FP32Zero, a2},
	{SM86, "mma.m16n8k8.f32.f16", "HMMA", 8, 24, FP32Zero, a2},
	{SM86, "mma.m16n8k8.f32.bf16", "HMMA", 8, 24, FP32Zero, a2},
	{SM86, "mma.m16n8k8.f32.tf32", "HMMA", 4, 24, FP32Zero, a2},
	{SM86, "wmma.m16n16k16.f32.f16", "2 HMMA", 8, 24, FP32Zero, a2},
	{SM86, "wmma.m16n16k16.f16.f16", "2 HMMA", 8, 24, FP16Nearest, a2},
	{SM86, "wmma.m16n16k16.f32.bf16", "2 HMMA", 8, 24, FP32Zero, a2},
	{SM86, "wmma.m16n16k8.f32.tf32", "2 HMMA", 4, 24, FP32Zero, a2},
	{SM86, "mma.m16n8k32.s32.s8", "IMMA", 32, Exact, Int32, integers},
	{SM86, "mma.m16n8k32.s32.u8", "IMMA", 32, Exact, Int32, unsigned},
	{SM86, "mma.m16n8k64.s32.s4", "IMMA", 64, Exact, Int32, integers},

	{SM89, "mma.m16n8k16.f32.f16", "HMMA", 8, 24, FP32Zero, ada},
	{SM89, "mma.m16n8k16.f16.f16", "HMMA", 8, 24, FP16Nearest, ada},
	{SM89, "mma.m16n8k16.f32.bf16", "HMMA", 8, 24, FP32Zero, ada},
	{SM89, "mma.m16n8k8.f32.f16", "HMMA", 8, 24, FP32Zero, ada},
	{SM89, "mma.m16n8k8.f32.bf16", "HMMA", 8, 24, FP32Zero, ada},
	{SM89, "mma.m16n8k8.f32.tf32", "HMMA", 4, 24, FP32Zero, ada},
	{SM89, "wmma.m16n16k16.f32.f16", "2 HMMA", 8, 24, FP32Zero, ada},
	{SM89, "wmma.m16n16k16.f16.f16", "2 HMMA", 8, 24, FP16Nearest, ada},
	{SM89, "wmma.m16n16k16.f32.bf16", "2 HMMA", 8, 24, FP32Zero, ada},
	{SM89, "wmma.m16n16k8.f32.tf32", "2 HMMA", 4, 24, FP32Zero, ada},
	{SM89, "mma.m16n8k32.f32.e4m3", "QMMA", 16, 13, FP22Zero, adaFP8},
	{SM89, "mma.m16n8k32.f16.e4m3", "QMMA", 16, 13, FP16Nearest, adaHalf},
	{SM89, "mma.m16n8k32.f32.e5m2", "QMMA", 16, 13, FP22Zero, adaFP8},
	{SM89, "mma.m16n8k32.f16.e5m2", "QMMA", 16, 13, FP16Nearest, adaHalf},
	{SM89, "mma.m16n8k32.s32.s8", "IMMA", 32, Exact, Int32, integers},
	{SM89, "mma.m16n8k32.s32.u8", "IMMA", 32, Exact, Int32, unsigned},
	{SM89, "mma.m16n8k64.s32.s4", "IMMA", 64, Exact, Int32, integers},

	{SM90, "mma.m16n8k16.f32.f16", "HMMA", 16, 25, FP32Zero, h200},
	{SM90, "mma.m16n8k16.f16.f16", "HMMA", 16, 25, FP16Nearest, h200},
	{SM90, "mma.m16n8k16.f32.bf16", "HMMA", 16, 25, FP32Zero, h200},
	{SM90, "mma.m16n8k8.f32.f16", "HMMA", 8, 25, FP32Zero, h100k8},
	{SM90, "mma.m16n8k8.f32.bf16", "HMMA", 8, 25, FP32Zero, h100k8},
	{SM90, "mma.m16n8k8.f32.tf32", "HMMA", 8, 25, FP32Zero, h200},
	{SM90, "wmma.m16n16k16.f32.f16", "2 HMMA", 16, 25, FP32Zero, h100},
	{SM90, "wmma.m16n16k16.f16.f16", "2 HMMA", 16, 25, FP16Nearest, h100},
	{SM90, "wmma.m16n16k16.f32.bf16", "2 HMMA", 16, 25, FP32Zero, h100},
	{SM90, "wmma.m16n16k8.f32.tf32", "2 HMMA", 8, 25, FP32Zero, h100TF32},
	{SM90, "mma.m16n8k32.f32.e4m3", "2 HMMA.16816.F32 + FADD", widened, 25, FP32Zero, h200},
	{SM90, "mma.m16n8k32.f16.e4m3", "2 HMMA.16816.F16 + HADD2", widened, 25, FP16Nearest, h200},
	{SM90, "mma.m16n8k32.f32.e5m2", "2 HMMA.16816.F32 + FADD", widened, 25, FP32Zero, h200},
	{SM90, "mma.m16n8k32.f16.e5m2", "2 HMMA.16816.F16 + HADD2", widened, 25, FP16Nearest, h200},
	{SM90, "mma.m16n8k32.s32.s8", "IMMA", 32, Exact, Int32, h200},
	{SM90, "mma.m16n8k32.s32.u8", "IMMA", 32, Exact, Int32, unsigned},
	{SM90, "mma.m16n8k64.s32.s4", "IMMA", 64, Exact, Int32, h200},
	{SM90, "wgmma.m64nNk16.f32.f16", "HGMMA", 16, 25, FP32Zero, h200},
	{SM90, "wgmma.m64nNk16.f16.f16", "HGMMA", 16, 25, FP16Nearest, h200},
	{SM90, "wgmma.m64nNk16.f32.bf16", "HGMMA", 16, 25, FP32Zero, h200},
	{SM90, "wgmma.m64nNk8.f32.tf32", "HGMMA", 8, 25, FP32Zero, h200},
	{SM90, "wgmma.m64nNk32.f32.e4m3", "QGMMA", 32, 13, FP22Zero, h200},
	{SM90, "wgmma.m64nNk32.f16.e4m3", "QGMMA", 32, 13, FP16Nearest, h200},
	{SM90, "wgmma.m64nNk32.f32.e5m2", "QGMMA", 32, 13, FP22Zero, h200},
	{SM90, "wgmma.m64nNk32.f16.e5m2", "QGMMA", 32, 13, FP16Nearest, h200},
	{SM90, "wgmma.m64nNk32.s32.s8", "IGMMA", 32, Exact, Int32, h200},

	{SM100, "mma.m16n8k16.f32.f16", "HMMA", 16, 25, FP32Zero, b200},
	{SM100, "mma.m16n8k16.f16.f16", "HMMA", 16, 25, FP16Nearest, b200},
	{SM100, "mma.m16n8k16.f32.bf16", "HMMA", 16, 25, FP32Zero, b200},
	{SM100, "mma.m16n8k8.f32.f16", "HMMA", 8, 25, FP32Zero, b200k8},
	{SM100, "mma.m16n8k8.f32.bf16", "HMMA", 8, 25, FP32Zero, b200k8},
	{SM100, "mma.m16n8k8.f32.tf32", "HMMA", 8, 25, FP32Zero, b200TF32},
	{SM100, "wmma.m16n16k16.f32.f16", "2 HMMA", 16, 25, FP32Zero, b200},
	{SM100, "wmma.m16n16k16.f16.f16", "2 HMMA", 16, 25, FP16Nearest, b200},
	{SM100, "wmma.m16n16k16.f32.bf16", "2 HMMA", 16, 25, FP32Zero, b200},
	{SM100, "wmma.m16n16k8.f32.tf32", "2 HMMA", 8, 25, FP32Zero, b200TF32},
	{SM100, "mma.m16n8k32.f32.e4m3", "2 HMMA.16816.F32 + FADD", widened, 25, FP32Zero, b200},
	{SM100, "mma.m16n8k32.f16.e4m3", "2 HMMA.16816.F16 + HADD2", widened, 25, FP16Nearest, b200},
	{SM100, "mma.m16n8k32.f32.e5m2", "2 HMMA.16816.F32 + FADD", widened, 25, FP32Zero, b200},
	{SM100, "mma.m16n8k32.f16.e5m2", "2 HMMA.16816.F16 + HADD2", widened, 25, FP16Nearest, b200},
	{SM100, "mma.m16n8k32.s32.s8", "IMMA", 32, Exact, Int32, integers},
	{SM100, "mma.m16n8k32.s32.u8", "IMMA", 32, Exact, Int32, unsigned},
	{SM100, "mma.m16n8k64.s32.s4", "IMMA", 64, Exact, Int32, integers},

	{SM120, "mma.m16n8k16.f32.f16", "HMMA", 16, 25, FP32Zero, reported},
	{SM120, "mma.m16n8k16.f16.f16", "HMMA", 16, 25, FP16Nearest, reported},
	{SM120, "mma.m16n8k16.f32.bf16", "HMMA", 16, 25, FP32Zero, reported},
	{SM120, "mma.m16n8k8.f32.f16", "HMMA", 8, 25, FP32Zero, reported},
	{SM120, "mma.m16n8k8.f32.bf16", "HMMA", 8, 25, FP32Zero, reported},
	{SM120, "mma.m16n8k8.f32.tf32", "HMMA", 8, 25, FP32Zero, reported},
	{SM120, "mma.m16n8k32.f32.e4m3", "QMMA", 32, 25, FP32Zero, reported},
	{SM120, "mma.m16n8k32.f16.e4m3", "QMMA", 32, 25, FP16Nearest, reported},
	{SM120, "mma.m16n8k32.f32.e5m2", "QMMA", 32, 25, FP32Zero, reported},
	{SM120, "mma.m16n8k32.f16.e5m2", "QMMA", 32, 25, FP16Nearest, reported},
	{SM120, "mma.m16n8k32.s32.s8", "IMMA", 32, Exact, Int32, integers},
	{SM120, "mma.m16n8k32.s32.u8", "IMMA", 32, Exact, Int32, unsigned},
	{SM120, "mma.m16n8k64.s32.s4", "IMMA", 64, Exact, Int32, integers},

	{SM121, "mma.m16n8k16.f32.f16", "HMMA", 16, 25, FP32Zero, sm120},
	{SM121, "mma.m16n8k16.f16.f16", "HMMA", 16, 25, FP16Nearest, sm120},
	{SM121, "mma.m16n8k16.f32.bf16", "HMMA", 16, 25, FP32Zero, sm120},
	{SM121, "mma.m16n8k8.f32.f16", "HMMA", 8, 25, FP32Zero, sm120},
	{SM121, "mma.m16n8k8.f32.bf16", "HMMA", 8, 25, FP32Zero, sm120},
	{SM121, "mma.m16n8k8.f32.tf32", "HMMA", 8, 25, FP32Zero, sm120},
	{SM121, "mma.m16n8k32.f32.e4m3", "QMMA", 32, 25, FP32Zero, sm120},
	{SM121, "mma.m16n8k32.f16.e4m3", "QMMA", 32, 25, FP16Nearest, sm120},
	{SM121, "mma.m16n8k32.f32.e5m2", "QMMA", 32, 25, FP32Zero, sm120},
	{SM121, "mma.m16n8k32.f16.e5m2", "QMMA", 32, 25, FP16Nearest, sm120},
	{SM121, "mma.m16n8k32.s32.s8", "IMMA", 32, Exact, Int32, integers},
	{SM121, "mma.m16n8k32.s32.u8", "IMMA", 32, Exact, Int32, unsigned},
	{SM121, "mma.m16n8k64.s32.s4", "IMMA", 64, Exact, Int32, integers},
}

// operandsOf reads the depth and the formats of operands and result from the name of
// an instruction of the table, such as mma.m16n8k32.f32.e4m3.
func operandsOf(instruction string) (k int, a, c Operand) {
	parts := strings.Split(instruction, ".")
	_, depth, _ := strings.Cut(parts[1], "k")
	k, err := strconv.Atoi(depth)
	a, c = Operand(slices.Index(operandNames[:], parts[3])), Operand(slices.Index(operandNames[:], parts[2]))
	if err != nil || int(max(a, c)) >= len(operandNames) {
		panic("tensorcore: the table has the instruction " + instruction)
	}
	return k, a, c
}

// Units returns the table of units, and for each instruction the ideal one: the exact
// sum of all products and the addend, rounded once to nearest. The caller owns the
// slice.
func Units() []Unit {
	var t, ideal []Unit
	seen := map[string]bool{}
	for _, r := range table {
		u := Unit{Arch: r.arch, Instruction: r.instruction, Executed: r.executed, FractionBits: r.fraction, Out: r.out, Evidence: r.evidence}
		u.K, u.A, u.C = operandsOf(r.instruction)
		if r.step == widened {
			u.Steps, u.SeparateAdd = unpacked(u.K), true
		} else {
			u.Steps = Consecutive(u.K, r.step)
		}
		t = append(t, u)
		if !seen[u.Instruction] {
			seen[u.Instruction] = true
			u.Arch, u.Executed, u.Evidence = Ideal, "none", "definition: exact sum, rounded once"
			u.Steps, u.SeparateAdd, u.FractionBits = Consecutive(u.K, u.K), false, Exact
			u.Out = map[Operand]Output{FP32: FP32Nearest, FP16: FP16Nearest, S32: Int32}[u.C]
			ideal = append(ideal, u)
		}
	}
	return append(t, ideal...)
}

var nShape = regexp.MustCompile(`^wgmma\.m64n\d+k`)

// Canonical shortens a PTX instruction name to the form of the table: the
// .sync, .aligned, .row and .col qualifiers go, of the operand types only result
// and a stay, and the n of a wgmma shape becomes N.
// "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32" and
// "mma.m16n8k32.f32.e4m3" are the same unit. Of u8 and s8 operands u8 stands, which is the
// first.
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
	if u := inTable(arch, instruction); u != nil {
		return u, nil
	}
	want := Canonical(instruction)
	if u := inTable(arch, want); u != nil {
		return u, nil
	}
	if !slices.Contains(Archs(), arch) {
		return nil, fmt.Errorf("unknown architecture %q (have %s)", arch, strings.Join(Archs(), ", "))
	}
	if f8 := strings.Contains(want, ".e4m3") || strings.Contains(want, ".e5m2"); f8 && slices.Contains([]string{SM70, SM80, SM86}, arch) {
		return nil, fmt.Errorf("%s has no FP8 matrix unit, so no instruction %q; sm_89 was the first with one", arch, instruction)
	}
	return nil, fmt.Errorf("%s has no model of instruction %q", arch, instruction)
}

// inTable returns a copy of the table's unit, nil if it has none of that name.
func inTable(arch, instruction string) *Unit {
	table := units()
	for i := range table {
		if table[i].Instruction == instruction && table[i].Arch == arch {
			u := table[i]
			return &u
		}
	}
	return nil
}

// Integer says that the unit's operands are integers.
func (u *Unit) Integer() bool { return u.A == S8 || u.A == S4 || u.A == U8 }

// B is the format of the second operand: A, or S8 beside U8.
func (u *Unit) B() Operand {
	if u.A == U8 {
		return S8
	}
	return u.A
}
