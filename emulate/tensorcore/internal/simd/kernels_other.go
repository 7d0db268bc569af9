//go:build !(amd64 || arm64) || purego

package simd

// Levels returns what this machine can run, the best last.
func Levels() []Level { return []Level{Portable} }

// Dot needs a vector level.
func (l Level) Dot(c *Chain, acc *[Columns]float32, a []float32, ae []int32, b []float32, be []int32, stride int) uint32 {
	panic("simd: no vector instructions")
}

// DotLanes needs a vector level.
func (l Level) DotLanes(c *Chain, most uint32, bounded bool, acc, a []float32, stride int, ae []uint32, expStride int, b []float32, be []int16, lanes int) bool {
	panic("simd: no vector instructions")
}

// DotExact needs a vector level.
func (l Level) DotExact(acc, a []float32, stride int, b []float32, instructions, terms int, half bool, lanes int) bool {
	panic("simd: no vector instructions")
}

// DotWide needs a vector level.
func (l Level) DotWide(c *Chain, acc []float32, a []float64, stride int, ae []uint32, expStride int, b []float32, be []int16, lanes int) bool {
	panic("simd: no vector instructions")
}

// LaneExponents needs a vector level.
func (l Level) LaneExponents(dst []int16, x []float32, f *Format) bool {
	panic("simd: no vector instructions")
}

// RowExponents needs a vector level.
func (l Level) RowExponents(dst []uint32, x []float32, f *Format) bool {
	panic("simd: no vector instructions")
}

// Measure reports that no kernel asks for the span.
func (Level) Measure(x []float32, rows, k, stride int) (Span, bool) { return Span{}, false }
