//go:build (!amd64 && !arm64) || purego

package simd

// singles and doubles return the vector kernels: none here.
func singles() []Kernels[float32] { return nil }

func doubles() []Kernels[float64] { return nil }
