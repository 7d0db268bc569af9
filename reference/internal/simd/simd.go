// Package simd holds the inner loops of package reference, in Go and in vector
// instructions. Both perform the same operations in the same order, each rounded
// once, so the results do not depend on the machine.
//
// The vector kernels of amd64 are generated: see folder asm.
package simd

import (
	"math"
	"unsafe"
)

//go:generate go -C asm run . -out ../simd_amd64.s -stubs ../stubs_amd64.go -pkg simd

// Real is the element type of the loops.
type Real interface{ float32 | float64 }

// Lanes is the number of partial sums of a row, and what the length of a row must
// divide by.
const Lanes = 16

// Panel is the number of elements of T in a row of a panel: 128 bytes.
//
// A matrix in panels holds its columns from one multiple of Panel to the next together,
// row by row, and zeros for what the last panel has too many. A panel of 128 rows fits
// the first-level cache, and the loops run through it without strides.
func Panel[T Real]() int {
	var x T
	return 128 / int(unsafe.Sizeof(x))
}

// Ceil returns n rounded up to a multiple of step.
func Ceil(n, step int) int { return (n + step - 1) / step * step }

// Kernels are the loops for one type on one instruction set.
type Kernels[T Real] struct {
	// Name is "avx512", "avx2", "neon" or "portable".
	Name string
	// Product computes the first n columns of C = A·B for A [m, k], B [k, n] in panels
	// and C [m, n]: every element by k fused multiply-adds, from 0, in order of the inner
	// index. Rows of A and C begin lda and ldc elements apart; ldc is at least n rounded up
	// to whole panels, and what C holds there beyond n is unspecified. No dimension is 0.
	Product func(m, n, k int, a []T, lda int, b, c []T, ldc int)
	// Max multiplies x by scale and returns the largest element, a NaN if there is one. The
	// length divides by Lanes and is not 0.
	Max func(x []T, scale T) T
	// Weigh replaces every x by Exp(x - top), the difference rounded, and returns the
	// sum: Lanes sums, of the elements whose index is the same modulo Lanes, in order of the
	// index, of which the second half is then added to the first until one is left. The
	// length divides by Lanes and is not 0.
	Weigh func(x []T, top T) T
	// Turn writes rows of x, one after the other and of d elements each, as the columns of a
	// panel [d, Panel], from its first on. There are Panel rows at most.
	Turn func(dst []T, x []float32, d int)
	// Take writes the columns of x, rows of d elements, from column c on as a panel, as many
	// as it has. It reports whether all of them are finite.
	Take func(dst []T, x []float32, d, c int) bool
	// Join replaces acc by acc·decay + x, fused. The length is whole panels.
	Join func(acc, x []T, decay T)
	// Exp is the exponential of an argument of at most 0, and of NaN, NaN.
	Exp func(x T) T
	// FMA returns x·y + z, rounded once.
	FMA func(x, y, z T) T
}

// Single and Double return the kernels that this machine can run, the fastest first and
// the portable ones, which are the definition, last.
func Single() []Kernels[float32] {
	return append(singles(), portable(exp32, fma32, axpy32))
}

// Double is Single for float64.
func Double() []Kernels[float64] {
	return append(doubles(), portable(exp64, fma64, axpy64))
}

// portable builds the loops from their steps.
func portable[T Real](exp func(T) T, fma func(x, y, z T) T, axpy func(dst []T, x T, b []T)) Kernels[T] {
	panel := Panel[T]()
	return Kernels[T]{
		Name: "portable", Exp: exp, FMA: fma,
		Product: func(m, n, k int, a []T, lda int, b, c []T, ldc int) {
			for j := 0; j < n; j += panel {
				for i := range m {
					row := c[i*ldc+j:][:min(panel, n-j)]
					clear(row)
					for l, x := range a[i*lda:][:k] {
						axpy(row, x, b[j*k+l*panel:][:len(row)])
					}
				}
			}
		},
		Max: func(x []T, scale T) T {
			top := T(math.Inf(-1))
			for i := range x {
				x[i] *= scale
				// A NaN stays: nothing compares greater than it.
				if x[i] > top || x[i] != x[i] {
					top = x[i]
				}
			}
			return top
		},
		Weigh: func(x []T, top T) T {
			var sums [Lanes]T
			for i := range x {
				x[i] = exp(x[i] - top)
				sums[i%Lanes] += x[i]
			}
			for h := Lanes / 2; h > 0; h /= 2 {
				for i := range h {
					sums[i] += sums[i+h]
				}
			}
			return sums[0]
		},
		Turn: turn[T],
		Take: take[T],
		Join: func(acc, x []T, decay T) {
			for i, y := range x {
				acc[i] = fma(acc[i], decay, y)
			}
		},
	}
}

// turn is the portable Kernels.Turn.
func turn[T Real](dst []T, x []float32, d int) { turnFrom(dst, x, d, 0, 0) }

// turnFrom is turn for rows from the first on and channels from c on.
func turnFrom[T Real](dst []T, x []float32, d, first, c int) {
	panel := Panel[T]()
	for l := first; l < len(x)/d; l++ {
		to := dst[l:]
		for i, v := range x[l*d:][c:d] {
			to[(c+i)*panel] = T(v)
		}
	}
}

// take is the portable Kernels.Take.
func take[T Real](dst []T, x []float32, d, c int) bool {
	panel := Panel[T]()
	width := min(panel, d-c)
	finite := true
	for j := range len(x) / d {
		row := dst[j*panel:][:width]
		for l, v := range x[j*d+c:][:width] {
			row[l] = T(v)
			finite = finite && v-v == 0
		}
	}
	return finite
}
