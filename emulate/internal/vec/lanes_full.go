//go:build (amd64 || arm64) && !purego

package vec

import (
	"math"

	"github.com/sageacc/sageacc/emulate/format"
)

// The steps of a strip's softmax and sums, of matrices [key][Rows] or [channel][Rows].

// Tops raises top[thread][row] to the maximum of the scores of keys keys, a multiple of 8. It
// reports whether they are finite, but for those that are masked.
func (l Level) Tops(s, top []float32, keys int, masked float32) bool {
	_, _ = s[keys*Rows-1], top[threads*Rows-1]
	return l.kernels().tops(&s[0], &top[0], keys/8, masked) == 0
}

// Scale sets s[key][row] *= q[row]*k[key], the factor rounded, for len(k) keys.
func (l Level) Scale(s []float32, q *[Rows]float32, k []float32, c Control) {
	if len(k) > 0 {
		_ = s[len(k)*Rows-1]
		l.kernels().scale(&s[0], &q[0], &k[0], len(k), c.word())
	}
}

// Weights sets s[key][row] = ex2(s*scale[thread][row] - lower[thread][row]) for keys keys, a
// multiple of 8: the exponent rounded twice or once; if wide, the ex2 of an exponent below
// -126 is the square of that of its half. It reports whether all exponents are below 128.
func (l Level) Weights(s, scale, lower []float32, table *Ex2Table, keys int, c Control, twice, wide bool) bool {
	_, _, _ = s[keys*Rows-1], scale[threads*Rows-1], lower[threads*Rows-1]
	all := uint32(0)
	if wide {
		all = math.MaxUint32
	}
	return l.kernels().weights[index(twice)](&s[0], &scale[0], &lower[0], ex2Operand(table), keys/8, c.word(), all) == 0
}

// Sums adds to sum[thread][row] the weights of the thread's keys, one after the other, of keys
// keys, a multiple of 8, all but its first.
func (l Level) Sums(sum, w []float32, keys int, c Control) {
	_, _ = sum[threads*Rows-1], w[keys*Rows-1]
	l.kernels().sums(&sum[0], &w[0], &sum[0], keys/8, c.word())
}

// SumsFrom is Sums with all keys, onto sum times alpha[row]: the first key joins in one rounding
// with the product, or twice in two.
func (l Level) SumsFrom(sum, w []float32, alpha *[Rows]float32, keys int, c Control, twice bool) {
	_, _ = sum[threads*Rows-1], w[keys*Rows-1]
	l.kernels().sumsFrom[index(twice)](&sum[0], &w[0], &alpha[0], keys/8, c.word())
}

// Round writes weights, none of them negative, rounded to the format: a multiple of 16. It
// reports whether none is above most or the format's largest.
func (l Level) Round(to Weight, dst, src []float32, most float32) bool {
	_ = dst[len(src)-1]
	return l.kernels().round[to](&dst[0], &src[0], len(src)/16, most) == 0
}

// Exponents writes the exponents of weights of an FP8 format, a multiple of 64, as Values.Dot takes
// them: biased as in FP32, those of subnormals the format's smallest, 0 of zeros. None is
// subnormal in FP32.
func (l Level) Exponents(f Format, dst []uint8, src []float32) {
	_ = dst[len(src)-1]
	l.kernels().exponents(&dst[0], &src[0], len(src)/exponentGroup, f.floor)
}

// Multiply sets acc[row][Rows], an even number of rows, to the sum over k of a[row][k]*b[k][Rows],
// for whole numbers whose sums are all below 2^24. stride is the length of a row of a.
func (l Level) Multiply(acc, a []float32, stride int, b []float32) {
	rows, depth := len(acc)/Rows, len(b)/Rows
	_ = a[(rows-1)*stride+depth-1]
	l.kernels().multiply(&acc[0], &a[0], stride*4, &b[0], rows, depth)
}

// Combine makes o[channel][Rows] of itself and tile. It reports whether all of it is finite.
func (l Level) Combine(j Join, o, tile []float32, alpha, factor *[Rows]float32, c Control) bool {
	_ = tile[len(o)-1]
	return l.kernels().combine[j](&o[0], &tile[0], &alpha[0], &factor[0], len(o)/Rows, c.word()) == 0
}

// Output writes the channels of a row's output, a multiple of 16, rounded to the format: o times
// the product of inverse and scale or, if last, o times inverse, and that times scale. It reports
// whether all of it is finite.
func (l Level) Output(to format.DType, out, o, scale []float32, inverse float32, last bool, c Control) bool {
	_, _ = out[len(o)-1], scale[len(o)-1]
	return l.kernels().output[index(last)][output(to)](&out[0], &o[0], &scale[0], len(o)/16, inverse, c.word()) == 0
}
