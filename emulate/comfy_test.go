package emulate

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/emulate/program"
)

// comfyCall invents a call of comfy-int8: K has an offset that an anchor takes away, and
// scores of opposite Q and K lie far below zero.
func comfyCall(r *rand.Rand, nq, nk, d int, dtype format.DType, mask string) *call {
	h := &call{nq: nq, nk: nk, d: d, dtype: dtype}
	draw := func(n int, offset, size float64) []float32 {
		x := make([]float32, n*d)
		for i := range x {
			x[i] = dtype.Round(float32(r.NormFloat64()*size + offset*float64(i%d%3)))
		}
		return x
	}
	h.q, h.k, h.v = draw(nq, -3, 1), draw(nk, 2*r.Float64(), 1+r.Float64()), draw(nk, 0.5, 1)
	h.in = QInput{Q: slicesOf(h.q, d), Len: nq}
	h.kIn = KVInput{K: slicesOf(h.k, d), V: slicesOf(h.v, d), Len: nk, Dim: d, DType: dtype}
	see := func(row, key int) bool { return row%5 != 3 && (key*7+row)%3 != 0 && (row%4 != 1 || key > 70) }
	switch mask {
	case "boolean":
		h.in.Visible = func(row, lo, hi int, dst []bool) {
			for i := range dst[:hi-lo] {
				dst[i] = see(row, lo+i)
			}
		}
	case "additive":
		h.in.Bias = func(row, lo, hi int, dst []float32) {
			for i := range dst[:hi-lo] {
				if dst[i] = float32((row*13+(lo+i)*7)%11) - 5; !see(row, lo+i) {
					dst[i] = float32(math.Inf(-1))
				}
			}
		}
	}
	return h
}

// TestComfy holds the interpreter to the second reading on every shape of comfy-int8.
func TestComfy(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 50))
	for _, arch := range []string{"sm_90", "sm_120"} {
		p, err := program.Preset("comfy-int8")
		if err != nil {
			t.Fatal(err)
		}
		if err := p.SetArch(arch); err != nil {
			t.Fatal(err)
		}
		taken := map[string]int{}
		for _, d := range []int{33, 64, 128, 200} {
			for _, nk := range []int{1, 70, 256, 257, 520, 1040} {
				for _, mask := range []string{"none", "boolean", "additive"} {
					if testing.Short() && (nk > 257 || d == 200) || arch == "sm_120" && (mask != "none" || nk > 520) || d > 64 && nk >= 520 && mask != "none" || d == 200 && nk == 520 {
						continue
					}
					dtype := []format.DType{format.FP16, format.BF16, format.FP32}[r.IntN(3)]
					h := comfyCall(r, 1+r.IntN(150), nk, d, dtype, mask)
					what := fmt.Sprintf("%s, %d queries, %d keys of %d %s, mask %s", arch, h.nq, nk, d, dtype, mask)
					_, k, _ := agree(t, p, h, what, 0, h.nq/2, h.nq-1)
					bound := k.Bound()
					taken[strings.Join([]string{bound.QKCodes.Rotate, bound.Maximum.Of, bound.Mask.Additive}, " ")]++
					if k.Portable() == "" {
						t.Fatal("the strips take it")
					}
				}
			}
		}
		if want := 4; !testing.Short() && len(taken) < want {
			t.Errorf("%s: only %v", arch, taken)
		}
	}
}

// TestComfyChoices: each of the choices that comfy-int8 alone has matters to its output, and no
// vector path has one of them.
func TestComfyChoices(t *testing.T) {
	p, err := program.Preset("comfy-int8")
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(6, 60))
	h := comfyCall(r, 40, 300, 64, format.FP16, "none")
	run := func(p program.Program, h *call) []float32 {
		t.Helper()
		k, err := NewAt(p, Levels()[0])
		if err != nil {
			t.Fatal(err)
		}
		if k, err = h.bind(k); err != nil {
			t.Fatal(err)
		}
		kv, err := k.Prepare(h.kIn)
		if err != nil {
			t.Fatal(err)
		}
		return h.run(t, k, kv).out
	}
	bound, err := p.At(program.Case{HeadDim: 64, DType: "fp16", Keys: 300})
	if err != nil {
		t.Fatal(err)
	}
	// The keys of the first tile point away from Q, and from the anchor.
	away := make([]float32, h.d)
	for c := range away {
		away[c] = float32(8 * r.NormFloat64())
	}
	for i := range h.k {
		if h.k[i] = format.RoundFP16(h.k[i] + 6); i < 64*h.d {
			h.k[i] = format.RoundFP16(h.k[i] + away[i%h.d])
		}
	}
	for i := range h.q {
		h.q[i] = format.RoundFP16(h.q[i] - 2*away[i%h.d])
	}
	h.in.Scale = 1e-3
	want := run(bound, h)
	for _, change := range []string{
		"maximum.of=tile", "denominator.of=p", "denominator.of=codes", "qk_codes.rotate=h4", "smoothing.k=none", "smoothing.k=framework-mean",
		"qk_codes.scale=fused", "v_codes.scale=paper", "exponent.offset=8",
	} {
		q := bound
		path, value, _ := strings.Cut(change, "=")
		if err := q.Set(path, value); err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(run(q, h)) == fmt.Sprint(want) {
			t.Errorf("%s changes nothing", change)
		}
	}
	testComfyRescale(t, p, run)
	masked := comfyCall(r, 40, 200, 64, format.FP16, "additive")
	for _, call := range []struct {
		change string
		h      *call
	}{{"finish.empty=divide", masked}, {"finish.first=none", comfyCall(r, 9, 30, 64, format.FP32, "none")}} {
		q := p
		path, value, _ := strings.Cut(call.change, "=")
		if err := q.Set(path, value); err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(run(q, call.h)) == fmt.Sprint(run(p, call.h)) {
			t.Errorf("%s changes nothing", call.change)
		}
	}
	for want, in := range map[string]QInput{"mask.causal: none": {Causal: true}, "mask.window: no": {Windowed: true}} {
		k, err := New(bound)
		if err != nil {
			t.Fatal(err)
		}
		if err := k.Supports(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v", in, err)
		}
	}
}

// testComfyRescale: whether d*alpha is rounded by itself shows in the last bits of FP32 outputs, in
// the last tile and in those before.
func testComfyRescale(t *testing.T, p program.Program, run func(program.Program, *call) []float32) {
	t.Helper()
	if err := p.Set("finish.first", "none"); err != nil {
		t.Fatal(err)
	}
	// Q and K point away from each other, less so from tile to tile: the maximum grows a little.
	h := comfyCall(rand.New(rand.NewPCG(8, 80)), 150, 250, 64, format.FP32, "none")
	for i := range h.k {
		h.k[i] *= 1 - 0.2*float32(i/h.d/64)
	}
	h.in.Scale = 1e-2
	seen := map[string]string{}
	for _, rescale := range []string{"multiply", "multiply-but-last", "fma"} {
		if err := p.Set("denominator.rescale", rescale); err != nil {
			t.Fatal(err)
		}
		out := fmt.Sprint(run(p, h))
		if other, ok := seen[out]; ok {
			t.Errorf("denominator.rescale %s and %s are the same", other, rescale)
		}
		seen[out] = rescale
	}
}

// TestAttentionOfKeys: the shape that depends on the number of keys is chosen for a head alone too.
func TestAttentionOfKeys(t *testing.T) {
	p, err := program.Preset("comfy-int8")
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(7, 70))
	for _, nk := range []int{200, 300} {
		h := comfyCall(r, 20, nk, 64, format.FP16, "none")
		k, err := NewAt(p, Levels()[0])
		if err != nil {
			t.Fatal(err)
		}
		if k, err = h.bind(k); err != nil {
			t.Fatal(err)
		}
		kv, err := k.Prepare(h.kIn)
		if err != nil {
			t.Fatal(err)
		}
		out, lse, err := Attention(t.Context(), p, Head{Q: h.q, K: h.k, V: h.v, Dim: h.d, DType: h.dtype})
		if err != nil || lse != nil {
			t.Fatal(err, lse)
		}
		want := h.run(t, k, kv)
		if diff := (&result{out: out}).differs(&result{out: want.out}); diff != "" {
			t.Errorf("%d keys: %s", nk, diff)
		}
	}
}
