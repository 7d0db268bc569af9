package diff_test

import (
	"bytes"
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/compare/diff"
	"github.com/sageacc/sageacc/emulate"
	"github.com/sageacc/sageacc/internal/jsonfloat"
	"github.com/sageacc/sageacc/metrics"
)

func result(kernel string, layers ...compare.Layer) *compare.Result {
	return &compare.Result{Schema: compare.Schema, Kernel: compare.KernelInfo{Name: kernel}, Reference: "fp32", Layers: layers}
}

func layer(name string, cos, l1, rmse float64, mismatched int64) compare.Layer {
	f := func(x float64) jsonfloat.Float { return jsonfloat.Float(x) }
	l := compare.Layer{Name: name}
	l.EmulatedVsReference = metrics.Values{CosSim: f(cos), RelL1: f(l1), RMSE: f(rmse)}
	if mismatched >= 0 {
		l.ActualVsEmulated = &compare.BitValues{Bits: metrics.Bits{Elements: 100, Mismatched: mismatched}}
	}
	return l
}

func TestCompare(t *testing.T) {
	old := result("a", layer("same", 0.99, 0.1, 0.01, 0), layer("worse", 0.99, 0.1, 0.01, 0), layer("gone", 0.9, 0.2, 0.1, -1), layer("zero", 1, 0, 0, -1))
	new := result("b", layer("zero", 1, 0, 0.1, -1), layer("same", 0.99, 0.1, 0.01, 3), layer("worse", 0.98, 0.15, 0.01, 0), layer("new", 0.9, 0.2, 0.1, -1))
	r := diff.Compare(old, new)
	if len(r.Settings) != 1 || r.Settings[0] != "kernel: a -> b" {
		t.Errorf("settings %q", r.Settings)
	}
	var got []string
	for _, l := range r.Layers {
		got = append(got, l.Name+" "+l.Status)
	}
	if s := strings.Join(got, ", "); s != "same both, worse both, gone removed, zero both, new added" {
		t.Errorf("layers %s", s)
	}
	g := r.Layers[1].Growth
	if math.Abs(float64(g.OneMinusCos)-1) > 1e-9 || math.Abs(float64(g.RelL1)-0.5) > 1e-9 || g.RMSE != 0 {
		t.Errorf("growth %+v", g)
	}
	if g := r.Layers[3].Growth; !math.IsInf(float64(g.RMSE), 1) || g.RelL1 != 0 {
		t.Errorf("growth from zero %+v", g)
	}
	for bound, want := range map[float64]int{0.1: 3, 1.5: 2, math.Inf(1): 0} {
		if w := failures(r, &bound); len(w) != want {
			t.Errorf("worse by more than %g: %q, want %d", bound, w, want)
		}
	}
	zero := 0.0
	if len(failures(diff.Compare(old, old), &zero)) != 0 {
		t.Error("a result is worse than itself")
	}
	v := r.Judge(r.Check(&zero), &zero)
	if !v.Failed || len(v.Lines) != 3 || v.Lines[2] != "layers: 1 vanished (gone), 1 appeared (new)" {
		t.Errorf("%+v", v)
	}
}

// failures are the checks that fail, as layer: text.
func failures(r *diff.Result, bound *float64) []string {
	var out []string
	for _, c := range r.Check(bound) {
		if c.Failed {
			out = append(out, c.Layer+": "+c.Text)
		}
	}
	return out
}

// actual gives a layer an actual output of this error, of which so many of 100
// elements differ.
func actual(l compare.Layer, l1 float64, differ int64) compare.Layer {
	v := metrics.Values{CosSim: 1, RelL1: jsonfloat.Float(l1)}
	l.ActualVsReference = &v
	l.ActualVsEmulated = &compare.BitValues{Bits: metrics.Bits{Elements: 100, Mismatched: differ}}
	return l
}

// TestGates: each of the three comparisons fails by itself, and outputs that are no
// longer finite, or no longer there, do.
func TestGates(t *testing.T) {
	nan := math.NaN()
	base := func() compare.Layer { return actual(layer("l", 0.9, 0.1, 0.1, -1), 0.2, 10) }
	with := func(f func(l *compare.Layer)) compare.Layer {
		l := base()
		f(&l)
		return l
	}
	bound := 0.05
	for _, tc := range []struct {
		name  string
		new   compare.Layer
		bound *float64
		want  []string
	}{
		{"the same", base(), &bound, nil},
		{"within the bound", actual(layer("l", 0.9, 0.104, 0.1, -1), 0.208, 10), &bound, nil},
		{"emulated error", actual(layer("l", 0.9, 0.2, 0.1, -1), 0.2, 10), &bound, []string{"l: the emulated error grew by 100.00% (rel_l1)"}},
		{"actual error", actual(layer("l", 0.9, 0.1, 0.1, -1), 0.3, 10), &bound, []string{"l: the actual error grew by 50.00% (rel_l1)"}},
		{"actual error, no bound", actual(layer("l", 0.9, 0.1, 0.1, -1), 0.3, 10), nil, nil},
		{"differing elements", actual(layer("l", 0.9, 0.1, 0.1, -1), 0.2, 11), &bound, []string{"l: the elements that differ from the emulated output grew by 10.00%: 11 do, 10 did"}},
		{"as many of fewer", with(func(l *compare.Layer) { l.ActualVsEmulated.Elements = 50 }), &bound, []string{"l: the elements that differ from the emulated output grew by 100.00%: 10 do, 10 did"}},
		{"actual NaN", with(func(l *compare.Layer) { l.ActualVsReference.CosSim = jsonfloat.Float(nan) }), nil, []string{"l: the actual output, or a figure of it, became NaN or infinite"}},
		{"actual infinity counted", with(func(l *compare.Layer) { l.ActualNonFinite = &emulate.Count{Inf: 1} }), nil, []string{"l: the actual output, or a figure of it, became NaN or infinite"}},
		{"emulated NaN", with(func(l *compare.Layer) { l.EmulatedVsReference.RMSE = jsonfloat.Float(math.Inf(1)) }), nil, []string{"l: the emulated output, or a figure of it, became NaN or infinite"}},
		{"emulated NaN counted", with(func(l *compare.Layer) { l.Counts = map[string]emulate.Count{"output": {NaN: 3}} }), nil, []string{"l: the emulated output, or a figure of it, became NaN or infinite"}},
		{"no actual output", layer("l", 0.9, 0.1, 0.1, -1), &bound, []string{"l: there is no longer an actual output"}},
	} {
		if got := failures(diff.Compare(result("a", base()), result("a", tc.new)), tc.bound); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
	// An output that was not there cannot be worse; one that is NaN is.
	bare := result("a", layer("l", 0.9, 0.1, 0.1, -1))
	if got := failures(diff.Compare(bare, result("a", base())), &bound); got != nil {
		t.Errorf("a new output: %q", got)
	}
	if got := failures(diff.Compare(bare, result("a", actual(layer("l", 0.9, 0.1, 0.1, -1), nan, 100))), nil); len(got) != 1 {
		t.Errorf("a new output of NaN: %q", got)
	}
}

// TestWorst: what failed comes first, then what is in one result only.
func TestWorst(t *testing.T) {
	old := result("a", layer("a", 0.9, 0.1, 0.1, -1), layer("b", 0.9, 0.1, 0.1, -1), layer("c", 0.9, 0.1, 0.1, -1), layer("d", 0.9, 0.1, 0.1, -1))
	new := result("a", layer("a", 0.9, 0.1, 0.1, -1), layer("b", 0.9, 0.3, 0.1, -1), layer("c", 0.9, 0.11, 0.1, -1))
	r, bound := diff.Compare(old, new), 0.5
	if got, left := r.Worst(r.Check(&bound), 3); !slices.Equal(got, []int{1, 3, 2}) || left != 1 {
		t.Errorf("%v, %d", got, left)
	}
	if got, left := r.Worst(r.Check(&bound), 0); !slices.Equal(got, []int{0, 1, 2, 3}) || left != 0 {
		t.Errorf("%v, %d", got, left)
	}
}

func TestNaN(t *testing.T) {
	nan, bound := math.NaN(), 100.0
	good, bad := result("a", layer("l", 0.9, 0.1, 0.1, -1)), result("a", layer("l", nan, nan, 0.1, -1))
	want := []string{"l: the emulated output, or a figure of it, became NaN or infinite", "l: the emulated error grew from zero, or to infinity or NaN (1 - cos_sim)"}
	if w := failures(diff.Compare(good, bad), &bound); !slices.Equal(w, want) {
		t.Errorf("figures that became NaN: %q", w)
	}
	bound = 0
	if w := failures(diff.Compare(bad, good), &bound); w != nil {
		t.Errorf("figures that no longer are NaN: %q", w)
	}
	r := diff.Compare(bad, bad)
	if w := failures(r, &bound); w != nil || *r.Layers[0].Growth != (diff.Growth{}) {
		t.Errorf("figures that stay NaN: %q, %+v", w, r.Layers[0].Growth)
	}
}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestDecode(t *testing.T) {
	good := encode(t, result("a", layer("l", 1, 0, 0, 0)))
	r, err := diff.Decode(bytes.NewReader(good))
	if err != nil || r.Layers[0].ActualVsEmulated.Elements != 100 {
		t.Errorf("%+v, %v", r, err)
	}
	for in, want := range map[string]string{
		"":                                    "not a result",
		"[]":                                  "not a result",
		`{"schema":"x"}`:                      `schema is "x"`,
		`{"schema":"sageacc/compare-set/v1"}`: "several kernels",
		string(good) + "{}":                   "after the result",
		string(encode(t, result("a", layer("l", 1, 0, 0, 0), layer("l", 1, 0, 0, 0)))): "twice",
	} {
		if _, err := diff.Decode(strings.NewReader(in)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: error %v, want %q", in, err, want)
		}
	}
	if _, err := diff.Read("nowhere.json"); err == nil {
		t.Error("a file that is not there is read")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(encode(f, result("a", layer("l", 1, math.NaN(), 0, 0))))
	f.Add([]byte(`{"schema":"sageacc/compare/v1","layers":[{"emulated_vs_reference":{"cos_sim":"+Inf"}}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := diff.Decode(bytes.NewReader(data))
		if err != nil {
			return
		}
		d := diff.Compare(r, r)
		if len(d.Layers) != len(r.Layers) {
			t.Errorf("%d layers of %d", len(d.Layers), len(r.Layers))
		}
		encode(t, d)
	})
}
