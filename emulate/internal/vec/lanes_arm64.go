//go:build !purego

package vec

import (
	"math"

	"github.com/sageacc/sageacc/emulate/format"
)

// The steps of a strip's softmax and sums for [NEON], of matrices [key][Rows] or
// [channel][Rows].

// fpcr is the value of FPCR for c: nothing or FZ, with which operations take and make zeros of
// subnormal numbers. What it flushes before it rounds, the kernels mend.
func (c Control) fpcr() uint32 {
	if c == Flush {
		return 1 << 24
	}
	return 0
}

// Lanes says whether the level has the kernels of this file.
func (l Level) Lanes() bool { return l == NEON }

// Tops raises top[thread][row] to the maximum of the scores of keys keys, a multiple of 8. It
// reports whether they are finite, but for those that are masked.
func (Level) Tops(s, top []float32, keys int, masked float32) bool {
	_, _ = s[keys*Rows-1], top[threads*Rows-1]
	return laneTops(&s[0], &top[0], keys/8, masked) == 0
}

// Scale sets s[key][row] *= q[row]*k[key], the factor rounded, for len(k) keys.
func (Level) Scale(s []float32, q *[Rows]float32, k []float32, c Control) {
	if len(k) > 0 {
		_ = s[len(k)*Rows-1]
		laneScale(&s[0], &q[0], &k[0], len(k), c.fpcr())
	}
}

// Weights sets s[key][row] = ex2(s*scale[thread][row] - lower[thread][row]) for keys keys, a
// multiple of 8: the exponent rounded twice or once; if wide, the ex2 of an exponent below
// -126 is the square of that of its half. It reports whether all exponents are below 128.
func (Level) Weights(s, scale, lower []float32, table *Ex2Table, keys int, c Control, twice, wide bool) bool {
	_, _, _ = s[keys*Rows-1], scale[threads*Rows-1], lower[threads*Rows-1]
	f := laneWeights
	if twice {
		f = laneWeightsTwice
	}
	all := uint32(0)
	if wide {
		all = math.MaxUint32
	}
	packed := packEx2(table)
	return f(&s[0], &scale[0], &lower[0], &packed[0][0], keys/8, c.fpcr(), all) == 0
}

// Sums adds to sum[thread][row] the weights of the thread's keys, one after the other, of keys
// keys, a multiple of 8, all but its first.
func (Level) Sums(sum, w []float32, keys int, c Control) {
	_, _ = sum[threads*Rows-1], w[keys*Rows-1]
	laneSums(&sum[0], &w[0], &sum[0], keys/8, c.fpcr())
}

// SumsFrom is Sums with all keys, onto sum times alpha[row]: the first key joins in one rounding
// with the product, or twice in two.
func (Level) SumsFrom(sum, w []float32, alpha *[Rows]float32, keys int, c Control, twice bool) {
	_, _ = sum[threads*Rows-1], w[keys*Rows-1]
	f := laneSumsFMA
	if twice {
		f = laneSumsTwice
	}
	f(&sum[0], &w[0], &alpha[0], keys/8, c.fpcr())
}

// Round writes weights, none of them negative, rounded to the format: a multiple of 16. It
// reports whether none is above most or the format's largest.
func (Level) Round(to Weight, dst, src []float32, most float32) bool {
	_ = dst[len(src)-1]
	f := [...]func(*float32, *float32, int, float32) uint32{
		WeightFP16: laneRoundFP16, WeightBF16: laneRoundBF16, WeightE4M3: laneRoundE4M3, WeightE5M2: laneRoundE5M2, WeightInt: laneRoundInt,
	}[to]
	return f(&dst[0], &src[0], len(src)/16, most) == 0
}

// Exponents writes the exponents of weights of an FP8 format, a multiple of 64, as Values.Dot takes
// them: biased as in FP32, those of subnormals the format's smallest, 0 of zeros. None is
// subnormal in FP32.
func (Level) Exponents(f Format, dst []uint8, src []float32) {
	_ = dst[len(src)-1]
	laneExponents(&dst[0], &src[0], len(src)/16, f.floor)
}

// Multiply sets acc[row][Rows], an even number of rows, to the sum over k of a[row][k]*b[k][Rows],
// for whole numbers whose sums are all below 2^24. stride is the length of a row of a.
func (Level) Multiply(acc, a []float32, stride int, b []float32) {
	rows, depth := len(acc)/Rows, len(b)/Rows
	_ = a[(rows-1)*stride+depth-1]
	laneMultiply(&acc[0], &a[0], stride*4, &b[0], rows, depth)
}

// Combine makes o[channel][Rows] of itself and tile. It reports whether all of it is finite.
func (Level) Combine(j Join, o, tile []float32, alpha, factor *[Rows]float32, c Control) bool {
	_ = tile[len(o)-1]
	f := [...]func(o, tile, alpha, factor *float32, channels int, control uint32) uint32{
		JoinNone: laneRescale, JoinNoneFP16: laneRescaleFP16, JoinFMA: laneJoin, JoinTwice: laneJoinTwice, JoinFactor: laneJoinFactor,
	}[j]
	return f(&o[0], &tile[0], &alpha[0], &factor[0], len(o)/Rows, c.fpcr()) == 0
}

// Output writes the channels of a row's output, a multiple of 16, rounded to the format: o times
// the product of inverse and scale or, if last, o times inverse, and that times scale. It reports
// whether all of it is finite.
func (Level) Output(to format.DType, out, o, scale []float32, inverse float32, last bool, c Control) bool {
	_, _ = out[len(o)-1], scale[len(o)-1]
	f := [3]func(out, o, scale *float32, groups int, inverse float32, control uint32) uint32{laneOutputFP16, laneOutputBF16, laneOutputFP32}
	if last {
		f = [3]func(out, o, scale *float32, groups int, inverse float32, control uint32) uint32{laneOutputFP16Last, laneOutputBF16Last, laneOutputFP32Last}
	}
	return f[output(to)](&out[0], &o[0], &scale[0], len(o)/16, inverse, c.fpcr()) == 0
}
