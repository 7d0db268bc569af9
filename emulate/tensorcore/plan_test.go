package tensorcore

import (
	"math"
	"testing"
)

// TestPlan: which units are computed in which way. Results do not depend on it; speed
// does, and each way's conditions are those of its proof.
func TestPlan(t *testing.T) {
	for _, tc := range []struct {
		arch, instruction string
		want              method
		permuted          bool
	}{
		{SM89, "mma.m16n8k32.f32.e4m3", inFP32, false}, {SM89, "mma.m16n8k32.f16.e5m2", inFP32, false},
		{SM90, "wgmma.m64nNk32.f32.e5m2", inFP32, false}, {SM90, "mma.m16n8k32.f32.e4m3", split, false},
		{SM90, "mma.m16n8k32.f16.e5m2", split, false}, {SM90, "mma.m16n8k16.f32.f16", inFP64, false},
		{SM80, "mma.m16n8k8.f32.tf32", inFP64, false}, {SM120, "mma.m16n8k32.f32.e4m3", inFP64, false},
		{Ideal, "mma.m16n8k32.f32.e4m3", inExact, false},
	} {
		u, err := Lookup(tc.arch, tc.instruction)
		if err != nil {
			t.Fatal(err)
		}
		if p := u.plan(u.A, u.A); p.method != tc.want || (p.order != nil) != tc.permuted {
			t.Errorf("%s %s: method %d, order %v", tc.arch, tc.instruction, p.method, p.order)
		}
	}
	base := Unit{A: E4M3, C: FP32, K: 64, Steps: Consecutive(64, 32), FractionBits: 13}
	for _, tc := range []struct {
		name   string
		change func(*Unit)
		want   method
	}{
		{"as it is", func(*Unit) {}, inFP32},
		{"33 terms of 2^18", func(u *Unit) { u.FractionBits = 17 }, inFP64},
		{"32 terms of 2^19", func(u *Unit) { u.K, u.Steps, u.FractionBits = 31, Consecutive(31, 31), 17 }, inFP32},
		{"33 terms of 2^19", func(u *Unit) { u.K, u.Steps, u.FractionBits = 32, Consecutive(32, 32), 17 }, inFP64},
		{"2 terms of 2^23", func(u *Unit) { u.Steps, u.FractionBits = Consecutive(64, 1), 21 }, inFP32},
		{"2 terms of 2^24", func(u *Unit) { u.Steps, u.FractionBits = Consecutive(64, 1), 22 }, inFP64},
		{"one step longer than the others", func(u *Unit) {
			u.K, u.FractionBits = 33, 17
			u.Steps = append(Consecutive(32, 32), []int{32})
		}, inFP64},
		{"no fraction bit", func(u *Unit) { u.FractionBits = 0 }, byDefinition},
		{"one", func(u *Unit) { u.FractionBits = 1 }, inFP32},
		{"most", func(u *Unit) { u.FractionBits = MaxFractionBits }, inFP64},
		{"more", func(u *Unit) { u.FractionBits = MaxFractionBits + 1 }, byDefinition},
		{"fewer than none", func(u *Unit) { u.FractionBits = -2 }, byDefinition},
		{"FP16 sums to FP32's rule", func(u *Unit) { u.C = FP16 }, byDefinition},
		{"FP32 sums to FP16's rule", func(u *Unit) { u.Out = FP16Nearest }, byDefinition},
		{"FP16", func(u *Unit) { u.C, u.Out = FP16, FP16Nearest }, inFP32},
		{"BF16 sums", func(u *Unit) { u.C = BF16 }, byDefinition},
		{"a k twice", func(u *Unit) { u.Steps = append(u.Steps, []int{0}) }, byDefinition},
		{"a k twice and one never", func(u *Unit) { u.K, u.Steps = 2, [][]int{{0, 0}} }, byDefinition},
		{"a k never", func(u *Unit) { u.Steps = u.Steps[:1] }, byDefinition},
		{"FP16 operands", func(u *Unit) { u.A = FP16 }, inFP64},
		{"E5M2 operands", func(u *Unit) { u.A = E5M2 }, inFP32},
		{"unpacked, with its addend", func(u *Unit) { u.K, u.Steps, u.FractionBits = 32, unpacked(32), 25 }, inFP64},
		{"unpacked", func(u *Unit) { u.K, u.Steps, u.FractionBits, u.SeparateAdd = 32, unpacked(32), 25, true }, split},
		{"unpacked, of 64", func(u *Unit) { u.Steps, u.FractionBits, u.SeparateAdd = unpacked(64), 25, true }, inFP64},
		{"an addend apart", func(u *Unit) { u.SeparateAdd = true }, inFP32},
		{"2^21 terms of 2^32", func(u *Unit) { u.K = 1<<21 - 1; u.Steps, u.FractionBits = Consecutive(u.K, u.K), 30 }, inFP64},
		{"one more", func(u *Unit) { u.K = 1 << 21; u.Steps, u.FractionBits = Consecutive(u.K, u.K), 30 }, byDefinition},
	} {
		u := base
		tc.change(&u)
		if p := u.plan(u.A, u.A); p.method != tc.want {
			t.Errorf("%s: method %d, want %d", tc.name, p.method, tc.want)
		}
	}
	if p := base.plan(E4M3, FP16); p.method != inFP64 {
		t.Errorf("E4M3 and FP16: method %d", p.method)
	}
	if p := base.plan(FP16, E4M3); p.method != inFP64 {
		t.Errorf("FP16 and E4M3: method %d", p.method)
	}
	if p := base.plan(E5M2, E4M3); p.method != inFP32 {
		t.Errorf("E5M2 and E4M3: method %d", p.method)
	}
	swapped := base
	swapped.Steps = [][]int{base.Steps[1], base.Steps[0]}
	if p := swapped.plan(E4M3, E4M3); p.method != inFP32 || len(p.order) != 64 || p.order[0] != 32 || p.ranges[1] != (span{32, 32}) {
		t.Errorf("swapped: %+v", p)
	}
}

// TestFastSteps: the fast steps do what they are for, from the smallest to the largest
// alignment that leaves every result a normal number, and refuse what is beyond.
func TestFastSteps(t *testing.T) {
	u := Unit{A: BF16, C: FP32, K: 32, Steps: Consecutive(32, 32), FractionBits: 13}
	panel := func(x float64) *Panel {
		bits := make([]uint32, u.K)
		bits[0], bits[1], bits[4] = code(t, BF16, x), code(t, BF16, x), code(t, BF16, x)
		var p Panel
		p.LoadBits(BF16, bits, 1, u.K, u.K)
		return &p
	}
	for _, tc := range []struct {
		exp int
		ok  bool
	}{{-97, false}, {-96, true}, {0, true}, {99, true}, {100, true}, {101, false}} {
		a, b := panel(1), panel(math.Ldexp(1, tc.exp))
		want := float32(math.Ldexp(3, tc.exp))
		for _, u.Out = range []Output{FP32Zero, FP22Zero, FP22Nearest, FP32Nearest} {
			u.FractionBits = 13
			if got, ok := u.step32(0, a, b, 0, 0, 32); ok != tc.ok || ok && got != want {
				t.Errorf("step32 at 2^%d, %s: %g, %v", tc.exp, u.Out, got, ok)
			}
			u.FractionBits = MaxFractionBits
			if got, ok := u.step64(0, a, b, 0, 0, 32); ok != tc.ok || ok && got != want {
				t.Errorf("step64 at 2^%d, %s: %g, %v", tc.exp, u.Out, got, ok)
			}
			// Its second step has the first one's sum, 3 x 2^exp, as its addend.
			if got, ok := u.splitStep(a, b, 0, 0); ok != (tc.ok && tc.exp != 100) || ok && got != want {
				t.Errorf("splitStep at 2^%d, %s: %g, %v", tc.exp, u.Out, got, ok)
			}
		}
	}
	half := Unit{A: BF16, C: FP16, K: 32, Steps: Consecutive(32, 32), FractionBits: 13, Out: FP16Nearest}
	if got, ok := half.step32(1, panel(1), panel(2), 0, 0, 32); got != 7 || !ok {
		t.Errorf("FP16: %g, %v", got, ok)
	}
	zero := panel(0)
	for name, f := range map[string]func(*Unit, float32, *Panel, *Panel) (float32, bool){
		"step32": func(u *Unit, c float32, a, b *Panel) (float32, bool) { return u.step32(c, a, b, 0, 0, 32) },
		"step64": func(u *Unit, c float32, a, b *Panel) (float32, bool) { return u.step64(c, a, b, 0, 0, 32) },
		"exact": func(u *Unit, c float32, a, b *Panel) (float32, bool) {
			return u.exactStep(c, a.val[:32], b.val[:32])
		},
		"split": func(u *Unit, _ float32, a, b *Panel) (float32, bool) { return u.splitStep(a, b, 0, 0) },
	} {
		for _, c := range []float32{0, float32(math.Copysign(0, -1))} {
			for _, b := range []*Panel{zero, panel(1)} {
				if got, ok := f(&u, c, zero, b); math.Float32bits(got) != 0 || !ok {
					t.Errorf("%s of zeros: %g, %v", name, got, ok)
				}
			}
		}
	}
	for c, want := range map[float32][2]int32{
		0: {zeroExp, zeroExp}, 0x1p-149: {-126, -14}, 0x1p-127: {-126, -14}, 0x1p-126: {-126, -14}, 0x1p-125: {-125, -14}, -0x1p-24: {-24, -14},
		0x1p-15: {-15, -14}, 0x1p-14: {-14, -14}, 0x1p-13: {-13, -13}, -1.5: {0, 0}, 0x1p100: {100, 100},
	} {
		if got := [2]int32{u.exponent32(c), half.exponent32(c)}; got != want {
			t.Errorf("exponents of %g: %d, want %d", c, got, want)
		}
	}
	if !isFinite(1) || isFinite(float32(math.Inf(-1))) || isFinite(float32(math.NaN())) {
		t.Error("isFinite")
	}
	if _, ok := u.exactStep(0, []float64{0x1p-63}, []float64{0x1p-63 - 0x1p-87}); ok {
		t.Error("an exact sum just below 2^-126 is converted")
	}
	// Exact sums below 2^-126 are the definition's, but to FP16.
	for _, tc := range []struct {
		x  float64
		ok bool
	}{{0x1p-63, true}, {0x1p-64, false}} {
		p := panel(tc.x)
		clear(p.val[1:])
		if _, ok := u.exactStep(0, p.val, p.val); ok != tc.ok {
			t.Errorf("the exact square of %g: %v", tc.x, ok)
		}
		if got, ok := half.exactStep(0, p.val, p.val); got != 0 || !ok {
			t.Errorf("to FP16, the exact square of %g: %g, %v", tc.x, got, ok)
		}
	}
}

// TestPanelReuse: a panel that held a NaN holds ordinary numbers again, and grows.
func TestPanelReuse(t *testing.T) {
	var p Panel
	nan, one := []uint16{0x7e00, 0}, []uint16{0x3c00, 0}
	load := []func(special bool){
		func(special bool) { p.Load(FP16, map[bool][]uint16{true: nan, false: one}[special], 1, 2, 2) },
		func(special bool) {
			p.LoadBits(FP16, map[bool][]uint32{true: {0x7e00, 0}, false: {0x3c00, 0}}[special], 1, 2, 2)
		},
		func(special bool) {
			p.LoadValues(map[bool][]float32{true: {float32(math.NaN()), 0}, false: {1, 0}}[special], 1, 2, 2)
		},
		func(special bool) {
			p.Load(E4M3, map[bool][]uint16{true: {0x7f, 0}, false: {0x38, 0}}[special], 1, 2, 2)
		},
	}
	for i, f := range load {
		f(true)
		if !p.special[0] {
			t.Errorf("load %d: a NaN is not special", i)
		}
		before := &p.bits[0]
		f(false)
		if p.special[0] || p.val[0] != 1 || p.val32[0] != 1 || p.exp[0] != 0 || p.exp[1] != zeroExp {
			t.Errorf("load %d: %+v", i, p)
		}
		if before != &p.bits[0] || cap(p.special) < 1 {
			t.Errorf("load %d: a panel that is large enough is made anew", i)
		}
	}
	p.Load(FP16, make([]uint16, 12), 4, 3, 3)
	if len(p.special) != 4 || len(p.exp) != 12 {
		t.Errorf("grown to %d x %d", len(p.special), len(p.exp))
	}
	for f, table := range decodeTables {
		if (table != nil) != (Operand(f) <= E5M2) {
			t.Errorf("%s: a table of codes: %v", Operand(f), table != nil)
		}
	}
}
