package emulate

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/mufu"
	"github.com/sageacc/sageacc/emulate/program"
)

// fp8Call invents a call with 16-bit inputs, scores of both signs far apart.
func fp8Call(r *rand.Rand, nq, nk, d int, causal bool, left int) *call {
	h := &call{nq: nq, nk: nk, d: d, dtype: []format.DType{format.FP16, format.BF16}[r.IntN(2)]}
	draw := func(n int, size float64) []float32 {
		x := make([]float32, n*d)
		for i := range x {
			x[i] = h.dtype.Round(float32(r.NormFloat64() * size))
		}
		return x
	}
	h.q, h.k, h.v = draw(nq, 1+3*r.Float64()), draw(nk, 1+r.Float64()), draw(nk, 0.1)
	h.in = QInput{Q: slicesOf(h.q, d), Len: nq, Causal: causal, Windowed: left >= 0, Left: left, Right: -1}
	h.kIn = KVInput{K: slicesOf(h.k, d), V: slicesOf(h.v, d), Len: nk, Dim: d, DType: h.dtype}
	return h
}

// TestFlashInfer holds the interpreter to the second reading on every shape of FlashInfer's FP8
// prefill, rows that see no key included, and the log-sum-exp to its definition.
func TestFlashInfer(t *testing.T) {
	r := rand.New(rand.NewPCG(14, 2))
	for _, name := range []string{"flashinfer-fp8", "flashinfer-fp8-paged"} {
		p, err := program.Preset(name)
		if err != nil {
			t.Fatal(err)
		}
		unseen := 0
		for _, d := range []int{64, 128, 256} {
			for _, n := range [][2]int{{1, 1}, {200, 30}, {130, 400}, {70, 70}} {
				for _, left := range []int{-1, 40} {
					if testing.Short() && d == 256 && n[1] > 100 {
						continue
					}
					h := fp8Call(r, n[0], n[1], d, n[0] != 70, left)
					got, _, _ := agree(t, p, h, fmt.Sprintf("%s: %d queries, %d keys of %d, left %d", name, h.nq, h.nk, d, left), 0, h.nq/2, h.nq-1)
					for i := range max(0, h.nq-h.nk) {
						if !h.in.Causal {
							break
						}
						unseen++
						if x := got.lse[i]; !math.IsInf(float64(x), -1) || got.out[i*d] != 0 {
							t.Errorf("%s: row %d sees no key, and has %v and log-sum-exp %v", name, i, got.out[i*d], x)
						}
					}
				}
			}
		}
		if unseen == 0 {
			t.Errorf("%s: every row sees a key", name)
		}
	}
}

// TestFlashInferSum: of one key the log-sum-exp is its score, in base 2, and V comes back through
// P's scale.
func TestFlashInferSum(t *testing.T) {
	p, err := program.Preset("flashinfer-fp8")
	if err != nil {
		t.Fatal(err)
	}
	const d = 64
	k, err := New(p)
	if err == nil {
		k, err = k.For(d, format.FP8, false)
	}
	if err != nil {
		t.Fatal(err)
	}
	ones := func(lo, hi int, dst []float32) {
		for i := range dst[:(hi-lo)*d] {
			dst[i] = 1
		}
	}
	kv, err := k.Prepare(KVInput{K: ones, V: ones, Len: 1, Dim: d, DType: format.FP8, KDescale: 3, VDescale: 7})
	if err != nil {
		t.Fatal(err)
	}
	sm := 0.1
	q := k.Query(QInput{Q: ones, Len: 1, Scale: sm, QDescale: 5}, kv, &Workspace{})
	out, lse := make([]float32, d), make([]float32, 1)
	if _, err := k.Run(q, &Workspace{}, 0, out, lse); err != nil {
		t.Fatal(err)
	}
	if want := format.RoundBF16(format.MulFtz(448, mufu.DivApprox(7, 448))); out[0] != want || want != 7 {
		t.Errorf("V is %v, want %v", out[0], want)
	}
	want := float32(float64(d) * float64(float32(15*sm*float64(float32(math.Log2E)))))
	if lse[0] != want || q.NaturalLSE(want, nil) != float32(want*ln2) {
		t.Errorf("log-sum-exp %v, want %v; natural %v", lse[0], want, q.NaturalLSE(want, nil))
	}
	for amax, want := range map[float32]float32{0: 1e-6, 1e-9: 1e-6, 896: 2} {
		if got := k.Descale(amax); got != want {
			t.Errorf("the scale of numbers up to %v is %v, want %v", amax, got, want)
		}
	}
}

// TestFlashInferChoices: each of the choices that FlashInfer's kernels alone have matters, and no
// vector path has one of them.
func TestFlashInferChoices(t *testing.T) {
	r := rand.New(rand.NewPCG(14, 3))
	p, err := program.Preset("flashinfer-fp8")
	if err != nil {
		t.Fatal(err)
	}
	h := fp8Call(r, 300, 250, 64, true, -1)
	h.in.Scale = 0.0721
	run := func(path, value string) result {
		q := p
		if path != "" {
			if err := q.Set(path, value); err != nil {
				t.Fatal(err)
			}
		}
		k, err := New(q)
		if err != nil {
			t.Fatal(err)
		}
		if k.Portable() == "" {
			t.Errorf("%s=%s: a vector path takes it", path, value)
		}
		bound, err := h.bind(k)
		if err != nil {
			t.Fatal(err)
		}
		kv, err := bound.Prepare(h.kIn)
		if err != nil {
			t.Fatal(err)
		}
		return h.run(t, bound, kv)
	}
	want := run("", "")
	for path, value := range map[string]string{
		"p.scale": "240", "maximum.unseen": "itself", "scores.product": "fp64", "log_sum_exp.form": "natural-offset", "operands.output": "fp16",
	} {
		got := run(path, value)
		if want.differs(&got) == "" {
			t.Errorf("%s=%s gives the same", path, value)
		}
	}
	in := QInput{Windowed: true, Left: 3, Right: 4}
	k, err := New(p)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Supports(in); err == nil {
		t.Error("it takes a window that bounds the keys after the query")
	}
	for _, in := range []QInput{{Windowed: true, Left: 3, Right: -1}, {Windowed: true, Left: 3, Right: 0, Causal: true}} {
		if err := k.Supports(in); err != nil {
			t.Error(err)
		}
	}
}
