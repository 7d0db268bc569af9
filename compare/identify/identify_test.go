package identify

import (
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/compare/heads"
	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/layerdumps"
	"github.com/sageacc/sageacc/layerdumps/safetensors"
)

// dump makes a layer of two heads whose actual output is that of the kernel, changed by
// spoil.
func dump(t *testing.T, s program.Selection, tokens int, spoil func(i int, x float32) float32) *layerdumps.Dump {
	t.Helper()
	const nHeads, dim = 2, 64
	r := rand.New(rand.NewPCG(1, 2))
	tensor := func(name string, x []float32) safetensors.Tensor {
		var data []byte
		for _, y := range x {
			data = binary.LittleEndian.AppendUint16(data, uint16(format.FP16.Bits(y)))
		}
		return safetensors.Tensor{Name: "l." + name, DType: "F16", Shape: []int{1, nHeads, tokens, dim}, Data: data}
	}
	write := func(ts []safetensors.Tensor) *layerdumps.Dump {
		path := filepath.Join(t.TempDir(), "l.safetensors")
		if err := safetensors.Write(path, map[string]string{"layout": "HND"}, ts); err != nil {
			t.Fatal(err)
		}
		d, err := layerdumps.Open([]string{path}, layerdumps.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Close() })
		return d
	}
	var ts []safetensors.Tensor
	for _, name := range []string{"q", "k", "v"} {
		x := make([]float32, nHeads*tokens*dim)
		for i := range x {
			x[i] = float32(r.NormFloat64())
			if name == "k" && i%dim == 3 {
				x[i] += 3
			}
		}
		ts = append(ts, tensor(name, x))
	}
	if s.Kernel == "" {
		return write(ts)
	}
	p, err := s.Program()
	if err != nil {
		t.Fatal(err)
	}
	k, err := emulate.New(p)
	if err != nil {
		t.Fatal(err)
	}
	l, err := heads.Bind(k, &write(ts).Layers[0])
	if err != nil {
		t.Fatal(err)
	}
	out := make([]float32, nHeads*tokens*dim)
	var ws emulate.Workspace
	for h := range nHeads {
		kv, err := l.Kernel.Prepare(l.KV(0, h))
		if err != nil {
			t.Fatal(err)
		}
		q := l.Kernel.Query(l.Query(0, h), kv, &ws)
		for b := range l.Kernel.Blocks(tokens) {
			l.Kernel.Run(q, &ws, b, out[(h*tokens+b*l.Kernel.Tiling().BlockQ)*dim:], nil)
		}
	}
	if spoil != nil {
		for i := range out {
			out[i] = spoil(i, out[i])
		}
	}
	return write(append(ts, tensor("o", out)))
}

func run(t *testing.T, d *layerdumps.Dump) *Result {
	t.Helper()
	r, err := Run(t.Context(), d, Options{Jobs: 2})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// found are the names of what an output may be of.
func found(r *Result) []string {
	var out []string
	for _, m := range r.Layers[0].Exact {
		out = append(append(out, m.String()), m.Also...)
	}
	return out
}

// TestKernels: an output is of the kernel that made it, as it is or with a setting.
func TestKernels(t *testing.T) {
	for want, s := range map[string]program.Selection{
		"sage2-4b":                    {Kernel: "sage2-4b"},
		"sageattn@sm_89":              {Kernel: "sageattn@sm_89"},
		"sage-fp16-cuda":              {Kernel: "sage-fp16-cuda"},
		"sage-fp16-triton":            {Kernel: "sage-fp16-triton"},
		"fa2":                         {Kernel: "fa2"},
		"sdpa-efficient":              {Kernel: "sdpa-efficient"},
		"fa3-fp8":                     {Kernel: "fa3-fp8"},
		"flashinfer-fp8":              {Kernel: "flashinfer-fp8"},
		"comfy-int8":                  {Kernel: "comfy-int8"},
		"comfy-int8 --arch sm_120":    {Kernel: "comfy-int8", Arch: "sm_120"},
		"sage2-8b-sm90 --smooth none": {Kernel: "sage2-8b-sm90", Smooth: "none"},
		"fa2 --set tiles.split=none":  {Kernel: "fa2", Set: []string{"tiles.split=none"}},
		"sage-fp16-cuda --arch sm_90 --pv-accum fp16 --qk-granularity per-warp": {Kernel: "sage-fp16-cuda", Arch: "sm_90", PVAccum: "fp16", Granularity: "per-warp"},
	} {
		r := run(t, dump(t, s, 300, nil))
		if !r.Identified || !slices.Contains(found(r), want) {
			t.Errorf("%s: found %q", want, found(r))
		}
	}
}

// TestRecorded: what a GPU returned, and a layer without an output.
func TestRecorded(t *testing.T) {
	d, err := layerdumps.Open([]string{"../../layerdumps/testdata/byte-lm-sample.safetensors"}, layerdumps.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	r := run(t, d)
	if got := found(r); !r.Identified || !slices.Equal(got, []string{"sage2-8b-sm90", "sageattn@sm_90"}) || !slices.Equal(r.Without, []string{"layers.3.attn"}) {
		t.Errorf("found %q, without %q", got, r.Without)
	}
	if !strings.Contains(r.Verdict[0], "sage2-8b-sm90") {
		t.Errorf("verdict %q", r.Verdict)
	}
}

// TestTwo: with one key every weight is 1, and kernels that keep V in FP16 agree.
func TestTwo(t *testing.T) {
	got := found(run(t, dump(t, program.Selection{Kernel: "fa2"}, 1, nil)))
	for _, want := range []string{"fa2", "fa3", "sdpa-efficient"} {
		if !slices.Contains(got, want) {
			t.Errorf("%s is not among %q", want, got)
		}
	}
	if slices.Contains(got, "fa3-fp8") {
		t.Error("V in E4M3 gives V in FP16")
	}
}

// TestSpoiled: one wrong element in a row and head that no sample has is no kernel's, and
// the kernel is the nearest.
func TestSpoiled(t *testing.T) {
	r := run(t, dump(t, program.Selection{Kernel: "sage2-8b-sm90"}, 200, func(i int, x float32) float32 {
		if i == (200+77)*64+5 {
			return x + 1
		}
		return x
	}))
	l := &r.Layers[0]
	if r.Identified || len(l.Exact) > 0 || len(l.Nearest) == 0 || !strings.HasPrefix(l.Nearest[0].Kernel, "sage2-8b-sm90") || l.Unrelated {
		t.Errorf("exact %q, nearest %+v", found(r), l.Nearest)
	}
	if !strings.Contains(strings.Join(r.Verdict, "\n"), "not identified") {
		t.Errorf("verdict %q", r.Verdict)
	}
}

// TestNoise: an output of nothing.
func TestNoise(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 5))
	r := run(t, dump(t, program.Selection{Kernel: "fa2"}, 64, func(int, float32) float32 { return float32(rnd.NormFloat64()) }))
	if r.Identified || !r.Layers[0].Unrelated {
		t.Errorf("noise is of %q", found(r))
	}
	if n := r.Layers[0].Nearest; len(n) == 0 || !(float64(n[0].RelL1) > 0.5) || math.IsNaN(float64(n[0].RelL1)) {
		t.Errorf("nearest %+v", n)
	}
	for _, m := range r.Layers[0].Nearest {
		names := append([]string{m.String()}, m.Also...)
		if slices.Sort(names); len(slices.Compact(slices.Clone(names))) < len(names) {
			t.Errorf("a kernel is called the same twice: %q", names)
		}
	}
}

func TestNoOutput(t *testing.T) {
	if _, err := Run(t.Context(), dump(t, program.Selection{}, 4, nil), Options{}); !errors.Is(err, ErrNoOutput) {
		t.Errorf("error %v", err)
	}
}
