package diff_test

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/compare"
	"github.com/sageacc/sageacc/compare/diff"
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
	for bound, want := range map[float64]int{0.1: 3, 1.5: 2, math.Inf(1): 1} {
		if w := r.Worse(bound); len(w) != want {
			t.Errorf("worse by more than %g: %q, want %d", bound, w, want)
		}
	}
	if len(diff.Compare(old, old).Worse(0)) != 0 {
		t.Error("a result is worse than itself")
	}
}

func TestNaN(t *testing.T) {
	nan := math.NaN()
	good, bad := result("a", layer("l", 0.9, 0.1, 0.1, -1)), result("a", layer("l", nan, nan, 0.1, -1))
	if w := diff.Compare(good, bad).Worse(100); len(w) != 1 || w[0] != "layer l: an error grew from zero, or to infinity or NaN" {
		t.Errorf("figures that became NaN: %q", w)
	}
	if w := diff.Compare(bad, good).Worse(0); w != nil {
		t.Errorf("figures that no longer are NaN: %q", w)
	}
	r := diff.Compare(bad, bad)
	if w := r.Worse(0); w != nil || *r.Layers[0].Growth != (diff.Growth{}) {
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
		"":                  "not a result",
		"[]":                "not a result",
		`{"schema":"x"}`:    `schema is "x"`,
		string(good) + "{}": "after the result",
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
