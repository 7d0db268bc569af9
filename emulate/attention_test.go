package emulate_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/metrics"
	"github.com/sageacc/sageacc/reference"
)

// A head through the released sm_90 kernel, compared with full precision.
func Example() {
	const tokens, dim = 100, 64
	q, k, v := noise(tokens*dim, 1), noise(tokens*dim, 2), noise(tokens*dim, 3)

	kernel, _ := program.Preset("sage2-8b-sm90")
	out, _, err := emulate.Attention(context.Background(), kernel, emulate.Head{Q: q, K: k, V: v, Dim: dim, DType: format.FP16, Causal: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	exact := make([]float64, len(q))
	_ = reference.Attention(context.Background(), reference.Params{Causal: true}, q, k, v, 0, tokens, tokens, dim, nil, exact, nil)
	var a metrics.Accuracy
	a.Add64(out, exact)
	fmt.Printf("cosine similarity %.4f, relative L1 %.3f\n", float64(a.Values().CosSim), float64(a.Values().RelL1))
	// Output: cosine similarity 0.9995, relative L1 0.032
}

// noise is n FP16 numbers of a normal distribution.
func noise(n int, seed uint64) []float32 {
	r := rand.New(rand.NewPCG(seed, 0))
	x := make([]float32, n)
	for i := range x {
		x[i] = format.RoundFP16(float32(r.NormFloat64()))
	}
	return x
}

// TestAttention holds the call to the parts that it is made of, and to itself on another
// number of processors.
func TestAttention(t *testing.T) {
	for _, p := range sage2() {
		h := randomHead(3, 300, 400, 48, format.BF16)
		h.causal = true
		want, _, _ := h.run(t, p)
		for _, procs := range []int{1, 3} {
			old := runtime.GOMAXPROCS(procs)
			out, lse, err := emulate.Attention(t.Context(), p, emulate.Head{Q: h.q, K: h.k, V: h.v, Dim: h.d, DType: h.dtype, Causal: true})
			runtime.GOMAXPROCS(old)
			if err != nil {
				t.Fatal(err)
			}
			same(t, p.Name, out, want)
			// Against full precision: the correction for a smoothed K is in it.
			exact, exactLSE := make([]float64, len(out)), make([]float64, h.nq)
			if err := reference.Attention(t.Context(), reference.Params{Precision: reference.FP64, Causal: true}, h.q, h.k, h.v, 0, h.nq, h.nk, h.d, nil, exact, exactLSE); err != nil {
				t.Fatal(err)
			}
			for i := range lse {
				if bound := 0.05 + 0.3*float64(1-p.Bits()/8); !(math.Abs(float64(lse[i])-exactLSE[i]) < bound) {
					t.Fatalf("%s: lse[%d] is %v, in full precision %v", p.Name, i, lse[i], exactLSE[i])
				}
			}
		}
	}
}

// TestAttentionFewQueries: a shape that a kernel has for few queries is taken for them.
func TestAttentionFewQueries(t *testing.T) {
	const d, keys, few, many = 128, 500, 30, 65
	p, err := program.Preset("fa3-fp8-2level")
	if err != nil {
		t.Fatal(err)
	}
	q, k, v := noise(many*d, 1), noise(keys*d, 2), noise(keys*d, 3)
	for i := range q {
		q[i] = min(max(q[i], -3), 3) // the scale is that of the largest
	}
	q[0] = 3
	run := func(n int) []float32 {
		out, _, err := emulate.Attention(t.Context(), p, emulate.Head{Q: q[:n*d], K: k, V: v, Dim: d, DType: format.FP16})
		if err != nil {
			t.Fatal(err)
		}
		return out[:few*d]
	}
	got, whole := run(few), run(many)
	p.Tiles.Shapes = slices.DeleteFunc(p.Tiles.Shapes, func(s program.Shape) bool { return s.MaxQueries != 0 })
	if !slices.Equal(run(many), whole) || !slices.Equal(run(few), whole) || slices.Equal(got, whole) {
		t.Error("30 queries take the tiles of 65")
	}
}

// TestScaleZero: a scale of 0 is 1/sqrt(head_dim), in the emulator and the reference.
func TestScaleZero(t *testing.T) {
	h := randomHead(3, 30, 40, 48, format.FP16)
	sm := 1 / math.Sqrt(48)
	for _, p := range program.Presets() {
		var out [2][]float32
		for i, scale := range []float64{0, sm} {
			var err error
			if out[i], _, err = emulate.Attention(t.Context(), p, emulate.Head{Q: h.q, K: h.k, V: h.v, Dim: h.d, DType: h.dtype, Scale: scale}); err != nil {
				t.Skip(err)
			}
		}
		same(t, p.Name, out[0], out[1])
	}
	var exact [2][]float64
	for i, scale := range []float64{0, sm} {
		exact[i] = make([]float64, len(h.q))
		if err := reference.Attention(t.Context(), reference.Params{Scale: scale}, h.q, h.k, h.v, 0, h.nq, h.nk, h.d, nil, exact[i], nil); err != nil {
			t.Fatal(err)
		}
	}
	for i := range exact[0] {
		if exact[0][i] != exact[1][i] {
			t.Fatalf("reference: element %d is %v and %v", i, exact[0][i], exact[1][i])
		}
	}
}

// TestAttentionRefuses: what is wrong with a head is an error in one line, never a panic.
func TestAttentionRefuses(t *testing.T) {
	ok := func() emulate.Head {
		return emulate.Head{Q: make([]float32, 8), K: make([]float32, 12), V: make([]float32, 12), Dim: 4, DType: format.FP16}
	}
	p := sage2()[2]
	if _, _, err := emulate.Attention(t.Context(), p, ok()); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		change func(*emulate.Head)
		want   string
	}{
		{func(h *emulate.Head) { h.Q = h.Q[:7] }, "Q has 7 elements, which are no rows of 4 channels"},
		{func(h *emulate.Head) { h.Q = nil }, "Q has 0 elements"},
		{func(h *emulate.Head) { h.K = nil }, "K has 0 elements"},
		{func(h *emulate.Head) { h.V = h.V[:8] }, "K has 3 rows and V 2"},
		{func(h *emulate.Head) { h.Dim = 0 }, "head_dim 0"},
		{func(h *emulate.Head) { h.Dim = -4 }, "head_dim -4"},
		{func(h *emulate.Head) { h.Dim = 1 << 20 }, "head_dim 1048576"},
		{func(h *emulate.Head) { h.DType = 9 }, "there is no dtype 9"},
		{func(h *emulate.Head) { h.Scale = math.NaN() }, "scale NaN is not finite"},
		{func(h *emulate.Head) { h.Scale = 1e300 }, "scale 1e+300 is not finite"},
		{func(h *emulate.Head) { h.K[5] = 1.0001 }, "K[5] = 1.0001 is no FP16 number"},
	} {
		h := ok()
		tc.change(&h)
		_, _, err := emulate.Attention(t.Context(), p, h)
		if !errors.Is(err, emulate.ErrHead) || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("error %v, want %s", err, tc.want)
		}
	}
	if _, _, err := emulate.Attention(t.Context(), program.Program{}, ok()); err == nil {
		t.Error("a program of nothing runs")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := emulate.Attention(ctx, p, ok()); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// TestRunRefuses: blocks and rows that there are not, and slices too short for them.
func TestRunRefuses(t *testing.T) {
	h := randomHead(3, 130, 40, 16, format.FP16)
	k, err := emulate.New(sage2()[2])
	if err != nil {
		t.Fatal(err)
	}
	in := emulate.KVInput{K: matrix(h.k, h.d), V: matrix(h.v, h.d), Len: h.nk, Dim: h.d, KMean: make([]float32, 3)}
	if _, err := k.Prepare(in); err == nil {
		t.Error("a mean of 3 channels is taken")
	}
	in.KMean = nil
	kv, err := k.Prepare(in)
	if err != nil {
		t.Fatal(err)
	}
	var ws emulate.Workspace
	q := k.Query(emulate.QInput{Q: matrix(h.q, h.d), Len: h.nq}, kv, &ws)
	bq := k.Tiling().BlockQ
	last := k.Blocks(h.nq) - 1
	rows := h.nq - last*bq
	out, lse := make([]float32, bq*h.d), make([]float32, bq)
	for _, tc := range []struct {
		block    int
		out, lse []float32
		ok       bool
	}{
		{0, out, lse, true}, {0, out, nil, true}, {last, out[:rows*h.d], lse[:rows], true},
		{-1, out, lse, false}, {last + 1, out, lse, false}, {0, out[:bq*h.d-1], lse, false}, {0, nil, nil, false},
		{0, out, lse[:bq-1], false}, {last, out[:rows*h.d], lse[:rows-1], false}, {0, out, []float32{}, false},
	} {
		if _, err := k.Run(q, &ws, tc.block, tc.out, tc.lse); (err == nil) != tc.ok {
			t.Errorf("block %d, %d and %d elements: %v", tc.block, len(tc.out), len(tc.lse), err)
		}
	}
	if _, err := k.RunBlocks(t.Context(), q, &ws, 0, last+2, make([]float32, 1<<20), nil); err == nil {
		t.Error("more blocks than there are")
	}
	for _, tc := range []struct {
		block int
		pick  []int
		n     int
		ok    bool
	}{
		{0, []int{0, 5}, 2, true}, {0, nil, 0, true}, {0, []int{0, 5}, 1, false}, {0, []int{5, 0}, 2, false}, {0, []int{-1}, 1, false},
		{0, []int{bq}, 1, false}, {last, []int{rows - 1}, 1, true}, {last, []int{rows}, 1, false}, {last + 1, []int{0}, 1, false}, {-1, []int{0}, 1, false},
	} {
		if err := k.RunRows(q, &ws, tc.block, tc.pick, make([]float32, tc.n*h.d)); (err == nil) != tc.ok {
			t.Errorf("rows %v of block %d into %d: %v", tc.pick, tc.block, tc.n, err)
		}
	}
}
