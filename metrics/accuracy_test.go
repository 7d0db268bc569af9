package metrics_test

import (
	"encoding/json"
	"math"
	"math/big"
	"math/rand/v2"
	"testing"

	"github.com/sageacc/sageacc/emulate/format"
	"github.com/sageacc/sageacc/metrics"
)

var (
	nan32 = float32(math.NaN())
	inf32 = float32(math.Inf(1))
)

// accuracyOf accumulates one pair of slices.
func accuracyOf(out, ref []float32) *metrics.Accuracy {
	var a metrics.Accuracy
	a.Add(out, ref)
	return &a
}

// figures returns the values as an array, in the order of their fields.
func figures(v metrics.Values) [4]float64 {
	return [4]float64{float64(v.CosSim), float64(v.RelL1), float64(v.RMSE), float64(v.MaxAbs)}
}

func near(got, want, tol float64) bool {
	return got == want || math.IsNaN(got) && math.IsNaN(want) || math.Abs(got-want) <= tol*math.Abs(want)
}

func checkFigures(t *testing.T, what string, got metrics.Values, want [4]float64, tol float64) {
	t.Helper()
	for i, g := range figures(got) {
		if !near(g, want[i], tol) {
			t.Errorf("%s: %s = %v, want %v", what, [...]string{"cos_sim", "rel_l1", "rmse", "max_abs"}[i], g, want[i])
		}
	}
}

// lcg returns the inputs that testdata/gen.py uses.
func lcg(seed uint32, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		seed = seed*1664525 + 1013904223
		x[i] = float32(seed>>8)/(1<<23) - 1
	}
	return x
}

// TestNumpy compares with what testdata/gen.py printed.
func TestNumpy(t *testing.T) {
	for _, tc := range []struct {
		n    int
		want [4]float64
	}{
		{1, [4]float64{1.0, 0.015602019476006453, 0.008223652839660645, 0.008223652839660645}},
		{255, [4]float64{0.9998849990826881, 0.01519216734035326, 0.008592254664014221, 0.015586674213409424}},
		{256, [4]float64{0.9998853387913365, 0.01513216911269985, 0.008575458361900448, 0.015586674213409424}},
		{257, [4]float64{0.9998858739296611, 0.015065080002925687, 0.008559102360296254, 0.015586674213409424}},
		{100000, [4]float64{0.9998777728289118, 0.015617439053921808, 0.00903262575754471, 0.015624463558197021}},
	} {
		ref, noise := lcg(1, tc.n), lcg(2, tc.n)
		out := make([]float32, tc.n)
		for i := range out {
			out[i] = ref[i] + float32(noise[i]/64)
		}
		checkFigures(t, "Add", accuracyOf(out, ref).Values(), tc.want, 1e-12)

		ref64 := make([]float64, tc.n)
		for i, r := range ref {
			ref64[i] = float64(r)
		}
		var a metrics.Accuracy
		a.Add64(out, ref64)
		if a.Values() != accuracyOf(out, ref).Values() || a.N() != int64(tc.n) {
			t.Errorf("n = %d: Add64 gives %+v of %d elements", tc.n, a.Values(), a.N())
		}
	}
}

// TestErrorBound holds the sums against exact ones, on values whose magnitudes
// span the range of float32 and whose products cancel.
func TestErrorBound(t *testing.T) {
	const n = 200_003
	r := rand.New(rand.NewPCG(1, 2))
	out, ref := make([]float32, n), make([]float32, n)
	for i := range out {
		ref[i] = float32(r.NormFloat64() * math.Exp2(float64(r.IntN(60)-30)))
		out[i] = -ref[i]
		if i%2 == 0 {
			out[i] = ref[i] * float32(1+r.NormFloat64()/1000)
		}
	}
	exact := func(term func(o, r *big.Float) *big.Float) *big.Float {
		s := new(big.Float).SetPrec(400)
		for i := range out {
			s.Add(s, term(big.NewFloat(float64(out[i])).SetPrec(400), big.NewFloat(float64(ref[i])).SetPrec(400)))
		}
		return s
	}
	mul := func(a, b *big.Float) *big.Float { return new(big.Float).Mul(a, b) }
	sub := func(a, b *big.Float) *big.Float { return new(big.Float).Sub(a, b) }
	quo := func(a, b *big.Float) float64 { x, _ := new(big.Float).Quo(a, b).Float64(); return x }
	dot := exact(mul)
	oo := exact(func(o, _ *big.Float) *big.Float { return mul(o, o) })
	rr := exact(func(_, r *big.Float) *big.Float { return mul(r, r) })
	l1 := exact(func(o, r *big.Float) *big.Float { d := sub(o, r); return d.Abs(d) })
	abs := exact(func(_, r *big.Float) *big.Float { return r.Abs(r) })
	sq := exact(func(o, r *big.Float) *big.Float { d := sub(o, r); return mul(d, d) })
	norm := new(big.Float).Sqrt(mul(oo, rr))

	got := accuracyOf(out, ref).Values()
	const bound = 1e-13 // two sums in a quotient
	if want := quo(dot, norm); math.Abs(float64(got.CosSim)-want) > bound {
		t.Errorf("cos_sim = %v, want %v", got.CosSim, want)
	}
	if want := quo(l1, abs); !near(float64(got.RelL1), want, bound) {
		t.Errorf("rel_l1 = %v, want %v", got.RelL1, want)
	}
	if want := math.Sqrt(quo(sq, big.NewFloat(n))); !near(float64(got.RMSE), want, bound) {
		t.Errorf("rmse = %v, want %v", got.RMSE, want)
	}
}

func TestSpecialValues(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	tests := []struct {
		name     string
		out, ref []float32
		want     [4]float64
		count    metrics.NonFinite
	}{
		{"empty", nil, nil, [4]float64{1, 0, 0, 0}, metrics.NonFinite{}},
		{"both zero", []float32{0, 0}, []float32{0, 0}, [4]float64{1, 0, 0, 0}, metrics.NonFinite{}},
		{"output zero", []float32{0, 0}, []float32{3, 4}, [4]float64{nan, 1, math.Sqrt(12.5), 4}, metrics.NonFinite{}},
		{"reference zero", []float32{3, 4}, []float32{0, 0}, [4]float64{nan, inf, math.Sqrt(12.5), 4}, metrics.NonFinite{}},
		{"equal", []float32{0.1, 0.7}, []float32{0.1, 0.7}, [4]float64{1, 0, 0, 0}, metrics.NonFinite{}},
		{"opposite", []float32{0.1, 0.7}, []float32{-0.1, -0.7}, [4]float64{-1, 2, math.Sqrt(2 * (sq(0.1) + sq(0.7))), 2 * float64(float32(0.7))}, metrics.NonFinite{}},
		{"NaN in the output", []float32{nan32, 1}, []float32{1, 1}, [4]float64{nan, nan, nan, nan}, metrics.NonFinite{OutNaN: 1}},
		{"NaN in the reference", []float32{1, 1}, []float32{1, nan32}, [4]float64{nan, nan, nan, nan}, metrics.NonFinite{RefNaN: 1}},
		{"NaN before a larger difference", []float32{nan32, 9}, []float32{1, 1}, [4]float64{nan, nan, nan, nan}, metrics.NonFinite{OutNaN: 1}},
		{"Inf in the output", []float32{inf32, 1}, []float32{1, 1}, [4]float64{nan, inf, inf, inf}, metrics.NonFinite{OutInf: 1}},
		{"Inf in the reference", []float32{1, 1}, []float32{1, -inf32}, [4]float64{nan, nan, inf, inf}, metrics.NonFinite{RefInf: 1}},
		{"Inf in both", []float32{inf32}, []float32{inf32}, [4]float64{nan, nan, nan, nan}, metrics.NonFinite{OutInf: 1, RefInf: 1}},
		{"largest float32", []float32{math.MaxFloat32}, []float32{-math.MaxFloat32}, [4]float64{-1, 2, 2 * math.MaxFloat32, 2 * math.MaxFloat32}, metrics.NonFinite{}},
		{"smallest float32", []float32{math.SmallestNonzeroFloat32}, []float32{math.SmallestNonzeroFloat32}, [4]float64{1, 0, 0, 0}, metrics.NonFinite{}},
	}
	for _, tc := range tests {
		a := accuracyOf(tc.out, tc.ref)
		checkFigures(t, tc.name, a.Values(), tc.want, 1e-15)
		if a.NonFinite() != tc.count {
			t.Errorf("%s: counted %+v, want %+v", tc.name, a.NonFinite(), tc.count)
		}
		if a.NonFinite().Any() != (tc.count != metrics.NonFinite{}) {
			t.Errorf("%s: Any is wrong", tc.name)
		}
		// An element is as bad wherever it stands, and after a merge.
		var b metrics.Accuracy
		b.Merge(a)
		checkFigures(t, tc.name+", merged", b.Values(), tc.want, 1e-15)
		b.Add(make([]float32, 1000), make([]float32, 1000))
		b.Merge(accuracyOf(make([]float32, 1000), make([]float32, 1000)))
		if b.NonFinite() != tc.count || b.N() != int64(2000+len(tc.out)) {
			t.Errorf("%s, merged: counted %+v of %d", tc.name, b.NonFinite(), b.N())
		}
		for i, x := range figures(b.Values()) {
			if math.IsNaN(tc.want[i]) != math.IsNaN(x) || math.IsInf(tc.want[i], 0) != math.IsInf(x, 0) {
				t.Errorf("%s, merged: figure %d became %v, was %v", tc.name, i, x, tc.want[i])
			}
		}
	}
}

func sq(x float32) float64 { return float64(x) * float64(x) }

// TestMerge: accumulators merged in any order, through JSON or not, are one accumulator,
// if the elements are cut at multiples of 256.
func TestMerge(t *testing.T) {
	const n = 10_000
	ref, noise := lcg(3, n), lcg(4, n)
	out := make([]float32, n)
	for i := range out {
		out[i] = ref[i] + noise[i]/100
	}
	whole := accuracyOf(out, ref)
	want, err := json.Marshal(whole)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(5, 6))
	for range 20 {
		var parts []*metrics.Accuracy
		for lo := 0; lo < n; {
			hi := min(n, lo+256*(1+r.IntN(10)))
			parts = append(parts, accuracyOf(out[lo:hi], ref[lo:hi]))
			lo = hi
		}
		for len(parts) > 1 {
			i := r.IntN(len(parts) - 1)
			p := parts[i]
			if r.IntN(2) == 0 {
				text, err := json.Marshal(p)
				p = new(metrics.Accuracy)
				if err == nil {
					err = json.Unmarshal(text, p)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			parts[len(parts)-1].Merge(p)
			parts[i], parts = parts[len(parts)-1], parts[:len(parts)-1]
		}
		got, err := json.Marshal(parts[0])
		if err != nil || string(got) != string(want) || parts[0].Values() != whole.Values() || parts[0].N() != n {
			t.Fatalf("merged: %s, %v; want %s", got, err, want)
		}
	}

	self := accuracyOf(out, ref)
	self.Merge(self)
	if self.N() != 2*n {
		t.Errorf("merged into itself: N = %d", self.N())
	}
	checkFigures(t, "merged into itself", self.Values(), figures(whole.Values()), 1e-15)
}

// TestState: special values survive JSON, and what is no state is refused.
func TestState(t *testing.T) {
	a := accuracyOf([]float32{inf32, 1, nan32}, []float32{1, -inf32, 2})
	var b metrics.Accuracy
	text, err := json.Marshal(a)
	if err == nil {
		err = json.Unmarshal(text, &b)
	}
	if err != nil || b.NonFinite() != a.NonFinite() || !math.IsNaN(b.MaxAbs()) || !math.IsNaN(b.RMSE()) || b.N() != 3 {
		t.Errorf("%s, %v: read back %+v of %d", text, err, b.NonFinite(), b.N())
	}
	for _, bad := range []string{`{"dot":"x"}`, `{"dot":null}`, `{"n":1.5}`, `[]`} {
		if json.Unmarshal([]byte(bad), new(metrics.Accuracy)) == nil {
			t.Errorf("%s was read", bad)
		}
	}
}

func TestLengthMismatchPanics(t *testing.T) {
	for name, f := range map[string]func(){
		"Accuracy.Add":  func() { accuracyOf(make([]float32, 2), make([]float32, 3)) },
		"Bits.Add":      func() { new(metrics.Bits).Add(metrics.Position{}, format.FP16, make([]uint32, 2), nil) },
		"Bits.AddBlock": func() { new(metrics.Bits).AddBlock(metrics.Position{}, format.FP16, 1, make([]uint32, 2), nil) },
		"Bits.AddBlock rows": func() {
			new(metrics.Bits).AddBlock(metrics.Position{}, format.FP16, 2, make([]uint32, 3), make([]uint32, 3))
		},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s did not panic", name)
				}
			}()
			f()
		}()
	}
}

func TestValuesJSON(t *testing.T) {
	v := accuracyOf([]float32{inf32, 1}, []float32{1, 1}).Values()
	text, err := json.Marshal(v)
	if want := `{"cos_sim":"NaN","rel_l1":"+Inf","rmse":"+Inf","max_abs":"+Inf"}`; err != nil || string(text) != want {
		t.Errorf("got %s, %v; want %s", text, err, want)
	}
}

func BenchmarkAccuracy(b *testing.B) {
	const n = 1 << 16
	out, ref := lcg(1, n), lcg(2, n)
	b.SetBytes(n * 8)
	for b.Loop() {
		accuracyOf(out, ref)
	}
}

func TestRefRMS(t *testing.T) {
	var a metrics.Accuracy
	if a.RefRMS() != 0 {
		t.Errorf("of nothing: %g", a.RefRMS())
	}
	a.Add([]float32{9, 9}, []float32{3, -4})
	a.Add([]float32{9, 9}, []float32{0, 5})
	if got, want := a.RefRMS(), math.Sqrt(50.0/4); got != want {
		t.Errorf("got %g, want %g", got, want)
	}
}
