//go:build !purego

package simd

// neonRows is how many rows of C the kernels compute at a time.
const neonRows = 4

// sproductNEON computes 4 rows of C = A·B, 16 columns from b of a panel; the strides are in
// bytes.
//
//go:noescape
func sproductNEON(c, a, b *float32, depth, lda, ldc int)

// dproductNEON is sproductNEON for 8 columns of float64.
//
//go:noescape
func dproductNEON(c, a, b *float64, depth, lda, ldc int)

func singles() []Kernels[float32] {
	return []Kernels[float32]{neon(portable(exp32, fma32, axpy32), sproductNEON)}
}

func doubles() []Kernels[float64] {
	return []Kernels[float64]{neon(portable(exp64, fma64, axpy64), dproductNEON)}
}

// neon replaces the product of k, where nearly all of the work is, by vectors.
func neon[T Real](k Kernels[T], kernel func(c, a, b *T, depth, lda, ldc int)) Kernels[T] {
	few := k.Product
	k.Name = "neon"
	k.Product = func(m, n, k int, a []T, lda int, b, c []T, ldc int) {
		if m < neonRows {
			few(m, n, k, a, lda, b, c, ldc)
			return
		}
		panel := Panel[T]()
		size := 128 / panel // of an element, in bytes
		_, _, _ = a[(m-1)*lda+k-1], b[Ceil(n, panel)*k-1], c[(m-1)*ldc+Ceil(n, panel)-1]
		for j := 0; j < n; j += panel / 2 {
			for i := 0; i < m; i += neonRows {
				// The last rows, some of them once more: the same values.
				i := min(i, m-neonRows)
				kernel(&c[i*ldc+j], &a[i*lda], &b[j/panel*panel*k+j%panel], k, lda*size, ldc*size)
			}
		}
	}
	return k
}
