package reference_test

import (
	"fmt"
	"testing"

	"github.com/sageacc/sageacc/reference"
)

// BenchmarkAttention measures one head per iteration on one goroutine. GMAC/s
// counts the 2·rows·keys·d multiplications of the two products, half of them
// when causal.
func BenchmarkAttention(b *testing.B) {
	for _, bc := range []struct {
		precision reference.Precision
		n, d      int
		causal    bool
	}{
		{reference.FP32, 1024, 64, false},
		{reference.FP32, 1024, 128, false},
		{reference.FP32, 4096, 64, false},
		{reference.FP32, 4096, 128, false},
		{reference.FP32, 4096, 128, true},
		{reference.FP64, 1024, 64, false},
		{reference.FP64, 1024, 128, false},
		{reference.FP64, 4096, 64, false},
		{reference.FP64, 4096, 128, false},
	} {
		b.Run(fmt.Sprintf("%v/n%d/d%d/causal=%t", bc.precision, bc.n, bc.d, bc.causal), func(b *testing.B) {
			q, k, v := gaussian(1, bc.n*bc.d), gaussian(2, bc.n*bc.d), gaussian(3, bc.n*bc.d)
			out := make([]float64, bc.n*bc.d)
			var ws reference.Workspace
			p := reference.Params{Precision: bc.precision, Causal: bc.causal}
			b.ReportAllocs()
			for b.Loop() {
				if err := reference.Attention(b.Context(), p, q, k, v, 0, bc.n, bc.n, bc.d, &ws, out, nil); err != nil {
					b.Fatal(err)
				}
			}
			macs := 2 * float64(bc.n) * float64(bc.n) * float64(bc.d)
			if bc.causal {
				macs /= 2
			}
			b.ReportMetric(macs*float64(b.N)/b.Elapsed().Seconds()/1e9, "GMAC/s")
		})
	}
}
