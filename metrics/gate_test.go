package metrics_test

import (
	"math"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/metrics"
)

func TestGate(t *testing.T) {
	nan := math.NaN()
	v := values(0.98, 0.1, 0.01, 3)
	bits := &metrics.Bits{Elements: 200, Mismatched: 3, MaxULP: 7}
	for _, tc := range []struct {
		text      string
		canonical string
		row       metrics.Row
		holds     bool
	}{
		{"cos<0.99", "cos_sim<0.99", metrics.AnyReference, true},
		{"rel_l1>0.1", "rel_l1>0.1", metrics.AnyReference, false},
		{" actual . cos < 0.99", "actual.cos_sim<0.99", metrics.Actual, true},
		{"actual.cos_sim<0.98", "actual.cos_sim<0.98", metrics.Actual, false},
		{"emulated.rel_l1>=.1", "emulated.rel_l1>=0.1", metrics.Emulated, true},
		{"emulated.max_abs>1e1", "emulated.max_abs>10", metrics.Emulated, false},
		{"bits.mismatched>0", "bits.mismatched>0", metrics.BitRow, true},
		{"bits.mismatched>3", "bits.mismatched>3", metrics.BitRow, false},
		{"bits.share>0.01", "bits.share>0.01", metrics.BitRow, true},
		{"bits.share>.015", "bits.share>0.015", metrics.BitRow, false},
		{"bits.max_ulp>6", "bits.max_ulp>6", metrics.BitRow, true},
		{"bits.max_ulp>7", "bits.max_ulp>7", metrics.BitRow, false},
		{"bits.rmse>0.001", "bits.rmse>0.001", metrics.BitRow, true},
		{"bits.cos<0.9", "bits.cos_sim<0.9", metrics.BitRow, false},
	} {
		g, err := metrics.ParseGate(tc.text)
		if err != nil {
			t.Errorf("%q: %v", tc.text, err)
			continue
		}
		if g.String() != tc.canonical || g.Row != tc.row || g.NeedsActual() != (tc.row == metrics.Actual || tc.row == metrics.BitRow) {
			t.Errorf("%q reads as %q of row %q", tc.text, g, g.Row)
		}
		if got := g.Holds(v, bits); got != tc.holds {
			t.Errorf("%q holds: %t, want %t", tc.text, got, tc.holds)
		}
		// What was not measured fails every gate.
		if !g.Holds(values(nan, nan, nan, nan), nil) {
			t.Errorf("%q does not hold for NaN", tc.text)
		}
	}
	g, _ := metrics.ParseGate("bits.share>1")
	if !g.Holds(v, &metrics.Bits{}) {
		t.Error("a share of no elements passes")
	}
}

func TestGateErrors(t *testing.T) {
	for text, want := range map[string]string{
		"":                   "no <",
		"actual":             "no <",
		"gpu.cos<1":          `unknown row "gpu", want emulated, actual or bits`,
		".cos<1":             `unknown row ""`,
		"mismatched>0":       "want bits.mismatched",
		"actual.max_ulp>2":   "want bits.max_ulp",
		"bits.ulp>2":         `unknown metric "ulp"`,
		"bits.mismatched>":   "not a number",
		"actual.cos<NaN":     "not a number",
		"actual.bits.cos<1":  `unknown metric "bits.cos"`,
		"bits.mismatched>1%": "not a number",
	} {
		g, err := metrics.ParseGate(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %q, error %v, want %q", text, g, err, want)
		}
	}
}

func FuzzParseGate(f *testing.F) {
	for _, text := range []string{"cos<0.99", "actual.cos<0.99", " bits . max_ulp >= 1e3", "emulated.rmse>0x1p-2", "bits.share<.5", "é.cos<1"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		g, err := metrics.ParseGate(text)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\r") {
				t.Errorf("%q: more than one line: %v", text, err)
			}
			return
		}
		if back, err := metrics.ParseGate(g.String()); err != nil || back != g {
			t.Errorf("%q reads as %q, which reads as %q, %v", text, g, back, err)
		}
		nan := math.NaN()
		if !g.Holds(values(nan, nan, nan, nan), nil) {
			t.Errorf("%q does not hold for NaN", text)
		}
	})
}

func TestFigure(t *testing.T) {
	nan := math.NaN()
	v, bits := values(0.98, 0.1, 0.01, 3), &metrics.Bits{Elements: 200, Mismatched: 3, MaxULP: 7}
	for text, want := range map[string]struct {
		canonical      string
		value, badness float64
	}{
		"cos":              {"cos_sim", 0.98, -0.98},
		" actual . rel_l1": {"actual.rel_l1", 0.1, 0.1},
		"bits.share":       {"bits.share", 0.015, 0.015},
		"bits.mismatched":  {"bits.mismatched", 3, 3},
		"bits.max_ulp":     {"bits.max_ulp", 7, 7},
	} {
		f, err := metrics.ParseFigure(text)
		if err != nil || f.String() != want.canonical || f.Value(v, bits) != want.value || f.Badness(v, bits) != want.badness {
			t.Errorf("%q: %v, %v, %v, %v", text, f, f.Value(v, bits), f.Badness(v, bits), err)
		}
		if !math.IsInf(f.Badness(values(nan, nan, nan, nan), nil), 1) {
			t.Errorf("%q: a NaN is not the worst", text)
		}
	}
	for text, want := range map[string]string{"": "unknown metric", "cos<1": "unknown metric", "max_ulp": "want bits.max_ulp", "x.cos": "unknown row"} {
		if f, err := metrics.ParseFigure(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v", text, f, err)
		}
	}
}
