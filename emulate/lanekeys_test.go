package emulate

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/internal/vec"
	"github.com/sageacc/sageacc/emulate/program"
)

// codeCall is a call of E4M3 codes.
func codeCall(r *rand.Rand, nq, nk, d int, causal bool, q, k func() format.E4M3) *call {
	h := &call{nq: nq, nk: nk, d: d, dtype: format.FP8}
	draw := func(n int, code func() format.E4M3) []float32 {
		x := make([]float32, n*d)
		for i := range x {
			x[i] = code().Float32()
		}
		return x
	}
	h.q, h.k = draw(nq, q), draw(nk, k)
	h.v = draw(nk, func() format.E4M3 { return format.E4M3FromFloat32(float32(r.NormFloat64())) })
	h.in = QInput{Q: slicesOf(h.q, d), Len: nq, Causal: causal}
	h.kIn = KVInput{K: slicesOf(h.k, d), V: slicesOf(h.v, d), Len: nk, Dim: d, DType: h.dtype}
	return h
}

// TestCodeScores: scores of codes of every size, with units of both steps, channels in both layouts and
// tiles that rows see in part, are made by vec.Keys where there are such, and are the interpreter's.
func TestCodeScores(t *testing.T) { forLanes(t, testCodeScores) }

func testCodeScores(t *testing.T, level Level) {
	r := rand.New(rand.NewPCG(21, 8))
	sign := func() format.E4M3 { return format.E4M3(r.IntN(2)) << 7 }
	draws := []struct {
		name string
		code func() format.E4M3
	}{
		{"ordinary", func() format.E4M3 { return format.E4M3FromFloat32(float32(r.NormFloat64())) }},
		{"any", func() format.E4M3 { return format.E4M3(r.IntN(0x7f)) | sign() }},
		{"zeros", sign},
		{"some zeros", func() format.E4M3 { return format.E4M3(r.IntN(2)*r.IntN(0x40)) | sign() }},
		{"subnormal", func() format.E4M3 { return format.E4M3(r.IntN(8)) | sign() }},
		{"largest", func() format.E4M3 { return 0x7e | sign() }},
		{"far apart", func() format.E4M3 { return []format.E4M3{1, 7, 0x38, 0x7e}[r.IntN(4)] | sign() }},
	}
	all, done := 0, 0 // blocks
	const sm89 = "arch=sm_89 scores.unit.instruction=mma.m16n8k32.f32.e4m3 pv.unit.instruction=mma.m16n8k32.f32.e4m3"
	for i, tc := range []struct {
		kernel, set string
		d           int
	}{
		{"fa3-fp8", "", 64}, {"fa3-fp8", "", 128}, {"fa3-fp8", "scores.head_dim=residual32", 48}, {"fa3-fp8", "", 80},
		{"fa3-fp8-2level", "", 64}, {"flashinfer-fp8", "", 128}, {"flashinfer-fp8-paged", "", 64},
		{"fa3-fp8", sm89, 64}, {"fa3-fp8", sm89 + " scores.head_dim=residual32", 80},
		{"fa3-fp8", "operands.max_head_dim=512", MaxHeadDim},
	} {
		p, err := program.Selection{Kernel: tc.kernel, Set: strings.Fields(tc.set)}.Program()
		if err != nil {
			t.Fatal(err)
		}
		for a, q := range draws {
			for b, k := range draws {
				if a != b && (a+b+i)%9 != 0 {
					continue
				}
				// Strips of 33 rows and more, and the last of fewer.
				nq := []int{33, 64, 100, 260}[r.IntN(4)]
				h := codeCall(r, nq, []int{40, 300, 1100}[r.IntN(3)], tc.d, r.IntN(2) == 0, q.code, k.code)
				what := fmt.Sprintf("%s %s: %d queries, %s, and %d keys, %s, of %d, causal %v", tc.kernel, tc.set, h.nq, q.name, h.nk, k.name, h.d, h.in.Causal)
				kernel := h.bindAt(t, p, level)
				took, ran := compareLanes(t, kernel, h, what)
				all, done = all+took, done+ran
				kv, err := kernel.Prepare(h.kIn)
				if err != nil {
					t.Fatal(err)
				}
				got := h.run(t, kernel, kv)
				if made := kv.windows[0].scoreCodes.keys != nil; made != (level.l == vec.AVX512) {
					t.Errorf("%s: codes for scores: %v", what, made)
				}
				portable := h.bindAt(t, p, Levels()[0])
				if kv, err = portable.Prepare(h.kIn); err != nil {
					t.Fatal(err)
				}
				want := h.run(t, portable, kv)
				if d := want.differs(&got); d != "" {
					t.Errorf("%s: %s", what, d)
				}
				if t.Failed() {
					return
				}
			}
		}
	}
	// Large scores may make weights that the steps do not take.
	if t.Logf("%d blocks, of which %d ran to the end", all, done); done < all*4/5 {
		t.Errorf("%d blocks, of which %d ran to the end", all, done)
	}
}

// TestCodeScoresOdd: a NaN in K or in Q is seen, and few rows make no codes.
func TestCodeScoresOdd(t *testing.T) { forLanes(t, testCodeScoresOdd) }

func testCodeScoresOdd(t *testing.T, level Level) {
	p, err := program.Preset("fa3-fp8")
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(22, 8))
	ordinary := func() format.E4M3 { return format.E4M3FromFloat32(float32(r.NormFloat64())) }
	for _, tc := range []struct {
		name      string
		nq        int
		change    func(h *call)
		ran, made bool
	}{
		{"ordinary", 64, func(*call) {}, true, true},
		{"few rows", 32, func(*call) {}, true, false},
		{"NaN in K", 64, func(h *call) { h.k[200*h.d+5] = float32(math.NaN()) }, false, true},
		{"NaN in a key beyond the first tiles", 64, func(h *call) { h.k[899*h.d] = float32(math.NaN()) }, false, true},
		{"NaN in Q", 64, func(h *call) { h.q[20*h.d+1] = float32(math.NaN()) }, false, false},
	} {
		h := codeCall(r, tc.nq, 900, 64, false, ordinary, ordinary)
		tc.change(h)
		k := h.bindAt(t, p, level)
		if took, ran := compareLanes(t, k, h, tc.name); took == 0 || (ran == took) != tc.ran {
			t.Errorf("%s: %d blocks taken, %d run", tc.name, took, ran)
		}
		kv, err := k.Prepare(h.kIn)
		if err != nil {
			t.Fatal(err)
		}
		got := h.run(t, k, kv)
		if made := kv.windows[0].scoreCodes.keys != nil; made != (tc.made && level.l == vec.AVX512) {
			t.Errorf("%s: codes for scores: %v", tc.name, made)
		}
		portable := h.bindAt(t, p, Levels()[0])
		if kv, err = portable.Prepare(h.kIn); err != nil {
			t.Fatal(err)
		}
		if want := h.run(t, portable, kv); want.differs(&got) != "" {
			t.Errorf("%s: %s", tc.name, want.differs(&got))
		}
	}
}

// TestCodeScoresShared: kernels whose units take steps of 32 and of 16, those with another layout of
// channels and those without vectors each have their own, whichever of them prepared K and whichever came
// first.
func TestCodeScoresShared(t *testing.T) { forLanes(t, testCodeScoresShared) }

func testCodeScoresShared(t *testing.T, level Level) {
	r := rand.New(rand.NewPCG(23, 8))
	ordinary := func() format.E4M3 { return format.E4M3FromFloat32(float32(r.NormFloat64())) }
	h := codeCall(r, 64, 300, 80, false, ordinary, ordinary)
	var kernels []*Kernel
	var want []result
	for _, set := range []string{"", "scores.unit.step=16", "scores.unit.fraction_bits=14", "scores.head_dim=residual32", "pv.unit.fraction_bits=30"} {
		p, err := program.Selection{Kernel: "fa3-fp8", Set: strings.Fields(set)}.Program()
		if err != nil {
			t.Fatal(err)
		}
		res, _, _ := runCall(t, p, Levels()[0], h)
		kernels, want = append(kernels, h.bindAt(t, p, level)), append(want, res)
		if n := len(want); n > 1 && want[n-2].differs(&res) == "" {
			t.Errorf("%s changes nothing", set)
		}
	}
	for _, by := range kernels {
		for first := range kernels {
			kv, err := by.Prepare(h.kIn)
			if err != nil {
				t.Fatal(err)
			}
			for j := range kernels {
				i := (first + j) % len(kernels)
				if got := h.run(t, kernels[i], kv); want[i].differs(&got) != "" {
					t.Errorf("kernel %d, as number %d from %d: %s", i, j, first, want[i].differs(&got))
				}
			}
		}
	}
}

// TestCodeScoresTogether: goroutines that want a window's codes at the same time share them.
func TestCodeScoresTogether(t *testing.T) { forLanes(t, testCodeScoresTogether) }

func testCodeScoresTogether(t *testing.T, level Level) {
	r := rand.New(rand.NewPCG(26, 8))
	ordinary := func() format.E4M3 { return format.E4M3FromFloat32(float32(r.NormFloat64())) }
	h := codeCall(r, 64, 300, 64, false, ordinary, ordinary)
	p, err := program.Preset("fa3-fp8")
	if err != nil {
		t.Fatal(err)
	}
	want, _, _ := runCall(t, p, Levels()[0], h)
	k := h.bindAt(t, p, level)
	kv, err := k.Prepare(h.kIn)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			var ws Workspace
			got := result{out: make([]float32, h.nq*h.d), lse: make([]float32, h.nq)}
			if _, err := k.RunBlocks(t.Context(), k.Query(h.in, kv, &ws), &ws, 0, k.Blocks(h.nq), got.out, got.lse); err != nil {
				t.Error(err)
			}
			got.counts = ws.Counts
			got.counts.Merge(&kv.Counts)
			if d := want.differs(&got); d != "" {
				t.Error(d)
			}
		})
	}
	wg.Wait()
	if made := kv.windows[0].scoreCodes.keys != nil; made != (level.l == vec.AVX512) {
		t.Errorf("codes for scores: %v", made)
	}
}

// TestCodeScoresStreamed: windows that are made anew have codes of their own keys.
func TestCodeScoresStreamed(t *testing.T) { forLanes(t, testCodeScoresStreamed) }

func testCodeScoresStreamed(t *testing.T, level Level) {
	r := rand.New(rand.NewPCG(24, 8))
	ordinary := func() format.E4M3 { return format.E4M3FromFloat32(float32(r.NormFloat64())) }
	h := codeCall(r, 260, 2500, 64, false, ordinary, ordinary)
	p, err := program.Preset("fa3-fp8")
	if err != nil {
		t.Fatal(err)
	}
	want, _, _ := runCall(t, p, Levels()[0], h)
	h.kIn.Stream = true
	k := h.bindAt(t, p, level)
	kv, err := k.Prepare(h.kIn)
	if err != nil {
		t.Fatal(err)
	}
	if kv.windowCount() < 2 || kv.windows != nil {
		t.Fatalf("%d windows, kept %v", kv.windowCount(), kv.windows != nil)
	}
	if got := h.run(t, k, kv); want.differs(&got) != "" {
		t.Error(want.differs(&got))
	}
}

// TestCodesOfScores: which scores vec.Keys makes.
func TestCodesOfScores(t *testing.T) { forLanes(t, testCodesOfScores) }

func testCodesOfScores(t *testing.T, level Level) {
	for _, tc := range []struct {
		kernel, set string
		keys        int // of tiles, if not the kernel's
		want        bool
	}{
		{"fa3-fp8", "", 0, true},
		{"fa3-fp8", "", 48, false}, {"fa3-fp8", "", 256, true},
		{"fa3-fp8", "scores.unit.instruction=mma.m16n8k32.f32.e4m3", 0, false}, // 25 fraction bits, on sm_90
		{"fa3-fp8", "scores.unit.fraction_bits=14", 0, false},
		{"fa3-fp8", "scores.unit.sum_round=fp32-zero", 0, false},
		{"fa3-fp8", "scores.unit.step=16", 0, true},
		{"fa3", "", 0, false}, {"sparge-sm90", "", 0, false},
		{"fa3", "scores.unit.instruction=exact", 0, false},
	} {
		p, err := program.Selection{Kernel: tc.kernel, Set: strings.Fields(tc.set)}.Program()
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
		if tc.keys > 0 {
			k.tiling.BlockK = tc.keys
		}
		if got := k.codesOfScores().ok; got != (tc.want && level.l == vec.AVX512) {
			t.Errorf("%s %s, tiles of %d keys: %v", tc.kernel, tc.set, tc.keys, got)
		}
	}
}
