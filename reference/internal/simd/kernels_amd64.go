//go:build !purego

package simd

import "golang.org/x/sys/cpu"

var (
	wide   = cpu.X86.HasAVX512F && cpu.X86.HasAVX512DQ
	narrow = cpu.X86.HasAVX2
)

// product computes the leading rows and, of those, columns that the kernels can;
// it returns their numbers.
func product(m, n, k int, a, b, c []float32) (rows, cols int) {
	if !narrow {
		return 0, 0
	}
	if wide {
		return productBy(m, n, k, a, b, c, true)
	}
	return productBy(m, n, k, a, b, c, false)
}

func productBy(m, n, k int, a, b, c []float32, wide bool) (rows, cols int) {
	rows, cols = m&^3, n&^15
	if rows == 0 || cols == 0 {
		return 0, 0
	}
	_, _, _ = a[m*k-1], b[k*n-1], c[m*n-1]
	for i := 0; i < rows; i += 4 {
		if !wide {
			product256(&c[i*n], &a[i*k], &b[0], k, 4*k, 4*n, 4*n, cols/16)
			continue
		}
		if cols >= 64 {
			product512(&c[i*n], &a[i*k], &b[0], k, 4*k, 4*n, 4*n, cols/64)
		}
		if j := cols &^ 63; j < cols {
			product512Narrow(&c[i*n+j], &a[i*k], &b[j], k, 4*k, 4*n, 4*n, cols%64/16)
		}
	}
	return rows, cols
}

func exponential(x []float32, top float32) int {
	if wide {
		return exponentialBy(x, top, true)
	}
	if narrow {
		return exponentialBy(x, top, false)
	}
	return 0
}

func exponentialBy(x []float32, top float32, wide bool) int {
	n := len(x) &^ 15
	switch {
	case n == 0:
	case wide:
		exponential512(&x[0], top, n/16)
	default:
		exponential256(&x[0], top, n/8)
	}
	return n
}
