// Package simd holds the inner loops of package reference, in Go and in vector
// instructions. Both perform the same operations in the same order, each
// rounded, so the results do not depend on the machine.
//
// The vector kernels are generated: see folder asm.
package simd

import (
	"math"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/gonum"
)

//go:generate go -C asm run . -out ../simd_amd64.s -stubs ../stubs_amd64.go -pkg simd

// Product computes C = A·B for A [m, k], B [k, n] and C [m, n], row-major without
// gaps and B finite: every element by k products and sums in order of the inner
// index.
func Product(m, n, k int, a, b, c []float32) {
	rows, cols := 0, 0
	if k > 0 {
		rows, cols = product(m, n, k, a, b, c)
	}
	// What the kernels left over.
	if cols < n {
		gonumProduct(rows, n-cols, k, a, k, b[cols:], n, c[cols:], n)
	}
	if rows < m {
		gonumProduct(m-rows, n, k, a[rows*k:], k, b, n, c[rows*n:], n)
	}
}

// Tiles up to this size stay below four of gonum's 64×64 blocks, at which it
// takes its serial path: the same bits, without its goroutines and without the
// memory they take.
const (
	serialRows = 64
	serialCols = 192
)

func gonumProduct(m, n, k int, a []float32, lda int, b []float32, ldb int, c []float32, ldc int) {
	for i := 0; i < m; i += serialRows {
		for j := 0; j < n; j += serialCols {
			gonum.Implementation{}.Sgemm(blas.NoTrans, blas.NoTrans,
				min(serialRows, m-i), min(serialCols, n-j), k,
				1, a[i*lda:], lda, b[j:], ldb, 0, c[i*ldc+j:], ldc)
		}
	}
}

// ExpSlice replaces each x by Exp(x - top), the difference rounded.
func ExpSlice(x []float32, top float32) {
	for i := exponential(x, top); i < len(x); i++ {
		x[i] = Exp(x[i] - top)
	}
}

// reciprocals of the factorials from 0 to 11.
var reciprocals = func() (c [12]float64) {
	f := 1.0
	for i := range c {
		if i > 0 {
			f *= float64(i)
		}
		c[i] = 1 / f
	}
	return c
}()

// Exp is the exponential in float64, rounded to float32: x is reduced to r with
// |r| <= ln(2)/2, ln(2) in two parts (Cody and Waite), where the Taylor
// polynomial of degree 11 is within 2^-46. The conversions keep compilers from
// fusing products and sums.
func Exp(x float32) float32 {
	z := float64(x)
	switch {
	case z != z:
		return x
	case z < -110:
		z = -110 // 0 in float32
	case z > 100:
		z = 100 // +Inf
	}
	const magic = 0x1.8p52 // rounds to an integer, which its low bits hold
	t := float64(z*math.Log2E) + magic
	n := t - magic
	r := z - float64(n*0x1.62e42feep-1)
	r -= float64(n * 0x1.a39ef35793c76p-33)
	p := reciprocals[11]
	for i := 10; i >= 0; i-- {
		p = float64(p*r) + reciprocals[i]
	}
	return float32(math.Float64frombits(math.Float64bits(p) + math.Float64bits(t)<<52))
}
