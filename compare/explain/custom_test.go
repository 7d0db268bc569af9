package explain

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/program"
	"github.com/sageacc/sageacc/layerdumps"
	"github.com/sageacc/sageacc/layerdumps/safetensors"
)

const (
	customSet    = "../../hardware/conformance/testdata/reverse96"
	customKernel = "../../kernels/attention/custom/reverse96.program.yaml"
)

// custom returns what kernels/attention/custom/reverse96.cu returned on an H200, and its
// description.
func custom(t *testing.T) (*layerdumps.Layer, program.Program) {
	t.Helper()
	f, err := safetensors.Open(filepath.Join(customSet, "reverse96_1x2-1x200x330x64-gauss-causal-f16.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	tensor := func(name string) layerdumps.Tensor {
		x := f.Tensor(name)
		if x == nil {
			t.Fatalf("no tensor %s", name)
		}
		b, err := x.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		y, err := layerdumps.NewTensor(x.Name, format.FP16, [4]int(x.Shape), b)
		if err != nil {
			t.Fatal(err)
		}
		return y
	}
	o := tensor("o/reverse96")
	p, err := program.Load(customKernel)
	if err != nil {
		t.Fatal(err)
	}
	return &layerdumps.Layer{Name: "reverse96", Q: tensor("q"), K: tensor("k"), V: tensor("v"), O: &o, Causal: true}, p
}

// The description is short, says what was recorded, and gives the recorded output.
func TestCustomKernel(t *testing.T) {
	l, p := custom(t)
	r, err := Layer(context.Background(), l, Options{Program: p, Jobs: 1})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Exact) != 1 || len(r.Exact[0].Changes) != 0 || r.Exact[0].Elements != 2*200*64 {
		t.Errorf("as described: %+v", r)
	}
	text, err := os.ReadFile(customKernel)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(text), "\n"); n >= 60 {
		t.Errorf("%d lines", n)
	}
	f, err := os.Open(filepath.Join(customSet, "cases.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var c struct{ Description program.Program }
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			t.Fatal(err)
		}
		if d := program.Diff(&c.Description, &p); len(d) > 0 {
			t.Errorf("recorded with another description: %v", d)
		}
	}
}

// A description of it with one wrong line is named by what makes it right. Where the
// output cannot tell two apart, both are named.
func TestCustomKernelWrongLine(t *testing.T) {
	l, right := custom(t)
	for _, tc := range []struct{ path, wrong, want string }{
		{"tiles.shapes.0.keys", "64", "--set tiles.shapes.0.keys=96"},
		{"tiles.shapes.0.keys", "128", "--set tiles.shapes.0.keys=96"},
		{"tiles.order", "first-to-last", "--set tiles.order=last-to-first"},
		{"denominator.of", "p", "--variant d-sum=codes"},
		{"denominator.rescale", "none", "--variant fma-d=none|--set denominator.rescale=fma"},
		{"exponent.offset", "8.807", "--variant p-offset=8"},
		{"exponent.offset", "-8", "--variant p-offset=8"},
		{"mask.causal", "top-left", "--set mask.causal=bottom-right"},
		{"mask.shift", "2", "--set mask.shift=0"},
		{"smoothing.k", "none", "--smooth k|--set smoothing.k=framework-mean"},
		{"smoothing.k_mean", "input", "--set smoothing.k_mean=fp32"},
		{"smoothing.k_difference", "input", "--set smoothing.k_difference=fp32|--set smoothing.k_difference=fp32-ftz"},
		{"qk_codes.granularity", "per-warp", "--qk-granularity per-token"},
		{"qk_codes.round", "zero", "--variant code-round=even"},
		{"qk_codes.scale", "triton", "--set qk_codes.scale=paper"},
		{"qk_codes.format", "int4", "--qk-bits 8"},
		{"v_codes.max", "440", "--pv-accum ideal|--variant v-max=448|--variant v-max=224"},
		{"v_codes.round", "zero", "--set v_codes.round=even"},
		{"p.round", "zero", "--set p.round=even"},
		{"pv.rescale", "none", "--pv-accum ideal|--set pv.rescale=fp32"},
		{"pv.unit.fraction_bits", "10", "--variant fraction-bits=20|--variant fraction-bits=22|--variant fraction-bits=23|--variant fraction-bits=24|--variant fraction-bits=25|--variant fraction-bits=26"},
		{"pv.unit.sum_round", "fp22-zero", "--variant sum-round=fp32-zero|--variant sum-round=fp32-nearest"},
		{"pv.unit.instruction", "wgmma.m64nNk32.f32.e4m3", "--pv-accum ideal|--set pv.unit.instruction=mma.m16n8k32.f32.e4m3"},
		{"finish.round", "zero", "--set finish.first=fp16|--set finish.round=even"},
	} {
		t.Run(tc.path+"="+tc.wrong, func(t *testing.T) {
			p := right
			if err := p.Set(tc.path, tc.wrong); err != nil {
				t.Fatal(err)
			}
			if err := p.Validate(); err != nil {
				t.Fatal(err)
			}
			r, err := Layer(context.Background(), l, Options{Program: p, Jobs: 1, MaxChanges: 1})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, h := range r.Exact {
				got = append(got, h.String())
			}
			if strings.Join(got, "|") != tc.want {
				t.Errorf("explained by %q, want %s", got, tc.want)
			}
		})
	}
}

// Whatever a single edit makes of a known kernel runs, if it is valid.
func TestEveryEditRuns(t *testing.T) {
	l, described := custom(t)
	some := 0
	for _, base := range append(program.Presets(), described) {
		var all []trial
		var flags []string
		for _, e := range edits(l, &base) {
			x := trial{program: base, causal: true, scale: l.Scale()}
			if flag, err := e.apply(&x); err == nil && x.program.Validate() == nil {
				all, flags = append(all, x), append(flags, flag)
			}
		}
		s, err := newSearch(l, Options{Program: described})
		if err != nil {
			t.Fatal(err)
		}
		s.batch, s.head, s.first = 0, 0, []int{0, 5}
		s.q, s.k, s.v = rows(&l.Q), rows(&l.K), rows(&l.V)
		// All together, as those that prepare K and V alike then share that. Kernels that do not
		// take the layer are left out.
		ran, err := s.tryAll(context.Background(), all)
		if err != nil {
			t.Errorf("%s: %v", base.Name, err)
		}
		some += len(ran)
		if err == nil && len(ran) == 0 && base.Name == described.Name {
			t.Errorf("none of %d edits of %s ran", len(all), base.Name)
		}
		for i := range all {
			if err == nil {
				break
			}
			if _, err := s.tryAll(context.Background(), all[i:i+1]); err != nil {
				t.Errorf("%s %s: %v", base.Name, flags[i], err)
			}
		}
	}
	if some < 100 {
		t.Errorf("%d edits ran", some)
	}
}

// rows reads the first head of a tensor.
func rows(x *layerdumps.Tensor) emulate.Rows {
	return func(lo, hi int, dst []float32) { x.Rows(0, 0, lo, hi, dst) }
}
