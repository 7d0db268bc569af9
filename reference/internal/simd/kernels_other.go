//go:build !amd64 || purego

package simd

// product and exponential say how much they did: nothing.
func product(m, n, k int, a, b, c []float32) (rows, cols int) { return 0, 0 }

func exponential(x []float32, top float32) int { return 0 }
