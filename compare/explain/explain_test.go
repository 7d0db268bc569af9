package explain

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"testing"

	"github.com/sageacc/sageacc/emulate/program"

	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/quant"
	"github.com/sageacc/sageacc/emulate/tensorcore"
	"github.com/sageacc/sageacc/internal/sweep"
	"github.com/sageacc/sageacc/layerdumps"
	"github.com/sageacc/sageacc/layerdumps/safetensors"
)

const sample = "../../layerdumps/testdata/byte-lm-sample.safetensors"

func open(t testing.TB, path string, opt layerdumps.Options) *layerdumps.Layer {
	t.Helper()
	d, err := layerdumps.Open([]string{path}, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return &d.Layers[0]
}

func preset(t *testing.T, name string) program.Program {
	t.Helper()
	cfg, err := program.Preset(name)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// spoiled writes a short layer of the sample, with the output of a kernel that
// does something else than it says.
func spoiled(t *testing.T, cfg program.Program, causal bool, scale float64) *layerdumps.Layer {
	t.Helper()
	return cut(t, open(t, sample, layerdumps.Options{}), cfg, 300, causal, scale)
}

// cut writes the first n tokens of a layer's first head with the output of cfg, said to
// be causal with a scale of 0.125.
func cut(t *testing.T, src *layerdumps.Layer, cfg program.Program, n int, causal bool, scale float64) *layerdumps.Layer {
	t.Helper()
	d := src.Q.Dim
	k, err := emulate.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	read := func(x *layerdumps.Tensor) emulate.Rows {
		return func(lo, hi int, dst []float32) { x.Rows(0, 0, lo, hi, dst) }
	}
	kv, err := k.Prepare(emulate.KVInput{K: read(&src.K), V: read(&src.V), Len: n, Dim: d, DType: format.FP16})
	if err != nil {
		t.Fatal(err)
	}
	var ws emulate.Workspace
	q := k.Query(emulate.QInput{Q: read(&src.Q), Len: n, Causal: causal, Scale: scale}, kv, &ws)
	out := make([]float32, n*d)
	for b := range k.Blocks(n) {
		k.Run(q, &ws, b, out[b*k.Tiling().BlockQ*d:], nil)
	}
	tensor := func(name string, x []float32) safetensors.Tensor {
		var data []byte
		for _, v := range x {
			data = binary.LittleEndian.AppendUint16(data, format.FP16FromFloat32(v))
		}
		return safetensors.Tensor{Name: name, DType: "F16", Shape: []int{1, 1, n, d}, Data: data}
	}
	x := make([]float32, n*d)
	ts := []safetensors.Tensor{tensor("l.o", out)}
	for name, s := range map[string]*layerdumps.Tensor{"l.q": &src.Q, "l.k": &src.K, "l.v": &src.V} {
		s.Rows(0, 0, 0, n, x)
		ts = append(ts, tensor(name, x))
	}
	path := filepath.Join(t.TempDir(), "spoiled.safetensors")
	if err := safetensors.Write(path, map[string]string{"causal": "true", "sm_scale": "0.125"}, ts); err != nil {
		t.Fatal(err)
	}
	return open(t, path, layerdumps.Options{})
}

// TestNamesTheChange: kernels that deviate from what they say are explained by
// exactly their deviation.
func TestNamesTheChange(t *testing.T) {
	for _, tc := range []struct {
		name   string
		kernel string
		change func(*program.Program)
		causal bool
		scale  float64
		want   []string
		// alike says that other changes may give the same bits on so short a layer.
		alike bool
	}{
		{"as given", "sage2-8b-sm90", func(*program.Program) {}, true, 0.125, nil, false},
		{"one level of accumulation", "sage2-8b-sm90", func(c *program.Program) { must(c.SetAccum("fp32")) }, true, 0.125, []string{"--pv-accum fp32"}, false},
		{"FP16 accumulator", "sage2-8b-sm89", func(c *program.Program) { must(c.SetAccum("fp32+fp16")) }, true, 0.125, []string{"--pv-accum fp32+fp16"}, false},
		{"another architecture", "sage2-8b-sm89", func(c *program.Program) { c.Arch = tensorcore.SM90 }, true, 0.125, []string{"--arch sm_90"}, true},
		{"scale per warp", "sage2-8b-sm90", func(c *program.Program) { must(c.SetGranularity(quant.PerWarp)) }, true, 0.125, []string{"--qk-granularity per-warp"}, false},
		{"scale per block", "sage2-4b", func(c *program.Program) { must(c.SetGranularity(quant.PerBlock)) }, true, 0.125, []string{"--qk-granularity per-block"}, false},
		// No key is an anchor worth subtracting here, so smoothing.k: anchor does nothing either.
		{"K not smoothed", "sage2-8b-sm90", func(c *program.Program) { must(c.SetSmooth("none")) }, true, 0.125, []string{"--smooth none"}, true},
		{"Q not smoothed", "sage2-4b", func(c *program.Program) { must(c.SetSmooth("k")) }, true, 0.125, []string{"--smooth k"}, false},
		{"no mask", "sage2-8b-sm90", func(*program.Program) {}, false, 0.125, []string{"--causal=false"}, false},
		{"scale of another head_dim", "sage2-8b-sm90", func(*program.Program) {}, true, 1 / math.Sqrt(128), []string{fmt.Sprintf("--sm-scale %g", 1/math.Sqrt(128))}, false},
		{"E5M2", "sage2-8b-sm90", func(c *program.Program) { must(c.SetPVType(quant.E5M2)) }, true, 0.125, []string{"--pv-dtype e5m2"}, false},
		{"two changes", "sage2-8b-sm90", func(c *program.Program) { must(c.SetAccum("fp32"), c.SetGranularity(quant.PerWarp)) }, true, 0.125, []string{"--pv-accum fp32", "--qk-granularity per-warp"}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if len(tc.want) > 1 && !sweep.Full() {
				t.Skip("long, as TestPairs")
			}
			said := preset(t, tc.kernel)
			does := said
			tc.change(&does)
			l := spoiled(t, does, tc.causal, tc.scale)
			res, err := Layer(t.Context(), l, Options{Program: said, Jobs: 2})
			if err != nil {
				t.Fatal(err)
			}
			named := slices.ContainsFunc(res.Exact, func(h Hypothesis) bool { return slices.Equal(h.Changes, tc.want) })
			if !named || len(res.Exact) > 1 && !tc.alike {
				t.Errorf("explained by %+v, want %q (nearest %+v)", res.Exact, tc.want, res.Nearest)
			}
		})
	}
}

// TestTrainedLayer: on the activations of a trained model, in FP16, a deviation is named
// whenever it changes a bit, and what else is named gives the same bits. By itself the test
// takes every deviation with one kernel, in turn.
func TestTrainedLayer(t *testing.T) {
	src := open(t, sample, layerdumps.Options{})
	for j, name := range []string{"sage2-4b", "sage2-8b-sm90"} {
		unseen, most := 0, 5
		if sweep.Full() {
			most = 9
		}
		for i, list := range []string{
			"code-round=zero", "code-round=away", "v-max=240", "v-round=zero", "delta-s=none", "causal-shift=1", "delta-s=raw", "causal-shift=-1", // sage2-4b alone has a delta_s
			"p-offset=none", "fma-max=none", "fma-exp=none", "exp2=exact", "p-round=zero", "d-sum=codes", "d-order=pairwise", "fma-d=none",
			"rescale-d=none", "level-keys=32", "fma-o=none", "rescale-o=none", "rcp=exact", "rcp=divide", "out-round=zero",
		} {
			if i%2 != j && !sweep.Full() {
				continue
			}
			said := preset(t, name)
			does := said
			if does.Apply(&said, list) != nil || does.Validate() != nil {
				continue // a step that the kernel does not have
			}
			res, err := Layer(t.Context(), cut(t, src, does, 330, true, 0.125), Options{Program: said, Jobs: 2})
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case res.Where == nil:
				unseen++
			case !slices.ContainsFunc(res.Exact, func(h Hypothesis) bool { return slices.Equal(h.Changes, []string{"--variant " + list}) }):
				t.Errorf("%s %s: explained by %q", name, list, changesOf(res.Exact))
			}
		}
		if unseen > most {
			t.Errorf("%s: %d deviations change nothing", name, unseen)
		}
	}
}

// TestRecorded: the output that was recorded from the released kernel is
// explained by that kernel and by nothing smaller.
func TestRecorded(t *testing.T) {
	l := open(t, sample, layerdumps.Options{})
	res, err := Layer(t.Context(), l, Options{Program: preset(t, "sage2-8b-sm90"), Jobs: 2})
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Exact) != 1 || len(res.Exact[0].Changes) != 0 || res.Exact[0].Elements != 131072 {
		t.Errorf("%+v", res)
	}
	res, err = Layer(t.Context(), l, Options{Program: preset(t, "sage2-8b-sm89"), Jobs: 2})
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Exact) != 1 || !slices.Equal(res.Exact[0].Changes, []string{"--kernel sage2-8b-sm90"}) {
		t.Errorf("said to be the sm_89 kernel: %+v", res)
	}
}

// TestNothingFits: one changed bit has no explanation, and says so.
func TestNothingFits(t *testing.T) {
	said := preset(t, "sage2-8b-sm90")
	l := spoiled(t, said, true, 0.125)
	// Claim a layer whose V is another's: K in V's place.
	l.V = l.K
	res, err := Layer(t.Context(), l, Options{Program: said, MaxChanges: 1, Jobs: 2})
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Exact) != 0 || len(res.Nearest) == 0 || res.Nearest[0].Mismatched == 0 || res.Tried < 20 {
		t.Errorf("%+v", res)
	}
	l.O = nil
	if _, err := Layer(t.Context(), l, Options{Program: said}); err == nil {
		t.Error("a layer without an output is explained")
	}
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	l := open(t, sample, layerdumps.Options{})
	if _, err := Layer(ctx, l, Options{Program: preset(t, "sage2-8b-sm90")}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled search: %v", err)
	}
}

// must stops at an edit that a test cannot do without.
func must(errs ...error) {
	for _, err := range errs {
		if err != nil {
			panic(err)
		}
	}
}
