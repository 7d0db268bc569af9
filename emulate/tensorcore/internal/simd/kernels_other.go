//go:build !(amd64 || arm64) || purego

package simd

// Name is that of no level.
const Name = "none"

// Has reports false.
func Has() bool { return false }

// Dot needs a machine that Has it.
func Dot(c *Chain, acc *[Columns]float32, a []float32, ae []int32, b []float32, be []int32, stride int) uint32 {
	panic("simd: no vector instructions")
}

// DotLanes needs a machine that Has it.
func DotLanes(c *Chain, most uint32, acc, a []float32, stride int, ae []uint32, expStride int, b []float32, be []int16) bool {
	panic("simd: no vector instructions")
}

// LaneExponents needs a machine that Has it.
func LaneExponents(dst []int16, x []float32, f *Format) bool {
	panic("simd: no vector instructions")
}

// RowExponents needs a machine that Has it.
func RowExponents(dst []uint32, x []float32, f *Format) bool {
	panic("simd: no vector instructions")
}
