//go:build !purego

package vec

// Lanes says whether the level has the steps of a strip's softmax and sums.
func (l Level) Lanes() bool { return l != Portable }

// pick returns the kernel of the level, of the one for AVX-512 and the one for AVX2.
func pick[F any](l Level, full, avx2 F) F {
	if l == AVX2 {
		return avx2
	}
	return full
}

// word is c for the kernels: a value of MXCSR.
func (c Control) word() uint32 { return uint32(c) }

// ex2Operand is the table for the kernels.
func ex2Operand(t *Ex2Table) *uint32 { return &t.c0[0] }

// exponentGroup is how many weights laneExponents takes at a time.
const exponentGroup = 64
