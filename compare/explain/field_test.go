package explain

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/layerdumps"
	"github.com/sageacc/sageacc/layerdumps/safetensors"
)

// recordedLayer is a layer of the recordings of kernels beside SageAttention2.
func recordedLayer(t *testing.T, file, output string, causal bool) *layerdumps.Layer {
	t.Helper()
	f, err := safetensors.Open(filepath.Join("../../hardware/conformance/testdata/field", file))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	tensor := func(name string) layerdumps.Tensor {
		x := f.Tensor(name)
		if x == nil {
			t.Fatalf("%s: no tensor %s", file, name)
		}
		b, err := x.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		y, err := layerdumps.NewTensor(x.Name, map[string]format.DType{"F16": format.FP16, "BF16": format.BF16}[x.DType], [4]int(x.Shape), b)
		if err != nil {
			t.Fatal(err)
		}
		return y
	}
	o := tensor(output)
	return &layerdumps.Layer{Name: file, Q: tensor("q"), K: tensor("k"), V: tensor("v"), O: &o, Causal: causal}
}

// TestFieldNeighbours: what a GPU returned, said to be of a neighbour of its kernel, is
// named by what differs: the accumulator, the mean, the quantiser, the parts of the keys, the
// alignment of the mask.
func TestFieldNeighbours(t *testing.T) {
	const triton = "--set qk_codes.scale=triton-block --set qk_codes.round=away --set smoothing.k_difference=input (quant_backend triton)"
	for _, tc := range []struct {
		file, output string
		causal       bool
		said         program.Selection
		want         string
	}{
		{"c24_gauss_d64_f16_17x520.safetensors", "o/full/sage_fp16_cuda/per_thread/fp16", false,
			program.Selection{Kernel: "sage-fp16-cuda", Arch: "sm_90"}, "--pv-accum fp16"},
		{"c24_gauss_d64_f16_17x520.safetensors", "o/full/sage_fp16_cuda/per_thread/fp16+fp32", false,
			program.Selection{Kernel: "sage-fp16-cuda", Arch: "sm_90", PVAccum: "fp16"}, "--pv-accum fp32+fp16"},
		{"c24_gauss_d64_f16_17x520.safetensors", "o/full/sage_fp16_cuda/per_thread/fp32", false,
			program.Selection{Kernel: "sage-fp16-cuda", Arch: "sm_90", Smooth: "none"}, "--smooth k"},
		{"c24_gauss_d64_f16_17x520.safetensors", "o/full/sage_fp16_cuda/per_thread/fp16/smooth_v", false,
			program.Selection{Kernel: "sage-fp16-cuda", Arch: "sm_90", PVAccum: "fp16"}, "--smooth k,v"},
		{"c24_gauss_d64_f16_17x520.safetensors", "o/full/sage_fp16_cuda/per_warp/fp32", false,
			program.Selection{Kernel: "sage-fp16-cuda", Arch: "sm_90"}, "--qk-granularity per-warp"},
		{"c11_gauss_d64_f16_64x64.safetensors", "o/full/sage_fp16_triton/triton", false,
			program.Selection{Kernel: "sage-fp16-triton", QuantBackend: "cuda"}, triton},
		{"fa3_c004.safetensors", "o/split_causal", true, program.Selection{Kernel: "fa3"}, "--set tiles.split=3"},
		{"eff_c035.safetensors", "o/causal_br", true, program.Selection{Kernel: "sdpa-efficient"}, "--set mask.causal=bottom-right-unsigned"},
	} {
		t.Run(tc.output+" "+tc.want, func(t *testing.T) {
			l := recordedLayer(t, tc.file, tc.output, tc.causal)
			p, err := tc.said.Program()
			if err != nil {
				t.Fatal(err)
			}
			r, err := Layer(t.Context(), l, Options{Program: p, Jobs: 2, MaxChanges: 1})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, h := range r.Exact {
				got = append(got, h.String())
			}
			if !slices.Contains(got, tc.want) {
				t.Errorf("explained by %q, want %s", got, tc.want)
			}
		})
	}
}
