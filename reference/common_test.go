package reference_test

import (
	"math"
	"math/rand/v2"
)

// gaussian returns n standard normal values, always the same for a seed.
func gaussian(seed uint64, n int) []float32 {
	r := rand.New(rand.NewPCG(seed, 0x5a9e))
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	return x
}

// naive is attention written down directly in float64: all scores of a row, one
// maximum, one sum.
func naive(q, k, v []float32, lo, hi, nk, d int, causal bool, scale float64) (out, lse []float64) {
	if scale == 0 {
		scale = 1 / math.Sqrt(float64(d))
	}
	out = make([]float64, (hi-lo)*d)
	lse = make([]float64, hi-lo)
	s := make([]float64, nk)
	for i := range hi - lo {
		n := nk
		if causal {
			n = min(nk, lo+i+1)
		}
		top := math.Inf(-1)
		for j := range n {
			var dot float64
			for c := range d {
				dot += float64(q[i*d+c]) * float64(k[j*d+c])
			}
			s[j] = scale * dot
			top = max(top, s[j])
		}
		var sum float64
		for j := range n {
			s[j] = math.Exp(s[j] - top)
			sum += s[j]
		}
		for c := range d {
			var o float64
			for j := range n {
				o += s[j] * float64(v[j*d+c])
			}
			out[i*d+c] = o / sum
		}
		lse[i] = top + math.Log(sum)
	}
	return out, lse
}
