//go:build !purego

package vec

import (
	"math"
	"unsafe"

	"golang.org/x/sys/cpu"
)

// Levels returns what this machine can run, the best last.
func Levels() []Level {
	l := []Level{Portable}
	if x := &cpu.X86; x.HasAVX2 && x.HasFMA && x.HasF16C {
		l = append(l, AVX2)
	}
	if x := &cpu.X86; x.HasAVX512F && x.HasAVX512BW && x.HasAVX512DQ && x.HasAVX512VL && x.HasAVX512VBMI && x.HasAVX512VBMI2 && x.HasAVX512VNNI {
		l = append(l, AVX512)
	}
	return l
}

// QK writes the integer products, as int32, to out[key][row] of a strip's codes with those of
// keys rows of k, a multiple of 4, each of 4*len(q)/(4*Rows) codes. q is
// [dim/4][Rows][4], biased by 128; bias holds -128 times the sum of each key's
// codes.
func (l Level) QK(out []float32, q []uint8, k []int8, bias []int32, keys int, s *Scratch) {
	quads := len(q) / (4 * Rows)
	_, _, _ = out[keys*Rows-1], k[keys*quads*4-1], bias[keys-1]
	if l == AVX2 {
		wideQ, wideK := grow(&s.wideQ, len(q)), grow(&s.wideK, keys*quads*4)
		qkAVX2((*int32)(unsafe.Pointer(&out[0])), &q[0], &k[0], &bias[0], quads*4, quads, keys, &wideQ[0], &wideK[0])
		return
	}
	qk((*int32)(unsafe.Pointer(&out[0])), &q[0], &k[0], &bias[0], quads*4, quads, keys)
}

// ToFloat converts the integer scores of keys keys, a multiple of 8, in place
// and raises top[thread][row] to the maximum.
func (l Level) ToFloat(s, top []float32, keys int) {
	_, _ = s[keys*Rows-1], top[threads*Rows-1]
	if l == AVX2 {
		toFloatAVX2(&s[0], &top[0], keys)
		return
	}
	toFloat(&s[0], &top[0], keys)
}

// Dequantize is ToFloat with s*(qscale[row]*kscale[key]) + delta[key], the sum
// rounded once, and masked from key limit[row] on. It reports whether all
// values were in the range where it is exact.
func (l Level) Dequantize(s, top []float32, keys int, qscale *[Rows]float32, kscale, delta []float32, limit *[Rows]int32, masked float32) bool {
	_, _, _, _ = s[keys*Rows-1], top[threads*Rows-1], kscale[keys-1], delta[keys-1]
	if l == AVX2 {
		return dequantizeAVX2(&s[0], &top[0], keys, &qscale[0], &kscale[0], &delta[0], &limit[0], masked) == 0
	}
	return dequantize(&s[0], &top[0], keys, &qscale[0], &kscale[0], &delta[0], &limit[0], masked) == 0
}

// Softmax is the online softmax of a strip and a tile of keys. It reports
// whether all values were in the range where it is exact.
func (l Level) Softmax(a *SoftmaxArgs) bool {
	if l == AVX2 {
		return softmaxAVX2((*byte)(unsafe.Pointer(a))) == 0
	}
	ok := softmax((*byte)(unsafe.Pointer(a))) == 0
	if ok && a.floor != 0 {
		laneExponents(a.PE, a.P, a.Blocks*16*Rows/exponentGroup, a.floor)
	}
	return ok
}

// The passes of Values.Dot.

func (l Level) exponentPass(e, pe, codes []uint8, table *[256]uint32, channels int, keep uint32) {
	_, _, _ = e[channels*Rows-1], pe[16*Rows-1], codes[(channels-1)*32+15]
	pick(l, exponents, exponentsAVX2)(&e[0], &pe[0], &codes[0], &table[0], channels, keep)
}

// dotPass needs AVX2.
func (l Level) dotPass(acc []float32, records, codes []uint8, values *[256]float32, p []float32, e []uint8, channels, stride int, bias uint32, half bool) bool {
	_, _, _ = acc[channels*Rows-1], records[channels*stride-1], e[channels*Rows-1]
	f := [2]func(acc *float32, records, codes *uint8, values, p *float32, e *uint8, channels, stride int, bias uint32) uint32{dot13AVX2, dot13HalfAVX2}
	return f[index(half)](&acc[0], &records[0], &codes[0], &values[0], &p[0], &e[0], channels, stride, bias) == 0
}

// pairExponents writes e[channel], the largest sum of exponents over 16 keys and least, or, if more, what e
// holds; its byte 4*i+j is of row 16*j+i. It needs AVX512.
func (l Level) pairExponents(e, pe, codes []uint8, table *[256]uint32, channels int, least uint32, more bool) {
	_, _, _ = e[channels*Rows-1], pe[16*Rows-1], codes[(channels-1)*32+15]
	keep := uint32(0)
	if least *= 0x01010101; more {
		keep, least = math.MaxUint32, 0
	}
	exponentsByWords(&e[0], &pe[0], &codes[0], &table[0], channels, keep, least)
}

// pairPass is dotPass by pairs of channels, for one strip or two. It needs AVX512.
func (l Level) pairPass(a *pairArgs, strips int, half bool) (ok [2]bool) {
	pass := [2][2]func(*byte) uint32{{dot13, dot13Half}, {dot13Two, dot13TwoHalf}}[strips-1][index(half)]
	bad := pass((*byte)(unsafe.Pointer(a)))
	return [2]bool{bad&0xffff == 0, strips == 2 && bad>>16 == 0}
}

// signedPass adds a step's products with signs. It needs AVX512.
func (l Level) signedPass(a *signedArgs) { dot13Signed((*byte)(unsafe.Pointer(a))) }

func (l Level) integerPass(acc []float32, codes []uint8, values *[256]float32, p []float32, channels int) {
	_, _, _ = acc[channels*Rows-1], codes[channels*32-1], p[32*Rows-1]
	pick(l, dotInteger, dotIntegerAVX2)(&acc[0], &codes[0], &values[0], &p[0], channels)
}

// AddTile sets o = o*rescale + tile, channel by channel, flushing subnormal
// results, and clears tile. It reports whether all results are finite.
func (l Level) AddTile(o, tile []float32, rescale *[Rows]float32, channels int) bool {
	_, _ = o[channels*Rows-1], tile[channels*Rows-1]
	return pick(l, addTile, addTileAVX2)(&o[0], &tile[0], &rescale[0], channels) == 0
}

// Rescale sets o = o*factors, channel by channel. It reports false if a product is NaN,
// infinite, or not zero and below 2^-63, which Dot does not take: the exponents of zero
// products reach up to 2^-83.
func (l Level) Rescale(o []float32, factors *[Rows]float32, channels int) bool {
	_ = o[channels*Rows-1]
	return pick(l, rescale, rescaleAVX2)(&o[0], &factors[0], channels) == 0
}

var avx2 = func() (k kernels) {
	k.exponentsSplit, k.exponentsOctet = exponentsSplitAVX2, exponentsOctetAVX2
	k.dot25[0], k.dot25FP16[0], k.dot24FP16[0] = dot25AVX2, dot25FP16AVX2, dot24FP16AVX2
	k.dot25[1], k.dot25FP16[1], k.dot24FP16[1] = dot25HalfAVX2, dot25FP16HalfAVX2, dot24FP16HalfAVX2
	k.dotExact[0], k.addSums[0] = dotExactAVX2, addSumsAVX2
	k.dotExact[1], k.addSums[1] = dotExactHalfAVX2, addSumsHalfAVX2
	k.widen, k.encodeFP16, k.decodeFP16 = widenAVX2, encodeFP16AVX2, decodeFP16AVX2
	k.finish[0], k.finish[1], k.finish[2] = finishFP16AVX2, finishBF16AVX2, finishFP32AVX2
	k.subtract[0], k.subtract[1], k.subtract[2] = subtractFP16AVX2, subtractBF16AVX2, subtractFP32AVX2
	k.quantize[MultiplyAway], k.quantize[MultiplyEven], k.quantize[DivideEven] = quantizeAwayAVX2, quantizeEvenAVX2, quantizeDivideAVX2
	k.encode[0], k.encode[1], k.encode[2], k.encode[3] = encodeE4M3FusedAVX2, encodeE4M3PaperAVX2, encodeE5M2FusedAVX2, encodeE5M2PaperAVX2
	k.absMax, k.finite, k.extremes, k.addMeans = absMaxAVX2, finiteAVX2, extremesAVX2, addMeansAVX2
	k.tops, k.scale, k.sums, k.exponents, k.multiply = laneTopsAVX2, laneScaleAVX2, laneSumsAVX2, laneExponentsAVX2, laneMultiplyAVX2
	k.weights[0], k.weights[1], k.sumsFrom[0], k.sumsFrom[1] = laneWeightsAVX2, laneWeightsTwiceAVX2, laneSumsFMAAVX2, laneSumsTwiceAVX2
	k.round[WeightFP16], k.round[WeightBF16], k.round[WeightE4M3] = laneRoundFP16AVX2, laneRoundBF16AVX2, laneRoundE4M3AVX2
	k.round[WeightE5M2], k.round[WeightInt] = laneRoundE5M2AVX2, laneRoundIntAVX2
	k.combine[JoinNone], k.combine[JoinNoneFP16], k.combine[JoinFMA] = laneRescaleAVX2, laneRescaleFP16AVX2, laneJoinAVX2
	k.combine[JoinTwice], k.combine[JoinFactor] = laneJoinTwiceAVX2, laneJoinFactorAVX2
	k.output[0][0], k.output[0][1], k.output[0][2] = laneOutputFP16AVX2, laneOutputBF16AVX2, laneOutputFP32AVX2
	k.output[1][0], k.output[1][1], k.output[1][2] = laneOutputFP16LastAVX2, laneOutputBF16LastAVX2, laneOutputFP32LastAVX2
	return k
}()

func (l Level) kernels() *kernels { return pick(l, &full, &avx2) }

// partition fills list from the 32 codes of each channel: see channelKeys.
func (l Level) partition(list []channelKeys, codes []uint8, keys, limit uint32) {
	_ = codes[len(list)*32-1]
	partition((*uint8)(unsafe.Pointer(&list[0])), &codes[0], len(list), keys, limit)
}

// signs fills list from the 32 codes of each channel, of those keys whose bits are set.
func (l Level) signs(list []keySigns, codes []uint8, keys, limit uint32) {
	_ = codes[len(list)*32-1]
	elementSigns((*byte)(unsafe.Pointer(&list[0])), &codes[0], len(list), keys, limit)
}

// pairRecords writes the records of pairs.
func (l Level) pairRecords(records []uint8, pairs []pair, codes []uint8, u Unit) {
	_ = records[len(pairs)*u.pairSize()+recordSlack-1]
	for _, p := range pairs {
		_ = codes[int(max(p.channels[0], p.channels[1]))*32+31]
	}
	pairRecords(&records[0], (*byte)(unsafe.Pointer(&pairs[0])), &codes[0], len(pairs), u.Step)
}

// MeanDots writes out[key] = the sum of q[c]*x[key/16][c][key%16], fused multiply-adds in order
// of the channel that flush subnormal numbers, for len(out) keys, a multiple of 16. It reports
// whether it could: NEON takes no subnormal number.
func (l Level) MeanDots(out, x, q []float32) bool {
	_ = x[len(out)*len(q)-1]
	pick(l, meanDots, meanDotsAVX2)(&out[0], &x[0], &q[0], len(out)/16, len(q))
	return true
}

// turnWhole is Turn for as many of the first rows and columns as it says.
func (l Level) turnWhole(dst []float32, to int, src []float32, from, rows, columns int) (r, c int) {
	return l.turnWords(unsafe.Pointer(&dst[0]), 4*to, unsafe.Pointer(&src[0]), 4*from, rows, columns, 0)
}

// packWhole is Pack for as many of the first rows and channels as it says.
func (l Level) packWhole(dst []uint8, codes []int8, d, rows int) (r, c int) {
	_ = dst[(d+3)/4*4*Rows-1]
	r, c = l.turnWords(unsafe.Pointer(&dst[0]), 4*Rows, unsafe.Pointer(&codes[0]), d, rows, d/4, 0x80808080)
	return r, 4 * c
}

// turnWords is turnWhole for words of 32 bits, of which it inverts the bits of flip, and for columns and
// rows to and from bytes apart.
func (l Level) turnWords(dst unsafe.Pointer, to int, src unsafe.Pointer, from, rows, columns int, flip uint32) (r, c int) {
	kernel, lanes := turn, 16
	switch l {
	case Portable:
		return 0, 0
	case AVX2:
		kernel, lanes = turnAVX2, 8
	}
	if columns &^= 3; columns == 0 {
		return 0, 0
	}
	for ; r+lanes <= rows; r += lanes {
		kernel((*byte)(unsafe.Add(dst, 4*r)), (*byte)(unsafe.Add(src, r*from)), to, from, columns/4, flip)
	}
	return r, columns
}
