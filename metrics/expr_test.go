package metrics_test

import (
	"math"
	"strings"
	"testing"

	"github.com/sageacc/sageacc/metrics"
)

func TestExpr(t *testing.T) {
	nan := math.NaN()
	v := values(0.98, 0.1, 0.01, 3)
	for _, tc := range []struct {
		text      string
		canonical string
		holds     bool
	}{
		{"cos<0.99", "cos_sim<0.99", true},
		{"cos_sim<0.98", "cos_sim<0.98", false},
		{"cos_sim<=0.98", "cos_sim<=0.98", true},
		{" rel_l1 > 0.1 ", "rel_l1>0.1", false},
		{"rel_l1>=.1", "rel_l1>=0.1", true},
		{"rmse\t>\t1e-3", "rmse>0.001", true},
		{"max_abs >= 3", "max_abs>=3", true},
		{"max_abs>+Inf", "max_abs>+Inf", false},
		{"max_abs<inf", "max_abs<+Inf", true},
	} {
		e, err := metrics.ParseExpr(tc.text)
		if err != nil {
			t.Errorf("%q: %v", tc.text, err)
			continue
		}
		if e.String() != tc.canonical {
			t.Errorf("%q reads as %q, want %q", tc.text, e, tc.canonical)
		}
		if got := e.Holds(v); got != tc.holds {
			t.Errorf("%q holds: %t, want %t", tc.text, got, tc.holds)
		}
		if !e.Holds(values(nan, nan, nan, nan)) {
			t.Errorf("%q does not hold for NaN", tc.text)
		}
	}
}

func TestExprErrors(t *testing.T) {
	for _, text := range []string{
		"", "cos", "cos=0.99", "cos==1", "cos!<1", "<1", "l2>1", "cos<", "cos<x", "cos<<1", "cos< =1", "cos<0.9 0.8",
		"cos<NaN", "cos<1e999", "COS<1", "cos<0.99%", "cos\n>",
	} {
		e, err := metrics.ParseExpr(text)
		if err == nil {
			t.Errorf("%q was read as %q", text, e)
		} else if strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: more than one line: %v", text, err)
		}
	}
}

func FuzzParseExpr(f *testing.F) {
	for _, text := range []string{"cos<0.99", " rel_l1 >= 1e-3", "rmse>0x1p-2", "max_abs<=-Inf", "cos<", "é<1", "cos<-0"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		e, err := metrics.ParseExpr(text)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\r") {
				t.Errorf("%q: more than one line: %v", text, err)
			}
			return
		}
		if back, err := metrics.ParseExpr(e.String()); err != nil || back != e {
			t.Errorf("%q reads as %q, which reads as %q, %v", text, e, back, err)
		}
		nan := math.NaN()
		if !e.Holds(values(nan, nan, nan, nan)) {
			t.Errorf("%q does not hold for NaN", text)
		}
	})
}
