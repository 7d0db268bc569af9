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

// smaxNEON multiplies 16 elements a group by scale and returns the largest, a NaN if there is
// one.
//
//go:noescape
func smaxNEON(x *float32, scale float32, groups int) float32

// dmaxNEON is smaxNEON in float64.
//
//go:noescape
func dmaxNEON(x *float64, scale float64, groups int) float64

// sweighNEON replaces 16 elements a group by the exponential of their difference to top, and
// returns the sum. table is single.
//
//go:noescape
func sweighNEON(x *float32, top float32, groups int, table *float32) float32

// dweighNEON is sweighNEON in float64; table is double.
//
//go:noescape
func dweighNEON(x *float64, top float64, groups int, table *float64) float64

// sjoinNEON computes acc = acc·decay + x, fused, for panels of 128 bytes.
//
//go:noescape
func sjoinNEON(acc, x *float32, decay float32, panels int)

// djoinNEON is sjoinNEON in float64.
//
//go:noescape
func djoinNEON(acc, x *float64, decay float64, panels int)

func singles() []Kernels[float32] {
	k := neon(portable(exp32, fma32, axpy32), sproductNEON)
	k.Max = func(x []float32, scale float32) float32 { return smaxNEON(&x[0], scale, len(x)/Lanes) }
	k.Weigh = func(x []float32, top float32) float32 { return sweighNEON(&x[0], top, len(x)/Lanes, &single[0]) }
	k.Join = func(acc, x []float32, decay float32) {
		_ = acc[len(x)-1]
		sjoinNEON(&acc[0], &x[0], decay, len(x)/Panel[float32]())
	}
	return []Kernels[float32]{k}
}

func doubles() []Kernels[float64] {
	k := neon(portable(exp64, fma64, axpy64), dproductNEON)
	k.Max = func(x []float64, scale float64) float64 { return dmaxNEON(&x[0], scale, len(x)/Lanes) }
	k.Weigh = func(x []float64, top float64) float64 { return dweighNEON(&x[0], top, len(x)/Lanes, &double[0]) }
	k.Join = func(acc, x []float64, decay float64) {
		_ = acc[len(x)-1]
		djoinNEON(&acc[0], &x[0], decay, len(x)/Panel[float64]())
	}
	return []Kernels[float64]{k}
}

// neon replaces the product of k by vectors.
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
