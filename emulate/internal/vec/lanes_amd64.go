//go:build !purego

package vec

import (
	"math"
	"unsafe"

	"github.com/sageacc/sageacc/emulate/format"
)

// Lanes says whether the level has the kernels of this file: the steps of a strip's softmax and
// sums, of matrices [key][Rows] or [channel][Rows].
func (l Level) Lanes() bool { return l != Portable }

// pick returns the kernel of the level, of the one for AVX-512 and the one for AVX2.
func pick[F any](l Level, full, avx2 F) F {
	if l == AVX2 {
		return avx2
	}
	return full
}

// Tops raises top[thread][row] to the maximum of the scores of keys keys, a multiple of 8. It
// reports whether they are finite, but for those that are masked.
func (l Level) Tops(s, top []float32, keys int, masked float32) bool {
	_, _ = s[keys*Rows-1], top[threads*Rows-1]
	return pick(l, laneTops, laneTopsAVX2)(&s[0], &top[0], keys/8, masked) == 0
}

// Scale sets s[key][row] *= q[row]*k[key], the factor rounded, for len(k) keys.
func (l Level) Scale(s []float32, q *[Rows]float32, k []float32, c Control) {
	if len(k) > 0 {
		_ = s[len(k)*Rows-1]
		pick(l, laneScale, laneScaleAVX2)(&s[0], &q[0], &k[0], len(k), uint32(c))
	}
}

// Weights sets s[key][row] = ex2(s*scale[thread][row] - lower[thread][row]) for keys keys, a
// multiple of 8: the exponent rounded twice or once; if wide, the ex2 of an exponent below
// -126 is the square of that of its half. It reports whether all exponents are below 128.
func (l Level) Weights(s, scale, lower []float32, table *Ex2Table, keys int, c Control, twice, wide bool) bool {
	_, _, _ = s[keys*Rows-1], scale[threads*Rows-1], lower[threads*Rows-1]
	f := pick(l, laneWeights, laneWeightsAVX2)
	if twice {
		f = pick(l, laneWeightsTwice, laneWeightsTwiceAVX2)
	}
	all := uint32(0)
	if wide {
		all = math.MaxUint32
	}
	return f(&s[0], &scale[0], &lower[0], (*byte)(unsafe.Pointer(table)), keys/8, uint32(c), all) == 0
}

// Sums adds to sum[thread][row] the weights of the thread's keys, one after the other, of keys
// keys, a multiple of 8, all but its first.
func (l Level) Sums(sum, w []float32, keys int, c Control) {
	_, _ = sum[threads*Rows-1], w[keys*Rows-1]
	pick(l, laneSums, laneSumsAVX2)(&sum[0], &w[0], &sum[0], keys/8, uint32(c))
}

// SumsFrom is Sums with all keys, onto sum times alpha[row]: the first key joins in one rounding
// with the product, or twice in two.
func (l Level) SumsFrom(sum, w []float32, alpha *[Rows]float32, keys int, c Control, twice bool) {
	_, _ = sum[threads*Rows-1], w[keys*Rows-1]
	f := pick(l, laneSumsFMA, laneSumsFMAAVX2)
	if twice {
		f = pick(l, laneSumsTwice, laneSumsTwiceAVX2)
	}
	f(&sum[0], &w[0], &alpha[0], keys/8, uint32(c))
}

// Round writes weights, none of them negative, rounded to the format: a multiple of 16. It
// reports whether none is above most or the format's largest.
func (l Level) Round(to Weight, dst, src []float32, most float32) bool {
	_ = dst[len(src)-1]
	type kernel = func(dst, src *float32, groups int, most float32) uint32
	f := pick(l,
		[...]kernel{WeightFP16: laneRoundFP16, WeightBF16: laneRoundBF16, WeightE4M3: laneRoundE4M3, WeightE5M2: laneRoundE5M2, WeightInt: laneRoundInt},
		[...]kernel{WeightFP16: laneRoundFP16AVX2, WeightBF16: laneRoundBF16AVX2, WeightE4M3: laneRoundE4M3AVX2, WeightE5M2: laneRoundE5M2AVX2, WeightInt: laneRoundIntAVX2},
	)[to]
	return f(&dst[0], &src[0], len(src)/16, most) == 0
}

// Exponents writes the exponents of weights of an FP8 format, a multiple of 64, as Values.Dot takes
// them: biased as in FP32, those of subnormals the format's smallest, 0 of zeros. None is
// subnormal in FP32.
func (l Level) Exponents(f Format, dst []uint8, src []float32) {
	_ = dst[len(src)-1]
	pick(l, laneExponents, laneExponentsAVX2)(&dst[0], &src[0], len(src)/64, f.floor)
}

// Multiply sets acc[row][Rows], an even number of rows, to the sum over k of a[row][k]*b[k][Rows],
// for whole numbers whose sums are all below 2^24. stride is the length of a row of a.
func (l Level) Multiply(acc, a []float32, stride int, b []float32) {
	rows, depth := len(acc)/Rows, len(b)/Rows
	_ = a[(rows-1)*stride+depth-1]
	pick(l, laneMultiply, laneMultiplyAVX2)(&acc[0], &a[0], stride*4, &b[0], rows, depth)
}

// Combine makes o[channel][Rows] of itself and tile. It reports whether all of it is finite.
func (l Level) Combine(j Join, o, tile []float32, alpha, factor *[Rows]float32, c Control) bool {
	_ = tile[len(o)-1]
	type kernel = func(o, tile, alpha, factor *float32, channels int, control uint32) uint32
	f := pick(l,
		[...]kernel{JoinNone: laneRescale, JoinNoneFP16: laneRescaleFP16, JoinFMA: laneJoin, JoinTwice: laneJoinTwice, JoinFactor: laneJoinFactor},
		[...]kernel{JoinNone: laneRescaleAVX2, JoinNoneFP16: laneRescaleFP16AVX2, JoinFMA: laneJoinAVX2, JoinTwice: laneJoinTwiceAVX2, JoinFactor: laneJoinFactorAVX2},
	)[j]
	return f(&o[0], &tile[0], &alpha[0], &factor[0], len(o)/Rows, uint32(c)) == 0
}

// Output writes the channels of a row's output, a multiple of 16, rounded to the format: o times
// the product of inverse and scale or, if last, o times inverse, and that times scale. It reports
// whether all of it is finite.
func (l Level) Output(to format.DType, out, o, scale []float32, inverse float32, last bool, c Control) bool {
	_, _ = out[len(o)-1], scale[len(o)-1]
	type kernel = func(out, o, scale *float32, groups int, inverse float32, control uint32) uint32
	f := pick(l, [...]kernel{laneOutputFP16, laneOutputBF16, laneOutputFP32}, [...]kernel{laneOutputFP16AVX2, laneOutputBF16AVX2, laneOutputFP32AVX2})
	if last {
		f = pick(l, [...]kernel{laneOutputFP16Last, laneOutputBF16Last, laneOutputFP32Last}, [...]kernel{laneOutputFP16LastAVX2, laneOutputBF16LastAVX2, laneOutputFP32LastAVX2})
	}
	return f[output(to)](&out[0], &o[0], &scale[0], len(o)/16, inverse, uint32(c)) == 0
}
