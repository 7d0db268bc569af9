package attribute

import (
	"context"
	"errors"
	"math"
	"slices"
	"testing"

	"github.com/sageacc/sageacc/compare/heads"
	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/emulate/quant"
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

// cut returns the first head of a layer, and of it the first n tokens.
func cut(t testing.TB, l *layerdumps.Layer, n int) layerdumps.Layer {
	t.Helper()
	part := layerdumps.Layer{Name: l.Name, Causal: l.Causal}
	for _, x := range []struct{ dst, src *layerdumps.Tensor }{{&part.Q, &l.Q}, {&part.K, &l.K}, {&part.V, &l.V}} {
		var err error
		if *x.dst, err = layerdumps.NewTensor(x.src.Name, x.src.DType, [4]int{1, 1, n, l.Q.Dim}, x.src.Bytes()[:2*n*l.Q.Dim]); err != nil {
			t.Fatal(err)
		}
	}
	return part
}

// programs are kernels that between them have every step in every form.
func programs(t testing.TB) map[string]program.Program {
	out := map[string]program.Program{}
	seen := map[string]bool{}
	for _, p := range program.Presets() {
		// Some are others by another name, or on another GPU.
		q := p
		q.Name, q.Summary, q.Source, q.Evidence, q.Arch = "", "", "", "", ""
		if key := q.Key(); !seen[key] {
			seen[key], out[p.Name] = true, p
		}
	}
	add := func(name, kernel string, edits ...func(*program.Program) error) {
		p, err := program.Preset(kernel)
		if err != nil {
			t.Fatal(err)
		}
		for _, edit := range edits {
			if err := edit(&p); err != nil {
				t.Fatal(err)
			}
		}
		out[name] = p
	}
	variant := func(list string) func(*program.Program) error {
		return func(p *program.Program) error { base := *p; return p.Apply(&base, list) }
	}
	add("one chain, smooth V", "sage2-8b-sm89",
		func(p *program.Program) error { return p.SetAccum("fp32") },
		func(p *program.Program) error { return p.SetSmooth("k,v") })
	add("fp16, per token", "sage2-8b-sm90",
		func(p *program.Program) error { return p.SetPVType(quant.FP16) },
		func(p *program.Program) error { return p.SetGranularity(quant.PerToken) })
	add("int8", "sage2-8b-sm90", func(p *program.Program) error { return p.SetPVType(quant.INT8) })
	add("a variant", "sage2-4b", variant("p-offset=8,d-sum=codes,fma-o=none,level-keys=32"))
	add("exact already", "sage2-8b-sm90", variant("exp2=exact,rcp=divide"))
	return out
}

// TestExact: with every step exact, every kernel is full-precision attention but for FP32
// arithmetic, and every set of steps runs.
func TestExact(t *testing.T) {
	// Tiles of 64, 96 and 128 keys, whole and cut: all the sums there are.
	d := &layerdumps.Dump{Layers: []layerdumps.Layer{cut(t, &open(t, true).Layers[1], 150)}}
	for name, p := range programs(t) {
		t.Run(name, func(t *testing.T) {
			of := *d
			if p.Mask.Causal == "none" {
				of.Layers = slices.Clone(d.Layers)
				of.Layers[0].Causal = false
			}
			layers, err := runAll(t.Context(), &of, Options{Program: p, Jobs: 2})
			if err != nil {
				t.Fatal(err)
			}
			l := layers[0]
			if l.Rest.RelL1 > 2e-5 {
				t.Errorf("with every step exact the error is %g", l.Rest.RelL1)
			}
			for _, s := range l.Steps {
				if math.IsNaN(float64(s.Alone.MSE)) || math.IsNaN(float64(s.Without.MSE)) || s.Alone.MSE > 2*l.Kernel.MSE || s.Without.MSE > 2*l.Kernel.MSE {
					t.Errorf("%s: alone %g, without %g, kernel %g", s.Name, s.Alone.MSE, s.Without.MSE, l.Kernel.MSE)
				}
			}
		})
	}
}

// TestSteps: each step's edit changes what it is about and nothing else.
func TestSteps(t *testing.T) {
	p, err := program.Preset("sage2-4b")
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"qk_codes.format", "p.format", "v_codes.format", "pv.unit.instruction", "exponent.exp2", "finish.round"} {
		q := exact(p, 1<<i)
		if err := q.Validate(); err != nil {
			t.Errorf("%s: %v", names[i], err)
		}
		found := false
		for _, c := range program.Diff(&p, &q) {
			found = found || c.Path == want
			if i != 0 && (c.Path == "qk_codes.format" || c.Path == "smoothing.q") || i != 1 && c.Path == "p.format" || i != 2 && c.Path == "v_codes.format" {
				t.Errorf("%s changes %s", names[i], c)
			}
		}
		if !found {
			t.Errorf("%s leaves %s as it is", names[i], want)
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
	p, err := program.Preset("sage2-4b")
	if err != nil {
		t.Fatal(err)
	}
	layers, err := runAll(t.Context(), d, Options{Program: p, Jobs: 2})
	if err != nil {
		t.Fatal(err)
	}
	l := layers[0]
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
	p, _ := program.Preset("sage2-8b-sm90")
	if _, err := runAll(ctx, open(t, true), Options{Program: p, Jobs: 2}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled run: %v", err)
	}
}

// runAll attributes the error of every layer.
func runAll(ctx context.Context, d *layerdumps.Dump, opt Options) ([]Layer, error) {
	var out []Layer
	for i := range d.Layers {
		l, err := Run(ctx, &d.Layers[i], opt)
		if err != nil {
			return nil, err
		}
		out = append(out, *l)
	}
	return out, nil
}

// TestVectors: every description that is run has its tiles on vectors, where there are any, and gives what
// portable Go gives.
func TestVectors(t *testing.T) {
	d := open(t, false)
	l := cut(t, &d.Layers[0], 150)
	levels := emulate.Levels()
	run := func(p program.Program, level emulate.Level) (*emulate.Kernel, []float32) {
		k, err := emulate.NewAt(p, level)
		if err != nil {
			t.Fatal(err)
		}
		v, err := heads.Bind(k, &l)
		if err != nil {
			return nil, nil // a kernel that does not take the layer
		}
		kv, err := v.Kernel.Prepare(v.KV(0, 0))
		if err != nil {
			t.Fatal(err)
		}
		var ws emulate.Workspace
		out := make([]float32, l.Q.Tokens*l.Q.Dim)
		if _, err := v.Kernel.RunBlocks(context.Background(), v.Kernel.Query(v.Query(0, 0), kv, &ws), &ws, 0, v.Kernel.Blocks(l.Q.Tokens), out, nil); err != nil {
			t.Fatal(err)
		}
		return v.Kernel, out
	}
	ran := 0
	for name, p := range programs(t) {
		if bound, err := p.At(heads.Case(&l, p.Mask.Causal)); err == nil {
			p = bound
		}
		for i, steps := range sets() {
			q := p
			if steps != 0 {
				q = exact(p, steps)
			}
			_, want := run(q, levels[0])
			for _, level := range levels[1:] {
				k, got := run(q, level)
				if k == nil {
					continue
				}
				ran++
				if why := k.Scalar(); why != "" || k.Portable() != "" && !k.VectorSteps() {
					t.Errorf("%s, set %d, %s: no vectors: %s", name, i, level, why)
				}
				if !slices.Equal(got, want) {
					t.Errorf("%s, set %d, %s: another output", name, i, level)
				}
			}
		}
	}
	if len(levels) > 1 && ran < 100 {
		t.Errorf("%d runs", ran)
	}
}
