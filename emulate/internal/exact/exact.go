// Package exact holds the vector kernels of arithmetic that a description has in place of a
// kernel's own where a step is to cause no error: sums in FP64, and 2^x rounded once. The portable
// Go of package emulate is the definition, which the kernels equal bit for bit.
//
// The kernels are generated: see folder asm (amd64) and package vec's asmarm64.
package exact

//go:generate go -C asm run . -out ../exact_amd64.s -stubs ../stubs_amd64.go -pkg exact
//go:generate go run ../vec/asmarm64 -pkg exact -out exact_arm64.s -stubs stubs_arm64.go

// Level is a set of instructions that kernels may use. The kernels are its methods; those of
// Portable panic.
type Level uint8

// Levels.
const (
	// Portable is pure Go, which has no kernels.
	Portable Level = iota
	// AVX2 needs AVX2 and FMA.
	AVX2
	// AVX512 needs AVX-512 F, BW, DQ and VL.
	AVX512
	// NEON needs arm64's Advanced SIMD.
	NEON
)

// String names the level.
func (l Level) String() string { return [...]string{"portable", "avx2", "avx512", "neon"}[l] }

// Lanes is the length of a row of what lies in lanes.
const Lanes = 64

// together is how many rows of the first operand of a sum lie together.
const together = 4

// Rows is the first operand of sums: rows of numbers, of which four lie together, a number of
// each after the other.
type Rows struct {
	x     []float64 // [groups][terms][together]
	terms int
}

// Load takes rows of terms numbers, at least one, each of which begins stride after the one before. It
// reports whether they are finite.
func (r *Rows) Load(x []float32, rows, terms, stride int) bool {
	r.terms = terms
	groups := (rows + together - 1) / together
	if n := groups * together * terms; cap(r.x) < n {
		r.x = make([]float64, n)
	} else {
		r.x = r.x[:n]
	}
	if rows%together != 0 {
		clear(r.x[(groups-1)*together*terms:])
	}
	ok := true
	for i := range rows {
		to := r.x[i/together*together*terms+i%together:]
		for j, v := range x[i*stride:][:terms] {
			to[j*together] = float64(v)
			ok = ok && v-v == 0
		}
	}
	return ok
}

// Sums is the length of a row of sums for each of so many rows: as many as whole groups have.
func Sums(rows int) int { return (rows + together - 1) / together * together * Lanes }

// Coefficients are what Exp2 takes: the 14 of a series, what its argument is multiplied by, and two
// factors that its sum is multiplied by, to see whether it decides the result.
type Coefficients [17]float64
