//go:build !(amd64 || arm64) || purego

package vec

import "github.com/sageacc/sageacc/emulate/format"

// Lanes reports false.
func (Level) Lanes() bool { return false }

// Tops needs a vector level.
func (Level) Tops(s, top []float32, keys int, masked float32) bool { panic(unavailable) }

// Scale needs a vector level.
func (Level) Scale(s []float32, q *[Rows]float32, k []float32, c Control) { panic(unavailable) }

// Weights needs a vector level.
func (Level) Weights(s, scale, lower []float32, table *Ex2Table, keys int, c Control, twice, wide bool) bool {
	panic(unavailable)
}

// Sums needs a vector level.
func (Level) Sums(sum, w []float32, keys int, c Control) { panic(unavailable) }

// SumsFrom needs a vector level.
func (Level) SumsFrom(sum, w []float32, alpha *[Rows]float32, keys int, c Control, twice bool) {
	panic(unavailable)
}

// Round needs a vector level.
func (Level) Round(to Weight, dst, src []float32, most float32) bool { panic(unavailable) }

// Exponents needs a vector level.
func (Level) Exponents(f Format, dst []uint8, src []float32) { panic(unavailable) }

// Multiply needs a vector level.
func (Level) Multiply(acc, a []float32, stride int, b []float32) { panic(unavailable) }

// Combine needs a vector level.
func (Level) Combine(j Join, o, tile []float32, alpha, factor *[Rows]float32, c Control) bool {
	panic(unavailable)
}

// Output needs a vector level.
func (Level) Output(to format.DType, out, o, scale []float32, inverse float32, last bool, c Control) bool {
	panic(unavailable)
}
