package vec

// Level is a set of instructions that kernels may use. The kernels are its
// methods; those of Portable panic, but for Turn and Pack.
type Level uint8

// Levels.
const (
	// Portable is pure Go: the definition, which has no kernels.
	Portable Level = iota
	// AVX2 needs AVX2, FMA and F16C.
	AVX2
	// AVX512 needs AVX-512 F, BW, DQ, VL, VBMI, VBMI2 and VNNI.
	AVX512
	// NEON needs arm64's Advanced SIMD with dot products (FEAT_DotProd).
	NEON
)

// String names the level.
func (l Level) String() string { return [...]string{"portable", "avx2", "avx512", "neon"}[l] }

// Rounding is what Quantize does.
type Rounding uint8

// Roundings of the quantisers.
const (
	// MultiplyAway multiplies, adds half of the sign and truncates.
	MultiplyAway Rounding = iota
	// MultiplyEven multiplies and rounds to nearest even.
	MultiplyEven
	// DivideEven divides and rounds to nearest even.
	DivideEven
)

// Scratch is memory for kernels. Its zero value is ready; it grows as needed.
type Scratch struct {
	e            []uint8   // [dim][Rows], exponents
	sums         []float32 // [dim][Rows], zero between calls
	magic        []float32 // [4][Rows]
	wide         []float64 // [dim][32], values of FP16
	wideQ, wideK []int16   // operands of QK as words
}

func grow[T any](s *[]T, n int) []T {
	if len(*s) < n {
		*s = make([]T, n)
	}
	return (*s)[:n]
}
