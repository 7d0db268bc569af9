package tensorcore

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/emulate/format"
)

// code is the pattern of x in format f, which must have it.
func code(t testing.TB, f Operand, x float64) uint32 {
	t.Helper()
	v := float32(x)
	b := math.Float32bits(v)
	switch f {
	case E4M3:
		b = uint32(format.E4M3FromFloat32(v))
	case E5M2:
		b = uint32(format.E5M2FromFloat32(v))
	case FP16:
		b = uint32(format.FP16FromFloat32(v))
	case BF16:
		b = uint32(format.BF16FromFloat32(v))
	}
	if e := makeEntry(&layouts[f], b); float64(e.val) != x {
		t.Fatalf("%s has no %g", f, x)
	}
	return b
}

// sum is a unit's result for an addend and some products, of which each is a power of two
// times a number of one digit, at the given k; all others are zero.
func (u *Unit) sum(t *testing.T, c float64, products map[int]float64) float64 {
	t.Helper()
	a, b := make([]uint32, u.K), make([]uint32, u.K)
	for k, p := range products {
		m, e := math.Frexp(p)
		m, e = 2*m, e-1
		a[k], b[k] = code(t, u.A, math.Ldexp(m, e/2)), code(t, u.A, math.Ldexp(1, e-e/2))
	}
	acc := u.encode(float32(c))
	if float64(u.decodeC(acc)) != c {
		t.Fatalf("%s has no addend %g", u.C, c)
	}
	return float64(u.decodeC(u.Dot(acc, a, b)))
}

// behaviour says what a unit's results show of it: the fraction bits that it keeps, the
// k of each step, the rounding of a step, and whether the addend comes last. It looks at
// nothing of the row but the formats and the depth.
func behaviour(t *testing.T, u *Unit) string {
	t.Helper()
	const big = 1 << 16 // a product; 2^8 is in every format
	// An addend too small to be seen beside a product is left when two of those cancel.
	separate := u.sum(t, 0x1p-14, map[int]float64{0: big, 1: -big}) != 0
	// Four k of one step, of every unit.
	at := []int{0, 1, 2, 3}
	if separate && u.K == 32 {
		at = []int{0, 1, 4, 5}
	}
	left := func(x float64) bool { return u.sum(t, 0, map[int]float64{at[0]: big, at[1]: -big, at[2]: x}) != 0 }
	kept := 0
	for left(math.Ldexp(1, 16-kept-1)) && kept < 30 {
		kept++
	}
	var s []string
	if kept == 30 {
		s = append(s, "exact")
	} else {
		if left(-math.Ldexp(1, 16-kept-1)) {
			s = append(s, "rounds down")
		}
		s = append(s, fmt.Sprintf("F %d", kept), order(t, u))
	}
	switch {
	case u.C == FP16:
		s = append(s, map[float64]string{0x1p-4: "FP16 nearest", 0x1p-5: "FP16 zero"}[u.sum(t, 0, map[int]float64{at[0]: 16, at[1]: 16, at[2]: 0x1.8p-5})-32])
	case u.sum(t, 0, map[int]float64{at[0]: big, at[1]: big, at[2]: 24}) == 2*big+24:
		s = append(s, map[float64]string{0x1p-5: "FP32 nearest", 0x1p-6: "FP32 zero"}[u.sum(t, 0, map[int]float64{at[0]: big, at[1]: big, at[2]: big, at[3]: 0x1.8p-6})-3*big])
	default:
		s = append(s, map[float64]string{32: "FP22 nearest", 16: "FP22 zero"}[u.sum(t, 0, map[int]float64{at[0]: big, at[1]: big, at[2]: 24})-2*big])
	}
	if separate && kept < 30 {
		s = append(s, "then the addend")
		// To nearest: 1 and a half units of the last place become 2.
		ulp := 0x1p-23
		if u.C == FP16 {
			ulp = 0x1p-10
		}
		if got := u.sum(t, 1.5*ulp, map[int]float64{0: 1}); got != 1+2*ulp {
			s = append(s, "rounded to ", fmt.Sprint(got))
		}
	}
	return strings.Join(s, ", ")
}

// order finds the steps: what is too small beside the products at j and j+1, which
// cancel, is left if it comes in a later step.
func order(t *testing.T, u *Unit) string {
	t.Helper()
	byRank := map[int][]int{}
	for i := range u.K {
		rank := 0
		for j := 0; j < u.K; j += 2 {
			if i|1 != j|1 && u.sum(t, 0, map[int]float64{j: 1 << 16, j + 1: -1 << 16, i: 0x1p-14}) != 0 {
				rank++
			}
		}
		byRank[rank] = append(byRank[rank], i)
	}
	var steps [][]int
	for rank := range u.K {
		if ks := byRank[rank]; ks != nil {
			steps = append(steps, ks)
		}
	}
	if n := len(steps[0]); u.K%n == 0 && slices.EqualFunc(steps, Consecutive(u.K, n), slices.Equal) {
		return fmt.Sprintf("steps of %d", n)
	}
	return fmt.Sprint("steps ", steps)
}

// TestTable states the table once more, by family, and holds the results of each unit to
// it.
func TestTable(t *testing.T) {
	const pairs = "steps [[0 1 4 5 8 9 12 13 16 17 20 21 24 25 28 29] [2 3 6 7 10 11 14 15 18 19 22 23 26 27 30 31]]"
	const ampere, later, blackwell = "sm_80 sm_86 sm_89", "sm_90 sm_100", "sm_120 sm_121"
	const fp16, bf16, fp16Half = "mma.m16n8k16.f32.f16", "mma.m16n8k16.f32.bf16", "mma.m16n8k16.f16.f16"
	const short = "mma.m16n8k8.f32.f16 mma.m16n8k8.f32.bf16"
	const wide, wideHalf = "wmma.m16n16k16.f32.f16 wmma.m16n16k16.f32.bf16", "wmma.m16n16k16.f16.f16"
	const tf32, wideTF32 = "mma.m16n8k8.f32.tf32", "wmma.m16n16k8.f32.tf32"
	const fp8, fp8Half = "mma.m16n8k32.f32.e4m3 mma.m16n8k32.f32.e5m2", "mma.m16n8k32.f16.e4m3 mma.m16n8k32.f16.e5m2"
	want := map[string]string{}
	for _, family := range []struct{ archs, instructions, behaviour string }{
		{"sm_70", "wmma.m16n16k16.f32.f16", "F 23, steps of 4, FP32 zero"},
		{"sm_70", wideHalf, "F 23, steps of 4, FP16 nearest"},
		{ampere, short + " " + fp16 + " " + bf16 + " " + wide, "F 24, steps of 8, FP32 zero"},
		{ampere, fp16Half + " " + wideHalf, "F 24, steps of 8, FP16 nearest"},
		{ampere, tf32 + " " + wideTF32, "F 24, steps of 4, FP32 zero"},
		{later, fp16 + " " + bf16 + " " + wide, "F 25, steps of 16, FP32 zero"},
		{later, fp16Half + " " + wideHalf, "F 25, steps of 16, FP16 nearest"},
		{later + " " + blackwell, short, "F 25, steps of 8, FP32 zero"},
		{later, tf32 + " " + wideTF32, "F 25, steps of 8, FP32 zero"},
		{blackwell, fp16 + " " + bf16, "F 25, steps of 16, FP32 zero"},
		{blackwell, fp16Half, "F 25, steps of 16, FP16 nearest"},
		{blackwell, tf32, "F 25, steps of 8, FP32 zero"},
		{"sm_89", fp8, "F 13, steps of 16, FP22 zero"},
		{"sm_89", fp8Half, "F 13, steps of 16, FP16 nearest"},
		{later, fp8, "F 25, " + pairs + ", FP32 zero, then the addend"},
		{later, fp8Half, "F 25, " + pairs + ", FP16 nearest, then the addend"},
		{blackwell, fp8, "F 25, steps of 32, FP32 zero"},
		{blackwell, fp8Half, "F 25, steps of 32, FP16 nearest"},
		{"sm_90", "wgmma.m64nNk16.f32.f16 wgmma.m64nNk16.f32.bf16", "F 25, steps of 16, FP32 zero"},
		{"sm_90", "wgmma.m64nNk16.f16.f16", "F 25, steps of 16, FP16 nearest"},
		{"sm_90", "wgmma.m64nNk8.f32.tf32", "F 25, steps of 8, FP32 zero"},
		{"sm_90", "wgmma.m64nNk32.f32.e4m3 wgmma.m64nNk32.f32.e5m2", "F 13, steps of 32, FP22 zero"},
		{"sm_90", "wgmma.m64nNk32.f16.e4m3 wgmma.m64nNk32.f16.e5m2", "F 13, steps of 32, FP16 nearest"},
		{ampere + " " + later + " " + blackwell, "mma.m16n8k32.s32.s8 mma.m16n8k32.s32.u8 mma.m16n8k64.s32.s4", "integers"},
		{"sm_90", "wgmma.m64nNk32.s32.s8", "integers"},
	} {
		for _, arch := range strings.Fields(family.archs) {
			for _, i := range strings.Fields(family.instructions) {
				want[arch+" "+i] = family.behaviour
				want["ideal "+i] = map[bool]string{true: "exact, FP16 nearest", false: "exact, FP32 nearest"}[strings.Contains(i, ".f16.")]
				if family.behaviour == "integers" {
					want["ideal "+i] = family.behaviour
				}
			}
		}
	}
	for _, u := range Units() {
		name := u.Arch + " " + u.Instruction
		got := "integers"
		if u.C == S32 {
			wraps(t, &u)
		} else {
			got = behaviour(t, &u)
		}
		if got != want[name] {
			t.Errorf("%s: %s, want %s", name, got, want[name])
		}
		delete(want, name)
		if slices.ContainsFunc(u.Steps, func(ks []int) bool { return len(ks) == 0 }) {
			t.Errorf("%s: a step of nothing", name)
		}
		reported := strings.Contains(blackwell, u.Arch) || u.Arch == "sm_100" && strings.Contains(short, u.Instruction)
		if reported = reported && u.C != S32; u.Reported() != reported {
			t.Errorf("%s: reported %v", name, u.Reported())
		}
	}
	for name := range want {
		t.Errorf("no %s", name)
	}
}

// wraps holds an integer unit to the sum of all its products, without rounding and modulo
// 2^32.
func wraps(t *testing.T, u *Unit) {
	t.Helper()
	draw := func(r *rand.Rand, o Operand) int32 {
		if o == U8 {
			return r.Int32N(256)
		}
		top := map[Operand]int32{S8: 127, S4: 7}[o]
		return r.Int32N(2*top+2) - top - 1
	}
	r := rand.New(rand.NewPCG(7, 8))
	for _, c := range []int32{0, math.MaxInt32, math.MinInt32, 1<<24 + 1} {
		want := int64(c)
		a, b := make([]uint32, u.K), make([]uint32, u.K)
		for i := range a {
			x, y := draw(r, u.A), draw(r, u.B())
			a[i], b[i] = uint32(x), uint32(y)
			want += int64(x) * int64(y)
		}
		if got := int32(u.Dot(uint32(c), a, b)); got != int32(want) {
			t.Errorf("%s %s: %d, want %d", u.Arch, u.Instruction, got, int32(want))
		}
	}
}
