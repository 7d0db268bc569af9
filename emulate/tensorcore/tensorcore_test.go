package tensorcore

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
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
	const m, n = 3, 5
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
	got := slices.Clone(acc)
	if fa == u.A && fb == u.A {
		u.Tile(got, &pa, &pb)
	} else {
		u.TileValues(got, &pa, &pb)
	}
	for i := range m {
		for j := range n {
			want := u.encode(acc[i*n+j])
			for lo := 0; lo < k; lo += u.K {
				x, y := a[i*k+lo:][:u.K], b[j*k+lo:][:u.K]
				if fa == u.A && fb == u.A {
					want = u.Dot(want, x, y)
				} else {
					want = u.DotOf(want, fa, x, fb, y)
				}
			}
			g := got[i*n+j]
			if w := u.decodeC(want); u.encode(g) != want && !(g != g && w != w) {
				t.Fatalf("%s: k=%d of %s and %s from %g: fast path %08x (%g), definition %08x (%g)",
					u.describe(), k, fa, fb, acc[i*n+j], u.encode(g), g, want, w)
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
	n := 4000
	if testing.Short() {
		n = 1000
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
		{func(u *Unit) { u.Out = Int32 }, "output: int32 exact is for s8 or s4"},
		{func(u *Unit) { u.A, u.Out, u.C, u.FractionBits = S8, Int32, S32, 13 }, "output: int32 exact truncates nothing"},
		{func(u *Unit) { u.A, u.Out, u.C, u.FractionBits, u.SeparateAdd = S4, Int32, S32, Exact, true }, "adds nothing apart"},
		{func(u *Unit) { u.A, u.Out, u.C = S8, Int32, FP32 }, "s32 sums"},
		{func(u *Unit) { u.A = S8 }, "operands: s8 with"},
		{func(u *Unit) { u.A = S32 + 1 }, "operands: operand 9 with"},
		{func(u *Unit) { u.C = FP16 }, "accumulator: f16 with the output E8M13 toward zero"},
		{func(u *Unit) { u.C = BF16 }, "accumulator: bf16"},
		{func(u *Unit) { u.C = S32 + 1 }, "accumulator: operand 9"},
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
		func(u *Unit) { u.FractionBits = 1 }, func(u *Unit) { u.FractionBits = MaxFractionBits },
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
		b.Run(u.Arch+"/"+u.Instruction, func(b *testing.B) {
			r := rand.New(rand.NewPCG(1, 2))
			const m, n, k = 64, 64, 128
			codes := make([]uint32, m*k)
			for i := range codes {
				codes[i] = randomCode(r, u.A, false)
			}
			var pa, pb Panel
			pa.LoadBits(u.A, codes, m, k, k)
			pb.LoadBits(u.A, codes, n, k, k)
			acc := make([]float32, m*n)
			for b.Loop() {
				clear(acc)
				u.Tile(acc, &pa, &pb)
			}
			b.ReportMetric(float64(b.N)*m*n*k/b.Elapsed().Seconds()/1e6, "MMAC/s")
		})
	}
}

// Products of BF16 far below 2^-126 are aligned to 2^-133 at least, as recorded on
// an H200.
func TestSmallestAlignment(t *testing.T) {
	u, err := Lookup(SM90, "mma.sync.m16n8k16.f32.bf16.bf16.f32")
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		a, b map[int]uint32
		want uint32
	}{
		{map[int]uint32{2: 0x2cdd, 3: 0x0988}, map[int]uint32{2: 0x0252, 3: 0xb081}, 0x8000_0891},
		{map[int]uint32{9: 0xaa04, 10: 0x2922}, map[int]uint32{9: 0x04f3, 10: 0x1250}, 0x0000_41d0},
	} {
		a, b := make([]uint32, u.K), make([]uint32, u.K)
		for i, x := range tc.a {
			a[i] = x
		}
		for i, x := range tc.b {
			b[i] = x
		}
		if got := u.Dot(0, a, b); got != tc.want {
			t.Errorf("got %#08x, recorded %#08x", got, tc.want)
		}
	}
}
