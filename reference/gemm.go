package reference

import (
	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/gonum"

	"github.com/sageacc/sageacc/internal/strictmath"
	"github.com/sageacc/sageacc/reference/internal/simd"
)

// arithmetic is what the algorithm needs of a precision.
type arithmetic[T real] struct {
	// product computes C = A·B for A [m, k], B [k, n], C [m, n], row-major without
	// gaps, every element of C by k multiplications and additions in order of the
	// inner index. B is finite.
	product func(m, n, k int, a, b, c []T)
	// exp replaces each x by the exponential of x - top.
	exp func(x []T, top T)
}

var single = arithmetic[float32]{product: sgemm, exp: simd.ExpSlice}

var double = arithmetic[float64]{
	product: dgemm,
	exp: func(x []float64, top float64) {
		for i := range x {
			x[i] = strictmath.Exp(x[i] - top)
		}
	},
}

// Tiles up to this size stay below four of gonum's 64×64 blocks, at which it
// takes its serial path: the same bits, without its goroutines and without the
// memory they take.
const (
	serialRows = 64
	serialCols = 192
)

func sgemm(m, n, k int, a, b, c []float32) {
	if fuses {
		strictProduct(m, n, k, a, b, c, nil)
		return
	}
	simd.Product(m, n, k, a, b, c)
}

func dgemm(m, n, k int, a, b, c []float64) {
	if fuses {
		strictProduct(m, n, k, a, b, c, nil)
		return
	}
	for i := 0; i < m; i += serialRows {
		for j := 0; j < n; j += serialCols {
			gonum.Implementation{}.Dgemm(blas.NoTrans, blas.NoTrans,
				min(serialRows, m-i), min(serialCols, n-j), k,
				1, a[i*k:], k, b[j:], n, 0, c[i*n+j:], n)
		}
	}
}

// strictProduct is product for a B that holds NaN or infinities. gonum skips the
// elements of A that are zero, which would turn 0·NaN and 0·Inf into 0. For a
// finite B both give the same bits, since the skipped terms are zeros added to
// a sum that began as +0.
//
// seen, if not nil, says which elements of row i of A take part.
func strictProduct[T real](m, n, k int, a, b, c []T, seen func(i, l int) bool) {
	for i := range m {
		row := c[i*n : (i+1)*n]
		clear(row)
		for l, x := range a[i*k : i*k+k] {
			if seen != nil && !seen(i, l) {
				continue
			}
			for j, y := range b[l*n : (l+1)*n] {
				row[j] += T(x * y)
			}
		}
	}
}
