//go:build !amd64 || purego

package vec

import "github.com/sageacc/sageacc/emulate/format"

// Levels returns what this machine can run, the best last.
func Levels() []Level { return []Level{Portable} }

const unavailable = "vec: no kernels on this machine"

// QK needs a vector level.
func QK(out []float32, q []uint8, k []int8, bias []int32, keys int) { panic(unavailable) }

// ToFloat needs a vector level.
func ToFloat(s, top []float32, keys int) { panic(unavailable) }

// Dequantize needs a vector level.
func Dequantize(s, top []float32, keys int, qscale *[Rows]float32, kscale, delta []float32, limit *[Rows]int32, masked float32) bool {
	panic(unavailable)
}

// Softmax needs a vector level.
func Softmax(a *SoftmaxArgs) bool { panic(unavailable) }

func exponentPass(e, pe, codes []uint8, table *[256]uint32, channels int, keep uint32) {
	panic(unavailable)
}

func dotPass(acc []float32, records, codes []uint8, values *[256]float32, p []float32, e []uint8, channels, stride int, bias uint32, half bool) bool {
	panic(unavailable)
}

// AddTile needs a vector level.
func AddTile(o, tile []float32, rescale *[Rows]float32, channels int) bool { panic(unavailable) }

// MeanDots needs a vector level.
func MeanDots(out, x, mean, q []float32) bool { panic(unavailable) }

// Finish needs a vector level.
func Finish(to format.DType, o []float32, inverse *[Rows]float32, scale, mean []float32) bool {
	panic(unavailable)
}
