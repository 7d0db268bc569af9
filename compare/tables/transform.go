package tables

import (
	"math"
	"math/rand/v2"

	"github.com/sageacc/sageacc/layerdumps"
)

// hadamard rotates the channels of Q and K by a random Hadamard matrix, as QuaRot
// does (arXiv 2404.00456): x -> x D H / sqrt(n) with random signs D. The scores
// stay, outlier channels are spread over all. The signs come from a fixed seed.
// A head_dim that is no power of two is rotated in its largest such part, and
// the rest as a block of its own.
func hadamard(l *layerdumps.Layer, _, _ int) func(x []float32, query bool) {
	d := l.Q.Dim
	r := rand.New(rand.NewPCG(2411, 10958))
	signs := make([]float64, d)
	for i := range signs {
		signs[i] = float64(1 - 2*int(r.Uint32()>>31))
	}
	return func(x []float32, _ bool) {
		row := make([]float64, d)
		for o := 0; o+d <= len(x); o += d {
			for c := range row {
				row[c] = float64(x[o+c]) * signs[c]
			}
			for lo := 0; lo < d; {
				n := 1
				for n*2 <= d-lo {
					n *= 2
				}
				walshHadamard(row[lo : lo+n])
				lo += n
			}
			for c, v := range row {
				x[o+c] = float32(v)
			}
		}
	}
}

// walshHadamard is the orthonormal transform in place; len(x) is a power of two.
func walshHadamard(x []float64) {
	for h := 1; h < len(x); h *= 2 {
		for i := 0; i < len(x); i += 2 * h {
			for j := i; j < i+h; j++ {
				x[j], x[j+h] = x[j]+x[j+h], x[j]-x[j+h]
			}
		}
	}
	s := 1 / math.Sqrt(float64(len(x)))
	for i := range x {
		x[i] *= s
	}
}

// smoothAttn moves the scale of each channel between Q and K, as SmoothQuant does
// between activations and weights (arXiv 2211.10438) with alpha 0.5, and QServe
// for attention: Q/s and K*s with s = sqrt(max|Q| / max|K|) per channel, over all
// tokens and the query heads of the group.
func smoothAttn(l *layerdumps.Layer, batch, kvHead int) func(x []float32, query bool) {
	d := l.Q.Dim
	group := l.Q.Heads / l.K.Heads
	q, k := make([]float32, d), make([]float32, d)
	for h := kvHead * group; h < (kvHead+1)*group; h++ {
		channelMax(q, &l.Q, batch, h)
	}
	channelMax(k, &l.K, batch, kvHead)
	s := make([]float32, d)
	for c := range s {
		s[c] = 1
		if q[c] > 0 && k[c] > 0 {
			s[c] = float32(math.Sqrt(float64(q[c]) / float64(k[c])))
		}
	}
	return func(x []float32, query bool) {
		for i := range x {
			if query {
				x[i] /= s[i%d]
			} else {
				x[i] *= s[i%d]
			}
		}
	}
}

// channelMax raises top to the largest magnitude of each channel of a head.
func channelMax(top []float32, t *layerdumps.Tensor, batch, head int) {
	const rows = 256
	buf := make([]float32, rows*t.Dim)
	for lo := 0; lo < t.Tokens; lo += rows {
		hi := min(lo+rows, t.Tokens)
		x := buf[:(hi-lo)*t.Dim]
		t.Rows(batch, head, lo, hi, x)
		for i, v := range x {
			top[i%t.Dim] = max(top[i%t.Dim], float32(math.Abs(float64(v))))
		}
	}
}
