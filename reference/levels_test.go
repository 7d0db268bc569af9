package reference

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/sageacc/sageacc/reference/internal/simd"
)

// TestLevels computes whole heads with every set of loops that this machine has, and
// wants the bits of the portable ones.
func TestLevels(t *testing.T) {
	testLevels(t, simd.Single())
	testLevels(t, simd.Double())
}

func testLevels[T simd.Real](t *testing.T, levels []simd.Kernels[T]) {
	r := rand.New(rand.NewPCG(1, 2))
	draw := func(n int) []float32 {
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(3 * r.NormFloat64())
		}
		return x
	}
	for _, s := range []struct {
		rows, nk, d int
		p           Params
		odd         bool
	}{
		{rows: 70, nk: 450, d: 37, p: Params{Scale: 0.2}},
		{rows: 5, nk: 17, d: 8, p: Params{Scale: -0.3}},
		{rows: 130, nk: 200, d: 128, p: Params{Causal: true, Scale: 0.1}},
		{rows: 90, nk: 90, d: 64, p: Params{Causal: true, Scale: 0.1}, odd: true},
		{rows: 40, nk: 300, d: 20, p: Params{Windowed: true, Left: 30, Right: 2, Softcap: 5, Scale: 1}, odd: true},
		{rows: 40, nk: 300, d: 20, p: Params{Scale: 1000}},
		{rows: 3, nk: 9, d: 256, p: Params{}},
	} {
		q, k, v := draw(s.rows*s.d), draw(s.nk*s.d), draw(s.nk*s.d)
		if s.odd {
			q[3*s.d], k[50*s.d], k[80*s.d+1] = float32(math.NaN()), float32(math.Inf(1)), float32(math.NaN())
			v[20*s.d], v[21*s.d], v[60*s.d+5] = float32(math.Inf(1)), float32(math.Inf(-1)), float32(math.NaN())
		}
		s.p.RowBlock, s.p.KeyBlock = DefaultRowBlock, DefaultKeyBlock
		results := make([][]float64, len(levels))
		for i, level := range levels {
			var w scratch[T]
			out := make([]float64, s.rows*(s.d+1))
			err := attend(t.Context(), &task{Params: s.p, q: q, k: k, v: v, rows: s.rows, nk: s.nk, d: s.d}, &w, level, out[s.rows:], out[:s.rows])
			if err != nil {
				t.Fatal(err)
			}
			results[i] = out
		}
		want := results[len(results)-1]
		for i, got := range results {
			for j := range want {
				if math.Float64bits(got[j]) != math.Float64bits(want[j]) && (got[j] == got[j] || want[j] == want[j]) {
					t.Fatalf("%s, %T, %s: element %d is %x, want %x", levels[i].Name, *new(T), fmt.Sprintf("%+v", s), j, got[j], want[j])
				}
			}
		}
	}
}
