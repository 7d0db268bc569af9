//go:build !purego

package vec

import (
	"unsafe"

	"golang.org/x/sys/cpu"

	"github.com/sageacc/sageacc/emulate/format"
)

// Levels returns what this machine can run, the best last.
func Levels() []Level {
	l := []Level{Portable}
	if x := &cpu.X86; x.HasAVX2 && x.HasFMA {
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
	return softmax((*byte)(unsafe.Pointer(a))) == 0
}

// The passes of Values.Dot.

func (l Level) exponentPass(e, pe, codes []uint8, table *[256]uint32, channels int, keep uint32) {
	_, _, _ = e[channels*Rows-1], pe[16*Rows-1], codes[(channels-1)*32+15]
	if l == AVX2 {
		exponentsAVX2(&e[0], &pe[0], &codes[0], &table[0], channels, keep)
		return
	}
	exponents(&e[0], &pe[0], &codes[0], &table[0], channels, keep)
}

func (l Level) exponentSplitPass(e, pe, codes []uint8, table *[256]uint32, channels int) {
	_, _, _ = e[channels*Rows-1], pe[24*Rows-1], codes[(channels-1)*32+23]
	exponentsSplit(&e[0], &pe[0], &codes[0], &table[0], channels, 0)
}

func (l Level) exponentOctetPass(e, pe, codes []uint8, table *[256]uint32, channels int) {
	_, _, _ = e[channels*Rows-1], pe[12*Rows-1], codes[(channels-1)*32+11]
	exponentsOctet(&e[0], &pe[0], &codes[0], &table[0], channels, 0)
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
	f := dot25
	switch {
	case u.Kind == Split && u.Half:
		f = dot25Half
	case u.Kind == Truncated25 && u.Half:
		f = dot25FP16Half
	case u.Kind == Truncated25:
		f = dot25FP16
	case u.Kind == Truncated24 && u.Half:
		f = dot24FP16Half
	case u.Kind == Truncated24:
		f = dot24FP16
	}
	return f(&acc[0], &records[0], &codes[0], &values[0], &p[0], &e[0], channels, stride, uint64(bias)) == 0
}

func (l Level) exactPass(acc []float32, codes []uint8, values *[256]float64, p []float32, channels int, half bool) bool {
	_, _, _ = acc[channels*Rows-1], codes[channels*32-1], p[32*Rows-1]
	if half {
		return dotExactHalf(&acc[0], &codes[0], &values[0], &p[0], channels) == 0
	}
	return dotExact(&acc[0], &codes[0], &values[0], &p[0], channels) == 0
}

func (l Level) addPass(acc, sums []float32, channels int, half bool) bool {
	_, _ = acc[channels*Rows-1], sums[channels*Rows-1]
	if half {
		return addSumsHalf(&acc[0], &sums[0], channels) == 0
	}
	return addSums(&acc[0], &sums[0], channels) == 0
}

func (l Level) widen(dst []float64, src []uint16) {
	_ = src[len(dst)-1]
	widen(&dst[0], &src[0], len(dst)/32)
}

func (l Level) dotPass(acc []float32, records, codes []uint8, values *[256]float32, p []float32, e []uint8, channels, stride int, bias uint32, half bool) bool {
	_, _, _ = acc[channels*Rows-1], records[channels*stride-1], e[channels*Rows-1]
	if l == AVX2 {
		f := dot13AVX2
		if half {
			f = dot13HalfAVX2
		}
		return f(&acc[0], &records[0], &codes[0], &values[0], &p[0], &e[0], channels, stride, bias) == 0
	}
	if half {
		return dot13Half(&acc[0], &records[0], &codes[0], &values[0], &p[0], &e[0], channels, stride, bias) == 0
	}
	return dot13(&acc[0], &records[0], &codes[0], &values[0], &p[0], &e[0], channels, stride, bias) == 0
}

// dotPassTwo is dotPass for two strips; e holds the exponents of one behind those of the
// other.
func (l Level) dotPassTwo(acc [2][]float32, records, codes []uint8, values *[256]float32, p [2][]float32, e []uint8, channels, stride int, bias uint32, half bool) (first, second bool) {
	n := channels * Rows
	_, _, _, _ = acc[0][n-1], acc[1][n-1], records[channels*stride-1], e[2*n-1]
	f := dot13Two
	if half {
		f = dot13TwoHalf
	}
	bad := f(&acc[0][0], &records[0], &codes[0], &values[0], &p[0][0], &e[0], channels, stride, &acc[1][0], &p[1][0], &e[n], bias)
	return bad&0xffff == 0, bad>>16 == 0
}

func (l Level) integerPass(acc []float32, codes []uint8, values *[256]float32, p []float32, channels int) {
	_, _, _ = acc[channels*Rows-1], codes[channels*32-1], p[32*Rows-1]
	if l == AVX2 {
		dotIntegerAVX2(&acc[0], &codes[0], &values[0], &p[0], channels)
		return
	}
	dotInteger(&acc[0], &codes[0], &values[0], &p[0], channels)
}

// AddTile sets o = o*rescale + tile, channel by channel, flushing subnormal
// results, and clears tile. It reports whether all results are finite.
func (l Level) AddTile(o, tile []float32, rescale *[Rows]float32, channels int) bool {
	_, _ = o[channels*Rows-1], tile[channels*Rows-1]
	if l == AVX2 {
		return addTileAVX2(&o[0], &tile[0], &rescale[0], channels) == 0
	}
	return addTile(&o[0], &tile[0], &rescale[0], channels) == 0
}

// Rescale sets o = o*factors, channel by channel. It reports false if a product is NaN,
// infinite, or not zero and below 2^-63, which Dot does not take: the exponents of zero
// products reach up to 2^-83.
func (l Level) Rescale(o []float32, factors *[Rows]float32, channels int) bool {
	if l == AVX2 {
		return rescaleRows(o, factors, channels)
	}
	_ = o[channels*Rows-1]
	return rescale(&o[0], &factors[0], channels) == 0
}

// Has says whether the level has the kernels of a kind of unit.
func (l Level) Has(k Kind) bool {
	return l == AVX512 || l == AVX2 && (k == Truncated13 || k == Integer)
}

// partition fills list from the 32 codes of each channel: see channelKeys.
func (l Level) partition(list []channelKeys, codes []uint8, keys, limit uint32) {
	_ = codes[len(list)*32-1]
	partition((*uint8)(unsafe.Pointer(&list[0])), &codes[0], len(list), keys, limit)
}

// Encode writes the codes of rows of V, len(mean) channels, a multiple of 16: x minus
// mean, divided by factor or, unless paper, times it, with FP32 operations that flush
// subnormal numbers. Where a divisor is zero the code is 0. It reports whether no code is
// NaN.
func (l Level) Encode(e5m2, paper bool, codes []uint8, x, mean, factor []float32) bool {
	d := len(mean)
	rows := len(x) / d
	if rows == 0 {
		return true
	}
	_, _ = codes[rows*d-1], factor[d-1]
	f := encodeE4M3Fused
	switch {
	case e5m2 && paper:
		f = encodeE5M2Paper
	case e5m2:
		f = encodeE5M2Fused
	case paper:
		f = encodeE4M3Paper
	}
	return f(&codes[0], &x[0], &mean[0], &factor[0], rows, d/16) == 0
}

// Finite says whether all of x, a multiple of 16, is finite.
func (l Level) Finite(x []float32) bool { return len(x) == 0 || finite(&x[0], len(x)/16) == 0 }

// Extremes raises hi and lowers lo, by channel, a multiple of 16, to the elements of x.
func (l Level) Extremes(hi, lo, x []float32) {
	d := len(hi)
	if rows := len(x) / d; rows > 0 {
		_ = lo[d-1]
		extremes(&hi[0], &lo[0], &x[0], rows, d/16)
	}
}

// AddMeans adds rows of x to sum, by channel, a multiple of 8, and what the additions
// lose to comp.
func (l Level) AddMeans(sum, comp []float64, x []float32) {
	d := len(sum)
	if rows := len(x) / d; rows > 0 {
		_ = comp[d-1]
		addMeans(&sum[0], &comp[0], &x[0], rows, d/8)
	}
}

// Narrow says which kernels a level below AVX512 lacks: those of Finish,
// AbsMax, Subtract, Quantize, Encode, Finite, Extremes and AddMeans.
func (l Level) Narrow() bool { return l < AVX512 }

// MeanDots writes out[key] = the sum of q[c]*(x[key][c]-mean[c]), fused
// multiply-adds in order of the channel, for len(out) keys, a multiple of 16,
// and a multiple of 4 channels. It reports whether no operand or sum is
// subnormal.
func (l Level) MeanDots(out, x, mean, q []float32) bool {
	_, _ = x[len(out)*len(q)-1], mean[len(q)-1]
	if l == AVX2 {
		return meanDotsAVX2(&out[0], &x[0], &mean[0], &q[0], len(out)/8, len(q)) == 0
	}
	return meanDots(&out[0], &x[0], &mean[0], &q[0], len(out)/16, len(q)) == 0
}

// Finish sets o[channel][row] = round(o*inverse[row]*scale[channel] +
// mean[channel]), flushing subnormal products and sums. It reports whether all
// results are finite; if not, o is lost.
func (l Level) Finish(to format.DType, o []float32, inverse *[Rows]float32, scale, mean []float32) bool {
	channels := len(scale)
	_, _ = o[channels*Rows-1], mean[channels-1]
	f := finishFP32
	switch to {
	case format.FP16:
		f = finishFP16
	case format.BF16:
		f = finishBF16
	}
	return f(&o[0], &inverse[0], &scale[0], &mean[0], channels) == 0
}

// AbsMax returns the larger of m and the largest magnitude of x, ignoring NaN.
// len(x) is a multiple of 16, as in Subtract and Quantize.
func (l Level) AbsMax(m float32, x []float32) float32 {
	if len(x) == 0 {
		return m
	}
	return absMax(&x[0], m, len(x)/16)
}

// Subtract subtracts mean from each row of x and rounds to the format. BF16
// makes numbers of some NaN: x must not hold one.
func (l Level) Subtract(to format.DType, x, mean []float32) {
	rows := len(x) / len(mean)
	if rows == 0 {
		return
	}
	f := subtractFP32
	switch to {
	case format.FP16:
		f = subtractFP16
	case format.BF16:
		f = subtractBF16
	}
	f(&x[0], &mean[0], rows, len(mean)/16)
}

// Quantize writes the codes of x, between least and limit; NaN gives 0.
func (l Level) Quantize(r Rounding, codes []int8, x []float32, factor float32, limit, least int8) {
	if len(x) == 0 {
		return
	}
	_ = codes[len(x)-1]
	f := [...]func(*int8, *float32, float32, int32, int32, int){quantizeAway, quantizeEven, quantizeDivide}[r]
	f(&codes[0], &x[0], factor, int32(limit), int32(least), len(x)/16)
}
