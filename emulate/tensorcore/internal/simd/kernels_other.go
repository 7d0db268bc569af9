//go:build !amd64 || purego

package simd

// Has reports false.
func Has() bool { return false }

// Dot needs a machine that Has it.
func Dot(c *Chain, acc *[Columns]float32, a []float32, ae []int32, b []float32, be []int32, stride int) uint32 {
	panic("simd: no vector instructions")
}
