//go:build !(amd64 || arm64) || purego

package vec

import "github.com/sageacc/sageacc/emulate/format"

// Levels returns what this machine can run, the best last.
func Levels() []Level { return []Level{Portable} }

// QK needs a vector level.
func (l Level) QK(out []float32, q []uint8, k []int8, bias []int32, keys int, s *Scratch) {
	panic(unavailable)
}

// KeyBias needs a vector level.
func KeyBias(bias []int32, k []int8) { panic(unavailable) }

// ToFloat needs a vector level.
func (l Level) ToFloat(s, top []float32, keys int) { panic(unavailable) }

// Dequantize needs a vector level.
func (l Level) Dequantize(s, top []float32, keys int, qscale *[Rows]float32, kscale, delta []float32, limit *[Rows]int32, masked float32) bool {
	panic(unavailable)
}

// Softmax needs a vector level.
func (l Level) Softmax(a *SoftmaxArgs) bool { panic(unavailable) }

func (l Level) exponentPass(e, pe, codes []uint8, table *[256]uint32, channels int, keep uint32) {
	panic(unavailable)
}

func (l Level) exponentSplitPass(e, pe, codes []uint8, table *[256]uint32, channels int) {
	panic(unavailable)
}

func (l Level) exponentOctetPass(e, pe, codes []uint8, table *[256]uint32, channels int) {
	panic(unavailable)
}

func (l Level) widePass(acc []float32, records, codes []uint8, values []float64, p []float32, e []uint8, channels, stride int, bias uint32, u Unit) bool {
	panic(unavailable)
}

func (l Level) exactPass(acc []float32, codes []uint8, values *[256]float64, p []float32, channels int, half bool) bool {
	panic(unavailable)
}

func (l Level) addPass(acc, sums []float32, channels int, half bool) bool { panic(unavailable) }

func (l Level) widen(dst []float64, src []uint16) { panic(unavailable) }

func (l Level) dotPass(acc []float32, records, codes []uint8, values *[256]float32, p []float32, e []uint8, channels, stride int, bias uint32, half bool) bool {
	panic(unavailable)
}

// pairExponents needs AVX512.
func (l Level) pairExponents(e, pe, codes []uint8, table *[256]uint32, channels int, least uint32, more bool) {
	panic(unavailable)
}

// pairPass needs AVX512.
func (l Level) pairPass(a *pairArgs, strips int, half bool) [2]bool { panic(unavailable) }

// signedPass needs AVX512.
func (l Level) signedPass(a *signedArgs) { panic(unavailable) }

// signs needs AVX512.
func (l Level) signs(list []keySigns, codes []uint8, keys, limit uint32) { panic(unavailable) }

// pairRecords needs AVX512.
func (l Level) pairRecords(records []uint8, pairs []pair, codes []uint8, u Unit) {
	panic(unavailable)
}

func (l Level) integerPass(acc []float32, codes []uint8, values *[256]float32, p []float32, channels int) {
	panic(unavailable)
}

// Rescale needs a vector level.
func (l Level) Rescale(o []float32, factors *[Rows]float32, channels int) bool { panic(unavailable) }

// AddTile needs a vector level.
func (l Level) AddTile(o, tile []float32, rescale *[Rows]float32, channels int) bool {
	panic(unavailable)
}

// MeanDots needs a vector level.
func (l Level) MeanDots(out, x, q []float32) bool { panic(unavailable) }

// Finish needs a vector level.
func (l Level) Finish(to format.DType, dst, o []float32, inverse *[Rows]float32, scale, mean []float32) bool {
	panic(unavailable)
}

// AbsMax needs a vector level.
func (l Level) AbsMax(m float32, x []float32) float32 { panic(unavailable) }

// Subtract needs a vector level.
func (l Level) Subtract(to format.DType, x, mean []float32) { panic(unavailable) }

// Quantize needs a vector level.
func (l Level) Quantize(r Rounding, codes []int8, x []float32, factor float32, limit, least int8) {
	panic(unavailable)
}

func (l Level) partition(list []channelKeys, codes []uint8, keys, limit uint32) { panic(unavailable) }

// Encode needs a vector level.
func (l Level) Encode(e5m2, paper bool, codes []uint8, x, mean, factor []float32) bool {
	panic(unavailable)
}

// Finite needs a vector level.
func (l Level) Finite(x []float32) bool { panic(unavailable) }

// Extremes needs a vector level.
func (l Level) Extremes(hi, lo, x []float32) { panic(unavailable) }

// AddMeans needs a vector level.
func (l Level) AddMeans(sum, comp []float64, x []float32) { panic(unavailable) }

// EncodeFP16 needs a vector level.
func (l Level) EncodeFP16(codes []uint16, x []float32) bool { panic(unavailable) }

// DecodeFP16 needs a vector level.
func (l Level) DecodeFP16(dst []float32, codes []uint16) { panic(unavailable) }

// turnWhole and packWhole leave all to Go.
func (Level) turnWhole(dst []float32, to int, src []float32, from, rows, columns int) (r, c int) {
	return 0, 0
}

func (Level) packWhole(dst []uint8, codes []int8, d, rows int) (r, c int) { return 0, 0 }
