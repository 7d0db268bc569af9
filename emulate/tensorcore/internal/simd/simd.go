// Package simd holds the vector kernels of package tensorcore: chains of dot-adds for one
// row of a product and several columns in the lanes. The portable Go of tensorcore is the
// definition, which a kernel equals bit for bit where it says that an element is valid.
//
// The kernels are generated: see folder asm (amd64) and package vec's asmarm64.
package simd

import (
	"math"
	"slices"
)

//go:generate go -C asm run . -out ../simd_amd64.s -stubs ../stubs_amd64.go -pkg simd
//go:generate go run ../../../internal/vec/asmarm64 -pkg simd -out simd_arm64.s -stubs stubs_arm64.go

// Level is a set of instructions that kernels may use. The kernels are its methods; those of
// Portable panic.
type Level uint8

// Levels.
const (
	// Portable is pure Go, which has no kernels.
	Portable Level = iota
	// AVX2 needs AVX2, FMA and F16C.
	AVX2
	// AVX512 needs AVX-512 F, BW, DQ and VL.
	AVX512
	// NEON needs arm64's Advanced SIMD.
	NEON
)

// String names the level.
func (l Level) String() string { return [...]string{"portable", "avx2", "avx512", "neon"}[l] }

// Columns is how many columns Dot computes at once.
const Columns = 32

// A Chain says how Dot chains dot-adds: Instructions of Steps of Terms products each, of
// which Terms is even, with Fraction fraction bits. Half stands for an FP16 accumulator and
// results to nearest even; else they are FP32 toward zero, of which the bits of Keep remain.
// A Separate unit adds the products from zero, and the accumulator at the end of each
// instruction in one more rounding.
type Chain struct {
	Instructions, Steps, Terms int
	Fraction, Keep             uint32
	Half, Separate             bool
}

// Lanes is the length of a row of [Level.DotLanes]' second operand and of its sums.
const Lanes = 64

// Most is the largest magnitude of a sum that DotLanes takes, in units of the last place: any
// larger one may be another, 2^32 away. It is 0 if ordinary sums are beyond it, or the kernel
// does not take the chain. significand is as for Fits.
func (c *Chain) Most(significand float64) uint32 {
	if c.Instructions <= 0 || c.Steps <= 0 || c.Terms <= 0 || c.Terms%4 != 0 || c.Terms > 1<<20 || c.Fraction < 1 || c.Fraction > maxFraction {
		return 0
	}
	bound := (float64(float64(c.Terms)*significand) + 2) * float64(uint64(1)<<c.Fraction)
	if most := min(1<<31, 1<<32-math.Ceil(bound)) - 1; most >= 1<<30 {
		return uint32(most)
	}
	return 0
}

// A Format says which FP32 numbers are of an operand's format: those of at most Largest with no
// bits of Dropped that are whole when multiplied by Quanta. Least is the smallest exponent.
type Format struct {
	Least           int
	Dropped         uint32
	Quanta, Largest float32
}

// A Span is between which magnitudes numbers lie that are not zero: all are at least 2^Least and below
// 2^Most.
type Span struct{ Least, Most int }

// Span returns the format's, of numbers as the units see them, which have subnormal ones of no exponent
// below Least.
func (f *Format) Span() Span {
	_, most := math.Frexp(float64(f.Largest))
	return Span{f.Least, most}
}

// Bounded says whether no product of two operands is so large or so small that a sum of products, or the
// accumulator after one, would leave the exponents that the kernels take: they need not look then.
func (s Span) Bounded(t Span) bool {
	const (
		least = lowest + maxFraction // the last place of a sum is not below 2^lowest then
		most  = 60
	)
	return s.Least+t.Least >= least && s.Most+t.Most <= most
}

// lowest and highest are the exponents of a step's largest term that kernels of strips take.
const lowest, highest = -96, 100

// bounds are those of magnitudes, by lane: see the kernel.
type bounds [2][16]uint32

func (b *bounds) span() Span {
	least, most := slices.Min(b[0][:])+1, slices.Max(b[1][:])
	if most == 0 {
		return Span{}
	}
	const bias = 127
	return Span{int(least>>23) - bias, int(most>>23) - bias + 1}
}

// maxFraction keeps the smallest power of two that the kernel makes a normal number.
const maxFraction = 25

// Fits reports whether the kernel takes the chain for products whose significands are at
// most the given number: the integers that it adds stay below 2^31, which are half of the
// terms, each below significand * 2^Fraction, and the accumulator, whose significand is
// below 2.
func (c *Chain) Fits(significand float64) bool {
	return c.Instructions > 0 && c.Steps > 0 && c.Terms > 0 && c.Terms%2 == 0 && c.Terms <= 1<<20 &&
		c.Fraction >= 1 && c.Fraction <= maxFraction && (float64(float64(c.Terms/2)*significand)+2)*float64(uint64(1)<<c.Fraction) <= 1<<31
}

// FitsWide reports whether DotWide takes the chain: FP64 holds its sums, of operands whose significands are
// below 2.
func (c *Chain) FitsWide() bool {
	return c.Instructions > 0 && c.Steps > 0 && c.Terms > 0 && c.Terms%4 == 0 && c.Terms <= 1<<10 && c.Fraction >= 1 && c.Fraction <= 32
}

// Parts writes rows x of k numbers, of which there are an even number, as DotWide takes them: for each pair
// of rows and each k what of the two is above zero and below it, [rows/2][k][4].
func Parts(dst []float64, x []float32, rows, k, stride int) {
	for r := range rows {
		to := dst[r/2*4*k+r%2*2:]
		for i, v := range x[r*stride:][:k] {
			to[4*i], to[4*i+1] = max(0, float64(v)), min(0, float64(v))
		}
	}
}
