package emulate

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/program"
)

// Where all keys fit one tile, its width is padding: tiles that the instruction's depth
// does not divide give what wider ones give.
func TestRaggedTiles(t *testing.T) {
	const keys, queries, d = 14, 20, 64
	r := rand.New(rand.NewPCG(96, 0))
	draw := func(n int) Rows {
		x := make([]float32, n*d)
		for i := range x {
			x[i] = format.RoundFP16(float32(r.NormFloat64()))
		}
		return func(lo, hi int, dst []float32) { copy(dst, x[lo*d:hi*d]) }
	}
	q, k, v := draw(queries), draw(keys), draw(keys)
	run := func(width string, set ...string) []float32 {
		p, err := program.Load("../kernels/attention/custom/reverse96.program.yaml")
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(set); i += 2 {
			if err := p.Set(set[i], set[i+1]); err != nil {
				t.Fatal(err)
			}
		}
		if err := p.Set("tiles.shapes.0.keys", width); err != nil {
			t.Fatal(err)
		}
		kernel, err := New(p)
		if err != nil {
			t.Fatal(err)
		}
		kv, err := kernel.Prepare(KVInput{K: k, V: v, Len: keys, Dim: d, DType: format.FP16})
		if err != nil {
			t.Fatal(err)
		}
		var ws Workspace
		out := make([]float32, queries*d)
		kernel.Run(kernel.Query(QInput{Q: q, Len: queries}, kv, &ws), &ws, 0, out, nil)
		return out
	}
	for _, set := range [][]string{
		{},
		{"pv.level", "tile", "pv.join", "fma"},
		{"denominator.of", "ones", "denominator.order", "chain", "denominator.unit", "mma.m16n8k32.f32.e4m3"},
		{"p.format", "exact", "p.round", "none"},
		{"v_codes.order", "permuted16"},
	} {
		want := run("96", set...)
		for _, width := range []int{16, 32, 48, 80, 112} {
			if got := run(fmt.Sprint(width), set...); !slices.Equal(got, want) {
				t.Errorf("%v: a tile of %d keys gives another output than one of 96", set, width)
			}
		}
	}
}
