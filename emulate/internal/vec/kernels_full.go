//go:build (amd64 || arm64) && !purego

package vec

import (
	"encoding/binary"
	"unsafe"

	"github.com/sageacc/sageacc/emulate/format"
)

// This file calls the kernels that all levels have alike.

// kernels are those of a level. Pairs are by whether sums are FP16, what is three by the output:
// FP16, BF16, FP32.
type kernels struct {
	exponentsSplit, exponentsOctet func(e, pe, codes *uint8, table *uint32, channels int, keep uint32)
	dot25, dot25FP16, dot24FP16    [2]func(acc *float32, records, codes *uint8, values *float64, p *float32, e *uint8, channels, stride int, bias uint64) uint32
	dotExact                       [2]func(acc *float32, codes *uint8, values *float64, p *float32, channels int) uint32
	addSums                        [2]func(acc, sums *float32, channels int) uint32
	widen                          func(dst *float64, src *uint16, groups int)
	encodeFP16                     func(codes *uint16, x *float32, groups int) uint32
	decodeFP16                     func(dst *float32, codes *uint16, groups int)

	finish   [3]func(dst, o, inverse, scale, mean *float32, channels int) uint32
	subtract [3]func(x, mean *float32, rows, groups int)
	quantize [3]func(codes *int8, x *float32, factor float32, limit, least int32, groups int) // by Rounding
	encode   [4]func(codes *uint8, x, mean, factor *float32, rows, groups int) uint32         // E4M3 fused and paper, E5M2
	absMax   func(x *float32, m float32, groups int) float32
	finite   func(x *float32, groups int) uint32
	extremes func(hi, lo, x *float32, rows, groups int)
	addMeans func(sum, comp *float64, x *float32, rows, groups int)

	// The steps; sumsFrom and weights by whether they round twice, output by whether the scale
	// comes last.
	tops      func(s, top *float32, octets int, masked float32) uint32
	scale     func(s, q, k *float32, keys int, control uint32)
	weights   [2]func(s, scale, lower *float32, table *uint32, octets int, control, wide uint32) uint32
	sums      func(sum, w, alpha *float32, octets int, control uint32)
	sumsFrom  [2]func(sum, w, alpha *float32, octets int, control uint32)
	round     [WeightInt + 1]func(dst, src *float32, groups int, most float32) uint32
	exponents func(dst *uint8, src *float32, groups int, floor uint32)
	multiply  func(acc, a *float32, stride int, b *float32, rows, depth int)
	combine   [JoinFactor + 1]func(o, tile, alpha, factor *float32, channels int, control uint32) uint32
	output    [2][3]func(out, o, scale *float32, groups int, inverse float32, control uint32) uint32
}

// full are the kernels of AVX512 and NEON.
var full = func() (k kernels) {
	k.exponentsSplit, k.exponentsOctet = exponentsSplit, exponentsOctet
	k.dot25[0], k.dot25FP16[0], k.dot24FP16[0] = dot25, dot25FP16, dot24FP16
	k.dot25[1], k.dot25FP16[1], k.dot24FP16[1] = dot25Half, dot25FP16Half, dot24FP16Half
	k.dotExact[0], k.addSums[0] = dotExact, addSums
	k.dotExact[1], k.addSums[1] = dotExactHalf, addSumsHalf
	k.widen, k.encodeFP16, k.decodeFP16 = widen, encodeFP16, decodeFP16
	k.finish[0], k.finish[1], k.finish[2] = finishFP16, finishBF16, finishFP32
	k.subtract[0], k.subtract[1], k.subtract[2] = subtractFP16, subtractBF16, subtractFP32
	k.quantize[MultiplyAway], k.quantize[MultiplyEven], k.quantize[DivideEven] = quantizeAway, quantizeEven, quantizeDivide
	k.encode[0], k.encode[1], k.encode[2], k.encode[3] = encodeE4M3Fused, encodeE4M3Paper, encodeE5M2Fused, encodeE5M2Paper
	k.absMax, k.finite, k.extremes, k.addMeans = absMax, finite, extremes, addMeans
	k.tops, k.scale, k.sums, k.exponents, k.multiply = laneTops, laneScale, laneSums, laneExponents, laneMultiply
	k.weights[0], k.weights[1], k.sumsFrom[0], k.sumsFrom[1] = laneWeights, laneWeightsTwice, laneSumsFMA, laneSumsTwice
	k.round[WeightFP16], k.round[WeightBF16], k.round[WeightE4M3] = laneRoundFP16, laneRoundBF16, laneRoundE4M3
	k.round[WeightE5M2], k.round[WeightInt] = laneRoundE5M2, laneRoundInt
	k.combine[JoinNone], k.combine[JoinNoneFP16], k.combine[JoinFMA] = laneRescale, laneRescaleFP16, laneJoin
	k.combine[JoinTwice], k.combine[JoinFactor] = laneJoinTwice, laneJoinFactor
	k.output[0][0], k.output[0][1], k.output[0][2] = laneOutputFP16, laneOutputBF16, laneOutputFP32
	k.output[1][0], k.output[1][1], k.output[1][2] = laneOutputFP16Last, laneOutputBF16Last, laneOutputFP32Last
	return k
}()

// output numbers the formats of outputs.
func output(to format.DType) int {
	switch to {
	case format.FP16:
		return 0
	case format.BF16:
		return 1
	}
	return 2
}

// index is 1 for true.
func index(x bool) int {
	if x {
		return 1
	}
	return 0
}

func (l Level) exponentSplitPass(e, pe, codes []uint8, table *[256]uint32, channels int) {
	_, _, _ = e[channels*Rows-1], pe[24*Rows-1], codes[(channels-1)*32+23]
	l.kernels().exponentsSplit(&e[0], &pe[0], &codes[0], &table[0], channels, 0)
}

func (l Level) exponentOctetPass(e, pe, codes []uint8, table *[256]uint32, channels int) {
	_, _, _ = e[channels*Rows-1], pe[12*Rows-1], codes[(channels-1)*32+11]
	l.kernels().exponentsOctet(&e[0], &pe[0], &codes[0], &table[0], channels, 0)
}

// widePass is dotPass in FP64. values are those of the codes or, with FP16, a matrix
// [channels][32] from its beginning or from a key on.
func (l Level) widePass(acc []float32, records, codes []uint8, values []float64, p []float32, e []uint8, channels, stride int, bias uint32, u Unit) bool {
	_, _, _ = acc[channels*Rows-1], records[channels*stride-1], e[channels*Rows-1]
	if u.Kind.FP16() {
		_ = values[(channels-1)*32+u.Step-1]
	} else {
		_ = values[255]
	}
	w := l.kernels()
	f := w.dot25
	switch u.Kind {
	case Truncated25:
		f = w.dot25FP16
	case Truncated24:
		f = w.dot24FP16
	}
	return f[index(u.Half)](&acc[0], &records[0], &codes[0], &values[0], &p[0], &e[0], channels, stride, uint64(bias)) == 0
}

func (l Level) exactPass(acc []float32, codes []uint8, values *[256]float64, p []float32, channels int, half bool) bool {
	_, _, _ = acc[channels*Rows-1], codes[channels*32-1], p[32*Rows-1]
	return l.kernels().dotExact[index(half)](&acc[0], &codes[0], &values[0], &p[0], channels) == 0
}

func (l Level) addPass(acc, sums []float32, channels int, half bool) bool {
	_, _ = acc[channels*Rows-1], sums[channels*Rows-1]
	return l.kernels().addSums[index(half)](&acc[0], &sums[0], channels) == 0
}

func (l Level) widen(dst []float64, src []uint16) {
	_ = src[len(dst)-1]
	l.kernels().widen(&dst[0], &src[0], len(dst)/32)
}

// Encode writes the codes of rows of V, len(mean) channels, a multiple of 16: x minus
// mean, divided by factor in FP32 or, unless paper, times it, with FP32 operations that
// flush subnormal numbers. Where a divisor is zero the code is 0. It reports whether no
// code is NaN.
func (l Level) Encode(e5m2, paper bool, codes []uint8, x, mean, factor []float32) bool {
	d := len(mean)
	rows := len(x) / d
	if rows == 0 {
		return true
	}
	_, _ = codes[rows*d-1], factor[d-1]
	return l.kernels().encode[2*index(e5m2)+index(paper)](&codes[0], &x[0], &mean[0], &factor[0], rows, d/16) == 0
}

// Finite says whether all of x, a multiple of 16, is finite.
func (l Level) Finite(x []float32) bool {
	return len(x) == 0 || l.kernels().finite(&x[0], len(x)/16) == 0
}

// Extremes raises hi and lowers lo, by channel, a multiple of 16, to the elements of x.
func (l Level) Extremes(hi, lo, x []float32) {
	d := len(hi)
	if rows := len(x) / d; rows > 0 {
		_ = lo[d-1]
		l.kernels().extremes(&hi[0], &lo[0], &x[0], rows, d/16)
	}
}

// AddMeans adds rows of x to sum, by channel, a multiple of 8, and what the additions
// lose to comp.
func (l Level) AddMeans(sum, comp []float64, x []float32) {
	d := len(sum)
	if rows := len(x) / d; rows > 0 {
		_ = comp[d-1]
		l.kernels().addMeans(&sum[0], &comp[0], &x[0], rows, d/8)
	}
}

// Finish sets dst[channel][row] = round(o*inverse[row]*scale[channel] + mean[channel]), flushing
// subnormal products and sums. It reports whether all results are finite; if not, dst is lost.
func (l Level) Finish(to format.DType, dst, o []float32, inverse *[Rows]float32, scale, mean []float32) bool {
	channels := len(scale)
	_, _, _ = dst[channels*Rows-1], o[channels*Rows-1], mean[channels-1]
	return l.kernels().finish[output(to)](&dst[0], &o[0], &inverse[0], &scale[0], &mean[0], channels) == 0
}

// AbsMax returns the larger of m and the largest magnitude of x, ignoring NaN.
// len(x) is a multiple of 16, as in Subtract and Quantize.
func (l Level) AbsMax(m float32, x []float32) float32 {
	if len(x) == 0 {
		return m
	}
	return l.kernels().absMax(&x[0], m, len(x)/16)
}

// Subtract subtracts mean from each row of x and rounds to the format. BF16
// makes numbers of some NaN: x must not hold one.
func (l Level) Subtract(to format.DType, x, mean []float32) {
	rows := len(x) / len(mean)
	if rows == 0 {
		return
	}
	l.kernels().subtract[output(to)](&x[0], &mean[0], rows, len(mean)/16)
}

// Quantize writes the codes of x, between least and limit; NaN gives 0.
func (l Level) Quantize(r Rounding, codes []int8, x []float32, factor float32, limit, least int8) {
	if len(x) == 0 {
		return
	}
	_ = codes[len(x)-1]
	l.kernels().quantize[r](&codes[0], &x[0], factor, int32(limit), int32(least), len(x)/16)
}

// EncodeFP16 writes the codes of x, a multiple of 16. It reports whether none of x is NaN or
// larger than FP16's largest number.
func (l Level) EncodeFP16(codes []uint16, x []float32) bool {
	if len(x) == 0 {
		return true
	}
	_ = codes[len(x)-1]
	return l.kernels().encodeFP16(&codes[0], &x[0], len(x)/16) == 0
}

// DecodeFP16 writes the values of codes, a multiple of 16.
func (l Level) DecodeFP16(dst []float32, codes []uint16) {
	if len(codes) > 0 {
		_ = dst[len(codes)-1]
		l.kernels().decodeFP16(&dst[0], &codes[0], len(codes)/16)
	}
}

// KeyBias writes what QK takes as bias: -128 times the sum of each key's codes.
func KeyBias(bias []int32, k []int8) {
	d := len(k) / len(bias)
	codes := unsafe.Slice((*uint8)(unsafe.Pointer(&k[0])), len(k))
	const (
		signs = 0x8080808080808080 // that codes are biased by 128
		bytes = 0x00ff00ff00ff00ff
		most  = 128 // words whose bytes, two by two, four counts of 16 bits hold
	)
	for i := range bias {
		row, sum := codes[i*d:][:d], uint64(0)
		for len(row) >= 8 {
			s := uint64(0)
			part := row[:min(len(row)&^7, 8*most)]
			row = row[len(part):]
			for ; len(part) >= 8; part = part[8:] {
				x := binary.LittleEndian.Uint64(part) ^ signs
				s += x&bytes + x>>8&bytes
			}
			sum += s&0xffff + s>>16&0xffff + s>>32&0xffff + s>>48
		}
		for _, c := range row {
			sum += uint64(c ^ 0x80)
		}
		bias[i] = -128 * (int32(sum) - int32(128*d))
	}
}
