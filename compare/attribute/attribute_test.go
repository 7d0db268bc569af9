package attribute

import (
	"context"
	"errors"
	"math"
	"testing"

	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/quant"
	"github.com/sageacc/sageacc/emulate/tensorcore"
	"github.com/sageacc/sageacc/layerdumps"
)

func open(t testing.TB, causal bool) *layerdumps.Dump {
	t.Helper()
	d, err := layerdumps.Open([]string{"../../layerdumps/testdata/byte-lm-sample.safetensors"}, layerdumps.Options{Causal: &causal})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// configs are kernels that between them take every branch of the program.
func configs(t testing.TB) []emulate.Config {
	var out []emulate.Config
	add := func(name string, change func(*emulate.Config)) {
		cfg, err := emulate.Preset(name)
		if err != nil {
			t.Fatal(err)
		}
		change(&cfg)
		out = append(out, cfg)
	}
	for _, p := range emulate.Presets() {
		add(p.Name, func(*emulate.Config) {})
	}
	add("sage2-8b-sm89", func(c *emulate.Config) { c.Arch, c.PVAccum = tensorcore.SM90, emulate.AccumFP32 })
	add("sage2-8b-sm89", func(c *emulate.Config) { c.PVAccum, c.QKGranularity = emulate.AccumFP16, quant.PerWarp })
	add("sage2-8b-sm89", func(c *emulate.Config) { c.PVAccum, c.SmoothV = emulate.AccumFP32, true })
	add("sage2-8b-sm90", func(c *emulate.Config) { c.PVType, c.QKGranularity = quant.FP16, quant.PerToken })
	add("sage2-8b-sm90", func(c *emulate.Config) { c.PVType, c.SmoothK = quant.INT8, false })
	add("sage2-4b", func(c *emulate.Config) { c.PVType, c.SmoothQ, c.QKGranularity = quant.E5M2, false, quant.PerTensor })
	return out
}

// TestAllStepsIsTheKernel: with no step left out, the program here gives the bits
// of package emulate.
func TestAllStepsIsTheKernel(t *testing.T) {
	for _, causal := range []bool{true, false} {
		l := &open(t, causal).Layers[1]
		for _, cfg := range configs(t) {
			k, err := emulate.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			h, err := newHead(k, l, 0, 1)
			if err != nil {
				t.Fatal(err)
			}
			kv, err := k.Prepare(emulate.KVInput{
				K:   func(lo, hi int, dst []float32) { l.K.Rows(0, 1, lo, hi, dst) },
				V:   func(lo, hi int, dst []float32) { l.V.Rows(0, 1, lo, hi, dst) },
				Len: l.K.Tokens, Dim: l.K.Dim, DType: format.FP16,
			})
			if err != nil {
				t.Fatal(err)
			}
			var ws emulate.Workspace
			q := k.Query(emulate.QInput{
				Q:   func(lo, hi int, dst []float32) { l.Q.Rows(0, 1, lo, hi, dst) },
				Len: l.Q.Tokens, Causal: causal, Scale: float32(l.Scale()),
			}, kv, &ws)
			bq := k.Tiling().BlockQ
			want := make([]float32, bq*h.d)
			got := make([]float32, h.d)
			w := newScratch(h)
			for _, b := range []int{0, k.Blocks(h.nq) / 2, k.Blocks(h.nq) - 1} {
				n := k.Run(q, &ws, b, want, nil)
				for r := 0; r < n; r += 7 {
					h.row(b*bq+r, 0, w, got)
					for c := range got {
						if math.Float32bits(got[c]) != math.Float32bits(want[r*h.d+c]) {
							t.Fatalf("%s %s %s causal=%v: row %d channel %d is %g, the kernel's %g", cfg.Name, cfg.PVType, cfg.PVAccum, causal, b*bq+r, c, got[c], want[r*h.d+c])
						}
					}
				}
			}
		}
	}
}

// TestRun checks what must hold of any attribution, on real activations.
func TestRun(t *testing.T) {
	if testing.Short() {
		t.Skip("long")
	}
	d := open(t, true)
	d.Layers = d.Layers[:1]
	cfg, err := emulate.Preset("sage2-4b")
	if err != nil {
		t.Fatal(err)
	}
	layers, err := Run(t.Context(), d, Options{Config: cfg, Jobs: 2})
	if err != nil {
		t.Fatal(err)
	}
	l := layers[0]
	// Exact, the program is full-precision attention but for FP32 arithmetic.
	if l.Rest.RelL1 > 2e-5 {
		t.Errorf("with every step exact the error is %g", l.Rest.RelL1)
	}
	by := map[string]Step{}
	for _, s := range l.Steps {
		by[s.Name] = s
		if s.Alone.MSE < l.Rest.MSE*0.5 || s.Without.MSE > l.Kernel.MSE*1.05 {
			t.Errorf("%s: alone %g, without %g, kernel %g", s.Name, s.Alone.MSE, s.Without.MSE, l.Kernel.MSE)
		}
	}
	// INT4 codes are by far the largest cause, the special functions the smallest.
	qk := by["Q, K codes"]
	if qk.Alone.MSE < 0.5*l.Kernel.MSE || qk.Without.MSE > 0.5*l.Kernel.MSE {
		t.Errorf("Q, K codes: alone %g, without %g of %g", qk.Alone.MSE, qk.Without.MSE, l.Kernel.MSE)
	}
	if by["exp2"].Alone.MSE > by["output"].Alone.MSE || by["output"].Alone.MSE > by["P codes"].Alone.MSE {
		t.Errorf("exp2 %g, output %g, P codes %g", by["exp2"].Alone.MSE, by["output"].Alone.MSE, by["P codes"].Alone.MSE)
	}
	if math.Abs(float64(l.Remainder)) > 0.2*float64(l.Kernel.MSE) {
		t.Errorf("remainder %g of %g", l.Remainder, l.Kernel.MSE)
	}
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	cfg, _ := emulate.Preset("sage2-8b-sm90")
	if _, err := Run(ctx, open(t, true), Options{Config: cfg, Jobs: 2}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled run: %v", err)
	}
}
