package quant

import (
	"math"

	"github.com/sageacc/sageacc/emulate/format"
)

// AnchorSamples is how many keys Anchor looks at.
const AnchorSamples = 9

// AnchorKey returns the number of a sample among n keys: the samples are spread evenly from
// the first key to the last.
func AnchorKey(sample, n int) int { return sample * (n - 1) / (AnchorSamples - 1) }

// Anchor chooses what comfy-kitchen subtracts from K instead of its mean
// (backends/cuda/sage_attention/quant_qk_int8.cu, detect_k_anchor; contractions from its SASS
// for sm_90): x [AnchorSamples][d] holds the sampled keys. It returns the sample whose squared
// distance to the mean of all is least, the first of equals, or -1 where subtracting it does not
// make the sum of squares smaller, or makes the largest magnitude more than an eighth larger.
// All sums are FP32, of 128 threads with a channel each (several above 128), then a tree over each
// warp and the four warps in order. Fewer than d*AnchorSamples elements have no anchor.
func Anchor(x []float32, d int) int {
	if d < 1 || len(x) < AnchorSamples*d {
		return -1
	}
	var energy anchorThreads
	var distance [AnchorSamples]anchorThreads
	var top float32
	for c := range d {
		var sum float32
		e := &energy[c%len(energy)]
		for s := range AnchorSamples {
			v := x[s*d+c]
			*e = format.FMAFtz(v, v, *e)
			top = larger(top, v)
			sum = format.AddFtz(sum, v)
		}
		for s := range distance {
			v := format.FMAFtz(x[s*d+c], AnchorSamples, -sum)
			t := &distance[s][c%len(energy)]
			*t = format.FMAFtz(v, v, *t)
		}
	}
	best, least := 0, float32(math.MaxFloat32)
	for s := range distance {
		if v := distance[s].sum(); v < least {
			best, least = s, v
		}
	}
	var residual anchorThreads
	var residualTop float32
	for c := range d {
		r := &residual[c%len(residual)]
		for s := range AnchorSamples {
			v := format.SubFtz(x[s*d+c], x[best*d+c])
			*r = format.FMAFtz(v, v, *r)
			residualTop = larger(residualTop, v)
		}
	}
	if residual.sum() < energy.sum() && residualTop <= format.MulFtz(top, 1.125) {
		return best
	}
	return -1
}

// larger is the larger of m and |v|; a NaN is ignored.
func larger(m, v float32) float32 {
	if a := format.FlushSubnormal(float32(math.Abs(float64(v)))); a > m {
		return a
	}
	return m
}

// anchorThreads are the sums of the threads of a block of detect_k_anchor.
type anchorThreads [128]float32

// sum adds them as the block does: a tree in each warp, and the warps in order.
func (t *anchorThreads) sum() (total float32) {
	for w := 0; w < len(t); w += 32 {
		lane := [32]float32(t[w : w+32])
		for off := 16; off > 0; off /= 2 {
			for l := range off {
				lane[l] = format.AddFtz(lane[l], lane[l+off])
			}
		}
		total = format.AddFtz(total, lane[0])
	}
	return total
}
