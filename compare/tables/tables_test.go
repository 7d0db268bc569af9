package tables

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/layerdumps"
)

const sample = "../../layerdumps/testdata/byte-lm-sample.safetensors"

func open(t *testing.T) *layerdumps.Dump {
	t.Helper()
	d, err := layerdumps.Open([]string{sample}, layerdumps.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// TestTransforms: the products of queries and keys stay what they are, and the
// outlier channel does not stay the largest.
func TestTransforms(t *testing.T) {
	l := &open(t).Layers[0]
	for name, tr := range map[string]func(*layerdumps.Layer, int, int) func([]float32, bool){"hadamard": hadamard, "smoothAttn": smoothAttn} {
		apply := tr(l, 0, 1)
		d := l.Q.Dim
		q, k := make([]float32, 8*d), make([]float32, 8*d)
		l.Q.Rows(0, 1, 100, 108, q)
		l.K.Rows(0, 1, 200, 208, k)
		before := append(append([]float32(nil), q...), k...)
		apply(q, true)
		apply(k, false)
		changed := false
		for i := range 8 {
			for j := range 8 {
				var want, got, size float64
				for c := range d {
					a, b := float64(before[i*d+c]), float64(before[(8+j)*d+c])
					want += a * b
					size += math.Abs(a * b)
					got += float64(q[i*d+c]) * float64(k[j*d+c])
					changed = changed || q[i*d+c] != before[i*d+c]
				}
				if math.Abs(got-want) > 1e-5*size {
					t.Fatalf("%s: product %g becomes %g", name, want, got)
				}
			}
		}
		if !changed {
			t.Errorf("%s changes nothing", name)
		}
	}
}

// TestWalshHadamard: orthonormal, and its own inverse, for any head_dim.
func TestWalshHadamard(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for _, n := range []int{1, 2, 64, 128} {
		x, y := make([]float64, n), make([]float64, n)
		norm := 0.0
		for i := range x {
			x[i] = r.NormFloat64()
			y[i] = x[i]
			norm += x[i] * x[i]
		}
		walshHadamard(y)
		after := 0.0
		for _, v := range y {
			after += v * v
		}
		walshHadamard(y)
		for i := range x {
			if math.Abs(x[i]-y[i]) > 1e-12 {
				t.Fatalf("n=%d: twice is not the identity", n)
			}
		}
		if math.Abs(after-norm) > 1e-9*norm {
			t.Errorf("n=%d: norm %g becomes %g", n, norm, after)
		}
	}
}

// TestOrder: on real activations the methods come in the paper's order where the
// paper's mechanism is at work.
func TestOrder(t *testing.T) {
	res, err := Run(t.Context(), []string{"smoothing", "granularity"}, open(t), Options{Jobs: 2})
	if err != nil {
		t.Fatal(err)
	}
	l1 := map[string]float64{}
	for _, tab := range res.Tables {
		for _, row := range tab.Rows {
			l1[row.Method] = float64(row.Average.RelL1)
		}
	}
	for _, order := range [][]string{{"smooth Q+K", "smooth Q", "none"}, {"smooth Q+K", "smooth K", "none"}, {"per-token", "per-thread", "per-block", "per-tensor"}} {
		for i := 1; i < len(order); i++ {
			if !(l1[order[i-1]] < l1[order[i]]) {
				t.Errorf("relative L1 of %s is %g, of %s %g", order[i-1], l1[order[i-1]], order[i], l1[order[i]])
			}
		}
	}
	// Two methods of two tables are the same kernel.
	if l1["smooth Q+K"] != l1["per-thread"] {
		t.Error("sage2-4b differs between tables")
	}
}

func TestNames(t *testing.T) {
	if got := strings.Join(Names(), " "); got != "smoothing granularity pv-dtype smooth-v accumulator methods gpus" {
		t.Errorf("tables %s", got)
	}
	if _, err := Run(t.Context(), []string{"none"}, open(t), Options{}); err == nil || !strings.Contains(err.Error(), "smoothing") {
		t.Errorf("unknown table: %v", err)
	}
	for _, d := range definitions() {
		for _, m := range d.methods {
			if m.paper != nil && (m.paper.Average.CosSim <= 0 || m.paper.Average.CosSim > 1) {
				t.Errorf("%s %s: the paper's cosine similarity is %g", d.name, m.name, m.paper.Average.CosSim)
			}
		}
	}
}

// TestMethods: kernels in FP16 err least, one that does not take a layer says why, and
// the figures of the layers are those of the average.
func TestMethods(t *testing.T) {
	d, err := layerdumps.Open([]string{"../../layerdumps/testdata/minilm-sample.safetensors"}, layerdumps.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	res, err := Run(t.Context(), []string{"methods"}, d, Options{Jobs: 2})
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]Row{}
	for _, r := range res.Tables[0].Rows {
		rows[r.Method] = r
		sum := 0.0
		for _, l := range r.Layers {
			sum += float64(l.Values.RelL1)
		}
		if len(r.Layers) != 2 || math.Abs(sum/2-float64(r.Average.RelL1)) > 1e-12 || r.Refused != nil {
			t.Errorf("%s: %+v", r.Method, r)
		}
		if (r.Reported != "") != (r.Method == "sageattn@sm_120") {
			t.Errorf("%s: reported %q", r.Method, r.Reported)
		}
	}
	for _, order := range [][]string{{"fa2", "sage-fp16-cuda", "sage2-8b-sm90", "fa3-fp8", "sage2-4b"}} {
		for i := 1; i < len(order); i++ {
			if !(rows[order[i-1]].Average.RelL1 < rows[order[i]].Average.RelL1) {
				t.Errorf("%s errs more than %s", order[i-1], order[i])
			}
		}
	}
	for i := range d.Layers {
		d.Layers[i].Q.DType = format.FP32
	}
	k, err := (&method{kernel: "fa2"}).build()
	if err != nil {
		t.Fatal(err)
	}
	if list, refused := taken(k, d); list != nil || len(refused) != 1 || len(refused[0].Layers) != 2 || !strings.Contains(refused[0].Why, "does not take fp32") {
		t.Errorf("taken %d, refused %+v", len(list), refused)
	}
}
