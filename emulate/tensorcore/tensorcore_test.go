package tensorcore

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/internal/sweep"
)

// randomCode draws a bit pattern of the format: most of the time a moderate
// value, sometimes any pattern at all.
func randomCode(r *rand.Rand, f Operand, wild bool) uint32 {
	l := &layouts[f]
	width := 1 + l.expBits + l.fracBits + l.unused
	if wild && r.IntN(8) == 0 {
		return uint32(r.Uint64() & (1<<width - 1))
	}
	if r.IntN(6) == 0 {
		return 0
	}
	for {
		c := uint32(r.Uint64() & (1<<width - 1))
		if _, class := l.decode(c); class == finite {
			return c
		}
	}
}

// floats lists the formats that operands may have.
var floats = []Operand{E4M3, E5M2, FP16, BF16, TF32, FP32}

// invent draws a unit that no hardware has: any depth, steps of even and uneven sizes in
// and out of order, any number of fraction bits, output rule and operand format.
func invent(r *rand.Rand) Unit {
	u := Unit{
		Arch: "invented", Instruction: "none", A: floats[r.IntN(len(floats))], C: FP32, K: []int{4, 8, 16, 32, 33, 48}[r.IntN(6)],
		FractionBits: 8 + r.IntN(MaxFractionBits-8+1), SeparateAdd: r.IntN(3) == 0,
		Out: []Output{FP32Zero, FP22Zero, FP16Nearest, FP32Nearest, FP22Nearest}[r.IntN(5)],
	}
	switch r.IntN(6) {
	case 0:
		u.FractionBits = Exact
	case 1:
		u.FractionBits = []int{13, 24, 25}[r.IntN(3)] // of real units, with all else changed
	}
	if u.Out == FP16Nearest {
		u.C = FP16
	}
	switch order := r.Perm(u.K); {
	case u.K == 32 && r.IntN(3) == 0:
		u.Steps = unpacked(u.K)
		if r.IntN(2) == 0 {
			u.Steps[0], u.Steps[1] = u.Steps[1], u.Steps[0]
		}
	case u.K%4 == 0 && r.IntN(2) == 0:
		u.Steps = Consecutive(u.K, []int{1, 2, 4, u.K / 2, u.K}[r.IntN(5)])
	default:
		if r.IntN(2) == 0 {
			slices.Sort(order)
		}
		for len(order) > 0 {
			n := 1 + r.IntN(len(order))
			u.Steps = append(u.Steps, order[:n])
			order = order[n:]
		}
	}
	switch r.IntN(40) { // what Validate refuses, but Dot and Tile agree on
	case 0:
		u.Steps = append(u.Steps, u.Steps[0])
	case 1:
		u.Steps = u.Steps[1:]
	case 2:
		u.FractionBits = []int{0, MaxFractionBits + 1}[r.IntN(2)]
	case 3:
		u.Out = FP16Nearest
	case 4:
		u.Steps = append(u.Steps, nil)
	}
	return u
}

func (u *Unit) describe() string {
	return fmt.Sprintf("%s, C %s, F %d, %s, separate %v, steps %v", u.A, u.C, u.FractionBits, u.Out, u.SeparateAdd, u.Steps)
}

// draw returns n operands of format f: of few or many magnitudes, with zeros, and wild
// ones with whatever bits.
func draw(r *rand.Rand, f Operand, n int, wild bool) []uint32 {
	x := make([]uint32, n)
	if r.IntN(8) == 0 {
		// The longest significands at one exponent: the largest sums that it gives.
		l := &layouts[f]
		e := 1<<(l.expBits-1) - 2 + r.Uint32N(4)
		for i := range x {
			x[i] = (e<<l.fracBits | l.fracMask) << l.unused
		}
		return x
	}
	narrow := r.IntN(2) == 0
	for i := range x {
		x[i] = randomCode(r, f, wild)
		if !narrow || x[i] == 0 || wild {
			continue
		}
		// An exponent near that of one, so that sums cancel and tie.
		l := &layouts[f]
		at := l.unused + l.fracBits
		e := uint32(1<<(l.expBits-1)-3) + r.Uint32N(5)
		x[i] = x[i]&^(1<<(at+l.expBits)-1<<at) | e<<at
		if r.IntN(2) == 0 { // short, so that there are ties
			x[i] &^= 1<<(at-1) - 1
		}
	}
	return x
}

// addends draws n values of the accumulator.
func addends(r *rand.Rand, u *Unit, n int, wild bool) []float32 {
	acc := make([]float32, n)
	scale := math.Exp2(float64(r.IntN(80) - 40))
	for i := range acc {
		switch r.IntN(4) {
		case 0:
		case 1:
			acc[i] = u.decodeC(randomCode(r, u.C, wild))
		default:
			acc[i] = u.decodeC(u.encode(float32(r.NormFloat64() * scale)))
		}
	}
	return acc
}

// holdTile holds Tile, for operands of fa and fb, to a chain of Dot.
func holdTile(t *testing.T, r *rand.Rand, u *Unit, fa, fb Operand) {
	t.Helper()
	m, n := 3, 5
	if r.IntN(8) == 0 {
		n = 30 + r.IntN(40) // beyond the columns that a vector kernel takes at once
	}
	k := u.K * (1 + r.IntN(3))
	wild := r.IntN(4) == 0
	a, b := draw(r, fa, m*k, wild), draw(r, fb, n*k, wild)
	var pa, pb Panel
	for _, x := range []struct {
		p    *Panel
		f    Operand
		bits []uint32
		rows int
	}{{&pa, fa, a, m}, {&pb, fb, b, n}} {
		switch x.f {
		case FP32:
			values := make([]float32, len(x.bits))
			for i, b := range x.bits {
				values[i] = math.Float32frombits(b)
			}
			x.p.LoadValues(values, x.rows, k, k)
		case TF32:
			x.p.LoadBits(x.f, x.bits, x.rows, k, k)
		default:
			codes := make([]uint16, len(x.bits))
			for i, b := range x.bits {
				codes[i] = uint16(b)
			}
			x.p.Load(x.f, codes, x.rows, k, k)
		}
	}
	acc := addends(r, u, m*n, wild)
	want := make([]uint32, m*n)
	for i := range m {
		for j := range n {
			c := u.encode(acc[i*n+j])
			for lo := 0; lo < k; lo += u.K {
				x, y := a[i*k+lo:][:u.K], b[j*k+lo:][:u.K]
				if fa == u.A && fb == u.A {
					c = u.Dot(c, x, y)
				} else {
					c = u.DotOf(c, fa, x, fb, y)
				}
			}
			want[i*n+j] = c
		}
	}
	for _, level := range Levels() {
		got := slices.Clone(acc)
		if fa == u.A && fb == u.A {
			u.TileAt(level, got, &pa, &pb)
		} else {
			u.TileValuesAt(level, got, &pa, &pb)
		}
		for e, g := range got {
			if w := u.decodeC(want[e]); u.encode(g) != want[e] && !(g != g && w != w) {
				t.Fatalf("%s, %s: k=%d of %s and %s from %g: fast path %08x (%g), definition %08x (%g)",
					u.describe(), level, k, fa, fb, acc[e], u.encode(g), g, want[e], w)
			}
		}
	}
}

// TestTileEqualsDot holds the fast path to the definition, unit by unit.
func TestTileEqualsDot(t *testing.T) {
	for _, u := range Units() {
		if u.Out == Int32 {
			continue
		}
		t.Run(u.Arch+"/"+u.Instruction, func(t *testing.T) {
			r := rand.New(rand.NewPCG(1, uint64(len(u.Instruction))))
			for range 60 {
				holdTile(t, r, &u, u.A, u.A)
			}
			for range 20 {
				holdTile(t, r, &u, floats[r.IntN(len(floats))], floats[r.IntN(len(floats))])
			}
		})
	}
}

// TestTileEqualsDotInvented does so for units that no hardware has.
func TestTileEqualsDotInvented(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	n := 1000
	switch {
	case sweep.Full():
		n = 4000
	case testing.Short():
		n = 400
	}
	for range n {
		u := invent(r)
		for range 4 {
			holdTile(t, r, &u, u.A, u.A)
			holdTile(t, r, &u, floats[r.IntN(len(floats))], floats[r.IntN(len(floats))])
		}
	}
}

// TestAccumulatorProbe is section 3.4 of arXiv 2411.10958: with A = B = 0 and D
// varied, an FP8 mma returns D exactly when D has 13 fraction bits or fewer, and
// D with its 10 low bits zeroed otherwise.
func TestAccumulatorProbe(t *testing.T) {
	for _, tc := range []struct {
		arch, instruction string
		fp22              bool
	}{
		{SM89, "mma.m16n8k32.f32.e4m3", true},
		{SM90, "wgmma.m64nNk32.f32.e4m3", true},
		{SM90, "mma.m16n8k32.f32.e4m3", false},
		{Ideal, "mma.m16n8k32.f32.e4m3", false},
	} {
		u, err := Lookup(tc.arch, tc.instruction)
		if err != nil {
			t.Fatal(err)
		}
		zero := make([]uint32, u.K)
		r := rand.New(rand.NewPCG(3, 4))
		for range 2000 {
			d := math.Float32bits(float32(r.NormFloat64()))
			want := d
			if tc.fp22 {
				want &^= 0x3ff
			}
			if got := u.Dot(d, zero, zero); got != want {
				t.Fatalf("%s %s: D = %08x returns %08x, want %08x", tc.arch, tc.instruction, d, got, want)
			}
		}
	}
}

func TestCanonical(t *testing.T) {
	for in, want := range map[string]string{
		"mma.sync.m16n8k32.f32.e4m3.e4m3.f32":                  "mma.m16n8k32.f32.e4m3",
		"mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16":    "mma.m16n8k16.f16.f16",
		"wgmma.m64n8k32.f32.e4m3.e4m3":                         "wgmma.m64nNk32.f32.e4m3",
		"wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8":    "wgmma.m64nNk32.s32.s8",
		"mma.m16n8k64.s32.s4":                                  "mma.m16n8k64.s32.s4",
		"wgmma.mma_async.sync.aligned.m64n64k32.f32.e5m2.e5m2": "wgmma.m64nNk32.f32.e5m2",
	} {
		if got := Canonical(in); got != want {
			t.Errorf("Canonical(%q) = %q, want %q", in, got, want)
		}
	}
}

// TestValidate: the table is valid, and one wrong field is named.
func TestValidate(t *testing.T) {
	for _, u := range Units() {
		if err := u.Validate(); err != nil {
			t.Error(err)
		}
	}
	for _, tc := range []struct {
		change func(*Unit)
		want   string
	}{
		{func(u *Unit) { u.Out = FP22Nearest + 1 }, "output: there is no rule 6"},
		{func(u *Unit) { u.Out = Int32 }, "output: int32 exact is for s8, s4 or u8"},
		{func(u *Unit) { u.A, u.Out, u.C, u.FractionBits = S8, Int32, S32, 13 }, "output: int32 exact truncates nothing"},
		{func(u *Unit) { u.A, u.Out, u.C, u.FractionBits, u.SeparateAdd = S4, Int32, S32, Exact, true }, "adds nothing apart"},
		{func(u *Unit) { u.A, u.Out, u.C = S8, Int32, FP32 }, "s32 sums"},
		{func(u *Unit) { u.A = S8 }, "operands: s8 with"},
		{func(u *Unit) { u.A = U8 + 1 }, "operands: operand 10 with"},
		{func(u *Unit) { u.C = FP16 }, "accumulator: f16 with the output E8M13 toward zero"},
		{func(u *Unit) { u.C = BF16 }, "accumulator: bf16"},
		{func(u *Unit) { u.C = U8 + 1 }, "accumulator: operand 10"},
		{func(u *Unit) { u.Out = FP16Nearest }, "accumulator: f32 with the output FP16"},
		{func(u *Unit) { u.K = 0 }, "k: 0"},
		{func(u *Unit) { u.K = MaxK + 1 }, "k: 1025"},
		{func(u *Unit) { u.FractionBits = 0 }, "fraction bits: 0"},
		{func(u *Unit) { u.FractionBits = -2 }, "fraction bits: -2"},
		{func(u *Unit) { u.FractionBits = MaxFractionBits + 1 }, "fraction bits: 31"},
		{func(u *Unit) { u.Steps = u.Steps[:1] }, "steps: k = 16 takes part 0 times"},
		{func(u *Unit) { u.Steps = append(u.Steps, []int{3}) }, "steps: k = 3 takes part 2 times"},
		{func(u *Unit) { u.Steps = [][]int{{32}} }, "steps: k = 32 of 32"},
		{func(u *Unit) { u.Steps = [][]int{{-1}} }, "steps: k = -1 of 32"},
	} {
		u, err := Lookup(SM89, "mma.m16n8k32.f32.e4m3")
		if err != nil {
			t.Fatal(err)
		}
		tc.change(u)
		if err := u.Validate(); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%v, want %q", err, tc.want)
		}
	}
	for _, ok := range []func(*Unit){
		func(u *Unit) { u.FractionBits = 1 }, func(u *Unit) { u.FractionBits = MaxFractionBits }, func(u *Unit) { u.Out = FP22Nearest },
		func(u *Unit) { u.A, u.Out, u.C, u.FractionBits = S8, Int32, S32, Exact },
		func(u *Unit) { u.A = FP32 }, func(u *Unit) { u.K, u.Steps = MaxK, Consecutive(MaxK, 1) },
		func(u *Unit) { u.K, u.Steps = 1, Consecutive(1, 1) },
	} {
		u, _ := Lookup(SM89, "mma.m16n8k32.f32.e4m3")
		ok(u)
		if err := u.Validate(); err != nil {
			t.Error(err)
		}
	}
}

// TestSame: units are told apart by every field that changes a result, and by no other.
func TestSame(t *testing.T) {
	u, err := Lookup(SM90, "mma.m16n8k32.f32.e4m3")
	if err != nil {
		t.Fatal(err)
	}
	v, err := Lookup(SM100, "mma.m16n8k32.f32.e4m3")
	if err != nil {
		t.Fatal(err)
	}
	if !u.Same(v) {
		t.Error("sm_100's FP8 mma.sync is not sm_90's")
	}
	for i, change := range []func(*Unit){
		func(u *Unit) { u.A = E5M2 }, func(u *Unit) { u.C = FP16 }, func(u *Unit) { u.K = 16 }, func(u *Unit) { u.FractionBits = 13 },
		func(u *Unit) { u.Out = FP32Nearest }, func(u *Unit) { u.SeparateAdd = false }, func(u *Unit) { u.Steps = Consecutive(32, 16) },
		func(u *Unit) { u.Steps = u.Steps[:1] },
	} {
		w := *v
		change(&w)
		if u.Same(&w) {
			t.Errorf("change %d is not seen", i)
		}
	}
}

func TestLookupErrors(t *testing.T) {
	for _, tc := range [][2]string{{"sm_12", "mma.m16n8k32.f32.e4m3"}, {SM89, "wgmma.m64n8k32.f32.e4m3.e4m3"}} {
		if u, err := Lookup(tc[0], tc[1]); err == nil {
			t.Errorf("Lookup(%v) = %v, want an error", tc, u)
		}
	}
}

func ExampleUnit_Dot() {
	u, _ := Lookup(SM90, "wgmma.m64n8k32.f32.e4m3.e4m3")
	a := make([]uint32, 32)
	b := make([]uint32, 32)
	a[0], b[0] = 0x38, 0x38 // 1 x 1
	// 2^14 has a 2^1 ulp at 13 fraction bits, so the product is lost.
	d := u.Dot(math.Float32bits(1<<14), a, b)
	fmt.Println(math.Float32frombits(d))
	// Output: 16384
}

func BenchmarkTile(b *testing.B) {
	for _, u := range Units() {
		if u.Out == Int32 {
			continue
		}
		for _, level := range Levels() {
			b.Run(u.Arch+"/"+u.Instruction+"/"+level.String(), func(b *testing.B) { benchmarkTile(b, &u, level) })
		}
	}
}

func benchmarkTile(b *testing.B, u *Unit, level Level) {
	r := rand.New(rand.NewPCG(1, 2))
	const m, n, k = 64, 64, 128
	codes := make([]uint32, m*k)
	for i := range codes {
		codes[i] = code(b, u.A, float64(r.IntN(15)-7)/4) // what all formats have
	}
	var pa, pb Panel
	pa.LoadBits(u.A, codes, m, k, k)
	pb.LoadBits(u.A, codes, n, k, k)
	acc := make([]float32, m*n)
	for b.Loop() {
		clear(acc)
		u.TileAt(level, acc, &pa, &pb)
	}
	b.ReportMetric(float64(b.N)*m*n*k/b.Elapsed().Seconds()/1e6, "MMAC/s")
}

// Products of BF16 and TF32 far below 2^-126 are aligned to 2^-133 at least, as recorded
// on an H200. With -132, with -134 and without any such bound some results are others.
func TestSmallestAlignment(t *testing.T) {
	for _, tc := range []struct {
		instruction string
		a, b        map[int]uint32
		want        uint32
	}{
		{"mma.sync.m16n8k16.f32.bf16.bf16.f32", map[int]uint32{2: 0x2cdd, 3: 0x0988}, map[int]uint32{2: 0x0252, 3: 0xb081}, 0x8000_0891},
		{"mma.sync.m16n8k16.f32.bf16.bf16.f32", map[int]uint32{9: 0xaa04, 10: 0x2922}, map[int]uint32{9: 0x04f3, 10: 0x1250}, 0x0000_41d0},
		{"mma.sync.m16n8k16.f32.bf16.bf16.f32", map[int]uint32{4: 0x1a7f, 5: 0x187e, 6: 0x19d3, 7: 0x9c2a, 8: 0x1a8a, 10: 0x1a8f, 11: 0x9b3e, 15: 0x1b7e}, map[int]uint32{4: 0x1ac7, 5: 0x1928, 6: 0x980e, 7: 0x1aee, 8: 0x1ac4, 10: 0x183f, 11: 0x1a9e, 15: 0x9acc}, 0x80000034},
		{"mma.sync.m16n8k16.f32.bf16.bf16.f32", map[int]uint32{3: 0x9846, 4: 0x9bff, 6: 0x188a, 7: 0x19ad, 8: 0x1a14, 9: 0x1b60, 11: 0x1c43, 12: 0x1b12, 14: 0x9981}, map[int]uint32{3: 0x9933, 4: 0x9ba6, 6: 0x9bed, 7: 0x9bbd, 8: 0x9891, 9: 0x9871, 11: 0x98d9, 12: 0x1a06, 14: 0x1823}, 0x4c},
		{"wgmma.m64n8k16.f32.bf16.bf16", map[int]uint32{0: 0x1892, 2: 0x9c6c, 4: 0x187d, 6: 0x1992, 7: 0x983f, 8: 0x99da, 9: 0x9aea, 11: 0x99a5, 15: 0x1b9c}, map[int]uint32{0: 0x18cc, 2: 0x1b77, 4: 0x186c, 6: 0x1847, 7: 0x9af7, 8: 0x98cf, 9: 0x9b0b, 11: 0x9bf5, 15: 0x9a0c}, 0x80000069},
		{"wgmma.m64n8k16.f32.bf16.bf16", map[int]uint32{0: 0x1bcb, 1: 0x9af5, 2: 0x1beb, 3: 0x9b6d, 6: 0x1aca, 7: 0x1bba, 10: 0x1965, 13: 0x99c5, 15: 0x9c04}, map[int]uint32{0: 0x1b54, 1: 0x195c, 2: 0x1a51, 3: 0x98da, 6: 0x9992, 7: 0x1bf1, 10: 0x9c08, 13: 0x1870, 15: 0x1a8a}, 0x77},
		{"mma.sync.m16n8k8.f32.tf32.tf32.f32", map[int]uint32{0: 0x1bc92000, 3: 0x1c6ba000, 6: 0x990b2000, 7: 0x99f76000}, map[int]uint32{0: 0x993d0000, 3: 0x9aaf0000, 6: 0x1aafc000, 7: 0x18458000}, 0x8000002b},
		{"mma.sync.m16n8k8.f32.tf32.tf32.f32", map[int]uint32{0: 0x1acaaae1, 3: 0x1ac438b3, 4: 0x1986ba01, 5: 0x9bd18108, 6: 0x9a324023, 7: 0x1acaa9d0}, map[int]uint32{0: 0x1c3e15c5, 3: 0x181f6f66, 4: 0x19b38117, 5: 0x99682618, 6: 0x981c074e, 7: 0x9c630dc7}, 0x80000003},
		{"mma.sync.m16n8k8.f32.tf32.tf32.f32", map[int]uint32{1: 0x9a802000, 4: 0x9a734000, 5: 0x9c282000, 7: 0x1ae5e000}, map[int]uint32{1: 0x1ad60000, 4: 0x1af1e000, 5: 0x18170000, 7: 0x9a234000}, 0x80000009},
		{"mma.sync.m16n8k8.f32.tf32.tf32.f32", map[int]uint32{1: 0x9cd36373, 2: 0x9dc46e83, 4: 0x1e263113, 5: 0x1c18752f, 6: 0x9de09fb0, 7: 0x1e482885}, map[int]uint32{1: 0x1d0f5532, 2: 0x9ccffa0f, 4: 0x9c613a57, 5: 0x1d394e55, 6: 0x1e696c1e, 7: 0x1d7bad01}, 0x80006c95},
		{"wgmma.m64n8k8.f32.tf32.tf32", map[int]uint32{0: 0x1aaea000, 1: 0x19656000, 3: 0x98f9e000, 4: 0x9aece000, 5: 0x9b5b0000, 7: 0x99b16000}, map[int]uint32{0: 0x98fbe000, 1: 0x1c1f6000, 3: 0x18af0000, 4: 0x98c08000, 5: 0x9b7d6000, 7: 0x1a4bc000}, 0x1e},
		{"wgmma.m64n8k8.f32.tf32.tf32", map[int]uint32{0: 0x9c6ea000, 1: 0x98226000, 2: 0x9b31e000, 3: 0x1b350000, 5: 0x18596000, 7: 0x9b32c000}, map[int]uint32{0: 0x98fbe000, 1: 0x1c1f6000, 2: 0x98ba8000, 3: 0x18af0000, 5: 0x9b7d6000, 7: 0x1a4bc000}, 0x0},
		{"wgmma.m64n8k8.f32.tf32.tf32", map[int]uint32{0: 0x1ba88000, 1: 0x1b78a000, 2: 0x9b674000, 3: 0x1af6c000, 4: 0x18dac000, 5: 0x9c0a6000, 7: 0x9b67e000}, map[int]uint32{0: 0x9ab88000, 1: 0x9c076000, 2: 0x1b044000, 3: 0x98c32000, 4: 0x9ae08000, 5: 0x19514000, 7: 0x18f7c000}, 0x80000064},
		{"wgmma.m64n8k8.f32.tf32.tf32", map[int]uint32{0: 0x9e30e000, 2: 0x9c48c000, 3: 0x9d666000, 4: 0x1c3d6000, 5: 0x1c2f8000, 6: 0x9c274000, 7: 0x1dfe2000}, map[int]uint32{0: 0x9cede000, 2: 0x9d36a000, 3: 0x9d9c2000, 4: 0x1d8e2000, 5: 0x9c776000, 6: 0x9db20000, 7: 0x9d816000}, 0x1cfc},
	} {
		u, err := Lookup(SM90, tc.instruction)
		if err != nil {
			t.Fatal(err)
		}
		a, b := make([]uint32, u.K), make([]uint32, u.K)
		for i, x := range tc.a {
			a[i] = x
		}
		for i, x := range tc.b {
			b[i] = x
		}
		if got := u.Dot(0, a, b); got != tc.want {
			t.Errorf("%s: got %#08x, recorded %#08x", tc.instruction, got, tc.want)
		}
	}
}

// TestSpecials: infinities and NaN follow IEEE 754, as recorded on an H200, in every
// format and for every sign.
func TestSpecials(t *testing.T) {
	inf := math.Inf(1)
	const least = 0x1p-1000 // stands for the smallest number of a format
	for _, u := range Units() {
		if u.Out == Int32 {
			continue
		}
		special := func(x float64) uint32 {
			l := &layouts[u.A]
			switch {
			case math.IsInf(x, 1):
				return l.expMask << (l.fracBits + l.unused)
			case math.IsInf(x, -1):
				return (l.sign | l.expMask<<l.fracBits) << l.unused
			case x != x:
				// Some fraction bit, and E4M3's all.
				return (l.expMask<<l.fracBits | l.fracMask) << l.unused
			case x == 0 && math.Signbit(x):
				return l.sign << l.unused
			case math.Abs(x) == least:
				b := uint32(1)
				if x < 0 {
					b |= l.sign
				}
				return b << l.unused
			}
			return code(t, u.A, x)
		}
		infs := []uint32{0x7f80_0000, 0xff80_0000, 0x7fff_ffff}
		if u.C == FP16 {
			infs = []uint32{0x7c00, 0xfc00, 0x7fff}
		}
		plus, minus, none := infs[0], infs[1], infs[2]
		nan, neg0 := math.NaN(), math.Copysign(0, -1)
		for _, tc := range []struct {
			c          uint32
			a0, b0     float64
			a1, b1     float64
			want       uint32
			noInfinity bool // also for E4M3
		}{
			{0, inf, 1, 0, 0, plus, false}, {0, inf, -1, 0, 0, minus, false}, {0, -inf, 1, 0, 0, minus, false}, {0, -inf, -2, 0, 0, plus, false},
			{0, 1, inf, 0, 0, plus, false}, {0, -1, inf, 0, 0, minus, false}, {0, 1, -inf, 0, 0, minus, false}, {0, -1, -inf, 0, 0, plus, false},
			{0, inf, inf, 0, 0, plus, false}, {0, inf, -inf, 0, 0, minus, false}, {0, -inf, inf, 0, 0, minus, false}, {0, -inf, -inf, 0, 0, plus, false},
			{0, inf, 0, 0, 0, none, false}, {0, 0, inf, 0, 0, none, false}, {0, -inf, neg0, 0, 0, none, false}, {0, neg0, -inf, 0, 0, none, false},
			{0, -least, inf, 0, 0, minus, false}, {0, inf, -least, 0, 0, minus, false}, {0, least, inf, 0, 0, plus, false},
			{0, inf, least, 0, 0, plus, false},
			{0, inf, 1, inf, 1, plus, false}, {0, inf, 1, inf, -1, none, false}, {0, -inf, 1, inf, 1, none, false}, {0, inf, 1, -1, 1, plus, false},
			{0, -inf, 1, 2, 1, minus, false}, {0, 1, 1, inf, 1, plus, false},
			{0, nan, 1, 0, 0, none, true}, {0, 1, nan, 0, 0, none, true}, {0, nan, 0, 0, 0, none, true}, {0, 0, nan, 0, 0, none, true},
			{0, nan, nan, 1, 1, none, true}, {0, 1, 1, nan, 1, none, true}, {0, nan, inf, 0, 0, none, false}, {0, inf, nan, 0, 0, none, false},
			{0, inf, 1, nan, 1, none, false}, {plus, nan, 1, 0, 0, none, true},
			{plus, 1, 1, 0, 0, plus, true}, {minus, 1, 1, 0, 0, minus, true}, {none, 1, 1, 0, 0, none, true}, {none - 1, 0, 0, 0, 0, none, true},
			{plus | 1, 0, 0, 0, 0, none, true}, {minus | 1, 0, 0, 0, 0, none, true},
			{plus, inf, 1, 0, 0, plus, false}, {plus, inf, -1, 0, 0, none, false}, {minus, inf, -1, 0, 0, minus, false}, {minus, 0, 0, inf, 1, none, false},
			{plus, 0, 0, 0, 0, plus, true}, {minus, 0, 0, 0, 0, minus, true},
		} {
			if u.A == E4M3 && !tc.noInfinity {
				continue
			}
			// The two products in one step, in steps that follow one another, and apart.
			for _, at := range [][2]int{{0, 1}, {0, u.K - 1}, {u.K - 1, 0}, {u.K / 2, 1}} {
				a, b := make([]uint32, u.K), make([]uint32, u.K)
				a[at[0]], b[at[0]], a[at[1]], b[at[1]] = special(tc.a0), special(tc.b0), special(tc.a1), special(tc.b1)
				if got := u.Dot(tc.c, a, b); got != tc.want {
					t.Errorf("%s %s: %#x + %g x %g + %g x %g at %v is %#x, want %#x", u.Arch, u.Instruction, tc.c, tc.a0, tc.b0, tc.a1, tc.b1, at, got, tc.want)
				}
			}
		}
	}
}

// TestAddendAlone: with zero products a unit returns its addend, the smallest numbers
// too, and +0 for zeros of any sign. (An FP22 accumulator cuts it.)
func TestAddendAlone(t *testing.T) {
	for _, u := range Units() {
		if u.Out == Int32 {
			continue
		}
		sign, cut := uint32(0x8000_0000), uint32(0)
		if u.C == FP16 {
			sign = 0x8000
		}
		if u.Out == FP22Zero {
			cut = 0x3ff
		}
		zeros, minus := make([]uint32, u.K), make([]uint32, u.K)
		for i := range minus {
			minus[i] = layouts[u.A].sign << layouts[u.A].unused
		}
		for _, c := range []uint32{0, 1, 2, 3, 0x3ff, 0x400, 0x401, 0x3c00, 0x7bff} {
			for _, s := range []uint32{0, sign} {
				want := (c | s) &^ cut
				if c&^cut == 0 {
					want = 0
				}
				if got := u.Dot(c|s, zeros, zeros); got != want {
					t.Errorf("%s %s: %#x becomes %#x, want %#x", u.Arch, u.Instruction, c|s, got, want)
				}
				if got := u.Dot(c|s, zeros, minus); got != want {
					t.Errorf("%s %s: with negative zeros %#x becomes %#x, want %#x", u.Arch, u.Instruction, c|s, got, want)
				}
			}
		}
	}
}

// TestOverflow: a sum beyond the accumulator's range is infinite, also where the rule is
// toward zero, and the last before it is not.
func TestOverflow(t *testing.T) {
	for _, tc := range []struct {
		arch, instruction string
		c                 uint32
		product           float64
		want              uint32
	}{
		{SM90, "mma.m16n8k16.f32.bf16", 0x7f7f_ffff, 0x1p103, 0x7f7f_ffff}, // half a unit of the last place: cut
		{SM90, "mma.m16n8k16.f32.bf16", 0x7f7f_ffff, 0x1p104, 0x7f80_0000},
		{SM90, "mma.m16n8k16.f32.bf16", 0xff7f_ffff, -0x1p104, 0xff80_0000},
		{Ideal, "mma.m16n8k16.f32.bf16", 0x7f7f_ffff, 0x1p102, 0x7f7f_ffff},
		{Ideal, "mma.m16n8k16.f32.bf16", 0x7f7f_ffff, 0x1p103, 0x7f80_0000},
		{SM89, "mma.m16n8k32.f16.e4m3", 0x7bff, 8, 0x7bff}, // 65512
		{SM89, "mma.m16n8k32.f16.e4m3", 0x7bff, 16, 0x7c00},
		{SM89, "mma.m16n8k32.f16.e4m3", 0xfbff, -16, 0xfc00},
	} {
		u, err := Lookup(tc.arch, tc.instruction)
		if err != nil {
			t.Fatal(err)
		}
		a, b := make([]uint32, u.K), make([]uint32, u.K)
		m, e := math.Frexp(tc.product)
		a[0], b[0] = code(t, u.A, math.Ldexp(m, e/2)), code(t, u.A, math.Ldexp(1, e-e/2))
		if got := u.Dot(tc.c, a, b); got != tc.want {
			t.Errorf("%s %s: %#x + %g is %#x, want %#x", tc.arch, tc.instruction, tc.c, tc.product, got, tc.want)
		}
	}
}

// TestIdealIsExact: what lies far below a tie decides it.
func TestIdealIsExact(t *testing.T) {
	u, err := Lookup(Ideal, "mma.m16n8k16.f32.bf16")
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		products map[int]float64
		want     float64
	}{
		{map[int]float64{0: 1, 1: 0x1p-24}, 1},
		{map[int]float64{0: 1, 1: 0x1p-24, 2: 0x1p-100}, 1 + 0x1p-23},
		{map[int]float64{0: 1, 1: 0x1p-24, 2: -0x1p-100}, 1},
		{map[int]float64{0: 1, 1: 0x1.8p-23, 2: -0x1p-100}, 1 + 0x1p-23},
		{map[int]float64{0: 1, 1: 0x1.8p-23, 2: 0x1p-61}, 1 + 0x1p-22},
		{map[int]float64{0: 0x1p100, 1: -0x1p100, 2: 0x1p-100}, 0x1p-100},
		{map[int]float64{0: 0x1p-149}, 0x1p-149},
	} {
		if got := u.sum(t, 0, tc.products); got != tc.want {
			t.Errorf("%v: %g, want %g", tc.products, got, tc.want)
		}
	}
}

// TestPanels: what a panel cannot hold, or a unit cannot take, is said at once.
func TestPanels(t *testing.T) {
	u, err := Lookup(SM90, "wgmma.m64nNk32.f32.e4m3")
	if err != nil {
		t.Fatal(err)
	}
	integer, err := Lookup(SM90, "wgmma.m64nNk32.s32.s8")
	if err != nil {
		t.Fatal(err)
	}
	bits := make([]uint16, 64)
	wide := make([]uint32, 64)
	panel := func(f Operand, k int) *Panel {
		var p Panel
		p.LoadBits(f, wide, 1, k, k)
		return &p
	}
	for _, tc := range []struct {
		name string
		f    func()
		want string
	}{
		{"S8", func() { new(Panel).Load(S8, bits, 1, 32, 32) }, "panel of s8"},
		{"S4", func() { new(Panel).LoadBits(S4, wide, 1, 32, 32) }, "panel of s4"},
		{"S32", func() { new(Panel).LoadBits(S32, wide, 1, 32, 32) }, "panel of s32"},
		{"TF32", func() { new(Panel).Load(TF32, bits, 1, 32, 32) }, "codes of tf32 have 32 bits"},
		{"FP32", func() { new(Panel).Load(FP32, bits, 1, 32, 32) }, "codes of f32 have 32 bits"},
		{"another format", func() { u.Tile(make([]float32, 1), panel(E5M2, 32), panel(E4M3, 32)) }, "panels of e5m2 and e4m3 for a unit of e4m3"},
		{"the other one", func() { u.Tile(make([]float32, 1), panel(E4M3, 32), panel(FP16, 32)) }, "panels of e4m3 and f16 for a unit of e4m3"},
		{"depths", func() { u.Tile(make([]float32, 1), panel(E4M3, 32), panel(E4M3, 64)) }, "depths"},
		{"half a depth", func() { u.Tile(make([]float32, 1), panel(E4M3, 16), panel(E4M3, 16)) }, "depths"},
		{"integers", func() { integer.TileValues(make([]float32, 1), panel(FP32, 32), panel(FP32, 32)) }, "integer unit"},
	} {
		func() {
			defer func() {
				if got := fmt.Sprint(recover()); !strings.Contains(got, tc.want) {
					t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
				}
			}()
			tc.f()
		}()
	}
	for i, name := range []string{"e4m3", "e5m2", "f16", "bf16", "tf32", "f32", "s8", "s4", "s32", "u8"} {
		if got := Operand(i).String(); got != name {
			t.Errorf("operand %d is %s", i, got)
		}
	}
	for i, name := range []string{"FP32 toward zero", "E8M13 toward zero", "FP16 nearest-even", "FP32 nearest-even", "int32 exact", "E8M13 nearest-even"} {
		if got := Output(i).String(); got != name {
			t.Errorf("rule %d is %s", i, got)
		}
	}
}

// TestValuesOfCodes: values that are normal numbers of the unit's own format give what
// their codes give.
func TestValuesOfCodes(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	for _, u := range Units() {
		if u.Out == Int32 || u.A == TF32 {
			continue
		}
		const m, n = 3, 4
		l := &layouts[u.A]
		values := func(rows int) ([]uint16, []float32) {
			codes, x := make([]uint16, rows*u.K), make([]float32, rows*u.K)
			for i := range codes {
				c := randomCode(r, u.A, false)
				if c>>l.fracBits&l.expMask == 0 {
					c = 0
				}
				codes[i], x[i] = uint16(c), makeEntry(l, c).val
			}
			return codes, x
		}
		var ca, cb, va, vb Panel
		for range 20 {
			a, av := values(m)
			b, bv := values(n)
			ca.Load(u.A, a, m, u.K, u.K)
			cb.Load(u.A, b, n, u.K, u.K)
			va.LoadValues(av, m, u.K, u.K)
			vb.LoadValues(bv, n, u.K, u.K)
			acc := addends(r, &u, m*n, false)
			want, got := slices.Clone(acc), slices.Clone(acc)
			u.Tile(want, &ca, &cb)
			u.TileValues(got, &va, &vb)
			for i := range want {
				if math.Float32bits(got[i]) != math.Float32bits(want[i]) && got[i] == got[i] {
					t.Fatalf("%s %s: values give %g, codes %g", u.Arch, u.Instruction, got[i], want[i])
				}
			}
		}
	}
	// A subnormal E4M3 code has the exponent -6, its value its own: 2^-9 x 2^-9 aligned
	// with 2^-5 keeps 13 bits below 2^-5 either way, but 2^-18 alone below 2^-12 or 2^-18.
	u, err := Lookup(SM89, "mma.m16n8k32.f32.e4m3")
	if err != nil {
		t.Fatal(err)
	}
	a, b := make([]uint32, u.K), make([]uint32, u.K)
	a[0], b[0] = math.Float32bits(0x1p-9), math.Float32bits(0x1p-9)
	c := math.Float32bits(0x1p-30) // 12 below the value's exponent, 18 below the code's
	if got := u.DotOf(c, FP32, a, FP32, b); got != math.Float32bits(0x1p-18+0x1p-30) {
		t.Errorf("values: %x", math.Float32frombits(got))
	}
	a[0], b[0] = 1, 1
	if got := u.Dot(c, a, b); got != math.Float32bits(0x1p-18) {
		t.Errorf("codes: %x", math.Float32frombits(got))
	}
}
