package tensorcore

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestHasVector: which units of the table have a vector kernel, so that none falls back to
// portable Go unseen, and which changes of a unit make it one that has none.
func TestHasVector(t *testing.T) {
	for _, level := range vectorLevels(t) {
		t.Run(level.String(), func(t *testing.T) { testHasVector(t, level) })
	}
}

func testHasVector(t *testing.T, vector Level) {
	for _, u := range Units() {
		want := u.Out != Int32 && u.FractionBits != Exact
		if got := u.HasVector(vector); got != want {
			t.Errorf("%s %s: %v, want %v", u.Arch, u.Instruction, got, want)
		}
		if u.HasVector(Level{}) {
			t.Errorf("%s %s: portable Go has a vector kernel", u.Arch, u.Instruction)
		}
	}
	base := Unit{A: E4M3, C: FP32, K: 32, Steps: Consecutive(32, 16), FractionBits: 13, Out: FP22Zero}
	for name, tc := range map[string]struct {
		change func(*Unit)
		want   bool
	}{
		"as it is":           {func(*Unit) {}, true},
		"unpacked":           {func(u *Unit) { u.Steps = unpacked(32) }, true},
		"16 terms of 2^27":   {func(u *Unit) { u.FractionBits = 25 }, true},
		"32 FP8 terms":       {func(u *Unit) { u.FractionBits, u.Steps = 25, Consecutive(32, 32) }, true},
		"34 FP8 terms":       {func(u *Unit) { u.K, u.FractionBits, u.Steps = 34, 25, Consecutive(34, 34) }, true},
		"36 FP8 terms":       {func(u *Unit) { u.K, u.FractionBits, u.Steps = 36, 25, Consecutive(36, 36) }, false},
		"32 FP16 terms":      {func(u *Unit) { u.A, u.FractionBits, u.Steps = FP16, 25, Consecutive(32, 32) }, false},
		"16 terms of 2^28":   {func(u *Unit) { u.FractionBits = 26 }, false},
		"no fraction bit":    {func(u *Unit) { u.FractionBits = 0 }, false},
		"exact sums":         {func(u *Unit) { u.FractionBits = Exact }, false},
		"one term":           {func(u *Unit) { u.Steps = Consecutive(32, 1) }, false},
		"steps of two sizes": {func(u *Unit) { u.Steps = [][]int{u.Steps[0], u.Steps[1][:8], u.Steps[1][8:]} }, false},
		"a k twice":          {func(u *Unit) { u.Steps = [][]int{u.Steps[0], u.Steps[0]} }, false},
		"a k never":          {func(u *Unit) { u.Steps = u.Steps[:1] }, false},
		"to nearest FP32":    {func(u *Unit) { u.Out = FP32Nearest }, false},
		"to nearest FP22":    {func(u *Unit) { u.Out = FP22Nearest }, false},
		"FP32's rule, FP16":  {func(u *Unit) { u.C = FP16 }, false},
		"FP16's rule, FP32":  {func(u *Unit) { u.Out = FP16Nearest }, false},
		"FP16":               {func(u *Unit) { u.C, u.Out = FP16, FP16Nearest }, true},
		"FP32 operands":      {func(u *Unit) { u.A = FP32 }, false},
		"TF32 operands":      {func(u *Unit) { u.A = TF32 }, true},
	} {
		u := base
		tc.change(&u)
		if got := u.HasVector(vector); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestEntries: the quick decoding of 16-bit codes is that of every format.
func TestEntries(t *testing.T) {
	for c := range 1 << 16 {
		if got, want := entryFP16(uint16(c)), makeEntry(&layouts[FP16], uint32(c)); got != want {
			t.Fatalf("FP16 %04x: %+v, want %+v", c, got, want)
		}
		if got, want := entryBF16(uint16(c)), makeEntry(&layouts[BF16], uint32(c)); got != want {
			t.Fatalf("BF16 %04x: %+v, want %+v", c, got, want)
		}
	}
}

// TestLargestSums: the integers of the vector kernel hold the largest sums that there are.
func TestLargestSums(t *testing.T) {
	largest := map[Operand]uint32{E4M3: 0x7e, E5M2: 0x7b, FP16: 0x7bff, BF16: 0x5f7f, TF32: 0x5f7fe000}
	for _, u := range Units() {
		top, ok := largest[u.A]
		if !ok {
			continue
		}
		sign := uint32(0x80)
		switch u.A {
		case FP16, BF16:
			sign = 0x8000
		case TF32:
			sign = 1 << 31
		}
		a, b := make([]uint32, u.K), make([]uint32, 2*u.K)
		for k := range u.K {
			a[k], b[k], b[u.K+k] = top, top, top|sign
		}
		var pa, pb Panel
		pa.LoadBits(u.A, a, 1, u.K, u.K)
		pb.LoadBits(u.A, b, 2, u.K, u.K)
		value := pa.val[0] * pa.val[0]
		for _, c := range []float32{0, 0x1.fffffep0 * float32(value), -0x1.fffffep0 * float32(value), float32(value) / 2} {
			if u.C == FP16 {
				c = min(max(c, -65504), 65504)
			}
			want := []float32{u.decodeC(u.Dot(u.encode(c), a, b[:u.K])), u.decodeC(u.Dot(u.encode(c), a, b[u.K:]))}
			for _, level := range Levels() {
				got := []float32{c, c}
				u.TileAt(level, got, &pa, &pb)
				if got[0] != want[0] || got[1] != want[1] {
					t.Errorf("%s %s at %s from %g: %g, want %g", u.Arch, u.Instruction, level, c, got, want)
				}
			}
		}
	}
}

// TestTinyTiles: products and sums so small that a scale or a result is no normal number, which
// vector kernels leave to the portable code.
func TestTinyTiles(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 15))
	const rows, columns = 4, 40
	for _, u := range Units() {
		if u.C != FP32 || u.A != BF16 && u.A != TF32 {
			continue
		}
		for round := range 60 {
			load := func(p *Panel, n int) {
				bits := make([]uint32, n*u.K*2)
				low := 30 + r.IntN(40) // of most
				for i := range bits {
					bits[i] = nearestBits(u.A, float32(math.Ldexp(r.NormFloat64(), -low-r.IntN(10))))
				}
				p.LoadBits(u.A, bits, n, 2*u.K, 2*u.K)
			}
			var pa, pb Panel
			load(&pa, rows)
			load(&pb, columns)
			acc := make([]float32, rows*columns)
			for i := range acc {
				if round%3 != 0 {
					acc[i] = u.decodeC(u.encode(float32(math.Ldexp(r.NormFloat64(), -80-r.IntN(70)))))
				}
			}
			want := slices.Clone(acc)
			u.Tile(want, &pa, &pb)
			for _, level := range Levels() {
				got := slices.Clone(acc)
				u.TileAt(level, got, &pa, &pb)
				for i, x := range got {
					if math.Float32bits(x) != math.Float32bits(want[i]) {
						t.Fatalf("%s %s at %s: element %d from %g: %g, want %g", u.Arch, u.Instruction, level, i, acc[i], x, want[i])
					}
				}
			}
		}
	}
}
