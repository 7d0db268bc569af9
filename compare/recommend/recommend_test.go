package recommend_test

import (
	"testing"

	"github.com/sageacc/sageacc/emulate/program"

	"github.com/sageacc/sageacc/compare/recommend"
	"github.com/sageacc/sageacc/layerdumps"
	"github.com/sageacc/sageacc/metrics"
)

func TestRun(t *testing.T) {
	d, err := layerdumps.Open([]string{"../../layerdumps/testdata/byte-lm-sample.safetensors"}, layerdumps.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	cheap, _ := program.Preset("sage2-4b")
	dear, _ := program.Preset("sage2-8b-sm90")
	for _, tc := range []struct {
		require []string
		want    [2]string
		figures [2]int
	}{
		// The 4-bit kernel has cosines of 0.9963 and 0.9930 here, the 8-bit one of
		// 0.99955 and 0.99965.
		{[]string{"cos>=0.99"}, [2]string{"sage2-4b", "sage2-4b"}, [2]int{1, 1}},
		{[]string{"cos>=0.995"}, [2]string{"sage2-4b", "sage2-8b-sm90"}, [2]int{1, 2}},
		{[]string{"cos>=0.995", "rel_l1<0.05"}, [2]string{"sage2-8b-sm90", "sage2-8b-sm90"}, [2]int{2, 2}},
		{[]string{"cos>0.9996"}, [2]string{recommend.FP16, "sage2-8b-sm90"}, [2]int{2, 2}},
		{[]string{"max_abs<1e-9"}, [2]string{recommend.FP16, recommend.FP16}, [2]int{2, 2}},
	} {
		var require []metrics.Expr
		for _, s := range tc.require {
			x, err := metrics.ParseExpr(s)
			if err != nil {
				t.Fatal(err)
			}
			require = append(require, x)
		}
		res, err := recommend.Run(t.Context(), d, recommend.Options{Kernels: []program.Program{cheap, dear}, Require: require, Jobs: 2})
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for i, l := range res.Layers {
			if l.Kernel != tc.want[i] || len(l.Figures) != tc.figures[i] {
				t.Errorf("%v: layer %s gets %s after %d kernels, want %s after %d", tc.require, l.Name, l.Kernel, len(l.Figures), tc.want[i], tc.figures[i])
			}
		}
		for _, c := range res.Counts {
			n += c
		}
		if n != 2 {
			t.Errorf("counts %v", res.Counts)
		}
	}
}
