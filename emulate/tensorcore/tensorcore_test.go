package tensorcore

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// randomCode draws a bit pattern of the format: most of the time a moderate
// value, sometimes any pattern at all.
func randomCode(r *rand.Rand, f Operand, wild bool) uint32 {
	l := layouts[f]
	width := 1 + l.expBits + l.fracBits
	if wild && r.IntN(8) == 0 {
		return r.Uint32() & (1<<width - 1)
	}
	if r.IntN(6) == 0 {
		return 0
	}
	for {
		c := r.Uint32() & (1<<width - 1)
		if _, class := l.decode(c); class == finite {
			return c
		}
	}
}

// TestTileEqualsDot holds the fast path to the definition, unit by unit.
func TestTileEqualsDot(t *testing.T) {
	units := Units()
	// Units as no hardware has them, which differ in one parameter.
	for _, name := range []string{"wgmma.m64nNk32.f32.e4m3", "mma.m16n8k32.f32.e4m3"} {
		for _, arch := range Archs() {
			u, err := Lookup(arch, name)
			if err != nil {
				continue
			}
			change := func(what string, f func(*Unit)) {
				v := *u
				v.Instruction += " " + what
				f(&v)
				units = append(units, v)
			}
			for _, f := range []int{5, 13, 14, 23, MaxFractionBits} {
				change(fmt.Sprint("fraction bits ", f), func(v *Unit) { v.FractionBits = f })
			}
			for _, n := range []int{1, 2, 8, 32} {
				change(fmt.Sprint("step ", n), func(v *Unit) { v.Steps = Consecutive(v.K, n) })
			}
			for _, o := range []Output{FP32Zero, FP22Zero, FP16Nearest, FP32Nearest, FP22Nearest} {
				change(o.String(), func(v *Unit) {
					v.Out = o
					if o == FP16Nearest {
						v.C = FP16
					}
				})
			}
		}
	}
	for _, u := range units {
		if u.Out == Int32 {
			continue
		}
		t.Run(u.Arch+"/"+u.Instruction, func(t *testing.T) {
			r := rand.New(rand.NewPCG(1, uint64(len(u.Instruction))))
			const m, n = 5, 7
			var pa, pb Panel
			for range 60 {
				k := u.K * (1 + r.IntN(3))
				wild := r.IntN(4) == 0
				a := make([]uint16, m*k)
				b := make([]uint16, n*k)
				for i := range a {
					a[i] = uint16(randomCode(r, u.A, wild))
				}
				for i := range b {
					b[i] = uint16(randomCode(r, u.A, wild))
				}
				pa.Load(u.A, a, m, k, k)
				pb.Load(u.A, b, n, k, k)
				acc := make([]float32, m*n)
				for i := range acc {
					switch r.IntN(4) {
					case 0:
					case 1:
						acc[i] = u.decodeC(randomCode(r, u.C, wild))
					default:
						acc[i] = u.decodeC(u.encode(float32(r.NormFloat64() * math.Exp2(float64(r.IntN(40)-20)))))
					}
				}
				want := make([]uint32, m*n)
				for i := range m {
					for j := range n {
						want[i*n+j] = u.encode(u.slow(acc[i*n+j], &pa, &pb, i, j))
					}
				}
				u.Tile(acc, &pa, &pb)
				for i := range acc {
					got := u.encode(acc[i])
					if got != want[i] && !(acc[i] != acc[i] && u.decodeC(want[i]) != u.decodeC(want[i])) {
						t.Fatalf("k=%d element %d: fast path %08x (%g), definition %08x (%g)", k, i, got, acc[i], want[i], u.decodeC(want[i]))
					}
				}
			}
		})
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
			codes := make([]uint16, m*k)
			for i := range codes {
				codes[i] = uint16(randomCode(r, u.A, false))
			}
			var pa, pb Panel
			pa.Load(u.A, codes, m, k, k)
			pb.Load(u.A, codes, n, k, k)
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
