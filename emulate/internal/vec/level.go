package vec

// Level is a set of instructions that kernels may use.
type Level uint8

// Levels.
const (
	// Portable is pure Go: the definition.
	Portable Level = iota
	// AVX512 needs AVX-512 F, BW, DQ, VL, VBMI and VNNI.
	AVX512
)

// String names the level.
func (l Level) String() string { return [...]string{"portable", "avx512"}[l] }
