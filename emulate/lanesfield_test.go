package emulate

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/internal/vec"
	"github.com/sageacc/sageacc/emulate/mufu"
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/emulate/tensorcore"
)

// TestLanesField: heads of ordinary numbers run on vectors to the end with choices that no known
// kernel has, or that it has in other shapes, and give what the interpreter gives, after all tiles
// and at the end. The results could not tell that they did.
func TestLanesField(t *testing.T) { forLanes(t, testLanesField) }

func testLanesField(t *testing.T, level Level) {
	for _, tc := range []struct {
		kernel string
		set    string
		shapes [][3]int // queries, keys, head_dim
	}{
		// Units that round exact sums. Of BF16 there is none.
		{"fa2 of FP16", "arch=ideal", [][3]int{{70, 300, 64}}},
		{"fa3 of FP16", "arch=ideal", [][3]int{{70, 300, 65}}},
		{"sdpa-efficient of FP16", "arch=ideal", [][3]int{{40, 300, 130}}},
		{"sage-fp16-cuda of FP16", "arch=ideal", [][3]int{{70, 300, 64}}},
		{"fa3-fp8", "arch=ideal", [][3]int{{70, 300, 64}}},
		{"sage2-8b-sm90", "arch=ideal p.format=e5m2 v_codes.format=e5m2 pv.unit.instruction=wgmma.m64nNk32.f32.e5m2", [][3]int{{70, 300, 64}}},
		{"sage2-8b-sm90", "arch=ideal p.format=fp16 v_codes.format=fp16 pv.unit.instruction=wgmma.m64nNk16.f16.f16 v_codes.scale=none v_codes.max=0 finish.scale=none", [][3]int{{70, 300, 64}}},
		// O in memory: one tile, which is first and last, two, and more; fewer rows than a block has.
		{"sdpa-efficient", "", [][3]int{{40, 100, 136}, {5, 200, 256}, {33, 300, 129}, {8, 1100, 512}}},
		{"sdpa-efficient", "operands.subnormals=flush exponent.exp2=ex2.approx.ftz", [][3]int{{40, 300, 144}}},
		{"fa3", "pv.level=tile pv.join=memory finish.inverse=exact", [][3]int{{150, 500, 64}}},
		// Exponentials one by one.
		{"fa3", "exponent.exp2=exact", [][3]int{{70, 300, 64}}},
		{"sdpa-efficient", "exponent.exp2=exact", [][3]int{{70, 300, 64}}},
		{"fa2", "exponent.exp2=ex2.approx", [][3]int{{70, 300, 64}}},
		{"fa2", "exponent.exp2=exact exponent.round=twice", [][3]int{{70, 300, 64}}},
		{"sage2-8b-sm90", "exponent.exp2=exact", [][3]int{{70, 300, 64}}},
		// Exact scores, P, V and sums, of all keys and of tiles, in orders of keys that are not their own too.
		{"fa3", "scores.unit.instruction=exact", [][3]int{{70, 300, 64}, {130, 300, 63}}},
		{"fa2", "qk_codes.format=exact qk_codes.scale=none qk_codes.round=none exponent.exp2=exact", [][3]int{{20, 300, 64}}},
		{"fa3", "pv.unit.instruction=exact", [][3]int{{70, 300, 64}, {130, 1300, 61}}},
		{"sdpa-efficient", "pv.unit.instruction=exact pv.join=none pv.level=all", [][3]int{{40, 300, 70}}},
		{"fa3", "pv.unit.instruction=exact p.format=exact p.round=none v_codes.format=exact", [][3]int{{70, 300, 62}}},
		{"sage-fp16-triton", "pv.unit.instruction=exact p.format=exact p.round=none", [][3]int{{70, 300, 64}}},
		{"fa3", "pv.unit.instruction=exact pv.level=16 pv.join=fma", [][3]int{{70, 300, 63}}},
		{"fa3", "pv.unit.instruction=exact pv.level=tile pv.join=memory finish.inverse=exact", [][3]int{{70, 500, 64}}},
		{"sage2-8b-sm90", "pv.unit.instruction=exact pv.level=all pv.join=none p.format=exact p.round=none", [][3]int{{70, 300, 63}}},
		{"sage2-8b-sm90", "pv.unit.instruction=exact pv.level=tile p.format=exact p.round=none v_codes.format=int8 v_codes.max=127", [][3]int{{70, 300, 64}}},
		{"flashinfer-fp8", "pv.unit.instruction=exact pv.level=all pv.join=none", [][3]int{{70, 300, 128}}},
		{"comfy-int8", "pv.unit.instruction=exact pv.level=all pv.join=none pv.rescale=fp32", [][3]int{{70, 300, 64}}},
		// Units that take exact operands.
		{"fa3", "p.format=exact p.round=none", [][3]int{{70, 300, 64}, {130, 1300, 63}}},
		{"fa3", "v_codes.format=exact", [][3]int{{20, 300, 64}}},
		{"fa2", "p.format=exact p.round=none v_codes.format=exact", [][3]int{{70, 300, 61}}},
		{"sage2-8b-sm90", "p.format=exact p.round=none", [][3]int{{70, 300, 64}}},
		{"sage2-8b-sm90", "p.format=exact p.round=none pv.unit.instruction=mma.m16n8k32.f32.e4m3", [][3]int{{70, 300, 64}}},
		{"sage-fp16-cuda", "p.format=exact p.round=none denominator.of=p denominator.unit=none denominator.order=sequential", [][3]int{{70, 300, 62}}},
		{"sage-fp16-triton", "v_codes.format=exact v_codes.round=none", [][3]int{{70, 300, 64}}},
		// P toward zero, in each of its formats.
		{"fa3", "p.round=zero", [][3]int{{70, 300, 64}}},
		{"fa3-fp8", "p.round=zero", [][3]int{{70, 300, 64}}},
		{"flashinfer-fp8", "p.round=zero", [][3]int{{70, 300, 128}}},
		{"sage2-8b-sm90", "p.round=zero", [][3]int{{70, 300, 64}}},
		{"comfy-int8", "p.round=zero", [][3]int{{70, 300, 64}}},
		{"sage2-8b-sm90", "p.round=zero p.format=e5m2 v_codes.format=e5m2 pv.unit.instruction=wgmma.m64nNk32.f32.e5m2", [][3]int{{70, 300, 64}}},
		{"sage2-8b-sm90", "p.round=zero p.format=int8 v_codes.format=int8 pv.unit.instruction=wgmma.m64nNk32.s32.s8 exponent.offset=6.98868 v_codes.max=127", [][3]int{{70, 300, 64}}},
		// Units that unpack FP8 take keys in another order, and add apart.
		{"fa3-fp8", "pv.unit.instruction=mma.m16n8k32.f32.e4m3", [][3]int{{70, 300, 64}, {70, 300, 65}}},
		{"fa3-fp8", "scores.unit.instruction=mma.m16n8k32.f32.e4m3", [][3]int{{70, 300, 64}, {70, 300, 33}}},
		{"flashinfer-fp8", "pv.unit.instruction=mma.m16n8k32.f32.e4m3", [][3]int{{70, 300, 128}}},
		// Sums of a part of a tile, of whole numbers too.
		{"comfy-int8", "pv.level=32", [][3]int{{70, 300, 64}, {70, 300, 63}}},
		{"fa3", "pv.level=16 pv.join=fma", [][3]int{{70, 300, 64}, {70, 300, 63}}},
		// Channels that make no whole groups.
		{"fa2", "", [][3]int{{70, 300, 63}, {130, 300, 97}}},
		{"fa3", "", [][3]int{{70, 300, 1}, {200, 300, 127}, {70, 300, 186}}},
		{"fa3-fp8", "", [][3]int{{70, 300, 63}}},
		{"sage-fp16-cuda", "", [][3]int{{70, 300, 63}, {70, 300, 62}}},
		{"sage-fp16-triton", "", [][3]int{{70, 300, 61}}},
		{"sparge-sm90", "", [][3]int{{70, 300, 63}, {70, 1300, 2}}},
		{"comfy-int8", "", [][3]int{{70, 200, 63}, {70, 300, 65}}},
	} {
		set := strings.Fields(tc.set)
		for _, shape := range tc.shapes {
			name, half := strings.CutSuffix(tc.kernel, " of FP16")
			s, dtype := program.Selection{Kernel: name, Set: set}, format.BF16
			if half {
				dtype = format.FP16
			}
			testField(t, level, s, shape, format.FP16, false)
			testField(t, level, s, shape, dtype, true)
		}
	}
}

// testField runs one head, causal where the kernel knows that.
func testField(t *testing.T, level Level, s program.Selection, shape [3]int, dtype format.DType, causal bool) {
	t.Helper()
	what := fmt.Sprintf("%s %v, %v of %s", s.Kernel, s.Set, shape, dtype)
	p, err := s.Program()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	causal = causal && p.Mask.Causal != "none"
	r := rand.New(rand.NewPCG(8, uint64(shape[2])))
	h := &call{nq: shape[0], nk: shape[1], d: shape[2], dtype: dtype}
	draw := func(n int) Rows {
		x := make([]float32, n*h.d)
		for i := range x {
			x[i] = dtype.Round(float32(r.NormFloat64()))
		}
		return slicesOf(x, h.d)
	}
	h.in = QInput{Q: draw(h.nq), Len: h.nq, Causal: causal}
	h.kIn = KVInput{K: draw(h.nk), V: draw(h.nk), Len: h.nk, Dim: h.d, DType: dtype}
	k, err := NewAt(p, level)
	if err == nil {
		k, err = h.bind(k)
	}
	if err == nil {
		err = k.Supports(h.in)
	}
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if took, ran := compareLanes(t, k, h, what); took == 0 || ran != took {
		t.Errorf("%s: %d blocks taken, %d run of %d", what, took, ran, k.Blocks(h.nq))
	}
	want, _, _ := runCall(t, p, Levels()[0], h)
	if got, _, _ := runCall(t, p, level, h); want.differs(&got) != "" {
		t.Errorf("%s: %s", what, want.differs(&got))
	}
}

// TestScalar: Scalar names the choice without which a description has no steps on vectors, whatever
// the machine, and nothing where it has them.
func TestScalar(t *testing.T) {
	for _, tc := range []struct{ kernel, set, want string }{
		{"fa3", "", ""},
		{"sage2-8b-sm90", "", ""},
		{"sage2-8b-sm90", "pv.unit.fraction_bits=12", ""},
		{"fa3", "pv.unit.sum_round=fp32-nearest", "pv.unit: wgmma.m64nNk16.f32.f16 as sm_90 executes it"},
		{"fa3", "scores.unit.sum_round=fp32-nearest", "scores.unit: wgmma.m64nNk16.f32.f16 as sm_90 executes it"},
		{"fa3", "scores.unit.instruction=exact", ""},
		{"fa3", "pv.unit.instruction=exact", ""},
		{"fa3", "p.format=exact p.round=none", ""},
		{"sage2-8b-sm90", "p.format=exact p.round=none arch=ideal", "pv.unit: wgmma.m64nNk32.f32.e4m3 as ideal executes it"},
		{"sparge-sm90", "scores.tail_tiles=0", "scores.tail_tiles: 0"},
		{"sage2-4b", "p.round=zero pv.level=8 pv.unit.instruction=mma.m16n8k8.f32.f16 p.format=fp16 v_codes.format=fp16 v_codes.scale=none v_codes.max=0 finish.scale=none", "pv.level: 8"},
	} {
		p, err := program.Selection{Kernel: tc.kernel, Set: strings.Fields(tc.set)}.Program()
		if err != nil {
			t.Errorf("%s %s: %v", tc.kernel, tc.set, err)
			continue
		}
		for _, level := range Levels() {
			k, err := NewAt(p, level)
			if err != nil {
				t.Fatal(err)
			}
			bound, err := k.For(64, format.FP16, false)
			if err != nil {
				t.Fatal(err)
			}
			for _, k := range []*Kernel{k, bound} {
				if got := k.Scalar(); got != tc.want {
					t.Errorf("%s %s, %s: %q, want %q", tc.kernel, tc.set, level, got, tc.want)
				}
			}
			if steps := bound.VectorSteps(); level.l.Lanes() && bound.Portable() != "" && steps != (tc.want == "") {
				t.Errorf("%s %s, %s: steps %v, and %q", tc.kernel, tc.set, level, steps, tc.want)
			}
		}
	}
}

// TestSlowWeights: weights that are exact, and those one by one, are given up where an exponent is 128 or none.
func TestSlowWeights(t *testing.T) { forLanes(t, testSlowWeights) }

func testSlowWeights(t *testing.T, level Level) {
	for _, set := range [][]string{{"exponent.exp2=exact"}, {"exponent.exp2=ex2.approx", "operands.subnormals=flush"}} {
		testSlow(t, level, set)
	}
}

func testSlow(t *testing.T, level Level, set []string) {
	p, err := program.Selection{Kernel: "fa3", Set: set}.Program()
	if err != nil {
		t.Fatal(err)
	}
	k, err := NewAt(p, level)
	if err == nil {
		k, err = k.For(64, format.FP16, false)
	}
	if err != nil {
		t.Fatal(err)
	}
	for x, want := range map[float32]bool{128: false, math.Nextafter32(128, 0): true, float32(math.NaN()): false, float32(math.Inf(-1)): true} {
		l := &lanes{laneScored: &laneScored{s: make([]float32, k.tiling.BlockK*vec.Rows)}}
		for i := range l.scale {
			l.scale[i] = 1
		}
		const at = 13*vec.Rows + 5
		l.s[at] = x
		if got := k.laneWeights(l); got != want || got && l.s[at] != k.ex2(x) {
			t.Errorf("an exponent of %g: %v, and the weight is %g", x, got, l.s[at])
		}
	}
	// Operands whose subnormal numbers count, or do not, and one of each that is ordinary.
	for _, keep := range []bool{false, true} {
		if keep && k.prog.Exponent.Exp2 != "exact" {
			continue // what is flushed is its own
		}
		k := *k
		k.arith = arith{keep}
		for _, tc := range [][3]float32{{0x1p-128, 0x1p126, 0}, {0x1p126, 0x1p-128, 0}, {0x1p-126, 0x1p126, 0}, {3, 0.25, 7}, {3, 1.1, -2.3}} {
			l := &lanes{laneScored: &laneScored{s: make([]float32, k.tiling.BlockK*vec.Rows)}}
			const at = 13*vec.Rows + 5
			l.s[at], l.scale[2*vec.Rows+5], l.lower[2*vec.Rows+5] = tc[0], tc[1], tc[2]
			want := k.ex2(k.arith.mulAdd(tc[0], tc[1], -tc[2], k.prog.Exponent.Round == "twice"))
			if !k.laneWeights(l) || l.s[at] != want {
				t.Errorf("keep %v: the weight of %g is %g, want %g", keep, tc, l.s[at], want)
			}
		}
	}
}

// TestNarrow: an output that is not finite is seen.
func TestNarrow(t *testing.T) {
	for x, want := range map[float64]bool{1e300: false, math.Inf(-1): false, math.NaN(): false, 0.1: true, -3e38: true} {
		st := laneStrip{o: make([]float32, 4), o64: []float64{1, 2, x, 3, 5, 6, 7, 8}}
		if got := st.narrow(); got != want || got && (st.o[2] != float32(x) || st.o[3] != 3) {
			t.Errorf("%g: finite %v, as %g", x, got, st.o)
		}
	}
}

// TestFinishMemory: a row that is finished already is rounded alone, and its subnormal numbers stay.
func TestFinishMemory(t *testing.T) { forLanes(t, testFinishMemory) }

func testFinishMemory(t *testing.T, level Level) {
	p, err := program.Selection{Kernel: "sdpa-efficient", Set: []string{"operands.subnormals=flush", "exponent.exp2=ex2.approx.ftz", "operands.output=fp32"}}.Program()
	if err != nil {
		t.Fatal(err)
	}
	k, err := NewAt(p, level)
	if err == nil {
		k, err = k.For(256, format.BF16, false)
	}
	if err != nil {
		t.Fatal(err)
	}
	kv := &KV{in: KVInput{DType: format.BF16}, kernel: k}
	divisor := mufu.NewDivisor(3, false)
	o, out := make([]float32, 32), make([]float32, 32)
	for i := range o {
		o[i] = float32(math.Ldexp(1.25, 10-5*i))
	}
	if !k.finishVector(kv, &divisor, 3, o, out) || !slices.Equal(o, out) {
		t.Errorf("%g becomes %g", o, out)
	}
}

// TestVecUnits: each unit that the vector kernels have is one of the table, all of it.
func TestVecUnits(t *testing.T) {
	table := tensorcore.Units()
	for _, x := range vecUnits {
		if !slices.ContainsFunc(table, func(u tensorcore.Unit) bool { return u.Same(&x.unit) }) {
			t.Errorf("%+v is not in the table", x.unit)
		}
	}
}
