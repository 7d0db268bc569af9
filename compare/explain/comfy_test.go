package explain

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/sageacc/sageacc/compare/heads"
	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/layerdumps"
)

// TestComfyNeighbours: an output of comfy-int8, said to be of a neighbour, is named by what
// differs. The output is emulated: none is recorded.
func TestComfyNeighbours(t *testing.T) {
	const queries, keys, dim = 40, 300, 64
	r := rand.New(rand.NewPCG(3, 4))
	tensor := func(name string, rows int, x []float32) layerdumps.Tensor {
		var data []byte
		for _, v := range x {
			data = binary.LittleEndian.AppendUint16(data, format.FP16FromFloat32(v))
		}
		y, err := layerdumps.NewTensor(name, format.FP16, [4]int{1, 1, rows, dim}, data)
		if err != nil {
			t.Fatal(err)
		}
		return y
	}
	draw := func(rows int, offset float64) []float32 {
		x := make([]float32, rows*dim)
		for i := range x {
			x[i] = float32(r.NormFloat64() + offset*float64(i%dim%5))
		}
		return x
	}
	l := &layerdumps.Layer{Name: "l", Q: tensor("q", queries, draw(queries, 0)), K: tensor("k", keys, draw(keys, 1)), V: tensor("v", keys, draw(keys, 0))}
	right, err := program.Preset("comfy-int8")
	if err != nil {
		t.Fatal(err)
	}
	k, err := emulate.New(right)
	if err != nil {
		t.Fatal(err)
	}
	view, err := heads.Bind(k, l)
	if err != nil {
		t.Fatal(err)
	}
	kv, err := view.Kernel.Prepare(view.KV(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	var ws emulate.Workspace
	out := make([]float32, queries*dim)
	if _, err := view.Kernel.Run(view.Kernel.Query(view.Query(0, 0), kv, &ws), &ws, 0, out, nil); err != nil {
		t.Fatal(err)
	}
	o := tensor("o", queries, out)
	l.O = &o
	for _, tc := range []struct{ path, wrong, want string }{
		{"smoothing.k", "none", "--smooth k"},
		{"qk_codes.scale", "fused", "--set qk_codes.scale=reciprocal"},
		{"v_codes.scale", "paper", "--set v_codes.scale=reciprocal"},
		{"denominator.of", "codes", "--variant none"},
		{"exponent.offset", "8", "--variant none"},
	} {
		p := right
		if err := p.Set(tc.path, tc.wrong); err != nil {
			t.Fatal(err)
		}
		res, err := Layer(t.Context(), l, Options{Program: p, Jobs: 2, MaxChanges: 1})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, h := range res.Exact {
			got = append(got, h.String())
		}
		if !slices.Contains(got, tc.want) {
			t.Errorf("%s=%s: explained by %q, want %s", tc.path, tc.wrong, got, tc.want)
		}
	}
}
